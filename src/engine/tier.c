/* Blobs in RAM and files.
 * SPDX-License-Identifier: Apache-2.0 */
#include "engine/tier.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"

#define MAGIC         "quernkv1"
#define DEFAULT_DISK  ((int64_t)8 << 30)
#define WRITE_TIMES   16 /* the folder's size may be written a day, unless told */
#define MAX_FILES     (1 << 20)
#define KIND_PAGE     0
#define KIND_SNAPSHOT 1
#define DAY_US        (86400 * 1e6)

struct header {
    char magic[8];
    uint64_t fingerprint, key, parent, root, checksum; /* of everything but itself */
    uint64_t n_byte;
    int32_t kind, n_tok, n_tail, mtp_from; /* as of the node or snapshot */
    int32_t tok[QN_PAGE];                  /* of the page, or of the snapshot's tail */
};

/* What the copier is given. Writes and reads come back; a removal is freed there. */
enum job_kind { JOB_WRITE, JOB_READ, JOB_REMOVE, JOB_QUIT };
struct job {
    struct qn_letter letter;
    enum job_kind kind;
};

enum place { IN_RAM, ON_DISK, N_PLACE };

struct blob {
    struct job job; /* a write */
    /* The copier's, read when its letter is back. Apart from the engine's flags: a compiler may read those
     * in one word, this one with them. */
    bool is_failed;
    struct header h;
    void *data;      /* NULL: on disk only */
    int64_t busy;    /* number of the work that has its chore; done when it is back */
    bool is_filling; /* in the list of those that a read of the device fills; then they go to the copier */
    bool is_writing, is_reading, is_on_disk;
    bool is_held;    /* a promotion is looking at it */
    bool is_dropped; /* not to be used any more; goes as soon as it is not busy */
    int64_t born;    /* of the cache's clock; 0: before the start */
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

struct fetch { /* blobs that the copier reads, in order */
    struct job job;
    int64_t number;
    int n;
    struct blob *list[];
};

struct removal {
    struct job job;
    char name[];
};

struct qn_tier {
    struct qn_cache *cache;
    struct qn_tier_options o;
    char *folder;
    struct blob **blob;
    int n_blob, capacity;
    struct list list[N_PLACE];
    struct qn_map by_key;    /* key of page or snapshot -> blob */
    struct qn_map by_parent; /* key of the parent -> first snapshot */
    struct blob *first_filling, **end_filling;
    int64_t clock, n_published, n_returned, last_busy;
    int64_t n_fetch, n_fetched; /* asked for, come back; in order */
    int64_t n_reply;            /* letters of the copier */
    uint64_t version;           /* blobs that came */
    int n_writing, n_dropped;
    double write_left; /* bytes that may be written now */
    int64_t write_us;  /* when that was reckoned */
    struct qn_tier_stats stats;
    struct qn_mail *copier_mail;
    pthread_t copier;
    bool has_copier;
    struct job quit;
};

static uint64_t checksum(const struct header *h, const void *data)
{
    struct header copy = *h;
    copy.checksum = 0;
    return qn_hash_bytes(qn_hash_bytes(1, &copy, sizeof copy), data, h->n_byte);
}

static void file_name(const struct qn_tier *t, const struct header *h, const char *end, char *out, size_t n)
{
    snprintf(out, n, "%s/%016llx-%c%016llx%s", t->folder, (unsigned long long)h->fingerprint,
             h->kind == KIND_PAGE ? 'p' : 's', (unsigned long long)h->key, end);
}

/* --- the copier --- */

static bool write_all(int fd, const void *data, size_t n)
{
    const char *p = data;
    while (n) {
        ssize_t k = write(fd, p, n);
        if (k < 0 && errno == EINTR) continue;
        if (k <= 0) return false;
        p += k;
        n -= (size_t)k;
    }
    return true;
}

static bool write_file(const struct qn_tier *t, struct blob *b)
{
    char name[4200], temporary[4200];
    file_name(t, &b->h, ".tmp", temporary, sizeof temporary);
    file_name(t, &b->h, ".qkv", name, sizeof name);
    b->h.checksum = checksum(&b->h, b->data);
    int fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0) return false;
    bool is_good = write_all(fd, &b->h, sizeof b->h) && write_all(fd, b->data, b->h.n_byte);
    is_good = close(fd) == 0 && is_good && rename(temporary, name) == 0;
    if (!is_good) unlink(temporary);
    return is_good;
}

