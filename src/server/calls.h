/* Sampled text and ids of tool calls, by call id: so that a history that comes back is rendered as it was
 * sampled and the prefix cache holds. Bounded; the oldest are forgotten. Locks for itself; any thread.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_CALLS_H
#define QN_CALLS_H

#include "text/chat.h"
#include "text/parse.h"

#define QN_CALLS_MAX       4096
#define QN_CALLS_MAX_BYTES ((size_t)64 << 20)

struct qn_calls;

struct qn_calls *qn_calls_create(size_t max_bytes); /* 0: QN_CALLS_MAX_BYTES, which it is at most */
void qn_calls_free(struct qn_calls *c);             /* NULL is allowed */
/* All that was sampled for a message with calls. */
struct qn_calls_output {
    const char *raw; /* [n_byte] the text */
    size_t n_byte;
    const int32_t *tok; /* [n_tok] or NULL: the text alone is remembered */
    size_t n_tok;
    const struct qn_parsed *parsed;
    char (*ids)[40]; /* [n_id] of its calls */
    int n_id;
    uint64_t owner; /* who may look them up */
};
/* Remembers the complete calls of a message. Does nothing when they cannot be told apart in the text without
 * doubt; leaves out the ids when they are not the text's, or its markers are no single tokens of text. */
void qn_calls_add(struct qn_calls *c, const struct qn_text *text, const struct qn_calls_output *o);
/* Fits qn_chat_opt.lookup, with user = struct qn_calls_view *. */
struct qn_calls_view {
    struct qn_calls *calls;
    struct qn_arena *arena; /* copies live here */
    uint64_t owner;
};
bool qn_calls_lookup(void *view, const char *id, struct qn_chat_sampled *out);

#endif
