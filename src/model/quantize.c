/* BF16 (or anything read here) to a quantised checkpoint.
 * SPDX-License-Identifier: Apache-2.0 */
#include "model/quantize_impl.h"

#include <dirent.h>
#include <inttypes.h>
#include <pthread.h>
#include <sys/stat.h>

#include "base/hash.h"
#include "base/json.h"
#include "model/hint.h"
#include "model/jobs.h"
#include "model/roles.h"

#define CHUNK_BYTES    ((size_t)16 << 20)  /* of a copied tensor, a job */
#define MAX_SMALL_FILE ((size_t)256 << 20) /* tokenizer and the like */
#define MAX_CONFIG     ((size_t)64 << 20)

static void add_module(struct run *r, const char *stem, const struct qn_store *store)
{
    QN_GROW(r->modules, r->n_module, r->module_capacity);
    r->modules[r->n_module++] = (struct qn_module){xstrdup(stem), store};
}

int qn_quantize_source(const struct run *r, const char *name)
{
    const struct qn_tensor *t = qn_model_find(r->m, name);
    return t ? (int)(t - qn_model_tensor(r->m, 0)) : -1;
}

/* Marks the tensors a layer is stored in; returns the one that marks its place in the output. */
static int consume(struct run *r, const char *stem)
{
    static const char *const tails[] = {"weight",
                                        "weight_packed",
                                        "qweight",
                                        "weight_scale",
                                        "weight_scale_2",
                                        "weight_scale_inv",
                                        "weight_global_scale",
                                        "weight_shape",
                                        "weight_zero_point",
                                        "qzeros",
                                        "scales",
                                        "g_idx",
                                        "weight_g_idx",
                                        "input_scale",
                                        "input_global_scale"};
    int first = -1;
    for (size_t i = 0; i < QN_COUNT(tails); i++) {
        char name[QN_NAME_BYTES + 32];
        snprintf(name, sizeof name, "%s.%s", stem, tails[i]);
        int at = qn_quantize_source(r, name);
        if (at < 0) continue;
        r->consumed[at] = 1;
        if (first < 0) first = at;
    }
    return first;
}

/* The fused tensor of an expert role, or -1; *stem gets its name. */
static int fused_source(const struct run *r, enum qn_role role, int layer, char stem[QN_NAME_BYTES + 8])
{
    int rows, first, n_in;
    qn_role_fused(qn_model_config(r->m), qn_model_names(r->m), role, layer, stem, &rows, &first, &n_in);
    int at = qn_quantize_source(r, stem);
    if (at >= 0) return at;
    strcat(stem, ".weight");
    return qn_quantize_source(r, stem);
}

/* The scales of a fused tensor of quantised experts, X_scale_inv or X.weight_scale_inv. */
static void consume_stacked(struct run *r, const char *fused)
{
    static const char *const tails[] = {"_scale_inv",    "_scale",  "_scale_2",
                                        "_global_scale", "_packed", "_zero_point"};
    char name[QN_NAME_BYTES + 40];
    size_t n = strlen(fused);
    if (n > 7 && !strcmp(fused + n - 7, ".weight")) n -= 7;
    for (size_t i = 0; i < QN_COUNT(tails); i++)
        for (int dotted = 0; dotted < 2; dotted++) {
            snprintf(name, sizeof name, "%.*s%s%s", (int)n, fused, dotted ? ".weight" : "", tails[i]);
            int at = qn_quantize_source(r, name);
            if (at >= 0) r->consumed[at] = 1;
        }
}

static bool is_plain(enum qn_format f)
{
    return f == QN_FMT_F32 || f == QN_FMT_BF16 || f == QN_FMT_F16;
}

