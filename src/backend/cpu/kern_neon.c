/* The kernels for NEON.
 * SPDX-License-Identifier: Apache-2.0 */
#if defined(__aarch64__)
#define KERN_FILL qn_kern_neon
#include "backend/cpu/kern_body.h"
#endif
