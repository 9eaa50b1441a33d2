/* Drafting.
 * SPDX-License-Identifier: Apache-2.0 */
#include "engine/draft.h"

void qn_draft_init(struct qn_draft *m, int max_rows, int max_seqs)
{
    for (int i = 0; i < QN_MAX_DRAFT; i++) qn_pass_init(&m->pass[i], i, i ? max_seqs : max_rows, max_seqs);
}

void qn_draft_fini(struct qn_draft *m)
{
    for (int i = 0; i < QN_MAX_DRAFT; i++) qn_pass_fini(&m->pass[i]);
}

void qn_draft_plan(struct qn_draft *m, const struct qn_step *s, bool all_logits)
{
    m->n_pass = m->w ? qn_pass_count(s) : 0;
    if (all_logits) m->n_pass = 1;
    for (int i = 0; i < m->n_pass; i++) qn_pass_plan(&m->pass[i], s, all_logits);
}

/* The layer over the rows of a settled pass. hidden: what its stem reads. */
static void run_layer(struct qn_draft *m, struct qn_pass *p, const float *hidden)
{
    const struct qn_layer *f = m->layer;
    const struct qn_mtp_weights *w = m->w->mtp;
    struct qn_op_draft_in in = {w, p, hidden, f->x, f->y};
    qn_layer_embed(f, &p->step, m->w);
    f->b->draft_in(f->d, &p->step, &in);
    qn_layer_run(f, &p->step, &w->layer, m->n_full, 0);
    struct qn_op_head head = {w->norm, f->x, f->y, m->hidden};
    if (p->step.n_logit) f->b->head(f->d, &p->step, &head);
}

void qn_draft_first(struct qn_draft *m, const struct qn_step *s, const float *hidden)
{
    const struct qn_layer *f = m->layer;
    struct qn_op_carry carry = {hidden};
    f->b->settle(f->d, &m->pass[0], NULL);
    if (m->pass[0].step.n_row) run_layer(m, &m->pass[0], hidden);
    f->b->carry(f->d, s, &carry); /* after its old value was used */
}

/* Picks the drafts of a pass. */
static void pick(struct qn_draft *m, struct qn_pass *p)
{
    const struct qn_layer *f = m->layer;
    struct qn_op_draft draft = {p, m->logits};
    qn_layer_logits(f, &p->step, m->w, m->hidden, 0, p->step.n_logit, m->logits);
    f->b->draft(f->d, &draft);
}

void qn_draft_run(struct qn_draft *m, const struct qn_step *s, const float *hidden)
{
    const struct qn_layer *f = m->layer;
    qn_draft_first(m, s, hidden);
    for (int i = 0; i < m->n_pass; i++) {
        struct qn_pass *p = &m->pass[i];
        if (i) f->b->settle(f->d, p, p - 1);
        if (!p->step.n_row) return;
        if (i) run_layer(m, p, m->hidden);
        if (!p->step.n_logit) return;
        pick(m, p);
    }
}
