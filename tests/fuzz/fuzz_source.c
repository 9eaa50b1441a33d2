/* Fuzz target: any JSON as the body of a chat request with media: parts are found, measured and rendered as
 * marks, or refused. Nothing is fetched: no host is allowed, no folder is. SPDX-License-Identifier:
 * Apache-2.0 */
#include <math.h>

#include "base/mem.h"
#include "media/source.h"
#include "text/chat_media.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct qn_eyes eyes;
    static bool is_ready;
    static const char *const hosts[] = {"nobody.invalid"};
    if (!is_ready) QN_CHECK(!qn_eyes_read(&eyes, "/nonexistent", NULL));
    is_ready = true;
    const struct qn_source_policy policy = {.eyes = &eyes,
                                            .hosts = hosts,
                                            .n_host = 1,
                                            .want = QN_EYES_WANT,
                                            .background = {255, 255, 255},
                                            .video_fps = NAN,
                                            .video_frames = -1};
    struct qn_arena *arena = qn_arena_create(4 << 20);
    struct qn_json *body;
    struct qn_chat_media *media;
    struct qn_source_params params;
    int n = 0;
    if (!qn_json_parse(&body, arena, (const char *)data, size, "input", NULL) &&
        !qn_chat_find_media(qn_json_get(body, "messages"), arena, &media, &n, NULL) &&
        !qn_source_params(&params, &policy, qn_json_get(body, "mm_processor_kwargs"),
                          qn_json_get(body, "media_io_kwargs"), NULL))
        for (int i = 0; i < n; i++) {
            struct qn_item *item = NULL;
            const struct qn_json *text = qn_json_get(qn_json_get(media[i].part, "image_url"), "url");
            if (qn_json_is(text, QN_JSON_STRING) && strstr(text->text, "nobody"))
                continue; /* would be looked up */
            if (qn_source_load(&item, media[i].part, media[i].is_video, &policy, &params, true, NULL))
                continue;
            QN_CHECK(item->n_token > 0);
            qn_item_free(item);
        }
    qn_arena_free(arena);
    return 0;
}
