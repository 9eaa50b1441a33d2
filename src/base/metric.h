/* Metrics: counters, gauges and histograms, written as Prometheus text.
 *
 * A registry is made at start and filled before threads use it; afterwards its list is immutable. Values are
 * atomics: any thread may change and read them. A metric may have a second name (an alias that dashboards
 * look for) and is then written under both.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_METRIC_H
#define QN_METRIC_H

#include "base/buf.h"

struct qn_metrics; /* a registry */
struct qn_metric;  /* one series: a name with one set of labels */

enum qn_metric_kind { QN_METRIC_COUNTER, QN_METRIC_GAUGE, QN_METRIC_HISTOGRAM };

struct qn_metric_spec {
    enum qn_metric_kind kind;
    const char *name, *alias; /* alias or NULL */
    const char *help;
    const char *labels;   /* the text between the braces, "model_name=\"m\",engine=\"0\"", or "" */
    const double *bounds; /* HISTOGRAM: [n_bound] upper bounds, rising; +Inf is added */
    int n_bound;
};

struct qn_metrics *qn_metrics_create(void);
void qn_metrics_free(struct qn_metrics *m);
/* Copies the texts, not the bounds. Series of one name must be added one after the other. */
struct qn_metric *qn_metrics_add(struct qn_metrics *m, const struct qn_metric_spec *spec);
int qn_metrics_write(const struct qn_metrics *m, struct qn_buf *out);

void qn_metric_inc(struct qn_metric *x, double by); /* counters and gauges */
void qn_metric_set(struct qn_metric *x, double to); /* gauges, and counters kept elsewhere */
/* Of a histogram kept elsewhere: how many values each bound has, the last above all; their sum. */
void qn_metric_set_counts(struct qn_metric *x, const uint64_t *counts, double sum);
void qn_metric_observe(struct qn_metric *x, double value);
double qn_metric_value(const struct qn_metric *x); /* of a histogram: its sum */
uint64_t qn_metric_count(const struct qn_metric *x);

/* Appends s as the inside of a label value. */
int qn_metric_escape(struct qn_buf *out, const char *s);

#endif
