/* The rank thread.
 * SPDX-License-Identifier: Apache-2.0 */
#include "engine/rank.h"

#include <pthread.h>

#include "base/clock.h"
#include "base/mem.h"

struct qn_rank {
    pthread_t thread;
    struct qn_mail *in, *opened;
    struct qn_rank_options o;
    void *run;
    /* written by the thread before its first letter, read after */
    struct qn_letter opening;
    int rc;
    struct qn_err error;
    bool has_mtp;
    struct qn_device_info device;
    struct qn_letter quit;
};

static void do_chore(struct qn_rank *r, const struct qn_chore *chore)
{
    struct qn_chore own = *chore;
    bool is_page = own.kind == QN_CHORE_KV_READ || own.kind == QN_CHORE_KV_WRITE;
    if (own.host) own.host = (char *)own.host + (is_page ? r->o.page_offset : r->o.slot_offset);
    r->o.runner->chore(r->run, &own);
}

static void execute(struct qn_rank *r, struct qn_share *s)
{
    const struct qn_work *w = s->work;
    s->start_us = qn_now_us();
    s->rc = QN_OK;
    for (int i = 0; i < w->chores.n; i++) do_chore(r, &w->chores.list[i]);
    s->step_us = qn_now_us();
    if (!w->step) {
        s->rc = r->o.runner->sync(r->run, &s->error);
    } else if (s->mtp_logits) {
        s->rc = r->o.runner->mtp_logits(r->run, w->step, s->mtp_logits, &s->error);
    } else {
        r->o.runner->run(r->run, w->step, s->result);
        if (s->result->fault)
            s->rc = qn_err_set(&s->error, QN_DEVICE, __FILE__, __LINE__, "%s", s->result->fault_text);
    }
    s->end_us = qn_now_us();
}

static void *rank_main(void *arg)
{
    struct qn_rank *r = arg;
    r->rc = r->o.runner->open(r->o.user, &r->run, r->o.model, &r->o.forward, &r->error);
    bool is_open = r->rc == QN_OK;
    if (is_open) {
        r->has_mtp = r->o.runner->has_mtp(r->run);
        r->o.runner->describe(r->run, &r->device);
    }
    qn_mail_post(r->opened, &r->opening);
    for (bool is_over = false; !is_over;) {
        struct qn_letter *next = qn_mail_take(r->in, QN_FOREVER);
        while (next) {
            struct qn_letter *letter = next;
            next = letter->next;
            if (letter == &r->quit) {
                QN_CHECK(!next);
                is_over = true;
                break;
            }
            struct qn_share *s = (struct qn_share *)letter;
            execute(r, s);
            s->letter.kind = r->o.letter_kind;
            qn_mail_post(r->o.home, &s->letter);
        }
    }
    if (r->run) r->o.runner->close(r->run);
    return NULL;
}

int qn_rank_start(struct qn_rank **out, const struct qn_rank_options *o, struct qn_err *e)
{
    struct qn_rank *r = xcalloc(1, sizeof *r);
    r->o = *o;
    r->in = qn_mail_create();
    r->opened = qn_mail_create();
    if (pthread_create(&r->thread, NULL, rank_main, r)) {
        qn_mail_free(r->in);
        qn_mail_free(r->opened);
        free(r);
        return qn_err_set(e, QN_NOMEM, __FILE__, __LINE__, "no thread for the device");
    }
    *out = r;
    return QN_OK;
}

int qn_rank_wait_open(struct qn_rank *r, struct qn_err *e)
{
    QN_CHECK(qn_mail_take(r->opened, QN_FOREVER) == &r->opening);
    if (r->rc && e) *e = r->error;
    return r->rc;
}

void qn_rank_close(struct qn_rank *r)
{
    if (!r) return;
    qn_mail_post(r->in, &r->quit);
    pthread_join(r->thread, NULL);
    qn_mail_free(r->in);
    qn_mail_free(r->opened);
    free(r);
}

void qn_rank_publish(struct qn_rank *r, struct qn_share *share)
{
    qn_mail_post(r->in, &share->letter);
}

bool qn_rank_has_mtp(const struct qn_rank *r)
{
    return r->has_mtp;
}

const struct qn_device_info *qn_rank_device(const struct qn_rank *r)
{
    return &r->device;
}
