/* What the decoders of still pictures share; one file a format, for image.c alone.
 *
 * A decoder checks the size from the header with qn_decoder_check before it allocates, and stops there when
 * only the size is wanted. It writes the picture as stored and its EXIF orientation.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_DECODER_H
#define QN_DECODER_H

#include "media/exif.h"
#include "media/raster.h"

#define QN_IMAGE_MAX_SIDE 65500 /* the most a JPEG can have */

struct qn_decoder {
    const uint8_t *data; /* [n] the file */
    size_t n;
    int64_t max_pixels;
    bool header_only;
    struct qn_raster out;
    int orientation; /* 1..8 */
};

int qn_decoder_check(const struct qn_decoder *d, int64_t w, int64_t h, struct qn_err *e);

/* On failure d->out may hold pixels, which image.c frees. */
int qn_jpeg_decode(struct qn_decoder *d, struct qn_err *e);
int qn_png_decode(struct qn_decoder *d, struct qn_err *e);
int qn_webp_decode(struct qn_decoder *d, struct qn_err *e);
int qn_gif_decode(struct qn_decoder *d, struct qn_err *e);
int qn_bmp_decode(struct qn_decoder *d, struct qn_err *e);
int qn_heif_decode(struct qn_decoder *d, struct qn_err *e);

#endif
