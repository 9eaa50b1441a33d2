/* Fitting a layer to its activations.
 * SPDX-License-Identifier: Apache-2.0 */
#include "model/fit.h"

#include <math.h>

#include "base/mem.h"
#include "model/fold.h"
#include "model/roles.h"

#define ENOUGH 0.999 /* a fold that gains less is not made */

static void clear_input(struct qn_fit_input *x)
{
    free(x->scale);
    free(x->importance);
    qn_carry_free(x->carry);
    *x = (struct qn_fit_input){0};
}

void qn_fit_clear(struct qn_fit *f)
{
    struct qn_fit_input *all[] = {&f->mixer, &f->out, &f->ffn, &f->down, &f->head};
    for (size_t i = 0; i < QN_COUNT(all); i++) clear_input(all[i]);
    for (int i = 0; f->experts && i < qn_model_config(f->model)->n_expert; i++) clear_input(&f->experts[i]);
    free(f->experts);
    free(f->v_scale);
    f->experts = NULL;
    f->v_scale = NULL;
    for (int v = 0; v < QN_N_VEC; v++) {
        free(f->vec[v]);
        f->vec[v] = NULL;
    }
}

static struct qn_fit_input *input_of(struct qn_fit *f, enum qn_role role, int expert)
{
    switch (role) {
    case QN_ROLE_Q:
    case QN_ROLE_K:
    case QN_ROLE_V:
    case QN_ROLE_GDN_QKV:
    case QN_ROLE_GDN_Z:
    case QN_ROLE_GDN_B:
    case QN_ROLE_GDN_A:
        return &f->mixer;
    case QN_ROLE_O:
    case QN_ROLE_GDN_OUT:
        return &f->out;
    case QN_ROLE_GATE:
    case QN_ROLE_UP:
    case QN_ROLE_ROUTER:
    case QN_ROLE_SHARED_GATE:
    case QN_ROLE_SHARED_UP:
    case QN_ROLE_SHARED_MIX:
    case QN_ROLE_EXPERT_GATE:
    case QN_ROLE_EXPERT_UP:
        return &f->ffn;
    case QN_ROLE_DOWN:
    case QN_ROLE_SHARED_DOWN:
        return &f->down;
    case QN_ROLE_EXPERT_DOWN:
        return f->experts ? &f->experts[expert] : NULL;
    case QN_ROLE_HEAD:
        return &f->head;
    default:
        return NULL;
    }
}

const struct qn_fit_input *qn_fit_input(const struct qn_fit *f, enum qn_role role, int expert)
{
    return input_of((struct qn_fit *)(uintptr_t)f, role, expert);
}

const float *qn_fit_out_scale(const struct qn_fit *f, enum qn_role role, int expert)
{
    switch (role) {
    case QN_ROLE_V:
        return f->v_scale;
    case QN_ROLE_UP:
    case QN_ROLE_SHARED_UP:
        return f->down.scale;
    case QN_ROLE_EXPERT_UP:
        return f->experts ? f->experts[expert].scale : NULL;
    default:
        return NULL;
    }
}

void qn_fit_rows(const struct qn_fit *f, enum qn_role role, int expert, int first, int n_row, int n_in,
                 float *w)
{
    const struct qn_fit_input *x = qn_fit_input(f, role, expert);
    const float *in = x ? x->scale : NULL, *out = qn_fit_out_scale(f, role, expert);
    for (int r = 0; (in || out) && r < n_row; r++)
        for (int k = 0; k < n_in; k++) {
            float *v = &w[(size_t)r * (size_t)n_in + (size_t)k];
            if (in) *v *= in[k];
            if (out) *v /= out[first + r];
        }
}

/* --- folding --- */

static const struct qn_store *store_of(const struct qn_fit *f, enum qn_role role, int expert)
{
    return f->store(f->ctx, role, f->layer, expert);
}

/* Whether the layer's weights may change: it is written anew, or is plain and stored by itself. */
static bool is_free(const struct qn_fit *f, enum qn_role role, int expert)
{
    struct qn_linear l;
    if (store_of(f, role, expert)) return true;
    if (qn_role_is_expert(role) || qn_model_stored(f->model, role, f->layer, expert, &l, NULL)) return false;
    return l.format == QN_FMT_BF16 || l.format == QN_FMT_F16 || l.format == QN_FMT_F32;
}

struct member {
    enum qn_role role;
    int expert;
};

