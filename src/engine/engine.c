/* The engine thread: takes mail, applies results, ends and admits, builds and publishes steps.
 * SPDX-License-Identifier: Apache-2.0 */
#include "engine/engine.h"

#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "engine/answer.h"
#include "engine/beside.h"
#include "engine/board.h"
#include "engine/flight.h"
#include "engine/meet.h"
#include "engine/sched.h"
#include "engine/score.h"
#include "engine/size.h"
#include "engine/tier.h"

#define DEFAULT_STUCK_S 120
#define DEFAULT_GAP     64
#define TICK_US         100000 /* how often a sleeping engine with work looks at deadlines and the watchdog */
#define LONG_AGO_US     30000000
#define SAVE_EVERY_US   1000000            /* between two copies into the tiers while streams run */
#define SAVE_BYTES      ((int64_t)8 << 20) /* at a time, between two steps of streams */
#define IDLE_SAVE_BYTES ((int64_t)64 << 20)
#define TRANSIT_BYTES   ((int64_t)256 << 20) /* of RAM, when only a folder was asked for */

enum letter_kind {
    LETTER_WORK,
    LETTER_REQUEST,
    LETTER_JOB,
    LETTER_JOB_NEXT,
    LETTER_CANCEL_ALL,
    LETTER_QUIT,
    LETTER_TIER,
    LETTER_MASK
};

struct qn_engine {
    struct qn_engine_options options;
    struct qn_size size;
    struct qn_engine_info info;
    struct qn_device_info device;
    struct qn_request_limits limits;
    pthread_t thread;
    struct qn_mail *mail;
    struct qn_letter cancel_all, quit;
    struct qn_ranks *ranks;
    struct qn_meet_local *meet; /* of several, or NULL */
    struct qn_flight *flight;

    /* engine thread */
    struct qn_cache *cache;
    struct qn_chores chores; /* for the next piece of work */
    struct qn_spec spec;
    struct qn_sched sched;
    struct qn_beside *beside; /* or NULL: no masks */
    struct qn_tier *tier;     /* or NULL */
    int64_t next_save_us;
    struct qn_batch batch[2];
    int next_batch;
    struct qn_batch *in_flight;
    int64_t last_end_us;          /* of the work before the one in flight; 0: there was a rest between */
    int64_t watch_us, watched_us; /* the watchdog's last look; time of the step in flight that it saw */
    bool is_quitting, is_cancelling;
    struct qn_engine_stats counters;
    struct qn_told told; /* with events of this step */

    /* crossing */
    atomic_int n_inside; /* requests accepted and not ended */
    atomic_bool is_draining, is_broken;
    _Atomic int64_t last_step_us;
    atomic_bool has_work;
    struct qn_board board;
};

/* --- ending --- */

static void publish_stats(struct qn_engine *g)
{
    qn_board_write(&g->board, &g->counters, &g->sched);
}

/* Is what was computed for it worth keeping, at an end for this reason? */
static bool is_sound(const struct qn_err *error)
{
    return !error || (error->code != QN_DEVICE && error->code != QN_INTERNAL);
}

/* What it put into the cache goes again, and the copies of that in the tiers. */
static void retract(struct qn_engine *g, struct qn_seq *q)
{
    struct qn_prefix done = qn_seq_prefix(q);
    int n_others = q->n_others;
    done.n = q->n_done;
    qn_seq_retract(q, g->cache);
    if (g->tier) qn_tier_drop(g->tier, &done, n_others, q->since);
}

