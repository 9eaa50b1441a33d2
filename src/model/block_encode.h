/* Values as blocks of GGUF files, rounded as the makers' quantizer does without an importance matrix.
 * Stateless; any thread. SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_BLOCK_ENCODE_H
#define QN_BLOCK_ENCODE_H

#include "model/blocks.h"

/* n values (a multiple of 32) as blocks of Q8_0 or Q4_0: the largest magnitude gives the scale. */
void qn_block_encode(enum qn_dtype t, const float *x, int n, void *row);

#endif
