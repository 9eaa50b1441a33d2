/* JSON Schema as terms.
 * SPDX-License-Identifier: Apache-2.0 */
#include "text/schema.h"

#include "base/hash.h"
#include "text/argtype.h"
#include "text/decimal.h"
#include "text/grammar.h"
#include "text/regex.h"

#define MAX_INDENT 32

struct qn_schema {
    struct qn_terms *t;
    struct qn_arena *arena;
    const struct qn_json *root;
    const char *where;
    struct qn_buf *report;
    bool strict;
    int depth, n_node;
    struct qn_map rules;                              /* schema address -> rule */
    struct qn_map reported;                           /* hash of keyword */
    qn_term gap, colon, string, value, object, array; /* shared parts, EMPTY until made */
};

struct qn_schema *qn_schema_create(struct qn_terms *t, const struct qn_json *root, bool strict,
                                   const char *where, struct qn_buf *report)
{
    struct qn_schema *s = xcalloc(1, sizeof *s);
    s->t = t;
    s->root = root;
    s->strict = strict;
    s->where = where;
    s->report = report;
    s->arena = qn_arena_create(QN_SCHEMA_MAX_BYTES);
    return s;
}

void qn_schema_free(struct qn_schema *s)
{
    if (!s) return;
    qn_map_free(&s->rules);
    qn_map_free(&s->reported);
    qn_arena_free(s->arena);
    free(s);
}

/* --- shared parts --- */

/* Between tokens: nothing, a space, or a new line with its indentation. Bounded: a model may like blanks. */
static qn_term gap(struct qn_schema *s)
{
    if (s->gap) return s->gap;
    qn_term list[] = {QN_TERM_EPS, qn_term_str(s->t, " "),
                      qn_term_seq(s->t, qn_term_str(s->t, "\n"),
                                  qn_term_repeat(s->t, qn_term_str(s->t, " "), 0, MAX_INDENT))};
    return s->gap = qn_term_alts(s->t, list, QN_COUNT(list));
}

static qn_term colon(struct qn_schema *s)
{
    if (!s->colon)
        s->colon =
            qn_term_seq(s->t, qn_term_str(s->t, ":"), qn_term_repeat(s->t, qn_term_str(s->t, " "), 0, 1));
    return s->colon;
}

/* Any string. Bytes above 0x7f loop in one state: whoever reads it repairs what is no UTF-8. */
static qn_term any_string(struct qn_schema *s)
{
    struct qn_terms *t = s->t;
    if (s->string) return s->string;
    uint64_t plain[4] = {~(uint64_t)0 << 32, ~(uint64_t)0, ~(uint64_t)0, ~(uint64_t)0}, letters[4] = {0};
    plain[0] &= ~((uint64_t)1 << '"');
    plain[1] &= ~((uint64_t)1 << ('\\' - 64));
    for (const char *c = "\"\\/bfnrt"; *c; c++) letters[*c >> 6] |= (uint64_t)1 << (*c & 63);
    qn_term digit = qn_term_range(t, '0', '9'), upper = qn_term_range(t, 'A', 'F'),
            lower = qn_term_range(t, 'a', 'f');
    qn_term hex = qn_term_alts(t, (qn_term[]){digit, upper, lower}, 3);
    qn_term d = qn_term_alt(t, qn_term_str(t, "d"), qn_term_str(t, "D")),
            not_d_list[] = {digit, qn_term_range(t, 'A', 'C'), qn_term_range(t, 'E', 'F'),
                            qn_term_range(t, 'a', 'c'), qn_term_range(t, 'e', 'f')};
    qn_term first =
        qn_term_alt(t, qn_term_seq(t, qn_term_alts(t, not_d_list, QN_COUNT(not_d_list)), hex),
                    qn_term_seq(t, d, qn_term_range(t, '0', '7'))); /* no half of a surrogate pair */
    qn_term escape =
        qn_term_seq(t, qn_term_str(t, "\\"),
                    qn_term_alt(t, qn_term_class(t, letters),
                                qn_term_seq3(t, qn_term_str(t, "u"), first, qn_term_seq(t, hex, hex))));
    qn_term body = qn_term_repeat(t, qn_term_alt(t, qn_term_class(t, plain), escape), 0, QN_TERM_MANY);
    return s->string = qn_term_seq3(t, qn_term_str(t, "\""), body, qn_term_str(t, "\""));
}

static qn_term any_number(struct qn_schema *s, bool whole)
{
    struct qn_terms *t = s->t;
    qn_term digit = qn_term_range(t, '0', '9'),
            sign = qn_term_alt(t, qn_term_str(t, "+"), qn_term_str(t, "-"));
    qn_term integer = qn_term_alt(
        t, qn_term_str(t, "0"),
        qn_term_seq(t, qn_term_range(t, '1', '9'), qn_term_repeat(t, digit, 0, QN_DECIMAL_MAX_INTEGER - 1)));
    integer = qn_term_seq(t, qn_term_repeat(t, qn_term_str(t, "-"), 0, 1), integer);
    if (whole) return integer;
    qn_term fraction =
        qn_term_seq(t, qn_term_str(t, "."), qn_term_repeat(t, digit, 1, QN_DECIMAL_MAX_FRACTION));
    qn_term exponent = qn_term_seq3(t, qn_term_alt(t, qn_term_str(t, "e"), qn_term_str(t, "E")),
                                    qn_term_alt(t, QN_TERM_EPS, sign), qn_term_repeat(t, digit, 1, 2));
    return qn_term_seq3(t, integer, qn_term_alt(t, QN_TERM_EPS, fraction),
                        qn_term_alt(t, QN_TERM_EPS, exponent));
}

static qn_term any_value(struct qn_schema *s);

static qn_term any_array(struct qn_schema *s)
{
    struct qn_terms *t = s->t;
    if (s->array) return s->array;
    qn_term value = any_value(s);
    if (s->array) return s->array; /* made on the way */
    qn_term more = qn_term_repeat(t, qn_term_seq3(t, qn_term_str(t, ","), gap(s), value), 0, QN_TERM_MANY);
    qn_term items = qn_term_alt(t, QN_TERM_EPS, qn_term_seq3(t, value, more, gap(s)));
    return s->array =
               qn_term_seq3(t, qn_term_seq(t, qn_term_str(t, "["), gap(s)), items, qn_term_str(t, "]"));
}

