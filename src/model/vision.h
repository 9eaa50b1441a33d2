/* The vision tower of a checkpoint: its numbers and views of its tensors, for backend/tower.h.
 *
 * Read from config.json's vision_config and the tensors under "visual." with any prefix. Weights are BF16,
 * F16 or F32, whatever the text has. Views borrow the mapped files and live as long as the qn_model.
 * Immutable; any thread. SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_VISION_H
#define QN_VISION_H

#include "model/format.h"

struct qn_model;

struct qn_vision_norm {
    struct qn_tensor weight, bias; /* [H] */
};

struct qn_vision_linear {
    struct qn_linear l;    /* [N, K] */
    struct qn_tensor bias; /* [N] */
};

struct qn_vision_block {
    struct qn_vision_norm norm1, norm2;
    struct qn_vision_linear qkv, proj; /* [3H, H], [H, H] */
    struct qn_vision_linear fc1, fc2;  /* [I, H], [H, I] */
};

struct qn_vision {
    int depth, hidden, n_head, ffn, out; /* [H] [nh] [I] [O], O: hidden size of the text */
    int patch, temporal, merge;          /* 16, 2, 2 */
    int patch_in;                        /* 3 * temporal * patch * patch */
    int side;                            /* of the position table */
    double theta;
    float eps;
    struct qn_vision_linear patch_embed; /* [H, patch_in] */
    struct qn_tensor pos;                /* [side * side, H] */
    struct qn_vision_block *blocks;      /* [depth] */
    struct qn_vision_norm merger_norm;
    struct qn_vision_linear merger_fc1, merger_fc2; /* [4H, 4H], [O, 4H] */
    size_t n_byte;                                  /* of all tensors in the files */
    int image_tok, video_tok, start_tok, end_tok;   /* ids of the placeholders and what stands around them */
};

/* Errors: QN_NOTFOUND (the checkpoint has no tower: no vision_config or no tensors), QN_FORMAT (a tensor is
 * missing or has another shape; named), QN_UNSUPPORTED (a format or option that is not built). */
int qn_vision_open(struct qn_vision **out, const struct qn_model *m, struct qn_err *e);
void qn_vision_close(struct qn_vision *v);

#endif
