/* Many connections at once on one engine: answers stay their own, cancels and late readers leave nothing
 * behind. QUERN_SOAK_S: seconds (default 4). SPDX-License-Identifier: Apache-2.0 */
#include "support/test.h"

#include <pthread.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/rng.h"
#include "support/ask.h"
#include "support/backend_fake.h"

#define N_THREAD 128
#define N_PROMPT 24
#define N_NEW    40

struct client {
    pthread_t thread;
    struct qn_engine *engine;
    uint64_t seed;
    int64_t until_us;
    int n_right, n_wrong, n_cancelled, n_refused;
};

static int32_t *prompt[N_PROMPT];
static int n_prompt[N_PROMPT];
static struct ask_answer want[N_PROMPT];

static struct qn_request_params params(int which, uint64_t client)
{
    struct qn_request_params p = ask_params(prompt[which], n_prompt[which]);
    p.max_new = N_NEW;
    p.sample.temperature = which % 3 ? 0.8f : 0;
    p.sample.seed = (uint64_t)which;
    p.client = client;
    return p;
}

static void *run_client(void *arg)
{
    struct client *c = arg;
    for (uint64_t i = 0; qn_now_us() < c->until_us; i++) {
        uint64_t roll = qn_rng64(c->seed, i, 0);
        int which = (int)(roll % N_PROMPT);
        struct qn_request_params p = params(which, c->seed % 5);
        struct qn_request *r;
        struct qn_err e = {0};
        struct qn_engine_stats s;
        p.priority = roll >> 8 & 1 ? QN_PRIORITY_LOW : QN_PRIORITY_NORMAL;
        if (roll >> 9 & 1) p.deadline_us = qn_now_us() + 60000000;
        if (qn_engine_submit(c->engine, &p, &r, &e)) {
            c->n_refused++;
            usleep(1000);
            continue;
        }
        if ((roll >> 16) % 4 == 0) { /* leaves after a while, some without a word */
            struct qn_event event;
            for (uint64_t k = 0; k < (roll >> 20) % 20; k++)
                if (qn_request_next(r, &event, 5000000) || event.kind == QN_EVENT_END) break;
            if (roll >> 40 & 1) qn_request_cancel(r);
            qn_request_release(r);
            c->n_cancelled++;
            continue;
        }
        struct ask_answer a;
        ask_read(r, &a);
        bool is_right = a.n == N_NEW && !memcmp(a.tok, want[which].tok, N_NEW * sizeof *a.tok);
        c->n_right += is_right;
        c->n_wrong += !is_right;
        ask_free(&a);
        if (roll >> 50 & 1) qn_engine_stats(c->engine, &s);
    }
    return NULL;
}

static void test_many_connections(void **state)
{
    (void)state;
    static struct client client[N_THREAD];
    struct qn_fake fake;
    struct qn_engine_options o;
    struct qn_engine *g;
    struct qn_err e = {0};
    const char *text = getenv("QUERN_SOAK_S");
    qn_fake_init(&fake, NULL);
    qn_fake_engine_options(&fake, &o);
    o.max_seqs = 16;
    o.n_slot = 24;
    o.n_page = 80; /* too few for all: some are suspended */
    o.max_queue = 100;
    o.ram_tier_bytes = 4 << 20;
    if (qn_engine_open(&g, &o, &e)) fail_msg("%s", e.text);
    for (int i = 0; i < N_PROMPT; i++) {
        n_prompt[i] = 10 + 37 * (i % 12);
        prompt[i] = ask_prompt((uint64_t)(i / 4), n_prompt[i], 200);
        struct qn_request_params p = params(i, 0);
        ask(g, &p, &want[i]);
        assert_int_equal(want[i].n, N_NEW);
    }
    int64_t until = qn_now_us() + (int64_t)(text ? atoi(text) : 4) * 1000000;
    for (int i = 0; i < N_THREAD; i++) {
        client[i] = (struct client){.engine = g, .seed = (uint64_t)i + 1, .until_us = until};
        assert_int_equal(pthread_create(&client[i].thread, NULL, run_client, &client[i]), 0);
    }
    struct client sum = {0};
    for (int i = 0; i < N_THREAD; i++) {
        pthread_join(client[i].thread, NULL);
        sum.n_right += client[i].n_right;
        sum.n_wrong += client[i].n_wrong;
        sum.n_cancelled += client[i].n_cancelled;
        sum.n_refused += client[i].n_refused;
    }
    qn_engine_drain(g, qn_now_us() + 20000000);
    struct qn_engine_stats s;
    qn_engine_stats(g, &s);
    print_message("%d right, %d wrong, %d left early, %d refused, %llu suspended\n", sum.n_right, sum.n_wrong,
                  sum.n_cancelled, sum.n_refused, (unsigned long long)s.n_preempted);
    assert_int_equal(sum.n_wrong, 0);
    assert_true(sum.n_right > 0 && sum.n_cancelled > 0);
    assert_int_equal(s.n_page_used, 0);
    assert_int_equal(s.n_slot_live, 0);
    qn_engine_close(g);
    assert_int_equal(atomic_load(&fake.n_violation), 0);
    for (int i = 0; i < N_PROMPT; i++) {
        free(prompt[i]);
        ask_free(&want[i]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_many_connections)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
