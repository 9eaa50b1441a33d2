/* Files and the copier.
 * SPDX-License-Identifier: Apache-2.0 */
#include "engine/store.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/mem.h"

#define MAGIC     "quernkv1"
#define MAX_FILES (1 << 20)
#define MAX_NAME  4200

struct removal {
    struct qn_store_job job;
    char name[];
};

struct qn_store {
    struct qn_store_options o;
    char *folder;
    struct qn_mail *mail; /* the copier's */
    pthread_t copier;
    bool has_copier;
    struct qn_store_job quit;
};

static uint64_t checksum(const struct qn_store_head *h, const uint64_t *media, const void *data)
{
    struct qn_store_head copy = *h;
    copy.checksum = 0;
    uint64_t sum = qn_hash_bytes(1, &copy, sizeof copy);
    if (media) sum = qn_hash_bytes(sum, media, qn_store_media_bytes(h));
    return qn_hash_bytes(sum, data, h->n_byte);
}

static void file_name(const struct qn_store *s, const struct qn_store_head *h, const char *end, char *out,
                      size_t n)
{
    snprintf(out, n, "%s/%016llx-%c%016llx%s", s->folder, (unsigned long long)h->fingerprint,
             qn_store_kind(h) == QN_STORE_PAGE ? 'p' : 's', (unsigned long long)h->key, end);
}

void qn_store_file_name(const struct qn_store *s, const struct qn_store_head *h, char *out, size_t n)
{
    file_name(s, h, ".qkv", out, n);
}

const char *qn_store_folder(const struct qn_store *s)
{
    return s->folder;
}

