/* JSON parser, tree and Python-compatible writer.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/json.h"

#include <errno.h>
#include <math.h>

struct parser {
    const char *text;
    size_t n, pos;
    int depth;
    const char *what;
    struct qn_arena *arena;
    struct qn_err *e;
};

static int parse_value(struct parser *p, struct qn_json **out);

static int too_big(const struct parser *p)
{
    return qn_err_set(p->e, QN_TOOBIG, __FILE__, __LINE__, "%s: JSON needs more memory than its limit allows",
                      p->what);
}

static int bad(const struct parser *p, const char *expected)
{
    if (p->pos >= p->n)
        return qn_err_set(p->e, QN_FORMAT, __FILE__, __LINE__, "%s: JSON ends at byte %zu, expected %s",
                          p->what, p->n, expected);
    return qn_err_set(p->e, QN_FORMAT, __FILE__, __LINE__, "%s: invalid JSON at byte %zu, expected %s",
                      p->what, p->pos, expected);
}

static void skip_blank(struct parser *p)
{
    while (p->pos < p->n) {
        char c = p->text[p->pos];
        if (c != ' ' && c != '\n' && c != '\t' && c != '\r') break;
        p->pos++;
    }
}

static int peek(const struct parser *p)
{
    return p->pos < p->n ? (unsigned char)p->text[p->pos] : -1;
}

static int hex4(const struct parser *p, size_t at)
{
    if (at + 4 > p->n) return -1;
    int v = 0;
    for (size_t i = at; i < at + 4; i++) {
        char c = p->text[i];
        int d = c >= '0' && c <= '9'   ? c - '0'
                : c >= 'a' && c <= 'f' ? c - 'a' + 10
                : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                       : -1;
        if (d < 0) return -1;
        v = v * 16 + d;
    }
    return v;
}

static size_t put_utf8(char *out, uint32_t c)
{
    if (c < 0x80) return out[0] = (char)c, (size_t)1;
    if (c < 0x800) return out[0] = (char)(0xc0 | c >> 6), out[1] = (char)(0x80 | (c & 63)), (size_t)2;
    if (c < 0x10000)
        return out[0] = (char)(0xe0 | c >> 12), out[1] = (char)(0x80 | (c >> 6 & 63)),
               out[2] = (char)(0x80 | (c & 63)), (size_t)3;
    out[0] = (char)(0xf0 | c >> 18);
    out[1] = (char)(0x80 | (c >> 12 & 63));
    out[2] = (char)(0x80 | (c >> 6 & 63));
    out[3] = (char)(0x80 | (c & 63));
    return 4;
}

/* Length of the valid UTF-8 sequence at s, or 0. Surrogates and overlong forms are invalid. */
static size_t utf8_len(const unsigned char *s, size_t n)
{
    if (s[0] < 0x80) return 1;
    if (s[0] >= 0xc2 && s[0] < 0xe0) return n >= 2 && (s[1] & 0xc0) == 0x80 ? 2 : 0;
    if (s[0] >= 0xe0 && s[0] < 0xf0) {
        if (n < 3 || (s[1] & 0xc0) != 0x80 || (s[2] & 0xc0) != 0x80) return 0;
        if (s[0] == 0xe0 && s[1] < 0xa0) return 0;
        if (s[0] == 0xed && s[1] >= 0xa0) return 0;
        return 3;
    }
    if (s[0] >= 0xf0 && s[0] < 0xf5) {
        if (n < 4 || (s[1] & 0xc0) != 0x80 || (s[2] & 0xc0) != 0x80 || (s[3] & 0xc0) != 0x80) return 0;
        if (s[0] == 0xf0 && s[1] < 0x90) return 0;
        if (s[0] == 0xf4 && s[1] >= 0x90) return 0;
        return 4;
    }
    return 0;
}

