/* See vision.h. SPDX-License-Identifier: Apache-2.0 */
#include "model/vision.h"

#include <math.h>

#include "base/json.h"
#include "base/mem.h"
#include "model/checkpoint.h"

#define MAX_CONFIG_BYTES ((size_t)16 << 20)
#define NAME_BYTES       256

struct opening {
    const struct qn_model *m;
    struct qn_vision *v;
    char prefix[NAME_BYTES]; /* up to and with "visual." */
    struct qn_err *e;
};

static int number(const struct qn_json *o, const char *key, int64_t dflt, int64_t most, int *out,
                  struct qn_err *e)
{
    int rc = QN_OK;
    int64_t v;
    QN_TRY(qn_json_get_int(o, key, dflt, &v, e));
    QN_FAIL_IF(v < 1 || v > most, e, QN_INVAL, "vision_config.%s is %" PRId64 ": it has to be 1 to %" PRId64,
               key, v, most);
    *out = (int)v;
out:
    return rc;
}

static int read_rope(struct qn_vision *v, const struct qn_json *o, struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_json *rope, *list;
    const char *type, *act;
    v->theta = 10000;
    QN_TRY(qn_json_get_obj(o, "rope_parameters", &rope, e));
    QN_TRY(qn_json_get_num(rope, "rope_theta", 10000, &v->theta, e));
    QN_TRY(qn_json_get_str(rope, "rope_type", "axial", &type, e));
    QN_FAIL_IF(strcmp(type, "axial") && strcmp(type, "default"), e, QN_UNSUPPORTED,
               "vision_config: rope_type %.40s is not built, axial is", type);
    QN_FAIL_IF(!(v->theta > 1), e, QN_INVAL, "vision_config: rope_theta has to be above 1");
    QN_TRY(qn_json_get_str(o, "hidden_act", "gelu_pytorch_tanh", &act, e));
    QN_FAIL_IF(strcmp(act, "gelu_pytorch_tanh"), e, QN_UNSUPPORTED,
               "vision_config: hidden_act %.40s is not built, gelu_pytorch_tanh is", act);
    QN_TRY(qn_json_get_arr(o, "deepstack_visual_indexes", &list, e));
    QN_FAIL_IF(list && list->n, e, QN_UNSUPPORTED,
               "vision_config: deepstack_visual_indexes is not empty, which no model of the family has");
out:
    return rc;
}

static int read_config(struct qn_vision *v, const struct qn_json *top, int text_hidden, struct qn_err *e)
{
    int rc = QN_OK, n_pos, n_channel;
    struct qn_json *o;
    double eps;
    QN_TRY(qn_json_get_obj(top, "vision_config", &o, e));
    QN_FAIL_IF(!o, e, QN_NOTFOUND, "config.json has no vision_config: the model sees no pictures");
    QN_TRY(number(o, "depth", 27, 1024, &v->depth, e));
    QN_TRY(number(o, "hidden_size", 1152, 65536, &v->hidden, e));
    QN_TRY(number(o, "num_heads", 16, 1024, &v->n_head, e));
    QN_TRY(number(o, "intermediate_size", 4304, 1 << 20, &v->ffn, e));
    QN_TRY(number(o, "out_hidden_size", text_hidden, 1 << 20, &v->out, e));
    QN_TRY(number(o, "patch_size", 16, 64, &v->patch, e));
    QN_TRY(number(o, "temporal_patch_size", 2, 2, &v->temporal, e));
    QN_TRY(number(o, "spatial_merge_size", 2, 2, &v->merge, e));
    QN_TRY(number(o, "in_channels", 3, 3, &n_channel, e));
    QN_TRY(number(o, "num_position_embeddings", 2304, 1 << 24, &n_pos, e));
    QN_TRY(qn_json_get_num(o, "layer_norm_eps", 1e-6, &eps, e));
    QN_TRY(read_rope(v, o, e));
    v->eps = (float)eps;
    v->side = (int)lround(sqrt(n_pos));
    v->patch_in = n_channel * v->temporal * v->patch * v->patch;
    QN_FAIL_IF(v->temporal != 2 || v->merge != 2 || n_channel != 3, e, QN_UNSUPPORTED,
               "vision_config: temporal_patch_size 2, spatial_merge_size 2 and in_channels 3 are built");
    QN_FAIL_IF(v->side * v->side != n_pos, e, QN_FORMAT,
               "vision_config: num_position_embeddings is no square");
    QN_FAIL_IF(v->hidden % v->n_head || v->hidden / v->n_head % 4, e, QN_INVAL,
               "vision_config: hidden_size %d over num_heads %d is no multiple of 4", v->hidden, v->n_head);
    QN_FAIL_IF(v->out != text_hidden, e, QN_FORMAT, "vision_config: out_hidden_size %d, the text has %d",
               v->out, text_hidden);
    QN_TRY(number(top, "image_token_id", 248056, INT32_MAX, &v->image_tok, e));
    QN_TRY(number(top, "video_token_id", 248057, INT32_MAX, &v->video_tok, e));
    QN_TRY(number(top, "vision_start_token_id", 248053, INT32_MAX, &v->start_tok, e));
    QN_TRY(number(top, "vision_end_token_id", 248054, INT32_MAX, &v->end_tok, e));
out:
    return rc;
}

static int find_prefix(struct opening *o)
{
    int rc = QN_OK;
    static const char tail[] = "patch_embed.proj.weight";
    for (int i = 0; i < qn_model_n_tensors(o->m); i++) {
        const char *name = qn_model_tensor(o->m, i)->name;
        size_t n = strlen(name), k = sizeof tail - 1;
        if (!qn_model_tensor_is_vision(o->m, i) || n < k || n - k >= sizeof o->prefix ||
            strcmp(name + n - k, tail))
            continue;
        memcpy(o->prefix, name, n - k);
        return QN_OK;
    }
    QN_FAIL(o->e, QN_NOTFOUND, "the files hold no vision tower: the model sees no pictures");
out:
    return rc;
}

