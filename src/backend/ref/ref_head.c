/* ref: final norm, vocabulary, and what follows the logits.
 * SPDX-License-Identifier: Apache-2.0 */
#include "backend/ref/ref.h"

void qn_ref_head(struct qn_device *d, const struct qn_step *s, const struct qn_op_head *op)
{
    qn_ref_add_norm(d, op->x, op->y, op->norm, s->n_row, op->hidden);
}

void qn_ref_logits(struct qn_device *d, const struct qn_step *s, const struct qn_op_logits *op)
{
    size_t n = (size_t)d->c.hidden;
    float *wanted = d->cat; /* [n, H] */
    for (int i = 0; i < op->n; i++)
        memcpy(wanted + (size_t)i * n, op->hidden + (size_t)s->logit_row[op->first + i] * n,
               n * sizeof *wanted);
    struct qn_host_linear job = {op->head, op->logits};
    d->linear(d, wanted, op->n, &job, 1);
}

bool qn_ref_is_sampled(const struct qn_step *s, int i)
{
    const struct qn_step_seq *seq = &s->seq[s->logit_seq[i]];
    return seq->wants_token && i >= seq->first_logit;
}

void qn_ref_adjust(struct qn_device *d, const struct qn_step *s, const struct qn_op_rows *op)
{
    for (int i = 0; i < s->n_logit; i++) {
        const struct qn_step_seq *seq = &s->seq[s->logit_seq[i]];
        bool is_decode = qn_step_is_decode(s, s->logit_seq[i]);
        int n_extra = is_decode ? s->logit_row[i] - seq->first_row : 0;
        if (!qn_ref_is_sampled(s, i)) continue;
        qn_draw_adjust(s, &seq->sample, s->tok + seq->first_row + 1, n_extra, qn_step_mask(s, i),
                       op->logits + (size_t)i * d->c.vocab, d->n_tok);
    }
}

void qn_ref_sample(struct qn_device *d, const struct qn_step *s, const struct qn_op_rows *op)
{
    for (int i = 0; i < s->n_logit; i++)
        if (qn_ref_is_sampled(s, i))
            qn_draw(d->scan, op->logits + (size_t)i * d->c.vocab, d->n_tok, &s->seq[s->logit_seq[i]].sample,
                    s->pos[s->logit_row[i]] + 1, &d->result->token[i]);
}

void qn_ref_verify(struct qn_device *d, const struct qn_step *s)
{
    for (int q = 0; q < s->n_seq; q++) {
        const struct qn_step_seq *seq = &s->seq[q];
        int n = 0;
        if (qn_step_is_decode(s, q) && seq->wants_token)
            while (n < seq->n_draft &&
                   d->result->token[seq->first_logit + n].tok == s->tok[seq->first_row + n + 1])
                n++;
        d->result->n_accepted[q] = n;
    }
}

void qn_ref_score(struct qn_device *d, const struct qn_step *s, const struct qn_op_rows *op)
{
    for (int i = 0; i < s->n_logit; i++)
        qn_draw_score(d->scan, op->logits + (size_t)i * d->c.vocab, d->c.vocab, s->score_tok[i],
                      s->n_score_top, &d->result->score[i]);
}
