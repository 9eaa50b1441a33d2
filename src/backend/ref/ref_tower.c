/* ref: attention of the vision tower, over all patches of a step. SPDX-License-Identifier: Apache-2.0 */
#include <math.h>

#include "backend/ref/ref.h"
#include "backend/tower_impl.h"
#include "base/mem.h"

static void rotate_row(void *ctx, int i, int thread)
{
    (void)thread;
    const struct tower_attend *a = ctx;
    const struct qn_tower *t = a->t;
    size_t H = (size_t)t->hidden, half = (size_t)t->hd / 2;
    for (int part = 0; part < 2; part++)
        for (int h = 0; h < t->n_head; h++)
            qn_tower_rotate(a->qkv + (size_t)i * 3 * H + (size_t)part * H + (size_t)(h * t->hd), (int)half,
                            a->cosv + (size_t)i * half, a->sinv + (size_t)i * half);
}

/* One query, all heads. */
static void attend_row(void *ctx, int i, int thread)
{
    (void)thread;
    const struct tower_attend *a = ctx;
    const struct qn_tower *t = a->t;
    size_t H = (size_t)t->hidden;
    float scale = 1.0f / sqrtf((float)t->hd), *p = xmalloc((size_t)a->n * sizeof *p);
    for (int h = 0; h < t->n_head; h++) {
        const float *q = a->qkv + (size_t)i * 3 * H + (size_t)(h * t->hd),
                    *k = a->qkv + H + (size_t)(h * t->hd), *v = k + H;
        float *o = a->out + (size_t)i * H + (size_t)(h * t->hd), most = -INFINITY, sum = 0;
        for (int j = 0; j < a->n; j++)
            most = fmaxf(most, p[j] = scale * qn_ref_dot(q, k + (size_t)j * 3 * H, t->hd));
        for (int j = 0; j < a->n; j++) sum += p[j] = expf(p[j] - most);
        memset(o, 0, (size_t)t->hd * sizeof *o);
        for (int j = 0; j < a->n; j++)
            for (int d = 0; d < t->hd; d++) o[d] += p[j] / sum * v[(size_t)j * 3 * H + (size_t)d];
    }
    free(p);
}

int qn_tower_attend_ref(const struct tower_attend *a, struct qn_err *e)
{
    (void)e;
    qn_pool_run(a->t->pool, a->n, rotate_row, (void *)a);
    qn_pool_run(a->t->pool, a->n, attend_row, (void *)a);
    return QN_OK;
}
