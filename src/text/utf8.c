/* UTF-8, classes and NFC over utf8proc, with the differences of the reference library's Unicode on top.
 * SPDX-License-Identifier: Apache-2.0 */
#include "text/utf8.h"

#include <pthread.h>
#include <utf8proc.h>

#include "base/mem.h"
#include "text/unicode_overrides.h"

/* ---- bytes ---- */

int qn_utf8_next(const unsigned char *s, size_t n, uint32_t *cp)
{
    unsigned c = s[0];
    if (c < 0x80) {
        *cp = c;
        return 1;
    }
    if (c < 0xc2 || c > 0xf4) return -1;
    int len = c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4;
    /* the second byte's range keeps out overlong forms, surrogates and values above U+10FFFF */
    unsigned lo = c == 0xe0 ? 0xa0 : c == 0xf0 ? 0x90 : 0x80, hi = c == 0xed ? 0x9f : c == 0xf4 ? 0x8f : 0xbf;
    uint32_t v = c & (0xffu >> (len + 1));
    for (int i = 1; i < len; i++) {
        if ((size_t)i >= n || s[i] < lo || s[i] > hi) return -i;
        v = v << 6 | (s[i] & 63);
        lo = 0x80;
        hi = 0xbf;
    }
    *cp = v;
    return len;
}

int qn_utf8_put(uint32_t cp, unsigned char *out)
{
    if (cp < 0x80) {
        out[0] = (unsigned char)cp;
        return 1;
    }
    int len = cp < 0x800 ? 2 : cp < 0x10000 ? 3 : 4;
    for (int i = len - 1; i > 0; i--, cp >>= 6) out[i] = (unsigned char)(0x80 | (cp & 63));
    out[0] = (unsigned char)(0xf00u >> len | cp);
    return len;
}

static size_t skip_ascii(const unsigned char *s, size_t n)
{
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        uint64_t w;
        memcpy(&w, s + i, 8);
        if (w & 0x8080808080808080u) break;
    }
    while (i < n && s[i] < 0x80) i++;
    return i;
}

size_t qn_utf8_valid(const void *bytes, size_t n)
{
    const unsigned char *s = bytes;
    size_t i = 0;
    while (i < n) {
        i += skip_ascii(s + i, n - i);
        uint32_t cp;
        while (i < n && s[i] >= 0x80) {
            int len = qn_utf8_next(s + i, n - i, &cp);
            if (len < 0) return i;
            i += (size_t)len;
        }
    }
    return n;
}

size_t qn_utf8_partial(const void *bytes, size_t n)
{
    const unsigned char *s = bytes;
    for (size_t k = 1; k <= 3 && k <= n; k++) {
        const unsigned char *at = s + n - k;
        if ((*at & 0xc0) == 0x80) continue;
        uint32_t cp;
        /* incomplete: everything there is fine, and more is wanted */
        bool is_partial = *at >= 0xc2 && *at <= 0xf4 && qn_utf8_next(at, k, &cp) == -(int)k &&
                          (size_t)(*at < 0xe0   ? 2
                                   : *at < 0xf0 ? 3
                                                : 4) > k;
        return is_partial ? k : 0;
    }
    return 0;
}

static int append(struct qn_buf *out, struct qn_buf *out_mask, const void *s, size_t n, const uint8_t *mask)
{
    if (mask) qn_buf_append(out_mask, mask, n);
    return qn_buf_append(out, s, n);
}

int qn_utf8_repair(const void *bytes, size_t n, const uint8_t *mask, struct qn_buf *out,
                   struct qn_buf *out_mask)
{
    static const uint8_t no_mask[3];
    const unsigned char *s = bytes;
    while (n) {
        size_t good = qn_utf8_valid(s, n);
        append(out, out_mask, s, good, mask);
        if (good == n) break;
        uint32_t cp;
        size_t skip = good + (size_t)-qn_utf8_next(s + good, n - good, &cp);
        append(out, out_mask, "\xef\xbf\xbd", 3, mask ? no_mask : NULL);
        s += skip;
        n -= skip;
        if (mask) mask += skip;
    }
    return out->failed;
}

