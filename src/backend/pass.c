/* Passes of the draft layer.
 * SPDX-License-Identifier: Apache-2.0 */
#include "backend/pass.h"

#include "base/mem.h"

void qn_pass_init(struct qn_pass *p, int depth, int max_rows, int max_seqs)
{
    size_t rows = (size_t)max_rows, seqs = (size_t)max_seqs;
    *p = (struct qn_pass){.depth = depth, .max_rows = max_rows, .max_seqs = max_seqs};
    p->tok = xcalloc(rows, sizeof *p->tok);
    p->row_seq = xcalloc(rows, sizeof *p->row_seq);
    p->pos = xcalloc(rows, sizeof *p->pos);
    p->rope_pos = xcalloc(rows * 3, sizeof *p->rope_pos);
    p->embed_row = xcalloc(rows, sizeof *p->embed_row);
    p->logit_row = xcalloc(rows, sizeof *p->logit_row);
    p->logit_seq = xcalloc(rows, sizeof *p->logit_seq);
    p->hidden_row = xcalloc(rows, sizeof *p->hidden_row);
    p->pick = xcalloc(rows, sizeof *p->pick);
    p->need = xcalloc(rows, sizeof *p->need);
    p->seq = xcalloc(seqs, sizeof *p->seq);
    p->from = xcalloc(seqs, sizeof *p->from);
}

void qn_pass_fini(struct qn_pass *p)
{
    free(p->tok);
    free(p->row_seq);
    free(p->pos);
    free(p->rope_pos);
    free(p->embed_row);
    free(p->logit_row);
    free(p->logit_seq);
    free(p->hidden_row);
    free(p->pick);
    free(p->need);
    free(p->seq);
    free(p->from);
    *p = (struct qn_pass){0};
}

int qn_pass_count(const struct qn_step *s)
{
    int n = 0;
    for (int i = 0; i < s->n_seq; i++) {
        const struct qn_step_seq *q = &s->seq[i];
        if (q->wants_mtp) n = QN_MAX(n, 1);
        if (q->wants_mtp && q->wants_token) n = QN_MAX(n, q->n_draft_next);
    }
    return QN_MIN(n, QN_MAX_DRAFT);
}

struct row {
    int32_t tok, pos, hidden_row, pick, need, embed_row;
    const int32_t *rope_pos; /* [3] or NULL */
};

static void add_row(struct qn_pass *p, struct row row)
{
    int r = p->step.n_row++;
    QN_CHECK(p->step.n_row <= p->max_rows);
    p->tok[r] = row.tok;
    p->row_seq[r] = p->step.n_seq;
    p->pos[r] = row.pos;
    p->hidden_row[r] = row.hidden_row;
    p->pick[r] = row.pick;
    p->need[r] = row.need;
    p->embed_row[r] = row.embed_row;
    if (row.rope_pos) memcpy(p->rope_pos + 3 * r, row.rope_pos, 3 * sizeof *p->rope_pos);
}

/* The rows since first_row become a sequence. */
static void add_seq(struct qn_pass *p, const struct qn_step *s, int from, int first_row)
{
    int n = p->step.n_row - first_row;
    if (!n) return;
    QN_CHECK(p->step.n_seq < p->max_seqs);
    struct qn_step_seq *q = &p->seq[p->step.n_seq];
    *q = s->seq[from];
    q->first_row = first_row;
    q->n_row = n;
    q->pos0 = p->pos[first_row];
    q->sample.n_top = -1;
    p->from[p->step.n_seq++] = from;
}

/* Row j of the step's sequence q gives the row behind it: of the next token of the prompt, or of what is
 * picked there. */
static void plan_row(struct qn_pass *p, const struct qn_step *s, const struct qn_step_seq *q, int j,
                     bool is_decode)
{
    int at = q->first_row + j;
    struct row row = {.tok = -1,
                      .pos = q->pos0 + j + 1,
                      .hidden_row = at,
                      .pick = q->first_logit + (is_decode ? j : 0),
                      .need = is_decode ? j : 0,
                      .embed_row = -1,
                      .rope_pos = s->rope_pos ? s->rope_pos + 3 * at : NULL};
    if (!is_decode && j + 1 < q->n_row) {
        row.tok = s->tok[at + 1];
        row.pick = -1;
        if (s->embed_row) row.embed_row = s->embed_row[at + 1];
    }
    add_row(p, row);
}

static void plan_carry(struct qn_pass *p, const struct qn_step *s, const struct qn_step_seq *q)
{
    add_row(p, (struct row){.tok = s->tok[q->first_row],
                            .pos = q->pos0,
                            .hidden_row = -1,
                            .pick = -1,
                            .embed_row = s->embed_row ? s->embed_row[q->first_row] : -1,
                            .rope_pos = q->rope_before});
}

static void plan_first(struct qn_pass *p, const struct qn_step *s)
{
    for (int i = 0; i < s->n_seq; i++) {
        const struct qn_step_seq *q = &s->seq[i];
        bool is_decode = i < s->n_decode;
        int first = p->step.n_row, n = is_decode || q->wants_token ? q->n_row : q->n_row - 1;
        if (!q->wants_mtp) continue;
        if (!is_decode && q->pos0 && q->mtp_from <= q->pos0) plan_carry(p, s, q); /* else there is none */
        for (int j = 0; j < n; j++) plan_row(p, s, q, j, is_decode);
        add_seq(p, s, i, first);
    }
}

static void plan_next(struct qn_pass *p, const struct qn_step *s)
{
    for (int i = 0; i < s->n_seq; i++) {
        const struct qn_step_seq *q = &s->seq[i];
        int first = p->step.n_row;
        if (!q->wants_mtp || !q->wants_token || q->n_draft_next <= p->depth) continue;
        /* the position at most */
        add_row(p, (struct row){.tok = -1,
                                .pos = q->pos0 + q->n_row + p->depth,
                                .hidden_row = -1,
                                .pick = -1,
                                .embed_row = -1});
        add_seq(p, s, i, first);
    }
}

