/* SwiGLU, and the mixture of experts.
 *
 * Pairs (row, choice) are sorted by expert, by one block; items of up to 8 pairs of one expert are what the
 * grouped products run over. Outputs go back to their pair and are added in router order.
 * SPDX-License-Identifier: Apache-2.0 */
#include "backend/cuda/cuda.h"
#include "backend/cuda/math.h"

static void swiglu(struct qn_device *d, int n_row, const struct qn_weight *gate, const struct qn_weight *up,
                   const struct qn_weight *down, float *y)
{
    struct Job two[] = {{gate, d->ff_gate}, {up, d->ff_up}}, last = {down, y};
    cu_linear(d, d->xp, n_row, two, 2);
    cu_silu(d, d->ff_gate, d->ff_up, n_row, gate->w.n_out, d->xp2, NULL);
    cu_linear(d, d->xp2, n_row, &last, 1);
}

void cu_mlp(struct qn_device *d, const struct qn_step *s, const struct qn_op_ffn *op)
{
    const struct qn_mlp_weights *w = &op->w->mlp;
    if (!s->n_row) return;
    cu_add_norm(d, s, op->x, op->y, op->w->post_norm, d->xp, NULL);
    swiglu(d, s->n_row, w->gate, w->up, w->down, op->y);
}

/* A number that grows with x, the least for NaN. */
DEV uint32_t order_of(float x)
{
    uint32_t u = float_bits(x);
    if ((u & 0x7fffffff) > 0x7f800000) return 0;
    if (u == 0x80000000) u = 0; /* equal zeros */
    return u >> 31 ? ~u : u | 0x80000000;
}

/* A warp a row: the k largest, lowest id first among equals, and their softmax. */
__global__ void route_kernel(const View *v, const float *logits, int n_expert, int top_k,
                             int32_t *pair_expert, float *pair_weight)
{
    int row = (int)blockIdx.x;
    const float *x = logits + (size_t)row * n_expert;
    bool stands = v->row_seq[row] >= 0;
    uint64_t taken = 0; /* of this lane's experts, lane + 32 i */
    float first = 0, sum = 0, own = 0;
    for (int k = 0; k < top_k; k++) {
        uint32_t best = 0;
        int at = -1;
        for (int i = 0, e = LANE; e < n_expert; e += 32, i++) {
            uint32_t o = order_of(x[e]);
            if (taken >> i & 1 || (at >= 0 && o <= best)) continue;
            best = o, at = e;
        }
        for (int m = 16; m; m >>= 1) {
            uint32_t other = shfl_xor_u(best, m);
            int id = (int)shfl_xor_u((uint32_t)at, m);
            if (id >= 0 && (at < 0 || other > best || (other == best && id < at))) best = other, at = id;
        }
        if ((at & 31) == LANE) taken |= (uint64_t)1 << (at >> 5);
        if (!k) first = x[at];
        float w = dev_exp(x[at] - first);
        sum += w;
        if (LANE == k) own = w;
        if (!LANE) pair_expert[row * top_k + k] = stands ? at : -1;
    }
    if (LANE < top_k) pair_weight[row * top_k + LANE] = own / sum;
}

/* One block. items: [0] their number, [1] pairs in all, then from [4] on (expert, first place, places, 0). */
__global__ void sort_kernel(const int32_t *pair_expert, int n_pair, int n_expert, int32_t *pair_of,
                            int32_t *items)
{
    SHARED(int32_t, count); /* [n_expert], then first places, then first items */
    int32_t *first = count + n_expert, *item = first + n_expert;
    for (int e = threadIdx.x; e < n_expert; e += blockDim.x) {
        int n = 0;
        for (int i = 0; i < n_pair; i++) n += pair_expert[i] == e;
        count[e] = n;
    }
    __syncthreads();
    if (!threadIdx.x) {
        int at = 0, n = 0;
        for (int e = 0; e < n_expert; e++) {
            first[e] = at, item[e] = n;
            at += count[e], n += (count[e] + ITEM_ROWS - 1) / ITEM_ROWS;
        }
        items[0] = n, items[1] = at;
    }
    __syncthreads();
    for (int e = threadIdx.x; e < n_expert; e += blockDim.x) {
        int at = first[e], n = 0;
        if (!count[e]) continue;
        for (int i = 0; i < n_pair; i++)
            if (pair_expert[i] == e) pair_of[at + n++] = i;
        for (int i = 0; i * ITEM_ROWS < n; i++) {
            int32_t *to = items + 4 + 4 * (item[e] + i);
            to[0] = e, to[1] = at + i * ITEM_ROWS;
            to[2] = n - i * ITEM_ROWS < ITEM_ROWS ? n - i * ITEM_ROWS : ITEM_ROWS;
        }
    }
}

