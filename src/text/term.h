/* Terms: languages over bytes as an algebra, with derivatives.
 *
 * A term stands for a set of strings of bytes and of markers (marker.h), which are symbols of their own.
 * Equal terms are one number (hash-consed), so the derivative of a term by a byte - what may follow that byte
 * - is again a small number, and an automaton state is nothing but a term: immutable, comparable, free to
 * copy. Sequences lean right, so a stack of open brackets is a shared list. Objects, calls and free text
 * expand when a derivative first needs them.
 *
 * Owned by a grammar (grammar.h); one thread at a time.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_TERM_H
#define QN_TERM_H

#include "base/err.h"
#include "text/marker.h"

typedef uint32_t qn_term;
struct qn_terms;

#define QN_TERM_EMPTY   0u /* nothing matches */
#define QN_TERM_EPS     1u /* the empty string */
#define QN_TERM_ANY     2u /* every string */
#define QN_TERM_MANY    UINT32_MAX
#define QN_TERM_TRACKED 64 /* members of an object accepted in any order; more: in the schema's order */

struct qn_terms *qn_terms_create(uint32_t max_terms);
void qn_terms_free(struct qn_terms *t);
/* QN_TOOBIG once a cap was reached (terms, steps, ...); makers then return EMPTY. */
/* The same with a text that names the cap. To be asked before EMPTY is said to be the request's fault. */
int qn_terms_check(const struct qn_terms *t, struct qn_err *e);
int qn_terms_failed(const struct qn_terms *t);
size_t qn_terms_count(const struct qn_terms *t);
size_t
qn_terms_widest(const struct qn_terms *t); /* most alternatives, or members of an object, put together */
/* Steps spent so far: derivatives made, alternatives sorted, sequences copied; some 20 to 40 ns each. With
 * more than so many for each of max_terms the terms have failed. */
#define QN_TERMS_WORK_A_TERM 64
uint64_t qn_terms_work(const struct qn_terms *t);
/* Is the sealed language cheap, going where its states are widest? False also where the terms failed. For
 * terms of its own: what is learnt stays in them. */
bool qn_terms_try(struct qn_terms *t, qn_term start);

qn_term qn_term_class(struct qn_terms *t, const uint64_t set[4]);
qn_term qn_term_range(struct qn_terms *t, unsigned char lo, unsigned char hi);
qn_term qn_term_lit(struct qn_terms *t, const char *s, size_t n);
qn_term qn_term_str(struct qn_terms *t, const char *s);
/* One token, whose bytes do not match; behind it a derivative by marker leads, not by bytes. */
qn_term qn_term_marker(struct qn_terms *t, enum qn_marker marker);
/* The text; markers in it that are in `tokens` (a bit each) as tokens, all else as bytes. */
qn_term qn_term_marked(struct qn_terms *t, const char *s, size_t n, unsigned tokens);
qn_term qn_term_seq(struct qn_terms *t, qn_term a, qn_term b);
qn_term qn_term_seq3(struct qn_terms *t, qn_term a, qn_term b, qn_term c);
qn_term qn_term_alt(struct qn_terms *t, qn_term a, qn_term b);
qn_term qn_term_alts(struct qn_terms *t, const qn_term *list, size_t n);
qn_term qn_term_repeat(struct qn_terms *t, qn_term a, uint32_t min, uint32_t max); /* max may be MANY */
/* Both. With `checked`, states from which no string of both is left are EMPTY at once (regular parts only).
 */
qn_term qn_term_and(struct qn_terms *t, qn_term a, qn_term b, bool checked);
qn_term qn_term_not(struct qn_terms *t, qn_term a);

/* A named rule, for recursion: refer to it first, define it later. */
qn_term qn_term_rule_new(struct qn_terms *t);
void qn_term_rule_set(struct qn_terms *t, qn_term rule, qn_term body);
/* After the last definition, before the first derivative. QN_INVAL: a rule refers to itself before it has
 * consumed a byte, or can never end. `names` gives names for the message or is NULL. */
int qn_terms_seal(struct qn_terms *t, struct qn_err *e);

