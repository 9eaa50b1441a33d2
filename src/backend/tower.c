/* See tower.h. Per layer: norm and qkv by chunks of rows; attention by steps; the rest by chunks of rows.
 * SPDX-License-Identifier: Apache-2.0 */
#include "backend/tower.h"

#include <math.h>

#include "backend/cpu/amx.h"
#include "backend/ref/ref.h"
#include "backend/tower_impl.h"
#include "base/mem.h"

#define CHUNK      96   /* most rows of a task */
#define GROUP_ROWS 4096 /* rows of several steps of a video that go through together */

/* --- weights --- */

static int load_vec(struct qn_tower *t, const struct qn_tensor *from, float **out, struct qn_err *e)
{
    int rc = QN_OK;
    size_t n = from->n_byte / qn_dtype_bytes(from->dtype);
    *out = try_malloc(n, sizeof **out);
    QN_FAIL_IF(!*out, e, QN_NOMEM, "no memory for %s", from->name);
    QN_TRY(qn_tensor_to_f32(from, *out, n, e));
    t->n_byte += n * sizeof **out;
out:
    return rc;
}

static int load_norm(struct qn_tower *t, const struct qn_vision_norm *from, struct tower_norm *out,
                     struct qn_err *e)
{
    int rc = QN_OK;
    QN_TRY(load_vec(t, &from->weight, &out->weight, e));
    QN_TRY(load_vec(t, &from->bias, &out->bias, e));
out:
    return rc;
}

static int load_linear(struct qn_tower *t, const struct qn_vision_linear *from, struct tower_linear *out,
                       struct qn_err *e)
{
    int rc = QN_OK;
    size_t n = (size_t)from->l.n_out * (size_t)from->l.n_in;
    out->n_out = from->l.n_out;
    out->n_in = from->l.n_in;
    QN_TRY(load_vec(t, &from->bias, &out->bias, e));
    if (!t->is_ref) {
        QN_TRY(qn_packed_make(&out->packed, &from->l, t->act, t->k->isa, NULL, e));
        t->n_byte += qn_packed_bytes(out->packed);
        goto out;
    }
    out->dense = try_malloc(n, sizeof *out->dense);
    QN_FAIL_IF(!out->dense, e, QN_NOMEM, "no memory for %s", from->l.name);
    QN_TRY(qn_linear_rows(&from->l, 0, out->n_out, out->dense, e));
    t->n_byte += n * sizeof *out->dense;
out:
    return rc;
}

static int load_block(struct qn_tower *t, const struct qn_vision_block *from, struct tower_block *b,
                      struct qn_err *e)
{
    int rc = QN_OK;
    QN_TRY(load_norm(t, &from->norm1, &b->norm1, e));
    QN_TRY(load_norm(t, &from->norm2, &b->norm2, e));
    QN_TRY(load_linear(t, &from->qkv, &b->qkv, e));
    QN_TRY(load_linear(t, &from->proj, &b->proj, e));
    QN_TRY(load_linear(t, &from->fc1, &b->fc1, e));
    QN_TRY(load_linear(t, &from->fc2, &b->fc2, e));
out:
    return rc;
}

int qn_tower_open(struct qn_tower **out, const struct qn_vision *v, const struct qn_tower_options *o,
                  struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_tower *t = xcalloc(1, sizeof *t);
    *t = (struct qn_tower){.depth = v->depth,
                           .hidden = v->hidden,
                           .n_head = v->n_head,
                           .hd = v->hidden / v->n_head,
                           .ffn = v->ffn,
                           .out = v->out,
                           .patch_in = v->patch_in,
                           .side = v->side,
                           .theta = v->theta,
                           .eps = v->eps,
                           .is_ref = o->is_ref,
                           .act = o->act == QN_ACT_INT8 ? QN_ACT_BF16 : o->act};
    t->k = qn_kern_get(qn_cpu_isa());
    t->pool = qn_pool_create(o->n_thread);
    t->blocks = xcalloc((size_t)t->depth, sizeof *t->blocks);
    QN_TRY(load_linear(t, &v->patch_embed, &t->patch_embed, e));
    QN_TRY(load_vec(t, &v->pos, &t->pos, e));
    for (int i = 0; i < t->depth; i++) QN_TRY(load_block(t, &v->blocks[i], &t->blocks[i], e));
    QN_TRY(load_norm(t, &v->merger_norm, &t->merger_norm, e));
    QN_TRY(load_linear(t, &v->merger_fc1, &t->merger_fc1, e));
    QN_TRY(load_linear(t, &v->merger_fc2, &t->merger_fc2, e));
    *out = t;
    t = NULL;
out:
    qn_tower_close(t);
    return rc;
}

