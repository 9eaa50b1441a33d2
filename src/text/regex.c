/* Regular expressions as terms: text to a tree, the tree to terms.
 *
 * A part that looks around itself (look-ahead, ^, $) depends on what follows it, so each part is made with
 * what follows: A(?=B)C is A followed by both C and B-and-anything. Parts that do not look are made alone and
 * shared. SPDX-License-Identifier: Apache-2.0 */
#include "text/regex.h"

#include "base/mem.h"
#include "text/grammar.h"

#define MAX_TREE_BYTES (256u << 20)
#define MAX_UNROLL     16 /* repetitions of a part that looks around itself */

enum node_kind { TEXT, SET, SEQUENCE, CHOICE, REPEAT, LOOK, START, END };

struct node {
    enum node_kind kind;
    bool is_looking;  /* holds look-ahead, ^ or $ */
    bool is_negative; /* of LOOK */
    uint32_t min, max;
    const char *text;                /* of TEXT [n], UTF-8 */
    struct qn_charset_range *ranges; /* of SET [n] */
    struct node **kids;              /* [n] */
    size_t n, cap;
    uint64_t least; /* characters it has at least */
};

struct parser {
    struct qn_terms *t;
    struct qn_arena *arena;
    const char *s, *end, *what;
    bool is_json, whole;
    bool ignore_case, dot_all;
    int depth, n_count; /* repetitions that count, so far */
    bool is_nested;     /* one inside another */
    struct qn_err *e;
};

/* --- text to tree --- */

static int alternatives(struct parser *p, struct node **out);

static int node_new(struct node **out, struct parser *p, enum node_kind kind)
{
    int rc = QN_OK;
    struct qn_err *e = p->e;
    *out = qn_arena_alloc(p->arena, sizeof **out);
    QN_FAIL_IF(!*out, e, QN_TOOBIG, "%s: needs more than %u bytes", p->what, MAX_TREE_BYTES);
    (*out)->kind = kind;
out:
    return rc;
}

static int add_kid(struct parser *p, struct node *to, struct node *kid)
{
    int rc = QN_OK;
    struct qn_err *e = p->e;
    if (to->n == to->cap) {
        size_t cap = to->cap ? 2 * to->cap : 4;
        struct node **kids = qn_arena_alloc(p->arena, cap * sizeof(struct node *));
        QN_FAIL_IF(!kids, e, QN_TOOBIG, "%s: needs more than %u bytes", p->what, MAX_TREE_BYTES);
        if (to->n) memcpy(kids, to->kids, to->n * sizeof(struct node *));
        to->kids = kids;
        to->cap = cap;
    }
    to->kids[to->n++] = kid;
    to->is_looking |= kid->is_looking;
out:
    return rc;
}

/* Flags at p->s, behind "(?". Moves past them; false: something else. */
static bool flags(struct parser *p, bool *ignore_case, bool *dot_all)
{
    const char *s = p->s;
    bool on = true;
    for (; s < p->end && strchr("isua-", *s); s++) {
        if (*s == '-')
            on = false;
        else if (*s == 'i')
            *ignore_case = on;
        else if (*s == 's')
            *dot_all = on;
    }
    if (s == p->s || s >= p->end || (*s != ':' && *s != ')')) return false;
    p->s = s;
    return true;
}

static int group_end(struct parser *p)
{
    int rc = QN_OK;
    struct qn_err *e = p->e;
    p->depth--;
    QN_FAIL_IF(p->s >= p->end || *p->s != ')', e, QN_INVAL, "%s: a group lacks its ')'", p->what);
    p->s++;
out:
    return rc;
}

/* Behind '('. *out NULL: flags for the rest of the group. */
static int group(struct parser *p, struct node **out)
{
    int rc = QN_OK;
    struct qn_err *e = p->e;
    struct node *kid;
    const bool case_before = p->ignore_case, dot_before = p->dot_all;
    bool is_look = false, is_negative = false;
    *out = NULL;
    if (p->s < p->end && *p->s == '?') {
        p->s++;
        char c = p->s < p->end ? *p->s : 0, d = p->s + 1 < p->end ? p->s[1] : 0;
        bool is_named = (c == 'P' && d == '<') || (c == '<' && d != '=' && d != '!');
        is_look = c == '=' || c == '!';
        is_negative = c == '!';
        QN_FAIL_IF(c == '<' && !is_named, e, QN_UNSUPPORTED, "%s: (?<%c... (look-behind) is not supported",
                   p->what, d);
        if (is_named) {
            while (p->s < p->end && *p->s != '>') p->s++;
        } else if (!is_look && c != ':') {
            QN_FAIL_IF(!flags(p, &p->ignore_case, &p->dot_all), e, QN_UNSUPPORTED,
                       "%s: (?%c... is not supported", p->what, c ? c : ' ');
            if (*p->s == ')') { /* for what follows */
                p->s++;
                goto out;
            }
        }
        if (p->s < p->end) p->s++;
    }
    p->depth++;
    QN_TRY(alternatives(p, &kid));
    QN_TRY(group_end(p));
    p->ignore_case = case_before;
    p->dot_all = dot_before;
    *out = kid;
    if (is_look) {
        QN_TRY(node_new(out, p, LOOK));
        QN_TRY(add_kid(p, *out, kid));
        (*out)->is_negative = is_negative;
        (*out)->is_looking = true;
    }
out:
    return rc;
}

