/* Choosing a token from a row of logits: a pure function of (logits, parameters, seed, position).
 *
 * With temperature > 0 the token is the argmax over the kept candidates of logit / T + gumbel(seed, position,
 * token id), an exact sample that needs no state; candidates that cannot win are never looked at. Kept are:
 * the top_k largest; of those the smallest set of the most likely whose probability reaches top_p; of those
 * the ones at least min_p times as likely as the likeliest. Equal logits: lowest id first.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_DRAW_H
#define QN_DRAW_H

#include "backend/scan.h"
#include "backend/step.h"

/* gumbel < QN_GUMBEL_MAX always */
#define QN_GUMBEL_MAX 17.0f
float qn_gumbel(uint64_t seed, int position, int tok);

/* x [n]. position is that of the token to be drawn. Fills out->tok and, when p->n_top >= 0, the rest. A row
 * with a NaN in it, or whose largest is an infinity, gives no token: -1. */
void qn_draw(const struct qn_scan *scan, const float *x, int n, const struct qn_sample *p, int position,
             struct qn_step_token *out);

/* The n_top largest of x, largest first; returns how many (fewer only when n is). */
int qn_draw_top(const struct qn_scan *scan, const float *x, int n, int n_top, int32_t *tok);

/* Log-probability of tok and the n_top most likely (0..QN_MAX_TOP) from raw logits x [n], at temperature 1.
 * tok -1: nothing is done. out->tok is -1 then and where the row is not finite. Sums in double. */
void qn_draw_score(const struct qn_scan *scan, const float *x, int n, int32_t tok, int n_top,
                   struct qn_step_token *out);

/* Penalties, bias and mask on x [n], in that order. `extra`: tokens of the row's own history that are not in
 * the step's seen list, each generated once. */
void qn_draw_adjust(const struct qn_step *s, const struct qn_sample *p, const int32_t *extra, int n_extra,
                    const uint32_t *mask, float *x, int n);

#endif
