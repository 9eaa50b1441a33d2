/* Speculation: how many drafts, and from where.
 * Owned by the engine thread. Depth changes speed only: a draft is accepted when it equals the target's pick.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_SPEC_H
#define QN_SPEC_H

#include "engine/batch.h"

struct qn_spec {
    bool has_mtp;
    int fixed; /* depth; -1: automatic */
    int depth; /* in use */
};

void qn_spec_init(struct qn_spec *s, bool has_mtp, int mtp);
/* Depth for the drafts made in a step with n_seq sampled sequences. */
int qn_spec_depth(struct qn_spec *s, int n_seq);

#endif
