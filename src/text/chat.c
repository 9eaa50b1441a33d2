/* Conversations: reading requests, rendering prompts, splicing sampled calls, the start-up self-test.
 * SPDX-License-Identifier: Apache-2.0 */
#include "text/chat_impl.h"

#include <sys/random.h>

#include "text/tokenizer.h"

/* Origins of bytes that are looked for in the rendered text. Calls take turns with the lower ones. */
#define MARK_CALL      2
#define N_MARK_CALL    250
#define MARK_CONTENT   254 /* the message to be continued */
#define MARK_REASONING 255

void qn_chat_init(struct qn_chat *c, struct qn_arena *arena)
{
    *c = (struct qn_chat){.arena = arena,
                          .enable_thinking = -1,
                          .preserve_thinking = -1,
                          .thinking_budget = QN_CHAT_NO_BUDGET,
                          .add_generation_prompt = true};
}

/* ---- reading a request ---- */

const struct qn_json *qn_chat_lift_extra_body(struct qn_arena *arena, const struct qn_json *body)
{
    const struct qn_json *extra = qn_json_get(body, "extra_body");
    if (!qn_json_is(extra, QN_JSON_OBJECT) || !extra->n) return body;
    if (body->n + extra->n > QN_CHAT_MAX_KWARGS) return body; /* no client's mistake looks like that */
    struct qn_json *all = qn_json_new(arena, QN_JSON_OBJECT);
    for (size_t i = 0; i < body->n; i++)
        if (strcmp(body->keys[i].text, "extra_body") &&
            !qn_json_set(arena, all, body->keys[i].text, body->items[i]))
            return NULL;
    for (size_t i = 0; i < extra->n; i++)
        if (qn_json_is_null(qn_json_get(all, extra->keys[i].text)) &&
            !qn_json_set(arena, all, extra->keys[i].text, extra->items[i]))
            return NULL;
    return all;
}

/* Does the last message ask to be continued? */
static bool has_prefix(const struct qn_json *messages)
{
    static const char *const words[] = {"prefix", "partial", "prefill"};
    if (!qn_json_is(messages, QN_JSON_ARRAY) || !messages->n) return false;
    const struct qn_json *last = messages->items[messages->n - 1];
    bool yes = false;
    for (size_t i = 0; i < QN_COUNT(words); i++) yes |= qn_words_switch(qn_json_get(last, words[i])) == 1;
    return yes && qn_json_is_str(qn_json_get(last, "role"), "assistant");
}

int qn_chat_read(struct qn_chat *c, const struct qn_json *request, struct qn_err *e)
{
    int rc = QN_OK;
    QN_FAIL_IF(!qn_json_is(request, QN_JSON_OBJECT), e, QN_INVAL, "the request must be a JSON object");
    const struct qn_json *body = qn_chat_lift_extra_body(c->arena, request);
    QN_NEED(body, e);
    c->messages = qn_json_get(body, "messages");
    const char *what = "tools";
    const struct qn_json *tools = qn_json_get(body, "tools");
    if (qn_json_is_null(tools)) {
        tools = qn_json_get(body, "functions");
        what = "functions";
    }
    QN_TRY(qn_chat_normal_tools(&c->tools, c->arena, tools, what, true, &c->n_tools_skipped, e));
    QN_TRY(qn_json_get_arr(body, "documents", &c->documents, e));
    QN_TRY(qn_json_get_obj(body, "chat_template_kwargs", &c->kwargs, e));
    QN_FAIL_IF(c->kwargs && c->kwargs->n > QN_CHAT_MAX_KWARGS, e, QN_TOOBIG,
               "chat_template_kwargs holds %zu members; the limit is %d", c->kwargs->n, QN_CHAT_MAX_KWARGS);
    QN_TRY(qn_json_get_str(body, "chat_template", NULL, &c->template_source, e));
    QN_TRY(qn_chat_read_thinking(c, body, e));
    const struct qn_json *add = qn_json_get(body, "add_generation_prompt");
    QN_TRY(qn_json_get_bool(body, "continue_final_message", has_prefix(c->messages), &c->continue_final, e));
    QN_TRY(qn_json_get_bool(body, "add_generation_prompt", !c->continue_final, &c->add_generation_prompt, e));
    QN_FAIL_IF(c->continue_final && c->add_generation_prompt && !qn_json_is_null(add), e, QN_INVAL,
               "continue_final_message and add_generation_prompt cannot both be true");
out:
    return rc;
}

/* ---- makers ---- */

struct qn_json *qn_chat_add_message(struct qn_chat *c, const char *role, struct qn_json *content)
{
    if (!c->messages) c->messages = qn_json_new(c->arena, QN_JSON_ARRAY);
    struct qn_json *m = qn_json_new(c->arena, QN_JSON_OBJECT);
    bool ok = c->messages && m &&
              qn_json_set(c->arena, m, "role", qn_json_new_str(c->arena, role, strlen(role))) &&
              qn_json_set(c->arena, m, "content", content ? content : qn_json_new(c->arena, QN_JSON_NULL)) &&
              qn_json_push(c->arena, c->messages, m);
    return ok ? m : NULL;
}

