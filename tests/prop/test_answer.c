/* One answer: the tokens of a request do not depend on depth, neighbours, chunks, slices, cache, threads,
 * preemption.
 *
 * Questions are made from a growing pool of histories (so that prefixes are shared, continued and left),
 * answered once by a plain engine (one at a time, no cache, no drafts, one chunk, one thread) and again and
 * again by engines of every other kind, beside neighbours, after restarts that find the last engine's files.
 * What varied is counted and printed, and each value of each axis has to occur. The scripted backend turns
 * every mistake in the books into other tokens; each fault of its list is planted once to see that this test
 * finds it. On tiny synthetic models and on quern-mini, whose drafts are right or wrong as those of a trained
 * model are, tokens and log-probabilities are compared to the bit.
 *
 * QUERN_TEST: the tests to run, a pattern (test_one_answer_mini);
 * QUERN_COMBINATIONS: requests to compare (default 3000; 100000 is a long run); QUERN_SEED: where the random
 * numbers start. SPDX-License-Identifier: Apache-2.0 */
#include "support/test.h"

#include <math.h>
#include <unistd.h>

#include "base/log.h"
#include "base/mem.h"
#include "base/rng.h"
#include "model/checkpoint.h"
#include "model/synth.h"
#include "support/ask.h"
#include "support/axes.h"
#include "support/backend_fake.h"
#include "text/constrain.h"
#include "text/mask.h"
#include "text/text.h"
#include "text/tokenizer.h"

#define MAX_HISTORY  24
#define MAX_QUESTION 64
#define MAX_WAVE     8
#define MAX_TOKENS   900
#define WAVES        6 /* of one engine */

struct dice {
    uint64_t seed, n;
};

static int roll(struct dice *d, int sides)
{
    return (int)(qn_rng64(d->seed, d->n++, 1) % (uint64_t)sides);
}

/* Pictures in a text. */
#define MAX_MEDIA 3
#define N_PICTURE 7
#define PAD_TOK   7 /* stands for all of them */
struct media {
    struct qn_media_span span[MAX_MEDIA];
    int n;
};

struct history {
    int32_t *tok;
    int n;
    struct media media;
};

/* A request and the plain engine's answer to it. */
struct question {
    struct qn_request_params params;
    int32_t *tok;
    struct media media;
    int32_t stop[3], closing[2], bias_tok[2], ban[9];
    int ban_len[3];
    uint32_t *allowed; /* bits; NULL: all */
    float bias[2];
    int grammar; /* one of the forms below; -1: none */
    struct ask_answer want;
};

enum {
    AXIS_DEPTH,
    AXIS_TEMPERATURE,
    AXIS_NEIGHBOURS,
    AXIS_CHUNK,
    AXIS_SLICES,
    AXIS_CACHE,
    AXIS_THREADS,
    AXIS_PREEMPTED,
    AXIS_RULES,
    AXIS_STOPS,
    AXIS_BAD_WORDS,
    AXIS_LOGPROBS,
    AXIS_MEDIA,
    AXIS_MASKS,
    N_AXIS
};

static const struct axis axis_table[N_AXIS] = {
    {"depth", {"0", "1", "2", "3", "5", "8", "auto"}, {0}},
    {"temperature", {"0", "0.7", "1.0"}, {0}},
    {"neighbours", {"0", "1", "7", "other"}, {0}},
    {"chunk", {"5", "16", "64", "100", "512"}, {0}},
    {"parts a slice", {"by cost", "1", "3"}, {0}},
    {"cache", {"off", "cold", "memory", "disk after restart", "evicted", "no snapshot there"}, {0}},
    {"threads", {"1", "2"}, {0}},
    {"preemption", {"none", "in the wave"}, {0}},
    {"rules", {"none", "penalties", "grammar", "both", "others"}, {0}},
    {"stops", {"none", "ids", "met", "not before a minimum", "ignored"}, {0}},
    {"bad words", {"none", "tokens", "sequences", "under a grammar", "and a list of allowed ones"}, {0}},
    {"log-probs", {"not asked", "asked"}, {0}},
    {"pictures", {"none", "one", "more"}, {0}},
    {"masks", {"in the step", "beside it", "beside it and late"}, {0}},
};
static const int depths[] = {0, 1, 2, 3, 5, 8, -1}, chunks[] = {5, 16, 64, 100, 512}, slices[] = {0, 1, 3};
static const float temperatures[] = {0, 0.7f, 1.0f};

/* Tokens are bytes, the upper half pairs of letters, two of them markers; 255 ends. */
static const char *token_bytes(void *ctx, int id, size_t *n, int *kind)
{
    static char bytes[256][2];
    (void)ctx;
    if (id == 253 || id == 254) {
        const char *marker = qn_marker_text(id == 253 ? QN_MARKER_CALL_OPEN : QN_MARKER_CALL_CLOSE);
        *kind = QN_MASK_MARKER;
        *n = strlen(marker);
        return marker;
    }
    *kind = id == 255 ? QN_MASK_END : id > 255 ? QN_MASK_CONTROL : QN_MASK_TEXT;
    *n = id >= 255 ? 0 : id < 128 ? 1 : 2;
    if (id >= 255) return "";
    bytes[id][0] = (char)(id < 128 ? id : 'a' + id % 26);
    bytes[id][1] = (char)('a' + id / 3 % 26);
    return bytes[id];
}

/* Those of a real vocabulary. */
static const char *text_bytes(void *ctx, int id, size_t *n, int *kind)
{
    const struct qn_text *t = ctx;
    unsigned flags = qn_tokenizer_flags(t->tokenizer, id);
    *kind = flags & QN_TOKEN_MARKER                        ? QN_MASK_MARKER
            : flags & (QN_TOKEN_UNUSED | QN_TOKEN_SPECIAL) ? QN_MASK_CONTROL
                                                           : QN_MASK_TEXT;
    for (int i = 0; i < t->n_stop; i++)
        if (t->stop_ids[i] == id) *kind = QN_MASK_END;
    return (const char *)qn_tokenizer_bytes(t->tokenizer, id, n);
}

