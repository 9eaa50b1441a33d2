/* Structural tags.
 * SPDX-License-Identifier: Apache-2.0 */
#include "text/tags.h"

#include "text/gbnf.h"
#include "text/grammar.h"
#include "text/regex.h"
#include "text/schema.h"

#define MAX_DEPTH  32
#define MAX_REPEAT 100000
#define MAX_TAGS   4096 /* of one list */

struct reader {
    struct qn_terms *t;
    const struct qn_tags_opt *opt;
    int depth;
};

/* What is to follow a part: a term, and where it begins with fixed strings those strings, so that free text
 * before them ends at the first. */
struct rest {
    qn_term term;
    const char *ends[16];
    qn_term behind[16]; /* term, when ends[i] has been read */
    int n_end;          /* 0: not known */
};

static int read_format(qn_term *out, struct reader *r, const struct qn_json *f, const struct rest *rest,
                       struct qn_err *e);

static int read_str(const char **out, const struct qn_json *f, const char *key, const char *type,
                    struct qn_err *e)
{
    int rc = QN_OK;
    const struct qn_json *v = qn_json_get(f, key);
    QN_FAIL_IF(!qn_json_is(v, QN_JSON_STRING), e, QN_INVAL, "structural tag: %s needs a string '%s'", type,
               key);
    *out = v->text;
out:
    return rc;
}

static int read_list(const struct qn_json **out, const struct qn_json *f, const char *key, const char *type,
                     struct qn_err *e)
{
    int rc = QN_OK;
    const struct qn_json *v = qn_json_get(f, key);
    QN_FAIL_IF(!qn_json_is(v, QN_JSON_ARRAY) || !v->n, e, QN_INVAL,
               "structural tag: %s needs a list '%s' that is not empty", type, key);
    *out = v;
out:
    return rc;
}

static int read_flag(bool *out, const struct qn_json *f, const char *key, struct qn_err *e)
{
    return qn_json_get_bool(f, key, false, out, e);
}

static qn_term fixed_bytes(const struct reader *r, const char *s, size_t n)
{
    return qn_term_marked(r->t, s, n, r->opt->markers);
}

static qn_term fixed(const struct reader *r, const char *s)
{
    return fixed_bytes(r, s, strlen(s));
}

static int json_term(qn_term *out, struct reader *r, const struct qn_json *schema, struct qn_err *e)
{
    struct qn_schema *s = qn_schema_create(r->t, schema, r->opt->is_strict, "structural_tag", r->opt->report);
    int rc = qn_schema_term(out, s, schema, e);
    qn_schema_free(s);
    return rc;
}

/* Free text up to what follows; with `excludes` words that may not come. */
static int any_text(qn_term *out, struct reader *r, const struct qn_json *f, const struct rest *rest,
                    struct qn_err *e)
{
    int rc = QN_OK;
    const struct qn_json *excludes = qn_json_get(f, "excludes");
    const char *words[64];
    qn_term next[64];
    int n = 0;
    size_t n_exclude = qn_json_is(excludes, QN_JSON_ARRAY) ? excludes->n : 0;
    QN_FAIL_IF(n_exclude > 32, e, QN_TOOBIG, "structural tag: excludes has more than 32 strings");
    for (; n < rest->n_end; n++) {
        words[n] = rest->ends[n];
        next[n] = rest->behind[n];
    }
    for (size_t i = 0; i < n_exclude; i++) {
        const struct qn_json *word = excludes->items[i];
        QN_FAIL_IF(!qn_json_is(word, QN_JSON_STRING) || !word->n, e, QN_INVAL,
                   "structural tag: excludes[%zu] must be a string that is not empty", i);
        words[n] = word->text;
        next[n++] = QN_TERM_EMPTY;
    }
    if (rest->n_end || rest->term == QN_TERM_EPS) {
        *out = n ? qn_term_trigger(r->t, words, next, n, !rest->n_end) : QN_TERM_ANY;
    } else { /* what follows has no fixed beginning: every place may be the end */
        qn_term body = n ? qn_term_trigger(r->t, words, next, n, true) : QN_TERM_ANY;
        *out = qn_term_seq(r->t, body, rest->term);
    }
out:
    return rc;
}

