/* Automatic depth against the best fixed one, on step costs that are replayed.
 * SPDX-License-Identifier: Apache-2.0 */
#include "support/test.h"

#include "base/rng.h"
#include "engine/spec.h"

struct cost {
    const char *name;
    double base_us, row_us, draft_us; /* of a step, a decode row, a draft made */
    int accept_percent[2];            /* in the first and the second half */
    int n_seq;
};

/* Tokens a second over n steps at a fixed depth, or automatically (-1). */
static double run(const struct cost *c, int fixed, int n_step)
{
    struct qn_spec spec;
    struct qn_seq seq = {0};
    struct qn_batch_part part[16];
    int32_t accepted[16];
    struct qn_batch b = {.part = part, .result = {.n_accepted = accepted}};
    qn_spec_init(&spec, true, fixed);
    double us = 0, tokens = 0;
    int had = 0; /* drafts there are for this step */
    uint64_t draw = 0;
    for (int i = 0; i < n_step; i++) {
        int next = qn_spec_depth(&spec, c->n_seq, c->n_seq * 500);
        b.depth = next;
        b.step.n_decode = b.step.n_seq = c->n_seq;
        for (int k = 0; k < c->n_seq; k++) {
            part[k] = (struct qn_batch_part){.seq = &seq, .is_decode = true, .n_draft = had};
            accepted[k] = 0;
            int percent = c->accept_percent[i >= n_step / 2];
            while (accepted[k] < had && (int)(qn_rng64(1, draw++, 0) % 100) < percent) accepted[k]++;
            tokens += 1 + accepted[k];
        }
        double took = c->base_us + c->row_us * c->n_seq * (1 + had) + c->draft_us * next;
        took *= 0.97 + 0.06 * (double)qn_rng_unit(qn_rng64(2, draw++, 0));
        us += took;
        qn_spec_learn(&spec, &b, (int64_t)took);
        had = next;
    }
    return tokens / us * 1e6;
}

static void test_auto_is_near_the_best(void **state)
{
    (void)state;
    static const struct cost costs[] = {
        {"bandwidth bound, good drafts", 20000, 200, 500, {85, 85}, 1},
        {"bandwidth bound, bad drafts", 20000, 200, 500, {10, 10}, 1},
        {"compute bound, good drafts", 2000, 18000, 900, {85, 85}, 1},
        {"compute bound, bad drafts", 2000, 18000, 900, {20, 20}, 4},
        {"between, four streams", 15000, 1500, 800, {70, 70}, 4},
        {"sixteen streams", 15000, 900, 800, {75, 75}, 16},
        {"content changes to bad", 20000, 800, 600, {90, 5}, 1},
        {"content changes to good", 20000, 800, 600, {5, 90}, 1},
    };
    for (size_t i = 0; i < QN_COUNT(costs); i++) {
        double best = 0, off = 0, got = run(&costs[i], -1, 20000);
        int at = 0;
        for (int d = 0; d <= QN_MAX_DRAFT; d++) {
            double r = run(&costs[i], d, 20000);
            if (d == 0) off = r;
            if (r > best) {
                best = r;
                at = d;
            }
        }
        print_message("%-30s off %.1f best %.1f (depth %d) auto %.1f tokens/s: %.3f of the best\n",
                      costs[i].name, off, best, at, got, got / best);
        assert_true(got >= 0.97 * best);
        assert_true(got >= 0.98 * off);
    }
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
    qn_spec_lookup(&spec, &seq, 5);
    assert_true(seq.n_draft > 0 && seq.draft_is_lookup);
    for (int i = 0; i < seq.n_draft; i++) assert_int_equal(seq.draft[i], 14 + i);
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
        cmocka_unit_test(test_lookup_finds_repeats),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
