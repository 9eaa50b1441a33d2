/* One request's output, streamed or whole.
 * SPDX-License-Identifier: Apache-2.0 */
#include "server/stream.h"

#include <math.h>

#include "base/budget.h"
#include "base/clock.h"
#include "base/hash.h"
#include "server/calls.h"
#include "server/sse.h"
#include "text/utf8.h"

#define MAX_TEXT_BYTES ((size_t)256 << 20) /* of one choice */
#define WINDOW         32                  /* choices of one request in the engine at once */
#define WAIT_US        100000
#define PROBE_US       200000
#define PROGRESS_US    1000000
#define FULL_BYTES     ((size_t)32 << 10) /* enough for one write */
#define MIN_SHARED     256                /* tokens of room from which on an answer is kept some of it */
#define ANSWER_TOKENS  1024

/* ------------------------------------------------------------------ events */

static bool is_told(const struct qn_stream *s)
{
    return s->ask.is_stream || s->dialect->collects;
}

static void deliver(struct qn_output *c, enum qn_parse_kind kind, int index, const char *text, size_t n)
{
    struct qn_stream *s = c->stream;
    struct qn_parse_event event = {kind, index, text, n};
    qn_parsed_add(&c->parsed, &event);
    if (!is_told(s) || s->is_failed) return;
    s->dialect->event(s, c, &event);
    if (!s->ask.is_stream) qn_buf_clear(&s->out);
}

/* reasoning_format none: the tags stay in the content. */
static void deliver_raw(struct qn_output *c, const struct qn_parse_event *event)
{
    bool is_thought = event->kind == QN_PARSE_REASONING;
    bool was_thought = c->is_tag_open;
    c->is_tag_open = is_thought;
    if (is_thought && !was_thought) {
        deliver(c, QN_PARSE_CONTENT, 0, "<think>\n", 8);
    } else if (!is_thought && was_thought) {
        deliver(c, QN_PARSE_CONTENT, 0, "\n</think>\n\n", 11);
    }
    deliver(c, is_thought ? QN_PARSE_CONTENT : event->kind, event->index, event->text, event->n);
}

static void on_event(void *ctx, const struct qn_parse_event *event)
{
    struct qn_output *c = ctx;
    struct qn_stream *s = c->stream;
    switch (event->kind) {
    case QN_PARSE_FINISH:
        c->reason = (enum qn_reason)event->index;
        qn_parsed_add(&c->parsed, event);
        return;
    case QN_PARSE_CALL_BEGIN:
        c->call_ids = xreallocarray(c->call_ids, (size_t)c->n_call + 1, sizeof *c->call_ids);
        qn_http_make_id(c->call_ids[c->n_call++], sizeof *c->call_ids, s->dialect->call_prefix, 24);
        break;
    case QN_PARSE_REASONING:
        if (s->ask.hide_reasoning) return;
        break;
    default:
        break;
    }
    if (s->ask.raw_reasoning)
        deliver_raw(c, event);
    else
        deliver(c, event->kind, event->index, event->text, event->n);
}

static void begin(struct qn_stream *s)
{
    if (s->has_begun) return;
    s->has_begun = true;
    if (is_told(s)) s->dialect->begin(s);
}

/* Feeds text; true once a stop string has ended the choice. */
static bool feed(struct qn_output *c, const char *text, size_t n)
{
    if (c->parse) {
        size_t start = qn_parse_fed(c->parse);
        bool is_over = qn_parse_feed(c->parse, text, n);
        if (start < qn_parse_reasoning_bytes(c->parse) || (!n && qn_parse_is_reasoning(c->parse)))
            c->n_reasoning++;
        if (is_over) c->stop_index = qn_parse_stop(c->parse, &(size_t){0});
        return is_over;
    }
    struct qn_buf visible;
    qn_buf_init(&visible, MAX_TEXT_BYTES);
    c->stop_index = qn_stops_feed(&c->stops, text, n, &visible);
    if (visible.n_byte) deliver(c, QN_PARSE_CONTENT, 0, visible.data, visible.n_byte);
    qn_buf_free(&visible);
    if (c->stop_index < 0) return false;
    c->reason = QN_REASON_STOP;
    return true;
}

