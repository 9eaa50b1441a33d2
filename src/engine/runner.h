/* A runner: what a rank drives. The model's forward pass on a backend (qn_runner_forward), or a scripted one
 * of the tests. All its functions but `sizes` are called on the rank's thread.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_RUNNER_H
#define QN_RUNNER_H

#include "engine/chores.h"
#include "engine/forward.h"

struct qn_runner {
    const char *name;
    void (*sizes)(void *user, const struct qn_forward_options *o, struct qn_device_sizes *out);
    int (*open)(void *user, void **out, const struct qn_model *model, const struct qn_forward_options *o,
                struct qn_err *e);
    void (*close)(void *r);
    void (*run)(void *r, const struct qn_step *step, struct qn_step_result *result);
    /* As qn_forward_mtp_logits; NULL when there is none. */
    int (*mtp_logits)(void *r, const struct qn_step *step, float *logits, struct qn_err *e);
    void (*chore)(void *r, const struct qn_chore *chore);
    int (*sync)(void *r, struct qn_err *e); /* after chores without a step */
    bool (*has_mtp)(void *r);
    void (*describe)(void *r, struct qn_device_info *out);
};

/* The forward pass over a backend; user is unused. */
extern const struct qn_runner qn_runner_forward;

#endif
