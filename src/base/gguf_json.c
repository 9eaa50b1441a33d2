/* The JSON files a GGUF file stands for.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/gguf_json.h"

#include <math.h>

#include "base/json.h"

/* --- values --- */

static const struct qn_gguf_value *arch_value(const struct qn_gguf *g, const char *key)
{
    char name[QN_GGUF_MAX_NAME];
    const struct qn_gguf_value *arch = qn_gguf_find(g, "general.architecture");
    if (!qn_gguf_is_string(arch)) return NULL;
    snprintf(name, sizeof name, "%.*s.%s", (int)QN_MIN(arch->n, 64), (const char *)arch->data, key);
    return qn_gguf_find(g, name);
}

static bool is_text(const struct qn_gguf_value *v, const char *text)
{
    return qn_gguf_is_string(v) && v->n == strlen(text) && !memcmp(v->data, text, v->n);
}

bool qn_gguf_arch_int(const struct qn_gguf *g, const char *key, int64_t *out)
{
    const struct qn_gguf_value *v = arch_value(g, key);
    if (!qn_gguf_int(v, 0, out)) return false;
    for (uint64_t i = 1; v->kind == QN_GGUF_ARRAY && i < v->n; i++) { /* one a layer: they must agree */
        int64_t x;
        if (!qn_gguf_int(v, i, &x) || (x != *out && x != 0 && *out != 0)) return false;
        if (!*out) *out = x;
    }
    return true;
}

static bool arch_num(const struct qn_gguf *g, const char *key, double *out)
{
    return qn_gguf_num(arch_value(g, key), 0, out) && isfinite(*out);
}

static int need_int(const struct qn_gguf *g, const char *key, int64_t *out, struct qn_err *e)
{
    int rc = QN_OK;
    QN_FAIL_IF(!qn_gguf_arch_int(g, key, out), e, QN_FORMAT,
               "%s: metadata key *.%s is missing or no single whole number; convert the model anew",
               qn_gguf_path(g), key);
out:
    return rc;
}

/* --- what kind of file --- */

int qn_gguf_check_model(const struct qn_gguf *g, bool *is_moe, struct qn_err *e)
{
    int rc = QN_OK, no, count;
    const struct qn_gguf_value *arch = qn_gguf_find(g, "general.architecture");
    const char *path = qn_gguf_path(g);
    if (!arch && qn_gguf_split_name(path, &no, &count) && no > 1)
        QN_FAIL(e, QN_INVAL, "%s: part %d of a split set; name the first part", path, no);
    QN_FAIL_IF(!qn_gguf_is_string(arch), e, QN_FORMAT, "%s: no general.architecture; not a model file", path);
    QN_FAIL_IF(is_text(arch, "clip"), e, QN_UNSUPPORTED,
               "%s: an mmproj file, the vision tower of a model; name the model's own .gguf file", path);
    QN_FAIL_IF(is_text(qn_gguf_find(g, "general.type"), "adapter"), e, QN_UNSUPPORTED,
               "%s: a LoRA adapter; merge it into the model first", path);
    bool dense = is_text(arch, "qwen35"), moe = is_text(arch, "qwen35moe");
    QN_FAIL_IF(!dense && !moe, e, QN_UNSUPPORTED,
               "%s: architecture '%.*s' is not of the Qwen3.5 family (qwen35, qwen35moe), the only one read",
               path, (int)QN_MIN(arch->n, 60), (const char *)arch->data);
    if (is_moe) *is_moe = moe;
out:
    return rc;
}

int qn_gguf_layers(const struct qn_gguf *g, int *n_layer, int *n_mtp, struct qn_err *e)
{
    int rc = QN_OK;
    int64_t n, mtp = 0;
    QN_TRY(need_int(g, "block_count", &n, e));
    qn_gguf_arch_int(g, "nextn_predict_layers", &mtp);
    QN_FAIL_IF(n < 1 || n > 4096 || mtp < 0 || mtp >= n, e, QN_FORMAT,
               "%s: block_count %" PRId64 " with %" PRId64 " MTP layers", qn_gguf_path(g), n, mtp);
    *n_layer = (int)(n - mtp);
    *n_mtp = (int)mtp;
out:
    return rc;
}

/* --- writing --- */

static void put_int(struct qn_buf *b, const char *key, int64_t x)
{
    qn_buf_printf(b, ",\n  \"%s\": %" PRId64, key, x);
}

