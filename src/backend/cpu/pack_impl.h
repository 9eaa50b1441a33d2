/* What pack.c and the kernels of each instruction set share. Not included elsewhere.
 *
 * Layout. Outputs are cut into blocks of tiles (the last block may have fewer). The codes of a block are
 * units of k, and within a unit its tiles:
 *
 *   [block][unit][tile in block][unit_bytes]
 *
 *   kind   unit holds     tiles of a block   bytes of a unit and tile
 *   F32    1 pair of k    2                  128: 16 floats of the even k, 16 of the odd k
 *   BF16   1 pair         2                   64: 32 words, word 2 l + j is lane l, k j
 *   BYTE8  2 pairs        4                   64: bytes in word order, or (avx512bf16) in the order that
 *                                                 a byte interleave of 128-bit lanes turns into words: byte
 *                                                 16 L + 8 p + i is pair p, word 8 L + i
 *   NIB4   4 pairs        8                   64: nibble p of word w is pair p, word w
 *   INT8 with 8-bit activations:
 *          4 pairs        4                  128: 16 lanes of k 0 4 1 5, then of 2 6 3 7; bytes are w + 128
 *
 * With 8-bit activations the nibbles of a 32-bit lane are its k in that order, too: the low ones of its four
 * bytes 0 4 1 5, the high ones 2 6 3 7. So one order of the activations serves both, and NIB4 has one layout.
 *
 * One row runs through a block in one go: its accumulators, one a tile, hide the latency of the sums, and the
 * codes are one stream. The smaller the codes, the more products a byte feeds, the more tiles it takes.
 *
 * Scales of groups: [block][group][tile in block][16 lanes].
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_PACK_IMPL_H
#define QN_PACK_IMPL_H

#include "backend/act.h"
#include "backend/cpu/pack.h"

enum pack_kind { PACK_F32, PACK_BF16, PACK_FP8, PACK_INT8, PACK_NIB4, PACK_N_KIND };
enum pack_scale {
    PACK_NO_GROUP,
    PACK_E4M3,
    PACK_F16,
    PACK_BF16S,
    PACK_F32S,
    PACK_ANY /* read at run time */
};

struct qn_packed {
    enum pack_kind kind;
    enum pack_scale scale;
    enum qn_isa isa;
    enum qn_act act;
    bool is_int8;    /* products of small integers and 8-bit activations */
    bool is_wide;    /* a form no kernel has: held as floats */
    bool expands;    /* float weights, activations prepared as BF16 pairs: widened before the run */
    int n_out, n_in; /* [N] [K] */
    int n_tile, block_tiles;
    int n_unit; /* of k, padded */
    int unit_pairs, unit_bytes;
    int group, n_group; /* k in a group; 0 without */
    unsigned char *codes;
    unsigned char *scales;
    signed char *zeros; /* [block][group][tile][16] 8 - z, or NULL: all 8 */
    float *offsets;     /* the same, as floats that are added to the codes; at most one of both is there */
    float *out_scale;   /* [n_tile * 16] or NULL */
    float scale2;
    uint16_t table[32]; /* NIB4: BF16 of each code, twice */
    int32_t *order;     /* [K] act-order: the k of the file at each place, groups together; or NULL */
    size_t bytes;       /* of everything above but the order, in one block */
    void *own;          /* the block, when no slab has it */
};

/* Activation row: BF16 pairs (avx512bf16 without F32 activations) or floats, padded with zeros to a multiple
 * of 8 k; then the sums of each 32 k, for zeros that vary. Row bytes are a multiple of 64. With QN_ACT_INT8
 * the same values in 8 bits follow:
 *
 *   [32 n] int8    n blocks; in each 8 k the order is 0 4 1 5 2 6 3 7
 *   [n] float      scales
 *   [n] float      scale * sum of the codes, for zeros that vary
 *   [2 n] int32    -16 * sum of each half block: E2M1 weights are unsigned with 16 more
 *   [n] int32      -8 * sum of the block, for int4
 *   [n] int32      -128 * sum, for int8 */
static inline size_t pack_act_values(int n_in)
{
    return QN_ROUND_UP((size_t)n_in, 8);
}
static inline size_t pack_act_plain_bytes(int n_in)
{
    return QN_ROUND_UP(pack_act_values(n_in) * 4 + QN_CEIL_DIV((size_t)n_in, 32) * 4, 64);
}
static inline size_t pack_act_row_bytes(int n_in, enum qn_act act)
{
    size_t n_block = act == QN_ACT_INT8 ? QN_CEIL_DIV((size_t)n_in, QN_ACT_BLOCK) : 0;
    return pack_act_plain_bytes(n_in) + QN_ROUND_UP(n_block * (QN_ACT_BLOCK + 24), 64);
}

