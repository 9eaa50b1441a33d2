/* Does a value satisfy a schema? For values that a schema lists (enum, const), which must also keep what
 * stands beside them. SPDX-License-Identifier: Apache-2.0 */
#include "text/multiple.h"
#include "text/regex.h"
#include "text/schema_impl.h"

#define CHECK_TERMS (1u << 16)

static bool accepts(struct qn_schema *s, const struct qn_json *schema, const struct qn_json *v, int depth);

/* The terms are sealed. */
static bool is_in(qn_term term, struct qn_terms *t, const char *text, size_t n)
{
    for (size_t i = 0; i < n && term != QN_TERM_EMPTY; i++)
        term = qn_term_next(t, term, (unsigned char)text[i]);
    return term != QN_TERM_EMPTY && qn_term_nullable(t, term);
}

bool sc_matches(const char *pattern, const char *text, size_t n)
{
    struct qn_terms *t = qn_terms_create(CHECK_TERMS);
    qn_term term;
    bool is_ok = !qn_regex_term(&term, t, pattern, strlen(pattern), false, false, "pattern", NULL) &&
                 !qn_terms_seal(t, NULL) && is_in(term, t, text, n);
    qn_terms_free(t);
    return is_ok;
}

struct sc_strings {
    struct qn_terms *t;
    qn_term body; /* ANY: every string */
};

/* A schema's strings as an automaton of its own. */
struct sc_strings *sc_strings_open(struct qn_schema *s, const struct qn_json *schema)
{
    struct sc_strings *out = xcalloc(1, sizeof *out);
    struct qn_schema own = *s;
    out->t = own.t = qn_terms_create(CHECK_TERMS);
    own.strict = false;
    own.report = NULL;
    own.reported = (struct qn_map){0};
    out->body = QN_TERM_ANY;
    if (sc_string_body(&out->body, &own, schema, false, NULL) || qn_terms_seal(out->t, NULL))
        out->body = QN_TERM_ANY;
    qn_map_free(&own.reported);
    return out;
}

void sc_strings_close(struct sc_strings *strings)
{
    if (!strings) return;
    qn_terms_free(strings->t);
    free(strings);
}

static bool is_below(const struct qn_json *limit, double x)
{
    return qn_json_is_number(limit) && x < qn_json_num(limit);
}

static bool is_above(const struct qn_json *limit, double x)
{
    return qn_json_is_number(limit) && x > qn_json_num(limit);
}

static bool is_truth(const struct qn_json *v)
{
    return qn_json_is(v, QN_JSON_BOOL) && v->truth;
}

static bool accepts_number(const struct qn_json *schema, const struct qn_json *v)
{
    const struct qn_json *lo = qn_json_get(schema, "minimum"), *hi = qn_json_get(schema, "maximum"),
                         *above = qn_json_get(schema, "exclusiveMinimum"),
                         *below = qn_json_get(schema, "exclusiveMaximum"),
                         *of = qn_json_get(schema, "multipleOf");
    double d = qn_json_num(v);
    if (is_below(lo, d) || is_above(hi, d)) return false;
    if (qn_json_is_number(above) && d <= qn_json_num(above)) return false;
    if (qn_json_is_number(below) && d >= qn_json_num(below)) return false;
    if (is_truth(above) && qn_json_is_number(lo) && d == qn_json_num(lo)) return false;
    if (is_truth(below) && qn_json_is_number(hi) && d == qn_json_num(hi)) return false;
    for (size_t i = 0; i < sc_n_of(of); i++)
        if (!qn_multiple_of(v, sc_nth(of, i))) return false;
    return true;
}

static bool accepts_string(struct qn_schema *s, const struct qn_json *schema, const struct qn_json *v)
{
    static const char *const words[] = {"pattern", "format", "minLength", "maxLength"};
    bool is_any = true;
    for (size_t i = 0; i < QN_COUNT(words); i++) is_any &= !qn_json_get(schema, words[i]);
    if (is_any) return true;
    struct sc_strings *strings = sc_strings_open(s, schema);
    bool is_ok = is_in(strings->body, strings->t, v->text, v->n);
    sc_strings_close(strings);
    return is_ok;
}

static bool accepts_array(struct qn_schema *s, const struct qn_json *schema, const struct qn_json *v,
                          int depth)
{
    const struct qn_json *prefix = qn_json_get(schema, "prefixItems"), *items = qn_json_get(schema, "items");
    if (is_below(qn_json_get(schema, "minItems"), (double)v->n) ||
        is_above(qn_json_get(schema, "maxItems"), (double)v->n))
        return false;
    if (qn_json_is(items, QN_JSON_ARRAY)) {
        prefix = items;
        items = qn_json_get(schema, "additionalItems");
    }
    size_t n_prefix = qn_json_is(prefix, QN_JSON_ARRAY) ? prefix->n : 0;
    for (size_t i = 0; i < v->n; i++) {
        const struct qn_json *each = i < n_prefix ? prefix->items[i] : items;
        if (each && !accepts(s, each, v->items[i], depth + 1)) return false;
        for (size_t k = 0; is_truth(qn_json_get(schema, "uniqueItems")) && k < i; k++)
            if (qn_json_equal(v->items[i], v->items[k])) return false;
    }
    return true;
}

