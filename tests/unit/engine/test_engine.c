/* The engine on the scripted backend: answers, ends, refusals.
 * SPDX-License-Identifier: Apache-2.0 */
#include "support/test.h"

#include <math.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/mem.h"
#include "support/ask.h"
#include "support/backend_fake.h"

static struct qn_fake fake;

static struct qn_engine *open_fake(const struct qn_fake_options *fo,
                                   void (*change)(struct qn_engine_options *))
{
    struct qn_engine_options o;
    struct qn_engine *g;
    struct qn_err e = {0};
    qn_fake_init(&fake, fo);
    qn_fake_engine_options(&fake, &o);
    if (change) change(&o);
    if (qn_engine_open(&g, &o, &e)) fail_msg("open: %s", e.text);
    return g;
}

static void close_fake(struct qn_engine *g)
{
    struct qn_engine_stats s;
    qn_engine_stats(g, &s);
    assert_int_equal(s.n_running, 0);
    assert_int_equal(s.n_page_used, 0);
    assert_int_equal(s.n_slot_live, 0);
    qn_engine_close(g);
    assert_int_equal(atomic_load(&fake.n_violation), 0);
}

static void test_answers_are_repeatable(void **state)
{
    (void)state;
    struct qn_engine *g = open_fake(NULL, NULL);
    int32_t *prompt = ask_prompt(1, 100, 200);
    struct qn_request_params p = ask_params(prompt, 100);
    p.max_new = 50;
    p.mtp = 2; /* automatic depth goes by the time, which says nothing here */
    struct ask_answer a, b;
    ask(g, &p, &a);
    ask(g, &p, &b);
    assert_int_equal(a.finish, QN_FINISH_LENGTH);
    assert_int_equal(a.n, 50);
    assert_int_equal(b.n, 50);
    assert_memory_equal(a.tok, b.tok, 50 * sizeof *a.tok);
    assert_int_equal(a.stats.n_cached, 0);
    assert_true(b.stats.n_cached > 64);
    assert_true(a.stats.n_accepted > 5);
    assert_true(a.stats.n_step < 50);
    ask_free(&a);
    ask_free(&b);
    free(prompt);
    close_fake(g);
}

static int32_t says_stop(void *user, const int32_t *tok, int n)
{
    (void)user;
    return n < 30 ? tok[n - 1] + 1 : 255;
}

static void test_stop_tokens(void **state)
{
    (void)state;
    struct qn_fake_options fo = {.script = says_stop, .accept_percent = 100};
    struct qn_engine *g = open_fake(&fo, NULL);
    int32_t prompt[20], stop = 255;
    for (int i = 0; i < 20; i++) prompt[i] = i;
    struct qn_request_params p = ask_params(prompt, 20);
    struct ask_answer a;
    p.max_new = 100;
    p.stop_tok = &stop;
    p.n_stop = 1;
    ask(g, &p, &a);
    assert_int_equal(a.finish, QN_FINISH_STOP);
    assert_int_equal(a.stop_tok, 255);
    assert_int_equal(a.n, 10);
    assert_int_equal(a.tok[9], 29);
    ask_free(&a);
    p.keep_stop_tok = true;
    ask(g, &p, &a);
    assert_int_equal(a.n, 11);
    assert_int_equal(a.tok[10], 255);
    ask_free(&a);
    p.min_new = 15; /* stop tokens are masked before */
    ask(g, &p, &a);
    assert_int_equal(a.n, 16);
    assert_int_equal(a.stop_tok, 255);
    for (int i = 10; i < 15; i++) assert_int_not_equal(a.tok[i], 255);
    ask_free(&a);
    p.ignore_eos = true;
    ask(g, &p, &a);
    assert_int_equal(a.n, 100);
    assert_int_equal(a.finish, QN_FINISH_LENGTH);
    ask_free(&a);
    close_fake(g);
}

