/* Output parser, rule by rule. Every example is run whole, byte by byte and with every single cut.
 * SPDX-License-Identifier: Apache-2.0 */
#include "support/parse_run.h"
#include "support/test.h"

static struct qn_arena *arena;
static struct qn_toolset *tools;

static const char tools_json[] =
    "[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"parameters\":{\"type\":\"object\",\"properties\":"
    "{"
    "\"s\":{\"type\":\"string\"},\"t\":{\"type\":\"string\"},\"n\":{\"type\":\"integer\"},\"b\":{\"type\":"
    "\"boolean\"},"
    "\"o\":{\"type\":\"object\"},\"u\":{\"type\":[\"string\",\"null\"]},\"a\":{\"type\":\"array\"}}}}},"
    "{\"type\":\"function\",\"function\":{\"name\":\"get.x-y\"}}]";

static int setup(void **state)
{
    (void)state;
    struct qn_json *list;
    arena = qn_arena_create(1 << 20);
    if (qn_json_parse(&list, arena, tools_json, strlen(tools_json), "tools", NULL)) return 1;
    return qn_toolset_create(&tools, list, NULL);
}

static int teardown(void **state)
{
    (void)state;
    qn_toolset_free(tools);
    qn_arena_free(arena);
    return 0;
}

static void expect_run(struct parse_run run, const char *text, const char *want)
{
    char *got = parse_run_all(&run, text, strlen(text));
    char *order = strstr(got, " #");
    if (order) *order = 0;
    if (strcmp(got, want)) fprintf(stderr, "input: %s\n", text);
    assert_string_equal(got, want);
    free(got);
}

/* r: starts in reasoning; c: in content; R, C: the same, ended by length; p: content, request without
 * tools; x: content, calls forbidden */
static void expect(char how, const char *text, const char *want)
{
    struct parse_run run = {.tools = how == 'p' ? NULL : tools,
                            .forbidden = how == 'x',
                            .think = how == 'r' || how == 'R',
                            .end = how == 'R' || how == 'C' ? QN_PARSE_LENGTH : QN_PARSE_STOP};
    expect_run(run, text, want);
}

#define CALL(body)    "<tool_call>\n<function=f>\n" body "</function>\n</tool_call>"
#define P(key, value) "<parameter=" key ">\n" value "\n</parameter>\n"

static void test_reasoning(void **state)
{
    (void)state;
    /* 1: leading whitespace and one <think> */
    expect('r', " \n<think>\n a b \n</think>\n\nhi", "R:a b C:hi =stop");
    expect('r', "x<think>y</think>z", "R:x<think>y C:z =stop");
    /* 2: newlines after the marker; whitespace of the content stays */
    expect('r', "a</think>\r\n\n  hi\n", "R:a C:  hi\n =stop");
    expect('r', "a</thinking>b</think>c", "R:a</thinking>b C:c =stop");
    expect('r', "a\n</thinking>\nb", "R:a C:b =stop");
    expect('r', "a\n</thinking> b", "R:a\n</thinking> b =stop");
    /* 3: a call without the closing marker, of a declared name only */
    expect('r', "let me\n" CALL(""), "R:let me f{} =tool_calls");
    expect('r', "see <tool_call> there\n<tool_call>\n<function=g>\n</think>ok",
           "R:see <tool_call> there\n<tool_call>\n<function=g> C:ok =stop");
    expect('r', "x <function=f> y</think>", "R:x <function=f> y =stop");
    expect('r', "<tool_call>", "R:<tool_call> =stop");
    expect('r', "<tool_call><tool_call>\n<function=f >\n</function>", "R:<tool_call> f{} =tool_calls");
    /* 4: nothing left is null */
    expect('r', " \n </think> ", "C:  =stop");
    expect('r', "", "=stop");
    /* 5: the end inside */
    expect('r', "abc </thi", "R:abc </thi =stop");
    expect('R', "abc", "R:abc =length");
}

