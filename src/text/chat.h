/* Conversations: a request's messages, tools and template variables -> the prompt the model sees.
 *
 *     struct qn_chat chat;
 *     qn_chat_init(&chat, arena);
 *     QN_TRY(qn_chat_read(&chat, body, e));              an OpenAI chat request, or fill the fields directly
 *     QN_TRY(qn_chat_render(&prompt, text, &chat, NULL, e));
 *
 * Dialects of other APIs fill struct qn_chat themselves, in OpenAI's message shape; what clients do
 * differently (roles, content parts, argument strings, system messages in the middle) is put right by
 * qn_chat_render, so a dialect only converts what has another name.
 *
 * Errors: QN_INVAL is the client's (400): a wrong type, an unsupported part, or the template's own
 * raise_exception. QN_TOOBIG is a cap (400). QN_UNSUPPORTED: the model has no template (400). QN_INTERNAL
 * (500): the template itself failed; the text names its line.
 *
 * Ownership: everything of a struct qn_chat lives in its arena (the request's). A prompt owns its buffers.
 * Thread: any; one at a time an object.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_CHAT_H
#define QN_CHAT_H

#include "text/chat_media.h"
#include "text/text.h"

#define QN_CHAT_MAX_MESSAGES 65536
#define QN_CHAT_MAX_TOOLS    4096
#define QN_CHAT_MAX_KWARGS   1024 /* members of chat_template_kwargs */
#define QN_CHAT_NO_BUDGET    (-1)

struct qn_chat {
    struct qn_arena *arena; /* the request's; not owned */

    /* --- what is said --- */
    struct qn_json
        *messages;         /* array of {role, content, reasoning_content, tool_calls, tool_call_id, name} */
    struct qn_json *tools; /* array of {type:"function", function:{name, description, parameters}}, or NULL */
    struct qn_json *documents; /* array, or NULL */
    const struct qn_chat_media
        *media; /* [n_media] as qn_chat_find_media gives them; none: parts are refused */
    int n_media;
    bool has_no_wrapper; /* no vision_start and vision_end around a whole video */

    /* --- how it is rendered --- */
    struct qn_json *kwargs;     /* object: chat_template_kwargs, variables of the template; or NULL */
    int enable_thinking;        /* -1 not said, 0, 1; kwargs.enable_thinking wins */
    int preserve_thinking;      /* the same, for the thoughts of earlier turns */
    const char *effort;         /* reasoning effort as the client spells it, or NULL */
    int64_t thinking_budget;    /* tokens, or QN_CHAT_NO_BUDGET */
    bool add_generation_prompt; /* default true */
    bool continue_final;        /* render the last assistant message without its end */
    const char
        *template_source; /* the request's own template, or NULL; only used when the server allows it */

    bool loads_all; /* deferred tools are in the prompt: who would find them does not run here */

    /* --- what reading found, for a log line --- */
    int n_tools_skipped; /* tools of a type that is not "function" */
};

/* Empty conversation with the defaults above. */
void qn_chat_init(struct qn_chat *c, struct qn_arena *arena);

/* Reads messages, tools (and the old functions), documents, chat_template_kwargs, enable_thinking,
 * reasoning_effort, reasoning{effort, max_tokens, enabled}, thinking_token_budget, thinking_budget,
 * reasoning_budget, preserve_thinking, thinking{type, budget_tokens},
 * add_generation_prompt, continue_final_message, chat_template of an OpenAI chat request. Members the body
 * lacks are also looked for in an `extra_body` object (several clients nest wrongly). Wrong types are
 * QN_INVAL naming the member. */
int qn_chat_read(struct qn_chat *c, const struct qn_json *body, struct qn_err *e);

/* The thinking members of that list alone, for dialects that fill the rest themselves. */
int qn_chat_read_thinking(struct qn_chat *c, const struct qn_json *body, struct qn_err *e);

/* body with the members of a literal "extra_body" object lifted to the top where they are absent. Returns
 * body itself when there is nothing to do, NULL when the arena is full. */
const struct qn_json *qn_chat_lift_extra_body(struct qn_arena *arena, const struct qn_json *body);

/* --- makers for dialects; NULL / false when the arena is full --- */
/* {"role": role, "content": text} appended to messages; content may be NULL. */
struct qn_json *qn_chat_add_message(struct qn_chat *c, const char *role, struct qn_json *content);
/* Adds a call to an assistant message: arguments is an object, or a string that holds JSON. */
bool qn_chat_add_call(struct qn_chat *c, struct qn_json *message, const char *id, const char *name,
                      struct qn_json *arguments);
