/* Activations of a calibration text, as quantising asks for them. Whoever runs the text makes one
 * (engine/calib.h); used on that thread. SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_ACTIVATIONS_H
#define QN_ACTIVATIONS_H

#include "model/checkpoint.h"
#include "model/stats.h"

struct qn_source;

/* Who runs a text through the model, layer by layer in order (engine/calib.h). */
struct qn_activations {
    void *ctx;
    int n_tok;
    /* Runs the layer as the files have it; layer L: the head. Statistics are valid until the next call. */
    int (*observe)(void *ctx, int layer, struct qn_err *e);
    /* Of the input of Q, GDN_QKV, GATE, ROUTER (all that read the same), O, GDN_OUT, DOWN, SHARED_DOWN,
     * EXPERT_DOWN, HEAD; NULL for others. */
    const struct qn_stats *(*stats)(void *ctx, enum qn_role role, int expert);
    /* Goes on to the next layer through this one as written. */
    int (*advance)(void *ctx, int layer, const struct qn_source *written, struct qn_err *e);
    /* The state after a layer, to and from a file. */
    int (*save)(void *ctx, const char *path, int layer, struct qn_err *e);
    int (*load)(void *ctx, const char *path, int *layer, struct qn_err *e);
};

#endif
