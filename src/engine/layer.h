/* One layer over a step, through the operations of a device, and the places where ranks meet.
 * Used on the rank's thread. SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_LAYER_H
#define QN_LAYER_H

#include "backend/backend.h"

/* Where the parts of several ranks are summed. With one rank there is nothing to do at any of them. */
enum qn_meeting {
    QN_MEET_EMBED, /* x [rows, H]: each rank has the rows of its part of the vocabulary */
    QN_MEET_ATTN,  /* y [rows, H] behind attn_out: partial sums */
    QN_MEET_GDN,   /* y [rows, H] behind gdn_out */
    QN_MEET_FFN,   /* y [rows, H] behind mlp or moe */
};

/* Columns [first, first + n) of rows [n_row, width], on this rank. */
struct qn_gather {
    const float *part; /* [n_row, n] */
    int first, n;
    float *whole; /* [n_row, width] */
    int n_row, width;
};

/* Both in the order of the device's operations; every rank calls the same ones. */
struct qn_meet {
    void *user;
    /* p [n_row, width] of every rank becomes the sum over all ranks, in rank order. */
    void (*sum)(void *user, struct qn_device *d, enum qn_meeting at, float *p, int n_row, int width);
    /* Every rank's rows become whole. */
    void (*gather)(void *user, struct qn_device *d, const struct qn_gather *g);
};

struct qn_layer {
    const struct qn_backend *b;
    struct qn_device *d;
    const struct qn_meet *meet; /* or NULL: one rank */
    bool is_moe;
    int hidden, vocab;
    float *x, *y; /* [rows, H] */
    float *part;  /* [max_logits, n_tok] the rank's part of logit rows; NULL: one rank */
};

/* x += y, then y becomes the output of the layer's last block, not yet added. kv_layer, gdn_layer: the
 * layer's number among those of its kind; a kv_layer of n_full is the MTP layer. */
void qn_layer_run(const struct qn_layer *f, const struct qn_step *s, const struct qn_layer_weights *w,
                  int kv_layer, int gdn_layer);

/* x = embeddings of the step's rows, y = 0. */
void qn_layer_embed(const struct qn_layer *f, const struct qn_step *s, const struct qn_weights *w);

/* Logit rows [first, first + n) of the step, whole on every rank. hidden: after the norm. */
void qn_layer_logits(const struct qn_layer *f, const struct qn_step *s, const struct qn_weights *w,
                     const float *hidden, int first, int n, float *logits);

#endif
