/* The kernels, once for every instruction set. The including file defines KERN_FILL, the name of the function
 * that enters them into a table, and is compiled with the flags of its set.
 * SPDX-License-Identifier: Apache-2.0 */
#include "backend/cpu/kern.h"
#include "backend/cpu/pack_impl.h"
#include "backend/cpu/v16.h"

KERN v16 load_some(const float *p, int left)
{
    return left >= 16 ? vload(p) : vload_part(p, left);
}
KERN void store_some(float *p, v16 a, int left)
{
    if (left >= 16)
        vstore(p, a);
    else
        vstore_part(p, a, left);
}
/* sum of squares: two accumulators by turns, padded with zeros */
KERN float square_sum(const float *x, int n)
{
    v16 a = vzero(), b = vzero();
    int i = 0;
    for (; i + 32 <= n; i += 32) {
        v16 p = vload(x + i), q = vload(x + i + 16);
        a = vfma(p, p, a);
        b = vfma(q, q, b);
    }
    for (; i < n; i += 16) {
        v16 p = load_some(x + i, n - i);
        a = vfma(p, p, a);
    }
    return vsum(vadd(a, b));
}

static void norm(const float *x, const float *w, int n, float eps, float *out)
{
    v16 scale = vset(1.0f / sqrtf(square_sum(x, n) / (float)n + eps)), one = vset(1.0f);
    for (int i = 0; i < n; i += 16) {
        v16 y = vmul(load_some(x + i, n - i), scale);
        store_some(out + i, vmul(y, vadd(one, load_some(w + i, n - i))), n - i);
    }
}

static void add_norm(float *x, const float *y, const float *w, int n, float eps, float *h)
{
    for (int i = 0; y && i < n; i += 16)
        store_some(x + i, vadd(load_some(x + i, n - i), load_some(y + i, n - i)), n - i);
    norm(x, w, n, eps, h);
}

static void gated_norm(float *o, const float *w, const float *z, int n, float eps, bool is_sigmoid)
{
    v16 scale = vset(1.0f / sqrtf(square_sum(o, n) / (float)n + eps));
    for (int i = 0; i < n; i += 16) {
        v16 g = load_some(z + i, n - i), y = vmul(load_some(o + i, n - i), scale);
        g = is_sigmoid ? vsigmoid(g) : vsilu(g);
        store_some(o + i, vmul(vmul(y, load_some(w + i, n - i)), g), n - i);
    }
}

static void unit(float *x, int n, float factor)
{
    v16 scale = vset(factor / sqrtf(square_sum(x, n) + 1e-6f));
    for (int i = 0; i < n; i += 16) store_some(x + i, vmul(load_some(x + i, n - i), scale), n - i);
}

#define SOME(i, n) ((n) - (i) >= 16 ? 16 : (int)((n) - (i)))

static void silu_mul(float *gate, const float *up, size_t n)
{
    for (size_t i = 0; i < n; i += 16) {
        int left = SOME(i, n);
        store_some(gate + i, vmul(vsilu(load_some(gate + i, left)), load_some(up + i, left)), left);
    }
}

static void sigmoid_mul(float *x, const float *gate, size_t n)
{
    for (size_t i = 0; i < n; i += 16) {
        int left = SOME(i, n);
        store_some(x + i, vmul(load_some(x + i, left), vsigmoid(load_some(gate + i, left))), left);
    }
}

/* 0.5 x (1 + tanh(u)) = x sigmoid(2 u), u = sqrt(2 / pi) (x + 0.044715 x^3) */
static void gelu(float *x, size_t n)
{
    v16 c = vset(0.044715f), two = vset(2.0f * 0.7978845608028654f), one = vset(1.0f);
    for (size_t i = 0; i < n; i += 16) {
        int left = SOME(i, n);
        v16 v = load_some(x + i, left), u = vmul(vmul(two, v), vfma(vmul(c, v), v, one));
        store_some(x + i, vmul(v, vsigmoid(u)), left);
    }
}

static void axpy(float *y, const float *x, float a, size_t n)
{
    v16 scale = vset(a);
    for (size_t i = 0; i < n; i += 16) {
        int left = SOME(i, n);
        store_some(y + i, vfma(load_some(x + i, left), scale, load_some(y + i, left)), left);
    }
}

