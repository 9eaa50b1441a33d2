/* Gated attention on the CPU.
 *
 * A page holds, for each layer and KV head, K as [hd][QN_PAGE] (16 keys a vector) and V as [QN_PAGE][hd].
 * Keys are worked off in splits of QN_SPLIT: softmax within a split, log-sum-exp merge between splits, in
 * order. Whether a split is a task of its own or part of a longer one changes nothing in the arithmetic.
 * SPDX-License-Identifier: Apache-2.0 */
#include <math.h>

#include "backend/cpu/cpu.h"
#include "base/mem.h"

static unsigned char *head_of(const struct qn_device *d, int page, int kv_layer, int g, bool is_v)
{
    size_t head_bytes = (size_t)QN_PAGE * d->c.head_dim * qn_kv_bytes(d->o.kv);
    return qn_host_kv(d, page, kv_layer) + (is_v ? d->kv_layer_bytes / 2 : 0) + (size_t)g * head_bytes;
}

struct in {
    struct qn_device *d;
    const struct qn_step *s;
    const struct qn_op_attn_in *op;
};

/* Norms, rotation and the store into the page, by rows. */
static void in_rows(void *ctx, int first, int n, int thread)
{
    (void)thread;
    struct in *a = ctx;
    struct qn_device *d = a->d;
    const struct qn_config *c = &d->c;
    const struct qn_attn_weights *w = &a->op->w->attn;
    const struct qn_kern *k = d->cpu->k;
    int hd = c->head_dim, nh = c->n_head, nkv = c->n_kv_head, half = c->rotary_dim / 2;
    float cosv[512], sinv[512];
    for (int r = first; r < first + n; r++) {
        qn_host_rope(d, a->s, r, a->op->kv_layer == c->n_full, cosv, sinv);
        for (int h = 0; h < nh; h++) {
            const float *qg = d->qg + ((size_t)r * nh + h) * 2 * hd;
            float *q = d->q + ((size_t)r * nh + h) * hd;
            k->norm(qg, w->q_norm, hd, c->norm_eps, q);
            qn_ref_rotate(q, half, cosv, sinv);
            memcpy(d->gate + ((size_t)r * nh + h) * hd, qg + hd, (size_t)hd * sizeof(float));
        }
        const struct qn_step_seq *seq = &a->s->seq[a->s->row_seq[r]];
        int pos = a->s->pos[r], page = a->s->pages[seq->first_page + pos / QN_PAGE], place = pos % QN_PAGE;
        for (int g = 0; g < nkv; g++) {
            float *key = d->k + ((size_t)r * nkv + g) * hd;
            const float *v = d->v + ((size_t)r * nkv + g) * hd;
            unsigned char *kp = head_of(d, page, a->op->kv_layer, g, false);
            unsigned char *vp = head_of(d, page, a->op->kv_layer, g, true);
            k->norm(key, w->k_norm, hd, c->norm_eps, key);
            qn_ref_rotate(key, half, cosv, sinv);
            float k_scale = w->k_scale, v_scale = w->v_scale;
            uint16_t *ks = qn_host_kv_scales(d, page, a->op->kv_layer, g, false),
                     *vs = qn_host_kv_scales(d, page, a->op->kv_layer, g, true);
            if (ks) {
                ks[place] = qn_f32_to_bf16(k_scale = qn_kv_fit(key, hd));
                vs[place] = qn_f32_to_bf16(v_scale = qn_kv_fit(v, hd));
            }
            for (int i = 0; i < hd; i++) {
                qn_kv_store(d->o.kv, kp, (size_t)i * QN_PAGE + place, key[i] / k_scale);
                qn_kv_store(d->o.kv, vp, (size_t)place * hd + i, v[i] / v_scale);
            }
        }
    }
}

void qn_cpu_attn_in(struct qn_device *d, const struct qn_step *s, const struct qn_op_attn_in *op)
{
    const struct qn_attn_weights *w = &op->w->attn;
    qn_cpu_add_norm(d, op->x, op->y, op->w->input_norm, s->n_row, d->h);
    struct qn_host_linear jobs[] = {{w->q, d->qg}, {w->k, d->k}, {w->v, d->v}};
    d->linear(d, d->h, s->n_row, jobs, 3);
    struct in a = {d, s, op};
    qn_cpu_rows(d, s->n_row, 4, in_rows, &a);
}

