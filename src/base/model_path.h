/* What a user names as MODEL, resolved to what is read: a folder with config.json and safetensors files, or a
 * .gguf file.
 *
 *   a folder                    as it is, when it has a config.json; else the one model in .gguf files it
 * holds a .gguf file                that file; any part of a split set stands for its first models--ORG--NAME
 * a folder of the hub's cache: the snapshot refs/main names, or the only one
 *
 * Stateless; any thread. SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_MODEL_PATH_H
#define QN_MODEL_PATH_H

#include "base/err.h"

/* *out is the caller's to free. Errors: QN_NOTFOUND (with quern pull where it looks like a hub's name), QN_INVAL
 * (several models in the folder: names them; a file that is no model). A folder that holds neither comes back as
 * it is: its reader says what is missing. */
int qn_model_path_resolve(const char *path, char **out, struct qn_err *e);
/* Fails with what a folder without config.json is instead: an adapter, a folder of models, half a download. */
int qn_model_path_no_config(const char *folder, struct qn_err *e);
bool qn_model_path_is_gguf(const char *path); /* ends in .gguf */
/* What to call the model: the last part of the path, without .gguf and the number of a part; the name of a
 * hub's cache folder without its owner. The caller frees it. */
char *qn_model_path_name(const char *path);

#endif