/* Without memory the token is left out, and the request's share remembers why: it ends (check_memory). */
static void keep_token(struct qn_step_token **list, size_t *n, size_t *capacity,
                       const struct qn_step_token *t)
{
    if (qn_grow(list, capacity, *n + 1, sizeof **list)) (*list)[(*n)++] = *t;
}

static void observe_end(struct qn_output *c, enum qn_reason reason)
{
    struct qn_stream *s = c->stream;
    struct qn_meters *m = &s->server->meters;
    qn_metric_inc(m->success[reason], 1);
    int64_t now = qn_now_us();
    double e2e = (double)(now - s->x->start_us) / 1e6;
    qn_metric_observe(m->e2e, e2e);
    qn_metric_observe(m->queue, (double)c->stats.queue_us / 1e6);
    qn_metric_observe(m->prefill, (double)c->stats.prefill_us / 1e6);
    double decode = c->first_us ? (double)(c->last_us - c->first_us) / 1e6 : 0;
    qn_metric_observe(m->decode, decode);
    qn_metric_observe(m->inference, (double)c->stats.prefill_us / 1e6 + decode);
    if (c->n_tok > 1) qn_metric_observe(m->tpot, decode / (c->n_tok - 1));
    qn_metric_observe(m->prompt_tok, c->prompt->n_tok);
    qn_metric_observe(m->new_tok, c->n_tok);
    if (s->n_over < s->n_choice) return;
    for (int i = 0, n = s->ask.n; i < s->n_choice; i += n) { /* the choices of a prompt */
        int most = 0;
        for (int k = i; k < i + n && k < s->n_choice; k++) most = QN_MAX(most, s->choices[k].n_tok);
        qn_metric_observe(m->most_new, most);
    }
}

/* The choice has ended: numbers, log facts, memory of its calls. */
static void close_choice(struct qn_output *c, enum qn_reason reason)
{
    struct qn_stream *s = c->stream;
    if (c->is_over || !c->is_submitted) return;
    c->is_over = true;
    s->n_over++;
    if (c->request) {
        qn_request_stats(c->request, &c->stats);
        qn_request_release(c->request);
        c->request = NULL;
    }
    struct qn_http_facts *f = &s->x->facts;
    f->finish = qn_reason_name(reason);
    f->miss = c->stats.miss;
    f->n_prompt += c->index % s->ask.n ? 0 : c->prompt->n_tok;
    f->n_cached += c->stats.n_cached;
    f->n_new += c->n_tok;
    f->n_drafted += c->stats.n_drafted;
    f->n_accepted += c->stats.n_accepted;
    f->queue_us += c->stats.queue_us;
    f->prefill_us += c->stats.prefill_us;
    if (c->first_us) f->decode_us += c->last_us - c->first_us;
    observe_end(c, reason);
    if (c->n_call) {
        struct qn_calls_output o = {
            .raw = qn_buf_str(&c->raw),
            .n_byte = c->raw.n_byte,
            .tok = c->tok,
            .n_tok = c->tok ? (size_t)c->n_tok : 0,
            .parsed = &c->parsed,
            .ids = c->call_ids,
            .n_id = c->n_call,
            .owner = qn_server_owner(s->server, s->x),
        };
        qn_calls_add(s->server->calls, s->server->text, &o);
    }
}

static void fail(struct qn_stream *s, int status, const char *text)
{
    if (s->is_failed) return;
    s->is_failed = true;
    s->fail_status = status;
    snprintf(s->error.text, sizeof s->error.text, "%s", text);
    for (int i = 0; i < s->n_choice; i++) close_choice(&s->choices[i], QN_REASON_ERROR);
}

static void finish_choice(struct qn_output *c)
{
    struct qn_stream *s = c->stream;
    close_choice(c, c->reason);
    if (is_told(s) && !s->is_failed) s->dialect->finish(s, c);
}

/* Something of this request found no memory: it ends, whatever else could still be said. */
static bool check_memory(struct qn_stream *s)
{
    char text[200];
    int status = s->is_failed ? 0 : qn_http_short(s->x, text, sizeof text);
    if (status) fail(s, status, text);
    return status;
}

