/* GGUF: scanner and bounds checks.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/gguf.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/hash.h"
#include "base/mapped.h"
#include "base/mem.h"

#define MAX_NAME_BYTES ((size_t)512 << 20)

struct qn_gguf {
    char *path;
    void *map; /* NULL when parsed from the caller's bytes */
    const unsigned char *bytes;
    size_t n_byte, header_bytes;
    struct qn_arena *names; /* keys and tensor names */
    struct qn_gguf_value *values;
    int n_value;
    struct qn_gguf_tensor *tensors;
    int n_tensor;
    struct qn_map by_key; /* hash -> index + 1 */
};

static const struct qn_gguf_type types[] = {
    [0] = {"F32", 1, 4},         [1] = {"F16", 1, 2},       [2] = {"Q4_0", 32, 18},
    [3] = {"Q4_1", 32, 20},      [6] = {"Q5_0", 32, 22},    [7] = {"Q5_1", 32, 24},
    [8] = {"Q8_0", 32, 34},      [9] = {"Q8_1", 0, 0},      [10] = {"Q2_K", 256, 84},
    [11] = {"Q3_K", 256, 110},   [12] = {"Q4_K", 256, 144}, [13] = {"Q5_K", 256, 176},
    [14] = {"Q6_K", 256, 210},   [15] = {"Q8_K", 0, 0},     [16] = {"IQ2_XXS", 0, 0},
    [17] = {"IQ2_XS", 0, 0},     [18] = {"IQ3_XXS", 0, 0},  [19] = {"IQ1_S", 0, 0},
    [20] = {"IQ4_NL", 32, 18},   [21] = {"IQ3_S", 0, 0},    [22] = {"IQ2_S", 0, 0},
    [23] = {"IQ4_XS", 256, 136}, [24] = {"I8", 1, 1},       [25] = {"I16", 1, 2},
    [26] = {"I32", 1, 4},        [27] = {"I64", 1, 8},      [28] = {"F64", 1, 8},
    [29] = {"IQ1_M", 0, 0},      [30] = {"BF16", 1, 2},     [34] = {"TQ1_0", 0, 0},
    [35] = {"TQ2_0", 0, 0},      [39] = {"MXFP4", 32, 17},  [40] = {"NVFP4", 64, 36},
};

struct qn_gguf_type qn_gguf_type(uint32_t type)
{
    return type < QN_COUNT(types) ? types[type] : (struct qn_gguf_type){0};
}

/* --- scan --- */

struct scan {
    struct qn_gguf *g;
    size_t pos;
    struct qn_err *e;
};

static int bad(const struct scan *s, const char *what)
{
    return qn_err_set(s->e, QN_FORMAT, __FILE__, __LINE__, "%s: byte %zu: %s; download the file again",
                      s->g->path, s->pos, what);
}

static size_t left(const struct scan *s)
{
    return s->g->n_byte - s->pos;
}

static int take(struct scan *s, void *to, size_t n)
{
    if (left(s) < n) return bad(s, "the file ends in its header");
    memcpy(to, s->g->bytes + s->pos, n);
    s->pos += n;
    return QN_OK;
}

static int take_string(struct scan *s, const unsigned char **text, size_t *n)
{
    uint64_t length;
    int rc = take(s, &length, 8);
    if (rc) return rc;
    if (length > left(s)) return bad(s, "a string is longer than the file");
    *text = s->g->bytes + s->pos;
    *n = (size_t)length;
    s->pos += *n;
    return QN_OK;
}

/* A key or a tensor's name, kept with a NUL. */
static int take_name(struct scan *s, const char **out)
{
    const unsigned char *text;
    size_t n;
    int rc = take_string(s, &text, &n);
    if (rc) return rc;
    if (!n || n >= QN_GGUF_MAX_NAME || memchr(text, 0, n)) return bad(s, "a name is empty or too long");
    *out = qn_arena_strndup(s->g->names, (const char *)text, n);
    return *out ? QN_OK : bad(s, "the names take too much memory");
}

static size_t scalar_bytes(enum qn_gguf_kind kind)
{
    switch (kind) {
    case QN_GGUF_U8:
    case QN_GGUF_I8:
    case QN_GGUF_BOOL:
        return 1;
    case QN_GGUF_U16:
    case QN_GGUF_I16:
        return 2;
    case QN_GGUF_U32:
    case QN_GGUF_I32:
    case QN_GGUF_F32:
        return 4;
    case QN_GGUF_U64:
    case QN_GGUF_I64:
    case QN_GGUF_F64:
        return 8;
    default:
        return 0;
    }
}

