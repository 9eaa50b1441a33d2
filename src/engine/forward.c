/* The model: the layer loop, and the MTP rows and drafts that follow the verdict.
 * SPDX-License-Identifier: Apache-2.0 */
#include "engine/forward.h"

#include "base/log.h"
#include "base/mem.h"
#include "engine/load.h"

/* A step made here, of MTP rows. Its arrays are sized at open, except the penalty history. */
struct sub {
    struct qn_step s;
    int32_t *tok, *row_seq, *pos, *rope, *hidden_row, *logit_row, *logit_seq;
    struct qn_step_seq *seq;
    int *from; /* [n_seq] its sequence in the step */
    int32_t *seen_tok, *seen_count;
    int n_seen, seen_room;
    struct qn_step_token *token;
};

struct qn_forward {
    const struct qn_backend *b;
    struct qn_device *d;
    struct qn_config c;
    struct qn_weights *w;
    int max_rows, max_logits,
        max_seqs; /* of a step; the device also has room for the MTP row of each sequence */
    float *x, *y, *hidden, *mtp_hidden; /* [rows, H] */
    float *slice_x, *slice_y;           /* [rows, H] of a sequence between two of its slices */
    int32_t *few_rope;                  /* [3][rows] of a step without that sequence */
    float *logits;                      /* [max_logits, V] */
    struct sub sub;
    bool has_told_draft; /* that a draft had no finite logits: once is enough */
};

static void sub_alloc(struct sub *m, int n_row, int n_seq)
{
    size_t rows = (size_t)n_row, seqs = (size_t)n_seq;
    m->tok = xcalloc(rows, sizeof *m->tok);
    m->row_seq = xcalloc(rows, sizeof *m->row_seq);
    m->pos = xcalloc(rows, sizeof *m->pos);
    m->rope = xcalloc(rows * 3, sizeof *m->rope);
    m->hidden_row = xcalloc(rows, sizeof *m->hidden_row);
    m->logit_row = xcalloc(rows, sizeof *m->logit_row);
    m->logit_seq = xcalloc(rows, sizeof *m->logit_seq);
    m->token = xcalloc(rows, sizeof *m->token);
    m->seq = xcalloc(seqs, sizeof *m->seq);
    m->from = xcalloc(seqs, sizeof *m->from);
}

static void sub_free(struct sub *m)
{
    free(m->tok);
    free(m->row_seq);
    free(m->pos);
    free(m->rope);
    free(m->hidden_row);
    free(m->logit_row);
    free(m->logit_seq);
    free(m->token);
    free(m->seq);
    free(m->from);
    free(m->seen_tok);
    free(m->seen_count);
}

int qn_forward_open(struct qn_forward **out, const struct qn_model *model, const struct qn_forward_options *o,
                    struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_forward *f = xcalloc(1, sizeof *f);
    struct qn_device_options dev = o->device;
    f->b = o->backend;
    f->c = *qn_model_config(model);
    f->max_rows = dev.max_rows;
    f->max_logits = dev.max_logits;
    f->max_seqs = dev.max_seqs;
    QN_FAIL_IF(dev.max_rows < 1 || dev.max_logits < 1 || dev.max_seqs < 1, e, QN_INVAL,
               "max_rows, max_logits and max_seqs must be at least 1");
    dev.config = &f->c;
    dev.has_mtp = o->with_mtp && qn_model_has_mtp(model);
    int rows = dev.max_rows;
    if (dev.has_mtp) dev.max_rows = rows += dev.max_seqs;
    QN_TRY(f->b->open(&f->d, &dev, e));

    size_t row_bytes = (size_t)rows * (size_t)f->c.hidden * sizeof(float);
    f->x = f->b->alloc(f->d, row_bytes);
    f->y = f->b->alloc(f->d, row_bytes);
    f->hidden = f->b->alloc(f->d, row_bytes);
    f->slice_x = f->b->alloc(f->d, row_bytes);
    f->slice_y = f->b->alloc(f->d, row_bytes);
    f->few_rope = xcalloc((size_t)rows * 3, sizeof *f->few_rope);
    f->logits = f->b->alloc(f->d, (size_t)f->max_logits * (size_t)f->c.vocab * sizeof(float));
    QN_FAIL_IF(!f->x || !f->y || !f->hidden || !f->slice_x || !f->slice_y || !f->logits, e, QN_NOMEM,
               "no memory for buffers of %d rows and %d logit rows; use fewer", rows, f->max_logits);
    if (dev.has_mtp) {
        f->mtp_hidden = f->b->alloc(f->d, row_bytes);
        QN_FAIL_IF(!f->mtp_hidden, e, QN_NOMEM, "no memory for buffers of %d rows; use fewer", rows);
        sub_alloc(&f->sub, rows, dev.max_seqs);
    }
    struct qn_load load = {model, f->b, f->d, dev.has_mtp, o->progress, o->progress_user};
    QN_TRY(qn_load_weights(&f->w, &load, e));
    *out = f;
    f = NULL;
out:
    qn_forward_close(f);
    return rc;
}

