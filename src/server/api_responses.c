/* OpenAI responses: stateless, and stored with a bound.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/clock.h"
#include "server/api.h"
#include "server/sse.h"
#include "server/stored.h"
#include "server/responses.h"

/* ------------------------------------------------------------------ the response object */

static void write_call(const struct qn_output *c, struct qn_buf *out, const struct item *k,
                       const char *status)
{
    static const char *const types[] = {[ITEM_CALL] = "function_call",
                                        [ITEM_CUSTOM] = "custom_tool_call",
                                        [ITEM_SEARCH] = "tool_search_call"};
    const char *name = k->tool ? k->tool->name : k->name, *text = qn_buf_str(&k->text);
    qn_buf_printf(out, "{\"id\":\"%s\",\"type\":\"%s\",\"status\":\"%s\",\"call_id\":\"%s\"", k->id,
                  types[k->kind], status, c->call_ids[k->call]);
    if (k->kind == ITEM_SEARCH) { /* its arguments are an object */
        bool is_whole = !k->is_open && !k->is_cut && k->text.n_byte;
        qn_buf_printf(out, ",\"execution\":\"client\",\"arguments\":%s}", is_whole ? text : "{}");
        return;
    }
    if (k->tool && k->tool->name_space) {
        qn_buf_puts(out, ",\"namespace\":");
        qn_json_write_str(out, k->tool->name_space, strlen(k->tool->name_space), false);
    }
    qn_buf_puts(out, ",\"name\":");
    qn_json_write_str(out, name, strlen(name), false);
    qn_buf_printf(out, ",\"%s\":", k->kind == ITEM_CUSTOM ? "input" : "arguments");
    qn_json_write_str(out, k->is_open ? "" : text, k->is_open ? 0 : k->text.n_byte, false);
    qn_buf_putc(out, '}');
}

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
        write_call(c, out, k, status);
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
    static const char *const prefixes[] = {"rs_", "msg_", "fc_", "ctc_", "tsc_"};
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
    case ITEM_CALL: {
        if (is_cut) break;
        out = item_event(s, "response.function_call_arguments.done", NULL);
        const char *name = k->tool ? k->tool->name : k->name;
        text_member(out, "name", name, strlen(name));
        text_member(out, "arguments", text, k->text.n_byte);
        close_event(s);
        break;
    }
    case ITEM_SEARCH:
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
    const struct qn_responses_tool *tool = qn_responses_tool_of(s->state, ev->text);
    close_item(s, false);
    struct item *k = open_item(s, tool ? tool->kind : ITEM_CALL);
    k->tool = tool;
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
        if (last->kind != ITEM_CALL) break; /* its text is known at the end */
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
