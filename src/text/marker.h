/* Markers: the tags of the format that tokenizers of the family know as tokens of their own. Where a grammar
 * wants one it wants that token, not its characters in ordinary pieces: rendered again, the text is the
 * token, and a cache would miss from there on. Any thread. SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_MARKER_H
#define QN_MARKER_H

#include "base/base.h"

enum qn_marker {
    QN_MARKER_CALL_OPEN,
    QN_MARKER_CALL_CLOSE,
    QN_MARKER_THINK_OPEN,
    QN_MARKER_THINK_CLOSE,
    QN_MARKER_RESPONSE_OPEN,
    QN_MARKER_RESPONSE_CLOSE,
    QN_N_MARKER
};

const char *qn_marker_text(enum qn_marker marker);
/* The marker that the text begins with, or -1. */
int qn_marker_at(const char *s, size_t n);
/* The marker that the text is, or -1. */
int qn_marker_of(const char *s, size_t n);

#endif
