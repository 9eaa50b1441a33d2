/* Output parser: events, states, input.
 * SPDX-License-Identifier: Apache-2.0 */
#include "text/parse_impl.h"

/* --- events --- */

static void deliver(struct qn_parse *p, enum qn_parse_kind kind, int index, const char *text, size_t n)
{
    struct qn_parse_event event = {kind, index, text, n};
    if (p->opt.on_event) p->opt.on_event(p->opt.ctx, &event);
}

static void out_flush(struct qn_parse *p)
{
    if (p->out.n_byte) deliver(p, p->out_kind, p->out_index, p->out.data, p->out.n_byte);
    qn_buf_clear(&p->out);
}

static void out_event(struct qn_parse *p, enum qn_parse_kind kind, int index, const char *text, size_t n)
{
    bool is_text = kind == QN_PARSE_REASONING || kind == QN_PARSE_CONTENT || kind == QN_PARSE_CALL_ARGS;
    if (!is_text || kind != p->out_kind || index != p->out_index) out_flush(p);
    p->out_kind = kind;
    p->out_index = index;
    if (!is_text)
        deliver(p, kind, index, text, n);
    else
        qn_buf_append(&p->out, text, n);
}

struct queued {
    enum qn_parse_kind kind;
    int index;
    size_t n;
};

static void emit(struct qn_parse *p, enum qn_parse_kind kind, int index, const char *text, size_t n)
{
    if (!p->is_held) {
        out_event(p, kind, index, text, n);
        return;
    }
    struct queued head = {kind, index, n};
    qn_buf_append(&p->queue, &head, sizeof head);
    qn_buf_append(&p->queue, text, n);
    qn_buf_putc(&p->queue, 0);
}

/* A call begins: whitespace before it is no content, and no stop string goes on behind it. */
static void leave_content(struct qn_parse *p)
{
    qn_buf_clear(&p->blanks);
    struct qn_buf *held = &p->stops.held;
    if (held->n_byte) out_event(p, QN_PARSE_CONTENT, 0, held->data, held->n_byte);
    qn_buf_clear(held);
}

/* The held call is real. */
static void release_held(struct qn_parse *p)
{
    if (!p->is_held) return;
    p->is_held = false;
    leave_content(p);
    for (size_t at = 0; at < p->queue.n_byte;) {
        struct queued head;
        memcpy(&head, p->queue.data + at, sizeof head);
        at += sizeof head;
        out_event(p, head.kind, head.index, p->queue.data + at, head.n);
        at += head.n + 1;
    }
    qn_buf_free(&p->queue);
}

/* --- looking at text that may be cut anywhere --- */

/* Bytes of the whitespace character at s, 0 when it is none. The set is Python's str.isspace. */
static size_t blank_len(const char *s, size_t n)
{
    if (!n) return 0;
    const unsigned char *u = (const unsigned char *)s;
    if (u[0] < 0x80) return u[0] == ' ' || (u[0] >= 9 && u[0] <= 13) || (u[0] >= 0x1c && u[0] <= 0x1f);
    if (n >= 2 && u[0] == 0xc2) return u[1] == 0x85 || u[1] == 0xa0 ? 2 : 0;
    if (n < 3) return 0;
    unsigned c = (unsigned)u[0] << 16 | (unsigned)u[1] << 8 | u[2];
    bool is_blank = c == 0xe19a80 || (c >= 0xe28080 && c <= 0xe2808a) || c == 0xe280a8 || c == 0xe280a9 ||
                    c == 0xe280af || c == 0xe2819f || c == 0xe38080;
    return is_blank ? 3 : 0;
}

size_t pp_skip_blanks(const struct qn_parse *p, size_t i)
{
    size_t n;
    while ((n = blank_len(text_at(p, i), p->in.n_byte - i))) i += n;
    return i;
}

enum tri pp_ended(struct qn_parse *p)
{
    if (p->is_final) return YES;
    p->is_blank_blocked = true;
    return MORE;
}

void pp_trim(const char **s, size_t *n)
{
    size_t k;
    while ((k = blank_len(*s, *n))) *s += k, *n -= k;
    for (bool again = true; again && *n;) {
        again = false;
        for (size_t w = 1; w <= 3 && w <= *n && !again; w++)
            if (blank_len(*s + *n - w, w) == w) *n -= w, again = true;
    }
}