/* Values [i, n), at most 32 of them, from a multiple of 32; gives their sum. */
KERN float act_some(void *to, const struct pack_int8_row *small, const float *x, int i, int n,
                    const enum qn_act type, const bool is_pairs)
{
    v16 part[2];
    for (int h = 0; h < 2; h++) {
        int at = i + 16 * h, left = QN_CLAMP(n - at, 0, 16);
        v16 v = left ? load_some(x + at, left) : vzero();
        if (type != QN_ACT_F32) v = vround_bf16(v);
        part[h] = v;
        if (is_pairs && left == 16) {
            vto_bf16((uint16_t *)to + at, v);
        } else if (is_pairs) {
            uint16_t t[16];
            vto_bf16(t, v);
            memcpy((uint16_t *)to + at, t, (size_t)left * sizeof *t);
        } else if (left) {
            store_some((float *)to + at, v, left);
        }
    }
    if (type == QN_ACT_INT8) {
        float block[QN_ACT_BLOCK];
        vstore(block, part[0]);
        vstore(block + 16, part[1]);
        pack_int8_block(small, i / 32, block);
    }
    return vsum(vadd(part[0], part[1]));
}

KERN void act_all(void *to, const float *x, int n, const enum qn_act type, const bool is_pairs)
{
    float *sums = (float *)to + pack_act_values(n);
    struct pack_int8_row small = pack_int8_row(to, n);
    int i = 0;
    for (; i + 32 <= n; i += 32) sums[i / 32] = act_some(to, &small, x, i, i + 32, type, is_pairs);
    if (i < n) sums[i / 32] = act_some(to, &small, x, i, n, type, is_pairs);
}

static void act(void *to, const float *x, int n, enum qn_act type, bool is_pairs)
{
    if (type == QN_ACT_BF16 && is_pairs)
        act_all(to, x, n, QN_ACT_BF16, true);
    else
        act_all(to, x, n, type, is_pairs);
    size_t n_pad = pack_act_values(n) - (size_t)n;
    if (is_pairs)
        memset((uint16_t *)to + n, 0, n_pad * sizeof(uint16_t));
    else
        memset((float *)to + n, 0, n_pad * sizeof(float));
}

static void conv(float *out, const float *const *row, const float *const *tap, int n_tap, int n)
{
    for (int i = 0; i < n; i += 16) {
        v16 sum = vzero();
        for (int j = 0; j < n_tap; j++)
            sum = vfma(load_some(tap[j] + i, n - i), load_some(row[j] + i, n - i), sum);
        store_some(out + i, vsilu(sum), n - i);
    }
}

/* --- attention: 16 keys or 16 dims a vector, KV values widened exactly --- */

KERN v16 load_kv(enum qn_kv t, const void *p, size_t i, int left)
{
    if (left >= 16 && t == QN_KV_F32) return vload((const float *)p + i);
    if (left >= 16 && t == QN_KV_BF16) return vbf16((const uint16_t *)p + i);
#ifdef V16_HAS_FP8
    if (left >= 16 && t == QN_KV_E5M2) return ve5m2((const uint8_t *)p + i);
    if (left >= 16) return ve4m3((const uint8_t *)p + i);
#endif
    float f[16] = {0};
    for (int j = 0; j < QN_MIN(left, 16); j++) f[j] = qn_kv_load(t, p, i + (size_t)j);
    return vload(f);
}

#if defined(__AVX512F__)
#define QK_VECS 4
#else
#define QK_VECS 1
#endif

/* While values of a page are worked on, the same ones of the next page are fetched: into the second-level
 * cache, as the first waits for few lines at a time, too few for the latency of memory. */
KERN void fetch_kv(enum qn_kv t, const struct qn_kern_attn *a, size_t value, size_t n_value)
{
    const size_t size = t == QN_KV_F32 ? 4 : t == QN_KV_BF16 ? 2 : 1; /* no call in a loop */
    if (a->next)
        for (size_t at = value * size; at < (value + n_value) * size; at += 64)
            __builtin_prefetch((const char *)a->next + at, 0, 2);
}