static bool accepts_object(struct qn_schema *s, const struct qn_json *schema, const struct qn_json *v,
                           int depth)
{
    const struct qn_json *properties = qn_json_get(schema, "properties"),
                         *required = qn_json_get(schema, "required"),
                         *more = qn_json_get(schema, "additionalProperties"),
                         *names = qn_json_get(schema, "propertyNames"),
                         *patterns = qn_json_get(schema, "patternProperties");
    if (is_below(qn_json_get(schema, "minProperties"), (double)v->n) ||
        is_above(qn_json_get(schema, "maxProperties"), (double)v->n))
        return false;
    for (size_t i = 0; qn_json_is(required, QN_JSON_ARRAY) && i < required->n; i++)
        if (qn_json_is(required->items[i], QN_JSON_STRING) && !qn_json_get(v, required->items[i]->text))
            return false;
    for (size_t i = 0; i < v->n; i++) {
        const struct qn_json *of = qn_json_get(properties, v->keys[i].text);
        bool is_listed = of != NULL;
        if (of && !accepts(s, of, v->items[i], depth + 1)) return false;
        for (size_t k = 0; qn_json_is(patterns, QN_JSON_OBJECT) && k < patterns->n; k++) {
            if (!sc_matches(patterns->keys[k].text, v->keys[i].text, v->keys[i].n)) continue;
            is_listed = true;
            if (!accepts(s, patterns->items[k], v->items[i], depth + 1)) return false;
        }
        if (!is_listed && more && !accepts(s, more, v->items[i], depth + 1)) return false;
        struct qn_json name = {.type = QN_JSON_STRING, .text = v->keys[i].text, .n = v->keys[i].n};
        if (names && !accepts(s, names, &name, depth + 1)) return false;
    }
    return true;
}

static bool accepts_type(const struct qn_json *schema, const struct qn_json *v)
{
    static const char *const names[] = {"null", "boolean", "integer", "number", "string", "array", "object"};
    const struct qn_json *type = qn_json_get(schema, "type");
    if (!type) return true;
    if (sc_has_type(type, names[v->type])) return true;
    if (v->type == QN_JSON_NULL && is_truth(qn_json_get(schema, "nullable"))) return true;
    if (v->type == QN_JSON_INT) return sc_has_type(type, "number");
    return v->type == QN_JSON_REAL && sc_has_type(type, "integer") &&
           qn_json_num(v) == (double)(int64_t)qn_json_num(v);
}

static bool accepts_combined(struct qn_schema *s, const struct qn_json *schema, const struct qn_json *v,
                             int depth)
{
    static const char *const words[] = {"allOf", "anyOf", "oneOf"};
    for (size_t w = 0; w < QN_COUNT(words); w++) {
        const struct qn_json *list = qn_json_get(schema, words[w]);
        if (!qn_json_is(list, QN_JSON_ARRAY)) continue;
        size_t n = 0;
        for (size_t i = 0; i < list->n; i++) n += accepts(s, list->items[i], v, depth + 1);
        if (w ? !n : n < list->n) return false;
    }
    const struct qn_json *target = qn_json_get(schema, "$ref") ? qn_argtype_deref(s->root, schema) : NULL;
    return !target || accepts(s, target, v, depth + 1);
}

/* All but what is listed; strings [may be NULL]: of this schema. */
static bool accepts_beside(struct qn_schema *s, const struct sc_strings *strings,
                           const struct qn_json *schema, const struct qn_json *v, int depth)
{
    if (!accepts_type(schema, v) || !accepts_combined(s, schema, v, depth)) return false;
    switch (v->type) {
    case QN_JSON_INT:
    case QN_JSON_REAL:
        return accepts_number(schema, v);
    case QN_JSON_STRING:
        return strings ? is_in(strings->body, strings->t, v->text, v->n) : accepts_string(s, schema, v);
    case QN_JSON_ARRAY:
        return accepts_array(s, schema, v, depth);
    case QN_JSON_OBJECT:
        return accepts_object(s, schema, v, depth);
    default:
        return true;
    }
}

static bool accepts(struct qn_schema *s, const struct qn_json *schema, const struct qn_json *v, int depth)
{
    if (qn_json_is(schema, QN_JSON_BOOL)) return schema->truth;
    if (!qn_json_is(schema, QN_JSON_OBJECT) || depth > QN_ARG_MAX_DEPTH) return true;
    const struct qn_json *list = qn_json_get(schema, "enum"), *constant = qn_json_get(schema, "const");
    if (constant && !qn_json_equal(constant, v)) return false;
    if (qn_json_is(list, QN_JSON_ARRAY)) {
        bool is_found = false;
        for (size_t i = 0; i < list->n && !is_found; i++) is_found = qn_json_equal(list->items[i], v);
        if (!is_found) return false;
    }
    return accepts_beside(s, NULL, schema, v, depth);
}

bool sc_accepts(struct qn_schema *s, const struct qn_json *schema, const struct qn_json *v)
{
    return accepts(s, schema, v, 0);
}

bool sc_accepts_beside(struct qn_schema *s, const struct sc_strings *strings, const struct qn_json *schema,
                       const struct qn_json *v)
{
    return accepts_beside(s, strings, schema, v, 0);
}