qn_term qn_schema_any_object(struct qn_schema *s)
{
    struct qn_terms *t = s->t;
    if (s->object) return s->object;
    qn_term value = any_value(s);
    if (s->object) return s->object;
    qn_term member = qn_term_seq3(t, any_string(s), colon(s), value);
    qn_term more = qn_term_repeat(t, qn_term_seq3(t, qn_term_str(t, ","), gap(s), member), 0, QN_TERM_MANY);
    qn_term members = qn_term_alt(t, QN_TERM_EPS, qn_term_seq3(t, member, more, gap(s)));
    return s->object =
               qn_term_seq3(t, qn_term_seq(t, qn_term_str(t, "{"), gap(s)), members, qn_term_str(t, "}"));
}

static qn_term any_value(struct qn_schema *s)
{
    if (s->value) return s->value;
    s->value = qn_term_rule_new(s->t);
    qn_term list[] = {any_string(s),
                      any_number(s, false),
                      qn_term_str(s->t, "true"),
                      qn_term_str(s->t, "false"),
                      qn_term_str(s->t, "null"),
                      any_array(s),
                      qn_schema_any_object(s)};
    qn_term_rule_set(s->t, s->value, qn_term_alts(s->t, list, QN_COUNT(list)));
    return s->value;
}

/* --- keywords --- */

static const char *const annotations[] = {
    "title",       "description",     "default",          "examples",      "example",   "$schema",
    "$id",         "$comment",        "deprecated",       "readOnly",      "writeOnly", "$defs",
    "definitions", "contentEncoding", "contentMediaType", "$anchor",       "id",        "strict",
    "x-order",     "nullable",        "propertyOrdering", "discriminator",
};
static const char *const supported[] = {
    "type",
    "properties",
    "required",
    "additionalProperties",
    "items",
    "prefixItems",
    "additionalItems",
    "minItems",
    "maxItems",
    "enum",
    "const",
    "anyOf",
    "oneOf",
    "allOf",
    "$ref",
    "pattern",
    "format",
    "minLength",
    "maxLength",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
};

static bool in_list(const char *key, const char *const *list, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!strcmp(key, list[i])) return true;
    return false;
}

static bool is_annotation(const char *key)
{
    return in_list(key, annotations, QN_COUNT(annotations));
}

static int refuse(struct qn_schema *s, const char *keyword, const char *value, struct qn_err *e)
{
    int rc = QN_OK;
    QN_FAIL_IF(s->strict, e, QN_UNSUPPORTED,
               "%s: schema keyword '%s'%s%s is not supported with strict; remove it or set strict to false",
               s->where, keyword, value ? " with " : "", value ? value : "");
    uint64_t hash = qn_hash_str(keyword) ^ (value ? qn_hash_str(value) : 0);
    if (s->report && !qn_map_get(&s->reported, hash | 1, NULL))
        qn_buf_printf(s->report, "%s: schema keyword '%s'%s%s is ignored\n", s->where, keyword,
                      value ? " with " : "", value ? value : "");
    qn_map_put(&s->reported, hash | 1, 1);
out:
    return rc;
}

/* A keyword that says nothing in this place needs no support. */
static bool is_idle(const struct qn_json *schema, const char *key, const struct qn_json *v)
{
    if (!strcmp(key, "uniqueItems")) return qn_json_is(v, QN_JSON_BOOL) && !v->truth;
    if (!strcmp(key, "multipleOf")) {
        return qn_json_num(v) == 1.0 && qn_json_is_str(qn_json_get(schema, "type"), "integer");
    }
    if (!strcmp(key, "minProperties")) {
        const struct qn_json *required = qn_json_get(schema, "required");
        return qn_json_num(v) <= (double)(qn_json_is(required, QN_JSON_ARRAY) ? required->n : 0);
    }
    if (!strcmp(key, "propertyNames") || !strcmp(key, "patternProperties"))
        return qn_json_is(v, QN_JSON_OBJECT) && !v->n;
    if (!strcmp(key, "unevaluatedProperties")) return true; /* no more is generated than is listed */
    return false;
}

static int check_keywords(struct qn_schema *s, const struct qn_json *schema, struct qn_err *e)
{
    int rc = QN_OK;
    for (size_t i = 0; i < schema->n; i++) {
        const char *key = schema->keys[i].text;
        if (is_annotation(key) || in_list(key, supported, QN_COUNT(supported))) continue;
        if (is_idle(schema, key, schema->items[i]) || !strncmp(key, "x-", 2)) continue;
        QN_TRY(refuse(s, key, NULL, e));
    }
out:
    return rc;
}

/* --- merging: what allOf, and keywords beside anyOf or $ref, mean --- */

static int out_of_memory(struct qn_schema *s, struct qn_err *e)
{
    return qn_err_set(e, QN_TOOBIG, __FILE__, __LINE__,
                      "%s: the schema needs more than %u bytes when it is merged", s->where,
                      QN_SCHEMA_MAX_BYTES);
}

static int merge(struct qn_json **out, struct qn_schema *s, const struct qn_json *a, const struct qn_json *b,
                 struct qn_err *e);

static struct qn_json *all_of(struct qn_schema *s, struct qn_json *a, struct qn_json *b)
{
    struct qn_json *both = qn_json_new(s->arena, QN_JSON_OBJECT),
                   *list = qn_json_new(s->arena, QN_JSON_ARRAY);
    if (!both || !list || !qn_json_push(s->arena, list, a) || !qn_json_push(s->arena, list, b) ||
        !qn_json_set(s->arena, both, "allOf", list))
        return NULL;
    return both;
}

static bool has_type(const struct qn_json *type, const char *name)
{
    if (!type) return false;
    if (qn_json_is_str(type, name)) return true;
    for (size_t i = 0; qn_json_is(type, QN_JSON_ARRAY) && i < type->n; i++)
        if (qn_json_is_str(type->items[i], name)) return true;
    return false;
}

static struct qn_json *merge_types(struct qn_schema *s, const struct qn_json *a, const struct qn_json *b)
{
    static const char *const names[] = {"null", "boolean", "integer", "number", "string", "array", "object"};
    struct qn_json *list = qn_json_new(s->arena, QN_JSON_ARRAY);
    for (size_t i = 0; list && i < QN_COUNT(names); i++) {
        bool in_a = has_type(a, names[i]), in_b = has_type(b, names[i]);
        if (i == 2) {
            in_a = in_a || has_type(a, "number");
            in_b = in_b || has_type(b, "number");
            if (has_type(a, "number") && has_type(b, "number")) continue;
        }
        if (in_a && in_b &&
            !qn_json_push(s->arena, list, qn_json_new_str(s->arena, names[i], strlen(names[i]))))
            return NULL;
    }
    return list;
}

static bool contains(const struct qn_json *list, const struct qn_json *v)
{
    for (size_t i = 0; i < list->n; i++)
        if (qn_json_equal(list->items[i], v)) return true;
    return false;
}

