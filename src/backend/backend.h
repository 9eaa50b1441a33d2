/* The operation table: what a device can do for the model.
 *
 * `ref` implements it in readable C and is the oracle; `cpu` starts as a copy of ref's table and overwrites
 * entries. A device belongs to one rank thread; every call on it comes from that thread. Resource calls
 * report errors; operations enqueue (on ref and cpu: run) and return nothing, a fault surfaces at sync.
 *
 * Conventions. x [rows, H] is the residual stream in float, y [rows, H] the output of the previous block not
 * yet added. attn_in, gdn_in, mlp, moe and head start with x += y; h = norm(x). Everything that varies with
 * the batch is in the step. Scratch between paired operations (q, gate, attention output, u, z, ...) belongs
 * to the device. Letters as in model/config.h.
 *
 * A step. `begin` gives a device all of it once: the step, the most rows its draft passes can have, and where
 * its results go. A device packs what it needs into one transfer; operations then take the step, or a pass of
 * it (step.at_pass), to say which rows they are for, and a device reads its own copy. Between begin and sync
 * the host reads nothing that the device computed: sync waits, brings the results down in one transfer, and
 * ends the step. An operation may be given a step with fewer rows and sequences than the one begun, its first
 * ones (slices); the arrays are the same. ref and cpu write results where they go at once.
 *
 * Drafts. `settle` ends what the verdict leaves open of a pass (tokens, positions, which rows stand); embed,
 * draft_in, the layer, head and logits run over its rows; `draft` picks a draft a sequence and keeps it in
 * the results. ref and cpu drop the rows that do not stand, so a pass may be left with none.
 *
 * Activations. QN_ACT_F32: every value is float. QN_ACT_BF16: the input rows of a linear layer are rounded
 * to BF16 (nearest even), products accumulate in float; residual stream, norms, state, softmax stay float.
 * QN_ACT_INT8: as BF16, and from there to 8 bits a block of 32 (act.h) before layers in NVFP4, int4 or int8.
 *
 * Rows are independent: an output row is reduced in an order fixed by shapes alone, whatever the number
 * of rows, the batch, the threads. Prefill uses the step recurrence on ref and cpu, so any split of a prompt
 * gives the same bits. SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_BACKEND_H
#define QN_BACKEND_H

#include "backend/act.h"
#include "backend/kv.h"
#include "backend/pass.h"
#include "backend/step.h"
#include "backend/weights.h"
#include "base/err.h"

struct qn_device; /* opaque; each backend defines its own */

/* Sees the float input rows of linear layers, for calibration: [n_row, K], in the order of the rows. On cpu
 * not those of the experts' gate and up projections, which are the router's. */
struct qn_observer {
    void *user;
    void (*rows)(void *user, const struct qn_weight *w, const float *x, int n_row);
};

struct qn_device_options {
    const struct qn_config *config;
    int ordinal;
    int n_thread; /* CPU workers; 0: one per physical core */
    enum qn_act act;
    enum qn_kv kv;
    int max_rows;   /* rows of a step, MTP rows included */
    int max_logits; /* wanted logit rows of a step */
    int max_seqs;
    int max_context;            /* tokens of one sequence */
    int n_page, n_slot, n_lane; /* sizes of the pools, all allocated at open */
    bool has_mtp;
    int n_tok; /* ids below this may be sampled (rows above are padding of the table); 0: all */
    const struct qn_observer *observer; /* or NULL */
    bool poison; /* debugging: scratch and pools start as NaN, scratch is NaN again before each step */
};

/* Sizes that follow from the options, for plan and pools. Each back end's own: padding, inner order. */
struct qn_device_sizes {
    size_t page_bytes;      /* one page: K and V of all full-attention layers and, with MTP, of its layer */
    size_t slot_bytes;      /* recurrent state, conv window and carry of one timeline */
    size_t lane_bytes;      /* pending rows of one live sequence (1 + QN_MAX_DRAFT) */
    size_t workspace_bytes; /* buffers that depend on max_rows, max_logits, those of alloc included */
};

/* What a device is, as people are told. */
struct qn_device_info {
    char isa[32];        /* instruction set or architecture: "avx512bf16", "sm_90", "plain C" */
    int n_thread;        /* CPU workers; 0 where there are none */
    size_t weight_bytes; /* of weights held so far */
};