/* Fills b->data from its file. */
static bool read_file(const struct qn_tier *t, const struct blob *b)
{
    char name[4200];
    struct header h;
    file_name(t, &b->h, ".qkv", name, sizeof name);
    int fd = open(name, O_RDONLY | O_CLOEXEC);
    bool is_good = fd >= 0 && read(fd, &h, sizeof h) == (ssize_t)sizeof h && h.n_byte == b->h.n_byte;
    for (size_t done = 0; is_good && done < h.n_byte;) {
        ssize_t k = read(fd, (char *)b->data + done, h.n_byte - done);
        if (k < 0 && errno == EINTR) continue;
        is_good = k > 0;
        if (is_good) done += (size_t)k;
    }
    if (is_good) futimens(fd, NULL); /* used: the next start knows */
    if (fd >= 0) close(fd);
    return is_good && h.checksum == checksum(&h, b->data) && h.key == b->h.key && h.kind == b->h.kind;
}

struct queue {
    struct qn_letter *first, **end;
};

static void queue_put(struct queue *q, struct qn_letter *letter)
{
    letter->next = NULL;
    *q->end = letter;
    q->end = &letter->next;
}

static struct qn_letter *queue_take(struct queue *q)
{
    struct qn_letter *letter = q->first;
    if (!letter) return NULL;
    q->first = letter->next;
    if (!q->first) q->end = &q->first;
    return letter;
}

static void *copier_main(void *arg)
{
    struct qn_tier *t = arg;
    struct queue reads = {NULL, &reads.first}, others = {NULL, &others.first};
    for (;;) {
        struct qn_letter *next = qn_mail_take(t->copier_mail, reads.first || others.first ? 0 : QN_FOREVER);
        while (next) {
            struct qn_letter *letter = next;
            next = letter->next;
            queue_put(((struct job *)letter)->kind == JOB_READ ? &reads : &others, letter);
        }
        struct job *j = (struct job *)queue_take(reads.first ? &reads : &others);
        if (j->kind == JOB_QUIT) return NULL;
        if (j->kind == JOB_REMOVE) {
            unlink(((struct removal *)j)->name);
            free(j);
            continue;
        }
        if (j->kind == JOB_READ) {
            struct fetch *f = (struct fetch *)j;
            for (int i = 0; i < f->n; i++) f->list[i]->is_failed = !read_file(t, f->list[i]);
        } else {
            struct blob *b = (struct blob *)j;
            b->is_failed = !write_file(t, b);
        }
        j->letter.kind = t->o.letter_kind;
        qn_mail_post(t->o.home, &j->letter);
    }
}

/* --- the lists --- */

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

static void touch(struct qn_tier *t, struct blob *b)
{
    b->last_use = t->clock;
    for (int p = 0; p < N_PLACE; p++) {
        if (p == IN_RAM ? !b->data : !b->is_on_disk) continue;
        leave(t, (enum place)p, b);
        join(t, (enum place)p, b);
    }
}

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

/* A page that may be brought back. */
static struct blob *find_page(const struct qn_tier *t, uint64_t key)
{
    struct blob *b = find(t, KIND_PAGE, key);
    return b && !b->is_dropped ? b : NULL;
}

static void add(struct qn_tier *t, struct blob *b)
{
    if (t->n_blob == t->capacity) {
        t->capacity = QN_MAX(64, t->capacity * 2);
        t->blob = xreallocarray(t->blob, (size_t)t->capacity, sizeof *t->blob);
    }
    b->at = t->n_blob;
    t->blob[t->n_blob++] = b;
    qn_map_put(&t->by_key, index_key(b->h.kind, b->h.key), (uint64_t)(uintptr_t)b);
    t->version++;
    if (b->h.kind != KIND_SNAPSHOT) return;
    uint64_t first = 0;
    qn_map_get(&t->by_parent, b->h.parent, &first);
    b->next_sibling = (struct blob *)(uintptr_t)first;
    qn_map_put(&t->by_parent, b->h.parent, (uint64_t)(uintptr_t)b);
}

