/* What an engine is opened with, and what it decided from that.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_OPTIONS_H
#define QN_OPTIONS_H

#include "backend/act.h"
#include "base/base.h"

struct qn_model;
struct qn_backend;
struct qn_config;
struct qn_runner; /* engine/runner.h */
struct qn_mask;   /* text/mask.h */
struct qn_meet;   /* engine/layer.h */

#define QN_MAX_RANK 64

struct qn_engine_options {
    const struct qn_model *model; /* outlives the engine */
    const struct qn_backend *backend;
    /* Instead of model and backend: what executes steps (tests), with the configuration it stands for. */
    const struct qn_runner *runner;
    void *runner_user;
    const struct qn_config *config;
    int n_rank;                 /* that share the work; 0: one */
    const struct qn_meet *meet; /* [n_rank] engine/layer.h: brings their parts together; NULL: over threads */
    int n_thread;               /* CPU workers; 0: one per physical core */
    enum qn_act act;            /* of the inputs of dot products */
    int kv;                     /* enum qn_kv, or -1: F32 with F32 activations, else BF16 */
    int max_context;            /* 0: what the model and memory allow */
    bool is_bound;         /* max_seqs is a bound, not a promise of so many whole contexts (model/plan.h) */
    int max_seqs;          /* running at once; 0: from memory */
    int max_queue;         /* waiting; 0: default */
    int step_tokens;       /* prefill tokens in a step; 0: decided */
    int n_tok;             /* ids below this may be sampled (the tokenizer's count); 0: all */
    struct qn_mask *mask;  /* for grammars; the engine's alone until close; NULL: they are refused */
    int n_page, n_slot;    /* sizes of the pools; 0: from memory */
    int64_t memory_bytes;  /* for weights, caches and workspace; 0: from the machine */
    int64_t request_bytes; /* host memory of requests, inside memory_bytes; 0: none is kept for them */
    int mtp;               /* -1: automatic depth; 0: off; 1..QN_MAX_DRAFT: fixed */
    bool no_prefix_cache;
    int snapshot_gap; /* tokens a state snapshot has to save to be worth a cut in a prefill; 0: default */
    int64_t ram_tier_bytes;   /* 0: default; -1: none */
    const char *disk_tier;    /* folder, or NULL */
    int64_t disk_tier_bytes;  /* 0: default */
    int64_t disk_write_bytes; /* that may be written there a day; 0: default; -1: no limit */
    float itl_target_ms;      /* 0: from the measured time of a step */
    bool masks_beside;        /* tests: the masks of every grammar are made beside the step, */
    int mask_delay_us;        /* and take up to so much longer */
    int slice_parts;   /* tests: parts of the model in a slice of prefill, whoever else runs; 0: decided */
    bool checks_pools; /* tests: when idle, walk every page instead of adding up the counters */
    int stuck_s;       /* a step that takes longer ends the process with a flight record; 0: default */
    void (*progress)(void *user, size_t done_bytes, size_t total_bytes); /* of loading; or NULL */
    void *progress_user;
};

/* What was decided at open, for the start-up table and /props. */
struct qn_engine_info {
    int max_context, max_seqs, max_queue, n_page, n_slot, step_tokens, n_thread, n_rank;
    bool has_mtp;
    bool can_constrain; /* a request may bring a constraint */
    int mtp;            /* as in the options */
    const char *kv;     /* "BF16", ... */
    const char *isa;    /* of the device: "avx512bf16", "plain C"; "" before it is open */
    size_t weight_bytes, kv_bytes, state_bytes, workspace_bytes, ram_tier_bytes, request_bytes;
    double load_s;
};

#endif
