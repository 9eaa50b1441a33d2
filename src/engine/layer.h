/* One layer over a step, through the operations of a device, and the places where ranks meet.
 * Used on the rank's thread. SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_LAYER_H
#define QN_LAYER_H

#include "backend/backend.h"

/* Where the parts of several ranks come together. With one rank there is nothing to do at any of them. */
enum qn_meeting {
    QN_MEET_EMBED,  /* x [rows, H]: each rank has the rows of its part of the vocabulary */
    QN_MEET_ATTN,   /* y [rows, H] behind attn_out: partial sums */
    QN_MEET_GDN,    /* y [rows, H] behind gdn_out */
    QN_MEET_FFN,    /* y [rows, H] behind mlp or moe */
    QN_MEET_LOGITS, /* logits [rows, V]: each rank has its part of a row */
};

struct qn_meet {
    void *user;
    /* Brings p [n_row, width] together over all ranks, in the order of the device's operations. */
    void (*sum)(void *user, struct qn_device *d, enum qn_meeting at, float *p, int n_row, int width);
};

struct qn_layer {
    const struct qn_backend *b;
    struct qn_device *d;
    const struct qn_meet *meet; /* or NULL: one rank */
    bool is_moe;
    int hidden;
    float *x, *y; /* [rows, H] */
};

/* x += y, then y becomes the output of the layer's last block, not yet added. kv_layer, gdn_layer: the
 * layer's number among those of its kind; a kv_layer of n_full is the MTP layer. */
void qn_layer_run(const struct qn_layer *f, const struct qn_step *s, const struct qn_layer_weights *w,
                  int kv_layer, int gdn_layer);

/* x = embeddings of the step's rows, y = 0. */
void qn_layer_embed(const struct qn_layer *f, const struct qn_step *s, const struct qn_weights *w);

void qn_layer_meet(const struct qn_layer *f, enum qn_meeting at, float *p, int n_row, int width);

#endif
