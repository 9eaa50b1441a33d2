/* Worker threads and a parallel-for with low latency.
 *
 * The calling thread takes part. Each thread has a share of neighbouring items, so that it streams through
 * what they read; a thread that is done takes single items from the ends of the others' shares, so one that
 * is held up elsewhere costs at most its own item. Results must not depend on who runs what. Between runs the
 * workers spin briefly, then sleep: an idle pool costs no CPU. One caller at a time; never from inside an
 * item. SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_POOL_H
#define QN_POOL_H

#include "base/base.h"

struct qn_pool;

/* n_thread counts the caller: 1 makes no threads, 0 means one per physical core. Workers are pinned to one
 * CPU each when the pool is as wide as the machine and there are at least four; QUERN_PIN=0|1 decides
 * otherwise. */
struct qn_pool *qn_pool_create(int n_thread);
void qn_pool_free(struct qn_pool *p);
int qn_pool_n_thread(const struct qn_pool *p);

/* Runs fn(ctx, item, thread) for item 0..n_item-1; thread is 0 (the caller) .. n_thread-1. Returns when all
 * are done; what the items wrote is visible to the caller. */
void qn_pool_run(struct qn_pool *p, int n_item, void (*fn)(void *ctx, int item, int thread), void *ctx);

#endif
