/* Gated attention over pages.
 *
 * A page holds for each layer K [nkv][64][hd_pad], with E4M3D scales [nkv][64] of BF16, then V the same.
 * Keys are taken in splits of 256 from the start of the sequence. Within one: pages of 64 in order, scores by
 * mma, running largest score, values by mma; splits are merged in order. A split may be a block of its own
 * (attn_merge brings them together) or one of a block's: the arithmetic is the same, so a row has the same
 * bits in prefill, decode and draft. q and the weights go in as value and rest, two BF16 each, F32 keys and
 * values too; the other types are exact in BF16. SPDX-License-Identifier: Apache-2.0 */
#include "backend/cuda/cuda.h"
#include "backend/cuda/packed.h"

enum { SPLIT = 256 };

/* ------------------------------------------------ q, k, v of a row -----------------------------------------
 */
struct KvArgs {
    unsigned char *pages;
    size_t page_bytes, layer_at, half_bytes; /* half: from K to V */
    int kv, nkv, hd, hd_pad;
    float k_scale, v_scale;
};
DEV constexpr int kv_bytes(int kv)
{
    return kv == QN_KV_F32 ? 4 : kv == QN_KV_BF16 ? 2 : 1;
}
DEV unsigned char *kv_values(const KvArgs &a, int page, int head, bool is_v)
{
    return a.pages + (size_t)page * a.page_bytes + a.layer_at + (is_v ? a.half_bytes : 0) +
           (size_t)head * QN_PAGE * a.hd_pad * kv_bytes(a.kv);
}
DEV uint16_t *kv_scales(const KvArgs &a, int page, int head, bool is_v)
{
    return (uint16_t *)(kv_values(a, page, a.nkv, is_v)) + head * QN_PAGE;
}
DEV void kv_store(int kv, unsigned char *p, size_t i, float x)
{
    if (kv == QN_KV_F32)
        ((float *)p)[i] = x;
    else if (kv == QN_KV_BF16)
        ((uint16_t *)p)[i] = (uint16_t)float_bf16(x);
    else
        p[i] = (unsigned char)(kv == QN_KV_E5M2 ? float_e5m2(x) : float_e4m3(x));
}
/* The power of two that brings `most` between 224 and 448; 1 for zeros and what is not finite. */
DEV float kv_fit(float most)
{
    if (!(most > 7.8886090522101181e-31f) || !(most < 1.2676506002282294e30f)) return 1;
    uint32_t u = float_bits(most);
    int e = (int)(u >> 23) - 126;           /* most = m 2^e, m in [0.5, 1) */
    bool fits = (u & 0x7fffff) <= 0x600000; /* m <= 0.875 */
    return bits_float((uint32_t)(127 + e - (fits ? 9 : 8)) << 23);
}

struct InArgs {
    const View *v;
    const float *qg, *k, *val, *q_norm, *k_norm, *inv_freq;
    float *q;
    Shape s;
    KvArgs kv;
    int is_mtp;
    float gain; /* on cosines and sines */
};

