/* Resampling of byte pictures, to the bit as the reference's image processors do it.
 *
 * Separable cubic with a = -0.5, widened when shrinking, weights as integers, rounded to bytes between the
 * two passes. Two libraries stand behind the reference's processors, and differ in the last bits:
 *   QN_RESAMPLE_TORCH   torchvision on uint8: weights of 16 bits, rows first
 *   QN_RESAMPLE_PILLOW  Pillow 13: weights of 22 fraction bits, columns first when that shrinks more
 * Any thread. SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_RESAMPLE_H
#define QN_RESAMPLE_H

#include "media/raster.h"

enum qn_resample { QN_RESAMPLE_TORCH, QN_RESAMPLE_PILLOW };

/* from [h][w][3] -> to [to_h][to_w][3], malloc'ed. Errors: QN_NOMEM. */
int qn_resample(struct qn_raster *to, const struct qn_raster *from, int to_w, int to_h, enum qn_resample kind,
                struct qn_err *e);

#endif