/* Both cases of each letter (of ASCII). */
static bool fold(struct qn_charset *set)
{
    bool is_ok = true;
    for (int i = set->n - 1; i >= 0; i--) {
        uint32_t lo = set->ranges[i].lo, hi = set->ranges[i].hi;
        uint32_t from = QN_MAX(lo, 'A'), to = QN_MIN(hi, 'Z');
        if (from <= to) is_ok &= qn_charset_add(set, from + 32, to + 32);
        from = QN_MAX(lo, 'a');
        to = QN_MIN(hi, 'z');
        if (from <= to) is_ok &= qn_charset_add(set, from - 32, to - 32);
    }
    return is_ok;
}

static int set_node(struct node **out, struct parser *p, struct qn_charset *set, bool is_inverted)
{
    int rc = QN_OK;
    struct qn_err *e = p->e;
    if (p->ignore_case) {
        if (is_inverted) qn_charset_invert(set);
        QN_FAIL_IF(!fold(set), e, QN_TOOBIG, "%s: a class has more than %d ranges", p->what,
                   QN_REGEX_MAX_RANGES);
        if (is_inverted) qn_charset_invert(set);
    }
    QN_TRY(node_new(out, p, SET));
    (*out)->n = (size_t)set->n;
    (*out)->least = 1;
    (*out)->ranges = qn_arena_alloc(p->arena, ((size_t)set->n + 1) * sizeof set->ranges[0]);
    QN_FAIL_IF(!(*out)->ranges, e, QN_TOOBIG, "%s: needs more than %u bytes", p->what, MAX_TREE_BYTES);
    memcpy((*out)->ranges, set->ranges, (size_t)set->n * sizeof set->ranges[0]);
out:
    return rc;
}

/* Characters that mean themselves, up to one that is repeated. Empty: none stands here. */
static size_t plain_run(const struct parser *p)
{
    size_t n = 0, last = 0;
    const char *s = p->s;
    if (p->ignore_case) return 0;
    while (s < p->end && !strchr("*+?{()|[\\^$.", *s) && *s) {
        const char *from = s;
        if (qn_charset_next(&s, p->end) < 0) break;
        last = (size_t)(from - p->s);
        n = (size_t)(s - p->s);
    }
    /* the last one may belong to a repetition */
    return n && s < p->end && strchr("*+?{", *s) && *s ? last : n;
}

static int atom(struct parser *p, struct node **out)
{
    int rc = QN_OK;
    struct qn_err *e = p->e;
    struct qn_charset set;
    char c = *p->s, d = p->s + 1 < p->end ? p->s[1] : 0;
    size_t n;
    set.n = 0;
    QN_FAIL_IF(c && strchr("*+?", c), e, QN_INVAL, "%s: nothing to repeat before '%c'", p->what, c);
    bool is_start = c == '^' || (c == '\\' && d == 'A'),
         is_end = c == '$' || (c == '\\' && (d == 'Z' || d == 'z'));
    if (c == '(') {
        p->s++;
        rc = group(p, out);
        goto out;
    }
    if (is_start || is_end) {
        p->s += c == '\\' ? 2 : 1;
        QN_TRY(node_new(out, p, is_start ? START : END));
        (*out)->is_looking = true;
        goto out;
    }
    if ((n = plain_run(p))) {
        QN_TRY(node_new(out, p, TEXT));
        (*out)->text = p->s;
        (*out)->least = (*out)->n = n;
        p->s += n;
        goto out;
    }
    bool is_inverted = false;
    if (c == '.') {
        p->s++;
        if (!p->dot_all) qn_charset_add(&set, '\n', '\n');
        qn_charset_invert(&set);
        is_inverted = true;
    } else if (c == '[') {
        p->s++;
        is_inverted = d == '^';
        QN_TRY(qn_charset_parse(&set, &p->s, p->end, p->what, e));
    } else if (c == '\\') {
        p->s++;
        is_inverted = d == 'D' || d == 'W' || d == 'S';
        QN_TRY(qn_charset_escape(&set, &p->s, p->end, p->what, e));
    } else {
        int64_t code = qn_charset_next(&p->s, p->end);
        QN_FAIL_IF(code < 0, e, QN_INVAL, "%s: not UTF-8", p->what);
        qn_charset_add(&set, (uint32_t)code, (uint32_t)code);
    }
    QN_TRY(set_node(out, p, &set, is_inverted));
out:
    return rc;
}

