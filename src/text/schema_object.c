/* Arrays and objects of a schema.
 * SPDX-License-Identifier: Apache-2.0 */
#include "text/schema_impl.h"

#include "text/regex.h"

static bool is_true(const struct qn_json *v)
{
    return qn_json_is(v, QN_JSON_BOOL) && v->truth;
}

/* The values a schema lists, if it lists all that it allows; else NULL. */
static const struct qn_json *listed_values(struct qn_schema *s, const struct qn_json *schema)
{
    struct qn_json *flat, *list = qn_json_new(s->arena, QN_JSON_ARRAY), *all;
    if (!schema || !list || sc_normal(&flat, s, schema, NULL)) return NULL;
    const struct qn_json *any = qn_json_get(flat, "anyOf");
    all = qn_json_get(flat, "enum");
    if (!all && sc_has_type(qn_json_get(flat, "type"), "boolean") &&
        qn_json_is(qn_json_get(flat, "type"), QN_JSON_STRING)) {
        for (int i = 0; i < 2; i++) {
            struct qn_json *v = qn_json_new(s->arena, QN_JSON_BOOL);
            if (!v || !qn_json_push(s->arena, list, v)) return NULL;
            v->truth = i;
        }
        return list;
    }
    for (size_t k = 0; !all && qn_json_is(any, QN_JSON_ARRAY) && k < any->n; k++) {
        const struct qn_json *part = listed_values(s, any->items[k]);
        if (!part) return NULL;
        for (size_t i = 0; i < part->n; i++)
            if (!sc_contains(list, part->items[i]) && !qn_json_push(s->arena, list, part->items[i]))
                return NULL;
        if (k + 1 == any->n) all = list;
    }
    if (!qn_json_is(all, QN_JSON_ARRAY)) return NULL;
    struct qn_json *out = qn_json_new(s->arena, QN_JSON_ARRAY);
    for (size_t i = 0; out && i < all->n; i++)
        if (!sc_contains(out, all->items[i]) && sc_accepts(s, flat, all->items[i]) &&
            !qn_json_push(s->arena, out, all->items[i]))
            return NULL;
    return out;
}

/* Items of a short list, each at most once: members without values. */
static bool unique_term(qn_term *out, struct qn_schema *s, const struct qn_json *items, uint32_t min,
                        uint32_t max)
{
    bool is_done = false;
    struct qn_terms *t = s->t;
    const struct qn_json *list = listed_values(s, items);
    struct qn_term_member *members = NULL;
    if (!list || !list->n || list->n > QN_TERM_TRACKED) goto out;
    is_done = true;
    *out = QN_TERM_EMPTY;
    if (min > max || min > list->n) goto out;
    members = xcalloc(list->n, sizeof *members);
    qn_term *each = xcalloc(list->n, sizeof *each);
    for (size_t i = 0; i < list->n; i++)
        members[i] = (struct qn_term_member){.key = each[i] = sc_value_term(s, list->items[i], false),
                                             .value = QN_TERM_EPS};
    qn_term comma = qn_term_seq(t, qn_term_str(t, ","), sc_gap(s)),
            end = qn_term_seq(t, sc_gap(s), qn_term_str(t, "]"));
    struct qn_term_object object = {
        .members = members, .n_member = (int)list->n, .separator = comma, .end = end};
    qn_term any = qn_term_alts(t, each, list->n), body = qn_term_object(t, &object);
    free(each);
    if (min || max < list->n) { /* so many */
        qn_term more = qn_term_repeat(t, qn_term_seq(t, comma, any), min ? min - 1 : 0,
                                      max >= list->n ? (uint32_t)list->n - 1 : max - 1);
        qn_term count = qn_term_seq3(t, any, more, end);
        if (!min) count = qn_term_alt(t, count, end);
        body = qn_term_and(t, body, count, true);
    }
    *out = qn_term_seq3(t, qn_term_str(t, "["), sc_gap(s), body);
out:
    free(members);
    return is_done;
}

int sc_array_term(qn_term *out, struct qn_schema *s, const struct qn_json *schema, struct qn_err *e)
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
    QN_TRY(sc_count_of(schema, "minItems", 0, &min, s, e));
    QN_TRY(sc_count_of(schema, "maxItems", QN_TERM_MANY, &max, s, e));
    if (is_true(qn_json_get(schema, "uniqueItems")) && max > 1) {
        if (!n_prefix && unique_term(out, s, items, min, max)) goto out;
        QN_TRY(sc_refuse(s, "uniqueItems", "items that are no short list of values", e));
    }
    for (size_t i = 0; i < n_prefix; i++) QN_TRY(sc_compile(&each[i], s, prefix->items[i], e));
    if (items || !n_prefix)
        QN_TRY(sc_compile(&rest, s, items, e));
    else
        rest = QN_TERM_EMPTY; /* a tuple that says nothing more is not continued */
    *out = QN_TERM_EMPTY;
    if (min > max) goto out;
    qn_term end = qn_term_seq(t, sc_gap(s), qn_term_str(t, "]")),
            comma = qn_term_seq(t, qn_term_str(t, ","), sc_gap(s));
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
    *out = qn_term_seq3(t, qn_term_str(t, "["), sc_gap(s), body);
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

