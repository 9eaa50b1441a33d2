/* From a request's constraints to a grammar.
 * SPDX-License-Identifier: Apache-2.0 */
#include "text/constrain.h"

#include <pthread.h>

#include "base/hash.h"
#include "text/gbnf.h"
#include "text/lark.h"
#include "text/regex.h"
#include "text/schema.h"
#include "text/tags.h"

#define MAX_ALTERNATIVES 32 /* objects that the schema of a tool may allow at its top */
#define MAX_KEY          64 /* characters of a parameter name that is not declared */

struct tool {
    const struct qn_tool *tool;
    qn_term body; /* from behind "<function=NAME>\n" to "</tool_call>" */
    bool is_allowed;
};

struct maker {
    const struct qn_constrain *c;
    struct qn_terms *t;
    struct qn_buf *report;
    struct tool *tools; /* [n_tool] */
    int n_tool;
    qn_term calls; /* behind "<tool_call>": the rest of one call of an allowed tool */
};

static const char TOOL_OPEN[] = "<tool_call>", TOOL_CLOSE[] = "</function>\n</tool_call>";

/* Text of the format, with the markers as tokens. */
static qn_term marked(const struct maker *m, const char *s)
{
    return qn_term_marked(m->t, s, strlen(s), m->c->markers);
}

/* A name the format can spell. */
static bool is_spellable(const char *s, size_t n)
{
    if (!n || (unsigned char)s[0] <= ' ' || (unsigned char)s[n - 1] <= ' ') return false;
    for (size_t i = 0; i < n; i++)
        if (s[i] == '>' || s[i] == '\n' || !s[i]) return false;
    return true;
}

static qn_term opener(struct qn_terms *t, const char *tag, const char *name, size_t n)
{
    struct qn_buf text = QN_BUF_INIT(1 << 20);
    qn_buf_puts(&text, tag);
    qn_buf_append(&text, name, n);
    qn_buf_puts(&text, ">\n");
    qn_term out = qn_term_lit(t, qn_buf_str(&text), text.n_byte);
    qn_buf_free(&text);
    return out;
}

/* The opener of a parameter that is not declared. */
static qn_term other_key(struct qn_terms *t, const struct qn_term_member *members, int n)
{
    uint64_t set[4] = {~(uint64_t)0 << 33, ~(uint64_t)0, ~(uint64_t)0, ~(uint64_t)0};
    set[0] &= ~((uint64_t)1 << '<' | (uint64_t)1 << '>');
    set[1] &= ~((uint64_t)1 << 63); /* DEL */
    set[2] = set[3] = 0;            /* names outside ASCII may hold blanks the parser trims */
    qn_term name = qn_term_repeat(t, qn_term_class(t, set), 1, MAX_KEY),
            *declared = xcalloc((size_t)n + 1, sizeof *declared);
    for (int i = 0; i < n; i++) declared[i] = members[i].key;
    name = qn_term_seq3(t, qn_term_str(t, "<parameter="), name, qn_term_str(t, ">\n"));
    name = qn_term_and(t, name, qn_term_not(t, qn_term_alts(t, declared, (size_t)n)), true);
    free(declared);
    return name;
}

/* An argument's text; what cannot be compiled is free text unless the tool is strict. */
static int argument(qn_term *out, bool *is_tagged, bool *is_bare, struct qn_schema *s,
                    const struct qn_json *schema, bool strict, const char *where, struct maker *m,
                    struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_err why = {0};
    rc = qn_schema_argument(out, is_tagged, is_bare, s, schema, &why);
    if (rc && !strict && rc != QN_TOOBIG) {
        if (m->report) qn_buf_printf(m->report, "%s: an argument is left free: %s\n", where, why.text);
        *out = QN_TERM_EMPTY;
        rc = QN_OK;
    }
    QN_FAIL_IF(rc, e, rc, "%s", why.text);
out:
    return rc;
}