/* One escape after the backslash at pos; writes to at, returns bytes written or -1. */
static int parse_escape(struct parser *p, char *at)
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    int c = peek(p);
    const char *hit = c > 0 ? strchr(from, c) : NULL;
    if (hit) {
        p->pos++;
        *at = to[hit - from];
        return 1;
    }
    if (c != 'u') return -1;
    int v = hex4(p, p->pos + 1);
    if (v < 0) return -1;
    p->pos += 5;
    uint32_t cp = (uint32_t)v;
    if (cp >= 0xd800 && cp < 0xdc00 && p->pos + 6 <= p->n && p->text[p->pos] == '\\' &&
        p->text[p->pos + 1] == 'u') {
        int low = hex4(p, p->pos + 2);
        if (low >= 0xdc00 && low < 0xe000) {
            cp = 0x10000 + ((cp - 0xd800) << 10) + ((uint32_t)low - 0xdc00);
            p->pos += 6;
        }
    }
    if (cp >= 0xd800 && cp < 0xe000) cp = 0xfffd;
    return (int)put_utf8(at, cp);
}

static int parse_string(struct parser *p, const char **text, size_t *n)
{
    p->pos++; /* the quote */
    /* An escape is never shorter than what it stands for: \u of 3 bytes takes 6. */
    size_t end = p->pos;
    while (end < p->n && p->text[end] != '"') end += p->text[end] == '\\' ? 2 : 1;
    if (end >= p->n) {
        p->pos = p->n;
        return bad(p, "the closing quote of a string");
    }
    char *out = qn_arena_alloc(p->arena, end - p->pos + 1);
    if (!out) return too_big(p);
    size_t len = 0;
    while (p->text[p->pos] != '"') {
        unsigned char c = (unsigned char)p->text[p->pos];
        if (c < 0x20) return bad(p, "no raw control character in a string");
        if (c == '\\') {
            p->pos++;
            int k = parse_escape(p, out + len);
            if (k < 0) return bad(p, "a valid escape");
            len += (size_t)k;
            continue;
        }
        size_t k = utf8_len((const unsigned char *)p->text + p->pos, p->n - p->pos);
        if (!k) return bad(p, "valid UTF-8");
        memcpy(out + len, p->text + p->pos, k);
        len += k;
        p->pos += k;
    }
    p->pos++;
    out[len] = 0;
    *text = out;
    *n = len;
    return QN_OK;
}

static bool is_digit(int c)
{
    return c >= '0' && c <= '9';
}

static int parse_number(struct parser *p, struct qn_json **out)
{
    size_t start = p->pos;
    bool real = false;
    if (peek(p) == '-') p->pos++;
    if (!is_digit(peek(p))) return bad(p, "a digit");
    if (peek(p) == '0')
        p->pos++;
    else
        while (is_digit(peek(p))) p->pos++;
    if (is_digit(peek(p))) return bad(p, "no digit after a leading zero");
    if (peek(p) == '.') {
        real = true;
        p->pos++;
        if (!is_digit(peek(p))) return bad(p, "a digit after the point");
        while (is_digit(peek(p))) p->pos++;
    }
    if (peek(p) == 'e' || peek(p) == 'E') {
        real = true;
        p->pos++;
        if (peek(p) == '+' || peek(p) == '-') p->pos++;
        if (!is_digit(peek(p))) return bad(p, "a digit in the exponent");
        while (is_digit(peek(p))) p->pos++;
    }
    struct qn_json *v = qn_json_new(p->arena, real ? QN_JSON_REAL : QN_JSON_INT);
    if (!v) return too_big(p);
    v->n = p->pos - start;
    v->text = qn_arena_strndup(p->arena, p->text + start, v->n);
    if (!v->text) return too_big(p);
    *out = v;
    return QN_OK;
}

static int parse_array(struct parser *p, struct qn_json **out)
{
    struct qn_json *v = qn_json_new(p->arena, QN_JSON_ARRAY);
    if (!v) return too_big(p);
    p->pos++;
    skip_blank(p);
    if (peek(p) == ']') {
        p->pos++;
        *out = v;
        return QN_OK;
    }
    for (;;) {
        struct qn_json *item;
        int rc = parse_value(p, &item);
        if (rc) return rc;
        if (!qn_json_push(p->arena, v, item)) return too_big(p);
        skip_blank(p);
        int c = peek(p);
        if (c != ',' && c != ']') return bad(p, "',' or ']'");
        p->pos++;
        if (c == ']') break;
    }
    *out = v;
    return QN_OK;
}

