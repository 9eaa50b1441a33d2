/* Choosing a token: against a plain version that looks at everything, and in distribution.
 * SPDX-License-Identifier: Apache-2.0 */
#include <math.h>

#include "backend/cpu/kern.h"
#include "backend/draw.h"
#include "base/cpu.h"
#include "base/rng.h"
#include "support/test.h"

enum { V = 3000 };
static float x[V];
static const struct qn_sample plain = {.temperature = 1, .top_p = 1, .repetition = 1, .seed = 11};

static void fill(uint64_t seed, float spread)
{
    for (int i = 0; i < V; i++) x[i] = (qn_rng_unit(qn_rng64(seed, 1, (uint64_t)i)) - 0.5f) * spread;
    for (int i = 0; i < V; i += 97) x[i] = x[(i + 5) % V]; /* ties */
}

static int by_value(const void *a, const void *b)
{
    int32_t i = *(const int32_t *)a, j = *(const int32_t *)b;
    if (x[i] != x[j]) return x[i] > x[j] ? -1 : 1;
    return i - j;
}

/* Sorts everything, cuts, takes the best score. */
static int32_t slow_draw(const struct qn_sample *p, int position)
{
    static int32_t tok[V];
    for (int i = 0; i < V; i++) tok[i] = i;
    qsort(tok, V, sizeof *tok, by_value);
    int n = p->top_k > 0 ? p->top_k : V, n_kept = 0;
    double total = 0, before = 0;
    float max = x[tok[0]];
    for (int i = 0; i < n; i++) total += exp((x[tok[i]] - max) / p->temperature);
    while (n_kept < n && (!n_kept || before < total * p->top_p)) {
        double share = exp((x[tok[n_kept]] - max) / p->temperature);
        if (n_kept && share < p->min_p) break;
        before += share;
        n_kept++;
    }
    int32_t best = -1;
    float best_score = 0;
    for (int i = 0; i < n_kept; i++) {
        float score = x[tok[i]] / p->temperature + qn_gumbel(p->seed, position, tok[i]);
        if (best < 0 || score > best_score || (score == best_score && tok[i] < best)) {
            best = tok[i];
            best_score = score;
        }
    }
    return best;
}

static void test_equals_the_slow_way(void **unused)
{
    (void)unused;
    static const struct {
        float temperature, top_p, min_p;
        int top_k;
    } cases[] = {{1, 1, 0, 0},         {0.7f, 1, 0, 20},   {1, 0.95f, 0, 20},    {1, 0.9f, 0, 0},
                 {0.3f, 0.5f, 0, 0},   {1.5f, 1, 0.1f, 0}, {1, 0.8f, 0.05f, 50}, {2, 1, 0, 1},
                 {0.01f, 0.99f, 0, 0}, {5, 0.999f, 0, 0}};
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++)
        for (int i = 0; i < 60; i++) {
            struct qn_sample p = plain;
            p.temperature = cases[c].temperature;
            p.top_p = cases[c].top_p;
            p.min_p = cases[c].min_p;
            p.top_k = cases[c].top_k;
            p.n_top = -1;
            fill((uint64_t)i, i % 2 ? 30 : 6);
            struct qn_step_token out;
            qn_draw(&qn_scan_plain, x, V, &p, i, &out);
            int32_t want = slow_draw(&p, i);
            if (out.tok != want) fail_msg("case %zu, row %d: %d instead of %d", c, i, out.tok, want);
        }
}

static void test_greedy_and_logprobs(void **unused)
{
    (void)unused;
    struct qn_sample p = plain;
    struct qn_step_token out;
    fill(5, 10);
    x[70] = x[2000] = 9;
    p.temperature = 0;
    p.n_top = 3;
    qn_draw(&qn_scan_plain, x, V, &p, 0, &out);
    assert_int_equal(out.tok, 70); /* the lower of two equals */
    double sum = 0;
    for (int i = 0; i < V; i++) sum += exp(x[i]);
    assert_true(fabs(out.logprob - (9 - log(sum))) < 1e-4);
    assert_int_equal(out.n_top, 3);
    assert_int_equal(out.top_tok[0], 70);
    assert_int_equal(out.top_tok[1], 2000);
    assert_true(out.top_logprob[1] == out.logprob);
    for (int i = 0; i < V; i++) x[i] = i == 123 ? 1 : -INFINITY; /* a mask that leaves one */
    p.temperature = 1;
    qn_draw(&qn_scan_plain, x, V, &p, 0, &out);
    assert_int_equal(out.tok, 123);
}

