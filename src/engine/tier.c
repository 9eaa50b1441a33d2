/* What is kept in RAM and in files.
 *
 * What comes. A snapshot is copied out with the pages of its path: when it leaves the device, when there is
 * nothing else to do (oldest use first: all of them will), and once in a while beside streams (last use
 * first, as the process can be killed). Pages that are here already are not copied again. Every blob comes
 * through RAM; with a folder it is then written to a file, as far as the bytes written a day allow: a disk
 * wears out. What is over that stays in RAM and is written when it is saved again.
 *
 * What goes. In RAM and in the folder what was used longest ago, when room is wanted. A use of a prefix is
 * one of all its blobs. What is in use goes never: the blobs of the operation going on, those that a chore or
 * the copier is at work on, and the snapshot that is being brought back.
 *
 * A blob's states:
 *
 *     state     bytes in RAM  file  who is at work on it         goes on to
 *     FILLING        x              the rank: a chore fills it   IN_RAM (its work is back)
 *     IN_RAM         x              nobody                       WRITING; gone (RAM is wanted)
 *     WRITING        x              the copier                   BOTH; IN_RAM (the file cannot be written)
 *     BOTH           x        x     nobody                       ON_DISK (RAM is wanted); IN_RAM (the
 * folder's room is) ON_DISK                 x     nobody                       READING; gone (the folder's
 * room is wanted) READING        x        x     the copier                   BOTH; gone (the file is damaged)
 *
 * Besides, in any state with bytes, a chore that brings it back may be on its way (busy). And in any state it
 * may be doomed, as it holds what a bad request left: it is found no more, and goes with its file as soon as
 * nobody is at work on it. SPDX-License-Identifier: Apache-2.0 */
#include "engine/tier.h"

#include "base/clock.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/mem.h"
#include "engine/store.h"

#define DEFAULT_DISK ((int64_t)8 << 30)
#define WRITE_TIMES  16 /* the folder's size may be written a day, unless told */
#define DAY_US       (86400 * 1e6)

enum state { GONE, FILLING, IN_RAM, WRITING, BOTH, ON_DISK, READING };

enum place { RAM, DISK, N_PLACE };
static const bool is_at[][N_PLACE] = {
    [GONE] = {false, false}, [FILLING] = {true, false}, [IN_RAM] = {true, false}, [WRITING] = {true, false},
    [BOTH] = {true, true},   [ON_DISK] = {false, true}, [READING] = {true, true},
};

struct blob {
    struct qn_store_item item; /* first */
    enum state state;
    bool is_doomed;
    int64_t busy; /* number of the last work that has a chore of it; over when that is back */
    int64_t born; /* of the cache's clock; 0: before the start */
    int64_t last_use;
    struct blob *older[N_PLACE], *newer[N_PLACE]; /* by last use, in each place it is at */
    struct blob *next_sibling;                    /* snapshots behind the same parent */
    struct blob *next_filling;
    int at; /* place in the list of all */
};

struct list {
    struct blob *oldest, *newest;
    int n;
};

struct qn_tier {
    struct qn_cache *cache;
    struct qn_tier_options o;
    struct qn_store *store; /* NULL: RAM only */
    struct blob **blob;
    int n_blob, capacity;
    struct list list[N_PLACE];
    struct qn_map by_key;    /* key of page or snapshot -> blob */
    struct qn_map by_parent; /* key of the parent -> first snapshot */
    struct blob *first_filling, **end_filling;
    const struct blob *held; /* the snapshot that is being brought back */
    int64_t clock, n_published, n_returned, last_busy;
    int64_t n_fetch, n_fetched; /* asked for, come back; in order */
    int64_t n_reply;            /* letters of the copier */
    uint64_t version;           /* blobs that came */
    int n_writing, n_doomed;
    double write_left; /* bytes that may be written now */
    int64_t write_us;  /* when that was reckoned */
    struct qn_tier_stats stats;
};

/* --- lists and states --- */

