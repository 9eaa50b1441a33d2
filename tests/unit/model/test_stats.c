/* Statistics of activations: factors of the moments, rounding that makes up for its errors, scales that fold
 * away. SPDX-License-Identifier: Apache-2.0 */
#include <math.h>

#include "base/hash.h"
#include "model/fold.h"
#include "model/stats.h"
#include "support/test.h"

enum { K = 96, N_ROW = 700, N_OUT = 24 };

static uint64_t state = 5;

static float normal(void)
{
    float sum = 0;
    for (int i = 0; i < 12; i++) sum += (float)(qn_mix64(state++) >> 40) * 0x1p-24f;
    return sum - 6;
}

/* Rows whose columns hang together: a few hidden causes, and sizes that differ by column. */
static float *correlated_rows(void)
{
    float mix[K][8], *x = malloc((size_t)N_ROW * K * sizeof *x);
    for (int k = 0; k < K; k++)
        for (int j = 0; j < 8; j++) mix[k][j] = normal() * (k % 7 ? 1.0f : 6.0f);
    for (int r = 0; r < N_ROW; r++) {
        float cause[8];
        for (int j = 0; j < 8; j++) cause[j] = normal();
        for (int k = 0; k < K; k++) {
            float v = 0.2f * normal();
            for (int j = 0; j < 8; j++) v += cause[j] * mix[k][j];
            x[r * K + k] = v;
        }
    }
    return x;
}

static struct qn_stats *gather(const float *x, struct qn_pool *pool)
{
    struct qn_stats *s = qn_stats_create(K, true, 100, 7);
    qn_stats_add(s, x, 3, pool);
    qn_stats_add(s, x + 3 * K, N_ROW - 3, pool);
    qn_stats_finish(s, pool);
    return s;
}

static void test_factors(void **unused)
{
    (void)unused;
    struct qn_pool *pool = qn_pool_create(2);
    float *x = correlated_rows();
    struct qn_stats *s = gather(x, pool);
    int n;
    assert_int_equal(qn_stats_n_row(s), N_ROW);
    assert_memory_equal(qn_stats_sample(s, &n), x, K * sizeof *x);
    assert_int_equal(n, 100);
    double square = 0;
    for (int r = 0; r < N_ROW; r++) square += (double)x[r * K + 5] * (double)x[r * K + 5];
    assert_true(fabs(square / N_ROW - (double)qn_stats_power(s)[5]) < 1e-4 * square / N_ROW);
    float scale[K];
    for (int k = 0; k < K; k++) scale[k] = 0.5f + (float)(k % 5);
    struct qn_carry *c = qn_stats_carry(s, scale, true);
    assert_non_null(c);
    bool seen[K] = {0};
    for (int i = 0; i < K; i++) {
        assert_false(seen[c->order[i]]);
        seen[c->order[i]] = true;
        if (!i) continue;
        int a = c->order[i - 1], b = c->order[i]; /* by falling power */
        assert_true(qn_stats_power(s)[a] / (scale[a] * scale[a]) >=
                    qn_stats_power(s)[b] / (scale[b] * scale[b]));
    }
    /* u^T u times the (damped) moments is the identity */
    float trust = (float)N_ROW / ((float)N_ROW + K * 0.25f);
    double mean = 0, worst = 0;
    static double m[K][K], inverse[K][K];
    for (int i = 0; i < K; i++)
        for (int j = 0; j < K; j++) {
            double sum = 0;
            int a = c->order[i], b = c->order[j];
            for (int r = 0; r < N_ROW; r++) sum += (double)x[r * K + a] * (double)x[r * K + b];
            m[i][j] = sum / N_ROW / ((double)scale[a] * (double)scale[b]) * (i == j ? 1 : (double)trust);
            if (i == j) mean += m[i][j] / K;
            inverse[i][j] = 0;
            for (int k = 0; k <= QN_MIN(i, j); k++)
                inverse[i][j] += (double)c->u[0][k * K + i] * (double)c->u[0][k * K + j];
        }
    for (int i = 0; i < K; i++) m[i][i] += 0.01 * mean;
    for (int i = 0; i < K; i++)
        for (int j = 0; j < K; j++) {
            double sum = 0;
            for (int k = 0; k < K; k++) sum += inverse[i][k] * m[k][j];
            worst = fmax(worst, fabs(sum - (i == j)));
        }
    assert_true(worst < 0.02);
    qn_carry_free(c);
    qn_stats_free(s);
    qn_pool_free(pool);
    free(x);
}

/* What was put, dequantised. */
struct sink {
    struct qn_tensor t[QN_ENCODE_MAX_TENSOR];
    const float *w;
};

static int rows_of(void *ctx, int first, int n_row, float *out, struct qn_err *e)
{
    (void)e;
    memcpy(out, ((struct sink *)ctx)->w + (size_t)first * K, (size_t)n_row * K * sizeof *out);
    return QN_OK;
}

static int put(void *ctx, int i, size_t offset, const void *data, size_t n_byte, struct qn_err *e)
{
    (void)e;
    memcpy((char *)(uintptr_t)((struct sink *)ctx)->t[i].data + offset, data, n_byte);
    return QN_OK;
}

