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
 * SPDX-License-Identifier: Apache-2.0 */
#include "engine/tier.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "engine/blobs.h"

#define DEFAULT_DISK ((int64_t)8 << 30)
#define WRITE_TIMES  16 /* the folder's size may be written a day, unless told */
#define DAY_US       (86400 * 1e6)

struct qn_tier {
    struct qn_cache *cache;
    struct qn_tier_options o;
    struct qn_store *store; /* NULL: RAM only */
    struct qn_blobs blobs;
    struct qn_blob *first_filling, **end_filling;
    int64_t n_fetch, n_fetched; /* asked for, come back; in order */
    int64_t n_reply;            /* letters of the copier */
    int n_writing;
    double write_left; /* bytes that may be written now */
    int64_t write_us;  /* when that was reckoned */
    struct qn_tier_stats stats;
};

/* --- room --- */

static void remove_file(struct qn_tier *t, struct qn_blob *b)
{
    qn_store_remove(t->store, &b->item.h);
    t->stats.n_file_drop++;
    if (b->state == QN_BLOB_BOTH)
        qn_blobs_turn(&t->blobs, b, QN_BLOB_IN_RAM);
    else
        qn_blobs_forget(&t->blobs, b);
}

/* Room in RAM for n bytes: blobs on disk lose their bytes, others go. */
static bool make_room(struct qn_tier *t, size_t n)
{
    while (t->blobs.n_byte[QN_BLOB_RAM] + (int64_t)n > t->o.ram_bytes) {
        struct qn_blob *b = qn_blobs_oldest(&t->blobs, QN_BLOB_RAM);
        if (!b) return false;
        t->stats.n_ram_drop++;
        if (b->state == QN_BLOB_BOTH)
            qn_blobs_turn(&t->blobs, b, QN_BLOB_ON_DISK);
        else
            qn_blobs_forget(&t->blobs, b);
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
static void write_out(struct qn_tier *t, struct qn_blob *b)
{
    if (!t->store || b->state != QN_BLOB_IN_RAM || b->is_doomed) return;
    if (!may_write(t, (double)qn_blob_file_bytes(b))) {
        t->stats.n_over_budget++;
        return;
    }
    qn_blobs_turn(&t->blobs, b, QN_BLOB_WRITING);
    t->n_writing++;
    qn_store_write(t->store, &b->item);
}

/* For what a chore of the next work will bring. */
static struct qn_blob *new_blob(struct qn_tier *t, const struct qn_store_head *h, const uint64_t *media)
{
    void *data = new_data(t, h->n_byte);
    if (!data) return NULL;
    struct qn_blob *b = xcalloc(1, sizeof *b);
    b->item.h = *h;
    qn_blob_keep_media(b, media);
    if (t->store) qn_store_stamp(t->store, &b->item.h);
    b->item.data = data;
    b->born = qn_cache_clock(t->cache);
    *t->end_filling = b;
    t->end_filling = &b->next_filling;
    b->last_use = t->blobs.clock;
    qn_blobs_turn(&t->blobs, b, QN_BLOB_FILLING);
    qn_blobs_set_busy(&t->blobs, b);
    qn_blobs_add(&t->blobs, b);
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
    struct qn_blob *b = new_blob(t, &h, words.media);
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
    struct qn_blob *b = new_blob(t, &h, s->media);
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
    t->blobs.clock++;
    for (int page = s->parent; page >= 0; page = qn_cache_node(c, page)->parent) { /* what is there stays */
        struct qn_blob *b = qn_blobs_find(&t->blobs, QN_STORE_PAGE, qn_cache_node(c, page)->key);
        if (!b) continue;
        qn_blobs_touch(&t->blobs, b);
        write_out(t, b); /* that could not be written before */
    }
    for (int page = s->parent; page >= 0; page = qn_cache_node(c, page)->parent) {
        if (qn_blobs_find(&t->blobs, QN_STORE_PAGE, qn_cache_node(c, page)->key)) continue;
        if (n_byte && n_byte + (int64_t)t->o.page_bytes > max_bytes) return QN_TIER_MORE;
        if (!save_page(t, page)) return QN_TIER_NO_ROOM;
        n_byte += (int64_t)t->o.page_bytes;
    }
    if (!qn_blobs_find(&t->blobs, QN_STORE_SNAPSHOT, s->key)) {
        size_t size = snapshot_bytes(t, s->n_tok % QN_PAGE);
        if (n_byte && n_byte + (int64_t)size > max_bytes) return QN_TIER_MORE;
        if (!save_snapshot(t, slot)) return QN_TIER_NO_ROOM;
    }
    qn_cache_set_stored(t->cache, slot);
    return QN_TIER_SAVED;
}

/* --- bringing back --- */

/* The deepest snapshot here whose pages are here or in the tree. */
static struct qn_blob *deepest(const struct qn_tier *t, const struct qn_prefix *p, int n_have)
{
    struct qn_blob *best = NULL;
    uint64_t parent = p->root;
    for (int done = 0;; done += QN_PAGE) {
        for (struct qn_blob *b = qn_blobs_snapshots(&t->blobs, parent); b; b = b->next_sibling) {
            const struct qn_store_head *h = &b->item.h;
            if (!b->is_doomed && h->root == p->root && h->n_tok < p->n && h->n_tok > n_have &&
                h->n_tok - done < QN_PAGE && h->n_tok >= done && (!best || h->n_tok > best->item.h.n_tok) &&
                qn_blob_is_same(b, p, done, h->n_tok - done))
                best = b;
        }
        if (p->n - done < QN_PAGE) break;
        uint64_t key = qn_prefix_key(p, parent, done / QN_PAGE);
        if (!qn_blobs_find_page(&t->blobs, p, done / QN_PAGE, key) && !qn_cache_has_key(t->cache, key)) break;
        parent = key;
    }
    return best;
}

/* A prefix on its way back. */
struct trip {
    const struct qn_prefix *p;
    struct qn_blob *snap;
    int64_t max_bytes;
    int32_t *page; /* [n] pages of the path that are held meanwhile */
    int n;
    int missing; /* the first page that is not in RAM, or their number: the snapshot; -1: none, or no room */
    bool is_cut; /* max_bytes were reached */
};

/* Page i of the path from RAM into the tree. Returns it, or -1, with *trip saying why. */
static int bring_page(struct qn_tier *t, struct trip *trip, int parent, struct qn_blob *b, int64_t *n_byte)
{
    qn_blobs_touch(&t->blobs, b);
    if (!qn_blob_has_bytes(b)) {
        trip->missing = trip->n;
        return -1;
    }
    if (*n_byte && *n_byte + (int64_t)t->o.page_bytes > trip->max_bytes) {
        trip->is_cut = true;
        return -1;
    }
    qn_blobs_set_busy(&t->blobs, b); /* before anything is evicted for it */
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
            struct qn_blob *b = qn_blobs_find_page(&t->blobs, trip->p, i, key);
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
    struct qn_blob *snap = trip->snap;
    struct qn_spot at = {.of = trip->p,
                         .n_tok = snap->item.h.n_tok,
                         .parent = trip->n ? trip->page[trip->n - 1] : -1,
                         .tail_page = -1,
                         .mtp_from = QN_MAX(snap->item.h.mtp_from, 0)};
    int n_tail = snap->item.h.n_tail, slot = -1;
    qn_blobs_set_busy(&t->blobs, snap);
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
        struct qn_blob *b = i < n_full ? qn_blobs_find_page(&t->blobs, trip->p, i, key) : trip->snap;
        if (!b) continue; /* in the tree */
        qn_blobs_touch(&t->blobs, b);
        left -= (int64_t)b->item.h.n_byte;
        is_waiting |= b->state == QN_BLOB_READING; /* somebody else asked */
        if (b->state != QN_BLOB_ON_DISK) continue;
        void *data = new_data(t, b->item.h.n_byte);
        if (!data) break;
        b->item.data = data;
        qn_blobs_turn(&t->blobs, b, QN_BLOB_READING);
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
    return t->blobs.version;
}

/* What is not in RAM is asked for. true: it has to be waited for. */
static bool ask_for_missing(struct qn_tier *t, const struct trip *trip, struct qn_tier_wait *wait)
{
    if (fetch(t, trip, wait)) return true;
    if (t->blobs.last_busy > t->blobs.n_returned) { /* RAM is full of what is being copied */
        wait->work = t->blobs.last_busy;
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
    struct qn_blob *snap = deepest(t, p, n_have);
    if (!snap) return QN_TIER_NOTHING;
    t->blobs.clock++;
    qn_blobs_touch(&t->blobs, snap);
    t->blobs.held =
        snap; /* what is evicted for its pages is saved, and takes the place of what is not in use */
    int n_full = snap->item.h.n_tok / QN_PAGE;
    struct trip trip = {.p = p, .snap = snap, .max_bytes = max_bytes, .missing = -1};
    trip.page = xreallocarray(NULL, (size_t)n_full + 1, sizeof *trip.page);
    bool is_waiting = false, is_whole = bring_pages(t, &trip, n_full);
    if (is_whole && !qn_blob_has_bytes(snap)) {
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
        wait->work = t->blobs.last_busy;
        is_waiting = true;
    }
    t->blobs.held = NULL;
    while (trip.n) qn_cache_drop_page(t->cache, trip.page[--trip.n]);
    free(trip.page);
    return is_waiting ? QN_TIER_WAIT : QN_TIER_TRIED;
}

bool qn_tier_is_over(const struct qn_tier *t, const struct qn_tier_wait *wait)
{
    return t->n_fetched >= wait->fetch && t->blobs.n_returned >= wait->work && t->n_reply >= wait->reply;
}

/* --- taking back --- */

/* Those that are doomed and not busy go, with their files. */
static void remove_doomed(struct qn_tier *t)
{
    for (int i = t->blobs.n; i-- && t->blobs.n_doomed;) {
        struct qn_blob *b = t->blobs.list[i];
        if (!b->is_doomed || qn_blobs_is_busy(&t->blobs, b)) continue;
        if (b->state == QN_BLOB_BOTH) remove_file(t, b);
        if (b->state == QN_BLOB_ON_DISK)
            remove_file(t, b);
        else
            qn_blobs_forget(&t->blobs, b);
    }
}

void qn_tier_drop(struct qn_tier *t, const struct qn_prefix *p, int n_keep_page, int64_t since)
{
    uint64_t parent = p->root;
    for (int done = 0;; done += QN_PAGE) {
        for (struct qn_blob *b = qn_blobs_snapshots(&t->blobs, parent); b; b = b->next_sibling) {
            const struct qn_store_head *h = &b->item.h;
            if (h->root == p->root && b->born >= since && h->n_tok >= done && h->n_tok <= p->n &&
                qn_blob_is_same(b, p, done, h->n_tok - done))
                qn_blobs_doom(&t->blobs, b);
        }
        if (p->n - done < QN_PAGE) break;
        parent = qn_prefix_key(p, parent, done / QN_PAGE);
        struct qn_blob *page = qn_blobs_find(&t->blobs, QN_STORE_PAGE, parent);
        if (page && done / QN_PAGE >= n_keep_page && page->born >= since &&
            qn_blob_is_same(page, p, done, QN_PAGE))
            qn_blobs_doom(&t->blobs, page);
    }
    remove_doomed(t);
}

/* --- coming and going of work --- */

void qn_tier_published(struct qn_tier *t)
{
    t->blobs.n_published++;
}

void qn_tier_returned(struct qn_tier *t)
{
    t->blobs.n_returned = t->blobs.n_published;
    while (t->first_filling && t->first_filling->busy <= t->blobs.n_returned) {
        struct qn_blob *b = t->first_filling;
        t->first_filling = b->next_filling;
        if (!t->first_filling) t->end_filling = &t->first_filling;
        b->next_filling = NULL;
        qn_blobs_turn(&t->blobs, b, QN_BLOB_IN_RAM);
        write_out(t, b);
    }
    remove_doomed(t);
}

static void came_back(struct qn_tier *t, struct qn_store_fetch *f)
{
    for (int i = 0; i < f->n; i++) {
        struct qn_blob *b = (struct qn_blob *)f->list[i];
        if (!b->item.is_failed) {
            qn_blobs_turn(&t->blobs, b, QN_BLOB_BOTH);
            t->stats.n_read++;
            t->stats.read_bytes += qn_blob_file_bytes(b);
            continue;
        }
        char name[4200];
        qn_store_file_name(t->store, &b->item.h, name, sizeof name);
        qn_log(QN_LOG_WARN, "tier", "%s: damaged, ignored", name);
        t->stats.n_damaged++;
        qn_blobs_forget(&t->blobs, b); /* the next save writes it anew */
    }
    t->n_fetched = f->number;
    free(f);
}

static void was_written(struct qn_tier *t, struct qn_blob *b)
{
    static struct qn_log_limit limit;
    unsigned n_left_out;
    t->n_writing--;
    if (b->item.is_failed) {
        qn_blobs_turn(&t->blobs, b, QN_BLOB_IN_RAM);
        t->stats.n_failed++;
        if (qn_log_allow(&limit, 60, &n_left_out))
            qn_log(QN_LOG_WARN, "tier", "%s cannot be written; pages stay in RAM", qn_store_folder(t->store));
        return;
    }
    qn_blobs_turn(&t->blobs, b, QN_BLOB_BOTH);
    t->stats.n_write++;
    t->stats.write_bytes += qn_blob_file_bytes(b);
    while (t->blobs.n_byte[QN_BLOB_DISK] > t->o.disk_bytes) {
        struct qn_blob *old = qn_blobs_oldest(&t->blobs, QN_BLOB_DISK);
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
        was_written(t, (struct qn_blob *)j);
    remove_doomed(t);
}

bool qn_tier_is_copying(const struct qn_tier *t)
{
    return t->n_writing > 0 || t->n_fetched < t->n_fetch;
}

void qn_tier_stats(const struct qn_tier *t, struct qn_tier_stats *out)
{
    *out = t->stats;
    out->ram_bytes = t->blobs.n_byte[QN_BLOB_RAM];
    out->disk_bytes = t->blobs.n_byte[QN_BLOB_DISK];
    out->ram_budget = t->o.ram_bytes;
    out->disk_budget = t->store ? t->o.disk_bytes : 0;
    out->n_ram = t->blobs.by_use[QN_BLOB_RAM].n;
    out->n_file = t->blobs.by_use[QN_BLOB_DISK].n;
}

/* --- open and close --- */

static int by_age(const void *a, const void *b)
{
    const struct qn_blob *x = *(struct qn_blob *const *)a, *y = *(struct qn_blob *const *)b;
    return x->last_use < y->last_use ? -1 : x->last_use > y->last_use;
}

static void found(void *user, const struct qn_store_head *h, const uint64_t *media, int64_t when)
{
    struct qn_blob *b = xcalloc(1, sizeof *b);
    b->item.h = *h;
    qn_blob_keep_media(b, media);
    b->last_use = when;
    qn_blobs_add(user, b);
}

/* What open found in the folder: file times become places in our order. */
static void take_files(struct qn_tier *t)
{
    if (!t->blobs.n) return;
    qsort(t->blobs.list, (size_t)t->blobs.n, sizeof *t->blobs.list, by_age);
    for (int i = 0; i < t->blobs.n; i++) {
        t->blobs.list[i]->at = i;
        t->blobs.list[i]->last_use = ++t->blobs.clock;
        qn_blobs_turn(&t->blobs, t->blobs.list[i], QN_BLOB_ON_DISK);
    }
    t->blobs.clock++;
}

int qn_tier_open(struct qn_tier **out, struct qn_cache *c, const struct qn_tier_options *o, struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_tier *t = xcalloc(1, sizeof *t);
    t->cache = c;
    t->blobs.version = 1;
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
                                         .user = &t->blobs};
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
    qn_blobs_fini(&t->blobs);
    free(t);
}