static void put_num(struct qn_buf *b, const char *key, double x)
{
    qn_buf_printf(b, ",\n  \"%s\": ", key);
    qn_json_write_double(b, x);
}

static int finish(const struct qn_gguf *g, struct qn_buf *b, struct qn_err *e)
{
    int rc = QN_OK;
    QN_FAIL_IF(b->failed, e, b->failed, "%s: its metadata are too large", qn_gguf_path(g));
out:
    return rc;
}

/* A float as its shortest decimal text: 1e-06 and not 9.99999997e-07. */
static double shortest(double x)
{
    for (int digits = 1; digits < 10; digits++) {
        char text[40];
        snprintf(text, sizeof text, "%.*g", digits, x);
        double y = strtod(text, NULL);
        if ((float)y == (float)x) return y;
    }
    return x;
}

/* --- config.json --- */

static int put_attention(const struct qn_gguf *g, struct qn_buf *b, int64_t *head_dim, struct qn_err *e)
{
    int rc = QN_OK;
    int64_t n, v_length;
    QN_TRY(need_int(g, "attention.head_count", &n, e));
    put_int(b, "num_attention_heads", n);
    QN_TRY(need_int(g, "attention.head_count_kv", &n, e));
    put_int(b, "num_key_value_heads", n);
    QN_TRY(need_int(g, "attention.key_length", head_dim, e));
    QN_TRY(need_int(g, "attention.value_length", &v_length, e));
    QN_FAIL_IF(v_length != *head_dim, e, QN_UNSUPPORTED,
               "%s: key_length %" PRId64 " and value_length %" PRId64 " differ", qn_gguf_path(g), *head_dim,
               v_length);
    put_int(b, "head_dim", *head_dim);
out:
    return rc;
}

static int put_delta_net(const struct qn_gguf *g, struct qn_buf *b, struct qn_err *e)
{
    int rc = QN_OK;
    int64_t taps, dk, nk, nv, inner;
    QN_TRY(need_int(g, "ssm.conv_kernel", &taps, e));
    QN_TRY(need_int(g, "ssm.state_size", &dk, e));
    QN_TRY(need_int(g, "ssm.group_count", &nk, e));
    QN_TRY(need_int(g, "ssm.time_step_rank", &nv, e));
    QN_TRY(need_int(g, "ssm.inner_size", &inner, e));
    QN_FAIL_IF(nv < 1 || inner < 1 || inner % nv, e, QN_FORMAT,
               "%s: ssm.inner_size %" PRId64 " is no multiple of ssm.time_step_rank %" PRId64,
               qn_gguf_path(g), inner, nv);
    put_int(b, "linear_conv_kernel_dim", taps);
    put_int(b, "linear_key_head_dim", dk);
    put_int(b, "linear_num_key_heads", nk);
    put_int(b, "linear_num_value_heads", nv);
    put_int(b, "linear_value_head_dim", inner / nv);
out:
    return rc;
}

static int put_feed_forward(const struct qn_gguf *g, struct qn_buf *b, bool is_moe, struct qn_err *e)
{
    int rc = QN_OK;
    int64_t n;
    if (!is_moe) {
        QN_TRY(need_int(g, "feed_forward_length", &n, e));
        put_int(b, "intermediate_size", n);
        goto out;
    }
    QN_TRY(need_int(g, "expert_count", &n, e));
    put_int(b, "num_experts", n);
    QN_TRY(need_int(g, "expert_used_count", &n, e));
    put_int(b, "num_experts_per_tok", n);
    QN_TRY(need_int(g, "expert_feed_forward_length", &n, e));
    put_int(b, "moe_intermediate_size", n);
    QN_TRY(need_int(g, "expert_shared_feed_forward_length", &n, e));
    put_int(b, "shared_expert_intermediate_size", n);
out:
    return rc;
}

static int put_layer_types(const struct qn_gguf *g, struct qn_buf *b, int n_layer, struct qn_err *e)
{
    int rc = QN_OK;
    int64_t interval = 4, linear;
    const struct qn_gguf_value *list = arch_value(g, "attention.recurrent_layers");
    qn_gguf_arch_int(g, "full_attention_interval", &interval);
    QN_FAIL_IF(interval < 1, e, QN_FORMAT, "%s: full_attention_interval is %" PRId64, qn_gguf_path(g),
               interval);
    QN_FAIL_IF(list && (list->kind != QN_GGUF_ARRAY || list->n < (uint64_t)n_layer), e, QN_FORMAT,
               "%s: attention.recurrent_layers has not an entry a layer", qn_gguf_path(g));
    qn_buf_puts(b, ",\n  \"layer_types\": [");
    for (int i = 0; i < n_layer; i++) {
        linear = (i + 1) % interval != 0;
        if (list)
            QN_FAIL_IF(!qn_gguf_int(list, (uint64_t)i, &linear), e, QN_FORMAT,
                       "%s: attention.recurrent_layers holds no flags", qn_gguf_path(g));
        qn_buf_printf(b, "%s\"%s_attention\"", i ? ", " : "", linear ? "linear" : "full");
    }
    qn_buf_puts(b, "]");
out:
    return rc;
}