/* Frequencies of an exact sample: chi-square of 5 tokens over many positions. */
static void test_distribution(void **unused)
{
    (void)unused;
    static const float logit[5] = {0, 1, -1, 2, 0.5f};
    double p[5], total = 0, chi = 0;
    int count[5] = {0}, n = 40000;
    struct qn_sample s = plain;
    s.n_top = -1;
    for (int i = 0; i < 5; i++) total += p[i] = exp(logit[i]);
    for (int i = 0; i < n; i++) {
        struct qn_step_token out;
        qn_draw(&qn_scan_plain, logit, 5, &s, i, &out);
        count[out.tok]++;
    }
    for (int i = 0; i < 5; i++) chi += pow(count[i] - n * p[i] / total, 2) / (n * p[i] / total);
    assert_true(chi < 18.5); /* 4 degrees of freedom, 0.1 % */
    for (uint64_t i = 0; i < 100000; i++) assert_true(qn_gumbel(9, 1, (int)i) < QN_GUMBEL_MAX);
    assert_true(-logf(-logf(qn_rng_unit(UINT64_MAX))) < QN_GUMBEL_MAX);
}

static void test_adjust(void **unused)
{
    (void)unused;
    static const int32_t seen[] = {1, 2, 3}, count[] = {0, 2, 1}, bias_tok[] = {4}, extra[] = {2, 5, 5};
    static const float bias[] = {7};
    float y[8] = {1, 1, -1, 1, 1, 1, 1, 1};
    const uint32_t mask = 0x7f;
    struct qn_step s = {.seen_tok = seen, .seen_count = count, .bias_tok = bias_tok, .bias = bias};
    struct qn_sample p = {.presence = 0.5f, .frequency = 0.25f, .repetition = 2, .n_seen = 3, .n_bias = 1};
    qn_draw_adjust(&s, &p, extra, 3, &mask, y, 8);
    static const float want[] = {1, 0.5f,     -2 - 0.5f - 0.75f, 0.5f - 0.75f, 8, 0.5f - 0.5f - 0.5f,
                                 1, -INFINITY};
    for (int i = 0; i < 8; i++) assert_true(y[i] == want[i]);
}

/* A NaN anywhere, or nothing finite, gives no token, whatever the sampler and the ISA. */
static void test_rows_that_are_not_finite(void **unused)
{
    (void)unused;
    static const struct {
        float temperature, top_p, min_p;
        int top_k;
    } cases[] = {{0, 1, 0, 0}, {1, 1, 0, 0}, {1, 1, 0, 20}, {1, 0.9f, 0, 0}, {1, 1, 0.1f, 0}};
    for (int isa = -1; isa <= (int)qn_cpu_isa(); isa++)
        for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
            const struct qn_scan *scan = isa < 0 ? &qn_scan_plain : &qn_kern_get((enum qn_isa)isa)->scan;
            struct qn_sample p = {.temperature = cases[c].temperature,
                                  .top_p = cases[c].top_p,
                                  .min_p = cases[c].min_p,
                                  .top_k = cases[c].top_k,
                                  .repetition = 1,
                                  .n_top = 5};
            struct qn_step_token out;
            for (int at = 0; at <= V; at += 37) {
                fill(3, 20);
                if (at < V) x[at] = NAN;
                qn_draw(scan, x, V, &p, 1, &out);
                assert_int_equal(out.tok == -1, at < V);
            }
            fill(3, 20);
            x[V - 1] = INFINITY;
            qn_draw(scan, x, V, &p, 1, &out);
            assert_int_equal(out.tok, -1);
            for (int i = 0; i < V; i++) x[i] = -INFINITY;
            qn_draw(scan, x, V, &p, 1, &out);
            assert_int_equal(out.tok, -1);
            assert_int_equal(out.n_top, 0);
            x[1234] = -5; /* all but one masked */
            qn_draw(scan, x, V, &p, 1, &out);
            assert_int_equal(out.tok, 1234);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_equals_the_slow_way),
        cmocka_unit_test(test_greedy_and_logprobs),
        cmocka_unit_test(test_distribution),
        cmocka_unit_test(test_adjust),
        cmocka_unit_test(test_rows_that_are_not_finite),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
