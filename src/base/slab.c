/* A list of regions, filled from the front. SPDX-License-Identifier: Apache-2.0 */
#include "base/slab.h"

#include "base/mem.h"

#define SLAB_BYTES ((size_t)64 << 20)
#define HUGE_BYTES ((size_t)2 << 20)

struct slab {
    struct slab *next;
    unsigned char *data;
    size_t n_byte, used;
};

struct qn_slab {
    struct slab *slabs; /* the one with most room first */
};

struct qn_slab *qn_slab_create(void)
{
    return xcalloc(1, sizeof(struct qn_slab));
}

void qn_slab_free(struct qn_slab *s)
{
    if (!s) return;
    for (struct slab *b = s->slabs, *next; b; b = next) {
        next = b->next;
        qn_region_free(b->data, b->n_byte);
        free(b);
    }
    free(s);
}

/* Another slab, for a block at least. */
static struct slab *grow(size_t n_byte)
{
    size_t room;
    if (!qn_add_size(n_byte, HUGE_BYTES, &room)) return NULL;
    room = QN_MAX(room / HUGE_BYTES * HUGE_BYTES, SLAB_BYTES);
    unsigned char *data = qn_region_alloc(room);
    if (!data && room > n_byte) data = qn_region_alloc(room = QN_ROUND_UP(n_byte, (size_t)4096));
    if (!data) return NULL;
    struct slab *b = xmalloc(sizeof *b);
    *b = (struct slab){NULL, data, room, 0};
    return b;
}

void *qn_slab_alloc(struct qn_slab *s, size_t n_byte)
{
    if (n_byte > SIZE_MAX / 2) return NULL;
    n_byte = QN_ROUND_UP(QN_MAX(n_byte, (size_t)1), (size_t)64);
    struct slab *b = s->slabs;
    if (!b || b->n_byte - b->used < n_byte) {
        struct slab *more = grow(n_byte);
        if (!more) return NULL;
        /* a block as large as a slab leaves the rest of the last one in use */
        if (b && b->n_byte - b->used > more->n_byte - n_byte) {
            more->next = b->next;
            b->next = more;
        } else {
            more->next = b;
            s->slabs = more;
        }
        b = more;
    }
    void *p = b->data + b->used;
    b->used += n_byte;
    return p;
}
