/* The hybrid prefix cache: pages in a tree of token chains, and the state snapshots hung into it.
 * Owned by the engine thread; no locking. Its fields are its own: whoever else wants something of it asks.
 *
 * A prefix can be resumed where both its pages and a snapshot of the recurrent state exist. A node is one
 * full page (64 tokens), its key the hash of its parent's key and its tokens; tokens are compared too. Where
 * there are media, what they show is part of both: pages of two pictures are never the same page. A snapshot
 * stands at any token: behind its parent node, with the tokens of its tail and the page that holds their KV.
 *
 *     root -- node -- node -- node          pages 0, 1, 2
 *               |        \--- node          another page 2
 *               \-- snapshot, tail of 17 tokens, at 64 * 2 + 17
 *
 * Users. A page in use by a sequence is never evicted; a sequence that uses a node uses all of its ancestors.
 * Pages without users are idle: they can be had back (cache.c says in which order); a node takes its
 * snapshots with it.
 *
 * Copies of state and pages are chores for the rank, in the order of these calls.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_CACHE_H
#define QN_CACHE_H

#include "backend/step.h"
#include "engine/chores.h"
#include "engine/tree.h"

struct qn_cache;

/* Where a snapshot stands: behind the first n_tok tokens of a text. */
struct qn_spot {
    const struct qn_prefix *of;
    int n_tok;
    int parent;    /* page of the last full node before it, or -1 */
    int tail_page; /* has the KV of the n_tok % QN_PAGE tokens behind that; -1: there are none */
    int mtp_from;  /* position from which the tail has all of the draft layer's KV, and there is the carry;
                      above n_tok: nothing of it */
};

struct qn_snap {
    bool is_used;
    bool is_stored; /* in the tiers, or not worth it */
    int parent;     /* page of the last full one, or -1 */
    int next, prev; /* snapshots behind the same node */
    uint64_t root, key;
    int n_tok;
    int tail_page; /* holds the KV of the tail; -1 when n_tok % QN_PAGE is 0 */
    int32_t tail[QN_PAGE];
    uint64_t *media; /* [QN_PAGE] of the tail, or NULL */
    int mtp_from;    /* as in qn_spot */
    int n_pin, n_hit;
    int64_t born, last_use;
};

struct qn_cache_stats {
    int n_page, n_page_free, n_page_idle; /* idle: known, used by nobody */
    int n_slot, n_slot_live, n_slot_snapshot;
    uint64_t n_query_tok, n_hit_tok, n_snap_made, n_snap_evicted, n_node_evicted;
    uint64_t n_match; /* walks along a prompt */
};

struct qn_cache_options {
    int n_page, n_slot, n_lane;
    struct qn_chores *chores; /* where copies go */
    uint64_t fingerprint;     /* of the model */
    bool is_off;              /* pools, and nothing is kept */
};

struct qn_cache *qn_cache_create(const struct qn_cache_options *o);
void qn_cache_free(struct qn_cache *c); /* NULL is allowed */
/* f is called before a snapshot that is not stored leaves; NULL: nobody is. */
void qn_cache_on_evict(struct qn_cache *c, void (*f)(void *user, int slot), void *user);

uint64_t qn_cache_root(const struct qn_cache *c, uint64_t salt);
bool qn_cache_is_off(const struct qn_cache *c);
int64_t qn_cache_clock(const struct qn_cache *c);    /* its time: admissions */
uint64_t qn_cache_version(const struct qn_cache *c); /* nodes, snapshots that came or went; from 1 on */
void qn_cache_stats(const struct qn_cache *c, struct qn_cache_stats *out);
const struct qn_node *qn_cache_node(const struct qn_cache *c, int page);
struct qn_words qn_cache_words(const struct qn_cache *c, int page); /* of a node: [QN_PAGE] */
const struct qn_snap *qn_cache_snap(const struct qn_cache *c, int slot);
bool qn_cache_has_key(const struct qn_cache *c, uint64_t key);
/* Of the snapshots that are not stored the one used longest ago, or last. -1: none. */
int qn_cache_unstored(const struct qn_cache *c, bool is_oldest);
void qn_cache_set_stored(struct qn_cache *c, int slot);

/* --- pages, slots, lanes of running sequences (engine/hold.h puts them together) --- */

