/* Argument typing.
 * SPDX-License-Identifier: Apache-2.0 */
#include "text/argtype.h"

#include <strings.h>

#include "text/jsonscan.h"
#include "text/typename.h"

#define ARENA_FACTOR 64 /* arena bytes a byte of raw text when it is read as JSON */

/* --- which types a schema allows --- */

static unsigned bit_of_value(const struct qn_json *v)
{
    switch (v ? v->type : QN_JSON_NULL) {
    case QN_JSON_NULL:
        return QN_ARG_NULL;
    case QN_JSON_BOOL:
        return QN_ARG_BOOLEAN;
    case QN_JSON_INT:
        return QN_ARG_INTEGER;
    case QN_JSON_REAL:
        return QN_ARG_NUMBER;
    case QN_JSON_STRING:
        return QN_ARG_STRING;
    case QN_JSON_ARRAY:
        return QN_ARG_ARRAY;
    case QN_JSON_OBJECT:
        return QN_ARG_OBJECT;
    }
    return 0;
}

/* One step of "#/a/b~1c/0". */
static const struct qn_json *pointer_step(const struct qn_json *at, const char *part, size_t n)
{
    char key[256];
    size_t n_key = 0;
    for (size_t i = 0; i < n && n_key + 1 < sizeof key; i++) {
        unsigned hex;
        if (part[i] == '~' && i + 1 < n && (part[i + 1] == '0' || part[i + 1] == '1'))
            key[n_key++] = part[++i] == '0' ? '~' : '/';
        else if (part[i] == '%' && i + 2 < n && sscanf(part + i + 1, "%2x", &hex) == 1)
            key[n_key++] = (char)hex, i += 2;
        else
            key[n_key++] = part[i];
    }
    key[n_key] = 0;
    if (qn_json_is(at, QN_JSON_OBJECT)) return qn_json_get(at, key);
    if (qn_json_is(at, QN_JSON_ARRAY)) {
        char *end;
        unsigned long index = strtoul(key, &end, 10);
        return n_key && !*end && index < at->n ? at->items[index] : NULL;
    }
    return NULL;
}

static const struct qn_json *resolve(const struct qn_json *root, const char *ref)
{
    if (*ref != '#') return NULL; /* other documents are never fetched */
    const struct qn_json *at = root;
    for (ref++; at && *ref == '/';) {
        const char *part = ++ref;
        ref += strcspn(ref, "/");
        at = pointer_step(at, part, (size_t)(ref - part));
    }
    return *ref ? NULL : at;
}

const struct qn_json *qn_argtype_deref(const struct qn_json *root, const struct qn_json *schema)
{
    for (int depth = 0; depth < QN_ARG_MAX_DEPTH; depth++) {
        const struct qn_json *ref = qn_json_get(schema, "$ref");
        if (!qn_json_is(ref, QN_JSON_STRING)) return schema;
        schema = resolve(root, ref->text);
    }
    return NULL;
}

struct walk {
    const struct qn_json *root;
    const char *raw; /* when set: does some enum or const string equal it? */
    size_t n_raw;
    bool is_found;
    int n_node;
};

static const char *const unions[] = {"anyOf", "oneOf", "allOf"};

static unsigned types_of(struct walk *w, const struct qn_json *schema, int depth);

static unsigned note_value(struct walk *w, const struct qn_json *v)
{
    if (w->raw && qn_json_is(v, QN_JSON_STRING) && v->n == w->n_raw && !memcmp(v->text, w->raw, v->n))
        w->is_found = true;
    return bit_of_value(v);
}

static unsigned types_of_union(struct walk *w, const struct qn_json *schema, int depth)
{
    unsigned set = 0;
    for (size_t u = 0; u < QN_COUNT(unions); u++) {
        const struct qn_json *members = qn_json_get(schema, unions[u]);
        for (size_t i = 0; qn_json_is(members, QN_JSON_ARRAY) && i < members->n; i++) {
            unsigned member = types_of(w, members->items[i], depth + 1);
            set |= member ? member : QN_ARG_ANY;
        }
    }
    return set;
}

