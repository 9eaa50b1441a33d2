/* The runner of a server: the forward pass over a backend.
 * SPDX-License-Identifier: Apache-2.0 */
#include "engine/runner.h"

static void forward_sizes(void *user, const struct qn_forward_options *o, struct qn_device_sizes *out)
{
    (void)user;
    qn_forward_sizes(o, out);
}

static int forward_open(void *user, void **out, const struct qn_model *model,
                        const struct qn_forward_options *o, struct qn_err *e)
{
    (void)user;
    struct qn_forward *f;
    int rc = qn_forward_open(&f, model, o, e);
    if (!rc) *out = f;
    return rc;
}

static void forward_close(void *r)
{
    qn_forward_close(r);
}

static void forward_run(void *r, const struct qn_step *step, struct qn_step_result *result)
{
    qn_forward_run(r, step, result);
}

static int forward_mtp_logits(void *r, const struct qn_step *step, float *logits, struct qn_err *e)
{
    return qn_forward_mtp_logits(r, step, logits, e);
}

static void forward_chore(void *r, const struct qn_chore *c)
{
    const struct qn_backend *b = qn_forward_backend(r);
    struct qn_device *d = qn_forward_device(r);
    const struct qn_copy copy = {.from = c->from, .to = c->to, .n_tok = c->n};
    switch (c->kind) {
    case QN_CHORE_KV_COPY:
        b->kv_copy(d, &copy, 1);
        break;
    case QN_CHORE_KV_READ:
        b->kv_read(d, c->from, c->host);
        break;
    case QN_CHORE_KV_WRITE:
        b->kv_write(d, c->to, c->host);
        break;
    case QN_CHORE_STATE_COPY:
        b->state_copy(d, &copy, 1);
        break;
    case QN_CHORE_STATE_FLUSH:
        b->state_flush(d, c->to, c->from, c->n);
        break;
    case QN_CHORE_STATE_READ:
        b->state_read(d, c->from, c->host);
        break;
    case QN_CHORE_STATE_WRITE:
        b->state_write(d, c->to, c->host);
        break;
    }
}

static int forward_sync(void *r, struct qn_err *e)
{
    return qn_forward_backend(r)->sync(qn_forward_device(r), e);
}

static bool forward_has_mtp(void *r)
{
    return qn_forward_has_mtp(r);
}

static void forward_describe(void *r, struct qn_device_info *out)
{
    qn_forward_describe(r, out);
}

const struct qn_runner qn_runner_forward = {
    .name = "forward",
    .sizes = forward_sizes,
    .open = forward_open,
    .close = forward_close,
    .run = forward_run,
    .mtp_logits = forward_mtp_logits,
    .chore = forward_chore,
    .sync = forward_sync,
    .has_mtp = forward_has_mtp,
    .describe = forward_describe,
};
