/* bench concurrency and bench matrix: many streams at once.
 * SPDX-License-Identifier: Apache-2.0 */
#include <math.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/mem.h"
#include "cli/bench_stream.h"

#define LEAST_NEW 64 /* tokens a cell of the matrix has room for behind its context */

/* n streams with prompts of n_tok tokens, the first n_common of them the same for all. */
static void make_streams(struct qn_bench *b, struct qn_stream *s, int n, int n_tok, int n_common)
{
    uint64_t common = ++b->seed;
    int32_t *first = qn_bench_random(b, common, n_tok);
    for (int i = 0; i < n; i++) {
        s[i] = (struct qn_stream){
            .n_tok = n_tok, .n_new = b->n_gen, .mtp = -1, .temperature = b->temperature, .seed = (uint64_t)i};
        s[i].tok = qn_bench_random(b, ++b->seed, n_tok);
        memcpy(s[i].tok, first, (size_t)n_common * sizeof *first);
    }
    free(first);
}

/* What is shared was read before, as a system prompt was by the first request of the day. */
static int read_prefix(struct qn_bench *b, const int32_t *tok, int n, struct qn_err *e)
{
    struct qn_stream s = {.n_tok = n, .n_new = 2, .mtp = -1};
    s.tok = xreallocarray(NULL, (size_t)n, sizeof *tok);
    memcpy(s.tok, tok, (size_t)n * sizeof *tok);
    int rc = qn_streams_run(b, &s, 1, e);
    qn_streams_free(&s, 1);
    return rc;
}

static int one_level(struct qn_bench *b, int n, bool is_shared, struct qn_err *e)
{
    static struct qn_stream s[QN_BENCH_STREAMS];
    struct qn_engine_stats before, after;
    int n_common = is_shared ? b->n_prompt * 3 / 4 : 0, rc = QN_OK;
    make_streams(b, s, n, b->n_prompt, n_common);
    if (is_shared) rc = read_prefix(b, s[0].tok, n_common, e);
    qn_engine_stats(b->engine, &before);
    int64_t start = qn_now_us();
    if (!rc) rc = qn_streams_run(b, s, n, e);
    if (!rc) {
        qn_engine_stats(b->engine, &after);
        int64_t end = start;
        for (int i = 0; i < n; i++) end = QN_MAX(end, s[i].last_us);
        struct qn_span span = qn_streams_span(s, n, start, end, &before, &after);
        struct qn_row r = qn_bench_row(b, "concurrency");
        qn_row_str(&r, "prefix", is_shared ? "shared" : "unique");
        qn_row_int(&r, "prompt", b->n_prompt);
        qn_row_int(&r, "generated", b->n_gen);
        qn_row_int(&r, "streams", n);
        qn_row_span(&r, &span, n);
        qn_row_num(&r, "cached", (double)span.n_cached / (double)QN_MAX(span.n_prompt, 1), 3);
        qn_report_add(b->report, &r);
    }
    qn_streams_free(s, n);
    return rc;
}

int qn_bench_concurrency(struct qn_bench *b, struct qn_err *e)
{
    int rc = QN_OK, most = 1;
    for (int i = 0; i < b->streams.n; i++) most = QN_MAX(most, b->streams.at[i]);
    QN_TRY(qn_bench_open(b, most, b->n_prompt + b->n_gen, b->base.mtp, e));
    for (int shared = 0; shared < 2; shared++)
        for (int i = 0; i < b->streams.n; i++) {
            int n = b->streams.at[i];
            if (!qn_bench_has_room(b, n, b->n_prompt + b->n_gen)) {
                qn_report_note(b->report, "%d streams of %d tokens do not fit", n, b->n_prompt + b->n_gen);
                continue;
            }
            QN_TRY(one_level(b, n, shared, e));
        }
out:
    return rc;
}

/* A cell: n streams behind n_context tokens each decode for `seconds`; the clock starts when all have begun.
 */
