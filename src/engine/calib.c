/* Activations of a text, a layer at a time.
 * SPDX-License-Identifier: Apache-2.0 */
#include "engine/calib.h"

#include <errno.h>
#include <math.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "engine/forward.h"
#include "engine/load.h"
#include "model/fold.h"
#include "model/roles.h"

#define ROWS_MAGIC "QNROWS1"

struct watch {
    const struct qn_weight *w;
    struct qn_stats *stats;
};

struct qn_calib {
    struct qn_calib_options o;
    struct qn_config config; /* of one layer */
    struct qn_pool *pool;
    float *rows; /* [n_id, H] residual stream before the current layer */
    struct qn_stats *by_role[QN_N_ROLE];
    struct qn_stats **experts; /* [E] inputs of the down projections */
    struct watch *watch;       /* what is observed while a layer runs */
    int n_watch;
    struct qn_activations activations;
};

static void drop_stats(struct qn_calib *c)
{
    for (int r = 0; r < QN_N_ROLE; r++) {
        qn_stats_free(c->by_role[r]);
        c->by_role[r] = NULL;
    }
    int n_expert = qn_model_config(c->o.model)->n_expert;
    for (int i = 0; c->experts && i < n_expert; i++) {
        qn_stats_free(c->experts[i]);
        c->experts[i] = NULL;
    }
    c->n_watch = 0;
}

static void on_rows(void *user, const struct qn_weight *w, const float *x, int n_row)
{
    struct qn_calib *c = user;
    for (int i = 0; i < c->n_watch; i++)
        if (c->watch[i].w == w) {
            qn_stats_add(c->watch[i].stats, x, n_row, c->pool);
            return;
        }
}

static int add_watch(struct qn_calib *c, const struct qn_weight *w, enum qn_role role, int layer,
                     struct qn_stats **out, struct qn_err *e)
{
    int rc = QN_OK, n_out, n_in;
    bool is_expert = qn_role_is_expert(role);
    qn_role_shape(qn_model_config(c->o.model), role, layer, &n_out, &n_in);
    int every = is_expert ? 1 : QN_CEIL_DIV(c->o.n_id, QN_FOLD_INPUTS);
    *out = qn_stats_create(n_in, c->o.has_moments, is_expert ? QN_FOLD_INPUTS / 2 : QN_FOLD_INPUTS, every);
    QN_FAIL_IF(!*out, e, QN_NOMEM, "no memory for the activation statistics of layer %d (%d inputs)", layer,
               n_in);
    c->watch[c->n_watch++] = (struct watch){w, *out};
out:
    return rc;
}

/* The first of the layers that share an input stands for all. */
static int watch_layer(struct qn_calib *c, const struct qn_layer_weights *w, int layer, struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_stats **s = c->by_role;
    if (w->is_full) {
        QN_TRY(add_watch(c, w->attn.q, QN_ROLE_Q, layer, &s[QN_ROLE_Q], e));
        QN_TRY(add_watch(c, w->attn.o, QN_ROLE_O, layer, &s[QN_ROLE_O], e));
    } else {
        QN_TRY(add_watch(c, w->gdn.qkv, QN_ROLE_GDN_QKV, layer, &s[QN_ROLE_GDN_QKV], e));
        QN_TRY(add_watch(c, w->gdn.out, QN_ROLE_GDN_OUT, layer, &s[QN_ROLE_GDN_OUT], e));
    }
    if (!c->config.is_moe) {
        QN_TRY(add_watch(c, w->mlp.gate, QN_ROLE_GATE, layer, &s[QN_ROLE_GATE], e));
        QN_TRY(add_watch(c, w->mlp.down, QN_ROLE_DOWN, layer, &s[QN_ROLE_DOWN], e));
        goto out;
    }
    QN_TRY(add_watch(c, w->moe.router, QN_ROLE_ROUTER, layer, &s[QN_ROLE_ROUTER], e));
    QN_TRY(add_watch(c, w->moe.shared_down, QN_ROLE_SHARED_DOWN, layer, &s[QN_ROLE_SHARED_DOWN], e));
    for (int i = 0; i < c->config.n_expert; i++)
        QN_TRY(add_watch(c, w->moe.down[i], QN_ROLE_EXPERT_DOWN, layer, &c->experts[i], e));
out:
    return rc;
}

/* One sequence of n rows from an empty state: l->x [n, H] in, the layer's residual stream out. numbers:
 * from 0 on. */
