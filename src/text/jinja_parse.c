/* Jinja tokens -> syntax tree; one trailing newline of the source dropped, every newline spelled \n.
 * SPDX-License-Identifier: Apache-2.0 */
#include "text/jinja_syntax.h"

/* ---- tree ---- */

static struct tok *cur(struct parser *p)
{
    return &p->toks[p->at];
}

static struct tok *next(struct parser *p)
{
    struct tok *t = &p->toks[p->at];
    if (t->type != T_END) p->at++;
    return t;
}

static bool is_op(const struct tok *t, char op)
{
    return t->type == T_OP && t->op == op;
}

static bool is_name(const struct tok *t, const char *name)
{
    return t->type == T_NAME && t->n == strlen(name) && !memcmp(t->p, name, t->n);
}

static bool skip_op(struct parser *p, char op)
{
    if (!is_op(cur(p), op)) return false;
    p->at++;
    return true;
}

static bool skip_name(struct parser *p, const char *name)
{
    if (!is_name(cur(p), name)) return false;
    p->at++;
    return true;
}

static const char *describe(const struct tok *t, char *text, size_t n)
{
    static const char *const names[] = {"the end of the template", "template text", "a block",
                                        "the end of the block",    "'{{'",          "the end of '{{'"};
    if (t->type <= T_VAR_END) return names[t->type];
    snprintf(text, n, "'%.*s'", (int)QN_MIN(t->n, (size_t)40), t->p);
    return text;
}

QN_NORETURN static void unexpected(struct parser *p, const char *wanted)
{
    char text[64];
    jj_bad(p, cur(p)->line, "unexpected %s, expected %s", describe(cur(p), text, sizeof text), wanted);
}

static void expect_op(struct parser *p, char op)
{
    char wanted[] = {'\'', op, '\'', 0};
    if (!skip_op(p, op)) unexpected(p, wanted);
}

static struct tok *expect_name(struct parser *p)
{
    if (cur(p)->type != T_NAME) unexpected(p, "a name");
    return next(p);
}

static int intern(struct parser *p, const char *name, size_t n)
{
    struct qn_jinja *t = p->t;
    for (int i = 0; i < t->n_sym; i++)
        if (t->syms[i].n == n && !memcmp(t->syms[i].text, name, n)) return i;
    if (t->n_sym == t->sym_capacity) {
        t->sym_capacity = t->sym_capacity ? t->sym_capacity * 2 : 32;
        struct qn_json_key *syms = jj_get(p, (size_t)t->sym_capacity * sizeof *syms);
        if (t->n_sym) memcpy(syms, t->syms, (size_t)t->n_sym * sizeof *syms);
        t->syms = syms;
    }
    char *copy = jj_get(p, n + 1);
    memcpy(copy, name, n);
    t->syms[t->n_sym] = (struct qn_json_key){copy, n};
    return t->n_sym++;
}

static struct node *make(struct parser *p, enum node_kind kind, int line)
{
    struct node *n = jj_get(p, sizeof *n);
    n->kind = (uint8_t)kind;
    n->line = line;
    return n;
}

static void push(struct parser *p, struct body *b, struct node *n)
{
    if (b->n == b->capacity) {
        b->capacity = b->capacity ? b->capacity * 2 : 4;
        struct node **items = jj_get(p, (size_t)b->capacity * sizeof(void *));
        if (b->n) memcpy(items, b->items, (size_t)b->n * sizeof(void *));
        b->items = items;
    }
    b->items[b->n++] = n;
}

static void down(struct parser *p)
{
    if (++p->nest > QN_JINJA_MAX_NEST)
        jj_bad(p, cur(p)->line, "tags and expressions nest deeper than %d levels", QN_JINJA_MAX_NEST);
}

static struct node *parse_expr(struct parser *p);
static struct node *parse_unary(struct parser *p, bool with_filter);
static void parse_body(struct parser *p, struct body *out, const char *const *ends, const char *what,
                       int line);

static struct node *const_node(struct parser *p, struct val v, int line)
{
    struct node *n = make(p, E_CONST, line);
    n->value = v;
    return n;
}

static struct node *str_node(struct parser *p, const char *text, size_t n, int line)
{
    struct str *s = jj_get(p, sizeof *s);
    *s = (struct str){.p = text, .n = n, .uniform = QN_JINJA_LITERAL, .n_cp = -1};
    jj_count_cp(s); /* renders share this node: nothing may be filled in later */
    return const_node(p, (struct val){.type = V_STR, .u.s = s}, line);
}

