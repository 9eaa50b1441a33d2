/* The scheduler through the engine: fairness, priorities, the prefill budget, cancel at any step, the
 * watchdog. SPDX-License-Identifier: Apache-2.0 */
#include "support/test.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "support/ask.h"
#include "support/backend_fake.h"

static struct qn_fake fake;

static struct qn_engine *open_fake(const struct qn_fake_options *fo, int max_seqs, int n_page)
{
    struct qn_engine_options o;
    struct qn_engine *g;
    struct qn_err e = {0};
    qn_fake_init(&fake, fo);
    qn_fake_engine_options(&fake, &o);
    o.max_seqs = max_seqs;
    o.itl_target_ms = 10;
    o.stuck_s = 1;
    if (n_page) o.n_page = n_page;
    if (qn_engine_open(&g, &o, &e)) fail_msg("open: %s", e.text);
    return g;
}

static void close_fake(struct qn_engine *g)
{
    struct qn_engine_stats s;
    qn_engine_stats(g, &s);
    assert_int_equal(s.n_page_used, 0);
    assert_int_equal(s.n_slot_live, 0);
    qn_engine_close(g);
    assert_int_equal(atomic_load(&fake.n_violation), 0);
}

static struct qn_request *submit(struct qn_engine *g, const struct qn_request_params *p)
{
    struct qn_request *r;
    struct qn_err e = {0};
    if (qn_engine_submit(g, p, &r, &e)) fail_msg("submit: %s", e.text);
    return r;
}

/* A client with one request does not wait for another's twenty. */
static void test_fair_share(void **state)
{
    (void)state;
    struct qn_fake_options fo = {.step_us = 200};
    struct qn_engine *g = open_fake(&fo, 2, 0);
    int32_t *prompt = ask_prompt(1, 60, 200);
    struct qn_request_params p = ask_params(prompt, 60);
    struct qn_request *many[20];
    struct ask_answer a;
    p.max_new = 60;
    p.client = 1;
    for (int i = 0; i < 20; i++) many[i] = submit(g, &p);
    p.client = 2;
    ask(g, &p, &a);
    assert_int_equal(a.n, 60);
    int64_t waited_us = a.stats.queue_us;
    ask_free(&a);
    int n_before = 0;
    for (int i = 0; i < 20; i++) {
        ask_read(many[i], &a);
        n_before += a.stats.queue_us < waited_us;
        ask_free(&a);
    }
    print_message("%d of the other client's 20 were admitted before\n", n_before);
    assert_true(n_before <= 6);
    free(prompt);
    close_fake(g);
}

/* Of two clients that have nothing running, the one goes first that was served less lately. */
static void test_fair_share_of_tokens(void **state)
{
    (void)state;
    struct qn_fake_options fo = {.step_us = 200};
    struct qn_engine *g = open_fake(&fo, 1, 0);
    int32_t *prompt = ask_prompt(1, 60, 200);
    struct qn_request_params p = ask_params(prompt, 60);
    struct qn_event event;
    struct ask_answer a, first, second;
    p.ignore_eos = true;
    p.client = 2;
    p.max_new = 2;
    ask(g, &p, &a);
    ask_free(&a);
    p.client = 1;
    p.max_new = 300;
    ask(g, &p, &a);
    ask_free(&a);
    p.client = 3;
    p.max_new = 100;
    struct qn_request *running = submit(g, &p);
    assert_int_equal(qn_request_next(running, &event, 20000000), QN_OK);
    p.client = 1;
    p.max_new = 20;
    struct qn_request *had_much = submit(g, &p);
    p.client = 2;
    struct qn_request *had_little = submit(g, &p);
    ask_read(running, &a);
    ask_read(had_much, &first);
    ask_read(had_little, &second);
    assert_true(second.stats.queue_us < first.stats.queue_us);
    ask_free(&a);
    ask_free(&first);
    ask_free(&second);
    free(prompt);
    close_fake(g);
}

/* A normal request takes the place of a low one, which goes on later with the same answer. */
static void test_priority(void **state)
{
    (void)state;
    struct qn_fake_options fo = {.step_us = 500};
    struct qn_engine *g = open_fake(&fo, 1, 0);
    int32_t *prompt = ask_prompt(2, 80, 200);
    struct qn_request_params p = ask_params(prompt, 80);
    struct ask_answer want, low, normal;
    struct qn_event event;
    p.max_new = 400;
    ask(g, &p, &want);
    p.priority = QN_PRIORITY_LOW;
    p.salt = 1; /* not from the cache */
    struct qn_request *r = submit(g, &p);
    assert_int_equal(qn_request_next(r, &event, 20000000), QN_OK);
    assert_int_equal(event.token.tok, want.tok[0]);
    p.priority = QN_PRIORITY_NORMAL;
    p.max_new = 5;
    ask(g, &p, &normal);
    assert_int_equal(normal.n, 5);
    struct qn_engine_stats s;
    qn_engine_stats(g, &s);
    assert_true(s.n_preempted >= 1);
    ask_read(r, &low);
    assert_int_equal(low.finish, QN_FINISH_LENGTH);
    assert_int_equal(low.stats.n_new, 400);
    assert_memory_equal(low.tok + low.n - 50, want.tok + 350, 50 * sizeof *low.tok);
    ask_free(&low);
    ask_free(&normal);
    ask_free(&want);
    free(prompt);
    close_fake(g);
}

