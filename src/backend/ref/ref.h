/* The operations of ref, one file a family; cpu starts from the same table.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_REF_H
#define QN_REF_H

#include "backend/host.h"

/* ref_linear.c */
int qn_ref_weight(struct qn_device *d, const struct qn_linear *l, bool rows, struct qn_weight **out,
                  struct qn_err *e);
void qn_ref_weights_free(struct qn_device *d);
void qn_ref_linear(struct qn_device *d, const float *x, int n_row, const struct qn_host_linear *jobs,
                   int n_job);
void qn_ref_row(const struct qn_device *d, const struct qn_weight *w, int row, float *out);
float qn_ref_dot(const float *a, const float *b, int n);
void qn_ref_rms_norm(const float *x, const float *w, int n, float eps, float *out); /* (1 + w) */
/* x += y; h = norm(x), n_row rows of H */
void qn_ref_add_norm(struct qn_device *d, float *x, const float *y, const float *w, int n_row, float *h);
void qn_ref_embed(struct qn_device *d, const struct qn_step *s, const struct qn_op_embed *op);

/* ref_attn.c */
void qn_ref_rotate(float *x, int half, const float *cosv, const float *sinv); /* in place */
void qn_ref_attn_in(struct qn_device *d, const struct qn_step *s, const struct qn_op_attn_in *op);
void qn_ref_attn(struct qn_device *d, const struct qn_step *s, const struct qn_op_attn *op);
void qn_ref_attn_out(struct qn_device *d, const struct qn_step *s, const struct qn_op_attn_out *op);

/* ref_gdn.c */
void qn_ref_gdn_in(struct qn_device *d, const struct qn_step *s, const struct qn_op_gdn_in *op);
void qn_ref_gdn(struct qn_device *d, const struct qn_step *s, const struct qn_op_gdn *op);
void qn_ref_gdn_out(struct qn_device *d, const struct qn_step *s, const struct qn_op_gdn_out *op);
void qn_ref_state_flush(struct qn_device *d, int slot, int lane, int n_commit);
/* The parts of state_flush that do not depend on the order of a state: conv windows and carry. */
void qn_ref_window_flush(struct qn_device *d, int slot, int lane, int layer, int n_commit);
/* Before and after the convolution of a sequence's rows, for n channels from `first`: fresh or folded window;
 * new window or lane. */
void qn_ref_window_begin(struct qn_device *d, const struct qn_step_seq *seq, int layer, int first, int n);
void qn_ref_window_end(struct qn_device *d, const struct qn_step *s, int q, int layer, int first, int n);
/* Raw inputs [CD] of a row of the sequence in the step; negative rows are in the window. */
const float *qn_ref_window_row(const struct qn_device *d, const struct qn_step_seq *seq, int layer, int row);
/* exp(-exp(A_log) softplus(a + dt_bias)) */
float qn_ref_alpha(float a, float a_log, float dt_bias);
void qn_ref_carry_flush(struct qn_device *d, int slot, int lane, int n_commit);

/* One head of the gated delta rule over n_row rows, from state [dk][dv] (row-major, in and out).
 * q and k are normalised and q is scaled; q, k [n_row, dk], v, o [n_row, dv], alpha, beta [n_row].
 * The chunk form is mathematically equal to the step form; it exists for oracles and for devices that
 * prefer matrix products. */
struct qn_ref_delta {
    int dk, dv, n_row;
    const float *q, *k, *v, *alpha, *beta;
    float *o;     /* [n_row, dv] */
    float *state; /* [dk, dv] */
    float *delta; /* [n_row, dv] or NULL (step form only) */
};
void qn_ref_delta_steps(const struct qn_ref_delta *p);
void qn_ref_delta_chunks(const struct qn_ref_delta *p, int chunk);

/* ref_ffn.c */
void qn_ref_mlp(struct qn_device *d, const struct qn_step *s, const struct qn_op_ffn *op);
void qn_ref_moe(struct qn_device *d, const struct qn_step *s, const struct qn_op_ffn *op);
/* The k most likely experts of a row, lowest id first among equals, and their normalised weights. */
void qn_ref_route(const float *logits, int n_expert, int top_k, int *expert, float *weight);
/* The weights of experts that are chosen, the most likely one first. */
void qn_ref_route_weights(const float *logits, int top_k, const int *expert, float *weight);

/* ref_head.c */
void qn_ref_head(struct qn_device *d, const struct qn_step *s, const struct qn_op_head *op);
void qn_ref_logits(struct qn_device *d, const struct qn_step *s, const struct qn_op_logits *op);
void qn_ref_adjust(struct qn_device *d, const struct qn_step *s, const struct qn_op_rows *op);
void qn_ref_sample(struct qn_device *d, const struct qn_step *s, const struct qn_op_rows *op);
void qn_ref_verify(struct qn_device *d, const struct qn_step *s);
void qn_ref_score(struct qn_device *d, const struct qn_step *s, const struct qn_op_rows *op);
/* Is a token picked from logit row i? */
bool qn_ref_is_sampled(const struct qn_step *s, int i);

/* ref_mtp.c */
void qn_ref_draft_in(struct qn_device *d, const struct qn_step *s, const struct qn_op_draft_in *op);
void qn_ref_draft(struct qn_device *d, const struct qn_op_draft *op);
/* The parts of draft for logit row i: penalties and biases (returns the position to be drawn), the result. */
int qn_ref_draft_adjust(struct qn_device *d, const struct qn_op_draft *op, int i);
void qn_ref_draft_keep(struct qn_device *d, const struct qn_op_draft *op, int i, int32_t tok);
void qn_ref_carry(struct qn_device *d, const struct qn_step *s, const struct qn_op_carry *op);

static inline float qn_sigmoid(float x)
{
    return 1.0f / (1.0f + __builtin_expf(-x));
}
static inline float qn_silu(float x)
{
    return x * qn_sigmoid(x);
}

#endif
