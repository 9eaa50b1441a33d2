/* Sequences: lengths, pages, resuming and leaving.
 * SPDX-License-Identifier: Apache-2.0 */
#include "engine/seq.h"

#include <limits.h>

#include "base/clock.h"
#include "base/mem.h"
#include "engine/loop.h"

#define SNAPSHOT_EVERY 8192 /* tokens of prefill */
#define MAX_MTP_GAP                                                                                          \
    32 /* steps without it, as in a try of the plain step, that do not end the MTP layer's KV */
#define MTP_ENOUGH 256 /* tokens */

static struct qn_seq *create(const struct qn_request_params *p)
{
    struct qn_seq *s = xcalloc(1, sizeof *s);
    s->params = p;
    s->n_tok = s->n_prompt = p->n_tok;
    s->tok_capacity = p->n_tok + 64;
    s->tok = xreallocarray(NULL, (size_t)s->tok_capacity, sizeof *s->tok);
    memcpy(s->tok, p->tok, (size_t)p->n_tok * sizeof *s->tok);
    s->hold = QN_HOLD_NONE;
    s->lookup_rate = 0.6;
    s->mtp_from = INT_MAX;
    s->max_tok = p->n_tok;
    return s;
}

struct qn_seq *qn_seq_create(struct qn_request *r, int max_context, struct qn_mask *mask)
{
    const struct qn_request_params *p = &r->params;
    struct qn_seq *s = create(p);
    s->request = r;
    s->max_tok = p->max_new < max_context - p->n_tok ? p->n_tok + p->max_new : max_context;
    qn_pick_init(&s->pick, p, mask, r->ban);
    s->needs_seen = qn_seen_is_needed(&p->sample);
    if (s->needs_seen)
        for (int i = 0; i < p->n_tok; i++) qn_seen_add(&s->seen, p->tok[i], false);
    s->stats.n_prompt = p->n_tok;
    return s;
}

struct qn_seq *qn_seq_create_job(struct qn_job *job, const struct qn_request_params *params)
{
    struct qn_seq *s = create(params);
    s->job = job;
    return s;
}

void qn_seq_free(struct qn_seq *s)
{
    qn_hold_fini(&s->hold);
    free(s->tok);
    qn_seen_fini(&s->seen);
    qn_map_free(&s->looked);
    free(s);
}

bool qn_seq_wants_rows(const struct qn_seq *s)
{
    return s->job || (s->params->prompt_top >= 0 && s->n_prompt_scored < s->n_prompt);
}

void qn_seq_push(struct qn_seq *s, int32_t tok)
{
    if (s->n_tok == s->tok_capacity) {
        s->tok_capacity *= 2;
        s->tok = xreallocarray(s->tok, (size_t)s->tok_capacity, sizeof *s->tok);
    }
    s->tok[s->n_tok++] = tok;
    if (s->needs_seen) qn_seen_add(&s->seen, tok, true);
}

void qn_seq_end_loop(struct qn_seq *s)
{
    if (s->max_tok - s->n_tok <= QN_LOOP_DELAY) return;
    s->is_loop = true;
    s->max_tok = s->n_tok + QN_LOOP_DELAY;
}

int qn_seq_keep_mtp(struct qn_seq *s, bool keeps)
{
    if (!keeps) {
        bool is_short = s->state == QN_SEQ_DECODE && s->mtp_from <= s->n_done && s->n_mtp_gap < MAX_MTP_GAP;
        s->n_mtp_gap++;
        if (!is_short) s->mtp_from = INT_MAX;
    } else if (s->mtp_from > s->n_done) { /* the row of n_done needs the hidden row before it */
        s->mtp_from = s->n_done + 1;
        s->n_mtp_gap = 0;
    }
    return s->mtp_from;
}

bool qn_seq_has_mtp(const struct qn_seq *s)
{
    return s->mtp_from <= s->n_done && s->n_done - s->mtp_from >= QN_MIN(MTP_ENOUGH, s->n_done - 1);
}

bool qn_seq_reserve(struct qn_seq *s, struct qn_cache *c, int n_tok)
{
    return qn_hold_grow(&s->hold, c, n_tok);
}

static void mark(struct qn_seq *s, int at)
{
    int i = s->n_mark;
    for (int k = 0; k < s->n_mark; k++)
        if (s->mark[k] == at) return;
    if (s->n_mark == QN_SEQ_MAX_MARKS) return;
    for (; i && s->mark[i - 1] > at; i--) s->mark[i] = s->mark[i - 1];
    s->mark[i] = at;
    s->n_mark++;
}

