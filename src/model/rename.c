/* SPDX-License-Identifier: Apache-2.0 */
#include "model/rename.h"

#define TAKE "take the BF16, FP8, AWQ, GPTQ or NVFP4 release of the model"

static bool ends_with(const char *s, const char *tail)
{
    size_t n = strlen(s), k = strlen(tail);
    return n >= k && !strcmp(s + n - k, tail);
}

/* --- makes that are not read --- */

/* A tensor that only one make has. */
struct mark {
    const char *part; /* of the name; with a leading $: its end */
    const char *says;
};

static const struct mark marks[] = {
    {".lora_A.",
     "LoRA weights that are not merged: merge them (merge_and_unload of PEFT, then save_pretrained), "
     "or serve the base model with --lora FOLDER"},
    {".lora_B.",
     "LoRA weights that are not merged: merge them (merge_and_unload of PEFT, then save_pretrained), "
     "or serve the base model with --lora FOLDER"},
    {".base_layer.", "a model inside a PEFT adapter that is not merged: merge it (merge_and_unload), then "
                     "save_pretrained"},
    {".modules_to_save.",
     "a model inside a PEFT adapter that is not merged: merge it (merge_and_unload), then "
     "save_pretrained"},
    {"$.trellis", "EXL3, which is not read: " TAKE},
    {"$.q_invperm", "EXL2, which is not read: " TAKE},
    {"$.q_scale_max", "EXL2, which is not read: " TAKE},
    {"$.W_q", "HQQ, which is not read: " TAKE},
    {"$.codebooks", "AQLM, which is not read: " TAKE},
    {"$.Qidxs", "QuIP#, which is not read: " TAKE},
    {"$.centroids", "VPTQ, which is not read: " TAKE},
    {".quant_state.bitsandbytes__", "4-bit bitsandbytes, which is not read: " TAKE},
    {"$.weight.absmax", "4-bit bitsandbytes, which is not read: " TAKE},
    {"$.SCB", "8-bit bitsandbytes, which is not read: " TAKE},
    {"$.forward_hadamard_matrix", "FP-Quant, which is not read: " TAKE},
    {"$.tensor_scale_inv_hadamard", "HIGGS, which is not read: " TAKE},
    {"$.dense_weights", "SpQR, which is not read: " TAKE},
    {"$.B_24", "sparse Marlin (2:4), which is not read: " TAKE},
    {"$.bitmask",
     "a sparse bitmask of compressed-tensors, which is not read: decompress it with compressed-tensors, "
     "or " TAKE},
    {"$.weight._data", "optimum-quanto, which is not read: " TAKE},
    {"_weight_qdata", "torchao, which is not read: " TAKE},
    {"$.lookup_table", "a table look-up format (SqueezeLLM), which is not read: " TAKE},
    {"$.weight_scales_and_zeros", "torchao, which is not read: " TAKE},
    {"$_proj_blocks", "MXFP4 experts in the layout of gpt-oss, which is not read for this family: " TAKE},
};

static const struct mark *mark_of(const char *name)
{
    for (size_t i = 0; i < QN_COUNT(marks); i++) {
        const char *part = marks[i].part;
        if (*part == '$' ? ends_with(name, part + 1) : !!strstr(name, part)) return &marks[i];
    }
    return NULL;
}

static int refuse_makes(const struct qn_tensors *t, struct qn_err *e)
{
    int rc = QN_OK;
    bool has_head = false;
    const char *score = NULL;
    for (int i = 0; i < t->n; i++) {
        const char *name = t->list[i].name;
        const struct mark *m = mark_of(name);
        QN_FAIL_IF(m, e, QN_UNSUPPORTED, "tensor %.90s: the files hold %s", name, m->says);
        has_head |= !!strstr(name, "lm_head");
        if (!strcmp(name, "score.weight") || !strcmp(name, "classifier.weight") ||
            !strcmp(name, "v_head.summary.weight"))
            score = name;
    }
    QN_FAIL_IF(score && !has_head, e, QN_UNSUPPORTED,
               "the files hold a classifier or reward model (tensor %s, no lm_head): it makes no text and is "
               "not served",
               score);
out:
    return rc;
}

