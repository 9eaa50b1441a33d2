/* ref: the stem of the MTP head and the carry.
 * SPDX-License-Identifier: Apache-2.0 */
#include "backend/ref/ref.h"

void qn_ref_draft_in(struct qn_device *d, const struct qn_step *s, const struct qn_op_draft_in *op)
{
    int n = d->c.hidden;
    if (d->o.poison) memset(d->scratch, 0xff, d->scratch_floats * sizeof(float));
    for (int r = 0; r < s->n_row; r++) {
        const struct qn_step_seq *seq = &s->seq[s->row_seq[r]];
        const float *hidden = op->hidden + (size_t)op->hidden_row[r] * n;
        if (op->hidden_row[r] < 0)
            hidden = seq->n_commit ? qn_host_lane_hidden(d, seq->lane) + (size_t)(seq->n_commit - 1) * n
                                   : qn_host_carry(d, seq->slot);
        float *cat = d->cat + (size_t)r * 2 * n;
        d->row(d, op->table, s->tok[r], d->h);
        qn_ref_rms_norm(d->h, op->w->norm_embed, n, d->c.norm_eps, cat);
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
