/* Request traces: with --trace DIR each finished request leaves one JSON file, enough to run it again.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_TRACE_H
#define QN_TRACE_H

struct qn_stream;

/* Does nothing without --trace. A failure is logged, never shown to the client. */
void qn_trace_write(const struct qn_stream *s);

#endif