/* --- wrappers --- */

static int unwrap(struct qn_tensors *t, struct qn_arena *arena, struct qn_notes *notes, struct qn_err *e)
{
    static const char *const heads[] = {"base_model.model.", "module.", "_orig_mod."};
    static const char *const anywhere[] = {"_orig_mod.", "_checkpoint_wrapped_module.",
                                           "_fsdp_wrapped_module."};
    int rc = QN_OK, n = 0;
    const char *first = NULL;
    for (int i = 0; i < t->n; i++) {
        const char *name = t->list[i].name;
        for (size_t k = 0; k < QN_COUNT(heads); k++)
            if (!strncmp(name, heads[k], strlen(heads[k]))) {
                name += strlen(heads[k]);
                k = (size_t)-1;
            }
        bool inside = false;
        for (size_t k = 0; k < QN_COUNT(anywhere); k++) inside |= !!strstr(name, anywhere[k]);
        if (name == t->list[i].name && !inside) continue;
        if (!n++) first = t->list[i].name;
        char *copy = qn_arena_strndup(arena, name, strlen(name));
        QN_FAIL_IF(!copy, e, QN_TOOBIG, "too many names");
        for (size_t k = 0; k < QN_COUNT(anywhere); k++)
            for (char *at; (at = strstr(copy, anywhere[k]));) {
                size_t skip = strlen(anywhere[k]);
                memmove(at, at + skip, strlen(at + skip) + 1);
            }
        t->list[i].name = copy;
    }
    if (n) qn_note(notes, "%d names carry the prefix of a wrapper (%s): read without it", n, first);
out:
    return rc;
}

/* --- projections in one tensor --- */

struct fused {
    const char *module;   /* "linear_attn.in_proj_qkvz" */
    const char *parts[3]; /* what stands in its place */
    int rows[3];
};

