/* See amx.h. Blocks of 32 rows and 32 outputs: four accumulator tiles, two of activations, two of weights.
 * The packed layout of BF16 layers (pairs of k, 16 outputs side by side) is what the tile instruction wants,
 * so weights are read where they lie. The last k % 32 are copied with zeros behind. SPDX-License-Identifier:
 * Apache-2.0 */
#include "backend/cpu/amx.h"

#include "backend/cpu/pack_impl.h"

#if defined(__x86_64__) && defined(__linux__) && (!defined(__clang__) || __clang_major__ >= 12)

#include <immintrin.h>
#include <pthread.h>
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#define AMX         __attribute__((target("amx-tile,amx-bf16,avx512f")))
#define STEP        32     /* k of a tile */
#define PAIRS       16     /* pairs of k in it: rows of a weight tile */
#define PERM_REQ    0x1023 /* ARCH_REQ_XCOMP_PERM */
#define STATE_TILES 18

static bool is_there;

static void ask(void)
{
    unsigned a, b, c, d;
    if (qn_cpu_isa() != QN_ISA_AVX512BF16) return;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d >> 24 & 1) || !(d >> 22 & 1))
        return; /* AMX-TILE, AMX-BF16 */
    is_there = !syscall(SYS_arch_prctl, PERM_REQ, STATE_TILES);
}

bool qn_amx_is_there(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, ask);
    return is_there;
}

bool qn_amx_serves(const struct qn_packed *p)
{
    return qn_amx_is_there() && p->kind == PACK_BF16 && p->isa == QN_ISA_AVX512BF16 &&
           p->act == QN_ACT_BF16 && !p->order;
}

struct config {
    uint8_t palette, start_row, pad[14];
    uint16_t colsb[16];
    uint8_t rows[16];
} __attribute__((aligned(64)));

/* What is multiplied: where two row tiles and one or two column tiles begin, and their tails. */
struct block {
    const unsigned char *a[2], *b[2], *a_tail[2], *b_tail[2];
    size_t a_stride, b_stride;
    int n_step;             /* whole ones */
    bool has_tail, is_wide; /* is_wide: two column tiles */
};

/* Not inlined, with a barrier: the intrinsics do not say what memory they read. */
AMX static __attribute__((noinline)) void multiply(const struct block *k, float *const c[4],
                                                   const size_t c_stride[4])
{
    __asm__ volatile("" ::: "memory");
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int s = 0; s < k->n_step; s++) {
        size_t a = (size_t)s * STEP * 2, b = (size_t)s * PAIRS * k->b_stride;
        _tile_loadd(4, k->a[0] + a, k->a_stride);
        _tile_loadd(6, k->b[0] + b, k->b_stride);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(5, k->a[1] + a, k->a_stride);
        _tile_dpbf16ps(1, 5, 6);
        if (!k->is_wide) continue;
        _tile_loadd(7, k->b[1] + b, k->b_stride);
        _tile_dpbf16ps(2, 4, 7);
        _tile_dpbf16ps(3, 5, 7);
    }
    if (k->has_tail) {
        _tile_loadd(4, k->a_tail[0], 64);
        _tile_loadd(5, k->a_tail[1], 64);
        _tile_loadd(6, k->b_tail[0], 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 5, 6);
        _tile_loadd(7, k->b_tail[1], 64);
        _tile_dpbf16ps(2, 4, 7);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, c[0], c_stride[0]);
    _tile_stored(1, c[1], c_stride[1]);
    _tile_stored(2, c[2], c_stride[2]);
    _tile_stored(3, c[3], c_stride[3]);
    __asm__ volatile("" ::: "memory");
}

/* Constant memory: the intrinsic does not tell the compiler that all of it is read. */
static const struct config tiles = {
    .palette = 1, .colsb = {64, 64, 64, 64, 64, 64, 64, 64}, .rows = {16, 16, 16, 16, 16, 16, 16, 16}};

AMX static __attribute__((noinline)) void configure(const struct config *c)
{
    __asm__ volatile("" ::: "memory");
    _tile_loadconfig(c);
}

AMX static void release(void)
{
    _tile_release();
}

struct tails {
    unsigned char a[2][16 * 64], b[2][16 * 64];
};

