// Fused CPU operations for training quern-mini: gated delta net, norms, expert combination, cross entropy.
// Each has a plain torch twin in model.py; check_model.py compares them.
// SPDX-License-Identifier: Apache-2.0
#include <torch/extension.h>
#include <ATen/Parallel.h>
#include <cmath>
#include <cstring>
#include <vector>

typedef at::BFloat16 bf;
using torch::Tensor;
static constexpr int D = 32; // head dim of keys and values in the fast path
typedef float vec __attribute__((vector_size(64)));
static constexpr int NV16 = D / 16;

static inline float up(bf x) { return static_cast<float>(x); }
static inline float up_raw(uint16_t h) { uint32_t u = uint32_t(h) << 16; float f; memcpy(&f, &u, 4); return f; }
static inline uint16_t down_raw(float f) { uint32_t u; memcpy(&u, &f, 4); return uint16_t((u + 0x7fff + ((u >> 16) & 1)) >> 16); }
static inline const uint16_t *raw(const Tensor &t) { return reinterpret_cast<const uint16_t *>(t.data_ptr<bf>()); }
static inline uint16_t *rawm(Tensor &t) { return reinterpret_cast<uint16_t *>(t.data_ptr<bf>()); }
static inline float sigm(float x) { return 1.0f / (1.0f + expf(-x)); }
static inline float hsum(vec a) { float s = 0; for (int i = 0; i < 16; i++) s += a[i]; return s; }

#include "attention.hpp"

struct Gdn { // one work item: sequence b, key head h and its value heads
    int T, NK, NVh, r, KD, VD, CD, N, W;
    const uint16_t *P;   // [T, N] rows: q k v | z | b a
    const float *cw;     // [CD, 4]
    const float *alog, *dt, *nw;
    float eps;
    int h;
    std::vector<float> s, act, qn, kn, rq, rk, beta, alpha, g, a_in, o, S, m, d;
    int chan(int w) const { // local channel block w (of D) -> column of P
        return w == 0 ? h * D : w == 1 ? KD + h * D : 2 * KD + (h * r + (w - 2)) * D;
    }
    void prepare()
    {
        W = (2 + r) * D;
        s.resize(size_t(T) * W); act.resize(size_t(T) * W);
        qn.resize(size_t(T) * D); kn.resize(size_t(T) * D); rq.resize(T); rk.resize(T);
        beta.resize(T * r); alpha.resize(T * r); g.resize(T * r); a_in.resize(T * r);
        o.resize(size_t(T) * r * D);
        const float scale = 1.0f / sqrtf(float(D));
        for (int w = 0; w < 2 + r; w++) {
            int c0 = chan(w);
            float w0[D], w1[D], w2[D], w3[D];
            for (int c = 0; c < D; c++) { w0[c] = cw[(c0 + c) * 4]; w1[c] = cw[(c0 + c) * 4 + 1]; w2[c] = cw[(c0 + c) * 4 + 2]; w3[c] = cw[(c0 + c) * 4 + 3]; }
            float u1[D] = {0}, u2[D] = {0}, u3[D] = {0};
            for (int t = 0; t < T; t++) {
                const uint16_t *u = P + size_t(t) * N + c0;
                float *so = &s[size_t(t) * W + w * D], *ao = &act[size_t(t) * W + w * D];
                for (int c = 0; c < D; c++) {
                    float x = up_raw(u[c]);
                    float v = w0[c] * u3[c] + w1[c] * u2[c] + w2[c] * u1[c] + w3[c] * x;
                    u3[c] = u2[c]; u2[c] = u1[c]; u1[c] = x;
                    so[c] = v;
                    ao[c] = v / (1.0f + expf(-v));
                }
            }
        }
        for (int t = 0; t < T; t++) {
            const float *q = &act[size_t(t) * W], *k = q + D;
            float sq = 0, sk = 0;
            for (int c = 0; c < D; c++) { sq += q[c] * q[c]; sk += k[c] * k[c]; }
            rq[t] = 1.0f / sqrtf(sq + 1e-6f); rk[t] = 1.0f / sqrtf(sk + 1e-6f);
            for (int c = 0; c < D; c++) { qn[t * D + c] = q[c] * rq[t] * scale; kn[t * D + c] = k[c] * rk[t]; }
            const uint16_t *ba = P + size_t(t) * N + CD + VD;
            for (int j = 0; j < r; j++) {
                int vh = h * r + j;
                float b = up_raw(ba[vh]), a = up_raw(ba[NVh + vh]) + dt[vh];
                beta[t * r + j] = sigm(b);
                a_in[t * r + j] = a;
                float sp = a > 20 ? a : log1pf(expf(a));
                g[t * r + j] = -expf(alog[vh]) * sp;
                alpha[t * r + j] = expf(g[t * r + j]);
            }
        }
    }
    void recur(int j, bool keep)
    {
        if (keep) { S.resize(size_t(T + 1) * D * D + 16); m.resize(size_t(T) * D); d.resize(size_t(T) * D); memset(S.data(), 0, D * D * 4); }
        alignas(64) vec L[D][NV16];
        memset(L, 0, sizeof L);
        for (int t = 0; t < T; t++) {
            const float *k = &kn[t * D], *q = &qn[t * D], *v = &act[size_t(t) * W + (2 + j) * D];
            float al = alpha[t * r + j], be = beta[t * r + j];
            vec mm[NV16], oo[NV16], dd[NV16];
            memset(mm, 0, sizeof mm); memset(oo, 0, sizeof oo);
            for (int i = 0; i < D; i++)
                for (int x = 0; x < NV16; x++) { L[i][x] *= al; mm[x] += L[i][x] * k[i]; }
            for (int x = 0; x < NV16; x++) { vec vv; memcpy(&vv, v + 16 * x, 64); dd[x] = be * (vv - mm[x]); }
            for (int i = 0; i < D; i++)
                for (int x = 0; x < NV16; x++) { L[i][x] += k[i] * dd[x]; oo[x] += L[i][x] * q[i]; }
            memcpy(&o[(size_t(t) * r + j) * D], oo, sizeof oo);
            if (keep) {
                memcpy(&m[t * D], mm, sizeof mm); memcpy(&d[t * D], dd, sizeof dd);
                memcpy(&S[size_t(t + 1) * D * D], L, sizeof L);
            }
        }
    }
};