static void drop_data(struct qn_tier *t, struct blob *b)
{
    if (!b->data) return;
    leave(t, IN_RAM, b);
    free(b->data);
    b->data = NULL;
    t->stats.ram_bytes -= (int64_t)b->h.n_byte;
}

static void no_file(struct qn_tier *t, struct blob *b)
{
    leave(t, ON_DISK, b);
    b->is_on_disk = false;
    t->stats.disk_bytes -= (int64_t)(sizeof b->h + b->h.n_byte);
}

static void remove_file(struct qn_tier *t, struct blob *b)
{
    char name[4200];
    file_name(t, &b->h, ".qkv", name, sizeof name);
    size_t n = strlen(name) + 1;
    struct removal *r = xcalloc(1, sizeof *r + n);
    r->job.kind = JOB_REMOVE;
    memcpy(r->name, name, n);
    qn_mail_post(t->copier_mail, &r->job.letter);
    no_file(t, b);
    t->stats.n_file_drop++;
}

static void forget(struct qn_tier *t, struct blob *b)
{
    if (b->h.kind == KIND_SNAPSHOT) {
        uint64_t first = 0;
        qn_map_get(&t->by_parent, b->h.parent, &first);
        struct blob *p = (struct blob *)(uintptr_t)first;
        if (p == b) {
            if (b->next_sibling)
                qn_map_put(&t->by_parent, b->h.parent, (uint64_t)(uintptr_t)b->next_sibling);
            else
                qn_map_remove(&t->by_parent, b->h.parent);
        } else {
            while (p->next_sibling != b) p = p->next_sibling;
            p->next_sibling = b->next_sibling;
        }
    }
    qn_map_remove(&t->by_key, index_key(b->h.kind, b->h.key));
    t->n_dropped -= b->is_dropped;
    drop_data(t, b);
    t->blob[b->at] = t->blob[--t->n_blob];
    t->blob[b->at]->at = b->at;
    free(b);
}

static bool is_busy(const struct qn_tier *t, const struct blob *b)
{
    return b->is_writing || b->is_reading || b->is_filling || b->is_held || b->busy > t->n_returned;
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
        struct blob *b = oldest(t, IN_RAM);
        if (!b) return false;
        drop_data(t, b);
        t->stats.n_ram_drop++;
        if (!b->is_on_disk) forget(t, b);
    }
    return true;
}

static void *new_data(struct qn_tier *t, size_t n)
{
    if (!make_room(t, n)) return NULL;
    void *data = try_malloc(n, 1);
    if (data) t->stats.ram_bytes += (int64_t)n;
    return data;
}

static void set_busy(struct qn_tier *t, struct blob *b)
{
    b->busy = t->last_busy = t->n_published + 1;
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
    if (!t->has_copier || !b->data || b->is_on_disk || b->is_filling || b->is_writing || b->is_dropped)
        return;
    if (!may_write(t, (double)(sizeof b->h + b->h.n_byte))) {
        t->stats.n_over_budget++;
        return;
    }
    b->is_writing = true;
    b->job.kind = JOB_WRITE;
    t->n_writing++;
    qn_mail_post(t->copier_mail, &b->job.letter);
}

static struct blob *new_blob(struct qn_tier *t, int kind, uint64_t key, uint64_t parent, uint64_t root,
                             int n_tok, int mtp_from, const int32_t *tok, int n, size_t n_byte)
{
    void *data = new_data(t, n_byte);
    if (!data) return NULL;
    struct blob *b = xcalloc(1, sizeof *b);
    b->h = (struct header){.fingerprint = t->o.fingerprint,
                           .key = key,
                           .parent = parent,
                           .root = root,
                           .n_byte = n_byte,
                           .kind = kind,
                           .n_tok = n_tok,
                           .n_tail = n,
                           .mtp_from = mtp_from};
    memcpy(b->h.magic, MAGIC, sizeof b->h.magic);
    if (n) memcpy(b->h.tok, tok, (size_t)n * sizeof *tok);
    b->data = data;
    b->born = t->cache->clock;
    b->is_filling = true;
    *t->end_filling = b;
    t->end_filling = &b->next_filling;
    b->last_use = t->clock;
    join(t, IN_RAM, b);
    set_busy(t, b);
    add(t, b);
    return b;
}

