/* Storage formats, writing side: scale search and packing.
 * SPDX-License-Identifier: Apache-2.0 */
#include "model/encode.h"

#include <float.h>
#include <math.h>

#include "base/mem.h"
#include "model/clones.h"

#define BLOCK_ROWS 128

#define INLINE static inline __attribute__((always_inline))

static const struct qn_store stores[] = {
    {"bf16", QN_FMT_BF16, false, "", "no quantisation"},
    {"nvfp4", QN_FMT_NVFP4, false, "modelopt", "4-bit float, scale per 16, ModelOpt names"},
    {"nvfp4-ct", QN_FMT_NVFP4, true, "compressed-tensors",
     "4-bit float, scale per 16, compressed-tensors names"},
    {"fp8", QN_FMT_FP8_BLOCK, false, "fp8", "E4M3, scale per 128 x 128"},
    {"fp8-channel", QN_FMT_FP8_CHANNEL, true, "compressed-tensors", "E4M3, scale per output row"},
    {"fp8-tensor", QN_FMT_FP8_TENSOR, false, "modelopt", "E4M3, one scale"},
    {"awq", QN_FMT_INT4_AWQ, false, "awq", "4-bit integer with zero point, scale per 128"},
    {"gptq", QN_FMT_INT4_GPTQ, false, "gptq", "4-bit integer, symmetric, scale per 128"},
    {"int4-ct", QN_FMT_INT4_CT, true, "compressed-tensors", "4-bit integer, symmetric, scale per 128"},
    {"int8", QN_FMT_INT8_CHANNEL, true, "compressed-tensors", "8-bit integer, scale per output row"},
};

const struct qn_store *qn_store_find(const char *name)
{
    for (size_t i = 0; i < QN_COUNT(stores); i++)
        if (!strcmp(stores[i].name, name)) return &stores[i];
    return NULL;
}

const struct qn_store *qn_store_at(int i)
{
    return i >= 0 && i < (int)QN_COUNT(stores) ? &stores[i] : NULL;
}

bool qn_encode_fits(const struct qn_store *s, int n_out, int n_in, int group, const char **why)
{
    switch (s->format) {
    case QN_FMT_NVFP4:
        *why = "its input width is not a multiple of 16";
        return n_in % 16 == 0;
    case QN_FMT_INT4_AWQ:
    case QN_FMT_INT4_GPTQ:
        *why = "its widths are not multiples of 8 and of the group";
        return n_out % 8 == 0 && n_in % 8 == 0 && n_in % group == 0;
    case QN_FMT_INT4_CT:
        *why = "its input width is not a multiple of 8 and of the group";
        return n_in % 8 == 0 && n_in % group == 0;
    default:
        *why = "";
        return true;
    }
}

static struct qn_tensor declare(const char *stem, const char *suffix, enum qn_dtype dtype, int n_dim,
                                int64_t a, int64_t b)
{
    struct qn_tensor t = {.dtype = dtype, .n_dim = n_dim, .shape = {a, b}};
    t.name = xasprintf("%s.%s", stem, suffix);
    t.n_byte = qn_dtype_bytes(dtype) * (size_t)(n_dim > 0 ? a : 1) * (size_t)(n_dim > 1 ? b : 1);
    return t;
}

int qn_encode_declare(const struct qn_store *s, const char *stem, int n_out, int n_in, int group,
                      struct qn_tensor out[QN_ENCODE_MAX_TENSOR])
{
    int64_t N = n_out, K = n_in, g = group;
    int n = 0;
    switch (s->format) {
    case QN_FMT_NVFP4:
        out[n++] = declare(stem, s->is_ct ? "weight_packed" : "weight", QN_U8, 2, N, K / 2);
        out[n++] = declare(stem, "weight_scale", QN_F8_E4M3, 2, N, K / 16);
        out[n++] = s->is_ct ? declare(stem, "weight_global_scale", QN_F32, 1, 1, 0)
                            : declare(stem, "weight_scale_2", QN_F32, 0, 0, 0);
        break;
    case QN_FMT_FP8_BLOCK:
        out[n++] = declare(stem, "weight", QN_F8_E4M3, 2, N, K);
        out[n++] = declare(stem, "weight_scale_inv", QN_BF16, 2, (N + 127) / 128, (K + 127) / 128);
        break;
    case QN_FMT_FP8_CHANNEL:
        out[n++] = declare(stem, "weight", QN_F8_E4M3, 2, N, K);
        out[n++] = declare(stem, "weight_scale", QN_BF16, 2, N, 1);
        break;
    case QN_FMT_FP8_TENSOR:
        out[n++] = declare(stem, "weight", QN_F8_E4M3, 2, N, K);
        out[n++] = declare(stem, "weight_scale", QN_F32, 0, 0, 0);
        break;
    case QN_FMT_INT4_AWQ:
        out[n++] = declare(stem, "qweight", QN_I32, 2, K, N / 8);
        out[n++] = declare(stem, "scales", QN_F16, 2, K / g, N);
        out[n++] = declare(stem, "qzeros", QN_I32, 2, K / g, N / 8);
        break;
    case QN_FMT_INT4_GPTQ:
        out[n++] = declare(stem, "qweight", QN_I32, 2, K / 8, N);
        out[n++] = declare(stem, "scales", QN_F16, 2, K / g, N);
        out[n++] = declare(stem, "qzeros", QN_I32, 2, K / g, N / 8);
        out[n++] = declare(stem, "g_idx", QN_I32, 1, K, 0);
        break;
    case QN_FMT_INT4_CT:
        out[n++] = declare(stem, "weight_packed", QN_I32, 2, N, K / 8);
        out[n++] = declare(stem, "weight_scale", QN_BF16, 2, N, K / g);
        out[n++] = declare(stem, "weight_shape", QN_I64, 1, 2, 0);
        break;
    case QN_FMT_INT8_CHANNEL:
        out[n++] = declare(stem, "weight", QN_I8, 2, N, K);
        out[n++] = declare(stem, "weight_scale", QN_BF16, 2, N, 1);
        break;
    default:
        out[n++] = declare(stem, "weight", QN_BF16, 2, N, K);
        break;
    }
    return n;
}

