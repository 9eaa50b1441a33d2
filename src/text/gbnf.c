/* Grammar text as terms.
 * SPDX-License-Identifier: Apache-2.0 */
#include "text/gbnf.h"

#include "base/buf.h"
#include "base/mem.h"
#include "text/grammar.h"
#include "text/regex.h"

struct rule {
    const char *name;
    size_t n;
    qn_term term;
    bool is_defined;
};

struct parser {
    struct qn_terms *t;
    const char *text, *s, *end;
    struct rule *rules; /* [n_rule], grows: no pointer into it outlives the next name */
    int n_rule, cap_rule, depth;
    int n_count; /* repetitions that count */
    unsigned tokens;
    struct qn_err *e;
};

static const char what[] = "grammar";

static int line_of(const struct parser *p)
{
    int line = 1;
    for (const char *c = p->text; c < p->s; c++) line += *c == '\n';
    return line;
}

static void blanks(struct parser *p)
{
    while (p->s < p->end) {
        if (*p->s == '#')
            while (p->s < p->end && *p->s != '\n') p->s++;
        else if (*p->s == ' ' || *p->s == '\t' || *p->s == '\r' || *p->s == '\n')
            p->s++;
        else
            break;
    }
}

static size_t name_len(const struct parser *p)
{
    size_t n = 0;
    while (p->s + n < p->end && (((p->s[n] | 32) >= 'a' && (p->s[n] | 32) <= 'z') || p->s[n] == '-' ||
                                 p->s[n] == '_' || (n && p->s[n] >= '0' && p->s[n] <= '9')))
        n++;
    return n;
}

/* Does a rule's head stand here? */
static bool at_head(const struct parser *p)
{
    struct parser look = *p;
    size_t n = name_len(&look);
    if (!n) return false;
    look.s += n;
    blanks(&look);
    return look.end - look.s >= 3 && !memcmp(look.s, "::=", 3);
}

static int rule_of(struct parser *p, const char *name, size_t n, struct rule **out)
{
    int rc = QN_OK, i = 0;
    struct qn_err *e = p->e;
    while (i < p->n_rule && (p->rules[i].n != n || memcmp(p->rules[i].name, name, n))) i++;
    if (i == p->n_rule) {
        QN_FAIL_IF(p->n_rule == QN_GBNF_MAX_RULES, e, QN_TOOBIG, "grammar: more than %d rules",
                   QN_GBNF_MAX_RULES);
        if (p->n_rule == p->cap_rule)
            p->rules = xreallocarray(p->rules, (size_t)(p->cap_rule = QN_MAX(16, 2 * p->cap_rule)),
                                     sizeof *p->rules);
        p->rules[p->n_rule++] = (struct rule){name, n, qn_term_rule_new(p->t), false};
    }
    *out = &p->rules[i];
out:
    return rc;
}

static int alternatives(struct parser *p, qn_term *out);

static int literal(struct parser *p, qn_term *out)
{
    int rc = QN_OK;
    struct qn_err *e = p->e;
    qn_term list[1];
    *out = QN_TERM_EPS;
    p->s++;
    /* characters are gathered and joined from the right */
    struct qn_buf plain = QN_BUF_INIT(QN_GRAMMAR_MAX_TEXT);
    while (p->s < p->end && *p->s != '"') {
        QN_FAIL_IF(*p->s == '\n', e, QN_INVAL, "grammar line %d: a literal lacks its closing quote",
                   line_of(p));
        if (*p->s != '\\') {
            qn_buf_putc(&plain, *p->s++);
            continue;
        }
        struct qn_charset set = {.n = 0};
        p->s++;
        QN_TRY(qn_charset_escape(&set, &p->s, p->end, what, e));
        QN_FAIL_IF(set.n != 1 || set.ranges[0].lo != set.ranges[0].hi, e, QN_INVAL,
                   "grammar line %d: a class inside a literal", line_of(p));
        uint32_t c = set.ranges[0].lo;
        unsigned char utf8[4];
        int n = c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
        for (int i = n - 1; i > 0; i--, c >>= 6) utf8[i] = (unsigned char)(0x80 | (c & 63));
        utf8[0] = (unsigned char)(n == 1 ? c : (n == 2 ? 0xc0 : n == 3 ? 0xe0 : 0xf0) | c);
        qn_buf_append(&plain, utf8, (size_t)n);
    }
    QN_FAIL_IF(p->s >= p->end, e, QN_INVAL, "grammar line %d: a literal lacks its closing quote", line_of(p));
    p->s++;
    list[0] = qn_term_lit(p->t, qn_buf_str(&plain), plain.n_byte);
    *out = list[0];
out:
    qn_buf_free(&plain);
    return rc;
}

