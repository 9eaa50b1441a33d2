/* See video.h. SPDX-License-Identifier: Apache-2.0 */
#include "media/video.h"

#include <math.h>

#include <libavcodec/avcodec.h>
#include <libavformat/avformat.h>
#include <libavutil/display.h>
#include <libavutil/imgutils.h>
#include <libavutil/pixdesc.h>
#include <libswscale/swscale.h>

#include "base/clock.h"
#include "base/mem.h"
#include "media/webp_anim.h"

#define IO_BYTES 65536
#define FORMATS  "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,gif"

struct qn_video {
    struct qn_video_info info;
    int64_t max_pixels, max_frames, max_ms, deadline_us;
    const uint8_t *data;
    size_t n, at;
    AVFormatContext *format;
    AVIOContext *io;
    AVCodecContext *codec;
    struct SwsContext *sws;
    AVPacket *packet;
    AVFrame *frame;
    int stream;
    int turn; /* EXIF orientation that makes frames upright */
    struct qn_webp_anim *webp;
};

static int on_read(void *user, uint8_t *to, int n)
{
    struct qn_video *v = user;
    size_t m = QN_MIN((size_t)n, v->n - v->at);
    if (!m) return AVERROR_EOF;
    memcpy(to, v->data + v->at, m);
    v->at += m;
    return (int)m;
}

static int64_t on_seek(void *user, int64_t at, int whence)
{
    struct qn_video *v = user;
    whence &= ~AVSEEK_FORCE;
    if (whence == AVSEEK_SIZE) return (int64_t)v->n;
    if (whence == SEEK_CUR) at += (int64_t)v->at;
    if (whence == SEEK_END) at += (int64_t)v->n;
    if (at < 0 || at > (int64_t)v->n) return AVERROR(EINVAL);
    v->at = (size_t)at;
    return at;
}

static int is_late(void *user)
{
    const struct qn_video *v = user;
    return qn_now_us() > v->deadline_us;
}

bool qn_video_sniff(const uint8_t *data, size_t n)
{
    if (qn_webp_anim_sniff(data, n)) return true;
    if (n < 12) return false;
    if (!memcmp(data, "GIF8", 4) || !memcmp(data, "\x1a\x45\xdf\xa3", 4)) return true;
    if (!memcmp(data, "RIFF", 4) && !memcmp(data + 8, "AVI ", 4)) return true;
    if (data[0] == 0x47 && (n < 189 || data[188] == 0x47)) return true;
    static const char *const boxes[] = {"ftyp", "moov", "mdat", "free", "skip", "wide", "pnot"};
    for (size_t i = 0; i < QN_COUNT(boxes); i++)
        if (!memcmp(data + 4, boxes[i], 4)) return true;
    return false;
}

static const char *av_text(int code, char *to, size_t n)
{
    if (av_strerror(code, to, n)) snprintf(to, n, "error %d", code);
    return to;
}

/* The first error of FFmpeg's becomes one of ours; a passed deadline goes before. */
static int av_failed(const struct qn_video *v, int code, const char *what, struct qn_err *e)
{
    char text[96];
    if (qn_now_us() > v->deadline_us)
        return qn_err_set(e, QN_TIMEOUT, __FILE__, __LINE__, "the video took longer than %" PRId64 " ms",
                          v->max_ms);
    if (code == AVERROR(ENOMEM)) return qn_err_set(e, QN_NOMEM, __FILE__, __LINE__, "no memory for a video");
    return qn_err_set(e, QN_FORMAT, __FILE__, __LINE__, "the video %s: %s", what,
                      av_text(code, text, sizeof text));
}

static int open_format(struct qn_video *v, struct qn_err *e)
{
    int rc = QN_OK, code;
    AVDictionary *options = NULL;
    unsigned char *buffer = NULL;
    v->format = avformat_alloc_context();
    buffer = av_malloc(IO_BYTES);
    QN_FAIL_IF(!v->format || !buffer, e, QN_NOMEM, "no memory for a video");
    v->io = avio_alloc_context(buffer, IO_BYTES, 0, v, on_read, NULL, on_seek);
    QN_FAIL_IF(!v->io, e, QN_NOMEM, "no memory for a video");
    buffer = NULL;
    v->format->pb = v->io;
    v->format->flags |= AVFMT_FLAG_CUSTOM_IO;
    v->format->interrupt_callback = (AVIOInterruptCB){is_late, v};
    v->format->probesize = 5 << 20;
    v->format->max_analyze_duration = 5 * AV_TIME_BASE;
    v->format->max_streams = 64;
    av_dict_set(&options, "format_whitelist", FORMATS, 0);
    av_dict_set(&options, "protocol_whitelist", "", 0);
    code = avformat_open_input(&v->format, NULL, NULL, &options); /* frees the context when it fails */
    QN_FAIL_IF(
        code == AVERROR_INVALIDDATA || code == AVERROR_DEMUXER_NOT_FOUND, e, QN_UNSUPPORTED,
        "the video is broken or of a format that is not read: MP4, MOV, WebM, MKV, TS, AVI, GIF and animated "
        "WebP are");
    if (code < 0) rc = av_failed(v, code, "cannot be opened", e);
    if (code < 0) goto out;
    code = avformat_find_stream_info(v->format, NULL);
    if (code < 0) rc = av_failed(v, code, "says nothing about its streams", e);
out:
    av_free(buffer);
    av_dict_free(&options);
    return rc;
}