/* --- arithmetic: plain loops the compiler can make vectors of; no library calls inside --- */

/* nearest integer, ties to even, |x| < 2^22 */
INLINE float nearest(float x)
{
    return (x + 12582912.0f) - 12582912.0f;
}

INLINE float clamp(float x, float lo, float hi)
{
    x = x < lo ? lo : x;
    return x > hi ? hi : x;
}

/* nearest E2M1 value, ties to the even code, saturating at 6 */
INLINE float round_e2m1(float x)
{
    float a = fabsf(x);
    a = a > 6.0f ? 6.0f : a;
    float step = a < 2.0f ? 0.5f : a < 4.0f ? 1.0f : 2.0f;
    float inv = a < 2.0f ? 2.0f : a < 4.0f ? 1.0f : 0.5f;
    return copysignf(nearest(a * inv) * step, x);
}

/* nearest E4M3 value, saturating at 448 */
INLINE float round_e4m3(float x)
{
    union {
        float f;
        uint32_t u;
    } v = {clamp(x, -448.0f, 448.0f)};
    float low = (v.f + 24576.0f) - 24576.0f; /* multiples of 2^-9 */
    float a = fabsf(v.f);
    v.u = (v.u + 0x7ffffu + (v.u >> 20 & 1)) & 0xfff00000u;
    return a < 0x1p-6f ? low : v.f;
}

INLINE float largest(const float *w, size_t n)
{
    float m = 0;
    for (size_t i = 0; i < n; i++) {
        float a = fabsf(w[i]);
        m = a > m ? a : m;
    }
    return m;
}

static bool all_finite(const float *w, size_t n)
{
    int bad = 0;
    for (size_t i = 0; i < n; i++) bad |= !(fabsf(w[i]) <= FLT_MAX);
    return !bad;
}

/* Squared errors, weighted by column with h. Sums run in eight lanes, so that their order is fixed and
 * vectors can be used. */
#define LANES 8
#define SUM_ERROR(n, expr)                                                                                   \
    do {                                                                                                     \
        float lane[LANES] = {0}, rest = 0;                                                                   \
        int i = 0;                                                                                           \
        for (; i + LANES <= (n); i += LANES)                                                                 \
            for (int j = 0; j < LANES; j++) {                                                                \
                float x = w[i + j], d = (expr)-x;                                                            \
                lane[j] += h[i + j] * (d * d);                                                               \
            }                                                                                                \
        for (; i < (n); i++) {                                                                               \
            float x = w[i], d = (expr)-x;                                                                    \
            rest += h[i] * (d * d);                                                                          \
        }                                                                                                    \
        float sum = rest;                                                                                    \
        for (int j = 0; j < LANES; j++) sum += lane[j];                                                      \
        return sum;                                                                                          \
    } while (0)

INLINE float error_e2m1(const float *w, const float *h, int n, float s)
{
    float inv = 1.0f / s;
    SUM_ERROR(n, round_e2m1(x * inv) * s);
}

INLINE float error_e4m3(const float *w, const float *h, int n, float s)
{
    float inv = 1.0f / s;
    SUM_ERROR(n, round_e4m3(x * inv) * s);
}

INLINE float error_int(const float *w, const float *h, int n, float s, float lo, float hi)
{
    float inv = 1.0f / s;
    SUM_ERROR(n, clamp(nearest(x * inv), lo, hi) * s);
}

