/* Bounds of numbers as terms.
 * SPDX-License-Identifier: Apache-2.0 */
#include "text/decimal.h"

/* A magnitude: digits before and after the point, no needless zeros ("0" before it when there is nothing). */
struct decimal {
    bool is_negative;
    char whole[QN_DECIMAL_MAX_DIGITS + 2], fraction[QN_DECIMAL_MAX_DIGITS + 2];
};

static int decimal_of(struct decimal *d, const struct qn_json *number, struct qn_err *e)
{
    int rc = QN_OK;
    const char *s = number->text;
    char digits[2 * QN_DECIMAL_MAX_DIGITS + 4];
    int n = 0, point = -1;
    *d = (struct decimal){.is_negative = *s == '-'};
    if (*s == '-') s++;
    for (; *s && *s != 'e' && *s != 'E'; s++) {
        if (*s == '.') {
            point = n;
            continue;
        }
        QN_FAIL_IF(n >= 2 * QN_DECIMAL_MAX_DIGITS, e, QN_UNSUPPORTED,
                   "the bound %.40s... has too many digits", number->text);
        digits[n++] = *s;
    }
    if (point < 0) point = n;
    long exponent = *s ? strtol(s + 1, NULL, 10) : 0;
    QN_FAIL_IF(exponent > 1000 || exponent < -1000, e, QN_UNSUPPORTED, "the bound %.40s is out of range",
               number->text);
    point += (int)exponent;
    int first = 0;
    while (first < n && digits[first] == '0') first++;
    while (n > first && digits[n - 1] == '0') n--;
    if (first == n) { /* zero */
        d->is_negative = false;
        strcpy(d->whole, "0");
        goto out;
    }
    QN_FAIL_IF(point > QN_DECIMAL_MAX_DIGITS || n - point > QN_DECIMAL_MAX_DIGITS, e, QN_UNSUPPORTED,
               "the bound %.40s has too many digits", number->text);
    int w = 0, f = 0;
    for (int i = first; i < point; i++) d->whole[w++] = i < n ? digits[i] : '0';
    if (!w) d->whole[w++] = '0';
    for (int i = QN_MIN(point, first); i < n; i++)
        if (i >= point) d->fraction[f++] = i < first ? '0' : digits[i];
out:
    return rc;
}

static void add_one(char *digits)
{
    size_t n = strlen(digits);
    for (size_t i = n; i-- > 0;) {
        if (digits[i]++ < '9') return;
        digits[i] = '0';
    }
    memmove(digits + 1, digits, n + 1);
    digits[0] = '1';
}

/* false: was zero */
static bool take_one(char *digits)
{
    if (!strcmp(digits, "0")) return false;
    for (size_t i = strlen(digits); i-- > 0;) {
        if (digits[i]-- > '0') break;
        digits[i] = '9';
    }
    if (digits[0] == '0' && digits[1]) memmove(digits, digits + 1, strlen(digits));
    return true;
}

static qn_term digit(struct qn_terms *t, char lo, char hi)
{
    return lo > hi ? QN_TERM_EMPTY : qn_term_range(t, (unsigned char)lo, (unsigned char)hi);
}

static qn_term digits_of(struct qn_terms *t, uint32_t min, uint32_t max)
{
    return qn_term_repeat(t, digit(t, '0', '9'), min, max);
}

/* Same number of digits, and at least / at most d. */
static qn_term same_length(struct qn_terms *t, const char *d, bool at_least)
{
    size_t n = strlen(d);
    qn_term out = QN_TERM_EPS;
    for (size_t i = n; i-- > 0;) {
        /* no leading zero unless it is the only digit */
        char least = i == 0 && n > 1 ? '1' : '0';
        qn_term other = at_least ? digit(t, (char)(d[i] + 1), '9') : digit(t, least, (char)(d[i] - 1));
        qn_term free = digits_of(t, (uint32_t)(n - i - 1), (uint32_t)(n - i - 1));
        out = qn_term_alt(t, qn_term_seq(t, digit(t, d[i], d[i]), out), qn_term_seq(t, other, free));
    }
    return out;
}

static qn_term whole_at_least(struct qn_terms *t, const char *d)
{
    uint32_t n = (uint32_t)strlen(d), most = QN_MAX(QN_DECIMAL_MAX_INTEGER, n);
    qn_term longer = QN_TERM_EMPTY;
    if (n + 1 <= most) longer = qn_term_seq(t, digit(t, '1', '9'), digits_of(t, n, most - 1));
    return qn_term_alt(t, same_length(t, d, true), longer);
}

static qn_term whole_at_most(struct qn_terms *t, const char *d)
{
    uint32_t n = (uint32_t)strlen(d);
    qn_term shorter = QN_TERM_EMPTY;
    if (n > 1)
        shorter =
            qn_term_alt(t, qn_term_str(t, "0"), qn_term_seq(t, digit(t, '1', '9'), digits_of(t, 0, n - 2)));
    return qn_term_alt(t, same_length(t, d, false), shorter);
}

