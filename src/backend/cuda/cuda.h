/* The CUDA back end: what its files share.
 *
 * A step is packed into one pinned block and copied down once (begin). Kernels see it as a View, one for the
 * step and one for each of its passes, whose place never changes; everything else is found through it. Rows
 * that do not stand have row_seq -1 and are skipped.
 *
 * Inputs of linear layers are packed rows: for 8 rows and 16 inputs the B fragments of mma, [row / 8][k / 16]
 * [part][32 lanes][2], 1 part of BF16 or, with float activations, 3 whose sum is the float. A row's 16 inputs
 * lie together, so any rows can be gathered. k is filled up with zeros to a multiple of 64.
 *
 * Everything is owned by the device and used on the rank's thread. SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_CUDA_H
#define QN_CUDA_H

#include <inttypes.h>
#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

extern "C" {
#include "backend/backend.h"
}
#include "backend/cuda/dev.h"

#define QN_LANE_ROWS (1 + QN_MAX_DRAFT)

/* In the place of QN_FAIL_IF, whose goto C++ does not let cross declarations. */
#define CU_FAIL_IF(cond, e, code, ...)                                                                       \
    do {                                                                                                     \
        if (cond) return qn_err_set((e), (code), __FILE__, __LINE__, __VA_ARGS__);                           \
    } while (0)

/* --- weights --- */
enum Stored { W_BF16, W_F16, W_F32, W_E4M3, W_INT8, W_NVFP4, W_INT4, W_N };
enum ScaleKind { S_NONE, S_BLOCK, S_PAIR }; /* of groups: FP8 blocks; scale and zero of int4 */

/* A linear layer on the device. Codes are A fragments of mma: tiles of 16 outputs, 64 inputs a piece, a
 * lane's codes side by side. */
struct DevWeight {
    const uint4 *codes;      /* [n_tile][k64][...][32] */
    const uint32_t *scales4; /* NVFP4: [n_tile][k64][16], four E4M3 each */
    const float *block;      /* S_BLOCK: [n_out / 128][n_in / 128] */
    const uint2 *pair;       /* S_PAIR: [n_tile][n_group][16] scale (float), -(128 + zero) as two BF16 */
    const float *row_scale;  /* [n_out] or NULL */
    const int32_t *perm;     /* [k64 * 64] input of each place, -1: none; NULL: in order */
    float scale;             /* of the whole tensor */
    int n_out, n_in, n_tile, k64;
    int stored, scale_kind, n_group;
    int group16, fold16; /* 16 inputs each: in a group; whose products one chain of mma adds */
};
struct Experts; /* ffn.cu */
struct qn_weight {
    struct DevWeight w;
    struct Experts *experts; /* of the first gate of a layer */
    struct qn_weight *next;
};

/* --- a step, as kernels see it; all pointers are the device's --- */
struct View {
    int n_row, n_seq, n_decode, n_logit;
    int32_t *tok, *row_seq, *pos, *rope_pos,
        *embed_row; /* rope_pos, embed_row, mask_at, score_tok: or NULL */
    int32_t *logit_row, *logit_seq, *mask_at, *score_tok;
    struct qn_step_seq *seq;
    const int32_t *pages;
    const float *embed;
    const uint32_t *mask;
    const int32_t *bias_tok, *seen_tok, *seen_count;
    const float *bias;
    int mask_words, n_score_top, depth;
    /* passes */
    int32_t *from, *hidden_row, *pick, *need;
    int32_t *lives; /* [n_seq] 1: still drafts */
};
struct Results { /* on the device */
    int32_t *n_accepted, *n_drafted, *draft;
    struct qn_step_token *token, *score;
};

/* --- the device --- */
struct Chunk { /* of the slab */
    struct Chunk *next;
    unsigned char *p;
    size_t n_byte, used;
};
struct Shape { /* of the model, for kernels */
    int hidden, n_head, n_kv_head, head_dim, hd_pad, rotary_half, section_h, section_w;
    int n_k_head, n_v_head, k_dim, v_dim, v_pad, taps, kd, vd, cd, is_sigmoid_gate, is_tiled;
    int n_expert, top_k, vocab, n_tok;
    float eps;
    int parts; /* of packed rows */
    int kv;    /* enum qn_kv */
    size_t page_bytes, layer_bytes;
};