static int take_value(struct scan *s, struct qn_gguf_value *v)
{
    int rc;
    uint32_t kind;
    if ((rc = take(s, &kind, 4))) return rc;
    if (kind >= QN_GGUF_N_KIND) return bad(s, "a value has no known type");
    v->kind = v->element = (enum qn_gguf_kind)kind;
    v->n = 1;
    if (kind == QN_GGUF_ARRAY) {
        if ((rc = take(s, &kind, 4)) || (rc = take(s, &v->n, 8))) return rc;
        if (kind >= QN_GGUF_N_KIND || kind == QN_GGUF_ARRAY) return bad(s, "an array has no known type");
        v->element = (enum qn_gguf_kind)kind;
    }
    v->data = s->g->bytes + s->pos;
    size_t start = s->pos, size = scalar_bytes(v->element);
    if (v->kind == QN_GGUF_STRING) {
        size_t n;
        if ((rc = take_string(s, &v->data, &n))) return rc;
        v->n = n;
        v->n_byte = n;
        return QN_OK;
    }
    if (size) {
        if (v->n > left(s) / size) return bad(s, "an array is longer than the file");
        s->pos += (size_t)v->n * size;
    } else {
        const unsigned char *text;
        size_t n;
        if (v->n > left(s) / 8) return bad(s, "an array is longer than the file");
        for (uint64_t i = 0; i < v->n; i++)
            if ((rc = take_string(s, &text, &n))) return rc;
    }
    v->n_byte = s->pos - start;
    return QN_OK;
}

/* Tells of a name that was there before; remembers it. */
static bool is_new(struct qn_map *seen, const char *name, uint64_t index, const char *(*at)(void *, uint64_t),
                   void *ctx)
{
    uint64_t key = qn_hash_str(name) | 1, before;
    for (; qn_map_get(seen, key, &before); key = qn_mix64(key) | 1)
        if (!strcmp(at(ctx, before - 1), name)) return false;
    qn_map_put(seen, key, index + 1);
    return true;
}

static const char *key_at(void *ctx, uint64_t i)
{
    return ((struct qn_gguf *)ctx)->values[i].key;
}

static const char *name_at(void *ctx, uint64_t i)
{
    return ((struct qn_gguf *)ctx)->tensors[i].name;
}

static int scan_values(struct scan *s, uint64_t n)
{
    int rc = QN_OK;
    struct qn_gguf *g = s->g;
    QN_FAIL_IF(n > QN_GGUF_MAX_ENTRIES || n > left(s) / 12, s->e, QN_FORMAT,
               "%s: %" PRIu64 " metadata entries; the file is damaged", g->path, n);
    g->values = xcalloc((size_t)n, sizeof *g->values);
    for (; g->n_value < (int)n; g->n_value++) {
        struct qn_gguf_value *v = &g->values[g->n_value];
        QN_TRY(take_name(s, &v->key));
        QN_TRY(take_value(s, v));
        QN_FAIL_IF(!is_new(&g->by_key, v->key, (uint64_t)g->n_value, key_at, g), s->e, QN_FORMAT,
                   "%s: key %.80s is there twice", g->path, v->key);
    }
out:
    return rc;
}

/* Bytes of a tensor; QN_OK with 0 for a type that cannot be sized. */
static int size_tensor(const struct scan *s, struct qn_gguf_tensor *t)
{
    int rc = QN_OK;
    size_t n = 1;
    struct qn_gguf_type type = qn_gguf_type(t->type);
    for (int i = 0; i < t->n_dim; i++)
        QN_FAIL_IF(t->dim[i] < 1 || !qn_mul_size(n, (size_t)t->dim[i], &n), s->e, QN_FORMAT,
                   "%s: tensor %.120s has dimension %" PRId64, s->g->path, t->name, t->dim[i]);
    t->n_byte = 0;
    if (!type.n_value) goto out;
    QN_FAIL_IF(t->dim[0] % type.n_value, s->e, QN_FORMAT,
               "%s: tensor %.120s has rows of %" PRId64 " values, %s needs a multiple of %d", s->g->path,
               t->name, t->dim[0], type.name, type.n_value);
    QN_FAIL_IF(!qn_mul_size(n / (size_t)type.n_value, (size_t)type.n_byte, &t->n_byte), s->e, QN_FORMAT,
               "%s: tensor %.120s is too large", s->g->path, t->name);
out:
    return rc;
}