static void run_sequence(const struct qn_layer *l, const struct qn_layer_weights *w, const int32_t *numbers,
                         const int32_t *zeros, int n)
{
    struct qn_step_seq seq = {.n_row = n, .n_page = QN_CEIL_DIV(n + 1, QN_PAGE), .is_fresh = true};
    struct qn_step s = {.n_row = n,
                        .n_seq = 1,
                        .tok = zeros,
                        .row_seq = zeros,
                        .pos = numbers,
                        .seq = &seq,
                        .pages = numbers,
                        .n_pages = seq.n_page};
    size_t size = (size_t)n * (size_t)l->hidden;
    memset(l->y, 0, size * sizeof *l->y);
    qn_layer_run(l, &s, w, 0, 0);
    for (size_t i = 0; i < size; i++) l->x[i] += l->y[i];
}

/* Runs layer `layer` of `source` over all rows; with is_watched its inputs are counted, otherwise the rows
 * advance. */
static int run_layer(struct qn_calib *c, int layer, const struct qn_source *source, bool is_watched,
                     struct qn_err *e)
{
    int rc = QN_OK;
    const struct qn_config *whole = qn_model_config(c->o.model);
    struct qn_device *d = NULL;
    struct qn_weights *w = NULL;
    int context = c->o.context, n_page = QN_CEIL_DIV(context + 1, QN_PAGE);
    size_t H = (size_t)whole->hidden;
    float *x = NULL, *y = NULL;
    int32_t *numbers = xcalloc((size_t)context * 2, sizeof *numbers), *zeros = numbers + context;
    struct qn_observer observer = {c, on_rows};
    c->config = *whole;
    c->config.n_layer = 1;
    c->config.is_full[0] = whole->is_full[layer];
    c->config.n_full = whole->is_full[layer];
    c->config.n_gdn = !whole->is_full[layer];
    struct qn_device_options o = {.config = &c->config,
                                  .n_thread = c->o.n_thread,
                                  .act = QN_ACT_F32,
                                  .kv = QN_KV_F32,
                                  .max_rows = context,
                                  .max_logits = 1,
                                  .max_seqs = 1,
                                  .max_context = context + 1,
                                  .n_page = n_page,
                                  .n_slot = 1,
                                  .n_lane = 1,
                                  .observer = is_watched ? &observer : NULL};
    QN_TRY(c->o.backend->open(&d, &o, e));
    struct qn_load load = {.model = c->o.model, .backend = c->o.backend, .device = d, .source = source};
    QN_TRY(qn_load_layer(&w, &load, layer, e));
    if (is_watched) QN_TRY(watch_layer(c, &w->layers[0], layer, e));
    x = c->o.backend->alloc(d, (size_t)context * H * sizeof *x);
    y = c->o.backend->alloc(d, (size_t)context * H * sizeof *y);
    QN_FAIL_IF(!x || !y, e, QN_NOMEM, "no memory for %d rows of layer %d", context, layer);
    for (int i = 0; i < context; i++) numbers[i] = i;
    struct qn_layer one = {.b = c->o.backend,
                           .d = d,
                           .is_moe = c->config.is_moe,
                           .hidden = c->config.hidden,
                           .vocab = c->config.vocab,
                           .x = x,
                           .y = y};
    for (int at = 0; at < c->o.n_id; at += context) {
        int n = QN_MIN(context, c->o.n_id - at);
        float *rows = c->rows + (size_t)at * H;
        QN_TRY(c->o.backend->upload(d, x, rows, (size_t)n * H * sizeof *x, e));
        run_sequence(&one, &w->layers[0], numbers, zeros, n);
        if (!is_watched) QN_TRY(c->o.backend->download(d, rows, x, (size_t)n * H * sizeof *x, e));
    }
    QN_TRY(c->o.backend->sync(d, e));
    for (int i = 0; is_watched && i < c->n_watch; i++) qn_stats_finish(c->watch[i].stats, c->pool);
out:
    if (d) {
        c->o.backend->free(d, x);
        c->o.backend->free(d, y);
        c->o.backend->close(d);
    }
    qn_load_free(w);
    free(numbers);
    return rc;
}

/* The input of the head: the rows after the last layer, normed. */
static int observe_head(struct qn_calib *c, struct qn_err *e)
{
    int rc = QN_OK;
    const struct qn_config *whole = qn_model_config(c->o.model);
    size_t H = (size_t)whole->hidden;
    float *w = xmalloc(H * 2 * sizeof *w), *row = w + H;
    QN_TRY(qn_model_vec(c->o.model, QN_VEC_FINAL_NORM, 0, w, H, e));
    QN_TRY(add_watch(c, NULL, QN_ROLE_HEAD, 0, &c->by_role[QN_ROLE_HEAD], e));
    for (int r = 0; r < c->o.n_id; r++) {
        const float *x = c->rows + (size_t)r * H;
        double sum = 0;
        for (size_t i = 0; i < H; i++) sum += (double)x[i] * (double)x[i];
        float f = (float)(1 / sqrt(sum / (double)H + (double)whole->norm_eps));
        for (size_t i = 0; i < H; i++) row[i] = x[i] * f * (1 + w[i]);
        qn_stats_add(c->by_role[QN_ROLE_HEAD], row, 1, c->pool);
    }
    qn_stats_finish(c->by_role[QN_ROLE_HEAD], c->pool);
out:
    free(w);
    return rc;
}