static void test_thinking_budget(void **state)
{
    (void)state;
    int32_t *prompt = ask_prompt(3, 40, 200);
    const int32_t closing[] = {7, 8, 9};
    struct ask_answer plain = {0};
    for (int depth = 0; depth <= QN_MAX_DRAFT; depth++) {
        struct qn_engine *g = open_fake(NULL, NULL);
        struct qn_request_params p = ask_params(prompt, 40);
        struct ask_answer a;
        p.max_new = 30;
        p.mtp = depth;
        p.is_thinking = true;
        p.think_budget = 11;
        p.think_end = 9;
        p.think_close = closing;
        p.n_think_close = 3;
        ask(g, &p, &a);
        assert_int_equal(a.n, 30);
        assert_memory_equal(a.tok + 11, closing, sizeof closing);
        if (depth)
            assert_memory_equal(a.tok, plain.tok, 30 * sizeof *a.tok);
        else
            plain = a;
        if (depth) ask_free(&a);
        close_fake(g);
    }
    ask_free(&plain);
    free(prompt);
}

/* Rules that depend on what was generated: the same tokens at every depth. */
static void test_rules(void **state)
{
    (void)state;
    int32_t *prompt = ask_prompt(4, 40, 200);
    const int32_t closing[] = {7, 8, 9};
    struct ask_answer free_run, first[4] = {0};
    struct qn_engine *g = open_fake(NULL, NULL);
    struct qn_request_params base = ask_params(prompt, 40);
    base.max_new = 60;
    ask(g, &base, &free_run);
    close_fake(g);
    /* forbidden: a pair and a single token the free run has */
    const int32_t ban[] = {free_run.tok[5], free_run.tok[6], free_run.tok[20]};
    const int ban_len[] = {2, 1};
    const uint32_t allowed[] = {0, 0xffff0000u, 1}; /* 48 to 64 */
    const int32_t five[] = {5};
    const float push[] = {100};
    const int32_t stop[] = {5};
    for (int depth = 0; depth <= QN_MAX_DRAFT; depth++)
        for (int what = 0; what < 4; what++) {
            g = open_fake(NULL, NULL);
            struct qn_request_params p = base;
            struct ask_answer a;
            p.mtp = depth;
            if (what == 0) {
                p.ban_tok = ban;
                p.ban_len = ban_len;
                p.n_ban = 2;
            } else if (what == 1) {
                p.allowed_bits = allowed;
                p.n_allowed_word = 3;
            } else { /* says 5 and nothing else; closes its thought for that, or cannot stop before */
                p.max_new = 300;
                p.bias_tok = five;
                p.bias = push;
                p.n_bias = 1;
                p.is_thinking = true;
                p.think_end = 9;
                p.think_close = closing;
                p.n_think_close = 3;
                if (what == 3) {
                    p.think_budget = 50;
                    p.stop_tok = stop;
                    p.n_stop = 1;
                }
            }
            ask(g, &p, &a);
            for (int i = 0; what == 0 && i < a.n; i++) {
                assert_int_not_equal(a.tok[i], ban[2]);
                if (i) assert_false(a.tok[i - 1] == ban[0] && a.tok[i] == ban[1]);
            }
            for (int i = 0; what == 1 && i < a.n; i++) assert_in_range(a.tok[i], 48, 64);
            if (what == 2) {
                assert_int_equal(a.tok[207], 5);
                assert_memory_equal(a.tok + 208, closing, sizeof closing);
                assert_int_equal(a.n, 300);
            }
            if (what == 3) { /* 50 others, the close, then at once the stop */
                for (int i = 0; i < 50; i++) assert_int_not_equal(a.tok[i], 5);
                assert_memory_equal(a.tok + 50, closing, sizeof closing);
                assert_int_equal(a.n, 53);
                assert_int_equal(a.finish, QN_FINISH_STOP);
            }
            if (depth) {
                assert_int_equal(a.n, first[what].n);
                assert_memory_equal(a.tok, first[what].tok, (size_t)a.n * sizeof *a.tok);
                ask_free(&a);
            } else {
                first[what] = a;
            }
            close_fake(g);
        }
    for (int i = 0; i < 4; i++) ask_free(&first[i]);
    ask_free(&free_run);
    free(prompt);
}

