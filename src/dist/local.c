/* Ranks that are threads of one process.
 *
 * Each rank has a seat with a rising epoch: it raises its own when it arrives at a meeting and waits until
 * every other has come as far. A seat also says where the rank's buffer is; the release of the epoch makes
 * pointer and contents visible. A sum takes two meetings: one before anything is read, and one after, before
 * any buffer is used again. Between them rank r adds up the r-th stretch of all buffers and writes it into
 * each, so no two ranks touch the same element.
 * SPDX-License-Identifier: Apache-2.0 */
#include "dist/local.h"

#include <linux/futex.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/mem.h"

#define SPIN  4000 /* pauses before a rank sleeps: some tens of microseconds */
#define LINE  16   /* floats of a cache line */
#define N_MAX 64

struct seat {
    _Alignas(64) _Atomic uint32_t epoch; /* futex */
    _Atomic int n_waiting;               /* ranks asleep on it */
    float *p;                            /* at the meeting */
    struct qn_local_part part;
};

struct qn_local {
    int n;
    _Atomic bool is_broken;
    struct seat seat[N_MAX];
};

static void relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

struct qn_local *qn_local_create(int n)
{
    QN_CHECK(n >= 1 && n <= N_MAX);
    size_t n_byte = QN_ROUND_UP(sizeof(struct qn_local), 64);
    struct qn_local *g = aligned_alloc(64, n_byte);
    QN_CHECK(g);
    memset(g, 0, n_byte);
    g->n = n;
    return g;
}

void qn_local_free(struct qn_local *g)
{
    free(g);
}

bool qn_local_is_broken(const struct qn_local *g)
{
    return atomic_load(&g->is_broken);
}

static void wake(struct seat *s)
{
    syscall(SYS_futex, &s->epoch, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0);
}

void qn_local_break(struct qn_local *g)
{
    atomic_store(&g->is_broken, true);
    for (int i = 0; i < g->n; i++) {
        atomic_fetch_add(&g->seat[i].epoch, 1u << 31); /* those about to sleep see another value */
        wake(&g->seat[i]);
    }
}

/* Has the seat come as far as `epoch`? Epochs wrap around. */
static bool has_come(const struct seat *s, uint32_t epoch)
{
    return (int32_t)(atomic_load_explicit(&s->epoch, memory_order_acquire) - epoch) >= 0;
}

static void wait_for(struct qn_local *g, struct seat *s, uint32_t epoch)
{
    for (int i = 0; i < SPIN; i++) {
        if (has_come(s, epoch)) return;
        relax();
    }
    while (!has_come(s, epoch) && !qn_local_is_broken(g)) {
        atomic_fetch_add(&s->n_waiting, 1);
        uint32_t value = atomic_load(&s->epoch);
        if ((int32_t)(value - epoch) < 0 && !qn_local_is_broken(g))
            syscall(SYS_futex, &s->epoch, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
        atomic_fetch_sub(&s->n_waiting, 1);
    }
}

void qn_local_barrier(struct qn_local *g, int rank)
{
    struct seat *own = &g->seat[rank];
    uint32_t epoch = atomic_fetch_add(&own->epoch, 1) + 1;
    if (atomic_load(&own->n_waiting)) wake(own);
    for (int i = 0; i < g->n && !qn_local_is_broken(g); i++)
        if (i != rank) wait_for(g, &g->seat[i], epoch);
}

static void sum_stretch(const struct qn_local *g, size_t first, size_t end)
{
    enum { SOME = 256 };
    float sum[SOME];
    for (size_t at = first; at < end; at += SOME) {
        size_t n = QN_MIN((size_t)SOME, end - at);
        memcpy(sum, g->seat[0].p + at, n * sizeof *sum);
        for (int i = 1; i < g->n; i++) {
            const float *p = g->seat[i].p + at;
            for (size_t k = 0; k < n; k++) sum[k] += p[k];
        }
        for (int i = 0; i < g->n; i++) memcpy(g->seat[i].p + at, sum, n * sizeof *sum);
    }
}

void qn_local_sum(struct qn_local *g, int rank, float *p, size_t n)
{
    if (g->n == 1) return;
    size_t n_line = QN_CEIL_DIV(n, LINE), first = n_line * (size_t)rank / (size_t)g->n * LINE,
           end = QN_MIN(n_line * ((size_t)rank + 1) / (size_t)g->n * LINE, n);
    g->seat[rank].p = p;
    qn_local_barrier(g, rank);
    if (first < end && !qn_local_is_broken(g)) sum_stretch(g, first, end);
    qn_local_barrier(g, rank);
}

void qn_local_gather(struct qn_local *g, int rank, struct qn_local_part own, int n_row, float *whole,
                     int width)
{
    g->seat[rank].part = own;
    qn_local_barrier(g, rank);
    for (int i = 0; i < g->n && !qn_local_is_broken(g); i++) {
        const struct qn_local_part *p = &g->seat[i].part;
        for (int r = 0; r < n_row; r++)
            memcpy(whole + (size_t)r * (size_t)width + p->first, p->part + (size_t)r * (size_t)p->n,
                   (size_t)p->n * sizeof *whole);
    }
    qn_local_barrier(g, rank);
}
