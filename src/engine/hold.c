/* Holding slot, lane and pages.
 * SPDX-License-Identifier: Apache-2.0 */
#include "engine/hold.h"

#include "base/mem.h"

static void make_space(struct qn_hold *h, int n)
{
    if (n <= h->capacity) return;
    h->capacity = QN_MAX(n, QN_MAX(16, h->capacity * 2));
    h->pages = xreallocarray(h->pages, (size_t)h->capacity, sizeof *h->pages);
}

static void drop_pages(struct qn_hold *h, struct qn_cache *c)
{
    while (h->n_page) qn_cache_drop_page(c, h->pages[--h->n_page]);
}

bool qn_hold_take(struct qn_hold *h, struct qn_cache *c, const struct qn_match *m, int n_tok)
{
    QN_CHECK(h->slot < 0 && h->lane < 0 && !h->n_page);
    int n_shared = m->n_tok / QN_PAGE;
    if (!qn_cache_lanes_left(c)) return false;
    if (QN_CEIL_DIV(n_tok + 1, QN_PAGE) - n_shared > qn_cache_pages_left(c)) return false;
    /* hold the prefix before anything is evicted for the rest */
    if (n_shared) {
        make_space(h, n_shared + 16);
        qn_cache_path(c, m->last, h->pages);
        h->n_page = n_shared;
        for (int i = 0; i < n_shared; i++) qn_cache_use_page(c, h->pages[i]);
    }
    if (m->slot >= 0) qn_cache_pin(c, m->slot, 1);
    h->slot = qn_cache_take_slot(c);
    bool fits = h->slot >= 0 && qn_hold_grow(h, c, n_tok + 1);
    if (m->slot >= 0) qn_cache_pin(c, m->slot, -1);
    if (!fits) {
        if (h->slot >= 0) qn_cache_drop_slot(c, h->slot);
        h->slot = -1;
        drop_pages(h, c);
        return false;
    }
    h->lane = qn_cache_take_lane(c);
    qn_cache_resume(c, m, n_tok, h->slot, h->pages[n_shared]);
    return true;
}

bool qn_hold_grow(struct qn_hold *h, struct qn_cache *c, int n_tok)
{
    while (h->n_page < QN_CEIL_DIV(n_tok, QN_PAGE)) {
        int page = qn_cache_take_page(c);
        if (page < 0) return false;
        make_space(h, h->n_page + 1);
        h->pages[h->n_page++] = page;
    }
    return true;
}

void qn_hold_share(struct qn_hold *h, struct qn_cache *c, int i, int page)
{
    qn_cache_use_page(c, page);
    qn_cache_drop_page(c, h->pages[i]);
    h->pages[i] = page;
}

void qn_hold_leave_slot(struct qn_hold *h, struct qn_cache *c, const struct qn_spot *at)
{
    if (at)
        qn_cache_give_snap(c, at, h->slot);
    else
        qn_cache_drop_slot(c, h->slot);
    h->slot = -1;
}

void qn_hold_drop(struct qn_hold *h, struct qn_cache *c)
{
    QN_CHECK(h->slot < 0);
    drop_pages(h, c);
    if (h->lane >= 0) qn_cache_drop_lane(c, h->lane);
    h->lane = -1;
}

void qn_hold_fini(struct qn_hold *h)
{
    QN_CHECK(h->slot < 0 && h->lane < 0 && !h->n_page);
    free(h->pages);
    *h = QN_HOLD_NONE;
}
