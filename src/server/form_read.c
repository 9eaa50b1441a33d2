/* Which constraint a request asks for, in all spellings that clients send. What is given must be honoured or
 * refused: an answer that silently breaks its constraint is worse than none. SPDX-License-Identifier:
 * Apache-2.0 */
#include "server/form.h"

/* One constraint that was found. */
struct found {
    struct qn_ask *a;
    struct qn_exchange *x;
    const char *where; /* the member that asked for the form in a */
    struct qn_err *e;
};

static bool is_said(const struct qn_json *v)
{
    return !qn_json_is_null(v) && !qn_json_is_str(v, ""); /* llama.cpp's clients send all members */
}

/* A schema, tags, or a wrapped grammar may come as JSON text. */
static int parsed(const struct qn_json **v, struct found *f, const char *where)
{
    int rc = QN_OK;
    struct qn_json *out;
    if (!qn_json_is(*v, QN_JSON_STRING)) goto out;
    QN_TRY(qn_json_parse(&out, f->a->arena, (*v)->text, (*v)->n, where, f->e));
    *v = out;
out:
    return rc;
}

static bool same(const struct qn_json *a, const struct qn_json *b)
{
    return a == b || (a && b && qn_json_equal(a, b));
}

/* guidance serialises its grammars: {"grammars": [{"lark_grammar": text}]} as JSON text. */
static int unwrapped(const char **form, const struct qn_json **v, struct found *f, const char *where)
{
    int rc = QN_OK;
    struct qn_err *e = f->e;
    const struct qn_json *list, *one = *v;
    size_t at = 0;
    while (qn_json_is(one, QN_JSON_STRING) && at < one->n && strchr(" \t\r\n", one->text[at])) at++;
    if (!qn_json_is(one, QN_JSON_OBJECT) && !(qn_json_is(one, QN_JSON_STRING) && one->text[at] == '{'))
        goto out;
    QN_TRY(parsed(&one, f, where));
    list = qn_json_get(one, "grammars");
    QN_FAIL_IF(!qn_json_is(list, QN_JSON_ARRAY) || list->n != 1, e, QN_INVAL,
               "%s: a grammar must be text, or hold one of `grammars`", where);
    one = qn_json_get(list->items[0], "lark_grammar");
    if (!one) {
        one = qn_json_get(list->items[0], "json_schema");
        QN_FAIL_IF(!one, e, QN_INVAL, "%s: the grammar holds neither lark_grammar nor json_schema", where);
        *form = "json_schema";
    }
    *v = one;
out:
    return rc;
}

/* The same constraint twice is one; a schema says more than "an object"; anything else contradicts. */
static int add(struct found *f, const char *where, const char *form, const struct qn_json *v, bool strict)
{
    int rc = QN_OK;
    struct qn_ask *a = f->a;
    struct qn_err *e = f->e;
    f->x->param = where;
    if (!strcmp(form, "json_schema") || !strcmp(form, "structural_tag")) QN_TRY(parsed(&v, f, where));
    if (!strcmp(form, "json_schema"))
        QN_FAIL_IF(!qn_json_is(v, QN_JSON_OBJECT) && !qn_json_is(v, QN_JSON_BOOL), e, QN_INVAL,
                   "%s: the schema must be an object", where);
    if (!strcmp(form, "grammar")) QN_TRY(unwrapped(&form, &v, f, where));
    if (a->form) {
        bool is_schema = !strcmp(form, "json_schema"), was_object = !strcmp(a->form, "json_object");
        bool was_schema = !strcmp(a->form, "json_schema"), is_object = !strcmp(form, "json_object");
        if (is_object && (was_schema || was_object)) goto out;
        if (!(is_schema && was_object)) {
            QN_FAIL_IF(strcmp(a->form, form) != 0 || !same(a->form_value, v), e, QN_INVAL,
                       "%s and %s ask for different forms of the answer; send one of them", f->where, where);
            a->form_strict |= strict;
            goto out;
        }
    }
    a->form = form;
    a->form_value = v;
    a->form_strict |= strict;
    f->where = where;
out:
    if (!rc) f->x->param = NULL;
    return rc;
}