static size_t put_cp(char *out, uint32_t c)
{
    if (c < 0x80) return out[0] = (char)c, (size_t)1;
    if (c < 0x800) return out[0] = (char)(0xc0 | c >> 6), out[1] = (char)(0x80 | (c & 63)), (size_t)2;
    if (c < 0x10000)
        return out[0] = (char)(0xe0 | c >> 12), out[1] = (char)(0x80 | (c >> 6 & 63)),
               out[2] = (char)(0x80 | (c & 63)), (size_t)3;
    out[0] = (char)(0xf0 | c >> 18);
    out[1] = (char)(0x80 | (c >> 12 & 63));
    out[2] = (char)(0x80 | (c >> 6 & 63));
    out[3] = (char)(0x80 | (c & 63));
    return 4;
}

/* One escape at t->p[i] (after the backslash), as Python has them; appends to out. Returns the next i. */
static size_t unescape(struct parser *p, const struct tok *t, size_t i, char *out, size_t *len)
{
    static const char from[] = "\\'\"abfnrtv", to[] = "\\'\"\a\b\f\n\r\t\v";
    char c = t->p[i];
    const char *hit = strchr(from, c);
    if (c == '\n') return i + 1;
    if (c && hit) {
        out[(*len)++] = to[hit - from];
        return i + 1;
    }
    if (c >= '0' && c <= '7') {
        uint32_t v = 0;
        size_t k = i;
        while (k < t->n && k < i + 3 && t->p[k] >= '0' && t->p[k] <= '7')
            v = v * 8 + (uint32_t)(t->p[k++] - '0');
        *len += put_cp(out + *len, v);
        return k;
    }
    int want = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
    if (!want) { /* not an escape: the backslash stays */
        out[(*len)++] = '\\';
        return i;
    }
    uint32_t v = 0;
    for (int k = 1; k <= want; k++) {
        char h = i + (size_t)k < t->n ? t->p[i + (size_t)k] : 0;
        int d = jj_is_digit(h) ? h - '0' : (h | 32) >= 'a' && (h | 32) <= 'f' ? (h | 32) - 'a' + 10 : -1;
        if (d < 0) jj_bad(p, t->line, "truncated \\%c escape in a string", c);
        v = v * 16 + (uint32_t)d;
    }
    if (v > 0x10ffff || (v >= 0xd800 && v < 0xe000)) jj_bad(p, t->line, "\\%c escape is no character", c);
    *len += put_cp(out + *len, v);
    return i + 1 + (size_t)want;
}

/* One or more adjacent string literals. */
static struct node *parse_string(struct parser *p)
{
    int line = cur(p)->line;
    size_t n = 0, len = 0;
    for (size_t i = p->at; p->toks[i].type == T_STRING; i++) n += p->toks[i].n;
    char *out =
        jj_get(p, n * 2 + 1); /* "\200" takes four bytes and gives two: never longer than the source */
    while (cur(p)->type == T_STRING) {
        const struct tok *t = next(p);
        for (size_t i = 0; i < t->n;) {
            if (t->p[i] == '\\' && i + 1 < t->n)
                i = unescape(p, t, i + 1, out, &len);
            else
                out[len++] = t->p[i++];
        }
    }
    return str_node(p, out, len, line);
}

static struct node *parse_number(struct parser *p)
{
    const struct tok *t = next(p);
    char *clean = jj_get(p, t->n + 1);
    size_t n = 0;
    for (size_t i = 0; i < t->n; i++)
        if (t->p[i] != '_') clean[n++] = t->p[i];
    if (t->type == T_FLOAT) return const_node(p, jj_float_value(strtod(clean, NULL)), t->line);
    int base = n > 2 && clean[0] == '0' ? ((clean[1] | 32) == 'x' ? 16 : (clean[1] | 32) == 'o' ? 8 : 2) : 10;
    if (n > 2 && clean[0] == '0' && clean[1] == '0') base = 10;
    const char *digits = base == 10 ? clean : clean + 2;
    int64_t v = 0;
    for (const char *d = digits; *d; d++) {
        int x = jj_is_digit(*d) ? *d - '0' : (*d | 32) - 'a' + 10;
        if (v > (INT64_MAX - x) / base) {
            if (base != 10 || n > QN_JINJA_MAX_INT_DIGITS) jj_bad(p, t->line, "integer literal is too large");
            int n_limb = (int)((n + 8) / 9);
            struct big *big = jj_get(p, sizeof *big + (size_t)n_limb * sizeof big->d[0]);
            for (size_t i = 0; i < n; i++) { /* digit i has weight 10^(n-1-i) */
                uint32_t scale = 1;
                for (size_t k = (n - 1 - i) % 9; k; k--) scale *= 10;
                big->d[(n - 1 - i) / 9] += (uint32_t)(clean[i] - '0') * scale;
            }
            while (n_limb > 1 && !big->d[n_limb - 1]) n_limb--;
            big->n = n_limb;
            return const_node(p, (struct val){.type = V_BIG, .u.big = big}, t->line);
        }
        v = v * base + x;
    }
    return const_node(p, jj_int_value(v), t->line);
}

