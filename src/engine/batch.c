/* Building steps.
 * SPDX-License-Identifier: Apache-2.0 */
#include "engine/batch.h"

#include "base/clock.h"
#include "engine/beside.h"
#include "text/grammar.h"
#include "base/mem.h"
#include "model/config.h"

static void *array(int n, size_t size)
{
    return xcalloc((size_t)n, size);
}

void qn_batch_init(struct qn_batch *b, const struct qn_device_options *d)
{
    int max_rows = d->max_rows, max_logits = d->max_logits, max_seqs = d->max_seqs, vocab = d->config->vocab;
    *b = (struct qn_batch){.max_seqs = max_seqs,
                           .max_rows = max_rows,
                           .max_logits = max_logits,
                           .vocab = vocab,
                           .hidden = d->config->hidden};
    b->part = array(max_seqs, sizeof *b->part);
    b->seq = array(max_seqs, sizeof *b->seq);
    b->tok = array(max_rows, sizeof *b->tok);
    b->row_seq = array(max_rows, sizeof *b->row_seq);
    b->pos = array(max_rows, sizeof *b->pos);
    b->logit_row = array(max_logits, sizeof *b->logit_row);
    b->logit_seq = array(max_logits, sizeof *b->logit_seq);
    b->mask_at = array(max_logits, sizeof *b->mask_at);
    b->mask_words = 2 * QN_CEIL_DIV(vocab, 64);
    b->score_tok = array(max_logits, sizeof *b->score_tok);
    b->score = array(max_logits, sizeof *b->score);
    b->is_stuck = array(max_logits, sizeof *b->is_stuck);
    b->result.token = array(max_logits, sizeof *b->result.token);
    b->result.n_accepted = array(max_seqs, sizeof *b->result.n_accepted);
    b->result.draft = array(max_seqs * QN_MAX_DRAFT, sizeof *b->result.draft);
    b->result.n_drafted = array(max_seqs, sizeof *b->result.n_drafted);
    b->work.result = &b->result;
}

void qn_batch_fini(struct qn_batch *b)
{
    free(b->part);
    free(b->seq);
    free(b->tok);
    free(b->row_seq);
    free(b->pos);
    free(b->rope_pos);
    free(b->embed_row);
    free(b->embed);
    free(b->logit_row);
    free(b->logit_seq);
    free(b->mask_at);
    free(b->mask);
    free(b->score_tok);
    free(b->score);
    free(b->is_stuck);
    free(b->result.token);
    free(b->result.n_accepted);
    free(b->result.draft);
    free(b->result.n_drafted);
    free(b->pages);
    free(b->bias_tok);
    free(b->bias);
    free(b->seen_tok);
    free(b->seen_count);
    free(b->logits);
    qn_chores_fini(&b->work.chores);
    *b = (struct qn_batch){0};
}

void qn_batch_begin(struct qn_batch *b)
{
    memset(&b->step, 0, sizeof b->step);
    b->n_pages = b->n_bias = b->n_seen = b->n_mask = b->n_embed = 0;
    b->has_media = false;
    b->work.step = NULL;
    b->work.mtp_logits = NULL;
    b->result.score = NULL;
    b->result.logits = NULL;
}

static void grow(int32_t **a, int *capacity, int need)
{
    if (need <= *capacity) return;
    *capacity = QN_MAX(need, QN_MAX(256, *capacity * 2));
    *a = xreallocarray(*a, (size_t)*capacity, sizeof **a);
}

static void add_sample(struct qn_batch *b, const struct qn_seq *s, struct qn_step_seq *q)
{
    q->sample = s->params->sample;
    q->sample.first_bias = b->n_bias;
    q->sample.n_bias = s->params->n_bias;
    if (s->params->n_bias) {
        int capacity = b->bias_capacity;
        grow(&b->bias_tok, &b->bias_capacity, b->n_bias + s->params->n_bias);
        if (capacity != b->bias_capacity)
            b->bias = xreallocarray(b->bias, (size_t)b->bias_capacity, sizeof *b->bias);
        memcpy(b->bias_tok + b->n_bias, s->params->bias_tok, (size_t)s->params->n_bias * sizeof *b->bias_tok);
        memcpy(b->bias + b->n_bias, s->params->bias, (size_t)s->params->n_bias * sizeof *b->bias);
        b->n_bias += s->params->n_bias;
    }
    q->sample.first_seen = b->n_seen;
    q->sample.n_seen = s->needs_seen ? s->seen.n : 0;
    if (q->sample.n_seen) {
        int need = b->n_seen + s->seen.n, capacity = b->seen_capacity;
        grow(&b->seen_tok, &capacity, need);
        grow(&b->seen_count, &b->seen_capacity, need);
        memcpy(b->seen_tok + b->n_seen, s->seen.tok, (size_t)s->seen.n * sizeof *b->seen_tok);
        memcpy(b->seen_count + b->n_seen, s->seen.count, (size_t)s->seen.n * sizeof *b->seen_count);
        b->n_seen = need;
    }
}

