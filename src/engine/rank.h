/* The rank thread: owns a device and the forward pass on it, executes what the engine thread publishes.
 *
 * One piece of work is a list of chores (copies of pages and state, between steps) and then, usually, one
 * step. It travels as a letter in the rank's mailbox and comes back as a letter in the engine's. The rank
 * takes no decision.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_RANK_H
#define QN_RANK_H

#include "base/mail.h"
#include "engine/runner.h"

/* A piece of work. Owned by the engine; the rank has it between publish and result. */
struct qn_work {
    struct qn_letter letter;
    struct qn_chores chores;
    const struct qn_step *step; /* or NULL */
    struct qn_step_result *result;
    float *mtp_logits; /* runs mtp_logits instead of run: host memory; or NULL */
    int rc;            /* of chores without a step, faults of one */
    struct qn_err error;
    int64_t start_us, step_us, end_us; /* step_us: when the step began, after the chores */
};

struct qn_rank;

/* Starts the thread and opens the runner on it; waits until it is open. Results are posted to `home`. */
int qn_rank_open(struct qn_rank **out, const struct qn_runner *runner, void *user,
                 const struct qn_model *model, const struct qn_forward_options *o, struct qn_mail *home,
                 struct qn_err *e);
void qn_rank_close(struct qn_rank *r); /* with no work published; NULL is allowed */
void qn_rank_publish(struct qn_rank *r, struct qn_work *w);
bool qn_rank_has_mtp(const struct qn_rank *r);
const struct qn_device_info *qn_rank_device(const struct qn_rank *r);

#endif
