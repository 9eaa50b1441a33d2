/* A model on a machine that need not be this one.
 * SPDX-License-Identifier: Apache-2.0 */
#include "cli/plan_machine.h"

#include "backend/backend.h"
#include "base/json.h"
#include "base/mem.h"
#include "model/plan.h"
#include "model/project.h"
#include "model/shard.h"
#include "model/target.h"

#define CONTEXT_BYTES ((uint64_t)1 << 30) /* of a card: driver, graphs, buffers of the reductions */
#define USABLE        0.97                /* of a card's memory */

static const int batches[] = {1, 8, 64};

struct plan {
    const struct qn_model *m;
    const struct qn_plan_machine *p;
    struct qn_target target;
    struct qn_tally tally;
    struct qn_shard shard; /* of rank 0 */
    struct qn_plan_in in;  /* of a rank */
    struct qn_plan fit;
    struct qn_project_step off[QN_COUNT(batches)], mtp[QN_COUNT(batches)];
    const char *limiter;
};

/* Weights of rank 0 in the files, which has the largest part. */
static uint64_t rank_bytes(const struct plan *n)
{
    uint64_t split = 0, whole = n->tally.part[QN_PART_ROUTER].bytes + n->tally.part[QN_PART_SMALL].bytes;
    for (int p = 0; p < QN_N_PART; p++)
        if (p != QN_PART_ROUTER && p != QN_PART_SMALL && (p != QN_PART_MTP || n->p->has_mtp))
            split += n->tally.part[p].bytes;
    return split / (uint64_t)n->shard.n + whole;
}

/* Sizes of a rank of so many; false: the heads cannot be shared out so. */
static bool size_ranks(struct plan *n, int ranks)
{
    const struct qn_config *c = qn_model_config(n->m);
    if (qn_shard_init(&n->shard, c, 0, ranks, NULL)) return false;
    struct qn_device_sizes size;
    struct qn_device_options o = {.config = &n->shard.config,
                                  .act = QN_ACT_BF16,
                                  .kv = n->p->kv,
                                  .max_rows = n->p->rows,
                                  .max_logits = 128,
                                  .max_seqs = 64,
                                  .has_mtp = n->p->has_mtp};
    qn_backend_get("cpu")->sizes(&o, &size);
    n->in = (struct qn_plan_in){.memory = (uint64_t)(USABLE * (double)n->target.memory),
                                .weight_bytes = rank_bytes(n),
                                .workspace_bytes = size.workspace_bytes + CONTEXT_BYTES,
                                .page_bytes = size.page_bytes,
                                .slot_bytes = size.slot_bytes,
                                .lane_bytes = size.lane_bytes,
                                .page_tok = QN_PAGE,
                                .max_context = c->max_context,
                                .context = n->p->context,
                                .users = n->p->users};
    return true;
}

/* The most ranks up to the number of cards. */
static int degree(struct plan *n)
{
    int ranks = n->target.cards;
    while (ranks > 1 && !size_ranks(n, ranks)) ranks--;
    size_ranks(n, ranks);
    return ranks;
}

/* What is too little, and the machine that would do: more cards of the kind. */
static int refuse(struct plan *n, struct qn_err *e)
{
    char need[24], had[24], weights[24];
    uint64_t least = n->in.weight_bytes + n->in.workspace_bytes +
                     qn_plan_user_bytes(&n->in, n->p->context ? n->p->context : 4096);
    int ranks = n->shard.n, more = 0;
    qn_bytes_text(least, need);
    qn_bytes_text(n->in.memory, had);
    qn_bytes_text(n->in.weight_bytes, weights);
    for (int k = ranks + 1; k <= 64 && !more; k++) {
        struct qn_plan plan;
        if (size_ranks(n, k) && !qn_plan_make(&n->in, &plan, NULL)) more = k;
    }
    size_ranks(n, ranks);
    if (more)
        return qn_err_set(e, QN_NOMEM, __FILE__, __LINE__,
                          "does not fit: %d rank%s need %s each (weights %s), a card has %s to give; the "
                          "nearest that fits: %d such cards",
                          ranks, ranks == 1 ? "" : "s", need, weights, had, more);
    return qn_err_set(
        e, QN_NOMEM, __FILE__, __LINE__,
        "does not fit: %d rank%s need %s each (weights %s), a card has %s to give, and no number "
        "of such cards up to 64 would do; a smaller format of the weights (quern quantize) or "
        "--kv fp8 helps",
        ranks, ranks == 1 ? "" : "s", need, weights, had);
}

