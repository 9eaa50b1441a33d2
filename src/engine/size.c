/* Sizes.
 * SPDX-License-Identifier: Apache-2.0 */
#include "engine/size.h"

#include "base/hash.h"
#include "base/log.h"
#include "base/mem.h"
#include "model/plan.h"

#define DEFAULT_QUEUE 1024
#define DEFAULT_STEP  512
#define DEFAULT_SEQS  8
#define SCRATCH_SHARE 16 /* of the budget that the scratch of a step may take */
#define MIB(x)        ((double)(x) / (1024.0 * 1024.0))

/* What is being decided, besides the device's options. */
struct draft {
    int max_seqs, step_tokens, max_context;
    bool has_drafts;
    size_t weight_bytes;
};

static int check_options(const struct qn_engine_options *o, struct qn_err *e)
{
    int rc = QN_OK;
    int max_seqs = o->max_seqs ? o->max_seqs : DEFAULT_SEQS;
    QN_FAIL_IF(max_seqs < 1 || max_seqs > 1024, e, QN_INVAL, "%d sequences at once: 1 to 1024", max_seqs);
    QN_FAIL_IF(o->step_tokens < 0 || o->max_context < 0 || o->n_page < 0 || o->n_slot < 0 || o->max_queue < 0,
               e, QN_INVAL, "negative size in the engine's options");
    QN_FAIL_IF(o->mtp < -1 || o->mtp > QN_MAX_DRAFT, e, QN_INVAL, "draft depth %d: 0 to %d, or automatic",
               o->mtp, QN_MAX_DRAFT);
out:
    return rc;
}

static int wanted_context(const struct qn_engine_options *o, const struct qn_config *c)
{
    if (o->max_context > c->max_context)
        qn_log(QN_LOG_WARN, "engine",
               "a context of %d tokens was asked for; the model was made for %d, which is used",
               o->max_context, c->max_context);
    return o->max_context && o->max_context < c->max_context ? o->max_context : c->max_context;
}

static void set_rows(struct qn_device_options *d, const struct draft *a)
{
    int per_seq = a->has_drafts ? 1 + QN_MAX_DRAFT : 1;
    d->max_seqs = d->n_lane = a->max_seqs;
    d->max_rows = a->step_tokens + a->max_seqs * per_seq;
    d->max_logits =
        QN_MAX(a->max_seqs * per_seq, a->max_seqs + 64); /* at least a chunk of rows that are all kept */
}

static void ask_sizes(const struct qn_size *s, struct qn_device_sizes *out)
{
    qn_ranks_sizes(&s->ranks, out);
}

/* More rows than the longest prompt has, or scratch over a share of the budget, are memory that nothing uses.
 */
static void cut_rows(struct qn_size *s, const struct qn_engine_options *o, struct draft *a, uint64_t budget)
{
    struct qn_device_options *d = &s->forward.device;
    struct qn_device_sizes size;
    int asked = a->step_tokens;
    a->step_tokens = QN_MIN(a->step_tokens, QN_MAX(a->max_context, DEFAULT_STEP));
    set_rows(d, a);
    ask_sizes(s, &size);
    while (a->step_tokens > DEFAULT_STEP && size.workspace_bytes > budget / SCRATCH_SHARE) {
        a->step_tokens = QN_MAX(a->step_tokens / 2, DEFAULT_STEP);
        set_rows(d, a);
        ask_sizes(s, &size);
    }
    if (o->step_tokens > a->step_tokens)
        qn_log(QN_LOG_INFO, "engine", "%d prefill tokens a step were asked for; %d are the most it can use",
               asked, a->step_tokens);
}

/* Pools from memory: exact sums over what the runner says a page, a slot, a lane take. */
uint64_t qn_size_free(const struct qn_backend *b)
{
    uint64_t free_bytes, total;
    if (!b || !b->memory) return qn_mem_available() / 5 * 4;
    return b->memory(0, &free_bytes, &total, NULL) ? 0 : free_bytes / 10 * 9;
}