static struct qn_mask *make_mask(int vocab, struct qn_text *text)
{
    struct qn_mask_vocab v = {.n_vocab = vocab, .bytes = text ? text_bytes : token_bytes, .ctx = text};
    struct qn_mask *m;
    struct qn_err e = {0};
    if (qn_mask_create(&m, &v, &e)) fail_msg("mask: %s", e.text);
    return m;
}

#define N_FORM 4

/* The last with markers, which are tokens. */
static struct qn_grammar *make_grammar(int which, const struct qn_text *text)
{
    static const char *const forms[N_FORM] = {
        "([a-z]{2,9} )*[0-9]{1,3}", "(yes|no|perhaps not)(, (yes|no))*",
        "[{]\"name\": \"[a-z]+\", \"size\": [0-9]+[}]",
        "{\"format\":{\"type\":\"plus\",\"content\":{\"type\":\"tag\",\"begin\":\"<tool_call>\",\"end\":"
        "\"</tool_call>\",\"content\":{\"type\":\"regex\",\"pattern\":\"([a-z<]{1,4} )*[0-9]\"}}}}"};
    struct qn_constrain c = {.form = QN_CONTENT_REGEX, .text = forms[which]};
    struct qn_arena *arena = qn_arena_create(1 << 20);
    struct qn_json *tags;
    struct qn_grammar *g;
    struct qn_err e = {0};
    if (which == N_FORM - 1) {
        if (qn_json_parse(&tags, arena, forms[which], strlen(forms[which]), "tags", &e))
            fail_msg("%s", e.text);
        c = (struct qn_constrain){.form = QN_CONTENT_TAGS, .schema = tags};
        c.markers = text ? qn_text_markers(text) : 1u << QN_MARKER_CALL_OPEN | 1u << QN_MARKER_CALL_CLOSE;
    }
    if (qn_constrain_compile(&g, &c, NULL, &e)) fail_msg("grammar: %s", e.text);
    qn_arena_free(arena);
    return g;
}

/* What is compared with what. */
struct subject {
    const struct qn_model *model; /* NULL: the scripted backend */
    const char *backend;
    enum qn_act act;
    int kv;                         /* enum qn_kv, or -1 */
    struct qn_text *text;           /* a real vocabulary, or NULL */
    struct qn_ids prose;            /* what prompts are cut from, when there is text */
    int n_plain, end_tok;           /* ordinary ids below; the id that ends a turn */
    int32_t opening[3], closing[5]; /* of a user's turn, with the head of the answer */
};

struct bench {
    const struct subject *s;
    struct dice dice;
    struct history pool[MAX_HISTORY];
    struct question question[MAX_QUESTION];
    struct qn_media_span picture[N_PICTURE];
    int n_pool, n_question;
    struct qn_fake plain_fake, fake;
    struct qn_engine *plain, *tried;
    struct qn_mask *plain_mask, *tried_mask;
    struct qn_engine_options options; /* of the engine being tried */
    int n_wave;                       /* of the engine being tried */
    int n_compared, n_cached, n_preempted, n_wrong;
    int64_t n_drafted, n_accepted;
    bool is_fixed;
    char folder[40]; /* of the disk tier: engines one after the other find what the last one left */
    char kind[200];
    struct axis axes[N_AXIS];
};

static void remember(struct bench *b, const int32_t *tok, int n, const struct media *media)
{
    int at = b->n_pool < MAX_HISTORY ? b->n_pool++ : roll(&b->dice, MAX_HISTORY);
    free(b->pool[at].tok);
    n = QN_MIN(n, MAX_TOKENS);
    b->pool[at] = (struct history){xreallocarray(NULL, (size_t)n, sizeof *tok), n, *media};
    memcpy(b->pool[at].tok, tok, (size_t)n * sizeof *tok);
}

/* The first two look alike from outside; one goes over several pages. */
static void paint(struct bench *b)
{
    static const int grids[N_PICTURE][2] = {{3, 5}, {3, 5}, {1, 9}, {8, 10}, {2, 2}, {7, 3}, {1, 1}};
    int hidden = b->s->model ? qn_model_config(b->s->model)->hidden : b->plain_fake.config.hidden;
    for (int i = 0; i < N_PICTURE; i++) {
        struct qn_media_span *s = &b->picture[i];
        *s = (struct qn_media_span){.kind = i % 3 ? QN_MEDIA_IMAGE : QN_MEDIA_VIDEO,
                                    .n_tok = grids[i][0] * grids[i][1],
                                    .grid_h = grids[i][0],
                                    .grid_w = grids[i][1],
                                    .first_embed = i};
        s->embeds = qn_embeds_create(i + s->n_tok, hidden);
        for (int k = 0; k < s->embeds->n_row * hidden; k++)
            s->embeds->rows[k] = 0.1f * (qn_rng_unit(qn_rng64(77, (uint64_t)i, (uint64_t)k)) - 0.5f);
        for (int k = 0; k < 4; k++) s->hash[k] = qn_rng64(78, (uint64_t)i, (uint64_t)k);
    }
}

/* Pictures among the fresh tokens, which are those from n_old on. */
static void hang(struct bench *b, struct question *q, int n_old, int n)
{
    struct dice *d = &b->dice;
    for (int at = n_old + roll(d, 20); q->media.n < MAX_MEDIA; at += roll(d, 60)) {
        struct qn_media_span *s = &q->media.span[q->media.n];
        *s = b->picture[roll(d, N_PICTURE)];
        s->first = at;
        if (at + s->n_tok > n) return;
        for (int i = 0; i < s->n_tok; i++) q->tok[at + i] = PAD_TOK;
        at += s->n_tok;
        q->media.n++;
    }
}