/* Ends a sequence that is in a queue of the scheduler. */
static void finish(struct qn_engine *g, struct qn_seq *q, enum qn_finish finish, int32_t stop_tok,
                   const struct qn_err *error)
{
    qn_sched_remove(&g->sched, q);
    if (is_sound(error) || q->is_proved || q->hold.slot < 0)
        qn_seq_suspend(q, g->cache, is_sound(error));
    else
        retract(g, q); /* not one row of it was seen to be right */
    if (q->job) {
        qn_job_stop(q->job, finish, error);
    } else {
        int64_t now = qn_now_us();
        struct qn_request_stats *s = &q->stats;
        if (!q->admit_us) s->queue_us = now - q->request->submit_us;
        if (q->admit_us && !q->first_us) s->prefill_us = now - q->admit_us;
        if (q->first_us) s->decode_us = now - q->first_us;
        qn_request_set_stats(q->request, s);
        g->counters.finished[finish]++;
        publish_stats(g); /* before the reader can see the end */
        atomic_fetch_sub(&g->n_inside, 1);
        qn_request_send_end(q->request, finish, stop_tok, finish == QN_FINISH_LENGTH && q->is_loop, error);
        qn_told_add(&g->told, q->request);
        qn_request_unref(q->request);
    }
    qn_beside_drop(q);
    qn_seq_free(q);
}

static void finish_all(struct qn_engine *g, enum qn_finish how, const struct qn_err *error)
{
    while (g->sched.n_running) finish(g, g->sched.running[g->sched.n_running - 1], how, -1, error);
    while (g->sched.n_waiting) finish(g, g->sched.waiting[g->sched.n_waiting - 1], how, -1, error);
}

static void expire(struct qn_engine *g, struct qn_seq **list, const int *n)
{
    for (int i = *n; i--;) {
        struct qn_seq *q = list[i];
        if (q->job && atomic_load(&q->job->is_given_up)) {
            finish(g, q, QN_FINISH_CANCEL, -1, NULL);
        } else if (q->request && qn_request_is_cancelled(q->request)) {
            finish(g, q, QN_FINISH_CANCEL, -1, NULL);
        } else if (q->request && qn_is_past(q->params->deadline_us)) {
            struct qn_err e = {0};
            qn_err_set(&e, QN_TIMEOUT, __FILE__, __LINE__, "the request's deadline has passed");
            finish(g, q, QN_FINISH_ERROR, -1, &e);
        } else if (q->is_late && qn_is_past(q->beside->post_us + QN_BESIDE_DEADLINE_US)) {
            struct qn_err e = {0};
            qn_err_set(&e, QN_TOOBIG, __FILE__, __LINE__,
                       "the grammar of the request takes more than %d s to say which tokens may come next; a "
                       "simpler "
                       "one helps",
                       QN_BESIDE_DEADLINE_US / 1000000);
            finish(g, q, QN_FINISH_ERROR, -1, &e);
        }
    }
}

/* --- applying results --- */

/* Returns whether the sequence goes on. */
static bool follow(struct qn_engine *g, struct qn_seq *q, const struct qn_verdict *v)
{
    g->counters.n_new_tok += v->is_sent;
    if (v->is_sent) qn_told_add(&g->told, q->request);
    if (v->is_over) finish(g, q, v->finish, v->stop_tok, v->finish == QN_FINISH_ERROR ? &v->error : NULL);
    return !v->is_over;
}

/* The token picked at a logit row of the step. Returns whether the sequence goes on. */
static bool take_token(struct qn_engine *g, struct qn_seq *q, const struct qn_batch *b, int logit)
{
    struct qn_verdict v;
    int32_t tok = b->result.token[logit].tok;
    qn_answer_take(q, &b->result.token[logit], b->is_stuck[logit], &v);
    if (!follow(g, q, &v)) return false;
    if (q->beside) qn_beside_send(g->beside, q, tok);
    return true;
}

