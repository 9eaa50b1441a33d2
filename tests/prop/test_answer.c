/* One answer: the tokens of a request do not depend on depth, batch, chunks, cache, preemption.
 *
 * Requests are made from a growing pool of histories (so that prefixes are shared, continued and left),
 * answered by a plain engine (one at a time, no cache, no drafts, one chunk) and by engines of every other
 * kind, beside neighbours. The scripted backend turns every mistake in the books into other tokens; each
 * fault of its list is planted once to see that this test finds it.
 *
 * QUERN_COMBINATIONS: requests to compare (default 3000); QUERN_SEED: where the random numbers start.
 * SPDX-License-Identifier: Apache-2.0 */
#include "support/test.h"

#include <math.h>

#include "base/mem.h"
#include "base/rng.h"
#include "model/checkpoint.h"
#include "model/synth.h"
#include "support/ask.h"
#include "support/backend_fake.h"
#include "text/constrain.h"
#include "text/mask.h"

#define MAX_HISTORY 24
#define MAX_WAVE    8
#define MAX_TOKENS  900

struct dice {
    uint64_t seed, n;
};

static int roll(struct dice *d, int sides)
{
    return (int)(qn_rng64(d->seed, d->n++, 1) % (uint64_t)sides);
}

struct history {
    int32_t *tok;
    int n;
};

struct question {
    struct qn_request_params params;
    int32_t *tok;
    int32_t stop[3], closing[2], bias_tok[2];
    float bias[2];
    struct qn_grammar *grammar[2]; /* one for each engine: a grammar has one user */
};

/* Tokens are bytes, the upper half pairs of letters; 255 ends. */
static const char *token_bytes(void *ctx, int id, size_t *n, int *kind)
{
    static char bytes[256][2];
    (void)ctx;
    *kind = id == 255 ? QN_MASK_END : id > 255 ? QN_MASK_CONTROL : QN_MASK_TEXT;
    *n = id >= 255 ? 0 : id < 128 ? 1 : 2;
    if (id >= 255) return "";
    bytes[id][0] = (char)(id < 128 ? id : 'a' + id % 26);
    bytes[id][1] = (char)('a' + id / 3 % 26);
    return bytes[id];
}

static struct qn_mask *make_mask(int vocab)
{
    struct qn_mask_vocab v = {.n_vocab = vocab, .bytes = token_bytes};
    struct qn_mask *m;
    struct qn_err e = {0};
    if (qn_mask_create(&m, &v, &e)) fail_msg("mask: %s", e.text);
    return m;
}

static struct qn_grammar *make_grammar(int which)
{
    static const char *const forms[] = {"([a-z]{2,9} )*[0-9]{1,3}", "(yes|no|perhaps not)(, (yes|no))*",
                                        "[{]\"name\": \"[a-z]+\", \"size\": [0-9]+[}]"};
    struct qn_constrain c = {.form = QN_CONTENT_REGEX, .text = forms[which]};
    struct qn_grammar *g;
    struct qn_err e = {0};
    if (qn_constrain_compile(&g, &c, NULL, &e)) fail_msg("grammar: %s", e.text);
    return g;
}

struct bench {
    struct dice dice;
    struct history pool[MAX_HISTORY];
    int n_pool;
    struct qn_fake plain_fake, fake;
    const struct qn_model *model; /* NULL: the scripted backend */
    const char *backend;
    struct qn_engine *plain, *tried;
    struct qn_mask *plain_mask, *tried_mask;
    int n_compared, n_cached, n_preempted, n_wrong;
    bool is_fixed;
    char folder[40]; /* of the disk tier: engines one after the other find what the last one left */
    char kind[160];
};