static int element(struct parser *p, qn_term *out)
{
    int rc = QN_OK;
    struct qn_err *e = p->e;
    struct qn_charset set;
    struct rule *rule;
    size_t n;
    set.n = 0;
    if (*p->s == '"') {
        QN_TRY(literal(p, out));
    } else if (*p->s == '[') {
        p->s++;
        QN_TRY(qn_charset_parse(&set, &p->s, p->end, what, e));
        *out = qn_charset_term(p->t, &set, false);
    } else if (*p->s == '.') {
        p->s++;
        qn_charset_invert(&set);
        *out = qn_charset_term(p->t, &set, false);
    } else if (*p->s == '(') {
        p->s++;
        p->depth++;
        QN_TRY(alternatives(p, out));
        p->depth--;
        QN_FAIL_IF(p->s >= p->end || *p->s != ')', e, QN_INVAL, "grammar line %d: a group lacks its ')'",
                   line_of(p));
        p->s++;
    } else if (*p->s == '<') { /* as llama.cpp writes a token */
        int marker = qn_marker_at(p->s, (size_t)(p->end - p->s));
        QN_FAIL_IF(marker < 0, e, QN_INVAL,
                   "grammar line %d: of tokens only <think>, <tool_call>, <tool_response> and their closing "
                   "forms can be named; write text in quotes",
                   line_of(p));
        n = strlen(qn_marker_text((enum qn_marker)marker));
        *out = qn_term_marked(p->t, p->s, n, p->tokens);
        p->s += n;
    } else if ((n = name_len(p))) {
        QN_TRY(rule_of(p, p->s, n, &rule));
        p->s += n;
        *out = rule->term;
    } else {
        QN_FAIL(e, QN_INVAL, "grammar line %d: '%c' is not expected here", line_of(p), *p->s);
    }
out:
    return rc;
}

static uint32_t count(struct parser *p)
{
    uint32_t n = 0;
    while (p->s < p->end && *p->s >= '0' && *p->s <= '9' && n <= QN_REGEX_MAX_REPEAT)
        n = n * 10 + (uint32_t)(*p->s++ - '0');
    return n;
}

static int repeated(struct parser *p, qn_term *out)
{
    int rc = QN_OK;
    struct qn_err *e = p->e;
    QN_TRY(element(p, out));
    for (;;) {
        while (p->s < p->end && (*p->s == ' ' || *p->s == '\t')) p->s++;
        if (p->s >= p->end || !strchr("*+?{", *p->s)) break;
        char c = *p->s++;
        uint32_t min = c == '+', max = c == '?' ? 1 : QN_TERM_MANY;
        if (c == '{') {
            min = max = count(p);
            if (p->s < p->end && *p->s == ',') {
                p->s++;
                max = p->s < p->end && *p->s != '}' ? count(p) : QN_TERM_MANY;
            }
            QN_FAIL_IF(p->s >= p->end || *p->s != '}' || min > max, e, QN_INVAL,
                       "grammar line %d: a bad repetition", line_of(p));
            QN_FAIL_IF(min > QN_REGEX_MAX_REPEAT || (max != QN_TERM_MANY && max > QN_REGEX_MAX_REPEAT), e,
                       QN_TOOBIG, "grammar line %d: a repetition counts over %d", line_of(p),
                       QN_REGEX_MAX_REPEAT);
            p->s++;
        }
        p->n_count += min > 1 || (max > 1 && max != QN_TERM_MANY);
        *out = qn_term_repeat(p->t, *out, min, max);
    }
out:
    return rc;
}

static int sequence(struct parser *p, qn_term *out)
{
    int rc = QN_OK;
    qn_term *list = NULL;
    size_t n = 0, cap = 0;
    for (blanks(p); p->s < p->end && *p->s != '|' && *p->s != ')' && !at_head(p); blanks(p)) {
        if (n == cap) list = xreallocarray(list, cap = cap ? 2 * cap : 16, sizeof *list);
        QN_TRY(repeated(p, &list[n]));
        n++;
    }
    *out = QN_TERM_EPS;
    while (n > 0) *out = qn_term_seq(p->t, list[--n], *out);
out:
    free(list);
    return rc;
}

