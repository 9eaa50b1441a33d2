/* ref: gated attention over pages.
 * A page of ref holds, for each layer, K [nkv][QN_PAGE][hd] and then V the same.
 * SPDX-License-Identifier: Apache-2.0 */
#include <math.h>

#include "backend/ref/ref.h"
#include "base/mem.h"

/* In place: dims [0, half) turn with [half, 2 half). */
void qn_ref_rotate(float *x, int half, const float *cosv, const float *sinv)
{
    for (int i = 0; i < half; i++) {
        float a = x[i], b = x[i + half];
        x[i] = a * cosv[i] - b * sinv[i];
        x[i + half] = b * cosv[i] + a * sinv[i];
    }
}

void qn_ref_attn_in(struct qn_device *d, const struct qn_step *s, const struct qn_op_attn_in *op)
{
    const struct qn_config *c = &d->c;
    const struct qn_attn_weights *w = &op->w->attn;
    int hd = c->head_dim, nh = c->n_head, nkv = c->n_kv_head, half = c->rotary_dim / 2;
    bool is_mtp = op->kv_layer == c->n_full;
    qn_ref_add_norm(d, op->x, op->y, op->w->input_norm, s->n_row, d->h);
    struct qn_host_linear jobs[] = {{w->q, d->qg}, {w->k, d->k}, {w->v, d->v}};
    d->linear(d, d->h, s->n_row, jobs, 3);

    float *cosv = xmalloc((size_t)QN_MAX(half, 1) * 2 * sizeof *cosv), *sinv = cosv + half;
    for (int r = 0; r < s->n_row; r++) {
        qn_host_rope(d, s, r, is_mtp, cosv, sinv);
        for (int h = 0; h < nh; h++) { /* a head's rows: hd of the query, then hd of the gate */
            const float *qg = d->qg + ((size_t)r * nh + h) * 2 * hd;
            float *q = d->q + ((size_t)r * nh + h) * hd;
            qn_ref_rms_norm(qg, w->q_norm, hd, c->norm_eps, q);
            qn_ref_rotate(q, half, cosv, sinv);
            memcpy(d->gate + ((size_t)r * nh + h) * hd, qg + hd, (size_t)hd * sizeof(float));
        }
        const struct qn_step_seq *seq = &s->seq[s->row_seq[r]];
        int page = s->pages[seq->first_page + s->pos[r] / QN_PAGE], place = s->pos[r] % QN_PAGE;
        unsigned char *kp = qn_host_kv(d, page, op->kv_layer), *vp = kp + d->kv_layer_bytes / 2;
        for (int g = 0; g < nkv; g++) {
            float *k = d->k + ((size_t)r * nkv + g) * hd;
            const float *v = d->v + ((size_t)r * nkv + g) * hd;
            qn_ref_rms_norm(k, w->k_norm, hd, c->norm_eps, k);
            qn_ref_rotate(k, half, cosv, sinv);
            size_t at = ((size_t)g * QN_PAGE + place) * hd;
            float k_scale = w->k_scale, v_scale = w->v_scale;
            uint16_t *ks = qn_host_kv_scales(d, page, op->kv_layer, g, false),
                     *vs = qn_host_kv_scales(d, page, op->kv_layer, g, true);
            if (ks) {
                ks[place] = qn_f32_to_bf16(k_scale = qn_kv_fit(k, hd));
                vs[place] = qn_f32_to_bf16(v_scale = qn_kv_fit(v, hd));
            }
            for (int i = 0; i < hd; i++) {
                qn_kv_store(d->o.kv, kp, at + i, k[i] / k_scale);
                qn_kv_store(d->o.kv, vp, at + i, v[i] / v_scale);
            }
        }
    }
    free(cosv);
}

/* One query head of one row over keys first..pos. */
static void attend(const struct qn_device *d, const struct qn_step *s, const struct qn_op_attn *op, int row,
                   int head, float *score)
{
    const struct qn_config *c = &d->c;
    const struct qn_attn_weights *w = &op->w->attn;
    const struct qn_step_seq *seq = &s->seq[s->row_seq[row]];
    int hd = c->head_dim, g = head / (c->n_head / c->n_kv_head);
    int first = op->kv_layer == c->n_full ? QN_MAX(seq->mtp_from, 1) : 0, last = s->pos[row];
    const float *q = d->q + ((size_t)row * c->n_head + head) * hd;
    float *o = d->attn + ((size_t)row * c->n_head + head) * hd;
    bool has_own = qn_kv_scale_bytes(d->o.kv) > 0; /* scales in the page */
    float scale = (has_own ? 1 : w->k_scale) / sqrtf((float)hd), max = -INFINITY, sum = 0;
    for (int j = first; j <= last; j++) {
        int page = s->pages[seq->first_page + j / QN_PAGE];
        const unsigned char *kp = qn_host_kv(d, page, op->kv_layer);
        size_t at = ((size_t)g * QN_PAGE + j % QN_PAGE) * hd;
        float dot = 0;
        for (int i = 0; i < hd; i++) dot += q[i] * qn_kv_load(d->o.kv, kp, at + i);
        score[j] = dot * scale;
        if (has_own)
            score[j] *= qn_bf16_to_f32(qn_host_kv_scales(d, page, op->kv_layer, g, false)[j % QN_PAGE]);
        if (score[j] > max) max = score[j];
    }
    memset(o, 0, (size_t)hd * sizeof *o);
    for (int j = first; j <= last; j++) {
        int page = s->pages[seq->first_page + j / QN_PAGE];
        const unsigned char *vp = qn_host_kv(d, page, op->kv_layer) + d->kv_layer_bytes / 2;
        size_t at = ((size_t)g * QN_PAGE + j % QN_PAGE) * hd;
        float p = expf(score[j] - max);
        sum += p;
        if (has_own) p *= qn_bf16_to_f32(qn_host_kv_scales(d, page, op->kv_layer, g, true)[j % QN_PAGE]);
        for (int i = 0; i < hd; i++) o[i] += p * qn_kv_load(d->o.kv, vp, at + i);
    }
    for (int i = 0; i < hd; i++) o[i] *= (has_own ? 1 : w->v_scale) / sum;
}

void qn_ref_attn(struct qn_device *d, const struct qn_step *s, const struct qn_op_attn *op)
{
    int most = 0;
    for (int r = 0; r < s->n_row; r++) most = QN_MAX(most, s->pos[r] + 1);
    float *score = xmalloc((size_t)most * sizeof *score);
    for (int q = op->first; q < op->first + op->n_seq; q++)
        for (int r = s->seq[q].first_row; r < s->seq[q].first_row + s->seq[q].n_row; r++)
            for (int h = 0; h < d->c.n_head; h++) attend(d, s, op, r, h, score);
    free(score);
}

void qn_ref_attn_out(struct qn_device *d, const struct qn_step *s, const struct qn_op_attn_out *op)
{
    size_t n = (size_t)s->n_row * d->c.n_head * d->c.head_dim;
    for (size_t i = 0; i < n; i++) d->attn[i] *= qn_sigmoid(d->gate[i]);
    struct qn_host_linear job = {op->w->attn.o, op->y};
    d->linear(d, d->attn, s->n_row, &job, 1);
}