/* --- arguments of the operations --- */
struct qn_op_embed {
    const struct qn_weight *table; /* rows of ids [first, first + n) */
    int first, n;
    float *x, *y;
}; /* x = table[tok - first], 0 for an id outside, or the row's own (step.embed_row); y = 0 */
struct qn_op_attn_in {
    const struct qn_layer_weights *w;
    float *x, *y;
    int kv_layer;
}; /* 0..n_full-1; n_full: the MTP layer, whose rope position is pos - 1 when the step has none */
struct qn_op_attn {
    const struct qn_layer_weights *w;
    int kv_layer; /* keys 0..pos of the row; the MTP layer has none at place 0: keys 1..pos */
    int first, n_seq;
};
struct qn_op_attn_out {
    const struct qn_layer_weights *w;
    float *y;
};
struct qn_op_gdn_in {
    const struct qn_layer_weights *w;
    float *x, *y;
    int gdn_layer;
};
struct qn_op_gdn {
    const struct qn_layer_weights *w;
    int gdn_layer;
    int first, n_seq;
};
struct qn_op_gdn_out {
    const struct qn_layer_weights *w;
    float *y;
};
struct qn_op_ffn {
    const struct qn_layer_weights *w;
    float *x, *y;
};
struct qn_op_head {
    const float *norm; /* [H], 1 + w */
    float *x, *y;
    float *hidden; /* [rows, H] after the norm */
};
struct qn_op_logits { /* of the step's logit rows [first, first + n) */
    const struct qn_weight *head;
    const float *hidden; /* [rows, H] */
    int first, n;
    float *logits; /* [n, V] */
};
/* adjust, sample: [n_logit, V], changed in place. score and raw: the raw ones, before adjust. */
struct qn_op_rows {
    float *logits;
    int first, n; /* raw: logit rows [first, first + n) of the results */
};
struct qn_op_draft_in {
    const struct qn_mtp_weights *w;
    const struct qn_pass *pass;
    const float *hidden; /* what pass.hidden_row counts in: the step's rows or those of the pass before */
    float *x, *y;        /* x: embeddings of the pass's rows in, fc([norm(x) ; norm(hidden)]) out; y = 0 */
};
struct qn_op_draft {
    struct qn_pass *pass;
    float *logits; /* [pass.step.n_logit, V] */
};
/* Keeps hidden rows for sequences with wants_mtp. Prefill: the last row, in the slot. Decode: all rows, in
 * the lane; the slot's carry becomes that of the rows committed by this step's n_commit. state_flush does the
 * same, so the carry always belongs to the last committed position. */
struct qn_op_carry {
    const float *hidden; /* [rows, H] */
};
struct qn_copy {
    int from, to;
    int n_tok;
}; /* pages: the first n_tok tokens (QN_PAGE: all); slots: n_tok unused */

struct qn_backend {
    const char *name;

    /* --- resources --- */
    /* Memory of a device of its own, any thread; fails where there is none that can be used. NULL: the device
     * is the machine. */
    int (*memory)(int ordinal, uint64_t *free, uint64_t *total, struct qn_err *e);
    void (*sizes)(const struct qn_device_options *o, struct qn_device_sizes *out); /* any thread */
    int (*open)(struct qn_device **out, const struct qn_device_options *o, struct qn_err *e);
    void (*close)(struct qn_device *d);
    /* Device memory for the forward pass's own buffers. */
    void *(*alloc)(struct qn_device *d, size_t n_byte); /* NULL when there is no room */
    void (*free)(struct qn_device *d, void *p);
    int (*upload)(struct qn_device *d, void *to, const void *from, size_t n_byte, struct qn_err *e);
    int (*download)(struct qn_device *d, void *to, const void *from, size_t n_byte, struct qn_err *e);
    /* From the device's memory to the device's memory, in order with the operations. */
    void (*move)(struct qn_device *d, void *to, const void *from, size_t n_byte);
    /* Checkpoint view -> backend layout. `rows` marks a table read by row (embed). Fails with QN_UNSUPPORTED
     * for a format or shape no kernel serves: here, never in the middle of a step. */
    int (*weight)(struct qn_device *d, const struct qn_linear *l, bool rows, struct qn_weight **out,
                  struct qn_err *e);
    /* Small vectors (norms, A_log, dt_bias, conv): *out is the device's own copy, freed with it. */
    int (*vector)(struct qn_device *d, const float *from, size_t n, const float **out, struct qn_err *e);
    void (*describe)(const struct qn_device *d, struct qn_device_info *out);