/* --- attention --- */

struct attend {
    struct qn_device *d;
    const struct qn_step *s;
    const struct qn_op_attn *op;
    int group; /* query heads of a KV head */
    /* tasks */
    struct task {
        int seq, g, first,
            n;              /* queries [first, first + n) of the sequence: row * group + head of the group */
        int split, n_split; /* splits to work off */
        float *part;        /* NULL: merge into the output at once; else partials [n][hd + 2] of one split */
    } * tasks;
    int n_task;
};

struct query { /* where a query's result is being gathered */
    float *o;  /* [hd] */
    float max, sum;
    bool has_any;
};

/* (o, max, sum) takes in another split's part. */
static void merge(struct query *q, const float *o, float max, float sum, int hd)
{
    if (!q->has_any) {
        memcpy(q->o, o, (size_t)hd * sizeof *o);
        q->max = max;
        q->sum = sum;
        q->has_any = true;
        return;
    }
    float most = fmaxf(q->max, max), a = expf(q->max - most), b = expf(max - most);
    for (int i = 0; i < hd; i++) q->o[i] = q->o[i] * a + o[i] * b;
    q->sum = q->sum * a + sum * b;
    q->max = most;
}

static float *out_of(const struct attend *a, int seq, int g, int query)
{
    const struct qn_device *d = a->d;
    int row = a->s->seq[seq].first_row + query / a->group, head = g * a->group + query % a->group;
    return d->attn + ((size_t)row * d->c.n_head + head) * d->c.head_dim;
}

static void finish(const struct attend *a, const struct query *q)
{
    bool has_own = qn_kv_scale_bytes(a->d->o.kv) > 0; /* scales in the page */
    float f = (has_own ? 1 : a->op->w->attn.v_scale) / q->sum;
    for (int i = 0; i < a->d->c.head_dim; i++) q->o[i] *= f;
}

static int n_split_of(const struct qn_step_seq *seq)
{
    return QN_CEIL_DIV(seq->pos0 + seq->n_row, QN_SPLIT);
}

/* The MTP layer has no key at place 0, and none before mtp_from. */
static int first_key(const struct attend *a, const struct qn_step_seq *seq)
{
    return a->op->kv_layer == a->d->c.n_full ? QN_MAX(seq->mtp_from, 1) : 0;
}

/* Up to QN_ATTN_QUERIES queries with the keys of one split: scores, softmax, sums of V. n_key: how many keys
 * of the split each sees, at least one. */
