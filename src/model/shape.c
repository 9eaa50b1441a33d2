/* Released shapes and tiny ones, and their config.json.
 * SPDX-License-Identifier: Apache-2.0 */
#include "model/shape.h"

#include <strings.h>

#include "base/json.h"
#include "model/roles.h"

#define N_CONTROL 33

static const struct {
    const char *name;
    int hidden, n_layer, n_head, n_kv_head, n_v_head;
    int ffn;                                 /* dense */
    int n_expert, top_k, expert_ffn, shared; /* MoE */
    bool is_tied;
} released[] = {
    {"qwen3.5-0.8b", 1024, 24, 8, 2, 16, 3584, 0, 0, 0, 0, true},
    {"qwen3.5-2b", 2048, 24, 8, 2, 16, 6144, 0, 0, 0, 0, true},
    {"qwen3.5-4b", 2560, 32, 16, 4, 32, 9216, 0, 0, 0, 0, true},
    {"qwen3.5-9b", 4096, 32, 16, 4, 32, 12288, 0, 0, 0, 0, false},
    {"qwen3.5-27b", 5120, 64, 24, 4, 48, 17408, 0, 0, 0, 0, false},
    {"qwen3.5-35b-a3b", 2048, 40, 16, 2, 32, 0, 256, 8, 512, 512, false},
    {"qwen3.5-122b-a10b", 3072, 48, 32, 2, 64, 0, 256, 8, 1024, 1024, false},
    {"qwen3.5-397b-a17b", 4096, 60, 32, 2, 64, 0, 512, 10, 1024, 1024, false},
};

void qn_shape_list(FILE *out)
{
    for (size_t i = 0; i < QN_COUNT(released); i++) fprintf(out, "  %s\n", released[i].name);
    fprintf(
        out,
        "  tiny, tiny-moe, or tiny:OPTION=VALUE,... with the options\n"
        "    hidden layers vocab context heads kv_heads head_dim k_heads v_heads k_dim v_dim ffn interval\n"
        "    experts top_k expert_ffn shared_ffn layout=fused|split|mixed mtp_layout=fused|split\n"
        "    tied=0|1 mtp=0|1 text_only=0|1\n");
}

static void set_layer_types(struct qn_config *c, int interval)
{
    c->n_full = c->n_gdn = 0;
    for (int i = 0; i < c->n_layer; i++) {
        c->is_full[i] = (i + 1) % interval == 0;
        c->n_full += c->is_full[i];
    }
    c->n_gdn = c->n_layer - c->n_full;
}

static void common(struct qn_shape *s)
{
    struct qn_config *c = &s->config;
    c->norm_eps = 1e-6f;
    c->rope_theta = 1e7;
    c->conv_taps = 4;
    c->n_mtp = 1;
    c->pad_tok = -1;
    s->has_mtp = true;
    s->mtp_experts = QN_EXPERTS_SPLIT;
}

static void finish(struct qn_shape *s)
{
    struct qn_config *c = &s->config;
    c->is_moe = c->n_expert > 0;
    c->n_mtp_expert = c->n_expert;
    snprintf(c->architecture, sizeof c->architecture, "Qwen3_5%s%s", c->is_moe ? "Moe" : "",
             s->is_text_only ? "ForCausalLM" : "ForConditionalGeneration");
    c->rotary_dim = c->head_dim / 4 / 2 * 2;
    if (c->rotary_dim == 64) {
        memcpy(c->mrope_section, (int[3]){11, 11, 10}, sizeof c->mrope_section);
    } else {
        int half = c->rotary_dim / 2;
        memcpy(c->mrope_section, (int[3]){half - 2 * (half / 3), half / 3, half / 3},
               sizeof c->mrope_section);
    }
    s->first_control = c->vocab >= 248044 + N_CONTROL ? 248044 : 256;
    c->pad_tok = s->first_control;
    c->stop_tok[0] = s->first_control + 2;
    c->stop_tok[1] = s->first_control;
    c->n_stop = 2;
    c->n_mtp = s->has_mtp;
}