/* "" or "." digits */
static qn_term any_fraction(struct qn_terms *t)
{
    return qn_term_alt(t, QN_TERM_EPS,
                       qn_term_seq(t, qn_term_str(t, "."), digits_of(t, 1, QN_DECIMAL_MAX_FRACTION)));
}

/* Fractions (with their point, or none) at least f; open: more than f. f has no trailing zeros. */
static qn_term fraction_at_least(struct qn_terms *t, const char *f, bool open)
{
    size_t n = strlen(f);
    qn_term rest = digits_of(t, 0, QN_DECIMAL_MAX_FRACTION);
    qn_term not_zero = qn_term_seq3(t, qn_term_repeat(t, digit(t, '0', '0'), 0, QN_DECIMAL_MAX_FRACTION),
                                    digit(t, '1', '9'), rest);
    if (!n && !open) return any_fraction(t);
    qn_term out = open ? not_zero : rest;
    for (size_t i = n; i-- > 0;)
        out = qn_term_alt(t, qn_term_seq(t, digit(t, f[i], f[i]), out),
                          qn_term_seq(t, digit(t, (char)(f[i] + 1), '9'), rest));
    return qn_term_seq(t, qn_term_str(t, "."), out);
}

static qn_term fraction_at_most(struct qn_terms *t, const char *f, bool open)
{
    size_t n = strlen(f);
    qn_term rest = digits_of(t, 0, QN_DECIMAL_MAX_FRACTION);
    qn_term zeros = qn_term_repeat(t, digit(t, '0', '0'), 0, QN_DECIMAL_MAX_FRACTION);
    if (!n && open) return QN_TERM_EMPTY;
    /* behind i equal digits: stop (less, since f ends in no zero), a smaller digit, or the same one */
    qn_term out = open ? QN_TERM_EMPTY : zeros;
    for (size_t i = n; i-- > 0;) {
        out = qn_term_alt(t, qn_term_seq(t, digit(t, f[i], f[i]), out),
                          qn_term_seq(t, digit(t, '0', (char)(f[i] - 1)), rest));
        if (i) out = qn_term_alt(t, out, QN_TERM_EPS);
    }
    if (!n) out = qn_term_seq(t, digit(t, '0', '0'), zeros);
    return qn_term_alt(t, QN_TERM_EPS, qn_term_seq(t, qn_term_str(t, "."), out));
}

static qn_term at_least(struct qn_terms *t, struct decimal d, bool open, bool whole)
{
    char next[QN_DECIMAL_MAX_DIGITS + 4];
    strcpy(next, d.whole);
    add_one(next);
    if (whole) return whole_at_least(t, d.fraction[0] || open ? next : d.whole);
    return qn_term_alt(t, qn_term_seq(t, whole_at_least(t, next), any_fraction(t)),
                       qn_term_seq(t, qn_term_str(t, d.whole), fraction_at_least(t, d.fraction, open)));
}

static qn_term at_most(struct qn_terms *t, struct decimal d, bool open, bool whole)
{
    char before[QN_DECIMAL_MAX_DIGITS + 4];
    strcpy(before, d.whole);
    bool has_before = take_one(before);
    if (whole) {
        if (d.fraction[0] || !open) return whole_at_most(t, d.whole);
        return has_before ? whole_at_most(t, before) : QN_TERM_EMPTY;
    }
    qn_term less = has_before ? qn_term_seq(t, whole_at_most(t, before), any_fraction(t)) : QN_TERM_EMPTY;
    return qn_term_alt(t, less,
                       qn_term_seq(t, qn_term_str(t, d.whole), fraction_at_most(t, d.fraction, open)));
}

int qn_decimal_term(qn_term *out, struct qn_terms *t, const struct qn_decimal_bounds *bounds, bool whole,
                    struct qn_err *e)
{
    int rc = QN_OK;
    struct decimal lo = {.whole = "0"}, hi = {.whole = "0"}, zero = {.whole = "0"};
    qn_term positive = QN_TERM_EMPTY, negative = QN_TERM_EMPTY;
    if (bounds->lo) QN_TRY(decimal_of(&lo, bounds->lo, e));
    if (bounds->hi) QN_TRY(decimal_of(&hi, bounds->hi, e));
    /* zero and up: hi >= 0 */
    if (!bounds->hi || !hi.is_negative) {
        bool lo_counts = bounds->lo && !lo.is_negative;
        positive = at_least(t, lo_counts ? lo : zero, lo_counts && bounds->lo_open, whole);
        if (bounds->hi) positive = qn_term_and(t, positive, at_most(t, hi, bounds->hi_open, whole), true);
    }
    /* below zero: -m with m > 0, m >= |hi| when hi is negative, m <= |lo| */
    if (!bounds->lo || lo.is_negative) {
        bool hi_counts = bounds->hi && hi.is_negative;
        negative = at_least(t, hi_counts ? hi : zero, hi_counts ? bounds->hi_open : true, whole);
        if (bounds->lo) negative = qn_term_and(t, negative, at_most(t, lo, bounds->lo_open, whole), true);
    }
    *out = qn_term_alt(t, positive, qn_term_seq(t, qn_term_str(t, "-"), negative));
out:
    return rc;
}
