/* Tokenizer on the small vocabulary in the tree: literal text, caps, files that are refused, merging.
 * SPDX-License-Identifier: Apache-2.0 */
#include "support/test.h"

#include <unistd.h>

#include "base/json.h"
#include "base/rng.h"
#include "text/detok.h"

#define SMALL QN_TEST_DIR "/golden/tokenizer/small"

static struct qn_tokenizer *t;

static struct qn_ids encode(const char *text, const uint8_t *literal)
{
    struct qn_ids ids = QN_IDS_INIT(1 << 20);
    struct qn_err e = {0};
    if (qn_tokenizer_encode(t, text, strlen(text), literal, &ids, &e)) fail_msg("%s", e.text);
    return ids;
}

static char *show(const struct qn_ids *ids)
{
    struct qn_buf out = QN_BUF_INIT(1 << 20);
    for (size_t i = 0; i < ids->n; i++) {
        size_t n;
        const uint8_t *bytes = qn_tokenizer_bytes(t, ids->data[i], &n);
        unsigned flags = qn_tokenizer_flags(t, ids->data[i]);
        qn_buf_puts(&out, flags & QN_TOKEN_ADDED ? "{" : "[");
        qn_buf_append(&out, bytes, n);
        qn_buf_puts(&out, flags & QN_TOKEN_ADDED ? "}" : "]");
    }
    return qn_buf_take(&out);
}

static void check(const char *text, const char *literal_digits, const char *want)
{
    uint8_t literal[256];
    for (size_t i = 0; literal_digits && literal_digits[i]; i++) literal[i] = literal_digits[i] == '1';
    if (literal_digits) assert_int_equal(strlen(literal_digits), strlen(text));
    struct qn_ids ids = encode(text, literal_digits ? literal : NULL);
    char *got = show(&ids);
    assert_string_equal(got, want);
    free(got);
    qn_ids_free(&ids);
}

/* A control token only where the template wrote it; the text around is one text all the same. */
static void test_literal_text(void **state)
{
    (void)state;
    check("<think>a<think>", NULL, "{<think>}[a]{<think>}");
    check("<think>a<think>", "111111100000000", "{<think>}[a][<][think][>]");
    check("<think>a<think>", "111111100000001", "{<think>}[a][<][think][>]");
    check("<think>a<think>", "111111101111111", "{<think>}[a]{<think>}");
    check("<think>", "0111111", "[<][think][>]");
    /* no cut where the mask changes: "def" is one token */
    check("def", "100", "[def]");
    check("def", NULL, "[def]");
    /* composed characters take the mask of their parts, and what follows stays in step */
    check("e\u0301<think>", "1111111111", "[é]{<think>}");
    check("e\u0301<think>", "1110000000", "[é][<][think][>]");
    /* broken bytes become U+FFFD, and the mask moves along */
    check("\xff<think>", "01111111", "[\xef][\xbf][\xbd]{<think>}");
}

static void test_added_tokens(void **state)
{
    (void)state;
    int32_t start = qn_tokenizer_id(t, "<|im_start|>"), think = qn_tokenizer_id(t, "<think>");
    int32_t config_only = qn_tokenizer_id(t, "<tts_pad>");
    assert_true(start > 0 && think > 0 && config_only > 0);
    assert_int_equal(qn_tokenizer_flags(t, start), QN_TOKEN_ADDED | QN_TOKEN_SPECIAL);
    assert_int_equal(qn_tokenizer_flags(t, think), QN_TOKEN_ADDED | QN_TOKEN_MARKER);
    assert_int_equal(qn_tokenizer_flags(t, config_only), QN_TOKEN_ADDED | QN_TOKEN_SPECIAL);
    assert_int_equal(config_only, qn_tokenizer_n_vocab(t) - 1);
    assert_int_equal(qn_tokenizer_flags(t, config_only + 1), QN_TOKEN_UNUSED);
    assert_int_equal(qn_tokenizer_flags(t, -1), QN_TOKEN_UNUSED);
    assert_int_equal(qn_tokenizer_id(t, "<|im_|>"), -1);
    assert_int_equal(qn_tokenizer_id_of_bytes(t, "\xff", 1) >= 0, 1);
    check("x<tts_pad>", NULL, "[x]{<tts_pad>}");
    struct qn_tokenizer_info info = qn_tokenizer_info(t);
    assert_string_equal(info.split, "qwen3.5");
    assert_true(info.is_nfc && !info.warning && info.n_added == 11 && info.n_vocab == info.n_base + 11);
}

/* The plain definition: join the lowest-ranked pair, leftmost first, until there is none. */
static size_t merge_plainly(struct qn_json *merges, char part[][64], size_t n)
{
    for (size_t rank = 0; rank < merges->n; rank++) {
        const struct qn_json *left = merges->items[rank]->items[0], *right = merges->items[rank]->items[1];
        for (size_t i = 0; i + 1 < n; i++) {
            if (strcmp(part[i], left->text) || strcmp(part[i + 1], right->text)) continue;
            strcat(part[i], part[i + 1]);
            memmove(part[i + 1], part[i + 2], (n - i - 2) * sizeof *part);
            n--;
            rank = SIZE_MAX; /* from the lowest rank again */
            break;
        }
    }
    return n;
}