static void take_token(struct qn_output *c, const struct qn_step_token *t)
{
    struct qn_stream *s = c->stream;
    struct qn_meters *m = &s->server->meters;
    int64_t now = qn_now_us();
    if (!c->first_us) {
        c->first_us = now;
        if (s->ask.wants_progress && s->ask.is_stream) { /* all of it */
            begin(s);
            s->dialect->ping(s);
        }
        qn_metric_observe(m->ttft, (double)(now - s->x->start_us) / 1e6);
    } else {
        double gap = (double)(now - c->last_us) / 1e6;
        qn_metric_observe(m->itl, gap);
        qn_metric_observe(m->itl_old, gap);
    }
    c->last_us = now;
    if (s->ask.is_scoring) return;
    c->n_tok++;
    if (s->ask.return_token_ids || s->server->o.trace_dir || (s->tools && s->tools->n_tool)) {
        if (qn_grow(&c->tok, &c->tok_capacity, (size_t)c->n_tok, sizeof *c->tok))
            c->tok[c->n_tok - 1] = t->tok;
        else
            check_memory(s);
    }
    if (s->ask.wants_logprobs) keep_token(&c->lps, &c->n_lp, &c->lp_capacity, t);
    qn_buf_clear(&c->piece);
    qn_detok_push(&c->detok, t->tok, &c->piece);
    qn_buf_append(&c->raw, qn_buf_str(&c->piece), c->piece.n_byte);
    bool is_stopped = feed(c, qn_buf_str(&c->piece), c->piece.n_byte);
    if (s->ask.wants_logprobs && s->ask.is_stream && s->dialect->silent && c->lp_sent < c->n_lp && c->parse &&
        (qn_parse_is_in_call(c->parse) ||
         qn_tokenizer_flags(s->server->text->tokenizer, t->tok) & QN_TOKEN_MARKER))
        s->dialect->silent(s, c);
    if (is_stopped) {
        qn_request_cancel(c->request);
        finish_choice(c);
    }
}

static void take_end(struct qn_output *c, const struct qn_event *ev)
{
    struct qn_stream *s = c->stream;
    if (ev->finish == QN_FINISH_ERROR) {
        fail(s, qn_http_status(ev->error.code), ev->error.text);
        return;
    }
    if (ev->finish == QN_FINISH_CANCEL) {
        fail(s, 503, "the server is shutting down and has ended this request");
        return;
    }
    bool is_stop = ev->finish == QN_FINISH_STOP;
    c->stop_tok = ev->stop_tok;
    c->is_loop = ev->is_loop;
    qn_buf_clear(&c->piece);
    qn_detok_end(&c->detok, &c->piece);
    bool is_over = c->piece.n_byte && feed(c, qn_buf_str(&c->piece), c->piece.n_byte);
    if (is_over) {
    } else if (c->parse)
        qn_parse_finish(c->parse, is_stop ? QN_PARSE_STOP : QN_PARSE_LENGTH);
    else {
        qn_buf_clear(&c->piece);
        qn_stops_end(&c->stops, &c->piece);
        if (c->piece.n_byte) deliver(c, QN_PARSE_CONTENT, 0, c->piece.data, c->piece.n_byte);
    }
    if (!c->reason) c->reason = is_stop ? QN_REASON_STOP : QN_REASON_LENGTH;
    finish_choice(c);
}

static void take(struct qn_output *c, const struct qn_event *ev)
{
    if (ev->kind == QN_EVENT_PROMPT) {
        keep_token(&c->prompt_lps, &c->n_prompt_lp, &c->prompt_lp_capacity, &ev->token);
        return;
    }
    begin(c->stream);
    if (ev->kind == QN_EVENT_TOKEN)
        take_token(c, &ev->token);
    else
        take_end(c, ev);
}

/* ------------------------------------------------------------------ the engine's side */

/* The text that ends a thought whose budget is used up; the vendor's own words. */
static const char think_close_text[] =
    "Considering the limited time by the user, I have to give the solution "
    "based on the thinking directly now.\n";

