/* Writing GGUF files.
 * SPDX-License-Identifier: Apache-2.0 */
#include "model/gguf_write.h"

#include <errno.h>
#include <math.h>
#include <unistd.h>

#include "base/gguf.h"
#include "base/json.h"
#include "base/mem.h"
#include "model/block_encode.h"
#include "model/heads.h"

#define ALIGNMENT 32
#define MAX_META  ((size_t)1 << 30)
#define ROW_BLOCK 64

static const char *const role_names[QN_N_ROLE] = {
    [QN_ROLE_EMBED] = "token_embd",
    [QN_ROLE_HEAD] = "output",
    [QN_ROLE_Q] = "attn_q",
    [QN_ROLE_K] = "attn_k",
    [QN_ROLE_V] = "attn_v",
    [QN_ROLE_O] = "attn_output",
    [QN_ROLE_GDN_QKV] = "attn_qkv",
    [QN_ROLE_GDN_Z] = "attn_gate",
    [QN_ROLE_GDN_B] = "ssm_beta",
    [QN_ROLE_GDN_A] = "ssm_alpha",
    [QN_ROLE_GDN_OUT] = "ssm_out",
    [QN_ROLE_GATE] = "ffn_gate",
    [QN_ROLE_UP] = "ffn_up",
    [QN_ROLE_DOWN] = "ffn_down",
    [QN_ROLE_ROUTER] = "ffn_gate_inp",
    [QN_ROLE_SHARED_GATE] = "ffn_gate_shexp",
    [QN_ROLE_SHARED_UP] = "ffn_up_shexp",
    [QN_ROLE_SHARED_DOWN] = "ffn_down_shexp",
    [QN_ROLE_SHARED_MIX] = "ffn_gate_inp_shexp",
    [QN_ROLE_MTP_FC] = "nextn.eh_proj",
    [QN_ROLE_EXPERT_GATE] = "ffn_gate_exps",
    [QN_ROLE_EXPERT_UP] = "ffn_up_exps",
    [QN_ROLE_EXPERT_DOWN] = "ffn_down_exps",
};

static const char *const vec_names[QN_N_VEC] = {
    [QN_VEC_FINAL_NORM] = "output_norm.weight",
    [QN_VEC_INPUT_NORM] = "attn_norm.weight",
    [QN_VEC_POST_NORM] = "post_attention_norm.weight",
    [QN_VEC_Q_NORM] = "attn_q_norm.weight",
    [QN_VEC_K_NORM] = "attn_k_norm.weight",
    [QN_VEC_CONV] = "ssm_conv1d.weight",
    [QN_VEC_A_LOG] = "ssm_a",
    [QN_VEC_DT_BIAS] = "ssm_dt.bias",
    [QN_VEC_GDN_NORM] = "ssm_norm.weight",
    [QN_VEC_MTP_NORM_EMBED] = "nextn.enorm.weight",
    [QN_VEC_MTP_NORM_HIDDEN] = "nextn.hnorm.weight",
    [QN_VEC_MTP_NORM] = "nextn.shared_head_norm.weight",
};

struct entry {
    bool is_layer;
    enum qn_role role;
    enum qn_vec vec;
    int layer;
    char name[96];
    uint32_t type; /* of the file */
    enum qn_dtype dtype;
    int n_dim;
    int64_t dim[3];
    uint64_t offset;
    size_t n_byte;
};

struct write {
    const struct qn_model *m;
    const struct qn_config *c;
    enum qn_dtype type;
    struct qn_buf meta; /* entries */
    uint64_t n_value;
    struct entry *list;
    int n, n_room;
    uint64_t n_data;
    FILE *out;
    const char *path; /* being written */
    struct qn_err *e;
};

/* --- metadata --- */

static void put_u32(struct qn_buf *b, uint32_t x)
{
    qn_buf_append(b, &x, 4);
}

static void put_text(struct qn_buf *b, const char *s, size_t n)
{
    uint64_t length = n;
    qn_buf_append(b, &length, 8);
    qn_buf_append(b, s, n);
}

