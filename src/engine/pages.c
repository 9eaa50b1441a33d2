/* Page pool.
 * SPDX-License-Identifier: Apache-2.0 */
#include "engine/pages.h"

#include "base/mem.h"

void qn_pages_init(struct qn_pages *p, int n)
{
    QN_CHECK(n > 0);
    *p = (struct qn_pages){.n = n, .n_free = n};
    p->free = xcalloc((size_t)n, sizeof *p->free);
    p->n_holder = xcalloc((size_t)n, sizeof *p->n_holder);
    for (int i = 0; i < n; i++) p->free[i] = i;
}

void qn_pages_fini(struct qn_pages *p)
{
    free(p->free);
    free(p->n_holder);
    *p = (struct qn_pages){0};
}

int qn_pages_acquire(struct qn_pages *p)
{
    if (!p->n_free) return -1;
    int page = p->free[p->first_free];
    p->first_free = (p->first_free + 1) % p->n;
    p->n_free--;
    QN_CHECK(p->n_holder[page] == 0);
    p->n_holder[page] = 1;
    p->n_hold++;
    return page;
}

void qn_pages_hold(struct qn_pages *p, int page)
{
    QN_CHECK(page >= 0 && page < p->n && p->n_holder[page] > 0);
    p->n_holder[page]++;
    p->n_hold++;
}

void qn_pages_release(struct qn_pages *p, int page)
{
    QN_CHECK(page >= 0 && page < p->n && p->n_holder[page] > 0);
    p->n_hold--;
    if (--p->n_holder[page]) return;
    p->free[(p->first_free + p->n_free) % p->n] = page;
    p->n_free++;
}

void qn_pages_check(const struct qn_pages *p, const int32_t *n_holder)
{
    unsigned char *is_free = xcalloc((size_t)p->n, 1);
    int64_t n_hold = 0;
    for (int i = 0; i < p->n_free; i++) {
        int page = p->free[(p->first_free + i) % p->n];
        QN_CHECK(!is_free[page]);
        is_free[page] = 1;
    }
    for (int i = 0; i < p->n; i++) {
        QN_CHECK(p->n_holder[i] == n_holder[i]);
        n_hold += n_holder[i];
        QN_CHECK(is_free[i] == (p->n_holder[i] == 0));
    }
    QN_CHECK(n_hold == p->n_hold);
    free(is_free);
}