static struct node *name_node(struct parser *p, const struct tok *t)
{
    struct node *n = make(p, E_NAME, t->line);
    n->sym = intern(p, t->p, t->n);
    n->text = p->t->syms[n->sym].text;
    n->n = t->n;
    if (p->macro) {
        p->macro->takes_caller |= n->sym == SYM_CALLER;
        p->macro->takes_varargs |= n->sym == SYM_VARARGS;
        p->macro->takes_kwargs |= n->sym == SYM_KWARGS;
    }
    return n;
}

static bool is_tuple_end(const struct parser *p, bool ends_at_in)
{
    const struct tok *t = &p->toks[p->at];
    return t->type == T_VAR_END || t->type == T_BLOCK_END || is_op(t, ')') ||
           (ends_at_in && is_name(t, "in"));
}

static struct node *parse_primary(struct parser *p, bool with_nsref);

/* An expression, or a tuple when commas follow. simplified: names and literals only (targets). */
static struct node *parse_tuple(struct parser *p, bool simplified, bool ends_at_in, bool in_parens,
                                bool with_nsref)
{
    int line = cur(p)->line;
    struct node *tuple = make(p, E_TUPLE, line);
    bool is_tuple = false;
    for (;;) {
        if (tuple->list.n) expect_op(p, ',');
        if (is_tuple_end(p, ends_at_in)) break;
        push(p, &tuple->list, simplified ? parse_primary(p, with_nsref) : parse_expr(p));
        if (!is_op(cur(p), ',')) break;
        is_tuple = true;
    }
    if (is_tuple) return tuple;
    if (tuple->list.n) return tuple->list.items[0];
    if (!in_parens) unexpected(p, "an expression");
    return tuple;
}

static struct node *parse_list_or_dict(struct parser *p, bool is_dict)
{
    struct node *n = make(p, is_dict ? E_DICT : E_LIST, next(p)->line);
    char closer = is_dict ? '}' : ']';
    while (!is_op(cur(p), closer)) {
        if (n->list.n) expect_op(p, ',');
        if (is_op(cur(p), closer)) break;
        push(p, &n->list, parse_expr(p));
        if (is_dict) {
            expect_op(p, ':');
            push(p, &n->list, parse_expr(p));
        }
    }
    next(p);
    return n;
}

static struct node *parse_primary(struct parser *p, bool with_nsref)
{
    const struct tok *t = cur(p);
    if (t->type == T_NAME) {
        next(p);
        if (is_name(t, "true") || is_name(t, "True")) return const_node(p, jj_bool_value(true), t->line);
        if (is_name(t, "false") || is_name(t, "False")) return const_node(p, jj_bool_value(false), t->line);
        if (is_name(t, "none") || is_name(t, "None")) return const_node(p, jj_none_value(), t->line);
        if (with_nsref && skip_op(p, '.')) {
            struct node *n = make(p, E_NSREF, t->line);
            n->sym = intern(p, t->p, t->n);
            const struct tok *attr = expect_name(p);
            n->text = attr->p;
            n->n = attr->n;
            return n;
        }
        return name_node(p, t);
    }
    if (t->type == T_STRING) return parse_string(p);
    if (t->type == T_INT || t->type == T_FLOAT) return parse_number(p);
    struct node *n;
    down(p);
    if (is_op(t, '(')) {
        next(p);
        n = parse_tuple(p, false, false, true, false);
        expect_op(p, ')');
    } else if (is_op(t, '[')) {
        n = parse_list_or_dict(p, false);
    } else if (is_op(t, '{')) {
        n = parse_list_or_dict(p, true);
    } else {
        unexpected(p, "an expression");
    }
    p->nest--;
    return n;
}

static struct args *parse_args(struct parser *p)
{
    struct args *a = jj_get(p, sizeof *a);
    int line = cur(p)->line;
    expect_op(p, '(');
    down(p);
    bool need_comma = false;
    while (!is_op(cur(p), ')')) {
        if (need_comma) {
            expect_op(p, ',');
            if (is_op(cur(p), ')')) break;
        }
        need_comma = true;
        const struct tok *t = cur(p);
        if (is_op(t, '*') && !a->star && !a->star_star) {
            next(p);
            a->star = parse_expr(p);
        } else if (is_op(t, 'P') && !a->star_star) {
            next(p);
            a->star_star = parse_expr(p);
        } else if (t->type == T_NAME && is_op(&p->toks[p->at + 1], '=') && !a->star_star) {
            p->at += 2;
            if (a->n_kw == a->kw_capacity) {
                a->kw_capacity = a->kw_capacity ? a->kw_capacity * 2 : 4;
                struct kwarg *kw = jj_get(p, (size_t)a->kw_capacity * sizeof *kw);
                if (a->n_kw) memcpy(kw, a->kw, (size_t)a->n_kw * sizeof *kw);
                a->kw = kw;
            }
            a->kw[a->n_kw++] = (struct kwarg){.name = t->p, .n = t->n};
            push(p, &a->kw_values, parse_expr(p));
        } else if (!a->star && !a->star_star && !a->n_kw) {
            push(p, &a->pos, parse_expr(p));
        } else {
            jj_bad(p, line, "positional arguments must come before keyword arguments");
        }
    }
    next(p);
    p->nest--;
    return a;
}

