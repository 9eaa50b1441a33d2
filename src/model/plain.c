/* From a GGUF file to a checkpoint folder.
 * SPDX-License-Identifier: Apache-2.0 */
#include "model/plain.h"

#include "base/gguf_json.h"
#include "base/mem.h"
#include "model/heads.h"
#include "model/writer.h"

#define ROW_BLOCK 64

struct item { /* of the folder: a layer or a small tensor */
    bool is_layer;
    enum qn_role role;
    enum qn_vec vec;
    int layer, expert;
};

struct plan {
    const struct qn_model *m;
    struct qn_tensor *list;
    struct item *items;
    int n, n_room;
};

static void add(struct plan *p, const struct item *it, char *name, enum qn_dtype dtype, const int64_t *shape,
                int n_dim)
{
    if (p->n == p->n_room) {
        p->n_room = p->n_room * 2 + 256;
        p->list = xreallocarray(p->list, (size_t)p->n_room, sizeof *p->list);
        p->items = xreallocarray(p->items, (size_t)p->n_room, sizeof *p->items);
    }
    struct qn_tensor t = {.name = name, .dtype = dtype, .n_dim = n_dim, .n_byte = qn_dtype_bytes(dtype)};
    for (int i = 0; i < n_dim; i++) {
        t.shape[i] = shape[i];
        t.n_byte *= (size_t)shape[i];
    }
    p->list[p->n] = t;
    p->items[p->n++] = *it;
}

static void add_layers(struct plan *p, enum qn_role role, int layer)
{
    const struct qn_config *c = qn_model_config(p->m);
    int n_out, n_in, n = qn_role_is_expert(role) ? c->n_expert : 1;
    if (!qn_role_shape(c, role, layer, &n_out, &n_in)) return;
    for (int x = 0; x < n; x++) {
        char stem[QN_NAME_BYTES];
        struct item it = {true, role, 0, layer, x};
        qn_role_stem(&qn_names_published, role, layer, x, stem);
        add(p, &it, xasprintf("%s.weight", stem), QN_BF16, (int64_t[]){n_out, n_in}, 2);
    }
}

static void add_vec(struct plan *p, enum qn_vec vec, int layer)
{
    const struct qn_config *c = qn_model_config(p->m);
    size_t n = qn_vec_count(c, vec, layer);
    char name[QN_NAME_BYTES];
    struct item it = {false, 0, vec, layer, 0};
    if (!n) return;
    qn_vec_name(&qn_names_published, vec, layer, name);
    int64_t conv[] = {qn_config_conv_dim(c), 1, c->conv_taps}, flat[] = {(int64_t)n};
    bool is_float = vec == QN_VEC_A_LOG || vec == QN_VEC_GDN_NORM; /* as published */
    add(p, &it, xstrdup(name), is_float ? QN_F32 : QN_BF16, vec == QN_VEC_CONV ? conv : flat,
        vec == QN_VEC_CONV ? 3 : 1);
}

static void make_plan(struct plan *p)
{
    const struct qn_config *c = qn_model_config(p->m);
    bool has_mtp = qn_model_has_mtp(p->m);
    for (int r = 0; r < QN_N_ROLE; r++) {
        enum qn_role role = (enum qn_role)r;
        if (qn_role_is_global(role) && !(role == QN_ROLE_HEAD && c->is_tied) &&
            !(role == QN_ROLE_MTP_FC && !has_mtp))
            add_layers(p, role, 0);
        for (int i = has_mtp ? QN_LAYER_MTP : 0; !qn_role_is_global(role) && i < c->n_layer; i++)
            add_layers(p, role, i);
    }
    for (int v = 0; v < QN_N_VEC; v++) {
        enum qn_vec vec = (enum qn_vec)v;
        if (qn_vec_is_global(vec) && (vec == QN_VEC_FINAL_NORM || has_mtp)) add_vec(p, vec, 0);
        for (int i = has_mtp ? QN_LAYER_MTP : 0; !qn_vec_is_global(vec) && i < c->n_layer; i++)
            add_vec(p, vec, i);
    }
}

