/* A request: what a connection hands to the engine, and what comes back.
 *
 * Two references: the connection's and the engine's. Inputs are immutable after submit. Events flow
 * through a ring (engine writes, connection reads) that is large enough for every event the request can
 * make, so the engine never waits for a slow reader. cancel is an atomic flag the engine sees before the
 * next step.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_REQUEST_H
#define QN_REQUEST_H

#include <pthread.h>
#include <stdatomic.h>

#include "backend/step.h"
#include "base/budget.h"
#include "base/err.h"
#include "base/mail.h"
#include "engine/span.h"

struct qn_grammar; /* text/grammar.h: what the output must obey; reference counted */
struct qn_ban;     /* engine/ban.h */

enum qn_priority { QN_PRIORITY_NORMAL, QN_PRIORITY_LOW };

struct qn_request_params {
    const int32_t *tok; /* [n_tok] the whole prompt; copied by submit */
    int n_tok;
    const struct qn_media_span
        *span; /* [n_span] media among its tokens; copied, with references of its own */
    int n_span;
    int max_new;             /* at least 1; the engine clamps it to the context */
    struct qn_sample sample; /* bias and seen ranges are ignored here */
    const int32_t *bias_tok; /* [n_bias] logit_bias; copied */
    const float *bias;
    int n_bias;
    const int32_t
        *stop_tok; /* ends the output; the token itself is reported in the end event, not as a token */
    int n_stop;
    int min_new;                   /* stop tokens are masked before */
    bool ignore_eos;               /* stop tokens are ordinary tokens */
    bool keep_stop_tok;            /* report the stop token as a token as well */
    struct qn_grammar *constraint; /* or NULL; the engine takes its own reference and is its only user then */
    const uint32_t *allowed_bits;  /* only these tokens [n_allowed_word words of 32]; NULL: all; copied */
    int n_allowed_word;
    const int32_t *ban_tok; /* sequences that may not be generated, one after the other; copied */
    const int *ban_len;     /* [n_ban] */
    int n_ban;
    /* Thinking ends after think_budget tokens without think_end (0: no budget), and when it goes in a loop:
     * the tokens of think_close are then forced one by one (the last of them is think_end). Inside it no stop
     * token may come, unless ignore_eos. */
    bool is_thinking; /* the prompt's tail is an open think block */
    int think_budget;
    int32_t think_end;
    const int32_t *think_close; /* [n_think_close], copied */
    int n_think_close;

    int mtp;        /* -1: the engine decides; 0..QN_MAX_DRAFT: this depth (tests, debugging) */
    int prompt_top; /* -1: no prompt log-probabilities; 0..QN_MAX_TOP alternatives */
    enum qn_priority priority;
    uint64_t client;     /* hash of the API key: fair share */
    uint64_t salt;       /* separates prefix caches; 0: shared */
    int64_t deadline_us; /* qn_now_us time; 0: none */
    char id[40];         /* for logs */
};

enum qn_event_kind {
    QN_EVENT_TOKEN,
    QN_EVENT_PROMPT, /* log-probability of a prompt token, in order, before the first token */
    QN_EVENT_END,
};

/* Why an answer ended. The only form of it inside the program: words are written where it leaves. */
enum qn_finish { QN_FINISH_STOP, QN_FINISH_LENGTH, QN_FINISH_CANCEL, QN_FINISH_ERROR };
#define QN_N_FINISH 4

struct qn_event {
    enum qn_event_kind kind;
    struct qn_step_token token; /* TOKEN, PROMPT; the first prompt token has logprob NaN */
    /* END */
    enum qn_finish finish;
    int32_t stop_tok;    /* that ended it, or -1 */
    bool is_loop;        /* LENGTH: constrained output went in a loop */
    struct qn_err error; /* QN_FINISH_ERROR */
};

/* Numbers of a request, final once END has been read; prompt numbers are final with the first event, and
 * there from the first piece of the prompt on. */
struct qn_request_stats {
    int n_prompt, n_cached, n_new;
    int n_known; /* prompt tokens that the cache knew, cached or not */
    int n_drafted, n_accepted;
    int accepted_at[QN_MAX_DRAFT]; /* times the draft at this position was accepted */
    int drafted_at[QN_MAX_DRAFT];
    int n_step;
    int64_t queue_us, prefill_us, decode_us; /* until admitted; until the first token; after it */
    const char
        *miss; /* why cached tokens are fewer than the longest known prefix: a constant text, or NULL */
};

struct qn_request {
    struct qn_letter letter;         /* the submission, in the engine's mailbox */
    struct qn_request_params params; /* arrays are copies owned by the request; immutable */
    struct qn_ban *ban;              /* of ban_tok, or NULL */
    atomic_int n_ref;
    atomic_bool is_cancelled;
    atomic_int progress;
    struct qn_ring *ring;
    pthread_mutex_t lock; /* of stats */
    struct qn_request_stats stats;
    int64_t submit_us;
    bool is_ended;  /* reader: END was read */
    bool is_short;  /* engine: an event found no memory */
    qn_share share; /* whose memory it is, and how much of it is the request's own */
    size_t n_taken;
};

/* --- the reader's side; one thread --- */

/* Waits at most timeout_us (0: only looks). QN_OK; QN_TIMEOUT; after END:
 * QN_NOTFOUND. */
int qn_request_next(struct qn_request *r, struct qn_event *out, int64_t timeout_us);
/* Any thread; idempotent. The engine ends the request with QN_FINISH_CANCEL before its next step. */
void qn_request_cancel(struct qn_request *r);
void qn_request_stats(const struct qn_request *r, struct qn_request_stats *out);
/* Progress of prefill, for keep-alives: prompt tokens processed so far (cached ones included). */
int qn_request_progress(const struct qn_request *r);
/* Gives the reader's reference back; cancels when END has not been read. */
void qn_request_release(struct qn_request *r);

/* --- the engine's side --- */

/* What an engine can serve. */
struct qn_request_limits {
    int vocab, hidden, max_context;
    bool can_constrain; /* it has the vocabulary's masks */
};
/* Errors: QN_TOOBIG (the prompt leaves no room for one token; names both numbers), QN_INVAL (a token id or a
 * parameter out of range), QN_UNSUPPORTED. Any thread. */
int qn_request_check(const struct qn_request_params *p, const struct qn_request_limits *limits,
                     struct qn_err *e);
/* Token ids of `what` are in [0, vocab). */
int qn_request_check_tokens(const char *what, const int32_t *tok, int n, int vocab, struct qn_err *e);

/* Copies the parameters; both references are taken. NULL: no memory. The thread's share (base/budget.h) pays
 * for it, its sequence and its events. */
struct qn_request *qn_request_create(const struct qn_request_params *p);
void qn_request_ref(struct qn_request *r);
void qn_request_unref(struct qn_request *r);
bool qn_request_is_cancelled(const struct qn_request *r);
void qn_request_send_token(struct qn_request *r, enum qn_event_kind kind, const struct qn_step_token *token);
void qn_request_send_end(struct qn_request *r, enum qn_finish finish, int32_t stop_tok, bool is_loop,
                         const struct qn_err *error);
void qn_request_set_stats(struct qn_request *r, const struct qn_request_stats *stats);
void qn_request_set_progress(struct qn_request *r, int n_tok);

/* Requests with new events, whose readers are woken once the next step is on its way. A reference each. */
struct qn_told {
    struct qn_request **list;
    int n, capacity;
};
void qn_told_add(struct qn_told *t, struct qn_request *r);
void qn_told_wake(struct qn_told *t); /* all of them, and forgets them */
void qn_told_fini(struct qn_told *t); /* empty */

#endif