/* Where prefill stops for snapshots: behind the last end of a turn in the prompt (what follows, the head of
 * the answer, may be written differently in the next request) or, in a text without turns, before its last
 * token; where this prompt left a known one; behind its last picture (the same one, another question); every
 * few thousand tokens. */
static void place_marks(struct qn_seq *s, const struct qn_match *m, const struct qn_seq_marks *o)
{
    s->n_mark = 0;
    int end = s->n_prompt - 1, gap = o->gap;
    for (int i = s->n_prompt - 2; i >= 0 && end == s->n_prompt - 1; i--)
        if (qn_is_listed(o->stop_tok, o->n_stop, s->tok[i])) end = i + 1;
    if (end >= s->n_cached + gap) mark(s, end);
    if (m->n_match >= s->n_cached + gap && m->n_match < s->n_tok &&
        (m->n_match <= end - gap || m->n_match > end))
        mark(s, m->n_match);
    const struct qn_media_span *last = s->params->n_span ? &s->params->span[s->params->n_span - 1] : NULL;
    int seen = last ? last->first + last->n_tok + 1 : 0; /* and the token that ends it */
    if (last && seen >= s->n_cached + gap && seen < s->n_prompt) mark(s, seen);
    int every = QN_ROUND_UP(s->n_cached + SNAPSHOT_EVERY / 2, SNAPSHOT_EVERY);
    if (every < s->n_tok) mark(s, every); /* the next one follows when this is reached */
}

int qn_seq_chunk(const struct qn_seq *s, int most)
{
    int n = QN_MIN(s->n_tok - s->n_done, most);
    if (s->n_mark && s->mark[0] > s->n_done) n = QN_MIN(n, s->mark[0] - s->n_done);
    return n;
}

struct qn_prefix qn_seq_prefix(const struct qn_seq *s)
{
    return (struct qn_prefix){
        .root = s->root, .tok = s->tok, .n = s->n_tok, .span = s->params->span, .n_span = s->params->n_span};
}

const struct qn_match *qn_seq_match(struct qn_seq *s, struct qn_cache *c)
{
    if (s->match_version != qn_cache_version(c)) {
        s->root = qn_cache_root(c, s->params->salt);
        struct qn_prefix p = qn_seq_prefix(s);
        qn_cache_match(c, &p, &s->match);
        s->match_version = qn_cache_version(c);
    }
    return &s->match;
}

/* Its books at the beginning of an admission: n_cached tokens are there. */
static void begin(struct qn_seq *s, const struct qn_cache *c, const struct qn_match *m)
{
    s->n_node = s->n_others = m->n_tok / QN_PAGE;
    if (s->is_doubtful)
        s->n_others = QN_MIN(s->n_node, s->n_doubtful_others);
    else
        s->since = qn_cache_clock(c);
    s->is_fresh = m->slot < 0;
    s->is_off_tree = qn_cache_is_off(c);
    s->n_cached = s->n_done = m->n_tok;
    s->n_commit = s->n_draft = 0;
    s->mtp_from = qn_cache_mtp_from(c, m->slot, m->last);
    s->n_mtp_gap = 0;
    s->state = QN_SEQ_PREFILL;
    if (s->stats.n_step || s->admit_us) return;
    s->stats.n_cached = m->n_tok; /* the first admission: what usage tells */
    s->stats.n_known = m->n_match;
    s->stats.miss = m->miss;
    s->admit_us = qn_now_us();
}

bool qn_seq_admit(struct qn_seq *s, struct qn_cache *c, const struct qn_seq_marks *marks, bool is_cold)
{
    QN_CHECK(s->hold.slot < 0 && !s->hold.n_page && !s->n_done);
    if (!qn_cache_lanes_left(c)) return false;
    struct qn_match m = {.slot = -1, .last = -1, .end = -1};
    s->root = qn_cache_root(c, s->params->salt);
    if (qn_seq_wants_rows(s))
        m.miss = "log-probabilities of the prompt need every row";
    else
        m = *qn_seq_match(s, c);
    if (is_cold) {
        m.slot = m.last = -1;
        m.n_tok = 0;
        m.miss = "no room beside the cached prefix";
    }
    if (!qn_hold_take(&s->hold, c, &m, s->n_tok)) return false;
    begin(s, c, &m);
    place_marks(s, &m, marks);
    return true;
}

