/* Packing of linear layers for the cpu back end, and the choice of kernel.
 * SPDX-License-Identifier: Apache-2.0 */
#include <math.h>

#include "backend/cpu/pack_impl.h"
#include "base/mem.h"

/* BF16 of the E4M3 codes 0..127 (exact), split into bytes for table look-ups. */
const uint8_t pack_fp8_high[128] = {
    0x00, 0x3b, 0x3b, 0x3b, 0x3c, 0x3c, 0x3c, 0x3c, 0x3c, 0x3c, 0x3c, 0x3c, 0x3c, 0x3c, 0x3c, 0x3c,
    0x3d, 0x3d, 0x3d, 0x3d, 0x3d, 0x3d, 0x3d, 0x3d, 0x3d, 0x3d, 0x3d, 0x3d, 0x3d, 0x3d, 0x3d, 0x3d,
    0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e,
    0x3f, 0x3f, 0x3f, 0x3f, 0x3f, 0x3f, 0x3f, 0x3f, 0x3f, 0x3f, 0x3f, 0x3f, 0x3f, 0x3f, 0x3f, 0x3f,
    0x40, 0x40, 0x40, 0x40, 0x40, 0x40, 0x40, 0x40, 0x40, 0x40, 0x40, 0x40, 0x40, 0x40, 0x40, 0x40,
    0x41, 0x41, 0x41, 0x41, 0x41, 0x41, 0x41, 0x41, 0x41, 0x41, 0x41, 0x41, 0x41, 0x41, 0x41, 0x41,
    0x42, 0x42, 0x42, 0x42, 0x42, 0x42, 0x42, 0x42, 0x42, 0x42, 0x42, 0x42, 0x42, 0x42, 0x42, 0x42,
    0x43, 0x43, 0x43, 0x43, 0x43, 0x43, 0x43, 0x43, 0x43, 0x43, 0x43, 0x43, 0x43, 0x43, 0x43, 0x7f,
};
const uint8_t pack_fp8_low[128] = {
    0x00, 0x00, 0x80, 0xc0, 0x00, 0x20, 0x40, 0x60, 0x80, 0x90, 0xa0, 0xb0, 0xc0, 0xd0, 0xe0, 0xf0,
    0x00, 0x10, 0x20, 0x30, 0x40, 0x50, 0x60, 0x70, 0x80, 0x90, 0xa0, 0xb0, 0xc0, 0xd0, 0xe0, 0xf0,
    0x00, 0x10, 0x20, 0x30, 0x40, 0x50, 0x60, 0x70, 0x80, 0x90, 0xa0, 0xb0, 0xc0, 0xd0, 0xe0, 0xf0,
    0x00, 0x10, 0x20, 0x30, 0x40, 0x50, 0x60, 0x70, 0x80, 0x90, 0xa0, 0xb0, 0xc0, 0xd0, 0xe0, 0xf0,
    0x00, 0x10, 0x20, 0x30, 0x40, 0x50, 0x60, 0x70, 0x80, 0x90, 0xa0, 0xb0, 0xc0, 0xd0, 0xe0, 0xf0,
    0x00, 0x10, 0x20, 0x30, 0x40, 0x50, 0x60, 0x70, 0x80, 0x90, 0xa0, 0xb0, 0xc0, 0xd0, 0xe0, 0xf0,
    0x00, 0x10, 0x20, 0x30, 0x40, 0x50, 0x60, 0x70, 0x80, 0x90, 0xa0, 0xb0, 0xc0, 0xd0, 0xe0, 0xf0,
    0x00, 0x10, 0x20, 0x30, 0x40, 0x50, 0x60, 0x70, 0x80, 0x90, 0xa0, 0xb0, 0xc0, 0xd0, 0xe0, 0xc0,
};
/* and of the integers 0..127 */
const uint8_t pack_int8_high[128] = {
    0x00, 0x3f, 0x40, 0x40, 0x40, 0x40, 0x40, 0x40, 0x41, 0x41, 0x41, 0x41, 0x41, 0x41, 0x41, 0x41,
    0x41, 0x41, 0x41, 0x41, 0x41, 0x41, 0x41, 0x41, 0x41, 0x41, 0x41, 0x41, 0x41, 0x41, 0x41, 0x41,
    0x42, 0x42, 0x42, 0x42, 0x42, 0x42, 0x42, 0x42, 0x42, 0x42, 0x42, 0x42, 0x42, 0x42, 0x42, 0x42,
    0x42, 0x42, 0x42, 0x42, 0x42, 0x42, 0x42, 0x42, 0x42, 0x42, 0x42, 0x42, 0x42, 0x42, 0x42, 0x42,
    0x42, 0x42, 0x42, 0x42, 0x42, 0x42, 0x42, 0x42, 0x42, 0x42, 0x42, 0x42, 0x42, 0x42, 0x42, 0x42,
    0x42, 0x42, 0x42, 0x42, 0x42, 0x42, 0x42, 0x42, 0x42, 0x42, 0x42, 0x42, 0x42, 0x42, 0x42, 0x42,
    0x42, 0x42, 0x42, 0x42, 0x42, 0x42, 0x42, 0x42, 0x42, 0x42, 0x42, 0x42, 0x42, 0x42, 0x42, 0x42,
    0x42, 0x42, 0x42, 0x42, 0x42, 0x42, 0x42, 0x42, 0x42, 0x42, 0x42, 0x42, 0x42, 0x42, 0x42, 0x42,
};
const uint8_t pack_int8_low[128] = {
    0x00, 0x80, 0x00, 0x40, 0x80, 0xa0, 0xc0, 0xe0, 0x00, 0x10, 0x20, 0x30, 0x40, 0x50, 0x60, 0x70,
    0x80, 0x88, 0x90, 0x98, 0xa0, 0xa8, 0xb0, 0xb8, 0xc0, 0xc8, 0xd0, 0xd8, 0xe0, 0xe8, 0xf0, 0xf8,
    0x00, 0x04, 0x08, 0x0c, 0x10, 0x14, 0x18, 0x1c, 0x20, 0x24, 0x28, 0x2c, 0x30, 0x34, 0x38, 0x3c,
    0x40, 0x44, 0x48, 0x4c, 0x50, 0x54, 0x58, 0x5c, 0x60, 0x64, 0x68, 0x6c, 0x70, 0x74, 0x78, 0x7c,
    0x80, 0x82, 0x84, 0x86, 0x88, 0x8a, 0x8c, 0x8e, 0x90, 0x92, 0x94, 0x96, 0x98, 0x9a, 0x9c, 0x9e,
    0xa0, 0xa2, 0xa4, 0xa6, 0xa8, 0xaa, 0xac, 0xae, 0xb0, 0xb2, 0xb4, 0xb6, 0xb8, 0xba, 0xbc, 0xbe,
    0xc0, 0xc2, 0xc4, 0xc6, 0xc8, 0xca, 0xcc, 0xce, 0xd0, 0xd2, 0xd4, 0xd6, 0xd8, 0xda, 0xdc, 0xde,
    0xe0, 0xe2, 0xe4, 0xe6, 0xe8, 0xea, 0xec, 0xee, 0xf0, 0xf2, 0xf4, 0xf6, 0xf8, 0xfa, 0xfc, 0xfe,
};

