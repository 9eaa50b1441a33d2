/* Sight: the vision tower of a model, and the embeddings of what it saw lately.
 *
 * The tower's weights are loaded when something is looked at first, so text pays nothing for them. One
 * picture is looked at at a time, by the thread that asks, with a pool of its own. Embeddings are kept by
 * content (a 256-bit hash of the bytes and of all that decides what is seen) up to a budget of bytes, least
 * recently used first out; those in use by a request stay alive with it. Any thread. SPDX-License-Identifier:
 * Apache-2.0 */
#ifndef QN_SIGHT_H
#define QN_SIGHT_H

#include "backend/tower.h"
#include "engine/span.h"

struct qn_model;
struct qn_sight;

struct qn_sight_options {
    const char *backend; /* "ref": plain C; any other: as cpu */
    enum qn_act act;
    int n_thread;       /* 0: one per physical core */
    size_t cache_bytes; /* of embeddings kept */
};

struct qn_sight_stats {
    uint64_t n_encoded, n_hit, n_token, n_evicted; /* pictures looked at; found; rows made; dropped */
    double encode_s;
    size_t cached_bytes, budget_bytes, weight_bytes;
};

/* Errors: QN_NOTFOUND (the model has no tower), QN_FORMAT, QN_UNSUPPORTED. The model outlives it. */
int qn_sight_open(struct qn_sight **out, const struct qn_model *m, const struct qn_sight_options *o,
                  struct qn_err *e);
void qn_sight_close(struct qn_sight *s); /* NULL is allowed */
/* Loads the tower now. */
int qn_sight_warm(struct qn_sight *s, struct qn_err *e);

/* Embeddings of an item, one reference for the caller: from the cache, or from the tower. */
int qn_sight_look(struct qn_sight *s, const uint64_t hash[4], const struct qn_tower_input *in,
                  struct qn_embeds **out, struct qn_err *e);
void qn_sight_stats(struct qn_sight *s, struct qn_sight_stats *out);

#endif
