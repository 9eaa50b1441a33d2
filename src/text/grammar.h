/* Constrained decoding: one automaton a sequence, over the bytes of its tokens, for phase and grammar.
 *
 * A state is a number. States are immutable: keep one a draft position, drop what was not accepted;
 * there is nothing to roll back. The automaton starts where the rendered prompt ends (inside thinking or
 * not), follows every token, and constrains where the request asks for it: thinking is free, a tool call
 * opens in free text when its opening tag has been written, a response format starts after thinking.
 *
 * A grammar is compiled by the thread of a request and then used by one thread at a time (the engine's):
 * it makes its states on demand and remembers them. Reference counted; the count may be touched from any
 * thread. Memory is bounded by QN_GRAMMAR_MAX_TERMS; a grammar that would need more is dead from there on
 * and qn_grammar_failed tells so.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_GRAMMAR_H
#define QN_GRAMMAR_H

#include "base/err.h"
#include "text/marker.h"

#define QN_GRAMMAR_MAX_TERMS (1u << 20) /* states and their parts, one grammar */
#define QN_GRAMMAR_MAX_TEXT  (1u << 20) /* bytes of grammar text or regular expression */
#define QN_GRAMMAR_MAX_DEPTH 128        /* nesting of a schema, an expression, a rule */

struct qn_grammar;
typedef uint32_t qn_gstate;

#define QN_GSTATE_DEAD 0u /* what was written is not allowed */
#define QN_GSTATE_END  1u /* complete; nothing may follow but the end of the turn */

struct qn_grammar *qn_grammar_acquire(struct qn_grammar *g);
void qn_grammar_release(struct qn_grammar *g); /* NULL is allowed */

/* May a mask of it take long? Known from its width and size when it is made, or from what a mask took. */
bool qn_grammar_is_heavy(const struct qn_grammar *g);
void qn_grammar_set_heavy(struct qn_grammar *g);
qn_gstate qn_grammar_start(const struct qn_grammar *g);
/* The state after n bytes (of one token, or of many). DEAD stays DEAD. A marker that has to be its token does
 * not match its bytes. */
qn_gstate qn_grammar_advance(struct qn_grammar *g, qn_gstate state, const char *bytes, size_t n);
/* The state after the token of a marker: where that token has to come, and where text goes on with its bytes.
 */
qn_gstate qn_grammar_advance_marker(struct qn_grammar *g, qn_gstate state, enum qn_marker marker);
/* The turn may end here: end tokens are allowed. */
bool qn_grammar_may_end(const struct qn_grammar *g, qn_gstate state);
/* The turn must end here: nothing else is allowed. */
bool qn_grammar_must_end(struct qn_grammar *g, qn_gstate state);
/* Free text here, nothing masked: the caller may skip the mask of this position. */
bool qn_grammar_is_free(const struct qn_grammar *g, qn_gstate state);
/* Still in the free text that the grammar starts with (thinking): its end, or a call, has not come. */
bool qn_grammar_is_starting(const struct qn_grammar *g, qn_gstate state);
/* The bytes that must come next, as far as there is no choice (at most cap): free drafts. */
size_t qn_grammar_forced(struct qn_grammar *g, qn_gstate state, char *bytes, size_t cap);
/* The marker whose token is all that may come next, or -1. */
int qn_grammar_forced_marker(struct qn_grammar *g, qn_gstate state);
/* QN_OK, or QN_TOOBIG once the cap on terms has been reached (states are DEAD from then on). */
int qn_grammar_failed(const struct qn_grammar *g);
/* Grown so far that a fresh copy serves new requests better. Any thread. */
bool qn_grammar_is_worn(const struct qn_grammar *g);
/* Identity for caches that outlive a grammar: never repeats in a process. */
uint64_t qn_grammar_serial(const struct qn_grammar *g);
size_t qn_grammar_terms(const struct qn_grammar *g);

#endif