/* A warp a head of a row: norm and turn of q; norm, turn and place of k; place of v. */
__global__ void qkv_kernel(InArgs a)
{
    SHARED(float, x); /* [hd_pad] */
    const View &v = *a.v;
    const Shape &c = a.s;
    int row = (int)blockIdx.x, head = (int)blockIdx.y, hd = c.head_dim, half = c.rotary_half,
        seq = v.row_seq[row];
    bool is_q = head < c.n_head, is_v = head >= c.n_head + c.n_kv_head;
    int g = is_q ? 0 : (head - c.n_head) % c.n_kv_head;
    if (!is_q && seq < 0) return;
    const float *from = is_q ? a.qg + ((size_t)row * c.n_head + head) * 2 * hd
                             : (is_v ? a.val : a.k) + ((size_t)row * c.n_kv_head + g) * hd;
    const float *w = is_q ? a.q_norm : a.k_norm;
    if (!is_v) {
        float sum = 0;
        for (int i = LANE; i < hd; i += 32) sum = fmaf(from[i], from[i], sum);
        float f = 1.0f / sqrtf(warp_sum(sum) / (float)hd + c.eps);
        for (int i = LANE; i < hd; i += 32) x[i] = from[i] * f * (1.0f + w[i]);
        __syncwarp();
        for (int i = LANE; i < half; i += 32) {
            int axis = i % 3 == 1 && i < 3 * c.section_h ? 1 : i % 3 == 2 && i < 3 * c.section_w ? 2 : 0;
            int at = seq < 0 ? 0 : v.rope_pos ? v.rope_pos[3 * row + axis] : v.pos[row] - a.is_mtp;
            float co, si, p = x[i], q = x[i + half];
            dev_turn((float)at * a.inv_freq[i], &co, &si);
            co *= a.gain;
            si *= a.gain;
            x[i] = p * co - q * si;
            x[i + half] = q * co + p * si;
        }
    } else {
        for (int i = LANE; i < hd; i += 32) x[i] = from[i];
    }
    __syncwarp();
    if (is_q) {
        float *to = a.q + ((size_t)row * c.n_head + head) * c.hd_pad;
        for (int i = LANE; i < c.hd_pad; i += 32) to[i] = i < hd ? x[i] : 0;
        return;
    }
    int page = v.pages[v.seq[seq].first_page + v.pos[row] / QN_PAGE], place = v.pos[row] % QN_PAGE;
    float scale = is_v ? a.kv.v_scale : a.kv.k_scale;
    if (a.kv.kv == QN_KV_E4M3D) {
        float most = 0;
        for (int i = LANE; i < hd; i += 32) most = fmaxf(most, fabsf(x[i]));
        scale = kv_fit(warp_most(most));
        if (!LANE) kv_scales(a.kv, page, g, is_v)[place] = (uint16_t)float_bf16(scale);
    }
    unsigned char *to = kv_values(a.kv, page, g, is_v);
    for (int i = LANE; i < c.hd_pad; i += 32)
        kv_store(a.kv.kv, to, (size_t)place * c.hd_pad + i, i < hd ? x[i] / scale : 0);
}

static KvArgs kv_args(const struct qn_device *d, const struct qn_attn_weights *w, int kv_layer)
{
    const struct Shape *c = &d->s;
    bool has_own = qn_kv_scale_bytes(d->o.kv) > 0;
    return {d->pages,
            d->sizes.page_bytes,
            (size_t)kv_layer * c->layer_bytes,
            c->layer_bytes / 2,
            c->kv,
            c->n_kv_head,
            c->head_dim,
            c->hd_pad,
            has_own ? 1 : w->k_scale,
            has_own ? 1 : w->v_scale};
}

void cu_attn_in(struct qn_device *d, const struct qn_step *s, const struct qn_op_attn_in *op)
{
    const struct qn_attn_weights *w = &op->w->attn;
    const struct Shape *c = &d->s;
    struct Job jobs[] = {{w->q, d->qg}, {w->k, d->k}, {w->v, d->v}};
    if (!s->n_row) return;
    cu_add_norm(d, s, op->x, op->y, op->w->input_norm, d->xp, NULL);
    cu_linear(d, d->xp, s->n_row, jobs, 3);
    InArgs a = {cu_view(d, s),
                d->qg,
                d->k,
                d->v,
                w->q_norm,
                w->k_norm,
                d->inv_freq,
                d->q,
                *c,
                kv_args(d, w, op->kv_layer),
                op->kv_layer == d->c.n_full,
                qn_rope_gain(&d->c)};
    CU_LAUNCH(d, qkv_kernel, dim3((unsigned)s->n_row, (unsigned)(c->n_head + 2 * c->n_kv_head)), dim3(32),
              (size_t)c->hd_pad * sizeof(float), a);
}

/* ------------------------------------------------ scores and values ----------------------------------------
 */
template <int HD> struct AttnShared {
    enum { STRIDE = HD + 8, P_STRIDE = QN_PAGE + 8 };
    uint16_t q[2][16][STRIDE], kv[2][QN_PAGE][STRIDE], p[2][16][P_STRIDE];
    float most[4][16], sum[4][16], k_scale[QN_PAGE], v_scale[QN_PAGE];
};
struct AttnArgs {
    const View *v;
    KvArgs kv;
    const float *q;
    float *o,
        *part; /* part: [row * n_head][n_split][hd_pad + 2], or NULL: a block does all splits of its rows */
    int n_head, first_seq, n_split, is_mtp;
    float scale;
};
struct Split {                   /* a block's share */
    int page, head, first, last; /* keys that count; what is beside them in the page is taken as 0 */
};

