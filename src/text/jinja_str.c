/* Strings of the Jinja interpreter: Python's str methods, Unicode case.
 * All positions a template sees are code points; bytes are UTF-8. Every result keeps the origin of each byte.
 * SPDX-License-Identifier: Apache-2.0 */
#include "text/jinja_impl.h"

#include <ctype.h>
#include <math.h>
#include <utf8proc.h>

#define MAX_WIDTH 1000000 /* of a padded field */

/* ---- code points ---- */

size_t jj_next_cp(const char *p, size_t n, int32_t *cp)
{
    unsigned char c = (unsigned char)p[0];
    if (c < 0x80) {
        *cp = c;
        return 1;
    }
    utf8proc_int32_t v;
    utf8proc_ssize_t k =
        utf8proc_iterate((const utf8proc_uint8_t *)p, (utf8proc_ssize_t)QN_MIN(n, (size_t)4), &v);
    if (k <= 0) {
        *cp = 0xfffd;
        return 1;
    }
    *cp = v;
    return (size_t)k;
}

/* The code point that ends at byte `end`; returns its first byte. */
static size_t last_cp(const char *p, size_t end, int32_t *cp)
{
    size_t at = end - 1;
    while (at > 0 && end - at < 4 && ((unsigned char)p[at] & 0xc0) == 0x80) at--;
    if (jj_next_cp(p + at, end - at, cp) != end - at) { /* invalid bytes: one at a time */
        *cp = 0xfffd;
        return end - 1;
    }
    return at;
}

bool jj_is_space_cp(int32_t c)
{
    return (c >= 9 && c <= 13) || (c >= 28 && c <= 32) || c == 0x85 || c == 0xa0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f ||
           c == 0x3000;
}

static int category(int32_t c)
{
    return utf8proc_category(c);
}

bool jj_is_printable_cp(int32_t c)
{
    if (c < 0x7f) return c >= 0x20;
    switch (category(c)) {
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
    case UTF8PROC_CATEGORY_ZS:
        return false;
    default:
        return true;
    }
}

static bool is_alpha_cp(int32_t c)
{
    int k = category(c);
    return k >= UTF8PROC_CATEGORY_LU && k <= UTF8PROC_CATEGORY_LO;
}

static bool in_ranges(int32_t c, const int32_t (*ranges)[2], size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (c >= ranges[i][0] && c <= ranges[i][1]) return true;
    return false;
}

static bool is_digit_cp(int32_t c)
{
    static const int32_t more[][2] = {
        {0xb2, 0xb3},     {0xb9, 0xb9},       {0x1369, 0x1371},   {0x19da, 0x19da},   {0x2070, 0x2070},
        {0x2074, 0x2079}, {0x2080, 0x2089},   {0x2460, 0x2468},   {0x2474, 0x247c},   {0x2488, 0x2490},
        {0x24ea, 0x24ea}, {0x24f5, 0x24fd},   {0x24ff, 0x24ff},   {0x2776, 0x277e},   {0x2780, 0x2788},
        {0x278a, 0x2792}, {0x10a40, 0x10a43}, {0x10e60, 0x10e68}, {0x11052, 0x1105a}, {0x1f100, 0x1f10a},
    };
    return category(c) == UTF8PROC_CATEGORY_ND || in_ranges(c, more, QN_COUNT(more));
}

static bool is_numeric_cp(int32_t c)
{
    int k = category(c);
    return (k >= UTF8PROC_CATEGORY_ND && k <= UTF8PROC_CATEGORY_NO) || is_digit_cp(c);
}

static bool is_lower_cp(int32_t c)
{
    static const int32_t more[][2] = {
        {0xaa, 0xaa},     {0xba, 0xba},     {0x2b0, 0x2b8},   {0x2c0, 0x2c1},   {0x2e0, 0x2e4},
        {0x345, 0x345},   {0x37a, 0x37a},   {0x1d2c, 0x1d6a}, {0x1d78, 0x1d78}, {0x1d9b, 0x1dbf},
        {0x2071, 0x2071}, {0x207f, 0x207f}, {0x2090, 0x209c}, {0x2170, 0x217f}, {0x24d0, 0x24e9},
        {0x2c7c, 0x2c7d}, {0xa69c, 0xa69d}, {0xa770, 0xa770}, {0xa7f8, 0xa7f9}, {0xab5c, 0xab5f},
    };
    return category(c) == UTF8PROC_CATEGORY_LL || in_ranges(c, more, QN_COUNT(more));
}

static bool is_upper_cp(int32_t c)
{
    static const int32_t more[][2] = {
        {0x2160, 0x216f}, {0x24b6, 0x24cf}, {0x1f130, 0x1f149}, {0x1f150, 0x1f169}, {0x1f170, 0x1f189}};
    return category(c) == UTF8PROC_CATEGORY_LU || in_ranges(c, more, QN_COUNT(more));
}

static bool is_cased_cp(int32_t c)
{
    return is_lower_cp(c) || is_upper_cp(c) || category(c) == UTF8PROC_CATEGORY_LT;
}

