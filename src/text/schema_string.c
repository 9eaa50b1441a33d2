/* Strings of a schema: lengths, patterns, formats.
 * SPDX-License-Identifier: Apache-2.0 */
#include "text/schema_impl.h"

#include "text/format.h"
#include "text/regex.h"

int sc_count_of(const struct qn_json *schema, const char *key, uint32_t dflt, uint32_t *out,
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
        rc = sc_refuse(s, "pattern", why.text, e);
        goto out;
    }
    QN_FAIL_IF(rc, e, rc, "%s: %s", s->where, why.text);
    *body = qn_term_and(s->t, *body, term, *body != QN_TERM_ANY);
out:
    return rc;
}

static int one_format(qn_term *body, struct qn_schema *s, const struct qn_json *format, bool is_json,
                      struct qn_err *e)
{
    int rc = QN_OK;
    enum qn_format_kind kind;
    qn_term term;
    if (!qn_json_is(format, QN_JSON_STRING)) goto out;
    QN_TRY(qn_format_term(&kind, &term, s->t, format->text, is_json, e));
    if (kind == QN_FORMAT_UNKNOWN) QN_TRY(sc_refuse(s, "format", format->text, e));
    if (kind == QN_FORMAT_TERM) *body = qn_term_and(s->t, *body, term, *body != QN_TERM_ANY);
out:
    return rc;
}

/* What the characters between the quotes (or, of an argument, all characters) must be. ANY: no constraint. */
int sc_string_body(qn_term *body, struct qn_schema *s, const struct qn_json *schema, bool is_json,
                   struct qn_err *e)
{
    int rc = QN_OK;
    uint32_t min, max;
    const struct qn_json *pattern = qn_json_get(schema, "pattern"), *format = qn_json_get(schema, "format");
    *body = QN_TERM_ANY;
    QN_TRY(sc_count_of(schema, "minLength", 0, &min, s, e));
    QN_TRY(sc_count_of(schema, "maxLength", QN_TERM_MANY, &max, s, e));
    if (min || max != QN_TERM_MANY) {
        struct qn_charset all = {.n = 0};
        qn_charset_invert(&all);
        *body = qn_term_repeat(s->t, qn_charset_term(s->t, &all, is_json), min, max);
    }
    for (size_t i = 0; i < sc_n_of(pattern); i++)
        QN_TRY(one_pattern(body, s, sc_nth(pattern, i), is_json, e));
    for (size_t i = 0; i < sc_n_of(format); i++) QN_TRY(one_format(body, s, sc_nth(format, i), is_json, e));
out:
    return rc;
}

int sc_string_term(qn_term *out, struct qn_schema *s, const struct qn_json *schema, struct qn_err *e)
{
    qn_term body, quote = qn_term_str(s->t, "\"");
    int rc = sc_string_body(&body, s, schema, true, e);
    if (!rc) *out = body == QN_TERM_ANY ? sc_any_string(s) : qn_term_seq3(s->t, quote, body, quote);
    return rc;
}