static void free_linear(struct tower_linear *l)
{
    free(l->dense);
    qn_packed_free(l->packed);
    free(l->bias);
}

static void free_norm(struct tower_norm *n)
{
    free(n->weight);
    free(n->bias);
}

void qn_tower_close(struct qn_tower *t)
{
    if (!t) return;
    for (int i = 0; i < t->depth; i++) {
        struct tower_block *b = &t->blocks[i];
        free_norm(&b->norm1);
        free_norm(&b->norm2);
        free_linear(&b->qkv);
        free_linear(&b->proj);
        free_linear(&b->fc1);
        free_linear(&b->fc2);
    }
    free(t->blocks);
    free_linear(&t->patch_embed);
    free_linear(&t->merger_fc1);
    free_linear(&t->merger_fc2);
    free_norm(&t->merger_norm);
    free(t->pos);
    qn_pool_free(t->pool);
    free(t);
}

size_t qn_tower_bytes(const struct qn_tower *t)
{
    return t->n_byte;
}

/* --- pieces --- */

size_t qn_tower_act_bytes(const struct qn_tower *t, int n_in, int n_row)
{
    return t->is_ref ? (size_t)n_in * sizeof(float)
                     : qn_packed_act_bytes(n_in, QN_ROUND_UP(n_row, QN_AMX_ROWS), t->act);
}

void qn_tower_prepare(const struct qn_tower *t, const float *x, int n_in, int n_row, void *to)
{
    bool is_pairs = t->act != QN_ACT_F32 && t->k->isa == QN_ISA_AVX512BF16;
    size_t row_bytes = qn_packed_act_bytes(n_in, 1, t->act);
    for (int r = 0; r < n_row; r++)
        t->k->act((char *)to + (size_t)r * row_bytes, x + (size_t)r * (size_t)n_in, n_in, t->act, is_pairs);
}

void qn_tower_multiply(const struct qn_tower *t, const struct qn_packed *p, const void *act, int n_row,
                       float *y, int ldy)
{
    (void)t;
    if (qn_amx_serves(p))
        qn_amx_run(p, act, n_row, y, ldy);
    else
        qn_packed_run(p, act, n_row, y, ldy, 0, qn_packed_n_tile(p));
}

static void linear_ref(const struct qn_tower *t, const struct tower_linear *w, const float *x, int n_row,
                       float *y, float *rounded)
{
    for (int r = 0; r < n_row; r++) {
        const float *row = x + (size_t)r * (size_t)w->n_in;
        for (int k = 0; t->act != QN_ACT_F32 && k < w->n_in; k++)
            rounded[k] = qn_bf16_to_f32(qn_f32_to_bf16(row[k]));
        if (t->act != QN_ACT_F32) row = rounded;
        for (int n = 0; n < w->n_out; n++)
            y[(size_t)r * (size_t)w->n_out + (size_t)n] =
                qn_ref_dot(row, w->dense + (size_t)n * (size_t)w->n_in, w->n_in);
    }
}

void qn_tower_linear(const struct qn_tower *t, const struct tower_linear *w, const float *x, int n_row,
                     float *y, void *act)
{
    if (t->is_ref) {
        linear_ref(t, w, x, n_row, y, act);
    } else {
        qn_tower_prepare(t, x, w->n_in, n_row, act);
        qn_tower_multiply(t, w->packed, act, n_row, y, w->n_out);
    }
    for (int r = 0; r < n_row; r++)
        for (int n = 0; n < w->n_out; n++) y[(size_t)r * (size_t)w->n_out + (size_t)n] += w->bias[n];
}

