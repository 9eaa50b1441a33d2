/* Lark grammars as terms: the subset that guidance, llguidance and outlines write.
 *
 * Rules and terminals (`name: alternatives`), strings (with i), regular expressions (with i and s), ranges,
 * groups, [optional], * + ? ~n ~n..m, aliases, ?rule and !rule, %ignore, %import common.NAME, a leading
 * %llguidance line, // and # comments. A rule may begin with itself (left recursion becomes repetition) where
 * it does so directly. What changes the meaning otherwise (lazy, stop, max_tokens, %json, templates, ...) is
 * refused by name. SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_LARK_H
#define QN_LARK_H

#include "text/term.h"

/* Text that has no rule of the ::= form and a `start:`. */
bool qn_lark_is(const char *text, size_t n);
int qn_lark_term(qn_term *out, struct qn_terms *t, const char *text, size_t n, struct qn_err *e);

#endif