/* 8 values of a key as BF16, value and (F32) rest. */
template <int KV> DEV void load_eight(const unsigned char *p, uint32_t *hi, uint32_t *lo)
{
    if constexpr (KV == QN_KV_BF16) {
        uint4 w = *(const uint4 *)p;
        hi[0] = w.x, hi[1] = w.y, hi[2] = w.z, hi[3] = w.w;
    } else if constexpr (KV == QN_KV_F32) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            float2 f = ((const float2 *)p)[i];
            hi[i] = bf16x2_pack(f.x, f.y);
            lo[i] = bf16x2_pack(f.x - bf16_float(hi[i] & 0xffff), f.y - bits_float(hi[i] & 0xffff0000));
        }
    } else {
        uint2 w = *(const uint2 *)p;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            uint32_t two = (i < 2 ? w.x : w.y) >> 16 * (i & 1);
            float a = KV == QN_KV_E5M2 ? e5m2_float(two & 255) : e4m3_float(two & 255);
            float b = KV == QN_KV_E5M2 ? e5m2_float(two >> 8 & 255) : e4m3_float(two >> 8 & 255);
            hi[i] = bf16x2_pack(a, b); /* exact */
        }
    }
}

/* Keys or values of a page into `to` (and, of F32, their rests into `rest`). */
template <int HD, int KV>
DEV void load_page(const AttnArgs &a, int page, int kv_head, int key0, int first, int last, bool is_v,
                   uint16_t (*to)[HD + 8], uint16_t (*rest)[HD + 8], float *scales)
{
    const unsigned char *from = kv_values(a.kv, page, kv_head, is_v);
    for (int c = threadIdx.x; c < QN_PAGE * HD / 8; c += 128) {
        int key = c / (HD / 8), at = c % (HD / 8) * 8;
        uint32_t hi[4] = {}, lo[4] = {};
        if (key0 + key >= first && key0 + key <= last)
            load_eight<KV>(from + ((size_t)key * HD + at) * kv_bytes(KV), hi, lo);
        *(uint4 *)&to[key][at] = make_uint4(hi[0], hi[1], hi[2], hi[3]);
        if (KV == QN_KV_F32) *(uint4 *)&rest[key][at] = make_uint4(lo[0], lo[1], lo[2], lo[3]);
    }
    if (KV == QN_KV_E4M3D && threadIdx.x < QN_PAGE) {
        int key = key0 + (int)threadIdx.x;
        bool is_in = key >= first && key <= last;
        scales[threadIdx.x] = is_in ? bf16_float(kv_scales(a.kv, page, kv_head, is_v)[threadIdx.x]) : 0;
    }
}

template <int HD> struct Running { /* of a lane: rows g and g + 8 of a tile of 16 */
    enum { TILES = HD / 32 };      /* of 8 dims, a warp */
    float most[2], sum[2], acc[TILES][4];
};
template <int HD> DEV void clear(Running<HD> *r)
{
#pragma unroll
    for (int h = 0; h < 2; h++) r->most[h] = -INFINITY, r->sum[h] = 0;
#pragma unroll
    for (int i = 0; i < Running<HD>::TILES; i++)
#pragma unroll
        for (int j = 0; j < 4; j++) r->acc[i][j] = 0;
}

