/* A client of a benchmark: one request (or one after the other until it is told to stop) on a thread of its
 * own, and what was seen of it. SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_BENCH_STREAM_H
#define QN_BENCH_STREAM_H

#include <stdatomic.h>

#include "cli/bench.h"
#include "cli/report.h"

struct qn_stream {
    int32_t *tok; /* [n_tok], owned */
    int n_tok, n_new;
    int mtp; /* -1: the engine's */
    float temperature;
    uint64_t seed;
    uint64_t client;         /* as a key of its own; 0: that of all others */
    int64_t delay_us;        /* submit that long after the start */
    const atomic_bool *stop; /* or NULL: asked again and again until it is set */
    /* seen */
    int64_t submit_us, first_us, last_us;
    int64_t *at_us;  /* [n_got] when each token came */
    int32_t *answer; /* [n_got] */
    int n_got, capacity;
    atomic_int n_seen;             /* n_got, for another thread */
    struct qn_request_stats stats; /* of the last request */
    struct qn_err error;
    int rc;
};

/* Random ids below the first control token; the same seed gives the same prompt. */
int32_t *qn_bench_random(const struct qn_bench *b, uint64_t seed, int n);

/* Starts all; returns when all have ended. The first error wins. */
int qn_streams_run(struct qn_bench *b, struct qn_stream *s, int n, struct qn_err *e);
/* The two halves of it: streams with a stop flag are joined after it is set. */
void qn_streams_start(struct qn_bench *b, struct qn_stream *s, int n);
int qn_streams_join(struct qn_bench *b, struct qn_stream *s, int n, struct qn_err *e);
void qn_streams_free(struct qn_stream *s, int n);

/* --- figures --- */
/* Sorts values; the one at q (0..1). NaN of none. */
double qn_percentile(double *values, int n, double q);
struct qn_spread {
    double median, low, high;
};
struct qn_spread qn_spread_of(double *values, int n);

/* What n streams got between two moments. */
struct qn_span {
    double seconds, tok_s, steps_s;
    double host; /* part of the steps' time that passed between them */
    double
        accepted_step; /* drafts accepted a step and stream that decoded in it: one token less than it got */
    double context;    /* tokens before each one, the mean */
    double itl_p50, itl_p90, itl_p99;    /* ms between tokens of an answer, NaN without any */
    double ttft_p50, ttft_p90, ttft_p99; /* ms, of streams whose first token came in it */
    int64_t n_tok, n_cached, n_prompt;
};
/* before, after: the engine's numbers at the two moments. */
struct qn_span qn_streams_span(const struct qn_stream *s, int n, int64_t from_us, int64_t to_us,
                               const struct qn_engine_stats *before, const struct qn_engine_stats *after);
void qn_row_span(struct qn_row *r, const struct qn_span *p, int n_stream);
/* A row that begins with how it was measured. */
struct qn_row qn_bench_row(const struct qn_bench *b, const char *bench);

#endif