static void test_log_probabilities(void **state)
{
    (void)state;
    struct qn_engine *g = open_fake(NULL, NULL);
    int32_t *prompt = ask_prompt(4, 150, 200);
    struct qn_request_params p = ask_params(prompt, 150);
    struct ask_answer a;
    p.sample.n_top = 3;
    p.prompt_top = 2;
    ask(g, &p, &a);
    assert_int_equal(a.n_prompt, 150);
    assert_true(isnan(a.prompt_logprob[0]));
    for (int i = 1; i < 150; i++) assert_true(a.prompt_logprob[i] < 0 && a.prompt_logprob[i] > -20);
    for (int i = 0; i < a.n; i++) assert_true(a.logprob[i] < 0 && a.logprob[i] > -8);
    ask_free(&a);
    free(prompt);
    close_fake(g);
}

static void few(struct qn_engine_options *o)
{
    o->max_seqs = 2;
    o->max_queue = 3;
}

static void test_refusals(void **state)
{
    (void)state;
    struct qn_fake_options fo = {.step_us = 2000};
    struct qn_engine *g = open_fake(&fo, few);
    int32_t *prompt = ask_prompt(5, 5000, 200);
    struct qn_request_params p = ask_params(prompt, 5000);
    struct qn_request *r[8];
    struct qn_err e = {0};
    assert_int_equal(qn_engine_submit(g, &p, &r[0], &e), QN_TOOBIG);
    assert_non_null(strstr(e.text, "5000"));
    assert_non_null(strstr(e.text, "4096"));
    p.n_tok = 10;
    prompt[3] = 256;
    assert_int_equal(qn_engine_submit(g, &p, &r[0], &e), QN_INVAL);
    prompt[3] = -1;
    assert_int_equal(qn_engine_submit(g, &p, &r[0], &e), QN_INVAL);
    prompt[3] = 3;
    p.sample.temperature = NAN;
    assert_int_equal(qn_engine_submit(g, &p, &r[0], &e), QN_INVAL);
    p.sample.temperature = 0;
    p.max_new = 200;
    int n = 0;
    while (n < 8 && !qn_engine_submit(g, &p, &r[n], &e)) n++;
    assert_int_equal(n, 5); /* two running, three waiting */
    assert_int_equal(e.code, QN_BUSY);
    for (int i = 0; i < n; i++) qn_request_cancel(r[i]);
    for (int i = 0; i < n; i++) {
        struct ask_answer a;
        ask_read(r[i], &a);
        assert_int_equal(a.finish, QN_FINISH_CANCEL);
        ask_free(&a);
    }
    free(prompt);
    close_fake(g);
}

static void test_deadline_and_drain(void **state)
{
    (void)state;
    struct qn_fake_options fo = {.step_us = 2000};
    struct qn_engine *g = open_fake(&fo, NULL);
    int32_t *prompt = ask_prompt(6, 50, 200);
    struct qn_request_params p = ask_params(prompt, 50);
    struct ask_answer a;
    p.max_new = 3000;
    p.deadline_us = qn_now_us() + 30000;
    ask(g, &p, &a);
    assert_int_equal(a.finish, QN_FINISH_ERROR);
    assert_int_equal(a.error.code, QN_TIMEOUT);
    ask_free(&a);
    p.deadline_us = 0;
    struct qn_request *r;
    struct qn_err e = {0};
    assert_int_equal(qn_engine_submit(g, &p, &r, &e), QN_OK);
    qn_engine_drain(g, qn_now_us() + 20000);
    ask_read(r, &a);
    assert_int_equal(a.finish, QN_FINISH_CANCEL);
    ask_free(&a);
    assert_int_equal(qn_engine_submit(g, &p, &r, &e), QN_BUSY);
    free(prompt);
    close_fake(g);
}

