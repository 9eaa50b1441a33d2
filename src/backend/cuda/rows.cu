/* What works row by row: embedding, norms, gates, the rows of the vocabulary and of the draft layer's stem.
 * A block a row; the sums of a norm go in an order fixed by its width. SPDX-License-Identifier: Apache-2.0 */
#include "backend/cuda/codes.h"
#include "backend/cuda/packed.h"

/* Embeddings; 0 for a row that does not stand and for an id outside [first, first + n_id). */
__global__ void embed_kernel(const View *view, DevWeight table, int first, int n_id, float *x, float *y)
{
    const View &v = *view;
    int row = (int)blockIdx.x, n = table.n_in, tok = v.row_seq[row] < 0 ? -1 : v.tok[row] - first;
    int own = v.row_seq[row] >= 0 && v.embed_row ? v.embed_row[row] : -1;
    for (int k = threadIdx.x; k < n; k += blockDim.x) {
        float value = 0;
        if (own >= 0)
            value = v.embed[(size_t)own * n + k];
        else if (tok >= 0 && tok < n_id)
            value = code_value(table, tok, k);
        x[(size_t)row * n + k] = value;
        y[(size_t)row * n + k] = 0;
    }
}

void cu_embed(struct qn_device *d, const struct qn_step *s, const struct qn_op_embed *op)
{
    if (!s->n_row) return;
    CU_LAUNCH(d, embed_kernel, dim3((unsigned)s->n_row), dim3(cu_threads(d->s.hidden)), 0, cu_view(d, s),
              op->table->w, op->first, op->n, op->x, op->y);
}

/* 1 / sqrt(mean of squares + eps); get(k) is value k of the row */
template <class Get> DEV float norm_factor(int n, float eps, float *place, Get get)
{
    float sum = 0;
    for (int k = threadIdx.x; k < n; k += blockDim.x) sum = fmaf(get(k), get(k), sum);
    return 1.0f / sqrtf(block_sum(sum, place) / (float)n + eps);
}

/* xp or hidden: packed, or float */
__global__ void add_norm_kernel(float *x, const float *y, const float *w, int n, float eps, uint32_t *xp,
                                int parts, float *hidden)
{
    SHARED(float, place);
    int row = (int)blockIdx.x, k64 = (n + 63) / 64;
    float *own = x + (size_t)row * n;
    y += (size_t)row * n;
    for (int k = threadIdx.x; k < n; k += blockDim.x) own[k] += y[k];
    float f = norm_factor(n, eps, place, [&](int k) { return own[k]; });
    if (hidden)
        for (int k = threadIdx.x; k < n; k += blockDim.x)
            hidden[(size_t)row * n + k] = own[k] * f * (1.0f + w[k]);
    if (!xp) return;
    for (int k = 2 * (int)threadIdx.x; k < k64 * 64; k += 2 * (int)blockDim.x) {
        float a = k < n ? own[k] * f * (1.0f + w[k]) : 0,
              b = k + 1 < n ? own[k + 1] * f * (1.0f + w[k + 1]) : 0;
        packed_store(xp, k64 * 4, parts, row, k, a, b);
    }
}

void cu_add_norm(struct qn_device *d, const struct qn_step *s, float *x, const float *y, const float *w,
                 uint32_t *xp, float *hidden)
{
    CU_LAUNCH(d, add_norm_kernel, dim3((unsigned)s->n_row), dim3(cu_threads(d->s.hidden)), 64, x, y, w,
              d->s.hidden, d->s.eps, xp, d->s.parts, hidden);
}

void cu_head(struct qn_device *d, const struct qn_step *s, const struct qn_op_head *op)
{
    cu_add_norm(d, s, op->x, op->y, op->norm, NULL, op->hidden);
}

/* Wanted rows of hidden, packed; zeros for rows that do not stand. */
__global__ void gather_kernel(const View *v, const float *hidden, int first, int n, uint32_t *xp, int parts)
{
    int i = (int)blockIdx.x, row = v->logit_row[first + i], k64 = (n + 63) / 64;
    bool stands = row >= 0 && v->row_seq[row] >= 0;
    const float *h = hidden + (size_t)(stands ? row : 0) * n;
    for (int k = 2 * (int)threadIdx.x; k < k64 * 64; k += 2 * (int)blockDim.x)
        packed_store(xp, k64 * 4, parts, i, k, stands && k < n ? h[k] : 0,
                     stands && k + 1 < n ? h[k + 1] : 0);
}

