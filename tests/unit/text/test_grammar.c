/* Constraints, grammars and masks by example: what a request allows and what it does not.
 * SPDX-License-Identifier: Apache-2.0 */
#include "support/test.h"

#include <pthread.h>

#include "text/constrain.h"
#include "text/mask.h"
#include "text/regex.h"

static struct qn_arena *arena;

static int setup(void **state)
{
    (void)state;
    arena = qn_arena_create(16 << 20);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    qn_constrain_forget();
    qn_arena_free(arena);
    return 0;
}

static struct qn_json *json(const char *text)
{
    struct qn_json *v;
    struct qn_err e = {0};
    if (qn_json_parse(&v, arena, text, strlen(text), "test", &e)) fail_msg("%s: %s", e.text, text);
    return v;
}

static struct qn_grammar *compile(const struct qn_constrain *c)
{
    struct qn_grammar *g = NULL;
    struct qn_err e = {0};
    if (qn_constrain_compile(&g, c, NULL, &e)) fail_msg("%s", e.text);
    return g;
}

/* y: allowed and may end; p: allowed so far; n: not allowed */
static char judge(struct qn_grammar *g, const char *text)
{
    qn_gstate s = qn_grammar_advance(g, qn_grammar_start(g), text, strlen(text));
    return s == QN_GSTATE_DEAD ? 'n' : qn_grammar_may_end(g, s) ? 'y' : 'p';
}

static void check(struct qn_grammar *g, const char *text, char want)
{
    char got = judge(g, text);
    if (got != want) {
        size_t n = 0;
        while (n < strlen(text) && qn_grammar_advance(g, qn_grammar_start(g), text, n + 1)) n++;
        fail_msg("'%s': %c instead of %c; alive for %zu bytes: %.*s", text, got, want, n, (int)n, text);
    }
}

static void schema(const char *text, const char *yes, const char *no)
{
    struct qn_constrain c = {.form = QN_CONTENT_JSON_SCHEMA, .schema = json(text)};
    struct qn_grammar *g = compile(&c);
    /* lists of texts, separated by U+0001 */
    for (int i = 0; i < 2; i++) {
        char *copy = strdup(i ? no : yes), *save;
        for (char *s = strtok_r(copy, "\x01", &save); s; s = strtok_r(NULL, "\x01", &save))
            if (i)
                assert_true(judge(g, s) != 'y' || (fprintf(stderr, "%s allows %s\n", text, s), 0));
            else
                check(g, s, 'y');
        free(copy);
    }
    qn_grammar_release(g);
}

#define AND "\x01"

static void test_schemas(void **state)
{
    (void)state;
    schema("{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"integer\"},\"b\":{\"type\":\"string\"}},"
           "\"required\":[\"a\"]}",
           "{\"a\":1}" AND "{\"a\": 1, \"b\": \"x\\n\\u00e9\"}" AND "{\"b\":\"\",\"a\":-20}" AND
           "{\n  \"a\": 0\n}",
           "{}" AND "{\"b\":\"x\"}" AND "{\"a\":1,}" AND "{\"a\":01}" AND "{\"a\":1,\"a\":2}" AND
           "{\"a\":1,\"c\":2}" AND "{\"a\":1.5}");
    schema("{\"type\":\"array\",\"items\":{\"type\":\"boolean\"},\"minItems\":1,\"maxItems\":2}",
           "[true]" AND "[false, true]", "[]" AND "[true,true,true]" AND "[1]");
    schema("{\"prefixItems\":[{\"type\":\"integer\"},{\"type\":\"string\"}],\"items\":{\"type\":\"null\"},"
           "\"minItems\":1,\"type\":\"array\"}",
           "[1]" AND "[1,\"a\"]" AND "[1,\"a\",null,null]", "[]" AND "[\"a\"]" AND "[1,null]");
    schema("{\"enum\":[\"a\",1,null,{\"x\":[1]}]}", "\"a\"" AND "1" AND "null" AND "{\"x\": [1]}",
           "\"b\"" AND "2");
    schema("{\"const\":\"x\"}", "\"x\"", "\"y\"");
    schema("{\"anyOf\":[{\"type\":\"integer\"},{\"type\":\"null\"}]}", "12" AND "null", "\"a\"" AND "1.0");
    schema("{\"type\":[\"string\",\"null\"],\"maxLength\":2}",
           "\"\"" AND "\"é😀\"" AND "null" AND "\"\\n\\\"\"", "\"abc\"");
    schema("{\"type\":\"string\",\"pattern\":\"^[a-c]+[0-9]{2}$\"}", "\"abc12\"", "\"12\"" AND "\"a123\"");
    schema("{\"type\":\"string\",\"pattern\":\"b\",\"maxLength\":3}", "\"b\"" AND "\"abc\"",
           "\"aaa\"" AND "\"abcd\"");
    schema("{\"type\":\"string\",\"format\":\"uuid\"}", "\"01234567-89ab-cdef-0123-456789abcdef\"", "\"x\"");
    schema("{\"type\":\"integer\",\"minimum\":-12,\"maximum\":105}",
           "-12" AND "-1" AND "0" AND "9" AND "99" AND "105", "-13" AND "106" AND "1000" AND "-0" AND "1.0");
    schema("{\"type\":\"integer\",\"exclusiveMinimum\":9.5}", "10" AND "11" AND "12345", "9" AND "-10");
    schema("{\"type\":\"number\",\"minimum\":0.25,\"exclusiveMaximum\":2}",
           "0.25" AND "0.3" AND "1" AND "1.999" AND "1.0",
           "0.2" AND "0.249" AND "2" AND "2.0" AND "-1" AND "0");
    schema("{\"type\":\"number\",\"minimum\":-1.5,\"maximum\":-0.5}",
           "-0.5" AND "-1" AND "-1.5" AND "-1.25" AND "-0.50", "-0.4" AND "0" AND "-1.51" AND "-2" AND "1");
    schema("{\"$defs\":{\"t\":{\"type\":\"object\",\"properties\":{\"v\":{\"type\":\"integer\"},\"kids\":{"
           "\"type\":\"array\",\"items\":"
           "{\"$ref\":\"#/$defs/t\"}}},\"required\":[\"v\"]}},\"$ref\":\"#/$defs/t\"}",
           "{\"v\":1}" AND "{\"v\":1,\"kids\":[{\"v\":2,\"kids\":[]}]}",
           "{\"kids\":[]}" AND "{\"v\":1,\"kids\":[{}]}");
    schema("{\"allOf\":[{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"integer\",\"minimum\":3}},"
           "\"required\":[\"a\"]},"
           "{\"properties\":{\"a\":{\"maximum\":5},\"b\":{\"type\":\"null\"}},\"required\":[\"b\"]}]}",
           "{\"a\":4,\"b\":null}", "{\"a\":4}" AND "{\"a\":2,\"b\":null}" AND "{\"a\":6,\"b\":null}");
    schema("{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"integer\"}},\"additionalProperties\":{"
           "\"type\":\"null\"}}",
           "{}" AND "{\"x\":null}" AND "{\"a\":1,\"x\":null,\"y\":null}", "{\"a\":null}" AND "{\"x\":1}");
    schema("{\"type\":\"object\",\"required\":[\"k\"]}", "{\"k\":[1,{\"a\":null}]}", "{}" AND "{\"j\":1}");
    schema("{}", "1" AND "\"a\"" AND "[1,[]]" AND "{\"a\":{}}" AND "true" AND "-1.5e3",
           "tru" AND "{a}" AND "[1,]");
    schema("{\"anyOf\":[{\"required\":[\"a\"]},{\"required\":[\"b\"]}],\"type\":\"object\",\"properties\":{"
           "\"a\":{\"type\":\"null\"},\"b\":{\"type\":\"null\"}}}",
           "{\"a\":null}" AND "{\"b\":null}" AND "{\"a\":null,\"b\":null}", "{}");
}

