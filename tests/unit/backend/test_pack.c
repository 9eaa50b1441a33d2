/* Packed linear layers: every format and instruction set against the definition of the format, and rows that
 * do not depend on their neighbours. SPDX-License-Identifier: Apache-2.0 */
#include "support/test.h"

#include <math.h>

#include "backend/act.h"
#include "backend/cpu/pack.h"
#include "base/mem.h"
#include "base/rng.h"

static uint64_t counter;

static uint64_t draw(void)
{
    return qn_rng64(7, ++counter, 0);
}

static float draw_float(void)
{
    return qn_rng_unit(draw()) * 2 - 1;
}

static struct qn_tensor tensor(enum qn_dtype dtype, size_t n)
{
    struct qn_tensor t = {.name = "w", .dtype = dtype, .n_dim = 1, .n_byte = n * qn_dtype_bytes(dtype)};
    unsigned char *data = xmalloc(t.n_byte + 8);
    for (size_t i = 0; i < t.n_byte; i++) data[i] = (unsigned char)draw();
    t.data = data;
    return t;
}

/* Random values of a float type, positive ones for scales. */
static struct qn_tensor floats(enum qn_dtype dtype, size_t n, bool is_scale)
{
    struct qn_tensor t = tensor(dtype, n);
    for (size_t i = 0; i < n; i++) {
        float x = draw_float();
        if (is_scale) x = fabsf(x) + 0.01f;
        uint16_t half = dtype == QN_BF16 ? qn_f32_to_bf16(x) : qn_f32_to_f16(x);
        unsigned char *at = (unsigned char *)t.data + i * qn_dtype_bytes(dtype);
        if (dtype == QN_F32)
            memcpy(at, &x, 4);
        else if (dtype == QN_F8_E4M3)
            *at = qn_f32_to_e4m3(x);
        else
            memcpy(at, &half, 2);
    }
    return t;
}

/* Scales of an exponent alone, around 1. */
static struct qn_tensor exponents(size_t n)
{
    struct qn_tensor t = tensor(QN_F8_E8M0, n);
    for (size_t i = 0; i < n; i++) ((unsigned char *)t.data)[i] = (unsigned char)(120 + draw() % 14);
    return t;
}

