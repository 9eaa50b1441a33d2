/* config.json and generation_config.json -> struct qn_config.
 * SPDX-License-Identifier: Apache-2.0 */
#include "model/config.h"

#include <math.h>
#include <stdarg.h>
#include <unistd.h>

#include "base/model_path.h"
#include "base/shown.h"
#include "model/config_impl.h"

#define MAX_CONFIG_BYTES ((size_t)16 << 20) /* quantised releases list their modules in config.json */
#define MAX_ARENA_BYTES  ((size_t)256 << 20)

/* Limits, named in errors. They bound products to int and buffers to sane sizes. */
#define MAX_HIDDEN  65536
#define MAX_WIDTH   1048576 /* feed-forward widths */
#define MAX_VOCAB   4194304
#define MAX_HEADS   512
#define MAX_HEAD    1024 /* head dims */
#define MAX_EXPERT  4096
#define MAX_TOP_K   64
#define MAX_CONTEXT 16777216
#define MAX_TAPS    16

void qn_config_note(struct qn_config *c, const char *fmt, ...)
{
    if (c->n_note == QN_MAX_CONFIG_NOTE) return;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(c->note[c->n_note], sizeof c->note[0], fmt, ap);
    qn_show(c->note[c->n_note++], sizeof c->note[0]);
    va_end(ap);
}

static int get_int(struct qn_config_reader *r, const char *key, int dflt, int min, int max, int *out)
{
    int rc = QN_OK;
    int64_t x;
    rc = qn_json_get_int(r->tx, key, dflt, &x, r->e);
    if (rc) {
        qn_err_prefix(r->e, "%s", r->name);
        goto out;
    }
    QN_FAIL_IF(x < min || x > max, r->e, QN_INVAL, "%s: %s is %" PRId64 ", allowed are %d to %d", r->name,
               key, x, min, max);
    *out = (int)x;
out:
    return rc;
}

int qn_config_num(struct qn_config_reader *r, const struct qn_json *obj, const char *key, double dflt,
                  double min, double max, double *out)
{
    int rc = QN_OK;
    double x;
    rc = qn_json_get_num(obj, key, dflt, &x, r->e);
    if (rc) {
        qn_err_prefix(r->e, "%s", r->name);
        goto out;
    }
    QN_FAIL_IF(!(x >= min && x <= max), r->e, QN_INVAL, "%s: %s is %g, allowed are %g to %g", r->name, key, x,
               min, max);
    *out = x;
out:
    return rc;
}

int qn_config_str(struct qn_config_reader *r, const struct qn_json *obj, const char *key, const char **out)
{
    int rc = qn_json_get_str(obj, key, "", out, r->e);
    if (rc) qn_err_prefix(r->e, "%s", r->name);
    return rc;
}

static bool is_moe_name(const char *s, bool *known)
{
    static const struct {
        const char *name;
        bool is_moe;
    } names[] = {
        {"Qwen3_5ForConditionalGeneration", false},
        {"Qwen3_5MoeForConditionalGeneration", true},
        {"Qwen3_5ForCausalLM", false},
        {"Qwen3_5MoeForCausalLM", true},
        {"qwen3_5", false},
        {"qwen3_5_moe", true},
        {"qwen3_5_text", false},
        {"qwen3_5_moe_text", true},
    };
    for (size_t i = 0; i < QN_COUNT(names); i++)
        if (!strcmp(s, names[i].name)) {
            *known = true;
            return names[i].is_moe;
        }
    *known = false;
    return false;
}

/* Either of architectures[0], the top model_type and the text model_type identifies the family; the
 * innermost known one says whether it is MoE. */
