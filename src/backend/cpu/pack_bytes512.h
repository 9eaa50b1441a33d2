/* Bytes and whole numbers in 512 bits, for both sets that have them (pack_body.h says what they are).
 * SPDX-License-Identifier: Apache-2.0 */
typedef __m512i vint;
typedef __m512i vbytes;
INLINE vint vint_set1(int32_t x)
{
    return _mm512_set1_epi32(x);
}
INLINE vacc vacc_of(vint v)
{
    return _mm512_cvtepi32_ps(v);
}
INLINE vbytes bytes_load(const unsigned char *p)
{
    return _mm512_loadu_si512(p);
}
INLINE vbytes bytes_low(vbytes v)
{
    return _mm512_and_si512(v, _mm512_set1_epi8(15));
}
INLINE vbytes bytes_high(vbytes v)
{
    return _mm512_and_si512(_mm512_srli_epi16(v, 4), _mm512_set1_epi8(15));
}
INLINE vbytes bytes_e2m1(vbytes code)
{
    return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)pack_e2m1_int8)),
                               code);
}