static int fill_memory(struct qn_size *s, const struct qn_engine_options *o, struct draft *a,
                       struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_device_options *d = &s->forward.device;
    struct qn_device_sizes size;
    struct qn_plan planned;
    uint64_t budget = o->memory_bytes > 0 ? (uint64_t)o->memory_bytes : qn_size_free(o->backend);
    cut_rows(s, o, a, budget);
    ask_sizes(s, &size);
    /* a page of slack, as a resumed prefix may need a copy of its last one */
    struct qn_plan_in in = {
        .memory = budget,
        .weight_bytes = a->weight_bytes,
        .workspace_bytes = size.workspace_bytes + size.page_bytes,
        /* requests are in the machine's memory, which a GPU's is not */
        .request_bytes = o->backend && o->backend->memory ? 0 : (uint64_t)QN_MAX(o->request_bytes, 0),
        .page_bytes = size.page_bytes,
        .slot_bytes = size.slot_bytes,
        .lane_bytes = size.lane_bytes,
        .page_tok = QN_PAGE,
        .max_context = s->config.max_context,
        .context = o->max_context ? a->max_context : 0,
        .users = o->max_seqs,
        .is_bound = o->is_bound,
    };
    rc = qn_plan_make(&in, &planned, e);
    while (rc == QN_TOOBIG && o->is_bound && in.users > 1) { /* their rows take scratch, too */
        in.users = a->max_seqs = in.users / 2;
        set_rows(d, a);
        ask_sizes(s, &size);
        in.workspace_bytes = size.workspace_bytes + size.page_bytes;
        rc = qn_plan_make(&in, &planned, e);
    }
    QN_TRY(rc);
    if (planned.users > a->max_seqs) { /* more sequences, more rows: what that takes comes off */
        struct draft more = *a;
        more.max_seqs = planned.users;
        set_rows(d, &more);
        ask_sizes(s, &size);
        in.workspace_bytes = size.workspace_bytes + size.page_bytes;
        QN_TRY(qn_plan_make(&in, &planned, e));
    }
    if (o->max_seqs > planned.users)
        qn_log(QN_LOG_INFO, "engine", "%d sequences at once were asked for; the state of %d fits",
               o->max_seqs, planned.users);
    a->max_seqs = planned.users;
    a->max_context = planned.context;
    /* what a cache of that size cannot use is left to the machine */
    int64_t most = (int64_t)(a->max_context / QN_PAGE + 2) * QN_MAX(4 * a->max_seqs, 16);
    if (!o->n_page) d->n_page = (int)QN_MIN((int64_t)planned.n_page + 1, most);
    if (!o->n_slot) d->n_slot = QN_MAX(planned.n_slot, a->max_seqs);
    set_rows(d, a);
out:
    return rc;
}

/* Pools and context as they are now go together, or the context is cut where that is allowed. */
static int fit_context(const struct qn_size *s, const struct qn_engine_options *o, struct draft *a,
                       struct qn_err *e)
{
    int rc = QN_OK;
    const struct qn_device_options *d = &s->forward.device;
    struct qn_device_sizes size;
    ask_sizes(s, &size);
    QN_FAIL_IF(d->n_slot < a->max_seqs, e, QN_NOMEM,
               "%d state slots for %d sequences: give %d, or --max-seqs %d", d->n_slot, a->max_seqs,
               a->max_seqs, d->n_slot);
    int fits = (d->n_page - 1) * QN_PAGE;
    if (fits < a->max_context) {
        QN_FAIL_IF(
            o->max_context, e, QN_NOMEM,
            "a context of %d tokens needs %d pages of %.1f MiB, %d fit; the longest context that fits is %d",
            a->max_context, QN_CEIL_DIV(a->max_context, QN_PAGE) + 1, MIB(size.page_bytes), d->n_page, fits);
        a->max_context = fits;
    }
    QN_FAIL_IF(a->max_context < 2, e, QN_NOMEM, "%d pages leave no room for a context", d->n_page);
out:
    return rc;
}

static void tell(struct qn_size *s, const struct qn_engine_options *o, const struct draft *a)
{
    const struct qn_device_options *d = &s->forward.device;
    struct qn_device_sizes size;
    ask_sizes(s, &size);
    s->info = (struct qn_engine_info){
        .max_context = a->max_context,
        .max_seqs = a->max_seqs,
        .max_queue = o->max_queue ? o->max_queue : DEFAULT_QUEUE,
        .n_page = d->n_page,
        .n_slot = d->n_slot,
        .step_tokens = a->step_tokens,
        .n_thread = o->n_thread,
        .mtp = o->mtp,
        .has_mtp = s->forward.with_mtp,
        .can_constrain = o->mask != NULL,
        .isa = "",
        .kv = qn_kv_name(d->kv),
        .weight_bytes = a->weight_bytes,
        .kv_bytes = (size_t)d->n_page * size.page_bytes,
        .state_bytes = (size_t)d->n_slot * size.slot_bytes + (size_t)d->n_lane * size.lane_bytes,
        .workspace_bytes = size.workspace_bytes,
        .request_bytes = (size_t)QN_MAX(o->request_bytes, 0),
    };
}

/* Fills s->forward.device and s->info; configuration, runner and s->forward.with_mtp are set. */
static int decide(struct qn_size *s, const struct qn_engine_options *o, size_t weight_bytes, struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_device_options *d = &s->forward.device;
    QN_TRY(check_options(o, e));
    struct draft a = {
        .max_seqs = o->max_seqs ? o->max_seqs : DEFAULT_SEQS,
        .step_tokens = o->step_tokens ? o->step_tokens : DEFAULT_STEP,
        .max_context = wanted_context(o, &s->config),
        .has_drafts = o->mtp != 0,
        .weight_bytes = weight_bytes,
    };
    *d = (struct qn_device_options){
        .config = &s->config,
        .n_thread = o->n_thread,
        .act = o->act,
        .kv = o->kv >= 0             ? (enum qn_kv)o->kv
              : o->act == QN_ACT_F32 ? QN_KV_F32
                                     : QN_KV_BF16,
        .max_context = a.max_context,
        .has_mtp = s->forward.with_mtp,
        .n_tok = o->n_tok,
        .n_page = o->n_page ? o->n_page : 1,
        .n_slot = o->n_slot ? o->n_slot : 1,
    };
    set_rows(d, &a);
    if (!o->n_page || !o->n_slot) QN_TRY(fill_memory(s, o, &a, e));
    QN_TRY(fit_context(s, o, &a, e));
    d->max_context = a.max_context;
    tell(s, o, &a);
out:
    return rc;
}

