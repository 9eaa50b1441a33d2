/* Gated DeltaNet.
 *
 * A block has 32 columns of one head's state in registers: a quarter of the rows a warp, a column a lane. It
 * folds the lane's committed rows into the slot, then runs its rows one after the other; a decode sequence's
 * stay pending. What a lane or window keeps is written by gdn_keep, when no block reads it any more.
 * A state head is [DK][v_pad]. SPDX-License-Identifier: Apache-2.0 */
#include "backend/cuda/cuda.h"
#include "backend/cuda/packed.h"

enum { CHUNK = 16 }; /* rows whose q and k are in shared memory at a time */

struct GdnArgs {
    const View *v;          /* or NULL: flush */
    struct qn_step_seq one; /* flush: slot, lane, n_commit; no rows */
    float *slots, *lanes;   /* of this layer */
    size_t slot_floats, lane_floats;
    float *u, *conv, *alpha, *beta, *o; /* [rows, ...] */
    const float *taps, *a_log, *dt_bias;
    int first_seq, n_seq, n_decode;
    Shape s;
};
DEV const qn_step_seq &sequence(const GdnArgs &a, int i)
{
    return a.v ? a.v->seq[a.first_seq + i] : a.one;
}

/* Pieces of a lane and of a slot. */
struct LaneRows {
    float *u, *k, *delta, *alpha;
};
DEV LaneRows lane_rows(const GdnArgs &a, int lane)
{
    LaneRows l;
    l.u = a.lanes + (size_t)lane * a.lane_floats;
    l.k = l.u + QN_LANE_ROWS * a.s.cd;
    l.delta = l.k + QN_LANE_ROWS * a.s.kd;
    l.alpha = l.delta + QN_LANE_ROWS * a.s.n_v_head * a.s.v_pad;
    return l;
}
DEV float *window(const GdnArgs &a, int slot)
{
    return a.slots + (size_t)slot * a.slot_floats + (size_t)a.s.n_v_head * a.s.k_dim * a.s.v_pad;
}
/* Input `back` (1..taps-1) before the first row of the step, after the commit. */
DEV float before(const GdnArgs &a, const qn_step_seq &q, int back, int ch)
{
    if (q.is_fresh) return 0;
    if (back <= q.n_commit) return lane_rows(a, q.lane).u[(size_t)(q.n_commit - back) * a.s.cd + ch];
    return window(a, q.slot)[(size_t)(a.s.taps - 1 - (back - q.n_commit)) * a.s.cd + ch];
}

/* A block: a row and one head of q or k (convolved, SiLU, brought to length 1), one head of v, or the gates.
 */
__global__ void gdn_prepare(GdnArgs a)
{
    SHARED(float, place);
    const Shape &c = a.s;
    int row = (int)blockIdx.x, head = (int)blockIdx.y;
    const qn_step_seq &q = a.v->seq[a.v->row_seq[row]];
    int r = row - q.first_row, n_kv = 2 * c.n_k_head + c.n_v_head;
    if (head == n_kv) {
        for (int j = threadIdx.x; j < c.n_v_head; j += blockDim.x) {
            size_t at = (size_t)row * c.n_v_head + j;
            a.beta[at] = dev_sigmoid(a.beta[at]);
            a.alpha[at] = dev_exp(-dev_exp(a.a_log[j]) * dev_softplus(a.alpha[at] + a.dt_bias[j]));
        }
        return;
    }
    bool is_v = head >= 2 * c.n_k_head;
    int n = is_v ? c.v_dim : c.k_dim;
    int first =
        is_v ? 2 * c.kd + (head - 2 * c.n_k_head) * c.v_dim : head * c.k_dim; /* q heads, then k heads */
    float sum = 0;
    float *to = a.conv + (size_t)row * c.cd;
    for (int i = threadIdx.x; i < n; i += blockDim.x) {
        int ch = first + i;
        float x = 0;
        for (int t = 0; t < c.taps; t++) { /* tap t meets the row taps - 1 - t back */
            int at = r - (c.taps - 1) + t;
            x += a.taps[(size_t)ch * c.taps + t] *
                 (at >= 0 ? a.u[(size_t)(q.first_row + at) * c.cd + ch] : before(a, q, -at, ch));
        }
        x = dev_silu(x);
        sum = fmaf(x, x, sum);
        to[ch] = x;
    }
    if (is_v) return;
    float f =
        (head < c.n_k_head ? 1.0f / sqrtf((float)c.k_dim) : 1.0f) / sqrtf(block_sum(sum, place) + 1e-6f);
    for (int i = threadIdx.x; i < n; i += blockDim.x) to[first + i] *= f;
}

