/* ref: SwiGLU and mixture of experts.
 * SPDX-License-Identifier: Apache-2.0 */
#include <math.h>

#include "backend/ref/ref.h"
#include "base/mem.h"

/* y = down(silu(gate x) * up x) */
static void swiglu(struct qn_device *d, const float *x, int n_row, const struct qn_weight *gate,
                   const struct qn_weight *up, const struct qn_weight *down, float *y)
{
    struct qn_host_linear jobs[] = {{gate, d->ff_gate}, {up, d->ff_up}}, last = {down, y};
    d->linear(d, x, n_row, jobs, 2);
    size_t n = (size_t)n_row * gate->n_out;
    for (size_t i = 0; i < n; i++) d->ff_gate[i] = qn_silu(d->ff_gate[i]) * d->ff_up[i];
    d->linear(d, d->ff_gate, n_row, &last, 1);
}

void qn_ref_mlp(struct qn_device *d, const struct qn_step *s, const struct qn_op_ffn *op)
{
    const struct qn_mlp_weights *w = &op->w->mlp;
    qn_ref_add_norm(d, op->x, op->y, op->w->post_norm, s->n_row, d->h);
    swiglu(d, d->h, s->n_row, w->gate, w->up, w->down, op->y);
}

void qn_ref_route_weights(const float *logits, int top_k, const int *expert, float *weight)
{
    /* the softmax over all experts, renormalised over the chosen ones, is the softmax over the chosen ones */
    float sum = 0;
    for (int i = 0; i < top_k; i++) sum += weight[i] = expf(logits[expert[i]] - logits[expert[0]]);
    for (int i = 0; i < top_k; i++) weight[i] /= sum;
}

void qn_ref_route(const float *logits, int n_expert, int top_k, int *expert, float *weight)
{
    for (int i = 0; i < top_k; i++) {
        int best = -1;
        for (int n = 0; n < n_expert; n++) {
            bool is_taken = false;
            for (int j = 0; j < i; j++) is_taken |= expert[j] == n;
            if (!is_taken && (best < 0 || logits[n] > logits[best])) best = n;
        }
        expert[i] = best;
    }
    qn_ref_route_weights(logits, top_k, expert, weight);
}

void qn_ref_moe(struct qn_device *d, const struct qn_step *s, const struct qn_op_ffn *op)
{
    const struct qn_config *c = &d->c;
    const struct qn_moe_weights *w = &op->w->moe;
    int n = c->hidden;
    int *expert = xmalloc((size_t)c->top_k * sizeof *expert);
    float *weight = xmalloc(((size_t)c->top_k + n + 1) * sizeof *weight), *out = weight + c->top_k;
    float *mix = out + n;
    qn_ref_add_norm(d, op->x, op->y, op->w->post_norm, s->n_row, d->h);
    struct qn_host_linear router = {w->router, d->moe_logits};
    d->linear(d, d->h, s->n_row, &router, 1);
    for (int r = 0; r < s->n_row; r++) {
        const float *x = d->h + (size_t)r * n;
        float *y = op->y + (size_t)r * n;
        struct qn_host_linear mixer = {w->shared_mix, mix};
        d->linear(d, x, 1, &mixer, 1);
        swiglu(d, x, 1, w->shared_gate, w->shared_up, w->shared_down, out);
        memset(y, 0, (size_t)n * sizeof *y);
        qn_ref_route(d->moe_logits + (size_t)r * c->n_expert, c->n_expert, c->top_k, expert, weight);
        float *one = d->cat; /* free here: used by the MTP stem only */
        for (int i = 0; i < c->top_k; i++) {
            swiglu(d, x, 1, w->gate[expert[i]], w->up[expert[i]], w->down[expert[i]], one);
            for (int k = 0; k < n; k++) y[k] += weight[i] * one[k];
        }
        for (int k = 0; k < n; k++) y[k] += qn_sigmoid(*mix) * out[k];
    }
    free(weight);
    free(expert);
}
