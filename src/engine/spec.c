/* Draft depth and prompt lookup.
 * SPDX-License-Identifier: Apache-2.0 */
#include "engine/spec.h"

#include <math.h>

#define DECIDE_EVERY  8 /* decode steps */
#define SETTLE        4 /* steps at a new depth that tell only of it */
#define PROBE_STEPS   6
#define PROBE_MOST    24    /* when it looks good */
#define PROBE_AGAIN   0.93  /* of the rate at home: looks good */
#define PROBE_LOSS    0.003 /* of all time, at most, for tries */
#define PROBE_FIRST   6
#define PROBE_SOONEST 96 /* steps between two */
#define PROBE_LATEST  8192
#define HYSTERESIS    1.01
#define FADE          0.985 /* of counts, an observation */
#define PRIOR         0.6
#define PRIOR_WEIGHT  2.0
#define PROBE_WEIGHT  4.0 /* what an old count weighs against a try */
#define SMOOTH_TIME   0.1
#define FRESH_TIME    0.3  /* of the first few at a depth, and in a try */
#define OUTLIER       2.0  /* times the expected */
#define GUESS_PER_ROW 0.04 /* of a step's time, what a draft adds where nothing was measured */
#define GUESS_SAVED   0.1  /* what a draft less saves */
#define ASLEEP_AFTER  48   /* steps at depth 0 */
#define WAKE_STEPS    24   /* with the draft layer's KV kept, before a try of a sleeper */
#define GUESS_KEEP    0.03 /* of a step's time, what that costs */
#define MIN_MEASURED  2    /* the first ones warm caches up */
#define LOOKUP_TOKENS 3
#define LOOKUP_AGAIN  0.25 /* a sequence gives lookup up below this acceptance of the first draft */

