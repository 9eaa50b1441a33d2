/* How a picture was held: the one field of EXIF that counts here. Any thread.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_EXIF_H
#define QN_EXIF_H

#include "base/base.h"

/* Orientation of a TIFF block, with or without "Exif\0\0" before it: 1..8, 1 when it says nothing. */
int qn_exif_orientation(const uint8_t *data, size_t n);

#endif