static struct node *parse_call(struct parser *p, struct node *callee)
{
    struct node *n = make(p, E_CALL, cur(p)->line);
    n->a = callee;
    n->args = parse_args(p);
    return n;
}

/* A dotted name; writes its text as one piece. */
static void parse_dotted(struct parser *p, const char **name, size_t *n)
{
    const struct tok *t = expect_name(p);
    *name = t->p;
    *n = t->n;
    while (skip_op(p, '.')) {
        t = expect_name(p);
        *n = (size_t)(t->p + t->n - *name);
    }
}

static struct node *parse_filter(struct parser *p, struct node *operand)
{
    struct node *n = make(p, E_FILTER, cur(p)->line);
    parse_dotted(p, &n->text, &n->n);
    n->a = operand;
    n->builtin = jj_find_filter(n->text, n->n);
    n->args = is_op(cur(p), '(') ? parse_args(p) : jj_get(p, sizeof *n->args);
    return n;
}

static struct node *parse_postfix(struct parser *p, struct node *n);

static struct node *parse_test(struct parser *p, struct node *operand)
{
    struct node *n = make(p, E_TEST, next(p)->line);
    bool negated = skip_name(p, "not");
    parse_dotted(p, &n->text, &n->n);
    n->a = operand;
    n->builtin = jj_find_test(n->text, n->n);
    const struct tok *t = cur(p);
    if (is_op(t, '(')) {
        n->args = parse_args(p);
    } else {
        n->args = jj_get(p, sizeof *n->args);
        bool is_value = t->type == T_NAME ? !is_name(t, "else") && !is_name(t, "or") && !is_name(t, "and")
                                          : t->type == T_STRING || t->type == T_INT || t->type == T_FLOAT ||
                                                is_op(t, '[') || is_op(t, '{');
        if (is_value) {
            if (is_name(t, "is")) jj_bad(p, t->line, "tests with 'is' cannot be chained");
            push(p, &n->args->pos, parse_postfix(p, parse_primary(p, false)));
        }
    }
    if (!negated) return n;
    struct node *not = make(p, E_NOT, n->line);
    not ->a = n;
    return not ;
}

static struct node *parse_slice_part(struct parser *p)
{
    const struct tok *t = cur(p);
    return is_op(t, ']') || is_op(t, ',') || is_op(t, ':') ? NULL : parse_expr(p);
}

static struct node *parse_subscript_item(struct parser *p)
{
    int line = cur(p)->line;
    struct node *first = is_op(cur(p), ':') ? NULL : parse_expr(p);
    if (!skip_op(p, ':')) return first;
    struct node *n = make(p, E_SLICE, line);
    n->a = first;
    n->b = parse_slice_part(p);
    if (skip_op(p, ':')) n->c = parse_slice_part(p);
    return n;
}

static struct node *parse_postfix(struct parser *p, struct node *n)
{
    for (;;) {
        const struct tok *t = cur(p);
        if (is_op(t, '(')) {
            n = parse_call(p, n);
        } else if (is_op(t, '.')) {
            next(p);
            const struct tok *attr = cur(p);
            struct node *get_node = make(p, attr->type == T_INT ? E_ITEM : E_ATTR, t->line);
            get_node->a = n;
            if (attr->type == T_INT) {
                get_node->b = parse_number(p);
            } else {
                if (attr->type != T_NAME) unexpected(p, "a name or a number");
                next(p);
                get_node->text = attr->p;
                get_node->n = attr->n;
            }
            n = get_node;
        } else if (is_op(t, '[')) {
            next(p);
            down(p);
            struct node *get_node = make(p, E_ITEM, t->line), *tuple = make(p, E_TUPLE, t->line);
            get_node->a = n;
            while (!is_op(cur(p), ']')) {
                if (tuple->list.n) expect_op(p, ',');
                push(p, &tuple->list, parse_subscript_item(p));
            }
            next(p);
            get_node->b = tuple->list.n == 1 ? tuple->list.items[0] : tuple;
            for (int i = 0; tuple->list.n > 1 && i < tuple->list.n; i++)
                if (tuple->list.items[i]->kind == E_SLICE)
                    jj_bad(p, t->line, "a slice cannot be part of a tuple");
            p->nest--;
            n = get_node;
        } else {
            return n;
        }
    }
}

