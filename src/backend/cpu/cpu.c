/* The CPU back end: ref's table with the entries that pay overwritten.
 * SPDX-License-Identifier: Apache-2.0 */
#include "backend/cpu/cpu.h"

#include "backend/registry.h"
#include "base/mem.h"

static int most_in(const struct qn_device *d)
{
    const struct qn_config *c = &d->c;
    int n = QN_MAX(2 * c->hidden, c->n_head * c->head_dim);
    n = QN_MAX(n, d->vd);
    n = QN_MAX(n, QN_MAX(c->ffn, QN_MAX(c->shared_ffn, c->expert_ffn)));
    return n;
}

#define MERGE_FLOATS ((size_t)2 << 20) /* 8 MiB of split partials */

static void cpu_close(struct qn_device *d)
{
    if (!d) return;
    struct qn_cpu *c = d->cpu;
    if (c) {
        qn_cpu_weights_free(d);
        qn_slab_free(c->slab);
        qn_pool_free(c->pool);
        for (int i = 0; c->conv && i < d->c.n_gdn; i++) free(c->conv[i]);
        free(c->conv);
        free(c->act);
        free(c->score);
        free(c->part);
        free(c->tile);
        free(c->merge);
        free(c->expert);
        free(c->weight);
        free(c->e_gate);
        free(c->e_up);
        free(c->e_out);
        free(c->mix);
        free(c->shared);
        free(c);
    }
    qn_host_close(d);
}

/* 64-byte aligned, n floats; NULL when there is no room. */
static void *floats(struct qn_device *d, size_t n)
{
    return qn_host_alloc(d, QN_MAX(n, 16) * sizeof(float));
}

static int cpu_open(struct qn_device **out, const struct qn_device_options *o, struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_device *d = NULL;
    QN_TRY(qn_host_open(&d, o, e));
    const struct qn_config *cfg = &d->c;
    QN_FAIL_IF(cfg->conv_taps > 16 || cfg->rotary_dim > 1024, e, QN_UNSUPPORTED,
               "linear_conv_kernel_dim %d (at most 16) or rotary dimension %d (at most 1024) is not served; "
               "--device ref runs it",
               cfg->conv_taps, cfg->rotary_dim);
    struct qn_cpu *c = d->cpu = xcalloc(1, sizeof *c);
    c->k = qn_kern_get(qn_cpu_isa());
    c->pool = qn_pool_create(o->n_thread);
    c->slab = qn_slab_create();
    size_t rows = (size_t)o->max_rows, places = rows * (size_t)QN_MAX(cfg->top_k, 1);
    size_t threads = (size_t)qn_pool_n_thread(c->pool), hd_pad = QN_ROUND_UP((size_t)cfg->head_dim, 16);
    c->act_bytes = qn_packed_act_bytes(most_in(d), (int)rows, o->act);
    if (cfg->is_moe)
        c->act_bytes = QN_MAX(
            c->act_bytes, qn_packed_act_bytes(QN_MAX(cfg->hidden, QN_MAX(cfg->expert_ffn, cfg->shared_ffn)),
                                              (int)(rows + places), o->act));
    c->act = qn_host_alloc(d, c->act_bytes);
    c->conv = xcalloc((size_t)QN_MAX(cfg->n_gdn, 1), sizeof *c->conv);
    c->score = floats(d, threads * QN_ATTN_QUERIES * QN_SPLIT);
    c->part = floats(d, threads * QN_ATTN_QUERIES * hd_pad);
    c->tile = floats(d, threads * (size_t)cfg->k_dim * 16);
    c->merge_floats = MERGE_FLOATS;
    c->merge = floats(d, c->merge_floats);
    bool has_room = c->act && c->score && c->part && c->tile && c->merge;
    if (cfg->is_moe) {
        c->expert = try_malloc(places, sizeof *c->expert);
        c->weight = try_malloc(places, sizeof *c->weight);
        c->e_gate = floats(d, places * (size_t)cfg->expert_ffn);
        c->e_up = floats(d, places * (size_t)cfg->expert_ffn);
        c->e_out = floats(d, places * (size_t)cfg->hidden);
        c->mix = floats(d, rows);
        c->shared = floats(d, rows * (size_t)cfg->hidden);
        has_room &= c->expert && c->weight && c->e_gate && c->e_up && c->e_out && c->mix && c->shared;
    }
    QN_FAIL_IF(!has_room, e, QN_NOMEM, "no memory for the scratch of %d rows; use fewer", o->max_rows);
    d->linear = qn_cpu_linear;
    d->row = qn_cpu_row;
    d->scan = &c->k->scan;
    *out = d;
    d = NULL;
out:
    cpu_close(d);
    return rc;
}