static struct qn_json *merge_lists(struct qn_schema *s, const struct qn_json *a, const struct qn_json *b,
                                   bool both)
{
    struct qn_json *list = qn_json_new(s->arena, QN_JSON_ARRAY);
    for (size_t i = 0; list && i < a->n; i++)
        if ((!both || contains(b, a->items[i])) && !qn_json_push(s->arena, list, a->items[i])) return NULL;
    for (size_t i = 0; list && !both && i < b->n; i++)
        if (!contains(a, b->items[i]) && !qn_json_push(s->arena, list, b->items[i])) return NULL;
    return list;
}

static struct qn_json *merge_properties(struct qn_schema *s, const struct qn_json *a, const struct qn_json *b)
{
    struct qn_json *out = qn_json_new(s->arena, QN_JSON_OBJECT);
    for (size_t i = 0; out && i < a->n; i++) {
        struct qn_json *other = qn_json_get(b, a->keys[i].text), *v = a->items[i];
        if (other) v = all_of(s, v, other);
        if (!qn_json_set(s->arena, out, a->keys[i].text, v)) return NULL;
    }
    for (size_t i = 0; out && i < b->n; i++)
        if (!qn_json_get(a, b->keys[i].text) && !qn_json_set(s->arena, out, b->keys[i].text, b->items[i]))
            return NULL;
    return out;
}

static struct qn_json *cross(struct qn_schema *s, const struct qn_json *a, const struct qn_json *b)
{
    struct qn_json *list = qn_json_new(s->arena, QN_JSON_ARRAY);
    if (a->n * b->n > QN_SCHEMA_MAX_MERGE) return NULL;
    for (size_t i = 0; list && i < a->n; i++)
        for (size_t k = 0; k < b->n; k++)
            if (!qn_json_push(s->arena, list, all_of(s, a->items[i], b->items[k]))) return NULL;
    return list;
}

/* The value of one keyword that both schemas have. NULL: out of room. */
static struct qn_json *merge_keyword(struct qn_schema *s, const char *key, struct qn_json *a,
                                     struct qn_json *b)
{
    static const char *const lower[] = {"minimum", "exclusiveMinimum", "minLength", "minItems",
                                        "minProperties"};
    static const char *const upper[] = {"maximum", "exclusiveMaximum", "maxLength", "maxItems",
                                        "maxProperties"};
    if (qn_json_equal(a, b)) return a;
    if (!strcmp(key, "type")) return merge_types(s, a, b);
    if (!strcmp(key, "properties") && qn_json_is(a, QN_JSON_OBJECT) && qn_json_is(b, QN_JSON_OBJECT))
        return merge_properties(s, a, b);
    bool lists = qn_json_is(a, QN_JSON_ARRAY) && qn_json_is(b, QN_JSON_ARRAY);
    if (!strcmp(key, "required") && lists) return merge_lists(s, a, b, false);
    if (!strcmp(key, "enum") && lists) return merge_lists(s, a, b, true);
    if (!strcmp(key, "anyOf") && lists) return cross(s, a, b);
    if (in_list(key, lower, QN_COUNT(lower))) return qn_json_num(a) >= qn_json_num(b) ? a : b;
    if (in_list(key, upper, QN_COUNT(upper))) return qn_json_num(a) <= qn_json_num(b) ? a : b;
    if (!strcmp(key, "pattern")) {
        /* our own spelling: a list, all of which must match */
        struct qn_json *list = qn_json_new(s->arena, QN_JSON_ARRAY), *both[] = {a, b};
        for (int i = 0; list && i < 2; i++) {
            bool is_list = qn_json_is(both[i], QN_JSON_ARRAY);
            for (size_t k = 0; k < (is_list ? both[i]->n : 1); k++)
                if (!qn_json_push(s->arena, list, is_list ? both[i]->items[k] : both[i])) return NULL;
        }
        return list;
    }
    if (!strcmp(key, "items") || !strcmp(key, "additionalProperties")) {
        if (qn_json_is(a, QN_JSON_BOOL)) return a->truth ? b : a;
        if (qn_json_is(b, QN_JSON_BOOL)) return b->truth ? a : b;
        return all_of(s, a, b);
    }
    if (!strcmp(key, "prefixItems") && lists) {
        struct qn_json *list = qn_json_new(s->arena, QN_JSON_ARRAY);
        for (size_t i = 0; list && i < QN_MAX(a->n, b->n); i++) {
            struct qn_json *v = i >= a->n   ? b->items[i]
                                : i >= b->n ? a->items[i]
                                            : all_of(s, a->items[i], b->items[i]);
            if (!qn_json_push(s->arena, list, v)) return NULL;
        }
        return list;
    }
    return a;
}

/* A copy whose references and allOf are resolved, oneOf called anyOf and const called enum. */
static int normal(struct qn_json **out, struct qn_schema *s, const struct qn_json *schema, struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_json *v = qn_json_new(s->arena, QN_JSON_OBJECT);
    s->depth++;
    QN_FAIL_IF(s->depth > QN_GRAMMAR_MAX_DEPTH || s->n_node++ > QN_SCHEMA_MAX_NODES, e, QN_TOOBIG,
               "%s: the schema nests deeper than %d or has more than %d parts", s->where,
               QN_GRAMMAR_MAX_DEPTH, QN_SCHEMA_MAX_NODES);
    if (!v) goto full;
    if (qn_json_is(schema, QN_JSON_BOOL)) {
        if (!schema->truth && !qn_json_set(s->arena, v, "enum", qn_json_new(s->arena, QN_JSON_ARRAY)))
            goto full;
        *out = v;
        goto out;
    }
    QN_FAIL_IF(!qn_json_is(schema, QN_JSON_OBJECT), e, QN_INVAL,
               "%s: a schema must be an object or a boolean", s->where);
    for (size_t i = 0; i < schema->n; i++) {
        const char *key = schema->keys[i].text;
        struct qn_json *item = schema->items[i];
        if (!strcmp(key, "$ref") || !strcmp(key, "allOf") || (is_annotation(key) && strcmp(key, "nullable")))
            continue;
        const char *name = !strcmp(key, "oneOf") ? "anyOf" : !strcmp(key, "const") ? "enum" : key;
        if (!strcmp(key, "const")) {
            struct qn_json *list = qn_json_new(s->arena, QN_JSON_ARRAY);
            if (!list || !qn_json_push(s->arena, list, item)) goto full;
            item = list;
        }
        struct qn_json *old = qn_json_get(v, name);
        if (old) item = merge_keyword(s, name, old, item);
        if (!item || !qn_json_set(s->arena, v, name, item)) goto full;
    }
    const struct qn_json *ref = qn_json_get(schema, "$ref"), *all = qn_json_get(schema, "allOf");
    if (ref) {
        const struct qn_json *target = qn_argtype_deref(s->root, schema);
        QN_FAIL_IF(!target, e, QN_INVAL, "%s: $ref '%.80s' leads nowhere inside the schema", s->where,
                   qn_json_is(ref, QN_JSON_STRING) ? ref->text : "?");
        QN_TRY(merge(&v, s, v, target, e));
    }
    for (size_t i = 0; qn_json_is(all, QN_JSON_ARRAY) && i < all->n; i++)
        QN_TRY(merge(&v, s, v, all->items[i], e));
    *out = v;
out:
    s->depth--;
    return rc;
full:
    rc = out_of_memory(s, e);
    goto out;
}

