/* State slots and lanes.
 * SPDX-License-Identifier: Apache-2.0 */
#include "engine/slots.h"

#include "base/mem.h"

void qn_slots_init(struct qn_slots *s, int n_slot, int n_lane)
{
    QN_CHECK(n_slot > 0 && n_lane > 0);
    *s = (struct qn_slots){.n = n_slot, .n_free = n_slot, .n_lane = n_lane, .n_free_lane = n_lane};
    s->free = xcalloc((size_t)n_slot, sizeof *s->free);
    s->kind = xcalloc((size_t)n_slot, 1);
    s->free_lane = xcalloc((size_t)n_lane, sizeof *s->free_lane);
    for (int i = 0; i < n_slot; i++) s->free[i] = n_slot - 1 - i;
    for (int i = 0; i < n_lane; i++) s->free_lane[i] = n_lane - 1 - i;
}

void qn_slots_fini(struct qn_slots *s)
{
    free(s->free);
    free(s->kind);
    free(s->free_lane);
    *s = (struct qn_slots){0};
}

static void count(struct qn_slots *s, enum qn_slot_kind kind, int by)
{
    if (kind == QN_SLOT_LIVE) s->n_live += by;
    if (kind == QN_SLOT_SNAPSHOT) s->n_snapshot += by;
}

int qn_slots_acquire(struct qn_slots *s, enum qn_slot_kind kind)
{
    QN_CHECK(kind != QN_SLOT_FREE);
    if (!s->n_free) return -1;
    int slot = s->free[--s->n_free];
    QN_CHECK(s->kind[slot] == QN_SLOT_FREE);
    s->kind[slot] = (unsigned char)kind;
    count(s, kind, 1);
    return slot;
}

void qn_slots_turn(struct qn_slots *s, int slot, enum qn_slot_kind kind)
{
    QN_CHECK(kind != QN_SLOT_FREE && s->kind[slot] != QN_SLOT_FREE);
    count(s, (enum qn_slot_kind)s->kind[slot], -1);
    s->kind[slot] = (unsigned char)kind;
    count(s, kind, 1);
}

void qn_slots_release(struct qn_slots *s, int slot)
{
    QN_CHECK(slot >= 0 && slot < s->n && s->kind[slot] != QN_SLOT_FREE);
    count(s, (enum qn_slot_kind)s->kind[slot], -1);
    s->kind[slot] = QN_SLOT_FREE;
    s->free[s->n_free++] = slot;
}

int qn_slots_acquire_lane(struct qn_slots *s)
{
    return s->n_free_lane ? s->free_lane[--s->n_free_lane] : -1;
}

void qn_slots_release_lane(struct qn_slots *s, int lane)
{
    QN_CHECK(lane >= 0 && lane < s->n_lane && s->n_free_lane < s->n_lane);
    s->free_lane[s->n_free_lane++] = lane;
}

void qn_slots_check(const struct qn_slots *s)
{
    int n[3] = {0};
    for (int i = 0; i < s->n; i++) n[s->kind[i]]++;
    QN_CHECK(n[QN_SLOT_FREE] == s->n_free && n[QN_SLOT_LIVE] == s->n_live &&
             n[QN_SLOT_SNAPSHOT] == s->n_snapshot);
    for (int i = 0; i < s->n_free; i++) {
        QN_CHECK(s->kind[s->free[i]] == QN_SLOT_FREE);
        for (int k = 0; k < i; k++) QN_CHECK(s->free[k] != s->free[i]);
    }
    for (int i = 0; i < s->n_free_lane; i++)
        for (int k = 0; k < i; k++) QN_CHECK(s->free_lane[k] != s->free_lane[i]);
}
