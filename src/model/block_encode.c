/* Blocks of GGUF files from values.
 * SPDX-License-Identifier: Apache-2.0 */
#include "model/block_encode.h"

#include <math.h>

static void encode_q8_0(const float *x, unsigned char *b)
{
    float most = 0;
    for (int i = 0; i < 32; i++) most = fmaxf(most, fabsf(x[i]));
    float d = most / 127, inverse = d != 0 ? 1 / d : 0;
    uint16_t half_d = qn_f32_to_f16(d);
    memcpy(b, &half_d, 2);
    for (int i = 0; i < 32; i++) b[2 + i] = (unsigned char)(signed char)roundf(x[i] * inverse);
}

/* The value of largest magnitude becomes -8. */
static void encode_q4_0(const float *x, unsigned char *b)
{
    float most = 0;
    unsigned char q[32];
    for (int i = 0; i < 32; i++)
        if (fabsf(x[i]) > fabsf(most)) most = x[i];
    float d = most / -8, inverse = d != 0 ? 1 / d : 0;
    uint16_t half_d = qn_f32_to_f16(d);
    memcpy(b, &half_d, 2);
    for (int i = 0; i < 32; i++)
        q[i] = (unsigned char)fminf(15, truncf(x[i] * inverse + 8.5f)); /* never below nought */
    for (int i = 0; i < 16; i++) b[2 + i] = (unsigned char)(q[i] | q[16 + i] << 4);
}

void qn_block_encode(enum qn_dtype t, const float *x, int n, void *row)
{
    unsigned char *b = row;
    QN_CHECK((t == QN_Q8_0 || t == QN_Q4_0) && n % 32 == 0);
    for (int k = 0; k < n; k += 32, b += qn_block_bytes(t))
        (t == QN_Q8_0 ? encode_q8_0 : encode_q4_0)(x + k, b);
}