/* What scales positions. attention_factor is the product the reference multiplies with; the file has the part
 * beyond YaRN's own. */
static void put_scaling(const struct qn_gguf *g, struct qn_buf *b)
{
    const struct qn_gguf_value *type = arch_value(g, "rope.scaling.type");
    double x, factor = 1;
    if (!qn_gguf_is_string(type) || is_text(type, "none")) {
        qn_buf_puts(b, "\"rope_type\": \"default\"");
        return;
    }
    qn_buf_puts(b, "\"rope_type\": ");
    qn_json_write_str(b, (const char *)type->data, (size_t)QN_MIN(type->n, 40), false);
    if (arch_num(g, "rope.scaling.factor", &factor)) put_num(b, "factor", shortest(factor));
    if (arch_num(g, "rope.scaling.original_context_length", &x))
        put_int(b, "original_max_position_embeddings", (int64_t)QN_CLAMP(x, 0, 1e9));
    if (arch_num(g, "rope.scaling.yarn_beta_fast", &x)) put_num(b, "beta_fast", shortest(x));
    if (arch_num(g, "rope.scaling.yarn_beta_slow", &x)) put_num(b, "beta_slow", shortest(x));
    if (arch_num(g, "rope.scaling.yarn_attn_factor", &x) && x != 1 && factor > 0)
        put_num(b, "attention_factor", x * (0.1 * log(QN_MAX(factor, 1)) + 1));
}

static int put_rope(const struct qn_gguf *g, struct qn_buf *b, int64_t head_dim, struct qn_err *e)
{
    int rc = QN_OK;
    int64_t n = head_dim / 4, section[3] = {0, 0, 0};
    double theta = 1e7;
    const struct qn_gguf_value *sections = arch_value(g, "rope.dimension_sections");
    qn_gguf_arch_int(g, "rope.dimension_count", &n);
    QN_FAIL_IF(n < 0 || n > head_dim, e, QN_FORMAT, "%s: rope.dimension_count is %" PRId64, qn_gguf_path(g),
               n);
    arch_num(g, "rope.freq_base", &theta);
    qn_buf_puts(b, ",\n  \"rope_parameters\": {");
    put_scaling(g, b);
    put_num(b, "rope_theta", shortest(theta));
    double part = (double)n / (double)head_dim; /* read as (int)(head_dim * part) */
    if ((int64_t)((double)head_dim * part) < n) part = ((double)n + 0.25) / (double)head_dim;
    put_num(b, "partial_rotary_factor", part);
    bool has_section = sections != NULL;
    for (uint64_t i = 0; i < 3; i++) has_section = has_section && qn_gguf_int(sections, i, &section[i]);
    if (has_section)
        qn_buf_printf(b,
                      ",\n  \"mrope_interleaved\": true,\n  \"mrope_section\": [%" PRId64 ", %" PRId64
                      ", %" PRId64 "]",
                      section[0], section[1], section[2]);
    qn_buf_puts(b, "}");
out:
    return rc;
}

static int64_t vocab_size(const struct qn_gguf_set *set)
{
    const struct qn_gguf_tensor *t = qn_gguf_set_find(set, "token_embd.weight");
    const struct qn_gguf_value *tokens = qn_gguf_find(set->files[0], "tokenizer.ggml.tokens");
    return t                                         ? t->dim[1]
           : tokens && tokens->kind == QN_GGUF_ARRAY ? (int64_t)QN_MIN(tokens->n, INT32_MAX)
                                                     : 0;
}

