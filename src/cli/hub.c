/* A model hub over HTTP.
 * SPDX-License-Identifier: Apache-2.0 */
#include "cli/hub.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/json.h"
#include "net/fetch.h"

#define MAX_LIST_BYTES      ((size_t)64 << 20)
#define MAX_LIST_ARENA      ((size_t)512 << 20)
#define MAX_REDIRECTS       8
#define DEFAULT_TRIES       6
#define MAX_WAIT_S          60
#define MAX_UNSIZED         ((int64_t)256 << 20) /* of a file whose size is not listed */
#define MAX_UNSIZED_WEIGHTS ((int64_t)64 << 30)
#define SPARE_BYTES         ((uint64_t)32 << 20) /* left on the disk */
#define HASH_BLOCK          ((size_t)1 << 20)

/* ------------------------------------------------------------------ names */

bool qn_hub_is_repo(const char *repo)
{
    int n_slash = 0;
    size_t n = strlen(repo);
    if (!n || n > 200) return false;
    for (size_t i = 0; i < n; i++) {
        char c = repo[i];
        bool is_edge = i == 0 || repo[i - 1] == '/';
        if (c == '/') {
            n_slash++;
            if (is_edge || i + 1 == n) return false;
        } else if (!((c >= '0' && c <= '9') || ((c | 32) >= 'a' && (c | 32) <= 'z') || c == '_' ||
                     ((c == '-' || c == '.') && !is_edge)))
            return false;
    }
    return n_slash <= 1;
}

bool qn_hub_is_safe(const char *path, size_t n)
{
    if (!n || n > QN_HUB_MAX_PATH) return false;
    size_t start = 0;
    for (size_t i = 0; i <= n; i++) {
        if (i < n && path[i] != '/') {
            if ((unsigned char)path[i] < 0x20 || path[i] == 0x7f || path[i] == '\\') return false;
            continue;
        }
        size_t k = i - start;
        if (!k || k > 240 || (k == 1 && path[start] == '.') || (k == 2 && !memcmp(path + start, "..", 2)))
            return false;
        start = i + 1;
    }
    return n < 5 || memcmp(path + n - 5, ".part", 5);
}

static bool is_hex(const struct qn_json *v, size_t n)
{
    if (!qn_json_is(v, QN_JSON_STRING) || v->n != n) return false;
    for (size_t i = 0; i < n; i++)
        if (!((v->text[i] >= '0' && v->text[i] <= '9') || (v->text[i] >= 'a' && v->text[i] <= 'f')))
            return false;
    return true;
}

/* ------------------------------------------------------------------ the listing */

static int read_file_entry(struct qn_hub_file *f, const struct qn_json *v, const char *what, struct qn_err *e)
{
    int rc = QN_OK;
    const struct qn_json *name = qn_json_get(v, "rfilename");
    QN_FAIL_IF(!qn_json_is(name, QN_JSON_STRING), e, QN_FORMAT, "%s: a file without a name", what);
    QN_FAIL_IF(!qn_hub_is_safe(name->text, name->n), e, QN_FORMAT,
               "%s: the file name '%.80s' would leave the folder or cannot be written; nothing was fetched",
               what, name->text);
    *f = (struct qn_hub_file){.size = -1};
    const struct qn_json *lfs = qn_json_get(v, "lfs"), *size = qn_json_get(lfs, "size"),
                         *sha256 = qn_json_get(lfs, "sha256"), *blob = qn_json_get(v, "blobId");
    if (qn_json_is_null(size)) size = qn_json_get(v, "size");
    if (!qn_json_is_null(size))
        QN_FAIL_IF(!qn_json_int(size, &f->size) || f->size < 0 || f->size > INT64_MAX / 4, e, QN_FORMAT,
                   "%s: %.80s has an absurd size", what, name->text);
    if (!qn_json_is_null(sha256)) {
        QN_FAIL_IF(!is_hex(sha256, 64), e, QN_FORMAT, "%s: %.80s has an absurd sha256", what, name->text);
        f->kind = QN_SHA256;
        memcpy(f->digest, sha256->text, 65);
    } else if (qn_json_is_null(lfs) && is_hex(blob, 40) && f->size >= 0) {
        f->kind = QN_SHA1;
        f->is_blob = true;
        memcpy(f->digest, blob->text, 41);
    }
    f->path = xstrndup(name->text, name->n);
out:
    return rc;
}