static bool add_member(struct qn_arena *arena, struct qn_json *v, struct qn_json_key key,
                       struct qn_json *value)
{
    if (v->n == v->capacity) {
        size_t capacity = v->capacity ? v->capacity * 2 : 8;
        struct qn_json_key *keys = qn_arena_alloc(arena, capacity * sizeof *keys);
        struct qn_json **items = qn_arena_alloc(arena, capacity * sizeof *items);
        if (!keys || !items) return false;
        if (v->n) {
            memcpy(keys, v->keys, v->n * sizeof *keys);
            memcpy(items, v->items, v->n * sizeof *items);
        }
        v->keys = keys;
        v->items = items;
        v->capacity = capacity;
    }
    v->keys[v->n] = key;
    v->items[v->n++] = value;
    return true;
}

static int compare_keys(const void *a, const void *b)
{
    const struct qn_json_key *x = *(struct qn_json_key *const *)a, *y = *(struct qn_json_key *const *)b;
    int c = memcmp(x->text, y->text, QN_MIN(x->n, y->n));
    if (c) return c;
    if (x->n != y->n) return x->n < y->n ? -1 : 1;
    return x < y ? -1 : x > y;
}

/* The last value of a duplicate key wins, in the first one's place. n log n, so that a hostile object of many
 * keys costs no quadratic time. */
static bool merge_duplicates(struct parser *p, struct qn_json *v)
{
    if (v->n < 2) return true;
    struct qn_json_key **order = try_malloc(v->n, sizeof(void *));
    bool *drop = try_calloc(v->n, 1);
    if (!order || !drop) {
        free(order);
        free(drop);
        return false;
    }
    for (size_t i = 0; i < v->n; i++) order[i] = &v->keys[i];
    qsort(order, v->n, sizeof(void *), compare_keys);
    bool any = false;
    for (size_t i = 0; i < v->n;) {
        size_t j = i + 1;
        while (j < v->n && order[j]->n == order[i]->n && !memcmp(order[j]->text, order[i]->text, order[i]->n))
            j++;
        if (j > i + 1) {
            v->items[order[i] - v->keys] = v->items[order[j - 1] - v->keys];
            for (size_t k = i + 1; k < j; k++) drop[order[k] - v->keys] = true;
            any = true;
        }
        i = j;
    }
    if (any) {
        size_t kept = 0;
        for (size_t i = 0; i < v->n; i++) {
            if (drop[i]) continue;
            v->keys[kept] = v->keys[i];
            v->items[kept++] = v->items[i];
        }
        v->n = kept;
    }
    free(order);
    free(drop);
    (void)p;
    return true;
}

static int parse_object(struct parser *p, struct qn_json **out)
{
    struct qn_json *v = qn_json_new(p->arena, QN_JSON_OBJECT);
    if (!v) return too_big(p);
    p->pos++;
    skip_blank(p);
    if (peek(p) == '}') {
        p->pos++;
        *out = v;
        return QN_OK;
    }
    for (;;) {
        skip_blank(p);
        if (peek(p) != '"') return bad(p, "a quoted key");
        struct qn_json_key key;
        struct qn_json *value;
        int rc = parse_string(p, &key.text, &key.n);
        if (rc) return rc;
        skip_blank(p);
        if (peek(p) != ':') return bad(p, "':'");
        p->pos++;
        rc = parse_value(p, &value);
        if (rc) return rc;
        if (!add_member(p->arena, v, key, value)) return too_big(p);
        skip_blank(p);
        int c = peek(p);
        if (c != ',' && c != '}') return bad(p, "',' or '}'");
        p->pos++;
        if (c == '}') break;
    }
    if (!merge_duplicates(p, v)) return too_big(p);
    *out = v;
    return QN_OK;
}

