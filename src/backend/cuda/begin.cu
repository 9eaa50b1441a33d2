/* A step goes down in one copy, its results come up in one.
 * SPDX-License-Identifier: Apache-2.0 */
#include "backend/cuda/cuda.h"

/* The block: views, then arrays one after the other. With host NULL it is only measured. */
struct Packer {
    unsigned char *host, *device;
    size_t at;
};

template <class T, class D> static void put(struct Packer *p, D **out, const T *from, size_t n)
{
    static_assert(sizeof(T) == sizeof(D));
    *out = NULL;
    if (!from) return;
    if (p->host) {
        *out = (D *)(p->device + p->at);
        memcpy(p->host + p->at, from, n * sizeof(T));
    }
    p->at += QN_ROUND_UP(n * sizeof(T), 16) + 16; /* never empty */
}

static void put_rows(struct Packer *p, struct View *v, const struct qn_step *s)
{
    size_t rows = (size_t)s->n_row, logits = (size_t)s->n_logit;
    v->n_row = s->n_row;
    v->n_seq = s->n_seq;
    v->n_decode = s->n_decode;
    v->n_logit = s->n_logit;
    put(p, &v->tok, s->tok, rows);
    put(p, &v->row_seq, s->row_seq, rows);
    put(p, &v->pos, s->pos, rows);
    put(p, &v->rope_pos, s->rope_pos, 3 * rows);
    put(p, &v->embed_row, s->embed_row, rows);
    put(p, &v->logit_row, s->logit_row, logits);
    put(p, &v->logit_seq, s->logit_seq, logits);
    put(p, &v->seq, s->seq, (size_t)s->n_seq);
}

static void pack(struct Packer *p, struct View *views, const struct qn_step *s, const struct qn_pass *pass,
                 int n_pass)
{
    struct View *v = &views[0];
    p->at = sizeof(struct View) * (1 + QN_MAX_DRAFT);
    memset(views, 0, p->at);
    put_rows(p, v, s);
    put(p, &v->mask_at, s->mask_at, (size_t)s->n_logit);
    put(p, &v->score_tok, s->score_tok, (size_t)s->n_logit);
    put(p, (int32_t **)&v->pages, s->pages, (size_t)s->n_pages);
    put(p, (int32_t **)&v->bias_tok, s->bias_tok, (size_t)s->n_bias);
    put(p, (float **)&v->bias, s->bias, (size_t)s->n_bias);
    put(p, (int32_t **)&v->seen_tok, s->seen_tok, (size_t)s->n_seen);
    put(p, (int32_t **)&v->seen_count, s->seen_count, (size_t)s->n_seen);
    put(p, (uint32_t **)&v->mask, s->mask, (size_t)s->n_mask * (size_t)s->mask_words);
    v->mask_words = s->mask_words;
    v->n_score_top = s->n_score_top;
    for (int i = 0; i < n_pass; i++) {
        struct View *w = &views[1 + i];
        const struct qn_pass *q = &pass[i];
        *w = *v;
        put_rows(p, w, &q->step);
        w->mask_at = w->score_tok = NULL;
        w->depth = q->depth;
        size_t rows = (size_t)q->step.n_row, seqs = (size_t)q->step.n_seq;
        put(p, &w->from, q->from, seqs);
        put(p, &w->lives, q->from, seqs); /* settled */
        put(p, &w->hidden_row, q->hidden_row, rows);
        put(p, &w->pick, q->pick, rows);
        put(p, &w->need, q->need, rows);
    }
}

static bool grow(struct qn_device *d, size_t n_byte)
{
    if (n_byte <= d->block_bytes) return true;
    cudaFree(d->block);
    if (d->host_block) cudaFreeHost(d->host_block);
    d->block = d->host_block = NULL;
    d->block_bytes = 0;
    size_t room = QN_ROUND_UP(n_byte + n_byte / 2, (size_t)65536);
    if (!cu_ok(d, cudaMalloc((void **)&d->block, room), "memory for a step") ||
        !cu_ok(d, cudaMallocHost((void **)&d->host_block, room), "pinned memory for a step"))
        return false;
    d->block_bytes = room;
    d->view = (struct View *)d->block;
    d->host_view = (struct View *)d->host_block;
    return true;
}

void cu_begin(struct qn_device *d, const struct qn_step *s, struct qn_pass *pass, int n_pass,
              struct qn_step_result *result)
{
    struct View measured[1 + QN_MAX_DRAFT];
    struct Packer p = {};
    size_t h = (size_t)d->s.hidden;
    d->step = s;
    d->result = result;
    pack(&p, measured, s, pass, n_pass);
    size_t embed_at = p.at, all = p.at + (s->embed ? (size_t)s->n_embed * h * 4 + 16 : 0);
    if (d->fault || !grow(d, all)) return;
    p = {d->host_block, d->block, 0};
    pack(&p, d->host_view, s, pass, n_pass);
    if (s->embed) { /* last: it is large */
        memcpy(d->host_block + embed_at, s->embed, (size_t)s->n_embed * h * 4);
        for (int i = 0; i <= n_pass; i++) d->host_view[i].embed = (const float *)(d->block + embed_at);
    }
    cu_ok(d, cudaMemcpyAsync(d->block, d->host_block, all, cudaMemcpyHostToDevice, d->stream), "a step");
    size_t counts = (size_t)((unsigned char *)d->r.draft - d->results);
    cu_ok(d, cudaMemsetAsync(d->results, 0, counts, d->stream), "results");
    if (d->o.poison) cu_ok(d, cudaMemsetAsync(d->scratch, 0xff, d->scratch_bytes, d->stream), "scratch");
}

static void scatter(struct qn_device *d)
{
    const struct qn_step *s = d->step;
    struct qn_step_result *r = d->result;
    auto host = [&](const void *p) { return d->host_results + ((const unsigned char *)p - d->results); };
    size_t seqs = (size_t)s->n_seq, logits = (size_t)s->n_logit;
    if (r->n_accepted) memcpy(r->n_accepted, host(d->r.n_accepted), seqs * sizeof(int32_t));
    if (r->n_drafted) memcpy(r->n_drafted, host(d->r.n_drafted), seqs * sizeof(int32_t));
    if (r->draft) memcpy(r->draft, host(d->r.draft), seqs * QN_MAX_DRAFT * sizeof(int32_t));
    if (r->token) memcpy(r->token, host(d->r.token), logits * sizeof *r->token);
    if (r->score && s->score_tok) memcpy(r->score, host(d->r.score), logits * sizeof *r->score);
}

int cu_sync(struct qn_device *d, struct qn_err *e)
{
    const struct qn_step *s = d->step;
    if (s && !d->fault) {
        const unsigned char *end = s->score_tok ? (const unsigned char *)(d->r.score + s->n_logit)
                                                : (const unsigned char *)(d->r.token + s->n_logit);
        cu_ok(d,
              cudaMemcpyAsync(d->host_results, d->results, (size_t)(end - d->results), cudaMemcpyDeviceToHost,
                              d->stream),
              "results");
    }
    if (!d->fault) cu_ok(d, cudaGetLastError(), "a launch");
    if (!d->fault) cu_ok(d, cudaStreamSynchronize(d->stream), "a step");
    if (s && !d->fault) scatter(d);
    d->step = NULL;
    d->result = NULL;
    return d->fault ? qn_err_set(e, d->fault, __FILE__, __LINE__, "%s", d->fault_text) : QN_OK;
}