/* New tokens of a prompt: random ids, or a piece of real text, now and then said twice, often as a user's
 * turn that is to be answered. */
static void write_fresh(struct bench *b, int32_t *tok, int n)
{
    struct dice *d = &b->dice;
    const struct subject *s = b->s;
    if (!s->text || !roll(d, 8)) {
        for (int i = 0; i < n; i++) tok[i] = roll(d, 100) ? roll(d, s->n_plain) : s->end_tok;
        return;
    }
    int from = roll(d, (int)s->prose.n - n), period = n > 20 && !roll(d, 3) ? 10 + roll(d, n - 10) : n;
    for (int i = 0; i < n; i++) tok[i] = s->prose.data[from + i % period];
    if (n < 16 || !roll(d, 3)) return;
    memcpy(tok, s->opening, sizeof s->opening);
    memcpy(tok + n - QN_COUNT(s->closing), s->closing, sizeof s->closing);
}

/* An ordinary token; with real text one that has a chance to be picked. */
static int32_t some_token(struct bench *b)
{
    const struct subject *s = b->s;
    return s->text ? s->prose.data[roll(&b->dice, (int)s->prose.n)] : roll(&b->dice, s->n_plain);
}

static void make_question(struct bench *b, struct question *q)
{
    static const int lengths[] = {1, 2, 3, 16, 62, 63, 64, 65, 66, 127, 128, 129, 200, 333};
    struct dice *d = &b->dice;
    const struct history *h = b->n_pool && roll(d, 4) ? &b->pool[roll(d, b->n_pool)] : NULL;
    int n_old = !h ? 0 : roll(d, 3) ? h->n : 1 + roll(d, h->n);
    if (n_old > MAX_TOKENS - 400) n_old = MAX_TOKENS - 400;
    int n_fresh = h && roll(d, 2) ? roll(d, 30) : lengths[roll(d, (int)QN_COUNT(lengths))];
    if (n_old + n_fresh == 0) n_fresh = 1;
    *q = (struct question){.grammar = -1};
    q->tok = xreallocarray(NULL, (size_t)(n_old + n_fresh), sizeof *q->tok);
    if (n_old) memcpy(q->tok, h->tok, (size_t)n_old * sizeof *q->tok);
    write_fresh(b, q->tok + n_old, n_fresh);
    while (h && q->media.n < h->media.n &&
           h->media.span[q->media.n].first + h->media.span[q->media.n].n_tok <= n_old) {
        q->media.span[q->media.n] = h->media.span[q->media.n];
        q->media.n++;
    }
    if (!roll(d, 4)) hang(b, q, n_old, n_old + n_fresh);
    struct qn_request_params *p = &q->params;
    *p = ask_params(q->tok, n_old + n_fresh);
    p->span = q->media.span;
    p->n_span = q->media.n;
    p->max_new = 1 + roll(d, 60);
    p->sample.temperature = temperatures[roll(d, (int)QN_COUNT(temperatures))];
    p->sample.seed = (uint64_t)roll(d, 5);
    if (!roll(d, 3)) p->sample.top_k = 1 + roll(d, 40);
    if (!roll(d, 3)) p->sample.top_p = 0.3f + 0.1f * (float)roll(d, 7);
    if (!roll(d, 4)) p->sample.min_p = 0.05f;
    if (!roll(d, 3)) {
        p->sample.presence = 0.5f * (float)roll(d, 4);
        p->sample.frequency = 0.25f * (float)roll(d, 4);
        p->sample.repetition = 1 + 0.2f * (float)(1 + roll(d, 2));
    }
    if (roll(d, 3)) p->sample.n_top = roll(d, 4);
    if (!roll(d, 3)) {
        for (int i = 0; i < 3; i++) q->stop[i] = some_token(b);
        p->stop_tok = q->stop;
        p->n_stop = 3;
        p->min_new = roll(d, 3) ? 0 : roll(d, 20);
        p->ignore_eos = !roll(d, 8);
        p->keep_stop_tok = !roll(d, 3);
    }
    if (!roll(d, 4)) {
        p->is_thinking = true;
        p->think_budget = 1 + roll(d, 20);
        q->closing[0] = some_token(b);
        q->closing[1] = p->think_end = some_token(b);
        p->think_close = q->closing;
        p->n_think_close = 2;
    }
    if (!roll(d, 4)) {
        for (int i = 0; i < 2; i++) {
            q->bias_tok[i] = some_token(b);
            q->bias[i] = (float)(roll(d, 9) - 4);
        }
        p->bias_tok = q->bias_tok;
        p->bias = q->bias;
        p->n_bias = 2;
    }
    if (!roll(d, 10)) p->prompt_top = roll(d, 3);
    if (!roll(d, 5)) {
        q->grammar = roll(d, N_FORM);
        q->stop[0] = b->s->end_tok;
        p->stop_tok = q->stop;
        p->n_stop = 1;
        p->min_new = p->ignore_eos = 0;
        p->is_thinking = false;
    }
}