qn_term sc_key_term(struct qn_schema *s, const char *key, size_t n)
{
    struct qn_buf text = QN_BUF_INIT(QN_SCHEMA_MAX_BYTES);
    qn_json_write_str(&text, key, n, false);
    qn_term out = qn_term_seq(s->t, qn_term_lit(s->t, qn_buf_str(&text), text.n_byte), sc_colon(s));
    qn_buf_free(&text);
    return out;
}

/* What an object says about members that it does not list. */
struct others {
    const struct qn_json *more, *names,
        *patterns; /* additionalProperties, propertyNames, patternProperties */
    size_t n_pattern;
    bool is_closed; /* none but those that match a pattern */
    qn_term value;  /* of those that match none */
};

/* A name in quotes. No escapes, so that it cannot spell a listed one, but where names are described. */
static int any_name(qn_term *out, struct qn_schema *s, const struct others *o, struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_terms *t = s->t;
    qn_term quote = qn_term_str(t, "\""), described;
    uint64_t plain[4] = {~(uint64_t)0 << 32, ~(uint64_t)0, ~(uint64_t)0, ~(uint64_t)0};
    plain[0] &= ~((uint64_t)1 << '"');
    plain[1] &= ~((uint64_t)1 << ('\\' - 64));
    *out = qn_term_seq3(t, quote, qn_term_repeat(t, qn_term_class(t, plain), 0, o->names ? QN_TERM_MANY : 64),
                        quote);
    if (!o->names || (qn_json_is(o->names, QN_JSON_BOOL) && o->names->truth)) goto out;
    /* a name is a string, whether the schema says so or not */
    struct qn_json *is_string = qn_json_new(s->arena, QN_JSON_OBJECT), *merged;
    if (!is_string || !qn_json_set(s->arena, is_string, "type", qn_json_new_str(s->arena, "string", 6))) {
        rc = sc_out_of_memory(s, e);
        goto out;
    }
    QN_TRY(sc_merge(&merged, s, is_string, o->names, e));
    QN_TRY(sc_compile(&described, s, merged, e));
    *out = qn_term_and(t, *out, described, true);
out:
    return rc;
}

/* Members that are not listed: name, colon, value. names [n]: the keys of those that are. */
static int others_term(qn_term *out, struct qn_schema *s, const struct others *o, const qn_term *names,
                       size_t n, struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_terms *t = s->t;
    qn_term name, rest, quote = qn_term_str(t, "\"");
    qn_term *patterns = xcalloc(o->n_pattern + 1, sizeof *patterns);
    *out = QN_TERM_EMPTY;
    QN_TRY(any_name(&name, s, o, e));
    name = qn_term_and(t, qn_term_seq(t, name, sc_colon(s)), qn_term_not(t, qn_term_alts(t, names, n)), true);
    for (size_t i = 0; i < o->n_pattern; i++) {
        const struct qn_json_key *key = &o->patterns->keys[i];
        struct qn_err why = {0};
        rc = qn_regex_term(&patterns[i], t, key->text, key->n, false, true, "patternProperties", &why);
        QN_FAIL_IF(rc, e, rc == QN_UNSUPPORTED ? QN_INVAL : rc, "%s: %s", s->where, why.text);
        patterns[i] = qn_term_seq3(t, quote, patterns[i], qn_term_seq(t, quote, sc_colon(s)));
    }
    /* a name that matches several patterns is not written */
    rest = name;
    for (size_t i = 0; i < o->n_pattern; i++) {
        qn_term own = qn_term_and(t, name, patterns[i], true), value;
        rest = qn_term_and(t, rest, qn_term_not(t, patterns[i]), true);
        for (size_t k = 0; k < o->n_pattern; k++)
            if (k != i) own = qn_term_and(t, own, qn_term_not(t, patterns[k]), true);
        QN_TRY(sc_compile(&value, s, o->patterns->items[i], e));
        *out = qn_term_alt(t, *out, qn_term_seq(t, own, value));
    }
    if (!o->is_closed) *out = qn_term_alt(t, *out, qn_term_seq(t, rest, o->value));
out:
    free(patterns);
    return rc;
}

