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
#include "backend/step.h"
#include "backend/weights.h"
#include "base/err.h"

/* E4M3 and E5M2 values are x over the scale of the layer's K or V in the checkpoint, 1 when it has none;
 * E4M3D's over a power of two of each token's and head's own, kept beside them in the page. */
enum qn_kv { QN_KV_F32, QN_KV_BF16, QN_KV_E4M3, QN_KV_E5M2, QN_KV_E4M3D, QN_N_KV };

const char *qn_kv_name(enum qn_kv t);   /* "BF16", ... */
size_t qn_kv_bytes(enum qn_kv t);       /* per value */
size_t qn_kv_scale_bytes(enum qn_kv t); /* per token, head and K or V */
/* A name as users write it, in any case; -1: unknown. "fp8" is E4M3 when the checkpoint has scales, else
 * E4M3D. */
int qn_kv_find(const char *name, bool has_scales);
#define QN_KV_NAMES "bf16, f32, fp8, fp8_e4m3, fp8_e5m2 or fp8_dynamic"

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

/* Sizes that follow from the configuration, for plan and pools. The same for ref and cpu. */
struct qn_device_sizes {
    size_t page_bytes;      /* one page: K and V of all full-attention layers and, with MTP, of its layer */
    size_t slot_bytes;      /* recurrent state, conv window and carry of one timeline */
    size_t lane_bytes;      /* pending rows of one live sequence (1 + QN_MAX_DRAFT) */
    size_t workspace_bytes; /* buffers that depend on max_rows, max_logits */
};
void qn_device_sizes(const struct qn_device_options *o, struct qn_device_sizes *out);

/* --- arguments of the operations --- */
struct qn_op_embed {
    const struct qn_weight *table;
    float *x, *y;
}; /* x = table[tok]; y = 0 */
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
    const struct qn_weight *head;
    const float *norm; /* [H], 1 + w */
    float *x, *y;
    float *hidden; /* [rows, H] after the norm, every row; may be NULL when only logits are wanted */
    float *logits; /* [n_logit, V]; NULL: hidden only */
};
struct qn_op_rows {
    float *logits;
    struct qn_step_result *result;
}; /* adjust, sample, verify */
struct qn_op_draft_in {
    const struct qn_mtp_weights *w;
    const struct qn_weight *table;
    const float *hidden;       /* [.., H] */
    const int32_t *hidden_row; /* [rows] row of hidden for each row of the step; -1: the carry */
    float *x, *y;              /* x = fc([norm(embed(tok)) ; norm(hidden)]); y = 0 */
};
/* Keeps hidden rows for sequences with wants_mtp. Prefill: the last row, in the slot. Decode: all rows, in
 * the lane; the slot's carry becomes that of the rows committed by this step's n_commit. state_flush does the
 * same, so the carry always belongs to the last committed position. */
struct qn_op_carry {
    const float *hidden; /* [rows, H] */
};
struct qn_op_score {
    const float *logits;   /* [n, V] */
    const int32_t *target; /* [n] */
    int n, n_top;
    float *logprob;   /* [n] */
    int32_t *rank;    /* [n] 0: the most likely; or NULL */
    int32_t *top_tok; /* [n, n_top] or NULL */
    float *top_logprob;
};
struct qn_copy {
    int from, to;
    int n_tok;
}; /* pages: the first n_tok tokens (QN_PAGE: all); slots: n_tok unused */

struct qn_backend {
    const char *name;

    /* --- resources --- */
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
    /* Waits for the last step; returns the first fault. */
    int (*sync)(struct qn_device *d, struct qn_err *e);
    /* Bytes of weights held so far. */
    size_t (*weight_bytes)(const struct qn_device *d);

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
    void (*adjust)(struct qn_device *d, const struct qn_step *s, const struct qn_op_rows *op);
    void (*sample)(struct qn_device *d, const struct qn_step *s, const struct qn_op_rows *op);
    void (*verify)(struct qn_device *d, const struct qn_step *s, const struct qn_op_rows *op);
    void (*draft_in)(struct qn_device *d, const struct qn_step *s, const struct qn_op_draft_in *op);
    void (*carry)(struct qn_device *d, const struct qn_step *s, const struct qn_op_carry *op);
    void (*score)(struct qn_device *d, const struct qn_op_score *op);

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

    /* Sum and min/max of a float buffer, for tracing and tests. */
    void (*probe)(struct qn_device *d, const float *p, size_t n, double out[3]);
};

/* "ref", "cpu"; NULL when not compiled in. */
const struct qn_backend *qn_backend_get(const char *name);

#endif
