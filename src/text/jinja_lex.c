/* Jinja source -> tokens. White space rules: trim_blocks, lstrip_blocks, the signs - and +.
 * SPDX-License-Identifier: Apache-2.0 */
#include "text/jinja_syntax.h"

#include <stdarg.h>

void jj_bad(struct parser *p, int line, const char *fmt, ...)
{
    char text[200];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    p->rc = qn_err_set(p->e, QN_FORMAT, __FILE__, __LINE__, "%s:%d: %s", p->t->name, line, text);
    longjmp(p->leave, 1);
}

void jj_too_big(struct parser *p)
{
    p->rc =
        qn_err_set(p->e, QN_TOOBIG, __FILE__, __LINE__, "%s: the template needs too much memory", p->t->name);
    longjmp(p->leave, 1);
}

void *jj_get(struct parser *p, size_t n_byte)
{
    void *out = qn_arena_alloc(p->t->arena, n_byte);
    if (!out) jj_too_big(p);
    return out;
}

static void add_tok(struct parser *p, enum tok_type type, char op, int line, const char *text, size_t n)
{
    if (p->n_tok == p->tok_capacity) {
        size_t capacity = p->tok_capacity ? p->tok_capacity * 2 : 256;
        struct tok *toks = jj_get(p, capacity * sizeof *toks);
        if (p->n_tok) memcpy(toks, p->toks, p->n_tok * sizeof *toks);
        p->toks = toks;
        p->tok_capacity = capacity;
    }
    p->toks[p->n_tok++] = (struct tok){type, op, line, text, n};
}

static int space_len(const char *s, size_t n)
{
    int32_t cp;
    size_t k = n ? jj_next_cp(s, n, &cp) : 0;
    return k && jj_is_space_cp(cp) ? (int)k : 0;
}

static size_t skip_space(const struct parser *p, size_t pos)
{
    int k;
    while ((k = space_len(p->src + pos, p->n - pos))) pos += (size_t)k;
    return pos;
}

/* Moves to `to`, counting lines. */
static void advance(struct parser *p, size_t to)
{
    for (; p->pos < to; p->pos++) p->line += p->src[p->pos] == '\n';
}

static bool looking_at(const struct parser *p, size_t pos, const char *s)
{
    size_t n = strlen(s);
    return p->n - pos >= n && !memcmp(p->src + pos, s, n);
}

/* End of a data text [from, to) before a tag with this sign; lstrip: the tag is not a variable. */
static size_t data_end(const struct parser *p, size_t from, size_t to, char sign, bool lstrip,
                       bool line_start)
{
    if (sign == '-') {
        while (to > from) {
            size_t at = to - 1;
            while (at > from && ((unsigned char)p->src[at] & 0xc0) == 0x80) at--;
            if (space_len(p->src + at, to - at) != (int)(to - at)) break;
            to = at;
        }
        return to;
    }
    if (sign == '+' || !lstrip) return to;
    size_t at = to;
    while (at > from && p->src[at - 1] != '\n') at--;
    if (at == from && !line_start) return to;
    return skip_space(p, at) >= to ? at : to;
}

static void put_data(struct parser *p, size_t from, size_t to)
{
    if (to > from) add_tok(p, T_DATA, 0, p->line, p->src + from, to - from);
}

/* After a tag's closer at pos: the white space it swallows. */
static size_t after_close(const struct parser *p, size_t pos, char sign, bool trim)
{
    if (sign == '-') return skip_space(p, pos);
    if (sign != '+' && trim && pos < p->n && p->src[pos] == '\n') return pos + 1;
    return pos;
}

/* The end of a tag at pos: "%}", "-%}", "+%}". Returns where the text goes on, 0 when it is no end. */
static size_t tag_end(const struct parser *p, size_t pos, const char *closer, bool trim)
{
    if (looking_at(p, pos, closer)) return after_close(p, pos + 2, 0, trim);
    if (pos < p->n && (p->src[pos] == '-' || (p->src[pos] == '+' && trim)) && looking_at(p, pos + 1, closer))
        return after_close(p, pos + 3, p->src[pos], trim);
    return 0;
}