/* Tokens of thinking before it is closed, 0: no limit. A thought must not use up the room of the answer: the
 * last quarter of it, at most ANSWER_TOKENS, is kept, unless the client gave it very little room. */
static int think_limit(const struct qn_ask *a, int max_new, int n_close, int64_t budget)
{
    int64_t limit = budget > 0 ? budget : INT32_MAX;
    if (max_new >= MIN_SHARED && !a->ignore_eos)
        limit = QN_MIN(limit, max_new - QN_MIN(max_new / 4, ANSWER_TOKENS) - n_close);
    return limit >= INT32_MAX ? 0 : (int)QN_MAX(limit, 1);
}

static int submit(struct qn_output *c, struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_stream *s = c->stream;
    const struct qn_ask *a = &s->ask;
    const struct qn_text *text = s->server->text;
    struct qn_ids close_ids = QN_IDS_INIT(256);
    int max_context = qn_server_max_context(s->server);
    int32_t stop[QN_TEXT_MAX_STOP_IDS + 64];
    int n_stop = 0;
    for (int i = 0; i < text->n_stop; i++) stop[n_stop++] = text->stop_ids[i];
    for (int i = 0; i < a->n_stop_tok && n_stop < (int)QN_COUNT(stop); i++) stop[n_stop++] = a->stop_tok[i];
    int room = max_context - c->prompt->n_tok;
    struct qn_request_params p = {
        .tok = c->prompt->tok,
        .n_tok = c->prompt->n_tok,
        .span = c->prompt->spans,
        .n_span = c->prompt->n_span,
        .max_new = a->is_scoring ? 1 : (int)(a->max_new && a->max_new < room ? a->max_new : QN_MAX(room, 1)),
        .sample = a->sample,
        .bias_tok = a->bias_tok,
        .bias = a->bias,
        .n_bias = a->n_bias,
        .stop_tok = stop,
        .n_stop = n_stop,
        .min_new = (int)QN_MIN(a->min_new, room),
        .ignore_eos = a->ignore_eos,
        .constraint = a->constraint,
        .allowed_bits = a->allowed_bits,
        .n_allowed_word = a->n_allowed_word,
        .ban_tok = a->ban_tok,
        .ban_len = a->ban_len,
        .n_ban = a->n_ban,
        .is_thinking = c->prompt->is_thinking,
        .think_end = text->think_close_id,
        .mtp = a->mtp,
        .prompt_top = a->prompt_top,
        .priority = a->priority,
        .client = s->x->client,
        .salt = a->salt,
        .deadline_us = a->timeout_s > 0 ? s->x->start_us + (int64_t)(a->timeout_s * 1e6) : 0,
    };
    p.sample.seed = qn_mix64(a->sample.seed) ^ (uint64_t)(c->index % a->n);
    if (c->index % a->n == 0) p.sample.seed = a->sample.seed;
    if (p.is_thinking && text->think_close_id >= 0) {
        QN_TRY(qn_tokenizer_encode(text->tokenizer, think_close_text, strlen(think_close_text), NULL,
                                   &close_ids, e));
        qn_ids_push(&close_ids, text->think_close_id);
        p.think_close = close_ids.data;
        p.n_think_close = (int)close_ids.n;
        p.think_budget = c->think_limit =
            think_limit(a, p.max_new, (int)close_ids.n, c->prompt->think_budget);
    }
    snprintf(p.id, sizeof p.id, "%.38s", s->x->id);
    c->submit_us = qn_now_us();
    QN_TRY(qn_engine_submit(qn_server_engine(s->server), &p, &c->request, e));
    c->is_submitted = true;
    s->n_submitted++;
    qn_metric_observe(s->server->meters.max_tokens, p.max_new);
out:
    qn_ids_free(&close_ids);
    return rc;
}

/* As many choices as the window allows. Busy is only an error when nothing of this request runs. */
static int submit_more(struct qn_stream *s, struct qn_err *e)
{
    while (s->n_submitted < s->n_choice && s->n_submitted - s->n_over < WINDOW) {
        int rc = submit(&s->choices[s->n_submitted], e);
        if (rc == QN_BUSY && s->n_submitted > s->n_over) return QN_OK;
        if (rc) return rc;
    }
    return QN_OK;
}

