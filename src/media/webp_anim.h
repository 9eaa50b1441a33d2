/* An animated WebP, frame by frame, over white. One thread at a time. SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_WEBP_ANIM_H
#define QN_WEBP_ANIM_H

#include "media/raster.h"

struct qn_webp_anim;

bool qn_webp_anim_sniff(const uint8_t *data, size_t n);
int qn_webp_anim_open(struct qn_webp_anim **out, const uint8_t *data, size_t n, int64_t max_pixels,
                      int64_t max_frames, struct qn_err *e);
void qn_webp_anim_close(struct qn_webp_anim *a);
void qn_webp_anim_info(const struct qn_webp_anim *a, int *w, int *h, int64_t *n_frame, double *fps);
void qn_webp_anim_rewind(struct qn_webp_anim *a);
int qn_webp_anim_next(struct qn_webp_anim *a, struct qn_raster *out, struct qn_err *e);

#endif
