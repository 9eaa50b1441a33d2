/* The hybrid prefix cache.
 *
 * What leaves, and when. Pages and slots are both given out until none is free; then something known leaves.
 *
 *   A page is wanted   The page used longest ago goes, of those that nobody uses, that are the end of a path
 *                      and whose snapshots nobody is copying from. A use of a prefix is a use of its whole
 *                      path, the deepest page first, so an ancestor is never older than what hangs on it and
 *                      paths shrink from their ends. Its snapshots go with it: without its page they resume
 *                      nothing. Where only tails of snapshots are idle, the snapshot worth least goes.
 *   A slot is wanted   The snapshot worth least goes. Its worth is the tokens it saves over the next one up
 *                      its path, times one more than its hits, halved every SCORE_HALFLIFE admissions since
 *                      its last use: time is counted in admissions, as an idle cache does not age.
 *   A snapshot is made  ... only if it is worth more than the one that would leave for it: its tokens.
 *
 * So a long prefix that many resume from stays, a long one asked once gives way to it, and a snapshot close
 * behind another is worth little. Before one leaves that the tiers do not have, they are told (on_evict).
 * Keys of pages that left are remembered for a while, so that a miss can be explained.
 * SPDX-License-Identifier: Apache-2.0 */
#include "engine/cache.h"

#include <math.h>

#include "base/mem.h"
#include "engine/pages.h"
#include "engine/slots.h"

#define SCORE_HALFLIFE 64.0 /* admissions */

struct qn_cache {
    struct qn_pages pages;
    struct qn_slots slots;
    struct qn_chores *chores;
    bool is_off;
    uint64_t fingerprint;
    struct qn_tree tree;
    int n_idle;           /* pages with holders and without users */
    int n_tail;           /* snapshots with a tail page */
    int64_t n_use;        /* sum of the users of all pages */
    int32_t *n_user;      /* [n_page] sequences that use it */
    struct qn_snap *snap; /* [n_slot] */
    int64_t clock;        /* admissions */
    uint64_t version;
    struct qn_cache_stats stats; /* but for the numbers of pages and slots */
    void (*on_evict)(void *user, int slot);
    void *user;
};

struct qn_cache *qn_cache_create(const struct qn_cache_options *o)
{
    struct qn_cache *c = xcalloc(1, sizeof *c);
    *c = (struct qn_cache){
        .chores = o->chores, .is_off = o->is_off, .fingerprint = o->fingerprint, .version = 1};
    qn_pages_init(&c->pages, o->n_page);
    qn_slots_init(&c->slots, o->n_slot, o->n_lane);
    c->n_user = xcalloc((size_t)o->n_page, sizeof *c->n_user);
    qn_tree_init(&c->tree, o->n_page);
    c->snap = xcalloc((size_t)o->n_slot, sizeof *c->snap);
    return c;
}

void qn_cache_free(struct qn_cache *c)
{
    if (!c) return;
    for (int i = 0; i < c->slots.n; i++) free(c->snap[i].media);
    free(c->n_user);
    free(c->snap);
    qn_tree_fini(&c->tree);
    qn_pages_fini(&c->pages);
    qn_slots_fini(&c->slots);
    free(c);
}

void qn_cache_on_evict(struct qn_cache *c, void (*f)(void *user, int slot), void *user)
{
    c->on_evict = f;
    c->user = user;
}

/* --- looking --- */

bool qn_cache_is_off(const struct qn_cache *c)
{
    return c->is_off;
}

int64_t qn_cache_clock(const struct qn_cache *c)
{
    return c->clock;
}

uint64_t qn_cache_version(const struct qn_cache *c)
{
    return c->version;
}

void qn_cache_stats(const struct qn_cache *c, struct qn_cache_stats *out)
{
    *out = c->stats;
    out->n_page = c->pages.n;
    out->n_page_free = c->pages.n_free;
    out->n_page_idle = c->n_idle;
    out->n_slot = c->slots.n;
    out->n_slot_live = c->slots.n_live;
    out->n_slot_snapshot = c->slots.n_snapshot;
}

const struct qn_node *qn_cache_node(const struct qn_cache *c, int page)
{
    return &c->tree.node[page];
}

struct qn_words qn_cache_words(const struct qn_cache *c, int page)
{
    return qn_tree_words(&c->tree, page);
}

const struct qn_snap *qn_cache_snap(const struct qn_cache *c, int slot)
{
    return &c->snap[slot];
}

