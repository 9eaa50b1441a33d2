/* Checkpoint views to the device's layout (codes.h): raw bytes go over as they are, kernels put them in
 * order. Formats without a kernel of their own, and experts in act-order, are widened to float.
 * SPDX-License-Identifier: Apache-2.0 */
#include "backend/cuda/codes.h"

#define STAGE_BYTES ((size_t)64 << 20)

enum Raw { RAW_16, RAW_32, RAW_8, RAW_NIBBLES, RAW_WORDS, RAW_GPTQ, RAW_AWQ }; /* where value (o, k) lies */

struct Pack {
    const unsigned char *raw; /* rows [first, first + n) of the file */
    uint4 *codes;
    const int32_t *perm;
    int raw_kind, n_out, n_in, first, n, k64, words;
};

DEV uint32_t raw_value(const Pack &p, int o, int k)
{
    size_t row = (size_t)(o - p.first), K = (size_t)p.n_in, N = (size_t)p.n_out;
    const uint32_t *word = (const uint32_t *)p.raw;
    switch (p.raw_kind) {
    case RAW_16:
        return ((const uint16_t *)p.raw)[row * K + k];
    case RAW_32:
        return word[row * K + k];
    case RAW_8:
        return p.raw[row * K + k];
    case RAW_NIBBLES:
        return p.raw[row * (K / 2) + k / 2] >> 4 * (k & 1) & 15;
    case RAW_WORDS:
        return word[row * (K / 8) + k / 8] >> 4 * (k % 8) & 15;
    case RAW_GPTQ:
        return word[(size_t)(k / 8) * N + o] >> 4 * (k % 8) & 15;
    default: { /* AWQ: columns 0 2 4 6 1 3 5 7 of a word from its low end */
        int c = o & 7;
        return word[(size_t)k * (N / 8) + o / 8] >> 4 * (c / 2 + 4 * (c & 1)) & 15;
    }
    }
}

/* A block: a piece of a tile, a thread a lane. */
__global__ void pack_codes(Pack p)
{
    int tile = p.first / 16 + (int)blockIdx.y, piece = (int)blockIdx.x, lane = threadIdx.x;
    int bits = p.raw_kind == RAW_32 ? 32 : p.raw_kind == RAW_16 ? 16 : p.raw_kind == RAW_8 ? 8 : 4;
    uint32_t word[8][4] = {};
    for (int step = 0; step < 4; step++)
        for (int v = 0; v < 8; v++) {
            int o = tile * 16 + code_row(lane, v), k = piece * 64 + code_in(lane, step, v);
            if (p.perm) k = p.perm[k];
            if (o >= p.n_out || o >= p.first + p.n || k < 0 || k >= p.n_in) continue;
            uint32_t x = raw_value(p, o, k);
            int r = v >> 1, half = v & 1;
            if (bits == 32)
                word[step * 2 + (r >> 1)][(r & 1) * 2 + half] = x;
            else if (bits == 16)
                word[step][r] |= x << 16 * half;
            else if (bits == 8)
                word[step >> 1][(step & 1) * 2 + (r >> 1)] |= x << ((r & 1) * 16 + 8 * half);
            else
                word[0][step] |= x << (4 * r + 16 * half);
        }
    uint4 *to = p.codes + ((size_t)tile * p.k64 + piece) * p.words * 32 + lane;
    for (int i = 0; i < p.words; i++) to[i * 32] = make_uint4(word[i][0], word[i][1], word[i][2], word[i][3]);
}

/* NVFP4: four scales of a piece and output side by side. */
__global__ void pack_scales(const uint8_t *raw, uint32_t *to, int first, int n, int n_out, int n_in, int k64)
{
    int tile = first / 16 + (int)blockIdx.y, piece = (int)blockIdx.x, o = tile * 16 + (int)threadIdx.x;
    uint32_t word = 0;
    for (int i = 0; i < 4; i++) {
        int group = piece * 4 + i;
        if (o < n_out && o < first + n && group < n_in / 16)
            word |= (uint32_t)raw[(size_t)(o - first) * (n_in / 16) + group] << 8 * i;
    }
    to[((size_t)tile * k64 + piece) * 16 + threadIdx.x] = word;
}