static void apply_decode(struct qn_engine *g, struct qn_batch *b, int at)
{
    struct qn_batch_part *part = &b->part[at];
    struct qn_seq *q = part->seq;
    const struct qn_step_seq *in = &b->step.seq[at];
    int n_accepted = b->result.n_accepted[at];
    QN_CHECK(n_accepted >= 0 && n_accepted <= part->n_draft);
    q->stats.n_drafted += part->n_draft;
    q->stats.n_accepted += n_accepted;
    g->counters.n_draft_round += part->n_draft > 0;
    g->counters.n_drafted += (uint64_t)part->n_draft;
    g->counters.n_accepted += (uint64_t)n_accepted;
    for (int i = 0; i < part->n_draft; i++) {
        q->stats.drafted_at[i]++;
        g->counters.drafted_at[i]++;
        q->stats.accepted_at[i] += i < n_accepted;
        g->counters.accepted_at[i] += i < n_accepted;
    }
    q->n_done += n_accepted + 1;
    q->n_commit = n_accepted + 1;
    qn_answer_keep_drafts(q, &b->result, at);
    for (int i = 0; i <= n_accepted; i++) {
        const struct qn_step_token *token = &b->result.token[in->first_logit + i];
        QN_CHECK(i == n_accepted || token->tok == b->step.tok[in->first_row + i + 1]);
        if (!take_token(g, q, b, in->first_logit + i)) {
            /* nothing but the pick behind an accepted stop token is thrown away (batch.c cuts drafts there)
             */
            QN_CHECK(i >= n_accepted - 1);
            return;
        }
    }
    qn_seq_publish(q, g->cache);
    if (!q->beside) qn_spec_lookup(&g->spec, q, qn_sched_room(&g->sched, q));
}

static void apply_prefill(struct qn_engine *g, struct qn_batch *b, int at)
{
    struct qn_batch_part *part = &b->part[at];
    struct qn_seq *q = part->seq;
    int first = q->n_done;
    if (part->is_open) {
        q->slice_part = b->step.slice_to;
        return;
    }
    q->n_slice_row = q->slice_part = 0;
    q->n_done += part->n_row;
    q->is_fresh = false;
    g->counters.n_prompt_tok += (uint64_t)part->n_row;
    if (q->job) {
        qn_job_give(q->job, b, first, part->n_row);
        return;
    }
    qn_request_set_progress(q->request, QN_MIN(q->n_done, q->n_prompt));
    if (!q->first_us) qn_request_set_stats(q->request, &q->stats);
    if (b->step.all_logits) {
        int bad = qn_score_prompt(q, b->score, first, part->n_row);
        qn_told_add(&g->told, q->request);
        if (bad >= 0) {
            struct qn_verdict v = {0};
            qn_answer_unsound(q, bad, &v);
            follow(g, q, &v);
            return;
        }
    }
    if (q->n_mark && q->mark[0] <= q->n_done) qn_seq_snapshot(q, g->cache);
    if (!part->wants_token) {
        qn_seq_publish(q, g->cache);
        return;
    }
    q->state = QN_SEQ_DECODE;
    q->n_mark = 0;
    qn_answer_keep_drafts(q, &b->result, at);
    int logit = b->step.seq[at].first_logit;
    if (!take_token(g, q, b, logit)) return;
    qn_seq_publish(q, g->cache);
    if (!q->beside) qn_spec_lookup(&g->spec, q, qn_sched_room(&g->sched, q));
}