/* Forbids and stops at what the model wants to say: what it says without. */
static void forbid(struct bench *b, struct question *q)
{
    struct dice *d = &b->dice;
    struct qn_request_params *p = &q->params;
    bool has_bans = !roll(d, 3), has_stops = p->n_stop > 1 && roll(d, 2);
    struct ask_answer free_run;
    if (!has_bans && !has_stops) return;
    ask(b->plain, p, &free_run);
    if (has_stops && free_run.n) q->stop[1] = free_run.tok[roll(d, free_run.n)];
    if (has_bans) {
        int32_t *tok = q->ban;
        int most = roll(d, 3) ? 3 : 1;
        p->n_ban = 1 + roll(d, 3);
        for (int i = 0; i < p->n_ban; i++) {
            int len = q->ban_len[i] = 1 + roll(d, most), from = roll(d, QN_MAX(free_run.n - len, 1));
            for (int k = 0; k < len; k++, from++)
                *tok++ = from < free_run.n ? free_run.tok[from] : some_token(b);
        }
        p->ban_tok = q->ban;
        p->ban_len = q->ban_len;
    }
    if (has_bans && q->grammar < 0 && !roll(d, 4)) { /* some three quarters of all tokens */
        p->n_allowed_word = QN_CEIL_DIV(b->plain_fake.config.vocab, 32);
        if (b->s->model) p->n_allowed_word = QN_CEIL_DIV(qn_model_config(b->s->model)->vocab, 32);
        q->allowed = xcalloc((size_t)p->n_allowed_word, sizeof *q->allowed);
        for (int i = 0; i < p->n_allowed_word; i++)
            q->allowed[i] = (uint32_t)(qn_rng64(d->seed, d->n, 2 * (uint64_t)i) |
                                       qn_rng64(d->seed, d->n, 2 * (uint64_t)i + 1));
        d->n++;
        p->allowed_bits = q->allowed;
    }
    ask_free(&free_run);
}

/* A question that was asked before, or a new one, which takes the place of an old one; none of taken[n]. The
 * first wave after a restart asks what the last engine was asked, of other families each, so that what is
 * resumed can only come from its files. */
static struct question *next_question(struct bench *b, struct question *const *taken, int n)
{
    struct dice *d = &b->dice;
    struct question *q = NULL;
    bool is_old, is_taken = true, is_restart = !b->n_wave && b->options.disk_tier;
    for (int tries = 0; is_taken; tries++) {
        is_old = b->n_question > MAX_WAVE && (is_restart || roll(d, 3));
        q = &b->question[is_old || b->n_question == MAX_QUESTION ? roll(d, b->n_question) : b->n_question];
        is_taken = false;
        for (int i = 0; i < n; i++)
            is_taken |=
                taken[i] == q || (is_restart && is_old && tries < 50 && taken[i]->tok[0] == q->tok[0]);
    }
    if (is_old) return q;
    if (q == &b->question[b->n_question]) b->n_question++;
    free(q->tok);
    free(q->allowed);
    ask_free(&q->want);
    make_question(b, q);
    if (q->grammar >= 0) q->params.constraint = make_grammar(q->grammar, b->s->text);
    forbid(b, q);
    ask(b->plain, &q->params, &q->want);
    if (q->want.finish == QN_FINISH_ERROR) fail_msg("plain: %s", q->want.error.text);
    if (q->grammar >= 0) qn_grammar_release(q->params.constraint);
    q->params.constraint = NULL;
    return q;
}

static bool is_equal(const struct ask_answer *a, const struct ask_answer *b)
{
    if (a->n != b->n || a->finish != b->finish || a->stop_tok != b->stop_tok || a->n_prompt != b->n_prompt)
        return false;
    if (a->n && memcmp(a->tok, b->tok, (size_t)a->n * sizeof *a->tok)) return false;
    if (a->n && memcmp(a->logprob, b->logprob, (size_t)a->n * sizeof *a->logprob)) return false;
    return !a->n_prompt || !memcmp(a->prompt_logprob, b->prompt_logprob, (size_t)a->n_prompt * sizeof(float));
}

static struct qn_engine *open_engine(const struct qn_engine_options *o)
{
    struct qn_engine *g;
    struct qn_err e = {0};
    if (qn_engine_open(&g, o, &e)) fail_msg("open: %s", e.text);
    return g;
}

/* On a real model instead of the scripted one. */
static void use_model(const struct bench *b, struct qn_engine_options *o, int n_thread)
{
    o->n_thread = n_thread;
    if (!b->s->model) return;
    o->config = NULL;
    o->runner = NULL;
    o->model = b->s->model;
    o->backend = qn_backend_get(b->s->backend);
    o->act = b->s->act;
    o->kv = b->s->kv;
    if (b->s->text) o->n_tok = qn_tokenizer_n_vocab(b->s->text->tokenizer);
}