static bool read_count(struct parser *p, uint32_t *out)
{
    uint64_t n = 0;
    const char *from = p->s;
    for (; p->s < p->end && *p->s >= '0' && *p->s <= '9'; p->s++)
        if (n <= QN_REGEX_MAX_REPEAT) n = n * 10 + (uint64_t)(*p->s - '0');
    *out = (uint32_t)QN_MIN(n, QN_REGEX_MAX_REPEAT + 1);
    return p->s > from;
}

/* {n}, {n,}, {n,m} at p->s; false: plain text. */
static bool braces(struct parser *p, uint32_t *min, uint32_t *max)
{
    const char *from = p->s++;
    bool is_ok = read_count(p, min);
    *max = *min;
    if (is_ok && p->s < p->end && *p->s == ',') {
        p->s++;
        if (!read_count(p, max)) *max = QN_TERM_MANY;
    }
    is_ok = is_ok && p->s < p->end && *p->s == '}';
    p->s = is_ok ? p->s + 1 : from;
    return is_ok;
}

static int repeated(struct parser *p, struct node **out)
{
    int rc = QN_OK;
    struct qn_err *e = p->e;
    int n_before = p->n_count;
    QN_TRY(atom(p, out));
    while (*out && p->s < p->end) {
        uint32_t min, max;
        char c = *p->s;
        if (c == '*' || c == '+' || c == '?') {
            p->s++;
            min = c == '+';
            max = c == '?' ? 1 : QN_TERM_MANY;
        } else if (c != '{' || !braces(p, &min, &max)) {
            if (c != '{') break;
            QN_FAIL(e, QN_INVAL, "%s: '{' is no repetition here; write \\{", p->what);
        }
        QN_FAIL_IF(min > QN_REGEX_MAX_REPEAT || (max != QN_TERM_MANY && max > QN_REGEX_MAX_REPEAT), e,
                   QN_TOOBIG, "%s: a repetition counts over %d", p->what, QN_REGEX_MAX_REPEAT);
        QN_FAIL_IF(min > max, e, QN_INVAL, "%s: a repetition is the wrong way round", p->what);
        if (min > 1 || (max > 1 && max != QN_TERM_MANY)) {
            p->is_nested |= p->n_count > n_before;
            p->n_count++;
        }
        struct node *kid = *out;
        QN_FAIL_IF(kid->is_looking && max > 1 && max > MAX_UNROLL, e, QN_UNSUPPORTED,
                   "%s: look-ahead, ^ or $ inside a repetition is not supported", p->what);
        QN_TRY(node_new(out, p, REPEAT));
        QN_TRY(add_kid(p, *out, kid));
        (*out)->min = min;
        (*out)->max = max;
        (*out)->least = kid->least * min;
        if (p->s < p->end && *p->s == '?') p->s++; /* lazy: the same language */
    }
out:
    return rc;
}

static int sequence(struct parser *p, struct node **out)
{
    int rc = QN_OK;
    struct node *kid;
    QN_TRY(node_new(out, p, SEQUENCE));
    while (p->s < p->end && *p->s != '|' && *p->s != ')') {
        QN_TRY(repeated(p, &kid));
        if (!kid) continue;
        QN_TRY(add_kid(p, *out, kid));
        (*out)->least += kid->least;
    }
out:
    return rc;
}

static int alternatives(struct parser *p, struct node **out)
{
    int rc = QN_OK;
    struct qn_err *e = p->e;
    struct node *kid;
    QN_FAIL_IF(p->depth > QN_GRAMMAR_MAX_DEPTH, e, QN_TOOBIG, "%s: groups nest deeper than %d", p->what,
               QN_GRAMMAR_MAX_DEPTH);
    QN_TRY(node_new(out, p, CHOICE));
    for (;;) {
        QN_TRY(sequence(p, &kid));
        (*out)->least = (*out)->n ? QN_MIN((*out)->least, kid->least) : kid->least;
        QN_TRY(add_kid(p, *out, kid));
        if (p->s >= p->end || *p->s != '|') break;
        p->s++;
    }
    if ((*out)->n == 1) *out = (*out)->kids[0];
out:
    return rc;
}