struct call_head {
    const char *name; /* in `in` */
    size_t n_name, end;
    bool is_wrapped;
};

static bool name_may_be_declared(const struct qn_parse *p, const char *s, size_t n)
{
    size_t k;
    while ((k = blank_len(s, n))) s += k, n -= k;
    for (int i = 0; i < p->opt.tools->n_tool; i++) {
        const struct qn_tool *tool = &p->opt.tools->tools[i];
        if (memcmp(tool->name, s, QN_MIN(n, tool->n_name))) continue;
        size_t at = QN_MIN(n, tool->n_name);
        while ((k = blank_len(s + at, n - at))) at += k;
        if (at == n) return true;
    }
    return false;
}

/* [<tool_call> blanks] <function=NAME> at i. */
static enum tri call_start(struct qn_parse *p, size_t i, bool bare, bool declared, struct call_head *head)
{
    size_t n = p->in.n_byte, at = i;
    enum tri r = LITERAL(p, i, TOOL_OPEN);
    if (r == MORE) return MORE;
    head->is_wrapped = r == YES;
    if (r == YES) {
        at = pp_skip_blanks(p, i + LEN(TOOL_OPEN));
        if (at == n) return pp_ended(p) == YES ? NO : MORE;
    } else if (!bare) {
        return NO;
    }
    if ((r = LITERAL(p, at, FUNCTION_OPEN)) != YES) return r;
    at += LEN(FUNCTION_OPEN);
    size_t end = at;
    while (end < n && end - at <= QN_PARSE_MAX_NAME && *text_at(p, end) != '>' && *text_at(p, end) != '\n')
        end++;
    if (end - at > QN_PARSE_MAX_NAME || (end < n && *text_at(p, end) == '\n')) return NO;
    if (end == n)
        return p->is_final || (declared && !name_may_be_declared(p, text_at(p, at), end - at)) ? NO : MORE;
    head->name = text_at(p, at);
    head->n_name = end - at;
    head->end = end + 1;
    pp_trim(&head->name, &head->n_name);
    if (!head->n_name) return NO;
    return declared && qn_toolset_find(p->opt.tools, head->name, head->n_name) < 0 ? NO : YES;
}

/* Input bytes up to decoded position `at`. */
static size_t input_byte(const struct qn_parse *p, size_t at)
{
    int i = p->n_repair;
    while (i > 0 && p->repairs[i - 1].at > at) i--;
    return at + (size_t)(i ? p->repairs[i - 1].shift : p->shift_base);
}

/* --- visible content: fences, stop strings --- */

static void fence_end_line(struct fence *f)
{
    bool has_marks = (f->part == MARKS || f->part == REST) && f->n_line_mark >= 3;
    if (f->is_open) {
        if (has_marks && f->line_mark == f->mark && f->n_line_mark >= f->n_mark && f->rest_is_blank)
            f->is_open = false;
    } else if (has_marks && !(f->line_mark == '`' && f->rest_has_tick)) {
        f->is_open = true;
        f->mark = f->line_mark;
        f->n_mark = f->n_line_mark;
    }
    f->part = SPACES;
    f->n_space = f->n_line_mark = 0;
    f->rest_is_blank = true;
    f->rest_has_tick = false;
}

static void fence_char(struct fence *f, char c)
{
    if (c == '\n') {
        fence_end_line(f);
        return;
    }
    if (f->part == SPACES) {
        if (c == ' ' && f->n_space < 3) {
            f->n_space++;
            return;
        }
        f->part = c == '`' || c == '~' ? MARKS : OTHER;
        f->line_mark = c;
    }
    if (f->part == MARKS) {
        if (c == f->line_mark) {
            f->n_line_mark++;
            return;
        }
        f->part = f->n_line_mark >= 3 ? REST : OTHER;
    }
    if (f->part == REST) {
        if (c != ' ' && c != '\t' && c != '\r') f->rest_is_blank = false;
        if (c == '`') f->rest_has_tick = true;
    }
}

/* Would a call here stand inside a fence? */
static bool fence_is_open(const struct fence *f)
{
    if (f->is_open) return true;
    return (f->part == MARKS || f->part == REST) && f->n_line_mark >= 3 &&
           !(f->line_mark == '`' && f->rest_has_tick);
}

static bool at_line_start(const struct fence *f)
{
    return f->part == SPACES && !f->n_space;
}