static int scan_tensors(struct scan *s, uint64_t n)
{
    int rc = QN_OK;
    struct qn_gguf *g = s->g;
    struct qn_map seen = {0};
    uint64_t *offset = NULL;
    QN_FAIL_IF(n > QN_GGUF_MAX_TENSORS || n > left(s) / 24, s->e, QN_FORMAT,
               "%s: %" PRIu64 " tensors; the file is damaged", g->path, n);
    g->tensors = xcalloc((size_t)n, sizeof *g->tensors);
    offset = xcalloc((size_t)n, sizeof *offset);
    for (uint64_t i = 0; i < n; i++) {
        struct qn_gguf_tensor *t = &g->tensors[i];
        uint32_t n_dim;
        QN_TRY(take_name(s, &t->name));
        QN_TRY(take(s, &n_dim, 4));
        if (!n_dim || n_dim > QN_GGUF_MAX_DIM) {
            rc = bad(s, "a tensor has no or more than four dimensions");
            goto out;
        }
        t->n_dim = (int)n_dim;
        for (int k = 0; k < QN_GGUF_MAX_DIM; k++) t->dim[k] = 1;
        for (int k = 0; k < t->n_dim; k++) QN_TRY(take(s, &t->dim[k], 8));
        QN_TRY(take(s, &t->type, 4));
        QN_TRY(take(s, &offset[i], 8));
    }
    int64_t alignment = 32;
    const struct qn_gguf_value *v = qn_gguf_find(g, "general.alignment");
    QN_FAIL_IF(v && (!qn_gguf_int(v, 0, &alignment) || alignment < 1 || alignment > 1 << 20 ||
                     (alignment & (alignment - 1))),
               s->e, QN_FORMAT, "%s: general.alignment is not a power of two", g->path);
    g->header_bytes = QN_ROUND_UP(s->pos, (size_t)alignment);
    QN_FAIL_IF(n && g->header_bytes > g->n_byte, s->e, QN_FORMAT, "%s: the file ends before its data",
               g->path);
    g->header_bytes = QN_MIN(g->header_bytes, g->n_byte);
    for (uint64_t i = 0; i < n; i++) {
        struct qn_gguf_tensor *t = &g->tensors[i];
        size_t room = g->n_byte - g->header_bytes;
        QN_FAIL_IF(!is_new(&seen, t->name, i, name_at, g), s->e, QN_FORMAT,
                   "%s: tensor %.120s is there twice", g->path, t->name);
        QN_TRY(size_tensor(s, t));
        QN_FAIL_IF(offset[i] > room || t->n_byte > room - offset[i], s->e, QN_FORMAT,
                   "%s: tensor %.120s lies beyond the end of the file; the download is incomplete", g->path,
                   t->name);
        t->data = g->bytes + g->header_bytes + offset[i];
        g->n_tensor++;
    }
out:
    qn_map_free(&seen);
    free(offset);
    return rc;
}

static int scan_file(struct qn_gguf *g, struct qn_err *e)
{
    int rc = QN_OK;
    struct scan s = {.g = g, .e = e};
    char magic[4];
    uint32_t version;
    uint64_t n_tensor, n_value;
    QN_FAIL_IF(g->n_byte < 24 || memcmp(g->bytes, "GGUF", 4), e, QN_FORMAT,
               "%s: not a GGUF file (it does not start with GGUF)", g->path);
    QN_TRY(take(&s, magic, 4));
    QN_TRY(take(&s, &version, 4));
    QN_FAIL_IF(!(version & 0xffff) && version, e, QN_UNSUPPORTED,
               "%s: a big-endian GGUF file; take a little-endian one", g->path);
    QN_FAIL_IF(version != 2 && version != 3, e, QN_UNSUPPORTED,
               "%s: GGUF version %" PRIu32 "; versions 2 and 3 are read, convert the model anew", g->path,
               version);
    QN_TRY(take(&s, &n_tensor, 8));
    QN_TRY(take(&s, &n_value, 8));
    QN_TRY(scan_values(&s, n_value));
    QN_TRY(scan_tensors(&s, n_tensor));
out:
    return rc;
}

/* --- open --- */