static int put(struct qn_writer *w, int i, enum qn_dtype dtype, size_t at, const float *x, size_t n,
               struct qn_err *e)
{
    if (dtype == QN_F32) return qn_writer_put(w, i, at * 4, x, n * 4, e);
    uint16_t *half = xmalloc(n * sizeof *half);
    for (size_t k = 0; k < n; k++) half[k] = qn_f32_to_bf16(x[k]);
    int rc = qn_writer_put(w, i, at * 2, half, n * 2, e);
    free(half);
    return rc;
}

static int write_item(const struct plan *p, struct qn_writer *w, int i, struct qn_err *e)
{
    int rc = QN_OK;
    const struct item *it = &p->items[i];
    const struct qn_tensor *t = &p->list[i];
    float *x = NULL;
    struct qn_linear l;
    if (!it->is_layer) {
        size_t n = t->n_byte / qn_dtype_bytes(t->dtype);
        x = xmalloc(n * sizeof *x);
        QN_TRY(qn_heads_vec(p->m, false, it->vec, it->layer, x, n, e));
        QN_TRY(put(w, i, t->dtype, 0, x, n, e));
        goto out;
    }
    QN_TRY(qn_model_linear(p->m, it->role, it->layer, it->expert, &l, e));
    x = xmalloc((size_t)ROW_BLOCK * (size_t)l.n_in * sizeof *x);
    for (int row = 0; row < l.n_out; row += ROW_BLOCK) {
        int n = QN_MIN(ROW_BLOCK, l.n_out - row);
        QN_TRY(qn_heads_read(p->m, false, &l, it->role, row, n, x, e));
        QN_TRY(put(w, i, t->dtype, (size_t)row * (size_t)l.n_in, x, (size_t)n * (size_t)l.n_in, e));
    }
    qn_model_done_with(p->m, &l);
out:
    free(x);
    return rc;
}

static int write_files(const struct qn_model *m, struct qn_writer *w, struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_gguf_set set = {0};
    struct qn_buf b = QN_BUF_INIT(QN_GGUF_JSON_MAX);
    static const struct {
        const char *name;
        int (*write)(const struct qn_gguf *, struct qn_buf *, struct qn_err *);
    } files[] = {{"generation_config.json", qn_gguf_generation_json},
                 {"tokenizer.json", qn_gguf_tokenizer_json},
                 {"tokenizer_config.json", qn_gguf_tokenizer_config_json}};
    QN_TRY(qn_gguf_set_open(&set, qn_model_folder(m), e));
    QN_TRY(qn_gguf_config_json(&set, &b, e));
    QN_TRY(qn_writer_file(w, "config.json", qn_buf_str(&b), b.n_byte, e));
    bool has_tokenizer = qn_gguf_find(set.files[0], "tokenizer.ggml.merges") != NULL;
    for (size_t i = 0; i < QN_COUNT(files) && (has_tokenizer || !i); i++) {
        qn_buf_clear(&b);
        QN_TRY(files[i].write(set.files[0], &b, e));
        QN_TRY(qn_writer_file(w, files[i].name, qn_buf_str(&b), b.n_byte, e));
    }
out:
    qn_gguf_set_close(&set);
    qn_buf_free(&b);
    return rc;
}

int qn_plain_write(const struct qn_model *m, const char *folder, int64_t shard_bytes, struct qn_err *e)
{
    int rc = QN_OK;
    struct plan p = {.m = m};
    struct qn_writer *w = NULL;
    QN_CHECK(qn_model_is_gguf(m));
    make_plan(&p);
    QN_TRY(qn_writer_open(&w, folder, NULL, e));
    QN_TRY(qn_writer_declare(w, p.list, p.n, shard_bytes ? shard_bytes : QN_SHARD_BYTES, e));
    for (int i = 0; i < p.n; i++) QN_TRY(write_item(&p, w, i, e));
    QN_TRY(write_files(m, w, e));
    QN_TRY(qn_writer_commit(w, e));
out:
    qn_writer_close(w);
    for (int i = 0; i < p.n; i++) free((void *)(uintptr_t)p.list[i].name);
    free(p.list);
    free(p.items);
    return rc;
}
