/* Detection of integer formats.
 * SPDX-License-Identifier: Apache-2.0 */
#include "model/detect_impl.h"

/* --- AWQ, GPTQ --- */

/* Whether the first zeros say "symmetric": v1 stores half the range less one, v2 half the range. */
static int gptq_offset(const struct qn_linear *l, bool is_v2)
{
    struct qn_linear raw = *l;
    raw.zero_offset = 0;
    int half = 1 << (l->bits - 1), n = QN_MIN(l->n_out, 512);
    bool all_v1 = true, all_v2 = true;
    for (int i = 0; i < n; i++) {
        int z = qn_linear_zero(&raw, i, 0);
        all_v1 &= z == half - 1;
        all_v2 &= z == half;
    }
    return all_v1 ? 1 : all_v2 ? 0 : is_v2 ? 0 : 1;
}

/* 0: g_idx is k / group and can be forgotten. */
static bool is_act_order(const struct qn_tensor *g_idx, int group)
{
    for (int64_t k = 0; k < g_idx->shape[0]; k++)
        if ((int32_t)qn_word_at(g_idx, (size_t)k) != k / group) return true;
    return false;
}

/* In a plain order the first group's length is the size of all: surer than what the shapes allow. */
static int plain_group(const struct qn_tensor *g_idx, int group)
{
    int64_t n = 0;
    while (n < g_idx->shape[0] && !qn_word_at(g_idx, (size_t)n)) n++;
    return n > 0 && !is_act_order(g_idx, (int)n) ? (int)n : group;
}

static int add_g_idx(const struct qn_tensor *g_idx, bool is_deep, struct qn_linear *l, struct qn_err *e)
{
    if (!g_idx) return QN_OK;
    if (g_idx->dtype != QN_I32 || g_idx->n_dim != 1 || g_idx->shape[0] != l->n_in)
        return qn_detect_wrong_shape(g_idx, e, "I32 [%d]", l->n_in);
    if (!is_deep) return QN_OK;
    int n_group = qn_linear_n_group(l), group = plain_group(g_idx, l->group);
    if (QN_CEIL_DIV(l->n_in, group) == n_group) l->group = group;
    if (is_act_order(g_idx, l->group)) l->g_idx = *g_idx;
    return QN_OK;
}

static int group_of(const struct qn_detect *d, int n_in, int64_t n_group)
{
    const struct qn_scheme *s = d->scheme;
    return qn_detect_part(s ? s->group : NULL, s ? s->n_group : 0, 1, n_in, n_group);
}

/* The width of codes of which n fill n_word words, or 0. */
static int width_of(int64_t n, int64_t n_word)
{
    for (int bits = 2; bits <= 8; bits++)
        if (QN_CEIL_DIV(n * bits, 32) == n_word) return bits;
    return 0;
}

int qn_detect_qweight(const struct qn_detect *d, const char *stem, const struct qn_tensor *q, bool is_deep,
                      struct qn_linear *l, struct qn_err *e)
{
    int N = l->n_out, K = l->n_in;
    const struct qn_tensor *scales = qn_detect_companion(d, stem, "scales"),
                           *zeros = qn_detect_companion(d, stem, "qzeros"),
                           *g_idx = qn_detect_companion(d, stem, "g_idx");
    bool awq = qn_detect_is_shape(q, K, N / 8);
    int bits = awq ? 4 : q->n_dim == 2 && q->shape[1] == N ? width_of(K, q->shape[0]) : 0;
    if (q->dtype != QN_I32 || N % 8 || !bits)
        return qn_detect_wrong_shape(
            q, e, "I32 [%d, %d] (AWQ) or [%d, %d] (GPTQ of 4 bit; 2, 3 and 8 are read too)", K, N / 8, K / 8,
            N);
    if (!scales) return qn_detect_missing(stem, "scales", "qweight needs it", e);
    if (!qn_detect_is_float(scales->dtype) || scales->n_dim != 2 || scales->shape[1] != N ||
        !(l->group = group_of(d, K, scales->shape[0])))
        return qn_detect_wrong_shape(scales, e, "a float scale [K/group, %d], K = %d", N, K);
    int n_group = (int)scales->shape[0];
    if (awq && !zeros) return qn_detect_missing(stem, "qzeros", "AWQ needs it", e);
    if (zeros &&
        (zeros->dtype != QN_I32 || !qn_detect_is_shape(zeros, n_group, QN_CEIL_DIV((int64_t)N * bits, 32))))
        return qn_detect_wrong_shape(zeros, e, "I32 [%d, %d]", n_group, QN_CEIL_DIV(N * bits, 32));
    l->format = awq         ? QN_FMT_INT4_AWQ
                : bits == 4 ? QN_FMT_INT4_GPTQ
                : bits == 8 ? QN_FMT_INT8_GPTQ
                            : QN_FMT_INTN_GPTQ;
    l->bits = bits;
    l->weight = *q;
    l->scale = *scales;
    if (zeros) l->zeros = *zeros;
    if (awq) {
        if (g_idx) return qn_detect_wrong(g_idx, e, "no g_idx beside an AWQ weight");
        return QN_OK;
    }
    l->zero_offset = zeros && is_deep ? gptq_offset(l, d->scheme && d->scheme->is_gptq_v2) : 0;
    return add_g_idx(g_idx, is_deep, l, e);
}

