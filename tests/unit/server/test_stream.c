/* Stop strings over all cuts, and the memories of sampled calls and of responses.
 * SPDX-License-Identifier: Apache-2.0 */
#include "support/test.h"

#include "server/calls.h"
#include "server/stored.h"
#include "server/stream.h"

/* Feeds a first piece of `first` bytes, then pieces of `size`; returns what became visible. */
static char *run_stops(const char *const *stops, int n_stop, bool include, const char *text, size_t first,
                       size_t size, int *hit)
{
    struct qn_stops st;
    struct qn_buf out = QN_BUF_INIT(1 << 16);
    size_t n = strlen(text);
    qn_stops_init(&st, stops, n_stop, include);
    *hit = -1;
    for (size_t at = 0; at < n && *hit < 0;) {
        size_t m = QN_MIN(at ? size : first, n - at);
        *hit = qn_stops_feed(&st, text + at, m, &out);
        at += m;
    }
    if (*hit < 0) qn_stops_end(&st, &out);
    qn_stops_free(&st);
    return qn_buf_take(&out);
}

static void check_stops(const char *const *stops, int n_stop, bool include, const char *text,
                        const char *want, int want_hit)
{
    size_t n = strlen(text);
    for (size_t size = 1; size <= n; size++)
        for (size_t first = 1; first <= n; first++) {
            int hit;
            char *got = run_stops(stops, n_stop, include, text, first, size, &hit);
            assert_string_equal(got, want);
            assert_int_equal(hit, want_hit);
            free(got);
        }
}

static void test_stops_do_not_depend_on_cuts(void **state)
{
    (void)state;
    static const char *const one[] = {"END"}, *const several[] = {"ab", "abcd", "xyz"},
                             *const repeats[] = {"aab"};
    check_stops(one, 1, false, "some EN text END more", "some EN text ", 0);
    check_stops(one, 1, true, "some text END more", "some text END", 0);
    check_stops(one, 1, false, "nothing to EN", "nothing to EN", -1);
    check_stops(several, 3, false, "xyabcd", "xy", 0);
    check_stops(several, 3, false, "a-xy-xyz-ab", "a-xy-", 2);
    check_stops(repeats, 1, false, "aaaab", "aa", 0);
    check_stops(NULL, 0, false, "all of it", "all of it", -1);
}

static void on_event(void *ctx, const struct qn_parse_event *event)
{
    qn_parsed_add(ctx, event);
}

/* Parses raw text with one tool f, remembers its calls, looks up call i. */
static bool remember(const char *raw, int i, char *text, size_t n)
{
    static const char tools[] = "[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"parameters\":"
                                "{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"string\"}}}}}]";
    struct qn_arena *arena = qn_arena_create(1 << 20);
    struct qn_json *v;
    struct qn_toolset *set;
    struct qn_parse *parse;
    struct qn_parsed parsed;
    assert_int_equal(qn_json_parse(&v, arena, tools, strlen(tools), "tools", NULL), QN_OK);
    assert_int_equal(qn_toolset_create(&set, v, NULL), QN_OK);
    qn_parsed_init(&parsed);
    struct qn_parse_options o = {.tools = set, .on_event = on_event, .ctx = &parsed};
    assert_int_equal(qn_parse_create(&parse, &o, NULL), QN_OK);
    qn_parse_feed(parse, raw, strlen(raw));
    qn_parse_finish(parse, QN_PARSE_STOP);
    char ids[8][40];
    for (int k = 0; k < parsed.n_call && k < 8; k++) snprintf(ids[k], sizeof ids[k], "call_%d", k);
    struct qn_calls *calls = qn_calls_create(0);
    qn_calls_add(
        calls, NULL,
        &(struct qn_calls_output){
            .raw = raw, .n_byte = strlen(raw), .parsed = &parsed, .ids = ids, .n_id = parsed.n_call});
    struct qn_calls_view view = {calls, arena};
    struct qn_chat_sampled sampled;
    char id[24];
    snprintf(id, sizeof id, "call_%d", i);
    bool found = qn_calls_lookup(&view, id, &sampled);
    if (found) snprintf(text, n, "%.*s", (int)sampled.n_byte, sampled.text);
    qn_parse_free(parse);
    qn_parsed_free(&parsed);
    qn_toolset_free(set);
    qn_calls_free(calls);
    qn_arena_free(arena);
    return found;
}