struct qn_device {
    struct qn_device_options o;
    struct qn_config c;
    struct Shape s;
    struct qn_device_sizes sizes;
    cudaStream_t stream;
    char arch[32];
    int fault;
    char fault_text[160];

    struct Chunk *chunks;
    size_t weight_bytes;
    struct qn_weight *weights;
    struct Experts *experts;

    unsigned char *pages, *slots, *lanes;
    size_t state_floats, lane_floats, head_floats;
    float *inv_freq;

    /* the step */
    unsigned char *host_block, *block; /* pinned, device */
    size_t block_bytes;
    struct View *host_view, *view; /* [1 + QN_MAX_DRAFT], at the start of the blocks */
    const struct qn_step *step;
    struct qn_step_result *result;
    unsigned char *host_results, *results;
    size_t results_bytes;
    struct Results r;

    /* scratch, max_rows of everything */
    unsigned char *scratch;
    size_t scratch_bytes;
    uint32_t *xp, *xp2; /* packed rows */
    uint32_t *xp_perm;  /* those of a layer in act-order; made when there is one */
    int perm_k64;
    float *qg, *q, *k, *v; /* [rows, nh, 2 hd] [rows, nh, hd_pad] [rows, nkv, hd] */
    float *attn, *part;    /* [rows, nh, hd_pad], partial results of splits */
    size_t part_floats;
    float *u, *conv, *z, *o_gdn, *beta, *alpha;
    float *ff_gate, *ff_up; /* [rows, F] or [rows * top_k, I] */
    float *ff_out;          /* [rows * top_k, H] */
    float *shared_out, *mix, *router;
    int32_t *pair_expert; /* [rows * top_k] */
    float *pair_weight;
    int32_t *pair_of;  /* [rows * top_k] sorted by expert: which pair */
    int32_t *items;    /* [..][4] */
    uint64_t n_launch; /* since open */
};

/* Where a back end's own memory comes from. */
void *cu_take(struct qn_device *d, size_t n_byte); /* from the slab, 256-aligned; NULL: none left */
bool cu_ok(struct qn_device *d, cudaError_t rc, const char *what); /* keeps the first fault */

static inline struct View *cu_view(const struct qn_device *d, const struct qn_step *s)
{
    return d->view + s->at_pass;
}
static inline int cu_k64(int n)
{
    return (n + 63) / 64;
}
static inline size_t cu_packed_words(size_t rows, int k, int parts)
{
    return (rows + 7) / 8 * (size_t)cu_k64(k) * 4 * (size_t)parts * 64;
}
static inline unsigned cu_threads(int n) /* for a row of n numbers: by shape alone */
{
    return n <= 256 ? 32 : n <= 1024 ? 128 : 256;
}

/* --- weight.cu --- */
int cu_weight(struct qn_device *d, const struct qn_linear *l, bool rows, struct qn_weight **out,
              struct qn_err *e);

/* --- linear.cu: y [n_row, n_out] = x W^T for up to 4 layers over the same packed rows --- */
struct Job {
    const struct qn_weight *w;
    float *y;
};
void cu_linear(struct qn_device *d, const uint32_t *x, int n_row, const struct Job *jobs, int n_job);
/* Experts: rows and outputs through lists. Item: expert, first place, number of places. y is by pair. */
struct Grouped {
    const DevWeight *w; /* [n_expert] */
    const int32_t *items, *n_item, *pair_of;
    int max_items, top_k;
    bool by_place; /* packed rows are by place; else by row: pair / top_k */
    float *y;      /* [pairs or places, n_out]: places when !to_pair */
    bool to_pair;
    unsigned formats; /* bit i: some expert is stored so */
};
void cu_grouped(struct qn_device *d, const uint32_t *x, const struct Grouped *g, int n_out, int n_in);
enum { ITEM_ROWS = 8 }; /* most places of an item */

