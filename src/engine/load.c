/* Loading weights.
 *
 * The model is walked twice with the same function: once to list its linear layers (what to read ahead, how
 * many bytes in all), once to load them in that order.
 * SPDX-License-Identifier: Apache-2.0 */
#include "engine/load.h"

#include "base/mem.h"

#define READ_AHEAD_BYTES ((size_t)256 << 20)

struct item {
    enum qn_role role;
    int layer, expert;
    bool rows; /* a table read by row */
    struct qn_weight **out;
};

struct walk {
    const struct qn_config *c;
    struct item *items;
    int n_item, n_room;
    const struct qn_load *l;
    struct qn_err *e;
};

/* Arrays of handles live in one list, freed with the weights. */
struct handles {
    struct handles *next;
    struct qn_weight *list[];
};

struct weights { /* what qn_load_weights hands out */
    struct qn_weights w;
    struct handles *handles;
};

static void add(struct walk *k, enum qn_role role, int layer, int expert, struct qn_weight **out)
{
    if (k->n_item == k->n_room)
        k->items = xreallocarray(k->items, (size_t)(k->n_room = k->n_room * 2 + 64), sizeof *k->items);
    k->items[k->n_item++] = (struct item){role, layer, expert, false, out};
}

static int vec(struct walk *k, enum qn_vec which, int layer, size_t n, const float **out)
{
    int rc = QN_OK;
    const struct qn_source *s = k->l->source;
    float *data = try_malloc(n, sizeof *data);
    QN_FAIL_IF(!data, k->e, QN_NOMEM, "no memory for a vector of %zu numbers", n);
    if (s)
        QN_TRY(s->vec(s->ctx, which, layer, data, n, k->e));
    else if (k->l->shard)
        QN_TRY(qn_shard_vec(k->l->shard, k->l->model, which, layer, data, n, k->e));
    else
        QN_TRY(qn_model_vec(k->l->model, which, layer, data, n, k->e));
    QN_TRY(k->l->backend->vector(k->l->device, data, n, out, k->e));
out:
    free(data);
    return rc;
}

static int walk_full(struct walk *k, int layer, struct qn_attn_weights *a)
{
    int rc = QN_OK;
    size_t hd = (size_t)k->c->head_dim;
    add(k, QN_ROLE_Q, layer, 0, &a->q);
    add(k, QN_ROLE_K, layer, 0, &a->k);
    add(k, QN_ROLE_V, layer, 0, &a->v);
    add(k, QN_ROLE_O, layer, 0, &a->o);
    QN_TRY(vec(k, QN_VEC_Q_NORM, layer, hd, &a->q_norm));
    QN_TRY(vec(k, QN_VEC_K_NORM, layer, hd, &a->k_norm));
    a->k_scale = a->v_scale = 1;
    qn_model_kv_scale(k->l->model, layer, &a->k_scale, &a->v_scale);
out:
    return rc;
}

static int walk_gdn(struct walk *k, int layer, struct qn_gdn_weights *g)
{
    int rc = QN_OK;
    const struct qn_config *c = k->c;
    add(k, QN_ROLE_GDN_QKV, layer, 0, &g->qkv);
    add(k, QN_ROLE_GDN_Z, layer, 0, &g->z);
    add(k, QN_ROLE_GDN_B, layer, 0, &g->b);
    add(k, QN_ROLE_GDN_A, layer, 0, &g->a);
    add(k, QN_ROLE_GDN_OUT, layer, 0, &g->out);
    QN_TRY(vec(k, QN_VEC_CONV, layer, (size_t)qn_config_conv_dim(c) * (size_t)c->conv_taps, &g->conv));
    QN_TRY(vec(k, QN_VEC_A_LOG, layer, (size_t)c->n_v_head, &g->a_log));
    QN_TRY(vec(k, QN_VEC_DT_BIAS, layer, (size_t)c->n_v_head, &g->dt_bias));
    QN_TRY(vec(k, QN_VEC_GDN_NORM, layer, (size_t)c->v_dim, &g->norm));
out:
    return rc;
}

