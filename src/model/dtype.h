/* Types of stored numbers, and conversions between them and float. Stateless; any thread.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_DTYPE_H
#define QN_DTYPE_H

#include "base/err.h"

enum qn_dtype {
    QN_F32,
    QN_BF16,
    QN_F16,
    QN_F8_E4M3,
    QN_F8_E5M2,
    QN_F8_E8M0,
    QN_U8,
    QN_I8,
    QN_I16,
    QN_I32,
    QN_I64,
    QN_F64,
    QN_BOOL,
    QN_U16,
    QN_U32,
    QN_U64,
    /* block types of GGUF files (model/blocks.h): several values share the bytes of a block */
    QN_Q4_0,
    QN_Q4_1,
    QN_Q5_0,
    QN_Q5_1,
    QN_Q8_0,
    QN_Q2_K,
    QN_Q3_K,
    QN_Q4_K,
    QN_Q5_K,
    QN_Q6_K,
    QN_IQ4_NL,
    QN_IQ4_XS,
    QN_MXFP4_32,
    QN_NVFP4_64,
    QN_N_DTYPE
};

const char *qn_dtype_name(enum qn_dtype t); /* "BF16", as in safetensors */
size_t qn_dtype_bytes(enum qn_dtype t);     /* of one value; 0 for block types */

/* Scalar conversions used by every layer above. */
static inline float qn_bf16_to_f32(uint16_t b)
{
    union {
        uint32_t u;
        float f;
    } v = {(uint32_t)b << 16};
    return v.f;
}
static inline uint16_t qn_f32_to_bf16(float x) /* round to nearest even; NaN stays NaN */
{
    union {
        float f;
        uint32_t u;
    } v = {x};
    if ((v.u & 0x7fffffffu) > 0x7f800000u) return (uint16_t)(v.u >> 16 | 0x40);
    return (uint16_t)((v.u + 0x7fffu + (v.u >> 16 & 1)) >> 16);
}
float qn_f16_to_f32(uint16_t h);
uint16_t qn_f32_to_f16(float x);
float qn_e4m3_to_f32(uint8_t b);
uint8_t qn_f32_to_e4m3(float x); /* nearest even, saturating at 448 */
float qn_e5m2_to_f32(uint8_t b);
uint8_t qn_f32_to_e5m2(float x);
float qn_e2m1_to_f32(uint8_t code);

#endif
