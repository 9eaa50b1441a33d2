/* ref: the stem of the MTP head, the carry, and the draft that follows.
 * SPDX-License-Identifier: Apache-2.0 */
#include "backend/ref/ref.h"

void qn_ref_draft_in(struct qn_device *d, const struct qn_step *s, const struct qn_op_draft_in *op)
{
    int n = d->c.hidden;
    for (int r = 0; r < s->n_row; r++) {
        const struct qn_step_seq *seq = &s->seq[s->row_seq[r]];
        const float *hidden = op->hidden + (size_t)QN_MAX(op->pass->hidden_row[r], 0) * n;
        if (op->pass->hidden_row[r] < 0)
            hidden = seq->n_commit ? qn_host_lane_hidden(d, seq->lane) + (size_t)(seq->n_commit - 1) * n
                                   : qn_host_carry(d, seq->slot);
        float *cat = d->cat + (size_t)r * 2 * n;
        qn_ref_rms_norm(op->x + (size_t)r * n, op->w->norm_embed, n, d->c.norm_eps, cat);
        qn_ref_rms_norm(hidden, op->w->norm_hidden, n, d->c.norm_eps, cat + n);
    }
    struct qn_host_linear job = {op->w->fc, op->x};
    d->linear(d, d->cat, s->n_row, &job, 1);
    memset(op->y, 0, (size_t)s->n_row * n * sizeof(float));
}

void qn_ref_carry(struct qn_device *d, const struct qn_step *s, const struct qn_op_carry *op)
{
    size_t n = (size_t)d->c.hidden;
    for (int q = 0; q < s->n_seq; q++) {
        const struct qn_step_seq *seq = &s->seq[q];
        const float *hidden = op->hidden + (size_t)seq->first_row * n;
        if (!seq->wants_mtp) continue;
        qn_ref_carry_flush(d, seq->slot, seq->lane, seq->n_commit);
        if (qn_step_is_decode(s, q))
            memcpy(qn_host_lane_hidden(d, seq->lane), hidden, (size_t)seq->n_row * n * sizeof *hidden);
        else
            memcpy(qn_host_carry(d, seq->slot), hidden + (size_t)(seq->n_row - 1) * n, n * sizeof *hidden);
    }
}

int qn_ref_draft_adjust(struct qn_device *d, const struct qn_op_draft *op, int i)
{
    const struct qn_pass *p = op->pass;
    int32_t history[1 + 2 * QN_MAX_DRAFT];
    int n = qn_pass_history(p, d->step, p->logit_seq[i], d->result, history);
    qn_draw_adjust(&p->step, &p->seq[p->logit_seq[i]].sample, history, n, NULL,
                   op->logits + (size_t)i * d->c.vocab, d->n_tok);
    return p->pos[p->logit_row[i]] + 1;
}

void qn_ref_draft_keep(struct qn_device *d, const struct qn_op_draft *op, int i, int32_t tok)
{
    struct qn_pass *p = op->pass;
    int from = p->from[p->logit_seq[i]];
    if (tok >= 0)
        d->result->draft[from * QN_MAX_DRAFT + d->result->n_drafted[from]++] = tok;
    else
        p->seq[p->logit_seq[i]].n_draft_next = 0;
}

void qn_ref_draft(struct qn_device *d, const struct qn_op_draft *op)
{
    for (int i = 0; i < op->pass->step.n_logit; i++) {
        struct qn_step_token token;
        int pos = qn_ref_draft_adjust(d, op, i);
        qn_draw(d->scan, op->logits + (size_t)i * d->c.vocab, d->n_tok,
                &op->pass->seq[op->pass->logit_seq[i]].sample, pos, &token);
        qn_ref_draft_keep(d, op, i, token.tok);
    }
}
