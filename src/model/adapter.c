/* LoRA adapters in PEFT's layout, and draft layers from elsewhere.
 * SPDX-License-Identifier: Apache-2.0 */
#include "model/adapter.h"

#include <math.h>
#include <unistd.h>

#include "base/hash.h"
#include "base/json.h"

#define MAX_CONFIG ((size_t)16 << 20)
#define MAX_RANK   4096

struct qn_merged {
    struct qn_safetensors *file;
    uint16_t **layers; /* [n] */
    int n, capacity;
    uint64_t hash;
};

struct merge {
    struct qn_merged *m;
    const struct qn_json *config;
    struct qn_tensors *t;
    const struct qn_scheme *scheme;
    struct qn_arena *arena;
    struct qn_err *e;
    unsigned char *is_used; /* [tensors of the adapter] */
};

static bool ends_with(const char *s, const char *tail)
{
    size_t n = strlen(s), k = strlen(tail);
    return n >= k && !strcmp(s + n - k, tail);
}

/* --- the adapter's configuration --- */

static double number(const struct qn_json *obj, const char *key, double dflt)
{
    const struct qn_json *v = qn_json_get(obj, key);
    return qn_json_is_number(v) ? qn_json_num(v) : dflt;
}

/* alpha_pattern and rank_pattern: a pattern is the end of a module's name. */
static double of_pattern(const struct qn_json *config, const char *key, const char *module, double dflt)
{
    const struct qn_json *v = qn_json_get(config, key);
    for (size_t i = 0; qn_json_is(v, QN_JSON_OBJECT) && i < v->n; i++) {
        const char *pattern = v->keys[i].text;
        size_t n = strlen(module), k = strlen(pattern);
        bool is_end = ends_with(module, pattern) && (n == k || module[n - k - 1] == '.');
        if (is_end && qn_json_is_number(v->items[i])) return qn_json_num(v->items[i]);
    }
    return dflt;
}

static int check_config(const struct qn_json *c, const char *folder, struct qn_err *e)
{
    int rc = QN_OK;
    const struct qn_json *type = qn_json_get(c, "peft_type");
    bool on = false;
    QN_FAIL_IF(qn_json_is(type, QN_JSON_STRING) && strcmp(type->text, "LORA"), e, QN_UNSUPPORTED,
               "%s: an adapter of type %.40s; LORA is merged", folder, type->text);
    QN_TRY(qn_json_get_bool(c, "use_dora", false, &on, e));
    QN_FAIL_IF(on, e, QN_UNSUPPORTED, "%s: DoRA is not merged here: merge it with PEFT (merge_and_unload)",
               folder);
    QN_TRY(qn_json_get_bool(c, "fan_in_fan_out", false, &on, e));
    QN_FAIL_IF(on, e, QN_UNSUPPORTED, "%s: fan_in_fan_out is for other models", folder);
    const struct qn_json *bias = qn_json_get(c, "bias");
    QN_FAIL_IF(qn_json_is(bias, QN_JSON_STRING) && strcmp(bias->text, "none"), e, QN_UNSUPPORTED,
               "%s: bias '%.20s' is not merged: the family's layers have none", folder, bias->text);
out:
    return rc;
}

/* --- layers --- */

/* Part of a module's name that is the same under every prefix of a model: from "layers." or "mtp." on. */
static const char *tail_of(const char *module)
{
    const char *at = strstr(module, "mtp.");
    if (!at) at = strstr(module, "layers.");
    if (!at) at = strstr(module, "lm_head");
    return at ? at : module;
}

/* Does the model's tensor NAME belong to the module, as NAME = prefix + tail + "." + suffix? */
static const char *suffix_of(const char *name, const char *tail)
{
    size_t n = strlen(tail);
    if (qn_is_vision_name(name) || (qn_is_mtp_name(name) && strncmp(tail, "mtp.", 4))) return NULL;
    for (const char *at = name; (at = strstr(at, tail)); at++)
        if ((at == name || at[-1] == '.') && at[n] == '.' && !strchr(at + n + 1, '.')) return at + n + 1;
    return NULL;
}

struct module {
    const struct merge *g;
    const char *tail;
};

static const struct qn_tensor *find_part(void *ctx, const char *name)
{
    const struct module *m = ctx;
    const char *want = name + strlen(m->tail) + 1;
    for (int i = 0; i < m->g->t->n; i++) {
        const char *suffix = suffix_of(m->g->t->list[i].name, m->tail);
        if (suffix && !strcmp(suffix, want)) return &m->g->t->list[i];
    }
    return NULL;
}

