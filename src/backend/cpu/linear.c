/* Linear layers over the pool: tasks are (layer, range of tiles, range of rows).
 * SPDX-License-Identifier: Apache-2.0 */
#include "backend/cpu/cpu.h"
#include "base/mem.h"

struct rows {
    void (*fn)(void *, int, int, int);
    void *ctx;
    int n, grain;
};

static void run_rows(void *ctx, int item, int thread)
{
    struct rows *r = ctx;
    int first = item * r->grain;
    r->fn(r->ctx, first, QN_MIN(r->grain, r->n - first), thread);
}

void qn_cpu_rows(struct qn_device *d, int n, int grain, void (*fn)(void *, int, int, int), void *ctx)
{
    struct rows r = {fn, ctx, n, grain};
    qn_pool_run(d->cpu->pool, QN_CEIL_DIV(n, grain), run_rows, &r);
}

struct prepare {
    struct qn_device *d;
    const float *x;
    unsigned char *to;
    size_t n_in, row_bytes;
};

void qn_cpu_prepare_row(const struct qn_device *d, const float *x, int n_in, unsigned char *to)
{
    enum qn_act act = d->o.act == QN_ACT_INT8 && !d->cpu->has_int8 ? QN_ACT_BF16 : d->o.act;
    const struct qn_kern *k = d->cpu->k;
    k->act(to, x, n_in, act, act != QN_ACT_F32 && k->isa == QN_ISA_AVX512BF16);
}

static void prepare_rows(void *ctx, int first, int n, int thread)
{
    (void)thread;
    struct prepare *p = ctx;
    for (int r = first; r < first + n; r++)
        qn_cpu_prepare_row(p->d, p->x + (size_t)r * p->n_in, (int)p->n_in, p->to + (size_t)r * p->row_bytes);
}

void qn_cpu_prepare(struct qn_device *d, const float *x, int n_row, int n_in, unsigned char *to)
{
    struct prepare p = {d, x, to, (size_t)n_in, qn_packed_act_bytes(n_in, 1, d->o.act)};
    qn_cpu_rows(d, n_row, 8, prepare_rows, &p);
}

/* --- products --- */

struct run {
    const struct qn_device *d;
    const struct qn_job *jobs;
    int n_job, row_step, tile_step;
    int *first; /* [n_job + 1] task numbers */
};

static int n_part(const struct run *r, const struct qn_job *j)
{
    return QN_CEIL_DIV(qn_packed_n_tile(j->w), r->tile_step);
}

static void run_task(void *ctx, int task, int thread)
{
    (void)thread;
    struct run *r = ctx;
    int lo = 0, hi = r->n_job; /* the last job with first[job] <= task */
    while (hi - lo > 1) {
        int mid = (lo + hi) / 2;
        if (r->first[mid] <= task)
            lo = mid;
        else
            hi = mid;
    }
    const struct qn_job *j = &r->jobs[lo];
    int at = task - r->first[lo], parts = n_part(r, j), row = at / parts * r->row_step;
    int tile = at % parts * r->tile_step, n_row = QN_MIN(r->row_step, j->n_row - row);
    int n_in = qn_packed_n_in(j->w), n_out = qn_packed_n_out(j->w);
    qn_packed_run(j->w, j->act + qn_packed_act_bytes(n_in, row, r->d->o.act), n_row,
                  j->y + (size_t)row * n_out, n_out, tile,
                  QN_MIN(tile + r->tile_step, qn_packed_n_tile(j->w)));
}

/* Jobs with act-order get rows of their own, in the order of their layer. Returns what the caller frees, NULL
 * when there are none. */
struct reorder {
    struct qn_job *jobs;
    size_t *at; /* of each job's rows in `rows`; SIZE_MAX: the job keeps its own */
    unsigned char *rows;
};

static void reorder_job(void *ctx, int i, int thread)
{
    (void)thread;
    struct reorder *o = ctx;
    struct qn_job *j = &o->jobs[i];
    if (o->at[i] == SIZE_MAX) return;
    qn_packed_reorder(j->w, j->act, j->n_row, o->rows + o->at[i]);
    j->act = o->rows + o->at[i];
}