static void cpu_describe(const struct qn_device *d, struct qn_device_info *out)
{
    *out =
        (struct qn_device_info){.n_thread = qn_pool_n_thread(d->cpu->pool), .weight_bytes = d->weight_bytes};
    snprintf(out->isa, sizeof out->isa, "%s", qn_isa_name(d->cpu->k->isa));
}

static void cpu_head(struct qn_device *d, const struct qn_step *s, const struct qn_op_head *op)
{
    qn_cpu_add_norm(d, op->x, op->y, op->norm, s->n_row, op->hidden);
}

/* Rows of logits are large: one a task. */
struct rows {
    struct qn_device *d;
    const struct qn_step *s;
    const struct qn_op_rows *op;
};

static void sample_row(void *ctx, int i, int thread)
{
    (void)thread;
    struct rows *a = ctx;
    const struct qn_step *s = a->s;
    if (qn_ref_is_sampled(s, i))
        qn_draw(a->d->scan, a->op->logits + (size_t)i * a->d->c.vocab, a->d->n_tok,
                &s->seq[s->logit_seq[i]].sample, s->pos[s->logit_row[i]] + 1, &a->d->result->token[i]);
}

static void cpu_sample(struct qn_device *d, const struct qn_step *s, const struct qn_op_rows *op)
{
    struct rows a = {d, s, op};
    qn_pool_run(d->cpu->pool, s->n_logit, sample_row, &a);
}

static void score_row(void *ctx, int i, int thread)
{
    (void)thread;
    struct rows *a = ctx;
    qn_draw_score(a->d->scan, a->op->logits + (size_t)i * a->d->c.vocab, a->d->c.vocab, a->s->score_tok[i],
                  a->s->n_score_top, &a->d->result->score[i]);
}

static void cpu_score(struct qn_device *d, const struct qn_step *s, const struct qn_op_rows *op)
{
    struct rows a = {d, s, op};
    qn_pool_run(d->cpu->pool, s->n_logit, score_row, &a);
}

struct draft {
    struct qn_device *d;
    const struct qn_op_draft *op;
    int32_t *tok; /* [n_logit] */
};

static void draft_row(void *ctx, int i, int thread)
{
    (void)thread;
    struct draft *a = ctx;
    const struct qn_pass *p = a->op->pass;
    struct qn_step_token token;
    int pos = qn_ref_draft_adjust(a->d, a->op, i);
    qn_draw(a->d->scan, a->op->logits + (size_t)i * a->d->c.vocab, a->d->n_tok,
            &p->seq[p->logit_seq[i]].sample, pos, &token);
    a->tok[i] = token.tok;
}

static void cpu_draft(struct qn_device *d, const struct qn_op_draft *op)
{
    int n = op->pass->step.n_logit;
    struct draft a = {d, op, xmalloc((size_t)QN_MAX(n, 1) * sizeof *a.tok)};
    qn_pool_run(d->cpu->pool, n, draft_row, &a);
    for (int i = 0; i < n; i++) qn_ref_draft_keep(d, op, i, a.tok[i]);
    free(a.tok);
}

const struct qn_backend *qn_cpu_backend(void)
{
    static struct qn_backend cpu; /* the same bytes whoever fills it first */
    struct qn_backend b = *qn_ref_backend();
    b.name = "cpu";
    b.open = cpu_open;
    b.close = cpu_close;
    b.weight = qn_cpu_weight;
    b.describe = cpu_describe;
    b.attn_in = qn_cpu_attn_in;
    b.attn_prefill = qn_cpu_attn;
    b.attn_decode = qn_cpu_attn;
    b.attn_out = qn_cpu_attn_out;
    b.gdn_in = qn_cpu_gdn_in;
    b.gdn_prefill = qn_cpu_gdn;
    b.gdn_decode = qn_cpu_gdn;
    b.gdn_out = qn_cpu_gdn_out;
    b.mlp = qn_cpu_mlp;
    b.moe = qn_cpu_moe;
    b.head = cpu_head;
    b.sample = cpu_sample;
    b.score = cpu_score;
    b.draft = cpu_draft;
    b.state_flush = qn_cpu_state_flush;
    cpu = b;
    return &cpu;
}