bool qn_chat_add_call(struct qn_chat *c, struct qn_json *message, const char *id, const char *name,
                      struct qn_json *arguments)
{
    struct qn_arena *a = c->arena;
    struct qn_json *calls = qn_json_get(message, "tool_calls");
    if (!calls) {
        calls = qn_json_new(a, QN_JSON_ARRAY);
        if (!qn_json_set(a, message, "tool_calls", calls)) return false;
    }
    struct qn_json *call = qn_json_new(a, QN_JSON_OBJECT), *fn = qn_json_new(a, QN_JSON_OBJECT);
    return call && fn && qn_json_set(a, call, "id", qn_json_new_str(a, id, strlen(id))) &&
           qn_json_set(a, call, "type", qn_json_new_str(a, "function", 8)) &&
           qn_json_set(a, call, "function", fn) &&
           qn_json_set(a, fn, "name", qn_json_new_str(a, name, strlen(name))) &&
           qn_json_set(a, fn, "arguments", arguments ? arguments : qn_json_new(a, QN_JSON_OBJECT)) &&
           qn_json_push(a, calls, call);
}

bool qn_chat_add_tool(struct qn_chat *c, const char *name, struct qn_json *description,
                      struct qn_json *parameters)
{
    struct qn_arena *a = c->arena;
    if (!c->tools) c->tools = qn_json_new(a, QN_JSON_ARRAY);
    struct qn_json *tool = qn_json_new(a, QN_JSON_OBJECT), *fn = qn_json_new(a, QN_JSON_OBJECT);
    return c->tools && tool && fn && qn_json_set(a, tool, "type", qn_json_new_str(a, "function", 8)) &&
           qn_json_set(a, tool, "function", fn) &&
           qn_json_set(a, fn, "name", qn_json_new_str(a, name, strlen(name))) &&
           (!description || qn_json_set(a, fn, "description", description)) &&
           (!parameters || qn_json_set(a, fn, "parameters", parameters)) && qn_json_push(a, c->tools, tool);
}

int qn_chat_normalise(struct qn_json **out, const struct qn_chat *chat, struct qn_arena *arena,
                      struct qn_err *e)
{
    struct qn_chat_normal normal = {.arena = arena};
    int rc = qn_chat_normal_messages(&normal, chat->messages, e);
    if (!rc) *out = normal.messages;
    return rc;
}

/* ---- the variables of the template ---- */

struct render {
    const struct qn_text *text;
    const struct qn_chat *chat;
    const struct qn_chat_opt *opt;
    struct qn_err *e;
    struct qn_arena *arena;
    const struct qn_jinja *template;
    struct qn_jinja *own_template; /* compiled from the request */
    struct qn_chat_normal normal;
    struct qn_json *tools;
    struct qn_jinja_mark *marks;
    size_t n_mark, mark_capacity;
    struct qn_chat_sampled *sampled; /* [normal.n_call] text NULL: not to be replaced */
    size_t n_sampled;
    int64_t budget;
    bool has_stand_in; /* the message to be continued has no text yet */
};

static bool add_mark(struct render *r, const struct qn_json *string, uint8_t origin)
{
    if (r->n_mark == r->mark_capacity) {
        size_t capacity = r->mark_capacity ? r->mark_capacity * 2 : 32;
        struct qn_jinja_mark *marks = qn_arena_alloc(r->arena, capacity * sizeof *marks);
        if (!marks) return false;
        if (r->n_mark) memcpy(marks, r->marks, r->n_mark * sizeof *marks);
        r->marks = marks;
        r->mark_capacity = capacity;
    }
    r->marks[r->n_mark++] = (struct qn_jinja_mark){string, origin};
    return true;
}

/* Effort names as the templates that take one know them. */
static const char *map_effort(const char *effort)
{
    if (!strcmp(effort, "minimal")) return "low";
    if (!strcmp(effort, "max") || !strcmp(effort, "high")) return "xhigh";
    return effort;
}

/* Tokens of reasoning that stand for an effort where the template does not know the word. */
static int64_t effort_budget(const char *effort)
{
    if (!strcmp(effort, "minimal")) return 512;
    if (!strcmp(effort, "low")) return 2048;
    if (!strcmp(effort, "medium")) return 8192;
    return QN_CHAT_NO_BUDGET;
}

/* Templates of this family say enable_thinking, others thinking. */
static const char *switch_name(const struct render *r)
{
    bool is_other =
        !qn_jinja_mentions(r->template, "enable_thinking") && qn_jinja_mentions(r->template, "thinking");
    return is_other ? "thinking" : "enable_thinking";
}

static int set_thinking(struct render *r, struct qn_json *vars)
{
    int rc = QN_OK;
    const struct qn_chat *c = r->chat;
    int thinking = c->enable_thinking;
    if (thinking < 0 && c->effort) thinking = strcmp(c->effort, "none") != 0;
    if (thinking < 0) thinking = qn_chat_soft_switch(c->messages);
    if (thinking >= 0) {
        QN_NEED(qn_json_set(r->arena, vars, switch_name(r), qn_json_new_bool(r->arena, thinking)), r->e);
    }
    if (c->preserve_thinking >= 0)
        QN_NEED(qn_json_set(r->arena, vars, "preserve_thinking",
                            qn_json_new_bool(r->arena, c->preserve_thinking)),
                r->e);
    r->budget = c->thinking_budget;
    if (!c->effort || !strcmp(c->effort, "none")) goto out;
    if (qn_jinja_mentions(r->template, "reasoning_effort")) {
        const char *effort = map_effort(c->effort);
        QN_NEED(qn_json_set(r->arena, vars, "reasoning_effort",
                            qn_json_new_str(r->arena, effort, strlen(effort))),
                r->e);
    } else if (r->budget == QN_CHAT_NO_BUDGET) {
        r->budget = effort_budget(c->effort);
    }
out:
    return rc;
}

