/* Slices of every stored format: dequantised they have the bits of the whole's part, wherever the cut.
 * SPDX-License-Identifier: Apache-2.0 */
#include "support/test.h"

#include "base/mem.h"
#include "base/rng.h"
#include "model/detect.h"
#include "model/safetensors.h"
#include "model/slice.h"

static const char *const files[] = {
    "bf16",    "f16",         "f32",     "nvfp4",      "nvfp4-ct",      "fp8-block-rows", "fp8-block-columns",
    "fp8-row", "fp8-channel", "awq",     "fp8-tensor", "awq-64-bf16",   "fp8-block-ct",   "gptq-asymmetric",
    "gptq",    "gptq-v2",     "int4-ct", "int8",       "gptq-no-zeros", "gptq-order",     "int4-ct-order",
};

static uint64_t n_draw;

static int below(int n)
{
    return (int)(qn_rng64(3, 0, n_draw++) % (uint64_t)n);
}

static const struct qn_tensor *find(void *ctx, const char *name)
{
    for (int i = 0; i < qn_safetensors_n_tensor(ctx); i++)
        if (!strcmp(qn_safetensors_tensor(ctx, i)->name, name)) return qn_safetensors_tensor(ctx, i);
    return NULL;
}

static struct qn_safetensors *open_layer(const char *name, struct qn_linear *l)
{
    struct qn_safetensors *st;
    struct qn_err e = {0};
    char *path = xasprintf("%s/golden/formats/%s.safetensors", QN_TEST_DIR, name);
    if (qn_safetensors_open(&st, path, &e)) fail_msg("%s", e.text);
    free(path);
    const struct qn_tensor *expected = find(st, "expected");
    struct qn_detect d = {find, st, false};
    if (qn_detect_linear(&d, "x", (int)expected->shape[0], (int)expected->shape[1], true, l, &e))
        fail_msg("%s: %s", name, e.text);
    return st;
}

static float *rows(const struct qn_linear *l)
{
    struct qn_err e = {0};
    float *p = xmalloc((size_t)l->n_out * (size_t)l->n_in * sizeof *p);
    if (qn_linear_check(l, &e) || qn_linear_rows(l, 0, l->n_out, p, &e)) fail_msg("%s", e.text);
    return p;
}

static struct qn_range random_range(int n, int step)
{
    int n_step = n / step; /* whole ones; the last may be cut short by the end */
    int a = below(n_step), b = a + 1 + below(n_step - a);
    return (struct qn_range){a * step, (b == n_step && below(2) ? n : b * step) - a * step};
}

static void check(const char *name, const struct qn_linear *l, const float *whole, const struct qn_cut *cut)
{
    struct qn_slice s;
    struct qn_err e = {0};
    if (qn_slice_make(&s, l, cut, &e)) fail_msg("%s: %s", name, e.text);
    int first = cut->in.n ? cut->in.first : 0, K = cut->in.n ? cut->in.n : l->n_in, at = 0;
    assert_int_equal(s.linear.n_in, K);
    float *part = rows(&s.linear);
    for (int i = 0; i < cut->n_range; i++)
        for (int r = 0; r < cut->out[i].n; r++, at++)
            if (memcmp(part + (size_t)at * (size_t)K,
                       whole + (size_t)(cut->out[i].first + r) * (size_t)l->n_in + first,
                       (size_t)K * sizeof *part))
                fail_msg("%s: row %d of outputs %d+%d, inputs %d+%d differs", name, r, cut->out[i].first,
                         cut->out[i].n, first, K);
    if (cut->n_range) assert_int_equal(s.linear.n_out, at);
    /* the bytes are those of the part, with scales that were repeated */
    if (!cut->in.n && cut->n_range == 1 && l->format <= QN_FMT_F16) assert_null(s.memory);
    free(part);
    qn_slice_free(&s);
}

static void test_every_format(void **state)
{
    (void)state;
    for (size_t i = 0; i < QN_COUNT(files); i++) {
        struct qn_linear l;
        struct qn_safetensors *st = open_layer(files[i], &l);
        float *whole = rows(&l);
        int out = qn_slice_step_out(&l), in = qn_slice_step_in(&l);
        for (int run = 0; run < 60; run++) {
            struct qn_cut cut = {{{0}}};
            cut.n_range = l.n_out / out ? below(3) : 0;
            for (int r = 0; r < cut.n_range; r++) {
                cut.out[r] = random_range(l.n_out, out);
                if (r + 1 < cut.n_range) cut.out[r].n = QN_MAX(cut.out[r].n / out * out, out);
            }
            if (!l.g_idx.n_dim && l.n_in / in && below(3)) cut.in = random_range(l.n_in, in);
            check(files[i], &l, whole, &cut);
        }
        free(whole);
        qn_safetensors_close(st);
    }
}

/* A group that the cut goes through becomes smaller ones. */
static void test_group_is_split(void **state)
{
    (void)state;
    static const char *const grouped[] = {"awq", "gptq", "gptq-asymmetric", "int4-ct"};
    for (size_t i = 0; i < QN_COUNT(grouped); i++) {
        struct qn_linear l;
        struct qn_safetensors *st = open_layer(grouped[i], &l);
        float *whole = rows(&l);
        struct qn_cut cut = {.in = {l.group / 2, l.n_in - l.group / 2}};
        struct qn_slice s;
        assert_int_equal(qn_slice_make(&s, &l, &cut, NULL), QN_OK);
        assert_int_equal(s.linear.group, l.group / 2);
        qn_slice_free(&s);
        check(grouped[i], &l, whole, &cut);
        free(whole);
        qn_safetensors_close(st);
    }
}

static void test_refused(void **state)
{
    (void)state;
    static const struct {
        const char *file, *word;
        struct qn_cut cut;
    } cases[] = {
        {"gptq-order", "act-order", {.in = {0, 8}}},
        {"int4-ct-order", "act-order", {.in = {0, 8}}},
        {"nvfp4", "at input 24, only at multiples of 16", {.in = {0, 24}}},
        {"gptq", "at output 4, only at multiples of 8", {.out = {{0, 4}}, .n_range = 1}},
        {"awq", "at output 12, only at multiples of 8", {.out = {{12, 4}}, .n_range = 1}},
        {"fp8-block-rows", "at output 64, only at multiples of 128", {.out = {{0, 64}}, .n_range = 1}},
    };
    for (size_t i = 0; i < QN_COUNT(cases); i++) {
        struct qn_linear l;
        struct qn_safetensors *st = open_layer(cases[i].file, &l);
        struct qn_slice s;
        struct qn_err e = {0};
        assert_int_equal(qn_slice_make(&s, &l, &cases[i].cut, &e), QN_UNSUPPORTED);
        if (!strstr(e.text, cases[i].word)) fail_msg("%s: %s", cases[i].file, e.text);
        assert_non_null(strstr(e.text, l.name));
        qn_safetensors_close(st);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_format),
        cmocka_unit_test(test_group_is_split),
        cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
