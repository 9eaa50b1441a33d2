/* Automatic depth against the best fixed one, on step costs that are replayed. Time is simulated, so the
 * figures are the same everywhere. SPDX-License-Identifier: Apache-2.0 */
#include "support/test.h"

#include <math.h>

#include "base/rng.h"
#include "engine/spec.h"

#define N_STEP      6000
#define LOOKUP_ROWS 4

struct cost {
    const char *name;
    double base_us, row_us, draft_us; /* of a step, a decode row, a draft made */
    double keep_us;                   /* the draft layer's KV at depth 0 */
    double draft_row_us;              /* of each sequence, a draft made */
    int accept[2][3];                 /* percent at draft 1, 2, later; in the first and the second half */
    int n_seq[2];
    double slow;        /* the machine is this much slower half of the time */
    bool wobble;        /* one stream more half of the time */
    int looked_up;      /* percent of stream steps whose drafts are LOOKUP_ROWS looked-up ones, all right */
    double gap_us;      /* between two steps */
    double first_us;    /* that the first draft takes more than those behind it */
    bool is_slow_first; /* the first steps without drafts take twice as long */
    bool is_noisy;      /* steps take up to a quarter more or less, one stretch of ten in ten twice as long */
};

struct bench {
    const struct cost *cost;
    struct qn_spec spec;
    double us[2], tokens[2]; /* in each half */
    int n_step_at[QN_MAX_DRAFT + 1];
    uint64_t draw;
};

static double unit(struct bench *b)
{
    return (double)qn_rng_unit(qn_rng64(1, b->draw++, 0));
}

/* n_step steps at a fixed depth, or automatically (-1), from the first step on. */
static void run_steps(const struct cost *c, int fixed, int n_step, struct bench *out)
{
    struct bench b = {.cost = c};
    const struct qn_request_params params = {.mtp = -1};
    struct qn_seq seq = {.params = &params};
    struct qn_batch_part part[17];
    int32_t accepted[17];
    struct qn_batch batch = {.part = part, .result = {.n_accepted = accepted}};
    qn_spec_init(&b.spec, true, fixed);
    int had = 0; /* drafts there are for this step */
    for (int i = 0; i < n_step; i++) {
        int half = i >= N_STEP / 2, n_seq = c->n_seq[half] + (c->wobble && i % 20 < 10);
        bool is_new = i % (c->wobble ? 20 : 400) == 0; /* a request has just come: its draft KV is whole */
        int next = qn_spec_depth(&b.spec, n_seq, (int64_t)n_seq * (300 + i % 400), is_new);
        bool keeps = qn_spec_wants_mtp(&b.spec);
        batch.depth = next;
        batch.keeps_mtp = keeps;
        batch.step.n_decode = batch.step.n_seq = n_seq;
        int n_row = 0;
        for (int k = 0; k < n_seq; k++) {
            bool is_lookup = 100 * unit(&b) < c->looked_up;
            int n_draft = is_lookup ? LOOKUP_ROWS : had;
            part[k] = (struct qn_batch_part){
                .seq = &seq, .is_decode = true, .n_draft = n_draft, .is_lookup = is_lookup};
            accepted[k] = is_lookup ? n_draft : 0;
            while (accepted[k] < n_draft && 100 * unit(&b) < c->accept[half][QN_MIN(accepted[k], 2)])
                accepted[k]++;
            b.tokens[half] += 1 + accepted[k];
            n_row += 1 + n_draft;
        }
        double took = c->base_us + c->row_us * n_row;
        took += (c->draft_us + c->draft_row_us * n_seq) * next + (keeps && !next ? c->keep_us : 0);
        took += next ? c->first_us : 0;
        if (c->is_slow_first && !next && b.n_step_at[0] < 8) took *= 2;
        if (c->is_noisy && qn_rng64(2, (uint64_t)i / 10, 0) % 100 < 10) took *= 2;
        took *= (c->is_noisy ? 0.75 + 0.5 * unit(&b) : 0.96 + 0.08 * unit(&b)) * (i / 500 % 2 ? c->slow : 1);
        b.us[half] += took + c->gap_us;
        b.n_step_at[next]++;
        qn_spec_learn(&b.spec, &batch, (int64_t)took, (int64_t)c->gap_us);
        had = next;
    }
    *out = b;
}

static void run(const struct cost *c, int fixed, struct bench *out)
{
    run_steps(c, fixed, N_STEP, out);
}

