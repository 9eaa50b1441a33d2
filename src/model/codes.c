/* Codes, zero points and the places of scales: where the formats differ.
 *
 * Integers are streams of bits, lowest first, in words of 32 bits without padding: along K for the weights (a
 * word stands above the next one in GPTQ, beside it elsewhere), along N for the zero points.
 * SPDX-License-Identifier: Apache-2.0 */
#include "model/format.h"

bool qn_format_is_integer(enum qn_format f)
{
    switch (f) {
    case QN_FMT_INT4_AWQ:
    case QN_FMT_INT4_GPTQ:
    case QN_FMT_INT8_GPTQ:
    case QN_FMT_INTN_GPTQ:
    case QN_FMT_INT4_CT:
    case QN_FMT_INT4_CT_ZERO:
    case QN_FMT_INT8_CT:
    case QN_FMT_INTN_CT:
    case QN_FMT_INT4_MLX:
    case QN_FMT_INT8_MLX:
    case QN_FMT_INTN_MLX:
        return true;
    default:
        return false;
    }
}

static bool is_gptq(enum qn_format f)
{
    return f == QN_FMT_INT4_GPTQ || f == QN_FMT_INT8_GPTQ || f == QN_FMT_INTN_GPTQ;
}

static int bits_of(const struct qn_linear *l)
{
    return l->bits ? l->bits : 4;
}

static int block_of(const struct qn_linear *l)
{
    return l->block ? l->block : 128;
}

/* Column n of a word of eight sits at this bit (AutoAWQ's interleave). */
static int awq_shift(int n)
{
    static const int place[8] = {0, 4, 1, 5, 2, 6, 3, 7};
    return 4 * place[n & 7];
}

/* Value i of a stream whose words begin at `first` and lie `step` apart. */
static unsigned stream_at(const struct qn_tensor *t, size_t first, size_t step, size_t i, int bits)
{
    size_t bit = i * (size_t)bits, word = bit / 32;
    unsigned shift = (unsigned)(bit % 32);
    uint32_t v = qn_word_at(t, first + word * step) >> shift;
    if (shift + (unsigned)bits > 32) v |= qn_word_at(t, first + (word + 1) * step) << (32 - shift);
    return v & ((1u << bits) - 1);
}

static void integer_codes(const struct qn_linear *l, int n, unsigned char *out)
{
    size_t K = (size_t)l->n_in, N = (size_t)l->n_out, row = (size_t)n, first = row, step = N;
    if (l->format == QN_FMT_INT4_AWQ) {
        int shift = awq_shift(n);
        for (size_t k = 0; k < K; k++) out[k] = qn_word_at(&l->weight, k * (N / 8) + row / 8) >> shift & 15;
        return;
    }
    if (!is_gptq(l->format)) {
        first = row * QN_CEIL_DIV(K * (size_t)bits_of(l), 32);
        step = 1;
    }
    if (bits_of(l) == 4 || bits_of(l) == 8) { /* whole words */
        size_t per = 32 / (size_t)bits_of(l), k = 0;
        uint32_t mask = (1u << bits_of(l)) - 1;
        for (size_t word = 0; k < K; word++) {
            uint32_t v = qn_word_at(&l->weight, first + word * step);
            for (size_t i = 0; i < per && k < K; i++, v >>= bits_of(l)) out[k++] = (unsigned char)(v & mask);
        }
        return;
    }
    for (size_t k = 0; k < K; k++) out[k] = (unsigned char)stream_at(&l->weight, first, step, k, bits_of(l));
}

void qn_linear_codes(const struct qn_linear *l, int n, unsigned char *out)
{
    size_t K = (size_t)l->n_in, row = (size_t)n;
    const unsigned char *w = l->weight.data;
    if (qn_format_is_integer(l->format)) {
        integer_codes(l, n, out);
    } else if (l->format == QN_FMT_NVFP4 || l->format == QN_FMT_MXFP4) {
        for (size_t k = 0; k + 1 < K; k += 2) {
            unsigned char b = w[row * (K / 2) + k / 2];
            out[k] = b & 15;
            out[k + 1] = b >> 4;
        }
    } else {
        memcpy(out, w + row * K, K);
    }
}

