/* The tree of pages in the prefix cache: chains of tokens, a page a node, found by the hash of the chain.
 * Owned by the cache; pages are its numbers. Knows nothing of who uses a page, nor what snapshots are: it
 * keeps where their lists begin. SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_TREE_H
#define QN_TREE_H

#include "base/hash.h"
#include "engine/prefix.h"

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
    uint64_t *media;             /* [QN_PAGE] as in qn_words, or NULL */
    int mtp_from;                /* place from which it has all of the draft layer's KV; QN_PAGE: nothing */
};

struct qn_tree {
    int n_page, n_node;
    struct qn_node *node; /* [n_page] */
    int32_t *tok;         /* [n_page, QN_PAGE] tokens of nodes */
    int first_root;       /* first node without a parent */
    int first_root_snap;
    int oldest, newest;   /* by last use */
    struct qn_map by_key; /* -> page */
    struct qn_map lost;   /* keys of nodes that were removed, for a while */
};

void qn_tree_init(struct qn_tree *t, int n_page);
void qn_tree_fini(struct qn_tree *t);
static inline int qn_tree_depth(const struct qn_tree *t, int parent) /* pages up to it; -1: none */
{
    return parent >= 0 ? t->node[parent].depth + 1 : 0;
}
static inline uint64_t qn_tree_key(const struct qn_tree *t, const struct qn_prefix *p, int parent)
{
    return parent >= 0 ? t->node[parent].key : p->root;
}
struct qn_words qn_tree_words(const struct qn_tree *t, int page); /* of a node: [QN_PAGE] */
/* Where the list of snapshots behind a node, or behind none (-1), begins. */
int *qn_tree_snaps(struct qn_tree *t, int parent);
/* The node that is the page of p behind `parent`, or -1. */
int qn_tree_find(const struct qn_tree *t, const struct qn_prefix *p, int parent);
/* How far into that page nodes behind `parent` go with p, in tokens. */
int qn_tree_common(const struct qn_tree *t, const struct qn_prefix *p, int parent);
bool qn_tree_was_lost(const struct qn_tree *t, const struct qn_prefix *p, int parent);
/* Makes page the node of p behind `parent`, as the one used last. false: its key is one of other tokens. */
bool qn_tree_add(struct qn_tree *t, const struct qn_prefix *p, int parent, int page);
void qn_tree_remove(struct qn_tree *t, int page); /* a leaf without snapshots */
/* A use of the path that ends in `last`. */
void qn_tree_touch(struct qn_tree *t, int last);

#endif
