/* Token masks: which tokens keep a grammar state alive, as bits.
 *
 * The vocabulary is a trie built once; a mask is a walk of it with the automaton, pruned where bytes die or
 * where a whole subtree loops in one state, and remembered by (grammar, state) in a cache of bounded size.
 * Owned by one thread (the engine's).
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_MASK_H
#define QN_MASK_H

#include "text/grammar.h"

enum qn_mask_token {
    QN_MASK_TEXT = 0,    /* its bytes are shown */
    QN_MASK_CONTROL = 1, /* never allowed where a grammar constrains (padding, image marks, unused ids) */
    QN_MASK_END = 2,     /* ends the turn: allowed where the grammar may end */
    QN_MASK_MARKER =
        3, /* text, and the one token of a marker (marker.h): allowed where a grammar asks for it */
};

struct qn_mask_vocab {
    int n_vocab; /* rows of the logits; ids without bytes are control tokens */
    /* bytes of token id; sets *n and *kind (enum qn_mask_token) */
    const char *(*bytes)(void *ctx, int id, size_t *n, int *kind);
    void *ctx;
    size_t cache_bytes; /* for remembered masks; 0: 64 MiB */
};

struct qn_mask;

/* Copies what it needs of the vocabulary. */
int qn_mask_create(struct qn_mask **out, const struct qn_mask_vocab *vocab, struct qn_err *e);
/* Caches of its own over the same vocabulary, which outlives it; for another thread. */
struct qn_mask *qn_mask_share(const struct qn_mask *m, size_t cache_bytes);
void qn_mask_free(struct qn_mask *m);

size_t qn_mask_words(const struct qn_mask *m); /* 64-bit words of a mask: (n_vocab + 63) / 64 */
/* Bit id of bits[qn_mask_words] is set when token id is allowed in `state`. Returns the number of allowed
 * tokens; 0 is a dead state (or a vocabulary that cannot spell what the grammar wants). */
int qn_mask_fill(struct qn_mask *m, struct qn_grammar *g, qn_gstate state, uint64_t *bits);
/* Is one token allowed? Cheaper than a mask. */
bool qn_mask_allows(const struct qn_mask *m, struct qn_grammar *g, qn_gstate state, int token);
/* The state after a token: END after an end token where the grammar may end; DEAD when not allowed. */
qn_gstate qn_mask_advance(const struct qn_mask *m, struct qn_grammar *g, qn_gstate state, int token);
/* The only allowed token, or -1: a free draft. Looks at a forced marker and forced bytes only. */
int qn_mask_forced(const struct qn_mask *m, struct qn_grammar *g, qn_gstate state);

struct qn_mask_stats {
    uint64_t n_fill, n_hit; /* masks asked for, and of those found in the cache */
    uint64_t n_node;        /* trie nodes visited */
    size_t trie_bytes, cache_bytes;
};
struct qn_mask_stats qn_mask_stats(const struct qn_mask *m);

#endif
