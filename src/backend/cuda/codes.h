/* Codes of weights: where they lie, and how a lane makes A fragments of them.
 *
 * Of a tile of 16 outputs and 16 inputs lane l = 4 g + t holds, in registers a0..a3, inputs 2t, 2t + 1 (a0,
 * a1) and 2t + 8, 2t + 9 (a2, a3) of outputs g (a0, a2) and g + 8 (a1, a3). A piece is 64 inputs, four of
 * those; one lane's codes of it:
 *
 *   BF16, F16     4 x 16 bytes, [step][lane], a0..a3
 *   F32           8 x 16 bytes, [step][half][lane], a0 a1 | a2 a3
 *   E4M3, INT8    2 x 16 bytes, [two steps][lane], bytes in the order of registers
 *   NVFP4, INT4   16 bytes, [lane], a word a step: nibble r the low, nibble r + 4 the high half of a_r
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_CUDA_CODES_H
#define QN_CUDA_CODES_H

#include "backend/cuda/cuda.h"
#include "backend/cuda/math.h"

/* 16-byte words a lane has of a piece; parts of BF16 an A fragment needs */
static constexpr __host__ __device__ int code_words(int stored)
{
    return stored == W_F32 ? 8 : stored <= W_F16 ? 4 : stored <= W_INT8 ? 2 : 1;
}
static constexpr __host__ __device__ int code_parts(int stored)
{
    return stored == W_F32 ? 3 : stored == W_F16 ? 2 : 1;
}

/* Output and input, within tile and piece, of value 0..7 (register v / 2, half v % 2) of a step of a lane */
DEV int code_row(int lane, int v)
{
    return (lane >> 2) + 8 * (v >> 1 & 1);
}
DEV int code_in(int lane, int step, int v)
{
    return step * 16 + 2 * (lane & 3) + 8 * (v >> 2) + (v & 1);
}

/* two floats as parts of BF16 whose sum they are */
template <int N> DEV void split_pair(float a, float b, uint32_t *part)
{
#pragma unroll
    for (int i = 0; i < N; i++) {
        part[i] = bf16x2_pack(a, b);
        a -= bf16_float(part[i] & 0xffff);
        b -= bits_float(part[i] & 0xffff0000);
    }
}

#define BF16_PAIR(x)  ((uint32_t)(x)*0x10001u)
#define BF16_MINUS_0  0x80008000u /* added to a product it changes nothing */
#define BF16_2_TO_120 0x7b807b80u
#define BF16_2_TO_112 0x77807780u

/* Two E4M3 in bytes 0 and 2, to BF16: shifted into place the exponent is 120 too low. */
DEV uint32_t e4m3_pair(uint32_t v)
{
    return bf16x2_fma((v & 0x007f007f) << 4 | (v & 0x00800080) << 8, BF16_2_TO_120, BF16_MINUS_0);
}
/* One E4M3 to a BF16 pair of equal halves, times 2^112 */
DEV uint32_t scale_pair(uint32_t e4m3)
{
    return bf16x2_fma(e4m3_pair((e4m3 & 255) * 0x10001u), BF16_2_TO_112, BF16_MINUS_0);
}
/* Nibbles r and r + 4, E2M1, to BF16 times 2^-126 */
DEV uint32_t e2m1_pair(uint32_t v, int r)
{
    v >>= 4 * r;
    return (v & 0x00080008) << 12 | (v & 0x00070007) << 6;
}
#define NVFP4_UNIT 16384.0f /* 2^14: what the two powers above leave */

/* Two whole numbers 0..15 to BF16: 128 + q is exact, and so is the difference to 128 + zero. */
DEV uint32_t int4_pair(uint32_t v, int r, uint32_t minus_zero)
{
    return bf16x2_fma((v >> 4 * r & 0x000f000f) | 0x43004300, BF16_PAIR(0x3f80), minus_zero);
}
/* Bytes 0 and 1 of the pair of a word, signed */
DEV uint32_t int8_pair(uint32_t v, int at)
{
    return bf16x2_pack((float)(int8_t)(v >> 8 * at), (float)(int8_t)(v >> (8 * at + 8)));
}