int qn_gguf_parse(struct qn_gguf **out, const void *data, size_t n_byte, const char *name, struct qn_err *e)
{
    struct qn_gguf *g = xcalloc(1, sizeof *g);
    g->path = xstrdup(name);
    g->names = qn_arena_create(MAX_NAME_BYTES);
    g->bytes = data;
    g->n_byte = n_byte;
    int rc = scan_file(g, e);
    if (rc)
        qn_gguf_close(g);
    else
        *out = g;
    return rc;
}

int qn_gguf_open(struct qn_gguf **out, const char *path, struct qn_err *e)
{
    int rc = QN_OK, fd = open(path, O_RDONLY | O_CLOEXEC);
    void *map = MAP_FAILED;
    struct stat st;
    struct qn_gguf *g;
    QN_FAIL_IF(fd < 0, e, errno == ENOENT ? QN_NOTFOUND : QN_IO, "%s: %s", path, strerror(errno));
    QN_FAIL_IF(fstat(fd, &st), e, QN_IO, "%s: %s", path, strerror(errno));
    QN_FAIL_IF(!S_ISREG(st.st_mode) || st.st_size < 24, e, QN_FORMAT, "%s: not a GGUF file", path);
    map = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    QN_FAIL_IF(map == MAP_FAILED, e, QN_IO, "%s: cannot be mapped: %s", path, strerror(errno));
    QN_TRY(qn_gguf_parse(&g, map, (size_t)st.st_size, path, e));
    g->map = map;
    map = MAP_FAILED;
    qn_mapped_add(g->map, g->n_byte);
    *out = g;
out:
    if (map != MAP_FAILED) munmap(map, (size_t)st.st_size);
    if (fd >= 0) close(fd);
    return rc;
}

void qn_gguf_close(struct qn_gguf *g)
{
    if (!g) return;
    if (g->map) {
        qn_mapped_remove(g->map);
        munmap(g->map, g->n_byte);
    }
    qn_map_free(&g->by_key);
    free(g->values);
    free(g->tensors);
    qn_arena_free(g->names);
    free(g->path);
    free(g);
}

/* --- asking --- */

const char *qn_gguf_path(const struct qn_gguf *g)
{
    return g->path;
}

int qn_gguf_n_value(const struct qn_gguf *g)
{
    return g->n_value;
}

const struct qn_gguf_value *qn_gguf_value(const struct qn_gguf *g, int i)
{
    return &g->values[i];
}

const struct qn_gguf_value *qn_gguf_find(const struct qn_gguf *g, const char *key)
{
    uint64_t at;
    for (uint64_t h = qn_hash_str(key) | 1; qn_map_get(&g->by_key, h, &at); h = qn_mix64(h) | 1)
        if (!strcmp(g->values[at - 1].key, key)) return &g->values[at - 1];
    return NULL;
}

int qn_gguf_n_tensor(const struct qn_gguf *g)
{
    return g->n_tensor;
}

const struct qn_gguf_tensor *qn_gguf_tensor(const struct qn_gguf *g, int i)
{
    return &g->tensors[i];
}

size_t qn_gguf_file_bytes(const struct qn_gguf *g)
{
    return g->n_byte;
}

const void *qn_gguf_header(const struct qn_gguf *g, size_t *n_byte)
{
    *n_byte = g->header_bytes;
    return g->bytes;
}

void qn_gguf_advise(const struct qn_gguf *g, int advice)
{
    if (g->map) madvise(g->map, g->n_byte, advice);
}

bool qn_gguf_is_string(const struct qn_gguf_value *v)
{
    return v && v->kind == QN_GGUF_STRING;
}

bool qn_gguf_int(const struct qn_gguf_value *v, uint64_t i, int64_t *out)
{
    if (!v || v->kind == QN_GGUF_STRING || i >= v->n) return false;
    size_t size = scalar_bytes(v->element);
    uint64_t bits = 0;
    memcpy(&bits, v->data + (size_t)i * size, size);
    switch (v->element) {
    case QN_GGUF_U8:
    case QN_GGUF_U16:
    case QN_GGUF_U32:
        *out = (int64_t)bits;
        return true;
    case QN_GGUF_BOOL:
        *out = bits != 0;
        return true;
    case QN_GGUF_I8:
        *out = (int8_t)bits;
        return true;
    case QN_GGUF_I16:
        *out = (int16_t)bits;
        return true;
    case QN_GGUF_I32:
        *out = (int32_t)bits;
        return true;
    case QN_GGUF_I64:
        *out = (int64_t)bits;
        return true;
    case QN_GGUF_U64:
        *out = (int64_t)bits;
        return bits <= INT64_MAX;
    default:
        return false;
    }
}

