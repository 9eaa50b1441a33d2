/* Statistics of the rows that go into linear layers, for a quantiser that weighs its errors with them: second
 * moments of the inputs, and some rows as they were.
 *
 * Moments are kept within blocks of at most QN_STATS_BLOCK columns, so memory is 4 K * min(K, 4096) bytes.
 * Rows come from one thread; the sums are made by a pool, in an order fixed by the rows alone.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_STATS_H
#define QN_STATS_H

#include "base/pool.h"
#include "model/encode.h"

#define QN_STATS_BLOCK 4096

struct qn_stats;

/* sample_every: of the rows that come, one in so many is kept, up to max_sample. NULL without memory. */
struct qn_stats *qn_stats_create(int n_in, bool has_moments, int max_sample, int sample_every);
void qn_stats_free(struct qn_stats *s);
void qn_stats_add(struct qn_stats *s, const float *rows, int n_row, struct qn_pool *pool);
void qn_stats_finish(struct qn_stats *s, struct qn_pool *pool); /* after the last row */

int qn_stats_n_in(const struct qn_stats *s);
int64_t qn_stats_n_row(const struct qn_stats *s);
/* Mean square of each column, [K]. */
const float *qn_stats_power(const struct qn_stats *s);
/* The rows kept, [*n, K]. */
const float *qn_stats_sample(const struct qn_stats *s, int *n);

/* Factors the moments of x / scale (scale [K] or NULL) for qn_encode: columns by falling power within a
 * block, or in their own order. With fewer rows than columns the moments are mixed with their diagonal. NULL
 * without moments, rows or memory. */
struct qn_carry *qn_stats_carry(const struct qn_stats *s, const float *scale, bool by_power);
void qn_carry_free(struct qn_carry *c);

#endif
