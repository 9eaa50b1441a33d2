/* Markers.
 * SPDX-License-Identifier: Apache-2.0 */
#include "text/marker.h"

static const char *const texts[QN_N_MARKER] = {"<tool_call>", "</tool_call>",    "<think>",
                                               "</think>",    "<tool_response>", "</tool_response>"};

const char *qn_marker_text(enum qn_marker marker)
{
    return texts[marker];
}

int qn_marker_at(const char *s, size_t n)
{
    for (int i = 0; i < QN_N_MARKER && n; i++) {
        size_t k = strlen(texts[i]);
        if (k <= n && !memcmp(s, texts[i], k)) return i;
    }
    return -1;
}

int qn_marker_of(const char *s, size_t n)
{
    int marker = qn_marker_at(s, n);
    return marker >= 0 && strlen(texts[marker]) == n ? marker : -1;
}