static int observe(void *ctx, int layer, struct qn_err *e)
{
    struct qn_calib *c = ctx;
    drop_stats(c);
    return layer == qn_model_config(c->o.model)->n_layer ? observe_head(c, e)
                                                         : run_layer(c, layer, NULL, true, e);
}

static const struct qn_stats *stats(void *ctx, enum qn_role role, int expert)
{
    struct qn_calib *c = ctx;
    return role == QN_ROLE_EXPERT_DOWN ? c->experts[expert] : c->by_role[role];
}

static int advance(void *ctx, int layer, const struct qn_source *source, struct qn_err *e)
{
    struct qn_calib *c = ctx;
    drop_stats(c);
    return run_layer(c, layer, source, false, e);
}

/* --- rows on disk, so that an interrupted run goes on --- */

struct rows_header {
    char magic[8];
    int32_t layer, n_row, hidden, unused;
};

static int save(void *ctx, const char *path, int layer, struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_calib *c = ctx;
    struct rows_header h = {ROWS_MAGIC, layer, c->o.n_id, qn_model_config(c->o.model)->hidden, 0};
    size_t n = (size_t)h.n_row * (size_t)h.hidden;
    char *part = xasprintf("%s.new", path);
    int fd = qn_file_create(part, 0666);
    FILE *f = fd < 0 ? NULL : fdopen(fd, "wb");
    bool ok = f && fwrite(&h, sizeof h, 1, f) == 1 && fwrite(c->rows, sizeof *c->rows, n, f) == n &&
              !fflush(f) && !fdatasync(fileno(f));
    if (f) ok &= !fclose(f);
    QN_FAIL_IF(!ok || rename(part, path), e, QN_IO, "%s: %s", part, strerror(errno));
out:
    free(part);
    return rc;
}

static int load(void *ctx, const char *path, int *layer, struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_calib *c = ctx;
    struct rows_header h;
    size_t n = (size_t)c->o.n_id * (size_t)qn_model_config(c->o.model)->hidden;
    FILE *f = qn_file_read(path, e);
    QN_FAIL_IF(!f, NULL, QN_NOTFOUND, "%s", path);
    QN_FAIL_IF(fread(&h, sizeof h, 1, f) != 1 || memcmp(h.magic, ROWS_MAGIC, sizeof h.magic) ||
                   h.n_row != c->o.n_id || h.hidden != qn_model_config(c->o.model)->hidden ||
                   fread(c->rows, sizeof *c->rows, n, f) != n,
               e, QN_FORMAT, "%s: damaged", path);
    *layer = h.layer;
out:
    if (f) fclose(f);
    return rc;
}

int qn_calib_open(struct qn_calib **out, const struct qn_calib_options *o, struct qn_err *e)
{
    int rc = QN_OK;
    const struct qn_config *config = qn_model_config(o->model);
    struct qn_calib *c = xcalloc(1, sizeof *c);
    struct qn_linear table;
    size_t H = (size_t)config->hidden;
    c->o = *o;
    c->pool = qn_pool_create(o->n_thread);
    c->experts = xcalloc((size_t)config->n_expert + 1, sizeof *c->experts);
    c->watch = xcalloc((size_t)config->n_expert + 8, sizeof *c->watch);
    c->activations = (struct qn_activations){c, o->n_id, observe, stats, advance, save, load};
    c->rows = try_malloc((size_t)o->n_id * H, sizeof *c->rows);
    QN_FAIL_IF(!c->rows, e, QN_NOMEM, "no memory for the activations of %d tokens; calibrate with fewer",
               o->n_id);
    QN_TRY(qn_model_linear(o->model, QN_ROLE_EMBED, 0, 0, &table, e));
    for (int i = 0; i < o->n_id; i++) {
        QN_FAIL_IF(o->ids[i] < 0 || o->ids[i] >= config->vocab, e, QN_INVAL,
                   "token id %d is not in the vocabulary of %d", o->ids[i], config->vocab);
        QN_TRY(qn_linear_rows(&table, o->ids[i], 1, c->rows + (size_t)i * H, e));
    }
    *out = c;
    c = NULL;
out:
    qn_calib_close(c);
    return rc;
}

void qn_calib_close(struct qn_calib *c)
{
    if (!c) return;
    drop_stats(c);
    qn_pool_free(c->pool);
    free(c->experts);
    free(c->watch);
    free(c->rows);
    free(c);
}

const struct qn_activations *qn_calib_activations(struct qn_calib *c)
{
    return &c->activations;
}
