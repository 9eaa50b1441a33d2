/* What the files of a conversation share: normalising (chat_normal.c), the thinking switches
 * (chat_thinking.c) and rendering (chat.c).
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_CHAT_IMPL_H
#define QN_CHAT_IMPL_H

#include "text/chat.h"
#include "text/jinja.h"

/* Fails when the arena of the request is full. */
#define QN_NEED(p, e)                                                                                        \
    QN_FAIL_IF(!(p), e, QN_TOOBIG, "the conversation needs more memory than the request's limit allows")

/* A switch in the words that people use: 1 on, 0 off, -1 nothing said ("auto"), -2 none of those words. */
int qn_words_switch(const struct qn_json *v);
/* A name that the thinking switch has in some template or API. */
bool qn_chat_is_switch(const char *key);
/* The last user message, or the first message, that ends in /no_think or /think: 0, 1; -1 when none does. */
int qn_chat_soft_switch(const struct qn_json *messages);

/* A call of the history that a sampled text may replace. */
struct qn_chat_call {
    const char *id;
    const struct qn_json *name; /* the node the template prints */
    const struct qn_json *arguments;
};

struct qn_chat_normal {
    struct qn_arena *arena;
    struct qn_json *messages;
    struct qn_chat_call *calls; /* [n_call] those with an id, in order */
    size_t n_call, call_capacity;
    const struct qn_chat_media *media; /* [n_media] */
    int n_media, next_media;           /* the one that is met next */
    uint64_t nonce;                    /* of their marks */
    size_t n_lead;                     /* leading messages that are system messages: 0 or 1 */
};

int qn_chat_normal_messages(struct qn_chat_normal *out, const struct qn_json *messages, struct qn_err *e);
/* *out is NULL when there is no usable tool. keeps_flags: strict and defer_loading stay beside the function.
 */
int qn_chat_normal_tools(struct qn_json **out, struct qn_arena *arena, const struct qn_json *tools,
                         const char *what, bool keeps_flags, int *n_skipped, struct qn_err *e);
/* Has the conversation a user message that is not just wrapped tool results? */
bool qn_chat_has_query(const struct qn_json *messages);
/* A JSON object from the text of a call's arguments: decoded, else what can be recovered, else empty. */
struct qn_json *qn_chat_arguments(struct qn_arena *arena, const char *text, size_t n);

#endif
