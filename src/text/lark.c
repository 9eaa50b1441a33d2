/* Lark grammars as terms.
 * SPDX-License-Identifier: Apache-2.0 */
#include "text/lark.h"

#include <ctype.h>

#include "base/buf.h"
#include "base/mem.h"
#include "text/gbnf.h"
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
    struct rule *rules; /* [n_rule] */
    int n_rule, cap_rule, depth;
    struct rule *self; /* the rule being read: where its alternatives begin with it they go on from it */
    bool in_terminal;  /* nothing is ignored between the parts of a terminal */
    qn_term ignored;   /* what %ignore says, repeated; EPS: nothing */
    struct qn_err *e;
};

/* Terminals of the grammar library that comes with Lark. */
static const struct {
    const char *name, *pattern;
} common[] = {
    {"DIGIT", "[0-9]"},
    {"HEXDIGIT", "[0-9a-fA-F]"},
    {"INT", "[0-9]+"},
    {"SIGNED_INT", "[+-]?[0-9]+"},
    {"DECIMAL", "[0-9]+\\.[0-9]*|\\.[0-9]+"},
    {"FLOAT", "[0-9]+[eE][+-]?[0-9]+|([0-9]+\\.[0-9]*|\\.[0-9]+)([eE][+-]?[0-9]+)?"},
    {"SIGNED_FLOAT", "[+-]?([0-9]+[eE][+-]?[0-9]+|([0-9]+\\.[0-9]*|\\.[0-9]+)([eE][+-]?[0-9]+)?)"},
    {"NUMBER", "([0-9]+|[0-9]+\\.[0-9]*|\\.[0-9]+)([eE][+-]?[0-9]+)?"},
    {"SIGNED_NUMBER", "[+-]?([0-9]+|[0-9]+\\.[0-9]*|\\.[0-9]+)([eE][+-]?[0-9]+)?"},
    {"ESCAPED_STRING", "\"([^\"\\\\\\n]|\\\\[^\\n])*\""},
    {"LCASE_LETTER", "[a-z]"},
    {"UCASE_LETTER", "[A-Z]"},
    {"LETTER", "[A-Za-z]"},
    {"WORD", "[A-Za-z]+"},
    {"CNAME", "[_A-Za-z][_A-Za-z0-9]*"},
    {"WS_INLINE", "[ \\t]+"},
    {"WS", "[ \\t\\f\\r\\n]+"},
    {"CR", "\\r"},
    {"LF", "\\n"},
    {"NEWLINE", "(\\r?\\n)+"},
};

static int line_of(const struct parser *p)
{
    int line = 1;
    for (const char *c = p->text; c < p->s; c++) line += *c == '\n';
    return line;
}

static void blanks(struct parser *p, bool with_lines)
{
    for (; p->s < p->end; p->s++) {
        bool is_comment = *p->s == '#' || (*p->s == '/' && p->end - p->s > 1 && p->s[1] == '/');
        if (is_comment)
            while (p->s < p->end && *p->s != '\n') p->s++;
        if (p->s >= p->end || !strchr(with_lines ? " \t\r\n" : " \t\r", *p->s) || !*p->s) break;
    }
}

static size_t name_len(const char *s, const char *end)
{
    size_t n = 0;
    while (s + n < end && (isalnum((unsigned char)s[n]) || s[n] == '_' || (s[n] == '-' && n))) n++;
    return n && !isdigit((unsigned char)s[0]) ? n : 0;
}

/* `name:` or `name.2:` or `name[...]:` at s, with ? or ! before it: bytes up to the colon, 0: none. */
static size_t head_len(const char *s, const char *end)
{
    const char *from = s;
    while (s < end && (*s == '?' || *s == '!')) s++;
    size_t n = name_len(s, end);
    if (!n) return 0;
    s += n;
    while (s < end && (*s == '.' || isdigit((unsigned char)*s))) s++;
    while (s < end && (*s == ' ' || *s == '\t')) s++;
    if (s < end && (*s == '[' || *s == '{')) {
        while (s < end && *s != ']' && *s != '}' && *s != '\n') s++;
        if (s < end) s++;
        while (s < end && (*s == ' ' || *s == '\t')) s++;
    }
    return s < end && *s == ':' ? (size_t)(s - from) : 0;
}

