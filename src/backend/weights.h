/* The weights of a model as a backend holds them.
 *
 * A qn_weight is one linear layer in the backend's own layout, made by the `weight` call from a checkpoint
 * view and owned by the device. Small vectors are float arrays in the device's memory, made by its `vector`
 * call and owned by it, readable by every operation. Norm vectors are stored as the raw w of the file; the
 * operations add the 1 where the formula says 1 + w.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_WEIGHTS_H
#define QN_WEIGHTS_H

#include "model/config.h"
#include "model/format.h"

struct qn_weight; /* opaque; each backend defines its own */

struct qn_attn_weights {
    const float *q_norm, *k_norm; /* [hd], 1 + w */
    struct qn_weight *q;          /* [nh * 2 * hd, H]; per head hd query rows, then hd gate rows */
    struct qn_weight *k, *v;      /* [nkv * hd, H] */
    struct qn_weight *o;          /* [H, nh * hd] */
    float k_scale, v_scale;       /* of an FP8 KV cache: stored = cast(x / scale); 1 when the file has none */
};

struct qn_gdn_weights {
    struct qn_weight *qkv;        /* [CD, H] rows q (KD), k (KD), v (VD) */
    struct qn_weight *z;          /* [VD, H] */
    struct qn_weight *b, *a;      /* [NV, H] */
    struct qn_weight *out;        /* [H, VD] */
    const float *conv;            /* [CD, taps] tap taps-1 multiplies the current row */
    const float *a_log, *dt_bias; /* [NV] */
    const float *norm;            /* [DV], plain w */
};

struct qn_mlp_weights {
    struct qn_weight *gate, *up; /* [F, H] */
    struct qn_weight *down;      /* [H, F] */
};

struct qn_moe_weights {
    struct qn_weight *router;      /* [E, H] */
    struct qn_weight **gate, **up; /* [E] of [I, H] */
    struct qn_weight **down;       /* [E] of [H, I] */
    struct qn_weight *shared_gate, *shared_up, *shared_down;
    struct qn_weight *shared_mix; /* [1, H] */
};

struct qn_layer_weights {
    bool is_full;
    const float *input_norm, *post_norm; /* [H], 1 + w */
    struct qn_attn_weights attn;         /* when is_full */
    struct qn_gdn_weights gdn;           /* otherwise */
    struct qn_mlp_weights mlp;           /* dense */
    struct qn_moe_weights moe;           /* MoE */
};

struct qn_mtp_weights {
    const float *norm_embed, *norm_hidden; /* [H], 1 + w */
    struct qn_weight *fc;                  /* [H, 2H]: embedding first, hidden second */
    struct qn_layer_weights layer;         /* a full-attention layer */
    const float *norm;                     /* [H], 1 + w */
};

struct qn_weights {
    struct qn_weight *embed; /* [n_tok, H], read row by row */
    struct qn_weight *head;  /* [n_tok, H]; the same handle as embed when tied and the backend can use one */
    int first_tok, n_tok;    /* ids of those rows: all of them, but for a rank of several */
    const float *final_norm; /* [H], 1 + w */
    struct qn_layer_weights *layers; /* [L] */
    struct qn_mtp_weights *mtp;      /* or NULL */
};

#endif
