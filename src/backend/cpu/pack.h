/* Linear layers of the cpu back end: weights packed for streaming, in the format they are stored in.
 *
 * A packed layer is cut into tiles of QN_TILE outputs. Lanes of a vector run over the outputs of a tile, so K
 * runs sequentially, through accumulators whose number and order depend on the format and K alone. Hence a
 * row of y has the same bits whatever the number of rows, the tile range or the thread that ran it; within
 * one instruction set, that is: different sets may round differently.
 *
 *   BF16 activations   x rounded to BF16, products of exact BF16 weights summed in float in pairs of k
 *   F32 activations    x as it is, weights widened to float, one product at a time
 *
 * Scales. Per output row or tensor: applied once at the end. Per group of k: each group is summed on its own
 * from zero and added as scale * sum. So the weights that enter the dot products (E2M1 times E4M3 group scale
 * aside) are always exact: E2M1, E4M3, int4 - zero and int8 all fit BF16.
 *
 * Memory: the packed copy is within a few percent of the stored bytes. Made once by a loader thread, then
 * immutable; run from any thread on disjoint tile ranges. SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_PACK_H
#define QN_PACK_H

#include "backend/act.h"
#include "base/cpu.h"
#include "base/slab.h"

#define QN_TILE 16 /* outputs in a tile */

struct qn_packed;

/* Repacks a checkpoint view. The weights lie in `slab`, whose owner frees it after them; NULL: in memory of
 * their own. Errors: QN_UNSUPPORTED (a group size or shape no kernel serves), QN_FORMAT (a scale that is not
 * finite; names it), QN_NOMEM. */
int qn_packed_make(struct qn_packed **out, const struct qn_linear *l, enum qn_act act, enum qn_isa isa,
                   struct qn_slab *slab, struct qn_err *e);
/* The same in two parts: everything but the weights' codes, then the codes of tile ranges, by any thread. */
int qn_packed_begin(struct qn_packed **out, const struct qn_linear *l, enum qn_act act, enum qn_isa isa,
                    struct qn_slab *slab, struct qn_err *e);
void qn_packed_fill(struct qn_packed *p, const struct qn_linear *l, int first_tile, int end_tile);
void qn_packed_free(struct qn_packed *p); /* NULL is allowed */
size_t qn_packed_bytes(const struct qn_packed *p);
int qn_packed_n_in(const struct qn_packed *p);
int qn_packed_n_out(const struct qn_packed *p);
int qn_packed_n_tile(const struct qn_packed *p); /* units of work: 1 or 2 tiles */
int qn_packed_step(const struct qn_packed *p);   /* units that lie together: ranges of them stream best */

/* Row `row` of the weights as floats [K]: an embedding. */
void qn_packed_row(const struct qn_packed *p, int row, float *out);

/* Rows of activations as the kernels read them. x [n_row, K] -> act, qn_packed_act_bytes of it, 64-byte
 * aligned. One prepared block serves every layer with the same K; rows may also be prepared one at a time,
 * qn_packed_act_bytes (n_in, 1) apart. */
size_t qn_packed_act_bytes(int n_in, int n_row, enum qn_act act);
void qn_packed_act(enum qn_isa isa, enum qn_act act, const float *x, int n_in, int n_row, void *to);

/* A layer stored in act-order (GPTQ's g_idx) is packed with its groups together; its rows must come in the
 * same order. qn_packed_reorder makes such rows from prepared ones. */
bool qn_packed_has_order(const struct qn_packed *p);
bool qn_packed_is_int8(const struct qn_packed *p); /* reads activations in 8 bits */
void qn_packed_reorder(const struct qn_packed *p, const void *act, int n_row, void *to);

/* y[r * ldy + n] = sum_k x[r][k] W[n][k] for the outputs n of tiles [first_tile, end_tile). */
void qn_packed_run(const struct qn_packed *p, const void *act, int n_row, float *y, int ldy, int first_tile,
                   int end_tile);

#endif