static bool is_plain(enum qn_dtype t)
{
    return t == QN_F32 || t == QN_BF16 || t == QN_F16;
}

/* Values of a tensor, checked: n of them. */
static int find(struct opening *o, const char *stem, const char *what, size_t n, struct qn_tensor *out)
{
    int rc = QN_OK;
    char name[2 * NAME_BYTES];
    snprintf(name, sizeof name, "%s%s%s", o->prefix, stem, what);
    const struct qn_tensor *t = qn_model_find(o->m, name);
    QN_FAIL_IF(!t, o->e, QN_FORMAT, "tensor %s is missing: the vision tower is not whole", name);
    QN_FAIL_IF(!is_plain(t->dtype), o->e, QN_UNSUPPORTED,
               "tensor %s is %s: a vision tower in BF16, F16 or F32 is read", name, qn_dtype_name(t->dtype));
    QN_FAIL_IF(t->n_byte != n * qn_dtype_bytes(t->dtype), o->e, QN_FORMAT,
               "tensor %s has %zu values, vision_config says %zu", name, t->n_byte / qn_dtype_bytes(t->dtype),
               n);
    *out = *t;
    o->v->n_byte += t->n_byte;
out:
    return rc;
}

static int norm(struct opening *o, const char *stem, struct qn_vision_norm *out)
{
    int rc = QN_OK;
    QN_TRY(find(o, stem, ".weight", (size_t)o->v->hidden, &out->weight));
    QN_TRY(find(o, stem, ".bias", (size_t)o->v->hidden, &out->bias));
out:
    return rc;
}

static int linear(struct opening *o, const char *stem, int n_out, int n_in, struct qn_vision_linear *out)
{
    int rc = QN_OK;
    struct qn_tensor *w = &out->l.weight;
    QN_TRY(find(o, stem, ".weight", (size_t)n_out * (size_t)n_in, w));
    QN_FAIL_IF(w->shape[0] != n_out, o->e, QN_FORMAT, "tensor %s has %" PRId64 " rows, vision_config says %d",
               w->name, w->shape[0], n_out);
    QN_TRY(find(o, stem, ".bias", (size_t)n_out, &out->bias));
    w->n_dim = 2; /* the patch projection has five */
    w->shape[1] = n_in;
    out->l.format = w->dtype == QN_F32 ? QN_FMT_F32 : w->dtype == QN_BF16 ? QN_FMT_BF16 : QN_FMT_F16;
    out->l.n_out = n_out;
    out->l.n_in = n_in;
    out->l.scale2 = 1;
    snprintf(out->l.name, sizeof out->l.name, "%.*s%s", NAME_BYTES / 2, o->prefix, stem);
out:
    return rc;
}

static int block(struct opening *o, int i)
{
    int rc = QN_OK, H = o->v->hidden, I = o->v->ffn;
    struct qn_vision_block *b = &o->v->blocks[i];
    char s[64];
#define STEM(what) (snprintf(s, sizeof s, "blocks.%d." what, i), s)
    QN_TRY(norm(o, STEM("norm1"), &b->norm1));
    QN_TRY(norm(o, STEM("norm2"), &b->norm2));
    QN_TRY(linear(o, STEM("attn.qkv"), 3 * H, H, &b->qkv));
    QN_TRY(linear(o, STEM("attn.proj"), H, H, &b->proj));
    QN_TRY(linear(o, STEM("mlp.linear_fc1"), I, H, &b->fc1));
    QN_TRY(linear(o, STEM("mlp.linear_fc2"), H, I, &b->fc2));
#undef STEM
out:
    return rc;
}

static int views(struct opening *o)
{
    int rc = QN_OK;
    struct qn_vision *v = o->v;
    int H = v->hidden;
    v->blocks = xcalloc((size_t)v->depth, sizeof *v->blocks);
    QN_TRY(linear(o, "patch_embed.proj", H, v->patch_in, &v->patch_embed));
    QN_TRY(find(o, "pos_embed", ".weight", (size_t)v->side * (size_t)v->side * (size_t)H, &v->pos));
    for (int i = 0; i < v->depth; i++) QN_TRY(block(o, i));
    QN_TRY(norm(o, "merger.norm", &v->merger_norm));
    QN_TRY(linear(o, "merger.linear_fc1", 4 * H, 4 * H, &v->merger_fc1));
    QN_TRY(linear(o, "merger.linear_fc2", v->out, 4 * H, &v->merger_fc2));
out:
    return rc;
}

int qn_vision_open(struct qn_vision **out, const struct qn_model *m, struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_arena *arena = qn_arena_create(MAX_CONFIG_BYTES * 16);
    struct qn_vision *v = xcalloc(1, sizeof *v);
    struct qn_json *top;
    struct opening o = {m, v, "", e};
    char *path = xasprintf("%s/config.json", qn_model_folder(m));
    QN_TRY(qn_json_read_file(&top, arena, path, MAX_CONFIG_BYTES, e));
    QN_TRY(read_config(v, top, qn_model_config(m)->hidden, e));
    QN_TRY(find_prefix(&o));
    QN_TRY(views(&o));
    *out = v;
    v = NULL;
out:
    if (v) qn_vision_close(v);
    free(path);
    qn_arena_free(arena);
    return rc;
}

void qn_vision_close(struct qn_vision *v)
{
    if (!v) return;
    free(v->blocks);
    free(v);
}
