/* What pack.c and the kernels of each instruction set share. Not included elsewhere.
 *
 * Layout. Outputs are cut into blocks of two tiles (the last block may have one). The codes of a block are
 * units of k, and within a unit its tiles:
 *
 *   [block][unit][tile in block][unit_bytes]
 *
 *   kind   unit holds     bytes of a unit and tile
 *   F32    1 pair of k    128: 16 floats of the even k, 16 of the odd k
 *   BF16   1 pair          64: 32 words, word 2 l + j is lane l, k j
 *   BYTE8  2 pairs         64: bytes in word order, or (avx512bf16, FP8) in the order that a byte interleave
 *                              of 128-bit lanes turns into words: byte 16 L + 8 p + i is pair p, word 8 L + i
 *   NIB4   4 pairs         64: nibble p of word w is pair p, word w
 *
 * Scales of groups: [block][group][tile in block][16 lanes].
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_PACK_IMPL_H
#define QN_PACK_IMPL_H

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
    bool expands;    /* float weights, activations prepared as BF16 pairs: widened before the run */
    int n_out, n_in; /* [N] [K] */
    int n_tile, n_block;
    int n_unit; /* of k, padded */
    int unit_pairs, unit_bytes;
    int group, n_group; /* k in a group; 0 without */
    unsigned char *codes;
    unsigned char *scales;
    signed char *zeros; /* [block][group][tile][16] 8 - z, or NULL: all 8 */
    float *out_scale;   /* [n_tile * 16] or NULL */
    float scale2;
    uint16_t table[32]; /* NIB4: BF16 of each code, twice */
    int32_t *order;     /* [K] act-order: the k of the file at each place, groups together; or NULL */
    void *region;       /* holds everything above */
    size_t region_bytes, bytes;
};

/* Activation row: BF16 pairs (avx512bf16 with BF16 activations) or floats, padded with zeros to a multiple of
 * 8 k; then the sums of each 32 k, for zeros that vary. Row bytes are a multiple of 64. */
static inline size_t pack_act_values(int n_in)
{
    return QN_ROUND_UP((size_t)n_in, 8);
}
static inline size_t pack_act_row_bytes(int n_in)
{
    return QN_ROUND_UP(pack_act_values(n_in) * 4 + QN_CEIL_DIV((size_t)n_in, 32) * 4, 64);
}

struct pack_job {
    const struct qn_packed *p;
    const unsigned char *act;
    int n_row, ldy, block;
    float *y;
};

/* One block of outputs for all rows; one function an instruction set. */
void pack_run_scalar(const struct pack_job *j);
void pack_run_avx2(const struct pack_job *j);
void pack_run_avx512(const struct pack_job *j);
void pack_run_avx512bf16(const struct pack_job *j);

extern const uint8_t pack_fp8_high[128], pack_fp8_low[128]; /* bytes of BF16 of E4M3 codes 0..127 */

#endif