/* Mean squared error of the outputs over all rows. */
static double output_error(const char *format, const float *w, const float *x, const float *importance,
                           const struct qn_carry *carry, bool is_act_order)
{
    struct sink sink = {.w = w};
    struct qn_err e = {0};
    struct qn_encode enc = {.store = qn_store_find(format),
                            .name = "x",
                            .n_out = N_OUT,
                            .n_in = K,
                            .group = 32,
                            .search = true,
                            .importance = importance,
                            .carry = carry,
                            .is_act_order = is_act_order,
                            .rows = rows_of,
                            .rows_ctx = &sink,
                            .put = put,
                            .put_ctx = &sink};
    int n = qn_encode_declare(enc.store, "x", N_OUT, K, 32, sink.t);
    for (int i = 0; i < n; i++) sink.t[i].data = calloc(sink.t[i].n_byte, 1);
    if (qn_encode_linear(&enc, &e)) fail_msg("%s", e.text);
    struct qn_linear l = {
        .format = enc.store->format, .n_out = N_OUT, .n_in = K, .scale2 = 1, .group = 32, .name = "x"};
    l.weight = sink.t[0];
    l.scale = sink.t[1];
    if (l.format == QN_FMT_INT4_AWQ || l.format == QN_FMT_INT4_GPTQ) l.zeros = sink.t[2];
    if (l.format == QN_FMT_INT4_GPTQ) {
        l.g_idx = sink.t[3];
        l.zero_offset = 1;
    }
    if (l.format == QN_FMT_NVFP4) {
        memcpy(&l.scale2, sink.t[2].data, 4);
        l.group = 16;
    }
    float *q = malloc((size_t)N_OUT * K * sizeof *q);
    assert_int_equal(qn_linear_rows(&l, 0, N_OUT, q, &e), 0);
    double total = 0, weights = 0;
    for (int o = 0; o < N_OUT; o++) {
        for (int r = 0; r < N_ROW; r++) {
            double sum = 0;
            for (int k = 0; k < K; k++)
                sum += ((double)q[o * K + k] - (double)w[o * K + k]) * (double)x[r * K + k];
            total += sum * sum;
        }
        for (int k = 0; k < K; k++) {
            double d = (double)q[o * K + k] - (double)w[o * K + k];
            weights += d * d;
        }
    }
    assert_true(fabs(weights - enc.error) <= 1e-3 * weights); /* the report tells the truth */
    for (int i = 0; i < n; i++) {
        free((void *)(uintptr_t)sink.t[i].data);
        free((void *)(uintptr_t)sink.t[i].name);
    }
    free(q);
    return total / N_ROW / N_OUT;
}

static void test_rounding(void **unused)
{
    (void)unused;
    struct qn_pool *pool = qn_pool_create(1);
    float *x = correlated_rows(), *w = malloc((size_t)N_OUT * K * sizeof *w);
    for (int i = 0; i < N_OUT * K; i++) w[i] = normal() * 0.1f;
    struct qn_stats *s = gather(x, pool);
    struct qn_carry *c = qn_stats_carry(s, NULL, true);
    static const char *const formats[] = {"nvfp4", "fp8",  "fp8-channel", "fp8-tensor",
                                          "awq",   "gptq", "int4-ct",     "int8"};
    for (size_t i = 0; i < QN_COUNT(formats); i++) {
        double plain = output_error(formats[i], w, x, NULL, NULL, false);
        double carried = output_error(formats[i], w, x, qn_stats_power(s), c, false);
        if (!(carried < 0.5 * plain)) fail_msg("%s: %g with a carry, %g without", formats[i], carried, plain);
    }
    double plain = output_error("gptq", w, x, NULL, NULL, false);
    assert_true(output_error("gptq", w, x, qn_stats_power(s), NULL, false) < plain);
    assert_true(output_error("gptq", w, x, qn_stats_power(s), c, true) < 0.5 * plain);
    qn_carry_free(c);
    qn_stats_free(s);
    qn_pool_free(pool);
    free(x);
    free(w);
}

static void test_folds(void **unused)
{
    (void)unused;
    struct qn_pool *pool = qn_pool_create(2);
    float *x = correlated_rows(), *w = malloc((size_t)N_OUT * K * sizeof *w), scale[K];
    for (int i = 0; i < N_OUT * K; i++) w[i] = normal() * 0.1f;
    struct qn_stats *s = gather(x, pool);
    int32_t share[K];
    for (int k = 0; k < K; k++) share[k] = k % 14;
    struct qn_fold f = {qn_store_find("awq"), 32, K, s, w, N_OUT, NULL, 0};
    double gain = qn_fold_search(&f, pool, scale);
    assert_true(gain < 0.9 && scale[0] > scale[1]); /* every seventh column is large */
    f.share = share;
    f.n_share = 14;
    gain = qn_fold_search(&f, pool, scale);
    assert_true(gain < 0.9 && scale[0] == scale[14] && scale[3] == scale[17]);
    f.n_row = 0; /* nothing to go by */
    assert_true(qn_fold_search(&f, pool, scale) == 1 && scale[0] == 1);
    qn_stats_free(s);
    qn_pool_free(pool);
    free(x);
    free(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_factors), cmocka_unit_test(test_rounding),
                                       cmocka_unit_test(test_folds)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
