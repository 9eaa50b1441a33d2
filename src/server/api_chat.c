/* OpenAI chat completions and completions.
 * SPDX-License-Identifier: Apache-2.0 */
#include <math.h>

#include "base/clock.h"
#include "server/sse.h"
#include "server/stream.h"
#include "text/tokenizer.h"
#include "text/utf8.h"

/* ------------------------------------------------------------------ shared pieces */

static void write_usage(struct qn_stream *s, struct qn_buf *out)
{
    struct qn_usage u = qn_stream_usage(s);
    qn_buf_printf(out,
                  "{\"prompt_tokens\":%d,\"completion_tokens\":%d,\"total_tokens\":%d,"
                  "\"prompt_tokens_details\":{\"cached_tokens\":%d},"
                  "\"completion_tokens_details\":{\"reasoning_tokens\":%d,\"accepted_prediction_tokens\":%d,"
                  "\"rejected_prediction_tokens\":%d}}",
                  u.prompt, u.completion, u.prompt + u.completion, u.cached, u.reasoning, u.accepted,
                  u.rejected);
}

static void write_counts(struct qn_buf *out, const char *name, const int *n)
{
    int most = QN_MAX_DRAFT;
    while (most && !n[most - 1]) most--;
    qn_buf_printf(out, ",\"%s\":[", name);
    for (int i = 0; i < most; i++) qn_buf_printf(out, "%s%d", i ? "," : "", n[i]);
    qn_buf_putc(out, ']');
}

/* The numbers of the first choice, for pages and benchmarks. */
static void write_timings(struct qn_stream *s, struct qn_buf *out)
{
    const struct qn_output *c = &s->choices[0];
    double decode_ms = c->first_us ? (double)(c->last_us - c->first_us) / 1e3 : 0;
    double prompt_ms = (double)c->stats.prefill_us / 1e3;
    int prompt_n = c->prompt->n_tok - c->stats.n_cached;
    qn_buf_printf(out,
                  "{\"cache_n\":%d,\"prompt_n\":%d,\"prompt_ms\":%.3f,\"prompt_per_second\":%.2f,"
                  "\"predicted_n\":%d,\"predicted_ms\":%.3f,\"predicted_per_second\":%.2f,"
                  "\"queue_ms\":%.3f,\"draft_n\":%d,\"draft_n_accepted\":%d,\"steps\":%d",
                  c->stats.n_cached, prompt_n, prompt_ms, prompt_ms > 0 ? prompt_n / prompt_ms * 1e3 : 0,
                  c->n_tok, decode_ms, decode_ms > 0 ? (c->n_tok - 1) / decode_ms * 1e3 : 0,
                  (double)c->stats.queue_us / 1e3, c->stats.n_drafted, c->stats.n_accepted, c->stats.n_step);
    if (c->stats.n_drafted) { /* by position of the draft */
        write_counts(out, "draft_at", c->stats.drafted_at);
        write_counts(out, "draft_accepted_at", c->stats.accepted_at);
    }
    if (c->stats.miss) {
        qn_buf_puts(out, ",\"cache_miss\":");
        qn_json_write_str(out, c->stats.miss, strlen(c->stats.miss), false);
    }
    qn_buf_putc(out, '}');
}

static void write_chat_logprobs(const struct qn_stream *s, struct qn_buf *out,
                                const struct qn_step_token *lps, size_t from, size_t to)
{
    qn_buf_puts(out, "{\"content\":");
    qn_stream_write_logprobs(s, out, lps, from, to);
    qn_buf_puts(out, ",\"refusal\":null}");
}

