/* The engine: owns sequences, pages, state slots and the prefix cache, and decides every step.
 *
 * All verbs may be called from any thread; they talk to the engine thread through its mailbox. submit
 * always takes the full token list: reuse is the engine's business.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_ENGINE_H
#define QN_ENGINE_H

#include "engine/request.h"

struct qn_engine;
struct qn_model;
struct qn_backend;
struct qn_config;
struct qn_runner; /* engine/rank.h */
struct qn_mask;   /* text/mask.h */

struct qn_engine_options {
    const struct qn_model *model; /* outlives the engine */
    const struct qn_backend *backend;
    /* Instead of model and backend: what executes steps (tests), with the configuration it stands for. */
    const struct qn_runner *runner;
    void *runner_user;
    const struct qn_config *config;
    int n_thread; /* CPU workers; 0: one per physical core */
    bool f32_activations;
    int kv;               /* enum qn_kv, or -1: follows the activations */
    int max_context;      /* 0: what the model and memory allow */
    int max_seqs;         /* running at once; 0: from memory */
    int max_queue;        /* waiting; 0: default */
    int step_tokens;      /* prefill tokens in a step; 0: decided */
    int n_tok;            /* ids below this may be sampled (the tokenizer's count); 0: all */
    struct qn_mask *mask; /* for grammars; the engine's alone until close; NULL: they are refused */
    int n_page, n_slot;   /* sizes of the pools; 0: from memory */
    int64_t memory_bytes; /* for weights, caches and workspace; 0: from the machine */
    int mtp;              /* -1: automatic depth; 0: off; 1..QN_MAX_DRAFT: fixed */
    bool no_prefix_cache;
    int snapshot_gap; /* tokens a state snapshot has to save to be worth a cut in a prefill; 0: default */
    int64_t ram_tier_bytes; /* 0: default; -1: none */
    const char *disk_tier;  /* folder, or NULL */
    int64_t disk_tier_bytes;
    float itl_target_ms; /* 0: from the measured time of a step */
    int stuck_s;         /* a step that takes longer ends the process with a flight record; 0: default */
    void (*progress)(void *user, size_t done_bytes, size_t total_bytes); /* of loading; or NULL */
    void *progress_user;
};

/* What was decided at open, for the start-up table and /props. */
struct qn_engine_info {
    int max_context, max_seqs, n_page, n_slot, step_tokens, n_thread;
    bool has_mtp;
    bool can_constrain; /* a request may bring a constraint */
    int mtp;            /* as in the options */
    const char *kv;     /* "BF16", ... */
    const char *isa;    /* kernels in use, "avx512bf16"; "" for ref */
    size_t weight_bytes, kv_bytes, state_bytes, workspace_bytes, ram_tier_bytes;
    double load_s;
};

/* Running numbers, for /metrics and /health. Counters only grow. */
struct qn_engine_stats {
    int n_running, n_waiting;
    int n_page, n_page_used, n_page_cached, n_slot, n_slot_live, n_slot_snapshot;
    uint64_t n_step, n_prompt_tok, n_cached_tok, n_new_tok, n_request, n_preempted, n_rejected;
    uint64_t n_draft_round, n_drafted, n_accepted, accepted_at[QN_MAX_DRAFT], drafted_at[QN_MAX_DRAFT];
    uint64_t prefix_queries, prefix_hits; /* in tokens */
    uint64_t finished[4];                 /* by enum qn_finish */
    int64_t last_step_age_us;             /* since a step finished; 0 when idle */
    int depth;                            /* draft depth in use */
};

/* Loads the model and starts the threads. QN_NOMEM names the nearest configuration that fits. */
int qn_engine_open(struct qn_engine **out, const struct qn_engine_options *o, struct qn_err *e);
/* Refuses new requests (QN_BUSY), lets running ones end until the deadline, then cancels them. */
void qn_engine_drain(struct qn_engine *g, int64_t deadline_us);
void qn_engine_close(struct qn_engine *g);
const struct qn_engine_info *qn_engine_info(const struct qn_engine *g);

/* Errors: QN_TOOBIG (prompt leaves no room for one token; text names both numbers), QN_BUSY (queue full or
 * draining), QN_INVAL (a token id out of range, a parameter out of range). The caller gets the reader's
 * reference. */
int qn_engine_submit(struct qn_engine *g, const struct qn_request_params *p, struct qn_request **out,
                     struct qn_err *e);
void qn_engine_stats(struct qn_engine *g, struct qn_engine_stats *out);
/* False when the engine has work but no step has finished for a while. */
bool qn_engine_is_alive(struct qn_engine *g);

/* Raw logits of every position of ids, float [n, V] (with_mtp: draft logits, [n - 1, V]), through the step
 * path. Runs between other work. Calls `rows` for each chunk in order. For eval. */
int qn_engine_logits(struct qn_engine *g, const int32_t *ids, int n, bool with_mtp,
                     int (*rows)(void *user, int first, int n_row, const float *logits), void *user,
                     struct qn_err *e);

#endif
