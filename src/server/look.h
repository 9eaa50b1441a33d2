/* The pictures and videos of one request: from its parts to spans of its prompt.
 *
 *     QN_TRY(qn_look_read(&look, &chat, &rules, mm, io, false, e));   parts -> items; chat.media is set
 *     QN_TRY(qn_chat_render(&prompt, text, &chat, &opt, e));
 *     QN_TRY(qn_look_spans(&look, &prompt, sight, e));              items -> embeddings -> look.spans
 *
 * Belongs to the connection thread; qn_look_free gives everything back. SPDX-License-Identifier: Apache-2.0
 */
#ifndef QN_LOOK_H
#define QN_LOOK_H

#include "engine/sight.h"
#include "media/source.h"
#include "text/chat.h"

struct qn_look_rules {
    const struct qn_source_policy *policy;
    int max_image, max_video; /* of a request; negative: no limit */
};

struct qn_look {
    struct qn_chat_media *media; /* [n], the arena's */
    struct qn_item **items;      /* [n] */
    int n;
    struct qn_media_span *spans; /* [n_span] */
    int n_span;
    int n_tok; /* placeholders of all of them */
    const struct qn_eyes *eyes;
};

/* The two objects say how, either may be NULL. measures: sizes and tokens alone. Errors name the part. */
int qn_look_read(struct qn_look *l, struct qn_chat *chat, const struct qn_look_rules *rules,
                 const struct qn_json *mm_kwargs, const struct qn_json *io_kwargs, bool measures,
                 struct qn_err *e);
int qn_look_spans(struct qn_look *l, const struct qn_prompt *p, struct qn_sight *s, struct qn_err *e);
void qn_look_free(struct qn_look *l);

#endif