/* Takes what is there; waits at most wait_us when nothing is. True when something came. */
static bool pump(struct qn_stream *s, int64_t wait_us)
{
    struct qn_event ev;
    struct qn_err e = {0};
    bool any = false;
    if (s->n_submitted < s->n_choice && submit_more(s, &e)) {
        fail(s, qn_http_status(e.code), e.text);
        return true;
    }
    struct qn_output *open = NULL;
    int n_open = 0;
    for (int i = 0; i < s->n_submitted; i++) {
        struct qn_output *c = &s->choices[i];
        while (!c->is_over && s->out.n_byte < FULL_BYTES && !qn_request_next(c->request, &ev, 0)) {
            take(c, &ev);
            any = true;
            if (check_memory(s)) return true;
        }
        if (!c->is_over && !n_open++) open = c;
    }
    if (any || !open) return true;
    if (qn_request_next(open->request, &ev, n_open > 1 ? 2000 : wait_us)) return false;
    take(open, &ev);
    check_memory(s);
    return true;
}

static void cancel_all(struct qn_stream *s)
{
    for (int i = 0; i < s->n_choice; i++) {
        struct qn_output *c = &s->choices[i];
        if (c->request) qn_request_cancel(c->request);
        close_choice(c, QN_REASON_ABORT);
    }
}

/* ------------------------------------------------------------------ streamed */

static void write_end(struct qn_stream *s)
{
    begin(s);
    s->is_ended = true;
    if (s->is_failed)
        s->dialect->fail(s, s->fail_status, s->error.text);
    else
        s->dialect->end(s);
    if (s->on_end) s->on_end(s);
}

/* Nothing came: is the peer still there, and does it need a sign of life? false: it is gone. */
static bool idle(struct qn_stream *s)
{
    int64_t now = qn_now_us();
    if (now - s->last_probe_us >= PROBE_US) {
        s->last_probe_us = now;
        enum qn_peer peer = qn_http_peer(s->x);
        if (peer == QN_PEER_GONE) return false;
        if (peer == QN_PEER_HALF && !s->saw_half_close) {
            s->saw_half_close = true; /* a peer that is gone answers this with a reset */
            qn_sse_comment(&s->out, "waiting");
        }
    }
    bool tells_progress = s->ask.wants_progress && !s->choices[0].first_us;
    if (now - s->last_write_us >= (tells_progress ? PROGRESS_US : QN_SSE_KEEPALIVE_US)) {
        begin(s);
        s->dialect->ping(s);
    }
    return true;
}

static ssize_t read_stream(void *owned, char *data, size_t max)
{
    struct qn_stream *s = owned;
    for (;;) {
        if (s->out.failed && !s->is_ended && check_memory(s)) { /* what is said last needs no share */
            qn_share_use(0);
            s->out.failed = QN_OK;
        }
        if (s->out.failed) return -1;
        if (s->out_at < s->out.n_byte) {
            size_t n = QN_MIN(max, s->out.n_byte - s->out_at);
            memcpy(data, s->out.data + s->out_at, n);
            s->out_at += n;
            s->last_write_us = qn_now_us();
            if (s->out_at == s->out.n_byte) {
                qn_buf_clear(&s->out);
                s->out_at = 0;
            }
            return (ssize_t)n;
        }
        if (s->is_ended) return 0;
        if (s->is_failed || s->n_over == s->n_choice)
            write_end(s);
        else if (!pump(s, WAIT_US) && !idle(s)) {
            cancel_all(s);
            return -1;
        }
    }
}

/* ------------------------------------------------------------------ whole */

