/* Block types of GGUF files: what the bytes of a block mean.
 *
 * A row of a block type is n / n_value blocks one after the other, without padding. Formulas:
 * docs/formats.md. Products are taken as (scale * q) and (min) in float and then subtracted, which gives the
 * same bits as the makers' own reading. Stateless; any thread. SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_BLOCKS_H
#define QN_BLOCKS_H

#include "model/dtype.h"

static inline bool qn_dtype_is_block(enum qn_dtype t)
{
    return t >= QN_Q4_0 && t <= QN_NVFP4_64;
}
int qn_block_values(enum qn_dtype t); /* of a block; 0 for other types */
size_t qn_block_bytes(enum qn_dtype t);
/* Bytes of a row of n values (a multiple of the block). */
size_t qn_block_row_bytes(enum qn_dtype t, int n);

/* n values of a row, without the scale of a whole tensor. */
void qn_block_row(enum qn_dtype t, const void *row, int n, float *out);
/* The first block of n blocks with a scale that is not finite, or -1. */
int64_t qn_block_bad(enum qn_dtype t, const void *blocks, size_t n);

/* The scales of a Q4_K or Q5_K block: eight pairs of six bits from twelve bytes. */
void qn_block_k_scales(const unsigned char s[12], unsigned char scale[8], unsigned char min[8]);
/* The scales of a Q3_K block, -32 .. 31. */
void qn_block_q3_scales(const unsigned char s[12], signed char scale[16]);

extern const signed char qn_iq4_value[16]; /* of IQ4_NL and IQ4_XS codes */
float qn_block_ue4m3(unsigned char b);     /* scale of NVFP4 blocks, of which 0x7f is nought */

#endif