static const uint16_t e2m1_table[16] = {0x0000, 0x3f00, 0x3f80, 0x3fc0, 0x4000, 0x4040, 0x4080, 0x40c0,
                                        0x8000, 0xbf00, 0xbf80, 0xbfc0, 0xc000, 0xc040, 0xc080, 0xc0c0};

const uint8_t pack_e2m1_int8[16] = {16, 17, 18, 19, 20, 22, 24, 28, 16, 15, 14, 13, 12, 10, 8, 4};

static bool has_equal_groups(const struct qn_packed *p, const struct qn_linear *l)
{
    int n_group = qn_linear_n_group(l);
    int32_t *used = xcalloc((size_t)n_group, sizeof *used);
    bool is_equal = true;
    for (int k = 0; k < l->n_in && is_equal; k++) {
        uint32_t g = qn_word_at(&l->g_idx, (size_t)k);
        is_equal = g < (uint32_t)n_group && used[g]++ < p->group;
    }
    free(used);
    return is_equal;
}

/* Act-order: places for k so that each group's lie together, in the order of the file within a group. Nothing
 * is made when they do already. */
static int make_order(struct qn_packed *p, const struct qn_linear *l, struct qn_err *e)
{
    int rc = QN_OK, n_group = l->n_in / p->group;
    bool in_order = true;
    int32_t *used = xcalloc((size_t)n_group, sizeof *used), *order = xcalloc((size_t)l->n_in, sizeof *order);
    for (int k = 0; k < l->n_in; k++) {
        uint32_t g = qn_word_at(&l->g_idx, (size_t)k);
        QN_FAIL_IF(g >= (uint32_t)n_group || used[g] == p->group, e, QN_UNSUPPORTED,
                   "%s: entry %d is %" PRId32 "; cpu needs %d groups of %d each (ref reads any)",
                   l->g_idx.name, k, (int32_t)g, n_group, p->group);
        in_order &= g == (uint32_t)(k / p->group);
        order[(int)g * p->group + used[g]++] = k;
    }
    if (!in_order) {
        p->order = order;
        order = NULL;
    }
out:
    free(used);
    free(order);
    return rc;
}

static enum pack_scale scale_kind(const struct qn_linear *l)
{
    return l->scale.dtype == QN_F16 ? PACK_F16 : l->scale.dtype == QN_BF16 ? PACK_BF16S : PACK_F32S;
}

/* Can the kernels take the groups as they are? Zero points and biases go by the sums of 32 k, and a g_idx by
 * groups of one size. */
static bool fits(const struct qn_packed *p, const struct qn_linear *l)
{
    if (!p->group) return true;
    bool is_one = p->group >= l->n_in, is_even = l->n_in % p->group == 0;
    if (l->g_idx.n_dim) return is_even && p->group % 32 == 0 && has_equal_groups(p, l);
    return is_one || p->group % 32 == 0 || (p->scale == PACK_E4M3 && p->group == 16) ||
           (p->kind == PACK_FP8 && p->group % 16 == 0);
}

/* Everything else is held as floats. */
static void widen(struct qn_packed *p)
{
    p->is_wide = true;
    p->kind = PACK_F32;
    p->scale = PACK_NO_GROUP;
    p->unit_pairs = 1;
    p->unit_bytes = 128;
    p->group = 0;
    p->scale2 = 1;
    p->expands = p->isa == QN_ISA_AVX512BF16;
    if (p->expands) p->isa = QN_ISA_AVX512;
}