/* Parameters of one object schema (NULL: unknown) between tags, then `end`. */
static int object_term(qn_term *out, struct maker *m, struct qn_schema *s, const struct qn_json *flat,
                       bool is_strict, const char *where, qn_term end, struct qn_err *e)
{
    int rc = QN_OK;
    const struct qn_json *properties = qn_json_get(flat, "properties"),
                         *required = qn_json_get(flat, "required");
    size_t n = qn_json_is(properties, QN_JSON_OBJECT) ? properties->n : 0;
    struct qn_term_member *members = xcalloc(n + 1, sizeof *members);
    struct qn_term_object object = {
        .members = members, .separator = QN_TERM_EPS, .is_call = true, .end = end};
    for (size_t i = 0; i < n; i++) {
        const char *key = properties->keys[i].text;
        size_t n_key = properties->keys[i].n;
        if (!is_spellable(key, n_key)) continue;
        struct qn_term_member *member = &members[object.n_member++];
        member->key = opener(m->t, "<parameter=", key, n_key);
        member->name = key;
        member->n_name = n_key;
        for (size_t k = 0; qn_json_is(required, QN_JSON_ARRAY) && k < required->n; k++)
            member->is_required |= qn_json_is_str(required->items[k], key);
        QN_TRY(argument(&member->value, &member->is_tagged, &member->is_bare, s, properties->items[i],
                        is_strict, where, m, e));
    }
    /* listed properties are all there are unless the schema says otherwise */
    const struct qn_json *more = qn_json_get(flat, "additionalProperties");
    bool is_open = more ? !qn_json_is(more, QN_JSON_BOOL) || more->truth : !n;
    if (!is_strict && is_open) {
        object.more = other_key(m->t, members, object.n_member);
        QN_TRY(argument(&object.more_value, &object.more_tagged, &object.more_bare, s, more, false, where, m,
                        e));
    }
    *out = qn_term_object(m->t, &object);
out:
    free(members);
    return rc;
}

/* Parameters of a schema between tags, then `end`: one of the objects it allows. */
static int parameters_term(qn_term *out, struct maker *m, const struct qn_json *schema, bool is_strict,
                           const char *where, qn_term end, struct qn_err *e)
{
    int rc = QN_OK, n = 0;
    struct qn_schema *s = qn_schema_create(m->t, schema, is_strict, where, m->report);
    const struct qn_json *flats[MAX_ALTERNATIVES] = {NULL};
    qn_term each[MAX_ALTERNATIVES];
    if (schema) {
        struct qn_err why = {0};
        rc = qn_schema_objects(flats, MAX_ALTERNATIVES, &n, s, schema, &why);
        if (rc && !is_strict) {
            if (m->report) qn_buf_printf(m->report, "%s: the schema is not used: %s\n", where, why.text);
            rc = QN_OK;
            n = 0;
        }
        QN_FAIL_IF(rc, e, rc, "%s", why.text);
    }
    if (!n) flats[n++] = NULL;
    for (int i = 0; i < n; i++) QN_TRY(object_term(&each[i], m, s, flats[i], is_strict, where, end, e));
    *out = qn_term_alts(m->t, each, (size_t)n);
out:
    qn_schema_free(s);
    return rc;
}

static int tool_body(qn_term *out, struct maker *m, const struct qn_tool *tool, struct qn_err *e)
{
    char where[96];
    snprintf(where, sizeof where, "tool '%.64s'", tool->name);
    return parameters_term(out, m, tool->parameters, tool->is_strict, where, marked(m, TOOL_CLOSE), e);
}

static int make_tools(struct maker *m, struct qn_err *e)
{
    int rc = QN_OK;
    const struct qn_constrain *c = m->c;
    int n = c->tools ? c->tools->n_tool : 0, n_allowed = 0;
    qn_term *each = xcalloc((size_t)n + 1, sizeof *each);
    m->tools = xcalloc((size_t)n + 1, sizeof *m->tools);
    QN_FAIL_IF(!n && (c->choice == QN_CHOICE_REQUIRED || c->choice == QN_CHOICE_NAMED), e, QN_INVAL,
               "tool_choice asks for a call, but the request has no tools");
    QN_FAIL_IF(
        c->choice == QN_CHOICE_NAMED && (!c->name || qn_toolset_find(c->tools, c->name, strlen(c->name)) < 0),
        e, QN_INVAL, "tool_choice names '%.100s', which is not among the tools", c->name ? c->name : "");
    for (int i = 0; c->choice != QN_CHOICE_NONE && i < n; i++) {
        const struct qn_tool *tool = &c->tools->tools[i];
        if (qn_toolset_find(c->tools, tool->name, tool->n_name) != i ||
            !is_spellable(tool->name, tool->n_name))
            continue;
        struct tool *made = &m->tools[m->n_tool++];
        *made = (struct tool){.tool = tool, .is_allowed = !c->n_allowed};
        for (int k = 0; k < c->n_allowed; k++) made->is_allowed |= !strcmp(c->allowed[k], tool->name);
        if (c->choice == QN_CHOICE_NAMED) made->is_allowed = !strcmp(c->name, tool->name);
        if (!made->is_allowed) continue;
        QN_TRY(tool_body(&made->body, m, tool, e));
        n_allowed++;
        each[i] = qn_term_seq(m->t, opener(m->t, "\n<function=", tool->name, tool->n_name), made->body);
    }
    QN_FAIL_IF(c->choice >= QN_CHOICE_REQUIRED && !n_allowed, e, QN_INVAL,
               "tool_choice asks for a call, but no allowed tool is among the tools");
    m->calls = qn_term_alts(m->t, each, (size_t)n);
out:
    free(each);
    return rc;
}

