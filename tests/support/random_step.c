/* Random steps.
 * SPDX-License-Identifier: Apache-2.0 */
#include "support/random_step.h"

#include "base/mem.h"
#include "base/rng.h"

const struct qn_step_limits random_limits = {.max_rows = 120,
                                             .max_logits = 120,
                                             .max_seqs = 7,
                                             .max_context = 900,
                                             .n_page = 200,
                                             .n_slot = 9,
                                             .n_lane = 7,
                                             .n_part = 5,
                                             .vocab = 77,
                                             .hidden = 6};

struct dice {
    uint64_t seed, n;
};

static int roll(struct dice *d, int sides)
{
    return (int)(qn_rng64(d->seed, d->n++, 0) % (uint64_t)sides);
}

static float roll_float(struct dice *d)
{
    return qn_rng_unit(qn_rng64(d->seed, d->n++, 1)) * 4 - 2;
}

/* The arrays of the largest step. */
struct arrays {
    struct qn_step_seq seq[7];
    int32_t tok[120], row_seq[120], pos[120], rope_pos[360], embed_row[120], pages[7 * 32], logit_row[120],
        logit_seq[120], mask_at[120], bias_tok[60], seen_tok[60], seen_count[60], score_tok[120];
    uint32_t mask[120 * 4];
    float embed[120 * 6], bias[60];
};

static void make_sample(struct dice *d, struct qn_step *s, struct arrays *a, struct qn_sample *p)
{
    *p = (struct qn_sample){.temperature = roll_float(d) + 2,
                            .top_p = 0.9f,
                            .min_p = 0.01f,
                            .top_k = roll(d, 50),
                            .presence = roll_float(d),
                            .frequency = roll_float(d),
                            .repetition = 1.1f,
                            .seed = qn_rng64(d->seed, d->n++, 2),
                            .n_top = roll(d, QN_MAX_TOP + 2) - 1,
                            .first_bias = s->n_bias,
                            .n_bias = roll(d, 9),
                            .first_seen = s->n_seen,
                            .n_seen = roll(d, 9)};
    for (int i = 0; i < p->n_bias; i++, s->n_bias++) {
        a->bias_tok[s->n_bias] = roll(d, random_limits.vocab);
        a->bias[s->n_bias] = roll_float(d);
    }
    for (int i = 0; i < p->n_seen; i++, s->n_seen++) {
        a->seen_tok[s->n_seen] = roll(d, random_limits.vocab);
        a->seen_count[s->n_seen] = roll(d, 5);
    }
}

static void add_logit(struct dice *d, struct qn_step *s, struct arrays *a, int row)
{
    int at = s->n_logit++;
    a->logit_row[at] = row;
    a->logit_seq[at] = s->n_seq;
    a->mask_at[at] = -1;
    a->score_tok[at] = roll(d, random_limits.vocab + 1) - 1;
    if (!s->mask_at || roll(d, 2)) return;
    for (int i = 0; i < s->mask_words; i++)
        a->mask[s->n_mask * s->mask_words + i] = (uint32_t)qn_rng64(d->seed, d->n++, 3);
    a->mask_at[at] = s->n_mask++;
}

static void add_rows(struct dice *d, struct qn_step *s, struct arrays *a, struct qn_step_seq *q)
{
    q->first_row = s->n_row;
    for (int i = 0; i < q->n_row; i++) {
        int row = s->n_row++;
        a->tok[row] = roll(d, random_limits.vocab);
        a->row_seq[row] = s->n_seq;
        a->pos[row] = q->pos0 + i;
        for (int k = 0; k < 3; k++) a->rope_pos[3 * row + k] = roll(d, 900);
        a->embed_row[row] = -1;
        if (!s->embed_row || roll(d, 2)) continue;
        for (int k = 0; k < random_limits.hidden; k++)
            a->embed[s->n_embed * random_limits.hidden + k] = roll_float(d);
        a->embed_row[row] = s->n_embed++;
    }
}

static void add_seq(struct dice *d, struct qn_step *s, struct arrays *a, bool is_decode)
{
    struct qn_step_seq *q = &a->seq[s->n_seq];
    *q = (struct qn_step_seq){.slot = s->n_seq + roll(d, 2), .lane = s->n_seq};
    q->n_draft = is_decode ? roll(d, QN_MAX_DRAFT + 1) : 0;
    q->n_row = is_decode ? 1 + q->n_draft : 1 + roll(d, 8);
    q->pos0 = roll(d, 3) || is_decode ? 10 + roll(d, 800) : 0;
    q->is_fresh = !q->pos0;
    q->n_commit = is_decode ? roll(d, QN_MAX_DRAFT + 2) : 0;
    q->wants_token = is_decode || (!s->slice_to && roll(d, 2));
    q->wants_mtp = roll(d, 2);
    q->mtp_from = q->wants_mtp ? roll(d, q->pos0 + 2) : INT32_MAX;
    q->n_draft_next = q->wants_token && q->wants_mtp ? roll(d, QN_MAX_DRAFT + 1) : 0;
    q->first_page = s->n_pages;
    q->n_page = QN_CEIL_DIV(q->pos0 + q->n_row + q->n_draft_next + 1, QN_PAGE);
    for (int i = 0; i < q->n_page; i++) a->pages[s->n_pages++] = roll(d, random_limits.n_page);
    if (s->rope_pos)
        for (int k = 0; k < 3; k++) q->rope_before[k] = roll(d, 900);
    add_rows(d, s, a, q);
    q->first_logit = s->n_logit;
    for (int i = 0; i < q->n_row; i++) {
        bool is_wanted = q->wants_token && (is_decode || i == q->n_row - 1);
        if (s->all_logits && i == q->n_row - 1) q->first_logit = s->n_logit;
        if (s->all_logits || is_wanted) add_logit(d, s, a, q->first_row + i);
    }
    make_sample(d, s, a, &q->sample);
    s->n_seq++;
    if (!is_decode) return;
    s->n_decode++;
    s->n_decode_row = s->n_row;
}

