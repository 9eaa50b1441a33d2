/* One request's output: tokens -> text -> events -> the dialect's answer, streamed or whole.
 *
 * A stream has choices (n of them for each prompt), each with its engine request, detokeniser and parser.
 * The same events make both kinds of answer. Belongs to its connection thread.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_STREAM_H
#define QN_STREAM_H

#include "engine/engine.h"
#include "server/ask.h"
#include "text/detok.h"
#include "text/stops.h"

struct qn_stream;
struct qn_output;

/* How a dialect answers. Streaming functions append events to s->out; whole writes the body. */
struct qn_dialect {
    bool is_raw;   /* completions: no parser, text as it is */
    bool collects; /* begin, event and finish are called for whole answers too; s->out is dropped */
    const char *id_prefix, *call_prefix; /* of the answer's id, of call ids */
    void (*begin)(struct qn_stream *s);  /* once, before the first output or ping */
    void (*event)(struct qn_stream *s, struct qn_output *c, const struct qn_parse_event *event);
    /* tokens whose text was swallowed, when log-probabilities travel; or NULL */
    void (*silent)(struct qn_stream *s, struct qn_output *c);
    void (*finish)(struct qn_stream *s, struct qn_output *c); /* c->reason is set */
    void (*end)(struct qn_stream *s);
    void (*fail)(struct qn_stream *s, int status, const char *text);
    void (*ping)(struct qn_stream *s);
    void (*whole)(struct qn_stream *s, struct qn_buf *out);
    void (*free_state)(void *state); /* or NULL */
};

/* A prompt; of several choices. */
struct qn_stream_prompt {
    const int32_t *tok; /* [n_tok] */
    int n_tok;
    const struct qn_media_span *spans; /* [n_span] */
    int n_span;
    bool is_thinking;
    int64_t think_budget; /* QN_CHAT_NO_BUDGET: none */
};

struct qn_output {
    struct qn_stream *stream;
    int index;
    const struct qn_stream_prompt *prompt;
    struct qn_request *request; /* between submit and end */
    bool is_submitted, is_over;
    bool is_tag_open; /* reasoning_format none: inside <think> */
    struct qn_detok detok;
    struct qn_parse *parse; /* or NULL: raw */
    struct qn_stops stops;  /* of raw text; the parser has its own */
    struct qn_buf piece;    /* text of one token */
    struct qn_buf raw;      /* all text sampled */
    struct qn_parsed parsed;
    char (*call_ids)[40]; /* [n_call] */
    int n_call;
    int n_tok, n_reasoning;
    int32_t *tok; /* [n_tok], when wanted */
    size_t tok_capacity;
    struct qn_step_token *lps; /* [n_lp] when wanted; [lp_sent] of them are written */
    size_t n_lp, lp_sent, lp_capacity;
    struct qn_step_token *prompt_lps; /* [n_prompt_lp] */
    size_t n_prompt_lp, prompt_lp_capacity;
    bool prompt_sent;
    size_t n_sent_chars;   /* code points of text given so far (text_offset) */
    enum qn_reason reason; /* NONE before */
    int stop_index;        /* of the stop string met, or -1 */
    int32_t stop_tok;      /* or -1 */
    bool is_loop;          /* ended for saying the same over and over */
    int think_limit;       /* tokens of thinking before it is closed; 0: none */
    struct qn_request_stats stats;
    int64_t submit_us, first_us, last_us;
};

struct qn_stream {
    struct qn_exchange *x;
    struct qn_server *server;
    struct qn_ask ask;
    const struct qn_dialect *dialect;
    struct qn_toolset *tools;
    struct qn_prompt rendered;        /* chat: owns the ids */
    struct qn_stream_prompt *prompts; /* [n_prompt] in the arena */
    int n_prompt;
    struct qn_output *choices; /* [n_choice], prompt-major */
    int n_choice, n_over, n_submitted;
    struct qn_buf out; /* events not yet given to the socket */
    size_t out_at;
    bool has_begun, is_ended, is_failed;
    int fail_status;
    struct qn_err error;
    int64_t created, last_write_us, last_probe_us;
    bool saw_half_close;
    char id[48];
    struct qn_buf head;                        /* the constant start of the dialect's chunks */
    void *state;                               /* of the dialect */
    struct qn_stream_prompt *no_prompts;       /* in place of prompts, where there was no memory for them */
    void (*on_end)(const struct qn_stream *s); /* once, after the last event; or NULL */
};

/* Takes ask, rendered and tools over. Submits, waits and answers the exchange. */
struct qn_stream *qn_stream_create(struct qn_exchange *x, const struct qn_ask *a, const struct qn_dialect *d,
                                   int n_prompt);
void qn_stream_answer(struct qn_stream *s);

/* Sums over the choices. */
struct qn_usage {
    int prompt, completion, cached, reasoning, accepted, rejected;
};
struct qn_usage qn_stream_usage(const struct qn_stream *s);

/* [{token, logprob, bytes, top_logprobs}, ...] of lps[from .. to). */
void qn_stream_write_logprobs(const struct qn_stream *s, struct qn_buf *out, const struct qn_step_token *lps,
                              size_t from, size_t to);
/* A log-probability as a JSON number: null when there is none, -9999.0 for minus infinity. */
void qn_stream_write_number(struct qn_buf *out, float x);

/* Text of a token for log-probabilities: repaired UTF-8, or token_id:N. As a JSON string. */
void qn_stream_write_token(const struct qn_stream *s, struct qn_buf *out, int32_t tok);

#endif
