/* Per-tensor format detection, in the order of the table in docs/formats.md.
 * SPDX-License-Identifier: Apache-2.0 */
#include "model/detect.h"

#include <math.h>
#include <stdarg.h>

const char *qn_tensor_text(const struct qn_tensor *t, char *out, size_t n)
{
    size_t at = (size_t)snprintf(out, n, "%s [", qn_dtype_name(t->dtype));
    for (int i = 0; i < t->n_dim && at < n; i++)
        at += (size_t)snprintf(out + at, n - at, "%s%" PRId64, i ? ", " : "", t->shape[i]);
    if (at < n) snprintf(out + at, n - at, "]");
    return out;
}

static const struct qn_tensor *companion(const struct qn_detect *d, const char *stem, const char *suffix)
{
    char name[320];
    snprintf(name, sizeof name, "%s.%s", stem, suffix);
    return d->find(d->ctx, name);
}

static bool is_shape(const struct qn_tensor *t, int64_t a, int64_t b)
{
    return t->n_dim == 2 && t->shape[0] == a && t->shape[1] == b;
}

static int64_t count(const struct qn_tensor *t)
{
    return (int64_t)(t->n_byte / qn_dtype_bytes(t->dtype));
}

static bool is_float(enum qn_dtype t)
{
    return t == QN_F32 || t == QN_BF16 || t == QN_F16;
}

static int wrong(const struct qn_tensor *t, struct qn_err *e, const char *expected)
{
    char found[120];
    return qn_err_set(e, QN_FORMAT, __FILE__, __LINE__,
                      "tensor %s: expected %s, found %s; config.json and the files do not belong together",
                      t->name, expected, qn_tensor_text(t, found, sizeof found));
}

QN_PRINTF(3, 4)
static int wrong_shape(const struct qn_tensor *t, struct qn_err *e, const char *fmt, ...)
{
    char expected[120];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(expected, sizeof expected, fmt, ap);
    va_end(ap);
    return wrong(t, e, expected);
}

static int missing(const char *stem, const char *suffix, const char *why, struct qn_err *e)
{
    return qn_err_set(e, QN_FORMAT, __FILE__, __LINE__,
                      "tensor %s.%s is missing: %s; the download or the conversion is incomplete", stem,
                      suffix, why);
}

static float scalar(const struct qn_tensor *t, struct qn_err *e, int *rc)
{
    float x = NAN;
    *rc = count(t) == 1 ? qn_tensor_to_f32(t, &x, 1, e) : wrong(t, e, "one value");
    return x;
}

/* NVFP4: packed [N, K/2] with E4M3 scales [N, K/16] and a scale of the whole tensor. */
static int detect_nvfp4(const struct qn_tensor *packed, const struct qn_tensor *scale,
                        const struct qn_tensor *whole, bool divides, bool is_deep, struct qn_linear *l,
                        struct qn_err *e)
{
    int N = l->n_out, K = l->n_in, rc = QN_OK;
    if (K % 16) return wrong_shape(packed, e, "a K that is a multiple of 16 (K = %d)", K);
    if (!is_shape(packed, N, K / 2)) return wrong_shape(packed, e, "U8 [%d, %d]", N, K / 2);
    if (scale->dtype != QN_F8_E4M3 || !is_shape(scale, N, K / 16))
        return wrong_shape(scale, e, "F8_E4M3 [%d, %d]", N, K / 16);
    if (!is_float(whole->dtype) || count(whole) != 1) return wrong(whole, e, "one float");
    float x = is_deep ? scalar(whole, e, &rc) : 1;
    if (rc) return rc;
    if (!isfinite(x) || x < 0 || (divides && x == 0))
        return qn_err_set(e, QN_FORMAT, __FILE__, __LINE__,
                          "%s is %g; a finite positive scale is needed, the file is damaged", whole->name,
                          (double)x);
    l->format = QN_FMT_NVFP4;
    l->weight = *packed;
    l->scale = *scale;
    l->scale2 = divides ? 1.0f / x : x;
    l->group = 16;
    return QN_OK;
}

