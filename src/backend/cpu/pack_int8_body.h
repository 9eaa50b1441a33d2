/* Kernels for 8-bit activations: part of pack_body.h, over its vint and vbytes.
 *
 * Sums of a block of 32 k (E2M1: of each half, a group of weights) are whole numbers, so their order is free;
 * the order of what follows is fixed, the same for any number of rows:
 *
 *   E2M1   y += scale of x * (scale of the first half * sum + scale of the second * sum)
 *   int4   a group of weights: g += scale of x * sum, block by block; then the zero point; y += scale of w *
 * g int8   y += scale of x * sum
 *
 * SPDX-License-Identifier: Apache-2.0 */

enum int8_form { INT8_E2M1, INT8_NIB4, INT8_BYTE };

#define INT8_UNITS  (QN_ACT_BLOCK / 8) /* of a block */
#define INT8_FEW    8                  /* rows; above, going through the codes once pays */
#define INT8_BLOCKS 8                  /* decoded at once: 256 k of two tiles */

/* Weights, as they are packed or decoded, and the scales beside them. */
struct int8_span {
    const unsigned char *codes;
    size_t code_step;
    const vbytes *decoded; /* [unit][half][2] */
    const vacc *scales;    /* [group in span][2], of decoded weights */
    const vacc *zeros;
    int first_block, end_block;
};

struct int8_decoded {
    vbytes bytes[INT8_BLOCKS * INT8_UNITS * 4];
    vacc scales[INT8_BLOCKS * 4], zeros[INT8_BLOCKS * 2];
};

INLINE void int8_unit(const unsigned char *unit, const int form, vbytes *low, vbytes *high)
{
    vbytes v = bytes_load(unit);
    if (form == INT8_BYTE) {
        *low = v;
        *high = bytes_load(unit + 64);
        return;
    }
    *low = bytes_low(v);
    *high = bytes_high(v);
    if (form == INT8_E2M1) {
        *low = bytes_e2m1(*low);
        *high = bytes_e2m1(*high);
    }
}

/* sum += n_unit units of n_tile tiles times n_row rows of codes, x_step bytes apart. */
INLINE void int8_dot(struct int8_span *s, const int8_t *x, size_t x_step, vint (*sum)[MOST_TILES],
                     const int n_row, const int n_tile, const int n_unit, const int form,
                     const bool is_decoded)
{
    const int unit_bytes = form == INT8_BYTE ? 128 : 64;
    for (int u = 0; u < n_unit; u++, x += 8) {
        vbytes w[2][MOST_TILES];
        for (int t = 0; t < n_tile; t++) {
            if (is_decoded) {
                w[0][t] = s->decoded[t];
                w[1][t] = s->decoded[2 + t];
            } else {
                __builtin_prefetch(s->codes + t * unit_bytes + CODES_AHEAD);
                if (form == INT8_BYTE) __builtin_prefetch(s->codes + t * unit_bytes + CODES_AHEAD + 64);
                int8_unit(s->codes + t * unit_bytes, form, &w[0][t], &w[1][t]);
            }
        }
        for (int h = 0; h < 2; h++)
            for (int r = 0; r < n_row; r++)
                for (int t = 0; t < n_tile; t++)
                    sum[r][t] =
                        vint_dot(sum[r][t], w[h][t], x + (size_t)r * x_step + h * 4, form != INT8_BYTE);
        if (is_decoded)
            s->decoded += 4;
        else
            s->codes += s->code_step;
    }
}

INLINE void int8_dot_some(struct int8_span *s, const int8_t *x, size_t x_step, const int32_t *bias,
                          vint (*sum)[MOST_TILES], const int n_row, const int n_tile, const int most,
                          int n_unit, const int form, const bool is_decoded)
{
    for (int r = 0; r < n_row; r++) {
        vint start = vint_set1(*(const int32_t *)(const void *)((const char *)bias + (size_t)r * x_step));
        for (int t = 0; t < n_tile; t++) sum[r][t] = start;
    }
    if (n_unit == most)
        int8_dot(s, x, x_step, sum, n_row, n_tile, most, form, is_decoded);
    else
        for (; n_unit > 0; n_unit--, x += 8) int8_dot(s, x, x_step, sum, n_row, n_tile, 1, form, is_decoded);
}