/* A variable of chat_template_kwargs: the strings true and false are booleans, efforts are mapped. */
static struct qn_json *kwarg_value(struct render *r, const char *key, struct qn_json *v)
{
    int said = qn_chat_is_switch(key) ? qn_words_switch(v) : -1;
    if (said >= 0) return qn_json_new_bool(r->arena, said);
    if (qn_json_is_str(v, "true") || qn_json_is_str(v, "True")) return qn_json_new_bool(r->arena, true);
    if (qn_json_is_str(v, "false") || qn_json_is_str(v, "False")) return qn_json_new_bool(r->arena, false);
    if (!strcmp(key, "reasoning_effort") && v->type == QN_JSON_STRING) {
        const char *effort = map_effort(v->text);
        return qn_json_new_str(r->arena, effort, strlen(effort));
    }
    return v;
}

/* A switch under another template's name goes to the one that this template has. */
static int set_other_switch(struct render *r, struct qn_json *vars, const char *key, const struct qn_json *v)
{
    int rc = QN_OK;
    int said = qn_chat_is_switch(key) ? qn_words_switch(v) : -1;
    if (said >= 0 && qn_json_is_null(qn_json_get(r->chat->kwargs, switch_name(r))))
        QN_NEED(qn_json_set(r->arena, vars, switch_name(r), qn_json_new_bool(r->arena, said)), r->e);
out:
    return rc;
}

static int make_vars(struct render *r, struct qn_json **out)
{
    int rc = QN_OK;
    struct qn_arena *a = r->arena;
    const struct qn_chat *c = r->chat;
    const struct qn_json *special = r->text->special_tokens;
    struct qn_json *vars = qn_json_new(a, QN_JSON_OBJECT), *null = qn_json_new(a, QN_JSON_NULL);
    QN_NEED(vars && null, r->e);
    for (size_t i = 0; special && i < special->n; i++)
        QN_NEED(qn_json_set(a, vars, special->keys[i].text, special->items[i]), r->e);
    QN_TRY(set_thinking(r, vars));
    for (size_t i = 0; c->kwargs && i < c->kwargs->n; i++) {
        const char *key = c->kwargs->keys[i].text;
        if (!strcmp(key, "reasoning_effort") && qn_json_is_str(c->kwargs->items[i], "none")) {
            /* no template knows this word */
            if (qn_json_is_null(qn_json_get(c->kwargs, "enable_thinking")))
                QN_NEED(qn_json_set(a, vars, "enable_thinking", qn_json_new_bool(a, false)), r->e);
            continue;
        }
        QN_NEED(qn_json_set(a, vars, key, kwarg_value(r, key, c->kwargs->items[i])), r->e);
        QN_TRY(set_other_switch(r, vars, key, c->kwargs->items[i]));
    }
    QN_NEED(qn_json_set(a, vars, "messages", r->normal.messages), r->e);
    QN_NEED(qn_json_set(a, vars, "tools", r->tools ? r->tools : null), r->e);
    QN_NEED(qn_json_set(a, vars, "documents", c->documents ? c->documents : null), r->e);
    QN_NEED(qn_json_set(a, vars, "add_generation_prompt",
                        qn_json_new_bool(a, c->add_generation_prompt && !c->continue_final)),
            r->e);
    *out = vars;
out:
    return rc;
}

/* The special tokens are ours: they count as written by the template. */
static bool mark_special(struct render *r, const struct qn_json *v)
{
    if (!v) return true;
    if (v->type == QN_JSON_STRING) return add_mark(r, v, QN_JINJA_LITERAL);
    for (size_t i = 0; (v->type == QN_JSON_ARRAY || v->type == QN_JSON_OBJECT) && i < v->n; i++)
        if (!mark_special(r, v->items[i])) return false;
    return true;
}