/* Keywords that clients send for everyday types: sets, decimals, dictionaries. */
static void test_keywords(void **state)
{
    (void)state;
    schema("{\"type\":\"integer\",\"multipleOf\":7}",
           "0" AND "7" AND "-14" AND "700" AND "1000000001" AND "21",
           "1" AND "8" AND "07" AND "-6" AND "7.0" AND "1000000002");
    schema("{\"type\":\"integer\",\"multipleOf\":5,\"minimum\":3,\"maximum\":22}",
           "5" AND "10" AND "15" AND "20", "0" AND "-5" AND "25" AND "3" AND "22");
    schema("{\"type\":\"integer\",\"multipleOf\":100000}", "0" AND "100000" AND "-1200000",
           "10000" AND "100001");
    schema("{\"type\":\"number\",\"multipleOf\":0.01}",
           "0.01" AND "1.5" AND "12" AND "3.14" AND "-2.50" AND "1.500", "0.001" AND "1.505" AND "1e5");
    schema("{\"type\":\"number\",\"multipleOf\":0.25}", "0.25" AND "1.5" AND "12" AND "-2.75" AND "0.0",
           "0.1" AND "1.05");
    schema("{\"type\":\"integer\",\"multipleOf\":2.5}", "0" AND "5" AND "-10", "2" AND "7");
    schema("{\"type\":\"integer\",\"multipleOf\":1}", "0" AND "17", "1.5");
    schema("{\"allOf\":[{\"type\":\"integer\",\"multipleOf\":4},{\"multipleOf\":6}]}", "0" AND "12" AND "24",
           "4" AND "6" AND "18");
    schema("{\"type\":\"array\",\"uniqueItems\":true,\"items\":{\"enum\":[\"a\",\"b\",3]}}",
           "[]" AND "[\"a\"]" AND "[3, \"b\",\"a\"]", "[\"a\",\"a\"]" AND "[\"c\"]" AND "[3,\"a\",3]");
    schema("{\"type\":\"array\",\"uniqueItems\":true,\"minItems\":2,\"maxItems\":2,\"items\":{\"enum\":[1,2,"
           "3]}}",
           "[1,2]" AND "[3,1]", "[]" AND "[1]" AND "[1,1]" AND "[1,2,3]");
    schema("{\"type\":\"array\",\"uniqueItems\":true,\"items\":{\"anyOf\":[{\"const\":\"a\"},{\"type\":"
           "\"boolean\"}]}}",
           "[true,false,\"a\"]", "[true,true]");
    schema("{\"type\":\"object\",\"propertyNames\":{\"enum\":[\"a\",\"b\"]},\"additionalProperties\":{"
           "\"type\":\"integer\"}}",
           "{}" AND "{\"a\":1}" AND "{\"b\":1,\"a\":2}",
           "{\"c\":1}" AND "{\"a\":\"x\"}" AND "{\"a\":1,\"a\":2}");
    schema("{\"type\":\"object\",\"propertyNames\":{\"pattern\":\"^[a-z]{2}$\"},\"additionalProperties\":{"
           "\"type\":\"null\"}}",
           "{}" AND "{\"ab\":null}", "{\"a\":null}" AND "{\"AB\":null}");
    schema("{\"type\":\"object\",\"propertyNames\":{\"maxLength\":2},\"properties\":{\"ab\":{},\"abc\":{}}}",
           "{\"ab\":1}", "{\"abc\":1}");
    schema("{\"type\":\"object\",\"patternProperties\":{\"^n_\":{\"type\":\"integer\"},\"^s_\":{\"type\":"
           "\"string\"}},"
           "\"additionalProperties\":false}",
           "{}" AND "{\"n_a\":1,\"s_b\":\"x\"}", "{\"n_a\":\"x\"}" AND "{\"t\":1}");
    schema("{\"type\":\"object\",\"patternProperties\":{\"^n_\":{\"type\":\"integer\"}},"
           "\"additionalProperties\":{\"type\":\"null\"}}",
           "{\"n_a\":1,\"x\":null}", "{\"n_a\":null}" AND "{\"x\":1}");
    schema("{\"type\":\"object\",\"properties\":{\"n_a\":{\"minimum\":3}},\"patternProperties\":{\"^n_\":{"
           "\"type\":\"integer\"}}}",
           "{\"n_a\":4}", "{\"n_a\":2}" AND "{\"n_a\":3.5}");
    schema("{\"type\":\"object\",\"additionalProperties\":{\"type\":\"null\"},\"minProperties\":1,"
           "\"maxProperties\":2}",
           "{\"a\":null}" AND "{\"a\":null,\"b\":null}", "{}" AND "{\"a\":null,\"b\":null,\"c\":null}");
    schema("{\"const\":{\"a\":1,\"b\":[true,{}]}}",
           "{\"a\":1,\"b\":[true,{}]}" AND "{\"b\": [true, {}], \"a\": 1}" AND
           "{\n  \"a\": 1,\n  \"b\": [\n    true,\n    {}\n  ]\n}",
           "{\"a\":1}" AND "{\"a\":1,\"b\":[true]}" AND "{\"a\":2,\"b\":[true,{}]}");
    schema("{\"enum\":[[1,2],{\"k\":null}]}", "[1, 2]" AND "[1,2]" AND "{\"k\": null}" AND "{ \"k\":null }",
           "[2,1]" AND "{}");
    schema("{\"enum\":[\"ab\",\"b\",\"abc\",7],\"pattern\":\"^a\",\"maxLength\":2}", "\"ab\"" AND "7",
           "\"b\"" AND "\"abc\"");
    schema("{\"enum\":[3,4,6],\"multipleOf\":3}", "3" AND "6", "4");
    schema("{\"type\":\"int\"}", "1", "1.5" AND "\"a\"");
    schema("{\"type\":\"STRING\"}", "\"a\"", "1");
    schema("{\"type\":[\"Integer\",\"NONE\"]}", "1" AND "null", "\"a\"");
    schema("{\"type\":\"Optional[bool]\"}", "true" AND "null", "1");
}

/* What surrounds itself: patterns as pydantic writes them for Decimal, and the flags of expressions. */
static void test_looking_ahead(void **state)
{
    (void)state;
    schema("{\"type\":\"string\",\"pattern\":\"^(?!^[-+.]*$)[+-]?0*\\\\d*\\\\.?\\\\d*$\"}",
           "\"1\"" AND "\"-0.5\"" AND "\"+12.\"" AND "\".5\"",
           "\"\"" AND "\"-\"" AND "\".\"" AND "\"+.\"" AND "\"1e5\"");
    schema("{\"type\":\"string\",\"pattern\":\"^(?!^[-+.]*$)[+-]?0*(?:\\\\d{0,8}|(?=[\\\\d.]{1,11}0*$)\\\\d{"
           "0,8}\\\\.\\\\d{0,2}0*$)\"}",
           "\"12345678\"" AND "\"12345678.12\"" AND "\"-1.50\"" AND "\"0.10\"", "\".\"");
    schema("{\"type\":\"string\",\"pattern\":\"^(?=.*\\\\d)(?=.*[a-z]).{4,6}$\"}",
           "\"abc1\"" AND "\"1a_\\\"x\"", "\"abcd\"" AND "\"1234\"" AND "\"a1\"");
    schema("{\"type\":\"string\",\"pattern\":\"(?i)^yes|no$\"}", "\"YES!\"" AND "\"xNo\"", "\"nope\"");
    schema("{\"type\":\"string\",\"pattern\":\"^a(b$|c)\"}", "\"ab\"" AND "\"acd\"", "\"abc\"");
    schema("{\"type\":\"string\",\"pattern\":\"(^|,)x(,|$)\"}", "\"x\"" AND "\"a,x\"" AND "\"x,y\"",
           "\"ax\"" AND "\"xy\"");
    schema("{\"type\":\"string\",\"pattern\":\"^foo(?!bar)\"}", "\"foo\"" AND "\"fooba\"",
           "\"foobar\"" AND "\"xfoo\"");
}

