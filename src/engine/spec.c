/* Draft depth and prompt lookup.
 * SPDX-License-Identifier: Apache-2.0 */
#include "engine/spec.h"

#include <math.h>

#define DECIDE_EVERY  8 /* decode steps */
#define SETTLE        4 /* steps at a new depth that tell only of it */
#define PROBE_STEPS   6
#define PROBE_MOST    24    /* when it looks good */
#define PROBE_AGAIN   0.97  /* of the rate at home: looks good */
#define PROBE_LOSS    0.003 /* of all time, at most, for tries */
#define PROBE_FIRST   6
#define PROBE_SOONEST 96  /* steps between two */
#define PROBE_SECOND  384 /* the latest after a first try, which something else may have slowed */
#define PROBE_LATEST  8192
#define PLAIN_TURN    8 /* tries, one of them of the plain step */
#define HYSTERESIS    1.01
#define FADE          0.015 /* of counts, an observation of one stream */
#define PRIOR         0.6
#define PRIOR_WEIGHT  2.0
#define PROBE_WEIGHT  4.0 /* what an old count weighs against a try */
#define SMOOTH_TIME   0.06
#define SMOOTH_MIX    0.03 /* of what lookup does, a step */
#define FRESH_TIME    0.12 /* of those in a try; the first few weigh the same */
#define OUTLIER       1.5  /* times the expected, or less by that */
#define GUESS_PER_ROW 0.04 /* of a step's time, what a draft adds where nothing was measured */
#define ROW_WEIGHT    0.2  /* of the guess, in steps with a row a stream more */
#define LEAST_ROW     1e-4 /* of a step's time, a row */
#define GUESS_SAVED   0.1  /* what a draft less saves */
#define ASLEEP_AFTER  48   /* steps at depth 0 */
#define WAKE_STEPS    24   /* with the draft layer's KV kept, before a try of a sleeper */
#define GUESS_KEEP    0.03 /* of a step's time, what that costs */
#define LEAST_PART    0.25 /* of a step's time, that its rows to verify leave */
#define MIN_MEASURED  2    /* the first ones warm caches up */
#define LOOKUP_TOKENS 3
#define LOOKUP_AGAIN  0.25 /* a sequence gives lookup up below this acceptance of the first draft */

void qn_spec_init(struct qn_spec *s, bool has_mtp, int mtp)
{
    /* the plain step is tried early: whether drafts pay at all is the first question */
    *s = (struct qn_spec){.has_mtp = has_mtp, .fixed = mtp, .n_until = PROBE_FIRST};
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

static void count(struct qn_spec_count *c, bool is_hit, double fade)
{
    c->n = c->n * (1 - fade) + 1;
    c->hit = c->hit * (1 - fade) + is_hit;
}

static double expected(const struct qn_spec_count *accept, int depth)
{
    double sum = 1, all = 1;
    for (int i = 0; i < depth; i++) sum += all *= chance(&accept[i]);
    return sum;
}

/* Time of a row more to verify. */
static double row_us(const struct qn_spec *s)
{
    if (s->row[s->seqs].us > 0) return s->row[s->seqs].us;
    const struct qn_spec_time *t = s->time[s->seqs][s->context];
    for (int d = 0; d <= QN_MAX_DRAFT; d++)
        if (t[d].us > 0) return GUESS_PER_ROW * t[d].us;
    return GUESS_PER_ROW;
}

/* Measured time of a step, with n_more rows a stream beyond those of its drafts. */
static double measured(const struct qn_spec *s, const struct qn_spec_time *t, double n_more)
{
    return fmax(t->us + row_us(s) * s->n_seq * (n_more - t->n_more), LEAST_PART * t->us);
}

/* The time at a depth from one measured here and the ratio of the two in the nearest bucket that has both; 0:
 * there is none. */
static double by_ratio(const struct qn_spec *s, int depth, double n_more)
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
                    if (here[d].us > 0 && t[d].us > 0)
                        return measured(s, &here[d], n_more) * t[depth].us / t[d].us;
            }
    return 0;
}

/* Time of a step at a depth, measured or guessed from the nearest measured one: as if a draft more cost next
 * to nothing, so that what looks good is tried and then known. */
static double time_of(const struct qn_spec *s, int depth, double n_more)
{
    const struct qn_spec_time *t = s->time[s->seqs][s->context];
    if (t[depth].us > 0) return measured(s, &t[depth], n_more);
    double known = by_ratio(s, depth, n_more);
    if (known > 0) return known;
    for (int by = 1; by <= QN_MAX_DRAFT; by++) {
        int less = depth - by, more = depth + by;
        double us = less >= 0 && t[less].us > 0 ? measured(s, &t[less], n_more) : 0;
        if (us > 0 && less && t[less - 1].us > 0) /* as much again as the last one cost */
            return us + by * fmax(us - measured(s, &t[less - 1], n_more), GUESS_PER_ROW * us);
        if (us > 0) return us * (1 + GUESS_PER_ROW * by);
        if (more <= QN_MAX_DRAFT && t[more].us > 0)
            return measured(s, &t[more], n_more) * pow(1 - GUESS_SAVED, by);
    }
    return 1 + GUESS_PER_ROW * depth;
}

