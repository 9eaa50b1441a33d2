/* The hybrid prefix cache.
 * SPDX-License-Identifier: Apache-2.0 */
#include "engine/prefix.h"

#include <math.h>

#include "base/mem.h"

#define MAX_LOST       (1 << 16) /* keys remembered of evicted pages */
#define MAX_SIBLINGS   256       /* looked at for a partial match */
#define SCORE_HALFLIFE 64.0      /* admissions */

void qn_cache_init(struct qn_cache *c, int n_page, int n_slot, int n_lane, struct qn_chores *chores)
{
    *c = (struct qn_cache){
        .chores = chores, .first_root = -1, .first_root_snap = -1, .oldest = -1, .newest = -1, .version = 1};
    qn_pages_init(&c->pages, n_page);
    qn_slots_init(&c->slots, n_slot, n_lane);
    c->n_user = xcalloc((size_t)n_page, sizeof *c->n_user);
    c->node = xcalloc((size_t)n_page, sizeof *c->node);
    c->tok = xcalloc((size_t)n_page * QN_PAGE, sizeof *c->tok);
    c->snap = xcalloc((size_t)n_slot, sizeof *c->snap);
}

void qn_cache_fini(struct qn_cache *c)
{
    qn_pages_fini(&c->pages);
    qn_slots_fini(&c->slots);
    free(c->n_user);
    free(c->node);
    free(c->tok);
    free(c->snap);
    qn_map_free(&c->by_key);
    qn_map_free(&c->lost);
    *c = (struct qn_cache){0};
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

/* --- the list by last use --- */

static void unlist(struct qn_cache *c, int page)
{
    struct qn_node *n = &c->node[page];
    *(n->older >= 0 ? &c->node[n->older].newer : &c->oldest) = n->newer;
    *(n->newer >= 0 ? &c->node[n->newer].older : &c->newest) = n->older;
}

static void list_newest(struct qn_cache *c, int page)
{
    struct qn_node *n = &c->node[page];
    n->older = c->newest;
    n->newer = -1;
    *(c->newest >= 0 ? &c->node[c->newest].newer : &c->oldest) = page;
    c->newest = page;
}

void qn_cache_touch(struct qn_cache *c, int last, int slot)
{
    /* the deepest first, so that an ancestor is never older than its descendants */
    for (int page = last; page >= 0; page = c->node[page].parent) {
        unlist(c, page);
        list_newest(c, page);
    }
    if (slot >= 0) {
        c->snap[slot].n_hit++;
        c->snap[slot].last_use = c->clock;
    }
}

/* --- eviction --- */

static int *first_snap(struct qn_cache *c, int parent)
{
    return parent >= 0 ? &c->node[parent].first_snap : &c->first_root_snap;
}

void qn_cache_evict_snap(struct qn_cache *c, int slot)
{
    struct qn_snap *s = &c->snap[slot];
    QN_CHECK(s->is_used && !s->n_pin);
    if (c->on_evict_snap && !s->is_stored) c->on_evict_snap(c->user, slot);
    if (s->prev >= 0)
        c->snap[s->prev].next = s->next;
    else
        *first_snap(c, s->parent) = s->next;
    if (s->next >= 0) c->snap[s->next].prev = s->prev;
    if (s->parent >= 0) c->node[s->parent].lost_snap = true;
    if (s->tail_page >= 0) {
        c->n_tail--;
        unhold(c, s->tail_page);
    }
    s->is_used = false;
    qn_slots_release(&c->slots, slot);
    c->version++;
    c->stats.n_snap_evicted++;
}

void qn_cache_evict_node(struct qn_cache *c, int page)
{
    struct qn_node *n = &c->node[page];
    QN_CHECK(n->key && n->first_child < 0 && c->n_user[page] == 0);
    while (n->first_snap >= 0) qn_cache_evict_snap(c, n->first_snap);
    if (n->prev >= 0)
        c->node[n->prev].next = n->next;
    else
        *(n->parent >= 0 ? &c->node[n->parent].first_child : &c->first_root) = n->next;
    if (n->next >= 0) c->node[n->next].prev = n->prev;
    unlist(c, page);
    qn_map_remove(&c->by_key, n->key);
    if (c->lost.n >= MAX_LOST) qn_map_free(&c->lost);
    qn_map_put(&c->lost, n->key, 1);
    n->key = 0;
    c->n_node--;
    c->version++;
    c->stats.n_node_evicted++;
    unhold(c, page);
}

static bool has_pinned_snap(const struct qn_cache *c, int page)
{
    for (int s = c->node[page].first_snap; s >= 0; s = c->snap[s].next)
        if (c->snap[s].n_pin) return true;
    return false;
}

/* Worth of a snapshot: tokens it saves over the next one up the path, hits, decayed by admissions. */
static double score(const struct qn_cache *c, int slot)
{
    const struct qn_snap *s = &c->snap[slot];
    int saved = s->n_tok;
    for (int page = s->parent; page >= 0 && saved == s->n_tok; page = c->node[page].parent)
        for (int k = c->node[page].first_snap; k >= 0; k = c->snap[k].next)
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
        int page = c->oldest;
        while (page >= 0 && (c->n_user[page] || c->node[page].first_child >= 0 || has_pinned_snap(c, page)))
            page = c->node[page].newer;
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

/* --- matching --- */

uint64_t qn_cache_root(const struct qn_cache *c, uint64_t salt)
{
    uint64_t root = qn_mix64(c->fingerprint ^ qn_mix64(salt));
    return root ? root : 1;
}

uint64_t qn_cache_chain(uint64_t parent_key, const int32_t *tok)
{
    uint64_t key = qn_hash_bytes(parent_key, tok, QN_PAGE * sizeof *tok);
    return key ? key : 1;
}

int qn_cache_find_node(const struct qn_cache *c, uint64_t root, int parent, const int32_t *tok)
{
    uint64_t at;
    if (!qn_map_get(&c->by_key, qn_cache_chain(parent >= 0 ? c->node[parent].key : root, tok), &at))
        return -1;
    int page = (int)at;
    const struct qn_node *n = &c->node[page];
    if (n->parent != parent || n->root != root) return -1;
    return memcmp(c->tok + (size_t)page * QN_PAGE, tok, QN_PAGE * sizeof *tok) ? -1 : page;
}

static int common(const int32_t *a, const int32_t *b, int n)
{
    int i = 0;
    while (i < n && a[i] == b[i]) i++;
    return i;
}

void qn_cache_match(struct qn_cache *c, uint64_t root, const int32_t *tok, int n, struct qn_match *out)
{
    *out = (struct qn_match){.slot = -1, .last = -1, .end = -1};
    c->stats.n_match++;
    if (c->is_off) {
        out->miss = "the prefix cache is off";
        return;
    }
    int at = -1, done = 0;
    for (;;) {
        /* snapshots behind this node */
        int left = n - done;
        for (int s = *first_snap(c, at); s >= 0; s = c->snap[s].next) {
            const struct qn_snap *snap = &c->snap[s];
            int tail = snap->n_tok - done;
            if (snap->root != root || snap->n_tok >= n || snap->n_tok <= out->n_tok) continue;
            if (common(snap->tail, tok + done, tail) < tail) continue;
            out->slot = s;
            out->n_tok = snap->n_tok;
            out->last = at;
        }
        int next = left >= QN_PAGE ? qn_cache_find_node(c, root, at, tok + done) : -1;
        if (next < 0) break;
        at = next;
        done += QN_PAGE;
    }
    /* how far into a next page somebody else went: full pages, then tails */
    int most = 0, n_seen = 0;
    for (int k = at >= 0 ? c->node[at].first_child : c->first_root; k >= 0 && n_seen < MAX_SIBLINGS;
         k = c->node[k].next, n_seen++)
        if (c->node[k].root == root)
            most = QN_MAX(most, common(c->tok + (size_t)k * QN_PAGE, tok + done, QN_MIN(QN_PAGE, n - done)));
    for (int s = *first_snap(c, at); s >= 0; s = c->snap[s].next)
        if (c->snap[s].root == root)
            most =
                QN_MAX(most, common(c->snap[s].tail, tok + done, QN_MIN(c->snap[s].n_tok - done, n - done)));
    out->n_match = done + most;
    out->end = at;
    if (n - done >= QN_PAGE && most < QN_PAGE &&
        qn_map_get(&c->lost, qn_cache_chain(at >= 0 ? c->node[at].key : root, tok + done), NULL))
        out->miss = "pages of this prefix were evicted";
    else if (out->n_match > out->n_tok + 1 && out->n_tok < n - 1) {
        bool lost = false;
        for (int page = at; page >= 0 && page != out->last; page = c->node[page].parent)
            lost |= c->node[page].lost_snap;
        out->miss = lost ? "the state snapshot of this prefix was evicted"
                         : "no state snapshot where this prompt leaves the known one";
    }
}

void qn_cache_path(const struct qn_cache *c, int last, int32_t *pages)
{
    for (int page = last; page >= 0; page = c->node[page].parent) pages[c->node[page].depth] = page;
}

void qn_cache_pin(struct qn_cache *c, int slot, int by)
{
    c->snap[slot].n_pin += by;
    QN_CHECK(c->snap[slot].is_used && c->snap[slot].n_pin >= 0);
}

/* --- growing --- */

int qn_cache_mtp_from(const struct qn_cache *c, int slot, int last)
{
    if (slot < 0) return 1;
    const struct qn_snap *s = &c->snap[slot];
    int from = s->mtp_from;
    if (from > s->n_tok / QN_PAGE * QN_PAGE) return from;
    for (int page = last; page >= 0; page = c->node[page].parent) {
        from = c->node[page].depth * QN_PAGE + c->node[page].mtp_from;
        if (c->node[page].mtp_from) break;
    }
    return QN_MAX(from, 1);
}

int qn_cache_insert(struct qn_cache *c, uint64_t root, int parent, const int32_t *tok, int page, int mtp_from)
{
    if (c->is_off) return -1;
    int known = qn_cache_find_node(c, root, parent, tok);
    if (known >= 0) return known;
    uint64_t key = qn_cache_chain(parent >= 0 ? c->node[parent].key : root, tok);
    if (qn_map_get(&c->by_key, key, NULL)) return -1; /* a collision of keys: not cached */
    QN_CHECK(!c->node[page].key && c->n_user[page] > 0);
    int *first = parent >= 0 ? &c->node[parent].first_child : &c->first_root;
    struct qn_node *n = &c->node[page];
    *n = (struct qn_node){.key = key,
                          .root = root,
                          .parent = parent,
                          .first_child = -1,
                          .next = *first,
                          .prev = -1,
                          .first_snap = -1,
                          .mtp_from = mtp_from,
                          .depth = parent >= 0 ? c->node[parent].depth + 1 : 0,
                          .born = c->clock};
    if (*first >= 0) c->node[*first].prev = page;
    *first = page;
    memcpy(c->tok + (size_t)page * QN_PAGE, tok, QN_PAGE * sizeof *tok);
    qn_map_put(&c->by_key, key, (uint64_t)page);
    qn_map_remove(&c->lost, key);
    qn_pages_hold(&c->pages, page);
    list_newest(c, page);
    qn_cache_touch(c, parent, -1);
    c->n_node++;
    c->version++;
    return page;
}

int qn_cache_find_snap(const struct qn_cache *c, uint64_t root, int parent, int n_tok, const int32_t *tail)
{
    int s = parent >= 0 ? c->node[parent].first_snap : c->first_root_snap;
    for (; s >= 0; s = c->snap[s].next)
        if (c->snap[s].root == root && c->snap[s].n_tok == n_tok &&
            !memcmp(c->snap[s].tail, tail, (size_t)(n_tok % QN_PAGE) * sizeof *tail))
            return s;
    return -1;
}

static void hang(struct qn_cache *c, uint64_t root, int parent, int n_tok, const int32_t *tail, int tail_page,
                 int slot, int mtp_from)
{
    int n_tail = n_tok % QN_PAGE;
    QN_CHECK(n_tok / QN_PAGE == (parent >= 0 ? c->node[parent].depth + 1 : 0));
    struct qn_snap *s = &c->snap[slot];
    int *first = first_snap(c, parent);
    *s = (struct qn_snap){.is_used = true,
                          .parent = parent,
                          .next = *first,
                          .prev = -1,
                          .root = root,
                          .n_tok = n_tok,
                          .tail_page = n_tail ? tail_page : -1,
                          .mtp_from = mtp_from,
                          .born = c->clock,
                          .last_use = c->clock};
    if (n_tail) {
        memcpy(s->tail, tail, (size_t)n_tail * sizeof *tail);
        qn_pages_hold(&c->pages, tail_page);
        c->n_tail++;
    }
    uint64_t key =
        qn_hash_bytes(parent >= 0 ? c->node[parent].key : root, tail, (size_t)n_tail * sizeof *tail);
    s->key = qn_mix64(key ^ (uint64_t)n_tok);
    if (*first >= 0) c->snap[*first].prev = slot;
    *first = slot;
    c->version++;
    c->stats.n_snap_made++;
}

int qn_cache_copy_snap(struct qn_cache *c, uint64_t root, int parent, int n_tok, const int32_t *tail,
                       int tail_page, int slot, int mtp_from)
{
    if (c->is_off || n_tok <= 0) return -1;
    int known = qn_cache_find_snap(c, root, parent, n_tok, tail);
    if (known >= 0) {
        c->snap[known].last_use = c->clock;
        return known;
    }
    if (!c->slots.n_free) {
        double least;
        int worst = worst_snap(c, false, &least);
        if (worst < 0 || least > n_tok) return -1;
        qn_cache_evict_snap(c, worst);
    }
    int to = qn_slots_acquire(&c->slots, QN_SLOT_SNAPSHOT);
    qn_chores_add(c->chores, (struct qn_chore){.kind = QN_CHORE_STATE_COPY, .from = slot, .to = to});
    hang(c, root, parent, n_tok, tail, tail_page, to, mtp_from);
    return to;
}

void qn_cache_give_snap(struct qn_cache *c, uint64_t root, int parent, int n_tok, const int32_t *tail,
                        int tail_page, int slot, int mtp_from)
{
    int known = c->is_off || n_tok <= 0 ? -1 : qn_cache_find_snap(c, root, parent, n_tok, tail);
    if (known >= 0) c->snap[known].last_use = c->clock;
    if (c->is_off || n_tok <= 0 || known >= 0) {
        qn_slots_release(&c->slots, slot);
        return;
    }
    qn_slots_turn(&c->slots, slot, QN_SLOT_SNAPSHOT);
    hang(c, root, parent, n_tok, tail, tail_page, slot, mtp_from);
}

void qn_cache_forget(struct qn_cache *c, uint64_t root, const int32_t *tok, int last, int n_keep_page,
                     int64_t since)
{
    bool is_end = true; /* of the path: its nodes can go */
    for (int page = last;;) {
        int n_page = page >= 0 ? c->node[page].depth + 1 : 0, parent = page >= 0 ? c->node[page].parent : -1;
        for (int s = *first_snap(c, page), next; s >= 0; s = next) {
            struct qn_snap *snap = &c->snap[s];
            int tail = snap->n_tok - n_page * QN_PAGE;
            next = snap->next;
            if (snap->root != root || snap->n_pin || snap->born < since) continue;
            if (common(snap->tail, tok + (size_t)n_page * QN_PAGE, tail) < tail) continue;
            snap->is_stored = true; /* worth no copy */
            qn_cache_evict_snap(c, s);
        }
        if (page < 0) return;
        is_end = is_end && n_page > n_keep_page && !c->n_user[page] && c->node[page].first_child < 0 &&
                 !has_pinned_snap(c, page);
        if (is_end) qn_cache_evict_node(c, page);
        page = parent;
    }
}

void qn_cache_clear(struct qn_cache *c)
{
    for (int i = 0; i < c->slots.n; i++)
        if (c->snap[i].is_used && !c->snap[i].n_pin) qn_cache_evict_snap(c, i);
    for (int page = c->oldest; page >= 0;) {
        int newer = c->node[page].newer;
        if (!c->n_user[page] && c->node[page].first_child < 0) {
            qn_cache_evict_node(c, page);
            newer = c->oldest; /* its parent may be a leaf now */
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
    QN_CHECK(p->n_hold == n_use + c->n_node + c->n_tail);
    QN_CHECK(p->n_free >= 0 && c->n_idle >= 0 && p->n_free + c->n_idle <= p->n);
    QN_CHECK(n_use || p->n_free + c->n_idle == p->n);
    QN_CHECK((size_t)c->n_node == c->by_key.n && c->n_tail <= s->n_snapshot);
    QN_CHECK(s->n_live == n_live && s->n_free + s->n_live + s->n_snapshot == s->n);
    QN_CHECK(s->n_lane - s->n_free_lane == n_live);
}

void qn_cache_check(const struct qn_cache *c, const int32_t *n_used)
{
    int n_page = c->pages.n, n_idle = 0, n_listed = 0, n_node = 0, n_snap = 0, n_tail = 0;
    int64_t n_use = 0;
    int32_t *n_holder = xcalloc((size_t)n_page, sizeof *n_holder);
    for (int i = 0; i < n_page; i++) {
        const struct qn_node *n = &c->node[i];
        int used = n_used ? n_used[i] : 0;
        QN_CHECK(c->n_user[i] == used);
        n_holder[i] += used;
        n_use += used;
        if (!n->key) continue;
        n_node++;
        n_holder[i]++;
        if (n->parent >= 0) {
            QN_CHECK(c->node[n->parent].key && c->node[n->parent].depth == n->depth - 1);
            QN_CHECK(!used || c->n_user[n->parent]);
        }
        for (int k = n->first_child; k >= 0; k = c->node[k].next) QN_CHECK(c->node[k].parent == i);
        for (int s = n->first_snap; s >= 0; s = c->snap[s].next)
            QN_CHECK(c->snap[s].is_used && c->snap[s].parent == i);
        uint64_t at;
        QN_CHECK(qn_map_get(&c->by_key, n->key, &at) && (int)at == i);
    }
    for (int i = 0; i < c->slots.n; i++) {
        const struct qn_snap *s = &c->snap[i];
        QN_CHECK(s->is_used == (c->slots.kind[i] == QN_SLOT_SNAPSHOT));
        if (!s->is_used) continue;
        n_snap++;
        QN_CHECK(s->parent < 0 || c->node[s->parent].key);
        QN_CHECK((s->tail_page >= 0) == (s->n_tok % QN_PAGE != 0));
        if (s->tail_page < 0) continue;
        n_holder[s->tail_page]++;
        n_tail++;
    }
    for (int page = c->oldest; page >= 0; page = c->node[page].newer) n_listed++;
    QN_CHECK(n_listed == n_node && (size_t)n_node == c->by_key.n && n_snap == c->slots.n_snapshot);
    for (int i = 0; i < n_page; i++) n_idle += n_holder[i] > 0 && c->n_user[i] == 0;
    QN_CHECK(n_idle == c->n_idle && n_node == c->n_node && n_tail == c->n_tail && n_use == c->n_use);
    qn_pages_check(&c->pages, n_holder);
    qn_slots_check(&c->slots);
    free(n_holder);
}
