/* The scheduler.
 *
 * Who comes in. Of those that wait the next is, in this order: of higher priority, of the client with fewer
 * running, of the client that got fewer tokens lately (halved about every 35 steps), the one that came first.
 * Before it is admitted the tiers bring back what they know of its prefix, a piece at a time; others pass it
 * meanwhile. It is admitted when there are a slot, a lane and pages for all its tokens and one more. When
 * there are not, a running one of lower priority leaves for it; else it waits, and nobody behind it is taken.
 *
 * Who runs. Every stream has its row and its drafts in every step. What time the target leaves beside them
 * goes to prompts (cost.h): the best first, whole rows or slices, at least one row or part a step, but
 * for the steps that measure the streams alone. Rows whose logits are all wanted have steps of their own, in
 * turn with the streams.
 *
 * Who leaves. Pages for the next step are found before it is built. When there are none left, the youngest of
 * the lowest priority is suspended: its state becomes a snapshot, so it comes back where it was.
 * SPDX-License-Identifier: Apache-2.0 */
#include "engine/sched.h"

#include <math.h>

#include "base/clock.h"
#include "base/mem.h"

#define SERVED_DECAY    0.98 /* of a client's tokens, a step */
#define MAX_CLIENT_IDLE 256  /* clients remembered without work */
#define MAX_PROMOTE     1000 /* pieces of a prefix that come back from the tiers, one after the other */
#define PROMOTE_BYTES   ((int64_t)32 << 20) /* of such a piece, copied between two steps of streams */

void qn_sched_init(struct qn_sched *s, struct qn_cache *c, struct qn_spec *spec, int max_seqs)
{
    *s = (struct qn_sched){.cache = c, .spec = spec, .max_seqs = max_seqs};
    s->running = xcalloc((size_t)max_seqs, sizeof *s->running);
}

void qn_sched_set_parts(struct qn_sched *s, const struct qn_config *c)
{
    int n_mtp = s->spec->has_mtp, n = c->n_layer + n_mtp, n_full = c->n_full + n_mtp;
    s->n_part = c->n_layer + 1;
    s->part = xcalloc((size_t)s->n_part, sizeof *s->part);
    for (int i = 0; i < n; i++) {
        bool is_full = i == c->n_layer || c->is_full[i];
        s->part[i] = (struct qn_cost_part){1.0 / n, is_full ? 1.0 / n_full : 0};
        if (s->part[i].far >= s->dearest_part.far) s->dearest_part = s->part[i];
    }
}

void qn_sched_fini(struct qn_sched *s)
{
    QN_CHECK(!s->n_waiting && !s->n_running);
    free(s->waiting);
    free(s->running);
    free(s->client);
    free(s->part);
    *s = (struct qn_sched){0};
}

static int find_client(struct qn_sched *s, uint64_t key)
{
    int idle = -1;
    double least = 0;
    bool is_any = false;
    for (int i = 0; i < s->n_client; i++) {
        const struct qn_client *c = &s->client[i];
        if (c->key == key) return i;
        bool is_idle = !c->n_running && !c->n_waiting;
        if (is_idle && (idle < 0 || c->served < s->client[idle].served)) idle = i;
        if (!is_idle && (!is_any || c->served < least)) {
            least = c->served;
            is_any = true;
        }
    }
    if (s->n_client < MAX_CLIENT_IDLE || idle < 0) {
        if (s->n_client == s->client_capacity) {
            s->client_capacity = QN_MAX(16, s->client_capacity * 2);
            s->client = xreallocarray(s->client, (size_t)s->client_capacity, sizeof *s->client);
        }
        idle = s->n_client++;
    }
    /* a newcomer starts level with the least served one, not with a claim on the past */
    s->client[idle] = (struct qn_client){.key = key, .served = least};
    return idle;
}

static void enqueue(struct qn_sched *s, struct qn_seq *q)
{
    if (s->n_waiting == s->waiting_capacity) {
        s->waiting_capacity = QN_MAX(16, s->waiting_capacity * 2);
        s->waiting = xreallocarray(s->waiting, (size_t)s->waiting_capacity, sizeof *s->waiting);
    }
    int i = s->n_waiting++;
    for (; i && s->waiting[i - 1]->order > q->order; i--) s->waiting[i] = s->waiting[i - 1];
    s->waiting[i] = q;
    s->client[q->client].n_waiting++;
}

void qn_sched_add(struct qn_sched *s, struct qn_seq *q)
{
    q->order = s->n_order++;
    q->client = find_client(s, q->params->client);
    enqueue(s, q);
}

