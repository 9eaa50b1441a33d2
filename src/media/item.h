/* A picture or video of a prompt, ready for the vision tower: resized pixels, grid, tokens, times.
 *
 * Made by a connection thread from bytes; immutable then, shared by reference count (the request, the cache
 * and the engine hold one each). SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_ITEM_H
#define QN_ITEM_H

#include "media/eyes.h"
#include "media/image.h"
#include "media/video.h"

struct qn_item_options {
    const struct qn_eyes *eyes;
    struct qn_eyes_want want;
    struct qn_image_options image;
    struct qn_video_limits video;
    bool measures; /* sizes, tokens and times only: px stays NULL */
};

struct qn_item {
    bool is_video;
    int w, h;         /* of the source, upright */
    int64_t n_source; /* frames of the source; 1 for a picture */
    double fps;       /* of the source; 0 for a picture */
    int n_frame;      /* taken of it */
    int64_t *index;   /* [n_frame] */
    int to_w, to_h;   /* after the resize */
    int grid[3];      /* steps, rows, columns of patches */
    int n_token;      /* rows of the language model: grid / (merge * merge) */
    double *times;    /* [grid[0]] seconds of each step of a video */
    uint8_t *px;      /* [n_frame][to_h][to_w][3] */
    uint64_t hash[4]; /* of the bytes and of all that decides what is seen */
};

/* The kind is what the bytes are when want is silent: is_video says how a picture that moves is to be read.
 */
int qn_item_image(struct qn_item **out, const uint8_t *data, size_t n, const struct qn_item_options *o,
                  struct qn_err *e);
int qn_item_video(struct qn_item **out, const uint8_t *data, size_t n, const struct qn_item_options *o,
                  struct qn_err *e);

/* Frames given as pictures: frame k is number index[k] (NULL: k) of a source of `total` frames at fps. */
struct qn_item_frame {
    const uint8_t *data;
    size_t n;
};
int qn_item_frames(struct qn_item **out, const struct qn_item_frame *frames, int n_frame,
                   const int64_t *index, double fps, const struct qn_item_options *o, struct qn_err *e);

void qn_item_free(struct qn_item *item); /* NULL is allowed */

/* Patches first .. first + n - 1 in the order of the tower (2 x 2 blocks), [n][3 * 2 * patch * patch] as
 * floats. */
void qn_item_patches(const struct qn_item *item, const struct qn_eyes *eyes, int first, int n, float *to);
/* The same as bytes. */
void qn_item_patch_bytes(const struct qn_item *item, const struct qn_eyes *eyes, int first, int n,
                         uint8_t *to);

#endif
