/* AVIF and HEIC by libheif, which turns the picture itself: its EXIF orientation is not applied again.
 * SPDX-License-Identifier: Apache-2.0 */
#include <libheif/heif.h>

#include "media/decoder.h"

#define MAX_CODED_SIDE 16384 /* of what the stream itself says, which the header need not know */

int qn_heif_decode(struct qn_decoder *d, struct qn_err *e)
{
    int rc = QN_OK, stride = 0;
    struct heif_context *ctx = heif_context_alloc();
    struct heif_image_handle *handle = NULL;
    struct heif_image *image = NULL;
    QN_FAIL_IF(!ctx, e, QN_NOMEM, "no memory for an AVIF or HEIC");
    heif_context_set_maximum_image_size_limit(ctx, MAX_CODED_SIDE);
    struct heif_error h = heif_context_read_from_memory_without_copy(ctx, d->data, d->n, NULL);
    QN_FAIL_IF(h.code, e, QN_FORMAT, "the AVIF or HEIC is broken: %.120s", h.message);
    h = heif_context_get_primary_image_handle(ctx, &handle);
    QN_FAIL_IF(h.code, e, QN_FORMAT, "the AVIF or HEIC holds no picture: %.120s", h.message);
    int w = heif_image_handle_get_width(handle), height = heif_image_handle_get_height(handle);
    QN_TRY(qn_decoder_check(d, w, height, e));
    bool has_alpha = heif_image_handle_has_alpha_channel(handle);
    d->out = (struct qn_raster){w, height, has_alpha ? 4 : 3, NULL};
    if (d->header_only) goto out;
    h = heif_decode_image(handle, &image, heif_colorspace_RGB,
                          has_alpha ? heif_chroma_interleaved_RGBA : heif_chroma_interleaved_RGB, NULL);
    QN_FAIL_IF(h.code, e, QN_FORMAT, "the AVIF or HEIC cannot be decoded: %.120s", h.message);
    const uint8_t *px = heif_image_get_plane_readonly(image, heif_channel_interleaved, &stride);
    w = heif_image_get_width(image, heif_channel_interleaved);
    height = heif_image_get_height(image, heif_channel_interleaved);
    QN_TRY(qn_decoder_check(d, w, height, e)); /* what was decoded, not what the header said */
    QN_FAIL_IF(!px || stride < w * d->out.n_channel, e, QN_FORMAT, "the AVIF or HEIC gave no pixels");
    QN_TRY(qn_raster_alloc(&d->out, w, height, d->out.n_channel, e));
    size_t n = (size_t)w * (size_t)d->out.n_channel;
    for (int y = 0; y < height; y++) memcpy(d->out.px + (size_t)y * n, px + (size_t)y * (size_t)stride, n);
out:
    if (image) heif_image_release(image);
    if (handle) heif_image_handle_release(handle);
    if (ctx) heif_context_free(ctx);
    return rc;
}
