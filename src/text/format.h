/* Formats of strings as terms: what `format` of JSON Schema means.
 *
 * All valid values of a format, no others; where a format is more than a regular language can tell,
 * docs/tools.md says which values are left out. Tried against other implementations in
 * tests/e2e/test_formats_of_strings.py. SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_FORMAT_H
#define QN_FORMAT_H

#include "text/term.h"

enum qn_format_kind {
    QN_FORMAT_UNKNOWN,
    QN_FORMAT_TERM, /* *out holds the values */
    QN_FORMAT_ANY,  /* a note for people or decoders: every string is one (password, path, ...) */
};

/* is_json: spelled as inside a JSON string. */
int qn_format_term(enum qn_format_kind *kind, qn_term *out, struct qn_terms *t, const char *name,
                   bool is_json, struct qn_err *e);

#endif