static struct qn_linear make(enum qn_format format, int n_out, int n_in)
{
    size_t n = (size_t)n_out, k = (size_t)n_in;
    struct qn_linear l = {.format = format, .n_out = n_out, .n_in = n_in, .scale2 = 1, .name = "layer"};
    switch (format) {
    case QN_FMT_F32:
        l.weight = floats(QN_F32, n * k, false);
        break;
    case QN_FMT_F16:
        l.weight = floats(QN_F16, n * k, false);
        break;
    case QN_FMT_BF16:
        l.weight = floats(QN_BF16, n * k, false);
        break;
    case QN_FMT_NVFP4:
        l.weight = tensor(QN_U8, n * k / 2);
        l.scale = floats(QN_F8_E4M3, n * k / 16, true);
        l.scale2 = 0.37f;
        l.group = 16;
        break;
    case QN_FMT_FP8_BLOCK:
        l.weight = floats(QN_F8_E4M3, n * k, false);
        l.scale = floats(QN_BF16, QN_CEIL_DIV(n, 128) * QN_CEIL_DIV(k, 128), true);
        l.group = 128;
        break;
    case QN_FMT_FP8_TENSOR:
        l.weight = floats(QN_F8_E4M3, n * k, false);
        l.scale = floats(QN_F32, 1, true);
        break;
    case QN_FMT_FP8_CHANNEL:
        l.weight = floats(QN_F8_E4M3, n * k, false);
        l.scale = floats(QN_F32, n, true);
        break;
    case QN_FMT_INT8_CHANNEL:
        l.weight = tensor(QN_I8, n * k);
        l.scale = floats(QN_BF16, n, true);
        break;
    case QN_FMT_INT4_AWQ:
    case QN_FMT_INT4_GPTQ:
        l.weight = tensor(QN_I32, n * k / 8);
        l.zeros = tensor(QN_I32, n / 8 * (k / 128));
        l.zeros.n_dim = 2;
        l.scale = floats(QN_F16, n * (k / 128), true);
        l.group = 128;
        l.zero_offset = format == QN_FMT_INT4_GPTQ;
        break;
    case QN_FMT_FP8_GRID: /* the last group is shorter */
        l.weight = floats(QN_F8_E4M3, n * k, false);
        l.scale = floats(QN_F32, QN_CEIL_DIV(n, 16) * QN_CEIL_DIV(k, 96), true);
        l.block = 16;
        l.group = 96;
        break;
    case QN_FMT_MXFP8:
        l.weight = floats(QN_F8_E4M3, n * k, false);
        l.scale = exponents(n * (k / 32));
        l.group = 32;
        break;
    case QN_FMT_MXFP4:
        l.weight = tensor(QN_U8, n * k / 2);
        l.scale = exponents(n * (k / 32));
        l.group = 32;
        break;
    case QN_FMT_INT8_GROUP:
        l.weight = tensor(QN_I8, n * k);
        l.scale = floats(QN_BF16, n * QN_CEIL_DIV(k, 96), true);
        l.zeros = tensor(QN_I8, n * QN_CEIL_DIV(k, 96));
        l.zeros.n_dim = 2;
        l.block = 1;
        l.group = 96;
        break;
    case QN_FMT_INT8_GPTQ:
        l.weight = tensor(QN_I32, n * k / 4);
        l.zeros = tensor(QN_I32, n / 4 * QN_CEIL_DIV(k, 96));
        l.zeros.n_dim = 2;
        l.scale = floats(QN_F16, n * QN_CEIL_DIV(k, 96), true);
        l.group = 96;
        l.bits = 8;
        l.zero_offset = 1;
        break;
    case QN_FMT_INT4_CT_ZERO:
        l.weight = tensor(QN_I32, n * k / 8);
        l.zeros = tensor(QN_I32, QN_CEIL_DIV(n, 8) * QN_CEIL_DIV(k, 96));
        l.zeros.n_dim = 2;
        l.scale = floats(QN_BF16, n * QN_CEIL_DIV(k, 96), true);
        l.group = 96;
        l.bits = 4;
        break;
    case QN_FMT_INT4_MLX:
    case QN_FMT_INTN_MLX: /* 6 bits */
        l.bits = format == QN_FMT_INT4_MLX ? 4 : 6;
        l.weight = tensor(QN_U32, n * QN_CEIL_DIV(k * (size_t)l.bits, 32));
        l.scale = floats(QN_BF16, n * (k / 64), true);
        l.bias = floats(QN_BF16, n * (k / 64), false);
        l.bias.n_dim = 2;
        l.group = 64;
        break;
    case QN_FMT_INTN_GPTQ: /* 3 bits, groups no kernel has */
        l.bits = 3;
        l.weight = tensor(QN_I32, n * k * 3 / 32);
        l.scale = floats(QN_F16, n * (k / 16), true);
        l.group = 16;
        break;
    default:
        l.weight = tensor(QN_I32, n * k / 8);
        l.scale = floats(QN_BF16, n * (k / 32), true);
        l.group = 32;
    }
    return l;
}

static void drop(struct qn_linear *l)
{
    free((void *)l->weight.data);
    free((void *)l->scale.data);
    free((void *)l->zeros.data);
    free((void *)l->bias.data);
}

static bool has(enum qn_isa isa)
{
#if defined(__x86_64__)
    __builtin_cpu_init();
    switch (isa) {
    case QN_ISA_AVX2:
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    case QN_ISA_AVX512:
        return __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
    case QN_ISA_AVX512BF16:
        return __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vbmi");
    default:
        return isa == QN_ISA_SCALAR;
    }
#else
    return isa <= qn_cpu_isa();
#endif
}

#define MOST_ROWS 41

/* g_idx of a file in act-order: each group has its k anywhere. */
static struct qn_tensor shuffled_groups(int n_in, int group)
{
    struct qn_tensor t = tensor(QN_I32, (size_t)n_in);
    int32_t *g = (int32_t *)t.data;
    for (int k = 0; k < n_in; k++) g[k] = k / group;
    for (int k = n_in - 1; k > 0; k--) {
        int j = (int)(draw() % (uint64_t)(k + 1));
        int32_t x = g[k];
        g[k] = g[j];
        g[j] = x;
    }
    return t;
}