/* --- host --- */
struct Making {
    struct qn_device *d;
    const struct qn_linear *l;
    struct qn_weight *w;
    struct qn_err *e;
};

static int take(const struct Making *m, const void **out, size_t n_byte)
{
    void *p = cu_take(m->d, n_byte);
    CU_FAIL_IF(!p, m->e, QN_NOMEM, "%s: no device memory for %zu bytes; use fewer pages or a smaller context",
               m->l->name, n_byte);
    m->d->weight_bytes += n_byte;
    *out = p;
    return QN_OK;
}

static int put(const struct Making *m, const void *to, const void *from, size_t n_byte)
{
    cudaError_t rc = cudaMemcpyAsync((void *)to, from, n_byte, cudaMemcpyHostToDevice, m->d->stream);
    if (!rc) rc = cudaStreamSynchronize(m->d->stream);
    CU_FAIL_IF(rc, m->e, QN_DEVICE, "%s: copy to the device: %s", m->l->name, cudaGetErrorString(rc));
    return QN_OK;
}

/* Codes of rows [first, first + n), from `raw` in host memory. */
static int pack_some(const struct Making *m, const void *raw, size_t n_byte, int raw_kind, int first, int n)
{
    const DevWeight *w = &m->w->w;
    void *stage;
    cudaError_t rc = cudaMalloc(&stage, n_byte);
    CU_FAIL_IF(rc, m->e, QN_NOMEM, "%s: no device memory to load it through (%zu bytes)", m->l->name, n_byte);
    int code = put(m, stage, raw, n_byte);
    if (!code) {
        Pack p = {(const unsigned char *)stage,
                  (uint4 *)w->codes,
                  w->perm,
                  raw_kind,
                  w->n_out,
                  w->n_in,
                  first,
                  n,
                  w->k64,
                  code_words(w->stored)};
        CU_LAUNCH(m->d, pack_codes, dim3((unsigned)w->k64, (unsigned)QN_CEIL_DIV(n, 16)), dim3(32), 0, p);
        cu_ok(m->d, cudaStreamSynchronize(m->d->stream), "packing weights");
    }
    cudaFree(stage);
    return code;
}

/* Row-major data in pieces, so that a large table needs no second place of its size. */
static int pack_rows(const struct Making *m, const void *raw, size_t row_bytes, int raw_kind)
{
    int rows = (int)QN_MIN((size_t)m->w->w.n_out, QN_MAX((size_t)16, STAGE_BYTES / row_bytes / 16 * 16));
    for (int at = 0; at < m->w->w.n_out; at += rows) {
        int n = QN_MIN(rows, m->w->w.n_out - at);
        int rc = pack_some(m, (const unsigned char *)raw + (size_t)at * row_bytes, (size_t)n * row_bytes,
                           raw_kind, at, n);
        if (rc) return rc;
    }
    return QN_OK;
}

static int take_codes(const struct Making *m, int stored)
{
    DevWeight *w = &m->w->w;
    w->stored = stored;
    return take(m, (const void **)&w->codes, (size_t)w->n_tile * (size_t)w->k64 * code_words(stored) * 512);
}

/* Widened to float by the definition. */
static int make_float(const struct Making *m)
{
    const struct qn_linear *l = m->l;
    size_t row_bytes = (size_t)l->n_in * sizeof(float);
    int rc = take_codes(m, W_F32), rows = (int)QN_MAX((size_t)16, (STAGE_BYTES / 4) / row_bytes / 16 * 16);
    float *all = (float *)malloc((size_t)QN_MIN(rows, l->n_out) * row_bytes);
    if (!all) rc = qn_err_set(m->e, QN_NOMEM, __FILE__, __LINE__, "%s: no memory to widen it", l->name);
    for (int at = 0; !rc && at < l->n_out; at += rows) {
        int n = QN_MIN(rows, l->n_out - at);
        rc = qn_linear_rows(l, at, n, all, m->e);
        if (!rc) rc = pack_some(m, all, (size_t)n * row_bytes, RAW_32, at, n);
    }
    free(all);
    return rc;
}

