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
    int n_layer;    /* every fourth one with attention; 0: the prompt is never cut into slices */
    int n_share;    /* rows of a step that share a reading of their KV; 0: none do */
};

static uint64_t draw;

static double step_us(const struct machine *m, int n_stream, double n_row, double n_context)
{
    double rows = m->row_us * (n_row + n_stream), us = fmax(m->floor_us, rows) + m->seq_us * n_stream;
    us += m->far_us * (n_context + (double)n_stream * m->stream_context) / 4096 + (n_row ? m->chunk_us : 0);
    return us * (1 - m->noise + 2 * m->noise * (double)qn_rng_unit(qn_rng64(5, draw++, 0)));
}

/* A chunk of the prompt on its way through the model in slices, as the scheduler cuts it. */
struct cut {
    struct qn_cost_part part[65], dearest;
    int n_part, n_row, at; /* n_row 0: there is none; at: the part that comes next */
};

static struct cut cut_of(const struct machine *m)
{
    struct cut t = {.n_part = m->n_layer ? m->n_layer + 1 : 0};
    for (int i = 0; i < m->n_layer; i++)
        t.part[i] = (struct qn_cost_part){1.0 / m->n_layer, i % 4 == 3 ? 4.0 / m->n_layer : 0};
    if (m->n_layer) t.dearest = t.part[3];
    return t;
}

/* The next step's share of it, into the step. Returns the rows that are through. */
static int slice(const struct qn_cost *c, struct cut *t, double left_us, int at, struct qn_cost_step *s)
{
    struct qn_cost_part sum = {0};
    for (int first = t->at; t->at < t->n_part; t->at++) {
        double us = qn_cost_slice_us(c, at, t->n_row, t->part[t->at]);
        if (us > left_us && t->at > first) break;
        left_us -= us;
        sum.row += t->part[t->at].row;
        sum.far += t->part[t->at].far;
    }
    s->has_slice = true;
    s->n_row = t->n_row * sum.row;
    s->n_context = t->n_row * (at + 0.5 * t->n_row) * sum.far;
    if (t->at < t->n_part) return 0;
    int n = t->n_row;
    t->n_row = 0;
    return n;
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
    struct cut cut = cut_of(m);
    for (int at = 0; at < n_prompt; at += 512) { /* a prompt alone, before */
        s = (struct qn_cost_step){.n_row = 512, .n_context = 512.0 * (at + 256)};
        s.took_us = step_us(m, 0, 512, s.n_context / QN_MAX(m->n_share, 1));
        alone_us += s.took_us;
        if (at < 4096) qn_cost_learn(&c, &s);
    }
    for (int i = 0; i < 2000; i++) {
        s = (struct qn_cost_step){.n_decode = m->n_stream[1]};
        s.took_us = without[i] = step_us(m, s.n_decode, 0, 0);
        if (i < 20) qn_cost_learn(&c, &s);
    }
    for (int at = 0, i = 0; at < n_prompt; i++) {
        int n_stream = m->n_stream[at > n_prompt / 2], n = 0, most = QN_MIN(512, n_prompt - at), n_together;
        double left_us = qn_cost_budget(&c, n_stream, target_us), used_us;
        if (left_us > 0 && !cut.n_row) n = qn_cost_fit(&c, left_us, at, most, &used_us);
        if (cut.n_part && n && n < most && qn_cost_slices(&c, left_us, at)) {
            cut.n_row = qn_cost_fit_slice(&c, left_us, at, most, cut.dearest);
            cut.at = 0;
        }
        s = (struct qn_cost_step){.n_decode = n_stream, .n_row = n, .n_context = n * (at + 0.5 * n)};
        n_together = QN_MAX(cut.n_row, n);
        if (left_us > 0 && cut.n_row) n = slice(&c, &cut, left_us, at, &s);
        double shared = s.n_context / QN_CLAMP(n_together, 1, QN_MAX(m->n_share, 1));
        s.took_us = step_us(m, n_stream, s.n_row, shared) + (s.n_row <= 0 && had_prefill ? m->cold_us : 0);
        if (i % 4000 < m->busy) s.took_us *= 2.5;
        had_prefill = s.n_row > 0;
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
        {"small weights, in slices", 200, 30, 120, 160, 30, 0.05, {4, 4}, 500, .n_layer = 8, .n_share = 2},
        {"bandwidth bound, in slices", 20000, 1500, 500, 1500, 1000, 0.05, {4, 4}, 500, .n_layer = 24},
        {"accelerator, in slices",
         12000,
         20,
         300,
         60,
         200,
         0.03,
         {16, 16},
         8000,
         .n_layer = 60,
         .n_share = 16},
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

/* Where the KV of one row is more than all weights, one row a step is too much: what slices are for. */
static void test_slices_keep_the_target(void **state)
{
    (void)state;
    struct machine m = {"", 200, 30, 120, 160, 30, 0.05, {4, 4}, 500};
    double slow, longest, whole = gaps(&m, 32768, 0, &slow, &longest);
    m.n_layer = 8;
    double cut = gaps(&m, 32768, 0, &slow, &longest);
    print_message("p99 gap %.2f times that without, %.2f in slices\n", whole, cut);
    assert_true(whole > 2.2);
    assert_true(cut < 2.0);
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
        cmocka_unit_test(test_slices_keep_the_target),
        cmocka_unit_test(test_target),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