static int plan_layer(struct run *r, enum qn_role role, int layer, int expert, struct qn_err *e)
{
    int rc = QN_OK, fused = -1;
    const struct qn_config *c = qn_model_config(r->m);
    struct qn_linear l;
    const char *why;
    char stem[QN_NAME_BYTES], fused_name[QN_NAME_BYTES + 8];
    QN_TRY(qn_model_stored(r->m, role, layer, expert, &l, e));
    qn_role_stem(qn_model_names(r->m), role, layer, expert, stem);
    if (qn_role_is_expert(role)) fused = fused_source(r, role, layer, fused_name);
    const struct qn_store *store = qn_recipe_store(r->recipe, r->q->store, c, role, layer);
    for (int i = 0; store && i < r->q->n_keep; i++) {
        if (!qn_hint_matches(r->q->keep[i], stem)) continue;
        r->report.n_kept++;
        store = NULL;
    }
    if (store && !qn_encode_fits(store, l.n_out, l.n_in, r->group, &why)) {
        r->report.n_unfit++;
        store = NULL;
    }
    if (!store) { /* as it was; quantised layers of the source keep their format */
        if (role == QN_ROLE_EMBED) goto out;
        if (fused < 0)
            add_module(r, stem, NULL);
        else if (!expert && role != QN_ROLE_EXPERT_UP)
            add_module(r, fused_name, NULL);
        goto out;
    }
    add_module(r, stem, store);
    if (!is_plain(l.format)) r->report.n_requantised++;
    QN_GROW(r->layers, r->n_layer, r->layer_capacity);
    struct job *j = &r->layers[r->n_layer];
    *j = (struct job){.order = r->n_layer++,
                      .store = store,
                      .role = role,
                      .layer = layer,
                      .expert = expert,
                      .bytes_in = qn_linear_bytes(&l)};
    if (fused >= 0 && !is_plain(l.format)) consume_stacked(r, fused_name);
    j->source = fused >= 0 ? fused : consume(r, stem);
    r->consumed[j->source] = 1;
out:
    return rc;
}

static int plan_layers(struct run *r, struct qn_err *e)
{
    int rc = QN_OK, n_out, n_in;
    const struct qn_config *c = qn_model_config(r->m);
    for (int role = 0; role < QN_N_ROLE; role++) {
        enum qn_role x = (enum qn_role)role;
        if (x == QN_ROLE_HEAD && c->is_tied) {
            add_module(r, qn_model_names(r->m)->head, NULL); /* readers see a linear layer there */
            continue;
        }
        if (qn_role_is_global(x)) {
            if (x == QN_ROLE_MTP_FC && !qn_model_has_mtp(r->m)) continue;
            QN_TRY(plan_layer(r, x, x == QN_ROLE_MTP_FC ? QN_LAYER_MTP : 0, 0, e));
            continue;
        }
        for (int layer = qn_model_has_mtp(r->m) ? QN_LAYER_MTP : 0; layer < c->n_layer; layer++) {
            if (!qn_role_shape(c, x, layer, &n_out, &n_in)) continue;
            for (int k = 0; k < (qn_role_is_expert(x) ? c->n_expert : 1); k++)
                QN_TRY(plan_layer(r, x, layer, k, e));
        }
    }
out:
    return rc;
}

static int compare_layers(const void *a, const void *b)
{
    const struct job *x = a, *y = b;
    if (x->source != y->source) return x->source < y->source ? -1 : 1;
    if (x->expert != y->expert) return x->expert < y->expert ? -1 : 1;
    return x->order < y->order ? -1 : 1;
}

static int add_output(struct run *r, struct qn_tensor t)
{
    QN_GROW(r->list, r->n_list, r->list_capacity);
    r->list[r->n_list] = t;
    return r->n_list++;
}

static uint64_t layer_key(enum qn_role role, int layer, int expert)
{
    return ((uint64_t)role << 48 | (uint64_t)(layer + 1) << 24 | (uint64_t)expert) + 1;
}

const struct job *qn_quantize_find(const struct run *r, enum qn_role role, int layer, int expert)
{
    uint64_t at;
    if (role == QN_ROLE_HEAD) layer = 0;
    return qn_map_get(&r->job_of, layer_key(role, layer, expert), &at) ? &r->jobs[at] : NULL;
}

static void add_layer_job(struct run *r, struct job *j)
{
    struct qn_tensor t[QN_ENCODE_MAX_TENSOR];
    char stem[QN_NAME_BYTES];
    int n_out, n_in;
    qn_role_stem(qn_model_names(r->m), j->role, j->layer, j->expert, stem);
    qn_role_shape(qn_model_config(r->m), j->role, j->layer, &n_out, &n_in);
    int n = qn_encode_declare(j->store, stem, n_out, n_in, r->group, t);
    j->tensor = r->n_list;
    j->n_tensor = n;
    for (int i = 0; i < n; i++) {
        add_output(r, t[i]);
        j->bytes_out += t[i].n_byte;
    }
    QN_GROW(r->jobs, r->n_job, r->job_capacity);
    qn_map_put(&r->job_of, layer_key(j->role, j->layer, j->expert), (uint64_t)r->n_job);
    r->jobs[r->n_job++] = *j;
}

