/* Masks made beside the step.
 * SPDX-License-Identifier: Apache-2.0 */
#include "engine/beside.h"

#include <stdatomic.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/mem.h"
#include "text/grammar.h"

#define N_MAKER     2
#define NICE        10                 /* the step goes first where cores are few */
#define CACHE_BYTES ((size_t)16 << 20) /* of a thread, for masks */

struct maker {
    struct qn_beside *beside;
    pthread_t thread;
    struct qn_mail *mail;
    struct qn_mask *mask; /* its own caches over the vocabulary; made with its first job */
    unsigned n_job;
    bool is_running;
};

struct qn_beside {
    const struct qn_mask *mask;
    struct qn_mail *home;
    int kind, vocab, delay_us;
    atomic_bool is_closing;
    struct maker maker[N_MAKER];
};

static void make(struct maker *k, struct qn_beside_job *j)
{
    struct qn_grammar *g = j->pick.params->constraint;
    struct qn_mask *of_engine = j->pick.mask;
    if (!k->mask) k->mask = qn_mask_share(k->beside->mask, CACHE_BYTES);
    j->pick.mask = k->mask;
    if (j->tok >= 0) qn_pick_advance(&j->pick, j->tok);
    j->is_free = qn_pick_is_free(&j->pick);
    j->is_stuck = !j->is_free && !qn_pick_mask(&j->pick, j->words, k->beside->vocab);
    j->grammar_is_free = qn_grammar_is_free(g, j->pick.state);
    j->failed = qn_grammar_failed(g);
    j->pick.mask = of_engine;
    if (k->beside->delay_us) usleep((unsigned)(qn_mix64(k->n_job++) % (uint64_t)k->beside->delay_us));
}

static void *maker_main(void *arg)
{
    struct maker *k = arg;
    struct qn_beside *b = k->beside;
    setpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid), NICE);
    for (bool is_over = false; !is_over;) {
        for (struct qn_letter *next = qn_mail_take(k->mail, QN_FOREVER), *letter; (letter = next);) {
            next = letter->next;
            if (letter->kind < 0) { /* the end */
                is_over = true;
                free(letter);
                continue;
            }
            if (!atomic_load(&b->is_closing)) make(k, (struct qn_beside_job *)letter);
            letter->kind = b->kind;
            qn_mail_post(b->home, letter);
        }
    }
    return NULL;
}

struct qn_beside *qn_beside_create(const struct qn_mask *mask, int vocab, struct qn_mail *home, int kind,
                                   int delay_us)
{
    struct qn_beside *b = xcalloc(1, sizeof *b);
    b->mask = mask;
    b->vocab = vocab;
    b->home = home;
    b->kind = kind;
    b->delay_us = delay_us;
    return b;
}

/* The thread of a grammar, started when it is needed first; NULL: the system gives none. */
static struct maker *maker_of(struct qn_beside *b, const struct qn_grammar *g)
{
    struct maker *k = &b->maker[qn_grammar_serial(g) % N_MAKER];
    if (k->is_running) return k;
    k->beside = b;
    if (!k->mail) k->mail = qn_mail_create();
    k->is_running = !pthread_create(&k->thread, NULL, maker_main, k);
    return k->is_running ? k : NULL;
}

void qn_beside_close(struct qn_beside *b)
{
    if (!b) return;
    atomic_store(&b->is_closing, true);
    for (int i = 0; i < N_MAKER; i++) {
        struct maker *k = &b->maker[i];
        if (k->is_running) {
            struct qn_letter *end = xcalloc(1, sizeof *end);
            end->kind = -1;
            qn_mail_post(k->mail, end);
            pthread_join(k->thread, NULL);
        }
        qn_mail_free(k->mail);
        qn_mask_free(k->mask);
    }
    free(b);
}

static struct qn_beside_job *create(struct qn_seq *s, struct qn_request *r, int vocab)
{
    struct qn_beside_job *j = xcalloc(1, sizeof *j);
    j->seq = s;
    j->request = r;
    qn_request_ref(r);
    j->words = xcalloc((size_t)QN_CEIL_DIV(vocab, 64), 8);
    return j;
}

static void free_job(struct qn_beside_job *j)
{
    if (!j) return;
    qn_request_unref(j->request);
    free(j->words);
    free(j);
}

void qn_beside_send(struct qn_beside *b, struct qn_seq *q, int32_t tok)
{
    struct qn_beside_job *j = q->beside;
    struct maker *k = maker_of(b, q->params->constraint);
    q->is_late = true;
    q->n_draft = 0;
    j->pick = q->pick;
    j->tok = tok;
    j->post_us = qn_now_us();
    j->letter.kind = 0;
    if (k) {
        qn_mail_post(k->mail, &j->letter);
        return;
    }
    /* no thread: the request ends */
    j->failed = QN_NOMEM;
    j->is_stuck = true;
    j->is_free = false;
    memset(j->words, 0, (size_t)QN_CEIL_DIV(b->vocab, 64) * 8);
    j->letter.kind = b->kind;
    qn_mail_post(b->home, &j->letter);
}

void qn_beside_take(struct qn_letter *letter)
{
    struct qn_beside_job *j = (struct qn_beside_job *)letter;
    struct qn_seq *q = j->seq;
    if (!q) {
        free_job(j);
        return;
    }
    q->is_late = false;
    q->pick = j->pick;
    if (j->tok >= 0 && !q->is_loop &&
        qn_pick_watch_as(&q->pick, q->tok + q->n_prompt, qn_seq_n_new(q), j->grammar_is_free))
        qn_seq_end_loop(q);
}

void qn_beside_move(struct qn_beside *b, struct qn_seq **list, int n, bool is_all)
{
    for (int i = 0; i < n; i++) {
        struct qn_seq *q = list[i];
        if (q->beside || !q->request || !q->pick.mask) continue;
        if (!is_all && !qn_grammar_is_heavy(q->params->constraint)) continue;
        q->beside = create(q, q->request, b->vocab);
        qn_beside_send(b, q, -1);
    }
}

void qn_beside_drop(struct qn_seq *q)
{
    if (q->beside && q->is_late)
        q->beside->seq = NULL; /* it is out; freed when it comes back */
    else
        free_job(q->beside);
    q->beside = NULL;
}
