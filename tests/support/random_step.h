/* Random steps: any shape that an engine may make, for tests of what carries or runs them.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_RANDOM_STEP_H
#define QN_RANDOM_STEP_H

#include "backend/step_wire.h"

/* A step and its arrays, in one allocation. */
struct random_step {
    struct qn_step step;
    void *arrays;
};

extern const struct qn_step_limits random_limits; /* of every one of them */

void random_step_make(struct random_step *out, uint64_t seed);
void random_step_free(struct random_step *s);
/* A result of it. Arrays of the largest size. */
void random_result_init(struct qn_step_result *r);
void random_result_make(struct qn_step_result *r, const struct qn_step *s, uint64_t seed);
void random_result_fini(struct qn_step_result *r);

#endif
