/* Sequences: lengths, pages, resuming and leaving.
 * SPDX-License-Identifier: Apache-2.0 */
#include "engine/seq.h"

#include <limits.h>

#include "base/clock.h"
#include "base/mem.h"

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
    s->slot = s->lane = -1;
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
    QN_CHECK(s->slot < 0 && s->lane < 0 && !s->n_page);
    free(s->tok);
    free(s->pages);
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

static void add_page(struct qn_seq *s, int page)
{
    if (s->n_page == s->page_capacity) {
        s->page_capacity = QN_MAX(16, s->page_capacity * 2);
        s->pages = xreallocarray(s->pages, (size_t)s->page_capacity, sizeof *s->pages);
    }
    s->pages[s->n_page++] = page;
}

bool qn_seq_reserve(struct qn_seq *s, struct qn_cache *c, int n_tok)
{
    while (s->n_page < QN_CEIL_DIV(n_tok, QN_PAGE)) {
        int page = qn_cache_take_page(c);
        if (page < 0) return false;
        add_page(s, page);
    }
    return true;
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
 * token; where this prompt left a known one; every few thousand tokens. */
static void place_marks(struct qn_seq *s, const struct qn_match *m, const int *stop_tok, int n_stop, int gap)
{
    s->n_mark = 0;
    int end = s->n_prompt - 1;
    for (int i = s->n_prompt - 2; i >= 0 && end == s->n_prompt - 1; i--)
        for (int k = 0; k < n_stop; k++)
            if (s->tok[i] == stop_tok[k]) end = i + 1;
    if (end >= s->n_cached + gap) mark(s, end);
    if (m->n_match >= s->n_cached + gap && m->n_match < s->n_tok &&
        (m->n_match <= end - gap || m->n_match > end))
        mark(s, m->n_match);
    int every = QN_ROUND_UP(s->n_cached + SNAPSHOT_EVERY / 2, SNAPSHOT_EVERY);
    if (every < s->n_tok) mark(s, every); /* the next one follows when this is reached */
}

static void drop_pages(struct qn_seq *s, struct qn_cache *c)
{
    for (int i = s->n_page; i--;) qn_cache_drop_page(c, s->pages[i]);
    s->n_page = s->n_node = s->n_others = 0;
}

const struct qn_match *qn_seq_match(struct qn_seq *s, struct qn_cache *c)
{
    if (s->match_version != c->version) {
        s->root = qn_cache_root(c, s->params->salt);
        qn_cache_match(c, s->root, s->tok, s->n_tok, &s->match);
        s->match_version = c->version;
    }
    return &s->match;
}

bool qn_seq_admit(struct qn_seq *s, struct qn_cache *c, const int *stop_tok, int n_stop, int snapshot_gap,
                  bool is_cold)
{
    QN_CHECK(s->slot < 0 && !s->n_page && !s->n_done);
    if (!c->slots.n_free_lane) return false;
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
    if (QN_CEIL_DIV(s->n_tok + 1, QN_PAGE) - m.n_tok / QN_PAGE > qn_cache_pages_left(c)) return false;
    /* hold the prefix before anything is evicted for the rest */
    int n_shared = m.n_tok / QN_PAGE;
    if (n_shared) {
        s->page_capacity = QN_MAX(s->page_capacity, n_shared + 16);
        s->pages = xreallocarray(s->pages, (size_t)s->page_capacity, sizeof *s->pages);
        qn_cache_path(c, m.last, s->pages);
        s->n_page = s->n_node = s->n_others = n_shared;
        if (s->is_doubtful) s->n_others = QN_MIN(n_shared, s->n_doubtful_others);
        for (int i = 0; i < n_shared; i++) qn_cache_use_page(c, s->pages[i]);
    }
    if (m.slot >= 0) qn_cache_pin(c, m.slot, 1);
    s->slot = qn_cache_take_slot(c);
    bool fits = s->slot >= 0 && qn_seq_reserve(s, c, s->n_tok + 1);
    if (m.slot >= 0) qn_cache_pin(c, m.slot, -1);
    if (!fits) {
        if (s->slot >= 0) qn_slots_release(&c->slots, s->slot);
        s->slot = -1;
        drop_pages(s, c);
        return false;
    }
    s->lane = qn_slots_acquire_lane(&c->slots);
    c->clock++;
    if (!s->is_doubtful) s->since = c->clock;
    if (m.slot >= 0) {
        qn_chores_add(c->chores,
                      (struct qn_chore){.kind = QN_CHORE_STATE_COPY, .from = m.slot, .to = s->slot});
        if (m.n_tok % QN_PAGE)
            qn_chores_add(c->chores, (struct qn_chore){.kind = QN_CHORE_KV_COPY,
                                                       .from = c->snap[m.slot].tail_page,
                                                       .to = s->pages[n_shared],
                                                       .n = m.n_tok % QN_PAGE});
        qn_cache_touch(c, m.last, m.slot);
    }
    s->is_fresh = m.slot < 0;
    s->is_off_tree = c->is_off;
    s->n_cached = s->n_done = m.n_tok;
    s->n_commit = s->n_draft = 0;
    s->mtp_from = qn_cache_mtp_from(c, m.slot, m.last);
    s->n_mtp_gap = 0;
    s->state = QN_SEQ_PREFILL;
    if (!s->stats.n_step && !s->admit_us) { /* the first admission: what usage tells */
        s->stats.n_cached = m.n_tok;
        s->stats.n_known = m.n_match;
        s->stats.miss = m.miss;
        s->admit_us = qn_now_us();
    }
    c->stats.n_query_tok += (uint64_t)s->n_tok;
    c->stats.n_hit_tok += (uint64_t)m.n_tok;
    place_marks(s, &m, stop_tok, n_stop, snapshot_gap);
    return true;
}

void qn_seq_publish(struct qn_seq *s, struct qn_cache *c)
{
    while (!s->is_off_tree && s->n_node < s->n_done / QN_PAGE) {
        int parent = s->n_node ? s->pages[s->n_node - 1] : -1, page = s->pages[s->n_node];
        int begin = s->n_node * QN_PAGE,
            mtp_from = s->mtp_from > begin ? QN_MIN(s->mtp_from - begin, QN_PAGE) : 0;
        int node = qn_cache_insert(c, s->root, parent, s->tok + begin, page, mtp_from);
        if (node < 0) {
            s->is_off_tree = true;
            return;
        }
        if (node != page) { /* an equal page was there first */
            qn_cache_use_page(c, node);
            qn_cache_drop_page(c, page);
            s->pages[s->n_node] = node;
            if (c->node[node].mtp_from > mtp_from) /* with less of the MTP layer's KV */
                s->mtp_from = QN_MAX(s->mtp_from, begin + c->node[node].mtp_from);
            bool may_be_own = s->is_doubtful && c->node[node].born >= s->since;
            if (!may_be_own) s->n_others = s->n_node + 1;
        }
        s->n_node++;
    }
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
    int n_full = s->n_done / QN_PAGE;
    qn_cache_copy_snap(c, s->root, n_full ? s->pages[n_full - 1] : -1, s->n_done,
                       s->tok + (size_t)n_full * QN_PAGE, s->n_done % QN_PAGE ? s->pages[n_full] : -1,
                       s->slot, s->mtp_from);
}

void qn_seq_suspend(struct qn_seq *s, struct qn_cache *c, bool with_state)
{
    if (s->slot >= 0) {
        s->is_doubtful = !s->is_proved;
        s->n_doubtful_others = s->n_others;
        if (with_state) qn_seq_publish(s, c);
        if (with_state && !s->is_off_tree && !s->job && s->n_done && !s->slice_part) {
            if (s->n_commit)
                qn_chores_add(c->chores, (struct qn_chore){.kind = QN_CHORE_STATE_FLUSH,
                                                           .from = s->lane,
                                                           .to = s->slot,
                                                           .n = s->n_commit});
            int n_full = s->n_done / QN_PAGE;
            qn_cache_give_snap(c, s->root, n_full ? s->pages[n_full - 1] : -1, s->n_done,
                               s->tok + (size_t)n_full * QN_PAGE, s->n_done % QN_PAGE ? s->pages[n_full] : -1,
                               s->slot, s->mtp_from);
        } else {
            qn_slots_release(&c->slots, s->slot);
        }
        s->slot = -1;
    }
    drop_pages(s, c);
    if (s->lane >= 0) qn_slots_release_lane(&c->slots, s->lane);
    s->lane = -1;
    s->n_cached = s->n_done = s->n_commit = s->n_draft = 0;
    s->n_slice_row = s->slice_part = 0;
    s->state = QN_SEQ_WAITING;
    s->is_proved = false;
    s->n_promote = 0;
    s->match_version = s->tier_version = 0;
}

void qn_seq_retract(struct qn_seq *s, struct qn_cache *c)
{
    int last = s->n_node ? s->pages[s->n_node - 1] : -1, n_others = s->n_others;
    qn_seq_suspend(s, c, false);
    qn_cache_forget(c, s->root, s->tok, last, n_others, s->since);
}

void qn_seq_check(const struct qn_seq *s)
{
    QN_CHECK(0 <= s->n_cached && s->n_cached <= qn_seq_n_state(s) && qn_seq_n_state(s) <= s->n_done &&
             s->n_done <= s->n_tok);
    QN_CHECK(s->n_done <= s->n_page * QN_PAGE);
    QN_CHECK(s->n_node * QN_PAGE <= s->n_done);
    QN_CHECK(!s->n_slice_row || s->state == QN_SEQ_PREFILL);
    QN_CHECK(s->n_done + s->n_slice_row <= s->n_tok && (s->n_slice_row || !s->slice_part));
    QN_CHECK(s->state == QN_SEQ_WAITING || (s->slot >= 0 && s->lane >= 0));
    QN_CHECK(s->state != QN_SEQ_DECODE || s->n_tok - s->n_done == 1);
}
