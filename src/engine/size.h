/* Sizes: what an engine decides from its options and the model's configuration before anything is opened:
 * context, sequences, pages, slots, rows of a step, and what the ranks are opened with.
 * Any thread; pure but for the machine's free memory, which counts where no size was given.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_SIZE_H
#define QN_SIZE_H

#include "engine/options.h"
#include "engine/ranks.h"

struct qn_size {
    struct qn_config config;
    struct qn_forward_options forward; /* device.config points at `config` here */
    struct qn_ranks_options ranks;     /* forward points at `forward`; home is not set */
    struct qn_engine_info info;        /* all but what opening tells: isa, load_s, weights as loaded */
};

/* Errors: QN_INVAL (an option out of range), QN_NOMEM (names the nearest configuration that fits). */
int qn_size_decide(struct qn_size *out, const struct qn_engine_options *o, struct qn_err *e);
/* Of pages and slots: bytes are good for the same weights, the same back end (its roundings are part of them)
 * and the same layout. */
uint64_t qn_size_fingerprint(const struct qn_size *s, const struct qn_engine_options *o);
/* What is taken where no size was given: four fifths of the machine's free memory, nine tenths of a GPU's. */
uint64_t qn_size_free(const struct qn_backend *b);
/* After the pools could not be had, all that was taken being given back: adds to e what can be had, as
 * options. */
void qn_size_name_nearest(const struct qn_size *s, const struct qn_engine_options *o, struct qn_err *e);

#endif
