/* Random checkpoints.
 * SPDX-License-Identifier: Apache-2.0 */
#include "model/synth.h"

#include <math.h>

#include "base/hash.h"
#include "base/mem.h"
#include "model/jobs.h"
#include "model/roles.h"
#include "model/writer.h"

#define CHUNK_VALUES ((size_t)4 << 20) /* of plain tensors, a job */

enum law { NORMAL, UNIFORM };

/* How the values of a run of weights are drawn. */
struct draw {
    uint64_t stream;
    enum law law;
    float a, b; /* NORMAL: mean, deviation; UNIFORM: from, to */
};

struct tensor_job {
    int tensor;       /* first in the list */
    bool is_layer;    /* encode a layer; otherwise fill part of a plain tensor */
    size_t first, n;  /* values of the plain tensor */
    struct draw draw; /* of value 0 of the tensor */
    /* fused experts: value i belongs to matrix i / matrix, drawn from its own stream */
    enum qn_role role;
    int layer, expert;
    bool is_fused;
    int n_out, n_in;
    const struct qn_store *store;
};

struct synth {
    const struct qn_synth *opt;
    struct qn_names names;
    struct qn_writer *writer;
    struct qn_tensor *list;
    int n, capacity;
    struct tensor_job *jobs;
    int n_job, job_capacity;
    struct qn_module *modules;
    int n_module, module_capacity;
    int group;
    float *quantile; /* [65536] of the normal distribution */
};

/* --- numbers: plain arithmetic only, so that every machine draws the same --- */

static double natural_log(double x)
{
    int e;
    double m = frexp(x, &e), t = (m - 1) / (m + 1), t2 = t * t, sum = 0, p = t;
    for (int k = 1; k < 60; k += 2, p *= t2) sum += p / k;
    return 2 * sum + e * 0.693147180559945309417;
}

/* Inverse of the normal distribution, Abramowitz and Stegun 26.2.23 (error below 4.5e-4), p in (0, 0.5]. */
static double tail_quantile(double p)
{
    double t = sqrt(-2 * natural_log(p));
    return t -
           (2.515517 + t * (0.802853 + t * 0.010328)) / (1 + t * (1.432788 + t * (0.189269 + t * 0.001308)));
}

static float *make_quantiles(void)
{
    float *q = xmalloc(65536 * sizeof *q);
    for (int i = 0; i < 32768; i++) {
        double x = tail_quantile(((double)i + 0.5) / 65536);
        q[i] = (float)-x;
        q[65535 - i] = (float)x;
    }
    return q;
}

/* Four values a 64-bit word. Weights are BF16 from birth, so every format starts from the same numbers. */
static void draw_bf16(const struct synth *s, const struct draw *d, size_t first, size_t n, uint16_t *out)
{
    uint64_t base = qn_mix64(qn_mix64(s->opt->seed) ^ d->stream);
    const float *q = s->quantile;
    size_t i = first, end = first + n;
    while (i < end) {
        uint64_t word = qn_mix64(base ^ (uint64_t)(i / 4));
        for (size_t lane = i % 4; lane < 4 && i < end; lane++, i++) {
            uint32_t u = (uint32_t)(word >> 16 * lane) & 0xffff;
            float x = d->law == NORMAL ? d->a + d->b * q[u]
                                       : d->a + (d->b - d->a) * (((float)u + 0.5f) * (1.0f / 65536.0f));
            *out++ = qn_f32_to_bf16(x);
        }
    }
}

static uint64_t stream_of(const char *name)
{
    return qn_hash_str(name);
}

/* Deviation of a linear layer: outputs of unit size; those that write to the residual stream half of that. */
static float deviation(enum qn_role role, int n_in)
{
    bool writes = role == QN_ROLE_O || role == QN_ROLE_GDN_OUT || role == QN_ROLE_DOWN ||
                  role == QN_ROLE_SHARED_DOWN || role == QN_ROLE_EXPERT_DOWN;
    return (writes ? 0.5f : 1.0f) / sqrtf((float)n_in);
}