/* scores of n queries with QK_VECS x 16 keys from `key` */
KERN void qk_part(enum qn_kv t, const struct qn_kern_attn *a, int first, int n, int key, v16 scale)
{
    v16 acc[QN_ATTN_QUERIES][QK_VECS];
    for (int g = 0; g < n; g++)
        for (int j = 0; j < QK_VECS; j++) acc[g][j] = vzero();
    for (int i = 0; i < a->hd; i++) {
        v16 k[QK_VECS];
        if (key == 0 && first == 0) fetch_kv(t, a, (size_t)i * QN_PAGE, QN_PAGE);
        for (int j = 0; j < QK_VECS; j++) k[j] = load_kv(t, a->kv, (size_t)i * QN_PAGE + key + 16 * j, 16);
        for (int g = 0; g < n; g++) {
            v16 q = vset(a->q[first + g][i]);
            for (int j = 0; j < QK_VECS; j++) acc[g][j] = vfma(k[j], q, acc[g][j]);
        }
    }
    for (int j = 0; t == QN_KV_E4M3D && j < QK_VECS; j++) { /* exact, being powers of two */
        v16 own = vbf16(a->scale + key + 16 * j);
        for (int g = 0; g < n; g++) acc[g][j] = vmul(acc[g][j], own);
    }
    for (int g = 0; g < n; g++)
        for (int j = 0; j < QK_VECS; j++)
            vstore(a->score + (size_t)(first + g) * a->stride + a->at + key + 16 * j, vmul(acc[g][j], scale));
}

KERN void qk_page(enum qn_kv t, const struct qn_kern_attn *a, float scale)
{
    for (int key = 0; key < QN_PAGE; key += 16 * QK_VECS) {
        if (a->n_query == 4) {
            qk_part(t, a, 0, 4, key, vset(scale));
        } else {
            int g = 0;
            for (; g + 2 <= a->n_query; g += 2) qk_part(t, a, g, 2, key, vset(scale));
            if (g < a->n_query) qk_part(t, a, g, 1, key, vset(scale));
        }
    }
}

/* o += p V for n queries and VECS x 16 dims from `dim`; keys [0, n_key) of the page, in order */
/* is_full: all n_vec vectors lie inside a row, known when compiling. */
KERN void pv_part(enum qn_kv t, const struct qn_kern_attn *a, int first, int n, int dim, const int n_vec,
                  const bool is_full)
{
    v16 acc[QN_ATTN_QUERIES][QK_VECS];
    int most = 0;
    const float *score = a->score + (size_t)first * a->stride + a->at;
    for (int g = 0; g < n; g++) {
        most = QN_MAX(most, a->n_key[first + g]);
        for (int j = 0; j < n_vec; j++)
            acc[g][j] = load_some(a->o[first + g] + dim + 16 * j, a->hd - dim - 16 * j);
    }
    for (int key = a->first_key; key < most; key++) {
        v16 v[QK_VECS];
        float own = t == QN_KV_E4M3D ? qn_bf16_to_f32(a->scale[key]) : 1;
        if (first == 0) fetch_kv(t, a, (size_t)key * a->hd + dim, (size_t)n_vec * 16);
#pragma GCC unroll 4
        for (int j = 0; j < n_vec; j++)
            v[j] = load_kv(t, a->kv, (size_t)key * a->hd + dim + 16 * j, is_full ? 16 : a->hd - dim - 16 * j);
#pragma GCC unroll 4
        for (int g = 0; g < n; g++) { /* p is 0 past a query's last key: adds nothing */
            float s = score[(size_t)g * a->stride + key];
            v16 p = vset(t == QN_KV_E4M3D ? s * own : s);
#pragma GCC unroll 4
            for (int j = 0; j < n_vec; j++) acc[g][j] = vfma(p, v[j], acc[g][j]);
        }
    }
    for (int g = 0; g < n; g++)
        for (int j = 0; j < n_vec; j++)
            store_some(a->o[first + g] + dim + 16 * j, acc[g][j], a->hd - dim - 16 * j);
}