/* How the format is packed. */
static int choose(struct qn_packed *p, const struct qn_linear *l, struct qn_err *e)
{
    int rc = QN_OK;
    p->scale2 = 1;
    p->unit_bytes = 64;
    p->unit_pairs = 1;
    switch (l->format) {
    case QN_FMT_F32:
    case QN_FMT_F16:
        p->kind = PACK_F32;
        p->unit_bytes = 128;
        p->expands = p->isa == QN_ISA_AVX512BF16;
        if (p->expands) p->isa = QN_ISA_AVX512;
        break;
    case QN_FMT_BF16:
        p->kind = PACK_BF16;
        break;
    case QN_FMT_FP8_BLOCK:
    case QN_FMT_FP8_TENSOR:
    case QN_FMT_FP8_CHANNEL:
        p->kind = PACK_FP8;
        p->unit_pairs = 2;
        if (l->format == QN_FMT_FP8_BLOCK) {
            p->scale = PACK_F32S;
            p->group = 128;
        } else if (l->format == QN_FMT_FP8_TENSOR) {
            p->scale2 = qn_tensor_value(&l->scale, 0);
        }
        break;
    case QN_FMT_INT8_CHANNEL:
        p->kind = PACK_INT8;
        p->unit_pairs = 2;
        break;
    case QN_FMT_NVFP4:
        p->kind = PACK_NIB4;
        p->unit_pairs = 4;
        p->scale = PACK_E4M3;
        p->group = 16;
        p->scale2 = l->scale2;
        break;
    case QN_FMT_FP8_GRID:
    case QN_FMT_MXFP8:
        p->kind = PACK_FP8;
        p->unit_pairs = 2;
        p->scale = PACK_F32S;
        p->group = l->group;
        break;
    case QN_FMT_MXFP4:
        p->kind = PACK_NIB4;
        p->unit_pairs = 4;
        p->scale = PACK_F32S;
        p->group = l->group;
        break;
    case QN_FMT_INT8_GROUP:
        p->kind = PACK_INT8;
        p->unit_pairs = 2;
        p->scale = scale_kind(l);
        p->group = l->group;
        break;
    case QN_FMT_INT4_AWQ:
    case QN_FMT_INT4_GPTQ:
    case QN_FMT_INT4_CT:
    case QN_FMT_INT4_CT_ZERO:
    case QN_FMT_INT4_MLX:
    case QN_FMT_INT8_GPTQ:
    case QN_FMT_INT8_CT:
    case QN_FMT_INT8_MLX:
    case QN_FMT_INTN_GPTQ:
    case QN_FMT_INTN_CT:
    case QN_FMT_INTN_MLX:
        p->kind = l->bits > 4 ? PACK_INT8 : PACK_NIB4;
        p->unit_pairs = l->bits > 4 ? 2 : 4;
        p->scale = scale_kind(l);
        p->group = l->group ? l->group : l->n_in;
        break;
    default:
        if (qn_format_is_block(l->format)) {
            QN_TRY(qn_linear_check(l, e));
            p->kind = PACK_F32;
            p->unit_bytes = 128;
            p->expands = p->isa == QN_ISA_AVX512BF16;
            if (p->expands) p->isa = QN_ISA_AVX512;
            break;
        }
        QN_FAIL(e, QN_UNSUPPORTED, "%s: format %s is not served by cpu", l->name, qn_format_name(l->format));
    }
    if (!fits(p, l)) widen(p);
    if (!p->is_wide && l->g_idx.n_dim) QN_TRY(make_order(p, l, e));
    if (p->group == l->n_in) p->group = QN_ROUND_UP(p->group, 32); /* one group: sums go by 32 */
    if (p->group) p->n_group = (int)QN_CEIL_DIV(l->n_in, p->group);
    p->is_int8 = p->act == QN_ACT_INT8 && qn_act_is_int8(l);
    if (p->is_int8 && p->kind == PACK_INT8) {
        p->unit_pairs = 4;
        p->unit_bytes = 128;
    }
    if (p->is_int8 && p->scale == PACK_E4M3) p->scale2 *= 0.5f; /* codes stand for twice the value */
out:
    return rc;
}

static int scale_bytes(enum pack_scale s)
{
    return s == PACK_E4M3 ? 16 : s == PACK_F16 || s == PACK_BF16S ? 32 : s == PACK_F32S ? 64 : 0;
}

static bool is_e2m1(const struct qn_linear *l)
{
    return l->format == QN_FMT_NVFP4 || l->format == QN_FMT_MXFP4;
}

/* Nibbles of unsigned integers: 8 stands for nought, so padding is 8. */
static bool has_eights(const struct qn_packed *p, const struct qn_linear *l)
{
    return p->kind == PACK_NIB4 && !is_e2m1(l);
}

/* The codes of output n, int8 as bytes of two's complement. */
static void row_codes(const struct qn_packed *p, const struct qn_linear *l, int n, unsigned char *out)
{
    qn_linear_codes(l, n, out);
    if (p->kind != PACK_INT8 || !qn_format_is_integer(l->format)) return;
    for (int k = 0; k < l->n_in; k++) out[k] ^= 0x80; /* less 128 */
}

/* Where unit u of a tile's codes starts. */
static unsigned char *unit_at(struct qn_packed *p, int tile, int u)
{
    return p->codes + pack_unit_index(p, tile, u) * (size_t)p->unit_bytes;
}

