/* bench agent: a session whose every turn repeats all of it and adds something, then the same after a
 * restart; bench mixed: running streams while a long prompt is read. SPDX-License-Identifier: Apache-2.0 */
#include <math.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/mem.h"
#include "cli/bench_stream.h"

struct session {
    int32_t *tok;        /* what was said so far */
    int n_tok, n_before; /* n_before: of it, what the last request knew at its end */
    int64_t reusable, reused;
};

/* One request; its answer and n_more new tokens (what a tool returned) become part of the session. */
static int one_turn(struct qn_bench *b, struct session *c, int turn, const char *when, struct qn_err *e)
{
    struct qn_stream s = {.n_tok = c->n_tok, .n_new = b->n_gen, .mtp = -1, .temperature = b->temperature};
    s.tok = xreallocarray(NULL, (size_t)c->n_tok, sizeof *s.tok);
    memcpy(s.tok, c->tok, (size_t)c->n_tok * sizeof *s.tok);
    int rc = qn_streams_run(b, &s, 1, e);
    if (!rc) {
        /* the last token of a prompt always runs; the last one of the answer never did */
        int reusable = c->n_before ? c->n_before - 1 : 0, n = s.stats.n_new - 1;
        c->reusable += reusable;
        c->reused += QN_MIN(s.stats.n_cached, reusable);
        struct qn_row r = qn_bench_row(b, "agent");
        qn_row_str(&r, "when", when);
        qn_row_int(&r, "turn", turn);
        qn_row_int(&r, "prompt", c->n_tok);
        qn_row_int(&r, "new", c->n_tok - c->n_before);
        qn_row_int(&r, "cached", s.stats.n_cached);
        qn_row_num(&r, "reused", reusable ? (double)QN_MIN(s.stats.n_cached, reusable) / reusable : NAN, 4);
        qn_row_num(&r, "ttft_ms", (double)(s.first_us - s.submit_us) / 1000.0, 2);
        qn_row_num(&r, "prefill_tok_s",
                   (c->n_tok - s.stats.n_cached) * 1e6 / (double)QN_MAX(s.stats.prefill_us, 1), 1);
        qn_row_num(&r, "tok_s", n * 1e6 / (double)QN_MAX(s.stats.decode_us, 1), 2);
        qn_row_num(&r, "accepted_step", (double)s.stats.n_accepted / QN_MAX(n - s.stats.n_accepted, 1), 3);
        qn_report_add(b->report, &r);
        memcpy(c->tok + c->n_tok, s.answer, (size_t)s.n_got * sizeof *c->tok);
        c->n_before = c->n_tok + s.n_got;
        int32_t *more = qn_bench_random(b, ++b->seed, b->n_more);
        memcpy(c->tok + c->n_before, more, (size_t)b->n_more * sizeof *more);
        free(more);
        c->n_tok = c->n_before + b->n_more;
    }
    qn_streams_free(&s, 1);
    return rc;
}

static int run_session(struct qn_bench *b, struct session *c, const char *folder, struct qn_err *e)
{
    int rc = QN_OK, n_turn = b->n_turn, room = b->n_first + (n_turn + 3) * (b->n_more + b->n_gen) + 16;
    int fits = qn_bench_fit(b, room, 1);
    while (n_turn > 2 && b->n_first + (n_turn + 2) * (b->n_more + b->n_gen) > fits) n_turn--;
    if (n_turn < b->n_turn)
        qn_report_note(b->report, "%d turns of %d: more do not fit the model's context", n_turn, b->n_turn);
    c->tok = qn_bench_random(b, ++b->seed, room);
    c->n_tok = b->n_first;
    b->base.disk_tier = folder;
    QN_TRY(qn_bench_open(b, 1, QN_MIN(room, fits), b->base.mtp, e));
    for (int turn = 1; turn <= n_turn; turn++) QN_TRY(one_turn(b, c, turn, "running", e));
    double hit = c->reusable ? 100.0 * (double)c->reused / (double)c->reusable : 100;
    qn_report_note(b->report,
                   "%.2f %% of the reusable tokens came from the cache (%" PRId64 " of %" PRId64 ")", hit,
                   c->reused, c->reusable);
    if (!folder) return rc;
    qn_bench_close(b); /* writes what is to be kept */
    QN_TRY(qn_bench_open(b, 1, QN_MIN(room, fits), b->base.mtp, e));
    c->reusable = c->reused = 0;
    for (int turn = n_turn + 1; turn <= n_turn + 2; turn++)
        QN_TRY(one_turn(b, c, turn, "after a restart", e));
    qn_report_note(b->report, "after a restart %.2f %%",
                   100.0 * (double)c->reused / (double)QN_MAX(c->reusable, 1));
out:
    return rc;
}

int qn_bench_agent(struct qn_bench *b, struct qn_err *e)
{
    char folder[] = "/tmp/quern-bench-XXXXXX", line[64];
    bool is_ours = !b->disk_tier && mkdtemp(folder);
    struct session c = {0};
    int rc = run_session(b, &c, b->disk_tier ? b->disk_tier : is_ours ? folder : NULL, e);
    free(c.tok);
    qn_bench_close(b);
    b->base.disk_tier = NULL;
    snprintf(line, sizeof line, "rm -rf %s", folder);
    if (is_ours && system(line)) qn_report_note(b->report, "%s is left", folder);
    return rc;
}

/* --- mixed --- */

#define ANSWER 1024 /* tokens of a stream's answer, about */

