/* Search for column scales.
 * SPDX-License-Identifier: Apache-2.0 */
#include "model/fold.h"

#include <math.h>

#include "base/mem.h"
#include "model/clones.h"

#define STEPS 20 /* of the exponent, from 0 to 1 */

struct search {
    const struct qn_fold *f;
    const float *x; /* [n_x, K] */
    int n_x;
    float *x_size, *w_size; /* [K] root mean square of inputs; mean size of weights within their groups */
    double error[1 + 2 * STEPS];
};

/* Sum of squares of (x d) over the sample. */
QN_CLONES static double output_error(const float *d, const float *x, int n_x, int K)
{
    double total = 0;
    for (int r = 0; r < n_x; r++, x += K) {
        float lane[16] = {0}, sum = 0;
        int k = 0;
        for (; k + 16 <= K; k += 16)
            for (int j = 0; j < 16; j++) lane[j] += d[k + j] * x[k + j];
        for (; k < K; k++) sum += d[k] * x[k];
        for (int j = 0; j < 16; j++) sum += lane[j];
        total += (double)sum * (double)sum;
    }
    return total;
}

/* Candidate 0 is no scaling; then exponents of the inputs' size alone, then with the weights' size against
 * it. */
static void candidate(const struct search *s, int c, float *scale)
{
    const struct qn_fold *f = s->f;
    int K = f->n_in;
    for (int k = 0; k < K; k++) scale[k] = 1;
    if (!c) return;
    float a = (float)((c - 1) % STEPS + 1) / STEPS, low = INFINITY, high = 0;
    bool is_both = c > STEPS;
    for (int k = 0; k < K; k++) {
        if (!(s->x_size[k] > 0)) continue;
        scale[k] = powf(s->x_size[k], a) / (is_both ? powf(s->w_size[k] + 1e-4f, 1 - a) : 1);
        low = fminf(low, scale[k]);
        high = fmaxf(high, scale[k]);
    }
    float middle = high > 0 ? sqrtf(low * high) : 1;
    for (int k = 0; k < K; k++) scale[k] = s->x_size[k] > 0 ? QN_CLAMP(scale[k] / middle, 1e-3f, 1e3f) : 1;
}

static void try_candidate(void *ctx, int c, int thread)
{
    (void)thread;
    struct search *s = ctx;
    const struct qn_fold *f = s->f;
    size_t K = (size_t)f->n_in;
    const float *power = qn_stats_power(f->stats);
    float *scale = xmalloc(K * 4 * sizeof *scale), *row = scale + K, *h = row + K, *d = h + K;
    double total = 0;
    candidate(s, c, scale);
    for (size_t k = 0; k < K; k++) h[k] = power[k] / (scale[k] * scale[k]);
    for (int n = 0; n < f->n_row; n++) {
        const float *w = f->w + (size_t)n * K;
        for (size_t k = 0; k < K; k++) row[k] = w[k] * scale[k];
        qn_encode_round(f->store, f->group, row, 1, f->n_in, h);
        for (size_t k = 0; k < K; k++) d[k] = row[k] / scale[k] - w[k];
        total += output_error(d, s->x, s->n_x, f->n_in);
    }
    s->error[c] = total;
    free(scale);
}

/* Columns that share a scale are measured together. */
static void even_out(const struct qn_fold *f, float *size)
{
    if (!f->share) return;
    double *sum = xcalloc((size_t)f->n_share, sizeof *sum);
    int *n = xcalloc((size_t)f->n_share, sizeof *n);
    for (int k = 0; k < f->n_in; k++) {
        sum[f->share[k]] += (double)size[k] * (double)size[k];
        n[f->share[k]]++;
    }
    for (int k = 0; k < f->n_in; k++) size[k] = (float)sqrt(sum[f->share[k]] / n[f->share[k]]);
    free(sum);
    free(n);
}

double qn_fold_search(const struct qn_fold *f, struct qn_pool *pool, float *scale)
{
    size_t K = (size_t)f->n_in;
    struct search s = {.f = f};
    s.x = qn_stats_sample(f->stats, &s.n_x);
    s.x_size = xcalloc(K * 2, sizeof *s.x_size);
    s.w_size = s.x_size + K;
    for (size_t k = 0; k < K; k++) s.x_size[k] = sqrtf(qn_stats_power(f->stats)[k]);
    for (int n = 0; n < f->n_row; n++)
        for (size_t g = 0; g < K; g += (size_t)f->group) {
            const float *w = f->w + (size_t)n * K + g;
            float most = 0;
            for (int i = 0; i < f->group; i++) most = fmaxf(most, fabsf(w[i]));
            for (int i = 0; i < f->group && most > 0; i++) s.w_size[g + (size_t)i] += fabsf(w[i]) / most;
        }
    for (size_t k = 0; k < K; k++) s.w_size[k] /= (float)QN_MAX(f->n_row, 1);
    even_out(f, s.x_size);
    even_out(f, s.w_size);
    int best = 0, n_candidate = s.n_x && f->n_row ? QN_COUNT(s.error) : 0;
    qn_pool_run(pool, n_candidate, try_candidate, &s);
    for (int c = 1; c < n_candidate; c++)
        if (s.error[c] < s.error[best]) best = c;
    candidate(&s, best, scale);
    double gain = best && s.error[0] > 0 ? s.error[best] / s.error[0] : 1;
    free(s.x_size);
    return gain;
}
