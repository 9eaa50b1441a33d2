/* GGUF tensors as those of a published checkpoint.
 * SPDX-License-Identifier: Apache-2.0 */
#include "model/gguf.h"

#include "base/gguf_json.h"

int qn_gguf_config(const struct qn_gguf_set *set, const char *overrides, struct qn_config *out,
                   struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_buf config = QN_BUF_INIT(QN_GGUF_JSON_MAX), generation = QN_BUF_INIT(QN_GGUF_JSON_MAX);
    QN_TRY(qn_gguf_config_json(set, &config, e));
    QN_TRY(qn_gguf_generation_json(set->files[0], &generation, e));
    QN_TRY(
        qn_config_parse(out,
                        &(struct qn_config_text){qn_buf_str(&config), config.n_byte, qn_buf_str(&generation),
                                                 generation.n_byte, overrides, qn_gguf_path(set->files[0])},
                        e));
    out->is_tiled = out->n_v_head != out->n_k_head;
out:
    qn_buf_free(&config);
    qn_buf_free(&generation);
    return rc;
}

bool qn_gguf_dtype(uint32_t type, enum qn_dtype *out)
{
    static const struct {
        uint32_t type;
        enum qn_dtype dtype;
    } all[] = {{0, QN_F32},     {1, QN_F16},       {30, QN_BF16},    {28, QN_F64},  {2, QN_Q4_0},
               {3, QN_Q4_1},    {6, QN_Q5_0},      {7, QN_Q5_1},     {8, QN_Q8_0},  {10, QN_Q2_K},
               {11, QN_Q3_K},   {12, QN_Q4_K},     {13, QN_Q5_K},    {14, QN_Q6_K}, {20, QN_IQ4_NL},
               {23, QN_IQ4_XS}, {39, QN_MXFP4_32}, {40, QN_NVFP4_64}};
    for (size_t i = 0; i < QN_COUNT(all); i++)
        if (all[i].type == type) {
            *out = all[i].dtype;
            return true;
        }
    return false;
}

/* --- names --- */

#define NAMES_TEXT "model.language_model." /* as published */
#define NAMES_MTP  "mtp."
#define NAME_BYTES 512

/* Of a layer: the stem before .weight, .scale, .input_scale. */
static const struct {
    const char *gguf, *hf;
} stems[] = {
    {"attn_norm", "input_layernorm"},
    {"post_attention_norm", "post_attention_layernorm"},
    {"attn_q", "self_attn.q_proj"},
    {"attn_k", "self_attn.k_proj"},
    {"attn_v", "self_attn.v_proj"},
    {"attn_output", "self_attn.o_proj"},
    {"attn_q_norm", "self_attn.q_norm"},
    {"attn_k_norm", "self_attn.k_norm"},
    {"attn_qkv", "linear_attn.in_proj_qkv"},
    {"attn_gate", "linear_attn.in_proj_z"},
    {"ssm_alpha", "linear_attn.in_proj_a"},
    {"ssm_beta", "linear_attn.in_proj_b"},
    {"ssm_conv1d", "linear_attn.conv1d"},
    {"ssm_norm", "linear_attn.norm"},
    {"ssm_out", "linear_attn.out_proj"},
    {"ffn_gate", "mlp.gate_proj"},
    {"ffn_up", "mlp.up_proj"},
    {"ffn_down", "mlp.down_proj"},
    {"ffn_gate_inp", "mlp.gate"},
    {"ffn_gate_shexp", "mlp.shared_expert.gate_proj"},
    {"ffn_up_shexp", "mlp.shared_expert.up_proj"},
    {"ffn_down_shexp", "mlp.shared_expert.down_proj"},
    {"ffn_gate_inp_shexp", "mlp.shared_expert_gate"},
};

static const struct {
    const char *gguf, *hf;
} mtp_stems[] = {
    {"nextn.eh_proj", "fc"},
    {"nextn.enorm", "pre_fc_norm_embedding"},
    {"nextn.hnorm", "pre_fc_norm_hidden"},
    {"nextn.shared_head_norm", "norm"},
    {"nextn.embed_tokens", "embed_tokens"},
    {"nextn.shared_head_head", "lm_head"},
};