static bool closes(const struct qn_json *schema)
{
    const struct qn_json *more = qn_json_get(schema, "additionalProperties");
    return qn_json_is(more, QN_JSON_BOOL) && !more->truth;
}

/* Properties that the other schema forbids are not in both. */
static struct qn_json *without_foreign(struct qn_schema *s, struct qn_json *v, const struct qn_json *other)
{
    const struct qn_json *mine = qn_json_get(v, "properties"), *theirs = qn_json_get(other, "properties");
    if (!closes(other) || !qn_json_is(mine, QN_JSON_OBJECT)) return v;
    struct qn_json *out = qn_json_new(s->arena, QN_JSON_OBJECT),
                   *kept = qn_json_new(s->arena, QN_JSON_OBJECT);
    for (size_t i = 0; out && i < v->n; i++)
        if (!qn_json_set(s->arena, out, v->keys[i].text, v->items[i])) return NULL;
    for (size_t i = 0; kept && i < mine->n; i++)
        if (qn_json_get(theirs, mine->keys[i].text) &&
            !qn_json_set(s->arena, kept, mine->keys[i].text, mine->items[i]))
            return NULL;
    return out && kept && qn_json_set(s->arena, out, "properties", kept) ? out : NULL;
}

/* a is normal already. */
static int merge(struct qn_json **out, struct qn_schema *s, const struct qn_json *a, const struct qn_json *b,
                 struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_json *left = (struct qn_json *)a, *right, *v = qn_json_new(s->arena, QN_JSON_OBJECT);
    QN_TRY(normal(&right, s, b, e));
    struct qn_json *new_left = without_foreign(s, left, right);
    right = new_left ? without_foreign(s, right, left) : NULL;
    if (!v || !right) goto full;
    left = new_left;
    for (size_t i = 0; i < left->n; i++) {
        struct qn_json *other = qn_json_get(right, left->keys[i].text), *item = left->items[i];
        if (other) item = merge_keyword(s, left->keys[i].text, item, other);
        if (!item || !qn_json_set(s->arena, v, left->keys[i].text, item)) goto full;
    }
    for (size_t i = 0; i < right->n; i++)
        if (!qn_json_get(left, right->keys[i].text) &&
            !qn_json_set(s->arena, v, right->keys[i].text, right->items[i]))
            goto full;
    *out = v;
out:
    return rc;
full:
    rc = out_of_memory(s, e);
    goto out;
}

int qn_schema_flatten(const struct qn_json **out, struct qn_schema *s, const struct qn_json *schema,
                      struct qn_err *e)
{
    struct qn_json *v = NULL;
    int rc = normal(&v, s, schema, e);
    *out = v;
    return rc;
}

/* --- strings --- */

static const struct {
    const char *name, *pattern;
} formats[] = {
    {"date", "\\d{4}-(0[1-9]|1[0-2])-(0[1-9]|1\\d|2[0-8])"},
    {"time", "([01]\\d|2[0-3]):[0-5]\\d:[0-5]\\d(\\.\\d{1,6})?(Z|[+-]([01]\\d|2[0-3]):[0-5]\\d)"},
    {"date-time",
     "\\d{4}-(0[1-9]|1[0-2])-(0[1-9]|1\\d|2[0-8])T([01]\\d|2[0-3]):[0-5]\\d:[0-5]\\d(\\.\\d{1,6})?"
     "(Z|[+-]([01]\\d|2[0-3]):[0-5]\\d)"},
    {"duration", "P(\\d{1,4}W|(\\d{1,4}Y)?(\\d{1,4}M)?\\d{1,4}D|\\d{1,4}DT\\d{1,4}H|T\\d{1,4}H(\\d{1,4}M)?("
                 "\\d{1,4}S)?|T\\d{1,4}M(\\d{1,4}S)?|T\\d{1,4}S)"},
    {"uuid", "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"},
    {"email", "[a-zA-Z0-9_+-]{1,32}(\\.[a-zA-Z0-9_+-]{1,32}){0,3}@[a-zA-Z0-9]([a-zA-Z0-9-]{0,30}[a-zA-Z0-9])?"
              "(\\.[a-zA-Z]{2,12}){1,3}"},
    {"hostname",
     "[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?(\\.[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?){0,6}"},
    {"ipv4", "((25[0-5]|2[0-4]\\d|1\\d\\d|[1-9]?\\d)\\.){3}(25[0-5]|2[0-4]\\d|1\\d\\d|[1-9]?\\d)"},
    {"ipv6", "([0-9a-f]{1,4}:){7}[0-9a-f]{1,4}|::1|::"},
    {"uri", "[a-z][a-z0-9+.-]{0,15}://[a-zA-Z0-9.-]{1,253}(:\\d{1,5})?(/"
            "[a-zA-Z0-9._~%!$&'()*+,;=:@-]{0,255}){0,16}(\\?[a-zA-Z0-9._~%!$&'()*+,;=:@/"
            "?-]{0,255})?(#[a-zA-Z0-9._~%-]{0,255})?"},
};

static int count_of(const struct qn_json *schema, const char *key, uint32_t dflt, uint32_t *out,
                    struct qn_schema *s, struct qn_err *e)
{
    int rc = QN_OK;
    int64_t n;
    const struct qn_json *v = qn_json_get(schema, key);
    *out = dflt;
    if (qn_json_is_null(v)) goto out;
    QN_FAIL_IF(!qn_json_int(v, &n) || n < 0, e, QN_INVAL,
               "%s: '%s' must be a whole number that is not negative", s->where, key);
    *out = n > 0x7fffffff ? (dflt == QN_TERM_MANY ? QN_TERM_MANY : 0x7fffffff) : (uint32_t)n;
out:
    return rc;
}

