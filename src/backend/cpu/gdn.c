/* Gated DeltaNet on the CPU.
 *
 * A state head is [dv_pad / 16][DK][16]: tiles of 16 columns, which never meet. A tile (8 KiB at DK 128)
 * stays in the first-level cache while all rows of a sequence go through it, in prefill as in decode.
 * SPDX-License-Identifier: Apache-2.0 */
#include <math.h>

#include "backend/cpu/cpu.h"
#include "base/mem.h"

/* [CD][taps] -> [taps][CD], once a layer */
static const float *taps_of(struct qn_device *d, const struct qn_op_gdn_in *op)
{
    float **t = &d->cpu->conv[op->gdn_layer];
    int n_tap = d->c.conv_taps;
    if (!*t) {
        *t = xmalloc((size_t)n_tap * d->cd * sizeof **t);
        for (int ch = 0; ch < d->cd; ch++)
            for (int j = 0; j < n_tap; j++)
                (*t)[(size_t)j * d->cd + ch] = op->w->gdn.conv[(size_t)ch * n_tap + j];
    }
    return *t;
}

#define FEW_ROWS 16 /* at most: cut by channels, with the windows; above: by rows */
#define PART_SIZE                                                                                            \
    1024 /* channels of a part, at least: it is ten streams of memory, long ones are read faster */

struct in {
    struct qn_device *d;
    const struct qn_step *s;
    const struct qn_op_gdn_in *op;
    const float *taps;
    int part; /* channels, whole heads */
};

/* Convolution and unit vectors of channels [ch, ch + n) of a row: whole heads of q and k. */
static void convolve(const struct in *a, int r, int ch, int n)
{
    struct qn_device *d = a->d;
    const struct qn_config *c = &d->c;
    const struct qn_kern *k = d->cpu->k;
    const struct qn_step_seq *seq = &a->s->seq[a->s->row_seq[r]];
    int n_tap = c->conv_taps;
    const float *row[16], *tap[16];
    for (int j = 0; j < n_tap; j++) {
        row[j] = qn_ref_window_row(d, seq, a->op->gdn_layer, r - seq->first_row - (n_tap - 1) + j) + ch;
        tap[j] = a->taps + (size_t)j * d->cd + ch;
    }
    float *out = d->conv + (size_t)r * d->cd;
    k->conv(out + ch, row, tap, n_tap, n);
    for (int at = ch; at < QN_MIN(ch + n, 2 * d->kd); at += c->k_dim)
        k->unit(out + at, c->k_dim, at < d->kd ? 1.0f / sqrtf((float)c->k_dim) : 1.0f);
}

static void gates(const struct in *a, int r)
{
    const struct qn_device *d = a->d;
    int n = d->c.n_v_head;
    for (int j = 0; j < n; j++) {
        float *beta = &d->beta[(size_t)r * n + j], *alpha = &d->alpha[(size_t)r * n + j];
        *beta = qn_sigmoid(*beta);
        *alpha = qn_ref_alpha(*alpha, a->op->w->gdn.a_log[j], a->op->w->gdn.dt_bias[j]);
    }
}

/* Many rows: the windows are read only. */
static void in_rows(void *ctx, int first, int n, int thread)
{
    (void)thread;
    struct in *a = ctx;
    for (int r = first; r < first + n; r++) {
        convolve(a, r, 0, a->d->cd);
        gates(a, r);
    }
}

/* Few rows: a part of the channels, from the old windows to the new ones; or, first, the gates. */
static void in_part(void *ctx, int item, int thread)
{
    (void)thread;
    struct in *a = ctx;
    int ch = (item - 1) * a->part, n = QN_MIN(a->part, a->d->cd - ch);
    if (item == 0) {
        for (int r = 0; r < a->s->n_row; r++) gates(a, r);
        return;
    }
    for (int q = 0; q < a->s->n_seq; q++) qn_ref_window_begin(a->d, &a->s->seq[q], a->op->gdn_layer, ch, n);
    for (int r = 0; r < a->s->n_row; r++) convolve(a, r, ch, n);
    for (int q = 0; q < a->s->n_seq; q++) qn_ref_window_end(a->d, a->s, q, a->op->gdn_layer, ch, n);
}

void qn_cpu_gdn_in(struct qn_device *d, const struct qn_step *s, const struct qn_op_gdn_in *op)
{
    const struct qn_gdn_weights *w = &op->w->gdn;
    qn_cpu_add_norm(d, op->x, op->y, op->w->input_norm, s->n_row, d->h);
    struct qn_host_linear jobs[] = {{w->qkv, d->u}, {w->z, d->z}, {w->b, d->beta}, {w->a, d->alpha}};
    d->linear(d, d->h, s->n_row, jobs, 4);
    int n_part = QN_CLAMP(d->cd / PART_SIZE, 1, qn_pool_n_thread(d->cpu->pool));
    struct in a = {d, s, op, taps_of(d, op), QN_ROUND_UP(QN_CEIL_DIV(d->cd, n_part), d->c.k_dim)};
    if (s->n_row <= FEW_ROWS) {
        qn_pool_run(d->cpu->pool, 1 + QN_CEIL_DIV(d->cd, a.part), in_part, &a);
        return;
    }
    for (int q = 0; q < s->n_seq; q++) qn_ref_window_begin(d, &s->seq[q], op->gdn_layer, 0, d->cd);
    qn_cpu_rows(d, s->n_row, 4, in_rows, &a);
    for (int q = 0; q < s->n_seq; q++) qn_ref_window_end(d, s, q, op->gdn_layer, 0, d->cd);
}

struct heads {
    struct qn_device *d;
    const struct qn_step *s;
    const struct qn_op_gdn *op;
};

