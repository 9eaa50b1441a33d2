/* Sixteen floats as one value: a zmm, two ymm, four NEON registers or an array, by the flags of the including
 * file. Products are fused only where vfma says so, so that every instance of a kernel rounds alike. Internal
 * to the kernel files. SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_V16_H
#define QN_V16_H

#include <math.h>

#include "base/base.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define KERN static inline __attribute__((always_inline))

#if defined(__AVX512F__) && defined(__AVX512BW__)
#define V16_IS_REGISTER 1 /* one of 32 */

typedef __m512 v16;
KERN v16 vzero(void)
{
    return _mm512_setzero_ps();
}
KERN v16 vset(float x)
{
    return _mm512_set1_ps(x);
}
KERN v16 vload(const float *p)
{
    return _mm512_loadu_ps(p);
}
KERN void vstore(float *p, v16 a)
{
    _mm512_storeu_ps(p, a);
}
KERN v16 vload_part(const float *p, int n)
{
    return _mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p);
}
KERN void vstore_part(float *p, v16 a, int n)
{
    _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), a);
}
KERN v16 vadd(v16 a, v16 b)
{
    return _mm512_add_ps(a, b);
}
KERN v16 vsub(v16 a, v16 b)
{
    return _mm512_sub_ps(a, b);
}
KERN v16 vmul(v16 a, v16 b)
{
    return _mm512_mul_ps(a, b);
}
KERN v16 vdiv(v16 a, v16 b)
{
    return _mm512_div_ps(a, b);
}
KERN v16 vmax(v16 a, v16 b)
{
    return _mm512_max_ps(a, b);
}
KERN v16 vmin(v16 a, v16 b)
{
    return _mm512_min_ps(a, b);
}
KERN v16 vfma(v16 a, v16 b, v16 c)
{
    return _mm512_fmadd_ps(a, b, c);
}
KERN v16 vround(v16 a)
{
    return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
/* a * 2^n for integral n in [-126, 127] */
KERN v16 vscale(v16 a, v16 n)
{
    __m512i e = _mm512_slli_epi32(_mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127)), 23);
    return _mm512_mul_ps(a, _mm512_castsi512_ps(e));
}
KERN v16 vbf16(const uint16_t *p) /* 16 consecutive BF16 */
{
    return _mm512_castsi512_ps(
        _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)p)), 16));
}
KERN void vto_bf16(uint16_t *p, v16 a) /* nearest even; NaN is not expected */
{
    __m512i u = _mm512_castps_si512(a);
    __m512i odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
    u = _mm512_add_epi32(_mm512_add_epi32(u, _mm512_set1_epi32(0x7fff)), odd);
    _mm256_storeu_si256((void *)p, _mm512_cvtepi32_epi16(_mm512_srli_epi32(u, 16)));
}
KERN v16 vround_bf16(v16 a) /* what vto_bf16 stores */
{
    __m512i u = _mm512_castps_si512(a);
    __m512i odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
    u = _mm512_add_epi32(_mm512_add_epi32(u, _mm512_set1_epi32(0x7fff)), odd);
    return _mm512_castsi512_ps(_mm512_and_si512(u, _mm512_set1_epi32((int)0xffff0000)));
}
KERN __m256 vhalves(v16 a) /* low half + high half */
{
    return _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
}
KERN unsigned vabove(v16 a, v16 b)
{
    return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ);
}
KERN unsigned vnan(v16 a) /* lanes that are NaN */
{
    return _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q);
}
/* 16 consecutive FP8 values, exactly: as F16 of the same exponent field, E4M3 2^8 too small. */
#define V16_HAS_FP8
KERN v16 ve5m2(const uint8_t *p)
{
    return _mm512_cvtph_ps(_mm256_slli_epi16(_mm256_cvtepu8_epi16(_mm_loadu_si128((const void *)p)), 8));
}
KERN v16 ve4m3(const uint8_t *p)
{
    __m256i h = _mm256_slli_epi16(_mm256_cvtepu8_epi16(_mm_loadu_si128((const void *)p)), 8);
    h = _mm256_and_si256(_mm256_srai_epi16(h, 1), _mm256_set1_epi16((short)0xbfff)); /* s0eeeemmm0... */
    __m256i largest = _mm256_set1_epi16(0x3f80);
    __m256i nan = _mm256_cmpeq_epi16(_mm256_and_si256(h, largest), largest);
    return _mm512_mul_ps(_mm512_cvtph_ps(_mm256_or_si256(h, nan)), _mm512_set1_ps(256));
}

#elif defined(__AVX2__) && defined(__FMA__)
#define V16_IS_REGISTER    0