static void add_copy_jobs(struct run *r, int source)
{
    struct qn_tensor t = *qn_model_tensor(r->m, source);
    t.name = xstrdup(t.name);
    int tensor = add_output(r, t);
    r->tensor_of[source] = tensor;
    for (size_t at = 0; at < t.n_byte; at += CHUNK_BYTES) {
        QN_GROW(r->jobs, r->n_job, r->job_capacity);
        r->jobs[r->n_job++] = (struct job){.tensor = tensor,
                                           .n_tensor = 1,
                                           .source = source,
                                           .offset = at,
                                           .n_byte = QN_MIN(CHUNK_BYTES, t.n_byte - at)};
    }
}

/* Output in the order of the source, so that shards hold whole layers as before. */
static void order_jobs(struct run *r)
{
    if (r->n_layer) qsort(r->layers, (size_t)r->n_layer, sizeof *r->layers, compare_layers);
    int next = 0;
    for (int i = 0; i < qn_model_n_tensors(r->m); i++) {
        for (; next < r->n_layer && r->layers[next].source == i; next++) add_layer_job(r, &r->layers[next]);
        if (!r->consumed[i] && !qn_model_tensor_is_ignored(r->m, i)) add_copy_jobs(r, i);
    }
    QN_CHECK(next == r->n_layer);
}

/* --- running --- */

struct layer_run {
    struct run *r;
    const struct job *j;
    struct qn_linear l;
    const struct qn_fit *fit; /* NULL: not fitted */
};

static int read_rows(void *ctx, int first, int n_row, float *out, struct qn_err *e)
{
    const struct layer_run *x = ctx;
    int rc = qn_linear_rows(&x->l, first, n_row, out, e);
    if (!rc && x->fit) qn_fit_rows(x->fit, x->j->role, x->j->expert, first, n_row, x->l.n_in, out);
    return rc;
}

static int put_tensor(void *ctx, int i, size_t offset, const void *data, size_t n_byte, struct qn_err *e)
{
    const struct layer_run *x = ctx;
    return qn_writer_put(x->r->writer, x->j->tensor + i, offset, data, n_byte, e);
}

bool qn_quantize_is_fitted(const struct run *r, const struct job *j)
{
    int head = qn_model_config(r->m)->n_layer;
    if (!r->fit.pool || j->role == QN_ROLE_MTP_FC) return false;
    return j->role == QN_ROLE_HEAD ? r->fit.layer == head : j->layer == r->fit.layer;
}

static int copy_bytes(struct run *r, const struct job *j, struct qn_err *e)
{
    int rc = QN_OK;
    const struct qn_tensor *t = qn_model_tensor(r->m, j->source);
    struct qn_linear l = {.weight = *t};
    QN_TRY(qn_writer_put(r->writer, j->tensor, j->offset, (const char *)t->data + j->offset, j->n_byte, e));
    l.weight.data = (const char *)t->data + j->offset;
    l.weight.n_byte = j->n_byte;
    l.weight.n_dim = 1;
    qn_model_done_with(r->m, &l);
out:
    return rc;
}

static int encode_layer(struct run *r, struct job *j, struct qn_err *e)
{
    int rc = QN_OK;
    struct layer_run x = {.r = r, .j = j, .fit = qn_quantize_is_fitted(r, j) ? &r->fit : NULL};
    const struct qn_fit_input *in = x.fit ? qn_fit_input(x.fit, j->role, j->expert) : NULL;
    QN_TRY(qn_model_linear(r->m, j->role, j->layer, j->expert, &x.l, e));
    qn_model_will_need(r->m, &x.l);
    struct qn_encode enc = {.store = j->store,
                            .name = x.l.name,
                            .n_out = x.l.n_out,
                            .n_in = x.l.n_in,
                            .group = r->group,
                            .search = r->q->search,
                            .importance = in ? in->importance : NULL,
                            .carry = in ? in->carry : NULL,
                            .is_act_order = r->q->is_act_order,
                            .rows = read_rows,
                            .rows_ctx = &x,
                            .put = put_tensor,
                            .put_ctx = &x};
    QN_TRY(qn_encode_linear(&enc, e));
    j->error = enc.error;
    j->power = enc.power;
    qn_model_done_with(r->m, &x.l);
out:
    return rc;
}