/* Code points whose upper or title case is more than one (Unicode SpecialCasing, unconditional). */
static const struct {
    uint16_t cp, upper[3], title[3];
} special_case[] = {{0xdf, {0x53, 0x53, 0x0}, {0x53, 0x73, 0x0}},
                    {0x149, {0x2bc, 0x4e, 0x0}, {0x2bc, 0x4e, 0x0}},
                    {0x1f0, {0x4a, 0x30c, 0x0}, {0x4a, 0x30c, 0x0}},
                    {0x390, {0x399, 0x308, 0x301}, {0x399, 0x308, 0x301}},
                    {0x3b0, {0x3a5, 0x308, 0x301}, {0x3a5, 0x308, 0x301}},
                    {0x587, {0x535, 0x552, 0x0}, {0x535, 0x582, 0x0}},
                    {0x1e96, {0x48, 0x331, 0x0}, {0x48, 0x331, 0x0}},
                    {0x1e97, {0x54, 0x308, 0x0}, {0x54, 0x308, 0x0}},
                    {0x1e98, {0x57, 0x30a, 0x0}, {0x57, 0x30a, 0x0}},
                    {0x1e99, {0x59, 0x30a, 0x0}, {0x59, 0x30a, 0x0}},
                    {0x1e9a, {0x41, 0x2be, 0x0}, {0x41, 0x2be, 0x0}},
                    {0x1f50, {0x3a5, 0x313, 0x0}, {0x3a5, 0x313, 0x0}},
                    {0x1f52, {0x3a5, 0x313, 0x300}, {0x3a5, 0x313, 0x300}},
                    {0x1f54, {0x3a5, 0x313, 0x301}, {0x3a5, 0x313, 0x301}},
                    {0x1f56, {0x3a5, 0x313, 0x342}, {0x3a5, 0x313, 0x342}},
                    {0x1f80, {0x1f08, 0x399, 0x0}, {0x1f88, 0x0, 0x0}},
                    {0x1f81, {0x1f09, 0x399, 0x0}, {0x1f89, 0x0, 0x0}},
                    {0x1f82, {0x1f0a, 0x399, 0x0}, {0x1f8a, 0x0, 0x0}},
                    {0x1f83, {0x1f0b, 0x399, 0x0}, {0x1f8b, 0x0, 0x0}},
                    {0x1f84, {0x1f0c, 0x399, 0x0}, {0x1f8c, 0x0, 0x0}},
                    {0x1f85, {0x1f0d, 0x399, 0x0}, {0x1f8d, 0x0, 0x0}},
                    {0x1f86, {0x1f0e, 0x399, 0x0}, {0x1f8e, 0x0, 0x0}},
                    {0x1f87, {0x1f0f, 0x399, 0x0}, {0x1f8f, 0x0, 0x0}},
                    {0x1f88, {0x1f08, 0x399, 0x0}, {0x1f88, 0x0, 0x0}},
                    {0x1f89, {0x1f09, 0x399, 0x0}, {0x1f89, 0x0, 0x0}},
                    {0x1f8a, {0x1f0a, 0x399, 0x0}, {0x1f8a, 0x0, 0x0}},
                    {0x1f8b, {0x1f0b, 0x399, 0x0}, {0x1f8b, 0x0, 0x0}},
                    {0x1f8c, {0x1f0c, 0x399, 0x0}, {0x1f8c, 0x0, 0x0}},
                    {0x1f8d, {0x1f0d, 0x399, 0x0}, {0x1f8d, 0x0, 0x0}},
                    {0x1f8e, {0x1f0e, 0x399, 0x0}, {0x1f8e, 0x0, 0x0}},
                    {0x1f8f, {0x1f0f, 0x399, 0x0}, {0x1f8f, 0x0, 0x0}},
                    {0x1f90, {0x1f28, 0x399, 0x0}, {0x1f98, 0x0, 0x0}},
                    {0x1f91, {0x1f29, 0x399, 0x0}, {0x1f99, 0x0, 0x0}},
                    {0x1f92, {0x1f2a, 0x399, 0x0}, {0x1f9a, 0x0, 0x0}},
                    {0x1f93, {0x1f2b, 0x399, 0x0}, {0x1f9b, 0x0, 0x0}},
                    {0x1f94, {0x1f2c, 0x399, 0x0}, {0x1f9c, 0x0, 0x0}},
                    {0x1f95, {0x1f2d, 0x399, 0x0}, {0x1f9d, 0x0, 0x0}},
                    {0x1f96, {0x1f2e, 0x399, 0x0}, {0x1f9e, 0x0, 0x0}},
                    {0x1f97, {0x1f2f, 0x399, 0x0}, {0x1f9f, 0x0, 0x0}},
                    {0x1f98, {0x1f28, 0x399, 0x0}, {0x1f98, 0x0, 0x0}},
                    {0x1f99, {0x1f29, 0x399, 0x0}, {0x1f99, 0x0, 0x0}},
                    {0x1f9a, {0x1f2a, 0x399, 0x0}, {0x1f9a, 0x0, 0x0}},
                    {0x1f9b, {0x1f2b, 0x399, 0x0}, {0x1f9b, 0x0, 0x0}},
                    {0x1f9c, {0x1f2c, 0x399, 0x0}, {0x1f9c, 0x0, 0x0}},
                    {0x1f9d, {0x1f2d, 0x399, 0x0}, {0x1f9d, 0x0, 0x0}},
                    {0x1f9e, {0x1f2e, 0x399, 0x0}, {0x1f9e, 0x0, 0x0}},
                    {0x1f9f, {0x1f2f, 0x399, 0x0}, {0x1f9f, 0x0, 0x0}},
                    {0x1fa0, {0x1f68, 0x399, 0x0}, {0x1fa8, 0x0, 0x0}},
                    {0x1fa1, {0x1f69, 0x399, 0x0}, {0x1fa9, 0x0, 0x0}},
                    {0x1fa2, {0x1f6a, 0x399, 0x0}, {0x1faa, 0x0, 0x0}},
                    {0x1fa3, {0x1f6b, 0x399, 0x0}, {0x1fab, 0x0, 0x0}},
                    {0x1fa4, {0x1f6c, 0x399, 0x0}, {0x1fac, 0x0, 0x0}},
                    {0x1fa5, {0x1f6d, 0x399, 0x0}, {0x1fad, 0x0, 0x0}},
                    {0x1fa6, {0x1f6e, 0x399, 0x0}, {0x1fae, 0x0, 0x0}},
                    {0x1fa7, {0x1f6f, 0x399, 0x0}, {0x1faf, 0x0, 0x0}},
                    {0x1fa8, {0x1f68, 0x399, 0x0}, {0x1fa8, 0x0, 0x0}},
                    {0x1fa9, {0x1f69, 0x399, 0x0}, {0x1fa9, 0x0, 0x0}},
                    {0x1faa, {0x1f6a, 0x399, 0x0}, {0x1faa, 0x0, 0x0}},
                    {0x1fab, {0x1f6b, 0x399, 0x0}, {0x1fab, 0x0, 0x0}},
                    {0x1fac, {0x1f6c, 0x399, 0x0}, {0x1fac, 0x0, 0x0}},
                    {0x1fad, {0x1f6d, 0x399, 0x0}, {0x1fad, 0x0, 0x0}},
                    {0x1fae, {0x1f6e, 0x399, 0x0}, {0x1fae, 0x0, 0x0}},
                    {0x1faf, {0x1f6f, 0x399, 0x0}, {0x1faf, 0x0, 0x0}},
                    {0x1fb2, {0x1fba, 0x399, 0x0}, {0x1fba, 0x345, 0x0}},
                    {0x1fb3, {0x391, 0x399, 0x0}, {0x1fbc, 0x0, 0x0}},
                    {0x1fb4, {0x386, 0x399, 0x0}, {0x386, 0x345, 0x0}},
                    {0x1fb6, {0x391, 0x342, 0x0}, {0x391, 0x342, 0x0}},
                    {0x1fb7, {0x391, 0x342, 0x399}, {0x391, 0x342, 0x345}},
                    {0x1fbc, {0x391, 0x399, 0x0}, {0x1fbc, 0x0, 0x0}},
                    {0x1fc2, {0x1fca, 0x399, 0x0}, {0x1fca, 0x345, 0x0}},
                    {0x1fc3, {0x397, 0x399, 0x0}, {0x1fcc, 0x0, 0x0}},
                    {0x1fc4, {0x389, 0x399, 0x0}, {0x389, 0x345, 0x0}},
                    {0x1fc6, {0x397, 0x342, 0x0}, {0x397, 0x342, 0x0}},
                    {0x1fc7, {0x397, 0x342, 0x399}, {0x397, 0x342, 0x345}},
                    {0x1fcc, {0x397, 0x399, 0x0}, {0x1fcc, 0x0, 0x0}},
                    {0x1fd2, {0x399, 0x308, 0x300}, {0x399, 0x308, 0x300}},
                    {0x1fd3, {0x399, 0x308, 0x301}, {0x399, 0x308, 0x301}},
                    {0x1fd6, {0x399, 0x342, 0x0}, {0x399, 0x342, 0x0}},
                    {0x1fd7, {0x399, 0x308, 0x342}, {0x399, 0x308, 0x342}},
                    {0x1fe2, {0x3a5, 0x308, 0x300}, {0x3a5, 0x308, 0x300}},
                    {0x1fe3, {0x3a5, 0x308, 0x301}, {0x3a5, 0x308, 0x301}},
                    {0x1fe4, {0x3a1, 0x313, 0x0}, {0x3a1, 0x313, 0x0}},
                    {0x1fe6, {0x3a5, 0x342, 0x0}, {0x3a5, 0x342, 0x0}},
                    {0x1fe7, {0x3a5, 0x308, 0x342}, {0x3a5, 0x308, 0x342}},
                    {0x1ff2, {0x1ffa, 0x399, 0x0}, {0x1ffa, 0x345, 0x0}},
                    {0x1ff3, {0x3a9, 0x399, 0x0}, {0x1ffc, 0x0, 0x0}},
                    {0x1ff4, {0x38f, 0x399, 0x0}, {0x38f, 0x345, 0x0}},
                    {0x1ff6, {0x3a9, 0x342, 0x0}, {0x3a9, 0x342, 0x0}},
                    {0x1ff7, {0x3a9, 0x342, 0x399}, {0x3a9, 0x342, 0x345}},
                    {0x1ffc, {0x3a9, 0x399, 0x0}, {0x1ffc, 0x0, 0x0}},
                    {0xfb00, {0x46, 0x46, 0x0}, {0x46, 0x66, 0x0}},
                    {0xfb01, {0x46, 0x49, 0x0}, {0x46, 0x69, 0x0}},
                    {0xfb02, {0x46, 0x4c, 0x0}, {0x46, 0x6c, 0x0}},
                    {0xfb03, {0x46, 0x46, 0x49}, {0x46, 0x66, 0x69}},
                    {0xfb04, {0x46, 0x46, 0x4c}, {0x46, 0x66, 0x6c}},
                    {0xfb05, {0x53, 0x54, 0x0}, {0x53, 0x74, 0x0}},
                    {0xfb06, {0x53, 0x54, 0x0}, {0x53, 0x74, 0x0}},
                    {0xfb13, {0x544, 0x546, 0x0}, {0x544, 0x576, 0x0}},
                    {0xfb14, {0x544, 0x535, 0x0}, {0x544, 0x565, 0x0}},
                    {0xfb15, {0x544, 0x53b, 0x0}, {0x544, 0x56b, 0x0}},
                    {0xfb16, {0x54e, 0x546, 0x0}, {0x54e, 0x576, 0x0}},
                    {0xfb17, {0x544, 0x53d, 0x0}, {0x544, 0x56d, 0x0}}};