static void check(enum qn_format format, int n_out, int n_in, enum qn_isa isa, enum qn_act act,
                  bool has_order)
{
    struct qn_linear l = make(format, n_out, n_in);
    if (has_order) l.g_idx = shuffled_groups(n_in, l.group);
    struct qn_packed *p;
    struct qn_err e = {0};
    assert_int_equal(qn_packed_make(&p, &l, act, isa, NULL, &e), QN_OK);
    size_t n = (size_t)n_out, k = (size_t)n_in, act_bytes = qn_packed_act_bytes(n_in, 1, act);
    float *x = xmalloc(MOST_ROWS * k * 4), *w = xmalloc(n * k * 4), *row = xmalloc(k * 4);
    float *one = xmalloc(MOST_ROWS * n * 4), *many = xmalloc(MOST_ROWS * n * 4);
    unsigned char *prepared = aligned_alloc(64, MOST_ROWS * act_bytes);
    for (size_t i = 0; i < MOST_ROWS * k; i++) x[i] = draw_float();
    qn_packed_act(isa, act, x, n_in, MOST_ROWS, prepared);
    assert_int_equal(qn_linear_rows(&l, 0, n_out, w, &e), QN_OK);
    assert_int_equal(qn_packed_has_order(p), has_order);
    if (has_order) {
        unsigned char *ordered = aligned_alloc(64, MOST_ROWS * act_bytes);
        qn_packed_reorder(p, prepared, MOST_ROWS, ordered);
        free(prepared);
        prepared = ordered;
    }

    /* an embedding row is the definition */
    qn_packed_row(p, n_out - 1, row);
    float most = 0; /* what is added to a code, a bias, may nearly cancel it */
    for (size_t i = 0; l.bias.n_dim && i < k; i++) most = fmaxf(most, fabsf(row[i]));
    for (size_t i = 0; i < k; i++)
        assert_true(fabsf(row[i] - w[(n - 1) * k + i]) <= 1e-6f * fmaxf(fabsf(row[i]), most) + 1e-12f);

    /* one row at a time, tile by tile */
    for (int r = 0; r < MOST_ROWS; r++)
        for (int t = 0; t < qn_packed_n_tile(p); t++)
            qn_packed_run(p, prepared + (size_t)r * act_bytes, 1, one + (size_t)r * n, n_out, t, t + 1);
    for (int r = 0; r < MOST_ROWS; r += 7) {
        float *in = xmalloc(QN_ROUND_UP(k, QN_ACT_BLOCK) * 4);
        memset(in, 0, QN_ROUND_UP(k, QN_ACT_BLOCK) * 4);
        for (size_t i = 0; i < k; i++) {
            float v = x[(size_t)r * k + i];
            in[i] = act == QN_ACT_F32 ? v : qn_bf16_to_f32(qn_f32_to_bf16(v));
        }
        for (size_t i = 0; act == QN_ACT_INT8 && qn_act_is_int8(&l) && i < k; i += QN_ACT_BLOCK) {
            int8_t code[QN_ACT_BLOCK];
            float scale = qn_act_int8(in + i, code);
            for (int c = 0; c < QN_ACT_BLOCK; c++) {
                assert_true(fabsf(in[i + (size_t)c] - scale * code[c]) <= scale * 0.5001f);
                in[i + (size_t)c] = scale * code[c];
            }
        }
        for (size_t o = 0; o < n; o++) {
            double sum = 0, size = 0;
            for (size_t i = 0; i < k; i++) {
                sum += (double)in[i] * w[o * k + i];
                size += fabs((double)in[i] * w[o * k + i]);
            }
            double error = fabs(sum - one[(size_t)r * n + o]);
            if (error > 2e-6 * size + 1e-9)
                fail_msg("%s isa %d act %d [%d, %d] row %d out %zu: %g, expected %g", qn_format_name(format),
                         isa, act, n_out, n_in, r, o, one[(size_t)r * n + o], sum);
        }
        free(in);
    }
    /* many rows: the same bits */
    static const int counts[] = {2, 3, 4, 5, 6, 7, 8, 9, 12, 16, 17, 23, MOST_ROWS};
    for (size_t i = 0; i < QN_COUNT(counts); i++) {
        memset(many, 0xff, MOST_ROWS * n * 4);
        qn_packed_run(p, prepared, counts[i], many, n_out, 0, qn_packed_n_tile(p));
        assert_memory_equal(many, one, (size_t)counts[i] * n * 4);
    }
    qn_packed_free(p);
    free(x), free(w), free(row), free(one), free(many), free(prepared);
    free((void *)l.g_idx.data);
    drop(&l);
}

