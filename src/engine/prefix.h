/* The hybrid prefix cache: pages in a tree of token chains, and the state snapshots hung into it.
 * Owned by the engine thread; no locking.
 *
 * A prefix can be resumed where both its pages and a snapshot of the recurrent state exist. A node is one
 * full page (64 tokens), its key the hash of its parent's key and its tokens; tokens are compared too. A
 * snapshot stands at any token: behind its parent node, with the tokens of its tail and the page that holds
 * their KV.
 *
 *     root -- node -- node -- node          pages 0, 1, 2
 *               |        \--- node          another page 2
 *               \-- snapshot, tail of 17 tokens, at 64 * 2 + 17
 *
 * Users. A page in use by a sequence is never evicted; a sequence that uses a node uses all of its ancestors.
 * Pages without users are idle: they can be had back, leaves first, longest unused first; a node takes its
 * snapshots with it. Snapshots go by score (tokens saved, hits, age).
 *
 * Copies of state and pages are chores for the rank, in the order of these calls.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_PREFIX_H
#define QN_PREFIX_H

#include "backend/step.h"
#include "base/hash.h"
#include "engine/chores.h"
#include "engine/pages.h"
#include "engine/slots.h"

struct qn_node {
    uint64_t key; /* 0: the page is no node */
    uint64_t root;
    int parent;                  /* page, or -1 */
    int first_child, next, prev; /* siblings */
    int older, newer;            /* in the list by last use */
    int first_snap;              /* slot, or -1 */
    int depth;                   /* pages before it */
    int64_t born;                /* of the cache's clock */
    bool lost_snap;              /* a snapshot behind it was evicted */
    int mtp_from;                /* place from which it has all of the draft layer's KV; QN_PAGE: nothing */
};

struct qn_snap {
    bool is_used;
    bool is_stored; /* in the tiers */
    int parent;     /* page of the last full one, or -1 */
    int next, prev; /* snapshots behind the same node */
    uint64_t root, key;
    int n_tok;
    int tail_page; /* holds the KV of the tail; -1 when n_tok % QN_PAGE is 0 */
    int32_t tail[QN_PAGE];
    int mtp_from; /* position from which its tail has all of the draft layer's KV, and it has the carry; above
                     n_tok: nothing of it */
    int n_pin, n_hit;
    int64_t born, last_use;
};

struct qn_cache_stats {
    uint64_t n_query_tok, n_hit_tok, n_snap_made, n_snap_evicted, n_node_evicted;
    uint64_t n_match; /* walks along a prompt */
};

struct qn_cache {
    struct qn_pages pages;
    struct qn_slots slots;
    struct qn_chores *chores; /* where copies go */
    bool is_off;
    uint64_t fingerprint;
    int n_idle;           /* pages with holders and without users */
    int n_node, n_tail;   /* nodes; snapshots with a tail page */
    int64_t n_use;        /* sum of the users of all pages */
    int32_t *n_user;      /* [n_page] sequences that use it */
    struct qn_node *node; /* [n_page] */
    int32_t *tok;         /* [n_page, QN_PAGE] tokens of nodes */
    struct qn_snap *snap; /* [n_slot] */
    int first_root;       /* first node without a parent */
    int first_root_snap;
    int oldest, newest;         /* nodes by last use */
    struct qn_map by_key, lost; /* key -> page; keys of evicted nodes */
    int64_t clock;              /* admissions: the cache's time */
    uint64_t version; /* nodes and snapshots that came or went: a match is good for one, from 1 on */
    struct qn_cache_stats stats;
    /* Called before a snapshot or node that is not stored leaves, or NULL. */
    void (*on_evict_snap)(void *user, int slot);
    void *user;
};

void qn_cache_init(struct qn_cache *c, int n_page, int n_slot, int n_lane, struct qn_chores *chores);
void qn_cache_fini(struct qn_cache *c);