enum qn_tier_saved qn_tier_save(struct qn_tier *t, int slot, int64_t max_bytes)
{
    struct qn_cache *c = t->cache;
    struct qn_snap *s = &c->snap[slot];
    int64_t n_byte = 0;
    t->clock++;
    for (int page = s->parent; page >= 0; page = c->node[page].parent) { /* what is there stays */
        struct blob *b = find(t, KIND_PAGE, c->node[page].key);
        if (!b) continue;
        touch(t, b);
        write_out(t, b); /* that could not be written before */
    }
    for (int page = s->parent; page >= 0; page = c->node[page].parent) {
        const struct qn_node *n = &c->node[page];
        if (find(t, KIND_PAGE, n->key)) continue;
        if (n_byte && n_byte + (int64_t)t->o.page_bytes > max_bytes) return QN_TIER_MORE;
        struct blob *b = new_blob(t, KIND_PAGE, n->key, n->parent >= 0 ? c->node[n->parent].key : n->root,
                                  n->root, (n->depth + 1) * QN_PAGE, n->mtp_from,
                                  c->tok + (size_t)page * QN_PAGE, QN_PAGE, t->o.page_bytes);
        if (!b) return QN_TIER_NO_ROOM;
        qn_chores_add(c->chores, (struct qn_chore){.kind = QN_CHORE_KV_READ, .from = page, .host = b->data});
        n_byte += (int64_t)t->o.page_bytes;
    }
    if (!find(t, KIND_SNAPSHOT, s->key)) {
        int n_tail = s->n_tok % QN_PAGE;
        size_t size = t->o.slot_bytes + (n_tail ? t->o.page_bytes : 0);
        if (n_byte && n_byte + (int64_t)size > max_bytes) return QN_TIER_MORE;
        uint64_t parent = s->parent >= 0 ? c->node[s->parent].key : s->root;
        struct blob *b =
            new_blob(t, KIND_SNAPSHOT, s->key, parent, s->root, s->n_tok, s->mtp_from, s->tail, n_tail, size);
        if (!b) return QN_TIER_NO_ROOM;
        qn_chores_add(c->chores,
                      (struct qn_chore){.kind = QN_CHORE_STATE_READ, .from = slot, .host = b->data});
        if (n_tail)
            qn_chores_add(c->chores, (struct qn_chore){.kind = QN_CHORE_KV_READ,
                                                       .from = s->tail_page,
                                                       .host = (char *)b->data + t->o.slot_bytes});
        t->stats.n_saved++;
    }
    s->is_stored = true;
    return QN_TIER_SAVED;
}

/* --- bringing back --- */

static bool is_same(const struct blob *b, const int32_t *tok, int n)
{
    return b->h.n_tail == n && !memcmp(b->h.tok, tok, (size_t)n * sizeof *tok);
}

/* The deepest snapshot here whose pages are here or in the tree. */
static struct blob *deepest(const struct qn_tier *t, uint64_t root, const int32_t *tok, int n, int n_have)
{
    struct blob *best = NULL;
    uint64_t parent = root;
    for (int done = 0;; done += QN_PAGE) {
        uint64_t first = 0;
        qn_map_get(&t->by_parent, parent, &first);
        for (struct blob *b = (struct blob *)(uintptr_t)first; b; b = b->next_sibling)
            if (!b->is_dropped && b->h.root == root && b->h.n_tok < n && b->h.n_tok > n_have &&
                b->h.n_tok - done < QN_PAGE && b->h.n_tok >= done && (!best || b->h.n_tok > best->h.n_tok) &&
                is_same(b, tok + done, b->h.n_tok - done))
                best = b;
        if (n - done < QN_PAGE) break;
        uint64_t key = qn_cache_chain(parent, tok + done);
        const struct blob *page = find_page(t, key);
        bool is_here = page && is_same(page, tok + done, QN_PAGE);
        if (!is_here && !qn_map_get(&t->cache->by_key, key, NULL)) break;
        parent = key;
    }
    return best;
}

