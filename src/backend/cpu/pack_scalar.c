/* Packed linear layers in plain C: the fallback, and the readable form of the kernels.
 * SPDX-License-Identifier: Apache-2.0 */
#include "backend/cpu/pack_impl.h"

typedef struct {
    float at[16];
} vacc;
typedef struct {
    float even[16], odd[16];
} vpair;
typedef struct {
    float even, odd;
} vx;
typedef const uint16_t *table_type;

static inline vacc vacc_set1(float x)
{
    vacc v;
    for (int i = 0; i < 16; i++) v.at[i] = x;
    return v;
}
static inline vacc vacc_zero(void)
{
    return vacc_set1(0);
}
static inline vacc vacc_load(const float *p)
{
    vacc v;
    memcpy(v.at, p, sizeof v.at);
    return v;
}
static inline void vacc_store(float *p, vacc v)
{
    memcpy(p, v.at, sizeof v.at);
}
static inline vacc vacc_fma(vacc a, vacc b, vacc c)
{
    for (int i = 0; i < 16; i++) c.at[i] = a.at[i] * b.at[i] + c.at[i];
    return c;
}
static inline vacc vacc_mul(vacc a, vacc b)
{
    for (int i = 0; i < 16; i++) a.at[i] *= b.at[i];
    return a;
}
static inline vacc vacc_dot(vacc acc, vpair w, vx x)
{
    for (int i = 0; i < 16; i++) acc.at[i] = acc.at[i] + w.even[i] * x.even;
    for (int i = 0; i < 16; i++) acc.at[i] = acc.at[i] + w.odd[i] * x.odd;
    return acc;
}
static inline vx vx_load(const unsigned char *row, int pair)
{
    const float *x = (const float *)row + 2 * pair;
    return (vx){x[0], x[1]};
}
static inline vpair pair_f32(const unsigned char *unit)
{
    vpair w;
    memcpy(w.even, unit, 64);
    memcpy(w.odd, unit + 64, 64);
    return w;
}
static inline uint16_t word(const unsigned char *p, int i)
{
    uint16_t w;
    memcpy(&w, p + 2 * i, 2);
    return w;
}
static inline vpair pair_bf16(const unsigned char *unit)
{
    vpair w;
    for (int i = 0; i < 16; i++) {
        w.even[i] = qn_bf16_to_f32(word(unit, 2 * i));
        w.odd[i] = qn_bf16_to_f32(word(unit, 2 * i + 1));
    }
    return w;
}
static inline float from_e4m3(uint8_t b)
{
    return qn_bf16_to_f32((uint16_t)(pack_fp8_high[b & 127] << 8 | pack_fp8_low[b & 127] | (b & 0x80) << 8));
}
static inline vpair pair_fp8(const unsigned char *unit, int pair)
{
    vpair w;
    for (int i = 0; i < 16; i++) {
        w.even[i] = from_e4m3(unit[pair * 32 + 2 * i]);
        w.odd[i] = from_e4m3(unit[pair * 32 + 2 * i + 1]);
    }
    return w;
}
static inline vpair pair_int8(const unsigned char *unit, int pair)
{
    vpair w;
    for (int i = 0; i < 16; i++) {
        w.even[i] = (signed char)unit[pair * 32 + 2 * i];
        w.odd[i] = (signed char)unit[pair * 32 + 2 * i + 1];
    }
    return w;
}
static inline table_type table_load(const uint16_t *table)
{
    return table;
}
static inline vpair pair_nib4(const unsigned char *unit, int pair, table_type table)
{
    vpair w;
    for (int i = 0; i < 16; i++) {
        w.even[i] = qn_bf16_to_f32(table[word(unit, 2 * i) >> 4 * pair & 15]);
        w.odd[i] = qn_bf16_to_f32(table[word(unit, 2 * i + 1) >> 4 * pair & 15]);
    }
    return w;
}
static inline vacc scale_e4m3(const unsigned char *p)
{
    vacc v;
    for (int i = 0; i < 16; i++) v.at[i] = from_e4m3(p[i]);
    return v;
}
static inline vacc scale_f16(const unsigned char *p)
{
    vacc v;
    for (int i = 0; i < 16; i++) v.at[i] = qn_f16_to_f32(word(p, i));
    return v;
}
static inline vacc scale_bf16(const unsigned char *p)
{
    vacc v;
    for (int i = 0; i < 16; i++) v.at[i] = qn_bf16_to_f32(word(p, i));
    return v;
}
static inline vacc zero_load(const signed char *p)
{
    vacc v;
    for (int i = 0; i < 16; i++) v.at[i] = p[i];
    return v;
}

typedef struct {
    int32_t at[16];
} vint;
typedef struct {
    uint8_t at[64];
} vbytes;
static inline vint vint_set1(int32_t x)
{
    vint v;
    for (int i = 0; i < 16; i++) v.at[i] = x;
    return v;
}
static inline vacc vacc_of(vint v)
{
    vacc out;
    for (int i = 0; i < 16; i++) out.at[i] = (float)v.at[i];
    return out;
}
static inline vbytes bytes_load(const unsigned char *p)
{
    vbytes v;
    memcpy(v.at, p, sizeof v.at);
    return v;
}
static inline vbytes bytes_low(vbytes v)
{
    for (int i = 0; i < 64; i++) v.at[i] &= 15;
    return v;
}
static inline vbytes bytes_high(vbytes v)
{
    for (int i = 0; i < 64; i++) v.at[i] >>= 4;
    return v;
}
static inline vbytes bytes_e2m1(vbytes code)
{
    for (int i = 0; i < 64; i++) code.at[i] = pack_e2m1_int8[code.at[i]];
    return code;
}
static inline vint vint_dot(vint acc, vbytes w, const int8_t *x, bool is_small)
{
    (void)is_small;
    for (int i = 0; i < 64; i++) acc.at[i / 4] += w.at[i] * x[i % 4];
    return acc;
}

#define DIRECT_TILES   2
#define DIRECT_ROWS    2
#define FEW_ROWS(kind) 8
#define HAS_ROOM       0
#define DECODED_ROWS   2
#define CODES_AHEAD    0 /* bytes */
#define HAS_F32        1
#define RUN            pack_run_scalar
#include "backend/cpu/pack_body.h"
