/* Weights of the CPU back end: packed layers, and tables kept as they are stored.
 * SPDX-License-Identifier: Apache-2.0 */
#include "backend/cpu/cpu.h"
#include "base/mapped.h"
#include "base/mem.h"

/* A table of plain numbers, or of blocks, that is only read row by row is copied as it is. In the file's
 * mapping the system would be free to drop it, and a prompt's rows would wait for the disk one by one. */
static bool is_plain(enum qn_format f)
{
    return f == QN_FMT_F32 || f == QN_FMT_BF16 || f == QN_FMT_F16 || qn_format_is_block(f);
}

#define FILL_TILES 8
#define FILL_BYTES ((size_t)16 << 20) /* of packed weights between two looks at the file's pages */

struct fill {
    struct qn_packed *p;
    const struct qn_linear *l;
    int first; /* tile */
};

static void fill_tiles(void *ctx, int item, int thread)
{
    (void)thread;
    struct fill *f = ctx;
    int tile = f->first + item * FILL_TILES;
    qn_packed_fill(f->p, f->l, tile, QN_MIN(tile + FILL_TILES, qn_packed_n_tile(f->p)));
}

/* Rows of a weight are packed: their pages of the file may go. AWQ and GPTQ have no contiguous rows. */
static void release_rows(const struct qn_linear *l, int first, int n)
{
    if (l->format == QN_FMT_INT4_AWQ || l->format == QN_FMT_INT4_GPTQ || l->format == QN_FMT_INT8_GPTQ ||
        l->format == QN_FMT_INTN_GPTQ || n <= 0)
        return;
    size_t row = l->weight.n_byte / (size_t)l->n_out;
    qn_mapped_release((const char *)l->weight.data + (size_t)first * row, (size_t)n * row);
}

/* All tiles, in stretches: what a stretch has read of the file is given back before the next, so that an
 * embedding of a quarter of the model is not resident twice. */
static void fill(struct qn_device *d, struct qn_packed *p, const struct qn_linear *l)
{
    int n_tile = qn_packed_n_tile(p), rows = 2 * QN_TILE; /* of a unit of tiles */
    size_t tile_bytes = QN_MAX(qn_packed_bytes(p) / (size_t)n_tile, 1);
    int step = QN_ROUND_UP((int)QN_MAX(FILL_BYTES / tile_bytes, 1), FILL_TILES);
    struct fill f = {p, l, 0};
    for (; f.first < n_tile; f.first += step) {
        int n = QN_MIN(step, n_tile - f.first), row = f.first * rows;
        qn_pool_run(d->cpu->pool, QN_CEIL_DIV(n, FILL_TILES), fill_tiles, &f);
        release_rows(l, row, QN_MIN(n * rows, l->n_out - row));
    }
}

#define COPY_BYTES ((size_t)1 << 20)

struct copy {
    char *to;
    const char *from;
    size_t n_byte;
};

static void copy_part(void *ctx, int item, int thread)
{
    (void)thread;
    const struct copy *c = ctx;
    size_t at = (size_t)item * COPY_BYTES;
    memcpy(c->to + at, c->from + at, QN_MIN(COPY_BYTES, c->n_byte - at));
}

static int copy_table(struct qn_device *d, struct qn_linear **out, const struct qn_linear *l,
                      struct qn_err *e)
{
    size_t n_byte = l->weight.n_byte;
    char *to = qn_slab_alloc(d->cpu->slab, n_byte);
    if (!to)
        return qn_err_set(e, QN_NOMEM, __FILE__, __LINE__, "%s: no memory for %zu bytes", l->name, n_byte);
    for (size_t at = 0; at < n_byte; at += FILL_BYTES) {
        struct copy c = {to + at, (const char *)l->weight.data + at, QN_MIN(FILL_BYTES, n_byte - at)};
        qn_pool_run(d->cpu->pool, (int)QN_CEIL_DIV(c.n_byte, COPY_BYTES), copy_part, &c);
        qn_mapped_release(c.from, c.n_byte);
    }
    *out = xmalloc(sizeof **out);
    **out = *l;
    (*out)->weight.data = to;
    d->weight_bytes += n_byte;
    return QN_OK;
}

int qn_cpu_weight(struct qn_device *d, const struct qn_linear *l, bool rows, struct qn_weight **out,
                  struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_weight *w = xcalloc(1, sizeof *w);
    w->n_out = l->n_out;
    w->n_in = l->n_in;
    if (rows && is_plain(l->format)) {
        QN_TRY(copy_table(d, &w->table, l, e));
    } else {
        struct qn_packed *p;
        QN_TRY(qn_packed_begin(&p, l, d->o.act, d->cpu->k->isa, d->cpu->slab, e));
        fill(d, p, l);
        w->packed = p;
        d->cpu->has_int8 |= qn_packed_is_int8(p);
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