/* minProperties and maxProperties, where they can be kept. */
static int count_members(uint32_t *min, uint32_t *max, struct qn_schema *s, const struct qn_json *schema,
                         size_t n, size_t n_required, bool has_others, struct qn_err *e)
{
    int rc = QN_OK;
    QN_TRY(sc_count_of(schema, "minProperties", 0, min, s, e));
    QN_TRY(sc_count_of(schema, "maxProperties", QN_TERM_MANY, max, s, e));
    if (*min <= n_required) *min = 0;
    if (!has_others && *max >= n) *max = QN_TERM_MANY;
    if (!n && *min <= 1) goto out; /* a name may come twice, so more cannot be told */
    if (*min) QN_TRY(sc_refuse(s, "minProperties", NULL, e));
    if (*max != QN_TERM_MANY && n) QN_TRY(sc_refuse(s, "maxProperties", NULL, e));
    *min = 0;
    if (n) *max = QN_TERM_MANY;
out:
    return rc;
}

/* An object without listed members. */
static qn_term map_term(struct qn_schema *s, qn_term member, uint32_t min, uint32_t max)
{
    struct qn_terms *t = s->t;
    if (min > max) return QN_TERM_EMPTY;
    qn_term close = qn_term_str(t, "}"), more = qn_term_seq3(t, qn_term_str(t, ","), sc_gap(s), member);
    qn_term body = QN_TERM_EMPTY;
    if (max)
        body = qn_term_seq3(t, member, qn_term_repeat(t, more, 0, max == QN_TERM_MANY ? max : max - 1),
                            sc_gap(s));
    if (!min) body = qn_term_alt(t, body, QN_TERM_EPS);
    return qn_term_seq3(t, qn_term_str(t, "{"), sc_gap(s), qn_term_seq(t, body, close));
}

/* What a listed property must be, its own schema and those of the patterns it matches. NULL: nothing fits. */
static int property_schema(const struct qn_json **out, struct qn_schema *s, const struct others *o,
                           const char *key, size_t n_key, const struct qn_json *own, struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_json name = {.type = QN_JSON_STRING, .text = (char *)key, .n = n_key}, *merged;
    *out = own;
    if (o->names && !sc_accepts(s, o->names, &name)) {
        *out = NULL;
        goto out;
    }
    for (size_t i = 0; i < o->n_pattern; i++) {
        if (!sc_matches(o->patterns->keys[i].text, key, n_key)) continue;
        QN_TRY(sc_normal(&merged, s, *out, e));
        QN_TRY(sc_merge(&merged, s, merged, o->patterns->items[i], e));
        *out = merged;
    }
out:
    return rc;
}

/* Where names come from a list, they are members that may be left out. */
static const struct qn_json *with_listed_names(struct qn_schema *s, const struct qn_json *schema)
{
    const struct qn_json *names = listed_values(s, qn_json_get(schema, "propertyNames")),
                         *more = qn_json_get(schema, "additionalProperties"),
                         *old = qn_json_get(schema, "properties");
    if (!names || sc_closes(schema) || names->n > QN_TERM_TRACKED) return schema;
    struct qn_json *out = qn_json_new(s->arena, QN_JSON_OBJECT),
                   *properties = qn_json_new(s->arena, QN_JSON_OBJECT),
                   *yes = qn_json_new(s->arena, QN_JSON_BOOL), *no = qn_json_new(s->arena, QN_JSON_BOOL);
    bool is_ok = out && properties && yes && no;
    if (is_ok) yes->truth = true;
    for (size_t i = 0; is_ok && i < schema->n; i++)
        if (strcmp(schema->keys[i].text, "properties") &&
            strcmp(schema->keys[i].text, "additionalProperties"))
            is_ok = qn_json_set(s->arena, out, schema->keys[i].text, schema->items[i]);
    for (size_t i = 0; is_ok && qn_json_is(old, QN_JSON_OBJECT) && i < old->n; i++)
        is_ok = qn_json_set(s->arena, properties, old->keys[i].text, old->items[i]);
    for (size_t i = 0; is_ok && i < names->n; i++)
        if (qn_json_is(names->items[i], QN_JSON_STRING) && !qn_json_get(properties, names->items[i]->text))
            is_ok =
                qn_json_set(s->arena, properties, names->items[i]->text, more ? (struct qn_json *)more : yes);
    is_ok = is_ok && qn_json_set(s->arena, out, "properties", properties) &&
            qn_json_set(s->arena, out, "additionalProperties", no);
    return is_ok ? out : schema;
}