/* Keywords of one kind of value mean that kind where no type is given. */
static const struct {
    const char *key;
    unsigned bit;
} kind_words[] = {
    {"properties", QN_ARG_OBJECT},
    {"required", QN_ARG_OBJECT},
    {"additionalProperties", QN_ARG_OBJECT},
    {"patternProperties", QN_ARG_OBJECT},
    {"propertyNames", QN_ARG_OBJECT},
    {"items", QN_ARG_ARRAY},
    {"prefixItems", QN_ARG_ARRAY},
    {"minItems", QN_ARG_ARRAY},
    {"maxItems", QN_ARG_ARRAY},
    {"pattern", QN_ARG_STRING},
    {"minLength", QN_ARG_STRING},
    {"maxLength", QN_ARG_STRING},
    {"format", QN_ARG_STRING},
    {"minimum", QN_ARG_NUMBER},
    {"maximum", QN_ARG_NUMBER},
    {"exclusiveMinimum", QN_ARG_NUMBER},
    {"exclusiveMaximum", QN_ARG_NUMBER},
    {"multipleOf", QN_ARG_NUMBER},
};

static unsigned types_of(struct walk *w, const struct qn_json *schema, int depth)
{
    if (!qn_json_is(schema, QN_JSON_OBJECT) || depth > QN_ARG_MAX_DEPTH || w->n_node++ > QN_ARG_MAX_NODES)
        return 0;
    const struct qn_json *list = qn_json_get(schema, "enum");
    unsigned set = qn_typename_of(qn_json_get(schema, "type")), values = 0;
    for (size_t i = 0; qn_json_is(list, QN_JSON_ARRAY) && i < list->n; i++)
        values |= note_value(w, list->items[i]);
    const struct qn_json *constant = qn_json_get(schema, "const");
    if (constant) values |= note_value(w, constant);
    /* unions and references are walked even when the types are known, for the enum strings inside */
    unsigned members = set && !w->raw ? 0 : types_of_union(w, schema, depth);
    unsigned target = 0;
    const struct qn_json *ref = qn_json_get(schema, "$ref");
    if (qn_json_is(ref, QN_JSON_STRING) && (!(set | values | members) || w->raw))
        target = types_of(w, resolve(w->root, ref->text), depth + 1);
    if (!set) set = values;
    if (!set) set = members;
    if (!set) set = target;
    for (size_t i = 0; !set && i < QN_COUNT(kind_words); i++)
        if (qn_json_get(schema, kind_words[i].key)) set = kind_words[i].bit;
    const struct qn_json *nullable = qn_json_get(schema, "nullable");
    if (qn_json_is(nullable, QN_JSON_BOOL) && nullable->truth) set = (set ? set : QN_ARG_ANY) | QN_ARG_NULL;
    return set;
}

/* qn_json_get with a key that may hold a NUL byte (then: absent). */
static const struct qn_json *member(const struct qn_json *object, const char *key, size_t n)
{
    if (!qn_json_is(object, QN_JSON_OBJECT)) return NULL;
    for (size_t i = 0; i < object->n; i++)
        if (object->keys[i].n == n && !memcmp(object->keys[i].text, key, n)) return object->items[i];
    return NULL;
}

/* Schemas of one property, in an object schema and in what it is combined of. */
struct gather {
    const struct qn_json *root;
    const char *key;
    size_t n_key;
    struct qn_argtype *type;
    const struct qn_json *more; /* additionalProperties, the first that is a schema */
    int n_node;
};

static void gather(struct gather *g, const struct qn_json *object, int depth)
{
    static const char *const branches[] = {"then", "else"};
    if (!qn_json_is(object, QN_JSON_OBJECT) || depth > QN_ARG_MAX_DEPTH || g->n_node++ > QN_ARG_MAX_NODES)
        return;
    const struct qn_json *own = member(qn_json_get(object, "properties"), g->key, g->n_key),
                         *more = qn_json_get(object, "additionalProperties"),
                         *ref = qn_json_get(object, "$ref");
    if (own && g->type->n_schema < QN_ARG_MAX_SCHEMAS) g->type->schemas[g->type->n_schema++] = own;
    if (!g->more && qn_json_is(more, QN_JSON_OBJECT)) g->more = more;
    if (qn_json_is(ref, QN_JSON_STRING)) gather(g, resolve(g->root, ref->text), depth + 1);
    for (size_t u = 0; u < QN_COUNT(unions); u++) {
        const struct qn_json *members = qn_json_get(object, unions[u]);
        for (size_t i = 0; qn_json_is(members, QN_JSON_ARRAY) && i < members->n; i++)
            gather(g, members->items[i], depth + 1);
    }
    for (size_t i = 0; i < QN_COUNT(branches); i++) gather(g, qn_json_get(object, branches[i]), depth + 1);
}