static void test_refusals(void **state)
{
    (void)state;
    static const struct {
        const char *schema, *word;
    } cases[] = {
        {"{\"type\":\"array\",\"uniqueItems\":true}", "uniqueItems"},
        {"{\"type\":\"integer\",\"multipleOf\":1234567}", "multipleOf"},
        {"{\"type\":\"string\",\"pattern\":\"(?<=a)b\"}", "pattern"},
        {"{\"type\":\"string\",\"format\":\"idn-hostname\"}", "idn-hostname"},
        {"{\"if\":{}}", "if"},
        {"{\"not\":{\"type\":\"null\"}}", "not"},
        {"{\"type\":\"object\",\"properties\":{\"a\":{}},\"minProperties\":2}", "minProperties"},
        {"{\"contains\":{},\"type\":\"array\"}", "contains"},
    };
    for (size_t i = 0; i < QN_COUNT(cases); i++) {
        struct qn_constrain c = {
            .form = QN_CONTENT_JSON_SCHEMA, .schema = json(cases[i].schema), .is_strict = true};
        struct qn_grammar *g = NULL;
        struct qn_err e = {0};
        assert_int_equal(qn_constrain_compile(&g, &c, NULL, &e), QN_INVAL);
        assert_non_null(strstr(e.text, cases[i].word));
        /* not strict: ignored and reported */
        struct qn_buf report = QN_BUF_INIT(1 << 16);
        c.is_strict = false;
        assert_int_equal(qn_constrain_compile(&g, &c, &report, &e), QN_OK);
        assert_non_null(strstr(qn_buf_str(&report), cases[i].word));
        qn_buf_free(&report);
        qn_grammar_release(g);
    }
    static const char *const bad[] = {
        "{\"$ref\":\"#/$defs/none\"}",
        "{\"$ref\":\"#\"}",
        "{\"type\":\"object\",\"properties\":{\"a\":{\"$ref\":\"#\"}},\"required\":[\"a\"]}",
        "{\"type\":\"mystery\"}",
        "{\"type\":\"string\",\"pattern\":\"(\"}",
        "{\"type\":\"integer\",\"minimum\":5,\"maximum\":4}",
        "3",
        "{\"enum\":[]}"};
    for (size_t i = 0; i < QN_COUNT(bad); i++) {
        struct qn_constrain c = {.form = QN_CONTENT_JSON_SCHEMA, .schema = json(bad[i])};
        struct qn_grammar *g = NULL;
        struct qn_err e = {0};
        if (!qn_constrain_compile(&g, &c, NULL, &e)) fail_msg("accepted: %s", bad[i]);
        assert_true(e.text[0]);
    }
}

static const char tools_json[] =
    "[{\"name\":\"f\",\"parameters\":{\"type\":\"object\",\"properties\":{\"s\":{\"type\":\"string\"},\"n\":{"
    "\"type\":\"integer\"},"
    "\"o\":{\"type\":\"object\"},\"e\":{\"enum\":[\"x\",\"y\"]}},\"required\":[\"s\"],"
    "\"additionalProperties\":false}},"
    "{\"name\":\"g\",\"parameters\":{\"type\":\"object\",\"properties\":{},\"additionalProperties\":false}}]";

#define P(key, value) "<parameter=" key ">\n" value "\n</parameter>\n"
#define F(body)       "<tool_call>\n<function=f>\n" body "</function>\n</tool_call>"
#define G             "<tool_call>\n<function=g>\n</function>\n</tool_call>"

static void test_calls(void **state)
{
    (void)state;
    struct qn_toolset *tools;
    assert_int_equal(qn_toolset_create(&tools, json(tools_json), NULL), QN_OK);
    struct qn_constrain c = {.tools = tools};
    struct qn_grammar *g = compile(&c);
    /* auto: free text, then a call that is right */
    check(g, "hello <tool> </tool_call> x", 'y');
    check(g, "hello " F(P("s", "a")) " more " G, 'y');
    check(g, F(P("n", "12") P("s", "a\n  b </parameter> c\n")), 'y');
    check(g, F(P("n", "12")), 'n');
    check(g, F(P("s", "1") P("s", "2")), 'n');
    check(g, F(P("s", "1") P("zz", "2")), 'n');
    check(g, F(P("s", "1") P("n", "x")), 'n');
    check(g, F(P("s", "1") P("e", "y") P("o", "{\"a\": [1]}")), 'y');
    check(g, F(P("s", "1") P("e", "z")), 'n');
    check(g, "<tool_call>\n<function=h>", 'n');
    check(g, "<tool_call> no", 'n');
    check(g, F("<parameter=s>\n</parameter>\n"), 'y');
    /* a model may leave out the newline before the closer of free text */
    check(g, F("<parameter=s>\nabc</parameter>\n"), 'y');
    check(g, F("<parameter=s>\nabc</parameter>\n<parameter=n>\n12\n</parameter>\n"), 'y');
    check(g, F(P("s", "f('</parameter>');\nx</parameter>")), 'y');
    /* look-alikes stay legal, and what the parser takes as an end is one */
    check(g, F(P("s", "</parameter>\nprose\n</function>\nx\n</tool_call>\ny")), 'y');
    check(g, "<tool_call>\n<function=f>\n<parameter=s>\na\n</parameter>\n<parameter=zz", 'n');
    check(g, "<tool_call>\n<function=f>\n<parameter=s>\na</parameter><function=", 'n');
    check(g, F(P("s", F(P("q", "1")))), 'y');
    check(g, F(P("s", "x\n<parameter=n>")), 'n');
    assert_true(qn_grammar_is_free(g, qn_grammar_start(g)));
    qn_gstate after = qn_grammar_advance(g, qn_grammar_start(g), G, strlen(G));
    assert_true(qn_grammar_is_free(g, after));
    qn_grammar_release(g);

    c.choice = QN_CHOICE_NONE;
    g = compile(&c);
    check(g, "hello <function=f> <tool_call", 'y');
    check(g, "hello <tool_call>", 'n');
    qn_grammar_release(g);

    c.choice = QN_CHOICE_REQUIRED;
    g = compile(&c);
    check(g, "", 'p');
    check(g, "hello", 'n');
    check(g, "\n" G, 'y');
    check(g, G "\n" G, 'y');
    check(g, G "\nx", 'n');
    qn_grammar_release(g);

    c.choice = QN_CHOICE_NAMED;
    c.name = "g";
    g = compile(&c);
    check(g, G, 'y');
    check(g, G "\n" G, 'n');
    check(g, "<tool_call>\n<function=f", 'n');
    assert_true(qn_grammar_must_end(g, qn_grammar_advance(g, qn_grammar_start(g), G, strlen(G))));
    char bytes[128];
    size_t n = qn_grammar_forced(g, qn_grammar_advance(g, qn_grammar_start(g), "<", 1), bytes, sizeof bytes);
    assert_int_equal(n, strlen(G) - 1);
    qn_grammar_release(g);
    c.name = "nope";
    assert_int_equal(qn_constrain_compile(&g, &c, NULL, NULL), QN_INVAL);

    const char *allowed[] = {"g"};
    c = (struct qn_constrain){.tools = tools, .allowed = allowed, .n_allowed = 1, .single_call = true};
    g = compile(&c);
    check(g, "hi " G, 'y');
    check(g, "hi " G " x", 'n');
    check(g, "<tool_call>\n<function=f", 'n');
    qn_grammar_release(g);

    /* thinking first */
    c = (struct qn_constrain){.tools = tools, .choice = QN_CHOICE_REQUIRED, .starts_in_reasoning = true};
    g = compile(&c);
    check(g, "so <tool_call> is {", 'p');
    check(g, "so</think>\n\n" G, 'y');
    check(g, "so</think>no", 'n');
    check(g, "so\n" G, 'y'); /* a call that forgets to end the thinking */
    check(g, "so\n<tool_call>\n<function=h>", 'p');
    qn_grammar_release(g);
    c.choice = QN_CHOICE_AUTO;
    g = compile(&c);
    check(g, "so</think>\n\nfine", 'y');
    check(g, "so</think>\n\nfine " G, 'y');
    check(g, "so</think>\n\nfine <tool_call>x", 'n');
    assert_true(qn_grammar_is_free(g, qn_grammar_start(g)));
    qn_grammar_release(g);

    /* calls or JSON */
    c = (struct qn_constrain){.tools = tools, .form = QN_CONTENT_JSON_OBJECT, .starts_in_reasoning = true};
    g = compile(&c);
    check(g, "x</think>\n\n{\"a\": 1}", 'y');
    check(g, "x</think>\n\n" G, 'y');
    check(g, "x</think>\n\ntext", 'n');
    check(g, "x</think>\n\n{} ", 'n');
    qn_grammar_release(g);
    qn_toolset_free(tools);
}