/* One value head of one sequence, tile by tile. */
static void run_head(void *ctx, int item, int thread)
{
    struct heads *a = ctx;
    struct qn_device *d = a->d;
    const struct qn_config *c = &d->c;
    const struct qn_kern *kern = d->cpu->k;
    int nv = c->n_v_head, j = item % nv, q = a->op->first + item / nv, g = qn_config_key_head(c, j);
    const struct qn_step_seq *seq = &a->s->seq[q];
    bool is_decode = qn_step_is_decode(a->s, q);
    struct qn_lane lane = {0};
    if (is_decode || seq->n_commit) lane = qn_host_lane(d, seq->lane, a->op->gdn_layer);
    size_t tile_floats = (size_t)c->k_dim * 16, r0 = (size_t)seq->first_row;
    float *state = qn_host_state(d, seq->slot, a->op->gdn_layer) + (size_t)j * d->head_floats;
    float *copy = d->cpu->tile + (size_t)thread * tile_floats;
    const float *rows = d->conv + r0 * d->cd;
    for (int col = 0; col < c->v_dim; col += 16, state += tile_floats) {
        if (seq->is_fresh) memset(state, 0, tile_floats * sizeof *state);
        for (int i = 0; i < seq->n_commit; i++)
            kern->fold(state, c->k_dim, lane.alpha[(size_t)i * nv + j],
                       lane.k + (size_t)i * d->kd + (size_t)g * c->k_dim,
                       lane.delta + ((size_t)i * nv + j) * d->dv_pad + col);
        if (is_decode) memcpy(copy, state, tile_floats * sizeof *copy); /* its rows stay pending */
        struct qn_kern_delta p = {.state = is_decode ? copy : state,
                                  .dk = c->k_dim,
                                  .n_row = seq->n_row,
                                  .n_col = QN_MIN(16, c->v_dim - col),
                                  .q = rows + (size_t)g * c->k_dim,
                                  .k = rows + d->kd + (size_t)g * c->k_dim,
                                  .v = rows + 2 * d->kd + (size_t)j * c->v_dim + col,
                                  .stride = (size_t)d->cd,
                                  .alpha = d->alpha + r0 * nv + j,
                                  .beta = d->beta + r0 * nv + j,
                                  .gate_stride = (size_t)nv,
                                  .o = d->o_gdn + (r0 * nv + j) * c->v_dim + col,
                                  .o_stride = (size_t)d->vd};
        if (is_decode) {
            p.delta = lane.delta + (size_t)j * d->dv_pad + col;
            p.delta_stride = (size_t)nv * d->dv_pad;
        }
        kern->delta(&p);
    }
    for (int i = 0; is_decode && i < seq->n_row; i++)
        lane.alpha[(size_t)i * nv + j] = d->alpha[(r0 + i) * nv + j];
}

void qn_cpu_gdn(struct qn_device *d, const struct qn_step *s, const struct qn_op_gdn *op)
{
    struct heads a = {d, s, op};
    qn_pool_run(d->cpu->pool, op->n_seq * d->c.n_v_head, run_head, &a);
    for (int q = op->first; q < op->first + op->n_seq; q++) {
        if (!qn_step_is_decode(s, q)) continue;
        /* after all heads have folded with the old keys */
        const struct qn_step_seq *seq = &s->seq[q];
        struct qn_lane lane = qn_host_lane(d, seq->lane, op->gdn_layer);
        for (int i = 0; i < seq->n_row; i++)
            memcpy(lane.k + (size_t)i * d->kd, d->conv + (size_t)(seq->first_row + i) * d->cd + d->kd,
                   (size_t)d->kd * sizeof(float));
    }
}

struct out {
    struct qn_device *d;
    const struct qn_op_gdn_out *op;
};

static void out_rows(void *ctx, int first, int n, int thread)
{
    (void)thread;
    struct out *a = ctx;
    const struct qn_config *c = &a->d->c;
    for (int i = first * c->n_v_head; i < (first + n) * c->n_v_head; i++)
        a->d->cpu->k->gated_norm(a->d->o_gdn + (size_t)i * c->v_dim, a->op->w->gdn.norm,
                                 a->d->z + (size_t)i * c->v_dim, c->v_dim, c->norm_eps,
                                 c->gate_act == QN_GATE_SIGMOID);
}

void qn_cpu_gdn_out(struct qn_device *d, const struct qn_step *s, const struct qn_op_gdn_out *op)
{
    struct out a = {d, op};
    qn_cpu_rows(d, s->n_row, 4, out_rows, &a);
    struct qn_host_linear job = {op->w->gdn.out, op->y};
    d->linear(d, d->o_gdn, s->n_row, &job, 1);
}

void qn_cpu_state_flush(struct qn_device *d, int slot, int lane_index, int n_commit)
{
    const struct qn_config *c = &d->c;
    size_t tile_floats = (size_t)c->k_dim * 16;
    for (int layer = 0; layer < c->n_gdn; layer++) {
        struct qn_lane lane = qn_host_lane(d, lane_index, layer);
        for (int j = 0; j < c->n_v_head; j++)
            for (int col = 0; col < c->v_dim; col += 16)
                for (int i = 0; i < n_commit; i++)
                    d->cpu->k->fold(qn_host_state(d, slot, layer) + (size_t)j * d->head_floats +
                                        (size_t)(col / 16) * tile_floats,
                                    c->k_dim, lane.alpha[(size_t)i * c->n_v_head + j],
                                    lane.k + (size_t)i * d->kd + (size_t)qn_config_key_head(c, j) * c->k_dim,
                                    lane.delta + ((size_t)i * c->n_v_head + j) * d->dv_pad + col);
        qn_ref_window_flush(d, slot, lane_index, layer, n_commit);
    }
    if (d->o.has_mtp) qn_ref_carry_flush(d, slot, lane_index, n_commit);
}
