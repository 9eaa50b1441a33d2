/* Anthropic messages and count_tokens.
 * SPDX-License-Identifier: Apache-2.0 */
#include <ctype.h>

#include "server/api.h"
#include "server/form.h"
#include "server/sse.h"
#include "server/stream.h"
#include "text/chat_block.h"

/* ------------------------------------------------------------------ reading */

static const char *type_of(const struct qn_json *v)
{
    const struct qn_json *type = qn_json_get(v, "type");
    return qn_json_is(type, QN_JSON_STRING) ? type->text : "";
}

static struct qn_json *text_part(struct qn_arena *arena, const char *text, size_t n)
{
    struct qn_json *part = qn_json_new(arena, QN_JSON_OBJECT);
    if (!part) return NULL;
    qn_json_set(arena, part, "type", qn_json_new_str(arena, "text", 4));
    qn_json_set(arena, part, "text", qn_json_new_str(arena, text, n));
    return part;
}

/* {"type":"image","source":{...}} -> {"type":"image_url","image_url":{"url":...}} */
static struct qn_json *image_part(struct qn_arena *arena, const struct qn_json *block)
{
    const struct qn_json *source = qn_json_get(block, "source"), *url = qn_json_get(source, "url");
    struct qn_json *part = qn_json_new(arena, QN_JSON_OBJECT), *inner = qn_json_new(arena, QN_JSON_OBJECT);
    if (!part || !inner) return NULL;
    if (qn_json_is(url, QN_JSON_STRING))
        qn_json_set(arena, inner, "url", qn_json_new_str(arena, url->text, url->n));
    else {
        const struct qn_json *data = qn_json_get(source, "data"), *media = qn_json_get(source, "media_type");
        struct qn_buf text = QN_BUF_INIT((size_t)256 << 20);
        qn_buf_printf(&text, "data:%s;base64,",
                      qn_json_is(media, QN_JSON_STRING) ? media->text : "image/png");
        if (qn_json_is(data, QN_JSON_STRING)) qn_buf_append(&text, data->text, data->n);
        qn_json_set(arena, inner, "url", qn_json_new_str(arena, qn_buf_str(&text), text.n_byte));
        qn_buf_free(&text);
    }
    qn_json_set(arena, part, "type", qn_json_new_str(arena, "image_url", 9));
    qn_json_set(arena, part, "image_url", inner);
    return part;
}

/* A copy of a block that says where the client put it. */
static struct qn_json *with_path(struct qn_arena *arena, const struct qn_json *block, const char *path)
{
    struct qn_json *copy = qn_json_new(arena, QN_JSON_OBJECT);
    for (size_t i = 0; copy && i < block->n; i++)
        if (!qn_json_set(arena, copy, block->keys[i].text, block->items[i])) return NULL;
    if (copy && !qn_json_set(arena, copy, QN_CHAT_PATH, qn_json_new_str(arena, path, strlen(path))))
        return NULL;
    return copy;
}

/* A block as a part of a chat message; what it is that is no text, the conversation's reader knows. */
static bool push_part(struct qn_arena *arena, struct qn_json *parts, const struct qn_json *block,
                      const char *path)
{
    const char *type = type_of(block);
    const struct qn_json *text = qn_json_get(block, "text");
    struct qn_json *part;
    if (qn_json_is(block, QN_JSON_STRING))
        return qn_json_push(arena, parts, text_part(arena, block->text, block->n));
    if (!qn_json_is(block, QN_JSON_OBJECT)) return true;
    if ((!*type || !strcmp(type, "text")) && qn_json_is(text, QN_JSON_STRING))
        return qn_json_push(arena, parts, text_part(arena, text->text, text->n));
    if (!strcmp(type, "image")) {
        part = image_part(arena, block);
        if (part) part = with_path(arena, part, path);
        return part && qn_json_set(arena, part, QN_CHAT_TYPE, qn_json_new_str(arena, "image", 5)) &&
               qn_json_push(arena, parts, part);
    }
    part = with_path(arena, block, path);
    return part && qn_json_push(arena, parts, part);
}