static bool is_word(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           (c & 0x80);
}

bool jj_is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* Digits with single underscores between them; returns the end. */
static size_t digits_end(const struct parser *p, size_t pos)
{
    while (pos < p->n &&
           (jj_is_digit(p->src[pos]) || (p->src[pos] == '_' && pos + 1 < p->n &&
                                         jj_is_digit(p->src[pos + 1]) && jj_is_digit(p->src[pos - 1]))))
        pos++;
    return pos;
}

static void lex_number(struct parser *p)
{
    size_t start = p->pos, end = digits_end(p, start);
    bool after_dot = start && p->src[start - 1] == '.', is_float = false;
    size_t at = end;
    if (!after_dot) {
        if (at + 1 < p->n && p->src[at] == '.' && jj_is_digit(p->src[at + 1])) {
            is_float = true;
            end = at = digits_end(p, at + 1);
        }
        if (at < p->n && (p->src[at] | 32) == 'e') {
            size_t k = at + 1;
            if (k < p->n && (p->src[k] == '+' || p->src[k] == '-')) k++;
            if (k < p->n && jj_is_digit(p->src[k])) {
                is_float = true;
                end = digits_end(p, k);
            }
        }
    }
    if (!is_float && p->src[start] == '0') {
        /* 0x1f, 0o17, 0b11, or zeros only */
        char base = start + 1 < p->n ? (char)(p->src[start + 1] | 32) : 0;
        const char *set = base == 'x'   ? "0123456789abcdefABCDEF_"
                          : base == 'o' ? "01234567_"
                          : base == 'b' ? "01_"
                                        : NULL;
        end = start + 1;
        if (set) {
            size_t k = start + 2;
            while (k < p->n && p->src[k] && strchr(set, p->src[k])) k++;
            if (k > start + 2) end = k;
        } else {
            while (end < p->n && p->src[end] == '0') end++;
        }
    }
    add_tok(p, is_float ? T_FLOAT : T_INT, 0, p->line, p->src + start, end - start);
    advance(p, end);
}

static void lex_operator(struct parser *p, char *stack, int *n_stack)
{
    static const struct {
        const char *text;
        char op;
    } two[] = {{"//", 'F'}, {"**", 'P'}, {"==", 'e'}, {"!=", 'n'}, {">=", 'g'}, {"<=", 'l'}};
    for (size_t i = 0; i < QN_COUNT(two); i++)
        if (looking_at(p, p->pos, two[i].text)) {
            add_tok(p, T_OP, two[i].op, p->line, p->src + p->pos, 2);
            p->pos += 2;
            return;
        }
    char c = p->src[p->pos];
    if (!c || !strchr("+-/*%~[](){}><=.:|,;", c)) jj_bad(p, p->line, "unexpected character '%c'", c);
    if (strchr("([{", c)) {
        if (*n_stack == QN_JINJA_MAX_NEST)
            jj_bad(p, p->line, "brackets nest deeper than %d levels", QN_JINJA_MAX_NEST);
        stack[(*n_stack)++] = c == '(' ? ')' : c == '[' ? ']' : '}';
    } else if (strchr(")]}", c)) {
        if (!*n_stack) jj_bad(p, p->line, "unexpected '%c'", c);
        char want = stack[--*n_stack];
        if (c != want) jj_bad(p, p->line, "unexpected '%c', expected '%c'", c, want);
    }
    add_tok(p, T_OP, c, p->line, p->src + p->pos, 1);
    p->pos++;
}