/* ---- classes ---- */

#define UNSAFE 0x80 /* NFC may change text around it */

/* planes 0 to 2; the others are rare and looked up */
static uint8_t table[QN_UTF8_TABLE_SIZE];
static pthread_once_t table_once = PTHREAD_ONCE_INIT;

static const struct qn_class_override *find_override(uint32_t cp)
{
    size_t lo = 0, hi = QN_COUNT(qn_class_overrides);
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        if (qn_class_overrides[mid].last < cp)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo < QN_COUNT(qn_class_overrides) && qn_class_overrides[lo].first <= cp ? &qn_class_overrides[lo]
                                                                                   : NULL;
}

static bool is_inert(uint32_t cp)
{
    size_t lo = 0, hi = QN_COUNT(qn_inert_ranges);
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        if (qn_inert_ranges[mid].last < cp)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo < QN_COUNT(qn_inert_ranges) && qn_inert_ranges[lo].first <= cp;
}

uint32_t qn_utf8_stand_in(uint32_t cp)
{
    if (cp < qn_class_overrides[0].first) return cp;
    if (cp == 0x180e) return 0x200b; /* both Cf; PCRE2's \s still has the former */
    const struct qn_class_override *o = find_override(cp);
    return o ? o->stand_in : cp;
}

bool qn_utf8_is_word(uint32_t cp)
{
    const struct qn_class_override *o = find_override(cp);
    const char *category = o ? o->category : utf8proc_category_string((utf8proc_int32_t)cp);
    return strchr("LM", category[0]) || !strcmp(category, "Nd") || !strcmp(category, "Nl") ||
           !strcmp(category, "Pc") || cp == 0x200c || cp == 0x200d ||
           /* letters in circles and squares */
           (cp >= 0x24b6 && cp <= 0x24e9) || (cp >= 0x1f130 && cp <= 0x1f149) ||
           (cp >= 0x1f150 && cp <= 0x1f169) || (cp >= 0x1f170 && cp <= 0x1f189);
}

static bool is_white(uint32_t cp)
{
    return (cp >= 9 && cp <= 13) || cp == 0x20 || cp == 0x85 || cp == 0xa0 || cp == 0x1680 ||
           (cp >= 0x2000 && cp <= 0x200a) || cp == 0x2028 || cp == 0x2029 || cp == 0x202f || cp == 0x205f ||
           cp == 0x3000;
}

/* Has a canonical decomposition that NFC does not simply undo. */
static bool is_decomposed(uint32_t cp, const utf8proc_property_t *p)
{
    if (p->decomp_seqindex == UINT16_MAX || p->decomp_type) return false;
    utf8proc_int32_t to[32];
    int bound_class = 0;
    utf8proc_ssize_t n = utf8proc_decompose_char((utf8proc_int32_t)cp, to, (utf8proc_ssize_t)QN_COUNT(to),
                                                 UTF8PROC_DECOMPOSE | UTF8PROC_STABLE, &bound_class);
    if (n < 1 || n > (utf8proc_ssize_t)QN_COUNT(to)) return true;
    n = utf8proc_normalize_utf32(to, n, UTF8PROC_COMPOSE | UTF8PROC_STABLE);
    return n != 1 || (uint32_t)to[0] != cp;
}

static uint8_t look_up(uint32_t cp)
{
    const utf8proc_property_t *p = utf8proc_get_property((utf8proc_int32_t)cp);
    const struct qn_class_override *o = find_override(cp);
    const char *category = o ? o->category : utf8proc_category_string((utf8proc_int32_t)cp);
    uint8_t c = category[0] == 'L'         ? QN_CHAR_LETTER
                : category[0] == 'M'       ? QN_CHAR_MARK
                : category[0] == 'N'       ? QN_CHAR_NUMBER
                : cp == '\n' || cp == '\r' ? QN_CHAR_NEWLINE
                : is_white(cp)             ? QN_CHAR_SPACE
                                           : QN_CHAR_OTHER;
    /* Every code point that can be the second of a composed pair is a mark or a conjoining jamo. */
    bool is_jamo = (cp >= 0x1161 && cp <= 0x1175) || (cp >= 0x11a8 && cp <= 0x11c2);
    if (c == QN_CHAR_MARK || is_jamo || p->combining_class || is_decomposed(cp, p)) c |= UNSAFE;
    return c;
}