/* acc (or keep [n_row][2][16], with decoded weights) += the blocks of a span. */
INLINE void int8_span(const struct pack_job *j, struct int8_span s, int row, int tile,
                      vacc (*acc)[MOST_TILES], float *keep, const int n_row, const int n_tile, const int form,
                      const bool is_decoded)
{
    const struct qn_packed *p = j->p;
    const size_t step = pack_act_row_bytes(p->n_in, p->act);
    const struct pack_int8_row x = pack_int8_row(j->act + (size_t)row * step, p->n_in);
#define OF_ROW(field, r) (*(const float *)(const void *)((const char *)(field) + (size_t)(r)*step))
    const int blocks = form == INT8_NIB4 ? p->group / QN_ACT_BLOCK : 1; /* of a group */
    size_t place = form == INT8_BYTE
                       ? 0
                       : pack_group_index(p, tile, s.first_block * (form == INT8_E2M1 ? 2 : 1) / blocks);
    const size_t place_step = (size_t)pack_block_size(p, tile);
    vint sum[MOST_ROWS][MOST_TILES];
    vacc part[MOST_ROWS][MOST_TILES];
    for (int b = s.first_block; b < s.end_block;) {
        for (int r = 0; r < n_row; r++)
            for (int t = 0; t < n_tile; t++) part[r][t] = vacc_zero();
        for (int i = 0; i < blocks; i++, b++) {
            const int8_t *code = x.code + (size_t)b * QN_ACT_BLOCK;
            int n_unit = QN_MIN(INT8_UNITS, p->n_unit - b * INT8_UNITS);
            if (form == INT8_E2M1) {
                for (int h = 0; h < 2; h++, n_unit -= 2) {
                    if (n_unit <= 0) break;
                    int8_dot_some(&s, code + h * 16, step, x.bias16 + 2 * b + h, sum, n_row, n_tile, 2,
                                  QN_MIN(n_unit, 2), form, is_decoded);
                    for (int t = 0; t < n_tile; t++) {
                        vacc scale =
                            is_decoded ? s.scales[t] : scale_e4m3(p->scales + (place + (size_t)t) * 16);
                        for (int r = 0; r < n_row; r++)
                            part[r][t] = h ? vacc_fma(scale, vacc_of(sum[r][t]), part[r][t])
                                           : vacc_mul(scale, vacc_of(sum[r][t]));
                    }
                    place += place_step;
                    s.scales += 2;
                }
            } else {
                int8_dot_some(&s, code, step, form == INT8_NIB4 ? x.bias8 + b : x.bias128 + b, sum, n_row,
                              n_tile, INT8_UNITS, n_unit, form, is_decoded);
                if (form == INT8_NIB4)
                    for (int r = 0; r < n_row; r++) {
                        vacc scale = vacc_set1(OF_ROW(x.scale + b, r));
                        for (int t = 0; t < n_tile; t++)
                            part[r][t] = vacc_fma(scale, vacc_of(sum[r][t]), part[r][t]);
                    }
            }
        }
        if (form == INT8_NIB4 && (is_decoded ? s.zeros != NULL : p->zeros != NULL))
            for (int r = 0; r < n_row; r++) {
                float total = 0;
                for (int i = b - blocks; i < b; i++) total += OF_ROW(x.sum + i, r);
                for (int t = 0; t < n_tile; t++)
                    part[r][t] =
                        vacc_fma(is_decoded ? s.zeros[t] : zero_load(p->zeros + (place + (size_t)t) * 16),
                                 vacc_set1(total), part[r][t]);
            }
        for (int t = 0; t < n_tile; t++) {
            vacc scale = vacc_zero();
            if (form == INT8_NIB4)
                scale = is_decoded ? s.scales[t] : group_scale((int)p->scale, p->scales, place + (size_t)t);
            for (int r = 0; r < n_row; r++) {
                vacc factor = form == INT8_NIB4 ? scale : vacc_set1(OF_ROW(x.scale + b - 1, r));
                vacc term = form == INT8_BYTE ? vacc_of(sum[r][t]) : part[r][t];
                float *at = is_decoded ? keep + (r * 2 + t) * 16 : NULL;
                if (is_decoded)
                    vacc_store(at, vacc_fma(factor, term, vacc_load(at)));
                else
                    acc[r][t] = vacc_fma(factor, term, acc[r][t]);
            }
        }
        if (form == INT8_NIB4) {
            place += place_step;
            s.scales += 2;
            s.zeros += s.zeros ? 2 : 0;
        }
    }
#undef OF_ROW
}

INLINE int int8_n_block(const struct qn_packed *p)
{
    return (int)QN_CEIL_DIV(p->n_in, QN_ACT_BLOCK);
}

INLINE void int8_direct(const struct pack_job *j, int row, int tile, const int n_row, const int n_tile,
                        const int form)
{
    const struct qn_packed *p = j->p;
    const size_t unit_bytes = form == INT8_BYTE ? 128 : 64;
    const struct int8_span s = {.codes = p->codes + pack_unit_index(p, tile, 0) * unit_bytes,
                                .code_step = (size_t)pack_block_size(p, tile) * unit_bytes,
                                .end_block = int8_n_block(p)};
    vacc acc[MOST_ROWS][MOST_TILES];
    for (int r = 0; r < n_row; r++)
        for (int t = 0; t < n_tile; t++) acc[r][t] = vacc_zero();
    int8_span(j, s, row, tile, acc, NULL, n_row, n_tile, form, false);
    for (int r = 0; r < n_row; r++)
        for (int t = 0; t < n_tile; t++) finish(j, row + r, tile + t, acc[r][t]);
}