/* Short pieces take a linear scan, long ones a heap: both are the plain definition. */
static void test_merging(void **state)
{
    (void)state;
    struct qn_arena *arena = qn_arena_create(4 << 20);
    struct qn_json *root;
    struct qn_err e = {0};
    assert_int_equal(qn_json_read_file(&root, arena, SMALL "/tokenizer.json", 1 << 20, &e), QN_OK);
    struct qn_json *merges = qn_json_get(qn_json_get(root, "model"), "merges");
    uint64_t seed = 5;
    for (int round = 0; round < 60; round++) {
        static char part[200][64], text[201];
        size_t n = 2 + qn_mix64(++seed) % 120;
        for (size_t i = 0; i < n; i++) {
            text[i] = "etaoinshrdlucmthin"[qn_mix64(++seed) % 18];
            part[i][0] = text[i];
            part[i][1] = 0;
        }
        text[n] = 0;
        size_t n_want = merge_plainly(merges, part, n);
        struct qn_ids ids = encode(text, NULL);
        assert_int_equal(ids.n, n_want);
        for (size_t i = 0; i < n_want; i++)
            assert_int_equal(ids.data[i], qn_tokenizer_id_of_bytes(t, part[i], strlen(part[i])));
        qn_ids_free(&ids);
    }
    qn_arena_free(arena);
}

static void test_long_pieces_cost_little(void **state)
{
    (void)state;
    static const char *const units[] = {"a", " ", "!", "th", "\u0301", "中", "\n", " \n"};
    for (size_t i = 0; i < QN_COUNT(units); i++) {
        struct qn_buf text = QN_BUF_INIT(1 << 20), back = QN_BUF_INIT(1 << 20);
        while (text.n_byte < 500000) qn_buf_puts(&text, units[i]);
        struct qn_ids ids = encode(text.data, NULL);
        assert_int_equal(qn_detok_all(t, ids.data, ids.n, QN_DETOK_KEEP, &back), QN_OK);
        assert_int_equal(back.n_byte, text.n_byte);
        assert_memory_equal(back.data, text.data, text.n_byte);
        qn_ids_free(&ids);
        qn_buf_free(&text);
        qn_buf_free(&back);
    }
}

static void test_caps(void **state)
{
    (void)state;
    struct qn_ids ids = QN_IDS_INIT(3);
    struct qn_err e = {0};
    assert_int_equal(qn_ids_push(&ids, 7), QN_OK);
    assert_int_equal(qn_tokenizer_encode(t, "1 2 3 4", 7, NULL, &ids, &e), QN_TOOBIG);
    assert_string_equal(e.text, "the text has more than 3 tokens");
    assert_int_equal(ids.n, 1);
    assert_int_equal(ids.data[0], 7);
    assert_int_equal(qn_tokenizer_encode(t, "<think><think><think>", 21, NULL, &ids, &e), QN_TOOBIG);
    assert_int_equal(ids.n, 1);
    assert_int_equal(qn_tokenizer_encode(t, "12", 2, NULL, &ids, &e), QN_OK);
    assert_int_equal(ids.n, 3);
    assert_int_equal(qn_tokenizer_encode(t, "", 0, NULL, &ids, &e), QN_OK);
    qn_ids_free(&ids);
}

/* The small tokenizer.json with one text replaced by another. */
static void check_refused(const char *from, const char *to, int code, const char *want)
{
    struct qn_buf file = QN_BUF_INIT(1 << 20), changed = QN_BUF_INIT(1 << 20);
    struct qn_err e = {0};
    struct qn_tokenizer *bad = NULL;
    assert_int_equal(qn_buf_read_file(&file, SMALL "/tokenizer.json", &e), QN_OK);
    char *at = strstr(file.data, from);
    if (!at) fail_msg("no %s in the file", from);
    qn_buf_append(&changed, file.data, (size_t)(at - file.data));
    qn_buf_puts(&changed, to);
    qn_buf_puts(&changed, at + strlen(from));
    int rc = qn_tokenizer_open_text(&bad, changed.data, changed.n_byte, NULL, 0, "file", &e);
    if (rc != code || !strstr(e.text, want))
        fail_msg("%s -> %s: %d '%s', not '%s'", from, to, rc, e.text, want);
    qn_buf_free(&file);
    qn_buf_free(&changed);
}

