/* Linear layers over packed rows. No shared memory but for the sums of a split: a warp makes 16 outputs of up
 * to 8 NT rows over its part of the inputs, reading codes and rows straight into the registers of mma.
 *
 * Order. Chains of mma of at most 512 inputs (or a scale group) added in float with rising k; of wide layers
 * the inputs are split over 2, 4 or 8 warps, by their number alone, and the parts added in order. So an
 * output has the same bits whatever the number of rows. SPDX-License-Identifier: Apache-2.0 */
#include "backend/cuda/codes.h"

struct Rows { /* packed rows a warp reads: of column m * 8 + g, or -1 */
    const uint2 *x;
    int k16, parts;
};
DEV const uint2 *row_words(const Rows &r, int row, int t)
{
    return r.x + ((size_t)(row >> 3) * r.k16 * r.parts) * 32 + (row & 7) * 4 + t;
}

DEV float group_scale(const DevWeight &w, int tile, int row, int group)
{
    if (w.scale_kind == S_BLOCK) {
        int o = tile * 16 + row;
        if (o >= w.n_out) return 0;
        return w.block[(size_t)(o >> 7) * ((w.n_in + 127) / 128) + group];
    }
    return bits_float(w.pair[((size_t)tile * w.n_group + group) * 16 + row].x);
}

/* sum [NT][4] += tile x rows over pieces [from, to) */
template <int STORED, int NT, int PARTS, bool GROUPED_SCALE>
DEV void products(const DevWeight &w, int tile, int from, int to, const Rows &rows, const int *row,
                  float (*sum)[4])
{
    enum { WORDS = code_words(STORED), WPARTS = code_parts(STORED) };
    int g = LANE >> 2, t = LANE & 3, left = w.fold16;
    const uint4 *codes = w.codes + ((size_t)tile * w.k64 + from) * WORDS * 32 + LANE;
    const uint2 *x[NT];
    float part[NT][4] = {};
#pragma unroll
    for (int m = 0; m < NT; m++)
        x[m] = row_words(rows, row[m] < 0 ? 0 : row[m], t) + (size_t)from * 4 * PARTS * 32;
#pragma unroll 2
    for (int kb = from; kb < to; kb++) {
        uint4 c[WORDS];
#pragma unroll
        for (int i = 0; i < WORDS; i++) c[i] = codes[i * 32];
        codes += WORDS * 32;
        uint32_t s0 = 0, s1 = 0;
        if (STORED == W_NVFP4) {
            s0 = w.scales4[((size_t)tile * w.k64 + kb) * 16 + g];
            s1 = w.scales4[((size_t)tile * w.k64 + kb) * 16 + g + 8];
        }
#pragma unroll
        for (int j = 0; j < 4; j++) {
            uint32_t a[WPARTS][4], factor[2];
            int group = GROUPED_SCALE ? (kb * 4 + j) / w.group16 : 0;
            if (STORED == W_NVFP4) factor[0] = scale_pair(s0 >> 8 * j), factor[1] = scale_pair(s1 >> 8 * j);
            if (STORED == W_INT4) {
                factor[0] = w.pair[((size_t)tile * w.n_group + group) * 16 + g].y;
                factor[1] = w.pair[((size_t)tile * w.n_group + group) * 16 + g + 8].y;
            }
            code_fragment<STORED>(c, j, factor, a);
#pragma unroll
            for (int m = 0; m < NT; m++) {
                uint2 b[PARTS];
#pragma unroll
                for (int p = 0; p < PARTS; p++) b[p] = row[m] < 0 ? uint2{0, 0} : x[m][p * 32];
                x[m] += PARTS * 32;
#pragma unroll
                for (int p = 0; p < PARTS; p++)
#pragma unroll
                    for (int v = 0; v < WPARTS && p + v < 3; v++) {
                        uint32_t two[2] = {b[p].x, b[p].y};
                        mma_bf16(part[m], a[v], two);
                    }
            }
            bool is_last = kb == to - 1 && j == 3;
            if (!(GROUPED_SCALE || j == 3)) continue;
            left -= GROUPED_SCALE ? 1 : 4;
            if (left > 0 && !is_last) continue;
            left = w.fold16;
            float f0 = GROUPED_SCALE ? group_scale(w, tile, g, group) : 1;
            float f1 = GROUPED_SCALE ? group_scale(w, tile, g + 8, group) : 1;
#pragma unroll
            for (int m = 0; m < NT; m++)
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    sum[m][i] = fmaf(i < 2 ? f0 : f1, part[m][i], sum[m][i]);
                    part[m][i] = 0;
                }
        }
    }
}

