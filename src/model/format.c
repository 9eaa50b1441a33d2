/* The dequantisation every backend is held to.
 * SPDX-License-Identifier: Apache-2.0 */
#include "model/format.h"

#include <math.h>

const char *qn_format_name(enum qn_format f)
{
    static const char *const names[QN_N_FORMAT] = {
        [QN_FMT_F32] = "F32",
        [QN_FMT_BF16] = "BF16",
        [QN_FMT_F16] = "F16",
        [QN_FMT_NVFP4] = "NVFP4",
        [QN_FMT_FP8_BLOCK] = "FP8-block",
        [QN_FMT_FP8_TENSOR] = "FP8-tensor",
        [QN_FMT_FP8_CHANNEL] = "FP8-channel",
        [QN_FMT_INT4_AWQ] = "INT4-AWQ",
        [QN_FMT_INT4_GPTQ] = "INT4-GPTQ",
        [QN_FMT_INT4_CT] = "INT4-CT",
        [QN_FMT_INT8_CHANNEL] = "INT8-channel",
        [QN_FMT_Q4_0] = "Q4_0",
        [QN_FMT_Q4_1] = "Q4_1",
        [QN_FMT_Q5_0] = "Q5_0",
        [QN_FMT_Q5_1] = "Q5_1",
        [QN_FMT_Q8_0] = "Q8_0",
        [QN_FMT_Q2_K] = "Q2_K",
        [QN_FMT_Q3_K] = "Q3_K",
        [QN_FMT_Q4_K] = "Q4_K",
        [QN_FMT_Q5_K] = "Q5_K",
        [QN_FMT_Q6_K] = "Q6_K",
        [QN_FMT_IQ4_NL] = "IQ4_NL",
        [QN_FMT_IQ4_XS] = "IQ4_XS",
        [QN_FMT_GGUF_MXFP4] = "GGUF-MXFP4",
        [QN_FMT_GGUF_NVFP4] = "GGUF-NVFP4",
    };
    return (unsigned)f < QN_N_FORMAT ? names[f] : "?";
}

/* Value i of a tensor of a floating type. Tensors lie anywhere in the file, so loads go through memcpy. */
float qn_tensor_value(const struct qn_tensor *t, size_t i)
{
    const unsigned char *p = t->data;
    uint16_t h;
    float f;
    double d;
    switch (t->dtype) {
    case QN_F32:
        memcpy(&f, p + i * 4, 4);
        return f;
    case QN_BF16:
        memcpy(&h, p + i * 2, 2);
        return qn_bf16_to_f32(h);
    case QN_F16:
        memcpy(&h, p + i * 2, 2);
        return qn_f16_to_f32(h);
    case QN_F8_E4M3:
        return qn_e4m3_to_f32(p[i]);
    case QN_F8_E5M2:
        return qn_e5m2_to_f32(p[i]);
    case QN_F64:
        memcpy(&d, p + i * 8, 8);
        return (float)d;
    default:
        return NAN;
    }
}

static uint32_t word_at(const struct qn_tensor *t, size_t i)
{
    uint32_t w;
    memcpy(&w, (const unsigned char *)t->data + i * 4, 4);
    return w;
}

int qn_tensor_to_f32(const struct qn_tensor *t, float *out, size_t n, struct qn_err *e)
{
    int rc = QN_OK;
    QN_FAIL_IF(t->dtype != QN_F32 && t->dtype != QN_BF16 && t->dtype != QN_F16 && t->dtype != QN_F64, e,
               QN_UNSUPPORTED, "%s is %s; BF16, F16 or F32 is needed", t->name, qn_dtype_name(t->dtype));
    QN_FAIL_IF(t->n_byte != n * qn_dtype_bytes(t->dtype), e, QN_FORMAT, "%s has %zu values, %zu are needed",
               t->name, t->n_byte / qn_dtype_bytes(t->dtype), n);
    for (size_t i = 0; i < n; i++) out[i] = qn_tensor_value(t, i);
out:
    return rc;
}

size_t qn_linear_bytes(const struct qn_linear *l)
{
    return l->weight.n_byte + l->scale.n_byte + (l->zeros.n_dim ? l->zeros.n_byte : 0) +
           (l->g_idx.n_dim ? l->g_idx.n_byte : 0) + (l->format == QN_FMT_NVFP4 ? 4 : 0);
}

static bool has_scale(enum qn_format f)
{
    return f != QN_FMT_F32 && f != QN_FMT_BF16 && f != QN_FMT_F16 && !qn_format_is_block(f);
}

/* The scales inside the blocks of rows [first, first + n). */
static int check_blocks(const struct qn_linear *l, int first, int n, struct qn_err *e)
{
    int rc = QN_OK;
    enum qn_dtype t = l->weight.dtype;
    size_t per_row = (size_t)(l->n_in / qn_block_values(t)), from = (size_t)first * per_row;
    int64_t at =
        qn_block_bad(t, (const char *)l->weight.data + from * qn_block_bytes(t), (size_t)n * per_row);
    QN_FAIL_IF(at >= 0, e, QN_FORMAT,
               "%s: a scale of block %" PRIu64
               " is not finite; the file is damaged or was written by a failed "
               "quantisation",
               l->weight.name, (uint64_t)at + from);
    QN_FAIL_IF(!isfinite(l->scale2), e, QN_FORMAT, "%s: the scale of the whole tensor is not finite",
               l->name);
out:
    return rc;
}