/* code = clamp(round(w / s) + z, 0, 15), value = (code - z) * s */
INLINE float error_zero(const float *w, const float *h, int n, float s, float z)
{
    float inv = 1.0f / s;
    SUM_ERROR(n, (clamp(nearest(x * inv) + z, 0.0f, 15.0f) - z) * s);
}

static float round_bf16(float x) /* of a scale: never 0 */
{
    return qn_bf16_to_f32(qn_f32_to_bf16(x < FLT_MIN ? FLT_MIN : x));
}

static float round_f16(float x)
{
    float y = qn_f16_to_f32(qn_f32_to_f16(QN_MIN(x, 65504.0f)));
    return y > 0 || x <= 0 ? y : 0x1p-24f;
}

/* --- scales --- */

/* E4M3 scale code of one NVFP4 block. The candidates reach from a clipped maximum to one that maps the
 * largest weight to 4 instead of 6. */
QN_CLONES static uint8_t nvfp4_scale(const float *w, const float *h, float whole, bool search)
{
    float amax = largest(w, 16);
    if (amax == 0) return 0;
    int base = qn_f32_to_e4m3(amax / 6.0f / whole);
    if (!search) return (uint8_t)base;
    int best = base;
    float least = INFINITY;
    for (int c = base - 2; c <= base + 5; c++) {
        if (c < 1 || c > 0x7e) continue;
        float err = error_e2m1(w, h, 16, qn_e4m3_to_f32((uint8_t)c) * whole);
        if (err < least) {
            least = err;
            best = c;
        }
    }
    return (uint8_t)best;
}

/* The scale of a run of E4M3 weights: an eighth of a binade can shift which weights fall on which side of a
 * power of two. BF16, as published layouts store it. */
QN_CLONES static float fp8_scale(const float *w, const float *h, int n, int stride, int n_row, bool search)
{
    float amax = 0;
    for (int r = 0; r < n_row; r++) amax = fmaxf(amax, largest(w + (size_t)r * (size_t)stride, (size_t)n));
    if (amax == 0) return 1;
    static const float up[] = {1.0f, 1.125f, 1.25f, 1.5f, 1.75f};
    float best = 0, least = INFINITY;
    for (size_t j = 0; j < (search ? QN_COUNT(up) : 1); j++) {
        float s = round_bf16(amax / 448.0f * up[j]), err = 0;
        for (int r = 0; search && r < n_row; r++) err += error_e4m3(w + (size_t)r * (size_t)stride, h, n, s);
        if (err < least) {
            least = err;
            best = s;
        }
    }
    return best;
}

/* Symmetric integers in lo..hi: shrinks the range step by step, then fits the scale to the codes chosen. */
QN_CLONES static float int_scale(const float *w, const float *h, int n, float lo, float hi, int n_step,
                                 float step, bool search, float (*rounded)(float))
{
    float amax = largest(w, (size_t)n);
    if (amax == 0) return rounded(1.0f);
    float best = rounded(amax / hi), least = INFINITY;
    if (!search) return best;
    for (int j = -2; j < n_step; j++) {
        float s = rounded(amax / hi * (1.0f - (float)j * step));
        float err = error_int(w, h, n, s, lo, hi);
        if (err < least) {
            least = err;
            best = s;
        }
    }
    float wq = 0, qq = 0;
    for (int i = 0; i < n; i++) {
        float q = clamp(nearest(w[i] / best), lo, hi);
        wq += h[i] * (w[i] * q);
        qq += h[i] * (q * q);
    }
    float fit = qq > 0 ? rounded(wq / qq) : best;
    return fit > 0 && error_int(w, h, n, fit, lo, hi) < least ? fit : best;
}

QN_CLONES static float zero_scale(const float *w, const float *h, int n, bool search, int *zero)
{
    float lo = 0, hi = 0;
    for (int i = 0; i < n; i++) {
        lo = w[i] < lo ? w[i] : lo;
        hi = w[i] > hi ? w[i] : hi;
    }
    *zero = 8;
    if (hi == lo) return 1.0f;
    float best = 1, least = INFINITY;
    for (int j = 0; j < (search ? 14 : 1); j++) {
        float p = 1.0f - 0.03f * (float)j;
        float s = round_f16((hi - lo) * p / 15.0f);
        float z0 = clamp(nearest(-lo * p / s), 0, 15);
        for (int dz = search ? -1 : 0; dz <= (search ? 1 : 0); dz++) {
            float z = z0 + (float)dz;
            if (z < 0 || z > 15) continue;
            float err = search ? error_zero(w, h, n, s, z) : 0;
            if (err < least) {
                least = err;
                best = s;
                *zero = (int)z;
            }
        }
    }
    return best;
}

/* --- blocks of rows --- */

