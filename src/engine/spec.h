/* Speculation: how many drafts, and from where.
 * Owned by the engine thread. Depth changes speed only: a draft is accepted when it equals the target's pick.
 *
 * Automatic depth. Acceptance is counted by draft position (the chance that draft i is right when those
 * before it were), old counts fading, so expected tokens of a step are E(D) = 1 + sum over i of the products.
 * The time of a step is kept by (sequences, context, depth), from steps without prefill, with the rows it had
 * beyond those of its drafts (looked-up ones; fewer where rules cut drafts); what such a row costs is fitted
 * to what steps of the same depth differ in. So depths are compared at the rows that lookup has now. What
 * slows the depth in use slows all: the others are scaled with it. A depth not measured yet is taken from the
 * ratios of a neighbouring bucket, or guessed a little low, so that it gets tried. The depth with the most
 * E(D) / time is taken when it is a little better than the one in use; 0 is one of them. What passes between
 * two steps is part of that time: many small steps have more of it.
 *
 * Now and then a neighbour is tried for a few steps, as content and load change: as often as its expected
 * loss allows, a fraction of a percent of all time. At depth 0 the draft layer's KV is soon no longer kept
 * (asleep): neither a plain step nor a prompt has anything of the draft layer. Before a try it is kept again
 * for a while (waking), from there on: drafts are made from what there is.
 *
 * Prompt lookup is the second source: the tokens that followed the last three tokens where they stood before.
 * It replaces the MTP drafts of a sequence when it promises more for the time of its rows.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_SPEC_H
#define QN_SPEC_H

#include "engine/batch.h"

#define QN_SPEC_N_SEQ     8 /* buckets: 1 2 3-4 5-8 9-16 17-32 33-64 65- */
#define QN_SPEC_N_CONTEXT 5 /* mean tokens: up to 1k 4k 16k 64k, more */

struct qn_spec_count {
    double n, hit; /* tries and hits, fading */
};

struct qn_spec_time {
    double us, n_more; /* smoothed; rows a stream beyond those of its drafts. us 0: not measured */
    int n;             /* steps */
};

/* Of a row more to verify. */
struct qn_spec_row {
    double us;               /* 0: not measured */
    double n_more2, product; /* sums, fading */
};

/* What lookup does, a stream and step: smoothed. */
struct qn_spec_mix {
    double seqs, rows, tok; /* 1 when it drafts; its drafts; those accepted */
};

struct qn_spec {
    bool has_mtp;
    int fixed; /* depth; -1: automatic */
    int depth; /* in use */
    struct qn_spec_count accept[QN_MAX_DRAFT], lookup[QN_MAX_DRAFT];
    struct qn_spec_time time[QN_SPEC_N_SEQ][QN_SPEC_N_CONTEXT][QN_MAX_DRAFT + 1];
    struct qn_spec_row row[QN_SPEC_N_SEQ];
    double gap_us[QN_SPEC_N_SEQ]; /* between two steps, smoothed; 0: not measured */
    struct qn_spec_mix mix;
    int last_depth;           /* of the last step with streams */
    int n_seq, seqs, context; /* of the last decision, and its bucket */
    int n_at_depth;           /* decode steps since it was taken */
    int n_since;              /* decode steps since the last decision */
    int n_until;              /* decode steps until the next try */
    int n_probe;              /* steps left of a try; 0: none */
    int n_probed;             /* steps of it so far */
    int home;                 /* depth to come back to after it */
    int n_try;                /* tries begun */
    int n_at_zero;            /* decode steps in a row at home depth 0 */
    bool is_asleep;           /* the draft layer's KV is not kept */
    bool is_waking;           /* it is again, for a try */
    uint64_t n_lookup, n_lookup_accepted;
};

/* has_mtp: a draft layer is there and wanted. mtp: as in the engine's options. */
void qn_spec_init(struct qn_spec *s, bool has_mtp, int mtp);
/* Depth for the drafts made in a step with n_seq streams of n_context tokens in all; n_whole of them have all
 * of the draft layer's KV. */
int qn_spec_depth(struct qn_spec *s, int n_seq, int64_t n_context, int n_whole);
/* Is the draft layer's KV to be kept in this step, of streams? */
bool qn_spec_wants_mtp(const struct qn_spec *s);
bool qn_spec_reads_mtp(const struct qn_spec *s); /* of prompts */
/* Learns from a finished step with streams. gap_us: between the one before and it; 0: not known. */
void qn_spec_learn(struct qn_spec *s, const struct qn_batch *b, int64_t took_us, int64_t gap_us);
/* Replaces the drafts of q by looked-up ones when they promise more. At most max_draft. */
void qn_spec_lookup(struct qn_spec *s, struct qn_seq *q, int max_draft);

#endif