static int read_identity(struct qn_config_reader *r)
{
    int rc = QN_OK;
    struct qn_config *c = r->c;
    struct qn_json *list;
    const char *arch = "", *type, *text_type;
    rc = qn_json_get_arr(r->top, "architectures", &list, r->e);
    if (rc) {
        qn_err_prefix(r->e, "%s", r->name);
        goto out;
    }
    if (list && list->n) {
        QN_FAIL_IF(!qn_json_is(list->items[0], QN_JSON_STRING), r->e, QN_INVAL,
                   "%s: architectures must hold strings", r->name);
        arch = list->items[0]->text;
    }
    QN_TRY(qn_config_str(r, r->top, "model_type", &type));
    QN_TRY(qn_config_str(r, r->tx, "model_type", &text_type));
    bool arch_known, type_known, text_known;
    bool arch_moe = is_moe_name(arch, &arch_known), type_moe = is_moe_name(type, &type_known),
         text_moe = is_moe_name(text_type, &text_known);
    QN_FAIL_IF(
        !arch_known && !type_known && !text_known, r->e, QN_UNSUPPORTED,
        "%s: architecture '%.60s' (model_type '%.40s') is not of the Qwen3.5 family, the only one read",
        r->name, arch[0] ? arch : "(none)", type[0] ? type : "(none)");
    if (arch[0] && !arch_known)
        qn_config_note(c, "config.json names the architecture '%.80s'; model_type '%.40s' counts", arch,
                       type_known ? type : text_type);
    c->is_moe = text_known ? text_moe : type_known ? type_moe : arch_moe;
    if ((arch_known && arch_moe != c->is_moe) || (type_known && type_moe != c->is_moe))
        qn_config_note(
            c,
            "config.json contradicts itself about experts (architecture '%.60s', model_type '%.40s'); read "
            "as %s",
            arch, text_known ? text_type : type, c->is_moe ? "MoE" : "dense");
    snprintf(c->architecture, sizeof c->architecture, "%s",
             qn_shown(arch[0]   ? arch
                      : type[0] ? type
                                : text_type));
    c->has_vision = qn_json_is(qn_json_get(r->top, "vision_config"), QN_JSON_OBJECT);
out:
    return rc;
}

static int read_tie(struct qn_config_reader *r)
{
    int rc = QN_OK;
    const struct qn_json *outer = qn_json_get(r->top, "tie_word_embeddings");
    const struct qn_json *inner = qn_json_get(r->tx, "tie_word_embeddings");
    bool a = false, b = false;
    QN_TRY(qn_json_get_bool(r->top, "tie_word_embeddings", false, &a, r->e));
    QN_TRY(qn_json_get_bool(r->tx, "tie_word_embeddings", false, &b, r->e));
    r->c->is_tied = !qn_json_is_null(outer) ? a : b;
    if (!qn_json_is_null(outer) && !qn_json_is_null(inner) && a != b)
        qn_config_note(
            r->c, "tie_word_embeddings is %s at the top level and %s in text_config; the top level counts",
            a ? "true" : "false", b ? "true" : "false");
out:
    if (rc) qn_err_prefix(r->e, "%s", r->name);
    return rc;
}

static int read_widths(struct qn_config_reader *r)
{
    int rc = QN_OK;
    struct qn_config *c = r->c;
    double eps;
    QN_TRY(get_int(r, "hidden_size", c->is_moe ? 2048 : 4096, 1, MAX_HIDDEN, &c->hidden));
    QN_TRY(get_int(r, "num_hidden_layers", c->is_moe ? 40 : 32, 1, QN_MAX_LAYERS, &c->n_layer));
    QN_TRY(get_int(r, "vocab_size", 248320, 1, MAX_VOCAB, &c->vocab));
    QN_TRY(get_int(r, "max_position_embeddings", 32768, 1, MAX_CONTEXT, &c->max_context));
    QN_TRY(qn_config_num(r, r->tx, "rms_norm_eps", 1e-6, 0, 1, &eps));
    c->norm_eps = (float)eps;

    QN_TRY(get_int(r, "num_attention_heads", 16, 1, MAX_HEADS, &c->n_head));
    QN_TRY(get_int(r, "num_key_value_heads", c->is_moe ? 2 : 4, 1, MAX_HEADS, &c->n_kv_head));
    QN_TRY(get_int(r, "head_dim", 256, 2, MAX_HEAD, &c->head_dim));
    QN_FAIL_IF(c->n_head % c->n_kv_head, r->e, QN_INVAL,
               "%s: num_attention_heads %d is not a multiple of num_key_value_heads %d", r->name, c->n_head,
               c->n_kv_head);
    QN_TRY(get_int(r, "linear_num_key_heads", 16, 1, MAX_HEADS, &c->n_k_head));
    QN_TRY(get_int(r, "linear_num_value_heads", 32, 1, MAX_HEADS, &c->n_v_head));
    QN_TRY(get_int(r, "linear_key_head_dim", 128, 1, MAX_HEAD, &c->k_dim));
    QN_TRY(get_int(r, "linear_value_head_dim", 128, 1, MAX_HEAD, &c->v_dim));
    QN_TRY(get_int(r, "linear_conv_kernel_dim", 4, 1, MAX_TAPS, &c->conv_taps));
    QN_FAIL_IF(c->n_v_head % c->n_k_head, r->e, QN_INVAL,
               "%s: linear_num_value_heads %d is not a multiple of linear_num_key_heads %d", r->name,
               c->n_v_head, c->n_k_head);

    if (c->is_moe) {
        QN_TRY(get_int(r, "num_experts", 256, 1, MAX_EXPERT, &c->n_expert));
        QN_TRY(get_int(r, "num_experts_per_tok", 8, 1, QN_MIN(MAX_TOP_K, c->n_expert), &c->top_k));
        c->n_mtp_expert = c->n_expert;
        QN_TRY(get_int(r, "moe_intermediate_size", 512, 1, MAX_WIDTH, &c->expert_ffn));
        QN_TRY(get_int(r, "shared_expert_intermediate_size", 512, 1, MAX_WIDTH, &c->shared_ffn));
    } else {
        QN_TRY(get_int(r, "intermediate_size", 12288, 1, MAX_WIDTH, &c->ffn));
    }
    QN_TRY(get_int(r, "mtp_num_hidden_layers", 1, 0, 64, &c->n_mtp));
out:
    return rc;
}

