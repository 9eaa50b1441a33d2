/* Weights of the CPU back end: packed layers, and tables read in place.
 * SPDX-License-Identifier: Apache-2.0 */
#include "backend/cpu/cpu.h"
#include "base/mem.h"

/* A table of plain numbers that is only read row by row stays in the file's mapping. */
static bool is_plain(enum qn_format f)
{
    return f == QN_FMT_F32 || f == QN_FMT_BF16 || f == QN_FMT_F16;
}

#define FILL_TILES 8

struct fill {
    struct qn_packed *p;
    const struct qn_linear *l;
};

static void fill_tiles(void *ctx, int item, int thread)
{
    (void)thread;
    struct fill *f = ctx;
    qn_packed_fill(f->p, f->l, item * FILL_TILES, QN_MIN((item + 1) * FILL_TILES, qn_packed_n_tile(f->p)));
}

int qn_cpu_weight(struct qn_device *d, const struct qn_linear *l, bool rows, struct qn_weight **out,
                  struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_weight *w = xcalloc(1, sizeof *w);
    w->n_out = l->n_out;
    w->n_in = l->n_in;
    if (rows && is_plain(l->format)) {
        w->table = xmalloc(sizeof *w->table);
        *w->table = *l;
    } else {
        struct qn_packed *p;
        QN_TRY(qn_packed_begin(&p, l, d->o.act, d->cpu->k->isa, d->cpu->slab, e));
        struct fill f = {p, l};
        qn_pool_run(d->cpu->pool, QN_CEIL_DIV(qn_packed_n_tile(p), FILL_TILES), fill_tiles, &f);
        w->packed = p;
        d->weight_bytes += qn_packed_bytes(p);
    }
    w->next = d->weights;
    d->weights = w;
    *out = w;
    w = NULL;
out:
    free(w);
    return rc;
}

void qn_cpu_weights_free(struct qn_device *d)
{
    for (struct qn_weight *w = d->weights, *next; w; w = next) {
        next = w->next;
        qn_packed_free(w->packed);
        free(w->table);
        free(w);
    }
    d->weights = NULL;
}

void qn_cpu_row(const struct qn_device *d, const struct qn_weight *w, int row, float *out)
{
    (void)d;
    if (!w->table)
        qn_packed_row(w->packed, row, out);
    else if (qn_linear_rows(w->table, row, 1, out, NULL))
        QN_CHECK(!"an unquantised row cannot fail");
}