static void write_chore(struct qn_tier *t, enum qn_chore_kind kind, int to, struct blob *b, size_t offset)
{
    qn_chores_add(t->cache->chores,
                  (struct qn_chore){.kind = kind, .to = to, .host = (char *)b->data + offset});
    set_busy(t, b);
}

/* In RAM, or it will be before a chore that needs it: they run in order. */
static bool has_bytes(const struct blob *b)
{
    return b->data && !b->is_reading;
}

/* Pages of a path that are held while it is brought back. */
struct path {
    int32_t *page;
    int n;
};

/* The pages of the path that are in RAM, from the root on, as nodes of the tree. true: all of them. *missing:
 * the first that is not there; -1: none, or there is no room. *is_cut: max_bytes were reached. */
static bool bring_pages(struct qn_tier *t, uint64_t root, const int32_t *tok, int n_full, int64_t max_bytes,
                        struct path *path, int *missing, bool *is_cut)
{
    struct qn_cache *c = t->cache;
    uint64_t key = root;
    int parent = -1;
    int64_t n_byte = 0;
    *missing = -1;
    *is_cut = false;
    for (int i = 0; i < n_full; i++) {
        const int32_t *page_tok = tok + (size_t)i * QN_PAGE;
        key = qn_cache_chain(key, page_tok);
        int node = qn_cache_find_node(c, root, parent, page_tok);
        if (node >= 0) {
            qn_cache_use_page(c, node);
        } else {
            struct blob *b = find_page(t, key);
            if (!b || !is_same(b, page_tok, QN_PAGE)) return false;
            touch(t, b);
            if (!has_bytes(b)) {
                *missing = i;
                return false;
            }
            if (n_byte && n_byte + (int64_t)t->o.page_bytes > max_bytes) {
                *is_cut = true;
                return false;
            }
            set_busy(t, b); /* before anything is evicted for it */
            int page = qn_cache_take_page(c);
            if (page < 0) return false;
            write_chore(t, QN_CHORE_KV_WRITE, page, b, 0);
            n_byte += (int64_t)t->o.page_bytes;
            node = qn_cache_insert(c, root, parent, page_tok, page, QN_CLAMP(b->h.mtp_from, 0, QN_PAGE));
            if (node != page) { /* a collision of keys */
                qn_cache_drop_page(c, page);
                return false;
            }
        }
        path->page[path->n++] = parent = node;
    }
    return true;
}

/* The snapshot itself, behind its pages. */
static bool bring_snapshot(struct qn_tier *t, uint64_t root, int parent, struct blob *snap)
{
    struct qn_cache *c = t->cache;
    int tail_page = -1, slot = -1;
    set_busy(t, snap);
    if (snap->h.n_tail) tail_page = qn_cache_take_page(c);
    if (!snap->h.n_tail || tail_page >= 0) slot = qn_cache_take_slot(c);
    if (slot >= 0) {
        write_chore(t, QN_CHORE_STATE_WRITE, slot, snap, 0);
        if (tail_page >= 0) write_chore(t, QN_CHORE_KV_WRITE, tail_page, snap, t->o.slot_bytes);
        qn_cache_give_snap(c, root, parent, snap->h.n_tok, snap->h.tok, tail_page, slot,
                           QN_MAX(snap->h.mtp_from, 0));
        int at = qn_cache_find_snap(c, root, parent, snap->h.n_tok, snap->h.tok);
        if (at >= 0) c->snap[at].is_stored = true;
    }
    if (tail_page >= 0) qn_cache_drop_page(c, tail_page);
    return slot >= 0;
}

