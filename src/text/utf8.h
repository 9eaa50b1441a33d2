/* UTF-8: decode, validate, repair, NFC; Unicode classes as the pre-tokeniser needs them.
 * Stateless (a class table is built once); any thread.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_UTF8_H
#define QN_UTF8_H

#include "base/buf.h"

/* Reads one code point at s (n > 0 bytes are there). Well formed: returns its length 1..4 and sets *cp.
 * Otherwise returns minus the length of the maximal ill-formed subsequence (-1..-3, what one U+FFFD stands
 * for). */
int qn_utf8_next(const unsigned char *s, size_t n, uint32_t *cp);

/* Writes cp (a scalar value) to out[4]; returns its length. */
int qn_utf8_put(uint32_t cp, unsigned char *out);

/* Bytes from the start that are well formed: n when all are. */
size_t qn_utf8_valid(const void *s, size_t n);

/* How many of the last bytes of s start a character that more bytes could complete: 0..3. */
size_t qn_utf8_partial(const void *s, size_t n);

/* Appends s with every maximal ill-formed subsequence replaced by U+FFFD. Returns out->failed. */
int qn_utf8_repair(const void *s, size_t n, struct qn_buf *out);

/* Classes of a code point. LETTER \p{L}, MARK \p{M}, NUMBER \p{N}, SPACE \s without CR and LF,
 * NEWLINE CR and LF, OTHER the rest. They follow the reference library (see tools/make_unicode_overrides.py),
 * not the Unicode version of an installed library. */
enum qn_char_class {
    QN_CHAR_OTHER,
    QN_CHAR_LETTER,
    QN_CHAR_MARK,
    QN_CHAR_NUMBER,
    QN_CHAR_SPACE,
    QN_CHAR_NEWLINE,
};
enum qn_char_class qn_utf8_class(uint32_t cp);

/* true when NFC cannot change s (well formed). May be false for some text that is already NFC. */
bool qn_utf8_is_nfc_quick(const void *s, size_t n);

/* Appends NFC(s) (s well formed). Returns out->failed. O(n). */
int qn_utf8_nfc(const void *s, size_t n, struct qn_buf *out);

#endif
