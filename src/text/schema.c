/* JSON Schema as terms.
 * SPDX-License-Identifier: Apache-2.0 */
#include "text/schema_impl.h"

#include "text/decimal.h"
#include "text/multiple.h"

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

/* --- keywords --- */

static const char *const annotations[] = {
    "title",       "description",     "default",          "examples",         "example",       "$schema",
    "$id",         "$comment",        "deprecated",       "readOnly",         "writeOnly",     "$defs",
    "definitions", "contentEncoding", "contentMediaType", "contentSchema",    "$anchor",       "id",
    "strict",      "x-order",         "nullable",         "propertyOrdering", "discriminator",
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
    "multipleOf",
    "uniqueItems",
    "propertyNames",
    "patternProperties",
    "minProperties",
    "maxProperties",
};

bool sc_in_list(const char *key, const char *const *list, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!strcmp(key, list[i])) return true;
    return false;
}

bool sc_is_annotation(const char *key)
{
    return sc_in_list(key, annotations, QN_COUNT(annotations));
}

int sc_refuse(struct qn_schema *s, const char *keyword, const char *value, struct qn_err *e)
{
    int rc = QN_OK;
    QN_FAIL_IF(s->strict, e, QN_INVAL,
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

int sc_check_keywords(struct qn_schema *s, const struct qn_json *schema, struct qn_err *e)
{
    int rc = QN_OK;
    for (size_t i = 0; i < schema->n; i++) {
        const char *key = schema->keys[i].text;
        if (sc_is_annotation(key) || sc_in_list(key, supported, QN_COUNT(supported))) continue;
        /* no more is generated than is listed */
        if (!strcmp(key, "unevaluatedProperties") || !strncmp(key, "x-", 2)) continue;
        QN_TRY(sc_refuse(s, key, NULL, e));
    }
out:
    return rc;
}

static int number_term(qn_term *out, struct qn_schema *s, const struct qn_json *schema, bool whole,
                       struct qn_err *e)
{
    int rc = QN_OK;
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
    const struct qn_json *of = qn_json_get(schema, "multipleOf");
    qn_term multiple;
    struct qn_err why = {0};
    *out = sc_any_number(s, whole);
    if (b.lo || b.hi) QN_TRY(qn_decimal_term(out, s->t, &b, whole, e));
    for (size_t i = 0; i < sc_n_of(of); i++) {
        rc = qn_multiple_term(&multiple, s->t, sc_nth(of, i), whole, &why);
        if (rc == QN_UNSUPPORTED) {
            QN_TRY(sc_refuse(s, "multipleOf", why.text, e));
            continue;
        }
        QN_FAIL_IF(rc, e, rc, "%s: %s", s->where, why.text);
        *out = qn_term_and(s->t, *out, multiple, true);
    }
out:
    return rc;
}

static const char *const object_words[] = {"properties",    "required",          "additionalProperties",
                                           "propertyNames", "patternProperties", "minProperties",
                                           "maxProperties"};
static const char *const array_words[] = {"items", "prefixItems", "minItems", "maxItems", "uniqueItems"};
static const char *const string_words[] = {"pattern", "minLength", "maxLength", "format"};
static const char *const number_words[] = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum",
                                           "multipleOf"};

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
    bool is_object = sc_has_type(type, "object"), is_array = sc_has_type(type, "array"),
         is_string = sc_has_type(type, "string");
    bool is_number = sc_has_type(type, "number"), is_integer = sc_has_type(type, "integer");
    QN_TRY(sc_check_keywords(s, schema, e));
    if (qn_json_is(list, QN_JSON_ARRAY)) {
        *out = sc_enum_term(s, schema, list, false);
        goto out;
    }
    if (!type) {
        /* keywords of one kind of value mean that kind */
        is_object = has_any(schema, object_words, QN_COUNT(object_words));
        is_array = has_any(schema, array_words, QN_COUNT(array_words));
        is_string = has_any(schema, string_words, QN_COUNT(string_words));
        is_number = has_any(schema, number_words, QN_COUNT(number_words));
        if (!is_object && !is_array && !is_string && !is_number) {
            *out = sc_any_value(s);
            goto out;
        }
    }
    if (is_object) {
        QN_TRY(sc_object_term(&part, s, schema, e));
        all = qn_term_alt(t, all, part);
    }
    if (is_array) {
        QN_TRY(sc_array_term(&part, s, schema, e));
        all = qn_term_alt(t, all, part);
    }
    if (is_string) {
        QN_TRY(sc_string_term(&part, s, schema, e));
        all = qn_term_alt(t, all, part);
    }
    if (is_number || is_integer) {
        QN_TRY(number_term(&part, s, schema, !is_number, e));
        all = qn_term_alt(t, all, part);
    }
    if (sc_has_type(type, "boolean"))
        all = qn_term_alt(t, all, qn_term_alt(t, qn_term_str(t, "true"), qn_term_str(t, "false")));
    const struct qn_json *nullable = qn_json_get(schema, "nullable");
    if (sc_has_type(type, "null") || (qn_json_is(nullable, QN_JSON_BOOL) && nullable->truth))
        all = qn_term_alt(t, all, qn_term_str(t, "null"));
    QN_TRY(qn_terms_check(t, e));
    QN_FAIL_IF(type && all == QN_TERM_EMPTY && !qn_json_is(type, QN_JSON_ARRAY), e, QN_INVAL,
               "%s: nothing can satisfy type '%.40s'", s->where,
               qn_json_is(type, QN_JSON_STRING) ? type->text : "?");
    *out = all;
out:
    return rc;
}

