/* Property: whatever a model writes, the message does not depend on how the text was cut, arguments are JSON
 * at their end and never before (parse_run checks every event), and values written in the template's own
 * way come back exactly. 12,000 generated outputs; QUERN_SEED sets the first seed.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/rng.h"
#include "support/parse_run.h"
#include "support/test.h"

#define N_OUTPUT 12000

static const char tools_json[] =
    "[{\"type\":\"function\",\"function\":{\"name\":\"write\",\"parameters\":{\"type\":\"object\","
    "\"properties\":{"
    "\"path\":{\"type\":\"string\"},\"content\":{\"type\":\"string\"},\"n\":{\"type\":\"integer\"},"
    "\"maybe\":{\"type\":[\"string\",\"null\",\"number\",\"object\"]},\"o\":{\"type\":\"object\"}}}}},"
    "{\"type\":\"function\",\"function\":{\"name\":\"ls\"}}]";

static struct qn_toolset *tools;
static uint64_t seed, draw_count;

static size_t draw(size_t n)
{
    return (size_t)(qn_rng64(seed, draw_count++, 1) % n);
}

static const char *pick(const char *const *list, size_t n)
{
    return list[draw(n)];
}

#define PICK(list) pick(list, QN_COUNT(list))

static const char *const words[] = {
    "a",    "x = 1",    " ",    "  ",       "\n",      "\n\n",     "\r\n",
    "é",    "😀",        "日本", "\u2028",   "<",       ">",        "</",
    "{",    "}",        "\"",   "\\",       "null",    "12",       "true",
    "'k'",  "&lt;",     "\t",   "```",      "\n```\n", "\n~~~~\n", "<|im_start|>",
    "None", "{'a': 1}", "\xff", "\xe2\x82",
};
static const char *const tags[] = {
    "<tool_call>",
    "</tool_call>",
    "<function=write>",
    "<function=ls>",
    "<function=unknown>",
    "<function=",
    "</function>",
    "<parameter=content>",
    "<parameter=path>",
    "<parameter=n>",
    "<parameter=other>",
    "<parameter=",
    "</parameter>",
    "<think>",
    "</think>",
    "</thinking>",
    "<tool_call>\n<function=ls>\n</function>\n</tool_call>",
    "</parameters>",
    "</parameter >",
    "\n</parameter>\n</function>\n</tool_call>",
    "\n<parameter=other>\n",
    "\n<function=write>\n",
    "\n<tool_call>\n",
    "\n</function>\n",
    "\n</tool_call>\n",
    "<tool_call>{\"name\":\"ls\",\"arguments\":{\"a\":1}}",
};

static void add_text(struct qn_buf *b, size_t n_word, size_t tag_share)
{
    for (size_t i = 0; i < n_word; i++) qn_buf_puts(b, draw(100) < tag_share ? PICK(tags) : PICK(words));
}

static void add_call(struct qn_buf *b, const char *newline)
{
    static const char *const names[] = {"write", "write", "ls", "unknown", "a.b-c"};
    static const char *const keys[] = {"content", "path", "n", "maybe", "o", "other", "ключ", "a.b[0]"};
    static const char *const values[] = {"12", "null", "{\"a\": [1.0]}", "nul", "-", "1.5e3", "{'a': None}",
                                         "[",  ""};
    qn_buf_printf(b, "<tool_call>%s<function=%s>%s", newline, PICK(names), newline);
    for (size_t n = draw(4); n > 0; n--) {
        qn_buf_printf(b, "<parameter=%s>%s", PICK(keys), draw(10) ? newline : "");
        if (draw(2))
            qn_buf_puts(b, PICK(values));
        else
            add_text(b, draw(8), draw(3) ? 10 : 50);
        qn_buf_printf(b, "%s</parameter>%s", draw(10) ? newline : "", newline);
    }
    qn_buf_printf(b, "</function>%s</tool_call>", newline);
}

/* An output with its natural parts, then perhaps damage: a cut, a doubled or a lost piece. */
static void make_output(struct qn_buf *b, bool think)
{
    const char *newline = draw(8) ? "\n" : "\r\n";
    if (think || !draw(6)) {
        if (!draw(4)) qn_buf_puts(b, "<think>\n");
        add_text(b, draw(8), 10);
        if (!draw(4)) add_call(b, newline);
        if (draw(5)) qn_buf_puts(b, "\n</think>\n\n");
    }
    add_text(b, draw(8), 8);
    for (size_t n = draw(4); n > 0; n--) {
        bool is_fenced = !draw(5);
        if (is_fenced) qn_buf_puts(b, "\n```xml\n");
        if (draw(3)) qn_buf_puts(b, newline);
        add_call(b, newline);
        if (is_fenced && draw(2)) qn_buf_puts(b, "\n```\n");
        if (!draw(4)) add_text(b, draw(5), 15);
    }
    if (!draw(4)) add_text(b, draw(12), 60);
    if (!draw(3) && b->n_byte) b->data[b->n_byte = draw(b->n_byte)] = 0;
}

static size_t uniform(void *ctx, size_t i, size_t left)
{
    (void)i;
    return QN_MIN(*(size_t *)ctx, left);
}

static size_t random_cut(void *ctx, size_t i, size_t left)
{
    size_t n = 1 + qn_rng64(*(uint64_t *)ctx, i, 2) % 17;
    return QN_MIN(n, left);
}