/* Warps that share a tile: by the number of inputs alone. */
static __host__ __device__ inline int split_of(int k64)
{
    return k64 >= 32 ? 8 : k64 >= 16 ? 4 : k64 >= 8 ? 2 : 1;
}

/* The whole of one tile for up to 8 NT columns: parts of the split meet in `meet`, [warps][NT * 4][32]. Out:
 * has_sum for the warp that holds the result. */
template <int STORED, int NT, int PARTS>
DEV bool tile_rows(const DevWeight &w, int tile, const Rows &rows, const int *row, float (*sum)[4],
                   float *meet)
{
    int split = split_of(w.k64), mine = WARP % split;
    bool is_grouped = w.scale_kind != S_NONE;
    if (tile < w.n_tile) {
        int align = w.fold16 > 4 && is_grouped ? w.fold16 / 4 : 1;
        int each = ((w.k64 + split - 1) / split + align - 1) / align * align;
        int from = mine * each, to = from + each < w.k64 ? from + each : w.k64;
        if (STORED == W_INT4 || (STORED == W_E4M3 && is_grouped))
            products<STORED, NT, PARTS, true>(w, tile, from, to, rows, row, sum);
        else
            products<STORED, NT, PARTS, false>(w, tile, from, to, rows, row, sum);
    }
    if (split == 1) return tile < w.n_tile;
#pragma unroll
    for (int m = 0; m < NT; m++)
#pragma unroll
        for (int i = 0; i < 4; i++) meet[(WARP * NT * 4 + m * 4 + i) * 32 + LANE] = sum[m][i];
    __syncthreads();
    if (mine || tile >= w.n_tile) return false;
    for (int s = 1; s < split; s++)
#pragma unroll
        for (int m = 0; m < NT; m++)
#pragma unroll
            for (int i = 0; i < 4; i++) sum[m][i] += meet[((WARP + s) * NT * 4 + m * 4 + i) * 32 + LANE];
    return true;
}

/* to: row of y of columns 2t and 2t + 1 of each 8, or -1 */
template <int NT> DEV void store(const DevWeight &w, int tile, float (*sum)[4], const int (*to)[2], float *y)
{
    int g = LANE >> 2;
#pragma unroll
    for (int h = 0; h < 2; h++) {
        int o = tile * 16 + g + 8 * h;
        if (o >= w.n_out) continue;
        float scale = w.scale, own = w.row_scale ? w.row_scale[o] : 1.0f;
#pragma unroll
        for (int m = 0; m < NT; m++)
#pragma unroll
            for (int i = 0; i < 2; i++)
                if (to[m][i] >= 0) y[(size_t)to[m][i] * w.n_out + o] = sum[m][2 * h + i] * scale * own;
    }
}

enum { MAX_JOBS = 4, WARPS = 8 };
struct LinearArgs {
    DevWeight w[MAX_JOBS];
    float *y[MAX_JOBS];
    int first[MAX_JOBS + 1]; /* tile groups of each job */
    int n_job, n_row, split;
    Rows rows;
};

template <int STORED, int NT, int PARTS>
__global__ void __launch_bounds__(32 * WARPS, PARTS == 1 ? 2 : 1) linear_kernel(LinearArgs a)
{
    SHARED(float, meet);
    int at = (int)blockIdx.x * ((int)blockDim.x / 32 / a.split) + WARP / a.split, job = 0;
    while (job < a.n_job - 1 && at >= a.first[job + 1]) job++;
    const DevWeight &w = a.w[job];
    int tile = at - a.first[job], row[NT], to[NT][2], base = (int)blockIdx.y * 8 * NT;
    float sum[NT][4] = {};
#pragma unroll
    for (int m = 0; m < NT; m++) {
        int r = base + m * 8;
        row[m] = r + (LANE >> 2) < a.n_row ? r + (LANE >> 2) : -1;
        for (int i = 0; i < 2; i++) to[m][i] = r + 2 * (LANE & 3) + i < a.n_row ? r + 2 * (LANE & 3) + i : -1;
    }
    if (tile_rows<STORED, NT, PARTS>(w, tile, a.rows, row, sum, meet)) store<NT>(w, tile, sum, to, a.y[job]);
}

