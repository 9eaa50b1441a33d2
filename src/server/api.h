/* The handlers, and what they share: rendering a request and handing it to the engine.
 *
 * A dialect turns its JSON into a struct qn_ask (everything in the exchange's arena) and calls qn_api_chat,
 * or makes a stream of its own; output comes back through its struct qn_dialect (stream.h).
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_API_H
#define QN_API_H

#include "server/ask.h"

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
struct qn_dialect;
/* Renders, checks the length, compiles constraints, submits, answers (also with errors). */
void qn_api_chat(struct qn_exchange *x, struct qn_ask *a, const struct qn_dialect *dialect, void *state);

/* Renders for count_tokens, /tokenize, /apply-template: the same prompt qn_api_chat would run. */
int qn_api_render(struct qn_prompt *out, struct qn_exchange *x, struct qn_ask *a, struct qn_err *e);
/* Finds and measures the pictures of the chat, where the model sees; before qn_api_render. looks: they are
 * also decoded, for embeddings. A chat that nobody has looked at is text: its pictures are refused. */
int qn_api_look(struct qn_exchange *x, struct qn_ask *a, bool looks, struct qn_err *e);
/* An error of rendering: its status differs by kind. */
void qn_api_fail_render(struct qn_exchange *x, const struct qn_err *e);
/* Answers with {HEAD"input_tokens":N}, N those of the rendered prompt; head: members before it, or "". */
void qn_api_reply_count(struct qn_exchange *x, struct qn_ask *a, const char *head);
/* Tokens left out at the prompt's beginning, as truncate_prompt_tokens asks. */
int qn_api_truncated(const struct qn_exchange *x, const struct qn_ask *a, int n_prompt);
/* Answers 400 in the wording agents recognise and returns true when the prompt leaves no room. */
/* Tokens at which tokenising a prompt that may not be cut stops: it is refused in any case. 0: no limit. */
size_t qn_api_most_tokens(const struct qn_exchange *x, const struct qn_ask *a);
bool qn_api_refuse_length(struct qn_exchange *x, const struct qn_ask *a, int n_prompt);

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