static bool take_out(struct qn_seq **list, int *n, const struct qn_seq *q)
{
    for (int i = 0; i < *n; i++) {
        if (list[i] != q) continue;
        memmove(list + i, list + i + 1, (size_t)(--*n - i) * sizeof *list);
        return true;
    }
    return false;
}

void qn_sched_remove(struct qn_sched *s, struct qn_seq *q)
{
    if (s->sliced == q) s->sliced = NULL;
    if (take_out(s->waiting, &s->n_waiting, q))
        s->client[q->client].n_waiting--;
    else if (take_out(s->running, &s->n_running, q))
        s->client[q->client].n_running--;
    else
        QN_CHECK(!"a sequence is in no queue");
}

static void preempt(struct qn_sched *s, struct qn_seq *q)
{
    qn_sched_remove(s, q);
    qn_seq_suspend(q, s->cache, true);
    enqueue(s, q);
    s->n_preempted++;
}

/* Before a: by priority, what the client has, what it got, arrival. */
static bool goes_first(const struct qn_sched *s, const struct qn_seq *a, const struct qn_seq *b)
{
    const struct qn_client *ca = &s->client[a->client], *cb = &s->client[b->client];
    if (a->params->priority != b->params->priority) return a->params->priority < b->params->priority;
    if (ca != cb && ca->n_running != cb->n_running) return ca->n_running < cb->n_running;
    if (ca != cb && ca->served != cb->served) return ca->served < cb->served;
    return a->order < b->order;
}

/* The one to suspend for another: lowest priority, youngest. */
static struct qn_seq *victim(const struct qn_sched *s, const struct qn_seq *beneficiary)
{
    struct qn_seq *worst = NULL;
    for (int i = 0; i < s->n_running; i++) {
        struct qn_seq *q = s->running[i];
        if (q == beneficiary) continue;
        if (!worst || q->params->priority > worst->params->priority ||
            (q->params->priority == worst->params->priority && q->order > worst->order))
            worst = q;
    }
    return worst;
}

/* What the tiers know of its prefix comes back before it is matched. true: it has to wait for that. */
static bool promote(struct qn_sched *s, struct qn_seq *q)
{
    if (!s->tier || qn_seq_wants_rows(q) || q->n_promote >= MAX_PROMOTE) return false;
    uint64_t version = qn_tier_version(s->tier);
    if (q->tier_version == version && q->tier_cache_version == qn_cache_version(s->cache)) return false;
    int n_have = qn_seq_match(q, s->cache)->n_tok;
    q->n_promote++;
    struct qn_prefix p = qn_seq_prefix(q);
    enum qn_tier_promoted how = qn_tier_promote(s->tier, &p, n_have, s->n_running ? PROMOTE_BYTES : INT64_MAX,
                                                &q->wait, &q->n_tier_tok);
    if (how == QN_TIER_NOTHING) {
        q->tier_version = version;
        q->tier_cache_version = qn_cache_version(s->cache);
    }
    return how == QN_TIER_WAIT;
}

static bool is_waiting_for_tier(const struct qn_sched *s, const struct qn_seq *q)
{
    return s->tier && !qn_tier_is_over(s->tier, &q->wait);
}

int qn_sched_n_fetching(const struct qn_sched *s)
{
    int n = 0;
    for (int i = 0; i < s->n_waiting; i++) n += is_waiting_for_tier(s, s->waiting[i]);
    return n;
}

static void note_admission(struct qn_sched *s, const struct qn_seq *q)
{
    if (q->job) return;
    struct qn_admission *a = &s->admission[s->n_admission++ % QN_N_ADMISSION];
    *a = (struct qn_admission){.at_us = qn_now_us(),
                               .n_prompt = q->n_prompt,
                               .n_known = q->stats.n_known,
                               .n_cached = q->n_cached,
                               .n_tier_tok = q->n_tier_tok,
                               .queue_us = qn_now_us() - q->request->submit_us,
                               .miss = q->stats.miss};
    snprintf(a->id, sizeof a->id, "%s", q->params->id);
}

