/* Quantising with activations: layer by layer, each fitted to its inputs, written, and gone on through.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/clock.h"
#include "model/detect.h"
#include "model/quantize_impl.h"

static const struct qn_store *store_of(void *ctx, enum qn_role role, int layer, int expert)
{
    const struct job *j = qn_quantize_find(ctx, role, layer, expert);
    return j ? j->store : NULL;
}

/* A float array as the tensor `source` has it, rewritten in the output. */
static int rewrite(struct run *r, int source, size_t first, const float *x, size_t n, struct qn_err *e)
{
    int rc = QN_OK;
    const struct qn_tensor *t = qn_model_tensor(r->m, source);
    size_t size = qn_dtype_bytes(t->dtype);
    unsigned char *bytes = xmalloc(n * size);
    QN_CHECK(r->tensor_of[source] >= 0);
    for (size_t i = 0; i < n; i++) {
        uint16_t half = t->dtype == QN_BF16 ? qn_f32_to_bf16(x[i]) : qn_f32_to_f16(x[i]);
        memcpy(bytes + i * size, t->dtype == QN_F32 ? (const void *)&x[i] : (const void *)&half, size);
    }
    QN_TRY(qn_writer_put(r->writer, r->tensor_of[source], first * size, bytes, n * size, e));
    r->rewritten[source] = 1;
out:
    free(bytes);
    return rc;
}

/* Norms, and layers that stay as they were but read (or make) a scaled input. */
static int rewrite_layer(struct run *r, struct qn_err *e)
{
    int rc = QN_OK;
    const struct qn_fit *f = &r->fit;
    const struct qn_config *c = qn_model_config(r->m);
    char name[QN_NAME_BYTES + 8];
    float *w = NULL;
    for (int v = 0; v < QN_N_VEC; v++) {
        if (!f->vec[v]) continue;
        qn_vec_name(qn_model_names(r->m), (enum qn_vec)v, f->layer, name);
        QN_TRY(rewrite(r, qn_quantize_source(r, name), 0, f->vec[v],
                       qn_vec_count(c, (enum qn_vec)v, f->layer), e));
    }
    for (int i = 0; i < QN_N_ROLE; i++) {
        enum qn_role role = (enum qn_role)i;
        struct qn_linear l;
        int n_out, n_in;
        if (qn_role_is_global(role) || qn_role_is_expert(role) ||
            !qn_role_shape(c, role, f->layer, &n_out, &n_in))
            continue;
        const struct qn_fit_input *in = qn_fit_input(f, role, 0);
        if (store_of(r, role, f->layer, 0) || !((in && in->scale) || qn_fit_out_scale(f, role, 0))) continue;
        QN_TRY(qn_model_linear(r->m, role, f->layer, 0, &l, e));
        int source = qn_quantize_source(r, l.weight.name);
        w = xmalloc((size_t)n_in * sizeof *w);
        for (int row = 0; row < n_out; row++) {
            QN_TRY(qn_linear_rows(&l, row, 1, w, e));
            qn_fit_rows(f, role, 0, row, 1, n_in, w);
            QN_TRY(rewrite(r, source, (size_t)row * (size_t)n_in, w, (size_t)n_in, e));
        }
        free(w);
        w = NULL;
    }
out:
    free(w);
    return rc;
}

/* The layer at hand as written, for the pass that goes on. */
struct written {
    struct run *r;
    struct qn_tensor list[QN_ENCODE_MAX_TENSOR]; /* of the layer being looked up */
    int n;
    void **blobs;
    int n_blob, room;
};

static const struct qn_tensor *find_written(void *ctx, const char *name)
{
    const struct written *w = ctx;
    for (int i = 0; i < w->n; i++)
        if (!strcmp(w->list[i].name, name)) return &w->list[i];
    return NULL;
}

static int read_back(struct written *w, int tensor, struct qn_tensor *out, struct qn_err *e)
{
    int rc = QN_OK;
    *out = w->r->list[tensor];
    void *data = try_malloc(out->n_byte, 1);
    QN_FAIL_IF(!data, e, QN_NOMEM, "%s: no memory to read it back", out->name);
    QN_GROW(w->blobs, w->n_blob, w->room);
    w->blobs[w->n_blob++] = data;
    out->data = data;
    QN_TRY(qn_writer_get(w->r->writer, tensor, data, e));
out:
    return rc;
}

static int written_linear(void *ctx, enum qn_role role, int layer, int expert, struct qn_linear *out,
                          struct qn_err *e)
{
    int rc = QN_OK;
    struct written *w = ctx;
    struct run *r = w->r;
    struct qn_detect d = {find_written, w, false};
    w->n = 0;
    const struct job *j = qn_quantize_find(r, role, layer, expert);
    for (; j && w->n < j->n_tensor; w->n++) QN_TRY(read_back(w, j->tensor + w->n, &w->list[w->n], e));
    QN_TRY(qn_model_linear(r->m, role, layer, expert, out, e));
    int source = w->n ? -1 : qn_quantize_source(r, out->weight.name);
    if (source >= 0 && r->rewritten[source]) QN_TRY(read_back(w, r->tensor_of[source], &w->list[w->n++], e));
    if (w->n) QN_TRY(qn_detect_linear(&d, out->name, out->n_out, out->n_in, true, out, e));
out:
    return rc;
}

