/* Sets of characters as terms.
 * SPDX-License-Identifier: Apache-2.0 */
#include "text/regex.h"

#include "base/mem.h"

#define MAX_CODE 0x10ffffu

bool qn_charset_add(struct qn_charset *set, uint32_t lo, uint32_t hi)
{
    if (lo > hi) return true;
    if (set->n == QN_REGEX_MAX_RANGES) return false;
    set->ranges[set->n].lo = lo;
    set->ranges[set->n++].hi = hi;
    return true;
}

static void sort_ranges(struct qn_charset *set)
{
    for (int i = 1; i < set->n; i++)
        for (int k = i; k > 0 && set->ranges[k].lo < set->ranges[k - 1].lo; k--) {
            uint32_t lo = set->ranges[k].lo, hi = set->ranges[k].hi;
            set->ranges[k] = set->ranges[k - 1];
            set->ranges[k - 1].lo = lo;
            set->ranges[k - 1].hi = hi;
        }
    int n = 0;
    for (int i = 0; i < set->n; i++) {
        if (n && set->ranges[i].lo <= set->ranges[n - 1].hi + 1)
            set->ranges[n - 1].hi = QN_MAX(set->ranges[n - 1].hi, set->ranges[i].hi);
        else
            set->ranges[n++] = set->ranges[i];
    }
    set->n = n;
}

void qn_charset_invert(struct qn_charset *set)
{
    sort_ranges(set);
    struct qn_charset out = {.n = 0};
    uint32_t from = 0;
    for (int i = 0; i < set->n; i++) {
        if (set->ranges[i].lo > from) qn_charset_add(&out, from, set->ranges[i].lo - 1);
        from = set->ranges[i].hi + 1;
    }
    if (from <= MAX_CODE) qn_charset_add(&out, from, MAX_CODE);
    *set = out;
}

static int put_utf8(uint32_t c, unsigned char *out)
{
    if (c < 0x80) {
        out[0] = (unsigned char)c;
        return 1;
    }
    int n = c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    for (int i = n - 1; i > 0; i--, c >>= 6) out[i] = (unsigned char)(0x80 | (c & 63));
    out[0] = (unsigned char)((n == 2 ? 0xc0 : n == 3 ? 0xe0 : 0xf0) | c);
    return n;
}

/* Byte sequences of lo[n] .. hi[n], which have the same length: the first differing byte splits the range. */
static qn_term byte_range(struct qn_terms *t, const unsigned char *lo, const unsigned char *hi, int n)
{
    static const unsigned char low[] = {0x80, 0x80, 0x80}, high[] = {0xbf, 0xbf, 0xbf};
    if (n == 1) return qn_term_range(t, lo[0], hi[0]);
    if (lo[0] == hi[0])
        return qn_term_seq(t, qn_term_range(t, lo[0], lo[0]), byte_range(t, lo + 1, hi + 1, n - 1));
    bool from_start = !memcmp(lo + 1, low, (size_t)n - 1), to_end = !memcmp(hi + 1, high, (size_t)n - 1);
    qn_term out = QN_TERM_EMPTY;
    unsigned first = lo[0], last = hi[0];
    if (!from_start) {
        out = qn_term_seq(t, qn_term_range(t, lo[0], lo[0]), byte_range(t, lo + 1, high, n - 1));
        first++;
    }
    if (!to_end) {
        out = qn_term_alt(t, out,
                          qn_term_seq(t, qn_term_range(t, hi[0], hi[0]), byte_range(t, low, hi + 1, n - 1)));
        last--;
    }
    if (first <= last)
        out = qn_term_alt(t, out,
                          qn_term_seq(t, qn_term_range(t, (unsigned char)first, (unsigned char)last),
                                      byte_range(t, low, high, n - 1)));
    return out;
}

