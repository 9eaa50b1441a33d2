/* Argument typing: the table of types and texts.
 * SPDX-License-Identifier: Apache-2.0 */
#include "support/test.h"

#include "text/argtype.h"

/* Value of parameter "p" with that schema (inside a root that has some $defs) for raw text. */
static void check_n(const char *schema, const char *raw, size_t n, const char *want)
{
    struct qn_arena *arena = qn_arena_create(1 << 20);
    struct qn_buf text = QN_BUF_INIT(1 << 20), out = QN_BUF_INIT(1 << 20);
    struct qn_json *root;
    qn_buf_printf(
        &text,
        "{\"properties\":{\"p\":%s},\"$defs\":{\"i\":{\"type\":\"integer\"},\"e\":{\"enum\":[\"12\",7]},"
        "\"loop\":{\"$ref\":\"#/$defs/loop\"},\"tree\":{\"anyOf\":[{\"$ref\":\"#/$defs/tree\"},{\"type\":"
        "\"object\"}]},\"a/b\":{\"type\":\"boolean\"}}}",
        schema);
    assert_int_equal(qn_json_parse(&root, arena, text.data, text.n_byte, "schema", NULL), QN_OK);
    struct qn_argtype type;
    qn_argtype_find(&type, root, "p", 1);
    qn_argtype_write(&out, &type, raw, n);
    if (strcmp(out.data, want)) fprintf(stderr, "schema %s raw %s\n", schema, raw);
    assert_string_equal(out.data, want);
    /* once nothing but a string can come, a string comes */
    for (size_t i = 0; i < n; i++)
        if (!qn_argtype_may_change(&type, raw, i + 1)) assert_int_equal(want[0], '"');
    qn_buf_free(&text);
    qn_buf_free(&out);
    qn_arena_free(arena);
}

static void check(const char *schema, const char *raw, const char *want)
{
    check_n(schema, raw, strlen(raw), want);
}

#define T(name) "{\"type\":" name "}"

static void test_strings(void **state)
{
    (void)state;
    const char *schemas[] = {T("\"string\""), T("\"str\""), T("\"mystery\""), T("\"VARCHAR(20)\""),
                             "{\"format\":\"date\"}"};
    for (size_t i = 0; i < QN_COUNT(schemas); i++) {
        check(schemas[i], "true", "\"true\"");
        check(schemas[i], "null", "\"null\"");
        check(schemas[i], " 12 ", "\" 12 \"");
        check(schemas[i], "{\"a\":1}", "\"{\\\"a\\\":1}\"");
        check(schemas[i], "", "\"\"");
    }
    /* untyped: objects and arrays as such, all else as text */
    const char *untyped[] = {"{}", "true", "{\"description\":\"x\"}", T("\"any\""),
                             "{\"anyOf\":[{},{\"type\":\"string\"}]}"};
    for (size_t i = 0; i < QN_COUNT(untyped); i++) {
        check(untyped[i], "true", "\"true\"");
        check(untyped[i], "123", "\"123\"");
        check(untyped[i], " 12 ", "\" 12 \"");
        check(untyped[i], "{\"a\":1.50}", "{\"a\": 1.50}");
        check(untyped[i], " [1, {}]\n", "[1, {}]");
        check(untyped[i], "{'a': 1}", "\"{'a': 1}\"");
        check(untyped[i], "{\"a\":1} or so", "\"{\\\"a\\\":1} or so\"");
        check(untyped[i], "(1, 2)", "\"(1, 2)\"");
        check(untyped[i], "", "\"\"");
    }
    check(T("[\"string\",\"null\"]"), "nul", "\"nul\"");
    check(T("[\"string\",\"null\"]"), " None\n", "null");
    check(T("[\"string\",\"null\"]"), " nonesuch", "\" nonesuch\"");
    check(T("[\"string\",\"object\"]"), "{\"a\":1.50}", "{\"a\": 1.50}");
    check(T("[\"string\",\"object\"]"), "{oops", "\"{oops\"");
    check(T("[\"string\",\"integer\"]"), "12a", "\"12a\"");
    check(T("[\"string\",\"number\"]"), "1.5", "1.5");
    check("{\"type\":\"string\",\"nullable\":true}", "NULL", "null");
}