static void test_content(void **state)
{
    (void)state;
    /* 1: thinks anyway */
    expect('c', "\n <think>a</think>\nb", "R:a C:b =stop");
    expect('p', " <think>a</think>b", "R:a C:b =stop");
    expect('c', "x <think>a", "C:x <think>a =stop");
    expect('p', "<thin", "C:<thin =stop");
    /* 2: stray markers */
    expect('c', "a</think>b", "C:ab =stop");
    /* 3: what is a call */
    expect('c', "hi \n\n" CALL(""), "C:hi f{} =tool_calls");
    expect('c', " \n" CALL(""), "f{} =tool_calls");
    expect('c', "<tool_call><function=unknown name>\n</function></tool_call>", "unknown name{} =tool_calls");
    expect('c', "x\n<function=f>\n</function>", "C:x f{} =tool_calls");
    expect('c', "x\n<function=g>\n</function>", "C:x\n<function=g>\n</function> =stop");
    expect('c', "x <function=f>\n</function>", "C:x <function=f>\n</function> =stop");
    expect('c', "<function=get.x-y>\n" P("a.b[0]-$é", "1"), "get.x-y{\"a.b[0]-$é\": \"1\"} =tool_calls");
    expect('c', "use <tool_call> like\n<tool_call>\n<function=a\nb>",
           "C:use <tool_call> like\n<tool_call>\n<function=a\nb> =stop");
    expect('c', "a\n<tool_call>\n<function=>x", "C:a\n<tool_call>\n<function=>x =stop");
    expect('p', CALL(P("s", "1")), "C:" CALL(P("s", "1")) " =stop");
    expect('x', CALL(""), "C:" CALL("") " =stop");
    /* whitespace only, no call: stays */
    expect('c', " \n", "C: \n =stop");
    /* ends in the beginning of a marker: nothing is lost */
    expect('c', "a\n<tool", "C:a\n<tool =stop");
    expect('c', "a <tool_call> \n", "C:a <tool_call> \n =stop");
    expect('C', "a <tool_call>\n<function=f", "C:a <tool_call>\n<function=f =length");
}

static void test_json_dialect(void **state)
{
    (void)state;
    expect('c',
           "ok\n<tool_call>\n{\"name\": \"f\", \"arguments\": {\"n\": 1.0, \"x\": [\"}\"]}}\n</tool_call>",
           "C:ok f{\"n\": 1.0, \"x\": [\"}\"]} =tool_calls");
    expect('c',
           "<tool_call>{\"name\":\"f\",\"arguments\":{}}</"
           "tool_call>\n<tool_call>{\"name\":\"g\",\"arguments\":{}}",
           "f{} g{} =tool_calls");
    expect('c', "<tool_call>{\"name\":1}</tool_call>", "C:<tool_call>{\"name\":1}</tool_call> =stop");
    expect('c', "<tool_call>{oops}", "C:<tool_call>{oops} =stop");
    expect('c', "<tool_call>{\"name\": \"f\", \"argu", "C:<tool_call>{\"name\": \"f\", \"argu =stop");
}

static void test_fences(void **state)
{
    (void)state;
    expect('c', "Like:\n```xml\n" CALL("") "\n```\ndone", "C:Like:\n```xml\n" CALL("") "\n```\ndone =stop");
    expect('c', "~~~~\n" CALL(P("s", "x")) "\n~~~\n~~~~\n",
           "C:~~~~\n~~~\n~~~~\n f{\"s\": \"x\"} =tool_calls");
    expect('c', "```\n" CALL(P("s", "x")) "\nmore\n```", "C:```\nmore\n``` f{\"s\": \"x\"} =tool_calls");
    expect('c', "```\ncode\n```\n" CALL(""), "C:```\ncode\n``` f{} =tool_calls");
    expect('c', "```\n" CALL(""), "C:``` f{} =tool_calls");
    expect('c', "```\n<tool_call>\n<function=f>\n" P("s", "a"), "C:``` f{\"s\": \"a\"} =tool_calls");
    expect('C', "```\n<tool_call>\n<function=f>\n<parameter=s>\nab", "C:``` f{\"s\": \"ab+ =length");
    /* an example, then a real call */
    expect('c', "```\n" CALL("") "\n```\n" CALL(P("n", "1")),
           "C:```\n" CALL("") "\n``` f{\"n\": 1} =tool_calls");
    expect('c', "    ```\n" CALL("") "\n```", "C:    ```\n``` f{} =tool_calls");
}

