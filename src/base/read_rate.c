/* How fast memory is read: cpu.h declares it. A file of its own, because it runs on the pool, which knows the
 * CPUs. SPDX-License-Identifier: Apache-2.0 */
#include <stdatomic.h>

#include "base/clock.h"
#include "base/cpu.h"
#include "base/mem.h"
#include "base/pool.h"

/* Each item is 1 MiB, summed into a value the compiler cannot drop. */
#define BLOCK ((size_t)1 << 20)

struct read {
    const uint64_t *data;
    _Atomic uint64_t sum;
};

static void read_block(void *ctx, int item, int thread)
{
    struct read *r = ctx;
    (void)thread;
    const uint64_t *p = r->data + (size_t)item * (BLOCK / 8);
    uint64_t part[16] = {0};
    for (size_t i = 0; i < BLOCK / 8; i += 16)
        for (int j = 0; j < 16; j++) part[j] ^= p[i + j];
    uint64_t sum = 0;
    for (int j = 0; j < 16; j++) sum ^= part[j];
    r->sum ^= sum;
}

double qn_cpu_read_rate(int n_thread, size_t n_byte, int n_run)
{
    n_byte = QN_ROUND_UP(QN_MAX(n_byte, BLOCK), BLOCK);
    void *p = qn_region_alloc(n_byte);
    if (!p) return 0;
    memset(p, 1, n_byte);
    struct qn_pool *pool = qn_pool_create(n_thread);
    struct read r = {p, 0};
    int64_t least = INT64_MAX;
    for (int i = 0; i < n_run; i++) {
        int64_t start = qn_now_us();
        qn_pool_run(pool, (int)(n_byte / BLOCK), read_block, &r);
        least = QN_MIN(least, qn_now_us() - start);
    }
    qn_pool_free(pool);
    qn_region_free(p, n_byte);
    return (double)n_byte * 1e6 / (double)QN_MAX(least, 1);
}