static void rest(int64_t us)
{
    for (int64_t until = qn_now_us() + us; qn_now_us() < until;) usleep(5000);
}

/* When its last token came. */
static int64_t read_to_end(struct qn_request *r, struct qn_request_stats *stats)
{
    struct qn_event event = {.kind = QN_EVENT_TOKEN};
    int64_t end = qn_now_us();
    while (event.kind != QN_EVENT_END) {
        int got = qn_request_next(r, &event, 1000000);
        if (got == QN_TIMEOUT) continue;
        if (event.kind == QN_EVENT_TOKEN) end = qn_now_us();
        if (got) break;
    }
    qn_request_stats(r, stats);
    qn_request_release(r);
    return end;
}

/* Gaps of n running streams for a while, then while a long prompt is read beside them. A step's time grows
 * with what its streams have read and written, so their answers are short and asked for again and again: they
 * are as long beside the prompt as before it. Each is a client of its own, else it would be admitted and then
 * wait for its first row until the prompt is read. */
static int beside_long(struct qn_bench *b, int n, struct qn_err *e)
{
    static struct qn_stream s[QN_BENCH_STREAMS];
    struct qn_engine_stats at[3];
    atomic_bool stop = false;
    int n_long = qn_bench_fit(b, b->n_long, 2), n_tok = 64;
    int rc = qn_bench_open(b, n + 1, QN_MAX(n_long, n_tok + ANSWER + 512) + 16, b->base.mtp, e);
    if (rc) return rc;
    if (n_long < b->n_long)
        qn_report_note(b->report, "a long prompt of %d tokens: more does not fit the model's context",
                       n_long);
    for (int i = 0; i <= n; i++) {
        int n_new = qn_bench_fit(b, n_tok + ANSWER + i % 8 * 64, 0) - n_tok; /* they end by turns */
        s[i] = (struct qn_stream){.n_tok = i < n ? n_tok : n_long,
                                  .n_new = i < n ? QN_MAX(n_new, 1) : 1,
                                  .client = (uint64_t)i + 1,
                                  .mtp = -1,
                                  .temperature = b->temperature,
                                  .seed = (uint64_t)i,
                                  .stop = i < n ? &stop : NULL};
        s[i].tok = qn_bench_random(b, ++b->seed, s[i].n_tok);
    }
    struct qn_request_params p = {
        .tok = s[n].tok, .n_tok = n_long, .max_new = 1, .ignore_eos = true, .mtp = -1, .prompt_top = -1};
    p.sample = (struct qn_sample){.top_p = 1, .repetition = 1, .n_top = -1};
    struct qn_request *request;
    struct qn_request_stats stats = {0};
    if (b->n_known) { /* of the long prompt, read before */
        p.n_tok = QN_MIN(b->n_known, n_long - 1);
        rc = qn_engine_submit(b->engine, &p, &request, e);
        if (rc) goto out;
        read_to_end(request, &stats);
        p.n_tok = n_long;
    }
    qn_streams_start(b, s, n);
    for (int i = 0; i < n; i++)
        while (!atomic_load(&s[i].n_seen) && !s[i].rc) usleep(1000);
    rest(1000000); /* depth and times settle */
    int64_t from = qn_now_us();
    qn_engine_stats(b->engine, &at[0]);
    rest((int64_t)b->seconds * 1000000);
    qn_engine_stats(b->engine, &at[1]);
    int64_t begin = qn_now_us();
    int64_t end = begin;
    rc = qn_engine_submit(b->engine, &p, &request, e);
    if (!rc) end = read_to_end(request, &stats);
    qn_engine_stats(b->engine, &at[2]);
    atomic_store(&stop, true);
    int joined = qn_streams_join(b, s, n, rc ? NULL : e);
    if (!rc) rc = joined;
    if (!rc) {
        struct qn_span alone = qn_streams_span(s, n, from, begin, &at[0], &at[1]);
        struct qn_span with = qn_streams_span(s, n, begin, end, &at[1], &at[2]);
        struct qn_row r = qn_bench_row(b, "mixed");
        qn_row_int(&r, "streams", n);
        qn_row_int(&r, "long_prompt", n_long);
        qn_row_int(&r, "long_known", stats.n_cached);
        qn_row_num(&r, "long_ttft_s", (double)(end - begin) / 1e6, 2);
        qn_row_num(&r, "context_alone", alone.context, 0); /* of the streams, the mean */
        qn_row_num(&r, "context", with.context, 0);
        qn_row_num(&r, "tok_s_alone", alone.tok_s, 2);
        qn_row_num(&r, "tok_s", with.tok_s, 2);
        qn_row_num(&r, "itl_p50_alone_ms", alone.itl_p50, 3);
        qn_row_num(&r, "itl_p99_alone_ms", alone.itl_p99, 3);
        qn_row_num(&r, "itl_p50_ms", with.itl_p50, 3);
        qn_row_num(&r, "itl_p99_ms", with.itl_p99, 3);
        qn_row_num(&r, "p99_ratio", with.itl_p99 / alone.itl_p99, 2);
        qn_report_add(b->report, &r);
    }
out:
    qn_streams_free(s, n + 1);
    return rc;
}

int qn_bench_mixed(struct qn_bench *b, struct qn_err *e)
{
    int rc = QN_OK;
    for (int i = 0; i < b->streams.n; i++) QN_TRY(beside_long(b, b->streams.at[i], e));
out:
    return rc;
}
