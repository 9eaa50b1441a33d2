/* Sampled text of tool calls, by call id: so that a history that comes back is rendered as it was sampled and
 * the prefix cache holds. Bounded; the oldest are forgotten. Locks for itself; any thread.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_CALLS_H
#define QN_CALLS_H

#include "text/chat.h"
#include "text/parse.h"

#define QN_CALLS_MAX       4096
#define QN_CALLS_MAX_BYTES ((size_t)64 << 20)

struct qn_calls;

struct qn_calls *qn_calls_create(void);
void qn_calls_free(struct qn_calls *c); /* NULL is allowed */
/* Remembers the complete calls of a message. raw is all text sampled; ids [parsed->n_call]. Does nothing when
 * the calls cannot be told apart in it without doubt. */
void qn_calls_add(struct qn_calls *c, const char *raw, size_t n, const struct qn_parsed *parsed,
                  char (*ids)[40], int n_id);
/* Fits qn_chat_opt.lookup, with user = struct qn_calls_view *. */
struct qn_calls_view {
    struct qn_calls *calls;
    struct qn_arena *arena; /* copies live here */
};
bool qn_calls_lookup(void *view, const char *id, struct qn_chat_sampled *out);

#endif
