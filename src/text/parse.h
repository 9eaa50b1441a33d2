/* Output parser: the model's text -> reasoning, content and tool calls, as a stream of events.
 *
 * A deterministic automaton over the characters, whatever the pieces they come in: the merged events of a
 * text do not depend on how it was cut, and the answer of a request that does not stream is the same
 * events, collected. Total: every text gives content or calls, never an error. Bytes that are no UTF-8
 * become U+FFFD. It holds back only what the next characters may still turn into markup (or into a stop
 * string), and releases it at the end.
 *
 * Arguments are streamed as fragments of one JSON object; no proper prefix of them is valid JSON.
 * Owned by one request; one thread at a time.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_PARSE_H
#define QN_PARSE_H

#include "text/toolset.h"

#define QN_PARSE_MAX_NAME 1024      /* bytes of a function name; longer is text */
#define QN_PARSE_MAX_KEY  4096      /* bytes of a parameter name; longer is skipped text */
#define QN_PARSE_MAX_JSON (1 << 20) /* bytes of a call in the JSON dialect; longer is content */
#define QN_PARSE_MAX_HOLD (4 << 20) /* bytes of a fenced call held back; a longer one is real */
#define QN_PARSE_MAX_STOP 256       /* stop strings */

enum qn_parse_kind {
    QN_PARSE_REASONING,  /* text */
    QN_PARSE_CONTENT,    /* text */
    QN_PARSE_CALL_BEGIN, /* index, text is the name (never split); the caller makes the id */
    QN_PARSE_CALL_ARGS,  /* index, text is a fragment of the arguments' JSON */
    QN_PARSE_CALL_END,   /* index: the arguments are complete */
    QN_PARSE_FINISH,     /* index is the enum qn_reason: stop, length or calls */
};

/* Why a message ended. The names that dialects write: qn_reason_name. */
enum qn_reason {
    QN_REASON_NONE, /* it has not */
    QN_REASON_STOP,
    QN_REASON_LENGTH,
    QN_REASON_ABORT, /* the client has gone */
    QN_REASON_ERROR,
    QN_REASON_CALLS, /* a complete call was made */
    QN_N_REASON
};
const char *qn_reason_name(enum qn_reason r); /* "", stop, length, abort, error, tool_calls */

/* text [n] is whole characters, valid UTF-8, NUL-terminated; valid during the callback only. */
struct qn_parse_event {
    enum qn_parse_kind kind;
    int index; /* of the call, from 0 in order of appearance; FINISH: the reason */
    const char *text;
    size_t n;
};

enum qn_parse_end {
    QN_PARSE_STOP,   /* end-of-turn token */
    QN_PARSE_LENGTH, /* token limit: an open call stays open */
    QN_PARSE_CANCEL, /* nothing more is emitted, not even FINISH */
};

struct qn_parse_options {
    const struct qn_toolset
        *tools;               /* NULL or empty: markup of calls is plain text. Must outlive the parser */
    bool calls_forbidden;     /* tool_choice "none": calls stay text */
    bool starts_in_reasoning; /* the rendered prompt ends in an open think block */
    const char *const *stops; /* client stop strings [n_stop], matched in visible content only */
    int n_stop;
    bool include_stop; /* the matched stop string stays in the content */
    void (*on_event)(void *ctx, const struct qn_parse_event *event);
    void *ctx;
};

struct qn_parse;

/* Copies what it needs of the options, but not the tool set. QN_INVAL: too many stop strings. */
int qn_parse_create(struct qn_parse **out, const struct qn_parse_options *options, struct qn_err *e);
void qn_parse_free(struct qn_parse *p);

/* Feeds the next bytes of output; events come out before it returns, coalesced per call.
 * True once the message is over (a stop string was met; FINISH has been emitted): feed nothing more. */
bool qn_parse_feed(struct qn_parse *p, const char *bytes, size_t n);
/* The end event. Releases what is held and emits FINISH. Harmless after a stop string. */
void qn_parse_finish(struct qn_parse *p, enum qn_parse_end end);

/* Bytes fed so far, and of those the bytes up to the end of reasoning, its closing marker included
 * (all of them while still in reasoning; 0 when there was none). A token whose first byte lies before
 * that is a reasoning token. */
size_t qn_parse_fed(const struct qn_parse *p);
size_t qn_parse_reasoning_bytes(const struct qn_parse *p);
bool qn_parse_is_reasoning(const struct qn_parse *p);
/* True between call_begin and call_end (also while a fenced call is held). */
bool qn_parse_is_in_call(const struct qn_parse *p);
int qn_parse_n_call(const struct qn_parse *p);
/* The stop string met (index into stops) or -1, and the number of input bytes up to its end: tokens that
 * start at or after *end_byte do not belong to the message. */
int qn_parse_stop(const struct qn_parse *p, size_t *end_byte);

/* --- the whole message, collected from the same events --- */
struct qn_parsed_call {
    char *name;
    struct qn_buf arguments;
    bool is_complete; /* false: cut by the token limit; not to be shown when not streaming */
};
struct qn_parsed {
    struct qn_buf reasoning, content; /* n_byte 0: null */
    struct qn_parsed_call *calls;     /* [n_call] */
    int n_call;
    enum qn_reason reason; /* NONE before FINISH */
};
void qn_parsed_init(struct qn_parsed *m);
void qn_parsed_free(struct qn_parsed *m);
void qn_parsed_add(void *m, const struct qn_parse_event *event); /* fits on_event, ctx = struct qn_parsed * */

#endif
