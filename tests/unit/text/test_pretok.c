/* Pre-tokeniser: the scanners against PCRE2 running the same patterns, and what is refused.
 * SPDX-License-Identifier: Apache-2.0 */
#include "support/test.h"

#include "base/rng.h"
#include "text/pretok.h"
#include "text/utf8.h"

static struct qn_arena *arena;

static int open_spec(struct qn_pretok **p, const char *json, struct qn_err *e)
{
    struct qn_json *spec;
    assert_int_equal(qn_json_parse(&spec, arena, json, strlen(json), "spec", e), QN_OK);
    return qn_pretok_open(p, spec, e);
}

static struct qn_pretok *open_pattern(const char *before, const char *pattern, const char *after)
{
    struct qn_buf json = QN_BUF_INIT(1 << 12), whole = QN_BUF_INIT(1 << 12);
    struct qn_pretok *p;
    struct qn_err e = {0};
    qn_buf_printf(&whole, "%s%s%s", before, pattern, after);
    qn_buf_puts(&json,
                "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":{\"Regex\":");
    qn_json_write_str(&json, whole.data, whole.n_byte, true);
    qn_buf_puts(&json, "},\"behavior\":\"Isolated\"},{\"type\":\"ByteLevel\",\"add_prefix_space\":false,"
                       "\"use_regex\":false}]}");
    if (open_spec(&p, json.data, &e)) fail_msg("%s", e.text);
    qn_buf_free(&json);
    qn_buf_free(&whole);
    return p;
}

static uint64_t draw(uint64_t *state, uint64_t n)
{
    *state += 0x9e3779b97f4a7c15u;
    return qn_mix64(*state) % n;
}

/* Text in which the patterns' rare cases are common. */
static void random_text(uint64_t *state, struct qn_buf *out)
{
    static const char *const parts[] = {
        " ",        "  ",     "\n",         "\r\n",       "\t",         "\u00a0", "\u3000", "\u2028",
        "\xc2\x85", "'",      "'s",         "'LL",        "'re",        "'ſ",     "a",      "Z",
        "é",        "中",     "\u0301",     "\u0e31",     "\u0903",     "1",      "٣",      "½",
        "Ⅷ",        "!",      "=",          "😀",          "\u200d",     "\u00ad", "_",      "\x01",
        "\u1c89",   "\u0897", "\U0001fae9", "\U00011f50", "\U000e0100", "\u0378"};
    qn_buf_clear(out);
    for (uint64_t n = draw(state, 30); n; n--) {
        if (draw(state, 10)) {
            qn_buf_puts(out, parts[draw(state, QN_COUNT(parts))]);
        } else {
            unsigned char s[4];
            uint32_t cp = (uint32_t)draw(state, 0x110000 - 0x800);
            qn_buf_append(out, s, (size_t)qn_utf8_put(cp < 0xd800 ? cp : cp + 0x800, s));
        }
    }
}

static void check_same(const struct qn_pretok *fast, const struct qn_pretok *slow, uint64_t seed)
{
    struct qn_buf text = QN_BUF_INIT(1 << 12);
    struct qn_err e = {0};
    for (int i = 0; i < 20000; i++) {
        random_text(&seed, &text);
        struct qn_pretok_cursor a, b;
        assert_int_equal(qn_pretok_begin(&a, fast, qn_buf_str(&text), text.n_byte, &e), QN_OK);
        assert_int_equal(qn_pretok_begin(&b, slow, qn_buf_str(&text), text.n_byte, &e), QN_OK);
        while (a.pos < text.n_byte) {
            size_t from = a.pos;
            if (qn_pretok_next(&a) != qn_pretok_next(&b))
                fail_msg("text '%s': the piece at %zu ends at %zu, and after PCRE2 at %zu", text.data, from,
                         a.pos, b.pos);
        }
        qn_pretok_end(&a);
        qn_pretok_end(&b);
    }
    qn_buf_free(&text);
}

static void test_scanners_are_the_patterns(void **state)
{
    (void)state;
    static const struct {
        const char *name, *pattern;
    } known[] = {
        {"qwen3.5", "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}|"
                    " ?[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"},
        {"qwen2",
         "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|"
         "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"},
        {"cl100k", "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}|"
                   " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"},
        {"gpt-2", "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"},
    };
    const char *text = getenv("QUERN_SEED");
    uint64_t seed = text ? strtoull(text, NULL, 10) : 1;
    print_message("seed %" PRIu64 " (QUERN_SEED)\n", seed);
    for (size_t i = 0; i < QN_COUNT(known); i++) {
        struct qn_pretok *fast = open_pattern("", known[i].pattern, "");
        struct qn_pretok *slow = open_pattern("(?:", known[i].pattern, ")");
        assert_string_equal(qn_pretok_name(fast), known[i].name);
        assert_string_equal(qn_pretok_name(slow), "custom");
        check_same(fast, slow, seed);
        qn_pretok_free(fast);
        qn_pretok_free(slow);
    }
}

static void check_refused(const char *json, const char *want)
{
    struct qn_pretok *p = NULL;
    struct qn_err e = {0};
    assert_int_not_equal(open_spec(&p, json, &e), QN_OK);
    if (!strstr(e.text, want)) fail_msg("'%s' does not speak of '%s'", e.text, want);
}

static void test_refusals_name_what_was_found(void **state)
{
    (void)state;
    check_refused("null", "byte-level");
    check_refused("{\"type\":\"Metaspace\",\"replacement\":\"_\"}", "'Metaspace'");
    check_refused("{\"type\":\"Whitespace\"}", "'Whitespace'");
    check_refused("{\"type\":\"ByteLevel\",\"add_prefix_space\":true}", "add_prefix_space");
    check_refused("{\"type\":\"Split\",\"pattern\":{\"Regex\":\"a\"},\"behavior\":\"Isolated\"}",
                  "no ByteLevel");
    check_refused("{\"type\":\"Split\",\"pattern\":{\"Regex\":\"a\"},\"behavior\":\"Removed\"}", "'Removed'");
    check_refused("{\"type\":\"Split\",\"pattern\":{\"Regex\":\"a(\"},\"behavior\":\"Isolated\"}", "byte 2");
    check_refused("{\"type\":\"Split\",\"behavior\":\"Isolated\"}", "neither");
    check_refused(
        "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"ByteLevel\",\"add_prefix_space\":false},"
        "{\"type\":\"Digits\"}]}",
        "after ByteLevel");
}

/* A pattern that backtracks without end must give an error, not hang. */
static void test_hostile_pattern(void **state)
{
    (void)state;
    struct qn_pretok *p = open_pattern("", "(?:a+)+[bc]", "");
    char text[60];
    struct qn_pretok_cursor c;
    struct qn_err e = {0};
    memset(text, 'a', sizeof text);
    assert_int_equal(qn_pretok_begin(&c, p, text, sizeof text, &e), QN_UNSUPPORTED);
    assert_non_null(strstr(e.text, "too long"));
    qn_pretok_free(p);
}

/* More backtracking state than the machine-code matcher has room for. */
static void test_long_custom_matches(void **state)
{
    (void)state;
    struct qn_pretok *p = open_pattern("", "(?:a|(b))+c|x+", "");
    struct qn_pretok_cursor c;
    struct qn_err e = {0};
    static char text[20000];
    memset(text, 'a', sizeof text);
    text[sizeof text - 1] = 'c';
    assert_int_equal(qn_pretok_begin(&c, p, text, sizeof text, &e), QN_OK);
    assert_int_equal(qn_pretok_next(&c), sizeof text);
    qn_pretok_end(&c);
    qn_pretok_free(p);
}

static int setup(void **state)
{
    (void)state;
    arena = qn_arena_create(1 << 20);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    qn_arena_free(arena);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_scanners_are_the_patterns),
        cmocka_unit_test(test_refusals_name_what_was_found),
        cmocka_unit_test(test_hostile_pattern),
        cmocka_unit_test(test_long_custom_matches),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
