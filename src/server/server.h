/* The server: start, serve while the model loads (503), drain, stop.
 *
 * Opened and driven by main. The text side, the config and the engine are main's and outlive the server.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_SERVER_H
#define QN_SERVER_H

#include "server/options.h"

struct qn_server;
struct qn_engine;

/* Binds and answers; /health says "loading" until qn_server_set_engine. */
int qn_server_open(struct qn_server **out, const struct qn_server_options *o, struct qn_err *e);
void qn_server_set_engine(struct qn_server *s, struct qn_engine *engine);
int qn_server_port(const struct qn_server *s);
/* Blocks SIGTERM and SIGINT in this thread and all it starts later. To be called before anything starts. */
void qn_server_block_signals(void);
/* Waits for SIGTERM or SIGINT, then drains: no new requests, running ones get drain_s seconds (a second
 * signal ends them at once). Returns 0, or 1 when the engine died. */
int qn_server_run(struct qn_server *s, int drain_s);
void qn_server_close(struct qn_server *s);

#endif