static int parse_word(struct parser *p, const char *word, enum qn_json_type type, bool truth,
                      struct qn_json **out)
{
    size_t n = strlen(word);
    if (p->n - p->pos < n || memcmp(p->text + p->pos, word, n)) return bad(p, "a value");
    p->pos += n;
    *out = qn_json_new(p->arena, type);
    if (!*out) return too_big(p);
    (*out)->truth = truth;
    return QN_OK;
}

static int parse_value(struct parser *p, struct qn_json **out)
{
    skip_blank(p);
    int c = peek(p), rc;
    if (c == '{' || c == '[') {
        if (++p->depth > QN_JSON_MAX_DEPTH)
            return qn_err_set(p->e, QN_TOOBIG, __FILE__, __LINE__,
                              "%s: JSON nests deeper than %d levels at byte %zu", p->what, QN_JSON_MAX_DEPTH,
                              p->pos);
        rc = c == '{' ? parse_object(p, out) : parse_array(p, out);
        p->depth--;
        return rc;
    }
    if (c == '"') {
        struct qn_json *v = qn_json_new(p->arena, QN_JSON_STRING);
        if (!v) return too_big(p);
        rc = parse_string(p, &v->text, &v->n);
        *out = v;
        return rc;
    }
    if (c == '-' || is_digit(c)) return parse_number(p, out);
    if (c == 't') return parse_word(p, "true", QN_JSON_BOOL, true, out);
    if (c == 'f') return parse_word(p, "false", QN_JSON_BOOL, false, out);
    return parse_word(p, "null", QN_JSON_NULL, false, out);
}

int qn_json_parse(struct qn_json **out, struct qn_arena *arena, const char *text, size_t n, const char *what,
                  struct qn_err *e)
{
    struct parser p = {text, n, 0, 0, what, arena, e};
    if (n >= 3 && !memcmp(text, "\xef\xbb\xbf", 3)) p.pos = 3;
    struct qn_json *v;
    int rc = parse_value(&p, &v);
    if (rc) return rc;
    skip_blank(&p);
    if (p.pos != n) return bad(&p, "the end of the text");
    *out = v;
    return QN_OK;
}

int qn_json_read_file(struct qn_json **out, struct qn_arena *arena, const char *path, size_t max_bytes,
                      struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_buf b = QN_BUF_INIT(max_bytes);
    QN_TRY(qn_buf_read_file(&b, path, e));
    QN_TRY(qn_json_parse(out, arena, qn_buf_str(&b), b.n_byte, path, e));
out:
    qn_buf_free(&b);
    return rc;
}

struct qn_json *qn_json_new(struct qn_arena *arena, enum qn_json_type type)
{
    struct qn_json *v = qn_arena_alloc(arena, sizeof *v);
    if (v) v->type = type;
    return v;
}

struct qn_json *qn_json_new_str(struct qn_arena *arena, const char *s, size_t n)
{
    struct qn_json *v = qn_json_new(arena, QN_JSON_STRING);
    if (!v) return NULL;
    v->n = n;
    v->text = qn_arena_strndup(arena, s, n);
    return v->text ? v : NULL;
}

struct qn_json *qn_json_new_int(struct qn_arena *arena, int64_t x)
{
    char digits[32];
    int n = snprintf(digits, sizeof digits, "%" PRId64, x);
    struct qn_json *v = qn_json_new_str(arena, digits, (size_t)n);
    if (v) v->type = QN_JSON_INT;
    return v;
}

struct qn_json *qn_json_new_bool(struct qn_arena *arena, bool truth)
{
    struct qn_json *v = qn_json_new(arena, QN_JSON_BOOL);
    if (v) v->truth = truth;
    return v;
}

bool qn_json_push(struct qn_arena *arena, struct qn_json *array, struct qn_json *item)
{
    if (!item || !array) return false;
    if (array->n == array->capacity) {
        size_t capacity = array->capacity ? array->capacity * 2 : 8;
        struct qn_json **items = qn_arena_alloc(arena, capacity * sizeof *items);
        if (!items) return false;
        if (array->n) memcpy(items, array->items, array->n * sizeof *items);
        array->items = items;
        array->capacity = capacity;
    }
    array->items[array->n++] = item;
    return true;
}

