/* Parts that all schemas use, and enumerated values, as terms.
 * SPDX-License-Identifier: Apache-2.0 */
#include "text/schema_impl.h"

#include "text/decimal.h"

/* Between tokens: nothing, a space, or a new line with its indentation. Bounded: a model may like blanks. */
#define MAX_INDENT 32

qn_term sc_gap(struct qn_schema *s)
{
    if (s->gap) return s->gap;
    qn_term list[] = {QN_TERM_EPS, qn_term_str(s->t, " "),
                      qn_term_seq(s->t, qn_term_str(s->t, "\n"),
                                  qn_term_repeat(s->t, qn_term_str(s->t, " "), 0, MAX_INDENT))};
    return s->gap = qn_term_alts(s->t, list, QN_COUNT(list));
}

qn_term sc_colon(struct qn_schema *s)
{
    if (!s->colon)
        s->colon =
            qn_term_seq(s->t, qn_term_str(s->t, ":"), qn_term_repeat(s->t, qn_term_str(s->t, " "), 0, 1));
    return s->colon;
}

/* Any string. Bytes above 0x7f loop in one state: whoever reads it repairs what is no UTF-8. */
qn_term sc_any_string(struct qn_schema *s)
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

qn_term sc_any_number(struct qn_schema *s, bool whole)
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

qn_term sc_any_value(struct qn_schema *s);

static qn_term any_array(struct qn_schema *s)
{
    struct qn_terms *t = s->t;
    if (s->array) return s->array;
    qn_term value = sc_any_value(s);
    if (s->array) return s->array; /* made on the way */
    qn_term more = qn_term_repeat(t, qn_term_seq3(t, qn_term_str(t, ","), sc_gap(s), value), 0, QN_TERM_MANY);
    qn_term items = qn_term_alt(t, QN_TERM_EPS, qn_term_seq3(t, value, more, sc_gap(s)));
    return s->array =
               qn_term_seq3(t, qn_term_seq(t, qn_term_str(t, "["), sc_gap(s)), items, qn_term_str(t, "]"));
}

qn_term qn_schema_any_object(struct qn_schema *s)
{
    struct qn_terms *t = s->t;
    if (s->object) return s->object;
    qn_term value = sc_any_value(s);
    if (s->object) return s->object;
    qn_term member = qn_term_seq3(t, sc_any_string(s), sc_colon(s), value);
    qn_term more =
        qn_term_repeat(t, qn_term_seq3(t, qn_term_str(t, ","), sc_gap(s), member), 0, QN_TERM_MANY);
    qn_term members = qn_term_alt(t, QN_TERM_EPS, qn_term_seq3(t, member, more, sc_gap(s)));
    return s->object =
               qn_term_seq3(t, qn_term_seq(t, qn_term_str(t, "{"), sc_gap(s)), members, qn_term_str(t, "}"));
}

qn_term sc_any_value(struct qn_schema *s)
{
    if (s->value) return s->value;
    s->value = qn_term_rule_new(s->t);
    qn_term list[] = {sc_any_string(s),           sc_any_number(s, false),   qn_term_str(s->t, "true"),
                      qn_term_str(s->t, "false"), qn_term_str(s->t, "null"), any_array(s),
                      qn_schema_any_object(s)};
    qn_term_rule_set(s->t, s->value, qn_term_alts(s->t, list, QN_COUNT(list)));
    return s->value;
}

static qn_term list_term(struct qn_schema *s, const struct qn_json *v)
{
    struct qn_terms *t = s->t;
    qn_term comma = qn_term_seq(t, qn_term_str(t, ","), sc_gap(s)),
            out = qn_term_seq(t, sc_gap(s), qn_term_str(t, "]"));
    for (size_t i = v->n; i-- > 0;)
        out = qn_term_seq3(t, i ? comma : sc_gap(s), sc_value_term(s, v->items[i], false), out);
    if (!v->n) out = qn_term_str(t, "]");
    return qn_term_seq(t, qn_term_str(t, "["), out);
}

/* All members, in any order. */
static qn_term members_term(struct qn_schema *s, const struct qn_json *v)
{
    struct qn_terms *t = s->t;
    if (!v->n) return qn_term_str(t, "{}");
    struct qn_term_member *members = xcalloc(v->n, sizeof *members);
    for (size_t i = 0; i < v->n; i++)
        members[i] = (struct qn_term_member){.key = sc_key_term(s, v->keys[i].text, v->keys[i].n),
                                             .value = sc_value_term(s, v->items[i], false),
                                             .is_required = true};
    struct qn_term_object object = {.members = members,
                                    .n_member = (int)v->n,
                                    .separator = qn_term_seq(t, qn_term_str(t, ","), sc_gap(s)),
                                    .end = qn_term_seq(t, sc_gap(s), qn_term_str(t, "}"))};
    qn_term out = qn_term_seq3(t, qn_term_str(t, "{"), sc_gap(s), qn_term_object(t, &object));
    free(members);
    return out;
}

qn_term sc_value_term(struct qn_schema *s, const struct qn_json *v, bool is_raw)
{
    if (v->type == QN_JSON_ARRAY) return list_term(s, v);
    if (v->type == QN_JSON_OBJECT) return members_term(s, v);
    struct qn_buf text = QN_BUF_INIT(QN_SCHEMA_MAX_BYTES);
    if (is_raw && v->type == QN_JSON_STRING)
        qn_buf_append(&text, v->text, v->n);
    else
        qn_json_write(&text, v, QN_JSON_EXACT);
    qn_term out = qn_term_lit(s->t, qn_buf_str(&text), text.n_byte);
    qn_buf_free(&text);
    return out;
}

/* Nothing that could leave out a listed value stands beside the list. */
static bool is_bare_list(const struct qn_json *schema)
{
    for (size_t i = 0; i < schema->n; i++)
        if (strcmp(schema->keys[i].text, "enum") && !sc_is_annotation(schema->keys[i].text)) return false;
    return true;
}

qn_term sc_enum_term(struct qn_schema *s, const struct qn_json *schema, const struct qn_json *list,
                     bool is_raw)
{
    qn_term *each = xcalloc(list->n + 1, sizeof *each);
    size_t n = 0;
    struct sc_strings *strings = is_bare_list(schema) ? NULL : sc_strings_open(s, schema);
    for (size_t i = 0; i < list->n; i++) {
        const struct qn_json *v = list->items[i];
        if (!strings || sc_accepts_beside(s, strings, schema, v)) each[n++] = sc_value_term(s, v, is_raw);
    }
    sc_strings_close(strings);
    qn_term out = qn_term_alts(s->t, each, n);
    free(each);
    return out;
}