/* Some rows of all the layers given that are quantised, evenly spread: [*n, K]. */
static int some_rows(const struct qn_fit *f, const struct member *list, int n_list, float **out, int *n,
                     int *n_in, struct qn_err *e)
{
    int rc = QN_OK, total = 0, at = 0, seen = 0;
    struct qn_linear l;
    *out = NULL;
    *n = 0;
    for (int i = 0; i < n_list; i++) {
        int n_out;
        if (!store_of(f, list[i].role, list[i].expert)) continue;
        qn_role_shape(qn_model_config(f->model), list[i].role, f->layer, &n_out, n_in);
        total += n_out;
    }
    if (!total) goto out;
    int every = QN_CEIL_DIV(total, QN_FOLD_ROWS);
    *out = xmalloc((size_t)QN_CEIL_DIV(total, every) * (size_t)*n_in * sizeof **out);
    for (int i = 0; i < n_list; i++) {
        if (!store_of(f, list[i].role, list[i].expert)) continue;
        QN_TRY(qn_model_linear(f->model, list[i].role, f->layer, list[i].expert, &l, e));
        for (int row = 0; row < l.n_out; row++)
            if (seen++ % every == 0)
                QN_TRY(qn_linear_rows(&l, row, 1, *out + (size_t)at++ * (size_t)*n_in, e));
    }
    *n = at;
out:
    if (rc) {
        free(*out);
        *out = NULL;
    }
    return rc;
}

/* Searches the scale of one input; x->scale stays NULL when there is nothing to gain. */
static int fold_input(struct qn_fit *f, struct qn_fit_input *x, const struct qn_stats *stats,
                      const struct member *list, int n_list, const int32_t *share, int n_share,
                      struct qn_err *e)
{
    int rc = QN_OK, n, n_in = 0;
    const struct qn_store *store = NULL;
    float *w = NULL;
    bool is_ready = stats && qn_stats_n_row(stats) > 0;
    for (int i = 0; i < n_list; i++) {
        const struct qn_store *s = store_of(f, list[i].role, list[i].expert);
        is_ready = is_ready && is_free(f, list[i].role, list[i].expert);
        if (s && s->format == QN_FMT_INT4_AWQ) store = s;
        if (s && s->format != QN_FMT_INT4_AWQ) is_ready = false;
    }
    if (!is_ready || !store) goto out;
    QN_TRY(some_rows(f, list, n_list, &w, &n, &n_in, e));
    float *scale = xmalloc((size_t)n_in * sizeof *scale);
    struct qn_fold fold = {store, f->group, n_in, stats, w, n, share, n_share};
    x->gain = qn_fold_search(&fold, f->pool, scale);
    if (x->gain < ENOUGH)
        x->scale = scale;
    else
        free(scale);
out:
    free(w);
    return rc;
}

static float rounded(enum qn_dtype t, float x)
{
    return t == QN_BF16  ? qn_bf16_to_f32(qn_f32_to_bf16(x))
           : t == QN_F16 ? qn_f16_to_f32(qn_f32_to_f16(x))
                         : x;
}

/* Divides a norm by the scale of the input it makes: factor `one` + w. The stored value rounds, so the scale
 * becomes what was stored and the product is exact. Column k of the input is made by value k % n. */
static int fold_norm(struct qn_fit *f, struct qn_fit_input *x, enum qn_vec vec, float one, int n_in,
                     struct qn_err *e)
{
    int rc = QN_OK;
    char name[QN_NAME_BYTES];
    size_t n = qn_vec_count(qn_model_config(f->model), vec, f->layer);
    float *w = NULL;
    if (!x->scale) goto out;
    w = xmalloc(n * sizeof *w);
    QN_TRY(qn_model_vec(f->model, vec, f->layer, w, n, e));
    qn_vec_name(qn_model_names(f->model), vec, f->layer, name);
    enum qn_dtype dtype = qn_model_find(f->model, name)->dtype;
    for (size_t k = 0; k < n; k++) {
        float g = one + w[k], stored = rounded(dtype, g / x->scale[k] - one), now = one + stored, s = g / now;
        if (fabsf(g) < 1e-2f || !(s > 1e-4f && s < 1e4f)) {
            stored = w[k];
            s = 1;
        }
        w[k] = stored;
        for (size_t i = k; i < (size_t)n_in; i += n) x->scale[i] = s;
    }
    f->vec[vec] = w;
    w = NULL;
out:
    free(w);
    return rc;
}

