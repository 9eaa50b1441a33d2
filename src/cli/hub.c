/* A model hub over HTTP.
 * SPDX-License-Identifier: Apache-2.0 */
#include "cli/hub.h"

#include <curl/curl.h>
#include <errno.h>
#include <fcntl.h>
#include <strings.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/json.h"

#define MAX_LIST_BYTES ((size_t)64 << 20)
#define MAX_LIST_ARENA ((size_t)512 << 20)
#define CONNECT_S      30L
#define STALL_S        60L /* without a byte */
#define MAX_REDIRECTS  8L
#define DEFAULT_TRIES  6
#define MAX_WAIT_S     60
#define HASH_BLOCK     ((size_t)1 << 20)

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

static CURL *open_request(const struct qn_hub *h, const char *url, struct curl_slist **headers)
{
    CURL *c = curl_easy_init();
    QN_CHECK(c);
    *headers = NULL;
    if (h->token) {
        char *line = xasprintf("Authorization: Bearer %s", h->token);
        *headers = curl_slist_append(NULL, line); /* not sent where another host or port is redirected to */
        free(line);
    }
    curl_easy_setopt(c, CURLOPT_URL, url);
    curl_easy_setopt(c, CURLOPT_HTTPHEADER, *headers);
    curl_easy_setopt(c, CURLOPT_USERAGENT, "quern/" QN_VERSION);
    curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(c, CURLOPT_FAILONERROR, 1L);
    curl_easy_setopt(c, CURLOPT_FOLLOWLOCATION, 1L);
    curl_easy_setopt(c, CURLOPT_MAXREDIRS, MAX_REDIRECTS);
    curl_easy_setopt(c, CURLOPT_PROTOCOLS_STR, "http,https");
    /* a hub that is reached by https does not send us to plain http */
    curl_easy_setopt(c, CURLOPT_REDIR_PROTOCOLS_STR, strncasecmp(url, "https:", 6) ? "http,https" : "https");
    curl_easy_setopt(c, CURLOPT_CONNECTTIMEOUT, CONNECT_S);
    curl_easy_setopt(c, CURLOPT_LOW_SPEED_LIMIT, 1L);
    curl_easy_setopt(c, CURLOPT_LOW_SPEED_TIME, STALL_S);
    return c;
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

static bool is_passing(CURLcode code, long status)
{
    if (code == CURLE_HTTP_RETURNED_ERROR) return status == 408 || status == 429 || status >= 500;
    return code == CURLE_COULDNT_CONNECT || code == CURLE_OPERATION_TIMEDOUT || code == CURLE_RECV_ERROR ||
           code == CURLE_SEND_ERROR || code == CURLE_GOT_NOTHING || code == CURLE_PARTIAL_FILE ||
           code == CURLE_COULDNT_RESOLVE_HOST || code == CURLE_HTTP2 || code == CURLE_HTTP2_STREAM;
}

/* Waits before the next attempt; false when there have been enough. */
static bool wait_again(const struct qn_hub *h, CURL *c, CURLcode code, long status, int *n_try)
{
    if (++*n_try >= (h->max_tries ? h->max_tries : DEFAULT_TRIES)) return false;
    curl_off_t asked = 0;
    curl_easy_getinfo(c, CURLINFO_RETRY_AFTER, &asked);
    int wait_s = asked > 0 ? (int)QN_MIN(asked, MAX_WAIT_S) : QN_MIN(1 << (*n_try - 1), MAX_WAIT_S);
    char why[120];
    if (code == CURLE_HTTP_RETURNED_ERROR)
        snprintf(why, sizeof why, "the hub answers %ld", status);
    else
        snprintf(why, sizeof why, "%s", curl_easy_strerror(code));
    if (h->on_retry) h->on_retry(h->ctx, why, wait_s);
    sleep((unsigned)wait_s);
    return true;
}

static size_t keep_text(char *data, size_t size, size_t n, void *user)
{
    (void)size;
    return qn_buf_append(user, data, n) ? 0 : n;
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
    for (bool again = true; again;) {
        struct curl_slist *headers;
        long status = 0;
        CURL *c = open_request(h, qn_buf_str(&url), &headers);
        qn_buf_clear(&text);
        curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, keep_text);
        curl_easy_setopt(c, CURLOPT_WRITEDATA, &text);
        CURLcode code = curl_easy_perform(c);
        curl_easy_getinfo(c, CURLINFO_RESPONSE_CODE, &status);
        again = code && is_passing(code, status) && wait_again(h, c, code, status, &n_try);
        if (code && !again)
            rc = text.failed                         ? qn_err_set(e, QN_TOOBIG, __FILE__, __LINE__,
                                                                  "%s: the list of files is over %zu bytes", h->repo, MAX_LIST_BYTES)
                 : code == CURLE_HTTP_RETURNED_ERROR ? refused(h, status, h->repo, e)
                                                     : qn_err_set(e, QN_IO, __FILE__, __LINE__, "%s: %s",
                                                                  qn_buf_str(&url), curl_easy_strerror(code));
        curl_slist_free_all(headers);
        curl_easy_cleanup(c);
    }
    if (!rc) rc = qn_hub_list_parse(out, qn_buf_str(&text), text.n_byte, h->repo, e);
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
    CURL *request;
    int fd;
    int64_t n_byte, asked_at; /* in the file; where the running request began */
    int64_t told_at;          /* where the server says its answer begins; -1: not told */
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

static size_t keep_header(char *line, size_t size, size_t n, void *user)
{
    struct part *p = user;
    static const char name[] = "content-range: bytes ";
    (void)size;
    if (n > 5 && !strncasecmp(line, "HTTP/", 5)) p->told_at = -1; /* of the answer after a redirect */
    if (n > sizeof name && !strncasecmp(line, name, sizeof name - 1)) {
        int64_t at = 0;
        for (size_t i = sizeof name - 1; i < n && line[i] >= '0' && line[i] <= '9' && at < INT64_MAX / 16;
             i++)
            at = at * 10 + line[i] - '0';
        p->told_at = at;
    }
    return n;
}

static size_t keep_bytes(char *data, size_t size, size_t n, void *user)
{
    struct part *p = user;
    (void)size;
    if (!p->is_started) {
        long status = 0;
        curl_easy_getinfo(p->request, CURLINFO_RESPONSE_CODE, &status);
        p->is_started = true;
        if (p->asked_at && status == 200 && !start_over(p)) return 0; /* no ranges here */
        if (p->asked_at && status == 206 && p->told_at != p->asked_at) {
            p->is_misplaced = true;
            return 0;
        }
    }
    if (p->f->size >= 0 && (int64_t)n > p->f->size - p->n_byte) {
        p->is_too_long = true;
        return 0;
    }
    for (size_t done = 0; done < n;) {
        ssize_t k = pwrite(p->fd, data + done, n - done, p->n_byte + (int64_t)done);
        if (k < 0 && errno == EINTR) continue;
        if (k <= 0) {
            p->why = k < 0 ? errno : ENOSPC;
            return 0;
        }
        done += (size_t)k;
    }
    qn_digest_add(&p->digest, data, n);
    p->n_byte += (int64_t)n;
    if (p->h->on_bytes) p->h->on_bytes(p->h->ctx, (int64_t)n);
    return n;
}

/* Fetches until the part has its size. */
static int fill(struct part *p, const char *url, const char *path, struct qn_err *e)
{
    int rc = QN_OK, n_try = 0, n_restart = 0;
    for (bool again = p->f->size < 0 || p->n_byte < p->f->size; again;) {
        struct curl_slist *headers;
        long status = 0;
        CURL *c = open_request(p->h, url, &headers);
        p->request = c;
        p->is_started = p->is_too_long = p->is_misplaced = false;
        p->asked_at = p->n_byte;
        p->told_at = -1;
        curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, keep_bytes);
        curl_easy_setopt(c, CURLOPT_WRITEDATA, p);
        curl_easy_setopt(c, CURLOPT_HEADERFUNCTION, keep_header);
        curl_easy_setopt(c, CURLOPT_HEADERDATA, p);
        char range[32];
        snprintf(range, sizeof range, "%" PRId64 "-", p->n_byte);
        if (p->n_byte) curl_easy_setopt(c, CURLOPT_RANGE, range);
        CURLcode code = curl_easy_perform(c);
        curl_easy_getinfo(c, CURLINFO_RESPONSE_CODE, &status);
        if (p->n_byte > p->asked_at) n_try = 0;
        bool is_short = !code && p->f->size >= 0 && p->n_byte < p->f->size;
        if (is_short) code = CURLE_PARTIAL_FILE;
        bool is_bad_range = p->is_misplaced || (code == CURLE_HTTP_RETURNED_ERROR && status == 416);
        again = false;
        if (!code) {
        } else if (p->why) {
            rc = qn_err_set(e, QN_IO, __FILE__, __LINE__, "%s.part: %s", path, strerror(p->why));
        } else if (p->is_too_long) {
            rc = qn_err_set(e, QN_FORMAT, __FILE__, __LINE__,
                            "%s: more bytes come than the %" PRId64 " listed", path, p->f->size);
        } else if (is_bad_range && n_restart++ < 2) {
            again = start_over(p);
        } else if (is_passing(code, status)) {
            again = wait_again(p->h, c, code, status, &n_try);
        }
        if (code && !again && !rc)
            rc = code == CURLE_HTTP_RETURNED_ERROR
                     ? refused(p->h, status, p->f->path, e)
                     : qn_err_set(e, QN_IO, __FILE__, __LINE__,
                                  "%s: %s; what has arrived stays, the same command goes on", p->f->path,
                                  curl_easy_strerror(code));
        curl_slist_free_all(headers);
        curl_easy_cleanup(c);
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
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0) return false;
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
    p.fd = open(part, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
    QN_FAIL_IF(p.fd < 0, e, QN_IO, "%s: %s", part, strerror(errno));
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