bool qn_cache_has_key(const struct qn_cache *c, uint64_t key)
{
    return qn_map_get(&c->tree.by_key, key, NULL);
}

int qn_cache_unstored(const struct qn_cache *c, bool is_oldest)
{
    int best = -1;
    for (int i = 0; i < c->slots.n; i++) {
        const struct qn_snap *s = &c->snap[i];
        if (!s->is_used || s->is_stored) continue;
        int64_t newer_by = best < 0 ? 0 : s->last_use - c->snap[best].last_use;
        if (best < 0 || (is_oldest ? newer_by < 0 : newer_by > 0)) best = i;
    }
    return best;
}

void qn_cache_set_stored(struct qn_cache *c, int slot)
{
    QN_CHECK(c->snap[slot].is_used);
    c->snap[slot].is_stored = true;
}

/* --- holders and users --- */

/* Takes a holder away and keeps n_idle true. */
static void unhold(struct qn_cache *c, int page)
{
    qn_pages_release(&c->pages, page);
    if (!qn_pages_holders(&c->pages, page)) {
        QN_CHECK(c->n_user[page] == 0);
        c->n_idle--;
    }
}

void qn_cache_use_page(struct qn_cache *c, int page)
{
    qn_pages_hold(&c->pages, page);
    c->n_use++;
    if (c->n_user[page]++ == 0) c->n_idle--;
}

void qn_cache_drop_page(struct qn_cache *c, int page)
{
    QN_CHECK(c->n_user[page] > 0);
    c->n_use--;
    if (--c->n_user[page] == 0) c->n_idle++;
    unhold(c, page);
}

int qn_cache_pages_left(const struct qn_cache *c)
{
    return c->pages.n_free + c->n_idle;
}

/* A use of the path that ends in `last`, and of a snapshot (or -1). */
static void touch(struct qn_cache *c, int last, int slot)
{
    qn_tree_touch(&c->tree, last);
    if (slot < 0) return;
    c->snap[slot].n_hit++;
    c->snap[slot].last_use = c->clock;
}

/* --- eviction --- */

void qn_cache_evict_snap(struct qn_cache *c, int slot)
{
    struct qn_snap *s = &c->snap[slot];
    QN_CHECK(s->is_used && !s->n_pin);
    if (c->on_evict && !s->is_stored) c->on_evict(c->user, slot);
    if (s->prev >= 0)
        c->snap[s->prev].next = s->next;
    else
        *qn_tree_snaps(&c->tree, s->parent) = s->next;
    if (s->next >= 0) c->snap[s->next].prev = s->prev;
    if (s->parent >= 0) c->tree.node[s->parent].lost_snap = true;
    if (s->tail_page >= 0) {
        c->n_tail--;
        unhold(c, s->tail_page);
    }
    free(s->media);
    s->media = NULL;
    s->is_used = false;
    qn_slots_release(&c->slots, slot);
    c->version++;
    c->stats.n_snap_evicted++;
}

void qn_cache_evict_node(struct qn_cache *c, int page)
{
    struct qn_node *n = &c->tree.node[page];
    QN_CHECK(n->key && n->first_child < 0 && c->n_user[page] == 0);
    while (n->first_snap >= 0) qn_cache_evict_snap(c, n->first_snap);
    qn_tree_remove(&c->tree, page);
    c->version++;
    c->stats.n_node_evicted++;
    unhold(c, page);
}

static bool has_pinned_snap(const struct qn_cache *c, int page)
{
    for (int s = c->tree.node[page].first_snap; s >= 0; s = c->snap[s].next)
        if (c->snap[s].n_pin) return true;
    return false;
}

/* Worth of a snapshot: tokens it saves over the next one up the path, hits, decayed by admissions. */
static double score(const struct qn_cache *c, int slot)
{
    const struct qn_snap *s = &c->snap[slot];
    int saved = s->n_tok;
    for (int page = s->parent; page >= 0 && saved == s->n_tok; page = c->tree.node[page].parent)
        for (int k = c->tree.node[page].first_snap; k >= 0; k = c->snap[k].next)
            if (c->snap[k].n_tok < s->n_tok) saved = QN_MIN(saved, s->n_tok - c->snap[k].n_tok);
    return saved * (1.0 + s->n_hit) * exp2(-(double)(c->clock - s->last_use) / SCORE_HALFLIFE);
}

