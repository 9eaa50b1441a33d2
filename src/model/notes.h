/* Lines for a user, gathered while a checkpoint is opened: assumptions, disagreements, what is not used.
 * Owned by whoever opens; one thread. SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_NOTES_H
#define QN_NOTES_H

#include "base/err.h"

#define QN_MAX_NOTES 64

struct qn_notes {
    char *text[QN_MAX_NOTES]; /* [n]; further ones are dropped */
    int n;
};

QN_PRINTF(2, 3) void qn_note(struct qn_notes *notes, const char *fmt, ...);
void qn_notes_free(struct qn_notes *notes);

#endif