static int detect_fp8(const struct qn_tensor *w, const struct qn_tensor *scale, bool is_inv,
                      struct qn_linear *l, struct qn_err *e)
{
    int N = l->n_out, K = l->n_in;
    if (!is_shape(w, N, K)) return wrong_shape(w, e, "F8_E4M3 [%d, %d]", N, K);
    if (!is_float(scale->dtype)) return wrong(scale, e, "a float scale");
    l->weight = *w;
    l->scale = *scale;
    bool is_block = is_shape(scale, (N + 127) / 128, (K + 127) / 128);
    if (is_block && is_inv) {
        l->format = QN_FMT_FP8_BLOCK;
        l->group = 128;
    } else if (count(scale) == 1) {
        l->format = QN_FMT_FP8_TENSOR;
    } else if (is_shape(scale, N, 1) || (scale->n_dim == 1 && scale->shape[0] == N)) {
        l->format = QN_FMT_FP8_CHANNEL;
    } else if (is_block) {
        l->format = QN_FMT_FP8_BLOCK;
        l->group = 128;
    } else {
        return wrong_shape(scale, e, "one value, [%d, 1] or [%d, %d]", N, (N + 127) / 128, (K + 127) / 128);
    }
    return QN_OK;
}

static int detect_int8(const struct qn_tensor *w, const struct qn_tensor *scale, struct qn_linear *l,
                       struct qn_err *e)
{
    int N = l->n_out, K = l->n_in;
    if (!is_shape(w, N, K)) return wrong_shape(w, e, "I8 [%d, %d]", N, K);
    if (!is_float(scale->dtype) || !(is_shape(scale, N, 1) || (scale->n_dim == 1 && scale->shape[0] == N)))
        return wrong_shape(scale, e, "a float scale [%d, 1]", N);
    l->format = QN_FMT_INT8_CHANNEL;
    l->weight = *w;
    l->scale = *scale;
    return QN_OK;
}

/* Whether the first zero words say "symmetric": v1 stores 7, v2 stores 8 for a zero of 8. */
static int gptq_offset(const struct qn_tensor *zeros, bool is_v2)
{
    int64_t n = QN_MIN(zeros->shape[1], 64);
    bool all7 = true, all8 = true;
    for (int64_t i = 0; i < n; i++) {
        uint32_t w;
        memcpy(&w, (const char *)zeros->data + i * 4, 4);
        all7 &= w == 0x77777777u;
        all8 &= w == 0x88888888u;
    }
    return all7 ? 1 : all8 ? 0 : is_v2 ? 0 : 1;
}

/* A block type of GGUF. NVFP4 may have a scale of the whole tensor beside it. */
static int detect_block(const struct qn_tensor *w, const struct qn_tensor *whole, bool is_deep,
                        struct qn_linear *l, struct qn_err *e)
{
    int rc = QN_OK;
    if (!is_shape(w, l->n_out, l->n_in)) return wrong_shape(w, e, "[%d, %d]", l->n_out, l->n_in);
    l->format = qn_block_format(w->dtype);
    l->weight = *w;
    if (!whole) return QN_OK;
    if (!is_float(whole->dtype) || count(whole) != 1) return wrong(whole, e, "one float");
    if (is_deep) l->scale2 = scalar(whole, e, &rc);
    return rc;
}

/* 0: g_idx is k / group and can be forgotten. */
static bool is_act_order(const struct qn_tensor *g_idx, int group)
{
    for (int64_t k = 0; k < g_idx->shape[0]; k++) {
        int32_t g;
        memcpy(&g, (const char *)g_idx->data + k * 4, 4);
        if (g != k / group) return true;
    }
    return false;
}

static int add_g_idx(const struct qn_tensor *g_idx, bool is_deep, struct qn_linear *l, struct qn_err *e)
{
    if (!g_idx) return QN_OK;
    if (g_idx->dtype != QN_I32 || g_idx->n_dim != 1 || g_idx->shape[0] != l->n_in)
        return wrong_shape(g_idx, e, "I32 [%d]", l->n_in);
    if (is_deep && is_act_order(g_idx, l->group)) l->g_idx = *g_idx;
    return QN_OK;
}

