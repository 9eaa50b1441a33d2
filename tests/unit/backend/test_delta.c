/* The gated delta rule: the worked example, and the step form against the chunk form.
 * SPDX-License-Identifier: Apache-2.0 */
#include <math.h>

#include "backend/ref/ref.h"
#include "base/mem.h"
#include "base/rng.h"
#include "support/test.h"

/* dk = dv = 2, A_log = log 0.5, dt_bias = 0.25, query scale 1 / sqrt 2 */
static void test_worked_example(void **unused)
{
    (void)unused;
    float q[] = {3, 4, 1, 0, 1, 1}, k[] = {1, 0, 3, 4, 0, 2}, v[] = {1, 2, 3, -1, 0.5f, 0.5f};
    static const float b[] = {0, 1, -1}, a[] = {0.5f, -0.5f, 1},
                       want_g[] = {-0.5684355f, -0.2879697f, -0.7509645f};
    static const float want_o[] = {0.2121319f, 0.4242638f, 1.1258074f, 0.0804827f, 0.7228689f, -0.0521777f};
    static const float want_s[] = {0.7513453f, 0.0537129f, 0.6943930f, -0.1580683f};
    float alpha[3], beta[3], o[6], state[4] = {0};
    for (int t = 0; t < 3; t++) {
        float nq = sqrtf(q[2 * t] * q[2 * t] + q[2 * t + 1] * q[2 * t + 1] + 1e-6f) * sqrtf(2);
        float nk = sqrtf(k[2 * t] * k[2 * t] + k[2 * t + 1] * k[2 * t + 1] + 1e-6f);
        for (int i = 0; i < 2; i++) {
            q[2 * t + i] /= nq;
            k[2 * t + i] /= nk;
        }
        beta[t] = qn_sigmoid(b[t]);
        alpha[t] = qn_ref_alpha(a[t], logf(0.5f), 0.25f);
        assert_true(fabsf(logf(alpha[t]) - want_g[t]) < 1e-6f);
    }
    for (int chunked = 0; chunked < 2; chunked++) {
        memset(state, 0, sizeof state);
        struct qn_ref_delta p = {2, 2, 3, q, k, v, alpha, beta, o, state, NULL};
        if (chunked)
            qn_ref_delta_chunks(&p, 64);
        else
            qn_ref_delta_steps(&p);
        for (int i = 0; i < 6; i++) assert_true(fabsf(o[i] - want_o[i]) < 1e-6f);
        for (int i = 0; i < 4; i++) assert_true(fabsf(state[i] - want_s[i]) < 1e-6f);
    }
}

static void test_chunks_equal_steps(void **unused)
{
    (void)unused;
    enum { DK = 12, DV = 5, N = 130 };
    static float q[N * DK], k[N * DK], v[N * DV], alpha[N], beta[N], o1[N * DV], o2[N * DV], s1[DK * DV],
        s2[DK * DV];
    uint64_t draw = 0;
#define UNIT() (qn_rng_unit(qn_rng64(1, 2, draw++)) - 0.5f)
    for (int i = 0; i < N * DK; i++) {
        q[i] = UNIT() / sqrtf(DK);
        k[i] = UNIT() * 2 / sqrtf(DK);
    }
    for (int i = 0; i < N * DV; i++) v[i] = UNIT();
    for (int i = 0; i < N; i++) {
        alpha[i] = expf(-2 * (UNIT() + 0.5f));
        beta[i] = UNIT() + 0.5f;
    }
    for (int n = 1; n <= N; n++) {
        for (int i = 0; i < DK * DV; i++) s1[i] = s2[i] = (float)(i % 7) / 7;
        struct qn_ref_delta p = {DK, DV, n, q, k, v, alpha, beta, o1, s1, NULL};
        qn_ref_delta_steps(&p);
        p.o = o2;
        p.state = s2;
        qn_ref_delta_chunks(&p, 64);
        for (int i = 0; i < n * DV; i++) assert_true(fabsf(o1[i] - o2[i]) < 1e-5f);
        for (int i = 0; i < DK * DV; i++) assert_true(fabsf(s1[i] - s2[i]) < 1e-5f);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_worked_example),
        cmocka_unit_test(test_chunks_equal_steps),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