/* ---- case ---- */

void jj_put_cp(struct run *r, int32_t cp, uint8_t origin)
{
    utf8proc_uint8_t text[4];
    utf8proc_ssize_t n = utf8proc_encode_char(cp, text);
    jj_put(r, (const char *)text, (size_t)n, origin);
}

static void put_cased(struct run *r, int32_t cp, bool title, uint8_t origin)
{
    for (size_t i = 0; cp >= 0xdf && i < QN_COUNT(special_case); i++) {
        if (special_case[i].cp != cp) continue;
        const uint16_t *to = title ? special_case[i].title : special_case[i].upper;
        for (int k = 0; k < 3 && to[k]; k++) jj_put_cp(r, to[k], origin);
        return;
    }
    jj_put_cp(r, title ? utf8proc_totitle(cp) : utf8proc_toupper(cp), origin);
}

/* A capital sigma at the end of a word becomes a final sigma. */
static bool is_final_sigma(const struct str *s, size_t at, size_t k)
{
    int32_t cp;
    if (!at) return false;
    last_cp(s->p, at, &cp);
    if (!is_alpha_cp(cp)) return false;
    if (at + k >= s->n) return true;
    jj_next_cp(s->p + at + k, s->n - at - k, &cp);
    return !is_alpha_cp(cp);
}

