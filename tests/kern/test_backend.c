/* Does a back end do what ref does? Every operation of the table by name, over random steps (fresh and going
 * on, decode with some drafts accepted, prefill, in any mix, pages scattered), then whole random steps with
 * copies, snapshots, slices and drafts between them.
 *
 *   kern_backend [BACKEND [OPERATION]]     default: cpu, all
 *
 * A new back end starts by running this red. Float activations and KV, so that what differs is the order of
 * sums: outputs within 2e-5 of the largest of ref's, picks equal. QN_SEED: another order.
 * SPDX-License-Identifier: Apache-2.0 */
#include <math.h>

#include "base/mem.h"
#include "base/rng.h"
#include "engine/draft.h"
#include "engine/load.h"
#include "support/rig.h"
#include "support/test.h"

enum { N_SEQ = 4, N_PAGE = 8, MAX_ROWS = 96, N_STEP = 24 };

static const char *const checkpoints[] = {"dense-ratio4-odd", "dense-untied-mtp", "moe-expert-mtp"};

static uint64_t seed = 11, n_draw;
static const char *backend_name = "cpu", *only;
static int n_checked;

static int below(int n)
{
    return (int)(qn_rng64(seed, 0, n_draw++) % (uint64_t)n);
}

static void fill(float *p, size_t n, float scale)
{
    for (size_t i = 0; i < n; i++) p[i] = (qn_rng_unit(qn_rng64(seed, 1, n_draw++)) * 2 - 1) * scale;
}

/* One of the two devices. */
struct side {
    const struct qn_backend *b;
    struct qn_device *d;
    struct qn_weights *w;
    float *x, *y, *hidden, *logits; /* on the device */
};

static struct qn_model *model;
static const struct qn_config *c;
static struct side sides[2]; /* ref, the other */
static size_t H, V;

static void open_side(struct side *s, const char *name)
{
    struct qn_err e = {0};
    s->b = qn_backend_get(name);
    if (!s->b) fail_msg("no back end '%s' in this build", name);
    struct qn_device_options o = {.config = c,
                                  .n_thread = 2,
                                  .act = QN_ACT_F32,
                                  .kv = QN_KV_F32,
                                  .max_rows = MAX_ROWS + N_SEQ,
                                  .max_logits = MAX_ROWS,
                                  .max_seqs = N_SEQ,
                                  .max_context = N_PAGE * QN_PAGE,
                                  .n_page = N_SEQ * N_PAGE,
                                  .n_slot = 2 * N_SEQ,
                                  .n_lane = N_SEQ,
                                  .has_mtp = qn_model_has_mtp(model),
                                  .poison = true};
    if (s->b->open(&s->d, &o, &e)) fail_msg("%s: %s", name, e.text);
    struct qn_load l = {.model = model, .backend = s->b, .device = s->d, .with_mtp = o.has_mtp};
    if (qn_load_weights(&s->w, &l, &e)) fail_msg("%s: %s", name, e.text);
    size_t rows = (size_t)(MAX_ROWS + N_SEQ) * H * sizeof(float);
    s->x = s->b->alloc(s->d, rows);
    s->y = s->b->alloc(s->d, rows);
    s->hidden = s->b->alloc(s->d, rows);
    s->logits = s->b->alloc(s->d, (size_t)MAX_ROWS * V * sizeof(float));
    if (!s->x || !s->y || !s->hidden || !s->logits) fail_msg("%s: no memory", name);
}

static void close_side(struct side *s)
{
    s->b->free(s->d, s->x);
    s->b->free(s->d, s->y);
    s->b->free(s->d, s->hidden);
    s->b->free(s->d, s->logits);
    s->b->close(s->d);
    qn_load_free(s->w);
}

static void put(const struct side *s, float *to, const float *from, size_t n)
{
    struct qn_err e = {0};
    if (s->b->upload(s->d, to, from, n * sizeof *from, &e)) fail_msg("upload: %s", e.text);
}

static float *get(const struct side *s, const float *from, size_t n)
{
    struct qn_err e = {0};
    float *p = xmalloc((n + 1) * sizeof *p);
    if (s->b->sync(s->d, &e)) fail_msg("%s: %s", s->b->name, e.text);
    if (s->b->download(s->d, p, from, n * sizeof *p, &e)) fail_msg("download: %s", e.text);
    return p;
}

