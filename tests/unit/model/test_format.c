/* Storage formats: detection and dequantisation against golden files made by tools/make_format_golden.py, the
 * conversions over all codes, and what is refused.
 * SPDX-License-Identifier: Apache-2.0 */
#include "support/test.h"

#include <math.h>

#include "base/mem.h"
#include "model/detect.h"
#include "model/safetensors.h"

/* A file with tensors hidden or replaced by a damaged one. */
struct view {
    struct qn_safetensors *st;
    const char *hide;          /* suffix, or NULL */
    struct qn_tensor patch[2]; /* found before those of the file, when named */
};

static const struct qn_tensor *find(void *ctx, const char *name)
{
    const struct view *v = ctx;
    size_t n = strlen(name);
    if (v->hide && n >= strlen(v->hide) && !strcmp(name + n - strlen(v->hide), v->hide)) return NULL;
    for (int i = 0; i < 2; i++)
        if (v->patch[i].name && !strcmp(v->patch[i].name, name)) return &v->patch[i];
    for (int i = 0; i < qn_safetensors_n_tensor(v->st); i++)
        if (!strcmp(qn_safetensors_tensor(v->st, i)->name, name)) return qn_safetensors_tensor(v->st, i);
    return NULL;
}

static struct view open_view(const char *name)
{
    struct view v = {0};
    struct qn_err e = {0};
    char *path = xasprintf("%s/golden/formats/%s.safetensors", QN_TEST_DIR, name);
    if (qn_safetensors_open(&v.st, path, &e)) fail_msg("%s", e.text);
    free(path);
    return v;
}

static int detect(struct view *v, struct qn_linear *l, struct qn_err *e)
{
    const struct qn_tensor *expected = find(v, "expected");
    struct qn_detect d = {find, v, false};
    return qn_detect_linear(&d, "x", (int)expected->shape[0], (int)expected->shape[1], true, l, e);
}

static void test_golden(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        enum qn_format format;
    } cases[] = {
        {"bf16", QN_FMT_BF16},
        {"f16", QN_FMT_F16},
        {"f32", QN_FMT_F32},
        {"nvfp4", QN_FMT_NVFP4},
        {"nvfp4-ct", QN_FMT_NVFP4},
        {"fp8-block-rows", QN_FMT_FP8_BLOCK},
        {"fp8-block-columns", QN_FMT_FP8_BLOCK},
        {"fp8-block-ct", QN_FMT_FP8_BLOCK},
        {"fp8-tensor", QN_FMT_FP8_TENSOR},
        {"fp8-channel", QN_FMT_FP8_CHANNEL},
        {"fp8-row", QN_FMT_FP8_CHANNEL},
        {"awq", QN_FMT_INT4_AWQ},
        {"awq-64-bf16", QN_FMT_INT4_AWQ},
        {"gptq", QN_FMT_INT4_GPTQ},
        {"gptq-v2", QN_FMT_INT4_GPTQ},
        {"gptq-asymmetric", QN_FMT_INT4_GPTQ},
        {"gptq-order", QN_FMT_INT4_GPTQ},
        {"gptq-no-zeros", QN_FMT_INT4_GPTQ},
        {"int4-ct", QN_FMT_INT4_CT},
        {"int4-ct-order", QN_FMT_INT4_CT},
        {"int8", QN_FMT_INT8_CHANNEL},
    };
    for (size_t i = 0; i < QN_COUNT(cases); i++) {
        struct view v = open_view(cases[i].name);
        struct qn_err e = {0};
        struct qn_linear l;
        if (detect(&v, &l, &e)) fail_msg("%s: %s", cases[i].name, e.text);
        assert_int_equal(l.format, cases[i].format);
        assert_int_equal(qn_linear_check(&l, &e), 0);
        const struct qn_tensor *expected = find(&v, "expected");
        size_t K = (size_t)l.n_in;
        float *got = xmalloc(expected->n_byte);
        assert_int_equal(qn_linear_rows(&l, 0, l.n_out, got, &e), 0);
        for (size_t k = 0; k < expected->n_byte / 4; k++) {
            float want;
            memcpy(&want, (const char *)expected->data + k * 4, 4);
            if (memcmp(&want, &got[k], 4))
                fail_msg("%s: row %zu column %zu is %.9g, expected %.9g", cases[i].name, k / K, k % K,
                         (double)got[k], (double)want);
        }
        /* any range of rows gives the same bits */
        for (int first = 0; first < l.n_out; first += 3) {
            int n = QN_MIN(2, l.n_out - first);
            float *part = xmalloc((size_t)n * K * 4);
            assert_int_equal(qn_linear_rows(&l, first, n, part, &e), 0);
            assert_memory_equal(part, got + (size_t)first * K, (size_t)n * K * 4);
            free(part);
        }
        free(got);
        qn_safetensors_close(v.st);
    }
}

static void expect_error(struct view *v, int code, const char *word)
{
    struct qn_linear l;
    struct qn_err e = {0};
    int rc = detect(v, &l, &e);
    if (!rc) rc = qn_linear_check(&l, &e);
    if (rc != code || !strstr(e.text, word))
        fail_msg("expected %s with '%s', got %s: %s", qn_code_name(code), word, qn_code_name(rc), e.text);
}