INLINE void int8_few(const struct pack_job *j, int row, int n_row, int tile, int end, const int form)
{
    for (int n = 1; n_row; row += n, n_row -= n) {
        n = n_row >= DIRECT_ROWS ? DIRECT_ROWS : n_row >= 4 && DIRECT_ROWS >= 4 ? 4 : QN_MIN(n_row, 2);
        for (int t = tile; t < end;) {
#define TRY(rows, tiles)                                                                                     \
    if (n == rows && end - t >= tiles) {                                                                     \
        int8_direct(j, row, t, rows, tiles, form);                                                           \
        t += tiles;                                                                                          \
        continue;                                                                                            \
    }
#if DIRECT_TILES >= 8
            if (form != INT8_BYTE) TRY(1, 8)
            TRY(2, 4)
#endif
#if DIRECT_TILES >= 4
            TRY(1, 4)
#endif
            TRY(1, 2)
            TRY(2, 2)
#if DIRECT_ROWS >= 6
            TRY(4, 2)
            TRY(6, 2)
#endif
#undef TRY
            for (int r = 0; r < n; r++) int8_direct(j, row + r, t, 1, 1, form); /* an odd last tile */
            t++;
        }
    }
}

/* Many rows and two tiles: a span is decoded once. */
INLINE void int8_many(const struct pack_job *j, int tile, const int form, float *keep)
{
    const struct qn_packed *p = j->p;
    const size_t unit_bytes = form == INT8_BYTE ? 128 : 64,
                 code_step = (size_t)pack_block_size(p, tile) * unit_bytes;
    const unsigned char *unit = p->codes + pack_unit_index(p, tile, 0) * unit_bytes;
    const int blocks = form == INT8_NIB4 ? p->group / QN_ACT_BLOCK : 1, n_block = int8_n_block(p);
    const int span_blocks = INT8_BLOCKS / blocks * blocks;
    struct int8_decoded d;
    memset(keep, 0, (size_t)j->n_row * 32 * sizeof *keep);
    for (int b = 0; b < n_block; b += span_blocks) {
        int end = QN_MIN(b + span_blocks, n_block),
            n_unit = QN_MIN(end * INT8_UNITS, p->n_unit) - b * INT8_UNITS;
        for (int u = 0; u < n_unit; u++, unit += code_step)
            for (int t = 0; t < 2; t++)
                int8_unit(unit + (size_t)t * unit_bytes, form, &d.bytes[u * 4 + t], &d.bytes[u * 4 + 2 + t]);
        int first = form == INT8_E2M1 ? 2 * b : b / blocks;
        int n_group = form == INT8_BYTE ? 0
                                        : QN_MIN(form == INT8_E2M1 ? 2 * (end - b) : (end - b) / blocks,
                                                 p->n_group - first);
        for (int g = 0; g < n_group; g++)
            for (int t = 0; t < 2; t++) {
                size_t at = pack_group_index(p, tile + t, first + g);
                d.scales[g * 2 + t] = form == INT8_E2M1 ? scale_e4m3(p->scales + at * 16)
                                                        : group_scale((int)p->scale, p->scales, at);
                if (p->zeros) d.zeros[g * 2 + t] = zero_load(p->zeros + at * 16);
            }
        struct int8_span s = {.decoded = d.bytes,
                              .scales = d.scales,
                              .zeros = p->zeros ? d.zeros : NULL,
                              .first_block = b,
                              .end_block = end};
        int row = 0;
#define ROWS(n)                                                                                              \
    for (; row + n <= j->n_row; row += n)                                                                    \
    int8_span(j, s, row, tile, NULL, keep + (size_t)row * 32, n, 2, form, true)
#if DIRECT_ROWS >= 6
        ROWS(6);
        ROWS(4);
#endif
        ROWS(2);
        ROWS(1);
#undef ROWS
    }
    for (int r = 0; r < j->n_row; r++)
        for (int t = 0; t < 2; t++) finish(j, r, tile + t, vacc_load(keep + (r * 2 + t) * 16));
}

INLINE void int8_rows(const struct pack_job *j, const int form)
{
    const struct qn_packed *p = j->p;
    bool fits = form != INT8_NIB4 || p->group <= INT8_BLOCKS * QN_ACT_BLOCK;
    int end = j->tile + j->n_tile;
    if (j->n_row <= INT8_FEW || !fits) {
        int8_few(j, 0, j->n_row, j->tile, end, form);
        return;
    }
    float small[64 * 32] __attribute__((aligned(64))), *keep = small;
    if (j->n_row > 64) {
        keep = aligned_alloc(64, (size_t)j->n_row * 32 * sizeof *keep);
        QN_CHECK(keep);
    }
    int tile = j->tile;
    for (; tile + 2 <= end; tile += 2) int8_many(j, tile, form, keep);
    if (keep != small) free(keep);
    if (tile < end) int8_few(j, 0, j->n_row, tile, end, form); /* an odd last tile */
}

static void run_int8(const struct pack_job *j)
{
    if (j->p->kind == PACK_INT8)
        int8_rows(j, INT8_BYTE);
    else if (j->p->scale == PACK_E4M3)
        int8_rows(j, INT8_E2M1);
    else
        int8_rows(j, INT8_NIB4);
}
