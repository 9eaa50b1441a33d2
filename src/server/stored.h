/* Stored responses, for previous_response_id and GET /v1/responses/{id}: a bounded table, the oldest are
 * forgotten. What one owner stored is unknown to others. Locks for itself; any thread.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_STORED_H
#define QN_STORED_H

#include "base/json.h"

#define QN_STORED_MAX       1024
#define QN_STORED_MAX_BYTES ((size_t)128 << 20)

struct qn_stored;

struct qn_stored *qn_stored_create(size_t max_bytes); /* 0: QN_STORED_MAX_BYTES, which it is at most */
void qn_stored_free(struct qn_stored *t);             /* NULL is allowed */
/* response: the whole object as sent; input: a JSON array, the items of the conversation up to and including
 * the output. Texts are copied. */
void qn_stored_put(struct qn_stored *t, const char *id, uint64_t owner, const char *response,
                   size_t n_response, const char *input, size_t n_input);
/* Copies into buf what is asked for; false when the id is unknown. Either buffer may be NULL. */
bool qn_stored_get(struct qn_stored *t, const char *id, uint64_t owner, struct qn_buf *response,
                   struct qn_buf *input);
bool qn_stored_remove(struct qn_stored *t, const char *id, uint64_t owner);

#endif
