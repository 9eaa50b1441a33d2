/* The name table of the family.
 * SPDX-License-Identifier: Apache-2.0 */
#include "model/roles.h"

const struct qn_names qn_names_published = {"model.language_model.", "mtp.", "lm_head"};

static const char *const modules[QN_N_ROLE] = {
    [QN_ROLE_EMBED] = "embed_tokens",
    [QN_ROLE_HEAD] = "lm_head",
    [QN_ROLE_Q] = "self_attn.q_proj",
    [QN_ROLE_K] = "self_attn.k_proj",
    [QN_ROLE_V] = "self_attn.v_proj",
    [QN_ROLE_O] = "self_attn.o_proj",
    [QN_ROLE_GDN_QKV] = "linear_attn.in_proj_qkv",
    [QN_ROLE_GDN_Z] = "linear_attn.in_proj_z",
    [QN_ROLE_GDN_B] = "linear_attn.in_proj_b",
    [QN_ROLE_GDN_A] = "linear_attn.in_proj_a",
    [QN_ROLE_GDN_OUT] = "linear_attn.out_proj",
    [QN_ROLE_GATE] = "mlp.gate_proj",
    [QN_ROLE_UP] = "mlp.up_proj",
    [QN_ROLE_DOWN] = "mlp.down_proj",
    [QN_ROLE_ROUTER] = "mlp.gate",
    [QN_ROLE_SHARED_GATE] = "mlp.shared_expert.gate_proj",
    [QN_ROLE_SHARED_UP] = "mlp.shared_expert.up_proj",
    [QN_ROLE_SHARED_DOWN] = "mlp.shared_expert.down_proj",
    [QN_ROLE_SHARED_MIX] = "mlp.shared_expert_gate",
    [QN_ROLE_MTP_FC] = "fc",
    [QN_ROLE_EXPERT_GATE] = "mlp.experts.*.gate_proj",
    [QN_ROLE_EXPERT_UP] = "mlp.experts.*.up_proj",
    [QN_ROLE_EXPERT_DOWN] = "mlp.experts.*.down_proj",
};

static const char *const vectors[QN_N_VEC] = {
    [QN_VEC_FINAL_NORM] = "norm.weight",
    [QN_VEC_INPUT_NORM] = "input_layernorm.weight",
    [QN_VEC_POST_NORM] = "post_attention_layernorm.weight",
    [QN_VEC_Q_NORM] = "self_attn.q_norm.weight",
    [QN_VEC_K_NORM] = "self_attn.k_norm.weight",
    [QN_VEC_CONV] = "linear_attn.conv1d.weight",
    [QN_VEC_A_LOG] = "linear_attn.A_log",
    [QN_VEC_DT_BIAS] = "linear_attn.dt_bias",
    [QN_VEC_GDN_NORM] = "linear_attn.norm.weight",
    [QN_VEC_MTP_NORM_EMBED] = "pre_fc_norm_embedding.weight",
    [QN_VEC_MTP_NORM_HIDDEN] = "pre_fc_norm_hidden.weight",
    [QN_VEC_MTP_NORM] = "norm.weight",
};

bool qn_role_is_global(enum qn_role role)
{
    return role == QN_ROLE_EMBED || role == QN_ROLE_HEAD || role == QN_ROLE_MTP_FC;
}

bool qn_role_is_expert(enum qn_role role)
{
    return role == QN_ROLE_EXPERT_GATE || role == QN_ROLE_EXPERT_UP || role == QN_ROLE_EXPERT_DOWN;
}

const char *qn_role_module(enum qn_role role)
{
    return modules[role];
}

enum need { ANY, FULL, GDN, DENSE, MOE }; /* which layers have a role */

static bool has(const struct qn_config *c, int layer, enum need need)
{
    if (layer != QN_LAYER_MTP && (layer < 0 || layer >= c->n_layer)) return false;
    bool full = layer == QN_LAYER_MTP || c->is_full[layer];
    return need == ANY    ? true
           : need == FULL ? full
           : need == GDN  ? !full
           : need == MOE  ? c->is_moe
                          : !c->is_moe;
}