void qn_quantize_job_line(const struct run *r, const struct job *j, struct qn_buf *b)
{
    if (j->store && j->is_done) qn_buf_printf(b, "job %d %a %a\n", (int)(j - r->jobs), j->error, j->power);
}

/* Counts a job off its shards; a shard that is complete is synced and noted. */
static int finish_job(struct run *r, struct job *j, struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_buf lines = QN_BUF_INIT((size_t)64 << 20);
    pthread_mutex_lock(&r->lock);
    j->is_done = true;
    if (r->q->activations) goto out; /* layers are noted */
    int first = qn_writer_shard_of(r->writer, j->tensor),
        last = qn_writer_shard_of(r->writer, j->tensor + j->n_tensor - 1);
    for (int s = first; s <= last; s++) {
        if (--r->pending[s]) continue;
        for (int i = 0; i < r->n_job; i++)
            if (qn_writer_shard_of(r->writer, r->jobs[i].tensor) <= s &&
                qn_writer_shard_of(r->writer, r->jobs[i].tensor + r->jobs[i].n_tensor - 1) >= s)
                qn_quantize_job_line(r, &r->jobs[i], &lines);
        QN_TRY(qn_writer_sync(r->writer, s, e));
        qn_buf_printf(&lines, "shard %d\n", s);
        QN_TRY(qn_writer_note(r->writer, qn_buf_str(&lines), e));
        qn_buf_clear(&lines);
    }
out:
    pthread_mutex_unlock(&r->lock);
    qn_buf_free(&lines);
    return rc;
}

static int run_job(void *ctx, int item, struct qn_err *e)
{
    int rc = QN_OK;
    struct run *r = ctx;
    struct job *j = &r->jobs[r->batch[item]];
    if (j->is_done) goto out;
    if (j->store)
        QN_TRY(encode_layer(r, j, e));
    else if (!r->rewritten[j->source])
        QN_TRY(copy_bytes(r, j, e));
    QN_TRY(finish_job(r, j, e));
out:
    return rc;
}

static size_t job_bytes(void *ctx, int item)
{
    const struct run *r = ctx;
    const struct job *j = &r->jobs[r->batch[item]];
    return j->store ? j->bytes_in : j->n_byte;
}

int qn_quantize_batch(struct run *r, int n, const char *label, struct qn_err *e)
{
    struct qn_jobs jobs = {.n = n,
                           .n_thread = r->q->n_thread ? r->q->n_thread : 2,
                           .run = run_job,
                           .bytes = job_bytes,
                           .ctx = r,
                           .label = r->q->is_quiet ? NULL : label};
    return qn_jobs_run(&jobs, e);
}

/* --- going on with an interrupted run --- */

/* Everything the bytes of the output depend on. */
static char *make_key(const struct run *r)
{
    const struct qn_quantize *q = r->q;
    uint64_t h = qn_hash_str(qn_recipe_name(r->recipe));
    for (int i = 0; i < r->n_list; i++) h = qn_hash_bytes(h, r->list[i].name, strlen(r->list[i].name));
    for (int i = 0; i < r->n_list; i++) h = qn_hash_bytes(h, &r->list[i].n_byte, sizeof r->list[i].n_byte);
    return xasprintf("quantize %s %016" PRIx64 " %s %d %" PRId64 " %016" PRIx64 " %d%d%d %016" PRIx64,
                     QN_VERSION, qn_model_fingerprint(r->m), q->store->name, r->group, q->shard_bytes, h,
                     q->search, q->has_carry, q->is_act_order, q->activations ? q->activations_hash : 0);
}

/* Marks what the notes of an earlier run say is done. */
static void read_notes(struct run *r)
{
    unsigned char *done = xcalloc((size_t)qn_writer_n_shards(r->writer) + 1, 1);
    int n, place, n_shard = qn_writer_n_shards(r->writer), n_done = 0;
    double error, power;
    for (const char *at = qn_writer_notes(r->writer); *at; at = strchr(at, '\n') + 1) {
        if (sscanf(at, "shard %d", &n) == 1 && n >= 0 && n < n_shard) {
            n_done += !done[n];
            done[n] = 1;
        } else if (sscanf(at, "rewritten %d", &n) == 1 && n >= 0 && n < qn_model_n_tensors(r->m)) {
            r->rewritten[n] = 1;
        } else if (sscanf(at, "job %d %la %la", &place, &error, &power) == 3 && place >= 0 &&
                   place < r->n_job) {
            r->jobs[place].error = error;
            r->jobs[place].power = power;
            if (r->q->activations) r->jobs[place].is_done = true;
        }
    }
    for (int i = 0; i < r->n_job && !r->q->activations; i++) {
        struct job *j = &r->jobs[i];
        int first = qn_writer_shard_of(r->writer, j->tensor);
        int last = qn_writer_shard_of(r->writer, j->tensor + j->n_tensor - 1);
        j->is_done = true;
        for (int s = first; s <= last; s++) j->is_done &= done[s];
        for (int s = first; s <= last; s++) r->pending[s] += !j->is_done;
    }
    if (n_done && !r->q->is_quiet)
        fprintf(stderr, "quantize: going on: %d of %d shards were finished by an earlier run\n", n_done,
                n_shard);
    free(done);
}