/* Appends {"type":"function","function":{...}}; description and parameters may be NULL. */
bool qn_chat_add_tool(struct qn_chat *c, const char *name, struct qn_json *description,
                      struct qn_json *parameters);
/* strict and defer_loading of a client's tool, kept beside the last tool added. */
bool qn_chat_flag_tool(struct qn_chat *c, const struct qn_json *from);
/* Tools with defer_loading leave chat.tools until a tool_reference in the messages shows them; the part gets
 * the definition as its text. *callable: what can be called, for the parser and the constraint. forced (or
 * NULL) is a tool that has to be there. After messages and tools are read. */
int qn_chat_defer_tools(struct qn_chat *c, const struct qn_json **callable, const char *forced,
                        struct qn_err *e);
/* Is this the billing text that Claude Code puts first in its system prompt? It changes from request to
 * request and would break the prefix cache; normalisation drops such blocks of system messages. */
bool qn_chat_is_billing_header(const char *text, size_t n);
/* Is this nothing but <system-reminder>...</system-reminder>, once or more? Agents put such a text behind the
 * results of tools in every other turn; as a user's turn it would take the thinking out of the history. */
bool qn_chat_is_reminder(const char *text, size_t n);

/* A.8.8: what was sampled for a call, exactly. The server keeps them; lookup is asked for each call of the
 * history that has an id. name and arguments are what the client was given. text is from the call's opener
 * to its closer, "<tool_call>...</tool_call>"; it may begin with the white space sampled before the
 * opener, which then replaces the white space the template puts there. It is used when the history's call
 * has the same name and JSON-equal arguments.
 *
 * A model does not always choose the tokens that the tokenizer cuts its text into. So where ids are given,
 * the call in the prompt has them; and where the prompt has before the call what the output began with, all
 * of that has the ids of the output: the prompt then extends the tokens that were read and sampled.
 *
 * Everything must live until qn_chat_render returns. */
struct qn_chat_sampled {
    const char *name;
    const struct qn_json *arguments; /* object */
    const char *text;
    size_t n_byte;
    const char *output; /* [n_output] all that was sampled up to the end of text, or NULL */
    size_t n_output;
    const int32_t *tok; /* [n_tok] its ids, or NULL */
    size_t n_tok;
    size_t call_tok; /* place in tok of the call's opener */
};

struct qn_chat_opt {
    bool (*lookup)(void *user, const char *call_id, struct qn_chat_sampled *out); /* or NULL */
    void *user;
    bool allow_request_template; /* may chat->template_source be used? else QN_INVAL */
    int64_t now_s;               /* for strftime_now; 0: the clock */
    bool no_ids;                 /* text only, do not tokenise */
    size_t max_tok;              /* tokenising stops beyond: QN_TOOBIG, and *is_over is set; 0: no limit */
    bool *is_over;
};

struct qn_prompt {
    char *text;       /* [n_byte] and a NUL */
    uint8_t *literal; /* [n_byte] 1: from the template (or sampled by us), control tokens count */
    size_t n_byte;
    int32_t *ids; /* [n_tok] */
    int n_tok;
    struct qn_prompt_media *media; /* [n_media] runs of placeholders in ids, in order */
    int n_media;
    bool is_thinking;        /* ends in an open <think> block: the output starts inside the reasoning */
    bool used_empty_user;    /* the template wanted a user query and got an empty one */
    int n_spliced;           /* calls replaced by their sampled text */
    int64_t thinking_budget; /* tokens, from the request or its effort, or QN_CHAT_NO_BUDGET */
};

/* Normalises (chat itself is not changed), renders, splices, tokenises. opt may be NULL. */
int qn_chat_render(struct qn_prompt *out, const struct qn_text *text, const struct qn_chat *chat,
                   const struct qn_chat_opt *opt, struct qn_err *e);
void qn_prompt_free(struct qn_prompt *p);

/* The normalised conversation alone, for tests and for a log: a new array in arena. */
int qn_chat_normalise(struct qn_json **out, const struct qn_chat *chat, struct qn_arena *arena,
                      struct qn_err *e);

/* Is the end of the text inside a <think> block that the literal bytes opened? */
bool qn_chat_ends_in_thinking(const char *text, const uint8_t *literal, size_t n);

/* Renders the golden conversation of the format for each thinking switch. true: all as expected. Otherwise
 * one line for the log that says what differs. To be called at start-up; costs a millisecond. */
bool qn_chat_self_test(const struct qn_text *text, char *line, size_t line_bytes);

#endif
