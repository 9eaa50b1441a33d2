/* What quantize.c and calibrate.c share: one run of the quantiser. Not included elsewhere.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_QUANTIZE_IMPL_H
#define QN_QUANTIZE_IMPL_H

#include <pthread.h>

#include "base/buf.h"
#include "base/hash.h"
#include "base/mem.h"
#include "model/fit.h"
#include "model/quantize.h"
#include "model/roles.h"
#include "model/writer.h"

struct job {
    int tensor; /* first in the output list */
    int source; /* tensor of the model it stands in place of */
    int order;
    /* a copy */
    size_t offset, n_byte;
    /* a layer */
    const struct qn_store *store; /* NULL: a copy */
    enum qn_role role;
    int layer, expert;
    double error, power;
    uint64_t bytes_in, bytes_out;
    int n_tensor;
    bool is_done;
};

struct run {
    const struct qn_quantize *q;
    const struct qn_model *m;
    const struct qn_recipe *recipe;
    struct qn_writer *writer;
    int group;
    unsigned char *consumed; /* [n tensors of the model] */
    struct job *layers;      /* in role order, then by source */
    int n_layer, layer_capacity;
    struct job *jobs;
    int n_job, job_capacity;
    struct qn_tensor *list;
    int n_list, list_capacity;
    struct qn_module *modules;
    int n_module, module_capacity;
    struct qn_quantize_report report;
    pthread_mutex_t lock;
    int *pending;   /* [shards] jobs still to come */
    int *tensor_of; /* [n tensors of the model] place in the output list of one that is copied, or -1 */
    unsigned char *rewritten; /* [n tensors of the model] copied tensors that calibration has written */
    struct qn_map job_of;     /* of role, layer and expert: place in jobs */
    int *batch;               /* jobs of the run at hand */
    struct qn_fit fit;        /* of the layer at hand */
};

#define QN_GROW(array, n, capacity)                                                                          \
    do {                                                                                                     \
        if ((n) == (capacity)) {                                                                             \
            (capacity) = (capacity) ? (capacity)*2 : 256;                                                    \
            (array) = xreallocarray((array), (size_t)(capacity), sizeof *(array));                           \
        }                                                                                                    \
    } while (0)

/* Index of the model's tensor NAME, or -1. */
int qn_quantize_source(const struct run *r, const char *name);
/* The job that writes a layer; NULL when it is left as it was. */
const struct job *qn_quantize_find(const struct run *r, enum qn_role role, int layer, int expert);
/* Whether the job's layer is the one being fitted to activations. */
bool qn_quantize_is_fitted(const struct run *r, const struct job *j);
/* Runs the n jobs listed in r->batch. */
int qn_quantize_batch(struct run *r, int n, const char *label, struct qn_err *e);
/* A line of a finished layer's job, so that a later run can report it. */
void qn_quantize_job_line(const struct run *r, const struct job *j, struct qn_buf *b);

/* calibrate.c: writes the layers of the model, one after the other, fitted to the activations. */
int qn_quantize_calibrate(struct run *r, struct qn_err *e);

#endif