static void build_table(void)
{
    for (uint32_t cp = 0; cp < QN_UTF8_TABLE_SIZE; cp++) table[cp] = look_up(cp);
}

static uint8_t entry(uint32_t cp)
{
    return cp < QN_UTF8_TABLE_SIZE ? table[cp] : look_up(cp);
}

const uint8_t *qn_utf8_class_table(void)
{
    pthread_once(&table_once, build_table);
    return table;
}

enum qn_char_class qn_utf8_class(uint32_t cp)
{
    pthread_once(&table_once, build_table);
    return entry(cp) & QN_UTF8_CLASS_BITS;
}

/* ---- NFC ---- */

struct mark {
    uint32_t cp;
    uint32_t order; /* canonical combining class; 0: a starter */
};

/* Scratch of one normalisation. */
struct nfc {
    struct mark *marks; /* [n] the region being normalised */
    struct mark *sorted;
    size_t n, capacity;
    bool failed;
};

static void push_mark(struct nfc *w, uint32_t cp, uint32_t order)
{
    if (w->n == w->capacity) {
        size_t capacity = w->capacity ? w->capacity * 2 : 64;
        struct mark *marks = try_realloc(w->marks, capacity, sizeof *marks);
        if (marks) w->marks = marks;
        struct mark *sorted = try_realloc(w->sorted, capacity, sizeof *sorted);
        if (sorted) w->sorted = sorted;
        if (!marks || !sorted) {
            w->failed = true;
            return;
        }
        w->capacity = capacity;
    }
    w->marks[w->n++] = (struct mark){cp, order};
}

static uint32_t order_of(uint32_t cp)
{
    return is_inert(cp) ? 0 : utf8proc_get_property((utf8proc_int32_t)cp)->combining_class;
}

static void decompose(struct nfc *w, uint32_t cp)
{
    utf8proc_int32_t to[32];
    int bound_class = 0;
    utf8proc_ssize_t n = -1;
    if (!is_inert(cp))
        n = utf8proc_decompose_char((utf8proc_int32_t)cp, to, (utf8proc_ssize_t)QN_COUNT(to),
                                    UTF8PROC_DECOMPOSE | UTF8PROC_STABLE, &bound_class);
    if (n < 0 || n > (utf8proc_ssize_t)QN_COUNT(to)) {
        push_mark(w, cp, 0);
        return;
    }
    for (utf8proc_ssize_t i = 0; i < n; i++) push_mark(w, (uint32_t)to[i], order_of((uint32_t)to[i]));
}

/* Stable sort of marks [from, to) by order: insertion for the usual few, counting for the hostile many. */
static void sort_marks(struct nfc *w, size_t from, size_t to)
{
    if (to - from < 2) return;
    if (to - from <= 32) {
        for (size_t i = from + 1; i < to; i++) {
            struct mark m = w->marks[i];
            size_t at = i;
            for (; at > from && w->marks[at - 1].order > m.order; at--) w->marks[at] = w->marks[at - 1];
            w->marks[at] = m;
        }
        return;
    }
    size_t start[256] = {0};
    for (size_t i = from; i < to; i++) start[w->marks[i].order & 255]++;
    size_t sum = 0;
    for (int k = 0; k < 256; k++) {
        size_t count = start[k];
        start[k] = sum;
        sum += count;
    }
    for (size_t i = from; i < to; i++) w->sorted[start[w->marks[i].order & 255]++] = w->marks[i];
    memcpy(w->marks + from, w->sorted, (to - from) * sizeof *w->marks);
}