static int one_pattern(qn_term *body, struct qn_schema *s, const struct qn_json *pattern, bool is_json,
                       struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_err why = {0};
    qn_term term;
    if (!qn_json_is(pattern, QN_JSON_STRING)) goto out;
    rc = qn_regex_term(&term, s->t, pattern->text, pattern->n, false, is_json, "pattern", &why);
    if (rc == QN_UNSUPPORTED) {
        rc = refuse(s, "pattern", why.text, e);
        goto out;
    }
    QN_FAIL_IF(rc, e, rc, "%s: %s", s->where, why.text);
    *body = qn_term_and(s->t, *body, term, *body != QN_TERM_ANY);
out:
    return rc;
}

/* What the characters between the quotes (or, of an argument, all characters) must be. ANY: no constraint. */
static int string_body(qn_term *body, struct qn_schema *s, const struct qn_json *schema, bool is_json,
                       struct qn_err *e)
{
    int rc = QN_OK;
    uint32_t min, max;
    const struct qn_json *pattern = qn_json_get(schema, "pattern"), *format = qn_json_get(schema, "format");
    *body = QN_TERM_ANY;
    QN_TRY(count_of(schema, "minLength", 0, &min, s, e));
    QN_TRY(count_of(schema, "maxLength", QN_TERM_MANY, &max, s, e));
    if (min || max != QN_TERM_MANY) {
        struct qn_charset all = {.n = 0};
        qn_charset_invert(&all);
        *body = qn_term_repeat(s->t, qn_charset_term(s->t, &all, is_json), min, max);
    }
    if (qn_json_is(pattern, QN_JSON_ARRAY))
        for (size_t i = 0; i < pattern->n; i++) QN_TRY(one_pattern(body, s, pattern->items[i], is_json, e));
    else
        QN_TRY(one_pattern(body, s, pattern, is_json, e));
    if (qn_json_is(format, QN_JSON_STRING)) {
        size_t i = 0;
        while (i < QN_COUNT(formats) && strcmp(formats[i].name, format->text)) i++;
        if (i == QN_COUNT(formats)) {
            QN_TRY(refuse(s, "format", format->text, e));
        } else {
            qn_term term;
            QN_TRY(qn_regex_term(&term, s->t, formats[i].pattern, strlen(formats[i].pattern), true, is_json,
                                 "format", e));
            *body = qn_term_and(s->t, *body, term, *body != QN_TERM_ANY);
        }
    }
out:
    return rc;
}

static int string_term(qn_term *out, struct qn_schema *s, const struct qn_json *schema, struct qn_err *e)
{
    qn_term body, quote = qn_term_str(s->t, "\"");
    int rc = string_body(&body, s, schema, true, e);
    if (!rc) *out = body == QN_TERM_ANY ? any_string(s) : qn_term_seq3(s->t, quote, body, quote);
    return rc;
}

static int number_term(qn_term *out, struct qn_schema *s, const struct qn_json *schema, bool whole,
                       struct qn_err *e)
{
    const struct qn_json *lo = qn_json_get(schema, "minimum"), *hi = qn_json_get(schema, "maximum");
    const struct qn_json *above = qn_json_get(schema, "exclusiveMinimum"),
                         *below = qn_json_get(schema, "exclusiveMaximum");
    struct qn_decimal_bounds b = {.lo = qn_json_is_number(lo) ? lo : NULL,
                                  .hi = qn_json_is_number(hi) ? hi : NULL};
    b.lo_open = qn_json_is(above, QN_JSON_BOOL) && above->truth; /* the draft 4 form */
    b.hi_open = qn_json_is(below, QN_JSON_BOOL) && below->truth;
    if (qn_json_is_number(above) && (!b.lo || qn_json_num(above) >= qn_json_num(b.lo)))
        b.lo = above, b.lo_open = true;
    if (qn_json_is_number(below) && (!b.hi || qn_json_num(below) <= qn_json_num(b.hi)))
        b.hi = below, b.hi_open = true;
    if (!b.lo && !b.hi) {
        *out = any_number(s, whole);
        return QN_OK;
    }
    return qn_decimal_term(out, s->t, &b, whole, e);
}

/* --- arrays and objects --- */

static int compile(qn_term *out, struct qn_schema *s, const struct qn_json *schema, struct qn_err *e);

static int array_term(qn_term *out, struct qn_schema *s, const struct qn_json *schema, struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_terms *t = s->t;
    uint32_t min, max;
    const struct qn_json *prefix = qn_json_get(schema, "prefixItems"), *items = qn_json_get(schema, "items");
    if (qn_json_is(items, QN_JSON_ARRAY)) { /* the older form of a tuple */
        prefix = items;
        items = qn_json_get(schema, "additionalItems");
    }
    size_t n_prefix = qn_json_is(prefix, QN_JSON_ARRAY) ? prefix->n : 0;
    qn_term *each = xcalloc(n_prefix + 1, sizeof *each), rest;
    QN_TRY(count_of(schema, "minItems", 0, &min, s, e));
    QN_TRY(count_of(schema, "maxItems", QN_TERM_MANY, &max, s, e));
    for (size_t i = 0; i < n_prefix; i++) QN_TRY(compile(&each[i], s, prefix->items[i], e));
    if (items || !n_prefix)
        QN_TRY(compile(&rest, s, items, e));
    else
        rest = QN_TERM_EMPTY; /* a tuple that says nothing more is not continued */
    *out = QN_TERM_EMPTY;
    if (min > max) goto out;
    qn_term end = qn_term_seq(t, gap(s), qn_term_str(t, "]")),
            comma = qn_term_seq(t, qn_term_str(t, ","), gap(s));
    size_t n = n_prefix < max ? n_prefix : max;
    /* from the right: `tail` is what follows when i elements are written */
    size_t i = n ? n : 1;
    uint32_t least = min > i ? min - (uint32_t)i : 0, most = max == QN_TERM_MANY ? max
                                                             : max > i           ? max - (uint32_t)i
                                                                                 : 0;
    qn_term more = rest == QN_TERM_EMPTY ? (least ? QN_TERM_EMPTY : QN_TERM_EPS)
                                         : qn_term_repeat(t, qn_term_seq(t, comma, rest), least, most);
    qn_term tail = qn_term_seq(t, more, end);
    for (; i > 1; i--) {
        tail = qn_term_seq3(t, comma, each[i - 1], tail);
        if (i - 1 >= min) tail = qn_term_alt(t, tail, end);
    }
    qn_term body = max ? qn_term_seq(t, n ? each[0] : rest, tail) : QN_TERM_EMPTY;
    if (!min) body = qn_term_alt(t, body, qn_term_str(t, "]"));
    *out = qn_term_seq3(t, qn_term_str(t, "["), gap(s), body);
out:
    free(each);
    return rc;
}

