/* Every micro-kernel of every instruction set against the plain formula in double precision, over ragged
 * shapes. Seed: QN_SEED in the environment, else fixed. SPDX-License-Identifier: Apache-2.0 */
#include <math.h>

#include "backend/cpu/cpu.h"
#include "backend/cpu/kern.h"
#include "backend/ref/ref.h"
#include "base/mem.h"
#include "base/rng.h"
#include "support/test.h"

static uint64_t seed = 3, n_draw;
static const int sizes[] = {1, 2, 3, 15, 16, 17, 31, 32, 33, 63, 64, 100, 128, 257};

static float uniform(float lo, float hi)
{
    return lo + (hi - lo) * qn_rng_unit(qn_rng64(seed, 0, n_draw++));
}

static float *random_floats(size_t n, float lo, float hi)
{
    float *p = xmalloc((n + 16) * sizeof *p);
    for (size_t i = 0; i < n; i++) p[i] = uniform(lo, hi);
    for (size_t i = n; i < n + 16; i++) p[i] = NAN; /* nobody may read on */
    return p;
}

static void near(const char *what, enum qn_isa isa, int n, double want, double got, double tolerance)
{
    if (!(fabs(want - got) <= tolerance))
        fail_msg("%s, %s, n %d: expected %.9g, got %.9g (seed %llu)", what, qn_isa_name(isa), n, want, got,
                 (unsigned long long)seed);
}

static double sigmoid(double x)
{
    return 1 / (1 + exp(-x));
}

static void check_rows(const struct qn_kern *k, int n)
{
    float *x = random_floats((size_t)n, -3, 3), *y = random_floats((size_t)n, -3, 3);
    float *w = random_floats((size_t)n, -0.5f, 0.5f), *h = random_floats((size_t)n, 0, 0);
    double sum = 0, sum_xy = 0;
    for (int i = 0; i < n; i++) {
        sum += (double)x[i] * x[i];
        sum_xy += pow((double)x[i] + y[i], 2);
    }
    k->norm(x, w, n, 1e-6f, h);
    for (int i = 0; i < n; i++)
        near("norm", k->isa, n, x[i] / sqrt(sum / n + 1e-6) * (1.0 + w[i]), h[i], 3e-6);
    k->gated_norm(memcpy(h, x, (size_t)n * 4), w, y, n, 1e-6f, false);
    for (int i = 0; i < n; i++)
        near("gated_norm", k->isa, n, x[i] / sqrt(sum / n + 1e-6) * w[i] * y[i] * sigmoid(y[i]), h[i], 3e-6);
    k->gated_norm(memcpy(h, x, (size_t)n * 4), w, y, n, 1e-6f, true);
    for (int i = 0; i < n; i++)
        near("gated_norm", k->isa, n, x[i] / sqrt(sum / n + 1e-6) * w[i] * sigmoid(y[i]), h[i], 3e-6);
    k->unit(memcpy(h, x, (size_t)n * 4), n, 0.5f);
    for (int i = 0; i < n; i++) near("unit", k->isa, n, 0.5 * x[i] / sqrt(sum + 1e-6), h[i], 1e-6);
    k->silu_mul(memcpy(h, x, (size_t)n * 4), y, (size_t)n);
    for (int i = 0; i < n; i++) near("silu_mul", k->isa, n, x[i] * sigmoid(x[i]) * y[i], h[i], 3e-6);
    k->sigmoid_mul(memcpy(h, x, (size_t)n * 4), y, (size_t)n);
    for (int i = 0; i < n; i++) near("sigmoid_mul", k->isa, n, x[i] * sigmoid(y[i]), h[i], 2e-6);
    k->axpy(memcpy(h, x, (size_t)n * 4), y, 0.37f, (size_t)n);
    for (int i = 0; i < n; i++) near("axpy", k->isa, n, x[i] + (double)0.37f * y[i], h[i], 1e-6);
    const float *rows[3] = {x, y, w}, *taps[3] = {w, x, y};
    k->conv(h, rows, taps, 3, n);
    for (int i = 0; i < n; i++) {
        double s = (double)x[i] * w[i] + (double)y[i] * x[i] + (double)w[i] * y[i];
        near("conv", k->isa, n, s * sigmoid(s), h[i], 1e-5);
    }
    k->add_norm(x, y, w, n, 1e-6f, h);
    for (int i = 0; i < n; i++)
        near("add_norm", k->isa, n, x[i] / sqrt(sum_xy / n + 1e-6) * (1.0 + w[i]), h[i], 5e-6);
    for (int i = 0; i < 4; i++) assert_true(isnan(x[n + i])); /* nobody writes on either */
    free(x);
    free(y);
    free(w);
    free(h);
}

