/* Metrics: counters, gauges and histograms, written as Prometheus text.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/metric.h"

#include <math.h>
#include <stdatomic.h>

#include "base/json.h"
#include "base/mem.h"

struct qn_metric {
    struct qn_metric *next;
    enum qn_metric_kind kind;
    char *name, *alias, *help, *labels;
    const double *bounds;
    int n_bound;
    _Atomic uint64_t value;    /* bits of a double; of a histogram: the sum */
    _Atomic uint64_t count;    /* of a histogram: observations */
    _Atomic uint64_t *buckets; /* [n_bound + 1], not cumulated */
};

struct qn_metrics {
    struct qn_metric *first, **last;
};

static uint64_t to_bits(double x)
{
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static double from_bits(uint64_t bits)
{
    double x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

struct qn_metrics *qn_metrics_create(void)
{
    struct qn_metrics *m = xcalloc(1, sizeof *m);
    m->last = &m->first;
    return m;
}

void qn_metrics_free(struct qn_metrics *m)
{
    if (!m) return;
    for (struct qn_metric *x = m->first, *next; x; x = next) {
        next = x->next;
        free(x->name);
        free(x->alias);
        free(x->help);
        free(x->labels);
        free((void *)x->buckets);
        free(x);
    }
    free(m);
}

struct qn_metric *qn_metrics_add(struct qn_metrics *m, const struct qn_metric_spec *spec)
{
    struct qn_metric *x = xcalloc(1, sizeof *x);
    x->kind = spec->kind;
    x->name = xstrdup(spec->name);
    x->alias = spec->alias ? xstrdup(spec->alias) : NULL;
    x->help = xstrdup(spec->help ? spec->help : "");
    x->labels = xstrdup(spec->labels ? spec->labels : "");
    x->bounds = spec->bounds;
    x->n_bound = spec->n_bound;
    if (x->kind == QN_METRIC_HISTOGRAM) x->buckets = xcalloc((size_t)x->n_bound + 1, sizeof *x->buckets);
    *m->last = x;
    m->last = &x->next;
    return x;
}

void qn_metric_inc(struct qn_metric *x, double by)
{
    uint64_t old = atomic_load_explicit(&x->value, memory_order_relaxed);
    while (!atomic_compare_exchange_weak_explicit(&x->value, &old, to_bits(from_bits(old) + by),
                                                  memory_order_relaxed, memory_order_relaxed)) {
    }
}

void qn_metric_set(struct qn_metric *x, double to)
{
    atomic_store_explicit(&x->value, to_bits(to), memory_order_relaxed);
}

void qn_metric_observe(struct qn_metric *x, double value)
{
    int at = 0;
    while (at < x->n_bound && value > x->bounds[at]) at++;
    atomic_fetch_add_explicit(&x->buckets[at], 1, memory_order_relaxed);
    qn_metric_inc(x, value);
    atomic_fetch_add_explicit(&x->count, 1, memory_order_release);
}

void qn_metric_set_counts(struct qn_metric *x, const uint64_t *counts, double sum)
{
    uint64_t n = 0;
    for (int i = 0; i <= x->n_bound; i++) {
        atomic_store_explicit(&x->buckets[i], counts[i], memory_order_relaxed);
        n += counts[i];
    }
    qn_metric_set(x, sum);
    atomic_store_explicit(&x->count, n, memory_order_release);
}

double qn_metric_value(const struct qn_metric *x)
{
    return from_bits(atomic_load_explicit(&x->value, memory_order_relaxed));
}

uint64_t qn_metric_count(const struct qn_metric *x)
{
    return atomic_load_explicit(&x->count, memory_order_relaxed);
}

int qn_metric_escape(struct qn_buf *out, const char *s)
{
    for (; *s; s++) {
        if (*s == '\n')
            qn_buf_puts(out, "\\n");
        else {
            if (*s == '\\' || *s == '"') qn_buf_putc(out, '\\');
            qn_buf_putc(out, *s);
        }
    }
    return out->failed;
}

static void write_number(struct qn_buf *out, double x)
{
    if (x == floor(x) && fabs(x) < 1e15)
        qn_buf_printf(out, "%.0f", x);
    else if (isinf(x))
        qn_buf_puts(out, x > 0 ? "+Inf" : "-Inf");
    else
        qn_json_write_double(out, x);
}

static void write_series(struct qn_buf *out, const struct qn_metric *x, const char *name)
{
    const char *brace = x->labels[0] ? "{" : "", *end = x->labels[0] ? "}" : "";
    if (x->kind != QN_METRIC_HISTOGRAM) {
        qn_buf_printf(out, "%s%s%s%s ", name, brace, x->labels, end);
        write_number(out, qn_metric_value(x));
        qn_buf_putc(out, '\n');
        return;
    }
    /* count is the sum of the buckets as read here, so that the text is consistent with itself */
    uint64_t sum = 0;
    for (int i = 0; i <= x->n_bound; i++) {
        sum += atomic_load_explicit(&x->buckets[i], memory_order_relaxed);
        qn_buf_printf(out, "%s_bucket{%s%sle=\"", name, x->labels, x->labels[0] ? "," : "");
        if (i < x->n_bound)
            qn_json_write_double(out, x->bounds[i]);
        else
            qn_buf_puts(out, "+Inf");
        qn_buf_printf(out, "\"} %" PRIu64 "\n", sum);
    }
    qn_buf_printf(out, "%s_sum%s%s%s ", name, brace, x->labels, end);
    write_number(out, qn_metric_value(x));
    qn_buf_printf(out, "\n%s_count%s%s%s %" PRIu64 "\n", name, brace, x->labels, end, sum);
}

static void write_family(struct qn_buf *out, const struct qn_metric *first, const struct qn_metric *end,
                         bool alias)
{
    static const char *const kinds[] = {"counter", "gauge", "histogram"};
    const char *name = alias ? first->alias : first->name;
    qn_buf_printf(out, "# HELP %s %s\n# TYPE %s %s\n", name, first->help, name, kinds[first->kind]);
    for (const struct qn_metric *x = first; x != end; x = x->next)
        write_series(out, x, alias ? x->alias : x->name);
}

int qn_metrics_write(const struct qn_metrics *m, struct qn_buf *out)
{
    for (const struct qn_metric *x = m->first, *end; x; x = end) {
        for (end = x->next; end && !strcmp(end->name, x->name);) end = end->next;
        write_family(out, x, end, false);
        if (x->alias) write_family(out, x, end, true);
    }
    return out->failed;
}