static void key(struct write *w, const char *name, enum qn_gguf_kind kind)
{
    put_text(&w->meta, name, strlen(name));
    put_u32(&w->meta, kind);
    w->n_value++;
}

static void key_text(struct write *w, const char *name, const char *s, size_t n)
{
    key(w, name, QN_GGUF_STRING);
    put_text(&w->meta, s, n);
}

static void key_int(struct write *w, const char *name, int64_t x)
{
    key(w, name, QN_GGUF_U32);
    put_u32(&w->meta, (uint32_t)x);
}

static void key_bool(struct write *w, const char *name, bool x)
{
    key(w, name, QN_GGUF_BOOL);
    qn_buf_putc(&w->meta, x);
}

static void key_float(struct write *w, const char *name, float x)
{
    key(w, name, QN_GGUF_F32);
    qn_buf_append(&w->meta, &x, 4);
}

static void key_list(struct write *w, const char *name, enum qn_gguf_kind kind, uint64_t n)
{
    key(w, name, QN_GGUF_ARRAY);
    put_u32(&w->meta, kind);
    qn_buf_append(&w->meta, &n, 8);
}

static const char *arch_of(const struct qn_config *c)
{
    return c->is_moe ? "qwen35moe" : "qwen35";
}

/* "qwen35.NAME" */
static const char *of(const struct write *w, const char *name, char out[96])
{
    snprintf(out, 96, "%s.%s", arch_of(w->c), name);
    return out;
}

static void put_sizes(struct write *w)
{
    const struct qn_config *c = w->c;
    char k[96];
    const struct {
        const char *name;
        int64_t x;
    } all[] = {{"block_count", c->n_layer + qn_model_has_mtp(w->m)},
               {"context_length", c->max_context},
               {"embedding_length", c->hidden},
               {"attention.head_count", c->n_head},
               {"attention.head_count_kv", c->n_kv_head},
               {"attention.key_length", c->head_dim},
               {"attention.value_length", c->head_dim},
               {"rope.dimension_count", c->rotary_dim},
               {"ssm.conv_kernel", c->conv_taps},
               {"ssm.state_size", c->k_dim},
               {"ssm.group_count", c->n_k_head},
               {"ssm.time_step_rank", c->n_v_head},
               {"ssm.inner_size", qn_config_value_dim(c)}};
    for (size_t i = 0; i < QN_COUNT(all); i++) key_int(w, of(w, all[i].name, k), all[i].x);
    if (qn_model_has_mtp(w->m)) key_int(w, of(w, "nextn_predict_layers", k), 1);
    if (c->is_moe) {
        key_int(w, of(w, "expert_count", k), c->n_expert);
        key_int(w, of(w, "expert_used_count", k), c->top_k);
        key_int(w, of(w, "expert_feed_forward_length", k), c->expert_ffn);
        key_int(w, of(w, "expert_shared_feed_forward_length", k), c->shared_ffn);
    } else {
        key_int(w, of(w, "feed_forward_length", k), c->ffn);
    }
    key_float(w, of(w, "attention.layer_norm_rms_epsilon", k), c->norm_eps);
    key_float(w, of(w, "rope.freq_base", k), (float)c->rope_theta);
    key_list(w, of(w, "rope.dimension_sections", k), QN_GGUF_I32, 4);
    for (int i = 0; i < 4; i++) put_u32(&w->meta, i < 3 ? (uint32_t)c->mrope_section[i] : 0);
}

static void put_layers(struct write *w)
{
    const struct qn_config *c = w->c;
    char k[96];
    int interval = 0;
    for (int i = 0; i < c->n_layer && !interval; i++)
        if (c->is_full[i]) interval = i + 1;
    for (int i = 0; i < c->n_layer && interval; i++)
        if (c->is_full[i] != ((i + 1) % interval == 0)) interval = 0;
    if (interval) key_int(w, of(w, "full_attention_interval", k), interval);
    int n = c->n_layer + qn_model_has_mtp(w->m);
    key_list(w, of(w, "attention.recurrent_layers", k), QN_GGUF_BOOL, (uint64_t)n);
    for (int i = 0; i < n; i++) qn_buf_putc(&w->meta, i < c->n_layer && !c->is_full[i]);
}

