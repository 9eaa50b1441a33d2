/* Fuzz target: any JSON as mm_processor_kwargs, and sizes, frames and times that follow from it.
 * SPDX-License-Identifier: Apache-2.0 */
#include <math.h>

#include "media/eyes.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct qn_arena *arena = qn_arena_create(1 << 20);
    struct qn_json *json;
    struct qn_eyes eyes;
    struct qn_eyes_want want = QN_EYES_WANT;
    QN_CHECK(!qn_eyes_read(&eyes, "/nonexistent", NULL));
    if (!qn_json_parse(&json, arena, (const char *)data, size, "input", NULL) &&
        !qn_eyes_want_read(&want, json, NULL)) {
        int w, h;
        int64_t *index, n;
        if (!qn_eyes_image_size(&eyes, &want, 333, 1001, &w, &h, NULL))
            QN_CHECK(w > 0 && h > 0 && w % 32 == 0);
        if (!qn_eyes_sample(&eyes, &want, 91, 29.97, &index, &n, NULL)) {
            QN_CHECK(n > 0 && index[n - 1] <= 90);
            if (!qn_eyes_video_size(&eyes, &want, n, 100, 70, &w, &h, NULL)) QN_CHECK(w > 0 && h > 0);
            free(index);
        }
    }
    qn_arena_free(arena);
    return 0;
}