static int alternatives(struct parser *p, qn_term *out)
{
    int rc = QN_OK;
    struct qn_err *e = p->e;
    qn_term *list = NULL;
    size_t n = 0, cap = 0;
    QN_FAIL_IF(p->depth > QN_GRAMMAR_MAX_DEPTH, e, QN_TOOBIG, "grammar line %d: groups nest deeper than %d",
               line_of(p), QN_GRAMMAR_MAX_DEPTH);
    for (;;) {
        if (n == cap) list = xreallocarray(list, cap = cap ? 2 * cap : 8, sizeof *list);
        QN_TRY(sequence(p, &list[n]));
        n++;
        if (p->s >= p->end || *p->s != '|') break;
        p->s++;
    }
    *out = qn_term_alts(p->t, list, n);
out:
    free(list);
    return rc;
}

static int rules(struct parser *p, qn_term *out)
{
    int rc = QN_OK;
    struct qn_err *e = p->e;
    qn_term root = QN_TERM_EMPTY;
    bool has_root = false;
    for (blanks(p); p->s < p->end; blanks(p)) {
        QN_FAIL_IF(!at_head(p), e, QN_INVAL, "grammar line %d: a rule must begin with 'name ::='",
                   line_of(p));
        struct rule *rule;
        size_t n_name = name_len(p);
        qn_term body;
        QN_TRY(rule_of(p, p->s, n_name, &rule));
        qn_term term = rule->term;
        QN_FAIL_IF(rule->is_defined, e, QN_INVAL, "grammar line %d: rule '%.*s' is defined twice", line_of(p),
                   (int)n_name, p->s);
        rule->is_defined = true;
        if (n_name == 4 && !memcmp(p->s, "root", 4)) {
            has_root = true;
            root = term;
        }
        p->s += n_name;
        blanks(p);
        p->s += 3;
        QN_TRY(alternatives(p, &body));
        QN_FAIL_IF(p->s < p->end && *p->s == ')', e, QN_INVAL, "grammar line %d: a ')' without its '('",
                   line_of(p));
        qn_term_rule_set(p->t, term, body);
    }
    QN_FAIL_IF(!has_root, e, QN_INVAL, "grammar: there is no rule 'root'");
    for (int i = 0; i < p->n_rule; i++)
        QN_FAIL_IF(!p->rules[i].is_defined, e, QN_INVAL, "grammar: rule '%.*s' is used but not defined",
                   (int)QN_MIN(p->rules[i].n, 64), p->rules[i].name);
    *out = root;
out:
    return rc;
}

/* As for expressions (regex.c), the whole grammar at once: rules may nest where groups do not. */
static int try_out(const char *text, size_t n, unsigned tokens, struct qn_err *e)
{
    int rc = QN_OK;
    struct parser p = {.t = qn_terms_create(QN_REGEX_TRY_TERMS),
                       .text = text,
                       .s = text,
                       .end = text + n,
                       .tokens = tokens,
                       .e = e};
    qn_term start;
    QN_TRY(rules(&p, &start));
    QN_TRY(qn_terms_seal(p.t, e));
    QN_FAIL_IF(
        !qn_terms_try(p.t, start), e, QN_TOOBIG,
        "grammar: too costly: its repetitions nest so that one text can be counted in thousands of ways; "
        "write it with fewer {m,n} inside one another, or with * and +");
out:
    free(p.rules);
    qn_terms_free(p.t);
    return rc;
}

int qn_gbnf_term(qn_term *out, struct qn_terms *t, const char *text, size_t n, unsigned tokens,
                 struct qn_err *e)
{
    int rc = QN_OK;
    struct parser p = {.t = t, .text = text, .s = text, .end = text + n, .tokens = tokens, .e = e};
    QN_FAIL_IF(n > QN_GRAMMAR_MAX_TEXT, e, QN_TOOBIG, "grammar: longer than %u bytes", QN_GRAMMAR_MAX_TEXT);
    QN_TRY(rules(&p, out));
    if (p.n_count > 1) QN_TRY(try_out(text, n, tokens, e));
out:
    free(p.rules);
    return rc;
}
