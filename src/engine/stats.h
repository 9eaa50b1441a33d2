/* Running numbers of an engine: of its steps, cache and tiers, and what it did for single requests. Made by
 * the engine thread, copied out under a lock (qn_engine_stats). SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_STATS_H
#define QN_STATS_H

#include "engine/request.h"

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

#endif