/* The primary composite of a pair, or 0. */
static uint32_t compose_pair(uint32_t a, uint32_t b)
{
    if (a >= 0x1100 && a < 0x1113 && b >= 0x1161 && b < 0x1176)
        return 0xac00 + ((a - 0x1100) * 21 + (b - 0x1161)) * 28;
    if (a >= 0xac00 && a < 0xd7a4 && (a - 0xac00) % 28 == 0 && b > 0x11a7 && b < 0x11c3)
        return a + (b - 0x11a7);
    if (is_inert(a) || is_inert(b)) return 0;
    utf8proc_int32_t pair[2] = {(utf8proc_int32_t)a, (utf8proc_int32_t)b};
    return utf8proc_normalize_utf32(pair, 2, UTF8PROC_COMPOSE | UTF8PROC_STABLE) == 1 ? (uint32_t)pair[0] : 0;
}

/* Normalises the marks in place. */
static void normalise(struct nfc *w)
{
    for (size_t i = 0; i < w->n;) {
        size_t j = i;
        while (j < w->n && w->marks[j].order) j++;
        sort_marks(w, i, j);
        i = j + (j == i || j < w->n);
    }
    size_t n = 0, starter = SIZE_MAX;
    int64_t last = -1; /* order of the last mark kept after the starter; -1: none */
    for (size_t i = 0; i < w->n; i++) {
        struct mark m = w->marks[i];
        uint32_t composite = 0;
        if (starter != SIZE_MAX && last < (int64_t)m.order)
            composite = compose_pair(w->marks[starter].cp, m.cp);
        if (composite) {
            w->marks[starter].cp = composite;
            continue;
        }
        if (!m.order) starter = n;
        last = m.order ? (int64_t)m.order : -1;
        w->marks[n++] = m;
    }
    w->n = n;
}

/* The code point at s of text that is well formed; its length. */
static size_t next_of(const unsigned char *s, size_t n, uint32_t *cp)
{
    int len = qn_utf8_next(s, n, cp);
    QN_CHECK(len > 0);
    return (size_t)len;
}

/* Start of the next stretch that NFC may change, from `from`; the last safe code point before it belongs to
 * it, because it may be composed with what follows. n when there is none. */
static size_t next_region(const unsigned char *s, size_t n, size_t from)
{
    size_t i = from, before = from;
    while (i < n) {
        if (s[i] < 0x80) {
            size_t run = skip_ascii(s + i, n - i);
            i += run;
            before = i - 1;
            continue;
        }
        uint32_t cp;
        size_t len = next_of(s + i, n - i, &cp);
        if (cp >= 0x300 && entry(cp) & UNSAFE) return before;
        before = i;
        i += len;
    }
    return n;
}

bool qn_utf8_is_nfc_quick(const void *s, size_t n)
{
    pthread_once(&table_once, build_table);
    return next_region(s, n, 0) == n;
}

int qn_utf8_nfc(const void *bytes, size_t n, const uint8_t *mask, struct qn_buf *out, struct qn_buf *out_mask)
{
    pthread_once(&table_once, build_table);
    const unsigned char *s = bytes;
    struct nfc w = {0};
    for (size_t done = 0; done < n;) {
        size_t i = next_region(s, n, done);
        append(out, out_mask, s + done, i - done, mask ? mask + done : NULL);
        if (i == n) break;
        /* one safe code point, perhaps, then everything unsafe */
        size_t start = i;
        uint8_t all = 1;
        w.n = 0;
        while (i < n) {
            uint32_t cp;
            size_t len = next_of(s + i, n - i, &cp);
            if (i > start && !(cp >= 0x300 && entry(cp) & UNSAFE)) break;
            decompose(&w, cp);
            for (size_t k = 0; mask && k < len; k++) all &= mask[i + k] != 0;
            i += len;
        }
        normalise(&w);
        for (size_t k = 0; k < w.n; k++) {
            unsigned char utf8[4];
            const uint8_t marked[4] = {all, all, all, all};
            size_t len = (size_t)qn_utf8_put(w.marks[k].cp, utf8);
            append(out, out_mask, utf8, len, mask ? marked : NULL);
        }
        done = i;
        if (w.failed) out->failed = QN_NOMEM;
        if (out->failed) break;
    }
    free(w.marks);
    free(w.sorted);
    return out->failed;
}