static int detect_qweight(const struct qn_detect *d, const char *stem, const struct qn_tensor *q,
                          bool is_deep, struct qn_linear *l, struct qn_err *e)
{
    int N = l->n_out, K = l->n_in;
    const struct qn_tensor *scales = companion(d, stem, "scales"), *zeros = companion(d, stem, "qzeros"),
                           *g_idx = companion(d, stem, "g_idx");
    bool awq = is_shape(q, K, N / 8), gptq = is_shape(q, K / 8, N);
    if (q->dtype != QN_I32 || N % 8 || K % 8 || (!awq && !gptq))
        return wrong_shape(q, e, "I32 [%d, %d] (AWQ) or [%d, %d] (GPTQ), 4 bit", K, N / 8, K / 8, N);
    if (!scales) return missing(stem, "scales", "qweight needs it", e);
    if (!is_float(scales->dtype) || scales->n_dim != 2 || scales->shape[1] != N || scales->shape[0] < 1 ||
        K % scales->shape[0])
        return wrong_shape(scales, e, "a float scale [K/group, %d], K = %d", N, K);
    int n_group = (int)scales->shape[0];
    l->group = K / n_group;
    if (awq && !zeros) return missing(stem, "qzeros", "AWQ needs it", e);
    if (zeros && (zeros->dtype != QN_I32 || !is_shape(zeros, n_group, N / 8)))
        return wrong_shape(zeros, e, "I32 [%d, %d]", n_group, N / 8);
    l->format = awq ? QN_FMT_INT4_AWQ : QN_FMT_INT4_GPTQ;
    l->weight = *q;
    l->scale = *scales;
    if (zeros) l->zeros = *zeros;
    if (awq) {
        if (g_idx) return wrong(g_idx, e, "no g_idx beside an AWQ weight");
        return QN_OK;
    }
    l->zero_offset = zeros && is_deep ? gptq_offset(zeros, d->is_gptq_v2) : 0;
    return add_g_idx(g_idx, is_deep, l, e);
}

static int detect_ct4(const struct qn_detect *d, const char *stem, const struct qn_tensor *packed,
                      const struct qn_tensor *scale, bool is_deep, struct qn_linear *l, struct qn_err *e)
{
    int N = l->n_out, K = l->n_in;
    const struct qn_tensor *g_idx = companion(d, stem, "weight_g_idx"),
                           *shape = companion(d, stem, "weight_shape");
    if (companion(d, stem, "weight_zero_point"))
        return qn_err_set(e, QN_UNSUPPORTED, __FILE__, __LINE__,
                          "%s.weight_zero_point: asymmetric pack-quantized weights are not supported; use a "
                          "symmetric, AWQ or GPTQ release",
                          stem);
    if (K % 8 || !is_shape(packed, N, K / 8)) return wrong_shape(packed, e, "I32 [%d, %d], 4 bit", N, K / 8);
    if (!is_float(scale->dtype) || scale->n_dim != 2 || scale->shape[0] != N || scale->shape[1] < 1 ||
        K % scale->shape[1])
        return wrong_shape(scale, e, "a float scale [%d, K/group], K = %d", N, K);
    if (shape) {
        int64_t v[2] = {0, 0};
        int32_t v32[2];
        if (shape->dtype == QN_I64 && shape->n_byte == sizeof v) {
            memcpy(v, shape->data, sizeof v);
        } else if (shape->dtype == QN_I32 && shape->n_byte == sizeof v32) {
            memcpy(v32, shape->data, sizeof v32);
            v[0] = v32[0];
            v[1] = v32[1];
        }
        if (v[0] != N || v[1] != K)
            return qn_err_set(e, QN_FORMAT, __FILE__, __LINE__,
                              "tensor %s says [%" PRId64 ", %" PRId64 "], the layer is [%d, %d]", shape->name,
                              v[0], v[1], N, K);
    }
    l->format = QN_FMT_INT4_CT;
    l->weight = *packed;
    l->scale = *scale;
    l->group = (int)(K / scale->shape[1]);
    return add_g_idx(g_idx, is_deep, l, e);
}

static int unsupported(const struct qn_tensor *w, const struct qn_tensor *scale, struct qn_err *e)
{
    char a[120], b[120];
    bool mx = scale && (scale->dtype == QN_U8 || scale->dtype == QN_F8_E8M0);
    return qn_err_set(e, QN_UNSUPPORTED, __FILE__, __LINE__,
                      "tensor %s: %s with scale %s is %snot a format read here; docs/formats.md lists them",
                      w->name, qn_tensor_text(w, a, sizeof a),
                      scale ? qn_tensor_text(scale, b, sizeof b) : "(none)", mx ? "MXFP4/MXFP8, " : "");
}

