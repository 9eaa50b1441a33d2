/* The engine: owns sequences, pages, state slots and the prefix cache, and decides every step.
 *
 * All verbs may be called from any thread; they talk to the engine thread through its mailbox. submit
 * always takes the full token list: reuse is the engine's business.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_ENGINE_H
#define QN_ENGINE_H

#include "backend/act.h"
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
    int n_thread;         /* CPU workers; 0: one per physical core */
    enum qn_act act;      /* of the inputs of dot products */
    int kv;               /* enum qn_kv, or -1: F32 with F32 activations, else BF16 */
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
    int64_t ram_tier_bytes;   /* 0: default; -1: none */
    const char *disk_tier;    /* folder, or NULL */
    int64_t disk_tier_bytes;  /* 0: default */
    int64_t disk_write_bytes; /* that may be written there a day; 0: default; -1: no limit */
    float itl_target_ms;      /* 0: from the measured time of a step */
    int slice_parts;   /* tests: parts of the model in a slice of prefill, whoever else runs; 0: decided */
    bool checks_pools; /* tests: when idle, walk every page instead of adding up the counters */
    int stuck_s;       /* a step that takes longer ends the process with a flight record; 0: default */
    void (*progress)(void *user, size_t done_bytes, size_t total_bytes); /* of loading; or NULL */
    void *progress_user;
};

/* What was decided at open, for the start-up table and /props. */
struct qn_engine_info {
    int max_context, max_seqs, max_queue, n_page, n_slot, step_tokens, n_thread;
    bool has_mtp;
    bool can_constrain; /* a request may bring a constraint */
    int mtp;            /* as in the options */
    const char *kv;     /* "BF16", ... */
    const char *isa;    /* kernels in use, "avx512bf16"; "" for ref */
    size_t weight_bytes, kv_bytes, state_bytes, workspace_bytes, ram_tier_bytes;
    double load_s;
};

/* The tiers behind the prefix cache. Bytes are those of blobs, headers of files included on disk. Counters
 * only grow. */
struct qn_tier_stats {
    int64_t ram_bytes, ram_budget, disk_bytes, disk_budget;
    int n_ram, n_file;             /* blobs in RAM, files */
    uint64_t n_saved;              /* snapshots copied out of the device */
    uint64_t n_hit, n_hit_tok;     /* prefixes brought back, tokens that this saved */
    uint64_t n_read, read_bytes;   /* files */
    uint64_t n_write, write_bytes; /* files */
    uint64_t n_ram_drop, n_file_drop;
    uint64_t n_over_budget; /* blobs not written because of the write budget */
    uint64_t n_damaged, n_failed;
};

/* What the prefix cache did for a request when it was admitted. */
struct qn_admission {
    char id[40];
    int64_t at_us;
    int n_prompt, n_known, n_cached; /* tokens: in all, known to the cache, resumed from */
    int n_tier_tok;                  /* of those resumed from, brought back by the tiers */
    int64_t queue_us;
    const char *miss; /* why n_cached is less than n_known: a constant text, or NULL */
};
#define QN_N_ADMISSION 64

#define QN_STEP_BINS 16 /* steps of 1, 2, 3 to 4, 5 to 8, ... tokens; the last holds all above 16,384 */

/* Running numbers, for /metrics and /health. Counters only grow. */
struct qn_engine_stats {
    int n_running, n_waiting;
    int n_page, n_page_used, n_page_cached, n_slot, n_slot_live, n_slot_snapshot;
    uint64_t n_step, n_prompt_tok, n_cached_tok, n_new_tok, n_request, n_preempted, n_rejected;
    uint64_t n_step_tok, steps_of[QN_STEP_BINS]; /* tokens read by steps; steps by them */
    uint64_t n_draft_round, n_drafted, n_accepted, accepted_at[QN_MAX_DRAFT], drafted_at[QN_MAX_DRAFT];
    uint64_t prefix_queries, prefix_hits; /* in tokens */
    uint64_t finished[QN_N_FINISH];       /* by enum qn_finish */
    int64_t step_us, gap_us;              /* in steps; between the end of one and the start of the next */
    int64_t last_step_age_us;             /* since a step finished; 0 when idle */
    int depth;                            /* draft depth in use */
    uint64_t n_snap_made, n_snap_evicted, n_node_evicted;
    uint64_t n_match; /* walks along a prompt in the prefix cache */
    int n_fetching;   /* waiting requests whose prefix is being read from disk */
    struct qn_tier_stats tier;
};

/* What open would decide, without opening: all but the figures of the device (isa, load_s); weight_bytes are
 * those of the files. Any thread. */
int qn_engine_plan(struct qn_engine_info *out, const struct qn_engine_options *o, struct qn_err *e);
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
/* The last admissions, newest first; returns how many, at most QN_N_ADMISSION. */
int qn_engine_admissions(struct qn_engine *g, struct qn_admission *out);
/* False when the engine has work but no step has finished for a while. */
bool qn_engine_is_alive(struct qn_engine *g);

/* Raw logits of every position of ids, float [n, V] (with_mtp: draft logits, [n - 1, V]), through the step
 * path. Runs between other work. Calls `rows` for each chunk in order. For eval. */
int qn_engine_logits(struct qn_engine *g, const int32_t *ids, int n, bool with_mtp,
                     int (*rows)(void *user, int first, int n_row, const float *logits), void *user,
                     struct qn_err *e);

#endif
