/* cpu: attention of the vision tower. Keys and values of a head are packed like weights, in blocks of KEYS
 * keys, so that both products run through the kernels of the linear layers; the softmax runs along with them
 * (a maximum and a sum a query, corrected from block to block, in the order of the keys).
 * SPDX-License-Identifier: Apache-2.0 */
#include <math.h>

#include "backend/tower_impl.h"
#include "base/mem.h"

#define KEYS    512   /* of a block */
#define QUERIES 64    /* of a task */
#define AHEAD   16384 /* keys of heads packed at a time: enough tasks, little memory */

struct attn {
    const struct tower_attend *a;
    int first_head, n_head;    /* of this turn */
    int n_block, n_task;       /* of a head */
    struct qn_packed **k, **v; /* [n_head][n_block] */
    float **scratch;           /* [n_thread] */
    size_t pack_bytes;         /* of a block of keys as stored */
    bool has_failed;
};

static bool is_f32(const struct attn *s)
{
    return s->a->t->act == QN_ACT_F32;
}

static void put(const struct attn *s, void *to, size_t i, float x)
{
    if (is_f32(s))
        ((float *)to)[i] = x;
    else
        ((uint16_t *)to)[i] = qn_f32_to_bf16(x);
}

static struct qn_packed *pack(const struct attn *s, const void *data, int n_out, int n_in)
{
    struct qn_packed *p = NULL;
    struct qn_linear l = {
        .format = is_f32(s) ? QN_FMT_F32 : QN_FMT_BF16, .n_out = n_out, .n_in = n_in, .scale2 = 1};
    l.weight = (struct qn_tensor){.name = "keys",
                                  .dtype = is_f32(s) ? QN_F32 : QN_BF16,
                                  .n_dim = 2,
                                  .shape = {n_out, n_in},
                                  .data = data,
                                  .n_byte = (size_t)n_out * (size_t)n_in * (is_f32(s) ? 4 : 2)};
    return qn_packed_make(&p, &l, s->a->t->act, s->a->t->k->isa, NULL, NULL) ? NULL : p;
}

/* Block `item % n_block` of head `item / n_block`: keys turned by their places, values transposed. */
static void task_pack(void *ctx, int item, int thread)
{
    struct attn *s = ctx;
    const struct qn_tower *t = s->a->t;
    int head = s->first_head + item / s->n_block, first = item % s->n_block * KEYS,
        n = QN_MIN(KEYS, s->a->n - first);
    size_t H = (size_t)t->hidden, hd = (size_t)t->hd, half = hd / 2;
    float *row = s->scratch[thread];
    void *keys = row + hd, *values = (char *)keys + s->pack_bytes;
    for (int j = 0; j < n; j++) {
        const float *k = s->a->qkv + (size_t)(first + j) * 3 * H + H + (size_t)head * hd, *v = k + H;
        memcpy(row, k, hd * sizeof *row);
        qn_tower_rotate(row, (int)half, s->a->cosv + (size_t)(first + j) * half,
                        s->a->sinv + (size_t)(first + j) * half);
        for (size_t d = 0; d < hd; d++) {
            put(s, keys, (size_t)j * hd + d, row[d]);
            put(s, values, d * (size_t)n + (size_t)j, v[d]);
        }
    }
    s->k[item] = pack(s, keys, n, t->hd);
    s->v[item] = pack(s, values, t->hd, n);
    if (!s->k[item] || !s->v[item]) s->has_failed = true; /* the same value from any thread */
}

static size_t act_floats(const struct qn_tower *t, int n_in)
{
    return QN_ROUND_UP(qn_tower_act_bytes(t, n_in, QUERIES), 64) / sizeof(float);
}

/* Floats of a thread: prepared queries, prepared weights, scores, a block's output, sums. */
static size_t scratch_floats(const struct qn_tower *t, size_t pack_bytes)
{
    size_t run =
        act_floats(t, t->hd) + act_floats(t, KEYS) + QUERIES * ((size_t)KEYS + 3 * (size_t)t->hd + 2);
    size_t packing = (size_t)t->hd + 2 * pack_bytes / sizeof(float);
    return QN_ROUND_UP(QN_MAX(run, packing) + 64, 16);
}

struct queries {
    float *q_act, *p_act, *score, *part, *q, *o, *most, *sum;
    int n;
};