/* w += scale * B A, rounded to BF16. */
static void merge_rows(const struct qn_tensor *a, const struct qn_tensor *b, float scale, float *w, int row,
                       uint16_t *out)
{
    size_t rank = (size_t)a->shape[0], k = (size_t)a->shape[1];
    for (size_t r = 0; r < rank; r++) {
        float f = scale * qn_tensor_value(b, (size_t)row * rank + r);
        for (size_t i = 0; f != 0 && i < k; i++) w[i] += f * qn_tensor_value(a, r * k + i);
    }
    for (size_t i = 0; i < k; i++) out[i] = qn_f32_to_bf16(w[i]);
}

/* The layer's tensors give way to one of BF16. */
static int replace(struct merge *g, const char *tail, uint16_t *data, int n_out, int n_in)
{
    int first = -1, n = 0;
    struct qn_tensors *t = g->t;
    for (int i = 0; i < t->n; i++) {
        const char *suffix = suffix_of(t->list[i].name, tail);
        if (suffix && first < 0) {
            first = n;
            size_t stem = (size_t)(suffix - t->list[i].name);
            char *name = qn_arena_alloc(g->arena, stem + sizeof "weight");
            if (!name) return qn_err_set(g->e, QN_TOOBIG, __FILE__, __LINE__, "too many names");
            sprintf(name, "%.*sweight", (int)stem, t->list[i].name);
            t->list[n] = (struct qn_tensor){.name = name,
                                            .dtype = QN_BF16,
                                            .n_dim = 2,
                                            .shape = {n_out, n_in},
                                            .data = data,
                                            .n_byte = (size_t)n_out * (size_t)n_in * 2};
            t->file_of[n++] = t->file_of[i];
        } else if (!suffix) {
            t->list[n] = t->list[i];
            t->file_of[n++] = t->file_of[i];
        }
    }
    t->n = n;
    return QN_OK;
}

static void keep(struct merge *g, uint16_t *data)
{
    struct qn_merged *m = g->m;
    if (m->n == m->capacity) {
        m->capacity = m->capacity * 2 + 64;
        m->layers = xreallocarray(m->layers, (size_t)m->capacity, sizeof *m->layers);
    }
    m->layers[m->n++] = data;
}

static float scale_of(const struct merge *g, const char *module, double rank)
{
    bool is_rs = false;
    qn_json_get_bool(g->config, "use_rslora", false, &is_rs, NULL);
    double alpha = of_pattern(g->config, "alpha_pattern", module, number(g->config, "lora_alpha", 8));
    return (float)(alpha / (is_rs ? sqrt(rank) : rank));
}

static int merge_one(struct merge *g, const struct qn_tensor *a, const struct qn_tensor *b,
                     const char *module)
{
    int rc = QN_OK;
    float *w = NULL;
    const char *tail = tail_of(module);
    struct module ctx = {g, tail};
    struct qn_detect d = {find_part, &ctx, g->scheme};
    struct qn_linear l;
    int n_out = (int)b->shape[0], n_in = (int)a->shape[1];
    rc = qn_detect_linear(&d, tail, n_out, n_in, true, &l, g->e);
    if (rc) {
        qn_err_prefix(g->e, "the adapter's %s", module);
        goto out;
    }
    size_t n_value;
    QN_FAIL_IF(!qn_mul_size((size_t)n_out, (size_t)n_in, &n_value), g->e, QN_TOOBIG, "%s: too large", module);
    w = try_malloc((size_t)n_in, sizeof *w);
    uint16_t *data = try_malloc(n_value, sizeof *data);
    if (data) keep(g, data);
    QN_FAIL_IF(!w || !data, g->e, QN_NOMEM, "no memory to merge %s", module);
    float scale = scale_of(g, module, (double)a->shape[0]);
    for (int row = 0; row < n_out; row++) {
        QN_TRY(qn_linear_rows(&l, row, 1, w, g->e));
        merge_rows(a, b, scale, w, row, data + (size_t)row * (size_t)n_in);
    }
    QN_TRY(replace(g, tail, data, n_out, n_in));
out:
    free(w);
    return rc;
}

/* PEFT's factors of a parameter of three dimensions, X [E, out, in]: A [r E, in] holds r rows an expert, the
 * columns of B [out, r E] go by expert first. Which of the layer's two parameters it is, the shapes tell. */
