/* One layer.
 * SPDX-License-Identifier: Apache-2.0 */
#include "engine/layer.h"

void qn_layer_meet(const struct qn_layer *f, enum qn_meeting at, float *p, int n_row, int width)
{
    if (f->meet) f->meet->sum(f->meet->user, f->d, at, p, n_row, width);
}

void qn_layer_embed(const struct qn_layer *f, const struct qn_step *s, const struct qn_weights *w)
{
    struct qn_op_embed op = {w->embed, w->first_tok, w->n_tok, f->x, f->y};
    f->b->embed(f->d, s, &op);
    qn_layer_meet(f, QN_MEET_EMBED, f->x, s->n_row, f->hidden);
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
    qn_layer_meet(f, QN_MEET_ATTN, f->y, s->n_row, f->hidden);
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
    qn_layer_meet(f, QN_MEET_GDN, f->y, s->n_row, f->hidden);
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
    qn_layer_meet(f, QN_MEET_FFN, f->y, s->n_row, f->hidden);
}
