/* Slices of linear layers: the part of a layer that one of several ranks holds.
 *
 * A slice is a linear layer of its own, in the format of the whole, with codes, scales and zero points cut
 * out as they are: dequantised (qn_linear_rows) it has the bits of the whole's part. Outputs (rows of W) are
 * cut for layers whose results stay on the rank, inputs (columns) for those whose results are summed over the
 * ranks. Where a cut falls into a group of inputs that share a scale, the group is split and its scale
 * repeated. Plain rows are borrowed from the file, anything else is copied into memory of the slice.
 * Any thread. SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_SLICE_H
#define QN_SLICE_H

#include "model/format.h"

#define QN_SLICE_RANGES 4

struct qn_range {
    int first, n;
};

struct qn_cut {
    struct qn_range out[QN_SLICE_RANGES]; /* of outputs, one behind the other in the slice */
    int n_range;                          /* 0: all outputs */
    struct qn_range in;                   /* of inputs; n 0: all */
};

struct qn_slice {
    struct qn_linear linear; /* views into the file or into `memory` */
    void *memory;
};

/* Errors: QN_UNSUPPORTED (the format cannot be cut there; names layer, place and the multiple that would do),
 * QN_NOMEM. */
int qn_slice_make(struct qn_slice *out, const struct qn_linear *whole, const struct qn_cut *cut,
                  struct qn_err *e);
void qn_slice_free(struct qn_slice *s);

/* The multiples that cuts of outputs and inputs have to keep for a format: 1 where any place will do. */
int qn_slice_step_out(const struct qn_linear *whole);
int qn_slice_step_in(const struct qn_linear *whole);

#endif