/* --- tree to terms --- */

enum place { AT_START, BEHIND_START, ANYWHERE }; /* what is known of where a part begins */

static qn_term any_chars(struct parser *p, uint32_t min)
{
    struct qn_charset set = {.n = 0};
    qn_charset_invert(&set);
    return qn_term_repeat(p->t, qn_charset_term(p->t, &set, p->is_json), min, QN_TERM_MANY);
}

static qn_term text_term(struct parser *p, const struct node *node)
{
    struct qn_charset set;
    const char *s = node->text, *end = s + node->n, *from = s;
    bool is_plain = true;
    for (; p->is_json && s < end; s++) is_plain &= (unsigned char)*s >= 0x20 && *s != '"' && *s != '\\';
    if (is_plain) return qn_term_lit(p->t, node->text, node->n);
    /* from the right, character by character */
    qn_term out = QN_TERM_EPS;
    for (const char *at = end; at > from;) {
        const char *head = at - 1;
        while (head > from && (*head & 0xc0) == 0x80) head--;
        const char *next = head;
        set.n = 0;
        uint32_t code = (uint32_t)qn_charset_next(&next, end);
        qn_charset_add(&set, code, code);
        out = qn_term_seq(p->t, qn_charset_term(p->t, &set, p->is_json), out);
        at = head;
    }
    return out;
}

static qn_term set_term(struct parser *p, const struct node *node)
{
    struct qn_charset set;
    set.n = (int)node->n;
    memcpy(set.ranges, node->ranges, node->n * sizeof set.ranges[0]);
    return qn_charset_term(p->t, &set, p->is_json);
}

/* A node that does not look around itself. */
static qn_term alone(struct parser *p, const struct node *node)
{
    qn_term out = QN_TERM_EPS;
    if (node->kind == TEXT) return text_term(p, node);
    if (node->kind == SET) return set_term(p, node);
    if (node->kind == REPEAT) return qn_term_repeat(p->t, alone(p, node->kids[0]), node->min, node->max);
    if (node->kind == SEQUENCE) {
        for (size_t i = node->n; i-- > 0;) out = qn_term_seq(p->t, alone(p, node->kids[i]), out);
        return out;
    }
    qn_term *each = xcalloc(node->n + 1, sizeof *each);
    for (size_t i = 0; i < node->n; i++) each[i] = alone(p, node->kids[i]);
    out = qn_term_alts(p->t, each, node->n);
    free(each);
    return out;
}

static enum place behind(enum place place, const struct node *node)
{
    if (node->kind == LOOK || node->kind == START || node->kind == END) return place;
    if (node->least || place == BEHIND_START) return BEHIND_START;
    return ANYWHERE;
}

static int with_rest(qn_term *out, struct parser *p, const struct node *node, qn_term rest, enum place place);

static int sequence_with_rest(qn_term *out, struct parser *p, const struct node *node, qn_term rest,
                              enum place place)
{
    int rc = QN_OK;
    enum place *places = xcalloc(node->n + 1, sizeof *places);
    for (size_t i = 0; i < node->n; i++) {
        places[i] = place;
        place = behind(place, node->kids[i]);
    }
    *out = rest;
    for (size_t i = node->n; i-- > 0;) QN_TRY(with_rest(out, p, node->kids[i], *out, places[i]));
out:
    free(places);
    return rc;
}

static int look_with_rest(qn_term *out, struct parser *p, const struct node *node, qn_term rest,
                          enum place place)
{
    qn_term inner;
    int rc = with_rest(&inner, p, node->kids[0], QN_TERM_ANY, place);
    if (rc) return rc;
    if (node->is_negative) inner = qn_term_not(p->t, inner);
    *out = qn_term_and(p->t, rest, inner, true);
    return QN_OK;
}