static void same(const char *want, char *got, const char *how, const struct qn_buf *text)
{
    if (strcmp(want, got)) {
        fprintf(stderr, "seed %" PRIu64 ", %s\n--- input\n%s\n--- whole\n%s\n--- got\n%s\n", seed, how,
                text->data, want, got);
        fail();
    }
    free(got);
}

static void test_cuts_do_not_matter(void **state)
{
    (void)state;
    const char *env = getenv("QUERN_SEED");
    uint64_t first = env ? strtoull(env, NULL, 10) : 1;
    static const char *const stops[] = {"\n\n", "x = 1", "é"};
    size_t n_call = 0, n_content = 0, n_reasoning = 0;
    for (uint64_t k = 0; k < N_OUTPUT; k++) {
        seed = first + k;
        draw_count = 0;
        struct parse_run run = {
            .think = draw(2), .end = draw(4) ? QN_PARSE_STOP : QN_PARSE_LENGTH, .stops = stops};
        run.tools = draw(12) ? tools : NULL;
        run.forbidden = !draw(20);
        run.n_stop = draw(6) ? 0 : 3;
        struct qn_buf text = QN_BUF_INIT(1 << 20);
        qn_buf_puts(&text, "");
        make_output(&text, run.think);
        if (!text.data) qn_buf_putc(&text, 'x');
        char *want = parse_run(&run, text.data, text.n_byte, NULL, NULL);
        n_call += strstr(want, "A") && strstr(strrchr(want, '#'), "B");
        n_content += strchr(strrchr(want, '#'), 'C') != NULL;
        n_reasoning += strchr(strrchr(want, '#'), 'R') != NULL;
        for (size_t size = 1; size <= 7; size++)
            same(want, parse_run(&run, text.data, text.n_byte, uniform, &size), "uniform pieces", &text);
        for (uint64_t r = 0; r < 3; r++) {
            uint64_t cut = seed * 3 + r;
            same(want, parse_run(&run, text.data, text.n_byte, random_cut, &cut), "random pieces", &text);
        }
        /* every single cut of one output in eight: the most expensive part */
        if (k % 8 == 0) free(parse_run_all(&run, text.data, text.n_byte));
        free(want);
        qn_buf_free(&text);
    }
    printf("%zu outputs with calls, %zu with content, %zu with reasoning\n", n_call, n_content, n_reasoning);
    assert_true(n_call > N_OUTPUT / 4 && n_content > N_OUTPUT / 4 && n_reasoning > N_OUTPUT / 4);
}

/* A value that holds balanced look-alikes, written by the template, comes back byte for byte. */
static void test_values_come_back(void **state)
{
    (void)state;
    static const char *const parts[] = {
        "line\n",
        "  indented  \n",
        "</parameter> is text\n",
        "if (a < b) {}\n",
        "```\n",
        "\n",
        "\r\n",
        "é😀\n",
        "</function> mid\n",
        "a <tool_call> b\n",
        "</param\n",
        "<parameters>\n",
        "<think>\n",
        "</parameter\n",
        "x </tool_call> y\n",
        "</parameter>\nprose\n",
        "<tool_call>\n<function=g>\n<parameter=z>\n1\n</parameter>\n</function>\n</tool_call>\n",
    };
    for (uint64_t k = 0; k < 4000; k++) {
        seed = 900000 + k;
        draw_count = 0;
        struct qn_buf value = QN_BUF_INIT(1 << 16), text = QN_BUF_INIT(1 << 16), want = QN_BUF_INIT(1 << 16);
        for (size_t n = draw(6); n > 0; n--) qn_buf_puts(&value, PICK(parts));
        if (draw(2)) qn_buf_puts(&value, "last");
        qn_buf_printf(
            &text,
            "<tool_call>\n<function=write>\n<parameter=path>\np\n</parameter>\n<parameter=content>\n%s\n"
            "</parameter>\n</function>\n</tool_call>",
            qn_buf_str(&value));
        bool is_more = draw(2);
        if (is_more) qn_buf_puts(&text, "\n<tool_call>\n<function=ls>\n</function>\n</tool_call>");
        qn_buf_puts(&want, "write{\"path\": \"p\", \"content\": ");
        qn_json_write_str(&want, qn_buf_str(&value), value.n_byte, false);
        qn_buf_printf(&want, "}%s =tool_calls", is_more ? " ls{}" : "");
        struct parse_run run = {.tools = tools};
        size_t size = 1 + draw(5);
        char *got = parse_run(&run, text.data, text.n_byte, uniform, &size);
        *strstr(got, " #") = 0;
        if (strcmp(got, want.data)) fprintf(stderr, "seed %" PRIu64 "\n%s\n", seed, text.data);
        assert_string_equal(got, want.data);
        free(got);
        qn_buf_free(&value);
        qn_buf_free(&text);
        qn_buf_free(&want);
    }
}

int main(void)
{
    struct qn_arena *arena = qn_arena_create(1 << 20);
    struct qn_json *list;
    QN_CHECK(qn_json_parse(&list, arena, tools_json, strlen(tools_json), "tools", NULL) == QN_OK);
    QN_CHECK(qn_toolset_create(&tools, list, NULL) == QN_OK);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cuts_do_not_matter),
        cmocka_unit_test(test_values_come_back),
    };
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    qn_toolset_free(tools);
    qn_arena_free(arena);
    return rc;
}