static int put_floats(const struct Making *m, const float **out, const float *from, size_t n)
{
    int rc = take(m, (const void **)out, n * sizeof *from);
    return rc ? rc : put(m, *out, from, n * sizeof *from);
}

static float *scale_values(const struct qn_linear *l, size_t n)
{
    float *v = (float *)malloc(n * sizeof *v + 4);
    QN_CHECK(v);
    for (size_t i = 0; i < n; i++) v[i] = qn_tensor_value(&l->scale, i);
    return v;
}

static int make_fp8(const struct Making *m)
{
    const struct qn_linear *l = m->l;
    DevWeight *w = &m->w->w;
    size_t n_col = ((size_t)l->n_in + 127) / 128, n_block = ((size_t)l->n_out + 127) / 128 * n_col;
    const uint8_t *raw = (const uint8_t *)l->weight.data;
    int rc = QN_OK;
    for (size_t i = 0; i < (size_t)l->n_out * (size_t)l->n_in; i++)
        CU_FAIL_IF((raw[i] & 0x7f) == 0x7f, m->e, QN_FORMAT, "%s: value %zu is NaN; the file is damaged",
                   l->name, i);
    if (l->format == QN_FMT_FP8_TENSOR) w->scale = qn_tensor_value(&l->scale, 0);
    if (l->format == QN_FMT_FP8_CHANNEL || l->format == QN_FMT_FP8_BLOCK) {
        bool is_block = l->format == QN_FMT_FP8_BLOCK;
        size_t n = is_block ? n_block : (size_t)l->n_out;
        float *v = scale_values(l, n);
        rc = put_floats(m, is_block ? &w->block : &w->row_scale, v, n);
        free(v);
        if (is_block) w->scale_kind = S_BLOCK, w->group16 = w->fold16 = 8;
    }
    if (!rc) rc = take_codes(m, W_E4M3);
    return rc ? rc : pack_rows(m, l->weight.data, (size_t)l->n_in, RAW_8);
}

static int make_int8(const struct Making *m)
{
    float *v = scale_values(m->l, (size_t)m->l->n_out);
    int rc = put_floats(m, &m->w->w.row_scale, v, (size_t)m->l->n_out);
    free(v);
    if (!rc) rc = take_codes(m, W_INT8);
    return rc ? rc : pack_rows(m, m->l->weight.data, (size_t)m->l->n_in, RAW_8);
}

static int make_nvfp4(const struct Making *m)
{
    const struct qn_linear *l = m->l;
    DevWeight *w = &m->w->w;
    w->scale = NVFP4_UNIT * l->scale2;
    int rc = take_codes(m, W_NVFP4);
    if (!rc) rc = take(m, (const void **)&w->scales4, (size_t)w->n_tile * (size_t)w->k64 * 64);
    if (!rc) rc = pack_rows(m, l->weight.data, (size_t)l->n_in / 2, RAW_NIBBLES);
    if (rc) return rc;
    size_t row_bytes = (size_t)l->n_in / 16;
    void *stage;
    CU_FAIL_IF(cudaMalloc(&stage, (size_t)l->n_out * row_bytes), m->e, QN_NOMEM,
               "%s: no device memory to load its scales through", l->name);
    rc = put(m, stage, l->scale.data, (size_t)l->n_out * row_bytes);
    if (!rc) {
        CU_LAUNCH(m->d, pack_scales, dim3((unsigned)w->k64, (unsigned)w->n_tile), dim3(16), 0,
                  (const uint8_t *)stage, (uint32_t *)w->scales4, 0, w->n_out, w->n_out, w->n_in, w->k64);
        cu_ok(m->d, cudaStreamSynchronize(m->d->stream), "packing scales");
    }
    cudaFree(stage);
    return rc;
}