/* The last k of 32 rows, zeros behind. */
static void tail_of_rows(const struct qn_packed *p, const unsigned char *rows, size_t stride, struct tails *t)
{
    size_t from = (size_t)p->n_in / STEP * STEP, n = (size_t)p->n_in - from;
    memset(t->a, 0, sizeof t->a);
    for (int r = 0; r < QN_AMX_ROWS; r++)
        memcpy(t->a[r / 16] + r % 16 * 64, rows + (size_t)r * stride + from * 2, n * 2);
}

/* The last pairs of a tile of outputs; an odd last k has its zero in the packed form. */
static void tail_of_tile(const struct qn_packed *p, int tile, unsigned char *to)
{
    int first = p->n_in / STEP * PAIRS, n = (p->n_in + 1) / 2 - first;
    memset(to, 0, 16 * 64);
    for (int i = 0; i < n; i++) memcpy(to + i * 64, p->codes + pack_unit_index(p, tile, first + i) * 64, 64);
}

static void put(const float c[256], float *y, int ldy, int n_row, int n_col)
{
    for (int r = 0; r < n_row; r++)
        memcpy(y + (size_t)r * (size_t)ldy, c + r * 16, (size_t)n_col * sizeof *y);
}

/* Tiles of outputs [tile, tile + n) of 32 rows from `row`. */
static void columns(const struct qn_packed *p, int tile, int n, const unsigned char *act, int row, int n_row,
                    float *y, int ldy, struct tails *t)
{
    size_t stride = qn_packed_act_bytes(p->n_in, 1, p->act);
    float spare[4][256] __attribute__((aligned(64)));
    const unsigned char *rows = act + (size_t)row * stride;
    struct block k = {.a = {rows, rows + 16 * stride},
                      .a_stride = stride,
                      .b_stride = (size_t)pack_block_size(p, tile) * 64,
                      .n_step = p->n_in / STEP,
                      .has_tail = p->n_in % STEP,
                      .is_wide = n > 1};
    for (int i = 0; i < 2; i++) {
        k.b[i] = p->codes + pack_unit_index(p, tile + (i < n ? i : 0), 0) * 64;
        k.a_tail[i] = t->a[i];
        k.b_tail[i] = t->b[i];
    }
    /* whole tiles go where they belong, ragged ones through `spare` */
    float *to[4];
    size_t to_stride[4];
    bool is_whole[4];
    for (int q = 0; q < 4; q++) {
        int i = q / 2, first = row + 16 * (q % 2);
        is_whole[q] = i < n && n_row - first >= 16 && p->n_out - (tile + i) * QN_TILE >= QN_TILE;
        to[q] = is_whole[q] ? y + (size_t)first * (size_t)ldy + (size_t)(tile + i) * QN_TILE : spare[q];
        to_stride[q] = is_whole[q] ? (size_t)ldy * sizeof *y : 64;
    }
    multiply(&k, to, to_stride);
    for (int q = 0; q < 2 * n; q++) {
        int i = q / 2, first = row + 16 * (q % 2);
        if (is_whole[q] || n_row <= first) continue;
        put(spare[q], y + (size_t)first * (size_t)ldy + (size_t)(tile + i) * QN_TILE, ldy,
            QN_MIN(16, n_row - first), QN_MIN(QN_TILE, p->n_out - (tile + i) * QN_TILE));
    }
}

void qn_amx_run(const struct qn_packed *p, const void *act, int n_row, float *y, int ldy)
{
    struct tails t __attribute__((aligned(64)));
    size_t stride = qn_packed_act_bytes(p->n_in, 1, p->act);
    memset(&t, 0, sizeof t);
    configure(&tiles);
    for (int tile = 0; tile < p->n_tile;) {
        int n = QN_MIN(2, pack_block_size(p, tile) - tile % p->block_tiles);
        for (int i = 0; p->n_in % STEP && i < n; i++) tail_of_tile(p, tile + i, t.b[i]);
        for (int row = 0; row < n_row; row += QN_AMX_ROWS) {
            if (p->n_in % STEP)
                tail_of_rows(p, (const unsigned char *)act + (size_t)row * stride, stride, &t);
            columns(p, tile, n, act, row, n_row, y, ldy, &t);
        }
        tile += n;
    }
    release();
}

#else

bool qn_amx_is_there(void)
{
    return false;
}

bool qn_amx_serves(const struct qn_packed *p)
{
    (void)p;
    return false;
}

void qn_amx_run(const struct qn_packed *p, const void *act, int n_row, float *y, int ldy)
{
    qn_packed_run(p, act, n_row, y, ldy, 0, qn_packed_n_tile(p));
}

#endif