static void near(const char *what, const float *want, const float *got, size_t n)
{
    double largest = 1e-6, worst = 0;
    size_t at = 0;
    for (size_t i = 0; i < n; i++) largest = fmax(largest, fabs((double)want[i]));
    for (size_t i = 0; i < n; i++) {
        double d = fabs((double)want[i] - got[i]);
        if (d > worst || isnan(got[i])) worst = isnan(got[i]) ? INFINITY : d, at = i;
    }
    if (worst > 2e-5 * largest)
        fail_msg("%s: value %zu is %g, ref has %g (largest %g, seed %llu)", what, at, (double)got[at],
                 (double)want[at], largest, (unsigned long long)seed);
    n_checked++;
}

/* Device memory of both sides is equal enough. */
static void same(const char *what, const float *const p[2], size_t n)
{
    float *want = get(&sides[0], p[0], n), *got = get(&sides[1], p[1], n);
    near(what, want, got, n);
    free(want);
    free(got);
}

static void same_x(const char *what, int n_row)
{
    same(what, (const float *[]){sides[0].x, sides[1].x}, (size_t)n_row * H);
}

static void same_y(const char *what, int n_row)
{
    same(what, (const float *[]){sides[0].y, sides[1].y}, (size_t)n_row * H);
}

static void random_xy(int n_row)
{
    size_t n = (size_t)n_row * H;
    float *p = xmalloc(2 * n * sizeof *p);
    fill(p, 2 * n, 1);
    for (int i = 0; i < 2; i++) {
        put(&sides[i], sides[i].x, p, n);
        put(&sides[i], sides[i].y, p + n, n);
    }
    free(p);
}

/* --- random steps --- */

struct timeline {
    int pos, n_commit;
    bool is_known; /* the slot holds its state */
};

struct walk {
    struct timeline line[N_SEQ];
    struct qn_step s;
    struct qn_step_seq seq[N_SEQ];
    int32_t tok[MAX_ROWS], row_seq[MAX_ROWS], pos[MAX_ROWS], rope[3 * MAX_ROWS], logit_row[MAX_ROWS],
        logit_seq[MAX_ROWS], pages[N_SEQ * N_PAGE];
    int line_of[N_SEQ];
    bool has_rope;
};

static void add_seq(struct walk *w, int i, bool is_decode)
{
    struct timeline *t = &w->line[i];
    int room = N_PAGE * QN_PAGE - t->pos - 12;
    int n = is_decode ? 1 + below(4) : 1 + below(QN_MIN(20, room));
    struct qn_step_seq *q = &w->seq[w->s.n_seq];
    *q = (struct qn_step_seq){.first_row = w->s.n_row,
                              .n_row = n,
                              .pos0 = t->pos,
                              .first_page = w->s.n_seq * N_PAGE,
                              .n_page = N_PAGE,
                              .slot = i,
                              .lane = i,
                              .n_commit = t->n_commit,
                              .is_fresh = !t->is_known,
                              .wants_token = true,
                              .n_draft = is_decode ? n - 1 : 0,
                              .first_logit = w->s.n_logit,
                              .sample = {.top_p = 1, .repetition = 1, .n_top = 3}};
    for (int axis = 0; axis < 3; axis++) q->rope_before[axis] = t->pos + axis - 1;
    for (int p = 0; p < N_PAGE; p++)
        w->pages[w->s.n_seq * N_PAGE + p] = (p * 3 % N_PAGE) * N_SEQ + i; /* scattered */
    for (int j = 0; j < n; j++, w->s.n_row++) {
        int r = w->s.n_row;
        w->tok[r] = below((int)V);
        w->row_seq[r] = w->s.n_seq;
        w->pos[r] = t->pos + j;
        for (int axis = 0; axis < 3; axis++) w->rope[3 * r + axis] = t->pos + j + axis; /* any three */
        if (!is_decode && j < n - 1) continue;
        w->logit_row[w->s.n_logit] = r;
        w->logit_seq[w->s.n_logit++] = w->s.n_seq;
    }
    w->line_of[w->s.n_seq++] = i;
    if (is_decode) w->s.n_decode++, w->s.n_decode_row = w->s.n_row;
}

static void begin_walk(struct walk *w)
{
    memset(w, 0, sizeof *w);
    w->has_rope = below(2);
}

