/* The scheduler: who is admitted, who runs in the next step, who has to leave.
 * Owned by the engine thread.
 *
 * A step has one decode row (and drafts) of every running stream first, then prefill rows under a budget: the
 * time that the inter-token target leaves (cost.h). Without a target it is 1.75 times that of a step without
 * prefill, so a long prompt at most doubles the gaps.
 * A chunk may go through the model in slices: more rows at once, a few layers a step, the streams beside it
 * in every step (backend/step.h; cost.h says when). One sequence at a time does, others pass it as whole
 * rows. Prompts of one client are read in order of arrival in every other step, and in the others the
 * shortest rest first, so that a short one does not wait for a long one. Waiting sequences are taken by
 * priority, then by what their client got lately (fewest running first, then fewest tokens), then by arrival.
 * When pages run out, the youngest of the lowest priority is suspended with its state in the cache.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_SCHED_H
#define QN_SCHED_H

#include "engine/cost.h"
#include "engine/spec.h"
#include "engine/stats.h"
#include "engine/tier.h"

struct qn_client {
    uint64_t key;
    int n_running, n_waiting;
    double served; /* tokens, halved every few seconds of stepping */
};

struct qn_sched {
    struct qn_cache *cache;
    struct qn_spec *spec;
    struct qn_tier *tier;               /* or NULL */
    struct qn_seq **waiting, **running; /* waiting in order of arrival; running in order of admission */
    int n_waiting, waiting_capacity, n_running, max_seqs;
    struct qn_client *client;
    int n_client, client_capacity;
    int step_tokens, max_logits;
    struct qn_seq_marks marks;
    double itl_target_us; /* 0: twice the time of a step without prefill, nearly */
    struct qn_cost cost;
    struct qn_cost_part *part; /* [n_part] of the model: layers, then norm and draft layer */
    struct qn_cost_part dearest_part;
    int n_part, slice_parts; /* slice_parts: as in the engine's options */
    struct qn_seq *sliced;   /* the running one with a chunk in slices, or NULL */
    int turn;                /* steps with prefill */
    int64_t n_order;
    uint64_t n_preempted;
    bool last_was_rows;                            /* the last step kept all logits: streams are due */
    struct qn_admission admission[QN_N_ADMISSION]; /* a ring */
    uint64_t n_admission;
};

void qn_sched_init(struct qn_sched *s, struct qn_cache *c, struct qn_spec *spec, int max_seqs);
void qn_sched_set_parts(struct qn_sched *s, const struct qn_config *c); /* once, before the first step */
void qn_sched_fini(struct qn_sched *s);
void qn_sched_add(struct qn_sched *s, struct qn_seq *q);    /* a new one: waits */
void qn_sched_remove(struct qn_sched *s, struct qn_seq *q); /* from wherever it is; it holds nothing */
/* Admits what fits. */
void qn_sched_admit(struct qn_sched *s);
int qn_sched_n_fetching(const struct qn_sched *s); /* waiting ones that wait for the tiers */
/* Fills the batch. false: nothing to run. */
bool qn_sched_build(struct qn_sched *s, struct qn_batch *b);
/* Drafts that q's next step can verify. */
int qn_sched_room(const struct qn_sched *s, const struct qn_seq *q);
/* Learns from a finished step. gap_us: between the one before and it; 0: not known. */
void qn_sched_learn(struct qn_sched *s, const struct qn_batch *b, int64_t took_us, int64_t gap_us);
/* Stops the process when pages, slots and lanes do not add up with what the sequences hold. is_thorough:
 * walks every page, which takes a while when there are many. */
void qn_sched_check(const struct qn_sched *s, bool is_thorough);

#endif
