/* See decoder.h. SPDX-License-Identifier: Apache-2.0 */
#include "media/decoder.h"

int qn_decoder_check(const struct qn_decoder *d, int64_t w, int64_t h, struct qn_err *e)
{
    int rc = QN_OK;
    QN_FAIL_IF(w <= 0 || h <= 0, e, QN_FORMAT, "the picture has %" PRId64 " x %" PRId64 " pixels", w, h);
    QN_FAIL_IF(w > QN_IMAGE_MAX_SIDE || h > QN_IMAGE_MAX_SIDE || w * h > d->max_pixels, e, QN_TOOBIG,
               "the picture has %" PRId64 " x %" PRId64 " pixels; at most %d a side and %" PRId64
               " in all are taken: make it smaller",
               w, h, QN_IMAGE_MAX_SIDE, d->max_pixels);
out:
    return rc;
}
