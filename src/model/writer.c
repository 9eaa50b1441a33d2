/* Sharded safetensors output, atomic by renaming the folder.
 * SPDX-License-Identifier: Apache-2.0 */
#include "model/writer.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/json.h"

#define MARK "quern.partial" /* tells our leftovers from a user's folder, and holds the lock */

struct place {
    char *name;
    int shard;
    uint64_t at; /* in the shard file */
    size_t n_byte;
};

struct qn_writer {
    char *folder, *partial;
    int lock, dir; /* descriptors */
    struct place *places;
    int n;
    int *fds;
    char **shard_names;
    int n_shard;
    size_t total;
    struct qn_buf notes; /* of an earlier run */
    bool done, is_resumed, has_notes, is_sparse;
};

static bool is_empty_folder(const char *path)
{
    DIR *d = opendir(path);
    if (!d) return false;
    bool empty = true;
    for (struct dirent *x; (x = readdir(d));) empty &= !strcmp(x->d_name, ".") || !strcmp(x->d_name, "..");
    closedir(d);
    return empty;
}

/* Only regular files are ever made there, so only those are removed: those that begin so. */
static void empty_partial(const char *path, const char *prefix)
{
    DIR *d = opendir(path);
    if (!d) return;
    for (struct dirent *x; (x = readdir(d));)
        if (strcmp(x->d_name, MARK) && !strncmp(x->d_name, prefix, strlen(prefix)))
            unlinkat(dirfd(d), x->d_name, 0);
    closedir(d);
}

/* The mark of an earlier run: its key, then notes; a line cut short does not count. True when the key is
 * ours. */
static bool read_mark(struct qn_writer *w, const char *key)
{
    char block[4096];
    size_t n_key = strlen(key);
    for (ssize_t n; (n = pread(w->lock, block, sizeof block, (off_t)w->notes.n_byte)) > 0;)
        qn_buf_append(&w->notes, block, (size_t)n);
    while (w->notes.n_byte && w->notes.data[w->notes.n_byte - 1] != '\n') w->notes.n_byte--;
    const char *text = qn_buf_str(&w->notes);
    if (w->notes.failed || w->notes.n_byte <= n_key || memcmp(text, key, n_key) || text[n_key] != '\n')
        return false;
    w->notes.data[w->notes.n_byte] = 0;
    char *rest = xstrndup(text + n_key + 1, w->notes.n_byte - n_key - 1);
    bool has_notes = *rest;
    /* what was cut short is overwritten by the next note */
    has_notes &= !ftruncate(w->lock, (off_t)w->notes.n_byte);
    qn_buf_clear(&w->notes);
    qn_buf_puts(&w->notes, rest);
    free(rest);
    return has_notes;
}

static int append(struct qn_writer *w, const char *text, struct qn_err *e)
{
    int rc = QN_OK;
    size_t n = strlen(text);
    off_t end = lseek(w->lock, 0, SEEK_END);
    QN_FAIL_IF(end < 0 || pwrite(w->lock, text, n, end) != (ssize_t)n || fdatasync(w->lock), e, QN_IO,
               "%s/" MARK ": %s", w->partial, strerror(errno));
out:
    return rc;
}

const char *qn_writer_notes(const struct qn_writer *w)
{
    return w->is_resumed ? w->notes.data : "";
}

int qn_writer_note(struct qn_writer *w, const char *lines, struct qn_err *e)
{
    int rc = append(w, lines, e);
    if (!rc) w->has_notes = true;
    return rc;
}

char *qn_writer_path(const struct qn_writer *w, const char *name)
{
    return xasprintf("%s/%s", w->partial, name);
}

