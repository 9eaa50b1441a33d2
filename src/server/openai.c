/* Pieces of the answers of chat completions and completions.
 * SPDX-License-Identifier: Apache-2.0 */
#include "server/openai.h"

#include <math.h>

#include "base/clock.h"
#include "server/sse.h"

void qn_openai_write_usage(struct qn_stream *s, struct qn_buf *out)
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
void qn_openai_write_timings(struct qn_stream *s, struct qn_buf *out)
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

/* [null, {"id": {logprob, rank, decoded_token}}, ...] of the prompt */
void qn_openai_write_prompt_logprobs(const struct qn_output *c, struct qn_buf *out)
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

void qn_openai_write_ids(const struct qn_output *c, struct qn_buf *out)
{
    qn_buf_putc(out, '[');
    for (int i = 0; i < c->n_tok; i++) qn_buf_printf(out, "%s%d", i ? "," : "", c->tok[i]);
    qn_buf_putc(out, ']');
}

/* the stop string, the stop token, or null */
void qn_openai_write_stop_reason(const struct qn_output *c, struct qn_buf *out)
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
void qn_openai_write_head(struct qn_stream *s, struct qn_buf *out, const char *object)
{
    qn_buf_printf(out, "{\"id\":\"%s\",\"object\":\"%s\",\"created\":%" PRId64 ",\"model\":", s->id, object,
                  s->created);
    qn_json_write_str(out, s->ask.model, strlen(s->ask.model), false);
    qn_buf_printf(out, ",\"system_fingerprint\":\"%s\"", s->server->fingerprint);
}

void qn_openai_open_chunk(struct qn_stream *s)
{
    qn_sse_begin(&s->out, NULL);
    qn_buf_append(&s->out, s->head.data, s->head.n_byte);
}

/* After the choices: usage as asked for, the end of the object. */
void qn_openai_close_chunk(struct qn_stream *s, bool is_usage_chunk)
{
    if (is_usage_chunk || (s->ask.wants_usage && s->ask.continuous_usage)) {
        qn_buf_puts(&s->out, ",\"usage\":");
        qn_openai_write_usage(s, &s->out);
    } else if (s->ask.wants_usage)
        qn_buf_puts(&s->out, ",\"usage\":null");
    qn_buf_putc(&s->out, '}');
    qn_sse_end(&s->out);
}

void qn_openai_end(struct qn_stream *s)
{
    if (s->ask.wants_usage) {
        qn_openai_open_chunk(s);
        qn_buf_puts(&s->out, ",\"choices\":[]");
        if (s->ask.wants_timings) {
            qn_buf_puts(&s->out, ",\"timings\":");
            qn_openai_write_timings(s, &s->out);
        }
        qn_openai_close_chunk(s, true);
    }
    qn_sse_done(&s->out);
}

void qn_openai_fail(struct qn_stream *s, int status, const char *text)
{
    qn_sse_begin(&s->out, NULL);
    qn_http_error_json(&s->out, s->x, status, text);
    qn_sse_end(&s->out);
    qn_sse_done(&s->out);
}

void qn_openai_ping(struct qn_stream *s)
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
        qn_openai_open_chunk(s);
        qn_buf_printf(&s->out,
                      ",\"choices\":[{\"index\":0,\"delta\":{},\"logprobs\":null,\"finish_reason\":null}],"
                      "\"prompt_progress\":{\"total\":%d,\"cache\":%d,\"processed\":%d,\"time_ms\":%" PRId64
                      "}",
                      all, cached, done, (qn_now_us() - s->x->start_us) / 1000);
        qn_openai_close_chunk(s, false);
        return;
    }
    char text[64];
    snprintf(text, sizeof text, "prefill %d/%d", done, all);
    qn_sse_comment(&s->out, text);
}
