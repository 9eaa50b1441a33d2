/* Running numbers.
 * SPDX-License-Identifier: Apache-2.0 */
#include "engine/board.h"

void qn_board_init(struct qn_board *b)
{
    *b = (struct qn_board){0};
    pthread_mutex_init(&b->lock, NULL);
}

void qn_board_fini(struct qn_board *b)
{
    pthread_mutex_destroy(&b->lock);
}

static void look_at_cache(struct qn_engine_stats *s, const struct qn_cache *cache)
{
    struct qn_cache_stats c;
    qn_cache_stats(cache, &c);
    s->n_page = c.n_page;
    s->n_page_used = c.n_page - qn_cache_pages_left(cache);
    s->n_page_cached = c.n_page_idle;
    s->n_slot = c.n_slot;
    s->n_slot_live = c.n_slot_live;
    s->n_slot_snapshot = c.n_slot_snapshot;
    s->prefix_queries = c.n_query_tok;
    s->prefix_hits = s->n_cached_tok = c.n_hit_tok;
    s->n_snap_made = c.n_snap_made;
    s->n_snap_evicted = c.n_snap_evicted;
    s->n_node_evicted = c.n_node_evicted;
    s->n_match = c.n_match;
}

void qn_board_write(struct qn_board *b, struct qn_engine_stats *counters, const struct qn_sched *s)
{
    look_at_cache(counters, s->cache);
    counters->n_running = s->n_running;
    counters->n_waiting = s->n_waiting;
    counters->n_preempted = s->n_preempted;
    counters->depth = s->spec->depth;
    counters->n_fetching = qn_sched_n_fetching(s);
    if (s->tier) qn_tier_stats(s->tier, &counters->tier);
    pthread_mutex_lock(&b->lock);
    for (; b->n_admission < s->n_admission; b->n_admission++)
        b->admission[b->n_admission % QN_N_ADMISSION] = s->admission[b->n_admission % QN_N_ADMISSION];
    uint64_t n_rejected = b->stats.n_rejected; /* counted by the callers */
    b->stats = *counters;
    b->stats.n_rejected = n_rejected;
    pthread_mutex_unlock(&b->lock);
}

void qn_board_reject(struct qn_board *b)
{
    pthread_mutex_lock(&b->lock);
    b->stats.n_rejected++;
    pthread_mutex_unlock(&b->lock);
}

void qn_board_stats(struct qn_board *b, struct qn_engine_stats *out)
{
    pthread_mutex_lock(&b->lock);
    *out = b->stats;
    pthread_mutex_unlock(&b->lock);
}

int qn_board_admissions(struct qn_board *b, struct qn_admission *out)
{
    pthread_mutex_lock(&b->lock);
    int n = (int)QN_MIN(b->n_admission, (uint64_t)QN_N_ADMISSION);
    for (int i = 0; i < n; i++) out[i] = b->admission[(b->n_admission - 1 - (uint64_t)i) % QN_N_ADMISSION];
    pthread_mutex_unlock(&b->lock);
    return n;
}