static void remember(struct bench *b, const int32_t *tok, int n)
{
    int at = b->n_pool < MAX_HISTORY ? b->n_pool++ : roll(&b->dice, MAX_HISTORY);
    free(b->pool[at].tok);
    n = QN_MIN(n, MAX_TOKENS);
    b->pool[at] = (struct history){xreallocarray(NULL, (size_t)n, sizeof *tok), n};
    memcpy(b->pool[at].tok, tok, (size_t)n * sizeof *tok);
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
    q->tok = xreallocarray(NULL, (size_t)(n_old + n_fresh), sizeof *q->tok);
    if (n_old) memcpy(q->tok, h->tok, (size_t)n_old * sizeof *q->tok);
    for (int i = 0; i < n_fresh; i++) q->tok[n_old + i] = roll(d, 100) ? roll(d, 250) : 255;
    struct qn_request_params *p = &q->params;
    *p = ask_params(q->tok, n_old + n_fresh);
    p->max_new = 1 + roll(d, 60);
    static const float temperatures[] = {0, 0.7f, 1.0f};
    p->sample.temperature = temperatures[roll(d, 3)];
    p->sample.seed = (uint64_t)roll(d, 5);
    if (!roll(d, 3)) p->sample.top_k = 1 + roll(d, 40);
    if (!roll(d, 3)) p->sample.top_p = 0.3f + 0.1f * (float)roll(d, 7);
    if (!roll(d, 4)) p->sample.min_p = 0.05f;
    if (!roll(d, 3)) {
        p->sample.presence = 0.5f * (float)roll(d, 4);
        p->sample.frequency = 0.25f * (float)roll(d, 4);
        p->sample.repetition = 1 + 0.2f * (float)roll(d, 3);
    }
    if (!roll(d, 3)) p->sample.n_top = roll(d, 4);
    if (!roll(d, 3)) {
        for (int i = 0; i < 3; i++) q->stop[i] = roll(d, 250);
        p->stop_tok = q->stop;
        p->n_stop = 3;
        p->min_new = roll(d, 3) ? 0 : roll(d, 20);
        p->ignore_eos = !roll(d, 8);
        p->keep_stop_tok = !roll(d, 3);
    }
    if (!roll(d, 4)) {
        p->is_thinking = true;
        p->think_budget = 1 + roll(d, 20);
        q->closing[0] = roll(d, 250);
        q->closing[1] = p->think_end = roll(d, 250);
        p->think_close = q->closing;
        p->n_think_close = 2;
    }
    if (!roll(d, 4)) {
        for (int i = 0; i < 2; i++) {
            q->bias_tok[i] = roll(d, 250);
            q->bias[i] = (float)(roll(d, 9) - 4);
        }
        p->bias_tok = q->bias_tok;
        p->bias = q->bias;
        p->n_bias = 2;
    }
    if (!roll(d, 8)) p->salt = (uint64_t)roll(d, 2);
    if (!roll(d, 4)) p->priority = QN_PRIORITY_LOW;
    p->client = (uint64_t)roll(d, 3);
    if (!roll(d, 6)) p->mtp = roll(d, QN_MAX_DRAFT + 1);
    if (!roll(d, 10)) p->prompt_top = roll(d, 3);
    if (!roll(d, 5)) {
        int which = roll(d, 3);
        for (int i = 0; i < 2; i++) q->grammar[i] = make_grammar(which);
        q->stop[0] = 255;
        p->stop_tok = q->stop;
        p->n_stop = 1;
        p->min_new = p->ignore_eos = 0;
        p->is_thinking = false;
    }
}

static bool is_equal(const struct ask_answer *a, const struct ask_answer *b)
{
    if (a->n != b->n || a->finish != b->finish || a->stop_tok != b->stop_tok || a->n_prompt != b->n_prompt)
        return false;
    if (a->n && memcmp(a->tok, b->tok, (size_t)a->n * sizeof *a->tok)) return false;
    if (a->n && memcmp(a->logprob, b->logprob, (size_t)a->n * sizeof *a->logprob)) return false;
    return !a->n_prompt || !memcmp(a->prompt_logprob, b->prompt_logprob, (size_t)a->n_prompt * sizeof(float));
}

static struct qn_engine *open_engine(struct qn_fake *fake, const struct qn_engine_options *o)
{
    struct qn_engine *g;
    struct qn_err e = {0};
    (void)fake;
    if (qn_engine_open(&g, o, &e)) fail_msg("open: %s", e.text);
    return g;
}

/* On a real model instead of the scripted one. */
static void use_model(const struct bench *b, struct qn_engine_options *o, int n_thread)
{
    if (!b->model) return;
    o->config = NULL;
    o->runner = NULL;
    o->model = b->model;
    o->backend = qn_backend_get(b->backend);
    o->n_thread = n_thread;
}