static void test_call(void **state)
{
    (void)state;
    expect('c', CALL(" junk <x> \n" P("s", "1") P("t", "2")), "f{\"s\": \"1\", \"t\": \"2\"} =tool_calls");
    /* a missing </function> */
    expect('c',
           "<tool_call>\n<function=f>\n" P("n", "1") "</tool_call>\n<tool_call>\n<function=f>\n" P(
               "n", "2") "<tool_call>\n<function=f>\n",
           "f{\"n\": 1} f{\"n\": 2} f{} =tool_calls");
    /* several functions in one wrapper */
    expect('c',
           "<tool_call>\n<function=f>\n" P("n", "1") "</function>\n<function=g>\n" P(
               "n", "2") "</function>\n</tool_call>",
           "f{\"n\": 1} g{\"n\": \"2\"} =tool_calls");
    /* key trimmed; the end without closers */
    expect('c', "<tool_call><function= f ><parameter= n >7</parameter></function>",
           "f{\"n\": 7} =tool_calls");
    expect('c', "<tool_call>\n<function=f>", "f{} =tool_calls");
    expect('c', "<tool_call>\n<function=f>\n<parameter=nn", "f{} =tool_calls");
    /* duplicate key: sent twice, the last stands */
    expect('c', CALL(P("n", "1") P("n", "2")), "f{\"n\": 1, \"n\": 2} =tool_calls");
}

static void test_between(void **state)
{
    (void)state;
    expect('c', CALL("") "\n</tool_call></function></parameter></think>\n" CALL(""), "f{} f{} =tool_calls");
    expect('c', "a\n" CALL("") "\n\nb\n\n" CALL("") " c ", "C:a\nb\nc  f{} f{} =tool_calls");
    expect('c', CALL("") "\n<|x|>", "C:<|x|> f{} =tool_calls");
    expect('c', CALL("") "\n<tool_call>\n<function=f", "f{} =tool_calls");
    expect('c', CALL("") "\n <tool_call>{\"name\":\"f\",\"arguments\":{}}", "f{} f{} =tool_calls");
}

static void test_framing(void **state)
{
    (void)state;
    expect('c', CALL("<parameter=s>\n  a \n\n</parameter>\n"), "f{\"s\": \"  a \\n\"} =tool_calls");
    expect('c', CALL("<parameter=s>\n\n\na</parameter>"), "f{\"s\": \"\\n\\na\"} =tool_calls");
    expect('c', CALL("<parameter=s>\r\na\r\n</parameter>"), "f{\"s\": \"a\"} =tool_calls");
    expect('c', CALL("<parameter=s>\r\na\r\n\r\n</parameter>"), "f{\"s\": \"a\\r\\n\"} =tool_calls");
    expect('c', CALL("<parameter=s>\r\na\n</parameter>"), "f{\"s\": \"a\\n\"} =tool_calls");
    expect('c', CALL("<parameter=s>\na\r\n</parameter>"), "f{\"s\": \"a\\r\"} =tool_calls");
    expect('c', CALL("<parameter=s>\na\r\n\n</parameter>"), "f{\"s\": \"a\\r\\n\"} =tool_calls");
    expect('c', CALL("<parameter=s>a\n</parameter>"), "f{\"s\": \"a\"} =tool_calls");
    expect('c', CALL("<parameter=s>\ra\r</parameter>"), "f{\"s\": \"\\ra\\r\"} =tool_calls");
    expect('c', CALL("<parameter=s>\n</parameter>"), "f{\"s\": \"\"} =tool_calls");
    expect('c', CALL("<parameter=s>\n\n</parameter>"), "f{\"s\": \"\"} =tool_calls");
    expect('c', CALL("<parameter=s></parameter>"), "f{\"s\": \"\"} =tool_calls");
    expect('c', CALL("<parameter=s>\n\"\\\x01\t</parameter>"),
           "f{\"s\": \"\\\"\\\\\\u0001\\t\"} =tool_calls");
    expect('c', CALL("<parameter=s>\n&lt;<|im_start|><think></think>\n</parameter>"),
           "f{\"s\": \"&lt;<|im_start|><think></think>\"} =tool_calls");
}