/* --- tokenizer --- */

struct token {
    const char *text;
    size_t n;
    int type;
};

static int add_token(struct write *w, struct token *list, int64_t id, const struct qn_json *text, int type)
{
    int rc = QN_OK;
    QN_FAIL_IF(id < 0 || id >= w->c->vocab || !qn_json_is(text, QN_JSON_STRING), w->e, QN_FORMAT,
               "tokenizer.json: token %" PRId64 " is not below vocab_size %d", id, w->c->vocab);
    list[id] = (struct token){text->text, text->n, type};
out:
    return rc;
}

static int read_tokens(struct write *w, struct token *list, const struct qn_json *root,
                       const struct qn_json *config)
{
    int rc = QN_OK;
    int64_t id;
    const struct qn_json *vocab = qn_json_get(qn_json_get(root, "model"), "vocab"),
                         *added = qn_json_get(root, "added_tokens"),
                         *more = qn_json_get(config, "added_tokens_decoder");
    QN_FAIL_IF(!qn_json_is(vocab, QN_JSON_OBJECT), w->e, QN_FORMAT, "tokenizer.json: no vocabulary");
    for (size_t i = 0; i < vocab->n; i++) {
        QN_FAIL_IF(!qn_json_int(vocab->items[i], &id) || id < 0 || id >= w->c->vocab, w->e, QN_FORMAT,
                   "tokenizer.json: a token is not below vocab_size %d", w->c->vocab);
        list[id] = (struct token){vocab->keys[i].text, vocab->keys[i].n, 1};
    }
    for (size_t i = 0; qn_json_is(more, QN_JSON_OBJECT) && i < more->n; i++) {
        const struct qn_json *special = qn_json_get(more->items[i], "special");
        bool is_special = qn_json_is(special, QN_JSON_BOOL) && special->truth;
        QN_TRY(add_token(w, list, strtoll(more->keys[i].text, NULL, 10),
                         qn_json_get(more->items[i], "content"), is_special ? 3 : 4));
    }
    for (size_t i = 0; qn_json_is(added, QN_JSON_ARRAY) && i < added->n; i++) {
        const struct qn_json *special = qn_json_get(added->items[i], "special");
        bool is_special = qn_json_is(special, QN_JSON_BOOL) && special->truth;
        if (!qn_json_int(qn_json_get(added->items[i], "id"), &id)) id = -1;
        QN_TRY(add_token(w, list, id, qn_json_get(added->items[i], "content"), is_special ? 3 : 4));
    }
out:
    return rc;
}

/* The id of a token that tokenizer_config.json names, as text or as an object; -1: none. */
static int64_t find_token(const struct token *list, int n, const struct qn_json *name)
{
    if (qn_json_is(name, QN_JSON_OBJECT)) name = qn_json_get(name, "content");
    for (int i = 0; qn_json_is(name, QN_JSON_STRING) && i < n; i++)
        if (list[i].text && list[i].n == name->n && !memcmp(list[i].text, name->text, name->n)) return i;
    return -1;
}

static int put_merges(struct write *w, const struct qn_json *merges)
{
    int rc = QN_OK;
    QN_FAIL_IF(!qn_json_is(merges, QN_JSON_ARRAY), w->e, QN_FORMAT, "tokenizer.json: no merges");
    key_list(w, "tokenizer.ggml.merges", QN_GGUF_STRING, merges->n);
    for (size_t i = 0; i < merges->n; i++) {
        const struct qn_json *v = merges->items[i];
        if (v->type == QN_JSON_STRING) {
            put_text(&w->meta, v->text, v->n);
            continue;
        }
        QN_FAIL_IF(v->type != QN_JSON_ARRAY || v->n != 2 || v->items[0]->type != QN_JSON_STRING ||
                       v->items[1]->type != QN_JSON_STRING,
                   w->e, QN_FORMAT, "tokenizer.json: merge %zu is no pair", i);
        uint64_t n = v->items[0]->n + 1 + v->items[1]->n;
        qn_buf_append(&w->meta, &n, 8);
        qn_buf_append(&w->meta, v->items[0]->text, v->items[0]->n);
        qn_buf_putc(&w->meta, ' ');
        qn_buf_append(&w->meta, v->items[1]->text, v->items[1]->n);
    }
out:
    return rc;
}