/* The mark and length that would close the fence a call stands in. */
static size_t fence_marks(const struct fence *f, char *mark)
{
    *mark = f->is_open ? f->mark : f->line_mark;
    return f->is_open ? f->n_mark : f->n_line_mark;
}

/* Does a closing fence follow at i, after blanks and on a line of its own? */
static enum tri fence_closes(struct qn_parse *p, size_t i)
{
    char mark;
    size_t n_mark = fence_marks(&p->fence, &mark), n = p->in.n_byte;
    size_t at = pp_skip_blanks(p, i), line = at;
    if (at == n) return pp_ended(p) == YES ? NO : MORE;
    while (line > i && *text_at(p, line - 1) != '\n') line--;
    if (line == i || at - line > 3) return NO;
    for (size_t k = line; k < at; k++)
        if (*text_at(p, k) != ' ') return NO;
    size_t count = 0;
    while (at < n && *text_at(p, at) == mark) at++, count++;
    if (at == n) return p->is_final ? (count >= n_mark ? YES : NO) : MORE;
    if (count < n_mark) return NO;
    while (at < n && (*text_at(p, at) == ' ' || *text_at(p, at) == '\t' || *text_at(p, at) == '\r')) at++;
    if (at == n) return p->is_final ? YES : MORE;
    return *text_at(p, at) == '\n' ? YES : NO;
}

static void message_over(struct qn_parse *p);

/* One byte of visible content at input position `at` (decoded, of its end). */
static void stop_byte(struct qn_parse *p, char c, size_t at)
{
    qn_buf_clear(&p->visible);
    int hit = qn_stops_feed(&p->stops, &c, 1, &p->visible);
    emit(p, QN_PARSE_CONTENT, 0, qn_buf_str(&p->visible), p->visible.n_byte);
    if (hit < 0) return;
    p->stop_hit = hit;
    p->stop_byte = input_byte(p, at);
    message_over(p);
}

static void show(struct qn_parse *p, const char *s, size_t n, size_t at)
{
    p->n_visible += n;
    if (!p->opt.n_stop) emit(p, QN_PARSE_CONTENT, 0, s, n);
    for (size_t i = 0; p->opt.n_stop && i < n && !p->is_over; i++) stop_byte(p, s[i], at + i + 1);
}

static void show_blanks(struct qn_parse *p)
{
    if (!p->blanks.n_byte) return;
    show(p, p->blanks.data, p->blanks.n_byte, p->blanks_at);
    qn_buf_clear(&p->blanks);
}

static void hold_blank(struct qn_parse *p, const char *s, size_t n, size_t at)
{
    if (!p->blanks.n_byte) p->blanks_at = at;
    qn_buf_append(&p->blanks, s, n);
}

/* One character of content at in[i]. */
static void take_content(struct qn_parse *p, size_t i, size_t n)
{
    const char *s = text_at(p, i);
    bool is_blank = blank_len(s, n) > 0;
    fence_char(&p->fence, *s);
    if (is_blank && (p->calls_active || p->at_start)) {
        hold_blank(p, s, n, p->base + i);
        return;
    }
    p->at_start = false;
    if (p->join) show(p, "\n", 1, p->base + i);
    p->join = false;
    if (!p->is_over) show_blanks(p);
    if (!p->is_over) show(p, s, n, p->base + i);
}

/* --- calls --- */

void pp_emit_args(struct qn_parse *p, const char *text, size_t n)
{
    if (n) emit(p, QN_PARSE_CALL_ARGS, p->n_call - 1, text, n);
}

static void forget_keys(struct qn_parse *p)
{
    for (int i = 0; i < p->n_key; i++) free(p->keys[i]);
    p->n_key = 0;
}

/* name may point into `in` */
static void begin_call(struct qn_parse *p, size_t start, const char *name, size_t n_name)
{
    bool in_fence = p->state == CONTENT && fence_is_open(&p->fence);
    if (p->is_held) {
        /* one more without a wrapper, behind one that is held */
    } else if (in_fence || (p->state == CONTENT && !p->is_wrapped)) {
        p->is_held = true;
        p->is_bare = !in_fence;
        p->held_at = start;
        p->held_call = p->n_call;
    } else {
        leave_content(p);
    }
    if (p->state == REASONING) p->reasoning_end = input_byte(p, p->base + start);
    p->at_start = p->skip_newlines = false;
    p->tool = qn_toolset_find(p->opt.tools, name, n_name);
    forget_keys(p);
    char *copy = xstrndup(name, n_name);
    emit(p, QN_PARSE_CALL_BEGIN, p->n_call++, copy, n_name);
    free(copy);
    p->state = CALL;
}