/* Small files first: a mistake in them shows before hours of download. */
static int by_size(const void *a, const void *b)
{
    const struct qn_hub_file *x = a, *y = b;
    bool big_x = x->kind == QN_SHA256 && x->digest[0], big_y = y->kind == QN_SHA256 && y->digest[0];
    return big_x != big_y ? big_x - big_y : strcmp(x->path, y->path);
}

int qn_hub_list_parse(struct qn_hub_list *out, const char *text, size_t n, const char *what, struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_hub_list list = {0};
    struct qn_arena *arena = qn_arena_create(MAX_LIST_ARENA);
    struct qn_json *top, *files;
    QN_TRY(qn_json_parse(&top, arena, text, n, what, e));
    files = qn_json_get(top, "siblings");
    QN_FAIL_IF(!qn_json_is(files, QN_JSON_ARRAY), e, QN_FORMAT,
               "%s: the answer has no list of files; is this the address of a model hub?", what);
    QN_FAIL_IF(files->n > QN_HUB_MAX_FILES, e, QN_TOOBIG, "%s: more than %d files", what, QN_HUB_MAX_FILES);
    const struct qn_json *commit = qn_json_get(top, "sha");
    if (is_hex(commit, 40) || is_hex(commit, 64)) memcpy(list.commit, commit->text, commit->n + 1);
    list.files = xcalloc(files->n, sizeof *list.files);
    for (size_t i = 0; i < files->n; i++) {
        QN_TRY(read_file_entry(&list.files[list.n], files->items[i], what, e));
        list.n++;
    }
    if (list.n) qsort(list.files, (size_t)list.n, sizeof *list.files, by_size);
    for (int i = 1; i < list.n; i++)
        QN_FAIL_IF(!strcmp(list.files[i - 1].path, list.files[i].path), e, QN_FORMAT,
                   "%s: %.80s is listed twice", what, list.files[i].path);
    *out = list;
    list = (struct qn_hub_list){0};
out:
    qn_hub_list_free(&list);
    qn_arena_free(arena);
    return rc;
}

void qn_hub_list_free(struct qn_hub_list *list)
{
    for (int i = 0; i < list->n; i++) free(list->files[i].path);
    free(list->files);
    *list = (struct qn_hub_list){0};
}

/* ------------------------------------------------------------------ requests */

/* Unreserved characters and, when asked for, slashes stay. */
static void add_escaped(struct qn_buf *url, const char *s, bool keeps_slash)
{
    for (; *s; s++) {
        unsigned char c = (unsigned char)*s;
        if ((c >= '0' && c <= '9') || ((c | 32) >= 'a' && (c | 32) <= 'z') || strchr("-_.~", c) ||
            (keeps_slash && c == '/'))
            qn_buf_putc(url, (char)c);
        else
            qn_buf_printf(url, "%%%02X", c);
    }
}

/* What a status means and what to do about it. */
static int refused(const struct qn_hub *h, long status, const char *what, struct qn_err *e)
{
    const char *has = h->token ? "the token in HF_TOKEN does not allow it"
                               : "set HF_TOKEN to a token of an account that may read it";
    switch (status) {
    case 401:
        return qn_err_set(e, QN_INVAL, __FILE__, __LINE__,
                          "%s: not allowed (401): the repository is private, gated or does not exist; %s",
                          what, has);
    case 403:
        return qn_err_set(e, QN_INVAL, __FILE__, __LINE__,
                          "%s: not allowed (403): accept the model's terms on its page; %s", what, has);
    case 404:
        return qn_err_set(e, QN_NOTFOUND, __FILE__, __LINE__,
                          "%s: not found (404): check the spelling of the repository and --revision", what);
    default:
        return qn_err_set(e, QN_IO, __FILE__, __LINE__, "%s: the hub answers %ld; try again later", what,
                          status);
    }
}