int qn_linear_zero(const struct qn_linear *l, int n, int group)
{
    size_t n_group = (size_t)qn_linear_n_group(l), g = (size_t)group, row = (size_t)n;
    switch (l->format) {
    case QN_FMT_INT8_CHANNEL:
        return 0;
    case QN_FMT_INT8_GROUP:
        if (!l->zeros.n_dim) return 0;
        return ((const signed char *)l->zeros.data)[qn_linear_scale_at(l, n, group)];
    case QN_FMT_INT4_MLX:
    case QN_FMT_INT8_MLX:
    case QN_FMT_INTN_MLX:
        return 0;
    case QN_FMT_INT4_AWQ:
        return (int)(qn_word_at(&l->zeros, g * ((size_t)l->n_out / 8) + row / 8) >> awq_shift(n) & 15);
    default:
        break;
    }
    if (!l->zeros.n_dim) return 1 << (bits_of(l) - 1);
    if (is_gptq(l->format))
        return (int)stream_at(&l->zeros, g * QN_CEIL_DIV((size_t)l->n_out * (size_t)bits_of(l), 32), 1, row,
                              bits_of(l)) +
               l->zero_offset;
    return (int)stream_at(&l->zeros, g, n_group, row, bits_of(l)); /* compressed-tensors: along N */
}

size_t qn_linear_scale_at(const struct qn_linear *l, int n, int group)
{
    size_t g = (size_t)group, row = (size_t)n, n_group = (size_t)qn_linear_n_group(l);
    switch (l->format) {
    case QN_FMT_FP8_TENSOR:
        return 0;
    case QN_FMT_FP8_CHANNEL:
    case QN_FMT_INT8_CHANNEL:
        return row;
    case QN_FMT_FP8_BLOCK:
    case QN_FMT_FP8_GRID:
    case QN_FMT_INT8_GROUP:
        return (row + (size_t)l->block_row) / (size_t)block_of(l) * n_group + g;
    case QN_FMT_INT4_AWQ:
    case QN_FMT_INT4_GPTQ:
    case QN_FMT_INT8_GPTQ:
    case QN_FMT_INTN_GPTQ:
        return g * (size_t)l->n_out + row;
    default:
        return row * n_group + g;
    }
}

static void take(struct qn_tensor *t, int64_t first, int64_t n)
{
    size_t row_bytes = t->n_byte / (size_t)t->shape[0];
    t->data = (const char *)t->data + (size_t)first * row_bytes;
    t->n_byte = (size_t)n * row_bytes;
    t->shape[0] = n;
}

int qn_linear_take_rows(struct qn_linear *l, int first, int n, struct qn_err *e)
{
    int rc = QN_OK;
    bool is_zeros_packed = l->zeros.n_dim && l->format != QN_FMT_INT8_GROUP;
    QN_FAIL_IF(l->format == QN_FMT_INT4_AWQ || is_gptq(l->format) ||
                   (is_zeros_packed && (first * bits_of(l) % 32 || n * bits_of(l) % 32)),
               e, QN_UNSUPPORTED, "%s: rows of %s cannot be cut out of a fused tensor", l->name,
               qn_format_name(l->format));
    QN_CHECK(first >= 0 && n > 0 && first <= l->n_out - n);
    take(&l->weight, first, n);
    l->n_out = n;
    if (l->format == QN_FMT_FP8_BLOCK || l->format == QN_FMT_FP8_GRID || l->format == QN_FMT_INT8_GROUP) {
        int block = block_of(l), at = l->block_row + first, from = at / block,
            end = QN_CEIL_DIV(at + n, block);
        take(&l->scale, from, end - from);
        if (l->zeros.n_dim) take(&l->zeros, from, end - from);
        l->block_row = at % block;
        goto out;
    }
    if (l->scale.n_byte > qn_dtype_bytes(l->scale.dtype)) take(&l->scale, first, n);
    if (l->bias.n_dim) take(&l->bias, first, n);
    if (is_zeros_packed) take(&l->zeros, (int64_t)first * bits_of(l) / 32, (int64_t)n * bits_of(l) / 32);
out:
    return rc;
}
