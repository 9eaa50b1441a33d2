/* What calibration decides for one layer before it is written: column scales folded into what comes before
 * (AWQ), the weights of errors in the scale searches, and how rounding errors are made up for.
 *
 * Inputs of linear layers are shared: q, k and v read one, experts another. Owned by the quantiser, one layer
 * at a time. SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_FIT_H
#define QN_FIT_H

#include "model/activations.h"
#include "model/checkpoint.h"
#include "model/stats.h"

struct qn_fit_input {
    float *scale;           /* [K] the weights' columns are multiplied by it; NULL: not */
    float *importance;      /* [K] or NULL */
    struct qn_carry *carry; /* or NULL */
    double gain;            /* output error with the scale over that without */
};

struct qn_fit {
    const struct qn_model *model;
    const struct qn_activations *act;
    struct qn_pool *pool;
    int layer, group;
    bool has_folds, has_carry, by_power;
    /* how a layer is written; NULL: as it was */
    const struct qn_store *(*store)(void *ctx, enum qn_role role, int layer, int expert);
    void *ctx;

    struct qn_fit_input mixer, out, ffn, down,
        head;                     /* q k v | delta-net projections; o | out; MLP; down | shared down */
    struct qn_fit_input *experts; /* [E] down */
    float *v_scale;               /* [nkv hd] the part of out's scale that v's rows are divided by */
    float *vec[QN_N_VEC];         /* raw values to be stored instead; NULL: as they are */
};

/* After the activations of f->layer were observed (n_layer: of the head). */
int qn_fit_layer(struct qn_fit *f, struct qn_err *e);
void qn_fit_clear(struct qn_fit *f); /* what qn_fit_layer made */

/* The input of a role; NULL when nothing was fitted for it. */
const struct qn_fit_input *qn_fit_input(const struct qn_fit *f, enum qn_role role, int expert);
/* [N] rows are divided by it, or NULL. */
const float *qn_fit_out_scale(const struct qn_fit *f, enum qn_role role, int expert);
/* Scales rows [first, first + n_row) of a layer [.., n_in] in place. */
void qn_fit_rows(const struct qn_fit *f, enum qn_role role, int expert, int first, int n_row, int n_in,
                 float *w);

#endif