/* Blocks that have no form of their own here, as floats. */
static void widen_tile(struct qn_packed *p, const struct qn_linear *l, int tile)
{
    int n_lane = QN_MIN(QN_TILE, p->n_out - tile * QN_TILE);
    size_t step = (size_t)(unit_at(p, tile, 1) - unit_at(p, tile, 0)), K = (size_t)p->n_in;
    float *row = xmalloc(K * sizeof *row);
    for (int i = 0; i < n_lane; i++) {
        QN_CHECK(!qn_linear_rows(l, tile * QN_TILE + i, 1, row, NULL)); /* checked when it was loaded */
        unsigned char *to = unit_at(p, tile, 0) + (size_t)i * 4;
        for (size_t k = 0; k < K; k++) memcpy(to + k / 2 * step + k % 2 * 64, &row[k], 4);
    }
    free(row);
}

/* Plain numbers, a tile at a time: 4-byte words of 16 rows, transposed. Pairs of BF16 are words as they lie;
 * floats come as two words a pair. */
static void pack_tile_plain(struct qn_packed *p, const struct qn_linear *l, int tile)
{
    size_t K = (size_t)p->n_in, first = (size_t)tile * QN_TILE;
    int n_lane = QN_MIN(QN_TILE, p->n_out - tile * QN_TILE);
    size_t step = (size_t)(unit_at(p, tile, 1) - unit_at(p, tile, 0));
    unsigned char *to = unit_at(p, tile, 0);
    const unsigned char *w = l->weight.data;
    if (qn_format_is_block(l->format)) {
        widen_tile(p, l, tile);
        return;
    }
    if (l->format == QN_FMT_F16) { /* widened */
        for (size_t k = 0; k < K; k++)
            for (int i = 0; i < n_lane; i++) {
                float x = qn_tensor_value(&l->weight, (first + (size_t)i) * K + k);
                memcpy(to + k / 2 * step + k % 2 * 64 + (size_t)i * 4, &x, 4);
            }
        return;
    }
    size_t value = p->kind == PACK_BF16 ? 2 : 4, words = K * value / 4,
           per_unit = p->kind == PACK_BF16 ? 1 : 2;
    const unsigned char *row[QN_TILE];
    for (int i = 0; i < QN_TILE; i++) row[i] = w + (first + (size_t)QN_MIN(i, n_lane - 1)) * K * value;
    for (size_t at = 0; at < words; at++) {
        uint32_t line[QN_TILE];
        for (int i = 0; i < QN_TILE; i++) memcpy(&line[i], row[i] + at * 4, 4);
        for (int i = n_lane; i < QN_TILE; i++) line[i] = 0;
        memcpy(to + at / per_unit * step + at % per_unit * 64, line, sizeof line);
    }
    if (value == 2 && K % 2) /* the last of an odd number */
        for (int i = 0; i < n_lane; i++) memcpy(to + words * step + (size_t)i * 4, row[i] + words * 4, 2);
}

/* Rows dequantised; their scales have been looked at. */
static void pack_tile_wide(struct qn_packed *p, const struct qn_linear *l, int tile)
{
    size_t step = (size_t)(unit_at(p, tile, 1) - unit_at(p, tile, 0));
    unsigned char *to = unit_at(p, tile, 0);
    float *row = xmalloc((size_t)p->n_in * sizeof *row);
    for (int n = tile * QN_TILE; n < QN_MIN((tile + 1) * QN_TILE, p->n_out); n++) {
        QN_CHECK(!qn_linear_rows(l, n, 1, row, NULL));
        for (size_t k = 0; k < (size_t)p->n_in; k++)
            memcpy(to + k / 2 * step + k % 2 * 64 + (size_t)(n % QN_TILE) * 4, &row[k], 4);
    }
    free(row);
}

static void pack_lane_codes(struct qn_packed *p, int tile, int lane, const unsigned char *codes)
{
    bool interleaved = pack_is_interleaved(p);
    int unit_k = p->unit_pairs * 2;
    size_t step = (size_t)(unit_at(p, tile, 1) - unit_at(p, tile, 0));
    unsigned char *to = unit_at(p, tile, 0);
    for (int u = 0; u < p->n_unit; u++, to += step) {
        for (int i = 0; i < unit_k && u * unit_k + i < p->n_in; i++) {
            int pair = i / 2, word = lane * 2 + i % 2;
            unsigned char code = codes[u * unit_k + i];
            if (p->kind == PACK_NIB4) {
                /* nibble `pair` of word `word` */
                to[word * 2 + pair / 2] ^= (unsigned char)(code << 4 * (pair & 1));
            } else if (p->is_int8) {
                to[i % 4 / 2 * 64 + lane * 4 + i % 2 * 2 + i / 4] = code ^ 0x80;
            } else if (interleaved) {
                if (p->kind == PACK_INT8 && code > 0x80) code = (unsigned char)(0x80 | (256 - code));
                to[word / 8 * 16 + pair * 8 + word % 8] = code;
            } else {
                to[pair * 32 + word] = code;
            }
        }
    }
}

/* Eight nibbles of a word, k rising -> those of even k, then those of odd k. */
static uint32_t split_nibbles(uint32_t w)
{
    uint32_t even = w & 0x0f0f0f0f, odd = w >> 4 & 0x0f0f0f0f;
    even = (even | even >> 4) & 0x00ff00ff;
    odd = (odd | odd >> 4) & 0x00ff00ff;
    return ((even | even >> 8) & 0xffff) | (odd | odd >> 8) << 16;
}

