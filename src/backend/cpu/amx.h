/* Products of packed BF16 layers on the matrix tiles of Intel processors (AMX-BF16), for the vision tower.
 *
 * An output is summed in steps of 32 k, within a step in pairs, whatever the number of rows: rows are
 * independent. The order is not that of the vector kernels, so the language model, whose rows come one at a
 * time too, does not run on it. Any thread. SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_AMX_H
#define QN_AMX_H

#include "backend/cpu/pack.h"

/* The processor has it, the system grants it, and QUERN_CPU does not ask for less. Asks once. */
bool qn_amx_is_there(void);
/* Serves layers stored as BF16 whose activations are prepared as BF16 pairs. */
bool qn_amx_serves(const struct qn_packed *p);
/* As qn_packed_run over all tiles. act may be read up to 31 rows behind its last one: the caller has that
 * room. */
void qn_amx_run(const struct qn_packed *p, const void *act, int n_row, float *y, int ldy);

#define QN_AMX_ROWS 32 /* rows that go together */

#endif