/* Wants the logits of the last row of each sequence that still drafts. */
static void want_logits(struct qn_pass *p)
{
    p->step.n_logit = 0;
    for (int i = 0; i < p->step.n_seq; i++) {
        const struct qn_step_seq *q = &p->seq[i];
        if (!q->wants_token || q->n_draft_next <= p->depth) continue;
        p->logit_row[p->step.n_logit] = q->first_row + q->n_row - 1;
        p->logit_seq[p->step.n_logit++] = i;
    }
}

void qn_pass_plan(struct qn_pass *p, const struct qn_step *s, bool all_logits)
{
    p->step = (struct qn_step){.at_pass = p->depth + 1,
                               .tok = p->tok,
                               .row_seq = p->row_seq,
                               .pos = p->pos,
                               .rope_pos = s->rope_pos ? p->rope_pos : NULL,
                               .embed_row = s->embed_row ? p->embed_row : NULL,
                               .embed = s->embed,
                               .n_embed = s->n_embed,
                               .seq = p->seq,
                               .pages = s->pages,
                               .n_pages = s->n_pages,
                               .logit_row = p->logit_row,
                               .logit_seq = p->logit_seq,
                               .bias_tok = s->bias_tok,
                               .bias = s->bias,
                               .n_bias = s->n_bias,
                               .seen_tok = s->seen_tok,
                               .seen_count = s->seen_count,
                               .n_seen = s->n_seen,
                               .all_logits = all_logits};
    if (p->depth)
        plan_next(p, s);
    else
        plan_first(p, s);
    if (!all_logits) {
        want_logits(p);
        return;
    }
    p->step.n_logit = p->step.n_row;
    for (int r = 0; r < p->step.n_row; r++) {
        p->logit_row[r] = r;
        p->logit_seq[r] = p->row_seq[r];
    }
}

static void keep_row(struct qn_pass *p, int r)
{
    int to = p->step.n_row++;
    p->tok[to] = p->tok[r];
    p->row_seq[to] = p->step.n_seq;
    p->pos[to] = p->pos[r];
    memmove(p->rope_pos + 3 * to, p->rope_pos + 3 * r, 3 * sizeof *p->rope_pos);
    p->embed_row[to] = p->embed_row[r];
    p->hidden_row[to] = p->hidden_row[r];
}

static void keep_seq(struct qn_pass *p, int i, int first_row, bool can_draft)
{
    if (p->step.n_row == first_row) return;
    struct qn_step_seq q = p->seq[i];
    q.first_row = first_row;
    q.n_row = p->step.n_row - first_row;
    q.pos0 = p->pos[first_row];
    q.wants_token &= can_draft;
    p->seq[p->step.n_seq] = q;
    p->from[p->step.n_seq++] = p->from[i];
}

static void settle_first(struct qn_pass *p, const struct qn_step_result *r, int n_seq)
{
    for (int i = 0; i < n_seq; i++) {
        const struct qn_step_seq q = p->seq[i];
        int first = p->step.n_row;
        bool can_draft = false;
        for (int at = q.first_row; at < q.first_row + q.n_row; at++) {
            if (p->pick[at] >= 0) {
                int n_accepted = r->n_accepted[p->from[i]];
                int32_t tok = p->need[at] <= n_accepted ? r->token[p->pick[at]].tok : -1;
                if (tok < 0) continue;
                p->tok[at] = tok;
                can_draft = p->need[at] == n_accepted;
            }
            keep_row(p, at);
        }
        keep_seq(p, i, first, can_draft);
    }
}

static void settle_next(struct qn_pass *p, const struct qn_pass *before, const struct qn_step_result *r,
                        int n_seq)
{
    for (int i = 0, b = 0; i < n_seq; i++) { /* both in the order of the step's sequences */
        while (b < before->step.n_seq && before->from[b] < p->from[i]) b++;
        if (b == before->step.n_seq) break;
        const struct qn_step_seq *q = &before->seq[b];
        if (before->from[b] != p->from[i] || !q->wants_token || q->n_draft_next <= p->depth) continue;
        int first = p->step.n_row, row = q->first_row + q->n_row - 1, at = p->seq[i].first_row;
        p->tok[at] = r->draft[p->from[i] * QN_MAX_DRAFT + p->depth - 1];
        p->pos[at] = before->pos[row] + 1;
        p->hidden_row[at] = row;
        for (int axis = 0; axis < 3; axis++)
            p->rope_pos[3 * at + axis] = before->rope_pos[3 * row + axis] + 1;
        keep_row(p, at);
        keep_seq(p, i, first, true);
    }
}

void qn_pass_settle(struct qn_pass *p, const struct qn_pass *before, const struct qn_step_result *r)
{
    int n_seq = p->step.n_seq;
    p->step.n_row = p->step.n_seq = 0;
    if (p->depth)
        settle_next(p, before, r, n_seq);
    else
        settle_first(p, r, n_seq);
    if (!p->step.all_logits) want_logits(p);
}

int qn_pass_history(const struct qn_pass *p, const struct qn_step *s, int i, const struct qn_step_result *r,
                    int32_t *out)
{
    int from = p->from[i], n = 0;
    const struct qn_step_seq *own = &s->seq[from];
    for (int j = 0; j <= r->n_accepted[from]; j++) out[n++] = r->token[own->first_logit + j].tok;
    for (int j = 0; j < p->depth; j++) out[n++] = r->draft[from * QN_MAX_DRAFT + j];
    return n;
}