static struct node *parse_filters(struct parser *p, struct node *n)
{
    for (;;) {
        if (skip_op(p, '|'))
            n = parse_filter(p, n);
        else if (is_name(cur(p), "is"))
            n = parse_test(p, n);
        else if (is_op(cur(p), '('))
            n = parse_call(p, n);
        else
            return n;
    }
}

static struct node *parse_unary(struct parser *p, bool with_filter)
{
    struct node *n;
    const struct tok *t = cur(p);
    if (is_op(t, '-') || is_op(t, '+')) {
        next(p);
        down(p);
        n = make(p, t->op == '-' ? E_NEG : E_POS, t->line);
        n->a = parse_unary(p, false);
        p->nest--;
    } else {
        n = parse_primary(p, false);
    }
    n = parse_postfix(p, n);
    return with_filter ? parse_filters(p, n) : n;
}

static struct node *binary(struct parser *p, enum node_kind kind, char op, struct node *a, struct node *b,
                           int line)
{
    struct node *n = make(p, kind, line);
    n->op = (uint8_t)op;
    n->a = a;
    n->b = b;
    return n;
}

static struct node *parse_pow(struct parser *p)
{
    int line = cur(p)->line;
    struct node *left = parse_unary(p, true);
    while (skip_op(p, 'P')) left = binary(p, E_BIN, 'P', left, parse_unary(p, true), line);
    return left;
}

static struct node *parse_product(struct parser *p)
{
    int line = cur(p)->line;
    struct node *left = parse_pow(p);
    while (cur(p)->type == T_OP && strchr("*/F%", cur(p)->op)) {
        char op = next(p)->op;
        left = binary(p, E_BIN, op, left, parse_pow(p), line);
    }
    return left;
}

static struct node *parse_concat(struct parser *p)
{
    struct node *first = parse_product(p);
    if (!is_op(cur(p), '~')) return first;
    struct node *n = make(p, E_CONCAT, first->line);
    push(p, &n->list, first);
    while (skip_op(p, '~')) push(p, &n->list, parse_product(p));
    return n;
}

static struct node *parse_sum(struct parser *p)
{
    int line = cur(p)->line;
    struct node *left = parse_concat(p);
    while (is_op(cur(p), '+') || is_op(cur(p), '-')) {
        char op = next(p)->op;
        left = binary(p, E_BIN, op, left, parse_concat(p), line);
    }
    return left;
}

static struct node *parse_compare(struct parser *p)
{
    int line = cur(p)->line;
    struct node *first = parse_sum(p);
    struct body operands = {0};
    char ops[64];
    for (;;) {
        const struct tok *t = cur(p);
        char op;
        if (t->type == T_OP && strchr("en><gl", t->op)) {
            op = t->op == 'e' ? '=' : t->op == 'n' ? '!' : t->op;
            next(p);
        } else if (skip_name(p, "in")) {
            op = 'i';
        } else if (is_name(t, "not") && is_name(&p->toks[p->at + 1], "in")) {
            op = 'n';
            p->at += 2;
        } else {
            break;
        }
        if (operands.n == (int)sizeof ops)
            jj_bad(p, line, "more than %zu comparisons in one chain", sizeof ops);
        ops[operands.n] = op;
        push(p, &operands, parse_sum(p));
    }
    if (!operands.n) return first;
    struct node *n = make(p, E_COMPARE, line);
    n->a = first;
    n->list = operands;
    n->n = (size_t)operands.n;
    char *copy = jj_get(p, n->n + 1);
    memcpy(copy, ops, n->n);
    n->text = copy;
    return n;
}

static struct node *parse_not(struct parser *p)
{
    if (!is_name(cur(p), "not")) return parse_compare(p);
    struct node *n = make(p, E_NOT, next(p)->line);
    down(p);
    n->a = parse_not(p);
    p->nest--;
    return n;
}

static struct node *parse_and(struct parser *p)
{
    int line = cur(p)->line;
    struct node *left = parse_not(p);
    while (skip_name(p, "and")) left = binary(p, E_AND, 0, left, parse_not(p), line);
    return left;
}

static struct node *parse_or(struct parser *p)
{
    int line = cur(p)->line;
    struct node *left = parse_and(p);
    while (skip_name(p, "or")) left = binary(p, E_OR, 0, left, parse_and(p), line);
    return left;
}

static struct node *parse_expr(struct parser *p)
{
    int line = cur(p)->line;
    down(p);
    struct node *n = parse_or(p);
    while (skip_name(p, "if")) {
        n = binary(p, E_COND, 0, n, parse_or(p), line);
        if (skip_name(p, "else")) n->c = parse_expr(p);
    }
    p->nest--;
    return n;
}