int qn_writer_open(struct qn_writer **out, const char *folder, const char *key, struct qn_err *e)
{
    int rc = QN_OK;
    struct stat info;
    struct qn_writer *w = xcalloc(1, sizeof *w);
    char *mark = NULL;
    size_t n = strlen(folder);
    while (n > 1 && folder[n - 1] == '/') n--;
    w->lock = w->dir = -1;
    qn_buf_init(&w->notes, (size_t)256 << 20);
    w->done = true; /* nothing of ours to remove yet */
    QN_FAIL_IF(!n, e, QN_INVAL, "the output folder has no name");
    w->folder = xstrndup(folder, n);
    if (!lstat(w->folder, &info) && S_ISLNK(info.st_mode)) { /* what it names is written; the link stays */
        char *real = realpath(w->folder, NULL);
        QN_FAIL_IF(!real, e, QN_INVAL, "%s is a link to nothing; remove it or make the folder it names",
                   w->folder);
        free(w->folder);
        w->folder = real;
    }
    w->partial = xasprintf("%s.partial", w->folder);
    mark = xasprintf("%s/" MARK, w->partial);
    QN_FAIL_IF(!stat(w->folder, &info) && !(S_ISDIR(info.st_mode) && is_empty_folder(w->folder)), e, QN_INVAL,
               "%s exists; remove it or choose another name", w->folder);
    if (mkdir(w->partial, 0777)) {
        QN_FAIL_IF(errno != EEXIST, e, QN_IO, "%s: %s", w->partial, strerror(errno));
        QN_FAIL_IF(access(mark, F_OK) && !is_empty_folder(w->partial), e, QN_INVAL,
                   "%s exists and is not a leftover of quern; remove it", w->partial);
    }
    w->lock = open(mark, O_CREAT | O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0666);
    QN_FAIL_IF(w->lock < 0, e, QN_IO, "%s: %s", mark, strerror(errno));
    QN_FAIL_IF(fstat(w->lock, &info) || !S_ISREG(info.st_mode), e, QN_IO, "%s is no file; remove it", mark);
    QN_FAIL_IF(flock(w->lock, LOCK_EX | LOCK_NB), e, QN_BUSY, "%s is being written by another process",
               w->partial);
    w->done = false;
    w->is_resumed = w->has_notes = key && read_mark(w, key);
    if (!w->is_resumed) {
        empty_partial(w->partial, "");
        qn_buf_clear(&w->notes);
        QN_FAIL_IF(ftruncate(w->lock, 0), e, QN_IO, "%s: %s", mark, strerror(errno));
        if (key) QN_TRY(append(w, key, e));
        if (key) QN_TRY(append(w, "\n", e));
    }
    w->dir = open(w->partial, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    QN_FAIL_IF(w->dir < 0, e, QN_IO, "%s: %s", w->partial, strerror(errno));
    *out = w;
    w = NULL;
out:
    free(mark);
    qn_writer_close(w);
    return rc;
}

/* Shards are filled in order; a tensor larger than the limit gets its own. */
static void assign_shards(struct qn_writer *w, const struct qn_tensor *list, int64_t limit)
{
    uint64_t used = 0;
    w->n_shard = w->n ? 1 : 0;
    for (int i = 0; i < w->n; i++) {
        if (used && used + list[i].n_byte > (uint64_t)limit) {
            w->n_shard++;
            used = 0;
        }
        w->places[i] = (struct place){xstrdup(list[i].name), w->n_shard - 1, 0, list[i].n_byte};
        used += list[i].n_byte;
        w->total += list[i].n_byte;
    }
}

static int write_all(int fd, const void *data, size_t n, uint64_t at, const char *name, struct qn_err *e)
{
    int rc = QN_OK;
    const char *p = data;
    while (n) {
        ssize_t k = pwrite(fd, p, n, (off_t)at);
        if (k < 0 && errno == EINTR) continue;
        QN_FAIL_IF(k <= 0, e, QN_IO, "%s: %s", name, strerror(k < 0 ? errno : ENOSPC));
        p += k;
        n -= (size_t)k;
        at += (uint64_t)k;
    }
out:
    return rc;
}

static int make_shard(struct qn_writer *w, const struct qn_tensor *list, int shard, struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_buf head = QN_BUF_INIT((size_t)1 << 30);
    uint64_t at = 0;
    qn_buf_append(&head, "\0\0\0\0\0\0\0\0", 8);
    qn_buf_puts(&head, "{\"__metadata__\":{\"format\":\"pt\"}");
    for (int i = 0; i < w->n; i++) {
        if (w->places[i].shard != shard) continue;
        qn_buf_puts(&head, ",");
        qn_json_write_str(&head, list[i].name, strlen(list[i].name), false);
        qn_buf_printf(&head, ":{\"dtype\":\"%s\",\"shape\":[", qn_dtype_name(list[i].dtype));
        for (int d = 0; d < list[i].n_dim; d++)
            qn_buf_printf(&head, "%s%" PRId64, d ? "," : "", list[i].shape[d]);
        qn_buf_printf(&head, "],\"data_offsets\":[%" PRIu64 ",%" PRIu64 "]}", at, at + list[i].n_byte);
        w->places[i].at = at;
        at += list[i].n_byte;
    }
    qn_buf_puts(&head, "}");
    while (head.n_byte % 8) qn_buf_puts(&head, " ");
    QN_FAIL_IF(head.failed, e, QN_NOMEM, "%s: the header is too large", w->shard_names[shard]);
    uint64_t n_header = head.n_byte - 8;
    for (int i = 0; i < 8; i++) head.data[i] = (char)(n_header >> 8 * i);
    for (int i = 0; i < w->n; i++)
        if (w->places[i].shard == shard) w->places[i].at += head.n_byte;
    int fd = openat(w->dir, w->shard_names[shard],
                    O_CREAT | (w->is_resumed ? 0 : O_TRUNC) | O_RDWR | O_CLOEXEC, 0666);
    QN_FAIL_IF(fd < 0, e, QN_IO, "%s: %s", w->shard_names[shard], strerror(errno));
    w->fds[shard] = fd;
    /* reserves the room, so that a full disk is known now and not after an hour */
    off_t n_byte = (off_t)(head.n_byte + at);
    int full = w->is_sparse ? (ftruncate(fd, n_byte) ? errno : 0) : posix_fallocate(fd, 0, n_byte);
    QN_FAIL_IF(full == ENOSPC || full == EFBIG, e, QN_IO, "%s/%s needs %" PRIu64 " bytes: %s", w->partial,
               w->shard_names[shard], head.n_byte + at, strerror(full));
    QN_TRY(write_all(fd, head.data, head.n_byte, 0, w->shard_names[shard], e));
out:
    qn_buf_free(&head);
    return rc;
}

void qn_writer_be_sparse(struct qn_writer *w)
{
    w->is_sparse = true;
}

int qn_writer_declare(struct qn_writer *w, const struct qn_tensor *list, int n, int64_t shard_bytes,
                      struct qn_err *e)
{
    int rc = QN_OK;
    QN_CHECK(!w->places);
    w->n = n;
    w->places = xcalloc((size_t)n, sizeof *w->places);
    assign_shards(w, list, shard_bytes);
    w->fds = xcalloc((size_t)w->n_shard, sizeof *w->fds);
    w->shard_names = xcalloc((size_t)w->n_shard, sizeof *w->shard_names);
    for (int i = 0; i < w->n_shard; i++) w->fds[i] = -1;
    for (int i = 0; i < w->n_shard; i++) {
        w->shard_names[i] = w->n_shard == 1 ? xstrdup("model.safetensors")
                                            : xasprintf("model-%05d-of-%05d.safetensors", i + 1, w->n_shard);
        QN_TRY(make_shard(w, list, i, e));
    }
out:
    return rc;
}

int qn_writer_put(struct qn_writer *w, int i, size_t offset, const void *data, size_t n_byte,
                  struct qn_err *e)
{
    QN_CHECK(i >= 0 && i < w->n && n_byte <= w->places[i].n_byte && offset <= w->places[i].n_byte - n_byte);
    int shard = w->places[i].shard;
    return write_all(w->fds[shard], data, n_byte, w->places[i].at + offset, w->shard_names[shard], e);
}

int qn_writer_get(struct qn_writer *w, int i, void *to, struct qn_err *e)
{
    int rc = QN_OK;
    const struct place *p = &w->places[i];
    for (size_t n = 0; n < p->n_byte;) {
        ssize_t k = pread(w->fds[p->shard], (char *)to + n, p->n_byte - n, (off_t)(p->at + n));
        if (k < 0 && errno == EINTR) continue;
        QN_FAIL_IF(k <= 0, e, QN_IO, "%s: %s", w->shard_names[p->shard], strerror(k < 0 ? errno : EIO));
        n += (size_t)k;
    }
out:
    return rc;
}

int qn_writer_shard_of(const struct qn_writer *w, int i)
{
    return w->places[i].shard;
}

int qn_writer_sync(struct qn_writer *w, int shard, struct qn_err *e)
{
    int rc = QN_OK;
    QN_FAIL_IF(fdatasync(w->fds[shard]), e, QN_IO, "%s: %s", w->shard_names[shard], strerror(errno));
out:
    return rc;
}

int qn_writer_file(struct qn_writer *w, const char *name, const void *data, size_t n_byte, struct qn_err *e)
{
    int rc = QN_OK;
    int fd = openat(w->dir, name, O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0666);
    QN_FAIL_IF(fd < 0, e, QN_IO, "%s/%s: %s", w->partial, name, strerror(errno));
    QN_TRY(write_all(fd, data, n_byte, 0, name, e));
out:
    if (fd >= 0) close(fd);
    return rc;
}

size_t qn_writer_bytes(const struct qn_writer *w)
{
    return w->total;
}

int qn_writer_n_shards(const struct qn_writer *w)
{
    return w->n_shard;
}

static int write_index(struct qn_writer *w, struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_buf b = QN_BUF_INIT((size_t)1 << 30);
    qn_buf_printf(&b, "{\n  \"metadata\": {\n    \"total_size\": %zu\n  },\n  \"weight_map\": {", w->total);
    for (int i = 0; i < w->n; i++) {
        qn_buf_puts(&b, i ? ",\n    " : "\n    ");
        qn_json_write_str(&b, w->places[i].name, strlen(w->places[i].name), false);
        qn_buf_printf(&b, ": \"%s\"", w->shard_names[w->places[i].shard]);
    }
    qn_buf_puts(&b, "\n  }\n}\n");
    QN_FAIL_IF(b.failed, e, QN_NOMEM, "the index is too large");
    QN_TRY(qn_writer_file(w, "model.safetensors.index.json", b.data, b.n_byte, e));
out:
    qn_buf_free(&b);
    return rc;
}

int qn_writer_commit(struct qn_writer *w, struct qn_err *e)
{
    int rc = QN_OK;
    if (w->n_shard > 1) QN_TRY(write_index(w, e));
    for (int i = 0; i < w->n_shard; i++) {
        int fd = w->fds[i];
        w->fds[i] = -1;
        QN_FAIL_IF(close(fd), e, QN_IO, "%s: %s", w->shard_names[i], strerror(errno));
    }
    empty_partial(w->partial, "quern.");
    rmdir(w->folder); /* an empty one is allowed to be there */
    QN_FAIL_IF(unlinkat(w->dir, MARK, 0) || rename(w->partial, w->folder), e, QN_IO,
               "cannot rename %s to %s: %s", w->partial, w->folder, strerror(errno));
    w->done = true;
out:
    return rc;
}

void qn_writer_close(struct qn_writer *w)
{
    if (!w) return;
    for (int i = 0; i < w->n_shard; i++) {
        if (w->fds && w->fds[i] >= 0) close(w->fds[i]);
        if (w->shard_names) free(w->shard_names[i]);
    }
    if (!w->done && !w->has_notes) {
        empty_partial(w->partial, "");
        unlinkat(w->dir, MARK, 0);
        rmdir(w->partial);
    }
    if (w->dir >= 0) close(w->dir);
    if (w->lock >= 0) close(w->lock);
    for (int i = 0; i < w->n && w->places; i++) free(w->places[i].name);
    qn_buf_free(&w->notes);
    free(w->places);
    free(w->fds);
    free(w->shard_names);
    free(w->folder);
    free(w->partial);
    free(w);
}