void qn_forward_close(struct qn_forward *f)
{
    if (!f) return;
    if (f->d) {
        f->b->free(f->d, f->x);
        f->b->free(f->d, f->y);
        f->b->free(f->d, f->hidden);
        f->b->free(f->d, f->mtp_hidden);
        f->b->free(f->d, f->slice_x);
        f->b->free(f->d, f->slice_y);
        f->b->free(f->d, f->logits);
        f->b->close(f->d);
    }
    qn_load_free(f->w);
    sub_free(&f->sub);
    free(f->few_rope);
    free(f);
}

static void run_full(const struct qn_forward_layer *f, const struct qn_step *s,
                     const struct qn_layer_weights *w, int kv_layer)
{
    struct qn_op_attn_in in = {w, f->x, f->y, kv_layer};
    struct qn_op_attn decode = {w, kv_layer, 0, s->n_decode};
    struct qn_op_attn prefill = {w, kv_layer, s->n_decode, s->n_seq - s->n_decode};
    struct qn_op_attn_out out = {w, f->y};
    f->b->attn_in(f->d, s, &in);
    if (decode.n_seq) f->b->attn_decode(f->d, s, &decode);
    if (prefill.n_seq) f->b->attn_prefill(f->d, s, &prefill);
    f->b->attn_out(f->d, s, &out);
}

static void run_gdn(const struct qn_forward_layer *f, const struct qn_step *s,
                    const struct qn_layer_weights *w, int gdn_layer)
{
    struct qn_op_gdn_in in = {w, f->x, f->y, gdn_layer};
    struct qn_op_gdn decode = {w, gdn_layer, 0, s->n_decode};
    struct qn_op_gdn prefill = {w, gdn_layer, s->n_decode, s->n_seq - s->n_decode};
    struct qn_op_gdn_out out = {w, f->y};
    f->b->gdn_in(f->d, s, &in);
    if (decode.n_seq) f->b->gdn_decode(f->d, s, &decode);
    if (prefill.n_seq) f->b->gdn_prefill(f->d, s, &prefill);
    f->b->gdn_out(f->d, s, &out);
}

void qn_forward_layer(const struct qn_forward_layer *f, const struct qn_step *s,
                      const struct qn_layer_weights *w, int kv_layer, int gdn_layer)
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
}

/* The step without its last sequence, for the layers that its slice does not go through. */
static struct qn_step without_last(struct qn_forward *f, const struct qn_step *s)
{
    struct qn_step few = *s;
    few.n_seq--;
    few.n_row = s->seq[few.n_seq].first_row;
    few.slice_from = few.slice_to = 0;
    if (!s->rope_pos) return few;
    for (int axis = 0; axis < 3; axis++)
        memcpy(f->few_rope + (size_t)axis * few.n_row, s->rope_pos + (size_t)axis * s->n_row,
               (size_t)few.n_row * sizeof *f->few_rope);
    few.rope_pos = f->few_rope;
    return few;
}

/* The residual rows of the last sequence, into the step's or out of them. */
static void move_slice(struct qn_forward *f, const struct qn_step *s, bool is_in)
{
    const struct qn_step_seq *q = &s->seq[s->n_seq - 1];
    size_t at = (size_t)q->first_row * (size_t)f->c.hidden,
           n_byte = (size_t)q->n_row * (size_t)f->c.hidden * sizeof(float);
    f->b->move(f->d, is_in ? f->x + at : f->slice_x, is_in ? f->slice_x : f->x + at, n_byte);
    f->b->move(f->d, is_in ? f->y + at : f->slice_y, is_in ? f->slice_y : f->y + at, n_byte);
}

/* Embedding, layers, final norm and the wanted rows of the vocabulary. Of a step with a slice the sequences
 * that are through with the model come back: *few, or the step. */
