/* What a running sequence holds of the cache: a state slot, a lane for its pending rows, and the pages of its
 * tokens, the first of which it may share. All of it or nothing.
 * Owned by the engine thread, one a sequence. SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_HOLD_H
#define QN_HOLD_H

#include "engine/cache.h"

struct qn_hold {
    int slot, lane; /* -1: none */
    int32_t *pages; /* [n_page] */
    int n_page, capacity;
};

#define QN_HOLD_NONE ((struct qn_hold){.slot = -1, .lane = -1})

/* For a text of n_tok tokens and one more, resuming from a match (slot -1: from nothing): slot and pages get
 * copies of what it found. false: not enough room, nothing is held. */
bool qn_hold_take(struct qn_hold *h, struct qn_cache *c, const struct qn_match *m, int n_tok);
/* Pages for n_tok tokens. false: none to be had; what it has got it keeps. */
bool qn_hold_grow(struct qn_hold *h, struct qn_cache *c, int n_tok);
/* Page i is exchanged for an equal one of the tree. */
void qn_hold_share(struct qn_hold *h, struct qn_cache *c, int i, int page);
/* The slot goes, or becomes the snapshot at `at` (NULL: none). */
void qn_hold_leave_slot(struct qn_hold *h, struct qn_cache *c, const struct qn_spot *at);
/* Pages and lane go; the slot has gone. */
void qn_hold_drop(struct qn_hold *h, struct qn_cache *c);
void qn_hold_fini(struct qn_hold *h); /* holds nothing */

#endif