static Gdn make(const Tensor &P, const Tensor &cw, const Tensor &alog, const Tensor &dt, const Tensor &nw, int NK, int NVh, double eps, int b, int h)
{
    Gdn w;
    w.T = P.size(1); w.NK = NK; w.NVh = NVh; w.r = NVh / NK; w.KD = NK * D; w.VD = NVh * D; w.CD = 2 * w.KD + w.VD;
    w.N = P.size(2); w.P = raw(P) + size_t(b) * w.T * w.N; w.cw = cw.data_ptr<float>();
    w.alog = alog.data_ptr<float>(); w.dt = dt.data_ptr<float>(); w.nw = nw.data_ptr<float>(); w.eps = eps; w.h = h;
    return w;
}

Tensor gdn_fwd(Tensor P, Tensor cw, Tensor alog, Tensor dt, Tensor nw, int64_t NK, int64_t NVh, double eps)
{
    int B = P.size(0), T = P.size(1), VD = NVh * D;
    Tensor y = torch::empty({B, T, VD}, P.options());
    uint16_t *yo = rawm(y);
    at::parallel_for(0, B * NK, 1, [&](int64_t lo, int64_t hi) {
        for (int64_t it = lo; it < hi; it++) {
            Gdn w = make(P, cw, alog, dt, nw, NK, NVh, eps, it / NK, it % NK);
            w.prepare();
            for (int j = 0; j < w.r; j++) {
                w.recur(j, false);
                int vh = w.h * w.r + j;
                for (int t = 0; t < T; t++) {
                    const float *o = &w.o[(size_t(t) * w.r + j) * D];
                    const uint16_t *z = w.P + size_t(t) * w.N + w.CD + vh * D;
                    float ss = 0;
                    for (int c = 0; c < D; c++) ss += o[c] * o[c];
                    float rms = 1.0f / sqrtf(ss / D + w.eps);
                    uint16_t *out = yo + (size_t(it / NK) * T + t) * VD + vh * D;
                    for (int c = 0; c < D; c++) { float zz = up_raw(z[c]); out[c] = down_raw(o[c] * rms * w.nw[c] * zz / (1.0f + expf(-zz))); }
                }
            }
        }
    });
    return y;
}

