/* Grammar text as terms: rules `name ::= alternatives`, starting at `root`.
 *
 * "literal" with escapes, [class], . for any character, names, groups, * + ? {n,m}, # comments. Left
 * recursion is refused. Names and positions appear in messages.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_GBNF_H
#define QN_GBNF_H

#include "text/term.h"

#define QN_GBNF_MAX_RULES 4096

int qn_gbnf_term(qn_term *out, struct qn_terms *t, const char *text, size_t n, struct qn_err *e);

#endif