static int check_scales(const struct qn_linear *l, size_t first, size_t n, struct qn_err *e)
{
    int rc = QN_OK;
    const unsigned char *p = l->scale.data;
    if (l->scale.dtype == QN_F8_E4M3) {
        for (size_t i = first; i < first + n; i++)
            QN_FAIL_IF((p[i] & 0x7f) == 0x7f, e, QN_FORMAT,
                       "%s: value %zu is NaN; the file is damaged or was written by a failed quantisation",
                       l->scale.name, i);
    } else {
        for (size_t i = first; i < first + n; i++)
            QN_FAIL_IF(
                !isfinite(qn_tensor_value(&l->scale, i)), e, QN_FORMAT,
                "%s: value %zu is not finite; the file is damaged or was written by a failed quantisation",
                l->scale.name, i);
    }
out:
    return rc;
}

static int check_g_idx(const struct qn_linear *l, struct qn_err *e)
{
    int rc = QN_OK;
    int n_group = l->group ? l->n_in / l->group : 1;
    for (int k = 0; l->g_idx.n_dim && k < l->n_in; k++)
        QN_FAIL_IF(word_at(&l->g_idx, (size_t)k) >= (uint32_t)n_group, e, QN_FORMAT,
                   "%s: entry %d is %" PRId32 ", the layer has %d groups", l->g_idx.name, k,
                   (int32_t)word_at(&l->g_idx, (size_t)k), n_group);
out:
    return rc;
}

int qn_linear_check(const struct qn_linear *l, struct qn_err *e)
{
    int rc = QN_OK;
    if (qn_format_is_block(l->format)) return check_blocks(l, 0, l->n_out, e);
    if (!has_scale(l->format)) goto out;
    size_t value_bytes = qn_dtype_bytes(l->scale.dtype);
    QN_CHECK(value_bytes);
    QN_TRY(check_scales(l, 0, l->scale.n_byte / value_bytes, e));
    QN_FAIL_IF(!isfinite(l->scale2), e, QN_FORMAT, "%s: the scale of the whole tensor is not finite",
               l->name);
    QN_TRY(check_g_idx(l, e));
out:
    return rc;
}

static void plain_row(const struct qn_linear *l, int row, float *out)
{
    size_t K = (size_t)l->n_in, at = (size_t)row * K;
    for (size_t k = 0; k < K; k++) out[k] = qn_tensor_value(&l->weight, at + k);
}

/* W = E2M1 * E4M3 * scale2; the first product is exact. */
static void nvfp4_row(const struct qn_linear *l, int row, float *out)
{
    size_t K = (size_t)l->n_in;
    const uint8_t *w = (const uint8_t *)l->weight.data + (size_t)row * (K / 2);
    const uint8_t *s = (const uint8_t *)l->scale.data + (size_t)row * (K / 16);
    for (size_t k = 0; k < K; k++) {
        uint8_t code = k & 1 ? w[k / 2] >> 4 : w[k / 2] & 15;
        out[k] = qn_e2m1_to_f32(code) * qn_e4m3_to_f32(s[k / 16]) * l->scale2;
    }
}

static void fp8_row(const struct qn_linear *l, int row, float *out)
{
    size_t K = (size_t)l->n_in, n_col = (K + 127) / 128;
    const uint8_t *w = (const uint8_t *)l->weight.data + (size_t)row * K;
    float scale = l->format == QN_FMT_FP8_TENSOR    ? qn_tensor_value(&l->scale, 0)
                  : l->format == QN_FMT_FP8_CHANNEL ? qn_tensor_value(&l->scale, (size_t)row)
                                                    : 0;
    for (size_t k = 0; k < K; k++) {
        if (l->format == QN_FMT_FP8_BLOCK && k % 128 == 0)
            scale = qn_tensor_value(&l->scale, (size_t)row / 128 * n_col + k / 128);
        out[k] = qn_e4m3_to_f32(w[k]) * scale;
    }
}

/* Column n of a word of eight sits at this bit (AutoAWQ's interleave). */
static int awq_shift(int n)
{
    static const int place[8] = {0, 4, 1, 5, 2, 6, 3, 7};
    return 4 * place[n & 7];
}

static void awq_row(const struct qn_linear *l, int n, float *out)
{
    size_t N = (size_t)l->n_out, words = N / 8, word = (size_t)n / 8;
    int shift = awq_shift(n);
    for (size_t k = 0; k < (size_t)l->n_in; k++) {
        size_t g = k / (size_t)l->group;
        int q = (int)(word_at(&l->weight, k * words + word) >> shift & 15);
        int z = (int)(word_at(&l->zeros, g * words + word) >> shift & 15);
        out[k] = (float)(q - z) * qn_tensor_value(&l->scale, g * N + (size_t)n);
    }
}

