/* Arithmetic of the kernels: the same bits under nvcc (-fmad=false) and g++ (-ffp-contract=off), no libm.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_CUDA_MATH_H
#define QN_CUDA_MATH_H

#include "backend/cuda/dev.h"
#include "backend/noise.h"

DEV float dev_sigmoid(float x)
{
    return 1.0f / (1.0f + dev_exp(-x));
}
DEV float dev_silu(float x)
{
    return x * dev_sigmoid(x);
}
DEV bool is_finite(float x)
{
    return (float_bits(x) & 0x7f800000) != 0x7f800000;
}

/* log(1 + exp(x)) */
DEV float dev_softplus(float x)
{
    if (!(x <= 20.0f)) return x;
    float e = dev_exp(x), u = 1.0f + e;
    if (u == 1.0f) return e;
    return qn_noise_log(u) * (e / (u - 1.0f)); /* what the sum lost */
}

/* cos and sin of an angle up to about 2^22, absolute error about 1e-7: a multiple of pi/2 in three parts is
 * taken away, the first step exactly. */
DEV void dev_turn(float angle, float *c, float *s)
{
    float n = rintf(angle * 0.636619772f);
    float r = fmaf(n, -1.57079637f, angle);
    r = fmaf(n, 4.37113900e-8f, r);
    r = fmaf(n, 1.71512489e-15f, r);
    float z = r * r;
    float sine = fmaf(z, 2.75573192e-6f, -1.98412698e-4f);
    sine = fmaf(z, sine, 8.33333333e-3f);
    sine = fmaf(z, sine, -0.166666667f);
    sine = fmaf(z * r, sine, r);
    float cosine = fmaf(z, -2.75573192e-7f, 2.48015873e-5f);
    cosine = fmaf(z, cosine, -1.38888889e-3f);
    cosine = fmaf(z, cosine, 4.16666667e-2f);
    cosine = fmaf(z, cosine, -0.5f);
    cosine = fmaf(z, cosine, 1.0f);
    int quarter = (int)n & 3;
    float a = quarter & 1 ? sine : cosine, b = quarter & 1 ? cosine : sine;
    *c = quarter == 1 || quarter == 2 ? -a : a;
    *s = quarter & 2 ? -b : b;
}

/* --- small floats --- */
DEV float bf16_float(uint32_t b)
{
    return bits_float(b << 16);
}
DEV uint32_t float_bf16(float x)
{
    return bf16x2_pack(x, 0) & 0xffff;
}
DEV float f16_float(uint32_t h)
{
    uint32_t sign = (h & 0x8000) << 16, e = h >> 10 & 31, m = h & 1023;
    if (e == 31) return bits_float(sign | 0x7f800000u | m << 13);
    if (e) return bits_float(sign | (e + 112) << 23 | m << 13);
    return bits_float(float_bits((float)m * 5.9604644775390625e-8f) | sign);
}
DEV float e4m3_float(uint32_t b)
{
    uint32_t sign = (b & 0x80) << 24, e = b >> 3 & 15, m = b & 7;
    if ((b & 0x7f) == 0x7f) return bits_float(sign | 0x7fc00000u);
    if (e) return bits_float(sign | (e + 120) << 23 | m << 20);
    return bits_float(float_bits((float)m * 0.001953125f) | sign);
}
DEV float e5m2_float(uint32_t b)
{
    return f16_float(b << 8);
}
DEV float e2m1_float(uint32_t c)
{
    uint32_t sign = (c & 8) << 28, e = c >> 1 & 3, m = c & 1;
    if (e) return bits_float(sign | (e + 126) << 23 | m << 22);
    return bits_float(float_bits(m ? 0.5f : 0.0f) | sign);
}
/* |x| to a code with `kept` bits of mantissa, nearest even; limit: the largest finite code */
DEV uint32_t small_code(float x, int kept, int bias, uint32_t limit)
{
    uint32_t u = float_bits(x) & 0x7fffffff;
    if (u > 0x7f800000) return limit + 1;
    int e = (int)(u >> 23) - 127, least = 1 - bias, drop = 23 - kept;
    uint32_t code;
    if (e < least) {
        code = (uint32_t)rintf(bits_float(u) * bits_float((uint32_t)(127 + kept - least) << 23));
    } else {
        u += (1u << (drop - 1)) - 1 + (u >> drop & 1);
        code = (u >> drop) - ((uint32_t)(127 - bias) << kept);
    }
    return code < limit ? code : limit;
}
DEV uint32_t float_e4m3(float x)
{
    return small_code(x, 3, 7, 0x7e) | (float_bits(x) >> 24 & 0x80);
}
DEV uint32_t float_e5m2(float x)
{
    uint32_t c = small_code(x, 2, 15, 0x7b);
    return (c > 0x7b ? 0x7e : c) | (float_bits(x) >> 24 & 0x80);
}

/* --- sums over lanes and blocks: an order fixed by the number of threads --- */
DEV float warp_sum(float v)
{
    for (int m = 16; m; m >>= 1) v += shfl_xor(v, m);
    return v;
}
DEV float warp_most(float v)
{
    for (int m = 16; m; m >>= 1) v = fmaxf(v, shfl_xor(v, m));
    return v;
}
/* place: a float for each warp; the block is in it twice */
DEV float block_sum(float v, float *place)
{
    v = warp_sum(v);
    if (!LANE) place[WARP] = v;
    __syncthreads();
    float sum = 0;
    for (int w = 0; w < (int)(blockDim.x + 31) / 32; w++) sum += place[w];
    __syncthreads();
    return sum;
}

#endif
