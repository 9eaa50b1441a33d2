/* Packed linear layers with NEON: a lane vector is four registers, weights widened to float, one fused
 * multiply-add a k; products of 8-bit activations by sdot. SPDX-License-Identifier: Apache-2.0 */
#if defined(__aarch64__)
#include <arm_neon.h>

#include "backend/cpu/pack_impl.h"

typedef struct {
    float32x4_t v[4];
} vacc;
typedef struct {
    vacc even, odd;
} vpair;
typedef struct {
    float32x4_t even, odd;
} vx;
typedef struct {
    uint8x16_t low, high; /* bytes of the 16 entries */
} table_type;
typedef struct {
    int32x4_t v[4];
} vint;
typedef struct {
    uint8x16_t v[4];
} vbytes;

#define INLINE static inline __attribute__((always_inline))
#define FOUR(type, expr)                                                                                     \
    type r;                                                                                                  \
    for (int i = 0; i < 4; i++) r.v[i] = (expr);                                                             \
    return r

INLINE vacc vacc_set1(float x)
{
    FOUR(vacc, vdupq_n_f32(x));
}
INLINE vacc vacc_zero(void)
{
    return vacc_set1(0);
}
INLINE vacc vacc_load(const float *p)
{
    FOUR(vacc, vld1q_f32(p + 4 * i));
}
INLINE void vacc_store(float *p, vacc v)
{
    for (int i = 0; i < 4; i++) vst1q_f32(p + 4 * i, v.v[i]);
}
INLINE vacc vacc_fma(vacc a, vacc b, vacc c)
{
    FOUR(vacc, vfmaq_f32(c.v[i], a.v[i], b.v[i]));
}
INLINE vacc vacc_mul(vacc a, vacc b)
{
    FOUR(vacc, vmulq_f32(a.v[i], b.v[i]));
}
INLINE vacc vacc_dot(vacc acc, vpair w, vx x)
{
    FOUR(vacc, vfmaq_f32(vfmaq_f32(acc.v[i], w.even.v[i], x.even), w.odd.v[i], x.odd));
}
INLINE vx vx_load(const unsigned char *row, int pair)
{
    const float *x = (const float *)(const void *)row + 2 * pair;
    return (vx){vdupq_n_f32(x[0]), vdupq_n_f32(x[1])};
}
/* Quarter i of 32 words of BF16. */
INLINE void from_bf16(uint8x16_t words, vpair *w, int i)
{
    uint32x4_t u = vreinterpretq_u32_u8(words);
    w->even.v[i] = vreinterpretq_f32_u32(vshlq_n_u32(u, 16));
    w->odd.v[i] = vreinterpretq_f32_u32(vandq_u32(u, vdupq_n_u32(0xffff0000)));
}
INLINE vpair pair_f32(const unsigned char *unit)
{
    const float *p = (const float *)(const void *)unit;
    return (vpair){vacc_load(p), vacc_load(p + 16)};
}
INLINE vpair pair_bf16(const unsigned char *unit)
{
    vpair w;
    for (int i = 0; i < 4; i++) from_bf16(vld1q_u8(unit + 16 * i), &w, i);
    return w;
}
INLINE float32x4_t from_e4m3(uint32x4_t code)
{
    uint32x4_t bits = vshlq_n_u32(vandq_u32(code, vdupq_n_u32(0x7f)), 20);
    bits = vorrq_u32(bits, vshlq_n_u32(vandq_u32(code, vdupq_n_u32(0x80)), 24));
    return vmulq_f32(vreinterpretq_f32_u32(bits), vdupq_n_f32(0x1p120f));
}
INLINE vpair pair_fp8(const unsigned char *unit, int pair)
{
    vpair w;
    for (int i = 0; i < 4; i++) {
        uint32x4_t u = vreinterpretq_u32_u16(vmovl_u8(vld1_u8(unit + pair * 32 + 8 * i)));
        w.even.v[i] = from_e4m3(u);
        w.odd.v[i] = from_e4m3(vshrq_n_u32(u, 16));
    }
    return w;
}
INLINE vpair pair_int8(const unsigned char *unit, int pair)
{
    vpair w;
    for (int i = 0; i < 4; i++) {
        int32x4_t s = vreinterpretq_s32_s16(vmovl_s8(vreinterpret_s8_u8(vld1_u8(unit + pair * 32 + 8 * i))));
        w.even.v[i] = vcvtq_f32_s32(vshrq_n_s32(vshlq_n_s32(s, 16), 16));
        w.odd.v[i] = vcvtq_f32_s32(vshrq_n_s32(s, 16));
    }
    return w;
}
INLINE table_type table_load(const uint16_t *table)
{
    uint8x16x2_t bytes = vld2q_u8((const uint8_t *)table);
    return (table_type){bytes.val[0], bytes.val[1]};
}
INLINE vpair pair_nib4(const unsigned char *unit, int pair, table_type table)
{
    vpair w;
    for (int i = 0; i < 4; i++) {
        uint16x8_t words = vreinterpretq_u16_u8(vld1q_u8(unit + 16 * i));
        uint16x8_t index = vandq_u16(vshlq_u16(words, vdupq_n_s16((int16_t)(-4 * pair))), vdupq_n_u16(15));
        uint8x16_t both = vreinterpretq_u8_u16(vorrq_u16(index, vshlq_n_u16(index, 8))); /* in both bytes */
        from_bf16(vbslq_u8(vreinterpretq_u8_u16(vdupq_n_u16(0xff)), vqtbl1q_u8(table.low, both),
                           vqtbl1q_u8(table.high, both)),
                  &w, i);
    }
    return w;
}
/* Quarter i of 16 bytes, widened. */
INLINE uint32x4_t quarter(uint8x16_t bytes, int i)
{
    uint16x8_t half = i < 2 ? vmovl_u8(vget_low_u8(bytes)) : vmovl_high_u8(bytes);
    return i & 1 ? vmovl_high_u16(half) : vmovl_u16(vget_low_u16(half));
}
INLINE vacc scale_e4m3(const unsigned char *p)
{
    uint8x16_t bytes = vld1q_u8(p);
    FOUR(vacc, from_e4m3(quarter(bytes, i)));
}
INLINE vacc scale_f16(const unsigned char *p)
{
    FOUR(vacc, vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(p + 8 * i))));
}
INLINE vacc scale_bf16(const unsigned char *p)
{
    FOUR(vacc, vreinterpretq_f32_u32(vshll_n_u16(vreinterpret_u16_u8(vld1_u8(p + 8 * i)), 16)));
}
INLINE vacc zero_load(const signed char *p)
{
    uint8x16_t bytes = veorq_u8(vreinterpretq_u8_s8(vld1q_s8(p)), vdupq_n_u8(0x80)); /* + 128 */
    FOUR(vacc, vcvtq_f32_s32(vsubq_s32(vreinterpretq_s32_u32(quarter(bytes, i)), vdupq_n_s32(128))));
}
INLINE vint vint_set1(int32_t x)
{
    FOUR(vint, vdupq_n_s32(x));
}
INLINE vacc vacc_of(vint v)
{
    FOUR(vacc, vcvtq_f32_s32(v.v[i]));
}
INLINE vbytes bytes_load(const unsigned char *p)
{
    FOUR(vbytes, vld1q_u8(p + 16 * i));
}
INLINE vbytes bytes_low(vbytes v)
{
    FOUR(vbytes, vandq_u8(v.v[i], vdupq_n_u8(15)));
}
INLINE vbytes bytes_high(vbytes v)
{
    FOUR(vbytes, vshrq_n_u8(v.v[i], 4));
}
INLINE vbytes bytes_e2m1(vbytes code)
{
    uint8x16_t table = vld1q_u8(pack_e2m1_int8);
    FOUR(vbytes, vqtbl1q_u8(table, code.v[i]));
}
INLINE int32x4_t four_dot(int32x4_t acc, uint8x16_t w, int8x16_t x, bool is_small)
{
    if (is_small) return vdotq_s32(acc, vreinterpretq_s8_u8(w), x);
    /* the highest bit on its own: as a signed byte it is -128 */
    uint8x16_t top = vandq_u8(w, vdupq_n_u8(0x80));
    acc = vdotq_s32(acc, vreinterpretq_s8_u8(veorq_u8(w, top)), x);
    return vsubq_s32(acc, vdotq_s32(vdupq_n_s32(0), vreinterpretq_s8_u8(top), x));
}
INLINE vint vint_dot(vint acc, vbytes w, const int8_t *x, bool is_small)
{
    int32_t bits;
    memcpy(&bits, x, 4);
    int8x16_t all = vreinterpretq_s8_s32(vdupq_n_s32(bits));
    FOUR(vint, four_dot(acc.v[i], w.v[i], all, is_small));
}
#undef FOUR
#undef INLINE

#define DIRECT_TILES   2
#define DIRECT_ROWS    2
#define FEW_ROWS(kind) 8
#define HAS_ROOM       0
#define DECODED_ROWS   2
#define CODES_AHEAD    512 /* bytes */
#define HAS_F32        1
#define RUN            pack_run_neon
#include "backend/cpu/pack_body.h"
#endif
