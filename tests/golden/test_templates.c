/* Templates against the reference implementation (tools/make_template_golden.py).
 * SPDX-License-Identifier: Apache-2.0 */
#include "support/test.h"

#include "base/hash.h"
#include "text/jinja.h"

#define FOLDER QN_TEST_DIR "/golden/templates/"
#define NOW_S  1735732800

struct lines {
    struct qn_buf text;
    struct qn_arena *arena;
    size_t pos;
    int n;
};

static void lines_open(struct lines *l, const char *path)
{
    struct qn_err e = {0};
    *l = (struct lines){.text = QN_BUF_INIT(64 << 20), .arena = qn_arena_create((size_t)1 << 30)};
    if (qn_buf_read_file(&l->text, path, &e)) fail_msg("%s", e.text);
}

static struct qn_json *lines_next(struct lines *l)
{
    if (l->pos >= l->text.n_byte) return NULL;
    const char *start = l->text.data + l->pos, *end = strchr(start, '\n');
    size_t n = end ? (size_t)(end - start) : strlen(start);
    struct qn_json *v = NULL;
    struct qn_err e = {0};
    l->pos += n + 1;
    l->n++;
    if (qn_json_parse(&v, l->arena, start, n, "line", &e)) fail_msg("line %d: %s", l->n, e.text);
    return v;
}

static void lines_close(struct lines *l)
{
    qn_buf_free(&l->text);
    qn_arena_free(l->arena);
}

static int run(struct qn_jinja_out *o, const char *source, size_t n, const struct qn_json *vars,
               struct qn_err *e)
{
    struct qn_jinja *t = NULL;
    *o = (struct qn_jinja_out){0};
    int rc = qn_jinja_compile(&t, source, n, "template", e);
    if (!rc) rc = qn_jinja_render(o, t, vars, &(struct qn_jinja_opt){.now_s = NOW_S}, e);
    qn_jinja_free(t);
    return rc;
}

static void expect_text(const struct qn_json *t, const struct qn_json *want, const struct qn_json *vars)
{
    struct qn_err e = {0};
    struct qn_jinja_out o;
    int rc = run(&o, t->text, t->n, vars, &e);
    if (rc) fail_msg("%s\n  fails: %s", t->text, e.text);
    if (o.n_byte != want->n || memcmp(o.text, want->text, want->n))
        fail_msg("%s\n  gives  '%s'\n  wanted '%s'", t->text, o.text, want->text);
    qn_jinja_out_free(&o);
}

static void check_features(const char *name, int least)
{
    struct lines l;
    struct qn_json *row, *vars;
    struct qn_err e = {0};
    lines_open(&l, name);
    if (qn_json_read_file(&vars, l.arena, FOLDER "data.json", 1 << 20, &e)) fail_msg("%s", e.text);
    while ((row = lines_next(&l))) {
        const struct qn_json *t = qn_json_get(row, "t"), *want = qn_json_get(row, "o"),
                             *raised = qn_json_get(row, "r");
        if (want) {
            expect_text(t, want, vars);
            continue;
        }
        struct qn_jinja_out o;
        int rc = run(&o, t->text, t->n, vars, &e);
        if (!rc) fail_msg("%s\n  gives '%s', the reference refuses it", t->text, o.text);
        if (raised) {
            assert_int_equal(rc, QN_INVAL);
            assert_string_equal(o.raised, raised->text);
        } else {
            assert_true(rc == QN_FORMAT || rc == QN_INTERNAL || rc == QN_TOOBIG);
            assert_true(strstr(e.text, "template:1") != NULL || rc == QN_TOOBIG); /* names the line */
        }
        qn_jinja_out_free(&o);
    }
    assert_true(l.n >= least);
    lines_close(&l);
}

static void test_features(void **state)
{
    (void)state;
    check_features(FOLDER "features.jsonl", 350);
}

static void test_what_differs_on_purpose(void **state)
{
    (void)state;
    check_features(FOLDER "ours.jsonl", 7);
}

struct template
{
    const char *name;
    struct qn_jinja *t;
    int n_text, n_raise, n_fail;
};

/* The published template lies outside of the project. */
static int load(struct template *t, const char *name)
{
    char path[4096];
    struct qn_buf source = QN_BUF_INIT(QN_JINJA_MAX_SOURCE_BYTES);
    struct qn_err e = {0};
    const char *shared = getenv("QUERN_SHARED");
    if (strcmp(name, "qwen3.5"))
        snprintf(path, sizeof path, FOLDER "%s.jinja", name);
    else
        snprintf(path, sizeof path, "%s/data/templates/qwen3.5.jinja",
                 shared ? shared : QN_SOURCE_DIR "/../shared");
    *t = (struct template){.name = name};
    int rc = qn_buf_read_file(&source, path, &e);
    if (!rc) rc = qn_jinja_compile(&t->t, qn_buf_str(&source), source.n_byte, name, &e);
    if (rc && rc != QN_NOTFOUND) fail_msg("%s", e.text);
    if (rc) print_message("skipped: %s is not there\n", path);
    qn_buf_free(&source);
    return rc;
}

static void check_conversation(struct template *t, const struct qn_json *row, int line)
{
    const struct qn_json *want = qn_json_get(qn_json_get(row, "h"), t->name);
    const struct qn_json *full = qn_json_get(qn_json_get(row, "o"), t->name);
    if (!want || !t->t) return;
    struct qn_err e = {0};
    struct qn_jinja_out o;
    int rc = qn_jinja_render(&o, t->t, qn_json_get(row, "v"), &(struct qn_jinja_opt){.now_s = NOW_S}, &e);
    char got[32] = "raise";
    if (!rc)
        snprintf(got, sizeof got, "%016" PRIx64, qn_hash_bytes(0, o.text, o.n_byte));
    else if (rc != QN_INVAL)
        snprintf(got, sizeof got, "fail");
    if (full && !rc) assert_string_equal(o.text, full->text);
    if (strcmp(got, want->text))
        fail_msg("conversations.jsonl:%d with %s: %s, wanted %s; %s\n%s", line, t->name, got, want->text,
                 e.text, rc ? "" : o.text);
    t->n_text += !rc;
    t->n_raise += rc == QN_INVAL;
    t->n_fail += rc && rc != QN_INVAL;
    qn_jinja_out_free(&o);
}

static void test_conversations(void **state)
{
    (void)state;
    static const char *const names[] = {"family",      "qwen3.5",      "styles/headers",
                                        "styles/inst", "styles/typed", "styles/think"};
    struct template t[QN_COUNT(names)];
    struct lines l;
    struct qn_json *row;
    for (size_t i = 0; i < QN_COUNT(names); i++) load(&t[i], names[i]);
    lines_open(&l, FOLDER "conversations.jsonl");
    while ((row = lines_next(&l)))
        for (size_t i = 0; i < QN_COUNT(names); i++) check_conversation(&t[i], row, l.n);
    assert_true(l.n >= 300);
    for (size_t i = 0; i < QN_COUNT(names); i++) {
        print_message("%s: %d texts, %d raised, %d failed\n", t[i].name, t[i].n_text, t[i].n_raise,
                      t[i].n_fail);
        qn_jinja_free(t[i].t);
    }
    lines_close(&l);
}

int main(void)
{
    setenv("TZ", "UTC", 1);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_features),
        cmocka_unit_test(test_what_differs_on_purpose),
        cmocka_unit_test(test_conversations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
