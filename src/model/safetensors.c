/* safetensors: header scanner and bounds checks.
 *
 * The header of a large quantised model has 150,000 entries, so it is scanned in place instead of being
 * built as a tree; the scan also sees duplicate names, which a tree would merge.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/file.h"
#include "model/safetensors.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/hash.h"
#include "base/json.h"
#include "base/mapped.h"

struct entry {
    size_t name_at; /* into names */
    struct qn_tensor t;
    uint64_t begin, end; /* into the data */
};

struct qn_safetensors {
    char *path;
    void *map; /* NULL when parsed from the caller's bytes */
    const unsigned char *bytes;
    size_t n_byte, header_bytes;
    char *names;
    struct qn_tensor *tensors;
    int n;
};

struct scan {
    const char *text;
    size_t n, pos;
    const char *path;
    struct qn_err *e;
    struct qn_buf names;
    struct entry *entries;
    size_t n_entry, capacity;
    struct qn_map seen; /* name hash -> entry index + 1 */
};

static int bad(const struct scan *s, const char *expected)
{
    return qn_err_set(s->e, QN_FORMAT, __FILE__, __LINE__,
                      "%s: invalid header at byte %zu, expected %s; download the file again", s->path,
                      s->pos + 8, expected);
}

static void skip_blank(struct scan *s)
{
    while (s->pos < s->n) {
        char c = s->text[s->pos];
        if (c != ' ' && c != '\n' && c != '\t' && c != '\r') break;
        s->pos++;
    }
}

static int peek(struct scan *s)
{
    skip_blank(s);
    return s->pos < s->n ? (unsigned char)s->text[s->pos] : -1;
}

static bool take(struct scan *s, char c)
{
    if (peek(s) != c) return false;
    s->pos++;
    return true;
}

/* A string as written, quotes excluded; has_escape tells whether it needs decoding. */
static int raw_string(struct scan *s, size_t *at, size_t *n, bool *has_escape)
{
    if (!take(s, '"')) return bad(s, "a quoted string");
    size_t start = s->pos;
    *has_escape = false;
    while (s->pos < s->n && s->text[s->pos] != '"') {
        unsigned char c = (unsigned char)s->text[s->pos];
        if (c < 0x20) return bad(s, "no raw control character in a string");
        if (c == '\\') *has_escape = true;
        s->pos += c == '\\' ? 2 : 1;
    }
    if (s->pos >= s->n) return bad(s, "the closing quote of a string");
    *at = start;
    *n = s->pos - start;
    s->pos++;
    return QN_OK;
}

static int skip_value(struct scan *s, int depth)
{
    int rc, c = peek(s);
    size_t at, n;
    bool escaped;
    if (depth > 32) return bad(s, "less nesting");
    if (c == '"') return raw_string(s, &at, &n, &escaped);
    if (c == '{' || c == '[') {
        char close = c == '{' ? '}' : ']';
        s->pos++;
        if (take(s, close)) return QN_OK;
        for (;;) {
            if (c == '{') {
                if ((rc = raw_string(s, &at, &n, &escaped))) return rc;
                if (!take(s, ':')) return bad(s, "':'");
            }
            if ((rc = skip_value(s, depth + 1))) return rc;
            if (take(s, close)) return QN_OK;
            if (!take(s, ',')) return bad(s, "',' or a closing bracket");
        }
    }
    size_t start = s->pos;
    while (s->pos < s->n && !strchr(",]} \n\t\r", s->text[s->pos])) s->pos++;
    return s->pos == start ? bad(s, "a value") : QN_OK;
}

static int whole_number(struct scan *s, const char *name, const char *field, uint64_t *out)
{
    if (peek(s) == '-')
        return qn_err_set(s->e, QN_FORMAT, __FILE__, __LINE__, "%s: tensor %s: negative number in %s",
                          s->path, name, field);
    uint64_t x = 0;
    size_t start = s->pos;
    for (; s->pos < s->n && s->text[s->pos] >= '0' && s->text[s->pos] <= '9'; s->pos++) {
        uint64_t d = (uint64_t)(s->text[s->pos] - '0');
        if (x > (UINT64_MAX - d) / 10)
            return qn_err_set(s->e, QN_FORMAT, __FILE__, __LINE__,
                              "%s: tensor %s: number in %s does not fit in 64 bits", s->path, name, field);
        x = x * 10 + d;
    }
    if (s->pos == start || (s->pos < s->n && strchr(".eE", s->text[s->pos])))
        return qn_err_set(s->e, QN_FORMAT, __FILE__, __LINE__, "%s: tensor %s: %s must be whole numbers",
                          s->path, name, field);
    *out = x;
    return QN_OK;
}

