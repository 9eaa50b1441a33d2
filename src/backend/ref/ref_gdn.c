/* ref: Gated DeltaNet. A state head of ref is [DK][dv_pad], row-major.
 * SPDX-License-Identifier: Apache-2.0 */
#include <math.h>

#include "backend/ref/ref.h"
#include "base/mem.h"

static float softplus(float x)
{
    return x > 20.0f ? x : log1pf(expf(x));
}

/* n_channel channels of window [taps - 1][CD] ++ rows [n][CD] -> its last taps - 1 rows */
static void push_window(const struct qn_device *d, float *window, const float *rows, int n, int first,
                        int n_channel)
{
    int keep = d->c.conv_taps - 1;
    size_t cd = (size_t)d->cd, n_byte = (size_t)n_channel * sizeof *window;
    for (int i = 0; i < keep; i++) { /* row i + n of the two together; not behind what is still to be read */
        const float *from = i + n < keep ? window + (size_t)(i + n) * cd : rows + (size_t)(i + n - keep) * cd;
        memcpy(window + (size_t)i * cd + first, from + first, n_byte);
    }
}

void qn_ref_window_flush(struct qn_device *d, int slot, int lane, int layer, int n_commit)
{
    if (n_commit)
        push_window(d, qn_host_conv(d, slot, layer), qn_host_lane(d, lane, layer).u, n_commit, 0, d->cd);
}

void qn_ref_carry_flush(struct qn_device *d, int slot, int lane, int n_commit)
{
    if (n_commit)
        memcpy(qn_host_carry(d, slot), qn_host_lane_hidden(d, lane) + (size_t)(n_commit - 1) * d->c.hidden,
               (size_t)d->c.hidden * sizeof(float));
}

void qn_ref_window_begin(struct qn_device *d, const struct qn_step_seq *seq, int layer, int first, int n)
{
    float *window = qn_host_conv(d, seq->slot, layer);
    size_t cd = (size_t)d->cd;
    for (int i = 0; seq->is_fresh && i < d->c.conv_taps - 1; i++)
        memset(window + (size_t)i * cd + first, 0, (size_t)n * sizeof *window);
    if (!seq->is_fresh && seq->n_commit)
        push_window(d, window, qn_host_lane(d, seq->lane, layer).u, seq->n_commit, first, n);
}

void qn_ref_window_end(struct qn_device *d, const struct qn_step *s, int q, int layer, int first, int n)
{
    const struct qn_step_seq *seq = &s->seq[q];
    size_t cd = (size_t)d->cd;
    const float *u = d->u + (size_t)seq->first_row * cd;
    if (!qn_step_is_decode(s, q)) {
        push_window(d, qn_host_conv(d, seq->slot, layer), u, seq->n_row, first, n);
        return;
    }
    float *lane = qn_host_lane(d, seq->lane, layer).u;
    for (int i = 0; i < seq->n_row; i++)
        memcpy(lane + (size_t)i * cd + first, u + (size_t)i * cd + first, (size_t)n * sizeof *u);
}

const float *qn_ref_window_row(const struct qn_device *d, const struct qn_step_seq *seq, int layer, int row)
{
    size_t cd = (size_t)d->cd;
    if (row < 0) return qn_host_conv(d, seq->slot, layer) + (size_t)(d->c.conv_taps - 1 + row) * cd;
    return d->u + (size_t)(seq->first_row + row) * cd;
}

/* Convolution and SiLU of the rows of one sequence, window included. */
static void convolve(struct qn_device *d, const struct qn_step *s, int q, const struct qn_op_gdn_in *op)
{
    const struct qn_step_seq *seq = &s->seq[q];
    int taps = d->c.conv_taps;
    size_t cd = (size_t)d->cd;
    qn_ref_window_begin(d, seq, op->gdn_layer, 0, d->cd);
    for (int r = 0; r < seq->n_row; r++) {
        float *out = d->conv + (size_t)(seq->first_row + r) * cd;
        for (size_t ch = 0; ch < cd; ch++) {
            float sum = 0;
            for (int j = 0; j < taps; j++) /* tap j meets the row taps - 1 - j back */
                sum += op->w->gdn.conv[ch * (size_t)taps + j] *
                       qn_ref_window_row(d, seq, op->gdn_layer, r - (taps - 1) + j)[ch];
            out[ch] = qn_silu(sum);
        }
    }
    qn_ref_window_end(d, s, q, op->gdn_layer, 0, d->cd);
}

