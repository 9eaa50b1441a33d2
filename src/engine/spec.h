/* Speculation: how many drafts, and from where.
 * Owned by the engine thread. Depth changes speed only: a draft is accepted when it equals the target's pick.
 *
 * Automatic depth. Acceptance is kept by draft position (the chance that draft i is right when those before
 * it were), smoothed, so expected tokens of a step are E(D) = 1 + sum over i of the products. The time of a
 * step is kept by (sequences, depth, context), from steps without prefill in which every sequence had the
 * same depth; a depth without a measurement is estimated from its neighbour, a little low, so that it gets
 * tried. The depth with the most E(D) / time is taken when it is a few percent better than the one in use; 0
 * is one of them. Now and then a neighbour is tried for a few steps, as content and load change.
 *
 * Prompt lookup is the second source: the tokens that followed the last three tokens where they stood before.
 * It replaces the MTP drafts of a sequence when its own expected count is higher.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_SPEC_H
#define QN_SPEC_H

#include "engine/batch.h"

#define QN_SPEC_N_SEQ     8 /* buckets: 1 2 3-4 5-8 9-16 17-32 33-64 65- */
#define QN_SPEC_N_CONTEXT 5 /* mean tokens: up to 1k 4k 16k 64k, more */

struct qn_spec {
    bool has_mtp;
    int fixed; /* depth; -1: automatic */
    int depth; /* in use */
    double accept[QN_MAX_DRAFT], lookup_accept[QN_MAX_DRAFT];
    double time_us[QN_SPEC_N_SEQ][QN_SPEC_N_CONTEXT][QN_MAX_DRAFT + 1]; /* 0: not measured */
    int n_measured[QN_SPEC_N_SEQ][QN_SPEC_N_CONTEXT][QN_MAX_DRAFT + 1];
    int seqs, context;           /* bucket of the last decision */
    int n_since;                 /* decode steps since the last decision */
    int n_probe;                 /* steps left of a try */
    int home;                    /* depth to come back to after it */
    bool is_up;                  /* the last try went up */
    int n_decision, probe_every; /* decisions since the last try; between two */
    int n_at_zero;               /* decode steps in a row without drafts */
    uint64_t n_lookup, n_lookup_accepted;
};

/* has_mtp: a draft layer is there and wanted. mtp: as in the engine's options. */
void qn_spec_init(struct qn_spec *s, bool has_mtp, int mtp);
/* Depth for the drafts made in a step with n_seq streams of n_context tokens in all. */
int qn_spec_depth(struct qn_spec *s, int n_seq, int64_t n_context);
/* Is the draft layer's KV to be kept in step? Not after a long while at depth 0. */
bool qn_spec_wants_mtp(const struct qn_spec *s);
/* Learns from a finished step with streams. */
void qn_spec_learn(struct qn_spec *s, const struct qn_batch *b, int64_t took_us);
/* Replaces the drafts of q by looked-up ones when they promise more. At most max_draft. */
void qn_spec_lookup(struct qn_spec *s, struct qn_seq *q, int max_draft);

#endif
