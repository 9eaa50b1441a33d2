/* Several ranks, scripted: one engine, the same answers as with one; a rank that fails says which it is.
 * SPDX-License-Identifier: Apache-2.0 */
#include "support/test.h"

#include <unistd.h>

#include "support/ask.h"
#include "support/backend_fake.h"

#define N_PROMPT 300
#define N_ASK    12

static struct qn_fake fake;

static struct qn_engine *try_open(const struct qn_fake_options *fo, int n_rank, struct qn_err *e)
{
    struct qn_engine_options o;
    struct qn_engine *g = NULL;
    qn_fake_init(&fake, fo);
    qn_fake_engine_options(&fake, &o);
    o.n_rank = n_rank;
    o.mtp = 2;
    o.max_seqs = 3;
    o.n_slot = 5; /* few: snapshots go to RAM and come back */
    o.n_page = 40;
    o.max_context = 600;
    o.ram_tier_bytes = (int64_t)16 << 20;
    qn_engine_open(&g, &o, e);
    return g;
}

static struct qn_engine *open_fake(const struct qn_fake_options *fo, int n_rank)
{
    struct qn_err e = {0};
    struct qn_engine *g = try_open(fo, n_rank, &e);
    if (!g) fail_msg("open: %s", e.text);
    return g;
}

static void close_fake(struct qn_engine *g)
{
    qn_engine_close(g);
    assert_int_equal(atomic_load(&fake.n_violation), 0);
}

/* Prompts that push each other out, twice: the second time they come back from the tier. */
static void ask_many(struct qn_engine *g, struct ask_answer *out)
{
    for (int i = 0; i < N_ASK; i++) {
        int32_t *prompt = ask_prompt((uint64_t)(i % (N_ASK / 2)), N_PROMPT, 200);
        struct qn_request_params p = ask_params(prompt, N_PROMPT);
        p.max_new = 24;
        p.mtp = 2;
        p.prompt_top = i == 3 ? 2 : -1;
        p.sample.temperature = i % 2 ? 0.8f : 0;
        p.sample.seed = (uint64_t)i;
        ask(g, &p, &out[i]);
        free(prompt);
    }
}

static void test_same_answers(void **state)
{
    (void)state;
    struct ask_answer one[N_ASK], more[N_ASK];
    struct qn_engine_stats stats;
    struct qn_engine *g = open_fake(NULL, 1);
    ask_many(g, one);
    close_fake(g);
    for (int n_rank = 2; n_rank <= 5; n_rank += 3) {
        g = open_fake(&(struct qn_fake_options){.over_wire = n_rank == 5}, n_rank);
        ask_many(g, more);
        qn_engine_stats(g, &stats);
        assert_true(stats.tier.n_hit > 0);
        for (int i = 0; i < N_ASK; i++) {
            assert_int_equal(more[i].n, one[i].n);
            assert_memory_equal(more[i].tok, one[i].tok, (size_t)one[i].n * sizeof *one[i].tok);
            assert_int_equal(more[i].stats.n_cached, one[i].stats.n_cached);
            assert_int_equal(more[i].n_prompt, one[i].n_prompt);
            ask_free(&more[i]);
        }
        close_fake(g);
    }
    for (int i = 0; i < N_ASK; i++) ask_free(&one[i]);
}

static int check_rows(void *user, int first, int n_row, const float *logits)
{
    (void)logits;
    int *next = user;
    assert_int_equal(first, *next);
    *next += n_row;
    return QN_OK;
}

/* Every rank brings its logits down somewhere. */
static void test_logits(void **state)
{
    (void)state;
    struct qn_engine *g = open_fake(&(struct qn_fake_options){.over_wire = true}, 2);
    struct qn_err e = {0};
    int32_t *prompt = ask_prompt(1, N_PROMPT, 200);
    int next = 0;
    assert_int_equal(qn_engine_logits(g, prompt, N_PROMPT, false, check_rows, &next, &e), QN_OK);
    assert_int_equal(next, N_PROMPT);
    next = 1;
    assert_int_equal(qn_engine_logits(g, prompt, N_PROMPT, true, check_rows, &next, &e), QN_OK);
    assert_int_equal(next, N_PROMPT);
    free(prompt);
    close_fake(g);
}

static void expect_fault(const struct qn_fake_options *fo, int n_rank, const char *text)
{
    struct qn_engine *g = open_fake(fo, n_rank);
    int32_t *prompt = ask_prompt(6, 50, 200);
    struct qn_request_params p = ask_params(prompt, 50);
    struct ask_answer a;
    p.max_new = 100;
    ask(g, &p, &a);
    assert_int_equal(a.finish, QN_FINISH_ERROR);
    assert_int_equal(a.error.code, QN_DEVICE);
    if (!strstr(a.error.text, text)) fail_msg("%s", a.error.text);
    assert_false(qn_engine_is_alive(g));
    ask_free(&a);
    free(prompt);
    close_fake(g);
}

static void test_fault_says_which(void **state)
{
    (void)state;
    expect_fault(&(struct qn_fake_options){.fail_at_step = 5, .fail_rank = 1}, 2,
                 "rank 1 of 2: scripted fault");
    expect_fault(&(struct qn_fake_options){.fail_at_step = 5}, 3, "rank 0 of 3: scripted fault");
    expect_fault(&(struct qn_fake_options){.fail_at_step = 5}, 1, "scripted fault");
    expect_fault(&(struct qn_fake_options){.fail_at_step = 5, .astray_rank = 2}, 3,
                 "rank 2 of 3 came to other tokens");
}

static void test_one_cannot_be_opened(void **state)
{
    (void)state;
    struct qn_err e = {0};
    assert_null(try_open(&(struct qn_fake_options){.open_fails = 1}, 2, &e));
    assert_int_equal(e.code, QN_DEVICE);
    assert_string_equal(e.text, "rank 1 of 2: scripted: no such device");
    assert_null(try_open(NULL, 1000, &e));
    assert_int_equal(e.code, QN_INVAL);
}

/* Sizes are those of all ranks together. */
static void test_sizes(void **state)
{
    (void)state;
    struct qn_engine *g = open_fake(NULL, 1);
    size_t kv_bytes = qn_engine_info(g)->kv_bytes, state_bytes = qn_engine_info(g)->state_bytes;
    close_fake(g);
    g = open_fake(NULL, 4);
    assert_int_equal(qn_engine_info(g)->kv_bytes, 4 * kv_bytes);
    assert_int_equal(qn_engine_info(g)->state_bytes, 4 * state_bytes);
    assert_int_equal(qn_engine_info(g)->n_thread, 4);
    close_fake(g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_same_answers),
        cmocka_unit_test(test_logits),
        cmocka_unit_test(test_fault_says_which),
        cmocka_unit_test(test_one_cannot_be_opened),
        cmocka_unit_test(test_sizes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
