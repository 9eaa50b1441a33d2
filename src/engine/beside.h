/* Masks made beside the step: for grammars whose masks may take long, threads of their own walk the rules of
 * a row while the engine goes on with everybody else. A sequence whose mask is late sits out the step.
 *
 * A job belongs to a sequence for its life. It is a letter: whoever holds it may touch it and, of all jobs,
 * its grammar, which always goes to the same thread. So the engine never touches the grammar of such a
 * sequence, and no lock is needed. The rules are the same functions as in a step (pick.h): the same tokens
 * come out. SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_BESIDE_H
#define QN_BESIDE_H

#include "base/mail.h"
#include "engine/seq.h"

#define QN_BESIDE_DEADLINE_US 20000000 /* for one mask; the request ends then */
#define QN_BESIDE_SLOW_US     3000 /* a mask in a step that took longer: its grammar goes beside from then on */

struct qn_beside;

struct qn_beside_job {
    struct qn_letter letter;
    struct qn_seq *seq;         /* engine: NULL once the sequence is gone */
    struct qn_request *request; /* a reference */
    struct qn_pick pick;        /* in: before tok; out: after it */
    int32_t tok;                /* the token that was picked, or -1 */
    uint32_t *words;            /* out: the mask of the next row */
    bool is_free, is_stuck;     /* out: no mask is needed; nothing is allowed */
    bool grammar_is_free;
    int failed; /* out: of the grammar, or QN_OK */
    int64_t post_us;
};

/* mask: the vocabulary's, which stays the engine's; home: where jobs come back to, with kind. delay_us:
 * tests: each mask takes up to so much longer. Engine thread, all of them. */
struct qn_beside *qn_beside_create(const struct qn_mask *mask, int vocab, struct qn_mail *home, int kind,
                                   int delay_us);
/* Ends the threads. Jobs that are out are in the mail then. NULL is allowed. */
void qn_beside_close(struct qn_beside *b);

/* The rules of the sequence's next row are looked at; it is late until qn_beside_take. tok: what was picked,
 * -1: nothing, at the start. */
void qn_beside_send(struct qn_beside *b, struct qn_seq *q, int32_t tok);
/* A job came back. */
void qn_beside_take(struct qn_letter *letter);
/* Of list[n] those with a heavy grammar (with is_all: with any) have their masks made here from now on. No
 * step may be in flight, so that nobody else is looking at the grammar. */
void qn_beside_move(struct qn_beside *b, struct qn_seq **list, int n, bool is_all);
/* The sequence goes. */
void qn_beside_drop(struct qn_seq *q);

#endif
