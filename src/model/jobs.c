/* A counter, a few threads, a progress line.
 * SPDX-License-Identifier: Apache-2.0 */
#include "model/jobs.h"

#include <pthread.h>
#include <unistd.h>

#include "base/clock.h"

#define MAX_THREADS 16
#define FIRST_US    1000000 /* nothing is printed by runs shorter than this */
#define EVERY_US    1000000

struct state {
    const struct qn_jobs *jobs;
    pthread_mutex_t lock;
    int next, rc;
    struct qn_err err;
    size_t total, done;
    int64_t start_us, next_us;
    bool is_tty, printed;
};

static void progress(struct state *s, bool end)
{
    int64_t now = qn_now_us();
    if (!s->jobs->label || (end ? !s->printed : now < s->next_us)) return;
    double took = (double)(now - s->start_us) * 1e-6, rate = (double)s->done / (took + 1e-9);
    fprintf(stderr, "%s%s %3.0f %%  %.2f of %.2f GB  %.0f MB/s  %.0f s %s%s", s->is_tty ? "\r" : "",
            s->jobs->label, 100.0 * (double)s->done / (double)QN_MAX(s->total, (size_t)1),
            (double)s->done * 1e-9, (double)s->total * 1e-9, rate * 1e-6,
            end ? took : (double)(s->total - s->done) / (rate + 1e-9), end ? "in all" : "left",
            s->is_tty && !end ? "   " : "\n");
    fflush(stderr);
    s->printed = true;
    s->next_us = now + (s->is_tty ? EVERY_US : 10 * EVERY_US);
}

static void *worker(void *arg)
{
    struct state *s = arg;
    for (;;) {
        pthread_mutex_lock(&s->lock);
        int job = s->rc || s->next == s->jobs->n ? -1 : s->next++;
        pthread_mutex_unlock(&s->lock);
        if (job < 0) return NULL;
        struct qn_err e = {0};
        int rc = s->jobs->run(s->jobs->ctx, job, &e);
        size_t n = rc ? 0 : s->jobs->bytes(s->jobs->ctx, job);
        pthread_mutex_lock(&s->lock);
        if (rc && !s->rc) {
            s->rc = rc;
            s->err = e;
        }
        s->done += n;
        progress(s, false);
        pthread_mutex_unlock(&s->lock);
    }
}

int qn_jobs_run(const struct qn_jobs *jobs, struct qn_err *e)
{
    struct state s = {.jobs = jobs, .start_us = qn_now_us(), .is_tty = isatty(2)};
    pthread_t threads[MAX_THREADS];
    int n_extra = 0, n_thread = QN_CLAMP(jobs->n_thread, 1, MAX_THREADS);
    pthread_mutex_init(&s.lock, NULL);
    s.next_us = s.start_us + FIRST_US;
    for (int i = 0; i < jobs->n; i++) s.total += jobs->bytes(jobs->ctx, i);
    while (n_extra + 1 < n_thread && !pthread_create(&threads[n_extra], NULL, worker, &s)) n_extra++;
    worker(&s);
    for (int i = 0; i < n_extra; i++) pthread_join(threads[i], NULL);
    progress(&s, true);
    pthread_mutex_destroy(&s.lock);
    if (s.rc && e) *e = s.err;
    return s.rc;
}
