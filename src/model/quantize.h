/* Re-stores a checkpoint in another format.
 *
 * Layers the recipe names are encoded with searched scales; every other tensor is copied byte for byte,
 * vision included. Names, layouts and configuration files are those of the published releases. Memory is
 * bounded by a block of rows a thread, with activations by those and one layer. The output folder appears
 * when complete; an interrupted run is gone on with by the same call: finished shards (with activations:
 * layers) stay. SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_QUANTIZE_H
#define QN_QUANTIZE_H

#include "model/activations.h"
#include "model/plan.h"
#include "model/recipe.h"

struct qn_quantize {
    const struct qn_model *model;
    const struct qn_store *store;
    const struct qn_recipe *recipe; /* NULL: the format's default */
    const char *const *keep;        /* [n_keep] patterns of modules that stay as they are (qn_hint_matches) */
    int n_keep;
    const struct qn_activations *activations; /* NULL: weights alone decide */
    bool has_carry;                           /* with activations: rounding errors are made up for */
    bool is_act_order;                        /* with has_carry: GPTQ's groups by falling activation */
    uint64_t activations_hash;                /* of the text and all that the activations depend on */
    bool search;                              /* scales by least error; false: round to nearest */
    int64_t shard_bytes;                      /* 0: as published */
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
    int n_kept;        /* layers of the recipe that a pattern kept */
    int n_fold;        /* inputs whose scales were folded away (AWQ) */
    double fold_gain;  /* sum of their output errors over those without */
    uint64_t bytes_in, bytes_out;
};

int qn_quantize_write(const struct qn_quantize *q, const char *folder, struct qn_quantize_report *report,
                      struct qn_err *e);

#endif
