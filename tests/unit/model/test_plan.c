/* Memory plan: sums are exact and within the budget, refusals name what fits.
 * SPDX-License-Identifier: Apache-2.0 */
#include "support/test.h"

#include "model/plan.h"

static struct qn_plan_in sizes(void)
{
    return (struct qn_plan_in){.memory = 1000000,
                               .weight_bytes = 400000,
                               .workspace_bytes = 50000,
                               .page_bytes = 1000,
                               .slot_bytes = 20000,
                               .lane_bytes = 3000,
                               .page_tok = 64,
                               .max_context = 65536};
}

static void test_sums(void **state)
{
    (void)state;
    for (int users = 0; users <= 9; users += 3)
        for (int context = 0; context <= 1500; context += 500) {
            struct qn_plan_in in = sizes();
            struct qn_plan p;
            struct qn_err e = {0};
            in.users = users;
            in.context = context;
            if (qn_plan_make(&in, &p, &e)) fail_msg("%d x %d: %s", users, context, e.text);
            if (users) assert_int_equal(p.users, users);
            if (context) assert_int_equal(p.context, context);
            assert_true(p.total_bytes <= in.memory);
            assert_int_equal(p.total_bytes, 450000 + (uint64_t)p.n_page * 1000 + (uint64_t)p.n_slot * 20000 +
                                                (uint64_t)p.n_lane * 3000);
            assert_true(p.n_page >= p.users * ((p.context + 63) / 64));
            assert_true(p.n_slot >= p.users && p.n_lane == p.users && p.context > 0);
        }
}

static void test_edges(void **state)
{
    (void)state;
    struct qn_plan_in in = sizes();
    struct qn_plan p;
    struct qn_err e = {0};
    /* exactly one sequence of one page */
    in.memory = 450000 + 24000;
    in.context = 64;
    assert_int_equal(qn_plan_make(&in, &p, &e), 0);
    assert_int_equal(p.users, 1);
    assert_int_equal(p.total_bytes, in.memory);
    in.memory--;
    assert_int_equal(qn_plan_make(&in, &p, &e), QN_TOOBIG);
    in.memory = 1000; /* less than the weights */
    assert_int_equal(qn_plan_make(&in, &p, &e), QN_TOOBIG);
    in = sizes();
    in.context = 65537;
    assert_int_equal(qn_plan_make(&in, &p, &e), QN_INVAL);
    in.context = 4096;
    in.users = 100;
    assert_int_equal(qn_plan_make(&in, &p, &e), QN_TOOBIG);
    assert_non_null(strstr(e.text, "fit"));
    assert_int_equal(qn_plan_users(&in, 4096), 550000 / (23000 + 64000));
    /* a context alone takes no more sequences than nothing at all does */
    in.memory *= 1000;
    in.users = 0;
    in.context = 4096;
    assert_true(qn_plan_users(&in, 4096) > 100);
    assert_int_equal(qn_plan_make(&in, &p, &e), QN_OK);
    assert_int_equal(p.users, 8);
    /* users as a bound: a plan that does not hold all whole contexts, and one that does not hold all states
     */
    in = sizes();
    in.is_bound = true;
    in.context = 4096;
    in.users = 20;
    assert_int_equal(qn_plan_make(&in, &p, &e), QN_OK);
    assert_int_equal(p.context, 4096);
    assert_true(p.users >= 8 && p.users <= 20 && p.n_page >= 64 && p.n_page < 20 * 64 &&
                p.total_bytes <= in.memory);
    in.users = 1000;
    assert_int_equal(qn_plan_make(&in, &p, &e), QN_OK);
    assert_true(p.users > 1 && p.users < 1000 && p.n_page >= 64 && p.total_bytes <= in.memory);
    in.context = 65536;
    assert_int_equal(qn_plan_make(&in, &p, &e), QN_TOOBIG);
    in.context = 0; /* the context is that of the default; where that is short, fewer have to be asked for */
    assert_int_equal(qn_plan_make(&in, &p, &e), QN_TOOBIG);
    in.users = 8;
    assert_int_equal(qn_plan_make(&in, &p, &e), QN_OK);
    struct qn_plan_in plain = in;
    struct qn_plan q;
    plain.users = 0;
    assert_int_equal(qn_plan_make(&plain, &q, &e), QN_OK);
    assert_int_equal(p.context, q.context);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_sums), cmocka_unit_test(test_edges)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
