/* Re-storing: without search it equals what synth writes, with search it is closer to the source; copies are
 * exact. SPDX-License-Identifier: Apache-2.0 */
#include "folder.h"

#include <math.h>
#include <sys/stat.h>

#include "model/quantize.h"
#include "model/synth.h"

static struct qn_model *open_model(const char *folder, const char *name)
{
    struct qn_err e = {0};
    struct qn_model *m = NULL;
    char *path = xasprintf("%s/%s", folder, name);
    if (qn_model_open(&m, path, &e)) fail_msg("%s: %s", name, e.text);
    for (int i = 0; i < qn_model_n_notes(m); i++) fail_msg("%s: %s", name, qn_model_note(m, i));
    free(path);
    return m;
}

static void synth(const char *folder, const char *name, const char *shape_text, const char *format)
{
    struct qn_err e = {0};
    struct qn_shape shape;
    char *path = xasprintf("%s/%s", folder, name);
    assert_int_equal(qn_shape_find(&shape, shape_text, &e), 0);
    struct qn_synth s = {.shape = &shape, .store = qn_store_find(format), .seed = 3, .is_quiet = true};
    if (qn_synth_write(&s, path, &e)) fail_msg("%s %s: %s", shape_text, format, e.text);
    free(path);
}

static double total_error(const struct qn_quantize_report *r)
{
    double error = 0, power = 0;
    for (int p = 0; p < QN_N_PART; p++)
        for (int f = 0; f < QN_N_FORMAT; f++) {
            error += r->part[p][f].error;
            power += r->part[p][f].power;
        }
    return sqrt(error / power);
}

static double quantize(const struct qn_model *m, const char *folder, const char *name, const char *format,
                       bool search)
{
    struct qn_err e = {0};
    struct qn_quantize_report report;
    char *path = xasprintf("%s/%s", folder, name);
    struct qn_quantize q = {.model = m, .store = qn_store_find(format), .search = search, .is_quiet = true};
    if (qn_quantize_write(&q, path, &report, &e)) fail_msg("%s: %s", format, e.text);
    free(path);
    return total_error(&report);
}

static void same_tensors(const struct qn_model *a, const struct qn_model *b)
{
    assert_int_equal(qn_model_n_tensors(a), qn_model_n_tensors(b));
    for (int i = 0; i < qn_model_n_tensors(a); i++) {
        const struct qn_tensor *x = qn_model_tensor(a, i), *y = qn_model_find(b, x->name);
        if (!y) fail_msg("no %s", x->name);
        assert_int_equal(x->dtype, y->dtype);
        assert_int_equal(x->n_dim, y->n_dim);
        assert_memory_equal(x->shape, y->shape, sizeof x->shape);
        if (memcmp(x->data, y->data, x->n_byte)) fail_msg("%s differs", x->name);
    }
}

static void test_formats(void **state)
{
    (void)state;
    static const char *const shapes[] = {"tiny:tied=0", "tiny-moe:layout=mixed"};
    char *folder = folder_make();
    for (int s = 0; s < 2; s++) {
        char name[64];
        snprintf(name, sizeof name, "plain%d", s);
        synth(folder, name, shapes[s], "bf16");
        struct qn_model *plain = open_model(folder, name);
        for (int i = 1; qn_store_at(i); i++) {
            const char *format = qn_store_at(i)->name;
            char direct[64], nearest[64], searched[64];
            snprintf(direct, sizeof direct, "direct-%d-%s", s, format);
            snprintf(nearest, sizeof nearest, "nearest-%d-%s", s, format);
            snprintf(searched, sizeof searched, "searched-%d-%s", s, format);
            synth(folder, direct, s ? "tiny-moe" : shapes[s], format);
            double far = quantize(plain, folder, nearest, format, false);
            double near = quantize(plain, folder, searched, format, true);
            if (!(near <= far * 1.0001)) fail_msg("%s: search %g, nearest %g", format, near, far);
            if (qn_store_at(i)->format == QN_FMT_NVFP4 || qn_store_at(i)->format == QN_FMT_INT4_CT)
                assert_true(near < far * 0.95 && near < 0.1);
            struct qn_model *a = open_model(folder, direct), *b = open_model(folder, nearest),
                            *c = open_model(folder, searched);
            same_tensors(a, b);
            qn_model_close(a);
            qn_model_close(b);
            qn_model_close(c);
        }
        qn_model_close(plain);
    }
    folder_remove(folder);
    free(folder);
}

/* FP8 to NVFP4: allowed, counted; the quantised companions do not survive. */
static void test_again(void **state)
{
    (void)state;
    struct qn_err e = {0};
    struct qn_quantize_report report;
    char *folder = folder_make(), *out = xasprintf("%s/out", folder);
    synth(folder, "fp8", "tiny-moe", "fp8");
    struct qn_model *m = open_model(folder, "fp8"), *n;
    struct qn_quantize q = {.model = m, .store = qn_store_find("nvfp4"), .is_quiet = true};
    q.recipe = qn_recipe_find("linear-mtp");
    assert_int_equal(qn_quantize_write(&q, out, &report, &e), 0);
    assert_true(report.n_requantised > 100);
    n = open_model(folder, "out");
    struct qn_tally t;
    qn_tally_model(n, &t);
    for (int p = 0; p < QN_N_PART; p++) assert_int_equal(t.part[p].n_by_format[QN_FMT_FP8_BLOCK], 0);
    assert_true(t.part[QN_PART_EXPERTS].n_by_format[QN_FMT_NVFP4] == 96);
    qn_model_close(n);
    qn_model_close(m);
    folder_remove(folder);
    free(folder);
    free(out);
}

/* A failed run leaves nothing; a leftover of a killed one is used again; someone's folder is not touched. */
static void test_atomic(void **state)
{
    (void)state;
    struct qn_err e = {0};
    struct stat info;
    char *folder = folder_make(), *out = xasprintf("%s/out", folder),
         *partial = xasprintf("%s/out.partial", folder);
    synth(folder, "plain", "tiny", "bf16");
    struct qn_model *m = open_model(folder, "plain");
    struct qn_quantize q = {.model = m, .store = qn_store_find("fp8"), .is_quiet = true};
    assert_int_equal(mkdir(partial, 0777), 0);
    folder_write(partial, "precious.txt", "x", 1);
    assert_int_equal(qn_quantize_write(&q, out, NULL, &e), QN_INVAL);
    folder_write(partial, "quern.partial", "", 0);
    assert_int_equal(qn_quantize_write(&q, out, NULL, &e), 0);
    assert_true(stat(partial, &info) && !stat(out, &info));
    assert_int_equal(qn_quantize_write(&q, out, NULL, &e), QN_INVAL);
    assert_true(stat(partial, &info));
    q.recipe = qn_recipe_find("experts"); /* a dense model has none */
    free(out);
    out = xasprintf("%s/none", folder);
    assert_int_equal(qn_quantize_write(&q, out, NULL, &e), QN_INVAL);
    assert_true(stat(out, &info));
    qn_model_close(m);
    folder_remove(folder);
    free(folder);
    free(out);
    free(partial);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_formats), cmocka_unit_test(test_again),
                                       cmocka_unit_test(test_atomic)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
