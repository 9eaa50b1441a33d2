/* Read bandwidth: every thread sums its own share of one block, all starting together.
 * SPDX-License-Identifier: Apache-2.0 */
#include "cli/bandwidth.h"

#include <pthread.h>

#include "base/clock.h"
#include "base/mem.h"

#define MAX_THREADS 256

struct share {
    const uint64_t *data;
    size_t n_word;
    pthread_barrier_t *barrier;
    uint64_t sum; /* keeps the reads alive */
    int64_t us;
};

struct qn_reader {
    int n_thread;
    size_t n_byte;
    char *block;
    uint64_t sum;
    struct share shares[MAX_THREADS];
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
    struct share *s = user;
    pthread_barrier_wait(s->barrier);
    int64_t start = qn_now_us();
    s->sum = sum_words(s->data, s->n_word);
    pthread_barrier_wait(s->barrier);
    s->us = qn_now_us() - start;
    return NULL;
}

struct qn_reader *qn_reader_create(int n_thread, size_t n_byte)
{
    struct qn_reader *r = xcalloc(1, sizeof *r);
    r->n_thread = QN_CLAMP(n_thread, 1, MAX_THREADS);
    r->n_byte = n_byte;
    r->block = qn_region_alloc(n_byte);
    if (!r->block) {
        free(r);
        return NULL;
    }
    memset(r->block, 1, n_byte);
    return r;
}

void qn_reader_free(struct qn_reader *r)
{
    if (!r) return;
    qn_region_free(r->block, r->n_byte);
    free(r);
}

double qn_reader_pass(struct qn_reader *r)
{
    pthread_barrier_t barrier;
    pthread_barrier_init(&barrier, NULL, (unsigned)r->n_thread);
    pthread_t threads[MAX_THREADS];
    size_t n_byte = r->n_byte / (size_t)r->n_thread / 4096 * 4096;
    for (int i = 0; i < r->n_thread; i++) {
        r->shares[i] =
            (struct share){(const uint64_t *)(r->block + n_byte * (size_t)i), n_byte / 8, &barrier, 0, 0};
        QN_CHECK(!pthread_create(&threads[i], NULL, read_share, &r->shares[i]));
    }
    int64_t us = INT64_MAX;
    for (int i = 0; i < r->n_thread; i++) {
        pthread_join(threads[i], NULL);
        us = QN_MIN(us, r->shares[i].us);
        r->sum += r->shares[i].sum;
    }
    pthread_barrier_destroy(&barrier);
    return r->sum ? (double)n_byte * r->n_thread / (double)QN_MAX(us, 1) / 1000 : 0;
}

double qn_bandwidth_read(int n_thread)
{
    double best = 0;
    struct qn_reader *r = qn_reader_create(n_thread, (size_t)512 << 20);
    for (int i = 0; r && i < 6; i++) {
        double pass = qn_reader_pass(r);
        if (i) best = QN_MAX(best, pass); /* the first warms up */
    }
    qn_reader_free(r);
    return best;
}
