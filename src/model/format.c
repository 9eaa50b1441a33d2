/* The dequantisation every backend is held to.
 * SPDX-License-Identifier: Apache-2.0 */
#include "model/format.h"

#include <math.h>

#include "base/mem.h"

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
        [QN_FMT_INT8_GROUP] = "INT8-group",
        [QN_FMT_FP8_GRID] = "FP8-grid",
        [QN_FMT_MXFP4] = "MXFP4",
        [QN_FMT_MXFP8] = "MXFP8",
        [QN_FMT_INTN_GPTQ] = "INTn-GPTQ",
        [QN_FMT_INT8_GPTQ] = "INT8-GPTQ",
        [QN_FMT_INT4_CT_ZERO] = "INT4-CT-zero",
        [QN_FMT_INT8_CT] = "INT8-CT",
        [QN_FMT_INTN_CT] = "INTn-CT",
        [QN_FMT_INT4_MLX] = "INT4-MLX",
        [QN_FMT_INT8_MLX] = "INT8-MLX",
        [QN_FMT_INTN_MLX] = "INTn-MLX",
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
    case QN_F8_E8M0:
        return p[i] == 255 ? NAN : ldexpf(1.0f, p[i] - 127);
    case QN_F64:
        memcpy(&d, p + i * 8, 8);
        return (float)d;
    default:
        return NAN;
    }
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
           (l->g_idx.n_dim ? l->g_idx.n_byte : 0) + (l->bias.n_dim ? l->bias.n_byte : 0) +
           (l->format == QN_FMT_NVFP4 ? 4 : 0);
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
    int n_group = qn_linear_n_group(l);
    for (int k = 0; l->g_idx.n_dim && k < l->n_in; k++)
        QN_FAIL_IF(qn_word_at(&l->g_idx, (size_t)k) >= (uint32_t)n_group, e, QN_FORMAT,
                   "%s: entry %d is %" PRId32 ", the layer has %d groups", l->g_idx.name, k,
                   (int32_t)qn_word_at(&l->g_idx, (size_t)k), n_group);
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
    size_t n_bias = l->bias.n_dim ? l->bias.n_byte / qn_dtype_bytes(l->bias.dtype) : 0;
    for (size_t i = 0; i < n_bias; i++)
        QN_FAIL_IF(!isfinite(qn_tensor_value(&l->bias, i)), e, QN_FORMAT, "%s: value %zu is not finite",
                   l->bias.name, i);
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

static void block_row(const struct qn_linear *l, int n, float *out)
{
    enum qn_dtype t = l->weight.dtype;
    qn_block_row(t, (const char *)l->weight.data + (size_t)n * qn_block_row_bytes(t, l->n_in), l->n_in, out);
    for (int k = 0; l->scale2 != 1 && k < l->n_in; k++) out[k] *= l->scale2;
}

/* One formula for everything with codes and scales: code (less its zero) * scale, then what belongs to the
 * whole tensor or is added. Products are taken from left to right. */
static void coded_row(const struct qn_linear *l, int n, unsigned char *code, float *out)
{
    bool is_int = qn_format_is_integer(l->format);
    bool is_byte = l->format == QN_FMT_INT8_CHANNEL || l->format == QN_FMT_INT8_GROUP;
    bool is_e2m1 = l->format == QN_FMT_NVFP4 || l->format == QN_FMT_MXFP4;
    qn_linear_codes(l, n, code);
    float scale = 0, bias = 0;
    int zero = 0, at = -1, group = qn_linear_group(l);
    for (int k = 0; k < l->n_in; k++) {
        int g = l->g_idx.n_dim ? (int)qn_word_at(&l->g_idx, (size_t)k) : group ? k / group : 0;
        if (g != at) {
            size_t i = qn_linear_scale_at(l, n, g);
            scale = qn_tensor_value(&l->scale, i);
            bias = l->bias.n_dim ? qn_tensor_value(&l->bias, i) : 0;
            zero = is_int || is_byte ? qn_linear_zero(l, n, g) : 0;
            at = g;
        }
        float x = is_int    ? (float)((int)code[k] - zero)
                  : is_byte ? (float)((signed char)code[k] - zero)
                  : is_e2m1 ? qn_e2m1_to_f32(code[k])
                            : qn_e4m3_to_f32(code[k]);
        x *= scale;
        if (l->format == QN_FMT_NVFP4) x *= l->scale2;
        out[k] = l->bias.n_dim ? x + bias : x;
    }
}

/* The scales that row n uses. */
static int check_row_scales(const struct qn_linear *l, int n, struct qn_err *e)
{
    int rc = QN_OK;
    if (qn_format_is_block(l->format)) return check_blocks(l, n, 1, e);
    for (int g = 0; has_scale(l->format) && g < qn_linear_n_group(l); g++) {
        size_t at = qn_linear_scale_at(l, n, g);
        QN_TRY(check_scales(l, at, 1, e));
        QN_FAIL_IF(l->bias.n_dim && !isfinite(qn_tensor_value(&l->bias, at)), e, QN_FORMAT,
                   "%s: value %zu is not finite", l->bias.name, at);
    }
out:
    return rc;
}

int qn_linear_rows(const struct qn_linear *l, int first, int n_row, float *out, struct qn_err *e)
{
    int rc = QN_OK;
    unsigned char *code = NULL;
    QN_CHECK(first >= 0 && n_row >= 0 && first <= l->n_out - n_row);
    QN_FAIL_IF(!isfinite(l->scale2), e, QN_FORMAT, "%s: the scale of the whole tensor is not finite",
               l->name);
    QN_TRY(check_g_idx(l, e));
    if (has_scale(l->format)) {
        code = try_malloc((size_t)l->n_in, 1);
        QN_FAIL_IF(!code, e, QN_NOMEM, "%s: no memory for a row", l->name);
    }
    for (int i = 0; i < n_row; i++) {
        float *to = out + (size_t)i * (size_t)l->n_in;
        QN_TRY(check_row_scales(l, first + i, e));
        if (qn_format_is_block(l->format))
            block_row(l, first + i, to);
        else if (code)
            coded_row(l, first + i, code, to);
        else
            plain_row(l, first + i, to);
    }
out:
    free(code);
    return rc;
}