/* The snapshot worth least; -1 when all are pinned. */
static int worst_snap(const struct qn_cache *c, bool with_idle_tail, double *out)
{
    int worst = -1;
    double least = 0;
    for (int i = 0; i < c->slots.n; i++) {
        const struct qn_snap *s = &c->snap[i];
        if (!s->is_used || s->n_pin) continue;
        if (with_idle_tail && (s->tail_page < 0 || c->n_user[s->tail_page])) continue;
        double worth = score(c, i);
        if (worst >= 0 && worth >= least) continue;
        worst = i;
        least = worth;
    }
    if (out) *out = least;
    return worst;
}

/* Makes at least one page free, when one is idle. */
static bool evict_page(struct qn_cache *c)
{
    while (!c->pages.n_free && c->n_idle) {
        int page = c->tree.oldest;
        while (page >= 0 &&
               (c->n_user[page] || c->tree.node[page].first_child >= 0 || has_pinned_snap(c, page)))
            page = c->tree.node[page].newer;
        if (page >= 0) {
            qn_cache_evict_node(c, page);
            continue;
        }
        int slot = worst_snap(c, true, NULL); /* only tails are idle */
        if (slot < 0) return false;
        qn_cache_evict_snap(c, slot);
    }
    return c->pages.n_free > 0;
}

int qn_cache_take_page(struct qn_cache *c)
{
    if (!evict_page(c)) return -1;
    int page = qn_pages_acquire(&c->pages);
    c->n_user[page] = 1;
    c->n_use++;
    return page;
}

int qn_cache_take_slot(struct qn_cache *c)
{
    if (!c->slots.n_free) {
        int slot = worst_snap(c, false, NULL);
        if (slot < 0) return -1;
        qn_cache_evict_snap(c, slot);
    }
    return qn_slots_acquire(&c->slots, QN_SLOT_LIVE);
}

void qn_cache_drop_slot(struct qn_cache *c, int slot)
{
    qn_slots_release(&c->slots, slot);
}

int qn_cache_lanes_left(const struct qn_cache *c)
{
    return c->slots.n_free_lane;
}

int qn_cache_take_lane(struct qn_cache *c)
{
    return qn_slots_acquire_lane(&c->slots);
}

void qn_cache_drop_lane(struct qn_cache *c, int lane)
{
    qn_slots_release_lane(&c->slots, lane);
}

/* --- chores --- */

void qn_cache_fold(struct qn_cache *c, int slot, int lane, int n_commit)
{
    qn_chores_add(c->chores,
                  (struct qn_chore){.kind = QN_CHORE_STATE_FLUSH, .from = lane, .to = slot, .n = n_commit});
}

void qn_cache_read_page(struct qn_cache *c, int page, void *to)
{
    qn_chores_add(c->chores, (struct qn_chore){.kind = QN_CHORE_KV_READ, .from = page, .host = to});
}

void qn_cache_write_page(struct qn_cache *c, int page, void *from)
{
    qn_chores_add(c->chores, (struct qn_chore){.kind = QN_CHORE_KV_WRITE, .to = page, .host = from});
}

void qn_cache_read_slot(struct qn_cache *c, int slot, void *to)
{
    qn_chores_add(c->chores, (struct qn_chore){.kind = QN_CHORE_STATE_READ, .from = slot, .host = to});
}

void qn_cache_write_slot(struct qn_cache *c, int slot, void *from)
{
    qn_chores_add(c->chores, (struct qn_chore){.kind = QN_CHORE_STATE_WRITE, .to = slot, .host = from});
}

/* --- matching --- */

uint64_t qn_cache_root(const struct qn_cache *c, uint64_t salt)
{
    uint64_t root = qn_mix64(c->fingerprint ^ qn_mix64(salt));
    return root ? root : 1;
}

int qn_cache_find_node(const struct qn_cache *c, const struct qn_prefix *p, int parent)
{
    return qn_tree_find(&c->tree, p, parent);
}

/* Is the snapshot one of p, tail and all? done: tokens before the tail. */
static bool has_tail(const struct qn_snap *s, const struct qn_prefix *p, int done)
{
    int tail = s->n_tok - done;
    struct qn_words words = {s->tail, s->media};
    return s->root == p->root && s->n_tok <= p->n && qn_prefix_common(p, done, &words, tail) == tail;
}