/* Structural tags in both shapes: free text, triggers, regions; and trees of formats. */
static void test_tags(void **state)
{
    (void)state;
#define TAGS(text) (&(struct qn_constrain){.form = QN_CONTENT_TAGS, .schema = json(text)})
    struct qn_grammar *g = compile(TAGS(
        "{\"structures\":[{\"begin\":\"<a>\",\"schema\":{\"type\":\"integer\"},\"end\":\"</a>\"},"
        "{\"begin\":\"<b>\",\"schema\":{\"$ref\":\"#/$defs/x\",\"$defs\":{\"x\":{\"type\":\"boolean\"}}},"
        "\"end\":\"</b>\"}],\"triggers\":[\"<a\",\"<b\"]}"));
    check(g, "text <a>12</a> more <b>true</b><", 'y');
    check(g, "<a>x", 'n');
    check(g, "<b>12", 'n');
    check(g, "<ab", 'n');
    check(g, "<a>1", 'p');
    qn_grammar_release(g);
#define TRIGGERED                                                                                            \
    "\"type\":\"triggered_tags\",\"triggers\":[\"<f\"],\"tags\":[{\"begin\":\"<f=a>\",\"content\":{"         \
    "\"type\":"                                                                                              \
    "\"json_schema\",\"json_schema\":{\"type\":\"null\"}},\"end\":\"</f>\"}]"
    g = compile(TAGS("{\"format\":{" TRIGGERED "}}"));
    check(g, "x <f=a>null</f> y <f=a>null</f>", 'y');
    check(g, "no tag", 'y');
    check(g, "<f=b>", 'n');
    qn_grammar_release(g);
    g = compile(TAGS("{\"format\":{" TRIGGERED ",\"at_least_one\":true,\"stop_after_first\":true}}"));
    check(g, "<f=a>null</f>", 'y');
    check(g, "<f=a>null</f>x", 'n');
    check(g, "x", 'n');
    check(g, "", 'p');
    qn_grammar_release(g);
    g = compile(TAGS(
        "{\"format\":{\"type\":\"sequence\",\"elements\":[{\"type\":\"any_text\",\"excludes\":[\"bad\"]},"
        "{\"type\":\"const_string\",\"value\":\"END\"},{\"type\":\"or\",\"elements\":[{\"type\":\"regex\","
        "\"pattern\":\"[0-9]{2}\"},{\"type\":\"grammar\",\"grammar\":\"root ::= \\\"x\\\" "
        "\\\"y\\\"\"}]}]}}"));
    check(g, "some text EN END12", 'y');
    check(g, "END xy", 'n'); /* free text ends at the first END */
    check(g, "ENDxy", 'y');
    check(g, "a bad", 'n');
    check(g, "abc", 'p');
    qn_grammar_release(g);
    g = compile(TAGS(
        "{\"format\":{\"type\":\"tags_with_separator\",\"separator\":\", \",\"at_least_one\":true,\"tags\":["
        "{\"begin\":\"[\",\"content\":{\"type\":\"any_text\"},\"end\":[\"]\",\")\"]}]}}"));
    check(g, "[one], [two)", 'y');
    check(g, "[one],[two]", 'n');
    check(g, "", 'p');
    qn_grammar_release(g);
    /* only a tag has a begin */
    g = compile(
        TAGS("{\"format\":{\"type\":\"sequence\",\"elements\":[{\"type\":\"any_text\"},{\"type\":\"regex\","
             "\"pattern\":\"[0-9]\",\"begin\":\"x\"}]}}"));
    check(g, "text7", 'y');
    qn_grammar_release(g);
    g = compile(
        TAGS("{\"format\":{\"type\":\"sequence\",\"elements\":[{\"type\":\"optional\",\"content\":{\"type\":"
             "\"const_string\",\"value\":\"o\"}},{\"type\":\"plus\",\"content\":{\"type\":\"const_string\","
             "\"value\":"
             "\"p\"}},{\"type\":\"star\",\"content\":{\"type\":\"const_string\",\"value\":\"s\"}},{\"type\":"
             "\"repeat\","
             "\"min\":2,\"max\":3,\"content\":{\"type\":\"const_string\",\"value\":\"r\"}}]}}"));
    check(g, "opprr", 'y');
    check(g, "pssrrr", 'y');
    check(g, "osrr", 'n');
    check(g, "pr", 'p');
    qn_grammar_release(g);
    g = compile(TAGS(
        "{\"format\":{\"type\":\"tag\",\"begin\":\"<function=f>\\n\",\"end\":\"</function>\",\"content\":{"
        "\"type\":\"qwen_xml_parameter\",\"json_schema\":{\"type\":\"object\",\"properties\":{\"n\":{"
        "\"type\":"
        "\"integer\"},\"s\":{\"type\":\"string\"}},\"required\":[\"n\"]}}}}"));
    check(g, "<function=f>\n" P("s", "x") P("n", "3") "</function>", 'y');
    check(g, "<function=f>\n" P("s", "x") "</function>", 'n');
    qn_grammar_release(g);
    struct qn_err e = {0};
    assert_int_equal(
        qn_constrain_compile(&g, TAGS("{\"format\":{\"type\":\"token\",\"token\":5}}"), NULL, &e), QN_INVAL);
    assert_non_null(strstr(e.text, "'token'"));
    assert_int_equal(qn_constrain_compile(&g, TAGS("{\"structures\":[],\"triggers\":[\"x\"]}"), NULL, &e),
                     QN_INVAL);
}