/* A tool result: a tool message. Its blocks are lines of their own. */
static int read_result(struct qn_ask *a, const struct qn_json *block, const char *path, struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_arena *arena = a->arena;
    const struct qn_json *content = qn_json_get(block, "content"), *is_error = qn_json_get(block, "is_error"),
                         *id = qn_json_get(block, "tool_use_id");
    struct qn_json *parts = qn_json_new(arena, QN_JSON_ARRAY), *message;
    bool ok = parts != NULL, was_image = false;
    if (qn_json_is(content, QN_JSON_STRING)) ok = ok && push_part(arena, parts, content, path);
    for (size_t i = 0; ok && qn_json_is(content, QN_JSON_ARRAY) && i < content->n; i++) {
        char inner[128];
        snprintf(inner, sizeof inner, "%.90s.content[%zu]", path, i);
        bool is_image =
            !strcmp(type_of(content->items[i]), "image"); /* stands where it is, without a line of its own */
        if (parts->n && !is_image && !was_image) ok = qn_json_push(arena, parts, text_part(arena, "\n", 1));
        was_image = is_image;
        ok = ok && push_part(arena, parts, content->items[i], inner);
    }
    if (ok && qn_json_is(is_error, QN_JSON_BOOL) && is_error->truth) {
        const struct qn_json *first = parts->n ? qn_json_get(parts->items[0], "text") : NULL;
        if (!qn_json_is(first, QN_JSON_STRING) || strncmp(first->text, "Error", 5) != 0) {
            struct qn_json *all = qn_json_new(arena, QN_JSON_ARRAY);
            ok = all && qn_json_push(arena, all, text_part(arena, "Error: ", 7));
            for (size_t i = 0; ok && i < parts->n; i++) ok = qn_json_push(arena, all, parts->items[i]);
            parts = all;
        }
    }
    message = ok ? qn_chat_add_message(&a->chat, "tool", parts) : NULL;
    QN_FAIL_IF(!message, e, QN_TOOBIG, "messages: the request is too large");
    if (qn_json_is(id, QN_JSON_STRING))
        qn_json_set(arena, message, "tool_call_id", qn_json_new_str(arena, id->text, id->n));
out:
    return rc;
}

static bool is_reminder(const struct qn_json *block)
{
    const struct qn_json *text = qn_json_get(block, "text");
    return !strcmp(type_of(block), "text") && qn_json_is(text, QN_JSON_STRING) &&
           qn_chat_is_reminder(text->text, text->n);
}

static int read_user(struct qn_ask *a, const char *role, const struct qn_json *content, size_t at,
                     struct qn_err *e)
{
    int rc = QN_OK;
    char path[128];
    struct qn_json *parts = qn_json_new(a->arena, QN_JSON_ARRAY);
    bool has_results = false;
    QN_FAIL_IF(!parts, e, QN_TOOBIG, "messages: the request is too large");
    /* results first: they answer the calls before */
    for (size_t i = 0; i < content->n; i++)
        if (!strcmp(type_of(content->items[i]), "tool_result")) {
            snprintf(path, sizeof path, "messages[%zu].content[%zu]", at, i);
            QN_TRY(read_result(a, content->items[i], path, e));
            has_results = true;
        }
    for (size_t i = 0; i < content->n; i++) {
        snprintf(path, sizeof path, "messages[%zu].content[%zu]", at, i);
        if (has_results && !parts->n && is_reminder(content->items[i])) {
            /* as a system message it joins the result; a user's turn would take the thinking out of the
             * history */
            QN_FAIL_IF(!qn_chat_add_message(&a->chat, "system", qn_json_get(content->items[i], "text")), e,
                       QN_TOOBIG, "messages: the request is too large");
        } else if (strcmp(type_of(content->items[i]), "tool_result") != 0)
            QN_FAIL_IF(!push_part(a->arena, parts, content->items[i], path), e, QN_TOOBIG,
                       "messages: the request is too large");
    }
    if (parts->n || !has_results)
        QN_FAIL_IF(!qn_chat_add_message(&a->chat, role, parts), e, QN_TOOBIG,
                   "messages: the request is too large");
out:
    return rc;
}

