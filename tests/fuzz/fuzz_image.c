/* Fuzz target: any bytes as a still picture. What the header says is what is decoded or an error, and the
 * whole way to patches holds. SPDX-License-Identifier: Apache-2.0 */
#include "base/mem.h"
#include "media/item.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct qn_eyes eyes;
    static bool is_ready;
    if (!is_ready) QN_CHECK(!qn_eyes_read(&eyes, "/nonexistent", NULL));
    is_ready = true;
    eyes.image.max_pixels = 65536;
    const struct qn_image_options image = {.max_pixels = 1 << 18, .background = {255, 255, 255}};
    struct qn_raster r = {0};
    if (qn_image_measure(&r, data, size, &image, NULL)) return 0;
    QN_CHECK(!r.px && r.w > 0 && r.h > 0 && (int64_t)r.w * r.h <= 1 << 18);
    struct qn_item_options o = {.eyes = &eyes, .want = QN_EYES_WANT, .image = image};
    struct qn_item *item;
    if (qn_item_image(&item, data, size, &o, NULL)) return 0;
    int n = item->grid[1] * item->grid[2];
    uint8_t *patches = xmalloc((size_t)n * 1536);
    qn_item_patch_bytes(item, &eyes, 0, n, patches);
    free(patches);
    qn_item_free(item);
    return 0;
}