void cu_logits(struct qn_device *d, const struct qn_step *s, const struct qn_op_logits *op)
{
    if (!op->n) return;
    CU_LAUNCH(d, gather_kernel, dim3((unsigned)op->n), dim3(cu_threads(d->s.hidden)), 0, cu_view(d, s),
              op->hidden, op->first, d->s.hidden, d->xp, d->s.parts);
    struct Job job = {op->head, op->logits};
    cu_linear(d, d->xp, op->n, &job, 1);
}

/* [norm(x) ; norm(hidden)], packed */
__global__ void stem_kernel(const View *v, const float *x, int n, const float *hidden, const float *carry,
                            size_t slot_floats, const float *lane_hidden, size_t lane_floats,
                            const float *norm_embed, const float *norm_hidden, float eps, uint32_t *xp,
                            int parts, float *y)
{
    SHARED(float, place);
    int row = (int)blockIdx.x, k64 = (2 * n + 63) / 64, seq = v->row_seq[row];
    const float *h = hidden;
    if (seq >= 0) {
        const struct qn_step_seq *q = &v->seq[seq];
        int from = v->hidden_row[row];
        if (from >= 0)
            h = hidden + (size_t)from * n;
        else if (q->n_commit)
            h = lane_hidden + (size_t)q->lane * lane_floats + (size_t)(q->n_commit - 1) * n;
        else
            h = carry + (size_t)q->slot * slot_floats;
    }
    auto embed = [&](int k) { return x[(size_t)row * n + k]; };
    auto own = [&](int k) { return seq >= 0 ? h[k] : 0; };
    float fe = norm_factor(n, eps, place, embed), fh = norm_factor(n, eps, place, own);
    auto value = [&](int k) {
        if (k < n) return embed(k) * fe * (1.0f + norm_embed[k]);
        return k < 2 * n ? own(k - n) * fh * (1.0f + norm_hidden[k - n]) : 0.0f;
    };
    for (int k = 2 * (int)threadIdx.x; k < k64 * 64; k += 2 * (int)blockDim.x)
        packed_store(xp, k64 * 4, parts, row, k, value(k), value(k + 1));
    for (int k = threadIdx.x; k < n; k += blockDim.x) y[(size_t)row * n + k] = 0;
}

void cu_draft_in(struct qn_device *d, const struct qn_step *s, const struct qn_op_draft_in *op)
{
    if (!s->n_row) return;
    CU_LAUNCH(d, stem_kernel, dim3((unsigned)s->n_row), dim3(cu_threads(d->s.hidden)), 64, cu_view(d, s),
              op->x, d->s.hidden, op->hidden, (const float *)d->slots + (size_t)d->c.n_gdn * d->state_floats,
              d->sizes.slot_bytes / 4, (const float *)d->lanes + (size_t)d->c.n_gdn * d->lane_floats,
              d->sizes.lane_bytes / 4, op->w->norm_embed, op->w->norm_hidden, d->s.eps, d->xp, d->s.parts,
              op->y);
    struct Job job = {op->w->fc, op->x};
    cu_linear(d, d->xp, s->n_row, &job, 1);
}

__global__ void silu_kernel(const float *gate, const float *up, int n, uint32_t *xp, int parts,
                            const int32_t *n_valid)
{
    int row = (int)blockIdx.x, k64 = (n + 63) / 64;
    if (n_valid && row >= *n_valid) return;
    const float *a = gate + (size_t)row * n, *b = up + (size_t)row * n;
    int k = 2 * (int)(blockIdx.y * blockDim.x + threadIdx.x);
    if (k >= k64 * 64) return;
    packed_store(xp, k64 * 4, parts, row, k, k < n ? dev_silu(a[k]) * b[k] : 0,
                 k + 1 < n ? dev_silu(a[k + 1]) * b[k + 1] : 0);
}

void cu_silu(struct qn_device *d, const float *gate, const float *up, int n_row, int n, uint32_t *xp,
             const int32_t *n_valid)
{
    unsigned threads = cu_threads(n);
    CU_LAUNCH(d, silu_kernel, dim3((unsigned)n_row, (unsigned)QN_CEIL_DIV(cu_k64(n) * 32, (int)threads)),
              dim3(threads), 0, gate, up, n, xp, d->s.parts, n_valid);
}