static void project(struct plan *n)
{
    struct qn_project_in in = {.config = qn_model_config(n->m),
                               .tally = &n->tally,
                               .target = &n->target,
                               .ranks = n->shard.n,
                               .page_bytes = n->in.page_bytes,
                               .slot_bytes = n->in.slot_bytes,
                               .page_tok = QN_PAGE,
                               .has_mtp = n->p->has_mtp};
    in.target = &n->target;
    for (size_t i = 0; i < QN_COUNT(batches); i++) {
        qn_project_step(&in, batches[i], 0, &n->off[i]);
        qn_project_best(&in, batches[i], &n->mtp[i]);
    }
    n->limiter = qn_project_limiter(&n->off[0]);
}

static void print_step(const char *what, int streams, const struct qn_project_step *s)
{
    printf("  %-4s %3d  %5d %9.0f %9.0f  %7.2f %7.2f %6.2f %7.2f %8.2f %6.2f %7.2f\n", what, streams,
           s->depth, s->limit, s->expected, s->weights_ms, s->experts_ms, s->state_ms, s->reduce_ms,
           s->launch_ms, s->draft_ms, s->lost_ms);
}

static void print_text(const struct plan *n)
{
    char a[24], b[24], c[24];
    const struct qn_target *t = &n->target;
    printf("%s on %d x %s (%s, %.0f GB/s%s%s): a projection, nothing was run\n", qn_model_name(n->m),
           t->cards, qn_bytes_text(t->memory, a), t->card, t->bandwidth_gbs, t->cards > 1 ? ", " : "",
           t->cards > 1 ? t->link : "");
    printf("ranks    %d; each holds %s of weights and has %s for caches\n", n->shard.n,
           qn_bytes_text(n->in.weight_bytes, b),
           qn_bytes_text(n->in.memory - n->in.weight_bytes - n->in.workspace_bytes, c));
    printf("fits     %d sequences of %d tokens (%d pages, %d state slots)\n", n->fit.users, n->fit.context,
           n->fit.n_page, n->fit.n_slot);
    printf("limiter  %s, at one stream\n\n", n->limiter);
    printf("tokens a second of all streams, and the terms of a step in milliseconds\n");
    printf(
        "       streams depth     limit  expected  weights experts  state  reduce launches drafts    lost\n");
    for (size_t i = 0; i < QN_COUNT(batches); i++) print_step("off", batches[i], &n->off[i]);
    for (size_t i = 0; i < QN_COUNT(batches) && n->p->has_mtp; i++) print_step("mtp", batches[i], &n->mtp[i]);
    printf(
        "\nlimit: bytes at the memory's rate, sums over ranks, launches. expected: with 73 us a layer beside "
        "them, which\nthe best public engines lose today. Contexts are short; KV of long ones comes on "
        "top.\n");
}

static void put_rates(struct qn_buf *b, const char *name, const struct plan *n, bool wants_limit)
{
    qn_buf_printf(b, ",\"%s\":{", name);
    for (int mtp = 0; mtp <= n->p->has_mtp; mtp++) {
        qn_buf_printf(b, "%s\"%s\":{", mtp ? "," : "", mtp ? "mtp" : "off");
        for (size_t i = 0; i < QN_COUNT(batches); i++) {
            const struct qn_project_step *s = mtp ? &n->mtp[i] : &n->off[i];
            qn_buf_printf(b, "%s\"%d\":%.1f", i ? "," : "", batches[i], wants_limit ? s->limit : s->expected);
        }
        qn_buf_puts(b, "}");
    }
    qn_buf_puts(b, "}");
}

