/* What the three dialects share: the normalised request, its reading, and the hand-over to the engine.
 *
 * A dialect turns its JSON into a struct qn_ask (everything in the exchange's arena) and calls qn_api_chat or
 * qn_api_complete; output comes back through its struct qn_dialect (stream.h).
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_API_H
#define QN_API_H

#include "engine/request.h"
#include "server/state.h"
#include "text/chat.h"
#include "text/parse.h"

#define QN_API_MAX_N             64   /* choices of a request */
#define QN_API_MAX_PROMPTS       1024 /* prompts of a completions batch */
#define QN_API_COMPLETION_TOKENS 16   /* max_tokens of completions that say nothing */
#define QN_API_MAX_BIAS          4096

enum qn_tool_mode { QN_TOOL_AUTO, QN_TOOL_NONE, QN_TOOL_REQUIRED, QN_TOOL_NAMED };

struct qn_ask {
    struct qn_arena *arena; /* the exchange's */
    const char *model;      /* as the client named it, echoed */
    struct qn_chat chat;    /* unused by completions */

    /* sampling: merged from request, server and model */
    struct qn_sample sample;
    int64_t max_new; /* 0: not said */
    int64_t min_new;
    int n;
    const int32_t *bias_tok; /* [n_bias] */
    const float *bias;
    int n_bias;
    bool ignore_eos;
    const char **stops; /* [n_stop] */
    int n_stop;
    bool include_stop;
    int32_t *stop_tok; /* [n_stop_tok] more than the model's own */
    int n_stop_tok;
    int prompt_top;               /* -1: no prompt log-probabilities */
    const uint32_t *allowed_bits; /* only these tokens [n_allowed_word]; NULL: all */
    int n_allowed_word;
    int32_t *ban_tok; /* sequences that may not come, one after the other */
    int *ban_len;     /* [n_ban] */
    int n_ban;
    int64_t truncate; /* prompt tokens kept from its end; 0: all, -1: what leaves room for an answer */

    /* tools and form */
    const struct qn_json *tools; /* as the parser wants them, or NULL */
    enum qn_tool_mode tool_mode;
    const char *tool_name;               /* NAMED */
    const struct qn_json *allowed_tools; /* array of names, or NULL: all */
    bool no_parallel;
    const char *form; /* "json_object", "json_schema", "regex", "grammar", "choice" or NULL */
    const struct qn_json *form_value;
    bool form_strict;
    struct qn_grammar *constraint; /* owned; compiled from the above */

    /* answer */
    bool is_stream, wants_usage, continuous_usage;
    bool wants_logprobs;
    bool hide_reasoning; /* include_reasoning: false */
    bool raw_reasoning;  /* reasoning_format: none - tags stay in the content */
    bool keep_special;   /* skip_special_tokens: false */
    bool echo;           /* completions */
    bool is_scoring;     /* max_tokens 0: the prompt's log-probabilities alone */
    bool has_seed;
    bool return_token_ids; /* token ids beside the text */
    bool tokens_as_ids;    /* "token_id:N" in log-probabilities */
    bool wants_timings;
    bool wants_progress; /* of the prompt, while it is read */

    enum qn_priority priority;
    uint64_t salt;
    double timeout_s; /* from the first byte of the request; 0: none */
    int mtp;
};

/* Defaults: the server's and the model's. */
void qn_ask_init(struct qn_ask *a, struct qn_exchange *x);

/* Does the default presence penalty come from the model? Then it does not apply to a request with tools: it
 * would punish the repeated markup of calls. */
bool qn_ask_presence_is_models(const struct qn_server *s);

/* Readers for the members the dialects have in common; errors set x->param. */
int qn_ask_read_model(struct qn_ask *a, struct qn_exchange *x, const struct qn_json *body, struct qn_err *e);
int qn_ask_read_sampling(struct qn_ask *a, struct qn_exchange *x, const struct qn_json *body,
                         struct qn_err *e);
/* An integer within limits; absent or null leaves *out. */
int qn_ask_read_int(struct qn_exchange *x, const struct qn_json *body, const char *key, int64_t low,
                    int64_t high, int64_t *out, struct qn_err *e);