static int read_layer_types(struct qn_config_reader *r)
{
    int rc = QN_OK;
    struct qn_config *c = r->c;
    struct qn_json *list;
    int interval;
    rc = qn_json_get_arr(r->tx, "layer_types", &list, r->e);
    if (rc) {
        qn_err_prefix(r->e, "%s", r->name);
        goto out;
    }
    QN_TRY(get_int(r, "full_attention_interval", 4, 1, QN_MAX_LAYERS, &interval));
    QN_FAIL_IF(list && list->n != (size_t)c->n_layer, r->e, QN_INVAL,
               "%s: layer_types has %zu entries, num_hidden_layers is %d", r->name, list->n, c->n_layer);
    for (int i = 0; i < c->n_layer; i++) {
        if (!list) {
            c->is_full[i] = (i + 1) % interval == 0;
        } else if (qn_json_is_str(list->items[i], "full_attention")) {
            c->is_full[i] = 1;
        } else {
            bool is_string = qn_json_is(list->items[i], QN_JSON_STRING);
            QN_FAIL_IF(!is_string || strcmp(list->items[i]->text, "linear_attention"), r->e, QN_UNSUPPORTED,
                       "%s: layer_types[%d] is '%.40s'; linear_attention and full_attention are supported",
                       r->name, i, is_string ? list->items[i]->text : "(not a string)");
        }
        if (c->is_full[i])
            c->n_full++;
        else
            c->n_gdn++;
    }
out:
    return rc;
}

/* Fields whose other value would be another model. */
static int refuse_variants(struct qn_config_reader *r)
{
    int rc = QN_OK;
    bool on;
    const char *word;
    static const struct {
        const char *key;
        bool dflt, want;
    } flags[] = {{"attention_bias", false, false},
                 {"attn_output_gate", true, true},
                 {"layer_scale", false, false},
                 {"mtp_use_dedicated_embeddings", false, false},
                 {"norm_topk_prob", true, true}};
    for (size_t i = 0; i < QN_COUNT(flags); i++) {
        rc = qn_json_get_bool(r->tx, flags[i].key, flags[i].dflt, &on, r->e);
        if (rc) {
            qn_err_prefix(r->e, "%s", r->name);
            goto out;
        }
        QN_FAIL_IF(on != flags[i].want, r->e, QN_UNSUPPORTED, "%s: %s = %s is not supported", r->name,
                   flags[i].key, on ? "true" : "false");
    }
    QN_TRY(qn_config_str(r, r->tx, "hidden_act", &word));
    QN_FAIL_IF(word[0] && strcmp(word, "silu") && strcmp(word, "swish"), r->e, QN_UNSUPPORTED,
               "%s: hidden_act '%.40s' is not supported (silu is)", r->name, word);
    QN_TRY(qn_config_str(r, r->tx, "output_gate_type", &word));
    if (!word[0] || !strcmp(word, "silu") || !strcmp(word, "swish"))
        r->c->gate_act = QN_GATE_SILU;
    else if (!strcmp(word, "sigmoid"))
        r->c->gate_act = QN_GATE_SIGMOID;
    else
        QN_FAIL(r->e, QN_UNSUPPORTED, "%s: output_gate_type '%.40s' is not supported (silu, swish, sigmoid)",
                r->name, word);
    QN_TRY(qn_config_str(r, r->tx, "mamba_ssm_dtype", &word));
    if (word[0] && strcmp(word, "float32"))
        qn_config_note(r->c, "mamba_ssm_dtype is '%.40s'; the recurrent state is kept in float32", word);
    const struct qn_json *dense = qn_json_get(r->tx, "mlp_only_layers");
    QN_FAIL_IF(dense && dense->type == QN_JSON_ARRAY && dense->n && r->c->is_moe, r->e, QN_UNSUPPORTED,
               "%s: mlp_only_layers is not supported, every layer has experts", r->name);
    int sparse;
    QN_TRY(get_int(r, "decoder_sparse_step", 1, 0, QN_MAX_LAYERS, &sparse));
    QN_FAIL_IF(sparse > 1 && r->c->is_moe, r->e, QN_UNSUPPORTED,
               "%s: decoder_sparse_step %d is not supported, every layer has experts", r->name, sparse);
out:
    return rc;
}