bool qn_argtype_is_declared(const struct qn_json *parameters, const char *key, size_t n)
{
    struct qn_argtype type = {.root = parameters};
    struct gather g = {.root = parameters, .key = key, .n_key = n, .type = &type};
    gather(&g, parameters, 0);
    return type.n_schema > 0;
}

void qn_argtype_find(struct qn_argtype *type, const struct qn_json *parameters, const char *key, size_t n)
{
    *type = (struct qn_argtype){.root = parameters};
    struct gather g = {.root = parameters, .key = key, .n_key = n, .type = type};
    gather(&g, parameters, 0);
    if (!type->n_schema && g.more) type->schemas[type->n_schema++] = g.more;
    for (int i = 0; i < type->n_schema; i++) {
        struct walk w = {.root = parameters};
        unsigned set = types_of(&w, type->schemas[i], 0);
        bool is_word = qn_json_get(type->schemas[i], "type") != NULL; /* a type quern does not know */
        type->set |= set ? set : is_word ? QN_ARG_STRING : QN_ARG_ANY;
    }
}

bool qn_argtype_is_string(const struct qn_argtype *type)
{
    return !(type->set & ~(unsigned)QN_ARG_STRING);
}

/* --- number shapes --- */

struct number {
    bool is_prefix;   /* something longer could be a number */
    bool is_integer;  /* sign and digits */
    bool is_integral; /* digits, '.', zeros only */
    bool is_number;   /* with our courtesies: leading '+', ".5", "5." */
    size_t digits_at, n_digit, n_fraction, exponent_at;
    char sign;
};

static size_t n_digits(const char *s, size_t n)
{
    size_t i = 0;
    while (i < n && s[i] >= '0' && s[i] <= '9') i++;
    return i;
}

/* [sign] digits [. digits] [e [sign] digits] */
static struct number number_of(const char *s, size_t n)
{
    struct number x = {0};
    size_t i = 0;
    if (i < n && (s[i] == '+' || s[i] == '-')) x.sign = s[i++];
    x.digits_at = i;
    x.n_digit = n_digits(s + i, n - i);
    i += x.n_digit;
    bool has_dot = i < n && s[i] == '.', is_zero = true;
    if (has_dot) {
        i++;
        x.n_fraction = n_digits(s + i, n - i);
        for (size_t k = 0; k < x.n_fraction; k++) is_zero &= s[i + k] == '0';
        i += x.n_fraction;
    }
    x.exponent_at = i;
    bool has_mantissa = x.n_digit + x.n_fraction > 0, has_exponent = false, is_open = false;
    if (has_mantissa && i < n && (s[i] == 'e' || s[i] == 'E')) {
        has_exponent = true;
        i++;
        if (i < n && (s[i] == '+' || s[i] == '-')) i++;
        size_t k = n_digits(s + i, n - i);
        is_open = !k;
        i += k;
    }
    bool leading_zero = x.n_digit > 1 && s[x.digits_at] == '0';
    x.is_prefix = i == n;
    bool is_whole = i == n && has_mantissa && !is_open;
    x.is_integer = is_whole && !has_dot && !has_exponent;
    x.is_integral = is_whole && has_dot && !has_exponent && x.n_digit && x.n_fraction && is_zero;
    x.is_number = is_whole && !leading_zero;
    return x;
}

/* The number as JSON: digits copied, only what JSON lacks is mended. */
static void write_number(struct qn_buf *out, const char *s, size_t n, const struct number *x)
{
    if (x->sign == '-') qn_buf_putc(out, '-');
    const char *digits = s + x->digits_at;
    if (x->n_digit)
        qn_buf_append(out, digits, x->n_digit);
    else
        qn_buf_putc(out, '0');
    if (x->exponent_at > x->digits_at + x->n_digit) {
        qn_buf_putc(out, '.');
        if (x->n_fraction)
            qn_buf_append(out, digits + x->n_digit + 1, x->n_fraction);
        else
            qn_buf_putc(out, '0');
    }
    qn_buf_append(out, s + x->exponent_at, n - x->exponent_at);
}

static void write_integer(struct qn_buf *out, const char *s, const struct number *x)
{
    const char *digits = s + x->digits_at;
    size_t n = x->n_digit;
    while (n > 1 && *digits == '0') digits++, n--;
    if (x->sign == '-') qn_buf_putc(out, '-');
    qn_buf_append(out, digits, n);
}

/* --- Python literals --- */

struct literal {
    const char *s;
    size_t n, at;
    struct qn_arena *arena;
    int depth;
};

static struct qn_json *literal_value(struct literal *p);

