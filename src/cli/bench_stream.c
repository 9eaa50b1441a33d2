/* Clients of a benchmark.
 * SPDX-License-Identifier: Apache-2.0 */
#include "cli/bench_stream.h"

#include <math.h>
#include <pthread.h>
#include <unistd.h>

#include "backend/backend.h"
#include "base/clock.h"
#include "base/cpu.h"
#include "base/mem.h"
#include "base/rng.h"
#include "model/checkpoint.h"

#define POLL_US 50000

static pthread_t thread[QN_BENCH_STREAMS];
static struct job {
    struct qn_engine *engine;
    struct qn_stream *stream;
} job[QN_BENCH_STREAMS];

int32_t *qn_bench_random(const struct qn_bench *b, uint64_t seed, int n)
{
    int vocab = qn_model_config(b->model)->vocab;
    int usable = QN_MAX(1, QN_MIN(vocab, 200000) - 96);
    int32_t *tok = xreallocarray(NULL, (size_t)QN_MAX(n, 1), sizeof *tok);
    for (int i = 0; i < n; i++) tok[i] = (int32_t)(qn_rng64(seed, (uint64_t)i, 77) % (uint64_t)usable);
    return tok;
}

static bool is_stopped(const struct qn_stream *s)
{
    return s->stop && atomic_load(s->stop);
}

static void keep(struct qn_stream *s, int32_t tok)
{
    if (s->n_got == s->capacity) {
        s->capacity = QN_MAX(256, 2 * s->capacity);
        s->at_us = xreallocarray(s->at_us, (size_t)s->capacity, sizeof *s->at_us);
        s->answer = xreallocarray(s->answer, (size_t)s->capacity, sizeof *s->answer);
    }
    s->last_us = qn_now_us();
    if (!s->n_got) s->first_us = s->last_us;
    s->answer[s->n_got] = tok;
    s->at_us[s->n_got++] = s->last_us;
    atomic_store(&s->n_seen, s->n_got);
}

static void ask(struct qn_engine *g, struct qn_stream *s)
{
    struct qn_request_params p = {.tok = s->tok,
                                  .n_tok = s->n_tok,
                                  .max_new = s->n_new,
                                  .ignore_eos = true,
                                  .mtp = s->mtp,
                                  .client = s->client,
                                  .prompt_top = -1};
    p.sample = (struct qn_sample){
        .temperature = s->temperature, .seed = s->seed, .top_p = 1, .repetition = 1, .n_top = -1};
    struct qn_request *r;
    if (!s->submit_us) s->submit_us = qn_now_us();
    s->rc = qn_engine_submit(g, &p, &r, &s->error);
    if (s->rc) return;
    for (;;) {
        struct qn_event event;
        int rc = qn_request_next(r, &event, POLL_US);
        if (is_stopped(s)) qn_request_cancel(r);
        if (rc == QN_TIMEOUT) continue;
        if (rc) break;
        if (event.kind == QN_EVENT_TOKEN) keep(s, event.token.tok);
        if (event.kind == QN_EVENT_END) {
            if (event.finish == QN_FINISH_ERROR) {
                s->rc = event.error.code;
                s->error = event.error;
            }
            break;
        }
    }
    qn_request_stats(r, &s->stats);
    qn_request_release(r);
}

static void *run_stream(void *user)
{
    const struct job *j = user;
    struct qn_stream *s = j->stream;
    if (s->delay_us) usleep((useconds_t)s->delay_us);
    do ask(j->engine, s);
    while (!s->rc && s->stop && !is_stopped(s));
    return NULL;
}

void qn_streams_start(struct qn_bench *b, struct qn_stream *s, int n)
{
    QN_CHECK(n <= QN_BENCH_STREAMS);
    for (int i = 0; i < n; i++) {
        job[i] = (struct job){b->engine, &s[i]};
        QN_CHECK(!pthread_create(&thread[i], NULL, run_stream, &job[i]));
    }
}

int qn_streams_join(struct qn_bench *b, struct qn_stream *s, int n, struct qn_err *e)
{
    (void)b;
    int rc = QN_OK;
    for (int i = 0; i < n; i++) {
        pthread_join(thread[i], NULL);
        if (s[i].rc && !rc) {
            rc = s[i].rc;
            if (e) *e = s[i].error;
        }
    }
    return rc;
}

int qn_streams_run(struct qn_bench *b, struct qn_stream *s, int n, struct qn_err *e)
{
    qn_streams_start(b, s, n);
    return qn_streams_join(b, s, n, e);
}