static int number_list(struct scan *s, const char *name, const char *field, uint64_t *out, int max, int *n)
{
    if (!take(s, '[')) return bad(s, "a list");
    *n = 0;
    if (take(s, ']')) return QN_OK;
    for (;;) {
        if (*n == max)
            return qn_err_set(s->e, QN_FORMAT, __FILE__, __LINE__,
                              "%s: tensor %s: %s has more than %d numbers", s->path, name, field, max);
        int rc = whole_number(s, name, field, &out[(*n)++]);
        if (rc) return rc;
        if (take(s, ']')) return QN_OK;
        if (!take(s, ',')) return bad(s, "',' or ']'");
    }
}

static int dtype_of(struct scan *s, const char *name, enum qn_dtype *out)
{
    size_t at, n;
    bool escaped;
    int rc = raw_string(s, &at, &n, &escaped);
    if (rc) return rc;
    for (int t = 0; t < QN_N_DTYPE; t++) {
        const char *word = qn_dtype_name((enum qn_dtype)t);
        if (qn_dtype_bytes((enum qn_dtype)t) && strlen(word) == n && !memcmp(word, s->text + at, n)) {
            *out = (enum qn_dtype)t;
            return QN_OK;
        }
    }
    return qn_err_set(s->e, QN_UNSUPPORTED, __FILE__, __LINE__, "%s: tensor %s: dtype %.*s is not supported",
                      s->path, name, (int)QN_MIN(n, 32), s->text + at);
}

/* The object after a tensor's name. */
static int scan_entry(struct scan *s, const char *name, struct entry *x)
{
    int rc;
    uint64_t v[QN_MAX_DIM > 2 ? QN_MAX_DIM : 2];
    int n;
    bool has_dtype = false, has_shape = false, has_offsets = false;
    if (!take(s, '{')) return bad(s, "an object");
    for (bool more = !take(s, '}'); more; more = !take(s, '}')) {
        size_t at, len;
        bool escaped;
        if ((has_dtype || has_shape || has_offsets) && !take(s, ',')) return bad(s, "',' or '}'");
        if ((rc = raw_string(s, &at, &len, &escaped))) return rc;
        if (!take(s, ':')) return bad(s, "':'");
        const char *key = s->text + at;
        if (len == 5 && !memcmp(key, "dtype", 5) && !has_dtype) {
            if ((rc = dtype_of(s, name, &x->t.dtype))) return rc;
            has_dtype = true;
        } else if (len == 5 && !memcmp(key, "shape", 5) && !has_shape) {
            if ((rc = number_list(s, name, "shape", v, QN_MAX_DIM, &n))) return rc;
            x->t.n_dim = n;
            for (int i = 0; i < n; i++) {
                if (v[i] > INT64_MAX)
                    return qn_err_set(s->e, QN_FORMAT, __FILE__, __LINE__, "%s: tensor %s: absurd shape",
                                      s->path, name);
                x->t.shape[i] = (int64_t)v[i];
            }
            has_shape = true;
        } else if (len == 12 && !memcmp(key, "data_offsets", 12) && !has_offsets) {
            if ((rc = number_list(s, name, "data_offsets", v, 2, &n))) return rc;
            if (n != 2)
                return qn_err_set(s->e, QN_FORMAT, __FILE__, __LINE__,
                                  "%s: tensor %s: data_offsets needs two numbers", s->path, name);
            x->begin = v[0];
            x->end = v[1];
            has_offsets = true;
        } else {
            return qn_err_set(s->e, QN_FORMAT, __FILE__, __LINE__,
                              "%s: tensor %s: unknown or repeated field '%.*s'", s->path, name,
                              (int)QN_MIN(len, 40), key);
        }
    }
    if (!has_dtype || !has_shape || !has_offsets)
        return qn_err_set(s->e, QN_FORMAT, __FILE__, __LINE__,
                          "%s: tensor %s: dtype, shape or data_offsets is missing", s->path, name);
    return QN_OK;
}

/* Decodes the name at [at, at + n) and appends it to names. */
static int take_name(struct scan *s, size_t at, size_t n, bool escaped, size_t *name_at)
{
    int rc = QN_OK;
    struct qn_arena *arena = NULL;
    const char *text = s->text + at;
    if (escaped) {
        struct qn_json *v;
        arena = qn_arena_create(1 << 20);
        QN_TRY(qn_json_parse(&v, arena, text - 1, n + 2, s->path, s->e));
        text = v->text;
        n = v->n;
    }
    QN_FAIL_IF(!n || n > QN_SAFETENSORS_MAX_NAME || memchr(text, 0, n), s->e, QN_FORMAT,
               "%s: a tensor name of %zu bytes (1..%d, without NUL)", s->path, n, QN_SAFETENSORS_MAX_NAME);
    *name_at = s->names.n_byte;
    QN_TRY(qn_buf_append(&s->names, text, n));
    QN_TRY(qn_buf_putc(&s->names, 0));
out:
    qn_arena_free(arena);
    return rc;
}