/* Nothing but a reference (and words about it). */
static bool is_plain_ref(const struct qn_json *schema)
{
    if (!qn_json_is(qn_json_get(schema, "$ref"), QN_JSON_STRING)) return false;
    for (size_t i = 0; i < schema->n; i++)
        if (strcmp(schema->keys[i].text, "$ref") && !sc_is_annotation(schema->keys[i].text)) return false;
    return true;
}

static int combined(qn_term *out, struct qn_schema *s, const struct qn_json *schema, struct qn_err *e)
{
    int rc = QN_OK;
    const struct qn_json *any = qn_json_get(schema, "anyOf");
    if (!any) any = qn_json_get(schema, "oneOf");
    bool has_rest = false, is_simple = !qn_json_get(schema, "allOf") && !qn_json_get(schema, "$ref");
    for (size_t i = 0; i < schema->n; i++)
        has_rest |= !sc_is_annotation(schema->keys[i].text) && schema->items[i] != any;
    struct qn_json *flat = NULL;
    qn_term *each = NULL;
    if (!is_simple || has_rest) {
        /* allOf with a single member and nothing else is that member */
        const struct qn_json *all = qn_json_get(schema, "allOf");
        size_t n_word = 0;
        for (size_t i = 0; i < schema->n; i++) n_word += !sc_is_annotation(schema->keys[i].text);
        if (n_word == 1 && qn_json_is(all, QN_JSON_ARRAY) && all->n == 1) {
            QN_TRY(sc_compile(out, s, all->items[0], e));
            goto out;
        }
        QN_TRY(sc_normal(&flat, s, schema, e));
        any = qn_json_get(flat, "anyOf");
        if (!any) {
            QN_TRY(plain_term(out, s, flat, e));
            goto out;
        }
        flat = sc_without(s, flat, "anyOf");
        if (!flat) {
            rc = sc_out_of_memory(s, e);
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
            QN_TRY(sc_merge(&merged, s, flat, member, e));
            member = merged;
        }
        QN_TRY(sc_compile(&each[i], s, member, e));
    }
    const struct qn_json *nullable = qn_json_get(schema, "nullable");
    if (qn_json_is(nullable, QN_JSON_BOOL) && nullable->truth) each[any->n] = qn_term_str(s->t, "null");
    *out = qn_term_alts(s->t, each, any->n + 1);
out:
    free(each);
    return rc;
}

int sc_compile(qn_term *out, struct qn_schema *s, const struct qn_json *schema, struct qn_err *e)
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
        *out = sc_any_value(s);
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
            QN_TRY(sc_compile(&body, s, target, e));
            qn_term_rule_set(s->t, (qn_term)rule, body);
        }
        *out = (qn_term)rule;
        goto out;
    }
    if (qn_json_get(schema, "anyOf") || qn_json_get(schema, "oneOf") || qn_json_get(schema, "allOf") ||
        qn_json_get(schema, "$ref"))
        QN_TRY(combined(out, s, schema, e));
    else if (qn_json_get(schema, "const"))
        *out = sc_accepts(s, schema, qn_json_get(schema, "const"))
                   ? sc_value_term(s, qn_json_get(schema, "const"), false)
                   : QN_TERM_EMPTY;
    else
        QN_TRY(plain_term(out, s, schema, e));
out:
    s->depth--;
    return rc;
}

int qn_schema_term(qn_term *out, struct qn_schema *s, const struct qn_json *schema, struct qn_err *e)
{
    return sc_compile(out, s, schema, e);
}
