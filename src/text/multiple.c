/* Multiples of a number as terms: remainders are states.
 * SPDX-License-Identifier: Apache-2.0 */
#include "text/multiple.h"

#include "base/mem.h"
#include "text/decimal.h"

#define MAX_SHIFT 12 /* zeros, or digits behind the point */

/* A number as n * 10^shift, n without zeros at its end. False: more than 18 digits. */
static bool split(const struct qn_json *number, int64_t *n, int *shift)
{
    *n = 0;
    *shift = 0;
    if (!qn_json_is_number(number)) return false;
    const char *s = number->text;
    bool has_point = false;
    for (s += *s == '-'; (*s >= '0' && *s <= '9') || *s == '.'; s++) {
        if (*s == '.') {
            has_point = true;
            continue;
        }
        if (*n > INT64_MAX / 10 - 1) return false;
        *n = *n * 10 + (*s - '0');
        *shift -= has_point;
    }
    long exponent = *s == 'e' || *s == 'E' ? strtol(s + 1, NULL, 10) : 0;
    if (exponent > 1000 || exponent < -1000) return false;
    *shift += (int)exponent;
    while (*n && *n % 10 == 0) *n /= 10, ++*shift;
    if (!*n) *shift = 0;
    return true;
}

bool qn_multiple_of(const struct qn_json *number, const struct qn_json *of)
{
    int64_t n, a;
    int by, shift;
    if (!split(number, &n, &by) || !split(of, &a, &shift) || !a) return false;
    /* n * 10^by = k * a * 10^shift */
    for (int i = by - shift; i > 0; i--) n = n % a * 10;
    for (int i = shift - by; i > 0; i--) {
        if (a > INT64_MAX / 10) return !n;
        a *= 10;
    }
    return n % a == 0;
}

/* From each remainder r, by one digit: `digit` and next[(10 r + digit) % a]. */
static qn_term by_digit(struct qn_terms *t, const qn_term *next, int64_t a, int64_t r, int first)
{
    qn_term list[10];
    size_t n = 0;
    for (int d = first; d < 10; d++) {
        qn_term to = next[(10 * r + d) % a];
        if (to == QN_TERM_EMPTY) continue;
        uint64_t set[4] = {0};
        for (int k = d; k < 10; k++)
            if (next[(10 * r + k) % a] == to) set[0] |= (uint64_t)1 << ('0' + k);
        if (d > first) { /* digits that lead to one place are one class */
            bool is_done = false;
            for (int k = first; k < d; k++) is_done |= next[(10 * r + k) % a] == to;
            if (is_done) continue;
        }
        list[n++] = qn_term_seq(t, qn_term_class(t, set), to);
    }
    return qn_term_alts(t, list, n);
}

/* What may follow the digits before the point, for each remainder: nothing, or a point and up to k digits,
 * then zeros. end [a] */
static void fractions(struct qn_terms *t, qn_term *end, int64_t a, int k)
{
    qn_term *next = xcalloc((size_t)a, sizeof *next), *here = xcalloc((size_t)a, sizeof *here);
    qn_term zeros = qn_term_repeat(t, qn_term_str(t, "0"), 0, (uint32_t)(QN_DECIMAL_MAX_FRACTION - k));
    next[0] = k ? zeros : qn_term_repeat(t, qn_term_str(t, "0"), 1, QN_DECIMAL_MAX_FRACTION);
    for (int j = k - 1; j >= 0; j--) {
        int64_t scale = 1; /* 10^(k-j) modulo a */
        for (int i = j; i < k; i++) scale = scale * 10 % a;
        for (int64_t r = 0; r < a; r++) {
            here[r] = by_digit(t, next, a, r, 0);
            if (j && r * scale % a == 0) here[r] = qn_term_alt(t, here[r], QN_TERM_EPS);
        }
        memcpy(next, here, (size_t)a * sizeof *next);
    }
    int64_t scale = 1;
    for (int i = 0; i < k; i++) scale = scale * 10 % a;
    for (int64_t r = 0; r < a; r++) {
        end[r] = qn_term_seq(t, qn_term_str(t, "."), next[r]);
        if (r * scale % a == 0) end[r] = qn_term_alt(t, end[r], QN_TERM_EPS);
    }
    free(next);
    free(here);
}

int qn_multiple_term(qn_term *out, struct qn_terms *t, const struct qn_json *of, bool whole, struct qn_err *e)
{
    int rc = QN_OK, shift;
    int64_t a;
    qn_term *rules = NULL, *end = NULL;
    QN_FAIL_IF(!split(of, &a, &shift) || !a || *of->text == '-', e, QN_INVAL,
               "multipleOf must be a number above 0");
    if (whole && shift < 0) { /* integers that a fraction divides */
        for (int i = shift; i < 0 && a % 2 == 0; i++) a /= 2;
        for (int i = shift; i < 0 && a % 5 == 0; i++) a /= 5;
        shift = 0;
    }
    QN_FAIL_IF(a > QN_MULTIPLE_MAX || shift > MAX_SHIFT || shift < -MAX_SHIFT, e, QN_UNSUPPORTED,
               "multipleOf %.40s has too many digits", of->text);
    rules = xcalloc((size_t)a, sizeof *rules);
    end = xcalloc((size_t)a, sizeof *end);
    if (!whole)
        fractions(t, end, a, shift < 0 ? -shift : 0);
    else
        end[0] = QN_TERM_EPS;
    char text[MAX_SHIFT + 2];
    memset(text, '0', sizeof text);
    qn_term zeros = qn_term_lit(t, text, shift > 0 ? (size_t)shift : 0);
    for (int64_t r = 0; r < a; r++) rules[r] = qn_term_rule_new(t);
    for (int64_t r = 0; r < a; r++)
        qn_term_rule_set(t, rules[r],
                         qn_term_alt(t, by_digit(t, rules, a, r, 0), qn_term_seq(t, zeros, end[r])));
    qn_term digits = qn_term_alt(t, by_digit(t, rules, a, 0, 1), qn_term_seq(t, qn_term_str(t, "0"), end[0]));
    *out = qn_term_seq(t, qn_term_repeat(t, qn_term_str(t, "-"), 0, 1), digits);
out:
    free(rules);
    free(end);
    return rc;
}
