/* Finds the storage format of one linear layer from the tensors that exist under its name.
 *
 * The file decides: dtype, shape and companions. What a config says about quantisation is looked at for the
 * two things a file cannot tell: whether asymmetric GPTQ zeros carry an offset, and the size of groups or
 * blocks where the last one is not full. Stateless; any thread. SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_DETECT_H
#define QN_DETECT_H

#include "model/format.h"

#define QN_MAX_SCHEME 8

/* What the configuration says of sizes: candidates, each used only where it fits the shapes. */
struct qn_scheme {
    bool is_gptq_v2;             /* checkpoint_format gptq_v2 */
    int group[QN_MAX_SCHEME];    /* [n_group] */
    int block[QN_MAX_SCHEME][2]; /* [n_block] rows, columns */
    int n_group, n_block;
};

struct qn_detect {
    const struct qn_tensor *(*find)(void *ctx, const char *name); /* NULL when there is none */
    void *ctx;
    const struct qn_scheme *scheme; /* or NULL */
};

/* The layer under `stem` with logical shape [n_out, n_in]. Only with is_deep are data read (scale2,
 * zero_offset, g_idx): a large model has a hundred thousand layers, each a page away from the next. Errors:
 * QN_NOTFOUND (nothing under that name; names the tensor expected), QN_FORMAT (shape or dtype: tensor,
 * expected, found), QN_UNSUPPORTED (packed forms not read). */
int qn_detect_linear(const struct qn_detect *d, const char *stem, int n_out, int n_in, bool is_deep,
                     struct qn_linear *out, struct qn_err *e);

/* "U8 [512, 64]" */
const char *qn_tensor_text(const struct qn_tensor *t, char *out, size_t n);

#endif
