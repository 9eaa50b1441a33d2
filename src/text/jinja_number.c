/* Numbers of the Jinja interpreter: Python's integers without a bound, floats, arithmetic on them and on
 * sequences. SPDX-License-Identifier: Apache-2.0 */
#include "text/jinja_impl.h"

#include <errno.h>
#include <math.h>

#define LIMB 1000000000u

bool jj_is_int(struct val v)
{
    return v.type == V_BOOL || v.type == V_INT || v.type == V_BIG;
}

bool jj_is_number(struct val v)
{
    return jj_is_int(v) || v.type == V_FLOAT;
}

static struct big *big_new(struct run *r, int n)
{
    if (n > QN_JINJA_MAX_INT_DIGITS / 9 + 2)
        jj_fail_cap(r, "makes an integer of more than %d digits", QN_JINJA_MAX_INT_DIGITS);
    struct big *b = jj_alloc(r, sizeof *b + (size_t)n * sizeof b->d[0]);
    b->n = n;
    return b;
}

static struct big *to_big(struct run *r, struct val v)
{
    if (v.type == V_BIG) return v.u.big;
    int64_t i = v.type == V_BOOL ? v.u.truth : v.u.i;
    struct big *b = big_new(r, 3);
    b->negative = i < 0;
    uint64_t u = i < 0 ? 0 - (uint64_t)i : (uint64_t)i;
    b->n = 0;
    while (u) {
        b->d[b->n++] = (uint32_t)(u % LIMB);
        u /= LIMB;
    }
    return b;
}

/* Drops leading zeros and gives an int when it fits. */
static struct val big_value(struct big *b)
{
    while (b->n && !b->d[b->n - 1]) b->n--;
    if (b->n <= 3) {
        unsigned __int128 u = 0;
        for (int i = b->n - 1; i >= 0; i--) u = u * LIMB + b->d[i];
        if (u <= (unsigned __int128)INT64_MAX + (b->negative ? 1 : 0))
            return jj_int_value(b->negative ? (int64_t)(0 - (uint64_t)u) : (int64_t)u);
    }
    return (struct val){.type = V_BIG, .u.big = b};
}

static int big_compare_size(const struct big *a, const struct big *b)
{
    if (a->n != b->n) return a->n < b->n ? -1 : 1;
    for (int i = a->n - 1; i >= 0; i--)
        if (a->d[i] != b->d[i]) return a->d[i] < b->d[i] ? -1 : 1;
    return 0;
}

static int big_compare(const struct big *a, const struct big *b)
{
    bool a_neg = a->negative && a->n, b_neg = b->negative && b->n;
    if (a_neg != b_neg) return a_neg ? -1 : 1;
    int c = big_compare_size(a, b);
    return a_neg ? -c : c;
}

int jj_int_compare(struct run *r, struct val a, struct val b)
{
    return big_compare(to_big(r, a), to_big(r, b));
}

static struct big *big_add(struct run *r, const struct big *a, const struct big *b, bool subtract)
{
    bool b_negative = b->negative != subtract;
    struct big *out;
    if (a->negative == b_negative) {
        out = big_new(r, QN_MAX(a->n, b->n) + 1);
        uint32_t carry = 0;
        for (int i = 0; i < out->n; i++) {
            uint32_t sum = carry + (i < a->n ? a->d[i] : 0) + (i < b->n ? b->d[i] : 0);
            out->d[i] = sum % LIMB;
            carry = sum / LIMB;
        }
        out->negative = a->negative;
        return out;
    }
    int c = big_compare_size(a, b);
    const struct big *x = c >= 0 ? a : b, *y = c >= 0 ? b : a;
    out = big_new(r, x->n);
    int64_t borrow = 0;
    for (int i = 0; i < x->n; i++) {
        int64_t diff = (int64_t)x->d[i] - (i < y->n ? y->d[i] : 0) - borrow;
        borrow = diff < 0;
        out->d[i] = (uint32_t)(diff + (borrow ? (int64_t)LIMB : 0));
    }
    out->negative = c >= 0 ? a->negative : b_negative;
    return out;
}

static struct big *big_mul(struct run *r, const struct big *a, const struct big *b)
{
    struct big *out = big_new(r, a->n + b->n + 1);
    jj_tick(r, (size_t)a->n * (size_t)b->n);
    for (int i = 0; i < a->n; i++) {
        uint64_t carry = 0;
        for (int k = 0; k < b->n || carry; k++) {
            uint64_t sum = out->d[i + k] + carry + (k < b->n ? (uint64_t)a->d[i] * b->d[k] : 0);
            out->d[i + k] = (uint32_t)(sum % LIMB);
            carry = sum / LIMB;
        }
    }
    out->negative = a->negative != b->negative;
    return out;
}

