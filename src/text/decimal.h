/* Bounds of numbers as terms over decimal digits.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_DECIMAL_H
#define QN_DECIMAL_H

#include "base/json.h"
#include "text/term.h"

#define QN_DECIMAL_MAX_DIGITS   60 /* of a bound, before or after the point */
#define QN_DECIMAL_MAX_FRACTION 16 /* digits after the point that are generated */
#define QN_DECIMAL_MAX_INTEGER  20 /* digits before the point that are generated where nothing bounds them */

struct qn_decimal_bounds {
    const struct qn_json *lo, *hi; /* numbers or NULL */
    bool lo_open, hi_open;         /* exclusive */
};

/* Numbers between the bounds; whole: integers only. EMPTY when there is none. QN_UNSUPPORTED: a bound with
 * too many digits. */
int qn_decimal_term(qn_term *out, struct qn_terms *t, const struct qn_decimal_bounds *bounds, bool whole,
                    struct qn_err *e);

#endif
