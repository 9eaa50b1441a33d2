/* Schemas merged: what allOf, and keywords beside anyOf or $ref, mean.
 * SPDX-License-Identifier: Apache-2.0 */
#include "text/schema_impl.h"

#include "text/typename.h"

int sc_out_of_memory(struct qn_schema *s, struct qn_err *e)
{
    return qn_err_set(e, QN_TOOBIG, __FILE__, __LINE__,
                      "%s: the schema needs more than %u bytes when it is merged", s->where,
                      QN_SCHEMA_MAX_BYTES);
}

static struct qn_json *all_of(struct qn_schema *s, struct qn_json *a, struct qn_json *b)
{
    struct qn_json *both = qn_json_new(s->arena, QN_JSON_OBJECT),
                   *list = qn_json_new(s->arena, QN_JSON_ARRAY);
    if (!both || !list || !qn_json_push(s->arena, list, a) || !qn_json_push(s->arena, list, b) ||
        !qn_json_set(s->arena, both, "allOf", list))
        return NULL;
    return both;
}

size_t sc_n_of(const struct qn_json *v)
{
    return qn_json_is_null(v) ? 0 : v->type == QN_JSON_ARRAY ? v->n : 1;
}

const struct qn_json *sc_nth(const struct qn_json *v, size_t i)
{
    return v->type == QN_JSON_ARRAY ? v->items[i] : v;
}

bool sc_has_type(const struct qn_json *type, const char *name)
{
    unsigned set = qn_typename_of(type);
    return set & QN_ARG_ANY || (set & qn_typename_bits(name, strlen(name)));
}

static struct qn_json *merge_types(struct qn_schema *s, const struct qn_json *a, const struct qn_json *b)
{
    static const char *const names[] = {"null", "boolean", "integer", "number", "string", "array", "object"};
    struct qn_json *list = qn_json_new(s->arena, QN_JSON_ARRAY);
    for (size_t i = 0; list && i < QN_COUNT(names); i++) {
        bool in_a = sc_has_type(a, names[i]), in_b = sc_has_type(b, names[i]);
        if (i == 2) {
            in_a = in_a || sc_has_type(a, "number");
            in_b = in_b || sc_has_type(b, "number");
            if (sc_has_type(a, "number") && sc_has_type(b, "number")) continue;
        }
        if (in_a && in_b &&
            !qn_json_push(s->arena, list, qn_json_new_str(s->arena, names[i], strlen(names[i]))))
            return NULL;
    }
    return list;
}

bool sc_contains(const struct qn_json *list, const struct qn_json *v)
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
        if ((!both || sc_contains(b, a->items[i])) && !qn_json_push(s->arena, list, a->items[i])) return NULL;
    for (size_t i = 0; list && !both && i < b->n; i++)
        if (!sc_contains(a, b->items[i]) && !qn_json_push(s->arena, list, b->items[i])) return NULL;
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
    if (sc_in_list(key, lower, QN_COUNT(lower))) return qn_json_num(a) >= qn_json_num(b) ? a : b;
    if (sc_in_list(key, upper, QN_COUNT(upper))) return qn_json_num(a) <= qn_json_num(b) ? a : b;
    if (!strcmp(key, "pattern") || !strcmp(key, "format") || !strcmp(key, "multipleOf")) {
        /* our own spelling: a list, all of which must hold */
        struct qn_json *list = qn_json_new(s->arena, QN_JSON_ARRAY), *both[] = {a, b};
        for (int i = 0; list && i < 2; i++)
            for (size_t k = 0; k < sc_n_of(both[i]); k++)
                if (!qn_json_push(s->arena, list, (struct qn_json *)sc_nth(both[i], k))) return NULL;
        return list;
    }
    if (!strcmp(key, "uniqueItems")) return qn_json_is(a, QN_JSON_BOOL) && a->truth ? a : b;
    if (!strcmp(key, "propertyNames")) return all_of(s, a, b);
    if (!strcmp(key, "patternProperties") && qn_json_is(a, QN_JSON_OBJECT) && qn_json_is(b, QN_JSON_OBJECT))
        return merge_properties(s, a, b);
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
int sc_normal(struct qn_json **out, struct qn_schema *s, const struct qn_json *schema, struct qn_err *e)
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
        if (!strcmp(key, "$ref") || !strcmp(key, "allOf") ||
            (sc_is_annotation(key) && strcmp(key, "nullable")))
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
        QN_TRY(sc_merge(&v, s, v, target, e));
    }
    for (size_t i = 0; qn_json_is(all, QN_JSON_ARRAY) && i < all->n; i++)
        QN_TRY(sc_merge(&v, s, v, all->items[i], e));
    *out = v;
out:
    s->depth--;
    return rc;
full:
    rc = sc_out_of_memory(s, e);
    goto out;
}

bool sc_closes(const struct qn_json *schema)
{
    const struct qn_json *more = qn_json_get(schema, "additionalProperties");
    return qn_json_is(more, QN_JSON_BOOL) && !more->truth;
}

/* Properties that the other schema forbids are not in both. */
static struct qn_json *without_foreign(struct qn_schema *s, struct qn_json *v, const struct qn_json *other)
{
    const struct qn_json *mine = qn_json_get(v, "properties"), *theirs = qn_json_get(other, "properties");
    if (!sc_closes(other) || !qn_json_is(mine, QN_JSON_OBJECT)) return v;
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
int sc_merge(struct qn_json **out, struct qn_schema *s, const struct qn_json *a, const struct qn_json *b,
             struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_json *left = (struct qn_json *)a, *right, *v = qn_json_new(s->arena, QN_JSON_OBJECT);
    QN_TRY(sc_normal(&right, s, b, e));
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
    rc = sc_out_of_memory(s, e);
    goto out;
}

struct qn_json *sc_without(struct qn_schema *s, const struct qn_json *schema, const char *key)
{
    struct qn_json *v = qn_json_new(s->arena, QN_JSON_OBJECT);
    for (size_t i = 0; v && i < schema->n; i++)
        if (strcmp(schema->keys[i].text, key) &&
            !qn_json_set(s->arena, v, schema->keys[i].text, schema->items[i]))
            return NULL;
    return v;
}

int qn_schema_objects(const struct qn_json **list, int max, int *n, struct qn_schema *s,
                      const struct qn_json *schema, struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_json *flat, *rest, *merged;
    QN_TRY(sc_normal(&flat, s, schema, e));
    const struct qn_json *any = qn_json_get(flat, "anyOf"), *type = qn_json_get(flat, "type");
    if (type && qn_typename_of(type) && !sc_has_type(type, "object")) goto out; /* arguments are an object */
    if (!qn_json_is(any, QN_JSON_ARRAY)) {
        QN_FAIL_IF(*n == max, e, QN_TOOBIG, "%s: the schema has more than %d alternatives", s->where, max);
        list[(*n)++] = flat;
        goto out;
    }
    rest = sc_without(s, flat, "anyOf");
    if (!rest) {
        rc = sc_out_of_memory(s, e);
        goto out;
    }
    for (size_t i = 0; i < any->n; i++) {
        QN_TRY(sc_merge(&merged, s, rest, any->items[i], e));
        QN_TRY(qn_schema_objects(list, max, n, s, merged, e));
    }
out:
    return rc;
}