static bool is_required(const struct qn_json *schema, const char *key)
{
    const struct qn_json *list = qn_json_get(schema, "required");
    for (size_t i = 0; qn_json_is(list, QN_JSON_ARRAY) && i < list->n; i++)
        if (qn_json_is_str(list->items[i], key)) return true;
    return false;
}

static qn_term key_term(struct qn_schema *s, const char *key, size_t n)
{
    struct qn_buf text = QN_BUF_INIT(QN_SCHEMA_MAX_BYTES);
    qn_json_write_str(&text, key, n, false);
    qn_term out = qn_term_seq(s->t, qn_term_lit(s->t, qn_buf_str(&text), text.n_byte), colon(s));
    qn_buf_free(&text);
    return out;
}

static int object_term(qn_term *out, struct qn_schema *s, const struct qn_json *schema, struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_terms *t = s->t;
    const struct qn_json *properties = qn_json_get(schema, "properties"),
                         *required = qn_json_get(schema, "required");
    const struct qn_json *more = qn_json_get(schema, "additionalProperties");
    size_t n = qn_json_is(properties, QN_JSON_OBJECT) ? properties->n : 0, m = 0;
    size_t n_required = qn_json_is(required, QN_JSON_ARRAY) ? required->n : 0;
    struct qn_term_member *members = xcalloc(n + n_required + 1, sizeof *members);
    qn_term value = QN_TERM_EMPTY, *names = xcalloc(n + n_required + 1, sizeof *names);
    bool is_closed = closes(schema) || (n && !more); /* what is listed is meant to be all */
    if (!n && !n_required && !more) {
        *out = qn_schema_any_object(s);
        goto out;
    }
    if (!closes(schema)) QN_TRY(compile(&value, s, qn_json_is(more, QN_JSON_OBJECT) ? more : NULL, e));
    for (size_t i = 0; i < n + n_required; i++) {
        const char *key = i < n ? properties->keys[i].text : NULL;
        size_t n_key = i < n ? properties->keys[i].n : 0;
        struct qn_term_member *member = &members[m];
        if (!key) { /* required, but not described */
            const struct qn_json *name = required->items[i - n];
            if (!qn_json_is(name, QN_JSON_STRING) || (n && qn_json_get(properties, name->text))) continue;
            QN_FAIL_IF(closes(schema), e, QN_INVAL,
                       "%s: '%.60s' is required but additionalProperties forbids it", s->where, name->text);
            key = name->text;
            n_key = name->n;
            member->value = value;
        } else {
            QN_TRY(compile(&member->value, s, properties->items[i], e));
        }
        member->key = key_term(s, key, n_key);
        member->is_required = is_required(schema, key);
        QN_FAIL_IF(member->is_required && member->value == QN_TERM_EMPTY, e, QN_INVAL,
                   "%s: nothing can satisfy the required property '%.60s'", s->where, key);
        if (member->value == QN_TERM_EMPTY) continue;
        names[m++] = member->key;
    }
    struct qn_term_object object = {.members = members,
                                    .n_member = (int)m,
                                    .is_ordered = s->strict,
                                    .separator = qn_term_seq(t, qn_term_str(t, ","), gap(s)),
                                    .end = qn_term_seq(t, gap(s), qn_term_str(t, "}"))};
    if (!is_closed && value != QN_TERM_EMPTY) {
        /* a further name: no escapes, so that it cannot spell a listed one */
        uint64_t plain[4] = {~(uint64_t)0 << 32, ~(uint64_t)0, ~(uint64_t)0, ~(uint64_t)0};
        plain[0] &= ~((uint64_t)1 << '"');
        plain[1] &= ~((uint64_t)1 << ('\\' - 64));
        qn_term name =
            qn_term_seq3(t, qn_term_str(t, "\""), qn_term_repeat(t, qn_term_class(t, plain), 0, 64),
                         qn_term_seq(t, qn_term_str(t, "\""), colon(s)));
        name = qn_term_and(t, name, qn_term_not(t, qn_term_alts(t, names, m)), true);
        object.more = qn_term_seq(t, name, value);
    }
    *out = qn_term_seq3(t, qn_term_str(t, "{"), gap(s), qn_term_object(t, &object));
out:
    free(members);
    free(names);
    return rc;
}

/* --- values --- */

/* The bounds an enumerated value must still keep. */
static bool keeps_bounds(const struct qn_json *schema, const struct qn_json *v)
{
    static const char *const names[] = {"null", "boolean", "integer", "number", "string", "array", "object"};
    const struct qn_json *type = qn_json_get(schema, "type"), *x;
    if (type) {
        bool is_ok = has_type(type, names[v->type]);
        if (v->type == QN_JSON_INT) is_ok = is_ok || has_type(type, "number");
        if (!is_ok) return false;
    }
    if (qn_json_is_number(v)) {
        double d = qn_json_num(v);
        if (qn_json_is_number(x = qn_json_get(schema, "minimum")) && d < qn_json_num(x)) return false;
        if (qn_json_is_number(x = qn_json_get(schema, "maximum")) && d > qn_json_num(x)) return false;
        if (qn_json_is_number(x = qn_json_get(schema, "exclusiveMinimum")) && d <= qn_json_num(x))
            return false;
        if (qn_json_is_number(x = qn_json_get(schema, "exclusiveMaximum")) && d >= qn_json_num(x))
            return false;
    }
    if (v->type == QN_JSON_STRING) {
        size_t n = 0;
        for (size_t i = 0; i < v->n; i++) n += (v->text[i] & 0xc0) != 0x80;
        if (qn_json_is_number(x = qn_json_get(schema, "minLength")) && (double)n < qn_json_num(x))
            return false;
        if (qn_json_is_number(x = qn_json_get(schema, "maxLength")) && (double)n > qn_json_num(x))
            return false;
    }
    return true;
}

static qn_term value_literal(struct qn_schema *s, const struct qn_json *v, bool is_raw)
{
    struct qn_buf text = QN_BUF_INIT(QN_SCHEMA_MAX_BYTES);
    if (is_raw && v->type == QN_JSON_STRING)
        qn_buf_append(&text, v->text, v->n);
    else
        qn_json_write(&text, v, QN_JSON_EXACT);
    qn_term out = qn_term_lit(s->t, qn_buf_str(&text), text.n_byte);
    qn_buf_free(&text);
    return out;
}