static bool has_marks(const struct qn_json *v) /* \p{M} anywhere in a pre-tokenizer */
{
    if (qn_json_is(v, QN_JSON_STRING)) return strstr(v->text, "\\p{M}") != NULL;
    bool found = false;
    for (size_t i = 0; v && (v->type == QN_JSON_OBJECT || v->type == QN_JSON_ARRAY) && i < v->n; i++)
        found |= has_marks(v->items[i]);
    return found;
}

static void put_template(struct write *w, const struct qn_json *config)
{
    struct qn_buf text = QN_BUF_INIT((size_t)16 << 20);
    char *path = xasprintf("%s/chat_template.jinja", qn_model_folder(w->m));
    const struct qn_json *t = qn_json_get(config, "chat_template");
    if (!qn_buf_read_file(&text, path, NULL)) {
        key_text(w, "tokenizer.chat_template", qn_buf_str(&text), text.n_byte);
    } else if (qn_json_is(t, QN_JSON_STRING)) {
        key_text(w, "tokenizer.chat_template", t->text, t->n);
    } else {
        for (size_t i = 0; qn_json_is(t, QN_JSON_ARRAY) && i < t->n; i++) {
            const struct qn_json *body = qn_json_get(t->items[i], "template");
            if (qn_json_is_str(qn_json_get(t->items[i], "name"), "default") &&
                qn_json_is(body, QN_JSON_STRING))
                key_text(w, "tokenizer.chat_template", body->text, body->n);
        }
    }
    free(path);
    qn_buf_free(&text);
}

static int put_tokenizer(struct write *w)
{
    int rc = QN_OK, V = w->c->vocab;
    struct qn_arena *arena = qn_arena_create((size_t)2 << 30);
    struct qn_json *root, *config = NULL;
    struct token *list = xcalloc((size_t)V, sizeof *list);
    char *path = xasprintf("%s/tokenizer.json", qn_model_folder(w->m)),
         *config_path = xasprintf("%s/tokenizer_config.json", qn_model_folder(w->m));
    QN_TRY(qn_json_read_file(&root, arena, path, (size_t)256 << 20, w->e));
    rc = qn_json_read_file(&config, arena, config_path, (size_t)64 << 20, NULL);
    if (rc) config = NULL;
    QN_TRY(read_tokens(w, list, root, config));
    bool marks = has_marks(qn_json_get(root, "pre_tokenizer")) ||
                 qn_json_is_str(qn_json_get(config, "tokenizer_class"), "Qwen3_5Tokenizer");
    const char *pre = marks ? "qwen35" : "qwen2";
    key_text(w, "tokenizer.ggml.model", "gpt2", 4);
    key_text(w, "tokenizer.ggml.pre", pre, strlen(pre));
    key_list(w, "tokenizer.ggml.tokens", QN_GGUF_STRING, (uint64_t)V);
    for (int i = 0; i < V; i++) {
        char pad[24];
        int n = snprintf(pad, sizeof pad, "[PAD%d]", i);
        put_text(&w->meta, list[i].text ? list[i].text : pad, list[i].text ? list[i].n : (size_t)n);
    }
    key_list(w, "tokenizer.ggml.token_type", QN_GGUF_I32, (uint64_t)V);
    for (int i = 0; i < V; i++) put_u32(&w->meta, list[i].text ? (uint32_t)list[i].type : 5);
    QN_TRY(put_merges(w, qn_json_get(qn_json_get(root, "model"), "merges")));
    if (w->c->n_stop) key_int(w, "tokenizer.ggml.eos_token_id", w->c->stop_tok[0]);
    int64_t pad = w->c->pad_tok >= 0 ? w->c->pad_tok : find_token(list, V, qn_json_get(config, "pad_token"));
    if (pad >= 0) key_int(w, "tokenizer.ggml.padding_token_id", pad);
    key_bool(w, "tokenizer.ggml.add_bos_token", false);
    key_bool(w, "tokenizer.ggml.add_eos_token", false);
    put_template(w, config);
out:
    free(list);
    free(path);
    free(config_path);
    qn_arena_free(arena);
    return rc;
}