static struct qn_step_seq *add_seq(struct qn_batch *b, struct qn_seq *s, int n_row, int n_draft_next)
{
    struct qn_step *t = &b->step;
    qn_seq_check(s);
    QN_CHECK(t->n_seq < b->max_seqs && t->n_row + n_row <= b->max_rows);
    int n_page = QN_CEIL_DIV(s->n_done + n_row + n_draft_next + 1, QN_PAGE);
    QN_CHECK(n_page <= s->hold.n_page);
    struct qn_step_seq *q = &b->seq[t->n_seq];
    *q = (struct qn_step_seq){.first_row = t->n_row,
                              .n_row = n_row,
                              .pos0 = s->n_done,
                              .first_page = b->n_pages,
                              .n_page = n_page,
                              .slot = s->hold.slot,
                              .lane = s->hold.lane,
                              .n_commit = s->n_commit,
                              .is_fresh = s->is_fresh,
                              .n_draft_next = n_draft_next};
    grow(&b->pages, &b->pages_capacity, b->n_pages + n_page);
    memcpy(b->pages + b->n_pages, s->hold.pages, (size_t)n_page * sizeof *b->pages);
    b->n_pages += n_page;
    b->has_media |= s->params->n_span > 0;
    for (int i = 0; i < n_row; i++) {
        b->row_seq[t->n_row + i] = t->n_seq;
        b->pos[t->n_row + i] = s->n_done + i;
    }
    return q;
}

/* ready: the mask was made beside the step. */
static void add_logit(struct qn_batch *b, int row, const struct qn_pick *pick,
                      const struct qn_beside_job *ready)
{
    int at = b->step.n_logit++;
    QN_CHECK(at < b->max_logits);
    b->logit_row[at] = row;
    b->logit_seq[at] = b->step.n_seq;
    b->mask_at[at] = -1;
    b->score_tok[at] = -1;
    b->is_stuck[at] = false;
    if (!pick || (ready ? ready->is_free : qn_pick_is_free(pick))) return;
    if (b->n_mask == b->mask_capacity) {
        b->mask_capacity = QN_MAX(8, 2 * b->mask_capacity);
        b->mask = xreallocarray(b->mask, (size_t)b->mask_capacity, (size_t)b->mask_words * sizeof *b->mask);
    }
    uint32_t *words = b->mask + (size_t)b->n_mask * (size_t)b->mask_words;
    if (ready) {
        memcpy(words, ready->words, (size_t)b->mask_words * sizeof *words);
        b->is_stuck[at] = ready->is_stuck;
    } else {
        int64_t from_us = pick->mask ? qn_now_us() : 0;
        b->is_stuck[at] = !qn_pick_mask(pick, words, b->vocab);
        if (pick->mask && qn_now_us() - from_us > QN_BESIDE_SLOW_US)
            qn_grammar_set_heavy(pick->params->constraint);
    }
    b->mask_at[at] = b->n_mask++;
}