static int merge_experts(struct merge *g, const struct qn_tensor *a, const struct qn_tensor *b,
                         const char *module)
{
    int rc = QN_OK;
    float *w = NULL;
    struct qn_tensor *x = NULL;
    char stem[512];
    snprintf(stem, sizeof stem, "%s", tail_of(module));
    char *inner = strstr(stem, ".base_layer");
    if (inner) *inner = 0;
    for (int i = 0; i < g->t->n && !x; i++) {
        struct qn_tensor *t = &g->t->list[i];
        const char *suffix = suffix_of(t->name, stem);
        bool is_one = suffix && (!strcmp(suffix, "gate_up_proj") || !strcmp(suffix, "down_proj"));
        if (is_one && t->n_dim == 3 && t->shape[1] == b->shape[0] && t->shape[2] == a->shape[1]) x = t;
    }
    QN_FAIL_IF(
        !x || a->shape[0] % x->shape[0] || !(x->dtype == QN_BF16 || x->dtype == QN_F16 || x->dtype == QN_F32),
        g->e, QN_UNSUPPORTED,
        "the adapter's %.100s finds no experts of its shape in one plain tensor of the model", a->name);
    size_t n_expert = (size_t)x->shape[0], n_out = (size_t)x->shape[1], n_in = (size_t)x->shape[2],
           rank = (size_t)a->shape[0] / n_expert;
    w = try_malloc(n_in, sizeof *w);
    uint16_t *data = try_malloc(n_expert * n_out * n_in, sizeof *data);
    if (data) keep(g, data);
    QN_FAIL_IF(!w || !data, g->e, QN_NOMEM, "no memory to merge %s", module);
    float scale = scale_of(g, module, (double)rank);
    for (size_t row = 0; row < n_expert * n_out; row++) {
        size_t expert = row / n_out;
        for (size_t i = 0; i < n_in; i++) w[i] = qn_tensor_value(x, row * n_in + i);
        for (size_t r = 0; r < rank; r++) {
            float f = scale * qn_tensor_value(b, row % n_out * rank * n_expert + r * n_expert + expert);
            for (size_t i = 0; i < n_in; i++) w[i] += f * qn_tensor_value(a, (expert * rank + r) * n_in + i);
        }
        for (size_t i = 0; i < n_in; i++) data[row * n_in + i] = qn_f32_to_bf16(w[i]);
    }
    x->dtype = QN_BF16;
    x->data = data;
    x->n_byte = n_expert * n_out * n_in * 2;
out:
    free(w);
    return rc;
}

static const struct qn_tensor *find_in(const struct qn_safetensors *st, const char *name, unsigned char *used)
{
    for (int i = 0; i < qn_safetensors_n_tensor(st); i++)
        if (!strcmp(qn_safetensors_tensor(st, i)->name, name)) {
            used[i] = 1;
            return qn_safetensors_tensor(st, i);
        }
    return NULL;
}

static bool is_factor(const struct qn_tensor *t)
{
    return t->n_dim == 2 && t->shape[0] > 0 && t->shape[1] > 0 && t->shape[0] < INT32_MAX &&
           t->shape[1] < INT32_MAX && (t->dtype == QN_F32 || t->dtype == QN_F16 || t->dtype == QN_BF16);
}

static int merge_all(struct merge *g, int *n_layer)
{
    int rc = QN_OK;
    const struct qn_safetensors *st = g->m->file;
    char module[512], other[600];
    for (int i = 0; i < qn_safetensors_n_tensor(st); i++) {
        const struct qn_tensor *a = qn_safetensors_tensor(st, i);
        const char *at = strstr(a->name, ".lora_A.");
        if (!at) continue;
        const char *name = !strncmp(a->name, "base_model.model.", 17) ? a->name + 17 : a->name;
        QN_FAIL_IF((size_t)(at - name) >= sizeof module, g->e, QN_FORMAT,
                   "tensor %.100s: the name is too long", a->name);
        snprintf(module, sizeof module, "%.*s", (int)(at - name), name);
        snprintf(other, sizeof other, "%.*s.lora_B.%s", (int)(at - a->name), a->name,
                 at + strlen(".lora_A."));
        const struct qn_tensor *b = find_in(st, other, g->is_used);
        QN_FAIL_IF(!b, g->e, QN_FORMAT, "the adapter has %.90s without %.90s", a->name, other);
        QN_FAIL_IF(
            !is_factor(a) || !is_factor(b) || a->shape[0] != b->shape[1] || a->shape[0] > MAX_RANK * 1024,
            g->e, QN_FORMAT, "the adapter's %.100s and its lora_B are not [rank, K] and [N, rank]", a->name);
        g->is_used[i] = 1;
        bool is_param = ends_with(module, "mlp.experts") || ends_with(module, "experts.base_layer");
        QN_TRY(is_param ? merge_experts(g, a, b, module) : merge_one(g, a, b, module));
        ++*n_layer;
    }
    for (int i = 0; i < qn_safetensors_n_tensor(st); i++)
        QN_FAIL_IF(
            !g->is_used[i], g->e, QN_UNSUPPORTED,
            "the adapter's tensor %.100s is no LoRA factor and cannot be merged here: merge it with PEFT "
            "(merge_and_unload)",
            qn_safetensors_tensor(st, i)->name);
    QN_FAIL_IF(!*n_layer, g->e, QN_FORMAT, "the adapter holds no LoRA factors");
out:
    return rc;
}