static void test_auto_is_near_the_best(void **state)
{
    (void)state;
    static const struct cost costs[] = {
        {"weights dominate, good drafts", 20000, 200, 500, 600, 0, {{85, 85, 85}, {85, 85, 85}}, {1, 1}, 1},
        {"weights dominate, bad drafts", 20000, 200, 500, 600, 0, {{10, 5, 5}, {10, 5, 5}}, {1, 1}, 1},
        {"weights dominate, none accepted", 20000, 200, 500, 600, 0, {{0, 0, 0}, {0, 0, 0}}, {1, 1}, 1},
        {"a large head, none accepted", 24000, 9000, 12000, 1200, 0, {{0, 0, 0}, {0, 0, 0}}, {1, 1}, 1},
        {"a large head, first draft good", 24000, 6000, 8000, 1200, 0, {{84, 29, 8}, {84, 29, 8}}, {1, 1}, 1},
        {"a large head, four streams", 24000, 6000, 6000, 1200, 2000, {{84, 29, 8}, {84, 29, 8}}, {4, 4}, 1},
        {"arithmetic dominates, good drafts",
         2000,
         18000,
         900,
         500,
         0,
         {{85, 85, 85}, {85, 85, 85}},
         {1, 1},
         1},
        {"arithmetic dominates, bad drafts",
         2000,
         18000,
         900,
         500,
         0,
         {{20, 20, 20}, {20, 20, 20}},
         {4, 4},
         1},
        {"between, four streams", 15000, 1500, 800, 500, 100, {{70, 70, 70}, {70, 70, 70}}, {4, 4}, 1},
        {"four streams, none accepted", 15000, 1500, 800, 500, 100, {{0, 0, 0}, {0, 0, 0}}, {4, 4}, 1},
        {"four or five streams, none accepted",
         15000,
         1500,
         800,
         500,
         100,
         {{0, 0, 0}, {0, 0, 0}},
         {4, 4},
         1,
         true},
        {"sixteen streams, good drafts",
         15000,
         900,
         800,
         500,
         100,
         {{75, 75, 75}, {75, 75, 75}},
         {16, 16},
         1},
        {"sixteen streams, bad drafts", 15000, 900, 800, 500, 100, {{15, 5, 5}, {15, 5, 5}}, {16, 16}, 1},
        {"sixteen streams, lookup beside bad drafts",
         1000,
         40,
         400,
         100,
         30,
         {{20, 20, 20}, {20, 20, 20}},
         {16, 16},
         1,
         false,
         60},
        {"sixteen streams, lookup beside good drafts",
         1000,
         10,
         100,
         50,
         5,
         {{85, 85, 85}, {85, 85, 85}},
         {16, 16},
         1,
         false,
         30},
        {"one stream, lookup beside bad drafts",
         200,
         40,
         100,
         30,
         0,
         {{20, 20, 20}, {20, 20, 20}},
         {1, 1},
         1,
         false,
         80},
        {"one stream, noisy, drafts nearly pay", .base_us = 80, .row_us = 100, .draft_us = 100, .keep_us = 10,
         .accept = {{75, 75, 75}, {75, 75, 75}}, .n_seq = {1, 1}, .slow = 1, .is_noisy = true},
        {"one stream, noisy, drafts pay", .base_us = 80, .row_us = 100, .draft_us = 40, .keep_us = 10,
         .accept = {{95, 5, 75}, {95, 5, 75}}, .n_seq = {1, 1}, .slow = 1, .is_noisy = true},
        {"one stream, noisy, bad drafts", .base_us = 80, .row_us = 100, .draft_us = 60, .keep_us = 10,
         .accept = {{20, 20, 20}, {20, 20, 20}}, .n_seq = {1, 1}, .slow = 1, .is_noisy = true},
        {"16 streams, noisy, drafts nearly pay", .base_us = 300, .row_us = 70, .draft_us = 100,
         .draft_row_us = 10, .keep_us = 10, .accept = {{75, 75, 75}, {75, 75, 75}}, .n_seq = {16, 16},
         .slow = 1, .is_noisy = true},
        {"16 streams, noisy, good drafts", .base_us = 1000, .row_us = 40, .draft_us = 100, .draft_row_us = 10,
         .keep_us = 10, .accept = {{75, 75, 75}, {75, 75, 75}}, .n_seq = {16, 16}, .slow = 1,
         .is_noisy = true},
        {"one stream, much passes between steps", .base_us = 60, .row_us = 100, .draft_us = 55, .keep_us = 10,
         .accept = {{85, 85, 85}, {85, 85, 85}}, .n_seq = {1, 1}, .slow = 1, .gap_us = 100},
        {"16 streams, the first draft is dear", .base_us = 400, .row_us = 70, .draft_us = 100, .keep_us = 50,
         .first_us = 1100, .accept = {{85, 85, 85}, {85, 85, 85}}, .n_seq = {16, 16}, .slow = 1,
         .is_slow_first = true},
        {"content changes to bad", 20000, 800, 600, 600, 0, {{90, 90, 90}, {5, 5, 5}}, {1, 1}, 1},
        {"content changes to good", 20000, 800, 600, 600, 0, {{5, 5, 5}, {90, 90, 90}}, {1, 1}, 1},
        {"streams come", 20000, 3000, 800, 600, 200, {{60, 50, 40}, {60, 50, 40}}, {1, 16}, 1},
        {"streams leave", 20000, 3000, 800, 600, 200, {{60, 50, 40}, {60, 50, 40}}, {16, 1}, 1},
        {"the machine is busy now and then",
         20000,
         2000,
         2000,
         600,
         0,
         {{80, 60, 40}, {80, 60, 40}},
         {1, 1},
         1.5},
    };
    int n_bad = 0;
    for (size_t i = 0; i < QN_COUNT(costs); i++) {
        const struct cost *c = &costs[i];
        struct bench got, b;
        double best[2] = {0}, off[2] = {1, 1}, best_us = 0, off_us = 0; /* for the same tokens */
        int at[2] = {0};
        run(c, -1, &got);
        for (int d = 0; d <= QN_MAX_DRAFT; d++) {
            run(c, d, &b);
            for (int half = 0; half < 2; half++) {
                double rate = b.tokens[half] / b.us[half];
                if (d == 0) off[half] = rate;
                if (rate > best[half]) {
                    best[half] = rate;
                    at[half] = d;
                }
            }
        }
        for (int half = c->is_slow_first; half < 2; half++) { /* what was mistaken has to be found by then */
            best_us += got.tokens[half] / best[half];
            off_us += got.tokens[half] / off[half];
        }
        double us = (c->is_slow_first ? 0 : got.us[0]) + got.us[1], of_best = best_us / us,
               of_off = off_us / us;
        print_message("%-42s best at %d, then %d; auto is %.3f of the best, %.3f of off; steps at", c->name,
                      at[0], at[1], of_best, of_off);
        for (int d = 0; d <= QN_MAX_DRAFT; d++) print_message(" %d", got.n_step_at[d]);
        print_message("\n");
        bool is_steady = at[0] == at[1]; /* else the best depth has to be found twice */
        n_bad += of_best < (c->is_noisy ? 0.95
                            : is_steady ? 0.98
                                        : 0.97) ||
                 of_off < (c->is_noisy ? 0.97 : 0.98);
    }
    assert_int_equal(n_bad, 0);
}

