/* See chat_media.h. SPDX-License-Identifier: Apache-2.0 */
#include "text/chat_media.h"

#include "base/mem.h"

int qn_chat_media_kind(const struct qn_json *part)
{
    static const struct {
        const char *name;
        int kind;
    } types[] = {{"image_url", 1}, {"image", 1}, {"input_image", 1},
                 {"video_url", 2}, {"video", 2}, {"input_video", 2}};
    const struct qn_json *type = qn_json_get(part, "type");
    bool is_silent = qn_json_is_null(type) || (type->type == QN_JSON_STRING && !type->n);
    if (!qn_json_is(part, QN_JSON_OBJECT)) return 0;
    for (size_t i = 0; i < QN_COUNT(types); i++)
        if (is_silent ? !qn_json_is_null(qn_json_get(part, types[i].name))
                      : qn_json_is_str(type, types[i].name))
            return types[i].kind;
    return 0;
}

static bool is_system(const struct qn_json *message)
{
    const struct qn_json *role = qn_json_get(message, "role");
    return qn_json_is_str(role, "system") || qn_json_is_str(role, "developer");
}

/* One pass counts, the next one fills. */
static int walk(const struct qn_json *list, struct qn_chat_media *media, int *n, struct qn_err *e)
{
    int rc = QN_OK, found = 0;
    for (size_t i = 0; qn_json_is(list, QN_JSON_ARRAY) && i < list->n; i++) {
        const struct qn_json *content = qn_json_get(list->items[i], "content");
        for (size_t k = 0; qn_json_is(content, QN_JSON_ARRAY) && k < content->n; k++) {
            int kind = qn_chat_media_kind(content->items[k]);
            if (!kind) continue;
            QN_FAIL_IF(is_system(list->items[i]), e, QN_INVAL,
                       "messages[%zu].content[%zu]: a system message cannot hold a picture or video; put it "
                       "into a user "
                       "message",
                       i, k);
            if (media)
                media[found] = (struct qn_chat_media){
                    .part = content->items[k], .is_video = kind == 2, .message = i, .place = k};
            found++;
            QN_FAIL_IF(found > 999999, e, QN_TOOBIG, "the conversation holds too many pictures");
        }
    }
    *n = found;
out:
    return rc;
}

int qn_chat_find_media(const struct qn_json *messages, struct qn_arena *arena, struct qn_chat_media **media,
                       int *n, struct qn_err *e)
{
    int rc = QN_OK;
    *media = NULL;
    QN_TRY(walk(messages, NULL, n, e));
    if (!*n) goto out;
    *media = qn_arena_alloc(arena, (size_t)*n * sizeof **media);
    QN_FAIL_IF(!*media, e, QN_TOOBIG, "the conversation needs more memory than the request's limit allows");
    QN_TRY(walk(messages, *media, n, e));
out:
    return rc;
}

void qn_chat_media_mark(uint64_t nonce, int i, char *to)
{
    snprintf(to, QN_CHAT_MEDIA_MARK + 1, "\002%016" PRIx64 ".%06u\003", nonce, (unsigned)i % 1000000u);
}

int qn_chat_media_marked(uint64_t nonce, const char *text, size_t n)
{
    char want[QN_CHAT_MEDIA_MARK + 1], digits[7] = "";
    if (n < QN_CHAT_MEDIA_MARK || text[0] != 2) return -1;
    memcpy(digits, text + 18, 6);
    int i = (int)strtol(digits, NULL, 10);
    if (i < 0) return -1;
    qn_chat_media_mark(nonce, i, want);
    return memcmp(want, text, QN_CHAT_MEDIA_MARK) ? -1 : i;
}