static void block_of_keys(const struct attn *s, const struct queries *w, int at, int n_key)
{
    const struct qn_tower *t = s->a->t;
    const struct qn_kern *k = t->k;
    size_t hd = (size_t)t->hd, row_bytes = qn_packed_act_bytes(n_key, 1, t->act);
    float scale_new[QUERIES];
    qn_tower_multiply(t, s->k[at], w->q_act, w->n, w->score, KEYS);
    for (int i = 0; i < w->n; i++) {
        float *p = w->score + (size_t)i * KEYS, most, sum;
        k->softmax(p, n_key, &most, &sum);
        float top = fmaxf(most, w->most[i]), keep = expf(w->most[i] - top);
        scale_new[i] = expf(most - top);
        w->sum[i] = w->sum[i] * keep + sum * scale_new[i];
        w->most[i] = top;
        for (size_t d = 0; keep != 1.0f && d < hd; d++) w->o[(size_t)i * hd + d] *= keep;
        qn_tower_prepare(t, p, n_key, 1, (char *)w->p_act + (size_t)i * row_bytes);
    }
    qn_tower_multiply(t, s->v[at], w->p_act, w->n, w->part, t->hd);
    for (int i = 0; i < w->n; i++) k->axpy(w->o + (size_t)i * hd, w->part + (size_t)i * hd, scale_new[i], hd);
}

/* QUERIES queries of a head. */
static void task_attend(void *ctx, int item, int thread)
{
    struct attn *s = ctx;
    const struct qn_tower *t = s->a->t;
    int turn = item / s->n_task, head = s->first_head + turn, first = item % s->n_task * QUERIES;
    size_t H = (size_t)t->hidden, hd = (size_t)t->hd, half = hd / 2;
    struct queries w = {.q_act = s->scratch[thread], .n = QN_MIN(QUERIES, s->a->n - first)};
    w.p_act = w.q_act + act_floats(t, t->hd);
    w.score = w.p_act + act_floats(t, KEYS);
    w.part = w.score + QUERIES * (size_t)KEYS;
    w.q = w.part + QUERIES * hd;
    w.o = w.q + QUERIES * hd;
    w.most = w.o + QUERIES * hd;
    w.sum = w.most + QUERIES;
    float scale = 1.0f / sqrtf((float)t->hd);
    for (int i = 0; i < w.n; i++) {
        float *q = w.q + (size_t)i * hd;
        memcpy(q, s->a->qkv + (size_t)(first + i) * 3 * H + (size_t)head * hd, hd * sizeof *q);
        qn_tower_rotate(q, (int)half, s->a->cosv + (size_t)(first + i) * half,
                        s->a->sinv + (size_t)(first + i) * half);
        for (size_t d = 0; d < hd; d++) q[d] *= scale;
        w.most[i] = -INFINITY;
        w.sum[i] = 0;
    }
    memset(w.o, 0, QUERIES * hd * sizeof *w.o);
    qn_tower_prepare(t, w.q, t->hd, w.n, w.q_act);
    for (int b = 0; b < s->n_block; b++)
        block_of_keys(s, &w, turn * s->n_block + b, QN_MIN(KEYS, s->a->n - b * KEYS));
    for (int i = 0; i < w.n; i++) {
        float *o = s->a->out + (size_t)(first + i) * H + (size_t)head * hd;
        for (size_t d = 0; d < hd; d++) o[d] = w.o[(size_t)i * hd + d] / w.sum[i];
    }
}

int qn_tower_attend_cpu(const struct tower_attend *a, struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_tower *t = a->t;
    int at_once = QN_CLAMP(AHEAD / a->n, 1, t->n_head), n_thread = qn_pool_n_thread(t->pool);
    struct attn s = {.a = a, .n_block = QN_CEIL_DIV(a->n, KEYS), .n_task = QN_CEIL_DIV(a->n, QUERIES)};
    size_t n_pack = (size_t)at_once * (size_t)s.n_block;
    s.pack_bytes = QN_ROUND_UP((size_t)KEYS * (size_t)t->hd * 4, 64);
    size_t n_float = scratch_floats(t, s.pack_bytes);
    s.k = xcalloc(n_pack, sizeof *s.k);
    s.v = xcalloc(n_pack, sizeof *s.v);
    s.scratch = xcalloc((size_t)n_thread, sizeof *s.scratch);
    for (int i = 0; i < n_thread; i++) {
        s.scratch[i] = aligned_alloc(64, n_float * sizeof(float));
        QN_FAIL_IF(!s.scratch[i], e, QN_NOMEM, "no memory for attention over a picture");
    }
    for (s.first_head = 0; s.first_head < t->n_head; s.first_head += at_once) {
        s.n_head = QN_MIN(at_once, t->n_head - s.first_head);
        qn_pool_run(t->pool, s.n_head * s.n_block, task_pack, &s);
        if (!s.has_failed) qn_pool_run(t->pool, s.n_head * s.n_task, task_attend, &s);
        for (size_t i = 0; i < n_pack; i++) {
            qn_packed_free(s.k[i]);
            qn_packed_free(s.v[i]);
            s.k[i] = s.v[i] = NULL;
        }
        QN_FAIL_IF(s.has_failed, e, QN_NOMEM, "no memory for the keys of a picture");
    }
out:
    for (int i = 0; i < n_thread; i++) free(s.scratch[i]);
    free(s.scratch);
    free(s.k);
    free(s.v);
    return rc;
}