/* Waits before the next attempt; false when there have been enough. */
static bool wait_again(const struct qn_hub *h, const struct qn_fetch_end *end, int *n_try)
{
    if (++*n_try >= (h->max_tries ? h->max_tries : DEFAULT_TRIES)) return false;
    int wait_s = end->retry_after_s > 0 ? QN_MIN(end->retry_after_s, MAX_WAIT_S)
                                        : QN_MIN(1 << (*n_try - 1), MAX_WAIT_S);
    char why[160];
    if (end->head.status >= 400)
        snprintf(why, sizeof why, "the hub answers %ld", end->head.status);
    else
        snprintf(why, sizeof why, "%s", end->why);
    if (h->on_retry) h->on_retry(h->ctx, why, wait_s);
    sleep((unsigned)wait_s);
    return true;
}

static bool keep_text(void *user, const struct qn_fetch_head *head, const char *data, size_t n)
{
    (void)head;
    return !qn_buf_append(user, data, n);
}

int qn_hub_list_get(const struct qn_hub *h, const char *revision, struct qn_hub_list *out, struct qn_err *e)
{
    int rc = QN_OK, n_try = 0;
    struct qn_buf url = QN_BUF_INIT(8192), text = QN_BUF_INIT(MAX_LIST_BYTES);
    qn_buf_printf(&url, "%s/api/models/", h->endpoint);
    add_escaped(&url, h->repo, true);
    qn_buf_puts(&url, "/revision/");
    add_escaped(&url, revision, false);
    qn_buf_puts(&url, "?blobs=true");
    QN_FAIL_IF(url.failed, e, QN_INVAL, "the address of the hub is too long");
    const struct qn_fetch f = {.url = qn_buf_str(&url),
                               .token = h->token,
                               .max_redirect = MAX_REDIRECTS,
                               .on_data = keep_text,
                               .user = &text};
    struct qn_fetch_end end;
    do {
        qn_buf_clear(&text);
        rc = qn_fetch(&f, &end, e);
    } while (rc && end.is_passing && wait_again(h, &end, &n_try));
    if (text.failed)
        rc = qn_err_set(e, QN_TOOBIG, __FILE__, __LINE__, "%s: the list of files is over %zu bytes", h->repo,
                        MAX_LIST_BYTES);
    else if (rc && end.head.status >= 400)
        rc = refused(h, end.head.status, h->repo, e);
    QN_TRY(rc);
    rc = qn_hub_list_parse(out, qn_buf_str(&text), text.n_byte, h->repo, e);
out:
    qn_buf_free(&url);
    qn_buf_free(&text);
    return rc;
}

/* ------------------------------------------------------------------ a file */

/* PATH.part while it grows. */
struct part {
    const struct qn_hub *h;
    const struct qn_hub_file *f;
    int fd;
    int64_t n_byte, asked_at; /* in the file; where the running request began */
    struct qn_digest digest;
    bool is_started, is_too_long, is_misplaced;
    int why; /* errno of a failed write */
};

static void digest_start(struct qn_digest *d, const struct qn_hub_file *f)
{
    qn_digest_init(d, f->kind);
    char head[40];
    if (f->is_blob) qn_digest_add(d, head, (size_t)snprintf(head, sizeof head, "blob %" PRId64, f->size) + 1);
}

static bool digest_fits(struct qn_digest *d, const struct qn_hub_file *f)
{
    char hex[QN_DIGEST_HEX];
    qn_digest_end(d, hex);
    return !f->digest[0] || !strcmp(hex, f->digest);
}

/* Adds what a file holds; -1 when it cannot be read. */
static int64_t digest_file(struct qn_digest *d, int fd)
{
    char *block = xmalloc(HASH_BLOCK);
    int64_t at = 0;
    ssize_t n;
    while ((n = pread(fd, block, HASH_BLOCK, at)) > 0) {
        qn_digest_add(d, block, (size_t)n);
        at += n;
    }
    free(block);
    return n < 0 ? -1 : at;
}

static bool start_over(struct part *p)
{
    if (p->h->on_bytes && p->n_byte) p->h->on_bytes(p->h->ctx, -p->n_byte);
    p->n_byte = 0;
    digest_start(&p->digest, p->f);
    return !ftruncate(p->fd, 0);
}

/* A file whose size the hub does not list may not fill the disk. */
static int64_t most_bytes(const struct qn_hub_file *f)
{
    size_t n = strlen(f->path);
    bool is_weights = n > 12 && !strcmp(f->path + n - 12, ".safetensors");
    return f->size >= 0 ? f->size : is_weights ? MAX_UNSIZED_WEIGHTS : MAX_UNSIZED;
}