/* The constrained form of content, EMPTY for free text. */
static int make_form(qn_term *out, struct maker *m, struct qn_err *e)
{
    int rc = QN_OK;
    const struct qn_constrain *c = m->c;
    struct qn_schema *s = NULL;
    qn_term *each = NULL;
    *out = QN_TERM_EMPTY;
    switch (c->form) {
    case QN_CONTENT_FREE:
    case QN_CONTENT_TAGS:
        break;
    case QN_CONTENT_JSON_OBJECT:
        s = qn_schema_create(m->t, NULL, false, "response_format", m->report);
        *out = qn_schema_any_object(s);
        break;
    case QN_CONTENT_JSON_SCHEMA:
        s = qn_schema_create(m->t, c->schema, c->is_strict, "response_format", m->report);
        QN_TRY(qn_schema_term(out, s, c->schema, e));
        break;
    case QN_CONTENT_REGEX:
        QN_TRY(qn_regex_term(out, m->t, c->text, strlen(c->text), true, false, "regex", e));
        break;
    case QN_CONTENT_CHOICE:
        QN_FAIL_IF(!qn_json_is(c->schema, QN_JSON_ARRAY) || !c->schema->n, e, QN_INVAL,
                   "'choice' must be an array of strings that is not empty");
        each = xcalloc(c->schema->n, sizeof *each);
        for (size_t i = 0; i < c->schema->n; i++) {
            const struct qn_json *v = c->schema->items[i];
            QN_FAIL_IF(!qn_json_is(v, QN_JSON_STRING) || !v->n, e, QN_INVAL,
                       "choice[%zu] must be a string that is not empty", i);
            each[i] = qn_term_lit(m->t, v->text, v->n);
        }
        *out = qn_term_alts(m->t, each, c->schema->n);
        break;
    case QN_CONTENT_GRAMMAR:
        if (qn_lark_is(c->text, strlen(c->text)))
            QN_TRY(qn_lark_term(out, m->t, c->text, strlen(c->text), e));
        else
            QN_TRY(qn_gbnf_term(out, m->t, c->text, strlen(c->text), c->markers, e));
        break;
    }
    QN_TRY(qn_terms_check(m->t, e));
    QN_FAIL_IF(*out == QN_TERM_EMPTY && c->form != QN_CONTENT_FREE && c->form != QN_CONTENT_TAGS, e, QN_INVAL,
               "nothing can satisfy the requested format");
out:
    free(each);
    qn_schema_free(s);
    return rc;
}

static int tag_parameters(qn_term *out, void *user, const struct qn_json *schema, qn_term rest,
                          struct qn_err *e)
{
    struct maker *m = user;
    return parameters_term(out, m, schema, m->c->is_strict, "structural_tag", rest, e);
}

/* Structural tags: free text with triggers, or a language of its own. */
static int make_tags(struct qn_tags_text *text, qn_term *form, struct maker *m, qn_term content,
                     struct qn_err *e)
{
    bool must_tag;
    struct qn_tags_opt opt = {.is_strict = m->c->is_strict,
                              .report = m->report,
                              .markers = m->c->markers,
                              .parameters = tag_parameters,
                              .user = m};
    return qn_tags_read(text, form, &must_tag, m->t, m->c->schema, content, &opt, e);
}

/* Free text with triggers: calls (in mode auto), structural tags; `content` is what comes behind them. */
static qn_term make_text(struct maker *m, struct qn_tags_text *text, qn_term content)
{
    const struct qn_constrain *c = m->c;
    if (c->tools && c->tools->n_tool) {
        text->words[text->n] = TOOL_OPEN;
        text->next[text->n++] = qn_term_seq(m->t, m->calls, c->single_call ? QN_TERM_EPS : content);
    }
    return qn_term_trigger(m->t, text->words, text->next, text->n, true);
}