static void check_scan(const struct qn_kern *k, int n)
{
    float *x = random_floats((size_t)n, -20, 20);
    float max = qn_scan_plain.max(x, n);
    assert_true(k->scan.max(x, n) == max);
    for (int from = 0; from <= n; from += 1 + n / 7)
        for (int bar = -20; bar <= 20; bar += 10)
            assert_int_equal(k->scan.above(x, from, n, (float)bar),
                             qn_scan_plain.above(x, from, n, (float)bar));
    double sum = 0;
    for (int i = 0; i < n; i++) sum += exp(((double)x[i] - max) * 0.7);
    near("sum_exp", k->isa, n, sum, k->scan.sum_exp(x, n, max, 0.7f), sum * 1e-5);
    free(x);
}

/* One page: n_query queries that see different numbers of keys. */
static void check_attn(const struct qn_kern *k, enum qn_kv t, int hd, int n_query)
{
    enum { STRIDE = 96, AT = 16 };
    size_t n = (size_t)hd * QN_PAGE;
    unsigned char *kp = xmalloc(n * 4), *vp = xmalloc(n * 4);
    memset(kp, 0xff, n * 4); /* NaN in every type */
    memset(vp, 0xff, n * 4);
    float score[QN_ATTN_QUERIES * STRIDE], *q[QN_ATTN_QUERIES], *o[QN_ATTN_QUERIES];
    int n_key[QN_ATTN_QUERIES], most = 0;
    for (int i = 0; i < n_query; i++) {
        q[i] = random_floats((size_t)hd, -1, 1);
        o[i] = random_floats((size_t)hd, -1, 1);
        n_key[i] = 1 + (int)(uniform(0, 1) * QN_PAGE) % QN_PAGE;
        most = QN_MAX(most, n_key[i]);
    }
    bool has_own = qn_kv_scale_bytes(t) > 0;
    uint16_t ks[QN_PAGE], vs[QN_PAGE];
    memset(ks, 0xff, sizeof ks);
    memset(vs, 0xff, sizeof vs);
    float k_scale[QN_PAGE], v_scale[QN_PAGE];
    for (int key = 0; key < most; key++) {
        k_scale[key] = has_own ? ldexpf(1, (int)uniform(-12, 4)) : 1;
        v_scale[key] = has_own ? ldexpf(1, (int)uniform(-12, 4)) : 1;
        ks[key] = qn_f32_to_bf16(k_scale[key]);
        vs[key] = qn_f32_to_bf16(v_scale[key]);
        for (int d = 0; d < hd; d++) {
            qn_kv_store(t, kp, (size_t)d * QN_PAGE + key, uniform(-2, 2) / k_scale[key]);
            qn_kv_store(t, vp, (size_t)key * hd + d, uniform(-2, 2) / v_scale[key]);
        }
    }
    struct qn_kern_attn a = {(const float *const *)q, n_query, hd, kp, ks, score, STRIDE, AT, 0, n_key, o};
    k->qk[t](&a, 0.25f);
    for (int i = 0; i < n_query; i++)
        for (int key = 0; key < n_key[i]; key++) {
            double dot = 0;
            for (int d = 0; d < hd; d++)
                dot += (double)q[i][d] * qn_kv_load(t, kp, (size_t)d * QN_PAGE + key) * k_scale[key];
            near("qk", k->isa, hd, dot / 4, score[i * STRIDE + AT + key], 2e-5);
        }
    for (int i = 0; i < n_query; i++) {
        float *s = score + i * STRIDE + AT, max, sum;
        double want_max = -INFINITY, want_sum = 0;
        float raw[QN_PAGE];
        memcpy(raw, s, sizeof raw);
        for (int key = 0; key < n_key[i]; key++) want_max = fmax(want_max, s[key]);
        for (int key = 0; key < n_key[i]; key++) want_sum += exp(s[key] - want_max);
        k->softmax(s, n_key[i], &max, &sum);
        near("softmax max", k->isa, n_key[i], want_max, max, 0);
        near("softmax sum", k->isa, n_key[i], want_sum, sum, 1e-5 * want_sum);
        for (int key = 0; key < n_key[i]; key++)
            near("softmax", k->isa, n_key[i], exp(raw[key] - want_max), s[key], 1e-6);
        for (int key = n_key[i]; key < QN_PAGE; key++) s[key] = 0;
    }
    double *want = xmalloc((size_t)n_query * (size_t)hd * sizeof *want);
    for (int first = 0; first < 2; first++) {
        for (int i = 0; i < n_query; i++)
            for (int d = 0; d < hd; d++) {
                double sum = o[i][d];
                for (int key = first; key < n_key[i]; key++)
                    sum += (double)score[i * STRIDE + AT + key] * qn_kv_load(t, vp, (size_t)key * hd + d) *
                           v_scale[key];
                want[i * hd + d] = sum;
            }
        a.kv = vp;
        a.scale = vs;
        a.first_key = first;
        k->pv[t](&a);
        for (int i = 0; i < n_query; i++)
            for (int d = 0; d < hd; d++) near("pv", k->isa, hd, want[i * hd + d], o[i][d], 1e-4);
        if (!first) /* the MTP layer's place 0 holds nothing */
            for (int d = 0; d < hd; d++) qn_kv_store(t, vp, (size_t)d, NAN);
    }
    free(want);
    for (int i = 0; i < n_query; i++) {
        free(q[i]);
        free(o[i]);
    }
    free(kp);
    free(vp);
}

