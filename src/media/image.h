/* Still pictures: bytes of a file to upright RGB pixels.
 *
 * The format is told by the first bytes, never by a name or a declared type. JPEG, PNG, WebP, GIF (first
 * frame), BMP, AVIF and HEIC. Sizes are read and checked from the header before anything is allocated for the
 * pixels. EXIF orientation is applied, transparency is put on a background, colour profiles are ignored; what
 * becomes of palettes, CMYK and 16 bits is in docs/media.md. Any thread. SPDX-License-Identifier: Apache-2.0
 */
#ifndef QN_IMAGE_H
#define QN_IMAGE_H

#include "media/raster.h"

#define QN_IMAGE_MAX_PIXELS ((int64_t)64 << 20) /* of a picture, unless the caller says otherwise */

enum qn_image_format {
    QN_IMAGE_UNKNOWN,
    QN_IMAGE_JPEG,
    QN_IMAGE_PNG,
    QN_IMAGE_WEBP,
    QN_IMAGE_GIF,
    QN_IMAGE_BMP,
    QN_IMAGE_HEIF, /* AVIF and HEIC */
};

struct qn_image_options {
    int64_t max_pixels;    /* 0: QN_IMAGE_MAX_PIXELS */
    uint8_t background[3]; /* behind transparent pixels */
};
#define QN_IMAGE_OPTIONS ((struct qn_image_options){0, {255, 255, 255}})

enum qn_image_format qn_image_sniff(const uint8_t *data, size_t n);
const char *qn_image_format_name(enum qn_image_format f); /* "JPEG", ... */

/* Errors: QN_UNSUPPORTED (a format that is not read; named), QN_TOOBIG (too many pixels), QN_FORMAT (broken
 * or cut off), QN_NOMEM. The texts name no file: the caller puts its name in front. */
int qn_image_decode(struct qn_raster *out, const uint8_t *data, size_t n, const struct qn_image_options *o,
                    struct qn_err *e);
/* The size of the upright picture, from the header alone: out->px stays NULL. */
int qn_image_measure(struct qn_raster *out, const uint8_t *data, size_t n, const struct qn_image_options *o,
                     struct qn_err *e);

#endif
