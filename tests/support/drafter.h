/* A runner for tests: the model's real forward pass, whose drafts are then exchanged for ones that are right
 * a set part of the time. What the answer will be is known from an earlier run without drafts, as drafts
 * never change it. So steps cost what they cost, and acceptance is what a test wants it to be.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_DRAFTER_H
#define QN_DRAFTER_H

#include "engine/rank.h"

struct qn_drafter {
    const int32_t
        *tok; /* [n_tok] prompt and answer, the same for every sequence; set before the engine runs */
    int n_tok, vocab;
    int percent; /* of drafts that are right, given that those before were */
    uint64_t draw;
};

extern const struct qn_runner qn_runner_drafter; /* user: struct qn_drafter */

#endif