static void walk_moe(struct weights *w, struct walk *k, int layer, struct qn_moe_weights *m)
{
    size_t n = (size_t)k->c->n_expert;
    struct handles *v = xcalloc(1, sizeof *v + 3 * n * sizeof *v->list);
    v->next = w->handles;
    w->handles = v;
    m->gate = v->list;
    m->up = m->gate + n;
    m->down = m->up + n;
    add(k, QN_ROLE_ROUTER, layer, 0, &m->router);
    add(k, QN_ROLE_SHARED_GATE, layer, 0, &m->shared_gate);
    add(k, QN_ROLE_SHARED_UP, layer, 0, &m->shared_up);
    add(k, QN_ROLE_SHARED_DOWN, layer, 0, &m->shared_down);
    add(k, QN_ROLE_SHARED_MIX, layer, 0, &m->shared_mix);
    for (int i = 0; i < k->c->n_expert; i++) {
        add(k, QN_ROLE_EXPERT_GATE, layer, i, &m->gate[i]);
        add(k, QN_ROLE_EXPERT_UP, layer, i, &m->up[i]);
        add(k, QN_ROLE_EXPERT_DOWN, layer, i, &m->down[i]);
    }
}

static int walk_layer(struct weights *w, struct walk *k, int layer, bool is_full, struct qn_layer_weights *y)
{
    int rc = QN_OK;
    size_t h = (size_t)k->c->hidden;
    y->is_full = is_full;
    QN_TRY(vec(k, QN_VEC_INPUT_NORM, layer, h, &y->input_norm));
    QN_TRY(vec(k, QN_VEC_POST_NORM, layer, h, &y->post_norm));
    if (is_full)
        QN_TRY(walk_full(k, layer, &y->attn));
    else
        QN_TRY(walk_gdn(k, layer, &y->gdn));
    if (k->c->is_moe) {
        walk_moe(w, k, layer, &y->moe);
    } else {
        add(k, QN_ROLE_GATE, layer, 0, &y->mlp.gate);
        add(k, QN_ROLE_UP, layer, 0, &y->mlp.up);
        add(k, QN_ROLE_DOWN, layer, 0, &y->mlp.down);
    }
out:
    return rc;
}

static int walk_model(struct weights *w, struct walk *k)
{
    int rc = QN_OK;
    const struct qn_config *c = k->c;
    size_t h = (size_t)c->hidden;
    struct qn_mtp_weights *m = w->w.mtp;
    add(k, QN_ROLE_EMBED, 0, 0, &w->w.embed);
    k->items[0].rows = !c->is_tied;
    if (!c->is_tied) add(k, QN_ROLE_HEAD, 0, 0, &w->w.head);
    for (int i = 0; i < c->n_layer; i++) QN_TRY(walk_layer(w, k, i, c->is_full[i], &w->w.layers[i]));
    QN_TRY(vec(k, QN_VEC_FINAL_NORM, 0, h, &w->w.final_norm));
    if (m) {
        add(k, QN_ROLE_MTP_FC, QN_LAYER_MTP, 0, &m->fc);
        QN_TRY(walk_layer(w, k, QN_LAYER_MTP, true, &m->layer));
        QN_TRY(vec(k, QN_VEC_MTP_NORM_EMBED, QN_LAYER_MTP, h, &m->norm_embed));
        QN_TRY(vec(k, QN_VEC_MTP_NORM_HIDDEN, QN_LAYER_MTP, h, &m->norm_hidden));
        QN_TRY(vec(k, QN_VEC_MTP_NORM, QN_LAYER_MTP, h, &m->norm));
    }
out:
    return rc;
}

