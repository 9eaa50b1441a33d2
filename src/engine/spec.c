/* Draft depth and prompt lookup.
 * SPDX-License-Identifier: Apache-2.0 */
#include "engine/spec.h"

#define DECIDE_EVERY  16 /* decode steps */
#define PROBE_EVERY   24 /* decisions */
#define PROBE_STEPS   6
#define HYSTERESIS    1.015
#define SMOOTH_ACCEPT 0.02
#define SMOOTH_TIME   0.1
#define GUESS_PER_ROW 0.04 /* of a step's time, what a draft adds where nothing was measured */
#define ASLEEP_AFTER  512
#define MIN_MEASURED  3
#define LOOKUP_TOKENS 3
#define LOOKUP_AGAIN  0.25 /* a sequence gives lookup up below this acceptance of the first draft */

void qn_spec_init(struct qn_spec *s, bool has_mtp, int mtp)
{
    *s = (struct qn_spec){.has_mtp = has_mtp, .fixed = mtp, .probe_every = PROBE_EVERY};
    s->depth = !has_mtp ? 0 : mtp < 0 ? 2 : mtp;
    for (int i = 0; i < QN_MAX_DRAFT; i++) s->accept[i] = s->lookup_accept[i] = 0.6;
}

static int bucket(int64_t x, int64_t first, int factor, int n)
{
    int i = 0;
    while (i + 1 < n && x > first) {
        first *= factor;
        i++;
    }
    return i;
}

static double expected(const double *accept, int depth)
{
    double sum = 1, all = 1;
    for (int i = 0; i < depth; i++) sum += all *= accept[i];
    return sum;
}

/* Time of a step at a depth, measured or guessed from the nearest measured one: as if a draft more cost next
 * to nothing and a draft less saved its whole share, so that what looks good is tried and then known. */
static double time_of(const struct qn_spec *s, int depth)
{
    const double *t = s->time_us[s->seqs][s->context];
    if (t[depth] > 0) return t[depth];
    for (int by = 1; by <= QN_MAX_DRAFT; by++) {
        if (depth - by >= 0 && t[depth - by] > 0) return t[depth - by] * (1 + GUESS_PER_ROW * by);
        if (depth + by <= QN_MAX_DRAFT && t[depth + by] > 0)
            return t[depth + by] * (1 + depth) / (1 + depth + by);
    }
    return 1 + GUESS_PER_ROW * depth;
}

static double rate(const struct qn_spec *s, int depth)
{
    return expected(s->accept, depth) / time_of(s, depth);
}

static void decide(struct qn_spec *s)
{
    int best = 0;
    for (int d = 1; d <= QN_MAX_DRAFT; d++)
        if (rate(s, d) > rate(s, best)) best = d;
    /* climb one at a time: a guess two steps away is worth little */
    if (best > s->depth + 1) best = s->depth + 1;
    if (best != s->depth && rate(s, best) < rate(s, s->depth) * HYSTERESIS) best = s->depth;
    if (best != s->depth) s->probe_every = PROBE_EVERY;
    s->depth = best;
    if (++s->n_decision < s->probe_every) return;
    /* a try that changed nothing makes the next one rarer */
    s->n_decision = 0;
    s->probe_every = QN_MIN(s->probe_every * 2, PROBE_EVERY * 16);
    s->home = s->depth;
    s->n_probe = PROBE_STEPS;
    s->is_up = !s->is_up;
    s->depth += s->depth == 0 || (s->depth < QN_MAX_DRAFT && s->is_up) ? 1 : -1;
}

int qn_spec_depth(struct qn_spec *s, int n_seq, int64_t n_context)
{
    if (!s->has_mtp || s->fixed >= 0 || !n_seq) return s->depth;
    s->seqs = bucket(n_seq, 1, 2, QN_SPEC_N_SEQ);
    s->context = bucket(n_context / n_seq, 1024, 4, QN_SPEC_N_CONTEXT);
    if (s->n_probe) {
        if (--s->n_probe == 0) {
            s->depth = s->home;
            s->n_since = 0;
        }
    } else if (++s->n_since >= DECIDE_EVERY) {
        s->n_since = 0;
        decide(s);
    }
    s->n_at_zero = s->depth ? 0 : s->n_at_zero + 1;
    return s->depth;
}

