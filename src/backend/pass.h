/* Passes: the rows of the draft layer (MTP) that follow a step.
 *
 * Pass 0 has the rows of the positions that the step decides, pass d > 0 one row for each sequence that wants
 * more than d drafts, made of its draft d - 1. How many rows a pass has at most, and which sequence each
 * belongs to, follows from the step alone, so that a device can be given them before the step runs:
 *
 *   decode sequence    row j of it (0 .. n_row-1): the token picked at its row j, on that row's hidden state.
 *                      It stands when the first j drafts were accepted.
 *   prefill sequence   the row of pos0 on the carry, where there is one; then as above, with the prompt's
 *                      tokens, the last row with the token picked there (with wants_token).
 *
 * The verdict settles the rest (backend.h, settle): a device masks the rows that do not stand, ref and cpu
 * drop them and close the gaps. A row whose pick is not a token (-1) does not stand either.
 *
 * Owned by the forward pass, used on the rank's thread. SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_PASS_H
#define QN_PASS_H

#include "backend/step.h"

struct qn_pass {
    /* The rows as prefill sequences of a step: arrays below, pages and biases of the step. Its sequences are
     * copies, with first_row, n_row, pos0 and n_draft_next of the pass and no log-probabilities wanted.
     * Logit rows: the last row of each sequence that still drafts. */
    struct qn_step step;
    int depth;
    int max_rows, max_seqs;
    int32_t *tok, *row_seq, *pos, *rope_pos, *embed_row, *logit_row, *logit_seq;
    struct qn_step_seq *seq;
    int32_t *from;       /* [n_seq] its sequence in the step */
    int32_t *hidden_row; /* [n_row] row of the step's hidden rows (pass 0; -1: the carry), of the pass
                            before's (settled; before that: not known) */
    int32_t *pick;       /* [n_row] pass 0: logit row of the step whose pick is the row's token, -1: tok is */
    int32_t *need;       /* [n_row] pass 0: drafts of the step that must be accepted for the row to stand */
};

void qn_pass_init(struct qn_pass *p, int depth, int max_rows, int max_seqs);
void qn_pass_fini(struct qn_pass *p);

/* Passes that the step needs, 0 without MTP rows; at most QN_MAX_DRAFT. */
int qn_pass_count(const struct qn_step *s);
/* The most rows and sequences of pass p->depth. all_logits: every row has logits and nothing is drafted. */
void qn_pass_plan(struct qn_pass *p, const struct qn_step *s, bool all_logits);

/* What settle does on ref and cpu. before: the settled pass before, NULL for pass 0. */
void qn_pass_settle(struct qn_pass *p, const struct qn_pass *before, const struct qn_step_result *r);

/* The step's rows of the token history of a draft in sequence i of the pass: the tokens picked by the step
 * and the drafts so far. out: room for 1 + 2 * QN_MAX_DRAFT; returns how many. */
int qn_pass_history(const struct qn_pass *p, const struct qn_step *s, int i, const struct qn_step_result *r,
                    int32_t *out);

#endif
