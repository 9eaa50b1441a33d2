/* Signals while a model loads: they are blocked for the server's sake, and reading may take minutes or hang
 * in a file system, so a thread waits for them and ends the process. SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_LOADING_H
#define QN_LOADING_H

struct qn_loading;

/* SIGTERM and SIGINT have to be blocked already. command: for the message. */
struct qn_loading *qn_loading_begin(const char *command);
void qn_loading_end(struct qn_loading *l); /* NULL is allowed; signals stay pending for who waits next */

#endif
