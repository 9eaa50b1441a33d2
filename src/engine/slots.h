/* Recurrent state slots, and the lanes of pending rows of live sequences.
 * Owned by the engine thread; no locking. A slot is exactly one of free, live (one running sequence),
 * snapshot (immutable, in the prefix tree).
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_SLOTS_H
#define QN_SLOTS_H

#include "base/base.h"

enum qn_slot_kind { QN_SLOT_FREE, QN_SLOT_LIVE, QN_SLOT_SNAPSHOT };

struct qn_slots {
    int n, n_free, n_live, n_snapshot;
    int32_t *free; /* [n] a stack */
    unsigned char *kind;
    int n_lane, n_free_lane;
    int32_t *free_lane;
};

void qn_slots_init(struct qn_slots *s, int n_slot, int n_lane);
void qn_slots_fini(struct qn_slots *s);
int qn_slots_acquire(struct qn_slots *s, enum qn_slot_kind kind);         /* -1 when none is free */
void qn_slots_turn(struct qn_slots *s, int slot, enum qn_slot_kind kind); /* live <-> snapshot */
void qn_slots_release(struct qn_slots *s, int slot);
int qn_slots_acquire_lane(struct qn_slots *s);
void qn_slots_release_lane(struct qn_slots *s, int lane);
void qn_slots_check(const struct qn_slots *s);

#endif
