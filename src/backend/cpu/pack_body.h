/* The kernels over packed weights, written once over a few vector operations; each instruction set defines
 * these and includes this file:
 *
 *   vacc               16 floats; vacc_zero, vacc_load, vacc_store, vacc_set1, vacc_fma(a, b, c) = a * b + c,
 *                      vacc_mul
 *   vpair              16 lanes of two weights (k even, k odd) as the dot product wants them
 *   vx                 a pair of activations in all lanes; vx_load(row, pair)
 *   vacc_dot(acc, w, x)  acc + w.even * x.even + w.odd * x.odd, in this order
 *   pair_f32, pair_bf16, pair_fp8, pair_int8 (codes, pair in unit), pair_nib4(codes, pair, table)
 *   table_type, table_load   the E2M1 / int4 table
 *   scale_e4m3, scale_f16, scale_bf16    16 scales -> vacc
 *   vint, vbytes       16 lanes of int32, 64 bytes
 *   vint_dot(acc, w, x, is_small)   for each lane acc + the products of 4 unsigned w and 4 signed x, the same
 *                      x in all lanes; is_small: w < 32
 *   vint_set1, vacc_of(vint), bytes_load, bytes_low, bytes_high (nibbles), bytes_e2m1 (16 + twice the value)
 *   RUN                name of the function
 *   DIRECT_TILES       tiles that one row takes straight from the codes at once
 *   DIRECT_ROWS        most rows at once, two tiles each, straight from the codes
 *   DECODED_ROWS       and from decoded weights
 *   FEW_ROWS(kind)     up to so many rows go straight from the codes
 *   HAS_ROOM           do the accumulators of six rows of two tiles fit the registers beside their sums?
 *
 * Every row takes the same operations in the same order whatever the row count: one accumulator a lane, or,
 * with groups, one sum a group from zero, then acc = scale * sum + acc. So one row and many rows agree bit
 * for bit.
 * SPDX-License-Identifier: Apache-2.0 */
#include "backend/cpu/pack_impl.h"

#define INLINE static inline __attribute__((always_inline))

/* Many rows: the weights of two tiles are decoded once, [pair][tile] vpair, this many pairs of k at a time.
 * BF16 has that layout as it is. */
#define BUFFER_PAIRS 128
#define PLAIN_PAIRS  256

/* Where the weights of a kernel come from: codes as they are packed, decoded ones, or codes that are put down
 * decoded on the way, for the rows that follow. */
enum source { CODES, DECODED, DECODING };

/* What a kernel goes through. With decoded weights it fetches the codes of the next span meanwhile: left to
 * the decoding, the cores would wait for memory and then not use it. */
