/* JSON tree, parser and writer.
 * SPDX-License-Identifier: Apache-2.0 */
#include "support/test.h"

#include "base/json.h"

static char *round_trip(const char *text, const struct qn_json_style *style)
{
    struct qn_arena *arena = qn_arena_create(1 << 20);
    struct qn_json *v;
    struct qn_err e = {0};
    struct qn_buf out = QN_BUF_INIT(1 << 20);
    if (qn_json_parse(&v, arena, text, strlen(text), "test", &e))
        qn_buf_printf(&out, "%s", e.text);
    else
        qn_json_write(&out, v, style);
    qn_arena_free(arena);
    return qn_buf_take(&out);
}

static void check(const char *text, const char *want)
{
    char *got = round_trip(text, QN_JSON_PYTHON);
    assert_string_equal(got, want);
    free(got);
}

static void test_numbers_keep_their_text(void **state)
{
    (void)state;
    check("[1, 1.0, 123456789012345678901234567890, -0, -0.0]",
          "[1, 1.0, 123456789012345678901234567890, 0, -0.0]");
    check("[0.1, 1e22, 1E+5, 1e16, 1e15, 1e-5, 0.0001, 1e400]",
          "[0.1, 1e+22, 100000.0, 1e+16, 1000000000000000.0, 1e-05, 0.0001, Infinity]");
    check("[5e-324, 1.7976931348623157e308, 2.5, 100.25]", "[5e-324, 1.7976931348623157e+308, 2.5, 100.25]");
}

static void test_strings(void **state)
{
    (void)state;
    check("\"a\\u00e9\\ud83d\\ude00\\n\\\"\\\\\\/\\u0001\\u007f\"", "\"aé😀\\n\\\"\\\\/\\u0001\x7f\"");
    check("\"\\ud800x\"", "\"\xef\xbf\xbdx\"");
    struct qn_json_style ascii = {.indent = -1, .ensure_ascii = true};
    char *got = round_trip("\"é😀\"", &ascii);
    assert_string_equal(got, "\"\\u00e9\\ud83d\\ude00\"");
    free(got);
}

static void test_objects(void **state)
{
    (void)state;
    check("{\"b\":1,\"a\":{\"x\":[]},\"b\":2}", "{\"b\": 2, \"a\": {\"x\": []}}");
    struct qn_json_style pretty = {.indent = 2, .sort_keys = true};
    char *got = round_trip("{\"b\":[1,{}],\"a\":null}", &pretty);
    assert_string_equal(got, "{\n  \"a\": null,\n  \"b\": [\n    1,\n    {}\n  ]\n}");
    free(got);
}

static void test_errors_name_the_byte(void **state)
{
    (void)state;
    check("{\"a\":1,}", "test: invalid JSON at byte 7, expected a quoted key");
    check("[1", "test: JSON ends at byte 2, expected ',' or ']'");
    check("01", "test: invalid JSON at byte 1, expected no digit after a leading zero");
    check("\"\xff\"", "test: invalid JSON at byte 1, expected valid UTF-8");
    check("1 2", "test: invalid JSON at byte 2, expected the end of the text");
    char deep[2000];
    memset(deep, '[', sizeof deep - 1);
    deep[sizeof deep - 1] = 0;
    check(deep, "test: JSON nests deeper than 512 levels at byte 512");
}

static void test_getters(void **state)
{
    (void)state;
    struct qn_arena *arena = qn_arena_create(1 << 16);
    struct qn_json *v;
    const char *text = "{\"i\":3,\"r\":3.0,\"s\":\"x\",\"n\":null,\"big\":99999999999999999999}";
    struct qn_err e = {0};
    assert_int_equal(qn_json_parse(&v, arena, text, strlen(text), "t", &e), QN_OK);
    int64_t i;
    assert_int_equal(qn_json_get_int(v, "r", 0, &i, &e), QN_OK);
    assert_int_equal(i, 3);
    assert_int_equal(qn_json_get_int(v, "n", 7, &i, &e), QN_OK);
    assert_int_equal(i, 7);
    assert_int_equal(qn_json_get_int(v, "s", 7, &i, &e), QN_INVAL);
    assert_string_equal(e.text, "'s' must be an integer");
    assert_int_equal(qn_json_get_int(v, "big", 7, &i, &e), QN_INVAL);
    qn_arena_free(arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_numbers_keep_their_text),
        cmocka_unit_test(test_strings),
        cmocka_unit_test(test_objects),
        cmocka_unit_test(test_errors_name_the_byte),
        cmocka_unit_test(test_getters),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
