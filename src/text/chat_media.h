/* Pictures and videos in a conversation: where they stand, and what stands for them in the prompt.
 *
 *     QN_TRY(qn_chat_find_media(chat.messages, arena, &media, &n, e));       the parts, in the order of the
 * messages
 *     ... whoever knows how to look at them fills grid, steps and times ...
 *     chat.media = media; chat.n_media = n;
 *     QN_TRY(qn_chat_render(&prompt, text, &chat, NULL, e));   prompt.media says where their rows go
 *
 * While a template runs a part is a short text of its own that no client can know; afterwards it becomes
 *   picture   <|vision_start|> <|image_pad|> x n <|vision_end|>
 *   video     <|vision_start|> for each step: <%.1f seconds> <|vision_start|> <|video_pad|> x n
 * <|vision_end|>, <|vision_end|> (without the outer pair when has_no_wrapper is set). The text of the prompt
 * shows one pad a picture or step. Lives in the chat's arena. SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_CHAT_MEDIA_H
#define QN_CHAT_MEDIA_H

#include "base/json.h"

#define QN_CHAT_MEDIA_MARK 25 /* bytes of the text that stands for a part */

struct qn_chat_media {
    const struct qn_json *part; /* as the client sent it */
    bool is_video;
    size_t message, place;  /* messages[message].content[place], for errors */
    int n_step, rows, cols; /* steps (1: a picture) and the merged grid of one: rows x cols tokens */
    const double *times;    /* [n_step] seconds, of a video */
};

/* A run of placeholders in the prompt. */
struct qn_prompt_media {
    int item;       /* of chat.media */
    int step;       /* of the item */
    int tok;        /* place of the first in the prompt's ids */
    int rows, cols; /* as many tokens as rows * cols */
};

/* Errors: QN_INVAL for one in a system message, QN_TOOBIG. *n is 0 for a conversation of text. */
int qn_chat_find_media(const struct qn_json *messages, struct qn_arena *arena, struct qn_chat_media **media,
                       int *n, struct qn_err *e);

/* Whether a part is a picture or video: 0 neither, 1 a picture, 2 a video. */
int qn_chat_media_kind(const struct qn_json *part);

/* The mark of item i under a number that nobody can guess; to has room for QN_CHAT_MEDIA_MARK + 1. */
void qn_chat_media_mark(uint64_t nonce, int i, char *to);
/* Item of the mark at text, -1: there is none. */
int qn_chat_media_marked(uint64_t nonce, const char *text, size_t n);

#endif
