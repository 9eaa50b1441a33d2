/* The flight record: the last steps of an engine, for the report of a stuck step or a broken invariant.
 * Written by the engine thread before and after each step; dumped by whoever finds the process in trouble.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_FLIGHT_H
#define QN_FLIGHT_H

#include "engine/sched.h"

struct qn_flight;

struct qn_flight *qn_flight_create(const char *options); /* a line that tells the options; copied */
void qn_flight_free(struct qn_flight *f);
void qn_flight_begin(struct qn_flight *f, const struct qn_batch *b, const struct qn_sched *s);
void qn_flight_end(struct qn_flight *f, const struct qn_work *w);
void qn_flight_dump(const struct qn_flight *f, FILE *out);

#endif