static int note_name(struct scan *s, const char *name, size_t index)
{
    uint64_t key = qn_hash_str(name) | 1, at;
    while (qn_map_get(&s->seen, key, &at)) {
        if (!strcmp(s->names.data + s->entries[at].name_at, name))
            return qn_err_set(s->e, QN_FORMAT, __FILE__, __LINE__, "%s: tensor %s is listed twice", s->path,
                              name);
        key = qn_mix64(key) | 1; /* two names of one hash */
    }
    qn_map_put(&s->seen, key, index);
    return QN_OK;
}

static int scan_header(struct scan *s)
{
    int rc = QN_OK;
    if (!take(s, '{')) return bad(s, "'{'");
    if (take(s, '}')) goto end;
    for (;;) {
        size_t at, n;
        bool escaped;
        QN_TRY(raw_string(s, &at, &n, &escaped));
        if (!take(s, ':')) return bad(s, "':'");
        if (n == 12 && !memcmp(s->text + at, "__metadata__", 12)) {
            QN_TRY(skip_value(s, 0));
        } else {
            QN_FAIL_IF(s->n_entry >= QN_SAFETENSORS_MAX_TENSORS, s->e, QN_TOOBIG,
                       "%s: more than %d tensors in one file", s->path, QN_SAFETENSORS_MAX_TENSORS);
            if (s->n_entry == s->capacity) {
                s->capacity = s->capacity ? s->capacity * 2 : 256;
                s->entries = xreallocarray(s->entries, s->capacity, sizeof *s->entries);
            }
            struct entry *x = &s->entries[s->n_entry];
            memset(x, 0, sizeof *x);
            QN_TRY(take_name(s, at, n, escaped, &x->name_at));
            QN_TRY(note_name(s, s->names.data + x->name_at, s->n_entry));
            s->n_entry++;
            QN_TRY(scan_entry(s, s->names.data + x->name_at, x));
        }
        if (take(s, '}')) break;
        if (!take(s, ',')) return bad(s, "',' or '}'");
    }
end:
    if (peek(s) != -1) return bad(s, "only blanks after the header");
out:
    return rc;
}

static int compare_entries(const void *a, const void *b)
{
    const struct entry *x = a, *y = b;
    if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
    if (x->end != y->end) return x->end < y->end ? -1 : 1;
    return x->name_at < y->name_at ? -1 : 1;
}

/* Sizes against shapes, offsets against the file and against each other. */
static int check_entries(struct scan *s, const unsigned char *data, uint64_t n_data)
{
    int rc = QN_OK;
    struct qn_err *e = s->e;
    if (s->n_entry) qsort(s->entries, s->n_entry, sizeof *s->entries, compare_entries);
    uint64_t at = 0;
    const char *before = "the header";
    for (size_t i = 0; i < s->n_entry; i++) {
        struct entry *x = &s->entries[i];
        const char *name = s->names.data + x->name_at;
        size_t want = qn_dtype_bytes(x->t.dtype);
        for (int d = 0; d < x->t.n_dim; d++)
            QN_FAIL_IF(!qn_mul_size(want, (size_t)x->t.shape[d], &want), e, QN_FORMAT,
                       "%s: tensor %s: the shape overflows", s->path, name);
        QN_FAIL_IF(x->end < x->begin, e, QN_FORMAT, "%s: tensor %s: ends before it begins", s->path, name);
        QN_FAIL_IF(x->end > n_data, e, QN_FORMAT,
                   "%s: tensor %s ends at byte %" PRIu64 " of the data, but the file has %" PRIu64
                   ": it is truncated, download it again",
                   s->path, name, x->end, n_data);
        QN_FAIL_IF(x->end - x->begin != want, e, QN_FORMAT,
                   "%s: tensor %s has %" PRIu64 " bytes, its shape and dtype need %zu", s->path, name,
                   x->end - x->begin, want);
        QN_FAIL_IF(x->begin < at, e, QN_FORMAT, "%s: tensors %s and %s overlap", s->path, before, name);
        QN_FAIL_IF(x->begin > at, e, QN_FORMAT, "%s: %" PRIu64 " bytes before tensor %s belong to no tensor",
                   s->path, x->begin - at, name);
        at = x->end;
        before = name;
        x->t.data = data + x->begin;
        x->t.n_byte = want;
    }
    QN_FAIL_IF(at != n_data, e, QN_FORMAT, "%s: %" PRIu64 " bytes at the end belong to no tensor", s->path,
               n_data - at);
out:
    return rc;
}

