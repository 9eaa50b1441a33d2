/* Blobs in RAM and files.
 * SPDX-License-Identifier: Apache-2.0 */
#include "engine/tier.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "base/mem.h"

#define MAGIC         "quernkv1"
#define DEFAULT_DISK  ((int64_t)8 << 30)
#define MAX_FILES     (1 << 20)
#define KIND_PAGE     0
#define KIND_SNAPSHOT 1

struct header {
    char magic[8];
    uint64_t fingerprint, key, parent, root, checksum; /* of everything but itself */
    uint64_t n_byte;
    int32_t kind, n_tok, n_tail, pad;
    int32_t tok[QN_PAGE]; /* of the page, or of the snapshot's tail */
};

struct blob {
    struct qn_letter letter; /* to the copier and back */
    struct header h;
    void *data;      /* NULL: on disk only */
    int64_t busy;    /* number of the work that has its chore; done when it is back */
    bool is_filling; /* busy with a read: goes to the copier afterwards */
    bool is_writing, is_on_disk;
    bool is_failed; /* the copier's, read when its letter is back */
    int64_t last_use;
    struct blob *next_sibling; /* snapshots behind the same parent */
    int at;                    /* place in the list */
};

struct qn_tier {
    struct qn_cache *cache;
    struct qn_tier_options o;
    char *folder;
    struct blob **blob;
    int n_blob, capacity;
    struct qn_map by_key;    /* key of page or snapshot -> blob */
    struct qn_map by_parent; /* key of the parent -> first snapshot */
    int64_t clock, n_published, n_returned;
    int n_writing, n_filling;
    struct qn_tier_stats stats;
    struct qn_mail *copier_mail;
    pthread_t copier;
    bool has_copier;
    struct qn_letter quit;
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

static void *copier_main(void *arg)
{
    struct qn_tier *t = arg;
    for (;;) {
        struct qn_letter *next = qn_mail_take(t->copier_mail, QN_FOREVER);
        while (next) {
            struct qn_letter *letter = next;
            next = letter->next;
            if (letter == &t->quit) return NULL;
            struct blob *b = (struct blob *)letter;
            b->is_failed = !write_file(t, b);
            qn_mail_post(t->o.home, &b->letter);
        }
    }
}

/* --- the list --- */

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

static void add(struct qn_tier *t, struct blob *b)
{
    if (t->n_blob == t->capacity) {
        t->capacity = QN_MAX(64, t->capacity * 2);
        t->blob = xreallocarray(t->blob, (size_t)t->capacity, sizeof *t->blob);
    }
    b->at = t->n_blob;
    t->blob[t->n_blob++] = b;
    qn_map_put(&t->by_key, index_key(b->h.kind, b->h.key), (uint64_t)(uintptr_t)b);
    if (b->h.kind != KIND_SNAPSHOT) return;
    uint64_t first = 0;
    qn_map_get(&t->by_parent, b->h.parent, &first);
    b->next_sibling = (struct blob *)(uintptr_t)first;
    qn_map_put(&t->by_parent, b->h.parent, (uint64_t)(uintptr_t)b);
}

static void drop_data(struct qn_tier *t, struct blob *b)
{
    if (!b->data) return;
    free(b->data);
    b->data = NULL;
    t->stats.ram_bytes -= (int64_t)b->h.n_byte;
}

static void remove_file(struct qn_tier *t, struct blob *b)
{
    char name[4200];
    if (!b->is_on_disk) return;
    file_name(t, &b->h, ".qkv", name, sizeof name);
    unlink(name);
    b->is_on_disk = false;
    t->stats.disk_bytes -= (int64_t)(sizeof b->h + b->h.n_byte);
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
    drop_data(t, b);
    t->blob[b->at] = t->blob[--t->n_blob];
    t->blob[b->at]->at = b->at;
    free(b);
}

static bool is_busy(const struct qn_tier *t, const struct blob *b)
{
    return b->is_writing || b->busy > t->n_returned;
}

static struct blob *oldest(const struct qn_tier *t, bool in_ram)
{
    struct blob *worst = NULL;
    for (int i = 0; i < t->n_blob; i++) {
        struct blob *b = t->blob[i];
        if (is_busy(t, b) || !(in_ram ? b->data != NULL : b->is_on_disk) || b->last_use == t->clock) continue;
        if (!worst || b->last_use < worst->last_use) worst = b;
    }
    return worst;
}

/* Room in RAM for n bytes: blobs on disk lose their bytes, others go. */
static bool make_room(struct qn_tier *t, size_t n)
{
    while (t->stats.ram_bytes + (int64_t)n > t->o.ram_bytes) {
        struct blob *b = oldest(t, true);
        if (!b) return false;
        drop_data(t, b);
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

/* --- saving --- */

static struct blob *new_blob(struct qn_tier *t, int kind, uint64_t key, uint64_t parent, uint64_t root,
                             int n_tok, const int32_t *tok, int n, size_t n_byte)
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
                           .n_tail = n};
    memcpy(b->h.magic, MAGIC, sizeof b->h.magic);
    if (n) memcpy(b->h.tok, tok, (size_t)n * sizeof *tok);
    b->data = data;
    b->busy = t->n_published + 1;
    b->is_filling = true;
    t->n_filling++;
    b->last_use = t->clock;
    add(t, b);
    return b;
}

bool qn_tier_save(struct qn_tier *t, int slot)
{
    struct qn_cache *c = t->cache;
    struct qn_snap *s = &c->snap[slot];
    t->clock++;
    for (int page = s->parent; page >= 0; page = c->node[page].parent) {
        const struct qn_node *n = &c->node[page];
        struct blob *b = find(t, KIND_PAGE, n->key);
        if (!b) {
            b = new_blob(t, KIND_PAGE, n->key, n->parent >= 0 ? c->node[n->parent].key : n->root, n->root,
                         (n->depth + 1) * QN_PAGE, c->tok + (size_t)page * QN_PAGE, QN_PAGE, t->o.page_bytes);
            if (!b) return false;
            qn_chores_add(c->chores,
                          (struct qn_chore){.kind = QN_CHORE_KV_READ, .from = page, .host = b->data});
        }
        b->last_use = t->clock;
    }
    if (!find(t, KIND_SNAPSHOT, s->key)) {
        int n_tail = s->n_tok % QN_PAGE;
        uint64_t parent = s->parent >= 0 ? c->node[s->parent].key : s->root;
        struct blob *b = new_blob(t, KIND_SNAPSHOT, s->key, parent, s->root, s->n_tok, s->tail, n_tail,
                                  t->o.slot_bytes + (n_tail ? t->o.page_bytes : 0));
        if (!b) return false;
        qn_chores_add(c->chores,
                      (struct qn_chore){.kind = QN_CHORE_STATE_READ, .from = slot, .host = b->data});
        if (n_tail)
            qn_chores_add(c->chores, (struct qn_chore){.kind = QN_CHORE_KV_READ,
                                                       .from = s->tail_page,
                                                       .host = (char *)b->data + t->o.slot_bytes});
        t->stats.n_saved++;
    }
    s->is_stored = true;
    return true;
}

/* --- bringing back --- */

/* The bytes of a blob, read from its file when they are not in RAM. A damaged file is told and forgotten. */
static bool load(struct qn_tier *t, struct blob *b)
{
    b->last_use = t->clock;
    if (b->data) return true; /* or it will be, before the chore that needs it: they run in order */
    char name[4200];
    struct header h;
    file_name(t, &b->h, ".qkv", name, sizeof name);
    void *data = new_data(t, b->h.n_byte);
    if (!data) return false;
    int fd = open(name, O_RDONLY | O_CLOEXEC);
    bool is_good = fd >= 0 && read(fd, &h, sizeof h) == (ssize_t)sizeof h && h.n_byte == b->h.n_byte;
    for (size_t done = 0; is_good && done < h.n_byte;) {
        ssize_t k = read(fd, (char *)data + done, h.n_byte - done);
        is_good = k > 0;
        if (is_good) done += (size_t)k;
    }
    if (fd >= 0) close(fd);
    is_good = is_good && h.checksum == checksum(&h, data) && h.key == b->h.key && h.kind == b->h.kind;
    b->data = data;
    if (!is_good) {
        qn_log(QN_LOG_WARN, "tier", "%s: damaged, ignored", name);
        t->stats.n_damaged++;
        t->stats.disk_bytes -= (int64_t)(sizeof b->h + b->h.n_byte);
        forget(t, b); /* the next save writes it anew */
        return false;
    }
    t->stats.n_read++;
    return true;
}

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
            if (b->h.root == root && b->h.n_tok < n && b->h.n_tok > n_have && b->h.n_tok - done < QN_PAGE &&
                b->h.n_tok >= done && (!best || b->h.n_tok > best->h.n_tok) &&
                is_same(b, tok + done, b->h.n_tok - done))
                best = b;
        if (n - done < QN_PAGE) break;
        uint64_t key = qn_cache_chain(parent, tok + done);
        const struct blob *page = find(t, KIND_PAGE, key);
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
    b->busy = QN_MAX(b->busy, t->n_published + 1);
}