void random_step_make(struct random_step *out, uint64_t seed)
{
    struct dice d = {.seed = seed};
    struct arrays *a = xcalloc(1, sizeof *a);
    struct qn_step *s = &out->step;
    out->arrays = a;
    int kind = roll(&d, 4);
    *s = (struct qn_step){.tok = a->tok,
                          .row_seq = a->row_seq,
                          .pos = a->pos,
                          .seq = a->seq,
                          .pages = a->pages,
                          .logit_row = a->logit_row,
                          .logit_seq = a->logit_seq,
                          .mask = a->mask,
                          .mask_words = 4,
                          .bias_tok = a->bias_tok,
                          .bias = a->bias,
                          .seen_tok = a->seen_tok,
                          .seen_count = a->seen_count};
    if (roll(&d, 2)) s->mask_at = a->mask_at;
    if (roll(&d, 2)) s->rope_pos = a->rope_pos;
    if (roll(&d, 2)) {
        s->embed_row = a->embed_row;
        s->embed = a->embed;
    }
    if (kind == 0) { /* all rows of one prompt */
        s->all_logits = true;
        s->wants_raw = roll(&d, 2);
        if (!s->wants_raw) s->score_tok = a->score_tok;
        s->n_score_top = roll(&d, QN_MAX_TOP + 1);
        add_seq(&d, s, a, false);
        return;
    }
    int n_decode = roll(&d, 5), n_prefill = n_decode ? roll(&d, 3) : 1 + roll(&d, 2);
    for (int i = 0; i < n_decode; i++) add_seq(&d, s, a, true);
    for (int i = 0; i < n_prefill; i++) {
        if (kind == 1 && i == n_prefill - 1) { /* a slice */
            s->slice_from = roll(&d, 4);
            s->slice_to = s->slice_from + 1 + roll(&d, 5 - s->slice_from - 1);
        }
        add_seq(&d, s, a, false);
    }
}

void random_step_free(struct random_step *s)
{
    free(s->arrays);
}

void random_result_init(struct qn_step_result *r)
{
    *r = (struct qn_step_result){0};
    r->token = xcalloc(120, sizeof *r->token);
    r->score = xcalloc(120, sizeof *r->score);
    r->n_accepted = xcalloc(7, sizeof *r->n_accepted);
    r->n_drafted = xcalloc(7, sizeof *r->n_drafted);
    r->draft = xcalloc(7 * QN_MAX_DRAFT, sizeof *r->draft);
    r->logits = xcalloc(120 * 77, sizeof *r->logits);
}

static void make_token(struct dice *d, struct qn_step_token *t)
{
    *t = (struct qn_step_token){.tok = roll(d, random_limits.vocab + 1) - 1,
                                .logprob = roll_float(d),
                                .n_top = roll(d, QN_MAX_TOP + 1)};
    for (int i = 0; i < t->n_top; i++) {
        t->top_tok[i] = roll(d, random_limits.vocab);
        t->top_logprob[i] = roll_float(d);
    }
}

void random_result_make(struct qn_step_result *r, const struct qn_step *s, uint64_t seed)
{
    struct dice d = {.seed = seed};
    r->fault = roll(&d, 10) ? QN_OK : QN_DEVICE;
    snprintf(r->fault_text, sizeof r->fault_text, "%s", r->fault ? "scripted" : "");
    for (int i = 0; i < s->n_logit; i++) {
        make_token(&d, &r->token[i]);
        make_token(&d, &r->score[i]);
    }
    for (int i = 0; i < s->n_seq; i++) {
        r->n_accepted[i] = roll(&d, s->seq[i].n_draft + 1);
        r->n_drafted[i] = roll(&d, s->seq[i].n_draft_next + 1);
        for (int k = 0; k < QN_MAX_DRAFT; k++) r->draft[i * QN_MAX_DRAFT + k] = roll(&d, random_limits.vocab);
    }
    for (int i = 0; i < s->n_logit * random_limits.vocab; i++) r->logits[i] = roll_float(&d);
}

void random_result_fini(struct qn_step_result *r)
{
    free(r->token);
    free(r->score);
    free(r->n_accepted);
    free(r->n_drafted);
    free(r->draft);
    free(r->logits);
}