typedef struct {
    __m256 a, b;
} v16;
#define V2(expr_a, expr_b) ((v16){(expr_a), (expr_b)})
KERN v16 vzero(void)
{
    return V2(_mm256_setzero_ps(), _mm256_setzero_ps());
}
KERN v16 vset(float x)
{
    return V2(_mm256_set1_ps(x), _mm256_set1_ps(x));
}
KERN v16 vload(const float *p)
{
    return V2(_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8));
}
KERN void vstore(float *p, v16 x)
{
    _mm256_storeu_ps(p, x.a);
    _mm256_storeu_ps(p + 8, x.b);
}
KERN v16 vload_part(const float *p, int n)
{
    float t[16] = {0};
    memcpy(t, p, (size_t)n * sizeof *t);
    return vload(t);
}
KERN void vstore_part(float *p, v16 x, int n)
{
    float t[16];
    vstore(t, x);
    memcpy(p, t, (size_t)n * sizeof *t);
}
KERN v16 vadd(v16 x, v16 y)
{
    return V2(_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b));
}
KERN v16 vsub(v16 x, v16 y)
{
    return V2(_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b));
}
KERN v16 vmul(v16 x, v16 y)
{
    return V2(_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b));
}
KERN v16 vdiv(v16 x, v16 y)
{
    return V2(_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b));
}
KERN v16 vmax(v16 x, v16 y)
{
    return V2(_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b));
}
KERN v16 vmin(v16 x, v16 y)
{
    return V2(_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b));
}
KERN v16 vfma(v16 x, v16 y, v16 z)
{
    return V2(_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b));
}
KERN v16 vround(v16 x)
{
    return V2(_mm256_round_ps(x.a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC),
              _mm256_round_ps(x.b, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
KERN __m256 vscale8(__m256 a, __m256 n)
{
    __m256i e = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
    return _mm256_mul_ps(a, _mm256_castsi256_ps(e));
}
KERN v16 vscale(v16 x, v16 n)
{
    return V2(vscale8(x.a, n.a), vscale8(x.b, n.b));
}
KERN __m256 vbf16_8(const uint16_t *p)
{
    return _mm256_castsi256_ps(
        _mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const void *)p)), 16));
}
KERN v16 vbf16(const uint16_t *p)
{
    return V2(vbf16_8(p), vbf16_8(p + 8));
}
KERN __m256i vround_bf16_8(__m256 a)
{
    __m256i u = _mm256_castps_si256(a);
    __m256i odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
    return _mm256_srli_epi32(_mm256_add_epi32(_mm256_add_epi32(u, _mm256_set1_epi32(0x7fff)), odd), 16);
}
KERN void vto_bf16(uint16_t *p, v16 x)
{
    __m256i both = _mm256_packus_epi32(vround_bf16_8(x.a), vround_bf16_8(x.b));
    _mm256_storeu_si256((void *)p, _mm256_permute4x64_epi64(both, 0xd8));
}
KERN v16 vround_bf16(v16 x)
{
    return V2(_mm256_castsi256_ps(_mm256_slli_epi32(vround_bf16_8(x.a), 16)),
              _mm256_castsi256_ps(_mm256_slli_epi32(vround_bf16_8(x.b), 16)));
}
KERN __m256 vhalves(v16 x)
{
    return _mm256_add_ps(x.a, x.b);
}
KERN unsigned vabove(v16 x, v16 y)
{
    return (unsigned)_mm256_movemask_ps(_mm256_cmp_ps(x.a, y.a, _CMP_GT_OQ)) |
           (unsigned)_mm256_movemask_ps(_mm256_cmp_ps(x.b, y.b, _CMP_GT_OQ)) << 8;
}
KERN unsigned vnan(v16 x)
{
    return (unsigned)_mm256_movemask_ps(_mm256_cmp_ps(x.a, x.a, _CMP_UNORD_Q)) |
           (unsigned)_mm256_movemask_ps(_mm256_cmp_ps(x.b, x.b, _CMP_UNORD_Q)) << 8;
}
/* 16 consecutive FP8 values, exactly: as F16 of the same exponent field, E4M3 2^8 too small. */
#define V16_HAS_FP8
KERN v16 vf16(__m256i h)
{
    return V2(_mm256_cvtph_ps(_mm256_castsi256_si128(h)), _mm256_cvtph_ps(_mm256_extracti128_si256(h, 1)));
}
KERN v16 ve5m2(const uint8_t *p)
{
    return vf16(_mm256_slli_epi16(_mm256_cvtepu8_epi16(_mm_loadu_si128((const void *)p)), 8));
}
KERN v16 ve4m3(const uint8_t *p)
{
    __m256i h = _mm256_slli_epi16(_mm256_cvtepu8_epi16(_mm_loadu_si128((const void *)p)), 8);
    h = _mm256_and_si256(_mm256_srai_epi16(h, 1), _mm256_set1_epi16((short)0xbfff)); /* s0eeeemmm0... */
    __m256i largest = _mm256_set1_epi16(0x3f80);
    __m256i nan = _mm256_cmpeq_epi16(_mm256_and_si256(h, largest), largest);
    return vmul(vf16(_mm256_or_si256(h, nan)), vset(256));
}

