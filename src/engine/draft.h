/* Drafting: the passes of the MTP layer behind a step (backend/pass.h). A fixed sequence of operations whose
 * number follows from the step; nothing is read back on the way.
 * Owned by the forward pass, used on the rank's thread. SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_DRAFT_H
#define QN_DRAFT_H

#include "engine/layer.h"

struct qn_draft {
    const struct qn_layer *layer;
    const struct qn_weights *w; /* with mtp */
    int n_full;
    float *hidden; /* [rows, H] of the passes */
    float *logits; /* [max_seqs or more, V] */
    struct qn_pass pass[QN_MAX_DRAFT];
    int n_pass; /* of the step at hand */
};

/* max_rows: of a step, MTP rows included. */
void qn_draft_init(struct qn_draft *m, int max_rows, int max_seqs);
void qn_draft_fini(struct qn_draft *m);
/* The passes of a step, before it begins; all_logits: one pass whose every row has logits. */
void qn_draft_plan(struct qn_draft *m, const struct qn_step *s, bool all_logits);
/* The MTP layer over pass 0, which is settled first. hidden: the step's, [rows, H]. Keeps the carry. */
void qn_draft_first(struct qn_draft *m, const struct qn_step *s, const float *hidden);
/* All passes: drafts for the next step. */
void qn_draft_run(struct qn_draft *m, const struct qn_step *s, const float *hidden);

#endif