static struct draw draw_of_linear(enum qn_role role, int layer, int expert, int n_in)
{
    char stem[QN_NAME_BYTES];
    qn_role_stem(&qn_names_published, role, layer, expert, stem);
    return (struct draw){stream_of(stem), NORMAL, 0, deviation(role, n_in)};
}

static struct draw draw_of_vec(enum qn_vec vec, int layer)
{
    char name[QN_NAME_BYTES];
    qn_vec_name(&qn_names_published, vec, layer, name);
    struct draw d = {stream_of(name), NORMAL, 0, 0.1f};
    if (vec == QN_VEC_GDN_NORM) d.a = 1;
    if (vec == QN_VEC_CONV) d.b = 0.4f;
    if (vec == QN_VEC_A_LOG) d = (struct draw){d.stream, UNIFORM, 0.0f, 2.77f};     /* A in 1 .. 16 */
    if (vec == QN_VEC_DT_BIAS) d = (struct draw){d.stream, UNIFORM, -6.9f, -2.25f}; /* dt in 0.001 .. 0.1 */
    return d;
}

/* --- the list of tensors and jobs --- */

static int add_tensor(struct synth *s, struct qn_tensor t)
{
    if (s->n == s->capacity) {
        s->capacity = s->capacity ? s->capacity * 2 : 256;
        s->list = xreallocarray(s->list, (size_t)s->capacity, sizeof *s->list);
    }
    s->list[s->n] = t;
    return s->n++;
}

static struct tensor_job *add_job(struct synth *s)
{
    if (s->n_job == s->job_capacity) {
        s->job_capacity = s->job_capacity ? s->job_capacity * 2 : 256;
        s->jobs = xreallocarray(s->jobs, (size_t)s->job_capacity, sizeof *s->jobs);
    }
    struct tensor_job *j = &s->jobs[s->n_job++];
    memset(j, 0, sizeof *j);
    return j;
}

static void add_module(struct synth *s, const char *stem, const struct qn_store *store)
{
    if (s->n_module == s->module_capacity) {
        s->module_capacity = s->module_capacity ? s->module_capacity * 2 : 256;
        s->modules = xreallocarray(s->modules, (size_t)s->module_capacity, sizeof *s->modules);
    }
    s->modules[s->n_module++] = (struct qn_module){xstrdup(stem), store};
}

static void add_plain(struct synth *s, struct qn_tensor t, struct tensor_job like)
{
    size_t n = 1;
    for (int i = 0; i < t.n_dim; i++) n *= (size_t)t.shape[i];
    t.n_byte = n * qn_dtype_bytes(t.dtype);
    like.tensor = add_tensor(s, t);
    for (size_t at = 0; at < n; at += CHUNK_VALUES) {
        struct tensor_job *j = add_job(s);
        *j = like;
        j->first = at;
        j->n = QN_MIN(CHUNK_VALUES, n - at);
    }
}

static void add_vec(struct synth *s, enum qn_vec vec, int layer)
{
    const struct qn_config *c = &s->opt->shape->config;
    size_t n = qn_vec_count(c, vec, layer);
    char name[QN_NAME_BYTES];
    if (!n) return;
    qn_vec_name(&s->names, vec, layer, name);
    /* dtypes as in the 0.8B release */
    struct qn_tensor t = {.name = xstrdup(name), .dtype = QN_BF16, .n_dim = 1, .shape = {(int64_t)n}};
    if (vec == QN_VEC_A_LOG || vec == QN_VEC_GDN_NORM) t.dtype = QN_F32;
    if (vec == QN_VEC_CONV) {
        t.n_dim = 3;
        t.shape[0] = qn_config_conv_dim(c);
        t.shape[1] = 1;
        t.shape[2] = c->conv_taps;
    }
    add_plain(s, t, (struct tensor_job){.draw = draw_of_vec(vec, layer)});
}

static const struct qn_store *store_of(const struct synth *s, enum qn_role role, int layer, int n_out,
                                       int n_in)
{
    const char *why;
    const struct qn_store *store =
        qn_recipe_store(s->opt->recipe, s->opt->store, &s->opt->shape->config, role, layer);
    return store && qn_encode_fits(store, n_out, n_in, s->group, &why) ? store : NULL;
}