static void test_numbers(void **state)
{
    (void)state;
    check(T("\"integer\""), "12", "12");
    check(T("\"integer\""), " +007\n", "7");
    check(T("\"int\""), "-123456789012345678901234567890", "-123456789012345678901234567890");
    check(T("\"integer\""), "3.00", "3");
    check(T("\"integer\""), "3.5", "3.5");
    check(T("\"integer\""), "1e3", "1e3");
    check(T("\"integer\""), "1_000", "\"1_000\"");
    check(T("\"integer\""), "None", "null");
    check(T("\"number\""), "1.0", "1.0");
    check(T("\"number\""), "1E3", "1E3");
    check(T("\"float\""), "+.5", "0.5");
    check(T("\"number\""), "5.", "5.0");
    check(T("\"number\""), "-5.e2", "-5.0e2");
    check(T("\"number\""), "NaN", "\"NaN\"");
    check(T("\"number\""), "inf", "\"inf\"");
    check(T("\"number\""), "1e", "\"1e\"");
    check(T("\"number\""), ".", "\".\"");
    check(T("[\"integer\",\"number\"]"), "1.0", "1");
}

static void test_booleans(void **state)
{
    (void)state;
    check(T("\"boolean\""), "True", "true");
    check(T("\"bool\""), " FALSE ", "false");
    check(T("\"boolean\""), "1", "true");
    check(T("\"boolean\""), "0", "false");
    check(T("\"boolean\""), "yes", "\"yes\"");
    check(T("[\"boolean\",\"integer\"]"), "1", "1");
}

static void test_trees(void **state)
{
    (void)state;
    check(T("\"object\""), "{\"a\": [1.0, 1e400, 12345678901234567890, \"\\u00e9\"]}",
          "{\"a\": [1.0, 1e400, 12345678901234567890, \"é\"]}");
    check(T("\"object\""), "{\n \"a\" : 1,\n \"a\": 2 }", "{\"a\": 2}");
    check(T("\"dict\""), "{'a': True, \"b\": None, 1: (1, 'x\\'\\n',), 'c': [.5, -2,]}",
          "{\"a\": true, \"b\": null, \"1\": [1, \"x'\\n\"], \"c\": [0.5, -2]}");
    check(T("\"array\""), "(1, 2)", "[1, 2]");
    check(T("\"array\""), "(1)", "\"(1)\"");
    check(T("\"list\""), "['\\x41\\u00e9']", "[\"Aé\"]");
    check(T("\"array\""), "{\"a\":1}", "\"{\\\"a\\\":1}\"");
    check(T("\"object\""), "{'a': true}", "\"{'a': true}\"");
    check(T("\"object\""), "not json", "\"not json\"");
    check("{\"properties\":{}}", "{}", "{}");
    check("{\"items\":{}}", "[]", "[]");
    char deep[1200];
    memset(deep, '[', 600);
    memset(deep + 600, ']', 600);
    struct qn_buf want = QN_BUF_INIT(1 << 16);
    qn_json_write_str(&want, deep, 1200, false);
    check_n(T("\"array\""), deep, 1200, want.data);
    qn_buf_free(&want);
}

static void test_schemas(void **state)
{
    (void)state;
    check("{\"$ref\":\"#/$defs/i\"}", "5", "5");
    check("{\"$ref\":\"#/$defs/a~1b\"}", "true", "true");
    check("{\"$ref\":\"#/$defs/loop\"}", "5", "\"5\"");
    check("{\"$ref\":\"#/$defs/tree\"}", "{}", "{}");
    check("{\"$ref\":\"other.json\"}", "5", "\"5\"");
    check("{\"$ref\":\"#/$defs/e\"}", "12", "\"12\"");
    check("{\"$ref\":\"#/$defs/e\"}", "13", "13");
    check("{\"anyOf\":[{\"type\":\"integer\"},{\"type\":\"null\"}]}", "5", "5");
    check("{\"anyOf\":[{\"type\":\"integer\"},{\"type\":\"null\"}]}", "none", "null");
    check("{\"anyOf\":[{\"type\":\"integer\"},{\"description\":\"x\"}]}", "abc", "\"abc\"");
    check("{\"oneOf\":[{\"$ref\":\"#/$defs/i\"},{\"type\":\"array\"}]}", "[5]", "[5]");
    check("{\"enum\":[1,2]}", "2", "2");
    check("{\"enum\":[1,\"2\"]}", "2", "\"2\"");
    check("{\"const\":true}", "true", "true");
    check("{\"type\":[\"integer\",\"string\"],\"enum\":[\"null\"]}", "null", "\"null\"");
}

static void test_undeclared(void **state)
{
    (void)state;
    struct qn_arena *arena = qn_arena_create(1 << 20);
    struct qn_json *root;
    struct qn_argtype type;
    const char *text = "{\"additionalProperties\":{\"type\":\"integer\"}}";
    assert_int_equal(qn_json_parse(&root, arena, text, strlen(text), "schema", NULL), QN_OK);
    qn_argtype_find(&type, root, "any", 3);
    assert_int_equal(type.set, QN_ARG_INTEGER);
    qn_argtype_find(&type, NULL, "any", 3);
    assert_true(qn_argtype_is_string(&type));
    assert_false(qn_argtype_is_declared(root, "any", 3));
    qn_arena_free(arena);
}