/* int8 as sign and magnitude, four at a time. */
static uint32_t sign_magnitude(uint32_t w)
{
    uint32_t out = 0;
    for (int i = 0; i < 32; i += 8) {
        uint32_t code = w >> i & 0xff;
        out |= (code > 0x80 ? 0x80 | (256 - code) : code) << i;
    }
    return out;
}

/* The nibbles of eight k and the outputs of a tile in AWQ's order: words [k][2] of eight outputs each -> a
 * word an output, k rising. */
static void turn_awq(const struct qn_linear *l, int tile, int u, int n_lane, uint32_t *line)
{
    static const int awq_place[8] = {0, 4, 1, 5, 2, 6, 3, 7};
    size_t per_k = (size_t)l->n_out / 8, at = (size_t)u * 8 * per_k + (size_t)tile * 2;
    for (int half = 0; half * 8 < n_lane; half++) {
        uint32_t from[8];
        for (size_t k = 0; k < 8; k++) from[k] = qn_word_at(&l->weight, at + k * per_k + (size_t)half);
        for (int i = 0; i < 8; i++) {
            uint32_t word = 0;
            for (int k = 0; k < 8; k++) word |= (from[k] >> 4 * awq_place[i] & 15) << 4 * k;
            line[half * 8 + i] = word;
        }
    }
}

/* Can a tile be packed word by word: four bytes or eight nibbles of k at once? */
static bool has_whole_words(const struct qn_packed *p, const struct qn_linear *l)
{
    switch (l->format) {
    case QN_FMT_INT8_GPTQ:
    case QN_FMT_INT8_CT:
    case QN_FMT_INT8_MLX:
    case QN_FMT_INTN_GPTQ:
    case QN_FMT_INTN_CT:
    case QN_FMT_INTN_MLX:
        return false;
    default:
        return !p->order && p->n_in % (p->unit_pairs * 2) == 0;
    }
}

/* int8 for 8-bit activations: eight k of each output, in two halves. */
static void unit_int8(const struct qn_linear *l, size_t first, int n_lane, size_t u, unsigned char *to)
{
    uint32_t half[2][QN_TILE] = {0};
    for (size_t i = 0; i < (size_t)n_lane; i++) {
        size_t at = ((first + i) * (size_t)l->n_in + u * 8) / 4;
        uint32_t a = qn_word_at(&l->weight, at) ^ 0x80808080, b = qn_word_at(&l->weight, at + 1) ^ 0x80808080;
        for (int h = 0; h < 2; h++, a >>= 16, b >>= 16)
            half[h][i] = (a & 0xff) | (b & 0xff) << 8 | (a & 0xff00) << 8 | (b & 0xff00) << 16;
    }
    memcpy(to, half, sizeof half);
}

/* Codes, a tile at a time: a unit is a word of each of 16 rows. */
static void pack_tile_words(struct qn_packed *p, const struct qn_linear *l, int tile)
{
    int n_lane = QN_MIN(QN_TILE, p->n_out - tile * QN_TILE);
    bool interleaved = pack_is_interleaved(p), is_magnitude = interleaved && p->kind == PACK_INT8;
    bool eights = has_eights(p, l);
    size_t step = (size_t)(unit_at(p, tile, 1) - unit_at(p, tile, 0)), first = (size_t)tile * QN_TILE;
    size_t n_unit = (size_t)p->n_unit, N = (size_t)p->n_out;
    unsigned char *to = unit_at(p, tile, 0);
    for (size_t u = 0; u < n_unit; u++, to += step) {
        uint32_t line[QN_TILE];
        if (p->is_int8 && p->kind == PACK_INT8) {
            unit_int8(l, first, n_lane, u, to);
            continue;
        }
        for (int i = 0; i < QN_TILE; i++) line[i] = eights ? 0x88888888 : 0;
        if (l->format == QN_FMT_INT4_AWQ)
            turn_awq(l, tile, (int)u, n_lane, line);
        else if (l->format == QN_FMT_INT4_GPTQ)
            for (size_t i = 0; i < (size_t)n_lane; i++) line[i] = qn_word_at(&l->weight, u * N + first + i);
        else
            for (size_t i = 0; i < (size_t)n_lane; i++)
                line[i] = qn_word_at(&l->weight, (first + i) * n_unit + u);
        if (p->kind == PACK_NIB4) {
            for (int i = 0; i < QN_TILE; i++) line[i] = split_nibbles(line[i]);
            memcpy(to, line, sizeof line);
            continue;
        }
        uint16_t half[QN_TILE * 2];
        for (int i = 0; i < QN_TILE; i++) {
            uint32_t word = is_magnitude ? sign_magnitude(line[i]) : line[i];
            int at = interleaved ? i / 4 * 8 + i % 4 : i;
            half[at] = (uint16_t)word;
            half[at + (interleaved ? 4 : QN_TILE)] = (uint16_t)(word >> 16);
        }
        memcpy(to, half, sizeof half);
    }
}

/* What is added to the codes as the kernels see them, before the scale. */
static float offset_of(const struct qn_packed *p, const struct qn_linear *l, int n, int g, float scale)
{
    float middle = !qn_format_is_integer(l->format) ? 0 : p->kind == PACK_INT8 ? 128 : 8;
    if (!l->bias.n_dim) return middle - (float)qn_linear_zero(l, n, g);
    float bias = qn_tensor_value(&l->bias, qn_linear_scale_at(l, n, g));
    return bias == 0 ? middle : bias / scale + middle;
}