struct GroupedArgs {
    const DevWeight *w;
    const int32_t *items, *n_item, *pair_of;
    int top_k, split, by_place, to_pair, stored;
    float *y;
    Rows rows;
};

template <int STORED, int PARTS>
__global__ void __launch_bounds__(32 * WARPS, PARTS == 1 ? 2 : 1) grouped_kernel(GroupedArgs a)
{
    SHARED(float, meet);
    if ((int)blockIdx.y >= *a.n_item) return;
    const int32_t *item = a.items + 4 * blockIdx.y;
    const DevWeight w = a.w[item[0]];
    if (w.stored != STORED) return;
    int tile = (int)blockIdx.x * ((int)blockDim.x / 32 / a.split) + WARP / a.split, row[1], to[1][2];
    float sum[1][4] = {};
    auto place = [&](int i) { return i < item[2] ? item[1] + i : -1; };
    int p = place(LANE >> 2);
    row[0] = p < 0 ? -1 : a.by_place ? p : a.pair_of[p] / a.top_k;
    for (int i = 0; i < 2; i++) {
        int q = place(2 * (LANE & 3) + i);
        to[0][i] = q < 0 ? -1 : a.to_pair ? a.pair_of[q] : q;
    }
    if (tile_rows<STORED, 1, PARTS>(w, tile, a.rows, row, sum, meet)) store<1>(w, tile, sum, to, a.y);
}

/* Packed rows of a layer in act-order: its own order of inputs. */
__global__ void gather_inputs(const uint16_t *from, uint16_t *to, const int32_t *perm, int n, int from_k16,
                              int to_k16, int parts)
{
    int row = (int)blockIdx.x;
    for (int i = threadIdx.x; i < n; i += blockDim.x) {
        int k = perm[i];
        for (int p = 0; p < parts; p++) {
            auto at = [&](int in, int k16) {
                return ((((size_t)(row >> 3) * k16 + (in >> 4)) * parts + p) * 32 + (row & 7) * 4 +
                        (in & 7) / 2) *
                           4 +
                       (in >> 3 & 1) * 2 + (in & 1);
            };
            to[at(i, to_k16)] = k < 0 ? (uint16_t)0 : from[at(k, from_k16)];
        }
    }
}

template <int STORED, int PARTS> static void run_linear(struct qn_device *d, const LinearArgs &a)
{
    int warps = WARPS;
    int groups = a.first[a.n_job];
    while (warps > a.split && groups * a.split <= warps / 2) warps /= 2; /* no more than there is to do */
    unsigned blocks = (unsigned)QN_CEIL_DIV(groups, warps / a.split);
    size_t meet = a.split == 1 ? 0 : (size_t)warps * 4 * 32 * sizeof(float);
    if (a.n_row <= 8)
        CU_LAUNCH(d, (linear_kernel<STORED, 1, PARTS>), dim3(blocks), dim3(32 * warps), meet, a);
    else if (a.n_row <= 16)
        CU_LAUNCH(d, (linear_kernel<STORED, 2, PARTS>), dim3(blocks), dim3(32 * warps), meet * 2, a);
    else
        CU_LAUNCH(d, (linear_kernel<STORED, 4, PARTS>), dim3(blocks, (unsigned)QN_CEIL_DIV(a.n_row, 32)),
                  dim3(32 * warps), meet * 4, a);
}
template <int PARTS> static void run_stored(struct qn_device *d, int stored, const LinearArgs &a)
{
    switch (stored) {
    case W_BF16:
        return run_linear<W_BF16, PARTS>(d, a);
    case W_F16:
        return run_linear<W_F16, PARTS>(d, a);
    case W_F32:
        return run_linear<W_F32, PARTS>(d, a);
    case W_E4M3:
        return run_linear<W_E4M3, PARTS>(d, a);
    case W_INT8:
        return run_linear<W_INT8, PARTS>(d, a);
    case W_NVFP4:
        return run_linear<W_NVFP4, PARTS>(d, a);
    default:
        return run_linear<W_INT4, PARTS>(d, a);
    }
}

