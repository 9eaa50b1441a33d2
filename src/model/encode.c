/* Storage formats, writing side: scale search and packing.
 * SPDX-License-Identifier: Apache-2.0 */
#include "model/encode.h"

#include <float.h>
#include <math.h>

#include "base/mem.h"

#define BLOCK_ROWS 128

/* The searches are the whole cost, so they are made for wider vectors too and chosen when the program starts.
 * The result is the same: no contraction, sums in fixed lanes. */
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("O3,no-trapping-math,no-math-errno")
#endif
#if defined(__GNUC__) && !defined(__clang__) && defined(__x86_64__) && !defined(__SANITIZE_THREAD__) &&      \
    !defined(__SANITIZE_ADDRESS__)
#define CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define CLONES
#endif
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

/* Sums run in eight lanes, so that their order is fixed and vectors can be used. */
#define LANES 8
#define SUM_ERROR(n, expr)                                                                                   \
    do {                                                                                                     \
        float lane[LANES] = {0}, rest = 0;                                                                   \
        int i = 0;                                                                                           \
        for (; i + LANES <= (n); i += LANES)                                                                 \
            for (int j = 0; j < LANES; j++) {                                                                \
                float x = w[i + j], d = (expr)-x;                                                            \
                lane[j] += d * d;                                                                            \
            }                                                                                                \
        for (; i < (n); i++) {                                                                               \
            float x = w[i], d = (expr)-x;                                                                    \
            rest += d * d;                                                                                   \
        }                                                                                                    \
        float sum = rest;                                                                                    \
        for (int j = 0; j < LANES; j++) sum += lane[j];                                                      \
        return sum;                                                                                          \
    } while (0)

INLINE float error_e2m1(const float *w, int n, float s)
{
    float inv = 1.0f / s;
    SUM_ERROR(n, round_e2m1(x * inv) * s);
}

INLINE float error_e4m3(const float *w, int n, float s)
{
    float inv = 1.0f / s;
    SUM_ERROR(n, round_e4m3(x * inv) * s);
}

INLINE float error_int(const float *w, int n, float s, float lo, float hi)
{
    float inv = 1.0f / s;
    SUM_ERROR(n, clamp(nearest(x * inv), lo, hi) * s);
}

/* code = clamp(round(w / s) + z, 0, 15), value = (code - z) * s */
INLINE float error_zero(const float *w, int n, float s, float z)
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
CLONES static uint8_t nvfp4_scale(const float *w, float whole, bool search)
{
    float amax = largest(w, 16);
    if (amax == 0) return 0;
    int base = qn_f32_to_e4m3(amax / 6.0f / whole);
    if (!search) return (uint8_t)base;
    int best = base;
    float least = INFINITY;
    for (int c = base - 2; c <= base + 5; c++) {
        if (c < 1 || c > 0x7e) continue;
        float err = error_e2m1(w, 16, qn_e4m3_to_f32((uint8_t)c) * whole);
        if (err < least) {
            least = err;
            best = c;
        }
    }
    return (uint8_t)best;
}

/* The scale of a run of E4M3 weights: an eighth of a binade can shift which weights fall on which side of a
 * power of two. `rounded` is BF16 for published layouts. */
CLONES static float fp8_scale(const float *w, int n, int stride, int n_row, bool search, bool rounded)
{
    float amax = 0;
    for (int r = 0; r < n_row; r++) amax = fmaxf(amax, largest(w + (size_t)r * (size_t)stride, (size_t)n));
    if (amax == 0) return 1;
    static const float up[] = {1.0f, 1.125f, 1.25f, 1.5f, 1.75f};
    float best = 0, least = INFINITY;
    for (size_t j = 0; j < (search ? QN_COUNT(up) : 1); j++) {
        float s = amax / 448.0f * up[j], err = 0;
        if (rounded) s = round_bf16(s);
        if (s < FLT_MIN) s = FLT_MIN;
        for (int r = 0; search && r < n_row; r++) err += error_e4m3(w + (size_t)r * (size_t)stride, n, s);
        if (err < least) {
            least = err;
            best = s;
        }
    }
    return best;
}

/* Symmetric integers in lo..hi: shrinks the range step by step, then fits the scale to the codes chosen. */
CLONES static float int_scale(const float *w, int n, float lo, float hi, int n_step, float step, bool search,
                              float (*rounded)(float))
{
    float amax = largest(w, (size_t)n);
    if (amax == 0) return rounded(1.0f);
    float best = rounded(amax / hi), least = INFINITY;
    if (!search) return best;
    for (int j = -2; j < n_step; j++) {
        float s = rounded(amax / hi * (1.0f - (float)j * step));
        float err = error_int(w, n, s, lo, hi);
        if (err < least) {
            least = err;
            best = s;
        }
    }
    float wq = 0, qq = 0;
    for (int i = 0; i < n; i++) {
        float q = clamp(nearest(w[i] / best), lo, hi);
        wq += w[i] * q;
        qq += q * q;
    }
    float fit = qq > 0 ? rounded(wq / qq) : best;
    return fit > 0 && error_int(w, n, fit, lo, hi) < least ? fit : best;
}

