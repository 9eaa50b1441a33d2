/* A picture in memory: rows of RGB or RGBA bytes, and what turns, flattens and frees it.
 * Owned by whoever holds the struct; one thread at a time. SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_RASTER_H
#define QN_RASTER_H

#include "base/err.h"

struct qn_raster {
    int w, h;
    int n_channel; /* 3: RGB, 4: RGBA, not premultiplied */
    uint8_t *px;   /* [h][w][n_channel], malloc'ed; NULL: only the sizes are known */
};

/* QN_NOMEM when there is no room. The pixels are zero. */
int qn_raster_alloc(struct qn_raster *r, int w, int h, int n_channel, struct qn_err *e);
void qn_raster_free(struct qn_raster *r);

/* Turns by an EXIF orientation, 1..8; other values do nothing. Sizes alone are turned as well. */
int qn_raster_orient(struct qn_raster *r, int orientation, struct qn_err *e);

/* RGBA over one colour: t = bg * (255 - a) + fg * a + 128; out = ((t >> 8) + t) >> 8. RGB stays as it is. */
void qn_raster_flatten(struct qn_raster *r, const uint8_t background[3]);

#endif
