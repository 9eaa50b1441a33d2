/* Synthetic checkpoints: each format and layout opens, and holds the same weights as BF16 does.
 * SPDX-License-Identifier: Apache-2.0 */
#include "folder.h"

#include <math.h>

#include "model/synth.h"

static struct qn_model *synth_open(const char *folder, const char *name, const char *shape_text,
                                   const char *format, const char *recipe)
{
    struct qn_err e = {0};
    struct qn_shape shape;
    struct qn_model *m = NULL;
    char *path = xasprintf("%s/%s", folder, name);
    if (qn_shape_find(&shape, shape_text, &e)) fail_msg("%s: %s", shape_text, e.text);
    struct qn_synth s = {.shape = &shape,
                         .store = qn_store_find(format),
                         .recipe = recipe ? qn_recipe_find(recipe) : NULL,
                         .seed = 7,
                         .is_quiet = true};
    if (qn_synth_write(&s, path, &e)) fail_msg("%s %s: %s", shape_text, format, e.text);
    if (qn_model_open(&m, path, &e)) fail_msg("%s %s: %s", shape_text, format, e.text);
    free(path);
    return m;
}

/* Relative error of one layer against the same layer of the BF16 model, or -1 when there is none. */
static double distance(const struct qn_model *a, const struct qn_model *b, enum qn_role role, int layer,
                       int x, enum qn_format *format)
{
    struct qn_linear la, lb;
    struct qn_err e = {0};
    if (qn_model_linear(a, role, layer, x, &la, NULL)) return -1;
    if (qn_model_linear(b, role, layer, x, &lb, &e)) fail_msg("%s", e.text);
    size_t n = (size_t)la.n_out * (size_t)la.n_in;
    float *wa = xmalloc(n * 4), *wb = xmalloc(n * 4);
    assert_int_equal(qn_linear_check(&lb, NULL), 0);
    assert_int_equal(qn_linear_rows(&la, 0, la.n_out, wa, NULL), 0);
    assert_int_equal(qn_linear_rows(&lb, 0, lb.n_out, wb, NULL), 0);
    double error = 0, power = 0;
    for (size_t i = 0; i < n; i++) {
        error += (double)(wa[i] - wb[i]) * (double)(wa[i] - wb[i]);
        power += (double)wa[i] * (double)wa[i];
    }
    free(wa);
    free(wb);
    *format = lb.format;
    return sqrt(error / power);
}

static void check_formats(const char *shape)
{
    static const struct {
        const char *store, *recipe;
        enum qn_format format;
        double limit; /* relative error of random normal weights */
    } cases[] = {
        {"nvfp4", "experts-shared", QN_FMT_NVFP4, 0.12},
        {"nvfp4", "mixed", QN_FMT_NVFP4, 0.12},
        {"nvfp4", "linear-mtp", QN_FMT_NVFP4, 0.12},
        {"nvfp4-ct", NULL, QN_FMT_NVFP4, 0.12},
        {"fp8", NULL, QN_FMT_FP8_BLOCK, 0.03},
        {"fp8-channel", NULL, QN_FMT_FP8_CHANNEL, 0.03},
        {"fp8-tensor", "linear", QN_FMT_FP8_TENSOR, 0.03},
        {"awq", NULL, QN_FMT_INT4_AWQ, 0.12},
        {"gptq", NULL, QN_FMT_INT4_GPTQ, 0.14},
        {"int4-ct", NULL, QN_FMT_INT4_CT, 0.14},
        {"int8", NULL, QN_FMT_INT8_CHANNEL, 0.01},
    };
    char *folder = folder_make();
    struct qn_model *plain = synth_open(folder, "plain", shape, "bf16", NULL);
    const struct qn_config *c = qn_model_config(plain);
    assert_int_equal(qn_model_n_notes(plain), 0);
    assert_true(qn_model_has_mtp(plain));
    for (size_t i = 0; i < QN_COUNT(cases); i++) {
        if (!c->is_moe && cases[i].recipe && strstr(cases[i].recipe, "experts")) continue;
        char name[32];
        snprintf(name, sizeof name, "m%zu", i);
        struct qn_model *m = synth_open(folder, name, shape, cases[i].store, cases[i].recipe);
        for (int k = 0; k < qn_model_n_notes(m); k++) fail_msg("%s: %s", cases[i].store, qn_model_note(m, k));
        int n_quantised = 0;
        for (int r = 0; r < QN_N_ROLE; r++)
            for (int layer = QN_LAYER_MTP; layer < c->n_layer; layer++)
                for (int x = 0; x < 2; x++) {
                    enum qn_format f;
                    double d = distance(plain, m, (enum qn_role)r, layer, x, &f);
                    if (d < 0) continue;
                    if (f == QN_FMT_BF16)
                        assert_true(d == 0);
                    else if (d > (f == cases[i].format ? cases[i].limit : 0.03))
                        fail_msg("%s %s role %d layer %d: error %g", shape, cases[i].store, r, layer, d);
                    n_quantised += f == cases[i].format;
                }
        assert_true(n_quantised > 0);
        qn_model_close(m);
    }
    qn_model_close(plain);
    folder_remove(folder);
    free(folder);
}

