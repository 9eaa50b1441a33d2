/* ref: final norm, vocabulary, and what follows the logits.
 * SPDX-License-Identifier: Apache-2.0 */
#include <math.h>

#include "backend/ref/ref.h"

void qn_ref_head(struct qn_device *d, const struct qn_step *s, const struct qn_op_head *op)
{
    size_t n = (size_t)d->c.hidden;
    float *hidden = op->hidden ? op->hidden : d->h;
    qn_ref_add_norm(d, op->x, op->y, op->norm, s->n_row, hidden);
    if (!op->logits || !s->n_logit) return;
    float *wanted = d->cat; /* [n_logit, H] */
    for (int i = 0; i < s->n_logit; i++)
        memcpy(wanted + (size_t)i * n, hidden + (size_t)s->logit_row[i] * n, n * sizeof *wanted);
    struct qn_host_linear job = {op->head, op->logits};
    d->linear(d, wanted, s->n_logit, &job, 1);
}

void qn_ref_adjust(struct qn_device *d, const struct qn_step *s, const struct qn_op_rows *op)
{
    for (int i = 0; i < s->n_logit; i++) {
        const struct qn_step_seq *seq = &s->seq[s->logit_seq[i]];
        bool is_decode = qn_step_is_decode(s, s->logit_seq[i]);
        int n_extra = is_decode ? s->logit_row[i] - seq->first_row : 0;
        qn_draw_adjust(s, &seq->sample, s->tok + seq->first_row + 1, n_extra, s->mask ? s->mask[i] : NULL,
                       op->logits + (size_t)i * d->c.vocab, d->n_tok);
    }
}

void qn_ref_sample(struct qn_device *d, const struct qn_step *s, const struct qn_op_rows *op)
{
    for (int i = 0; i < s->n_logit; i++)
        qn_draw(d->scan, op->logits + (size_t)i * d->c.vocab, d->n_tok, &s->seq[s->logit_seq[i]].sample,
                s->pos[s->logit_row[i]] + 1, &op->result->token[i]);
}

void qn_ref_verify(struct qn_device *d, const struct qn_step *s, const struct qn_op_rows *op)
{
    (void)d;
    for (int q = 0; q < s->n_seq; q++) {
        const struct qn_step_seq *seq = &s->seq[q];
        int n = 0;
        if (qn_step_is_decode(s, q) && seq->wants_token)
            while (n < seq->n_draft &&
                   op->result->token[seq->first_logit + n].tok == s->tok[seq->first_row + n + 1])
                n++;
        op->result->n_accepted[q] = n;
    }
}

void qn_ref_score(struct qn_device *d, const struct qn_op_score *op)
{
    for (int i = 0; i < op->n; i++) {
        const float *x = op->logits + (size_t)i * d->c.vocab;
        float max = d->scan->max(x, d->c.vocab);
        float norm = max + (float)log(d->scan->sum_exp(x, d->c.vocab, max, 1));
        op->logprob[i] = x[op->target[i]] - norm;
        if (op->rank) {
            int rank = 0;
            for (int t = 0; t < d->c.vocab; t++)
                rank += x[t] > x[op->target[i]] || (x[t] == x[op->target[i]] && t < op->target[i]);
            op->rank[i] = rank;
        }
        if (!op->top_tok) continue;
        int32_t *tok = op->top_tok + (size_t)i * op->n_top;
        int n = qn_draw_top(d->scan, x, d->c.vocab, op->n_top, tok);
        for (int t = 0; t < op->n_top; t++) {
            if (t >= n) tok[t] = -1;
            if (op->top_logprob) op->top_logprob[(size_t)i * op->n_top + t] = t < n ? x[tok[t]] - norm : NAN;
        }
    }
}
