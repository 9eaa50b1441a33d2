/* The answer of a sequence: what a token that was picked for it means. Engine thread.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_ANSWER_H
#define QN_ANSWER_H

#include "engine/seq.h"

/* Whether the sequence goes on behind the token, or how it ends. */
struct qn_verdict {
    bool is_sent; /* its reader has a new event */
    bool is_over; /* what follows is set then */
    enum qn_finish finish;
    int32_t stop_tok;    /* that ended it, or -1 */
    struct qn_err error; /* with QN_FINISH_ERROR */
};

/* Adds one token to the sequence and sends it to its reader. is_stuck: its rules allowed none. */
void qn_answer_take(struct qn_seq *q, const struct qn_step_token *token, bool is_stuck,
                    struct qn_verdict *out);
/* The verdict when the row of position pos has no finite logits: it ends alone, as the others of the step
 * have rows of their own. */
void qn_answer_unsound(const struct qn_seq *q, int pos, struct qn_verdict *out);
/* The drafts that sequence `at` of a step goes on with. */
void qn_answer_keep_drafts(struct qn_seq *q, const struct qn_step_result *result, int at);

#endif
