/* Chores.
 * SPDX-License-Identifier: Apache-2.0 */
#include "engine/chores.h"

#include "base/mem.h"

void qn_chores_add(struct qn_chores *c, struct qn_chore chore)
{
    if (c->n == c->capacity) {
        c->capacity = QN_MAX(16, c->capacity * 2);
        c->list = xreallocarray(c->list, (size_t)c->capacity, sizeof *c->list);
    }
    c->list[c->n++] = chore;
}

void qn_chores_fini(struct qn_chores *c)
{
    free(c->list);
    *c = (struct qn_chores){0};
}