static void test_closers(void **state)
{
    (void)state;
    /* 1: </parameter> is text unless structure follows */
    expect('c', CALL(P("s", "close = '</parameter>';\n</parameter>\nprose\n</parameters>\n</parameter >")),
           "f{\"s\": \"close = '</parameter>';\\n</parameter>\\nprose\\n</parameters>\\n</parameter >\"} "
           "=tool_calls");
    expect('c', "<tool_call>\n<function=f>\n<parameter=s>\na</parameter>", "f{\"s\": \"a\"} =tool_calls");
    expect('c', "<tool_call>\n<function=f>\n<parameter=s>\na\n</parameter>\n</tool_call>",
           "f{\"s\": \"a\"} =tool_calls");
    expect('c', "<tool_call>\n<function=f>\n<parameter=s>\na\n</parameter> \n <function=f>",
           "f{\"s\": \"a\"} f{} =tool_calls");
    /* 2: missing closers at line starts */
    expect('c', "<tool_call>\n<function=f>\n<parameter=s>\na\n</function>\n</tool_call>",
           "f{\"s\": \"a\"} =tool_calls");
    expect('c', "<tool_call>\n<function=f>\n<parameter=s>\na\n</tool_call>\n" CALL(""),
           "f{\"s\": \"a\"} f{} =tool_calls");
    expect('c',
           "<tool_call>\n<function=f>\n<parameter=s>\na\n</tool_call>\nb\n</function>\nc\n</parameter>\n</"
           "function>\n</tool_call>",
           "f{\"s\": \"a\\n</tool_call>\\nb\\n</function>\\nc\"} =tool_calls");
    expect(
        'c',
        "<tool_call>\n<function=f>\n<parameter=s>\nx </function>\n</tool_call>y\n</parameter>\n</function>",
        "f{\"s\": \"x </function>\\n</tool_call>y\"} =tool_calls");
    /* 3: openers at line starts */
    expect('c', CALL("<parameter=s>\na\n<parameter=n>\n3\n</parameter>\n"),
           "f{\"s\": \"a\", \"n\": 3} =tool_calls");
    expect('c', CALL("<parameter=s>\na\n<parameter=s>\n3\n</parameter>\nz\n</parameter>\n"),
           "f{\"s\": \"a\\n<parameter=s>\\n3\\n</parameter>\\nz\"} =tool_calls");
    expect('c', CALL(P("n", "1") "<parameter=s>\n<parameter=n>\n3\n</parameter>\n</parameter>\n"),
           "f{\"n\": 1, \"s\": \"<parameter=n>\\n3\\n</parameter>\"} =tool_calls");
    expect('c', CALL("<parameter=s>\na <parameter=n>\n3\n</parameter>\n"),
           "f{\"s\": \"a <parameter=n>\\n3\"} =tool_calls");
    /* a file that documents the format */
    expect('c', CALL("<parameter=s>\n" CALL(P("x", "1")) "\n</parameter>\n"),
           "f{\"s\": "
           "\"<tool_call>\\n<function=f>\\n<parameter=x>\\n1\\n</parameter>\\n</function>\\n</tool_call>\"} "
           "=tool_calls");
    expect('c',
           CALL("<parameter=s>\n" CALL(P("x", "1")) "\n" CALL(P("x", "1")) "\n</parameter>\n") "\n" CALL(""),
           "f{\"s\": "
           "\"<tool_call>\\n<function=f>\\n<parameter=x>\\n1\\n</parameter>\\n</function>\\n</tool_call>\\n"
           "<tool_call>\\n<function=f>\\n<parameter=x>\\n1\\n</parameter>\\n</function>\\n</tool_call>\"} "
           "f{} =tool_calls");
    /* 4: a lone opener cannot swallow the call */
    expect('c', CALL(P("s", "a\n<parameter=x>\nb")), "f{\"s\": \"a\\n<parameter=x>\\nb\"} =tool_calls");
    expect('c', CALL(P("s", "a\n<parameter=x>\nb")) "\n" CALL(""),
           "f{\"s\": \"a\\n<parameter=x>\\nb\"} f{} =tool_calls");
    expect('c', "<tool_call>\n<function=f>\n<parameter=s>\na\n<function=x>\nb\n</function>\n</tool_call>",
           "f{\"s\": \"a\\n<function=x>\\nb\"} =tool_calls");
    /* 5: the end inside a value */
    expect('c', "<tool_call>\n<function=f>\n<parameter=s>\nab\n", "f{\"s\": \"ab\\n\"} =tool_calls");
    expect('c', "<tool_call>\n<function=f>\n<parameter=s>\nab\n</param",
           "f{\"s\": \"ab\\n</param\"} =tool_calls");
    expect('c', "<tool_call>\n<function=f>\n<parameter=n>\n12", "f{\"n\": 12} =tool_calls");
    expect('c', "<tool_call>\n<function=f>\n<parameter=s>", "f{\"s\": \"\"} =tool_calls");
}

