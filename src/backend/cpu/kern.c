/* Which kernels run: filled from the plainest set up, stopping at the chosen one.
 * SPDX-License-Identifier: Apache-2.0 */
#include "backend/cpu/kern.h"

#include <pthread.h>

static struct qn_kern tables[QN_N_ISA];
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void fill(void)
{
    for (int i = 0; i < QN_N_ISA; i++) {
        if (i) tables[i] = tables[i - 1];
        tables[i].isa = (enum qn_isa)i;
        if (i == QN_ISA_SCALAR) qn_kern_scalar(&tables[i]);
#if defined(__x86_64__)
        if (i == QN_ISA_AVX2) qn_kern_avx2(&tables[i]);
        if (i == QN_ISA_AVX512) qn_kern_avx512(&tables[i]);
#elif defined(__aarch64__)
        if (i == QN_ISA_NEON) qn_kern_neon(&tables[i]);
#endif
    }
}

const struct qn_kern *qn_kern_get(enum qn_isa isa)
{
    pthread_once(&once, fill);
    return &tables[isa];
}
