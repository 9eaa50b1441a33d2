/* quern plan --machine: a model on a machine that need not be this one.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_PLAN_MACHINE_H
#define QN_PLAN_MACHINE_H

#include "backend/kv.h"
#include "model/checkpoint.h"

struct qn_plan_machine {
    const char *spec; /* model/target.h */
    int context, users, rows; /* 0: decided */
    enum qn_kv kv;
    bool has_mtp, json;
};

/* Prints the plan. QN_NOMEM when it does not fit, with the nearest machine that would do. */
int qn_plan_on_machine(const struct qn_model *m, const struct qn_plan_machine *p, struct qn_err *e);

#endif
