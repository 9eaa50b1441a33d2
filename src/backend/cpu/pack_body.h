/* The kernels over packed weights, written once over a few vector operations; each instruction set defines
 * these and includes this file:
 *
 *   vacc                      16 floats; vacc_zero, vacc_load, vacc_store, vacc_set1, vacc_fma(a, b, c) = a *
 * b + c, vacc_mul vpair                     16 lanes of two weights (k even, k odd) as the dot product wants
 * them vx                        a pair of activations in all lanes; vx_load(row, pair) vacc_dot(acc, w, x)
 * acc + w.even * x.even + w.odd * x.odd, in this order pair_f32, pair_bf16, pair_fp8, pair_int8 (codes, pair
 * in unit), pair_nib4(codes, pair, table) table_type, table_load    the E2M1 / int4 table scale_e4m3,
 * scale_f16, scale_bf16    16 scales -> vacc RUN, ROWS_PLAIN, ROWS_GROUP          name of the function, most
 * rows at once
 *
 * Every row takes the same operations in the same order whatever the row count: one accumulator a lane, or,
 * with groups, one sum a group from zero, then acc = scale * sum + acc. So one row and many rows agree bit
 * for bit. SPDX-License-Identifier: Apache-2.0 */
#include "backend/cpu/pack_impl.h"

#define INLINE static inline __attribute__((always_inline))

/* A block whose weights are decoded once for many rows: [pair][tile] vpair, BUFFER_PAIRS of k at most. */
#define BUFFER_PAIRS 256

struct span {
    const unsigned char *codes; /* first unit */
    const vpair *decoded;       /* or these */
    int first_pair, n_pair;
    int first_group;
    bool is_first, is_last; /* of the k range: start from zero; scale and store */
};

INLINE vpair decode(int kind, const unsigned char *unit, int pair, table_type table)
{
    switch (kind) {
    case PACK_F32:
        return pair_f32(unit);
    case PACK_BF16:
        return pair_bf16(unit);
    case PACK_FP8:
        return pair_fp8(unit, pair);
    case PACK_INT8:
        return pair_int8(unit, pair);
    default:
        return pair_nib4(unit, pair, table);
    }
}

INLINE vacc group_scale(int scale, const unsigned char *scales, size_t at)
{
    switch (scale) {
    case PACK_E4M3:
        return scale_e4m3(scales + at * 16);
    case PACK_F16:
        return scale_f16(scales + at * 32);
    case PACK_BF16S:
        return scale_bf16(scales + at * 32);
    default:
        return vacc_load((const float *)(scales + at * 64));
    }
}

/* n_row rows (a constant at each call) times the block's tiles (a constant) over one span of k. keep
 * [n_row][2][16] holds accumulators between spans. */
