/* What tower.c and its two arms, ref and cpu, share. SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_TOWER_IMPL_H
#define QN_TOWER_IMPL_H

#include "backend/cpu/kern.h"
#include "backend/cpu/pack.h"
#include "backend/tower.h"
#include "base/pool.h"

struct tower_norm {
    float *weight, *bias; /* [H] */
};

struct tower_linear {
    int n_out, n_in;
    float *dense;             /* [N, K], ref */
    struct qn_packed *packed; /* cpu */
    float *bias;              /* [N] */
};

struct tower_block {
    struct tower_norm norm1, norm2;
    struct tower_linear qkv, proj, fc1, fc2;
};

/* Attention of one temporal step: q, k, v in qkv [n][3H], after the bias; rope not yet applied. */
struct tower_attend {
    struct qn_tower *t;
    float *qkv;
    float *out;               /* [n][H] */
    const float *cosv, *sinv; /* [n][hd / 2] */
    int n;
};

struct qn_tower {
    int depth, hidden, n_head, hd, ffn, out, patch_in, side;
    double theta;
    float eps;
    bool is_ref;
    enum qn_act act;
    const struct qn_kern *k; /* cpu */
    struct qn_pool *pool;
    struct tower_linear patch_embed, merger_fc1, merger_fc2;
    float *pos; /* [side * side, H] */
    struct tower_block *blocks;
    struct tower_norm merger_norm;
    size_t n_byte;
};

/* Rows as the packed kernels read them. */
void qn_tower_prepare(const struct qn_tower *t, const float *x, int n_in, int n_row, void *to);

/* y = products of prepared rows; act has room for n_row rounded up to QN_AMX_ROWS (qn_tower_act_bytes). */
void qn_tower_multiply(const struct qn_tower *t, const struct qn_packed *p, const void *act, int n_row,
                       float *y, int ldy);

/* y [n_row, N] = x W^T + bias, on the calling thread. act: scratch of tower_act_bytes. */
size_t qn_tower_act_bytes(const struct qn_tower *t, int n_in, int n_row);
void qn_tower_linear(const struct qn_tower *t, const struct tower_linear *w, const float *x, int n_row,
                     float *y, void *act);

/* One step's attention over the pool. */
int qn_tower_attend_ref(const struct tower_attend *a, struct qn_err *e);
int qn_tower_attend_cpu(const struct tower_attend *a, struct qn_err *e);

/* NeoX rotation of one head in place. */
void qn_tower_rotate(float *x, int half, const float *cosv, const float *sinv);

#endif
