/* Per-tensor format detection, in the order of the table in docs/formats.md.
 * SPDX-License-Identifier: Apache-2.0 */
#include "model/detect_impl.h"

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

const struct qn_tensor *qn_detect_companion(const struct qn_detect *d, const char *stem, const char *suffix)
{
    char name[320];
    snprintf(name, sizeof name, "%s.%s", stem, suffix);
    return d->find(d->ctx, name);
}

int qn_detect_wrong(const struct qn_tensor *t, struct qn_err *e, const char *expected)
{
    char found[120];
    return qn_err_set(e, QN_FORMAT, __FILE__, __LINE__,
                      "tensor %s: expected %s, found %s; config.json and the files do not belong together",
                      t->name, expected, qn_tensor_text(t, found, sizeof found));
}

int qn_detect_wrong_shape(const struct qn_tensor *t, struct qn_err *e, const char *fmt, ...)
{
    char expected[120];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(expected, sizeof expected, fmt, ap);
    va_end(ap);
    return qn_detect_wrong(t, e, expected);
}

int qn_detect_missing(const char *stem, const char *suffix, const char *why, struct qn_err *e)
{
    return qn_err_set(e, QN_FORMAT, __FILE__, __LINE__,
                      "tensor %s.%s is missing: %s; the download or the conversion is incomplete", stem,
                      suffix, why);
}

static float scalar(const struct qn_tensor *t, struct qn_err *e, int *rc)
{
    float x = NAN;
    *rc = qn_detect_count(t) == 1 ? qn_tensor_to_f32(t, &x, 1, e) : qn_detect_wrong(t, e, "one value");
    return x;
}

