/* The kernels for avx512.
 * SPDX-License-Identifier: Apache-2.0 */
#if defined(__x86_64__)
#define KERN_FILL qn_kern_avx512
#include "backend/cpu/kern_body.h"
#endif