bool qn_lark_is(const char *text, size_t n)
{
    const char *end = text + n;
    bool has_start = false;
    for (const char *line = text; line < end;) {
        const char *stop = memchr(line, '\n', (size_t)(end - line));
        if (!stop) stop = end;
        const char *s = line;
        while (s < stop && (*s == ' ' || *s == '\t')) s++;
        if ((size_t)(stop - s) >= 12 && !memcmp(s, "%llguidance", 11)) return true;
        size_t head = head_len(s, stop), k = 0;
        if (head && stop - s > (ptrdiff_t)head + 2 && !memcmp(s + head, "::=", 3)) return false;
        while (s + k < stop && (s[k] == '?' || s[k] == '!')) k++;
        has_start |= head && name_len(s + k, stop) == 5 && !memcmp(s + k, "start", 5);
        line = stop + 1;
    }
    return has_start;
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

static bool is_terminal(const char *name, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (islower((unsigned char)name[i])) return false;
    return true;
}

/* Behind a terminal, in a rule, comes what is ignored. */
static qn_term then_ignored(struct parser *p, qn_term term)
{
    return p->in_terminal ? term : qn_term_seq(p->t, term, p->ignored);
}

static int alternatives(struct parser *p, qn_term *out, qn_term *more);

/* "..."[i] or /.../[flags], as an expression: both have the same escapes and flags. */
static int pattern(struct parser *p, qn_term *out)
{
    int rc = QN_OK;
    struct qn_err *e = p->e;
    char close = *p->s++;
    const char *from = p->s;
    struct qn_buf b = QN_BUF_INIT(QN_GRAMMAR_MAX_TEXT), all = QN_BUF_INIT(QN_GRAMMAR_MAX_TEXT);
    while (p->s < p->end && *p->s != close && (*p->s != '\n' || close == '/')) {
        if (*p->s == '\\' && p->s + 1 < p->end) {
            if (p->s[1] != '/') qn_buf_putc(&b, '\\');
            qn_buf_putc(&b, p->s[1]);
            p->s += 2;
            continue;
        }
        if (close == '"' && strchr(".^$*+?()[]{}|", *p->s) && *p->s) qn_buf_putc(&b, '\\');
        qn_buf_putc(&b, *p->s++);
    }
    QN_FAIL_IF(p->s >= p->end || *p->s != close, e, QN_INVAL, "grammar line %d: %c lacks its end", line_of(p),
               close);
    QN_FAIL_IF(p->s == from && close == '/', e, QN_INVAL, "grammar line %d: an empty expression", line_of(p));
    p->s++;
    const char *flags = p->s;
    while (p->s < p->end && isalpha((unsigned char)*p->s)) p->s++;
    for (const char *c = flags; c < p->s; c++)
        QN_FAIL_IF(*c != 'i' && *c != 's' && *c != 'u', e, QN_INVAL,
                   "grammar line %d: the flag %c is not supported", line_of(p), *c);
    if (p->s > flags) qn_buf_printf(&all, "(?%.*s)", (int)(p->s - flags), flags);
    qn_buf_append(&all, qn_buf_str(&b), b.n_byte);
    QN_TRY(qn_regex_term(out, p->t, qn_buf_str(&all), all.n_byte, true, false, "grammar", e));
out:
    qn_buf_free(&b);
    qn_buf_free(&all);
    return rc;
}

static int element(struct parser *p, qn_term *out)
{
    int rc = QN_OK;
    struct qn_err *e = p->e;
    qn_term more;
    size_t n;
    char c = *p->s;
    if (c == '(' || c == '[') {
        p->s++;
        QN_FAIL_IF(++p->depth > QN_GRAMMAR_MAX_DEPTH, e, QN_TOOBIG,
                   "grammar line %d: groups nest deeper than %d", line_of(p), QN_GRAMMAR_MAX_DEPTH);
        struct rule *self = p->self;
        p->self = NULL;
        QN_TRY(alternatives(p, out, &more));
        p->self = self;
        p->depth--;
        QN_FAIL_IF(p->s >= p->end || *p->s != (c == '(' ? ')' : ']'), e, QN_INVAL,
                   "grammar line %d: a group lacks its end", line_of(p));
        p->s++;
        if (c == '[') *out = qn_term_alt(p->t, *out, QN_TERM_EPS);
    } else if (c == '"' && p->end - p->s > 6 && p->s[2] == '"' &&
               !memcmp(p->s + 3, "..\"", 3)) { /* "a".."z" */
        *out = then_ignored(p, qn_term_range(p->t, (unsigned char)p->s[1], (unsigned char)p->s[6]));
        p->s += 8;
    } else if (c == '"' || c == '/') {
        QN_TRY(pattern(p, out));
        *out = then_ignored(p, *out);
    } else if (c == '<') {
        QN_FAIL(e, QN_INVAL, "grammar line %d: tokens by name or number are not supported here", line_of(p));
    } else if ((n = name_len(p->s, p->end))) {
        struct rule *rule;
        const char *name = p->s;
        QN_TRY(rule_of(p, name, n, &rule));
        p->s += n;
        QN_FAIL_IF(p->s < p->end && *p->s == '{', e, QN_INVAL, "grammar line %d: templates are not supported",
                   line_of(p));
        *out = is_terminal(name, n) ? then_ignored(p, rule->term) : rule->term;
    } else {
        QN_FAIL(e, QN_INVAL, "grammar line %d: '%c' is not expected here", line_of(p), c);
    }
out:
    return rc;
}

static uint32_t count(struct parser *p)
{
    uint32_t n = 0;
    while (p->s < p->end && isdigit((unsigned char)*p->s) && n <= QN_REGEX_MAX_REPEAT)
        n = n * 10 + (uint32_t)(*p->s++ - '0');
    return n;
}

static int repeated(struct parser *p, qn_term *out)
{
    int rc = QN_OK;
    struct qn_err *e = p->e;
    QN_TRY(element(p, out));
    blanks(p, false);
    while (p->s < p->end && strchr("*+?~", *p->s) && *p->s) {
        char c = *p->s++;
        uint32_t min = c == '+', max = c == '?' ? 1 : QN_TERM_MANY;
        if (c == '~') {
            blanks(p, false);
            min = max = count(p);
            if (p->end - p->s > 2 && p->s[0] == '.' && p->s[1] == '.') {
                p->s += 2;
                max = count(p);
            }
        }
        QN_FAIL_IF(min > QN_REGEX_MAX_REPEAT || (max != QN_TERM_MANY && max > QN_REGEX_MAX_REPEAT) ||
                       min > max,
                   e, QN_TOOBIG, "grammar line %d: a repetition is the wrong way round or counts over %d",
                   line_of(p), QN_REGEX_MAX_REPEAT);
        *out = qn_term_repeat(p->t, *out, min, max);
        blanks(p, false);
    }
out:
    return rc;
}

/* A new line begins a new rule, or goes on with `|`. */
static bool at_end(struct parser *p)
{
    blanks(p, false);
    if (p->s >= p->end || strchr("|)]", *p->s)) return true;
    if (*p->s != '\n') return false;
    const char *line = p->s;
    blanks(p, true);
    if (p->s >= p->end || *p->s == '|' || *p->s == ')' || *p->s == ']') return true;
    if (p->depth) return false;
    p->s = line;
    return true;
}

static int alternatives(struct parser *p, qn_term *out, qn_term *more)
{
    int rc = QN_OK;
    qn_term *list = NULL;
    size_t cap = 0;
    *out = *more = QN_TERM_EMPTY;
    for (;;) {
        size_t n = 0;
        bool is_left = false;
        for (bool is_first = true; !at_end(p); is_first = false) {
            if (p->end - p->s > 1 && p->s[0] == '-' &&
                p->s[1] == '>') { /* an alias says nothing of the text */
                p->s += 2;
                blanks(p, false);
                p->s += name_len(p->s, p->end);
                continue;
            }
            size_t n_name = name_len(p->s, p->end);
            if (is_first && p->self && n_name == p->self->n && !memcmp(p->s, p->self->name, n_name)) {
                is_left = true;
                p->s += n_name;
                continue;
            }
            if (n == cap) list = xreallocarray(list, cap = cap ? 2 * cap : 16, sizeof *list);
            QN_TRY(repeated(p, &list[n]));
            n++;
        }
        qn_term one = QN_TERM_EPS;
        while (n > 0) one = qn_term_seq(p->t, list[--n], one);
        if (is_left)
            *more = qn_term_alt(p->t, *more, one);
        else
            *out = qn_term_alt(p->t, *out, one);
        if (p->s >= p->end || *p->s != '|') break;
        p->s++;
    }
out:
    free(list);
    return rc;
}

static int import_one(struct parser *p, const char *name, size_t n, const char *as, size_t n_as)
{
    int rc = QN_OK;
    struct qn_err *e = p->e;
    struct rule *rule;
    qn_term body;
    for (size_t i = 0; i < QN_COUNT(common); i++) {
        if (strlen(common[i].name) != n || memcmp(common[i].name, name, n)) continue;
        QN_TRY(rule_of(p, as, n_as, &rule));
        rule->is_defined = true;
        qn_term term = rule->term;
        QN_TRY(qn_regex_term(&body, p->t, common[i].pattern, strlen(common[i].pattern), true, false,
                             "grammar", e));
        qn_term_rule_set(p->t, term, body);
        return QN_OK;
    }
    QN_FAIL(e, QN_INVAL, "grammar line %d: common.%.*s is not known", line_of(p), (int)QN_MIN(n, 40), name);
out:
    return rc;
}

/* %import common.NAME [-> OTHER], %import common (A, B) */
static int import(struct parser *p)
{
    int rc = QN_OK;
    struct qn_err *e = p->e;
    size_t n = name_len(p->s, p->end);
    QN_FAIL_IF(n != 6 || memcmp(p->s, "common", 6), e, QN_INVAL,
               "grammar line %d: only `common` can be imported from", line_of(p));
    p->s += 6;
    blanks(p, false);
    bool is_list = p->s < p->end && *p->s == '(';
    p->s += p->s < p->end;
    do {
        blanks(p, is_list);
        const char *name = p->s, *as = name;
        size_t n_as = n = name_len(name, p->end);
        p->s += n;
        blanks(p, is_list);
        if (!is_list && p->end - p->s > 1 && p->s[0] == '-' && p->s[1] == '>') {
            p->s += 2;
            blanks(p, false);
            as = p->s;
            n_as = name_len(as, p->end);
            p->s += n_as;
        }
        QN_TRY(import_one(p, name, n, as, n_as));
        blanks(p, is_list);
    } while (is_list && p->s < p->end && *p->s++ == ',');
out:
    return rc;
}

/* A line that begins with %. */
static int directive(struct parser *p, bool is_first_pass)
{
    int rc = QN_OK;
    struct qn_err *e = p->e;
    const char *word = ++p->s;
    size_t n = name_len(word, p->end);
    p->s += n;
    blanks(p, false);
    if (n == 10 && !memcmp(word, "llguidance", n)) {
        while (p->s < p->end && *p->s != '\n') p->s++;
    } else if (n == 6 && !memcmp(word, "import", n)) {
        if (is_first_pass) return import(p);
        while (p->s < p->end && *p->s != '\n' && *p->s != '(') p->s++;
        while (p->s < p->end && *p->s != '\n' && *p->s != ')') p->s++;
        p->s += p->s < p->end && *p->s == ')';
    } else if (n == 6 && !memcmp(word, "ignore", n)) {
        qn_term one, more;
        bool was = p->in_terminal;
        p->in_terminal = true;
        QN_TRY(alternatives(p, &one, &more));
        p->in_terminal = was;
        if (is_first_pass) p->ignored = qn_term_alt(p->t, p->ignored, one);
    } else {
        QN_FAIL(e, QN_INVAL, "grammar line %d: %%%.*s is not supported", line_of(p), (int)QN_MIN(n, 40),
                word);
    }
out:
    return rc;
}

static int rule(struct parser *p)
{
    int rc = QN_OK;
    struct qn_err *e = p->e;
    size_t n_head = head_len(p->s, p->end);
    QN_FAIL_IF(!n_head, e, QN_INVAL, "grammar line %d: a rule must begin with 'name:'", line_of(p));
    const char *colon = p->s + n_head, *brace = memchr(p->s, '[', n_head);
    while (*p->s == '?' || *p->s == '!') p->s++;
    const char *name = p->s;
    size_t n = name_len(name, p->end);
    QN_FAIL_IF(memchr(name, '{', (size_t)(colon - name)), e, QN_INVAL,
               "grammar line %d: templates are not supported", line_of(p));
    if (brace) /* capture is about the answer's reader; what is left changes the text */
        QN_FAIL_IF(strncmp(brace, "[capture", 8) != 0 || memchr(brace, ',', (size_t)(colon - brace)), e,
                   QN_INVAL, "grammar line %d: %.*s is not supported", line_of(p),
                   (int)QN_MIN(colon - brace, 60), brace);
    struct rule *r;
    QN_TRY(rule_of(p, name, n, &r));
    QN_FAIL_IF(r->is_defined, e, QN_INVAL, "grammar line %d: '%.*s' is defined twice", line_of(p),
               (int)QN_MIN(n, 60), name);
    r->is_defined = true;
    struct rule self = *r; /* the list may move */
    qn_term term = r->term, body, more;
    p->s = colon + 1;
    p->in_terminal = is_terminal(name, n);
    p->self = p->in_terminal ? NULL : &self;
    QN_TRY(alternatives(p, &body, &more));
    if (more != QN_TERM_EMPTY) body = qn_term_seq(p->t, body, qn_term_repeat(p->t, more, 0, QN_TERM_MANY));
    qn_term_rule_set(p->t, term, body);
    blanks(p, false);
    QN_FAIL_IF(p->s < p->end && *p->s != '\n', e, QN_INVAL, "grammar line %d: '%c' is not expected here",
               line_of(p), *p->s);
out:
    p->self = NULL;
    return rc;
}

/* Directives first: what is ignored stands behind every terminal of the rules. */
static int directives(struct parser *p)
{
    int rc = QN_OK;
    p->ignored = QN_TERM_EMPTY;
    for (const char *line = p->text; line < p->end;) {
        const char *stop = memchr(line, '\n', (size_t)(p->end - line));
        p->s = line;
        blanks(p, false);
        if (p->s < p->end && *p->s == '%') QN_TRY(directive(p, true));
        line = stop ? stop + 1 : p->end;
    }
    p->ignored =
        p->ignored == QN_TERM_EMPTY ? QN_TERM_EPS : qn_term_repeat(p->t, p->ignored, 0, QN_TERM_MANY);
out:
    return rc;
}

int qn_lark_term(qn_term *out, struct qn_terms *t, const char *text, size_t n, struct qn_err *e)
{
    int rc = QN_OK;
    struct parser p = {.t = t, .text = text, .s = text, .end = text + n, .e = e};
    qn_term root = QN_TERM_EMPTY;
    QN_FAIL_IF(n > QN_GRAMMAR_MAX_TEXT, e, QN_TOOBIG, "grammar: longer than %u bytes", QN_GRAMMAR_MAX_TEXT);
    QN_TRY(directives(&p));
    p.s = text;
    for (blanks(&p, true); p.s < p.end; blanks(&p, true)) {
        p.depth = 0;
        if (*p.s == '%')
            QN_TRY(directive(&p, false));
        else
            QN_TRY(rule(&p));
    }
    for (int i = 0; i < p.n_rule; i++) {
        QN_FAIL_IF(!p.rules[i].is_defined, e, QN_INVAL, "grammar: '%.*s' is used but not defined",
                   (int)QN_MIN(p.rules[i].n, 64), p.rules[i].name);
        if (p.rules[i].n == 5 && !memcmp(p.rules[i].name, "start", 5)) root = p.rules[i].term;
    }
    QN_FAIL_IF(root == QN_TERM_EMPTY, e, QN_INVAL, "grammar: there is no rule 'start'");
    *out = qn_term_seq(t, p.ignored, root);
out:
    free(p.rules);
    return rc;
}