void qn_sched_admit(struct qn_sched *s)
{
    for (;;) {
        struct qn_seq *next = NULL;
        for (int i = 0; i < s->n_waiting; i++) {
            struct qn_seq *q = s->waiting[i];
            if (!is_waiting_for_tier(s, q) && (!next || goes_first(s, q, next))) next = q;
        }
        if (!next) return;
        if (s->n_running < s->max_seqs && promote(s, next)) continue; /* others need not wait for it */
        bool is_in = s->n_running < s->max_seqs && qn_seq_admit(next, s->cache, &s->marks, false);
        if (!is_in && !s->n_running) {
            is_in = qn_seq_admit(next, s->cache, &s->marks, true);
            QN_CHECK(is_in); /* submit refuses what can never fit */
        }
        if (!is_in) {
            /* a running one of lower priority makes room */
            struct qn_seq *low = victim(s, NULL);
            if (!low || low->params->priority <= next->params->priority) return;
            preempt(s, low);
            continue;
        }
        take_out(s->waiting, &s->n_waiting, next);
        s->running[s->n_running++] = next;
        s->client[next->client].n_waiting--;
        s->client[next->client].n_running++;
        note_admission(s, next);
    }
}

/* Pages for q up to n_tok tokens; others leave when there is no other way, or q itself. */
static void make_room(struct qn_sched *s, struct qn_seq *q, int n_tok)
{
    while (!qn_seq_reserve(q, s->cache, n_tok)) {
        struct qn_seq *other = victim(s, q);
        bool other_is_better =
            other && (other->params->priority < q->params->priority ||
                      (other->params->priority == q->params->priority && other->order < q->order));
        if (!other || other_is_better) {
            QN_CHECK(other); /* alone it always fits: the context is bounded by the pool */
            preempt(s, q);
            return;
        }
        preempt(s, other);
    }
}

/* Drafts that still make sense after n_more tokens: one token is picked beside them. */
static int depth_for(const struct qn_sched *s, const struct qn_seq *q, int depth, int n_more)
{
    if (q->params->mtp >= 0) depth = s->spec->has_mtp ? QN_MIN(q->params->mtp, QN_MAX_DRAFT) : 0;
    return QN_CLAMP(q->max_tok - q->n_tok - n_more - 1, 0, depth);
}

static int next_depth(const struct qn_sched *s, const struct qn_seq *q, int depth, int max_draft)
{
    if (q->beside || !s->spec->has_mtp || s->spec->fixed == 0) return 0;
    return depth_for(s, q, depth, 1 + QN_MIN(q->n_draft, max_draft));
}

/* Is the draft layer's KV of a prompt kept while it is read? */
static bool reads_mtp(const struct qn_sched *s, const struct qn_seq *q)
{
    return q->params->mtp > 0 || qn_spec_reads_mtp(s->spec);
}

/* Pages for one more step of every stream. false: somebody had to leave, look again. */
static bool reserve_all(struct qn_sched *s, int depth, int max_draft)
{
    for (int i = 0; i < s->n_running; i++) {
        struct qn_seq *q = s->running[i];
        if (q->state != QN_SEQ_DECODE || q->is_late) continue;
        int n_before = s->n_running;
        int n_row = 1 + (q->beside ? 0 : QN_MIN(q->n_draft, max_draft));
        make_room(s, q, q->n_done + n_row + next_depth(s, q, depth, max_draft) + 1);
        if (s->n_running != n_before) return false;
    }
    return true;
}

/* Before a, among prompts that are read. */
static bool reads_first(const struct qn_sched *s, const struct qn_seq *a, const struct qn_seq *b)
{
    int rest_a = a->n_tok - a->n_done, rest_b = b->n_tok - b->n_done;
    if (s->turn % 2 && a->client == b->client && a->params->priority == b->params->priority &&
        rest_a != rest_b)
        return rest_a < rest_b;
    return goes_first(s, a, b);
}

/* The next prompt to read, of those not in the step; is_slice_in: nor is the one in slices. */
static struct qn_seq *next_prefill(const struct qn_sched *s, const struct qn_batch *b, bool is_slice_in)
{
    struct qn_seq *best = NULL;
    for (int i = 0; i < s->n_running; i++) {
        struct qn_seq *q = s->running[i];
        bool is_taken = q->state != QN_SEQ_PREFILL || q->is_paused || q->is_late || qn_seq_wants_rows(q);
        is_taken |= is_slice_in && q == s->sliced;
        for (int k = b->step.n_decode; k < b->step.n_seq && !is_taken; k++) is_taken = b->part[k].seq == q;
        if (!is_taken && (!best || reads_first(s, q, best))) best = q;
    }
    return best;
}

/* Drafts wanted behind a chunk of n rows. */
static int depth_behind(struct qn_sched *s, struct qn_seq *q, int n, bool keeps, int depth)
{
    int next = keeps && !q->beside && q->n_done + n == q->n_tok ? depth_for(s, q, depth, 1) : 0;
    return next && qn_seq_reserve(q, s->cache, q->n_tok + next + 1) ? next : 0; /* not worth a victim */
}