/* The next step: decode sequences first; at least one sequence. */
static const struct qn_step *next_step(struct walk *w)
{
    bool is_decode[N_SEQ], is_in[N_SEQ];
    w->s = (struct qn_step){.tok = w->tok,
                            .row_seq = w->row_seq,
                            .pos = w->pos,
                            .rope_pos = w->has_rope ? w->rope : NULL,
                            .seq = w->seq,
                            .pages = w->pages,
                            .n_pages = N_SEQ * N_PAGE,
                            .logit_row = w->logit_row,
                            .logit_seq = w->logit_seq};
    for (int i = 0; i < N_SEQ; i++) {
        if (w->line[i].pos > N_PAGE * QN_PAGE - 40) w->line[i] = (struct timeline){0}; /* the slot anew */
        is_decode[i] = w->line[i].is_known && below(2);
        is_in[i] = below(3) > 0;
    }
    is_in[below(N_SEQ)] = true;
    for (int i = 0; i < N_SEQ; i++)
        if (is_in[i] && is_decode[i]) add_seq(w, i, true);
    for (int i = 0; i < N_SEQ; i++)
        if (is_in[i] && !is_decode[i]) add_seq(w, i, false);
    return &w->s;
}

/* What a step left: prefill rows are committed, of decode rows some were accepted. */
static void end_step(struct walk *w)
{
    for (int i = 0; i < w->s.n_seq; i++) {
        struct timeline *t = &w->line[w->line_of[i]];
        t->is_known = true;
        t->n_commit = i < w->s.n_decode ? 1 + below(w->seq[i].n_row) : 0;
        t->pos += i < w->s.n_decode ? t->n_commit : w->seq[i].n_row;
    }
}

struct results {
    struct qn_step_result r;
    struct qn_step_token token[MAX_ROWS], score[MAX_ROWS];
    int32_t n_accepted[N_SEQ], draft[N_SEQ * QN_MAX_DRAFT], n_drafted[N_SEQ];
};
static struct results results[2];

static void begin(const struct qn_step *s, struct qn_pass *pass[2], int n_pass)
{
    for (int i = 0; i < 2; i++) {
        struct results *r = &results[i];
        memset(r, 0, sizeof *r);
        r->r = (struct qn_step_result){.token = r->token,
                                       .n_accepted = r->n_accepted,
                                       .draft = r->draft,
                                       .n_drafted = r->n_drafted,
                                       .score = s->score_tok ? r->score : NULL};
        sides[i].b->begin(sides[i].d, s, pass ? pass[i] : NULL, n_pass, &r->r);
    }
}

static void end(void)
{
    struct qn_err e = {0};
    for (int i = 0; i < 2; i++)
        if (sides[i].b->sync(sides[i].d, &e)) fail_msg("%s: %s", sides[i].b->name, e.text);
}

static int first_layer(bool is_full)
{
    for (int i = 0; i < c->n_layer; i++)
        if (c->is_full[i] == is_full) return i;
    return -1;
}

/* --- the operations --- */

static void op_embed(void)
{
    struct walk w;
    float *own = xmalloc(4 * H * sizeof *own);
    int32_t embed_row[MAX_ROWS];
    begin_walk(&w);
    for (int run = 0; run < 6; run++) {
        next_step(&w);
        fill(own, 4 * H, 1);
        for (int r = 0; r < w.s.n_row; r++) embed_row[r] = run % 2 && below(2) ? below(4) : -1;
        w.s.embed = own;
        w.s.n_embed = 4;
        w.s.embed_row = run % 2 ? embed_row : NULL;
        begin(&w.s, NULL, 0);
        for (int i = 0; i < 2; i++) {
            struct qn_op_embed op = {sides[i].w->embed, 0, c->vocab, sides[i].x, sides[i].y};
            if (run > 3) op.first = c->vocab / 4, op.n = c->vocab / 2; /* a part of the vocabulary */
            sides[i].b->embed(sides[i].d, &w.s, &op);
        }
        end();
        same_x("embed, x", w.s.n_row);
        same_y("embed, y", w.s.n_row);
        end_step(&w);
    }
    free(own);
}