std::vector<Tensor> gdn_bwd(Tensor dy, Tensor P, Tensor cw, Tensor alog, Tensor dt, Tensor nw, int64_t NK, int64_t NVh, double eps)
{
    int B = P.size(0), T = P.size(1), VD = NVh * D, CD = cw.size(0), N = P.size(2);
    Tensor dP = torch::empty_like(P);
    int nth = at::get_num_threads();
    Tensor dcw = torch::zeros({nth, CD, 4}), dal = torch::zeros({nth, NVh}), ddt = torch::zeros({nth, NVh}), dnw = torch::zeros({nth, D});
    uint16_t *dp = rawm(dP);
    const uint16_t *dyo = raw(dy);
    at::parallel_for(0, B * NK, 1, [&](int64_t lo, int64_t hi) {
        int th = at::get_thread_num();
        float *gcw = dcw.data_ptr<float>() + size_t(th) * CD * 4, *gal = dal.data_ptr<float>() + th * NVh, *gdt = ddt.data_ptr<float>() + th * NVh, *gnw = dnw.data_ptr<float>() + th * D;
        std::vector<float> dact, dqn, dkn;
        for (int64_t it = lo; it < hi; it++) {
            int b = it / NK;
            Gdn w = make(P, cw, alog, dt, nw, NK, NVh, eps, b, it % NK);
            w.prepare();
            int W = w.W, r = w.r;
            dact.assign(size_t(T) * W, 0); dqn.assign(size_t(T) * D, 0); dkn.assign(size_t(T) * D, 0);
            uint16_t *dpb = dp + size_t(b) * T * N;
            for (int j = 0; j < r; j++) {
                w.recur(j, true);
                int vh = w.h * r + j;
                alignas(64) vec G[D][NV16];
                memset(G, 0, sizeof G);
                for (int t = T - 1; t >= 0; t--) {
                    // output norm and gate
                    const float *o = &w.o[(size_t(t) * r + j) * D];
                    const uint16_t *z = w.P + size_t(t) * N + CD + vh * D;
                    const uint16_t *gy = dyo + (size_t(b) * T + t) * VD + vh * D;
                    uint16_t *dz = dpb + size_t(t) * N + CD + vh * D;
                    alignas(64) float dout[D];
                    float ss = 0, so = 0;
                    for (int c = 0; c < D; c++) ss += o[c] * o[c];
                    float rms = 1.0f / sqrtf(ss / D + w.eps);
                    for (int c = 0; c < D; c++) {
                        float zz = up_raw(z[c]), sg = 1.0f / (1.0f + expf(-zz)), sl = zz * sg, q = up_raw(gy[c]);
                        float n = o[c] * rms;
                        dz[c] = down_raw(q * n * w.nw[c] * sg * (1.0f + zz * (1.0f - sg)));
                        gnw[c] += q * n * sl;
                        dout[c] = q * w.nw[c] * sl;
                        so += dout[c] * o[c];
                    }
                    so *= rms * rms / D;
                    for (int c = 0; c < D; c++) dout[c] = rms * (dout[c] - o[c] * so);
                    // recurrence
                    const float *k = &w.kn[t * D], *q = &w.qn[t * D], *v = &w.act[size_t(t) * W + (2 + j) * D];
                    const float *S1 = &w.S[size_t(t + 1) * D * D], *S0 = &w.S[size_t(t) * D * D];
                    const float *mt = &w.m[t * D], *dtt = &w.d[t * D];
                    float al = w.alpha[t * r + j], be = w.beta[t * r + j];
                    vec dO[NV16], dV[NV16], dd[NV16], dm[NV16];
                    memcpy(dO, dout, sizeof dO); memcpy(dV, dtt, sizeof dV); memset(dd, 0, sizeof dd);
                    float *dq = &dqn[t * D], *dk = &dkn[t * D];
                    for (int i = 0; i < D; i++) {
                        vec a = {0}, c = {0};
                        for (int x = 0; x < NV16; x++) {
                            vec s1; memcpy(&s1, S1 + i * D + 16 * x, 64);
                            G[i][x] += q[i] * dO[x];
                            a += s1 * dO[x];
                            c += G[i][x] * dV[x];
                            dd[x] += G[i][x] * k[i];
                        }
                        dq[i] += hsum(a);
                        dk[i] += hsum(c);
                    }
                    alignas(64) float ddf[D];
                    memcpy(ddf, dd, sizeof ddf);
                    float db = 0;
                    float *da = &dact[size_t(t) * W + (2 + j) * D];
                    for (int c = 0; c < D; c++) { db += ddf[c] * (v[c] - mt[c]); da[c] = be * ddf[c]; }
                    for (int x = 0; x < NV16; x++) dm[x] = -be * dd[x];
                    vec dal_v = {0};
                    for (int i = 0; i < D; i++) {
                        vec c = {0};
                        for (int x = 0; x < NV16; x++) {
                            vec s0; memcpy(&s0, S0 + i * D + 16 * x, 64);
                            vec gs = G[i][x] + k[i] * dm[x];
                            c += s0 * dm[x];
                            dal_v += gs * s0;
                            G[i][x] = al * gs;
                        }
                        dk[i] += al * hsum(c);
                    }
                    float dg = hsum(dal_v) * al;
                    gal[vh] += dg * w.g[t * r + j];
                    float ain = w.a_in[t * r + j];
                    float da_in = -expf(w.alog[vh]) * dg * (ain > 20 ? 1.0f : sigm(ain));
                    gdt[vh] += da_in;
                    dpb[size_t(t) * N + CD + VD + vh] = down_raw(db * be * (1.0f - be));
                    dpb[size_t(t) * N + CD + VD + NVh + vh] = down_raw(da_in);
                }
            }
            const float scale = 1.0f / sqrtf(float(D));
            for (int t = 0; t < T; t++) {
                const float *q = &w.act[size_t(t) * W], *k = q + D;
                float sq = 0, sk = 0;
                for (int c = 0; c < D; c++) { sq += q[c] * dqn[t * D + c]; sk += k[c] * dkn[t * D + c]; }
                float a = w.rq[t], e = w.rk[t];
                for (int c = 0; c < D; c++) {
                    dact[size_t(t) * W + c] = scale * (a * dqn[t * D + c] - a * a * a * q[c] * sq);
                    dact[size_t(t) * W + D + c] = e * dkn[t * D + c] - e * e * e * k[c] * sk;
                }
            }
            for (int x = 0; x < 2 + r; x++) {
                int c0 = w.chan(x);
                float w0[D], w1[D], w2[D], w3[D], g0[D] = {0}, g1[D] = {0}, g2[D] = {0}, g3[D] = {0}, d1[D] = {0}, d2[D] = {0}, d3[D] = {0};
                for (int c = 0; c < D; c++) { w0[c] = cw.data_ptr<float>()[(c0 + c) * 4]; w1[c] = w.cw[(c0 + c) * 4 + 1]; w2[c] = w.cw[(c0 + c) * 4 + 2]; w3[c] = w.cw[(c0 + c) * 4 + 3]; }
                for (int t = T - 1; t >= 0; t--) {
                    const float *sv = &w.s[size_t(t) * W + x * D], *da = &dact[size_t(t) * W + x * D];
                    const uint16_t *u = w.P + size_t(t) * N + c0;
                    uint16_t *du = dpb + size_t(t) * N + c0;
                    for (int c = 0; c < D; c++) {
                        float sg = 1.0f / (1.0f + expf(-sv[c]));
                        float ds = da[c] * sg * (1.0f + sv[c] * (1.0f - sg));
                        float uu = up_raw(u[c]);
                        du[c] = down_raw(w3[c] * ds + w2[c] * d1[c] + w1[c] * d2[c] + w0[c] * d3[c]);
                        g3[c] += ds * uu; g2[c] += d1[c] * uu; g1[c] += d2[c] * uu; g0[c] += d3[c] * uu;
                        d3[c] = d2[c]; d2[c] = d1[c]; d1[c] = ds;
                    }
                }
                for (int c = 0; c < D; c++) { float *o = gcw + (c0 + c) * 4; o[0] += g0[c]; o[1] += g1[c]; o[2] += g2[c]; o[3] += g3[c]; }
            }
        }
    });
    return {dP, dcw.sum(0), dal.sum(0), ddt.sum(0), dnw.sum(0)};
}