CLONES static float zero_scale(const float *w, int n, bool search, int *zero)
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
            float err = search ? error_zero(w, n, s, z) : 0;
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
    const float *w; /* [n, K] */
    int first, n;
    float whole;             /* NVFP4, FP8-tensor */
    unsigned char *a, *b;    /* block buffers of tensors 0 and 1 */
    uint32_t *words, *zeros; /* AWQ, GPTQ: the whole layer */
    uint16_t *scales;
};

static void add_error(struct work *k, float w, float stored)
{
    float d = stored - w;
    k->x->error += (double)(d * d);
    k->x->power += (double)(w * w);
}

/* Codes of one NVFP4 block, and its sums of (w - stored)^2 and w^2. */
CLONES static void pack_e2m1(const float *w, float s, unsigned char *out, float *error, float *power)
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

static void block_nvfp4(struct work *k)
{
    size_t K = (size_t)k->x->n_in;
    for (size_t g = 0; g < (size_t)k->n * K / 16; g++) {
        const float *w = k->w + g * 16;
        uint8_t code = nvfp4_scale(w, k->whole, k->x->search);
        float error = 0, power = 0;
        k->b[g] = code;
        pack_e2m1(w, qn_e4m3_to_f32(code) * k->whole, k->a + g * 8, &error, &power);
        k->x->error += (double)error;
        k->x->power += (double)power;
    }
}

/* E4M3 codes of at most 128 weights, and the same sums. */
CLONES static void pack_e4m3(const float *w, int n, float s, unsigned char *out, float *error, float *power)
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

static void fp8_run(struct work *k, size_t at, int n, float s)
{
    for (int i = 0; i < n; i += 128) {
        float error, power;
        pack_e4m3(k->w + at + (size_t)i, QN_MIN(128, n - i), s, k->a + at + (size_t)i, &error, &power);
        k->x->error += (double)error;
        k->x->power += (double)power;
    }
}

static void block_fp8(struct work *k)
{
    int K = k->x->n_in, n_col = (K + 127) / 128;
    uint16_t *scales = (uint16_t *)(void *)k->b;
    for (int c = 0; c < n_col; c++) {
        int n = QN_MIN(128, K - c * 128);
        float s = fp8_scale(k->w + c * 128, n, K, k->n, k->x->search, true);
        scales[c] = qn_f32_to_bf16(s);
        for (int r = 0; r < k->n; r++) fp8_run(k, (size_t)r * (size_t)K + (size_t)c * 128, n, s);
    }
}

static void block_fp8_rows(struct work *k)
{
    int K = k->x->n_in;
    uint16_t *scales = (uint16_t *)(void *)k->b;
    for (int r = 0; r < k->n; r++) {
        const float *w = k->w + (size_t)r * (size_t)K;
        float s = k->whole;
        if (k->x->store->format == QN_FMT_FP8_CHANNEL) {
            s = fp8_scale(w, K, K, 1, k->x->search, true);
            scales[r] = qn_f32_to_bf16(s);
        }
        fp8_run(k, (size_t)r * (size_t)K, K, s);
    }
}

static void block_int8(struct work *k)
{
    int K = k->x->n_in;
    uint16_t *scales = (uint16_t *)(void *)k->b;
    for (int r = 0; r < k->n; r++) {
        const float *w = k->w + (size_t)r * (size_t)K;
        float s = int_scale(w, K, -128, 127, 8, 0.01f, k->x->search, round_bf16);
        scales[r] = qn_f32_to_bf16(s);
        for (int i = 0; i < K; i++) {
            float q = clamp(nearest(w[i] / s), -128, 127);
            k->a[(size_t)r * (size_t)K + (size_t)i] = (unsigned char)(int8_t)q;
            add_error(k, w[i], q * s);
        }
    }
}

static void block_ct4(struct work *k)
{
    int K = k->x->n_in, group = k->x->group;
    uint16_t *scales = (uint16_t *)(void *)k->b;
    memset(k->a, 0, (size_t)k->n * (size_t)K / 2);
    for (size_t g = 0; g < (size_t)k->n * (size_t)(K / group); g++) {
        const float *w = k->w + g * (size_t)group;
        float s = int_scale(w, group, -8, 7, 16, 0.03f, k->x->search, round_bf16);
        scales[g] = qn_f32_to_bf16(s);
        for (int i = 0; i < group; i++) {
            float q = clamp(nearest(w[i] / s), -8, 7);
            size_t at = g * (size_t)group + (size_t)i;
            k->a[at / 2] |= (unsigned char)(((int)q + 8) << 4 * (at & 1));
            add_error(k, w[i], q * s);
        }
    }
}

/* Bit place of column n in AutoAWQ's word of eight. */
static int awq_place(int n)
{
    static const int place[8] = {0, 4, 1, 5, 2, 6, 3, 7};
    return 4 * place[n & 7];
}