static void run_attn(const struct side *s, const struct qn_step *t, const struct qn_layer_weights *l,
                     int kv_layer)
{
    struct qn_op_attn_in in = {l, s->x, s->y, kv_layer};
    struct qn_op_attn decode = {l, kv_layer, 0, t->n_decode},
                      prefill = {l, kv_layer, t->n_decode, t->n_seq - t->n_decode};
    struct qn_op_attn_out out = {l, s->y};
    s->b->attn_in(s->d, t, &in);
    if (decode.n_seq) s->b->attn_decode(s->d, t, &decode);
    if (prefill.n_seq) s->b->attn_prefill(s->d, t, &prefill);
    s->b->attn_out(s->d, t, &out);
}

static void run_gdn(const struct side *s, const struct qn_step *t, const struct qn_layer_weights *l)
{
    struct qn_op_gdn_in in = {l, s->x, s->y, 0};
    struct qn_op_gdn decode = {l, 0, 0, t->n_decode}, prefill = {l, 0, t->n_decode, t->n_seq - t->n_decode};
    struct qn_op_gdn_out out = {l, s->y};
    s->b->gdn_in(s->d, t, &in);
    if (decode.n_seq) s->b->gdn_decode(s->d, t, &decode);
    if (prefill.n_seq) s->b->gdn_prefill(s->d, t, &prefill);
    s->b->gdn_out(s->d, t, &out);
}

static void copies(struct walk *w);

/* Rows through the first layer of a kind, step after step, with copies of pages and states between. */
static void walk_layer(bool is_full, bool has_copies)
{
    int layer = first_layer(is_full);
    if (layer < 0) return;
    struct walk w;
    begin_walk(&w);
    for (int run = 0; run < N_STEP; run++) {
        next_step(&w);
        random_xy(w.s.n_row);
        begin(&w.s, NULL, 0);
        for (int i = 0; i < 2; i++) {
            const struct qn_layer_weights *l = &sides[i].w->layers[layer];
            if (is_full)
                run_attn(&sides[i], &w.s, l, 0);
            else
                run_gdn(&sides[i], &w.s, l);
        }
        end();
        same_x(is_full ? "attention, x" : "delta net, x", w.s.n_row);
        same_y(is_full ? "attention, y" : "delta net, y", w.s.n_row);
        end_step(&w);
        if (has_copies) copies(&w);
    }
}

static void op_attn(void)
{
    walk_layer(true, false);
}

static void op_gdn(void)
{
    walk_layer(false, false);
}

/* A timeline moves: its state through flush, copy, or out to the host and back; a page likewise. */
static void copies(struct walk *w)
{
    int from = below(N_SEQ), way = below(3);
    struct timeline *t = &w->line[from];
    if (!t->is_known) return;
    for (int i = 0; i < 2; i++) {
        const struct side *s = &sides[i];
        struct qn_device_sizes size;
        struct qn_device_options o = {.config = c,
                                      .kv = QN_KV_F32,
                                      .max_rows = MAX_ROWS + N_SEQ,
                                      .max_logits = MAX_ROWS,
                                      .max_seqs = N_SEQ,
                                      .has_mtp = qn_model_has_mtp(model)};
        struct qn_err e = {0};
        s->b->sizes(&o, &size);
        s->b->state_flush(s->d, from, from, t->n_commit);
        int page = from; /* the sequence's page 0 is page `from` of the pool; the last one is scratch */
        struct qn_copy there = {from, N_SEQ + from, QN_PAGE}, back = {N_SEQ + from, from, QN_PAGE};
        if (way == 0) {
            s->b->state_copy(s->d, &there, 1);
            s->b->state_zero(s->d, from);
            s->b->state_copy(s->d, &back, 1);
        } else if (way == 1) {
            void *state = xmalloc(size.slot_bytes), *kv = xmalloc(size.page_bytes);
            s->b->state_read(s->d, from, state);
            s->b->kv_read(s->d, page, kv);
            if (s->b->sync(s->d, &e)) fail_msg("%s", e.text);
            s->b->state_zero(s->d, from);
            s->b->state_write(s->d, from, state);
            s->b->kv_write(s->d, page, kv);
            if (s->b->sync(s->d, &e)) fail_msg("%s", e.text);
            free(state);
            free(kv);
        } else { /* through a page that nobody has: line N_SEQ-1 of the highest page, when it is short */
            int spare = (N_PAGE - 1) * 3 % N_PAGE * N_SEQ + from;
            if (t->pos > (N_PAGE - 1) * QN_PAGE - 24) continue;
            struct qn_copy out = {page, spare, QN_PAGE}, in = {spare, page, QN_PAGE};
            s->b->kv_copy(s->d, &out, 1);
            s->b->kv_copy(s->d, &in, 1);
        }
    }
    t->n_commit = 0;
}