struct span {
    const unsigned char *codes; /* first unit */
    vpair *put;
    const vpair *decoded;
    const unsigned char *next; /* first unit of the next span */
    size_t code_step;          /* from unit to unit, of codes and of next */
    int next_shift;            /* pairs to units of next */
    int first_pair, n_pair;
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

INLINE int pairs_of(int kind)
{
    return kind == PACK_NIB4 ? 4 : kind == PACK_FP8 || kind == PACK_INT8 ? 2 : 1;
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

/* Sum of a row's activations over group g: what a zero point weighs. */
INLINE float group_sum(const struct qn_packed *p, const unsigned char *row, int g)
{
    const float *sums = (const float *)(row + pack_act_values(p->n_in) * 4) + g * p->group / 32;
    int n = QN_CEIL_DIV(QN_MIN(p->group, p->n_in - g * p->group), 32); /* the last may be shorter */
    if (n == 4) return sums[0] + sums[1] + sums[2] + sums[3];
    float total = sums[0];
    for (int i = 1; i < n; i++) total += sums[i];
    return total;
}

/* What belongs to the codes of a group of a tile. */
INLINE vacc addend(const struct qn_packed *p, size_t at)
{
    return p->zeros ? zero_load(p->zeros + at * 16) : vacc_load(p->offsets + at * 16);
}

#define MOST_ROWS  12
#define MOST_TILES 8

/* acc += the products of n_row rows (from x, act_bytes apart) and n_tile tiles (constants at each call) over
 * a span of k. Decoded weights have two tiles side by side. */
INLINE void dot_span(const struct span *s, const unsigned char *x, size_t act_bytes, vacc (*acc)[MOST_TILES],
                     const int n_row, const int n_tile, const int kind, const enum source from,
                     table_type table)
{
    const int unit_pairs = from == DECODED ? 1 : pairs_of(kind), unit_bytes = kind == PACK_F32 ? 128 : 64;
    const unsigned char *codes = s->codes;
    const vpair *decoded = s->decoded;
    vpair *put = s->put;
    for (int at = s->first_pair; at < s->first_pair + s->n_pair; at += unit_pairs) {
        if (from == CODES)
            for (int t = 0; t < n_tile; t++) __builtin_prefetch(codes + t * unit_bytes + CODES_AHEAD);
        else
            for (int t = 0; t < 2; t++)
                __builtin_prefetch(s->next + t * unit_bytes +
                                       (size_t)((at - s->first_pair) >> s->next_shift) * s->code_step,
                                   0, 2);
        for (int q = 0; q < unit_pairs; q++) {
            vpair w[MOST_TILES];
            for (int t = 0; t < n_tile; t++) {
                w[t] = from == DECODED ? decoded[t] : decode(kind, codes + t * unit_bytes, q, table);
                if (from == DECODING) put[q * 2 + t] = w[t];
            }
            for (int r = 0; r < n_row; r++) {
                vx v = vx_load(x + (size_t)r * act_bytes, at + q);
                for (int t = 0; t < n_tile; t++) acc[r][t] = vacc_dot(acc[r][t], w[t], v);
            }
        }
        codes += from == DECODED ? 0 : s->code_step;
        decoded += 2;
        put += 2 * unit_pairs;
    }
}

/* Applies the scales of the outputs and stores. */
INLINE void finish(const struct pack_job *j, int row, int tile, vacc acc)
{
    const struct qn_packed *p = j->p;
    int n = QN_MIN(QN_TILE, p->n_out - tile * QN_TILE);
    if (p->out_scale)
        acc = vacc_mul(acc, vacc_load(p->out_scale + tile * QN_TILE));
    else if (p->scale2 != 1.0f)
        acc = vacc_mul(acc, vacc_set1(p->scale2));
    float *y = j->y + (size_t)row * (size_t)j->ldy + tile * QN_TILE;
    if (n == QN_TILE) {
        vacc_store(y, acc);
    } else {
        float lanes[QN_TILE];
        vacc_store(lanes, acc);
        memcpy(y, lanes, (size_t)n * sizeof *y);
    }
}

/* n_row rows times n_tile tiles from `tile` (n_row and n_tile constants at each call), straight from the
 * codes. */
INLINE void direct(const struct pack_job *j, int row, int tile, const int n_row, const int n_tile,
                   const int kind, const int scale)
{
    const struct qn_packed *p = j->p;
    const size_t act_bytes = pack_act_row_bytes(p->n_in, p->act);
    const unsigned char *x = j->act + (size_t)row * act_bytes;
    const table_type table = table_load(p->table);
    const size_t unit_bytes = kind == PACK_F32 ? 128 : 64;
    const int n_pair = p->n_unit * pairs_of(kind);
    struct span s = {.codes = p->codes + pack_unit_index(p, tile, 0) * unit_bytes,
                     .code_step = (size_t)pack_block_size(p, tile) * unit_bytes,
                     .n_pair = n_pair};
    vacc acc[MOST_ROWS][MOST_TILES];
    for (int r = 0; r < n_row; r++)
        for (int t = 0; t < n_tile; t++) acc[r][t] = vacc_zero();
    if (scale == PACK_NO_GROUP) {
        dot_span(&s, x, act_bytes, acc, n_row, n_tile, kind, CODES, table);
    } else {
        const int pairs = scale == PACK_E4M3 ? 8 : p->group / 2; /* NVFP4: groups of 16 */
        size_t place = pack_group_index(p, tile, 0), place_step = (size_t)pack_block_size(p, tile);
        for (int g = 0; s.first_pair < n_pair; g++, place += place_step) {
            vacc sum[MOST_ROWS][MOST_TILES];
            for (int r = 0; r < n_row; r++)
                for (int t = 0; t < n_tile; t++) sum[r][t] = vacc_zero();
            s.n_pair = scale == PACK_E4M3 ? pairs : QN_MIN(pairs, n_pair - s.first_pair);
            dot_span(&s, x, act_bytes, sum, n_row, n_tile, kind, CODES, table);
            s.codes += (size_t)(s.n_pair / pairs_of(kind)) * s.code_step;
            s.first_pair += s.n_pair;
            if (scale == PACK_ANY && (p->zeros || p->offsets))
                for (int r = 0; r < n_row; r++) {
                    vacc total = vacc_set1(group_sum(p, x + (size_t)r * act_bytes, g));
                    for (int t = 0; t < n_tile; t++)
                        sum[r][t] =
                            vacc_fma(addend(p, place + (size_t)t), total, sum[r][t]);
                }
            for (int t = 0; t < n_tile; t++) {
                vacc scales =
                    group_scale(scale == PACK_ANY ? (int)p->scale : scale, p->scales, place + (size_t)t);
                for (int r = 0; r < n_row; r++) acc[r][t] = vacc_fma(scales, sum[r][t], acc[r][t]);
            }
        }
    }
    for (int r = 0; r < n_row; r++)
        for (int t = 0; t < n_tile; t++) finish(j, row + r, tile + t, acc[r][t]);
}

/* Shapes that have code of their own; others are made of these. The order of operations in a row is the same
 * everywhere, so this is a matter of speed only. */
INLINE void run_direct(const struct pack_job *j, const int kind, const int scale)
{
    for (int row = 0; row < j->n_row;) {
        int left = j->n_row - row, end = j->tile + j->n_tile, n = 1, tile = j->tile;
#if DIRECT_ROWS >= 6
        n = QN_MIN(left, 6);
#else
        n = QN_MIN(left, 2);
#endif
        while (tile < end) {
#define TRY(rows, tiles)                                                                                     \
    if (n == rows && end - tile >= tiles) {                                                                  \
        direct(j, row, tile, rows, tiles, kind, scale);                                                      \
        tile += tiles;                                                                                       \
        continue;                                                                                            \
    }
#if DIRECT_TILES >= 8
            if (kind == PACK_NIB4) TRY(1, 8)
#endif
#if DIRECT_TILES >= 4
            if (kind == PACK_NIB4 || kind == PACK_FP8 || kind == PACK_INT8) {
                TRY(1, 4)
#if DIRECT_ROWS >= 6
                TRY(2, 4)
                TRY(3, 4)
                if (kind != PACK_NIB4) TRY(4, 4)
#endif
            }
#endif
            TRY(1, 2)
            TRY(2, 2)
#if DIRECT_ROWS >= 6
            TRY(3, 2)
            TRY(4, 2)
            TRY(5, 2)
            TRY(6, 2)
#endif
#undef TRY
            for (int r = 0; r < n; r++) direct(j, row + r, tile, 1, 1, kind, scale); /* an odd last tile */
            tile++;
        }
        row += n;
    }
}

/* --- many rows --- */

/* One span of two tiles, its groups' scales and zeros (none, or [group][2] vectors) included. */
struct decoded {
    struct span span;
    vacc scales[BUFFER_PAIRS / 4], zeros[BUFFER_PAIRS / 4];
    int first_group;
};

/* n_row rows (a constant) over a span; keep [n_row][2][16] holds the accumulators between spans. */
INLINE void decoded_rows(const struct pack_job *j, const struct decoded *d, int row, const int n_row,
                         const bool has_groups, const bool has_zeros, const bool is_16, const int kind,
                         const enum source from, float *keep)
{
    const struct qn_packed *p = j->p;
    const size_t act_bytes = pack_act_row_bytes(p->n_in, p->act);
    const unsigned char *x = j->act + (size_t)row * act_bytes;
    const table_type table = table_load(p->table);
    const bool in_registers = !has_groups || is_16 || HAS_ROOM;
    struct span s = d->span;
    vacc acc[MOST_ROWS][MOST_TILES];
    for (int r = 0; r < n_row && in_registers; r++)
        for (int t = 0; t < 2; t++) acc[r][t] = vacc_load(keep + (r * 2 + t) * 16);
    if (!has_groups) {
        dot_span(&s, x, act_bytes, acc, n_row, 2, kind, from, table);
    } else {
        const int pairs = is_16 ? 8 : p->group / 2, end = s.first_pair + s.n_pair;
        for (int g = 0; s.first_pair < end; g++) {
            vacc sum[MOST_ROWS][MOST_TILES];
            for (int r = 0; r < n_row; r++)
                for (int t = 0; t < 2; t++) sum[r][t] = vacc_zero();
            s.n_pair = is_16 ? 8 : QN_MIN(pairs, end - s.first_pair);
            dot_span(&s, x, act_bytes, sum, n_row, 2, kind, from, table);
            const size_t n_unit = (size_t)(s.n_pair / pairs_of(kind));
            s.first_pair += s.n_pair;
            s.next += (size_t)(s.n_pair >> s.next_shift) * s.code_step;
            if (from == DECODING) {
                s.codes += n_unit * s.code_step;
                s.put += (size_t)s.n_pair * 2;
            } else {
                s.decoded += (size_t)s.n_pair * 2;
            }
            for (int r = 0; r < n_row && has_zeros; r++) {
                vacc total = vacc_set1(group_sum(p, x + (size_t)r * act_bytes, d->first_group + g));
                for (int t = 0; t < 2; t++) sum[r][t] = vacc_fma(d->zeros[g * 2 + t], total, sum[r][t]);
            }
            for (int t = 0; t < 2; t++)
                for (int r = 0; r < n_row; r++) {
                    float *at = keep + (r * 2 + t) * 16;
                    if (in_registers)
                        acc[r][t] = vacc_fma(d->scales[g * 2 + t], sum[r][t], acc[r][t]);
                    else
                        vacc_store(at, vacc_fma(d->scales[g * 2 + t], sum[r][t], vacc_load(at)));
                }
        }
    }
    for (int r = 0; r < n_row && in_registers; r++)
        for (int t = 0; t < 2; t++) vacc_store(keep + (r * 2 + t) * 16, acc[r][t]);
}

/* Rows that go together while `left` are to be done. A row has two sums that wait for themselves only, so one
 * or two rows alone leave the units idle: they are not left over where it can be helped. */
INLINE int rows_at_once(int left, const int most)
{
#if DECODED_ROWS >= 6
    if (most >= 12 && (left == 12 || left >= 15)) return 12;
    return left <= 6 ? left : left <= 8 ? 4 : 6;
#else
    return QN_MIN(left, most);
#endif
}

/* All rows from `row` over a span of decoded weights. */
INLINE void run_span(const struct pack_job *j, const struct decoded *d, int row, const bool has_groups,
                     const bool has_zeros, const bool is_16, float *keep)
{
    const int most = has_groups && (is_16 || HAS_ROOM) ? QN_MIN(DECODED_ROWS, 6) : DECODED_ROWS;
    for (int n; row < j->n_row; row += n) {
        n = rows_at_once(j->n_row - row, most);
#define ROWS(count)                                                                                          \
    if (n == count)                                                                                          \
    decoded_rows(j, d, row, count, has_groups, has_zeros, is_16, PACK_BF16, DECODED, keep + (size_t)row * 32)
#if DECODED_ROWS >= 12
        if (most >= 12) ROWS(12);
#endif
#if DECODED_ROWS >= 6
        ROWS(6);
        ROWS(5);
        ROWS(4);
        ROWS(3);
#endif
#if DECODED_ROWS >= 2
        ROWS(2);
#endif
        ROWS(1);
#undef ROWS
    }
}

/* These serve every format. */
static __attribute__((noinline)) void run_span_plain(const struct pack_job *j, const struct decoded *d,
                                                     int row, float *keep)
{
    run_span(j, d, row, false, false, false, keep);
}
static __attribute__((noinline)) void run_span_group(const struct pack_job *j, const struct decoded *d,
                                                     int row, float *keep)
{
    run_span(j, d, row, true, false, false, keep);
}
static __attribute__((noinline)) void run_span_zeros(const struct pack_job *j, const struct decoded *d,
                                                     int row, float *keep)
{
    run_span(j, d, row, true, true, false, keep);
}
static __attribute__((noinline)) void run_span_16(const struct pack_job *j, const struct decoded *d, int row,
                                                  float *keep)
{
    run_span(j, d, row, true, false, true, keep);
}

/* Many rows and two tiles from `tile`, a span of k at a time, accumulators kept in between: the first rows
 * decode it beside their products, the others take what they put down. */
INLINE void run_decoded(const struct pack_job *j, int tile, const int kind, const int scale, float *keep)
{
    const struct qn_packed *p = j->p;
    const int unit_pairs = pairs_of(kind), n_pair = p->n_unit * unit_pairs, pairs = p->group / 2;
    const size_t unit_bytes = kind == PACK_F32 ? 128 : 64;
    const unsigned char *unit = p->codes + pack_unit_index(p, tile, 0) * unit_bytes;
    vpair buffer[BUFFER_PAIRS * 2];
    struct decoded d;
    struct span *s = &d.span;
    s->code_step = (size_t)pack_block_size(p, tile) * unit_bytes;
    s->next_shift = unit_pairs / 2;
    const bool has_addend = p->zeros || p->offsets;
    const bool in_place = kind == PACK_BF16 && s->code_step == 2 * sizeof(vpair),
               is_16 = kind == PACK_NIB4 && scale == PACK_E4M3;
    /* a span is a whole number of groups */
    const int span_pairs = in_place ? PLAIN_PAIRS : p->group ? BUFFER_PAIRS / pairs * pairs : BUFFER_PAIRS;
    memset(keep, 0, (size_t)j->n_row * 32 * sizeof *keep);
    for (int first = 0; first < n_pair; first += span_pairs) {
        s->first_pair = first;
        s->n_pair = QN_MIN(span_pairs, n_pair - first);
        s->codes = unit;
        s->put = buffer;
        s->decoded = in_place ? (const vpair *)(const void *)unit : buffer;
        unit += (size_t)(s->n_pair / unit_pairs) * s->code_step;
        s->next = first + s->n_pair < n_pair || tile + 2 >= p->n_tile
                      ? unit
                      : p->codes + pack_unit_index(p, tile + 2, 0) * unit_bytes;
        d.first_group = p->group ? first / pairs : 0;
        for (int g = 0; p->group && g * pairs < s->n_pair; g++)
            for (int t = 0; t < 2; t++) {
                size_t at = pack_group_index(p, tile + t, d.first_group + g);
                d.scales[g * 2 + t] = group_scale(scale == PACK_ANY ? (int)p->scale : scale, p->scales, at);
                if (has_addend) d.zeros[g * 2 + t] = addend(p, at);
            }
        int row = 0;
        if (!in_place) {
            row = QN_MIN(DECODED_ROWS, 6);
            if (has_addend)
                decoded_rows(j, &d, 0, QN_MIN(DECODED_ROWS, 6), true, true, false, kind, DECODING, keep);
            else
                decoded_rows(j, &d, 0, QN_MIN(DECODED_ROWS, 6), scale != PACK_NO_GROUP, false, is_16, kind,
                             DECODING, keep);
        }
        if (!p->group)
            run_span_plain(j, &d, row, keep);
        else if (is_16)
            run_span_16(j, &d, row, keep);
        else if (has_addend)
            run_span_zeros(j, &d, row, keep);
        else
            run_span_group(j, &d, row, keep);
    }
    for (int r = 0; r < j->n_row; r++)
        for (int t = 0; t < 2; t++) finish(j, r, tile + t, vacc_load(keep + (r * 2 + t) * 16));
}

INLINE void run_kind(const struct pack_job *j, const int kind, const int scale)
{
    const struct qn_packed *p = j->p;
    bool fits = !p->group || (p->group >= 16 && p->group / 2 <= BUFFER_PAIRS);
    if (j->n_row <= FEW_ROWS(kind) || !fits) {
        run_direct(j, kind, scale);
        return;
    }
    float small[64 * 32] __attribute__((aligned(64))), *keep = small;
    if (j->n_row > 64) {
        keep = aligned_alloc(64, (size_t)j->n_row * 32 * sizeof *keep);
        QN_CHECK(keep);
    }
    int done = j->n_tile / 2 * 2;
    for (int t = 0; t < done; t += 2) run_decoded(j, j->tile + t, kind, scale, keep);
    if (keep != small) free(keep);
    for (int r = 0; r < j->n_row && done < j->n_tile; r++) /* an odd last tile */
        direct(j, r, j->tile + done, 1, 1, kind, scale);
}

#include "backend/cpu/pack_int8_body.h"

void RUN(const struct pack_job *j)
{
    const struct qn_packed *p = j->p;
    if (p->is_int8) {
        run_int8(j);
        return;
    }
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
        if (p->scale == PACK_NO_GROUP)
            run_kind(j, PACK_INT8, PACK_NO_GROUP);
        else
            run_kind(j, PACK_INT8, PACK_ANY);
        return;
    default:
        break;
    }
    if (p->scale == PACK_E4M3)
        run_kind(j, PACK_NIB4, PACK_E4M3);
    else
        run_kind(j, PACK_NIB4, PACK_ANY);
}