/* Asks the copier for the pages from `first` on and the snapshot, as far as half the RAM goes. */
static bool fetch(struct qn_tier *t, uint64_t root, const int32_t *tok, int first, struct blob *snap,
                  struct qn_tier_wait *wait)
{
    int n_full = snap->h.n_tok / QN_PAGE;
    int64_t left = QN_MAX(t->o.ram_bytes / 2, (int64_t)t->o.page_bytes);
    struct fetch *f = xcalloc(1, sizeof *f + ((size_t)(n_full - first) + 1) * sizeof *f->list);
    bool is_waiting = false;
    uint64_t key = root;
    for (int i = 0; i <= n_full && left > 0; i++) {
        const int32_t *page_tok = tok + (size_t)i * QN_PAGE;
        if (i < n_full) key = qn_cache_chain(key, page_tok);
        if (i < first) continue;
        struct blob *b = i < n_full ? find_page(t, key) : snap;
        if (!b || (i < n_full && !is_same(b, page_tok, QN_PAGE))) continue; /* in the tree */
        touch(t, b);
        left -= (int64_t)b->h.n_byte;
        is_waiting |= b->is_reading; /* somebody else asked */
        if (b->data) continue;
        b->data = new_data(t, b->h.n_byte);
        if (!b->data) break;
        join(t, IN_RAM, b);
        b->is_reading = true;
        f->list[f->n++] = b;
    }
    if (!f->n) {
        free(f);
        if (is_waiting) wait->fetch = t->n_fetch;
        return is_waiting;
    }
    f->job.kind = JOB_READ;
    f->number = wait->fetch = ++t->n_fetch;
    qn_mail_post(t->copier_mail, &f->job.letter);
    return true;
}

/* --- taking back --- */

static void drop(struct qn_tier *t, struct blob *b)
{
    t->n_dropped += !b->is_dropped;
    b->is_dropped = true;
}

/* Those that were taken back and are not busy go, with their files. */
static void remove_dropped(struct qn_tier *t)
{
    for (int i = t->n_blob; i-- && t->n_dropped;) {
        struct blob *b = t->blob[i];
        if (!b->is_dropped || is_busy(t, b)) continue;
        if (b->is_on_disk) remove_file(t, b);
        forget(t, b);
    }
}

void qn_tier_drop(struct qn_tier *t, uint64_t root, const int32_t *tok, int n, int n_keep_page, int64_t since)
{
    uint64_t parent = root;
    for (int done = 0;; done += QN_PAGE) {
        uint64_t first = 0;
        qn_map_get(&t->by_parent, parent, &first);
        for (struct blob *b = (struct blob *)(uintptr_t)first; b; b = b->next_sibling)
            if (b->h.root == root && b->born >= since && b->h.n_tok >= done && b->h.n_tok <= n &&
                is_same(b, tok + done, b->h.n_tok - done))
                drop(t, b);
        if (n - done < QN_PAGE) break;
        parent = qn_cache_chain(parent, tok + done);
        struct blob *page = find(t, KIND_PAGE, parent);
        if (page && done / QN_PAGE >= n_keep_page && page->born >= since &&
            is_same(page, tok + done, QN_PAGE))
            drop(t, page);
    }
    remove_dropped(t);
}

uint64_t qn_tier_version(const struct qn_tier *t)
{
    return t->version;
}

enum qn_tier_promoted qn_tier_promote(struct qn_tier *t, uint64_t root, const int32_t *tok, int n, int n_have,
                                      int64_t max_bytes, struct qn_tier_wait *wait, int *n_tok)
{
    *wait = (struct qn_tier_wait){0};
    struct blob *snap = deepest(t, root, tok, n, n_have);
    if (!snap) return QN_TIER_NOTHING;
    t->clock++;
    touch(t, snap);
    /* what is evicted for its pages is saved, and takes the place of what is not in use */
    snap->is_held = true;
    int n_full = snap->h.n_tok / QN_PAGE, missing;
    struct path path = {xreallocarray(NULL, (size_t)n_full + 1, sizeof *path.page), 0};
    bool is_cut, is_waiting = false,
                 is_whole = bring_pages(t, root, tok, n_full, max_bytes, &path, &missing, &is_cut);
    if (is_whole && !has_bytes(snap)) {
        is_whole = false;
        missing = n_full;
    }
    if (is_whole) {
        if (bring_snapshot(t, root, path.n ? path.page[path.n - 1] : -1, snap)) {
            t->stats.n_hit++;
            t->stats.n_hit_tok += (uint64_t)(snap->h.n_tok - n_have);
            *n_tok += snap->h.n_tok - n_have;
        }
    } else if (missing >= 0) {
        is_waiting = fetch(t, root, tok, missing, snap, wait);
        if (!is_waiting && t->last_busy > t->n_returned) { /* RAM is full of what is being copied */
            wait->work = t->last_busy;
            is_waiting = true;
        } else if (!is_waiting && t->n_writing) {
            wait->reply = t->n_reply + 1;
            is_waiting = true;
        }
    } else if (is_cut) {
        wait->work = t->last_busy;
        is_waiting = true;
    }
    snap->is_held = false;
    while (path.n) qn_cache_drop_page(t->cache, path.page[--path.n]);
    free(path.page);
    return is_waiting ? QN_TIER_WAIT : QN_TIER_TRIED;
}