template <int D> __global__ void __launch_bounds__(128) gdn_kernel(GdnArgs a)
{
    enum { R = D / 4 };
    SHARED(float, key);              /* [CHUNK][D] */
    float *query = key + CHUNK * D;  /* [CHUNK][D] */
    float *part = query + CHUNK * D; /* [2][4][32] */
    const Shape &c = a.s;
    int seq = (int)blockIdx.x / c.n_v_head, head = (int)blockIdx.x % c.n_v_head,
        g = c.is_tiled ? head % c.n_k_head : head / (c.n_v_head / c.n_k_head); /* qn_config_key_head */
    int col = (int)blockIdx.y * 32 + LANE, r0 = WARP * R, dk = c.k_dim;
    const qn_step_seq q = sequence(a, seq);
    bool is_decode = a.v && a.first_seq + seq < a.n_decode;
    float *state = a.slots + (size_t)q.slot * a.slot_floats + (size_t)head * dk * c.v_pad, s[R];
    const LaneRows l = lane_rows(a, q.lane);
#pragma unroll
    for (int r = 0; r < R; r++)
        s[r] = q.is_fresh || r0 + r >= dk ? 0 : state[(size_t)(r0 + r) * c.v_pad + col];
    for (int i = 0; i < q.n_commit; i++) {
        float alpha = l.alpha[i * c.n_v_head + head];
        float delta = l.delta[((size_t)i * c.n_v_head + head) * c.v_pad + col];
#pragma unroll
        for (int r = 0; r < R; r++) {
            float k = r0 + r < dk ? l.k[(size_t)i * c.kd + g * dk + r0 + r] : 0;
            s[r] = fmaf(k, delta, alpha * s[r]);
        }
    }
    if (is_decode && (q.n_commit || q.is_fresh))
#pragma unroll
        for (int r = 0; r < R; r++)
            if (r0 + r < dk) state[(size_t)(r0 + r) * c.v_pad + col] = s[r];
    for (int i0 = 0; i0 < q.n_row; i0 += CHUNK) {
        int n = q.n_row - i0 < CHUNK ? q.n_row - i0 : CHUNK;
        __syncthreads(); /* also: everybody has read the lane before it is written below */
        for (int i = threadIdx.x; i < n * D; i += 128) {
            const float *u = a.conv + (size_t)(q.first_row + i0 + i / D) * c.cd + g * dk + i % D;
            query[i] = i % D < dk ? u[0] : 0;
            key[i] = i % D < dk ? u[c.kd] : 0;
        }
        __syncthreads();
        for (int i = 0; i < n; i++) {
            int row = q.first_row + i0 + i;
            const float *k = key + i * D + r0, *qu = query + i * D + r0;
            float alpha = a.alpha[(size_t)row * c.n_v_head + head],
                  beta = a.beta[(size_t)row * c.n_v_head + head];
            float m[4] = {}, o[4] = {};
#pragma unroll
            for (int r = 0; r < R; r++) m[r & 3] = fmaf(s[r], k[r], m[r & 3]);
            part[WARP * 32 + LANE] = (m[0] + m[1]) + (m[2] + m[3]);
            __syncthreads();
            float sum = (part[LANE] + part[32 + LANE]) + (part[64 + LANE] + part[96 + LANE]);
            bool is_in = col < c.v_dim;
            float v = is_in ? a.conv[(size_t)row * c.cd + 2 * c.kd + head * c.v_dim + col] : 0;
            float delta = beta * (v - alpha * sum);
#pragma unroll
            for (int r = 0; r < R; r++) {
                s[r] = fmaf(k[r], delta, alpha * s[r]);
                o[r & 3] = fmaf(s[r], qu[r], o[r & 3]);
            }
            part[128 + WARP * 32 + LANE] = (o[0] + o[1]) + (o[2] + o[3]);
            __syncthreads();
            if (WARP) continue;
            const float *t = part + 128 + LANE;
            if (is_in)
                a.o[((size_t)row * c.n_v_head + head) * c.v_dim + col] = (t[0] + t[32]) + (t[64] + t[96]);
            if (is_decode) l.delta[((size_t)i * c.n_v_head + head) * c.v_pad + col] = delta;
        }
    }
    if (!is_decode)
#pragma unroll
        for (int r = 0; r < R; r++)
            if (r0 + r < dk) state[(size_t)(r0 + r) * c.v_pad + col] = s[r];
}

