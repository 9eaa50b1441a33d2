/* bench speculation: every class of content without drafts, at fixed depths and with automatic depth.
 * SPDX-License-Identifier: Apache-2.0 */
#include <math.h>

#include "base/clock.h"
#include "base/mem.h"
#include "cli/bench_stream.h"
#include "cli/bench_text.h"

#define WARM_RUNS  2
#define KEPT_BYTES ((size_t)3 << 30) /* of weights, in engines that wait for their next run */

struct figure {
    double tok_s[QN_BENCH_RUNS];
    double steps_s, accepted_step;
    int64_t drafted_at[QN_MAX_DRAFT], accepted_at[QN_MAX_DRAFT];
};

/* n streams of a class, once. Random prompts are sampled at temperature 1 at least: at 0 they end in loops
 * that any drafter knows. The clock runs while all decode: from the last first token to the first end. */
static int one_run(struct qn_bench *b, enum qn_class class, int n, double *tok_s, struct figure *f,
                   struct qn_err *e)
{
    static struct qn_stream s[QN_BENCH_STREAMS];
    struct qn_engine_stats before, after;
    int rc = QN_OK;
    for (int i = 0; i < n; i++) {
        s[i] = (struct qn_stream){
            .n_new = b->n_gen, .mtp = -1, .temperature = b->temperature, .seed = (uint64_t)i};
        if (class == QN_CLASS_RANDOM || !b->text) s[i].temperature = QN_MAX(b->temperature, 1.0f);
        QN_TRY(qn_bench_content(b, class, i, &s[i].tok, &s[i].n_tok, e));
    }
    qn_engine_stats(b->engine, &before);
    QN_TRY(qn_streams_run(b, s, n, e));
    qn_engine_stats(b->engine, &after);
    int64_t from = 0, to = INT64_MAX, n_new = 0, n_accepted = 0;
    for (int i = 0; i < n; i++) {
        from = QN_MAX(from, s[i].first_us);
        to = QN_MIN(to, s[i].last_us);
        n_new += s[i].stats.n_new - 1;
        n_accepted += s[i].stats.n_accepted;
        for (int k = 0; k < QN_MAX_DRAFT; k++) {
            f->drafted_at[k] += s[i].stats.drafted_at[k];
            f->accepted_at[k] += s[i].stats.accepted_at[k];
        }
    }
    struct qn_span span = qn_streams_span(s, n, from, to, &before, &after);
    *tok_s = span.tok_s;
    f->accepted_step = (double)n_accepted / (double)QN_MAX(n_new - n_accepted, 1);
    f->steps_s = span.tok_s / n / (1 + f->accepted_step);
out:
    qn_streams_free(s, n);
    return rc;
}

static void tell(struct qn_bench *b, enum qn_class class, int n, struct figure *f, double off, double best)
{
    struct qn_spread c = qn_spread_of(f->tok_s, b->n_run);
    struct qn_row r = qn_bench_row(b, "speculation");
    char depth[12] = "auto", at[40] = "";
    int mtp = qn_engine_info(b->engine)->mtp;
    if (mtp >= 0) snprintf(depth, sizeof depth, "%d", mtp);
    for (int k = 0, len = 0; k < QN_MAX_DRAFT && f->drafted_at[k] && len < 35; k++)
        len += snprintf(at + len, sizeof at - (size_t)len, k ? " %.2f" : "%.2f",
                        (double)f->accepted_at[k] / (double)f->drafted_at[k]);
    qn_row_str(&r, "content", qn_class_name(b->text ? class : QN_CLASS_RANDOM));
    qn_row_int(&r, "streams", n);
    qn_row_int(&r, "generated", b->n_gen);
    qn_row_str(&r, "depth", mtp == 0 ? "off" : depth);
    qn_row_num(&r, "tok_s", c.median, 2);
    qn_row_num(&r, "min", c.low, 2);
    qn_row_num(&r, "max", c.high, 2);
    qn_row_num(&r, "steps_s", f->steps_s, 2);
    qn_row_num(&r, "accepted_step", f->accepted_step, 3);
    qn_row_num(&r, "of_off", off > 0 ? c.median / off : NAN, 3);
    qn_row_num(&r, "of_best_fixed", best > 0 && mtp < 0 ? c.median / best : NAN, 3);
    qn_row_str(&r, "accepted_at", at);
    qn_report_add(b->report, &r);
}

/* The engine of a depth, new ones after a run that is not counted: automatic depth learns in it. */
static int open_depth(struct qn_bench *b, struct qn_engine **engine, enum qn_class class, int n, int mtp,
                      struct qn_err *e)
{
    struct figure unused = {0};
    double rate;
    b->engine = *engine;
    if (b->engine) return QN_OK;
    int rc = qn_bench_open(b, n, 1024 + b->n_gen, mtp, e);
    *engine = b->engine;
    for (int i = 0; i < WARM_RUNS && !rc; i++) rc = one_run(b, class, n, &rate, &unused, e);
    return rc;
}

/* All depths of a class at a number of streams, in rounds, so that a machine whose speed drifts is fair to
 * all. The engines stay open between rounds when there is room for all their weights. */
static int one_class(struct qn_bench *b, enum qn_class class, int n, struct qn_err *e)
{
    int rc = QN_OK, n_depth = b->depths.n;
    struct figure *f = xcalloc((size_t)n_depth + 1, sizeof *f);
    struct qn_engine *engine[QN_BENCH_LIST + 1] = {0};
    double off = 0, best = 0;
    for (int run = 0; run < b->n_run; run++)
        for (int d = 0; d <= n_depth; d++) {
            QN_TRY(open_depth(b, &engine[d], class, n, d < n_depth ? b->depths.at[d] : -1, e));
            QN_TRY(one_run(b, class, n, &f[d].tok_s[run], &f[d], e));
            if (run == b->n_run - 1) {
                double rate = qn_spread_of(f[d].tok_s, b->n_run).median;
                if (d < n_depth) best = QN_MAX(best, rate);
                if (d < n_depth && !b->depths.at[d]) off = rate;
                tell(b, class, n, &f[d], off, best);
            }
            if (qn_engine_info(b->engine)->weight_bytes * (size_t)(n_depth + 1) > KEPT_BYTES) {
                qn_bench_close(b);
                engine[d] = NULL;
            }
            b->engine = NULL;
        }
out:
    for (int d = 0; d <= n_depth; d++)
        if (engine[d]) qn_engine_close(engine[d]);
    b->engine = NULL;
    free(f);
    return rc;
}

int qn_bench_speculation(struct qn_bench *b, struct qn_err *e)
{
    int rc = QN_OK;
    for (int i = 0; i < b->streams.n; i++)
        for (int class = 0; class < (b->text ? QN_CLASS_N : 1); class ++)
            QN_TRY(one_class(b, class, b->streams.at[i], e));
out:
    return rc;
}