static void put_lower(struct run *r, const struct str *s, size_t at, size_t k, int32_t cp)
{
    uint8_t origin = jj_origin_at(s, at);
    if (cp == 0x130) {
        jj_put_cp(r, 'i', origin);
        jj_put_cp(r, 0x307, origin);
    } else if (cp == 0x3a3) {
        jj_put_cp(r, is_final_sigma(s, at, k) ? 0x3c2 : 0x3c3, origin);
    } else {
        jj_put_cp(r, utf8proc_tolower(cp), origin);
    }
}

struct val jj_str_case(struct run *r, struct val v, char how)
{
    const struct str *s = jj_flat(r, v);
    bool after_cased = false;
    int32_t cp;
    jj_tick(r, s->n * 8);
    jj_sink_begin(r);
    for (size_t i = 0, k; i < s->n; i += k) {
        k = jj_next_cp(s->p + i, s->n - i, &cp);
        uint8_t origin = jj_origin_at(s, i);
        if (cp == 0xfffd) { /* perhaps an invalid byte: as it is */
            jj_put_slice(r, s, i, k);
            continue;
        }
        switch (how) {
        case 'l':
            put_lower(r, s, i, k, cp);
            break;
        case 'f':
            if (cp == 0xdf || cp == 0x1e9e)
                jj_put(r, "ss", 2, origin);
            else if (cp == 0x3c2)
                jj_put_cp(r, 0x3c3, origin);
            else
                jj_put_cp(r, utf8proc_tolower(cp), origin);
            break;
        case 'u':
            put_cased(r, cp, false, origin);
            break;
        case 't':
            if (after_cased)
                put_lower(r, s, i, k, cp);
            else
                put_cased(r, cp, true, origin);
            after_cased = is_cased_cp(cp);
            break;
        case 'c':
            if (i)
                put_lower(r, s, i, k, cp);
            else
                put_cased(r, cp, true, origin);
            break;
        default: /* swap */
            if (is_upper_cp(cp))
                put_lower(r, s, i, k, cp);
            else if (is_lower_cp(cp))
                put_cased(r, cp, false, origin);
            else
                jj_put_slice(r, s, i, k);
        }
    }
    struct val out = jj_sink_end(r);
    out.flag = v.flag;
    return out;
}

bool jj_str_is_case(const struct str *s, bool upper)
{
    bool any = false;
    int32_t cp;
    for (size_t i = 0; i < s->n;) {
        i += jj_next_cp(s->p + i, s->n - i, &cp);
        if (upper ? is_lower_cp(cp) : is_upper_cp(cp)) return false;
        if (category(cp) == UTF8PROC_CATEGORY_LT) return false;
        any |= upper ? is_upper_cp(cp) : is_lower_cp(cp);
    }
    return any;
}

/* ---- searching, cutting ---- */

size_t jj_find_bytes(const char *hay, size_t n_hay, const char *needle, size_t n_needle)
{
    if (!n_needle) return 0;
    if (n_needle > n_hay) return SIZE_MAX;
    const char *hit = memmem(hay, n_hay, needle, n_needle);
    return hit ? (size_t)(hit - hay) : SIZE_MAX;
}

/* Last place of needle in hay. */
static size_t find_last(const char *hay, size_t n_hay, const char *needle, size_t n_needle)
{
    if (n_needle > n_hay) return SIZE_MAX;
    for (size_t i = n_hay - n_needle + 1; i-- > 0;)
        if (!memcmp(hay + i, needle, n_needle)) return i;
    return SIZE_MAX;
}

static struct val piece(struct run *r, struct val v, size_t from, size_t to)
{
    struct val out = jj_slice_value(r, v.u.s, from, to - from);
    out.flag = v.flag;
    return out;
}

static bool in_set(const struct str *set, const char *p, size_t k)
{
    if (k == 1) return memchr(set->p, *p, set->n) != NULL;
    return jj_find_bytes(set->p, set->n, p, k) != SIZE_MAX;
}

struct val jj_str_strip(struct run *r, struct val v, const struct str *chars, int side)
{
    const struct str *s = jj_flat(r, v);
    size_t from = 0, to = s->n;
    int32_t cp;
    if (chars && !chars->n) return v;
    while (side & 1 && from < to) {
        size_t k = jj_next_cp(s->p + from, to - from, &cp);
        if (chars ? !in_set(chars, s->p + from, k) : !jj_is_space_cp(cp)) break;
        from += k;
    }
    while (side & 2 && to > from) {
        size_t at = last_cp(s->p, to, &cp);
        if (at < from || (chars ? !in_set(chars, s->p + at, to - at) : !jj_is_space_cp(cp))) break;
        to = at;
    }
    jj_tick(r, from + s->n - to);
    if (from == 0 && to == s->n) return v;
    return piece(r, v, from, to);
}