static void leave(struct qn_tier *t, enum place p, struct blob *b)
{
    struct list *l = &t->list[p];
    *(b->older[p] ? &b->older[p]->newer[p] : &l->oldest) = b->newer[p];
    *(b->newer[p] ? &b->newer[p]->older[p] : &l->newest) = b->older[p];
    b->older[p] = b->newer[p] = NULL;
    l->n--;
}

/* In its place by last use: others may have been used while it was written. */
static void join(struct qn_tier *t, enum place p, struct blob *b)
{
    struct list *l = &t->list[p];
    struct blob *before = l->newest;
    while (before && before->last_use > b->last_use) before = before->older[p];
    struct blob *behind = before ? before->newer[p] : l->oldest;
    b->older[p] = before;
    b->newer[p] = behind;
    *(before ? &before->newer[p] : &l->oldest) = b;
    *(behind ? &behind->older[p] : &l->newest) = b;
    l->n++;
}

static size_t file_bytes(const struct blob *b)
{
    return sizeof b->item.h + qn_store_media_bytes(&b->item.h) + b->item.h.n_byte;
}

/* The only way from one state to another. Bytes in RAM are there before it comes to RAM; where it leaves,
 * they are given back. */
static void turn(struct qn_tier *t, struct blob *b, enum state to)
{
    for (int p = 0; p < N_PLACE; p++) {
        bool was = is_at[b->state][p], is = is_at[to][p];
        int64_t n_byte = (int64_t)(p == RAM ? b->item.h.n_byte : file_bytes(b));
        if (was && !is) leave(t, (enum place)p, b);
        if (!was && is) join(t, (enum place)p, b);
        *(p == RAM ? &t->stats.ram_bytes : &t->stats.disk_bytes) += n_byte * (is - was);
    }
    if (!is_at[to][RAM]) {
        free(b->item.data);
        b->item.data = NULL;
    }
    b->state = to;
}

static void touch(struct qn_tier *t, struct blob *b)
{
    b->last_use = t->clock;
    for (int p = 0; p < N_PLACE; p++) {
        if (!is_at[b->state][p]) continue;
        leave(t, (enum place)p, b);
        join(t, (enum place)p, b);
    }
}

/* Is it in RAM, or will be before a chore that needs it? They run in order. */
static bool has_bytes(const struct blob *b)
{
    return is_at[b->state][RAM] && b->state != READING;
}

static bool is_busy(const struct qn_tier *t, const struct blob *b)
{
    return b->state == FILLING || b->state == WRITING || b->state == READING || b->busy > t->n_returned ||
           b == t->held;
}

static void set_busy(struct qn_tier *t, struct blob *b)
{
    b->busy = t->last_busy = t->n_published + 1;
}

/* --- the index --- */

static uint64_t index_key(int kind, uint64_t key)
{
    uint64_t k = qn_mix64(key ^ (uint64_t)kind * 0x5851f42d4c957f2du);
    return k ? k : 1;
}

static struct blob *find(const struct qn_tier *t, int kind, uint64_t key)
{
    uint64_t at;
    return qn_map_get(&t->by_key, index_key(kind, key), &at) ? (struct blob *)(uintptr_t)at : NULL;
}

static struct blob *first_snapshot(const struct qn_tier *t, uint64_t parent)
{
    uint64_t first = 0;
    qn_map_get(&t->by_parent, parent, &first);
    return (struct blob *)(uintptr_t)first;
}

/* Page i of p, or the tail behind it. */
static bool is_same(const struct blob *b, const struct qn_prefix *p, int at, int n)
{
    struct qn_words words = {b->item.h.tok, b->item.media};
    return b->item.h.n_tail == n && qn_prefix_common(p, at, &words, n) == n;
}

/* The blob of page i of p, which may be brought back. */
static struct blob *find_page(const struct qn_tier *t, const struct qn_prefix *p, int i, uint64_t key)
{
    struct blob *b = find(t, QN_STORE_PAGE, key);
    return b && !b->is_doomed && is_same(b, p, i * QN_PAGE, QN_PAGE) ? b : NULL;
}