static const struct {
    const char *gguf;
    const char *hf[2]; /* experts.*.NAME; two: rows of both, one after the other */
} expert_stems[] = {
    {"ffn_gate_exps", {"gate_proj", NULL}},
    {"ffn_up_exps", {"up_proj", NULL}},
    {"ffn_down_exps", {"down_proj", NULL}},
    {"ffn_gate_up_exps", {"gate_proj", "up_proj"}},
};

struct make {
    const struct qn_gguf_set *set;
    const struct qn_config *c;
    struct qn_arena *names;
    struct qn_tensors *out;
    struct qn_err *e;
    int file, n_room;
};

static int add(struct make *m, const struct qn_tensor *t, const char *name)
{
    int rc = QN_OK;
    struct qn_tensors *o = m->out;
    if (o->n == m->n_room) {
        m->n_room = m->n_room * 2 + 256;
        o->list = xreallocarray(o->list, (size_t)m->n_room, sizeof *o->list);
        o->file_of = xreallocarray(o->file_of, (size_t)m->n_room, sizeof *o->file_of);
    }
    o->list[o->n] = *t;
    o->list[o->n].name = qn_arena_strndup(m->names, name, strlen(name));
    QN_FAIL_IF(!o->list[o->n].name, m->e, QN_TOOBIG, "%s: too many tensors", name);
    o->file_of[o->n++] = m->file;
out:
    return rc;
}

/* The view of a whole tensor; dimensions turned, those of 1 at the end left out. */
static int whole(struct make *m, const struct qn_gguf_tensor *g, struct qn_tensor *out)
{
    int rc = QN_OK;
    struct qn_tensor t = {.name = g->name, .data = g->data, .n_byte = g->n_byte};
    struct qn_gguf_type type = qn_gguf_type(g->type);
    QN_FAIL_IF(!qn_gguf_dtype(g->type, &t.dtype), m->e, QN_UNSUPPORTED,
               "%s: tensor %.120s is of type %s (%" PRIu32
               "), which is not read; take a file of the model in Q4_K_M, IQ4_XS, Q6_K or Q8_0",
               qn_gguf_path(m->set->files[m->file]), g->name, type.name ? type.name : "unknown", g->type);
    int n = g->n_dim;
    while (n > 1 && g->dim[n - 1] == 1) n--;
    t.n_dim = n;
    for (int i = 0; i < n; i++) t.shape[i] = g->dim[n - 1 - i];
    *out = t;
out:
    return rc;
}

static size_t row_bytes(const struct qn_tensor *t, int64_t n_in)
{
    return qn_dtype_is_block(t->dtype) ? qn_block_row_bytes(t->dtype, (int)n_in)
                                       : (size_t)n_in * qn_dtype_bytes(t->dtype);
}

/* Rows [first, first + n) of a matrix of n_in inputs that starts at byte `at` of a tensor. */
static struct qn_tensor rows_of(const struct qn_tensor *t, size_t at, int64_t first, int64_t n, int64_t n_in)
{
    struct qn_tensor out = *t;
    size_t row = row_bytes(t, n_in);
    out.data = (const char *)t->data + at + (size_t)first * row;
    out.n_byte = (size_t)n * row;
    out.n_dim = 2;
    out.shape[0] = n;
    out.shape[1] = n_in;
    out.shape[2] = 0;
    return out;
}

static void layer_prefix(const struct make *m, int layer, char *out, size_t n)
{
    if (layer < m->c->n_layer)
        snprintf(out, n, "%slayers.%d.", NAMES_TEXT, layer);
    else
        snprintf(out, n, "%slayers.%d.", NAMES_MTP, layer - m->c->n_layer);
}