/* Every code of a KV type of one byte, as each kernel widens it: the bits of the plain conversion. */
static void check_codes(const struct qn_kern *k, enum qn_kv t)
{
    uint8_t page[QN_PAGE * 16];
    uint16_t own[QN_PAGE];
    float one = 1, score[QN_PAGE], o[16], *op = o;
    const float *q = &one;
    int n_key = QN_PAGE;
    for (int i = 0; i < QN_PAGE; i++) own[i] = qn_f32_to_bf16(0.125f);
    for (int first = 0; first < 256; first += QN_PAGE) { /* keys of one dimension */
        for (int i = 0; i < QN_PAGE; i++) page[i] = (uint8_t)(first + i);
        struct qn_kern_attn a = {&q, 1, 1, page, own, score, QN_PAGE, 0, 0, &n_key, &op};
        k->qk[t](&a, 1);
        for (int i = 0; i < QN_PAGE; i++) {
            float want = qn_kv_load(t, page, (size_t)i) * (t == QN_KV_E4M3D ? 0.125f : 1);
            if (isnan(want) ? !isnan(score[i]) : score[i] != want)
                fail_msg("%s: code %d of %s is %g, not %g", qn_isa_name(k->isa), first + i, qn_kv_name(t),
                         (double)score[i], (double)want);
        }
    }
    n_key = 1;
    for (int first = 0; first < 256; first += 16) { /* dimensions of one key */
        for (int i = 0; i < 16; i++) page[i] = (uint8_t)(first + i);
        memset(o, 0, sizeof o);
        struct qn_kern_attn a = {&q, 1, 16, page, own, &one, QN_PAGE, 0, 0, &n_key, &op};
        k->pv[t](&a);
        for (int i = 0; i < 16; i++) {
            float want = qn_kv_load(t, page, (size_t)i) * (t == QN_KV_E4M3D ? 0.125f : 1);
            if (isnan(want) ? !isnan(o[i]) : o[i] != want)
                fail_msg("%s: code %d of %s is %g in V, not %g", qn_isa_name(k->isa), first + i,
                         qn_kv_name(t), (double)o[i], (double)want);
        }
    }
}