/* One page: scores of the 16 rows, softmax on, values. Barriers inside: the whole block. */
template <int HD, int KV>
DEV void attend_page(const AttnArgs &a, AttnShared<HD> *sm, const Split &p, int key, const int *pos,
                     Running<HD> *run)
{
    enum { KPARTS = KV == QN_KV_F32 ? 2 : 1 };
    int g = LANE >> 2, t = LANE & 3;
    __syncthreads(); /* nobody reads the page before any more */
    load_page<HD, KV>(a, p.page, p.head, key, p.first, p.last, false, sm->kv[0], sm->kv[1], sm->k_scale);
    if (KPARTS == 1)
        load_page<HD, KV>(a, p.page, p.head, key, p.first, p.last, true, sm->kv[1], NULL, sm->v_scale);
    __syncthreads();
    float s[2][4] = {};
#pragma unroll
    for (int k = 0; k < HD; k += 16) {
        uint32_t b[KPARTS][4], q[4];
#pragma unroll
        for (int i = 0; i < KPARTS; i++)
            ldmatrix_x4(b[i], &sm->kv[i][WARP * 16 + LANE / 16 * 8 + (LANE & 7)][k + (LANE / 8 & 1) * 8]);
#pragma unroll
        for (int part = 0; part < 2; part++) {
            ldmatrix_x4(q, &sm->q[part][LANE & 15][k + LANE / 16 * 8]);
#pragma unroll
            for (int i = 0; i < KPARTS && i + part < 2; i++) {
                mma_bf16(s[0], q, b[i]);
                mma_bf16(s[1], q, b[i] + 2);
            }
        }
    }
    float top[2] = {-INFINITY, -INFINITY};
#pragma unroll
    for (int i = 0; i < 8; i++) { /* tile i / 4, row g + 8 (i / 2 % 2) */
        float *x = &s[i >> 2][i & 3];
        int h = i >> 1 & 1, at = WARP * 16 + (i >> 2) * 8 + 2 * t + (i & 1);
        bool sees = key + at >= p.first && key + at <= pos[h];
        float y = *x * a.scale;
        if (KV == QN_KV_E4M3D) y *= sm->k_scale[at];
        *x = sees ? y : -INFINITY;
        top[h] = fmaxf(top[h], *x);
    }
#pragma unroll
    for (int h = 0; h < 2; h++) {
        top[h] = fmaxf(top[h], shfl_xor(top[h], 1));
        top[h] = fmaxf(top[h], shfl_xor(top[h], 2));
        if (!t) sm->most[WARP][g + 8 * h] = top[h];
    }
    __syncthreads(); /* and nobody reads K any more */
    if (KPARTS == 2)
        load_page<HD, KV>(a, p.page, p.head, key, p.first, p.last, true, sm->kv[0], sm->kv[1], NULL);
    float shrink[2], base[2], own[2] = {};
#pragma unroll
    for (int h = 0; h < 2; h++) {
        int r = g + 8 * h;
        float now = fmaxf(fmaxf(sm->most[0][r], sm->most[1][r]), fmaxf(sm->most[2][r], sm->most[3][r]));
        now = fmaxf(now, run->most[h]);
        base[h] = now == -INFINITY ? 0 : now; /* no key of the row so far */
        shrink[h] = dev_exp(run->most[h] - base[h]);
        run->most[h] = now;
    }
#pragma unroll
    for (int i = 0; i < 4; i++) { /* pairs of keys: tile i / 2, row g + 8 (i % 2) */
        int h = i & 1, at = WARP * 16 + (i >> 1) * 8 + 2 * t;
        float x = dev_exp(s[i >> 1][2 * h] - base[h]), y = dev_exp(s[i >> 1][2 * h + 1] - base[h]);
        own[h] += x;
        own[h] += y;
        if (KV == QN_KV_E4M3D) x *= sm->v_scale[at], y *= sm->v_scale[at + 1];
        uint32_t hi = bf16x2_pack(x, y);
        *(uint32_t *)&sm->p[0][g + 8 * h][at] = hi;
        *(uint32_t *)&sm->p[1][g + 8 * h][at] =
            bf16x2_pack(x - bf16_float(hi & 0xffff), y - bits_float(hi & 0xffff0000));
    }
#pragma unroll
    for (int h = 0; h < 2; h++) {
        own[h] += shfl_xor(own[h], 1);
        own[h] += shfl_xor(own[h], 2);
        if (!t) sm->sum[WARP][g + 8 * h] = own[h];
    }
    __syncthreads();
#pragma unroll
    for (int h = 0; h < 2; h++) {
        int r = g + 8 * h;
        float page = (sm->sum[0][r] + sm->sum[1][r]) + (sm->sum[2][r] + sm->sum[3][r]);
        run->sum[h] = run->sum[h] * shrink[h] + page;
    }
#pragma unroll
    for (int i = 0; i < Running<HD>::TILES; i++)
#pragma unroll
        for (int j = 0; j < 4; j++) run->acc[i][j] *= shrink[j >> 1];
    enum { VPARTS = KPARTS };
#pragma unroll
    for (int k = 0; k < QN_PAGE; k += 16)
#pragma unroll
        for (int part = 0; part < 2; part++) {
            uint32_t w[4], b[4];
            ldmatrix_x4(w, &sm->p[part][LANE & 15][k + LANE / 16 * 8]);
#pragma unroll
            for (int v = 0; v < VPARTS && v + part < 2; v++)
#pragma unroll
                for (int i = 0; i < Running<HD>::TILES; i++) {
                    int dim = WARP * (HD / 4) + i * 8; /* tiles in pairs where there are two */
                    if (Running<HD>::TILES == 1) {
                        ldmatrix_x4_trans(b, &sm->kv[KPARTS == 2 ? v : 1][k + (LANE & 15)][dim]);
                        mma_bf16(run->acc[i], w, b);
                    } else if (!(i & 1)) {
                        ldmatrix_x4_trans(b,
                                          &sm->kv[KPARTS == 2 ? v : 1][k + (LANE & 15)][dim + LANE / 16 * 8]);
                        mma_bf16(run->acc[i], w, b);
                        mma_bf16(run->acc[i + 1], w, b + 2);
                    }
                }
        }
}

