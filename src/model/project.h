/* A projection: what a model would do on a machine, from the bytes it reads, the sums over ranks and the
 * launches of a step. Never a measurement.
 *
 *   limit      bytes at the memory's rate, sums, launches
 *   expected   limit x an efficiency: the limit's step and 73 us a layer, what the best public engines lose
 *              beside it (397B NVFP4 on four RTX PRO 6000: 9.3 ms a step at one stream, 14.4 at 8, 40 at 64)
 *
 * Weights: every layer but the experts once a step; of the experts, with rows that choose on their own,
 * E (1 - (1 - k/E)^rows) of each layer. State is read and written once a step, KV of the context is read.
 * Stateless; any thread. SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_PROJECT_H
#define QN_PROJECT_H

#include "model/plan.h"
#include "model/target.h"

struct qn_project_in {
    const struct qn_config *config;
    const struct qn_tally *tally;
    const struct qn_target *target;
    int ranks, context;
    uint64_t page_bytes, slot_bytes; /* of a rank */
    int page_tok;
    bool has_mtp;
};

/* A decode step, in milliseconds. */
struct qn_project_step {
    double weights_ms, experts_ms, state_ms, kv_ms, reduce_ms, launch_ms, draft_ms;
    double step_ms;         /* their sum: the limit */
    double lost_ms;         /* what engines lose beside it */
    double tokens;          /* of all streams */
    double limit, expected; /* tokens a second, all streams */
    int depth;
};

/* streams at once, drafts a step (their acceptance: 85, 67, 51, 36, 31 %, of a published run). */
void qn_project_step(const struct qn_project_in *in, int streams, int depth, struct qn_project_step *out);
/* The depth from 1 to 5 that gives the most; depth 0 without MTP. */
void qn_project_best(const struct qn_project_in *in, int streams, struct qn_project_step *out);
/* The largest term of a step, by name: "weights", "experts", "state", "kv", "reduce", "launches". */
const char *qn_project_limiter(const struct qn_project_step *s);

#endif