void qn_spec_init(struct qn_spec *s, bool has_mtp, int mtp)
{
    /* the plain step is tried early: whether drafts pay at all is the first question */
    *s = (struct qn_spec){.has_mtp = has_mtp, .fixed = mtp, .n_until = PROBE_FIRST, .is_up = true};
    s->depth = !has_mtp ? 0 : mtp < 0 ? 1 : mtp;
    for (int i = 0; i < QN_MAX_DRAFT; i++)
        s->accept[i] = s->lookup[i] = (struct qn_spec_count){PRIOR_WEIGHT, PRIOR * PRIOR_WEIGHT};
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

static double chance(const struct qn_spec_count *c)
{
    return c->hit / c->n;
}

static void count(struct qn_spec_count *c, bool is_hit)
{
    c->n = c->n * FADE + 1;
    c->hit = c->hit * FADE + is_hit;
}

static double expected(const struct qn_spec_count *accept, int depth)
{
    double sum = 1, all = 1;
    for (int i = 0; i < depth; i++) sum += all *= chance(&accept[i]);
    return sum;
}

/* The time at a depth from one measured here and the ratio of the two in the nearest bucket that has both; 0:
 * there is none. */
static double by_ratio(const struct qn_spec *s, int depth)
{
    const struct qn_spec_time *here = s->time[s->seqs][s->context];
    for (int by = 1; by < QN_SPEC_N_SEQ + QN_SPEC_N_CONTEXT; by++)
        for (int ds = -by; ds <= by; ds++)
            for (int sign = -1; sign <= 1; sign += 2) {
                int seqs = s->seqs + ds, context = s->context + sign * (by - (ds < 0 ? -ds : ds));
                if (seqs < 0 || seqs >= QN_SPEC_N_SEQ || context < 0 || context >= QN_SPEC_N_CONTEXT)
                    continue;
                const struct qn_spec_time *t = s->time[seqs][context];
                if (t[depth].us <= 0) continue;
                for (int d = 0; d <= QN_MAX_DRAFT; d++)
                    if (here[d].us > 0 && t[d].us > 0) return here[d].us * t[depth].us / t[d].us;
            }
    return 0;
}

/* Time of a step at a depth, measured or guessed from the nearest measured one: as if a draft more cost next
 * to nothing, so that what looks good is tried and then known. */
static double time_of(const struct qn_spec *s, int depth)
{
    const struct qn_spec_time *t = s->time[s->seqs][s->context];
    if (t[depth].us > 0) return t[depth].us;
    double known = by_ratio(s, depth);
    if (known > 0) return known;
    for (int by = 1; by <= QN_MAX_DRAFT; by++) {
        int less = depth - by, more = depth + by;
        if (less >= 1 && t[less].us > 0 && t[less - 1].us > 0) /* as much again as the last one cost */
            return t[less].us + by * fmax(t[less].us - t[less - 1].us, GUESS_PER_ROW * t[less].us);
        if (less >= 0 && t[less].us > 0) return t[less].us * (1 + GUESS_PER_ROW * by);
        if (more <= QN_MAX_DRAFT && t[more].us > 0) return t[more].us * pow(1 - GUESS_SAVED, by);
    }
    return 1 + GUESS_PER_ROW * depth;
}

static double rate(const struct qn_spec *s, int depth)
{
    return expected(s->accept, depth) / time_of(s, depth);
}

static void take(struct qn_spec *s, int depth)
{
    if (depth == s->depth) return;
    s->depth = depth;
    s->n_at_depth = 0;
}

/* Was a plain step with about as many sequences measured? */
static bool knows_plain(const struct qn_spec *s)
{
    for (int i = 0; i < QN_SPEC_N_CONTEXT; i++)
        if (s->time[s->seqs][i][0].us > 0) return true;
    return false;
}

/* The depth to try: the plain step first, then one less and one more in turn. */
static int neighbour(const struct qn_spec *s)
{
    if (s->depth && !knows_plain(s)) return 0;
    return s->depth == 0 || (s->depth < QN_MAX_DRAFT && !s->is_up) ? s->depth + 1 : s->depth - 1;
}

/* Steps until the next try, so that tries cost no more than their share. */
static int until_probe(const struct qn_spec *s)
{
    double loss = 1 - rate(s, neighbour(s)) / rate(s, s->depth);
    return (int)QN_CLAMP(PROBE_STEPS * loss / PROBE_LOSS, PROBE_SOONEST, PROBE_LATEST);
}

static void decide(struct qn_spec *s)
{
    int best = 0;
    for (int d = 1; d <= QN_MAX_DRAFT; d++)
        if (rate(s, d) > rate(s, best)) best = d;
    if (best > s->depth && !knows_plain(s)) return;
    /* climb one at a time: a guess two steps away is worth little */
    if (best > s->depth + 1) best = s->depth + 1;
    if (best != s->depth && rate(s, best) < rate(s, s->depth) * HYSTERESIS) best = s->depth;
    if (best == s->depth) return;
    take(s, best);
    s->n_until = QN_MIN(s->n_until, PROBE_SOONEST);
}

static void begin_probe(struct qn_spec *s)
{
    s->home = s->depth;
    s->n_probe = PROBE_STEPS;
    s->n_probed = 0;
    take(s, neighbour(s));
    s->is_up = s->depth > s->home;
    if (!s->depth) return;
    struct qn_spec_count *c = &s->accept[s->depth - 1]; /* what is new counts */
    if (c->n > PROBE_WEIGHT) *c = (struct qn_spec_count){PROBE_WEIGHT, chance(c) * PROBE_WEIGHT};
}

static void end_probe(struct qn_spec *s)
{
    int tried = s->depth;
    if (s->n_probed < PROBE_MOST && rate(s, tried) > PROBE_AGAIN * rate(s, s->home) &&
        rate(s, tried) < HYSTERESIS * rate(s, s->home)) {
        s->n_probe = PROBE_STEPS; /* close: a few more */
        return;
    }
    take(s, s->home);
    if (rate(s, tried) >= HYSTERESIS * rate(s, s->home)) take(s, tried);
    s->n_since = 0;
    s->n_until = until_probe(s);
}

int qn_spec_depth(struct qn_spec *s, int n_seq, int64_t n_context, int n_whole)
{
    if (!n_seq) return s->depth;
    s->n_seq = n_seq;
    int seqs = bucket(n_seq, 1, 2, QN_SPEC_N_SEQ);
    bool is_other = seqs != s->seqs;
    s->seqs = seqs;
    if (is_other && s->depth && !s->n_probe && !knows_plain(s)) s->n_until = QN_MIN(s->n_until, PROBE_FIRST);
    s->context = bucket(n_context / n_seq, 1024, 4, QN_SPEC_N_CONTEXT);
    if (!s->has_mtp || s->fixed >= 0) return s->depth;
    s->n_at_depth++;
    s->n_until--;
    if (s->n_probe) {
        s->n_probed++;
        if (--s->n_probe == 0) end_probe(s);
    } else if (s->n_until <= 0 && s->is_asleep && !n_whole && s->n_until > -WAKE_STEPS) {
        s->is_waking = true; /* until there is something to draft from */
    } else if (s->n_until <= 0) {
        s->is_waking = false;
        begin_probe(s);
    } else if (++s->n_since >= DECIDE_EVERY) {
        s->n_since = 0;
        decide(s);
    }
    if (s->depth && !s->n_probe) {
        s->is_asleep = false;
        s->n_at_zero = 0;
    } else if (!s->depth && ++s->n_at_zero >= ASLEEP_AFTER) {
        s->is_asleep = true;
    }
    return s->depth;
}

bool qn_spec_wants_mtp(const struct qn_spec *s)
{
    return s->has_mtp && s->fixed != 0 && (s->depth || s->is_waking || (!s->is_asleep && !s->n_probe));
}

bool qn_spec_reads_mtp(const struct qn_spec *s)
{
    return s->has_mtp && s->fixed != 0 && (s->depth || s->is_waking || !s->is_asleep);
}

static void learn_time(struct qn_spec *s, int depth, double took_us)
{
    struct qn_spec_time *all = s->time[s->seqs][s->context], *t = &all[depth];
    if (++t->n < MIN_MEASURED) return;
    if (t->us <= 0) {
        t->us = took_us;
        return;
    }
    bool is_home = !s->n_probe && s->n_at_depth > SETTLE && t->n > 8;
    if (t->n > 8) took_us = QN_CLAMP(took_us, t->us / OUTLIER, t->us * OUTLIER);
    double by = 1 + (is_home ? SMOOTH_TIME : FRESH_TIME) * (took_us / t->us - 1);
    if (!is_home) {
        t->us *= by;
        return;
    }
    for (int d = 0; d <= QN_MAX_DRAFT; d++) all[d].us *= by; /* load and context slow all depths alike */
}

void qn_spec_learn(struct qn_spec *s, const struct qn_batch *b, int64_t took_us)
{
    const struct qn_step *t = &b->step;
    bool is_uniform = t->n_decode && t->n_decode == t->n_seq, any_whole = false;
    int depth = t->n_decode ? b->part[0].n_draft : 0, n_looked_up = 0;
    bool is_plain = is_uniform && !b->depth; /* but for looked-up rows */
    for (int i = 0; i < t->n_decode; i++) any_whole |= !b->part[i].has_hole;
    for (int i = 0; i < t->n_decode; i++) {
        const struct qn_batch_part *part = &b->part[i];
        int n_accepted = b->result.n_accepted[i];
        bool is_lookup = part->is_lookup;
        if (part->n_draft != depth || (is_lookup && depth)) is_uniform = false;
        if (is_lookup) n_looked_up += part->n_draft;
        if (!is_lookup && part->n_draft) is_plain = false;
        if (!is_lookup && part->has_hole && any_whole) continue; /* those with the whole KV tell more */
        for (int k = 0; k < part->n_draft && k <= n_accepted; k++)
            count(is_lookup ? &s->lookup[k] : &s->accept[k], k < n_accepted);
        if (is_lookup) {
            part->seq->lookup_rate += 0.2 * ((n_accepted > 0) - part->seq->lookup_rate);
            s->n_lookup += (uint64_t)part->n_draft;
            s->n_lookup_accepted += (uint64_t)n_accepted;
        }
    }
    /* the depth before, now and next must be the same for the time to tell of it */
    bool keeps_more = b->keeps_mtp && !depth; /* the draft layer's KV at the plain step, until asleep */
    if (is_uniform && b->depth == depth && b->keeps_mtp >= (depth > 0))
        learn_time(s, depth, (double)took_us * (keeps_more ? 1 - GUESS_KEEP : 1));
    double plain_us = s->time[s->seqs][s->context][0].us;
    if (is_plain && n_looked_up && plain_us > 0) {
        double row_us = fmax(((double)took_us - plain_us) / n_looked_up, 0), *v = &s->verify_us[s->seqs];
        *v += (*v > 0 ? SMOOTH_TIME : 1) * (row_us - *v);
    }
}

static uint64_t tail_key(const int32_t *tok)
{
    uint64_t key = qn_hash_bytes(7, tok, LOOKUP_TOKENS * sizeof *tok);
    return key ? key : 1;
}

/* Tokens that drafts add, less those that the time of their rows is worth. */
static double worth(const struct qn_spec_count *accept, int n, double row_tok)
{
    return expected(accept, n) - 1 - row_tok * n;
}

void qn_spec_lookup(struct qn_spec *s, struct qn_seq *q, int max_draft)
{
    if (s->fixed >= 0 || q->params->mtp >= 0 || max_draft <= 0) return;
    /* where each three tokens stood last, the last three of all left out */
    for (; q->n_looked < q->n_tok - LOOKUP_TOKENS; q->n_looked++)
        qn_map_put(&q->looked, tail_key(q->tok + q->n_looked), (uint64_t)q->n_looked);
    uint64_t at;
    if (q->n_tok < LOOKUP_TOKENS + 1 || q->lookup_rate < LOOKUP_AGAIN) return;
    const int32_t *tail = q->tok + q->n_tok - LOOKUP_TOKENS;
    if (!qn_map_get(&q->looked, tail_key(tail), &at)) return;
    if (memcmp(q->tok + at, tail, LOOKUP_TOKENS * sizeof *tail)) return;
    int from = (int)at + LOOKUP_TOKENS, n = QN_MIN(q->n_tok - from, max_draft), best = 0;
    struct qn_spec_count accept[QN_MAX_DRAFT];
    memcpy(accept, s->lookup, sizeof accept);
    accept[0] = (struct qn_spec_count){1, 0.5 * (chance(&s->lookup[0]) + q->lookup_rate)};
    /* a row's time in tokens of the whole step: what the batch makes meanwhile */
    double plain_us = time_of(s, 0), verify_us = s->verify_us[s->seqs];
    if (verify_us <= 0) verify_us = GUESS_PER_ROW * plain_us;
    double row_tok = s->n_seq * verify_us / plain_us;
    for (int d = 1; d <= n; d++)
        if (worth(accept, d, row_tok) > worth(accept, best, row_tok)) best = d;
    if (!best || worth(accept, best, row_tok) <= worth(s->accept, q->n_draft, row_tok)) return;
    memcpy(q->draft, q->tok + from, (size_t)best * sizeof *q->draft);
    q->n_draft = best;
    q->draft_is_lookup = true;
}
