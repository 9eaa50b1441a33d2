/* Writing packed rows (cuda.h). SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_CUDA_PACKED_H
#define QN_CUDA_PACKED_H

#include "backend/cuda/math.h"

/* Inputs k and k + 1 (k even) of a row, as 1 or 3 parts. */
DEV void packed_store(uint32_t *x, int k16, int parts, int row, int k, float a, float b)
{
    uint32_t *to = x + (((size_t)(row >> 3) * k16 + (k >> 4)) * parts) * 64 +
                   ((row & 7) * 4 + (k & 7) / 2) * 2 + (k >> 3 & 1);
    for (int p = 0; p < parts; p++) {
        uint32_t pair = bf16x2_pack(a, b);
        to[p * 64] = pair;
        a -= bf16_float(pair & 0xffff);
        b -= bits_float(pair & 0xffff0000);
    }
}

#endif