struct val jj_str_replace(struct run *r, struct val v, const struct str *from, const struct str *to,
                          int64_t max)
{
    const struct str *s = jj_flat(r, v);
    if (max < 0) max = INT64_MAX;
    jj_tick(r, s->n);
    jj_sink_begin(r);
    size_t at = 0;
    if (!from->n) { /* between all code points */
        int32_t cp;
        for (size_t k; max > 0; max--) {
            jj_put_slice(r, to, 0, to->n);
            if (at >= s->n) break;
            k = jj_next_cp(s->p + at, s->n - at, &cp);
            jj_put_slice(r, s, at, k);
            at += k;
            jj_tick(r, 0);
        }
    } else {
        for (; max > 0; max--) {
            size_t hit = jj_find_bytes(s->p + at, s->n - at, from->p, from->n);
            if (hit == SIZE_MAX) break;
            jj_put_slice(r, s, at, hit);
            jj_put_slice(r, to, 0, to->n);
            at += hit + from->n;
            jj_tick(r, 0);
        }
    }
    jj_put_slice(r, s, at, s->n - at);
    struct val out = jj_sink_end(r);
    out.flag = v.flag;
    return out;
}

/* Length of the line break at p, 0 when there is none. */
static size_t line_break(const char *p, size_t n)
{
    int32_t cp;
    if (p[0] == '\r') return n > 1 && p[1] == '\n' ? 2 : 1;
    size_t k = jj_next_cp(p, n, &cp);
    return (cp >= 10 && cp <= 13) || (cp >= 0x1c && cp <= 0x1e) || cp == 0x85 || cp == 0x2028 || cp == 0x2029
               ? k
               : 0;
}

struct list *jj_str_lines(struct run *r, struct val v, bool keep_ends)
{
    const struct str *s = jj_flat(r, v);
    struct list *out = jj_list_new(r, LIST_LIST, 0);
    size_t start = 0;
    int32_t cp;
    jj_tick(r, s->n);
    for (size_t i = 0; i < s->n;) {
        size_t k = line_break(s->p + i, s->n - i);
        if (!k) {
            i += jj_next_cp(s->p + i, s->n - i, &cp);
            continue;
        }
        jj_list_push(r, out, piece(r, v, start, keep_ends ? i + k : i));
        i += k;
        start = i;
    }
    if (start < s->n) jj_list_push(r, out, piece(r, v, start, s->n));
    return out;
}

/* split() without a separator, from the left; max < 0: no limit. */
static struct list *split_space(struct run *r, struct val v, int64_t max)
{
    const struct str *s = jj_flat(r, v);
    struct list *out = jj_list_new(r, LIST_LIST, 0);
    int32_t cp;
    size_t i = 0, k;
    jj_tick(r, s->n);
    for (;;) {
        while (i < s->n && (k = jj_next_cp(s->p + i, s->n - i, &cp)) && jj_is_space_cp(cp)) i += k;
        if (i >= s->n) return out;
        size_t start = i;
        if (max >= 0 && (int64_t)out->n >= max) {
            jj_list_push(r, out, piece(r, v, start, s->n));
            return out;
        }
        while (i < s->n && (k = jj_next_cp(s->p + i, s->n - i, &cp)) && !jj_is_space_cp(cp)) i += k;
        jj_list_push(r, out, piece(r, v, start, i));
    }
}

struct list *jj_str_words(struct run *r, struct val v)
{
    return split_space(r, v, -1);
}

static void turn_round(struct list *l)
{
    for (size_t i = 0; i < l->n / 2; i++) {
        struct val t = l->items[i];
        l->items[i] = l->items[l->n - 1 - i];
        l->items[l->n - 1 - i] = t;
    }
}

static struct list *rsplit_space(struct run *r, struct val v, int64_t max)
{
    const struct str *s = jj_flat(r, v);
    struct list *out = jj_list_new(r, LIST_LIST, 0);
    int32_t cp;
    size_t end = s->n;
    jj_tick(r, s->n);
    for (;;) {
        while (end > 0) {
            size_t at = last_cp(s->p, end, &cp);
            if (!jj_is_space_cp(cp)) break;
            end = at;
        }
        if (!end) break;
        if (max >= 0 && (int64_t)out->n >= max) {
            jj_list_push(r, out, piece(r, v, 0, end));
            break;
        }
        size_t start = end;
        while (start > 0) {
            size_t at = last_cp(s->p, start, &cp);
            if (jj_is_space_cp(cp)) break;
            start = at;
        }
        jj_list_push(r, out, piece(r, v, start, end));
        end = start;
    }
    turn_round(out);
    return out;
}

static struct list *split_at(struct run *r, struct val v, const struct str *sep, int64_t max, bool from_right)
{
    const struct str *s = jj_flat(r, v);
    if (!sep->n) jj_fail(r, "split: the separator is empty");
    struct list *out = jj_list_new(r, LIST_LIST, 0);
    jj_tick(r, s->n);
    size_t from = 0, to = s->n;
    while (max < 0 || (int64_t)out->n < max) {
        size_t hit = from_right ? find_last(s->p, to, sep->p, sep->n)
                                : jj_find_bytes(s->p + from, s->n - from, sep->p, sep->n);
        if (hit == SIZE_MAX) break;
        if (from_right) {
            jj_list_push(r, out, piece(r, v, hit + sep->n, to));
            to = hit;
        } else {
            jj_list_push(r, out, piece(r, v, from, from + hit));
            from += hit + sep->n;
        }
    }
    jj_list_push(r, out, piece(r, v, from, to));
    if (from_right) turn_round(out);
    return out;
}

