/* Output parser. The rules are numbered in docs/tools.md; the text waits in `in` until it is decided.
 *
 * in: [0 .. pos)   consumed (kept only while a fenced call is held, from held_at)
 *     [pos .. n)   undecided: the beginning of a marker, or what decides whether a marker is one
 * SPDX-License-Identifier: Apache-2.0 */
#include "text/parse.h"

#include "text/argtype.h"
#include "text/jsonscan.h"

#define MAX_TEXT (256u << 20) /* bytes of any one buffer; a message is far below */

enum state { REASONING, CONTENT, CALL, VALUE_OPEN, VALUE, BETWEEN, FENCE_END };

/* Answers about text that may be cut anywhere: MORE only while not at the end event. */
enum tri { NO, YES, MORE };

/* Markdown fences, followed over the visible content. */
struct fence {
    bool is_open;
    char mark; /* of the open fence */
    size_t n_mark;
    /* the current line so far: spaces, marks, rest */
    enum { SPACES, MARKS, REST, OTHER } part;
    size_t n_space, n_line_mark;
    char line_mark;
    bool rest_is_blank, rest_has_tick;
};

/* From decoded position `at` on, input position = decoded position + shift. */
struct repair {
    size_t at;
    int64_t shift;
};

struct qn_parse {
    struct qn_parse_options opt;
    char **stops;
    bool calls_active;

    /* input */
    struct qn_buf in;
    size_t pos, base; /* base: decoded bytes dropped from the front of `in` */
    size_t fed;
    unsigned char partial[4]; /* an incomplete character */
    int n_partial;
    struct repair *repairs; /* of what is in `in`, rising */
    int n_repair, repair_capacity;
    int64_t shift_base, shift;
    bool is_final, is_over;
    bool is_blank_blocked; /* waiting, and more blanks cannot decide it */

    enum state state;
    /* reasoning */
    bool think_seen, reasoning_any, line_is_blank;
    bool reasoning_was;   /* the output had a reasoning phase */
    size_t reasoning_end; /* input bytes, once over */
    /* content */
    bool at_start, skip_newlines, join;
    struct qn_buf blanks; /* trailing whitespace of reasoning or content, fate undecided */
    size_t blanks_at;     /* position of its first byte */
    size_t n_visible;
    struct fence fence;
    struct qn_buf tail; /* visible content that may be the start of a stop string */
    int stop_hit;
    size_t stop_byte;
    struct qn_jsonscan json;   /* a call in the JSON dialect being checked */
    size_t json_from, json_at; /* its absolute start and how far it was read; json_from 0: none */
    /* call */
    int n_call, n_complete;
    bool is_wrapped; /* <tool_call> is open */
    int tool;        /* declared index or -1 */
    char **keys;     /* given in this call */
    size_t *key_n;
    int n_key, key_capacity;
    /* value */
    struct qn_argtype type;
    bool is_streaming; /* a string that is emitted as it comes */
    bool is_crlf;      /* the opener's newline */
    int n_newline;     /* bytes of a newline held back: 0..2 */
    bool at_line_start;
    struct qn_buf raw;                             /* value so far, when not streaming */
    long open_parameter, open_function, open_call; /* nested blocks inside the value */
    /* held call: an example in a fence or a real one */
    bool is_held;
    size_t held_at; /* offset in `in` */
    struct qn_buf queue;
    /* output: the event being coalesced */
    struct qn_buf out;
    enum qn_parse_kind out_kind;
    int out_index;
    struct qn_buf scratch;
};

static const char TOOL_OPEN[] = "<tool_call>", TOOL_CLOSE[] = "</tool_call>",
                  FUNCTION_OPEN[] = "<function=", FUNCTION_CLOSE[] = "</function>",
                  PARAMETER_OPEN[] = "<parameter=", PARAMETER_CLOSE[] = "</parameter>",
                  THINK_OPEN[] = "<think>", THINK_CLOSE[] = "</think>", THINKING_CLOSE[] = "</thinking>";

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
    if (p->tail.n_byte) out_event(p, QN_PARSE_CONTENT, 0, p->tail.data, p->tail.n_byte);
    qn_buf_clear(&p->tail);
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

static size_t char_len(unsigned char lead)
{
    return lead < 0x80 ? 1 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
}

static const char *text_at(const struct qn_parse *p, size_t i)
{
    return p->in.data + i;
}

static enum tri literal_n(const struct qn_parse *p, size_t i, const char *word, size_t n_word)
{
    size_t n = p->in.n_byte - i, n_head = QN_MIN(n, n_word);
    if (memcmp(text_at(p, i), word, n_head)) return NO;
    return n >= n_word ? YES : p->is_final ? NO : MORE;
}

#define LITERAL(p, i, word) literal_n((p), (i), (word), sizeof(word) - 1)
#define LEN(word)           (sizeof(word) - 1)

static size_t skip_blanks(const struct qn_parse *p, size_t i)
{
    size_t n;
    while ((n = blank_len(text_at(p, i), p->in.n_byte - i))) i += n;
    return i;
}

