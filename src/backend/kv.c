/* The small facts of KV types.
 * SPDX-License-Identifier: Apache-2.0 */
#include "backend/kv.h"

#include <math.h>
#include <strings.h>

#include "model/format.h"

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

float qn_kv_load(enum qn_kv t, const void *p, size_t i)
{
    switch (t) {
    case QN_KV_F32:
        return ((const float *)p)[i];
    case QN_KV_BF16:
        return qn_bf16_to_f32(((const uint16_t *)p)[i]);
    case QN_KV_E5M2:
        return qn_e5m2_to_f32(((const uint8_t *)p)[i]);
    default:
        return qn_e4m3_to_f32(((const uint8_t *)p)[i]);
    }
}

void qn_kv_store(enum qn_kv t, void *p, size_t i, float x)
{
    switch (t) {
    case QN_KV_F32:
        ((float *)p)[i] = x;
        break;
    case QN_KV_BF16:
        ((uint16_t *)p)[i] = qn_f32_to_bf16(x);
        break;
    case QN_KV_E5M2:
        ((uint8_t *)p)[i] = qn_f32_to_e5m2(x);
        break;
    default:
        ((uint8_t *)p)[i] = qn_f32_to_e4m3(x);
        break;
    }
}

float qn_kv_fit(const float *x, int n)
{
    float most = 0;
    for (int i = 0; i < n; i++) most = fmaxf(most, fabsf(x[i]));
    if (!(most > 0x1p-100f) || !(most < 0x1p100f)) return 1;
    int e;
    float m = frexpf(most, &e); /* most = m 2^e; 448 = 0.875 2^9 */
    return ldexpf(1, m <= 0.875f ? e - 9 : e - 8);
}
