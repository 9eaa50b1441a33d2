/* See raster.h. SPDX-License-Identifier: Apache-2.0 */
#include "media/raster.h"

#include "base/mem.h"

int qn_raster_alloc(struct qn_raster *r, int w, int h, int n_channel, struct qn_err *e)
{
    int rc = QN_OK;
    QN_FAIL_IF(w <= 0 || h <= 0, e, QN_FORMAT, "picture of %d x %d pixels", w, h);
    uint8_t *px = try_calloc((size_t)w * (size_t)h, (size_t)n_channel);
    QN_FAIL_IF(!px, e, QN_NOMEM, "no memory for a picture of %d x %d pixels", w, h);
    *r = (struct qn_raster){w, h, n_channel, px};
out:
    return rc;
}

void qn_raster_free(struct qn_raster *r)
{
    free(r->px);
    *r = (struct qn_raster){0};
}

/* Where pixel (x, y) of the upright picture lies in the stored one of w x h. */
static inline size_t source_of(int orientation, int x, int y, int w, int h)
{
    int sx = x, sy = y;
    switch (orientation) {
    case 2:
        sx = w - 1 - x;
        break;
    case 3:
        sx = w - 1 - x, sy = h - 1 - y;
        break;
    case 4:
        sy = h - 1 - y;
        break;
    case 5:
        sx = y, sy = x;
        break;
    case 6:
        sx = y, sy = h - 1 - x;
        break;
    case 7:
        sx = w - 1 - y, sy = h - 1 - x;
        break;
    case 8:
        sx = w - 1 - y, sy = x;
        break;
    default:
        break;
    }
    return (size_t)sy * (size_t)w + (size_t)sx;
}

int qn_raster_orient(struct qn_raster *r, int orientation, struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_raster to = {0};
    if (orientation < 2 || orientation > 8) return QN_OK;
    int w = orientation >= 5 ? r->h : r->w, h = orientation >= 5 ? r->w : r->h;
    if (!r->px) {
        r->w = w;
        r->h = h;
        return QN_OK;
    }
    QN_TRY(qn_raster_alloc(&to, w, h, r->n_channel, e));
    size_t n = (size_t)r->n_channel;
    uint8_t *p = to.px;
    for (int y = 0; y < h; y++)
        for (int x = 0; x < w; x++, p += n)
            memcpy(p, r->px + source_of(orientation, x, y, r->w, r->h) * n, n);
    qn_raster_free(r);
    *r = to;
out:
    return rc;
}

void qn_raster_flatten(struct qn_raster *r, const uint8_t background[3])
{
    if (r->n_channel == 3) return;
    r->n_channel = 3;
    if (!r->px) return;
    size_t n = (size_t)r->w * (size_t)r->h;
    const uint8_t *from = r->px;
    uint8_t *to = r->px;
    for (size_t i = 0; i < n; i++, from += 4, to += 3) {
        unsigned a = from[3], rgb[3] = {from[0], from[1], from[2]};
        for (int c = 0; c < 3; c++) {
            unsigned t = background[c] * (255 - a) + rgb[c] * a + 128;
            to[c] = (uint8_t)(((t >> 8) + t) >> 8);
        }
    }
}