static qn_term code_range(struct qn_terms *t, uint32_t lo, uint32_t hi)
{
    static const uint32_t splits[][2] = {
        {0x80, 0x7ff}, {0x800, 0xd7ff}, {0xe000, 0xffff}, {0x10000, MAX_CODE}};
    qn_term out = QN_TERM_EMPTY;
    for (size_t i = 0; i < QN_COUNT(splits); i++) {
        uint32_t from = QN_MAX(lo, splits[i][0]), to = QN_MIN(hi, splits[i][1]);
        if (from > to) continue;
        unsigned char a[4], b[4];
        int n = put_utf8(from, a);
        put_utf8(to, b);
        out = qn_term_alt(t, out, byte_range(t, a, b, n));
    }
    return out;
}

qn_term qn_charset_term(struct qn_terms *t, const struct qn_charset *set, bool is_json)
{
    uint64_t plain[4] = {0};
    qn_term list[QN_REGEX_MAX_RANGES + 64];
    size_t n = 0;
    struct qn_charset s = *set;
    sort_ranges(&s);
    for (int i = 0; i < s.n; i++) {
        for (uint32_t c = s.ranges[i].lo; c <= s.ranges[i].hi && c < 0x80; c++) {
            static const char names[] = "\b\f\n\r\t\"\\", letters[] = "bfnrt\"\\";
            const char *name = c ? strchr(names, (int)c) : NULL;
            char text[8];
            if (!is_json || (!name && c >= 0x20)) {
                plain[c >> 6] |= (uint64_t)1 << (c & 63);
                continue;
            }
            if (name)
                snprintf(text, sizeof text, "\\%c", letters[name - names]);
            else
                snprintf(text, sizeof text, "\\u%04x", (unsigned)c);
            list[n++] = qn_term_str(t, text);
        }
        if (s.ranges[i].hi >= 0x80) list[n++] = code_range(t, QN_MAX(s.ranges[i].lo, 0x80), s.ranges[i].hi);
    }
    list[n++] = qn_term_class(t, plain);
    return qn_term_alts(t, list, n);
}

int64_t qn_charset_next(const char **s, const char *end)
{
    const unsigned char *u = (const unsigned char *)*s;
    if (*s >= end) return -1;
    int n = u[0] < 0x80 ? 1 : u[0] < 0xc2 ? 0 : u[0] < 0xe0 ? 2 : u[0] < 0xf0 ? 3 : u[0] < 0xf5 ? 4 : 0;
    if (!n || end - *s < n) return -1;
    uint32_t c = n == 1 ? u[0] : u[0] & (0x7fu >> n);
    for (int i = 1; i < n; i++) {
        if ((u[i] & 0xc0) != 0x80) return -1;
        c = c << 6 | (u[i] & 63);
    }
    *s += n;
    return c;
}

static bool read_hex(const char **s, const char *end, int n_digit, uint32_t *out)
{
    *out = 0;
    for (int i = 0; i < n_digit; i++, ++*s) {
        char c = *s < end ? **s : 0;
        if (c >= '0' && c <= '9')
            *out = *out << 4 | (uint32_t)(c - '0');
        else if ((c | 32) >= 'a' && (c | 32) <= 'f')
            *out = *out << 4 | (uint32_t)((c | 32) - 'a' + 10);
        else
            return false;
    }
    return true;
}

static void add_class(struct qn_charset *set, char c)
{
    struct qn_charset s = {.n = 0};
    if ((c | 32) == 'd') {
        qn_charset_add(&s, '0', '9');
    } else if ((c | 32) == 'w') {
        qn_charset_add(&s, '0', '9');
        qn_charset_add(&s, 'A', 'Z');
        qn_charset_add(&s, 'a', 'z');
        qn_charset_add(&s, '_', '_');
    } else {
        qn_charset_add(&s, '\t', '\r');
        qn_charset_add(&s, ' ', ' ');
    }
    if (c < 'a') qn_charset_invert(&s);
    for (int i = 0; i < s.n; i++) qn_charset_add(set, s.ranges[i].lo, s.ranges[i].hi);
}