INLINE void run_rows(const struct pack_job *j, const struct span *s, int row, const int n_row,
                     const int n_tile, const int kind, const int scale, const bool is_decoded, float *keep)
{
    const struct qn_packed *p = j->p;
    const int unit_pairs = is_decoded                              ? 1
                           : kind == PACK_NIB4                     ? 4
                           : kind == PACK_FP8 || kind == PACK_INT8 ? 2
                                                                   : 1;
    const int unit_bytes = kind == PACK_F32 ? 128 : 64;
    const size_t act_bytes = pack_act_row_bytes(p->n_in);
    const unsigned char *x = j->act + (size_t)row * act_bytes;
    const table_type table = table_load(p->table);
    vacc acc[12][2];
    for (int r = 0; r < n_row; r++)
        for (int t = 0; t < n_tile; t++)
            acc[r][t] = s->is_first ? vacc_zero() : vacc_load(keep + (r * 2 + t) * 16);

    const unsigned char *codes = s->codes;
    const vpair *decoded = s->decoded;
    if (scale == PACK_NO_GROUP) {
        for (int at = s->first_pair; at < s->first_pair + s->n_pair; at += unit_pairs) {
            for (int q = 0; q < unit_pairs; q++) {
                vpair w[2];
                for (int t = 0; t < n_tile; t++)
                    w[t] = is_decoded ? decoded[t] : decode(kind, codes + t * unit_bytes, q, table);
                for (int r = 0; r < n_row; r++) {
                    vx v = vx_load(x + (size_t)r * act_bytes, at + q);
                    for (int t = 0; t < n_tile; t++) acc[r][t] = vacc_dot(acc[r][t], w[t], v);
                }
            }
            if (is_decoded)
                decoded += n_tile;
            else
                codes += (size_t)n_tile * unit_bytes;
        }
    } else {
        const int pairs = p->group / 2;
        int g = s->first_group;
        for (int at = s->first_pair; at < s->first_pair + s->n_pair; g++) {
            vacc sum[12][2];
            for (int r = 0; r < n_row; r++)
                for (int t = 0; t < n_tile; t++) sum[r][t] = vacc_zero();
            int end = QN_MIN(at + pairs, s->first_pair + s->n_pair);
            for (; at < end; at += unit_pairs) {
                for (int q = 0; q < unit_pairs; q++) {
                    vpair w[2];
                    for (int t = 0; t < n_tile; t++)
                        w[t] = is_decoded ? decoded[t] : decode(kind, codes + t * unit_bytes, q, table);
                    for (int r = 0; r < n_row; r++) {
                        vx v = vx_load(x + (size_t)r * act_bytes, at + q);
                        for (int t = 0; t < n_tile; t++) sum[r][t] = vacc_dot(sum[r][t], w[t], v);
                    }
                }
                if (is_decoded)
                    decoded += n_tile;
                else
                    codes += (size_t)n_tile * unit_bytes;
            }
            for (int t = 0; t < n_tile; t++) {
                size_t place =
                    ((size_t)j->block * 2 * (size_t)p->n_group) + (size_t)g * (size_t)n_tile + (size_t)t;
                vacc scales = group_scale(scale == PACK_ANY ? (int)p->scale : scale, p->scales, place);
                for (int r = 0; r < n_row; r++) {
                    if (p->zeros) {
                        const float *sums =
                            (const float *)(x + (size_t)r * act_bytes + pack_act_values(p->n_in) * 4) +
                            g * p->group / 32;
                        float total = 0;
                        for (int i = 0; i < p->group / 32; i++) total += sums[i];
                        sum[r][t] = vacc_fma(zero_load(p->zeros + place * 16), vacc_set1(total), sum[r][t]);
                    }
                    acc[r][t] = vacc_fma(scales, sum[r][t], acc[r][t]);
                }
            }
        }
    }

    if (!s->is_last) {
        for (int r = 0; r < n_row; r++)
            for (int t = 0; t < n_tile; t++) vacc_store(keep + (r * 2 + t) * 16, acc[r][t]);
        return;
    }
    for (int t = 0; t < n_tile; t++) {
        int tile = j->block * 2 + t, n = QN_MIN(QN_TILE, p->n_out - tile * QN_TILE);
        vacc factor = p->out_scale ? vacc_load(p->out_scale + tile * QN_TILE) : vacc_set1(p->scale2);
        bool is_plain = !p->out_scale && p->scale2 == 1.0f;
        for (int r = 0; r < n_row; r++) {
            vacc v = is_plain ? acc[r][t] : vacc_mul(acc[r][t], factor);
            float *y = j->y + (size_t)(row + r) * (size_t)j->ldy + tile * QN_TILE;
            if (n == QN_TILE) {
                vacc_store(y, v);
            } else {
                float lanes[QN_TILE];
                vacc_store(lanes, v);
                memcpy(y, lanes, (size_t)n * sizeof *y);
            }
        }
    }
}

/* Row counts that have code of their own; others are made of these. With one tile (the odd last one of a
 * layer) rows go one by one. The order of operations in a row is the same everywhere, so this is a matter of
 * speed only. */
static int piece(int n_row, int most, const int n_tile)
{
    if (n_tile == 1) return 1;
    if (n_row >= 12 && most >= 12) return 12;
    if (n_row >= 6 && most >= 6) return 6;
    return QN_MIN(n_row, QN_MIN(most, 4));
}

/* The row count becomes a constant here. */
INLINE void run_some(const struct pack_job *j, const struct span *s, int row, int n_row, const int n_tile,
                     const int kind, const int scale, const bool is_decoded, float *keep)
{
    if (n_tile == 1) {
        run_rows(j, s, row, 1, 1, kind, scale, is_decoded, keep);
        return;
    }
#define CASE(n)                                                                                              \
    case n:                                                                                                  \
        run_rows(j, s, row, n, 2, kind, scale, is_decoded, keep);                                            \
        break
    switch (n_row) {
        CASE(1);
        CASE(2);
#if ROWS_PLAIN > 2
        CASE(3);
        CASE(4);
        CASE(6);
    case 12:
        if (is_decoded && scale == PACK_NO_GROUP) run_rows(j, s, row, 12, 2, kind, scale, is_decoded, keep);
        break;
#endif
    default:
        QN_CHECK(0);
    }
#undef CASE
}

/* All rows of a block, straight from the codes. */
INLINE void run_direct(const struct pack_job *j, const int n_tile, const int kind, const int scale)
{
    const struct qn_packed *p = j->p;
    const int most = scale == PACK_NO_GROUP ? QN_MIN(ROWS_PLAIN, 6) : ROWS_GROUP;
    struct span s = {.codes = p->codes + (size_t)j->block * 2 * (size_t)p->n_unit * (size_t)p->unit_bytes,
                     .n_pair = p->n_unit * p->unit_pairs,
                     .is_first = true,
                     .is_last = true};
    for (int row = 0; row < j->n_row;) {
        int n = piece(j->n_row - row, most, n_tile);
        run_some(j, &s, row, n, n_tile, kind, scale, false, NULL);
        row += n;
    }
}