/* |a| = quotient * |b| + rest, both positive; b is not zero. Digit by digit, each found by bisection. */
static void big_divide(struct run *r, const struct big *a, const struct big *b, struct big **quotient,
                       struct big **rest)
{
    struct big *q = big_new(r, a->n), *left = big_new(r, b->n + 1), *trial = big_new(r, b->n + 1);
    left->n = 0;
    jj_tick(r, (size_t)a->n * (size_t)b->n * 32);
    for (int i = a->n - 1; i >= 0; i--) {
        /* left = left * LIMB + a->d[i] */
        if (left->n || a->d[i]) {
            for (int k = left->n; k > 0; k--) left->d[k] = left->d[k - 1];
            left->d[0] = a->d[i];
            left->n++;
        }
        uint32_t lo = 0, hi = LIMB - 1; /* largest digit with digit * b <= left */
        while (lo < hi) {
            uint32_t mid = (uint32_t)(((uint64_t)lo + hi + 1) / 2);
            uint64_t carry = 0;
            trial->n = b->n + 1;
            for (int k = 0; k < trial->n; k++) {
                uint64_t sum = carry + (k < b->n ? (uint64_t)b->d[k] * mid : 0);
                trial->d[k] = (uint32_t)(sum % LIMB);
                carry = sum / LIMB;
            }
            while (trial->n && !trial->d[trial->n - 1]) trial->n--;
            if (big_compare_size(trial, left) <= 0)
                lo = mid;
            else
                hi = mid - 1;
        }
        q->d[i] = lo;
        int64_t borrow = 0;
        uint64_t carry = 0;
        for (int k = 0; k < left->n; k++) {
            uint64_t sum = carry + (k < b->n ? (uint64_t)b->d[k] * lo : 0);
            carry = sum / LIMB;
            int64_t diff = (int64_t)left->d[k] - (int64_t)(sum % LIMB) - borrow;
            borrow = diff < 0;
            left->d[k] = (uint32_t)(diff + (borrow ? (int64_t)LIMB : 0));
        }
        while (left->n && !left->d[left->n - 1]) left->n--;
    }
    *quotient = q;
    *rest = left;
}

bool jj_int_from_text(struct run *r, const char *p, size_t n, struct val *out)
{
    bool negative = n && *p == '-';
    if (n && (*p == '-' || *p == '+')) p++, n--;
    if (!n) return false;
    for (size_t i = 0; i < n; i++)
        if (p[i] < '0' || p[i] > '9') return false;
    while (n > 1 && *p == '0') p++, n--;
    if (n > QN_JINJA_MAX_INT_DIGITS)
        jj_fail_cap(r, "meets an integer of more than %d digits", QN_JINJA_MAX_INT_DIGITS);
    if (n <= 18) {
        int64_t v = 0;
        for (size_t i = 0; i < n; i++) v = v * 10 + (p[i] - '0');
        *out = jj_int_value(negative ? -v : v);
        return true;
    }
    struct big *b = big_new(r, (int)((n + 8) / 9));
    for (size_t i = 0; i < n; i++) {
        uint32_t scale = 1;
        for (size_t k = (n - 1 - i) % 9; k; k--) scale *= 10;
        b->d[(n - 1 - i) / 9] += (uint32_t)(p[i] - '0') * scale;
    }
    b->negative = negative;
    *out = big_value(b);
    return true;
}

struct val jj_int_from_double(struct run *r, double f)
{
    if (isnan(f)) jj_fail(r, "cannot convert float NaN to integer");
    if (isinf(f)) jj_fail(r, "cannot convert float infinity to integer");
    f = trunc(f);
    if (fabs(f) < 9e18) return jj_int_value((int64_t)f);
    char text[400];
    int n = snprintf(text, sizeof text, "%.0f", f);
    struct val v = jj_int_value(0);
    jj_int_from_text(r, text, (size_t)n, &v);
    return v;
}

void jj_put_int(struct run *r, struct val v)
{
    char text[32];
    if (v.type != V_BIG) {
        int n = snprintf(text, sizeof text, "%" PRId64, v.type == V_BOOL ? (int64_t)v.u.truth : v.u.i);
        jj_put(r, text, (size_t)n, QN_JINJA_LITERAL);
        return;
    }
    const struct big *b = v.u.big;
    if (b->negative) jj_puts_lit(r, "-");
    for (int i = b->n - 1; i >= 0; i--) {
        int n = snprintf(text, sizeof text, i == b->n - 1 ? "%u" : "%09u", b->d[i]);
        jj_put(r, text, (size_t)n, QN_JINJA_LITERAL);
    }
}

