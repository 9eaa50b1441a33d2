/* A step: everything that varies from one pass through the model to the next, as flat data.
 *
 * Built by the engine thread (engine/batch.c), read-only from publish to result. It says nothing about
 * requests, and holds no pointer into the engine's structures: only arrays of numbers that a device can be
 * given as they are. Rows are tokens; a sequence owns a run of consecutive rows. Decode sequences come
 * first, so that dense operations see all rows and attention and GDN operations get a range of sequences.
 *
 *   sequences   [0 .. n_decode)  decode or verify: 1 + n_draft rows each, all of them sampled
 *               [n_decode .. n_seq)  prefill: a chunk of the prompt, only the last row may be sampled
 *
 * Positions. Row r of a sequence has position seq.pos0 + (r - seq.first_row): pos0 tokens of the sequence
 * are already in its pages and its state. The rope position is the same number for text.
 *
 * MTP. The MTP row of position i is made of token t_i and the hidden row h_{i-1} (after the final norm), has
 * rope position i - 1 and keeps its K and V at place i of the MTP layer of the same pages. So the MTP part
 * of a page depends on the tokens of that page and earlier ones only, like the rest of the page, and can be
 * shared. h of the last committed position is kept in the slot (the carry) for the next step.
 *   prefill sequence: MTP rows pos0 .. pos0+n_row-1 (position 0 is skipped), the first one with the carry;
 *                     after sampling also the row pos0+n_row with the sampled token: the first draft.
 *   decode sequence:  the row of its first token was made when it was drafted from (a true h and a true
 *                     token); rows pos0+1 .. pos0+n_accepted+1 are made after the verdict, the last of them
 *                     (accepted count + 1, with the token just sampled) gives the first draft.
 *
 * The MTP layer's KV of a sequence need not be whole: it is kept from mtp_from on, and MTP rows see no key
 * before. Where wants_mtp is false nothing of it is kept, neither KV nor carry; the next step that wants it
 * starts behind its own first row, mtp_from = pos0 + 1, as the row of pos0 needs the hidden row before.
 * Drafts differ then, tokens do not.
 *
 * Media. With rope_pos set every row has three rope positions, and a row whose embed_row is not -1 takes that
 * row of `embed` in the place of its token's embedding. After a picture the rope position of text runs behind
 * its place in the sequence, so the MTP row of pos0 needs that of the token before: seq.rope_before.
 *
 * Slices. With slice_to set the last sequence, a prefill one, goes through a part of the model only: of
 * layers 0 .. n_layer-1 and, as n_layer, the final norm, logits and MTP rows those in [slice_from, slice_to).
 * Its rows of the residual stream stay with the device until the step that goes on at slice_to with the same
 * sequence, unchanged but for its place in the step; only the slice that ends at n_layer + 1 has wants_token.
 * Between them the sequence's slot is partly ahead, and of no use to anything else. There is one at a time.
 *
 * Deferred commit. Rows of a decode step leave state and conv window unchanged; what they would change is
 * kept in the sequence's lane. The next step that touches the sequence says in n_commit how many of the
 * lane's rows were accepted, and folds them in before anything else. Prefill rows are committed at once.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_STEP_H
#define QN_STEP_H

#include "backend/page.h"
#include "base/base.h"

#define QN_MAX_DRAFT 8
#define QN_MAX_TOP   20 /* most log-probabilities a row can ask for */

/* How the token of a row is chosen. The same for all rows of a sequence. */
struct qn_sample {
    float temperature;         /* 0: argmax (lowest id on ties) */
    float top_p, min_p;        /* 1 and 0: off */
    int top_k;                 /* 0: off */
    float presence, frequency; /* subtracted for generated tokens; 0: off */
    float repetition;          /* divides (or multiplies) logits of tokens in prompt and output; 1: off */
    uint64_t seed;
    int n_top;              /* top log-probabilities wanted, 0..QN_MAX_TOP; -1: not even the chosen one's */
    int first_bias, n_bias; /* range in step.bias_* */
    int first_seen, n_seen; /* range in step.seen_*: the penalty history at the first wanted row, that row's
                               own token included; later rows of a decode sequence add theirs (the drafts) */
};