static void check_format(enum qn_format format)
{
    for (int isa = 0; isa < QN_N_ISA; isa++) {
        if (!has(isa)) {
            print_message("skipped: instruction set %d is not on this machine\n", isa);
            continue;
        }
        for (int act = 0; act < QN_N_ACT; act++) {
            check(format, 48, 128, isa, act, false);
            check(format, 24, 640, isa, act, false);
            if (format == QN_FMT_INT8_GPTQ || format == QN_FMT_INTN_GPTQ) continue;
            if (format == QN_FMT_INT4_GPTQ || format == QN_FMT_INT4_CT)
                check(format, 24, 640, isa, act, true);
            if (format != QN_FMT_INT4_AWQ && format != QN_FMT_INT4_GPTQ)
                check(format, 1, 64, isa, act, false);
            if (format == QN_FMT_NVFP4) check(format, 40, 48, isa, act, false);
            if (format == QN_FMT_BF16 || format == QN_FMT_F32 || format == QN_FMT_FP8_TENSOR ||
                format == QN_FMT_FP8_BLOCK || format == QN_FMT_INT8_CHANNEL) {
                check(format, 37, 131, isa, act, false);
            }
        }
    }
}

static void test_plain(void **state)
{
    (void)state;
    check_format(QN_FMT_BF16);
    check_format(QN_FMT_F32);
    check_format(QN_FMT_F16);
}

static void test_eight_bits(void **state)
{
    (void)state;
    check_format(QN_FMT_FP8_BLOCK);
    check_format(QN_FMT_FP8_TENSOR);
    check_format(QN_FMT_FP8_CHANNEL);
    check_format(QN_FMT_INT8_CHANNEL);
}

static void test_four_bits(void **state)
{
    (void)state;
    check_format(QN_FMT_NVFP4);
    check_format(QN_FMT_INT4_AWQ);
    check_format(QN_FMT_INT4_GPTQ);
    check_format(QN_FMT_INT4_CT);
}

static void test_makes(void **state)
{
    (void)state;
    check_format(QN_FMT_FP8_GRID);
    check_format(QN_FMT_MXFP8);
    check_format(QN_FMT_MXFP4);
    check_format(QN_FMT_INT8_GROUP);
    check_format(QN_FMT_INT8_GPTQ);
    check_format(QN_FMT_INT4_CT_ZERO);
    check_format(QN_FMT_INT4_MLX);
    check_format(QN_FMT_INTN_MLX);
    check_format(QN_FMT_INTN_GPTQ);
}

static void test_refusals(void **state)
{
    (void)state;
    struct qn_err e = {0};
    struct qn_packed *p = NULL;
    struct qn_linear l = make(QN_FMT_FP8_CHANNEL, 16, 64);
    float nan = NAN;
    memcpy((void *)((const float *)l.scale.data + 3), &nan, 4);
    assert_int_equal(qn_packed_make(&p, &l, QN_ACT_BF16, QN_ISA_SCALAR, NULL, &e), QN_FORMAT);
    assert_non_null(strstr(e.text, "layer: scale 3"));
    drop(&l);
    l = make(QN_FMT_INT4_GPTQ, 16, 256);
    l.g_idx = tensor(QN_I32, 256);
    l.g_idx.n_dim = 1;
    for (int k = 0; k < 256; k++) ((int32_t *)l.g_idx.data)[k] = k > 126;
    /* groups of unequal size: no kernel has them, so they are held as floats */
    float row[256], held[256];
    assert_int_equal(qn_packed_make(&p, &l, QN_ACT_BF16, QN_ISA_SCALAR, NULL, &e), QN_OK);
    assert_int_equal(qn_linear_rows(&l, 15, 1, row, &e), QN_OK);
    qn_packed_row(p, 15, held);
    assert_memory_equal(row, held, sizeof row);
    qn_packed_free(p);
    free((void *)l.g_idx.data);
    drop(&l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_plain), cmocka_unit_test(test_eight_bits),
                                       cmocka_unit_test(test_four_bits), cmocka_unit_test(test_makes),
                                       cmocka_unit_test(test_refusals)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