/* How far into the page behind node `at` somebody else went: full pages, then tails. */
static int common_next(struct qn_cache *c, const struct qn_prefix *p, int at)
{
    int most = qn_tree_common(&c->tree, p, at), done = qn_tree_depth(&c->tree, at) * QN_PAGE;
    for (int s = *qn_tree_snaps(&c->tree, at); s >= 0; s = c->snap[s].next) {
        const struct qn_snap *snap = &c->snap[s];
        struct qn_words words = {snap->tail, snap->media};
        if (snap->root == p->root)
            most = QN_MAX(most, qn_prefix_common(p, done, &words, QN_MIN(snap->n_tok - done, p->n - done)));
    }
    return most;
}

/* Why less is resumed from than could be, or NULL. most: as common_next tells. */
static const char *explain(struct qn_cache *c, const struct qn_prefix *p, const struct qn_match *m, int most)
{
    int done = qn_tree_depth(&c->tree, m->end) * QN_PAGE;
    if (p->n - done >= QN_PAGE && most < QN_PAGE && qn_tree_was_lost(&c->tree, p, m->end))
        return "pages of this prefix were evicted";
    if (m->n_match <= m->n_tok + 1 || m->n_tok >= p->n - 1) return NULL;
    for (int page = m->end; page >= 0 && page != m->last; page = c->tree.node[page].parent)
        if (c->tree.node[page].lost_snap) return "the state snapshot of this prefix was evicted";
    return "no state snapshot where this prompt leaves the known one";
}

void qn_cache_match(struct qn_cache *c, const struct qn_prefix *p, struct qn_match *out)
{
    *out = (struct qn_match){.slot = -1, .last = -1, .end = -1};
    c->stats.n_match++;
    if (c->is_off) {
        out->miss = "the prefix cache is off";
        return;
    }
    int at = -1, done = 0;
    for (;;) {
        for (int s = *qn_tree_snaps(&c->tree, at); s >= 0; s = c->snap[s].next) { /* behind this node */
            const struct qn_snap *snap = &c->snap[s];
            if (snap->n_tok >= p->n || snap->n_tok <= out->n_tok || !has_tail(snap, p, done)) continue;
            out->slot = s;
            out->n_tok = snap->n_tok;
            out->last = at;
        }
        int next = p->n - done >= QN_PAGE ? qn_cache_find_node(c, p, at) : -1;
        if (next < 0) break;
        at = next;
        done += QN_PAGE;
    }
    int most = common_next(c, p, at);
    out->n_match = done + most;
    out->end = at;
    out->miss = explain(c, p, out, most);
}

void qn_cache_path(const struct qn_cache *c, int last, int32_t *pages)
{
    for (int page = last; page >= 0; page = c->tree.node[page].parent) pages[c->tree.node[page].depth] = page;
}

void qn_cache_pin(struct qn_cache *c, int slot, int by)
{
    c->snap[slot].n_pin += by;
    QN_CHECK(c->snap[slot].is_used && c->snap[slot].n_pin >= 0);
}

void qn_cache_resume(struct qn_cache *c, const struct qn_match *m, int n_tok, int slot, int tail_page)
{
    c->clock++;
    c->stats.n_query_tok += (uint64_t)n_tok;
    c->stats.n_hit_tok += (uint64_t)m->n_tok;
    if (m->slot < 0) return;
    qn_chores_add(c->chores, (struct qn_chore){.kind = QN_CHORE_STATE_COPY, .from = m->slot, .to = slot});
    if (m->n_tok % QN_PAGE)
        qn_chores_add(c->chores, (struct qn_chore){.kind = QN_CHORE_KV_COPY,
                                                   .from = c->snap[m->slot].tail_page,
                                                   .to = tail_page,
                                                   .n = m->n_tok % QN_PAGE});
    touch(c, m->last, m->slot);
}

/* --- growing --- */

int qn_cache_mtp_from(const struct qn_cache *c, int slot, int last)
{
    if (slot < 0) return 1;
    const struct qn_snap *s = &c->snap[slot];
    int from = s->mtp_from;
    if (from > s->n_tok / QN_PAGE * QN_PAGE) return from;
    for (int page = last; page >= 0; page = c->tree.node[page].parent) {
        from = c->tree.node[page].depth * QN_PAGE + c->tree.node[page].mtp_from;
        if (c->tree.node[page].mtp_from) break;
    }
    return QN_MAX(from, 1);
}