static int turn_of(const AVStream *st)
{
    size_t n = 0;
    const uint8_t *m = av_stream_get_side_data(st, AV_PKT_DATA_DISPLAYMATRIX, &n);
    if (!m || n < 9 * sizeof(int32_t)) return 1;
    int32_t matrix[9];
    memcpy(matrix, m, sizeof matrix);
    double degrees = av_display_rotation_get(matrix); /* counter-clockwise */
    if (isnan(degrees)) return 1;
    static const int turns[] = {1, 8, 3, 6};
    return turns[((int)rint(degrees / 90) % 4 + 4) % 4];
}

static int check_size(const struct qn_video *v, int w, int h, struct qn_err *e)
{
    int rc = QN_OK;
    QN_FAIL_IF(w <= 0 || h <= 0, e, QN_FORMAT, "the video has frames of %d x %d pixels", w, h);
    QN_FAIL_IF((int64_t)w * h > v->max_pixels, e, QN_TOOBIG,
               "the video has frames of %d x %d pixels; at most %" PRId64 " are taken: make it smaller", w, h,
               v->max_pixels);
out:
    return rc;
}

static int open_codec(struct qn_video *v, struct qn_err *e)
{
    int rc = QN_OK;
    const AVCodec *codec = NULL;
    v->stream = av_find_best_stream(v->format, AVMEDIA_TYPE_VIDEO, -1, -1, &codec, 0);
    QN_FAIL_IF(v->stream == AVERROR_DECODER_NOT_FOUND, e, QN_UNSUPPORTED,
               "the video's codec is not known here");
    QN_FAIL_IF(v->stream < 0, e, QN_FORMAT, "the file holds no video");
    AVStream *st = v->format->streams[v->stream];
    for (unsigned i = 0; i < v->format->nb_streams; i++)
        if ((int)i != v->stream) v->format->streams[i]->discard = AVDISCARD_ALL;
    QN_TRY(check_size(v, st->codecpar->width, st->codecpar->height, e));
    v->codec = avcodec_alloc_context3(codec);
    v->packet = av_packet_alloc();
    v->frame = av_frame_alloc();
    QN_FAIL_IF(!v->codec || !v->packet || !v->frame, e, QN_NOMEM, "no memory for a video");
    int code = avcodec_parameters_to_context(v->codec, st->codecpar);
    v->codec->max_pixels = v->max_pixels;
    v->codec->thread_count = 2;
    if (code >= 0) code = avcodec_open2(v->codec, codec, NULL);
    if (code < 0) rc = av_failed(v, code, "cannot be decoded", e);
    if (rc) goto out;
    v->turn = turn_of(st);
    struct qn_raster size = {st->codecpar->width, st->codecpar->height, 3, NULL};
    QN_TRY(qn_raster_orient(&size, v->turn, e));
    v->info.w = size.w;
    v->info.h = size.h;
out:
    return rc;
}

/* Counts the packets that become frames and the time that they cover. */
static int scan(struct qn_video *v, struct qn_err *e)
{
    int rc = QN_OK, code;
    AVStream *st = v->format->streams[v->stream];
    int64_t n = 0, begin = INT64_MAX, end = INT64_MIN;
    while ((code = av_read_frame(v->format, v->packet)) >= 0) {
        bool counts = v->packet->stream_index == v->stream && !(v->packet->flags & AV_PKT_FLAG_DISCARD);
        int64_t at = v->packet->pts != AV_NOPTS_VALUE ? v->packet->pts : v->packet->dts;
        if (counts) n++;
        if (counts && at != AV_NOPTS_VALUE && at > -(INT64_MAX / 4) && at < INT64_MAX / 4) {
            begin = QN_MIN(begin, at);
            end = QN_MAX(end, at + QN_CLAMP(v->packet->duration, 0, INT64_MAX / 4));
        }
        av_packet_unref(v->packet);
        QN_FAIL_IF(n > v->max_frames, e, QN_TOOBIG, "the video has more than %" PRId64 " frames: shorten it",
                   v->max_frames);
        QN_FAIL_IF(is_late(v), e, QN_TIMEOUT, "the video took longer than %" PRId64 " ms", v->max_ms);
    }
    QN_FAIL_IF(is_late(v), e, QN_TIMEOUT, "the video took longer than %" PRId64 " ms", v->max_ms);
    QN_FAIL_IF(n < 1, e, QN_FORMAT, "the video has no frames");
    v->info.n_frame = n;
    v->info.fps = 0;
    if (end > begin) v->info.fps = (double)n / ((double)(end - begin) * av_q2d(st->time_base));
    if (!(v->info.fps > 0) || !isfinite(v->info.fps)) v->info.fps = av_q2d(st->avg_frame_rate);
    if (!(v->info.fps > 0) || !isfinite(v->info.fps)) v->info.fps = 24;
out:
    return rc;
}