float qn_ref_alpha(float a, float a_log, float dt_bias)
{
    return expf(-expf(a_log) * softplus(a + dt_bias));
}

/* x / sqrt(sum x^2 + 1e-6) * scale, in place */
static void unit(float *x, int n, float scale)
{
    float f = scale / sqrtf(qn_ref_dot(x, x, n) + 1e-6f);
    for (int i = 0; i < n; i++) x[i] *= f;
}

void qn_ref_gdn_in(struct qn_device *d, const struct qn_step *s, const struct qn_op_gdn_in *op)
{
    const struct qn_config *c = &d->c;
    const struct qn_gdn_weights *w = &op->w->gdn;
    int nv = c->n_v_head;
    qn_ref_add_norm(d, op->x, op->y, op->w->input_norm, s->n_row, d->h);
    struct qn_host_linear jobs[] = {{w->qkv, d->u}, {w->z, d->z}, {w->b, d->beta}, {w->a, d->alpha}};
    d->linear(d, d->h, s->n_row, jobs, 4);
    for (int q = 0; q < s->n_seq; q++) convolve(d, s, q, op);
    for (int r = 0; r < s->n_row; r++) {
        float *row = d->conv + (size_t)r * d->cd; /* q [NK][DK], k [NK][DK], v [NV][DV] */
        for (int h = 0; h < c->n_k_head; h++) {
            unit(row + (size_t)h * c->k_dim, c->k_dim, 1.0f / sqrtf((float)c->k_dim));
            unit(row + d->kd + (size_t)h * c->k_dim, c->k_dim, 1.0f);
        }
        for (int j = 0; j < nv; j++) {
            float *beta = &d->beta[(size_t)r * nv + j], *alpha = &d->alpha[(size_t)r * nv + j];
            *beta = qn_sigmoid(*beta);
            *alpha = qn_ref_alpha(*alpha, w->a_log[j], w->dt_bias[j]);
        }
    }
}

/* S = alpha S + k delta^T */
static void fold(float *state, int dk, int dv, size_t stride, float alpha, const float *k, const float *delta)
{
    for (int i = 0; i < dk; i++)
        for (int j = 0; j < dv; j++) {
            float *x = &state[(size_t)i * stride + j];
            *x = alpha * *x + k[i] * delta[j];
        }
}

/* delta = beta (v - alpha S^T k) from the state before the row */
static void read_delta(const float *state, int dk, int dv, size_t stride, float alpha, float beta,
                       const float *k, const float *v, float *delta)
{
    for (int j = 0; j < dv; j++) {
        float m = 0;
        for (int i = 0; i < dk; i++) m += alpha * state[(size_t)i * stride + j] * k[i];
        delta[j] = beta * (v[j] - m);
    }
}

static void read_out(const float *state, int dk, int dv, size_t stride, const float *q, float *o)
{
    for (int j = 0; j < dv; j++) {
        o[j] = 0;
        for (int i = 0; i < dk; i++) o[j] += state[(size_t)i * stride + j] * q[i];
    }
}