/* ---- statements ---- */

static void check_target(struct parser *p, const struct node *n)
{
    if (n->kind == E_TUPLE) {
        for (int i = 0; i < n->list.n; i++) check_target(p, n->list.items[i]);
    } else if (n->kind != E_NAME && n->kind != E_NSREF) {
        jj_bad(p, n->line, "this cannot be assigned to");
    }
}

static struct node *parse_target(struct parser *p, bool ends_at_in, bool with_nsref)
{
    struct node *n = parse_tuple(p, true, ends_at_in, false, with_nsref);
    check_target(p, n);
    return n;
}

static void end_block(struct parser *p)
{
    if (cur(p)->type != T_BLOCK_END) unexpected(p, "the end of the block");
    next(p);
}

static void parse_if(struct parser *p, struct node *n)
{
    static const char *const ends[] = {"elif", "else", "endif", NULL};
    static const char *const end[] = {"endif", NULL};
    for (;;) {
        n->a = parse_tuple(p, false, false, false, false);
        end_block(p);
        parse_body(p, &n->body, ends, "if", n->line);
        if (is_name(cur(p), "elif")) {
            struct node *inner = make(p, N_IF, next(p)->line);
            push(p, &n->other, inner);
            n = inner;
            continue;
        }
        if (skip_name(p, "else")) {
            end_block(p);
            parse_body(p, &n->other, end, "if", n->line);
        }
        next(p); /* endif */
        return;
    }
}

static void parse_for(struct parser *p, struct node *n)
{
    static const char *const ends[] = {"endfor", "else", NULL};
    static const char *const end[] = {"endfor", NULL};
    n->a = parse_target(p, true, false);
    if (!skip_name(p, "in")) unexpected(p, "'in'");
    /* "for x in a if b" is a filter, so the iterable itself takes no conditional */
    struct node *tuple = make(p, E_TUPLE, cur(p)->line);
    bool is_tuple = false;
    for (;;) {
        if (tuple->list.n) expect_op(p, ',');
        if (is_tuple_end(p, false) || is_name(cur(p), "recursive")) break;
        push(p, &tuple->list, parse_or(p));
        if (!is_op(cur(p), ',')) break;
        is_tuple = true;
    }
    if (!tuple->list.n) unexpected(p, "an expression");
    n->b = is_tuple ? tuple : tuple->list.items[0];
    if (skip_name(p, "if")) n->c = parse_expr(p);
    if (skip_name(p, "recursive")) n->op = 1;
    end_block(p);
    p->loop_depth++;
    parse_body(p, &n->body, ends, "for", n->line);
    p->loop_depth--;
    if (skip_name(p, "else")) {
        end_block(p);
        parse_body(p, &n->other, end, "for", n->line);
    }
    next(p);
}

static struct node *parse_set(struct parser *p, int line)
{
    static const char *const end[] = {"endset", NULL};
    struct node *target = parse_target(p, false, true);
    struct node *n;
    if (skip_op(p, '=')) {
        n = make(p, N_SET, line);
        n->a = target;
        n->b = parse_tuple(p, false, false, false, false);
        return n;
    }
    n = make(p, N_SETBLOCK, line);
    n->a = target;
    while (skip_op(p, '|')) n->b = parse_filter(p, n->b);
    end_block(p);
    parse_body(p, &n->body, end, "set", line);
    next(p);
    return n;
}

static void parse_signature(struct parser *p, struct params *params)
{
    expect_op(p, '(');
    while (!is_op(cur(p), ')')) {
        if (params->n) expect_op(p, ',');
        if (params->n == params->capacity) {
            params->capacity = params->capacity ? params->capacity * 2 : 4;
            int *syms = jj_get(p, (size_t)params->capacity * sizeof *syms);
            struct node **defaults = jj_get(p, (size_t)params->capacity * sizeof(void *));
            if (params->n) {
                memcpy(syms, params->syms, (size_t)params->n * sizeof *syms);
                memcpy(defaults, params->defaults, (size_t)params->n * sizeof(void *));
            }
            params->syms = syms;
            params->defaults = defaults;
        }
        const struct tok *t = expect_name(p);
        params->syms[params->n] = intern(p, t->p, t->n);
        if (skip_op(p, '='))
            params->defaults[params->n] = parse_expr(p);
        else if (params->n && params->defaults[params->n - 1])
            jj_bad(p, t->line, "a parameter without a default follows one with a default");
        params->n++;
    }
    next(p);
}