KERN void pv_dims(enum qn_kv t, const struct qn_kern_attn *a, int dim, const int n_vec, const bool is_full)
{
    if (a->n_query == 4) {
        pv_part(t, a, 0, 4, dim, n_vec, is_full);
        return;
    }
    int g = 0;
    for (; g + 2 <= a->n_query; g += 2) pv_part(t, a, g, 2, dim, n_vec, is_full);
    if (g < a->n_query) pv_part(t, a, g, 1, dim, n_vec, is_full);
}

KERN void pv_page(enum qn_kv t, const struct qn_kern_attn *a)
{
    int dim = 0;
    for (; dim + 16 * QK_VECS <= a->hd; dim += 16 * QK_VECS) pv_dims(t, a, dim, QK_VECS, true);
    for (; dim < a->hd; dim += 16) pv_dims(t, a, dim, 1, false);
}

#define ATTN(name, type)                                                                                     \
    static void qk_##name(const struct qn_kern_attn *a, float scale)                                         \
    {                                                                                                        \
        qk_page(type, a, scale);                                                                             \
    }                                                                                                        \
    static void pv_##name(const struct qn_kern_attn *a)                                                      \
    {                                                                                                        \
        pv_page(type, a);                                                                                    \
    }
ATTN(f32, QN_KV_F32)
ATTN(bf16, QN_KV_BF16)
ATTN(e4m3, QN_KV_E4M3)
ATTN(e5m2, QN_KV_E5M2)
ATTN(e4m3d, QN_KV_E4M3D)

static void softmax(float *score, int n, float *max_out, float *sum_out)
{
    v16 max = vset(-INFINITY), sum = vzero();
    for (int i = 0; i < n; i += 16) {
        if (n - i < 16) { /* pad the last vector */
            for (int j = n; j < i + 16; j++) score[j] = -INFINITY;
        }
        max = vmax(max, vload(score + i));
    }
    float most = vlargest(max);
    for (int i = 0; i < n; i += 16) {
        v16 p = vexp(vsub(vload(score + i), vset(most)));
        if (n - i < 16) {
            float t[16];
            vstore(t, p);
            for (int j = n - i; j < 16; j++) t[j] = 0;
            p = vload(t);
        }
        vstore(score + i, p);
        sum = vadd(sum, p);
    }
    *max_out = most;
    *sum_out = vsum(sum);
}

/* --- delta rule --- */

static void fold(float *state, int dk, float alpha, const float *k, const float *delta)
{
    v16 a = vset(alpha), d = vload(delta);
    for (int i = 0; i < dk; i++, state += 16) vstore(state, vfma(vset(k[i]), d, vmul(a, vload(state))));
}

/* S^T x: four accumulators by i mod 4 */
KERN v16 read_state(const float *state, int dk, const float *x)
{
    v16 p[4] = {vzero(), vzero(), vzero(), vzero()};
    int i = 0;
    for (; i + 4 <= dk; i += 4)
        for (int j = 0; j < 4; j++) p[j] = vfma(vload(state + (size_t)(i + j) * 16), vset(x[i + j]), p[j]);
    for (int j = 0; i < dk; i++, j++) p[j] = vfma(vload(state + (size_t)i * 16), vset(x[i]), p[j]);
    return vadd(vadd(p[0], p[1]), vadd(p[2], p[3]));
}

/* S <- alpha S + k d, then S^T q into o and, of the next row, S^T k into m: both as read_state adds them up.
 */
KERN void step_state(float *s, int dk, v16 alpha, v16 d, const float *k, const float *q, const float *next_k,
                     v16 *o, v16 *m)
{
    for (int j = 0; j < 4; j++) o[j] = m[j] = vzero();
    int i = 0;
    for (; i + 4 <= dk; i += 4)
        for (int j = 0; j < 4; j++, s += 16) {
            v16 x = vfma(vset(k[i + j]), d, vmul(alpha, vload(s)));
            vstore(s, x);
            o[j] = vfma(x, vset(q[i + j]), o[j]);
            if (next_k) m[j] = vfma(x, vset(next_k[i + j]), m[j]);
        }
    for (int j = 0; i < dk; i++, j++, s += 16) {
        v16 x = vfma(vset(k[i]), d, vmul(alpha, vload(s)));
        vstore(s, x);
        o[j] = vfma(x, vset(q[i]), o[j]);
        if (next_k) m[j] = vfma(x, vset(next_k[i]), m[j]);
    }
}

