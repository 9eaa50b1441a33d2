/* Connections by what they are doing: each kind has a bound, and beyond it its oldest one is dropped, so that
 * nobody who has not shown a key, and nobody who is slow, holds a place that others need.
 *
 * One table a server, with a lock of its own, held for moments; any thread. A connection belongs to its
 * thread; it is taken out before its socket is closed. Dropping one shuts its socket down, its thread does
 * the rest. SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_CONNS_H
#define QN_CONNS_H

#include "base/base.h"

enum qn_conn_kind {
    QN_CONN_NEW,     /* no complete headers yet */
    QN_CONN_REFUSED, /* its request is refused; what it still sends is read, so that it sees the answer */
    QN_CONN_OPEN,    /* a request that needs no key: health, metrics, the page */
    QN_CONN_IDLE,    /* had a request that was let in, waits for the next one */
    QN_CONN_UPLOAD,  /* let in; the body is coming */
    QN_CONN_RUNNING, /* the body is complete; not dropped */
    QN_CONN_DROPPED, /* shut down, its thread is about to notice */
    QN_N_CONN_KIND
};

struct qn_conn {
    struct qn_conn *next, *prev; /* in its kind, oldest first */
    enum qn_conn_kind kind;
    int fd;
    bool was_let_in;
    int64_t since_us; /* of this kind since */
    size_t n_byte;    /* of this upload */
    int64_t mark_us;  /* the rate is measured from here */
    size_t mark_byte;
};

struct qn_conns_limits {
    int most[QN_N_CONN_KIND]; /* 0: no bound */
    int64_t head_us;          /* NEW: until its headers are complete */
    int64_t idle_us;          /* IDLE */
    int64_t body_us;          /* UPLOAD, REFUSED: the whole body */
    int64_t rate_us;          /* a body brings rate_bytes in each such time */
    size_t rate_bytes;
};

struct qn_conns;

struct qn_conns *qn_conns_create(const struct qn_conns_limits *limits);
void qn_conns_free(struct qn_conns *t); /* NULL is allowed */
/* A connection that was accepted. NULL: no memory, it is to be closed. */
struct qn_conn *qn_conns_add(struct qn_conns *t, int fd);
void qn_conns_remove(struct qn_conns *t, struct qn_conn *c);
/* False when the kind is full and nobody of it may be dropped for c (RUNNING); c then stays what it is. */
bool qn_conns_move(struct qn_conns *t, struct qn_conn *c, enum qn_conn_kind kind);
void qn_conns_received(struct qn_conns *t, struct qn_conn *c, size_t n_byte);
/* Drops the oldest of a kind, if it has been that for age_us. */
bool qn_conns_drop_oldest(struct qn_conns *t, enum qn_conn_kind kind, int64_t age_us);
int qn_conns_count(struct qn_conns *t, enum qn_conn_kind kind);
void qn_conns_tick(struct qn_conns *t); /* once a second: drops who is too slow */

#endif