/* At the end of what is there, after blanks: YES at the end event. */
static enum tri ended(struct qn_parse *p)
{
    if (p->is_final) return YES;
    p->is_blank_blocked = true;
    return MORE;
}

static void trim(const char **s, size_t *n)
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
        at = skip_blanks(p, i + LEN(TOOL_OPEN));
        if (at == n) return ended(p) == YES ? NO : MORE;
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
    trim(&head->name, &head->n_name);
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
    size_t at = skip_blanks(p, i), line = at;
    if (at == n) return ended(p) == YES ? NO : MORE;
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

static bool is_stop_prefix(const struct qn_parse *p, const char *s, size_t n)
{
    for (int i = 0; i < p->opt.n_stop; i++)
        if (!strncmp(p->stops[i], s, n) && strlen(p->stops[i]) > n) return true;
    return false;
}

/* One byte of visible content at input position `at` (decoded, of its end). */
static void stop_byte(struct qn_parse *p, char c, size_t at)
{
    qn_buf_putc(&p->tail, c);
    size_t best = 0;
    for (int i = 0; i < p->opt.n_stop; i++) {
        size_t n = strlen(p->stops[i]);
        if (n > best && n <= p->tail.n_byte && !memcmp(p->tail.data + p->tail.n_byte - n, p->stops[i], n)) {
            best = n;
            p->stop_hit = i;
        }
    }
    if (best) {
        emit(p, QN_PARSE_CONTENT, 0, p->tail.data, p->tail.n_byte - (p->opt.include_stop ? 0 : best));
        qn_buf_clear(&p->tail);
        p->stop_byte = input_byte(p, at);
        message_over(p);
        return;
    }
    size_t keep = 0;
    while (keep < p->tail.n_byte && !is_stop_prefix(p, p->tail.data + keep, p->tail.n_byte - keep)) keep++;
    emit(p, QN_PARSE_CONTENT, 0, p->tail.data, keep);
    qn_buf_drop(&p->tail, keep);
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

static void emit_args(struct qn_parse *p, const char *text, size_t n)
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
    if (p->state == CONTENT && fence_is_open(&p->fence)) {
        p->is_held = true;
        p->held_at = start;
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
        emit_args(p, "}", 1);
    else
        emit_args(p, "{}", 2);
    emit(p, QN_PARSE_CALL_END, p->n_call - 1, "", 0);
    p->n_complete++;
    p->state = p->is_held ? FENCE_END : BETWEEN;
    if (p->is_held && p->pos - p->held_at > QN_PARSE_MAX_HOLD) {
        release_held(p);
        p->state = BETWEEN;
    }
}

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

static void begin_value(struct qn_parse *p, const char *key, size_t n)
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
    emit_args(p, p->scratch.data, p->scratch.n_byte);

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
    emit_args(p, p->scratch.data + 1, p->scratch.n_byte - 2);
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
    emit_args(p, "\"", 1);
    emit_escaped(p, p->raw.data, p->raw.n_byte);
}

static void value_put_newline(struct qn_parse *p)
{
    value_put(p, p->is_crlf ? "\r\n" : "\n", (size_t)p->n_newline);
    p->n_newline = 0;
}

/* The value ends here; with `framed` one newline before the closer belongs to the format. */
static void end_value(struct qn_parse *p, bool framed)
{
    if (framed && p->n_newline == (p->is_crlf ? 2 : 1)) p->n_newline = 0;
    value_put_newline(p);
    p->state = CALL;
    if (p->is_streaming) {
        emit_args(p, "\"", 1);
        return;
    }
    qn_buf_clear(&p->scratch);
    qn_argtype_write(&p->scratch, &p->type, qn_buf_str(&p->raw), p->raw.n_byte);
    emit_args(p, p->scratch.data, p->scratch.n_byte);
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
    i = skip_blanks(p, i);
    if (i == p->in.n_byte) return ended(p);
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
        i = skip_blanks(p, i);
        if (i == p->in.n_byte) return ended(p) == YES ? NO : MORE;
        if ((r = LITERAL(p, i, FUNCTION_CLOSE)) != YES) return r;
        i += LEN(FUNCTION_CLOSE);
    }
    i = skip_blanks(p, i);
    if (i == p->in.n_byte) return !p->is_wrapped ? ended(p) : ended(p) == YES ? NO : MORE;
    if ((r = LITERAL(p, i, TOOL_CLOSE)) == MORE) return MORE;
    if (r == NO && p->is_wrapped) return NO;
    if (r == YES) i = skip_blanks(p, i + LEN(TOOL_CLOSE));
    if (i == p->in.n_byte) return ended(p);
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
    trim(&key, &n_key);
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
    size_t at = skip_blanks(p, start + LEN(TOOL_OPEN)), n = p->in.n_byte;
    if (at == n) return ended(p) == YES ? NO : MORE;
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
        begin_call(p, start, name->text, name->n);
        qn_buf_clear(&p->scratch);
        qn_json_write(&p->scratch, arguments, QN_JSON_EXACT);
        emit_args(p, p->scratch.data, p->scratch.n_byte);
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
                trim(&key, &n_key);
                begin_value(p, key, n_key);
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