static int one_cell(struct qn_bench *b, int n_context, int n, struct qn_err *e)
{
    static struct qn_stream s[QN_BENCH_STREAMS];
    struct qn_engine_stats before, after;
    atomic_bool stop = false;
    int n_tok = QN_MAX(n_context, 16);
    make_streams(b, s, n, n_tok, b->is_shared ? QN_MAX(0, n_tok - 16) : 0);
    for (int i = 0; i < n; i++) {
        s[i].stop = &stop;
        s[i].n_new = QN_MIN(b->n_gen, qn_engine_info(b->engine)->max_context - n_tok);
    }
    if (b->is_shared && n_tok > 32) {
        int rc = read_prefix(b, s[0].tok, n_tok - 16, e);
        if (rc) {
            qn_streams_free(s, n);
            return rc;
        }
    }
    int64_t asked = qn_now_us();
    qn_streams_start(b, s, n);
    for (int i = 0; i < n; i++)
        while (!atomic_load(&s[i].n_seen) && !s[i].rc) usleep(1000);
    int64_t from = qn_now_us();
    qn_engine_stats(b->engine, &before);
    for (int left = b->seconds * 100; left && !s[0].rc; left--) usleep(10000);
    qn_engine_stats(b->engine, &after);
    int64_t to = qn_now_us();
    atomic_store(&stop, true);
    int rc = qn_streams_join(b, s, n, e);
    if (!rc) {
        struct qn_span span = qn_streams_span(s, n, from, to, &before, &after);
        struct qn_row r = qn_bench_row(b, "matrix");
        double ttft = 0;
        for (int i = 0; i < n; i++) ttft = QN_MAX(ttft, (double)(s[i].first_us - asked) / 1000.0);
        span.ttft_p50 = span.ttft_p90 = NAN;
        span.ttft_p99 = ttft; /* of the last one to begin */
        qn_row_str(&r, "prefix", b->is_shared ? "shared" : "unique");
        qn_row_int(&r, "seconds", b->seconds);
        qn_row_int(&r, "context", n_context);
        qn_row_int(&r, "streams", n);
        qn_row_span(&r, &span, n);
        qn_report_add(b->report, &r);
    }
    qn_streams_free(s, n);
    return rc;
}

static void not_possible(struct qn_bench *b, int n_context, int n, const char *why)
{
    struct qn_row r = {.bench = "matrix_left_out"};
    qn_row_int(&r, "context", n_context);
    qn_row_int(&r, "streams", n);
    qn_row_str(&r, "why", why);
    qn_report_add(b->report, &r);
}

/* For the most streams of the list that fit with so many tokens each; *fit says how many. */
static int open_most(struct qn_bench *b, int n_tok, int *fit, struct qn_err *e)
{
    int rc = QN_TOOBIG, most = QN_BENCH_STREAMS + 1;
    while (rc == QN_TOOBIG || rc == QN_NOMEM) {
        int next = 0;
        for (int i = 0; i < b->streams.n; i++)
            if (b->streams.at[i] < most) next = QN_MAX(next, b->streams.at[i]);
        if (!next) break;
        most = next;
        rc = qn_bench_open(b, most, n_tok, b->base.mtp, e);
    }
    *fit = rc ? 0 : most;
    return rc == QN_TOOBIG || rc == QN_NOMEM ? QN_OK : rc;
}

int qn_bench_matrix(struct qn_bench *b, struct qn_err *e)
{
    int rc = QN_OK;
    for (int i = 0; i < b->contexts.n; i++) {
        int context = b->contexts.at[i], fit = 0;
        bool is_long = qn_bench_fit(b, context, LEAST_NEW) < context;
        struct qn_err why = {0};
        if (!is_long) QN_TRY(open_most(b, qn_bench_fit(b, context + b->n_gen, 0), &fit, &why));
        for (int k = 0; k < b->streams.n; k++) {
            int n = b->streams.at[k];
            if (n <= fit)
                QN_TRY(one_cell(b, context, n, e));
            else
                not_possible(b, context, n,
                             is_long ? "longer than the model's context" : "memory: does not fit");
        }
    }
out:
    return rc;
}
