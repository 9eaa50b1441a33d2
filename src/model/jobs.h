/* Runs independent jobs on a few threads, with progress on stderr. For tools, not for serving.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_JOBS_H
#define QN_JOBS_H

#include "base/err.h"

struct qn_jobs {
    int n, n_thread;
    int (*run)(void *ctx, int job, struct qn_err *e); /* from any of the threads */
    size_t (*bytes)(void *ctx, int job);              /* output of a job, for progress */
    void *ctx;
    const char *label; /* "synth"; NULL: silent */
};

/* Jobs start in order. The first error stops the rest and is returned. */
int qn_jobs_run(const struct qn_jobs *jobs, struct qn_err *e);

#endif
