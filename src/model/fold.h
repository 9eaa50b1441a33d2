/* Activation-aware scaling of a layer's input columns: the columns that carry large inputs are stored larger,
 * and what makes the inputs is stored smaller to match, so the product stays the same and the rounding errors
 * that matter shrink. Pure arithmetic; the caller folds the scales into the norm or the layer before.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_FOLD_H
#define QN_FOLD_H

#include "model/stats.h"

#define QN_FOLD_ROWS   768 /* most rows of weights, and of inputs, a search looks at */
#define QN_FOLD_INPUTS 256

struct qn_fold {
    const struct qn_store *store;
    int group, n_in;
    const struct qn_stats *stats; /* with a sample */
    const float *w;               /* [n_row, K] rows of all the layers that read these inputs */
    int n_row;
    const int32_t *share; /* [K] columns with the same number must have the same scale; NULL: none */
    int n_share;
};

/* Searches powers of the inputs' size for the least squared error of the outputs over the sample. scale [K]
 * multiplies the weights' columns. Returns the error with the scales over that without; 1 (and scales of 1)
 * when none helps. */
double qn_fold_search(const struct qn_fold *f, struct qn_pool *pool, float *scale);

#endif
