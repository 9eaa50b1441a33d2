/* Requests: copies of the inputs, the event ring, cancel.
 * SPDX-License-Identifier: Apache-2.0 */
#include "engine/request.h"

#include <math.h>

#include "base/clock.h"
#include "base/mem.h"
#include "base/budget.h"
#include "engine/ban.h"
#include "text/grammar.h"

#define MAX_LISTED 4096 /* stop tokens, biases, closing tokens */

/* Events are stored short: most tokens have no alternatives. */
struct record {
    uint8_t kind, finish;
    int16_t n_top;
    int32_t tok; /* END: the stop token */
    float logprob;
    struct {
        int32_t tok;
        float logprob;
    } top[QN_MAX_TOP];
};
#define RECORD_BYTES(n_top)                                                                                  \
    (offsetof(struct record, top) + (size_t)(n_top) * (sizeof(int32_t) + sizeof(float)))

struct end_record {
    struct record head;
    struct qn_err error;
};

int qn_request_check_tokens(const char *what, const int32_t *tok, int n, int vocab, struct qn_err *e)
{
    for (int i = 0; i < n; i++)
        if (tok[i] < 0 || tok[i] >= vocab)
            return qn_err_set(e, QN_INVAL, __FILE__, __LINE__, "%s %d is token %d; the model has 0 to %d",
                              what, i, tok[i], vocab - 1);
    return QN_OK;
}

int qn_request_check(const struct qn_request_params *p, const struct qn_request_limits *limits,
                     struct qn_err *e)
{
    int rc = QN_OK;
    const struct qn_sample *s = &p->sample;
    int vocab = limits->vocab;
    QN_FAIL_IF(p->n_tok < 1, e, QN_INVAL, "the prompt is empty");
    QN_FAIL_IF(p->max_new < 1, e, QN_INVAL, "max_new is %d: at least 1", p->max_new);
    QN_FAIL_IF(p->n_tok + 1 > limits->max_context, e, QN_TOOBIG,
               "the prompt has %d tokens; the context of %d has no room for an answer behind it", p->n_tok,
               limits->max_context);
    QN_FAIL_IF(!(s->temperature >= 0 && s->temperature <= 100), e, QN_INVAL, "temperature %g: 0 to 100",
               (double)s->temperature);
    QN_FAIL_IF(!(s->top_p > 0 && s->top_p <= 1), e, QN_INVAL, "top_p %g: above 0, at most 1",
               (double)s->top_p);
    QN_FAIL_IF(!(s->min_p >= 0 && s->min_p <= 1), e, QN_INVAL, "min_p %g: 0 to 1", (double)s->min_p);
    QN_FAIL_IF(s->top_k < 0, e, QN_INVAL, "top_k %d: at least 0", s->top_k);
    QN_FAIL_IF(!(fabsf(s->presence) <= 1000 && fabsf(s->frequency) <= 1000), e, QN_INVAL,
               "presence or frequency penalty is out of range");
    QN_FAIL_IF(!(s->repetition > 0 && s->repetition <= 1000), e, QN_INVAL, "repetition penalty %g: above 0",
               (double)s->repetition);
    QN_FAIL_IF(s->n_top < -1 || s->n_top > QN_MAX_TOP || p->prompt_top < -1 || p->prompt_top > QN_MAX_TOP, e,
               QN_INVAL, "log-probabilities: at most %d alternatives", QN_MAX_TOP);
    QN_FAIL_IF(p->mtp < -1 || p->mtp > QN_MAX_DRAFT, e, QN_INVAL, "draft depth %d: 0 to %d, or -1", p->mtp,
               QN_MAX_DRAFT);
    QN_FAIL_IF(p->n_bias < 0 || p->n_stop < 0 || p->n_think_close < 0 || p->n_bias > MAX_LISTED ||
                   p->n_stop > MAX_LISTED || p->n_think_close > MAX_LISTED,
               e, QN_INVAL, "more than %d biases, stop tokens or closing tokens", MAX_LISTED);
    QN_FAIL_IF(p->constraint && !limits->can_constrain, e, QN_UNSUPPORTED,
               "constrained output needs the vocabulary's masks, which this engine was opened without");
    QN_TRY(qn_spans_check(p->span, p->n_span, p->n_tok, limits->hidden, e));
    QN_TRY(qn_request_check_tokens("prompt token", p->tok, p->n_tok, vocab, e));
    QN_TRY(qn_request_check_tokens("bias", p->bias_tok, p->n_bias, vocab, e));
    QN_TRY(qn_request_check_tokens("stop token", p->stop_tok, p->n_stop, vocab, e));
    QN_TRY(qn_request_check_tokens("closing token", p->think_close, p->n_think_close, vocab, e));
    for (int i = 0; i < p->n_bias; i++)
        QN_FAIL_IF(!(fabsf(p->bias[i]) <= 1e6f), e, QN_INVAL, "bias of token %d is out of range",
                   p->bias_tok[i]);
out:
    return rc;
}

