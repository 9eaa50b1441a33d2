/* Value heads of the delta net in two orders: a checkpoint groups them by key head, a GGUF file tiles them.
 * Head j of the file is head (j mod NK) R + j / NK of the checkpoint, R = NV / NK. Rows and values of one
 * order from the other. Stateless; any thread. SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_HEADS_H
#define QN_HEADS_H

#include "model/roles.h"

/* Where row n of a layer in the wanted order lies in the model's own order; n for layers without value heads.
 */
int qn_heads_row(const struct qn_config *c, bool want_tiled, enum qn_role role, int n);
/* The same for the columns of the delta net's output. */
int qn_heads_column(const struct qn_config *c, bool want_tiled, enum qn_role role, int k);
/* Rows [first, first + n) of a layer in the wanted order, [n, K] floats. */
int qn_heads_read(const struct qn_model *m, bool want_tiled, const struct qn_linear *l, enum qn_role role,
                  int first, int n, float *out, struct qn_err *e);
/* A small tensor in the wanted order, n values. */
int qn_heads_vec(const struct qn_model *m, bool want_tiled, enum qn_vec vec, int layer, float *out, size_t n,
                 struct qn_err *e);

#endif
