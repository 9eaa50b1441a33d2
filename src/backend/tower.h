/* The vision tower: patches of a picture or video to rows of the language model.
 *
 * docs/model.md has the formulas. Rows are independent outside attention, and attention runs over one
 * temporal step at a time, so the result is a function of the item alone: not of threads or of what else is
 * seen. The arithmetic is that of a back end: "ref" keeps floats; "cpu" packs weights, rounds the inputs of
 * products to BF16 (QN_ACT_BF16) and adds in float, as its linear layers do; residual stream, norms and
 * softmax stay float.
 *
 * Owned by whoever opened it; one caller of run at a time (its own pool of threads).
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_TOWER_H
#define QN_TOWER_H

#include "backend/act.h"
#include "model/vision.h"

struct qn_tower;

struct qn_tower_options {
    bool is_ref;     /* plain C and floats; else packed */
    enum qn_act act; /* QN_ACT_INT8 counts as QN_ACT_BF16 */
    int n_thread;    /* 0: one per physical core */
};

/* Weights are copied: the files may go. Errors: QN_NOMEM, QN_UNSUPPORTED, QN_FORMAT. */
int qn_tower_open(struct qn_tower **out, const struct qn_vision *v, const struct qn_tower_options *o,
                  struct qn_err *e);
void qn_tower_close(struct qn_tower *t);
size_t qn_tower_bytes(const struct qn_tower *t); /* of weights held */
/* Most bytes of scratch that an item of this grid takes. */
size_t qn_tower_scratch(const struct qn_tower *t, const int grid[3]);

struct qn_tower_input {
    int grid[3]; /* steps, rows, columns of patches; rows and columns even */
    /* Patches [first, first + n) in blocks of 2 x 2 -> to [n][patch_in]; from any thread of the tower's */
    void (*patches)(void *user, int first, int n, float *to);
    void *user;
};

/* out [grid / 4][O]. hidden [grid][H]: rows after the last block, or NULL. Errors: QN_NOMEM. */
int qn_tower_run(struct qn_tower *t, const struct qn_tower_input *in, float *out, float *hidden,
                 struct qn_err *e);

#endif