void qn_batch_add_decode(struct qn_batch *b, struct qn_seq *s, int max_draft, bool wants_mtp,
                         int n_draft_next)
{
    /* Walk the rules along the drafts: a forced token takes the draft's place, a draft that is not allowed
     * ends them, a stop token is the last. */
    struct qn_pick walk = s->pick;
    int n_draft = s->beside ? 0 : QN_MIN(s->n_draft, max_draft);
    int row = b->step.n_row;
    QN_CHECK(b->step.n_seq == b->step.n_decode);
    int first_logit = b->step.n_logit;
    b->tok[row] = s->tok[s->n_done];
    add_logit(b, row, &walk, s->beside);
    int n = 0;
    bool is_off = false;
    while (n < n_draft) {
        int32_t forced = qn_pick_forced(&walk);
        if (forced < 0) forced = qn_pick_guess(&walk);
        int32_t tok = forced >= 0 ? forced : s->draft[n];
        if (!qn_pick_allows(&walk, tok)) break;
        bool is_last = qn_pick_stops(&walk, tok), is_other = tok != s->draft[n];
        qn_pick_advance(&walk, tok);
        b->tok[row + ++n] = tok;
        add_logit(b, row + n, &walk, NULL);
        if (is_last) break;
        is_off |= is_other; /* the drafts behind are of another path: only what is forced goes on */
        if (is_off && qn_pick_forced(&walk) < 0 && qn_pick_guess(&walk) < 0) break;
    }
    struct qn_step_seq *q = add_seq(b, s, 1 + n, n_draft_next);
    q->wants_token = true;
    q->wants_mtp = wants_mtp;
    q->n_draft = n;
    q->first_logit = first_logit;
    add_sample(b, s, q);
    b->part[b->step.n_seq] = (struct qn_batch_part){
        .seq = s, .is_decode = true, .wants_token = true, .n_row = 1 + n, .n_draft = n};
    b->part[b->step.n_seq].is_lookup = n && s->draft_is_lookup;
    b->part[b->step.n_seq].has_hole = !qn_seq_has_mtp(s);
    q->mtp_from = qn_seq_keep_mtp(s, wants_mtp);
    b->step.n_row += 1 + n;
    b->step.n_seq++;
    b->step.n_decode++;
    b->step.n_decode_row = b->step.n_row;
}

static void want_raw(struct qn_batch *b, int n_row)
{
    size_t need = (size_t)n_row * (size_t)b->vocab;
    if (need > b->logits_capacity) {
        b->logits = xreallocarray(b->logits, need, sizeof *b->logits);
        b->logits_capacity = need;
    }
    b->result.logits = b->logits;
    b->step.wants_raw = true;
}

/* Log-probabilities of the prompt's tokens that have not been told yet: the row of a position tells of the
 * next. */
static void want_scores(struct qn_batch *b, const struct qn_seq *s, int n_row)
{
    for (int i = 0; i < n_row; i++) {
        int pos = s->n_done + i + 1;
        if (pos >= s->n_prompt_scored && pos < s->n_prompt) b->score_tok[i] = s->tok[pos];
    }
    b->step.n_score_top = QN_MAX(s->params->prompt_top, 0);
    b->result.score = b->score;
}

static void add_prefill(struct qn_batch *b, struct qn_seq *s, const struct qn_batch_rows *rows, bool is_open)
{
    int row = b->step.n_row, n_row = rows->n_row;
    bool wants_token = s->n_done + n_row == s->n_tok && !s->job && !is_open;
    QN_CHECK(!b->step.slice_to);
    memcpy(b->tok + row, s->tok + s->n_done, (size_t)n_row * sizeof *b->tok);
    int first_logit = b->step.n_logit;
    if (rows->all_logits) {
        QN_CHECK(b->step.n_seq == 0);
        for (int i = 0; i < n_row; i++)
            add_logit(b, row + i, wants_token && i == n_row - 1 ? &s->pick : NULL, s->beside);
        first_logit = n_row - 1;
        b->step.all_logits = true;
        if (s->job && !s->wants_scores)
            want_raw(b, n_row);
        else
            want_scores(b, s, n_row);
    } else if (wants_token) {
        add_logit(b, row + n_row - 1, &s->pick, s->beside);
    }
    struct qn_step_seq *q = add_seq(b, s, n_row, wants_token ? rows->n_draft_next : 0);
    q->wants_token = wants_token;
    q->wants_mtp = rows->wants_mtp;
    q->mtp_from = qn_seq_keep_mtp(s, rows->wants_mtp);
    q->first_logit = first_logit;
    if (wants_token)
        add_sample(b, s, q);
    else
        q->sample = (struct qn_sample){.top_p = 1, .repetition = 1, .n_top = -1};
    b->part[b->step.n_seq] =
        (struct qn_batch_part){.seq = s, .wants_token = wants_token, .n_row = n_row, .is_open = is_open};
    b->step.n_row += n_row;
    b->step.n_seq++;
}