static int pack_scales(struct qn_packed *p, const struct qn_linear *l, struct qn_err *e)
{
    int rc = QN_OK;
    bool is_channel = l->format == QN_FMT_FP8_CHANNEL || l->format == QN_FMT_INT8_CHANNEL;
    QN_FAIL_IF(!isfinite(p->scale2), e, QN_FORMAT, "%s: the scale of the tensor is not finite", l->name);
    if (p->is_wide) QN_TRY(qn_linear_check(l, e));
    for (int n = 0; n < p->n_out; n++) {
        int tile = n / QN_TILE, lane = n % QN_TILE;
        if (is_channel) {
            p->out_scale[n] = qn_tensor_value(&l->scale, (size_t)n);
            QN_FAIL_IF(!isfinite(p->out_scale[n]), e, QN_FORMAT, "%s: scale %d is not finite", l->name, n);
        }
        for (int g = 0; g < p->n_group; g++) {
            size_t from = qn_linear_scale_at(l, n, g),
                   to = pack_group_index(p, tile, g) * QN_TILE + (size_t)lane;
            float x = qn_tensor_value(&l->scale, from);
            QN_FAIL_IF(!isfinite(x), e, QN_FORMAT, "%s: the scale of output %d, group %d is not finite",
                       l->name, n, g);
            if (p->scale == PACK_F32S)
                memcpy(p->scales + to * 4, &x, 4);
            else
                memcpy(p->scales + to * qn_dtype_bytes(l->scale.dtype),
                       (const unsigned char *)l->scale.data + from * qn_dtype_bytes(l->scale.dtype),
                       qn_dtype_bytes(l->scale.dtype));
            if (p->zeros) p->zeros[to] = (signed char)(8 - qn_linear_zero(l, n, g));
            if (p->offsets) {
                p->offsets[to] = offset_of(p, l, n, g, x);
                QN_FAIL_IF(!isfinite(p->offsets[to]), e, QN_FORMAT,
                           "%s: output %d, group %d has a bias without a scale", l->name, n, g);
            }
        }
    }
out:
    return rc;
}

static bool zeros_vary(const struct qn_packed *p, const struct qn_linear *l)
{
    if (!has_eights(p, l) || l->bias.n_dim) return false;
    for (int n = 0; n < p->n_out; n++)
        for (int g = 0; g < p->n_group; g++)
            if (qn_linear_zero(l, n, g) != 8) return true;
    return false;
}

/* Do groups have an addend that is no small integer: an MLX bias, or the zero point of int8? */
static bool has_offsets(const struct qn_packed *p, const struct qn_linear *l)
{
    if (l->bias.n_dim && !p->is_wide) return true;
    if (p->kind != PACK_INT8 || !p->group) return false;
    int middle = qn_format_is_integer(l->format) ? 128 : 0;
    for (int n = 0; n < p->n_out; n++)
        for (int g = 0; g < p->n_group; g++)
            if (qn_linear_zero(l, n, g) != middle) return true;
    return false;
}

void qn_packed_fill(struct qn_packed *p, const struct qn_linear *l, int first_tile, int end_tile)
{
    bool eights = has_eights(p, l);
    unsigned char *codes = xmalloc(((size_t)p->n_in + 8) * 2), *lane = codes;
    if (p->order) lane += p->n_in + 8;
    for (int tile = first_tile * 2; tile < QN_MIN(end_tile * 2, p->n_tile); tile++) {
        if (p->is_wide) {
            pack_tile_wide(p, l, tile);
            continue;
        }
        if (p->kind == PACK_BF16 || p->kind == PACK_F32) {
            pack_tile_plain(p, l, tile);
            continue;
        }
        if (has_whole_words(p, l)) {
            pack_tile_words(p, l, tile);
            continue;
        }
        for (int u = 0; eights && u < p->n_unit; u++)
            memset(unit_at(p, tile, u), 0x88, (size_t)p->unit_bytes);
        for (int n = tile * QN_TILE; n < QN_MIN((tile + 1) * QN_TILE, p->n_out); n++) {
            row_codes(p, l, n, codes);
            for (int k = 0; p->order && k < p->n_in; k++) lane[k] = codes[p->order[k]];
            for (int k = 0; eights && k < p->n_in; k++) lane[k] ^= 8; /* exchanged into the 8s */
            pack_lane_codes(p, tile, n % QN_TILE, lane);
        }
    }
    free(codes);
}

int qn_packed_make(struct qn_packed **out, const struct qn_linear *l, enum qn_act act, enum qn_isa isa,
                   struct qn_slab *slab, struct qn_err *e)
{
    int rc = qn_packed_begin(out, l, act, isa, slab, e);
    if (!rc) qn_packed_fill(*out, l, 0, qn_packed_n_tile(*out));
    return rc;
}

