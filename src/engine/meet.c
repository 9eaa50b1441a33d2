/* Meetings of threads.
 * SPDX-License-Identifier: Apache-2.0 */
#include "engine/meet.h"

#include "base/mem.h"
#include "dist/local.h"

struct place {
    struct qn_local *group;
    int rank;
};

struct qn_meet_local {
    struct qn_local *group;
    struct place *place;  /* [n] */
    struct qn_meet *seat; /* [n] */
};

static void sum(void *user, struct qn_device *d, enum qn_meeting at, float *p, int n_row, int width)
{
    (void)d;
    (void)at;
    const struct place *s = user;
    qn_local_sum(s->group, s->rank, p, (size_t)n_row * (size_t)width);
}

static void gather(void *user, struct qn_device *d, const struct qn_gather *g)
{
    (void)d;
    const struct place *s = user;
    qn_local_gather(s->group, s->rank, (struct qn_local_part){g->part, g->first, g->n}, g->n_row, g->whole,
                    g->width);
}

struct qn_meet_local *qn_meet_local_create(int n)
{
    struct qn_meet_local *m = xcalloc(1, sizeof *m);
    m->group = qn_local_create(n);
    m->place = xcalloc((size_t)n, sizeof *m->place);
    m->seat = xcalloc((size_t)n, sizeof *m->seat);
    for (int i = 0; i < n; i++) {
        m->place[i] = (struct place){m->group, i};
        m->seat[i] = (struct qn_meet){.user = &m->place[i], .sum = sum, .gather = gather};
    }
    return m;
}

void qn_meet_local_free(struct qn_meet_local *m)
{
    if (!m) return;
    qn_local_free(m->group);
    free(m->place);
    free(m->seat);
    free(m);
}

const struct qn_meet *qn_meet_local_seats(const struct qn_meet_local *m)
{
    return m->seat;
}