static qn_term enum_term(struct qn_schema *s, const struct qn_json *schema, const struct qn_json *list,
                         bool is_raw)
{
    qn_term *each = xcalloc(list->n + 1, sizeof *each);
    size_t n = 0;
    for (size_t i = 0; i < list->n; i++)
        if (keeps_bounds(schema, list->items[i])) each[n++] = value_literal(s, list->items[i], is_raw);
    qn_term out = qn_term_alts(s->t, each, n);
    free(each);
    return out;
}

static const char *const object_words[] = {"properties", "required", "additionalProperties"};
static const char *const array_words[] = {"items", "prefixItems", "minItems", "maxItems"};
static const char *const string_words[] = {"pattern", "minLength", "maxLength", "format"};
static const char *const number_words[] = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"};

static bool has_any(const struct qn_json *schema, const char *const *words, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (qn_json_get(schema, words[i])) return true;
    return false;
}

/* One schema without references and combinations. */
static int plain_term(qn_term *out, struct qn_schema *s, const struct qn_json *schema, struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_terms *t = s->t;
    const struct qn_json *type = qn_json_get(schema, "type"), *list = qn_json_get(schema, "enum");
    qn_term part, all = QN_TERM_EMPTY;
    bool is_object = has_type(type, "object"), is_array = has_type(type, "array"),
         is_string = has_type(type, "string");
    bool is_number = has_type(type, "number"), is_integer = has_type(type, "integer");
    QN_TRY(check_keywords(s, schema, e));
    if (qn_json_is(list, QN_JSON_ARRAY)) {
        *out = enum_term(s, schema, list, false);
        goto out;
    }
    if (!type) {
        /* keywords of one kind of value mean that kind */
        is_object = has_any(schema, object_words, QN_COUNT(object_words));
        is_array = has_any(schema, array_words, QN_COUNT(array_words));
        is_string = has_any(schema, string_words, QN_COUNT(string_words));
        is_number = has_any(schema, number_words, QN_COUNT(number_words));
        if (!is_object && !is_array && !is_string && !is_number) {
            *out = any_value(s);
            goto out;
        }
    }
    if (is_object) {
        QN_TRY(object_term(&part, s, schema, e));
        all = qn_term_alt(t, all, part);
    }
    if (is_array) {
        QN_TRY(array_term(&part, s, schema, e));
        all = qn_term_alt(t, all, part);
    }
    if (is_string) {
        QN_TRY(string_term(&part, s, schema, e));
        all = qn_term_alt(t, all, part);
    }
    if (is_number || is_integer) {
        QN_TRY(number_term(&part, s, schema, !is_number, e));
        all = qn_term_alt(t, all, part);
    }
    if (has_type(type, "boolean"))
        all = qn_term_alt(t, all, qn_term_alt(t, qn_term_str(t, "true"), qn_term_str(t, "false")));
    const struct qn_json *nullable = qn_json_get(schema, "nullable");
    if (has_type(type, "null") || (qn_json_is(nullable, QN_JSON_BOOL) && nullable->truth))
        all = qn_term_alt(t, all, qn_term_str(t, "null"));
    QN_FAIL_IF(type && all == QN_TERM_EMPTY && !qn_json_is(type, QN_JSON_ARRAY), e, QN_INVAL,
               "%s: nothing can satisfy type '%.40s'", s->where,
               qn_json_is(type, QN_JSON_STRING) ? type->text : "?");
    *out = all;
out:
    return rc;
}

static struct qn_json *without(struct qn_schema *s, const struct qn_json *schema, const char *key)
{
    struct qn_json *v = qn_json_new(s->arena, QN_JSON_OBJECT);
    for (size_t i = 0; v && i < schema->n; i++)
        if (strcmp(schema->keys[i].text, key) &&
            !qn_json_set(s->arena, v, schema->keys[i].text, schema->items[i]))
            return NULL;
    return v;
}

/* Nothing but a reference (and words about it). */
static bool is_plain_ref(const struct qn_json *schema)
{
    if (!qn_json_is(qn_json_get(schema, "$ref"), QN_JSON_STRING)) return false;
    for (size_t i = 0; i < schema->n; i++)
        if (strcmp(schema->keys[i].text, "$ref") && !is_annotation(schema->keys[i].text)) return false;
    return true;
}

static int combined(qn_term *out, struct qn_schema *s, const struct qn_json *schema, struct qn_err *e)
{
    int rc = QN_OK;
    const struct qn_json *any = qn_json_get(schema, "anyOf");
    if (!any) any = qn_json_get(schema, "oneOf");
    bool has_rest = false, is_simple = !qn_json_get(schema, "allOf") && !qn_json_get(schema, "$ref");
    for (size_t i = 0; i < schema->n; i++)
        has_rest |= !is_annotation(schema->keys[i].text) && schema->items[i] != any;
    struct qn_json *flat = NULL;
    qn_term *each = NULL;
    if (!is_simple || has_rest) {
        /* allOf with a single member and nothing else is that member */
        const struct qn_json *all = qn_json_get(schema, "allOf");
        size_t n_word = 0;
        for (size_t i = 0; i < schema->n; i++) n_word += !is_annotation(schema->keys[i].text);
        if (n_word == 1 && qn_json_is(all, QN_JSON_ARRAY) && all->n == 1) {
            QN_TRY(compile(out, s, all->items[0], e));
            goto out;
        }
        QN_TRY(normal(&flat, s, schema, e));
        any = qn_json_get(flat, "anyOf");
        if (!any) {
            QN_TRY(plain_term(out, s, flat, e));
            goto out;
        }
        flat = without(s, flat, "anyOf");
        if (!flat) {
            rc = out_of_memory(s, e);
            goto out;
        }
        if (!flat->n) flat = NULL;
    }
    QN_FAIL_IF(!qn_json_is(any, QN_JSON_ARRAY), e, QN_INVAL, "%s: anyOf must be an array", s->where);
    each = xcalloc(any->n + 1, sizeof *each);
    for (size_t i = 0; i < any->n; i++) {
        const struct qn_json *member = any->items[i];
        struct qn_json *merged;
        if (flat) {
            QN_TRY(merge(&merged, s, flat, member, e));
            member = merged;
        }
        QN_TRY(compile(&each[i], s, member, e));
    }
    const struct qn_json *nullable = qn_json_get(schema, "nullable");
    if (qn_json_is(nullable, QN_JSON_BOOL) && nullable->truth) each[any->n] = qn_term_str(s->t, "null");
    *out = qn_term_alts(s->t, each, any->n + 1);
out:
    free(each);
    return rc;
}