static void op_state(void)
{
    walk_layer(false, true);
}

static void op_kv(void)
{
    walk_layer(true, true);
}

static void op_ffn(void)
{
    for (int n_row = 1; n_row <= 70; n_row += 23) {
        int32_t zeros[MAX_ROWS] = {0}, pos[MAX_ROWS], pages[N_PAGE];
        for (int r = 0; r < n_row; r++) pos[r] = r;
        for (int p = 0; p < N_PAGE; p++) pages[p] = p;
        struct qn_step_seq seq = {.n_row = n_row, .n_page = N_PAGE, .is_fresh = true};
        struct qn_step s = {.n_row = n_row,
                            .n_seq = 1,
                            .tok = zeros,
                            .row_seq = zeros,
                            .pos = pos,
                            .seq = &seq,
                            .pages = pages,
                            .n_pages = N_PAGE};
        random_xy(n_row);
        begin(&s, NULL, 0);
        for (int i = 0; i < 2; i++) {
            struct qn_op_ffn op = {&sides[i].w->layers[0], sides[i].x, sides[i].y};
            if (c->is_moe)
                sides[i].b->moe(sides[i].d, &s, &op);
            else
                sides[i].b->mlp(sides[i].d, &s, &op);
        }
        end();
        same_x("ffn, x", n_row);
        same_y("ffn, y", n_row);
    }
}

static void op_head(void)
{
    struct walk w;
    begin_walk(&w);
    for (int run = 0; run < 6; run++) {
        next_step(&w);
        random_xy(w.s.n_row);
        begin(&w.s, NULL, 0);
        for (int i = 0; i < 2; i++) {
            const struct side *s = &sides[i];
            struct qn_op_head head = {s->w->final_norm, s->x, s->y, s->hidden};
            struct qn_op_logits logits = {s->w->head, s->hidden, 0, w.s.n_logit, s->logits};
            s->b->head(s->d, &w.s, &head);
            s->b->logits(s->d, &w.s, &logits);
        }
        end();
        same("head", (const float *[]){sides[0].hidden, sides[1].hidden}, (size_t)w.s.n_row * H);
        same("logits", (const float *[]){sides[0].logits, sides[1].logits}, (size_t)w.s.n_logit * V);
        end_step(&w);
    }
}

static void random_sample(struct qn_sample *p)
{
    p->temperature = below(3) ? 0.3f + (float)below(12) / 10 : 0;
    p->top_k = below(2) ? 0 : 1 + below(20);
    p->top_p = below(2) ? 1 : 0.3f + (float)below(6) / 10;
    p->min_p = below(2) ? 0 : 0.05f;
    p->presence = below(2) ? 0 : 0.5f;
    p->frequency = below(2) ? 0 : 0.25f;
    p->repetition = below(2) ? 1 : 1.3f;
    p->seed = (uint64_t)below(1000);
    p->n_top = below(6) - 1;
}

static void same_token(const char *what, const struct qn_step_token *a, const struct qn_step_token *b)
{
    if (a->tok != b->tok) fail_msg("%s: picked %d, ref %d", what, (int)b->tok, (int)a->tok);
    if (isnan(a->logprob) != isnan(b->logprob) || fabsf(a->logprob - b->logprob) > 1e-4f)
        fail_msg("%s: log-probability %g, ref %g", what, (double)b->logprob, (double)a->logprob);
    assert_int_equal(a->n_top, b->n_top);
    for (int i = 0; i < a->n_top; i++) {
        if (a->top_tok[i] != b->top_tok[i]) fail_msg("%s: top token %d differs", what, i);
        if (fabsf(a->top_logprob[i] - b->top_logprob[i]) > 1e-4f) fail_msg("%s: top %d differs", what, i);
    }
    n_checked++;
}

