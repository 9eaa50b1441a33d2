/* The list of ranks.
 * SPDX-License-Identifier: Apache-2.0 */
#include "engine/ranks.h"

#include "base/cpu.h"
#include "base/mem.h"

/* A rank and what it works on. */
struct seat {
    struct qn_rank *rank;
    struct qn_share share;
    struct qn_step_result result; /* the rank's own, of those behind the first */
    size_t logits_capacity;
    float *logits;
};

struct qn_ranks {
    int n, vocab;
    struct seat *seat; /* [n] */
    struct qn_work *work;
    int n_left; /* ranks that are at work on it */
};

struct qn_forward_options qn_ranks_seat(const struct qn_forward_options *o, const struct qn_meet *meet, int i,
                                        int n)
{
    struct qn_forward_options own = *o;
    own.rank = i;
    own.n_rank = n;
    own.meet = meet ? &meet[i] : NULL;
    if (i) own.progress = NULL; /* it is told once */
    if (n > 1) {                /* workers are shared out, one each at least */
        int all = o->device.n_thread ? o->device.n_thread : qn_cpu_n_core();
        own.device.n_thread = QN_MAX(all * (i + 1) / n - all * i / n, 1);
    }
    return own;
}

void qn_ranks_sizes(const struct qn_ranks_options *o, struct qn_device_sizes *out)
{
    *out = (struct qn_device_sizes){0};
    for (int i = 0; i < o->n; i++) {
        struct qn_forward_options own = qn_ranks_seat(o->forward, o->meet, i, o->n);
        struct qn_device_sizes size;
        o->runner->sizes(o->user, &own, &size);
        out->page_bytes += size.page_bytes;
        out->slot_bytes += size.slot_bytes;
        out->lane_bytes += size.lane_bytes;
        out->workspace_bytes += size.workspace_bytes;
    }
}

/* Buffers for results that nobody else reads. */
static void make_result(struct seat *t, const struct qn_device_options *d)
{
    t->result.token = xcalloc((size_t)d->max_logits, sizeof *t->result.token);
    t->result.score = xcalloc((size_t)d->max_logits, sizeof *t->result.score);
    t->result.n_accepted = xcalloc((size_t)d->max_seqs, sizeof *t->result.n_accepted);
    t->result.n_drafted = xcalloc((size_t)d->max_seqs, sizeof *t->result.n_drafted);
    t->result.draft = xcalloc((size_t)d->max_seqs * QN_MAX_DRAFT, sizeof *t->result.draft);
}

static void drop_result(struct seat *t)
{
    free(t->result.token);
    free(t->result.score);
    free(t->result.n_accepted);
    free(t->result.n_drafted);
    free(t->result.draft);
    free(t->logits);
}

/* An error of rank i says so, where there are several. */
static void name(const struct qn_ranks *r, int i, struct qn_err *e)
{
    char text[sizeof e->text];
    if (r->n == 1 || !e) return;
    snprintf(text, sizeof text, "%s", e->text);
    snprintf(e->text, sizeof e->text, "rank %d of %d: %.*s", i, r->n, (int)sizeof e->text - 32, text);
}

int qn_ranks_open(struct qn_ranks **out, const struct qn_ranks_options *o, struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_ranks *r = xcalloc(1, sizeof *r);
    struct qn_rank_options seat = {.runner = o->runner,
                                   .user = o->user,
                                   .model = o->model,
                                   .home = o->home,
                                   .letter_kind = o->letter_kind};
    QN_CHECK(o->n >= 1 && o->n <= QN_MAX_RANK);
    r->seat = xcalloc((size_t)o->n, sizeof *r->seat);
    r->vocab = o->forward->device.config->vocab;
    for (; r->n < o->n; r->n++) {
        struct qn_device_sizes size;
        seat.forward = qn_ranks_seat(o->forward, o->meet, r->n, o->n);
        rc = qn_rank_start(&r->seat[r->n].rank, &seat, e);
        if (rc) break;
        if (r->n) make_result(&r->seat[r->n], &o->forward->device);
        o->runner->sizes(o->user, &seat.forward, &size);
        seat.page_offset += size.page_bytes;
        seat.slot_offset += size.slot_bytes;
    }
    for (int i = 0; i < r->n; i++) {
        struct qn_err own = {0};
        int failed = qn_rank_wait_open(r->seat[i].rank, &own);
        if (!failed || rc) continue;
        rc = failed;
        name(r, i, &own);
        if (e) *e = own;
    }
    if (rc) {
        qn_ranks_close(r);
        return rc;
    }
    *out = r;
    return QN_OK;
}