/* All rows of a sequence through one value head. */
static void run_head(struct qn_device *d, const struct qn_step *s, int q, int layer, int j, float *copy)
{
    const struct qn_config *c = &d->c;
    const struct qn_step_seq *seq = &s->seq[q];
    int dk = c->k_dim, dv = c->v_dim, nv = c->n_v_head, g = qn_config_key_head(c, j);
    size_t stride = (size_t)d->dv_pad;
    float *state = qn_host_state(d, seq->slot, layer) + (size_t)j * d->head_floats;
    struct qn_lane lane = {0};
    bool is_decode = qn_step_is_decode(s, q);
    if (is_decode || seq->n_commit) lane = qn_host_lane(d, seq->lane, layer);
    if (seq->is_fresh) memset(state, 0, d->head_floats * sizeof *state);
    for (int i = 0; i < seq->n_commit; i++)
        fold(state, dk, dv, stride, lane.alpha[(size_t)i * nv + j],
             lane.k + (size_t)i * d->kd + (size_t)g * dk, lane.delta + ((size_t)i * nv + j) * stride);
    if (is_decode) { /* the rows stay pending: work on a copy */
        memcpy(copy, state, d->head_floats * sizeof *copy);
        state = copy;
    }
    float *own_delta = copy + d->head_floats;
    for (int i = 0; i < seq->n_row; i++) {
        int r = seq->first_row + i;
        const float *row = d->conv + (size_t)r * d->cd;
        const float *key = row + d->kd + (size_t)g * dk, *v = row + 2 * d->kd + (size_t)j * dv;
        float alpha = d->alpha[(size_t)r * nv + j], beta = d->beta[(size_t)r * nv + j];
        float *delta = is_decode ? lane.delta + ((size_t)i * nv + j) * stride : own_delta;
        read_delta(state, dk, dv, stride, alpha, beta, key, v, delta);
        fold(state, dk, dv, stride, alpha, key, delta);
        read_out(state, dk, dv, stride, row + (size_t)g * dk, d->o_gdn + ((size_t)r * nv + j) * dv);
        if (is_decode) lane.alpha[(size_t)i * nv + j] = alpha;
    }
}

void qn_ref_gdn(struct qn_device *d, const struct qn_step *s, const struct qn_op_gdn *op)
{
    float *copy = xmalloc((d->head_floats + (size_t)d->dv_pad) * sizeof *copy);
    for (int q = op->first; q < op->first + op->n_seq; q++) {
        const struct qn_step_seq *seq = &s->seq[q];
        for (int j = 0; j < d->c.n_v_head; j++) run_head(d, s, q, op->gdn_layer, j, copy);
        if (qn_step_is_decode(s, q)) { /* after the fold of all heads, which reads the old keys */
            struct qn_lane lane = qn_host_lane(d, seq->lane, op->gdn_layer);
            for (int i = 0; i < seq->n_row; i++)
                memcpy(lane.k + (size_t)i * d->kd, d->conv + (size_t)(seq->first_row + i) * d->cd + d->kd,
                       (size_t)d->kd * sizeof(float));
        }
    }
    free(copy);
}

void qn_ref_gdn_out(struct qn_device *d, const struct qn_step *s, const struct qn_op_gdn_out *op)
{
    const struct qn_config *c = &d->c;
    int dv = c->v_dim;
    for (size_t head = 0; head < (size_t)s->n_row * c->n_v_head; head++) {
        float *o = d->o_gdn + head * dv;
        const float *z = d->z + head * dv;
        float scale = 1.0f / sqrtf(qn_ref_dot(o, o, dv) / (float)dv + c->norm_eps);
        for (int i = 0; i < dv; i++) {
            float gate = c->gate_act == QN_GATE_SIGMOID ? qn_sigmoid(z[i]) : qn_silu(z[i]);
            o[i] = o[i] * scale * op->w->gdn.norm[i] * gate;
        }
    }
    struct qn_host_linear job = {op->w->gdn.out, op->y};
    d->linear(d, d->o_gdn, s->n_row, &job, 1);
}

void qn_ref_state_flush(struct qn_device *d, int slot, int lane_index, int n_commit)
{
    const struct qn_config *c = &d->c;
    for (int layer = 0; layer < c->n_gdn; layer++) {
        struct qn_lane lane = qn_host_lane(d, lane_index, layer);
        for (int j = 0; j < c->n_v_head; j++)
            for (int i = 0; i < n_commit; i++)
                fold(qn_host_state(d, slot, layer) + (size_t)j * d->head_floats, c->k_dim, c->v_dim,
                     (size_t)d->dv_pad, lane.alpha[(size_t)i * c->n_v_head + j],
                     lane.k + (size_t)i * d->kd + (size_t)qn_config_key_head(c, j) * c->k_dim,
                     lane.delta + ((size_t)i * c->n_v_head + j) * d->dv_pad);
        qn_ref_window_flush(d, slot, lane_index, layer, n_commit);
    }
    if (d->o.has_mtp) qn_ref_carry_flush(d, slot, lane_index, n_commit);
}