/* One span of decoded weights for all rows. Two functions serve every format: with groups and without. */
static __attribute__((noinline)) void run_span_plain(const struct pack_job *j, const struct span *s,
                                                     int n_tile, float *keep)
{
    for (int row = 0; row < j->n_row;) {
        int n = piece(j->n_row - row, ROWS_PLAIN, n_tile);
        if (n_tile == 2)
            run_some(j, s, row, n, 2, PACK_BF16, PACK_NO_GROUP, true, keep + (size_t)row * 32);
        else
            run_some(j, s, row, n, 1, PACK_BF16, PACK_NO_GROUP, true, keep + (size_t)row * 32);
        row += n;
    }
}

static __attribute__((noinline)) void run_span_group(const struct pack_job *j, const struct span *s,
                                                     int n_tile, float *keep)
{
    for (int row = 0; row < j->n_row;) {
        int n = piece(j->n_row - row, ROWS_GROUP, n_tile);
        if (n_tile == 2)
            run_some(j, s, row, n, 2, PACK_NIB4, PACK_ANY, true, keep + (size_t)row * 32);
        else
            run_some(j, s, row, n, 1, PACK_NIB4, PACK_ANY, true, keep + (size_t)row * 32);
        row += n;
    }
}

/* Many rows: decode a span of k once, run all rows over it, keep accumulators in between. */
INLINE void run_decoded(const struct pack_job *j, const int n_tile, const int kind, float *keep)
{
    const struct qn_packed *p = j->p;
    const table_type table = table_load(p->table);
    const int n_pair = p->n_unit * p->unit_pairs;
    /* a span is a whole number of groups */
    int span_pairs = BUFFER_PAIRS;
    if (p->group) span_pairs = BUFFER_PAIRS / (p->group / 2) * (p->group / 2);
    vpair buffer[BUFFER_PAIRS * 2] __attribute__((aligned(64)));
    for (int first = 0; first < n_pair; first += span_pairs) {
        int n = QN_MIN(span_pairs, n_pair - first);
        const unsigned char *unit = p->codes + ((size_t)j->block * 2 * (size_t)p->n_unit +
                                                (size_t)(first / p->unit_pairs) * (size_t)n_tile) *
                                                   (size_t)p->unit_bytes;
        const int unit_pairs = kind == PACK_NIB4 ? 4 : kind == PACK_FP8 || kind == PACK_INT8 ? 2 : 1;
        for (int at = 0; at < n; at += unit_pairs)
            for (int t = 0; t < n_tile; t++, unit += p->unit_bytes)
                for (int q = 0; q < unit_pairs; q++)
                    buffer[(at + q) * n_tile + t] = decode(kind, unit, q, table);
        struct span s = {.decoded = buffer,
                         .first_pair = first,
                         .n_pair = n,
                         .first_group = p->group ? first / (p->group / 2) : 0,
                         .is_first = !first,
                         .is_last = first + n == n_pair};
        if (p->group)
            run_span_group(j, &s, n_tile, keep);
        else
            run_span_plain(j, &s, n_tile, keep);
    }
}

#define DIRECT_ROWS 16 /* above, decoding once pays */

INLINE void run_kind(const struct pack_job *j, const int kind, const int scale)
{
    const struct qn_packed *p = j->p;
    bool two = j->block * 2 + 2 <= p->n_tile;
    bool fits = !p->group || p->group / 2 <= BUFFER_PAIRS;
    if (j->n_row <= DIRECT_ROWS || !fits) {
        if (two)
            run_direct(j, 2, kind, scale);
        else
            run_direct(j, 1, kind, scale);
        return;
    }
    float small[64 * 32], *keep = small;
    if (j->n_row > 64) {
        keep = malloc((size_t)j->n_row * 32 * sizeof *keep);
        QN_CHECK(keep);
    }
    run_decoded(j, two ? 2 : 1, kind, keep);
    if (keep != small) free(keep);
}

void RUN(const struct pack_job *j)
{
    const struct qn_packed *p = j->p;
    switch (p->kind) {
#if HAS_F32
    case PACK_F32:
        run_kind(j, PACK_F32, PACK_NO_GROUP);
        return;
#endif
    case PACK_BF16:
        run_kind(j, PACK_BF16, PACK_NO_GROUP);
        return;
    case PACK_FP8:
        if (p->scale == PACK_NO_GROUP)
            run_kind(j, PACK_FP8, PACK_NO_GROUP);
        else
            run_kind(j, PACK_FP8, PACK_F32S);
        return;
    case PACK_INT8:
        run_kind(j, PACK_INT8, PACK_NO_GROUP);
        return;
    default:
        break;
    }
    if (p->scale == PACK_E4M3)
        run_kind(j, PACK_NIB4, PACK_E4M3);
    else
        run_kind(j, PACK_NIB4, PACK_ANY);
}