/* Windows, and of decode sequences inputs, keys and decays of their rows. A block a sequence and some
 * channels. */
__global__ void gdn_keep(GdnArgs a)
{
    const Shape &c = a.s;
    const qn_step_seq &q = sequence(a, (int)blockIdx.y);
    bool is_decode = a.v && a.first_seq + (int)blockIdx.y < a.n_decode;
    int ch = (int)(blockIdx.x * blockDim.x + threadIdx.x), keep = c.taps - 1;
    const LaneRows l = lane_rows(a, q.lane);
    if (ch >= c.cd) return;
    float last[8];                      /* taps <= 9 */
    int rows = is_decode ? 0 : q.n_row; /* that the window goes on by */
#pragma unroll
    for (int i = 0; i < 8; i++) { /* oldest first: keep - i before its end */
        int at = rows - keep + i;
        if (i < keep) last[i] = at >= 0 ? a.u[(size_t)(q.first_row + at) * c.cd + ch] : before(a, q, -at, ch);
    }
    float *w = window(a, q.slot);
#pragma unroll
    for (int i = 0; i < 8; i++)
        if (i < keep) w[(size_t)i * c.cd + ch] = last[i];
    if (!is_decode) return;
    for (int i = 0; i < q.n_row; i++) {
        size_t row = (size_t)(q.first_row + i);
        l.u[(size_t)i * c.cd + ch] = a.u[row * c.cd + ch];
        if (ch < c.kd) l.k[(size_t)i * c.kd + ch] = a.conv[row * c.cd + c.kd + ch];
        if (ch < c.n_v_head) l.alpha[i * c.n_v_head + ch] = a.alpha[row * c.n_v_head + ch];
    }
}

/* norm over a head, times its weight and gate; a block a (row, head); packed by pairs */
__global__ void gdn_norm(const float *o, const float *z, const float *w, Shape c, float *out)
{
    SHARED(float, place);
    size_t head = (size_t)blockIdx.x * c.v_dim;
    float sum = 0;
    for (int i = threadIdx.x; i < c.v_dim; i += blockDim.x) sum = fmaf(o[head + i], o[head + i], sum);
    float f = 1.0f / sqrtf(block_sum(sum, place) / (float)c.v_dim + c.eps);
    for (int i = threadIdx.x; i < c.v_dim; i += blockDim.x) {
        float gate = c.is_sigmoid_gate ? dev_sigmoid(z[head + i]) : dev_silu(z[head + i]);
        out[head + i] = o[head + i] * f * w[i] * gate;
    }
}
__global__ void pack_kernel(const float *x, int n, uint32_t *xp, int parts)
{
    int row = (int)blockIdx.x, k64 = (n + 63) / 64, k = 2 * (int)(blockIdx.y * blockDim.x + threadIdx.x);
    if (k >= k64 * 64) return;
    const float *own = x + (size_t)row * n;
    packed_store(xp, k64 * 4, parts, row, k, k < n ? own[k] : 0, k + 1 < n ? own[k + 1] : 0);
}

/* ------------------------------------------------ host
 * ------------------------------------------------------ */
static GdnArgs gdn_args(const struct qn_device *d, int layer)
{
    GdnArgs a = {};
    a.slots = (float *)d->slots + (size_t)layer * d->state_floats;
    a.lanes = (float *)d->lanes + (size_t)layer * d->lane_floats;
    a.slot_floats = d->sizes.slot_bytes / 4;
    a.lane_floats = d->sizes.lane_bytes / 4;
    a.u = d->u, a.conv = d->conv, a.alpha = d->alpha, a.beta = d->beta, a.o = d->o_gdn;
    a.s = d->s;
    return a;
}

