/* Open-addressing map with linear probing and backward-shift removal.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/hash.h"

#include "base/mem.h"

void qn_map_free(struct qn_map *m)
{
    free(m->keys);
    free(m->values);
    *m = (struct qn_map){0};
}

static size_t home(const struct qn_map *m, uint64_t key)
{
    return qn_mix64(key) & (m->capacity - 1);
}

/* The place of key, or the empty place where it would go. */
static size_t find(const struct qn_map *m, uint64_t key)
{
    size_t i = home(m, key);
    while (m->keys[i] && m->keys[i] != key) i = (i + 1) & (m->capacity - 1);
    return i;
}

static void grow(struct qn_map *m)
{
    struct qn_map old = *m;
    m->capacity = old.capacity ? old.capacity * 2 : 64;
    m->keys = xcalloc(m->capacity, sizeof *m->keys);
    m->values = xcalloc(m->capacity, sizeof *m->values);
    for (size_t i = 0; i < old.capacity; i++) {
        if (!old.keys[i]) continue;
        size_t at = find(m, old.keys[i]);
        m->keys[at] = old.keys[i];
        m->values[at] = old.values[i];
    }
    free(old.keys);
    free(old.values);
}

void qn_map_put(struct qn_map *m, uint64_t key, uint64_t value)
{
    QN_CHECK(key);
    if (m->n * 4 >= m->capacity * 3) grow(m);
    size_t at = find(m, key);
    if (!m->keys[at]) m->n++;
    m->keys[at] = key;
    m->values[at] = value;
}

bool qn_map_get(const struct qn_map *m, uint64_t key, uint64_t *value)
{
    if (!m->capacity || !key) return false;
    size_t at = find(m, key);
    if (!m->keys[at]) return false;
    if (value) *value = m->values[at];
    return true;
}

bool qn_map_remove(struct qn_map *m, uint64_t key)
{
    if (!m->capacity || !key) return false;
    size_t hole = find(m, key);
    if (!m->keys[hole]) return false;
    m->keys[hole] = 0;
    m->n--;
    for (size_t i = (hole + 1) & (m->capacity - 1); m->keys[i]; i = (i + 1) & (m->capacity - 1)) {
        size_t want = home(m, m->keys[i]);
        /* move i into the hole unless its home lies cyclically in (hole, i] */
        bool stays = hole <= i ? want > hole && want <= i : want > hole || want <= i;
        if (stays) continue;
        m->keys[hole] = m->keys[i];
        m->values[hole] = m->values[i];
        m->keys[i] = 0;
        hole = i;
    }
    return true;
}