/* Text, thoughts and calls; what a vendor's server did in between is text, too. */
static int read_assistant(struct qn_ask *a, const struct qn_json *content, size_t at, struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_arena *arena = a->arena;
    struct qn_buf thought = QN_BUF_INIT((size_t)256 << 20);
    struct qn_json *parts = qn_json_new(arena, QN_JSON_ARRAY);
    bool has_thought = false, was_other = false;
    QN_FAIL_IF(!parts, e, QN_TOOBIG, "messages: the request is too large");
    for (size_t i = 0; i < content->n; i++) {
        const struct qn_json *block = content->items[i];
        const char *type = type_of(block);
        char path[128];
        if (!strcmp(type, "thinking")) {
            const struct qn_json *t = qn_json_get(block, "thinking");
            has_thought = true;
            if (qn_json_is(t, QN_JSON_STRING)) qn_buf_append(&thought, t->text, t->n);
        } else if (strcmp(type, "tool_use") != 0 && strcmp(type, "redacted_thinking") != 0) {
            bool is_other = *type && strcmp(type, "text") != 0;
            snprintf(path, sizeof path, "messages[%zu].content[%zu]", at, i);
            bool ok = true;
            if (parts->n && (is_other || was_other))
                ok = qn_json_push(arena, parts, text_part(arena, "\n", 1));
            QN_FAIL_IF(!ok || !push_part(arena, parts, block, path), e, QN_TOOBIG,
                       "messages: the request is too large");
            was_other = is_other;
        }
    }
    struct qn_json *message = qn_chat_add_message(&a->chat, "assistant", parts);
    QN_FAIL_IF(!message, e, QN_TOOBIG, "messages: the request is too large");
    if (has_thought)
        qn_json_set(arena, message, "reasoning_content",
                    qn_json_new_str(arena, qn_buf_str(&thought), thought.n_byte));
    for (size_t i = 0; i < content->n; i++) {
        const struct qn_json *block = content->items[i];
        if (strcmp(type_of(block), "tool_use") != 0) continue;
        const struct qn_json *id = qn_json_get(block, "id"), *name = qn_json_get(block, "name");
        struct qn_json *input = qn_json_get(block, "input");
        QN_FAIL_IF(!qn_json_is(name, QN_JSON_STRING), e, QN_INVAL,
                   "messages[%zu].content[%zu]: a tool_use block needs a name", at, i);
        if (!input) input = qn_json_new(arena, QN_JSON_OBJECT);
        QN_FAIL_IF(!qn_chat_add_call(&a->chat, message, qn_json_is(id, QN_JSON_STRING) ? id->text : "",
                                     name->text, input),
                   e, QN_TOOBIG, "messages: the request is too large");
    }
out:
    qn_buf_free(&thought);
    return rc;
}