/* all = all and split, in the way of attn_merge */
template <int HD> DEV void merge(Running<HD> *all, const Running<HD> &split)
{
#pragma unroll
    for (int h = 0; h < 2; h++) {
        if (split.sum[h] == 0) continue; /* sees nothing */
        float m = fmaxf(all->most[h], split.most[h]), x = dev_exp(all->most[h] - m),
              y = dev_exp(split.most[h] - m);
        all->sum[h] = all->sum[h] * x + split.sum[h] * y;
        all->most[h] = m;
#pragma unroll
        for (int i = 0; i < Running<HD>::TILES; i++)
#pragma unroll
            for (int j = 0; j < 2; j++)
                all->acc[i][2 * h + j] = all->acc[i][2 * h + j] * x + split.acc[i][2 * h + j] * y;
    }
}

template <int HD>
DEV void load_q(const AttnArgs &a, AttnShared<HD> *sm, const qn_step_seq &q, int kv_head, int heads,
                int first, int n_pair)
{
    for (int i = threadIdx.x; i < 16 * HD / 2; i += 128) {
        int pair = first + i / (HD / 2), dim = i % (HD / 2) * 2;
        float x = 0, y = 0;
        if (pair < n_pair) {
            const float *from =
                a.q + ((size_t)(q.first_row + pair / heads) * a.n_head + kv_head * heads + pair % heads) * HD;
            x = from[dim], y = from[dim + 1];
        }
        uint32_t hi = bf16x2_pack(x, y);
        *(uint32_t *)&sm->q[0][i / (HD / 2)][dim] = hi;
        *(uint32_t *)&sm->q[1][i / (HD / 2)][dim] =
            bf16x2_pack(x - bf16_float(hi & 0xffff), y - bits_float(hi & 0xffff0000));
    }
}