static void close_format(struct qn_video *v)
{
    avcodec_free_context(&v->codec);
    avformat_close_input(&v->format);
    if (v->io) av_freep(&v->io->buffer);
    avio_context_free(&v->io);
    av_packet_free(&v->packet);
    av_frame_free(&v->frame);
    v->at = 0;
}

/* From the beginning: opened again, which every format can do, where not every one can seek. */
static int start(struct qn_video *v, struct qn_err *e)
{
    int rc = QN_OK;
    v->deadline_us = qn_now_us() + v->max_ms * 1000;
    close_format(v);
    QN_TRY(open_format(v, e));
    QN_TRY(open_codec(v, e));
out:
    return rc;
}

int qn_video_open(struct qn_video **out, const uint8_t *data, size_t n, const struct qn_video_limits *limits,
                  struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_video *v = xcalloc(1, sizeof *v);
    struct qn_video_limits dflt = {0};
    if (!limits) limits = &dflt;
    av_log_set_level(AV_LOG_QUIET);
    v->data = data;
    v->n = n;
    v->max_pixels = limits->max_pixels > 0 ? limits->max_pixels : QN_VIDEO_MAX_PIXELS;
    v->max_frames = limits->max_frames > 0 ? limits->max_frames : QN_VIDEO_MAX_FRAMES;
    v->max_ms = limits->max_ms > 0 ? limits->max_ms : QN_VIDEO_MAX_MS;
    QN_FAIL_IF(
        !qn_video_sniff(data, n), e, QN_UNSUPPORTED,
        "the video is of a format that is not read: MP4, MOV, WebM, MKV, TS, AVI, GIF and animated WebP are");
    if (qn_webp_anim_sniff(data, n)) {
        QN_TRY(qn_webp_anim_open(&v->webp, data, n, v->max_pixels, v->max_frames, e));
        qn_webp_anim_info(v->webp, &v->info.w, &v->info.h, &v->info.n_frame, &v->info.fps);
    } else {
        QN_TRY(start(v, e));
        QN_TRY(scan(v, e));
    }
    *out = v;
    v = NULL;
out:
    qn_video_close(v);
    return rc;
}

void qn_video_close(struct qn_video *v)
{
    if (!v) return;
    close_format(v);
    sws_freeContext(v->sws);
    qn_webp_anim_close(v->webp);
    free(v);
}

const struct qn_video_info *qn_video_info(const struct qn_video *v)
{
    return &v->info;
}

static bool is_full_range(const AVFrame *f)
{
    return f->color_range == AVCOL_RANGE_JPEG || f->format == AV_PIX_FMT_YUVJ420P ||
           f->format == AV_PIX_FMT_YUVJ422P || f->format == AV_PIX_FMT_YUVJ444P ||
           f->format == AV_PIX_FMT_YUVJ440P || f->format == AV_PIX_FMT_YUVJ411P;
}

/* A decoded frame as RGB of w x h, the stream's size before it is turned. */
static int convert(struct qn_video *v, int w, int h, struct qn_raster *to, struct qn_err *e)
{
    int rc = QN_OK;
    const AVFrame *f = v->frame;
    uint8_t *px[4] = {0};
    int stride[4] = {0};
    QN_TRY(check_size(v, f->width, f->height, e));
    v->sws = sws_getCachedContext(v->sws, f->width, f->height, f->format, w, h, AV_PIX_FMT_RGB24, SWS_BICUBIC,
                                  NULL, NULL, NULL);
    QN_FAIL_IF(!v->sws, e, QN_UNSUPPORTED, "the video's pixel format %s cannot be converted",
               av_get_pix_fmt_name(f->format) ? av_get_pix_fmt_name(f->format) : "?");
    int space = f->colorspace == AVCOL_SPC_UNSPECIFIED ? SWS_CS_DEFAULT : (int)f->colorspace;
    sws_setColorspaceDetails(v->sws, sws_getCoefficients(space), is_full_range(f),
                             sws_getCoefficients(SWS_CS_DEFAULT), 1, 0, 1 << 16, 1 << 16);
    QN_FAIL_IF(av_image_alloc(px, stride, w + 32, h + 1, AV_PIX_FMT_RGB24, 64) < 0, e, QN_NOMEM,
               "no memory for a frame"); /* rows are written in wide pieces, beyond their end */
    int n = sws_scale(v->sws, (const uint8_t *const *)f->data, f->linesize, 0, f->height, px, stride);
    QN_FAIL_IF(n <= 0, e, QN_FORMAT, "a frame of the video cannot be converted");
    QN_TRY(qn_raster_alloc(to, w, h, 3, e));
    for (int y = 0; y < h; y++)
        memcpy(to->px + (size_t)y * (size_t)w * 3, px[0] + (size_t)y * (size_t)stride[0], (size_t)w * 3);
out:
    av_freep(&px[0]);
    return rc;
}

