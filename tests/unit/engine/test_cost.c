/* The cost model: gaps of streams while a long prompt is read, on simulated machines. Time is simulated, so
 * the figures are the same everywhere. SPDX-License-Identifier: Apache-2.0 */
#include "support/test.h"

#include <math.h>

#include "base/mem.h"
#include "base/rng.h"
#include "engine/cost.h"

struct machine {
    const char *name;
    double floor_us; /* a step reads all weights, however few rows */
    double row_us;   /* arithmetic of a row */
    double seq_us;   /* of a stream: its state */
    double far_us;   /* attention of a row to 4096 tokens */
    double chunk_us; /* a step with prefill, once */
    double noise;    /* part of the time, up and down */
    int n_stream[2]; /* in the first and the second half of the prompt */
    int stream_context;
    double cold_us; /* a step without prefill behind one with: the caches are full of the prompt's KV */
    int busy;       /* steps in 4000 that something else makes 2.5 times as long, in one stretch */
};

static uint64_t draw;

static double step_us(const struct machine *m, int n_stream, int n_row, double n_context)
{
    double rows = m->row_us * (n_row + n_stream), us = fmax(m->floor_us, rows) + m->seq_us * n_stream;
    us += m->far_us * (n_context + (double)n_stream * m->stream_context) / 4096 + (n_row ? m->chunk_us : 0);
    return us * (1 - m->noise + 2 * m->noise * (double)qn_rng_unit(qn_rng64(5, draw++, 0)));
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static double percentile(double *x, int n, double p)
{
    qsort(x, (size_t)n, sizeof *x, ascending);
    return x[(int)(p * (n - 1))];
}

/* p99 of the gaps with the prompt over p99 without; *slow: time of the prompt over its time alone. */
static double gaps(const struct machine *m, int n_prompt, double target_us, double *slow, double *longest)
{
    static double with[200000], without[2000];
    struct qn_cost c = {0};
    struct qn_cost_step s;
    double alone_us = 0, sum_us = 0;
    int n_gap = 0;
    bool had_prefill = false;
    for (int at = 0; at < n_prompt; at += 512) { /* a prompt alone, before */
        s = (struct qn_cost_step){.n_row = 512, .n_context = 512.0 * (at + 256)};
        s.took_us = step_us(m, 0, 512, s.n_context);
        alone_us += s.took_us;
        if (at < 4096) qn_cost_learn(&c, &s);
    }
    for (int i = 0; i < 2000; i++) {
        s = (struct qn_cost_step){.n_decode = m->n_stream[1]};
        s.took_us = without[i] = step_us(m, s.n_decode, 0, 0);
        if (i < 20) qn_cost_learn(&c, &s);
    }
    for (int at = 0, i = 0; at < n_prompt; i++) {
        int n_stream = m->n_stream[at > n_prompt / 2], n = 0;
        double left_us = qn_cost_budget(&c, n_stream, target_us), used_us;
        if (left_us > 0) n = qn_cost_fit(&c, left_us, at, 512, &used_us);
        s = (struct qn_cost_step){.n_decode = n_stream, .n_row = n, .n_context = n * (at + 0.5 * n)};
        s.took_us = step_us(m, n_stream, n, s.n_context) + (!n && had_prefill ? m->cold_us : 0);
        if (i % 4000 < m->busy) s.took_us *= 2.5;
        had_prefill = n > 0;
        sum_us += s.took_us;
        bool counts = at > n_prompt / 2 || m->n_stream[0] == m->n_stream[1];
        if (counts && n_gap < (int)QN_COUNT(with) && i % 4000 >= m->busy) with[n_gap++] = s.took_us;
        qn_cost_learn(&c, &s);
        at += n;
    }
    *slow = sum_us / alone_us;
    double p99 = percentile(with, n_gap, 0.99);
    *longest = with[n_gap - 1] / percentile(without, 2000, 0.5);
    return p99 / percentile(without, 2000, 0.99);
}

static void test_long_prompt_beside_streams(void **state)
{
    (void)state;
    static const struct machine machines[] = {
        {"bandwidth bound, four streams", 20000, 1500, 500, 1500, 1000, 0.05, {4, 4}, 500},
        {"attention costs more than the rest", 20000, 1500, 500, 2200, 1000, 0.05, {4, 4}, 500},
        {"compute bound, one stream", 2000, 900, 300, 60, 500, 0.05, {1, 1}, 500},
        {"small model", 300, 12, 20, 15, 30, 0.1, {4, 4}, 500},
        {"streams leave", 20000, 1500, 1500, 1500, 1000, 0.05, {16, 2}, 4000},
        {"streams come", 20000, 1500, 1500, 1500, 1000, 0.05, {2, 16}, 4000},
        {"small model, cold behind prefill", 800, 20, 30, 40, 300, 0.1, {4, 4}, 500, 1500},
        {"small model, busy now and then", 800, 100, 30, 60, 100, 0.1, {4, 4}, 500, .busy = 300},
        {"accelerator", 12000, 20, 300, 60, 200, 0.03, {16, 16}, 8000},
    };
    for (size_t i = 0; i < QN_COUNT(machines); i++) {
        double slow, longest, ratio = gaps(&machines[i], 32768, 0, &slow, &longest);
        print_message("%-36s p99 gap %.2f times that without, longest %.2f; the prompt takes %.1f times as "
                      "long as alone\n",
                      machines[i].name, ratio, longest, slow);
        assert_true(ratio < 2.0);
        assert_true(slow < 6.0); /* nor does it starve */
    }
}

/* With a target of the user's: kept where it can be, and prefill goes on where it cannot. */
static void test_target(void **state)
{
    (void)state;
    static const struct machine m = {"", 20000, 1500, 500, 1500, 1000, 0.02, {4, 4}, 500};
    double slow, longest, base = step_us(&m, 4, 0, 0);
    double ratio = gaps(&m, 16384, 80000, &slow, &longest);
    assert_true(ratio * base < 90000 && ratio * base > 60000);
    assert_true(gaps(&m, 16384, 1000, &slow, &longest) < 1.6);
    assert_true(slow < 12);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_long_prompt_beside_streams),
        cmocka_unit_test(test_target),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
