/* What stays unquantised, by name of recipe, and the configuration text of each format.
 * SPDX-License-Identifier: Apache-2.0 */
#include "model/recipe.h"

#include "base/json.h"
#include "model/roles.h"

enum part { ATTENTION = 1, GDN = 2, MLP = 4, SHARED = 8, EXPERTS = 16, HEAD = 32, WITH_MTP = 64 };

struct qn_recipe {
    const char *name, *summary;
    int main, tensor8; /* parts in the main format, parts in FP8 with one scale */
};

static const struct qn_recipe recipes[] = {
    {"experts", "routed experts only", EXPERTS, 0},
    {"experts-shared", "routed and shared experts", EXPERTS | SHARED, 0},
    {"mixed", "MLP, experts and lm_head; attention and GDN projections as FP8 with one scale",
     MLP | EXPERTS | SHARED | HEAD, ATTENTION | GDN},
    {"attention", "attention, MLP and experts; GDN stays", ATTENTION | MLP | SHARED | EXPERTS, 0},
    {"linear", "all of attention, GDN projections, MLP and experts", ATTENTION | GDN | MLP | SHARED | EXPERTS,
     0},
    {"linear-mtp", "as linear, and the same layers of the MTP block",
     ATTENTION | GDN | MLP | SHARED | EXPERTS | WITH_MTP, 0},
};

const struct qn_recipe *qn_recipe_find(const char *name)
{
    for (size_t i = 0; i < QN_COUNT(recipes); i++)
        if (!strcmp(recipes[i].name, name)) return &recipes[i];
    return NULL;
}

const struct qn_recipe *qn_recipe_at(int i)
{
    return i >= 0 && i < (int)QN_COUNT(recipes) ? &recipes[i] : NULL;
}

const char *qn_recipe_name(const struct qn_recipe *r)
{
    return r->name;
}

const char *qn_recipe_summary(const struct qn_recipe *r)
{
    return r->summary;
}

const struct qn_recipe *qn_recipe_default(const struct qn_store *s, const struct qn_config *c)
{
    if (!strcmp(s->name, "nvfp4")) return qn_recipe_find(c->is_moe ? "experts" : "mixed");
    if (!strcmp(s->name, "nvfp4-ct")) return qn_recipe_find("attention");
    if (!strcmp(s->name, "fp8")) return qn_recipe_find("linear-mtp");
    return qn_recipe_find("linear");
}

static int part_of(enum qn_role role)
{
    switch (role) {
    case QN_ROLE_Q:
    case QN_ROLE_K:
    case QN_ROLE_V:
    case QN_ROLE_O:
        return ATTENTION;
    case QN_ROLE_GDN_QKV:
    case QN_ROLE_GDN_Z:
    case QN_ROLE_GDN_OUT:
        return GDN;
    case QN_ROLE_GATE:
    case QN_ROLE_UP:
    case QN_ROLE_DOWN:
        return MLP;
    case QN_ROLE_SHARED_GATE:
    case QN_ROLE_SHARED_UP:
    case QN_ROLE_SHARED_DOWN:
        return SHARED;
    case QN_ROLE_EXPERT_GATE:
    case QN_ROLE_EXPERT_UP:
    case QN_ROLE_EXPERT_DOWN:
        return EXPERTS;
    case QN_ROLE_HEAD:
        return HEAD;
    default:
        return 0; /* router, gates, in_proj_a and b, mtp.fc, embeddings: never */
    }
}

const struct qn_store *qn_recipe_store(const struct qn_recipe *r, const struct qn_store *main,
                                       const struct qn_config *c, enum qn_role role, int layer)
{
    int part = part_of(role);
    if (main->format == QN_FMT_BF16 || (role == QN_ROLE_HEAD && c->is_tied)) return NULL;
    if (role != QN_ROLE_HEAD && layer == QN_LAYER_MTP && !(r->main & WITH_MTP)) return NULL;
    if (r->main & part) return main;
    if (r->tensor8 & part) return main->is_ct ? qn_store_find("fp8-channel") : qn_store_find("fp8-tensor");
    return NULL;
}

int qn_group_size(const struct qn_config *c)
{
    int group = 128, n_out, n_in;
    for (int r = 0; r < QN_N_ROLE; r++)
        for (int layer = QN_LAYER_MTP; layer < c->n_layer; layer++)
            if (qn_role_shape(c, (enum qn_role)r, layer, &n_out, &n_in))
                while (group > 16 && n_in % group) group /= 2;
    return group;
}

static void quote(struct qn_buf *b, const char *s)
{
    qn_json_write_str(b, s, strlen(s), false);
}