int qn_size_decide(struct qn_size *out, const struct qn_engine_options *o, struct qn_err *e)
{
    int rc = QN_OK;
    size_t weight_bytes = 0;
    *out = (struct qn_size){.ranks = {.n = o->n_rank ? o->n_rank : 1,
                                      .runner = o->runner ? o->runner : &qn_runner_forward,
                                      .user = o->runner_user,
                                      .model = o->model,
                                      .forward = &out->forward,
                                      .meet = o->meet}};
    QN_FAIL_IF(out->ranks.n < 1 || out->ranks.n > QN_MAX_RANK, e, QN_INVAL, "%d ranks: 1 to %d", out->ranks.n,
               QN_MAX_RANK);
    QN_FAIL_IF(!o->runner && (!o->model || !o->backend), e, QN_INVAL,
               "the engine needs a model and a backend");
    QN_FAIL_IF(!o->model && !o->config, e, QN_INVAL, "the engine needs a model or its configuration");
    out->config = o->config ? *o->config : *qn_model_config(o->model);
    if (out->ranks.n > 1 && !o->runner) {
        struct qn_shard first;
        QN_TRY(qn_shard_init(&first, &out->config, 0, out->ranks.n, e));
    }
    if (o->model) {
        struct qn_tally tally;
        qn_tally_model(o->model, &tally);
        weight_bytes = tally.text_bytes + (o->mtp != 0 ? tally.mtp_bytes : 0);
    }
    out->forward = (struct qn_forward_options){
        .backend = o->backend,
        .with_mtp = o->mtp != 0 && (o->model ? qn_model_has_mtp(o->model) : out->config.n_mtp > 0),
        .progress = o->progress,
        .progress_user = o->progress_user};
    QN_TRY(decide(out, o, weight_bytes, e));
out:
    return rc;
}

uint64_t qn_size_fingerprint(const struct qn_size *s, const struct qn_engine_options *o)
{
    const struct qn_device_options *d = &s->forward.device;
    struct qn_device_sizes size;
    ask_sizes(s, &size);
    const char *backend = o->model && !o->config ? o->backend->name : s->ranks.runner->name;
    uint64_t about[] = {o->model ? qn_model_fingerprint(o->model) : 1,
                        size.page_bytes,
                        size.slot_bytes,
                        (uint64_t)d->kv,
                        (uint64_t)d->act,
                        (uint64_t)d->has_mtp,
                        qn_hash_str(backend)};
    return qn_hash_bytes((uint64_t)s->ranks.n - 1, about, sizeof about);
}

void qn_size_name_nearest(const struct qn_size *s, const struct qn_engine_options *o, struct qn_err *e)
{
    struct qn_engine_options own = *o;
    struct qn_size trial = {.config = s->config,
                            .forward = {.backend = s->forward.backend, .with_mtp = s->info.has_mtp},
                            .ranks = s->ranks};
    trial.ranks.forward = &trial.forward;
    char why[120], memory[24], had[24];
    size_t most = qn_mem_largest(s->info.weight_bytes + s->info.kv_bytes + s->info.state_bytes +
                                 s->info.workspace_bytes);
    /* the rest is for stacks and small allocations */
    own.memory_bytes = (int64_t)(most / 8 * 7) & ~(((int64_t)1 << 20) - 1);
    own.n_page = own.n_slot = 0;
    own.is_bound = false;
    own.max_context = s->info.max_context;
    int fit = 0, over = s->info.max_seqs + 1; /* more sequences need more, never less */
    while (fit + 1 < over) {
        own.max_seqs = fit + (over - fit) / 2;
        *(decide(&trial, &own, s->info.weight_bytes, NULL) ? &over : &fit) = own.max_seqs;
    }
    own.max_seqs = QN_MAX(fit, 1);
    if (!fit) own.max_context = 0; /* not one of that length */
    int rc = decide(&trial, &own, s->info.weight_bytes, NULL);
    snprintf(why, sizeof why, "%.119s", e->text);
    qn_bytes_text(most, had);
    qn_bytes_text(s->info.weight_bytes, memory);
    if (rc)
        qn_err_set(e, QN_NOMEM, __FILE__, __LINE__,
                   "%s. %s can be had, too little for the weights (%s) and one sequence", why, had, memory);
    else
        qn_err_set(e, QN_NOMEM, __FILE__, __LINE__,
                   "%s. %s can be had; what fits: --max-seqs %d --context %d --memory %lldM", why, had,
                   trial.info.max_seqs, trial.info.max_context, (long long)(own.memory_bytes >> 20));
}
