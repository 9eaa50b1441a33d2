/* Inside of the output parser: its state and what its files share. Included by parse*.c only; names with pp_
 * belong to these files alone. The rules are numbered in docs/tools.md; the text waits in `in` until it is
 * decided.
 *
 * in: [0 .. pos)   consumed (kept only while a fenced call is held, from held_at)
 *     [pos .. n)   undecided: the beginning of a marker, or what decides whether a marker is one
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_PARSE_IMPL_H
#define QN_PARSE_IMPL_H

#include "text/argtype.h"
#include "text/jsonscan.h"
#include "text/parse.h"
#include "text/stops.h"

#define PP_MAX_TEXT (256u << 20) /* bytes of any one buffer; a message is far below */

enum state { REASONING, CONTENT, CALL, VALUE_OPEN, VALUE, BETWEEN, FENCE_END };

/* Answers about text that may be cut anywhere: MORE only while not at the end event. */
enum tri { NO, YES, MORE };

/* Markdown fences, followed over the visible content. */
struct fence {
    bool is_open;
    char mark; /* of the open fence */
    size_t n_mark;
    /* the current line so far: spaces, marks, rest */
    enum { SPACES, MARKS, REST, OTHER } part;
    size_t n_space, n_line_mark;
    char line_mark;
    bool rest_is_blank, rest_has_tick;
};

/* From decoded position `at` on, input position = decoded position + shift. */
struct repair {
    size_t at;
    int64_t shift;
};

struct qn_parse {
    struct qn_parse_options opt;
    struct qn_stops stops; /* holds visible content that may be the start of one */
    bool calls_active;

    /* input */
    struct qn_buf in;
    size_t pos, base; /* base: decoded bytes dropped from the front of `in` */
    size_t fed;
    unsigned char partial[4]; /* an incomplete character */
    int n_partial;
    struct repair *repairs; /* of what is in `in`, rising */
    int n_repair, repair_capacity;
    int64_t shift_base, shift;
    bool is_final, is_over;
    bool is_blank_blocked; /* waiting, and more blanks cannot decide it */

    enum state state;
    /* reasoning */
    bool think_seen, reasoning_any, line_is_blank;
    bool reasoning_was;   /* the output had a reasoning phase */
    size_t reasoning_end; /* input bytes, once over */
    /* content */
    bool at_start, skip_newlines, join;
    struct qn_buf blanks; /* trailing whitespace of reasoning or content, fate undecided */
    size_t blanks_at;     /* position of its first byte */
    size_t n_visible;
    struct fence fence;
    struct qn_buf visible; /* of one byte */
    int stop_hit;
    size_t stop_byte;
    struct qn_jsonscan json;   /* a call in the JSON dialect being checked */
    size_t json_from, json_at; /* its absolute start and how far it was read; json_from 0: none */
    /* call */
    int n_call, n_complete;
    bool is_wrapped; /* <tool_call> is open */
    int tool;        /* declared index or -1 */
    char **keys;     /* given in this call */
    size_t *key_n;
    int n_key, key_capacity;
    /* value */
    struct qn_argtype type;
    bool is_streaming; /* a string that is emitted as it comes */
    bool is_crlf;      /* the opener's newline */
    int n_newline;     /* bytes of a newline held back: 0..2 */
    bool at_line_start;
    struct qn_buf raw;                             /* value so far, when not streaming */
    long open_parameter, open_function, open_call; /* nested blocks inside the value */
    /* held calls: examples, or real ones; in a fence, or without their wrapper */
    bool is_held, is_bare;
    size_t held_at; /* offset in `in` */
    int held_call;  /* calls before them */
    struct qn_buf queue;
    /* output: the event being coalesced */
    struct qn_buf out;
    enum qn_parse_kind out_kind;
    int out_index;
    struct qn_buf scratch;
};

/* The markers. */
#define TOOL_OPEN       "<tool_call>"
#define TOOL_CLOSE      "</tool_call>"
#define FUNCTION_OPEN   "<function="
#define FUNCTION_CLOSE  "</function>"
#define PARAMETER_OPEN  "<parameter="
#define PARAMETER_CLOSE "</parameter>"
#define THINK_OPEN      "<think>"
#define THINK_CLOSE     "</think>"
#define THINKING_CLOSE  "</thinking>"
#define LEN(word)       (sizeof(word) - 1)

/* --- text that may be cut anywhere (parse.c) --- */

static inline size_t char_len(unsigned char lead)
{
    return lead < 0x80 ? 1 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
}

static inline const char *text_at(const struct qn_parse *p, size_t i)
{
    return p->in.data + i;
}

static inline enum tri literal_n(const struct qn_parse *p, size_t i, const char *word, size_t n_word)
{
    size_t n = p->in.n_byte - i, n_head = QN_MIN(n, n_word);
    if (memcmp(text_at(p, i), word, n_head)) return NO;
    return n >= n_word ? YES : p->is_final ? NO : MORE;
}

#define LITERAL(p, i, word) literal_n((p), (i), (word), sizeof(word) - 1)

size_t pp_skip_blanks(const struct qn_parse *p, size_t i);
/* At the end of what is there, after blanks: YES at the end event. */
enum tri pp_ended(struct qn_parse *p);
void pp_trim(const char **s, size_t *n);

/* --- events (parse.c) --- */

/* A fragment of the current call's arguments. */
void pp_emit_args(struct qn_parse *p, const char *text, size_t n);

/* --- values (parse_value.c) --- */

void pp_begin_value(struct qn_parse *p, const char *key, size_t n);
/* The value ends here; with `framed` one newline before the closer belongs to the format. */
void pp_end_value(struct qn_parse *p, bool framed);
/* Steps of the states VALUE_OPEN and VALUE; YES: something was decided, go on. */
enum tri pp_step_value_open(struct qn_parse *p);
enum tri pp_step_value(struct qn_parse *p);

#endif