static void test_finish(void **state)
{
    (void)state;
    expect('C', CALL(P("n", "1")) "\n<tool_call>\n<function=f>\n<parameter=s>\nab",
           "f{\"n\": 1} f{\"s\": \"ab+ =length");
    expect('C', CALL(P("n", "1")), "f{\"n\": 1} =length");
    expect('C', "<tool_call>\n<function=f>\n<parameter=n>\n1\n</parameter>\n", "f{\"n\": 1+ =length");
    expect('C', "<tool_call>\n<function=f>\n<parameter=u>\nnul", "f{\"u\": + =length");
    expect('C', "abc ", "C:abc  =length");
    /* the end inside what may follow a call: none of the torn tag is shown */
    expect('C', CALL(P("n", "1")) "\n<tool_call>\n<function=get.", "f{\"n\": 1} =length");
    expect('c', CALL("") "\n<tool_call>", "f{} =tool_calls");
    expect('C', "```\n<tool_call>\n<function=f>\n</function>\n</tool_c", "C:``` f{} =length");
    expect('C', "<tool_call>{\"name\":\"f\",\"arguments\":{}}\n</", "f{} =length");
    expect('C', CALL("") "\nso <tool_c", "C:so <tool_c f{} =length");
    expect('C', CALL("") "\n</tool_box", "C:</tool_box f{} =length");
    struct parse_run cancel = {.tools = tools, .end = QN_PARSE_CANCEL};
    expect_run(cancel, "abc <tool", "C:abc =");
}

/* Wherever the limit or the model ends the text behind a complete call, its content is what stood before. */
static void test_every_end(void **state)
{
    (void)state;
    static const char call[] = CALL(P("s", "1")),
                      text[] = "ok\n" CALL(P("s", "1")) "\n" CALL(P("n", "2")) "\n";
    const size_t first = strlen("ok\n") + strlen(call) - strlen("\n</tool_call>");
    for (size_t n = first; n < sizeof text; n++)
        for (int stop = 0; stop < 2; stop++) {
            struct parse_run run = {.tools = tools, .end = stop ? QN_PARSE_STOP : QN_PARSE_LENGTH};
            char *got = parse_run_all(&run, text, n);
            static const char want[] = "C:ok f{\"s\": \"1\"} ";
            if (strncmp(got, want, strlen(want))) fprintf(stderr, "the first %zu bytes give: %s\n", n, got);
            assert_memory_equal(got, want, strlen(want));
            free(got);
        }
}