static size_t find_key(const struct qn_json *object, const char *key)
{
    size_t n = strlen(key), i = 0;
    while (i < object->n && (object->keys[i].n != n || memcmp(object->keys[i].text, key, n))) i++;
    return i;
}

bool qn_json_set(struct qn_arena *arena, struct qn_json *object, const char *key, struct qn_json *value)
{
    if (!value || !object) return false;
    size_t i = find_key(object, key);
    if (i < object->n) {
        object->items[i] = value;
        return true;
    }
    struct qn_json_key k = {NULL, strlen(key)};
    k.text = qn_arena_strndup(arena, key, k.n);
    return k.text && add_member(arena, object, k, value);
}

struct qn_json *qn_json_get(const struct qn_json *object, const char *key)
{
    if (!object || object->type != QN_JSON_OBJECT) return NULL;
    size_t i = find_key(object, key);
    return i < object->n ? object->items[i] : NULL;
}

bool qn_json_is_str(const struct qn_json *v, const char *s)
{
    return qn_json_is(v, QN_JSON_STRING) && v->n == strlen(s) && !memcmp(v->text, s, v->n);
}

double qn_json_num(const struct qn_json *v)
{
    return qn_json_is_number(v) ? strtod(v->text, NULL) : 0;
}

bool qn_json_int(const struct qn_json *v, int64_t *out)
{
    if (!qn_json_is_number(v)) return false;
    if (v->type == QN_JSON_INT) {
        char *end;
        errno = 0;
        long long x = strtoll(v->text, &end, 10);
        if (errno || *end) return false;
        *out = x;
        return true;
    }
    double x = strtod(v->text, NULL);
    if (!(x >= -9007199254740992.0 && x <= 9007199254740992.0) || x != floor(x)) return false;
    *out = (int64_t)x;
    return true;
}

bool qn_json_equal(const struct qn_json *a, const struct qn_json *b)
{
    if (!a || !b) return a == b;
    if (qn_json_is_number(a) && qn_json_is_number(b)) {
        if (a->type == QN_JSON_INT && b->type == QN_JSON_INT) return !strcmp(a->text, b->text);
        return qn_json_num(a) == qn_json_num(b);
    }
    if (a->type != b->type) return false;
    switch (a->type) {
    case QN_JSON_BOOL:
        return a->truth == b->truth;
    case QN_JSON_STRING:
        return a->n == b->n && !memcmp(a->text, b->text, a->n);
    case QN_JSON_ARRAY:
        if (a->n != b->n) return false;
        for (size_t i = 0; i < a->n; i++)
            if (!qn_json_equal(a->items[i], b->items[i])) return false;
        return true;
    case QN_JSON_OBJECT:
        if (a->n != b->n) return false;
        for (size_t i = 0; i < a->n; i++) {
            struct qn_json *other = qn_json_get(b, a->keys[i].text);
            if (!other || !qn_json_equal(a->items[i], other)) return false;
        }
        return true;
    default:
        return true;
    }
}

#define GET_MEMBER(expected_ok, kind)                                                                        \
    const struct qn_json *v = qn_json_get(obj, key);                                                         \
    if (qn_json_is_null(v)) {                                                                                \
        *out = dflt;                                                                                         \
        return QN_OK;                                                                                        \
    }                                                                                                        \
    if (!(expected_ok)) return qn_err_set(e, QN_INVAL, __FILE__, __LINE__, "'%s' must be %s", key, kind)

int qn_json_get_str(const struct qn_json *obj, const char *key, const char *dflt, const char **out,
                    struct qn_err *e)
{
    GET_MEMBER(v->type == QN_JSON_STRING, "a string");
    *out = v->text;
    return QN_OK;
}

int qn_json_get_int(const struct qn_json *obj, const char *key, int64_t dflt, int64_t *out, struct qn_err *e)
{
    int64_t x = 0;
    GET_MEMBER(qn_json_int(v, &x), "an integer");
    *out = x;
    return QN_OK;
}