static void run_split(const struct attend *a, const struct qn_step_seq *seq, int g, int split,
                      const float *const *q, const int *n_key, int n, float *score, float *const *o,
                      float *max, float *sum)
{
    const struct qn_device *d = a->d;
    const struct qn_kern *k = d->cpu->k;
    int hd = d->c.head_dim, most = 0, in_page[QN_ATTN_QUERIES];
    int n_none = QN_MAX(first_key(a, seq) - split * QN_SPLIT, 0); /* keys of the split that nobody sees */
    for (int i = 0; i < n; i++) most = QN_MAX(most, n_key[i]);
    const int32_t *pages = a->s->pages + seq->first_page + split * (QN_SPLIT / QN_PAGE);
    int n_page = QN_CEIL_DIV(most, QN_PAGE);
    bool goes_on = most == QN_SPLIT && split + 1 < n_split_of(seq);
    struct qn_kern_attn ka = {
        .q = q, .n_query = n, .hd = hd, .score = score, .stride = QN_SPLIT, .n_key = in_page, .o = o};
    bool has_own = qn_kv_scale_bytes(d->o.kv) > 0;
    float scale = (has_own ? 1 : a->op->w->attn.k_scale) / sqrtf((float)hd);
    for (int p = 0; p < n_page; p++) {
        ka.kv = head_of(d, pages[p], a->op->kv_layer, g, false);
        ka.next = head_of(d, pages[p + 1 < n_page ? p + 1 : 0], a->op->kv_layer, g, p + 1 == n_page);
        ka.scale = qn_host_kv_scales(d, pages[p], a->op->kv_layer, g, false);
        ka.at = p * QN_PAGE;
        k->qk[d->o.kv](&ka, scale);
    }
    for (int i = 0; i < n; i++) {
        float *s = score + (size_t)i * QN_SPLIT;
        for (int j = 0; j < n_none; j++) s[j] = -INFINITY;
        k->softmax(s, n_key[i], &max[i], &sum[i]);
        for (int j = 0; j < n_none; j++) s[j] = 0;
        for (int j = QN_ROUND_UP(n_key[i], 16); j < QN_ROUND_UP(most, QN_PAGE); j++) s[j] = 0;
        memset(o[i], 0, (size_t)hd * sizeof(float));
    }
    for (int p = 0; p < n_page; p++) {
        bool is_last = p + 1 == n_page;
        for (int i = 0; i < n; i++) in_page[i] = QN_CLAMP(n_key[i] - p * QN_PAGE, 0, QN_PAGE);
        ka.kv = head_of(d, pages[p], a->op->kv_layer, g, true);
        ka.next = is_last && !goes_on ? NULL : head_of(d, pages[p + 1], a->op->kv_layer, g, !is_last);
        ka.scale = qn_host_kv_scales(d, pages[p], a->op->kv_layer, g, true);
        ka.at = p * QN_PAGE;
        ka.first_key = QN_CLAMP(n_none - p * QN_PAGE, 0, QN_PAGE);
        k->pv[d->o.kv](&ka);
    }
}

static void run_task(void *ctx, int item, int thread)
{
    struct attend *a = ctx;
    const struct task *t = &a->tasks[item];
    struct qn_device *d = a->d;
    const struct qn_step_seq *seq = &a->s->seq[t->seq];
    int hd = d->c.head_dim, hd_pad = QN_ROUND_UP(hd, 16);
    float *score = d->cpu->score + (size_t)thread * QN_ATTN_QUERIES * QN_SPLIT;
    float *part = d->cpu->part + (size_t)thread * QN_ATTN_QUERIES * (size_t)hd_pad;
    for (int first = t->first; first < t->first + t->n; first += QN_ATTN_QUERIES) {
        int n = QN_MIN(QN_ATTN_QUERIES, t->first + t->n - first);
        struct query gathered[QN_ATTN_QUERIES] = {0};
        for (int i = 0; i < n; i++) gathered[i].o = out_of(a, t->seq, t->g, first + i);
        for (int split = t->split; split < t->split + t->n_split; split++) {
            const float *q[QN_ATTN_QUERIES];
            float *o[QN_ATTN_QUERIES], max[QN_ATTN_QUERIES], sum[QN_ATTN_QUERIES];
            int n_key[QN_ATTN_QUERIES], who[QN_ATTN_QUERIES], m = 0;
            for (int i = 0; i < n; i++) { /* those that reach into this split */
                int row = seq->first_row + (first + i) / a->group,
                    head = t->g * a->group + (first + i) % a->group;
                int keys = a->s->pos[row] + 1 - split * QN_SPLIT;
                if (keys <= 0 || first_key(a, seq) >= (split + 1) * QN_SPLIT) continue;
                q[m] = d->q + ((size_t)row * d->c.n_head + head) * hd;
                o[m] = part + (size_t)m * hd_pad;
                n_key[m] = QN_MIN(keys, QN_SPLIT);
                who[m++] = i;
            }
            if (m) run_split(a, seq, t->g, split, q, n_key, m, score, o, max, sum);
            for (int i = 0; i < m; i++) {
                if (!t->part) {
                    merge(&gathered[who[i]], o[i], max[i], sum[i], hd);
                    continue;
                }
                float *to = t->part + (size_t)(first - t->first + who[i]) * (size_t)(hd + 2);
                memcpy(to, o[i], (size_t)hd * sizeof *to);
                to[hd] = max[i];
                to[hd + 1] = sum[i];
            }
            if (t->part)
                for (int i = 0; i < n; i++) { /* sum 0 marks a query that is not in this split */
                    bool is_in = false;
                    for (int j = 0; j < m; j++) is_in |= who[j] == i;
                    if (!is_in) t->part[(size_t)(first - t->first + i) * (size_t)(hd + 2) + hd + 1] = 0;
                }
        }
        for (int i = 0; i < n && !t->part; i++) finish(a, &gathered[i]);
    }
}