/* --- compressed-tensors --- */

static int check_said_shape(const struct qn_tensor *shape, const struct qn_linear *l, struct qn_err *e)
{
    int64_t v[2] = {0, 0};
    int32_t v32[2];
    if (shape->dtype == QN_I64 && shape->n_byte == sizeof v) {
        memcpy(v, shape->data, sizeof v);
    } else if (shape->dtype == QN_I32 && shape->n_byte == sizeof v32) {
        memcpy(v32, shape->data, sizeof v32);
        v[0] = v32[0];
        v[1] = v32[1];
    }
    if (v[0] == l->n_out && v[1] == l->n_in) return QN_OK;
    return qn_err_set(e, QN_FORMAT, __FILE__, __LINE__,
                      "tensor %s says [%" PRId64 ", %" PRId64 "], the layer is [%d, %d]", shape->name, v[0],
                      v[1], l->n_out, l->n_in);
}

int qn_detect_packed(const struct qn_detect *d, const char *stem, const struct qn_tensor *packed,
                     const struct qn_tensor *scale, bool is_deep, struct qn_linear *l, struct qn_err *e)
{
    int N = l->n_out, K = l->n_in, rc;
    const struct qn_tensor *g_idx = qn_detect_companion(d, stem, "weight_g_idx"),
                           *shape = qn_detect_companion(d, stem, "weight_shape"),
                           *zeros = qn_detect_companion(d, stem, "weight_zero_point");
    int bits = packed->n_dim == 2 && packed->shape[0] == N ? width_of(K, packed->shape[1]) : 0;
    if (!bits)
        return qn_detect_wrong_shape(packed, e, "I32 [%d, %d] (4 bit) or [%d, %d] (8 bit)", N, K / 8, N,
                                     K / 4);
    int64_t n_group = scale->n_dim == 2 ? scale->shape[1] : 1;
    if (!qn_detect_is_float(scale->dtype) || scale->n_dim < 1 || scale->n_dim > 2 || scale->shape[0] != N ||
        !(l->group = group_of(d, K, n_group)))
        return qn_detect_wrong_shape(scale, e, "a float scale [%d, K/group], K = %d", N, K);
    int64_t words = QN_CEIL_DIV((int64_t)N * bits, 32);
    if (zeros && (zeros->dtype != QN_I32 || !qn_detect_is_shape(zeros, words, n_group)))
        return qn_detect_wrong_shape(zeros, e, "I32 [%d, %d]", (int)words, (int)n_group);
    if (shape && (rc = check_said_shape(shape, l, e))) return rc;
    l->format = bits == 4   ? zeros ? QN_FMT_INT4_CT_ZERO : QN_FMT_INT4_CT
                : bits == 8 ? QN_FMT_INT8_CT
                            : QN_FMT_INTN_CT;
    l->bits = bits;
    l->weight = *packed;
    l->scale = *scale;
    if (zeros) l->zeros = *zeros;
    return add_g_idx(g_idx, is_deep, l, e);
}