/* What stands behind the begin of a tag: content, end, and what follows. */
static int read_region(qn_term *out, struct reader *r, const struct qn_json *f, qn_term after,
                       struct qn_err *e)
{
    int rc = QN_OK;
    struct rest rest = {.term = QN_TERM_EMPTY};
    const struct qn_json *end = qn_json_get(f, "end"), *content = qn_json_get(f, "content");
    struct qn_json *const one[1] = {(struct qn_json *)(uintptr_t)end}, *const *ends = one;
    size_t n = 1;
    if (qn_json_is(end, QN_JSON_ARRAY)) {
        ends = end->items;
        n = end->n;
    }
    QN_FAIL_IF(!n || n > QN_COUNT(rest.ends), e, QN_INVAL, "structural tag: a tag needs 1 to %zu ends",
               QN_COUNT(rest.ends));
    bool is_known = true;
    for (size_t i = 0; i < n; i++) {
        QN_FAIL_IF(!qn_json_is(ends[i], QN_JSON_STRING), e, QN_INVAL,
                   "structural tag: the end of a tag must be a string");
        is_known = is_known && ends[i]->n > 0;
        rest.ends[i] = ends[i]->text;
        rest.behind[i] = after;
        rest.term =
            qn_term_alt(r->t, rest.term, qn_term_seq(r->t, fixed_bytes(r, ends[i]->text, ends[i]->n), after));
    }
    rest.n_end = is_known ? (int)n : 0;
    if (qn_json_is_null(content)) { /* the older shape has the schema itself */
        QN_TRY(json_term(out, r, qn_json_get(f, "schema"), e));
        *out = qn_term_seq(r->t, *out, rest.term);
    } else {
        QN_TRY(read_format(out, r, content, &rest, e));
    }
out:
    return rc;
}

static int read_tag(qn_term *out, struct reader *r, const struct qn_json *f, qn_term after, struct qn_err *e)
{
    int rc = QN_OK;
    const char *begin = "";
    QN_TRY(read_str(&begin, f, "begin", "tag", e));
    QN_TRY(read_region(out, r, f, after, e));
    *out = qn_term_seq(r->t, fixed(r, begin), *out);
out:
    return rc;
}

/* The tags of a list, each read once however often it is asked for: reading takes time that doubles with each
 * level otherwise. */
struct tags {
    const char **begins;
    qn_term *regions;
    size_t n;
};

static void free_tags(struct tags *tags)
{
    free(tags->begins);
    free(tags->regions);
}

static int read_tags(struct tags *tags, struct reader *r, const struct qn_json *list, qn_term after,
                     struct qn_err *e)
{
    int rc = QN_OK;
    QN_FAIL_IF(list->n > MAX_TAGS, e, QN_TOOBIG, "structural tag: more than %d tags", MAX_TAGS);
    tags->begins = xcalloc(list->n, sizeof *tags->begins);
    tags->regions = xcalloc(list->n, sizeof *tags->regions);
    tags->n = list->n;
    for (size_t i = 0; i < list->n; i++) {
        QN_TRY(read_str(&tags->begins[i], list->items[i], "begin", "tag", e));
        QN_TRY(read_region(&tags->regions[i], r, list->items[i], after, e));
    }
out:
    return rc;
}

/* One of the tags that begin with `word`, behind it. */
static qn_term tags_behind(struct reader *r, const struct tags *tags, const char *word)
{
    qn_term *each = xcalloc(tags->n, sizeof *each);
    size_t n_word = strlen(word);
    for (size_t i = 0; i < tags->n; i++)
        if (!strncmp(tags->begins[i], word, n_word))
            each[i] = qn_term_seq(r->t, fixed(r, tags->begins[i] + n_word), tags->regions[i]);
    qn_term out = qn_term_alts(r->t, each, tags->n);
    free(each);
    return out;
}

