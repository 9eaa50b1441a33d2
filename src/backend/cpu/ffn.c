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

static void route_rows(void *ctx, int first, int n, int thread)
{
    (void)thread;
    struct qn_device *d = ctx;
    size_t k = (size_t)d->c.top_k;
    for (int r = first; r < first + n; r++)
        qn_ref_route(d->moe_logits + (size_t)r * d->c.n_expert, d->c.n_expert, d->c.top_k,
                     d->cpu->expert + (size_t)r * k, d->cpu->weight + (size_t)r * k);
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
    p.jobs = xmalloc((size_t)c->n_expert * 2 * sizeof *p.jobs);
    plan_experts(d, &p, n_row);

    size_t act_row = qn_packed_act_bytes(c->hidden, 1, d->o.act), mid_row;
    unsigned char *in = cpu->act + (size_t)n_row * act_row;
    QN_CHECK((size_t)(n_row + n_place) * act_row <= cpu->act_bytes);
    for (int i = 0; i < n_place; i++)
        memcpy(in + (size_t)p.place_of[i] * act_row, cpu->act + (size_t)(i / c->top_k) * act_row, act_row);
    int n_job = expert_jobs(&p, w->gate, c->n_expert, in, act_row, cpu->e_gate, p.jobs);
    n_job += expert_jobs(&p, w->up, c->n_expert, in, act_row, cpu->e_up, p.jobs + n_job);
    qn_cpu_jobs(d, p.jobs, n_job);
    silu_mul(d, cpu->e_gate, cpu->e_up, n_place, c->expert_ffn);
    for (int x = 0; d->o.observer && x < c->n_expert; x++)
        if (p.first[x + 1] > p.first[x])
            d->o.observer->rows(d->o.observer->user, w->down[x],
                                cpu->e_gate + (size_t)p.first[x] * (size_t)c->expert_ffn,
                                p.first[x + 1] - p.first[x]);
    mid_row = qn_packed_act_bytes(c->expert_ffn, 1, d->o.act);
    QN_CHECK((size_t)n_place * mid_row <= cpu->act_bytes);
    qn_cpu_prepare(d, cpu->e_gate, n_place, c->expert_ffn, cpu->act);
    n_job = expert_jobs(&p, w->down, c->n_expert, cpu->act, mid_row, cpu->e_out, p.jobs);
    qn_cpu_jobs(d, p.jobs, n_job);

    silu_mul(d, d->ff_gate, d->ff_up, n_row, w->shared_gate->n_out);
    struct qn_host_linear shared = {w->shared_down, cpu->shared};
    d->linear(d, d->ff_gate, n_row, &shared, 1);
    struct combine a = {d, &p, op->y};
    qn_cpu_rows(d, n_row, 8, combine_rows, &a);
    free(p.first);
    free(p.jobs);
}
