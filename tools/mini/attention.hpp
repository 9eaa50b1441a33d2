// Causal attention of short sequences with head dim 64 in AVX512-BF16: the part of training that torch is slowest at.
// SPDX-License-Identifier: Apache-2.0
#pragma once
#ifdef __AVX512BF16__
#include <immintrin.h>

namespace attention {
static constexpr int E = 64, E2 = E / 2; // head dim, and its pairs: two BF16 in a word

static inline __m512 exp16(__m512 x)
{
    x = _mm512_mul_ps(_mm512_max_ps(x, _mm512_set1_ps(-80.0f)), _mm512_set1_ps(1.442695041f));
    __m512 n = _mm512_roundscale_ps(x, 0), f = _mm512_sub_ps(x, n), p = _mm512_set1_ps(0.00133336f);
    for (float c : {0.00961813f, 0.05550411f, 0.24022651f, 0.69314718f, 1.0f}) p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(c));
    return _mm512_scalef_ps(p, n);
}

// C[rows, 64] (+)= A[rows, 2 * kk] B[2 * kk, 64]; A in rows of pairs, B as words of two rows; rows a multiple of 4
static inline void gemm(const uint32_t *A, int lda, const uint32_t *B, int ldb, int kk, int rows, float *C, int ldc, bool add)
{
    for (int r = 0; r < rows; r += 4) {
        __m512 c[4][4];
        for (int i = 0; i < 4; i++)
            for (int j = 0; j < 4; j++) c[i][j] = add ? _mm512_loadu_ps(C + size_t(r + i) * ldc + 16 * j) : _mm512_setzero_ps();
        const uint32_t *a = A + size_t(r) * lda;
        for (int k = 0; k < kk; k++) {
            __m512bh b[4];
            for (int j = 0; j < 4; j++) b[j] = (__m512bh)_mm512_loadu_si512(B + size_t(k) * ldb + 16 * j);
            for (int i = 0; i < 4; i++) {
                __m512bh x = (__m512bh)_mm512_set1_epi32(a[size_t(i) * lda + k]);
                for (int j = 0; j < 4; j++) c[i][j] = _mm512_dpbf16_ps(c[i][j], x, b[j]);
            }
        }
        for (int i = 0; i < 4; i++)
            for (int j = 0; j < 4; j++) _mm512_storeu_ps(C + size_t(r + i) * ldc + 16 * j, c[i][j]);
    }
}

static inline __m512i words(__m512 low, __m512 high) // BF16 of low in the low halves, of high in the high halves
{
    __m512i l = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(low)), h = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(high));
    return _mm512_or_si512(l, _mm512_slli_epi32(h, 16));
}

// Rows of one head, zero after the last, in the forms that products need.
struct Packed {
    std::vector<uint32_t> row, pairT, pairR; // [Tp][32] rows; [32][Tp] their transpose by pairs; [Tp/2][64] words of two rows
    std::vector<uint32_t> turned;            // [64][Tp/2] transpose of pairR
    void set(const uint16_t *x, int T, int Tp, bool t, bool r, bool u)
    {
        row.resize(size_t(Tp) * E2);
        memcpy(row.data(), x, size_t(T) * E * 2);
        memset(row.data() + size_t(T) * E2, 0, size_t(Tp - T) * E2 * 4);
        const uint16_t *h = reinterpret_cast<const uint16_t *>(row.data());
        if (t) {
            pairT.resize(size_t(Tp) * E2);
            for (int i = 0; i < Tp; i += 16)
                for (int d = 0; d < E2; d++)
                    for (int k = 0; k < 16; k++) pairT[size_t(d) * Tp + i + k] = row[size_t(i + k) * E2 + d];
        }
        if (r || u) {
            pairR.resize(size_t(Tp / 2) * E);
            for (int i = 0; i < Tp / 2; i++)
                for (int c = 0; c < E; c++) pairR[size_t(i) * E + c] = h[size_t(2 * i) * E + c] | uint32_t(h[size_t(2 * i + 1) * E + c]) << 16;
        }
        if (u) {
            turned.resize(size_t(Tp / 2) * E);
            for (int i = 0; i < Tp / 2; i += 16)
                for (int c = 0; c < E; c++)
                    for (int k = 0; k < 16; k++) turned[size_t(c) * (Tp / 2) + i + k] = pairR[size_t(i + k) * E + c];
        }
    }
};