/* Words and what follows them. `after`: behind a region, unless one region is all. *tags gets the list. */
static int read_triggers(struct qn_tags_text *text, struct tags *tags, struct reader *r,
                         const struct qn_json *f, const char *tags_key, qn_term after, struct qn_err *e)
{
    int rc = QN_OK;
    const struct qn_json *triggers, *list, *excludes = qn_json_get(f, "excludes");
    QN_TRY(read_list(&triggers, f, "triggers", "triggered_tags", e));
    QN_TRY(read_list(&list, f, tags_key, "triggered_tags", e));
    size_t n_exclude = qn_json_is(excludes, QN_JSON_ARRAY) ? excludes->n : 0;
    QN_FAIL_IF(triggers->n + n_exclude > QN_TAGS_MAX_TRIGGERS - 2, e, QN_TOOBIG,
               "structural tag: more than %d triggers", QN_TAGS_MAX_TRIGGERS - 2);
    QN_TRY(read_tags(tags, r, list, after, e));
    for (size_t i = 0; i < triggers->n; i++) {
        const struct qn_json *word = triggers->items[i];
        QN_FAIL_IF(!qn_json_is(word, QN_JSON_STRING) || !word->n, e, QN_INVAL,
                   "structural tag: triggers[%zu] must be a string that is not empty", i);
        text->words[text->n] = word->text;
        text->next[text->n] = tags_behind(r, tags, word->text);
        QN_FAIL_IF(text->next[text->n] == QN_TERM_EMPTY, e, QN_INVAL,
                   "structural tag: no tag begins with the trigger '%.60s'", word->text);
        text->n++;
    }
    for (size_t i = 0; i < n_exclude; i++) {
        const struct qn_json *word = excludes->items[i];
        QN_FAIL_IF(!qn_json_is(word, QN_JSON_STRING) || !word->n, e, QN_INVAL,
                   "structural tag: excludes[%zu] must be a string that is not empty", i);
        text->words[text->n] = word->text;
        text->next[text->n++] = QN_TERM_EMPTY;
    }
out:
    return rc;
}

static int triggered(qn_term *out, struct reader *r, const struct qn_json *f, const struct rest *rest,
                     struct qn_err *e)
{
    int rc = QN_OK;
    bool must, once;
    struct qn_tags_text *text = xcalloc(1, sizeof *text);
    struct tags tags = {0};
    QN_TRY(read_flag(&must, f, "at_least_one", e));
    QN_TRY(read_flag(&once, f, "stop_after_first", e));
    qn_term again = once ? rest->term : qn_term_rule_new(r->t);
    QN_TRY(read_triggers(text, &tags, r, f, "tags", again, e));
    /* where the free text may end */
    for (int i = 0; i < rest->n_end && text->n < QN_TAGS_MAX_TRIGGERS; i++) {
        text->words[text->n] = rest->ends[i];
        text->next[text->n++] = rest->behind[i];
    }
    bool is_last = rest->term == QN_TERM_EPS;
    qn_term free_text = qn_term_trigger(r->t, text->words, text->next, text->n, is_last || !rest->n_end);
    if (!is_last && !rest->n_end) free_text = qn_term_seq(r->t, free_text, rest->term);
    if (!once) qn_term_rule_set(r->t, again, free_text);
    *out = must ? tags_behind(r, &tags, "") : free_text;
out:
    free_tags(&tags);
    free(text);
    return rc;
}

static int separated(qn_term *out, struct reader *r, const struct qn_json *f, const struct rest *rest,
                     struct qn_err *e)
{
    int rc = QN_OK;
    bool must, once;
    const char *separator = "";
    const struct qn_json *list;
    struct tags tags = {0};
    QN_TRY(read_flag(&must, f, "at_least_one", e));
    QN_TRY(read_flag(&once, f, "stop_after_first", e));
    QN_TRY(read_list(&list, f, "tags", "tags_with_separator", e));
    QN_TRY(read_str(&separator, f, "separator", "tags_with_separator", e));
    qn_term after = once ? rest->term : qn_term_rule_new(r->t);
    QN_TRY(read_tags(&tags, r, list, after, e));
    *out = tags_behind(r, &tags, "");
    if (!once) {
        qn_term more = qn_term_seq(r->t, fixed(r, separator), *out);
        qn_term_rule_set(r->t, after, qn_term_alt(r->t, rest->term, more));
    }
    if (!must) *out = qn_term_alt(r->t, *out, rest->term);
out:
    free_tags(&tags);
    return rc;
}

