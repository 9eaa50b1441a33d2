/* What the two files of the responses dialect share: reading requests (responses_read.c), writing answers
 * (api_responses.c). Connection thread. SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_RESPONSES_H
#define QN_RESPONSES_H

#include "server/ask.h"
#include "server/stream.h"

enum item_kind { ITEM_REASONING, ITEM_MESSAGE, ITEM_CALL, ITEM_CUSTOM, ITEM_SEARCH };

/* An output item, in order of appearance. */
struct item {
    enum item_kind kind;
    char id[40];
    bool is_open, is_cut;                 /* still growing; left open by a length stop */
    int call;                             /* index of the call */
    char *name;                           /* of the call; in the arena */
    const struct qn_responses_tool *tool; /* of the call, or NULL: as the model wrote it */
    struct qn_buf text;                   /* reasoning, message text, arguments */
    size_t lp_from, lp_to;                /* log-probabilities of a message's tokens */
};

/* A tool under the name that the prompt has for it, and as the client knows it. */
struct qn_responses_tool {
    const char *full, *name_space, *name; /* name_space NULL: none */
    enum item_kind kind;                  /* ITEM_CALL, ITEM_CUSTOM, ITEM_SEARCH */
};

struct qn_responses_state {
    const struct qn_json *body;
    struct qn_json *items; /* the whole conversation's input items */
    bool wants_store;
    const char *previous;
    struct qn_responses_tool *tools; /* [n_tool] those whose calls are not written as plain function calls */
    int n_tool, cap_tool;
    int64_t max_output;

    struct item *list; /* [n_item] */
    int n_item, sequence;
};

/* The tool of that name in the prompt, or NULL. */
const struct qn_responses_tool *qn_responses_tool_of(const struct qn_responses_state *t, const char *full);

#endif
