/* Names to back ends.
 * SPDX-License-Identifier: Apache-2.0 */
#include "backend/backend.h"
#include "backend/registry.h"

const struct qn_backend *qn_backend_get(const char *name)
{
    if (!strcmp(name, "ref")) return qn_ref_backend();
    if (!strcmp(name, "cpu")) return qn_cpu_backend();
    if (!strcmp(name, "cuda") && qn_cuda_backend) return qn_cuda_backend();
    return NULL;
}