static bool has_room(int fd, size_t n)
{
    struct statvfs s;
    return fstatvfs(fd, &s) || (uint64_t)s.f_bavail * s.f_frsize > n + SPARE_BYTES;
}

static bool keep_bytes(void *user, const struct qn_fetch_head *head, const char *data, size_t n)
{
    struct part *p = user;
    if (!p->is_started) {
        p->is_started = true;
        if (p->asked_at && head->status == 200 && !start_over(p)) return false; /* no ranges here */
        if (p->asked_at && head->status == 206 && head->range_at != p->asked_at) {
            p->is_misplaced = true;
            return false;
        }
    }
    if ((int64_t)n > most_bytes(p->f) - p->n_byte || !has_room(p->fd, n)) {
        p->is_too_long = true;
        return false;
    }
    for (size_t done = 0; done < n;) {
        ssize_t k = pwrite(p->fd, data + done, n - done, p->n_byte + (int64_t)done);
        if (k < 0 && errno == EINTR) continue;
        if (k <= 0) {
            p->why = k < 0 ? errno : ENOSPC;
            return false;
        }
        done += (size_t)k;
    }
    qn_digest_add(&p->digest, data, n);
    p->n_byte += (int64_t)n;
    if (p->h->on_bytes) p->h->on_bytes(p->h->ctx, (int64_t)n);
    return true;
}

/* Why a request did not end well, as the error of the command. */
static int explain(const struct part *p, const struct qn_fetch_end *end, const char *path, struct qn_err *e)
{
    if (p->why) return qn_err_set(e, QN_IO, __FILE__, __LINE__, "%s.part: %s", path, strerror(p->why));
    if (p->is_too_long && !has_room(p->fd, 0))
        return qn_err_set(e, QN_IO, __FILE__, __LINE__, "%s.part: the disk is nearly full; make room", path);
    if (p->is_too_long)
        return qn_err_set(e, QN_FORMAT, __FILE__, __LINE__,
                          p->f->size >= 0 ? "%s: more bytes come than the %" PRId64 " listed"
                                          : "%s: the hub lists no size, and more than %" PRId64 " bytes come",
                          path, most_bytes(p->f));
    if (end->head.status >= 400) return refused(p->h, end->head.status, p->f->path, e);
    return qn_err_set(e, QN_IO, __FILE__, __LINE__,
                      "%s: %s; what has arrived stays, the same command goes on", p->f->path, end->why);
}

/* Fetches until the part has its size. */
static int fill(struct part *p, const char *url, const char *path, struct qn_err *e)
{
    int rc = QN_OK, n_try = 0, n_restart = 0;
    for (bool again = p->f->size < 0 || p->n_byte < p->f->size; again;) {
        const struct qn_fetch f = {.url = url,
                                   .token = p->h->token,
                                   .max_redirect = MAX_REDIRECTS,
                                   .from = p->n_byte,
                                   .on_data = keep_bytes,
                                   .user = p};
        struct qn_fetch_end end;
        p->is_started = p->is_too_long = p->is_misplaced = false;
        p->asked_at = p->n_byte;
        rc = qn_fetch(&f, &end, e);
        if (p->n_byte > p->asked_at) n_try = 0;
        if (!rc && p->f->size >= 0 && p->n_byte < p->f->size) {
            rc = QN_IO;
            end.is_passing = true;
            snprintf(end.why, sizeof end.why, "Transferred a partial file");
        }
        again = false;
        if (!rc || p->why || p->is_too_long) {
        } else if ((p->is_misplaced || end.head.status == 416) && n_restart++ < 2)
            again = start_over(p);
        else if (end.is_passing)
            again = wait_again(p->h, &end, &n_try);
        if (rc && !again) rc = explain(p, &end, path, e);
    }
    return rc;
}

/* The folders above a path. */
static int make_folders(const char *path, struct qn_err *e)
{
    int rc = QN_OK;
    char *copy = xstrdup(path);
    for (char *p = copy + 1; *p; p++) {
        if (*p != '/') continue;
        *p = 0;
        QN_FAIL_IF(mkdir(copy, 0777) && errno != EEXIST, e, QN_IO, "%s: %s", copy, strerror(errno));
        *p = '/';
    }
out:
    free(copy);
    return rc;
}

