/* See sight.h. Two locks: one of the list, held for moments, and one of the tower, held while it looks.
 * SPDX-License-Identifier: Apache-2.0 */
#include "engine/sight.h"

#include <pthread.h>

#include "base/clock.h"
#include "base/mem.h"

struct seen {
    uint64_t hash[4];
    struct qn_embeds *embeds; /* a reference of the list's */
    size_t n_byte;
    struct seen *older, *newer;
};

struct qn_sight {
    struct qn_vision *vision;
    struct qn_sight_options o;
    pthread_mutex_t looking; /* of the tower */
    struct qn_tower *tower;  /* NULL: not loaded yet */
    pthread_mutex_t lock;    /* of what follows */
    struct seen *oldest, *newest;
    struct qn_sight_stats stats;
};

int qn_sight_open(struct qn_sight **out, const struct qn_model *m, const struct qn_sight_options *o,
                  struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_sight *s = xcalloc(1, sizeof *s);
    pthread_mutex_init(&s->looking, NULL);
    pthread_mutex_init(&s->lock, NULL);
    s->o = *o;
    s->stats.budget_bytes = o->cache_bytes;
    QN_TRY(qn_vision_open(&s->vision, m, e));
    s->stats.weight_bytes = s->vision->n_byte; /* as stored, until it is loaded */
    *out = s;
    s = NULL;
out:
    qn_sight_close(s);
    return rc;
}

static void unlink_seen(struct qn_sight *s, struct seen *x)
{
    *(x->older ? &x->older->newer : &s->oldest) = x->newer;
    *(x->newer ? &x->newer->older : &s->newest) = x->older;
}

static void append_seen(struct qn_sight *s, struct seen *x)
{
    x->newer = NULL;
    x->older = s->newest;
    *(s->newest ? &s->newest->newer : &s->oldest) = x;
    s->newest = x;
}

static void drop_oldest(struct qn_sight *s)
{
    struct seen *x = s->oldest;
    unlink_seen(s, x);
    s->stats.cached_bytes -= x->n_byte;
    qn_embeds_release(x->embeds);
    free(x);
}

void qn_sight_close(struct qn_sight *s)
{
    if (!s) return;
    while (s->oldest) drop_oldest(s);
    qn_tower_close(s->tower);
    qn_vision_close(s->vision);
    pthread_mutex_destroy(&s->looking);
    pthread_mutex_destroy(&s->lock);
    free(s);
}

/* From the list, with a reference for the caller, or NULL. */
static struct qn_embeds *find(struct qn_sight *s, const uint64_t hash[4])
{
    struct qn_embeds *found = NULL;
    pthread_mutex_lock(&s->lock);
    for (struct seen *x = s->newest; x && !found; x = x->older) {
        if (memcmp(x->hash, hash, sizeof x->hash)) continue;
        found = qn_embeds_acquire(x->embeds);
        s->stats.n_hit++;
        unlink_seen(s, x);
        append_seen(s, x);
        break;
    }
    pthread_mutex_unlock(&s->lock);
    return found;
}

static void keep(struct qn_sight *s, const uint64_t hash[4], struct qn_embeds *m, double encode_s)
{
    size_t n_byte = (size_t)m->n_row * (size_t)m->hidden * sizeof(float);
    pthread_mutex_lock(&s->lock);
    s->stats.n_encoded++;
    s->stats.n_token += (uint64_t)m->n_row;
    s->stats.encode_s += encode_s;
    if (n_byte <= s->o.cache_bytes) {
        struct seen *x = xcalloc(1, sizeof *x);
        memcpy(x->hash, hash, sizeof x->hash);
        x->embeds = qn_embeds_acquire(m);
        x->n_byte = n_byte;
        append_seen(s, x);
        s->stats.cached_bytes += n_byte;
        while (s->stats.cached_bytes > s->o.cache_bytes) {
            drop_oldest(s);
            s->stats.n_evicted++;
        }
    }
    pthread_mutex_unlock(&s->lock);
}

/* With the tower's lock. */
static int load(struct qn_sight *s, struct qn_err *e)
{
    int rc = QN_OK;
    if (s->tower) return QN_OK;
    struct qn_tower_options o = {
        .is_ref = !strcmp(s->o.backend, "ref"), .act = s->o.act, .n_thread = s->o.n_thread};
    QN_TRY(qn_tower_open(&s->tower, s->vision, &o, e));
    pthread_mutex_lock(&s->lock);
    s->stats.weight_bytes = qn_tower_bytes(s->tower);
    pthread_mutex_unlock(&s->lock);
out:
    return rc;
}

int qn_sight_warm(struct qn_sight *s, struct qn_err *e)
{
    pthread_mutex_lock(&s->looking);
    int rc = load(s, e);
    pthread_mutex_unlock(&s->looking);
    return rc;
}

int qn_sight_look(struct qn_sight *s, const uint64_t hash[4], const struct qn_tower_input *in,
                  struct qn_embeds **out, struct qn_err *e)
{
    int rc = QN_OK, n = in->grid[0] * in->grid[1] * in->grid[2] / 4;
    struct qn_embeds *m = find(s, hash);
    if (m) {
        *out = m;
        return QN_OK;
    }
    pthread_mutex_lock(&s->looking);
    m = find(s, hash); /* somebody else may have looked meanwhile */
    if (m) goto done;
    QN_TRY(load(s, e));
    m = qn_embeds_create(n, s->vision->out);
    QN_FAIL_IF(!m, e, QN_NOMEM, "no memory for the %d embeddings of a picture", n);
    int64_t begin = qn_now_us();
    QN_TRY(qn_tower_run(s->tower, in, m->rows, NULL, e));
    keep(s, hash, m, (double)(qn_now_us() - begin) * 1e-6);
done:
    *out = m;
    m = NULL;
out:
    pthread_mutex_unlock(&s->looking);
    qn_embeds_release(m);
    return rc;
}

void qn_sight_stats(struct qn_sight *s, struct qn_sight_stats *out)
{
    pthread_mutex_lock(&s->lock);
    *out = s->stats;
    pthread_mutex_unlock(&s->lock);
}