/* Queries of a task: about 8 rows, and more tasks than threads where there are enough. */
static int task_queries(const struct attend *a)
{
    return QN_ROUND_UP(8 * a->group, QN_ATTN_QUERIES);
}

static void add_task(struct attend *a, struct task t)
{
    a->tasks[a->n_task++] = t;
}

void qn_cpu_attn(struct qn_device *d, const struct qn_step *s, const struct qn_op_attn *op)
{
    struct attend a = {d, s, op, d->c.n_head / d->c.n_kv_head, NULL, 0};
    int nkv = d->c.n_kv_head, hd = d->c.head_dim, per = task_queries(&a), n_whole = 0, n_piece = 0;
    size_t piece_floats = 0;
    for (int q = op->first; q < op->first + op->n_seq; q++) {
        int n_query = s->seq[q].n_row * a.group, blocks = QN_CEIL_DIV(n_query, per) * nkv;
        n_whole += blocks;
        n_piece += blocks * n_split_of(&s->seq[q]);
        piece_floats += (size_t)n_query * nkv * n_split_of(&s->seq[q]) * (size_t)(hd + 2);
    }
    /* Splits become tasks when there are few queries and a long context; the arithmetic is the same. */
    bool is_split = n_piece > n_whole && n_whole < 4 * qn_pool_n_thread(d->cpu->pool) &&
                    piece_floats <= d->cpu->merge_floats;
    a.tasks = xmalloc((size_t)(is_split ? n_piece : n_whole) * sizeof *a.tasks);
    float *part = d->cpu->merge;
    for (int q = op->first; q < op->first + op->n_seq; q++) {
        int n_query = s->seq[q].n_row * a.group, n_split = n_split_of(&s->seq[q]);
        /* the longest rows first, so that the last tasks are short */
        for (int first = (n_query - 1) / per * per; first >= 0; first -= per)
            for (int g = 0; g < nkv; g++) {
                int n = QN_MIN(per, n_query - first);
                if (!is_split) add_task(&a, (struct task){q, g, first, n, 0, n_split, NULL});
                for (int i = 0; is_split && i < n_split; i++, part += (size_t)n * (hd + 2))
                    add_task(&a, (struct task){q, g, first, n, i, 1, part});
            }
    }
    qn_pool_run(d->cpu->pool, a.n_task, run_task, &a);
    for (int i = 0; is_split && i < a.n_task;) { /* splits of the same queries follow each other */
        const struct task *t = &a.tasks[i];
        int n_split = n_split_of(&s->seq[t->seq]);
        for (int j = 0; j < t->n; j++) {
            struct query query = {.o = out_of(&a, t->seq, t->g, t->first + j)};
            for (int k = 0; k < n_split; k++) {
                const float *p = t[k].part + (size_t)j * (size_t)(hd + 2);
                if (p[hd + 1] != 0) merge(&query, p, p[hd], p[hd + 1], hd);
            }
            finish(&a, &query);
        }
        i += n_split;
    }
    free(a.tasks);
}

struct gate {
    struct qn_device *d;
    size_t n;
};

static void gate_rows(void *ctx, int first, int n, int thread)
{
    (void)thread;
    struct gate *g = ctx;
    g->d->cpu->k->sigmoid_mul(g->d->attn + (size_t)first * g->n, g->d->gate + (size_t)first * g->n,
                              (size_t)n * g->n);
}

void qn_cpu_attn_out(struct qn_device *d, const struct qn_step *s, const struct qn_op_attn_out *op)
{
    struct gate g = {d, (size_t)d->c.n_head * d->c.head_dim};
    qn_cpu_rows(d, s->n_row, 8, gate_rows, &g);
    struct qn_host_linear job = {op->w->attn.o, op->y};
    d->linear(d, d->attn, s->n_row, &job, 1);
}
