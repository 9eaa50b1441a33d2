/* Worker threads.
 *
 * The items of a run are dealt out as one range a thread, each held in a 64-bit word of its own: number of
 * the run, next item, end. Its thread takes items from the front, so that it reads on where it was; threads
 * that are done take from the back of the others' ranges. An item is claimed by compare-and-swap. A run is
 * published when all items of the one before are done, so its ranges are empty and nobody claims an item of
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

#define SPIN      4000 /* pauses before a worker sleeps: some tens of microseconds */
#define ITEM_BITS 20
#define MAX_ITEM  ((1 << ITEM_BITS) - 1) /* of one run */

struct range {
    _Alignas(64) _Atomic uint64_t word; /* run | next item | end, of 24, 20 and 20 bits */
};

struct qn_pool {
    int n_thread;
    pthread_t *threads;                 /* [n_thread - 1] */
    struct range *ranges;               /* [n_thread] */
    uint32_t run;                       /* of the caller: the last one published */
    _Alignas(64) _Atomic int done;      /* items finished */
    _Alignas(64) _Atomic uint32_t wake; /* futex: raised with each run */
    _Atomic int n_sleeping;
    _Atomic bool is_closing;
    _Atomic(void (*)(void *, int, int)) fn;
    _Atomic(void *) ctx;
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

static uint64_t range_word(uint32_t run, int next, int end)
{
    return (uint64_t)run << 2 * ITEM_BITS | (uint64_t)next << ITEM_BITS | (uint64_t)end;
}

static uint32_t run_of(uint64_t word)
{
    return (uint32_t)(word >> 2 * ITEM_BITS);
}

/* Runs items of a range until none is left, from its front or its back; returns how many. */
static int take_items(struct qn_pool *p, struct range *r, bool from_back, int thread)
{
    int n = 0;
    uint64_t word = atomic_load_explicit(&r->word, memory_order_acquire);
    for (;;) {
        int next = (int)(word >> ITEM_BITS) & MAX_ITEM, end = (int)word & MAX_ITEM;
        if (next >= end) return n;
        /* those of the word's run as long as the word is unchanged */
        void (*fn)(void *, int, int) = atomic_load_explicit(&p->fn, memory_order_relaxed);
        void *ctx = atomic_load_explicit(&p->ctx, memory_order_relaxed);
        uint64_t taken = from_back ? word - 1 : word + (1u << ITEM_BITS);
        if (!atomic_compare_exchange_weak_explicit(&r->word, &word, taken, memory_order_acq_rel,
                                                   memory_order_acquire))
            continue;
        fn(ctx, from_back ? end - 1 : next, thread);
        n++;
        word = atomic_load_explicit(&r->word, memory_order_acquire);
    }
}

/* The thread's own range, then what is left of the others'. */
static void take_all(struct qn_pool *p, int thread)
{
    int n = take_items(p, &p->ranges[thread], false, thread);
    for (int i = 1; i < p->n_thread; i++)
        n += take_items(p, &p->ranges[(thread + i) % p->n_thread], true, thread);
    if (n) atomic_fetch_add_explicit(&p->done, n, memory_order_release);
}

static uint32_t last_run(struct qn_pool *p, int thread)
{
    return run_of(atomic_load_explicit(&p->ranges[thread].word, memory_order_acquire));
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
        for (int i = 0; i < SPIN && last_run(p, s.thread) == seen; i++) relax();
        if (last_run(p, s.thread) == seen) {
            /* a run published after the last look raises `wake` above this value: the wait does not begin */
            uint32_t value = atomic_load(&p->wake);
            atomic_fetch_add(&p->n_sleeping, 1);
            if (last_run(p, s.thread) == seen && !atomic_load(&p->is_closing)) futex_wait(&p->wake, value);
            atomic_fetch_sub(&p->n_sleeping, 1);
            continue;
        }
        seen = last_run(p, s.thread);
        take_all(p, s.thread);
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
    QN_CHECK(posix_memalign((void **)&p->ranges, 64, (size_t)n_thread * sizeof *p->ranges) == 0);
    memset(p->ranges, 0, (size_t)n_thread * sizeof *p->ranges);
    const char *pin = getenv("QUERN_PIN");
    bool is_pinned = pin && *pin ? *pin != '0' : n_thread >= 4 && n_thread == qn_cpu_n_core();
    int cpus[1024], n_cpu = qn_cpu_list(cpus, 1024);
    int n = 1;
    for (; n < n_thread; n++) {
        struct start *s = xmalloc(sizeof *s);
        *s = (struct start){p, n, is_pinned && n < n_cpu ? cpus[n] : -1};
        if (pthread_create(&p->threads[n - 1], NULL, worker, s)) {
            free(s); /* fewer threads, same answers */
            break;
        }
    }
    p->n_thread = n; /* workers read it in the first run */
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
    free(p->ranges);
    free(p);
}

int qn_pool_n_thread(const struct qn_pool *p)
{
    return p->n_thread;
}

static void run_some(struct qn_pool *p, int n_item, void (*fn)(void *, int, int), void *ctx)
{
    int n_thread = p->n_thread;
    p->run = (p->run + 1) & ((1u << (64 - 2 * ITEM_BITS)) - 1);
    atomic_store_explicit(&p->fn, fn, memory_order_relaxed);
    atomic_store_explicit(&p->ctx, ctx, memory_order_relaxed);
    atomic_store_explicit(&p->done, 0, memory_order_relaxed);
    for (int i = n_thread - 1; i >= 0; i--) {
        int first = (int)((int64_t)n_item * i / n_thread), end = (int)((int64_t)n_item * (i + 1) / n_thread);
        atomic_store_explicit(&p->ranges[i].word, range_word(p->run, first, end), memory_order_release);
    }
    atomic_fetch_add(&p->wake, 1);
    if (atomic_load(&p->n_sleeping)) futex_wake_all(&p->wake);
    take_all(p, 0);
    for (int i = 0; atomic_load_explicit(&p->done, memory_order_acquire) < n_item; i++) {
        relax();
        if (i > SPIN) sched_yield(); /* its thread was taken off the CPU */
    }
}

struct shifted {
    void (*fn)(void *, int, int);
    void *ctx;
    int first;
};

static void run_shifted(void *ctx, int item, int thread)
{
    struct shifted *s = ctx;
    s->fn(s->ctx, s->first + item, thread);
}

void qn_pool_run(struct qn_pool *p, int n_item, void (*fn)(void *ctx, int item, int thread), void *ctx)
{
    if (n_item <= 0) return;
    if (p->n_thread == 1 || n_item == 1) {
        for (int i = 0; i < n_item; i++) fn(ctx, i, 0);
    } else if (n_item <= MAX_ITEM) {
        run_some(p, n_item, fn, ctx);
    } else {
        struct shifted s = {fn, ctx, 0};
        for (; s.first < n_item; s.first += QN_MIN(MAX_ITEM, n_item - s.first))
            run_some(p, QN_MIN(MAX_ITEM, n_item - s.first), run_shifted, &s);
    }
}