/* An engine of a random kind. */
static void open_tried(struct bench *b, enum qn_fake_fault fault)
{
    static const int accepts[] = {-1, 30, 70, 95, 100}, gaps[] = {1, 8, 64}, seqs[] = {1, 2, 3, 8, 8, 8};
    static const int times[] = {1, 2, 10};
    struct dice *d = &b->dice;
    bool had_drafts = b->options.mtp != 0, is_restart = b->options.disk_tier && roll(d, 2);
    struct qn_fake_options fo = {.fault = fault,
                                 .max_context = MAX_TOKENS + 100,
                                 .accept_percent = accepts[roll(d, (int)QN_COUNT(accepts))]};
    qn_fake_init(&b->fake, &fo);
    struct qn_engine_options o;
    qn_fake_engine_options(&b->fake, &o);
    use_model(b, &o, 1 + roll(d, 2));
    /* the first engine drafts, so that a short pass does too; files of another layout are not used */
    do o.mtp = depths[roll(d, (int)QN_COUNT(depths))];
    while ((!b->n_compared && !o.mtp) || (is_restart && (o.mtp != 0) != had_drafts));
    o.step_tokens = chunks[roll(d, (int)QN_COUNT(chunks))];
    o.slice_parts = slices[roll(d, (int)QN_COUNT(slices))];
    o.masks_beside = roll(d, 2);
    o.mask_delay_us = o.masks_beside && roll(d, 2) ? 300 : 0;
    o.max_seqs = seqs[roll(d, (int)QN_COUNT(seqs))];
    o.snapshot_gap = gaps[roll(d, (int)QN_COUNT(gaps))];
    o.no_prefix_cache = !roll(d, 8);
    /* pools: plenty, or so few pages that sequences push each other out, or few slots */
    int n_most = QN_CEIL_DIV(o.max_context, QN_PAGE) + 1;
    o.n_page = n_most * times[roll(d, 3)];
    o.n_slot = o.max_seqs + (roll(d, 3) ? 20 : roll(d, 3));
    o.ram_tier_bytes = roll(d, 3) ? -1 : (int64_t)(64 + roll(d, 2000)) << 10;
    if (b->folder[0] && (is_restart || roll(d, 2))) o.disk_tier = b->folder;
    if (is_restart) o.no_prefix_cache = false;
    if (!b->s->model) { /* layouts of their own are not read by others */
        o.n_rank = is_restart ? b->options.n_rank : 1 + !roll(d, 6);
        b->fake.options.over_wire = !roll(d, 3);
    }
    snprintf(b->kind, sizeof b->kind,
             "mtp %d step %d slices %d seqs %d gap %d cache %d pages %d slots %d accept %d tiers %d %d "
             "threads %d ranks %d wire %d masks %d %d",
             o.mtp, o.step_tokens, o.slice_parts, o.max_seqs, o.snapshot_gap, !o.no_prefix_cache, o.n_page,
             o.n_slot, fo.accept_percent, (int)(o.ram_tier_bytes >> 10), o.disk_tier != NULL, o.n_thread,
             o.n_rank, b->fake.options.over_wire, o.masks_beside, o.mask_delay_us);
    b->is_fixed = o.mtp >= 0 && !o.disk_tier; /* files may be of an engine that slept */
    b->n_wave = 0;
    o.mask = b->tried_mask;
    b->options = o;
    b->tried = open_engine(&o);
}

/* One of a wave: the question as it is asked this time. */
struct asked {
    struct question *q;
    struct qn_request_params params;
    struct qn_request *r;
};

/* Nobody else in the wave could have left what this one resumed from: in an engine's first wave it came from
 * the files of the one before. */
static bool is_alone(const struct asked *wave, int n, int at)
{
    for (int i = 0; i < n; i++)
        if (i != at && wave[i].params.salt == wave[at].params.salt && wave[i].q->tok[0] == wave[at].q->tok[0])
            return false;
    return true;
}

static void count(struct bench *b, const struct asked *wave, int n, int at, const struct ask_answer *got,
                  bool is_preempted)
{
    static const int neighbours[] = {0, 1, 7};
    const struct qn_request_params *p = &wave[at].params;
    const struct qn_request_stats *s = &got->stats;
    const struct qn_engine_options *o = &b->options;
    struct axis *a = b->axes;
    int depth = p->mtp >= 0 && o->mtp ? p->mtp : o->mtp, cache = 1;
    bool has_penalty = p->sample.presence || p->sample.frequency || p->sample.repetition != 1;
    bool is_evicted = s->miss && strstr(s->miss, "evicted");
    if (o->no_prefix_cache)
        cache = 0;
    else if (is_evicted)
        cache = 4;
    else if (s->n_cached)
        cache = !b->n_wave && o->disk_tier && is_alone(wave, n, at) ? 3 : 2;
    else if (s->miss)
        cache = 5;
    axis_count(&a[AXIS_DEPTH], axis_find(depths, (int)QN_COUNT(depths), depth));
    for (int i = 0; i < (int)QN_COUNT(temperatures); i++)
        if (p->sample.temperature == temperatures[i]) axis_count(&a[AXIS_TEMPERATURE], i);
    axis_count(&a[AXIS_NEIGHBOURS], axis_find(neighbours, 3, QN_MIN(n, o->max_seqs) - 1));
    axis_count(&a[AXIS_CHUNK], axis_find(chunks, (int)QN_COUNT(chunks), o->step_tokens));
    axis_count(&a[AXIS_SLICES], axis_find(slices, (int)QN_COUNT(slices), o->slice_parts));
    axis_count(&a[AXIS_CACHE], cache);
    axis_count(&a[AXIS_THREADS], o->n_thread - 1);
    axis_count(&a[AXIS_PREEMPTED], is_preempted);
    bool is_other = p->n_bias || p->is_thinking || p->n_stop;
    axis_count(&a[AXIS_RULES], wave[at].q->grammar >= 0 ? (has_penalty ? 3 : 2)
                               : has_penalty            ? 1
                               : is_other               ? 4
                                                        : 0);
    bool is_met = got->finish == QN_FINISH_STOP;
    axis_count(&a[AXIS_STOPS], !p->n_stop ? 0 : p->ignore_eos ? 4 : p->min_new ? 3 : is_met ? 2 : 1);
    int longest = 0;
    for (int i = 0; i < p->n_ban; i++) longest = QN_MAX(longest, p->ban_len[i]);
    axis_count(&a[AXIS_BAD_WORDS], !p->n_ban                  ? 0
                                   : wave[at].q->grammar >= 0 ? 3
                                   : p->allowed_bits          ? 4
                                   : longest > 1              ? 2
                                                              : 1);
    axis_count(&a[AXIS_LOGPROBS], p->sample.n_top >= 0);
    axis_count(&a[AXIS_MEDIA], QN_MIN(p->n_span, 2));
    if (wave[at].q->grammar >= 0) axis_count(&a[AXIS_MASKS], o->masks_beside + (o->mask_delay_us > 0));
    b->n_compared++;
    b->n_cached += s->n_cached > 0;
    b->n_drafted += s->n_drafted;
    b->n_accepted += s->n_accepted;
}

static uint64_t n_preempted(struct bench *b)
{
    struct qn_engine_stats s;
    qn_engine_stats(b->tried, &s);
    return s.n_preempted;
}

