/* The rank thread.
 * SPDX-License-Identifier: Apache-2.0 */
#include "engine/rank.h"

#include <pthread.h>

#include "base/clock.h"
#include "base/mem.h"

struct qn_rank {
    pthread_t thread;
    struct qn_mail *in, *home;
    const struct qn_runner *runner;
    void *user;
    const struct qn_model *model;
    struct qn_forward_options options;
    void *run;
    /* written by the thread before its first letter, read after */
    struct qn_work opening;
    bool has_mtp;
    struct qn_device_info device;
    struct qn_letter quit;
};

static void execute(struct qn_rank *r, struct qn_work *w)
{
    w->start_us = qn_now_us();
    w->rc = QN_OK;
    for (int i = 0; i < w->chores.n; i++) r->runner->chore(r->run, &w->chores.list[i]);
    w->step_us = qn_now_us();
    if (!w->step) {
        w->rc = r->runner->sync(r->run, &w->error);
    } else if (w->mtp_logits) {
        w->rc = r->runner->mtp_logits(r->run, w->step, w->mtp_logits, &w->error);
    } else {
        r->runner->run(r->run, w->step, w->result);
        if (w->result->fault)
            w->rc = qn_err_set(&w->error, QN_DEVICE, __FILE__, __LINE__, "%s", w->result->fault_text);
    }
    w->end_us = qn_now_us();
}

static void *rank_main(void *arg)
{
    struct qn_rank *r = arg;
    r->opening.rc = r->runner->open(r->user, &r->run, r->model, &r->options, &r->opening.error);
    bool is_open = r->opening.rc == QN_OK;
    if (is_open) {
        r->has_mtp = r->runner->has_mtp(r->run);
        r->runner->describe(r->run, &r->device);
    }
    qn_mail_post(r->home, &r->opening.letter);
    while (is_open) {
        struct qn_letter *next = qn_mail_take(r->in, QN_FOREVER);
        while (next) {
            struct qn_letter *letter = next;
            next = letter->next;
            if (letter == &r->quit) {
                QN_CHECK(!next);
                is_open = false;
                break;
            }
            struct qn_work *w = (struct qn_work *)letter;
            execute(r, w);
            qn_mail_post(r->home, &w->letter);
        }
    }
    if (r->run) r->runner->close(r->run);
    return NULL;
}

int qn_rank_open(struct qn_rank **out, const struct qn_runner *runner, void *user,
                 const struct qn_model *model, const struct qn_forward_options *o, struct qn_mail *home,
                 struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_rank *r = xcalloc(1, sizeof *r);
    r->runner = runner;
    r->user = user;
    r->model = model;
    r->options = *o;
    r->home = home;
    r->in = qn_mail_create();
    QN_FAIL_IF(pthread_create(&r->thread, NULL, rank_main, r), e, QN_NOMEM, "no thread for the device");
    struct qn_letter *letter = qn_mail_take(home, QN_FOREVER);
    QN_CHECK(letter == &r->opening.letter && !letter->next);
    if (r->opening.rc) {
        pthread_join(r->thread, NULL);
        if (e) *e = r->opening.error;
        rc = r->opening.rc;
        goto out;
    }
    *out = r;
    r = NULL;
out:
    if (r) {
        qn_mail_free(r->in);
        free(r);
    }
    return rc;
}

void qn_rank_close(struct qn_rank *r)
{
    if (!r) return;
    qn_mail_post(r->in, &r->quit);
    pthread_join(r->thread, NULL);
    qn_mail_free(r->in);
    free(r);
}

void qn_rank_publish(struct qn_rank *r, struct qn_work *w)
{
    qn_mail_post(r->in, &w->letter);
}

bool qn_rank_has_mtp(const struct qn_rank *r)
{
    return r->has_mtp;
}

const struct qn_device_info *qn_rank_device(const struct qn_rank *r)
{
    return &r->device;
}