static void add(struct qn_tier *t, struct blob *b)
{
    const struct qn_store_head *h = &b->item.h;
    if (t->n_blob == t->capacity) {
        t->capacity = QN_MAX(64, t->capacity * 2);
        t->blob = xreallocarray(t->blob, (size_t)t->capacity, sizeof *t->blob);
    }
    b->at = t->n_blob;
    t->blob[t->n_blob++] = b;
    qn_map_put(&t->by_key, index_key(qn_store_kind(h), h->key), (uint64_t)(uintptr_t)b);
    t->version++;
    if (qn_store_kind(h) != QN_STORE_SNAPSHOT) return;
    b->next_sibling = first_snapshot(t, h->parent);
    qn_map_put(&t->by_parent, h->parent, (uint64_t)(uintptr_t)b);
}

static void take_out_snapshot(struct qn_tier *t, struct blob *b)
{
    struct blob *p = first_snapshot(t, b->item.h.parent);
    if (p == b) {
        if (b->next_sibling)
            qn_map_put(&t->by_parent, b->item.h.parent, (uint64_t)(uintptr_t)b->next_sibling);
        else
            qn_map_remove(&t->by_parent, b->item.h.parent);
        return;
    }
    while (p->next_sibling != b) p = p->next_sibling;
    p->next_sibling = b->next_sibling;
}

static void forget(struct qn_tier *t, struct blob *b)
{
    enum qn_store_kind kind = qn_store_kind(&b->item.h);
    if (kind == QN_STORE_SNAPSHOT) take_out_snapshot(t, b);
    qn_map_remove(&t->by_key, index_key(kind, b->item.h.key));
    t->n_doomed -= b->is_doomed;
    turn(t, b, GONE);
    t->blob[b->at] = t->blob[--t->n_blob];
    t->blob[b->at]->at = b->at;
    free(b->item.media);
    free(b);
}

/* --- room --- */

static void remove_file(struct qn_tier *t, struct blob *b)
{
    qn_store_remove(t->store, &b->item.h);
    t->stats.n_file_drop++;
    if (b->state == BOTH)
        turn(t, b, IN_RAM);
    else
        forget(t, b);
}

/* The one unused for longest that may go; those of the last use are in use now. */
static struct blob *oldest(const struct qn_tier *t, enum place p)
{
    struct blob *b = t->list[p].oldest;
    while (b && b->last_use != t->clock && is_busy(t, b)) b = b->newer[p];
    return b && b->last_use != t->clock ? b : NULL;
}

/* Room in RAM for n bytes: blobs on disk lose their bytes, others go. */
static bool make_room(struct qn_tier *t, size_t n)
{
    while (t->stats.ram_bytes + (int64_t)n > t->o.ram_bytes) {
        struct blob *b = oldest(t, RAM);
        if (!b) return false;
        t->stats.n_ram_drop++;
        if (b->state == BOTH)
            turn(t, b, ON_DISK);
        else
            forget(t, b);
    }
    return true;
}

static void *new_data(struct qn_tier *t, size_t n)
{
    return make_room(t, n) ? try_malloc(n, 1) : NULL;
}

/* --- saving --- */

/* May n more bytes be written? A day's worth may go at once. */
static bool may_write(struct qn_tier *t, double n)
{
    if (t->o.write_bytes < 0) return true;
    int64_t now = qn_now_us();
    t->write_left += (double)(now - t->write_us) * ((double)t->o.write_bytes / DAY_US);
    t->write_left = QN_MIN(t->write_left, (double)t->o.write_bytes);
    t->write_us = now;
    if (t->write_left < n) return false;
    t->write_left -= n;
    return true;
}

/* To the copier, when it is only in RAM and may be written. */
static void write_out(struct qn_tier *t, struct blob *b)
{
    if (!t->store || b->state != IN_RAM || b->is_doomed) return;
    if (!may_write(t, (double)file_bytes(b))) {
        t->stats.n_over_budget++;
        return;
    }
    turn(t, b, WRITING);
    t->n_writing++;
    qn_store_write(t->store, &b->item);
}