/* The modules left alone, as a JSON list. */
/* vision: how the layout says "the whole tower", beside the names of its modules; NULL without one. */
static void kept_list(const struct qn_module *modules, int n, const char *vision, const char *in,
                      struct qn_buf *b)
{
    bool first = true;
    qn_buf_puts(b, "[");
    for (int i = 0; i < n; i++) {
        if (modules[i].store) continue;
        qn_buf_printf(b, "%s\n%s  ", first ? "" : ",", in);
        quote(b, modules[i].stem);
        first = false;
    }
    if (vision) qn_buf_printf(b, "%s\n%s  \"%s\"", first ? "" : ",", in, vision);
    qn_buf_printf(b, "\n%s]", in);
}

static const char *algorithm(const struct qn_store *s)
{
    return s->format == QN_FMT_NVFP4 ? "NVFP4" : "FP8";
}

static bool is_mixed(const struct qn_store *main, const struct qn_module *modules, int n)
{
    for (int i = 0; i < n; i++)
        if (modules[i].store && modules[i].store != main) return true;
    return false;
}

static void quantised_layers(const struct qn_module *modules, int n, const char *in, struct qn_buf *b)
{
    bool first = true;
    qn_buf_puts(b, "{");
    for (int i = 0; i < n; i++) {
        const struct qn_store *s = modules[i].store;
        if (!s) continue;
        qn_buf_printf(b, "%s\n%s  ", first ? "" : ",", in);
        quote(b, modules[i].stem);
        qn_buf_printf(b, ": {\"quant_algo\": \"%s\"%s}", algorithm(s),
                      s->format == QN_FMT_NVFP4 ? ", \"group_size\": 16" : "");
        first = false;
    }
    qn_buf_printf(b, "\n%s}", in);
}

static void modelopt(const struct qn_store *main, const struct qn_module *modules, int n, bool has_vision,
                     struct qn_buf *config, struct qn_buf *hf)
{
    bool mixed = is_mixed(main, modules, n);
    const char *algo = mixed ? "MIXED_PRECISION" : algorithm(main);
    qn_buf_puts(config, "{\n    \"ignore\": ");
    kept_list(modules, n, has_vision ? "*visual*" : NULL, "    ", config);
    qn_buf_printf(
        config,
        ",\n    \"producer\": {\"name\": \"quern\", \"version\": \"%s\"},\n    \"quant_algo\": \"%s\",\n",
        QN_VERSION, algo);
    if (mixed) {
        qn_buf_puts(config, "    \"quantized_layers\": ");
        quantised_layers(modules, n, "    ", config);
        qn_buf_puts(config, ",\n");
    }
    qn_buf_puts(config, "    \"quant_method\": \"modelopt\"\n  }");

    qn_buf_printf(hf,
                  "{\n  \"producer\": {\"name\": \"quern\", \"version\": \"%s\"},\n  \"quantization\": {\n"
                  "    \"quant_algo\": \"%s\",\n    \"kv_cache_quant_algo\": null,\n",
                  QN_VERSION, algo);
    if (main->format == QN_FMT_NVFP4 && !mixed) qn_buf_puts(hf, "    \"group_size\": 16,\n");
    if (mixed) {
        qn_buf_puts(hf, "    \"quantized_layers\": ");
        quantised_layers(modules, n, "    ", hf);
        qn_buf_puts(hf, ",\n");
    }
    qn_buf_puts(hf, "    \"exclude_modules\": ");
    kept_list(modules, n, has_vision ? "*visual*" : NULL, "    ", hf);
    qn_buf_puts(hf, "\n  }\n}\n");
}

/* One config group of compressed-tensors: weights only. */
static void ct_group(struct qn_buf *b, const struct qn_store *s, int group, const char *targets)
{
    const char *format = s->format == QN_FMT_NVFP4         ? "nvfp4-pack-quantized"
                         : s->format == QN_FMT_FP8_CHANNEL ? "float-quantized"
                         : s->format == QN_FMT_INT4_CT     ? "pack-quantized"
                                                           : "int-quantized";
    bool is_float = s->format == QN_FMT_NVFP4 || s->format == QN_FMT_FP8_CHANNEL;
    int bits = s->format == QN_FMT_NVFP4 || s->format == QN_FMT_INT4_CT ? 4 : 8;
    const char *strategy = s->format == QN_FMT_NVFP4 ? "tensor_group" : bits == 4 ? "group" : "channel";
    char size[32] = "null";
    if (bits == 4) snprintf(size, sizeof size, "%d", s->format == QN_FMT_NVFP4 ? 16 : group);
    qn_buf_printf(
        b,
        "{\n        \"format\": \"%s\",\n        \"input_activations\": null,\n"
        "        \"output_activations\": null,\n        \"targets\": %s,\n        \"weights\": {\n"
        "          \"actorder\": null,\n          \"block_structure\": null,\n          \"dynamic\": false,\n"
        "          \"group_size\": %s,\n          \"num_bits\": %d,\n          \"observer\": \"mse\",\n"
        "          \"observer_kwargs\": {},\n          \"strategy\": \"%s\",\n          \"symmetric\": "
        "true,\n"
        "          \"type\": \"%s\"\n        }\n      }",
        format, targets, size, bits, strategy, is_float ? "float" : "int");
}