struct work {
    struct qn_encode *x;
    float *w;             /* [n, K], columns in the order below */
    const float *h;       /* [K] weights of the errors */
    const int32_t *place; /* column of the layer at each place of w; NULL: as they are */
    int first, n;
    int unit, n_unit;        /* columns that share a scale, and how many such runs a row has */
    float *scale;            /* [n, n_unit] */
    int *zero;               /* [n, n_unit] AWQ */
    float whole;             /* NVFP4, FP8-tensor */
    unsigned char *a, *b;    /* block buffers of tensors 0 and 1 */
    uint32_t *words, *zeros; /* AWQ, GPTQ: the whole layer */
    uint16_t *scales;
    float *moved, *original; /* [BLOCK_ROWS, K] each, with a carry */
    float *moved_h;          /* [K] act-order */
};

static void add_error(struct work *k, float w, float stored)
{
    float d = stored - w;
    k->x->error += (double)(d * d);
    k->x->power += (double)(w * w);
}

/* --- choosing: scales of every run, also in the form the file has them (b) --- */

static void choose_nvfp4(struct work *k)
{
    for (int i = 0; i < k->n * k->n_unit; i++) {
        uint8_t code =
            nvfp4_scale(k->w + (size_t)i * 16, k->h + (size_t)(i % k->n_unit) * 16, k->whole, k->x->search);
        k->b[i] = code;
        k->scale[i] = qn_e4m3_to_f32(code) * k->whole;
    }
}

static void choose_fp8_block(struct work *k)
{
    int K = k->x->n_in;
    uint16_t *out = (uint16_t *)(void *)k->b;
    for (int c = 0; c < k->n_unit; c++) {
        float s = fp8_scale(k->w + c * 128, k->h + c * 128, QN_MIN(128, K - c * 128), K, k->n, k->x->search);
        out[c] = qn_f32_to_bf16(s);
        for (int r = 0; r < k->n; r++) k->scale[r * k->n_unit + c] = s;
    }
}

static void choose_rows(struct work *k)
{
    int K = k->x->n_in;
    enum qn_format f = k->x->store->format;
    uint16_t *out = (uint16_t *)(void *)k->b;
    for (int r = 0; r < k->n; r++) {
        const float *w = k->w + (size_t)r * (size_t)K;
        k->scale[r] = f == QN_FMT_FP8_TENSOR ? k->whole
                      : f == QN_FMT_FP8_CHANNEL
                          ? fp8_scale(w, k->h, K, K, 1, k->x->search)
                          : int_scale(w, k->h, K, -128, 127, 8, 0.01f, k->x->search, round_bf16);
        if (f != QN_FMT_FP8_TENSOR) out[r] = qn_f32_to_bf16(k->scale[r]);
    }
}

static void choose_int4(struct work *k)
{
    enum qn_format f = k->x->store->format;
    uint16_t *out = (uint16_t *)(void *)k->b;
    for (int i = 0; i < k->n * k->n_unit; i++) {
        const float *w = k->w + (size_t)i * (size_t)k->unit,
                    *h = k->h + (size_t)(i % k->n_unit) * (size_t)k->unit;
        k->zero[i] = 8;
        k->scale[i] = f == QN_FMT_INT4_AWQ ? zero_scale(w, h, k->unit, k->x->search, &k->zero[i])
                                           : int_scale(w, h, k->unit, -8, 7, 16, 0.03f, k->x->search,
                                                       f == QN_FMT_INT4_CT ? round_bf16 : round_f16);
        if (f == QN_FMT_INT4_CT) out[i] = qn_f32_to_bf16(k->scale[i]);
    }
}

/* --- rounding with errors carried on --- */

/* The value stored for w. */
INLINE float stored_value(enum qn_format f, float w, float s, float inv, float z)
{
    switch (f) {
    case QN_FMT_NVFP4:
        return round_e2m1(w * inv) * s;
    case QN_FMT_INT8_CHANNEL:
        return clamp(nearest(w * inv), -128, 127) * s;
    case QN_FMT_INT4_AWQ:
        return (clamp(nearest(w * inv) + z, 0, 15) - z) * s;
    case QN_FMT_INT4_GPTQ:
    case QN_FMT_INT4_CT:
        return clamp(nearest(w * inv), -8, 7) * s;
    default:
        return round_e4m3(w * inv) * s;
    }
}

#define CHUNK 64 /* columns whose errors are carried on together */

/* w[to..end) -= sum over the chunk of error[i] u[i][to..end), four rows of u at a time */
QN_CLONES static void carry_on(float *w, const float *error, const float *u, int n_error, int stride, int to,
                               int end)
{
    int i = 0;
    for (; i + 4 <= n_error; i += 4) {
        const float *a = u + (size_t)i * (size_t)stride, *b = a + stride, *c = b + stride, *d = c + stride;
        float p = error[i], q = error[i + 1], r = error[i + 2], s = error[i + 3];
        for (int j = to; j < end; j++) w[j] -= (p * a[j] + q * b[j]) + (r * c[j] + s * d[j]);
    }
    for (; i < n_error; i++)
        for (int j = to; j < end; j++) w[j] -= error[i] * u[(size_t)i * (size_t)stride + (size_t)j];
}