/* ---- methods: self is the string, a[] the bound arguments ---- */

static int64_t int_or(struct run *r, struct val v, int64_t dflt, const char *what)
{
    return jj_given(v) ? jj_want_int(r, v, what) : dflt;
}

/* Optional start and end in code points -> bytes of s. false: an empty range beyond the end. */
static bool byte_range(struct run *r, struct str *s, struct val start, struct val end, size_t *from,
                       size_t *to)
{
    *from = 0;
    *to = s->n;
    if (!jj_given(start) && !jj_given(end)) return true;
    int64_t n = jj_count_cp(s), a = int_or(r, start, 0, "start"), b = int_or(r, end, n, "end");
    if (a < 0) a = QN_MAX(a + n, 0);
    if (b < 0) b = QN_MAX(b + n, 0);
    if (b > n) b = n;
    if (a > b) return false;
    *from = jj_cp_offset(s, a);
    *to = jj_cp_offset(s, b);
    return true;
}

static struct val m_case(struct run *r, struct val self, struct val *a, struct call *c)
{
    (void)a;
    return jj_str_case(r, self, (char)c->x);
}

/* The parameter of the table row that was called. */
#define X (c->x)

static struct val m_strip(struct run *r, struct val self, struct val *a, struct call *c)
{
    return jj_str_strip(r, self, jj_given(a[0]) ? jj_want_str(r, a[0], "strip: the argument") : NULL, X);
}

static struct val m_split(struct run *r, struct val self, struct val *a, struct call *c)
{
    int64_t max = int_or(r, a[1], -1, "maxsplit");
    if (!jj_given(a[0])) return jj_list_value(X ? rsplit_space(r, self, max) : split_space(r, self, max));
    return jj_list_value(split_at(r, self, jj_want_str(r, a[0], "split: the separator"), max, X));
}

static struct val m_splitlines(struct run *r, struct val self, struct val *a, struct call *c)
{
    (void)c;
    return jj_list_value(jj_str_lines(r, self, jj_given(a[0]) && jj_truthy(r, a[0])));
}

static struct val m_startswith(struct run *r, struct val self, struct val *a, struct call *c)
{
    struct str *s = jj_flat(r, self);
    size_t from, to;
    if (!byte_range(r, s, a[1], a[2], &from, &to)) return jj_bool_value(false);
    struct list one = {.items = &a[0], .n = 1}, *tries = &one;
    if (a[0].type == V_LIST && a[0].u.l->kind == LIST_TUPLE) tries = jj_list_of(r, a[0]);
    for (size_t i = 0; i < tries->n; i++) {
        const struct str *x =
            jj_want_str(r, tries->items[i], X ? "endswith: the suffix" : "startswith: the prefix");
        if (x->n <= to - from && !memcmp(X ? s->p + to - x->n : s->p + from, x->p, x->n))
            return jj_bool_value(true);
    }
    return jj_bool_value(false);
}

enum { FIND_FIRST, FIND_LAST, INDEX_FIRST, INDEX_LAST };

static struct val m_find(struct run *r, struct val self, struct val *a, struct call *c)
{
    struct str *s = jj_flat(r, self);
    const struct str *x = jj_want_str(r, a[0], "find: the argument");
    size_t from, to, hit = SIZE_MAX;
    jj_tick(r, s->n);
    if (byte_range(r, s, a[1], a[2], &from, &to))
        hit = X == FIND_FIRST || X == INDEX_FIRST ? jj_find_bytes(s->p + from, to - from, x->p, x->n)
                                                  : find_last(s->p + from, to - from, x->p, x->n);
    if (hit == SIZE_MAX) {
        if (X >= INDEX_FIRST) jj_fail(r, "index: substring not found");
        return jj_int_value(-1);
    }
    struct str before = {.p = s->p, .n = from + hit, .n_cp = -1};
    return jj_int_value(jj_count_cp(&before));
}

static struct val m_count(struct run *r, struct val self, struct val *a, struct call *c)
{
    (void)c;
    struct str *s = jj_flat(r, self);
    const struct str *x = jj_want_str(r, a[0], "count: the argument");
    size_t from, to;
    if (!byte_range(r, s, a[1], a[2], &from, &to)) return jj_int_value(0);
    jj_tick(r, s->n);
    if (!x->n) {
        struct str part = {.p = s->p + from, .n = to - from, .n_cp = -1};
        return jj_int_value(jj_count_cp(&part) + 1);
    }
    int64_t n = 0;
    for (size_t hit; (hit = jj_find_bytes(s->p + from, to - from, x->p, x->n)) != SIZE_MAX; n++)
        from += hit + x->n;
    return jj_int_value(n);
}

static struct val m_replace(struct run *r, struct val self, struct val *a, struct call *c)
{
    (void)c;
    const struct str *from = jj_want_str(r, a[0], "replace: the old text"),
                     *to = jj_want_str(r, a[1], "replace: the new text");
    if (self.flag & STR_SAFE && !(a[1].flag & STR_SAFE)) { /* what comes in is made safe */
        jj_sink_begin(r);
        jj_put_escaped(r, to);
        struct val made = jj_sink_end(r);
        to = jj_flat(r, made);
    }
    return jj_str_replace(r, self, from, to, int_or(r, a[2], -1, "replace: the count"));
}