static void test_stop_strings(void **state)
{
    (void)state;
    const char *stops[] = {"END", "\n\n", "abcd", "bc"};
    struct parse_run run = {.tools = tools, .stops = stops, .n_stop = 4};
    expect_run(run, "hello ENDx", "C:hello  =stop stop 0 at 9");
    expect_run(run, "hello EN", "C:hello EN =stop");
    expect_run(run, "xabcd", "C:xa =stop stop 3 at 4");
    /* whitespace that a call swallows is not visible; markup is not matched */
    expect_run(run, "hi\n\n" CALL(P("s", "END\n\nabcd")), "C:hi f{\"s\": \"END\\n\\nabcd\"} =tool_calls");
    expect_run(run, "hi\n\nyou", "C:hi =stop stop 1 at 4");
    expect_run(run, CALL("") "\nok END", "C:ok  f{} =tool_calls stop 0 at 56");
    run.think = true;
    expect_run(run, "END\n\nabcd</think>\n\nfine END", "R:END\n\nabcd C:fine  =stop stop 0 at 27");
    run.think = false;
    /* the beginning of a stop string before a call is content */
    expect_run(run, "EN\n" CALL("") "D", "C:EN\nD f{} =tool_calls");
    struct parse_run plain = {.stops = stops, .n_stop = 2};
    expect_run(plain, "a\n\nb", "C:a =stop stop 1 at 3");
}

static void test_bytes(void **state)
{
    (void)state;
    expect('c',
           "\xff"
           "a\xe2\x82",
           "C:\xef\xbf\xbd"
           "a\xef\xbf\xbd =stop");
    expect('c', CALL(P("s", "\xf0\x9f\x98\x80\xed\xa0\x80\xc0")),
           "f{\"s\": \"\xf0\x9f\x98\x80\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\"} =tool_calls");
    expect('r', "\u3000x\u00a0</think>", "R:x =stop");
}

static size_t by_one(void *ctx, size_t i, size_t left)
{
    (void)ctx, (void)i, (void)left;
    return 1;
}

/* Blanks and digits by the hundred thousand, a byte at a time: no quadratic work, bounded lag. */
static void test_long_runs(void **state)
{
    (void)state;
    size_t n = 200000;
    char *text = xmalloc(n + 200);
    strcpy(text, "<tool_call>\n<function=f>\n<parameter=s>\na</parameter>");
    size_t head = strlen(text);
    memset(text + head, ' ', n);
    strcpy(text + head + n, "b\n</parameter>\n</function>\n</tool_call>");
    struct parse_run run = {.tools = tools};
    char *got = parse_run(&run, text, strlen(text), by_one, NULL);
    assert_int_equal(strlen(got), n + 42 + 0 * head);
    free(got);
    free(text);
}

static void test_reasoning_is_counted(void **state)
{
    (void)state;
    const char *pieces[] = {"a", " b", "</think>", "\n\n", "ok"};
    struct qn_parse_options options = {.tools = tools, .starts_in_reasoning = true};
    struct qn_parse *p;
    int n_reasoning = 0;
    assert_int_equal(qn_parse_create(&p, &options, NULL), QN_OK);
    for (size_t i = 0; i < QN_COUNT(pieces); i++) {
        size_t before = qn_parse_fed(p);
        qn_parse_feed(p, pieces[i], strlen(pieces[i]));
        n_reasoning += before < qn_parse_reasoning_bytes(p);
    }
    qn_parse_finish(p, QN_PARSE_STOP);
    assert_int_equal(n_reasoning, 3);
    assert_int_equal(qn_parse_reasoning_bytes(p), 11);
    qn_parse_free(p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reasoning),    cmocka_unit_test(test_content),
        cmocka_unit_test(test_json_dialect), cmocka_unit_test(test_fences),
        cmocka_unit_test(test_call),         cmocka_unit_test(test_between),
        cmocka_unit_test(test_framing),      cmocka_unit_test(test_closers),
        cmocka_unit_test(test_finish),       cmocka_unit_test(test_every_end),
        cmocka_unit_test(test_stop_strings), cmocka_unit_test(test_bytes),
        cmocka_unit_test(test_long_runs),    cmocka_unit_test(test_reasoning_is_counted),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
