/* Server-sent events: framing into a buffer. One JSON a data line; JSON text has no raw newline.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_SSE_H
#define QN_SSE_H

#include "base/buf.h"

#define QN_SSE_TYPE         "text/event-stream; charset=utf-8"
#define QN_SSE_KEEPALIVE_US (INT64_C(5) * 1000000)

void qn_sse_begin(struct qn_buf *out, const char *event); /* "event: NAME" (unless NULL) and "data: " */
void qn_sse_end(struct qn_buf *out);
void qn_sse_comment(struct qn_buf *out, const char *text); /* keeps proxies and clients waiting */
void qn_sse_done(struct qn_buf *out);                      /* data: [DONE] */

#endif