static void test_device_fault(void **state)
{
    (void)state;
    struct qn_fake_options fo = {.fail_at_step = 5};
    struct qn_engine *g = open_fake(&fo, NULL);
    int32_t *prompt = ask_prompt(6, 50, 200);
    struct qn_request_params p = ask_params(prompt, 50);
    struct ask_answer a;
    p.max_new = 100;
    ask(g, &p, &a);
    assert_int_equal(a.finish, QN_FINISH_ERROR);
    assert_int_equal(a.error.code, QN_DEVICE);
    assert_non_null(strstr(a.error.text, "scripted fault"));
    ask_free(&a);
    ask(g, &p, &a);
    assert_int_equal(a.error.code, QN_DEVICE);
    assert_false(qn_engine_is_alive(g));
    free(prompt);
    close_fake(g);
}

struct collected {
    float *logits;
    int next;
};

static int collect(void *user, int first, int n_row, const float *logits)
{
    struct collected *c = user;
    assert_int_equal(first, c->next);
    memcpy(c->logits + (size_t)first * 256, logits, (size_t)n_row * 256 * sizeof *logits);
    c->next = first + n_row;
    return QN_OK;
}

static int refuse(void *user, int first, int n_row, const float *logits)
{
    (void)user, (void)first, (void)n_row, (void)logits;
    return QN_IO;
}

struct scored {
    const float *logits; /* [n, 256] raw */
    const int32_t *tok;
    int n;
};

/* Scores are those of the raw logits; the last row has none. */
static int collect_scores(void *user, int first, int n_row, const struct qn_step_token *score)
{
    struct scored *t = user;
    for (int i = 0; i < n_row; i++) {
        const float *x = t->logits + (size_t)(first + i) * 256;
        double sum = 0;
        if (first + i == 499) {
            assert_int_equal(score[i].tok, -1);
            continue;
        }
        for (int v = 0; v < 256; v++) sum += exp((double)x[v]);
        int32_t tok = t->tok[first + i + 1];
        assert_int_equal(score[i].tok, tok);
        assert_true(fabs(score[i].logprob - (x[tok] - log(sum))) < 1e-5);
        t->n++;
    }
    return QN_OK;
}

static int refuse_scores(void *user, int first, int n_row, const struct qn_step_token *score)
{
    (void)user, (void)first, (void)n_row, (void)score;
    return QN_IO;
}

static void test_logits(void **state)
{
    (void)state;
    struct qn_engine *g = open_fake(NULL, NULL);
    int32_t *prompt = ask_prompt(7, 500, 200);
    struct collected c = {.logits = xcalloc(500 * 256, sizeof *c.logits)};
    struct qn_err e = {0};
    assert_int_equal(qn_engine_logits(g, prompt, 500, false, collect, &c, &e), QN_OK);
    assert_int_equal(c.next, 500);
    struct qn_request_params p = ask_params(prompt, 500);
    struct ask_answer a;
    p.max_new = 1;
    ask(g, &p, &a);
    int best = 0;
    for (int i = 0; i < 256; i++)
        if (c.logits[499 * 256 + i] > c.logits[499 * 256 + best]) best = i;
    assert_int_equal(a.tok[0], best);
    ask_free(&a);
    c.next = 1;
    assert_int_equal(qn_engine_logits(g, prompt, 500, true, collect, &c, &e), QN_OK);
    assert_int_equal(c.next, 500);
    struct scored t = {.logits = c.logits, .tok = prompt};
    c.next = 0;
    assert_int_equal(qn_engine_logits(g, prompt, 500, false, collect, &c, &e), QN_OK);
    assert_int_equal(qn_engine_scores(g, prompt, 500, collect_scores, &t, &e), QN_OK);
    assert_int_equal(t.n, 499);
    assert_int_equal(qn_engine_scores(g, prompt, 500, refuse_scores, &t, &e), QN_IO);
    assert_int_equal(qn_engine_logits(g, prompt, 500, false, refuse, &c, &e), QN_IO);
    assert_int_equal(qn_engine_logits(g, prompt, 5000, false, refuse, &c, &e), QN_TOOBIG);
    free(c.logits);
    free(prompt);
    usleep(20000);
    close_fake(g);
}