static void apply(struct qn_engine *g, struct qn_batch *b)
{
    int64_t took_us = b->work.end_us - b->work.step_us;
    int64_t gap_us = g->last_end_us ? b->work.start_us - g->last_end_us : 0;
    g->counters.step_us += b->work.end_us - b->work.start_us;
    g->counters.gap_us += gap_us;
    g->last_end_us = b->work.end_us;
    g->in_flight = NULL;
    atomic_store(&g->last_step_us, qn_now_us());
    qn_flight_end(g->flight, &b->work);
    if (b->work.rc && b->work.mtp_logits && b->work.rc != QN_DEVICE) {
        finish(g, b->part[0].seq, QN_FINISH_ERROR, -1, &b->work.error); /* concerns the job alone */
        return;
    }
    if (b->work.rc) {
        qn_log(QN_LOG_ERROR, "engine", "device fault: %s", b->work.error.text);
        atomic_store(&g->is_broken, true);
        struct qn_err e = b->work.error;
        e.code = QN_DEVICE;
        finish_all(g, QN_FINISH_ERROR, &e);
        publish_stats(g);
        return;
    }
    if (g->tier) qn_tier_returned(g->tier);
    if (b->work.step) {
        int bin = 0, n_row = b->step.n_row; /* that are through with the model */
        if (b->part[b->step.n_seq - 1].is_open) n_row -= b->part[b->step.n_seq - 1].n_row;
        g->counters.n_step++;
        g->counters.n_step_tok += (uint64_t)n_row;
        while (bin < QN_STEP_BINS - 1 && n_row > 1 << bin) bin++;
        g->counters.steps_of[bin]++;
        qn_sched_learn(&g->sched, b, took_us, gap_us);
        for (int i = 0; i < b->step.n_seq; i++) {
            b->part[i].seq->stats.n_step++;
            if (b->part[i].is_decode)
                apply_decode(g, b, i);
            else
                apply_prefill(g, b, i);
        }
    }
    publish_stats(g);
}

/* --- the loop --- */

static void publish(struct qn_engine *g, struct qn_batch *b)
{
    struct qn_chores spare = b->work.chores;
    b->work.chores = g->chores;
    g->chores = spare;
    g->chores.n = 0;
    g->in_flight = b;
    g->next_batch ^= 1;
    g->watch_us = qn_now_us();
    g->watched_us = 0;
    if (g->tier) qn_tier_published(g->tier);
    qn_flight_begin(g->flight, b, &g->sched);
    qn_ranks_publish(g->ranks, &b->work);
}

/* Copies an unsaved snapshot into the tiers: whenever there is nothing else to do, and once in a while when
 * there is, as a process can be killed. Beside streams that is the one used last; with nothing else to do the
 * oldest goes first, as all of them will, and where room is short the last ones stay. */
static void save_one(struct qn_engine *g)
{
    bool is_idle = !g->sched.n_running && !g->sched.n_waiting;
    if (!g->tier || atomic_load(&g->is_broken) || (!is_idle && qn_now_us() < g->next_save_us)) return;
    int best = qn_cache_unstored(g->cache, is_idle);
    if (best < 0) return;
    enum qn_tier_saved saved = qn_tier_save(g->tier, best, is_idle ? IDLE_SAVE_BYTES : SAVE_BYTES);
    if (saved == QN_TIER_MORE) return; /* the rest between the next steps */
    if (saved == QN_TIER_NO_ROOM && qn_tier_is_copying(g->tier)) return;
    qn_cache_set_stored(g->cache, best); /* or there is no room for it: not tried again */
    g->next_save_us = qn_now_us() + SAVE_EVERY_US;
}

static void save_evicted(void *user, int slot)
{
    struct qn_engine *g = user;
    if (!atomic_load(&g->is_broken)) qn_tier_save(g->tier, slot, INT64_MAX);
}

static void next_step(struct qn_engine *g)
{
    struct qn_batch *b = &g->batch[g->next_batch];
    save_one(g);
    if (g->beside) {
        qn_beside_move(g->beside, g->sched.running, g->sched.n_running, g->options.masks_beside);
        qn_beside_move(g->beside, g->sched.waiting, g->sched.n_waiting, g->options.masks_beside);
    }
    qn_sched_admit(&g->sched);
    bool has_step = qn_sched_build(&g->sched, b);
    if (!has_step) {
        if (!g->chores.n) return;
    } else if (b->step.all_logits && b->part[0].seq->job && b->part[0].seq->job->with_mtp) {
        b->work.mtp_logits = b->logits;
        b->step.all_logits = b->step.wants_raw = false; /* the draft head's are wanted instead */
        b->step.n_logit = 0;
    }
    publish(g, b);
}

/* The first work after a rest: the time of the last step tells nothing. */
static void note_work(struct qn_engine *g)
{
    if (!g->sched.n_running && !g->sched.n_waiting) atomic_store(&g->last_step_us, qn_now_us());
}

