/* Packed linear layers with AVX512-BF16 (and VBMI): products of BF16 pairs summed in float by vdpbf16ps.
 * SPDX-License-Identifier: Apache-2.0 */
#if defined(__AVX512BF16__)
#include <immintrin.h>
#include <limits.h>

#include "backend/cpu/pack_impl.h"

typedef __m512 vacc;
typedef __m512i vpair;
typedef __m512i vx;
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
    return _mm512_dpbf16_ps(acc, (__m512bh)w, (__m512bh)x);
}
INLINE vx vx_load(const unsigned char *row, int pair)
{
    int32_t bits;
    memcpy(&bits, row + (size_t)pair * 4, 4);
    return _mm512_set1_epi32(bits);
}
INLINE vpair pair_f32(const unsigned char *unit)
{
    (void)unit;
    return _mm512_setzero_si512(); /* float weights run on the avx512 kernels */
}
INLINE vpair pair_bf16(const unsigned char *unit)
{
    return _mm512_loadu_si512(unit);
}
INLINE vpair pair_fp8(const unsigned char *unit, int pair)
{
    __m512i code = _mm512_loadu_si512(unit);
    __m512i high = _mm512_permutex2var_epi8(_mm512_loadu_si512(pack_fp8_high), code,
                                            _mm512_loadu_si512(pack_fp8_high + 64));
    __m512i low = _mm512_permutex2var_epi8(_mm512_loadu_si512(pack_fp8_low), code,
                                           _mm512_loadu_si512(pack_fp8_low + 64));
    high =
        _mm512_ternarylogic_epi32(high, code, _mm512_set1_epi8((char)0x80), 0xf8); /* high | (code & 0x80) */
    return pair ? _mm512_unpackhi_epi8(low, high) : _mm512_unpacklo_epi8(low, high);
}
/* int8 as sign and magnitude, so that a table of 128 serves; minus nought stands for -128 */
INLINE vpair pair_int8(const unsigned char *unit, int pair)
{
    __m512i code = _mm512_loadu_si512(unit);
    __m512i high = _mm512_permutex2var_epi8(_mm512_loadu_si512(pack_int8_high), code,
                                            _mm512_loadu_si512(pack_int8_high + 64));
    __m512i low = _mm512_permutex2var_epi8(_mm512_loadu_si512(pack_int8_low), code,
                                           _mm512_loadu_si512(pack_int8_low + 64));
    high = _mm512_ternarylogic_epi32(high, code, _mm512_set1_epi8((char)0x80), 0xf8);
    high = _mm512_mask_blend_epi8(_mm512_cmpeq_epi8_mask(code, _mm512_set1_epi8((char)0x80)), high,
                                  _mm512_set1_epi8((char)0xc3));
    return pair ? _mm512_unpackhi_epi8(low, high) : _mm512_unpacklo_epi8(low, high);
}
INLINE table_type table_load(const uint16_t *table)
{
    return _mm512_loadu_si512(table);
}
INLINE vpair pair_nib4(const unsigned char *unit, int pair, table_type table)
{
    __m512i words = _mm512_loadu_si512(unit); /* the index is the low 5 bits of a word; entries come twice */
    return _mm512_permutexvar_epi16(pair ? _mm512_srli_epi16(words, 4 * (unsigned)pair) : words, table);
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
    (void)is_small;
    int32_t bits;
    memcpy(&bits, x, 4);
    return _mm512_dpbusd_epi32(acc, w, _mm512_set1_epi32(bits));
}
#undef INLINE

#define DIRECT_TILES 8
#define DIRECT_ROWS  6
#define FEW_ROWS(kind)                                                                                       \
    ((kind) == PACK_NIB4 ? INT_MAX : 5) /* decoding nibbles costs less than storing what it gives */
#define HAS_ROOM     1
#define DECODED_ROWS 12
#define CODES_AHEAD  2048 /* bytes */
#define HAS_F32      0
#define RUN          pack_run_avx512bf16
#include "backend/cpu/pack_body.h"
#endif