/* Stacked experts, {inputs, outputs, experts}, or one scale an expert. */
static int add_experts(struct make *m, const struct qn_gguf_tensor *g, const char *prefix, int which,
                       const char *suffix)
{
    int rc = QN_OK;
    char name[NAME_BYTES];
    struct qn_tensor t, part;
    int64_t n_expert = m->c->n_expert, n_part = expert_stems[which].hf[1] ? 2 : 1;
    bool is_weight = !strcmp(suffix, "weight");
    QN_TRY(whole(m, g, &t));
    if (!is_weight && strcmp(suffix, "scale")) {
        snprintf(name, sizeof name, "%smlp.experts.%s", prefix, suffix);
        QN_TRY(add(m, &t, name));
        goto out;
    }
    int64_t count = is_weight ? g->dim[2] : g->dim[0], n_in = g->dim[0], n_out = g->dim[1] / n_part;
    QN_FAIL_IF(count != n_expert || g->dim[3] != 1 || (is_weight && g->dim[1] % n_part) ||
                   (!is_weight && (g->dim[1] != 1 || t.dtype != QN_F32)),
               m->e, QN_FORMAT, "%s: tensor %.120s does not hold %" PRId64 " experts",
               qn_gguf_path(m->set->files[m->file]), g->name, n_expert);
    size_t one = g->n_byte / (size_t)n_expert;
    for (int64_t x = 0; x < n_expert; x++)
        for (int p = 0; p < (int)n_part; p++) {
            if (is_weight) {
                part = rows_of(&t, (size_t)x * one, p * n_out, n_out, n_in);
            } else {
                part = t;
                part.data = (const char *)t.data + x * 4;
                part.n_byte = 4;
                part.n_dim = 1;
                part.shape[0] = 1;
            }
            snprintf(name, sizeof name, "%smlp.experts.%d.%s.%s", prefix, (int)x, expert_stems[which].hf[p],
                     suffix);
            QN_TRY(add(m, &part, name));
        }
out:
    return rc;
}

/* attn_qkv of a full-attention layer: the rows of q, k and v. */
static int add_fused_attention(struct make *m, const struct qn_gguf_tensor *g, const char *prefix)
{
    int rc = QN_OK;
    char name[NAME_BYTES];
    struct qn_tensor t;
    const struct qn_config *c = m->c;
    int64_t n[3] = {(int64_t)c->n_head * 2 * c->head_dim, (int64_t)c->n_kv_head * c->head_dim, 0}, first = 0;
    static const char *const parts[] = {"q_proj", "k_proj", "v_proj"};
    n[2] = n[1];
    QN_TRY(whole(m, g, &t));
    QN_FAIL_IF(g->dim[1] != n[0] + 2 * n[1] || g->dim[2] != 1, m->e, QN_FORMAT,
               "tensor %.120s: expected %" PRId64 " rows (q, k and v), found %" PRId64, g->name,
               n[0] + 2 * n[1], g->dim[1]);
    for (int i = 0; i < 3; first += n[i++]) {
        struct qn_tensor part = rows_of(&t, 0, first, n[i], g->dim[0]);
        snprintf(name, sizeof name, "%sself_attn.%s.weight", prefix, parts[i]);
        QN_TRY(add(m, &part, name));
    }
out:
    return rc;
}

/* A tensor under a stem of one module. */
static int add_module(struct make *m, const struct qn_gguf_tensor *g, const char *prefix, const char *module,
                      const char *suffix)
{
    int rc = QN_OK;
    char name[NAME_BYTES];
    struct qn_tensor t;
    QN_TRY(whole(m, g, &t));
    if (t.n_dim == 1 && !strcmp(module, "mlp.shared_expert_gate") && !strcmp(suffix, "weight")) {
        t.n_dim = 2; /* one output: {H} or {H, 1} */
        t.shape[1] = t.shape[0];
        t.shape[0] = 1;
    }
    snprintf(name, sizeof name, "%s%s.%s", prefix, module, suffix);
    QN_TRY(add(m, &t, name));
out:
    return rc;
}