static void literal_blank(struct literal *p)
{
    while (p->at < p->n && strchr(" \t\r\n\f", p->s[p->at]) && p->s[p->at]) p->at++;
}

static bool literal_take(struct literal *p, char c)
{
    literal_blank(p);
    if (p->at >= p->n || p->s[p->at] != c) return false;
    p->at++;
    return true;
}

static void put_utf8(struct qn_buf *b, uint32_t c)
{
    if (c > 0x10ffff || (c >= 0xd800 && c < 0xe000)) c = 0xfffd;
    if (c < 0x80) {
        qn_buf_putc(b, (char)c);
    } else if (c < 0x800) {
        qn_buf_putc(b, (char)(0xc0 | c >> 6));
        qn_buf_putc(b, (char)(0x80 | (c & 63)));
    } else if (c < 0x10000) {
        qn_buf_putc(b, (char)(0xe0 | c >> 12));
        qn_buf_putc(b, (char)(0x80 | (c >> 6 & 63)));
        qn_buf_putc(b, (char)(0x80 | (c & 63)));
    } else {
        qn_buf_putc(b, (char)(0xf0 | c >> 18));
        qn_buf_putc(b, (char)(0x80 | (c >> 12 & 63)));
        qn_buf_putc(b, (char)(0x80 | (c >> 6 & 63)));
        qn_buf_putc(b, (char)(0x80 | (c & 63)));
    }
}

static bool literal_hex(struct literal *p, int n_digit, uint32_t *out)
{
    *out = 0;
    for (int i = 0; i < n_digit; i++, p->at++) {
        char c = p->at < p->n ? p->s[p->at] : 0;
        uint32_t d;
        if (c >= '0' && c <= '9')
            d = (uint32_t)(c - '0');
        else if ((c | 32) >= 'a' && (c | 32) <= 'f')
            d = (uint32_t)((c | 32) - 'a' + 10);
        else
            return false;
        *out = *out << 4 | d;
    }
    return true;
}

static bool literal_escape(struct literal *p, struct qn_buf *text)
{
    static const char from[] = "\\'\"abfnrtv", to[] = "\\'\"\a\b\f\n\r\t\v";
    if (p->at >= p->n) return false;
    char c = p->s[p->at++];
    const char *known = c ? strchr(from, c) : NULL;
    uint32_t code = 0;
    if (known) {
        qn_buf_putc(text, to[known - from]);
    } else if (c == '\n') {
        /* a continued line */
    } else if (c == 'x' || c == 'u' || c == 'U') {
        if (!literal_hex(p, c == 'x' ? 2 : c == 'u' ? 4 : 8, &code)) return false;
        put_utf8(text, code);
    } else if (c >= '0' && c <= '7') {
        for (p->at--; code < 64 && p->at < p->n && p->s[p->at] >= '0' && p->s[p->at] <= '7'; p->at++)
            code = code * 8 + (uint32_t)(p->s[p->at] - '0');
        put_utf8(text, code);
    } else {
        qn_buf_putc(text, '\\');
        qn_buf_putc(text, c);
    }
    return true;
}

static struct qn_json *literal_string(struct literal *p)
{
    char quote = p->s[p->at++];
    struct qn_buf text = QN_BUF_INIT(p->n + 8);
    struct qn_json *v = NULL;
    while (p->at < p->n && p->s[p->at] != quote && p->s[p->at] != '\n') {
        if (p->s[p->at] == '\\') {
            p->at++;
            if (!literal_escape(p, &text)) goto out;
        } else {
            qn_buf_putc(&text, p->s[p->at++]);
        }
    }
    if (p->at < p->n && p->s[p->at] == quote && !text.failed) {
        p->at++;
        v = qn_json_new_str(p->arena, qn_buf_str(&text), text.n_byte);
    }
out:
    qn_buf_free(&text);
    return v;
}

