/* Functions that C and kernels share. SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_BOTH_H
#define QN_BOTH_H

#ifdef __CUDACC__
#define QN_BOTH static __host__ __device__ inline
#else
#define QN_BOTH static inline
#endif

#endif
