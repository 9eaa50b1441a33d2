/* Types of activations (what they mean: backend.h), and rounding to 8 bits for layers whose weights are small
 * integers or E2M1 (QN_ACT_INT8):
 *
 *   block     QN_ACT_BLOCK consecutive inputs of a row, rounded to BF16 first
 *   scale     largest magnitude / 127, float
 *   code      x * (127 / largest) to the nearest integer, ties to even; x is taken as code * scale
 *
 * A block with a value that is not finite has the scale NaN. The same bits on every instruction set.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_ACT_H
#define QN_ACT_H

#include "base/base.h"
#include "model/format.h"

enum qn_act { QN_ACT_BF16, QN_ACT_F32, QN_ACT_INT8, QN_N_ACT };
const char *qn_act_name(enum qn_act a); /* "bf16", ... */
int qn_act_find(const char *name);      /* -1: unknown */
#define QN_ACT_NAMES "bf16, f32 or int8"

#define QN_ACT_BLOCK 32

/* x [QN_ACT_BLOCK] -> code; returns the scale. */
static inline __attribute__((always_inline)) float qn_act_int8(const float *x, int8_t *code)
{
    uint32_t bits[QN_ACT_BLOCK], most = 0;
    memcpy(bits, x, sizeof bits);
    for (int i = 0; i < QN_ACT_BLOCK; i++) most = QN_MAX(most, bits[i] & 0x7fffffffu);
    if (most >= 0x7f800000u) {
        memset(code, 0, QN_ACT_BLOCK);
        return __builtin_nanf("");
    }
    float largest;
    memcpy(&largest, &most, 4);
    float factor = largest > 0x1p-120f ? 127.0f / largest : 0; /* less is nought: the quotient overflows */
    for (int i = 0; i < QN_ACT_BLOCK; i++) {
        float v = x[i] * factor + 0x1.8p23f; /* the integer in the low bits */
        int32_t word;
        memcpy(&word, &v, 4);
        code[i] = (int8_t)word;
    }
    return largest / 127.0f;
}

/* Does QN_ACT_INT8 concern a layer: NVFP4, int4 but in act-order, int8? Others have BF16 activations. */
bool qn_act_is_int8(const struct qn_linear *l);

#endif
