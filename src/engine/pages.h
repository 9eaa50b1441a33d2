/* Page pool: fixed-size KV pages with reference counts.
 * Owned by the engine thread; no locking. A holder is a list that names the page: a sequence's page table,
 * the prefix tree, a snapshot's tail. A page without a holder is free, and free pages are handed out oldest
 * first. SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_PAGES_H
#define QN_PAGES_H

#include "base/base.h"

struct qn_pages {
    int n, n_free;
    int first_free;    /* place of the oldest in the ring of free pages */
    int32_t *free;     /* [n] */
    int32_t *n_holder; /* [n] */
    int64_t n_hold;    /* their sum */
};

void qn_pages_init(struct qn_pages *p, int n);
void qn_pages_fini(struct qn_pages *p);
int qn_pages_acquire(struct qn_pages *p); /* with one holder; -1 when none is free */
void qn_pages_hold(struct qn_pages *p, int page);
void qn_pages_release(struct qn_pages *p, int page);
static inline int qn_pages_holders(const struct qn_pages *p, int page)
{
    return p->n_holder[page];
}
/* Stops the process unless n_holder equals the counts given and the rest is free, each once. */
void qn_pages_check(const struct qn_pages *p, const int32_t *n_holder);

#endif