static void test_dense(void **state)
{
    (void)state;
    check_formats("tiny:tied=0,layers=4");
}

static void test_moe(void **state)
{
    (void)state;
    check_formats("tiny-moe");
}

/* Fused, split and mixed layouts, prefixes, shards and layer cuts hold the same numbers. */
static void test_layouts(void **state)
{
    (void)state;
    static const char *const shapes[] = {"tiny-moe:layout=split", "tiny-moe:layout=mixed",
                                         "tiny-moe:mtp_layout=fused", "tiny-moe:text_only=1",
                                         "tiny-moe:layers=2,interval=4"};
    char *folder = folder_make();
    struct qn_model *plain = synth_open(folder, "plain", "tiny-moe", "bf16", NULL);
    for (size_t i = 0; i < QN_COUNT(shapes); i++) {
        char name[32];
        snprintf(name, sizeof name, "m%zu", i);
        struct qn_model *m = synth_open(folder, name, shapes[i], "bf16", NULL);
        enum qn_format f;
        for (int layer = QN_LAYER_MTP; layer < 2; layer++)
            for (int x = 0; x < 8; x++)
                for (int r = QN_ROLE_EXPERT_GATE; r <= QN_ROLE_EXPERT_DOWN; r++)
                    assert_true(distance(plain, m, (enum qn_role)r, layer, x, &f) == 0);
        assert_true(distance(plain, m, QN_ROLE_HEAD, 0, 0, &f) == 0);
        assert_int_equal(qn_model_n_notes(m), 0);
        qn_model_close(m);
    }
    qn_model_close(plain);
    folder_remove(folder);
    free(folder);
}

static void test_shards(void **state)
{
    (void)state;
    struct qn_err e = {0};
    struct qn_shape shape;
    char *folder = folder_make(), *path = xasprintf("%s/m", folder);
    struct qn_model *plain = synth_open(folder, "plain", "tiny", "bf16", NULL), *m;
    assert_int_equal(qn_shape_find(&shape, "tiny", &e), 0);
    struct qn_synth s = {.shape = &shape,
                         .store = qn_store_find("bf16"),
                         .seed = 7,
                         .shard_bytes = 100000,
                         .is_quiet = true,
                         .n_thread = 1};
    assert_int_equal(qn_synth_write(&s, path, &e), 0);
    assert_int_equal(qn_model_open(&m, path, &e), 0);
    assert_true(qn_model_n_files(m) > 3);
    assert_int_equal(qn_model_n_tensors(m), qn_model_n_tensors(plain));
    for (int i = 0; i < qn_model_n_tensors(plain); i++) {
        const struct qn_tensor *a = qn_model_tensor(plain, i), *b = qn_model_find(m, a->name);
        assert_non_null(b);
        assert_int_equal(a->n_byte, b->n_byte);
        assert_memory_equal(a->data, b->data, a->n_byte);
    }
    qn_model_close(m);
    qn_model_close(plain);
    /* the folder is not overwritten */
    assert_int_equal(qn_synth_write(&s, path, &e), QN_INVAL);
    folder_remove(folder);
    free(folder);
    free(path);
}

/* The totals of the published sizes. */
static void test_released(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        int64_t text, mtp;
    } sizes[] = {
        {"qwen3.5-0.8b", 752393024, 20452864},           {"2b", 1881825088, 60828160},
        {"qwen3.5-4b", 4205751296, 120599552},           {"qwen3.5-9b", 8953803264, 243290624},
        {"QWEN3.5-27B", 26895998464, 424699392},         {"35b-a3b", 34660610688, 844640768},
        {"qwen3.5-122b-a10b", 122111526912, 2523679232}, {"397b-a17b", 396346350336, 6595568128},
    };
    for (size_t i = 0; i < QN_COUNT(sizes); i++) {
        struct qn_shape s;
        assert_int_equal(qn_shape_find(&s, sizes[i].name, NULL), 0);
        assert_int_equal(qn_shape_params(&s.config, false), sizes[i].text);
        assert_int_equal(qn_shape_params(&s.config, true), sizes[i].mtp);
    }
    struct qn_shape s;
    assert_int_equal(qn_shape_find(&s, "qwen3.5-1t", NULL), QN_INVAL);
    assert_int_equal(qn_shape_find(&s, "tiny:hiden=4", NULL), QN_INVAL);
    assert_int_equal(qn_shape_find(&s, "tiny:heads=3,kv_heads=2", NULL), QN_INVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_dense),  cmocka_unit_test(test_moe),      cmocka_unit_test(test_layouts),
        cmocka_unit_test(test_shards), cmocka_unit_test(test_released),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