static void keep_media(struct blob *b, const uint64_t *media)
{
    if (!media) return;
    b->item.h.kind |= QN_STORE_MEDIA;
    b->item.media = xcalloc(QN_PAGE, sizeof *media);
    memcpy(b->item.media, media, QN_PAGE * sizeof *media);
}

/* For what a chore of the next work will bring. */
static struct blob *new_blob(struct qn_tier *t, const struct qn_store_head *h, const uint64_t *media)
{
    void *data = new_data(t, h->n_byte);
    if (!data) return NULL;
    struct blob *b = xcalloc(1, sizeof *b);
    b->item.h = *h;
    keep_media(b, media);
    if (t->store) qn_store_stamp(t->store, &b->item.h);
    b->item.data = data;
    b->born = qn_cache_clock(t->cache);
    *t->end_filling = b;
    t->end_filling = &b->next_filling;
    b->last_use = t->clock;
    turn(t, b, FILLING);
    set_busy(t, b);
    add(t, b);
    return b;
}

static uint64_t parent_key(const struct qn_cache *c, int parent, uint64_t root)
{
    return parent >= 0 ? qn_cache_node(c, parent)->key : root;
}

static bool save_page(struct qn_tier *t, int page)
{
    const struct qn_node *n = qn_cache_node(t->cache, page);
    struct qn_store_head h = {.key = n->key,
                              .parent = parent_key(t->cache, n->parent, n->root),
                              .root = n->root,
                              .n_byte = t->o.page_bytes,
                              .kind = QN_STORE_PAGE,
                              .n_tok = (n->depth + 1) * QN_PAGE,
                              .n_tail = QN_PAGE,
                              .mtp_from = n->mtp_from};
    struct qn_words words = qn_cache_words(t->cache, page);
    memcpy(h.tok, words.tok, sizeof h.tok);
    struct blob *b = new_blob(t, &h, words.media);
    if (b) qn_cache_read_page(t->cache, page, b->item.data);
    return b;
}

static size_t snapshot_bytes(const struct qn_tier *t, int n_tail)
{
    return t->o.slot_bytes + (n_tail ? t->o.page_bytes : 0);
}

static bool save_snapshot(struct qn_tier *t, int slot)
{
    const struct qn_snap *s = qn_cache_snap(t->cache, slot);
    int n_tail = s->n_tok % QN_PAGE;
    struct qn_store_head h = {.key = s->key,
                              .parent = parent_key(t->cache, s->parent, s->root),
                              .root = s->root,
                              .n_byte = snapshot_bytes(t, n_tail),
                              .kind = QN_STORE_SNAPSHOT,
                              .n_tok = s->n_tok,
                              .n_tail = n_tail,
                              .mtp_from = s->mtp_from};
    memcpy(h.tok, s->tail, (size_t)n_tail * sizeof *h.tok);
    struct blob *b = new_blob(t, &h, s->media);
    if (!b) return false;
    qn_cache_read_slot(t->cache, slot, b->item.data);
    if (n_tail) qn_cache_read_page(t->cache, s->tail_page, (char *)b->item.data + t->o.slot_bytes);
    t->stats.n_saved++;
    return true;
}

enum qn_tier_saved qn_tier_save(struct qn_tier *t, int slot, int64_t max_bytes)
{
    const struct qn_cache *c = t->cache;
    const struct qn_snap *s = qn_cache_snap(c, slot);
    int64_t n_byte = 0;
    t->clock++;
    for (int page = s->parent; page >= 0; page = qn_cache_node(c, page)->parent) { /* what is there stays */
        struct blob *b = find(t, QN_STORE_PAGE, qn_cache_node(c, page)->key);
        if (!b) continue;
        touch(t, b);
        write_out(t, b); /* that could not be written before */
    }
    for (int page = s->parent; page >= 0; page = qn_cache_node(c, page)->parent) {
        if (find(t, QN_STORE_PAGE, qn_cache_node(c, page)->key)) continue;
        if (n_byte && n_byte + (int64_t)t->o.page_bytes > max_bytes) return QN_TIER_MORE;
        if (!save_page(t, page)) return QN_TIER_NO_ROOM;
        n_byte += (int64_t)t->o.page_bytes;
    }
    if (!find(t, QN_STORE_SNAPSHOT, s->key)) {
        size_t size = snapshot_bytes(t, s->n_tok % QN_PAGE);
        if (n_byte && n_byte + (int64_t)size > max_bytes) return QN_TIER_MORE;
        if (!save_snapshot(t, slot)) return QN_TIER_NO_ROOM;
    }
    qn_cache_set_stored(t->cache, slot);
    return QN_TIER_SAVED;
}