int qn_gguf_config_json(const struct qn_gguf_set *set, struct qn_buf *b, struct qn_err *e)
{
    int rc = QN_OK, n_layer, n_mtp;
    bool is_moe;
    const struct qn_gguf *g = set->files[0];
    int64_t n, head_dim;
    double eps = 1e-6;
    QN_TRY(qn_gguf_check_model(g, &is_moe, e));
    QN_TRY(qn_gguf_layers(g, &n_layer, &n_mtp, e));
    qn_buf_printf(b,
                  "{\n  \"architectures\": [\"Qwen3_5%sForCausalLM\"],\n  \"model_type\": \"qwen3_5%s_text\"",
                  is_moe ? "Moe" : "", is_moe ? "_moe" : "");
    QN_TRY(need_int(g, "embedding_length", &n, e));
    put_int(b, "hidden_size", n);
    put_int(b, "num_hidden_layers", n_layer);
    put_int(b, "mtp_num_hidden_layers", n_mtp);
    put_int(b, "vocab_size", vocab_size(set));
    QN_TRY(need_int(g, "context_length", &n, e));
    put_int(b, "max_position_embeddings", n);
    arch_num(g, "attention.layer_norm_rms_epsilon", &eps);
    put_num(b, "rms_norm_eps", shortest(eps));
    QN_TRY(put_attention(g, b, &head_dim, e));
    QN_TRY(put_delta_net(g, b, e));
    QN_TRY(put_feed_forward(g, b, is_moe, e));
    QN_TRY(put_layer_types(g, b, n_layer, e));
    QN_TRY(put_rope(g, b, head_dim, e));
    qn_buf_printf(b, ",\n  \"tie_word_embeddings\": %s",
                  qn_gguf_set_find(set, "output.weight") ? "false" : "true");
    if (qn_gguf_int(qn_gguf_find(g, "tokenizer.ggml.padding_token_id"), 0, &n)) put_int(b, "pad_token_id", n);
    qn_buf_puts(b, ",\n  \"dtype\": \"bfloat16\",\n  \"hidden_act\": \"silu\"\n}\n");
    QN_TRY(finish(g, b, e));
out:
    return rc;
}

/* --- generation_config.json --- */

/* Ids that end a turn. A file has room for one; the others are found by their text, as its makers do. */
static void put_stops(const struct qn_gguf *g, struct qn_buf *b)
{
    static const char *const ends[] = {"<|im_end|>", "<|endoftext|>"};
    int64_t ids[8], id;
    int n = 0;
    static const char *const keys[] = {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id"};
    for (size_t i = 0; i < QN_COUNT(keys); i++)
        if (qn_gguf_int(qn_gguf_find(g, keys[i]), 0, &id)) ids[n++] = id;
    struct qn_gguf_strings s = {qn_gguf_find(g, "tokenizer.ggml.tokens"), 0, 0};
    const char *text;
    size_t length;
    while (n < 6 && qn_gguf_next_string(&s, &text, &length))
        for (size_t i = 0; i < QN_COUNT(ends); i++)
            if (length == strlen(ends[i]) && !memcmp(text, ends[i], length)) ids[n++] = (int64_t)s.i - 1;
    qn_buf_puts(b, "\"eos_token_id\": [");
    for (int i = 0; i < n; i++) {
        bool seen = false;
        for (int k = 0; k < i; k++) seen |= ids[k] == ids[i];
        if (!seen) qn_buf_printf(b, "%s%" PRId64, i ? ", " : "", ids[i]);
    }
    qn_buf_puts(b, "]");
}

int qn_gguf_generation_json(const struct qn_gguf *g, struct qn_buf *b, struct qn_err *e)
{
    static const struct {
        const char *key, *name;
        bool is_whole;
    } all[] = {{"general.sampling.temp", "temperature", false},
               {"general.sampling.top_k", "top_k", true},
               {"general.sampling.top_p", "top_p", false},
               {"general.sampling.min_p", "min_p", false}};
    double x;
    bool any = false;
    qn_buf_puts(b, "{\n  ");
    put_stops(g, b);
    for (size_t i = 0; i < QN_COUNT(all); i++) {
        if (!qn_gguf_num(qn_gguf_find(g, all[i].key), 0, &x) || !isfinite(x)) continue;
        any = true;
        if (all[i].is_whole)
            put_int(b, all[i].name, (int64_t)QN_CLAMP(x, -1, 1e9));
        else
            put_num(b, all[i].name, shortest(x));
    }
    qn_buf_printf(b, "%s\n}\n", any ? ",\n  \"do_sample\": true" : "");
    return finish(g, b, e);
}

/* --- tokenizer --- */

enum token_type { TOKEN_NORMAL = 1, TOKEN_UNKNOWN, TOKEN_CONTROL, TOKEN_USER, TOKEN_UNUSED, TOKEN_BYTE };

/* Pre-tokenisers by name. Others of the list of llama.cpp belong to other families. */
static const char *split_pattern(const struct qn_gguf_value *pre)
{
    static const char marks[] = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}| "
                                "?[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
    static const char plain[] = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| "
                                "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
    return is_text(pre, "qwen35") ? marks : is_text(pre, "qwen2") ? plain : NULL;
}