static void delta(const struct qn_kern_delta *p)
{
    v16 read = vzero();
    bool has_read = false; /* has the row before left S^T k of this one? */
    for (int r = 0; r < p->n_row; r++) {
        const float *q = p->q + r * p->stride, *k = p->k + r * p->stride;
        v16 a = vset(p->alpha[r * p->gate_stride]), beta = vset(p->beta[r * p->gate_stride]), o[4], m[4];
        if (!has_read) read = read_state(p->state, p->dk, k);
        v16 d = vmul(beta, vsub(load_some(p->v + r * p->stride, p->n_col), vmul(a, read)));
        if (p->delta) vstore(p->delta + r * p->delta_stride, d);
        has_read = V16_IS_REGISTER && r + 1 < p->n_row;
        if (has_read)
            step_state(p->state, p->dk, a, d, k, q, k + p->stride, o, m);
        else
            step_state(p->state, p->dk, a, d, k, q, NULL, o, m);
        read = vadd(vadd(m[0], m[1]), vadd(m[2], m[3]));
        store_some(p->o + r * p->o_stride, vadd(vadd(o[0], o[1]), vadd(o[2], o[3])), p->n_col);
    }
}

/* --- rows of logits --- */

static float scan_max(const float *x, int n)
{
    v16 a = vset(-INFINITY), b = a;
    unsigned bad = 0;
    int i = 0;
    for (; i + 32 <= n; i += 32) {
        v16 p = vload(x + i), q = vload(x + i + 16);
        a = vmax(p, a);
        b = vmax(q, b);
        bad |= vnan(vadd(p, q)); /* or both infinities, which is as bad */
    }
    float max = vlargest(vmax(a, b));
    for (; i < n; i++) {
        bad |= isnan(x[i]);
        if (x[i] > max) max = x[i];
    }
    return bad ? NAN : max;
}

static int scan_above(const float *x, int from, int n, float than)
{
    v16 bar = vset(than);
    for (; from + 16 <= n; from += 16) {
        unsigned m = vabove(vload(x + from), bar);
        if (m) return from + __builtin_ctz(m);
    }
    while (from < n && !(x[from] > than)) from++;
    return from;
}

static double scan_sum_exp(const float *x, int n, float max, float scale)
{
    double total = 0;
    v16 m = vset(max), f = vset(scale);
    int i = 0;
    for (; i + 1024 <= n; i += 1024) { /* floats within a block, doubles over blocks */
        v16 sum = vzero();
        for (int j = 0; j < 1024; j += 16) sum = vadd(sum, vexp(vmul(vsub(vload(x + i + j), m), f)));
        total += vsum(sum);
    }
    for (; i < n; i++) total += expf((x[i] - max) * scale);
    return total;
}

void KERN_FILL(struct qn_kern *k)
{
    k->add_norm = add_norm;
    k->norm = norm;
    k->gated_norm = gated_norm;
    k->unit = unit;
    k->silu_mul = silu_mul;
    k->sigmoid_mul = sigmoid_mul;
    k->gelu = gelu;
    k->axpy = axpy;
    k->act = act;
    k->conv = conv;
    k->qk[QN_KV_F32] = qk_f32;
    k->qk[QN_KV_BF16] = qk_bf16;
    k->qk[QN_KV_E4M3] = qk_e4m3;
    k->qk[QN_KV_E5M2] = qk_e5m2;
    k->qk[QN_KV_E4M3D] = qk_e4m3d;
    k->pv[QN_KV_F32] = pv_f32;
    k->pv[QN_KV_BF16] = pv_bf16;
    k->pv[QN_KV_E4M3] = pv_e4m3;
    k->pv[QN_KV_E5M2] = pv_e5m2;
    k->pv[QN_KV_E4M3D] = pv_e4m3d;
    k->softmax = softmax;
    k->delta = delta;
    k->fold = fold;
    k->scan = (struct qn_scan){scan_max, scan_above, scan_sum_exp};
}
