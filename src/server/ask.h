/* The normalised request: what every dialect's JSON is read into, and the readers of the members that
 * dialects have in common. Everything lies in the exchange's arena but the constraint, which qn_ask_free
 * releases. Belongs to the connection thread. SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_ASK_H
#define QN_ASK_H

#include "engine/request.h"
#include "server/look.h"
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

    struct qn_look look;                         /* pictures and videos of the chat */
    const struct qn_json *mm_kwargs, *io_kwargs; /* mm_processor_kwargs, media_io_kwargs */

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

    bool is_counting;  /* the length is asked for, whatever it is */
    bool is_over;      /* tokenising stopped where the prompt could fit no more */
    bool drops_oldest; /* where the prompt is too long, the oldest turns are left out */

    /* tools and form */
    const struct qn_json *tools; /* as the parser wants them, or NULL */
    enum qn_tool_mode tool_mode;
    const char *tool_name;               /* NAMED */
    const struct qn_json *allowed_tools; /* array of names, or NULL: all */
    const char *foreign[64]; /* [2 * n_foreign] types and names of tools that run at a vendor's side */
    int n_foreign;
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
/* What comes first in every dialect: lifts the members of extra_body into *body, reads the model's name. */
int qn_ask_read_head(struct qn_ask *a, struct qn_exchange *x, const struct qn_json **body, struct qn_err *e);
int qn_ask_read_sampling(struct qn_ask *a, struct qn_exchange *x, const struct qn_json *body,
                         struct qn_err *e);
/* An integer within limits; absent or null leaves *out. */
int qn_ask_read_int(struct qn_exchange *x, const struct qn_json *body, const char *key, int64_t low,
                    int64_t high, int64_t *out, struct qn_err *e);
int qn_ask_read_stops(struct qn_ask *a, struct qn_exchange *x, const struct qn_json *body, const char *key,
                      struct qn_err *e);

void qn_ask_free(struct qn_ask *a); /* the constraint and the pictures; the rest is the arena's */

#endif