/* The body of a macro or call block: remembers which of the implicit variables it mentions. */
static void parse_macro_body(struct parser *p, struct node *n, const char *const *end, const char *what)
{
    struct params *outer = p->macro;
    int loops = p->loop_depth;
    p->macro = n->params;
    p->loop_depth = 0;
    end_block(p);
    parse_body(p, &n->body, end, what, n->line);
    next(p);
    p->loop_depth = loops;
    p->macro = outer;
    /* a mention inside a nested macro is also one of the outer, as far as `caller` goes */
    if (outer && n->kind == N_CALLBLOCK) {
        outer->takes_caller |= n->params->takes_caller;
        outer->takes_varargs |= n->params->takes_varargs;
        outer->takes_kwargs |= n->params->takes_kwargs;
    }
}

static struct node *parse_macro(struct parser *p, int line)
{
    static const char *const end[] = {"endmacro", NULL};
    struct node *n = make(p, N_MACRO, line);
    const struct tok *t = expect_name(p);
    n->sym = intern(p, t->p, t->n);
    n->text = t->p;
    n->n = t->n;
    n->params = jj_get(p, sizeof *n->params);
    parse_signature(p, n->params);
    parse_macro_body(p, n, end, "macro");
    return n;
}

static struct node *parse_call_block(struct parser *p, int line)
{
    static const char *const end[] = {"endcall", NULL};
    struct node *n = make(p, N_CALLBLOCK, line);
    n->params = jj_get(p, sizeof *n->params);
    n->text = "caller";
    n->n = 6;
    if (is_op(cur(p), '(')) parse_signature(p, n->params);
    n->a = parse_expr(p);
    if (n->a->kind != E_CALL) jj_bad(p, line, "a call block needs a call");
    parse_macro_body(p, n, end, "call");
    return n;
}

static struct node *parse_filter_block(struct parser *p, int line)
{
    static const char *const end[] = {"endfilter", NULL};
    struct node *n = make(p, N_FILTER, line);
    n->a = parse_filter(p, NULL);
    while (skip_op(p, '|')) n->a = parse_filter(p, n->a);
    end_block(p);
    parse_body(p, &n->body, end, "filter", line);
    next(p);
    return n;
}

static struct node *parse_with(struct parser *p, int line)
{
    static const char *const end[] = {"endwith", NULL};
    struct node *n = make(p, N_WITH, line);
    while (cur(p)->type != T_BLOCK_END) {
        if (n->list.n) expect_op(p, ',');
        struct node *target = parse_primary(p, false);
        check_target(p, target);
        push(p, &n->list, target);
        expect_op(p, '=');
        push(p, &n->list, parse_expr(p));
    }
    end_block(p);
    parse_body(p, &n->body, end, "with", line);
    next(p);
    return n;
}

static struct node *parse_scope_block(struct parser *p, const char *tag, int line)
{
    const char *end[] = {!strcmp(tag, "block")        ? "endblock"
                         : !strcmp(tag, "generation") ? "endgeneration"
                                                      : "endautoescape",
                         NULL};
    struct node *n = make(p, N_SCOPE, line);
    if (!strcmp(tag, "block")) {
        n->op = 1;
        expect_name(p);
        while (cur(p)->type == T_NAME) next(p); /* scoped, required */
    } else if (!strcmp(tag, "autoescape")) {
        const struct node *on = parse_expr(p);
        if (on->kind != E_CONST || on->value.type != V_BOOL || on->value.u.truth)
            jj_bad(p, line, "only 'autoescape false' is supported");
    }
    end_block(p);
    parse_body(p, &n->body, end, tag, line);
    next(p);
    if (n->op == 1 && cur(p)->type == T_NAME) next(p); /* endblock NAME */
    return n;
}

/* A statement whose name is the current token; stands at the block's end afterwards. */
static struct node *parse_statement(struct parser *p)
{
    const struct tok *t = cur(p);
    if (t->type != T_NAME) unexpected(p, "the name of a tag");
    next(p);
    if (is_name(t, "if")) {
        struct node *n = make(p, N_IF, t->line);
        parse_if(p, n);
        return n;
    }
    if (is_name(t, "for")) {
        struct node *n = make(p, N_FOR, t->line);
        parse_for(p, n);
        return n;
    }
    if (is_name(t, "set")) return parse_set(p, t->line);
    if (is_name(t, "macro")) return parse_macro(p, t->line);
    if (is_name(t, "call")) return parse_call_block(p, t->line);
    if (is_name(t, "filter")) return parse_filter_block(p, t->line);
    if (is_name(t, "with")) return parse_with(p, t->line);
    if (is_name(t, "generation")) return parse_scope_block(p, "generation", t->line);
    if (is_name(t, "autoescape")) return parse_scope_block(p, "autoescape", t->line);
    if (is_name(t, "block")) return parse_scope_block(p, "block", t->line);
    if (is_name(t, "break") || is_name(t, "continue")) {
        if (!p->loop_depth) jj_bad(p, t->line, "'%.*s' outside of a loop", (int)t->n, t->p);
        return make(p, t->n == 5 ? N_BREAK : N_CONTINUE, t->line);
    }
    if (is_name(t, "do") || is_name(t, "print")) {
        struct node *n = make(p, t->n == 2 ? N_DO : N_PRINT, t->line);
        n->a = parse_tuple(p, false, false, false, false);
        return n;
    }
    if (is_name(t, "include") || is_name(t, "import") || is_name(t, "from") || is_name(t, "extends"))
        jj_bad(p, t->line, "'%.*s' needs other template files; a chat template is one file", (int)t->n, t->p);
    jj_bad(p, t->line, "unknown tag '%.*s'", (int)QN_MIN(t->n, (size_t)40), t->p);
}

