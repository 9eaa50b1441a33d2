/* What a checkpoint says about pictures: sizes, budgets, resize, sampling, as its preprocessor files have it.
 *
 * FOLDER/preprocessor_config.json and video_preprocessor_config.json, or processor_config.json with both as
 * sub-objects. A missing file gives the family's published values. Immutable after qn_eyes_read; any thread.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_EYES_H
#define QN_EYES_H

#include <math.h>

#include "base/json.h"
#include "media/resample.h"

/* What differs from request to request; NaN or -1 where the model's own value holds. */
struct qn_eyes_want {
    int64_t min_pixels, max_pixels; /* of a still picture, or frames x pixels of a video */
    double fps;
    int64_t num_frames;           /* 0: as fps says */
    int sample_frames;            /* do_sample_frames: 0, 1 or -1 */
    int64_t video_min, video_max; /* of a video alone: -1: as above, 0: the checkpoint's */
};
#define QN_EYES_WANT ((struct qn_eyes_want){-1, -1, NAN, -1, -1, -1, -1})

struct qn_eyes_kind {
    int64_t min_pixels, max_pixels; /* "shortest_edge", "longest_edge": areas in spite of their names */
    enum qn_resample resample;
    bool resizes;        /* do_resize */
    float value[3][256]; /* of a byte of R, G, B: rescaled and normalised */
};

struct qn_eyes {
    int patch, temporal, merge; /* 16, 2, 2 */
    struct qn_eyes_kind image, video;
    double fps;
    int64_t min_frames, max_frames, num_frames; /* num_frames 0: none */
    bool samples_frames;
    bool caps_frame_pixels; /* cap_pixels_per_frame */
    bool has_file;          /* a preprocessor file was found */
};

/* Errors: QN_FORMAT, QN_INVAL (absurd numbers), QN_UNSUPPORTED (another resize filter or processor). */
int qn_eyes_read(struct qn_eyes *out, const char *folder, struct qn_err *e);

/* Size after the resize. Errors: QN_INVAL (aspect over 200). want may be NULL; its limits are held inside the
 * model's. */
int qn_eyes_image_size(const struct qn_eyes *y, const struct qn_eyes_want *want, int w, int h, int *to_w,
                       int *to_h, struct qn_err *e);
int qn_eyes_video_size(const struct qn_eyes *y, const struct qn_eyes_want *want, int64_t n_frame, int w,
                       int h, int *to_w, int *to_h, struct qn_err *e);

/* mm_processor_kwargs: fps, num_frames, do_sample_frames, min_pixels, max_pixels, size {shortest_edge,
 * longest_edge}; the same within images_kwargs or videos_kwargs for one kind alone. Errors: QN_INVAL for an
 * unknown name or a value that is not positive, naming it. */
int qn_eyes_want_read(struct qn_eyes_want *want, const struct qn_json *kwargs, struct qn_err *e);

/* Frames to look at: indices [*n_frame], malloc'ed, of `total` frames at `fps` a second. */
int qn_eyes_sample(const struct qn_eyes *y, const struct qn_eyes_want *want, int64_t total, double fps,
                   int64_t **index, int64_t *n_frame, struct qn_err *e);
/* Seconds of each step of two frames (an odd last frame counts twice): times [(n + 1) / 2]. */
void qn_eyes_times(const int64_t *index, int64_t n_frame, double fps, double *times);

#endif