struct pack_int8_row {
    int8_t *code;
    float *scale, *sum;
    int32_t *bias16, *bias8, *bias128;
};
static inline struct pack_int8_row pack_int8_row(const unsigned char *row, int n_in)
{
    size_t n = QN_CEIL_DIV((size_t)n_in, QN_ACT_BLOCK);
    unsigned char *at = (unsigned char *)row + pack_act_plain_bytes(n_in), *tail = at + n * QN_ACT_BLOCK;
    return (struct pack_int8_row){(int8_t *)at,
                                  (float *)(void *)tail,
                                  (float *)(void *)(tail + n * 4),
                                  (int32_t *)(void *)(tail + n * 8),
                                  (int32_t *)(void *)(tail + n * 16),
                                  (int32_t *)(void *)(tail + n * 20)};
}

/* Block b of a row, of which x [QN_ACT_BLOCK] are the values rounded to BF16. */
static inline __attribute__((always_inline)) void pack_int8_block(const struct pack_int8_row *r, int b,
                                                                  const float *x)
{
    int8_t code[QN_ACT_BLOCK];
    int32_t half[2] = {0, 0};
    float scale = qn_act_int8(x, code);
    for (int i = 0; i < 16; i++) {
        half[0] += code[i];
        half[1] += code[16 + i];
    }
    for (int i = 0; i < QN_ACT_BLOCK; i += 8) { /* bytes 0..3 and 4..7 by turns */
        uint32_t word[2];
        uint64_t out[2];
        memcpy(word, code + i, 8);
        for (int h = 0; h < 2; h++) {
            out[h] = (word[h] | (uint64_t)word[h] << 16) & 0x0000ffff0000ffff;
            out[h] = (out[h] | out[h] << 8) & 0x00ff00ff00ff00ff;
        }
        out[0] |= out[1] << 8;
        memcpy(r->code + b * QN_ACT_BLOCK + i, out, 8);
    }
    r->scale[b] = scale;
    r->sum[b] = scale * (float)(half[0] + half[1]);
    r->bias16[2 * b] = -16 * half[0];
    r->bias16[2 * b + 1] = -16 * half[1];
    r->bias8[b] = -8 * (half[0] + half[1]);
    r->bias128[b] = -128 * (half[0] + half[1]);
}

struct pack_job {
    const struct qn_packed *p;
    const unsigned char *act;
    int n_row, ldy;
    int tile, n_tile; /* tiles to run, all of one block */
    float *y;
};

static inline int pack_block_size(const struct qn_packed *p, int tile) /* tiles in the block of a tile */
{
    return QN_MIN(p->block_tiles, p->n_tile - tile / p->block_tiles * p->block_tiles);
}
/* Unit u of a tile's codes, counted in units; a group of its scales, counted in tiles. */
static inline size_t pack_unit_index(const struct qn_packed *p, int tile, int u)
{
    int first = tile / p->block_tiles * p->block_tiles;
    return (size_t)first * (size_t)p->n_unit + (size_t)u * (size_t)pack_block_size(p, tile) +
           (size_t)(tile - first);
}
static inline size_t pack_group_index(const struct qn_packed *p, int tile, int g)
{
    int first = tile / p->block_tiles * p->block_tiles;
    return (size_t)first * (size_t)p->n_group + (size_t)g * (size_t)pack_block_size(p, tile) +
           (size_t)(tile - first);
}

/* Tiles of one block for all rows; one function an instruction set. */
void pack_run_scalar(const struct pack_job *j);
void pack_run_avx2(const struct pack_job *j);
void pack_run_avx512(const struct pack_job *j);
void pack_run_avx512bf16(const struct pack_job *j);
void pack_run_neon(const struct pack_job *j);

extern const uint8_t pack_e2m1_int8[16];                      /* 16 + twice the value of E2M1 codes */
extern const uint8_t pack_fp8_high[128], pack_fp8_low[128];   /* bytes of BF16 of E4M3 codes 0..127 */
extern const uint8_t pack_int8_high[128], pack_int8_low[128]; /* and of the integers 0..127 */

/* Are the bytes of 8-bit codes laid out for look-ups by the byte? int8 is then sign and magnitude, 0x80 being
 * -128. */
static inline bool pack_is_interleaved(const struct qn_packed *p)
{
    return p->isa == QN_ISA_AVX512BF16 && !p->is_int8 && (p->kind == PACK_FP8 || p->kind == PACK_INT8);
}

#endif
