/* Between the two halves of the Jinja parser: tokens and the state of one compile. Included by jinja_lex.c
 * and jinja_parse.c only. Errors leave by longjmp to qn_jinja_compile(). SPDX-License-Identifier: Apache-2.0
 */
#ifndef QN_JINJA_SYNTAX_H
#define QN_JINJA_SYNTAX_H

#include "text/jinja_impl.h"

enum tok_type {
    T_END,
    T_DATA,
    T_BLOCK_BEGIN,
    T_BLOCK_END,
    T_VAR_BEGIN,
    T_VAR_END,
    T_NAME,
    T_STRING,
    T_INT,
    T_FLOAT,
    T_OP, /* op: one character; F //, P **, e ==, n !=, g >=, l <= */
};

struct tok {
    enum tok_type type;
    char op;
    int line;
    const char *p; /* raw text [n]; a string without its quotes */
    size_t n;
};

struct parser {
    struct qn_jinja *t;
    struct qn_err *e;
    jmp_buf leave;
    int rc;
    const char *src; /* [n], newlines normalised */
    size_t n, pos;
    int line;
    struct tok *toks;
    size_t n_tok, tok_capacity, at;
    int nest;
    struct params *macro; /* innermost macro or call block, NULL outside */
    int loop_depth;
};

QN_NORETURN void jj_bad(struct parser *p, int line, const char *fmt, ...) QN_PRINTF(3, 4);
QN_NORETURN void jj_too_big(struct parser *p);
void *jj_get(struct parser *p, size_t n_byte); /* from the template's arena, never NULL */
bool jj_is_digit(char c);
void jj_lex(struct parser *p); /* p->src to p->toks; the last is T_END */

#endif