static void test_missing(void **state)
{
    (void)state;
    static const struct {
        const char *name, *hide;
        int code;
        const char *word;
    } cases[] = {
        {"nvfp4", ".weight_scale", QN_UNSUPPORTED, "x.weight"},
        {"nvfp4", ".weight_scale_2", QN_FORMAT, "x.weight_scale_2 is missing"},
        {"nvfp4-ct", ".weight_global_scale", QN_FORMAT, "x.weight_global_scale is missing"},
        {"nvfp4-ct", ".weight_scale", QN_FORMAT, "x.weight_scale is missing"},
        {"fp8-block-rows", ".weight_scale_inv", QN_FORMAT, "without scale"},
        {"fp8-tensor", ".weight_scale", QN_FORMAT, "without scale"},
        {"awq", ".scales", QN_FORMAT, "x.scales is missing"},
        {"awq", ".qzeros", QN_FORMAT, "x.qzeros is missing"},
        {"gptq", ".scales", QN_FORMAT, "x.scales is missing"},
        {"int4-ct", ".weight_scale", QN_FORMAT, "x.weight_scale is missing"},
        {"int8", ".weight_scale", QN_FORMAT, "x.weight_scale is missing"},
        {"bf16", ".weight", QN_NOTFOUND, "x.weight [8, 24] is missing"},
    };
    for (size_t i = 0; i < QN_COUNT(cases); i++) {
        struct view v = open_view(cases[i].name);
        v.hide = cases[i].hide;
        expect_error(&v, cases[i].code, cases[i].word);
        qn_safetensors_close(v.st);
    }
}

/* One scale of each format becomes NaN or infinite. */
static void test_bad_scales(void **state)
{
    (void)state;
    static const struct {
        const char *file, *scale;
    } cases[] = {{"nvfp4", "x.weight_scale"},
                 {"nvfp4-ct", "x.weight_scale"},
                 {"fp8-block-ct", "x.weight_scale"},
                 {"fp8-tensor", "x.weight_scale"},
                 {"fp8-row", "x.weight_scale"},
                 {"awq", "x.scales"},
                 {"gptq", "x.scales"},
                 {"int4-ct", "x.weight_scale"},
                 {"int8", "x.weight_scale"}};
    for (size_t i = 0; i < QN_COUNT(cases); i++) {
        struct view v = open_view(cases[i].file);
        const struct qn_tensor *t = find(&v, cases[i].scale);
        unsigned char *data = xmalloc(t->n_byte);
        memcpy(data, t->data, t->n_byte);
        size_t one = qn_dtype_bytes(t->dtype);
        memset(data + t->n_byte - one, 0xff, one); /* NaN in BF16, F16 and E4M3 */
        if (t->dtype == QN_F32) memcpy(data + t->n_byte - 4, "\0\0\x80\x7f", 4);
        v.patch[0] = *t;
        v.patch[0].data = data;
        expect_error(&v, QN_FORMAT, cases[i].scale);
        struct qn_linear l;
        struct qn_err e = {0};
        assert_int_equal(detect(&v, &l, &e), 0);
        float *row = xmalloc((size_t)l.n_in * 4);
        assert_int_equal(qn_linear_rows(&l, l.n_out - 1, 1, row, &e), QN_FORMAT);
        free(row);
        free(data);
        qn_safetensors_close(v.st);
    }
    struct view v = open_view("nvfp4");
    const struct qn_tensor *t = find(&v, "x.weight_scale_2");
    float nan = NAN;
    v.patch[0] = *t;
    v.patch[0].data = &nan;
    expect_error(&v, QN_FORMAT, "x.weight_scale_2");
    qn_safetensors_close(v.st);
    v = open_view("gptq-order");
    t = find(&v, "x.g_idx");
    int32_t g[128];
    memcpy(g, t->data, sizeof g);
    g[5] = -1;
    v.patch[0] = *t;
    v.patch[0].data = g;
    expect_error(&v, QN_FORMAT, "x.g_idx");
    qn_safetensors_close(v.st);
}

static void test_bad_shapes(void **state)
{
    (void)state;
    static const struct {
        const char *file, *tensor;
        int dim, by; /* shape[dim] += by */
    } cases[] = {{"nvfp4", "x.weight", 1, 1},
                 {"nvfp4", "x.weight_scale", 1, -1},
                 {"fp8-block-rows", "x.weight", 0, 1},
                 {"fp8-block-rows", "x.weight_scale_inv", 0, 1000},
                 {"awq", "x.qweight", 0, 8},
                 {"awq", "x.qzeros", 0, 1},
                 {"awq", "x.scales", 1, 1},
                 {"gptq", "x.qweight", 1, 8},
                 {"gptq", "x.g_idx", 0, -1},
                 {"int4-ct-order", "x.weight_g_idx", 0, 1},
                 {"int4-ct", "x.weight_packed", 1, 1},
                 {"int4-ct", "x.weight_scale", 1, 1},
                 {"int8", "x.weight", 1, 1},
                 {"int8", "x.weight_scale", 0, 1},
                 {"bf16", "x.weight", 0, 1}};
    for (size_t i = 0; i < QN_COUNT(cases); i++) {
        struct view v = open_view(cases[i].file);
        v.patch[0] = *find(&v, cases[i].tensor);
        v.patch[0].shape[cases[i].dim] += cases[i].by;
        v.patch[0].n_byte = qn_dtype_bytes(v.patch[0].dtype);
        for (int d = 0; d < v.patch[0].n_dim; d++) v.patch[0].n_byte *= (size_t)v.patch[0].shape[d];
        expect_error(&v, QN_FORMAT, cases[i].tensor);
        qn_safetensors_close(v.st);
    }
}

