/* A batch: sequences -> one flat step, and the buffers its result comes back in.
 * Owned by the engine thread; the ranks read `step`, the first writes `result`, between publish and result.
 * There are two, used in turn, so that the last result is still there while the next step is built.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_BATCH_H
#define QN_BATCH_H

#include "engine/rank.h"
#include "engine/seq.h"

struct qn_batch_part {
    struct qn_seq *seq;
    bool is_decode, wants_token, is_lookup;
    bool has_hole; /* the draft layer lacks KV of the sequence */
    bool is_open;  /* a slice that is not the last of its rows */
    int n_row, n_draft;
};

struct qn_batch {
    struct qn_work work;
    struct qn_step step;
    struct qn_step_result result;
    struct qn_batch_part *part; /* [n_seq] */
    int max_seqs, max_rows, max_logits, vocab;
    /* arrays of the step */
    int32_t *tok, *row_seq, *pos, *logit_row, *logit_seq;
    int32_t *rope_pos, *embed_row; /* [max_rows, 3], [max_rows], allocated when media first come */
    float *embed;                  /* [embed_capacity, hidden] */
    int n_embed, embed_capacity, hidden;
    bool has_media; /* of some sequence of the step, in its rows or before them */
    struct qn_step_seq *seq;
    int32_t *pages, *bias_tok, *seen_tok, *seen_count;
    float *bias;
    int n_pages, pages_capacity, n_bias, bias_capacity, n_seen, seen_capacity;
    int32_t *mask_at, *score_tok; /* [max_logits] */
    uint32_t *mask;               /* [mask_capacity][mask_words] */
    int n_mask, mask_capacity, mask_words;
    bool *is_stuck;              /* [max_logits] rules that allow no token */
    struct qn_step_token *score; /* [max_logits] */
    float *logits;               /* with wants_raw, [n_logit, V] */
    size_t logits_capacity;
    int depth;      /* drafts wanted for the next step */
    bool keeps_mtp; /* the draft layer's KV, in decode rows */
};

/* d: limits of a step. */
void qn_batch_init(struct qn_batch *b, const struct qn_device_options *d);
void qn_batch_fini(struct qn_batch *b);
void qn_batch_begin(struct qn_batch *b);
/* Decode sequences first. Uses the sequence's drafts, as far as its rules and max_draft allow. */
void qn_batch_add_decode(struct qn_batch *b, struct qn_seq *s, int max_draft, bool wants_mtp,
                         int n_draft_next);
struct qn_batch_rows {
    int n_row; /* the next tokens */
    bool wants_mtp;
    int n_draft_next;
    bool all_logits; /* the only sequence of the step */
};
void qn_batch_add_prefill(struct qn_batch *b, struct qn_seq *s, const struct qn_batch_rows *rows);
/* The next parts of the model, of n_part, for the slice rows of s (qn_seq.n_slice_row), up to slice_to. The
 * last sequence of the step. */
void qn_batch_add_slice(struct qn_batch *b, struct qn_seq *s, int slice_to, int n_part, int n_draft_next);
/* Points the step at the arrays. */
void qn_batch_end(struct qn_batch *b);

#endif