static void end_call(struct qn_parse *p)
{
    if (p->n_key)
        pp_emit_args(p, "}", 1);
    else
        pp_emit_args(p, "{}", 2);
    emit(p, QN_PARSE_CALL_END, p->n_call - 1, "", 0);
    p->n_complete++;
    p->state = p->is_held ? FENCE_END : BETWEEN;
    if (p->is_held && p->pos - p->held_at > QN_PARSE_MAX_HOLD) {
        release_held(p);
        p->state = BETWEEN;
    }
}

/* --- one step a state; YES: something was decided, go on --- */

static enum tri step_reasoning(struct qn_parse *p)
{
    while (p->pos < p->in.n_byte) {
        const char *s = text_at(p, p->pos);
        size_t n = char_len((unsigned char)*s);
        if (*s == '<') {
            enum tri r = NO;
            if (!p->think_seen && !p->reasoning_any && (r = LITERAL(p, p->pos, THINK_OPEN)) == YES) {
                p->think_seen = true;
                p->pos += LEN(THINK_OPEN);
                continue;
            }
            if (r == MORE) return MORE;
            size_t n_close = LEN(THINK_CLOSE);
            if ((r = LITERAL(p, p->pos, THINK_CLOSE)) == MORE) return MORE;
            if (r == NO && p->line_is_blank && (r = LITERAL(p, p->pos, THINKING_CLOSE)) != NO) {
                if (r == MORE) return MORE;
                /* the alias counts on a line of its own only */
                n_close = LEN(THINKING_CLOSE);
                size_t at = p->pos + n_close;
                while (at < p->in.n_byte && strchr(" \t\r", *text_at(p, at)) && *text_at(p, at)) at++;
                if (at == p->in.n_byte && !p->is_final) return MORE;
                r = at == p->in.n_byte || *text_at(p, at) == '\n' ? YES : NO;
                if (r == YES) n_close = at - p->pos;
            }
            if (r == YES) {
                p->pos += n_close;
                p->reasoning_end = input_byte(p, p->base + p->pos);
                qn_buf_clear(&p->blanks);
                p->state = CONTENT;
                p->skip_newlines = true;
                return YES;
            }
            struct call_head head;
            if (p->calls_active && (r = call_start(p, p->pos, false, true, &head)) != NO) {
                if (r == MORE) return MORE;
                p->is_wrapped = true;
                begin_call(p, p->pos, head.name, head.n_name);
                p->pos = head.end;
                return YES;
            }
        }
        if (blank_len(s, n)) {
            if (*s == '\n') p->line_is_blank = true;
            if (p->reasoning_any) hold_blank(p, s, n, 0);
        } else {
            emit(p, QN_PARSE_REASONING, 0, qn_buf_str(&p->blanks), p->blanks.n_byte);
            qn_buf_clear(&p->blanks);
            emit(p, QN_PARSE_REASONING, 0, s, n);
            p->reasoning_any = true;
            p->line_is_blank = false;
        }
        p->pos += n;
    }
    return MORE;
}