/* A reader that sleeps for as long as it may has each event soon, the end too. */
static void test_readers_are_woken(void **state)
{
    (void)state;
    struct qn_fake_options fo = {.step_us = 20000};
    struct qn_engine *g = open_fake(&fo, NULL);
    int32_t *prompt = ask_prompt(7, 100, 200);
    struct qn_request_params p = ask_params(prompt, 100);
    struct qn_request *r;
    struct qn_event event = {.kind = QN_EVENT_TOKEN};
    struct qn_err e = {0};
    p.max_new = 5;
    p.mtp = 0;
    assert_int_equal(qn_engine_submit(g, &p, &r, &e), QN_OK);
    int64_t start = qn_now_us();
    for (int n = 0; event.kind != QN_EVENT_END; n++) {
        assert_true(n < 6);
        assert_int_equal(qn_request_next(r, &event, 20000000), QN_OK);
    }
    assert_true(qn_now_us() - start < 10000000);
    qn_request_release(r);
    free(prompt);
    close_fake(g);
}

static int32_t counts_up(void *user, const int32_t *tok, int n)
{
    (void)user;
    return tok[0] == 1 ? tok[n - 1] + 1 : -1; /* others: a pick from the hash */
}

static int n_cached_things(struct qn_engine *g)
{
    struct qn_engine_stats s;
    qn_engine_stats(g, &s);
    return s.n_page_cached * 1000 + s.n_slot_snapshot;
}

/* A row of NaN ends its own request, at every depth behind the same tokens; neighbours have their answers. */
static void bad_row_ends_one(float bad, float temperature)
{
    int32_t prompt[70];
    for (int i = 0; i < 70; i++) prompt[i] = 1 + i;
    struct ask_answer alone[3], with[3], a;
    for (int depth = 0; depth <= QN_MAX_DRAFT; depth++) {
        struct qn_fake_options fo = {
            .script = counts_up, .accept_percent = depth % 2 ? 100 : 60, .bad_tok = 240, .bad_logit = bad};
        struct qn_engine *g = open_fake(&fo, NULL);
        struct qn_request *other[3], *r;
        struct qn_err e = {0};
        struct qn_request_params p = ask_params(prompt, 70);
        p.sample.temperature = temperature;
        p.sample.n_top = 2;
        p.max_new = 200;
        p.mtp = depth;
        int32_t *texts[3];
        const float never = -1e6f;
        const int32_t bad_tok = 240;
        for (int round = 0; round < 2; round++) {
            if (round) assert_int_equal(qn_engine_submit(g, &p, &r, &e), QN_OK);
            for (int i = 0; i < 3; i++) {
                texts[i] = ask_prompt((uint64_t)(50 + i), 90, 200);
                texts[i][0] = 2;
                struct qn_request_params q = ask_params(texts[i], 90);
                q.sample.temperature = temperature;
                q.sample.seed = 5;
                q.max_new = 250;
                q.mtp = depth;
                q.bias_tok = &bad_tok;
                q.bias = &never;
                q.n_bias = 1;
                assert_int_equal(qn_engine_submit(g, &q, &other[i], &e), QN_OK);
            }
            if (round) ask_read(r, &a);
            for (int i = 0; i < 3; i++) ask_read(other[i], round ? &with[i] : &alone[i]);
            for (int i = 0; i < 3; i++) free(texts[i]);
        }
        for (int i = 0; i < 3; i++) {
            assert_int_equal(with[i].finish, QN_FINISH_LENGTH);
            assert_int_equal(with[i].n, 250);
            assert_memory_equal(with[i].tok, alone[i].tok, 250 * sizeof *with[i].tok);
            ask_free(&with[i]);
            ask_free(&alone[i]);
        }
        assert_int_equal(a.finish, QN_FINISH_ERROR);
        assert_int_equal(a.error.code, QN_INTERNAL);
        assert_non_null(strstr(a.error.text, "the model produced no finite logits at position 240 "));
        assert_int_equal(a.n, 170);
        for (int i = 0; i < a.n; i++) assert_int_equal(a.tok[i], 71 + i);
        ask_free(&a);
        /* what was right of it stays known, its last state does not */
        p.max_new = 20;
        ask(g, &p, &a);
        assert_int_equal(a.finish, QN_FINISH_LENGTH);
        assert_int_equal(a.stats.n_cached, 69);
        ask_free(&a);
        close_fake(g);
    }
}