/* Statements up to a tag named in ends (NULL: the end of the template). Stands at that name afterwards. */
static void parse_body(struct parser *p, struct body *out, const char *const *ends, const char *what,
                       int line)
{
    down(p);
    for (;;) {
        const struct tok *t = cur(p);
        if (t->type == T_END) {
            if (ends) jj_bad(p, line, "this '%s' is never closed", what);
            break;
        }
        next(p);
        if (t->type == T_DATA) {
            struct node *n = make(p, N_DATA, t->line);
            n->text = t->p;
            n->n = t->n;
            push(p, out, n);
        } else if (t->type == T_VAR_BEGIN) {
            struct node *n = make(p, N_PRINT, t->line);
            n->a = parse_tuple(p, false, false, false, false);
            if (cur(p)->type != T_VAR_END) unexpected(p, "'}}'");
            next(p);
            push(p, out, n);
        } else {
            bool is_end = false;
            for (int i = 0; ends && ends[i]; i++) is_end |= is_name(cur(p), ends[i]);
            if (is_end) break;
            if (cur(p)->type == T_NAME && cur(p)->n > 3 && !memcmp(cur(p)->p, "end", 3) && ends)
                jj_bad(p, cur(p)->line, "unexpected '%.*s'; the '%s' of line %d is still open",
                       (int)QN_MIN(cur(p)->n, (size_t)40), cur(p)->p, what, line);
            push(p, out, parse_statement(p));
            end_block(p);
        }
    }
    p->nest--;
}

/* ---- entry points ---- */

/* Copies the source with every line break as \n and one trailing line break dropped. */
static void copy_source(struct parser *p, const char *source, size_t n)
{
    char *out = jj_get(p, n + 1);
    size_t len = 0;
    for (size_t i = 0; i < n; i++) {
        if (source[i] == '\r') {
            out[len++] = '\n';
            if (i + 1 < n && source[i + 1] == '\n') i++;
        } else {
            out[len++] = source[i];
        }
    }
    if (len && out[len - 1] == '\n') len--;
    p->src = p->t->source = out;
    p->n = p->t->n_source = len;
}

static void compile(struct parser *p, const char *source, size_t n)
{
    static const char *const fixed[N_SYM_FIXED] = {"loop", "caller", "varargs", "kwargs"};
    for (int i = 0; i < N_SYM_FIXED; i++) intern(p, fixed[i], strlen(fixed[i]));
    copy_source(p, source, n);
    jj_lex(p);
    parse_body(p, &p->t->body, NULL, "template", 1);
}

/* Its own function, so that no variable of the caller lives across the jump. */
static int compile_guarded(struct parser *p, const char *source, size_t n)
{
    if (setjmp(p->leave)) return p->rc;
    compile(p, source, n);
    return QN_OK;
}

int qn_jinja_compile(struct qn_jinja **out, const char *source, size_t n, const char *name, struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_jinja *t = NULL;
    struct parser *p = NULL;
    QN_FAIL_IF(n > QN_JINJA_MAX_SOURCE_BYTES, e, QN_TOOBIG, "%s: a template of %zu bytes; the limit is %zu",
               name, n, QN_JINJA_MAX_SOURCE_BYTES);
    t = xcalloc(1, sizeof *t);
    t->arena = qn_arena_create(n * 200 + (1 << 20));
    t->name = xstrdup(name);
    p = xcalloc(1, sizeof *p);
    *p = (struct parser){.t = t, .e = e, .line = 1};
    QN_TRY(compile_guarded(p, source, n));
    *out = t;
    t = NULL;
out:
    free(p);
    qn_jinja_free(t);
    return rc;
}

void qn_jinja_free(struct qn_jinja *t)
{
    if (!t) return;
    qn_arena_free(t->arena);
    free(t->name);
    free(t);
}

bool qn_jinja_mentions(const struct qn_jinja *t, const char *word)
{
    return jj_find_bytes(t->source, t->n_source, word, strlen(word)) != SIZE_MAX;
}

const char *qn_jinja_source(const struct qn_jinja *t, size_t *n)
{
    *n = t->n_source;
    return t->source;
}
