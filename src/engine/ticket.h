/* The engine's side of a request: what is behind struct qn_request.
 * Owned by two references, the reader's and the engine's. `params` is immutable after creation; events go
 * through the ring; numbers under their own lock; cancel is an atomic flag.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_TICKET_H
#define QN_TICKET_H

#include <pthread.h>
#include <stdatomic.h>

#include "base/mail.h"
#include "engine/request.h"

struct qn_request {
    struct qn_letter letter;         /* the submission, in the engine's mailbox */
    struct qn_request_params params; /* arrays are copies owned by the request */
    struct qn_ban *ban;              /* of ban_tok, or NULL */
    atomic_int n_ref;
    atomic_bool is_cancelled;
    atomic_int progress;
    struct qn_ring *ring;
    pthread_mutex_t lock; /* of stats */
    struct qn_request_stats stats;
    int64_t submit_us;
    bool is_ended; /* reader: END was read */
};

/* Copies the parameters; both references are taken. */
struct qn_request *qn_request_create(const struct qn_request_params *p);
void qn_request_ref(struct qn_request *r);
void qn_request_unref(struct qn_request *r);
/* Wakes the reader for what was sent since. */
void qn_request_wake(struct qn_request *r);

/* Engine thread. */
bool qn_request_is_cancelled(const struct qn_request *r);
void qn_request_send_token(struct qn_request *r, enum qn_event_kind kind, const struct qn_step_token *token);
void qn_request_send_end(struct qn_request *r, enum qn_finish finish, int32_t stop_tok, bool is_loop,
                         const struct qn_err *error);
void qn_request_set_stats(struct qn_request *r, const struct qn_request_stats *stats);
void qn_request_set_progress(struct qn_request *r, int n_tok);

#endif