/* --- int4: groups --- */
static uint32_t word_at(const struct qn_tensor *t, size_t i)
{
    uint32_t w;
    memcpy(&w, (const unsigned char *)t->data + i * 4, 4);
    return w;
}
static int group_of(const struct qn_linear *l, int k)
{
    return l->g_idx.n_dim ? (int)word_at(&l->g_idx, (size_t)k) : k / l->group;
}
static bool is_in_order(const struct qn_linear *l)
{
    for (int k = 0; k < l->n_in; k++)
        if (group_of(l, k) != k / l->group) return false;
    return true;
}
static int zero_of(const struct qn_linear *l, int o, int group)
{
    size_t N = (size_t)l->n_out, g = (size_t)group;
    if (l->format == QN_FMT_INT4_AWQ) {
        int c = o & 7;
        return (int)(word_at(&l->zeros, g * (N / 8) + (size_t)o / 8) >> 4 * (c / 2 + 4 * (c & 1)) & 15);
    }
    if (l->format == QN_FMT_INT4_GPTQ && l->zeros.n_dim)
        return (int)(word_at(&l->zeros, g * (N / 8) + (size_t)o / 8) >> 4 * (o % 8) & 15) + l->zero_offset;
    return 8;
}

/* Inputs in the order of their groups, each filled up to a multiple of 16. Returns places of 16. */
static int sort_inputs(const struct qn_linear *l, int32_t *perm, int32_t *group_of_16)
{
    int n = 0;
    for (int g = 0; g < l->n_in / l->group; g++) {
        for (int k = 0; k < l->n_in; k++)
            if (group_of(l, k) == g) {
                if (n % 16 == 0) group_of_16[n / 16] = g;
                perm[n++] = k;
            }
        while (n % 16) perm[n++] = -1;
    }
    return n / 16;
}

static int put_pairs(const struct Making *m, const int32_t *group_of_16)
{
    const struct qn_linear *l = m->l;
    DevWeight *w = &m->w->w;
    size_t n = (size_t)w->n_tile * (size_t)w->n_group * 16;
    uint2 *pair = (uint2 *)calloc(n, sizeof *pair);
    QN_CHECK(pair);
    for (int o = 0; o < l->n_out; o++)
        for (int i = 0; i < w->n_group; i++) {
            int g = group_of_16 ? group_of_16[i * w->group16] : i;
            if (g < 0 || g >= l->n_in / l->group) continue;
            size_t at = l->format == QN_FMT_INT4_CT ? (size_t)o * (size_t)(l->n_in / l->group) + (size_t)g
                                                    : (size_t)g * (size_t)l->n_out + (size_t)o;
            float scale = qn_tensor_value(&l->scale, at);
            uint2 *to = &pair[((size_t)(o / 16) * (size_t)w->n_group + (size_t)i) * 16 + (size_t)(o % 16)];
            memcpy(&to->x, &scale, 4);
            to->y = BF16_PAIR(qn_f32_to_bf16(-(128.0f + (float)zero_of(l, o, g))));
        }
    int rc = take(m, (const void **)&w->pair, n * sizeof *pair);
    if (!rc) rc = put(m, w->pair, pair, n * sizeof *pair);
    free(pair);
    return rc;
}

static int put_perm(const struct Making *m, int32_t **group_of_16)
{
    const struct qn_linear *l = m->l;
    DevWeight *w = &m->w->w;
    size_t room = (size_t)l->n_in + 16 * (size_t)(l->n_in / l->group) + 64;
    int32_t *perm = (int32_t *)malloc(room * sizeof *perm);
    *group_of_16 = (int32_t *)malloc((room / 16 + 4) * sizeof **group_of_16);
    QN_CHECK(perm && *group_of_16);
    for (size_t i = 0; i < room / 16 + 4; i++) (*group_of_16)[i] = -1;
    int n = sort_inputs(l, perm, *group_of_16);
    w->k64 = QN_CEIL_DIV(n, 4);
    for (int i = n * 16; i < w->k64 * 64; i++) perm[i] = -1;
    int rc = take(m, (const void **)&w->perm, (size_t)w->k64 * 64 * sizeof *perm);
    if (!rc) rc = put(m, w->perm, perm, (size_t)w->k64 * 64 * sizeof *perm);
    free(perm);
    if (rc || w->k64 <= m->d->perm_k64) return rc;
    cudaFree(m->d->xp_perm); /* room for the widest */
    m->d->xp_perm = NULL;
    m->d->perm_k64 = w->k64;
    size_t words =
        cu_packed_words((size_t)QN_MAX(m->d->o.max_rows, m->d->o.max_logits), w->k64 * 64, m->d->s.parts);
    CU_FAIL_IF(cudaMalloc((void **)&m->d->xp_perm, words * 4), m->e, QN_NOMEM,
               "%s: no device memory for its inputs", l->name);
    return QN_OK;
}