int qn_detect_int8(const struct qn_detect *d, const char *stem, const struct qn_tensor *w,
                   const struct qn_tensor *scale, struct qn_linear *l, struct qn_err *e)
{
    int N = l->n_out, K = l->n_in;
    const struct qn_tensor *zeros = qn_detect_companion(d, stem, "weight_zero_point");
    if (!qn_detect_is_shape(w, N, K)) return qn_detect_wrong_shape(w, e, "I8 [%d, %d]", N, K);
    bool is_one = qn_detect_count(scale) == 1 && N > 1;
    int64_t n_group = scale->n_dim == 2 && !is_one ? scale->shape[1] : 1;
    if (!qn_detect_is_float(scale->dtype) ||
        !(is_one || (scale->n_dim >= 1 && scale->n_dim <= 2 && scale->shape[0] == N)) ||
        !(l->group = group_of(d, K, n_group)))
        return qn_detect_wrong_shape(scale, e, "a float scale [%d, 1] or [%d, K/group]", N, N);
    if (zeros && (zeros->dtype != QN_I8 || qn_detect_count(zeros) != qn_detect_count(scale)))
        return qn_detect_wrong_shape(zeros, e, "I8 of the scale's shape");
    l->weight = *w;
    l->scale = *scale;
    if (!zeros && n_group == 1 && !is_one) {
        l->format = QN_FMT_INT8_CHANNEL;
        l->group = 0;
        return QN_OK;
    }
    l->format = QN_FMT_INT8_GROUP;
    l->block = is_one ? N : 1;
    l->bits = 8;
    if (zeros) l->zeros = *zeros;
    return QN_OK;
}

/* --- MLX: words of codes beside `scales`, and `biases` unless the scales are of a micro-format --- */

static int mlx_float(const struct qn_tensor *w, const struct qn_tensor *scales, struct qn_linear *l,
                     struct qn_err *e)
{
    int N = l->n_out, K = l->n_in;
    bool is_4 = qn_detect_is_shape(w, N, K / 8), is_8 = qn_detect_is_shape(w, N, K / 4);
    bool by_32 = K % 32 == 0 && qn_detect_is_shape(scales, N, K / 32),
         by_16 = K % 16 == 0 && qn_detect_is_shape(scales, N, K / 16);
    if (!(is_4 && (by_16 || by_32)) && !(is_8 && by_32))
        return qn_detect_wrong_shape(scales, e, "U8 [%d, %d] (mxfp4, mxfp8) or [%d, %d] (nvfp4)", N, K / 32,
                                     N, K / 16);
    l->format = is_8 ? QN_FMT_MXFP8 : by_32 ? QN_FMT_MXFP4 : QN_FMT_NVFP4;
    l->weight = *w;
    l->scale = *scales;
    l->scale.dtype = by_32 ? QN_F8_E8M0 : QN_F8_E4M3;
    l->group = by_32 ? 32 : 16;
    return QN_OK;
}

int qn_detect_mlx(const struct qn_detect *d, const char *stem, const struct qn_tensor *w, struct qn_linear *l,
                  struct qn_err *e)
{
    int N = l->n_out, K = l->n_in;
    const struct qn_tensor *scales = qn_detect_companion(d, stem, "scales"),
                           *biases = qn_detect_companion(d, stem, "biases");
    if (!scales) return qn_detect_missing(stem, "scales", "a weight of words (MLX) needs it", e);
    if (!biases && scales->dtype == QN_U8) return mlx_float(w, scales, l, e);
    if (!biases) return qn_detect_missing(stem, "biases", "an affine weight (MLX) needs it", e);
    int bits = w->n_dim == 2 && w->shape[0] == N ? width_of(K, w->shape[1]) : 0;
    if (!bits)
        return qn_detect_wrong_shape(w, e, "U32 [%d, %d] (4 bit) or [%d, %d] (8 bit)", N, K / 8, N, K / 4);
    if (!qn_detect_is_float(scales->dtype) || scales->n_dim != 2 || scales->shape[0] != N ||
        !(l->group = group_of(d, K, scales->shape[1])))
        return qn_detect_wrong_shape(scales, e, "a float scale [%d, K/group], K = %d", N, K);
    if (!qn_detect_is_float(biases->dtype) || !qn_detect_is_shape(biases, N, scales->shape[1]))
        return qn_detect_wrong_shape(biases, e, "a float bias [%d, %d]", N, (int)scales->shape[1]);
    l->format = bits == 4 ? QN_FMT_INT4_MLX : bits == 8 ? QN_FMT_INT8_MLX : QN_FMT_INTN_MLX;
    l->bits = bits;
    l->weight = *w;
    l->scale = *scales;
    l->bias = *biases;
    return QN_OK;
}
