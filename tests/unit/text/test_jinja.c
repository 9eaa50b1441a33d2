/* The interpreter beyond what the golden files compare: origins, limits, lines of errors, big inputs.
 * SPDX-License-Identifier: Apache-2.0 */
#include "support/test.h"

#include "base/clock.h"
#include "text/jinja.h"

struct result {
    int rc;
    struct qn_err e;
    struct qn_jinja_out o;
    struct qn_arena *arena;
};

static struct result render_with(const char *source, const char *vars, const struct qn_jinja_opt *opt)
{
    struct result r = {.arena = qn_arena_create(256 << 20)};
    struct qn_jinja *t = NULL;
    struct qn_json *v;
    assert_int_equal(qn_json_parse(&v, r.arena, vars, strlen(vars), "vars", &r.e), QN_OK);
    r.rc = qn_jinja_compile(&t, source, strlen(source), "tpl", &r.e);
    if (!r.rc) r.rc = qn_jinja_render(&r.o, t, v, opt, &r.e);
    qn_jinja_free(t);
    return r;
}

static void done(struct result *r)
{
    qn_jinja_out_free(&r->o);
    qn_arena_free(r->arena);
}

static void expect_error(const char *source, const char *vars, int code, const char *text)
{
    struct result r = render_with(source, vars, NULL);
    if (r.rc != code || !strstr(r.e.text, text))
        fail_msg("%s\n  rc %s, '%s'", source, qn_code_name(r.rc), r.rc ? r.e.text : r.o.text);
    done(&r);
}

static void test_errors_name_the_line(void **state)
{
    (void)state;
    expect_error("a\n\n{{ x.y }}", "{}", QN_INTERNAL, "tpl:3: 'x' is undefined");
    expect_error("{% if true %}\n{{ d.zz.q }}\n{% endif %}", "{\"d\":{}}", QN_INTERNAL,
                 "tpl:2: 'zz' is undefined: dict");
    expect_error("{#\n\n#}{% for x in 5 %}{% endfor %}", "{}", QN_INTERNAL,
                 "tpl:3: for cannot go through int");
    expect_error("\n{% if x %}", "{}", QN_FORMAT, "tpl:2: this 'if' is never closed");
    expect_error("\n\n{% endfor %}", "{}", QN_FORMAT, "tpl:3: unknown tag 'endfor'");
    expect_error("{% for x in y %}\n{% endif %}", "{}", QN_FORMAT,
                 "tpl:2: unexpected 'endif'; the 'for' of line 1");
    expect_error("x\n{{ 'abc' | nosuch }}", "{}", QN_INTERNAL, "tpl:2: no filter named 'nosuch'");
    expect_error("{{ s | items }}", "{\"s\":\"{}\"}", QN_INTERNAL,
                 "tpl:1: items: only a mapping has item pairs, not str");
    expect_error("{{ raise_exception('plain ' ~ 'words') }}", "{}", QN_INVAL, "plain words");
    expect_error("{{ messages.append(1) }}", "{\"messages\":[]}", QN_INTERNAL,
                 "did not make cannot be changed");
}

static void test_caps(void **state)
{
    (void)state;
    expect_error("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "{}", QN_TOOBIG,
                 "deeper than 600 levels");
    expect_error("{% set ns = namespace(x='ab') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}"
                 "{% endfor %}",
                 "{}", QN_TOOBIG, "makes a text of more than");
    expect_error("{{ 10 ** 5000 }}", "{}", QN_TOOBIG, "more than 4300 digits");
    expect_error("{{ 'x'.center(99999999) }}", "{}", QN_TOOBIG, "width");
    expect_error("{% set l = [] %}{% set _ = l.append(l) %}{{ l }}", "{}", QN_TOOBIG, "deeper than");
    expect_error("{% set l = [] %}{% set _ = l.append(l) %}{{ l|tojson }}", "{}", QN_TOOBIG, "nests deeper");
    char deep[2000] = "{{ ";
    for (int i = 0; i < 400; i++) strcat(deep, "(");
    expect_error(deep, "{}", QN_FORMAT, "nest deeper than 150 levels");
    const struct qn_jinja_opt small = {
        .max_output_bytes = 100, .max_memory_bytes = 4 << 20, .max_steps = 100000};
    struct result r = render_with("{{ 'x' * 101 }}", "{}", &small);
    assert_int_equal(r.rc, QN_TOOBIG);
    done(&r);
    r = render_with("{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}"
                    "{% endfor %}",
                    "{}", &small);
    assert_int_equal(r.rc, QN_TOOBIG);
    assert_non_null(strstr(r.e.text, "needs more than 4194304 bytes of memory"));
    done(&r);
    r = render_with("{% for a in range(9999) %}\n{% for b in range(9) %}{% endfor %}{% endfor %}", "{}",
                    &small);
    assert_int_equal(r.rc, QN_TOOBIG);
    assert_string_equal(r.e.text, "tpl:2: the template takes more than 100000 steps");
    done(&r);
}

/* Letters of literal text are in upper case, those of input in lower: the mask must tell them apart. */
static void check_origin(const char *source, const char *vars, const char *want)
{
    struct result r = render_with(source, vars, NULL);
    if (r.rc) fail_msg("%s: %s", source, r.e.text);
    assert_string_equal(r.o.text, want);
    for (size_t i = 0; i < r.o.n_byte; i++) {
        char c = r.o.text[i];
        if (c >= 'A' && c <= 'Z' && r.o.origin[i] != QN_JINJA_LITERAL)
            fail_msg("%s: byte %zu is not literal", want, i);
        if (c >= 'a' && c <= 'z' && r.o.origin[i] != QN_JINJA_INPUT)
            fail_msg("%s: byte %zu is not input", want, i);
    }
    done(&r);
}

