/* See webp_anim.h. SPDX-License-Identifier: Apache-2.0 */
#include "media/webp_anim.h"

#include <webp/decode.h>
#include <webp/demux.h>

#include "base/mem.h"

struct qn_webp_anim {
    WebPAnimDecoder *decoder;
    WebPAnimInfo info;
    double fps;
};

bool qn_webp_anim_sniff(const uint8_t *data, size_t n)
{
    WebPBitstreamFeatures f;
    return n > 16 && !memcmp(data, "RIFF", 4) && WebPGetFeatures(data, n, &f) == VP8_STATUS_OK &&
           f.has_animation;
}

/* Frames over the sum of their times, 0 when they have none. */
static double rate(const WebPAnimDecoder *decoder)
{
    const WebPDemuxer *demux = WebPAnimDecoderGetDemuxer(decoder);
    WebPIterator it;
    int64_t n = 0, ms = 0;
    if (WebPDemuxGetFrame(demux, 1, &it)) {
        do {
            n++;
            ms += it.duration;
        } while (WebPDemuxNextFrame(&it));
        WebPDemuxReleaseIterator(&it);
    }
    return ms > 0 ? 1000.0 * (double)n / (double)ms : 0;
}

int qn_webp_anim_open(struct qn_webp_anim **out, const uint8_t *data, size_t n, int64_t max_pixels,
                      int64_t max_frames, struct qn_err *e)
{
    int rc = QN_OK;
    WebPData bytes = {data, n};
    WebPBitstreamFeatures f;
    struct qn_webp_anim *a = xcalloc(1, sizeof *a);
    QN_FAIL_IF(WebPGetFeatures(data, n, &f) != VP8_STATUS_OK, e, QN_FORMAT, "the WebP is broken");
    QN_FAIL_IF((int64_t)f.width * f.height > max_pixels, e, QN_TOOBIG,
               "the animation has frames of %d x %d pixels; at most %" PRId64 " are taken: make it smaller",
               f.width, f.height, max_pixels);
    a->decoder = WebPAnimDecoderNew(&bytes, NULL);
    QN_FAIL_IF(!a->decoder || !WebPAnimDecoderGetInfo(a->decoder, &a->info), e, QN_FORMAT,
               "the WebP animation is broken or cut off");
    QN_FAIL_IF(a->info.frame_count < 1, e, QN_FORMAT, "the animation has no frames");
    QN_FAIL_IF(a->info.frame_count > max_frames, e, QN_TOOBIG, "the animation has %u frames: shorten it",
               a->info.frame_count);
    a->fps = rate(a->decoder);
    if (!(a->fps > 0)) a->fps = 24;
    *out = a;
    a = NULL;
out:
    qn_webp_anim_close(a);
    return rc;
}

void qn_webp_anim_close(struct qn_webp_anim *a)
{
    if (!a) return;
    if (a->decoder) WebPAnimDecoderDelete(a->decoder);
    free(a);
}

void qn_webp_anim_info(const struct qn_webp_anim *a, int *w, int *h, int64_t *n_frame, double *fps)
{
    *w = (int)a->info.canvas_width;
    *h = (int)a->info.canvas_height;
    *n_frame = a->info.frame_count;
    *fps = a->fps;
}

void qn_webp_anim_rewind(struct qn_webp_anim *a)
{
    WebPAnimDecoderReset(a->decoder);
}

int qn_webp_anim_next(struct qn_webp_anim *a, struct qn_raster *out, struct qn_err *e)
{
    int rc = QN_OK, ms;
    uint8_t *canvas;
    struct qn_raster r = {0};
    QN_FAIL_IF(!WebPAnimDecoderGetNext(a->decoder, &canvas, &ms), e, QN_FORMAT,
               "a frame of the animation is broken");
    QN_TRY(qn_raster_alloc(&r, (int)a->info.canvas_width, (int)a->info.canvas_height, 4, e));
    memcpy(r.px, canvas, (size_t)r.w * (size_t)r.h * 4);
    qn_raster_flatten(&r, (const uint8_t[3]){255, 255, 255});
    *out = r;
out:
    return rc;
}
