/* Multiples of a number as terms over decimal digits.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_MULTIPLE_H
#define QN_MULTIPLE_H

#include "base/json.h"
#include "text/term.h"

#define QN_MULTIPLE_MAX 1000 /* of the number without its zeros at the end */

/* Numbers that `of` divides; whole: integers only. Decimal, not binary: 0.3 is a multiple of 0.1.
 * QN_UNSUPPORTED: too many digits. */
int qn_multiple_term(qn_term *out, struct qn_terms *t, const struct qn_json *of, bool whole,
                     struct qn_err *e);
/* Does it divide the number? Also false where that is not understood. */
bool qn_multiple_of(const struct qn_json *number, const struct qn_json *of);

#endif