static void tell(const struct bench *b, const struct question *q, const struct ask_answer *got)
{
    const struct ask_answer *want = &q->want;
    int at = 0;
    while (at < want->n && at < got->n && want->tok[at] == got->tok[at] &&
           !memcmp(&want->logprob[at], &got->logprob[at], sizeof(float)))
        at++;
    print_message("differs: [%s] prompt %d cached %d, token %d of %d (%d), finish %d (%d) %s\n", b->kind,
                  q->params.n_tok, got->stats.n_cached, at, want->n, got->n, (int)want->finish,
                  (int)got->finish, got->error.text);
}

static void run_wave(struct bench *b, bool is_loud)
{
    static const int waves[] = {1, 2, 8};
    struct dice *d = &b->dice;
    struct asked wave[MAX_WAVE] = {{0}};
    struct question *taken[MAX_WAVE];
    struct ask_answer got[MAX_WAVE];
    int n = waves[roll(d, 3)];
    for (int i = 0; i < n; i++) {
        struct asked *a = &wave[i];
        a->q = taken[i] = next_question(b, taken, i);
        a->params = a->q->params;
        /* what must not matter */
        if (!roll(d, 8)) a->params.salt = (uint64_t)roll(d, 3);
        a->params.priority = roll(d, 4) ? QN_PRIORITY_NORMAL : QN_PRIORITY_LOW;
        a->params.client = (uint64_t)roll(d, 3);
        if (!roll(d, 4)) a->params.mtp = depths[roll(d, 6)];
        if (a->q->grammar >= 0) a->params.constraint = make_grammar(a->q->grammar, b->s->text);
    }
    /* sometimes the lower half runs already when the others come and take its place */
    bool is_late = n > 1 && !roll(d, 3);
    struct qn_err e = {0};
    uint64_t before = n_preempted(b);
    for (int i = 0; i < n; i++) {
        if (is_late) wave[i].params.priority = i < n / 2 ? QN_PRIORITY_LOW : QN_PRIORITY_NORMAL;
        if (is_late && i == n / 2) usleep((unsigned)(100 + roll(d, b->s->model ? 20000 : 2000)));
        if (qn_engine_submit(b->tried, &wave[i].params, &wave[i].r, &e)) fail_msg("submit: %s", e.text);
    }
    for (int i = 0; i < n; i++) ask_read(wave[i].r, &got[i]);
    bool is_preempted = n_preempted(b) != before;
    for (int i = 0; i < n; i++) {
        struct question *q = wave[i].q;
        count(b, wave, n, i, &got[i], is_preempted);
        if (!is_equal(&q->want, &got[i])) {
            b->n_wrong++;
            if (is_loud) tell(b, q, &got[i]);
        }
        /* the next turn, and what this one was */
        int32_t all[MAX_TOKENS + 100];
        int n_all = q->params.n_tok;
        memcpy(all, q->tok, (size_t)n_all * sizeof *all);
        for (int k = 0; k < q->want.n && n_all < MAX_TOKENS + 100; k++) all[n_all++] = q->want.tok[k];
        if (roll(d, 2)) remember(b, all, n_all, &q->media);
        ask_free(&got[i]);
        if (q->grammar >= 0) qn_grammar_release(wave[i].params.constraint);
    }
    b->n_wave++;
}

static void close_tried(struct bench *b, bool is_sound)
{
    struct qn_engine_stats s;
    qn_engine_stats(b->tried, &s);
    b->n_preempted += (int)s.n_preempted;
    if (is_sound) {
        assert_int_equal(s.n_slot_live, 0);
        assert_int_equal(s.n_page_used, 0);
        assert_int_equal(atomic_load(&b->fake.n_violation), 0);
        if (b->is_fixed) /* the draft layer's KV is complete; automatic depth lets it go when it sleeps */
            assert_int_equal(atomic_load(&b->fake.n_mtp_hole), 0);
    }
    qn_engine_close(b->tried);
}

static void bench_open(struct bench *b, uint64_t seed, const struct subject *s)
{
    memset(b, 0, sizeof *b);
    memcpy(b->axes, axis_table, sizeof axis_table);
    b->dice.seed = seed;
    b->s = s;
    snprintf(b->folder, sizeof b->folder, "/tmp/quern-tiers-XXXXXX");
    if (!mkdtemp(b->folder)) b->folder[0] = 0;
    struct qn_fake_options fo = {.max_context = MAX_TOKENS + 100};
    struct qn_engine_options o;
    qn_fake_init(&b->plain_fake, &fo);
    paint(b);
    qn_fake_engine_options(&b->plain_fake, &o);
    use_model(b, &o, 1);
    o.mtp = 0;
    o.max_seqs = 1;
    o.step_tokens = 1024;
    o.no_prefix_cache = true;
    int vocab = s->model ? qn_model_config(s->model)->vocab : b->plain_fake.config.vocab;
    o.mask = b->plain_mask = make_mask(vocab, s->text);
    b->tried_mask = make_mask(vocab, s->text);
    b->plain = open_engine(&o);
}

static void bench_close(struct bench *b)
{
    qn_engine_close(b->plain);
    char line[80];
    snprintf(line, sizeof line, "rm -rf %s", b->folder);
    if (b->folder[0] && system(line)) print_message("%s is left\n", b->folder);
    qn_mask_free(b->plain_mask);
    qn_mask_free(b->tried_mask);
    for (int i = 0; i < N_PICTURE; i++) qn_embeds_release(b->picture[i].embeds);
    for (int i = 0; i < b->n_pool; i++) free(b->pool[i].tok);
    for (int i = 0; i < b->n_question; i++) {
        free(b->question[i].tok);
        free(b->question[i].allowed);
        ask_free(&b->question[i].want);
    }
}