/* NVFP4: packed [N, K/2] with E4M3 scales [N, K/16] and a scale of the whole tensor. */
static int detect_nvfp4(const struct qn_tensor *packed, const struct qn_tensor *scale,
                        const struct qn_tensor *whole, bool divides, bool is_deep, struct qn_linear *l,
                        struct qn_err *e)
{
    int N = l->n_out, K = l->n_in, rc = QN_OK;
    if (K % 16) return qn_detect_wrong_shape(packed, e, "a K that is a multiple of 16 (K = %d)", K);
    if (!qn_detect_is_shape(packed, N, K / 2))
        return qn_detect_wrong_shape(packed, e, "U8 [%d, %d]", N, K / 2);
    if (scale->dtype != QN_F8_E4M3 || !qn_detect_is_shape(scale, N, K / 16))
        return qn_detect_wrong_shape(scale, e, "F8_E4M3 [%d, %d]", N, K / 16);
    if (!qn_detect_is_float(whole->dtype) || qn_detect_count(whole) != 1)
        return qn_detect_wrong(whole, e, "one float");
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

/* A block type of GGUF. NVFP4 may have a scale of the whole tensor beside it. */
static int detect_block(const struct qn_tensor *w, const struct qn_tensor *whole, bool is_deep,
                        struct qn_linear *l, struct qn_err *e)
{
    int rc = QN_OK;
    if (!qn_detect_is_shape(w, l->n_out, l->n_in))
        return qn_detect_wrong_shape(w, e, "[%d, %d]", l->n_out, l->n_in);
    l->format = qn_block_format(w->dtype);
    l->weight = *w;
    if (!whole) return QN_OK;
    if (!qn_detect_is_float(whole->dtype) || qn_detect_count(whole) != 1)
        return qn_detect_wrong(whole, e, "one float");
    if (is_deep) l->scale2 = scalar(whole, e, &rc);
    return rc;
}

static bool is_exponent(enum qn_dtype t)
{
    return t == QN_F8_E8M0 || t == QN_U8;
}

/* MXFP4 and MXFP8: a scale of an exponent alone for each 32 of k. */
static void set_mx(enum qn_format f, const struct qn_tensor *w, const struct qn_tensor *scale,
                   struct qn_linear *l)
{
    l->format = f;
    l->weight = *w;
    l->scale = *scale;
    l->scale.dtype = QN_F8_E8M0;
    l->group = 32;
}

int qn_detect_part(const int *said, int n_said, int step, int n, int64_t n_part)
{
    if (n_part < 1 || n_part > n) return 0;
    for (int i = 0; i < n_said; i++) {
        int size = said[i * step];
        if (size > 0 && QN_CEIL_DIV((int64_t)n, size) == n_part) return QN_MIN(size, n);
    }
    if (n_part == 1) return n;
    /* between n / n_part and n / (n_part - 1) there is at most one power of two */
    for (int size = 1; size < n; size *= 2)
        if (QN_CEIL_DIV((int64_t)n, size) == n_part) return size;
    return n % n_part == 0 ? (int)(n / n_part) : 0;
}

static int detect_grid(const struct qn_detect *d, const struct qn_tensor *scale, bool is_inv,
                       struct qn_linear *l, struct qn_err *e)
{
    int N = l->n_out, K = l->n_in;
    bool is_plain = qn_detect_is_float(scale->dtype);
    bool is_128 = qn_detect_is_shape(scale, (N + 127) / 128, (K + 127) / 128);
    bool is_channel = qn_detect_is_shape(scale, N, 1) || (scale->n_dim == 1 && scale->shape[0] == N);
    if (qn_detect_count(scale) == 1 && is_plain && !(is_128 && is_inv)) {
        l->format = QN_FMT_FP8_TENSOR;
        return QN_OK;
    }
    if (is_channel && is_plain && !(is_128 && is_inv)) {
        l->format = QN_FMT_FP8_CHANNEL;
        return QN_OK;
    }
    const struct qn_scheme *s = d->scheme;
    int n_said = s ? s->n_block : 0;
    l->block = l->group = 0;
    for (int i = 0; i < n_said && scale->n_dim == 2 && !l->block; i++)
        if (qn_detect_is_shape(scale, QN_CEIL_DIV(N, s->block[i][0]), QN_CEIL_DIV(K, s->block[i][1]))) {
            l->block = s->block[i][0];
            l->group = s->block[i][1];
        }
    if (!l->block && is_128) l->block = l->group = 128;
    /* of a size that nobody names: where the config names others, the scale is damaged */
    if (!l->block && scale->n_dim == 2 && (!n_said || scale->shape[0] == N)) {
        l->block = qn_detect_part(NULL, 0, 1, N, scale->shape[0]);
        l->group = qn_detect_part(s ? s->group : NULL, s ? s->n_group : 0, 1, K, scale->shape[1]);
    }
    if (!l->block || !l->group)
        return qn_detect_wrong_shape(scale, e, "one value, [%d, 1] or [%d, %d]", N, (N + 127) / 128,
                                     (K + 127) / 128);
    bool is_usual = is_plain && l->block == 128 && l->group == 128;
    l->format = is_usual ? QN_FMT_FP8_BLOCK : QN_FMT_FP8_GRID;
    return QN_OK;
}

static int detect_fp8(const struct qn_detect *d, const struct qn_tensor *w, const struct qn_tensor *scale,
                      bool is_inv, struct qn_linear *l, struct qn_err *e)
{
    int N = l->n_out, K = l->n_in;
    if (!qn_detect_is_shape(w, N, K)) return qn_detect_wrong_shape(w, e, "F8_E4M3 [%d, %d]", N, K);
    bool is_exp = is_exponent(scale->dtype);
    if (!qn_detect_is_float(scale->dtype) && !is_exp)
        return qn_detect_wrong(scale, e, "a float or E8M0 scale");
    if (is_exp && K % 32 == 0 && qn_detect_is_shape(scale, N, K / 32)) {
        set_mx(QN_FMT_MXFP8, w, scale, l);
        return QN_OK;
    }
    l->weight = *w;
    l->scale = *scale;
    if (is_exp) l->scale.dtype = QN_F8_E8M0;
    return detect_grid(d, scale, is_inv, l, e);
}

static int detect_mxfp4(const struct qn_tensor *w, const struct qn_tensor *scale, struct qn_linear *l,
                        struct qn_err *e)
{
    int N = l->n_out, K = l->n_in;
    if (K % 32) return qn_detect_wrong_shape(w, e, "a K that is a multiple of 32 (K = %d)", K);
    if (!qn_detect_is_shape(w, N, K / 2)) return qn_detect_wrong_shape(w, e, "U8 [%d, %d]", N, K / 2);
    if (!qn_detect_is_shape(scale, N, K / 32))
        return qn_detect_wrong_shape(scale, e, "U8 [%d, %d]", N, K / 32);
    set_mx(QN_FMT_MXFP4, w, scale, l);
    return QN_OK;
}

static int unsupported(const struct qn_tensor *w, const struct qn_tensor *scale, struct qn_err *e)
{
    char a[120], b[120];
    return qn_err_set(e, QN_UNSUPPORTED, __FILE__, __LINE__,
                      "tensor %s: %s with scale %s is not a format read here; docs/formats.md lists them",
                      w->name, qn_tensor_text(w, a, sizeof a),
                      scale ? qn_tensor_text(scale, b, sizeof b) : "(none)");
}

int qn_detect_linear(const struct qn_detect *d, const char *stem, int n_out, int n_in, bool is_deep,
                     struct qn_linear *out, struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_linear l = {.n_out = n_out, .n_in = n_in, .scale2 = 1};
    snprintf(l.name, sizeof l.name, "%s", stem);
    const struct qn_tensor *w = qn_detect_companion(d, stem, "weight"),
                           *packed = qn_detect_companion(d, stem, "weight_packed"),
                           *q = qn_detect_companion(d, stem, "qweight");
    QN_FAIL_IF(!w && !packed && !q, e, QN_NOTFOUND,
               "tensor %s.weight [%d, %d] is missing; the download or the conversion is incomplete", stem,
               n_out, n_in);
    QN_FAIL_IF(!!w + !!packed + !!q > 1, e, QN_FORMAT,
               "module %s is stored twice (%s and %s): the conversion is broken, use another copy", stem,
               w ? "weight" : "weight_packed", q ? "qweight" : "weight_packed");
    if (q) {
        QN_TRY(qn_detect_qweight(d, stem, q, is_deep, &l, e));
        goto found;
    }
    const struct qn_tensor *scale = qn_detect_companion(d, stem, "weight_scale");
    if (packed) {
        const struct qn_tensor *whole = qn_detect_companion(d, stem, "weight_global_scale");
        if (!scale) {
            rc = qn_detect_missing(stem, "weight_scale", "weight_packed needs it", e);
        } else if (packed->dtype == QN_I32) {
            rc = qn_detect_packed(d, stem, packed, scale, is_deep, &l, e);
        } else if (packed->dtype == QN_U8 && is_exponent(scale->dtype)) {
            rc = detect_mxfp4(packed, scale, &l, e);
        } else if (packed->dtype == QN_U8 && scale->dtype == QN_F8_E4M3) {
            rc = whole ? detect_nvfp4(packed, scale, whole, true, is_deep, &l, e)
                       : qn_detect_missing(stem, "weight_global_scale", "NVFP4 needs it", e);
        } else {
            rc = unsupported(packed, scale, e);
        }
        QN_TRY(rc);
        goto found;
    }
    const struct qn_tensor *inv = qn_detect_companion(d, stem, "weight_scale_inv");
    const struct qn_tensor *scale2 = qn_detect_companion(d, stem, "weight_scale_2");
    if (qn_detect_is_float(w->dtype)) {
        QN_FAIL_IF(scale || inv || scale2, e, QN_FORMAT,
                   "module %s has a scale but its weight is %s: the conversion is broken, use another copy",
                   stem, qn_dtype_name(w->dtype));
        if (!qn_detect_is_shape(w, n_out, n_in)) {
            rc = qn_detect_wrong_shape(w, e, "[%d, %d]", n_out, n_in);
            goto out;
        }
        l.weight = *w;
        l.format = w->dtype == QN_F32 ? QN_FMT_F32 : w->dtype == QN_F16 ? QN_FMT_F16 : QN_FMT_BF16;
    } else if (qn_dtype_is_block(w->dtype)) {
        QN_TRY(detect_block(w, qn_detect_companion(d, stem, "scale"), is_deep, &l, e));
    } else if (w->dtype == QN_U8 && scale && scale->dtype == QN_F8_E4M3) {
        QN_TRY(scale2 ? detect_nvfp4(w, scale, scale2, false, is_deep, &l, e)
                      : qn_detect_missing(stem, "weight_scale_2", "NVFP4 needs it", e));
    } else if (w->dtype == QN_U8 && scale && is_exponent(scale->dtype)) {
        QN_TRY(detect_mxfp4(w, scale, &l, e));
    } else if (w->dtype == QN_F8_E4M3) {
        QN_FAIL_IF(scale && inv, e, QN_FORMAT, "module %s has both weight_scale and weight_scale_inv", stem);
        const struct qn_tensor *s = scale ? scale : inv;
        QN_TRY(!s ? qn_detect_missing(stem, "weight_scale", "an FP8 weight without scale has no meaning", e)
                  : detect_fp8(d, w, s, !!inv, &l, e));
    } else if (w->dtype == QN_I8) {
        QN_TRY(!scale
                   ? qn_detect_missing(stem, "weight_scale", "an INT8 weight without scale has no meaning", e)
                   : qn_detect_int8(d, stem, w, scale, &l, e));
    } else if (w->dtype == QN_U32) {
        QN_TRY(qn_detect_mlx(d, stem, w, &l, e));
    } else {
        QN_TRY(unsupported(w, scale ? scale : inv, e));
    }
found:
    *out = l;
out:
    return rc;
}
