/* The tiers behind the prefix cache: copies of pages and snapshots in RAM, and in files that survive a
 * restart.
 *
 * Owned by the engine thread. A blob is one full page, or one snapshot (state, and the page of its tail).
 * Blobs are found by the same chained keys as the tree's nodes, and their tokens are compared. Copies between
 * device and RAM are chores of the rank; all file work is the copier's (engine/store.h). Whoever wants what
 * is only on disk waits for the read; the engine does not. tier.c says what is kept where, and the states of
 * a blob. SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_TIER_H
#define QN_TIER_H

#include "base/mail.h"
#include "engine/cache.h"
#include "engine/stats.h"

struct qn_tier_options {
    size_t page_bytes, slot_bytes;
    int64_t ram_bytes;    /* budget of blobs in RAM */
    const char *folder;   /* or NULL: RAM only */
    int64_t disk_bytes;   /* 0: default */
    int64_t write_bytes;  /* that may be written a day; 0: default; -1: no limit */
    uint64_t fingerprint; /* of model and layout of pages and slots */
    struct qn_mail *home; /* where the copier's letters go, with this kind */
    int letter_kind;
};

struct qn_tier;

/* Errors: QN_IO when the folder cannot be made or read. */
int qn_tier_open(struct qn_tier **out, struct qn_cache *c, const struct qn_tier_options *o, struct qn_err *e);
void qn_tier_close(struct qn_tier *t); /* with nothing busy; NULL is allowed */

/* Copies a snapshot and the pages of its path that are not here yet: read chores of at most max_bytes, the
 * snapshot last. */
enum qn_tier_saved { QN_TIER_SAVED, QN_TIER_MORE, QN_TIER_NO_ROOM };
enum qn_tier_saved qn_tier_save(struct qn_tier *t, int slot, int64_t max_bytes);

/* What a prefix waits for: reads up to this one, work of the rank, letters of the copier. Zero: nothing. */
struct qn_tier_wait {
    int64_t fetch, work, reply;
};

/* Brings the longest prefix of p that is longer than n_have back into the cache: write chores of at most
 * max_bytes, and nodes and at last a snapshot that the next match finds. *n_tok grows by what was brought
 * back. */
enum qn_tier_promoted {
    QN_TIER_NOTHING, /* no longer prefix is here, until qn_tier_version is another */
    QN_TIER_TRIED,   /* what there is room for is back */
    QN_TIER_WAIT,    /* not yet, *wait says what for; call again when it is over */
};
enum qn_tier_promoted qn_tier_promote(struct qn_tier *t, const struct qn_prefix *p, int n_have,
                                      int64_t max_bytes, struct qn_tier_wait *wait, int *n_tok);
uint64_t qn_tier_version(const struct qn_tier *t); /* pages and snapshots that came, from 1 on */
bool qn_tier_is_over(const struct qn_tier *t, const struct qn_tier_wait *wait);

/* Takes back what a sequence put here by way of the cache: of its text p, pages behind the first n_keep_page
 * and snapshots, as far as they came at `since` (of the cache's clock) or later. What is being copied goes
 * once that is over, unread. */
void qn_tier_drop(struct qn_tier *t, const struct qn_prefix *p, int n_keep_page, int64_t since);

/* Work was published; it came back (its chores are done: blobs it filled go to the copier). */
void qn_tier_published(struct qn_tier *t);
void qn_tier_returned(struct qn_tier *t);
/* A letter of the copier. */
void qn_tier_letter(struct qn_tier *t, struct qn_letter *letter);
bool qn_tier_is_copying(const struct qn_tier *t); /* the copier has letters */
void qn_tier_stats(const struct qn_tier *t, struct qn_tier_stats *out);

#endif
