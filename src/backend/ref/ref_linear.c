/* ref: weights as floats, linear layers, norms, embedding.
 * SPDX-License-Identifier: Apache-2.0 */
#include "backend/ref/ref.h"

#include <math.h>

#include "backend/act.h"
#include "base/mem.h"

int qn_ref_weight(struct qn_device *d, const struct qn_linear *l, bool rows, struct qn_weight **out,
                  struct qn_err *e)
{
    (void)rows;
    int rc = QN_OK;
    size_t n;
    struct qn_weight *w = xcalloc(1, sizeof *w);
    w->n_out = l->n_out;
    w->n_in = l->n_in;
    w->is_int8 = d->o.act == QN_ACT_INT8 && qn_act_is_int8(l);
    QN_FAIL_IF(!qn_mul_size((size_t)l->n_out, (size_t)l->n_in, &n), e, QN_TOOBIG, "%s: too large", l->name);
    w->dense = try_malloc(n, sizeof *w->dense);
    QN_FAIL_IF(!w->dense, e, QN_NOMEM, "%s: no memory for %zu floats", l->name, n);
    QN_TRY(qn_linear_rows(l, 0, l->n_out, w->dense, e));
    d->weight_bytes += n * sizeof *w->dense;
    w->next = d->weights;
    d->weights = w;
    *out = w;
    w = NULL;
out:
    if (w) free(w->dense);
    free(w);
    return rc;
}

void qn_ref_weights_free(struct qn_device *d)
{
    for (struct qn_weight *w = d->weights, *next; w; w = next) {
        next = w->next;
        free(w->dense);
        free(w);
    }
    d->weights = NULL;
}

static void round_int8(float *x, int n)
{
    for (int k = 0; k < n; k += QN_ACT_BLOCK) {
        float block[QN_ACT_BLOCK] = {0};
        int8_t code[QN_ACT_BLOCK];
        int left = QN_MIN(QN_ACT_BLOCK, n - k);
        memcpy(block, x + k, (size_t)left * sizeof *x);
        float scale = qn_act_int8(block, code);
        for (int i = 0; i < left; i++) x[k + i] = scale * code[i];
    }
}

/* 16 partial sums by k mod 16, added in order: an order fixed by n alone. */
float qn_ref_dot(const float *a, const float *b, int n)
{
    float part[16] = {0};
    int k = 0;
    for (; k + 16 <= n; k += 16)
        for (int i = 0; i < 16; i++) part[i] += a[k + i] * b[k + i];
    for (int i = 0; k + i < n; i++) part[i] += a[k + i] * b[k + i];
    float sum = 0;
    for (int i = 0; i < 16; i++) sum += part[i];
    return sum;
}

void qn_ref_linear(struct qn_device *d, const float *x, int n_row, const struct qn_host_linear *jobs,
                   int n_job)
{
    for (int j = 0; j < n_job; j++) {
        const struct qn_weight *w = jobs[j].w;
        if (d->o.observer) d->o.observer->rows(d->o.observer->user, w, x, n_row);
        float *rounded = xmalloc((size_t)w->n_in * sizeof *rounded);
        for (int r = 0; r < n_row; r++) {
            const float *row = x + (size_t)r * w->n_in;
            if (d->o.act != QN_ACT_F32) {
                for (int k = 0; k < w->n_in; k++) rounded[k] = qn_bf16_to_f32(qn_f32_to_bf16(row[k]));
                row = rounded;
            }
            if (w->is_int8) round_int8(rounded, w->n_in);
            for (int n = 0; n < w->n_out; n++)
                jobs[j].y[(size_t)r * w->n_out + n] =
                    qn_ref_dot(row, w->dense + (size_t)n * w->n_in, w->n_in);
        }
        free(rounded);
    }
}

void qn_ref_row(const struct qn_device *d, const struct qn_weight *w, int row, float *out)
{
    (void)d;
    memcpy(out, w->dense + (size_t)row * w->n_in, (size_t)w->n_in * sizeof *out);
}

void qn_ref_rms_norm(const float *x, const float *w, int n, float eps, float *out)
{
    float scale = 1.0f / sqrtf(qn_ref_dot(x, x, n) / (float)n + eps);
    for (int i = 0; i < n; i++) out[i] = x[i] * scale * (1.0f + w[i]);
}

void qn_ref_add_norm(struct qn_device *d, float *x, const float *y, const float *w, int n_row, float *h)
{
    int n = d->c.hidden;
    for (int r = 0; r < n_row; r++, x += n, y += n, h += n) {
        for (int i = 0; i < n; i++) x[i] += y[i];
        qn_ref_rms_norm(x, w, n, d->c.norm_eps, h);
    }
}

void qn_ref_embed(struct qn_device *d, const struct qn_step *s, const struct qn_op_embed *op)
{
    int n = d->c.hidden;
    for (int r = 0; r < s->n_row; r++) {
        float *x = op->x + (size_t)r * n;
        int row = s->tok[r] - op->first;
        if (s->embed_row && s->embed_row[r] >= 0)
            memcpy(x, s->embed + (size_t)s->embed_row[r] * n, (size_t)n * sizeof *x);
        else if (row >= 0 && row < op->n)
            d->row(d, op->table, row, x);
        else
            memset(x, 0, (size_t)n * sizeof *x);
    }
    memset(op->y, 0, (size_t)s->n_row * n * sizeof(float));
}