static unsigned char *reorder_jobs(struct qn_device *d, const struct qn_job **jobs, int n_job)
{
    size_t total = 0, list_bytes = (size_t)n_job * sizeof **jobs, at_bytes = (size_t)n_job * sizeof(size_t);
    for (int i = 0; i < n_job; i++)
        if (qn_packed_has_order((*jobs)[i].w))
            total += qn_packed_act_bytes(qn_packed_n_in((*jobs)[i].w), (*jobs)[i].n_row, d->o.act);
    if (!total) return NULL;
    size_t head = QN_ROUND_UP(list_bytes + at_bytes, 64);
    unsigned char *own = aligned_alloc(64, head + total);
    QN_CHECK(own);
    struct reorder o = {(struct qn_job *)(void *)own, (size_t *)(void *)(own + list_bytes), own + head};
    memcpy(o.jobs, *jobs, list_bytes);
    total = 0;
    for (int i = 0; i < n_job; i++) {
        o.at[i] = qn_packed_has_order(o.jobs[i].w) ? total : SIZE_MAX;
        if (o.at[i] != SIZE_MAX)
            total += qn_packed_act_bytes(qn_packed_n_in(o.jobs[i].w), o.jobs[i].n_row, d->o.act);
    }
    qn_pool_run(d->cpu->pool, n_job, reorder_job, &o);
    *jobs = o.jobs;
    return own;
}

#define TASK_BYTES ((size_t)128 << 10) /* of weights: enough to stream, few enough to share out evenly */

void qn_cpu_jobs(struct qn_device *d, const struct qn_job *jobs, int n_job)
{
    enum { SOME = 64 };
    int some[SOME + 1], most = 0, n_task = 0, step = 1;
    size_t n_byte = 0, n_tile = 0;
    unsigned char *own = reorder_jobs(d, &jobs, n_job);
    struct run r = {d, jobs, n_job,
                    0, 0,    n_job <= SOME ? some : xmalloc(((size_t)n_job + 1) * sizeof *r.first)};
    for (int i = 0; i < n_job; i++) {
        n_byte += qn_packed_bytes(jobs[i].w);
        n_tile += (size_t)qn_packed_n_tile(jobs[i].w);
        most = QN_MAX(most, jobs[i].n_row);
        step = QN_MAX(step, qn_packed_step(jobs[i].w));
    }
    /* A task has whole blocks: the tiles of one lie side by side, half of them would be read in strides. */
    r.tile_step = QN_ROUND_UP((int)QN_CLAMP(TASK_BYTES * n_tile / QN_MAX(n_byte, 1), 1, 64), step);
    for (int i = 0; i < n_job; i++) n_task += n_part(&r, &jobs[i]);
    /* Rows are split only when blocks alone would leave threads idle; a block of weights is read once a part.
     */
    int parts = QN_CEIL_DIV(4 * qn_pool_n_thread(d->cpu->pool), QN_MAX(n_task, 1));
    r.row_step = QN_MAX(QN_ROUND_UP(QN_CEIL_DIV(most, parts), 12), 48);
    r.first[0] = 0;
    for (int i = 0; i < n_job; i++)
        r.first[i + 1] = r.first[i] + n_part(&r, &jobs[i]) * QN_CEIL_DIV(jobs[i].n_row, r.row_step);
    qn_pool_run(d->cpu->pool, r.first[n_job], run_task, &r);
    if (r.first != some) free(r.first);
    free(own);
}

void qn_cpu_linear(struct qn_device *d, const float *x, int n_row, const struct qn_host_linear *jobs,
                   int n_job)
{
    enum { MOST = 8 };
    struct qn_job list[MOST];
    QN_CHECK(n_job <= MOST);
    QN_CHECK(qn_packed_act_bytes(jobs[0].w->n_in, n_row, d->o.act) <= d->cpu->act_bytes);
    qn_cpu_prepare(d, x, n_row, jobs[0].w->n_in, d->cpu->act);
    for (int i = 0; i < n_job; i++) {
        if (d->o.observer) d->o.observer->rows(d->o.observer->user, jobs[i].w, x, n_row);
        list[i] = (struct qn_job){jobs[i].w->packed, d->cpu->act, jobs[i].y, n_row};
    }
    qn_cpu_jobs(d, list, n_job);
}

struct add_norm {
    struct qn_device *d;
    float *x, *h;
    const float *y, *w;
};

static void add_norm_rows(void *ctx, int first, int n, int thread)
{
    (void)thread;
    struct add_norm *a = ctx;
    size_t width = (size_t)a->d->c.hidden;
    for (int r = first; r < first + n; r++)
        a->d->cpu->k->add_norm(a->x + (size_t)r * width, a->y + (size_t)r * width, a->w, (int)width,
                               a->d->c.norm_eps, a->h + (size_t)r * width);
}

void qn_cpu_add_norm(struct qn_device *d, float *x, const float *y, const float *w, int n_row, float *h)
{
    struct add_norm a = {d, x, h, y, w};
    qn_cpu_rows(d, n_row, 8, add_norm_rows, &a);
}