static bool promote(struct qn_tier *t, uint64_t root, const int32_t *tok, int n, int n_have)
{
    struct qn_cache *c = t->cache;
    struct blob *snap = deepest(t, root, tok, n, n_have);
    if (!snap) return false;
    t->clock++;
    snap->last_use = t->clock;
    int n_full = snap->h.n_tok / QN_PAGE, n_used = 0, parent = -1, slot = -1;
    int32_t *used = xreallocarray(NULL, (size_t)n_full + 1, sizeof *used);
    bool is_good = load(t, snap);
    uint64_t key = root;
    for (int i = 0; i < n_full && is_good; i++) {
        const int32_t *page_tok = tok + (size_t)i * QN_PAGE;
        key = qn_cache_chain(key, page_tok);
        int node = qn_cache_find_node(c, root, parent, page_tok);
        if (node >= 0) {
            qn_cache_use_page(c, node);
        } else {
            struct blob *b = find(t, KIND_PAGE, key);
            is_good = b && is_same(b, page_tok, QN_PAGE) && load(t, b);
            int page = is_good ? qn_cache_take_page(c) : -1;
            if (page < 0) {
                is_good = false;
                break;
            }
            write_chore(t, QN_CHORE_KV_WRITE, page, b, 0);
            node = qn_cache_insert(c, root, parent, page_tok, page);
            if (node != page) { /* a collision of keys */
                qn_cache_drop_page(c, page);
                is_good = false;
                break;
            }
        }
        used[n_used++] = parent = node;
    }
    int tail_page = -1;
    if (is_good && snap->h.n_tail) {
        tail_page = qn_cache_take_page(c);
        is_good = tail_page >= 0;
    }
    if (is_good) slot = qn_cache_take_slot(c);
    if (slot >= 0) {
        write_chore(t, QN_CHORE_STATE_WRITE, slot, snap, 0);
        if (tail_page >= 0) write_chore(t, QN_CHORE_KV_WRITE, tail_page, snap, t->o.slot_bytes);
        qn_cache_give_snap(c, root, parent, snap->h.n_tok, snap->h.tok, tail_page, slot);
        int at = qn_cache_find_snap(c, root, parent, snap->h.n_tok, snap->h.tok);
        if (at >= 0) c->snap[at].is_stored = true;
        t->stats.n_promoted++;
    }
    if (tail_page >= 0) qn_cache_drop_page(c, tail_page);
    while (n_used) qn_cache_drop_page(c, used[--n_used]);
    free(used);
    return slot >= 0;
}

