/* JSON: an immutable-by-habit tree in an arena, a strict parser with caps, typed getters, and a writer
 * that spells like Python's json.
 *
 * Why our own: prompts are rendered from client JSON, so the text of numbers has to survive (1.0 stays
 * 1.0, integers of any length stay exact), key order is kept, and a duplicate key keeps the last value
 * in the first one's place, as Python does. The common libraries lose one of these.
 *
 * Ownership: everything lives in the arena it was made in. Any thread; one thread at a time a tree.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_JSON_H
#define QN_JSON_H

#include "base/buf.h"
#include "base/mem.h"

#define QN_JSON_MAX_DEPTH 512

enum qn_json_type {
    QN_JSON_NULL,
    QN_JSON_BOOL,
    QN_JSON_INT,  /* number without fraction and exponent, any length */
    QN_JSON_REAL, /* number with a fraction or an exponent */
    QN_JSON_STRING,
    QN_JSON_ARRAY,
    QN_JSON_OBJECT,
};

struct qn_json {
    enum qn_json_type type;
    bool truth; /* BOOL */
    const char
        *text; /* STRING: UTF-8 bytes [n], may hold NUL; INT, REAL: the source text [n]. NUL-terminated */
    size_t n;  /* bytes of text, or number of items / members */
    size_t capacity;
    struct qn_json **items;   /* ARRAY: [n]; OBJECT: values [n] */
    struct qn_json_key *keys; /* OBJECT: [n] */
};

struct qn_json_key {
    const char *text; /* NUL-terminated, [n] bytes */
    size_t n;
};

/* Parses n bytes. `what` names the text in errors, which give the byte offset. Any top-level value is
 * accepted; text must be UTF-8 (a UTF-8 BOM is skipped); a lone surrogate escape becomes U+FFFD.
 * Errors: QN_FORMAT; QN_TOOBIG (depth over QN_JSON_MAX_DEPTH, arena limit reached). */
int qn_json_parse(struct qn_json **out, struct qn_arena *arena, const char *text, size_t n, const char *what,
                  struct qn_err *e);
/* Reads and parses a file of at most max_bytes. */
int qn_json_read_file(struct qn_json **out, struct qn_arena *arena, const char *path, size_t max_bytes,
                      struct qn_err *e);

/* --- makers: never NULL unless the arena's limit is reached --- */
struct qn_json *qn_json_new(struct qn_arena *arena, enum qn_json_type type);
struct qn_json *qn_json_new_str(struct qn_arena *arena, const char *s, size_t n);
struct qn_json *qn_json_new_int(struct qn_arena *arena, int64_t x);
struct qn_json *qn_json_new_bool(struct qn_arena *arena, bool truth);
bool qn_json_push(struct qn_arena *arena, struct qn_json *array, struct qn_json *item);
/* Sets or replaces; key and value are not copied deeply (the key text is). false: arena limit or NULL value.
 */
bool qn_json_set(struct qn_arena *arena, struct qn_json *object, const char *key, struct qn_json *value);

/* --- reading; all accept NULL values --- */
struct qn_json *qn_json_get(const struct qn_json *object,
                            const char *key); /* NULL when absent or no object */
static inline bool qn_json_is(const struct qn_json *v, enum qn_json_type type)
{
    return v && v->type == type;
}
static inline bool qn_json_is_null(const struct qn_json *v) /* absent or null */
{
    return !v || v->type == QN_JSON_NULL;
}
static inline bool qn_json_is_number(const struct qn_json *v)
{
    return v && (v->type == QN_JSON_INT || v->type == QN_JSON_REAL);
}
bool qn_json_is_str(const struct qn_json *v, const char *s); /* a string equal to s */
double qn_json_num(const struct qn_json *v);                 /* 0 unless a number */
/* false unless an integer (or a real with integral value) that fits. */
bool qn_json_int(const struct qn_json *v, int64_t *out);
bool qn_json_equal(const struct qn_json *a,
                   const struct qn_json *b); /* object order ignored, numbers by value */

/* Typed members. Absent or null gives the default; a wrong type gives QN_INVAL naming the key. */
int qn_json_get_str(const struct qn_json *obj, const char *key, const char *dflt, const char **out,
                    struct qn_err *e);
int qn_json_get_int(const struct qn_json *obj, const char *key, int64_t dflt, int64_t *out, struct qn_err *e);
int qn_json_get_num(const struct qn_json *obj, const char *key, double dflt, double *out, struct qn_err *e);
int qn_json_get_bool(const struct qn_json *obj, const char *key, bool dflt, bool *out, struct qn_err *e);
int qn_json_get_obj(const struct qn_json *obj, const char *key, struct qn_json **out, struct qn_err *e);
int qn_json_get_arr(const struct qn_json *obj, const char *key, struct qn_json **out, struct qn_err *e);

/* --- writing --- */
struct qn_json_style {
    int indent;        /* -1: on one line */
    bool ensure_ascii; /* escape everything above 0x7e */
    bool sort_keys;
    const char *item_sep; /* NULL: ", " on one line, "," with indent */
    const char *key_sep;  /* NULL: ": " */
    bool exact_numbers;   /* numbers by their source text, not as Python would respell them */
};
/* json.dumps(value, ensure_ascii=False) */
#define QN_JSON_PYTHON (&(const struct qn_json_style){.indent = -1})
/* the same with numbers as they were written: arguments of a call */
#define QN_JSON_EXACT (&(const struct qn_json_style){.indent = -1, .exact_numbers = true})
/* no blanks: what goes over the wire */
#define QN_JSON_COMPACT (&(const struct qn_json_style){.indent = -1, .item_sep = ",", .key_sep = ":"})

/* Numbers are written as Python would after reading them: integers by their digits, reals by repr. */
int qn_json_write(struct qn_buf *out, const struct qn_json *value, const struct qn_json_style *style);
/* A quoted, escaped string. Invalid UTF-8 bytes become U+FFFD. */
int qn_json_write_str(struct qn_buf *out, const char *s, size_t n, bool ensure_ascii);
/* Shortest digits that read back to the same double, spelled as Python's repr: 0.1, 1e+22, 1.0, 1e-05,
 * and NaN, Infinity, -Infinity as json.dumps has them. */
int qn_json_write_double(struct qn_buf *out, double x);

#endif