struct pick {
    const int64_t *index;
    int64_t n, k;  /* k: next of the list */
    int64_t frame; /* number of the frame that comes next */
    int w, h;
    int (*on_frame)(void *, int64_t, struct qn_raster *, struct qn_err *);
    void *user;
};

static int give(struct pick *p, struct qn_raster *r, struct qn_err *e)
{
    int rc = QN_OK;
    while (p->k < p->n && p->index[p->k] == p->frame) {
        bool again = p->k + 1 < p->n && p->index[p->k + 1] == p->frame;
        struct qn_raster one = *r;
        if (again) {
            QN_TRY(qn_raster_alloc(&one, r->w, r->h, 3, e));
            memcpy(one.px, r->px, (size_t)r->w * (size_t)r->h * 3);
        } else {
            r->px = NULL;
        }
        rc = p->on_frame(p->user, p->k++, &one, e);
        qn_raster_free(&one);
        if (rc) goto out;
    }
out:
    return rc;
}

static int take_frames(struct qn_video *v, struct pick *p, struct qn_err *e)
{
    int rc = QN_OK, code;
    struct qn_raster r = {0};
    while (p->k < p->n && (code = avcodec_receive_frame(v->codec, v->frame)) >= 0) {
        if (!p->w) {
            p->w = v->frame->width;
            p->h = v->frame->height;
        }
        if (p->index[p->k] == p->frame) {
            QN_TRY(convert(v, p->w, p->h, &r, e));
            QN_TRY(qn_raster_orient(&r, v->turn, e));
            QN_TRY(give(p, &r, e));
        }
        p->frame++;
        av_frame_unref(v->frame);
        QN_FAIL_IF(is_late(v), e, QN_TIMEOUT, "the video took longer than %" PRId64 " ms", v->max_ms);
    }
out:
    qn_raster_free(&r);
    return rc;
}

static int webp_frames(struct qn_video *v, struct pick *p, struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_raster r = {0};
    qn_webp_anim_rewind(v->webp);
    v->deadline_us = qn_now_us() + v->max_ms * 1000;
    for (; p->k < p->n && p->frame < v->info.n_frame; p->frame++) {
        QN_TRY(qn_webp_anim_next(v->webp, &r, e));
        QN_TRY(give(p, &r, e));
        qn_raster_free(&r);
        QN_FAIL_IF(is_late(v), e, QN_TIMEOUT, "the video took longer than %" PRId64 " ms", v->max_ms);
    }
out:
    qn_raster_free(&r);
    return rc;
}

int qn_video_frames(struct qn_video *v, const int64_t *index, int64_t n,
                    int (*on_frame)(void *user, int64_t k, struct qn_raster *frame, struct qn_err *e),
                    void *user, int64_t *n_done, struct qn_err *e)
{
    int rc = QN_OK, code;
    struct pick p = {.index = index, .n = n, .on_frame = on_frame, .user = user};
    if (v->webp) {
        QN_TRY(webp_frames(v, &p, e));
        *n_done = p.k;
        return QN_OK;
    }
    QN_TRY(start(v, e));
    while (p.k < n && (code = av_read_frame(v->format, v->packet)) >= 0) {
        if (v->packet->stream_index == v->stream)
            avcodec_send_packet(v->codec, v->packet); /* broken ones are skipped */
        av_packet_unref(v->packet);
        QN_TRY(take_frames(v, &p, e));
        QN_FAIL_IF(is_late(v), e, QN_TIMEOUT, "the video took longer than %" PRId64 " ms", v->max_ms);
    }
    if (p.k < n) {
        avcodec_send_packet(v->codec, NULL);
        QN_TRY(take_frames(v, &p, e));
    }
    QN_FAIL_IF(is_late(v), e, QN_TIMEOUT, "the video took longer than %" PRId64 " ms", v->max_ms);
    QN_FAIL_IF(!p.k, e, QN_FORMAT, "no frame of the video can be decoded");
    *n_done = p.k;
out:
    return rc;
}
