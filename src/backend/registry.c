/* Names to back ends, and the small facts of KV types.
 * SPDX-License-Identifier: Apache-2.0 */
#include "backend/backend.h"
#include "backend/registry.h"

#include <strings.h>

const struct qn_backend *qn_backend_get(const char *name)
{
    if (!strcmp(name, "ref")) return qn_ref_backend();
    if (!strcmp(name, "cpu")) return qn_cpu_backend();
    return NULL;
}

static const struct {
    const char *name;
    size_t n_byte, scale_bytes;
} kv_types[QN_N_KV] = {[QN_KV_F32] = {"F32", 4, 0},
                       [QN_KV_BF16] = {"BF16", 2, 0},
                       [QN_KV_E4M3] = {"E4M3", 1, 0},
                       [QN_KV_E5M2] = {"E5M2", 1, 0},
                       [QN_KV_E4M3D] = {"E4M3D", 1, 2}};

const char *qn_kv_name(enum qn_kv t)
{
    return kv_types[t].name;
}

size_t qn_kv_bytes(enum qn_kv t)
{
    return kv_types[t].n_byte;
}

size_t qn_kv_scale_bytes(enum qn_kv t)
{
    return kv_types[t].scale_bytes;
}

int qn_kv_find(const char *name, bool has_scales)
{
    static const struct {
        const char *name;
        enum qn_kv type;
    } others[] = {{"float32", QN_KV_F32},   {"bfloat16", QN_KV_BF16},     {"fp8_e4m3", QN_KV_E4M3},
                  {"fp8_e5m2", QN_KV_E5M2}, {"fp8_dynamic", QN_KV_E4M3D}, {"e4m3_dynamic", QN_KV_E4M3D}};
    if (!strcasecmp(name, "fp8")) return has_scales ? QN_KV_E4M3 : QN_KV_E4M3D;
    for (int i = 0; i < QN_N_KV; i++)
        if (!strcasecmp(name, kv_types[i].name)) return i;
    for (size_t i = 0; i < QN_COUNT(others); i++)
        if (!strcasecmp(name, others[i].name)) return (int)others[i].type;
    return -1;
}