static int make_int4(const struct Making *m)
{
    const struct qn_linear *l = m->l;
    DevWeight *w = &m->w->w;
    int32_t *group_of_16 = NULL;
    int rc = QN_OK;
    w->scale_kind = S_PAIR;
    w->group16 = l->group / 16;
    if (!is_in_order(l)) {
        w->group16 = 1; /* a scale for every 16 places: groups may have any size */
        rc = put_perm(m, &group_of_16);
    }
    for (w->fold16 = 32; w->group16 % w->fold16; w->fold16 /= 2) {
    }
    w->n_group = QN_CEIL_DIV(w->k64 * 4, w->group16);
    if (!rc) rc = put_pairs(m, group_of_16);
    free(group_of_16);
    if (!rc) rc = take_codes(m, W_INT4);
    if (rc) return rc;
    if (l->format == QN_FMT_INT4_CT) return pack_rows(m, l->weight.data, (size_t)l->n_in / 2, RAW_WORDS);
    return pack_some(m, l->weight.data, (size_t)l->n_in * (size_t)l->n_out / 2,
                     l->format == QN_FMT_INT4_AWQ ? RAW_AWQ : RAW_GPTQ, 0, l->n_out);
}

static int make(const struct Making *m, bool rows)
{
    const struct qn_linear *l = m->l;
    size_t n_in = (size_t)l->n_in;
    bool is_shuffled = l->g_idx.n_dim && l->group && !is_in_order(l);
    int rc;
    switch (l->format) {
    case QN_FMT_F32:
        if (l->weight.dtype != QN_F32) return make_float(m);
        rc = take_codes(m, W_F32);
        return rc ? rc : pack_rows(m, l->weight.data, n_in * 4, RAW_32);
    case QN_FMT_BF16:
    case QN_FMT_F16:
        rc = take_codes(m, l->format == QN_FMT_BF16 ? W_BF16 : W_F16);
        return rc ? rc : pack_rows(m, l->weight.data, n_in * 2, RAW_16);
    case QN_FMT_NVFP4:
        return make_nvfp4(m);
    case QN_FMT_FP8_BLOCK:
    case QN_FMT_FP8_TENSOR:
    case QN_FMT_FP8_CHANNEL:
        return make_fp8(m);
    case QN_FMT_INT8_CHANNEL:
        return make_int8(m);
    case QN_FMT_INT4_AWQ:
    case QN_FMT_INT4_GPTQ:
    case QN_FMT_INT4_CT:
        if (!l->group || l->group % 16 || l->n_in % l->group ||
            (is_shuffled && (rows || strstr(l->name, ".experts."))))
            return make_float(m);
        return make_int4(m);
    default:
        return make_float(m);
    }
}

int cu_weight(struct qn_device *d, const struct qn_linear *l, bool rows, struct qn_weight **out,
              struct qn_err *e)
{
    struct qn_weight *w = (struct qn_weight *)calloc(1, sizeof *w);
    QN_CHECK(w);
    w->next = d->weights; /* freed with the device */
    d->weights = w;
    w->w.n_out = l->n_out;
    w->w.n_in = l->n_in;
    w->w.n_tile = QN_CEIL_DIV(l->n_out, 16);
    w->w.k64 = cu_k64(l->n_in);
    w->w.scale = 1;
    w->w.group16 = w->w.fold16 = 32;
    struct Making m = {d, l, w, e};
    int rc = make(&m, rows);
    if (!rc && d->fault) rc = qn_err_set(e, d->fault, __FILE__, __LINE__, "%s: %s", l->name, d->fault_text);
    if (!rc) *out = w;
    return rc;
}