/* Members in any order, each at most once, required ones before the end. */
struct qn_term_member {
    qn_term key;   /* everything up to the value: "\"k\":" and a gap, or "<parameter=k>" and a newline */
    qn_term value; /* a call's: what the text between the tags must be, or EMPTY for free text */
    bool is_required;
    bool is_bare;     /* call: the value is a string's bare text, not JSON */
    bool is_tagged;   /* call: the value can spell tags and has to be checked against B.4 */
    const char *name; /* call: for the rule of parameter openers inside values */
    size_t n_name;
};
struct qn_term_object {
    const struct qn_term_member *members; /* [n_member] copied */
    int n_member;
    qn_term more;    /* a further member (key and value), or EMPTY */
    bool is_ordered; /* in the order listed */
    qn_term separator, end;
    /* a call's parameters: framed by tags, free text ends where the parser says it ends */
    bool is_call;
    qn_term more_value; /* call: value of a parameter not declared, or EMPTY for free text */
    bool more_tagged, more_bare;
};
qn_term qn_term_object(struct qn_terms *t, const struct qn_term_object *object);

/* Free text up to the first of some strings; behind string i goes on next[i] (EMPTY: it is forbidden). */
qn_term qn_term_trigger(struct qn_terms *t, const char *const *words, const qn_term *next, int n,
                        bool may_end);
/* Are both the free text of one trigger, whatever is read of its words? */
bool qn_term_same_trigger(const struct qn_terms *t, qn_term a, qn_term b);
/* True for a trigger that may end and has nothing pending: unconstrained text. */
bool qn_term_is_free(const struct qn_terms *t, qn_term a);

/* A term that starts with the same strings as long as they are short: counts over `least` repetitions left
 * are made endless, minimums over `limit` equal, so that the positions of a bounded string share one mask.
 * *exact: strings of at most so many bytes are judged the same. */
qn_term qn_term_saturate(struct qn_terms *t, qn_term a, uint32_t least, uint32_t limit, uint32_t *exact);

/* --- looking inside, for masks that terms share --- */
/* The alternatives of a term, of a sequence's head as well, each as head and rest (EPS: none); how many there
 * are, or -1 when they are more than max. */
struct qn_term_part {
    qn_term head, rest;
};
int qn_term_parts(const struct qn_terms *t, qn_term a, struct qn_term_part *parts, int max);
/* Is the term free text of a parameter, outside the name of an opener? Then what keeps it alive depends on
 * nothing but this word, up to its closer and up to such a name. */
bool qn_term_is_text(const struct qn_terms *t, qn_term a, uint64_t *word);
/* Free text without a context, of such a word; in terms of their own. */
qn_term qn_term_text_of(struct qn_terms *t, uint64_t word);
/* Text inside the name of an opener is among the alternatives. */
bool qn_term_has_open_name(const struct qn_terms *t, qn_term a);

bool qn_term_nullable(struct qn_terms *t, qn_term a);                    /* matches the empty string */
qn_term qn_term_next(struct qn_terms *t, qn_term a, unsigned char byte); /* the derivative, remembered */
/* What may follow the token of a marker where the term asks for that token. Where it takes text, what follows
 * the bytes of the token is up to qn_term_next. */
qn_term qn_term_next_marker(struct qn_terms *t, qn_term a, enum qn_marker marker);
/* All derivatives by bytes, valid until the next call. */
const qn_term *qn_term_row(struct qn_terms *t, qn_term a);
/* Bytes that lead from a back to a. Valid until the next call. */
const uint64_t *qn_term_loop(struct qn_terms *t, qn_term a);
/* The same where the row is known already, else NULL. */
const uint64_t *qn_term_loop_known(const struct qn_terms *t, qn_term a);

/* --- grammars (grammar.h) are terms with a count --- */
struct qn_grammar;
/* Takes over the sealed terms. */
struct qn_grammar *qn_grammar_create(struct qn_terms *t, qn_term start);
struct qn_terms *qn_grammar_algebra(const struct qn_grammar *g);

#endif
