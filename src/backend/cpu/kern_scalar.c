/* The kernels for scalar.
 * SPDX-License-Identifier: Apache-2.0 */
#define KERN_FILL qn_kern_scalar
#include "backend/cpu/kern_body.h"
