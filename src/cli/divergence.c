/* Kullback-Leibler divergence and its summary.
 * SPDX-License-Identifier: Apache-2.0 */
#include "cli/divergence.h"

#include <math.h>

#include "base/mem.h"

double qn_log_sum(const float *logits, int vocab, int *arg)
{
    int best = 0;
    for (int i = 1; i < vocab; i++)
        if (logits[i] > logits[best]) best = i;
    double sum = 0;
    for (int i = 0; i < vocab; i++) sum += exp((double)logits[i] - logits[best]);
    if (arg) *arg = best;
    return logits[best] + log(sum);
}

static void push(struct qn_divergence *d, double kld, bool is_same)
{
    if (d->n == d->capacity) {
        d->capacity = d->capacity ? d->capacity * 2 : 1024;
        d->kld = xreallocarray(d->kld, d->capacity, sizeof *d->kld);
    }
    d->kld[d->n++] = kld > 0 ? kld : 0; /* rounding can leave -1e-17 */
    d->n_same += is_same;
}

static void count_target(struct qn_divergence *d, double logprob)
{
    d->n_target++;
    d->nll -= logprob;
    d->nll_square += logprob * logprob;
}

void qn_divergence_add(struct qn_divergence *d, const float *reference, const float *tested, int vocab,
                       int target)
{
    int best_p, best_q;
    double log_p = qn_log_sum(reference, vocab, &best_p), log_q = qn_log_sum(tested, vocab, &best_q), kld = 0;
    for (int i = 0; i < vocab; i++) {
        double lp = reference[i] - log_p;
        double p = exp(lp);
        if (p > 0) kld += p * (lp - (tested[i] - log_q));
    }
    push(d, kld, best_p == best_q);
    if (target >= 0) {
        count_target(d, tested[target] - log_q);
        d->nll_ref -= reference[target] - log_p;
    }
}

void qn_divergence_add_target(struct qn_divergence *d, double logprob)
{
    push(d, 0, true);
    if (!isnan(logprob)) count_target(d, logprob);
}

void qn_divergence_add_top(struct qn_divergence *d, const struct qn_top_row *reference, const float *tested,
                           int vocab, int target)
{
    int best_q;
    double log_q = qn_log_sum(tested, vocab, &best_q), kld = 0, mass_q = 0;
    bool has_target = false;
    for (int i = 0; i < reference->k; i++) {
        double lp = reference->logprob[i], lq = tested[reference->tok[i]] - log_q;
        kld += exp(lp) * (lp - lq);
        mass_q += exp(lq);
        if (reference->tok[i] == target) {
            d->nll_ref -= lp;
            has_target = true;
        }
    }
    if (reference->tail_logprob > -80) {
        double tail_q = log(QN_MAX(1 - mass_q, 1e-12));
        kld += exp(reference->tail_logprob) * (reference->tail_logprob - tail_q);
    }
    push(d, kld, reference->k && reference->tok[0] == best_q);
    if (target >= 0) {
        count_target(d, tested[target] - log_q);
        if (!has_target) d->nll_ref = NAN; /* the stored top does not hold it */
    }
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

/* Linear interpolation between order statistics, as numpy.percentile does by default. */
static double quantile(const double *sorted, size_t n, double q)
{
    double at = q * (double)(n - 1);
    size_t low = (size_t)at, high = QN_MIN(low + 1, n - 1);
    return sorted[low] + (at - (double)low) * (sorted[high] - sorted[low]);
}

void qn_divergence_summary(struct qn_divergence *d, struct qn_divergence_summary *out)
{
    *out = (struct qn_divergence_summary){.n = d->n, .ppl = NAN, .ppl_error = NAN, .ppl_ref = NAN};
    if (d->n) {
        double sum = 0, square = 0, n = (double)d->n;
        qsort(d->kld, d->n, sizeof *d->kld, compare);
        for (size_t i = 0; i < d->n; i++) {
            sum += d->kld[i];
            square += d->kld[i] * d->kld[i];
        }
        out->mean = sum / n;
        out->mean_error = d->n > 1 ? sqrt(fmax(square / n - out->mean * out->mean, 0) / (n - 1)) : 0;
        out->median = quantile(d->kld, d->n, 0.5);
        out->p95 = quantile(d->kld, d->n, 0.95);
        out->p99 = quantile(d->kld, d->n, 0.99);
        out->max = d->kld[d->n - 1];
        out->top1 = (double)d->n_same / n;
        out->top1_error = sqrt(out->top1 * (1 - out->top1) / n);
    }
    if (d->n_target) {
        double n = (double)d->n_target, mean = d->nll / n;
        double error = n > 1 ? sqrt(fmax(d->nll_square / n - mean * mean, 0) / (n - 1)) : 0;
        out->ppl = exp(mean);
        out->ppl_error = out->ppl * error;
        out->ppl_ref = exp(d->nll_ref / n);
    }
}

void qn_divergence_free(struct qn_divergence *d)
{
    free(d->kld);
    *d = (struct qn_divergence){0};
}
