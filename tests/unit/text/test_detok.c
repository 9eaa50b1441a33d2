/* Detokeniser: pushing token by token gives what decoding at once gives, and never half a character.
 * SPDX-License-Identifier: Apache-2.0 */
#include "support/test.h"

#include "base/rng.h"
#include "text/detok.h"
#include "text/utf8.h"

static struct qn_tokenizer *t;

static int32_t byte_id(unsigned char byte)
{
    int32_t id = qn_tokenizer_id_of_bytes(t, &byte, 1);
    assert_true(id >= 0);
    return id;
}

/* Random bytes, one a token, cut everywhere: the pieces are valid and add up to the repaired whole. */
static void test_any_bytes(void **state)
{
    (void)state;
    static const unsigned char favourites[] = {0x41, 0x80, 0xbf, 0xc2, 0xc3, 0xe0, 0xe4, 0xed,
                                               0xef, 0xf0, 0xf4, 0xf5, 0xff, 0x9f, 0xa0, 0x90};
    uint64_t seed = 9;
    for (int round = 0; round < 20000; round++) {
        unsigned char bytes[12];
        size_t n = qn_mix64(++seed) % sizeof bytes;
        struct qn_buf out = QN_BUF_INIT(1 << 10), want = QN_BUF_INIT(1 << 10);
        struct qn_detok d;
        qn_detok_init(&d, t, QN_DETOK_KEEP);
        for (size_t i = 0; i < n; i++) {
            bytes[i] = favourites[qn_mix64(++seed) % QN_COUNT(favourites)];
            assert_int_equal(qn_detok_push(&d, byte_id(bytes[i]), &out), QN_OK);
            assert_int_equal(qn_utf8_valid(qn_buf_str(&out), out.n_byte), out.n_byte);
            /* nothing certain is held back: at most the start of one character */
            assert_int_equal(d.n_held, qn_utf8_partial(bytes, i + 1));
        }
        qn_detok_end(&d, &out);
        qn_utf8_repair(bytes, n, NULL, &want, NULL);
        assert_int_equal(out.n_byte, want.n_byte);
        assert_string_equal(qn_buf_str(&out), qn_buf_str(&want));
        qn_buf_free(&out);
        qn_buf_free(&want);
    }
}

static char *decode(const int32_t *ids, size_t n, enum qn_detok_special special)
{
    struct qn_buf out = QN_BUF_INIT(1 << 10);
    assert_int_equal(qn_detok_all(t, ids, n, special, &out), QN_OK);
    return qn_buf_take(&out);
}

static void test_special_tokens(void **state)
{
    (void)state;
    const int32_t ids[] = {qn_tokenizer_id(t, "<|im_start|>"),
                           qn_tokenizer_id(t, "<think>"),
                           byte_id('a'),
                           qn_tokenizer_id(t, "</think>"),
                           qn_tokenizer_id(t, "<|im_end|>"),
                           1 << 20,
                           -1};
    char *all = decode(ids, QN_COUNT(ids), QN_DETOK_KEEP),
         *visible = decode(ids, QN_COUNT(ids), QN_DETOK_SKIP);
    assert_string_equal(all, "<|im_start|><think>a</think><|im_end|>");
    assert_string_equal(visible, "<think>a</think>");
    free(all);
    free(visible);
}

/* A character may go on after a hidden token, as in the reference library; a shown one breaks it. */
static void test_tokens_within_a_character(void **state)
{
    (void)state;
    const int32_t ids[] = {byte_id(0xc3), qn_tokenizer_id(t, "<|im_end|>"), byte_id(0xa9)};
    char *visible = decode(ids, 3, QN_DETOK_SKIP), *all = decode(ids, 3, QN_DETOK_KEEP);
    assert_string_equal(visible, "é");
    assert_string_equal(all, "\ufffd<|im_end|>\ufffd");
    free(visible);
    free(all);
}

static int setup(void **state)
{
    (void)state;
    struct qn_err e = {0};
    return qn_tokenizer_open(&t, QN_TEST_DIR "/golden/tokenizer/small", &e);
}

static int teardown(void **state)
{
    (void)state;
    qn_tokenizer_free(t);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_any_bytes),
        cmocka_unit_test(test_special_tokens),
        cmocka_unit_test(test_tokens_within_a_character),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