bool qn_tier_is_over(const struct qn_tier *t, const struct qn_tier_wait *wait)
{
    return t->n_fetched >= wait->fetch && t->n_returned >= wait->work && t->n_reply >= wait->reply;
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
        b->is_filling = false;
        write_out(t, b);
    }
    remove_dropped(t);
}

static void came_back(struct qn_tier *t, struct fetch *f)
{
    for (int i = 0; i < f->n; i++) {
        struct blob *b = f->list[i];
        b->is_reading = false;
        if (!b->is_failed) {
            t->stats.n_read++;
            t->stats.read_bytes += sizeof b->h + b->h.n_byte;
            continue;
        }
        char name[4200];
        file_name(t, &b->h, ".qkv", name, sizeof name);
        qn_log(QN_LOG_WARN, "tier", "%s: damaged, ignored", name);
        t->stats.n_damaged++;
        no_file(t, b);
        forget(t, b); /* the next save writes it anew */
    }
    t->n_fetched = f->number;
    free(f);
}

static void was_written(struct qn_tier *t, struct blob *b)
{
    static struct qn_log_limit limit;
    unsigned n_left_out;
    b->is_writing = false;
    t->n_writing--;
    if (b->is_failed) {
        t->stats.n_failed++;
        if (qn_log_allow(&limit, 60, &n_left_out))
            qn_log(QN_LOG_WARN, "tier", "%s cannot be written; pages stay in RAM", t->folder);
        return;
    }
    b->is_on_disk = true;
    join(t, ON_DISK, b);
    t->stats.n_write++;
    t->stats.write_bytes += sizeof b->h + b->h.n_byte;
    t->stats.disk_bytes += (int64_t)(sizeof b->h + b->h.n_byte);
    while (t->stats.disk_bytes > t->o.disk_bytes) {
        struct blob *old = oldest(t, ON_DISK);
        if (!old) break;
        remove_file(t, old);
        if (!old->data) forget(t, old);
    }
}

void qn_tier_letter(struct qn_tier *t, struct qn_letter *letter)
{
    struct job *j = (struct job *)letter;
    t->n_reply++;
    if (j->kind == JOB_READ)
        came_back(t, (struct fetch *)j);
    else
        was_written(t, (struct blob *)j);
    remove_dropped(t);
}

bool qn_tier_is_copying(const struct qn_tier *t)
{
    return t->n_writing > 0 || t->n_fetched < t->n_fetch;
}

void qn_tier_stats(const struct qn_tier *t, struct qn_tier_stats *out)
{
    *out = t->stats;
    out->ram_budget = t->o.ram_bytes;
    out->disk_budget = t->has_copier ? t->o.disk_bytes : 0;
    out->n_ram = t->list[IN_RAM].n;
    out->n_file = t->list[ON_DISK].n;
}

/* --- open and close --- */

static int by_age(const void *a, const void *b)
{
    const struct blob *x = *(struct blob *const *)a, *y = *(struct blob *const *)b;
    return x->last_use < y->last_use ? -1 : x->last_use > y->last_use;
}

static bool is_sound(const struct qn_tier *t, const struct header *h, int64_t n_file)
{
    size_t want =
        h->kind == KIND_PAGE ? t->o.page_bytes : t->o.slot_bytes + (h->n_tail ? t->o.page_bytes : 0);
    return (h->kind == KIND_PAGE || h->kind == KIND_SNAPSHOT) && h->n_byte == want && h->n_tok > 0 &&
           h->n_tail >= 0 && h->n_tail <= QN_PAGE && n_file == (int64_t)(sizeof *h + want) &&
           (h->kind == KIND_PAGE ? h->n_tail == QN_PAGE && h->n_tok % QN_PAGE == 0
                                 : h->n_tail == h->n_tok % QN_PAGE);
}