struct qn_step_seq {
    int first_row, n_row;
    int pos0;               /* tokens before the first row */
    int first_page, n_page; /* range in step.pages; covers pos0 + n_row + n_draft_next + 1 tokens */
    int slot;               /* state slot */
    int lane;               /* pending rows of a live sequence, 0..n_lane-1 */
    int n_commit;           /* rows of the lane accepted in the previous decode step, folded in first */
    bool is_fresh;          /* the slot holds no state yet: start from zero (pos0 is 0) */
    bool wants_token;       /* sample: every row of a decode sequence, the last row of a prefill sequence */
    bool wants_mtp;         /* keep the MTP layer's KV in step (carry and rows as above) */
    int mtp_from;     /* with wants_mtp: the first position whose MTP row is kept, <= pos0 + 1; 0 as 1 */
    int n_draft;      /* decode: drafts among the rows (n_row - 1) */
    int n_draft_next; /* drafts to make for the next step, 0..QN_MAX_DRAFT; needs wants_mtp, wants_token */
    int first_logit;  /* index of its first wanted logit row: n_row of them (decode), 1 (prefill: with
                         all_logits that of its last row); unused without wants_token */
    int32_t rope_before[3]; /* with rope_pos: rope position of the token before the first row */
    struct qn_sample sample;
};

struct qn_step {
    int n_row, n_seq, n_decode, n_decode_row;
    int slice_from, slice_to; /* of the last sequence, see above; 0, 0: all of it */
    int at_pass;              /* 0: a step; d + 1: the rows of its pass d (pass.h) */
    int n_logit;              /* wanted logit rows */
    const int32_t *tok;       /* [n_row] */
    const int32_t *row_seq;   /* [n_row] */
    const int32_t *pos;       /* [n_row] */
    const int32_t *rope_pos;  /* [n_row][3] T, H, W when media are in the step; NULL: pos */
    const int32_t *embed_row; /* [n_row] row of embed, or -1: the token's; NULL: tokens only */
    const float *embed;       /* [n_embed, H] */
    int n_embed;
    const struct qn_step_seq *seq; /* [n_seq] */
    const int32_t *pages;          /* page tables, one after the other */
    int n_pages;
    const int32_t *logit_row; /* [n_logit] row of the step */
    const int32_t *logit_seq; /* [n_logit] */
    /* Allowed tokens as bits, one mask after the other: [n_mask][mask_words], at least V bits each. */
    const int32_t *mask_at; /* [n_logit] index of the row's mask, or -1: all are allowed; NULL: no masks */
    const uint32_t *mask;
    int n_mask, mask_words;
    const int32_t *bias_tok;
    const float *bias;
    int n_bias;
    const int32_t *seen_tok;   /* distinct tokens of a sequence's history */
    const int32_t *seen_count; /* times generated (0: only in the prompt) */
    int n_seen;
    /* Log-probabilities of given tokens, from the raw logits of their rows: result.score. */
    const int32_t *score_tok; /* [n_logit] or -1: none; NULL: nothing to score */
    int n_score_top;          /* top log-probabilities beside them, 0..QN_MAX_TOP */
    /* Every row has logits (eval, prompt log-probabilities): n_logit == n_row, logit_row[i] == i. With
     * wants_raw they come down as they are: result.logits. */
    bool all_logits, wants_raw;
};

/* Allowed tokens of logit row i, or NULL: all. */
static inline const uint32_t *qn_step_mask(const struct qn_step *s, int i)
{
    if (!s->mask_at || s->mask_at[i] < 0) return NULL;
    return s->mask + (size_t)s->mask_at[i] * (size_t)s->mask_words;
}

/* What comes back, in host memory of whoever made the step. A device keeps its own and brings all of it down
 * in one transfer at the end of the step (backend.h, sync). */
struct qn_step_token {
    int32_t tok;   /* -1: the row has a NaN, or nothing finite to choose from */
    float logprob; /* of tok, from the adjusted logits at temperature 1; NaN when not wanted */
    int n_top;
    int32_t top_tok[QN_MAX_TOP]; /* most likely first */
    float top_logprob[QN_MAX_TOP];
};

struct qn_step_result {
    struct qn_step_token *token; /* [n_logit] the target's pick of each wanted row */
    int32_t *n_accepted; /* [n_seq] drafts that equal the target's pick, from the first on; 0 in prefill */
    int32_t *draft;      /* [n_seq][QN_MAX_DRAFT] drafts for the next step */
    int32_t *n_drafted;  /* [n_seq] fewer than asked for where the draft layer's logits are not finite */
    struct qn_step_token *score; /* [n_logit] of step.score_tok: tok -1 where none was asked for or the row
                                    is not finite; NULL without score_tok */
    float *logits;               /* [n_logit, V] raw, with wants_raw; else NULL */
    int fault;                   /* QN_OK, or QN_DEVICE with the text below */
    char fault_text[160];
};

#endif