/* The first answer of a server pays for finding out: with drafts that do not pay no more than a twentieth.
 * Costs as measured with a 0.8B model on two cores, where a row costs nearly as much as the weights. */
static void test_first_answer(void **state)
{
    (void)state;
    static const struct cost costs[] = {
        {"one stream", 44500, 12500, 42500, 1200, 0, {{20, 20, 20}, {20, 20, 20}}, {1, 1}, 1},
        {"four streams", 20000, 12500, 30000, 1200, 0, {{20, 20, 20}, {20, 20, 20}}, {4, 4}, 1},
        {"sixteen streams", 20000, 8100, 20000, 1200, 0, {{20, 20, 20}, {20, 20, 20}}, {16, 16}, 1},
    };
    for (size_t i = 0; i < QN_COUNT(costs); i++) {
        struct bench got, off;
        run_steps(&costs[i], -1, 150, &got);
        run_steps(&costs[i], 0, 150, &off);
        double of_off = got.tokens[0] / got.us[0] / (off.tokens[0] / off.us[0]);
        print_message("%-16s the first 150 steps: %.3f of off\n", costs[i].name, of_off);
        assert_true(of_off >= 0.95);
    }
}

/* Where nothing is accepted, the draft layer is left alone: hardly a step has anything of it. */
static void test_sleeps(void **state)
{
    (void)state;
    static const struct cost c = {"", 24000, 9000, 12000, 1200, 0, {{0, 0, 0}, {0, 0, 0}}, {1, 1}, 1};
    struct bench b;
    run(&c, -1, &b);
    assert_true(b.spec.is_asleep && !qn_spec_wants_mtp(&b.spec));
    assert_true(b.n_step_at[0] > N_STEP * 99 / 100);
}

static void test_lookup_finds_repeats(void **state)
{
    (void)state;
    int32_t tok[40];
    struct qn_request_params params = {.mtp = -1};
    struct qn_seq seq = {.params = &params, .tok = tok, .lookup_rate = 0.9};
    struct qn_spec spec;
    qn_spec_init(&spec, false, -1);
    for (int i = 0; i < 30; i++) tok[i] = i;
    for (int i = 0; i < 4; i++) tok[30 + i] = 10 + i;
    seq.n_tok = 34;
    qn_spec_depth(&spec, 1, 34, 1);
    qn_spec_lookup(&spec, &seq, 5);
    assert_true(seq.n_draft > 0 && seq.draft_is_lookup);
    for (int i = 0; i < seq.n_draft; i++) assert_int_equal(seq.draft[i], 14 + i);
    seq.n_draft = 0;
    spec.time[spec.seqs][spec.context][0].us = 20000;
    spec.row[spec.seqs].us = 19000; /* a row costs as much as a step: no drafts that may be wrong */
    qn_spec_lookup(&spec, &seq, 5);
    assert_int_equal(seq.n_draft, 0);
    spec.row[spec.seqs].us = 400;
    qn_spec_lookup(&spec, &seq, 5);
    assert_true(seq.n_draft > 0);
    seq.n_draft = 0;
    seq.lookup_rate = 0.1; /* it was wrong too often here */
    qn_spec_lookup(&spec, &seq, 5);
    assert_int_equal(seq.n_draft, 0);
    qn_map_free(&seq.looked);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_auto_is_near_the_best),
        cmocka_unit_test(test_first_answer),
        cmocka_unit_test(test_sleeps),
        cmocka_unit_test(test_lookup_finds_repeats),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
