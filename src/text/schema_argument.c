/* Schemas of arguments: the raw text between the tags of a call.
 * SPDX-License-Identifier: Apache-2.0 */
#include "text/schema_impl.h"

#include "text/regex.h"

/* Bare strings the parser would read as another type of the set. */
static int other_types(qn_term *out, struct qn_schema *s, unsigned set, struct qn_err *e)
{
    int rc = QN_OK;
    static const struct {
        unsigned bits;
        const char *pattern;
    } looks[] = {
        {QN_ARG_OBJECT | QN_ARG_ANY, "\\s*\\{[\\s\\S]*"},
        {QN_ARG_ARRAY | QN_ARG_ANY, "\\s*[\\[(][\\s\\S]*"},
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
        rc = sc_out_of_memory(s, e);
        goto out;
    }
    for (int i = 0; i < 2; i++) {
        static const char *const defs[] = {"$defs", "definitions"};
        struct qn_json *d = qn_json_get(s->root, defs[i]);
        if (d) qn_json_set(s->arena, holder, defs[i], d);
    }
    qn_argtype_find(&type, holder, "p", 1);
    if (!(type.set & (QN_ARG_STRING | QN_ARG_ANY)) && type.set) {
        *is_tagged = type.set & (QN_ARG_OBJECT | QN_ARG_ARRAY);
        QN_TRY(sc_compile(out, s, schema, e));
        /* a value that nothing satisfies is left to the client's validator */
        goto out;
    }
    QN_TRY(sc_normal(&flat, s, schema, e));
    const struct qn_json *list = qn_json_get(flat, "enum"), *any = qn_json_get(flat, "anyOf");
    *is_tagged = *is_bare = true;
    if (qn_json_is(list, QN_JSON_ARRAY)) {
        *out = sc_enum_term(s, flat, list, true);
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
        QN_TRY(sc_string_body(&body, s, flat, false, e));
        if (body != QN_TERM_ANY) *out = body;
    }
    QN_TRY(sc_check_keywords(s, flat, e));
out:
    return rc;
}