static void answer_whole(struct qn_stream *s)
{
    int64_t next_probe = qn_now_us() + PROBE_US;
    while (!s->is_failed && s->n_over < s->n_choice) {
        if (!pump(s, WAIT_US) || qn_now_us() > next_probe) {
            next_probe = qn_now_us() + PROBE_US;
            enum qn_peer peer = qn_http_peer(s->x);
            if (peer == QN_PEER_GONE || (peer == QN_PEER_HALF && !qn_http_half_is_alive(s->x))) {
                cancel_all(s);
                qn_http_fail_with(s->x, 499, NULL, "the client has gone");
                return;
            }
        }
    }
    if (s->on_end) s->on_end(s);
    if (s->is_failed) {
        qn_http_fail_with(s->x, s->fail_status, NULL, "%s", s->error.text);
        return;
    }
    struct qn_buf out = QN_BUF_INIT((size_t)1 << 30);
    s->dialect->whole(s, &out);
    qn_http_reply_json(s->x, 200, &out);
}

/* ------------------------------------------------------------------ life */

static void destroy(void *owned)
{
    struct qn_stream *s = owned;
    for (int i = 0; i < s->n_choice; i++) {
        struct qn_output *c = &s->choices[i];
        if (c->request) qn_request_cancel(c->request);
        close_choice(c, QN_REASON_ABORT);
        qn_parse_free(c->parse);
        qn_parsed_free(&c->parsed);
        qn_buf_free(&c->piece);
        qn_buf_free(&c->raw);
        qn_stops_free(&c->stops);
        free(c->call_ids);
        free(c->tok);
        free(c->lps);
        free(c->prompt_lps);
    }
    if (s->state && s->dialect->free_state) s->dialect->free_state(s->state);
    free(s->no_prompts);
    qn_toolset_free(s->tools);
    qn_prompt_free(&s->rendered);
    qn_buf_free(&s->out);
    qn_buf_free(&s->head);
    qn_ask_free(&s->ask);
    free(s);
}

struct qn_stream *qn_stream_create(struct qn_exchange *x, const struct qn_ask *a, const struct qn_dialect *d,
                                   int n_prompt)
{
    struct qn_stream *s = xcalloc(1, sizeof *s);
    s->x = x;
    s->server = x->server;
    s->ask = *a;
    s->dialect = d;
    qn_http_make_id(s->id, sizeof s->id, d->id_prefix, 24);
    s->n_prompt = n_prompt;
    s->prompts = qn_arena_alloc(x->arena, (size_t)n_prompt * sizeof *s->prompts);
    if (!s->prompts) { /* the answer says so (qn_stream_answer); writing the prompts must not fail */
        s->prompts = s->no_prompts = xcalloc((size_t)n_prompt, sizeof *s->prompts);
    }
    s->created = qn_unix_s();
    s->last_write_us = s->last_probe_us = qn_now_us();
    qn_buf_init(&s->out, MAX_TEXT_BYTES);
    qn_buf_init(&s->head, 1 << 20);
    x->owned = s;
    x->owned_free = destroy;
    return s;
}

static int open_choices(struct qn_stream *s, struct qn_err *e)
{
    int rc = QN_OK;
    const struct qn_ask *a = &s->ask;
    s->choices = qn_arena_alloc(s->x->arena, (size_t)s->n_prompt * (size_t)a->n * sizeof *s->choices);
    QN_FAIL_IF(!s->choices || s->no_prompts, e, QN_NOMEM, "there is no memory for %d choices",
               s->n_prompt * a->n);
    s->n_choice = s->n_prompt * a->n;
    for (int i = 0; i < s->n_choice; i++) {
        struct qn_output *c = &s->choices[i];
        c->stream = s;
        c->index = i;
        c->prompt = &s->prompts[i / a->n];
        c->stop_index = c->stop_tok = -1;
        qn_parsed_init(&c->parsed);
        qn_buf_init(&c->piece, MAX_TEXT_BYTES);
        qn_buf_init(&c->raw, MAX_TEXT_BYTES);
        qn_detok_init(&c->detok, s->server->text->tokenizer, a->keep_special ? QN_DETOK_KEEP : QN_DETOK_SKIP);
        if (s->dialect->is_raw) {
            qn_stops_init(&c->stops, a->stops, a->n_stop, a->include_stop);
            continue;
        }
        struct qn_parse_options o = {
            .tools = s->tools,
            .calls_forbidden = a->tool_mode == QN_TOOL_NONE,
            .starts_in_reasoning = c->prompt->is_thinking,
            .stops = a->stops,
            .n_stop = a->n_stop,
            .include_stop = a->include_stop,
            .on_event = on_event,
            .ctx = c,
        };
        QN_TRY(qn_parse_create(&c->parse, &o, e));
    }
out:
    return rc;
}

