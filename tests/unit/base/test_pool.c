/* Worker pool: every item once, results visible, many short runs, idle sleep.
 * SPDX-License-Identifier: Apache-2.0 */
#include <time.h>
#include <unistd.h>

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
        cmocka_unit_test(test_idle_costs_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