static void read_letter(struct qn_engine *g, struct qn_letter *letter)
{
    switch (letter->kind) {
    case LETTER_WORK:
        if (qn_ranks_collect(g->ranks, letter)) apply(g, g->in_flight);
        break;
    case LETTER_REQUEST: {
        note_work(g);
        struct qn_request *r = (struct qn_request *)letter;
        g->counters.n_request++;
        qn_sched_add(&g->sched, qn_seq_create(r, g->info.max_context, g->options.mask));
        break;
    }
    case LETTER_JOB: {
        struct qn_job *job = (struct qn_job *)letter;
        note_work(g);
        job->seq = qn_seq_create_job(job, &job->params);
        job->seq->wants_scores = job->wants_scores;
        qn_sched_add(&g->sched, job->seq);
        break;
    }
    case LETTER_JOB_NEXT: {
        struct qn_job *job = (struct qn_job *)letter;
        if (qn_job_resume(job) && job->seq->n_done == job->seq->n_tok)
            finish(g, job->seq, QN_FINISH_LENGTH, -1, NULL);
        break;
    }
    case LETTER_CANCEL_ALL:
        break;
    case LETTER_QUIT:
        g->is_quitting = true;
        break;
    case LETTER_MASK:
        qn_beside_take(letter);
        atomic_store(&g->last_step_us, qn_now_us());
        break;
    case LETTER_TIER:
        qn_tier_letter(g->tier, letter);
        atomic_store(&g->last_step_us, qn_now_us()); /* a slow disk is no stuck step */
        break;
    }
}

/* Ends the process when a step does not come back. */
static void watch(struct qn_engine *g)
{
    int limit_s = g->options.stuck_s ? g->options.stuck_s : DEFAULT_STUCK_S;
    /* time in which the process as a whole was stopped is not the step's */
    int64_t now = qn_now_us(), gap_us = now - g->watch_us;
    g->watch_us = now;
    if (!g->in_flight) return;
    g->watched_us += QN_MIN(gap_us, 5 * TICK_US);
    if (g->watched_us < (int64_t)limit_s * 1000000) return;
    qn_log(QN_LOG_ERROR, "engine", "a step has not come back for %d s; flight record follows", limit_s);
    qn_flight_dump(g->flight, stderr);
    fflush(stderr);
    _exit(70);
}

static void *engine_main(void *arg)
{
    struct qn_engine *g = arg;
    for (;;) {
        qn_told_wake(&g->told);
        bool has_work = g->sched.n_running || g->sched.n_waiting || g->in_flight;
        atomic_store(&g->has_work, has_work);
        struct qn_letter *next = qn_mail_take(g->mail, has_work ? TICK_US : QN_FOREVER);
        bool cancels_all = false;
        while (next) {
            struct qn_letter *letter = next;
            next = letter->next;
            if (letter->kind == LETTER_CANCEL_ALL || letter->kind == LETTER_QUIT) cancels_all = true;
            read_letter(g, letter);
        }
        watch(g);
        if (g->in_flight) {
            if (cancels_all) g->is_cancelling = true;
            continue;
        }
        if (cancels_all || g->is_cancelling) {
            finish_all(g, QN_FINISH_CANCEL, NULL);
            g->is_cancelling = false;
        }
        if (atomic_load(&g->is_broken)) {
            struct qn_err e = {0};
            qn_err_set(&e, QN_DEVICE, __FILE__, __LINE__,
                       "the device has failed; the server has to be restarted");
            finish_all(g, QN_FINISH_ERROR, &e);
            g->chores.n = 0;
        }
        expire(g, g->sched.running, &g->sched.n_running);
        expire(g, g->sched.waiting, &g->sched.n_waiting);
        next_step(g);
        if (g->in_flight) continue;
        g->last_end_us = 0;
        publish_stats(g);
        if (!g->sched.n_running && !g->sched.n_waiting) {
            qn_sched_check(&g->sched, g->options.checks_pools); /* every page and slot is accounted for */
            if (g->is_quitting && !(g->tier && qn_tier_is_copying(g->tier))) break;
        }
    }
    qn_told_wake(&g->told);
    return NULL;
}