/* A part that stands for itself, whatever follows: its own language, then the rest. */
static int alone(qn_term *out, struct reader *r, const struct qn_json *f, struct qn_err *e)
{
    return read_format(out, r, f, &(struct rest){.term = QN_TERM_EPS}, e);
}

static int repeated(qn_term *out, struct reader *r, const struct qn_json *f, const char *type,
                    struct qn_err *e)
{
    int rc = QN_OK;
    int64_t min = 0, max = -1;
    qn_term one;
    const struct qn_json *content = qn_json_get(f, "content");
    QN_FAIL_IF(!qn_json_is(content, QN_JSON_OBJECT), e, QN_INVAL, "structural tag: %s needs 'content'", type);
    if (!strcmp(type, "plus")) min = 1;
    if (!strcmp(type, "optional")) max = 1;
    if (!strcmp(type, "repeat")) {
        QN_TRY(qn_json_get_int(f, "min", 0, &min, e));
        QN_TRY(qn_json_get_int(f, "max", -1, &max, e));
        QN_FAIL_IF(min < 0 || min > MAX_REPEAT || max > MAX_REPEAT || (max >= 0 && max < min), e, QN_INVAL,
                   "structural tag: repeat needs 0 <= min <= max <= %d", MAX_REPEAT);
    }
    QN_TRY(alone(&one, r, content, e));
    *out = qn_term_repeat(r->t, one, (uint32_t)min, max < 0 ? QN_TERM_MANY : (uint32_t)max);
out:
    return rc;
}

/* Elements from `at` on, then the rest. */
static int sequence(qn_term *out, struct reader *r, const struct qn_json *elements, const struct rest *rest,
                    struct qn_err *e)
{
    int rc = QN_OK;
    struct rest behind = *rest;
    *out = rest->term;
    for (size_t i = elements->n; i-- > 0;) {
        const struct qn_json *f = elements->items[i], *type = qn_json_get(f, "type"), *start = NULL;
        qn_term after = behind.term;
        /* free text before it ends where it begins, when that is a fixed string */
        if (qn_json_is_str(type, "tag")) {
            start = qn_json_get(f, "begin");
            QN_FAIL_IF(!qn_json_is(start, QN_JSON_STRING), e, QN_INVAL,
                       "structural tag: tag needs a string 'begin'");
            QN_TRY(read_region(&after, r, f, behind.term, e));
            *out = qn_term_seq(r->t, fixed(r, start->text), after);
        } else {
            if (qn_json_is_str(type, "const_string")) start = qn_json_get(f, "value");
            QN_TRY(read_format(out, r, f, &behind, e));
        }
        bool is_known = qn_json_is(start, QN_JSON_STRING) && start->n;
        behind = (struct rest){.term = *out, .n_end = is_known};
        behind.ends[0] = is_known ? start->text : NULL;
        behind.behind[0] = after;
    }
out:
    return rc;
}