/* *to is NULL where there is nothing to copy; false: no memory. */
static bool copy(const void **to, const void *from, int n, size_t size)
{
    *to = NULL;
    if (n <= 0) return true;
    void *new = try_malloc((size_t)n, size);
    if (new) memcpy(new, from, (size_t)n * size);
    *to = new;
    return new;
}

#define COPY(field, n) copy((const void **)&r->params.field, p->field, p->n, sizeof *p->field)

/* What a request holds until both sides are done with it: its copies, and the sequence's ids. */
static size_t size_of(const struct qn_request_params *p)
{
    size_t each =
        4 * (size_t)p->n_tok; /* the copy; the sequence's own, which grows to twice itself and more */
    return sizeof(struct qn_request) + (size_t)p->n_span * sizeof *p->span +
           sizeof(int32_t) * (each + 2 * (size_t)p->n_bias + (size_t)p->n_stop + (size_t)p->n_allowed_word);
}

struct qn_request *qn_request_create(const struct qn_request_params *p)
{
    struct qn_request *r = xcalloc(1, sizeof *r);
    r->params = *p;
    r->params.span = NULL;
    r->params.ban_tok = NULL;
    r->params.ban_len = NULL;
    r->params.constraint = NULL;
    r->share = qn_share_mine();
    atomic_init(&r->n_ref, 2);
    pthread_mutex_init(&r->lock, NULL);
    bool has_all = COPY(tok, n_tok);
    has_all &= COPY(bias_tok, n_bias);
    has_all &= COPY(bias, n_bias);
    has_all &= COPY(stop_tok, n_stop);
    has_all &= COPY(think_close, n_think_close);
    has_all &= COPY(allowed_bits, n_allowed_word);
    has_all = has_all && qn_share_take(r->share, size_of(p));
    if (has_all) r->n_taken = size_of(p);
    if (!has_all) {
        r->params.n_span = 0;
        atomic_init(&r->n_ref, 1);
        qn_request_unref(r);
        return NULL;
    }
    r->params.constraint = p->constraint;
    r->params.span = qn_spans_copy(p->span, p->n_span);
    if (p->n_ban) r->ban = qn_ban_create(p->ban_tok, p->ban_len, p->n_ban);
    if (p->constraint) qn_grammar_acquire(p->constraint);
    /* every event this request can make: its tokens, its prompt's when asked for, the end */
    size_t n_event = (size_t)p->max_new + 16;
    size_t n_byte = n_event * (RECORD_BYTES(QN_MAX(p->sample.n_top, 0)) + sizeof(size_t));
    if (p->prompt_top >= 0) n_byte += (size_t)p->n_tok * (RECORD_BYTES(p->prompt_top) + sizeof(size_t));
    r->ring = qn_ring_create(n_byte + sizeof(struct end_record) + sizeof(size_t));
    r->stats.n_prompt = p->n_tok;
    r->submit_us = qn_now_us();
    return r;
}

void qn_request_ref(struct qn_request *r)
{
    atomic_fetch_add(&r->n_ref, 1);
}

void qn_request_unref(struct qn_request *r)
{
    if (atomic_fetch_sub(&r->n_ref, 1) != 1) return;
    qn_grammar_release(r->params.constraint);
    free((void *)(uintptr_t)r->params.tok);
    qn_spans_free((struct qn_media_span *)(uintptr_t)r->params.span, r->params.n_span);
    free((void *)(uintptr_t)r->params.bias_tok);
    free((void *)(uintptr_t)r->params.bias);
    free((void *)(uintptr_t)r->params.stop_tok);
    free((void *)(uintptr_t)r->params.think_close);
    free((void *)(uintptr_t)r->params.allowed_bits);
    qn_ban_free(r->ban);
    qn_ring_free(r->ring);
    qn_share_give(r->share, r->n_taken);
    pthread_mutex_destroy(&r->lock);
    free(r);
}