/* One layer, or the rank's part of it; its data are on their way, so that scales are read only now. */
static int load_item(struct walk *k, const struct item *it, struct qn_linear *view)
{
    int rc = QN_OK;
    const struct qn_load *l = k->l;
    struct qn_slice slice = {0};
    if (l->source)
        QN_TRY(l->source->linear(l->source->ctx, it->role, it->layer, it->expert, view, k->e));
    else
        QN_TRY(qn_model_linear(l->model, it->role, it->layer, it->expert, view, k->e));
    if (l->shard) {
        struct qn_cut cut;
        qn_shard_cut(l->shard, it->role, &cut);
        QN_TRY(qn_slice_make(&slice, view, &cut, k->e));
    }
    const struct qn_linear *own = l->shard ? &slice.linear : view;
    QN_TRY(qn_linear_check(own, k->e));
    QN_TRY(l->backend->weight(l->device, own, it->rows, it->out, k->e));
out:
    qn_slice_free(&slice);
    return rc;
}

static int load_items(struct walk *k)
{
    int rc = QN_OK;
    const struct qn_load *l = k->l;
    size_t total = 0, done = 0, ahead = 0;
    int n_ahead = 0;
    struct qn_linear *views = try_malloc((size_t)k->n_item, sizeof *views);
    QN_FAIL_IF(!views, k->e, QN_NOMEM, "no memory to list %d tensors", k->n_item);
    for (int i = 0; i < k->n_item; i++) {
        const struct item *it = &k->items[i];
        QN_TRY(qn_model_stored(l->model, it->role, it->layer, it->expert, &views[i], k->e));
        total += qn_linear_bytes(&views[i]);
    }
    for (int i = 0; i < k->n_item; i++) {
        for (; n_ahead < k->n_item && ahead < done + READ_AHEAD_BYTES; n_ahead++) {
            qn_model_will_need(l->model, &views[n_ahead]);
            ahead += qn_linear_bytes(&views[n_ahead]);
        }
        QN_TRY(load_item(k, &k->items[i], &views[i]));
        done += qn_linear_bytes(&views[i]);
        if (!k->items[i].rows && !l->source)
            qn_model_done_with(l->model, &views[i]); /* a table may be read in place */
        if (l->progress) l->progress(l->user, done, total);
    }
out:
    free(views);
    return rc;
}

/* Of the part that is loaded. */
static const struct qn_config *config_of(const struct qn_load *l)
{
    return l->shard ? &l->shard->config : qn_model_config(l->model);
}

int qn_load_weights(struct qn_weights **out, const struct qn_load *l, struct qn_err *e)
{
    int rc = QN_OK;
    struct walk k = {.c = config_of(l), .l = l, .e = e};
    struct weights *w = xcalloc(1, sizeof *w);
    w->w.layers = xcalloc((size_t)k.c->n_layer, sizeof *w->w.layers);
    if (l->with_mtp) w->w.mtp = xcalloc(1, sizeof *w->w.mtp);
    QN_TRY(walk_model(w, &k));
    QN_TRY(load_items(&k));
    if (k.c->is_tied) w->w.head = w->w.embed;
    w->w.n_tok = k.c->vocab;
    if (l->shard) {
        w->w.first_tok = l->shard->vocab.first;
        w->w.n_tok = l->shard->vocab.n;
    }
    *out = &w->w;
    w = NULL;
out:
    free(k.items);
    qn_load_free(w ? &w->w : NULL);
    return rc;
}

int qn_load_layer(struct qn_weights **out, const struct qn_load *l, int layer, struct qn_err *e)
{
    int rc = QN_OK;
    struct walk k = {.c = config_of(l), .l = l, .e = e};
    struct weights *w = xcalloc(1, sizeof *w);
    w->w.layers = xcalloc(1, sizeof *w->w.layers);
    QN_TRY(walk_layer(w, &k, layer, k.c->is_full[layer], &w->w.layers[0]));
    QN_TRY(load_items(&k));
    *out = &w->w;
    w = NULL;
out:
    free(k.items);
    qn_load_free(w ? &w->w : NULL);
    return rc;
}

void qn_load_free(struct qn_weights *weights)
{
    struct weights *w = (struct weights *)weights; /* its first member */
    if (!w) return;
    for (struct handles *v = w->handles, *next; v; v = next) {
        next = v->next;
        free(v);
    }
    free(w->w.layers);
    free(w->w.mtp);
    free(w);
}
