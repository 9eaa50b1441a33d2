/* Types of stored numbers.
 * SPDX-License-Identifier: Apache-2.0 */
#include "model/dtype.h"

#include <math.h>

static const struct {
    const char *name;
    size_t n_byte;
} dtypes[QN_N_DTYPE] = {
    [QN_F32] = {"F32", 4},         [QN_BF16] = {"BF16", 2},       [QN_F16] = {"F16", 2},
    [QN_F8_E4M3] = {"F8_E4M3", 1}, [QN_F8_E5M2] = {"F8_E5M2", 1}, [QN_F8_E8M0] = {"F8_E8M0", 1},
    [QN_U8] = {"U8", 1},           [QN_I8] = {"I8", 1},           [QN_I16] = {"I16", 2},
    [QN_I32] = {"I32", 4},         [QN_I64] = {"I64", 8},         [QN_F64] = {"F64", 8},
    [QN_BOOL] = {"BOOL", 1},       [QN_U16] = {"U16", 2},         [QN_U32] = {"U32", 4},
    [QN_U64] = {"U64", 8},         [QN_Q4_0] = {"Q4_0", 0},       [QN_Q4_1] = {"Q4_1", 0},
    [QN_Q5_0] = {"Q5_0", 0},       [QN_Q5_1] = {"Q5_1", 0},       [QN_Q8_0] = {"Q8_0", 0},
    [QN_Q2_K] = {"Q2_K", 0},       [QN_Q3_K] = {"Q3_K", 0},       [QN_Q4_K] = {"Q4_K", 0},
    [QN_Q5_K] = {"Q5_K", 0},       [QN_Q6_K] = {"Q6_K", 0},       [QN_IQ4_NL] = {"IQ4_NL", 0},
    [QN_IQ4_XS] = {"IQ4_XS", 0},   [QN_MXFP4_32] = {"MXFP4", 0},  [QN_NVFP4_64] = {"NVFP4", 0},
};

const char *qn_dtype_name(enum qn_dtype t)
{
    return (unsigned)t < QN_N_DTYPE ? dtypes[t].name : "?";
}

size_t qn_dtype_bytes(enum qn_dtype t)
{
    return (unsigned)t < QN_N_DTYPE ? dtypes[t].n_byte : 0;
}

static float from_bits(uint32_t u)
{
    union {
        uint32_t u;
        float f;
    } v = {u};
    return v.f;
}

static uint32_t to_bits(float f)
{
    union {
        float f;
        uint32_t u;
    } v = {f};
    return v.u;
}

float qn_f16_to_f32(uint16_t h)
{
    uint32_t sign = (uint32_t)(h >> 15) << 31, e = h >> 10 & 31, m = h & 1023;
    if (e == 31) return from_bits(sign | 0x7f800000u | m << 13);
    if (e) return from_bits(sign | (e + 112) << 23 | m << 13);
    float x = (float)m * 0x1p-24f;
    return from_bits(to_bits(x) | sign);
}

/* Rounds |x| (finite, below the overflow limit of the target) to a code with m_bits of mantissa and the given
 * exponent bias, nearest even; the code comes without its sign. */
static uint32_t round_small(float x, int m_bits, int bias)
{
    uint32_t u = to_bits(x) & 0x7fffffffu;
    int e = (int)(u >> 23) - 127;
    int min_e = 1 - bias;
    if (e < min_e) { /* subnormal target: a multiple of 2^(min_e - m_bits), exact in float arithmetic */
        float step = ldexpf(1.0f, m_bits - min_e);
        return (uint32_t)rintf(from_bits(u) * step);
    }
    int drop = 23 - m_bits;
    u += (1u << (drop - 1)) - 1 + (u >> drop & 1);
    return (u >> drop) - ((uint32_t)(127 - bias) << m_bits);
}

uint16_t qn_f32_to_f16(float x)
{
    uint32_t u = to_bits(x), sign = u >> 16 & 0x8000;
    u &= 0x7fffffffu;
    if (u > 0x7f800000u) return (uint16_t)(sign | 0x7e00);
    if (u >= 0x477ff000u) return (uint16_t)(sign | 0x7c00); /* 65520 and above */
    return (uint16_t)(sign | round_small(x, 10, 15));
}

float qn_e4m3_to_f32(uint8_t b)
{
    uint32_t sign = (uint32_t)(b >> 7) << 31, e = b >> 3 & 15, m = b & 7;
    if ((b & 0x7f) == 0x7f) return from_bits(sign | 0x7fc00000u);
    if (e) return from_bits(sign | (e + 120) << 23 | m << 20);
    float x = (float)m * 0x1p-9f;
    return from_bits(to_bits(x) | sign);
}

uint8_t qn_f32_to_e4m3(float x)
{
    uint32_t u = to_bits(x), sign = u >> 24 & 0x80;
    u &= 0x7fffffffu;
    if (u > 0x7f800000u) return (uint8_t)(sign | 0x7f);
    if (u >= 0x43e00000u) return (uint8_t)(sign | 0x7e); /* 448 and above */
    return (uint8_t)(sign | round_small(x, 3, 7));
}

float qn_e5m2_to_f32(uint8_t b)
{
    return qn_f16_to_f32((uint16_t)(b << 8));
}

uint8_t qn_f32_to_e5m2(float x)
{
    uint32_t u = to_bits(x), sign = u >> 24 & 0x80;
    u &= 0x7fffffffu;
    if (u > 0x7f800000u) return (uint8_t)(sign | 0x7e);
    if (u >= 0x47600000u) return (uint8_t)(sign | 0x7b); /* saturates at 57344 */
    return (uint8_t)(sign | round_small(x, 2, 15));
}

float qn_e2m1_to_f32(uint8_t code)
{
    static const float table[16] = {0.0f,  0.5f,  1.0f,  1.5f,  2.0f,  3.0f,  4.0f,  6.0f,
                                    -0.0f, -0.5f, -1.0f, -1.5f, -2.0f, -3.0f, -4.0f, -6.0f};
    return table[code & 15];
}
