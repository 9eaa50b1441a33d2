/* Metrics: the text dashboards read.
 * SPDX-License-Identifier: Apache-2.0 */
#include "support/test.h"

#include "base/metric.h"

static void test_text(void **state)
{
    (void)state;
    static const double bounds[] = {0.1, 1, 10};
    struct qn_metrics *m = qn_metrics_create();
    struct qn_metric *a = qn_metrics_add(m, &(struct qn_metric_spec){QN_METRIC_COUNTER, "quern_a_total",
                                                                     "vllm:a_total", "A.", "r=\"1\"", 0, 0});
    struct qn_metric *b = qn_metrics_add(m, &(struct qn_metric_spec){QN_METRIC_COUNTER, "quern_a_total",
                                                                     "vllm:a_total", "A.", "r=\"2\"", 0, 0});
    struct qn_metric *g =
        qn_metrics_add(m, &(struct qn_metric_spec){QN_METRIC_GAUGE, "quern_g", NULL, "G.", "", 0, 0});
    struct qn_metric *h = qn_metrics_add(
        m, &(struct qn_metric_spec){QN_METRIC_HISTOGRAM, "quern_h", NULL, "H.", "x=\"y\"", bounds, 3});
    qn_metric_inc(a, 2);
    qn_metric_inc(b, 1);
    qn_metric_set(g, 0.25);
    qn_metric_observe(h, 0.1);
    qn_metric_observe(h, 5);
    qn_metric_observe(h, 50);
    struct qn_buf out = QN_BUF_INIT(1 << 16);
    assert_int_equal(qn_metrics_write(m, &out), QN_OK);
    assert_string_equal(qn_buf_str(&out), "# HELP quern_a_total A.\n# TYPE quern_a_total counter\n"
                                          "quern_a_total{r=\"1\"} 2\nquern_a_total{r=\"2\"} 1\n"
                                          "# HELP vllm:a_total A.\n# TYPE vllm:a_total counter\n"
                                          "vllm:a_total{r=\"1\"} 2\nvllm:a_total{r=\"2\"} 1\n"
                                          "# HELP quern_g G.\n# TYPE quern_g gauge\nquern_g 0.25\n"
                                          "# HELP quern_h H.\n# TYPE quern_h histogram\n"
                                          "quern_h_bucket{x=\"y\",le=\"0.1\"} 1\n"
                                          "quern_h_bucket{x=\"y\",le=\"1.0\"} 1\n"
                                          "quern_h_bucket{x=\"y\",le=\"10.0\"} 2\n"
                                          "quern_h_bucket{x=\"y\",le=\"+Inf\"} 3\n"
                                          "quern_h_sum{x=\"y\"} 55.1\nquern_h_count{x=\"y\"} 3\n");
    assert_int_equal(qn_metric_count(h), 3);
    /* counted elsewhere */
    qn_metric_set_counts(h, (const uint64_t[]){4, 0, 1, 2}, 107);
    assert_int_equal(qn_metric_count(h), 7);
    qn_buf_clear(&out);
    assert_int_equal(qn_metrics_write(m, &out), QN_OK);
    assert_non_null(strstr(qn_buf_str(&out), "quern_h_bucket{x=\"y\",le=\"0.1\"} 4\n"
                                             "quern_h_bucket{x=\"y\",le=\"1.0\"} 4\n"
                                             "quern_h_bucket{x=\"y\",le=\"10.0\"} 5\n"
                                             "quern_h_bucket{x=\"y\",le=\"+Inf\"} 7\n"
                                             "quern_h_sum{x=\"y\"} 107\nquern_h_count{x=\"y\"} 7\n"));
    qn_buf_free(&out);
    qn_metrics_free(m);
}

static void test_labels_are_escaped(void **state)
{
    (void)state;
    struct qn_buf out = QN_BUF_INIT(100);
    qn_metric_escape(&out, "a\"b\\c\nd");
    assert_string_equal(qn_buf_str(&out), "a\\\"b\\\\c\\nd");
    qn_buf_free(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_text),
        cmocka_unit_test(test_labels_are_escaped),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