/* A call in the older dialect: <tool_call> blanks {"name": ..., "arguments": {...}}. */
static enum tri json_call(struct qn_parse *p, size_t start)
{
    enum tri r = LITERAL(p, start, TOOL_OPEN);
    if (r != YES) return r;
    size_t at = pp_skip_blanks(p, start + LEN(TOOL_OPEN)), n = p->in.n_byte;
    if (at == n) return pp_ended(p) == YES ? NO : MORE;
    if (*text_at(p, at) != '{') return NO;
    if (p->json_from != p->base + at + 1) {
        p->json = (struct qn_jsonscan){0};
        p->json_from = p->base + at + 1; /* plus one: 0 means none */
        p->json_at = p->base + at;
    }
    enum qn_jsonscan_result got = QN_JSONSCAN_OPEN;
    while (got == QN_JSONSCAN_OPEN && p->json_at < p->base + n) {
        if (p->json_at - (p->base + at) >= QN_PARSE_MAX_JSON) return NO;
        got = qn_jsonscan_byte(&p->json, (unsigned char)*text_at(p, p->json_at++ - p->base));
    }
    if (got == QN_JSONSCAN_OPEN && !p->is_final) return MORE;
    p->json_from = 0;
    if (got != QN_JSONSCAN_WHOLE) return NO;
    size_t end = p->json_at - p->base;
    struct qn_arena *arena = qn_arena_create(128u << 20);
    struct qn_json *v = NULL;
    qn_json_parse(&v, arena, text_at(p, at), end - at, "call", NULL);
    const struct qn_json *name = qn_json_get(v, "name"), *arguments = qn_json_get(v, "arguments");
    bool is_call = qn_json_is(name, QN_JSON_STRING) && name->n && qn_json_is(arguments, QN_JSON_OBJECT);
    if (is_call) {
        p->is_wrapped = true;
        begin_call(p, start, name->text, name->n);
        qn_buf_clear(&p->scratch);
        qn_json_write(&p->scratch, arguments, QN_JSON_EXACT);
        pp_emit_args(p, p->scratch.data, p->scratch.n_byte);
        emit(p, QN_PARSE_CALL_END, p->n_call - 1, "", 0);
        p->n_complete++;
        p->is_wrapped = true;
        p->state = p->is_held ? FENCE_END : BETWEEN;
        p->pos = end;
    }
    qn_arena_free(arena);
    return is_call ? YES : NO;
}

/* The '<' at pos in content. YES: handled; NO: text. */
static enum tri content_mark(struct qn_parse *p)
{
    enum tri r;
    struct call_head head = {0};
    if (p->at_start) {
        if ((r = LITERAL(p, p->pos, THINK_OPEN)) == MORE) return MORE;
        if (r == YES) {
            qn_buf_clear(&p->blanks);
            p->at_start = false;
            p->think_seen = p->reasoning_was = p->line_is_blank = true;
            p->state = REASONING;
            p->pos += LEN(THINK_OPEN);
            return YES;
        }
    }
    if ((r = LITERAL(p, p->pos, THINK_CLOSE)) != NO) {
        if (r == YES) {
            p->pos += LEN(THINK_CLOSE);
            p->at_start = false;
            if (!p->calls_active) show_blanks(p);
        }
        return r;
    }
    if (!p->calls_active) return NO;
    if ((r = call_start(p, p->pos, false, false, &head)) == NO && at_line_start(&p->fence))
        r = call_start(p, p->pos, true, true, &head);
    if (r == NO) return json_call(p, p->pos);
    if (r == MORE) return MORE;
    p->is_wrapped = head.is_wrapped;
    begin_call(p, p->pos, head.name, head.n_name);
    p->pos = head.end;
    return YES;
}

static enum tri step_content(struct qn_parse *p)
{
    while (p->pos < p->in.n_byte && !p->is_over) {
        char c = *text_at(p, p->pos);
        if (p->skip_newlines && (c == '\n' || c == '\r')) {
            p->pos++;
            continue;
        }
        p->skip_newlines = false;
        if (c == '<') {
            enum tri r = content_mark(p);
            if (r != NO) return r;
        }
        size_t n = char_len((unsigned char)c);
        take_content(p, p->pos, n);
        p->pos += n;
    }
    return MORE;
}

static enum tri step_call(struct qn_parse *p)
{
    while (p->pos < p->in.n_byte) {
        const char *next = memchr(text_at(p, p->pos), '<', p->in.n_byte - p->pos);
        if (!next) {
            p->pos = p->in.n_byte;
            break;
        }
        p->pos = (size_t)(next - p->in.data);
        enum tri r = LITERAL(p, p->pos, PARAMETER_OPEN);
        if (r == MORE) return MORE;
        if (r == YES) {
            size_t at = p->pos + LEN(PARAMETER_OPEN), n = QN_MIN(p->in.n_byte - at, QN_PARSE_MAX_KEY + 1);
            const char *end = memchr(text_at(p, at), '>', n);
            if (!end && n <= QN_PARSE_MAX_KEY && !p->is_final) return MORE;
            if (end) {
                const char *key = text_at(p, at);
                size_t n_key = (size_t)(end - key);
                p->pos = at + n_key + 1;
                pp_trim(&key, &n_key);
                pp_begin_value(p, key, n_key);
                return YES;
            }
        }
        if ((r = LITERAL(p, p->pos, FUNCTION_CLOSE)) == MORE) return MORE;
        if (r == YES) {
            p->pos += LEN(FUNCTION_CLOSE);
            end_call(p);
            return YES;
        }
        if ((r = LITERAL(p, p->pos, TOOL_CLOSE)) == NO && (r = LITERAL(p, p->pos, TOOL_OPEN)) == NO)
            r = LITERAL(p, p->pos, FUNCTION_OPEN);
        if (r == MORE) return MORE;
        if (r == YES) {
            end_call(p);
            return YES;
        }
        p->pos++;
    }
    return MORE;
}