static int read_messages(struct qn_ask *a, struct qn_exchange *x, const struct qn_json *body,
                         struct qn_err *e)
{
    int rc = QN_OK;
    const struct qn_json *system = qn_json_get(body, "system");
    struct qn_json *messages;
    x->param = "system";
    if (!qn_json_is_null(system)) {
        QN_FAIL_IF(!qn_json_is(system, QN_JSON_STRING) && !qn_json_is(system, QN_JSON_ARRAY), e, QN_INVAL,
                   "system must be a string or an array of text blocks");
        struct qn_json *parts = qn_json_new(a->arena, QN_JSON_ARRAY);
        QN_FAIL_IF(!parts, e, QN_TOOBIG, "system: the request is too large");
        if (qn_json_is(system, QN_JSON_STRING)) {
            if (!qn_chat_is_billing_header(system->text, system->n))
                qn_json_push(a->arena, parts, text_part(a->arena, system->text, system->n));
        } else
            for (size_t i = 0; i < system->n; i++) {
                const struct qn_json *text = qn_json_get(system->items[i], "text");
                /* changes with every request and would defeat the prefix cache */
                if (qn_json_is(text, QN_JSON_STRING) && qn_chat_is_billing_header(text->text, text->n))
                    continue;
                /* blocks are paragraphs of their own */
                if (parts->n) qn_json_push(a->arena, parts, text_part(a->arena, "\n\n", 2));
                char path[64];
                snprintf(path, sizeof path, "system[%zu]", i);
                QN_FAIL_IF(!push_part(a->arena, parts, system->items[i], path), e, QN_TOOBIG,
                           "system: the request is too large");
            }
        if (parts->n)
            QN_FAIL_IF(!qn_chat_add_message(&a->chat, "system", parts), e, QN_TOOBIG,
                       "system: the request is too large");
    }
    x->param = "messages";
    QN_TRY(qn_json_get_arr(body, "messages", &messages, e));
    QN_FAIL_IF(!messages || !messages->n, e, QN_INVAL, "messages: at least one message is required");
    QN_FAIL_IF(messages->n > QN_CHAT_MAX_MESSAGES, e, QN_TOOBIG, "messages: more than %d",
               QN_CHAT_MAX_MESSAGES);
    bool is_prefill = false;
    for (size_t i = 0; i < messages->n; i++) {
        const struct qn_json *message = messages->items[i], *role = qn_json_get(message, "role");
        struct qn_json *content = qn_json_get(message, "content");
        QN_FAIL_IF(!qn_json_is(message, QN_JSON_OBJECT) || !qn_json_is(role, QN_JSON_STRING), e, QN_INVAL,
                   "messages[%zu] needs a role", i);
        is_prefill = !strcmp(role->text, "assistant");
        /* roles that some clients put in between are for the normaliser */
        const char *name = is_prefill || !strcmp(role->text, "user") ? role->text : "system";
        if (qn_json_is_null(content) || qn_json_is(content, QN_JSON_STRING)) {
            QN_FAIL_IF(!qn_chat_add_message(&a->chat, name, content), e, QN_TOOBIG,
                       "messages: the request is too large");
            continue;
        }
        QN_FAIL_IF(!qn_json_is(content, QN_JSON_ARRAY), e, QN_INVAL,
                   "messages[%zu].content must be a string or an array of blocks", i);
        if (is_prefill)
            QN_TRY(read_assistant(a, content, i, e));
        else
            QN_TRY(read_user(a, name, content, i, e));
    }
    /* a last assistant message is to be continued */
    if (is_prefill) {
        a->chat.continue_final = true;
        a->chat.add_generation_prompt = false;
    }
    x->param = NULL;
out:
    return rc;
}

static int read_tools(struct qn_ask *a, struct qn_exchange *x, const struct qn_json *body, struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_json *tools;
    x->param = "tools";
    QN_TRY(qn_json_get_arr(body, "tools", &tools, e));
    for (size_t i = 0; tools && i < tools->n; i++) {
        const struct qn_json *tool = tools->items[i], *name = qn_json_get(tool, "name");
        const char *type = type_of(tool);
        if (*type && strcmp(type, "custom") != 0) { /* runs at the vendor's side */
            a->chat.n_tools_skipped++;
            a->chat.loads_all |= !strncmp(type, "tool_search_tool", 16);
            QN_TRY(qn_ask_add_foreign_tool(a, type, qn_json_is(name, QN_JSON_STRING) ? name->text : type, e));
            continue;
        }
        QN_FAIL_IF(!qn_json_is(name, QN_JSON_STRING), e, QN_INVAL, "tools[%zu] has no name", i);
        QN_FAIL_IF(!qn_chat_add_tool(&a->chat, name->text, qn_json_get(tool, "description"),
                                     qn_json_get(tool, "input_schema")) ||
                       !qn_chat_flag_tool(&a->chat, tool),
                   e, QN_TOOBIG, "tools: the request is too large");
    }
    const struct qn_json *choice = qn_json_get(body, "tool_choice");
    QN_TRY(qn_ask_read_tool_choice(a, x, choice, e));
    const struct qn_json *single = qn_json_get(choice, "disable_parallel_tool_use");
    a->no_parallel = qn_json_is(single, QN_JSON_BOOL) && single->truth;
    x->param = NULL;
out:
    return rc;
}