static const struct qn_step *run_model(struct qn_forward *f, const struct qn_step *s, struct qn_step *few)
{
    bool is_cut = s->slice_to > 0, goes_on = is_cut && s->slice_from > 0;
    *few = is_cut ? without_last(f, s) : *s;
    const struct qn_step *t = goes_on ? few : s;
    struct qn_op_embed embed = {f->w->embed, f->x, f->y};
    if (t->n_row) f->b->embed(f->d, t, &embed);
    if (goes_on) move_slice(f, s, true);
    struct qn_forward_layer layer = {f->b, f->d, f->c.is_moe, f->x, f->y};
    for (int i = 0, n_full = 0, n_gdn = 0; i < f->c.n_layer; i++) {
        const struct qn_layer_weights *w = &f->w->layers[i];
        t = is_cut && (i < s->slice_from || i >= s->slice_to) ? few : s;
        if (t->n_row) qn_forward_layer(&layer, t, w, n_full, n_gdn);
        n_full += w->is_full;
        n_gdn += !w->is_full;
    }
    t = is_cut && s->slice_to <= f->c.n_layer ? few : s;
    if (t != s) move_slice(f, s, false);
    struct qn_op_head head = {f->w->head, f->w->final_norm, f->x,
                              f->y,       f->hidden,        t->n_logit ? f->logits : NULL};
    if (t->n_row) f->b->head(f->d, t, &head);
    return t;
}

static void pick(struct qn_forward *f, const struct qn_step *s, float *logits, struct qn_step_result *result)
{
    struct qn_op_rows op = {logits, result};
    f->b->adjust(f->d, s, &op);
    f->b->sample(f->d, s, &op);
}

/* With all_logits the raw rows are the caller's: the sampled ones are adjusted in copies behind them. */
static void pick_copies(struct qn_forward *f, const struct qn_step *s, struct qn_step_result *result)
{
    size_t v = (size_t)f->c.vocab;
    int n = 0;
    int32_t *at = xcalloc((size_t)s->n_logit * 3 + 1, sizeof *at), *row = at + s->n_logit,
            *seq = row + s->n_logit;
    const uint32_t **mask = xcalloc((size_t)s->n_logit + 1, sizeof *mask);
    struct qn_step_token *token = xcalloc((size_t)s->n_logit + 1, sizeof *token);
    for (int i = 0; i < s->n_logit; i++) {
        const struct qn_step_seq *q = &s->seq[s->logit_seq[i]];
        bool is_sampled = q->wants_token && i >= q->first_logit;
        if (!is_sampled) continue;
        QN_CHECK(s->n_logit + n < f->max_logits);
        f->b->move(f->d, f->logits + (size_t)(s->n_logit + n) * v, f->logits + (size_t)i * v,
                   v * sizeof(float));
        at[n] = i;
        row[n] = s->logit_row[i];
        seq[n] = s->logit_seq[i];
        if (s->mask) mask[n] = s->mask[i];
        n++;
    }
    struct qn_step some = *s;
    some.n_logit = n;
    some.logit_row = row;
    some.logit_seq = seq;
    if (s->mask) some.mask = mask;
    struct qn_step_result few = *result;
    few.token = token;
    if (n) pick(f, &some, f->logits + (size_t)s->n_logit * v, &few);
    for (int i = 0; i < n; i++) result->token[at[i]] = token[i];
    free(token);
    free(mask);
    free(at);
}

/* --- MTP --- */

/* A row of position pos made of tok and a hidden row (-1: the carry). `near`: the row of the step whose rope
 * position is that of the hidden row, plus `shift`. */
static void add_row(struct sub *m, const struct qn_step *s, int32_t tok, int pos, int hidden_row, int near,
                    int shift)
{
    int r = m->s.n_row++;
    m->tok[r] = tok;
    m->row_seq[r] = m->s.n_seq;
    m->pos[r] = pos;
    m->hidden_row[r] = hidden_row;
    if (s->rope_pos)
        for (int axis = 0; axis < 3; axis++)
            m->rope[r * 3 + axis] = s->rope_pos[(size_t)axis * s->n_row + near] + shift;
}

/* The rows gathered since first_row become a sequence of the sub-step. */
static void add_seq(struct sub *m, const struct qn_step *s, int from, int first_row, bool can_draft)
{
    int n = m->s.n_row - first_row;
    if (!n) return;
    struct qn_step_seq *q = &m->seq[m->s.n_seq];
    *q = s->seq[from];
    q->first_row = first_row;
    q->n_row = n;
    q->pos0 = m->pos[first_row];
    q->sample.n_top = -1;
    q->wants_token &= can_draft;
    m->from[m->s.n_seq++] = from;
}