static bool find_released(struct qn_shape *s, const char *text)
{
    for (size_t i = 0; i < QN_COUNT(released); i++) {
        if (strcasecmp(text, released[i].name) && strcasecmp(text, released[i].name + strlen("qwen3.5-")))
            continue;
        struct qn_config *c = &s->config;
        c->hidden = released[i].hidden;
        c->n_layer = released[i].n_layer;
        c->vocab = 248320;
        c->max_context = 262144;
        c->n_head = released[i].n_head;
        c->n_kv_head = released[i].n_kv_head;
        c->head_dim = 256;
        c->n_k_head = 16;
        c->n_v_head = released[i].n_v_head;
        c->k_dim = c->v_dim = 128;
        c->ffn = released[i].ffn;
        c->n_expert = released[i].n_expert;
        c->top_k = released[i].top_k;
        c->expert_ffn = released[i].expert_ffn;
        c->shared_ffn = released[i].shared;
        c->is_tied = released[i].is_tied;
        set_layer_types(c, 4);
        return true;
    }
    return false;
}

static int set_option(struct qn_shape *s, const char *key, const char *value, int *interval, struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_config *c = &s->config;
    static const char *const layouts[] = {"fused", "split", "mixed"};
    if (!strcmp(key, "layout") || !strcmp(key, "mtp_layout")) {
        for (size_t i = 0; i < QN_COUNT(layouts); i++) {
            if (strcmp(value, layouts[i])) continue;
            if (key[0] == 'm')
                s->mtp_experts = (enum qn_expert_layout)i;
            else
                s->experts = (enum qn_expert_layout)i;
            goto out;
        }
        QN_FAIL(e, QN_INVAL, "tiny: %s is '%.20s'; fused, split or mixed is needed", key, value);
    }
    int tied, mtp, text_only;
    const struct {
        const char *key;
        int *out, min, max;
    } numbers[] = {
        {"hidden", &c->hidden, 8, 8192},
        {"layers", &c->n_layer, 1, QN_MAX_LAYERS},
        {"vocab", &c->vocab, 289, 1000000},
        {"context", &c->max_context, 16, 1 << 24},
        {"heads", &c->n_head, 1, 128},
        {"kv_heads", &c->n_kv_head, 1, 128},
        {"head_dim", &c->head_dim, 8, 512},
        {"k_heads", &c->n_k_head, 1, 128},
        {"v_heads", &c->n_v_head, 1, 128},
        {"k_dim", &c->k_dim, 2, 512},
        {"v_dim", &c->v_dim, 2, 512},
        {"ffn", &c->ffn, 1, 65536},
        {"interval", interval, 1, 256},
        {"experts", &c->n_expert, 1, 1024},
        {"top_k", &c->top_k, 1, 64},
        {"expert_ffn", &c->expert_ffn, 1, 8192},
        {"shared_ffn", &c->shared_ffn, 1, 8192},
        {"tied", &tied, 0, 1},
        {"mtp", &mtp, 0, 1},
        {"text_only", &text_only, 0, 1},
    };
    for (size_t i = 0; i < QN_COUNT(numbers); i++) {
        if (strcmp(key, numbers[i].key)) continue;
        char *end;
        long x = strtol(value, &end, 10);
        QN_FAIL_IF(!*value || *end || x < numbers[i].min || x > numbers[i].max, e, QN_INVAL,
                   "tiny: %s is '%.20s', allowed are %d to %d", key, value, numbers[i].min, numbers[i].max);
        *numbers[i].out = (int)x;
        if (numbers[i].out == &tied) c->is_tied = tied;
        if (numbers[i].out == &mtp) s->has_mtp = mtp;
        if (numbers[i].out == &text_only) s->is_text_only = text_only;
        goto out;
    }
    QN_FAIL(e, QN_INVAL, "tiny: unknown option '%.30s'; quern synth --help lists them", key);
out:
    return rc;
}

