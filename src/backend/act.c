/* Types of activations: their names, and which layers have 8-bit ones.
 * SPDX-License-Identifier: Apache-2.0 */
#include "backend/act.h"

#include <strings.h>

static const char *const names[QN_N_ACT] = {
    [QN_ACT_BF16] = "bf16", [QN_ACT_F32] = "f32", [QN_ACT_INT8] = "int8"};

const char *qn_act_name(enum qn_act a)
{
    return names[a];
}

int qn_act_find(const char *name)
{
    for (int i = 0; i < QN_N_ACT; i++)
        if (!strcasecmp(name, names[i])) return i;
    return -1;
}

/* Are the groups of k where they would be without an index? */
static bool is_in_order(const struct qn_linear *l)
{
    for (int k = 0; l->g_idx.n_dim && l->group && k < l->n_in; k++) {
        int32_t g;
        memcpy(&g, (const unsigned char *)l->g_idx.data + (size_t)k * 4, 4);
        if (g != k / l->group) return false;
    }
    return true;
}

bool qn_act_is_int8(const struct qn_linear *l)
{
    switch (l->format) {
    case QN_FMT_NVFP4:
    case QN_FMT_INT8_CHANNEL:
        return true;
    case QN_FMT_INT4_AWQ:
    case QN_FMT_INT4_GPTQ:
    case QN_FMT_INT4_CT:
    case QN_FMT_INT4_CT_ZERO:
        return is_in_order(l) && (!l->group || (l->n_in % l->group == 0 && l->group % 32 == 0));
    default:
        return false;
    }
}