static void layer_norm(const struct qn_tower *t, const struct tower_norm *w, const float *x, int n_row,
                       float *out)
{
    int n = t->hidden;
    for (int r = 0; r < n_row; r++, x += n, out += n) {
        double sum = 0, square = 0;
        for (int i = 0; i < n; i++) sum += (double)x[i];
        float mean = (float)(sum / n);
        for (int i = 0; i < n; i++) square += (double)(x[i] - mean) * (double)(x[i] - mean);
        float scale = 1.0f / sqrtf((float)(square / n) + t->eps);
        for (int i = 0; i < n; i++) out[i] = (x[i] - mean) * scale * w->weight[i] + w->bias[i];
    }
}

static void gelu_tanh(const struct qn_tower *t, float *x, size_t n)
{
    if (!t->is_ref) {
        t->k->gelu(x, n);
        return;
    }
    for (size_t i = 0; i < n; i++)
        x[i] = 0.5f * x[i] * (1.0f + tanhf(0.7978845608028654f * (x[i] + 0.044715f * x[i] * x[i] * x[i])));
}

void qn_tower_rotate(float *x, int half, const float *cosv, const float *sinv)
{
    for (int d = 0; d < half; d++) {
        float a = x[d], b = x[d + half];
        x[d] = a * cosv[d] - b * sinv[d];
        x[d + half] = b * cosv[d] + a * sinv[d];
    }
}

/* --- positions --- */

/* Row and column of patch i of a step, in blocks of 2 x 2. */
static void place_of(int i, int n_col, int *row, int *col)
{
    int block = i / 4, in = i % 4;
    *row = block / (n_col / 2) * 2 + in / 2;
    *col = block % (n_col / 2) * 2 + in % 2;
}

struct axis {
    int a, b;
    float d;
};

static struct axis axis_of(int i, int n, int side)
{
    float s = (float)((double)i * (side - 1) / QN_MAX(n - 1, 1));
    int f = (int)floorf(s);
    return (struct axis){f, QN_MIN(f + 1, side - 1), s - (float)f};
}

static void add_position(const struct qn_tower *t, const int grid[3], int i, float *x)
{
    int row, col, n = t->hidden;
    place_of(i, grid[2], &row, &col);
    struct axis h = axis_of(row, grid[1], t->side), w = axis_of(col, grid[2], t->side);
    const float *e00 = t->pos + (size_t)(h.a * t->side + w.a) * (size_t)n,
                *e01 = t->pos + (size_t)(h.a * t->side + w.b) * (size_t)n;
    const float *e10 = t->pos + (size_t)(h.b * t->side + w.a) * (size_t)n,
                *e11 = t->pos + (size_t)(h.b * t->side + w.b) * (size_t)n;
    float w00 = (1 - h.d) * (1 - w.d), w01 = (1 - h.d) * w.d, w10 = h.d * (1 - w.d), w11 = h.d * w.d;
    for (int k = 0; k < n; k++) x[k] += w00 * e00[k] + w01 * e01[k] + w10 * e10[k] + w11 * e11[k];
}

/* cos and sin [n][hd / 2]: the first half by row, the second by column. */
static void make_rope(const struct qn_tower *t, const int grid[3], float *cosv, float *sinv)
{
    int half = t->hd / 2, quarter = t->hd / 4;
    for (int i = 0; i < grid[1] * grid[2]; i++) {
        int place[2];
        place_of(i, grid[2], &place[0], &place[1]);
        for (int d = 0; d < half; d++) {
            float inv = (float)(1.0 / pow(t->theta, (double)(2 * (d % quarter)) / half));
            float angle = (float)place[d / quarter] * inv;
            cosv[(size_t)i * (size_t)half + (size_t)d] = cosf(angle);
            sinv[(size_t)i * (size_t)half + (size_t)d] = sinf(angle);
        }
    }
}

/* --- the run --- */

struct run {
    struct qn_tower *t;
    const struct qn_tower_input *in;
    const struct tower_block *b;
    int first, n_row, chunk; /* rows [first, first + n_row) of the item */
    float *x, *qkv, *mixed;  /* [n_row][H], [n_row][3H], [n_row][H] */
    float *cosv, *sinv;
    unsigned char *scratch; /* [n_thread][scratch_bytes] */
    size_t scratch_bytes;
    float *out; /* of these rows */
};

