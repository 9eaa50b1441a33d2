/* The safetensors files of a folder: which of them make the model, and their tensors.
 *
 * As in transformers: model.safetensors alone when it is there (unless an index names it among others), else
 * the files that model.safetensors.index.json names, else every file of the folder. Beside these, files that
 * hold what the model lacks - draft layers, a vision tower - are read for that alone. Each choice is a line.
 * Owned by the checkpoint; immutable once open. SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_SHARDS_H
#define QN_SHARDS_H

#include "model/format.h"
#include "model/notes.h"
#include "model/safetensors.h"

struct qn_shards {
    struct qn_safetensors **files; /* [n] */
    char **names;                  /* [n] in the folder */
    int n;
    bool is_mlx; /* __metadata__ says so */
};

/* What the files hold, each name once. */
struct qn_tensors {
    struct qn_tensor *list; /* [n] */
    int *file_of;           /* [n] */
    int n;
};

/* Errors: QN_NOTFOUND (folder, file, shard of the index; says what else lies there), QN_FORMAT, QN_TOOBIG. */
int qn_shards_open(struct qn_shards *s, const char *folder, struct qn_tensors *out, struct qn_notes *notes,
                   struct qn_err *e);
void qn_shards_close(struct qn_shards *s);
void qn_tensors_free(struct qn_tensors *t);

/* A draft layer's tensor, or one of the vision tower, under any prefix. */
bool qn_is_mtp_name(const char *name);
bool qn_is_vision_name(const char *name);

#endif