/* An engine of a random kind. */
static void open_tried(struct bench *b, enum qn_fake_fault fault)
{
    static const int depths[] = {0, 1, 2, 3, 5, 8, -1}, steps[] = {5, 16, 64, 100, 512};
    static const int accepts[] = {-1, 30, 70, 95, 100}, gaps[] = {1, 8, 64};
    struct dice *d = &b->dice;
    struct qn_fake_options fo = {.fault = fault,
                                 .max_context = MAX_TOKENS + 100,
                                 .accept_percent = accepts[roll(d, (int)QN_COUNT(accepts))]};
    qn_fake_init(&b->fake, &fo);
    struct qn_engine_options o;
    qn_fake_engine_options(&b->fake, &o);
    use_model(b, &o, 1 + roll(d, 2));
    o.mtp = depths[roll(d, (int)QN_COUNT(depths))];
    o.step_tokens = steps[roll(d, (int)QN_COUNT(steps))];
    o.max_seqs = 1 + roll(d, MAX_WAVE);
    o.snapshot_gap = gaps[roll(d, (int)QN_COUNT(gaps))];
    o.no_prefix_cache = !roll(d, 10);
    /* pools: plenty, or so few pages that sequences push each other out, or few slots */
    int n_most = QN_CEIL_DIV(o.max_context, QN_PAGE) + 1;
    static const int times[] = {1, 2, 10};
    o.n_page = n_most * times[roll(d, 3)];
    o.n_slot = o.max_seqs + (roll(d, 3) ? 20 : roll(d, 3));
    o.ram_tier_bytes = roll(d, 3) ? -1 : (int64_t)(64 + roll(d, 2000)) << 10;
    if (b->folder[0] && !roll(d, 3)) o.disk_tier = b->folder;
    snprintf(b->kind, sizeof b->kind,
             "mtp %d step %d seqs %d gap %d cache %d pages %d slots %d accept %d tiers %d %d", o.mtp,
             o.step_tokens, o.max_seqs, o.snapshot_gap, !o.no_prefix_cache, o.n_page, o.n_slot,
             fo.accept_percent, (int)(o.ram_tier_bytes >> 10), o.disk_tier != NULL);
    b->is_fixed = o.mtp >= 0;
    o.mask = b->tried_mask;
    b->tried = open_engine(&b->fake, &o);
}

