/* A client's stop strings in text that comes in pieces: what is certain to be visible, and which string was
 * met.
 *
 * The string that ends first wins; of those that end at the same byte the longest. What may still become a
 * stop string is held back. The answer does not depend on how the text was cut. One owner, one thread.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_STOPS_H
#define QN_STOPS_H

#include "base/buf.h"

struct qn_stops {
    char **text;    /* [n] copies */
    size_t *n_byte; /* [n] their lengths */
    int n;
    bool include;       /* the string met stays visible */
    struct qn_buf held; /* the start of a stop string, perhaps */
};

/* Copies n strings; an empty one is never met. */
void qn_stops_init(struct qn_stops *st, const char *const *stops, int n, bool include);
void qn_stops_free(struct qn_stops *st); /* a zeroed one is allowed */
/* Appends what is certain to be visible; returns the index of the string met, or -1. */
int qn_stops_feed(struct qn_stops *st, const char *text, size_t n, struct qn_buf *out);
/* The end: what was held is visible. */
void qn_stops_end(struct qn_stops *st, struct qn_buf *out);

#endif
