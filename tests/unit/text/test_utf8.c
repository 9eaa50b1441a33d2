/* UTF-8 reading, repair, partial ends, NFC.
 * SPDX-License-Identifier: Apache-2.0 */
#include "support/test.h"

#include "text/utf8.h"

static void test_every_code_point_reads_back(void **state)
{
    (void)state;
    for (uint32_t cp = 0; cp < 0x110000; cp++) {
        if (cp >= 0xd800 && cp < 0xe000) continue;
        unsigned char s[4];
        uint32_t got;
        int n = qn_utf8_put(cp, s);
        assert_int_equal(qn_utf8_next(s, (size_t)n, &got), n);
        assert_int_equal(got, cp);
        for (int k = 1; k < n; k++) {
            assert_int_equal(qn_utf8_next(s, (size_t)k, &got), -k);
            assert_int_equal(qn_utf8_partial(s, (size_t)k), k);
        }
        assert_int_equal(qn_utf8_partial(s, (size_t)n), 0);
    }
}

static void check_repair(const char *from, const char *want)
{
    struct qn_buf out = QN_BUF_INIT(1 << 10);
    assert_int_equal(qn_utf8_repair(from, strlen(from), NULL, &out, NULL), QN_OK);
    assert_string_equal(qn_buf_str(&out), want);
    qn_buf_free(&out);
}

#define R "\xef\xbf\xbd"

static void test_one_replacement_a_maximal_subsequence(void **state)
{
    (void)state;
    check_repair("abc", "abc");
    check_repair("\x80", R);
    check_repair("\xc0\x80", R R);
    check_repair("\xe4\xbd", R);
    check_repair("\xe4\xbdx", R "x");
    check_repair("\xe0\x80\x80", R R R);
    check_repair("\xed\xa0\x80", R R R);
    check_repair("\xf0\x9f\x98", R);
    check_repair("\xf0\x9f\x98\xf0\x9f\x98\x80", R "\xf0\x9f\x98\x80");
    check_repair("\xf4\x90\x80\x80", R R R R);
    check_repair("a\xff\xc3\xa9\xfe", "a" R "\xc3\xa9" R);
}

static void test_masks_follow_the_bytes(void **state)
{
    (void)state;
    struct qn_buf out = QN_BUF_INIT(1 << 10), mask = QN_BUF_INIT(1 << 10);
    const uint8_t ones[] = {1, 1, 1, 1, 1, 1}, half[] = {1, 1, 0, 1, 1, 1};
    qn_utf8_repair("a\xff"
                   "bc",
                   4, ones, &out, &mask);
    assert_int_equal(mask.n_byte, 6);
    assert_memory_equal(mask.data, "\1\0\0\0\1\1", 6);
    qn_buf_clear(&out);
    qn_buf_clear(&mask);
    /* "xe", combining acute, "y": the composed character is only partly marked */
    qn_utf8_nfc("xe\xcc\x81y", 5, half, &out, &mask);
    assert_string_equal(qn_buf_str(&out), "x\xc3\xa9y");
    assert_int_equal(mask.n_byte, 4);
    assert_memory_equal(mask.data, "\1\0\0\1", 4);
    qn_buf_free(&out);
    qn_buf_free(&mask);
}

static void check_nfc(const char *from, const char *want)
{
    struct qn_buf out = QN_BUF_INIT(1 << 10);
    assert_int_equal(qn_utf8_nfc(from, strlen(from), NULL, &out, NULL), QN_OK);
    assert_string_equal(qn_buf_str(&out), want);
    if (strcmp(from, want)) assert_false(qn_utf8_is_nfc_quick(from, strlen(from)));
    qn_buf_free(&out);
}

static void test_nfc(void **state)
{
    (void)state;
    check_nfc("", "");
    check_nfc("plain", "plain");
    check_nfc("e\u0301", "é");
    check_nfc("\u0301e", "\u0301e");
    check_nfc("a\u0301\u0327", "á\u0327");     /* the cedilla does not block the acute */
    check_nfc("\u1100\u1161\u11a8", "\uac01"); /* conjoining jamo */
    check_nfc("\uac00\u11a8", "\uac01");       /* syllable and tail */
    check_nfc("\u212b\u2126", "\u00c5\u03a9"); /* singletons */
    check_nfc("\u0958", "\u0915\u093c");       /* composition exclusion */
    check_nfc("\u1e69 s\u0323\u0307 s\u0307\u0323", "\u1e69 \u1e69 \u1e69");
    check_nfc("x\u0301\u07fd\u0316", "x\u0301\u07fd\u0316"); /* newer than the reference library's tables */
}

/* Half a million marks in the worst order: sorting them must not be quadratic. */
static void test_hostile_marks(void **state)
{
    (void)state;
    struct qn_buf text = QN_BUF_INIT(8 << 20), out = QN_BUF_INIT(8 << 20);
    qn_buf_putc(&text, 'a');
    for (int i = 0; i < 250000; i++) qn_buf_puts(&text, "\u0315\u0327"); /* classes 232 and 202 */
    assert_int_equal(qn_utf8_nfc(text.data, text.n_byte, NULL, &out, NULL), QN_OK);
    assert_int_equal(out.n_byte, text.n_byte);
    assert_memory_equal(out.data, "a\u0327\u0327\u0327", 7);
    assert_memory_equal(out.data + out.n_byte - 4, "\u0315\u0315", 4);
    qn_buf_free(&text);
    qn_buf_free(&out);
}

static void test_classes(void **state)
{
    (void)state;
    assert_int_equal(qn_utf8_class('a'), QN_CHAR_LETTER);
    assert_int_equal(qn_utf8_class(0x301), QN_CHAR_MARK);
    assert_int_equal(qn_utf8_class(0xbd), QN_CHAR_NUMBER);
    assert_int_equal(qn_utf8_class(0x85), QN_CHAR_SPACE);
    assert_int_equal(qn_utf8_class('\r'), QN_CHAR_NEWLINE);
    assert_int_equal(qn_utf8_class(0x1f600), QN_CHAR_OTHER);
    assert_int_equal(qn_utf8_class(0x1c89), QN_CHAR_LETTER);  /* Unicode 16 */
    assert_int_equal(qn_utf8_class(0x31350), QN_CHAR_LETTER); /* beyond the table */
    assert_int_equal(qn_utf8_class(0x10ffff), QN_CHAR_OTHER);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_code_point_reads_back),
        cmocka_unit_test(test_one_replacement_a_maximal_subsequence),
        cmocka_unit_test(test_masks_follow_the_bytes),
        cmocka_unit_test(test_nfc),
        cmocka_unit_test(test_hostile_marks),
        cmocka_unit_test(test_classes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
