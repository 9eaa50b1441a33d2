/* Stop strings.
 * SPDX-License-Identifier: Apache-2.0 */
#include "text/stops.h"

#include "base/mem.h"

#define MAX_HELD ((size_t)1 << 20)

void qn_stops_init(struct qn_stops *st, const char *const *stops, int n, bool include)
{
    *st = (struct qn_stops){.n = n, .include = include};
    qn_buf_init(&st->held, MAX_HELD);
    if (!n) return;
    st->text = xcalloc((size_t)n, sizeof *st->text);
    st->n_byte = xcalloc((size_t)n, sizeof *st->n_byte);
    for (int i = 0; i < n; i++) {
        st->n_byte[i] = strlen(stops[i]);
        st->text[i] = xstrdup(stops[i]);
    }
}

void qn_stops_free(struct qn_stops *st)
{
    for (int i = 0; i < st->n; i++) free(st->text[i]);
    free(st->text);
    free(st->n_byte);
    qn_buf_free(&st->held);
    *st = (struct qn_stops){0};
}

/* The longest string that the held text ends with, or -1. */
static int find_hit(const struct qn_stops *st)
{
    int hit = -1;
    for (int i = 0; i < st->n; i++) {
        size_t n = st->n_byte[i];
        if (!n || n > st->held.n_byte || (hit >= 0 && n <= st->n_byte[hit])) continue;
        if (!memcmp(st->held.data + st->held.n_byte - n, st->text[i], n)) hit = i;
    }
    return hit;
}

static bool may_become_stop(const struct qn_stops *st, const char *s, size_t n)
{
    for (int i = 0; i < st->n; i++)
        if (st->n_byte[i] > n && !memcmp(st->text[i], s, n)) return true;
    return false;
}

int qn_stops_feed(struct qn_stops *st, const char *text, size_t n, struct qn_buf *out)
{
    if (!st->n) {
        qn_buf_append(out, text, n);
        return -1;
    }
    for (size_t i = 0; i < n; i++) {
        qn_buf_putc(&st->held, text[i]);
        int hit = find_hit(st);
        if (hit >= 0) {
            qn_buf_append(out, st->held.data, st->held.n_byte - (st->include ? 0 : st->n_byte[hit]));
            qn_buf_clear(&st->held);
            return hit;
        }
        size_t free_to = 0, n_held = st->held.n_byte;
        while (free_to < n_held && !may_become_stop(st, st->held.data + free_to, n_held - free_to)) free_to++;
        qn_buf_append(out, st->held.data, free_to);
        qn_buf_drop(&st->held, free_to);
    }
    return -1;
}

void qn_stops_end(struct qn_stops *st, struct qn_buf *out)
{
    qn_buf_append(out, qn_buf_str(&st->held), st->held.n_byte);
    qn_buf_clear(&st->held);
}
