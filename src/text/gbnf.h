/* Grammar text as terms: rules `name ::= alternatives`, starting at `root`.
 *
 * "literal" with escapes, [class], . for any character, <marker> (marker.h), names, groups, * + ? {n,m},
 * # comments. Left recursion is refused. Names and positions appear in messages.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_GBNF_H
#define QN_GBNF_H

#include "text/term.h"

#define QN_GBNF_MAX_RULES 4096

/* tokens: markers that are one token, a bit each; a <marker> of the others is spelled. */
int qn_gbnf_term(qn_term *out, struct qn_terms *t, const char *text, size_t n, unsigned tokens,
                 struct qn_err *e);

#endif
