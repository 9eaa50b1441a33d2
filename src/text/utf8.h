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

/* Appends s with every maximal ill-formed subsequence replaced by U+FFFD. Returns out->failed. mask,
 * out_mask: as for qn_utf8_nfc; a replacement has mask 0. */
int qn_utf8_repair(const void *s, size_t n, const uint8_t *mask, struct qn_buf *out, struct qn_buf *out_mask);

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
/* The classes of the code points below QN_UTF8_TABLE_SIZE, for loops: the low bits of each entry. */
#define QN_UTF8_TABLE_SIZE 0x30000
#define QN_UTF8_CLASS_BITS 7
const uint8_t *qn_utf8_class_table(void);

/* \w: alphabetic, marks, decimal digits, connectors, joiners. */
bool qn_utf8_is_word(uint32_t cp);

/* A code point of the same general category and UTF-8 length that older Unicode tables know: cp itself unless
 * it was assigned lately. For regular expressions over text with new characters. */
uint32_t qn_utf8_stand_in(uint32_t cp);

/* true when NFC cannot change s (well formed). May be false for some text that is already NFC. */
bool qn_utf8_is_nfc_quick(const void *s, size_t n);

/* Appends NFC(s) (s well formed), with the tables of the reference library. O(n). Returns out->failed.
 * mask: NULL, or [n] one byte per byte of s; then one byte per byte of the result goes to out_mask: non-zero
 * where all bytes it was made from had a non-zero mask. */
int qn_utf8_nfc(const void *s, size_t n, const uint8_t *mask, struct qn_buf *out, struct qn_buf *out_mask);

#endif
