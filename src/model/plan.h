/* Memory: what a model weighs, and how a budget divides into weights, state slots and KV pages.
 *
 * Plain arithmetic over sizes the caller has (the backend's sizes of a page, a slot, a lane, of scratch), so
 * the same numbers serve `quern plan`, `quern serve` and tests. Stateless; any thread.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_PLAN_H
#define QN_PLAN_H

#include "model/checkpoint.h"

/* --- what the files hold, by class of module and format --- */
enum qn_part {
    QN_PART_EMBED,
    QN_PART_HEAD,
    QN_PART_ATTENTION,
    QN_PART_GDN,
    QN_PART_MLP,
    QN_PART_ROUTER,
    QN_PART_SHARED, /* shared expert and its gate */
    QN_PART_EXPERTS,
    QN_PART_SMALL, /* norms, conv, A_log, dt_bias */
    QN_PART_MTP,
    QN_N_PART
};
const char *qn_part_name(enum qn_part p);
enum qn_part qn_part_of(enum qn_role role, int layer);

struct qn_tally {
    struct {
        int n_module;
        int64_t n_param;
        uint64_t bytes; /* in the files, scales included */
        int n_by_format[QN_N_FORMAT];
        uint64_t bytes_by_format[QN_N_FORMAT];
    } part[QN_N_PART];
    uint64_t text_bytes, mtp_bytes, vision_bytes, ignored_bytes, side_bytes;
    uint64_t active_bytes; /* weights read for one token of one sequence: k of E experts, one embedding row */
    int n_vision;
};
void qn_tally_model(const struct qn_model *m, struct qn_tally *out);

/* --- dividing memory --- */
struct qn_plan_in {
    uint64_t memory;       /* the budget */
    uint64_t weight_bytes; /* as the backend holds them */
    uint64_t workspace_bytes;
    uint64_t
        request_bytes; /* host memory of requests; 0: qn_plan_request_bytes(memory) where it is asked for */
    size_t page_bytes, slot_bytes, lane_bytes;
    int page_tok;    /* tokens in a page */
    int max_context; /* of the model */
    int context;     /* asked for; 0: the most that fits */
    int users;       /* sequences at once, asked for; 0: 8, or fewer where 8 do not fit */
    bool is_bound;   /* users are at most so many, not so many of the whole context: fewer where their state
                        does   not fit, and the pages are theirs together */
};

struct qn_plan {
    int context, users;
    int n_page; /* users x context, and what is left over goes to the prefix cache */
    int n_slot; /* a live one a user, snapshots besides */
    int n_lane;
    uint64_t request_bytes;
    uint64_t weight_bytes, workspace_bytes, page_bytes, slot_bytes, lane_bytes; /* sums */
    uint64_t total_bytes;                                                       /* <= memory */
};

/* What requests get of a memory, unless told: a sixteenth, at least 32 MiB, at most 1 GiB. */
uint64_t qn_plan_request_bytes(uint64_t memory);
/* Bytes one sequence of `context` tokens needs. */
uint64_t qn_plan_user_bytes(const struct qn_plan_in *in, int context);
/* How many such sequences fit (0: none), and the longest context for a number of sequences (0: none). */
int qn_plan_users(const struct qn_plan_in *in, int context);
int qn_plan_context(const struct qn_plan_in *in, int users);
/* Errors: QN_TOOBIG, with the sum and the nearest configuration that fits. */
int qn_plan_make(const struct qn_plan_in *in, struct qn_plan *out, struct qn_err *e);

/* "1.50 GiB" */
const char *qn_bytes_text(uint64_t bytes, char out[24]);

#endif