// x' = x + y; h = rmsnorm(x') * (1 + w). x [M, H] fp32, y [M, H] bf16 (may be empty).
std::vector<Tensor> norm_fwd(Tensor x, Tensor y, Tensor w, double eps)
{
    int64_t M = x.size(0), H = x.size(1);
    bool add = y.numel() > 0;
    Tensor xo = add ? torch::empty_like(x) : x;
    Tensor h = torch::empty({M, H}, x.options().dtype(torch::kBFloat16));
    const float *xp = x.data_ptr<float>(), *wp = w.data_ptr<float>();
    const uint16_t *yp = add ? raw(y) : nullptr;
    float *op = xo.data_ptr<float>();
    uint16_t *hp = rawm(h);
    at::parallel_for(0, M, 64, [&](int64_t lo, int64_t hi) {
        for (int64_t i = lo; i < hi; i++) {
            const float *a = xp + i * H;
            float *o = op + i * H;
            float ss = 0;
            if (add) for (int64_t c = 0; c < H; c++) { float v = a[c] + up_raw(yp[i * H + c]); o[c] = v; ss += v * v; }
            else for (int64_t c = 0; c < H; c++) ss += a[c] * a[c];
            float r = 1.0f / sqrtf(ss / H + float(eps));
            for (int64_t c = 0; c < H; c++) hp[i * H + c] = down_raw(o[c] * r * (1.0f + wp[c]));
        }
    });
    return {xo, h};
}

std::vector<Tensor> norm_bwd(Tensor dxo, Tensor dh, Tensor xo, Tensor w, double eps)
{
    int64_t M = xo.size(0), H = xo.size(1);
    bool has = dxo.numel() > 0;
    Tensor dx = torch::empty_like(xo);
    Tensor dy = torch::empty_like(dh);
    int nth = at::get_num_threads();
    Tensor dw = torch::zeros({nth, H});
    const float *xp = xo.data_ptr<float>(), *wp = w.data_ptr<float>(), *gp = has ? dxo.data_ptr<float>() : nullptr;
    const uint16_t *hp = raw(dh);
    float *op = dx.data_ptr<float>();
    uint16_t *yp = rawm(dy);
    at::parallel_for(0, M, 64, [&](int64_t lo, int64_t hi) {
        float *gw = dw.data_ptr<float>() + at::get_thread_num() * H;
        for (int64_t i = lo; i < hi; i++) {
            const float *a = xp + i * H;
            float ss = 0, so = 0;
            for (int64_t c = 0; c < H; c++) { ss += a[c] * a[c]; so += a[c] * up_raw(hp[i * H + c]) * (1.0f + wp[c]); }
            float r = 1.0f / sqrtf(ss / H + float(eps));
            so *= r * r / H;
            for (int64_t c = 0; c < H; c++) {
                float d = up_raw(hp[i * H + c]);
                gw[c] += d * a[c] * r;
                float v = r * (d * (1.0f + wp[c]) - a[c] * so) + (has ? gp[i * H + c] : 0.0f);
                op[i * H + c] = v;
                yp[i * H + c] = down_raw(v);
            }
        }
    });
    return {dx, dy, dw.sum(0)};
}

