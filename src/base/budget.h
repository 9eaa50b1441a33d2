/* Memory of requests: one budget for the process, a share of it for each request.
 *
 * A share is a number. Growing buffers, arenas and lists of ids take their bytes from the share their thread
 * works for (qn_share_use) and remember its number, so that they can give them back from any thread. What a
 * share still holds when it is closed goes back at once; giving to a closed share does nothing. So nothing is
 * counted twice and nothing leaks, whoever frees what when.
 *
 * A share may first set bytes aside (admission): takings come out of these before they come out of the
 * budget. Share 0 is nobody's: all that is not a request. It is neither counted nor bounded.
 *
 * Locks for itself, for moments; any thread.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_BUDGET_H
#define QN_BUDGET_H

#include "base/base.h"

typedef uint64_t qn_share; /* 0: nobody's */

/* Why a share did not get what it asked for. */
enum qn_short {
    QN_SHORT_NOT,
    QN_SHORT_SHARE,  /* more than one request may have */
    QN_SHORT_BUDGET, /* others have it */
    QN_SHORT_SYSTEM, /* the system gives none */
};

struct qn_budget {
    size_t total, each; /* of all requests, of one; 0: no bound */
    size_t used, most;  /* now, and the most there was */
    int n_share;
};

/* At start. A request that holds more than a MiB leaves the last eighth of the total to smaller ones. */
void qn_budget_set(size_t total, size_t each);
void qn_budget_get(struct qn_budget *out);

qn_share qn_share_open(void); /* 0 when there is no memory for one more */
void qn_share_close(qn_share s);
/* Sets bytes aside. */
enum qn_short qn_share_reserve(qn_share s, size_t n_byte);
/* Takes and gives; a refusal is remembered. */
bool qn_share_take(qn_share s, size_t n_byte);
void qn_share_give(qn_share s, size_t n_byte);
/* An allocation of n bytes failed although the budget has them. */
void qn_share_failed(qn_share s, size_t n_byte);
/* The first refusal, what the share held then and had asked for on top. */
enum qn_short qn_share_short(qn_share s, size_t *held, size_t *asked);
size_t qn_share_used(qn_share s);

/* The share this thread works for from now on; returns the one before. */
qn_share qn_share_use(qn_share s);
qn_share qn_share_mine(void);

/* Grows an array from *capacity to at least n entries of size bytes, by half or more; taken from this
 * thread's share. False: the array is as it was. Freed with free(). */
bool qn_grow(void *array, size_t *capacity, size_t n, size_t size);

#endif
