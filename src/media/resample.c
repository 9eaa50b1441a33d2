/* See resample.h. Both passes run along columns of memory: the horizontal one on blocks of 16 rows turned so
 * that the rows of a block lie side by side. Sums are integers, so their order does not matter.
 * SPDX-License-Identifier: Apache-2.0 */
#include "media/resample.h"

#include <math.h>

#include "base/mem.h"

#define BLOCK 16 /* rows that the horizontal pass takes at a time */

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__) &&     \
    !defined(__SANITIZE_THREAD__)
#define QN_WIDE __attribute__((target_clones("avx512f", "avx2", "default"), optimize("O3")))
#elif defined(__GNUC__) && !defined(__clang__)
#define QN_WIDE __attribute__((optimize("O3")))
#else
#define QN_WIDE
#endif

/* Weights of one axis. */
struct axis {
    int n_in, n_out, n_tap; /* most taps of an output */
    int shift;              /* fraction bits */
    int *first, *n;         /* [n_out] */
    int32_t *weight;        /* [n_out][n_tap] */
};

static double cubic(double x)
{
    x = fabs(x);
    if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
    if (x < 2) return ((-0.5 * x + 2.5) * x - 4) * x + 2;
    return 0;
}

static void axis_free(struct axis *a)
{
    free(a->first);
    free(a->n);
    free(a->weight);
}

static int bits_of(double top)
{
    int p = 0;
    while (p < 22 && (int)(0.5 + top * (double)(1 << (p + 1))) < 32768) p++;
    return p;
}

static int axis_make(struct axis *a, int n_in, int n_out, enum qn_resample kind, struct qn_err *e)
{
    int rc = QN_OK;
    double scale = (double)n_in / n_out, widened = scale > 1 ? scale : 1, support = 2 * widened, top = 0;
    *a = (struct axis){.n_in = n_in, .n_out = n_out, .n_tap = (int)ceil(support) * 2 + 1};
    a->first = try_malloc((size_t)n_out, sizeof *a->first);
    a->n = try_malloc((size_t)n_out, sizeof *a->n);
    a->weight = try_calloc((size_t)n_out * (size_t)a->n_tap, sizeof *a->weight);
    double *w = try_calloc((size_t)n_out * (size_t)a->n_tap, sizeof *w);
    QN_FAIL_IF(!a->first || !a->n || !a->weight || !w, e, QN_NOMEM, "no memory for the weights of a resize");
    for (int o = 0; o < n_out; o++) {
        double centre = (o + 0.5) * scale, sum = 0, *row = w + (size_t)o * (size_t)a->n_tap;
        int lo = QN_MAX((int)(centre - support + 0.5), 0), hi = QN_MIN((int)(centre + support + 0.5), n_in);
        a->first[o] = lo;
        a->n[o] = hi - lo;
        for (int j = 0; j < hi - lo; j++) sum += row[j] = cubic((j + lo - centre + 0.5) / widened);
        for (int j = 0; sum != 0 && j < hi - lo; j++) {
            row[j] /= sum;
            top = QN_MAX(top, row[j]);
        }
    }
    a->shift = kind == QN_RESAMPLE_PILLOW ? 22 : bits_of(top);
    double unit = (double)(1 << a->shift);
    for (size_t i = 0; i < (size_t)n_out * (size_t)a->n_tap; i++)
        a->weight[i] = (int32_t)(w[i] * unit + (w[i] < 0 ? -0.5 : 0.5));
out:
    free(w);
    return rc;
}

/* to[i] = sum over taps of weight * from[tap * stride + i], i < n, as bytes. acc [n] is scratch. */
QN_WIDE static void combine(uint8_t *restrict to, const uint8_t *restrict from, size_t stride,
                            const int32_t *restrict weight, int n_tap, int shift, int32_t *restrict acc,
                            size_t n)
{
    int32_t half = 1 << (shift - 1);
    for (size_t i = 0; i < n; i++) acc[i] = half;
    for (int t = 0; t < n_tap; t++) {
        const uint8_t *restrict p = from + (size_t)t * stride;
        int32_t w = weight[t];
        for (size_t i = 0; i < n; i++) acc[i] += w * p[i];
    }
    for (size_t i = 0; i < n; i++) {
        int32_t v = acc[i] >> shift;
        to[i] = (uint8_t)(v < 0 ? 0 : v > 255 ? 255 : v);
    }
}

