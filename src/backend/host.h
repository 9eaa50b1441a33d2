/* What the two host back ends, ref and cpu, share: the device struct, the pools and their geometry.
 *
 * A slot holds, for each GDN layer, the recurrent state and the conv window, then the carry. A lane holds,
 * for each GDN layer, what the pending rows of a live sequence would change (raw conv inputs u, keys, deltas,
 * decays), then their hidden rows. A page holds K and V of each full-attention layer and of the MTP layer.
 * The inner order of a state and of a page is the back end's own; sizes are the same.
 *
 * Owned by the rank thread. SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_HOST_H
#define QN_HOST_H

#include "backend/backend.h"
#include "backend/draw.h"

#define QN_LANE_ROWS (1 + QN_MAX_DRAFT)

/* A linear layer. ref keeps floats; cpu a packed form (cpu/pack.h), or a table it reads in place. */
struct qn_weight {
    int n_out, n_in;
    float *dense;             /* [N, K] */
    struct qn_packed *packed; /* cpu */
    bool is_int8;             /* ref, of QN_ACT_INT8: its input is rounded to 8 bits */
    struct qn_linear *table;  /* cpu: rows of the checkpoint's own data */
    struct qn_weight *next;
};

struct qn_host_linear { /* one product of a group that shares its input rows */
    const struct qn_weight *w;
    float *y; /* [rows, N] */
};

struct qn_host_vector {
    struct qn_host_vector *next;
    float data[];
};

struct qn_cpu; /* cpu/cpu.h */

struct qn_device {
    struct qn_device_options o;
    struct qn_config c; /* o.config points here */
    int kd, vd, cd;     /* [KD] [VD] [CD] */
    int dv_pad;         /* DV rounded up to 16: columns of a state head */
    int n_kv_layer;     /* full-attention layers, MTP included */
    int n_tok;          /* ids that may be sampled */
    struct qn_device_sizes sizes;
    size_t kv_layer_bytes; /* of one layer in a page: K then V */
    size_t state_floats;   /* of one GDN layer in a slot: state, then conv window */
    size_t head_floats;    /* DK * dv_pad */
    size_t conv_floats;    /* (taps - 1) * CD */
    size_t lane_floats;    /* of one GDN layer in a lane */
    unsigned char *pages;  /* [n_page][page_bytes] */
    unsigned char *slots;  /* [n_slot][slot_bytes] */
    unsigned char *lanes;  /* [n_lane][lane_bytes] */
    float *inv_freq;       /* [rotary_dim / 2] */
    float rope_gain;       /* on cosines and sines: 1 but for YaRN */

    /* Scratch between paired operations, [max_rows, ...]. */
    float *scratch; /* all of it */
    size_t scratch_floats;
    float *h;               /* [rows, H] normed input */
    float *q, *gate, *attn; /* [rows, nh * hd] */
    float *qg;              /* [rows, nh * 2 * hd]; also MLP */
    float *k, *v;           /* [rows, nkv * hd] */
    float *u, *conv;        /* [rows, CD] raw and after convolution */
    float *z, *o_gdn;       /* [rows, VD] */
    float *beta, *alpha;    /* [rows, NV] */
    float *ff_gate, *ff_up; /* [rows, F] or MoE's */
    float *moe_logits;      /* [rows, E] */
    float *cat;             /* [rows, 2 H] MTP stem */

    struct qn_weight *weights; /* list of all */
    size_t weight_bytes;
    /* y = x W^T for n_job layers over the same rows, x [n_row, K]. The seam cpu replaces first. */
    void (*linear)(struct qn_device *d, const float *x, int n_row, const struct qn_host_linear *jobs,
                   int n_job);
    /* row of a table [V, H] as floats */
    void (*row)(const struct qn_device *d, const struct qn_weight *w, int row, float *out);
    const struct qn_scan *scan;
    struct qn_cpu *cpu;
    struct qn_host_vector *vectors; /* list of all */
    const struct qn_step *step;     /* between begin and sync */
    struct qn_step_result *result;
    int fault;
    char fault_text[160];
};

