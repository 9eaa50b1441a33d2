/* Storage formats of tensors and of linear layers, decided per tensor from dtype, shape and companions.
 *
 * A qn_tensor is a view of one safetensors entry; a qn_linear is a view of one linear layer [N, K]
 * (y[n] = sum_k x[k] W[n][k]) with whatever scales its format has. Views borrow the mapped file and live
 * as long as the qn_model. Immutable; any thread. Formulas of each format: docs/formats.md.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_FORMAT_H
#define QN_FORMAT_H

#include "model/blocks.h"
#include "model/dtype.h"

#define QN_MAX_DIM 6 /* the patch projection of a vision tower has five */

struct qn_tensor {
    const char *name;
    enum qn_dtype dtype;
    int n_dim;
    int64_t shape[QN_MAX_DIM];
    const void *data; /* mapped, not necessarily aligned */
    size_t n_byte;
};

enum qn_format {
    QN_FMT_F32,
    QN_FMT_BF16,
    QN_FMT_F16,
    QN_FMT_NVFP4,       /* E2M1 pairs, E4M3 scale per 16, one multiplying float (both dialects end up here) */
    QN_FMT_FP8_BLOCK,   /* E4M3, one scale per 128 x 128 */
    QN_FMT_FP8_TENSOR,  /* E4M3, one scale */
    QN_FMT_FP8_CHANNEL, /* E4M3, one scale an output row */
    QN_FMT_INT4_AWQ,    /* AutoAWQ GEMM layout */
    QN_FMT_INT4_GPTQ,   /* GPTQ v1 / v2 */
    QN_FMT_INT4_CT,     /* compressed-tensors pack-quantized */
    QN_FMT_INT8_CHANNEL, /* compressed-tensors int-quantized, symmetric, one scale an output row */
    QN_FMT_INT8_GROUP,   /* the same with groups, a zero point, or one scale for all */
    QN_FMT_FP8_GRID,     /* E4M3, one scale for blocks of another size, or with E8M0 scales */
    QN_FMT_MXFP4,        /* E2M1 pairs, E8M0 scale per 32 */
    QN_FMT_MXFP8,        /* E4M3, E8M0 scale per 32 */
    QN_FMT_INTN_GPTQ,    /* GPTQ with other than 4 bits */
    QN_FMT_INT8_GPTQ,
    QN_FMT_INT4_CT_ZERO, /* pack-quantized with zero points */
    QN_FMT_INT8_CT,      /* pack-quantized, 8 bit, with or without zero points */
    QN_FMT_INTN_CT,      /* and with other widths */
    QN_FMT_INT4_MLX,     /* MLX affine: code * scale + bias */
    QN_FMT_INT8_MLX,
    QN_FMT_INTN_MLX,
    /* blocks of GGUF files as they are, in the order of their dtypes */
    QN_FMT_Q4_0,
    QN_FMT_Q4_1,
    QN_FMT_Q5_0,
    QN_FMT_Q5_1,
    QN_FMT_Q8_0,
    QN_FMT_Q2_K,
    QN_FMT_Q3_K,
    QN_FMT_Q4_K,
    QN_FMT_Q5_K,
    QN_FMT_Q6_K,
    QN_FMT_IQ4_NL,
    QN_FMT_IQ4_XS,
    QN_FMT_GGUF_MXFP4,
    QN_FMT_GGUF_NVFP4, /* scale2: the tensor's own scale, 1 without one */
    QN_N_FORMAT
};

const char *qn_format_name(enum qn_format f); /* "BF16", "NVFP4", ... */

static inline bool qn_format_is_block(enum qn_format f)
{
    return f >= QN_FMT_Q4_0 && f <= QN_FMT_GGUF_NVFP4;
}
static inline enum qn_format qn_block_format(enum qn_dtype t)
{
    return (enum qn_format)(QN_FMT_Q4_0 + (t - QN_Q4_0));
}

/* One linear layer. Which companions are set depends on the format. For a slice of a fused 3-D expert
 * tensor, weight.data points at the slice and weight.shape is [N, K]. */