void qn_ranks_close(struct qn_ranks *r)
{
    if (!r) return;
    for (int i = 0; i < r->n; i++) {
        qn_rank_close(r->seat[i].rank);
        drop_result(&r->seat[i]);
    }
    free(r->seat);
    free(r);
}

/* Room for the logits that the step brings down, n of them. */
static float *scratch(struct seat *t, size_t n)
{
    if (n > t->logits_capacity) {
        t->logits = xreallocarray(t->logits, n, sizeof *t->logits);
        t->logits_capacity = n;
    }
    return t->logits;
}

void qn_ranks_publish(struct qn_ranks *r, struct qn_work *w)
{
    QN_CHECK(!r->n_left);
    r->work = w;
    r->n_left = r->n;
    for (int i = 0; i < r->n; i++) {
        struct seat *t = &r->seat[i];
        t->share = (struct qn_share){.work = w, .result = w->result, .mtp_logits = w->mtp_logits};
        if (i && w->step) {
            bool wants_logits = w->step->wants_raw || w->mtp_logits;
            float *logits = wants_logits ? scratch(t, (size_t)w->step->n_row * (size_t)r->vocab) : NULL;
            t->result.logits = logits;
            t->share.result = &t->result;
            t->share.mtp_logits = w->mtp_logits ? logits : NULL;
        }
        qn_rank_publish(t->rank, &t->share);
    }
}

/* Did two ranks come to the same tokens? */
static bool agree(const struct qn_step *s, const struct qn_step_result *a, const struct qn_step_result *b)
{
    for (int i = 0; i < s->n_seq; i++) {
        const struct qn_step_seq *q = &s->seq[i];
        if (!q->wants_token) continue;
        int n_pick = i < s->n_decode ? q->n_row : 1, n_draft = a->n_drafted[i];
        if (a->n_accepted[i] != b->n_accepted[i] || n_draft != b->n_drafted[i]) return false;
        for (int k = 0; k < n_pick; k++)
            if (a->token[q->first_logit + k].tok != b->token[q->first_logit + k].tok) return false;
        if (memcmp(a->draft + (size_t)i * QN_MAX_DRAFT, b->draft + (size_t)i * QN_MAX_DRAFT,
                   (size_t)n_draft * sizeof *a->draft))
            return false;
    }
    return true;
}

/* How the work went, from all shares. */
static void sum_up(struct qn_ranks *r)
{
    struct qn_work *w = r->work;
    w->rc = QN_OK;
    for (int i = 0; i < r->n; i++) {
        struct qn_share *s = &r->seat[i].share;
        w->start_us = i ? QN_MIN(w->start_us, s->start_us) : s->start_us;
        w->step_us = i ? QN_MIN(w->step_us, s->step_us) : s->step_us;
        w->end_us = i ? QN_MAX(w->end_us, s->end_us) : s->end_us;
        if (w->rc || !s->rc) continue;
        w->rc = s->rc;
        w->error = s->error;
        name(r, i, &w->error);
    }
    for (int i = 1; i < r->n && !w->rc && w->step && !w->mtp_logits; i++)
        if (!agree(w->step, w->result, &r->seat[i].result))
            w->rc = qn_err_set(&w->error, QN_DEVICE, __FILE__, __LINE__,
                               "rank %d of %d came to other tokens than rank 0: their arithmetic differs", i,
                               r->n);
}

struct qn_work *qn_ranks_collect(struct qn_ranks *r, struct qn_letter *letter)
{
    QN_CHECK(r->n_left > 0 && ((struct qn_share *)letter)->work == r->work);
    if (--r->n_left) return NULL;
    sum_up(r);
    return r->work;
}

bool qn_ranks_have_mtp(const struct qn_ranks *r)
{
    return qn_rank_has_mtp(r->seat[0].rank);
}

void qn_ranks_describe(const struct qn_ranks *r, struct qn_device_info *out)
{
    *out = *qn_rank_device(r->seat[0].rank);
    for (int i = 1; i < r->n; i++) {
        out->n_thread += qn_rank_device(r->seat[i].rank)->n_thread;
        out->weight_bytes += qn_rank_device(r->seat[i].rank)->weight_bytes;
    }
}
