/* What the parts of quern bench share: the model under test, how its engine is opened, how results are told.
 *
 * A part (bench_<noun>.c) opens the engine it needs, runs requests through it as a server would and adds one
 * row a result. Options that change a result are in its row, so that only equal runs are compared. One
 * thread. SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_BENCH_H
#define QN_BENCH_H

#include "base/err.h"
#include "engine/engine.h"

#define QN_BENCH_LIST    16
#define QN_BENCH_STREAMS 256
#define QN_BENCH_RUNS    64

struct qn_text;
struct qn_report;

struct qn_bench_list {
    int n, at[QN_BENCH_LIST];
};

struct qn_bench {
    const struct qn_model *model;
    struct qn_text *text;          /* NULL: a folder without a tokenizer; prompts are random ids then */
    struct qn_engine_options base; /* device, threads, memory, KV, depth; the part adds sizes */
    struct qn_engine *engine;      /* open, or NULL */
    struct qn_report *report;
    uint64_t seed;   /* of prompts; counts up so that no two prompts share a prefix unless wanted */
    double read_gbs; /* measured read bandwidth, 1e9 bytes a second; 0: not measured */
    /* what to measure */
    struct qn_bench_list prompts, contexts, streams, depths;
    int n_run, n_gen, n_turn, n_prompt, n_first, n_more, n_long, n_known, seconds;
    float temperature;
    bool is_speculating; /* bench speed: also with automatic depth */
    bool is_shared;      /* bench matrix: the streams share their context */
    const char *disk_tier;
};

/* (Re)opens the engine for so many streams of so many tokens each; `limit` set: as many as fit. Closes the
 * one that was open. The context is cut to the model's. */
int qn_bench_open(struct qn_bench *b, int n_stream, int n_tok, int mtp, struct qn_err *e);
void qn_bench_close(struct qn_bench *b);
/* The longest prompt that leaves room for n_new tokens in the model's context; at most n_tok. */
int qn_bench_fit(const struct qn_bench *b, int n_tok, int n_new);
/* Can n_stream streams of n_tok tokens run at once in the open engine? */
bool qn_bench_has_room(const struct qn_bench *b, int n_stream, int n_tok);

/* --- the parts --- */
int qn_bench_speed(struct qn_bench *b, struct qn_err *e);
int qn_bench_concurrency(struct qn_bench *b, struct qn_err *e);
int qn_bench_matrix(struct qn_bench *b, struct qn_err *e);
int qn_bench_agent(struct qn_bench *b, struct qn_err *e);
int qn_bench_mixed(struct qn_bench *b, struct qn_err *e);
int qn_bench_speculation(struct qn_bench *b, struct qn_err *e);
int qn_bench_scenarios(struct qn_bench *b, struct qn_err *e);

#endif