static void put_added(struct qn_buf *b, bool *first, int64_t id, const char *text, size_t n, bool is_special)
{
    qn_buf_printf(b, "%s\n    {\"id\": %" PRId64 ", \"content\": ", *first ? "" : ",", id);
    qn_json_write_str(b, text, n, false);
    qn_buf_printf(b,
                  ", \"single_word\": false, \"lstrip\": false, \"rstrip\": false, \"normalized\": false, "
                  "\"special\": %s}",
                  is_special ? "true" : "false");
    *first = false;
}

static int64_t token_type(const struct qn_gguf_value *types, uint64_t i)
{
    int64_t type = TOKEN_NORMAL;
    qn_gguf_int(types, i, &type);
    return type;
}

static int check_tokens(const struct qn_gguf *g, const char **pattern, struct qn_err *e)
{
    int rc = QN_OK;
    const char *path = qn_gguf_path(g);
    const struct qn_gguf_value *model = qn_gguf_find(g, "tokenizer.ggml.model"),
                               *pre = qn_gguf_find(g, "tokenizer.ggml.pre"),
                               *tokens = qn_gguf_find(g, "tokenizer.ggml.tokens"),
                               *merges = qn_gguf_find(g, "tokenizer.ggml.merges");
    QN_FAIL_IF(!tokens || tokens->element != QN_GGUF_STRING || tokens->kind != QN_GGUF_ARRAY || !merges ||
                   merges->element != QN_GGUF_STRING || merges->kind != QN_GGUF_ARRAY,
               e, QN_FORMAT, "%s: no tokenizer (tokenizer.ggml.tokens and merges); convert the model anew",
               path);
    QN_FAIL_IF(!is_text(model, "gpt2"), e, QN_UNSUPPORTED,
               "%s: tokenizer model '%.*s'; byte-level BPE (gpt2) is read", path,
               model && model->kind == QN_GGUF_STRING ? (int)QN_MIN(model->n, 40) : 0,
               model ? (const char *)model->data : "");
    *pattern = split_pattern(pre);
    QN_FAIL_IF(!*pattern, e, QN_UNSUPPORTED,
               "%s: pre-tokenizer '%.*s'; qwen35 and qwen2 are read, convert the model anew", path,
               pre && pre->kind == QN_GGUF_STRING ? (int)QN_MIN(pre->n, 40) : 0,
               pre ? (const char *)pre->data : "");
out:
    return rc;
}

int qn_gguf_tokenizer_json(const struct qn_gguf *g, struct qn_buf *b, struct qn_err *e)
{
    int rc = QN_OK;
    const char *pattern, *text;
    size_t n;
    bool first = true;
    QN_TRY(check_tokens(g, &pattern, e));
    const struct qn_gguf_value *tokens = qn_gguf_find(g, "tokenizer.ggml.tokens"),
                               *types = qn_gguf_find(g, "tokenizer.ggml.token_type"),
                               *merges = qn_gguf_find(g, "tokenizer.ggml.merges");
    qn_buf_puts(b, "{\n  \"version\": \"1.0\",\n  \"added_tokens\": [");
    for (struct qn_gguf_strings s = {tokens, 0, 0}; qn_gguf_next_string(&s, &text, &n);) {
        int64_t type = token_type(types, s.i - 1);
        if (type == TOKEN_CONTROL || type == TOKEN_USER)
            put_added(b, &first, (int64_t)s.i - 1, text, n, type == TOKEN_CONTROL);
    }
    qn_buf_puts(b,
                "],\n  \"normalizer\": {\"type\": \"NFC\"},\n  \"pre_tokenizer\": {\"type\": \"Sequence\", "
                "\"pretokenizers\": [{\"type\": \"Split\", \"pattern\": {\"Regex\": ");
    qn_json_write_str(b, pattern, strlen(pattern), false);
    qn_buf_puts(b,
                "}, \"behavior\": \"Isolated\", \"invert\": false}, {\"type\": \"ByteLevel\", "
                "\"add_prefix_space\": false, \"trim_offsets\": true, \"use_regex\": false}]},\n"
                "  \"post_processor\": null,\n  \"decoder\": {\"type\": \"ByteLevel\", \"add_prefix_space\": "
                "false, \"trim_offsets\": false, \"use_regex\": false},\n"
                "  \"model\": {\"type\": \"BPE\", \"dropout\": null, \"unk_token\": null, "
                "\"continuing_subword_prefix\": null, \"end_of_word_suffix\": null, \"fuse_unk\": false, "
                "\"byte_fallback\": false, \"ignore_merges\": false, \"vocab\": {");
    first = true;
    for (struct qn_gguf_strings s = {tokens, 0, 0}; qn_gguf_next_string(&s, &text, &n);) {
        int64_t type = token_type(types, s.i - 1);
        if (type == TOKEN_CONTROL || type == TOKEN_USER || type == TOKEN_UNUSED) continue;
        if (!first) qn_buf_puts(b, ", ");
        qn_json_write_str(b, text, n, false);
        qn_buf_printf(b, ": %" PRIu64, s.i - 1);
        first = false;
    }
    qn_buf_puts(b, "}, \"merges\": [");
    first = true;
    for (struct qn_gguf_strings s = {merges, 0, 0}; qn_gguf_next_string(&s, &text, &n); first = false) {
        if (!first) qn_buf_puts(b, ", ");
        qn_json_write_str(b, text, n, false);
    }
    qn_buf_puts(b, "]}\n}\n");
    QN_TRY(finish(g, b, e));
out:
    return rc;
}

