/* Ranks that are threads of one process: what they do together, over shared memory.
 *
 * Every rank calls the same verbs in the same order, each on its own thread; a call returns when the rank may
 * use its result and its buffer. Sums are taken in rank order, so that they have the same bits on all of
 * them and from run to run. Waiting threads spin for a moment, then sleep.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_LOCAL_H
#define QN_LOCAL_H

#include "base/base.h"

struct qn_local;

struct qn_local *qn_local_create(int n); /* 1 to 64 ranks */
void qn_local_free(struct qn_local *g);  /* with no rank inside; NULL is allowed */

void qn_local_barrier(struct qn_local *g, int rank);
/* p [n] of every rank becomes ((p_0 + p_1) + p_2) + ... */
void qn_local_sum(struct qn_local *g, int rank, float *p, size_t n);
/* Columns [first, first + n) of whole [n_row, width] of every rank become those of the rank's part
 * [n_row, n], for each rank's own first and n. */
struct qn_local_part {
    const float *part;
    int first, n;
};
void qn_local_gather(struct qn_local *g, int rank, struct qn_local_part own, int n_row, float *whole,
                     int width);
/* Lets every rank that waits, now or later, go on with results that mean nothing: a rank has failed. */
void qn_local_break(struct qn_local *g);
bool qn_local_is_broken(const struct qn_local *g);

#endif
