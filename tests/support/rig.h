/* A forward pass on a bench: opens a checkpoint on a back end and runs hand-made steps.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_RIG_H
#define QN_RIG_H

#include "engine/forward.h"

#define RIG_PAGES 40 /* pages of a sequence, scattered over the pool */

struct rig_options {
    const char *backend;
    enum qn_act act;
    enum qn_kv kv;
    int n_thread;
    int max_rows; /* 0: 256 */
    bool poison;
};

struct rig {
    struct qn_model *model;
    struct qn_forward *f;
    const struct qn_config *c;
};

/* One sequence of a step. Its slot and lane have the same number. */
struct rig_seq {
    const int32_t *tok;
    int n_row, pos0, slot;
    bool is_decode, is_fresh, wants_token, wants_mtp;
    int n_commit, n_draft_next, mtp_from;
    int slice_from, slice_to; /* of the last one, without logits */
    struct qn_sample sample;
    /* out */
    int32_t picked[1 + QN_MAX_DRAFT];
    float logprob[1 + QN_MAX_DRAFT];
    int n_accepted;
    int32_t draft[QN_MAX_DRAFT];
    int n_drafted;
};

void rig_open(struct rig *r, const char *folder, const struct rig_options *o);
void rig_close(struct rig *r);

/* Runs the sequences (decode first) as one step. logits, when not NULL, gets every row's: [rows, V]. */
void rig_step(struct rig *r, struct rig_seq *seqs, int n_seq, float *logits);

/* Logits of every position of one prompt on a fresh slot, in chunks: [n, V]. */
void rig_logits(struct rig *r, int slot, const int32_t *tok, int n, int chunk, float *logits);

/* Greedy continuation of a prompt with drafts of the given depth (0: none). Returns the number of steps. */
int rig_greedy(struct rig *r, int slot, const int32_t *tok, int n, int depth, int n_new, int32_t *out);

/* Case folders of tests/golden/model and what is in golden.json. */
struct rig_golden {
    char folder[512];
    int n_prompt, n_length, n_greedy, n_draft;
    int32_t prompt[256], length[8], greedy[256], draft[8];
    int32_t steady[256]; /* 1: positions where the largest error means something */
    double scale, bf16_max, bf16_mean, bf16_kl;
    float *logits, *mtp; /* [n_prompt, V], [n_prompt - 1, V] or NULL */
};
void rig_golden_read(struct rig_golden *g, const char *name, int vocab);
void rig_golden_free(struct rig_golden *g);

#endif
