/* Loops: does a text end in one passage said over and over?
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_LOOP_H
#define QN_LOOP_H

#include "base/base.h"

#define QN_LOOP_EVERY  32  /* tokens between two looks */
#define QN_LOOP_DELAY  16  /* from a look to what follows from it: more than any draft reaches ahead */
#define QN_LOOP_PERIOD 256 /* tokens of the longest passage that counts */

/* The length of the passage that the last `least` tokens, and at least `times` times its own length, repeat
 * token by token; 0: none. */
int qn_loop_period(const int32_t *tok, int n_tok, int longest, int least, int times);

#endif