static void put_terms(struct qn_buf *b, const struct plan *n)
{
    qn_buf_puts(b, ",\"terms_ms\":{");
    for (int mtp = 0; mtp <= n->p->has_mtp; mtp++) {
        qn_buf_printf(b, "%s\"%s\":{", mtp ? "," : "", mtp ? "mtp" : "off");
        for (size_t i = 0; i < QN_COUNT(batches); i++) {
            const struct qn_project_step *s = mtp ? &n->mtp[i] : &n->off[i];
            qn_buf_printf(b,
                          "%s\"%d\":{\"depth\":%d,\"weights\":%.3f,\"experts\":%.3f,\"state\":%.3f,"
                          "\"kv\":%.3f,\"reduce\":%.3f,\"launches\":%.3f,\"drafts\":%.3f,\"lost\":%.3f,"
                          "\"efficiency\":%.3f}",
                          i ? "," : "", batches[i], s->depth, s->weights_ms, s->experts_ms, s->state_ms,
                          s->kv_ms, s->reduce_ms, s->launch_ms, s->draft_ms, s->lost_ms,
                          s->expected / s->limit);
        }
        qn_buf_puts(b, "}");
    }
    qn_buf_puts(b, "}");
}

static void print_json(const struct plan *n, const char *reason)
{
    const struct qn_target *t = &n->target;
    struct qn_buf b = QN_BUF_INIT(1 << 20);
    qn_buf_puts(&b, "{\"model\":");
    qn_json_write_str(&b, qn_model_name(n->m), strlen(qn_model_name(n->m)), false);
    qn_buf_printf(&b,
                  ",\"basis\":\"projection\",\"machine\":{\"cards\":%d,\"memory\":%" PRIu64
                  ",\"bandwidth_gbs\":%.0f,\"link_gbs\":%.1f,\"reduce_us\":%.2f,\"launch_us\":%.2f},"
                  "\"ranks\":%d,\"bytes_per_rank\":%" PRIu64
                  ",\"page_bytes\":%zu,\"slot_bytes\":%zu,\"fits\":%s",
                  t->cards, t->memory, t->bandwidth_gbs, t->link_gbs, t->reduce_us, t->launch_us, n->shard.n,
                  n->in.weight_bytes, n->in.page_bytes, n->in.slot_bytes, reason ? "false" : "true");
    if (reason) {
        qn_buf_puts(&b, ",\"limiter\":\"memory\",\"reason\":");
        qn_json_write_str(&b, reason, strlen(reason), false);
    } else {
        qn_buf_printf(&b, ",\"users\":%d,\"context\":%d,\"limiter\":\"%s\"", n->fit.users, n->fit.context,
                      n->limiter);
        put_rates(&b, "tok_s", n, false);
        put_rates(&b, "tok_s_limit", n, true);
        put_terms(&b, n);
    }
    qn_buf_puts(&b, "}");
    puts(qn_buf_str(&b));
    qn_buf_free(&b);
}

int qn_plan_on_machine(const struct qn_model *m, const struct qn_plan_machine *p, struct qn_err *e)
{
    int rc = QN_OK;
    struct plan n = {.m = m, .p = p};
    QN_TRY(qn_target_read(&n.target, p->spec, e));
    qn_tally_model(m, &n.tally);
    degree(&n);
    if (qn_plan_make(&n.in, &n.fit, NULL)) {
        rc = refuse(&n, e);
        if (p->json) print_json(&n, e->text);
        goto out;
    }
    project(&n);
    if (p->json)
        print_json(&n, NULL);
    else
        print_text(&n);
out:
    return rc;
}