Tensor swiglu_fwd(Tensor gu)
{
    int64_t M = gu.size(0), I = gu.size(1) / 2;
    Tensor a = torch::empty({M, I}, gu.options());
    const uint16_t *p = raw(gu);
    uint16_t *o = rawm(a);
    at::parallel_for(0, M, 64, [&](int64_t lo, int64_t hi) {
        for (int64_t i = lo; i < hi; i++)
            for (int64_t c = 0; c < I; c++) { float g = up_raw(p[i * 2 * I + c]), u = up_raw(p[i * 2 * I + I + c]); o[i * I + c] = down_raw(g / (1.0f + expf(-g)) * u); }
    });
    return a;
}

Tensor swiglu_bwd(Tensor da, Tensor gu)
{
    int64_t M = gu.size(0), I = gu.size(1) / 2;
    Tensor d = torch::empty_like(gu);
    const uint16_t *p = raw(gu), *q = raw(da);
    uint16_t *o = rawm(d);
    at::parallel_for(0, M, 64, [&](int64_t lo, int64_t hi) {
        for (int64_t i = lo; i < hi; i++)
            for (int64_t c = 0; c < I; c++) {
                float g = up_raw(p[i * 2 * I + c]), u = up_raw(p[i * 2 * I + I + c]), e = up_raw(q[i * I + c]);
                float s = 1.0f / (1.0f + expf(-g));
                o[i * 2 * I + c] = down_raw(e * u * s * (1.0f + g * (1.0f - s)));
                o[i * 2 * I + I + c] = down_raw(e * g * s);
            }
    });
    return d;
}

// Rows of h gathered by expert, each expert's part padded with zero rows to a multiple of 64, then all rows for the shared
// expert; where the rows of token t went; the end of each part.
std::vector<Tensor> route(Tensor h, Tensor index, int64_t E)
{
    int64_t M = h.size(0), H = h.size(1), K = index.size(1);
    const int64_t *ix = index.data_ptr<int64_t>();
    std::vector<int64_t> n(E, 0), at(E);
    for (int64_t i = 0; i < M * K; i++) n[ix[i]]++;
    Tensor ends = torch::empty({E + 1}, index.options()), pos = torch::empty({M, K + 1}, index.options());
    int64_t *ep = ends.data_ptr<int64_t>(), *ps = pos.data_ptr<int64_t>(), sum = 0;
    for (int64_t e = 0; e < E; e++) { at[e] = sum; sum += (n[e] + 63) / 64 * 64; ep[e] = sum; }
    ep[E] = sum + M;
    Tensor xs = torch::empty({sum + M, H}, h.options());
    const uint16_t *hp = raw(h);
    uint16_t *xp = rawm(xs);
    for (int64_t i = 0; i < M; i++) {
        for (int64_t k = 0; k < K; k++) { int64_t p = at[ix[i * K + k]]++; ps[i * (K + 1) + k] = p; memcpy(xp + p * H, hp + i * H, H * 2); }
        ps[i * (K + 1) + K] = sum + i;
    }
    for (int64_t e = 0; e < E; e++) memset(xp + at[e] * H, 0, (ep[e] - at[e]) * H * 2);
    memcpy(xp + sum * H, hp, M * H * 2);
    return {xs, pos, ends};
}

// out[t] = sum_s w[t,s] * yo[pos[t,s]]; w may be empty (all ones)
Tensor combine(Tensor yo, Tensor pos, Tensor w)
{
    int64_t M = pos.size(0), K = pos.size(1), H = yo.size(1);
    Tensor out = torch::empty({M, H}, yo.options());
    const uint16_t *p = raw(yo);
    const int64_t *ps = pos.data_ptr<int64_t>();
    bool ones = w.numel() == 0;
    const float *wp = ones ? nullptr : w.data_ptr<float>();
    uint16_t *o = rawm(out);
    at::parallel_for(0, M, 64, [&](int64_t lo, int64_t hi) {
        std::vector<float> s(H);
        for (int64_t i = lo; i < hi; i++) {
            std::fill(s.begin(), s.end(), 0.0f);
            for (int64_t k = 0; k < K; k++) {
                float f = ones ? 1.0f : wp[i * K + k];
                const uint16_t *row = p + ps[i * K + k] * H;
                for (int64_t c = 0; c < H; c++) s[c] += f * up_raw(row[c]);
            }
            for (int64_t c = 0; c < H; c++) o[i * H + c] = down_raw(s[c]);
        }
    });
    return out;
}

