/* A rank: a thread that owns a device and the forward pass on it, and executes what the engine publishes.
 *
 * One piece of work is a list of chores (copies of pages and state, between steps) and then, usually, one
 * step. It goes to every rank of the engine (engine/ranks.h) as a letter in the rank's mailbox, and comes
 * back as a letter in the engine's. Ranks take no decision. SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_RANK_H
#define QN_RANK_H

#include "base/mail.h"
#include "engine/runner.h"

/* A piece of work. Owned by the engine; the ranks have it between publish and result, and only read it, but
 * for what `result` and `mtp_logits` point at: the first rank writes that. */
struct qn_work {
    struct qn_chores chores;
    const struct qn_step *step; /* or NULL */
    struct qn_step_result *result;
    float *mtp_logits; /* runs mtp_logits instead of run: host memory; or NULL */
    /* How it went, when all ranks are done. */
    int rc; /* of chores without a step, faults of one */
    struct qn_err error;
    int64_t start_us, step_us, end_us; /* step_us: when the step began, after the chores */
};

/* What one rank made of a piece of work. */
struct qn_share {
    struct qn_letter letter; /* first */
    const struct qn_work *work;
    struct qn_step_result *result; /* of the step: the work's or the rank's own */
    float *mtp_logits;
    int rc;
    struct qn_err error;
    int64_t start_us, step_us, end_us;
};

struct qn_rank_options {
    const struct qn_runner *runner;
    void *user;
    const struct qn_model *model;
    struct qn_forward_options forward; /* with the rank's own number */
    /* Bytes of a page and of a state slot that ranks before this one have in the host's copies of them. */
    size_t page_offset, slot_offset;
    struct qn_mail *home; /* where shares come back to, with this kind */
    int letter_kind;
};

struct qn_rank;

/* Starts the thread, which opens the runner. */
int qn_rank_start(struct qn_rank **out, const struct qn_rank_options *o, struct qn_err *e);
/* Waits, once, until it is open or could not be: the rank is to be closed in either case. */
int qn_rank_wait_open(struct qn_rank *r, struct qn_err *e);
void qn_rank_close(struct qn_rank *r); /* with no work published; NULL is allowed */
/* The share is the rank's until its letter is home. */
void qn_rank_publish(struct qn_rank *r, struct qn_share *share);
bool qn_rank_has_mtp(const struct qn_rank *r);
const struct qn_device_info *qn_rank_device(const struct qn_rank *r);

#endif