    /* --- a step --- */
    /* The step stays as it is until sync; its passes, [n_pass], and the result are written by the
     * operations. */
    void (*begin)(struct qn_device *d, const struct qn_step *s, struct qn_pass *pass, int n_pass,
                  struct qn_step_result *result);
    /* Waits for all that was enqueued, brings the results of the step down, ends it; returns the first fault.
     * Also without a step: waits for copies. */
    int (*sync)(struct qn_device *d, struct qn_err *e);

    /* --- model operations --- */
    void (*embed)(struct qn_device *d, const struct qn_step *s, const struct qn_op_embed *op);
    void (*attn_in)(struct qn_device *d, const struct qn_step *s, const struct qn_op_attn_in *op);
    void (*attn_prefill)(struct qn_device *d, const struct qn_step *s, const struct qn_op_attn *op);
    void (*attn_decode)(struct qn_device *d, const struct qn_step *s, const struct qn_op_attn *op);
    void (*attn_out)(struct qn_device *d, const struct qn_step *s, const struct qn_op_attn_out *op);
    void (*gdn_in)(struct qn_device *d, const struct qn_step *s, const struct qn_op_gdn_in *op);
    void (*gdn_prefill)(struct qn_device *d, const struct qn_step *s, const struct qn_op_gdn *op);
    void (*gdn_decode)(struct qn_device *d, const struct qn_step *s, const struct qn_op_gdn *op);
    void (*gdn_out)(struct qn_device *d, const struct qn_step *s, const struct qn_op_gdn_out *op);
    void (*mlp)(struct qn_device *d, const struct qn_step *s, const struct qn_op_ffn *op);
    void (*moe)(struct qn_device *d, const struct qn_step *s, const struct qn_op_ffn *op);
    void (*head)(struct qn_device *d, const struct qn_step *s, const struct qn_op_head *op);
    void (*logits)(struct qn_device *d, const struct qn_step *s, const struct qn_op_logits *op);
    /* Into result.logits, result.score. */
    void (*raw)(struct qn_device *d, const struct qn_step *s, const struct qn_op_rows *op);
    void (*score)(struct qn_device *d, const struct qn_step *s, const struct qn_op_rows *op);
    /* Penalties, biases and masks; the pick, into result.token; the drafts that equal the picks, into
     * result.n_accepted. Rows of sequences with wants_token. */
    void (*adjust)(struct qn_device *d, const struct qn_step *s, const struct qn_op_rows *op);
    void (*sample)(struct qn_device *d, const struct qn_step *s, const struct qn_op_rows *op);
    void (*verify)(struct qn_device *d, const struct qn_step *s);

    /* --- drafts --- */
    void (*settle)(struct qn_device *d, struct qn_pass *pass, const struct qn_pass *before);
    void (*draft_in)(struct qn_device *d, const struct qn_step *s, const struct qn_op_draft_in *op);
    void (*carry)(struct qn_device *d, const struct qn_step *s, const struct qn_op_carry *op);
    /* Adjusts and picks; into result.draft and n_drafted. Without finite logits a sequence drafts no more. */
    void (*draft)(struct qn_device *d, const struct qn_op_draft *op);

    /* --- state (between steps) --- */
    void (*kv_copy)(struct qn_device *d, const struct qn_copy *copies, int n);
    void (*kv_read)(struct qn_device *d, int page, void *to); /* page_bytes, for the tiers */
    void (*kv_write)(struct qn_device *d, int page, const void *from);
    /* Folds n_commit rows of the lane into the slot: what a snapshot or a suspended sequence needs first. */
    void (*state_flush)(struct qn_device *d, int slot, int lane, int n_commit);
    void (*state_copy)(struct qn_device *d, const struct qn_copy *copies, int n);
    void (*state_zero)(struct qn_device *d, int slot);
    void (*state_read)(struct qn_device *d, int slot, void *to); /* slot_bytes */
    void (*state_write)(struct qn_device *d, int slot, const void *from);
};

/* "ref", "cpu"; NULL when not compiled in. */
const struct qn_backend *qn_backend_get(const char *name);

#endif
