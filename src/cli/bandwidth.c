/* Read bandwidth: every thread sums its own share of one block, all starting together.
 * SPDX-License-Identifier: Apache-2.0 */
#include "cli/bandwidth.h"

#include <pthread.h>

#include "base/clock.h"
#include "base/mem.h"

#define BLOCK_BYTES ((size_t)512 << 20)
#define N_PASS      6
#define MAX_THREADS 256

struct reader {
    const uint64_t *data;
    size_t n_word;
    pthread_barrier_t *barrier;
    uint64_t sum;    /* keeps the reads alive */
    int64_t best_us; /* of the passes after the first, which warms up */
};

typedef uint64_t lane __attribute__((vector_size(64)));

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_THREAD__)
__attribute__((target_clones("avx512f", "avx2", "default")))
#endif
static uint64_t
sum_words(const uint64_t *data, size_t n_word)
{
    lane a = {0}, b = {0}, c = {0}, d = {0};
    const lane *p = (const lane *)data;
    for (size_t i = 0; i + 4 <= n_word / 8; i += 4) {
        a += p[i];
        b += p[i + 1];
        c += p[i + 2];
        d += p[i + 3];
    }
    a += b + c + d;
    uint64_t sum = 0;
    for (int i = 0; i < 8; i++) sum += a[i];
    return sum;
}

static void *read_share(void *user)
{
    struct reader *r = user;
    for (int pass = 0; pass < N_PASS; pass++) {
        pthread_barrier_wait(r->barrier);
        int64_t start = qn_now_us();
        r->sum += sum_words(r->data, r->n_word);
        pthread_barrier_wait(r->barrier);
        int64_t us = qn_now_us() - start;
        if (pass && us < r->best_us) r->best_us = us;
    }
    return NULL;
}

double qn_bandwidth_read(int n_thread)
{
    n_thread = QN_CLAMP(n_thread, 1, MAX_THREADS);
    char *block = qn_region_alloc(BLOCK_BYTES);
    if (!block) return 0;
    memset(block, 1, BLOCK_BYTES);
    pthread_barrier_t barrier;
    pthread_barrier_init(&barrier, NULL, (unsigned)n_thread);
    struct reader readers[MAX_THREADS];
    pthread_t threads[MAX_THREADS];
    size_t share = BLOCK_BYTES / (size_t)n_thread / 4096 * 4096;
    for (int i = 0; i < n_thread; i++) {
        readers[i] =
            (struct reader){(const uint64_t *)(block + share * (size_t)i), share / 8, &barrier, 0, INT64_MAX};
        QN_CHECK(!pthread_create(&threads[i], NULL, read_share, &readers[i]));
    }
    int64_t best = INT64_MAX;
    uint64_t sum = 0;
    for (int i = 0; i < n_thread; i++) {
        pthread_join(threads[i], NULL);
        best = QN_MIN(best, readers[i].best_us);
        sum += readers[i].sum;
    }
    pthread_barrier_destroy(&barrier);
    qn_region_free(block, BLOCK_BYTES);
    return sum ? (double)share * n_thread / (double)QN_MAX(best, 1) / 1000.0 : 0;
}