bool qn_role_shape(const struct qn_config *c, enum qn_role role, int layer, int *n_out, int *n_in)
{
    int H = c->hidden, hd = c->head_dim, VD = qn_config_value_dim(c);
    const struct {
        int n_out, n_in;
        enum need need;
    } shapes[QN_N_ROLE] = {
        [QN_ROLE_EMBED] = {c->vocab, H, ANY},
        [QN_ROLE_HEAD] = {c->vocab, H, ANY},
        [QN_ROLE_Q] = {c->n_head * 2 * hd, H, FULL},
        [QN_ROLE_K] = {c->n_kv_head * hd, H, FULL},
        [QN_ROLE_V] = {c->n_kv_head * hd, H, FULL},
        [QN_ROLE_O] = {H, c->n_head * hd, FULL},
        [QN_ROLE_GDN_QKV] = {qn_config_conv_dim(c), H, GDN},
        [QN_ROLE_GDN_Z] = {VD, H, GDN},
        [QN_ROLE_GDN_B] = {c->n_v_head, H, GDN},
        [QN_ROLE_GDN_A] = {c->n_v_head, H, GDN},
        [QN_ROLE_GDN_OUT] = {H, VD, GDN},
        [QN_ROLE_GATE] = {c->ffn, H, DENSE},
        [QN_ROLE_UP] = {c->ffn, H, DENSE},
        [QN_ROLE_DOWN] = {H, c->ffn, DENSE},
        [QN_ROLE_ROUTER] = {c->n_expert, H, MOE},
        [QN_ROLE_SHARED_GATE] = {c->shared_ffn, H, MOE},
        [QN_ROLE_SHARED_UP] = {c->shared_ffn, H, MOE},
        [QN_ROLE_SHARED_DOWN] = {H, c->shared_ffn, MOE},
        [QN_ROLE_SHARED_MIX] = {1, H, MOE},
        [QN_ROLE_MTP_FC] = {H, 2 * H, ANY},
        [QN_ROLE_EXPERT_GATE] = {c->expert_ffn, H, MOE},
        [QN_ROLE_EXPERT_UP] = {c->expert_ffn, H, MOE},
        [QN_ROLE_EXPERT_DOWN] = {H, c->expert_ffn, MOE},
    };
    if (!qn_role_is_global(role) && !has(c, layer, shapes[role].need)) return false;
    *n_out = shapes[role].n_out;
    *n_in = shapes[role].n_in;
    return true;
}

static void layer_prefix(const struct qn_names *names, int layer, char *out, size_t n)
{
    if (layer == QN_LAYER_MTP)
        snprintf(out, n, "%slayers.0.", names->mtp);
    else
        snprintf(out, n, "%slayers.%d.", names->text, layer);
}

void qn_role_stem(const struct qn_names *names, enum qn_role role, int layer, int expert,
                  char out[QN_NAME_BYTES])
{
    char prefix[128];
    if (role == QN_ROLE_HEAD) {
        snprintf(out, QN_NAME_BYTES, "%s", names->head);
    } else if (qn_role_is_global(role)) {
        snprintf(out, QN_NAME_BYTES, "%s%s", role == QN_ROLE_EMBED ? names->text : names->mtp, modules[role]);
    } else {
        layer_prefix(names, layer, prefix, sizeof prefix);
        if (qn_role_is_expert(role))
            snprintf(out, QN_NAME_BYTES, "%smlp.experts.%d%s", prefix, expert,
                     strchr(modules[role], '*') + 1);
        else
            snprintf(out, QN_NAME_BYTES, "%s%s", prefix, modules[role]);
    }
}

void qn_role_fused(const struct qn_config *c, const struct qn_names *names, enum qn_role role, int layer,
                   char out[QN_NAME_BYTES], int *rows, int *first_row, int *n_in)
{
    char prefix[128];
    bool is_down = role == QN_ROLE_EXPERT_DOWN;
    layer_prefix(names, layer, prefix, sizeof prefix);
    snprintf(out, QN_NAME_BYTES, "%smlp.experts.%s", prefix, is_down ? "down_proj" : "gate_up_proj");
    *rows = is_down ? c->hidden : 2 * c->expert_ffn;
    *first_row = role == QN_ROLE_EXPERT_UP ? c->expert_ffn : 0;
    *n_in = is_down ? c->expert_ffn : c->hidden;
}

bool qn_vec_is_global(enum qn_vec vec)
{
    return vec == QN_VEC_FINAL_NORM || vec >= QN_VEC_MTP_NORM_EMBED;
}

size_t qn_vec_count(const struct qn_config *c, enum qn_vec vec, int layer)
{
    size_t H = (size_t)c->hidden;
    switch (vec) {
    case QN_VEC_FINAL_NORM:
    case QN_VEC_MTP_NORM_EMBED:
    case QN_VEC_MTP_NORM_HIDDEN:
    case QN_VEC_MTP_NORM:
        return H;
    case QN_VEC_INPUT_NORM:
    case QN_VEC_POST_NORM:
        return has(c, layer, ANY) ? H : 0;
    case QN_VEC_Q_NORM:
    case QN_VEC_K_NORM:
        return has(c, layer, FULL) ? (size_t)c->head_dim : 0;
    case QN_VEC_CONV:
        return has(c, layer, GDN) ? (size_t)qn_config_conv_dim(c) * (size_t)c->conv_taps : 0;
    case QN_VEC_A_LOG:
    case QN_VEC_DT_BIAS:
        return has(c, layer, GDN) ? (size_t)c->n_v_head : 0;
    case QN_VEC_GDN_NORM:
        return has(c, layer, GDN) ? (size_t)c->v_dim : 0;
    default:
        return 0;
    }
}

void qn_vec_name(const struct qn_names *names, enum qn_vec vec, int layer, char out[QN_NAME_BYTES])
{
    char prefix[128];
    if (vec == QN_VEC_FINAL_NORM)
        snprintf(prefix, sizeof prefix, "%s", names->text);
    else if (vec >= QN_VEC_MTP_NORM_EMBED)
        snprintf(prefix, sizeof prefix, "%s", names->mtp);
    else
        layer_prefix(names, layer, prefix, sizeof prefix);
    snprintf(out, QN_NAME_BYTES, "%s%s", prefix, vectors[vec]);
}