/* --- files beside the tensors --- */

static int write_config(struct run *r, struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_arena *arena = qn_arena_create((size_t)1 << 30);
    struct qn_buf quant = QN_BUF_INIT(MAX_CONFIG), hf = QN_BUF_INIT(MAX_CONFIG),
                  text = QN_BUF_INIT(MAX_CONFIG);
    struct qn_json *top, *value;
    char *path = xasprintf("%s/config.json", qn_model_folder(r->m));
    bool has_vision = false;
    for (int i = 0; i < qn_model_n_tensors(r->m); i++) {
        if (!qn_model_tensor_is_vision(r->m, i)) continue;
        has_vision = true;
        const struct qn_tensor *t = qn_model_tensor(r->m, i);
        char stem[QN_NAME_BYTES];
        size_t n = strlen(t->name);
        if (t->n_dim != 2 || n >= sizeof stem || n < 8 || strcmp(t->name + n - 7, ".weight")) continue;
        snprintf(stem, sizeof stem, "%.*s", (int)(n - 7), t->name);
        if (r->n_layer) add_module(r, stem, NULL); /* by its name: readers agree on nothing else */
    }
    QN_TRY(qn_json_read_file(&top, arena, path, MAX_CONFIG, e));
    if (r->n_layer) {
        qn_recipe_json(r->q->store, r->group, r->q->is_act_order, r->modules, r->n_module, has_vision, &quant,
                       &hf);
        QN_TRY(qn_json_parse(&value, arena, qn_buf_str(&quant), quant.n_byte, "quantization_config", e));
        QN_FAIL_IF(!qn_json_set(arena, top, "quantization_config", value), e, QN_NOMEM,
                   "config.json is too large");
    }
    qn_json_write(&text, top, &(const struct qn_json_style){.indent = 2});
    qn_buf_puts(&text, "\n");
    QN_FAIL_IF(text.failed || quant.failed || hf.failed, e, QN_TOOBIG, "config.json would be over %zu bytes",
               MAX_CONFIG);
    QN_TRY(qn_writer_file(r->writer, "config.json", qn_buf_str(&text), text.n_byte, e));
    if (hf.n_byte) QN_TRY(qn_writer_file(r->writer, "hf_quant_config.json", qn_buf_str(&hf), hf.n_byte, e));
out:
    free(path);
    qn_buf_free(&quant);
    qn_buf_free(&hf);
    qn_buf_free(&text);
    qn_arena_free(arena);
    return rc;
}

static bool ends_with(const char *s, const char *tail)
{
    size_t n = strlen(s), k = strlen(tail);
    return n >= k && !strcmp(s + n - k, tail);
}

static bool is_side_file(const char *name)
{
    static const char *const not [] = {".safetensors", ".gguf",       ".bin", ".pth",
                                       ".pt",          ".index.json", ".lock"};
    if (name[0] == '.' || !strcmp(name, "config.json") || !strcmp(name, "hf_quant_config.json")) return false;
    for (size_t i = 0; i < QN_COUNT(not ); i++)
        if (ends_with(name, not [i])) return false;
    return true;
}

static int copy_files(struct run *r, struct qn_err *e)
{
    int rc = QN_OK;
    char *path = NULL;
    struct qn_buf b = QN_BUF_INIT(MAX_SMALL_FILE);
    DIR *dir = opendir(qn_model_folder(r->m));
    QN_FAIL_IF(!dir, e, QN_IO, "%s: cannot be listed", qn_model_folder(r->m));
    for (struct dirent *d; (d = readdir(dir));) {
        struct stat info;
        free(path);
        path = xasprintf("%s/%s", qn_model_folder(r->m), d->d_name);
        if (!is_side_file(d->d_name) || stat(path, &info) || !S_ISREG(info.st_mode)) continue;
        qn_buf_clear(&b);
        QN_TRY(qn_buf_read_file(&b, path, e));
        QN_TRY(qn_writer_file(r->writer, d->d_name, qn_buf_str(&b), b.n_byte, e));
    }
out:
    if (dir) closedir(dir);
    free(path);
    qn_buf_free(&b);
    return rc;
}

