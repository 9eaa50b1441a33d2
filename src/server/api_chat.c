/* OpenAI chat completions.
 * SPDX-License-Identifier: Apache-2.0 */
#include "server/api.h"
#include "server/form.h"
#include "server/openai.h"

static void write_chat_logprobs(const struct qn_stream *s, struct qn_buf *out,
                                const struct qn_step_token *lps, size_t from, size_t to)
{
    qn_buf_puts(out, "{\"content\":");
    qn_stream_write_logprobs(s, out, lps, from, to);
    qn_buf_puts(out, ",\"refusal\":null}");
}

static void chat_begin(struct qn_stream *s)
{
    qn_openai_write_head(s, &s->head, "chat.completion.chunk");
    for (int i = 0; i < s->n_choice; i++) {
        qn_openai_open_chunk(s);
        qn_buf_printf(&s->out,
                      ",\"choices\":[{\"index\":%d,\"delta\":{\"role\":\"assistant\",\"content\":\"\"},"
                      "\"logprobs\":null,\"finish_reason\":null}]",
                      i);
        qn_openai_close_chunk(s, false);
    }
}

/* After the delta: log-probabilities not yet sent, no finish reason. */
static void close_delta(struct qn_stream *s, struct qn_output *c)
{
    qn_buf_puts(&s->out, "},\"logprobs\":");
    if (c->lp_sent < c->n_lp)
        write_chat_logprobs(s, &s->out, c->lps, c->lp_sent, c->n_lp);
    else
        qn_buf_puts(&s->out, "null");
    c->lp_sent = c->n_lp;
    qn_buf_puts(&s->out, ",\"finish_reason\":null}]");
    qn_openai_close_chunk(s, false);
}

static void open_delta(struct qn_stream *s, struct qn_output *c)
{
    qn_openai_open_chunk(s);
    qn_buf_printf(&s->out, ",\"choices\":[{\"index\":%d,\"delta\":{", c->index);
}

static void chat_event(struct qn_stream *s, struct qn_output *c, const struct qn_parse_event *event)
{
    struct qn_buf *out = &s->out;
    if (event->kind == QN_PARSE_CALL_END) return;
    open_delta(s, c);
    switch (event->kind) {
    case QN_PARSE_REASONING:
        qn_buf_puts(out, "\"reasoning_content\":");
        qn_json_write_str(out, event->text, event->n, false);
        if (s->server->o.mirror_reasoning) {
            qn_buf_puts(out, ",\"reasoning\":");
            qn_json_write_str(out, event->text, event->n, false);
        }
        break;
    case QN_PARSE_CONTENT:
        qn_buf_puts(out, "\"content\":");
        qn_json_write_str(out, event->text, event->n, false);
        break;
    case QN_PARSE_CALL_BEGIN:
        qn_buf_printf(
            out, "\"tool_calls\":[{\"index\":%d,\"id\":\"%s\",\"type\":\"function\",\"function\":{\"name\":",
            event->index, c->call_ids[event->index]);
        qn_json_write_str(out, event->text, event->n, false);
        qn_buf_puts(out, ",\"arguments\":\"\"}}]");
        break;
    default:
        qn_buf_printf(out, "\"tool_calls\":[{\"index\":%d,\"function\":{\"arguments\":", event->index);
        qn_json_write_str(out, event->text, event->n, false);
        qn_buf_puts(out, "}}]");
        break;
    }
    close_delta(s, c);
}

static void chat_silent(struct qn_stream *s, struct qn_output *c)
{
    open_delta(s, c);
    close_delta(s, c);
}

/* A named function reports "stop", as the original does. */
static const char *chat_finish_reason(const struct qn_output *c)
{
    if (c->reason == QN_REASON_CALLS && c->stream->ask.tool_mode == QN_TOOL_NAMED) return "stop";
    return qn_reason_name(c->reason);
}

static void chat_finish(struct qn_stream *s, struct qn_output *c)
{
    struct qn_buf *out = &s->out;
    if (c->lp_sent < c->n_lp) chat_silent(s, c);
    qn_openai_open_chunk(s);
    qn_buf_printf(out, ",\"choices\":[{\"index\":%d,\"delta\":{},\"logprobs\":null,\"finish_reason\":\"%s\"",
                  c->index, chat_finish_reason(c));
    qn_buf_puts(out, ",\"stop_reason\":");
    qn_openai_write_stop_reason(c, out);
    if (s->ask.return_token_ids) {
        qn_buf_puts(out, ",\"token_ids\":");
        qn_openai_write_ids(c, out);
    }
    qn_buf_puts(out, "}]");
    if (s->ask.wants_timings && !s->ask.wants_usage && s->n_over == s->n_choice) {
        qn_buf_puts(out, ",\"timings\":");
        qn_openai_write_timings(s, out);
    }
    qn_openai_close_chunk(s, false);
}

static void write_calls(const struct qn_output *c, struct qn_buf *out)
{
    int n = 0;
    for (int i = 0; i < c->parsed.n_call; i++) {
        const struct qn_parsed_call *call = &c->parsed.calls[i];
        if (!call->is_complete) continue;
        qn_buf_printf(out, "%s{\"id\":\"%s\",\"type\":\"function\",\"function\":{\"name\":",
                      n++ ? "," : ",\"tool_calls\":[", c->call_ids[i]);
        qn_json_write_str(out, call->name, strlen(call->name), false);
        qn_buf_puts(out, ",\"arguments\":");
        qn_json_write_str(out, qn_buf_str(&call->arguments), call->arguments.n_byte, false);
        qn_buf_puts(out, "}}");
    }
    if (n) qn_buf_putc(out, ']');
}