static void begin_slices(struct qn_sched *s, struct qn_seq *q, int n_row, bool keeps)
{
    s->sliced = q;
    q->n_slice_row = n_row;
    q->slice_part = 0;
    q->slice_keeps_mtp = keeps;
}

/* The parts of the model that fit into *left_us. Returns where the slice ends. */
static int fit_parts(const struct qn_sched *s, double *left_us, int least)
{
    const struct qn_seq *q = s->sliced;
    int to = q->slice_part;
    if (s->slice_parts) return QN_MIN(to + s->slice_parts, s->n_part);
    for (; to < s->n_part; to++) {
        double us = qn_cost_slice_us(&s->cost, q->n_done, q->n_slice_row, s->part[to]);
        if (us > *left_us && to >= q->slice_part + least) break;
        *left_us -= us;
    }
    return to;
}

/* Prefill, best first. */
static void add_prefills(struct qn_sched *s, struct qn_batch *b, int depth)
{
    bool has_mtp = s->spec->has_mtp && s->spec->fixed != 0;
    int n_decode = b->step.n_decode, slice_to = 0;
    int left = s->step_tokens - (s->sliced ? s->sliced->n_slice_row : 0);
    double left_us = n_decode ? qn_cost_budget(&s->cost, n_decode, s->itl_target_us) : INFINITY;
    while (left_us > 0 && b->step.n_seq + (slice_to > 0) < s->max_seqs) {
        struct qn_seq *q = next_prefill(s, b, slice_to > 0);
        if (!q) break;
        bool is_first = !slice_to && b->step.n_seq == n_decode; /* gets something in any case */
        double used_us = 0;
        int fits = 0;
        if (q != s->sliced && left > 0) {
            fits = n_decode ? qn_cost_fit(&s->cost, left_us, q->n_done, left, &used_us) : left;
            if (used_us > left_us && (!is_first || s->sliced)) fits = 0;
        }
        if (!fits)
            q = slice_to || (s->sliced && s->sliced->is_late) ? NULL : s->sliced; /* it may, part by part */
        if (!q) break;
        if (q == s->sliced) {
            slice_to = fit_parts(s, &left_us, is_first);
            if (slice_to == q->slice_part) slice_to = 0;
            if (!slice_to) break;
            continue;
        }
        int n = qn_seq_chunk(q, fits);
        bool keeps = has_mtp && reads_mtp(s, q);
        bool is_cut = n_decode && n < qn_seq_chunk(q, left) && qn_cost_slices(&s->cost, left_us, q->n_done);
        if (!s->sliced && (is_cut || s->slice_parts)) {
            n = qn_seq_chunk(q, left - left / 4); /* the rest is for those that pass it */
            if (!s->slice_parts)
                n = QN_MIN(n, qn_cost_fit_slice(&s->cost, left_us, q->n_done, left, s->dearest_part));
            begin_slices(s, q, n, keeps);
            left -= n;
            continue;
        }
        struct qn_batch_rows rows = {
            .n_row = n, .wants_mtp = keeps, .n_draft_next = depth_behind(s, q, n, keeps, depth)};
        qn_batch_add_prefill(b, q, &rows);
        left -= n;
        left_us -= used_us * n / fits;
    }
    s->turn += b->step.n_seq > n_decode || slice_to;
    if (!slice_to) return;
    struct qn_seq *q = s->sliced;
    int next = slice_to == s->n_part ? depth_behind(s, q, q->n_slice_row, q->slice_keeps_mtp, depth) : 0;
    qn_batch_add_slice(b, q, slice_to, s->n_part, next);
    if (slice_to == s->n_part) s->sliced = NULL;
}