static void sub_begin(struct sub *m, const struct qn_step *s)
{
    m->n_seen = 0;
    m->s = (struct qn_step){.tok = m->tok,
                            .row_seq = m->row_seq,
                            .pos = m->pos,
                            .seq = m->seq,
                            .pages = s->pages,
                            .logit_row = m->logit_row,
                            .logit_seq = m->logit_seq,
                            .bias_tok = s->bias_tok,
                            .bias = s->bias};
}

/* rope is kept row-major while rows come; the step wants [3][n_row]. */
static void sub_end(struct sub *m, const struct qn_step *s)
{
    int n = m->s.n_row;
    if (s->rope_pos) {
        int32_t *t = xmalloc((size_t)n * 3 * sizeof *t);
        for (int r = 0; r < n; r++)
            for (int axis = 0; axis < 3; axis++) t[axis * n + r] = m->rope[r * 3 + axis];
        memcpy(m->rope, t, (size_t)n * 3 * sizeof *t);
        free(t);
        m->s.rope_pos = m->rope;
    }
}

static void seen_put(struct sub *m, int first, int32_t tok, int count, bool is_new)
{
    for (int i = first; !is_new && i < m->n_seen; i++)
        if (m->seen_tok[i] == tok) {
            m->seen_count[i] += count;
            return;
        }
    if (m->n_seen == m->seen_room) {
        m->seen_room = m->seen_room * 2 + 256;
        m->seen_tok = xreallocarray(m->seen_tok, (size_t)m->seen_room, sizeof *m->seen_tok);
        m->seen_count = xreallocarray(m->seen_count, (size_t)m->seen_room, sizeof *m->seen_count);
    }
    m->seen_tok[m->n_seen] = tok;
    m->seen_count[m->n_seen++] = count;
}

/* The penalty history of a draft: the step's, the tokens just decided, the drafts before it. */
static void add_history(struct sub *m, const struct qn_step *s, struct qn_step_seq *q, int from,
                        const struct qn_step_result *result, int n_draft)
{
    const struct qn_step_seq *own = &s->seq[from];
    struct qn_sample *p = &q->sample;
    if (p->presence == 0 && p->frequency == 0 && p->repetition == 1) {
        p->n_seen = 0;
        return;
    }
    int first = m->n_seen;
    for (int i = own->sample.first_seen; i < own->sample.first_seen + own->sample.n_seen; i++)
        seen_put(m, first, s->seen_tok[i], s->seen_count[i], true);
    for (int i = 0; i <= result->n_accepted[from]; i++)
        seen_put(m, first, result->token[own->first_logit + i].tok, 1, false);
    for (int i = 0; i < n_draft; i++) seen_put(m, first, result->draft[from * QN_MAX_DRAFT + i], 1, false);
    p->first_seen = first;
    p->n_seen = m->n_seen - first;
}

/* The MTP layer over the sub-step's rows, up to its last norm; hidden is what its stem reads. */
static void run_mtp_layer(struct qn_forward *f, const float *hidden)
{
    const struct qn_mtp_weights *w = f->w->mtp;
    struct qn_op_draft_in in = {w, f->w->embed, hidden, f->sub.hidden_row, f->x, f->y};
    f->b->draft_in(f->d, &f->sub.s, &in);
    struct qn_forward_layer layer = {f->b, f->d, f->c.is_moe, f->x, f->y};
    qn_forward_layer(&layer, &f->sub.s, &w->layer, f->c.n_full, 0);
}