/* --- rows.cu --- */
void cu_embed(struct qn_device *d, const struct qn_step *s, const struct qn_op_embed *op);
/* x += y, norm: packed rows to xp, or floats to hidden */
void cu_add_norm(struct qn_device *d, const struct qn_step *s, float *x, const float *y, const float *w,
                 uint32_t *xp, float *hidden);
void cu_head(struct qn_device *d, const struct qn_step *s, const struct qn_op_head *op);
void cu_logits(struct qn_device *d, const struct qn_step *s, const struct qn_op_logits *op);
void cu_draft_in(struct qn_device *d, const struct qn_step *s, const struct qn_op_draft_in *op);
/* silu(gate) * up -> packed rows. n_valid: on the device, rows that there are; NULL: all */
void cu_silu(struct qn_device *d, const float *gate, const float *up, int n_row, int n, uint32_t *xp,
             const int32_t *n_valid);

/* --- attn.cu, gdn.cu, ffn.cu --- */
void cu_attn_in(struct qn_device *d, const struct qn_step *s, const struct qn_op_attn_in *op);
void cu_attn(struct qn_device *d, const struct qn_step *s, const struct qn_op_attn *op);
void cu_attn_out(struct qn_device *d, const struct qn_step *s, const struct qn_op_attn_out *op);
void cu_gdn_in(struct qn_device *d, const struct qn_step *s, const struct qn_op_gdn_in *op);
void cu_gdn(struct qn_device *d, const struct qn_step *s, const struct qn_op_gdn *op);
void cu_gdn_out(struct qn_device *d, const struct qn_step *s, const struct qn_op_gdn_out *op);
void cu_state_flush(struct qn_device *d, int slot, int lane, int n_commit);
void cu_mlp(struct qn_device *d, const struct qn_step *s, const struct qn_op_ffn *op);
void cu_moe(struct qn_device *d, const struct qn_step *s, const struct qn_op_ffn *op);
void cu_experts_free(struct qn_device *d);

/* --- pick.cu --- */
void cu_raw(struct qn_device *d, const struct qn_step *s, const struct qn_op_rows *op);
void cu_score(struct qn_device *d, const struct qn_step *s, const struct qn_op_rows *op);
void cu_adjust(struct qn_device *d, const struct qn_step *s, const struct qn_op_rows *op);
void cu_sample(struct qn_device *d, const struct qn_step *s, const struct qn_op_rows *op);
void cu_verify(struct qn_device *d, const struct qn_step *s);
void cu_draft(struct qn_device *d, const struct qn_op_draft *op);

/* --- draft.cu --- */
void cu_settle(struct qn_device *d, struct qn_pass *pass, const struct qn_pass *before);
void cu_carry(struct qn_device *d, const struct qn_step *s, const struct qn_op_carry *op);

/* --- state.cu --- */
void cu_kv_copy(struct qn_device *d, const struct qn_copy *copies, int n);
void cu_kv_read(struct qn_device *d, int page, void *to);
void cu_kv_write(struct qn_device *d, int page, const void *from);
void cu_state_copy(struct qn_device *d, const struct qn_copy *copies, int n);
void cu_state_zero(struct qn_device *d, int slot);
void cu_state_read(struct qn_device *d, int slot, void *to);
void cu_state_write(struct qn_device *d, int slot, const void *from);

/* --- memory.cu: what is allocated at open, and how much that is --- */
void cu_shape(struct Shape *s, const struct qn_device_options *o);
void cu_sizes(const struct qn_device_options *o, struct qn_device_sizes *out);
int cu_memory_open(struct qn_device *d, struct qn_err *e);
void cu_memory_close(struct qn_device *d);

/* --- begin.cu: a step goes down, its results come up --- */
void cu_begin(struct qn_device *d, const struct qn_step *s, struct qn_pass *pass, int n_pass,
              struct qn_step_result *result);
int cu_sync(struct qn_device *d, struct qn_err *e);

#define CU_LAUNCH(d, kernel, grid, block, smem, ...)                                                         \
    do {                                                                                                     \
        (d)->n_launch++;                                                                                     \
        launch(kernel, grid, block, smem, (d)->stream, __VA_ARGS__);                                         \
    } while (0)

#endif
