/* Loops.
 * SPDX-License-Identifier: Apache-2.0 */
#include "engine/loop.h"

int qn_loop_period(const int32_t *tok, int n_tok, int longest, int least, int times)
{
    for (int p = 1; p <= longest; p++) {
        int need = QN_MAX(least, times * p), n = 0;
        if (n_tok < need) break;
        const int32_t *end = tok + n_tok;
        while (n + p < need && end[-1 - n] == end[-1 - n - p]) n++;
        if (n + p >= need) return p;
    }
    return 0;
}