static void fill_report(struct run *r)
{
    for (int i = 0; i < r->n_job; i++) {
        const struct job *j = &r->jobs[i];
        r->report.bytes_in += j->store ? j->bytes_in : j->n_byte;
        r->report.bytes_out += j->store ? j->bytes_out : j->n_byte;
        if (!j->store) continue;
        enum qn_part p = qn_part_of(j->role, j->layer);
        r->report.part[p][j->store->format].n_layer++;
        r->report.part[p][j->store->format].error += j->error;
        r->report.part[p][j->store->format].power += j->power;
        r->report.part[p][j->store->format].bytes_in += j->bytes_in;
        r->report.part[p][j->store->format].bytes_out += j->bytes_out;
    }
}

int qn_quantize_write(const struct qn_quantize *q, const char *folder, struct qn_quantize_report *report,
                      struct qn_err *e)
{
    int rc = QN_OK;
    const struct qn_config *c = qn_model_config(q->model);
    size_t n_source = (size_t)qn_model_n_tensors(q->model);
    struct run r = {.q = q, .m = q->model, .recipe = q->recipe};
    char *key = NULL;
    pthread_mutex_init(&r.lock, NULL);
    if (!r.recipe) r.recipe = qn_recipe_default(q->store, c);
    QN_FAIL_IF(qn_model_is_shifted(q->model), e, QN_UNSUPPORTED,
               "%s is an MLX save (norms hold 1 + w): quantize the published checkpoint instead",
               qn_model_name(q->model));
    r.group = qn_group_size(c);
    r.consumed = xcalloc(n_source, 1);
    r.rewritten = xcalloc(n_source, 1);
    r.tensor_of = xcalloc(n_source, sizeof *r.tensor_of);
    for (size_t i = 0; i < n_source; i++) r.tensor_of[i] = -1;
    QN_TRY(plan_layers(&r, e));
    QN_FAIL_IF(!r.n_layer && q->store->format != QN_FMT_BF16, e, QN_INVAL,
               "format %s with recipe %s quantises no layer of this model (%s)", q->store->name,
               qn_recipe_name(r.recipe),
               r.report.n_unfit  ? "the shapes do not fit"
               : r.report.n_kept ? "--keep keeps them all"
                                 : "choose another recipe");
    order_jobs(&r);
    r.batch = xcalloc((size_t)r.n_job + 1, sizeof *r.batch);
    key = make_key(&r);
    QN_TRY(qn_writer_open(&r.writer, folder, key, e));
    QN_TRY(
        qn_writer_declare(r.writer, r.list, r.n_list, q->shard_bytes ? q->shard_bytes : QN_SHARD_BYTES, e));
    r.pending = xcalloc((size_t)qn_writer_n_shards(r.writer) + 1, sizeof *r.pending);
    read_notes(&r);
    if (q->activations) QN_TRY(qn_quantize_calibrate(&r, e));
    int n = 0;
    for (int i = 0; i < r.n_job; i++)
        if (!r.jobs[i].is_done) r.batch[n++] = i;
    QN_TRY(qn_quantize_batch(&r, n, "quantize", e));
    QN_TRY(copy_files(&r, e));
    QN_TRY(write_config(&r, e));
    QN_TRY(qn_writer_commit(r.writer, e));
    fill_report(&r);
    if (report) *report = r.report;
out:
    qn_writer_close(r.writer);
    for (int i = 0; i < r.n_list; i++) free((void *)(uintptr_t)r.list[i].name);
    for (int i = 0; i < r.n_module; i++) free(r.modules[i].stem);
    pthread_mutex_destroy(&r.lock);
    free(key);
    free(r.consumed);
    free(r.rewritten);
    free(r.tensor_of);
    qn_map_free(&r.job_of);
    free(r.batch);
    free(r.pending);
    free(r.layers);
    free(r.jobs);
    free(r.list);
    free(r.modules);
    return rc;
}
