/* The processor: instruction sets with a mask, cores, and what its memory can read.
 * Any thread. SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_CPU_H
#define QN_CPU_H

#include "base/base.h"

/* In rising order; each includes the ones before it. Those behind QN_N_ISA belong to other processors. */
#if defined(__aarch64__)
enum qn_isa {
    QN_ISA_SCALAR,
    QN_ISA_NEON, /* with DotProd */
    QN_N_ISA,
    QN_ISA_AVX2,
    QN_ISA_AVX512,
    QN_ISA_AVX512BF16
};
#else
enum qn_isa {
    QN_ISA_SCALAR,
    QN_ISA_AVX2,       /* with FMA and F16C */
    QN_ISA_AVX512,     /* F BW VL DQ */
    QN_ISA_AVX512BF16, /* and VNNI, VBMI */
    QN_N_ISA,
    QN_ISA_NEON
};
#endif

/* The best this machine has, no higher than QUERN_CPU=scalar|neon|avx2|avx512|avx512bf16 asks for. */
enum qn_isa qn_cpu_isa(void);
const char *qn_isa_name(enum qn_isa isa);
/* QN_N_ISA when the name is unknown. */
enum qn_isa qn_isa_from_name(const char *name);

/* CPUs this process may run on, one of each physical core first. Returns how many. */
int qn_cpu_list(int *cpus, int room);
/* Physical cores among them; at least 1. */
int qn_cpu_n_core(void);

/* Bytes a second that n_thread threads read from memory (the best of n_run passes over n_byte, which should
 * be well above the last-level cache). 0 when there is no memory for it. */
double qn_cpu_read_rate(int n_thread, size_t n_byte, int n_run);

#endif
