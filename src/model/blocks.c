/* Reading the blocks of GGUF files.
 * SPDX-License-Identifier: Apache-2.0 */
#include "model/blocks.h"

#include <math.h>

static const struct {
    int n_value, n_byte;
} sizes[] = {
    [QN_Q4_0 - QN_Q4_0] = {32, 18},     [QN_Q4_1 - QN_Q4_0] = {32, 20},
    [QN_Q5_0 - QN_Q4_0] = {32, 22},     [QN_Q5_1 - QN_Q4_0] = {32, 24},
    [QN_Q8_0 - QN_Q4_0] = {32, 34},     [QN_Q2_K - QN_Q4_0] = {256, 84},
    [QN_Q3_K - QN_Q4_0] = {256, 110},   [QN_Q4_K - QN_Q4_0] = {256, 144},
    [QN_Q5_K - QN_Q4_0] = {256, 176},   [QN_Q6_K - QN_Q4_0] = {256, 210},
    [QN_IQ4_NL - QN_Q4_0] = {32, 18},   [QN_IQ4_XS - QN_Q4_0] = {256, 136},
    [QN_MXFP4_32 - QN_Q4_0] = {32, 17}, [QN_NVFP4_64 - QN_Q4_0] = {64, 36},
};

const signed char qn_iq4_value[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                      1,    13,   25,  38,  53,  69,  89,  113};
/* E2M1, doubled: the scales beside it are halved. */
static const signed char e2m1_twice[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

int qn_block_values(enum qn_dtype t)
{
    return qn_dtype_is_block(t) ? sizes[t - QN_Q4_0].n_value : 0;
}

size_t qn_block_bytes(enum qn_dtype t)
{
    return qn_dtype_is_block(t) ? (size_t)sizes[t - QN_Q4_0].n_byte : 0;
}

size_t qn_block_row_bytes(enum qn_dtype t, int n)
{
    return (size_t)(n / qn_block_values(t)) * qn_block_bytes(t);
}

static float half(const unsigned char *p)
{
    uint16_t h;
    memcpy(&h, p, 2);
    return qn_f16_to_f32(h);
}

/* Nibble x of 32 values: the first sixteen are the low ones. */
static int nibble(const unsigned char *qs, int x)
{
    return x < 16 ? qs[x] & 15 : qs[x - 16] >> 4;
}

void qn_block_k_scales(const unsigned char s[12], unsigned char scale[8], unsigned char min[8])
{
    for (int j = 0; j < 4; j++) {
        scale[j] = s[j] & 63;
        min[j] = s[j + 4] & 63;
        scale[j + 4] = (unsigned char)((s[j + 8] & 15) | s[j] >> 6 << 4);
        min[j + 4] = (unsigned char)(s[j + 8] >> 4 | s[j + 4] >> 6 << 4);
    }
}

void qn_block_q3_scales(const unsigned char s[12], signed char scale[16])
{
    for (int j = 0; j < 16; j++) {
        int low = j < 8 ? s[j] & 15 : s[j - 8] >> 4, high = s[8 + j % 4] >> 2 * (j / 4) & 3;
        scale[j] = (signed char)((low | high << 4) - 32);
    }
}

float qn_block_ue4m3(unsigned char b)
{
    b &= 0x7f;
    return b == 0x7f ? 0 : qn_e4m3_to_f32(b);
}

static void q4_0(const unsigned char *b, float *y)
{
    float d = half(b);
    for (int x = 0; x < 32; x++) y[x] = d * (float)(nibble(b + 2, x) - 8);
}

static void q4_1(const unsigned char *b, float *y)
{
    float d = half(b), m = half(b + 2);
    for (int x = 0; x < 32; x++) y[x] = d * (float)nibble(b + 4, x) + m;
}

static int fifth(const unsigned char *qh, int x)
{
    return (qh[x / 8] >> x % 8 & 1) << 4;
}

static void q5_0(const unsigned char *b, float *y)
{
    float d = half(b);
    for (int x = 0; x < 32; x++) y[x] = d * (float)((nibble(b + 6, x) | fifth(b + 2, x)) - 16);
}

static void q5_1(const unsigned char *b, float *y)
{
    float d = half(b), m = half(b + 2);
    for (int x = 0; x < 32; x++) y[x] = d * (float)(nibble(b + 8, x) | fifth(b + 4, x)) + m;
}

static void q8_0(const unsigned char *b, float *y)
{
    float d = half(b);
    for (int x = 0; x < 32; x++) y[x] = d * (float)(signed char)b[2 + x];
}

static void q2_k(const unsigned char *b, float *y)
{
    const unsigned char *qs = b + 16;
    float d = half(b + 80), dmin = half(b + 82);
    for (int x = 0; x < 256; x++) {
        int q = qs[32 * (x / 128) + x % 32] >> 2 * (x % 128 / 32) & 3;
        float scale = d * (float)(b[x / 16] & 15), min = dmin * (float)(b[x / 16] >> 4);
        y[x] = scale * (float)q - min;
    }
}

static void q3_k(const unsigned char *b, float *y)
{
    const unsigned char *hmask = b, *qs = b + 32;
    float d = half(b + 108);
    signed char scale[16];
    qn_block_q3_scales(b + 96, scale);
    for (int x = 0; x < 256; x++) {
        int q =
            (qs[32 * (x / 128) + x % 32] >> 2 * (x % 128 / 32) & 3) - (hmask[x % 32] >> x / 32 & 1 ? 0 : 4);
        y[x] = d * (float)scale[x / 16] * (float)q;
    }
}

/* Q4_K and Q5_K: qh NULL or the fifth bits. */
static void q45_k(const unsigned char *b, const unsigned char *qh, const unsigned char *qs, float *y)
{
    float d = half(b), dmin = half(b + 2);
    unsigned char scale[8], min[8];
    qn_block_k_scales(b + 4, scale, min);
    for (int x = 0; x < 256; x++) {
        int j = x / 32, byte = qs[32 * (x / 64) + x % 32], q = x % 64 < 32 ? byte & 15 : byte >> 4;
        if (qh) q |= (qh[x % 32] >> j & 1) << 4;
        y[x] = d * (float)scale[j] * (float)q - dmin * (float)min[j];
    }
}

static void q4_k(const unsigned char *b, float *y)
{
    q45_k(b, NULL, b + 16, y);
}

static void q5_k(const unsigned char *b, float *y)
{
    q45_k(b, b + 16, b + 48, y);
}

static void q6_k(const unsigned char *b, float *y)
{
    const unsigned char *ql = b, *qh = b + 128;
    const signed char *scale = (const signed char *)b + 192;
    float d = half(b + 208);
    for (int x = 0; x < 256; x++) {
        int c = x / 128, i = x % 128, byte = ql[64 * c + i % 64];
        int q = (i < 64 ? byte & 15 : byte >> 4) | (qh[32 * c + i % 32] >> 2 * (i / 32) & 3) << 4;
        y[x] = d * (float)scale[x / 16] * (float)(q - 32);
    }
}

static void iq4_nl(const unsigned char *b, float *y)
{
    float d = half(b);
    for (int x = 0; x < 32; x++) y[x] = d * (float)qn_iq4_value[nibble(b + 2, x)];
}

static void iq4_xs(const unsigned char *b, float *y)
{
    float d = half(b);
    for (int g = 0; g < 8; g++) {
        int low = b[4 + g / 2] >> 4 * (g % 2) & 15, high = b[2 + g / 4] >> 2 * (g % 4) & 3;
        float scale = d * (float)((low | high << 4) - 32);
        for (int x = 0; x < 32; x++) y[32 * g + x] = scale * (float)qn_iq4_value[nibble(b + 8 + 16 * g, x)];
    }
}

static void mxfp4(const unsigned char *b, float *y)
{
    float d = ldexpf(1, b[0] - 128);
    for (int x = 0; x < 32; x++) y[x] = d * (float)e2m1_twice[nibble(b + 1, x)];
}

static void nvfp4(const unsigned char *b, float *y)
{
    for (int g = 0; g < 4; g++) {
        float d = qn_block_ue4m3(b[g]) * 0.5f;
        for (int i = 0; i < 16; i++) {
            int byte = b[4 + 8 * g + i % 8];
            y[16 * g + i] = d * (float)e2m1_twice[i < 8 ? byte & 15 : byte >> 4];
        }
    }
}

void qn_block_row(enum qn_dtype t, const void *row, int n, float *out)
{
    static void (*const read[])(const unsigned char *, float *) = {
        q4_0, q4_1, q5_0, q5_1, q8_0, q2_k, q3_k, q4_k, q5_k, q6_k, iq4_nl, iq4_xs, mxfp4, nvfp4};
    const unsigned char *b = row;
    QN_CHECK(qn_dtype_is_block(t) && n % qn_block_values(t) == 0);
    for (int k = 0; k < n; k += qn_block_values(t), b += qn_block_bytes(t)) read[t - QN_Q4_0](b, out + k);
}

static bool is_finite_half(const unsigned char *p)
{
    return (p[1] & 0x7c) != 0x7c;
}

int64_t qn_block_bad(enum qn_dtype t, const void *blocks, size_t n)
{
    static const struct {
        short first, second; /* where halves lie; -1: nowhere */
    } halves[] = {{0, -1}, {0, 2}, {0, -1},   {0, 2},  {0, -1}, {80, 82}, {108, -1},
                  {0, 2},  {0, 2}, {208, -1}, {0, -1}, {0, -1}, {-1, -1}, {-1, -1}};
    QN_CHECK(qn_dtype_is_block(t));
    short a = halves[t - QN_Q4_0].first, b = halves[t - QN_Q4_0].second;
    const unsigned char *p = blocks;
    for (size_t i = 0; i < n && a >= 0; i++, p += qn_block_bytes(t))
        if (!is_finite_half(p + a) || (b >= 0 && !is_finite_half(p + b))) return (int64_t)i;
    return -1;
}
