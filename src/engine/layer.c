/* One layer.
 * SPDX-License-Identifier: Apache-2.0 */
#include "engine/layer.h"

static void meet(const struct qn_layer *f, enum qn_meeting at, float *p, int n_row)
{
    if (f->meet) f->meet->sum(f->meet->user, f->d, at, p, n_row, f->hidden);
}

void qn_layer_embed(const struct qn_layer *f, const struct qn_step *s, const struct qn_weights *w)
{
    struct qn_op_embed op = {w->embed, w->first_tok, w->n_tok, f->x, f->y};
    f->b->embed(f->d, s, &op);
    meet(f, QN_MEET_EMBED, f->x, s->n_row);
}

void qn_layer_logits(const struct qn_layer *f, const struct qn_step *s, const struct qn_weights *w,
                     const float *hidden, int first, int n, float *logits)
{
    struct qn_op_logits op = {w->head, hidden, first, n, f->part ? f->part : logits};
    f->b->logits(f->d, s, &op);
    if (!f->part) return;
    struct qn_gather g = {f->part, w->first_tok, w->n_tok, logits, n, f->vocab};
    f->meet->gather(f->meet->user, f->d, &g);
}

static void run_full(const struct qn_layer *f, const struct qn_step *s, const struct qn_layer_weights *w,
                     int kv_layer)
{
    struct qn_op_attn_in in = {w, f->x, f->y, kv_layer};
    struct qn_op_attn decode = {w, kv_layer, 0, s->n_decode};
    struct qn_op_attn prefill = {w, kv_layer, s->n_decode, s->n_seq - s->n_decode};
    struct qn_op_attn_out out = {w, f->y};
    f->b->attn_in(f->d, s, &in);
    if (decode.n_seq) f->b->attn_decode(f->d, s, &decode);
    if (prefill.n_seq) f->b->attn_prefill(f->d, s, &prefill);
    f->b->attn_out(f->d, s, &out);
    meet(f, QN_MEET_ATTN, f->y, s->n_row);
}

static void run_gdn(const struct qn_layer *f, const struct qn_step *s, const struct qn_layer_weights *w,
                    int gdn_layer)
{
    struct qn_op_gdn_in in = {w, f->x, f->y, gdn_layer};
    struct qn_op_gdn decode = {w, gdn_layer, 0, s->n_decode};
    struct qn_op_gdn prefill = {w, gdn_layer, s->n_decode, s->n_seq - s->n_decode};
    struct qn_op_gdn_out out = {w, f->y};
    f->b->gdn_in(f->d, s, &in);
    if (decode.n_seq) f->b->gdn_decode(f->d, s, &decode);
    if (prefill.n_seq) f->b->gdn_prefill(f->d, s, &prefill);
    f->b->gdn_out(f->d, s, &out);
    meet(f, QN_MEET_GDN, f->y, s->n_row);
}

void qn_layer_run(const struct qn_layer *f, const struct qn_step *s, const struct qn_layer_weights *w,
                  int kv_layer, int gdn_layer)
{
    struct qn_op_ffn ffn = {w, f->x, f->y};
    if (w->is_full)
        run_full(f, s, w, kv_layer);
    else
        run_gdn(f, s, w, gdn_layer);
    if (f->is_moe)
        f->b->moe(f->d, s, &ffn);
    else
        f->b->mlp(f->d, s, &ffn);
    meet(f, QN_MEET_FFN, f->y, s->n_row);
}