static int read_thinking(struct qn_ask *a, struct qn_exchange *x, const struct qn_json *body,
                         struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_json *config;
    x->param = "thinking";
    QN_TRY(qn_chat_read_thinking(&a->chat, body, e));
    x->param = "output_config";
    QN_TRY(qn_json_get_obj(body, "output_config", &config, e));
    QN_TRY(qn_json_get_str(config, "effort", a->chat.effort, &a->chat.effort, e));
    static const char *const wheres[] = {"output_config.format", "output_format"};
    const struct qn_json *formats[] = {qn_json_get(config, "format"), qn_json_get(body, "output_format")};
    for (int i = 0; i < 2; i++)
        if (!qn_json_is_null(formats[i])) QN_TRY(qn_ask_add_format(a, x, formats[i], wheres[i], e));
    a->form_strict = a->form != NULL;
    QN_TRY(qn_ask_read_form(a, x, body, e));
    x->param = NULL;
out:
    return rc;
}

int qn_api_read_messages(struct qn_ask *a, struct qn_exchange *x, const struct qn_json *body, bool is_count,
                         struct qn_err *e)
{
    int rc = QN_OK;
    QN_TRY(qn_ask_read_head(a, x, &body, e));
    QN_FAIL_IF(!is_count && qn_json_is_null(qn_json_get(body, "max_tokens")), e, QN_INVAL,
               "max_tokens: field required");
    QN_TRY(qn_ask_read_sampling(a, x, body, e));
    QN_TRY(qn_ask_read_stops(a, x, body, "stop_sequences", e));
    a->n = 1;
    a->prompt_top = -1;
    QN_TRY(read_tools(a, x, body, e));
    QN_TRY(read_thinking(a, x, body, e));
    x->param = "chat_template_kwargs";
    QN_TRY(qn_json_get_obj(body, "chat_template_kwargs", &a->chat.kwargs, e));
    QN_TRY(read_messages(a, x, body, e));
    QN_TRY(qn_chat_defer_tools(&a->chat, &a->tools, a->tool_name, e));
out:
    return rc;
}

/* ------------------------------------------------------------------ answering */

enum block { BLOCK_NONE, BLOCK_THINKING, BLOCK_TEXT, BLOCK_TOOL };

struct state {
    enum block open;
    int index; /* of the open block, or of the next */
    bool has_answer;
};

/* prompt = input + cache_read + cache_creation */
static void write_usage(struct qn_stream *s, struct qn_buf *out)
{
    struct qn_usage u = qn_stream_usage(s);
    qn_buf_printf(out,
                  "{\"input_tokens\":%d,\"cache_creation_input_tokens\":0,\"cache_read_input_tokens\":%d,"
                  "\"output_tokens\":%d,\"output_tokens_details\":{\"thinking_tokens\":%d}}",
                  u.prompt - u.cached, u.cached, u.completion, u.reasoning);
}

static void begin(struct qn_stream *s)
{
    struct qn_buf *out = &s->out;
    s->state = xcalloc(1, sizeof(struct state));
    qn_sse_begin(out, "message_start");
    qn_buf_printf(
        out,
        "{\"type\":\"message_start\",\"message\":{\"id\":\"%s\",\"type\":\"message\",\"role\":\"assistant\","
        "\"model\":",
        s->id);
    qn_json_write_str(out, s->ask.model, strlen(s->ask.model), false);
    qn_buf_puts(out, ",\"content\":[],\"stop_reason\":null,\"stop_sequence\":null,\"usage\":");
    write_usage(s, out);
    qn_buf_puts(out, "}}");
    qn_sse_end(out);
}