/* o reads heads that are mixtures of v's rows, each KV head's for several query heads. */
static int fold_attention(struct qn_fit *f, struct qn_err *e)
{
    int rc = QN_OK;
    const struct qn_config *c = qn_model_config(f->model);
    int hd = c->head_dim, n_in = c->n_head * hd, n_share = c->n_kv_head * hd, per = c->n_head / c->n_kv_head;
    const struct member o = {QN_ROLE_O, 0};
    float k, v;
    int32_t *share = xmalloc((size_t)n_in * sizeof *share);
    for (int i = 0; i < n_in; i++) share[i] = i / hd / per * hd + i % hd;
    if (!is_free(f, QN_ROLE_V, 0) || qn_model_kv_scale(f->model, f->layer, &k, &v)) goto out;
    QN_TRY(fold_input(f, &f->out, f->act->stats(f->act->ctx, QN_ROLE_O, 0), &o, 1, share, n_share, e));
    if (!f->out.scale) goto out;
    f->v_scale = xmalloc((size_t)n_share * sizeof *f->v_scale);
    for (int i = 0; i < n_in; i++) f->v_scale[share[i]] = f->out.scale[i];
out:
    free(share);
    return rc;
}

static int fold_gdn_out(struct qn_fit *f, struct qn_err *e)
{
    int rc = QN_OK;
    const struct qn_config *c = qn_model_config(f->model);
    int n_in = qn_config_value_dim(c);
    const struct member out = {QN_ROLE_GDN_OUT, 0};
    int32_t *share = xmalloc((size_t)n_in * sizeof *share);
    for (int i = 0; i < n_in; i++) share[i] = i % c->v_dim;
    QN_TRY(
        fold_input(f, &f->out, f->act->stats(f->act->ctx, QN_ROLE_GDN_OUT, 0), &out, 1, share, c->v_dim, e));
    QN_TRY(fold_norm(f, &f->out, QN_VEC_GDN_NORM, 0, n_in, e));
out:
    free(share);
    return rc;
}

static int fold_down(struct qn_fit *f, enum qn_role down, enum qn_role up, int expert, struct qn_err *e)
{
    const struct member list = {down, expert};
    if (!is_free(f, up, expert)) return QN_OK;
    return fold_input(f, input_of(f, down, expert), f->act->stats(f->act->ctx, down, expert), &list, 1, NULL,
                      0, e);
}

static int fold_ffn(struct qn_fit *f, struct qn_err *e)
{
    int rc = QN_OK, n = 0;
    const struct qn_config *c = qn_model_config(f->model);
    struct member *list = xcalloc((size_t)c->n_expert * 2 + 4, sizeof *list);
    if (!c->is_moe) {
        list[n++] = (struct member){QN_ROLE_GATE, 0};
        list[n++] = (struct member){QN_ROLE_UP, 0};
        QN_TRY(fold_down(f, QN_ROLE_DOWN, QN_ROLE_UP, 0, e));
    } else {
        static const enum qn_role shared[] = {QN_ROLE_ROUTER, QN_ROLE_SHARED_MIX, QN_ROLE_SHARED_GATE,
                                              QN_ROLE_SHARED_UP};
        for (size_t i = 0; i < QN_COUNT(shared); i++) list[n++] = (struct member){shared[i], 0};
        QN_TRY(fold_down(f, QN_ROLE_SHARED_DOWN, QN_ROLE_SHARED_UP, 0, e));
        for (int x = 0; x < c->n_expert; x++) {
            list[n++] = (struct member){QN_ROLE_EXPERT_GATE, x};
            list[n++] = (struct member){QN_ROLE_EXPERT_UP, x};
            QN_TRY(fold_down(f, QN_ROLE_EXPERT_DOWN, QN_ROLE_EXPERT_UP, x, e));
        }
    }
    enum qn_role first = c->is_moe ? QN_ROLE_ROUTER : QN_ROLE_GATE;
    QN_TRY(fold_input(f, &f->ffn, f->act->stats(f->act->ctx, first, 0), list, n, NULL, 0, e));
    QN_TRY(fold_norm(f, &f->ffn, QN_VEC_POST_NORM, 1, c->hidden, e));
out:
    free(list);
    return rc;
}