struct Work {
    Packed q, k, v, g;
    std::vector<float> S, C, dQ, dKt, dVt;
    std::vector<uint32_t> P;
};

// out [T, 64], lse [T] of one head
static void forward(Work &w, const uint16_t *q, const uint16_t *k, const uint16_t *v, int T, uint16_t *out, float *lse)
{
    int Tp = (T + 63) / 64 * 64;
    w.q.set(q, T, Tp, false, false, false);
    w.k.set(k, T, Tp, true, false, false);
    w.v.set(v, T, Tp, false, true, false);
    w.S.resize(size_t(64) * Tp);
    w.C.resize(64 * E);
    w.P.resize(size_t(64) * Tp / 2);
    const __m512 scale = _mm512_set1_ps(0.125f), low = _mm512_set1_ps(-1e30f);
    const __m512i lane = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    for (int q0 = 0; q0 < T; q0 += 64) {
        int nk = q0 + 64;
        for (int k0 = 0; k0 < nk; k0 += 64) gemm(&w.q.row[size_t(q0) * E2], E2, &w.k.pairT[k0], Tp, E2, 64, &w.S[k0], nk, false);
        for (int r = 0; r < 64; r++) {
            float *s = &w.S[size_t(r) * nk];
            __m512 top = low, sum = _mm512_setzero_ps();
            for (int c = 0; c < nk; c += 16) {
                __mmask16 seen = _mm512_cmple_epi32_mask(_mm512_add_epi32(lane, _mm512_set1_epi32(c)), _mm512_set1_epi32(q0 + r));
                __m512 x = _mm512_mask_blend_ps(seen, low, _mm512_mul_ps(_mm512_loadu_ps(s + c), scale));
                _mm512_storeu_ps(s + c, x);
                top = _mm512_max_ps(top, x);
            }
            float m = _mm512_reduce_max_ps(top);
            for (int c = 0; c < nk; c += 16) {
                __m512 x = _mm512_loadu_ps(s + c);
                __m512 e = _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, _mm512_set1_ps(-1e29f), _CMP_GT_OQ), exp16(_mm512_sub_ps(x, _mm512_set1_ps(m))));
                _mm512_storeu_ps(s + c, e);
                sum = _mm512_add_ps(sum, e);
            }
            float z = _mm512_reduce_add_ps(sum);
            if (q0 + r < T) lse[q0 + r] = m + logf(z);
            __m512 inv = _mm512_set1_ps(1.0f / z);
            for (int c = 0; c < nk; c += 16)
                _mm256_storeu_si256((__m256i *)(reinterpret_cast<uint16_t *>(w.P.data()) + size_t(r) * nk + c),
                                    (__m256i)_mm512_cvtneps_pbh(_mm512_mul_ps(_mm512_loadu_ps(s + c), inv)));
        }
        gemm(w.P.data(), nk / 2, w.v.pairR.data(), E, nk / 2, 64, w.C.data(), E, false);
        for (int r = 0; r < 64 && q0 + r < T; r++)
            for (int c = 0; c < E; c += 16)
                _mm256_storeu_si256((__m256i *)(out + size_t(q0 + r) * E + c), (__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(&w.C[r * E + c])));
    }
}

static inline float dot64(const uint16_t *a, const uint16_t *b)
{
    __m512 s = _mm512_setzero_ps();
    for (int c = 0; c < E; c += 32) s = _mm512_dpbf16_ps(s, (__m512bh)_mm512_loadu_si512(a + c), (__m512bh)_mm512_loadu_si512(b + c));
    return _mm512_reduce_add_ps(s);
}