/* One row of one block of the carry: w [n] at places first.. of the layer. */
static void round_row(const struct work *k, float *w, const float *u, int n, int first,
                      const int32_t *unit_of, int r)
{
    enum qn_format f = k->x->store->format;
    float error[CHUNK];
    for (int c = 0; c < n; c += CHUNK) {
        int end = QN_MIN(c + CHUNK, n);
        for (int i = c; i < end; i++) {
            int at = r * k->n_unit + unit_of[first + i];
            float s = k->scale[at],
                  v = stored_value(f, w[i], s, s > 0 ? 1.0f / s : 0, k->zero ? (float)k->zero[at] : 0);
            const float *row = u + (size_t)i * (size_t)n;
            error[i - c] = (w[i] - v) / row[i];
            w[i] = v;
            for (int j = i + 1; j < end; j++) w[j] -= error[i - c] * row[j];
        }
        carry_on(w, error, u + (size_t)c * (size_t)n, end - c, n, end, n);
    }
}

/* Replaces the block's weights by values of the format, each column's rounding error made up for by later
 * ones as the inputs' correlation allows. */
static void round_with_carry(struct work *k)
{
    const struct qn_carry *c = k->x->carry;
    size_t K = (size_t)k->x->n_in;
    int32_t *unit_of = xmalloc(K * sizeof *unit_of);
    bool is_moved = !k->place; /* act-order has moved the columns already */
    for (size_t i = 0; i < K; i++) unit_of[i] = (is_moved ? c->order[i] : (int32_t)i) / k->unit;
    for (int r = 0; r < k->n; r++) {
        float *w = k->w + (size_t)r * K, *to = is_moved ? k->moved : w;
        for (size_t i = 0; is_moved && i < K; i++) to[i] = w[c->order[i]];
        for (int first = 0, b = 0; first < k->x->n_in; first += c->block, b++)
            round_row(k, to + first, c->u[b], QN_MIN(c->block, k->x->n_in - first), first, unit_of, r);
        for (size_t i = 0; is_moved && i < K; i++) w[c->order[i]] = to[i];
    }
    free(unit_of);
}

/* --- packing, with the scales chosen --- */

/* Codes of one NVFP4 block, and its sums of (w - stored)^2 and w^2. */
QN_CLONES static void pack_e2m1(const float *w, float s, unsigned char *out, float *error, float *power)
{
    float inv = s > 0 ? 1.0f / s : 0, e[LANES] = {0}, p[LANES] = {0};
    int code[16];
    for (int i = 0; i < 16; i += LANES)
        for (int j = 0; j < LANES; j++) {
            float x = w[i + j], v = round_e2m1(x * inv), a = fabsf(v), d = v * s - x;
            int c = a > 2.0f ? (int)a + 2 : (int)(a * 2.0f); /* 0 .5 1 1.5 2 3 4 -> 0 .. 6 */
            c = a > 4.0f ? 7 : c;
            code[i + j] = v < 0 ? c + 8 : c;
            e[j] += d * d;
            p[j] += x * x;
        }
    for (int i = 0; i < 8; i++) out[i] = (unsigned char)(code[2 * i] | code[2 * i + 1] << 4);
    for (int j = 0; j < LANES; j++) {
        *error += e[j];
        *power += p[j];
    }
}

static void pack_nvfp4(struct work *k)
{
    for (int i = 0; i < k->n * k->n_unit; i++) {
        float error = 0, power = 0;
        pack_e2m1(k->w + (size_t)i * 16, k->scale[i], k->a + (size_t)i * 8, &error, &power);
        k->x->error += (double)error;
        k->x->power += (double)power;
    }
}

/* E4M3 codes of at most 128 weights, and the same sums. */
QN_CLONES static void pack_e4m3(const float *w, int n, float s, unsigned char *out, float *error,
                                float *power)
{
    float inv = 1.0f / s, e = 0, p = 0;
    uint32_t code[128];
    float stored[128];
    for (int i = 0; i < n; i++) {
        union {
            float f;
            uint32_t u;
        } x = {w[i] * inv}, v = {round_e4m3(x.f)};
        float a = fabsf(v.f);
        uint32_t low = (uint32_t)(int32_t)(a * 512.0f), high = ((v.u & 0x7fffffffu) >> 20) - (120u << 3);
        code[i] = (a < 0x1p-6f ? low : high) | (x.u >> 24 & 0x80);
        stored[i] = v.f * s;
    }
    for (int i = 0; i < n; i++) {
        float d = stored[i] - w[i];
        out[i] = (unsigned char)code[i];
        e += d * d;
        p += w[i] * w[i];
    }
    *error = e;
    *power = p;
}