/* What may stand between calls: a surplus closer, dropped, or the next call. */
static enum tri between_tag(struct qn_parse *p)
{
    static const struct {
        const char *word;
        size_t n;
    } strays[] = {{TOOL_CLOSE, LEN(TOOL_CLOSE)},
                  {FUNCTION_CLOSE, LEN(FUNCTION_CLOSE)},
                  {PARAMETER_CLOSE, LEN(PARAMETER_CLOSE)},
                  {THINK_CLOSE, LEN(THINK_CLOSE)}};
    for (size_t i = 0; i < QN_COUNT(strays); i++) {
        enum tri r = literal_n(p, p->pos, strays[i].word, strays[i].n);
        if (r == MORE) return MORE;
        if (r == NO) continue;
        if (!i) p->is_wrapped = false;
        p->pos += strays[i].n;
        return YES;
    }
    struct call_head head;
    enum tri r = call_start(p, p->pos, true, false, &head);
    if (r != YES) return r;
    p->is_wrapped |= head.is_wrapped;
    begin_call(p, p->pos, head.name, head.n_name);
    p->pos = head.end;
    return YES;
}

static enum tri step_between(struct qn_parse *p)
{
    p->pos = pp_skip_blanks(p, p->pos);
    if (p->pos == p->in.n_byte) return MORE;
    bool was_final = p->is_final;
    p->is_final = false; /* the end decides nothing here: what it cuts off in a tag is still a tag */
    enum tri r = between_tag(p);
    p->is_final = was_final;
    if (r == MORE && was_final) p->pos = p->in.n_byte; /* and none of a torn tag is shown */
    if (r != NO) return r;
    p->state = CONTENT;
    p->join = p->n_visible > 0;
    fence_char(&p->fence, '\n');
    return YES;
}

/* The held calls are text up to `end`. */
static void held_is_text(struct qn_parse *p, size_t end)
{
    p->is_held = false;
    qn_buf_free(&p->queue);
    p->n_complete -= p->n_call - p->held_call;
    p->n_call = p->held_call;
    p->state = CONTENT;
    for (size_t i = p->held_at; i < end && !p->is_over;) {
        size_t n = char_len((unsigned char)p->in.data[i]);
        take_content(p, i, n);
        i += n;
    }
    p->pos = end;
}

/* Calls without <tool_call> are complete: meant as calls when nothing but calls follows, an example in prose
 * otherwise. */
static enum tri step_bare_end(struct qn_parse *p)
{
    size_t at = pp_skip_blanks(p, p->pos);
    enum tri r;
    if (at == p->in.n_byte && pp_ended(p) == MORE) return MORE;
    while ((r = LITERAL(p, at, TOOL_CLOSE)) == YES ||
           (r == NO && (r = LITERAL(p, at, FUNCTION_CLOSE)) == YES)) {
        at = pp_skip_blanks(p, at + (*text_at(p, at + 2) == 't' ? LEN(TOOL_CLOSE) : LEN(FUNCTION_CLOSE)));
        if (at == p->in.n_byte && pp_ended(p) == MORE) return MORE;
    }
    if (r == MORE) return MORE;
    struct call_head head;
    r = at == p->in.n_byte ? NO : call_start(p, at, true, true, &head);
    if (r == MORE) return MORE;
    if (r == YES && !head.is_wrapped) {
        begin_call(p, at, head.name, head.n_name);
        p->pos = head.end;
        return YES;
    }
    if (r == YES || at == p->in.n_byte) {
        release_held(p);
        p->state = BETWEEN;
        return YES;
    }
    held_is_text(p, p->pos);
    return YES;
}

