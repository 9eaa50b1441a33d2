/* Values of a call's parameters: where they end, and their way into the arguments' JSON.
 * SPDX-License-Identifier: Apache-2.0 */
#include "text/parse_impl.h"

static const struct qn_json *parameters_of(const struct qn_parse *p)
{
    return p->tool < 0 ? NULL : p->opt.tools->tools[p->tool].parameters;
}

static bool key_is_given(const struct qn_parse *p, const char *key, size_t n)
{
    for (int i = 0; i < p->n_key; i++)
        if (p->key_n[i] == n && !memcmp(p->keys[i], key, n)) return true;
    return false;
}

void pp_begin_value(struct qn_parse *p, const char *key, size_t n)
{
    qn_argtype_find(&p->type, parameters_of(p), key, n);
    p->is_streaming = qn_argtype_is_string(&p->type);
    p->is_crlf = p->at_line_start = false;
    p->n_newline = 0;
    p->open_parameter = p->open_function = p->open_call = 0;
    qn_buf_clear(&p->raw);

    qn_buf_clear(&p->scratch);
    qn_buf_puts(&p->scratch, p->n_key ? ", " : "{");
    qn_json_write_str(&p->scratch, key, n, false);
    qn_buf_puts(&p->scratch, p->is_streaming ? ": \"" : ": ");
    pp_emit_args(p, p->scratch.data, p->scratch.n_byte);

    if (p->n_key == p->key_capacity) {
        p->key_capacity = p->key_capacity ? 2 * p->key_capacity : 8;
        p->keys = xreallocarray(p->keys, (size_t)p->key_capacity, sizeof *p->keys);
        p->key_n = xreallocarray(p->key_n, (size_t)p->key_capacity, sizeof *p->key_n);
    }
    p->keys[p->n_key] = xstrndup(key, n);
    p->key_n[p->n_key++] = n;
    p->state = VALUE_OPEN;
}

static void emit_escaped(struct qn_parse *p, const char *s, size_t n)
{
    qn_buf_clear(&p->scratch);
    qn_json_write_str(&p->scratch, s, n, false);
    pp_emit_args(p, p->scratch.data + 1, p->scratch.n_byte - 2);
}

static void value_put(struct qn_parse *p, const char *s, size_t n)
{
    if (!n) return;
    if (p->is_streaming) {
        emit_escaped(p, s, n);
        return;
    }
    qn_buf_append(&p->raw, s, n);
    if (qn_argtype_may_change(&p->type, p->raw.data, p->raw.n_byte)) return;
    p->is_streaming = true;
    pp_emit_args(p, "\"", 1);
    emit_escaped(p, p->raw.data, p->raw.n_byte);
}

static void value_put_newline(struct qn_parse *p)
{
    value_put(p, p->is_crlf ? "\r\n" : "\n", (size_t)p->n_newline);
    p->n_newline = 0;
}

void pp_end_value(struct qn_parse *p, bool framed)
{
    if (framed && p->n_newline == (p->is_crlf ? 2 : 1)) p->n_newline = 0;
    value_put_newline(p);
    p->state = CALL;
    if (p->is_streaming) {
        pp_emit_args(p, "\"", 1);
        return;
    }
    qn_buf_clear(&p->scratch);
    qn_argtype_write(&p->scratch, &p->type, qn_buf_str(&p->raw), p->raw.n_byte);
    pp_emit_args(p, p->scratch.data, p->scratch.n_byte);
}

enum follow {
    F_PARAMETER = 1,
    F_FUNCTION_CLOSE = 2,
    F_TOOL_CLOSE = 4,
    F_TOOL_OPEN = 8,
    F_FUNCTION_OPEN = 16,
};

/* After blanks at i: one of the markers, or the end. */
static enum tri followed(struct qn_parse *p, size_t i, unsigned by)
{
    static const struct {
        unsigned bit;
        const char *word;
        size_t n;
    } markers[] = {
        {F_PARAMETER, PARAMETER_OPEN, LEN(PARAMETER_OPEN)},
        {F_FUNCTION_CLOSE, FUNCTION_CLOSE, LEN(FUNCTION_CLOSE)},
        {F_TOOL_CLOSE, TOOL_CLOSE, LEN(TOOL_CLOSE)},
        {F_TOOL_OPEN, TOOL_OPEN, LEN(TOOL_OPEN)},
        {F_FUNCTION_OPEN, FUNCTION_OPEN, LEN(FUNCTION_OPEN)},
    };
    i = pp_skip_blanks(p, i);
    if (i == p->in.n_byte) return pp_ended(p);
    enum tri best = NO;
    for (size_t m = 0; m < QN_COUNT(markers); m++) {
        if (!(by & markers[m].bit)) continue;
        enum tri r = literal_n(p, i, markers[m].word, markers[m].n);
        if (r == YES) return YES;
        if (r == MORE) best = MORE;
    }
    return best;
}

/* The complete remaining closers and then the end, or a new call when none is open inside the value.
 * in_function: </function> is still to come. */
static enum tri closers_follow(struct qn_parse *p, size_t i, bool in_function)
{
    enum tri r;
    if (in_function) {
        i = pp_skip_blanks(p, i);
        if (i == p->in.n_byte) return pp_ended(p) == YES ? NO : MORE;
        if ((r = LITERAL(p, i, FUNCTION_CLOSE)) != YES) return r;
        i += LEN(FUNCTION_CLOSE);
    }
    i = pp_skip_blanks(p, i);
    if (i == p->in.n_byte) return !p->is_wrapped ? pp_ended(p) : pp_ended(p) == YES ? NO : MORE;
    if ((r = LITERAL(p, i, TOOL_CLOSE)) == MORE) return MORE;
    if (r == NO && p->is_wrapped) return NO;
    if (r == YES) i = pp_skip_blanks(p, i + LEN(TOOL_CLOSE));
    if (i == p->in.n_byte) return pp_ended(p);
    return p->open_call ? NO : LITERAL(p, i, TOOL_OPEN);
}