int qn_cache_insert(struct qn_cache *c, const struct qn_prefix *p, int parent, int page, int mtp_from)
{
    if (c->is_off) return -1;
    int known = qn_tree_find(&c->tree, p, parent);
    if (known >= 0) return known;
    QN_CHECK(c->n_user[page] > 0);
    if (!qn_tree_add(&c->tree, p, parent, page)) return -1;
    c->tree.node[page].mtp_from = mtp_from;
    c->tree.node[page].born = c->clock;
    qn_pages_hold(&c->pages, page);
    c->version++;
    return page;
}

int qn_cache_find_snap(const struct qn_cache *c, const struct qn_spot *at)
{
    int s = at->parent >= 0 ? c->tree.node[at->parent].first_snap : c->tree.first_root_snap;
    for (; s >= 0; s = c->snap[s].next)
        if (c->snap[s].n_tok == at->n_tok && has_tail(&c->snap[s], at->of, at->n_tok / QN_PAGE * QN_PAGE))
            return s;
    return -1;
}

static void hang(struct qn_cache *c, const struct qn_spot *at, int slot)
{
    int n_tail = at->n_tok % QN_PAGE;
    const int32_t *tail = at->of->tok + (at->n_tok - n_tail);
    QN_CHECK(at->n_tok <= at->of->n && at->n_tok / QN_PAGE == qn_tree_depth(&c->tree, at->parent));
    struct qn_snap *s = &c->snap[slot];
    int *first = qn_tree_snaps(&c->tree, at->parent);
    *s = (struct qn_snap){.is_used = true,
                          .parent = at->parent,
                          .next = *first,
                          .prev = -1,
                          .root = at->of->root,
                          .n_tok = at->n_tok,
                          .tail_page = n_tail ? at->tail_page : -1,
                          .media = qn_prefix_keep_media(at->of, at->n_tok - n_tail, n_tail),
                          .mtp_from = at->mtp_from,
                          .born = c->clock,
                          .last_use = c->clock};
    if (n_tail) {
        memcpy(s->tail, tail, (size_t)n_tail * sizeof *tail);
        qn_pages_hold(&c->pages, at->tail_page);
        c->n_tail++;
    }
    uint64_t key =
        qn_prefix_hash(at->of, qn_tree_key(&c->tree, at->of, at->parent), at->n_tok - n_tail, n_tail);
    s->key = qn_mix64(key ^ (uint64_t)at->n_tok);
    if (*first >= 0) c->snap[*first].prev = slot;
    *first = slot;
    c->version++;
    c->stats.n_snap_made++;
}

/* The snapshot that is there already, used now; -1: none. */
static int known_snap(struct qn_cache *c, const struct qn_spot *at)
{
    int known = qn_cache_find_snap(c, at);
    if (known >= 0) c->snap[known].last_use = c->clock;
    return known;
}

int qn_cache_copy_snap(struct qn_cache *c, const struct qn_spot *at, int slot)
{
    if (c->is_off || at->n_tok <= 0) return -1;
    int known = known_snap(c, at);
    if (known >= 0) return known;
    if (!c->slots.n_free) {
        double least;
        int worst = worst_snap(c, false, &least);
        if (worst < 0 || least > at->n_tok) return -1;
        qn_cache_evict_snap(c, worst);
    }
    int to = qn_slots_acquire(&c->slots, QN_SLOT_SNAPSHOT);
    qn_chores_add(c->chores, (struct qn_chore){.kind = QN_CHORE_STATE_COPY, .from = slot, .to = to});
    hang(c, at, to);
    return to;
}

void qn_cache_give_snap(struct qn_cache *c, const struct qn_spot *at, int slot)
{
    if (c->is_off || at->n_tok <= 0 || known_snap(c, at) >= 0) {
        qn_slots_release(&c->slots, slot);
        return;
    }
    qn_slots_turn(&c->slots, slot, QN_SLOT_SNAPSHOT);
    hang(c, at, slot);
}

/* --- shrinking --- */

void qn_cache_forget(struct qn_cache *c, const struct qn_prefix *p, int last, int n_keep_page, int64_t since)
{
    bool is_end = true; /* of the path: its nodes can go */
    for (int page = last;;) {
        int n_page = qn_tree_depth(&c->tree, page), parent = page >= 0 ? c->tree.node[page].parent : -1;
        for (int s = *qn_tree_snaps(&c->tree, page), next; s >= 0; s = next) {
            struct qn_snap *snap = &c->snap[s];
            next = snap->next;
            if (snap->n_pin || snap->born < since || !has_tail(snap, p, n_page * QN_PAGE)) continue;
            snap->is_stored = true; /* worth no copy */
            qn_cache_evict_snap(c, s);
        }
        if (page < 0) return;
        is_end = is_end && n_page > n_keep_page && !c->n_user[page] && c->tree.node[page].first_child < 0 &&
                 !has_pinned_snap(c, page);
        if (is_end) qn_cache_evict_node(c, page);
        page = parent;
    }
}

