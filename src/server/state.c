/* What handlers ask of the server.
 * SPDX-License-Identifier: Apache-2.0 */
#include "server/state.h"

#include "base/hash.h"
#include "engine/engine.h"

struct qn_engine *qn_server_engine(struct qn_server *s)
{
    return atomic_load(&s->engine);
}

uint64_t qn_server_owner(const struct qn_server *s, const struct qn_exchange *x)
{
    return s->o.isolate_keys ? qn_mix64(x->client) | 1 : 0;
}

int qn_server_max_context(struct qn_server *s)
{
    struct qn_engine *g = atomic_load(&s->engine);
    return g ? qn_engine_info(g)->max_context : s->o.config ? s->o.config->max_context : 0;
}

const char *qn_server_unready(struct qn_server *s)
{
    if (atomic_load(&s->is_draining)) return "the server is shutting down";
    if (!atomic_load(&s->engine)) return "the model is still loading";
    return NULL;
}