static int written_vec(void *ctx, enum qn_vec vec, int layer, float *out, size_t n, struct qn_err *e)
{
    struct written *w = ctx;
    const float *own = w->r->fit.vec[vec];
    if (!own) return qn_model_vec(w->r->m, vec, layer, out, n, e);
    memcpy(out, own, n * sizeof *out);
    return QN_OK;
}

/* Notes the layer: its jobs, what was rewritten, then the rows, which count. */
static int note_layer(struct run *r, const char *rows, struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_buf lines = QN_BUF_INIT((size_t)64 << 20);
    for (int s = 0; s < qn_writer_n_shards(r->writer); s++) QN_TRY(qn_writer_sync(r->writer, s, e));
    for (int i = 0; i < r->n_job; i++)
        if (r->jobs[i].store && qn_quantize_is_fitted(r, &r->jobs[i]))
            qn_quantize_job_line(r, &r->jobs[i], &lines);
    for (int i = 0; i < qn_model_n_tensors(r->m); i++)
        if (r->rewritten[i]) qn_buf_printf(&lines, "rewritten %d\n", i);
    if (lines.n_byte) QN_TRY(qn_writer_note(r->writer, qn_buf_str(&lines), e));
    QN_TRY(r->q->activations->save(r->q->activations->ctx, rows, r->fit.layer, e));
out:
    qn_buf_free(&lines);
    return rc;
}

static void count_folds(struct run *r)
{
    const struct qn_fit *f = &r->fit;
    const struct qn_fit_input *all[] = {&f->mixer, &f->out, &f->ffn, &f->down};
    for (size_t i = 0; i < QN_COUNT(all); i++) {
        r->report.n_fold += !!all[i]->scale;
        r->report.fold_gain += all[i]->scale ? all[i]->gain : 0;
    }
    for (int x = 0; f->experts && x < qn_model_config(r->m)->n_expert; x++) {
        r->report.n_fold += !!f->experts[x].scale;
        r->report.fold_gain += f->experts[x].scale ? f->experts[x].gain : 0;
    }
}

/* One layer: observe, fit, write, go on through what was written. Layer L: the head. */
static int calibrate_layer(struct run *r, int layer, const char *rows, struct qn_err *e)
{
    int rc = QN_OK, n = 0;
    const struct qn_activations *act = r->q->activations;
    struct written w = {.r = r};
    struct qn_source source = {&w, written_linear, written_vec};
    bool is_head = layer == qn_model_config(r->m)->n_layer;
    r->fit.layer = layer;
    for (int i = 0; i < r->n_job; i++)
        if (r->jobs[i].store && qn_quantize_is_fitted(r, &r->jobs[i])) r->batch[n++] = i;
    if (is_head && !n) goto out;
    if (n) {
        QN_TRY(act->observe(act->ctx, layer, e));
        QN_TRY(qn_fit_layer(&r->fit, e));
        count_folds(r);
        for (int i = 0; i < n; i++)
            r->jobs[r->batch[i]].is_done = false; /* an earlier run may have begun it */
        QN_TRY(qn_quantize_batch(r, n, NULL, e));
        if (!is_head) QN_TRY(rewrite_layer(r, e));
    }
    if (is_head) goto out;
    QN_TRY(act->advance(act->ctx, layer, &source, e));
    QN_TRY(note_layer(r, rows, e));
out:
    for (int i = 0; i < w.n_blob; i++) free(w.blobs[i]);
    free(w.blobs);
    qn_fit_clear(&r->fit);
    return rc;
}

int qn_quantize_calibrate(struct run *r, struct qn_err *e)
{
    int rc = QN_OK, done = -1, n_layer = qn_model_config(r->m)->n_layer;
    const struct qn_activations *act = r->q->activations;
    char *rows = qn_writer_path(r->writer, "quern.rows");
    int64_t start_us = qn_now_us();
    bool is_awq = r->q->store->format == QN_FMT_INT4_AWQ;
    r->fit = (struct qn_fit){.model = r->m,
                             .act = act,
                             .pool = qn_pool_create(r->q->n_thread),
                             .group = r->group,
                             .has_folds = is_awq && r->q->search,
                             .has_carry = r->q->has_carry,
                             .by_power = true,
                             .store = store_of,
                             .ctx = r};
    if (*qn_writer_notes(r->writer) && !act->load(act->ctx, rows, &done, NULL) && !r->q->is_quiet)
        fprintf(stderr, "quantize: going on: %d of %d layers were finished by an earlier run\n", done + 1,
                n_layer);
    for (int i = 0; i < r->n_job; i++) /* of layers that were only begun */
        if (r->jobs[i].layer > done || r->jobs[i].role == QN_ROLE_HEAD) r->jobs[i].is_done = false;
    for (int layer = done + 1, first = layer; layer <= n_layer; layer++) {
        QN_TRY(calibrate_layer(r, layer, rows, e));
        double took = (double)(qn_now_us() - start_us) * 1e-6, each = took / (layer - first + 1);
        if (!r->q->is_quiet && took > 1 && layer < n_layer)
            fprintf(stderr, "quantize: layer %d of %d, %.1f s each, %.0f tokens/s, %.0f s left\n", layer + 1,
                    n_layer, each, (double)act->n_tok / each, each * (n_layer - layer - 1));
    }
out:
    qn_pool_free(r->fit.pool);
    r->fit.pool = NULL;
    free(rows);
    return rc;
}