static void test_bad_row_ends_one(void **state)
{
    (void)state;
    bad_row_ends_one(NAN, 0);
    bad_row_ends_one(NAN, 1);
    bad_row_ends_one(-INFINITY, 0);
    bad_row_ends_one(INFINITY, 1);
}

/* A prompt whose last row is bad leaves the cache as it was; so does one whose log-probabilities are. */
static void test_bad_prompt(void **state)
{
    (void)state;
    struct qn_fake_options fo = {.bad_tok = 240, .bad_logit = NAN};
    struct qn_engine *g = open_fake(&fo, NULL);
    int32_t *prompt = ask_prompt(9, 1000, 200);
    struct ask_answer a, b;
    struct qn_request_params p = ask_params(prompt, 300);
    const float never = -1e6f;
    const int32_t bad_tok = 240;
    p.bias_tok = &bad_tok;
    p.bias = &never;
    p.n_bias = 1;
    ask(g, &p, &a);
    assert_int_equal(a.finish, QN_FINISH_LENGTH);
    int before = n_cached_things(g);
    prompt[999] = 240;
    for (int n_tok = 1000; n_tok >= 400; n_tok -= 300) { /* with more chunks, and fewer */
        prompt[n_tok - 1] = 240;
        struct qn_request_params q = p;
        q.n_tok = n_tok;
        ask(g, &q, &b);
        assert_int_equal(b.finish, QN_FINISH_ERROR);
        assert_non_null(strstr(b.error.text, "no finite logits at position"));
        assert_int_equal(b.n, 0);
        assert_true(b.stats.n_cached > 250);
        ask_free(&b);
        assert_int_equal(n_cached_things(g), before);
    }
    prompt[350] = 240;
    p.n_tok = 500;
    p.prompt_top = 0;
    ask(g, &p, &b);
    assert_int_equal(b.finish, QN_FINISH_ERROR);
    assert_non_null(strstr(b.error.text, "no finite logits at position 351 "));
    assert_int_equal(b.n_prompt, 351);
    ask_free(&b);
    assert_int_equal(n_cached_things(g), before);
    p.n_tok = 300;
    p.prompt_top = -1;
    ask(g, &p, &b);
    assert_int_equal(b.n, a.n);
    assert_memory_equal(b.tok, a.tok, (size_t)a.n * sizeof *a.tok);
    assert_int_equal(b.stats.n_cached, 299);
    ask_free(&a);
    ask_free(&b);
    free(prompt);
    close_fake(g);
}

/* Where snapshots are: every few thousand tokens of a long prompt, behind the end of a turn, and where a
 * prompt leaves one that is known; a third one that leaves it there resumes there. */