double jj_to_double(struct run *r, struct val v)
{
    switch (v.type) {
    case V_BOOL:
        return v.u.truth;
    case V_INT:
        return (double)v.u.i;
    case V_FLOAT:
        return v.u.f;
    case V_BIG: {
        jj_sink_begin(r);
        jj_put_int(r, v);
        struct val text = jj_sink_end(r);
        return strtod(text.u.s->p, NULL); /* rounds once, as Python does */
    }
    default:
        if (v.type == V_UNDEF) jj_fail_undef(r, v);
        jj_fail(r, "%s is no number", jj_type_name(v));
    }
}

int64_t jj_want_int(struct run *r, struct val v, const char *what)
{
    if (v.type == V_UNDEF) jj_fail_undef(r, v);
    if (v.type == V_BOOL) return v.u.truth;
    if (v.type == V_BIG) return v.u.big->negative ? INT64_MIN : INT64_MAX;
    if (v.type != V_INT) jj_fail(r, "%s must be an integer, not %s", what, jj_type_name(v));
    return v.u.i;
}

static struct val power(struct run *r, struct val a, struct val b)
{
    if (a.type == V_FLOAT || b.type == V_FLOAT || jj_compare(r, b, jj_int_value(0), "**") < 0) {
        double x = jj_to_double(r, a), y = jj_to_double(r, b);
        if (x == 0 && y < 0) jj_fail(r, "0 cannot be raised to a negative power");
        return jj_float_value(pow(x, y));
    }
    int64_t n = jj_want_int(r, b, "the exponent");
    struct val base = a.type == V_BOOL ? jj_int_value(a.u.truth) : a, out = jj_int_value(1);
    if (base.type == V_INT && base.u.i >= -1 && base.u.i <= 1)
        return base.u.i == 0                 ? jj_int_value(n == 0)
               : base.u.i == 1 || n % 2 == 0 ? jj_int_value(1)
                                             : jj_int_value(-1);
    if (n > 20000) jj_fail_cap(r, "makes an integer of more than %d digits", QN_JINJA_MAX_INT_DIGITS);
    while (n) {
        if (n & 1) out = jj_arith(r, '*', out, base);
        n >>= 1;
        if (n) base = jj_arith(r, '*', base, base);
    }
    return out;
}

static struct val float_arith(struct run *r, char op, double x, double y)
{
    if (y == 0 && strchr("/F%", op)) jj_fail(r, "division by zero");
    double m, q;
    switch (op) {
    case '+':
        return jj_float_value(x + y);
    case '-':
        return jj_float_value(x - y);
    case '*':
        return jj_float_value(x * y);
    case '/':
        return jj_float_value(x / y);
    case 'F':
        m = fmod(x, y);
        q = (x - m) / y;
        if (m && (m < 0) != (y < 0)) q -= 1;
        m = q ? floor(q) : copysign(0.0, x / y);
        return jj_float_value(q && q - m > 0.5 ? m + 1 : m);
    default:
        m = fmod(x, y);
        if (m && (m < 0) != (y < 0))
            m += y;
        else if (!m)
            m = copysign(0.0, y);
        return jj_float_value(m);
    }
}

static struct val int_arith(struct run *r, char op, struct val a, struct val b)
{
    if (op == '/') {
        double y = jj_to_double(r, b);
        if (y == 0) jj_fail(r, "division by zero");
        return jj_float_value(jj_to_double(r, a) / y);
    }
    if (a.type != V_BIG && b.type != V_BIG) {
        int64_t x = a.type == V_BOOL ? a.u.truth : a.u.i, y = b.type == V_BOOL ? b.u.truth : b.u.i, out;
        if ((op == 'F' || op == '%') && y == 0) jj_fail(r, "division by zero");
        if (op == '+' && !__builtin_add_overflow(x, y, &out)) return jj_int_value(out);
        if (op == '-' && !__builtin_sub_overflow(x, y, &out)) return jj_int_value(out);
        if (op == '*' && !__builtin_mul_overflow(x, y, &out)) return jj_int_value(out);
        if ((op == 'F' || op == '%') && y != -1) {
            int64_t q = x / y, m = x % y;
            if (m && (m < 0) != (y < 0)) q--, m += y;
            return jj_int_value(op == 'F' ? q : m);
        }
        if (op == '%') return jj_int_value(0); /* modulo -1 */
    }
    struct big *x = to_big(r, a), *y = to_big(r, b);
    if (op == '+' || op == '-') return big_value(big_add(r, x, y, op == '-'));
    if (op == '*') return big_value(big_mul(r, x, y));
    if (!y->n) jj_fail(r, "division by zero");
    struct big *q, *m;
    big_divide(r, x, y, &q, &m);
    q->negative = x->negative != y->negative;
    m->negative = x->negative;
    struct val quotient = big_value(q), rest = big_value(m);
    /* towards minus infinity; the rest has the sign of the divisor */
    if (jj_truthy(r, rest) && x->negative != y->negative) {
        quotient = int_arith(r, '-', quotient, jj_int_value(1));
        rest = int_arith(r, '+', rest, b);
    }
    return op == 'F' ? quotient : rest;
}