/* A long prompt beside a stream goes in small chunks, alone in large ones. */
static void test_prefill_budget(void **state)
{
    (void)state;
    struct qn_fake_options fo = {.step_us = 1000, .row_us = 200};
    struct qn_engine *g = open_fake(&fo, 4, 0);
    int32_t *prompt = ask_prompt(3, 2000, 200), *other = ask_prompt(4, 30, 200);
    struct qn_request_params p = ask_params(prompt, 2000), stream = ask_params(other, 30);
    struct ask_answer alone, beside, a;
    struct qn_event event;
    p.max_new = 1;
    ask(g, &p, &alone);
    stream.max_new = 3000;
    struct qn_request *r = submit(g, &stream);
    for (int i = 0; i < 20; i++) assert_int_equal(qn_request_next(r, &event, 20000000), QN_OK);
    p.salt = 1;
    ask(g, &p, &beside);
    print_message("%d steps alone, %d beside a stream\n", alone.stats.n_step, beside.stats.n_step);
    assert_true(alone.stats.n_step <= 12);
    assert_true(beside.stats.n_step >= 25);
    assert_int_equal(alone.tok[0], beside.tok[0]);
    qn_request_cancel(r);
    ask_read(r, &a);
    ask_free(&a);
    ask_free(&alone);
    ask_free(&beside);
    free(prompt);
    free(other);
    close_fake(g);
}

/* A short prompt of the same client passes a long one, beside a stream and without. */
static void test_short_passes_long(void **state)
{
    (void)state;
    struct qn_fake_options fo = {.step_us = 500, .row_us = 50};
    int32_t *prompt = ask_prompt(7, 4000, 200), *other = ask_prompt(8, 100, 200);
    for (int with_stream = 0; with_stream < 2; with_stream++) {
        struct qn_engine *g = open_fake(&fo, 4, 0);
        struct qn_request_params longer = ask_params(prompt, 4000), shorter = ask_params(other, 100),
                                 stream = ask_params(other, 30);
        struct ask_answer a, b, c;
        struct qn_event event;
        struct qn_request *r = NULL;
        longer.max_new = shorter.max_new = 1;
        stream.max_new = 3000;
        stream.salt = 1;
        if (with_stream) {
            r = submit(g, &stream);
            for (int i = 0; i < 20; i++) assert_int_equal(qn_request_next(r, &event, 20000000), QN_OK);
        }
        struct qn_request *first = submit(g, &longer);
        usleep(20000);
        ask(g, &shorter, &b);
        assert_true(qn_request_next(first, &event, 0) != QN_OK); /* still being read */
        ask_read(first, &a);
        print_message("first token after %.1f ms, the long prompt's after %.1f\n",
                      (double)(b.stats.queue_us + b.stats.prefill_us) / 1000,
                      (double)(a.stats.queue_us + a.stats.prefill_us) / 1000);
        assert_true((b.stats.queue_us + b.stats.prefill_us) * 3 < a.stats.queue_us + a.stats.prefill_us);
        if (r) {
            qn_request_cancel(r);
            ask_read(r, &c);
            ask_free(&c);
        }
        ask_free(&a);
        ask_free(&b);
        close_fake(g);
    }
    free(prompt);
    free(other);
}

/* A request that has to wait for pages is matched again when the cache has changed, not at every step, and
 * resumes from what a neighbour has left there meanwhile. */
static void test_waiting_is_matched_once(void **state)
{
    (void)state;
    struct qn_fake_options fo = {.step_us = 200, .max_context = 1000};
    struct qn_engine *g = open_fake(&fo, 4, 17);
    int32_t *prompt = ask_prompt(7, 990, 200), answer[100];
    struct qn_request_params long_one = ask_params(prompt, 500), p = ask_params(prompt, 700);
    struct qn_engine_stats before, after;
    struct qn_event event;
    struct ask_answer a;
    long_one.max_new = 200; /* holds 8 to 11 pages of 17 */
    long_one.ignore_eos = true;
    struct qn_request *r = submit(g, &long_one);
    assert_int_equal(qn_request_next(r, &event, 20000000), QN_OK);
    p.max_new = 1;
    p.salt = 1; /* nothing of it is known: 11 pages */
    struct qn_request *salted = submit(g, &p);
    do {
        usleep(1000);
        qn_engine_stats(g, &before);
    } while (!before.n_waiting);
    for (int i = 1; i < 100; i++) {
        answer[i - 1] = event.token.tok;
        assert_int_equal(qn_request_next(r, &event, 20000000), QN_OK);
    }
    answer[99] = event.token.tok;
    qn_engine_stats(g, &after);
    int n_step = (int)(after.n_step - before.n_step), n_match = (int)(after.n_match - before.n_match);
    print_message("%d walks in %d steps beside a request that has to wait\n", n_match, n_step);
    assert_true(n_step >= 20);
    assert_true(n_match <= 4); /* each time a page of the stream is full */
    assert_int_equal(after.n_waiting, 1);
    ask_read(salted, &a);
    assert_int_equal(a.stats.n_cached, 0);
    ask_free(&a);
    ask_read(r, &a);
    /* what is known of it grows while it waits: it goes on from the end of the stream's answer */
    assert_int_equal(a.n, 100);
    memcpy(prompt + 500, answer, sizeof answer);
    memcpy(prompt + 600, a.tok, (size_t)a.n * sizeof *a.tok);
    ask_free(&a);
    long_one.salt = p.salt = 2;
    r = submit(g, &long_one);
    for (int i = 0; i < 30; i++) assert_int_equal(qn_request_next(r, &event, 20000000), QN_OK);
    p.n_tok = 990;
    salted = submit(g, &p);
    ask_read(salted, &a);
    print_message("%d of %d tokens resumed\n", a.stats.n_cached, p.n_tok);
    assert_true(a.stats.n_cached > 690);
    ask_free(&a);
    ask_read(r, &a);
    ask_free(&a);
    free(prompt);
    close_fake(g);
}