/* --- verbs --- */

int qn_engine_plan(struct qn_engine_info *out, const struct qn_engine_options *o, struct qn_err *e)
{
    struct qn_size size;
    int rc = qn_size_decide(&size, o, e);
    if (!rc) *out = size.info;
    return rc;
}

static int open_tier(struct qn_engine *g, struct qn_err *e)
{
    const struct qn_engine_options *o = &g->options;
    if (o->no_prefix_cache || (o->ram_tier_bytes <= 0 && !o->disk_tier)) return QN_OK;
    struct qn_device_sizes size;
    qn_ranks_sizes(&g->size.ranks, &size);
    int64_t least = 4 * (int64_t)(size.slot_bytes + 16 * size.page_bytes);
    struct qn_tier_options options = {
        .page_bytes = size.page_bytes,
        .slot_bytes = size.slot_bytes,
        .ram_bytes = o->ram_tier_bytes > 0 ? o->ram_tier_bytes : QN_MAX(TRANSIT_BYTES, least),
        .folder = o->disk_tier,
        .disk_bytes = o->disk_tier_bytes,
        .write_bytes = o->disk_write_bytes,
        .fingerprint = qn_size_fingerprint(&g->size, o),
        .home = g->mail,
        .letter_kind = LETTER_TIER,
    };
    int rc = qn_tier_open(&g->tier, g->cache, &options, e);
    if (rc) return rc;
    g->info.ram_tier_bytes = (size_t)options.ram_bytes;
    qn_cache_on_evict(g->cache, save_evicted, g);
    return QN_OK;
}

static void init_sched(struct qn_engine *g)
{
    const struct qn_engine_options *o = &g->options;
    qn_spec_init(&g->spec, g->info.has_mtp, o->mtp);
    qn_sched_init(&g->sched, g->cache, &g->spec, g->info.max_seqs);
    g->sched.tier = g->tier;
    g->sched.step_tokens = g->info.step_tokens;
    g->sched.max_logits = g->size.forward.device.max_logits;
    g->sched.marks = (struct qn_seq_marks){.stop_tok = g->size.config.stop_tok,
                                           .n_stop = g->size.config.n_stop,
                                           .gap = o->snapshot_gap > 0 ? o->snapshot_gap : DEFAULT_GAP};
    g->sched.itl_target_us = 1000.0 * (double)o->itl_target_ms;
    g->sched.slice_parts = o->slice_parts;
    qn_sched_set_parts(&g->sched, &g->size.config);
}

/* Everything but the thread, which has ended or was never there. */
static void destroy(struct qn_engine *g)
{
    qn_beside_close(g->beside);
    for (struct qn_letter *next = qn_mail_take(g->mail, 0), *letter;
         (letter = next);) { /* of ended sequences */
        next = letter->next;
        if (letter->kind == LETTER_MASK) qn_beside_take(letter);
    }
    qn_ranks_close(g->ranks);
    qn_meet_local_free(g->meet);
    if (g->sched.running) qn_sched_fini(&g->sched);
    for (int i = 0; i < 2; i++)
        if (g->batch[i].part) qn_batch_fini(&g->batch[i]);
    qn_chores_fini(&g->chores);
    qn_tier_close(g->tier);
    qn_cache_free(g->cache);
    qn_flight_free(g->flight);
    qn_mail_free(g->mail);
    qn_board_fini(&g->board);
    qn_told_fini(&g->told);
    free(g);
}