/* Scales of tokens: powers of two, exact in BF16, that use the range and never leave it. */
static void test_fit(void **unused)
{
    (void)unused;
    for (int i = 0; i < 20000; i++) {
        float x[24];
        float size = ldexpf(1, (int)uniform(-90, 90));
        float most = 0;
        for (int j = 0; j < 24; j++) most = fmaxf(most, fabsf(x[j] = uniform(-1, 1) * size));
        float scale = qn_kv_fit(x, 24);
        int e;
        assert_true(frexpf(scale, &e) == 0.5f);
        assert_true(qn_bf16_to_f32(qn_f32_to_bf16(scale)) == scale);
        assert_true(most / scale > 224 && most / scale <= 448);
    }
    float edges[][2] = {{0, 0}, {448, -448}, {449, 1}, {INFINITY, 1}, {NAN, 3}, {1e-38f, 0}};
    float want[] = {1, 1, 2, 1, 0, 1};
    for (size_t i = 0; i < QN_COUNT(edges); i++)
        if (want[i] > 0) assert_true(qn_kv_fit(edges[i], 2) == want[i]);
}

static void check_delta(const struct qn_kern *k, int dk, int n_row, int n_col)
{
    size_t stride = (size_t)dk * 2 + 16;
    float *rows = random_floats((size_t)n_row * stride, -0.3f, 0.3f),
          *state = random_floats((size_t)dk * 16, -1, 1);
    float *alpha = random_floats((size_t)n_row, 0.5f, 1), *beta = random_floats((size_t)n_row, 0, 1);
    float *o = random_floats((size_t)n_row * 16, 0, 0), *kept = random_floats((size_t)n_row * 16, 0, 0);
    float *want_state = xmalloc((size_t)dk * 16 * 4), *want_o = xmalloc((size_t)n_row * 16 * 4);
    float *q = xmalloc((size_t)n_row * dk * 4), *key = xmalloc((size_t)n_row * dk * 4);
    float *v = xcalloc((size_t)n_row * 16, 4), *start = xmalloc((size_t)dk * 16 * 4);
    for (int i = 0; i < dk * 16; i++) want_state[i] = start[i] = state[i];
    for (int r = 0; r < n_row; r++) {
        memcpy(q + (size_t)r * dk, rows + r * stride, (size_t)dk * 4);
        memcpy(key + (size_t)r * dk, rows + r * stride + dk, (size_t)dk * 4);
        memcpy(v + (size_t)r * 16, rows + r * stride + 2 * dk, (size_t)n_col * 4);
    }
    struct qn_ref_delta ref = {dk, 16, n_row, q, key, v, alpha, beta, want_o, want_state, NULL};
    qn_ref_delta_steps(&ref);
    struct qn_kern_delta p = {state, dk, n_row, n_col, rows, rows + dk, rows + 2 * dk, stride, alpha,
                              beta,  1,  o,     16,    kept, 16};
    k->delta(&p);
    for (int r = 0; r < n_row; r++)
        for (int c = 0; c < n_col; c++) near("delta o", k->isa, dk, want_o[r * 16 + c], o[r * 16 + c], 2e-5);
    for (int i = 0; i < dk * 16; i++)
        if (i % 16 < n_col) near("delta state", k->isa, dk, want_state[i], state[i], 2e-5);
    /* folding the kept deltas gives the same state, bit for bit */
    for (int r = 0; r < n_row; r++) k->fold(start, dk, alpha[r], key + (size_t)r * dk, kept + (size_t)r * 16);
    for (int i = 0; i < dk * 16; i++)
        if (i % 16 < n_col) assert_memory_equal(&start[i], &state[i], 4);
    free(rows);
    free(state);
    free(alpha);
    free(beta);
    free(o);
    free(kept);
    free(want_state);
    free(want_o);
    free(q);
    free(key);
    free(v);
    free(start);
}