int qn_charset_escape(struct qn_charset *set, const char **s, const char *end, const char *what,
                      struct qn_err *e)
{
    int rc = QN_OK;
    QN_FAIL_IF(*s >= end, e, QN_INVAL, "%s: ends in a backslash", what);
    char c = *(*s)++;
    uint32_t code = 0;
    static const char from[] = "nrtfv", to[] = "\n\r\t\f\v";
    const char *known = strchr(from, c);
    if (strchr("dDwWsS", c)) {
        add_class(set, c);
        goto out;
    }
    if (known) {
        code = (uint32_t)to[known - from];
    } else if (c == 'x') {
        QN_FAIL_IF(!read_hex(s, end, 2, &code), e, QN_INVAL, "%s: \\x needs two hexadecimal digits", what);
    } else if (c == 'u' && *s < end && **s == '{') {
        ++*s;
        while (*s < end && **s != '}' && code <= MAX_CODE) {
            uint32_t digit;
            QN_FAIL_IF(!read_hex(s, end, 1, &digit), e, QN_INVAL, "%s: \\u{...} needs hexadecimal digits",
                       what);
            code = code << 4 | digit;
        }
        QN_FAIL_IF(*s >= end || code > MAX_CODE, e, QN_INVAL, "%s: \\u{...} is no code point", what);
        ++*s;
    } else if (c == 'u' || c == 'U') {
        QN_FAIL_IF(!read_hex(s, end, c == 'u' ? 4 : 8, &code) || code > MAX_CODE, e, QN_INVAL,
                   "%s: \\%c needs hexadecimal digits of a code point", what, c);
    } else if (c == '0') {
        code = 0;
    } else {
        QN_FAIL_IF((c >= '1' && c <= '9') || c == 'k', e, QN_UNSUPPORTED,
                   "%s: back reference \\%c is not supported", what, c);
        QN_FAIL_IF((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'), e, QN_UNSUPPORTED,
                   "%s: \\%c is not supported", what, c);
        --*s;
        int64_t literal = qn_charset_next(s, end);
        QN_FAIL_IF(literal < 0, e, QN_INVAL, "%s: no UTF-8 after a backslash", what);
        code = (uint32_t)literal;
    }
    QN_FAIL_IF(!qn_charset_add(set, code, code), e, QN_TOOBIG, "%s: a class has more than %d ranges", what,
               QN_REGEX_MAX_RANGES);
out:
    return rc;
}

int qn_charset_parse(struct qn_charset *set, const char **s, const char *end, const char *what,
                     struct qn_err *e)
{
    int rc = QN_OK;
    bool inverted = *s < end && **s == '^';
    if (inverted) ++*s;
    set->n = 0;
    for (bool first = true;; first = false) {
        QN_FAIL_IF(*s >= end, e, QN_INVAL, "%s: a class lacks its ']'", what);
        if (**s == ']' && !first) break;
        if (**s == ']' && first && !inverted) break; /* [] matches nothing */
        int64_t lo, hi;
        int before = set->n;
        if (**s == '\\') {
            ++*s;
            QN_TRY(qn_charset_escape(set, s, end, what, e));
            bool is_single = set->n == before + 1 && set->ranges[before].lo == set->ranges[before].hi;
            if (!is_single) continue;
            lo = set->ranges[--set->n].lo;
        } else {
            lo = qn_charset_next(s, end);
            QN_FAIL_IF(lo < 0, e, QN_INVAL, "%s: no UTF-8 in a class", what);
        }
        hi = lo;
        if (end - *s >= 2 && **s == '-' && (*s)[1] != ']') {
            ++*s;
            if (**s == '\\') {
                ++*s;
                before = set->n;
                QN_TRY(qn_charset_escape(set, s, end, what, e));
                QN_FAIL_IF(set->n != before + 1 || set->ranges[before].lo != set->ranges[before].hi, e,
                           QN_INVAL, "%s: a range ends in a class", what);
                hi = set->ranges[--set->n].lo;
            } else {
                hi = qn_charset_next(s, end);
            }
            QN_FAIL_IF(hi < lo, e, QN_INVAL, "%s: a range is the wrong way round", what);
        }
        QN_FAIL_IF(!qn_charset_add(set, (uint32_t)lo, (uint32_t)hi), e, QN_TOOBIG,
                   "%s: a class has more than %d ranges", what, QN_REGEX_MAX_RANGES);
    }
    ++*s;
    if (inverted) qn_charset_invert(set);
out:
    return rc;
}