bool qn_gguf_num(const struct qn_gguf_value *v, uint64_t i, double *out)
{
    int64_t whole;
    float f;
    if (!v || i >= v->n) return false;
    if (qn_gguf_int(v, i, &whole)) {
        *out = (double)whole;
        return true;
    }
    if (v->element == QN_GGUF_F32) {
        memcpy(&f, v->data + (size_t)i * 4, 4);
        *out = (double)f;
        return true;
    }
    if (v->element == QN_GGUF_F64) memcpy(out, v->data + (size_t)i * 8, 8);
    return v->element == QN_GGUF_F64;
}

bool qn_gguf_next_string(struct qn_gguf_strings *s, const char **text, size_t *n)
{
    uint64_t length;
    if (!s->v || s->v->kind != QN_GGUF_ARRAY || s->v->element != QN_GGUF_STRING || s->i >= s->v->n)
        return false;
    memcpy(&length, s->v->data + s->at, 8); /* checked when the file was opened */
    *text = (const char *)s->v->data + s->at + 8;
    *n = (size_t)length;
    s->at += 8 + *n;
    s->i++;
    return true;
}

/* --- split sets --- */

#define TAIL_BYTES 20 /* -00001-of-00003.gguf */

bool qn_gguf_split_name(const char *path, int *no, int *count)
{
    size_t n = strlen(path);
    int end = 0;
    if (n <= TAIL_BYTES) return false;
    const char *tail = path + n - TAIL_BYTES;
    return sscanf(tail, "-%5d-of-%5d.gguf%n", no, count, &end) == 2 && end == TAIL_BYTES && *no >= 1 &&
           *no <= *count;
}

char *qn_gguf_split_path(const char *path, int no)
{
    int was, count;
    if (!qn_gguf_split_name(path, &was, &count)) return xstrdup(path);
    return xasprintf("%.*s-%05d-of-%05d.gguf", (int)(strlen(path) - TAIL_BYTES), path, no, count);
}

#define MAX_PARTS 4096

int qn_gguf_set_open(struct qn_gguf_set *out, const char *path, struct qn_err *e)
{
    int rc = QN_OK, no, count = 1;
    struct qn_gguf_set s = {0};
    char *part = NULL;
    int64_t said = 1;
    bool is_split = qn_gguf_split_name(path, &no, &count);
    if (!is_split) count = 1;
    QN_FAIL_IF(count > MAX_PARTS, e, QN_TOOBIG, "%s: more than %d parts", path, MAX_PARTS);
    s.files = xcalloc((size_t)count, sizeof *s.files);
    for (; s.n < count; s.n++) {
        free(part);
        part = is_split ? qn_gguf_split_path(path, s.n + 1) : xstrdup(path);
        rc = qn_gguf_open(&s.files[s.n], part, e);
        QN_FAIL_IF(rc == QN_NOTFOUND && is_split, e, QN_NOTFOUND,
                   "%s is not there: a set of %d files; download all of them into one folder", part, count);
        QN_TRY(rc);
    }
    qn_gguf_int(qn_gguf_find(s.files[0], "split.count"), 0, &said);
    QN_FAIL_IF(said > 1 && said != count, e, QN_FORMAT,
               "%s: the first of %" PRId64
               " files, but its name does not say so; keep the names of a split set",
               path, said);
    *out = s;
    s = (struct qn_gguf_set){0};
out:
    qn_gguf_set_close(&s);
    free(part);
    return rc;
}

void qn_gguf_set_close(struct qn_gguf_set *s)
{
    for (int i = 0; i < s->n; i++) qn_gguf_close(s->files[i]);
    free(s->files);
    *s = (struct qn_gguf_set){0};
}

const struct qn_gguf_tensor *qn_gguf_set_find(const struct qn_gguf_set *s, const char *name)
{
    for (int f = 0; f < s->n; f++)
        for (int i = 0; i < s->files[f]->n_tensor; i++)
            if (!strcmp(s->files[f]->tensors[i].name, name)) return &s->files[f]->tensors[i];
    return NULL;
}