static void test_origin_of_every_byte(void **state)
{
    (void)state;
    const char *vars = "{\"x\":\"abc\",\"y\":\" de \",\"l\":[\"f\",\"g\"],\"d\":{\"k\":\"v\"}}";
    check_origin("A{{ x }}B", vars, "AabcB");
    check_origin("{{ 'A' + x + 'B' ~ y }}", vars, "AabcB de ");
    check_origin("{{ ('A' ~ x ~ 'B')[2:] }}{{ ('A' ~ x)[::-1] }}", vars, "bcBcbaA");
    check_origin("{{ y|trim }}{{ x.replace('b', 'X') }}{{ 'AXB'|replace('X', x) }}", vars, "deaXcAabcB");
    check_origin("{{ l|join('-S-') }}{{ 'A%sB' % x }}{{ 'A{}B'.format(x) }}", vars, "f-S-gAabcBAabcB");
    check_origin(
        "{% macro m(v) %}M{{ v }}N{% endmacro %}{{ m(x) }}{% set q %}Q{{ x }}{% endset %}{{ q ~ q }}", vars,
        "MabcNQabcQabc");
    check_origin("{{ ('A|' ~ x ~ '|B').split('|')|join('J') }}", vars, "AJabcJB");
    check_origin("{{ x|tojson }}{{ l|tojson }}{{ d|tojson }}{{ d }}", vars,
                 "\"abc\"[\"f\", \"g\"]{\"k\": \"v\"}{'k': 'v'}");
    check_origin("{% for k, v in d|items %}{{ k }}A{{ v }}{% endfor %}{% for c in x %}{{ c }}Z{% endfor %}",
                 vars, "kAvaZbZcZ");
    check_origin(
        "{% filter indent(1) %}A\n{{ x }}{% endfilter %}{{ x|e }}{{ (x ~ 'AB')|truncate(4, true, '', 0) }}",
        vars, "A\n abcabcabcA");
    check_origin(
        "{% set ns = namespace(o='') %}{% for i in range(400) %}{% set ns.o = ns.o ~ 'A' ~ x %}{% endfor %}"
        "{{ ns.o[1594:] }}",
        vars, "bcAabc");
}

static void test_marks(void **state)
{
    (void)state;
    struct qn_arena *arena = qn_arena_create(1 << 20);
    struct qn_json *vars;
    struct qn_jinja *t;
    struct qn_jinja_out o;
    const char *json = "{\"name\":\"get\",\"bos\":\"<s>\",\"x\":\"y\"}";
    const char *source = "{{ bos }}<{{ name|tojson }}{{ x }}";
    assert_int_equal(qn_json_parse(&vars, arena, json, strlen(json), "vars", NULL), QN_OK);
    assert_int_equal(qn_jinja_compile(&t, source, strlen(source), "tpl", NULL), QN_OK);
    const struct qn_jinja_mark marks[] = {{qn_json_get(vars, "name"), 7},
                                          {qn_json_get(vars, "bos"), QN_JINJA_LITERAL}};
    const struct qn_jinja_opt opt = {.marks = marks, .n_mark = 2};
    assert_int_equal(qn_jinja_render(&o, t, vars, &opt, NULL), QN_OK);
    assert_string_equal(o.text, "<s><\"get\"y");
    static const uint8_t want[] = {1, 1, 1, 1, 0, 7, 7, 7, 0, 0};
    assert_memory_equal(o.origin, want, sizeof want);
    qn_jinja_out_free(&o);
    qn_jinja_free(t);
    qn_arena_free(arena);
}

/* Reversing 20,000 messages, a macro call for each, one growing text: linear, so well under a second. */
static void test_long_input_is_linear(void **state)
{
    (void)state;
    struct qn_buf b = QN_BUF_INIT(16 << 20);
    qn_buf_puts(&b, "{\"messages\":[");
    for (int i = 0; i < 20000; i++)
        qn_buf_printf(&b, "%s{\"role\":\"user\",\"content\":\"message %d\"}", i ? "," : "", i);
    qn_buf_puts(&b, "]}");
    int64_t start = qn_now_us();
    struct result r =
        render_with("{% macro m(x) %}[{{ x|trim }}]{% endmacro %}{% set ns = namespace(o='') %}"
                    "{% for a in messages[::-1] %}{% set ns.o = ns.o ~ m(a.content) %}{% endfor %}"
                    "{{ ns.o|length }}",
                    qn_buf_str(&b), NULL);
    int64_t us = qn_now_us() - start;
    if (r.rc) fail_msg("%s", r.e.text);
    assert_string_equal(r.o.text, "288890");
    if (us > 5000000) fail_msg("20,000 messages took %" PRId64 " us", us);
    done(&r);
    qn_buf_free(&b);
}

static void test_mentions(void **state)
{
    (void)state;
    struct qn_jinja *t;
    assert_int_equal(qn_jinja_compile(&t, "{{ reasoning_effort }}", 22, "tpl", NULL), QN_OK);
    assert_true(qn_jinja_mentions(t, "reasoning_effort"));
    assert_false(qn_jinja_mentions(t, "preserve"));
    qn_jinja_free(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_errors_name_the_line), cmocka_unit_test(test_caps),
        cmocka_unit_test(test_origin_of_every_byte), cmocka_unit_test(test_marks),
        cmocka_unit_test(test_long_input_is_linear), cmocka_unit_test(test_mentions),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