/* A model that wants to end a call too early is led to what is missing, not into data. */
static void test_required_parameters(void **state)
{
    (void)state;
    struct qn_toolset *tools;
    assert_int_equal(
        qn_toolset_create(
            &tools,
            json("[{\"name\":\"f\",\"parameters\":{\"type\":\"object\",\"properties\":{\"a\":{\"type\":"
                 "\"string\"},"
                 "\"b\":{\"type\":\"string\"},\"c\":{\"type\":\"string\"}},\"required\":[\"a\",\"b\"]}},"
                 "{\"name\":\"g\",\"parameters\":{\"type\":\"object\",\"properties\":{\"a\":{\"type\":"
                 "\"string\"}},"
                 "\"required\":[\"a\"],\"additionalProperties\":true}}]"),
            NULL),
        QN_OK);
    struct qn_constrain c = {.tools = tools, .choice = QN_CHOICE_REQUIRED};
    struct qn_grammar *g = compile(&c);
#define HEAD(name) "<tool_call>\n<function=" name ">\n"
    check(g, F(P("a", "1") P("b", "2")), 'y');
    check(g, F(P("b", "1") P("c", "2") P("a", "3")), 'y');
    check(g, HEAD("f") P("a", "x") "</", 'n');
    check(g, HEAD("f") P("a", "x") "\n</f", 'n');
    check(g, HEAD("f") "<parameter=a>\nx</parameter>\n</", 'n');
    check(g, F(P("a", "x\n</parameter>\nprose </b> y") P("b", "</parameter> z")), 'y');
    check(g, F(P("a", "x") P("b", "</parameter>\n</more>\n")), 'y'); /* nothing is missing any more */
    check(g, HEAD("f") "<parameter=d>", 'n');                        /* the listed ones are all there are */
    check(g, HEAD("g") "<parameter=d>", 'n'); /* others, but not before what is required */
    check(g, HEAD("g") P("a", "1") P("d", "2") "</function>\n</tool_call>", 'y');
    qn_grammar_release(g);
    qn_toolset_free(tools);
    /* bounded text may be nothing but a closer: there is no other way on than to close it */
    assert_int_equal(
        qn_toolset_create(
            &tools,
            json(
                "[{\"name\":\"f\",\"parameters\":{\"type\":\"object\",\"properties\":{\"a\":{\"enum\":"
                "[\"</"
                "parameter>\",1]},\"b\":{\"type\":\"string\",\"maxLength\":12},\"c\":{\"type\":\"integer\"}},"
                "\"required\":[\"c\"]}}]"),
            NULL),
        QN_OK);
    c.tools = tools;
    g = compile(&c);
    check(g, HEAD("f") P("a", "</parameter>") P("c", "1") "</function>\n</tool_call>", 'y');
    check(g, HEAD("f") P("b", "</parameter>") P("c", "1") "</function>\n</tool_call>", 'y');
    check(g, HEAD("f") P("b", "</parameter>") "</function>", 'n');
    qn_grammar_release(g);
    qn_toolset_free(tools);
}

static void test_equal_requests_share(void **state)
{
    (void)state;
    struct qn_constrain c = {.form = QN_CONTENT_JSON_SCHEMA,
                             .schema = json("{\"type\":\"integer\",\"multipleOf\":2}")};
    struct qn_constrain same = {.form = QN_CONTENT_JSON_SCHEMA,
                                .schema = json("{ \"type\": \"integer\", \"multipleOf\": 2 }")};
    struct qn_buf one = QN_BUF_INIT(1 << 16), two = QN_BUF_INIT(1 << 16);
    struct qn_grammar *a, *b;
    assert_int_equal(qn_constrain_compile(&a, &c, &one, NULL), QN_OK);
    assert_int_equal(qn_constrain_compile(&b, &same, &two, NULL), QN_OK);
    assert_ptr_equal(a, b);
    assert_string_equal(one.data, two.data);
    qn_grammar_release(b);
    same.starts_in_reasoning = true;
    assert_int_equal(qn_constrain_compile(&b, &same, NULL, NULL), QN_OK);
    assert_ptr_not_equal(a, b);
    qn_grammar_release(a);
    qn_grammar_release(b);
    qn_buf_free(&one);
    qn_buf_free(&two);
}

static void test_texts(void **state)
{
    (void)state;
    struct qn_constrain c = {.form = QN_CONTENT_REGEX, .text = "(ab|c)+\\d{1,2}[^x-z]?"};
    struct qn_grammar *g = compile(&c);
    check(g, "abc12", 'y');
    check(g, "c1é", 'y');
    check(g, "c1x", 'n');
    check(g, "ab", 'p');
    qn_grammar_release(g);
    c = (struct qn_constrain){.form = QN_CONTENT_CHOICE, .schema = json("[\"yes\",\"yesterday\"]")};
    g = compile(&c);
    check(g, "yes", 'y');
    check(g, "yest", 'p');
    check(g, "no", 'n');
    qn_grammar_release(g);
    c = (struct qn_constrain){
        .form = QN_CONTENT_GRAMMAR,
        .text = "# sums\nroot ::= term (\"+\" term)*\nterm ::= [0-9]{1,3} |\n  \"(\" root \")\"\n"};
    g = compile(&c);
    check(g, "1+(22+(3))", 'y');
    check(g, "1+(22", 'p');
    check(g, "1+)", 'n');
    qn_grammar_release(g);
    static const char *const bad[] = {
        "root ::= root \"a\" | \"b\"", "root ::= x", "x ::= \"a\"",   "root ::= (\"a\"", "root ::= \"a",
        "root ::= \"a\" \"b\" root",   "root = 1",   "root ::= [b-a]"};
    for (size_t i = 0; i < QN_COUNT(bad); i++) {
        struct qn_err e = {0};
        c.text = bad[i];
        if (!qn_constrain_compile(&g, &c, NULL, &e)) fail_msg("accepted %s", bad[i]);
        assert_true(e.text[0]);
    }
    c = (struct qn_constrain){
        .form = QN_CONTENT_TAGS,
        .schema = json("{\"triggers\":[\"<f=\"],\"structures\":[{\"begin\":\"<f=a>\",\"schema\":{\"type\":"
                       "\"integer\"},\"end\":\"</f>\"}]}")};
    g = compile(&c);
    check(g, "text <f=a>12</f> text <f=a>3</f>", 'y');
    check(g, "text <f=a>x", 'n');
    check(g, "text <f=b", 'n');
    qn_grammar_release(g);
    c = (struct qn_constrain){0};
    g = compile(&c);
    assert_null(g);
}

/* --- grammars that a hostile client would send --- */

static char *repeated(const char *before, const char *part, int n, const char *after)
{
    struct qn_buf b = QN_BUF_INIT(4 << 20);
    qn_buf_puts(&b, before);
    for (int i = 0; i < n; i++) qn_buf_puts(&b, part);
    qn_buf_puts(&b, after);
    return qn_buf_take(&b);
}

