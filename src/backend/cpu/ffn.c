/* SwiGLU and experts on the CPU. Experts are grouped over the rows of the step, so that each one's weights
 * are read once; a row's expert outputs are added in the order of the router, then the shared expert.
 * SPDX-License-Identifier: Apache-2.0 */
#include <math.h>

#include "backend/cpu/cpu.h"
#include "base/mem.h"

struct act {
    struct qn_device *d;
    float *gate;
    const float *up;
    size_t n;
};

static void act_rows(void *ctx, int first, int n, int thread)
{
    (void)thread;
    struct act *a = ctx;
    size_t at = (size_t)first * a->n;
    a->d->cpu->k->silu_mul(a->gate + at, a->up + at, (size_t)n * a->n);
}

static void silu_mul(struct qn_device *d, float *gate, const float *up, int n_row, int width)
{
    struct act a = {d, gate, up, (size_t)width};
    qn_cpu_rows(d, n_row, 4, act_rows, &a);
}

void qn_cpu_mlp(struct qn_device *d, const struct qn_step *s, const struct qn_op_ffn *op)
{
    const struct qn_mlp_weights *w = &op->w->mlp;
    qn_cpu_add_norm(d, op->x, op->y, op->w->post_norm, s->n_row, d->h);
    struct qn_host_linear jobs[] = {{w->gate, d->ff_gate}, {w->up, d->ff_up}}, down = {w->down, op->y};
    d->linear(d, d->h, s->n_row, jobs, 2);
    silu_mul(d, d->ff_gate, d->ff_up, s->n_row, w->gate->n_out);
    d->linear(d, d->ff_gate, s->n_row, &down, 1);
}

/* Places: the (row, rank) pairs ordered by expert. place_of[row * top_k + rank] is a pair's place. */
struct plan {
    int *first;    /* [E + 1] places of each expert */
    int *place_of; /* [rows * top_k] */
    struct qn_job *jobs;
};

static void plan_experts(struct qn_device *d, struct plan *p, int n_row)
{
    int n = n_row * d->c.top_k, n_expert = d->c.n_expert;
    const int *expert = d->cpu->expert;
    memset(p->first, 0, ((size_t)n_expert + 1) * sizeof *p->first);
    for (int i = 0; i < n; i++) p->first[expert[i] + 1]++;
    for (int e = 0; e < n_expert; e++) p->first[e + 1] += p->first[e];
    for (int i = 0; i < n; i++) p->place_of[i] = p->first[expert[i]]++;
    for (int e = n_expert; e > 0; e--) p->first[e] = p->first[e - 1];
    p->first[0] = 0;
}

/* One layer of every expert in use. */
static int expert_jobs(const struct plan *p, struct qn_weight *const *layer, int n_expert,
                       const unsigned char *act, size_t act_row, float *y, struct qn_job *jobs)
{
    int n = 0;
    for (int e = 0; e < n_expert; e++) {
        size_t first = (size_t)p->first[e];
        int rows = p->first[e + 1] - p->first[e];
        if (rows)
            jobs[n++] = (struct qn_job){layer[e]->packed, act + first * act_row,
                                        y + first * (size_t)layer[e]->n_out, rows};
    }
    return n;
}

struct combine {
    struct qn_device *d;
    const struct plan *p;
    float *y;
};

static void combine_rows(void *ctx, int first, int n, int thread)
{
    (void)thread;
    struct combine *a = ctx;
    struct qn_cpu *c = a->d->cpu;
    size_t width = (size_t)a->d->c.hidden;
    int top_k = a->d->c.top_k;
    for (int r = first; r < first + n; r++) {
        float *y = a->y + (size_t)r * width;
        memset(y, 0, width * sizeof *y);
        for (int i = r * top_k; i < (r + 1) * top_k; i++)
            c->k->axpy(y, c->e_out + (size_t)a->p->place_of[i] * width, c->weight[i], width);
        c->k->axpy(y, c->shared + (size_t)r * width, qn_sigmoid(c->mix[r]), width);
    }
}

void qn_cpu_route(const float *logits, int n_expert, int top_k, int *expert, float *weight)
{
    int n = 0;
    float last = 0; /* the logit of the last of a full list */
    for (int e = 0; e < n_expert; e++) {
        if (n == top_k && !(logits[e] > last)) continue;
        int at = n < top_k ? n++ : top_k - 1;
        for (; at > 0 && logits[e] > logits[expert[at - 1]]; at--) expert[at] = expert[at - 1];
        expert[at] = e;
        last = logits[expert[n - 1]];
    }
    qn_ref_route_weights(logits, top_k, expert, weight);
}

static void route_rows(void *ctx, int first, int n, int thread)
{
    (void)thread;
    struct qn_device *d = ctx;
    size_t k = (size_t)d->c.top_k;
    for (int r = first; r < first + n; r++)
        qn_cpu_route(d->moe_logits + (size_t)r * d->c.n_expert, d->c.n_expert, d->c.top_k,
                     d->cpu->expert + (size_t)r * k, d->cpu->weight + (size_t)r * k);
}

/* Rows of the step, prepared, to their places. */
struct gather {
    struct qn_device *d;
    const struct plan *p;
    unsigned char *to;
    size_t row_bytes;
};