static bool is_space(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

static bool is_blank(const struct qn_json *text)
{
    if (!qn_json_is(text, QN_JSON_STRING)) return true;
    for (size_t i = 0; i < text->n; i++)
        if (!is_space(text->text[i])) return false;
    return true;
}

static int make_marks(struct render *r)
{
    int rc = QN_OK;
    QN_NEED(mark_special(r, r->text->special_tokens), r->e);
    size_t n = r->normal.n_call;
    if (r->opt->lookup && n) {
        r->sampled = qn_arena_alloc(r->arena, n * sizeof *r->sampled);
        QN_NEED(r->sampled, r->e);
        for (size_t i = 0; i < n; i++) {
            const struct qn_chat_call *call = &r->normal.calls[i];
            struct qn_chat_sampled s = {0};
            bool known = r->opt->lookup(r->opt->user, call->id, &s) && s.n_byte &&
                         !strcmp(s.name, call->name->text) && qn_json_equal(s.arguments, call->arguments);
            if (!known) continue;
            r->sampled[i] = s;
            r->n_sampled++;
            QN_NEED(add_mark(r, call->name, (uint8_t)(MARK_CALL + i % N_MARK_CALL)), r->e);
        }
    }
    if (r->chat->continue_final) {
        const struct qn_json *list = r->normal.messages, *last = list->n ? list->items[list->n - 1] : NULL;
        QN_FAIL_IF(!last || !qn_json_is_str(qn_json_get(last, "role"), "assistant"), r->e, QN_INVAL,
                   "the message to be continued must be the last one, of role assistant");
        const struct qn_json *content = qn_json_get(last, "content"),
                             *reasoning = qn_json_get(last, "reasoning_content");
        if (!reasoning &&
            is_blank(content)) { /* nothing to look for: something is put there and cut off again */
            struct qn_json *stand_in = qn_json_new_str(r->arena, "\001", 1);
            QN_NEED(stand_in && qn_json_set(r->arena, (struct qn_json *)last, "content", stand_in), r->e);
            content = stand_in;
            r->has_stand_in = true;
        }
        if (qn_json_is(content, QN_JSON_STRING)) QN_NEED(add_mark(r, content, MARK_CONTENT), r->e);
        if (reasoning) QN_NEED(add_mark(r, reasoning, MARK_REASONING), r->e);
    }
out:
    return rc;
}

/* ---- after rendering ---- */

static bool all_literal(const uint8_t *origin, size_t from, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (origin[from + i] != QN_JINJA_LITERAL) return false;
    return true;
}

/* Last place in [from, to) where the whole word stands in literal bytes, or SIZE_MAX. */
static size_t literal_before(const char *text, const uint8_t *origin, size_t from, size_t to,
                             const char *word)
{
    size_t n = strlen(word);
    for (size_t i = to; i >= from + n; i--)
        if (text[i - n] == word[0] && !memcmp(text + i - n, word, n) && all_literal(origin, i - n, n))
            return i - n;
    return SIZE_MAX;
}

static size_t literal_after(const char *text, const uint8_t *origin, size_t from, size_t to, const char *word)
{
    size_t n = strlen(word);
    for (size_t i = from; i + n <= to; i++) {
        const char *hit = memmem(text + i, to - i, word, n);
        if (!hit) break;
        i = (size_t)(hit - text);
        if (all_literal(origin, i, n)) return i;
    }
    return SIZE_MAX;
}

/* Where the rendered call around the marked name [at, end) begins and ends; false when it cannot be told. */
static bool call_bounds(const struct qn_jinja_out *o, size_t done, size_t at, size_t end, size_t *from,
                        size_t *to)
{
    static const char opener[] = "<tool_call>", closer[] = "</tool_call>";
    *from = literal_before(o->text, o->origin, done, at, opener);
    if (*from == SIZE_MAX || literal_after(o->text, o->origin, *from, at, closer) != SIZE_MAX) return false;
    size_t close = literal_after(o->text, o->origin, end, o->n_byte, closer);
    if (close == SIZE_MAX || literal_after(o->text, o->origin, end, close, opener) != SIZE_MAX) return false;
    *to = close + sizeof closer - 1;
    return true;
}

/* The sampled text may begin with the white space before the call; the template's then gives way, except
 * for the line break that ends the role. */
static size_t before_space(const struct qn_jinja_out *o, size_t done, size_t from)
{
    static const char role[] = "<|im_start|>assistant";
    size_t at = from;
    while (at > done && is_space(o->text[at - 1]) && o->origin[at - 1] == QN_JINJA_LITERAL) at--;
    if (at >= sizeof role - 1 && !memcmp(o->text + at - sizeof role + 1, role, sizeof role - 1)) return from;
    return at;
}

/* Bytes of the text whose ids are known. */
struct span {
    size_t from, to;
    const int32_t *tok; /* [n_tok] */
    size_t n_tok;
    int item; /* of chat.media whose placeholders these are, or -1 */
};

struct output {
    struct render *r;
    struct qn_buf text, literal;
    struct span *spans; /* [n_span] in the order of the text, room for one a sampled call */
    size_t n_span, n_room;
};

static void emit_plain(struct output *out, const char *text, size_t n, const uint8_t *origin)
{
    qn_buf_append(&out->text, text, n);
    qn_buf_reserve(&out->literal, n);
    for (size_t i = 0; i < n && !out->literal.failed; i++)
        qn_buf_putc(&out->literal, !origin || origin[i] == QN_JINJA_LITERAL);
}

/* The placeholders of item i in place of its mark: as text with one pad a step, and their ids. */
static void emit_media(struct output *out, int i)
{
    const struct qn_chat_media *m = &out->r->chat->media[i];
    bool is_wrapped = m->is_video && !out->r->chat->has_no_wrapper;
    struct span *span = &out->spans[out->n_span];
    span->from = out->text.n_byte;
    if (is_wrapped) emit_plain(out, "<|vision_start|>", 16, NULL);
    for (int k = 0; k < m->n_step; k++) {
        char time[40] = "";
        if (m->is_video) snprintf(time, sizeof time, "<%.1f seconds>", m->times[k]);
        emit_plain(out, time, strlen(time), NULL);
        const char *pad = m->is_video ? "<|vision_start|><|video_pad|><|vision_end|>"
                                      : "<|vision_start|><|image_pad|><|vision_end|>";
        emit_plain(out, pad, strlen(pad), NULL);
    }
    if (is_wrapped) emit_plain(out, "<|vision_end|>", 14, NULL);
    span->to = out->text.n_byte;
    span->item = i;
    out->n_span++;
}

/* Text of the template, in which marks of pictures become placeholders. */
static void emit(struct output *out, const char *text, size_t n, const uint8_t *origin)
{
    size_t done = 0;
    for (size_t at = 0; out->r->normal.n_media && at < n; at++) {
        const char *hit = memchr(text + at, 2, n - at);
        if (!hit) break;
        at = (size_t)(hit - text);
        int i = qn_chat_media_marked(out->r->normal.nonce, hit, n - at);
        if (i < 0 || i >= out->r->normal.n_media || out->n_span >= out->n_room) continue;
        emit_plain(out, text + done, at - done, origin ? origin + done : NULL);
        emit_media(out, i);
        done = at + QN_CHAT_MEDIA_MARK;
        at = done - 1;
    }
    emit_plain(out, text + done, n - done, origin ? origin + done : NULL);
}

/* The call that was just emitted, n bytes of it from its opener on, has the ids it was sampled with; so has
 * what is before it, where that is what was sampled. */
static void keep_ids(struct output *out, const struct qn_chat_sampled *s, size_t n)
{
    size_t to = out->text.n_byte;
    if (!s->tok || out->text.failed) return;
    struct span span = {to - n, to, s->tok + s->call_tok, s->n_tok - s->call_tok, -1};
    if (s->n_output <= to && !memcmp(qn_buf_str(&out->text) + to - s->n_output, s->output, s->n_output))
        span = (struct span){to - s->n_output, to, s->tok, s->n_tok, -1};
    while (out->n_span && out->spans[out->n_span - 1].from >= span.from) out->n_span--;
    if (out->n_span && out->spans[out->n_span - 1].to > span.from) return;
    out->spans[out->n_span++] = span;
}

/* Copies the rendered text with the sampled calls in place of the rendered ones. */
static int splice(struct render *r, const struct qn_jinja_out *o, struct output *out)
{
    size_t done = 0, next = 0;
    int n_spliced = 0;
    for (size_t at = 0; r->n_sampled && at < o->n_byte;) {
        uint8_t mark = o->origin[at];
        size_t end = at + 1;
        while (end < o->n_byte && o->origin[end] == mark) end++;
        if (mark < MARK_CALL || mark >= MARK_CALL + N_MARK_CALL) {
            at = end;
            continue;
        }
        size_t k = next, from = at, to = end;
        while (k < r->normal.n_call && (k % N_MARK_CALL != (size_t)(mark - MARK_CALL) || !r->sampled[k].text))
            k++;
        bool found = k < r->normal.n_call && r->normal.calls[k].name->n == end - at &&
                     !memcmp(r->normal.calls[k].name->text, o->text + at, end - at) &&
                     call_bounds(o, done, at, end, &from, &to);
        if (!found) {
            at = end;
            continue;
        }
        const char *text = r->sampled[k].text;
        size_t n = r->sampled[k].n_byte;
        if (is_space(text[0])) {
            size_t before = before_space(o, done, from);
            if (before == from)
                while (n && is_space(*text)) text++, n--;
            from = before;
        }
        emit(out, o->text + done, from - done, o->origin + done);
        emit(out, text, n, NULL);
        while (n && is_space(*text)) text++, n--;
        keep_ids(out, &r->sampled[k], n);
        done = at = to;
        next = k + 1;
        n_spliced++;
    }
    emit(out, o->text + done, o->n_byte - done, o->origin + done);
    return n_spliced;
}

static int one_id(const struct qn_tokenizer *t, const char *token, int32_t *id, struct qn_err *e)
{
    int rc = QN_OK;
    *id = qn_tokenizer_id(t, token);
    QN_FAIL_IF(*id < 0, e, QN_UNSUPPORTED, "the tokenizer has no %s: this model cannot be shown pictures",
               token);
out:
    return rc;
}

/* The ids of a picture or video; a timestamp is encoded on its own. */
static int encode_media(const struct qn_tokenizer *t, const struct qn_chat *c, int item, struct qn_ids *ids,
                        struct qn_prompt *p, struct qn_err *e)
{
    int rc = QN_OK;
    const struct qn_chat_media *m = &c->media[item];
    bool is_wrapped = m->is_video && !c->has_no_wrapper;
    int32_t start, end, pad;
    QN_TRY(one_id(t, "<|vision_start|>", &start, e));
    QN_TRY(one_id(t, "<|vision_end|>", &end, e));
    QN_TRY(one_id(t, m->is_video ? "<|video_pad|>" : "<|image_pad|>", &pad, e));
    if (is_wrapped) QN_TRY(qn_ids_append(ids, &start, 1));
    for (int k = 0; k < m->n_step; k++) {
        char time[40];
        static const uint8_t plain[sizeof time];
        int n = m->is_video ? snprintf(time, sizeof time, "<%.1f seconds>", m->times[k]) : 0;
        if (n) QN_TRY(qn_tokenizer_encode(t, time, (size_t)n, plain, ids, e));
        QN_TRY(qn_ids_append(ids, &start, 1));
        p->media[p->n_media++] = (struct qn_prompt_media){item, k, (int)ids->n, m->rows, m->cols};
        for (int i = 0; i < m->rows * m->cols; i++) QN_TRY(qn_ids_append(ids, &pad, 1));
        QN_TRY(qn_ids_append(ids, &end, 1));
    }
    if (is_wrapped) QN_TRY(qn_ids_append(ids, &end, 1));
out:
    return rc;
}

/* The ids of the text; those of spans are there already. A span begins where a prompt once ended, or with the
 * single token that opens a call, and ends with the one that closes it, so no token crosses its ends. */
static int encode(const struct qn_tokenizer *t, const struct output *out, struct qn_ids *ids,
                  struct qn_prompt *p, struct qn_err *e)
{
    int rc = QN_OK;
    const char *text = qn_buf_str(&out->text);
    const uint8_t *literal = (const uint8_t *)qn_buf_str(&out->literal);
    size_t at = 0;
    for (size_t i = 0; i < out->n_span; i++) {
        const struct span *s = &out->spans[i];
        QN_TRY(qn_tokenizer_encode(t, text + at, s->from - at, literal + at, ids, e));
        if (s->item >= 0)
            QN_TRY(encode_media(t, out->r->chat, s->item, ids, p, e));
        else
            QN_TRY(qn_ids_append(ids, s->tok, s->n_tok));
        at = s->to;
    }
    QN_TRY(qn_tokenizer_encode(t, text + at, out->text.n_byte - at, literal + at, ids, e));
out:
    return rc;
}

/* Length of the text up to the end of the message to be continued. */
static size_t continued_length(const struct render *r, const struct qn_jinja_out *o)
{
    for (int mark = MARK_CONTENT; mark <= MARK_REASONING; mark++)
        for (size_t i = o->n_byte; i > 0; i--)
            if (o->origin[i - 1] == mark) return r->has_stand_in ? i - 1 : i;
    size_t n_end = 0;
    const uint8_t *bytes = r->text->tokenizer && r->text->turn_end_id >= 0
                               ? qn_tokenizer_bytes(r->text->tokenizer, r->text->turn_end_id, &n_end)
                               : NULL;
    char word[64] = "<|im_end|>";
    if (bytes && n_end < sizeof word) {
        memcpy(word, bytes, n_end);
        word[n_end] = 0;
    }
    size_t end = literal_before(o->text, o->origin, 0, o->n_byte, word);
    return end == SIZE_MAX ? o->n_byte : end;
}

bool qn_chat_ends_in_thinking(const char *text, const uint8_t *literal, size_t n)
{
    size_t turn = literal_before(text, literal, 0, n, "<|im_start|>");
    if (turn == SIZE_MAX) turn = 0;
    size_t open = literal_before(text, literal, turn, n, "<think>");
    if (open == SIZE_MAX) return false;
    return literal_after(text, literal, open, n, "</think>") == SIZE_MAX;
}

/* ---- rendering ---- */

/* After the leading system message, so that the turns behind it count as answers to it. */
static bool insert_empty_user(struct render *r)
{
    struct qn_arena *a = r->arena;
    struct qn_json *m = qn_json_new(a, QN_JSON_OBJECT), *list = qn_json_new(a, QN_JSON_ARRAY);
    if (!m || !list || !qn_json_set(a, m, "role", qn_json_new_str(a, "user", 4)) ||
        !qn_json_set(a, m, "content", qn_json_new_str(a, "", 0)))
        return false;
    for (size_t i = 0; i <= r->normal.messages->n; i++) {
        if (i == r->normal.n_lead && !qn_json_push(a, list, m)) return false;
        if (i < r->normal.messages->n && !qn_json_push(a, list, r->normal.messages->items[i])) return false;
    }
    r->normal.messages = list;
    return true;
}

static int choose_template(struct render *r)
{
    int rc = QN_OK;
    const struct qn_chat *c = r->chat;
    r->template = r->tools && r->text->tool_template ? r->text->tool_template : r->text->template;
    if (c->template_source) {
        QN_FAIL_IF(!r->opt->allow_request_template, r->e, QN_INVAL,
                   "chat_template in a request is not allowed by this server");
        rc = qn_jinja_compile(&r->own_template, c->template_source, strlen(c->template_source),
                              "chat_template", r->e);
        if (rc == QN_FORMAT) rc = QN_INVAL; /* the client's own */
        if (rc) goto out;
        r->template = r->own_template;
    }
    QN_FAIL_IF(
        !r->template, r->e, QN_UNSUPPORTED,
        "this model has no chat template; use the completions endpoint, or start with a template file");
out:
    return rc;
}

static int run_template(struct render *r, struct qn_jinja_out *o, bool *used_empty_user)
{
    int rc = QN_OK;
    struct qn_json *vars = NULL;
    struct qn_jinja_opt opt = {.marks = r->marks, .n_mark = r->n_mark, .now_s = r->opt->now_s};
    QN_TRY(make_vars(r, &vars));
    rc = qn_jinja_render(o, r->template, vars, &opt, r->e);
    if (rc == QN_INVAL && !qn_chat_has_query(r->normal.messages)) {
        struct qn_err first = {0};
        if (r->e) first = *r->e;
        qn_jinja_out_free(o);
        QN_NEED(insert_empty_user(r), r->e);
        QN_TRY(make_vars(r, &vars));
        rc = qn_jinja_render(o, r->template, vars, &opt, r->e);
        *used_empty_user = !rc;
        if (rc == QN_INVAL && r->e) *r->e = first; /* what was wrong with the request as it came */
    }
out:
    return rc;
}

int qn_chat_render(struct qn_prompt *out, const struct qn_text *text, const struct qn_chat *chat,
                   const struct qn_chat_opt *opt, struct qn_err *e)
{
    static const struct qn_chat_opt plain;
    int rc = QN_OK, n_skipped;
    struct qn_prompt p = {0};
    struct qn_jinja_out o = {0};
    struct output joined = {.r = NULL,
                            .text = QN_BUF_INIT(QN_JINJA_MAX_OUTPUT_BYTES * 2),
                            .literal = QN_BUF_INIT(QN_JINJA_MAX_OUTPUT_BYTES * 2)};
    struct qn_ids ids = QN_IDS_INIT(INT32_MAX);
    struct render r = {.text = text, .chat = chat, .opt = opt ? opt : &plain, .e = e, .arena = chat->arena};
    joined.r = &r;
    r.normal.arena = chat->arena;
    r.normal.media = chat->media;
    r.normal.n_media = chat->n_media;
    if (chat->n_media)
        QN_FAIL_IF(getrandom(&r.normal.nonce, sizeof r.normal.nonce, 0) != sizeof r.normal.nonce, e,
                   QN_INTERNAL, "the system gives no random number");
    size_t n_run = 0;
    for (int i = 0; i < chat->n_media; i++) n_run += (size_t)chat->media[i].n_step;
    p.media = n_run ? xcalloc(n_run, sizeof *p.media) : NULL;
    QN_TRY(qn_chat_normal_messages(&r.normal, chat->messages, e));
    QN_TRY(qn_chat_normal_tools(&r.tools, r.arena, chat->tools, "tools", false, &n_skipped, e));
    QN_TRY(choose_template(&r));
    QN_TRY(make_marks(&r));
    QN_TRY(run_template(&r, &o, &p.used_empty_user));
    if (chat->continue_final) o.n_byte = continued_length(&r, &o);
    joined.n_room = r.n_sampled + (size_t)chat->n_media + 1;
    joined.spans = qn_arena_alloc(r.arena, joined.n_room * sizeof *joined.spans);
    QN_NEED(joined.spans, e);
    p.n_spliced = splice(&r, &o, &joined);
    QN_FAIL_IF(joined.text.failed || joined.literal.failed, e, QN_TOOBIG,
               "the prompt is larger than %zu bytes", joined.text.max_bytes);
    p.n_byte = joined.text.n_byte;
    p.thinking_budget = r.budget;
    p.is_thinking = qn_chat_ends_in_thinking(qn_buf_str(&joined.text),
                                             (const uint8_t *)qn_buf_str(&joined.literal), p.n_byte);
    if (!r.opt->no_ids) {
        QN_FAIL_IF(!text->tokenizer, e, QN_INTERNAL, "the tokenizer was not opened");
        if (r.opt->max_tok) ids.max = r.opt->max_tok;
        rc = encode(text->tokenizer, &joined, &ids, &p, e);
        if (rc == QN_TOOBIG && r.opt->max_tok) *r.opt->is_over = true;
        if (rc) goto out;
    }
    p.text = qn_buf_take(&joined.text);
    p.literal = (uint8_t *)qn_buf_take(&joined.literal);
    p.n_tok = (int)ids.n;
    p.ids = ids.data;
    ids.data = NULL;
    ids.capacity = 0; /* the request's until its end */
    *out = p;
    p.media = NULL;
out:
    free(p.media);
    qn_ids_free(&ids);
    qn_buf_free(&joined.text);
    qn_buf_free(&joined.literal);
    qn_jinja_out_free(&o);
    qn_jinja_free(r.own_template);
    return rc;
}

void qn_prompt_free(struct qn_prompt *p)
{
    free(p->text);
    free(p->literal);
    free(p->ids);
    free(p->media);
    *p = (struct qn_prompt){0};
}

/* ---- self-test ---- */

/* A conversation with everything the format has. %s: the switch. */
static const char test_request[] =
    "{\"messages\":[{\"role\":\"system\",\"content\":\"Be brief.\"},{\"role\":\"user\",\"content\":\"q1\"},"
    "{\"role\":\"assistant\",\"content\":\"a1\",\"reasoning_content\":\"old\"},{\"role\":\"user\","
    "\"content\":\"q2\"},"
    "{\"role\":\"assistant\",\"reasoning_content\":\"X\",\"tool_calls\":["
    "{\"id\":\"1\",\"type\":\"function\",\"function\":{\"name\":\"f\",\"arguments\":"
    "\"{\\\"n\\\":3,\\\"b\\\":true,\\\"z\\\":null,\\\"f\\\":1.0,\\\"o\\\":{\\\"k\\\":[1,\\\"\u00e9\\\"]}}\"}}"
    ","
    "{\"id\":\"2\",\"type\":\"function\",\"function\":{\"name\":\"f\",\"arguments\":\"{}\"}}]},"
    "{\"role\":\"tool\",\"tool_call_id\":\"1\",\"content\":\"R1\"},{\"role\":\"tool\",\"tool_call_id\":\"2\","
    "\"content\":\"R2\"}],\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\"}}]%s}";

/* What follows the system turn. The variants differ in two places: earlier thinking dropped or kept, scalar
 * arguments as Python or as JSON spells them. */
static const char test_head[] = "<|im_start|>user\nq1<|im_end|>\n<|im_start|>assistant\n";
static const char *const test_old[] = {"", "<think>\nold\n</think>\n\n"};
static const char test_call[] =
    "a1<|im_end|>\n<|im_start|>user\nq2<|im_end|>\n<|im_start|>assistant\n<think>\nX\n"
    "</think>\n\n<tool_call>\n<function=f>\n<parameter=n>\n3\n</parameter>\n<parameter=b>\n";
static const char *const test_scalars[] = {"True\n</parameter>\n<parameter=z>\nNone\n",
                                           "true\n</parameter>\n<parameter=z>\nnull\n"};
static const char test_tail[] =
    "</parameter>\n<parameter=f>\n1.0\n</parameter>\n<parameter=o>\n{\"k\": [1, \"\u00e9\"]}\n</parameter>\n"
    "</function>\n</tool_call>\n<tool_call>\n<function=f>\n</function>\n</"
    "tool_call><|im_end|>\n<|im_start|>user\n"
    "<tool_response>\nR1\n</tool_response>\n<tool_response>\nR2\n</"
    "tool_response><|im_end|>\n<|im_start|>assistant\n";
static const char *const test_ends[] = {"<think>\n", "<think>\n\n</think>\n\n"};

/* Bytes that agree with the nearest variant; n_want is its length. thinking: -1 either, 0 closed, 1 open. */
static size_t nearest(const char *got, int thinking, char *best, size_t n_best)
{
    size_t most = 0;
    for (int v = 0; v < 8; v++) {
        char want[1400];
        if (thinking >= 0 && (v & 1) == thinking) continue;
        snprintf(want, sizeof want, "%s%s%s%s%s%s", test_head, test_old[v >> 1 & 1], test_call,
                 test_scalars[v >> 2 & 1], test_tail, test_ends[v & 1]);
        size_t same = 0;
        while (want[same] && got[same] == want[same]) same++;
        if (same >= most) {
            most = same;
            snprintf(best, n_best, "%s", want);
        }
        if (!want[same] && !got[same]) return SIZE_MAX;
    }
    return most;
}

/* Text for one line: a few bytes with line breaks spelled out. */
static void quote(char *out, size_t n, const char *text)
{
    size_t len = 0;
    for (int i = 0; text[i] && i < 24 && len + 4 < n; i++) {
        if (text[i] == '\n') {
            out[len++] = '\\';
            out[len++] = 'n';
        } else {
            out[len++] = text[i];
        }
    }
    out[len] = 0;
}

static bool test_switch(const struct qn_text *text, const char *what, const char *json, int thinking,
                        char *line, size_t line_bytes)
{
    struct qn_arena *arena = qn_arena_create(8 << 20);
    struct qn_prompt p = {0};
    struct qn_err e = {0};
    struct qn_chat chat;
    struct qn_json *body;
    char request[2000], want[1400], a[80], b[80];
    int n = snprintf(request, sizeof request, test_request, json);
    bool ok = false;
    qn_chat_init(&chat, arena);
    int rc = qn_json_parse(&body, arena, request, (size_t)n, "self-test", &e);
    if (!rc) rc = qn_chat_read(&chat, body, &e);
    if (!rc) rc = qn_chat_render(&p, text, &chat, &(const struct qn_chat_opt){.no_ids = true}, &e);
    const char *after = NULL;
    if (!rc && p.text && !strncmp(p.text, "<|im_start|>system\n", 19))
        after = strstr(p.text, "<|im_end|>\n<|im_start|>user\n");
    if (rc) {
        snprintf(line, line_bytes, "the chat template fails on the reference conversation with %s: %s", what,
                 e.text);
    } else if (!after) {
        quote(a, sizeof a, p.text ? p.text : "");
        snprintf(
            line, line_bytes,
            "the chat template is not of the expected format: its prompt begins with '%s'; tool calls and "
            "thinking may not be recognised in the output",
            a);
    } else {
        after += strlen("<|im_end|>\n");
        size_t same = nearest(after, thinking, want, sizeof want);
        ok = same == SIZE_MAX;
        if (!ok) {
            quote(a, sizeof a, after + same);
            quote(b, sizeof b, want + same);
            snprintf(line, line_bytes,
                     "the chat template differs from the reference with %s at byte %zu: '%s' instead of "
                     "'%s'; tool "
                     "calls and thinking may not be recognised in the output",
                     what, (size_t)(after - p.text) + same, a, b);
        }
    }
    qn_prompt_free(&p);
    qn_arena_free(arena);
    return ok;
}

bool qn_chat_self_test(const struct qn_text *text, char *line, size_t line_bytes)
{
    if (!text->template) {
        snprintf(line, line_bytes,
                 "no chat template in the folder; only the completions endpoint can be used");
        return false;
    }
    return test_switch(text, "thinking by default", "", -1, line, line_bytes) &&
           test_switch(text, "thinking on", ",\"chat_template_kwargs\":{\"enable_thinking\":true}", 1, line,
                       line_bytes) &&
           test_switch(text, "thinking off", ",\"chat_template_kwargs\":{\"enable_thinking\":false}", 0, line,
                       line_bytes);
}