static void test_refused(void **state)
{
    (void)state;
    unsigned char bytes[4096] = {0};
    /* U8 scales make it MXFP4, whose groups are of 32 */
    struct view v = open_view("nvfp4");
    v.patch[0] = *find(&v, "x.weight_scale");
    v.patch[0].dtype = QN_U8;
    expect_error(&v, QN_FORMAT, "x.weight_scale: expected U8");
    /* a second form of the same layer */
    v.patch[0] = (struct qn_tensor){
        .name = "x.qweight", .dtype = QN_I32, .n_dim = 2, .shape = {8, 10}, .data = bytes, .n_byte = 320};
    expect_error(&v, QN_FORMAT, "stored twice");
    qn_safetensors_close(v.st);
    /* plain weight with a scale */
    v = open_view("bf16");
    v.patch[0] = (struct qn_tensor){
        .name = "x.weight_scale", .dtype = QN_F32, .n_dim = 1, .shape = {1}, .data = bytes, .n_byte = 4};
    expect_error(&v, QN_FORMAT, "has a scale");
    qn_safetensors_close(v.st);
    /* zero points of another shape */
    v = open_view("int4-ct");
    v.patch[0] = (struct qn_tensor){.name = "x.weight_zero_point",
                                    .dtype = QN_I32,
                                    .n_dim = 2,
                                    .shape = {7, 2},
                                    .data = bytes,
                                    .n_byte = 56};
    expect_error(&v, QN_FORMAT, "weight_zero_point");
    qn_safetensors_close(v.st);
    /* weight_shape of another layer */
    v = open_view("int4-ct");
    v.patch[0] = *find(&v, "x.weight_shape");
    v.patch[0].data = bytes;
    expect_error(&v, QN_FORMAT, "weight_shape");
    qn_safetensors_close(v.st);
}

/* Every code converts and comes back; every value between two codes goes to the nearer, ties to even. */
static void test_conversions(void **state)
{
    (void)state;
    for (int i = 0; i < 65536; i++) {
        float x = qn_f16_to_f32((uint16_t)i);
        if (isnan(x)) continue;
        assert_int_equal(qn_f32_to_f16(x), i);
        x = qn_bf16_to_f32((uint16_t)i);
        if (!isnan(x)) assert_int_equal(qn_f32_to_bf16(x), i);
    }
    for (int i = 0; i < 256; i++) {
        float x = qn_e4m3_to_f32((uint8_t)i), y = qn_e5m2_to_f32((uint8_t)i);
        if (!isnan(x)) assert_int_equal(qn_f32_to_e4m3(x), i);
        if (!isnan(y) && !isinf(y)) assert_int_equal(qn_f32_to_e5m2(y), i);
    }
    for (int i = 0; i < 0x7e; i++) {
        float a = qn_e4m3_to_f32((uint8_t)i), b = qn_e4m3_to_f32((uint8_t)(i + 1)), mid = (a + b) / 2;
        assert_int_equal(qn_f32_to_e4m3(mid), i % 2 ? i + 1 : i);
        assert_int_equal(qn_f32_to_e4m3(nextafterf(mid, 1e9f)), i + 1);
        assert_int_equal(qn_f32_to_e4m3(-nextafterf(mid, 0)), i | 0x80);
    }
    assert_int_equal(qn_f32_to_e4m3(1e9f), 0x7e);
    assert_int_equal(qn_f32_to_e4m3(-INFINITY), 0xfe);
    assert_int_equal(qn_f32_to_e4m3(NAN) & 0x7f, 0x7f);
    assert_int_equal(qn_f32_to_f16(65520.0f), 0x7c00);
    assert_int_equal(qn_f32_to_f16(65519.0f), 0x7bff);
    assert_true(qn_e4m3_to_f32(0x38) == 1.0f && qn_e4m3_to_f32(0x01) == 0x1p-9f &&
                qn_e4m3_to_f32(0x7e) == 448.0f);
    assert_true(qn_e2m1_to_f32(0xd) == -3.0f && qn_e2m1_to_f32(0x2) == 1.0f);
    assert_true(isnan(qn_bf16_to_f32(qn_f32_to_bf16(NAN))));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden),     cmocka_unit_test(test_missing), cmocka_unit_test(test_bad_scales),
        cmocka_unit_test(test_bad_shapes), cmocka_unit_test(test_refused), cmocka_unit_test(test_conversions),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