/* --- tensors --- */

static uint32_t number_of(enum qn_dtype t)
{
    return t == QN_F32 ? 0 : t == QN_F16 ? 1 : t == QN_Q4_0 ? 2 : t == QN_Q8_0 ? 8 : 30;
}

static size_t row_bytes(enum qn_dtype t, int64_t n)
{
    return t == QN_Q8_0 || t == QN_Q4_0 ? qn_block_row_bytes(t, (int)n) : (size_t)n * qn_dtype_bytes(t);
}

static void add_entry(struct write *w, const struct entry *from)
{
    if (w->n == w->n_room)
        w->list = xreallocarray(w->list, (size_t)(w->n_room = w->n_room * 2 + 256), sizeof *w->list);
    struct entry *t = &w->list[w->n++];
    *t = *from;
    t->type = number_of(t->dtype);
    t->n_byte = row_bytes(t->dtype, t->dim[0]);
    for (int i = 1; i < t->n_dim; i++) t->n_byte *= (size_t)t->dim[i];
    t->offset = w->n_data;
    w->n_data += QN_ROUND_UP(t->n_byte, ALIGNMENT);
}

static int layer_no(const struct write *w, int layer)
{
    return layer == QN_LAYER_MTP ? w->c->n_layer : layer;
}

static void add_layer(struct write *w, enum qn_role role, int layer)
{
    int n_out, n_in;
    struct entry t = {.is_layer = true, .role = role, .layer = layer, .n_dim = 2};
    if (!qn_role_shape(w->c, role, layer, &n_out, &n_in)) return;
    bool is_top = role == QN_ROLE_EMBED || role == QN_ROLE_HEAD;
    bool is_head = role == QN_ROLE_HEAD || (role == QN_ROLE_EMBED && w->c->is_tied);
    t.dtype = role == QN_ROLE_ROUTER || role == QN_ROLE_SHARED_MIX ? QN_F32
              : is_head && w->type == QN_Q4_0                      ? QN_Q8_0
                                                                   : w->type;
    if (qn_dtype_is_block(t.dtype) && n_in % 32) t.dtype = QN_F16;
    t.dim[0] = n_in;
    t.dim[1] = n_out;
    if (qn_role_is_expert(role)) t.dim[t.n_dim++] = w->c->n_expert;
    if (is_top)
        snprintf(t.name, sizeof t.name, "%s.weight", role_names[role]);
    else
        snprintf(t.name, sizeof t.name, "blk.%d.%s.weight",
                 role == QN_ROLE_MTP_FC ? w->c->n_layer : layer_no(w, layer), role_names[role]);
    add_entry(w, &t);
}

static void add_vec(struct write *w, enum qn_vec vec, int layer)
{
    size_t n = qn_vec_count(w->c, vec, layer);
    struct entry t = {.vec = vec, .layer = layer, .dtype = QN_F32, .n_dim = 1, .dim = {(int64_t)n}};
    if (!n) return;
    if (vec == QN_VEC_CONV) {
        t.n_dim = 2;
        t.dim[0] = w->c->conv_taps;
        t.dim[1] = qn_config_conv_dim(w->c);
    }
    if (vec == QN_VEC_FINAL_NORM)
        snprintf(t.name, sizeof t.name, "%s", vec_names[vec]);
    else
        snprintf(t.name, sizeof t.name, "blk.%d.%s",
                 qn_vec_is_global(vec) ? w->c->n_layer : layer_no(w, layer), vec_names[vec]);
    add_entry(w, &t);
}