struct qn_linear {
    enum qn_format format;
    int n_out, n_in;         /* [N] [K] */
    struct qn_tensor weight; /* weight | weight_packed | qweight */
    struct qn_tensor scale;  /* weight_scale | weight_scale_inv | scales; dtype F32/BF16/F16/E4M3 */
    struct qn_tensor zeros;  /* qzeros, weight_zero_point; n_dim 0 when absent: symmetric, half the range */
    struct qn_tensor bias;   /* MLX: added after the scale, [N, groups] */
    struct qn_tensor g_idx;  /* act-order (GPTQ, INT4_CT); n_dim 0 when absent or k / group */
    float scale2;            /* NVFP4: the multiplying factor of the whole tensor (weight_scale_2,
                                1 / weight_global_scale, .scale in GGUF); 1 elsewhere */
    int group;               /* k values that share a scale (16, 128, ...), fewer in the last group when it
                                does not divide K; 0 when not grouped */
    int block;               /* output rows that share a scale: 128 in FP8_BLOCK, else as FP8_GRID and
                                INT8_GROUP have it; 0 elsewhere */
    int block_row;           /* of row 0 in its grid of blocks: a slice may begin within one */
    int bits;                /* of integer codes */
    int zero_offset;         /* GPTQ v1: 1 (stored z - 1), v2 and AWQ: 0 */
    char name[256];          /* module stem, for messages */
};

/* k values that share a scale, 0: all of a row; whatever l->group says where the format leaves no choice. */
static inline int qn_linear_group(const struct qn_linear *l)
{
    bool is_row =
        l->format == QN_FMT_FP8_TENSOR || l->format == QN_FMT_FP8_CHANNEL || l->format == QN_FMT_INT8_CHANNEL;
    return l->format == QN_FMT_FP8_BLOCK ? 128 : l->format == QN_FMT_NVFP4 ? 16 : is_row ? 0 : l->group;
}
static inline int qn_linear_n_group(const struct qn_linear *l)
{
    int group = qn_linear_group(l);
    return group ? (l->n_in + group - 1) / group : 1;
}
/* What the formulas are made of: the code of output n at every k (a byte of E4M3 or int8, an unsigned
 * integer, E2M1), the place of the scale of a group of k in l->scale, and the zero point there. */
void qn_linear_codes(const struct qn_linear *l, int n, unsigned char *out);
size_t qn_linear_scale_at(const struct qn_linear *l, int n, int group);
int qn_linear_zero(const struct qn_linear *l, int n, int group);
bool qn_format_is_integer(
    enum qn_format f); /* codes are unsigned integers; INT8_CHANNEL and _GROUP are not */
/* Rows [first, first + n) as a layer of their own. QN_UNSUPPORTED for formats whose rows do not lie together.
 */
int qn_linear_take_rows(struct qn_linear *l, int first, int n, struct qn_err *e);

/* Bytes the layer takes in the file, scales included. */
size_t qn_linear_bytes(const struct qn_linear *l);

/* Reads all scales (and g_idx): QN_FORMAT when one is NaN, infinite or out of range, naming it. A loader
 * calls it once a layer; opening a model does not, since it would read the data. */
int qn_linear_check(const struct qn_linear *l, struct qn_err *e);

/* Dequantises rows [first, first + n_row) to float, row-major [n_row, K]: the definition every backend is
 * held to. Errors: QN_FORMAT (a NaN or infinite scale, naming it). */
int qn_linear_rows(const struct qn_linear *l, int first, int n_row, float *out, struct qn_err *e);

/* Word i of a tensor of 32-bit words, wherever it lies. */
static inline uint32_t qn_word_at(const struct qn_tensor *t, size_t i)
{
    uint32_t w;
    memcpy(&w, (const unsigned char *)t->data + i * 4, 4);
    return w;
}

/* Value i of a float tensor (F32, BF16, F16, F64, E4M3, E5M2, E8M0); NaN for any other dtype. */
float qn_tensor_value(const struct qn_tensor *t, size_t i);

/* A small tensor (norm, A_log, conv, ...) widened to float, n values. */
int qn_tensor_to_f32(const struct qn_tensor *t, float *out, size_t n, struct qn_err *e);

#endif
