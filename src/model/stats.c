/* Moments of activations and their factors.
 * SPDX-License-Identifier: Apache-2.0 */
#include "model/stats.h"

#include <math.h>

#include "base/mem.h"
#include "model/clones.h"

#define BATCH 64    /* rows added to the moments at once */
#define DAMP  0.01f /* of the mean power, added to the diagonal */

struct qn_stats {
    int n_in, block, n_block;
    float **moments; /* a block: [b, b], upper triangle: sums of products; or NULL */
    float *power;    /* [K] sums of squares, after finish means */
    float *batch;    /* [BATCH, K] */
    int n_batch;
    float *sample; /* [max_sample, K] */
    int n_sample, max_sample, every;
    int64_t n_row;
};

static int block_size(const struct qn_stats *s, int b)
{
    return QN_MIN(s->block, s->n_in - b * s->block);
}

struct qn_stats *qn_stats_create(int n_in, bool has_moments, int max_sample, int sample_every)
{
    struct qn_stats *s = xcalloc(1, sizeof *s);
    int n_even = QN_CEIL_DIV(n_in, QN_STATS_BLOCK);
    s->n_in = n_in;
    s->block = n_even == 1 ? n_in : (int)QN_ROUND_UP((size_t)QN_CEIL_DIV(n_in, n_even), 128);
    s->n_block = QN_CEIL_DIV(n_in, s->block);
    s->every = QN_MAX(sample_every, 1);
    s->max_sample = max_sample;
    s->power = xcalloc((size_t)n_in, sizeof *s->power);
    s->batch = try_malloc((size_t)n_in * BATCH, sizeof *s->batch);
    s->sample = max_sample ? try_malloc((size_t)n_in * (size_t)max_sample, sizeof *s->sample) : NULL;
    bool is_short = !s->batch || (max_sample && !s->sample);
    if (has_moments) {
        s->moments = xcalloc((size_t)s->n_block, sizeof *s->moments);
        for (int b = 0; b < s->n_block; b++) {
            size_t n = (size_t)block_size(s, b);
            is_short |= !(s->moments[b] = try_calloc(n * n, sizeof **s->moments));
        }
    }
    if (!is_short) return s;
    qn_stats_free(s);
    return NULL;
}

void qn_stats_free(struct qn_stats *s)
{
    if (!s) return;
    for (int b = 0; s->moments && b < s->n_block; b++) free(s->moments[b]);
    free(s->moments);
    free(s->power);
    free(s->batch);
    free(s->sample);
    free(s);
}

/* to[j] += sum of eight rows' x[j] times their f */
QN_CLONES static void add_eight(float *to, const float *x, const float *f, size_t stride, int first, int n)
{
    const float *a = x, *b = a + stride, *c = b + stride, *d = c + stride, *e = d + stride, *g = e + stride,
                *h = g + stride, *i = h + stride;
    for (int j = first; j < n; j++)
        to[j] += ((f[0] * a[j] + f[1] * b[j]) + (f[2] * c[j] + f[3] * d[j])) +
                 ((f[4] * e[j] + f[5] * g[j]) + (f[6] * h[j] + f[7] * i[j]));
}

#define ROWS_OF_ITEM 32 /* of the moments */

struct item {
    struct qn_stats *s;
};

/* Rows [first, first + 32) of the moments of the block they lie in. */
static void add_item(void *ctx, int item, int thread)
{
    (void)thread;
    struct qn_stats *s = ((struct item *)ctx)->s;
    int per_block = QN_CEIL_DIV(s->block, ROWS_OF_ITEM), b = item / per_block, n = block_size(s, b);
    int first = item % per_block * ROWS_OF_ITEM, end = QN_MIN(first + ROWS_OF_ITEM, n);
    const float *x = s->batch + (size_t)b * (size_t)s->block;
    size_t stride = (size_t)s->n_in;
    for (int r = 0; r < s->n_batch; r += 8)
        for (int i = first; i < end; i++) {
            float f[8];
            for (int j = 0; j < 8; j++) f[j] = x[(size_t)(r + j) * stride + (size_t)i];
            add_eight(s->moments[b] + (size_t)i * (size_t)n, x + (size_t)r * stride, f, stride, i, n);
        }
}

static void flush(struct qn_stats *s, struct qn_pool *pool)
{
    size_t K = (size_t)s->n_in;
    for (int r = 0; r < s->n_batch; r++)
        for (size_t i = 0; i < K; i++)
            s->power[i] += s->batch[(size_t)r * K + i] * s->batch[(size_t)r * K + i];
    while (s->n_batch % 8) memset(s->batch + (size_t)s->n_batch++ * K, 0, K * sizeof *s->batch);
    struct item ctx = {s};
    if (s->moments && s->n_batch)
        qn_pool_run(pool, s->n_block * QN_CEIL_DIV(s->block, ROWS_OF_ITEM), add_item, &ctx);
    s->n_batch = 0;
}

void qn_stats_add(struct qn_stats *s, const float *rows, int n_row, struct qn_pool *pool)
{
    size_t K = (size_t)s->n_in;
    for (int r = 0; r < n_row; r++, rows += K) {
        memcpy(s->batch + (size_t)s->n_batch++ * K, rows, K * sizeof *rows);
        if (s->n_sample < s->max_sample && s->n_row % s->every == 0)
            memcpy(s->sample + (size_t)s->n_sample++ * K, rows, K * sizeof *rows);
        s->n_row++;
        if (s->n_batch == BATCH) flush(s, pool);
    }
}

void qn_stats_finish(struct qn_stats *s, struct qn_pool *pool)
{
    flush(s, pool);
    for (int i = 0; i < s->n_in; i++) s->power[i] /= (float)QN_MAX(s->n_row, 1);
}

