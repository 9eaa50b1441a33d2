/* Packed linear layers with AVX-512: weights widened to float, one fused multiply-add a k.
 * SPDX-License-Identifier: Apache-2.0 */
#if defined(__AVX512F__)
#include <immintrin.h>

#include "backend/cpu/pack_impl.h"

typedef __m512 vacc;
typedef struct {
    __m512 even, odd;
} vpair;
typedef struct {
    __m512 even, odd;
} vx;
typedef __m512i table_type;

#define INLINE static inline __attribute__((always_inline))

INLINE vacc vacc_zero(void)
{
    return _mm512_setzero_ps();
}
INLINE vacc vacc_load(const float *p)
{
    return _mm512_loadu_ps(p);
}
INLINE void vacc_store(float *p, vacc v)
{
    _mm512_storeu_ps(p, v);
}
INLINE vacc vacc_set1(float x)
{
    return _mm512_set1_ps(x);
}
INLINE vacc vacc_fma(vacc a, vacc b, vacc c)
{
    return _mm512_fmadd_ps(a, b, c);
}
INLINE vacc vacc_mul(vacc a, vacc b)
{
    return _mm512_mul_ps(a, b);
}
INLINE vacc vacc_dot(vacc acc, vpair w, vx x)
{
    return _mm512_fmadd_ps(w.odd, x.odd, _mm512_fmadd_ps(w.even, x.even, acc));
}
INLINE vx vx_load(const unsigned char *row, int pair)
{
    const float *x = (const float *)row + 2 * pair;
    return (vx){_mm512_set1_ps(x[0]), _mm512_set1_ps(x[1])};
}
/* 32 words of BF16 */
INLINE vpair from_bf16(__m512i words)
{
    return (vpair){(__m512)_mm512_slli_epi32(words, 16),
                   (__m512)_mm512_and_si512(words, _mm512_set1_epi32((int)0xffff0000))};
}
INLINE vpair pair_f32(const unsigned char *unit)
{
    return (vpair){_mm512_loadu_ps((const float *)unit), _mm512_loadu_ps((const float *)unit + 16)};
}
INLINE vpair pair_bf16(const unsigned char *unit)
{
    return from_bf16(_mm512_loadu_si512(unit));
}
/* E4M3 in the low byte of each lane: exponent and mantissa moved into place, then times 2^120 (exact) */
INLINE __m512 from_e4m3(__m512i lanes)
{
    __m512i bits = _mm512_slli_epi32(_mm512_and_si512(lanes, _mm512_set1_epi32(0x7f)), 20);
    bits = _mm512_or_si512(bits, _mm512_slli_epi32(_mm512_and_si512(lanes, _mm512_set1_epi32(0x80)), 24));
    return _mm512_mul_ps((__m512)bits, _mm512_set1_ps(0x1p120f));
}
INLINE vpair pair_fp8(const unsigned char *unit, int pair)
{
    __m512i words = _mm512_cvtepu8_epi16(_mm256_loadu_si256((const __m256i *)(unit + pair * 32)));
    return (vpair){from_e4m3(words), from_e4m3(_mm512_srli_epi32(words, 16))};
}
INLINE vpair pair_int8(const unsigned char *unit, int pair)
{
    __m512i words = _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i *)(unit + pair * 32)));
    return (vpair){_mm512_cvtepi32_ps(_mm512_srai_epi32(_mm512_slli_epi32(words, 16), 16)),
                   _mm512_cvtepi32_ps(_mm512_srai_epi32(words, 16))};
}
INLINE table_type table_load(const uint16_t *table)
{
    return _mm512_loadu_si512(table);
}
INLINE vpair pair_nib4(const unsigned char *unit, int pair, table_type table)
{
    __m512i words = _mm512_loadu_si512(unit);
    return from_bf16(
        _mm512_permutexvar_epi16(pair ? _mm512_srli_epi16(words, 4 * (unsigned)pair) : words, table));
}
INLINE vacc scale_e4m3(const unsigned char *p)
{
    __m512i bits = _mm512_slli_epi32(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p)), 20);
    return _mm512_mul_ps((__m512)bits, _mm512_set1_ps(0x1p120f));
}
INLINE vacc scale_f16(const unsigned char *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}
INLINE vacc scale_bf16(const unsigned char *p)
{
    return (__m512)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p)), 16);
}
INLINE vacc zero_load(const signed char *p)
{
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p)));
}
#include "backend/cpu/pack_bytes512.h"
INLINE vint vint_dot(vint acc, vbytes w, const int8_t *x, bool is_small)
{
    int32_t bits;
    memcpy(&bits, x, 4);
    __m512i all = _mm512_set1_epi32(bits), one = _mm512_set1_epi16(1);
    if (is_small) return _mm512_add_epi32(acc, _mm512_madd_epi16(_mm512_maddubs_epi16(w, all), one));
    /* two products of a byte can exceed 16 bits: its highest bit on its own */
    __m512i top = _mm512_and_si512(w, _mm512_set1_epi8((char)0x80));
    acc = _mm512_add_epi32(acc, _mm512_madd_epi16(_mm512_maddubs_epi16(_mm512_xor_si512(w, top), all), one));
    return _mm512_add_epi32(acc, _mm512_madd_epi16(_mm512_maddubs_epi16(top, all), one));
}
#undef INLINE

#define DIRECT_TILES   8
#define DIRECT_ROWS    6
#define FEW_ROWS(kind) 8
#define HAS_ROOM       0
#define DECODED_ROWS   12
#define CODES_AHEAD    2048 /* bytes */
#define HAS_F32        1
#define RUN            pack_run_avx512
#include "backend/cpu/pack_body.h"
#endif