// gradients dq, dk, dv [T, 64] of one head for the gradient g of its output o
static void backward(Work &w, const uint16_t *g, const uint16_t *q, const uint16_t *k, const uint16_t *v, const uint16_t *o, const float *lse, int T,
                     uint16_t *dq, uint16_t *dk, uint16_t *dv)
{
    int Tp = (T + 63) / 64 * 64;
    w.q.set(q, T, Tp, false, false, true);
    w.k.set(k, T, Tp, true, true, false);
    w.v.set(v, T, Tp, true, false, false);
    w.g.set(g, T, Tp, false, false, true);
    w.S.resize(64 * 64);
    w.C.resize(64 * 64);
    w.P.resize(3 * 64 * 32);
    w.dQ.resize(64 * E);
    w.dKt.assign(size_t(E) * Tp, 0);
    w.dVt.assign(size_t(E) * Tp, 0);
    uint32_t *Pr = w.P.data(), *Sr = Pr + 64 * 32, *Sw = Sr + 64 * 32; // words of two rows of P and of dS; rows of dS
    const __m512 scale = _mm512_set1_ps(0.125f);
    const __m512i lane = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    for (int q0 = 0; q0 < T; q0 += 64) {
        float D[64], L[64];
        for (int r = 0; r < 64; r++) {
            bool in = q0 + r < T;
            D[r] = in ? dot64(g + size_t(q0 + r) * E, o + size_t(q0 + r) * E) : 0;
            L[r] = in ? lse[q0 + r] : 1e30f; // rows after the end have probability 0
        }
        for (int k0 = 0; k0 <= q0; k0 += 64) {
            gemm(&w.q.row[size_t(q0) * E2], E2, &w.k.pairT[k0], Tp, E2, 64, w.S.data(), 64, false);
            gemm(&w.g.row[size_t(q0) * E2], E2, &w.v.pairT[k0], Tp, E2, 64, w.C.data(), 64, false);
            for (int r = 0; r < 64; r += 2)
                for (int c = 0; c < 64; c += 16) {
                    __m512 p[2], s[2];
                    for (int i = 0; i < 2; i++) {
                        int at = q0 + r + i;
                        __mmask16 seen = _mm512_cmple_epi32_mask(_mm512_add_epi32(lane, _mm512_set1_epi32(k0 + c)), _mm512_set1_epi32(at));
                        if (at >= T) seen = 0;
                        p[i] = _mm512_maskz_mov_ps(seen, exp16(_mm512_sub_ps(_mm512_mul_ps(_mm512_loadu_ps(&w.S[(r + i) * 64 + c]), scale), _mm512_set1_ps(L[r + i]))));
                        s[i] = _mm512_mul_ps(p[i], _mm512_mul_ps(scale, _mm512_sub_ps(_mm512_loadu_ps(&w.C[(r + i) * 64 + c]), _mm512_set1_ps(D[r + i]))));
                        _mm256_storeu_si256((__m256i *)(reinterpret_cast<uint16_t *>(Sw) + (r + i) * 64 + c), (__m256i)_mm512_cvtneps_pbh(s[i]));
                    }
                    _mm512_storeu_si512(Pr + (r / 2) * 64 + c, words(p[0], p[1]));
                    _mm512_storeu_si512(Sr + (r / 2) * 64 + c, words(s[0], s[1]));
                }
            gemm(Sw, 32, &w.k.pairR[size_t(k0 / 2) * E], E, 32, 64, w.dQ.data(), E, k0 > 0);
            gemm(&w.g.turned[q0 / 2], Tp / 2, Pr, 64, 32, 64, &w.dVt[k0], Tp, true);
            gemm(&w.q.turned[q0 / 2], Tp / 2, Sr, 64, 32, 64, &w.dKt[k0], Tp, true);
        }
        for (int r = 0; r < 64 && q0 + r < T; r++)
            for (int c = 0; c < E; c += 16)
                _mm256_storeu_si256((__m256i *)(dq + size_t(q0 + r) * E + c), (__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(&w.dQ[r * E + c])));
    }
    for (int t = 0; t < T; t++)
        for (int c = 0; c < E; c++) {
            dk[size_t(t) * E + c] = down_raw(w.dKt[size_t(c) * Tp + t]);
            dv[size_t(t) * E + c] = down_raw(w.dVt[size_t(c) * Tp + t]);
        }
}
} // namespace attention
#endif