static void close_block(struct qn_stream *s)
{
    struct state *t = s->state;
    struct qn_buf *out = &s->out;
    if (!t->open) return;
    if (t->open == BLOCK_THINKING) {
        qn_sse_begin(out, "content_block_delta");
        qn_buf_printf(
            out,
            "{\"type\":\"content_block_delta\",\"index\":%d,\"delta\":{\"type\":\"signature_delta\","
            "\"signature\":\"%s\"}}",
            t->index, s->id);
        qn_sse_end(out);
    }
    qn_sse_begin(out, "content_block_stop");
    qn_buf_printf(out, "{\"type\":\"content_block_stop\",\"index\":%d}", t->index);
    qn_sse_end(out);
    t->open = BLOCK_NONE;
    t->index++;
}

static void open_block(struct qn_stream *s, enum block kind, const char *id, const char *name, size_t n_name)
{
    struct state *t = s->state;
    struct qn_buf *out = &s->out;
    close_block(s);
    t->open = kind;
    t->has_answer |= kind != BLOCK_THINKING;
    qn_sse_begin(out, "content_block_start");
    qn_buf_printf(out, "{\"type\":\"content_block_start\",\"index\":%d,\"content_block\":", t->index);
    if (kind == BLOCK_THINKING)
        qn_buf_puts(out, "{\"type\":\"thinking\",\"thinking\":\"\",\"signature\":\"\"}}");
    else if (kind == BLOCK_TEXT)
        qn_buf_puts(out, "{\"type\":\"text\",\"text\":\"\"}}");
    else {
        qn_buf_printf(out, "{\"type\":\"tool_use\",\"id\":\"%s\",\"name\":", id);
        qn_json_write_str(out, name, n_name, false);
        qn_buf_puts(out, ",\"input\":{}}}");
    }
    qn_sse_end(out);
}

static void event(struct qn_stream *s, struct qn_output *c, const struct qn_parse_event *ev)
{
    static const char *const deltas[] = {"", "thinking_delta\",\"thinking", "text_delta\",\"text",
                                         "input_json_delta\",\"partial_json"};
    struct state *t = s->state;
    struct qn_buf *out = &s->out;
    enum block kind = ev->kind == QN_PARSE_REASONING ? BLOCK_THINKING
                      : ev->kind == QN_PARSE_CONTENT ? BLOCK_TEXT
                                                     : BLOCK_TOOL;
    if (ev->kind == QN_PARSE_CALL_BEGIN) {
        open_block(s, BLOCK_TOOL, c->call_ids[ev->index], ev->text, ev->n);
        return;
    }
    if (ev->kind == QN_PARSE_CALL_END) {
        close_block(s);
        return;
    }
    if (t->open != kind) open_block(s, kind, NULL, NULL, 0);
    qn_sse_begin(out, "content_block_delta");
    qn_buf_printf(out, "{\"type\":\"content_block_delta\",\"index\":%d,\"delta\":{\"type\":\"%s\":", t->index,
                  deltas[kind]);
    qn_json_write_str(out, ev->text, ev->n, false);
    qn_buf_puts(out, "}}");
    qn_sse_end(out);
}

static void write_stop(const struct qn_output *c, struct qn_buf *out)
{
    const char *reason = c->stop_index >= 0              ? "stop_sequence"
                         : c->reason == QN_REASON_LENGTH ? "max_tokens"
                         : c->reason == QN_REASON_CALLS  ? "tool_use"
                                                         : "end_turn";
    qn_buf_printf(out, "\"stop_reason\":\"%s\",\"stop_sequence\":", reason);
    if (c->stop_index >= 0) {
        const char *stop = c->stream->ask.stops[c->stop_index];
        qn_json_write_str(out, stop, strlen(stop), false);
    } else
        qn_buf_puts(out, "null");
}

static void finish(struct qn_stream *s, struct qn_output *c)
{
    struct state *t = s->state;
    struct qn_buf *out = &s->out;
    if (!t->has_answer) open_block(s, BLOCK_TEXT, NULL, NULL, 0);
    close_block(s);
    qn_sse_begin(out, "message_delta");
    qn_buf_puts(out, "{\"type\":\"message_delta\",\"delta\":{");
    write_stop(c, out);
    qn_buf_puts(out, "},\"usage\":");
    write_usage(s, out);
    qn_buf_putc(out, '}');
    qn_sse_end(out);
}

