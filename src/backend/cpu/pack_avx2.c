/* Packed linear layers with AVX2 and FMA: a lane vector is two registers of eight.
 * SPDX-License-Identifier: Apache-2.0 */
#if defined(__AVX2__)
#include <immintrin.h>

#include "backend/cpu/pack_impl.h"

typedef struct {
    __m256 a, b; /* lanes 0..7, 8..15 */
} vacc;
typedef struct {
    vacc even, odd;
} vpair;
typedef struct {
    __m256 even, odd;
} vx;
typedef struct {
    __m256i low, high; /* bytes of the 16 entries, in both 128-bit lanes */
} table_type;

#define INLINE static inline __attribute__((always_inline))

INLINE vacc vacc_zero(void)
{
    return (vacc){_mm256_setzero_ps(), _mm256_setzero_ps()};
}
INLINE vacc vacc_load(const float *p)
{
    return (vacc){_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)};
}
INLINE void vacc_store(float *p, vacc v)
{
    _mm256_storeu_ps(p, v.a);
    _mm256_storeu_ps(p + 8, v.b);
}
INLINE vacc vacc_set1(float x)
{
    return (vacc){_mm256_set1_ps(x), _mm256_set1_ps(x)};
}
INLINE vacc vacc_fma(vacc x, vacc y, vacc z)
{
    return (vacc){_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
}
INLINE vacc vacc_mul(vacc x, vacc y)
{
    return (vacc){_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)};
}
INLINE vacc vacc_dot(vacc acc, vpair w, vx x)
{
    acc.a = _mm256_fmadd_ps(w.odd.a, x.odd, _mm256_fmadd_ps(w.even.a, x.even, acc.a));
    acc.b = _mm256_fmadd_ps(w.odd.b, x.odd, _mm256_fmadd_ps(w.even.b, x.even, acc.b));
    return acc;
}
INLINE vx vx_load(const unsigned char *row, int pair)
{
    const float *x = (const float *)row + 2 * pair;
    return (vx){_mm256_set1_ps(x[0]), _mm256_set1_ps(x[1])};
}
INLINE vpair from_bf16(__m256i a, __m256i b)
{
    const __m256i mask = _mm256_set1_epi32((int)0xffff0000);
    return (vpair){{(__m256)_mm256_slli_epi32(a, 16), (__m256)_mm256_slli_epi32(b, 16)},
                   {(__m256)_mm256_and_si256(a, mask), (__m256)_mm256_and_si256(b, mask)}};
}
INLINE vpair pair_f32(const unsigned char *unit)
{
    return (vpair){vacc_load((const float *)unit), vacc_load((const float *)unit + 16)};
}
INLINE vpair pair_bf16(const unsigned char *unit)
{
    return from_bf16(_mm256_loadu_si256((const __m256i *)unit),
                     _mm256_loadu_si256((const __m256i *)(unit + 32)));
}
INLINE __m256 from_e4m3(__m256i lanes)
{
    __m256i bits = _mm256_slli_epi32(_mm256_and_si256(lanes, _mm256_set1_epi32(0x7f)), 20);
    bits = _mm256_or_si256(bits, _mm256_slli_epi32(_mm256_and_si256(lanes, _mm256_set1_epi32(0x80)), 24));
    return _mm256_mul_ps((__m256)bits, _mm256_set1_ps(0x1p120f));
}
INLINE vpair pair_fp8(const unsigned char *unit, int pair)
{
    __m256i a = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)(unit + pair * 32)));
    __m256i b = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)(unit + pair * 32 + 16)));
    return (vpair){{from_e4m3(a), from_e4m3(b)},
                   {from_e4m3(_mm256_srli_epi32(a, 16)), from_e4m3(_mm256_srli_epi32(b, 16))}};
}
INLINE vpair pair_int8(const unsigned char *unit, int pair)
{
    __m256i a = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(unit + pair * 32)));
    __m256i b = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(unit + pair * 32 + 16)));
    return (vpair){
        {_mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_slli_epi32(a, 16), 16)),
         _mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_slli_epi32(b, 16), 16))},
        {_mm256_cvtepi32_ps(_mm256_srai_epi32(a, 16)), _mm256_cvtepi32_ps(_mm256_srai_epi32(b, 16))}};
}
INLINE table_type table_load(const uint16_t *table)
{
    __m128i first = _mm_loadu_si128((const __m128i *)table),
            second = _mm_loadu_si128((const __m128i *)(table + 8));
    const __m128i mask = _mm_set1_epi16(0xff);
    __m128i low = _mm_packus_epi16(_mm_and_si128(first, mask), _mm_and_si128(second, mask));
    __m128i high = _mm_packus_epi16(_mm_srli_epi16(first, 8), _mm_srli_epi16(second, 8));
    return (table_type){_mm256_broadcastsi128_si256(low), _mm256_broadcastsi128_si256(high)};
}
INLINE __m256i look_up(__m256i words, int pair, table_type table)
{
    __m256i index = _mm256_and_si256(_mm256_srli_epi16(words, 4 * pair), _mm256_set1_epi16(15));
    index = _mm256_or_si256(index, _mm256_slli_epi16(index, 8)); /* the code in both bytes */
    __m256i low = _mm256_shuffle_epi8(table.low, index), high = _mm256_shuffle_epi8(table.high, index);
    return _mm256_blendv_epi8(low, high, _mm256_set1_epi16((short)0xff00));
}
INLINE vpair pair_nib4(const unsigned char *unit, int pair, table_type table)
{
    return from_bf16(look_up(_mm256_loadu_si256((const __m256i *)unit), pair, table),
                     look_up(_mm256_loadu_si256((const __m256i *)(unit + 32)), pair, table));
}
INLINE __m256 eight_e4m3(const unsigned char *p)
{
    return from_e4m3(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)p)));
}
INLINE vacc scale_e4m3(const unsigned char *p)
{
    return (vacc){eight_e4m3(p), eight_e4m3(p + 8)};
}
INLINE vacc scale_f16(const unsigned char *p)
{
    return (vacc){_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)),
                  _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(p + 16)))};
}
INLINE __m256 eight_bf16(const unsigned char *p)
{
    return (__m256)_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p)), 16);
}
INLINE vacc scale_bf16(const unsigned char *p)
{
    return (vacc){eight_bf16(p), eight_bf16(p + 16)};
}
INLINE __m256 eight_int8(const signed char *p)
{
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)p)));
}
INLINE vacc zero_load(const signed char *p)
{
    return (vacc){eight_int8(p), eight_int8(p + 8)};
}
typedef struct {
    __m256i a, b;
} vint;
typedef vint vbytes;
INLINE vint vint_set1(int32_t x)
{
    return (vint){_mm256_set1_epi32(x), _mm256_set1_epi32(x)};
}
INLINE vacc vacc_of(vint v)
{
    return (vacc){_mm256_cvtepi32_ps(v.a), _mm256_cvtepi32_ps(v.b)};
}
INLINE vbytes bytes_load(const unsigned char *p)
{
    return (vbytes){_mm256_loadu_si256((const __m256i *)p), _mm256_loadu_si256((const __m256i *)(p + 32))};
}
INLINE vbytes bytes_low(vbytes v)
{
    const __m256i mask = _mm256_set1_epi8(15);
    return (vbytes){_mm256_and_si256(v.a, mask), _mm256_and_si256(v.b, mask)};
}
INLINE vbytes bytes_high(vbytes v)
{
    return bytes_low((vbytes){_mm256_srli_epi16(v.a, 4), _mm256_srli_epi16(v.b, 4)});
}
INLINE vbytes bytes_e2m1(vbytes code)
{
    const __m256i table = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)pack_e2m1_int8));
    return (vbytes){_mm256_shuffle_epi8(table, code.a), _mm256_shuffle_epi8(table, code.b)};
}
INLINE __m256i eight_dot(__m256i acc, __m256i w, __m256i x, bool is_small)
{
    const __m256i one = _mm256_set1_epi16(1);
    if (is_small) return _mm256_add_epi32(acc, _mm256_madd_epi16(_mm256_maddubs_epi16(w, x), one));
    /* two products of a byte can exceed 16 bits: its highest bit on its own */
    __m256i top = _mm256_and_si256(w, _mm256_set1_epi8((char)0x80));
    acc = _mm256_add_epi32(acc, _mm256_madd_epi16(_mm256_maddubs_epi16(_mm256_xor_si256(w, top), x), one));
    return _mm256_add_epi32(acc, _mm256_madd_epi16(_mm256_maddubs_epi16(top, x), one));
}
INLINE vint vint_dot(vint acc, vbytes w, const int8_t *x, bool is_small)
{
    int32_t bits;
    memcpy(&bits, x, 4);
    __m256i all = _mm256_set1_epi32(bits);
    return (vint){eight_dot(acc.a, w.a, all, is_small), eight_dot(acc.b, w.b, all, is_small)};
}
#undef INLINE

#define DIRECT_TILES   4
#define DIRECT_ROWS    2
#define FEW_ROWS(kind) 8
#define HAS_ROOM       0
#define DECODED_ROWS   2
#define CODES_AHEAD    1024 /* bytes */
#define HAS_F32        1
#define RUN            pack_run_avx2
#include "backend/cpu/pack_body.h"
#endif