static void put_token(const struct qn_gguf *g, struct qn_buf *b, const char *key, const char *name)
{
    int64_t id;
    const char *text;
    size_t n;
    if (!qn_gguf_int(qn_gguf_find(g, key), 0, &id)) return;
    struct qn_gguf_strings s = {qn_gguf_find(g, "tokenizer.ggml.tokens"), 0, 0};
    while (qn_gguf_next_string(&s, &text, &n))
        if ((int64_t)s.i - 1 == id) {
            qn_buf_printf(b, ",\n  \"%s\": ", name);
            qn_json_write_str(b, text, n, false);
            return;
        }
}

int qn_gguf_tokenizer_config_json(const struct qn_gguf *g, struct qn_buf *b, struct qn_err *e)
{
    static const char one[] = "tokenizer.chat_template";
    const struct qn_gguf_value *list = qn_gguf_find(g, "tokenizer.chat_templates"), *t = qn_gguf_find(g, one);
    qn_buf_puts(b, "{\n  \"add_bos_token\": false");
    put_token(g, b, "tokenizer.ggml.eos_token_id", "eos_token");
    put_token(g, b, "tokenizer.ggml.padding_token_id", "pad_token");
    put_token(g, b, "tokenizer.ggml.bos_token_id", "bos_token");
    if (list && list->kind == QN_GGUF_ARRAY && list->n) { /* the others are under <key>.<name> */
        const char *name;
        size_t n;
        char key[QN_GGUF_MAX_NAME];
        bool first = true;
        qn_buf_puts(b, ",\n  \"chat_template\": [");
        if (qn_gguf_is_string(t)) {
            qn_buf_puts(b, "{\"name\": \"default\", \"template\": ");
            qn_json_write_str(b, (const char *)t->data, (size_t)t->n, false);
            qn_buf_puts(b, "}");
            first = false;
        }
        for (struct qn_gguf_strings s = {list, 0, 0}; qn_gguf_next_string(&s, &name, &n);) {
            snprintf(key, sizeof key, "%s.%.*s", one, (int)QN_MIN(n, (size_t)100), name);
            const struct qn_gguf_value *v = qn_gguf_find(g, key);
            if (!qn_gguf_is_string(v)) continue;
            qn_buf_printf(b, "%s{\"name\": ", first ? "" : ", ");
            qn_json_write_str(b, name, n, false);
            qn_buf_puts(b, ", \"template\": ");
            qn_json_write_str(b, (const char *)v->data, (size_t)v->n, false);
            qn_buf_puts(b, "}");
            first = false;
        }
        qn_buf_puts(b, "]");
    } else if (qn_gguf_is_string(t)) {
        qn_buf_puts(b, ",\n  \"chat_template\": ");
        qn_json_write_str(b, (const char *)t->data, (size_t)t->n, false);
    }
    qn_buf_puts(b, "\n}\n");
    return finish(g, b, e);
}
