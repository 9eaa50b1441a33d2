/* Fuzz target: any bytes as a video, small enough in frames, pixels and time; a GIF or WebP as one too.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/mem.h"
#include "media/item.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct qn_eyes eyes;
    static bool is_ready;
    if (!is_ready) QN_CHECK(!qn_eyes_read(&eyes, "/nonexistent", NULL));
    is_ready = true;
    eyes.video.max_pixels = 4 * 65536;
    struct qn_item_options o = {.eyes = &eyes,
                                .want = QN_EYES_WANT,
                                .image = QN_IMAGE_OPTIONS,
                                .video = {.max_pixels = 1 << 16, .max_frames = 1000, .max_ms = 2000}};
    struct qn_item *item;
    if (qn_item_video(&item, data, size, &o, NULL)) return 0;
    QN_CHECK(item->n_frame >= 1 && item->grid[0] == (item->n_frame + 1) / 2);
    uint8_t *patch = xmalloc(1536);
    qn_item_patch_bytes(item, &eyes, item->grid[0] * item->grid[1] * item->grid[2] - 1, 1, patch);
    free(patch);
    qn_item_free(item);
    return 0;
}