/* --- bringing back --- */

/* The deepest snapshot here whose pages are here or in the tree. */
static struct blob *deepest(const struct qn_tier *t, const struct qn_prefix *p, int n_have)
{
    struct blob *best = NULL;
    uint64_t parent = p->root;
    for (int done = 0;; done += QN_PAGE) {
        for (struct blob *b = first_snapshot(t, parent); b; b = b->next_sibling) {
            const struct qn_store_head *h = &b->item.h;
            if (!b->is_doomed && h->root == p->root && h->n_tok < p->n && h->n_tok > n_have &&
                h->n_tok - done < QN_PAGE && h->n_tok >= done && (!best || h->n_tok > best->item.h.n_tok) &&
                is_same(b, p, done, h->n_tok - done))
                best = b;
        }
        if (p->n - done < QN_PAGE) break;
        uint64_t key = qn_prefix_key(p, parent, done / QN_PAGE);
        if (!find_page(t, p, done / QN_PAGE, key) && !qn_cache_has_key(t->cache, key)) break;
        parent = key;
    }
    return best;
}

/* A prefix on its way back. */
struct trip {
    const struct qn_prefix *p;
    struct blob *snap;
    int64_t max_bytes;
    int32_t *page; /* [n] pages of the path that are held meanwhile */
    int n;
    int missing; /* the first page that is not in RAM, or their number: the snapshot; -1: none, or no room */
    bool is_cut; /* max_bytes were reached */
};

/* Page i of the path from RAM into the tree. Returns it, or -1, with *trip saying why. */
static int bring_page(struct qn_tier *t, struct trip *trip, int parent, struct blob *b, int64_t *n_byte)
{
    touch(t, b);
    if (!has_bytes(b)) {
        trip->missing = trip->n;
        return -1;
    }
    if (*n_byte && *n_byte + (int64_t)t->o.page_bytes > trip->max_bytes) {
        trip->is_cut = true;
        return -1;
    }
    set_busy(t, b); /* before anything is evicted for it */
    int page = qn_cache_take_page(t->cache);
    if (page < 0) return -1;
    qn_cache_write_page(t->cache, page, b->item.data);
    *n_byte += (int64_t)t->o.page_bytes;
    int node = qn_cache_insert(t->cache, trip->p, parent, page, QN_CLAMP(b->item.h.mtp_from, 0, QN_PAGE));
    if (node == page) return page;
    qn_cache_drop_page(t->cache, page); /* a collision of keys */
    return -1;
}

/* The pages of the path, from the root on, as nodes of the tree, as far as they are in RAM. true: all of
 * them. */
static bool bring_pages(struct qn_tier *t, struct trip *trip, int n_full)
{
    uint64_t key = trip->p->root;
    int parent = -1;
    int64_t n_byte = 0;
    for (int i = 0; i < n_full; i++) {
        key = qn_prefix_key(trip->p, key, i);
        int node = qn_cache_find_node(t->cache, trip->p, parent);
        if (node >= 0) {
            qn_cache_use_page(t->cache, node);
        } else {
            struct blob *b = find_page(t, trip->p, i, key);
            if (!b) return false;
            node = bring_page(t, trip, parent, b, &n_byte);
            if (node < 0) return false;
        }
        trip->page[trip->n++] = parent = node;
    }
    return true;
}

