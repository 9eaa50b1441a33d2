/* Chat templates: a Jinja interpreter, compiled once, rendered with a tree of JSON values.
 *
 * The dialect is that of the reference implementation as chat templates see it: trim_blocks, lstrip_blocks,
 * loop controls, no autoescape, undefined prints as nothing, an attribute of undefined is an error, values of
 * the caller are immutable. docs/text.md lists what differs on purpose.
 *
 * Every output byte knows where it came from: a literal of the template, or the caller's values. Control
 * tokens are only recognised in literal bytes, so a client that spells one cannot make one.
 *
 * Ownership: a compiled template is immutable and used by any number of threads at once. A render owns its
 * memory and frees it at once; the output belongs to the caller.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_JINJA_H
#define QN_JINJA_H

#include "base/json.h"

/* Caps. A render that meets one fails with QN_TOOBIG and names it. */
#define QN_JINJA_MAX_SOURCE_BYTES ((size_t)4 << 20)
#define QN_JINJA_MAX_NEST         150                 /* nesting of tags and expressions in the source */
#define QN_JINJA_MAX_STEPS        ((int64_t)50 << 20) /* nodes evaluated, plus one per 64 bytes touched */
#define QN_JINJA_MAX_DEPTH        600                 /* evaluation depth; a macro call costs about six */
#define QN_JINJA_MAX_OUTPUT_BYTES ((size_t)256 << 20)
#define QN_JINJA_MAX_MEMORY_BYTES ((size_t)1 << 30)
#define QN_JINJA_MAX_RANGE        100000 /* items of one range() */
#define QN_JINJA_MAX_INT_DIGITS   4300   /* digits of one integer */

struct qn_jinja; /* a compiled template */

/* Compiles n bytes of source. `name` appears in errors ("chat_template.jinja:12: ..."). Errors: QN_FORMAT
 * (syntax), QN_TOOBIG. */
int qn_jinja_compile(struct qn_jinja **out, const char *source, size_t n, const char *name, struct qn_err *e);
void qn_jinja_free(struct qn_jinja *t); /* NULL is allowed */
/* Is this a function of the language (namespace, range, ...), which a variable of that name would hide? */
bool qn_jinja_is_global(const char *name);

/* Is this word (a variable, an attribute, a text) anywhere in the source? */
bool qn_jinja_mentions(const struct qn_jinja *t, const char *word);
const char *qn_jinja_source(const struct qn_jinja *t, size_t *n);

/* Where a byte of the output came from. Values above QN_JINJA_LITERAL are the caller's own marks. */
enum { QN_JINJA_INPUT = 0, QN_JINJA_LITERAL = 1 };

/* Gives the text of one JSON string another origin than QN_JINJA_INPUT: QN_JINJA_LITERAL for texts the
 * server itself supplies (bos_token), a value from 2 to 255 to find the text again in the output. */
struct qn_jinja_mark {
    const struct qn_json *string; /* a node reachable from vars */
    uint8_t origin;
};

struct qn_jinja_opt {
    const struct qn_jinja_mark *marks; /* [n_mark] */
    size_t n_mark;
    int64_t now_s;     /* what strftime_now sees, seconds since the epoch; 0: the clock */
    int64_t max_steps; /* 0 in any of these: the cap above */
    int max_depth;
    size_t max_output_bytes;
    size_t max_memory_bytes;
};

struct qn_jinja_out {
    char *text;      /* [n_byte] and a NUL; malloc'ed */
    uint8_t *origin; /* [n_byte]; malloc'ed */
    size_t n_byte;
    int line;     /* after a failure: the template's line, 0 when there is none */
    char *raised; /* after QN_INVAL: the whole message of raise_exception; malloc'ed */
};

/* Renders with the members of the object vars as variables. opt may be NULL.
 * Errors: QN_INVAL, the template called raise_exception (e has its message, out->raised all of it);
 * QN_TOOBIG, a cap; QN_INTERNAL, the template failed (e names the line). out is valid after a failure too
 * (without text) and is freed with qn_jinja_out_free in all cases. */
int qn_jinja_render(struct qn_jinja_out *out, const struct qn_jinja *t, const struct qn_json *vars,
                    const struct qn_jinja_opt *opt, struct qn_err *e);
void qn_jinja_out_free(struct qn_jinja_out *out);

#endif