static void pack_fp8(struct work *k)
{
    int K = k->x->n_in, run = QN_MIN(k->unit, 128);
    for (int r = 0; r < k->n; r++)
        for (int i = 0; i < K; i += run) {
            size_t at = (size_t)r * (size_t)K + (size_t)i;
            float error, power;
            pack_e4m3(k->w + at, QN_MIN(run, K - i), k->scale[r * k->n_unit + i / k->unit], k->a + at, &error,
                      &power);
            k->x->error += (double)error;
            k->x->power += (double)power;
        }
}

static void pack_int8(struct work *k)
{
    size_t K = (size_t)k->x->n_in;
    for (size_t i = 0; i < (size_t)k->n * K; i++) {
        float s = k->scale[i / K], q = clamp(nearest(k->w[i] / s), -128, 127);
        k->a[i] = (unsigned char)(int8_t)q;
        add_error(k, k->w[i], q * s);
    }
}

static void pack_ct4(struct work *k)
{
    size_t n = (size_t)k->n * (size_t)k->x->n_in;
    memset(k->a, 0, n / 2);
    for (size_t i = 0; i < n; i++) {
        float s = k->scale[i / (size_t)k->unit], q = clamp(nearest(k->w[i] / s), -8, 7);
        k->a[i / 2] |= (unsigned char)(((int)q + 8) << 4 * (i & 1));
        add_error(k, k->w[i], q * s);
    }
}

/* Bit place of column n in AutoAWQ's word of eight. */
static int awq_place(int n)
{
    static const int place[8] = {0, 4, 1, 5, 2, 6, 3, 7};
    return 4 * place[n & 7];
}

static void pack_transposed(struct work *k)
{
    size_t N = (size_t)k->x->n_out, K = (size_t)k->x->n_in;
    bool awq = k->x->store->format == QN_FMT_INT4_AWQ;
    for (int r = 0; r < k->n; r++) {
        size_t n = (size_t)k->first + (size_t)r;
        int shift_n = awq ? awq_place((int)n) : 4 * (int)(n & 7);
        for (int g = 0; g < k->n_unit; g++) {
            int z = k->zero[r * k->n_unit + g];
            float s = k->scale[r * k->n_unit + g];
            k->scales[(size_t)g * N + n] = qn_f32_to_f16(s);
            k->zeros[(size_t)g * (N / 8) + n / 8] |= (uint32_t)(awq ? z : z - 1) << shift_n;
            for (int i = g * k->unit; i < (g + 1) * k->unit; i++) {
                size_t kk = k->place ? (size_t)k->place[i] : (size_t)i;
                float w = k->w[(size_t)r * K + (size_t)i], q = clamp(nearest(w / s) + (float)z, 0, 15);
                if (awq)
                    k->words[kk * (N / 8) + n / 8] |= (uint32_t)q << shift_n;
                else
                    k->words[kk / 8 * N + n] |= (uint32_t)q << 4 * (kk % 8);
                add_error(k, w, (q - (float)z) * s);
            }
        }
    }
}

static void pack_bf16(struct work *k)
{
    uint16_t *out = (uint16_t *)(void *)k->a;
    for (size_t i = 0; i < (size_t)k->n * (size_t)k->x->n_in; i++) {
        out[i] = qn_f32_to_bf16(k->w[i]);
        add_error(k, k->w[i], qn_bf16_to_f32(out[i]));
    }
}

/* Largest weight of the layer, for the formats with one scale over all. */
static int whole_scale(struct qn_encode *x, float *w, float *out, float *stored, struct qn_err *e)
{
    int rc = QN_OK;
    float amax = 0;
    for (int first = 0; first < x->n_out; first += BLOCK_ROWS) {
        int n = QN_MIN(BLOCK_ROWS, x->n_out - first);
        QN_TRY(x->rows(x->rows_ctx, first, n, w, e));
        amax = fmaxf(amax, largest(w, (size_t)n * (size_t)x->n_in));
    }
    if (amax == 0) amax = 1;
    if (x->store->format == QN_FMT_FP8_TENSOR)
        *out = amax / 448.0f;
    else
        *out = amax / 2688.0f;
    if (*out < FLT_MIN) *out = FLT_MIN;
    *stored = *out;
    if (x->store->is_ct && x->store->format == QN_FMT_NVFP4) {
        *stored = 1.0f / *out;
        *out = 1.0f / *stored; /* as a reader will compute it */
    }
out:
    return rc;
}

