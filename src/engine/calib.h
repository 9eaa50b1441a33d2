/* Calibration: the activations of a text, layer by layer, for a quantiser.
 *
 * Holds the residual stream of all tokens and, at a time, one layer. A layer is run once as the checkpoint
 * has it, its linear layers' inputs being observed, and once more as the quantiser wrote it, so that later
 * layers see the inputs they will get. Runs on ref or cpu with float activations. One thread calls; the back
 * end has its own. SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_CALIB_H
#define QN_CALIB_H

#include "backend/backend.h"
#include "model/quantize.h"

struct qn_calib;

struct qn_calib_options {
    const struct qn_model *model;
    const struct qn_backend *backend;
    int n_thread; /* 0: one per physical core */
    const int32_t *ids;
    int n_id;
    int context; /* tokens of a sequence */
    bool has_moments;
};

int qn_calib_open(struct qn_calib **out, const struct qn_calib_options *o, struct qn_err *e);
void qn_calib_close(struct qn_calib *c);
/* What qn_quantize asks. Valid while the calibration is open. */
const struct qn_activations *qn_calib_activations(struct qn_calib *c);

#endif