static void end(struct qn_stream *s)
{
    qn_sse_begin(&s->out, "message_stop");
    qn_buf_puts(&s->out, "{\"type\":\"message_stop\"}");
    qn_sse_end(&s->out);
}

static void fail(struct qn_stream *s, int status, const char *text)
{
    qn_sse_begin(&s->out, "error");
    qn_http_error_json(&s->out, s->x, status, text);
    qn_sse_end(&s->out);
}

static void ping(struct qn_stream *s)
{
    qn_sse_begin(&s->out, "ping");
    qn_buf_puts(&s->out, "{\"type\":\"ping\"}");
    qn_sse_end(&s->out);
}

static void whole(struct qn_stream *s, struct qn_buf *out)
{
    struct qn_output *c = &s->choices[0];
    bool has_answer = false;
    qn_buf_printf(out, "{\"id\":\"%s\",\"type\":\"message\",\"role\":\"assistant\",\"model\":", s->id);
    qn_json_write_str(out, s->ask.model, strlen(s->ask.model), false);
    qn_buf_puts(out, ",\"content\":[");
    if (c->parsed.reasoning.n_byte) {
        qn_buf_puts(out, "{\"type\":\"thinking\",\"thinking\":");
        qn_json_write_str(out, c->parsed.reasoning.data, c->parsed.reasoning.n_byte, false);
        qn_buf_printf(out, ",\"signature\":\"%s\"},", s->id);
    }
    if (c->parsed.content.n_byte) {
        qn_buf_puts(out, "{\"type\":\"text\",\"text\":");
        qn_json_write_str(out, c->parsed.content.data, c->parsed.content.n_byte, false);
        qn_buf_puts(out, "},");
        has_answer = true;
    }
    for (int i = 0; i < c->parsed.n_call; i++) {
        const struct qn_parsed_call *call = &c->parsed.calls[i];
        if (!call->is_complete) continue;
        qn_buf_printf(out, "{\"type\":\"tool_use\",\"id\":\"%s\",\"name\":", c->call_ids[i]);
        qn_json_write_str(out, call->name, strlen(call->name), false);
        qn_buf_puts(out, ",\"input\":");
        qn_buf_append(out, qn_buf_str(&call->arguments), call->arguments.n_byte);
        qn_buf_puts(out, "},");
        has_answer = true;
    }
    if (has_answer)
        out->data[--out->n_byte] = 0; /* the last comma */
    else
        qn_buf_puts(out, "{\"type\":\"text\",\"text\":\"\"}");
    qn_buf_puts(out, "],");
    write_stop(c, out);
    qn_buf_puts(out, ",\"usage\":");
    write_usage(s, out);
    qn_buf_putc(out, '}');
}

static const struct qn_dialect messages_dialect = {
    .id_prefix = "msg_",
    .call_prefix = "toolu_",
    .begin = begin,
    .event = event,
    .finish = finish,
    .end = end,
    .fail = fail,
    .ping = ping,
    .whole = whole,
    .free_state = free,
};

void qn_api_messages(struct qn_exchange *x)
{
    struct qn_err e = {0};
    struct qn_ask a;
    const struct qn_json *body = qn_http_body(x);
    if (!body) return;
    qn_ask_init(&a, x);
    if (qn_api_read_messages(&a, x, body, false, &e)) {
        qn_http_fail(x, &e);
        return;
    }
    qn_api_chat(x, &a, &messages_dialect, NULL);
}

void qn_api_count_tokens(struct qn_exchange *x)
{
    struct qn_err e = {0};
    struct qn_ask a;
    const struct qn_json *body = qn_http_body(x);
    if (!body) return;
    qn_ask_init(&a, x);
    if (qn_api_read_messages(&a, x, body, true, &e))
        qn_http_fail(x, &e);
    else
        qn_api_reply_count(x, &a, "");
}