int qn_stats_n_in(const struct qn_stats *s)
{
    return s->n_in;
}

int64_t qn_stats_n_row(const struct qn_stats *s)
{
    return s->n_row;
}

const float *qn_stats_power(const struct qn_stats *s)
{
    return s->power;
}

const float *qn_stats_sample(const struct qn_stats *s, int *n)
{
    *n = s->n_sample;
    return s->sample;
}

/* --- factors --- */

QN_CLONES static float dot(const float *a, const float *b, int n)
{
    float lane[16] = {0}, sum = 0;
    int i = 0;
    for (; i + 16 <= n; i += 16)
        for (int j = 0; j < 16; j++) lane[j] += a[i + j] * b[i + j];
    for (; i < n; i++) sum += a[i] * b[i];
    for (int j = 0; j < 16; j++) sum += lane[j];
    return sum;
}

QN_CLONES static void subtract(float *to, const float *from, float f, int n)
{
    for (int i = 0; i < n; i++) to[i] -= f * from[i];
}

/* m [n, n], upper triangle: m = r r^T with r upper, in place; false when m is not positive. */
static bool factor(float *m, int n)
{
    size_t N = (size_t)n;
    for (int j = n - 1; j >= 0; j--) {
        float *row = m + (size_t)j * N;
        float d = row[j] - dot(row + j + 1, row + j + 1, n - j - 1);
        if (!(d > 0)) return false;
        row[j] = sqrtf(d);
        for (int i = 0; i < j; i++) {
            float *to = m + (size_t)i * N;
            to[j] = (to[j] - dot(to + j + 1, row + j + 1, n - j - 1)) / row[j];
        }
    }
    return true;
}

/* u = r^-1, upper: then the inverse of r r^T is u^T u. */
static void invert(const float *r, float *u, int n)
{
    size_t N = (size_t)n;
    for (int i = n - 1; i >= 0; i--) {
        const float *from = r + (size_t)i * N;
        float *row = u + (size_t)i * N;
        row[i] = 1;
        for (int k = i + 1; k < n; k++) subtract(row + k, u + (size_t)k * N + k, from[k], n - k);
        for (int k = i; k < n; k++) row[k] /= from[i];
    }
}

struct rank {
    float power;
    int32_t column;
};

static int by_falling_power(const void *a, const void *b)
{
    const struct rank *x = a, *y = b;
    if (x->power != y->power) return x->power > y->power ? -1 : 1;
    return x->column < y->column ? -1 : 1;
}

static void order_block(const struct qn_stats *s, const float *scale, int first, int n, bool by_power,
                        int32_t *out)
{
    struct rank *rank = xmalloc((size_t)n * sizeof *rank);
    for (int i = 0; i < n; i++) {
        float f = scale ? scale[first + i] : 1;
        rank[i] = (struct rank){s->power[first + i] / (f * f), first + i};
    }
    if (by_power) qsort(rank, (size_t)n, sizeof *rank, by_falling_power);
    for (int i = 0; i < n; i++) out[i] = rank[i].column;
    free(rank);
}

/* The moments of a block in the carry's order, per row of input, damped. */
static void gather(const struct qn_stats *s, const float *scale, int b, const int32_t *order, float damp,
                   float *m)
{
    int first = b * s->block, n = block_size(s, b);
    size_t N = (size_t)n;
    /* fewer rows than columns say little about pairs */
    float trust = (float)s->n_row / ((float)s->n_row + (float)n * 0.25f), mean = 0;
    for (int i = 0; i < n; i++)
        for (int j = i; j < n; j++) {
            size_t x = (size_t)(order[i] - first), y = (size_t)(order[j] - first);
            float v = s->moments[b][QN_MIN(x, y) * N + QN_MAX(x, y)] / (float)s->n_row;
            if (scale) v /= scale[order[i]] * scale[order[j]];
            m[(size_t)i * N + (size_t)j] = i == j ? v : v * trust;
            if (i == j) mean += v / (float)n;
        }
    if (!(mean > 0)) mean = 1;
    for (size_t i = 0; i < N; i++) m[i * N + i] += damp * mean;
}

struct qn_carry *qn_stats_carry(const struct qn_stats *s, const float *scale, bool by_power)
{
    if (!s->moments || !s->n_row) return NULL;
    struct qn_carry *c = xcalloc(1, sizeof *c);
    c->n_in = s->n_in;
    c->block = s->block;
    c->order = xmalloc((size_t)s->n_in * sizeof *c->order);
    c->u = xcalloc((size_t)s->n_block, sizeof *c->u);
    for (int b = 0; b < s->n_block; b++) {
        int first = b * s->block, n = block_size(s, b);
        float *m = try_malloc((size_t)n * (size_t)n, sizeof *m), damp = DAMP;
        c->u[b] = try_calloc((size_t)n * (size_t)n, sizeof **c->u);
        if (!m || !c->u[b]) {
            free(m);
            qn_carry_free(c);
            return NULL;
        }
        order_block(s, scale, first, n, by_power, c->order + first);
        for (gather(s, scale, b, c->order + first, damp, m); !factor(m, n); damp *= 10)
            gather(s, scale, b, c->order + first, damp * 10, m);
        invert(m, c->u[b], n);
        free(m);
    }
    return c;
}

void qn_carry_free(struct qn_carry *c)
{
    if (!c) return;
    for (int b = 0; b < QN_CEIL_DIV(c->n_in, c->block); b++) free(c->u[b]);
    free(c->u);
    free(c->order);
    free(c);
}