static int put_transposed(struct qn_encode *x, const struct work *k, struct qn_err *e)
{
    int rc = QN_OK;
    size_t N = (size_t)x->n_out, K = (size_t)x->n_in, n_group = K / (size_t)x->group;
    int32_t *g_idx = NULL;
    QN_TRY(x->put(x->put_ctx, 0, 0, k->words, N * K / 2, e));
    QN_TRY(x->put(x->put_ctx, 1, 0, k->scales, n_group * N * 2, e));
    QN_TRY(x->put(x->put_ctx, 2, 0, k->zeros, n_group * N / 2, e));
    if (x->store->format == QN_FMT_INT4_GPTQ) {
        g_idx = xmalloc(K * sizeof *g_idx);
        for (size_t i = 0; i < K; i++)
            g_idx[k->place ? k->place[i] : (int32_t)i] = (int32_t)(i / (size_t)x->group);
        QN_TRY(x->put(x->put_ctx, 3, 0, g_idx, K * sizeof *g_idx, e));
    }
out:
    free(g_idx);
    return rc;
}

/* How many columns share a scale. */
static int unit_of_format(enum qn_format f, int n_in, int group)
{
    switch (f) {
    case QN_FMT_NVFP4:
        return 16;
    case QN_FMT_FP8_BLOCK:
        return 128;
    case QN_FMT_INT4_AWQ:
    case QN_FMT_INT4_GPTQ:
    case QN_FMT_INT4_CT:
        return group;
    default:
        return n_in;
    }
}

static void (*const choose[QN_N_FORMAT])(struct work *) = {
    [QN_FMT_NVFP4] = choose_nvfp4,       [QN_FMT_FP8_BLOCK] = choose_fp8_block,
    [QN_FMT_FP8_CHANNEL] = choose_rows,  [QN_FMT_FP8_TENSOR] = choose_rows,
    [QN_FMT_INT8_CHANNEL] = choose_rows, [QN_FMT_INT4_AWQ] = choose_int4,
    [QN_FMT_INT4_GPTQ] = choose_int4,    [QN_FMT_INT4_CT] = choose_int4,
};
static void (*const pack[QN_N_FORMAT])(struct work *) = {
    [QN_FMT_BF16] = pack_bf16,           [QN_FMT_NVFP4] = pack_nvfp4,
    [QN_FMT_FP8_BLOCK] = pack_fp8,       [QN_FMT_FP8_CHANNEL] = pack_fp8,
    [QN_FMT_FP8_TENSOR] = pack_fp8,      [QN_FMT_INT8_CHANNEL] = pack_int8,
    [QN_FMT_INT4_AWQ] = pack_transposed, [QN_FMT_INT4_GPTQ] = pack_transposed,
    [QN_FMT_INT4_CT] = pack_ct4,
};

/* Scales, rounding and packing of one block of rows; its errors are those of the weights that came in. */
static void run_block(struct work *k)
{
    struct qn_encode *x = k->x;
    size_t K = (size_t)x->n_in, n = (size_t)k->n * K;
    if (k->place) {
        for (size_t r = 0; r < (size_t)k->n; r++) {
            for (size_t i = 0; i < K; i++) k->moved[i] = k->w[r * K + (size_t)k->place[i]];
            memcpy(k->w + r * K, k->moved, K * sizeof *k->w);
        }
    }
    if (choose[x->store->format]) choose[x->store->format](k);
    if (!x->carry) {
        pack[x->store->format](k);
        return;
    }
    double error = x->error, power = x->power;
    memcpy(k->original, k->w, n * sizeof *k->w);
    round_with_carry(k);
    for (size_t i = 0; i < n; i++) {
        double d = (double)k->w[i] - (double)k->original[i];
        error += d * d;
        power += (double)k->original[i] * (double)k->original[i];
    }
    pack[x->store->format](k);
    x->error = error;
    x->power = power;
}

static int make_work(struct work *k, struct qn_encode *x, struct qn_err *e)
{
    int rc = QN_OK;
    enum qn_format f = x->store->format;
    size_t N = (size_t)x->n_out, K = (size_t)x->n_in;
    bool transposed = f == QN_FMT_INT4_AWQ || f == QN_FMT_INT4_GPTQ;
    *k = (struct work){.x = x, .unit = unit_of_format(f, x->n_in, x->group)};
    k->n_unit = (int)QN_CEIL_DIV(x->n_in, k->unit);
    if (f == QN_FMT_INT4_GPTQ && x->is_act_order && x->carry) k->place = x->carry->order;
    k->w = try_malloc(BLOCK_ROWS * K, sizeof *k->w);
    k->scale = try_malloc(BLOCK_ROWS * (size_t)k->n_unit, sizeof *k->scale);
    k->zero = try_calloc(BLOCK_ROWS * (size_t)k->n_unit, sizeof *k->zero);
    k->moved = try_malloc(K, sizeof *k->moved);
    k->moved_h = try_malloc(K, sizeof *k->moved_h);
    bool is_short = !k->w || !k->scale || !k->zero || !k->moved || !k->moved_h;
    if (x->carry) is_short |= !(k->original = try_malloc(BLOCK_ROWS * K, sizeof *k->original));
    if (transposed) {
        k->words = try_calloc(N * K / 8, 4);
        k->scales = try_calloc(K / (size_t)x->group * N, 2);
        k->zeros = try_calloc(K / (size_t)x->group * (N / 8), 4);
        is_short |= !k->words || !k->scales || !k->zeros;
    } else {
        k->a = try_malloc(BLOCK_ROWS * K, 2);
        k->b = try_malloc(BLOCK_ROWS * (K + 1), 2);
        is_short |= !k->a || !k->b;
    }
    QN_FAIL_IF(is_short, e, QN_NOMEM, "%s: no memory for a block of %d rows", x->name, BLOCK_ROWS);
    for (size_t i = 0; i < K; i++) {
        size_t from = k->place ? (size_t)k->place[i] : i;
        k->moved_h[i] = x->importance ? x->importance[from] : 1.0f;
    }
    k->h = k->moved_h;
out:
    return rc;
}

