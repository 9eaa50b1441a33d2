/* Draft depth.
 * SPDX-License-Identifier: Apache-2.0 */
#include "engine/spec.h"

void qn_spec_init(struct qn_spec *s, bool has_mtp, int mtp)
{
    *s = (struct qn_spec){.has_mtp = has_mtp, .fixed = mtp};
    s->depth = has_mtp ? (mtp < 0 ? 2 : mtp) : 0;
}

int qn_spec_depth(struct qn_spec *s, int n_seq)
{
    (void)n_seq;
    return s->depth;
}