static int scan(struct qn_tier *t, struct qn_err *e)
{
    int rc = QN_OK, n_foreign = 0, n_damaged = 0;
    DIR *d = NULL;
    QN_FAIL_IF(mkdir(t->folder, 0700) && errno != EEXIST, e, QN_IO, "%s: %s", t->folder, strerror(errno));
    d = opendir(t->folder);
    QN_FAIL_IF(!d, e, QN_IO, "%s: %s", t->folder, strerror(errno));
    for (struct dirent *entry; (entry = readdir(d)) && t->n_blob < MAX_FILES;) {
        char name[4200];
        size_t n = strlen(entry->d_name);
        bool is_temporary = n > 4 && !strcmp(entry->d_name + n - 4, ".tmp");
        if (!is_temporary && (n < 5 || strcmp(entry->d_name + n - 4, ".qkv"))) continue;
        if ((size_t)snprintf(name, sizeof name, "%s/%s", t->folder, entry->d_name) >= sizeof name) continue;
        char own[20];
        snprintf(own, sizeof own, "%016llx-", (unsigned long long)t->o.fingerprint);
        if (strncmp(entry->d_name, own, strlen(own))) {
            n_foreign++;
            continue;
        }
        if (is_temporary) { /* left by a killed process */
            unlink(name);
            continue;
        }
        struct stat st;
        struct header h;
        int fd = open(name, O_RDONLY | O_CLOEXEC);
        bool is_good = fd >= 0 && !fstat(fd, &st) && read(fd, &h, sizeof h) == (ssize_t)sizeof h &&
                       !memcmp(h.magic, MAGIC, sizeof h.magic) && h.fingerprint == t->o.fingerprint &&
                       is_sound(t, &h, st.st_size);
        char want[4200];
        if (is_good) {
            file_name(t, &h, ".qkv", want, sizeof want);
            is_good = !strcmp(want, name) && !find(t, h.kind, h.key);
        }
        if (fd >= 0) close(fd);
        if (!is_good) {
            n_damaged++;
            continue;
        }
        struct blob *b = xcalloc(1, sizeof *b);
        b->h = h;
        b->is_on_disk = true;
        b->last_use = (int64_t)st.st_mtime;
        t->stats.disk_bytes += (int64_t)st.st_size;
        add(t, b);
    }
    if (n_foreign) qn_log(QN_LOG_INFO, "tier", "%s: %d files of other models ignored", t->folder, n_foreign);
    if (n_damaged) qn_log(QN_LOG_WARN, "tier", "%s: %d damaged files ignored", t->folder, n_damaged);
    t->stats.n_damaged += (uint64_t)n_damaged;
    /* file times become places in our order */
    if (t->n_blob) {
        qsort(t->blob, (size_t)t->n_blob, sizeof *t->blob, by_age);
        for (int i = 0; i < t->n_blob; i++) {
            t->blob[i]->at = i;
            t->blob[i]->last_use = ++t->clock;
            join(t, ON_DISK, t->blob[i]);
        }
        t->clock++;
    }
out:
    if (d) closedir(d);
    return rc;
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
        t->folder = xstrdup(o->folder);
        QN_TRY(scan(t, e));
        t->copier_mail = qn_mail_create();
        QN_FAIL_IF(pthread_create(&t->copier, NULL, copier_main, t), e, QN_NOMEM,
                   "no thread for the disk tier");
        t->has_copier = true;
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
    if (t->has_copier) {
        t->quit.kind = JOB_QUIT;
        qn_mail_post(t->copier_mail, &t->quit.letter);
        pthread_join(t->copier, NULL);
    }
    qn_mail_free(t->copier_mail);
    for (int i = 0; i < t->n_blob; i++) {
        free(t->blob[i]->data);
        free(t->blob[i]);
    }
    free(t->blob);
    qn_map_free(&t->by_key);
    qn_map_free(&t->by_parent);
    free(t->folder);
    free(t);
}