std::vector<Tensor> combine_bwd(Tensor dout, Tensor yo, Tensor pos, Tensor w)
{
    int64_t M = pos.size(0), K = pos.size(1), H = yo.size(1);
    Tensor dyo = torch::zeros_like(yo), dw = torch::empty_like(w);
    const uint16_t *p = raw(yo), *d = raw(dout);
    const int64_t *ps = pos.data_ptr<int64_t>();
    const float *wp = w.data_ptr<float>();
    float *dwp = dw.data_ptr<float>();
    uint16_t *o = rawm(dyo);
    at::parallel_for(0, M, 64, [&](int64_t lo, int64_t hi) {
        for (int64_t i = lo; i < hi; i++)
            for (int64_t k = 0; k < K; k++) {
                int64_t row = ps[i * K + k] * H;
                float f = wp[i * K + k], s = 0;
                for (int64_t c = 0; c < H; c++) { float g = up_raw(d[i * H + c]); s += g * up_raw(p[row + c]); o[row + c] = down_raw(f * g); }
                dwp[i * K + k] = s;
            }
    });
    return {dyo, dw};
}

// weighted cross entropy; returns loss per row, whether the argmax is right, and d logits (already times weight)
std::vector<Tensor> cross_entropy(Tensor logits, Tensor target, Tensor weight)
{
    int64_t M = logits.size(0), V = logits.size(1);
    Tensor loss = torch::empty({M}), right = torch::empty({M}), d = torch::empty_like(logits);
    const uint16_t *p = raw(logits);
    const int64_t *tg = target.data_ptr<int64_t>();
    const float *wt = weight.data_ptr<float>();
    uint16_t *o = rawm(d);
    float *lp = loss.data_ptr<float>(), *rp = right.data_ptr<float>();
    at::parallel_for(0, M, 16, [&](int64_t lo, int64_t hi) {
        std::vector<float> e(V);
        for (int64_t i = lo; i < hi; i++) {
            const uint16_t *row = p + i * V;
            float mx = -1e30f, sum = 0;
            for (int64_t c = 0; c < V; c++) mx = std::max(mx, up_raw(row[c]));
            for (int64_t c = 0; c < V; c++) { e[c] = expf(up_raw(row[c]) - mx); sum += e[c]; }
            float f = wt[i] / sum;
            float lt = up_raw(row[tg[i]]);
            lp[i] = logf(sum) + mx - lt;
            rp[i] = lt >= mx ? 1.0f : 0.0f;
            for (int64_t c = 0; c < V; c++) o[i * V + c] = down_raw(e[c] * f);
            o[i * V + tg[i]] = down_raw(e[tg[i]] * f - wt[i]);
        }
    });
    return {loss, right, d};
}

// Attention around the softmax. P [B*T, nh*2*hd + 2*nkv*hd]: per head query | gate, then keys, then values.
struct AttnDims { int64_t B, T, nh, nkv, hd, rot; float eps; };

static inline void head_norm(const uint16_t *x, const float *w, int64_t hd, float eps, float *y, float &r)
{
    float ss = 0;
    for (int64_t c = 0; c < hd; c++) { y[c] = up_raw(x[c]); ss += y[c] * y[c]; }
    r = 1.0f / sqrtf(ss / hd + eps);
    for (int64_t c = 0; c < hd; c++) y[c] *= r * (1.0f + w[c]);
}

static inline void turn(float *y, const float *cs, const float *sn, int64_t half, float sign)
{
    for (int64_t c = 0; c < half; c++) { float a = y[c], b = y[c + half], s = sign * sn[c]; y[c] = a * cs[c] - b * s; y[c + half] = b * cs[c] + a * s; }
}

std::vector<Tensor> attn_fwd(Tensor P, Tensor qw, Tensor kw, Tensor cs, Tensor sn, int64_t B, int64_t T, int64_t nh, int64_t nkv, int64_t hd, int64_t rot, double eps)
{
    Tensor q = torch::empty({B, nh, T, hd}, P.options()), k = torch::empty({B, nh, T, hd}, P.options()), v = torch::empty({B, nh, T, hd}, P.options());
    const uint16_t *p = raw(P);
    uint16_t *qo = rawm(q), *ko = rawm(k), *vo = rawm(v);
    int64_t N = P.size(1), kc = nh * 2 * hd, vc = kc + nkv * hd, rep = nh / nkv, half = rot / 2;
    at::parallel_for(0, B * T, 32, [&](int64_t lo, int64_t hi) {
        std::vector<float> y(hd);
        float r;
        for (int64_t i = lo; i < hi; i++) {
            int64_t b = i / T, t = i % T;
            const float *c = cs.data_ptr<float>() + t * half, *s = sn.data_ptr<float>() + t * half;
            for (int64_t h = 0; h < nh; h++) {
                head_norm(p + i * N + h * 2 * hd, qw.data_ptr<float>(), hd, eps, y.data(), r);
                turn(y.data(), c, s, half, 1);
                uint16_t *o = qo + ((b * nh + h) * T + t) * hd;
                for (int64_t x = 0; x < hd; x++) o[x] = down_raw(y[x]);
            }
            for (int64_t g = 0; g < nkv; g++) {
                head_norm(p + i * N + kc + g * hd, kw.data_ptr<float>(), hd, eps, y.data(), r);
                turn(y.data(), c, s, half, 1);
                for (int64_t h = g * rep; h < (g + 1) * rep; h++) {
                    uint16_t *o = ko + ((b * nh + h) * T + t) * hd;
                    for (int64_t x = 0; x < hd; x++) o[x] = down_raw(y[x]);
                    memcpy(vo + ((b * nh + h) * T + t) * hd, p + i * N + vc + g * hd, hd * 2);
                }
            }
        }
    });
    return {q, k, v};
}