static void free_work(struct work *k)
{
    free(k->w);
    free(k->scale);
    free(k->zero);
    free(k->moved);
    free(k->moved_h);
    free(k->original);
    free(k->a);
    free(k->b);
    free(k->words);
    free(k->scales);
    free(k->zeros);
}

int qn_encode_linear(struct qn_encode *x, struct qn_err *e)
{
    int rc = QN_OK;
    enum qn_format f = x->store->format;
    const char *why;
    size_t K = (size_t)x->n_in;
    bool transposed = f == QN_FMT_INT4_AWQ || f == QN_FMT_INT4_GPTQ;
    struct work k = {0};
    x->error = x->power = 0;
    QN_FAIL_IF(!qn_encode_fits(x->store, x->n_out, x->n_in, x->group, &why), e, QN_INVAL,
               "%s [%d, %d] cannot be stored as %s: %s", x->name, x->n_out, x->n_in, x->store->name, why);
    QN_TRY(make_work(&k, x, e));
    bool has_whole = f == QN_FMT_NVFP4 || f == QN_FMT_FP8_TENSOR;
    if (has_whole) {
        float stored;
        QN_TRY(whole_scale(x, k.w, &k.whole, &stored, e));
        QN_TRY(x->put(x->put_ctx, f == QN_FMT_NVFP4 ? 2 : 1, 0, &stored, sizeof stored, e));
    }
    for (k.first = 0; k.first < x->n_out; k.first += BLOCK_ROWS) {
        k.n = QN_MIN(BLOCK_ROWS, x->n_out - k.first);
        QN_TRY(x->rows(x->rows_ctx, k.first, k.n, k.w, e));
        QN_FAIL_IF(!all_finite(k.w, (size_t)k.n * K), e, QN_FORMAT,
                   "%s: a weight in rows %d to %d is not finite; the source is damaged", x->name, k.first,
                   k.first + k.n - 1);
        run_block(&k);
        if (transposed) continue;
        size_t row_a = f == QN_FMT_BF16 ? K * 2 : f == QN_FMT_NVFP4 || f == QN_FMT_INT4_CT ? K / 2 : K;
        QN_TRY(x->put(x->put_ctx, 0, (size_t)k.first * row_a, k.a, (size_t)k.n * row_a, e));
        size_t row_b = f == QN_FMT_NVFP4                                     ? K / 16
                       : f == QN_FMT_INT4_CT                                 ? K / (size_t)x->group * 2
                       : f == QN_FMT_FP8_CHANNEL || f == QN_FMT_INT8_CHANNEL ? 2
                                                                             : 0;
        if (f == QN_FMT_FP8_BLOCK) {
            size_t n_col = (K + 127) / 128 * 2;
            QN_TRY(x->put(x->put_ctx, 1, (size_t)k.first / 128 * n_col, k.b, n_col, e));
        } else if (row_b) {
            QN_TRY(x->put(x->put_ctx, 1, (size_t)k.first * row_b, k.b, (size_t)k.n * row_b, e));
        }
    }
    if (transposed) QN_TRY(put_transposed(x, &k, e));
    if (f == QN_FMT_INT4_CT) {
        int64_t shape[2] = {x->n_out, x->n_in};
        QN_TRY(x->put(x->put_ctx, 2, 0, shape, sizeof shape, e));
    }
out:
    free_work(&k);
    return rc;
}

void qn_encode_round(const struct qn_store *store, int group, float *w, int n_row, int n_in,
                     const float *importance)
{
    int n_unit = n_in / group;
    QN_CHECK(store->format == QN_FMT_INT4_AWQ && n_in % group == 0);
    for (int i = 0; i < n_row * n_unit; i++) {
        float *run = w + (size_t)i * (size_t)group;
        int z;
        float s = zero_scale(run, importance + (size_t)(i % n_unit) * (size_t)group, group, true, &z);
        for (int j = 0; j < group; j++) run[j] = stored_value(store->format, run[j], s, 1.0f / s, (float)z);
    }
}