int qn_adapter_merge(struct qn_merged **out, const char *folder, struct qn_tensors *t,
                     const struct qn_scheme *scheme, struct qn_arena *arena, struct qn_notes *notes,
                     struct qn_err *e)
{
    int rc = QN_OK, n_layer = 0;
    struct qn_arena *json = qn_arena_create((size_t)256 << 20);
    struct qn_json *config;
    struct merge g = {.m = xcalloc(1, sizeof *g.m), .t = t, .scheme = scheme, .arena = arena, .e = e};
    char *path = xasprintf("%s/adapter_config.json", folder),
         *file = xasprintf("%s/adapter_model.safetensors", folder);
    QN_FAIL_IF(access(path, F_OK) || access(file, F_OK), e, QN_NOTFOUND,
               "--lora %s: a folder with adapter_config.json and adapter_model.safetensors (PEFT) is needed; "
               "one adapter "
               "is merged at start, several or one by request are not served",
               folder);
    QN_TRY(qn_json_read_file(&config, json, path, MAX_CONFIG, e));
    QN_TRY(check_config(config, folder, e));
    QN_TRY(qn_safetensors_open(&g.m->file, file, e));
    g.config = config;
    g.is_used = xcalloc((size_t)qn_safetensors_n_tensor(g.m->file) + 1, 1);
    QN_TRY(merge_all(&g, &n_layer));
    size_t n_header;
    const void *header = qn_safetensors_header(g.m->file, &n_header);
    g.m->hash = qn_hash_bytes(7, header, n_header);
    for (int i = 0; i < qn_safetensors_n_tensor(g.m->file); i++) {
        const struct qn_tensor *x = qn_safetensors_tensor(g.m->file, i);
        g.m->hash = qn_hash_bytes(g.m->hash, x->data, x->n_byte);
    }
    double alpha = number(config, "lora_alpha", 8);
    g.m->hash = qn_hash_bytes(g.m->hash, &alpha, sizeof alpha);
    qn_note(notes, "the adapter of %s is merged into %d layers, which are BF16 now", folder, n_layer);
    *out = g.m;
    g.m = NULL;
out:
    free(path);
    free(file);
    free(g.is_used);
    qn_merged_free(g.m);
    qn_arena_free(json);
    return rc;
}

uint64_t qn_merged_hash(const struct qn_merged *m)
{
    return m ? m->hash : 0;
}

void qn_merged_free(struct qn_merged *m)
{
    if (!m) return;
    qn_safetensors_close(m->file);
    for (int i = 0; i < m->n; i++) free(m->layers[i]);
    free(m->layers);
    free(m);
}

/* --- draft layers from elsewhere --- */

int qn_adapter_draft(struct qn_shards *donor, const char *folder, struct qn_tensors *t,
                     struct qn_arena *arena, struct qn_notes *notes, struct qn_err *e)
{
    int rc = QN_OK, n = 0, n_new = 0, n_old = 0;
    struct qn_tensors from = {0};
    struct qn_notes ignored = {0};
    QN_TRY(qn_shards_open(donor, folder, &from, &ignored, e));
    for (int i = 0; i < from.n; i++) n_new += qn_is_mtp_name(from.list[i].name);
    QN_FAIL_IF(!n_new, e, QN_NOTFOUND, "--mtp-from %s: no mtp tensors in its files", folder);
    for (int i = 0; i < t->n; i++) {
        if (qn_is_mtp_name(t->list[i].name)) {
            n_old++;
            continue;
        }
        t->list[n] = t->list[i];
        t->file_of[n++] = t->file_of[i];
    }
    t->list = xreallocarray(t->list, (size_t)(n + n_new), sizeof *t->list);
    t->file_of = xreallocarray(t->file_of, (size_t)(n + n_new), sizeof *t->file_of);
    for (int i = 0; i < from.n; i++) {
        const char *name = from.list[i].name;
        if (!qn_is_mtp_name(name)) continue;
        t->list[n] = from.list[i];
        name = strstr(name, "mtp.");
        t->list[n].name = qn_arena_strndup(arena, name, strlen(name));
        QN_FAIL_IF(!t->list[n].name, e, QN_TOOBIG, "too many names");
        t->file_of[n++] = 0;
    }
    t->n = n;
    qn_note(notes, "the draft layer comes from %s (%d tensors%s)", folder, n_new,
            n_old ? "; the model's own is not used" : "");
out:
    qn_notes_free(&ignored);
    qn_tensors_free(&from);
    return rc;
}
