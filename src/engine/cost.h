/* What steps cost: measured time of the streams' part and of prefill rows, so that a long prompt beside
 * streams takes what the inter-token target leaves.
 *
 * Owned by the engine thread. The streams' part is the time of steps without prefill, by number of streams;
 * two such steps are made now and then while a long prompt is read, so that it stays true. The first may find
 * the processor's caches full of the prompt's KV: it is the second that tells, as far as it may have been
 * slowed by something else. A prefill row costs
 *
 *     row_us + far_us * (tokens before it) / 4096
 *
 * as attention reads all of them; both are corrected by each step's error, shared out by their parts in it
 * (normalised least mean squares).
 *
 * A prompt beside streams is read in one of two ways: a few rows a step through the whole model, or many rows
 * a few layers a step (slices, backend/step.h). Few rows use arithmetic that a step which waits for memory
 * has left; many share what is read for them: the KV of a long context, experts, weights. Rows alone, rows
 * beside streams and rows in slices are kept apart, the dearer way is tried again now and then, and where not
 * even one row fits into the time left, slices are all there is.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_COST_H
#define QN_COST_H

#include "base/base.h"

#define QN_COST_N_SEQ 8 /* buckets: 1 2 3-4 5-8 9-16 17-32 33-64 65- */

struct qn_cost_rows {
    double row_us, far_us;
    int n; /* steps it was learned from */
};

struct qn_cost {
    double decode_us[QN_COST_N_SEQ]; /* smoothed; 0: not measured */
    double last_decode_us;
    struct qn_cost_rows beside, alone, sliced;
    int n_other; /* steps with prefill beside streams since the dearer way was taken */
    int n_mixed; /* steps with prefill beside streams since the time without was measured */
    int n_plain; /* steps without since the last with */
};

/* What was in a step. Of a slice the parts of its rows and of their attention that were worked off. */
struct qn_cost_step {
    int n_decode;     /* sequences */
    double n_row;     /* prefill rows */
    double n_context; /* tokens before each of them, summed */
    bool has_slice;
    double took_us;
};

/* Of the time of a row, what a part of the model has: of row_us and of far_us. */
struct qn_cost_part {
    double row, far;
};
#define QN_COST_WHOLE ((struct qn_cost_part){1, 1})

/* Time for prefill in the next step, beside n_decode streams (at least one). target_us: 0: as long as that
 * gaps grow by no more than three quarters. 0: none this time, the streams' part has to be measured. */
double qn_cost_budget(const struct qn_cost *c, int n_decode, double target_us);
/* Rows from position pos on that fit into left_us beside streams, at least one; *used_us: their time. */
int qn_cost_fit(const struct qn_cost *c, double left_us, int pos, int most, double *used_us);
/* Is a prompt at pos to be read in slices now? */
bool qn_cost_slices(struct qn_cost *c, double left_us, int pos);
/* Rows of a slice whose dearest part fits into left_us, at least one, and the time of part of them. */
int qn_cost_fit_slice(const struct qn_cost *c, double left_us, int pos, int most,
                      struct qn_cost_part dearest);
double qn_cost_slice_us(const struct qn_cost *c, int pos, int n_row, struct qn_cost_part part);
void qn_cost_learn(struct qn_cost *c, const struct qn_cost_step *step);

#endif
