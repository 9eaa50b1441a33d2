/* Runs the output parser over a text cut in a given way and prints the message on one line.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_PARSE_RUN_H
#define QN_PARSE_RUN_H

#include "text/parse.h"

struct parse_run {
    const struct qn_toolset *tools;
    bool forbidden, think;
    const char *const *stops;
    int n_stop;
    enum qn_parse_end end;
};

/* Gives the size of the next piece; i is the piece's number. */
typedef size_t (*parse_cut)(void *ctx, size_t i, size_t left);

/* "R:reasoning C:content name{...}(+ when open) =finish", with R:/C: left out when null; the order of event
 * kinds follows after '#'. Caller frees. Fails (QN_CHECK) when events are malformed: arguments of a call
 * out of turn, a proper prefix of arguments that is JSON, text that is no UTF-8. */
char *parse_run(const struct parse_run *run, const char *text, size_t n, parse_cut cut, void *ctx);
/* The same over the whole text, one byte at a time and every single cut; QN_CHECKs that all agree. */
char *parse_run_all(const struct parse_run *run, const char *text, size_t n);

#endif