static void gptq_row(const struct qn_linear *l, int n, float *out)
{
    size_t N = (size_t)l->n_out;
    for (size_t k = 0; k < (size_t)l->n_in; k++) {
        size_t g = l->g_idx.n_dim ? word_at(&l->g_idx, k) : k / (size_t)l->group;
        int q = (int)(word_at(&l->weight, k / 8 * N + (size_t)n) >> 4 * (k % 8) & 15);
        int z = l->zeros.n_dim ? (int)(word_at(&l->zeros, g * (N / 8) + (size_t)n / 8) >> 4 * (n % 8) & 15) +
                                     l->zero_offset
                               : 8;
        out[k] = (float)(q - z) * qn_tensor_value(&l->scale, g * N + (size_t)n);
    }
}

static void ct4_row(const struct qn_linear *l, int n, float *out)
{
    size_t K = (size_t)l->n_in, group = (size_t)l->group;
    for (size_t k = 0; k < K; k++) {
        int u = (int)(word_at(&l->weight, (size_t)n * (K / 8) + k / 8) >> 4 * (k % 8) & 15);
        size_t g = l->g_idx.n_dim ? word_at(&l->g_idx, k) : k / group;
        out[k] = (float)(u - 8) * qn_tensor_value(&l->scale, (size_t)n * (K / group) + g);
    }
}

static void int8_row(const struct qn_linear *l, int n, float *out)
{
    size_t K = (size_t)l->n_in;
    const int8_t *w = (const int8_t *)l->weight.data + (size_t)n * K;
    float scale = qn_tensor_value(&l->scale, (size_t)n);
    for (size_t k = 0; k < K; k++) out[k] = (float)w[k] * scale;
}

static void block_row(const struct qn_linear *l, int n, float *out)
{
    enum qn_dtype t = l->weight.dtype;
    qn_block_row(t, (const char *)l->weight.data + (size_t)n * qn_block_row_bytes(t, l->n_in), l->n_in, out);
    for (int k = 0; l->scale2 != 1 && k < l->n_in; k++) out[k] *= l->scale2;
}

/* The scales rows [first, first + n_row) use, as far as they lie together in the file. */
static int check_row_scales(const struct qn_linear *l, int first, int n_row, struct qn_err *e)
{
    if (qn_format_is_block(l->format)) return check_blocks(l, first, n_row, e);
    size_t a = (size_t)first, n = (size_t)n_row, per_row = l->group ? (size_t)(l->n_in / l->group) : 1;
    switch (l->format) {
    case QN_FMT_NVFP4:
    case QN_FMT_INT4_CT:
        return check_scales(l, a * per_row, n * per_row, e);
    case QN_FMT_FP8_CHANNEL:
    case QN_FMT_INT8_CHANNEL:
        return check_scales(l, a, n, e);
    case QN_FMT_FP8_BLOCK: {
        size_t n_col = ((size_t)l->n_in + 127) / 128;
        return check_scales(l, a / 128 * n_col, ((a + n + 127) / 128 - a / 128) * n_col, e);
    }
    default:
        for (size_t g = 0; has_scale(l->format) && g < per_row; g++) {
            size_t stride = l->format == QN_FMT_FP8_TENSOR ? 0 : (size_t)l->n_out;
            int rc = check_scales(l, stride ? g * stride + a : 0, stride ? n : 1, e);
            if (rc) return rc;
        }
        return QN_OK;
    }
}

int qn_linear_rows(const struct qn_linear *l, int first, int n_row, float *out, struct qn_err *e)
{
    static void (*const row[QN_N_FORMAT])(const struct qn_linear *, int, float *) = {
        [QN_FMT_F32] = plain_row,       [QN_FMT_BF16] = plain_row,        [QN_FMT_F16] = plain_row,
        [QN_FMT_NVFP4] = nvfp4_row,     [QN_FMT_FP8_BLOCK] = fp8_row,     [QN_FMT_FP8_TENSOR] = fp8_row,
        [QN_FMT_FP8_CHANNEL] = fp8_row, [QN_FMT_INT4_AWQ] = awq_row,      [QN_FMT_INT4_GPTQ] = gptq_row,
        [QN_FMT_INT4_CT] = ct4_row,     [QN_FMT_INT8_CHANNEL] = int8_row,
    };
    int rc = QN_OK;
    QN_CHECK(first >= 0 && n_row >= 0 && first <= l->n_out - n_row);
    QN_FAIL_IF(!isfinite(l->scale2), e, QN_FORMAT, "%s: the scale of the whole tensor is not finite",
               l->name);
    QN_TRY(check_row_scales(l, first, n_row, e));
    QN_TRY(check_g_idx(l, e));
    void (*read)(const struct qn_linear *, int, float *) =
        qn_format_is_block(l->format) ? block_row : row[l->format];
    for (int i = 0; i < n_row; i++) read(l, first + i, out + (size_t)i * (size_t)l->n_in);
out:
    return rc;
}