/* A page for a sequence (held and used once); evicts. -1 when every page is in use. */
int qn_cache_take_page(struct qn_cache *c);
void qn_cache_use_page(struct qn_cache *c, int page); /* holds and uses */
void qn_cache_drop_page(struct qn_cache *c, int page);
int qn_cache_pages_left(const struct qn_cache *c); /* free and idle */
/* A live slot; evicts. -1 when all are live or pinned. */
int qn_cache_take_slot(struct qn_cache *c);
void qn_cache_drop_slot(struct qn_cache *c, int slot);
int qn_cache_lanes_left(const struct qn_cache *c);
int qn_cache_take_lane(struct qn_cache *c);
void qn_cache_drop_lane(struct qn_cache *c, int lane);

/* --- matching and resuming --- */

struct qn_match {
    int slot;    /* snapshot to resume from, or -1 */
    int n_tok;   /* its length; 0 without */
    int n_match; /* tokens that the tree knows, >= n_tok */
    int last;    /* page of the last full node before the snapshot, or -1 */
    int end;     /* page of the deepest node that matches, or -1 */
    const char *miss;
};

/* The longest resumable prefix of p that leaves at least one token to run. */
void qn_cache_match(struct qn_cache *c, const struct qn_prefix *p, struct qn_match *out);
/* The node that is the page of p behind node `parent` (-1: its first page), or -1. */
int qn_cache_find_node(const struct qn_cache *c, const struct qn_prefix *p, int parent);
/* Pages of the path that ends in node `last`, first page first: [depth + 1]. */
void qn_cache_path(const struct qn_cache *c, int last, int32_t *pages);
void qn_cache_pin(struct qn_cache *c, int slot, int by); /* +1 or -1 */
/* A sequence of n_tok tokens was admitted: the clock goes on. With a match, a live slot and the page behind
 * the full ones get copies of what it found, and its path was used. */
void qn_cache_resume(struct qn_cache *c, const struct qn_match *m, int n_tok, int slot, int tail_page);
/* Position from which the draft layer's KV of the prefix up to a snapshot (or -1: none) is whole; above
 * n_tok: nothing of it, nor the carry. last: as in qn_match. */
int qn_cache_mtp_from(const struct qn_cache *c, int slot, int last);

/* --- growing --- */

/* Makes `page` the node of p behind `parent`. Returns the node that stands for those tokens: page itself, or
 * an equal one that was there. -1 when the cache is off, or keys collide. */
int qn_cache_insert(struct qn_cache *c, const struct qn_prefix *p, int parent, int page, int mtp_from);
/* The snapshot of exactly this prefix, or -1. */
int qn_cache_find_snap(const struct qn_cache *c, const struct qn_spot *at);
/* A copy of live slot `slot` (committed state) becomes a snapshot. Nothing happens when there is one, or when
 * no slot is worth less. Returns its slot or -1. */
int qn_cache_copy_snap(struct qn_cache *c, const struct qn_spot *at, int slot);
/* The live slot itself becomes the snapshot, or is given back when there is one already. */
void qn_cache_give_snap(struct qn_cache *c, const struct qn_spot *at, int slot);

/* --- bytes, for the tiers and sequences that leave: chores --- */

void qn_cache_fold(struct qn_cache *c, int slot, int lane, int n_commit); /* pending rows, into the slot */
void qn_cache_read_page(struct qn_cache *c, int page, void *to);
void qn_cache_write_page(struct qn_cache *c, int page, void *from);
void qn_cache_read_slot(struct qn_cache *c, int slot, void *to);
void qn_cache_write_slot(struct qn_cache *c, int slot, void *from);

/* --- shrinking --- */

void qn_cache_evict_snap(struct qn_cache *c, int slot);
void qn_cache_evict_node(struct qn_cache *c, int page); /* a leaf without users */
/* Takes back what a sequence put on the path of p that ends in node `last`, where nobody uses it and nobody's
 * path goes on: nodes behind the first n_keep_page, snapshots made since `since` (of the cache's clock).
 * Nothing of it goes to the tiers. */
void qn_cache_forget(struct qn_cache *c, const struct qn_prefix *p, int last, int n_keep_page, int64_t since);
/* Everything without users goes. */
void qn_cache_clear(struct qn_cache *c);

/* --- invariants --- */

/* Stops the process when what the counters say of pages, slots and lanes does not add up with n_live running
 * sequences that use n_use pages: a page or slot leaked or given back twice. Costs the same for any number of
 * pages. */
void qn_cache_check_sums(const struct qn_cache *c, int n_live, int64_t n_use);
/* Stops the process when a list, a count or a holder is wrong: walks all of it, for tests. n_used: [n_page]
 * holders that are sequences, or NULL when there are none. */
void qn_cache_check(const struct qn_cache *c, const int32_t *n_used);

#endif