/* In a thread with the stack of a connection's. */
static void *compile_long(void *user)
{
    (void)user;
    struct {
        enum qn_content_form form;
        const char *before, *part, *after, *part_text;
        int n;
    } cases[] = {{QN_CONTENT_GRAMMAR, "root ::= (", "\"a\" ", ") \"x\"", "a", 200000},
                 {QN_CONTENT_REGEX, "(", "[ab]", ")x", "b", 200000},
                 {QN_CONTENT_REGEX, "", "a?", "x", "", 100000}};
    for (size_t i = 0; i < QN_COUNT(cases); i++) {
        char *text = repeated(cases[i].before, cases[i].part, cases[i].n, cases[i].after);
        char *word = repeated("", cases[i].part_text, cases[i].n, "x");
        struct qn_constrain c = {.form = cases[i].form, .text = text};
        struct qn_grammar *g = compile(&c);
        if (cases[i].part_text[0]) check(g, word, 'y');
        qn_grammar_release(g);
        qn_constrain_forget();
        free(text);
        free(word);
    }
    return NULL;
}

static void test_long_grammars(void **state)
{
    (void)state;
    pthread_t thread;
    pthread_attr_t small;
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, 2 << 20);
    assert_int_equal(pthread_create(&thread, &small, compile_long, NULL), 0);
    pthread_join(thread, NULL);
    pthread_attr_destroy(&small);
}

/* Work that doubles with every level, or grows with the square of a list. */
static void test_costly_grammars(void **state)
{
    (void)state;
    struct qn_buf b = QN_BUF_INIT(4 << 20);
    qn_buf_puts(&b, "{\"format\":");
    for (int i = 0; i < 14; i++)
        qn_buf_puts(
            &b, "{\"type\":\"triggered_tags\",\"stop_after_first\":true,\"at_least_one\":true,\"triggers\":"
                "[\"<\",\"<\",\"<\",\"<\",\"<\",\"<\"],\"tags\":[{\"begin\":\"<a>\",\"end\":\"</"
                "a>\",\"content\":");
    qn_buf_puts(&b, "{\"type\":\"const_string\",\"value\":\"x\"}");
    for (int i = 0; i < 14; i++) qn_buf_puts(&b, "}]}");
    qn_buf_puts(&b, "}");
    struct qn_grammar *g = compile(TAGS(qn_buf_str(&b)));
    check(g, "<a><a>", 'p');
    check(g, "<a>x", 'n');
    qn_grammar_release(g);

    qn_buf_clear(&b);
    for (int i = 0; i < 30000; i++) qn_buf_printf(&b, "%s\"c%d\"", i ? "," : "[", i);
    qn_buf_puts(&b, "]");
    struct qn_constrain c = {.form = QN_CONTENT_CHOICE, .schema = json(qn_buf_str(&b))};
    g = compile(&c);
    check(g, "c29999", 'y');
    check(g, "c30000", 'n');
    qn_grammar_release(g);
    qn_buf_free(&b);

    /* a state of this would have as many alternatives as ways to count */
    char *bomb = repeated("((((((((a", "{1,9}b?)", 8, "");
    c = (struct qn_constrain){.form = QN_CONTENT_REGEX, .text = bomb};
    struct qn_err e = {0};
    assert_int_equal(qn_constrain_compile(&g, &c, NULL, &e), QN_TOOBIG);
    assert_non_null(strstr(e.text, "regex: '((((((((a{1,9}b?)"));
    assert_non_null(strstr(e.text, "{m,n}"));
    c.form = QN_CONTENT_GRAMMAR;
    c.text = "root ::= r1{1,9}\nr1 ::= (r2 \"b\"?){1,9}\nr2 ::= (r3 \"b\"?){1,9}\nr3 ::= (r4 \"b\"?){1,9}\n"
             "r4 ::= (\"a\"{1,9} \"b\"?){1,9}";
    assert_int_equal(qn_constrain_compile(&g, &c, NULL, &e), QN_TOOBIG);
    assert_non_null(strstr(e.text, "grammar: too costly"));
    free(bomb);
}

/* Steps that a walk of n bytes over the widest states takes, or -1: the expression is refused, which takes
 * few. */
static int64_t steps_of(const char *regex, int n, uint32_t max_terms, int *failed)
{
    struct qn_terms *t = qn_terms_create(max_terms);
    struct qn_err e = {0};
    qn_term at;
    int rc = qn_regex_term(&at, t, regex, strlen(regex), true, false, "regex", &e);
    if (rc) {
        assert_int_equal(rc, QN_TOOBIG);
        assert_non_null(strstr(e.text, "too costly"));
        assert_true(qn_terms_work(t) < 20000); /* the trial has terms of its own */
    } else {
        assert_int_equal(qn_terms_seal(t, &e), QN_OK);
        for (int i = 0; i < n && at != QN_TERM_EMPTY; i++) {
            const qn_term *row = qn_term_row(t, at);
            int widest = -1;
            at = QN_TERM_EMPTY;
            for (int b = 0; b < 256; b++) {
                struct qn_term_part parts[4096];
                if (row[b] == QN_TERM_EMPTY) continue;
                int width = qn_term_parts(t, row[b], parts, QN_COUNT(parts));
                if (width < 0) width = QN_COUNT(parts);
                if (width > widest) widest = width, at = row[b];
            }
        }
    }
    int64_t work = rc ? -1 : (int64_t)qn_terms_work(t);
    *failed = qn_terms_failed(t);
    qn_terms_free(t);
    return work;
}

/* Deep nesting costs a bounded number of steps or is refused; what people write is not refused. */
static void test_nested_expressions(void **state)
{
    (void)state;
    static const struct {
        const char *open, *core, *close;
        bool is_refused; /* at 100 levels */
    } shapes[] = {
        {"(", "a", ")*", false},
        {"(", "a", "b?)*", false},
        {"(a|", "b", ")*", false},
        {"(a?", "b", ")?", false},
        {"(a*", "b", "a*)*", false},
        {"(a", "b", ")+", false},
        {"(.*", "b", ".*)*", false},
        {"(", "a", "){2}", false},
        {"(", "a?", "){0,1}", false},
        {"(", "a", "){1,2}", false},
        {"(", "a?b?", "){1,9}", false},
        {"([ab]?", "b", "[ab]?){1,3}", true},
        {"(a{1,2}", "b", "a?){2,3}", false},
        {"(", "a", "b?){0,2}", true},
    };
    int failed;
    for (size_t i = 0; i < QN_COUNT(shapes); i++)
        for (int n = 4; n <= 100; n += 96) {
            char *before = repeated("", shapes[i].open, n, shapes[i].core),
                 *all = repeated(before, shapes[i].close, n, "");
            int64_t work = steps_of(all, 64, QN_GRAMMAR_MAX_TERMS, &failed);
            if (work > 10000000 || (n == 100 && (work < 0) != shapes[i].is_refused) || failed)
                fail_msg("%.60s... %d deep: %lld steps, failed %d", all, n, (long long)work, failed);
            free(before);
            free(all);
        }
    static const char *const plain[] = {
        "([0-9a-fA-F]{1,4}:){7}[0-9a-fA-F]{1,4}|([0-9a-fA-F]{1,4}:){1,7}:|([0-9a-fA-F]{1,4}:){1,5}(:[0-9a-fA-"
        "F]{1,4}){1,2}",
        "((25[0-5]|(2[0-4]|1\\d|[1-9]|)\\d)\\.?){4}",
        "(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?",
        "([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\\.){1,8}[a-z]{2,6}",
        "[^,]{1,100}(,[^,]{1,100}){0,50}",
        "(([A-Z][a-z]{1,20} ){1,12}[a-z]{2,9}\\. ?){1,40}",
        "\\+?[0-9]{1,3}([ -]?[0-9]{2,4}){2,4}",
        "(\\{(\\[([0-9]{1,3},){0,9}\\],){0,9}\\},){0,9}",
    };
    for (size_t i = 0; i < QN_COUNT(plain); i++) {
        int64_t work = steps_of(plain[i], 64, QN_GRAMMAR_MAX_TERMS, &failed);
        if (work < 0 || work > 200000 || failed) fail_msg("%s: %lld steps", plain[i], (long long)work);
    }
    /* a thousand ways to have counted, all waiting for the same byte: some steps a way, not 256 */
    int64_t many = steps_of(":{2,}:{1400}x", 1000, QN_GRAMMAR_MAX_TERMS, &failed);
    assert_in_range(many, 100000, 10000000);
    assert_int_equal(failed, QN_OK);
    /* what no trial sees in a few bytes runs into the cap on steps */
    const uint32_t max_terms = 1 << 12;
    int64_t work = steps_of("(a|b)*a(a|b){60000}", 4000, max_terms, &failed);
    assert_int_equal(failed, QN_TOOBIG);
    assert_in_range(work, (int64_t)max_terms, (int64_t)max_terms * (QN_TERMS_WORK_A_TERM + 8));
}

