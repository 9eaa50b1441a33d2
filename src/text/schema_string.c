/* Strings of a schema: lengths, patterns, formats.
 * SPDX-License-Identifier: Apache-2.0 */
#include "text/schema_impl.h"

#include "text/regex.h"

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
    if (qn_json_is(pattern, QN_JSON_ARRAY))
        for (size_t i = 0; i < pattern->n; i++) QN_TRY(one_pattern(body, s, pattern->items[i], is_json, e));
    else
        QN_TRY(one_pattern(body, s, pattern, is_json, e));
    if (qn_json_is(format, QN_JSON_STRING)) {
        size_t i = 0;
        while (i < QN_COUNT(formats) && strcmp(formats[i].name, format->text)) i++;
        if (i == QN_COUNT(formats)) {
            QN_TRY(sc_refuse(s, "format", format->text, e));
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

int sc_string_term(qn_term *out, struct qn_schema *s, const struct qn_json *schema, struct qn_err *e)
{
    qn_term body, quote = qn_term_str(s->t, "\"");
    int rc = sc_string_body(&body, s, schema, true, e);
    if (!rc) *out = body == QN_TERM_ANY ? sc_any_string(s) : qn_term_seq3(s->t, quote, body, quote);
    return rc;
}