int qn_packed_begin(struct qn_packed **out, const struct qn_linear *l, enum qn_act act, enum qn_isa isa,
                    struct qn_slab *slab, struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_packed *p = xcalloc(1, sizeof *p);
    p->n_out = l->n_out;
    p->n_in = l->n_in;
    p->act = act;
    p->isa = act == QN_ACT_F32 && isa == QN_ISA_AVX512BF16 ? QN_ISA_AVX512 : isa;
    QN_TRY(choose(p, l, e));
    p->n_tile = (int)QN_CEIL_DIV(p->n_out, QN_TILE);
    p->block_tiles = p->kind == PACK_NIB4 ? 8 : p->kind == PACK_FP8 || p->kind == PACK_INT8 ? 4 : 2;
    p->n_unit = (int)QN_CEIL_DIV(p->n_in, p->unit_pairs * 2);
    for (int i = 0; i < 32; i++)
        p->table[i] = is_e2m1(l) ? e2m1_table[i & 15] : qn_f32_to_bf16((float)((i & 15) - 8));

    /* one region: codes, scales, zeros, scales of outputs */
    size_t tiles = (size_t)p->n_tile, groups = tiles * (size_t)p->n_group;
    size_t code_bytes = tiles * (size_t)p->n_unit * (size_t)p->unit_bytes;
    size_t group_bytes = groups * (size_t)scale_bytes(p->scale);
    bool has_zeros = zeros_vary(p, l);
    bool is_channel = l->format == QN_FMT_FP8_CHANNEL || l->format == QN_FMT_INT8_CHANNEL;
    bool has_offset = has_offsets(p, l);
    size_t zero_bytes = has_zeros    ? groups * QN_TILE
                        : has_offset ? groups * QN_TILE * sizeof(float)
                                     : 0,
           out_bytes = is_channel ? tiles * QN_TILE * 4 : 0;
    p->bytes =
        QN_ROUND_UP(code_bytes, 64) + QN_ROUND_UP(group_bytes, 64) + QN_ROUND_UP(zero_bytes, 64) + out_bytes;
    unsigned char *block;
    if (slab) {
        block = qn_slab_alloc(slab, p->bytes);
    } else {
        size_t own_bytes = QN_ROUND_UP(QN_MAX(p->bytes, 64), 64);
        block = p->own = aligned_alloc(64, own_bytes);
        if (block) memset(block, 0, own_bytes);
    }
    QN_FAIL_IF(!block, e, QN_NOMEM, "%s: no memory for %zu bytes of packed weights", l->name, p->bytes);
    p->codes = block;
    p->scales = p->codes + QN_ROUND_UP(code_bytes, 64);
    p->zeros = has_zeros ? (signed char *)p->scales + QN_ROUND_UP(group_bytes, 64) : NULL;
    p->offsets = has_offset ? (float *)(p->scales + QN_ROUND_UP(group_bytes, 64)) : NULL;
    p->out_scale =
        is_channel ? (float *)(p->scales + QN_ROUND_UP(group_bytes, 64) + QN_ROUND_UP(zero_bytes, 64)) : NULL;

    QN_TRY(pack_scales(p, l, e));
    *out = p;
    p = NULL;
out:
    qn_packed_free(p);
    return rc;
}

void qn_packed_free(struct qn_packed *p)
{
    if (!p) return;
    free(p->own);
    free(p->order);
    free(p);
}

int qn_packed_n_in(const struct qn_packed *p)
{
    return p->n_in;
}

int qn_packed_n_out(const struct qn_packed *p)
{
    return p->n_out;
}

size_t qn_packed_bytes(const struct qn_packed *p)
{
    return p->bytes;
}

int qn_packed_step(const struct qn_packed *p)
{
    return p->block_tiles / 2;
}

int qn_packed_n_tile(const struct qn_packed *p)
{
    return (p->n_tile + 1) / 2;
}

/* The weight of output n at k. */
static float weight_at(const struct qn_packed *p, int n, int k)
{
    int tile = n / QN_TILE, lane = n % QN_TILE, unit_k = p->unit_pairs * 2, u = k / unit_k, i = k % unit_k;
    const unsigned char *from = unit_at((struct qn_packed *)p, tile, u);
    int pair = i / 2, word = lane * 2 + i % 2;
    float x;
    uint16_t half;
    if (p->kind == PACK_F32) {
        memcpy(&x, from + (size_t)i * 64 + (size_t)lane * 4, 4);
        return x;
    }
    if (p->kind == PACK_BF16) {
        memcpy(&half, from + word * 2, 2);
        return qn_bf16_to_f32(half);
    }
    if (p->kind == PACK_NIB4) {
        memcpy(&half, from + word * 2, 2);
        x = qn_bf16_to_f32(p->table[half >> 4 * pair & 15]);
    } else {
        bool interleaved = pack_is_interleaved(p);
        if (p->is_int8) from += i % 4 / 2 * 64 + lane * 4 + i % 2 * 2 + i / 4;
        unsigned char code = p->is_int8
                                 ? *from ^ 0x80
                                 : from[interleaved ? word / 8 * 16 + pair * 8 + word % 8 : pair * 32 + word];
        if (interleaved && p->kind == PACK_INT8 && code > 0x80) code = (unsigned char)(256 - (code & 0x7f));
        x = p->kind == PACK_FP8 ? qn_e4m3_to_f32(code) : (float)(signed char)code;
    }
    float factor = p->out_scale ? p->out_scale[n] : p->scale2;
    if (p->is_int8 && p->scale == PACK_E4M3) factor *= 2;
    if (p->group) {
        size_t at = pack_group_index(p, tile, k / p->group) * QN_TILE + (size_t)lane;
        float scale;
        if (p->scale == PACK_E4M3) {
            scale = qn_e4m3_to_f32(p->scales[at]);
        } else if (p->scale == PACK_F32S) {
            memcpy(&scale, p->scales + at * 4, 4);
        } else {
            memcpy(&half, p->scales + at * 2, 2);
            scale = p->scale == PACK_F16 ? qn_f16_to_f32(half) : qn_bf16_to_f32(half);
        }
        if (p->zeros) x += p->zeros[at];
        if (p->offsets) x += p->offsets[at];
        x *= scale;
    }
    return x * factor;
}

