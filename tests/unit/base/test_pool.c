/* Worker pool: every item once, results visible, many short runs, idle sleep.
 * SPDX-License-Identifier: Apache-2.0 */
#include <stdatomic.h>
#include <time.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/pool.h"
#include "support/test.h"

static int hits[1000];

static void hit(void *ctx, int item, int thread)
{
    int *n_thread = ctx;
    assert_in_range(thread, 0, *n_thread - 1);
    hits[item]++;
}

static void test_every_item_once(void **unused)
{
    (void)unused;
    for (int n_thread = 1; n_thread <= 4; n_thread++) {
        struct qn_pool *p = qn_pool_create(n_thread);
        assert_int_equal(qn_pool_n_thread(p), n_thread);
        for (int run = 0; run < 300; run++) {
            int n = run * 7 % 1000;
            memset(hits, 0, sizeof hits);
            qn_pool_run(p, n, hit, &n_thread);
            for (int i = 0; i < 1000; i++) assert_int_equal(hits[i], i < n);
            if (run % 100 == 50) usleep(2000); /* workers fall asleep */
        }
        qn_pool_free(p);
    }
}

/* A thread that is held up in its first item loses all others: nothing waits for its share. */
struct held {
    _Atomic int n_done, holder;
    int n_item, n_by_holder;
};

static void hold(void *ctx, int item, int thread)
{
    (void)item;
    struct held *h = ctx;
    int nobody = -1;
    if (atomic_compare_exchange_strong(&h->holder, &nobody, thread)) {
        for (int ms = 0; atomic_load(&h->n_done) < h->n_item - 1 && ms < 20000; ms++) usleep(1000);
        assert_int_equal(atomic_load(&h->n_done), h->n_item - 1);
    }
    if (atomic_load(&h->holder) == thread) h->n_by_holder++;
    atomic_fetch_add(&h->n_done, 1);
}

static void test_shares_are_taken_over(void **unused)
{
    (void)unused;
    for (int n_thread = 2; n_thread <= 4; n_thread++) {
        struct qn_pool *p = qn_pool_create(n_thread);
        for (int n_item = 2; n_item < 40; n_item += 7) {
            struct held h = {.holder = -1, .n_item = n_item};
            qn_pool_run(p, n_item, hold, &h);
            assert_int_equal(h.n_done, n_item);
            assert_int_equal(h.n_by_holder, 1);
        }
        qn_pool_free(p);
    }
}

static void count(void *ctx, int item, int thread)
{
    (void)thread;
    ((unsigned char *)ctx)[item]++;
}

static void test_a_million_items(void **unused)
{
    (void)unused;
    int n = 2500000; /* more than one run holds */
    unsigned char *seen = xcalloc((size_t)n, 1);
    struct qn_pool *p = qn_pool_create(3);
    qn_pool_run(p, n, count, seen);
    for (int i = 0; i < n; i++) assert_int_equal(seen[i], 1);
    qn_pool_free(p);
    free(seen);
}

static void test_idle_costs_nothing(void **unused)
{
    (void)unused;
    int n_thread = 2;
    struct qn_pool *p = qn_pool_create(n_thread);
    qn_pool_run(p, 10, hit, &n_thread);
    usleep(20000);
    clock_t start = clock();
    usleep(100000);
    assert_true((double)(clock() - start) / CLOCKS_PER_SEC < 0.02);
    qn_pool_free(p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_item_once),
        cmocka_unit_test(test_shares_are_taken_over),
        cmocka_unit_test(test_a_million_items),
        cmocka_unit_test(test_idle_costs_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
