/* The small JSON files of a published checkpoint, written from the metadata of a GGUF file of the family.
 *
 * A GGUF file stands for a folder: what its metadata say is put as config.json, generation_config.json,
 * tokenizer.json and tokenizer_config.json would say it, and read by the readers of those. Both the text side
 * and the model side do so, which is why this lives here. Stateless; any thread.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_GGUF_JSON_H
#define QN_GGUF_JSON_H

#include "base/buf.h"
#include "base/gguf.h"

#define QN_GGUF_JSON_MAX ((size_t)256 << 20) /* bytes of one such file */

/* Errors: QN_UNSUPPORTED (another architecture or kind of file, naming what to take), QN_FORMAT (a key that
 * is missing or has the wrong type). *is_moe may be NULL. */
int qn_gguf_check_model(const struct qn_gguf *g, bool *is_moe, struct qn_err *e);

int qn_gguf_config_json(const struct qn_gguf_set *set, struct qn_buf *out, struct qn_err *e);
int qn_gguf_generation_json(const struct qn_gguf *g, struct qn_buf *out, struct qn_err *e);
int qn_gguf_tokenizer_json(const struct qn_gguf *g, struct qn_buf *out, struct qn_err *e);
int qn_gguf_tokenizer_config_json(const struct qn_gguf *g, struct qn_buf *out, struct qn_err *e);

/* A whole number of the architecture: key "qwen35.KEY" or "qwen35moe.KEY". False when it is not there. */
bool qn_gguf_arch_int(const struct qn_gguf *g, const char *key, int64_t *out);
/* Layers without and with MTP: block_count counts both. */
int qn_gguf_layers(const struct qn_gguf *g, int *n_layer, int *n_mtp, struct qn_err *e);

#endif
