/* How ranks that are threads of one process come together: qn_meet (layer.h) over dist/local.h, for back ends
 * whose memory the host can read. Made before the ranks open, freed after they closed.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_MEETING_H
#define QN_MEETING_H

#include "engine/layer.h"

struct qn_meet_local;

struct qn_meet_local *qn_meet_local_create(int n);
void qn_meet_local_free(struct qn_meet_local *m);                         /* NULL is allowed */
const struct qn_meet *qn_meet_local_seats(const struct qn_meet_local *m); /* [n] */

#endif