/* A page for a sequence (held and used once); evicts. -1 when every page is in use. */
int qn_cache_take_page(struct qn_cache *c);
void qn_cache_use_page(struct qn_cache *c, int page); /* holds and uses */
void qn_cache_drop_page(struct qn_cache *c, int page);
int qn_cache_pages_left(const struct qn_cache *c); /* free and idle */
/* A live slot; evicts. -1 when all are live or pinned. */
int qn_cache_take_slot(struct qn_cache *c);

struct qn_match {
    int slot;    /* snapshot to resume from, or -1 */
    int n_tok;   /* its length; 0 without */
    int n_match; /* tokens that the tree knows, >= n_tok */
    int last;    /* page of the last full node before the snapshot, or -1 */
    int end;     /* page of the deepest node that matches, or -1 */
    const char *miss;
};

uint64_t qn_cache_root(const struct qn_cache *c, uint64_t salt);
/* Key of a page behind a parent's key (or a root); the node with these tokens, or -1. */
uint64_t qn_cache_chain(uint64_t parent_key, const int32_t *tok);
int qn_cache_find_node(const struct qn_cache *c, uint64_t root, int parent, const int32_t *tok);
/* The longest resumable prefix of tok[n] that leaves at least one token to run. */
void qn_cache_match(struct qn_cache *c, uint64_t root, const int32_t *tok, int n, struct qn_match *out);
/* Pages of the path that ends in node `last`, first page first: [depth + 1]. */
void qn_cache_path(const struct qn_cache *c, int last, int32_t *pages);
void qn_cache_pin(struct qn_cache *c, int slot, int by); /* +1 or -1 */
/* A use of the path that ends in `last`, and of a snapshot (or -1). */
void qn_cache_touch(struct qn_cache *c, int last, int slot);

/* Position from which the draft layer's KV of the prefix up to a snapshot (or -1: none) is whole; above
 * n_tok: nothing of it, nor the carry. last: as in qn_match. */
int qn_cache_mtp_from(const struct qn_cache *c, int slot, int last);

/* Makes page a node behind `parent` with these tokens. Returns the node that stands for them: page itself, or
 * an equal one that was there. -1 when the cache is off. */
int qn_cache_insert(struct qn_cache *c, uint64_t root, int parent, const int32_t *tok, int page,
                    int mtp_from);

/* Is there a snapshot of exactly this prefix? tail: the n_tok % QN_PAGE tokens behind node `parent`. */
int qn_cache_find_snap(const struct qn_cache *c, uint64_t root, int parent, int n_tok, const int32_t *tail);
/* A copy of live slot `slot` (committed state of n_tok tokens) becomes a snapshot. Nothing happens when there
 * is one, or when no slot is worth less. Returns its slot or -1. */
int qn_cache_copy_snap(struct qn_cache *c, uint64_t root, int parent, int n_tok, const int32_t *tail,
                       int tail_page, int slot, int mtp_from);
/* The live slot itself becomes the snapshot, or is released when there is one already. */
void qn_cache_give_snap(struct qn_cache *c, uint64_t root, int parent, int n_tok, const int32_t *tail,
                        int tail_page, int slot, int mtp_from);
void qn_cache_evict_snap(struct qn_cache *c, int slot);
void qn_cache_evict_node(struct qn_cache *c, int page); /* a leaf without users */

/* Takes back what a sequence put on the path that ends in node `last`, where nobody uses it and nobody's path
 * goes on: nodes behind the first n_keep_page, snapshots made since `since` (of the cache's clock). Nothing
 * of it goes to the tiers. */
void qn_cache_forget(struct qn_cache *c, uint64_t root, const int32_t *tok, int last, int n_keep_page,
                     int64_t since);
/* Everything without users goes. */
void qn_cache_clear(struct qn_cache *c);
/* Stops the process when what the counters say of pages, slots and lanes does not add up with n_live running
 * sequences that use n_use pages: a page or slot leaked or given back twice. Costs the same for any number of
 * pages. */
void qn_cache_check_sums(const struct qn_cache *c, int n_live, int64_t n_use);
/* Stops the process when a list, a count or a holder is wrong: walks all of it, for tests. n_used: [n_page]
 * holders that are sequences, or NULL when there are none. */
void qn_cache_check(const struct qn_cache *c, const int32_t *n_used);

#endif