static void add_linear(struct synth *s, enum qn_role role, int layer, int expert)
{
    const struct qn_config *c = &s->opt->shape->config;
    int n_out, n_in;
    char stem[QN_NAME_BYTES];
    if (!qn_role_shape(c, role, layer, &n_out, &n_in) || (role == QN_ROLE_HEAD && c->is_tied)) return;
    const struct qn_store *store = store_of(s, role, layer, n_out, n_in);
    qn_role_stem(&s->names, role, layer, expert, stem);
    if (role != QN_ROLE_EMBED) add_module(s, stem, store);
    struct tensor_job j = {.draw = draw_of_linear(role, layer, expert, n_in),
                           .role = role,
                           .layer = layer,
                           .expert = expert,
                           .n_out = n_out,
                           .n_in = n_in,
                           .store = store};
    if (!store) {
        struct qn_tensor t = {
            .name = xasprintf("%s.weight", stem), .dtype = QN_BF16, .n_dim = 2, .shape = {n_out, n_in}};
        add_plain(s, t, j);
        return;
    }
    struct qn_tensor t[QN_ENCODE_MAX_TENSOR];
    int n = qn_encode_declare(store, stem, n_out, n_in, s->group, t);
    j.is_layer = true;
    j.tensor = s->n;
    for (int i = 0; i < n; i++) add_tensor(s, t[i]);
    *add_job(s) = j;
}

static void add_fused(struct synth *s, enum qn_role role, int layer)
{
    const struct qn_config *c = &s->opt->shape->config;
    int rows, first, n_in;
    char name[QN_NAME_BYTES];
    qn_role_fused(c, &s->names, role, layer, name, &rows, &first, &n_in);
    add_module(s, name, NULL);
    struct qn_tensor t = {
        .name = xstrdup(name), .dtype = QN_BF16, .n_dim = 3, .shape = {c->n_expert, rows, n_in}};
    add_plain(
        s, t,
        (struct tensor_job){.is_fused = true, .role = role, .layer = layer, .n_out = rows, .n_in = n_in});
}

static void add_layer(struct synth *s, int layer)
{
    const struct qn_shape *shape = s->opt->shape;
    const struct qn_config *c = &shape->config;
    for (int v = 0; v < QN_N_VEC; v++)
        if (!qn_vec_is_global((enum qn_vec)v)) add_vec(s, (enum qn_vec)v, layer);
    for (int r = 0; r < QN_ROLE_EXPERT_GATE; r++)
        if (!qn_role_is_global((enum qn_role)r)) add_linear(s, (enum qn_role)r, layer, 0);
    if (!c->is_moe) return;
    int n_out, n_in;
    enum qn_expert_layout layout = layer == QN_LAYER_MTP ? shape->mtp_experts : shape->experts;
    bool split = layout == QN_EXPERTS_SPLIT || (layout == QN_EXPERTS_MIXED && layer % 2);
    qn_role_shape(c, QN_ROLE_EXPERT_GATE, layer, &n_out, &n_in);
    if (split || store_of(s, QN_ROLE_EXPERT_GATE, layer, n_out, n_in)) {
        for (int x = 0; x < c->n_expert; x++)
            for (int r = QN_ROLE_EXPERT_GATE; r <= QN_ROLE_EXPERT_DOWN; r++)
                add_linear(s, (enum qn_role)r, layer, x);
    } else {
        add_fused(s, QN_ROLE_EXPERT_GATE, layer);
        add_fused(s, QN_ROLE_EXPERT_DOWN, layer);
    }
}

static void add_all(struct synth *s)
{
    const struct qn_shape *shape = s->opt->shape;
    add_linear(s, QN_ROLE_EMBED, 0, 0);
    for (int i = 0; i < shape->config.n_layer; i++) add_layer(s, i);
    add_vec(s, QN_VEC_FINAL_NORM, 0);
    add_linear(s, QN_ROLE_HEAD, 0, 0);
    if (!shape->has_mtp) return;
    add_linear(s, QN_ROLE_MTP_FC, QN_LAYER_MTP, 0);
    add_vec(s, QN_VEC_MTP_NORM_EMBED, QN_LAYER_MTP);
    add_vec(s, QN_VEC_MTP_NORM_HIDDEN, QN_LAYER_MTP);
    add_vec(s, QN_VEC_MTP_NORM, QN_LAYER_MTP);
    add_layer(s, QN_LAYER_MTP);
}