static const struct qn_json *first_of(const struct qn_json *object, const char *const *keys, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const struct qn_json *v = qn_json_get(object, keys[i]);
        if (is_said(v)) return v;
    }
    return NULL;
}

static bool looks_like_schema(const struct qn_json *v)
{
    static const char *const words[] = {"type",  "properties", "$ref",  "anyOf", "oneOf",
                                        "allOf", "enum",       "const", "items"};
    return qn_json_is(v, QN_JSON_OBJECT) && first_of(v, words, QN_COUNT(words));
}

/* The schema of a json_schema or json_object format: wrapped, flat, or the wrapper's place taken by itself.
 */
static const struct qn_json *schema_of(const struct qn_json *format, bool *strict)
{
    static const char *const keys[] = {"schema", "schema_definition", "value"};
    const struct qn_json *in = qn_json_get(format, "json_schema"), *v;
    const struct qn_json *said = qn_json_get(qn_json_is(in, QN_JSON_OBJECT) ? in : format, "strict");
    *strict = qn_json_is(said, QN_JSON_BOOL) && said->truth;
    if (qn_json_is(in, QN_JSON_STRING) && in->n) return in;
    v = qn_json_is(in, QN_JSON_OBJECT) ? first_of(in, keys, QN_COUNT(keys)) : NULL;
    if (!v && looks_like_schema(in)) v = in;
    return v ? v : first_of(format, keys, QN_COUNT(keys));
}

int qn_ask_add_format(struct qn_ask *a, struct qn_exchange *x, const struct qn_json *format,
                      const char *where, struct qn_err *e)
{
    int rc = QN_OK;
    struct found f = {.a = a, .x = x, .where = where, .e = e};
    static const char *const regexes[] = {"pattern", "regex", "value", "schema"},
                             *const grammars[] = {"grammar", "ebnf",  "gbnf",       "lark",
                                                  "cfg",     "value", "definition", "schema"},
                             *const choices[] = {"choice", "choices", "value", "enum"};
    static const struct {
        const char *type, *form;
    } texts[] = {{"regex", "regex"},  {"regexp", "regex"}, {"grammar", "grammar"}, {"ebnf", "grammar"},
                 {"gbnf", "grammar"}, {"lark", "grammar"}, {"cfg", "grammar"},     {"choice", "choice"}};
    x->param = where;
    QN_FAIL_IF(!qn_json_is(format, QN_JSON_OBJECT), e, QN_INVAL, "'%s' must be an object", where);
    const struct qn_json *type = qn_json_get(format, "type"), *v;
    bool strict;
    if (qn_json_is_str(type, "text")) goto done;
    v = schema_of(format, &strict);
    if (qn_json_is_str(type, "json_object") || qn_json_is_str(type, "json")) {
        QN_TRY(add(&f, where, v ? "json_schema" : "json_object", v, strict));
        goto done;
    }
    if (qn_json_is_str(type, "json_schema") || (!type && v)) {
        QN_FAIL_IF(!v, e, QN_INVAL, "%s: json_schema needs a schema", where);
        QN_TRY(add(&f, where, "json_schema", v, strict));
        goto done;
    }
    if (qn_json_is_str(type, "structural_tag")) {
        QN_TRY(add(&f, where, "structural_tag", format, false));
        goto done;
    }
    for (size_t i = 0; i < QN_COUNT(texts); i++) {
        if (!qn_json_is_str(type, texts[i].type)) continue;
        v = !strcmp(texts[i].form, "regex")    ? first_of(format, regexes, QN_COUNT(regexes))
            : !strcmp(texts[i].form, "choice") ? first_of(format, choices, QN_COUNT(choices))
                                               : first_of(format, grammars, QN_COUNT(grammars));
        QN_FAIL_IF(!v, e, QN_INVAL, "%s: type %s needs its %s", where, texts[i].type, texts[i].form);
        QN_TRY(add(&f, where, texts[i].form, v, false));
        goto done;
    }
    QN_FAIL(e, QN_INVAL,
            "%s: type must be text, json_object, json_schema, structural_tag, regex, choice or grammar",
            where);
done:
    x->param = NULL;
out:
    return rc;
}

