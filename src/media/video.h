/* Moving pictures: bytes of a file to the RGB frames that are asked for.
 *
 * MP4, MOV, WebM, Matroska, MPEG-TS, AVI and GIF by FFmpeg's libraries, reading from memory only; animated
 * WebP by libwebp. Opening walks all packets once (no decoding), so that the number of frames is counted and
 * the rate is frames over the time they cover; edit lists are honoured. Frames come in order of presentation,
 * turned upright, with the matrix and range that the stream names (BT.601, limited where it names none). One
 * thread at a time. SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_VIDEO_H
#define QN_VIDEO_H

#include "media/raster.h"

#define QN_VIDEO_MAX_PIXELS ((int64_t)1 << 25) /* of a frame: 8K fits */
#define QN_VIDEO_MAX_FRAMES ((int64_t)1 << 19) /* of a file: 2.4 hours at 60 a second */
#define QN_VIDEO_MAX_MS     60000              /* for opening, and for decoding */

struct qn_video;

struct qn_video_limits {
    int64_t max_pixels, max_frames; /* 0: the values above */
    int64_t max_ms;                 /* of wall time; 0: the value above */
};

struct qn_video_info {
    int w, h; /* upright */
    int64_t n_frame;
    double fps; /* 24 when the file tells no rate */
};

/* Whether the bytes are a video or an animation of a known kind. */
bool qn_video_sniff(const uint8_t *data, size_t n);

/* data has to outlive the video. Errors: QN_UNSUPPORTED (format, codec), QN_FORMAT, QN_TOOBIG, QN_TIMEOUT. */
int qn_video_open(struct qn_video **out, const uint8_t *data, size_t n, const struct qn_video_limits *limits,
                  struct qn_err *e);
void qn_video_close(struct qn_video *v);
const struct qn_video_info *qn_video_info(const struct qn_video *v);

/* Decodes once and gives the frames of the rising list index [n] to on_frame, k is the place in the list. A
 * frame that is asked for more than once comes so often. *n_done: frames that came, fewer than n when the
 * file has fewer than it says. A picture's pixels are on_frame's to keep when it sets px to NULL. */
int qn_video_frames(struct qn_video *v, const int64_t *index, int64_t n,
                    int (*on_frame)(void *user, int64_t k, struct qn_raster *frame, struct qn_err *e),
                    void *user, int64_t *n_done, struct qn_err *e);

#endif