int qn_engine_open(struct qn_engine **out, const struct qn_engine_options *o, struct qn_err *e)
{
    int rc = QN_OK;
    int64_t start = qn_now_us();
    struct qn_engine *g = xcalloc(1, sizeof *g);
    const struct qn_device_options *d = &g->size.forward.device;
    g->options = *o;
    qn_board_init(&g->board);
    g->mail = qn_mail_create();
    g->cancel_all.kind = LETTER_CANCEL_ALL;
    g->quit.kind = LETTER_QUIT;
    QN_TRY(qn_size_decide(&g->size, o, e));
    g->info = g->size.info;
    g->cache = qn_cache_create(
        &(struct qn_cache_options){.n_page = g->info.n_page,
                                   .n_slot = g->info.n_slot,
                                   .n_lane = g->info.max_seqs,
                                   .chores = &g->chores,
                                   .fingerprint = o->model ? qn_model_fingerprint(o->model) : 0,
                                   .is_off = o->no_prefix_cache});
    QN_TRY(open_tier(g, e));
    g->size.ranks.home = g->mail;
    g->size.ranks.letter_kind = LETTER_WORK;
    if (g->size.ranks.n > 1 && !o->meet && !o->runner) {
        g->meet = qn_meet_local_create(g->size.ranks.n);
        g->size.ranks.meet = qn_meet_local_seats(g->meet);
    }
    rc = qn_ranks_open(&g->ranks, &g->size.ranks, e);
    if (rc == QN_NOMEM && e) qn_size_name_nearest(&g->size, o, e);
    if (rc) goto out;
    g->info.has_mtp = qn_ranks_have_mtp(g->ranks) && o->mtp != 0;
    qn_ranks_describe(g->ranks, &g->device);
    g->info.weight_bytes = g->device.weight_bytes;
    g->info.n_thread = g->device.n_thread;
    g->info.n_rank = g->size.ranks.n;
    g->info.isa = g->device.isa;
    g->limits = (struct qn_request_limits){.vocab = g->size.config.vocab,
                                           .hidden = g->size.config.hidden,
                                           .max_context = g->info.max_context,
                                           .can_constrain = o->mask != NULL};
    init_sched(g);
    if (o->mask)
        g->beside = qn_beside_create(o->mask, g->size.config.vocab, g->mail, LETTER_MASK, o->mask_delay_us);
    for (int i = 0; i < 2; i++) qn_batch_init(&g->batch[i], d);
    char line[200];
    snprintf(line, sizeof line, "context %d, sequences %d, pages %d, slots %d, step %d, mtp %d",
             g->info.max_context, g->info.max_seqs, g->info.n_page, g->info.n_slot, g->info.step_tokens,
             o->mtp);
    g->flight = qn_flight_create(line);
    g->info.load_s = (double)(qn_now_us() - start) / 1e6;
    atomic_store(&g->last_step_us, qn_now_us());
    publish_stats(g);
    QN_FAIL_IF(pthread_create(&g->thread, NULL, engine_main, g), e, QN_NOMEM, "no thread for the engine");
    *out = g;
    g = NULL;
out:
    if (g) destroy(g);
    return rc;
}

void qn_engine_drain(struct qn_engine *g, int64_t deadline_us)
{
    atomic_store(&g->is_draining, true);
    while (atomic_load(&g->n_inside) > 0 && qn_now_us() < deadline_us) usleep(2000);
    if (atomic_load(&g->n_inside) == 0) return;
    qn_mail_post(g->mail, &g->cancel_all);
    while (atomic_load(&g->n_inside) > 0) usleep(1000);
}

void qn_engine_close(struct qn_engine *g)
{
    if (!g) return;
    atomic_store(&g->is_draining, true);
    qn_mail_post(g->mail, &g->quit);
    pthread_join(g->thread, NULL);
    destroy(g);
}

const struct qn_engine_info *qn_engine_info(const struct qn_engine *g)
{
    return &g->info;
}