static enum tri step_value_open(struct qn_parse *p)
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

static enum tri step_value(struct qn_parse *p)
{
    size_t n = p->in.n_byte;
    while (p->pos < n) {
        const char *s = text_at(p, p->pos);
        if (*s == '<') {
            enum mark mark = value_mark(p, p->pos);
            if (mark == M_MORE) return MORE;
            if (mark != M_DATA) {
                end_value(p, true);
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
    p->pos = skip_blanks(p, p->pos);
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

/* A call in an open fence is complete: an example when the fence closes right after it. */
static enum tri step_fence_end(struct qn_parse *p)
{
    size_t end = p->pos, at = skip_blanks(p, p->pos);
    if (at == p->in.n_byte && ended(p) == MORE) return MORE;
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
    p->is_held = false;
    qn_buf_free(&p->queue);
    p->n_call--;
    p->n_complete--;
    p->state = CONTENT;
    for (size_t i = p->held_at; i < end && !p->is_over;) {
        size_t n = char_len((unsigned char)p->in.data[i]);
        take_content(p, i, n);
        i += n;
    }
    p->pos = end;
    return YES;
}

static void run(struct qn_parse *p)
{
    static enum tri (*const steps[])(struct qn_parse *) = {
        [REASONING] = step_reasoning,   [CONTENT] = step_content, [CALL] = step_call,
        [VALUE_OPEN] = step_value_open, [VALUE] = step_value,     [BETWEEN] = step_between,
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
    const char *reason = p->n_complete ? "tool_calls" : "stop";
    emit(p, QN_PARSE_FINISH, 0, reason, strlen(reason));
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
        if (p->state != CALL) end_value(p, false);
        end_call(p);
        run(p);
    }
    release_held(p); /* cut by the limit: as it would have been streamed */
    if (p->state == CONTENT && !p->is_over) show_blanks(p);
    if (!p->is_over) {
        emit(p, QN_PARSE_CONTENT, 0, qn_buf_str(&p->tail), p->tail.n_byte);
        if (end == QN_PARSE_LENGTH) {
            p->is_over = true;
            emit(p, QN_PARSE_FINISH, 0, "length", 6);
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
    p->stops = xcalloc((size_t)options->n_stop + 1, sizeof *p->stops);
    for (int i = 0; i < options->n_stop; i++) p->stops[i] = xstrdup(options->stops[i]);
    struct qn_buf *bufs[] = {&p->in, &p->blanks, &p->tail, &p->raw, &p->queue, &p->out, &p->scratch};
    for (size_t i = 0; i < QN_COUNT(bufs); i++) qn_buf_init(bufs[i], MAX_TEXT);
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
    struct qn_buf *bufs[] = {&p->in, &p->blanks, &p->tail, &p->raw, &p->queue, &p->out, &p->scratch};
    for (size_t i = 0; i < QN_COUNT(bufs); i++) qn_buf_free(bufs[i]);
    for (int i = 0; i < p->opt.n_stop; i++) free(p->stops[i]);
    free(p->stops);
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

/* --- the whole message --- */

void qn_parsed_init(struct qn_parsed *m)
{
    *m = (struct qn_parsed){0};
    qn_buf_init(&m->reasoning, MAX_TEXT);
    qn_buf_init(&m->content, MAX_TEXT);
}

void qn_parsed_free(struct qn_parsed *m)
{
    qn_buf_free(&m->reasoning);
    qn_buf_free(&m->content);
    for (int i = 0; i < m->n_call; i++) {
        free(m->calls[i].name);
        qn_buf_free(&m->calls[i].arguments);
    }
    free(m->calls);
    qn_parsed_init(m);
}

void qn_parsed_add(void *ctx, const struct qn_parse_event *event)
{
    struct qn_parsed *m = ctx;
    switch (event->kind) {
    case QN_PARSE_REASONING:
        qn_buf_append(&m->reasoning, event->text, event->n);
        break;
    case QN_PARSE_CONTENT:
        qn_buf_append(&m->content, event->text, event->n);
        break;
    case QN_PARSE_CALL_BEGIN:
        QN_CHECK(event->index == m->n_call);
        m->calls = xreallocarray(m->calls, (size_t)m->n_call + 1, sizeof *m->calls);
        m->calls[m->n_call] = (struct qn_parsed_call){.name = xstrndup(event->text, event->n)};
        qn_buf_init(&m->calls[m->n_call++].arguments, MAX_TEXT);
        break;
    case QN_PARSE_CALL_ARGS:
        qn_buf_append(&m->calls[event->index].arguments, event->text, event->n);
        break;
    case QN_PARSE_CALL_END:
        m->calls[event->index].is_complete = true;
        break;
    case QN_PARSE_FINISH:
        snprintf(m->finish_reason, sizeof m->finish_reason, "%s", event->text);
        break;
    }
}
