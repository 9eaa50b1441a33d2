/* The device's memory: a slab for weights, pools, scratch, and what they come to.
 * SPDX-License-Identifier: Apache-2.0 */
#include "backend/cuda/cuda.h"

#define CHUNK_BYTES ((size_t)64 << 20)
#define PART_FLOATS                                                                                          \
    ((size_t)16 << 20) /* of partial results of attention: 64 MiB; beyond, a block does all splits */

void cu_shape(struct Shape *s, const struct qn_device_options *o)
{
    const struct qn_config *c = o->config;
    memset(s, 0, sizeof *s);
    s->hidden = c->hidden;
    s->n_head = c->n_head, s->n_kv_head = c->n_kv_head, s->head_dim = c->head_dim;
    s->hd_pad = c->head_dim <= 32 ? 32 : c->head_dim <= 64 ? 64 : c->head_dim <= 128 ? 128 : 256;
    s->rotary_half = c->rotary_dim / 2;
    s->section_h = c->mrope_section[1], s->section_w = c->mrope_section[2];
    s->is_tiled = c->is_tiled, s->n_k_head = c->n_k_head, s->n_v_head = c->n_v_head, s->k_dim = c->k_dim, s->v_dim = c->v_dim;
    s->v_pad = QN_ROUND_UP(c->v_dim, 32);
    s->taps = c->conv_taps;
    s->kd = qn_config_key_dim(c), s->vd = qn_config_value_dim(c), s->cd = qn_config_conv_dim(c);
    s->is_sigmoid_gate = c->gate_act == QN_GATE_SIGMOID;
    s->n_expert = c->n_expert, s->top_k = c->top_k;
    s->vocab = c->vocab;
    s->n_tok = o->n_tok > 0 ? QN_MIN(o->n_tok, c->vocab) : c->vocab;
    s->eps = c->norm_eps;
    s->parts = o->act == QN_ACT_F32 ? 3 : 1;
    s->kv = o->kv;
    s->layer_bytes = (size_t)2 * (size_t)c->n_kv_head * QN_PAGE *
                     ((size_t)s->hd_pad * qn_kv_bytes(o->kv) + qn_kv_scale_bytes(o->kv));
}

static size_t state_floats(const struct Shape *s)
{
    return QN_ROUND_UP((size_t)s->n_v_head * (size_t)s->k_dim * (size_t)s->v_pad +
                           (size_t)(s->taps - 1) * (size_t)s->cd,
                       16);
}
static size_t lane_floats(const struct Shape *s)
{
    return (size_t)QN_LANE_ROWS *
           ((size_t)s->cd + (size_t)s->kd + (size_t)s->n_v_head * (size_t)(s->v_pad + 1));
}

/* --- scratch: counted with base NULL, cut up otherwise --- */
struct Cut {
    unsigned char *base;
    size_t at;
};
template <class T> static void cut(struct Cut *c, T **out, size_t n)
{
    if (c->base) *out = (T *)(c->base + c->at);
    c->at += QN_ROUND_UP(n * sizeof(T), 256);
}