static uint64_t start_seed(void)
{
    const char *s = getenv("QUERN_SEED");
    return s ? strtoull(s, NULL, 10) : 20261123;
}

/* Of 3000 requests, or of as many as were asked for. */
static int wanted(int share)
{
    const char *s = getenv("QUERN_COMBINATIONS");
    return s ? QN_MAX((int)(atof(s) * share / 3000), 8) : share;
}

static void compare(struct bench *b, int n)
{
    char least[64];
    print_message("seed %llu\n", (unsigned long long)b->dice.seed);
    while (b->n_compared < n) {
        open_tried(b, QN_FAKE_OK);
        for (int i = 0; i < WAVES && b->n_compared < n; i++) run_wave(b, true);
        close_tried(b, true);
    }
    print_message(
        "%d requests compared, %d differ; %d with a cached prefix, %d preemptions, %lld of %lld drafts "
        "accepted\n",
        b->n_compared, b->n_wrong, b->n_cached, b->n_preempted, (long long)b->n_accepted,
        (long long)b->n_drafted);
    axis_print(b->axes, N_AXIS);
    assert_int_equal(b->n_wrong, 0);
    assert_true(n < 1000 || b->n_cached > n / 20);
    assert_true(n < 500 || (b->n_accepted > 0 && b->n_preempted > 0));
    if (n >= 1500 && axis_least(b->axes, N_AXIS, least) < n / 200) fail_msg("%s hardly occurs", least);
}

static void test_one_answer(void **state)
{
    (void)state;
    static const struct subject scripted = {.n_plain = 250, .end_tok = 255};
    static struct bench b;
    bench_open(&b, start_seed(), &scripted);
    compare(&b, wanted(2000));
    bench_close(&b);
}

struct kept {
    int vocab, n_row, next;
    float *last; /* [vocab] of the last row */
};

static int keep_last(void *user, int first, int n_row, const float *logits)
{
    struct kept *k = user;
    assert_int_equal(first, k->next);
    k->next = first + n_row;
    k->n_row += n_row;
    memcpy(k->last, logits + (size_t)(n_row - 1) * (size_t)k->vocab, (size_t)k->vocab * sizeof *logits);
    return QN_OK;
}

/* Logits of every position, of the model and of its draft head, beside the answer they lead to. */
static void check_logits(const struct qn_model *m, const char *backend, enum qn_act act)
{
    struct qn_engine_options o = {.model = m,
                                  .backend = qn_backend_get(backend),
                                  .act = act,
                                  .kv = -1,
                                  .max_seqs = 2,
                                  .max_context = 600,
                                  .step_tokens = 100,
                                  .mtp = 2,
                                  .n_thread = 1,
                                  .ram_tier_bytes = -1};
    struct qn_engine *g = open_engine(&o);
    struct kept k = {.vocab = qn_model_config(m)->vocab};
    struct qn_err e = {0};
    int32_t *tok = ask_prompt(9, 333, 250);
    k.last = xcalloc((size_t)k.vocab, sizeof *k.last);
    if (qn_engine_logits(g, tok, 333, false, keep_last, &k, &e)) fail_msg("logits: %s", e.text);
    assert_int_equal(k.n_row, 333);
    int best = 0;
    for (int i = 0; i < k.vocab; i++)
        if (k.last[i] > k.last[best]) best = i;
    struct qn_request_params p = ask_params(tok, 333);
    struct ask_answer a;
    ask(g, &p, &a);
    assert_int_equal(a.tok[0], best);
    ask_free(&a);
    k.n_row = 0;
    k.next = 1;
    if (qn_engine_logits(g, tok, 333, true, keep_last, &k, &e)) fail_msg("draft logits: %s", e.text);
    assert_int_equal(k.n_row, 332);
    free(k.last);
    free(tok);
    qn_engine_close(g);
}

/* Tokens and log-probabilities to the bit, on small synthetic models. */
static void test_one_answer_model(void **state)
{
    (void)state;
#ifdef QN_TEST_CUDA /* on the emulator */
    enum { SHARE = 250 };
    const enum qn_act other = QN_ACT_BF16;
    static const char *const backends[] = {"cuda"};
#else
    enum { SHARE = 100 };
    const enum qn_act other = QN_ACT_INT8;
    static const char *const backends[] = {"ref", "cpu"};
#endif
    const struct {
        const char *shape, *store;
        enum qn_act act;
    } cases[] = {{"tiny:layers=4,mtp=1", "bf16", QN_ACT_BF16},
                 {"tiny-moe:layers=4,mtp=1", "bf16", QN_ACT_BF16},
                 {"tiny:layers=4,mtp=1", "awq", other},
                 {"tiny-moe:layers=4,mtp=1", "nvfp4", other}};
    char folder[] = "/tmp/quern-answer-XXXXXX", path[80], line[120];
    assert_non_null(mkdtemp(folder));
    for (size_t i = 0; i < QN_COUNT(cases); i++) {
        struct qn_shape shape;
        struct qn_err e = {0};
        struct qn_model *m;
        snprintf(path, sizeof path, "%s/%zu", folder, i);
        if (qn_shape_find(&shape, cases[i].shape, &e)) fail_msg("%s", e.text);
        struct qn_synth synth = {.shape = &shape,
                                 .store = qn_store_find(cases[i].store),
                                 .seed = 5,
                                 .n_thread = 1,
                                 .is_quiet = true};
        if (qn_synth_write(&synth, path, &e) || qn_model_open(&m, path, &e)) fail_msg("%s", e.text);
        for (size_t k = 0; k < QN_COUNT(backends); k++) {
            if (!qn_backend_get(backends[k])) {
                print_message("%s: not built\n", backends[k]);
                continue;
            }
            const struct subject s = {.model = m,
                                      .backend = backends[k],
                                      .act = cases[i].act,
                                      .kv = -1,
                                      .n_plain = 250,
                                      .end_tok = 255};
            static struct bench b;
            print_message("%s as %s on %s\n", cases[i].shape, cases[i].store, backends[k]);
            bench_open(&b, start_seed() + i * 2 + k, &s);
            compare(&b, wanted(SHARE));
            bench_close(&b);
            check_logits(m, backends[k], cases[i].act);
        }
        qn_model_close(m);
    }
    snprintf(line, sizeof line, "rm -rf %s", folder);
    if (system(line)) print_message("%s is left\n", folder);
}

