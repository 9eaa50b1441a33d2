/* Parts of a content that are no plain text: what of them a reader of text can be shown.
 *
 * Documents, search results, outputs of servers, references to tools, pictures: no part of a request
 * disappears. The text that is inside one is rendered; of what cannot be shown a short text says what was
 * left out. Any thread. SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_CHAT_BLOCK_H
#define QN_CHAT_BLOCK_H

#include "base/json.h"

/* A dialect whose parts have another path than messages[i].content[k] says so in this member of the part. */
#define QN_CHAT_PATH "quern_path"
#define QN_CHAT_TYPE "quern_type" /* the same for its type */

/* Pictures, sound, video and files, by the names that APIs give them: "image", "audio", "video", "file", else
 * NULL. A document with text in it is none. */
const char *qn_chat_block_medium(const struct qn_json *block);
/* A part of a known type that is neither text nor a medium nor a thought. */
bool qn_chat_block_is_known(const struct qn_json *block);
/* Appends the text that stands for the part. */
void qn_chat_block_text(struct qn_buf *out, const struct qn_json *block);

#endif