static struct val m_join(struct run *r, struct val self, struct val *a, struct call *c)
{
    (void)c;
    struct str *sep = jj_flat(r, self);
    struct list *l = jj_to_items(r, a[0]);
    jj_sink_begin(r);
    for (size_t i = 0; i < l->n; i++) {
        if (l->items[i].type != V_STR)
            jj_fail(r, "join: item %zu is %s, not a string", i, jj_type_name(l->items[i]));
        if (i) jj_put_str(r, sep);
        if (self.flag & STR_SAFE && !(l->items[i].flag & STR_SAFE))
            jj_put_escaped(r, jj_flat(r, l->items[i]));
        else
            jj_put_str(r, l->items[i].u.s);
    }
    struct val out = jj_sink_end(r);
    out.flag = self.flag;
    return out;
}

enum {
    IS_ALPHA,
    IS_DIGIT,
    IS_DECIMAL,
    IS_NUMERIC,
    IS_ALNUM,
    IS_SPACE,
    IS_ASCII,
    IS_PRINTABLE,
    IS_IDENTIFIER,
    IS_TITLE
};

int jj_decimal_of_cp(int32_t cp)
{
    if (cp >= '0' && cp <= '9') return cp - '0';
    if (cp < 0x80 || category(cp) != UTF8PROC_CATEGORY_ND) return -1;
    int32_t first = cp; /* digits of a script stand in tens, some tens behind one another */
    while (cp - first < 100 && category(first - 1) == UTF8PROC_CATEGORY_ND) first--;
    return (cp - first) % 10;
}

static bool is_kind(int32_t cp, int kind, bool first)
{
    switch (kind) {
    case IS_ALPHA:
        return is_alpha_cp(cp);
    case IS_DIGIT:
        return is_digit_cp(cp);
    case IS_DECIMAL:
        return category(cp) == UTF8PROC_CATEGORY_ND;
    case IS_NUMERIC:
        return is_numeric_cp(cp);
    case IS_ALNUM:
        return is_alpha_cp(cp) || is_numeric_cp(cp);
    case IS_SPACE:
        return jj_is_space_cp(cp);
    case IS_ASCII:
        return cp < 0x80;
    case IS_PRINTABLE:
        return jj_is_printable_cp(cp);
    default: /* identifier */
        return is_alpha_cp(cp) || cp == '_' || (!first && category(cp) == UTF8PROC_CATEGORY_ND);
    }
}

static struct val m_is(struct run *r, struct val self, struct val *a, struct call *c)
{
    (void)a;
    const struct str *s = jj_flat(r, self);
    int32_t cp;
    jj_tick(r, s->n * 4);
    if (!s->n) return jj_bool_value(X == IS_ASCII || X == IS_PRINTABLE);
    bool after_cased = false, any = false;
    for (size_t i = 0; i < s->n;) {
        bool first = !i;
        i += jj_next_cp(s->p + i, s->n - i, &cp);
        if (X != IS_TITLE) {
            if (!is_kind(cp, X, first)) return jj_bool_value(false);
            any = true;
            continue;
        }
        bool big = is_upper_cp(cp) || category(cp) == UTF8PROC_CATEGORY_LT, small = is_lower_cp(cp);
        if ((big && after_cased) || (small && !after_cased)) return jj_bool_value(false);
        after_cased = big || small;
        any |= after_cased;
    }
    return jj_bool_value(any);
}

static struct val m_is_case(struct run *r, struct val self, struct val *a, struct call *c)
{
    (void)a;
    jj_tick(r, self.u.s->n * 4);
    return jj_bool_value(jj_str_is_case(jj_flat(r, self), X));
}

static void put_fill(struct run *r, const struct str *fill, int64_t n)
{
    for (; n > 0; n--) jj_put_slice(r, fill, 0, fill->n);
}

int64_t jj_check_width(struct run *r, int64_t width)
{
    if (width > MAX_WIDTH) jj_fail_cap(r, "pads to a width of more than %d", MAX_WIDTH);
    return width;
}

static struct val m_pad(struct run *r, struct val self, struct val *a, struct call *c)
{
    struct str *s = jj_flat(r, self);
    int64_t width = jj_check_width(r, jj_want_int(r, a[0], "the width")), more = width - jj_count_cp(s);
    if (more <= 0) return self;
    static const struct str blank = {.p = " ", .n = 1, .uniform = QN_JINJA_LITERAL, .n_cp = 1};
    const struct str *fill = jj_given(a[1]) ? jj_want_str(r, a[1], "the fill character") : &blank;
    int64_t left = X == 'c' ? more / 2 + (more & width & 1) : X == 'r' ? more : 0;
    jj_tick(r, (size_t)more * 8);
    jj_sink_begin(r);
    put_fill(r, fill, left);
    jj_put_str(r, s);
    put_fill(r, fill, more - left);
    struct val out = jj_sink_end(r);
    out.flag = self.flag;
    return out;
}

static struct val m_zfill(struct run *r, struct val self, struct val *a, struct call *c)
{
    (void)c;
    struct str *s = jj_flat(r, self);
    int64_t more = jj_check_width(r, jj_want_int(r, a[0], "the width")) - jj_count_cp(s);
    if (more <= 0) return self;
    size_t sign = s->n && (s->p[0] == '-' || s->p[0] == '+');
    jj_sink_begin(r);
    jj_put_slice(r, s, 0, sign);
    for (; more > 0; more--) jj_puts_lit(r, "0");
    jj_put_slice(r, s, sign, s->n - sign);
    return jj_sink_end(r);
}

