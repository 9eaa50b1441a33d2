/* A machine that a model is meant for, as numbers: this one or another.
 * Immutable; any thread. SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_TARGET_H
#define QN_TARGET_H

#include "base/err.h"

struct qn_target {
    int cards;
    uint64_t memory;         /* bytes of a card */
    double bandwidth_gbs;    /* of a card's memory, as streaming reads reach it, 10^9 bytes a second */
    double link_gbs;         /* between two cards, each way */
    double reduce_us;        /* a sum over all cards of a few bytes */
    double launch_us;        /* a kernel in a graph */
    char card[32], link[32]; /* names, for people */
};

/* "4x96G:pcie5", "h200", "2xrtx-5090:pcie4", "8x141G:nvlink:4300": cards, memory or name of a card, then in
 * any order a link (pcie3 to pcie5, nvlink) and a bandwidth in GB/s. Or a file: a JSON object with the
 * members cards, memory ("96G"), bandwidth_gbs, link_gbs, reduce_us, launch_us, name; those left out are as
 * for a card of that memory. Errors: QN_INVAL, naming what is known; QN_IO, QN_FORMAT for a file. */
int qn_target_read(struct qn_target *out, const char *spec, struct qn_err *e);

/* A sum over all cards of n_byte from each, in microseconds; 0 with one card. */
double qn_target_reduce_us(const struct qn_target *t, double n_byte);

#endif
