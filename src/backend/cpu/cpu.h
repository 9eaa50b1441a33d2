/* The CPU back end's own part of a device.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_CPU_BACKEND_H
#define QN_CPU_BACKEND_H

#include "backend/cpu/kern.h"
#include "backend/cpu/pack.h"
#include "backend/ref/ref.h"
#include "base/pool.h"

#define QN_SPLIT 1024 /* keys of an attention split: softmax within, log-sum-exp merge between, in order */

struct qn_cpu {
    struct qn_pool *pool;
    const struct qn_kern *k;
    struct qn_slab *slab; /* packed weights */
    bool has_int8;        /* a layer reads activations in 8 bits */
    unsigned char *act;   /* prepared input rows; a second block for experts behind the first */
    size_t act_bytes;
    float **conv; /* [n_gdn] taps as [taps][CD], made at first use */
    float *score; /* [n_thread][QN_ATTN_QUERIES][QN_SPLIT] */
    float *part;  /* [n_thread][QN_ATTN_QUERIES][hd rounded up to 16] */
    float *tile;  /* [n_thread][DK][16] */
    float *merge; /* split partials of a decode step */
    size_t merge_floats;
    /* experts: one place for each (row, rank), in the order of the experts */
    int *expert;          /* [rows, top_k] by row */
    float *weight;        /* [rows, top_k] */
    float *e_gate, *e_up; /* [places, I] */
    float *e_out;         /* [places, H] */
    float *mix, *shared;  /* [rows], [rows, H] */
};

/* weight.c */
int qn_cpu_weight(struct qn_device *d, const struct qn_linear *l, bool rows, struct qn_weight **out,
                  struct qn_err *e);
void qn_cpu_weights_free(struct qn_device *d);
void qn_cpu_row(const struct qn_device *d, const struct qn_weight *w, int row, float *out);

/* linear.c */
struct qn_job { /* a product with rows of its own */
    const struct qn_packed *w;
    const unsigned char *act; /* prepared rows, one after the other */
    float *y;                 /* [n_row, N] */
    int n_row;
};
/* A row [n_in] of floats -> to, as qn_cpu_prepare does. */
void qn_cpu_prepare_row(const struct qn_device *d, const float *x, int n_in, unsigned char *to);
/* Rows [n_row, n_in] of floats -> to, prepared for any packed layer of n_in inputs. */
void qn_cpu_prepare(struct qn_device *d, const float *x, int n_row, int n_in, unsigned char *to);
void qn_cpu_jobs(struct qn_device *d, const struct qn_job *jobs, int n_job);
void qn_cpu_linear(struct qn_device *d, const float *x, int n_row, const struct qn_host_linear *jobs,
                   int n_job);
/* x += y; h = norm(x) */
void qn_cpu_add_norm(struct qn_device *d, float *x, const float *y, const float *w, int n_row, float *h);
/* Runs fn over [0, n) rows, in the pool when there is enough to do. */
void qn_cpu_rows(struct qn_device *d, int n, int grain, void (*fn)(void *ctx, int first, int n, int thread),
                 void *ctx);

/* attn.c */
void qn_cpu_attn_in(struct qn_device *d, const struct qn_step *s, const struct qn_op_attn_in *op);
void qn_cpu_attn(struct qn_device *d, const struct qn_step *s, const struct qn_op_attn *op);
void qn_cpu_attn_out(struct qn_device *d, const struct qn_step *s, const struct qn_op_attn_out *op);

/* gdn.c */
void qn_cpu_gdn_in(struct qn_device *d, const struct qn_step *s, const struct qn_op_gdn_in *op);
void qn_cpu_gdn(struct qn_device *d, const struct qn_step *s, const struct qn_op_gdn *op);
void qn_cpu_gdn_out(struct qn_device *d, const struct qn_step *s, const struct qn_op_gdn_out *op);
void qn_cpu_state_flush(struct qn_device *d, int slot, int lane, int n_commit);

/* ffn.c */
void qn_cpu_mlp(struct qn_device *d, const struct qn_step *s, const struct qn_op_ffn *op);
/* As qn_ref_route, in one pass over the logits. */
void qn_cpu_route(const float *logits, int n_expert, int top_k, int *expert, float *weight);
void qn_cpu_moe(struct qn_device *d, const struct qn_step *s, const struct qn_op_ffn *op);

#endif
