/* Every storage format end to end: a synthesised checkpoint gives the same logits on cpu, in each instruction
 * set, as on ref, which dequantises by definition; and the same bits in any chunks.
 * SPDX-License-Identifier: Apache-2.0 */
#include <math.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cpu.h"
#include "model/synth.h"
#include "support/rig.h"
#include "support/test.h"

enum { N = 70 };

static void synthesise(const char *folder, const char *shape_text, const struct qn_store *store,
                       const char *recipe)
{
    struct qn_shape shape;
    struct qn_err e = {0};
    if (qn_shape_find(&shape, shape_text, &e)) fail_msg("%s", e.text);
    struct qn_synth s = {.shape = &shape,
                         .store = store,
                         .recipe = strcmp(store->name, "bf16") ? qn_recipe_find(recipe) : NULL,
                         .seed = 5,
                         .n_thread = 1,
                         .is_quiet = true};
    if (qn_synth_write(&s, folder, &e)) fail_msg("%s: %s", store->name, e.text);
}

/* Logits of ref, [N, vocab]. */
static float *wanted(const char *folder, enum qn_act act, const int32_t *tok, size_t *n)
{
    struct rig r;
    rig_open(&r, folder, &(struct rig_options){"ref", act, QN_KV_F32, 1, 0, true});
    *n = N * (size_t)r.c->vocab;
    float *want = malloc(*n * sizeof *want);
    assert_non_null(want);
    rig_logits(&r, 0, tok, N, N, want);
    rig_close(&r);
    return want;
}

/* How far from ref. Float activations: the worst logit, against the largest one. Where activations are
 * rounded, a difference in the last place can become one of a rounding step, or another expert: root mean
 * squares. */
static double distance(const float *want, const float *got, size_t n, enum qn_act act)
{
    double worst = 0, largest = 0, error = 0, square = 0;
    for (size_t i = 0; i < n; i++) {
        double d = fabs((double)want[i] - got[i]);
        worst = fmax(worst, d);
        largest = fmax(largest, fabs(want[i]));
        error += d * d;
        square += (double)want[i] * want[i];
    }
    return act == QN_ACT_F32 ? worst / largest : sqrt(error / square);
}

static const double most_distance[QN_N_ACT] = {
    [QN_ACT_F32] = 1e-4, [QN_ACT_BF16] = 0.25, [QN_ACT_INT8] = 0.25};

#ifdef QN_TEST_CUDA /* on the emulator */
static void check_format(const char *folder, const char *name)
{
    struct rig r;
    int32_t tok[N];
    size_t n;
    for (int i = 0; i < N; i++) tok[i] = i * 37 % 200;
    for (int act = 0; act < QN_N_ACT; act++) {
        if (act == QN_ACT_INT8) continue; /* refused at open */
        float *want = wanted(folder, (enum qn_act)act, tok, &n), *got = malloc(n * sizeof *got),
              *cut = malloc(n * sizeof *cut);
        rig_open(&r, folder, &(struct rig_options){"cuda", (enum qn_act)act, QN_KV_F32, 1, 0, true});
        rig_logits(&r, 0, tok, N, N, got);
        rig_logits(&r, 1, tok, N, 7, cut);
        if (memcmp(got, cut, n * sizeof *got)) fail_msg("%s: chunks of 7 differ", name);
        for (size_t i = 0; i < n; i++) assert_false(isnan(got[i]));
        double d = distance(want, got, n, (enum qn_act)act);
        print_message("  %-12s %s: %.2g from ref\n", name, qn_act_name((enum qn_act)act), d);
        if (!(d <= most_distance[act]))
            fail_msg("%s, %s: %.2g from ref", name, qn_act_name((enum qn_act)act), d);
        rig_close(&r);
        free(want);
        free(got);
        free(cut);
    }
}
#else
static void check_format(const char *folder, const char *name)
{
    struct rig r;
    int32_t tok[N];
    size_t n;
    for (int i = 0; i < N; i++) tok[i] = i * 37 % 200;
    float *all[QN_N_ACT];
    for (int act = 0; act < QN_N_ACT; act++) all[act] = wanted(folder, (enum qn_act)act, tok, &n);
    float *got = malloc(n * sizeof *got), *cut = malloc(n * sizeof *cut);
    unsetenv("QUERN_CPU");
    for (int isa = 0, best = (int)qn_cpu_isa(); isa <= best; isa++) {
        setenv("QUERN_CPU", qn_isa_name((enum qn_isa)isa), 1);
        for (int act = 0; act < QN_N_ACT; act++) {
            rig_open(&r, folder, &(struct rig_options){"cpu", (enum qn_act)act, QN_KV_F32, 2, 0, true});
            rig_logits(&r, 0, tok, N, N, got);
            rig_logits(&r, 1, tok, N, 7, cut);
            if (memcmp(got, cut, n * sizeof *got))
                fail_msg("%s, %s: chunks of 7 differ", name, qn_isa_name(isa));
            for (size_t i = 0; i < n; i++) assert_false(isnan(got[i]));
            double d = distance(all[act], got, n, (enum qn_act)act);
            if (!(d <= most_distance[act]))
                fail_msg("%s, %s, %s: %.2g from ref", name, qn_isa_name(isa), qn_act_name((enum qn_act)act),
                         d);
            rig_close(&r);
        }
    }
    unsetenv("QUERN_CPU");
    for (int act = 0; act < QN_N_ACT; act++) free(all[act]);
    free(got);
    free(cut);
}
#endif

static void each_format(const char *shape)
{
    for (int i = 0; qn_store_at(i); i++) {
        char folder[] = "/tmp/quern-format-XXXXXX", command[80];
        assert_non_null(mkdtemp(folder));
        synthesise(folder, shape, qn_store_at(i), "linear-mtp");
        check_format(folder, qn_store_at(i)->name);
        snprintf(command, sizeof command, "rm -r %s", folder);
        assert_int_equal(system(command), 0);
    }
}

static void test_dense(void **unused)
{
    (void)unused;
    each_format("tiny");
}

static void test_experts(void **unused)
{
    (void)unused;
    each_format("tiny-moe");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_dense),
        cmocka_unit_test(test_experts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