static void test_where_snapshots_are(void **state)
{
    (void)state;
    struct qn_fake_options fo = {.max_context = 22000};
    struct qn_engine *g = open_fake(&fo, NULL);
    struct qn_request_params p;
    struct ask_answer a;
    const int end_of_turn = 255;
    static const int parts_at[] = {19001, 17000, 12000, 12000, 300, 300};
    static const int resumed[] = {19001, 16384, 8192, 12000, 0, 300};
    int32_t *prompt = ask_prompt(1, 20000, 200);
    prompt[19000] = end_of_turn;
    p = ask_params(prompt, 20000);
    p.max_new = 1;
    ask(g, &p, &a);
    ask_free(&a);
    for (int i = 0; i < (int)QN_COUNT(parts_at); i++) {
        int32_t *other = ask_prompt(50 + (uint64_t)i, 19500, 200);
        memcpy(other, prompt, (size_t)parts_at[i] * sizeof *prompt);
        other[parts_at[i]] = (prompt[parts_at[i]] + 1 + i) % 200;
        p = ask_params(other, 19500);
        p.max_new = 1;
        ask(g, &p, &a);
        assert_int_equal(a.stats.n_cached, resumed[i]);
        ask_free(&a);
        free(other);
    }
    free(prompt);
    close_fake(g);
}

static void one_slow(struct qn_engine_options *o)
{
    o->max_seqs = 1;
    o->step_tokens = 100;
}

/* So that it is suspended between two slices, which leaves pages and no snapshot. */
static void one_slow_sliced(struct qn_engine_options *o)
{
    one_slow(o);
    o->slice_parts = 1;
}

/* The same of a prompt that had to make room while it was read: what it left then goes as well. is_known: its
 * pages are others' (and it reads them again, for their log-probabilities), so that only its snapshot is its
 * own. */
static void bad_prompt_suspended(bool is_known, bool is_sliced)
{
    struct qn_fake_options fo = {.bad_tok = 240, .bad_logit = NAN, .step_us = 3000};
    struct qn_engine *g = open_fake(&fo, is_sliced ? one_slow_sliced : one_slow);
    int32_t *prompt = ask_prompt(9, 2000, 200), *other = ask_prompt(4, 30, 200);
    struct qn_request_params p = ask_params(prompt, 1990), q = ask_params(other, 30);
    const float never = -1e6f;
    const int32_t bad_tok = 240;
    p.bias_tok = q.bias_tok = &bad_tok;
    p.bias = q.bias = &never;
    p.n_bias = q.n_bias = 1;
    p.max_new = q.max_new = 3;
    struct ask_answer a;
    struct qn_request *r;
    struct qn_err e = {0};
    ask(g, &q, &a);
    ask_free(&a);
    if (is_known) {
        ask(g, &p, &a);
        ask_free(&a);
        p.prompt_top = 0;
    }
    int before = n_cached_things(g);
    prompt[1999] = 240;
    p.n_tok = 2000;
    p.priority = QN_PRIORITY_LOW;
    if (qn_engine_submit(g, &p, &r, &e)) fail_msg("submit: %s", e.text);
    while (qn_request_progress(r) < 500) usleep(500);
    ask(g, &q, &a);
    assert_int_equal(a.finish, QN_FINISH_LENGTH);
    ask_free(&a);
    ask_read(r, &a);
    struct qn_engine_stats s;
    qn_engine_stats(g, &s);
    assert_true(s.n_preempted >= 1);
    assert_int_equal(a.finish, QN_FINISH_ERROR);
    assert_non_null(strstr(a.error.text, "no finite logits at position"));
    ask_free(&a);
    assert_int_equal(n_cached_things(g), before);
    free(prompt);
    free(other);
    close_fake(g);
}

static void test_bad_prompt_suspended(void **state)
{
    (void)state;
    bad_prompt_suspended(false, false);
    bad_prompt_suspended(true, false);
    bad_prompt_suspended(false, true);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_answers_are_repeatable),
        cmocka_unit_test(test_stop_tokens),
        cmocka_unit_test(test_thinking_budget),
        cmocka_unit_test(test_rules),
        cmocka_unit_test(test_log_probabilities),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_deadline_and_drain),
        cmocka_unit_test(test_device_fault),
        cmocka_unit_test(test_logits),
        cmocka_unit_test(test_readers_are_woken),
        cmocka_unit_test(test_bad_row_ends_one),
        cmocka_unit_test(test_bad_prompt),
        cmocka_unit_test(test_bad_prompt_suspended),
        cmocka_unit_test(test_where_snapshots_are),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
