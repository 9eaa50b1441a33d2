/* What the verdict settles, on the device: which rows of a pass stand, and the hidden rows that are kept.
 * SPDX-License-Identifier: Apache-2.0 */
#include "backend/cuda/cuda.h"
#include "backend/cuda/math.h"

/* Rows of a pass stand from the first on; of the others row_seq is -1. */
DEV void settle_first(const View &v, const Results &r, int i)
{
    qn_step_seq &q = v.seq[i];
    int n = 0, n_accepted = q.wants_token ? r.n_accepted[v.from[i]] : 0;
    bool can_draft = false;
    for (int at = q.first_row; at < q.first_row + q.n_row; at++) {
        if (v.pick[at] >= 0) {
            int tok = v.need[at] <= n_accepted ? r.token[v.pick[at]].tok : -1;
            if (tok < 0) {
                v.row_seq[at] = -1;
                continue;
            }
            v.tok[at] = tok;
            can_draft = v.need[at] == n_accepted;
        }
        n++;
    }
    q.n_row = n;
    v.lives[i] = q.wants_token && can_draft && q.n_draft_next > 0;
}

DEV void settle_next(const View &v, const View &before, const Results &r, int i)
{
    qn_step_seq &q = v.seq[i];
    int at = q.first_row, b = 0;
    while (b < before.n_seq && before.from[b] != v.from[i]) b++;
    bool stands = b < before.n_seq && before.lives[b] && q.n_draft_next > v.depth;
    v.lives[i] = stands;
    q.n_row = stands;
    if (!stands) {
        v.row_seq[at] = -1;
        return;
    }
    int row = before.seq[b].first_row + before.seq[b].n_row - 1;
    v.tok[at] = r.draft[v.from[i] * QN_MAX_DRAFT + v.depth - 1];
    v.pos[at] = before.pos[row] + 1;
    q.pos0 = v.pos[at];
    v.hidden_row[at] = row;
    for (int axis = 0; v.rope_pos && axis < 3; axis++)
        v.rope_pos[3 * at + axis] = before.rope_pos[3 * row + axis] + 1;
}

__global__ void settle_kernel(View *view, const View *before, Results r, int all_logits)
{
    const View &v = *view;
    for (int i = threadIdx.x; i < v.n_seq; i += blockDim.x) {
        if (v.depth)
            settle_next(v, *before, r, i);
        else
            settle_first(v, r, i);
    }
    __syncthreads();
    for (int i = threadIdx.x; i < v.n_logit && !all_logits; i += blockDim.x) {
        const qn_step_seq &q = v.seq[v.logit_seq[i]];
        v.logit_row[i] = v.lives[v.logit_seq[i]] ? q.first_row + q.n_row - 1 : -1;
    }
}

void cu_settle(struct qn_device *d, struct qn_pass *pass, const struct qn_pass *before)
{
    if (!pass->step.n_seq) return;
    CU_LAUNCH(d, settle_kernel, dim3(1), dim3(128), 0, cu_view(d, &pass->step),
              before ? cu_view(d, &before->step) : NULL, d->r, (int)pass->step.all_logits);
}

/* Prefill: the last hidden row into the slot. Decode: all into the lane, behind the one that is committed. */
__global__ void carry_kernel(const View *v, const float *hidden, float *carry, size_t slot_floats,
                             float *lanes, size_t lane_floats, int n)
{
    const qn_step_seq &q = v->seq[blockIdx.x];
    int k = (int)(blockIdx.y * blockDim.x + threadIdx.x);
    if (!q.wants_mtp || k >= n) return;
    float *lane = lanes + (size_t)q.lane * lane_floats + k, *own = carry + (size_t)q.slot * slot_floats + k;
    hidden += (size_t)q.first_row * n + k;
    if (q.n_commit) *own = lane[(size_t)(q.n_commit - 1) * n];
    if ((int)blockIdx.x >= v->n_decode)
        *own = hidden[(size_t)(q.n_row - 1) * n];
    else
        for (int i = 0; i < q.n_row; i++) lane[(size_t)i * n] = hidden[(size_t)i * n];
}

void cu_carry(struct qn_device *d, const struct qn_step *s, const struct qn_op_carry *op)
{
    unsigned threads = cu_threads(d->s.hidden);
    if (!s->n_seq) return;
    CU_LAUNCH(d, carry_kernel, dim3((unsigned)s->n_seq, (unsigned)QN_CEIL_DIV(d->s.hidden, (int)threads)),
              dim3(threads), 0, cu_view(d, s), op->hidden,
              (float *)d->slots + (size_t)d->c.n_gdn * d->state_floats, d->sizes.slot_bytes / 4,
              (float *)d->lanes + (size_t)d->c.n_gdn * d->lane_floats, d->sizes.lane_bytes / 4, d->s.hidden);
}