int64_t qn_hub_have(const char *folder, const struct qn_hub_file *f)
{
    struct stat s;
    char *path = xasprintf("%s/%s", folder, f->path), *part = xasprintf("%s.part", path);
    int64_t n = 0;
    if (!stat(path, &s) && S_ISREG(s.st_mode) && (f->size < 0 || s.st_size == f->size))
        n = s.st_size;
    else if (!stat(part, &s) && S_ISREG(s.st_mode) && (f->size < 0 || s.st_size <= f->size))
        n = s.st_size;
    free(path);
    free(part);
    return n;
}

/* Is the file there and right? */
static bool is_complete(const char *path, const struct qn_hub_file *f)
{
    struct qn_digest d;
    struct stat s;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0) return false;
    if (fstat(fd, &s) || !S_ISREG(s.st_mode)) {
        close(fd);
        return false;
    }
    digest_start(&d, f);
    int64_t n = f->size >= 0 || f->digest[0] ? digest_file(&d, fd) : -1;
    close(fd);
    return n >= 0 && (f->size < 0 || n == f->size) && digest_fits(&d, f);
}

int qn_hub_fetch(const struct qn_hub *h, const char *revision, const struct qn_hub_file *f,
                 const char *folder, bool *was_kept, struct qn_err *e)
{
    int rc = QN_OK;
    char *path = xasprintf("%s/%s", folder, f->path), *part = xasprintf("%s.part", path);
    struct qn_buf url = QN_BUF_INIT(16384);
    struct part p = {.h = h, .f = f, .fd = -1};
    int64_t had = qn_hub_have(folder, f);
    struct stat s;
    *was_kept = false;
    qn_buf_printf(&url, "%s/", h->endpoint);
    add_escaped(&url, h->repo, true);
    qn_buf_puts(&url, "/resolve/");
    add_escaped(&url, revision, false);
    qn_buf_putc(&url, '/');
    add_escaped(&url, f->path, true);
    QN_FAIL_IF(url.failed, e, QN_INVAL, "%s: the address is too long", f->path);
    QN_TRY(make_folders(path, e));
    if (is_complete(path, f)) {
        *was_kept = true;
        goto out;
    }
    /* what the file would replace has to be a file, or nothing */
    QN_FAIL_IF(!lstat(path, &s) && !S_ISREG(s.st_mode) && !S_ISLNK(s.st_mode), e, QN_IO,
               "%s is there and no file; remove it or choose another folder", path);
    p.fd = open(part, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0666);
    QN_FAIL_IF(p.fd < 0, e, QN_IO, "%s: %s", part, strerror(errno));
    QN_FAIL_IF(fstat(p.fd, &s) || !S_ISREG(s.st_mode), e, QN_IO, "%s is there and no file; remove it", part);
    QN_FAIL_IF(flock(p.fd, LOCK_EX | LOCK_NB), e, QN_BUSY, "%s: another process is writing it", part);
    for (int attempt = 0;; attempt++) {
        digest_start(&p.digest, f);
        p.n_byte = digest_file(&p.digest, p.fd);
        QN_FAIL_IF(p.n_byte < 0, e, QN_IO, "%s: %s", part, strerror(errno));
        bool was_resumed = p.n_byte > 0;
        if (!attempt && h->on_bytes && p.n_byte != had) h->on_bytes(h->ctx, p.n_byte - had);
        if (f->size >= 0 && p.n_byte > f->size)
            QN_FAIL_IF(!start_over(&p), e, QN_IO, "%s: %s", part, strerror(errno));
        QN_TRY(fill(&p, qn_buf_str(&url), path, e));
        if (digest_fits(&p.digest, f)) break;
        /* an older file's beginning under a newer file's end: once more from the start */
        QN_FAIL_IF(!start_over(&p), e, QN_IO, "%s: %s", part, strerror(errno));
        QN_FAIL_IF(!was_resumed || attempt, e, QN_FORMAT,
                   "%s: the %s of what arrived is not the one the hub lists; run the command again", f->path,
                   f->kind == QN_SHA256 ? "SHA-256" : "git digest");
    }
    QN_FAIL_IF(fsync(p.fd) || rename(part, path), e, QN_IO, "%s: %s", path, strerror(errno));
out:
    if (p.fd >= 0) close(p.fd);
    qn_buf_free(&url);
    free(path);
    free(part);
    return rc;
}