/* --- running --- */

/* Values [first, first + n) of a plain tensor. A fused tensor is a row of matrices, two of them (gate and up)
 * in gate_up_proj. */
static void draw_plain(const struct synth *s, const struct tensor_job *j, uint16_t *out)
{
    if (!j->is_fused) {
        draw_bf16(s, &j->draw, j->first, j->n, out);
        return;
    }
    const struct qn_config *c = &s->opt->shape->config;
    bool is_down = j->role == QN_ROLE_EXPERT_DOWN;
    size_t matrix = (size_t)(is_down ? c->hidden : c->expert_ffn) * (size_t)j->n_in;
    for (size_t at = j->first, end = j->first + j->n; at < end;) {
        size_t which = at / matrix, in = at % matrix, n = QN_MIN(matrix - in, end - at);
        enum qn_role role = is_down     ? QN_ROLE_EXPERT_DOWN
                            : which % 2 ? QN_ROLE_EXPERT_UP
                                        : QN_ROLE_EXPERT_GATE;
        struct draw d = draw_of_linear(role, j->layer, (int)(is_down ? which : which / 2), j->n_in);
        draw_bf16(s, &d, in, n, out);
        out += n;
        at += n;
    }
}

struct layer_run {
    struct synth *s;
    const struct tensor_job *j;
};

static int draw_rows(void *ctx, int first, int n_row, float *out, struct qn_err *e)
{
    const struct layer_run *r = ctx;
    (void)e;
    size_t K = (size_t)r->j->n_in, n = (size_t)n_row * K;
    /* the halves of the floats are drawn into the upper half of the buffer, then widened from the front */
    uint16_t *half = (uint16_t *)(void *)out + n;
    draw_bf16(r->s, &r->j->draw, (size_t)first * K, n, half);
    for (size_t i = 0; i < n; i++) {
        uint16_t h;
        memcpy(&h, half + i, 2);
        out[i] = qn_bf16_to_f32(h);
    }
    return QN_OK;
}

static int put_tensor(void *ctx, int i, size_t offset, const void *data, size_t n_byte, struct qn_err *e)
{
    const struct layer_run *r = ctx;
    return qn_writer_put(r->s->writer, r->j->tensor + i, offset, data, n_byte, e);
}

static int run_job(void *ctx, int job, struct qn_err *e)
{
    struct synth *s = ctx;
    const struct tensor_job *j = &s->jobs[job];
    if (j->is_layer) {
        struct layer_run r = {s, j};
        struct qn_encode x = {.store = j->store,
                              .name = s->list[j->tensor].name,
                              .n_out = j->n_out,
                              .n_in = j->n_in,
                              .group = s->group,
                              .rows = draw_rows,
                              .rows_ctx = &r,
                              .put = put_tensor,
                              .put_ctx = &r};
        return qn_encode_linear(&x, e);
    }
    uint16_t *half = xmalloc(j->n * 2);
    draw_plain(s, j, half);
    int rc;
    if (s->list[j->tensor].dtype == QN_F32) {
        float *full = xmalloc(j->n * 4);
        for (size_t i = 0; i < j->n; i++) full[i] = qn_bf16_to_f32(half[i]);
        rc = qn_writer_put(s->writer, j->tensor, j->first * 4, full, j->n * 4, e);
        free(full);
    } else {
        rc = qn_writer_put(s->writer, j->tensor, j->first * 2, half, j->n * 2, e);
    }
    free(half);
    return rc;
}

static size_t job_bytes(void *ctx, int job)
{
    const struct synth *s = ctx;
    const struct tensor_job *j = &s->jobs[job];
    if (!j->is_layer) return j->n * qn_dtype_bytes(s->list[j->tensor].dtype);
    size_t n = 0;
    struct qn_tensor t[QN_ENCODE_MAX_TENSOR];
    int k = qn_encode_declare(j->store, "x", j->n_out, j->n_in, s->group, t);
    for (int i = 0; i < k; i++) {
        n += t[i].n_byte;
        free((void *)(uintptr_t)t[i].name);
    }
    return n;
}