void qn_seq_publish(struct qn_seq *s, struct qn_cache *c)
{
    struct qn_prefix p = qn_seq_prefix(s);
    while (!s->is_off_tree && s->n_node < s->n_done / QN_PAGE) {
        int parent = s->n_node ? s->hold.pages[s->n_node - 1] : -1, page = s->hold.pages[s->n_node];
        int from = s->n_node * QN_PAGE,
            mtp_from = s->mtp_from > from ? QN_MIN(s->mtp_from - from, QN_PAGE) : 0;
        int node = qn_cache_insert(c, &p, parent, page, mtp_from);
        if (node < 0) {
            s->is_off_tree = true;
            return;
        }
        if (node != page) { /* an equal page was there first */
            const struct qn_node *known = qn_cache_node(c, node);
            qn_hold_share(&s->hold, c, s->n_node, node);
            if (known->mtp_from > mtp_from) /* with less of the MTP layer's KV */
                s->mtp_from = QN_MAX(s->mtp_from, from + known->mtp_from);
            bool may_be_own = s->is_doubtful && known->born >= s->since;
            if (!may_be_own) s->n_others = s->n_node + 1;
        }
        s->n_node++;
    }
}

/* Where its tokens done end, for a snapshot of the state there. */
static struct qn_spot spot(const struct qn_seq *s, const struct qn_prefix *p)
{
    int n_full = s->n_done / QN_PAGE;
    return (struct qn_spot){.of = p,
                            .n_tok = s->n_done,
                            .parent = n_full ? s->hold.pages[n_full - 1] : -1,
                            .tail_page = s->n_done % QN_PAGE ? s->hold.pages[n_full] : -1,
                            .mtp_from = s->mtp_from};
}

void qn_seq_snapshot(struct qn_seq *s, struct qn_cache *c)
{
    QN_CHECK(s->n_commit == 0);
    qn_seq_publish(s, c);
    if (s->n_mark && s->mark[0] <= s->n_done) {
        int every = s->mark[0] + SNAPSHOT_EVERY;
        bool is_regular = s->mark[0] % SNAPSHOT_EVERY == 0;
        memmove(s->mark, s->mark + 1, (size_t)--s->n_mark * sizeof *s->mark);
        if (is_regular && every < s->n_tok) mark(s, every);
    }
    if (s->is_off_tree || s->job) return;
    struct qn_prefix p = qn_seq_prefix(s);
    struct qn_spot at = spot(s, &p);
    qn_cache_copy_snap(c, &at, s->hold.slot);
}

/* The state goes to the cache, when it is one of n_done tokens. */
static void leave_state(struct qn_seq *s, struct qn_cache *c, bool with_state)
{
    if (with_state) qn_seq_publish(s, c);
    if (!with_state || s->is_off_tree || s->job || !s->n_done || s->slice_part) {
        qn_hold_leave_slot(&s->hold, c, NULL);
        return;
    }
    if (s->n_commit) qn_cache_fold(c, s->hold.slot, s->hold.lane, s->n_commit);
    struct qn_prefix p = qn_seq_prefix(s);
    struct qn_spot at = spot(s, &p);
    qn_hold_leave_slot(&s->hold, c, &at);
}

void qn_seq_suspend(struct qn_seq *s, struct qn_cache *c, bool with_state)
{
    if (s->hold.slot >= 0) {
        s->is_doubtful = !s->is_proved;
        s->n_doubtful_others = s->n_others;
        leave_state(s, c, with_state);
    }
    qn_hold_drop(&s->hold, c);
    s->n_node = s->n_others = 0;
    s->n_cached = s->n_done = s->n_commit = s->n_draft = 0;
    s->n_slice_row = s->slice_part = 0;
    s->state = QN_SEQ_WAITING;
    s->is_proved = false;
    s->n_promote = 0;
    s->match_version = s->tier_version = 0;
}

void qn_seq_retract(struct qn_seq *s, struct qn_cache *c)
{
    int last = s->n_node ? s->hold.pages[s->n_node - 1] : -1, n_others = s->n_others;
    qn_seq_suspend(s, c, false);
    struct qn_prefix p = qn_seq_prefix(s);
    qn_cache_forget(c, &p, last, n_others, s->since);
}

void qn_seq_check(const struct qn_seq *s)
{
    QN_CHECK(0 <= s->n_cached && s->n_cached <= qn_seq_n_state(s) && qn_seq_n_state(s) <= s->n_done &&
             s->n_done <= s->n_tok);
    QN_CHECK(s->n_done <= s->hold.n_page * QN_PAGE);
    QN_CHECK(s->n_node * QN_PAGE <= s->n_done);
    QN_CHECK(!s->n_slice_row || s->state == QN_SEQ_PREFILL);
    QN_CHECK(s->n_done + s->n_slice_row <= s->n_tok && (s->n_slice_row || !s->slice_part));
    QN_CHECK(s->state == QN_SEQ_WAITING || (s->hold.slot >= 0 && s->hold.lane >= 0));
    QN_CHECK(s->state != QN_SEQ_DECODE || s->n_tok - s->n_done == 1);
}
