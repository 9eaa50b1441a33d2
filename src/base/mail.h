/* How data crosses threads: a many-to-one mailbox of letters, and a one-to-one ring of records.
 *
 * A letter is a struct whose first member is struct qn_letter; posting hands its ownership over. The ring
 * copies records of any length into chunks that it takes as needed, up to a maximum from birth, so that a
 * writer with a bounded number of records never waits for a slow reader.
 *
 * Both sleep on a condition variable; nothing spins.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_MAIL_H
#define QN_MAIL_H

#include "base/err.h"

#define QN_FOREVER (-1) /* as timeout_us */

struct qn_letter {
    struct qn_letter *next;
    int kind; /* the reader's business */
};

struct qn_mail;

struct qn_mail *qn_mail_create(void);
void qn_mail_free(struct qn_mail *m); /* must be empty; NULL is allowed */
/* Any thread. The letter belongs to the reader afterwards. */
void qn_mail_post(struct qn_mail *m, struct qn_letter *letter);
/* The reader. All letters in the order of posting, linked by next; NULL after timeout_us (0: only looks). */
struct qn_letter *qn_mail_take(struct qn_mail *m, int64_t timeout_us);

struct qn_ring;

struct qn_ring *qn_ring_create(size_t max_bytes);
void qn_ring_free(struct qn_ring *r); /* NULL is allowed */
/* The writer. QN_TOOBIG over the maximum, QN_NOMEM when the request whose ring it is may have no
 * more memory (base/budget.h): the record is not taken. A reader that sleeps is not woken: that
 * takes a system call, which the writer makes when it has the time. */
int qn_ring_push(struct qn_ring *r, const void *data, size_t n_byte);
/* The last record, of at most 1000 bytes: memory for it was set aside at birth. */
int qn_ring_end(struct qn_ring *r, const void *data, size_t n_byte);
void qn_ring_wake(struct qn_ring *r);
/* The reader. Copies the next record, at most max_bytes of it, and gives its length. QN_TIMEOUT. */
int qn_ring_pop(struct qn_ring *r, void *to, size_t max_bytes, size_t *n_byte, int64_t timeout_us);

#endif