/* list or text, n times */
static struct val repeat(struct run *r, struct val v, int64_t n)
{
    if (n < 0) n = 0;
    if (v.type == V_STR) {
        struct str *s = jj_flat(r, v);
        jj_sink_begin(r);
        for (int64_t i = 0; i < n && s->n; i++) {
            jj_tick(r, 0);
            jj_put_str(r, s);
        }
        struct val out = jj_sink_end(r);
        out.flag = v.flag;
        return out;
    }
    struct list *l = jj_list_of(r, v), *out = jj_list_new(r, l->kind, 0);
    for (int64_t i = 0; i < n && l->n; i++) {
        jj_tick(r, l->n * 16);
        for (size_t k = 0; k < l->n; k++) jj_list_push(r, out, l->items[k]);
    }
    return jj_list_value(out);
}

/* "+" with a text that |safe made: the other half is escaped, as the reference's Markup does. */
static struct val safe_concat(struct run *r, struct val a, struct val b)
{
    jj_sink_begin(r);
    struct val part[2] = {a, b};
    for (int i = 0; i < 2; i++) {
        if (part[i].flag & STR_SAFE)
            jj_put_str(r, part[i].u.s);
        else
            jj_put_escaped(r, jj_flat(r, part[i]));
    }
    struct val out = jj_sink_end(r);
    out.flag = STR_SAFE;
    return out;
}

struct val jj_arith(struct run *r, char op, struct val a, struct val b)
{
    if (jj_is_number(a) && jj_is_number(b)) {
        if (op == 'P') return power(r, a, b);
        if (a.type == V_FLOAT || b.type == V_FLOAT)
            return float_arith(r, op, jj_to_double(r, a), jj_to_double(r, b));
        return int_arith(r, op, a, b);
    }
    if (a.type == V_UNDEF) jj_fail_undef(r, a);
    if (op == '%' && a.type == V_STR) return jj_format_percent(r, a, b);
    if (b.type == V_UNDEF) jj_fail_undef(r, b);
    if (op == '+' && a.type == V_STR && b.type == V_STR)
        return (a.flag | b.flag) & STR_SAFE ? safe_concat(r, a, b) : jj_concat_value(r, a, b);
    if (op == '+' && a.type == V_LIST && b.type == V_LIST && a.u.l->kind == b.u.l->kind &&
        a.u.l->kind != LIST_RANGE) {
        struct list *x = jj_list_of(r, a), *y = jj_list_of(r, b), *out = jj_list_new(r, x->kind, x->n + y->n);
        jj_tick(r, (x->n + y->n) * 16);
        if (x->n) memcpy(out->items, x->items, x->n * sizeof *x->items);
        if (y->n) memcpy(out->items + x->n, y->items, y->n * sizeof *y->items);
        out->n = x->n + y->n;
        return jj_list_value(out);
    }
    if (op == '*' && jj_is_int(b) && (a.type == V_STR || (a.type == V_LIST && a.u.l->kind != LIST_RANGE)))
        return repeat(r, a, jj_want_int(r, b, "the count"));
    if (op == '*' && jj_is_int(a) && (b.type == V_STR || (b.type == V_LIST && b.u.l->kind != LIST_RANGE)))
        return repeat(r, b, jj_want_int(r, a, "the count"));
    const char *sign = op == 'F' ? "//" : op == 'P' ? "**" : (char[]){op, 0};
    jj_fail(r, "%s %s %s is not defined", jj_type_name(a), sign, jj_type_name(b));
}

struct val jj_negate(struct run *r, struct val v)
{
    if (v.type == V_FLOAT) return jj_float_value(-v.u.f);
    if (jj_is_int(v)) return int_arith(r, '-', jj_int_value(0), v);
    if (v.type == V_UNDEF) jj_fail_undef(r, v);
    jj_fail(r, "%s cannot be negated", jj_type_name(v));
}
