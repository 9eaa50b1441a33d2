/* Worker threads.
 *
 * One 64-bit word, `ticket`, holds the number of the run and the next unclaimed item; an item is claimed by
 * raising it with compare-and-swap. Publishing a run closes the word first, so that nobody claims an item of
 * the old run with the description of the new one. A late worker finds nothing left and is not waited for.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/pool.h"

#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cpu.h"
#include "base/mem.h"

#define SPIN   4000 /* pauses before a worker sleeps: some tens of microseconds */
#define CLOSED UINT32_MAX

struct qn_pool {
    int n_thread;
    pthread_t *threads;                   /* [n_thread - 1] */
    _Alignas(64) _Atomic uint64_t ticket; /* run << 32 | next item */
    _Alignas(64) _Atomic int done;        /* items finished */
    _Alignas(64) _Atomic uint32_t wake;   /* futex: raised with each run */
    _Atomic int n_sleeping;
    _Atomic bool is_closing;
    _Atomic(void (*)(void *, int, int)) fn;
    _Atomic(void *) ctx;
    _Atomic int n_item;
};

struct start {
    struct qn_pool *pool;
    int thread, cpu; /* cpu: -1 when not pinned */
};

static void relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static void futex_wait(_Atomic uint32_t *word, uint32_t value)
{
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
}

static void futex_wake_all(_Atomic uint32_t *word)
{
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0);
}

/* Claims and runs items until none is left; gives the number of the run it saw end. */
static uint32_t take_items(struct qn_pool *p, int thread)
{
    uint64_t t = atomic_load_explicit(&p->ticket, memory_order_acquire);
    for (;;) {
        uint32_t next = (uint32_t)t;
        void (*fn)(void *, int, int) = atomic_load_explicit(&p->fn, memory_order_relaxed);
        void *ctx = atomic_load_explicit(&p->ctx, memory_order_relaxed);
        int n_item = atomic_load_explicit(&p->n_item, memory_order_relaxed);
        if (next == CLOSED || (int)next >= n_item) {
            /* n_item may be that of a run just being published: only an unchanged word makes it an answer */
            uint64_t again = atomic_load_explicit(&p->ticket, memory_order_acquire);
            if (again == t) return (uint32_t)(t >> 32) - (next == CLOSED ? 1 : 0);
            t = again;
            continue;
        }
        if (!atomic_compare_exchange_weak_explicit(&p->ticket, &t, t + 1, memory_order_acq_rel,
                                                   memory_order_acquire))
            continue;
        fn(ctx, (int)next, thread);
        atomic_fetch_add_explicit(&p->done, 1, memory_order_release);
        t = atomic_load_explicit(&p->ticket, memory_order_acquire);
    }
}

static bool has_run(struct qn_pool *p, uint32_t seen)
{
    uint64_t t = atomic_load_explicit(&p->ticket, memory_order_acquire);
    return (uint32_t)(t >> 32) != seen && (uint32_t)t != CLOSED;
}

static void *worker(void *arg)
{
    struct start s = *(struct start *)arg;
    struct qn_pool *p = s.pool;
    free(arg);
    if (s.cpu >= 0) {
        cpu_set_t set;
        CPU_ZERO(&set);
        CPU_SET(s.cpu, &set);
        sched_setaffinity(0, sizeof set, &set); /* a wish: works unpinned when refused */
    }
    uint32_t seen = 0;
    while (!atomic_load_explicit(&p->is_closing, memory_order_acquire)) {
        for (int i = 0; i < SPIN && !has_run(p, seen); i++) relax();
        if (!has_run(p, seen)) {
            uint32_t value = atomic_load(&p->wake);
            atomic_fetch_add(&p->n_sleeping, 1);
            if (!has_run(p, seen) && !atomic_load(&p->is_closing)) futex_wait(&p->wake, value);
            atomic_fetch_sub(&p->n_sleeping, 1);
            continue;
        }
        seen = take_items(p, s.thread);
    }
    return NULL;
}

struct qn_pool *qn_pool_create(int n_thread)
{
    if (n_thread <= 0) n_thread = qn_cpu_n_core();
    struct qn_pool *p = NULL;
    QN_CHECK(posix_memalign((void **)&p, 64, sizeof *p) == 0);
    memset(p, 0, sizeof *p);
    p->threads = xcalloc((size_t)n_thread, sizeof *p->threads);
    const char *pin = getenv("QUERN_PIN");
    bool is_pinned = pin && *pin ? *pin != '0' : n_thread >= 4 && n_thread == qn_cpu_n_core();
    int cpus[1024], n_cpu = qn_cpu_list(cpus, 1024);
    for (p->n_thread = 1; p->n_thread < n_thread; p->n_thread++) {
        struct start *s = xmalloc(sizeof *s);
        *s = (struct start){p, p->n_thread, is_pinned && p->n_thread < n_cpu ? cpus[p->n_thread] : -1};
        if (pthread_create(&p->threads[p->n_thread - 1], NULL, worker, s)) {
            free(s); /* fewer threads, same answers */
            break;
        }
    }
    return p;
}

void qn_pool_free(struct qn_pool *p)
{
    if (!p) return;
    atomic_store(&p->is_closing, true);
    atomic_fetch_add(&p->wake, 1);
    futex_wake_all(&p->wake);
    for (int i = 0; i < p->n_thread - 1; i++) pthread_join(p->threads[i], NULL);
    free(p->threads);
    free(p);
}

int qn_pool_n_thread(const struct qn_pool *p)
{
    return p->n_thread;
}

void qn_pool_run(struct qn_pool *p, int n_item, void (*fn)(void *ctx, int item, int thread), void *ctx)
{
    if (n_item <= 0) return;
    if (p->n_thread == 1 || n_item == 1) {
        for (int i = 0; i < n_item; i++) fn(ctx, i, 0);
        return;
    }
    uint64_t run = ((atomic_load_explicit(&p->ticket, memory_order_relaxed) >> 32) + 1) & UINT32_MAX;
    atomic_exchange_explicit(&p->ticket, run << 32 | CLOSED, memory_order_acq_rel);
    atomic_store_explicit(&p->fn, fn, memory_order_relaxed);
    atomic_store_explicit(&p->ctx, ctx, memory_order_relaxed);
    atomic_store_explicit(&p->n_item, n_item, memory_order_relaxed);
    atomic_store_explicit(&p->done, 0, memory_order_relaxed);
    atomic_store(&p->ticket, run << 32);
    atomic_fetch_add(&p->wake, 1);
    if (atomic_load(&p->n_sleeping)) futex_wake_all(&p->wake);
    take_items(p, 0);
    for (int i = 0; atomic_load_explicit(&p->done, memory_order_acquire) < n_item; i++) {
        relax();
        if (i > SPIN) sched_yield(); /* its thread was taken off the CPU */
    }
}