static int read_kind(qn_term *out, struct reader *r, const struct qn_json *f, const char *type,
                     const struct rest *rest, struct qn_err *e)
{
    int rc = QN_OK;
    const char *text = "";
    const struct qn_json *list;
    qn_term *each = NULL;
    if (!strcmp(type, "any_text")) return any_text(out, r, f, rest, e);
    if (!strcmp(type, "tag")) return read_tag(out, r, f, rest->term, e);
    if (!strcmp(type, "triggered_tags")) return triggered(out, r, f, rest, e);
    if (!strcmp(type, "tags_with_separator")) return separated(out, r, f, rest, e);
    if (!strcmp(type, "sequence")) {
        QN_TRY(read_list(&list, f, "elements", type, e));
        return sequence(out, r, list, rest, e);
    }
    if (!strcmp(type, "or")) {
        QN_TRY(read_list(&list, f, "elements", type, e));
        each = xcalloc(list->n, sizeof *each);
        for (size_t i = 0; i < list->n; i++) QN_TRY(read_format(&each[i], r, list->items[i], rest, e));
        *out = qn_term_alts(r->t, each, list->n);
        goto out;
    }
    if (!strcmp(type, "const_string")) {
        QN_TRY(read_str(&text, f, "value", type, e));
        *out = fixed(r, text);
    } else if (!strcmp(type, "json_schema")) {
        QN_TRY(json_term(out, r, qn_json_get(f, "json_schema"), e));
    } else if (!strcmp(type, "qwen_xml_parameter")) {
        QN_FAIL_IF(rest->term == QN_TERM_EPS, e, QN_INVAL, "structural tag: %s needs a tag around it", type);
        return r->opt->parameters(out, r->opt->user, qn_json_get(f, "json_schema"), rest->term, e);
    } else if (!strcmp(type, "regex")) {
        QN_TRY(read_str(&text, f, "pattern", type, e));
        QN_TRY(qn_regex_term(out, r->t, text, strlen(text), true, false, "structural_tag", e));
    } else if (!strcmp(type, "grammar")) {
        QN_TRY(read_str(&text, f, "grammar", type, e));
        QN_TRY(qn_gbnf_term(out, r->t, text, strlen(text), r->opt->markers, e));
    } else if (!strcmp(type, "optional") || !strcmp(type, "star") || !strcmp(type, "plus") ||
               !strcmp(type, "repeat")) {
        QN_TRY(repeated(out, r, f, type, e));
    } else {
        QN_FAIL(e, QN_INVAL, "structural tag: the format '%.60s' is not supported", type);
    }
    *out = qn_term_seq(r->t, *out, rest->term);
out:
    free(each);
    return rc;
}

static int read_format(qn_term *out, struct reader *r, const struct qn_json *f, const struct rest *rest,
                       struct qn_err *e)
{
    int rc = QN_OK;
    const char *type = "";
    r->depth++;
    QN_FAIL_IF(r->depth > MAX_DEPTH, e, QN_TOOBIG, "structural tag: nested deeper than %d", MAX_DEPTH);
    QN_FAIL_IF(!qn_json_is(f, QN_JSON_OBJECT), e, QN_INVAL,
               "structural tag: a format must be an object with a type");
    QN_FAIL_IF(qn_terms_failed(r->t), e, QN_TOOBIG, "structural tag: it needs too many terms");
    QN_TRY(read_str(&type, f, "type", "a format", e));
    QN_TRY(read_kind(out, r, f, type, rest, e));
out:
    r->depth--;
    return rc;
}

int qn_tags_read(struct qn_tags_text *text, qn_term *form, bool *must_tag, struct qn_terms *t,
                 const struct qn_json *tags, qn_term after, const struct qn_tags_opt *opt, struct qn_err *e)
{
    int rc = QN_OK;
    struct reader r = {.t = t, .opt = opt};
    const struct qn_json *format = qn_json_get(tags, "format");
    const struct rest end = {.term = QN_TERM_EPS};
    struct tags list = {0};
    bool once = false;
    *form = QN_TERM_EMPTY;
    *must_tag = false;
    if (qn_json_is_null(format)) {
        QN_TRY(read_triggers(text, &list, &r, tags, "structures", after, e));
        goto out;
    }
    bool is_free = qn_json_is_str(qn_json_get(format, "type"), "triggered_tags");
    if (is_free) {
        QN_TRY(read_flag(must_tag, format, "at_least_one", e));
        QN_TRY(read_flag(&once, format, "stop_after_first", e));
    }
    if (is_free && !*must_tag) {
        QN_TRY(read_triggers(text, &list, &r, format, "tags", once ? QN_TERM_EPS : after, e));
        goto out;
    }
    QN_TRY(read_format(form, &r, format, &end, e));
    QN_TRY(qn_terms_check(r.t, e));
    QN_FAIL_IF(*form == QN_TERM_EMPTY, e, QN_INVAL, "structural tag: nothing can satisfy it");
out:
    free_tags(&list);
    return rc;
}