/* [null, {"id": {logprob, rank, decoded_token}}, ...] of the prompt */
static void write_prompt_logprobs(const struct qn_output *c, struct qn_buf *out)
{
    const struct qn_stream *s = c->stream;
    qn_buf_putc(out, '[');
    for (size_t i = 0; i < c->n_prompt_lp; i++) {
        const struct qn_step_token *t = &c->prompt_lps[i];
        if (i) qn_buf_putc(out, ',');
        if (isnan(t->logprob)) {
            qn_buf_puts(out, "null");
            continue;
        }
        bool is_top = false;
        qn_buf_putc(out, '{');
        for (int k = 0; k < t->n_top; k++) {
            is_top |= t->top_tok[k] == t->tok;
            qn_buf_printf(out, "%s\"%d\":{\"logprob\":", k ? "," : "", t->top_tok[k]);
            qn_stream_write_number(out, t->top_logprob[k]);
            qn_buf_printf(out, ",\"rank\":%d,\"decoded_token\":", k + 1);
            qn_stream_write_token(s, out, t->top_tok[k]);
            qn_buf_putc(out, '}');
        }
        if (!is_top) {
            qn_buf_printf(out, "%s\"%d\":{\"logprob\":", t->n_top ? "," : "", t->tok);
            qn_stream_write_number(out, t->logprob);
            qn_buf_puts(out, ",\"rank\":null,\"decoded_token\":");
            qn_stream_write_token(s, out, t->tok);
            qn_buf_putc(out, '}');
        }
        qn_buf_putc(out, '}');
    }
    qn_buf_putc(out, ']');
}

static void write_ids(const struct qn_output *c, struct qn_buf *out)
{
    qn_buf_putc(out, '[');
    for (int i = 0; i < c->n_tok; i++) qn_buf_printf(out, "%s%d", i ? "," : "", c->tok[i]);
    qn_buf_putc(out, ']');
}

/* the stop string, the stop token, or null */
static void write_stop_reason(const struct qn_output *c, struct qn_buf *out)
{
    const struct qn_ask *a = &c->stream->ask;
    bool is_asked = false;
    for (int i = 0; i < a->n_stop_tok; i++) is_asked |= a->stop_tok[i] == c->stop_tok;
    if (c->is_loop)
        qn_buf_puts(out, "\"repetition\"");
    else if (c->stop_index >= 0)
        qn_json_write_str(out, a->stops[c->stop_index], strlen(a->stops[c->stop_index]), false);
    else if (is_asked)
        qn_buf_printf(out, "%d", c->stop_tok);
    else
        qn_buf_puts(out, "null");
}

/* {"id":..,"object":..,"created":..,"model":..,"system_fingerprint":.. and no closing brace */
static void write_head(struct qn_stream *s, struct qn_buf *out, const char *object)
{
    qn_buf_printf(out, "{\"id\":\"%s\",\"object\":\"%s\",\"created\":%" PRId64 ",\"model\":", s->id, object,
                  s->created);
    qn_json_write_str(out, s->ask.model, strlen(s->ask.model), false);
    qn_buf_printf(out, ",\"system_fingerprint\":\"%s\"", s->server->fingerprint);
}

static void open_chunk(struct qn_stream *s)
{
    qn_sse_begin(&s->out, NULL);
    qn_buf_append(&s->out, s->head.data, s->head.n_byte);
}

/* After the choices: usage as asked for, the end of the object. */
static void close_chunk(struct qn_stream *s, bool is_usage_chunk)
{
    if (is_usage_chunk || (s->ask.wants_usage && s->ask.continuous_usage)) {
        qn_buf_puts(&s->out, ",\"usage\":");
        write_usage(s, &s->out);
    } else if (s->ask.wants_usage)
        qn_buf_puts(&s->out, ",\"usage\":null");
    qn_buf_putc(&s->out, '}');
    qn_sse_end(&s->out);
}

static void stream_end(struct qn_stream *s)
{
    if (s->ask.wants_usage) {
        open_chunk(s);
        qn_buf_puts(&s->out, ",\"choices\":[]");
        if (s->ask.wants_timings) {
            qn_buf_puts(&s->out, ",\"timings\":");
            write_timings(s, &s->out);
        }
        close_chunk(s, true);
    }
    qn_sse_done(&s->out);
}

static void stream_fail(struct qn_stream *s, int status, const char *text)
{
    qn_sse_begin(&s->out, NULL);
    qn_http_error_json(&s->out, s->x, status, text);
    qn_sse_end(&s->out);
    qn_sse_done(&s->out);
}