static void test_files_that_are_refused(void **state)
{
    (void)state;
    check_refused("\"type\":\"BPE\"", "\"type\":\"Unigram\"", QN_UNSUPPORTED, "'Unigram'");
    check_refused("\"type\":\"NFC\"", "\"type\":\"NFKC\"", QN_UNSUPPORTED, "'NFKC'");
    check_refused("\"byte_fallback\":false", "\"byte_fallback\":true", QN_UNSUPPORTED, "byte_fallback");
    check_refused("\"dropout\":null", "\"dropout\":0.1", QN_UNSUPPORTED, "dropout");
    check_refused("\"model\":", "\"modle\":", QN_FORMAT, "no \"model\"");
    check_refused("\"vocab\":", "\"vocap\":", QN_FORMAT, "no \"vocab\"");
    check_refused("\"merges\":", "\"mergers\":", QN_FORMAT, "no \"merges\"");
    check_refused("\"#\":2,", "\"#\":2000000000,", QN_TOOBIG, "not in 0..");
    check_refused("\"#\":2,", "\"#\":1,", QN_FORMAT, "two tokens have the id 1");
    check_refused("\"#\":2,", "\"#\":-1,", QN_FORMAT, "expected a token id");
    check_refused("\"#\":2,", "\"#\":2", QN_FORMAT, "expected ','");
    check_refused("\"#\":2,", "\"##\":2,", QN_UNSUPPORTED, "no token for byte 0x23");
    check_refused("\"merges\":[[\"", "\"merges\":[[\"#", QN_FORMAT, "not in the vocabulary");
    check_refused("\"merges\":[[", "\"merges\":[\"ab\",[", QN_FORMAT, "not two tokens");
    check_refused("\"merges\":[[", "\"merges\":[[\"a\"],[", QN_FORMAT, "two strings");
    check_refused("\"content\":\"<think>\"", "\"content\":7", QN_FORMAT, "no \"content\"");
    check_refused("\"id\":956", "\"id\":5", QN_FORMAT, "another token");
}

static void test_missing_and_truncated_files(void **state)
{
    (void)state;
    struct qn_err e = {0};
    struct qn_tokenizer *bad = NULL;
    assert_int_equal(qn_tokenizer_open(&bad, "/nonexistent", &e), QN_NOTFOUND);
    assert_non_null(strstr(e.text, "/nonexistent: no such folder or file"));
    struct qn_buf file = QN_BUF_INIT(1 << 20);
    assert_int_equal(qn_buf_read_file(&file, SMALL "/tokenizer.json", &e), QN_OK);
    for (size_t n = 0; n + 2 < file.n_byte; n += n < 3000 ? 7 : 501) {
        char *cut = malloc(n + 1); /* so that a sanitizer sees a read behind the end */
        memcpy(cut, file.data, n);
        int rc = qn_tokenizer_open_text(&bad, cut, n, NULL, 0, "cut", &e);
        if (!rc) fail_msg("the first %zu bytes were accepted", n);
        free(cut);
    }
    qn_buf_free(&file);
}

static void test_older_pattern_is_followed_with_a_warning(void **state)
{
    (void)state;
    struct qn_buf file = QN_BUF_INIT(1 << 20), config = QN_BUF_INIT(1 << 20);
    struct qn_err e = {0};
    struct qn_tokenizer *older;
    assert_int_equal(qn_buf_read_file(&file, SMALL "/tokenizer.json", &e), QN_OK);
    assert_int_equal(qn_buf_read_file(&config, SMALL "/tokenizer_config.json", &e), QN_OK);
    static const char *const with[] = {"[\\\\p{L}\\\\p{M}]+", "\\\\s\\\\p{L}\\\\p{M}\\\\p{N}"};
    static const char *const without[] = {"\\\\p{L}+", "\\\\s\\\\p{L}\\\\p{N}"};
    for (int i = 0; i < 2; i++) {
        char *at = strstr(file.data, with[i]);
        assert_non_null(at);
        size_t n_with = strlen(with[i]), n_without = strlen(without[i]);
        memcpy(at, without[i], n_without);
        memmove(at + n_without, at + n_with, strlen(at + n_with) + 1);
        file.n_byte -= n_with - n_without;
    }
    assert_int_equal(
        qn_tokenizer_open_text(&older, file.data, file.n_byte, config.data, config.n_byte, "older", &e),
        QN_OK);
    assert_string_equal(qn_tokenizer_info(older).split, "qwen2");
    assert_non_null(qn_tokenizer_info(older).warning);
    qn_tokenizer_free(older);
    qn_buf_free(&file);
    qn_buf_free(&config);
}

static int setup(void **state)
{
    (void)state;
    struct qn_err e = {0};
    if (!qn_tokenizer_open(&t, SMALL, &e)) return 0;
    fprintf(stderr, "%s\n", e.text);
    return -1;
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
        cmocka_unit_test(test_literal_text),
        cmocka_unit_test(test_added_tokens),
        cmocka_unit_test(test_merging),
        cmocka_unit_test(test_long_pieces_cost_little),
        cmocka_unit_test(test_caps),
        cmocka_unit_test(test_files_that_are_refused),
        cmocka_unit_test(test_missing_and_truncated_files),
        cmocka_unit_test(test_older_pattern_is_followed_with_a_warning),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