void qn_batch_add_prefill(struct qn_batch *b, struct qn_seq *s, const struct qn_batch_rows *rows)
{
    add_prefill(b, s, rows, false);
}

void qn_batch_add_slice(struct qn_batch *b, struct qn_seq *s, int slice_to, int n_part, int n_draft_next)
{
    struct qn_batch_rows rows = {
        .n_row = s->n_slice_row, .wants_mtp = s->slice_keeps_mtp, .n_draft_next = n_draft_next};
    add_prefill(b, s, &rows, slice_to < n_part);
    b->step.slice_from = s->slice_part;
    b->step.slice_to = slice_to;
}

/* --- media --- */

static void grow_embeds(struct qn_batch *b, int need)
{
    if (need <= b->embed_capacity) return;
    b->embed_capacity = QN_MIN(QN_MAX(need, 2 * b->embed_capacity), b->max_rows);
    b->embed = xreallocarray(b->embed, (size_t)b->embed_capacity, (size_t)b->hidden * sizeof *b->embed);
}

/* Embeddings for rows of media. */
static void add_embeds(struct qn_batch *b, const struct qn_seq *s, const struct qn_step_seq *q)
{
    const struct qn_media_span *list = s->params->span;
    int end = q->pos0 + q->n_row, n_span = s->params->n_span;
    for (int k = qn_spans_find(list, n_span, q->pos0); k < n_span && list[k].first < end; k++) {
        const struct qn_media_span *m = &list[k];
        int from = QN_MAX(q->pos0, m->first), n = QN_MIN(end, m->first + m->n_tok) - from;
        const float *rows = m->embeds->rows + (size_t)(m->first_embed + from - m->first) * (size_t)b->hidden;
        grow_embeds(b, b->n_embed + n);
        memcpy(b->embed + (size_t)b->n_embed * (size_t)b->hidden, rows,
               (size_t)n * (size_t)b->hidden * sizeof *rows);
        for (int i = 0; i < n; i++) b->embed_row[q->first_row + from - q->pos0 + i] = b->n_embed++;
    }
}

/* Rope positions of all rows, embeddings of those that have their own. A slice in the middle of the model
 * needs none. */
static void add_media(struct qn_batch *b)
{
    struct qn_step *t = &b->step;
    if (!b->rope_pos) {
        b->rope_pos = array(3 * b->max_rows, sizeof *b->rope_pos);
        b->embed_row = array(b->max_rows, sizeof *b->embed_row);
    }
    for (int i = 0; i < t->n_seq; i++) {
        const struct qn_request_params *p = b->part[i].seq->params;
        struct qn_step_seq *q = &b->seq[i];
        for (int k = 0; k < q->n_row; k++) {
            qn_spans_rope(p->span, p->n_span, q->pos0 + k, b->rope_pos + 3 * (size_t)(q->first_row + k));
            b->embed_row[q->first_row + k] = -1;
        }
        if (q->pos0) qn_spans_rope(p->span, p->n_span, q->pos0 - 1, q->rope_before);
        bool is_amid = i == t->n_seq - 1 && t->slice_from && b->part[i].is_open;
        if (!is_amid) add_embeds(b, b->part[i].seq, q);
    }
    t->rope_pos = b->rope_pos;
    t->embed_row = b->n_embed ? b->embed_row : NULL;
    t->embed = b->embed;
    t->n_embed = b->n_embed;
}

void qn_batch_end(struct qn_batch *b)
{
    struct qn_step *t = &b->step;
    t->tok = b->tok;
    t->row_seq = b->row_seq;
    t->pos = b->pos;
    t->seq = b->seq;
    t->pages = b->pages;
    t->logit_row = b->logit_row;
    t->logit_seq = b->logit_seq;
    t->mask_at = b->n_mask ? b->mask_at : NULL;
    t->mask = b->mask;
    t->n_mask = b->n_mask;
    t->mask_words = b->mask_words;
    t->bias_tok = b->bias_tok;
    t->bias = b->bias;
    t->n_bias = b->n_bias;
    t->seen_tok = b->seen_tok;
    t->seen_count = b->seen_count;
    t->n_seen = b->n_seen;
    t->n_pages = b->n_pages;
    t->score_tok = b->result.score ? b->score_tok : NULL;
    if (b->has_media) add_media(b);
    b->result.fault = QN_OK;
    b->work.step = t;
}