static void list_tensors(struct write *w)
{
    bool has_mtp = qn_model_has_mtp(w->m);
    add_layer(w, QN_ROLE_EMBED, 0);
    if (!w->c->is_tied) add_layer(w, QN_ROLE_HEAD, 0);
    add_vec(w, QN_VEC_FINAL_NORM, 0);
    for (int i = 0; i < w->c->n_layer + has_mtp; i++) {
        int layer = i < w->c->n_layer ? i : QN_LAYER_MTP;
        for (int r = 0; r < QN_N_ROLE; r++)
            if (!qn_role_is_global((enum qn_role)r)) add_layer(w, (enum qn_role)r, layer);
        for (int v = 0; v < QN_N_VEC; v++)
            if (!qn_vec_is_global((enum qn_vec)v)) add_vec(w, (enum qn_vec)v, layer);
    }
    if (!has_mtp) return;
    add_layer(w, QN_ROLE_MTP_FC, QN_LAYER_MTP);
    for (int v = QN_VEC_MTP_NORM_EMBED; v < QN_N_VEC; v++) add_vec(w, (enum qn_vec)v, 0);
}

static int put_bytes(struct write *w, const void *data, size_t n)
{
    int rc = QN_OK;
    QN_FAIL_IF(fwrite(data, 1, n, w->out) != n, w->e, QN_IO, "%s: %s", w->path, strerror(errno));
out:
    return rc;
}

static int put_row(struct write *w, enum qn_dtype t, const float *x, int n, unsigned char *to)
{
    switch (t) {
    case QN_F32:
        return put_bytes(w, x, (size_t)n * 4);
    case QN_F16:
    case QN_BF16:
        for (int k = 0; k < n; k++) {
            uint16_t half = t == QN_F16 ? qn_f32_to_f16(x[k]) : qn_f32_to_bf16(x[k]);
            memcpy(to + (size_t)k * 2, &half, 2);
        }
        break;
    default:
        qn_block_encode(t, x, n, to);
    }
    return put_bytes(w, to, row_bytes(t, n));
}

static int write_layer(struct write *w, const struct entry *t)
{
    int rc = QN_OK, n_expert = t->n_dim == 3 ? (int)t->dim[2] : 1, n_in = (int)t->dim[0],
        n_out = (int)t->dim[1];
    float *x = xmalloc((size_t)ROW_BLOCK * (size_t)n_in * sizeof *x);
    unsigned char *to = xmalloc((size_t)n_in * 4);
    struct qn_linear l;
    for (int i = 0; i < n_expert; i++) {
        QN_TRY(qn_model_linear(w->m, t->role, t->layer, i, &l, w->e));
        for (int row = 0; row < n_out; row += ROW_BLOCK) {
            int n = QN_MIN(ROW_BLOCK, n_out - row);
            QN_TRY(qn_heads_read(w->m, true, &l, t->role, row, n, x, w->e));
            for (int r = 0; r < n; r++) QN_TRY(put_row(w, t->dtype, x + (size_t)r * (size_t)n_in, n_in, to));
        }
        qn_model_done_with(w->m, &l);
    }
out:
    free(x);
    free(to);
    return rc;
}

static int write_vec(struct write *w, const struct entry *t)
{
    int rc = QN_OK;
    size_t n = t->n_byte / 4;
    float *x = xmalloc(t->n_byte);
    QN_TRY(qn_heads_vec(w->m, true, t->vec, t->layer, x, n, w->e));
    bool adds_one = t->vec != QN_VEC_CONV && t->vec != QN_VEC_DT_BIAS && t->vec != QN_VEC_GDN_NORM;
    for (size_t i = 0; i < n && adds_one; i++) x[i] = t->vec == QN_VEC_A_LOG ? -expf(x[i]) : x[i] + 1;
    QN_TRY(put_bytes(w, x, t->n_byte));
out:
    free(x);
    return rc;
}

