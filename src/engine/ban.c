/* Forbidden token sequences.
 * SPDX-License-Identifier: Apache-2.0 */
#include "engine/ban.h"

#include "base/mem.h"

struct node {
    int32_t tok; /* that leads here */
    int parent;
    int first, next; /* children as a list; -1: none */
    int fail;        /* the longest proper end of this path that is a path */
    bool is_end;     /* a whole sequence */
};

struct qn_ban {
    struct node *nodes; /* [n_node], 0 is the root */
    int n_node;
};

static int child_of(const struct qn_ban *b, int at, int32_t tok)
{
    for (int i = b->nodes[at].first; i >= 0; i = b->nodes[i].next)
        if (b->nodes[i].tok == tok) return i;
    return -1;
}

/* Children of the root are many: they are kept sorted by nothing, looked up through the list all the same,
 * as a request has few sequences. */
static int add_child(struct qn_ban *b, int at, int32_t tok)
{
    int i = b->n_node++;
    b->nodes[i] = (struct node){.tok = tok, .parent = at, .first = -1, .next = b->nodes[at].first};
    b->nodes[at].first = i;
    return i;
}

struct qn_ban *qn_ban_create(const int32_t *tok, const int *len, int n)
{
    struct qn_ban *b = xcalloc(1, sizeof *b);
    size_t n_tok = 0;
    for (int i = 0; i < n; i++) n_tok += (size_t)len[i];
    b->nodes = xcalloc(n_tok + 1, sizeof *b->nodes);
    b->nodes[b->n_node++] = (struct node){.tok = -1, .parent = -1, .first = -1, .next = -1};
    for (int i = 0; i < n; i++) {
        int at = 0;
        for (int k = 0; k < len[i]; k++) {
            int to = child_of(b, at, tok[k]);
            at = to >= 0 ? to : add_child(b, at, tok[k]);
        }
        b->nodes[at].is_end = true;
        tok += len[i];
    }
    /* breadth first: parents' ends are known before those of their children */
    int *order = xcalloc((size_t)b->n_node, sizeof *order), n_order = 1;
    for (int i = 0; i < n_order; i++) {
        int at = order[i];
        for (int c = b->nodes[at].first; c >= 0; c = b->nodes[c].next) {
            order[n_order++] = c;
            if (at) b->nodes[c].fail = qn_ban_next(b, b->nodes[at].fail, b->nodes[c].tok);
        }
    }
    free(order);
    return b;
}

void qn_ban_free(struct qn_ban *b)
{
    if (!b) return;
    free(b->nodes);
    free(b);
}

int qn_ban_next(const struct qn_ban *b, int state, int32_t tok)
{
    for (;; state = b->nodes[state].fail) {
        int to = child_of(b, state, tok);
        if (to >= 0) return to;
        if (!state) return 0;
    }
}

bool qn_ban_allows(const struct qn_ban *b, int state, int32_t tok)
{
    for (;; state = b->nodes[state].fail) {
        int to = child_of(b, state, tok);
        if (to >= 0 && b->nodes[to].is_end) return false;
        if (!state) return true;
    }
}

int qn_ban_clear(const struct qn_ban *b, int state, uint32_t *words)
{
    int n = 0;
    for (;; state = b->nodes[state].fail) {
        for (int c = b->nodes[state].first; c >= 0; c = b->nodes[c].next) {
            int32_t tok = b->nodes[c].tok;
            uint32_t bit = 1u << tok % 32;
            if (!b->nodes[c].is_end || !(words[tok / 32] & bit)) continue;
            words[tok / 32] &= ~bit;
            n++;
        }
        if (!state) return n;
    }
}