#elif defined(__ARM_NEON) && defined(__aarch64__)
#define V16_IS_REGISTER 0

#include <arm_neon.h>

typedef struct {
    float32x4_t v[4];
} v16;
#define V4(expr)                                                                                             \
    v16 r;                                                                                                   \
    for (int i = 0; i < 4; i++) r.v[i] = (expr);                                                             \
    return r
KERN v16 vset(float x)
{
    V4(vdupq_n_f32(x));
}
KERN v16 vzero(void)
{
    return vset(0);
}
KERN v16 vload(const float *p)
{
    V4(vld1q_f32(p + 4 * i));
}
KERN void vstore(float *p, v16 a)
{
    for (int i = 0; i < 4; i++) vst1q_f32(p + 4 * i, a.v[i]);
}
KERN v16 vload_part(const float *p, int n)
{
    float t[16] = {0};
    memcpy(t, p, (size_t)n * sizeof *t);
    return vload(t);
}
KERN void vstore_part(float *p, v16 a, int n)
{
    float t[16];
    vstore(t, a);
    memcpy(p, t, (size_t)n * sizeof *t);
}
KERN v16 vadd(v16 a, v16 b)
{
    V4(vaddq_f32(a.v[i], b.v[i]));
}
KERN v16 vsub(v16 a, v16 b)
{
    V4(vsubq_f32(a.v[i], b.v[i]));
}
KERN v16 vmul(v16 a, v16 b)
{
    V4(vmulq_f32(a.v[i], b.v[i]));
}
KERN v16 vdiv(v16 a, v16 b)
{
    V4(vdivq_f32(a.v[i], b.v[i]));
}
KERN v16 vmax(v16 a, v16 b) /* b where either is NaN, as elsewhere */
{
    V4(vbslq_f32(vcgtq_f32(a.v[i], b.v[i]), a.v[i], b.v[i]));
}
KERN v16 vmin(v16 a, v16 b)
{
    V4(vbslq_f32(vcltq_f32(a.v[i], b.v[i]), a.v[i], b.v[i]));
}
KERN v16 vfma(v16 a, v16 b, v16 c)
{
    V4(vfmaq_f32(c.v[i], a.v[i], b.v[i]));
}
KERN v16 vround(v16 a)
{
    V4(vrndnq_f32(a.v[i]));
}
/* a * 2^n for integral n in [-126, 127] */
KERN v16 vscale(v16 a, v16 n)
{
    V4(vmulq_f32(a.v[i],
                 vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(vcvtq_s32_f32(n.v[i]), vdupq_n_s32(127)), 23))));
}
KERN v16 vbf16(const uint16_t *p)
{
    V4(vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p + 4 * i), 16)));
}
KERN uint32x4_t vbf16_bits(float32x4_t a) /* in the upper halves */
{
    uint32x4_t u = vreinterpretq_u32_f32(a), odd = vandq_u32(vshrq_n_u32(u, 16), vdupq_n_u32(1));
    return vaddq_u32(vaddq_u32(u, vdupq_n_u32(0x7fff)), odd);
}
KERN void vto_bf16(uint16_t *p, v16 a) /* nearest even; NaN is not expected */
{
    for (int i = 0; i < 4; i++) vst1_u16(p + 4 * i, vshrn_n_u32(vbf16_bits(a.v[i]), 16));
}
KERN v16 vround_bf16(v16 a)
{
    V4(vreinterpretq_f32_u32(vandq_u32(vbf16_bits(a.v[i]), vdupq_n_u32(0xffff0000))));
}
/* A bit a lane. */
KERN unsigned vbits(uint32x4_t m, int i)
{
    static const uint32_t bit[4] = {1, 2, 4, 8};
    return vaddvq_u32(vandq_u32(m, vld1q_u32(bit))) << 4 * i;
}
KERN unsigned vabove(v16 a, v16 b)
{
    unsigned m = 0;
    for (int i = 0; i < 4; i++) m |= vbits(vcgtq_f32(a.v[i], b.v[i]), i);
    return m;
}
KERN unsigned vnan(v16 a)
{
    unsigned m = 0;
    for (int i = 0; i < 4; i++) m |= vbits(vmvnq_u32(vceqq_f32(a.v[i], a.v[i])), i);
    return m;
}

#else
#define V16_IS_REGISTER 0

typedef struct {
    float f[16];
} v16;
#define V16_EACH(expr)                                                                                       \
    v16 r;                                                                                                   \
    for (int i = 0; i < 16; i++) r.f[i] = (expr);                                                            \
    return r