static struct val m_partition(struct run *r, struct val self, struct val *a, struct call *c)
{
    struct str *s = jj_flat(r, self);
    const struct str *sep = jj_want_str(r, a[0], "partition: the separator");
    if (!sep->n) jj_fail(r, "partition: the separator is empty");
    jj_tick(r, s->n);
    size_t hit = X ? find_last(s->p, s->n, sep->p, sep->n) : jj_find_bytes(s->p, s->n, sep->p, sep->n);
    struct list *out = jj_list_new(r, LIST_TUPLE, 3);
    if (hit == SIZE_MAX) {
        struct val empty = jj_lit_value(r, "");
        empty.flag = self.flag;
        jj_list_push(r, out, X ? empty : self);
        jj_list_push(r, out, empty);
        jj_list_push(r, out, X ? self : empty);
        return jj_list_value(out);
    }
    jj_list_push(r, out, piece(r, self, 0, hit));
    struct val between = a[0];
    between.flag = self.flag;
    jj_list_push(r, out, between);
    jj_list_push(r, out, piece(r, self, hit + sep->n, s->n));
    return jj_list_value(out);
}

static struct val m_remove(struct run *r, struct val self, struct val *a, struct call *c)
{
    struct str *s = jj_flat(r, self);
    const struct str *x = jj_want_str(r, a[0], "the argument");
    if (x->n > s->n || memcmp(X ? s->p + s->n - x->n : s->p, x->p, x->n)) return self;
    return X ? piece(r, self, 0, s->n - x->n) : piece(r, self, x->n, s->n);
}

static struct val m_expandtabs(struct run *r, struct val self, struct val *a, struct call *c)
{
    (void)c;
    struct str *s = jj_flat(r, self);
    int64_t size = jj_check_width(r, int_or(r, a[0], 8, "tabsize")), column = 0;
    int32_t cp;
    jj_sink_begin(r);
    for (size_t i = 0, k; i < s->n; i += k) {
        k = jj_next_cp(s->p + i, s->n - i, &cp);
        jj_tick(r, 0);
        if (cp == '\t') {
            for (int64_t n = size > 0 ? size - column % size : 0; n > 0; n--, column++) jj_puts_lit(r, " ");
        } else {
            jj_put_slice(r, s, i, k);
            column = cp == '\n' || cp == '\r' ? 0 : column + 1;
        }
    }
    return jj_sink_end(r);
}

static struct val m_format(struct run *r, struct val self, struct val *a, struct call *c)
{
    (void)a;
    return jj_format_fields(r, self, c);
}

static struct val m_format_map(struct run *r, struct val self, struct val *a, struct call *c)
{
    (void)c;
    if (a[0].type != V_DICT) jj_fail(r, "format_map needs a dictionary");
    struct dict *d = jj_dict_of(r, a[0]);
    struct call inner = {.kw = jj_alloc(r, (d->n + 1) * sizeof *inner.kw)};
    for (size_t i = 0; i < d->n; i++)
        if (d->pairs[i].key.type == V_STR) {
            struct str *key = jj_flat(r, d->pairs[i].key);
            inner.kw[inner.n_kw++] = (struct kwarg){key->p, key->n, d->pairs[i].value};
        }
    return jj_format_fields(r, self, &inner);
}

const struct builtin jj_str_methods[] = {
    {"capitalize", "", 0, m_case, 'c'},
    {"casefold", "", 0, m_case, 'f'},
    {"center", "width fillchar", 1, m_pad, 'c'},
    {"count", "sub start end", 1, m_count, 0},
    {"endswith", "suffix start end", 1, m_startswith, 1},
    {"expandtabs", "tabsize", 0, m_expandtabs, 0},
    {"find", "sub start end", 1, m_find, FIND_FIRST},
    {"format", "* **", 0, m_format, 0},
    {"format_map", "mapping", 1, m_format_map, 0},
    {"index", "sub start end", 1, m_find, INDEX_FIRST},
    {"isalnum", "", 0, m_is, IS_ALNUM},
    {"isalpha", "", 0, m_is, IS_ALPHA},
    {"isascii", "", 0, m_is, IS_ASCII},
    {"isdecimal", "", 0, m_is, IS_DECIMAL},
    {"isdigit", "", 0, m_is, IS_DIGIT},
    {"isidentifier", "", 0, m_is, IS_IDENTIFIER},
    {"islower", "", 0, m_is_case, 0},
    {"isnumeric", "", 0, m_is, IS_NUMERIC},
    {"isprintable", "", 0, m_is, IS_PRINTABLE},
    {"isspace", "", 0, m_is, IS_SPACE},
    {"istitle", "", 0, m_is, IS_TITLE},
    {"isupper", "", 0, m_is_case, 1},
    {"join", "iterable", 1, m_join, 0},
    {"ljust", "width fillchar", 1, m_pad, 'l'},
    {"lower", "", 0, m_case, 'l'},
    {"lstrip", "chars", 0, m_strip, 1},
    {"partition", "sep", 1, m_partition, 0},
    {"removeprefix", "prefix", 1, m_remove, 0},
    {"removesuffix", "suffix", 1, m_remove, 1},
    {"replace", "old new count", 2, m_replace, 0},
    {"rfind", "sub start end", 1, m_find, FIND_LAST},
    {"rindex", "sub start end", 1, m_find, INDEX_LAST},
    {"rjust", "width fillchar", 1, m_pad, 'r'},
    {"rpartition", "sep", 1, m_partition, 1},
    {"rsplit", "sep maxsplit", 0, m_split, 1},
    {"rstrip", "chars", 0, m_strip, 2},
    {"split", "sep maxsplit", 0, m_split, 0},
    {"splitlines", "keepends", 0, m_splitlines, 0},
    {"startswith", "prefix start end", 1, m_startswith, 0},
    {"strip", "chars", 0, m_strip, 3},
    {"swapcase", "", 0, m_case, 's'},
    {"title", "", 0, m_case, 't'},
    {"upper", "", 0, m_case, 'u'},
    {"zfill", "width", 1, m_zfill, 0},
    {NULL, NULL, 0, NULL, 0},
};
