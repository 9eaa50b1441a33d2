/* A conversation made short: POST /v1/responses/compact.
 *
 * The model itself writes a summary. It comes back sealed, as one item that only this server can read, behind
 * the user's own messages; the client sends that list as the input of its next request. Connection thread.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_COMPACT_H
#define QN_COMPACT_H

#include "base/buf.h"

struct qn_exchange;

void qn_api_compact(struct qn_exchange *x);
/* The summary in an item's encrypted_content; false: it was not made here. */
bool qn_compaction_open(struct qn_buf *text, const char *sealed);
void qn_compaction_seal(struct qn_buf *sealed, const char *text, size_t n);

#endif
