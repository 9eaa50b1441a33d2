/* Mailbox and ring: a mutex and a condition variable each; what is under the lock is a few pointers.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/mail.h"

#include <errno.h>
#include <pthread.h>
#include <time.h>

#include "base/budget.h"
#include "base/clock.h"
#include "base/mem.h"

#define CHUNK_BYTES ((size_t)4096)
#define SPARE_BYTES ((size_t)1024)

struct gate {
    pthread_mutex_t lock;
    pthread_cond_t filled;
};

static void gate_init(struct gate *g)
{
    pthread_condattr_t attr;
    pthread_mutex_init(&g->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&g->filled, &attr);
    pthread_condattr_destroy(&attr);
}

static void gate_destroy(struct gate *g)
{
    pthread_cond_destroy(&g->filled);
    pthread_mutex_destroy(&g->lock);
}

static struct timespec point(int64_t at_us)
{
    return (struct timespec){.tv_sec = at_us / 1000000, .tv_nsec = at_us % 1000000 * 1000};
}

/* One sleep, with the lock held. false: the time is over. */
static bool gate_wait(struct gate *g, const struct timespec *until)
{
    if (!until) return pthread_cond_wait(&g->filled, &g->lock) == 0;
    return pthread_cond_timedwait(&g->filled, &g->lock, until) != ETIMEDOUT;
}

struct qn_mail {
    struct gate gate;
    struct qn_letter *first, **end;
};

struct qn_mail *qn_mail_create(void)
{
    struct qn_mail *m = xcalloc(1, sizeof *m);
    gate_init(&m->gate);
    m->end = &m->first;
    return m;
}

void qn_mail_free(struct qn_mail *m)
{
    if (!m) return;
    QN_CHECK(!m->first);
    gate_destroy(&m->gate);
    free(m);
}

void qn_mail_post(struct qn_mail *m, struct qn_letter *letter)
{
    letter->next = NULL;
    pthread_mutex_lock(&m->gate.lock);
    *m->end = letter;
    m->end = &letter->next;
    pthread_cond_signal(&m->gate.filled);
    pthread_mutex_unlock(&m->gate.lock);
}

struct qn_letter *qn_mail_take(struct qn_mail *m, int64_t timeout_us)
{
    struct timespec until = {0};
    if (timeout_us > 0) until = point(qn_now_us() + timeout_us);
    pthread_mutex_lock(&m->gate.lock);
    while (!m->first && timeout_us != 0)
        if (!gate_wait(&m->gate, timeout_us > 0 ? &until : NULL)) break;
    struct qn_letter *first = m->first;
    m->first = NULL;
    m->end = &m->first;
    pthread_mutex_unlock(&m->gate.lock);
    return first;
}

/* A record is its length (size_t) and its bytes, not split over chunks. */
struct chunk {
    struct chunk *next;
    size_t capacity, from, to; /* bytes [from, to) are unread */
    unsigned char data[];
};

struct qn_ring {
    struct gate gate;
    struct chunk *first, *last;
    qn_share share;
    struct chunk *spare;      /* for the last record, when there is no memory for another */
    size_t n_byte, max_bytes; /* of unread records with their lengths */
};

struct qn_ring *qn_ring_create(size_t max_bytes)
{
    struct qn_ring *r = xcalloc(1, sizeof *r);
    gate_init(&r->gate);
    r->max_bytes = max_bytes;
    r->share = qn_share_mine();
    r->spare = xmalloc(sizeof *r->spare + SPARE_BYTES);
    return r;
}

void qn_ring_free(struct qn_ring *r)
{
    if (!r) return;
    while (r->first) {
        struct chunk *c = r->first;
        r->first = c->next;
        qn_share_give(r->share, sizeof *c + c->capacity);
        free(c);
    }
    free(r->spare);
    gate_destroy(&r->gate);
    free(r);
}

/* A chunk for a record; the last record finds one that was set aside at birth. */
static struct chunk *more(struct qn_ring *r, size_t need, bool is_last)
{
    size_t capacity = QN_MAX(CHUNK_BYTES, need);
    struct chunk *c = NULL;
    if (qn_share_take(r->share, sizeof *c + capacity)) {
        c = malloc(sizeof *c + capacity);
        if (!c) {
            qn_share_give(r->share, sizeof *c + capacity);
            qn_share_failed(r->share, sizeof *c + capacity);
        }
    }
    if (!c && is_last && need <= SPARE_BYTES) {
        c = r->spare;
        r->spare = NULL;
        capacity = SPARE_BYTES;
    }
    if (c) *c = (struct chunk){.capacity = capacity};
    return c;
}

static int push(struct qn_ring *r, const void *data, size_t n_byte, bool is_last)
{
    int rc = QN_OK;
    size_t need = sizeof(size_t) + n_byte;
    pthread_mutex_lock(&r->gate.lock);
    if (need > r->max_bytes - QN_MIN(r->n_byte, r->max_bytes)) {
        rc = QN_TOOBIG;
    } else {
        if (!r->last || r->last->capacity - r->last->to < need) {
            struct chunk *c = more(r, need, is_last);
            if (!c) {
                rc = QN_NOMEM;
                goto out;
            }
            if (r->last)
                r->last->next = c;
            else
                r->first = c;
            r->last = c;
        }
        memcpy(r->last->data + r->last->to, &n_byte, sizeof n_byte);
        memcpy(r->last->data + r->last->to + sizeof n_byte, data, n_byte);
        r->last->to += need;
        r->n_byte += need;
    }
out:
    pthread_mutex_unlock(&r->gate.lock);
    return rc;
}

int qn_ring_push(struct qn_ring *r, const void *data, size_t n_byte)
{
    return push(r, data, n_byte, false);
}

int qn_ring_end(struct qn_ring *r, const void *data, size_t n_byte)
{
    return push(r, data, n_byte, true);
}

void qn_ring_wake(struct qn_ring *r)
{
    pthread_mutex_lock(&r->gate.lock); /* a reader between its look and its sleep has it */
    pthread_mutex_unlock(&r->gate.lock);
    pthread_cond_signal(&r->gate.filled);
}

int qn_ring_pop(struct qn_ring *r, void *to, size_t max_bytes, size_t *n_byte, int64_t timeout_us)
{
    int rc = QN_OK;
    struct timespec until = {0};
    if (timeout_us > 0) until = point(qn_now_us() + timeout_us);
    pthread_mutex_lock(&r->gate.lock);
    while (!r->n_byte && timeout_us != 0)
        if (!gate_wait(&r->gate, timeout_us > 0 ? &until : NULL)) break;
    if (!r->n_byte) {
        rc = QN_TIMEOUT;
    } else {
        while (r->first->from == r->first->to) { /* read to its end, and not the last */
            struct chunk *c = r->first;
            r->first = c->next;
            qn_share_give(r->share, sizeof *c + c->capacity);
            free(c);
        }
        struct chunk *c = r->first;
        memcpy(n_byte, c->data + c->from, sizeof *n_byte);
        memcpy(to, c->data + c->from + sizeof *n_byte, QN_MIN(*n_byte, max_bytes));
        c->from += sizeof *n_byte + *n_byte;
        r->n_byte -= sizeof *n_byte + *n_byte;
        if (c->from == c->to) c->from = c->to = 0;
    }
    pthread_mutex_unlock(&r->gate.lock);
    return rc;
}
