/* GGUF files: what opens, and each kind of damage with its message.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/gguf.h"
#include "support/gguf_file.h"
#include "support/test.h"

static void good_file(struct qn_buf *b, uint32_t version)
{
    gg_head(b, version, 2, 4);
    gg_key_text(b, "general.architecture", "qwen35");
    gg_key_u32(b, "general.alignment", 64);
    gg_text(b, "list");
    gg_u32(b, 9);
    gg_u32(b, 8);
    gg_u64(b, 3);
    gg_text(b, "a");
    gg_text(b, "");
    gg_text(b, "ccc");
    gg_text(b, "numbers");
    gg_u32(b, 9);
    gg_u32(b, 3);
    gg_u64(b, 2);
    qn_buf_append(b, "\x05\x00\xff\xff", 4);
    gg_tensor(b, "x.weight", 32, 2, 2, 0);
    gg_tensor(b, "y.weight", 3, 1, 0, 64);
    gg_pad(b, 64, 64 + 12);
}

static void test_good(void **state)
{
    (void)state;
    for (uint32_t version = 2; version <= 3; version++) {
        struct qn_buf b = QN_BUF_INIT(4096);
        struct qn_gguf *g;
        struct qn_err e = {0};
        int64_t x;
        const char *text;
        size_t n;
        good_file(&b, version);
        if (qn_gguf_parse(&g, b.data, b.n_byte, "file", &e)) fail_msg("%s", e.text);
        assert_int_equal(qn_gguf_n_value(g), 4);
        assert_true(qn_gguf_is_string(qn_gguf_find(g, "general.architecture")));
        assert_true(qn_gguf_int(qn_gguf_find(g, "general.alignment"), 0, &x) && x == 64);
        assert_true(qn_gguf_int(qn_gguf_find(g, "numbers"), 0, &x) && x == 5);
        assert_true(qn_gguf_int(qn_gguf_find(g, "numbers"), 1, &x) && x == -1);
        assert_false(qn_gguf_int(qn_gguf_find(g, "numbers"), 2, &x));
        assert_false(qn_gguf_int(qn_gguf_find(g, "absent"), 0, &x));
        struct qn_gguf_strings s = {qn_gguf_find(g, "list"), 0, 0};
        assert_true(qn_gguf_next_string(&s, &text, &n) && n == 1 && *text == 'a');
        assert_true(qn_gguf_next_string(&s, &text, &n) && n == 0);
        assert_true(qn_gguf_next_string(&s, &text, &n) && n == 3);
        assert_false(qn_gguf_next_string(&s, &text, &n));
        const struct qn_gguf_tensor *t = qn_gguf_tensor(g, 0), *y = qn_gguf_tensor(g, 1);
        assert_string_equal(t->name, "x.weight");
        assert_int_equal(t->n_byte, 2 * 18);
        assert_int_equal(y->n_byte, 12);
        assert_int_equal(y->data - t->data, 64);
        assert_int_equal((t->data - (const unsigned char *)b.data) % 64, 0);
        qn_gguf_close(g);
        for (size_t cut = 0; cut < b.n_byte; cut++) { /* every shorter file is refused */
            struct qn_err f = {0};
            assert_int_equal(qn_gguf_parse(&g, b.data, cut, "file", &f), QN_FORMAT);
            assert_non_null(strstr(f.text, "file"));
        }
        qn_buf_free(&b);
    }
}

static void fails(struct qn_buf *b, int code, const char *word)
{
    struct qn_gguf *g;
    struct qn_err e = {0};
    int rc = qn_gguf_parse(&g, b->data, b->n_byte, "file", &e);
    if (rc != code || !strstr(e.text, word))
        fail_msg("expected %d '%s', got %d '%s'", code, word, rc, e.text);
    qn_buf_free(b);
}

static void test_bad(void **state)
{
    (void)state;
    struct qn_buf b = QN_BUF_INIT(4096);
    gg_head(&b, 1, 0, 0);
    fails(&b, QN_UNSUPPORTED, "version 1");
    gg_head(&b, 0x03000000, 0, 0);
    fails(&b, QN_UNSUPPORTED, "big-endian");
    gg_head(&b, 3, 0, UINT64_MAX);
    fails(&b, QN_FORMAT, "metadata entries");
    gg_head(&b, 3, UINT64_MAX, 0);
    fails(&b, QN_FORMAT, "tensors");
    gg_head(&b, 3, 0, 2);
    gg_key_u32(&b, "k", 1);
    gg_key_u32(&b, "k", 1);
    fails(&b, QN_FORMAT, "key k is there twice");
    gg_head(&b, 3, 0, 1);
    gg_text(&b, "k");
    gg_u32(&b, 13);
    gg_pad(&b, 1, 32);
    fails(&b, QN_FORMAT, "no known type");
    gg_head(&b, 3, 0, 1);
    gg_text(&b, "k");
    gg_u32(&b, 9);
    gg_u32(&b, 9); /* an array of arrays */
    gg_u64(&b, 0);
    gg_pad(&b, 1, 32);
    fails(&b, QN_FORMAT, "no known type");
    gg_head(&b, 3, 0, 1);
    gg_text(&b, "k");
    gg_u32(&b, 9);
    gg_u32(&b, 10);
    gg_u64(&b, UINT64_MAX / 4);
    gg_pad(&b, 1, 32);
    fails(&b, QN_FORMAT, "longer than the file");
    gg_head(&b, 3, 0, 1);
    gg_key_u32(&b, "general.alignment", 48);
    fails(&b, QN_FORMAT, "power of two");
    gg_head(&b, 3, 2, 0);
    gg_tensor(&b, "t", 32, 1, 0, 0);
    gg_tensor(&b, "t", 32, 1, 0, 0);
    gg_pad(&b, 32, 256);
    fails(&b, QN_FORMAT, "tensor t is there twice");
    gg_head(&b, 3, 1, 0);
    gg_tensor(&b, "t", 48, 1, 2, 0);
    gg_pad(&b, 32, 256);
    fails(&b, QN_FORMAT, "multiple of 32");
    gg_head(&b, 3, 1, 0);
    gg_tensor(&b, "t", 32, 4, 0, 0);
    gg_pad(&b, 32, 256);
    fails(&b, QN_FORMAT, "beyond the end");
    gg_head(&b, 3, 1, 0);
    gg_tensor(&b, "t", 32, 1, 0, UINT64_MAX - 31);
    gg_pad(&b, 32, 256);
    fails(&b, QN_FORMAT, "beyond the end");
    gg_head(&b, 3, 1, 0);
    gg_tensor(&b, "t", (uint64_t)1 << 62, 1 << 30, 0, 0);
    gg_pad(&b, 32, 256);
    fails(&b, QN_FORMAT, "t has dimension");
}

static void test_names(void **state)
{
    (void)state;
    int no, count;
    assert_true(qn_gguf_split_name("/a/model-00002-of-00003.gguf", &no, &count));
    assert_int_equal(no, 2);
    assert_int_equal(count, 3);
    char *path = qn_gguf_split_path("/a/model-00002-of-00003.gguf", 1);
    assert_string_equal(path, "/a/model-00001-of-00003.gguf");
    free(path);
    assert_false(qn_gguf_split_name("/a/model.gguf", &no, &count));
    assert_false(qn_gguf_split_name("/a/model-00004-of-00003.gguf", &no, &count));
    assert_false(qn_gguf_split_name("/a/model-00000-of-00003.gguf", &no, &count));
    assert_false(qn_gguf_split_name("-00001-of-00003.gguf", &no, &count));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_good),
        cmocka_unit_test(test_bad),
        cmocka_unit_test(test_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
