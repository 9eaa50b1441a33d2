/* Pictures to PNG files, for people to look at. Any thread. SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_PNG_WRITE_H
#define QN_PNG_WRITE_H

#include "base/err.h"

/* px [h][w][3]. Errors: QN_IO naming the path. */
int qn_png_write(const char *path, const uint8_t *px, int w, int h, struct qn_err *e);

#endif
