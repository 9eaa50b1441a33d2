/* What the two files of terms share. Not included elsewhere.
 *
 *   term.c         storage, makers, what can be asked of a term, sealing
 *   term_derive.c  derivatives and their rows, whether a language is empty, whether it is cheap
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_TERM_IMPL_H
#define QN_TERM_IMPL_H

#include "base/mem.h"
#include "text/freetext.h"
#include "text/term.h"

#define MAX_RECURSION 1000
#define UNKNOWN       UINT32_MAX
#define N_SYMBOL      (256 + QN_N_MARKER) /* bytes, then markers */

enum kind {
    EMPTY,
    EPS,
    ANY,
    CLASS,   /* a: set */
    LIT,     /* a: pool offset, b: bytes */
    SEQ,     /* a, b */
    ALT,     /* a: list offset, b: count */
    REPEAT,  /* a, b: min, c: max */
    RULE,    /* a: rule */
    AND,     /* a, b; c: checked */
    NOT,     /* a */
    OBJECT,  /* a: object, b|c: members given (or index of the next), d bit 0: not the first member */
    TEXT,    /* a: context, b|c: struct qn_freetext */
    TRIGGER, /* a: trigger, b: word, c: bytes of it read */
    MARKER,  /* a: marker */
};

struct term {
    uint8_t kind;
    uint8_t nullable; /* 0 unknown, 1 no, 2 yes */
    uint8_t alive;    /* of AND: 0 unknown, 1 no, 2 yes */
    uint8_t d;
    uint32_t a, b, c;
    uint32_t expanded; /* of OBJECT; UNKNOWN before */
};

struct set {
    uint64_t bits[4];
};

struct row {
    qn_term next[N_SYMBOL];
    uint64_t loop[4], first[4];
    bool is_full;
};

/* The derivative of a term that has no row: parts are shared by many alternatives. */
struct memo {
    uint64_t key; /* 1 + term and symbol; 0: empty */
    qn_term out;
};

struct object {
    struct qn_term_object def;
    struct qn_term_member *members;
};

/* Free text of one parameter: which other names are still open. */
struct context {
    uint32_t object;
    uint64_t given;
    struct qn_freetext_key *keys;
    int n_key;
};

struct trigger {
    char **words;
    size_t *lens;
    qn_term *next;
    int n;
    bool may_end;
    uint64_t first[4]; /* bytes some word starts with */
};

#define GROWABLE(type, name)                                                                                 \
    type *name;                                                                                              \
    uint32_t n_##name, cap_##name

struct qn_terms {
    size_t widest;
    GROWABLE(struct term, terms);
    GROWABLE(char, pool);
    GROWABLE(qn_term, lists);
    GROWABLE(struct set, sets);
    GROWABLE(struct object, objects);
    GROWABLE(struct context, contexts);
    GROWABLE(struct trigger, triggers);
    GROWABLE(qn_term, rules); /* bodies */
    uint8_t *rule_busy, *rule_nullable;
    uint32_t *table; /* hash -> term, open addressing */
    uint32_t table_size;
    struct row **rows; /* [cap_terms] */
    struct memo *memo; /* [N_MEMO], made when first needed */
    uint32_t n_row;
    uint64_t n_search, n_work;
    uint32_t max_terms;
    int depth;
    int failed;
    char cap[80]; /* the one that was met, for messages */
    bool is_sealed, has_marker;
    bool in_rule; /* of qn_term_nullable before sealing */
};

/* A cap was met: terms made from now on are EMPTY. */
#define TT_FAIL(t, ...)                                                                                      \
    do {                                                                                                     \
        if (!(t)->failed) snprintf((t)->cap, sizeof(t)->cap, __VA_ARGS__);                                   \
        (t)->failed = QN_TOOBIG;                                                                             \
    } while (0)
#define GROW(t, name, more)                                                                                  \
    do {                                                                                                     \
        while ((t)->n_##name + (more) > (t)->cap_##name) {                                                   \
            (t)->cap_##name = (t)->cap_##name ? 2 * (t)->cap_##name : 64;                                    \
            (t)->name = xreallocarray((t)->name, (t)->cap_##name, sizeof *(t)->name);                        \
        }                                                                                                    \
    } while (0)

static inline bool has_bit(const uint64_t set[4], unsigned char b)
{
    return set[b >> 6] >> (b & 63) & 1;
}

static inline struct qn_freetext text_state(const struct term *x)
{
    struct qn_freetext state;
    uint32_t word[2] = {x->b, x->c};
    memcpy(&state, word, sizeof state);
    return state;
}

/* The number of a term, that of its equal if there is one. */
qn_term tt_intern(struct qn_terms *t, struct term x);
qn_term tt_make(struct qn_terms *t, enum kind kind, uint32_t a, uint32_t b, uint32_t c);
/* Is there a text in the intersection `checked`? True also where finding out would cost too much. */
bool tt_is_alive(struct qn_terms *t, qn_term checked);

#endif