/* The rows a layer reads: as they are, or in its own order of inputs. */
static const uint32_t *rows_for(struct qn_device *d, const DevWeight *w, const uint32_t *x, int n_row)
{
    if (!w->perm) return x;
    CU_LAUNCH(d, gather_inputs, dim3((unsigned)n_row), dim3(128), 0, (const uint16_t *)x,
              (uint16_t *)d->xp_perm, w->perm, w->k64 * 64, cu_k64(w->n_in) * 4, w->k64 * 4, d->s.parts);
    return d->xp_perm;
}

/* Jobs that are stored alike go together; a layer in act-order alone. */
void cu_linear(struct qn_device *d, const uint32_t *x, int n_row, const struct Job *jobs, int n_job)
{
    bool done[MAX_JOBS] = {};
    for (int first = 0; first < n_job; first++) {
        const DevWeight *w = &jobs[first].w->w;
        LinearArgs a = {};
        if (done[first]) continue;
        a.rows = {(const uint2 *)rows_for(d, w, x, n_row), w->k64 * 4, d->s.parts};
        a.n_row = n_row;
        a.split = split_of(w->k64);
        for (int i = first; i < n_job; i++) {
            const DevWeight *v = &jobs[i].w->w;
            if (done[i] || v->stored != w->stored || (i > first && (v->perm || w->perm))) continue;
            a.w[a.n_job] = *v;
            a.y[a.n_job] = jobs[i].y;
            a.first[a.n_job + 1] = a.first[a.n_job] + v->n_tile;
            a.n_job++;
            done[i] = true;
        }
        if (d->s.parts == 1)
            run_stored<1>(d, w->stored, a);
        else
            run_stored<3>(d, w->stored, a);
    }
}

template <int STORED, int PARTS>
static void run_grouped(struct qn_device *d, const GroupedArgs &a, int n_tile, int max_items)
{
    int warps = WARPS;
    while (warps > a.split && n_tile * a.split <= warps / 2) warps /= 2;
    size_t meet = a.split == 1 ? 0 : (size_t)warps * 4 * 32 * sizeof(float);
    CU_LAUNCH(d, (grouped_kernel<STORED, PARTS>),
              dim3((unsigned)QN_CEIL_DIV(n_tile, warps / a.split), (unsigned)max_items), dim3(32 * warps),
              meet, a);
}
template <int PARTS>
static void run_format(struct qn_device *d, const GroupedArgs &a, int n_tile, int max_items)
{
    switch (a.stored) {
    case W_BF16:
        return run_grouped<W_BF16, PARTS>(d, a, n_tile, max_items);
    case W_F16:
        return run_grouped<W_F16, PARTS>(d, a, n_tile, max_items);
    case W_F32:
        return run_grouped<W_F32, PARTS>(d, a, n_tile, max_items);
    case W_E4M3:
        return run_grouped<W_E4M3, PARTS>(d, a, n_tile, max_items);
    case W_INT8:
        return run_grouped<W_INT8, PARTS>(d, a, n_tile, max_items);
    case W_NVFP4:
        return run_grouped<W_NVFP4, PARTS>(d, a, n_tile, max_items);
    default:
        return run_grouped<W_INT4, PARTS>(d, a, n_tile, max_items);
    }
}

void cu_grouped(struct qn_device *d, const uint32_t *x, const struct Grouped *g, int n_out, int n_in)
{
    GroupedArgs a = {g->w,
                     g->items,
                     g->n_item,
                     g->pair_of,
                     g->top_k,
                     split_of(cu_k64(n_in)),
                     g->by_place,
                     g->to_pair,
                     0,
                     g->y,
                     {(const uint2 *)x, cu_k64(n_in) * 4, d->s.parts}};
    for (a.stored = 0; a.stored < W_N; a.stored++) {
        if (!(g->formats >> a.stored & 1)) continue;
        if (d->s.parts == 1)
            run_format<1>(d, a, QN_CEIL_DIV(n_out, 16), g->max_items);
        else
            run_format<3>(d, a, QN_CEIL_DIV(n_out, 16), g->max_items);
    }
}