void qn_cache_clear(struct qn_cache *c)
{
    for (int i = 0; i < c->slots.n; i++)
        if (c->snap[i].is_used && !c->snap[i].n_pin) qn_cache_evict_snap(c, i);
    for (int page = c->tree.oldest; page >= 0;) {
        int newer = c->tree.node[page].newer;
        if (!c->n_user[page] && c->tree.node[page].first_child < 0) {
            qn_cache_evict_node(c, page);
            newer = c->tree.oldest; /* its parent may be a leaf now */
        }
        page = newer;
    }
}

/* --- invariants --- */

void qn_cache_check_sums(const struct qn_cache *c, int n_live, int64_t n_use)
{
    const struct qn_pages *p = &c->pages;
    const struct qn_slots *s = &c->slots;
    QN_CHECK(c->n_use == n_use);
    QN_CHECK(p->n_hold == n_use + c->tree.n_node + c->n_tail);
    QN_CHECK(p->n_free >= 0 && c->n_idle >= 0 && p->n_free + c->n_idle <= p->n);
    QN_CHECK(n_use || p->n_free + c->n_idle == p->n);
    QN_CHECK((size_t)c->tree.n_node == c->tree.by_key.n && c->n_tail <= s->n_snapshot);
    QN_CHECK(s->n_live == n_live && s->n_free + s->n_live + s->n_snapshot == s->n);
    QN_CHECK(s->n_lane - s->n_free_lane == n_live);
}

void qn_cache_check(const struct qn_cache *c, const int32_t *n_used)
{
    int n_page = c->pages.n, n_idle = 0, n_listed = 0, n_node = 0, n_snap = 0, n_tail = 0;
    int64_t n_use = 0;
    int32_t *n_holder = xcalloc((size_t)n_page, sizeof *n_holder);
    for (int i = 0; i < n_page; i++) {
        const struct qn_node *n = &c->tree.node[i];
        int used = n_used ? n_used[i] : 0;
        QN_CHECK(c->n_user[i] == used);
        n_holder[i] += used;
        n_use += used;
        if (!n->key) continue;
        n_node++;
        n_holder[i]++;
        if (n->parent >= 0) {
            QN_CHECK(c->tree.node[n->parent].key && c->tree.node[n->parent].depth == n->depth - 1);
            QN_CHECK(!used || c->n_user[n->parent]);
        }
        for (int k = n->first_child; k >= 0; k = c->tree.node[k].next) QN_CHECK(c->tree.node[k].parent == i);
        for (int s = n->first_snap; s >= 0; s = c->snap[s].next)
            QN_CHECK(c->snap[s].is_used && c->snap[s].parent == i);
        uint64_t at;
        QN_CHECK(qn_map_get(&c->tree.by_key, n->key, &at) && (int)at == i);
    }
    for (int i = 0; i < c->slots.n; i++) {
        const struct qn_snap *s = &c->snap[i];
        QN_CHECK(s->is_used == (c->slots.kind[i] == QN_SLOT_SNAPSHOT));
        if (!s->is_used) continue;
        n_snap++;
        QN_CHECK(s->parent < 0 || c->tree.node[s->parent].key);
        QN_CHECK((s->tail_page >= 0) == (s->n_tok % QN_PAGE != 0));
        if (s->tail_page < 0) continue;
        n_holder[s->tail_page]++;
        n_tail++;
    }
    for (int page = c->tree.oldest; page >= 0; page = c->tree.node[page].newer) n_listed++;
    QN_CHECK(n_listed == n_node && (size_t)n_node == c->tree.by_key.n && n_snap == c->slots.n_snapshot);
    for (int i = 0; i < n_page; i++) n_idle += n_holder[i] > 0 && c->n_user[i] == 0;
    QN_CHECK(n_idle == c->n_idle && n_node == c->tree.n_node && n_tail == c->n_tail && n_use == c->n_use);
    qn_pages_check(&c->pages, n_holder);
    qn_slots_check(&c->slots);
    free(n_holder);
}