/* Thinking: free up to its end, or up to a call that forgets to end it. */
static qn_term make_thinking(struct maker *m, qn_term content, qn_term after_call, bool may_end)
{
    static const char close[] = "</think>", other_close[] = "\n</thinking>\n";
    size_t n = 0, size = (size_t)m->n_tool + 2;
    const char **words = xcalloc(size, sizeof *words);
    char **made = xcalloc(size, sizeof *made);
    qn_term *next = xcalloc(size, sizeof *next);
    words[n] = close;
    next[n++] = content;
    words[n] = other_close;
    next[n++] = content;
    for (int i = 0; i < m->n_tool; i++) {
        const struct tool *tool = &m->tools[i];
        made[i] = xasprintf("<tool_call>\n<function=%s>", tool->tool->name);
        words[n] = made[i];
        next[n++] = tool->is_allowed ? qn_term_seq3(m->t, qn_term_str(m->t, "\n"), tool->body, after_call)
                                     : QN_TERM_EMPTY;
    }
    qn_term out = qn_term_trigger(m->t, words, next, (int)n, may_end);
    for (int i = 0; i < m->n_tool; i++) free(made[i]);
    free(made);
    free(words);
    free(next);
    return out;
}

static int make(qn_term *out, struct maker *m, struct qn_err *e)
{
    int rc = QN_OK;
    const struct qn_constrain *c = m->c;
    struct qn_terms *t = m->t;
    struct qn_tags_text *text = xcalloc(1, sizeof *text);
    qn_term form, content = QN_TERM_EMPTY, after_call, rule = qn_term_rule_new(t);
    QN_TRY(make_tools(m, e));
    QN_TRY(make_form(&form, m, e));
    if (c->form == QN_CONTENT_TAGS) QN_TRY(make_tags(text, &form, m, rule, e));
    bool is_forced = c->choice == QN_CHOICE_REQUIRED || c->choice == QN_CHOICE_NAMED;
    bool single = c->single_call || c->choice == QN_CHOICE_NAMED;
    qn_term newlines = qn_term_repeat(t, qn_term_str(t, "\n"), 0, 2);
    if (is_forced || form != QN_TERM_EMPTY) {
        /* calls, the form, or either */
        qn_term open = marked(m, TOOL_OPEN);
        after_call = QN_TERM_EPS;
        if (!single) {
            after_call = qn_term_rule_new(t);
            qn_term more = qn_term_seq3(t, qn_term_str(t, "\n"), open, qn_term_seq(t, m->calls, after_call));
            qn_term_rule_set(t, after_call, qn_term_alt(t, QN_TERM_EPS, more));
        }
        qn_term calls = qn_term_seq3(t, open, m->calls, after_call);
        content = is_forced ? calls : qn_term_alt(t, form, calls);
        /* blank lines only where the parser drops them: after thinking, before a call */
        if (is_forced || c->starts_in_reasoning) content = qn_term_seq(t, newlines, content);
    } else {
        content = make_text(m, text, rule);
        after_call = single ? QN_TERM_EPS : rule;
    }
    qn_term_rule_set(t, rule, content);
    bool is_free = !is_forced && form == QN_TERM_EMPTY;
    *out = c->starts_in_reasoning ? make_thinking(m, content, after_call, is_free) : content;
out:
    free(text);
    return rc;
}

static int compile(struct qn_grammar **out, const struct qn_constrain *c, struct qn_buf *report,
                   struct qn_err *e)
{
    int rc = QN_OK;
    struct maker m = {.c = c, .report = report};
    qn_term start;
    m.t = qn_terms_create(QN_GRAMMAR_MAX_TERMS);
    QN_TRY(make(&start, &m, e));
    QN_TRY(qn_terms_seal(m.t, e));
    QN_FAIL_IF(start == QN_TERM_EMPTY, e, QN_INVAL, "nothing can satisfy the constraints of the request");
    *out = qn_grammar_create(m.t, start);
    m.t = NULL;
out:
    free(m.tools);
    qn_terms_free(m.t);
    return rc;
}

/* --- grammars kept for equal requests --- */

struct kept {
    uint64_t key[2];
    struct qn_grammar *grammar;
    char *report;
    uint64_t used; /* by age */
};

static struct kept kept[QN_CONSTRAIN_KEPT];
static uint64_t kept_clock;
static pthread_mutex_t kept_lock = PTHREAD_MUTEX_INITIALIZER; /* requests compile on their own threads */

