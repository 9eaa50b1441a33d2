/* Costs of steps.
 * SPDX-License-Identifier: Apache-2.0 */
#include "engine/cost.h"

#include <math.h>

#define AUTO_ITL    1.75 /* of a step's time without prefill */
#define LEAST_SHARE 0.25 /* of it, that prefill gets in any case: nobody starves */
#define PLAIN_EVERY 128  /* steps with prefill until there are some without */
#define PLAIN_WARM  1    /* of those, that are not learned from */
#define PLAIN_MOST  1.25 /* times the known, that one of them counts as: it may have been slowed by chance */
#define OTHER_EVERY 512  /* steps with prefill until the dearer way of it is tried again */
#define OTHER_STEPS 8
#define FAR         4096.0 /* tokens */
#define SMOOTH      0.2
#define STEP        0.25 /* of an error, corrected at once */
#define OUTLIER     3.0  /* times the expected: something else took time */

static int bucket(int n_seq)
{
    int i = 0;
    for (int n = 1; n < n_seq && i + 1 < QN_COST_N_SEQ; n *= 2) i++;
    return i;
}

static double decode_us(const struct qn_cost *c, int n_decode)
{
    double known = c->decode_us[bucket(n_decode)];
    return known > 0 ? known : c->last_decode_us;
}

double qn_cost_budget(const struct qn_cost *c, int n_decode, double target_us)
{
    double own = c->decode_us[bucket(n_decode)];
    if (own <= 0 || c->n_mixed >= PLAIN_EVERY) return 0;
    if (target_us <= 0) target_us = AUTO_ITL * own;
    return fmax(target_us - own, LEAST_SHARE * own);
}

static double estimate(const struct qn_cost_rows *r, double n, double n_context)
{
    return r->row_us * n + r->far_us * n_context / FAR;
}

static double context(int pos, double n)
{
    return n * (pos + 0.5 * n);
}

static const struct qn_cost_rows *beside(const struct qn_cost *c)
{
    return c->beside.n ? &c->beside : &c->alone;
}

static const struct qn_cost_rows *sliced(const struct qn_cost *c)
{
    return c->sliced.n ? &c->sliced : c->alone.n ? &c->alone : &c->beside;
}

static int fit(const struct qn_cost_rows *r, double left_us, int pos, int most, struct qn_cost_part part)
{
    /* n rows cost n (row + far (pos + n / 2)) */
    double far = r->far_us / FAR * part.far, one = r->row_us * part.row + far * pos;
    double n = most;
    if (far > 1e-9)
        n = (sqrt(one * one + 2 * far * left_us) - one) / far;
    else if (one > 0)
        n = left_us / one;
    return n < 1 ? 1 : (int)fmin(n, most);
}

int qn_cost_fit(const struct qn_cost *c, double left_us, int pos, int most, double *used_us)
{
    int n = fit(beside(c), left_us, pos, most, QN_COST_WHOLE);
    *used_us = estimate(beside(c), n, context(pos, n));
    return n;
}

bool qn_cost_slices(struct qn_cost *c, double left_us, int pos)
{
    double few = estimate(beside(c), 1, pos), many = estimate(sliced(c), 1, pos);
    if (few > left_us) return true;
    if (c->beside.n < OTHER_STEPS) return false;
    if (!c->sliced.n) return true;
    bool is_cheaper = many < few;
    if (c->n_other < OTHER_EVERY) return is_cheaper;
    /* the other way: once, when that takes many steps, or for a few of them */
    if (!is_cheaper || c->n_other >= OTHER_EVERY + OTHER_STEPS) c->n_other = 0;
    return !is_cheaper;
}

int qn_cost_fit_slice(const struct qn_cost *c, double left_us, int pos, int most, struct qn_cost_part dearest)
{
    return fit(sliced(c), left_us, pos, most, dearest);
}

double qn_cost_slice_us(const struct qn_cost *c, int pos, int n_row, struct qn_cost_part part)
{
    return estimate(sliced(c), n_row * part.row, context(pos, n_row) * part.far);
}

/* own_us: of the streams in the step. What is small beside it says little: noise is all that is left. */
static void learn_rows(struct qn_cost_rows *r, double n, double n_context, double took_us, double own_us)
{
    double far = n_context / FAR, expected = estimate(r, n, n_context);
    if (!r->n++) {
        if (r->row_us <= 0) r->row_us = took_us / n;
        return;
    }
    if (r->n > 8) took_us = fmin(took_us, OUTLIER * expected);
    double tells = own_us > 0 ? fmin(1, expected / (LEAST_SHARE * own_us)) : 1;
    double error = STEP * tells * (took_us - expected) / (n * n + far * far);
    r->row_us = fmax(r->row_us + error * n, 1e-3);
    r->far_us = fmax(r->far_us + error * far, 0);
}

static void smooth(double *average, double x)
{
    *average = *average <= 0 ? x : *average + SMOOTH * (x - *average);
}

void qn_cost_learn(struct qn_cost *c, const struct qn_cost_step *step)
{
    if (!step->n_row) {
        if (!step->n_decode) return;
        double *own = &c->decode_us[bucket(step->n_decode)];
        bool is_beside = c->n_mixed && *own > 0;
        if (is_beside && c->n_plain++ < PLAIN_WARM) return;
        smooth(own, is_beside ? fmin(step->took_us, PLAIN_MOST * *own) : step->took_us);
        c->last_decode_us = *own;
        c->n_mixed = 0;
    } else if (!step->n_decode) {
        if (!step->has_slice) learn_rows(&c->alone, step->n_row, step->n_context, step->took_us, 0);
    } else {
        struct qn_cost_rows *r = step->has_slice ? &c->sliced : &c->beside;
        double own_us = decode_us(c, step->n_decode);
        c->n_mixed++;
        c->n_other++;
        c->n_plain = 0;
        if (!r->n) *r = (struct qn_cost_rows){c->alone.row_us, c->alone.far_us, 0};
        learn_rows(r, step->n_row, step->n_context, fmax(step->took_us - own_us, 0), own_us);
    }
}
