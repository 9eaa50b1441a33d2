/* The board: an engine's running numbers where other threads can read them. The engine thread writes it after
 * each step; readers get copies under a lock. SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_BOARD_H
#define QN_BOARD_H

#include <pthread.h>

#include "engine/sched.h"

struct qn_board {
    pthread_mutex_t lock;
    struct qn_engine_stats stats;
    struct qn_admission admission[QN_N_ADMISSION]; /* of the scheduler, the first n_admission of all */
    uint64_t n_admission;
};

void qn_board_init(struct qn_board *b);
void qn_board_fini(struct qn_board *b);
/* Engine thread: counters, and what scheduler, cache and tiers say now. */
void qn_board_write(struct qn_board *b, struct qn_engine_stats *counters, const struct qn_sched *s);
/* Any thread. */
void qn_board_reject(struct qn_board *b); /* a request was turned away */
void qn_board_stats(struct qn_board *b, struct qn_engine_stats *out);
int qn_board_admissions(struct qn_board *b, struct qn_admission *out); /* newest first; how many */

#endif