int qn_json_get_num(const struct qn_json *obj, const char *key, double dflt, double *out, struct qn_err *e)
{
    GET_MEMBER(qn_json_is_number(v), "a number");
    *out = qn_json_num(v);
    return QN_OK;
}

int qn_json_get_bool(const struct qn_json *obj, const char *key, bool dflt, bool *out, struct qn_err *e)
{
    GET_MEMBER(v->type == QN_JSON_BOOL, "true or false");
    *out = v->truth;
    return QN_OK;
}

int qn_json_get_obj(const struct qn_json *obj, const char *key, struct qn_json **out, struct qn_err *e)
{
    struct qn_json *dflt = NULL;
    GET_MEMBER(v->type == QN_JSON_OBJECT, "an object");
    *out = (struct qn_json *)v;
    return QN_OK;
}

int qn_json_get_arr(const struct qn_json *obj, const char *key, struct qn_json **out, struct qn_err *e)
{
    struct qn_json *dflt = NULL;
    GET_MEMBER(v->type == QN_JSON_ARRAY, "an array");
    *out = (struct qn_json *)v;
    return QN_OK;
}

int qn_json_write_str(struct qn_buf *out, const char *s, size_t n, bool ensure_ascii)
{
    qn_buf_putc(out, '"');
    size_t plain = 0; /* bytes before i not yet written */
    for (size_t i = 0; i < n;) {
        unsigned char c = (unsigned char)s[i];
        size_t k = c < 0x80 ? 1 : utf8_len((const unsigned char *)s + i, n - i);
        bool escape = c < 0x20 || c == '"' || c == '\\' || !k || (c >= 0x7f && ensure_ascii && (c != 0x7f));
        if (!escape) {
            i += k;
            continue;
        }
        qn_buf_append(out, s + plain, i - plain);
        static const char named[] = "\b\t\n\f\r", letters[] = "btnfr";
        const char *hit = c ? strchr(named, c) : NULL;
        if (!k) {
            qn_buf_puts(out, ensure_ascii ? "\\ufffd" : "\xef\xbf\xbd");
            k = 1;
        } else if (c == '"' || c == '\\') {
            qn_buf_putc(out, '\\');
            qn_buf_putc(out, (char)c);
        } else if (hit) {
            qn_buf_putc(out, '\\');
            qn_buf_putc(out, letters[hit - named]);
        } else if (k == 1) {
            qn_buf_printf(out, "\\u%04x", c);
        } else {
            const unsigned char *u = (const unsigned char *)s + i;
            uint32_t cp = k == 2   ? (uint32_t)(u[0] & 31) << 6 | (u[1] & 63)
                          : k == 3 ? (uint32_t)(u[0] & 15) << 12 | (uint32_t)(u[1] & 63) << 6 | (u[2] & 63)
                                   : (uint32_t)(u[0] & 7) << 18 | (uint32_t)(u[1] & 63) << 12 |
                                         (uint32_t)(u[2] & 63) << 6 | (u[3] & 63);
            if (cp < 0x10000)
                qn_buf_printf(out, "\\u%04x", cp);
            else
                qn_buf_printf(out, "\\u%04x\\u%04x", 0xd800 + ((cp - 0x10000) >> 10),
                              0xdc00 + ((cp - 0x10000) & 0x3ff));
        }
        i += k;
        plain = i;
    }
    qn_buf_append(out, s + plain, n - plain);
    return qn_buf_putc(out, '"');
}