#define CALL(value)                                                                                          \
    "<tool_call>\n<function=f>\n<parameter=a>\n" value "\n</parameter>\n</function>\n</tool_call>"

static void test_sampled_calls_come_back(void **state)
{
    (void)state;
    char text[500];
    assert_true(remember("Look.\n\n\n" CALL("x") "\n\n" CALL("y"), 0, text, sizeof text));
    assert_string_equal(text, "\n\n\n" CALL("x"));
    assert_true(remember("Look.\n\n\n" CALL("x") "\n\n" CALL("y"), 1, text, sizeof text));
    assert_string_equal(text, "\n\n" CALL("y"));
    /* a value that shows the format: which segment is which is a guess, so nothing is remembered */
    assert_false(remember(CALL("doc\n" CALL("z")), 0, text, sizeof text));
    assert_true(remember("</think>\n\n" CALL("x"), 0, text, sizeof text));
}

static void test_calls_are_bounded(void **state)
{
    (void)state;
    struct qn_calls *calls = qn_calls_create(0);
    char name[] = "f", ids[1][40];
    struct qn_parsed_call call = {.name = name, .arguments = QN_BUF_INIT(100), .is_complete = true};
    struct qn_parsed parsed = {.calls = &call, .n_call = 1};
    qn_buf_puts(&call.arguments, "{\"a\": \"x\"}");
    for (int i = 0; i < QN_CALLS_MAX + 10; i++) {
        snprintf(ids[0], sizeof ids[0], "call_%d", i);
        qn_calls_add(
            calls, NULL,
            &(struct qn_calls_output){
                .raw = CALL("x"), .n_byte = strlen(CALL("x")), .parsed = &parsed, .ids = ids, .n_id = 1});
    }
    struct qn_arena *arena = qn_arena_create(1 << 20);
    struct qn_calls_view view = {calls, arena};
    struct qn_chat_sampled sampled;
    assert_false(qn_calls_lookup(&view, "call_9", &sampled));
    assert_true(qn_calls_lookup(&view, "call_10", &sampled));
    assert_true(qn_calls_lookup(&view, ids[0], &sampled));
    assert_string_equal(sampled.name, "f");
    qn_arena_free(arena);
    qn_buf_free(&call.arguments);
    qn_calls_free(calls);
}

static void test_stored_responses_are_bounded(void **state)
{
    (void)state;
    struct qn_stored *t = qn_stored_create(0);
    char id[48];
    for (int i = 0; i < QN_STORED_MAX + 5; i++) {
        snprintf(id, sizeof id, "resp_%d", i);
        qn_stored_put(t, id, 7, "{}", 2, "[]", 2);
    }
    struct qn_buf out = QN_BUF_INIT(100);
    assert_false(qn_stored_get(t, "resp_4", 7, &out, NULL));
    assert_true(qn_stored_get(t, "resp_5", 7, &out, NULL));
    assert_false(qn_stored_get(t, "resp_5", 8, &out, NULL)); /* another owner's */
    assert_false(qn_stored_remove(t, "resp_5", 8));
    assert_string_equal(out.data, "{}");
    assert_true(qn_stored_remove(t, "resp_5", 7));
    assert_false(qn_stored_remove(t, "resp_5", 7));
    assert_false(qn_stored_get(t, "", 7, &out, NULL));
    qn_buf_free(&out);
    qn_stored_free(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_stops_do_not_depend_on_cuts),
        cmocka_unit_test(test_sampled_calls_come_back),
        cmocka_unit_test(test_calls_are_bounded),
        cmocka_unit_test(test_stored_responses_are_bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