/* Cancelled after any number of tokens, in prefill, waiting, speculating: pools are clean each time (the
 * engine checks itself when idle), and the next answer is right. */
static void test_cancel_at_any_step(void **state)
{
    (void)state;
    struct qn_engine *g = open_fake(NULL, 2, 70);
    int32_t *prompt = ask_prompt(5, 400, 200);
    struct qn_request_params p = ask_params(prompt, 400);
    struct ask_answer want, got;
    struct qn_event event;
    p.max_new = 40;
    ask(g, &p, &want);
    for (int k = 0; k < 60; k++) {
        struct qn_request *r[4];
        p.max_new = 300;
        for (int i = 0; i < 4; i++) {
            p.salt = (uint64_t)(k % 7 + i);
            r[i] = submit(g, &p);
        }
        for (int i = 0; i < k % 40; i++)
            if (qn_request_next(r[0], &event, 20000000) || event.kind == QN_EVENT_END) break;
        for (int i = 0; i < 4; i++) {
            if (i % 2)
                qn_request_release(r[i]); /* as a connection that went away does */
            else {
                qn_request_cancel(r[i]);
                ask_read(r[i], &got);
                ask_free(&got);
            }
        }
        p.max_new = 40;
        p.salt = (uint64_t)(k % 3);
        ask(g, &p, &got);
        assert_int_equal(got.n, want.n);
        assert_memory_equal(got.tok, want.tok, (size_t)got.n * sizeof *got.tok);
        ask_free(&got);
    }
    ask_free(&want);
    free(prompt);
    struct qn_engine_stats s;
    for (int i = 0; i < 2000; i++) {
        qn_engine_stats(g, &s);
        if (!s.n_running && !s.n_waiting) break;
        usleep(1000);
    }
    close_fake(g);
}

static void test_stuck_step(void **state)
{
    (void)state;
    char path[] = "/tmp/quern-stuck-XXXXXX", text[8192] = {0};
    int fd = mkstemp(path), status;
    pid_t child = fork();
    if (child == 0) {
        dup2(fd, STDERR_FILENO);
        struct qn_fake_options fo = {.hang_at_step = 3};
        struct qn_engine *g = open_fake(&fo, 2, 0);
        int32_t *prompt = ask_prompt(6, 30, 200);
        struct qn_request_params p = ask_params(prompt, 30);
        struct ask_answer a;
        snprintf(p.id, sizeof p.id, "the-stuck-one");
        ask(g, &p, &a);
        _exit(0);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 70);
    assert_true(pread(fd, text, sizeof text - 1, 0) > 0);
    assert_non_null(strstr(text, "the-stuck-one"));
    assert_non_null(strstr(text, "took_us=-1"));
    close(fd);
    unlink(path);
}

/* A process that was stopped for longer than a step may take goes on. */
static void test_stopped_process(void **state)
{
    (void)state;
    int status;
    pid_t child = fork();
    if (child == 0) {
        struct qn_fake_options fo = {.step_us = 100000};
        struct qn_engine *g = open_fake(&fo, 2, 0);
        int32_t *prompt = ask_prompt(6, 30, 200);
        struct qn_request_params p = ask_params(prompt, 30);
        struct ask_answer a;
        p.max_new = 30;
        p.mtp = 0;
        ask(g, &p, &a);
        _exit(a.n == 30 && a.finish == QN_FINISH_LENGTH ? 0 : 1);
    }
    for (int i = 0; i < 3; i++) {
        usleep(350000);
        kill(child, SIGSTOP);
        usleep(1500000);
        kill(child, SIGCONT);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fair_share),
        cmocka_unit_test(test_priority),
        cmocka_unit_test(test_fair_share_of_tokens),
        cmocka_unit_test(test_prefill_budget),
        cmocka_unit_test(test_short_passes_long),
        cmocka_unit_test(test_cancel_at_any_step),
        cmocka_unit_test(test_waiting_is_matched_once),
        cmocka_unit_test(test_stuck_step),
        cmocka_unit_test(test_stopped_process),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
