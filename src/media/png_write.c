/* See png_write.h. SPDX-License-Identifier: Apache-2.0 */
#include "media/png_write.h"

#include <png.h>

int qn_png_write(const char *path, const uint8_t *px, int w, int h, struct qn_err *e)
{
    int rc = QN_OK;
    png_image image = {.version = PNG_IMAGE_VERSION,
                       .width = (png_uint_32)w,
                       .height = (png_uint_32)h,
                       .format = PNG_FORMAT_RGB};
    QN_FAIL_IF(!png_image_write_to_file(&image, path, 0, px, 0, NULL), e, QN_IO, "%s: %s", path,
               image.message);
out:
    png_image_free(&image);
    return rc;
}
