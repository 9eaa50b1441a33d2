/* The tree of pages.
 * SPDX-License-Identifier: Apache-2.0 */
#include "engine/tree.h"

#include "base/mem.h"

#define MAX_LOST     (1 << 16) /* keys remembered of removed nodes */
#define MAX_SIBLINGS 256       /* looked at for a partial match */

void qn_tree_init(struct qn_tree *t, int n_page)
{
    *t = (struct qn_tree){
        .n_page = n_page, .first_root = -1, .first_root_snap = -1, .oldest = -1, .newest = -1};
    t->node = xcalloc((size_t)n_page, sizeof *t->node);
    t->tok = xcalloc((size_t)n_page * QN_PAGE, sizeof *t->tok);
}

void qn_tree_fini(struct qn_tree *t)
{
    for (int i = 0; i < t->n_page; i++) free(t->node[i].media);
    free(t->node);
    free(t->tok);
    qn_map_free(&t->by_key);
    qn_map_free(&t->lost);
}

/* --- the list by last use --- */

static void unlist(struct qn_tree *t, int page)
{
    struct qn_node *n = &t->node[page];
    *(n->older >= 0 ? &t->node[n->older].newer : &t->oldest) = n->newer;
    *(n->newer >= 0 ? &t->node[n->newer].older : &t->newest) = n->older;
}

static void list_newest(struct qn_tree *t, int page)
{
    struct qn_node *n = &t->node[page];
    n->older = t->newest;
    n->newer = -1;
    *(t->newest >= 0 ? &t->node[t->newest].newer : &t->oldest) = page;
    t->newest = page;
}

void qn_tree_touch(struct qn_tree *t, int last)
{
    /* the deepest first, so that an ancestor is never older than its descendants */
    for (int page = last; page >= 0; page = t->node[page].parent) {
        unlist(t, page);
        list_newest(t, page);
    }
}

/* --- looking --- */

struct qn_words qn_tree_words(const struct qn_tree *t, int page)
{
    return (struct qn_words){.tok = t->tok + (size_t)page * QN_PAGE, .media = t->node[page].media};
}

int *qn_tree_snaps(struct qn_tree *t, int parent)
{
    return parent >= 0 ? &t->node[parent].first_snap : &t->first_root_snap;
}

static int first_child(const struct qn_tree *t, int parent)
{
    return parent >= 0 ? t->node[parent].first_child : t->first_root;
}

static uint64_t next_key(const struct qn_tree *t, const struct qn_prefix *p, int parent)
{
    return qn_prefix_key(p, qn_tree_key(t, p, parent), qn_tree_depth(t, parent));
}

int qn_tree_find(const struct qn_tree *t, const struct qn_prefix *p, int parent)
{
    uint64_t at;
    if (!qn_map_get(&t->by_key, next_key(t, p, parent), &at)) return -1;
    int page = (int)at;
    const struct qn_node *n = &t->node[page];
    if (n->parent != parent || n->root != p->root) return -1;
    struct qn_words words = qn_tree_words(t, page);
    return qn_prefix_common(p, n->depth * QN_PAGE, &words, QN_PAGE) < QN_PAGE ? -1 : page;
}

int qn_tree_common(const struct qn_tree *t, const struct qn_prefix *p, int parent)
{
    int most = 0, n_seen = 0, done = qn_tree_depth(t, parent) * QN_PAGE;
    for (int k = first_child(t, parent); k >= 0 && n_seen < MAX_SIBLINGS; k = t->node[k].next, n_seen++) {
        struct qn_words words = qn_tree_words(t, k);
        if (t->node[k].root == p->root)
            most = QN_MAX(most, qn_prefix_common(p, done, &words, QN_MIN(QN_PAGE, p->n - done)));
    }
    return most;
}

bool qn_tree_was_lost(const struct qn_tree *t, const struct qn_prefix *p, int parent)
{
    return qn_map_get(&t->lost, next_key(t, p, parent), NULL);
}

/* --- coming and going --- */

bool qn_tree_add(struct qn_tree *t, const struct qn_prefix *p, int parent, int page)
{
    uint64_t key = next_key(t, p, parent);
    if (qn_map_get(&t->by_key, key, NULL)) return false;
    QN_CHECK(!t->node[page].key);
    int *first = parent >= 0 ? &t->node[parent].first_child : &t->first_root;
    int at = qn_tree_depth(t, parent) * QN_PAGE;
    t->node[page] = (struct qn_node){.key = key,
                                     .root = p->root,
                                     .parent = parent,
                                     .first_child = -1,
                                     .next = *first,
                                     .prev = -1,
                                     .first_snap = -1,
                                     .media = qn_prefix_keep_media(p, at, QN_PAGE),
                                     .depth = at / QN_PAGE};
    if (*first >= 0) t->node[*first].prev = page;
    *first = page;
    memcpy(t->tok + (size_t)page * QN_PAGE, p->tok + at, QN_PAGE * sizeof *t->tok);
    qn_map_put(&t->by_key, key, (uint64_t)page);
    qn_map_remove(&t->lost, key);
    list_newest(t, page);
    qn_tree_touch(t, parent);
    t->n_node++;
    return true;
}

void qn_tree_remove(struct qn_tree *t, int page)
{
    struct qn_node *n = &t->node[page];
    QN_CHECK(n->key && n->first_child < 0 && n->first_snap < 0);
    if (n->prev >= 0)
        t->node[n->prev].next = n->next;
    else
        *(n->parent >= 0 ? &t->node[n->parent].first_child : &t->first_root) = n->next;
    if (n->next >= 0) t->node[n->next].prev = n->prev;
    unlist(t, page);
    qn_map_remove(&t->by_key, n->key);
    if (t->lost.n >= MAX_LOST) qn_map_free(&t->lost);
    qn_map_put(&t->lost, n->key, 1);
    free(n->media);
    n->media = NULL;
    n->key = 0;
    t->n_node--;
}