/* adjust, sample, verify, score and raw over the same random logits. */
static void op_pick(void)
{
    struct walk w;
    int words = QN_CEIL_DIV((int)V, 32);
    uint32_t *mask = xcalloc((size_t)MAX_ROWS * (size_t)words, sizeof *mask);
    int32_t mask_at[MAX_ROWS], score_tok[MAX_ROWS], bias_tok[6], seen_tok[40], seen_count[40];
    float bias[6], *logits = xmalloc((size_t)MAX_ROWS * V * sizeof *logits);
    float *raw[2] = {xmalloc((size_t)MAX_ROWS * V * sizeof *logits),
                     xmalloc((size_t)MAX_ROWS * V * sizeof *logits)};
    begin_walk(&w);
    for (int run = 0; run < 40; run++) {
        next_step(&w);
        for (int i = 0; i < 6; i++) bias_tok[i] = below((int)V), bias[i] = (float)(below(40) - 20) / 10;
        for (int i = 0; i < 40; i++) seen_tok[i] = (i * 7 + run) % (int)V, seen_count[i] = below(3);
        for (int i = 0; i < w.s.n_seq; i++) {
            struct qn_sample *p = &w.seq[i].sample;
            random_sample(p);
            p->first_bias = below(3), p->n_bias = below(4);
            p->first_seen = 10 * i, p->n_seen = below(11);
        }
        fill(logits, (size_t)w.s.n_logit * V, 6);
        if (run % 8 == 7) logits[below((int)V)] = NAN;
        int n_mask = 0;
        for (int i = 0; i < w.s.n_logit; i++) {
            score_tok[i] = below(3) ? below((int)V) : -1;
            mask_at[i] = below(2) ? -1 : n_mask;
            if (mask_at[i] < 0) continue;
            for (int k = 0; k < words; k++)
                mask[n_mask * words + k] = (uint32_t)qn_rng64(seed, 3, n_draw++) | 1;
            n_mask++;
        }
        for (int i = 0; i < w.s.n_decode; i++) /* some drafts are what ref is going to pick: see below */
            if (!below(3)) w.seq[i].sample.temperature = 0;
        w.s.mask = mask, w.s.mask_at = mask_at, w.s.n_mask = n_mask, w.s.mask_words = words;
        w.s.bias_tok = bias_tok, w.s.bias = bias, w.s.n_bias = 6;
        w.s.seen_tok = seen_tok, w.s.seen_count = seen_count, w.s.n_seen = 40;
        w.s.score_tok = score_tok, w.s.n_score_top = below(6), w.s.wants_raw = true;
        for (int turn = 0; turn < 2; turn++) { /* the second time with ref's picks as drafts */
            begin(&w.s, NULL, 0);
            for (int i = 0; i < 2; i++) {
                const struct side *s = &sides[i];
                struct qn_op_rows rows = {s->logits, 0, w.s.n_logit};
                results[i].r.logits = raw[i];
                put(s, s->logits, logits, (size_t)w.s.n_logit * V);
                s->b->raw(s->d, &w.s, &rows);
                s->b->score(s->d, &w.s, &rows);
                s->b->adjust(s->d, &w.s, &rows);
                s->b->sample(s->d, &w.s, &rows);
                s->b->verify(s->d, &w.s);
            }
            end();
            assert_memory_equal(raw[0], logits, (size_t)w.s.n_logit * V * sizeof *logits);
            assert_memory_equal(raw[1], logits, (size_t)w.s.n_logit * V * sizeof *logits);
            for (int i = 0; i < w.s.n_logit; i++) {
                same_token("sample", &results[0].token[i], &results[1].token[i]);
                same_token("score", &results[0].score[i], &results[1].score[i]);
            }
            for (int i = 0; i < w.s.n_seq; i++) {
                assert_int_equal(results[0].n_accepted[i], results[1].n_accepted[i]);
                for (int j = 0; i < w.s.n_decode && j < w.seq[i].n_draft; j++) {
                    int32_t tok = results[0].token[w.seq[i].first_logit + j].tok;
                    if (tok >= 0 && below(5)) w.tok[w.seq[i].first_row + j + 1] = tok;
                }
            }
        }
        end_step(&w);
    }
    for (int i = 0; i < 2; i++) free(raw[i]);
    free(logits);
    free(mask);
}

