/* WebP by libwebp; of an animation the first frame on its canvas. SPDX-License-Identifier: Apache-2.0 */
#include <webp/decode.h>
#include <webp/demux.h>

#include "media/decoder.h"

static void find_orientation(struct qn_decoder *d)
{
    WebPData data = {d->data, d->n};
    WebPDemuxer *demux = WebPDemux(&data);
    WebPChunkIterator chunk;
    if (demux && WebPDemuxGetChunk(demux, "EXIF", 1, &chunk)) {
        d->orientation = qn_exif_orientation(chunk.chunk.bytes, chunk.chunk.size);
        WebPDemuxReleaseChunkIterator(&chunk);
    }
    WebPDemuxDelete(demux);
}

/* The size of the canvas: for an animation that of the file, not of its first frame. */
static int measure(struct qn_decoder *d, const WebPBitstreamFeatures *f, struct qn_err *e)
{
    int rc = QN_OK;
    QN_TRY(qn_decoder_check(d, f->width, f->height, e));
    d->out = (struct qn_raster){f->width, f->height, f->has_alpha ? 4 : 3, NULL};
out:
    return rc;
}

static int first_frame(struct qn_decoder *d, struct qn_err *e)
{
    int rc = QN_OK, ms;
    WebPData data = {d->data, d->n};
    WebPAnimDecoderOptions options;
    WebPAnimDecoder *anim = NULL;
    uint8_t *canvas;
    WebPAnimDecoderOptionsInit(&options);
    options.color_mode = MODE_RGBA;
    anim = WebPAnimDecoderNew(&data, &options);
    QN_FAIL_IF(!anim || !WebPAnimDecoderGetNext(anim, &canvas, &ms), e, QN_FORMAT,
               "the WebP animation is broken or cut off");
    QN_TRY(qn_raster_alloc(&d->out, d->out.w, d->out.h, 4, e));
    memcpy(d->out.px, canvas, (size_t)d->out.w * (size_t)d->out.h * 4);
out:
    if (anim) WebPAnimDecoderDelete(anim);
    return rc;
}

int qn_webp_decode(struct qn_decoder *d, struct qn_err *e)
{
    int rc = QN_OK;
    WebPBitstreamFeatures f;
    QN_FAIL_IF(WebPGetFeatures(d->data, d->n, &f) != VP8_STATUS_OK, e, QN_FORMAT, "the WebP is broken");
    QN_TRY(measure(d, &f, e));
    find_orientation(d);
    if (d->header_only) goto out;
    if (f.has_animation) {
        QN_TRY(first_frame(d, e));
        goto out;
    }
    QN_TRY(qn_raster_alloc(&d->out, f.width, f.height, f.has_alpha ? 4 : 3, e));
    int stride = f.width * d->out.n_channel;
    size_t n = (size_t)stride * (size_t)f.height;
    uint8_t *done = f.has_alpha ? WebPDecodeRGBAInto(d->data, d->n, d->out.px, n, stride)
                                : WebPDecodeRGBInto(d->data, d->n, d->out.px, n, stride);
    QN_FAIL_IF(!done, e, QN_FORMAT, "the WebP is broken or cut off");
out:
    return rc;
}