static int fold_layer(struct qn_fit *f, struct qn_err *e)
{
    int rc = QN_OK;
    const struct qn_config *c = qn_model_config(f->model);
    static const struct member full[] = {{QN_ROLE_Q, 0}, {QN_ROLE_K, 0}, {QN_ROLE_V, 0}};
    static const struct member gdn[] = {
        {QN_ROLE_GDN_QKV, 0}, {QN_ROLE_GDN_Z, 0}, {QN_ROLE_GDN_B, 0}, {QN_ROLE_GDN_A, 0}};
    bool is_full = c->is_full[f->layer];
    const struct qn_stats *s = f->act->stats(f->act->ctx, is_full ? QN_ROLE_Q : QN_ROLE_GDN_QKV, 0);
    QN_TRY(is_full ? fold_input(f, &f->mixer, s, full, 3, NULL, 0, e)
                   : fold_input(f, &f->mixer, s, gdn, 4, NULL, 0, e));
    QN_TRY(fold_norm(f, &f->mixer, QN_VEC_INPUT_NORM, 1, c->hidden, e));
    QN_TRY(is_full ? fold_attention(f, e) : fold_gdn_out(f, e));
    QN_TRY(fold_ffn(f, e));
out:
    return rc;
}

/* --- weights of errors --- */

struct weigh {
    struct qn_fit *f;
    struct {
        struct qn_fit_input *x;
        const struct qn_stats *stats;
    } * list;
    int n;
};

static void add_weigh(struct weigh *w, enum qn_role first, int expert)
{
    const struct qn_stats *s = w->f->act->stats(w->f->act->ctx, first, expert);
    if (!s || !qn_stats_n_row(s)) return;
    w->list[w->n].x = input_of(w->f, first, expert);
    w->list[w->n++].stats = s;
}

static void weigh_input(void *ctx, int item, int thread)
{
    (void)thread;
    const struct weigh *w = ctx;
    struct qn_fit_input *x = w->list[item].x;
    const struct qn_stats *s = w->list[item].stats;
    const float *power = qn_stats_power(s);
    int n = qn_stats_n_in(s);
    float rows = (float)qn_stats_n_row(s), mean = 0;
    x->importance = xmalloc((size_t)n * sizeof *x->importance);
    for (int k = 0; k < n; k++) {
        float d = x->scale ? x->scale[k] : 1;
        x->importance[k] = power[k] / (d * d);
        mean += x->importance[k] / (float)n;
    }
    /* a column that was silent here is not worth nothing, the less so the fewer rows came */
    for (int k = 0; k < n; k++) x->importance[k] += mean * (0.01f + 8 / (rows + 8));
    if (!(mean > 0)) {
        free(x->importance);
        x->importance = NULL;
    } else if (w->f->has_carry) {
        x->carry = qn_stats_carry(s, x->scale, w->f->by_power);
    }
}

static void weigh_layer(struct qn_fit *f)
{
    const struct qn_config *c = qn_model_config(f->model);
    struct weigh w = {f, xcalloc((size_t)c->n_expert + 8, sizeof *w.list), 0};
    if (f->layer == c->n_layer) {
        add_weigh(&w, QN_ROLE_HEAD, 0);
    } else {
        bool is_full = c->is_full[f->layer];
        add_weigh(&w, is_full ? QN_ROLE_Q : QN_ROLE_GDN_QKV, 0);
        add_weigh(&w, is_full ? QN_ROLE_O : QN_ROLE_GDN_OUT, 0);
        add_weigh(&w, c->is_moe ? QN_ROLE_ROUTER : QN_ROLE_GATE, 0);
        add_weigh(&w, c->is_moe ? QN_ROLE_SHARED_DOWN : QN_ROLE_DOWN, 0);
        for (int x = 0; x < c->n_expert; x++) add_weigh(&w, QN_ROLE_EXPERT_DOWN, x);
    }
    qn_pool_run(f->pool, w.n, weigh_input, &w);
    free(w.list);
}

int qn_fit_layer(struct qn_fit *f, struct qn_err *e)
{
    int rc = QN_OK;
    const struct qn_config *c = qn_model_config(f->model);
    qn_fit_clear(f);
    if (c->is_moe) f->experts = xcalloc((size_t)c->n_expert, sizeof *f->experts);
    if (f->has_folds && f->layer < c->n_layer) QN_TRY(fold_layer(f, e));
    weigh_layer(f);
out:
    return rc;
}