static int fused_table(const struct qn_config *c, struct fused out[6])
{
    int hd = c->head_dim, VD = qn_config_value_dim(c);
    const struct fused table[] = {
        {"linear_attn.in_proj_qkvz",
         {"linear_attn.in_proj_qkv", "linear_attn.in_proj_z"},
         {qn_config_conv_dim(c), VD}},
        {"linear_attn.in_proj_ba",
         {"linear_attn.in_proj_b", "linear_attn.in_proj_a"},
         {c->n_v_head, c->n_v_head}},
        {"self_attn.qkv_proj",
         {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"},
         {c->n_head * 2 * hd, c->n_kv_head * hd, c->n_kv_head * hd}},
        {"mlp.gate_up_proj", {"mlp.gate_proj", "mlp.up_proj"}, {c->ffn, c->ffn}},
        {"mlp.shared_expert.gate_up_proj",
         {"mlp.shared_expert.gate_proj", "mlp.shared_expert.up_proj"},
         {c->shared_ffn, c->shared_ffn}},
    };
    memcpy(out, table, sizeof table);
    return (int)QN_COUNT(table);
}

/* Rows [first, first + n) of a tensor that belongs to a layer of `total` rows: its own, its scales by row or
 * by block, or one value for all. */
static int take(const struct qn_tensor *t, int first, int n, int total, struct qn_tensor *out,
                struct qn_err *e)
{
    int rc = QN_OK;
    int64_t rows = t->n_dim ? t->shape[0] : 1, count = (int64_t)(t->n_byte / qn_dtype_bytes(t->dtype));
    *out = *t;
    if (count == 1 || ends_with(t->name, "g_idx")) goto out;
    int64_t block = rows > 0 && total % rows == 0 ? total / rows : 0;
    QN_FAIL_IF(
        !block || first % block || n % block || ends_with(t->name, ".qweight") ||
            ends_with(t->name, ".qzeros") || ends_with(t->name, ".scales"),
        e, QN_UNSUPPORTED,
        "tensor %s holds several projections of another engine in a form that cannot be cut by rows: convert "
        "it back, or take the release it was made of",
        t->name);
    size_t row_bytes = t->n_byte / (size_t)rows;
    out->shape[0] = n / block;
    out->data = (const char *)t->data + (size_t)(first / block) * row_bytes;
    out->n_byte = (size_t)(n / block) * row_bytes;
out:
    return rc;
}

static const char *join(struct qn_arena *arena, const char *a, size_t n_a, const char *b, const char *c)
{
    char *out = qn_arena_alloc(arena, n_a + strlen(b) + strlen(c) + 1);
    if (out) sprintf(out, "%.*s%s%s", (int)n_a, a, b, c);
    return out;
}

/* One fused tensor: its first part takes its place, the others come after all tensors. */
static int split(struct qn_tensors *t, int i, const struct fused *f, size_t stem, struct qn_arena *arena,
                 struct qn_err *e)
{
    int rc = QN_OK, total = f->rows[0] + f->rows[1] + f->rows[2], first = 0;
    const struct qn_tensor whole = t->list[i];
    const char *suffix = whole.name + stem + strlen(f->module);
    for (int k = 0; k < 3 && f->parts[k]; k++) {
        struct qn_tensor part;
        QN_TRY(take(&whole, first, f->rows[k], total, &part, e));
        part.name = join(arena, whole.name, stem, f->parts[k], suffix);
        QN_FAIL_IF(!part.name, e, QN_TOOBIG, "too many names");
        int at = k ? t->n++ : i;
        t->list[at] = part;
        t->file_of[at] = t->file_of[i];
        first += f->rows[k];
    }
out:
    return rc;
}

/* Where the module stands in the name, as whole components before a suffix; or 0. */
static size_t stem_of(const char *name, const char *module)
{
    const char *at = strstr(name, module);
    size_t n = strlen(module);
    return at && at > name && at[-1] == '.' && at[n] == '.' ? (size_t)(at - name) : 0;
}

static int split_fused(struct qn_tensors *t, const struct qn_config *c, struct qn_arena *arena,
                       struct qn_notes *notes, struct qn_err *e)
{
    int rc = QN_OK;
    struct fused table[6];
    int n_fused = fused_table(c, table), n_tensor = t->n, n_hit[6] = {0}, n_all = 0;
    for (int i = 0; i < n_tensor; i++)
        for (int k = 0; k < n_fused; k++) n_hit[k] += !!stem_of(t->list[i].name, table[k].module);
    for (int k = 0; k < n_fused; k++) n_all += n_hit[k];
    if (!n_all) goto out;
    t->list = xreallocarray(t->list, (size_t)n_tensor + 2 * (size_t)n_all, sizeof *t->list);
    t->file_of = xreallocarray(t->file_of, (size_t)n_tensor + 2 * (size_t)n_all, sizeof *t->file_of);
    for (int i = 0; i < n_tensor; i++)
        for (int k = 0; k < n_fused; k++) {
            size_t stem = stem_of(t->list[i].name, table[k].module);
            if (!stem || !table[k].rows[0] || qn_is_vision_name(t->list[i].name) ||
                ends_with(t->list[i].name, ".weight_shape"))
                continue;
            QN_TRY(split(t, i, &table[k], stem, arena, e));
            break;
        }
    for (int k = 0; k < n_fused; k++)
        if (n_hit[k])
            qn_note(notes, "%s (%d tensors) holds %s%s%s%s%s: read so, one after the other%s",
                    table[k].module, n_hit[k], table[k].parts[0], table[k].parts[2] ? ", " : " and ",
                    table[k].parts[1], table[k].parts[2] ? " and " : "",
                    table[k].parts[2] ? table[k].parts[2] : "",
                    k < 2 ? " as vLLM and SGLang lay them; files in Qwen3-Next's order, by key head, look "
                            "the same and "
                            "would be garbage"
                          : "");
out:
    return rc;
}

int qn_tensors_rename(struct qn_tensors *t, const struct qn_config *c, struct qn_arena *arena,
                      struct qn_notes *notes, struct qn_err *e)
{
    int rc = QN_OK;
    QN_TRY(unwrap(t, arena, notes, e));
    QN_TRY(refuse_makes(t, e));
    QN_TRY(split_fused(t, c, arena, notes, e));
out:
    return rc;
}
