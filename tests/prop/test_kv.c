/* Every type of the KV cache: cpu against ref, and how far each is from floats.
 * SPDX-License-Identifier: Apache-2.0 */
#include <math.h>

#include "base/log.h"
#include "support/rig.h"
#include "support/test.h"

#define N_TOK 150

/* Root of the mean square of a - b over that of b. */
static double distance(const float *a, const float *b, size_t n)
{
    double d = 0, all = 0;
    for (size_t i = 0; i < n; i++) {
        d += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
        all += (double)b[i] * b[i];
    }
    return sqrt(d / all);
}

static float *logits_of(const struct rig_golden *g, const char *backend, enum qn_kv kv, int chunk, size_t *n)
{
    struct rig r;
    rig_open(&r, g->folder, &(struct rig_options){backend, QN_ACT_F32, kv, 2, 0, true});
    *n = (size_t)N_TOK * (size_t)r.c->vocab;
    float *out = malloc(*n * sizeof *out);
    rig_logits(&r, 0, g->prompt, N_TOK, chunk, out);
    rig_close(&r);
    return out;
}

static void test_types(void **state)
{
    (void)state;
    static const char *const cases[] = {"dense-untied-mtp", "dense-ratio4-odd", "moe-expert-mtp"};
    /* cpu and ref sum in different orders, so that a value may be rounded to the next code; about three times
     * what is seen */
    static const double near[QN_N_KV] = {2e-5, 1e-4, 1e-4, 3e-4, 1e-4},
                        far[QN_N_KV] = {0, 1e-3, 3e-2, 8e-2, 3e-2};
    for (size_t i = 0; i < QN_COUNT(cases); i++) {
        struct rig_golden g;
        size_t n;
        rig_golden_read(&g, cases[i], 0);
        float *exact = logits_of(&g, "ref", QN_KV_F32, 40, &n);
        for (int t = 0; t < QN_N_KV; t++) {
            float *ref = logits_of(&g, "ref", (enum qn_kv)t, 64, &n),
                  *cpu = logits_of(&g, "cpu", (enum qn_kv)t, 37, &n);
            double apart = distance(cpu, ref, n), off = distance(ref, exact, n);
            print_message("%-18s %-6s cpu and ref %.1e apart, %.1e from floats\n", cases[i],
                          qn_kv_name((enum qn_kv)t), apart, off);
            assert_true(apart <= near[t]);
            assert_true(off <= far[t]);
            if (t != QN_KV_F32) assert_true(off > 0);
            free(ref);
            free(cpu);
        }
        free(exact);
        rig_golden_free(&g);
    }
}

int main(void)
{
    qn_log_set_level(QN_LOG_WARN);
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_types)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