static int find_tiny(struct qn_shape *s, const char *text, struct qn_err *e)
{
    int rc = QN_OK, interval = 4;
    struct qn_config *c = &s->config;
    char *list = NULL, *save = NULL;
    bool moe = !strncmp(text, "tiny-moe", 8);
    const char *rest = text + (moe ? 8 : 4);
    QN_FAIL_IF(*rest && *rest != ':', e, QN_INVAL, "unknown shape '%.60s'; quern synth --help lists them",
               text);
    c->hidden = 64;
    c->n_layer = 4;
    c->vocab = 320;
    c->max_context = 4096;
    c->n_head = 4;
    c->n_kv_head = 2;
    c->head_dim = 32;
    c->n_k_head = 2;
    c->n_v_head = 4;
    c->k_dim = c->v_dim = 16;
    c->ffn = moe ? 0 : 128;
    c->n_expert = moe ? 8 : 0;
    c->top_k = moe ? 2 : 0;
    c->expert_ffn = c->shared_ffn = moe ? 32 : 0;
    c->is_tied = !moe;
    list = xstrdup(*rest ? rest + 1 : "");
    for (char *word = strtok_r(list, ",", &save); word; word = strtok_r(NULL, ",", &save)) {
        char *eq = strchr(word, '=');
        QN_FAIL_IF(!eq, e, QN_INVAL, "tiny: '%.40s' is not option=value", word);
        *eq = 0;
        QN_TRY(set_option(s, word, eq + 1, &interval, e));
    }
    if (c->n_expert) {
        c->ffn = 0;
        if (!c->top_k) c->top_k = QN_MIN(2, c->n_expert);
        if (!c->expert_ffn) c->expert_ffn = 32;
        if (!c->shared_ffn) c->shared_ffn = 32;
    }
    QN_FAIL_IF(c->n_head % c->n_kv_head || c->n_v_head % c->n_k_head || c->top_k > c->n_expert, e, QN_INVAL,
               "tiny: heads must be a multiple of kv_heads, v_heads of k_heads, and top_k at most experts");
    set_layer_types(c, interval);
out:
    free(list);
    return rc;
}

int qn_shape_find(struct qn_shape *out, const char *text, struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_shape s = {0};
    common(&s);
    if (!find_released(&s, text)) {
        QN_FAIL_IF(strncmp(text, "tiny", 4), e, QN_INVAL,
                   "unknown shape '%.60s'; quern synth --help lists them", text);
        QN_TRY(find_tiny(&s, text, e));
    }
    finish(&s);
    *out = s;
out:
    return rc;
}

int qn_shape_cut(struct qn_shape *s, int n_layer, struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_config *c = &s->config;
    QN_FAIL_IF(n_layer < 1 || n_layer > c->n_layer, e, QN_INVAL, "--layers %d: the shape has %d layers",
               n_layer, c->n_layer);
    c->n_layer = n_layer;
    c->n_full = 0;
    for (int i = 0; i < n_layer; i++) c->n_full += c->is_full[i];
    c->n_gdn = n_layer - c->n_full;
out:
    return rc;
}

int64_t qn_shape_params(const struct qn_config *c, bool mtp)
{
    int64_t n = 0;
    int n_out, n_in;
    for (int r = 0; r < QN_N_ROLE; r++) {
        enum qn_role role = (enum qn_role)r;
        int64_t each = qn_role_is_expert(role) ? c->n_expert : 1;
        if (qn_role_is_global(role)) {
            qn_role_shape(c, role, 0, &n_out, &n_in);
            bool counts = (role == QN_ROLE_MTP_FC) == mtp && !(role == QN_ROLE_HEAD && c->is_tied);
            if (counts) n += (int64_t)n_out * n_in;
            continue;
        }
        for (int layer = mtp ? QN_LAYER_MTP : 0; layer < (mtp ? 0 : c->n_layer); layer++)
            if (qn_role_shape(c, role, layer, &n_out, &n_in)) n += each * n_out * n_in;
    }
    for (int v = 0; v < QN_N_VEC; v++) {
        enum qn_vec vec = (enum qn_vec)v;
        if (qn_vec_is_global(vec)) {
            if ((vec != QN_VEC_FINAL_NORM) == mtp) n += (int64_t)qn_vec_count(c, vec, 0);
            continue;
        }
        for (int layer = mtp ? QN_LAYER_MTP : 0; layer < (mtp ? 0 : c->n_layer); layer++)
            n += (int64_t)qn_vec_count(c, vec, layer);
    }
    return n;
}