void qn_ref_delta_steps(const struct qn_ref_delta *p)
{
    float *own = xmalloc((size_t)p->dv * sizeof *own);
    for (int i = 0; i < p->n_row; i++) {
        const float *key = p->k + (size_t)i * p->dk;
        float *delta = p->delta ? p->delta + (size_t)i * p->dv : own;
        read_delta(p->state, p->dk, p->dv, (size_t)p->dv, p->alpha[i], p->beta[i], key,
                   p->v + (size_t)i * p->dv, delta);
        fold(p->state, p->dk, p->dv, (size_t)p->dv, p->alpha[i], key, delta);
        read_out(p->state, p->dk, p->dv, (size_t)p->dv, p->q + (size_t)i * p->dk, p->o + (size_t)i * p->dv);
    }
    free(own);
}

/* One chunk of n rows. With A strictly lower, A_ij = beta_i (k_i . k_j) D_ij, D_ij = exp(G_i - G_j):
 *   (I + A) U = beta v,  (I + A) W = beta exp(G) k      forward substitution
 *   Vn = U - W S0
 *   O_i = exp(G_i) q_i S0 + sum_{j<=i} (q_i . k_j) D_ij Vn_j
 *   S1 = exp(G_last) S0 + sum_j exp(G_last - G_j) k_j Vn_j^T */
static void run_chunk(const struct qn_ref_delta *p, int first, int n, float *w, float *u, double *G)
{
    int dk = p->dk, dv = p->dv;
    const float *q = p->q + (size_t)first * dk, *k = p->k + (size_t)first * dk,
                *v = p->v + (size_t)first * dv;
    const float *beta = p->beta + first;
    for (int i = 0; i < n; i++) G[i] = (i ? G[i - 1] : 0) + log((double)p->alpha[first + i]);
    for (int i = 0; i < n; i++) {
        float *wi = w + (size_t)i * dk, *ui = u + (size_t)i * dv;
        for (int c = 0; c < dk; c++) wi[c] = beta[i] * (float)exp(G[i]) * k[(size_t)i * dk + c];
        for (int c = 0; c < dv; c++) ui[c] = beta[i] * v[(size_t)i * dv + c];
        for (int j = 0; j < i; j++) {
            float a =
                beta[i] * qn_ref_dot(k + (size_t)i * dk, k + (size_t)j * dk, dk) * (float)exp(G[i] - G[j]);
            for (int c = 0; c < dk; c++) wi[c] -= a * w[(size_t)j * dk + c];
            for (int c = 0; c < dv; c++) ui[c] -= a * u[(size_t)j * dv + c];
        }
    }
    for (int i = 0; i < n; i++) /* u becomes Vn */
        for (int r = 0; r < dk; r++)
            for (int c = 0; c < dv; c++)
                u[(size_t)i * dv + c] -= w[(size_t)i * dk + r] * p->state[(size_t)r * dv + c];
    for (int i = 0; i < n; i++) {
        float *o = p->o + (size_t)(first + i) * dv;
        memset(o, 0, (size_t)dv * sizeof *o);
        for (int r = 0; r < dk; r++)
            for (int c = 0; c < dv; c++)
                o[c] += (float)exp(G[i]) * q[(size_t)i * dk + r] * p->state[(size_t)r * dv + c];
        for (int j = 0; j <= i; j++) {
            float a = qn_ref_dot(q + (size_t)i * dk, k + (size_t)j * dk, dk) * (float)exp(G[i] - G[j]);
            for (int c = 0; c < dv; c++) o[c] += a * u[(size_t)j * dv + c];
        }
    }
    for (size_t i = 0; i < (size_t)dk * dv; i++) p->state[i] *= (float)exp(G[n - 1]);
    for (int j = 0; j < n; j++)
        for (int r = 0; r < dk; r++)
            for (int c = 0; c < dv; c++)
                p->state[(size_t)r * dv + c] +=
                    (float)exp(G[n - 1] - G[j]) * k[(size_t)j * dk + r] * u[(size_t)j * dv + c];
}

void qn_ref_delta_chunks(const struct qn_ref_delta *p, int chunk)
{
    float *w = xmalloc((size_t)chunk * (p->dk + p->dv) * sizeof *w);
    double *G = xmalloc((size_t)chunk * sizeof *G);
    for (int first = 0; first < p->n_row; first += chunk)
        run_chunk(p, first, QN_MIN(chunk, p->n_row - first), w, w + (size_t)chunk * p->dk, G);
    free(G);
    free(w);
}