/* Opens and frees all that is common. */
int qn_host_open(struct qn_device **out, const struct qn_device_options *o, struct qn_err *e);
void qn_host_close(struct qn_device *d);

/* Pieces of the pools. */
static inline float *qn_host_state(const struct qn_device *d, int slot, int layer)
{
    return (float *)(d->slots + (size_t)slot * d->sizes.slot_bytes) + (size_t)layer * d->state_floats;
} /* [NV][DK * dv_pad] */
static inline float *qn_host_conv(const struct qn_device *d, int slot, int layer)
{
    return qn_host_state(d, slot, layer) + (size_t)d->c.n_v_head * d->head_floats;
} /* [taps - 1][CD], oldest first */
static inline float *qn_host_carry(const struct qn_device *d, int slot)
{
    return qn_host_state(d, slot, d->c.n_gdn);
} /* [H] */

struct qn_lane {  /* one GDN layer of a lane */
    float *u;     /* [QN_LANE_ROWS][CD] */
    float *k;     /* [QN_LANE_ROWS][KD] normalised keys */
    float *delta; /* [QN_LANE_ROWS][NV][dv_pad] */
    float *alpha; /* [QN_LANE_ROWS][NV] */
};
struct qn_lane qn_host_lane(const struct qn_device *d, int lane, int layer);
float *qn_host_lane_hidden(const struct qn_device *d, int lane); /* [QN_LANE_ROWS][H] */

static inline unsigned char *qn_host_kv(const struct qn_device *d, int page, int kv_layer)
{
    return d->pages + (size_t)page * d->sizes.page_bytes + (size_t)kv_layer * d->kv_layer_bytes;
} /* K [nkv][QN_PAGE * hd], with scales [nkv][QN_PAGE] of BF16, then V the same */

static inline bool qn_step_is_decode(const struct qn_step *s, int seq)
{
    return seq < s->n_decode;
}

/* Position of a row for the rotary embedding, axis 0..2. */
int qn_host_rope_pos(const struct qn_step *s, int row, int axis, bool is_mtp);
/* cos and sin of the first rotary_dim dims of a row: [rotary_dim / 2] each. */
void qn_host_rope(const struct qn_device *d, const struct qn_step *s, int row, bool is_mtp, float *cos_out,
                  float *sin_out);

/* Entries both tables use. Pages and slots are copied whole, whatever their inner order. */
void *qn_host_alloc(struct qn_device *d, size_t n_byte);
void qn_host_free(struct qn_device *d, void *p);
void qn_host_move(struct qn_device *d, void *to, const void *from, size_t n_byte);
int qn_host_copy(struct qn_device *d, void *to, const void *from, size_t n_byte, struct qn_err *e);
void qn_host_sizes(const struct qn_device_options *o, struct qn_device_sizes *out);
int qn_host_vector(struct qn_device *d, const float *from, size_t n, const float **out, struct qn_err *e);
void qn_host_begin(struct qn_device *d, const struct qn_step *s, struct qn_pass *pass, int n_pass,
                   struct qn_step_result *result);
int qn_host_sync(struct qn_device *d, struct qn_err *e);
void qn_host_settle(struct qn_device *d, struct qn_pass *pass, const struct qn_pass *before);
void qn_host_raw(struct qn_device *d, const struct qn_step *s, const struct qn_op_rows *op);
void qn_host_kv_copy(struct qn_device *d, const struct qn_copy *copies, int n);
void qn_host_kv_read(struct qn_device *d, int page, void *to);
void qn_host_kv_write(struct qn_device *d, int page, const void *from);
void qn_host_state_copy(struct qn_device *d, const struct qn_copy *copies, int n);
void qn_host_state_zero(struct qn_device *d, int slot);
void qn_host_state_read(struct qn_device *d, int slot, void *to);
void qn_host_state_write(struct qn_device *d, int slot, const void *from);

/* BF16 scales of a head's K or V in a page, [QN_PAGE]; NULL when the type has none. */
uint16_t *qn_host_kv_scales(const struct qn_device *d, int page, int kv_layer, int head, bool is_v);

#endif
