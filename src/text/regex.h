/* Regular expressions (regex.c) and sets of characters (charset.c) as terms.
 *
 * The subset: alternatives, groups, * + ? {n,m}, classes, escapes, '.', ^ at the start, $, look-ahead, the
 * flags i and s. Look-behind, back references, word boundaries, properties and other flags are refused by
 * name. Characters are code points; in JSON spelling they are written as inside a JSON string.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_REGEX_H
#define QN_REGEX_H

#include "text/term.h"

#define QN_REGEX_MAX_RANGES 512
#define QN_REGEX_MAX_REPEAT 100000
#define QN_REGEX_TRY_TERMS  (1u << 16) /* terms spent on finding out whether an expression is cheap */

/* A set of code points, as ranges in any order; overlaps are allowed. */
struct qn_charset_range {
    uint32_t lo, hi;
};
struct qn_charset {
    struct qn_charset_range ranges[QN_REGEX_MAX_RANGES];
    int n;
};
bool qn_charset_add(struct qn_charset *set, uint32_t lo, uint32_t hi); /* false: full */
void qn_charset_invert(struct qn_charset *set);
qn_term qn_charset_term(struct qn_terms *t, const struct qn_charset *set, bool is_json);
/* [...] at *s (behind the '['), or an escape at *s (behind the backslash) for a set or a character. Moves *s.
 */
int qn_charset_parse(struct qn_charset *set, const char **s, const char *end, const char *what,
                     struct qn_err *e);
int qn_charset_escape(struct qn_charset *set, const char **s, const char *end, const char *what,
                      struct qn_err *e);
/* One UTF-8 character at *s, or -1 where it is none. */
int64_t qn_charset_next(const char **s, const char *end);

/* whole: the text is the whole string (^ and $ are implied); else a match anywhere in it, as `pattern` of
 * JSON Schema has it. `what` names the expression in messages. QN_TOOBIG: among
 * others, repetitions that count nest so that a state would have too many alternatives. */
int qn_regex_term(qn_term *out, struct qn_terms *t, const char *text, size_t n, bool whole, bool is_json,
                  const char *what, struct qn_err *e);

#endif