static void test_kernels(void **unused)
{
    (void)unused;
    unsetenv("QUERN_CPU");
    for (int isa = 0; isa <= (int)qn_cpu_isa(); isa++) {
        const struct qn_kern *k = qn_kern_get((enum qn_isa)isa);
        for (size_t i = 0; i < QN_COUNT(sizes); i++) {
            check_rows(k, sizes[i]);
            check_scan(k, sizes[i]);
        }
        check_scan(k, 5000);
        for (int t = 0; t < QN_N_KV; t++)
            for (int n = 1; n <= QN_ATTN_QUERIES; n++) {
                check_attn(k, (enum qn_kv)t, 256, n);
                check_attn(k, (enum qn_kv)t, 24, n);
            }
        check_codes(k, QN_KV_E4M3);
        check_codes(k, QN_KV_E5M2);
        check_codes(k, QN_KV_E4M3D);
        check_delta(k, 128, 7, 16);
        check_delta(k, 128, 1, 16);
        check_delta(k, 21, 5, 12);
    }
}

/* Prepared rows: the values of the plain version, sums near it, nothing beyond them. */
static void test_act(void **state)
{
    (void)state;
    static const int more[] = {64, 65, 96, 2048, 2050};
    static const enum qn_act types[] = {QN_ACT_F32, QN_ACT_BF16, QN_ACT_INT8};
    for (enum qn_isa isa = QN_ISA_SCALAR; isa <= qn_cpu_isa(); isa++)
        for (size_t i = 0; i < QN_COUNT(sizes) + QN_COUNT(more); i++)
            for (size_t t = 0; t < QN_COUNT(types); t++) {
                int n = i < QN_COUNT(sizes) ? sizes[i] : more[i - QN_COUNT(sizes)];
                bool is_pairs = types[t] != QN_ACT_F32 && isa == QN_ISA_AVX512BF16;
                size_t n_pad = QN_ROUND_UP((size_t)n, 8), plain = n_pad * 4 + QN_CEIL_DIV((size_t)n, 32) * 4;
                size_t n_byte = qn_packed_act_bytes(n, 1, types[t]), at = QN_ROUND_UP(plain, 64);
                float *x = random_floats((size_t)n, -3, 3);
                unsigned char *want = aligned_alloc(64, n_byte), *got = aligned_alloc(64, n_byte + 64);
                memset(want, 0xff, n_byte);
                memset(got, 0xff, n_byte + 64);
                qn_packed_act(isa, types[t], x, n, 1, want);
                qn_kern_get(isa)->act(got, x, n, types[t], is_pairs);
                assert_memory_equal(want, got, n_pad * (is_pairs ? 2 : 4));
                for (size_t j = 0; j < QN_CEIL_DIV((size_t)n, 32); j++)
                    near("sum of act", isa, n, ((float *)want)[n_pad + j], ((float *)got)[n_pad + j], 2e-5);
                assert_memory_equal(want + at, got + at, n_byte - at); /* the same in 8 bits */
                for (int j = 0; j < 64; j++) assert_int_equal(got[n_byte + (size_t)j], 0xff);
                free(x);
                free(want);
                free(got);
            }
}

/* The same experts in the same order, equal logits included. */
static void test_route(void **state)
{
    (void)state;
    static const int shape[][2] = {{1, 1}, {8, 8}, {16, 3}, {256, 8}, {512, 10}};
    for (size_t i = 0; i < QN_COUNT(shape); i++)
        for (int run = 0; run < 50; run++) {
            int n = shape[i][0], top_k = shape[i][1], want[16], got[16];
            float *logits = random_floats((size_t)n, -3, 3), want_w[16], got_w[16];
            for (int e = 0; e < n && run % 2; e++) logits[e] = roundf(logits[e]); /* seven values */
            if (run == 1) logits[n / 2] = -INFINITY;
            qn_ref_route(logits, n, top_k, want, want_w);
            qn_cpu_route(logits, n, top_k, got, got_w);
            assert_memory_equal(want, got, (size_t)top_k * sizeof *want);
            assert_memory_equal(want_w, got_w, (size_t)top_k * sizeof *want_w);
            free(logits);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_kernels),
        cmocka_unit_test(test_fit),
        cmocka_unit_test(test_act),
        cmocka_unit_test(test_route),
    };
    if (getenv("QN_SEED")) seed = strtoull(getenv("QN_SEED"), NULL, 10);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