/* A block: one KV head of a sequence, 16 of its (row, query head) pairs, one split or all. */
template <int HD, int KV, bool ALL>
__global__ void __launch_bounds__(128, HD == 256 ? 2 : 3) attn_kernel(AttnArgs a)
{
    SHARED(AttnShared<HD>, sm);
    const View &v = *a.v;
    const qn_step_seq &q = v.seq[a.first_seq + (int)blockIdx.x / a.kv.nkv];
    int kv_head = (int)blockIdx.x % a.kv.nkv, heads = a.n_head / a.kv.nkv, n_pair = q.n_row * heads;
    int first = (int)blockIdx.z * 16, begin = a.is_mtp ? (q.mtp_from > 1 ? q.mtp_from : 1) : 0;
    int end_pair = first + 16 < n_pair ? first + 16 : n_pair; /* the rows of this tile see no further */
    if (first >= n_pair) return;
    int last = q.pos0 + (end_pair - 1) / heads, pos[2];
    int split0 = ALL ? begin / SPLIT : (int)blockIdx.y, split1 = ALL ? last / SPLIT + 1 : split0 + 1;
    if (split0 * SPLIT > last || split1 * SPLIT <= begin) return; /* the whole block */
    load_q<HD>(a, sm, q, kv_head, heads, first, n_pair);
    int g = LANE >> 2, t = LANE & 3;
#pragma unroll
    for (int h = 0; h < 2; h++) {
        int pair = first + g + 8 * h;
        pos[h] = pair < n_pair ? q.pos0 + pair / heads : last;
    }
    Running<HD> all, run;
    if (ALL) clear(&all);
    for (int split = split0; split < split1; split++) {
        clear(&run);
        int end = split * SPLIT + SPLIT < last + 1 ? split * SPLIT + SPLIT : last + 1;
        for (int key = split * SPLIT; key < end; key += QN_PAGE) {
            if (key + QN_PAGE <= begin) continue;
            Split p = {v.pages[q.first_page + key / QN_PAGE], kv_head, begin, last};
            attend_page<HD, KV>(a, sm, p, key, pos, &run);
        }
        if (ALL) merge(&all, run);
    }
    const Running<HD> &out = ALL ? all : run;
#pragma unroll
    for (int j = 0; j < 4; j++) {
        int h = j >> 1, pair = first + g + 8 * h;
        if (pair >= n_pair) continue;
        size_t at = (size_t)(q.first_row + pair / heads) * a.n_head + kv_head * heads + pair % heads;
        float *to = ALL ? a.o + at * HD : a.part + (at * a.n_split + blockIdx.y) * (HD + 2);
#pragma unroll
        for (int i = 0; i < Running<HD>::TILES; i++) {
            float x = out.acc[i][j];
            to[WARP * (HD / 4) + i * 8 + 2 * t + (j & 1)] = ALL ? x / out.sum[h] * a.kv.v_scale : x;
        }
        if (!ALL && !WARP && !t && !(j & 1)) to[HD] = out.most[h], to[HD + 1] = out.sum[h];
    }
}
/* Splits in order; a block a (row, head). */
template <int HD> __global__ void attn_merge(AttnArgs a)
{
    const View &v = *a.v;
    const qn_step_seq &q = v.seq[a.first_seq + (int)blockIdx.z];
    if ((int)blockIdx.y >= q.n_row) return;
    int pos = q.pos0 + (int)blockIdx.y, begin = a.is_mtp ? (q.mtp_from > 1 ? q.mtp_from : 1) : 0;
    size_t at = (size_t)(q.first_row + (int)blockIdx.y) * a.n_head + blockIdx.x;
    float most = -INFINITY, sum = 0, o = 0;
    for (int i = begin / SPLIT; i * SPLIT <= pos; i++) {
        const float *part = a.part + (at * a.n_split + i) * (HD + 2);
        if (part[HD + 1] == 0) continue;
        float m = fmaxf(most, part[HD]), x = dev_exp(most - m), y = dev_exp(part[HD] - m);
        sum = sum * x + part[HD + 1] * y;
        o = o * x + part[threadIdx.x] * y;
        most = m;
    }
    a.o[at * HD + threadIdx.x] = o / sum * a.kv.v_scale;
}

/* ------------------------------------------------ host
 * ------------------------------------------------------ */
