/* Token sequences that must not be generated: `bad_words`.
 *
 * An automaton over the generated tokens (Aho and Corasick). A state is a small number, so a copy of it walks
 * along drafts; the tokens that would complete a sequence in a state are known. Immutable after create: any
 * thread may read.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_BAN_H
#define QN_BAN_H

#include "base/base.h"
#include "base/hash.h"

#define QN_BAN_MAX_TOKENS 65536 /* of all sequences of a request */

struct qn_ban;

/* tok holds n sequences one after the other, of len[i] >= 1 tokens each. */
struct qn_ban *qn_ban_create(const int32_t *tok, const int *len, int n);
void qn_ban_free(struct qn_ban *b);
/* The state after a token; 0 is the start. */
int qn_ban_next(const struct qn_ban *b, int state, int32_t tok);
bool qn_ban_allows(const struct qn_ban *b, int state, int32_t tok);
/* Clears the bits of the tokens that may not come; returns how many of them were set. */
int qn_ban_clear(const struct qn_ban *b, int state, uint32_t *words);

#endif