void qn_stream_answer(struct qn_stream *s)
{
    struct qn_err e = {0};
    struct qn_exchange *x = s->x;
    x->facts.model = s->ask.model;
    x->facts.is_stream = s->ask.is_stream;
    qn_metric_observe(s->server->meters.n, s->ask.n);
    if (open_choices(s, &e) || submit_more(s, &e)) {
        if (e.code == QN_BUSY && atomic_load(&s->server->is_draining))
            qn_http_fail_with(x, 503, "draining", "the server is shutting down");
        else
            qn_http_fail(x, &e);
        cancel_all(s);
        return;
    }
    if (s->ask.is_stream)
        qn_http_reply_stream(x, QN_SSE_TYPE, read_stream);
    else
        answer_whole(s);
}

struct qn_usage qn_stream_usage(const struct qn_stream *s)
{
    struct qn_usage u = {0};
    for (int i = 0; i < s->n_prompt; i++) u.prompt += s->prompts[i].n_tok;
    for (int i = 0; i < s->n_choice; i++) {
        const struct qn_output *c = &s->choices[i];
        struct qn_request_stats live = c->stats;
        if (c->request) qn_request_stats(c->request, &live);
        u.completion += c->n_tok;
        u.reasoning += c->n_reasoning;
        if (i % s->ask.n == 0) u.cached += live.n_cached;
        u.accepted += live.n_accepted;
        u.rejected += live.n_drafted - live.n_accepted;
    }
    return u;
}

void qn_stream_write_token(const struct qn_stream *s, struct qn_buf *out, int32_t tok)
{
    if (s->ask.tokens_as_ids) {
        qn_buf_printf(out, "\"token_id:%d\"", tok);
        return;
    }
    size_t n;
    const uint8_t *bytes = qn_tokenizer_bytes(s->server->text->tokenizer, tok, &n);
    qn_json_write_str(out, (const char *)bytes, n, false);
}

void qn_stream_write_number(struct qn_buf *out, float x)
{
    if (isnan(x))
        qn_buf_puts(out, "null");
    else if (isinf(x) || x < -9999)
        qn_buf_puts(out, "-9999.0");
    else
        qn_buf_printf(out, "%.6g", (double)x);
}

static void write_entry(const struct qn_stream *s, struct qn_buf *out, int32_t tok, float logprob)
{
    size_t n;
    const uint8_t *bytes = qn_tokenizer_bytes(s->server->text->tokenizer, tok, &n);
    qn_buf_puts(out, "{\"token\":");
    qn_stream_write_token(s, out, tok);
    qn_buf_puts(out, ",\"logprob\":");
    qn_stream_write_number(out, logprob);
    qn_buf_puts(out, ",\"bytes\":[");
    for (size_t i = 0; i < n; i++) qn_buf_printf(out, "%s%d", i ? "," : "", bytes[i]);
    qn_buf_putc(out, ']');
}

void qn_stream_write_logprobs(const struct qn_stream *s, struct qn_buf *out, const struct qn_step_token *lps,
                              size_t from, size_t to)
{
    qn_buf_putc(out, '[');
    for (size_t i = from; i < to; i++) {
        const struct qn_step_token *t = &lps[i];
        if (i > from) qn_buf_putc(out, ',');
        write_entry(s, out, t->tok, t->logprob);
        qn_buf_puts(out, ",\"top_logprobs\":[");
        for (int k = 0; k < t->n_top; k++) {
            if (k) qn_buf_putc(out, ',');
            write_entry(s, out, t->top_tok[k], t->top_logprob[k]);
            qn_buf_putc(out, '}');
        }
        qn_buf_puts(out, "]}");
    }
    qn_buf_putc(out, ']');
}
