/* OpenAI responses: stateless, and stored with a bound.
 * SPDX-License-Identifier: Apache-2.0 */
#include <strings.h>

#include "base/clock.h"
#include "server/api.h"
#include "server/form.h"
#include "server/sse.h"
#include "server/stored.h"
#include "server/stream.h"

enum item_kind { ITEM_REASONING, ITEM_MESSAGE, ITEM_CALL, ITEM_CUSTOM };

/* An output item, in order of appearance. */
struct item {
    enum item_kind kind;
    char id[40];
    bool is_open, is_cut;  /* still growing; left open by a length stop */
    int call;              /* index of the call */
    char *name;            /* of the call; in the arena */
    struct qn_buf text;    /* reasoning, message text, arguments */
    size_t lp_from, lp_to; /* log-probabilities of a message's tokens */
};

struct qn_responses_state {
    const struct qn_json *body;
    struct qn_json *items; /* the whole conversation's input items */
    bool wants_store;
    const char *previous;
    const char *custom[64]; /* names of custom tools */
    int n_custom;
    int64_t max_output;

    struct item *list; /* [n_item] */
    int n_item, sequence;
};

/* ------------------------------------------------------------------ reading */

static const char *str_of(const struct qn_json *v, const char *key)
{
    const struct qn_json *text = qn_json_get(v, key);
    return qn_json_is(text, QN_JSON_STRING) ? text->text : NULL;
}

static const char *type_of(const struct qn_json *v)
{
    const char *type = str_of(v, "type");
    return type ? type : "";
}

static struct qn_json *new_text(struct qn_arena *arena, const char *text)
{
    return qn_json_new_str(arena, text, strlen(text));
}