/* Names of types in the spellings that tools are published with. */
static void test_type_names(void **state)
{
    (void)state;
    static const char *const integers[] = {"int",        "INTEGER",      "Int64",  "uint8",       "long",
                                           "TYPE_INT32", "builtins.int", "bigint", "unsigned int"};
    for (size_t i = 0; i < QN_COUNT(integers); i++) {
        char schema[64];
        snprintf(schema, sizeof schema, "{\"type\":\"%s\"}", integers[i]);
        check(schema, "7", "7");
        check(schema, "x", "\"x\"");
    }
    check(T("\"FLOAT\""), "1.50", "1.50");
    check(T("\"decimal(10,2)\""), "1.50", "1.50");
    check(T("\"Bool\""), "True", "true");
    check(T("\"Dict[str, Any]\""), "{'a': 1}", "{\"a\": 1}");
    check(T("\"HashMap<String, Integer>\""), "{\"a\":1}", "{\"a\": 1}");
    check(T("\"list[int]\""), "[1]", "[1]");
    check(T("\"typing.List[str]\""), "[]", "[]");
    check(T("\"string[]\""), "[\"a\"]", "[\"a\"]");
    check(T("\"tuple\""), "(1, 2)", "[1, 2]");
    check(T("\"Optional[int]\""), "None", "null");
    check(T("\"int | null\""), "null", "null");
    check(T("\"Union[int, None]\""), "3", "3");
    check(T("\"integer, null\""), "3", "3");
    check(T("\"number or null\""), "3.5", "3.5");
    check(T("[\"Int\",\"NULL\"]"), "null", "null");
    check(T("[{\"type\":\"int\"},\"null\"]"), "4", "4");
    check(T("\"String\""), "4", "\"4\"");
    check(T("\"interval\""), "4", "\"4\"");
}

/* Value of parameter n or m of a whole schema. */
static void check_in(const char *schema, const char *key, const char *raw, const char *want)
{
    struct qn_arena *arena = qn_arena_create(1 << 20);
    struct qn_buf out = QN_BUF_INIT(1 << 20);
    struct qn_json *root;
    assert_int_equal(qn_json_parse(&root, arena, schema, strlen(schema), "schema", NULL), QN_OK);
    struct qn_argtype type;
    qn_argtype_find(&type, root, key, strlen(key));
    qn_argtype_write(&out, &type, raw, strlen(raw));
    assert_string_equal(out.data, want);
    qn_buf_free(&out);
    qn_arena_free(arena);
}

/* Parameters that are a reference or combined of objects at their top. */
static void test_combined(void **state)
{
    (void)state;
#define N "{\"type\":\"object\",\"properties\":{\"n\":{\"type\":\"integer\"}}}"
#define M "{\"type\":\"object\",\"properties\":{\"m\":{\"type\":\"boolean\"}}}"
    static const char *const schemas[] = {
        "{\"anyOf\":[" N "," M "]}",
        "{\"oneOf\":[" N "," M "]}",
        "{\"allOf\":[" N "," M "]}",
        "{\"allOf\":[{\"$ref\":\"#/$defs/b\"}," M "],\"$defs\":{\"b\":" N "}}",
        "{\"$ref\":\"#/definitions/b\",\"definitions\":{\"b\":{\"anyOf\":[" N ",{\"allOf\":[" M "]}]}}}",
        "{\"properties\":{\"n\":{\"type\":\"integer\"}},\"if\":{\"required\":[\"n\"]},\"then\":" M "}",
    };
    for (size_t i = 0; i < QN_COUNT(schemas); i++) {
        check_in(schemas[i], "n", "1", "1");
        check_in(schemas[i], "m", "true", "true");
        check_in(schemas[i], "x", "1", "\"1\"");
    }
    check_in("{\"anyOf\":[" N ",{\"properties\":{\"n\":{\"type\":\"string\"}}}]}", "n", "a", "\"a\"");
    check_in("{\"anyOf\":[" N ",{\"additionalProperties\":{\"type\":\"number\"}}]}", "x", "2.50", "2.50");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_strings), cmocka_unit_test(test_type_names), cmocka_unit_test(test_combined),
        cmocka_unit_test(test_numbers), cmocka_unit_test(test_booleans),   cmocka_unit_test(test_trees),
        cmocka_unit_test(test_schemas), cmocka_unit_test(test_undeclared),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