/* Rows of the positions the step decided (see step.h). with_last: also the row of the token just sampled. */
static void gather_rows(struct qn_forward *f, const struct qn_step *s, const struct qn_step_result *result,
                        bool with_last)
{
    struct sub *m = &f->sub;
    QN_CHECK(result || !s->n_decode);
    sub_begin(m, s);
    for (int i = 0; i < s->n_seq; i++) {
        const struct qn_step_seq *q = &s->seq[i];
        int first = m->s.n_row, last = q->n_row - 1;
        if (!q->wants_mtp) continue;
        if (i < s->n_decode) {
            last = result->n_accepted[i];
            for (int j = 1; j <= last; j++)
                add_row(m, s, s->tok[q->first_row + j], q->pos0 + j, q->first_row + j - 1,
                        q->first_row + j - 1, 0);
        } else {
            if (q->pos0 && q->mtp_from <= q->pos0) /* else there is no carry */
                add_row(m, s, s->tok[q->first_row], q->pos0, -1, q->first_row, -1);
            for (int j = 1; j < q->n_row; j++)
                add_row(m, s, s->tok[q->first_row + j], q->pos0 + j, q->first_row + j - 1,
                        q->first_row + j - 1, 0);
        }
        int32_t next = -1; /* also when the model had no finite logits: nothing to draft from */
        if (with_last && q->wants_token) next = result->token[q->first_logit + result->n_accepted[i]].tok;
        if (next >= 0) add_row(m, s, next, q->pos0 + last + 1, q->first_row + last, q->first_row + last, 0);
        add_seq(m, s, i, first, next >= 0);
    }
}

/* Wants the logits of the last row of each sequence that still drafts; returns how many. */
static int want_drafts(struct qn_forward *f, const struct qn_step *s, const struct qn_step_result *result,
                       int depth)
{
    struct sub *m = &f->sub;
    m->s.n_logit = 0;
    for (int i = 0; i < m->s.n_seq; i++) {
        struct qn_step_seq *q = &m->seq[i];
        if (!q->wants_token || q->n_draft_next <= depth) continue;
        m->logit_row[m->s.n_logit] = q->first_row + q->n_row - 1;
        m->logit_seq[m->s.n_logit++] = i;
        add_history(m, s, q, m->from[i], result, depth);
    }
    m->s.seen_tok = m->seen_tok;
    m->s.seen_count = m->seen_count;
    return m->s.n_logit;
}

/* Samples the wanted rows and notes the drafts. Where the layer has no finite logits drafting ends. */
static void note_drafts(struct qn_forward *f, struct qn_step_result *result, float *logits)
{
    struct sub *m = &f->sub;
    struct qn_step_result drawn = {.token = m->token};
    pick(f, &m->s, logits, &drawn);
    for (int i = 0; i < m->s.n_logit; i++) {
        int from = m->from[m->logit_seq[i]];
        if (m->token[i].tok >= 0) {
            result->draft[from * QN_MAX_DRAFT + result->n_drafted[from]++] = m->token[i].tok;
            continue;
        }
        m->seq[m->logit_seq[i]].n_draft_next = 0;
        if (!f->has_told_draft)
            qn_log(QN_LOG_WARN, "engine",
                   "the draft layer produced no finite logits; nothing is drafted there");
        f->has_told_draft = true;
    }
}

/* One more row for each sequence that wants a deeper draft: its last draft on its own hidden row. */
static int chain_rows(struct qn_forward *f, const struct qn_step *s, const struct qn_step_result *result,
                      int depth)
{
    struct sub *m = &f->sub;
    struct sub last = *m; /* sequences of the previous pass; the row arrays are rewritten front to back */
    int n_seq = last.s.n_seq, n = 0;
    int32_t *rope = xmalloc(((size_t)last.s.n_row * 3 + 1) * sizeof *rope);
    memcpy(rope, m->rope, (size_t)last.s.n_row * 3 * sizeof *rope);
    int n_row = last.s.n_row;
    sub_begin(m, s);
    for (int i = 0; i < n_seq; i++) {
        struct qn_step_seq q = last.seq[i];
        int from = last.from[i], row = q.first_row + q.n_row - 1;
        if (!q.wants_token || q.n_draft_next <= depth) continue;
        int pos = last.pos[row] + 1; /* row >= n: not yet rewritten */
        m->tok[n] = result->draft[from * QN_MAX_DRAFT + depth - 1];
        m->pos[n] = pos;
        m->row_seq[n] = n;
        m->hidden_row[n] = row;
        for (int axis = 0; s->rope_pos && axis < 3; axis++)
            m->rope[n * 3 + axis] = rope[axis * n_row + row] + 1;
        m->s.n_row++;
        add_seq(m, s, from, n++, true);
    }
    free(rope);
    return n;
}