/* The fragments of step j of a piece whose words a lane has read. */
template <int STORED> DEV void code_fragment(const uint4 *c, int j, const uint32_t *factor, uint32_t (*a)[4])
{
    if constexpr (STORED == W_BF16) {
        a[0][0] = c[j].x, a[0][1] = c[j].y, a[0][2] = c[j].z, a[0][3] = c[j].w;
    } else if constexpr (STORED == W_F16) {
        uint32_t word[4] = {c[j].x, c[j].y, c[j].z, c[j].w};
#pragma unroll
        for (int r = 0; r < 4; r++) {
            uint32_t p[2];
            split_pair<2>(f16_float(word[r] & 0xffff), f16_float(word[r] >> 16), p);
            a[0][r] = p[0], a[1][r] = p[1];
        }
    } else if constexpr (STORED == W_F32) {
#pragma unroll
        for (int h = 0; h < 2; h++) {
            uint4 w = c[2 * j + h];
            uint32_t p[3];
            split_pair<3>(bits_float(w.x), bits_float(w.y), p);
            a[0][2 * h] = p[0], a[1][2 * h] = p[1], a[2][2 * h] = p[2];
            split_pair<3>(bits_float(w.z), bits_float(w.w), p);
            a[0][2 * h + 1] = p[0], a[1][2 * h + 1] = p[1], a[2][2 * h + 1] = p[2];
        }
    } else if constexpr (STORED == W_E4M3 || STORED == W_INT8) {
        uint32_t lo = j & 1 ? c[j >> 1].z : c[j >> 1].x, hi = j & 1 ? c[j >> 1].w : c[j >> 1].y;
#pragma unroll
        for (int r = 0; r < 4; r++) {
            uint32_t word = r < 2 ? lo : hi;
            a[0][r] = STORED == W_INT8 ? int8_pair(word, (r & 1) * 2)
                                       : e4m3_pair(byte_perm(word, 0, r & 1 ? 0x4342 : 0x4140));
        }
    } else {
        uint32_t word = j == 0 ? c[0].x : j == 1 ? c[0].y : j == 2 ? c[0].z : c[0].w;
#pragma unroll
        for (int r = 0; r < 4; r++)
            a[0][r] = STORED == W_NVFP4 ? bf16x2_fma(e2m1_pair(word, r), factor[r & 1], BF16_MINUS_0)
                                        : int4_pair(word, r, factor[r & 1]);
    }
}

/* One value of a layer, for tables read by row. */
DEV float code_value(const DevWeight &w, int o, int k)
{
    int tile = o >> 4, piece = k >> 6, in = k & 63, row = o & 15, step = in >> 4;
    int lane = (row & 7) * 4 + (in & 7) / 2, r = (row >> 3) + 2 * (in >> 3 & 1), half = in & 1;
    int words = w.stored == W_F32 ? 8 : w.stored <= W_F16 ? 4 : w.stored <= W_INT8 ? 2 : 1;
    const uint4 *c = w.codes + ((size_t)tile * w.k64 + piece) * words * 32;
    const unsigned char *p;
    float x;
    switch (w.stored) {
    case W_BF16:
    case W_F16:
        p = (const unsigned char *)(c + step * 32 + lane) + r * 4 + half * 2;
        x = w.stored == W_BF16 ? bf16_float(*(const uint16_t *)p) : f16_float(*(const uint16_t *)p);
        break;
    case W_F32:
        p = (const unsigned char *)(c + (step * 2 + (r >> 1)) * 32 + lane) + (r & 1) * 8 + half * 4;
        x = *(const float *)p;
        break;
    case W_E4M3:
    case W_INT8:
        p = (const unsigned char *)(c + (step >> 1) * 32 + lane) + (step & 1) * 8 + r * 2 + half;
        x = w.stored == W_E4M3 ? e4m3_float(*p) : (float)(int8_t)*p;
        break;
    default:
        p = (const unsigned char *)(c + lane) + step * 4;
        uint32_t code = *(const uint32_t *)p >> (4 * r + 16 * half) & 15;
        if (w.stored == W_NVFP4)
            x = e2m1_float(code) *
                e4m3_float(w.scales4[((size_t)tile * w.k64 + piece) * 16 + row] >> 8 * step & 255);
        else
            x = (float)code;
    }
    float scale = w.scale;
    if (w.scale_kind == S_BLOCK) scale *= w.block[(size_t)(o >> 7) * ((w.n_in + 127) / 128) + (k >> 7)];
    if (w.scale_kind == S_PAIR) {
        uint2 pair = w.pair[((size_t)tile * w.n_group + (k >> 4) / w.group16) * 16 + row];
        x -= -(bf16_float(pair.y & 0xffff) + 128.0f);
        scale *= bits_float(pair.x);
    }
    return x * scale * (w.row_scale ? w.row_scale[o] : 1.0f);
}

#endif