KERN v16 vset(float x)
{
    V16_EACH(x);
}
KERN v16 vzero(void)
{
    return vset(0);
}
KERN v16 vload(const float *p)
{
    V16_EACH(p[i]);
}
KERN void vstore(float *p, v16 a)
{
    memcpy(p, a.f, sizeof a.f);
}
KERN v16 vload_part(const float *p, int n)
{
    V16_EACH(i < n ? p[i] : 0);
}
KERN void vstore_part(float *p, v16 a, int n)
{
    memcpy(p, a.f, (size_t)n * sizeof *p);
}
KERN v16 vadd(v16 a, v16 b)
{
    V16_EACH(a.f[i] + b.f[i]);
}
KERN v16 vsub(v16 a, v16 b)
{
    V16_EACH(a.f[i] - b.f[i]);
}
KERN v16 vmul(v16 a, v16 b)
{
    V16_EACH(a.f[i] * b.f[i]);
}
KERN v16 vdiv(v16 a, v16 b)
{
    V16_EACH(a.f[i] / b.f[i]);
}
KERN v16 vmax(v16 a, v16 b)
{
    V16_EACH(a.f[i] > b.f[i] ? a.f[i] : b.f[i]);
}
KERN v16 vmin(v16 a, v16 b)
{
    V16_EACH(a.f[i] < b.f[i] ? a.f[i] : b.f[i]);
}
KERN v16 vfma(v16 a, v16 b, v16 c)
{
    V16_EACH(a.f[i] * b.f[i] + c.f[i]);
}
KERN v16 vround(v16 a)
{
    V16_EACH(rintf(a.f[i]));
}
KERN v16 vscale(v16 a, v16 n)
{
    V16_EACH(ldexpf(a.f[i], (int)n.f[i]));
}
KERN float bf16_at(uint32_t bits)
{
    float f;
    memcpy(&f, &bits, 4);
    return f;
}
KERN v16 vbf16(const uint16_t *p)
{
    V16_EACH(bf16_at((uint32_t)p[i] << 16));
}
KERN void vto_bf16(uint16_t *p, v16 a)
{
    for (int i = 0; i < 16; i++) {
        uint32_t u;
        memcpy(&u, &a.f[i], 4);
        p[i] = (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
    }
}
KERN v16 vround_bf16(v16 a)
{
    uint16_t half[16];
    vto_bf16(half, a);
    return vbf16(half);
}
KERN unsigned vabove(v16 a, v16 b)
{
    unsigned m = 0;
    for (int i = 0; i < 16; i++) m |= (unsigned)(a.f[i] > b.f[i]) << i;
    return m;
}
KERN unsigned vnan(v16 a)
{
    unsigned m = 0;
    for (int i = 0; i < 16; i++) m |= (unsigned)isnan(a.f[i]) << i;
    return m;
}

#endif

/* Sum and largest of the lanes, in one order everywhere: halves, quarters, pairs. */
KERN float vsum(v16 a)
{
#ifdef __AVX2__
    __m256 e = vhalves(a);
    __m128 q = _mm_add_ps(_mm256_castps256_ps128(e), _mm256_extractf128_ps(e, 1));
    q = _mm_add_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_add_ss(q, _mm_movehdup_ps(q)));
#else
    float f[16];
    vstore(f, a);
    for (int half = 8; half; half /= 2)
        for (int i = 0; i < half; i++) f[i] += f[i + half];
    return f[0];
#endif
}
KERN float vlargest(v16 a)
{
    float f[16];
    vstore(f, a);
    for (int i = 1; i < 16; i++)
        if (f[i] > f[0]) f[0] = f[i];
    return f[0];
}

/* exp, relative error below 2e-7 in [-87, 88]; below that 0 within 1e-37, above clamped. */
KERN v16 vexp(v16 x)
{
    x = vmax(vmin(x, vset(88.0f)), vset(-87.3f));
    v16 n = vround(vmul(x, vset(1.44269504f)));
    v16 r = vfma(n, vset(-0.693359375f), x);
    r = vfma(n, vset(2.12194440e-4f), r);
    v16 p = vset(1.9875691500e-4f);
    p = vfma(p, r, vset(1.3981999507e-3f));
    p = vfma(p, r, vset(8.3334519073e-3f));
    p = vfma(p, r, vset(4.1665795894e-2f));
    p = vfma(p, r, vset(1.6666665459e-1f));
    p = vfma(p, r, vset(5.0000001201e-1f));
    p = vadd(vfma(vmul(r, r), p, r), vset(1.0f));
    return vscale(p, n);
}
KERN v16 vsigmoid(v16 x)
{
    return vdiv(vset(1.0f), vadd(vset(1.0f), vexp(vsub(vzero(), x))));
}
KERN v16 vsilu(v16 x)
{
    return vmul(x, vsigmoid(x));
}

#endif