static size_t scratch_bytes(const struct qn_tower *t, int chunk)
{
    size_t wide = (size_t)QN_MAX(QN_MAX(t->ffn, 4 * t->hidden), QN_MAX(t->patch_in, 3 * t->hidden));
    size_t act = qn_tower_act_bytes(t, QN_MAX(t->ffn, QN_MAX(4 * t->hidden, t->patch_in)), chunk);
    return QN_ROUND_UP(act, 64) + (size_t)chunk * (wide + 4 * (size_t)t->hidden) * sizeof(float) + 128;
}

/* The parts of a thread's scratch: prepared rows, a wide block, a block of 4 H. */
static void parts(const struct run *r, int thread, void **act, float **wide, float **narrow)
{
    const struct qn_tower *t = r->t;
    unsigned char *p = r->scratch + (size_t)thread * r->scratch_bytes;
    *act = p;
    p += QN_ROUND_UP(qn_tower_act_bytes(t, QN_MAX(t->ffn, QN_MAX(4 * t->hidden, t->patch_in)), r->chunk), 64);
    *narrow = (float *)(void *)p;
    *wide = *narrow + (size_t)r->chunk * 4 * (size_t)t->hidden;
}

static void task_embed(void *ctx, int item, int thread)
{
    struct run *r = ctx;
    const struct qn_tower *t = r->t;
    int first = item * r->chunk, n = QN_MIN(r->chunk, r->n_row - first),
        per = r->in->grid[1] * r->in->grid[2];
    void *act;
    float *wide, *narrow, *x = r->x + (size_t)first * (size_t)t->hidden;
    parts(r, thread, &act, &wide, &narrow);
    r->in->patches(r->in->user, r->first + first, n, wide);
    qn_tower_linear(t, &t->patch_embed, wide, n, x, act);
    for (int i = 0; i < n; i++)
        add_position(t, r->in->grid, (r->first + first + i) % per, x + (size_t)i * (size_t)t->hidden);
}

static void task_qkv(void *ctx, int item, int thread)
{
    struct run *r = ctx;
    const struct qn_tower *t = r->t;
    int first = item * r->chunk, n = QN_MIN(r->chunk, r->n_row - first);
    void *act;
    float *wide, *narrow;
    parts(r, thread, &act, &wide, &narrow);
    layer_norm(t, &r->b->norm1, r->x + (size_t)first * (size_t)t->hidden, n, narrow);
    qn_tower_linear(t, &r->b->qkv, narrow, n, r->qkv + (size_t)first * 3 * (size_t)t->hidden, act);
}

static void add(float *x, const float *y, size_t n)
{
    for (size_t i = 0; i < n; i++) x[i] += y[i];
}

static void task_rest(void *ctx, int item, int thread)
{
    struct run *r = ctx;
    const struct qn_tower *t = r->t;
    size_t H = (size_t)t->hidden;
    int first = item * r->chunk, n = QN_MIN(r->chunk, r->n_row - first);
    void *act;
    float *wide, *narrow, *x = r->x + (size_t)first * H;
    parts(r, thread, &act, &wide, &narrow);
    qn_tower_linear(t, &r->b->proj, r->mixed + (size_t)first * H, n, narrow, act);
    add(x, narrow, (size_t)n * H);
    layer_norm(t, &r->b->norm2, x, n, narrow);
    qn_tower_linear(t, &r->b->fc1, narrow, n, wide, act);
    gelu_tanh(t, wide, (size_t)n * (size_t)t->ffn);
    qn_tower_linear(t, &r->b->fc2, wide, n, narrow, act);
    add(x, narrow, (size_t)n * H);
}

/* Blocks of 4 patches: norm, side by side, two layers with the exact GELU between them. */
static void task_merge(void *ctx, int item, int thread)
{
    struct run *r = ctx;
    const struct qn_tower *t = r->t;
    size_t H4 = 4 * (size_t)t->hidden;
    int n_block = r->n_row / 4, first = item * r->chunk / 4, n = QN_MIN(r->chunk / 4, n_block - first);
    void *act;
    float *wide, *narrow;
    parts(r, thread, &act, &wide, &narrow);
    layer_norm(t, &t->merger_norm, r->x + (size_t)first * H4, 4 * n, narrow);
    qn_tower_linear(t, &t->merger_fc1, narrow, n, wide, act);
    for (size_t i = 0; i < (size_t)n * H4; i++)
        wide[i] = 0.5f * wide[i] * (1.0f + erff(wide[i] * 0.70710678118654752f));
    qn_tower_linear(t, &t->merger_fc2, wide, n, r->out + (size_t)first * (size_t)t->out, act);
}