static int write_text(struct synth *s, struct qn_err *e)
{
    int rc = QN_OK;
    const struct qn_shape *shape = s->opt->shape;
    struct qn_buf b = QN_BUF_INIT((size_t)256 << 20), quant = QN_BUF_INIT((size_t)64 << 20),
                  hf = QN_BUF_INIT((size_t)64 << 20);
    bool is_quantised = false;
    for (int i = 0; i < s->n_module; i++) is_quantised |= s->modules[i].store != NULL;
    if (is_quantised)
        qn_recipe_json(s->opt->store, s->group, false, s->modules, s->n_module, false, &quant, &hf);
    qn_shape_config_json(shape, is_quantised ? qn_buf_str(&quant) : NULL, &b);
    QN_TRY(qn_writer_file(s->writer, "config.json", qn_buf_str(&b), b.n_byte, e));
    if (hf.n_byte) QN_TRY(qn_writer_file(s->writer, "hf_quant_config.json", qn_buf_str(&hf), hf.n_byte, e));
    qn_buf_clear(&b);
    qn_shape_generation_json(shape, &b);
    QN_TRY(qn_writer_file(s->writer, "generation_config.json", qn_buf_str(&b), b.n_byte, e));
    qn_buf_clear(&b);
    qn_synth_tokenizer(shape->first_control, &b);
    QN_FAIL_IF(b.failed || quant.failed, e, QN_NOMEM, "no memory for the tokenizer");
    QN_TRY(qn_writer_file(s->writer, "tokenizer.json", qn_buf_str(&b), b.n_byte, e));
    qn_buf_clear(&b);
    qn_synth_tokenizer_config(shape->first_control, &b);
    QN_TRY(qn_writer_file(s->writer, "tokenizer_config.json", qn_buf_str(&b), b.n_byte, e));
    QN_TRY(qn_writer_file(s->writer, "chat_template.jinja", qn_synth_template, strlen(qn_synth_template), e));
out:
    qn_buf_free(&b);
    qn_buf_free(&quant);
    qn_buf_free(&hf);
    return rc;
}

int qn_synth_write(const struct qn_synth *opt, const char *folder, struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_synth o = *opt;
    struct synth s = {.opt = &o, .names = qn_names_published};
    if (!o.recipe) o.recipe = qn_recipe_default(o.store, &o.shape->config);
    if (!o.shard_bytes) o.shard_bytes = QN_SHARD_BYTES;
    if (o.shape->is_text_only) snprintf(s.names.text, sizeof s.names.text, "model.");
    s.group = qn_group_size(&o.shape->config);
    s.quantile = make_quantiles();
    add_all(&s);
    bool any = o.store->format == QN_FMT_BF16;
    for (int i = 0; i < s.n_module; i++) any |= s.modules[i].store != NULL;
    QN_FAIL_IF(!any, e, QN_INVAL, "format %s with recipe %s quantises no layer of this shape", o.store->name,
               qn_recipe_name(o.recipe));
    QN_TRY(qn_writer_open(&s.writer, folder, NULL, e));
    if (o.headers_only) qn_writer_be_sparse(s.writer);
    QN_TRY(qn_writer_declare(s.writer, s.list, s.n, o.shard_bytes, e));
    struct qn_jobs jobs = {.n = s.n_job,
                           .n_thread = o.n_thread ? o.n_thread : 2,
                           .run = run_job,
                           .bytes = job_bytes,
                           .ctx = &s,
                           .label = o.is_quiet ? NULL : "synth"};
    if (!o.headers_only) QN_TRY(qn_jobs_run(&jobs, e));
    QN_TRY(write_text(&s, e));
    QN_TRY(qn_writer_commit(s.writer, e));
out:
    qn_writer_close(s.writer);
    for (int i = 0; i < s.n; i++) free((void *)(uintptr_t)s.list[i].name);
    for (int i = 0; i < s.n_module; i++) free(s.modules[i].stem);
    free(s.list);
    free(s.jobs);
    free(s.modules);
    free(s.quantile);
    return rc;
}
