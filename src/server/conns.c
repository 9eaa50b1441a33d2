/* Connections by what they are doing.
 * SPDX-License-Identifier: Apache-2.0 */
#include "server/conns.h"

#include <pthread.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "base/mem.h"

struct list {
    struct qn_conn *first, *last;
    int n;
};

struct qn_conns {
    struct qn_conns_limits limits;
    pthread_mutex_t lock;
    struct list lists[QN_N_CONN_KIND];
};

struct qn_conns *qn_conns_create(const struct qn_conns_limits *limits)
{
    struct qn_conns *t = xcalloc(1, sizeof *t);
    t->limits = *limits;
    pthread_mutex_init(&t->lock, NULL);
    return t;
}

void qn_conns_free(struct qn_conns *t)
{
    if (!t) return;
    pthread_mutex_destroy(&t->lock);
    free(t);
}

static void unlink_conn(struct qn_conns *t, struct qn_conn *c)
{
    struct list *l = &t->lists[c->kind];
    *(c->prev ? &c->prev->next : &l->first) = c->next;
    *(c->next ? &c->next->prev : &l->last) = c->prev;
    l->n--;
}

static void link_conn(struct qn_conns *t, struct qn_conn *c, enum qn_conn_kind kind)
{
    struct list *l = &t->lists[kind];
    c->kind = kind;
    c->next = NULL;
    c->prev = l->last;
    *(l->last ? &l->last->next : &l->first) = c;
    l->last = c;
    l->n++;
    c->since_us = c->mark_us = qn_now_us();
    c->n_byte = c->mark_byte = 0;
}

static void drop(struct qn_conns *t, struct qn_conn *c)
{
    static const char late[] =
        "HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
    /* nothing of an answer has been written yet: the peer is told why, if it can be told at once */
    bool has_no_answer = c->kind == QN_CONN_UPLOAD || c->kind == QN_CONN_REFUSED;
    if (has_no_answer && send(c->fd, late, sizeof late - 1, MSG_NOSIGNAL | MSG_DONTWAIT) < 0) { /* its loss */
    }
    shutdown(c->fd, SHUT_RDWR);
    unlink_conn(t, c);
    link_conn(t, c, QN_CONN_DROPPED);
}

/* Makes room for one more of a kind. */
static bool make_room(struct qn_conns *t, enum qn_conn_kind kind)
{
    int most = t->limits.most[kind];
    while (most && t->lists[kind].n >= most) {
        if (kind == QN_CONN_RUNNING) return false;
        drop(t, t->lists[kind].first);
    }
    return true;
}

struct qn_conn *qn_conns_add(struct qn_conns *t, int fd)
{
    struct qn_conn *c = try_calloc(1, sizeof *c);
    if (!c) return NULL;
    c->fd = fd;
    pthread_mutex_lock(&t->lock);
    make_room(t, QN_CONN_NEW);
    link_conn(t, c, QN_CONN_NEW);
    pthread_mutex_unlock(&t->lock);
    return c;
}

void qn_conns_remove(struct qn_conns *t, struct qn_conn *c)
{
    pthread_mutex_lock(&t->lock);
    unlink_conn(t, c);
    pthread_mutex_unlock(&t->lock);
    free(c);
}

bool qn_conns_move(struct qn_conns *t, struct qn_conn *c, enum qn_conn_kind kind)
{
    bool is_in = true;
    pthread_mutex_lock(&t->lock);
    if (c->kind != QN_CONN_DROPPED && c->kind != kind && (is_in = make_room(t, kind))) {
        unlink_conn(t, c);
        link_conn(t, c, kind);
        c->was_let_in |= kind == QN_CONN_UPLOAD || kind == QN_CONN_RUNNING;
    }
    pthread_mutex_unlock(&t->lock);
    return is_in;
}

void qn_conns_received(struct qn_conns *t, struct qn_conn *c, size_t n_byte)
{
    pthread_mutex_lock(&t->lock);
    c->n_byte += n_byte;
    pthread_mutex_unlock(&t->lock);
}

bool qn_conns_drop_oldest(struct qn_conns *t, enum qn_conn_kind kind, int64_t age_us)
{
    pthread_mutex_lock(&t->lock);
    struct qn_conn *c = t->lists[kind].first;
    bool is_old = c && qn_now_us() - c->since_us >= age_us;
    if (is_old) drop(t, c);
    pthread_mutex_unlock(&t->lock);
    return is_old;
}

int qn_conns_count(struct qn_conns *t, enum qn_conn_kind kind)
{
    pthread_mutex_lock(&t->lock);
    int n = t->lists[kind].n;
    pthread_mutex_unlock(&t->lock);
    return n;
}

static bool is_late(const struct qn_conns_limits *m, struct qn_conn *c, int64_t now)
{
    int64_t age = now - c->since_us;
    if (c->kind == QN_CONN_NEW) return age > m->head_us;
    if (c->kind == QN_CONN_IDLE) return age > m->idle_us;
    if (age > m->body_us) return true;
    if (now - c->mark_us < m->rate_us) return false;
    bool is_slow = c->n_byte - c->mark_byte < m->rate_bytes;
    c->mark_us = now;
    c->mark_byte = c->n_byte;
    return is_slow;
}

void qn_conns_tick(struct qn_conns *t)
{
    static const enum qn_conn_kind kinds[] = {QN_CONN_NEW, QN_CONN_IDLE, QN_CONN_UPLOAD, QN_CONN_REFUSED};
    int64_t now = qn_now_us();
    pthread_mutex_lock(&t->lock);
    for (size_t k = 0; k < QN_COUNT(kinds); k++)
        for (struct qn_conn *c = t->lists[kinds[k]].first, *next; c; c = next) {
            next = c->next;
            if (is_late(&t->limits, c, now)) drop(t, c);
        }
    pthread_mutex_unlock(&t->lock);
}
