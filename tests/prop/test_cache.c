/* Random operations on pages, slots and the prefix tree: nothing leaks, nothing is lost, what a match
 * promises is there. QUERN_OPERATIONS: how many (default 1,000,000). QUERN_SEED: where the random numbers
 * start. SPDX-License-Identifier: Apache-2.0 */
#include "support/test.h"

#include "base/mem.h"
#include "base/rng.h"
#include "engine/sched.h"

#define N_PAGE  96
#define N_SLOT  20
#define N_LANE  8
#define MAX_TOK 700

static uint64_t draw, seed;

static int roll(int sides)
{
    return (int)(qn_rng64(seed, draw++, 3) % (uint64_t)sides);
}

struct live {
    struct qn_seq *seq;
    struct qn_request_params params;
    int32_t *tok;
};

static void check(struct qn_cache *c, struct live *live)
{
    int32_t n_used[N_PAGE] = {0};
    int n_live = 0, n_use = 0;
    for (int i = 0; i < N_LANE; i++) {
        if (!live[i].seq) continue;
        n_live++;
        n_use += live[i].seq->n_page;
        qn_seq_check(live[i].seq);
        for (int k = 0; k < live[i].seq->n_page; k++) n_used[live[i].seq->pages[k]]++;
    }
    qn_cache_check_sums(c, n_live, n_use);
    qn_cache_check(c, n_used);
}

/* A handful of trees of prompts, so that prefixes meet, continue and part. */
static int make_prompt(int32_t *tok)
{
    int n = 1 + roll(roll(3) ? 200 : MAX_TOK - 100), family = roll(4), leaves = roll(n + 50);
    for (int i = 0; i < n; i++) tok[i] = i < leaves ? family * 7 + i % 11 : roll(3);
    return n;
}

static void leave(struct qn_cache *c, struct live *l, bool with_state)
{
    if (with_state || roll(2))
        qn_seq_suspend(l->seq, c, with_state);
    else
        qn_seq_retract(l->seq, c);
    qn_seq_free(l->seq);
    free(l->tok);
    l->seq = NULL;
}

static void enter(struct qn_cache *c, struct live *l)
{
    static const int stops[] = {5};
    int32_t tok[MAX_TOK];
    int n = make_prompt(tok);
    l->tok = xreallocarray(NULL, (size_t)n, sizeof *tok);
    memcpy(l->tok, tok, (size_t)n * sizeof *tok);
    l->params = (struct qn_request_params){
        .tok = l->tok, .n_tok = n, .salt = (uint64_t)(roll(10) == 0), .prompt_top = -1};
    l->params.sample = (struct qn_sample){.top_p = 1, .repetition = 1};
    l->seq = qn_seq_create_job(NULL, &l->params);
    int n_chore = c->chores->n;
    if (!qn_seq_admit(l->seq, c, stops, 1, 1 + roll(64), roll(20) == 0)) {
        assert_int_equal(c->chores->n, n_chore);
        qn_seq_free(l->seq);
        free(l->tok);
        l->seq = NULL;
        return;
    }
    struct qn_seq *q = l->seq;
    assert_true(q->n_cached < n);
    /* what was promised: shared pages hold these tokens, the state comes from a snapshot of that length */
    for (int i = 0; i < q->n_node; i++)
        assert_memory_equal(c->tok + (size_t)q->pages[i] * QN_PAGE, tok + (size_t)i * QN_PAGE,
                            QN_PAGE * sizeof *tok);
    if (q->n_cached) assert_int_equal(c->chores->list[n_chore].kind, QN_CHORE_STATE_COPY);
    assert_int_equal(q->is_fresh, q->n_cached == 0);
}

static void advance(struct qn_cache *c, struct live *l)
{
    struct qn_seq *q = l->seq;
    q->is_fresh = false;
    if (q->n_done < q->n_prompt) { /* a chunk of the prompt */
        int n = 1 + roll(100);
        n = QN_MIN(n, q->n_prompt - q->n_done);
        if (q->n_mark && q->mark[0] > q->n_done) n = QN_MIN(n, q->mark[0] - q->n_done);
        q->n_done += n;
        if (q->n_mark && q->mark[0] <= q->n_done)
            qn_seq_snapshot(q, c);
        else
            qn_seq_publish(q, c);
        if (q->n_done == q->n_prompt) qn_seq_push(q, roll(3));
        return;
    }
    q->state = QN_SEQ_DECODE; /* a step with some drafts accepted */
    int n = 1 + roll(QN_MAX_DRAFT + 1);
    if (q->n_tok + n > MAX_TOK || !qn_seq_reserve(q, c, q->n_tok + n + 1)) {
        leave(c, l, true);
        return;
    }
    q->n_done += n;
    q->n_commit = n;
    for (int i = 0; i < n; i++) qn_seq_push(q, roll(3));
    qn_seq_publish(q, c);
}

static void test_random_operations(void **state)
{
    (void)state;
    const char *text = getenv("QUERN_OPERATIONS"), *seed_text = getenv("QUERN_SEED");
    long n = text ? atol(text) : 1000000;
    seed = seed_text ? strtoull(seed_text, NULL, 10) : 42;
    print_message("seed %llu\n", (unsigned long long)seed);
    struct qn_chores chores = {0};
    struct qn_cache c;
    struct live live[N_LANE] = {{0}};
    qn_cache_init(&c, N_PAGE, N_SLOT, N_LANE, &chores);
    for (long i = 0; i < n; i++) {
        struct live *l = &live[roll(N_LANE)];
        if (!l->seq)
            enter(&c, l);
        else if (roll(40) == 0)
            leave(&c, l, roll(10) != 0);
        else
            advance(&c, l);
        if (roll(5000) == 0) qn_cache_clear(&c);
        if (roll(64) == 0) check(&c, live);
        if (chores.n > 64) chores.n = 0;
    }
    check(&c, live);
    for (int i = 0; i < N_LANE; i++)
        if (live[i].seq) leave(&c, &live[i], true);
    check(&c, live);
    print_message(
        "%ld operations: %llu snapshots made, %llu evicted, %llu pages evicted, %llu of %llu tokens hit\n", n,
        (unsigned long long)c.stats.n_snap_made, (unsigned long long)c.stats.n_snap_evicted,
        (unsigned long long)c.stats.n_node_evicted, (unsigned long long)c.stats.n_hit_tok,
        (unsigned long long)c.stats.n_query_tok);
    assert_true(c.stats.n_hit_tok > 0 && c.stats.n_node_evicted > 0);
    qn_cache_clear(&c);
    assert_int_equal(c.pages.n_free, N_PAGE);
    assert_int_equal(c.slots.n_free, N_SLOT);
    qn_cache_fini(&c);
    qn_chores_fini(&chores);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_random_operations)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
