/* Request traces: with --trace DIR each request leaves one JSON file, enough to run it again: a finished one,
 * and one that was let in and then refused. No file replaces another. SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_TRACE_H
#define QN_TRACE_H

struct qn_stream;
struct qn_exchange;
struct qn_err;

/* Makes the folder, for its owner only, and sees that it can be written. */
int qn_trace_open(const char *dir, struct qn_err *e);

/* Does nothing without --trace. A failure is logged, never shown to the client. */
void qn_trace_write(const struct qn_stream *s);
/* The end of any exchange: writes what qn_trace_write has not. Requests without a key or to no path of a
 * model leave nothing: whoever reaches the port could fill the disk. */
void qn_trace_refused(const struct qn_exchange *x);

#endif
