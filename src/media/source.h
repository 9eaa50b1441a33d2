/* From a content part of a request to an item: data URLs, addresses that are fetched, files of an allowed
 * folder.
 *
 * Nothing is fetched from private, link-local or otherwise special addresses: every hop of a redirect is
 * checked against the allowed hosts, and the address that is dialled against the list of net/address.h, so
 * that a name which changes its answer gains nothing. An IP address that stands in the allowed hosts itself
 * may be dialled. Bytes and time are bounded. Any thread. SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_SOURCE_H
#define QN_SOURCE_H

#include "media/item.h"

#define QN_SOURCE_IMAGE_BYTES ((size_t)20 << 20)
#define QN_SOURCE_VIDEO_BYTES ((size_t)256 << 20)
#define QN_SOURCE_REDIRECTS   3
#define QN_SOURCE_IMAGE_S     10
#define QN_SOURCE_VIDEO_S     60
#define QN_SOURCE_LOW_PIXELS  (512 * 512) /* detail "low": 256 tokens */

/* What a server allows. Immutable. */
struct qn_source_policy {
    const struct qn_eyes *eyes;
    const char *const *hosts; /* [n_host] the only ones that are fetched from; none: all public ones */
    int n_host;
    const char *folder;       /* file: addresses below it are read; NULL: none */
    struct qn_eyes_want want; /* --mm-processor-kwargs */
    uint8_t background[3];    /* --media-io-kwargs image.rgba_background_color */
    double video_fps;         /* --media-io-kwargs video.fps, num_frames; NaN and -1: not set */
    int64_t video_frames;
    size_t image_bytes, video_bytes; /* 0: the limits above */
};

/* What a request says beside its parts. */
struct qn_source_params {
    struct qn_eyes_want want;
    uint8_t background[3];
    /* media_io_kwargs.video of a video that is given as frames */
    double frames_fps;                    /* 1 */
    int64_t frames_most;                  /* 32; -1: all */
    const struct qn_json *frames_indices; /* array of numbers, or NULL */
};

/* mm_processor_kwargs over media_io_kwargs over the policy's. Either may be NULL. Errors: QN_INVAL, naming
 * the member. */
int qn_source_params(struct qn_source_params *out, const struct qn_source_policy *policy,
                     const struct qn_json *mm_kwargs, const struct qn_json *io_kwargs, struct qn_err *e);
/* media_io_kwargs alone, for a server's own: into policy. */
int qn_source_policy_io(struct qn_source_policy *policy, const struct qn_json *io_kwargs, struct qn_err *e);

/* A part as qn_chat_media_kind knows it: image_url, image, input_image, video_url, video, input_video. With
 * measures only sizes, tokens and times are found (addresses are fetched all the same). Errors: QN_INVAL,
 * QN_UNSUPPORTED, QN_TOOBIG, QN_FORMAT: the part's; QN_IO: it cannot be fetched. */
int qn_source_load(struct qn_item **out, const struct qn_json *part, bool is_video,
                   const struct qn_source_policy *policy, const struct qn_source_params *params,
                   bool measures, struct qn_err *e);

#endif