/* settle, draft_in, draft and carry: the picks of a step are given, the rows that follow are run. */
static void op_draft(void)
{
    if (!qn_model_has_mtp(model)) return;
    struct walk w;
    struct qn_pass pass[2][QN_MAX_DRAFT], *list[2] = {pass[0], pass[1]};
    float *hidden = xmalloc((size_t)MAX_ROWS * H * sizeof *hidden),
          *logits = xmalloc((size_t)MAX_ROWS * V * sizeof *logits);
    for (int i = 0; i < 2; i++)
        for (int k = 0; k < QN_MAX_DRAFT; k++) qn_pass_init(&pass[i][k], k, MAX_ROWS + N_SEQ, N_SEQ);
    begin_walk(&w);
    for (int run = 0; run < N_STEP; run++) {
        next_step(&w);
        for (int i = 0; i < w.s.n_seq; i++) {
            w.seq[i].wants_mtp = true;
            w.seq[i].n_draft_next = below(4);
            w.seq[i].sample.frequency = 0.25f;
        }
        int n_pass = qn_pass_count(&w.s);
        for (int i = 0; i < 2; i++)
            for (int k = 0; k < n_pass; k++) qn_pass_plan(&pass[i][k], &w.s, false);
        fill(hidden, (size_t)w.s.n_row * H, 1);
        fill(logits, (size_t)w.s.n_logit * V, 4);
        begin(&w.s, list, n_pass);
        for (int i = 0; i < 2; i++) {
            const struct side *s = &sides[i];
            struct qn_op_rows rows = {s->logits, 0, w.s.n_logit};
            put(s, s->hidden, hidden, (size_t)w.s.n_row * H);
            put(s, s->logits, logits, (size_t)w.s.n_logit * V);
            s->b->adjust(s->d, &w.s, &rows);
            s->b->sample(s->d, &w.s, &rows);
            s->b->verify(s->d, &w.s);
            float *own = s->b->alloc(s->d, (size_t)(MAX_ROWS + N_SEQ) * H * sizeof(float));
            struct qn_layer layer = {.b = s->b,
                                     .d = s->d,
                                     .is_moe = c->is_moe,
                                     .hidden = (int)H,
                                     .vocab = (int)V,
                                     .x = s->x,
                                     .y = s->y};
            struct qn_draft m = {.layer = &layer,
                                 .w = s->w,
                                 .n_full = c->n_full,
                                 .hidden = own,
                                 .logits = s->logits,
                                 .n_pass = n_pass};
            memcpy(m.pass, pass[i], sizeof m.pass);
            qn_draft_run(&m, &w.s, s->hidden);
            memcpy(pass[i], m.pass, sizeof m.pass);
            struct qn_err e = {0};
            if (s->b->sync(s->d, &e)) fail_msg("%s: %s", s->b->name, e.text);
            s->b->free(s->d, own);
        }
        for (int i = 0; i < w.s.n_seq; i++) {
            assert_int_equal(results[0].n_accepted[i], results[1].n_accepted[i]);
            assert_int_equal(results[0].n_drafted[i], results[1].n_drafted[i]);
            for (int k = 0; k < results[0].n_drafted[i]; k++)
                if (results[0].draft[i * QN_MAX_DRAFT + k] != results[1].draft[i * QN_MAX_DRAFT + k])
                    fail_msg("draft %d of sequence %d differs", k, i);
            n_checked++;
        }
        /* what was accepted is what the step decided, so that the carry goes on */
        end_step(&w);
        for (int i = 0; i < w.s.n_decode; i++) {
            struct timeline *t = &w.line[w.line_of[i]];
            t->pos += results[0].n_accepted[i] + 1 - t->n_commit;
            t->n_commit = results[0].n_accepted[i] + 1;
        }
    }
    for (int i = 0; i < 2; i++)
        for (int k = 0; k < QN_MAX_DRAFT; k++) qn_pass_fini(&pass[i][k]);
    free(hidden);
    free(logits);
}

/* --- whole steps --- */

