/* Costs of steps.
 * SPDX-License-Identifier: Apache-2.0 */
#include "engine/cost.h"

#include <math.h>

#define AUTO_ITL    1.75 /* of a step's time without prefill */
#define LEAST_SHARE 0.25 /* of it, that prefill gets in any case: nobody starves */
#define PLAIN_EVERY 128  /* steps with prefill until there are some without */
#define PLAIN_WARM  1    /* of those, that are not learned from */
#define PLAIN_MOST  1.25 /* times the known, that one of them counts as: it may have been slowed by chance */
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

int qn_cost_fit(const struct qn_cost *c, double left_us, int pos, int most, double *used_us)
{
    const struct qn_cost_rows *r = c->beside.n ? &c->beside : &c->alone;
    /* n rows cost n (row + far (pos + n / 2)) */
    double far = r->far_us / FAR, one = r->row_us + far * pos;
    double n = most;
    if (far > 1e-9)
        n = (sqrt(one * one + 2 * far * left_us) - one) / far;
    else if (one > 0)
        n = left_us / one;
    int rows = n < 1 ? 1 : (int)fmin(n, most);
    *used_us = estimate(r, rows, (double)rows * (pos + 0.5 * rows));
    return rows;
}

static void learn_rows(struct qn_cost_rows *r, double n, double n_context, double took_us)
{
    double far = n_context / FAR, expected = estimate(r, n, n_context);
    if (!r->n++) {
        if (r->row_us <= 0) r->row_us = took_us / n;
        return;
    }
    if (r->n > 8) took_us = fmin(took_us, OUTLIER * expected);
    double error = STEP * (took_us - expected) / (n * n + far * far);
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
        learn_rows(&c->alone, step->n_row, step->n_context, step->took_us);
    } else {
        c->n_mixed++;
        c->n_plain = 0;
        if (!c->beside.n) c->beside = (struct qn_cost_rows){c->alone.row_us, c->alone.far_us, 0};
        learn_rows(&c->beside, step->n_row, step->n_context,
                   fmax(step->took_us - decode_us(c, step->n_decode), 0));
    }
}
