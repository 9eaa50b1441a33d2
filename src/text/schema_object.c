/* Arrays and objects of a schema.
 * SPDX-License-Identifier: Apache-2.0 */
#include "text/schema_impl.h"

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

static qn_term key_term(struct qn_schema *s, const char *key, size_t n)
{
    struct qn_buf text = QN_BUF_INIT(QN_SCHEMA_MAX_BYTES);
    qn_json_write_str(&text, key, n, false);
    qn_term out = qn_term_seq(s->t, qn_term_lit(s->t, qn_buf_str(&text), text.n_byte), sc_colon(s));
    qn_buf_free(&text);
    return out;
}

int sc_object_term(qn_term *out, struct qn_schema *s, const struct qn_json *schema, struct qn_err *e)
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
    bool is_closed = sc_closes(schema) || (n && !more); /* what is listed is meant to be all */
    if (!n && !n_required && !more) {
        *out = qn_schema_any_object(s);
        goto out;
    }
    if (!sc_closes(schema)) QN_TRY(sc_compile(&value, s, qn_json_is(more, QN_JSON_OBJECT) ? more : NULL, e));
    for (size_t i = 0; i < n + n_required; i++) {
        const char *key = i < n ? properties->keys[i].text : NULL;
        size_t n_key = i < n ? properties->keys[i].n : 0;
        struct qn_term_member *member = &members[m];
        if (!key) { /* required, but not described */
            const struct qn_json *name = required->items[i - n];
            if (!qn_json_is(name, QN_JSON_STRING) || (n && qn_json_get(properties, name->text))) continue;
            QN_FAIL_IF(sc_closes(schema), e, QN_INVAL,
                       "%s: '%.60s' is required but additionalProperties forbids it", s->where, name->text);
            key = name->text;
            n_key = name->n;
            member->value = value;
        } else {
            QN_TRY(sc_compile(&member->value, s, properties->items[i], e));
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
                                    .separator = qn_term_seq(t, qn_term_str(t, ","), sc_gap(s)),
                                    .end = qn_term_seq(t, sc_gap(s), qn_term_str(t, "}"))};
    if (!is_closed && value != QN_TERM_EMPTY) {
        /* a further name: no escapes, so that it cannot spell a listed one */
        uint64_t plain[4] = {~(uint64_t)0 << 32, ~(uint64_t)0, ~(uint64_t)0, ~(uint64_t)0};
        plain[0] &= ~((uint64_t)1 << '"');
        plain[1] &= ~((uint64_t)1 << ('\\' - 64));
        qn_term name =
            qn_term_seq3(t, qn_term_str(t, "\""), qn_term_repeat(t, qn_term_class(t, plain), 0, 64),
                         qn_term_seq(t, qn_term_str(t, "\""), sc_colon(s)));
        name = qn_term_and(t, name, qn_term_not(t, qn_term_alts(t, names, m)), true);
        object.more = qn_term_seq(t, name, value);
    }
    *out = qn_term_seq3(t, qn_term_str(t, "{"), sc_gap(s), qn_term_object(t, &object));
out:
    free(members);
    free(names);
    return rc;
}
