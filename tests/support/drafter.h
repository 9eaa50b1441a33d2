/* A runner for tests: the model's real forward pass, whose drafts are then exchanged for ones that are right
 * a set part of the time. What the answer will be is known from an earlier run without drafts, as drafts
 * never change it. So steps cost what they cost, and acceptance is what a test wants it to be.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_DRAFTER_H
#define QN_DRAFTER_H

#include "engine/runner.h"

/* A step of streams alone: what was in it and the time it took. */
struct qn_drafter_step {
    int who, n_decode, n_row, n_made; /* whose, streams, their rows, drafts made */
    bool keeps_mtp;
    int n_tok, us; /* tokens that came of it */
    int gap_us;    /* since the step before */
};

struct qn_drafter {
    const int32_t
        *tok; /* [n_tok] prompt and answer, the same for every sequence; set before the engine runs */
    int n_tok, vocab;
    int percent; /* of drafts that are right, given that those before were */
    uint64_t draw;
    int64_t end_us;               /* of the last step */
    int who;                      /* noted with the steps, when it is above 0 */
    struct qn_drafter_step *step; /* [n_step] */
    int n_step, step_capacity;
};

extern const struct qn_runner qn_runner_drafter; /* user: struct qn_drafter */

#endif