/* The same beside what lookup does: its streams have rows of their own instead of drafts. */
static double time_at(const struct qn_spec *s, int depth)
{
    return time_of(s, depth, s->mix.rows - s->mix.seqs * depth);
}

/* Tokens of a stream by time, beside what lookup does: the drafts of its streams are made for nothing. */
static double rate(const struct qn_spec *s, int depth)
{
    const struct qn_spec_mix *m = &s->mix;
    double tok = 1 + (1 - m->seqs) * (expected(s->accept, depth) - 1) + m->tok;
    return tok / (time_at(s, depth) + s->gap_us[s->seqs]);
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

/* The depth to try: the plain step first, then one less and one more in turn. A depth may be better than its
 * neighbours and worse than none, as the first draft may cost more than those behind it, and the plain step
 * may have been slowed by something else when it was tried: so that comes back as well, now and then. */
static int neighbour(const struct qn_spec *s)
{
    if (!s->depth) return 1;
    if (!knows_plain(s)) return 0;
    if (s->n_try % 2 && s->depth < QN_MAX_DRAFT) return s->depth + 1;
    bool is_known = s->time[s->seqs][s->context][0].n >= 2 * PROBE_STEPS;
    return s->n_try % (is_known ? PLAIN_TURN : 4) == 2 ? 0 : s->depth - 1;
}

/* Steps until the next try, so that tries cost no more than their share of the time: what a try takes, less
 * what its tokens would take at the depth in use. */
static int until_probe(const struct qn_spec *s)
{
    int next = neighbour(s);
    double loss = 1 - rate(s, next) / rate(s, s->depth);
    double gap = s->gap_us[s->seqs];
    double steps = PROBE_STEPS * loss * (time_at(s, next) + gap) / (time_at(s, s->depth) + gap);
    if (!s->depth) steps += WAKE_STEPS * GUESS_KEEP;
    bool is_known = s->time[s->seqs][s->context][next].n >= 2 * PROBE_STEPS;
    return (int)QN_CLAMP(steps / PROBE_LOSS, PROBE_SOONEST, is_known ? PROBE_LATEST : PROBE_SECOND);
}

static void decide(struct qn_spec *s)
{
    int best = 0;
    double most = rate(s, 0);
    /* climb one at a time: a guess two steps away is worth little */
    for (int d = 1; d <= QN_MIN(s->depth + 1, QN_MAX_DRAFT); d++) {
        double r = rate(s, d);
        if (r > most) {
            most = r;
            best = d;
        }
    }
    if (best > s->depth && !knows_plain(s)) return;
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
    s->n_try++;
    if (!s->depth) return;
    struct qn_spec_count *c = &s->accept[s->depth - 1]; /* what is new counts */
    if (c->n > PROBE_WEIGHT) *c = (struct qn_spec_count){PROBE_WEIGHT, chance(c) * PROBE_WEIGHT};
}

static void end_probe(struct qn_spec *s)
{
    int tried = s->depth;
    double part = rate(s, tried) / rate(s, s->home);
    if (s->n_probed < PROBE_MOST && part > PROBE_AGAIN && part < HYSTERESIS) {
        s->n_probe = PROBE_STEPS; /* close: a few more */
        return;
    }
    take(s, part < HYSTERESIS ? s->home : tried);
    s->n_since = 0;
    s->n_until = until_probe(s);
}

int qn_spec_depth(struct qn_spec *s, int n_seq, int64_t n_context, int n_whole)
{
    if (!n_seq) return s->depth;
    s->n_seq = n_seq;
    s->seqs = bucket(n_seq, 1, 2, QN_SPEC_N_SEQ);
    if (s->depth && !s->n_probe && !knows_plain(s)) s->n_until = QN_MIN(s->n_until, PROBE_FIRST);
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

/* A row's time by least squares over what steps of the same depth differ in, old ones fading. */
static void learn_row(struct qn_spec *s, double n_more, double more_us, double took_us)
{
    struct qn_spec_row *r = &s->row[s->seqs];
    if (!r->n_more2 && fabs(n_more) < 1e-9) return;
    r->n_more2 = r->n_more2 * (1 - FADE) + n_more * n_more;
    r->product = r->product * (1 - FADE) + n_more * more_us / s->n_seq;
    double us = (r->product + ROW_WEIGHT * GUESS_PER_ROW * took_us) / (r->n_more2 + ROW_WEIGHT);
    r->us = QN_CLAMP(us, LEAST_ROW * took_us, took_us / s->n_seq);
}

/* A step with n_more rows to verify a stream beyond those of its drafts (fewer: below 0). */
static void learn_time(struct qn_spec *s, int depth, double n_more, double took_us)
{
    struct qn_spec_time *all = s->time[s->seqs][s->context], *t = &all[depth];
    if (++t->n < MIN_MEASURED) return;
    if (t->us <= 0) {
        t->us = took_us;
        t->n_more = n_more;
        return;
    }
    double expected_us = measured(s, t, n_more), off = n_more - t->n_more;
    bool is_home = !s->n_probe && s->n_at_depth > SETTLE && t->n > 8;
    if (t->n > 8) took_us = QN_CLAMP(took_us, expected_us / OUTLIER, expected_us * OUTLIER);
    learn_row(s, off, took_us - t->us, took_us);
    double smooth = is_home ? SMOOTH_TIME : fmax(1.0 / t->n, FRESH_TIME);
    t->n_more += smooth * off;
    t->us += smooth * (took_us - t->us);
    double by = 1 + smooth * (took_us / expected_us - 1);
    for (int d = 0; d <= QN_MAX_DRAFT && is_home; d++)
        if (d != depth) all[d].us *= by; /* load and context slow all depths alike */
}

/* What passes before a step; a pause that something else made counts little. */
static void learn_gap(struct qn_spec *s, double gap_us)
{
    double *mean = &s->gap_us[s->seqs];
    if (gap_us > 0) *mean += *mean > 0 ? SMOOTH_TIME * (fmin(gap_us, OUTLIER * *mean) - *mean) : gap_us;
}

void qn_spec_learn(struct qn_spec *s, const struct qn_batch *b, int64_t took_us, int64_t gap_us)
{
    const struct qn_step *t = &b->step;
    bool is_uniform = t->n_decode && t->n_decode == t->n_seq, any_whole = false;
    int n_row = 0;
    struct qn_spec_mix mix = {0};
    double fade = FADE / sqrt(QN_MAX(t->n_decode, 1)); /* many streams tell much at once: less of chance */
    for (int i = 0; i < t->n_decode; i++) any_whole |= !b->part[i].has_hole;
    for (int i = 0; i < t->n_decode; i++) {
        const struct qn_batch_part *part = &b->part[i];
        int n_accepted = b->result.n_accepted[i];
        bool is_lookup = part->is_lookup;
        n_row += part->n_draft;
        if (part->seq->params->mtp >= 0 || (!is_lookup && part->n_draft > b->depth)) is_uniform = false;
        if (is_lookup) {
            mix.seqs += 1;
            mix.rows += part->n_draft;
            mix.tok += n_accepted;
            part->seq->lookup_rate += 0.2 * ((n_accepted > 0) - part->seq->lookup_rate);
            s->n_lookup += (uint64_t)part->n_draft;
            s->n_lookup_accepted += (uint64_t)n_accepted;
        } else if (part->has_hole && any_whole) {
            continue; /* those with the whole KV tell more */
        }
        for (int k = 0; k < part->n_draft && k <= n_accepted; k++)
            count(is_lookup ? &s->lookup[k] : &s->accept[k], k < n_accepted, fade);
    }
    if (!t->n_decode) return;
    learn_gap(s, (double)gap_us);
    s->mix.seqs += SMOOTH_MIX * (mix.seqs / t->n_decode - s->mix.seqs);
    s->mix.rows += SMOOTH_MIX * (mix.rows / t->n_decode - s->mix.rows);
    s->mix.tok += SMOOTH_MIX * (mix.tok / t->n_decode - s->mix.tok);
    /* the depth before and now must be the same for the time to tell of it */
    bool keeps_more = b->keeps_mtp && !b->depth; /* the draft layer's KV at the plain step, until asleep */
    if (is_uniform && s->last_depth == b->depth && b->keeps_mtp >= (b->depth > 0))
        learn_time(s, b->depth, (double)(n_row - t->n_decode * b->depth) / t->n_decode,
                   (double)took_us * (keeps_more ? 1 - GUESS_KEEP : 1));
    s->last_depth = b->depth;
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
    double row_tok = s->n_seq * row_us(s) / (time_of(s, 0, 0) + s->gap_us[s->seqs]);
    for (int d = 1; d <= n; d++)
        if (worth(accept, d, row_tok) > worth(accept, best, row_tok)) best = d;
    if (!best || worth(accept, best, row_tok) <= worth(s->accept, q->n_draft, row_tok)) return;
    memcpy(q->draft, q->tok + from, (size_t)best * sizeof *q->draft);
    q->n_draft = best;
    q->draft_is_lookup = true;
}