void qn_told_add(struct qn_told *t, struct qn_request *r)
{
    if (t->n && t->list[t->n - 1] == r) return;
    if (t->n == t->capacity) {
        t->capacity = QN_MAX(64, 2 * t->capacity);
        t->list = xreallocarray(t->list, (size_t)t->capacity, sizeof *t->list);
    }
    qn_request_ref(r);
    t->list[t->n++] = r;
}

void qn_told_wake(struct qn_told *t)
{
    for (int i = 0; i < t->n; i++) {
        qn_ring_wake(t->list[i]->ring);
        qn_request_unref(t->list[i]);
    }
    t->n = 0;
}

void qn_told_fini(struct qn_told *t)
{
    free(t->list);
}

bool qn_request_is_cancelled(const struct qn_request *r)
{
    return atomic_load(&r->is_cancelled);
}

void qn_request_send_token(struct qn_request *r, enum qn_event_kind kind, const struct qn_step_token *token)
{
    int most = kind == QN_EVENT_PROMPT ? r->params.prompt_top : r->params.sample.n_top;
    struct record record = {.kind = (uint8_t)kind, .tok = token->tok, .logprob = token->logprob};
    record.n_top = (int16_t)QN_MIN(token->n_top, QN_MAX(most, 0));
    for (int i = 0; i < record.n_top; i++) {
        record.top[i].tok = token->top_tok[i];
        record.top[i].logprob = token->top_logprob[i];
    }
    if (r->is_short) return; /* it is about to end */
    int rc = qn_ring_push(r->ring, &record, RECORD_BYTES(record.n_top));
    QN_CHECK(rc == QN_OK || rc == QN_NOMEM);
    if (rc) { /* the client reads slowly, and memory is used up: the engine ends it before its next step */
        r->is_short = true;
        qn_request_cancel(r);
    }
}

void qn_request_send_end(struct qn_request *r, enum qn_finish finish, int32_t stop_tok, bool is_loop,
                         const struct qn_err *error)
{
    struct end_record end = {
        .head = {.kind = QN_EVENT_END, .finish = (uint8_t)finish, .n_top = is_loop, .tok = stop_tok}};
    if (error) end.error = *error;
    if (r->is_short) {
        end.head.finish = QN_FINISH_ERROR;
        qn_err_set(&end.error, QN_NOMEM, __FILE__, __LINE__,
                   "there is no memory for more of the answer; read it faster, or ask for less");
    }
    QN_CHECK(qn_ring_end(r->ring, &end, sizeof end) == QN_OK);
}

void qn_request_set_stats(struct qn_request *r, const struct qn_request_stats *stats)
{
    pthread_mutex_lock(&r->lock);
    r->stats = *stats;
    pthread_mutex_unlock(&r->lock);
}

void qn_request_set_progress(struct qn_request *r, int n_tok)
{
    atomic_store(&r->progress, n_tok);
}

int qn_request_next(struct qn_request *r, struct qn_event *out, int64_t timeout_us)
{
    if (r->is_ended) return QN_NOTFOUND;
    union {
        struct record record;
        struct end_record end;
    } u;
    size_t n_byte;
    int rc = qn_ring_pop(r->ring, &u, sizeof u, &n_byte, timeout_us);
    if (rc) return rc;
    memset(out, 0, sizeof *out);
    out->kind = (enum qn_event_kind)u.record.kind;
    out->stop_tok = -1;
    if (out->kind == QN_EVENT_END) {
        out->finish = (enum qn_finish)u.record.finish;
        out->stop_tok = u.record.tok;
        out->is_loop = u.record.n_top;
        out->error = u.end.error;
        r->is_ended = true;
        return QN_OK;
    }
    out->token.tok = u.record.tok;
    out->token.logprob = u.record.logprob;
    out->token.n_top = u.record.n_top;
    for (int i = 0; i < u.record.n_top; i++) {
        out->token.top_tok[i] = u.record.top[i].tok;
        out->token.top_logprob[i] = u.record.top[i].logprob;
    }
    return QN_OK;
}

void qn_request_cancel(struct qn_request *r)
{
    atomic_store(&r->is_cancelled, true);
}

void qn_request_stats(const struct qn_request *r, struct qn_request_stats *out)
{
    struct qn_request *own = (struct qn_request *)(uintptr_t)r; /* the lock is not part of the value */
    pthread_mutex_lock(&own->lock);
    *out = own->stats;
    pthread_mutex_unlock(&own->lock);
}

int qn_request_progress(const struct qn_request *r)
{
    return atomic_load(&r->progress);
}

void qn_request_release(struct qn_request *r)
{
    if (!r) return;
    if (!r->is_ended) qn_request_cancel(r);
    qn_request_unref(r);
}
