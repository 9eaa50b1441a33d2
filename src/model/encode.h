/* Writes a linear layer in one of the storage formats: the inverse of format.h.
 *
 * The layer comes in as rows of float and leaves as the tensors of the published layout, a block of rows at a
 * time, so memory is bounded by a block (AWQ and GPTQ, which store transposed: by the packed layer). Scales
 * are searched: several candidates a group, the one with the least squared error stays. Deterministic: the
 * same weights give the same bytes on every machine. Stateless; any thread.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_ENCODE_H
#define QN_ENCODE_H

#include "model/format.h"

#define QN_ENCODE_MAX_TENSOR 4

struct qn_store {
    const char *name; /* on the command line */
    enum qn_format format;
    bool is_ct;         /* names and conventions of compressed-tensors */
    const char *method; /* quantization_config.quant_method */
    const char *summary;
};

/* By name: bf16 nvfp4 nvfp4-ct fp8 fp8-channel fp8-tensor awq gptq int4-ct int8; NULL when unknown. */
const struct qn_store *qn_store_find(const char *name);
const struct qn_store *qn_store_at(int i); /* NULL after the last */

/* Whether this shape can be stored; *why names the reason otherwise. */
bool qn_encode_fits(const struct qn_store *s, int n_out, int n_in, int group, const char **why);

/* The tensors of one layer: names (malloc'ed, the caller frees), dtypes, shapes and sizes. Returns how many.
 */
int qn_encode_declare(const struct qn_store *s, const char *stem, int n_out, int n_in, int group,
                      struct qn_tensor out[QN_ENCODE_MAX_TENSOR]);

/* How rounding errors are made up for: the inverse of the inputs' second moments, factored. Columns are
 * rounded in `order`; an error e of the column at place i changes the later places j of its block by -e
 * u[i][j] / u[i][i]. */
struct qn_carry {
    int n_in, block; /* columns; errors stay within blocks of so many */
    int32_t *order;  /* [K] column at each place, a permutation within each block */
    float **u;       /* a block: [b, b], upper triangle; inverse of the moments = u^T u */
};

struct qn_encode {
    const struct qn_store *store;
    const char *name; /* for messages */
    int n_out, n_in;
    int group;                    /* of AWQ, GPTQ and int4-ct */
    bool search;                  /* false: round to nearest with the largest value at the end of the range */
    const float *importance;      /* [K] weights of the squared errors in the search; NULL: all 1 */
    const struct qn_carry *carry; /* NULL: each weight is rounded on its own */
    bool is_act_order;            /* GPTQ: groups of columns in the order of the carry (g_idx) */
    int (*rows)(void *ctx, int first, int n_row, float *out, struct qn_err *e);
    void *rows_ctx;
    /* bytes of tensor i at an offset into it */
    int (*put)(void *ctx, int i, size_t offset, const void *data, size_t n_byte, struct qn_err *e);
    void *put_ctx;
    double error, power; /* out: sums of (w - stored)^2 and of w^2 */
};

/* Errors: those of the callbacks; QN_FORMAT for a weight that is not finite. */
int qn_encode_linear(struct qn_encode *x, struct qn_err *e);

/* Replaces rows by the values AWQ's layout would store. */
void qn_encode_round(const struct qn_store *store, int group, float *w, int n_row, int n_in,
                     const float *importance);

#endif