/* Members with the constraint as their value. */
static const struct {
    const char *key, *form;
} members[] = {{"json", "json_schema"}, {"json_schema", "json_schema"},
               {"regex", "regex"},      {"choice", "choice"},
               {"grammar", "grammar"},  {"ebnf", "grammar"},
               {"lark", "grammar"},     {"structural_tag", "structural_tag"}};

static int read_structured(struct found *f, const struct qn_json *body, const char *where)
{
    int rc = QN_OK;
    struct qn_err *e = f->e;
    static const char *const options[] = {"json_object",
                                          "disable_fallback",
                                          "disable_any_whitespace",
                                          "disable_additional_properties",
                                          "whitespace_pattern",
                                          "backend",
                                          "_backend",
                                          "_backend_was_auto"};
    struct qn_json *structured;
    f->x->param = where;
    QN_TRY(qn_json_get_obj(body, where, &structured, e));
    for (size_t i = 0; structured && i < structured->n; i++) {
        const char *key = structured->keys[i].text;
        const struct qn_json *v = structured->items[i];
        bool is_known = !is_said(v);
        for (size_t k = 0; !is_known && k < QN_COUNT(members); k++) {
            if (strcmp(members[k].key, key) != 0) continue;
            QN_TRY(add(f, where, members[k].form, v, false));
            is_known = true;
        }
        for (size_t k = 0; k < QN_COUNT(options); k++) is_known |= !strcmp(options[k], key);
        f->x->param = where;
        QN_FAIL_IF(!is_known, e, QN_INVAL, "%s: '%.60s' is not a constraint that quern knows", where, key);
    }
    bool json_object = false;
    QN_TRY(qn_json_get_bool(structured, "json_object", false, &json_object, e));
    if (json_object) QN_TRY(add(f, where, "json_object", NULL, false));
    f->x->param = NULL;
out:
    return rc;
}

/* Ollama's `format`: "json" or a schema. */
static int read_bare_format(struct found *f, const struct qn_json *v)
{
    if (qn_json_is_str(v, "json")) return add(f, "format", "json_object", NULL, false);
    return looks_like_schema(v) ? add(f, "format", "json_schema", v, false) : QN_OK;
}

int qn_ask_read_form(struct qn_ask *a, struct qn_exchange *x, const struct qn_json *body, struct qn_err *e)
{
    int rc = QN_OK;
    struct found f = {.a = a, .x = x, .where = "response_format", .e = e};
    static const struct {
        const char *key, *form;
    } flat[] = {{"guided_json", "json_schema"},
                {"guided_regex", "regex"},
                {"guided_choice", "choice"},
                {"guided_grammar", "grammar"},
                {"json_schema", "json_schema"},
                {"grammar", "grammar"},
                {"regex", "regex"},
                {"ebnf", "grammar"},
                {"structural_tag", "structural_tag"},
                {"response_schema", "json_schema"},
                {"guided_structural_tag", "structural_tag"}};
    const struct qn_json *format = qn_json_get(body, "response_format");
    if (is_said(format)) QN_TRY(qn_ask_add_format(a, x, format, "response_format", e));
    QN_TRY(read_structured(&f, body, "structured_outputs"));
    QN_TRY(read_structured(&f, body, "guided_decoding"));
    for (size_t i = 0; i < QN_COUNT(flat); i++) {
        const struct qn_json *v = qn_json_get(body, flat[i].key);
        if (is_said(v)) QN_TRY(add(&f, flat[i].key, flat[i].form, v, false));
    }
    bool json_object = false;
    QN_TRY(qn_json_get_bool(body, "guided_json_object", false, &json_object, e));
    if (json_object) QN_TRY(add(&f, "guided_json_object", "json_object", NULL, false));
    QN_TRY(read_bare_format(&f, qn_json_get(body, "format")));
out:
    return rc;
}