static int parse(struct qn_safetensors *st, struct qn_err *e)
{
    int rc = QN_OK;
    struct scan s = {.path = st->path, .e = e, .names = QN_BUF_INIT(QN_SAFETENSORS_MAX_HEADER)};
    QN_FAIL_IF(st->n_byte < 8, e, QN_FORMAT, "%s: %zu bytes are too few for a safetensors file", st->path,
               st->n_byte);
    QN_FAIL_IF(st->n_byte >= 40 && !memcmp(st->bytes, "version https://git-lfs", 23), e, QN_FORMAT,
               "%s is a Git LFS pointer, not the data: run `git lfs pull` in its folder", st->path);
    uint64_t n_header = 0;
    for (int i = 7; i >= 0; i--) n_header = n_header << 8 | st->bytes[i];
    QN_FAIL_IF(n_header > QN_SAFETENSORS_MAX_HEADER, e, QN_FORMAT,
               "%s: a header of %" PRIu64 " bytes is over the limit of %zu; is it a safetensors file?",
               st->path, n_header, QN_SAFETENSORS_MAX_HEADER);
    QN_FAIL_IF(n_header > st->n_byte - 8, e, QN_FORMAT,
               "%s: a header of %" PRIu64 " bytes is larger than the file (%zu): download it again", st->path,
               n_header, st->n_byte);
    st->header_bytes = (size_t)n_header;
    s.text = (const char *)st->bytes + 8;
    s.n = st->header_bytes;
    QN_TRY(scan_header(&s));
    QN_TRY(check_entries(&s, st->bytes + 8 + n_header, st->n_byte - 8 - n_header));
    st->n = (int)s.n_entry;
    st->tensors = xcalloc(s.n_entry, sizeof *st->tensors);
    st->names = qn_buf_take(&s.names);
    for (size_t i = 0; i < s.n_entry; i++) {
        st->tensors[i] = s.entries[i].t;
        st->tensors[i].name = st->names + s.entries[i].name_at;
    }
out:
    qn_buf_free(&s.names);
    qn_map_free(&s.seen);
    free(s.entries);
    return rc;
}

int qn_safetensors_parse(struct qn_safetensors **out, const void *data, size_t n_byte, const char *name,
                         struct qn_err *e)
{
    struct qn_safetensors *st = xcalloc(1, sizeof *st);
    st->path = xstrdup(name);
    st->bytes = data;
    st->n_byte = n_byte;
    int rc = parse(st, e);
    if (rc)
        qn_safetensors_close(st);
    else
        *out = st;
    return rc;
}

int qn_safetensors_open(struct qn_safetensors **out, const char *path, struct qn_err *e)
{
    int rc = QN_OK, fd = -1;
    struct qn_safetensors *st = xcalloc(1, sizeof *st);
    st->path = xstrdup(path);
    QN_TRY(qn_file_open(&fd, path, e));
    struct stat info;
    QN_FAIL_IF(fstat(fd, &info), e, QN_IO, "%s: %s", path, strerror(errno));
    QN_FAIL_IF(info.st_size < 8, e, QN_FORMAT, "%s: %lld bytes are too few for a safetensors file", path,
               (long long)info.st_size);
    st->n_byte = (size_t)info.st_size;
    st->map = mmap(NULL, st->n_byte, PROT_READ, MAP_PRIVATE, fd, 0);
    if (st->map == MAP_FAILED) st->map = NULL;
    QN_FAIL_IF(!st->map, e, QN_IO, "%s: cannot map: %s", path, strerror(errno));
    qn_mapped_add(st->map, st->n_byte);
    st->bytes = st->map;
    QN_TRY(parse(st, e));
    *out = st;
    st = NULL;
out:
    if (fd >= 0) close(fd);
    qn_safetensors_close(st);
    return rc;
}

void qn_safetensors_close(struct qn_safetensors *st)
{
    if (!st) return;
    qn_mapped_remove(st->map);
    if (st->map) munmap(st->map, st->n_byte);
    free(st->tensors);
    free(st->names);
    free(st->path);
    free(st);
}

int qn_safetensors_n_tensor(const struct qn_safetensors *st)
{
    return st->n;
}

const struct qn_tensor *qn_safetensors_tensor(const struct qn_safetensors *st, int i)
{
    return &st->tensors[i];
}

size_t qn_safetensors_file_bytes(const struct qn_safetensors *st)
{
    return st->n_byte;
}

void qn_safetensors_advise(const struct qn_safetensors *st, int advice)
{
    if (st->map) madvise(st->map, st->n_byte, advice);
}

const void *qn_safetensors_header(const struct qn_safetensors *st, size_t *n_byte)
{
    *n_byte = st->header_bytes;
    return st->bytes + 8;
}