int qn_engine_submit(struct qn_engine *g, const struct qn_request_params *p, struct qn_request **out,
                     struct qn_err *e)
{
    int rc = QN_OK;
    int limit = g->info.max_queue + g->info.max_seqs;
    QN_TRY(qn_request_check(p, &g->limits, e));
    QN_FAIL_IF(atomic_load(&g->is_broken), e, QN_DEVICE,
               "the device has failed; the server has to be restarted");
    int n_inside = atomic_fetch_add(&g->n_inside, 1);
    if (n_inside >= limit || atomic_load(&g->is_draining)) {
        atomic_fetch_sub(&g->n_inside, 1);
        qn_board_reject(&g->board);
        QN_FAIL_IF(atomic_load(&g->is_draining), e, QN_BUSY, "the server is shutting down");
        QN_FAIL(e, QN_BUSY, "the queue is full (%d requests); try again later", n_inside);
    }
    struct qn_request_params own = *p;
    own.max_new = QN_MIN(p->max_new, g->info.max_context - p->n_tok);
    struct qn_request *r = qn_request_create(&own);
    if (!r) atomic_fetch_sub(&g->n_inside, 1);
    QN_FAIL_IF(!r, e, QN_NOMEM, "there is no memory for a request of %d tokens", p->n_tok);
    r->letter.kind = LETTER_REQUEST;
    *out = r;
    qn_mail_post(g->mail, &r->letter);
out:
    return rc;
}

void qn_engine_stats(struct qn_engine *g, struct qn_engine_stats *out)
{
    qn_board_stats(&g->board, out);
    out->last_step_age_us = atomic_load(&g->has_work) ? qn_now_us() - atomic_load(&g->last_step_us) : 0;
}

int qn_engine_admissions(struct qn_engine *g, struct qn_admission *out)
{
    return qn_board_admissions(&g->board, out);
}

bool qn_engine_is_alive(struct qn_engine *g)
{
    if (atomic_load(&g->is_broken)) return false;
    return !atomic_load(&g->has_work) || qn_now_us() - atomic_load(&g->last_step_us) < LONG_AGO_US;
}

/* The caller's side of a job, from its letter to its end. */
static int run_job(struct qn_engine *g, struct qn_job *job, qn_score_rows *rows, qn_score_tokens *scores,
                   void *user, struct qn_err *e)
{
    job->letter.kind = LETTER_JOB;
    qn_mail_post(g->mail, &job->letter);
    while (qn_job_read(job, rows, scores, user)) {
        job->letter.kind = LETTER_JOB_NEXT;
        qn_mail_post(g->mail, &job->letter);
    }
    int rc = qn_job_end(job, e);
    qn_job_free(job);
    return rc;
}

static int check_job(const struct qn_engine *g, const int32_t *ids, int n, struct qn_err *e)
{
    int rc = QN_OK;
    QN_FAIL_IF(n < 1 || n > g->info.max_context - 1, e, QN_TOOBIG, "%d tokens; the context takes 1 to %d", n,
               g->info.max_context - 1);
    QN_TRY(qn_request_check_tokens("token", ids, n, g->size.config.vocab, e));
out:
    return rc;
}

int qn_engine_logits(struct qn_engine *g, const int32_t *ids, int n, bool with_mtp,
                     int (*rows)(void *user, int first, int n_row, const float *logits), void *user,
                     struct qn_err *e)
{
    int rc = QN_OK;
    QN_TRY(check_job(g, ids, n, e));
    QN_FAIL_IF(with_mtp && !g->info.has_mtp, e, QN_UNSUPPORTED, "the model has no draft head, or it is off");
    QN_TRY(run_job(g, qn_job_create(ids, n, with_mtp), rows, NULL, user, e));
out:
    return rc;
}

int qn_engine_scores(struct qn_engine *g, const int32_t *ids, int n,
                     int (*scores)(void *user, int first, int n_row, const struct qn_step_token *score),
                     void *user, struct qn_err *e)
{
    int rc = QN_OK;
    QN_TRY(check_job(g, ids, n, e));
    struct qn_job *job = qn_job_create(ids, n, false);
    job->wants_scores = true;
    QN_TRY(run_job(g, job, NULL, scores, user, e));
out:
    return rc;
}