// y[b,t,h,:] = o[b,h,t,:] * sigmoid(gate)
Tensor gate_fwd(Tensor o, Tensor P, int64_t B, int64_t T, int64_t nh, int64_t hd)
{
    Tensor y = torch::empty({B * T, nh * hd}, P.options());
    const uint16_t *p = raw(P);
    const at::BFloat16 *ob = o.data_ptr<bf>();
    int64_t N = P.size(1), sb = o.stride(0), sh = o.stride(1), st = o.stride(2);
    uint16_t *yo = rawm(y);
    at::parallel_for(0, B * T, 32, [&](int64_t lo, int64_t hi) {
        for (int64_t i = lo; i < hi; i++)
            for (int64_t h = 0; h < nh; h++) {
                const uint16_t *oo = reinterpret_cast<const uint16_t *>(ob + (i / T) * sb + h * sh + (i % T) * st), *g = p + i * N + h * 2 * hd + hd;
                for (int64_t x = 0; x < hd; x++) yo[(i * nh + h) * hd + x] = down_raw(up_raw(oo[x]) / (1.0f + expf(-up_raw(g[x]))));
            }
    });
    return y;
}

// gradient of o, with the strides of a [B, nh, T, hd] tensor; the gate's part goes into dP
Tensor gate_bwd(Tensor dy, Tensor o, Tensor P, Tensor dP, int64_t B, int64_t T, int64_t nh, int64_t hd)
{
    Tensor d = torch::empty({B, T, nh, hd}, P.options());
    const uint16_t *p = raw(P), *gy = raw(dy);
    const at::BFloat16 *ob = o.data_ptr<bf>();
    int64_t N = P.size(1), sb = o.stride(0), sh = o.stride(1), st = o.stride(2);
    uint16_t *dp = rawm(dP), *dd = rawm(d);
    at::parallel_for(0, B * T, 32, [&](int64_t lo, int64_t hi) {
        for (int64_t i = lo; i < hi; i++)
            for (int64_t h = 0; h < nh; h++) {
                const uint16_t *oo = reinterpret_cast<const uint16_t *>(ob + (i / T) * sb + h * sh + (i % T) * st), *g = p + i * N + h * 2 * hd + hd;
                for (int64_t x = 0; x < hd; x++) {
                    float s = 1.0f / (1.0f + expf(-up_raw(g[x]))), e = up_raw(gy[(i * nh + h) * hd + x]);
                    dd[(i * nh + h) * hd + x] = down_raw(e * s);
                    dp[i * N + h * 2 * hd + hd + x] = down_raw(e * up_raw(oo[x]) * s * (1.0f - s));
                }
            }
    });
    return d.transpose(1, 2);
}