bool qn_tier_promote(struct qn_tier *t, uint64_t root, const int32_t *tok, int n, int n_have)
{
    for (;;) { /* a damaged file was forgotten: what is left may still do */
        uint64_t n_damaged = t->stats.n_damaged;
        if (promote(t, root, tok, n, n_have)) return true;
        if (n_damaged == t->stats.n_damaged) return false;
    }
}

/* --- coming and going of work --- */

void qn_tier_published(struct qn_tier *t)
{
    t->n_published++;
}

void qn_tier_returned(struct qn_tier *t)
{
    t->n_returned = t->n_published;
    for (int i = 0; i < t->n_blob && t->n_filling; i++) {
        struct blob *b = t->blob[i];
        if (!b->is_filling || b->busy > t->n_returned) continue;
        b->is_filling = false;
        t->n_filling--;
        if (!t->has_copier) continue;
        b->is_writing = true;
        b->letter.kind = t->o.letter_kind;
        t->n_writing++;
        qn_mail_post(t->copier_mail, &b->letter);
    }
}

void qn_tier_letter(struct qn_tier *t, struct qn_letter *letter)
{
    struct blob *b = (struct blob *)letter;
    static struct qn_log_limit limit;
    unsigned n_left_out;
    b->is_writing = false;
    t->n_writing--;
    if (b->is_failed) {
        if (qn_log_allow(&limit, 60, &n_left_out))
            qn_log(QN_LOG_WARN, "tier", "%s cannot be written; pages stay in RAM", t->folder);
        return;
    }
    b->is_on_disk = true;
    t->stats.n_written++;
    t->stats.disk_bytes += (int64_t)(sizeof b->h + b->h.n_byte);
    while (t->stats.disk_bytes > t->o.disk_bytes) {
        struct blob *old = oldest(t, false);
        if (!old) break;
        remove_file(t, old);
        if (!old->data) forget(t, old);
    }
}

bool qn_tier_is_writing(const struct qn_tier *t)
{
    return t->n_writing > 0;
}

void qn_tier_stats(const struct qn_tier *t, struct qn_tier_stats *out)
{
    *out = t->stats;
    out->n_blob = t->n_blob;
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
    t->o = *o;
    if (!t->o.disk_bytes) t->o.disk_bytes = DEFAULT_DISK;
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
    QN_CHECK(!t->n_writing);
    if (t->has_copier) {
        qn_mail_post(t->copier_mail, &t->quit);
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