/* The snapshot itself, behind its pages. */
static bool bring_snapshot(struct qn_tier *t, const struct trip *trip)
{
    struct qn_cache *c = t->cache;
    struct blob *snap = trip->snap;
    struct qn_spot at = {.of = trip->p,
                         .n_tok = snap->item.h.n_tok,
                         .parent = trip->n ? trip->page[trip->n - 1] : -1,
                         .tail_page = -1,
                         .mtp_from = QN_MAX(snap->item.h.mtp_from, 0)};
    int n_tail = snap->item.h.n_tail, slot = -1;
    set_busy(t, snap);
    if (n_tail) at.tail_page = qn_cache_take_page(c);
    if (!n_tail || at.tail_page >= 0) slot = qn_cache_take_slot(c);
    if (slot >= 0) {
        qn_cache_write_slot(c, slot, snap->item.data);
        if (n_tail) qn_cache_write_page(c, at.tail_page, (char *)snap->item.data + t->o.slot_bytes);
        qn_cache_give_snap(c, &at, slot);
        int known = qn_cache_find_snap(c, &at);
        if (known >= 0) qn_cache_set_stored(c, known);
    }
    if (at.tail_page >= 0) qn_cache_drop_page(c, at.tail_page);
    return slot >= 0;
}

/* Asks the copier for the pages from the first missing one on and the snapshot, as far as half the RAM
 * goes. */
static bool fetch(struct qn_tier *t, const struct trip *trip, struct qn_tier_wait *wait)
{
    int n_full = trip->snap->item.h.n_tok / QN_PAGE;
    int64_t left = QN_MAX(t->o.ram_bytes / 2, (int64_t)t->o.page_bytes);
    struct qn_store_fetch *f =
        xcalloc(1, sizeof *f + ((size_t)(n_full - trip->missing) + 1) * sizeof *f->list);
    bool is_waiting = false;
    uint64_t key = trip->p->root;
    for (int i = 0; i <= n_full && left > 0; i++) {
        if (i < n_full) key = qn_prefix_key(trip->p, key, i);
        if (i < trip->missing) continue;
        struct blob *b = i < n_full ? find_page(t, trip->p, i, key) : trip->snap;
        if (!b) continue; /* in the tree */
        touch(t, b);
        left -= (int64_t)b->item.h.n_byte;
        is_waiting |= b->state == READING; /* somebody else asked */
        if (b->state != ON_DISK) continue;
        void *data = new_data(t, b->item.h.n_byte);
        if (!data) break;
        b->item.data = data;
        turn(t, b, READING);
        f->list[f->n++] = &b->item;
    }
    if (!f->n) {
        free(f);
        if (is_waiting) wait->fetch = t->n_fetch;
        return is_waiting;
    }
    f->number = wait->fetch = ++t->n_fetch;
    qn_store_read(t->store, f);
    return true;
}

uint64_t qn_tier_version(const struct qn_tier *t)
{
    return t->version;
}

/* What is not in RAM is asked for. true: it has to be waited for. */
static bool ask_for_missing(struct qn_tier *t, const struct trip *trip, struct qn_tier_wait *wait)
{
    if (fetch(t, trip, wait)) return true;
    if (t->last_busy > t->n_returned) { /* RAM is full of what is being copied */
        wait->work = t->last_busy;
        return true;
    }
    if (t->n_writing) {
        wait->reply = t->n_reply + 1;
        return true;
    }
    return false;
}

enum qn_tier_promoted qn_tier_promote(struct qn_tier *t, const struct qn_prefix *p, int n_have,
                                      int64_t max_bytes, struct qn_tier_wait *wait, int *n_tok)
{
    *wait = (struct qn_tier_wait){0};
    struct blob *snap = deepest(t, p, n_have);
    if (!snap) return QN_TIER_NOTHING;
    t->clock++;
    touch(t, snap);
    t->held = snap; /* what is evicted for its pages is saved, and takes the place of what is not in use */
    int n_full = snap->item.h.n_tok / QN_PAGE;
    struct trip trip = {.p = p, .snap = snap, .max_bytes = max_bytes, .missing = -1};
    trip.page = xreallocarray(NULL, (size_t)n_full + 1, sizeof *trip.page);
    bool is_waiting = false, is_whole = bring_pages(t, &trip, n_full);
    if (is_whole && !has_bytes(snap)) {
        is_whole = false;
        trip.missing = n_full;
    }
    if (is_whole) {
        if (bring_snapshot(t, &trip)) {
            t->stats.n_hit++;
            t->stats.n_hit_tok += (uint64_t)(snap->item.h.n_tok - n_have);
            *n_tok += snap->item.h.n_tok - n_have;
        }
    } else if (trip.missing >= 0) {
        is_waiting = ask_for_missing(t, &trip, wait);
    } else if (trip.is_cut) {
        wait->work = t->last_busy;
        is_waiting = true;
    }
    t->held = NULL;
    while (trip.n) qn_cache_drop_page(t->cache, trip.page[--trip.n]);
    free(trip.page);
    return is_waiting ? QN_TIER_WAIT : QN_TIER_TRIED;
}