void qn_store_stamp(const struct qn_store *s, struct qn_store_head *h)
{
    memcpy(h->magic, MAGIC, sizeof h->magic);
    h->fingerprint = s->o.fingerprint;
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

static bool write_file(const struct qn_store *s, struct qn_store_item *b)
{
    char name[MAX_NAME], temporary[MAX_NAME];
    file_name(s, &b->h, ".tmp", temporary, sizeof temporary);
    file_name(s, &b->h, ".qkv", name, sizeof name);
    b->h.checksum = checksum(&b->h, b->media, b->data);
    int fd = qn_file_create(temporary, 0600); /* whatever had the name */
    if (fd < 0) return false;
    bool is_good = write_all(fd, &b->h, sizeof b->h) &&
                   write_all(fd, b->media, qn_store_media_bytes(&b->h)) &&
                   write_all(fd, b->data, b->h.n_byte);
    is_good = close(fd) == 0 && is_good && rename(temporary, name) == 0;
    if (!is_good) unlink(temporary);
    return is_good;
}

static bool read_all(int fd, void *data, size_t n)
{
    char *p = data;
    while (n) {
        ssize_t k = read(fd, p, n);
        if (k < 0 && errno == EINTR) continue;
        if (k <= 0) return false;
        p += k;
        n -= (size_t)k;
    }
    return true;
}

/* Fills b->data from its file, which is the one that was found. */
static bool read_file(const struct qn_store *s, const struct qn_store_item *b)
{
    char name[MAX_NAME];
    struct qn_store_head h;
    uint64_t media[QN_PAGE];
    file_name(s, &b->h, ".qkv", name, sizeof name);
    int fd = open(name, O_RDONLY | O_CLOEXEC); /* scan() saw that it is a file */
    bool is_good = fd >= 0 && read_all(fd, &h, sizeof h) && h.n_byte == b->h.n_byte &&
                   h.kind == b->h.kind && read_all(fd, media, qn_store_media_bytes(&h)) &&
                   read_all(fd, b->data, h.n_byte);
    if (is_good) futimens(fd, NULL); /* used: the next start knows */
    if (fd >= 0) close(fd);
    return is_good && h.key == b->h.key && h.checksum == checksum(&h, b->media ? media : NULL, b->data) &&
           (!b->media || !memcmp(media, b->media, sizeof media));
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
    struct qn_store *s = arg;
    struct queue reads = {NULL, &reads.first}, others = {NULL, &others.first};
    for (;;) {
        struct qn_letter *next = qn_mail_take(s->mail, reads.first || others.first ? 0 : QN_FOREVER);
        while (next) {
            struct qn_letter *letter = next;
            next = letter->next;
            queue_put(((struct qn_store_job *)letter)->kind == QN_STORE_READ ? &reads : &others, letter);
        }
        struct qn_store_job *j = (struct qn_store_job *)queue_take(reads.first ? &reads : &others);
        if (j->kind == QN_STORE_QUIT) return NULL;
        if (j->kind == QN_STORE_REMOVE) {
            unlink(((struct removal *)j)->name);
            free(j);
            continue;
        }
        if (j->kind == QN_STORE_READ) {
            struct qn_store_fetch *f = (struct qn_store_fetch *)j;
            for (int i = 0; i < f->n; i++) f->list[i]->is_failed = !read_file(s, f->list[i]);
        } else {
            struct qn_store_item *b = (struct qn_store_item *)j;
            b->is_failed = !write_file(s, b);
        }
        j->letter.kind = s->o.letter_kind;
        qn_mail_post(s->o.home, &j->letter);
    }
}

/* --- jobs --- */

void qn_store_write(struct qn_store *s, struct qn_store_item *item)
{
    item->job.kind = QN_STORE_WRITE;
    qn_mail_post(s->mail, &item->job.letter);
}

void qn_store_read(struct qn_store *s, struct qn_store_fetch *f)
{
    f->job.kind = QN_STORE_READ;
    qn_mail_post(s->mail, &f->job.letter);
}

void qn_store_remove(struct qn_store *s, const struct qn_store_head *h)
{
    char name[MAX_NAME];
    file_name(s, h, ".qkv", name, sizeof name);
    size_t n = strlen(name) + 1;
    struct removal *r = xcalloc(1, sizeof *r + n);
    r->job.kind = QN_STORE_REMOVE;
    memcpy(r->name, name, n);
    qn_mail_post(s->mail, &r->job.letter);
}

/* --- open and close --- */

static bool is_sound(const struct qn_store *s, const struct qn_store_head *h, int64_t n_file)
{
    if (h->kind < 0 || h->kind > (QN_STORE_SNAPSHOT | QN_STORE_MEDIA)) return false;
    bool is_page = qn_store_kind(h) == QN_STORE_PAGE;
    size_t want = is_page ? s->o.page_bytes : s->o.slot_bytes + (h->n_tail ? s->o.page_bytes : 0);
    return h->n_byte == want && h->n_tok > 0 && h->n_tail >= 0 && h->n_tail <= QN_PAGE &&
           n_file == (int64_t)(sizeof *h + qn_store_media_bytes(h) + want) &&
           (is_page ? h->n_tail == QN_PAGE && h->n_tok % QN_PAGE == 0 : h->n_tail == h->n_tok % QN_PAGE);
}

/* Head and media of a file of that name, when the file is sound. when: of its last use. */
static bool look_at(const struct qn_store *s, const char *name, struct qn_store_head *h, uint64_t *media,
                    int64_t *when)
{
    struct stat st;
    char want[MAX_NAME];
    int fd = -1;
    if (qn_file_open(&fd, name, NULL)) fd = -1; /* no file: damaged */
    bool is_good = fd >= 0 && !fstat(fd, &st) && read_all(fd, h, sizeof *h) &&
                   !memcmp(h->magic, MAGIC, sizeof h->magic) && h->fingerprint == s->o.fingerprint &&
                   is_sound(s, h, st.st_size) && read_all(fd, media, qn_store_media_bytes(h));
    if (fd >= 0) close(fd);
    if (!is_good) return false;
    file_name(s, h, ".qkv", want, sizeof want);
    *when = (int64_t)st.st_mtime;
    return !strcmp(want, name);
}

static int scan(struct qn_store *s, int *n_damaged, struct qn_err *e)
{
    int rc = QN_OK, n_foreign = 0, n_found = 0;
    DIR *d = NULL;
    char own[20];
    snprintf(own, sizeof own, "%016llx-", (unsigned long long)s->o.fingerprint);
    QN_FAIL_IF(mkdir(s->folder, 0700) && errno != EEXIST, e, QN_IO, "%s: %s", s->folder, strerror(errno));
    d = opendir(s->folder);
    QN_FAIL_IF(!d, e, QN_IO, "%s: %s", s->folder, strerror(errno));
    QN_FAIL_IF(access(s->folder, R_OK | W_OK | X_OK), e, QN_IO,
               "%s: %s; the disk tier reads and writes there", s->folder, strerror(errno));
    for (struct dirent *entry; (entry = readdir(d)) && n_found < MAX_FILES;) {
        char name[MAX_NAME];
        struct qn_store_head h;
        uint64_t media[QN_PAGE];
        int64_t when;
        size_t n = strlen(entry->d_name);
        bool is_temporary = n > 4 && !strcmp(entry->d_name + n - 4, ".tmp");
        if (!is_temporary && (n < 5 || strcmp(entry->d_name + n - 4, ".qkv"))) continue;
        if ((size_t)snprintf(name, sizeof name, "%s/%s", s->folder, entry->d_name) >= sizeof name) continue;
        if (strncmp(entry->d_name, own, strlen(own))) {
            n_foreign++;
        } else if (is_temporary) { /* left by a killed process */
            unlink(name);
        } else if (look_at(s, name, &h, media, &when)) {
            s->o.found(s->o.user, &h, qn_store_media_bytes(&h) ? media : NULL, when);
            n_found++;
        } else {
            ++*n_damaged;
        }
    }
    if (n_foreign) qn_log(QN_LOG_INFO, "tier", "%s: %d files of other models ignored", s->folder, n_foreign);
    if (*n_damaged) qn_log(QN_LOG_WARN, "tier", "%s: %d damaged files ignored", s->folder, *n_damaged);
out:
    if (d) closedir(d);
    return rc;
}

int qn_store_open(struct qn_store **out, const struct qn_store_options *o, int *n_damaged, struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_store *s = xcalloc(1, sizeof *s);
    s->o = *o;
    s->folder = xstrdup(o->folder);
    *n_damaged = 0;
    QN_TRY(scan(s, n_damaged, e));
    s->mail = qn_mail_create();
    QN_FAIL_IF(pthread_create(&s->copier, NULL, copier_main, s), e, QN_NOMEM, "no thread for the disk tier");
    s->has_copier = true;
    *out = s;
    s = NULL;
out:
    qn_store_close(s);
    return rc;
}

void qn_store_close(struct qn_store *s)
{
    if (!s) return;
    if (s->has_copier) {
        s->quit.kind = QN_STORE_QUIT;
        qn_mail_post(s->mail, &s->quit.letter);
        pthread_join(s->copier, NULL);
    }
    qn_mail_free(s->mail);
    free(s->folder);
    free(s);
}