void cu_gdn_in(struct qn_device *d, const struct qn_step *s, const struct qn_op_gdn_in *op)
{
    const struct qn_gdn_weights *w = &op->w->gdn;
    const struct Shape *c = &d->s;
    struct Job jobs[] = {{w->qkv, d->u}, {w->z, d->z}, {w->b, d->beta}, {w->a, d->alpha}};
    if (!s->n_row) return;
    cu_add_norm(d, s, op->x, op->y, op->w->input_norm, d->xp, NULL);
    cu_linear(d, d->xp, s->n_row, jobs, 4);
    GdnArgs a = gdn_args(d, op->gdn_layer);
    a.v = cu_view(d, s);
    a.taps = w->conv, a.a_log = w->a_log, a.dt_bias = w->dt_bias;
    CU_LAUNCH(d, gdn_prepare, dim3((unsigned)s->n_row, (unsigned)(2 * c->n_k_head + c->n_v_head + 1)),
              dim3(c->k_dim <= 32 && c->v_dim <= 32 ? 32 : 128), 64, a);
}

static void run(struct qn_device *d, const GdnArgs &a, int n_seq)
{
    const struct Shape *c = &d->s;
    dim3 grid((unsigned)(n_seq * c->n_v_head), (unsigned)(c->v_pad / 32));
    int dk = c->k_dim;
    size_t smem = (size_t)(2 * CHUNK * (dk <= 32 ? 32 : dk <= 64 ? 64 : 128) + 256) * sizeof(float);
    if (dk <= 32)
        CU_LAUNCH(d, gdn_kernel<32>, grid, dim3(128), smem, a);
    else if (dk <= 64)
        CU_LAUNCH(d, gdn_kernel<64>, grid, dim3(128), smem, a);
    else
        CU_LAUNCH(d, gdn_kernel<128>, grid, dim3(128), smem, a);
    unsigned threads = cu_threads(c->cd);
    CU_LAUNCH(d, gdn_keep, dim3((unsigned)QN_CEIL_DIV(c->cd, (int)threads), (unsigned)n_seq), dim3(threads),
              0, a);
}

void cu_gdn(struct qn_device *d, const struct qn_step *s, const struct qn_op_gdn *op)
{
    GdnArgs a = gdn_args(d, op->gdn_layer);
    a.v = cu_view(d, s);
    a.first_seq = op->first;
    a.n_seq = op->n_seq;
    a.n_decode = s->n_decode;
    run(d, a, op->n_seq);
}

void cu_gdn_out(struct qn_device *d, const struct qn_step *s, const struct qn_op_gdn_out *op)
{
    const struct Shape *c = &d->s;
    if (!s->n_row) return;
    CU_LAUNCH(d, gdn_norm, dim3((unsigned)(s->n_row * c->n_v_head)), dim3(c->v_dim <= 32 ? 32 : 128), 64,
              d->o_gdn, d->z, op->w->gdn.norm, *c, d->o_gdn);
    unsigned threads = cu_threads(c->vd);
    CU_LAUNCH(d, pack_kernel,
              dim3((unsigned)s->n_row, (unsigned)QN_CEIL_DIV(cu_k64(c->vd) * 32, (int)threads)),
              dim3(threads), 0, d->o_gdn, c->vd, d->xp, d->s.parts);
    struct Job job = {op->w->gdn.out, op->y};
    cu_linear(d, d->xp, s->n_row, &job, 1);
}

__global__ void carry_flush(const float *lane_hidden, float *carry, int n)
{
    for (int k = threadIdx.x; k < n; k += blockDim.x) carry[k] = lane_hidden[k];
}

void cu_state_flush(struct qn_device *d, int slot, int lane, int n_commit)
{
    if (!n_commit) return;
    for (int layer = 0; layer < d->c.n_gdn; layer++) {
        GdnArgs a = gdn_args(d, layer);
        a.one.slot = slot, a.one.lane = lane, a.one.n_commit = n_commit;
        run(d, a, 1);
    }
    if (!d->o.has_mtp) return;
    const float *hidden = (const float *)(d->lanes + (size_t)lane * d->sizes.lane_bytes) +
                          (size_t)d->c.n_gdn * d->lane_floats + (size_t)(n_commit - 1) * (size_t)d->s.hidden;
    float *carry =
        (float *)(d->slots + (size_t)slot * d->sizes.slot_bytes) + (size_t)d->c.n_gdn * d->state_floats;
    CU_LAUNCH(d, carry_flush, dim3(1), dim3(cu_threads(d->s.hidden)), 0, hidden, carry, d->s.hidden);
}