/* y = sum over choices of weight * out, in their order, + sigmoid(mix) * shared */
__global__ void combine_kernel(const int32_t *pair_expert, const float *pair_weight, const float *out,
                               int top_k, const float *shared, const float *mix, int n, float *y)
{
    int row = (int)blockIdx.x, k = (int)(blockIdx.y * blockDim.x + threadIdx.x);
    if (k >= n) return;
    float sum = 0;
    for (int i = 0; i < top_k; i++) {
        int pair = row * top_k + i;
        if (pair_expert[pair] >= 0) sum += pair_weight[pair] * out[(size_t)pair * n + k];
    }
    y[(size_t)row * n + k] = sum + dev_sigmoid(mix[row]) * shared[(size_t)row * n + k];
}

/* --- host --- */
struct Experts { /* of a layer */
    struct Experts *next;
    DevWeight *gate, *up, *down; /* on the device, [n_expert] */
    unsigned in_formats, out_formats;
};

static DevWeight *upload_experts(struct qn_device *d, struct qn_weight *const *w, unsigned *formats)
{
    size_t n = (size_t)d->s.n_expert;
    DevWeight *all = (DevWeight *)malloc(n * sizeof *all), *to = (DevWeight *)cu_take(d, n * sizeof *all);
    QN_CHECK(all);
    for (size_t i = 0; i < n; i++) {
        all[i] = w[i]->w;
        *formats |= 1u << all[i].stored;
    }
    if (!to)
        cu_ok(d, cudaErrorMemoryAllocation, "a table of experts");
    else if (cu_ok(d, cudaMemcpyAsync(to, all, n * sizeof *all, cudaMemcpyHostToDevice, d->stream),
                   "experts"))
        cu_ok(d, cudaStreamSynchronize(d->stream), "experts");
    free(all);
    return to;
}

static const struct Experts *experts_of(struct qn_device *d, const struct qn_moe_weights *m)
{
    struct qn_weight *key = m->gate[0];
    if (key->experts) return key->experts;
    struct Experts *x = (struct Experts *)calloc(1, sizeof *x);
    QN_CHECK(x);
    x->gate = upload_experts(d, m->gate, &x->in_formats);
    x->up = upload_experts(d, m->up, &x->in_formats);
    x->down = upload_experts(d, m->down, &x->out_formats);
    x->next = d->experts;
    d->experts = x;
    return key->experts = x;
}

void cu_experts_free(struct qn_device *d)
{
    for (struct Experts *x = d->experts, *next; x; x = next) {
        next = x->next;
        free(x);
    }
}

void cu_moe(struct qn_device *d, const struct qn_step *s, const struct qn_op_ffn *op)
{
    const struct qn_moe_weights *w = &op->w->moe;
    const struct Shape *c = &d->s;
    int n_row = s->n_row, n_pair = n_row * c->top_k, n_expert = c->n_expert;
    if (!n_row) return;
    const struct Experts *x = experts_of(d, w);
    if (d->fault) return;
    int inner = w->gate[0]->w.n_out;
    cu_add_norm(d, s, op->x, op->y, op->w->post_norm, d->xp, NULL);
    struct Job first[] = {{w->router, d->router}, {w->shared_mix, d->mix}};
    cu_linear(d, d->xp, n_row, first, 2);
    swiglu(d, n_row, w->shared_gate, w->shared_up, w->shared_down, d->shared_out);
    CU_LAUNCH(d, route_kernel, dim3((unsigned)n_row), dim3(32), 0, cu_view(d, s), d->router, n_expert,
              c->top_k, d->pair_expert, d->pair_weight);
    CU_LAUNCH(d, sort_kernel, dim3(1), dim3((unsigned)QN_MIN(512, QN_ROUND_UP(n_expert, 32))),
              (size_t)n_expert * 3 * sizeof(int32_t), d->pair_expert, n_pair, n_expert, d->pair_of, d->items);
    struct Grouped g = {
        x->gate,  d->items + 4, d->items,   d->pair_of, QN_MIN(n_expert, n_pair) + n_pair / ITEM_ROWS,
        c->top_k, false,        d->ff_gate, false,      x->in_formats};
    cu_grouped(d, d->xp, &g, inner, c->hidden);
    g.w = x->up;
    g.y = d->ff_up;
    cu_grouped(d, d->xp, &g, inner, c->hidden);
    cu_silu(d, d->ff_gate, d->ff_up, n_pair, inner, d->xp2, d->items + 1);
    g = (struct Grouped){x->down,  d->items + 4, d->items,  d->pair_of, g.max_items,
                         c->top_k, true,         d->ff_out, true,       x->out_formats};
    cu_grouped(d, d->xp2, &g, c->hidden, inner);
    unsigned threads = cu_threads(c->hidden);
    CU_LAUNCH(d, combine_kernel, dim3((unsigned)n_row, (unsigned)QN_CEIL_DIV(c->hidden, (int)threads)),
              dim3(threads), 0, d->pair_expert, d->pair_weight, d->ff_out, c->top_k, d->shared_out, d->mix,
              c->hidden, op->y);
}