/* A small vocabulary: every byte, some words, markers, an end token, a control token. */
static const char *const words[] = {
    "<tool_call>", "</tool_call>", "</think>",   "true", "fal",  "se", "{\"", "\": ", "\"}", "</par",
    "ameter>",     ">\n",          "<function=", "name", "\n\n", "é",  "12",  "</",   "abc", "\xe6\x97"};

static const char *token_bytes(void *ctx, int id, size_t *n, int *kind)
{
    static char single[256];
    (void)ctx;
    if (id < 256) {
        single[id] = (char)id;
        *n = 1;
        return &single[id];
    }
    if ((size_t)id < 256 + QN_COUNT(words)) {
        *n = strlen(words[id - 256]);
        if (qn_marker_of(words[id - 256], *n) >= 0) *kind = QN_MASK_MARKER;
        return words[id - 256];
    }
    *n = 5;
    *kind = (size_t)id == 256 + QN_COUNT(words) ? QN_MASK_END : QN_MASK_CONTROL;
    return "<eos>";
}

#define N_VOCAB  (256 + (int)QN_COUNT(words) + 2)
#define ALL      ((1u << QN_N_MARKER) - 1)
#define CALL_TOK 256 /* "<tool_call>" */
#define DONE_TOK 257 /* "</tool_call>" */

static struct qn_mask *small_mask(void)
{
    struct qn_mask_vocab vocab = {.n_vocab = N_VOCAB, .bytes = token_bytes, .cache_bytes = 4096};
    struct qn_mask *m;
    assert_int_equal(qn_mask_create(&m, &vocab, NULL), QN_OK);
    return m;
}

/* The state behind n bytes of a text whose whole markers are tokens. */
static qn_gstate spell(const struct qn_mask *m, struct qn_grammar *g, const char *text, size_t n)
{
    qn_gstate s = qn_grammar_start(g);
    for (size_t i = 0; i < n;) {
        int marker = qn_marker_at(text + i, n - i), id = (unsigned char)text[i];
        for (size_t k = 0; marker >= 0 && k < QN_COUNT(words); k++)
            if (!strcmp(words[k], qn_marker_text((enum qn_marker)marker))) id = 256 + (int)k;
        s = qn_mask_advance(m, g, s, id);
        i += id < 256 ? 1 : strlen(words[id - 256]);
    }
    return s;
}

/* "allowed tokens, in order of their ids", words quoted as they are. */
static void expect_tokens(struct qn_mask *m, struct qn_grammar *g, qn_gstate s, const char *want)
{
    uint64_t bits[8];
    struct qn_buf got = QN_BUF_INIT(1 << 16);
    int n = qn_mask_fill(m, g, s, bits), forced = qn_mask_forced(m, g, s);
    for (int id = 0; id < N_VOCAB; id++) {
        if (!(bits[id / 64] >> (id % 64) & 1)) continue;
        size_t len;
        int kind = QN_MASK_TEXT;
        const char *text = token_bytes(NULL, id, &len, &kind);
        if (got.n_byte) qn_buf_putc(&got, ' ');
        qn_buf_append(&got, text, len);
        if (n == 1 && forced >= 0) assert_int_equal(forced, id);
    }
    if (strcmp(qn_buf_str(&got), want)) fail_msg("allowed: %s; not: %s", qn_buf_str(&got), want);
    if (n > 1) assert_int_equal(forced, -1);
    qn_buf_free(&got);
}