/* One output of the horizontal pass: 3 colours of BLOCK rows. */
QN_WIDE static void combine_block(uint8_t *restrict to, const uint8_t *restrict from,
                                  const int32_t *restrict weight, int n_tap, int shift)
{
    int32_t acc[3 * BLOCK];
    for (int i = 0; i < 3 * BLOCK; i++) acc[i] = 1 << (shift - 1);
    for (int t = 0; t < n_tap; t++) {
        const uint8_t *restrict p = from + (size_t)t * (3 * BLOCK);
        int32_t w = weight[t];
        for (int i = 0; i < 3 * BLOCK; i++) acc[i] += w * p[i];
    }
    for (int i = 0; i < 3 * BLOCK; i++) {
        int32_t v = acc[i] >> shift;
        to[i] = (uint8_t)(v < 0 ? 0 : v > 255 ? 255 : v);
    }
}

static int pass_x(struct qn_raster *to, const struct qn_raster *from, const struct axis *a, struct qn_err *e)
{
    int rc = QN_OK;
    size_t in_stride = (size_t)from->w * 3, out_stride = (size_t)a->n_out * 3;
    uint8_t *turned = try_calloc((size_t)from->w, 3 * BLOCK), one[3 * BLOCK];
    struct qn_raster out = {0};
    QN_FAIL_IF(!turned, e, QN_NOMEM, "no memory for a resize");
    QN_TRY(qn_raster_alloc(&out, a->n_out, from->h, 3, e));
    for (int y = 0; y < from->h; y += BLOCK) {
        int n_row = QN_MIN(BLOCK, from->h - y);
        for (int r = 0; r < n_row; r++) {
            const uint8_t *p = from->px + (size_t)(y + r) * in_stride;
            for (size_t i = 0; i < in_stride; i++) turned[i * BLOCK + (size_t)r] = p[i];
        }
        uint8_t *q = out.px + (size_t)y * out_stride;
        for (int o = 0; o < a->n_out; o++) {
            combine_block(one, turned + (size_t)a->first[o] * 3 * BLOCK,
                          a->weight + (size_t)o * (size_t)a->n_tap, a->n[o], a->shift);
            for (int c = 0; c < 3; c++)
                for (int r = 0; r < n_row; r++)
                    q[(size_t)r * out_stride + (size_t)(3 * o + c)] = one[c * BLOCK + r];
        }
    }
    *to = out;
    out.px = NULL;
out:
    qn_raster_free(&out);
    free(turned);
    return rc;
}

static int pass_y(struct qn_raster *to, const struct qn_raster *from, const struct axis *a, struct qn_err *e)
{
    int rc = QN_OK;
    size_t stride = (size_t)from->w * 3;
    int32_t *acc = try_malloc(stride, sizeof *acc);
    struct qn_raster out = {0};
    QN_FAIL_IF(!acc, e, QN_NOMEM, "no memory for a resize");
    QN_TRY(qn_raster_alloc(&out, from->w, a->n_out, 3, e));
    for (int o = 0; o < a->n_out; o++)
        combine(out.px + (size_t)o * stride, from->px + (size_t)a->first[o] * stride, stride,
                a->weight + (size_t)o * (size_t)a->n_tap, a->n[o], a->shift, acc, stride);
    *to = out;
    out.px = NULL;
out:
    qn_raster_free(&out);
    free(acc);
    return rc;
}

int qn_resample(struct qn_raster *to, const struct qn_raster *from, int to_w, int to_h, enum qn_resample kind,
                struct qn_err *e)
{
    int rc = QN_OK;
    struct axis x = {0}, y = {0};
    struct qn_raster half = {0}, done = {0};
    bool turns_x = to_w != from->w, turns_y = to_h != from->h;
    bool y_first = kind == QN_RESAMPLE_PILLOW && to_h < from->h && from->h - to_h > 2 * (from->w - to_w);
    if (turns_x) QN_TRY(axis_make(&x, from->w, to_w, kind, e));
    if (turns_y) QN_TRY(axis_make(&y, from->h, to_h, kind, e));
    if (turns_x && turns_y) {
        QN_TRY(y_first ? pass_y(&half, from, &y, e) : pass_x(&half, from, &x, e));
        QN_TRY(y_first ? pass_x(&done, &half, &x, e) : pass_y(&done, &half, &y, e));
    } else if (turns_x) {
        QN_TRY(pass_x(&done, from, &x, e));
    } else if (turns_y) {
        QN_TRY(pass_y(&done, from, &y, e));
    } else {
        QN_TRY(qn_raster_alloc(&done, to_w, to_h, 3, e));
        memcpy(done.px, from->px, (size_t)to_w * (size_t)to_h * 3);
    }
    *to = done;
    done.px = NULL;
out:
    axis_free(&x);
    axis_free(&y);
    qn_raster_free(&half);
    qn_raster_free(&done);
    return rc;
}