static int add_stop(struct qn_config_reader *r, const struct qn_json *v, const char *name)
{
    int rc = QN_OK;
    struct qn_config *c = r->c;
    if (qn_json_is_null(v)) goto out;
    size_t n = v->type == QN_JSON_ARRAY ? v->n : 1;
    for (size_t i = 0; i < n; i++) {
        const struct qn_json *item = v->type == QN_JSON_ARRAY ? v->items[i] : v;
        int64_t id;
        QN_FAIL_IF(!qn_json_int(item, &id) || id < 0, r->e, QN_INVAL, "%s: eos_token_id must be token ids",
                   name);
        if (id >= c->vocab) { /* a cut vocabulary under the configuration of the whole one */
            qn_config_note(c, "%.80s: eos_token_id %" PRId64 " is not below vocab_size %d and is ignored",
                           name, id, c->vocab);
            continue;
        }
        bool seen = false;
        for (int k = 0; k < c->n_stop; k++) seen |= c->stop_tok[k] == (int)id;
        if (seen) continue;
        QN_FAIL_IF(c->n_stop == QN_MAX_STOP, r->e, QN_TOOBIG, "%s: more than %d stop tokens", name,
                   QN_MAX_STOP);
        c->stop_tok[c->n_stop++] = (int)id;
    }
out:
    return rc;
}

static int read_generation(struct qn_config_reader *r, const struct qn_json *g)
{
    int rc = QN_OK;
    struct qn_config *c = r->c;
    const char *name = r->name;
    r->name = "generation_config.json";
    QN_TRY(add_stop(r, qn_json_get(g, "eos_token_id"), r->name));
    struct {
        const char *key;
        float *out;
        double min, max;
    } numbers[] = {{"temperature", &c->temperature, 0, 100},
                   {"top_p", &c->top_p, 0, 1},
                   {"min_p", &c->min_p, 0, 1},
                   {"presence_penalty", &c->presence_penalty, -10, 10},
                   {"repetition_penalty", &c->repetition_penalty, 0, 100}};
    for (size_t i = 0; i < QN_COUNT(numbers); i++) {
        double x;
        if (qn_json_is_null(qn_json_get(g, numbers[i].key))) continue;
        QN_TRY(qn_config_num(r, g, numbers[i].key, 0, numbers[i].min, numbers[i].max, &x));
        *numbers[i].out = (float)x;
    }
    const struct qn_json *text = r->tx;
    r->tx = g;
    rc = get_int(r, "top_k", -1, -1, MAX_VOCAB, &c->gen_top_k);
    r->tx = text;
out:
    r->name = name;
    return rc;
}

/* Lays `over` on `base`, member by member; what is no object replaces. */
static struct qn_json *overlay(struct qn_arena *arena, struct qn_json *base, const struct qn_json *over)
{
    for (size_t i = 0; i < over->n; i++) {
        const char *key = over->keys[i].text;
        struct qn_json *old = qn_json_get(base, key), *value = over->items[i];
        if (qn_json_is(old, QN_JSON_OBJECT) && value->type == QN_JSON_OBJECT)
            value = overlay(arena, old, value);
        if (!value || !qn_json_set(arena, base, key, value)) return NULL;
    }
    return base;
}

/* Does a member of the overrides that stands at the top mean the text model? */
static bool is_of_text(const struct qn_json *top, const struct qn_json *text, const char *key)
{
    static const char *const names[] = {"max_position_embeddings", "original_max_position_embeddings",
                                        "partial_rotary_factor"};
    if (!strncmp(key, "rope_", 5)) return true;
    for (size_t i = 0; i < QN_COUNT(names); i++)
        if (!strcmp(key, names[i])) return true;
    return qn_json_get(text, key) && !qn_json_get(top, key);
}

