/* A shard: what one of several ranks holds of a model (tensor parallel).
 *
 *   attention   heads of queries and their gates; KV heads with them, or one that several ranks share
 *   delta net   value heads with their key heads (or one that several ranks share), their channels of the
 *               convolution
 *   MLP, experts, shared expert   a part of the width, aligned to what quantised blocks want
 *   embedding, head   a part of the vocabulary
 *   norms, router, shared gate, the draft layer's stem   whole
 *
 * Layers whose inputs are cut give partial sums, which the ranks add in rank order. The parts of all ranks
 * together are the model. Immutable after init; any thread. SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_SHARD_H
#define QN_SHARD_H

#include "model/checkpoint.h"
#include "model/slice.h"

struct qn_shard {
    int rank, n; /* this one, of n */
    struct qn_config whole;
    struct qn_config config; /* the shard's own: heads and widths of the part; vocab and hidden are whole */
    struct qn_range vocab;   /* ids whose rows of embedding and head it has */
};

/* Errors: QN_UNSUPPORTED: heads cannot be shared out over n ranks; names the numbers that fit. */
int qn_shard_init(struct qn_shard *s, const struct qn_config *whole, int rank, int n, struct qn_err *e);
/* Can the heads of a model be shared out over n ranks? */
bool qn_shard_fits(const struct qn_config *whole, int n);

/* What is cut out of the model's layer of a role: n_range 0 and in.n 0 for a whole one. */
void qn_shard_cut(const struct qn_shard *s, enum qn_role role, struct qn_cut *out);
/* As qn_model_vec, the shard's part. n: values of the part. */
int qn_shard_vec(const struct qn_shard *s, const struct qn_model *m, enum qn_vec vec, int layer, float *out,
                 size_t n, struct qn_err *e);
/* Bytes of the shard's linear layers in the files. */
size_t qn_shard_bytes(const struct qn_shard *s, const struct qn_linear *whole, enum qn_role role);

#endif