static struct qn_json *literal_scalar(struct literal *p)
{
    static const struct {
        const char *word;
        enum qn_json_type type;
        bool truth;
    } words[] = {{"True", QN_JSON_BOOL, true}, {"False", QN_JSON_BOOL, false}, {"None", QN_JSON_NULL, false}};
    size_t n = 0;
    while (p->at + n < p->n &&
           (strchr("+-._", p->s[p->at + n]) ||
            ((p->s[p->at + n] | 32) >= 'a' && (p->s[p->at + n] | 32) <= 'z') ||
            (p->s[p->at + n] >= '0' && p->s[p->at + n] <= '9')) &&
           p->s[p->at + n])
        n++;
    const char *s = p->s + p->at;
    for (size_t i = 0; i < QN_COUNT(words); i++)
        if (strlen(words[i].word) == n && !memcmp(s, words[i].word, n)) {
            p->at += n;
            struct qn_json *v = qn_json_new(p->arena, words[i].type);
            if (v) v->truth = words[i].truth;
            return v;
        }
    struct number x = number_of(s, n);
    if (!n || !x.is_number) return NULL;
    p->at += n;
    struct qn_buf text = QN_BUF_INIT(p->n + 8);
    write_number(&text, s, n, &x);
    struct qn_json *v = qn_json_new(p->arena, x.is_integer ? QN_JSON_INT : QN_JSON_REAL);
    if (v) {
        v->text = qn_arena_strndup(p->arena, qn_buf_str(&text), text.n_byte);
        v->n = text.n_byte;
        if (!v->text) v = NULL;
    }
    qn_buf_free(&text);
    return v;
}

/* '[' or '(' has been seen at p->at */
static struct qn_json *literal_list(struct literal *p)
{
    bool is_tuple = p->s[p->at++] == '(';
    char close = is_tuple ? ')' : ']';
    bool has_comma = false;
    struct qn_json *list = qn_json_new(p->arena, QN_JSON_ARRAY);
    while (list && !literal_take(p, close)) {
        struct qn_json *item = literal_value(p);
        if (!item || !qn_json_push(p->arena, list, item)) return NULL;
        if (literal_take(p, ',')) {
            has_comma = true;
            continue;
        }
        if (!literal_take(p, close)) return NULL;
        break;
    }
    /* (1) is a number in brackets; only a comma makes a tuple */
    return list && is_tuple && list->n == 1 && !has_comma ? list->items[0] : list;
}

static struct qn_json *literal_dict(struct literal *p)
{
    p->at++;
    struct qn_json *dict = qn_json_new(p->arena, QN_JSON_OBJECT);
    while (dict && !literal_take(p, '}')) {
        struct qn_json *key = literal_value(p);
        if (!key || key->type == QN_JSON_ARRAY || key->type == QN_JSON_OBJECT || !literal_take(p, ':'))
            return NULL;
        const char *name = key->type == QN_JSON_NULL   ? "null"
                           : key->type == QN_JSON_BOOL ? (key->truth ? "true" : "false")
                                                       : key->text;
        if (key->type == QN_JSON_STRING && strlen(name) != key->n) return NULL;
        struct qn_json *value = literal_value(p);
        if (!value || !qn_json_set(p->arena, dict, name, value)) return NULL;
        if (literal_take(p, ',')) continue;
        if (!literal_take(p, '}')) return NULL;
        break;
    }
    return dict;
}

static struct qn_json *literal_value(struct literal *p)
{
    literal_blank(p);
    if (p->at >= p->n || p->depth >= 128) return NULL;
    char c = p->s[p->at];
    p->depth++;
    struct qn_json *v = c == '{'                ? literal_dict(p)
                        : c == '[' || c == '('  ? literal_list(p)
                        : c == '\'' || c == '"' ? literal_string(p)
                                                : literal_scalar(p);
    p->depth--;
    return v;
}

/* --- raw text to value --- */