int qn_ask_read_stops(struct qn_ask *a, struct qn_exchange *x, const struct qn_json *body, const char *key,
                      struct qn_err *e);
int qn_ask_read_tool_choice(struct qn_ask *a, struct qn_exchange *x, const struct qn_json *choice,
                            struct qn_err *e);
/* response_format, structured_outputs, guided_*, grammar, json_schema of an OpenAI body. */
int qn_ask_read_form(struct qn_ask *a, struct qn_exchange *x, const struct qn_json *body, struct qn_err *e);

struct qn_stream_prompt;
/* The whole of a chat body, of a completions body; without side effects, so that they can be fuzzed. */
int qn_api_read_chat(struct qn_ask *a, struct qn_exchange *x, const struct qn_json *body, struct qn_err *e);
int qn_api_read_completion(struct qn_ask *a, struct qn_exchange *x, const struct qn_json *body,
                           struct qn_stream_prompt **prompts, int *n_prompt, struct qn_err *e);
int qn_api_read_messages(struct qn_ask *a, struct qn_exchange *x, const struct qn_json *body, bool is_count,
                         struct qn_err *e);
struct qn_responses_state;
int qn_api_read_responses(struct qn_ask *a, struct qn_exchange *x, const struct qn_json *body,
                          struct qn_responses_state **state, struct qn_err *e);
/* Compiles what the output must obey: tool choice and form. tools may be NULL. */
struct qn_toolset;
int qn_ask_constrain(struct qn_ask *a, struct qn_exchange *x, const struct qn_toolset *tools,
                     bool is_thinking, struct qn_err *e);

struct qn_dialect;
/* Renders, checks the length, compiles constraints, submits, answers (also with errors). */
void qn_api_chat(struct qn_exchange *x, struct qn_ask *a, const struct qn_dialect *dialect, void *state);

/* Renders for count_tokens, /tokenize, /apply-template: the same prompt qn_api_chat would run. */
int qn_api_render(struct qn_prompt *out, struct qn_exchange *x, struct qn_ask *a, struct qn_err *e);
/* An error of rendering: its status differs by kind. */
void qn_api_fail_render(struct qn_exchange *x, const struct qn_err *e);
/* Answers with {HEAD"input_tokens":N}, N those of the rendered prompt; head: members before it, or "". */
void qn_api_reply_count(struct qn_exchange *x, struct qn_ask *a, const char *head);
/* Tokens left out at the prompt's beginning, as truncate_prompt_tokens asks. */
int qn_api_truncated(const struct qn_exchange *x, const struct qn_ask *a, int n_prompt);
/* Answers 400 in the wording agents recognise and returns true when the prompt leaves no room. */
bool qn_api_refuse_length(struct qn_exchange *x, const struct qn_ask *a, int n_prompt);

void qn_ask_free(struct qn_ask *a); /* the constraint; the rest is the arena's */

/* Handlers. */
void qn_api_chat_completions(struct qn_exchange *x);
void qn_api_completions(struct qn_exchange *x);
void qn_api_messages(struct qn_exchange *x);
void qn_api_count_tokens(struct qn_exchange *x);
void qn_api_responses(struct qn_exchange *x);
void qn_api_responses_get(struct qn_exchange *x);
void qn_api_count_input(struct qn_exchange *x);
void qn_api_embeddings(struct qn_exchange *x);
void qn_api_models(struct qn_exchange *x);
void qn_api_model(struct qn_exchange *x);
void qn_api_health(struct qn_exchange *x);
void qn_api_metrics(struct qn_exchange *x);
void qn_api_tokenize(struct qn_exchange *x);
void qn_api_detokenize(struct qn_exchange *x);
void qn_api_tokenizer_info(struct qn_exchange *x);
void qn_api_apply_template(struct qn_exchange *x);
void qn_api_props(struct qn_exchange *x);
void qn_api_version(struct qn_exchange *x);
void qn_api_load(struct qn_exchange *x);
void qn_api_cache(struct qn_exchange *x);
void qn_api_slots(struct qn_exchange *x);
void qn_ui_page(struct qn_exchange *x);

#endif
