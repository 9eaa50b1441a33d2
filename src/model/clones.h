/* For files whose loops are their whole cost: QN_CLONES compiles a function for wider vectors too, one of
 * which is chosen when the program starts. The result is the same: no contraction, sums in fixed lanes.
 * Include it last, since it sets the optimisation of what follows. Any thread. SPDX-License-Identifier:
 * Apache-2.0 */
#ifndef QN_MODEL_CLONES_H
#define QN_MODEL_CLONES_H

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("O3,no-trapping-math,no-math-errno")
#endif
#if defined(__GNUC__) && !defined(__clang__) && defined(__x86_64__) && !defined(__SANITIZE_THREAD__) &&      \
    !defined(__SANITIZE_ADDRESS__)
#define QN_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define QN_CLONES
#endif

#endif