static void stream_ping(struct qn_stream *s)
{
    int done = 0, all = 0, cached = 0;
    for (int i = 0; i < s->n_choice; i++) {
        struct qn_request_stats stats = s->choices[i].stats;
        all += s->choices[i].prompt->n_tok;
        if (s->choices[i].request) {
            done += qn_request_progress(s->choices[i].request);
            qn_request_stats(s->choices[i].request, &stats);
        }
        cached += stats.n_cached;
    }
    if (s->ask.wants_progress && !s->dialect->is_raw) { /* as llama.cpp has it */
        open_chunk(s);
        qn_buf_printf(&s->out,
                      ",\"choices\":[{\"index\":0,\"delta\":{},\"logprobs\":null,\"finish_reason\":null}],"
                      "\"prompt_progress\":{\"total\":%d,\"cache\":%d,\"processed\":%d,\"time_ms\":%" PRId64
                      "}",
                      all, cached, done, (qn_now_us() - s->x->start_us) / 1000);
        close_chunk(s, false);
        return;
    }
    char text[64];
    snprintf(text, sizeof text, "prefill %d/%d", done, all);
    qn_sse_comment(&s->out, text);
}

/* ------------------------------------------------------------------ chat */

static void chat_begin(struct qn_stream *s)
{
    write_head(s, &s->head, "chat.completion.chunk");
    for (int i = 0; i < s->n_choice; i++) {
        open_chunk(s);
        qn_buf_printf(&s->out,
                      ",\"choices\":[{\"index\":%d,\"delta\":{\"role\":\"assistant\",\"content\":\"\"},"
                      "\"logprobs\":null,\"finish_reason\":null}]",
                      i);
        close_chunk(s, false);
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
    close_chunk(s, false);
}

static void open_delta(struct qn_stream *s, struct qn_output *c)
{
    open_chunk(s);
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
    if (!strcmp(c->finish, "tool_calls") && c->stream->ask.tool_mode == QN_TOOL_NAMED) return "stop";
    return c->finish;
}

static void chat_finish(struct qn_stream *s, struct qn_output *c)
{
    struct qn_buf *out = &s->out;
    if (c->lp_sent < c->n_lp) chat_silent(s, c);
    open_chunk(s);
    qn_buf_printf(out, ",\"choices\":[{\"index\":%d,\"delta\":{},\"logprobs\":null,\"finish_reason\":\"%s\"",
                  c->index, chat_finish_reason(c));
    qn_buf_puts(out, ",\"stop_reason\":");
    write_stop_reason(c, out);
    if (s->ask.return_token_ids) {
        qn_buf_puts(out, ",\"token_ids\":");
        write_ids(c, out);
    }
    qn_buf_puts(out, "}]");
    if (s->ask.wants_timings && !s->ask.wants_usage && s->n_over == s->n_choice) {
        qn_buf_puts(out, ",\"timings\":");
        write_timings(s, out);
    }
    close_chunk(s, false);
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
    write_head(s, out, "chat.completion");
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
        write_stop_reason(c, out);
        if (s->ask.return_token_ids) {
            qn_buf_puts(out, ",\"token_ids\":");
            write_ids(c, out);
        }
        qn_buf_putc(out, '}');
    }
    qn_buf_puts(out, "],\"usage\":");
    write_usage(s, out);
    if (s->ask.prompt_top >= 0) {
        qn_buf_puts(out, ",\"prompt_logprobs\":");
        write_prompt_logprobs(&s->choices[0], out);
    }
    if (s->ask.wants_timings) {
        qn_buf_puts(out, ",\"timings\":");
        write_timings(s, out);
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
    .end = stream_end,
    .fail = stream_fail,
    .ping = stream_ping,
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
    body = qn_chat_lift_extra_body(a->arena, body);
    QN_FAIL_IF(!body, e, QN_TOOBIG, "the request is too large");
    QN_TRY(qn_ask_read_model(a, x, body, e));
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
    a->tools = a->chat.tools;
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

/* ------------------------------------------------------------------ completions */

static size_t n_chars(const char *s, size_t n)
{
    size_t count = 0;
    for (size_t i = 0; i < n; i++) count += ((unsigned char)s[i] & 0xc0) != 0x80;
    return count;
}

struct lp_list {
    const struct qn_step_token *lps;
    size_t from, to;
};

/* tokens, token_logprobs, top_logprobs, text_offset over one or two lists (prompt and output) */
static void write_old_logprobs(struct qn_output *c, struct qn_buf *out, const struct lp_list *lists,
                               int n_list)
{
    const struct qn_stream *s = c->stream;
    const struct qn_tokenizer *t = s->server->text->tokenizer;
    size_t start = c->n_sent_chars, n;
    int written;
    for (int part = 0; part < 4; part++) {
        static const char *const names[] = {"{\"tokens\":[", "],\"token_logprobs\":[", "],\"top_logprobs\":[",
                                            "],\"text_offset\":["};
        qn_buf_puts(out, names[part]);
        written = 0;
        size_t at = start;
        for (int l = 0; l < n_list; l++)
            for (size_t i = lists[l].from; i < lists[l].to; i++) {
                const struct qn_step_token *p = &lists[l].lps[i];
                if (written++) qn_buf_putc(out, ',');
                if (part == 0)
                    qn_stream_write_token(s, out, p->tok);
                else if (part == 1)
                    qn_stream_write_number(out, p->logprob);
                else if (part == 2 && isnan(p->logprob))
                    qn_buf_puts(out, "null");
                else if (part == 2) {
                    bool has_own = false;
                    qn_buf_putc(out, '{');
                    for (int k = 0; k < p->n_top; k++) {
                        size_t m;
                        const uint8_t *mine = qn_tokenizer_bytes(t, p->top_tok[k], &m);
                        bool is_double = false; /* of equal texts the likelier stays */
                        for (int j = 0; j < k && !s->ask.tokens_as_ids; j++) {
                            const uint8_t *other = qn_tokenizer_bytes(t, p->top_tok[j], &n);
                            is_double |= n == m && !memcmp(mine, other, n);
                        }
                        has_own |= p->top_tok[k] == p->tok;
                        if (is_double) continue;
                        if (k) qn_buf_putc(out, ',');
                        qn_stream_write_token(s, out, p->top_tok[k]);
                        qn_buf_putc(out, ':');
                        qn_stream_write_number(out, p->top_logprob[k]);
                    }
                    if (!has_own) {
                        if (p->n_top) qn_buf_putc(out, ',');
                        qn_stream_write_token(s, out, p->tok);
                        qn_buf_putc(out, ':');
                        qn_stream_write_number(out, p->logprob);
                    }
                    qn_buf_putc(out, '}');
                } else {
                    const uint8_t *bytes = qn_tokenizer_bytes(t, p->tok, &n);
                    qn_buf_printf(out, "%zu", at);
                    at += n_chars((const char *)bytes, n);
                }
            }
        if (part == 3) c->n_sent_chars = at;
    }
    qn_buf_puts(out, "]}");
}

/* The text of the prompt, for echo. */
static void echo_prompt(const struct qn_output *c, struct qn_buf *text)
{
    qn_detok_all(c->stream->server->text->tokenizer, c->prompt->tok, (size_t)c->prompt->n_tok, QN_DETOK_KEEP,
                 text);
}

static void complete_begin(struct qn_stream *s)
{
    write_head(s, &s->head, "text_completion");
}

static void complete_chunk(struct qn_stream *s, struct qn_output *c, const char *text, size_t n,
                           const char *finish)
{
    struct qn_buf *out = &s->out;
    struct lp_list lists[2];
    int n_list = 0;
    struct qn_buf echoed = QN_BUF_INIT((size_t)256 << 20);
    if (s->ask.echo && !c->prompt_sent) {
        echo_prompt(c, &echoed);
        lists[n_list++] = (struct lp_list){c->prompt_lps, 0, c->n_prompt_lp};
        c->prompt_sent = true;
    }
    qn_buf_append(&echoed, text, n);
    if (c->lp_sent < c->n_lp) lists[n_list++] = (struct lp_list){c->lps, c->lp_sent, c->n_lp};
    open_chunk(s);
    qn_buf_printf(out, ",\"choices\":[{\"index\":%d,\"text\":", c->index);
    qn_json_write_str(out, qn_buf_str(&echoed), echoed.n_byte, false);
    qn_buf_puts(out, ",\"logprobs\":");
    if (s->ask.wants_logprobs && n_list)
        write_old_logprobs(c, out, lists, n_list);
    else
        qn_buf_puts(out, "null");
    c->lp_sent = c->n_lp;
    if (finish) {
        qn_buf_printf(out, ",\"finish_reason\":\"%s\",\"stop_reason\":", finish);
        write_stop_reason(c, out);
        qn_buf_puts(out, "}]");
    } else
        qn_buf_puts(out, ",\"finish_reason\":null}]");
    close_chunk(s, false);
    qn_buf_free(&echoed);
}

static void complete_event(struct qn_stream *s, struct qn_output *c, const struct qn_parse_event *event)
{
    complete_chunk(s, c, event->text, event->n, NULL);
}

static void complete_finish(struct qn_stream *s, struct qn_output *c)
{
    complete_chunk(s, c, "", 0, c->finish);
}

static void complete_whole(struct qn_stream *s, struct qn_buf *out)
{
    write_head(s, out, "text_completion");
    qn_buf_puts(out, ",\"choices\":[");
    for (int i = 0; i < s->n_choice; i++) {
        struct qn_output *c = &s->choices[i];
        struct qn_buf text = QN_BUF_INIT((size_t)512 << 20);
        struct lp_list lists[2];
        int n_list = 0;
        if (s->ask.echo) {
            echo_prompt(c, &text);
            lists[n_list++] = (struct lp_list){c->prompt_lps, 0, c->n_prompt_lp};
        }
        lists[n_list++] = (struct lp_list){c->lps, 0, c->n_lp};
        qn_buf_append(&text, qn_buf_str(&c->parsed.content), c->parsed.content.n_byte);
        qn_buf_printf(out, "%s{\"index\":%d,\"text\":", i ? "," : "", i);
        qn_json_write_str(out, qn_buf_str(&text), text.n_byte, false);
        qn_buf_puts(out, ",\"logprobs\":");
        if (s->ask.wants_logprobs)
            write_old_logprobs(c, out, lists, n_list);
        else
            qn_buf_puts(out, "null");
        qn_buf_printf(out, ",\"finish_reason\":\"%s\",\"stop_reason\":", c->finish);
        write_stop_reason(c, out);
        if (s->ask.return_token_ids) {
            qn_buf_puts(out, ",\"token_ids\":");
            write_ids(c, out);
        }
        if (s->ask.prompt_top >= 0) {
            qn_buf_puts(out, ",\"prompt_logprobs\":");
            write_prompt_logprobs(c, out);
        }
        qn_buf_putc(out, '}');
        qn_buf_free(&text);
    }
    qn_buf_puts(out, "],\"usage\":");
    write_usage(s, out);
    if (s->ask.wants_timings) {
        qn_buf_puts(out, ",\"timings\":");
        write_timings(s, out);
    }
    qn_buf_putc(out, '}');
}

static const struct qn_dialect complete_dialect = {
    .is_raw = true,
    .id_prefix = "cmpl-",
    .call_prefix = "call_",
    .begin = complete_begin,
    .event = complete_event,
    .finish = complete_finish,
    .end = stream_end,
    .fail = stream_fail,
    .ping = stream_ping,
    .whole = complete_whole,
};

/* Ids of the fill-in-the-middle tokens; false: the model has none. */
static bool find_middle(const struct qn_tokenizer *t, int32_t ids[3])
{
    static const char *const names[] = {"<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"};
    for (size_t i = 0; i < QN_COUNT(names); i++) {
        ids[i] = qn_tokenizer_id(t, names[i]);
        if (ids[i] < 0) return false;
    }
    return true;
}

static int read_one_prompt(struct qn_stream_prompt *p, struct qn_exchange *x, const struct qn_json *v,
                           const struct qn_json *suffix, struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_ids ids = QN_IDS_INIT((size_t)1 << 28);
    int32_t *copy;
    const struct qn_tokenizer *t = x->server->text->tokenizer;
    int32_t middle[3];
    if (suffix) {
        QN_FAIL_IF(!find_middle(t, middle), e, QN_INVAL,
                   "suffix: the model has no fill-in-the-middle tokens (<|fim_prefix|>, ...)");
        QN_TRY(qn_ids_push(&ids, middle[0]));
    }
    p->think_budget = QN_CHAT_NO_BUDGET;
    if (qn_json_is(v, QN_JSON_STRING)) {
        QN_TRY(qn_tokenizer_encode(t, v->text, v->n, NULL, &ids, e));
    } else {
        for (size_t i = 0; i < v->n; i++) {
            int64_t id;
            QN_FAIL_IF(!qn_json_int(v->items[i], &id) || id < 0 || id >= qn_tokenizer_n_vocab(t), e, QN_INVAL,
                       "prompt: entry %zu is not a token id of this model (0 to %d)", i,
                       qn_tokenizer_n_vocab(t) - 1);
            QN_TRY(qn_ids_push(&ids, (int32_t)id));
        }
    }
    if (suffix) {
        QN_TRY(qn_ids_push(&ids, middle[1]));
        QN_TRY(qn_tokenizer_encode(t, suffix->text, suffix->n, NULL, &ids, e));
        QN_TRY(qn_ids_push(&ids, middle[2]));
    }
    QN_FAIL_IF(!ids.n, e, QN_INVAL, "prompt: empty; send at least one token");
    copy = qn_arena_alloc(x->arena, ids.n * sizeof *copy);
    QN_FAIL_IF(!copy, e, QN_TOOBIG, "prompt: the request is too large");
    memcpy(copy, ids.data, ids.n * sizeof *copy);
    p->tok = copy;
    p->n_tok = (int)ids.n;
out:
    qn_ids_free(&ids);
    return rc;
}

/* A string, strings, ids, or lists of ids. */
static int read_prompts(struct qn_stream_prompt **out, int *n_out, struct qn_exchange *x,
                        const struct qn_json *v, const struct qn_json *suffix, struct qn_err *e)
{
    int rc = QN_OK;
    x->param = "prompt";
    bool is_many = qn_json_is(v, QN_JSON_ARRAY) && v->n &&
                   (qn_json_is(v->items[0], QN_JSON_STRING) || qn_json_is(v->items[0], QN_JSON_ARRAY));
    QN_FAIL_IF(qn_json_is_null(v), e, QN_INVAL, "prompt is missing");
    QN_FAIL_IF(!qn_json_is(v, QN_JSON_STRING) && !qn_json_is(v, QN_JSON_ARRAY), e, QN_INVAL,
               "prompt must be a string, an array of strings, of token ids, or of arrays of token ids");
    size_t n = is_many ? v->n : 1;
    QN_FAIL_IF(n > QN_API_MAX_PROMPTS, e, QN_TOOBIG, "prompt has %zu entries; at most %d are taken", n,
               QN_API_MAX_PROMPTS);
    struct qn_stream_prompt *list = qn_arena_alloc(x->arena, n * sizeof *list);
    QN_FAIL_IF(!list, e, QN_TOOBIG, "prompt: the request is too large");
    for (size_t i = 0; i < n; i++) {
        const struct qn_json *one = is_many ? v->items[i] : v;
        QN_FAIL_IF(is_many && one->type != v->items[0]->type, e, QN_INVAL,
                   "prompt[%zu] is of another type than prompt[0]", i);
        QN_TRY(read_one_prompt(&list[i], x, one, suffix, e));
    }
    *out = list;
    *n_out = (int)n;
    x->param = NULL;
out:
    return rc;
}

int qn_api_read_completion(struct qn_ask *a, struct qn_exchange *x, const struct qn_json *body,
                           struct qn_stream_prompt **prompts, int *n_prompt, struct qn_err *e)
{
    int rc = QN_OK;
    int64_t top = -1, best_of = 1, max_tokens = -1;
    body = qn_chat_lift_extra_body(a->arena, body);
    QN_FAIL_IF(!body, e, QN_TOOBIG, "the request is too large");
    QN_TRY(qn_ask_read_model(a, x, body, e));
    x->param = "echo";
    QN_TRY(qn_json_get_bool(body, "echo", false, &a->echo, e));
    /* max_tokens 0 is pure scoring; the shared reader refuses it */
    const struct qn_json *given = qn_json_get(body, "max_tokens");
    a->is_scoring = a->echo && qn_json_int(given, &max_tokens) && max_tokens == 0;
    if (a->is_scoring) {
        struct qn_json *copy = qn_json_new(a->arena, QN_JSON_OBJECT);
        for (size_t i = 0; copy && i < body->n; i++)
            if (strcmp(body->keys[i].text, "max_tokens"))
                qn_json_set(a->arena, copy, body->keys[i].text, body->items[i]);
        QN_FAIL_IF(!copy, e, QN_TOOBIG, "the request is too large");
        body = copy;
    }
    a->max_new = QN_API_COMPLETION_TOKENS;
    QN_TRY(qn_ask_read_sampling(a, x, body, e));
    x->param = "suffix";
    const struct qn_json *suffix = qn_json_get(body, "suffix");
    QN_FAIL_IF(!qn_json_is_null(suffix) && !qn_json_is(suffix, QN_JSON_STRING), e, QN_INVAL,
               "suffix must be a string");
    bool has_suffix = !qn_json_is_null(suffix) && suffix->n;
    QN_FAIL_IF(has_suffix && a->echo, e, QN_INVAL, "suffix: echo cannot be given together with it");
    x->param = "best_of";
    QN_TRY(qn_json_get_int(body, "best_of", 1, &best_of, e));
    QN_FAIL_IF(best_of > a->n, e, QN_INVAL, "best_of over n is not supported; use n");
    x->param = "logprobs";
    const struct qn_json *lp = qn_json_get(body, "logprobs");
    if (qn_json_is(lp, QN_JSON_BOOL))
        top = lp->truth ? 1 : -1;
    else
        QN_TRY(qn_json_get_int(body, "logprobs", -1, &top, e));
    QN_FAIL_IF(top > QN_MAX_TOP, e, QN_INVAL, "logprobs is %" PRId64 "; it must be between 0 and %d", top,
               QN_MAX_TOP);
    a->wants_logprobs = top >= 0;
    a->sample.n_top = (int)QN_MAX(top, -1);
    if (a->echo && a->wants_logprobs && a->prompt_top < 0) a->prompt_top = (int)top;
    QN_TRY(qn_ask_read_form(a, x, body, e));
    QN_TRY(read_prompts(prompts, n_prompt, x, qn_json_get(body, "prompt"), has_suffix ? suffix : NULL, e));
    for (int i = 0; i < *n_prompt; i++) {
        int n_cut = qn_api_truncated(x, a, (*prompts)[i].n_tok);
        (*prompts)[i].tok += n_cut;
        (*prompts)[i].n_tok -= n_cut;
    }
out:
    return rc;
}

void qn_api_completions(struct qn_exchange *x)
{
    struct qn_err e = {0};
    struct qn_ask a;
    struct qn_stream_prompt *prompts;
    int n_prompt;
    const struct qn_json *body = qn_http_body(x);
    if (!body) return;
    qn_ask_init(&a, x);
    if (qn_api_read_completion(&a, x, body, &prompts, &n_prompt, &e)) {
        qn_http_fail(x, &e);
        return;
    }
    if (qn_ask_constrain(&a, x, NULL, false, &e)) {
        qn_http_fail(x, &e);
        return;
    }
    for (int i = 0; i < n_prompt; i++)
        if (qn_api_refuse_length(x, &a, prompts[i].n_tok)) {
            qn_ask_free(&a);
            return;
        }
    struct qn_stream *s = qn_stream_create(x, &a, &complete_dialect, n_prompt);
    memcpy(s->prompts, prompts, (size_t)n_prompt * sizeof *prompts);
    qn_stream_answer(s);
}
