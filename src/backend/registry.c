/* Names to back ends, and the small facts of KV types.
 * SPDX-License-Identifier: Apache-2.0 */
#include "backend/backend.h"
#include "backend/registry.h"

const struct qn_backend *qn_backend_get(const char *name)
{
    if (!strcmp(name, "ref")) return qn_ref_backend();
    if (!strcmp(name, "cpu")) return qn_cpu_backend();
    return NULL;
}

static const struct {
    const char *name;
    size_t n_byte;
} kv_types[QN_N_KV] = {[QN_KV_F32] = {"F32", 4},
                       [QN_KV_BF16] = {"BF16", 2},
                       [QN_KV_E4M3] = {"E4M3", 1},
                       [QN_KV_E5M2] = {"E5M2", 1}};

const char *qn_kv_name(enum qn_kv t)
{
    return kv_types[t].name;
}

size_t qn_kv_bytes(enum qn_kv t)
{
    return kv_types[t].n_byte;
}