/* The inside of {{ }} or {% %}, up to and with its end. */
static void lex_tag(struct parser *p, bool is_block, int start_line)
{
    char stack[QN_JINJA_MAX_NEST];
    int n_stack = 0;
    for (;;) {
        if (p->pos >= p->n) jj_bad(p, start_line, "this tag is never closed");
        size_t end = n_stack ? 0 : tag_end(p, p->pos, is_block ? "%}" : "}}", is_block);
        if (end) {
            add_tok(p, is_block ? T_BLOCK_END : T_VAR_END, 0, p->line, p->src + p->pos, 2);
            advance(p, end);
            return;
        }
        size_t blank = skip_space(p, p->pos);
        char c = p->src[p->pos];
        if (blank > p->pos) {
            advance(p, blank);
        } else if (jj_is_digit(c)) {
            lex_number(p);
        } else if (is_word(c)) {
            size_t k = p->pos;
            while (k < p->n && is_word(p->src[k])) k++;
            add_tok(p, T_NAME, 0, p->line, p->src + p->pos, k - p->pos);
            p->pos = k;
        } else if (c == '\'' || c == '"') {
            size_t k = p->pos + 1;
            while (k < p->n && p->src[k] != c) k += p->src[k] == '\\' ? 2 : 1;
            if (k >= p->n) jj_bad(p, p->line, "this string is never closed");
            add_tok(p, T_STRING, 0, p->line, p->src + p->pos + 1, k - p->pos - 1);
            advance(p, k + 1);
        } else {
            lex_operator(p, stack, &n_stack);
        }
    }
}

/* {% raw %} at pos (after the opener and sign)? Returns where its text begins, or 0. */
static size_t raw_begin(const struct parser *p, size_t pos)
{
    pos = skip_space(p, pos);
    if (!looking_at(p, pos, "raw")) return 0;
    pos = skip_space(p, pos + 3);
    if (looking_at(p, pos, "-%}")) return skip_space(p, pos + 3);
    return looking_at(p, pos, "%}") ? pos + 2 : 0;
}

static void lex_raw(struct parser *p, int start_line)
{
    if (p->pos >= p->n) return; /* as the reference has it */
    for (size_t k = p->pos; k + 1 < p->n; k++) {
        if (!looking_at(p, k, "{%")) continue;
        char sign = k + 2 < p->n && (p->src[k + 2] == '-' || p->src[k + 2] == '+') ? p->src[k + 2] : 0;
        size_t at = skip_space(p, k + 2 + (sign != 0));
        if (!looking_at(p, at, "endraw")) continue;
        size_t end = tag_end(p, skip_space(p, at + 6), "%}", true);
        if (!end) continue;
        put_data(p, p->pos, data_end(p, p->pos, k, sign, true, p->pos == 0 || p->src[p->pos - 1] == '\n'));
        advance(p, end);
        return;
    }
    jj_bad(p, start_line, "this raw block is never closed");
}

void jj_lex(struct parser *p)
{
    while (p->pos < p->n) {
        size_t k = p->pos;
        while (k < p->n &&
               !(p->src[k] == '{' && k + 1 < p->n && strchr("{%#", p->src[k + 1]) && p->src[k + 1]))
            k++;
        bool line_start = p->pos == 0 || p->src[p->pos - 1] == '\n';
        if (k >= p->n) {
            put_data(p, p->pos, p->n);
            break;
        }
        char kind = p->src[k + 1];
        char sign = k + 2 < p->n && (p->src[k + 2] == '-' || p->src[k + 2] == '+') ? p->src[k + 2] : 0;
        put_data(p, p->pos, data_end(p, p->pos, k, sign, kind != '{', line_start));
        advance(p, k);
        int line = p->line;
        size_t inside = k + 2 + (sign != 0), raw = kind == '%' ? raw_begin(p, inside) : 0;
        if (raw) {
            advance(p, raw);
            lex_raw(p, line);
        } else if (kind == '#') {
            size_t c = inside, end = 0;
            while (c + 1 < p->n && !(end = tag_end(p, c, "#}", true))) c++;
            if (!end) jj_bad(p, line, "this comment is never closed");
            advance(p, end);
        } else {
            add_tok(p, kind == '{' ? T_VAR_BEGIN : T_BLOCK_BEGIN, 0, line, p->src + k, 2);
            advance(p, inside);
            lex_tag(p, kind == '%', line);
        }
    }
    add_tok(p, T_END, 0, p->line, "", 0);
}
