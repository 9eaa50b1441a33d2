/* Loading: checkpoint views -> the device's weights.
 * Runs on the thread that owns the device, before any step. SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_LOAD_H
#define QN_LOAD_H

#include "backend/backend.h"
#include "model/shard.h"

struct qn_load {
    const struct qn_model *model;
    const struct qn_backend *backend;
    struct qn_device *device;
    bool with_mtp;
    void (*progress)(void *user, size_t done_bytes, size_t total_bytes); /* or NULL */
    void *user;
    const struct qn_source *source; /* where the parts come from; NULL: the model's files */
    const struct qn_shard *shard;   /* the rank's part of the model's files; NULL: all of them */
};

/* Pages of the file are read ahead of the layer being repacked and given back after it, so the peak stays
 * near the size of the result. Layers and vectors belong to the device. */
int qn_load_weights(struct qn_weights **out, const struct qn_load *l, struct qn_err *e);
/* One layer alone, as layers[0]; nothing else is set. */
int qn_load_layer(struct qn_weights **out, const struct qn_load *l, int layer, struct qn_err *e);
void qn_load_free(struct qn_weights *w);

#endif