static bool is_blank(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

/* Is `word`, in any case? With prefix: could it become that (or that and blanks)? */
static bool is_word(const char *s, size_t n, const char *word, bool prefix)
{
    size_t n_word = strlen(word), n_head = QN_MIN(n, n_word);
    if (strncasecmp(s, word, n_head)) return false;
    if (n < n_word) return prefix;
    for (size_t i = n_word; i < n; i++)
        if (!is_blank(s[i])) return false;
    return true;
}

bool qn_argtype_may_change(const struct qn_argtype *type, const char *raw, size_t n)
{
    if (!(type->set & (QN_ARG_STRING | QN_ARG_ANY))) return type->set != 0;
    unsigned set = type->set;
    while (n && is_blank(*raw)) raw++, n--;
    if (!n) return !qn_argtype_is_string(type);
    if (set & QN_ARG_NULL && (is_word(raw, n, "null", true) || is_word(raw, n, "none", true))) return true;
    if (set & QN_ARG_BOOLEAN && (is_word(raw, n, "true", true) || is_word(raw, n, "false", true)))
        return true;
    if (set & (QN_ARG_OBJECT | QN_ARG_ANY) && *raw == '{') return true;
    if (set & (QN_ARG_ARRAY | QN_ARG_ANY) && *raw == '[') return true;
    if (set & QN_ARG_ARRAY && *raw == '(') return true;
    if (set & (QN_ARG_INTEGER | QN_ARG_NUMBER)) {
        size_t m = n;
        while (m && is_blank(raw[m - 1])) m--;
        struct number x = number_of(raw, m);
        bool is_done = x.is_integer || x.is_integral || x.is_number;
        if (m < n ? is_done : x.is_prefix) return true;
    }
    return false;
}

/* JSON that nests no deeper than the arguments it becomes part of may. */
static bool is_json(const char *s, size_t n)
{
    struct qn_jsonscan scan = {0};
    enum qn_jsonscan_result got = QN_JSONSCAN_OPEN;
    for (size_t i = 0; i < n && got != QN_JSONSCAN_BAD; i++)
        got = qn_jsonscan_byte(&scan, (unsigned char)s[i]);
    return got == QN_JSONSCAN_WHOLE;
}

/* JSON or a Python literal of a kind in the set. */
static bool write_tree(struct qn_buf *out, unsigned set, const char *s, size_t n)
{
    if (!n || (*s != '{' && *s != '[' && *s != '(')) return false;
    struct qn_arena *arena =
        qn_arena_create(n < (64u << 20) / ARENA_FACTOR ? (1u << 20) + n * ARENA_FACTOR : 256u << 20);
    struct qn_json *v;
    bool is_ok = false;
    if (!is_json(s, n) || qn_json_parse(&v, arena, s, n, "argument", NULL)) {
        struct literal p = {.s = s, .n = n, .arena = arena};
        v = literal_value(&p);
        literal_blank(&p);
        if (p.at != n) v = NULL;
    }
    if ((set & QN_ARG_OBJECT && qn_json_is(v, QN_JSON_OBJECT)) ||
        (set & QN_ARG_ARRAY && qn_json_is(v, QN_JSON_ARRAY))) {
        qn_json_write(out, v, QN_JSON_EXACT);
        is_ok = true;
    }
    qn_arena_free(arena);
    return is_ok;
}

/* The value of trimmed text s [n], when some type of the set takes it. The order is the rule. */
static bool write_typed(struct qn_buf *out, unsigned set, const char *s, size_t n)
{
    struct number x = number_of(s, n);
    bool is_null = is_word(s, n, "null", false) || is_word(s, n, "none", false);
    if (set & QN_ARG_NULL && is_null) {
        qn_buf_puts(out, "null");
    } else if (set & QN_ARG_INTEGER && (x.is_integer || x.is_integral)) {
        write_integer(out, s, &x);
    } else if (set & QN_ARG_NUMBER && x.is_number) {
        write_number(out, s, n, &x);
    } else if (set & QN_ARG_BOOLEAN && is_word(s, n, "true", false)) {
        qn_buf_puts(out, "true");
    } else if (set & QN_ARG_BOOLEAN && is_word(s, n, "false", false)) {
        qn_buf_puts(out, "false");
    } else if (set & (QN_ARG_OBJECT | QN_ARG_ARRAY) && write_tree(out, set, s, n)) {
        /* written */
    } else if (set & QN_ARG_ANY && is_json(s, n) && write_tree(out, QN_ARG_OBJECT | QN_ARG_ARRAY, s, n)) {
        /* of JSON only: much text looks like a literal of Python */
    } else if (set & (QN_ARG_STRING | QN_ARG_ANY)) {
        return false;
    } else if (is_null) {
        qn_buf_puts(out, "null");
    } else if (set & QN_ARG_INTEGER && x.is_number) {
        write_number(out, s, n, &x);
    } else if (set & QN_ARG_BOOLEAN && n == 1 && (*s == '0' || *s == '1')) {
        qn_buf_puts(out, *s == '1' ? "true" : "false");
    } else {
        return false;
    }
    return true;
}

int qn_argtype_write(struct qn_buf *out, const struct qn_argtype *type, const char *raw, size_t n)
{
    if (!qn_argtype_is_string(type)) {
        struct walk w = {.root = type->root, .raw = raw, .n_raw = n};
        for (int i = 0; i < type->n_schema; i++) types_of(&w, type->schemas[i], 0);
        const char *s = raw;
        size_t m = n;
        while (m && is_blank(*s)) s++, m--;
        while (m && is_blank(s[m - 1])) m--;
        if (!w.is_found && m && write_typed(out, type->set, s, m)) return out->failed;
    }
    return qn_json_write_str(out, raw, n, false);
}
