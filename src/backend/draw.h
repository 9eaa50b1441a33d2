/* Choosing a token from a row of logits: a pure function of (logits, parameters, seed, position).
 *
 * With temperature > 0 the token is the argmax over the kept candidates of logit / T + gumbel(seed, position,
 * token id), an exact sample that needs no state; candidates that cannot win are never looked at. Kept are:
 * the top_k largest; of those the smallest set of the most likely whose probability reaches top_p; of those
 * the ones at least min_p times as likely as the likeliest. Equal logits: lowest id first.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_DRAW_H
#define QN_DRAW_H

#include "backend/step.h"

/* Passes over a row; a back end may bring faster ones that give the same answers (sum_exp: up to rounding).
 */
struct qn_scan {
    float (*max)(const float *x, int n); /* NaN when one of them is (or both infinities are among them) */
    int (*above)(const float *x, int from, int n, float than); /* first i >= from with x[i] > than, or n */
    double (*sum_exp)(const float *x, int n, float max, float scale); /* sum of exp((x - max) * scale) */
};
extern const struct qn_scan qn_scan_plain;

/* gumbel < QN_GUMBEL_MAX always */
#define QN_GUMBEL_MAX 17.0f
float qn_gumbel(uint64_t seed, int position, int tok);

/* x [n]. position is that of the token to be drawn. Fills out->tok and, when p->n_top >= 0, the rest. A row
 * with a NaN in it, or whose largest is an infinity, gives no token: -1. */
void qn_draw(const struct qn_scan *scan, const float *x, int n, const struct qn_sample *p, int position,
             struct qn_step_token *out);

/* The n_top largest of x, largest first; returns how many (fewer only when n is). */
int qn_draw_top(const struct qn_scan *scan, const float *x, int n, int n_top, int32_t *tok);

/* Penalties, bias and mask on x [n], in that order. `extra`: tokens of the row's own history that are not in
 * the step's seen list, each generated once. */
void qn_draw_adjust(const struct qn_step *s, const struct qn_sample *p, const int32_t *extra, int n_extra,
                    const uint32_t *mask, float *x, int n);

#endif