static void write_text_or_null(struct qn_buf *out, const struct qn_buf *text)
{
    if (text->n_byte)
        qn_json_write_str(out, text->data, text->n_byte, false);
    else
        qn_buf_puts(out, "null");
}

static void chat_whole(struct qn_stream *s, struct qn_buf *out)
{
    qn_openai_write_head(s, out, "chat.completion");
    qn_buf_puts(out, ",\"service_tier\":null,\"choices\":[");
    for (int i = 0; i < s->n_choice; i++) {
        struct qn_output *c = &s->choices[i];
        qn_buf_printf(out, "%s{\"index\":%d,\"message\":{\"role\":\"assistant\",\"content\":", i ? "," : "",
                      i);
        write_text_or_null(out, &c->parsed.content);
        if (c->parsed.reasoning.n_byte) {
            qn_buf_puts(out, ",\"reasoning_content\":");
            write_text_or_null(out, &c->parsed.reasoning);
            if (s->server->o.mirror_reasoning) {
                qn_buf_puts(out, ",\"reasoning\":");
                write_text_or_null(out, &c->parsed.reasoning);
            }
        }
        write_calls(c, out);
        qn_buf_puts(out, ",\"refusal\":null},\"logprobs\":");
        if (s->ask.wants_logprobs)
            write_chat_logprobs(s, out, c->lps, 0, c->n_lp);
        else
            qn_buf_puts(out, "null");
        qn_buf_printf(out, ",\"finish_reason\":\"%s\",\"stop_reason\":", chat_finish_reason(c));
        qn_openai_write_stop_reason(c, out);
        if (s->ask.return_token_ids) {
            qn_buf_puts(out, ",\"token_ids\":");
            qn_openai_write_ids(c, out);
        }
        qn_buf_putc(out, '}');
    }
    qn_buf_puts(out, "],\"usage\":");
    qn_openai_write_usage(s, out);
    if (s->ask.prompt_top >= 0) {
        qn_buf_puts(out, ",\"prompt_logprobs\":");
        qn_openai_write_prompt_logprobs(&s->choices[0], out);
    }
    if (s->ask.wants_timings) {
        qn_buf_puts(out, ",\"timings\":");
        qn_openai_write_timings(s, out);
    }
    qn_buf_putc(out, '}');
}

static const struct qn_dialect chat_dialect = {
    .id_prefix = "chatcmpl-",
    .call_prefix = "call_",
    .begin = chat_begin,
    .event = chat_event,
    .silent = chat_silent,
    .finish = chat_finish,
    .end = qn_openai_end,
    .fail = qn_openai_fail,
    .ping = qn_openai_ping,
    .whole = chat_whole,
};

/* functions and function_call, the old spelling of tools and tool_choice */
static int read_old_choice(struct qn_ask *a, struct qn_exchange *x, const struct qn_json *body,
                           struct qn_err *e)
{
    const struct qn_json *old = qn_json_get(body, "function_call");
    if (qn_json_is_null(old)) return QN_OK;
    return qn_ask_read_tool_choice(a, x, old, e);
}

int qn_api_read_chat(struct qn_ask *a, struct qn_exchange *x, const struct qn_json *body, struct qn_err *e)
{
    int rc = QN_OK;
    int64_t top = 0;
    bool parallel = true, includes_reasoning = true;
    const char *reasoning_format;
    QN_TRY(qn_ask_read_head(a, x, &body, e));
    QN_TRY(qn_ask_read_sampling(a, x, body, e));
    x->param = "top_logprobs";
    QN_TRY(qn_json_get_bool(body, "logprobs", false, &a->wants_logprobs, e));
    QN_TRY(qn_json_get_int(body, "top_logprobs", 0, &top, e));
    QN_FAIL_IF(top < 0 || top > QN_MAX_TOP, e, QN_INVAL,
               "top_logprobs is %" PRId64 "; it must be between 0 and %d", top, QN_MAX_TOP);
    QN_FAIL_IF(top && !a->wants_logprobs, e, QN_INVAL, "top_logprobs needs logprobs: true");
    a->sample.n_top = a->wants_logprobs ? (int)top : -1;
    QN_TRY(qn_ask_read_tool_choice(a, x, qn_json_get(body, "tool_choice"), e));
    if (qn_json_is_null(qn_json_get(body, "tool_choice"))) QN_TRY(read_old_choice(a, x, body, e));
    x->param = "parallel_tool_calls";
    QN_TRY(qn_json_get_bool(body, "parallel_tool_calls", true, &parallel, e));
    a->no_parallel = !parallel;
    QN_TRY(qn_ask_read_form(a, x, body, e));
    x->param = "include_reasoning";
    QN_TRY(qn_json_get_bool(body, "include_reasoning", true, &includes_reasoning, e));
    a->hide_reasoning = !includes_reasoning;
    x->param = "reasoning_format";
    QN_TRY(qn_json_get_str(body, "reasoning_format", "auto", &reasoning_format, e));
    a->raw_reasoning = !strcmp(reasoning_format, "none");
    x->param = "messages";
    QN_TRY(qn_chat_read(&a->chat, body, e));
    QN_TRY(qn_ask_find_foreign_tools(a, qn_json_get(body, "tools"), e));
    QN_TRY(qn_chat_defer_tools(&a->chat, &a->tools, a->tool_name, e));
    x->param = NULL;
out:
    return rc;
}

void qn_api_chat_completions(struct qn_exchange *x)
{
    struct qn_err e = {0};
    struct qn_ask a;
    const struct qn_json *body = qn_http_body(x);
    if (!body) return;
    qn_ask_init(&a, x);
    if (qn_api_read_chat(&a, x, body, &e)) {
        qn_http_fail(x, &e);
        return;
    }
    qn_api_chat(x, &a, &chat_dialect, NULL);
}