/* Members that are listed, or required without being described. */
static int listed_members(struct qn_term_member *members, qn_term *names, size_t *n_member,
                          struct qn_schema *s, const struct qn_json *schema, const struct others *o,
                          struct qn_err *e)
{
    int rc = QN_OK;
    const struct qn_json *properties = qn_json_get(schema, "properties"),
                         *required = qn_json_get(schema, "required");
    size_t n = qn_json_is(properties, QN_JSON_OBJECT) ? properties->n : 0, m = 0;
    size_t n_required = qn_json_is(required, QN_JSON_ARRAY) ? required->n : 0;
    for (size_t i = 0; i < n + n_required; i++) {
        const struct qn_json *own = i < n ? properties->items[i] : o->more, *of;
        const char *key = i < n ? properties->keys[i].text : NULL;
        size_t n_key = i < n ? properties->keys[i].n : 0;
        struct qn_term_member *member = &members[m];
        struct qn_json anything = {.type = QN_JSON_BOOL, .truth = true};
        member->value = QN_TERM_EMPTY;
        if (!key) { /* required, but not described */
            const struct qn_json *name = required->items[i - n];
            if (!qn_json_is(name, QN_JSON_STRING) || (n && qn_json_get(properties, name->text))) continue;
            key = name->text;
            n_key = name->n;
            bool is_by_pattern = false;
            for (size_t k = 0; k < o->n_pattern; k++)
                is_by_pattern |= sc_matches(o->patterns->keys[k].text, key, n_key);
            QN_FAIL_IF(sc_closes(schema) && !is_by_pattern, e, QN_INVAL,
                       "%s: '%.60s' is required but additionalProperties forbids it", s->where, key);
            if (is_by_pattern || !own) own = &anything;
        }
        QN_TRY(property_schema(&of, s, o, key, n_key, own, e));
        if (of == &anything) /* a schema on this stack is not to be kept by its address */
            member->value = sc_any_value(s);
        else if (of)
            QN_TRY(sc_compile(&member->value, s, of, e));
        member->key = sc_key_term(s, key, n_key);
        member->is_required = is_required(schema, key);
        QN_TRY(qn_terms_check(s->t, e));
        QN_FAIL_IF(member->is_required && member->value == QN_TERM_EMPTY, e, QN_INVAL,
                   "%s: nothing can satisfy the required property '%.60s'", s->where, key);
        if (member->value == QN_TERM_EMPTY) continue;
        names[m++] = member->key;
    }
    *n_member = m;
out:
    return rc;
}

int sc_object_term(qn_term *out, struct qn_schema *s, const struct qn_json *schema, struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_terms *t = s->t;
    schema = with_listed_names(s, schema);
    const struct qn_json *properties = qn_json_get(schema, "properties"),
                         *required = qn_json_get(schema, "required");
    struct others o = {.more = qn_json_get(schema, "additionalProperties"),
                       .names = qn_json_get(schema, "propertyNames"),
                       .patterns = qn_json_get(schema, "patternProperties")};
    o.n_pattern = qn_json_is(o.patterns, QN_JSON_OBJECT) ? o.patterns->n : 0;
    size_t n = qn_json_is(properties, QN_JSON_OBJECT) ? properties->n : 0, m = 0;
    size_t n_required = qn_json_is(required, QN_JSON_ARRAY) ? required->n : 0;
    uint32_t min, max;
    struct qn_term_member *members = xcalloc(n + n_required + 1, sizeof *members);
    qn_term *names = xcalloc(n + n_required + 1, sizeof *names), other = QN_TERM_EMPTY;
    o.is_closed =
        sc_closes(schema) || ((n || o.n_pattern) && !o.more); /* what is listed is meant to be all */
    QN_TRY(count_members(&min, &max, s, schema, n + n_required, n_required, !o.is_closed || o.n_pattern, e));
    if (!n && !n_required && !o.more && !o.names && !o.n_pattern && !min && max == QN_TERM_MANY) {
        *out = qn_schema_any_object(s);
        goto out;
    }
    QN_TRY(listed_members(members, names, &m, s, schema, &o, e));
    if (!o.is_closed) QN_TRY(sc_compile(&o.value, s, qn_json_is(o.more, QN_JSON_OBJECT) ? o.more : NULL, e));
    if (!o.is_closed || o.n_pattern) QN_TRY(others_term(&other, s, &o, names, m, e));
    if (!m) {
        *out = map_term(s, other, min, other == QN_TERM_EMPTY ? 0 : max);
        goto out;
    }
    struct qn_term_object object = {.members = members,
                                    .n_member = (int)m,
                                    .is_ordered = s->strict,
                                    .separator = qn_term_seq(t, qn_term_str(t, ","), sc_gap(s)),
                                    .end = qn_term_seq(t, sc_gap(s), qn_term_str(t, "}")),
                                    .more = other};
    *out = qn_term_seq3(t, qn_term_str(t, "{"), sc_gap(s), qn_term_object(t, &object));
out:
    free(members);
    free(names);
    return rc;
}