static int write_data(struct write *w)
{
    int rc = QN_OK;
    static const char zeros[ALIGNMENT];
    for (int i = 0; i < w->n; i++) {
        const struct entry *t = &w->list[i];
        QN_TRY(t->is_layer ? write_layer(w, t) : write_vec(w, t));
        QN_TRY(put_bytes(w, zeros, QN_ROUND_UP(t->n_byte, ALIGNMENT) - t->n_byte));
    }
out:
    return rc;
}

static int write_header(struct write *w)
{
    int rc = QN_OK;
    struct qn_buf b = QN_BUF_INIT(MAX_META);
    uint64_t n = (uint64_t)w->n;
    qn_buf_puts(&b, "GGUF");
    put_u32(&b, 3);
    qn_buf_append(&b, &n, 8);
    qn_buf_append(&b, &w->n_value, 8);
    qn_buf_append(&b, w->meta.data, w->meta.n_byte);
    for (int i = 0; i < w->n; i++) {
        const struct entry *t = &w->list[i];
        put_text(&b, t->name, strlen(t->name));
        put_u32(&b, (uint32_t)t->n_dim);
        qn_buf_append(&b, t->dim, (size_t)t->n_dim * 8);
        put_u32(&b, t->type);
        qn_buf_append(&b, &t->offset, 8);
    }
    while (b.n_byte % ALIGNMENT && !b.failed) qn_buf_putc(&b, 0);
    QN_FAIL_IF(b.failed || w->meta.failed, w->e, QN_TOOBIG, "%s: its metadata are too large", w->path);
    QN_TRY(put_bytes(w, b.data, b.n_byte));
out:
    qn_buf_free(&b);
    return rc;
}

int qn_gguf_write(const struct qn_model *m, const char *path, enum qn_dtype type, struct qn_err *e)
{
    int rc = QN_OK;
    struct write w = {.m = m, .c = qn_model_config(m), .type = type, .meta = QN_BUF_INIT(MAX_META), .e = e};
    char *partial = xasprintf("%s.partial", path);
    w.path = partial;
    QN_FAIL_IF(!access(path, F_OK), e, QN_INVAL, "%s is there already; name another file or remove it", path);
    QN_FAIL_IF(qn_model_is_gguf(m), e, QN_UNSUPPORTED, "%s is a GGUF file already", qn_model_folder(m));
    QN_FAIL_IF(w.c->rope.type != QN_ROPE_DEFAULT, e, QN_UNSUPPORTED,
               "a longer context (rope type %s) is not written into GGUF files; leave it out here and ask "
               "for it where "
               "the file is served",
               qn_rope_name(w.c->rope.type));
    key_text(&w, "general.architecture", arch_of(w.c), strlen(arch_of(w.c)));
    key_text(&w, "general.type", "model", 5);
    key_text(&w, "general.name", qn_model_name(m), strlen(qn_model_name(m)));
    key_int(&w, "general.file_type", type == QN_Q4_0 ? 2 : type == QN_Q8_0 ? 7 : 32);
    key_int(&w, "general.quantization_version", 2);
    if (!isnan(w.c->temperature)) key_float(&w, "general.sampling.temp", w.c->temperature);
    if (!isnan(w.c->top_p)) key_float(&w, "general.sampling.top_p", w.c->top_p);
    if (w.c->gen_top_k > 0) key_int(&w, "general.sampling.top_k", w.c->gen_top_k);
    put_sizes(&w);
    put_layers(&w);
    QN_TRY(put_tokenizer(&w));
    list_tensors(&w);
    w.out = fopen(partial, "wb");
    QN_FAIL_IF(!w.out, e, QN_IO, "%s: %s", partial, strerror(errno));
    QN_TRY(write_header(&w));
    QN_TRY(write_data(&w));
    bool is_closed = !fclose(w.out);
    w.out = NULL;
    QN_FAIL_IF(!is_closed || rename(partial, path), e, QN_IO, "%s: %s", path, strerror(errno));
out:
    if (w.out) fclose(w.out);
    if (rc && w.n) unlink(partial);
    qn_buf_free(&w.meta);
    free(w.list);
    free(partial);
    return rc;
}
