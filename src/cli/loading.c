/* Signals while a model loads.
 * SPDX-License-Identifier: Apache-2.0 */
#include "cli/loading.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <unistd.h>

#include "base/mem.h"

#define INTERRUPTED 130

struct qn_loading {
    pthread_t thread;
    atomic_bool is_over;
    const char *command;
};

static void *wait_for_signal(void *arg)
{
    struct qn_loading *l = arg;
    const struct timespec tick = {0, 50000000};
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    while (!atomic_load(&l->is_over)) {
        if (sigtimedwait(&set, NULL, &tick) < 0) continue;
        if (atomic_load(&l->is_over)) { /* the server waits by now: it is told */
            kill(getpid(), SIGTERM);
            break;
        }
        fprintf(stderr, "\nquern %s: interrupted while loading\n", l->command);
        _exit(INTERRUPTED);
    }
    return NULL;
}

struct qn_loading *qn_loading_begin(const char *command)
{
    struct qn_loading *l = xcalloc(1, sizeof *l);
    l->command = command;
    if (pthread_create(&l->thread, NULL, wait_for_signal, l)) {
        free(l);
        return NULL;
    }
    return l;
}

void qn_loading_end(struct qn_loading *l)
{
    if (!l) return;
    atomic_store(&l->is_over, true);
    pthread_join(l->thread, NULL);
    free(l);
}