bool qn_spec_wants_mtp(const struct qn_spec *s)
{
    return s->has_mtp && s->fixed != 0 && s->n_at_zero < ASLEEP_AFTER;
}

static void smooth(double *average, double x, double by)
{
    *average += by * (x - *average);
}

void qn_spec_learn(struct qn_spec *s, const struct qn_batch *b, int64_t took_us)
{
    const struct qn_step *t = &b->step;
    bool is_uniform = t->n_decode && t->n_decode == t->n_seq;
    int depth = t->n_decode ? b->part[0].n_draft : 0;
    for (int i = 0; i < t->n_decode; i++) {
        const struct qn_batch_part *part = &b->part[i];
        int n_accepted = b->result.n_accepted[i];
        bool is_lookup = part->is_lookup;
        if (part->n_draft != depth || (is_lookup && depth)) is_uniform = false;
        for (int k = 0; k < part->n_draft && k <= n_accepted; k++)
            smooth(is_lookup ? &s->lookup_accept[k] : &s->accept[k], k < n_accepted, SMOOTH_ACCEPT);
        if (is_lookup) {
            smooth(&part->seq->lookup_rate, n_accepted > 0, 0.2);
            s->n_lookup += (uint64_t)part->n_draft;
            s->n_lookup_accepted += (uint64_t)n_accepted;
        }
    }
    /* the depth before, now and next must be the same for the time to tell of it */
    if (!is_uniform || b->depth != depth) return;
    double *time = &s->time_us[s->seqs][s->context][depth];
    int *n = &s->n_measured[s->seqs][s->context][depth];
    if (++*n < MIN_MEASURED) return; /* the first ones warm caches up */
    if (*time <= 0)
        *time = (double)took_us;
    else
        smooth(time, (double)took_us, SMOOTH_TIME);
}

static uint64_t tail_key(const int32_t *tok)
{
    uint64_t key = qn_hash_bytes(7, tok, LOOKUP_TOKENS * sizeof *tok);
    return key ? key : 1;
}

void qn_spec_lookup(struct qn_spec *s, struct qn_seq *q, int max_draft)
{
    if (s->fixed >= 0 || q->params->mtp >= 0 || max_draft <= 0) return;
    /* where each three tokens stood last, the last three of all left out */
    for (; q->n_looked < q->n_tok - LOOKUP_TOKENS; q->n_looked++)
        qn_map_put(&q->looked, tail_key(q->tok + q->n_looked), (uint64_t)q->n_looked);
    uint64_t at;
    if (q->n_tok < LOOKUP_TOKENS + 1) return;
    const int32_t *tail = q->tok + q->n_tok - LOOKUP_TOKENS;
    if (!qn_map_get(&q->looked, tail_key(tail), &at)) return;
    if (memcmp(q->tok + at, tail, LOOKUP_TOKENS * sizeof *tail)) return;
    if (q->lookup_rate < LOOKUP_AGAIN) return;
    int from = (int)at + LOOKUP_TOKENS, n = QN_MIN(q->n_tok - from, max_draft), best = 0;
    double accept[QN_MAX_DRAFT];
    for (int i = 0; i < QN_MAX_DRAFT; i++)
        accept[i] = i ? s->lookup_accept[i] : 0.5 * (s->lookup_accept[0] + q->lookup_rate);
    for (int d = 1; d <= n; d++)
        if (expected(accept, d) / time_of(s, d) > expected(accept, best) / time_of(s, best)) best = d;
    if (!best ||
        expected(accept, best) / time_of(s, best) <= expected(s->accept, q->n_draft) / time_of(s, q->n_draft))
        return;
    memcpy(q->draft, q->tok + from, (size_t)best * sizeof *q->draft);
    q->n_draft = best;
    q->draft_is_lookup = true;
}