/* Rows of whole steps. */
static int run_rows(struct run *r, struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_tower *t = r->t;
    int per = r->in->grid[1] * r->in->grid[2], n_task = QN_CEIL_DIV(r->n_row, r->chunk);
    qn_pool_run(t->pool, n_task, task_embed, r);
    for (int i = 0; i < t->depth; i++) {
        r->b = &t->blocks[i];
        qn_pool_run(t->pool, n_task, task_qkv, r);
        for (int at = 0; at < r->n_row; at += per) {
            struct tower_attend a = {t,
                                     r->qkv + (size_t)at * 3 * (size_t)t->hidden,
                                     r->mixed + (size_t)at * (size_t)t->hidden,
                                     r->cosv,
                                     r->sinv,
                                     per};
            QN_TRY(t->is_ref ? qn_tower_attend_ref(&a, e) : qn_tower_attend_cpu(&a, e));
        }
        qn_pool_run(t->pool, n_task, task_rest, r);
    }
    qn_pool_run(t->pool, n_task, task_merge, r);
out:
    return rc;
}

static int rows_of(const int grid[3])
{
    int per = grid[1] * grid[2];
    return QN_MIN(grid[0], QN_MAX(GROUP_ROWS / per, 1)) * per;
}

static int chunk_of(const struct qn_tower *t, int n_row)
{
    int even = QN_CEIL_DIV(n_row, 4 * qn_pool_n_thread(t->pool));
    return QN_CLAMP(QN_ROUND_UP(even, 12), 12, CHUNK);
}

size_t qn_tower_scratch(const struct qn_tower *t, const int grid[3])
{
    size_t n = (size_t)rows_of(grid), per = (size_t)grid[1] * (size_t)grid[2];
    return (n * 5 * (size_t)t->hidden + per * (size_t)t->hd) * sizeof(float) +
           (size_t)qn_pool_n_thread(t->pool) * scratch_bytes(t, CHUNK);
}

int qn_tower_run(struct qn_tower *t, const struct qn_tower_input *in, float *out, float *hidden,
                 struct qn_err *e)
{
    int rc = QN_OK;
    size_t H = (size_t)t->hidden, per = (size_t)in->grid[1] * (size_t)in->grid[2], half = (size_t)t->hd / 2;
    int all = in->grid[0] * (int)per, most = rows_of(in->grid);
    struct run r = {.t = t, .in = in, .chunk = chunk_of(t, most)};
    r.scratch_bytes = QN_ROUND_UP(scratch_bytes(t, r.chunk), 64);
    r.x = try_malloc((size_t)most, H * sizeof(float));
    r.qkv = try_malloc((size_t)most, 3 * H * sizeof(float));
    r.mixed = try_malloc((size_t)most, H * sizeof(float));
    r.cosv = try_malloc(per, half * sizeof(float));
    r.sinv = try_malloc(per, half * sizeof(float));
    r.scratch = aligned_alloc(64, (size_t)qn_pool_n_thread(t->pool) * r.scratch_bytes);
    QN_FAIL_IF(!r.x || !r.qkv || !r.mixed || !r.cosv || !r.sinv || !r.scratch, e, QN_NOMEM,
               "no memory to look at a picture of %d x %d patches", in->grid[1], in->grid[2]);
    make_rope(t, in->grid, r.cosv, r.sinv);
    for (r.first = 0; r.first < all; r.first += most) {
        r.n_row = QN_MIN(most, all - r.first);
        r.out = out + (size_t)r.first / 4 * (size_t)t->out;
        QN_TRY(run_rows(&r, e));
        if (hidden) memcpy(hidden + (size_t)r.first * H, r.x, (size_t)r.n_row * H * sizeof(float));
    }
out:
    free(r.x);
    free(r.qkv);
    free(r.mixed);
    free(r.cosv);
    free(r.sinv);
    free(r.scratch);
    return rc;
}