void qn_packed_row(const struct qn_packed *p, int row, float *out)
{
    for (int k = 0; k < p->n_in; k++) out[p->order ? p->order[k] : k] = weight_at(p, row, k);
}

size_t qn_packed_act_bytes(int n_in, int n_row, enum qn_act act)
{
    return pack_act_row_bytes(n_in, act) * (size_t)n_row;
}

void qn_packed_act(enum qn_isa isa, enum qn_act act, const float *x, int n_in, int n_row, void *to)
{
    bool is_pairs = isa == QN_ISA_AVX512BF16 && act != QN_ACT_F32;
    size_t n = pack_act_values(n_in);
    for (int r = 0; r < n_row; r++, x += n_in) {
        unsigned char *row = (unsigned char *)to + (size_t)r * pack_act_row_bytes(n_in, act);
        float *sums = (float *)(row + n * 4);
        uint16_t *half = (uint16_t *)row;
        float *full = (float *)row;
        struct pack_int8_row small = pack_int8_row(row, n_in);
        for (int k = 0; k < n_in; k += 32) {
            float sum = 0, block[QN_ACT_BLOCK] = {0};
            int end = QN_MIN(k + 32, n_in);
            for (int i = k; i < end; i++) {
                float v = x[i];
                if (act != QN_ACT_F32) {
                    uint16_t b = qn_f32_to_bf16(v);
                    v = qn_bf16_to_f32(b);
                    if (is_pairs) half[i] = b;
                }
                if (!is_pairs) full[i] = v;
                block[i - k] = v;
                sum += v;
            }
            sums[k / 32] = sum;
            if (act == QN_ACT_INT8) pack_int8_block(&small, k / 32, block);
        }
        for (size_t i = (size_t)n_in; i < n; i++) {
            if (is_pairs)
                half[i] = 0;
            else
                full[i] = 0;
        }
    }
}

bool qn_packed_is_int8(const struct qn_packed *p)
{
    return p->is_int8;
}

bool qn_packed_has_order(const struct qn_packed *p)
{
    return p->order;
}

void qn_packed_reorder(const struct qn_packed *p, const void *act, int n_row, void *to)
{
    bool is_pairs = p->isa == QN_ISA_AVX512BF16 && p->act != QN_ACT_F32;
    size_t row_bytes = pack_act_row_bytes(p->n_in, p->act), n = pack_act_values(p->n_in);
    for (int r = 0; r < n_row; r++) {
        const unsigned char *from = (const unsigned char *)act + (size_t)r * row_bytes;
        unsigned char *row = (unsigned char *)to + (size_t)r * row_bytes;
        const uint16_t *half = (const uint16_t *)from;
        const float *full = (const float *)from;
        float *sums = (float *)(row + n * 4), sum = 0;
        memset(row, 0, row_bytes);
        for (int i = 0; i < p->n_in; i++) {
            int k = p->order[i];
            if (is_pairs)
                ((uint16_t *)row)[i] = half[k];
            else
                ((float *)row)[i] = full[k];
            sum = (i % 32 ? sum : 0) + (is_pairs ? qn_bf16_to_f32(half[k]) : full[k]);
            sums[i / 32] = sum;
        }
    }
}

/* BF16 pairs as floats, for float weights beside BF16 ones. */
static void *expand_rows(const struct qn_packed *p, const unsigned char *act, int n_row)
{
    int n_in = p->n_in;
    size_t row_bytes = pack_act_row_bytes(n_in, p->act), n = pack_act_values(n_in);
    unsigned char *out = aligned_alloc(64, row_bytes * (size_t)n_row);
    QN_CHECK(out);
    for (int r = 0; r < n_row; r++) {
        const uint16_t *from = (const uint16_t *)(act + (size_t)r * row_bytes);
        float *to = (float *)(out + (size_t)r * row_bytes);
        for (size_t i = 0; i < n; i++) to[i] = qn_bf16_to_f32(from[i]);
    }
    return out;
}

void qn_packed_run(const struct qn_packed *p, const void *act, int n_row, float *y, int ldy, int first_tile,
                   int end_tile)
{
    static void (*const run[QN_N_ISA])(const struct pack_job *) = {
        [QN_ISA_SCALAR] = pack_run_scalar,
#if defined(__x86_64__)
        [QN_ISA_AVX2] = pack_run_avx2,
        [QN_ISA_AVX512] = pack_run_avx512,
        [QN_ISA_AVX512BF16] = pack_run_avx512bf16,
#elif defined(__aarch64__)
        [QN_ISA_NEON] = pack_run_neon,
#endif
    };
    struct pack_job j = {.p = p, .act = act, .n_row = n_row, .ldy = ldy, .y = y};
    QN_CHECK(run[p->isa]);
    void *expanded = NULL;
    if (p->expands) j.act = expanded = expand_rows(p, act, n_row);
    int end = QN_MIN(end_tile * 2, p->n_tile);
    for (j.tile = first_tile * 2; j.tile < end; j.tile += j.n_tile) {
        j.n_tile = QN_MIN(p->block_tiles - j.tile % p->block_tiles, end - j.tile);
        run[p->isa](&j);
    }
    free(expanded);
}