static void cut_scratch(struct qn_device *d, struct Cut *m, const struct qn_device_options *o,
                        const struct Shape *s)
{
    const struct qn_config *c = o->config;
    size_t rows = (size_t)o->max_rows, seen = (size_t)QN_MAX(o->max_rows, o->max_logits);
    size_t nh = (size_t)s->n_head, pairs = rows * (size_t)QN_MAX(s->top_k, 1);
    int wide = QN_MAX(QN_MAX(s->hidden * (o->has_mtp ? 2 : 1), s->n_head * s->head_dim), s->vd);
    int ffn = QN_MAX(c->ffn, c->shared_ffn);
    cut(m, &d->xp, cu_packed_words(seen, wide, s->parts));
    cut(m, &d->xp2,
        QN_MAX(cu_packed_words(rows, ffn, s->parts),
               c->is_moe ? cu_packed_words(pairs, c->expert_ffn, s->parts) : 0));
    cut(m, &d->qg, rows * nh * 2 * (size_t)s->head_dim);
    cut(m, &d->q, rows * nh * (size_t)s->hd_pad);
    cut(m, &d->attn, rows * nh * (size_t)s->hd_pad);
    cut(m, &d->k, rows * (size_t)(s->n_kv_head * s->head_dim));
    cut(m, &d->v, rows * (size_t)(s->n_kv_head * s->head_dim));
    d->part_floats = QN_MIN(PART_FLOATS, QN_MIN(rows, (size_t)o->max_seqs * QN_LANE_ROWS) * nh *
                                             (size_t)QN_CEIL_DIV(QN_MAX(o->max_context, 1), 256) *
                                             (size_t)(s->hd_pad + 2));
    cut(m, &d->part, d->part_floats);
    cut(m, &d->u, rows * (size_t)s->cd);
    cut(m, &d->conv, rows * (size_t)s->cd);
    cut(m, &d->z, rows * (size_t)s->vd);
    cut(m, &d->o_gdn, rows * (size_t)s->vd);
    cut(m, &d->beta, rows * (size_t)s->n_v_head);
    cut(m, &d->alpha, rows * (size_t)s->n_v_head);
    size_t inner = QN_MAX(rows * (size_t)ffn, c->is_moe ? pairs * (size_t)c->expert_ffn : 0);
    cut(m, &d->ff_gate, inner);
    cut(m, &d->ff_up, inner);
    if (!c->is_moe) return;
    cut(m, &d->ff_out, pairs * (size_t)s->hidden);
    cut(m, &d->shared_out, rows * (size_t)s->hidden);
    cut(m, &d->mix, rows);
    cut(m, &d->router, rows * (size_t)s->n_expert);
    cut(m, &d->pair_expert, pairs);
    cut(m, &d->pair_weight, pairs);
    cut(m, &d->pair_of, pairs);
    cut(m, &d->items, 4 + 4 * ((size_t)s->n_expert + pairs / ITEM_ROWS + 1));
}

void cu_sizes(const struct qn_device_options *o, struct qn_device_sizes *out)
{
    struct Shape s;
    struct qn_device none = {};
    struct Cut m = {};
    cu_shape(&s, o);
    cut_scratch(&none, &m, o, &s);
    size_t n_gdn = (size_t)o->config->n_gdn, h = (size_t)s.hidden;
    out->page_bytes = QN_ROUND_UP((size_t)(o->config->n_full + (o->has_mtp ? 1 : 0)) * s.layer_bytes, 64);
    out->slot_bytes = QN_ROUND_UP((n_gdn * state_floats(&s) + h) * 4, 64);
    out->lane_bytes = QN_ROUND_UP((n_gdn * lane_floats(&s) + (size_t)QN_LANE_ROWS * h) * 4, 64);
    /* beside the scratch the forward pass's rows: x, y, two of a slice, hidden, the draft layer's; logits */
    out->workspace_bytes =
        m.at + 6 * h * (size_t)o->max_rows * 4 + (size_t)o->max_logits * (size_t)s.vocab * 4;
}

static int pool(struct qn_device *d, unsigned char **out, int n, size_t each, const char *what,
                struct qn_err *e)
{
    size_t n_byte = QN_MAX((size_t)n * each, (size_t)256);
    CU_FAIL_IF(n < 0 || (n && each > SIZE_MAX / 2 / (size_t)n) || cudaMalloc((void **)out, n_byte), e,
               QN_NOMEM, "no device memory for %d %s of %zu bytes; use fewer", n, what, each);
    CU_FAIL_IF(cudaMemsetAsync(*out, d->o.poison ? 0xff : 0, n_byte, d->stream), e, QN_DEVICE,
               "clearing the pool of %s failed", what);
    return QN_OK;
}

static int open_freq(struct qn_device *d, struct qn_err *e)
{
    int half = d->s.rotary_half;
    float *f = (float *)calloc((size_t)half + 1, sizeof *f);
    QN_CHECK(f);
    qn_rope_frequencies(&d->c, f);
    d->inv_freq = (float *)cu_take(d, ((size_t)half + 1) * sizeof *f);
    bool is_ok =
        d->inv_freq &&
        !cudaMemcpyAsync(d->inv_freq, f, ((size_t)half + 1) * 4, cudaMemcpyHostToDevice, d->stream) &&
        !cudaStreamSynchronize(d->stream);
    free(f);
    CU_FAIL_IF(!is_ok, e, QN_NOMEM, "no device memory for the frequencies of the rotary embedding");
    return QN_OK;
}

