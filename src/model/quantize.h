/* Re-stores a checkpoint in another format.
 *
 * Layers the recipe names are encoded with searched scales; every other tensor is copied byte for byte,
 * vision included. Names, layouts and configuration files are those of the published releases. Memory is
 * bounded by a block of rows a thread; the output folder appears when complete. SPDX-License-Identifier:
 * Apache-2.0 */
#ifndef QN_QUANTIZE_H
#define QN_QUANTIZE_H

#include "model/plan.h"
#include "model/recipe.h"

struct qn_quantize {
    const struct qn_model *model;
    const struct qn_store *store;
    const struct qn_recipe *recipe; /* NULL: the format's default */
    bool search;                    /* scales by least error; false: round to nearest */
    int64_t shard_bytes;            /* 0: as published */
    int n_thread;
    bool is_quiet;
};

/* What was done, by part of the model and format. */
struct qn_quantize_report {
    struct {
        int n_layer;
        double error, power; /* sums of squares: relative error is sqrt(error / power) */
        uint64_t bytes_in, bytes_out;
    } part[QN_N_PART][QN_N_FORMAT];
    int n_requantised; /* layers that were quantised before */
    int n_unfit;       /* layers whose shape the format cannot hold: left as they were */
    uint64_t bytes_in, bytes_out;
};

int qn_quantize_write(const struct qn_quantize *q, const char *folder, struct qn_quantize_report *report,
                      struct qn_err *e);

#endif