static void run_drafts(struct qn_forward *f, const struct qn_step *s, struct qn_step_result *result)
{
    float *logits = f->logits + (s->all_logits ? (size_t)s->n_logit * (size_t)f->c.vocab : 0);
    struct qn_op_carry carry = {f->hidden};
    gather_rows(f, s, result, true);
    for (int depth = 0; f->sub.s.n_row; depth++) {
        sub_end(&f->sub, s);
        int n = want_drafts(f, s, result, depth);
        QN_CHECK(!s->all_logits || s->n_logit + n <= f->max_logits);
        run_mtp_layer(f, depth ? f->mtp_hidden : f->hidden);
        struct qn_op_head head = {f->w->head, f->w->mtp->norm, f->x, f->y, f->mtp_hidden, n ? logits : NULL};
        if (n) f->b->head(f->d, &f->sub.s, &head);
        if (!depth) f->b->carry(f->d, s, &carry); /* after its old value was used */
        if (!n) return;
        note_drafts(f, result, logits);
        if (depth + 1 == QN_MAX_DRAFT || !chain_rows(f, s, result, depth + 1)) return;
    }
    f->b->carry(f->d, s, &carry);
}

void qn_forward_run(struct qn_forward *f, const struct qn_step *s, struct qn_step_result *result)
{
    QN_CHECK(s->n_row <= f->max_rows && s->n_logit <= f->max_logits && s->n_seq <= f->max_seqs);
    QN_CHECK(!s->slice_to || (s->n_seq > s->n_decode && s->slice_from < s->slice_to &&
                              s->slice_to <= f->c.n_layer + 1 && !s->all_logits));
    struct qn_step few;
    for (int i = 0; i < s->n_seq; i++) result->n_accepted[i] = result->n_drafted[i] = 0;
    s = run_model(f, s, &few);
    bool wants_token = false, wants_mtp = false;
    for (int i = 0; i < s->n_seq; i++) {
        wants_token |= s->seq[i].wants_token;
        wants_mtp |= s->seq[i].wants_mtp;
    }
    if (wants_token && s->all_logits)
        pick_copies(f, s, result);
    else if (wants_token)
        pick(f, s, f->logits, result);
    if (wants_token) {
        struct qn_op_rows rows = {f->logits, result};
        f->b->verify(f->d, s, &rows);
    }
    if (wants_mtp && f->w->mtp) run_drafts(f, s, result);
    result->logits = s->all_logits ? f->logits : NULL;
    struct qn_err e = {0};
    result->fault = f->b->sync(f->d, &e);
    result->fault_text[0] = 0;
    if (result->fault) snprintf(result->fault_text, sizeof result->fault_text, "%.150s", e.text);
}

int qn_forward_mtp_logits(struct qn_forward *f, const struct qn_step *s, float *logits, struct qn_err *e)
{
    int rc = QN_OK;
    size_t v = (size_t)f->c.vocab, h = (size_t)f->c.hidden;
    struct qn_op_carry carry = {f->hidden};
    QN_FAIL_IF(!f->w->mtp, e, QN_UNSUPPORTED, "the model has no MTP layer");
    QN_FAIL_IF(s->n_seq != 1 || s->n_decode || s->all_logits || s->slice_to || !s->seq[0].wants_mtp, e,
               QN_INVAL, "MTP logits need a step of one prefill sequence with wants_mtp");
    struct qn_step few;
    run_model(f, s, &few);
    gather_rows(f, s, NULL, false);
    sub_end(&f->sub, s);
    if (f->sub.s.n_row) run_mtp_layer(f, f->hidden);
    f->b->carry(f->d, s, &carry);
    for (int first = 0; first < f->sub.s.n_row; first += f->max_logits) { /* as many rows as fit at a time */
        struct qn_step some = f->sub.s;
        some.n_row = some.n_logit = QN_MIN(f->max_logits, f->sub.s.n_row - first);
        for (int i = 0; i < some.n_row; i++) f->sub.logit_row[i] = i;
        size_t at = (size_t)first * h;
        struct qn_op_head head = {f->w->head, f->w->mtp->norm,    f->x + at,
                                  f->y + at,  f->mtp_hidden + at, f->logits};
        f->b->head(f->d, &some, &head);
        QN_TRY(f->b->download(f->d, logits + (size_t)first * v, f->logits,
                              (size_t)some.n_row * v * sizeof *logits, e));
    }
    QN_TRY(f->b->sync(f->d, e));
out:
    return rc;
}

struct qn_device *qn_forward_device(struct qn_forward *f)
{
    return f->d;
}

const struct qn_backend *qn_forward_backend(const struct qn_forward *f)
{
    return f->b;
}

bool qn_forward_has_mtp(const struct qn_forward *f)
{
    return f->w->mtp != NULL;
}

size_t qn_forward_weight_bytes(const struct qn_forward *f)
{
    return f->b->weight_bytes(f->d);
}