static int apply_overrides(struct qn_json *top, struct qn_arena *arena, const char *overrides,
                           struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_json *over, *text = qn_json_get(top, "text_config");
    QN_TRY(qn_json_parse(&over, arena, overrides, strlen(overrides), "--hf-overrides", e));
    QN_FAIL_IF(over->type != QN_JSON_OBJECT, e, QN_INVAL, "--hf-overrides: a JSON object is needed");
    for (size_t i = 0; i < over->n; i++) {
        struct qn_json *one = qn_json_new(arena, QN_JSON_OBJECT);
        const char *key = over->keys[i].text;
        bool inner = qn_json_is(text, QN_JSON_OBJECT) && is_of_text(top, text, key);
        QN_FAIL_IF(!one || !qn_json_set(arena, one, key, over->items[i]) ||
                       !overlay(arena, inner ? text : top, one),
                   e, QN_TOOBIG, "--hf-overrides: too large");
    }
out:
    return rc;
}

int qn_config_parse(struct qn_config *out, const struct qn_config_text *t, struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_config c = {0};
    struct qn_json *top, *gen;
    struct qn_arena *arena = qn_arena_create(MAX_ARENA_BYTES);
    const char *name = t->name;
    struct qn_config_reader r = {.c = &c, .name = name, .e = e};
    c.temperature = c.top_p = c.min_p = c.presence_penalty = c.repetition_penalty = NAN;
    c.gen_top_k = c.pad_tok = -1;
    QN_TRY(qn_json_parse(&top, arena, t->config, t->n_config, name, e));
    QN_FAIL_IF(top->type != QN_JSON_OBJECT, e, QN_FORMAT, "%s: not a JSON object", name);
    if (t->overrides) QN_TRY(apply_overrides(top, arena, t->overrides, e));
    const struct qn_json *text = qn_json_get(top, "text_config");
    r.top = top;
    r.tx = qn_json_is(text, QN_JSON_OBJECT) ? text : top;
    QN_TRY(read_identity(&r));
    QN_TRY(read_tie(&r));
    QN_TRY(read_widths(&r));
    QN_TRY(read_layer_types(&r));
    QN_TRY(qn_config_read_rope(&r));
    QN_TRY(refuse_variants(&r));
    if (t->generation) {
        QN_TRY(qn_json_parse(&gen, arena, t->generation, t->n_generation, "generation_config.json", e));
        QN_FAIL_IF(gen->type != QN_JSON_OBJECT, e, QN_FORMAT, "generation_config.json: not a JSON object");
        QN_TRY(read_generation(&r, gen));
    }
    QN_TRY(add_stop(&r, qn_json_get(top, "eos_token_id"), name));
    if (r.tx != top) QN_TRY(add_stop(&r, qn_json_get(r.tx, "eos_token_id"), name));
    int64_t pad;
    if (qn_json_int(qn_json_get(top, "pad_token_id"), &pad) ||
        qn_json_int(qn_json_get(r.tx, "pad_token_id"), &pad))
        c.pad_tok = pad >= 0 && pad < c.vocab ? (int)pad : -1;
    const struct qn_json *quant = qn_json_get(top, "quantization_config");
    if (!quant) quant = qn_json_get(r.tx, "quantization_config");
    const struct qn_json *method = qn_json_get(quant, "quant_method");
    if (qn_json_is(method, QN_JSON_STRING))
        snprintf(c.quant_method, sizeof c.quant_method, "%s", method->text);
    *out = c;
out:
    qn_arena_free(arena);
    return rc;
}

int qn_config_read(struct qn_config *out, const char *folder, const char *overrides, struct qn_err *e)
{
    int rc = QN_OK;
    char *path = xasprintf("%s/config.json", folder);
    char *gen_path = xasprintf("%s/generation_config.json", folder);
    struct qn_buf text = QN_BUF_INIT(MAX_CONFIG_BYTES), gen = QN_BUF_INIT(MAX_CONFIG_BYTES);
    if (access(path, F_OK)) QN_TRY(qn_model_path_no_config(folder, e));
    QN_TRY(qn_buf_read_file(&text, path, e));
    int found = qn_buf_read_file(&gen, gen_path, e);
    if (found != QN_OK && found != QN_NOTFOUND) {
        rc = found;
        goto out;
    }
    const struct qn_config_text t = {.config = qn_buf_str(&text),
                                     .n_config = text.n_byte,
                                     .generation = found ? NULL : qn_buf_str(&gen),
                                     .n_generation = gen.n_byte,
                                     .overrides = overrides,
                                     .name = path};
    QN_TRY(qn_config_parse(out, &t, e));
out:
    qn_buf_free(&text);
    qn_buf_free(&gen);
    free(path);
    free(gen_path);
    return rc;
}