std::vector<Tensor> attn_bwd(Tensor dq, Tensor dk, Tensor dv, Tensor P, Tensor dP, Tensor qw, Tensor kw, Tensor cs, Tensor sn, int64_t B, int64_t T, int64_t nh, int64_t nkv, int64_t hd, int64_t rot, double eps)
{
    int nth = at::get_num_threads();
    Tensor dqw = torch::zeros({nth, hd}), dkw = torch::zeros({nth, hd});
    const uint16_t *p = raw(P);
    uint16_t *dp = rawm(dP);
    int64_t N = P.size(1), kc = nh * 2 * hd, vc = kc + nkv * hd, rep = nh / nkv, half = rot / 2;
    auto at_ = [](const Tensor &t, int64_t b, int64_t h, int64_t i) { return reinterpret_cast<const uint16_t *>(t.data_ptr<bf>() + b * t.stride(0) + h * t.stride(1) + i * t.stride(2)); };
    at::parallel_for(0, B * T, 32, [&](int64_t lo, int64_t hi) {
        std::vector<float> e(hd), v(hd);
        int th = at::get_thread_num();
        auto one = [&](const uint16_t *x, uint16_t *dx, const float *w, float *gw) { // e: gradient after norm, before rope
            float ss = 0, so = 0;
            for (int64_t c = 0; c < hd; c++) { float a = up_raw(x[c]); ss += a * a; so += a * e[c] * (1.0f + w[c]); }
            float r = 1.0f / sqrtf(ss / hd + float(eps));
            so *= r * r / hd;
            for (int64_t c = 0; c < hd; c++) { float a = up_raw(x[c]); gw[c] += e[c] * a * r; dx[c] = down_raw(r * (e[c] * (1.0f + w[c]) - a * so)); }
        };
        for (int64_t i = lo; i < hi; i++) {
            int64_t b = i / T, t = i % T;
            const float *c = cs.data_ptr<float>() + t * half, *s = sn.data_ptr<float>() + t * half;
            for (int64_t h = 0; h < nh; h++) {
                const uint16_t *d = at_(dq, b, h, t);
                for (int64_t x = 0; x < hd; x++) e[x] = up_raw(d[x]);
                turn(e.data(), c, s, half, -1);
                one(p + i * N + h * 2 * hd, dp + i * N + h * 2 * hd, qw.data_ptr<float>(), dqw.data_ptr<float>() + th * hd);
            }
            for (int64_t g = 0; g < nkv; g++) {
                std::fill(e.begin(), e.end(), 0.0f); std::fill(v.begin(), v.end(), 0.0f);
                for (int64_t h = g * rep; h < (g + 1) * rep; h++) {
                    const uint16_t *d = at_(dk, b, h, t), *f = at_(dv, b, h, t);
                    for (int64_t x = 0; x < hd; x++) { e[x] += up_raw(d[x]); v[x] += up_raw(f[x]); }
                }
                for (int64_t x = 0; x < hd; x++) dp[i * N + vc + g * hd + x] = down_raw(v[x]);
                turn(e.data(), c, s, half, -1);
                one(p + i * N + kc + g * hd, dp + i * N + kc + g * hd, kw.data_ptr<float>(), dkw.data_ptr<float>() + th * hd);
            }
        }
    });
    return {dqw.sum(0), dkw.sum(0)};
}

// softmax part for q, k, v [B, nh, T, 64]: output and log sum of the exponentials; empty where this CPU lacks AVX512-BF16
std::vector<Tensor> causal_fwd(Tensor q, Tensor k, Tensor v)
{
#ifdef __AVX512BF16__
    int64_t n = q.size(0) * q.size(1), T = q.size(2);
    Tensor o = torch::empty_like(q), lse = torch::empty({q.size(0), q.size(1), T});
    const uint16_t *qp = raw(q), *kp = raw(k), *vp = raw(v);
    uint16_t *op = rawm(o);
    float *lp = lse.data_ptr<float>();
    at::parallel_for(0, n, 1, [&](int64_t lo, int64_t hi) {
        attention::Work w;
        for (int64_t i = lo; i < hi; i++) attention::forward(w, qp + i * T * 64, kp + i * T * 64, vp + i * T * 64, T, op + i * T * 64, lp + i * T);
    });
    return {o, lse};
#else
    return {};
#endif
}

std::vector<Tensor> causal_bwd(Tensor g, Tensor q, Tensor k, Tensor v, Tensor o, Tensor lse)
{
    g = g.contiguous();
    Tensor dq = torch::empty_like(q), dk = torch::empty_like(q), dv = torch::empty_like(q);
#ifdef __AVX512BF16__
    int64_t n = q.size(0) * q.size(1), T = q.size(2);
    const uint16_t *gp = raw(g), *qp = raw(q), *kp = raw(k), *vp = raw(v), *op = raw(o);
    uint16_t *a = rawm(dq), *b = rawm(dk), *c = rawm(dv);
    const float *lp = lse.data_ptr<float>();
    at::parallel_for(0, n, 1, [&](int64_t lo, int64_t hi) {
        attention::Work w;
        for (int64_t i = lo; i < hi; i++) {
            int64_t x = i * T * 64;
            attention::backward(w, gp + x, qp + x, kp + x, vp + x, op + x, lp + i * T, T, a + x, b + x, c + x);
        }
    });
#endif
    return {dq, dk, dv};
}

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m)
{
    m.def("gdn_fwd", &gdn_fwd); m.def("gdn_bwd", &gdn_bwd); m.def("norm_fwd", &norm_fwd); m.def("norm_bwd", &norm_bwd);
    m.def("swiglu_fwd", &swiglu_fwd); m.def("swiglu_bwd", &swiglu_bwd); m.def("route", &route); m.def("combine", &combine); m.def("combine_bwd", &combine_bwd);
    m.def("attn_fwd", &attn_fwd); m.def("attn_bwd", &attn_bwd); m.def("gate_fwd", &gate_fwd); m.def("gate_bwd", &gate_bwd);
    m.def("causal_fwd", &causal_fwd); m.def("causal_bwd", &causal_bwd);
    m.def("cross_entropy", &cross_entropy);
}