int qn_detect_linear(const struct qn_detect *d, const char *stem, int n_out, int n_in, bool is_deep,
                     struct qn_linear *out, struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_linear l = {.n_out = n_out, .n_in = n_in, .scale2 = 1};
    snprintf(l.name, sizeof l.name, "%s", stem);
    const struct qn_tensor *w = companion(d, stem, "weight"), *packed = companion(d, stem, "weight_packed"),
                           *q = companion(d, stem, "qweight");
    QN_FAIL_IF(!w && !packed && !q, e, QN_NOTFOUND,
               "tensor %s.weight [%d, %d] is missing; the download or the conversion is incomplete", stem,
               n_out, n_in);
    QN_FAIL_IF(!!w + !!packed + !!q > 1, e, QN_FORMAT,
               "module %s is stored twice (%s and %s): the conversion is broken, use another copy", stem,
               w ? "weight" : "weight_packed", q ? "qweight" : "weight_packed");
    if (q) {
        QN_TRY(detect_qweight(d, stem, q, is_deep, &l, e));
        goto found;
    }
    const struct qn_tensor *scale = companion(d, stem, "weight_scale");
    if (packed) {
        const struct qn_tensor *whole = companion(d, stem, "weight_global_scale");
        if (!scale) {
            rc = missing(stem, "weight_scale", "weight_packed needs it", e);
        } else if (packed->dtype == QN_I32) {
            rc = detect_ct4(d, stem, packed, scale, is_deep, &l, e);
        } else if (packed->dtype == QN_U8 && scale->dtype == QN_F8_E4M3) {
            rc = whole ? detect_nvfp4(packed, scale, whole, true, is_deep, &l, e)
                       : missing(stem, "weight_global_scale", "NVFP4 needs it", e);
        } else {
            rc = unsupported(packed, scale, e);
        }
        QN_TRY(rc);
        goto found;
    }
    const struct qn_tensor *inv = companion(d, stem, "weight_scale_inv");
    const struct qn_tensor *scale2 = companion(d, stem, "weight_scale_2");
    if (is_float(w->dtype)) {
        QN_FAIL_IF(scale || inv || scale2, e, QN_FORMAT,
                   "module %s has a scale but its weight is %s: the conversion is broken, use another copy",
                   stem, qn_dtype_name(w->dtype));
        if (!is_shape(w, n_out, n_in)) {
            rc = wrong_shape(w, e, "[%d, %d]", n_out, n_in);
            goto out;
        }
        l.weight = *w;
        l.format = w->dtype == QN_F32 ? QN_FMT_F32 : w->dtype == QN_F16 ? QN_FMT_F16 : QN_FMT_BF16;
    } else if (qn_dtype_is_block(w->dtype)) {
        QN_TRY(detect_block(w, companion(d, stem, "scale"), is_deep, &l, e));
    } else if (w->dtype == QN_U8 && scale && scale->dtype == QN_F8_E4M3) {
        QN_TRY(scale2 ? detect_nvfp4(w, scale, scale2, false, is_deep, &l, e)
                      : missing(stem, "weight_scale_2", "NVFP4 needs it", e));
    } else if (w->dtype == QN_F8_E4M3) {
        QN_FAIL_IF(scale && inv, e, QN_FORMAT, "module %s has both weight_scale and weight_scale_inv", stem);
        const struct qn_tensor *s = scale ? scale : inv;
        QN_TRY(!s ? missing(stem, "weight_scale", "an FP8 weight without scale has no meaning", e)
               : is_float(s->dtype) ? detect_fp8(w, s, !!inv, &l, e)
                                    : unsupported(w, s, e));
    } else if (w->dtype == QN_I8) {
        QN_TRY(!scale ? missing(stem, "weight_scale", "an INT8 weight without scale has no meaning", e)
               : companion(d, stem, "weight_zero_point")
                   ? qn_err_set(e, QN_UNSUPPORTED, __FILE__, __LINE__,
                                "%s.weight_zero_point: asymmetric INT8 is not supported", stem)
                   : detect_int8(w, scale, &l, e));
    } else {
        QN_TRY(unsupported(w, scale ? scale : inv, e));
    }
found:
    *out = l;
out:
    return rc;
}