enum mark { M_DATA, M_CLOSE, M_STRUCTURE, M_MORE };

static enum mark mark_of(enum tri r, enum mark yes)
{
    return r == MORE ? M_MORE : r == YES ? yes : M_DATA;
}

static bool is_key_end(char c)
{
    return c == '>' || c == '<' || c == '\n';
}

/* <parameter=K> at the start of a line: a new parameter whose predecessor lacks its closer, or a nested
 * block. */
static enum mark parameter_opener(struct qn_parse *p, size_t i)
{
    size_t at = i + LEN(PARAMETER_OPEN), end = at, n = p->in.n_byte;
    /* a name goes on to its '>'; a line's end or another tag before that means it is none */
    while (end < n && end - at <= QN_PARSE_MAX_KEY && !is_key_end(*text_at(p, end))) end++;
    if (end - at > QN_PARSE_MAX_KEY) return M_DATA;
    if (end == n) return p->is_final ? M_DATA : M_MORE;
    if (*text_at(p, end) != '>') return M_DATA;
    const char *key = text_at(p, at);
    size_t n_key = end - at;
    pp_trim(&key, &n_key);
    /* the current key is among the given ones */
    if (qn_argtype_is_declared(parameters_of(p), key, n_key) && !key_is_given(p, key, n_key))
        return M_STRUCTURE;
    p->open_parameter++;
    return M_DATA;
}

/* What the '<' at i is. Counts nested blocks: asked again only after M_MORE. */
static enum mark value_mark(struct qn_parse *p, size_t i)
{
    bool ls = p->at_line_start;
    enum tri r = LITERAL(p, i, PARAMETER_CLOSE);
    if (r == MORE) return M_MORE;
    if (r == YES) {
        i += LEN(PARAMETER_CLOSE);
        if (!p->open_parameter)
            return mark_of(
                followed(p, i, F_PARAMETER | F_FUNCTION_CLOSE | F_TOOL_CLOSE | F_TOOL_OPEN | F_FUNCTION_OPEN),
                M_CLOSE);
        r = closers_follow(p, i, true);
        if (r == NO) p->open_parameter--;
        return mark_of(r, M_CLOSE);
    }
    if (!ls && !p->open_function && !p->open_call) return M_DATA;
    if ((r = LITERAL(p, i, FUNCTION_CLOSE)) == MORE) return M_MORE;
    if (r == YES) {
        i += LEN(FUNCTION_CLOSE);
        if (!p->open_function)
            return ls ? mark_of(followed(p, i, F_TOOL_CLOSE | F_TOOL_OPEN), M_STRUCTURE) : M_DATA;
        r = ls ? closers_follow(p, i, false) : NO;
        if (r == NO) p->open_function--;
        return mark_of(r, M_STRUCTURE);
    }
    if ((r = LITERAL(p, i, TOOL_CLOSE)) == MORE) return M_MORE;
    if (r == YES) {
        if (!p->open_call)
            return ls ? mark_of(followed(p, i + LEN(TOOL_CLOSE), F_TOOL_OPEN), M_STRUCTURE) : M_DATA;
        p->open_call--;
        return M_DATA;
    }
    if (!ls) return M_DATA;
    if ((r = LITERAL(p, i, TOOL_OPEN)) == MORE) return M_MORE;
    if (r == YES) {
        p->open_call++;
        return M_DATA;
    }
    if ((r = LITERAL(p, i, FUNCTION_OPEN)) == MORE) return M_MORE;
    if (r == YES) {
        p->open_function++;
        return M_DATA;
    }
    if ((r = LITERAL(p, i, PARAMETER_OPEN)) == MORE) return M_MORE;
    return r == YES ? parameter_opener(p, i) : M_DATA;
}

/* --- steps --- */

enum tri pp_step_value_open(struct qn_parse *p)
{
    size_t n = p->in.n_byte - p->pos;
    if (!n && !p->is_final) return MORE;
    const char *s = n ? text_at(p, p->pos) : "";
    if (n == 1 && *s == '\r' && !p->is_final) return MORE;
    p->is_crlf = n >= 2 && s[0] == '\r' && s[1] == '\n';
    p->at_line_start = p->is_crlf || (n && *s == '\n');
    p->pos += p->is_crlf ? 2 : p->at_line_start ? 1 : 0;
    p->state = VALUE;
    return YES;
}

enum tri pp_step_value(struct qn_parse *p)
{
    size_t n = p->in.n_byte;
    while (p->pos < n) {
        const char *s = text_at(p, p->pos);
        if (*s == '<') {
            enum mark mark = value_mark(p, p->pos);
            if (mark == M_MORE) return MORE;
            if (mark != M_DATA) {
                pp_end_value(p, true);
                if (mark == M_CLOSE) p->pos += LEN(PARAMETER_CLOSE);
                return YES;
            }
        }
        if (p->is_crlf && p->n_newline == 1 && *s == '\n') {
            p->n_newline = 2;
            p->at_line_start = true;
            p->pos++;
            continue;
        }
        value_put_newline(p);
        p->at_line_start = *s == '\n';
        if (*s == (p->is_crlf ? '\r' : '\n')) {
            p->n_newline = 1;
            p->pos++;
            continue;
        }
        size_t end = p->pos + 1;
        while (end < n && p->in.data[end] != '<' && p->in.data[end] != '\n' && p->in.data[end] != '\r') end++;
        value_put(p, s, end - p->pos);
        if (end > p->pos + 1) p->at_line_start = false;
        p->pos = end;
    }
    return MORE;
}