static void gather_rows(void *ctx, int first, int n, int thread)
{
    (void)thread;
    struct gather *g = ctx;
    int top_k = g->d->c.top_k;
    for (int i = first * top_k; i < (first + n) * top_k; i++)
        memcpy(g->to + (size_t)g->p->place_of[i] * g->row_bytes,
               g->d->cpu->act + (size_t)(i / top_k) * g->row_bytes, g->row_bytes);
}

/* Inputs of the last layers: the experts' by place, then the shared expert's by row. */
struct middle {
    struct qn_device *d;
    int n_place, n_in, n_shared; /* inputs of an expert's last layer, of the shared one's */
    unsigned char *act, *shared_act;
};

static void middle_rows(void *ctx, int first, int n, int thread)
{
    (void)thread;
    struct middle *m = ctx;
    struct qn_device *d = m->d;
    for (int i = first; i < first + n; i++) {
        bool is_shared = i >= m->n_place;
        size_t r = (size_t)(is_shared ? i - m->n_place : i),
               width = (size_t)(is_shared ? m->n_shared : m->n_in);
        float *gate = (is_shared ? d->ff_gate : d->cpu->e_gate) + r * width;
        const float *up = (is_shared ? d->ff_up : d->cpu->e_up) + r * width;
        d->cpu->k->silu_mul(gate, up, width);
        qn_cpu_prepare_row(d, gate, (int)width,
                           (is_shared ? m->shared_act : m->act) +
                               r * qn_packed_act_bytes((int)width, 1, d->o.act));
    }
}

/* What the observer of the last layers is shown. */
static void observe(struct qn_device *d, const struct plan *p, const struct qn_moe_weights *w, int n_row)
{
    if (!d->o.observer) return;
    for (int x = 0; x < d->c.n_expert; x++)
        if (p->first[x + 1] > p->first[x])
            d->o.observer->rows(d->o.observer->user, w->down[x],
                                d->cpu->e_gate + (size_t)p->first[x] * (size_t)d->c.expert_ffn,
                                p->first[x + 1] - p->first[x]);
    d->o.observer->rows(d->o.observer->user, w->shared_down, d->ff_gate, n_row);
}

void qn_cpu_moe(struct qn_device *d, const struct qn_step *s, const struct qn_op_ffn *op)
{
    const struct qn_config *c = &d->c;
    const struct qn_moe_weights *w = &op->w->moe;
    struct qn_cpu *cpu = d->cpu;
    int n_row = s->n_row, n_place = n_row * c->top_k;
    qn_cpu_add_norm(d, op->x, op->y, op->w->post_norm, n_row, d->h);
    struct qn_host_linear jobs[] = {{w->router, d->moe_logits},
                                    {w->shared_mix, cpu->mix},
                                    {w->shared_gate, d->ff_gate},
                                    {w->shared_up, d->ff_up}};
    d->linear(d, d->h, n_row, jobs, 4); /* leaves the prepared rows in cpu->act */
    qn_cpu_rows(d, n_row, 16, route_rows, d);

    struct plan p;
    p.first = xmalloc(((size_t)c->n_expert + 1 + (size_t)n_place) * sizeof *p.first);
    p.place_of = p.first + c->n_expert + 1;
    p.jobs = xmalloc(((size_t)c->n_expert * 2 + 1) * sizeof *p.jobs);
    plan_experts(d, &p, n_row);

    unsigned char *in = cpu->act;
    size_t in_row = 0; /* a single row is the input of all its experts */
    if (n_row > 1) {
        in_row = qn_packed_act_bytes(c->hidden, 1, d->o.act);
        in += (size_t)n_row * in_row;
        QN_CHECK((size_t)(n_row + n_place) * in_row <= cpu->act_bytes);
        struct gather g = {d, &p, in, in_row};
        qn_cpu_rows(d, n_row, 4, gather_rows, &g);
    }
    int n_job = expert_jobs(&p, w->gate, c->n_expert, in, in_row, cpu->e_gate, p.jobs);
    n_job += expert_jobs(&p, w->up, c->n_expert, in, in_row, cpu->e_up, p.jobs + n_job);
    qn_cpu_jobs(d, p.jobs, n_job);

    size_t mid_row = qn_packed_act_bytes(c->expert_ffn, 1, d->o.act);
    struct middle m = {d, n_place, c->expert_ffn, w->shared_gate->n_out, cpu->act, NULL};
    m.shared_act = m.act + (size_t)n_place * mid_row;
    QN_CHECK((size_t)n_place * mid_row + qn_packed_act_bytes(m.n_shared, n_row, d->o.act) <= cpu->act_bytes);
    qn_cpu_rows(d, n_place + n_row, 4, middle_rows, &m);
    observe(d, &p, w, n_row);
    n_job = expert_jobs(&p, w->down, c->n_expert, m.act, mid_row, cpu->e_out, p.jobs);
    p.jobs[n_job++] = (struct qn_job){w->shared_down->packed, m.shared_act, cpu->shared, n_row};
    qn_cpu_jobs(d, p.jobs, n_job);

    struct combine a = {d, &p, op->y};
    qn_cpu_rows(d, n_row, 8, combine_rows, &a);
    free(p.first);
    free(p.jobs);
}