/* Is an input_file a picture, by its data address or its name? */
static bool is_picture(const struct qn_json *file)
{
    static const char *const tails[] = {".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".avif", ".heic"};
    const struct qn_json *data = qn_json_get(file, "file_data"), *url = qn_json_get(file, "file_url");
    const struct qn_json *name = qn_json_get(file, "filename");
    if (!qn_json_is(data, QN_JSON_STRING) && !qn_json_is(url, QN_JSON_STRING)) return false;
    if (qn_json_is(data, QN_JSON_STRING) && !strncmp(data->text, "data:image/", 11)) return true;
    if (!qn_json_is(name, QN_JSON_STRING)) name = url;
    for (size_t i = 0; qn_json_is(name, QN_JSON_STRING) && i < QN_COUNT(tails); i++) {
        size_t n = strlen(tails[i]);
        if (name->n >= n && !strcasecmp(name->text + name->n - n, tails[i])) return true;
    }
    return false;
}

/* input_text, output_text, input_image -> the parts of a chat message */
static struct qn_json *convert_parts(struct qn_arena *arena, struct qn_json *content)
{
    if (!qn_json_is(content, QN_JSON_ARRAY)) return content;
    struct qn_json *parts = qn_json_new(arena, QN_JSON_ARRAY);
    for (size_t i = 0; parts && i < content->n; i++) {
        struct qn_json *from = content->items[i], *part = qn_json_new(arena, QN_JSON_OBJECT);
        const char *type = type_of(from);
        if (!part) return NULL;
        if (!strcmp(type, "input_image")) {
            struct qn_json *inner = qn_json_new(arena, QN_JSON_OBJECT), *url = qn_json_get(from, "image_url");
            if (!inner) return NULL;
            struct qn_json *detail = qn_json_get(from, "detail"), *file = qn_json_get(from, "file_id");
            if (url) qn_json_set(arena, inner, "url", url);
            if (!qn_json_is_null(detail)) qn_json_set(arena, inner, "detail", detail);
            if (!qn_json_is_null(file)) qn_json_set(arena, part, "file_id", file);
            qn_json_set(arena, part, "type", new_text(arena, "image_url"));
            qn_json_set(arena, part, "image_url", inner);
        } else if (!strcmp(type, "input_file") && is_picture(from)) {
            struct qn_json *inner = qn_json_new(arena, QN_JSON_OBJECT),
                           *data = qn_json_get(from, "file_data");
            if (!inner) return NULL;
            qn_json_set(arena, inner, "url", data ? data : qn_json_get(from, "file_url"));
            qn_json_set(arena, part, "type", new_text(arena, "image_url"));
            qn_json_set(arena, part, "image_url", inner);
        } else {
            struct qn_json *text = qn_json_get(from, "text");
            if (!text) text = qn_json_get(from, "refusal");
            if (!qn_json_is(text, QN_JSON_STRING)) {
                if (!strcmp(type, "input_text") || !strcmp(type, "output_text") || !strcmp(type, "text"))
                    continue;
                part = from; /* the conversation's reader knows what to say about it */
            } else {
                qn_json_set(arena, part, "type", new_text(arena, "text"));
                qn_json_set(arena, part, "text", text);
            }
        }
        if (!qn_json_push(arena, parts, part)) return NULL;
    }
    return parts;
}

/* Text of a reasoning item: its content, else its summary. */
static struct qn_json *reasoning_text(struct qn_arena *arena, const struct qn_json *item)
{
    struct qn_buf text = QN_BUF_INIT((size_t)256 << 20);
    static const char *const keys[] = {"content", "summary"};
    for (size_t k = 0; k < QN_COUNT(keys) && !text.n_byte; k++) {
        const struct qn_json *list = qn_json_get(item, keys[k]);
        for (size_t i = 0; qn_json_is(list, QN_JSON_ARRAY) && i < list->n; i++) {
            const struct qn_json *part = qn_json_get(list->items[i], "text");
            if (!qn_json_is(part, QN_JSON_STRING)) continue;
            if (text.n_byte) qn_buf_putc(&text, '\n');
            qn_buf_append(&text, part->text, part->n);
        }
    }
    struct qn_json *out = qn_json_new_str(arena, qn_buf_str(&text), text.n_byte);
    qn_buf_free(&text);
    return out;
}

struct reader {
    struct qn_ask *a;
    struct qn_json *assistant; /* the assistant message that items are added to, or NULL */
    bool has_text, has_call;   /* of that message */
};

static struct qn_json *assistant_message(struct reader *r)
{
    if (!r->assistant) {
        r->assistant = qn_chat_add_message(&r->a->chat, "assistant", NULL);
        r->has_text = r->has_call = false;
    }
    return r->assistant;
}

static bool add_parts(struct qn_arena *arena, struct qn_json *parts, struct qn_json *content)
{
    if (qn_json_is(content, QN_JSON_ARRAY)) {
        for (size_t i = 0; i < content->n; i++)
            if (!qn_json_push(arena, parts, content->items[i])) return false;
        return true;
    }
    struct qn_json *part = qn_json_new(arena, QN_JSON_OBJECT);
    return part && qn_json_set(arena, part, "type", new_text(arena, "text")) &&
           qn_json_set(arena, part, "text", content) && qn_json_push(arena, parts, part);
}

/* Text of an assistant. Beside calls whose results are still to come it belongs to the same turn, before or
 * behind them (there are clients and proxies that send it last): a turn of its own would come between calls
 * and results. */
static bool add_text(struct reader *r, struct qn_json *content)
{
    struct qn_arena *arena = r->a->arena;
    if (r->has_text && !r->has_call) r->assistant = NULL;
    struct qn_json *message = assistant_message(r);
    if (!message) return false;
    if (!qn_json_is(content, QN_JSON_STRING) && !qn_json_is(content, QN_JSON_ARRAY)) {
        if (content && !r->has_text) qn_json_set(arena, message, "content", content);
        return true;
    }
    if (r->has_text) {
        struct qn_json *parts = qn_json_new(arena, QN_JSON_ARRAY);
        if (!parts || !add_parts(arena, parts, qn_json_get(message, "content")) ||
            !add_parts(arena, parts, new_text(arena, "\n")) || !add_parts(arena, parts, content))
            return false;
        content = parts;
    }
    r->has_text = true;
    return qn_json_set(arena, message, "content", content);
}

static int read_item(struct reader *r, const struct qn_json *item, size_t at, struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_arena *arena = r->a->arena;
    const char *type = type_of(item), *role = str_of(item, "role");
    struct qn_json *message;
    QN_FAIL_IF(!qn_json_is(item, QN_JSON_OBJECT), e, QN_INVAL, "input[%zu] is not an object", at);
    QN_FAIL_IF(!strcmp(type, "item_reference"), e, QN_INVAL,
               "input[%zu]: item_reference is not supported; send the item itself", at);
    if (!strcmp(type, "function_call") || !strcmp(type, "custom_tool_call")) {
        const char *name = str_of(item, "name"), *id = str_of(item, "call_id");
        struct qn_json *arguments = qn_json_get(item, "arguments");
        if (!strcmp(type, "custom_tool_call")) {
            arguments = qn_json_new(arena, QN_JSON_OBJECT);
            struct qn_json *input = qn_json_get(item, "input");
            if (arguments && input) qn_json_set(arena, arguments, "input", input);
        }
        if (!arguments) arguments = qn_json_new(arena, QN_JSON_OBJECT);
        QN_FAIL_IF(!name, e, QN_INVAL, "input[%zu]: a call needs a name", at);
        message = assistant_message(r);
        QN_FAIL_IF(!message || !qn_chat_add_call(&r->a->chat, message, id ? id : "", name, arguments), e,
                   QN_TOOBIG, "input: the request is too large");
        r->has_call = true;
    } else if (!strcmp(type, "function_call_output") || !strcmp(type, "custom_tool_call_output")) {
        struct qn_json *output = qn_json_get(item, "output"), *id = qn_json_get(item, "call_id");
        r->assistant = NULL;
        message = qn_chat_add_message(&r->a->chat, "tool", convert_parts(arena, output));
        QN_FAIL_IF(!message, e, QN_TOOBIG, "input: the request is too large");
        if (id) qn_json_set(arena, message, "tool_call_id", id);
    } else if (!strcmp(type, "reasoning")) {
        if (r->has_text || r->has_call) r->assistant = NULL;
        message = assistant_message(r);
        QN_FAIL_IF(!message, e, QN_TOOBIG, "input: the request is too large");
        qn_json_set(arena, message, "reasoning_content", reasoning_text(arena, item));
    } else if (!strcmp(type, "message") || (!*type && role)) {
        QN_FAIL_IF(!role, e, QN_INVAL, "input[%zu]: a message needs a role", at);
        struct qn_json *content = convert_parts(arena, qn_json_get(item, "content"));
        if (!strcmp(role, "assistant")) {
            QN_FAIL_IF(!add_text(r, content), e, QN_TOOBIG, "input: the request is too large");
        } else {
            r->assistant = NULL;
            QN_FAIL_IF(!qn_chat_add_message(&r->a->chat, role, content), e, QN_TOOBIG,
                       "input: the request is too large");
        }
    } /* other items are the vendor's own tools: nothing to say here */
out:
    return rc;
}

static int read_tool(struct qn_ask *a, struct qn_responses_state *t, const struct qn_json *tool,
                     const char *prefix, struct qn_err *e)
{
    int rc = QN_OK;
    const char *type = type_of(tool), *name = str_of(tool, "name");
    const struct qn_json *inner = qn_json_get(tool, "function");
    if (qn_json_is(inner, QN_JSON_OBJECT)) { /* the chat spelling */
        tool = inner;
        name = str_of(tool, "name");
    }
    char full[512];
    snprintf(full, sizeof full, "%s%s%s", prefix ? prefix : "", prefix ? "__" : "", name ? name : "");
    char *kept = qn_arena_strndup(a->arena, full, strlen(full));
    QN_FAIL_IF(!kept, e, QN_TOOBIG, "tools: the request is too large");
    if (!strcmp(type, "namespace") && !prefix) {
        struct qn_json *tools;
        QN_TRY(qn_json_get_arr(tool, "tools", &tools, e));
        for (size_t i = 0; tools && i < tools->n; i++) QN_TRY(read_tool(a, t, tools->items[i], kept, e));
        return QN_OK;
    }
    if (!strcmp(type, "custom")) { /* free text, as one string parameter */
        static const char schema[] = "{\"type\":\"object\",\"properties\":{\"input\":{\"type\":\"string\"}},"
                                     "\"required\":[\"input\"]}";
        struct qn_json *parameters;
        QN_FAIL_IF(!name, e, QN_INVAL, "tools: a custom tool needs a name");
        QN_TRY(qn_json_parse(&parameters, a->arena, schema, sizeof schema - 1, "schema", e));
        QN_FAIL_IF(!qn_chat_add_tool(&a->chat, kept, qn_json_get(tool, "description"), parameters), e,
                   QN_TOOBIG, "tools: the request is too large");
        if (t->n_custom < (int)QN_COUNT(t->custom)) t->custom[t->n_custom++] = kept;
        return QN_OK;
    }
    if (strcmp(type, "function") != 0) { /* the vendor's own */
        a->chat.n_tools_skipped++;
        return QN_OK;
    }
    QN_FAIL_IF(!name, e, QN_INVAL, "tools: a function needs a name");
    QN_FAIL_IF(
        !qn_chat_add_tool(&a->chat, kept, qn_json_get(tool, "description"), qn_json_get(tool, "parameters")),
        e, QN_TOOBIG, "tools: the request is too large");
out:
    return rc;
}

/* previous_response_id: the items of the conversation so far. */
static int read_previous(struct qn_responses_state *t, struct qn_exchange *x, struct qn_arena *arena,
                         struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_buf text = QN_BUF_INIT(QN_STORED_MAX_BYTES);
    if (!t->previous) return QN_OK;
    x->param = "previous_response_id";
    QN_FAIL_IF(
        !qn_stored_get(x->server->stored, t->previous, qn_server_owner(x->server, x), NULL, &text), e,
        QN_NOTFOUND,
        "previous_response_id '%.80s' is not known: it was not stored, or has been forgotten; send the whole "
        "conversation",
        t->previous);
    struct qn_json *items;
    QN_TRY(qn_json_parse(&items, arena, qn_buf_str(&text), text.n_byte, "the stored response", e));
    for (size_t i = 0; i < items->n; i++)
        QN_FAIL_IF(!qn_json_push(arena, t->items, items->items[i]), e, QN_TOOBIG,
                   "the conversation is too large");
    x->param = NULL;
out:
    qn_buf_free(&text);
    return rc;
}

static int read_form(struct qn_ask *a, struct qn_exchange *x, const struct qn_json *body, struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_json *text;
    x->param = "text";
    QN_TRY(qn_json_get_obj(body, "text", &text, e));
    const struct qn_json *format = qn_json_get(text, "format");
    if (!qn_json_is_null(format)) QN_TRY(qn_ask_add_format(a, x, format, "text.format", e));
    QN_TRY(qn_ask_read_form(a, x, body, e));
out:
    return rc;
}

/* include: ["message.output_text.logprobs"], and top_logprobs, which asks for them as well. */
static int read_logprobs(struct qn_ask *a, struct qn_exchange *x, const struct qn_json *body,
                         struct qn_err *e)
{
    int rc = QN_OK;
    int64_t top = 0;
    struct qn_json *include;
    x->param = "include";
    QN_TRY(qn_json_get_arr(body, "include", &include, e));
    for (size_t i = 0; include && i < include->n; i++)
        a->wants_logprobs |= qn_json_is_str(include->items[i], "message.output_text.logprobs");
    QN_TRY(qn_ask_read_int(x, body, "top_logprobs", 0, QN_MAX_TOP, &top, e));
    a->wants_logprobs |= top > 0;
    a->sample.n_top = a->wants_logprobs ? (int)top : -1;
    x->param = NULL;
out:
    return rc;
}

int qn_api_read_responses(struct qn_ask *a, struct qn_exchange *x, const struct qn_json *body,
                          struct qn_responses_state **state, struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_arena *arena = a->arena;
    struct qn_responses_state *t = qn_arena_alloc(arena, sizeof *t);
    struct qn_json *tools;
    const struct qn_json *input;
    bool parallel = true, is_background = false;
    const char *instructions;
    QN_TRY(qn_ask_read_head(a, x, &body, e));
    QN_FAIL_IF(!t || !(t->items = qn_json_new(arena, QN_JSON_ARRAY)), e, QN_TOOBIG,
               "the request is too large");
    t->body = body;
    input = qn_json_get(body, "input");
    QN_TRY(qn_ask_read_sampling(a, x, body, e));
    a->n = 1;
    a->prompt_top = -1;
    QN_TRY(qn_ask_read_int(x, body, "max_output_tokens", 1, INT64_MAX, &a->max_new, e));
    t->max_output = qn_json_is_null(qn_json_get(body, "max_output_tokens")) ? 0 : a->max_new;
    x->param = "background";
    QN_TRY(qn_json_get_bool(body, "background", false, &is_background, e));
    QN_FAIL_IF(is_background, e, QN_INVAL, "background: true is not supported; stream the response instead");
    x->param = "conversation";
    QN_FAIL_IF(!qn_json_is_null(qn_json_get(body, "conversation")), e, QN_INVAL,
               "conversation is not supported; use previous_response_id or send the whole conversation");
    x->param = "store";
    QN_TRY(qn_json_get_bool(body, "store", true, &t->wants_store, e));
    x->param = "previous_response_id";
    QN_TRY(qn_json_get_str(body, "previous_response_id", NULL, &t->previous, e));
    QN_TRY(read_logprobs(a, x, body, e));
    x->param = "reasoning";
    QN_TRY(qn_chat_read_thinking(&a->chat, body, e));
    x->param = "chat_template_kwargs";
    QN_TRY(qn_json_get_obj(body, "chat_template_kwargs", &a->chat.kwargs, e));
    QN_TRY(read_form(a, x, body, e));
    x->param = "tools";
    QN_TRY(qn_json_get_arr(body, "tools", &tools, e));
    for (size_t i = 0; tools && i < tools->n; i++) QN_TRY(read_tool(a, t, tools->items[i], NULL, e));
    a->tools = a->chat.tools;
    QN_TRY(qn_ask_read_tool_choice(a, x, qn_json_get(body, "tool_choice"), e));
    x->param = "parallel_tool_calls";
    QN_TRY(qn_json_get_bool(body, "parallel_tool_calls", true, &parallel, e));
    a->no_parallel = !parallel;

    QN_TRY(read_previous(t, x, arena, e));
    x->param = "input";
    if (qn_json_is(input, QN_JSON_STRING)) {
        struct qn_json *item = qn_json_new(arena, QN_JSON_OBJECT);
        QN_FAIL_IF(!item, e, QN_TOOBIG, "input: the request is too large");
        qn_json_set(arena, item, "type", new_text(arena, "message"));
        qn_json_set(arena, item, "role", new_text(arena, "user"));
        qn_json_set(arena, item, "content", (struct qn_json *)(uintptr_t)input);
        QN_FAIL_IF(!qn_json_push(arena, t->items, item), e, QN_TOOBIG, "input: the request is too large");
    } else if (!qn_json_is_null(input)) {
        QN_FAIL_IF(!qn_json_is(input, QN_JSON_ARRAY), e, QN_INVAL,
                   "input must be a string or an array of items");
        for (size_t i = 0; i < input->n; i++)
            QN_FAIL_IF(!qn_json_push(arena, t->items, input->items[i]), e, QN_TOOBIG,
                       "input: the request is too large");
    }
    QN_FAIL_IF(!t->items->n, e, QN_INVAL, "input is missing");
    x->param = "instructions";
    QN_TRY(qn_json_get_str(body, "instructions", NULL, &instructions, e));
    if (instructions && *instructions)
        QN_FAIL_IF(!qn_chat_add_message(&a->chat, "system", new_text(arena, instructions)), e, QN_TOOBIG,
                   "instructions: the request is too large");
    x->param = "input";
    struct reader r = {.a = a};
    for (size_t i = 0; i < t->items->n; i++) QN_TRY(read_item(&r, t->items->items[i], i, e));
    x->param = NULL;
    *state = t;
out:
    return rc;
}

/* ------------------------------------------------------------------ the response object */

static void write_item(const struct qn_stream *s, struct qn_buf *out, const struct item *k)
{
    const struct qn_output *c = &s->choices[0];
    const char *status = k->is_cut ? "incomplete" : k->is_open ? "in_progress" : "completed";
    const char *text = qn_buf_str(&k->text);
    size_t n = k->text.n_byte;
    switch (k->kind) {
    case ITEM_REASONING:
        qn_buf_printf(out, "{\"id\":\"%s\",\"type\":\"reasoning\",\"status\":\"%s\",\"summary\":[", k->id,
                      status);
        if (!k->is_open) {
            qn_buf_puts(out, "{\"type\":\"summary_text\",\"text\":");
            qn_json_write_str(out, text, n, false);
            qn_buf_puts(out, "}],\"content\":[{\"type\":\"reasoning_text\",\"text\":");
            qn_json_write_str(out, text, n, false);
            qn_buf_putc(out, '}');
        } else
            qn_buf_puts(out, "],\"content\":[");
        qn_buf_puts(out, "],\"encrypted_content\":null}");
        break;
    case ITEM_MESSAGE:
        qn_buf_printf(
            out, "{\"id\":\"%s\",\"type\":\"message\",\"status\":\"%s\",\"role\":\"assistant\",\"content\":[",
            k->id, status);
        if (!k->is_open) {
            qn_buf_puts(out, "{\"type\":\"output_text\",\"text\":");
            qn_json_write_str(out, text, n, false);
            qn_buf_puts(out, ",\"annotations\":[],\"logprobs\":");
            qn_stream_write_logprobs(s, out, c->lps, k->lp_from, k->lp_to);
            qn_buf_putc(out, '}');
        }
        qn_buf_puts(out, "]}");
        break;
    default:
        qn_buf_printf(
            out, "{\"id\":\"%s\",\"type\":\"%s\",\"status\":\"%s\",\"call_id\":\"%s\",\"name\":", k->id,
            k->kind == ITEM_CUSTOM ? "custom_tool_call" : "function_call", status, c->call_ids[k->call]);
        qn_json_write_str(out, k->name, strlen(k->name), false);
        qn_buf_printf(out, ",\"%s\":", k->kind == ITEM_CUSTOM ? "input" : "arguments");
        qn_json_write_str(out, k->is_open ? "" : text, k->is_open ? 0 : n, false);
        qn_buf_putc(out, '}');
        break;
    }
}

/* A member of the request as it was, or what stands for its absence. */
static void write_member(const struct qn_responses_state *t, struct qn_buf *out, const char *key,
                         const char *dflt)
{
    const struct qn_json *v = qn_json_get(t->body, key);
    qn_buf_printf(out, ",\"%s\":", key);
    if (qn_json_is_null(v))
        qn_buf_puts(out, dflt);
    else
        qn_json_write(out, v, QN_JSON_COMPACT);
}

static void write_response(struct qn_stream *s, struct qn_buf *out, const char *status, const char *error)
{
    const struct qn_responses_state *t = s->state;
    bool is_over = strcmp(status, "in_progress") != 0;
    qn_buf_printf(
        out, "{\"id\":\"%s\",\"object\":\"response\",\"created_at\":%" PRId64 ",\"status\":\"%s\",\"error\":",
        s->id, s->created, status);
    if (error) {
        qn_buf_puts(out, "{\"code\":\"server_error\",\"message\":");
        qn_json_write_str(out, error, strlen(error), false);
        qn_buf_putc(out, '}');
    } else
        qn_buf_puts(out, "null");
    qn_buf_printf(out, ",\"incomplete_details\":%s",
                  !strcmp(status, "incomplete") ? "{\"reason\":\"max_output_tokens\"}" : "null");
    write_member(t, out, "instructions", "null");
    write_member(t, out, "max_output_tokens", "null");
    qn_buf_puts(out, ",\"model\":");
    qn_json_write_str(out, s->ask.model, strlen(s->ask.model), false);
    qn_buf_puts(out, ",\"output\":[");
    for (int i = 0; is_over && i < t->n_item; i++) {
        if (i) qn_buf_putc(out, ',');
        write_item(s, out, &t->list[i]);
    }
    qn_buf_putc(out, ']');
    write_member(t, out, "parallel_tool_calls", "true");
    write_member(t, out, "previous_response_id", "null");
    write_member(t, out, "reasoning", "{\"effort\":null,\"summary\":null}");
    qn_buf_printf(out, ",\"store\":%s,\"temperature\":%.6g,\"top_p\":%.6g", t->wants_store ? "true" : "false",
                  (double)s->ask.sample.temperature, (double)s->ask.sample.top_p);
    write_member(t, out, "text", "{\"format\":{\"type\":\"text\"}}");
    write_member(t, out, "tool_choice", "\"auto\"");
    write_member(t, out, "tools", "[]");
    write_member(t, out, "truncation", "\"disabled\"");
    write_member(t, out, "user", "null");
    write_member(t, out, "metadata", "{}");
    qn_buf_puts(out, ",\"background\":false,\"service_tier\":\"default\",\"usage\":");
    if (is_over) {
        struct qn_usage u = qn_stream_usage(s);
        qn_buf_printf(
            out,
            "{\"input_tokens\":%d,\"input_tokens_details\":{\"cached_tokens\":%d},\"output_tokens\":%d,"
            "\"output_tokens_details\":{\"reasoning_tokens\":%d},\"total_tokens\":%d}",
            u.prompt, u.cached, u.completion, u.reasoning, u.prompt + u.completion);
    } else
        qn_buf_puts(out, "null");
    qn_buf_putc(out, '}');
}

static const char *final_status(const struct qn_stream *s)
{
    return s->choices[0].reason == QN_REASON_LENGTH ? "incomplete" : "completed";
}

static void store(struct qn_stream *s, const char *response, size_t n)
{
    const struct qn_responses_state *t = s->state;
    if (!t->wants_store) return;
    struct qn_buf items = QN_BUF_INIT(QN_STORED_MAX_BYTES);
    qn_buf_putc(&items, '[');
    for (size_t i = 0; i < t->items->n; i++) {
        if (i) qn_buf_putc(&items, ',');
        qn_json_write(&items, t->items->items[i], QN_JSON_COMPACT);
    }
    for (int i = 0; i < t->n_item; i++) {
        if (t->list[i].is_cut) continue;
        qn_buf_putc(&items, ',');
        write_item(s, &items, &t->list[i]);
    }
    qn_buf_putc(&items, ']');
    if (!items.failed)
        qn_stored_put(s->server->stored, s->id, qn_server_owner(s->server, s->x), response, n, items.data,
                      items.n_byte);
    qn_buf_free(&items);
}

/* ------------------------------------------------------------------ events */

/* event: TYPE, data: {"type":TYPE,"sequence_number":N and no closing brace */
static struct qn_buf *open_event(struct qn_stream *s, const char *type)
{
    struct qn_responses_state *t = s->state;
    qn_sse_begin(&s->out, type);
    qn_buf_printf(&s->out, "{\"type\":\"%s\",\"sequence_number\":%d", type, t->sequence++);
    return &s->out;
}

static void close_event(struct qn_stream *s)
{
    qn_buf_putc(&s->out, '}');
    qn_sse_end(&s->out);
}

static void response_event(struct qn_stream *s, const char *type, const char *status, const char *error)
{
    struct qn_buf *out = open_event(s, type);
    qn_buf_puts(out, ",\"response\":");
    write_response(s, out, status, error);
    close_event(s);
}

/* item_id and output_index of the last item, and the index of its part */
static struct qn_buf *item_event(struct qn_stream *s, const char *type, const char *part_key)
{
    const struct qn_responses_state *t = s->state;
    struct qn_buf *out = open_event(s, type);
    qn_buf_printf(out, ",\"item_id\":\"%s\",\"output_index\":%d", t->list[t->n_item - 1].id, t->n_item - 1);
    if (part_key) qn_buf_printf(out, ",\"%s\":0", part_key);
    return out;
}

static void text_member(struct qn_buf *out, const char *key, const char *text, size_t n)
{
    qn_buf_printf(out, ",\"%s\":", key);
    qn_json_write_str(out, text, n, false);
}

static void whole_item_event(struct qn_stream *s, const char *type)
{
    const struct qn_responses_state *t = s->state;
    struct qn_buf *out = open_event(s, type);
    qn_buf_printf(out, ",\"output_index\":%d,\"item\":", t->n_item - 1);
    write_item(s, out, &t->list[t->n_item - 1]);
    close_event(s);
}

static void begin(struct qn_stream *s)
{
    response_event(s, "response.created", "in_progress", NULL);
    response_event(s, "response.in_progress", "in_progress", NULL);
}

static struct item *open_item(struct qn_stream *s, enum item_kind kind)
{
    static const char *const prefixes[] = {"rs_", "msg_", "fc_", "ctc_"};
    struct qn_responses_state *t = s->state;
    t->list = xreallocarray(t->list, (size_t)t->n_item + 1, sizeof *t->list);
    struct item *k = &t->list[t->n_item++];
    memset(k, 0, sizeof *k);
    k->kind = kind;
    k->is_open = true;
    qn_buf_init(&k->text, (size_t)256 << 20);
    qn_http_make_id(k->id, sizeof k->id, prefixes[kind], 24);
    return k;
}

/* A custom tool's text: the string behind "input" in its arguments. */
static void unwrap_custom(struct qn_stream *s, struct item *k)
{
    struct qn_json *v;
    if (qn_json_parse(&v, s->x->arena, qn_buf_str(&k->text), k->text.n_byte, "arguments", NULL)) return;
    const struct qn_json *input = qn_json_get(v, "input");
    qn_buf_clear(&k->text);
    if (qn_json_is(input, QN_JSON_STRING)) qn_buf_append(&k->text, input->text, input->n);
}

static void close_item(struct qn_stream *s, bool is_cut)
{
    struct qn_responses_state *t = s->state;
    struct item *k = t->n_item ? &t->list[t->n_item - 1] : NULL;
    struct qn_buf *out;
    if (!k || !k->is_open) return;
    k->is_open = false;
    k->is_cut = is_cut;
    const char *text = qn_buf_str(&k->text);
    switch (k->kind) {
    case ITEM_REASONING:
        out = item_event(s, "response.reasoning_summary_text.done", "summary_index");
        text_member(out, "text", text, k->text.n_byte);
        close_event(s);
        out = item_event(s, "response.reasoning_summary_part.done", "summary_index");
        qn_buf_puts(out, ",\"part\":{\"type\":\"summary_text\"");
        text_member(out, "text", text, k->text.n_byte);
        qn_buf_putc(out, '}');
        close_event(s);
        break;
    case ITEM_MESSAGE:
        out = item_event(s, "response.output_text.done", "content_index");
        text_member(out, "text", text, k->text.n_byte);
        qn_buf_puts(out, ",\"logprobs\":");
        qn_stream_write_logprobs(s, out, s->choices[0].lps, k->lp_from, k->lp_to);
        close_event(s);
        out = item_event(s, "response.content_part.done", "content_index");
        qn_buf_puts(out, ",\"part\":{\"type\":\"output_text\"");
        text_member(out, "text", text, k->text.n_byte);
        qn_buf_puts(out, ",\"annotations\":[],\"logprobs\":");
        qn_stream_write_logprobs(s, out, s->choices[0].lps, k->lp_from, k->lp_to);
        qn_buf_putc(out, '}');
        close_event(s);
        break;
    case ITEM_CALL:
        if (is_cut) break;
        out = item_event(s, "response.function_call_arguments.done", NULL);
        text_member(out, "name", k->name, strlen(k->name));
        text_member(out, "arguments", text, k->text.n_byte);
        close_event(s);
        break;
    case ITEM_CUSTOM:
        if (is_cut) break;
        unwrap_custom(s, k);
        out = item_event(s, "response.custom_tool_call_input.done", NULL);
        text_member(out, "input", qn_buf_str(&k->text), k->text.n_byte);
        close_event(s);
        break;
    }
    whole_item_event(s, "response.output_item.done");
}

static void start_item(struct qn_stream *s, enum item_kind kind)
{
    struct qn_buf *out;
    close_item(s, false);
    open_item(s, kind);
    whole_item_event(s, "response.output_item.added");
    if (kind == ITEM_REASONING) {
        out = item_event(s, "response.reasoning_summary_part.added", "summary_index");
        qn_buf_puts(out, ",\"part\":{\"type\":\"summary_text\",\"text\":\"\"}");
        close_event(s);
    } else {
        out = item_event(s, "response.content_part.added", "content_index");
        qn_buf_puts(out,
                    ",\"part\":{\"type\":\"output_text\",\"text\":\"\",\"annotations\":[],\"logprobs\":[]}");
        close_event(s);
    }
}

static void start_call(struct qn_stream *s, const struct qn_parse_event *ev)
{
    struct qn_responses_state *t = s->state;
    bool is_custom = false;
    for (int i = 0; i < t->n_custom; i++) is_custom |= !strcmp(t->custom[i], ev->text);
    close_item(s, false);
    struct item *k = open_item(s, is_custom ? ITEM_CUSTOM : ITEM_CALL);
    k->call = ev->index;
    k->name = qn_arena_strndup(s->x->arena, ev->text, ev->n);
    if (!k->name) k->name = (char *)(uintptr_t) "";
    whole_item_event(s, "response.output_item.added");
}

static void event(struct qn_stream *s, struct qn_output *c, const struct qn_parse_event *ev)
{
    struct qn_responses_state *t = s->state;
    struct item *last = t->n_item ? &t->list[t->n_item - 1] : NULL;
    struct qn_buf *out;
    switch (ev->kind) {
    case QN_PARSE_REASONING:
    case QN_PARSE_CONTENT: {
        enum item_kind kind = ev->kind == QN_PARSE_CONTENT ? ITEM_MESSAGE : ITEM_REASONING;
        if (!last || !last->is_open || last->kind != kind) {
            start_item(s, kind);
            /* tokens of thinking, and of calls before, are not the message's */
            last = &t->list[t->n_item - 1];
            last->lp_from = last->lp_to = QN_MAX(c->lp_sent, QN_MIN((size_t)c->n_reasoning, c->n_lp));
        }
        qn_buf_append(&last->text, ev->text, ev->n);
        out = kind == ITEM_MESSAGE ? item_event(s, "response.output_text.delta", "content_index")
                                   : item_event(s, "response.reasoning_summary_text.delta", "summary_index");
        text_member(out, "delta", ev->text, ev->n);
        if (kind == ITEM_MESSAGE) {
            qn_buf_puts(out, ",\"logprobs\":");
            qn_stream_write_logprobs(s, out, c->lps, last->lp_to, c->n_lp);
            last->lp_to = c->n_lp;
        }
        c->lp_sent = c->n_lp;
        close_event(s);
        break;
    }
    case QN_PARSE_CALL_BEGIN:
        start_call(s, ev);
        break;
    case QN_PARSE_CALL_ARGS:
        if (!last) break;
        c->lp_sent = c->n_lp;
        qn_buf_append(&last->text, ev->text, ev->n);
        if (last->kind == ITEM_CUSTOM) break; /* its text is known at the end */
        out = item_event(s, "response.function_call_arguments.delta", NULL);
        text_member(out, "delta", ev->text, ev->n);
        close_event(s);
        break;
    case QN_PARSE_CALL_END:
        c->lp_sent = c->n_lp;
        close_item(s, false);
        break;
    default:
        break;
    }
}

static void finish(struct qn_stream *s, struct qn_output *c)
{
    close_item(s, c->reason == QN_REASON_LENGTH);
}

static void end(struct qn_stream *s)
{
    const char *status = final_status(s);
    struct qn_buf response = QN_BUF_INIT((size_t)1 << 30);
    write_response(s, &response, status, NULL);
    struct qn_buf *out =
        open_event(s, !strcmp(status, "incomplete") ? "response.incomplete" : "response.completed");
    qn_buf_puts(out, ",\"response\":");
    qn_buf_append(out, qn_buf_str(&response), response.n_byte);
    close_event(s);
    store(s, qn_buf_str(&response), response.n_byte);
    qn_buf_free(&response);
}

static void fail(struct qn_stream *s, int status, const char *text)
{
    (void)status;
    response_event(s, "response.failed", "failed", text);
}

static void ping(struct qn_stream *s)
{
    qn_sse_comment(&s->out, "prefill");
}

static void whole(struct qn_stream *s, struct qn_buf *out)
{
    write_response(s, out, final_status(s), NULL);
    store(s, qn_buf_str(out), out->n_byte);
}

static void free_state(void *state)
{
    struct qn_responses_state *t = state;
    for (int i = 0; i < t->n_item; i++) qn_buf_free(&t->list[i].text);
    free(t->list);
}

static const struct qn_dialect responses_dialect = {
    .collects = true,
    .id_prefix = "resp_",
    .call_prefix = "call_",
    .begin = begin,
    .event = event,
    .finish = finish,
    .end = end,
    .fail = fail,
    .ping = ping,
    .whole = whole,
    .free_state = free_state,
};

void qn_api_responses(struct qn_exchange *x)
{
    struct qn_err e = {0};
    struct qn_ask a;
    struct qn_responses_state *state;
    const struct qn_json *body = qn_http_body(x);
    if (!body) return;
    qn_ask_init(&a, x);
    if (qn_api_read_responses(&a, x, body, &state, &e)) {
        qn_http_fail(x, &e);
        return;
    }
    qn_api_chat(x, &a, &responses_dialect, state);
}

void qn_api_count_input(struct qn_exchange *x)
{
    struct qn_err e = {0};
    struct qn_ask a;
    struct qn_responses_state *state;
    const struct qn_json *body = qn_http_body(x);
    if (!body) return;
    qn_ask_init(&a, x);
    if (qn_api_read_responses(&a, x, body, &state, &e))
        qn_http_fail(x, &e);
    else
        qn_api_reply_count(x, &a, "\"object\":\"response.input_tokens\",");
}

void qn_api_responses_get(struct qn_exchange *x)
{
    bool is_delete = !strcmp(x->method, "DELETE");
    struct qn_buf out = QN_BUF_INIT(QN_STORED_MAX_BYTES);
    uint64_t owner = qn_server_owner(x->server, x);
    bool found = is_delete ? qn_stored_remove(x->server->stored, x->tail, owner)
                           : qn_stored_get(x->server->stored, x->tail, owner, &out, NULL);
    if (!found) {
        x->param = "response_id";
        qn_buf_free(&out);
        qn_http_fail_with(x, 404, "response_not_found", "the response '%.80s' is not stored here", x->tail);
        return;
    }
    if (is_delete) {
        qn_buf_puts(&out, "{\"id\":");
        qn_json_write_str(&out, x->tail, strlen(x->tail), false);
        qn_buf_puts(&out, ",\"object\":\"response.deleted\",\"deleted\":true}");
    }
    qn_http_reply_json(x, 200, &out);
}
