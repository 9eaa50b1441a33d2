/* Block types of GGUF against the gguf package: random blocks and their values, made by
 * tools/make_gguf_golden.py. SPDX-License-Identifier: Apache-2.0 */
#include "base/buf.h"
#include "base/mem.h"
#include "model/format.h"
#include "model/gguf.h"
#include "support/test.h"

static struct qn_buf golden = QN_BUF_INIT(1 << 20);

/* The next type of the file: its blocks, and their values. */
struct batch {
    uint32_t type, n_block, n_value, n_byte;
    const unsigned char *blocks;
    const char *values;
};

static bool next(size_t *at, struct batch *b)
{
    if (*at >= golden.n_byte) return false;
    memcpy(b, golden.data + *at, 16);
    b->blocks = (const unsigned char *)golden.data + *at + 16;
    b->values = (const char *)b->blocks + (size_t)b->n_block * b->n_byte;
    *at += 16 + (size_t)b->n_block * (b->n_byte + b->n_value * 4);
    return true;
}

static void test_values(void **state)
{
    (void)state;
    struct batch b;
    int n_type = 0;
    for (size_t at = 0; next(&at, &b); n_type++) {
        enum qn_dtype t;
        size_t n = (size_t)b.n_block * b.n_value;
        assert_true(qn_gguf_dtype(b.type, &t));
        assert_int_equal(qn_block_values(t), b.n_value);
        assert_int_equal(qn_block_bytes(t), b.n_byte);
        float *out = xmalloc(n * 4);
        qn_block_row(t, b.blocks, (int)n, out);
        if (memcmp(out, b.values, n * 4)) /* nought may have either sign */
            for (size_t i = 0; i < n; i++) {
                float want;
                memcpy(&want, b.values + i * 4, 4);
                if (out[i] != want)
                    fail_msg("%s: value %zu is %.9g, the gguf package has %.9g", qn_dtype_name(t), i,
                             (double)out[i], (double)want);
            }
        assert_int_equal(qn_block_bad(t, b.blocks, b.n_block), -1);
        free(out);
    }
    assert_int_equal(n_type, 14);
}

/* A layer of blocks: rows anywhere, the scale of the whole tensor, scales that are not finite. */
static void test_layer(void **state)
{
    (void)state;
    struct batch b;
    for (size_t at = 0; next(&at, &b);) {
        enum qn_dtype t;
        struct qn_err e = {0};
        assert_true(qn_gguf_dtype(b.type, &t));
        int n_row = (int)b.n_block / 2, n_in = (int)b.n_value * 2;
        unsigned char *bytes = xmalloc((size_t)b.n_block * b.n_byte);
        memcpy(bytes, b.blocks, (size_t)b.n_block * b.n_byte);
        struct qn_linear l = {.format = qn_block_format(t), .n_out = n_row, .n_in = n_in, .scale2 = 0.5f};
        l.weight =
            (struct qn_tensor){.name = "w", .dtype = t, .n_dim = 2, .shape = {n_row, n_in}, .data = bytes};
        l.weight.n_byte = (size_t)b.n_block * b.n_byte;
        float *all = xmalloc((size_t)n_row * (size_t)n_in * 4), *row = xmalloc((size_t)n_in * 4);
        assert_int_equal(qn_linear_check(&l, &e), 0);
        assert_int_equal(qn_linear_rows(&l, 0, n_row, all, &e), 0);
        for (int r = 0; r < n_row; r++) {
            assert_int_equal(qn_linear_rows(&l, r, 1, row, &e), 0);
            assert_memory_equal(row, all + (size_t)r * (size_t)n_in, (size_t)n_in * 4);
            for (int k = 0; k < n_in; k++) {
                float want;
                memcpy(&want, b.values + ((size_t)r * (size_t)n_in + (size_t)k) * 4, 4);
                assert_true(row[k] == want * 0.5f);
            }
        }
        if (t != QN_MXFP4_32 && t != QN_NVFP4_64) { /* infinity for the scale of the last block */
            size_t d = t == QN_Q2_K ? 80 : t == QN_Q3_K ? 108 : t == QN_Q6_K ? 208 : 0;
            bytes[(b.n_block - 1) * b.n_byte + d] = 0;
            bytes[(b.n_block - 1) * b.n_byte + d + 1] = 0x7c;
            assert_int_equal(qn_linear_check(&l, &e), QN_FORMAT);
            assert_non_null(strstr(e.text, "block 5"));
            assert_int_equal(qn_linear_rows(&l, n_row - 1, 1, row, &e), QN_FORMAT);
            assert_int_equal(qn_linear_rows(&l, 0, n_row - 1, all, &e), 0);
        }
        free(all);
        free(row);
        free(bytes);
    }
}

int main(void)
{
    struct qn_err e;
    if (qn_buf_read_file(&golden, QN_TEST_DIR "/golden/gguf/blocks.bin", &e)) return 1;
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_values), cmocka_unit_test(test_layer)};
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    qn_buf_free(&golden);
    return rc;
}
