/* HTTP: the listening socket, one thread a connection, routes, bodies, keys, CORS, ids, error objects.
 *
 * A connection thread collects a capped body and calls the route's handler once. The handler queues exactly
 * one reply, whole or streamed; it may block, and uses qn_http_peer to notice that nobody waits any more.
 * An exchange (one request and its reply) belongs to its connection thread.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_HTTP_H
#define QN_HTTP_H

#include <sys/types.h>

#include "base/json.h"
#include "server/gate.h"

struct qn_server;
struct qn_http;
struct qn_exchange;
struct MHD_Connection;

enum { QN_GET = 1, QN_POST = 2, QN_DELETE = 4 }; /* HEAD counts as GET */

struct qn_route {
    const char *path; /* "/v1/models/" with the flag QN_ROUTE_TAIL takes everything below */
    unsigned methods;
    unsigned flags;
    void (*handle)(struct qn_exchange *x);
};
enum {
    QN_ROUTE_OPEN = 1,      /* no key needed */
    QN_ROUTE_TAIL = 2,      /* x->tail is the rest of the path */
    QN_ROUTE_ANTHROPIC = 4, /* errors in that shape */
    QN_ROUTE_QUIET = 8,     /* polled: logged at debug level */
    QN_ROUTE_ENGINE = 16,   /* 503 until the model is loaded and while draining */
};

/* What the log line of a request tells. */
struct qn_http_facts {
    const char *model, *finish, *miss;
    bool is_stream;
    int n_prompt, n_cached, n_new, n_drafted, n_accepted;
    int64_t queue_us, prefill_us, decode_us;
};

struct qn_exchange {
    struct qn_http *http;
    struct qn_server *server; /* the handlers', unknown to http.c */
    struct MHD_Connection *connection;
    struct qn_conn *conn;         /* or NULL: without a socket */
    const struct qn_route *route; /* NULL: unknown path */
    const char *tail;
    struct qn_arena *arena; /* the request's memory */
    qn_share share;         /* whose memory the request uses; 0: it was not let in */
    struct qn_buf body;
    const struct qn_json *json; /* the parsed body, once qn_http_body has run */
    size_t n_received;
    char method[8], path[256];
    char id[40];
    bool is_anthropic; /* shape of errors */
    uint64_t client;   /* hash of the key; 0 without keys */
    int fd;
    bool is_http11, was_probed;
    bool is_let_in; /* counts as a request: its headers passed the gate and it needs a place */
    bool is_early;  /* answered before the body is read */
    bool is_keyed;  /* the gate let it in, whatever was said later */
    bool is_traced;
    bool is_broken;             /* its answer could not be queued */
    char *told;                 /* the text of its error object, or NULL; kept where done is set */
    bool must_close;            /* the connection ends with the answer */
    int64_t start_us, ready_us; /* first byte seen; body complete */
    bool is_answered;
    int status;
    const char *param, *code; /* of the next error object, or NULL */
    struct qn_http_facts facts;
    void *owned; /* freed with the exchange: the stream */
    void (*owned_free)(void *owned);
    /* a refusal that was decided before the body came */
    int refuse_status;
    const char *refuse_code;
    char refuse_text[200];
};

struct qn_http_options {
    const char *host;
    int port; /* 0: a free one */
    const struct qn_route *routes;
    size_t n_route;
    struct qn_gate gate;                       /* its is_loopback is found out */
    bool (*is_memory_short)(void);             /* new requests are refused then; or NULL */
    void (*done)(const struct qn_exchange *x); /* at the end of each exchange; or NULL */
    size_t max_body_bytes;                     /* 0: default */
    int max_requests;   /* 0: default; 429 beyond, counted when their bodies are complete */
    int body_timeout_s; /* 0: default; for the whole body */
    /* why routes with QN_ROUTE_ENGINE cannot run now, or NULL */
    const char *(*unready)(struct qn_server *server);
};

#define QN_HTTP_MAX_BODY_BYTES ((size_t)64 << 20)
#define QN_HTTP_MAX_REQUESTS   512
#define QN_HTTP_BODY_TIMEOUT_S 120
#define QN_HTTP_IDLE_S         75
#define QN_RESERVE_BYTES       ((size_t)128 << 10) /* set aside for a request, */
#define QN_RESERVE_TIMES       3                   /* and so many times its body */
#define QN_HTTP_RATE_BYTES     4096 /* a second that a body brings at least, in each QN_HTTP_RATE_S */
#define QN_HTTP_RATE_S         10
#define QN_HTTP_STALL_S        120 /* written data a peer may leave unread */

/* Binds; QN_IO names address and reason. Requests are accepted from here on. */
int qn_http_open(struct qn_http **out, struct qn_server *server, const struct qn_http_options *o,
                 struct qn_err *e);
int qn_http_port(const struct qn_http *h);
int qn_http_n_running(struct qn_http *h);
void qn_http_tick(struct qn_http *h);  /* once a second: ends connections that are too slow */
void qn_http_quiet(struct qn_http *h); /* takes no new connections */
void qn_http_close(struct qn_http *h); /* joins the connection threads; NULL is allowed */

/* --- for handlers --- */
/* Parses the body; answers 400 and returns NULL when it is no JSON object. */
const struct qn_json *qn_http_body(struct qn_exchange *x);
const char *qn_http_header(const struct qn_exchange *x, const char *name); /* or NULL */
/* Looks at the socket without blocking. HALF: the peer has ended its sending side; either it is gone, or
 * (rare) it only waits for the answer. Writing tells. */
enum qn_peer { QN_PEER_OPEN, QN_PEER_HALF, QN_PEER_GONE };
enum qn_peer qn_http_peer(const struct qn_exchange *x);
/* HALF, before a reply that is not streamed: sends an interim answer, once, which a peer that is gone resets.
 * False: the peer cannot be asked or cannot be written to. */
bool qn_http_half_is_alive(struct qn_exchange *x);

/* Replies. The bytes of body are taken. */
void qn_http_reply(struct qn_exchange *x, int status, const char *type, struct qn_buf *body);
void qn_http_reply_json(struct qn_exchange *x, int status, struct qn_buf *body);
void qn_http_reply_static(struct qn_exchange *x, const char *type, const void *data, size_t n);
/* Streams: read blocks until it has at least a byte; returns bytes, 0 at the end, -1 to break off. */
void qn_http_reply_stream(struct qn_exchange *x, const char *type,
                          ssize_t (*read)(void *owned, char *data, size_t max));
/* Error replies: status and object from the code (docs/api.md), x->param and x->code. */
void qn_http_fail(struct qn_exchange *x, const struct qn_err *e);
void qn_http_fail_with(struct qn_exchange *x, int status, const char *code, const char *fmt, ...)
    QN_PRINTF(4, 5);
/* Something of this request found no memory (base/budget.h): its status and text, with the figures; else 0.
 * Every answer but a stream's becomes this one then. */
int qn_http_short(const struct qn_exchange *x, char *text, size_t text_bytes);
/* The error object alone, for an error inside a stream. status 0: from the code. */
int qn_http_error_json(struct qn_buf *out, const struct qn_exchange *x, int status, const char *text);
int qn_http_status(int code); /* of enum qn_code */

/* n random characters of [A-Za-z0-9] after prefix. */
void qn_http_make_id(char *out, size_t out_bytes, const char *prefix, int n);

#endif