bool qn_tier_is_over(const struct qn_tier *t, const struct qn_tier_wait *wait)
{
    return t->n_fetched >= wait->fetch && t->n_returned >= wait->work && t->n_reply >= wait->reply;
}

/* --- taking back --- */

static void doom(struct qn_tier *t, struct blob *b)
{
    t->n_doomed += !b->is_doomed;
    b->is_doomed = true;
}

/* Those that are doomed and not busy go, with their files. */
static void remove_doomed(struct qn_tier *t)
{
    for (int i = t->n_blob; i-- && t->n_doomed;) {
        struct blob *b = t->blob[i];
        if (!b->is_doomed || is_busy(t, b)) continue;
        if (b->state == BOTH) remove_file(t, b);
        if (b->state == ON_DISK)
            remove_file(t, b);
        else
            forget(t, b);
    }
}

void qn_tier_drop(struct qn_tier *t, const struct qn_prefix *p, int n_keep_page, int64_t since)
{
    uint64_t parent = p->root;
    for (int done = 0;; done += QN_PAGE) {
        for (struct blob *b = first_snapshot(t, parent); b; b = b->next_sibling) {
            const struct qn_store_head *h = &b->item.h;
            if (h->root == p->root && b->born >= since && h->n_tok >= done && h->n_tok <= p->n &&
                is_same(b, p, done, h->n_tok - done))
                doom(t, b);
        }
        if (p->n - done < QN_PAGE) break;
        parent = qn_prefix_key(p, parent, done / QN_PAGE);
        struct blob *page = find(t, QN_STORE_PAGE, parent);
        if (page && done / QN_PAGE >= n_keep_page && page->born >= since && is_same(page, p, done, QN_PAGE))
            doom(t, page);
    }
    remove_doomed(t);
}

/* --- coming and going of work --- */

void qn_tier_published(struct qn_tier *t)
{
    t->n_published++;
}

void qn_tier_returned(struct qn_tier *t)
{
    t->n_returned = t->n_published;
    while (t->first_filling && t->first_filling->busy <= t->n_returned) {
        struct blob *b = t->first_filling;
        t->first_filling = b->next_filling;
        if (!t->first_filling) t->end_filling = &t->first_filling;
        b->next_filling = NULL;
        turn(t, b, IN_RAM);
        write_out(t, b);
    }
    remove_doomed(t);
}

static void came_back(struct qn_tier *t, struct qn_store_fetch *f)
{
    for (int i = 0; i < f->n; i++) {
        struct blob *b = (struct blob *)f->list[i];
        if (!b->item.is_failed) {
            turn(t, b, BOTH);
            t->stats.n_read++;
            t->stats.read_bytes += file_bytes(b);
            continue;
        }
        char name[4200];
        qn_store_file_name(t->store, &b->item.h, name, sizeof name);
        qn_log(QN_LOG_WARN, "tier", "%s: damaged, ignored", name);
        t->stats.n_damaged++;
        forget(t, b); /* the next save writes it anew */
    }
    t->n_fetched = f->number;
    free(f);
}

