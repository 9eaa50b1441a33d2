/* The ranks of an engine: every piece of work goes to all of them, and comes back when all are done.
 * Owned by the engine thread.
 *
 * All ranks get the same step and come to the same tokens; the result is the first one's. A rank that comes
 * to others is a fault, like one of its device: an error names the rank. A page or slot has bytes on each of
 * them; the host's copy has those of the first rank, then those of the next.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_RANKS_H
#define QN_RANKS_H

#include "engine/options.h"
#include "engine/rank.h"

struct qn_ranks_options {
    int n; /* 1 to QN_MAX_RANK */
    const struct qn_runner *runner;
    void *user;
    const struct qn_model *model;
    const struct qn_forward_options *forward; /* copied, with the number of each rank */
    const struct qn_meet *meet;               /* [n], or NULL */
    struct qn_mail *home;                     /* where shares come back to, with this kind */
    int letter_kind;
};

/* Of rank i of n. */
struct qn_forward_options qn_ranks_seat(const struct qn_forward_options *o, const struct qn_meet *meet, int i,
                                        int n);
/* Of all ranks together. Any thread. */
void qn_ranks_sizes(const struct qn_ranks_options *o, struct qn_device_sizes *out);

struct qn_ranks;

/* Starts the threads and waits until all are open; else none is. */
int qn_ranks_open(struct qn_ranks **out, const struct qn_ranks_options *o, struct qn_err *e);
void qn_ranks_close(struct qn_ranks *r); /* with no work published; NULL is allowed */
/* One at a time. */
void qn_ranks_publish(struct qn_ranks *r, struct qn_work *w);
/* A letter of a rank came home. Returns the work when it was the last one, with how it went; else NULL. */
struct qn_work *qn_ranks_collect(struct qn_ranks *r, struct qn_letter *letter);
bool qn_ranks_have_mtp(const struct qn_ranks *r);
/* Of the first one, with the bytes and threads of all. */
void qn_ranks_describe(const struct qn_ranks *r, struct qn_device_info *out);

#endif
