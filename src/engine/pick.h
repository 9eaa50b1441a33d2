/* The host's side of choosing a token: what rows may pick, the penalty history, log-probabilities of text.
 * Owned by the engine thread, one a sequence. A cursor walks along the tokens one by one; a copy of it walks
 * along drafts, so the rule of a row is the one it would have without speculation.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_PICK_H
#define QN_PICK_H

#include "base/hash.h"
#include "engine/ban.h"
#include "engine/request.h"
#include "text/mask.h"

struct qn_pick {
    const struct qn_request_params *params;
    int n_new;            /* tokens picked so far */
    bool in_think;        /* in an open think block that can be closed */
    int n_think;          /* tokens in it */
    int think_limit;      /* of them, before it is closed */
    int n_forced;         /* tokens of think_close that were forced */
    struct qn_mask *mask; /* the engine's, when the request has a grammar */
    qn_gstate state;      /* of the grammar */
    const struct qn_ban *ban;
    int banned; /* state of the ban */
};

/* ban: of the request, or NULL. */
void qn_pick_init(struct qn_pick *k, const struct qn_request_params *params, struct qn_mask *mask,
                  const struct qn_ban *ban);
/* The token that a grammar has no choice but to take, as a draft; -1 when there is a choice. */
int32_t qn_pick_guess(const struct qn_pick *k);
/* The only token the next row may pick, or -1. */
int32_t qn_pick_forced(const struct qn_pick *k);
bool qn_pick_is_free(const struct qn_pick *k); /* no rule: no mask needed */
bool qn_pick_allows(const struct qn_pick *k, int32_t tok);
/* Bits of the allowed tokens; words: [ceil(vocab / 64) * 2], 8-byte aligned. false: none is allowed. */
bool qn_pick_mask(const struct qn_pick *k, uint32_t *words, int vocab);
bool qn_pick_stops(const struct qn_pick *k, int32_t tok);
void qn_pick_advance(struct qn_pick *k, int32_t tok);
/* Looks, now and then, whether the n_tok generated tokens go in a loop. A thought that does is closed a
 * little later, behind anything drafted by now. True: constrained output does, which has no other end. */
bool qn_pick_watch(struct qn_pick *k, const int32_t *tok, int n_tok);
/* The same where it is known whether the grammar's state is free. */
bool qn_pick_watch_as(struct qn_pick *k, const int32_t *tok, int n_tok, bool is_free);

/* Is the token one of list[n]? */
static inline bool qn_is_listed(const int32_t *list, int n, int32_t tok)
{
    for (int i = 0; i < n; i++)
        if (list[i] == tok) return true;
    return false;
}

/* Distinct tokens of a sequence, with how often each was generated. */
struct qn_seen {
    struct qn_map at; /* token + 1 -> place */
    int32_t *tok, *count;
    int n, capacity;
};

bool qn_seen_is_needed(const struct qn_sample *s);
void qn_seen_add(struct qn_seen *h, int32_t tok, bool is_generated);
void qn_seen_fini(struct qn_seen *h);

#endif