static void was_written(struct qn_tier *t, struct blob *b)
{
    static struct qn_log_limit limit;
    unsigned n_left_out;
    t->n_writing--;
    if (b->item.is_failed) {
        turn(t, b, IN_RAM);
        t->stats.n_failed++;
        if (qn_log_allow(&limit, 60, &n_left_out))
            qn_log(QN_LOG_WARN, "tier", "%s cannot be written; pages stay in RAM", qn_store_folder(t->store));
        return;
    }
    turn(t, b, BOTH);
    t->stats.n_write++;
    t->stats.write_bytes += file_bytes(b);
    while (t->stats.disk_bytes > t->o.disk_bytes) {
        struct blob *old = oldest(t, DISK);
        if (!old) break;
        remove_file(t, old);
    }
}

void qn_tier_letter(struct qn_tier *t, struct qn_letter *letter)
{
    struct qn_store_job *j = (struct qn_store_job *)letter;
    t->n_reply++;
    if (j->kind == QN_STORE_READ)
        came_back(t, (struct qn_store_fetch *)j);
    else
        was_written(t, (struct blob *)j);
    remove_doomed(t);
}

bool qn_tier_is_copying(const struct qn_tier *t)
{
    return t->n_writing > 0 || t->n_fetched < t->n_fetch;
}

void qn_tier_stats(const struct qn_tier *t, struct qn_tier_stats *out)
{
    *out = t->stats;
    out->ram_budget = t->o.ram_bytes;
    out->disk_budget = t->store ? t->o.disk_bytes : 0;
    out->n_ram = t->list[RAM].n;
    out->n_file = t->list[DISK].n;
}

/* --- open and close --- */

static int by_age(const void *a, const void *b)
{
    const struct blob *x = *(struct blob *const *)a, *y = *(struct blob *const *)b;
    return x->last_use < y->last_use ? -1 : x->last_use > y->last_use;
}

static void found(void *user, const struct qn_store_head *h, const uint64_t *media, int64_t when)
{
    struct blob *b = xcalloc(1, sizeof *b);
    b->item.h = *h;
    keep_media(b, media);
    b->last_use = when;
    add(user, b);
}

/* What open found in the folder: file times become places in our order. */
static void take_files(struct qn_tier *t)
{
    if (!t->n_blob) return;
    qsort(t->blob, (size_t)t->n_blob, sizeof *t->blob, by_age);
    for (int i = 0; i < t->n_blob; i++) {
        t->blob[i]->at = i;
        t->blob[i]->last_use = ++t->clock;
        turn(t, t->blob[i], ON_DISK);
    }
    t->clock++;
}

int qn_tier_open(struct qn_tier **out, struct qn_cache *c, const struct qn_tier_options *o, struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_tier *t = xcalloc(1, sizeof *t);
    t->cache = c;
    t->version = 1;
    t->o = *o;
    t->end_filling = &t->first_filling;
    if (!t->o.disk_bytes) t->o.disk_bytes = DEFAULT_DISK;
    if (!t->o.write_bytes) t->o.write_bytes = WRITE_TIMES * t->o.disk_bytes;
    t->write_left = (double)t->o.write_bytes;
    t->write_us = qn_now_us();
    if (o->folder) {
        int n_damaged;
        struct qn_store_options store = {.folder = o->folder,
                                         .fingerprint = o->fingerprint,
                                         .page_bytes = o->page_bytes,
                                         .slot_bytes = o->slot_bytes,
                                         .home = o->home,
                                         .letter_kind = o->letter_kind,
                                         .found = found,
                                         .user = t};
        QN_TRY(qn_store_open(&t->store, &store, &n_damaged, e));
        t->stats.n_damaged += (uint64_t)n_damaged;
        take_files(t);
    }
    *out = t;
    t = NULL;
out:
    qn_tier_close(t);
    return rc;
}

void qn_tier_close(struct qn_tier *t)
{
    if (!t) return;
    QN_CHECK(!qn_tier_is_copying(t));
    qn_store_close(t->store);
    for (int i = 0; i < t->n_blob; i++) {
        free(t->blob[i]->item.media);
        free(t->blob[i]->item.data);
        free(t->blob[i]);
    }
    free(t->blob);
    qn_map_free(&t->by_key);
    qn_map_free(&t->by_parent);
    free(t);
}