static void compressed_tensors(const struct qn_store *main, int group, const struct qn_module *modules, int n,
                               bool has_vision, struct qn_buf *b)
{
    bool mixed = is_mixed(main, modules, n);
    qn_buf_puts(b, "{\n    \"config_groups\": {\n      \"group_0\": ");
    if (mixed) {
        struct qn_buf eight = QN_BUF_INIT((size_t)64 << 20);
        bool first = true;
        qn_buf_puts(&eight, "[");
        for (int i = 0; i < n; i++) {
            if (!modules[i].store || modules[i].store == main) continue;
            qn_buf_puts(&eight, first ? "" : ", ");
            quote(&eight, modules[i].stem);
            first = false;
        }
        qn_buf_puts(&eight, "]");
        ct_group(b, qn_store_find("fp8-channel"), group, qn_buf_str(&eight));
        qn_buf_puts(b, ",\n      \"group_1\": ");
        qn_buf_free(&eight);
    }
    ct_group(b, main, group, "[\"Linear\"]");
    const char *format = mixed                                ? "mixed-precision"
                         : main->format == QN_FMT_NVFP4       ? "nvfp4-pack-quantized"
                         : main->format == QN_FMT_FP8_CHANNEL ? "float-quantized"
                         : main->format == QN_FMT_INT4_CT     ? "pack-quantized"
                                                              : "int-quantized";
    qn_buf_printf(
        b, "\n    },\n    \"format\": \"%s\",\n    \"global_compression_ratio\": null,\n    \"ignore\": ",
        format);
    kept_list(modules, n, has_vision ? "re:.*visual.*" : NULL, "    ", b);
    qn_buf_puts(b, ",\n    \"kv_cache_scheme\": null,\n    \"quant_method\": \"compressed-tensors\",\n"
                   "    \"quantization_status\": \"compressed\"\n  }");
}

void qn_recipe_json(const struct qn_store *main, int group, bool is_act_order,
                    const struct qn_module *modules, int n, bool has_vision, struct qn_buf *config,
                    struct qn_buf *hf)
{
    if (main->is_ct) {
        compressed_tensors(main, group, modules, n, has_vision, config);
    } else if (!strcmp(main->method, "modelopt")) {
        modelopt(main, modules, n, has_vision, config, hf);
    } else if (main->format == QN_FMT_FP8_BLOCK) {
        qn_buf_puts(config, "{\n    \"activation_scheme\": \"dynamic\",\n    \"fmt\": \"e4m3\",\n"
                            "    \"modules_to_not_convert\": ");
        kept_list(modules, n, has_vision ? "model.visual" : NULL, "    ", config);
        qn_buf_puts(
            config,
            ",\n    \"quant_method\": \"fp8\",\n    \"weight_block_size\": [\n      128,\n      128\n    ]\n"
            "  }");
    } else if (main->format == QN_FMT_INT4_AWQ) {
        qn_buf_printf(
            config, "{\n    \"bits\": 4,\n    \"group_size\": %d,\n    \"modules_to_not_convert\": ", group);
        kept_list(modules, n, has_vision ? "visual" : NULL, "    ", config);
        qn_buf_puts(
            config,
            ",\n    \"quant_method\": \"awq\",\n    \"version\": \"gemm\",\n    \"zero_point\": true\n  }");
    } else if (main->format == QN_FMT_INT4_GPTQ) {
        bool first = true;
        qn_buf_printf(config,
                      "{\n    \"bits\": 4,\n    \"checkpoint_format\": \"gptq\",\n    \"desc_act\": %s,\n"
                      "    \"dynamic\": {",
                      is_act_order ? "true" : "false");
        for (int i = 0; i < n; i++) {
            if (modules[i].store) continue;
            qn_buf_printf(config, "%s\n      \"-:^", first ? "" : ",");
            for (const char *c = modules[i].stem; *c; c++)
                qn_buf_printf(config, *c == '.' ? "\\\\%c" : "%c", *c);
            qn_buf_puts(config, "$\": {}");
            first = false;
        }
        if (has_vision) qn_buf_printf(config, "%s\n      \"-:.*visual.*\": {}", first ? "" : ",");
        qn_buf_printf(
            config,
            "\n    },\n    \"group_size\": %d,\n    \"lm_head\": false,\n    \"quant_method\": \"gptq\",\n"
            "    \"sym\": true\n  }",
            group);
    }
}
