/* The model: the layer loop over one device's operations, and the weights it runs on.
 * Owned by the rank thread that made it. Knows nothing of requests or sequences beyond the step.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_FORWARD_H
#define QN_FORWARD_H

#include "engine/layer.h"
#include "model/shard.h"

struct qn_forward;

struct qn_forward_options {
    const struct qn_backend *backend;
    int rank, n_rank;                /* which of how many; 0, 0: the only one */
    const struct qn_meet *meet;      /* of several ranks; NULL: one */
    struct qn_device_options device; /* config is filled in by open */
    bool with_mtp;                   /* load the MTP layer when the checkpoint has one */
    void (*progress)(void *user, size_t done_bytes,
                     size_t total_bytes); /* or NULL; from the calling thread */
    void *progress_user;
};

/* Opens the device and loads all weights (loader threads read ahead). Errors name tensor or limit. */
int qn_forward_open(struct qn_forward **out, const struct qn_model *model, const struct qn_forward_options *o,
                    struct qn_err *e);
void qn_forward_close(struct qn_forward *f);

/* Sizes of the device that open would make of these options. Any thread. */
void qn_forward_sizes(const struct qn_forward_options *o, struct qn_device_sizes *out);

/* Runs one step: layers, head, scores, adjust, sample, verify, MTP rows and drafts. The result's arrays are
 * the caller's, sized by the step (score and logits where the step asks for them). A device fault is reported
 * in result->fault. */
void qn_forward_run(struct qn_forward *f, const struct qn_step *step, struct qn_step_result *result);

/* Runs a step of one prefill sequence, then gives the MTP draft logits of its rows: row of position i (not 0)
 * predicts t_{i+1} from h_{i-1} and t_i. logits: host memory [n_row, V], one row less when pos0 is 0. Chunks
 * of a prompt one after the other give rows 1..n-1 of the whole. QN_UNSUPPORTED without an MTP layer. */
int qn_forward_mtp_logits(struct qn_forward *f, const struct qn_step *step, float *logits, struct qn_err *e);

struct qn_device *qn_forward_device(struct qn_forward *f);
const struct qn_backend *qn_forward_backend(const struct qn_forward *f);
bool qn_forward_has_mtp(const struct qn_forward *f);
void qn_forward_describe(const struct qn_forward *f, struct qn_device_info *out);

#endif