/* All of a file as ids, added to out. */
static void read_prose(struct subject *s, const char *path)
{
    char full[300];
    struct qn_buf text = QN_BUF_INIT(1 << 22);
    struct qn_err e = {0};
    snprintf(full, sizeof full, "%s/%s", QN_SOURCE_DIR, path);
    FILE *f = fopen(full, "rb");
    assert_non_null(f);
    if (qn_buf_read_stream(&text, f, full, &e)) fail_msg("%s", e.text);
    fclose(f);
    if (qn_tokenizer_encode(s->text->tokenizer, qn_buf_str(&text), text.n_byte, NULL, &s->prose, &e))
        fail_msg("%s", e.text);
    qn_buf_free(&text);
}

/* Where a user's turn begins, and where it ends and the answer begins. */
static void make_turn(struct subject *s)
{
    struct qn_ids ids = QN_IDS_INIT(64);
    static const char text[] = "<|im_start|>user\n<|im_end|>\n<|im_start|>assistant\n";
    if (qn_tokenizer_encode(s->text->tokenizer, text, strlen(text), NULL, &ids, NULL))
        fail_msg("a turn's ids");
    assert_int_equal(ids.n, QN_COUNT(s->opening) + QN_COUNT(s->closing));
    memcpy(s->opening, ids.data, sizeof s->opening);
    memcpy(s->closing, ids.data + QN_COUNT(s->opening), sizeof s->closing);
    qn_ids_free(&ids);
}

/* The model that ships: its drafts are accepted, and rejected, as those of a trained model are. */
static void test_one_answer_mini(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        enum qn_act act;
        int kv, share;
#ifdef QN_TEST_CUDA
    } ways[] = {{"bf16", QN_ACT_BF16, -1, 90},
                {"f32", QN_ACT_F32, -1, 20},
                {"bf16, KV e4m3 with scales of its own", QN_ACT_BF16, QN_KV_E4M3D, 40}};
    struct subject s = {.backend = "cuda", .prose = QN_IDS_INIT(1 << 20)};
#else
    } ways[] = {{"bf16", QN_ACT_BF16, -1, 300},
                {"f32", QN_ACT_F32, -1, 100},
                {"bf16, KV e4m3", QN_ACT_BF16, QN_KV_E4M3, 100},
                {"bf16, KV e5m2", QN_ACT_BF16, QN_KV_E5M2, 60},
                {"bf16, KV e4m3 with scales of its own", QN_ACT_BF16, QN_KV_E4M3D, 100}};
    struct subject s = {.backend = "cpu", .prose = QN_IDS_INIT(1 << 20)};
#endif
    struct qn_model *m;
    struct qn_err e = {0};
    if (!qn_backend_get(s.backend)) {
        print_message("skipped: no back end %s in this build\n", s.backend);
        skip();
    }
    if (qn_model_open(&m, QN_SOURCE_DIR "/models/mini", &e)) fail_msg("%s", e.text);
    if (qn_text_open(&s.text, QN_SOURCE_DIR "/models/mini", NULL, &e)) fail_msg("%s", e.text);
    s.model = m;
    s.end_tok = s.text->im_end_id;
    s.n_plain = 4000;
    make_turn(&s);
    read_prose(&s, "README.md");
    read_prose(&s, "models/mini/chat_template.jinja");
    read_prose(&s, "docs/engine.md");
    for (size_t i = 0; i < QN_COUNT(ways); i++) {
        static struct bench b;
        print_message("quern-mini, %s\n", ways[i].name);
        s.act = ways[i].act;
        s.kv = ways[i].kv;
        bench_open(&b, start_seed() + 100 + i, &s);
        compare(&b, wanted(ways[i].share));
        assert_true(b.n_accepted > 0);
        bench_close(&b);
    }
    qn_ids_free(&s.prose);
    qn_text_close(s.text);
    qn_model_close(m);
}

/* Each planted fault has to be found within the number of requests that the test above makes. */
static void test_finds_planted_faults(void **state)
{
    (void)state;
    static const struct subject scripted = {.n_plain = 250, .end_tok = 255};
    static const char *const names[QN_FAKE_N_FAULT] = {
        "none",
        "state committed for a rejected draft",
        "snapshot of uncommitted state",
        "stale slot not zeroed",
        "KV of a rejected draft reused",
        "batch row instead of the sequence's slot",
        "partial page of a prefix not copied",
    };
    for (int fault = QN_FAKE_OK + 1; fault < QN_FAKE_N_FAULT; fault++) {
        static struct bench b;
        bench_open(&b, start_seed(), &scripted);
        while (b.n_compared < 3000 && !b.n_wrong) {
            open_tried(&b, (enum qn_fake_fault)fault);
            for (int i = 0; i < WAVES && !b.n_wrong; i++) run_wave(&b, false);
            close_tried(&b, false);
        }
        print_message("%-46s %5d requests until found\n", names[fault], b.n_compared);
        assert_true(b.n_wrong > 0);
        bench_close(&b);
    }
}

int main(void)
{
    qn_log_set_level(QN_LOG_WARN);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_answer),
        cmocka_unit_test(test_one_answer_model),
        cmocka_unit_test(test_one_answer_mini),
        cmocka_unit_test(test_finds_planted_faults),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