void qn_streams_free(struct qn_stream *s, int n)
{
    for (int i = 0; i < n; i++) {
        free(s[i].tok);
        free(s[i].at_us);
        free(s[i].answer);
        s[i] = (struct qn_stream){0};
    }
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

double qn_percentile(double *values, int n, double q)
{
    if (!n) return NAN;
    qsort(values, (size_t)n, sizeof *values, by_value);
    return values[QN_MIN(n - 1, (int)(q * n))];
}

struct qn_spread qn_spread_of(double *values, int n)
{
    struct qn_spread c = {.median = qn_percentile(values, n, 0.5)};
    c.low = n ? values[0] : NAN;
    c.high = n ? values[n - 1] : NAN;
    return c;
}

struct qn_span qn_streams_span(const struct qn_stream *s, int n, int64_t from_us, int64_t to_us,
                               const struct qn_engine_stats *before, const struct qn_engine_stats *after)
{
    struct qn_span p = {.seconds = (double)(to_us - from_us) / 1e6};
    int64_t room = 0;
    double ttft[QN_BENCH_STREAMS];
    int n_gap = 0, n_ttft = 0;
    for (int i = 0; i < n; i++) room += s[i].n_got;
    double *gap = xcalloc((size_t)room + 1, sizeof *gap);
    for (int i = 0; i < n; i++) {
        p.n_cached += s[i].stats.n_cached;
        p.n_prompt += s[i].n_tok;
        for (int k = 0; k < s[i].n_got; k++) {
            int64_t at = s[i].at_us[k];
            if (at < from_us || at > to_us) continue;
            p.n_tok++;
            p.context += s[i].n_tok + k % s[i].n_new;
            bool is_first = k % s[i].n_new == 0; /* of an answer: what is before it is no gap */
            if (!is_first && s[i].at_us[k - 1] >= from_us)
                gap[n_gap++] = (double)(at - s[i].at_us[k - 1]) / 1000.0;
        }
        if (s[i].n_got && s[i].first_us >= from_us && s[i].first_us <= to_us)
            ttft[n_ttft++] = (double)(s[i].first_us - s[i].submit_us) / 1000.0;
    }
    uint64_t n_step = after->n_step - before->n_step;
    p.context /= (double)QN_MAX(p.n_tok, 1);
    p.tok_s = (double)p.n_tok / QN_MAX(p.seconds, 1e-6);
    p.steps_s = (double)n_step / QN_MAX(p.seconds, 1e-6);
    int64_t gap_us = after->gap_us - before->gap_us, step_us = after->step_us - before->step_us;
    p.host = gap_us + step_us > 0 ? (double)gap_us / (double)(gap_us + step_us) : NAN;
    uint64_t accepted = after->n_accepted - before->n_accepted, n_new = after->n_new_tok - before->n_new_tok;
    p.accepted_step = n_new > accepted ? (double)accepted / (double)(n_new - accepted) : NAN;
    p.itl_p50 = qn_percentile(gap, n_gap, 0.5);
    p.itl_p90 = qn_percentile(gap, n_gap, 0.9);
    p.itl_p99 = qn_percentile(gap, n_gap, 0.99);
    p.ttft_p50 = qn_percentile(ttft, n_ttft, 0.5);
    p.ttft_p90 = qn_percentile(ttft, n_ttft, 0.9);
    p.ttft_p99 = qn_percentile(ttft, n_ttft, 0.99);
    free(gap);
    return p;
}

void qn_row_span(struct qn_row *r, const struct qn_span *p, int n_stream)
{
    qn_row_num(r, "tok_s", p->tok_s, 2);
    qn_row_num(r, "stream_tok_s", p->tok_s / n_stream, 2);
    qn_row_num(r, "steps_s", p->steps_s, 2);
    qn_row_num(r, "host", p->host, 4);
    qn_row_num(r, "accepted_step", p->accepted_step, 3);
    qn_row_num(r, "ttft_p50_ms", p->ttft_p50, 1);
    qn_row_num(r, "ttft_p90_ms", p->ttft_p90, 1);
    qn_row_num(r, "ttft_p99_ms", p->ttft_p99, 1);
    qn_row_num(r, "itl_p50_ms", p->itl_p50, 2);
    qn_row_num(r, "itl_p90_ms", p->itl_p90, 2);
    qn_row_num(r, "itl_p99_ms", p->itl_p99, 2);
}

struct qn_row qn_bench_row(const struct qn_bench *b, const char *bench)
{
    const struct qn_engine_info *info = qn_engine_info(b->engine);
    struct qn_row r = {.bench = bench};
    qn_row_str(&r, "version", QN_VERSION);
    qn_row_str(&r, "model", qn_model_name(b->model));
    qn_row_str(&r, "device", b->base.backend->name);
    qn_row_int(&r, "threads", info->n_thread ? info->n_thread : qn_cpu_n_core());
    bool is_cpu = !strcmp(b->base.backend->name, "cpu");
    qn_row_str(&r, "isa", info->isa[0] ? info->isa : is_cpu ? qn_isa_name(qn_cpu_isa()) : "");
    qn_row_str(&r, "kv", info->kv);
    char mtp[12] = "auto";
    if (info->mtp >= 0) snprintf(mtp, sizeof mtp, "%d", info->mtp);
    qn_row_str(&r, "mtp", info->has_mtp || !info->mtp ? mtp : "none");
    qn_row_num(&r, "temperature", (double)b->temperature, 2);
    qn_row_int(&r, "runs", b->n_run);
    if (b->read_gbs > 0) qn_row_num(&r, "read_gbs", b->read_gbs, 2);
    r.n_common = r.n;
    return r;
}