static void block_transposed(struct work *k)
{
    int K = k->x->n_in, group = k->x->group;
    size_t N = (size_t)k->x->n_out;
    bool awq = k->x->store->format == QN_FMT_INT4_AWQ;
    for (int r = 0; r < k->n; r++) {
        size_t n = (size_t)(k->first + r);
        int shift_n = awq ? awq_place((int)n) : 4 * (int)(n & 7);
        for (int g = 0; g < K / group; g++) {
            const float *w = k->w + (size_t)r * (size_t)K + (size_t)g * (size_t)group;
            int z = 8;
            float s = awq ? zero_scale(w, group, k->x->search, &z)
                          : int_scale(w, group, -8, 7, 16, 0.03f, k->x->search, round_f16);
            k->scales[(size_t)g * N + n] = qn_f32_to_f16(s);
            k->zeros[(size_t)g * (N / 8) + n / 8] |= (uint32_t)(awq ? z : z - 1) << shift_n;
            for (int i = 0; i < group; i++) {
                size_t kk = (size_t)g * (size_t)group + (size_t)i;
                float q = clamp(nearest(w[i] / s) + (float)z, 0, 15);
                if (awq)
                    k->words[kk * (N / 8) + n / 8] |= (uint32_t)q << shift_n;
                else
                    k->words[kk / 8 * N + n] |= (uint32_t)q << 4 * (kk % 8);
                add_error(k, w[i], (q - (float)z) * s);
            }
        }
    }
}

static void block_bf16(struct work *k)
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
        for (size_t i = 0; i < K; i++) g_idx[i] = (int32_t)(i / (size_t)x->group);
        QN_TRY(x->put(x->put_ctx, 3, 0, g_idx, K * sizeof *g_idx, e));
    }
out:
    free(g_idx);
    return rc;
}

int qn_encode_linear(struct qn_encode *x, struct qn_err *e)
{
    static void (*const block[QN_N_FORMAT])(struct work *) = {
        [QN_FMT_BF16] = block_bf16,
        [QN_FMT_NVFP4] = block_nvfp4,
        [QN_FMT_FP8_BLOCK] = block_fp8,
        [QN_FMT_FP8_CHANNEL] = block_fp8_rows,
        [QN_FMT_FP8_TENSOR] = block_fp8_rows,
        [QN_FMT_INT4_AWQ] = block_transposed,
        [QN_FMT_INT4_GPTQ] = block_transposed,
        [QN_FMT_INT4_CT] = block_ct4,
        [QN_FMT_INT8_CHANNEL] = block_int8,
    };
    int rc = QN_OK;
    enum qn_format f = x->store->format;
    const char *why;
    size_t N = (size_t)x->n_out, K = (size_t)x->n_in;
    bool transposed = f == QN_FMT_INT4_AWQ || f == QN_FMT_INT4_GPTQ;
    struct work k = {.x = x};
    float *w = NULL;
    x->error = x->power = 0;
    QN_FAIL_IF(!qn_encode_fits(x->store, x->n_out, x->n_in, x->group, &why), e, QN_INVAL,
               "%s [%d, %d] cannot be stored as %s: %s", x->name, x->n_out, x->n_in, x->store->name, why);
    w = try_malloc(BLOCK_ROWS * K, sizeof *w);
    k.a = transposed ? NULL : try_malloc(BLOCK_ROWS * K, 2);
    k.b = transposed ? NULL : try_malloc(BLOCK_ROWS * (K + 1), 2);
    if (transposed) {
        k.words = try_calloc(N * K / 8, 4);
        k.scales = try_calloc(K / (size_t)x->group * N, 2);
        k.zeros = try_calloc(K / (size_t)x->group * (N / 8), 4);
    }
    QN_FAIL_IF(!w || (transposed ? !k.words || !k.scales || !k.zeros : !k.a || !k.b), e, QN_NOMEM,
               "%s: no memory for a block of %d rows", x->name, BLOCK_ROWS);
    bool has_whole = f == QN_FMT_NVFP4 || f == QN_FMT_FP8_TENSOR;
    if (has_whole) {
        float stored;
        QN_TRY(whole_scale(x, w, &k.whole, &stored, e));
        QN_TRY(x->put(x->put_ctx, f == QN_FMT_NVFP4 ? 2 : 1, 0, &stored, sizeof stored, e));
    }
    for (k.first = 0; k.first < x->n_out; k.first += BLOCK_ROWS) {
        k.n = QN_MIN(BLOCK_ROWS, x->n_out - k.first);
        k.w = w;
        QN_TRY(x->rows(x->rows_ctx, k.first, k.n, w, e));
        QN_FAIL_IF(!all_finite(w, (size_t)k.n * K), e, QN_FORMAT,
                   "%s: a weight in rows %d to %d is not finite; the source is damaged", x->name, k.first,
                   k.first + k.n - 1);
        block[f](&k);
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
    free(w);
    free(k.a);
    free(k.b);
    free(k.words);
    free(k.scales);
    free(k.zeros);
    return rc;
}