template <int HD, int KV> static void run(struct qn_device *d, const AttnArgs &a, int n_seq, int most_rows)
{
    int heads = a.n_head / a.kv.nkv;
    size_t smem = sizeof(AttnShared<HD>);
    dim3 grid((unsigned)(n_seq * a.kv.nkv), a.part ? (unsigned)a.n_split : 1,
              (unsigned)QN_CEIL_DIV(most_rows * heads, 16));
    auto kernel = a.part ? attn_kernel<HD, KV, false> : attn_kernel<HD, KV, true>;
    cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)smem);
    CU_LAUNCH(d, kernel, grid, dim3(128), smem, a);
    if (a.part)
        CU_LAUNCH(d, attn_merge<HD>, dim3((unsigned)a.n_head, (unsigned)most_rows, (unsigned)n_seq), dim3(HD),
                  0, a);
}
template <int HD> static void run_kv(struct qn_device *d, const AttnArgs &a, int n_seq, int most_rows)
{
    switch (a.kv.kv) {
    case QN_KV_F32:
        return run<HD, QN_KV_F32>(d, a, n_seq, most_rows);
    case QN_KV_BF16:
        return run<HD, QN_KV_BF16>(d, a, n_seq, most_rows);
    case QN_KV_E5M2:
        return run<HD, QN_KV_E5M2>(d, a, n_seq, most_rows);
    case QN_KV_E4M3:
        return run<HD, QN_KV_E4M3>(d, a, n_seq, most_rows);
    default:
        return run<HD, QN_KV_E4M3D>(d, a, n_seq, most_rows);
    }
}

/* Decode and prefill alike: a block a split where the partial results have room, else a block does all. */
void cu_attn(struct qn_device *d, const struct qn_step *s, const struct qn_op_attn *op)
{
    const struct Shape *c = &d->s;
    AttnArgs a = {};
    int most_rows = 0, most_pos = 0, last_row = 0;
    for (int i = op->first; i < op->first + op->n_seq; i++) {
        const struct qn_step_seq *q = &s->seq[i];
        most_rows = QN_MAX(most_rows, q->n_row);
        most_pos = QN_MAX(most_pos, q->pos0 + q->n_row);
        last_row = QN_MAX(last_row, q->first_row + q->n_row);
    }
    if (!most_rows) return;
    a.v = cu_view(d, s);
    a.kv = kv_args(d, &op->w->attn, op->kv_layer);
    a.q = d->q;
    a.o = d->attn;
    a.n_head = c->n_head;
    a.first_seq = op->first;
    a.n_split = QN_CEIL_DIV(most_pos, SPLIT);
    a.is_mtp = op->kv_layer == d->c.n_full;
    a.scale = a.kv.k_scale / sqrtf((float)c->head_dim);
    size_t need = (size_t)last_row * (size_t)c->n_head * (size_t)a.n_split * (size_t)(c->hd_pad + 2);
    a.part = a.n_split > 1 && need <= d->part_floats ? d->part : NULL;
    switch (c->hd_pad) {
    case 32:
        return run_kv<32>(d, a, op->n_seq, most_rows);
    case 64:
        return run_kv<64>(d, a, op->n_seq, most_rows);
    case 128:
        return run_kv<128>(d, a, op->n_seq, most_rows);
    default:
        return run_kv<256>(d, a, op->n_seq, most_rows);
    }
}

/* o * sigmoid(gate), packed; zeros for rows that do not stand */
__global__ void gate_kernel(const View *v, const float *o, const float *qg, Shape c, uint32_t *xp)
{
    int row = (int)blockIdx.x, n = c.n_head * c.head_dim, k64 = (n + 63) / 64;
    bool stands = v->row_seq[row] >= 0;
    int k = 2 * (int)(blockIdx.y * blockDim.x + threadIdx.x);
    if (k >= k64 * 64) return;
    auto value = [&](int i) {
        if (!stands || i >= n) return 0.0f;
        size_t head = (size_t)row * c.n_head + i / c.head_dim;
        int dim = i % c.head_dim;
        return o[head * c.hd_pad + dim] * dev_sigmoid(qg[head * 2 * c.head_dim + c.head_dim + dim]);
    };
    packed_store(xp, k64 * 4, c.parts, row, k, value(k), value(k + 1));
}

void cu_attn_out(struct qn_device *d, const struct qn_step *s, const struct qn_op_attn_out *op)
{
    int n = d->s.n_head * d->s.head_dim;
    unsigned threads = cu_threads(n);
    if (!s->n_row) return;
    CU_LAUNCH(d, gate_kernel, dim3((unsigned)s->n_row, (unsigned)QN_CEIL_DIV(cu_k64(n) * 32, (int)threads)),
              dim3(threads), 0, cu_view(d, s), d->attn, d->qg, d->s, d->xp);
    struct Job job = {op->w->attn.o, op->y};
    cu_linear(d, d->xp, s->n_row, &job, 1);
}