/* A call in an open fence is complete: an example when the fence closes right after it. */
static enum tri step_fence_end(struct qn_parse *p)
{
    if (p->is_bare) return step_bare_end(p);
    size_t end = p->pos, at = pp_skip_blanks(p, p->pos);
    if (at == p->in.n_byte && pp_ended(p) == MORE) return MORE;
    enum tri r = LITERAL(p, at, TOOL_CLOSE);
    if (r == MORE) return MORE;
    if (r == YES) end = at + LEN(TOOL_CLOSE);
    r = fence_closes(p, end);
    if (r == MORE) return MORE;
    if (r == NO) {
        release_held(p);
        p->state = BETWEEN;
        return YES;
    }
    held_is_text(p, end);
    return YES;
}

static void run(struct qn_parse *p)
{
    static enum tri (*const steps[])(struct qn_parse *) = {
        [REASONING] = step_reasoning,      [CONTENT] = step_content, [CALL] = step_call,
        [VALUE_OPEN] = pp_step_value_open, [VALUE] = pp_step_value,  [BETWEEN] = step_between,
        [FENCE_END] = step_fence_end,
    };
    p->is_blank_blocked = false;
    while (!p->is_over && steps[p->state](p) == YES) {
    }
}

/* --- input --- */

/* Length of the well-formed character at s, or minus the bytes one U+FFFD replaces, or 0: cut short. */
static int decode(const unsigned char *s, size_t n)
{
    unsigned char c = s[0], lo = 0x80, hi = 0xbf;
    if (c < 0x80) return 1;
    if (c < 0xc2 || c > 0xf4) return -1;
    int len = c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4;
    if (c == 0xe0) lo = 0xa0;
    if (c == 0xed) hi = 0x9f;
    if (c == 0xf0) lo = 0x90;
    if (c == 0xf4) hi = 0x8f;
    for (int i = 1; i < len; i++, lo = 0x80, hi = 0xbf) {
        if ((size_t)i >= n) return 0;
        if (s[i] < lo || s[i] > hi) return -i;
    }
    return len;
}

/* n_byte bytes that are no UTF-8 become one U+FFFD. */
static void repair(struct qn_parse *p, int n_byte)
{
    qn_buf_append(&p->in, "\xef\xbf\xbd", 3);
    p->shift += n_byte - 3;
    if (p->n_repair == p->repair_capacity) {
        p->repair_capacity = p->repair_capacity ? 2 * p->repair_capacity : 8;
        p->repairs = xreallocarray(p->repairs, (size_t)p->repair_capacity, sizeof *p->repairs);
    }
    p->repairs[p->n_repair++] = (struct repair){p->base + p->in.n_byte, p->shift};
}

/* Appends decoded characters to `in`; true when all of them are ASCII blanks. */
static bool take_bytes(struct qn_parse *p, const unsigned char *s, size_t n)
{
    bool all_blank = true;
    size_t i = 0;
    while (i < n) {
        if (!p->n_partial && s[i] < 0x80) {
            size_t start = i;
            for (; i < n && s[i] < 0x80; i++) all_blank &= s[i] == ' ' || (s[i] >= 9 && s[i] <= 13);
            qn_buf_append(&p->in, s + start, i - start);
            continue;
        }
        all_blank = false;
        p->partial[p->n_partial++] = s[i++];
        int len;
        while (p->n_partial && (len = decode(p->partial, (size_t)p->n_partial))) {
            if (len > 0)
                qn_buf_append(&p->in, p->partial, (size_t)len);
            else
                repair(p, -len);
            len = len < 0 ? -len : len;
            memmove(p->partial, p->partial + len, (size_t)(p->n_partial - len));
            p->n_partial -= len;
        }
    }
    return all_blank;
}

static void compact(struct qn_parse *p)
{
    size_t drop = p->is_held ? p->held_at : p->pos;
    qn_buf_drop(&p->in, drop);
    p->base += drop;
    p->pos -= drop;
    if (p->is_held) p->held_at = 0;
    int done = 0;
    while (done < p->n_repair && p->repairs[done].at <= p->base) p->shift_base = p->repairs[done++].shift;
    if (done) memmove(p->repairs, p->repairs + done, (size_t)(p->n_repair - done) * sizeof *p->repairs);
    p->n_repair -= done;
}

bool qn_parse_feed(struct qn_parse *p, const char *bytes, size_t n)
{
    if (p->is_over) return true;
    p->fed += n;
    bool all_blank = take_bytes(p, (const unsigned char *)bytes, n);
    if (all_blank && p->is_blank_blocked) return false;
    run(p);
    if (p->is_held && p->state != FENCE_END && p->pos - p->held_at > QN_PARSE_MAX_HOLD) release_held(p);
    compact(p);
    out_flush(p);
    return p->is_over;
}