bool qn_sched_build(struct qn_sched *s, struct qn_batch *b)
{
    bool has_mtp = s->spec->has_mtp && s->spec->fixed != 0;
    qn_batch_begin(b);
    int n_decode = 0, n_whole = 0;
    int64_t n_context = 0;
    for (int i = 0; i < s->n_running; i++) {
        if (s->running[i]->state != QN_SEQ_DECODE || s->running[i]->is_late) continue;
        n_decode++;
        n_context += s->running[i]->n_done;
        n_whole += qn_seq_has_mtp(s->running[i]);
    }
    /* rows whose logits are all kept have a step of their own, in turn with the streams */
    if (!s->last_was_rows || !n_decode) {
        for (int i = 0; i < s->n_running; i++) {
            struct qn_seq *q = s->running[i];
            if (q->state != QN_SEQ_PREFILL || q->is_paused || q->is_late || !qn_seq_wants_rows(q)) continue;
            int n = qn_seq_chunk(q, QN_MIN(s->step_tokens, s->max_logits - 1));
            struct qn_batch_rows rows = {
                .n_row = n, .wants_mtp = has_mtp && (q->job || reads_mtp(s, q)), .all_logits = true};
            qn_batch_add_prefill(b, q, &rows);
            s->last_was_rows = true;
            qn_batch_end(b);
            return true;
        }
    }
    s->last_was_rows = false;
    int depth = qn_spec_depth(s->spec, n_decode, n_context, n_whole);
    bool keeps_mtp = qn_spec_wants_mtp(s->spec);
    b->depth = depth;
    b->keeps_mtp = keeps_mtp;
    int max_draft = n_decode ? QN_MIN(QN_MAX_DRAFT, (s->max_logits - s->max_seqs) / n_decode) : 0;
    /* pages first, as that may suspend any of them */
    while (!reserve_all(s, depth, max_draft)) continue;
    n_decode = 0;
    for (int i = 0; i < s->n_running; i++) {
        struct qn_seq *q = s->running[i];
        if (q->state != QN_SEQ_DECODE || q->is_late) continue;
        qn_batch_add_decode(b, q, max_draft, keeps_mtp || q->params->mtp > 0,
                            next_depth(s, q, depth, max_draft));
        n_decode++;
    }
    add_prefills(s, b, depth);
    if (!b->step.n_seq) return false;
    qn_batch_end(b);
    return true;
}

int qn_sched_room(const struct qn_sched *s, const struct qn_seq *q)
{
    int fits = s->n_running ? (s->max_logits - s->max_seqs) / s->n_running : 0;
    return QN_CLAMP(q->max_tok - q->n_tok - 1, 0, QN_MIN(fits, QN_MAX_DRAFT));
}

/* Of a row of the i-th sequence, what of its way through the model was in the step. */
static struct qn_cost_part share(const struct qn_sched *s, const struct qn_step *t, int i)
{
    struct qn_cost_part sum = {0};
    if (!t->slice_to || i < t->n_seq - 1) return QN_COST_WHOLE;
    for (int k = t->slice_from; k < t->slice_to; k++) {
        sum.row += s->part[k].row;
        sum.far += s->part[k].far;
    }
    return sum;
}

void qn_sched_learn(struct qn_sched *s, const struct qn_batch *b, int64_t took_us, int64_t gap_us)
{
    qn_spec_learn(s->spec, b, took_us, gap_us);
    struct qn_cost_step step = {
        .n_decode = b->step.n_decode, .has_slice = b->step.slice_to > 0, .took_us = (double)took_us};
    for (int i = b->step.n_decode; i < b->step.n_seq; i++) {
        const struct qn_step_seq *q = &b->step.seq[i];
        struct qn_cost_part of = share(s, &b->step, i);
        step.n_row += q->n_row * of.row;
        step.n_context += (double)q->n_row * (q->pos0 + 0.5 * q->n_row) * of.far;
    }
    qn_cost_learn(&s->cost, &step);
    for (int i = 0; i < s->n_client; i++) s->client[i].served *= SERVED_DECAY;
    for (int i = 0; i < b->step.n_seq; i++) {
        const struct qn_batch_part *part = &b->part[i];
        if (!part->is_open) s->client[part->seq->client].served += part->n_row;
    }
}

void qn_sched_check(const struct qn_sched *s, bool is_thorough)
{
    int64_t n_use = 0;
    for (int i = 0; i < s->n_running; i++) {
        qn_seq_check(s->running[i]);
        n_use += s->running[i]->hold.n_page;
    }
    for (int i = 0; i < s->n_waiting; i++)
        QN_CHECK(!s->waiting[i]->hold.n_page && s->waiting[i]->hold.slot < 0);
    qn_cache_check_sums(s->cache, s->n_running, n_use);
    if (!is_thorough) return;
    struct qn_cache_stats stats;
    qn_cache_stats(s->cache, &stats);
    int32_t *n_used = xcalloc((size_t)stats.n_page, sizeof *n_used);
    for (int i = 0; i < s->n_running; i++)
        for (int k = 0; k < s->running[i]->hold.n_page; k++) n_used[s->running[i]->hold.pages[k]]++;
    qn_cache_check(s->cache, n_used);
    free(n_used);
}