static void write_part(struct qn_buf *b, const char *s)
{
    if (s) qn_json_write_str(b, s, strlen(s), false);
    qn_buf_puts(b, "\n");
}

/* Everything the grammar depends on. False: too large to keep. */
static bool key_of(uint64_t key[2], const struct qn_constrain *c)
{
    struct qn_buf b = QN_BUF_INIT(32u << 20);
    qn_buf_printf(&b, "%d %d %d %d %d %u\n", c->starts_in_reasoning, (int)c->choice, c->single_call,
                  (int)c->form, c->is_strict, c->markers);
    write_part(&b, c->name);
    for (int i = 0; i < c->n_allowed; i++) write_part(&b, c->allowed[i]);
    write_part(&b, c->text);
    if (c->schema) qn_json_write(&b, c->schema, QN_JSON_EXACT);
    for (int i = 0; c->tools && i < c->tools->n_tool; i++) {
        const struct qn_tool *tool = &c->tools->tools[i];
        qn_buf_printf(&b, "\n%d ", tool->is_strict);
        qn_json_write_str(&b, tool->name, tool->n_name, false);
        if (tool->parameters) qn_json_write(&b, tool->parameters, QN_JSON_EXACT);
    }
    key[0] = qn_hash_bytes(1, qn_buf_str(&b), b.n_byte);
    key[1] = qn_hash_bytes(0x9e3779b97f4a7c15u, qn_buf_str(&b), b.n_byte);
    bool is_ok = !b.failed;
    qn_buf_free(&b);
    return is_ok;
}

static void forget(struct kept *k)
{
    qn_grammar_release(k->grammar);
    free(k->report);
    *k = (struct kept){0};
}

static struct qn_grammar *recall(const uint64_t key[2], struct qn_buf *report)
{
    struct qn_grammar *out = NULL;
    pthread_mutex_lock(&kept_lock);
    for (int i = 0; i < QN_CONSTRAIN_KEPT; i++) {
        struct kept *k = &kept[i];
        if (!k->grammar || k->key[0] != key[0] || k->key[1] != key[1]) continue;
        if (qn_grammar_is_worn(k->grammar)) {
            forget(k);
            break;
        }
        out = qn_grammar_acquire(k->grammar);
        k->used = ++kept_clock;
        if (report) qn_buf_puts(report, k->report);
    }
    pthread_mutex_unlock(&kept_lock);
    return out;
}

static void keep(const uint64_t key[2], struct qn_grammar *g, const char *report)
{
    pthread_mutex_lock(&kept_lock);
    struct kept *oldest = &kept[0];
    for (int i = 1; i < QN_CONSTRAIN_KEPT; i++)
        if (kept[i].used < oldest->used) oldest = &kept[i];
    forget(oldest);
    *oldest = (struct kept){{key[0], key[1]}, qn_grammar_acquire(g), xstrdup(report), ++kept_clock};
    pthread_mutex_unlock(&kept_lock);
}

int qn_constrain_compile(struct qn_grammar **out, const struct qn_constrain *c, struct qn_buf *report,
                         struct qn_err *e)
{
    uint64_t key[2];
    bool has_tools = c->tools && c->tools->n_tool;
    if (!has_tools && c->form == QN_CONTENT_FREE && c->choice < QN_CHOICE_REQUIRED) {
        *out = NULL;
        return QN_OK;
    }
    bool can_keep = key_of(key, c);
    if (can_keep && (*out = recall(key, report))) return QN_OK;
    struct qn_buf lines = QN_BUF_INIT(1 << 20);
    struct qn_grammar *g = NULL;
    int rc = compile(&g, c, &lines, e);
    if (rc == QN_UNSUPPORTED) { /* the client's to change: a status that says "later" would be tried again */
        rc = QN_INVAL;
        if (e) e->code = QN_INVAL;
    }
    if (!rc) {
        if (can_keep) keep(key, g, qn_buf_str(&lines));
        if (report) qn_buf_append(report, qn_buf_str(&lines), lines.n_byte);
        *out = g;
    }
    qn_buf_free(&lines);
    return rc;
}

void qn_constrain_forget(void)
{
    pthread_mutex_lock(&kept_lock);
    for (int i = 0; i < QN_CONSTRAIN_KEPT; i++) forget(&kept[i]);
    pthread_mutex_unlock(&kept_lock);
}