static void run_wave(struct bench *b, bool is_loud)
{
    static const int waves[] = {1, 2, 8};
    struct question q[MAX_WAVE];
    struct qn_request *r[MAX_WAVE];
    struct ask_answer want[MAX_WAVE], got;
    int n = waves[roll(&b->dice, 3)];
    for (int i = 0; i < n; i++) {
        q[i] = (struct question){0};
        make_question(b, &q[i]);
        q[i].params.constraint = q[i].grammar[0];
        ask(b->plain, &q[i].params, &want[i]);
        if (want[i].finish == QN_FINISH_ERROR) fail_msg("plain: %s", want[i].error.text);
    }
    struct qn_err e = {0};
    for (int i = 0; i < n; i++) {
        q[i].params.constraint = q[i].grammar[1];
        if (qn_engine_submit(b->tried, &q[i].params, &r[i], &e)) fail_msg("submit: %s", e.text);
    }
    for (int i = 0; i < n; i++) {
        ask_read(r[i], &got);
        b->n_compared++;
        b->n_cached += got.stats.n_cached > 0;
        if (!is_equal(&want[i], &got)) {
            b->n_wrong++;
            if (is_loud) {
                int at = 0;
                while (at < want[i].n && at < got.n && want[i].tok[at] == got.tok[at] &&
                       !memcmp(&want[i].logprob[at], &got.logprob[at], sizeof(float)))
                    at++;
                print_message("differs: [%s] prompt %d cached %d, token %d of %d (%d), finish %d (%d) %s\n",
                              b->kind, q[i].params.n_tok, got.stats.n_cached, at, want[i].n, got.n,
                              (int)want[i].finish, (int)got.finish, got.error.text);
            }
        }
        /* the next turn, and what this one was */
        int32_t all[MAX_TOKENS + 100];
        int n_all = q[i].params.n_tok;
        memcpy(all, q[i].tok, (size_t)n_all * sizeof *all);
        for (int k = 0; k < want[i].n && n_all < MAX_TOKENS + 100; k++) all[n_all++] = want[i].tok[k];
        remember(b, all, n_all);
        ask_free(&got);
        ask_free(&want[i]);
        free(q[i].tok);
        for (int k = 0; k < 2; k++) qn_grammar_release(q[i].grammar[k]);
    }
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

static void bench_open(struct bench *b, uint64_t seed, const struct qn_model *model, const char *backend)
{
    memset(b, 0, sizeof *b);
    b->dice.seed = seed;
    b->model = model;
    b->backend = backend;
    snprintf(b->folder, sizeof b->folder, "/tmp/quern-tiers-XXXXXX");
    if (!mkdtemp(b->folder)) b->folder[0] = 0;
    struct qn_fake_options fo = {.max_context = MAX_TOKENS + 100};
    struct qn_engine_options o;
    qn_fake_init(&b->plain_fake, &fo);
    qn_fake_engine_options(&b->plain_fake, &o);
    use_model(b, &o, 1);
    o.mtp = 0;
    o.max_seqs = 1;
    o.step_tokens = 1024;
    o.no_prefix_cache = true;
    int vocab = model ? qn_model_config(model)->vocab : b->plain_fake.config.vocab;
    o.mask = b->plain_mask = make_mask(vocab);
    b->tried_mask = make_mask(vocab);
    b->plain = open_engine(&b->plain_fake, &o);
}

static void bench_close(struct bench *b)
{
    qn_engine_close(b->plain);
    char line[80];
    snprintf(line, sizeof line, "rm -rf %s", b->folder);
    if (b->folder[0] && system(line)) print_message("%s is left\n", b->folder);
    qn_mask_free(b->plain_mask);
    qn_mask_free(b->tried_mask);
    for (int i = 0; i < b->n_pool; i++) free(b->pool[i].tok);
}

static uint64_t start_seed(void)
{
    const char *s = getenv("QUERN_SEED");
    return s ? strtoull(s, NULL, 10) : 20261123;
}

static int wanted(int least)
{
    const char *s = getenv("QUERN_COMBINATIONS");
    return s ? QN_MAX(atoi(s) * least / 3000, 8) : least;
}

static void compare(struct bench *b, int n)
{
    print_message("seed %llu\n", (unsigned long long)b->dice.seed);
    while (b->n_compared < n) {
        open_tried(b, QN_FAKE_OK);
        for (int i = 0; i < 24 && b->n_compared < n; i++) run_wave(b, true);
        close_tried(b, true);
    }
    print_message("%d requests compared, %d of them with a cached prefix, %d preemptions, %d differ\n",
                  b->n_compared, b->n_cached, b->n_preempted, b->n_wrong);
    assert_int_equal(b->n_wrong, 0);
    assert_true(n < 1000 || b->n_cached > n / 20);
}

static void test_one_answer(void **state)
{
    (void)state;
    struct bench b;
    bench_open(&b, start_seed(), NULL, NULL);
    compare(&b, wanted(3000));
    assert_true(b.n_preempted > 0);
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
static void check_logits(const struct qn_model *m, const char *backend)
{
    struct qn_engine_options o = {.model = m,
                                  .backend = qn_backend_get(backend),
                                  .kv = -1,
                                  .max_seqs = 2,
                                  .max_context = 600,
                                  .step_tokens = 100,
                                  .mtp = 2,
                                  .n_thread = 1,
                                  .ram_tier_bytes = -1};
    struct qn_engine *g = open_engine(NULL, &o);
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
    static const char *const shapes[] = {"tiny:layers=4,mtp=1", "tiny-moe:layers=4,mtp=1"};
    static const char *const backends[] = {"ref", "cpu"};
    char folder[] = "/tmp/quern-answer-XXXXXX", path[80], line[120];
    assert_non_null(mkdtemp(folder));
    for (size_t i = 0; i < QN_COUNT(shapes); i++) {
        struct qn_shape shape;
        struct qn_err e = {0};
        struct qn_model *m;
        snprintf(path, sizeof path, "%s/%zu", folder, i);
        if (qn_shape_find(&shape, shapes[i], &e)) fail_msg("%s", e.text);
        struct qn_synth synth = {
            .shape = &shape, .store = qn_store_find("bf16"), .seed = 5, .n_thread = 1, .is_quiet = true};
        if (qn_synth_write(&synth, path, &e) || qn_model_open(&m, path, &e)) fail_msg("%s", e.text);
        for (size_t k = 0; k < QN_COUNT(backends); k++) {
            if (!qn_backend_get(backends[k])) {
                print_message("%s: not built\n", backends[k]);
                continue;
            }
            struct bench b;
            print_message("%s on %s\n", shapes[i], backends[k]);
            bench_open(&b, start_seed() + i * 2 + k, m, backends[k]);
            compare(&b, wanted(100));
            bench_close(&b);
            check_logits(m, backends[k]);
        }
        qn_model_close(m);
    }
    snprintf(line, sizeof line, "rm -rf %s", folder);
    if (system(line)) print_message("%s is left\n", folder);
}

/* Each planted fault has to be found within the number of requests that the test above makes. */
static void test_finds_planted_faults(void **state)
{
    (void)state;
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
        struct bench b;
        bench_open(&b, start_seed(), NULL, NULL);
        while (b.n_compared < 3000 && !b.n_wrong) {
            open_tried(&b, (enum qn_fake_fault)fault);
            for (int i = 0; i < 24 && !b.n_wrong; i++) run_wave(&b, false);
            close_tried(&b, false);
        }
        print_message("%s: found after %d requests\n", names[fault], b.n_compared);
        assert_true(b.n_wrong > 0);
        bench_close(&b);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_answer),
        cmocka_unit_test(test_one_answer_model),
        cmocka_unit_test(test_finds_planted_faults),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