/* The same requests on both, driven by ref's picks: logits of every row, then tokens and drafts. */
static void op_steps(void)
{
    struct rig r[2];
    const char *names[2] = {"ref", backend_name};
    size_t room = 256 * V;
    float *logits[2] = {xmalloc(room * sizeof(float)), xmalloc(room * sizeof(float))};
    char folder[600];
    snprintf(folder, sizeof folder, "%s", qn_model_folder(model));
    for (int i = 0; i < 2; i++)
        rig_open(
            &r[i], folder,
            &(struct rig_options){.backend = names[i], .act = QN_ACT_F32, .n_thread = 2, .poison = true});
    int32_t tok[400], rows[3][1 + QN_MAX_DRAFT];
    for (int i = 0; i < 400; i++) tok[i] = below((int)V);
    struct timeline line[3] = {{0}};
    for (int run = 0; run < N_STEP; run++) {
        struct rig_seq q[2][3];
        int n = 0, who[3];
        bool is_decode[3];
        for (int i = 0; i < 3; i++) is_decode[i] = line[i].is_known && below(2);
        for (int pass = 0; pass < 2; pass++)
            for (int i = 0; i < 3; i++) {
                if (is_decode[i] == (pass == 1) || line[i].pos > 350) continue;
                int n_row = 1 + below(is_decode[i] ? 4 : 25);
                for (int j = 0; j < n_row && is_decode[i]; j++) rows[i][j] = tok[(line[i].pos + j) % 400];
                q[0][n] = (struct rig_seq){.tok = is_decode[i] ? rows[i] : tok + line[i].pos % 300,
                                           .n_row = n_row,
                                           .pos0 = line[i].pos,
                                           .slot = i,
                                           .is_decode = is_decode[i],
                                           .is_fresh = !line[i].is_known,
                                           .wants_token = true,
                                           .wants_mtp = qn_model_has_mtp(model),
                                           .n_commit = line[i].n_commit,
                                           .n_draft_next = qn_model_has_mtp(model) ? below(3) : 0,
                                           .sample = {.top_p = 1, .repetition = 1, .n_top = 2}};
                who[n++] = i;
            }
        if (!n) break;
        memcpy(q[1], q[0], sizeof q[0]);
        int n_row = 0;
        for (int i = 0; i < 2; i++) rig_step(&r[i], q[i], n, logits[i]);
        for (int i = 0; i < n; i++) n_row += q[0][i].n_row;
        near("whole steps, logits", logits[0], logits[1], (size_t)n_row * V);
        for (int i = 0; i < n; i++) {
            struct timeline *t = &line[who[i]];
            for (int j = 0; j < (q[0][i].is_decode ? q[0][i].n_row : 1); j++)
                assert_int_equal(q[0][i].picked[j], q[1][i].picked[j]);
            assert_int_equal(q[0][i].n_accepted, q[1][i].n_accepted);
            t->is_known = true;
            t->n_commit = q[0][i].is_decode ? q[0][i].n_accepted + 1 : 0;
            t->pos += q[0][i].is_decode ? t->n_commit : q[0][i].n_row;
        }
    }
    for (int i = 0; i < 2; i++) {
        rig_close(&r[i]);
        free(logits[i]);
    }
}

static const struct {
    const char *name; /* entries of the table that it needs */
    void (*run)(void);
} operations[] = {
    {"embed", op_embed},
    {"attn_in attn_decode attn_prefill attn_out", op_attn},
    {"gdn_in gdn_decode gdn_prefill gdn_out", op_gdn},
    {"mlp moe", op_ffn},
    {"head logits", op_head},
    {"raw score adjust sample verify", op_pick},
    {"state_flush state_copy state_zero state_read state_write", op_state},
    {"kv_copy kv_read kv_write", op_kv},
    {"settle draft_in carry draft", op_draft},
    {"steps", op_steps},
};

static void test_operations(void **state)
{
    (void)state;
    for (size_t m = 0; m < QN_COUNT(checkpoints); m++) {
        char folder[600];
        struct qn_err e = {0};
        snprintf(folder, sizeof folder, "%s/golden/model/%s", QN_TEST_DIR, checkpoints[m]);
        if (qn_model_open(&model, folder, &e)) fail_msg("%s", e.text);
        c = qn_model_config(model);
        H = (size_t)c->hidden;
        V = (size_t)c->vocab;
        open_side(&sides[0], "ref");
        open_side(&sides[1], backend_name);
        for (size_t i = 0; i < QN_COUNT(operations); i++) {
            if (only && !strstr(operations[i].name, only)) continue;
            n_checked = 0;
            operations[i].run();
            printf("%-18s %-8s %-58s %d checked\n", checkpoints[m], backend_name, operations[i].name,
                   n_checked);
        }
        close_side(&sides[0]);
        close_side(&sides[1]);
        qn_model_close(model);
    }
}

int main(int argc, char **argv)
{
    if (argc > 1) backend_name = argv[1];
    if (argc > 2) only = argv[2];
    if (getenv("QN_SEED")) seed = strtoull(getenv("QN_SEED"), NULL, 10);
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_operations)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