/* rest: the name after "blk.<layer>." */
static int add_of_layer(struct make *m, const struct qn_gguf_tensor *g, int layer, const char *rest)
{
    int rc = QN_OK;
    struct qn_tensor t;
    char prefix[128], stem[QN_GGUF_MAX_NAME], name[NAME_BYTES];
    layer_prefix(m, layer, prefix, sizeof prefix);
    static const struct {
        const char *gguf, *hf;
    } odd[] = {{"ssm_a", "linear_attn.A_log"}, {"ssm_dt.bias", "linear_attn.dt_bias"}};
    for (size_t i = 0; i < QN_COUNT(odd); i++)
        if (!strcmp(rest, odd[i].gguf)) {
            QN_TRY(whole(m, g, &t));
            snprintf(name, sizeof name, "%s%s", prefix, odd[i].hf);
            return add(m, &t, name);
        }
    const char *dot = strrchr(rest, '.');
    if (!dot) goto unknown;
    snprintf(stem, sizeof stem, "%.*s", (int)(dot - rest), rest);
    bool is_full = layer >= m->c->n_layer || m->c->is_full[layer];
    if (is_full && !strcmp(stem, "attn_qkv") && !strcmp(dot, ".weight"))
        return add_fused_attention(m, g, prefix);
    for (int i = 0; i < (int)QN_COUNT(expert_stems); i++)
        if (!strcmp(stem, expert_stems[i].gguf)) return add_experts(m, g, prefix, i, dot + 1);
    for (size_t i = 0; i < QN_COUNT(stems); i++)
        if (!strcmp(stem, stems[i].gguf)) return add_module(m, g, prefix, stems[i].hf, dot + 1);
    for (size_t i = 0; layer == m->c->n_layer && i < QN_COUNT(mtp_stems); i++)
        if (!strcmp(stem, mtp_stems[i].gguf)) return add_module(m, g, NAMES_MTP, mtp_stems[i].hf, dot + 1);
unknown: /* left as it is: opening the model says that it has no place */
    QN_TRY(whole(m, g, &t));
    QN_TRY(add(m, &t, g->name));
out:
    return rc;
}

static int add_tensor(struct make *m, const struct qn_gguf_tensor *g)
{
    static const struct {
        const char *gguf, *hf;
    } globals[] = {{"token_embd.", "model.language_model.embed_tokens."},
                   {"output_norm.", "model.language_model.norm."},
                   {"output.", "lm_head."}};
    int layer, end = 0;
    char name[NAME_BYTES];
    struct qn_tensor t;
    if (sscanf(g->name, "blk.%5d.%n", &layer, &end) == 1 && end && layer >= 0)
        return add_of_layer(m, g, layer, g->name + end);
    if (!strcmp(g->name, "rope_freqs.weight")) return QN_OK; /* follows from the configuration */
    int rc = whole(m, g, &t);
    if (rc) return rc;
    for (size_t i = 0; i < QN_COUNT(globals); i++)
        if (!strncmp(g->name, globals[i].gguf, strlen(globals[i].gguf))) {
            snprintf(name, sizeof name, "%s%s", globals[i].hf, g->name + strlen(globals[i].gguf));
            return add(m, &t, name);
        }
    return add(m, &t, g->name);
}

int qn_gguf_tensors(const struct qn_gguf_set *set, const struct qn_config *c, struct qn_arena *names,
                    struct qn_tensors *out, struct qn_err *e)
{
    int rc = QN_OK;
    char key[64];
    struct make m = {.set = set, .c = c, .names = names, .out = out, .e = e};
    *out = (struct qn_tensors){0};
    QN_FAIL_IF(!qn_gguf_set_find(set, "blk.0.attn_norm.weight"), e, QN_UNSUPPORTED,
               "%s: no layer of the model is in it%s", qn_gguf_path(set->files[0]),
               c->n_mtp ? "; a file of the MTP layer alone, name the model's own file" : "");
    for (m.file = 0; m.file < set->n; m.file++)
        for (int i = 0; i < qn_gguf_n_tensor(set->files[m.file]); i++)
            QN_TRY(add_tensor(&m, qn_gguf_tensor(set->files[m.file], i)));
    snprintf(key, sizeof key, "blk.%d.nextn.shared_head_norm.weight", c->n_layer);
    const struct qn_gguf_tensor *norm = qn_gguf_set_find(set, "output_norm.weight");
    if (c->n_mtp && norm && !qn_gguf_set_find(set, key)) { /* then it is the model's own */
        struct qn_tensor t;
        m.file = 0;
        QN_TRY(whole(&m, norm, &t));
        QN_TRY(add(&m, &t, "mtp.norm.weight"));
    }
out:
    if (rc) qn_tensors_free(out);
    return rc;
}