/* Where a marker has to come, its token has to: rendered again the text is that token. */
static void test_markers(void **state)
{
    (void)state;
    struct qn_mask *m = small_mask();
    struct qn_toolset *tools;
    assert_int_equal(qn_toolset_create(&tools, json(tools_json), NULL), QN_OK);
    struct qn_constrain c = {
        .tools = tools, .choice = QN_CHOICE_NAMED, .name = "g", .single_call = true, .markers = ALL};
    struct qn_grammar *g = compile(&c);
    expect_tokens(m, g, qn_grammar_start(g), "\n <tool_call> \n\n");
    expect_tokens(m, g, spell(m, g, "\n\n", 2), "<tool_call>");
    assert_int_equal(qn_mask_forced(m, g, spell(m, g, "\n\n", 2)), CALL_TOK);
    assert_int_equal(qn_mask_advance(m, g, qn_grammar_start(g), '<'), QN_GSTATE_DEAD);
    assert_int_equal(qn_mask_advance(m, g, qn_grammar_start(g), DONE_TOK), QN_GSTATE_DEAD);
    static const char call[] = "\n\n<tool_call>\n<function=g>\n</function>\n";
    expect_tokens(m, g, spell(m, g, call, strlen(call)), "</tool_call>");
    assert_int_equal(qn_mask_forced(m, g, spell(m, g, call, strlen(call))), DONE_TOK);
    qn_gstate end = qn_mask_advance(m, g, spell(m, g, call, strlen(call)), DONE_TOK);
    assert_true(qn_grammar_must_end(g, end));
    qn_grammar_release(g);

    /* none of the vocabulary: spelled */
    c.markers = 0;
    g = compile(&c);
    expect_tokens(m, g, spell(m, g, "\n\n", 2), "< <tool_call>");
    check(g, G, 'y');
    qn_grammar_release(g);
    c.markers = 1u << QN_MARKER_CALL_CLOSE;
    g = compile(&c);
    expect_tokens(m, g, spell(m, g, "\n\n", 2), "< <tool_call>");
    expect_tokens(m, g, spell(m, g, call, strlen(call)), "</tool_call>");
    qn_grammar_release(g);

    /* free text: however the opener came about, a call follows, and ends with the token */
    c = (struct qn_constrain){.tools = tools, .markers = ALL};
    g = compile(&c);
    qn_gstate s = spell(m, g, "text ", 5);
    for (const char *b = "<tool_call>"; *b; b++) s = qn_mask_advance(m, g, s, (unsigned char)*b);
    assert_true(s != QN_GSTATE_DEAD && s == spell(m, g, "text <tool_call>", 16));
    static const char text[] = "text <tool_call>\n<function=g>\n</function>\n";
    expect_tokens(m, g, spell(m, g, text, strlen(text)), "</tool_call>");
    /* further calls */
    qn_grammar_release(g);
    c.choice = QN_CHOICE_REQUIRED;
    g = compile(&c);
    static const char two[] = "<tool_call>\n<function=g>\n</function>\n</tool_call>";
    expect_tokens(m, g, spell(m, g, two, strlen(two)), "\n <eos>");
    static const char more[] = "<tool_call>\n<function=g>\n</function>\n</tool_call>\n";
    expect_tokens(m, g, spell(m, g, more, strlen(more)), "<tool_call>");
    /* an argument is text, which may hold markers both ways */
    static const char value[] = "<tool_call>\n<function=f>\n<parameter=s>\na ";
    s = spell(m, g, value, strlen(value));
    assert_true(qn_mask_allows(m, g, s, CALL_TOK) && qn_mask_allows(m, g, s, '<'));
    assert_true(qn_mask_advance(m, g, s, DONE_TOK) != QN_GSTATE_DEAD);
    qn_grammar_release(g);

    /* structural tags: fixed strings */
    c = *TAGS(
        "{\"format\":{\"type\":\"triggered_tags\",\"triggers\":[\"<tool_call>\"],\"at_least_one\":true,"
        "\"stop_after_first\":true,\"tags\":[{\"begin\":\"<tool_call>\",\"content\":{\"type\":\"regex\","
        "\"pattern\":\"[0-9]\"},\"end\":\"</tool_call>\"}]}}");
    c.markers = ALL;
    g = compile(&c);
    expect_tokens(m, g, qn_grammar_start(g), "<tool_call>");
    expect_tokens(m, g, spell(m, g, "<tool_call>7", 12), "</tool_call>");
    expect_tokens(m, g, spell(m, g, "<tool_call>7</tool_call>", 24), "<eos>");
    qn_grammar_release(g);
    c = *TAGS(
        "{\"format\":{\"type\":\"sequence\",\"elements\":[{\"type\":\"optional\",\"content\":{\"type\":"
        "\"const_string\",\"value\":\"x</think>y<tool_call>\"}},{\"type\":\"or\",\"elements\":[{\"type\":"
        "\"const_string\",\"value\":\"</think\"},{\"type\":\"const_string\",\"value\":\"</think>\"}]}]}}");
    c.markers = ALL;
    g = compile(&c);
    expect_tokens(m, g, qn_grammar_start(g), "< x </think> </");
    expect_tokens(m, g, spell(m, g, "x", 1), "</think>");
    expect_tokens(m, g, spell(m, g, "x</think>y", 10), "<tool_call>");
    qn_gstate cut = spell(m, g, "</thin", 6);
    expect_tokens(m, g, cut, "k");
    expect_tokens(m, g, qn_mask_advance(m, g, cut, 'k'), "<eos>");
    qn_grammar_release(g);

    /* grammar text: a literal is text, a named marker its token */
    c = (struct qn_constrain){.form = QN_CONTENT_GRAMMAR, .markers = ALL};
    c.text = "root ::= \"<tool_call>\" call?\ncall ::= <tool_call> [1-2]+ </tool_call>";
    g = compile(&c);
    expect_tokens(m, g, qn_grammar_start(g), "< <tool_call>");
    expect_tokens(m, g, spell(m, g, "<tool_call>", 11), "<tool_call> <eos>");
    expect_tokens(m, g, spell(m, g, "<tool_call><tool_call>1", 23), "1 2 </tool_call> 12");
    qn_grammar_release(g);
    c.markers = 0;
    g = compile(&c);
    check(g, "<tool_call><tool_call>1</tool_call>", 'y');
    qn_grammar_release(g);
    c.text = "root ::= <tool>";
    struct qn_err e = {0};
    assert_int_equal(qn_constrain_compile(&g, &c, NULL, &e), QN_INVAL);
    assert_non_null(strstr(e.text, "<tool_call>"));
    qn_toolset_free(tools);
    qn_mask_free(m);
}

/* Does the text at n go on inside a marker? */
static bool inside_marker(const char *text, size_t n)
{
    for (size_t from = 0; from < n; from++) {
        int marker = qn_marker_at(text + from, strlen(text + from));
        if (marker >= 0 && n < from + strlen(qn_marker_text((enum qn_marker)marker))) return true;
    }
    return false;
}

static void test_masks(void **state)
{
    (void)state;
    struct qn_mask *m = small_mask();
    struct qn_toolset *tools;
    assert_int_equal(qn_toolset_create(&tools, json(tools_json), NULL), QN_OK);
    struct qn_constrain cases[] = {
        {.tools = tools, .starts_in_reasoning = true},
        {.tools = tools, .choice = QN_CHOICE_REQUIRED},
        {.form = QN_CONTENT_JSON_SCHEMA,
         .schema = json("{\"type\":\"object\",\"properties\":{\"name\":{\"type\":\"string\",\"maxLength\":40}"
                        ",\"b\":{\"type\":\"boolean\"}}}")},
        {.form = QN_CONTENT_REGEX, .text = "(name|12|é)*abc"},
        {.tools = tools, .starts_in_reasoning = true, .markers = ALL},
        {.tools = tools, .choice = QN_CHOICE_REQUIRED, .markers = ALL},
    };
    const char *texts[] = {
        "hm</think>\n\n<tool_call>\n<function=f>\n<parameter=s>\nabc </par\n</parameter>\n<",
        "<tool_call>\n<function=f>\n<parameter=o>\n{\"a\": \"b</parameter><",
        "{\"name\": \"aé12\", \"b\": true",
        "name12éab",
        "hm</think>\n\n<tool_call>\n<function=f>\n<parameter=s>\nabc "
        "</par\n</parameter>\n</function>\n</tool_call>",
        "<tool_call>\n<function=g>\n</function>\n</"
        "tool_call>\n<tool_call>\n<function=f>\n<parameter=o>\n{\"a\": \"<"};
    uint64_t bits[8];
    for (size_t i = 0; i < QN_COUNT(cases); i++) {
        struct qn_grammar *g = compile(&cases[i]);
        for (size_t n = 0; n <= strlen(texts[i]); n++) {
            qn_gstate s = spell(m, g, texts[i], n);
            /* a marker that is a token is not begun with a byte */
            if (s == QN_GSTATE_DEAD && cases[i].markers && inside_marker(texts[i], n)) continue;
            assert_true(s != QN_GSTATE_DEAD);
            int count = qn_mask_fill(m, g, s, bits), seen = 0;
            for (int id = 0; id < N_VOCAB; id++) {
                bool in_mask = bits[id / 64] >> (id % 64) & 1, allowed = qn_mask_allows(m, g, s, id);
                if (in_mask != allowed)
                    fail_msg("case %zu, %zu bytes, token %d: mask %d, state %d", i, n, id, in_mask, allowed);
                seen += in_mask;
            }
            assert_int_equal(count, seen);
            assert_true(count > 0);
            int forced = qn_mask_forced(m, g, s);
            if (forced >= 0) assert_int_equal(count, 1);
        }
        qn_grammar_release(g);
    }
    qn_toolset_free(tools);
    qn_mask_free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_schemas),
        cmocka_unit_test(test_keywords),
        cmocka_unit_test(test_looking_ahead),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_calls),
        cmocka_unit_test(test_required_parameters),
        cmocka_unit_test(test_tags),
        cmocka_unit_test(test_texts),
        cmocka_unit_test(test_long_grammars),
        cmocka_unit_test(test_costly_grammars),
        cmocka_unit_test(test_nested_expressions),
        cmocka_unit_test(test_masks),
        cmocka_unit_test(test_markers),
        cmocka_unit_test(test_equal_requests_share),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
