/* How far one model's next-token distributions are from another's: Kullback-Leibler divergence by position,
 * top-1 agreement, perplexities.
 *
 * KL(P || Q) = sum_i p_i (log p_i - log q_i), in nats, over all rows of the vocabulary; P is the reference.
 * From a stored reference the tail outside its k most likely tokens is one more outcome with its exact mass,
 * which gives a lower bound of the full sum. Owned by one thread.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_DIVERGENCE_H
#define QN_DIVERGENCE_H

#include "base/base.h"

struct qn_divergence {
    double *kld; /* [n] */
    size_t n, capacity;
    size_t n_same;          /* positions with the same most likely token */
    size_t n_target;        /* positions whose next token is known */
    double nll, nll_square; /* of the tested model */
    double nll_ref;
};

struct qn_divergence_summary {
    size_t n;
    double mean, mean_error, median, p95, p99, max; /* error: standard error of the mean */
    double top1, top1_error;                        /* share of positions, binomial error */
    double ppl, ppl_error, ppl_ref;                 /* NaN without targets */
};

/* One row of the top of a reference distribution. */
struct qn_top_row {
    int k;
    const int32_t *tok;   /* [k] most likely first */
    const float *logprob; /* [k] */
    float tail_logprob;   /* log of the mass outside, -inf for none */
};

/* log softmax pieces: log of the sum of exp over [vocab]; *arg gets the lowest index of the maximum. */
double qn_log_sum(const float *logits, int vocab, int *arg);

/* target: the token that followed, or -1. */
void qn_divergence_add(struct qn_divergence *d, const float *reference, const float *tested, int vocab,
                       int target);
void qn_divergence_add_top(struct qn_divergence *d, const struct qn_top_row *reference, const float *tested,
                           int vocab, int target);
/* A position of the tested model alone: only its perplexity is counted. logprob: of the token that followed;
 * NaN when there is none. */
void qn_divergence_add_target(struct qn_divergence *d, double logprob);
void qn_divergence_summary(struct qn_divergence *d, struct qn_divergence_summary *out); /* sorts kld */
void qn_divergence_free(struct qn_divergence *d);

#endif