/* The node and what follows it. */
static int with_rest(qn_term *out, struct parser *p, const struct node *node, qn_term rest, enum place place)
{
    int rc = QN_OK;
    struct qn_err *e = p->e;
    qn_term *each = NULL;
    if (!node->is_looking) {
        *out = qn_term_seq(p->t, alone(p, node), rest);
        return rc;
    }
    switch (node->kind) {
    case TEXT:
    case SET:
        break;
    case START:
        QN_FAIL_IF(place == ANYWHERE, e, QN_UNSUPPORTED, "%s: '^' is supported at the start only", p->what);
        *out = place == AT_START ? rest : QN_TERM_EMPTY;
        break;
    case END:
        *out = qn_term_nullable(p->t, rest) ? QN_TERM_EPS : QN_TERM_EMPTY;
        break;
    case LOOK:
        QN_TRY(look_with_rest(out, p, node, rest, place));
        break;
    case SEQUENCE:
        QN_TRY(sequence_with_rest(out, p, node, rest, place));
        break;
    case CHOICE:
        each = xcalloc(node->n + 1, sizeof *each);
        for (size_t i = 0; i < node->n; i++) QN_TRY(with_rest(&each[i], p, node->kids[i], rest, place));
        *out = qn_term_alts(p->t, each, node->n);
        break;
    case REPEAT: { /* few: unrolled from the right */
        qn_term skip = rest;
        *out = rest;
        for (uint32_t i = node->max; i-- > 0;) {
            enum place here = !i ? place : node->kids[0]->least ? BEHIND_START : behind(place, node);
            QN_TRY(with_rest(out, p, node->kids[0], *out, here));
            if (i >= node->min) *out = qn_term_alt(p->t, *out, skip);
        }
        break;
    }
    }
out:
    free(each);
    return rc;
}

static bool has_start(const struct node *node)
{
    bool has = node->kind == START;
    for (size_t i = 0; node->is_looking && i < node->n && node->kids; i++) has |= has_start(node->kids[i]);
    return has;
}

static int whole_term(qn_term *out, struct parser *p, const struct node *root)
{
    int rc = QN_OK;
    qn_term later;
    if (p->whole) {
        QN_TRY(with_rest(out, p, root, QN_TERM_EPS, AT_START));
        goto out;
    }
    if (!has_start(root)) {
        QN_TRY(with_rest(out, p, root, any_chars(p, 0), ANYWHERE));
        *out = qn_term_seq(p->t, any_chars(p, 0), *out);
        goto out;
    }
    QN_TRY(with_rest(out, p, root, any_chars(p, 0), AT_START));
    QN_TRY(with_rest(&later, p, root, any_chars(p, 0), BEHIND_START));
    *out = qn_term_alt(p->t, *out, qn_term_seq(p->t, any_chars(p, 1), later));
out:
    return rc;
}

/* Repetitions that count, one inside another, can leave thousands of ways to have counted what was read:
 * tried out in terms of its own, so that the answer names the expression and not the grammar it is part of.
 */
static int try_out(const struct parser *like, const struct node *root, const char *text)
{
    int rc = QN_OK;
    struct qn_err *e = like->e;
    struct parser p = *like;
    qn_term start;
    p.t = qn_terms_create(QN_REGEX_TRY_TERMS);
    QN_TRY(whole_term(&start, &p, root));
    QN_TRY(qn_terms_seal(p.t, e));
    QN_FAIL_IF(
        !qn_terms_try(p.t, start), e, QN_TOOBIG,
        "%s: '%.100s' is too costly: its repetitions nest so that one text can be counted in thousands of "
        "ways; write it with fewer {m,n} inside one another, or with * and +",
        p.what, text);
out:
    qn_terms_free(p.t);
    return rc;
}

int qn_regex_term(qn_term *out, struct qn_terms *t, const char *text, size_t n, bool whole, bool is_json,
                  const char *what, struct qn_err *e)
{
    int rc = QN_OK;
    struct node *root;
    struct qn_arena *arena = qn_arena_create(MAX_TREE_BYTES);
    QN_FAIL_IF(n > QN_GRAMMAR_MAX_TEXT, e, QN_TOOBIG, "%s: longer than %u bytes", what, QN_GRAMMAR_MAX_TEXT);
    struct parser p = {.t = t,
                       .arena = arena,
                       .s = text,
                       .end = text + n,
                       .what = what,
                       .is_json = is_json,
                       .whole = whole,
                       .e = e};
    QN_TRY(alternatives(&p, &root));
    QN_FAIL_IF(p.s < p.end, e, QN_INVAL, "%s: a ')' without its '('", what);
    QN_TRY(whole_term(out, &p, root));
    QN_FAIL_IF(qn_terms_failed(t), e, QN_TOOBIG, "%s: needs too many terms", what);
    if (p.is_nested) QN_TRY(try_out(&p, root, text));
out:
    qn_arena_free(arena);
    return rc;
}
