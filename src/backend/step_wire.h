/* Steps and their results as flat messages, for ranks of other processes.
 *
 * A message is a run of 4-byte words in the machine's order: a head (magic, length, counts), then the arrays
 * one after the other. It holds no padding and no pointer, and the same step makes the same bytes. Reading
 * checks everything: a step that was accepted names only rows, pages, slots, tokens that there are, so a
 * device can run it as if its own engine had made it. Messages between machines of different byte order are
 * refused.
 *
 * Any thread; nothing is kept between calls but what the reader's struct owns.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_STEP_WIRE_H
#define QN_STEP_WIRE_H

#include "backend/step.h"
#include "base/err.h"

/* What a step may name. */
struct qn_step_limits {
    int max_rows, max_logits, max_seqs, max_context;
    int n_page, n_slot, n_lane;
    int n_part; /* layers, and the norm: what slices count in */
    int vocab, hidden;
};

/* hidden: width of the rows of step.embed. The step is one of an engine, not a pass (at_pass 0). */
size_t qn_step_bytes(const struct qn_step *s, int hidden);
void qn_step_put(const struct qn_step *s, int hidden, void *to); /* [qn_step_bytes] */

/* A step that was read. Zeroed before the first use. */
struct qn_step_in {
    struct qn_step step; /* its arrays are in the message, but for seq */
    struct qn_step_seq *seq;
    int seq_capacity;
};

/* bytes: aligned to 4, unchanged as long as the step is used. QN_FORMAT says what is wrong; the step is not
 * to be used then. */
int qn_step_get(struct qn_step_in *in, const void *bytes, size_t n_byte, const struct qn_step_limits *limits,
                struct qn_err *e);
void qn_step_in_fini(struct qn_step_in *in);

/* Of the result of step s: picks of sequences with wants_token, verdict, drafts, and what the step asked for
 * of scores and raw logits. */
size_t qn_result_bytes(const struct qn_step *s, const struct qn_step_result *r, int vocab);
void qn_result_put(const struct qn_step *s, const struct qn_step_result *r, int vocab, void *to);
/* Into the arrays of r, which are those for step s. */
int qn_result_get(const struct qn_step *s, struct qn_step_result *r, int vocab, const void *bytes,
                  size_t n_byte, struct qn_err *e);

#endif