int qn_json_write_double(struct qn_buf *out, double x)
{
    if (isnan(x)) return qn_buf_puts(out, "NaN");
    if (isinf(x)) return qn_buf_puts(out, x > 0 ? "Infinity" : "-Infinity");
    char digits[40];
    /* %.15e and shorter always find the shortest form of a normal number; subnormals have fewer digits */
    for (int precision = fabs(x) < 2.3e-308 ? 1 : 15; precision <= 17; precision++) {
        snprintf(digits, sizeof digits, "%.*e", precision - 1, x);
        if (strtod(digits, NULL) == x) break;
    }
    /* digits: [-]d.ddde[+-]dd; strip the zeros, then place the point as repr does */
    char *exp_at = strchr(digits, 'e');
    int exponent = atoi(exp_at + 1);
    *exp_at = 0;
    char plain[24] = "0";
    int n = 0;
    bool negative = digits[0] == '-';
    for (const char *c = digits; *c; c++)
        if (*c >= '0' && *c <= '9') plain[n++] = *c;
    while (n > 1 && plain[n - 1] == '0') n--;
    if (negative) qn_buf_putc(out, '-');
    if (exponent < -4 || exponent >= 16) {
        qn_buf_putc(out, plain[0]);
        if (n > 1) {
            qn_buf_putc(out, '.');
            qn_buf_append(out, plain + 1, (size_t)n - 1);
        }
        return qn_buf_printf(out, "e%c%02d", exponent < 0 ? '-' : '+', abs(exponent));
    }
    if (exponent < 0) {
        qn_buf_puts(out, "0.");
        for (int i = -1; i > exponent; i--) qn_buf_putc(out, '0');
        return qn_buf_append(out, plain, (size_t)n);
    }
    for (int i = 0; i <= exponent; i++) qn_buf_putc(out, i < n ? plain[i] : '0');
    qn_buf_putc(out, '.');
    if (n <= exponent + 1) return qn_buf_putc(out, '0');
    return qn_buf_append(out, plain + exponent + 1, (size_t)(n - exponent - 1));
}

static void new_line(struct qn_buf *out, int n_blank)
{
    qn_buf_putc(out, '\n');
    while (n_blank-- > 0) qn_buf_putc(out, ' ');
}

static void write_value(struct qn_buf *out, const struct qn_json *v, const struct qn_json_style *style,
                        int level)
{
    const char *item_sep = style->item_sep ? style->item_sep : style->indent < 0 ? ", " : ",";
    const char *key_sep = style->key_sep ? style->key_sep : ": ";
    if (!v || v->type == QN_JSON_NULL) {
        qn_buf_puts(out, "null");
        return;
    }
    switch (v->type) {
    case QN_JSON_BOOL:
        qn_buf_puts(out, v->truth ? "true" : "false");
        return;
    case QN_JSON_INT:
        if (!style->exact_numbers && !strcmp(v->text, "-0"))
            qn_buf_puts(out, "0"); /* int("-0") */
        else
            qn_buf_append(out, v->text, v->n);
        return;
    case QN_JSON_REAL:
        if (style->exact_numbers)
            qn_buf_append(out, v->text, v->n);
        else
            qn_json_write_double(out, qn_json_num(v));
        return;
    case QN_JSON_STRING:
        qn_json_write_str(out, v->text, v->n, style->ensure_ascii);
        return;
    default:
        break;
    }
    bool is_object = v->type == QN_JSON_OBJECT;
    qn_buf_putc(out, is_object ? '{' : '[');
    struct qn_json_key **order = NULL;
    if (is_object && style->sort_keys && v->n) {
        order = xmalloc(v->n * sizeof(void *));
        for (size_t i = 0; i < v->n; i++) order[i] = &v->keys[i];
        qsort(order, v->n, sizeof(void *), compare_keys);
    }
    for (size_t i = 0; i < v->n && !out->failed; i++) {
        size_t at = order ? (size_t)(order[i] - v->keys) : i;
        if (i) qn_buf_puts(out, item_sep);
        if (style->indent >= 0) new_line(out, style->indent * (level + 1));
        if (is_object) {
            qn_json_write_str(out, v->keys[at].text, v->keys[at].n, style->ensure_ascii);
            qn_buf_puts(out, key_sep);
        }
        write_value(out, v->items[at], style, level + 1);
    }
    free(order);
    if (style->indent >= 0 && v->n) new_line(out, style->indent * level);
    qn_buf_putc(out, is_object ? '}' : ']');
}

int qn_json_write(struct qn_buf *out, const struct qn_json *value, const struct qn_json_style *style)
{
    write_value(out, value, style, 0);
    return out->failed;
}