static int open_results(struct qn_device *d, struct qn_err *e)
{
    size_t seqs = (size_t)d->o.max_seqs, logits = (size_t)d->o.max_logits;
    for (int turn = 0; turn < 2; turn++) {
        struct Cut m = {turn ? d->results : NULL, 0};
        cut(&m, &d->r.n_accepted, seqs);
        cut(&m, &d->r.n_drafted, seqs);
        cut(&m, &d->r.draft, seqs * QN_MAX_DRAFT);
        cut(&m, &d->r.token, logits);
        cut(&m, &d->r.score, logits);
        d->results_bytes = m.at;
        if (turn) break;
        CU_FAIL_IF(cudaMalloc((void **)&d->results, m.at) || cudaMallocHost((void **)&d->host_results, m.at),
                   e, QN_NOMEM, "no memory for the results of %zu rows of logits; use fewer", logits);
        cu_ok(d, cudaMemsetAsync(d->results, 0, m.at, d->stream), "results");
    }
    return QN_OK;
}

int cu_memory_open(struct qn_device *d, struct qn_err *e)
{
    const struct qn_device_options *o = &d->o;
    struct Cut m = {};
    d->state_floats = state_floats(&d->s);
    d->lane_floats = lane_floats(&d->s);
    cu_sizes(o, &d->sizes);
    d->s.page_bytes = d->sizes.page_bytes;
    int rc = pool(d, &d->pages, o->n_page, d->sizes.page_bytes, "pages", e);
    if (!rc) rc = pool(d, &d->slots, o->n_slot, d->sizes.slot_bytes, "state slots", e);
    if (!rc) rc = pool(d, &d->lanes, o->n_lane, d->sizes.lane_bytes, "lanes", e);
    if (rc) return rc;
    cut_scratch(d, &m, o, &d->s);
    d->scratch_bytes = m.at;
    CU_FAIL_IF(cudaMalloc((void **)&d->scratch, m.at), e, QN_NOMEM,
               "no device memory for the scratch of %d rows (%zu bytes); use fewer", o->max_rows, m.at);
    m = {d->scratch, 0};
    cut_scratch(d, &m, o, &d->s);
    rc = open_results(d, e);
    return rc ? rc : open_freq(d, e);
}

void cu_memory_close(struct qn_device *d)
{
    for (struct Chunk *c = d->chunks, *next; c; c = next) {
        next = c->next;
        cudaFree(c->p);
        free(c);
    }
    cudaFree(d->pages);
    cudaFree(d->slots);
    cudaFree(d->lanes);
    cudaFree(d->scratch);
    cudaFree(d->xp_perm);
    cudaFree(d->results);
    cudaFree(d->block);
    if (d->host_results) cudaFreeHost(d->host_results);
    if (d->host_block) cudaFreeHost(d->host_block);
}

/* Chunks grow with what is in them, so that a small model takes little. */
void *cu_take(struct qn_device *d, size_t n_byte)
{
    n_byte = QN_ROUND_UP(QN_MAX(n_byte, (size_t)1), (size_t)256);
    if (!d->chunks || d->chunks->n_byte - d->chunks->used < n_byte) {
        size_t room = QN_CLAMP(d->chunks ? d->chunks->n_byte * 2 : 0, (size_t)1 << 18, CHUNK_BYTES);
        struct Chunk *c = (struct Chunk *)calloc(1, sizeof *c);
        QN_CHECK(c);
        c->n_byte = QN_MAX(n_byte, room);
        if (cudaMalloc((void **)&c->p, c->n_byte)) {
            free(c);
            (void)cudaGetLastError(); /* it is told here */
            return NULL;
        }
        c->next = d->chunks;
        d->chunks = c;
    }
    void *p = d->chunks->p + d->chunks->used;
    d->chunks->used += n_byte;
    return p;
}
