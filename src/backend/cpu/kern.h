/* Micro-kernels of the CPU back end: one table an instruction set, chosen when the device opens.
 *
 * They are written once (kern_body.h) over v16.h and compiled for each set. Kernels know nothing of threads,
 * steps or pages. The linear layers are pack.h.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_KERN_H
#define QN_KERN_H

#include "backend/act.h"
#include "backend/kv.h"
#include "backend/page.h"
#include "backend/scan.h"
#include "base/cpu.h"
#include "model/format.h"

/* Queries of one KV head against one page. K is [hd][QN_PAGE], V [QN_PAGE][hd]. */
struct qn_kern_attn {
    const float *const *q; /* [n_query] of [hd] */
    int n_query;           /* 1..QN_ATTN_QUERIES */
    int hd;
    const void *kv;        /* K or V of the page */
    const uint16_t *scale; /* [QN_PAGE] BF16 powers of two, of its keys; of E4M3D only */
    float *score;          /* [n_query][stride]; keys of the page start at `at` */
    int stride, at;
    int first_key;    /* V of keys before it is not read */
    const int *n_key; /* [n_query] keys of the page a query sees; V beyond the most is not read */
    float *const *o;  /* [n_query] of [hd], accumulated */
    const void *next; /* the page that is read after this one, for a fetch ahead; or NULL */
};
#define QN_ATTN_QUERIES 4

/* Rows of one tile of 16 state columns [dk][16] through the gated delta rule. Row strides in floats. */
struct qn_kern_delta {
    float *state;
    int dk, n_row, n_col;      /* n_col: columns in use, the rest are padding */
    const float *q, *k, *v;    /* v at the tile's first column */
    size_t stride;             /* of q, k, v rows */
    const float *alpha, *beta; /* at the head; gate_stride apart */
    size_t gate_stride;
    float *o; /* at the tile's first column; o_stride apart */
    size_t o_stride;
    float *delta; /* NULL, or where to keep the deltas, 16 floats, delta_stride apart */
    size_t delta_stride;
};

struct qn_kern {
    enum qn_isa isa;
    void (*add_norm)(float *x, const float *y, const float *w, int n, float eps,
                     float *h);                                                 /* y may be NULL */
    void (*norm)(const float *x, const float *w, int n, float eps, float *out); /* 1 + w */
    void (*gated_norm)(float *o, const float *w, const float *z, int n, float eps, bool is_sigmoid);
    void (*unit)(float *x, int n, float scale);                 /* x / sqrt(sum x^2 + 1e-6) * scale */
    void (*silu_mul)(float *gate, const float *up, size_t n);   /* gate = silu(gate) * up */
    void (*sigmoid_mul)(float *x, const float *gate, size_t n); /* x *= sigmoid(gate) */
    void (*gelu)(float *x, size_t n);                           /* in place, by tanh */
    void (*axpy)(float *y, const float *x, float a, size_t n);  /* y += a x */
    /* one row of activations as the packed layers read it (pack_impl.h) */
    void (*act)(void *to, const float *x, int n, enum qn_act act, bool is_pairs);
    /* out[c] = silu(sum_j tap[j][c] * row[j][c]) for channels [0, n) */
    void (*conv)(float *out, const float *const *row, const float *const *tap, int n_tap, int n);
    void (*qk[QN_N_KV])(const struct qn_kern_attn *a, float scale); /* by enum qn_kv */
    void (*pv[QN_N_KV])(const struct qn_kern_attn *a);
    /* score [n] -> exp(score - max) and their sum, in place */
    void (*softmax)(float *score, int n, float *max, float *sum);
    void (*delta)(const struct qn_kern_delta *p);
    void (*fold)(float *state, int dk, float alpha, const float *k, const float *delta); /* [dk][16] */
    struct qn_scan scan;
};

/* The table of a set, NULL when it is not compiled in. The higher ones copy the lower and overwrite. */
const struct qn_kern *qn_kern_get(enum qn_isa isa);

void qn_kern_scalar(struct qn_kern *k);
void qn_kern_avx2(struct qn_kern *k);
void qn_kern_avx512(struct qn_kern *k);
void qn_kern_neon(struct qn_kern *k);

#endif
