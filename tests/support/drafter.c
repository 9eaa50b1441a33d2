/* Drafts at a set rate.
 * SPDX-License-Identifier: Apache-2.0 */
#include "support/drafter.h"

#include "base/clock.h"
#include "base/mem.h"
#include "base/rng.h"

struct run {
    void *inner;
    struct qn_drafter *d;
};

static void drafter_sizes(void *user, const struct qn_forward_options *o, struct qn_device_sizes *out)
{
    (void)user;
    qn_runner_forward.sizes(NULL, o, out);
}

static int drafter_open(void *user, void **out, const struct qn_model *model,
                        const struct qn_forward_options *o, struct qn_err *e)
{
    void *inner;
    int rc = qn_runner_forward.open(NULL, &inner, model, o, e);
    if (rc) return rc;
    struct run *r = xcalloc(1, sizeof *r);
    *r = (struct run){inner, user};
    *out = r;
    return QN_OK;
}

static void drafter_close(void *run)
{
    struct run *r = run;
    qn_runner_forward.close(r->inner);
    free(r);
}

static void note(struct qn_drafter *d, const struct qn_step *s, const struct qn_step_result *result, int us,
                 int gap_us)
{
    struct qn_drafter_step n = {
        .who = d->who, .n_decode = s->n_decode, .n_row = s->n_row, .us = us, .gap_us = gap_us};
    for (int i = 0; i < s->n_seq; i++) {
        n.n_made += s->seq[i].n_draft_next;
        n.keeps_mtp |= s->seq[i].wants_mtp;
        n.n_tok += 1 + result->n_accepted[i];
    }
    if (d->n_step == d->step_capacity) {
        d->step_capacity = QN_MAX(1024, 2 * d->step_capacity);
        d->step = xreallocarray(d->step, (size_t)d->step_capacity, sizeof *d->step);
    }
    d->step[d->n_step++] = n;
}

static void drafter_run(void *run, const struct qn_step *s, struct qn_step_result *result)
{
    struct run *r = run;
    struct qn_drafter *d = r->d;
    int64_t from = qn_now_us();
    qn_runner_forward.run(r->inner, s, result);
    if (result->fault) return;
    int64_t gap_us = from - d->end_us;
    d->end_us = qn_now_us();
    if (d->who && s->n_decode == s->n_seq)
        note(d, s, result, (int)(d->end_us - from), (int)QN_MIN(gap_us, INT32_MAX));
    for (int i = 0; i < s->n_seq; i++) {
        const struct qn_step_seq *q = &s->seq[i];
        if (!q->wants_token) continue;
        /* where the token just picked stands */
        int at = i < s->n_decode ? q->pos0 + result->n_accepted[i] + 1 : q->pos0 + q->n_row;
        for (int k = 0; k < result->n_drafted[i]; k++) {
            if (at + 1 + k >= d->n_tok) break;
            bool is_right = (int)(qn_rng64(1, d->draw++, 0) % 100) < d->percent;
            int32_t right = d->tok[at + 1 + k];
            result->draft[(size_t)i * QN_MAX_DRAFT + (size_t)k] = is_right ? right : (right + 1) % d->vocab;
        }
    }
}

static int drafter_mtp_logits(void *run, const struct qn_step *s, float *logits, struct qn_err *e)
{
    return qn_runner_forward.mtp_logits(((struct run *)run)->inner, s, logits, e);
}

static void drafter_chore(void *run, const struct qn_chore *c)
{
    qn_runner_forward.chore(((struct run *)run)->inner, c);
}

static int drafter_sync(void *run, struct qn_err *e)
{
    return qn_runner_forward.sync(((struct run *)run)->inner, e);
}

static bool drafter_has_mtp(void *run)
{
    return qn_runner_forward.has_mtp(((struct run *)run)->inner);
}

static void drafter_describe(void *run, struct qn_device_info *out)
{
    qn_runner_forward.describe(((struct run *)run)->inner, out);
}

const struct qn_runner qn_runner_drafter = {
    .name = "drafter",
    .sizes = drafter_sizes,
    .open = drafter_open,
    .close = drafter_close,
    .run = drafter_run,
    .mtp_logits = drafter_mtp_logits,
    .chore = drafter_chore,
    .sync = drafter_sync,
    .has_mtp = drafter_has_mtp,
    .describe = drafter_describe,
};