/* FINISH, after everything held has been dealt with. */
static void message_over(struct qn_parse *p)
{
    if (p->is_over) return;
    p->is_over = true;
    emit(p, QN_PARSE_FINISH, p->n_complete ? QN_REASON_CALLS : QN_REASON_STOP, "", 0);
}

void qn_parse_finish(struct qn_parse *p, enum qn_parse_end end)
{
    if (p->is_over) return;
    if (end == QN_PARSE_CANCEL) {
        p->is_over = true;
        return;
    }
    if (p->n_partial) repair(p, p->n_partial);
    p->n_partial = 0;
    p->is_final = true;
    if (!p->in.data) qn_buf_puts(&p->in, "");
    run(p);
    bool is_open = p->state == CALL || p->state == VALUE || p->state == VALUE_OPEN;
    if (is_open && end == QN_PARSE_STOP) {
        if (p->state != CALL) pp_end_value(p, false);
        end_call(p);
        run(p);
    }
    release_held(p); /* cut by the limit: as it would have been streamed */
    if (p->state == CONTENT && !p->is_over) show_blanks(p);
    if (!p->is_over) {
        emit(p, QN_PARSE_CONTENT, 0, qn_buf_str(&p->stops.held), p->stops.held.n_byte);
        if (end == QN_PARSE_LENGTH) {
            p->is_over = true;
            emit(p, QN_PARSE_FINISH, QN_REASON_LENGTH, "", 0);
        }
        message_over(p);
    }
    out_flush(p);
}

int qn_parse_create(struct qn_parse **out, const struct qn_parse_options *options, struct qn_err *e)
{
    int rc = QN_OK;
    QN_FAIL_IF(options->n_stop > QN_PARSE_MAX_STOP, e, QN_INVAL, "'stop' has %d strings; the limit is %d",
               options->n_stop, QN_PARSE_MAX_STOP);
    struct qn_parse *p = xcalloc(1, sizeof *p);
    p->opt = *options;
    p->calls_active = options->tools && options->tools->n_tool && !options->calls_forbidden;
    qn_stops_init(&p->stops, options->stops, options->n_stop, options->include_stop);
    struct qn_buf *bufs[] = {&p->in, &p->blanks, &p->visible, &p->raw, &p->queue, &p->out, &p->scratch};
    for (size_t i = 0; i < QN_COUNT(bufs); i++) qn_buf_init(bufs[i], PP_MAX_TEXT);
    qn_buf_reserve(&p->in, 1); /* never NULL */
    p->state = options->starts_in_reasoning ? REASONING : CONTENT;
    p->reasoning_was = options->starts_in_reasoning;
    p->at_start = !options->starts_in_reasoning;
    p->line_is_blank = true;
    p->fence.rest_is_blank = true;
    p->stop_hit = -1;
    p->tool = -1;
    *out = p;
out:
    return rc;
}

void qn_parse_free(struct qn_parse *p)
{
    if (!p) return;
    struct qn_buf *bufs[] = {&p->in, &p->blanks, &p->visible, &p->raw, &p->queue, &p->out, &p->scratch};
    for (size_t i = 0; i < QN_COUNT(bufs); i++) qn_buf_free(bufs[i]);
    qn_stops_free(&p->stops);
    free(p->repairs);
    forget_keys(p);
    free(p->keys);
    free(p->key_n);
    free(p);
}

/* --- questions --- */

size_t qn_parse_fed(const struct qn_parse *p)
{
    return p->fed;
}

bool qn_parse_is_reasoning(const struct qn_parse *p)
{
    return p->state == REASONING;
}

size_t qn_parse_reasoning_bytes(const struct qn_parse *p)
{
    return p->state == REASONING ? p->fed : p->reasoning_was ? p->reasoning_end : 0;
}

bool qn_parse_is_in_call(const struct qn_parse *p)
{
    return p->state == CALL || p->state == VALUE || p->state == VALUE_OPEN;
}

int qn_parse_n_call(const struct qn_parse *p)
{
    return p->n_call;
}

int qn_parse_stop(const struct qn_parse *p, size_t *end_byte)
{
    if (end_byte) *end_byte = p->stop_hit < 0 ? p->fed : p->stop_byte;
    return p->stop_hit;
}
