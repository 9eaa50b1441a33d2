/* Meetings of ranks that are threads: sums in rank order, parts put together, nobody left waiting.
 * SPDX-License-Identifier: Apache-2.0 */
#include "support/test.h"

#include <pthread.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/rng.h"
#include "dist/local.h"

enum { MOST = 8, ROUNDS = 400, WIDTH = 977 };

struct worker {
    struct qn_local *g;
    int rank, n, n_wrong;
    bool is_slow;
};

/* The same on every rank: how many numbers round k has, and what rank i brings. */
static size_t size_of(int round)
{
    return 1 + (size_t)(qn_rng64(1, (uint64_t)round, 0) % (round % 7 ? 300 : 20000));
}

static float value(int round, int rank, size_t i)
{
    return qn_rng_unit(qn_rng64(2, (uint64_t)round * 64 + (uint64_t)rank, i)) - 0.4f;
}

static void *sum(void *arg)
{
    struct worker *w = arg;
    float *p = xmalloc(20001 * sizeof *p);
    for (int round = 0; round < ROUNDS; round++) {
        size_t n = size_of(round);
        for (size_t i = 0; i < n; i++) p[i] = value(round, w->rank, i);
        p[n] = 7;
        if (w->is_slow && round % 50 == w->rank) usleep(2000); /* the others fall asleep */
        qn_local_sum(w->g, w->rank, p, n);
        for (size_t i = 0; i < n; i += 1 + n / 50) {
            float want = value(round, 0, i);
            for (int k = 1; k < w->n; k++) want += value(round, k, i);
            w->n_wrong += memcmp(&want, &p[i], sizeof want) != 0;
        }
        w->n_wrong += p[n] != 7;
    }
    free(p);
    return NULL;
}

static void *gather(void *arg)
{
    struct worker *w = arg;
    int first = WIDTH * w->rank / w->n, n = WIDTH * (w->rank + 1) / w->n - first;
    float *part = xmalloc((size_t)n * 5 * sizeof *part), *whole = xmalloc(5 * WIDTH * sizeof *whole);
    for (int round = 0; round < ROUNDS; round++) {
        int n_row = 1 + round % 5;
        for (int i = 0; i < n_row * n; i++) part[i] = (float)(round * 10000 + i / n * WIDTH + first + i % n);
        qn_local_gather(w->g, w->rank, (struct qn_local_part){part, first, n}, n_row, whole, WIDTH);
        for (int i = 0; i < n_row * WIDTH; i++) w->n_wrong += whole[i] != (float)(round * 10000 + i);
    }
    free(part);
    free(whole);
    return NULL;
}

static void run(int n, void *(*fn)(void *), bool is_slow)
{
    pthread_t thread[MOST];
    struct worker w[MOST];
    struct qn_local *g = qn_local_create(n);
    for (int i = 0; i < n; i++) {
        w[i] = (struct worker){g, i, n, 0, is_slow};
        assert_int_equal(pthread_create(&thread[i], NULL, fn, &w[i]), 0);
    }
    for (int i = 0; i < n; i++) pthread_join(thread[i], NULL);
    for (int i = 0; i < n; i++)
        if (w[i].n_wrong) fail_msg("rank %d of %d: %d wrong", i, n, w[i].n_wrong);
    qn_local_free(g);
}

static void test_sum(void **state)
{
    (void)state;
    for (int n = 1; n <= 4; n++) run(n, sum, false);
    run(MOST, sum, false);
    run(3, sum, true);
}

static void test_gather(void **state)
{
    (void)state;
    for (int n = 1; n <= 4; n++) run(n, gather, false);
}

static void *wait_in_vain(void *arg)
{
    struct worker *w = arg;
    float p[100] = {0};
    qn_local_sum(w->g, w->rank, p, 100);
    w->n_wrong = qn_local_is_broken(w->g);
    return NULL;
}

/* A rank that never comes: the others are let go. */
static void test_broken(void **state)
{
    (void)state;
    for (int late = 0; late < 2; late++) {
        pthread_t thread[2];
        struct qn_local *g = qn_local_create(3);
        struct worker w[2] = {{g, 0, 3, 0, false}, {g, 1, 3, 0, false}};
        for (int i = 0; i < 2; i++)
            assert_int_equal(pthread_create(&thread[i], NULL, wait_in_vain, &w[i]), 0);
        if (late) usleep(20000); /* they sleep by now */
        qn_local_break(g);
        for (int i = 0; i < 2; i++) pthread_join(thread[i], NULL);
        assert_int_equal(w[0].n_wrong + w[1].n_wrong, 2);
        float p[4] = {0};
        qn_local_sum(g, 2, p, 4); /* returns at once */
        qn_local_free(g);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sum),
        cmocka_unit_test(test_gather),
        cmocka_unit_test(test_broken),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
