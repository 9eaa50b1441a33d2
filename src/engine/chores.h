/* Chores: copies of pages and state between steps, for a rank to do before its next step.
 *
 * Added by the engine thread in the order of its decisions, done by the rank in that order: so a slot or page
 * may be handed on before the copy of what was in it is made. SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_CHORES_H
#define QN_CHORES_H

#include "base/base.h"

enum qn_chore_kind {
    QN_CHORE_KV_COPY,     /* page from -> to, the first n tokens */
    QN_CHORE_KV_READ,     /* page from -> host */
    QN_CHORE_KV_WRITE,    /* host -> page to */
    QN_CHORE_STATE_COPY,  /* slot from -> to */
    QN_CHORE_STATE_FLUSH, /* fold n rows of lane `from` into slot `to` */
    QN_CHORE_STATE_READ,  /* slot from -> host */
    QN_CHORE_STATE_WRITE, /* host -> slot to */
};

struct qn_chore {
    enum qn_chore_kind kind;
    int from, to, n;
    void *host;
};

struct qn_chores {
    struct qn_chore *list;
    int n, capacity;
};

void qn_chores_add(struct qn_chores *c, struct qn_chore chore);
void qn_chores_fini(struct qn_chores *c);

#endif