static int compile(qn_term *out, struct qn_schema *s, const struct qn_json *schema, struct qn_err *e)
{
    int rc = QN_OK;
    *out = QN_TERM_EMPTY;
    s->depth++;
    QN_FAIL_IF(s->depth > QN_GRAMMAR_MAX_DEPTH, e, QN_TOOBIG, "%s: the schema nests deeper than %d", s->where,
               QN_GRAMMAR_MAX_DEPTH);
    QN_FAIL_IF(s->n_node++ > QN_SCHEMA_MAX_NODES, e, QN_TOOBIG, "%s: the schema has more than %d parts",
               s->where, QN_SCHEMA_MAX_NODES);
    QN_FAIL_IF(qn_terms_failed(s->t), e, QN_TOOBIG, "%s: the schema needs too many terms", s->where);
    if (!schema || (qn_json_is(schema, QN_JSON_BOOL) && schema->truth)) {
        *out = any_value(s);
        goto out;
    }
    if (qn_json_is(schema, QN_JSON_BOOL)) goto out;
    QN_FAIL_IF(schema->type != QN_JSON_OBJECT, e, QN_INVAL, "%s: a schema must be an object or a boolean",
               s->where);
    if (is_plain_ref(schema)) {
        const struct qn_json *target = qn_argtype_deref(s->root, schema);
        QN_FAIL_IF(!target, e, QN_INVAL, "%s: $ref '%.80s' leads nowhere inside the schema", s->where,
                   qn_json_get(schema, "$ref")->text);
        uint64_t key = (uint64_t)(uintptr_t)target, rule;
        if (!qn_map_get(&s->rules, key, &rule)) {
            qn_term body;
            rule = qn_term_rule_new(s->t);
            qn_map_put(&s->rules, key, rule);
            QN_TRY(compile(&body, s, target, e));
            qn_term_rule_set(s->t, (qn_term)rule, body);
        }
        *out = (qn_term)rule;
        goto out;
    }
    if (qn_json_get(schema, "anyOf") || qn_json_get(schema, "oneOf") || qn_json_get(schema, "allOf") ||
        qn_json_get(schema, "$ref"))
        QN_TRY(combined(out, s, schema, e));
    else if (qn_json_get(schema, "const"))
        *out = keeps_bounds(schema, qn_json_get(schema, "const"))
                   ? value_literal(s, qn_json_get(schema, "const"), false)
                   : QN_TERM_EMPTY;
    else
        QN_TRY(plain_term(out, s, schema, e));
out:
    s->depth--;
    return rc;
}

int qn_schema_term(qn_term *out, struct qn_schema *s, const struct qn_json *schema, struct qn_err *e)
{
    return compile(out, s, schema, e);
}

/* --- arguments --- */

/* Bare strings the parser would read as another type of the set. */
static int other_types(qn_term *out, struct qn_schema *s, unsigned set, struct qn_err *e)
{
    int rc = QN_OK;
    static const struct {
        unsigned bits;
        const char *pattern;
    } looks[] = {
        {QN_ARG_OBJECT, "\\s*\\{[\\s\\S]*"},
        {QN_ARG_ARRAY, "\\s*[\\[(][\\s\\S]*"},
        {QN_ARG_NULL, "\\s*([nN][uU][lL][lL]|[nN][oO][nN][eE])\\s*"},
        {QN_ARG_BOOLEAN, "\\s*([tT][rR][uU][eE]|[fF][aA][lL][sS][eE])\\s*"},
        {QN_ARG_INTEGER | QN_ARG_NUMBER, "\\s*[+-]?[0-9.][0-9.eE+-]*\\s*"},
    };
    *out = QN_TERM_EMPTY;
    for (size_t i = 0; i < QN_COUNT(looks); i++) {
        qn_term one;
        if (!(set & looks[i].bits)) continue;
        QN_TRY(qn_regex_term(&one, s->t, looks[i].pattern, strlen(looks[i].pattern), true, false, "type", e));
        *out = qn_term_alt(s->t, *out, one);
    }
out:
    return rc;
}

int qn_schema_argument(qn_term *out, bool *is_tagged, bool *is_bare, struct qn_schema *s,
                       const struct qn_json *schema, struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_json *flat;
    *out = QN_TERM_EMPTY;
    *is_tagged = *is_bare = false;
    if (!qn_json_is(schema, QN_JSON_OBJECT)) goto out;
    /* the types the parser will see */
    struct qn_json *holder = qn_json_new(s->arena, QN_JSON_OBJECT),
                   *inner = qn_json_new(s->arena, QN_JSON_OBJECT);
    struct qn_argtype type;
    if (!holder || !inner || !qn_json_set(s->arena, inner, "p", (struct qn_json *)schema) ||
        !qn_json_set(s->arena, holder, "properties", inner)) {
        rc = out_of_memory(s, e);
        goto out;
    }
    for (int i = 0; i < 2; i++) {
        static const char *const defs[] = {"$defs", "definitions"};
        struct qn_json *d = qn_json_get(s->root, defs[i]);
        if (d) qn_json_set(s->arena, holder, defs[i], d);
    }
    qn_argtype_find(&type, holder, "p", 1);
    if (!(type.set & QN_ARG_STRING) && type.set) {
        *is_tagged = type.set & (QN_ARG_OBJECT | QN_ARG_ARRAY);
        QN_TRY(compile(out, s, schema, e));
        /* a value that nothing satisfies is left to the client's validator */
        goto out;
    }
    QN_TRY(normal(&flat, s, schema, e));
    const struct qn_json *list = qn_json_get(flat, "enum"), *any = qn_json_get(flat, "anyOf");
    *is_tagged = *is_bare = true;
    if (qn_json_is(list, QN_JSON_ARRAY)) {
        *out = enum_term(s, flat, list, true);
    } else if (qn_json_is(any, QN_JSON_ARRAY)) {
        qn_term all = QN_TERM_EMPTY;
        for (size_t i = 0; i < any->n; i++) {
            qn_term one;
            bool tagged, bare;
            QN_TRY(qn_schema_argument(&one, &tagged, &bare, s, any->items[i], e));
            if (one == QN_TERM_EMPTY) goto out; /* some member is free text: so is the whole */
            if (bare) {
                qn_term other;
                QN_TRY(other_types(&other, s, type.set, e));
                one = qn_term_and(s->t, one, qn_term_not(s->t, other), true);
            }
            all = qn_term_alt(s->t, all, one);
            *is_bare = *is_bare && (bare || !tagged);
        }
        *out = all;
    } else if (!(type.set & ~(unsigned)QN_ARG_STRING)) {
        qn_term body;
        QN_TRY(string_body(&body, s, flat, false, e));
        if (body != QN_TERM_ANY) *out = body;
        QN_TRY(check_keywords(s, flat, e));
    }
out:
    return rc;
}
