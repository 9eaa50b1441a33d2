/* bench scenarios: the named workloads that people compare servers with.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/clock.h"
#include "cli/bench_stream.h"
#include "cli/bench_text.h"

static const char *const algorithm =
    "Implement Dijkstra's shortest path algorithm with a binary heap in Python. Explain its complexity, then "
    "give tests "
    "for an empty graph, a single node, unreachable nodes and parallel edges.";
static const char *const debugging =
    "This function should return the median of a list but fails for some inputs. Find every mistake and give "
    "a corrected "
    "version.\n\ndef median(values):\n    values.sort()\n    middle = len(values) / 2\n    if len(values) % "
    "2 == 0:\n"
    "        return values[middle] + values[middle - 1] / 2\n    return values[middle]\n";
static const char *const design = "Design a service that shortens links for ten million users: interfaces, "
                                  "storage, caching, how ids are made, how it "
                                  "grows over several regions, and what happens when a part of it fails.";
static const char *const review = "Review this change for correctness and style.\n\n+int copy_name(char *to, "
                                  "const char *from) {\n+    int i;\n+    for (i "
                                  "= 0; from[i]; i++) to[i] = from[i];\n+    return i;\n+}\n";

static const struct scenario {
    const char *name;
    const char *prompt[4]; /* of the streams in turn */
    int n_prompt, n_new, n_stream;
} scenarios[] = {
    {"algorithm", {algorithm}, 1, 2048, 1},  {"algorithm", {algorithm}, 1, 2048, 4},
    {"debugging", {debugging}, 1, 1024, 1},  {"debugging", {debugging}, 1, 1024, 8},
    {"system design", {design}, 1, 1536, 1}, {"system design", {design}, 1, 1536, 4},
    {"code review", {review}, 1, 512, 1},    {"mixed", {algorithm, debugging, design, review}, 4, 1024, 4},
};

static int one(struct qn_bench *b, const struct scenario *c, struct qn_err *e)
{
    struct qn_stream s[8] = {{0}};
    struct qn_engine_stats before, after;
    int rc = QN_OK, n = c->n_stream;
    for (int i = 0; i < n; i++) {
        int32_t *tok;
        int n_tok;
        QN_TRY(qn_bench_message(b, c->prompt[i % c->n_prompt], &tok, &n_tok, e));
        s[i] = (struct qn_stream){
            .tok = tok, .n_tok = n_tok, .mtp = -1, .temperature = b->temperature, .seed = (uint64_t)i};
        s[i].n_new = QN_MIN(c->n_new, qn_engine_info(b->engine)->max_context - n_tok);
    }
    qn_engine_stats(b->engine, &before);
    int64_t start = qn_now_us(), end = start;
    QN_TRY(qn_streams_run(b, s, n, e));
    qn_engine_stats(b->engine, &after);
    for (int i = 0; i < n; i++) end = QN_MAX(end, s[i].last_us);
    struct qn_span span = qn_streams_span(s, n, start, end, &before, &after);
    struct qn_row r = qn_bench_row(b, "scenario");
    qn_row_str(&r, "scenario", c->name);
    qn_row_int(&r, "streams", n);
    qn_row_int(&r, "prompt", s[0].n_tok);
    qn_row_int(&r, "generated", s[0].n_got);
    qn_row_num(&r, "seconds", span.seconds, 2);
    qn_row_span(&r, &span, n);
    qn_report_add(b->report, &r);
out:
    qn_streams_free(s, n);
    return rc;
}

int qn_bench_scenarios(struct qn_bench *b, struct qn_err *e)
{
    int rc = QN_OK;
    QN_TRY(qn_bench_open(b, 8, qn_bench_fit(b, 2048 + 512, 0), b->base.mtp, e));
    qn_report_note(b->report, "stop tokens are ignored, so that every answer has its full length%s",
                   b->text ? "" : "; random prompts, as the folder has no tokenizer");
    for (size_t i = 0; i < QN_COUNT(scenarios); i++) QN_TRY(one(b, &scenarios[i], e));
out:
    return rc;
}