static void text_fields(const struct qn_shape *s, const char *in, struct qn_buf *b)
{
    const struct qn_config *c = &s->config;
    qn_buf_printf(b,
                  "%s\"attention_bias\": false,\n%s\"attn_output_gate\": true,\n%s\"dtype\": \"bfloat16\",\n",
                  in, in, in);
    qn_buf_printf(b, "%s\"eos_token_id\": %d,\n%s\"head_dim\": %d,\n%s\"hidden_act\": \"silu\",\n", in,
                  s->first_control, in, c->head_dim, in);
    qn_buf_printf(b, "%s\"hidden_size\": %d,\n", in, c->hidden);
    if (!c->is_moe) qn_buf_printf(b, "%s\"intermediate_size\": %d,\n", in, c->ffn);
    qn_buf_printf(b, "%s\"layer_types\": [", in);
    for (int i = 0; i < c->n_layer; i++)
        qn_buf_printf(b, "%s\n%s  \"%s_attention\"", i ? "," : "", in, c->is_full[i] ? "full" : "linear");
    qn_buf_printf(b, "\n%s],\n%s\"linear_conv_kernel_dim\": %d,\n%s\"linear_key_head_dim\": %d,\n", in, in,
                  c->conv_taps, in, c->k_dim);
    qn_buf_printf(b, "%s\"linear_num_key_heads\": %d,\n%s\"linear_num_value_heads\": %d,\n", in, c->n_k_head,
                  in, c->n_v_head);
    qn_buf_printf(b, "%s\"linear_value_head_dim\": %d,\n%s\"mamba_ssm_dtype\": \"float32\",\n", in, c->v_dim,
                  in);
    qn_buf_printf(b, "%s\"max_position_embeddings\": %d,\n%s\"model_type\": \"qwen3_5%s_text\",\n", in,
                  c->max_context, in, c->is_moe ? "_moe" : "");
    if (c->is_moe)
        qn_buf_printf(
            b,
            "%s\"moe_intermediate_size\": %d,\n%s\"num_experts\": %d,\n%s\"num_experts_per_tok\": %d,\n"
            "%s\"shared_expert_intermediate_size\": %d,\n",
            in, c->expert_ffn, in, c->n_expert, in, c->top_k, in, c->shared_ffn);
    qn_buf_printf(b, "%s\"mtp_num_hidden_layers\": %d,\n%s\"mtp_use_dedicated_embeddings\": false,\n", in,
                  c->n_mtp, in);
    qn_buf_printf(
        b, "%s\"num_attention_heads\": %d,\n%s\"num_hidden_layers\": %d,\n%s\"num_key_value_heads\": %d,\n",
        in, c->n_head, in, c->n_layer, in, c->n_kv_head);
    qn_buf_printf(b,
                  "%s\"rms_norm_eps\": 1e-06,\n%s\"rope_parameters\": {\n%s  \"mrope_interleaved\": true,\n",
                  in, in, in);
    qn_buf_printf(b, "%s  \"mrope_section\": [%d, %d, %d],\n", in, c->mrope_section[0], c->mrope_section[1],
                  c->mrope_section[2]);
    qn_buf_printf(b, "%s  \"partial_rotary_factor\": ", in);
    qn_json_write_double(b, (double)c->rotary_dim / c->head_dim);
    qn_buf_printf(b, ",\n%s  \"rope_theta\": %.0f,\n%s  \"rope_type\": \"default\"\n%s},\n", in,
                  c->rope_theta, in, in);
    qn_buf_printf(b, "%s\"tie_word_embeddings\": %s,\n%s\"vocab_size\": %d", in,
                  c->is_tied ? "true" : "false", in, c->vocab);
}

void qn_shape_config_json(const struct qn_shape *s, const char *quantization, struct qn_buf *b)
{
    const struct qn_config *c = &s->config;
    int id = s->first_control;
    qn_buf_printf(b, "{\n  \"architectures\": [\n    \"%s\"\n  ],\n", c->architecture);
    if (quantization) qn_buf_printf(b, "  \"quantization_config\": %s,\n", quantization);
    if (s->is_text_only) {
        text_fields(s, "  ", b);
        qn_buf_puts(b, "\n}\n");
        return;
    }
    qn_buf_printf(b, "  \"image_token_id\": %d,\n  \"model_type\": \"qwen3_5%s\",\n  \"text_config\": {\n",
                  id + 12, c->is_moe ? "_moe" : "");
    text_fields(s, "    ", b);
    qn_buf_printf(
        b,
        "\n  },\n  \"tie_word_embeddings\": %s,\n  \"video_token_id\": %d,\n  \"vision_end_token_id\": %d,\n"
        "  \"vision_start_token_id\": %d\n}\n",
        c->is_tied ? "true" : "false", id + 13, id + 10, id + 9);
}

void qn_shape_generation_json(const struct qn_shape *s, struct qn_buf *b)
{
    qn_buf_printf(
        b,
        "{\n  \"do_sample\": true,\n  \"eos_token_id\": [\n    %d,\n    %d\n  ],\n  \"pad_token_id\": %d,\n"
        "  \"temperature\": 1.0,\n  \"top_k\": 20,\n  \"top_p\": 0.95\n}\n",
        s->first_control + 2, s->first_control, s->first_control);
}
