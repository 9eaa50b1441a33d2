/* quern plan: the exact byte sum of a model in memory, and what fits beside it.
 * SPDX-License-Identifier: Apache-2.0 */
#include <strings.h>

#include "backend/backend.h"
#include "base/json.h"
#include "base/mem.h"
#include "cli/cli.h"
#include "cli/model_opts.h"
#include "cli/plan_machine.h"
#include "engine/engine.h"
#include "model/plan.h"

#define ROWS_DEFAULT 512 /* rows of a step */

struct numbers {
    struct qn_tally tally;
    struct qn_plan_in in;
    struct qn_plan plan;
    struct qn_device_sizes sizes;
    const char *kv;
    int plan_rc;
    char why[240];
};

static const int contexts[] = {4096, 16384, 32768, 65536, 131072, 262144, 1048576};

static void print_text(const struct qn_model *m, const struct numbers *n)
{
    char a[24], b[24], c[24];
    const struct qn_config *cfg = qn_model_config(m);
    printf("%s\n", qn_model_name(m));
    printf("memory         %14" PRIu64 "  %s\n", n->in.memory, qn_bytes_text(n->in.memory, a));
    printf("weights        %14" PRIu64 "  %s\n", n->in.weight_bytes, qn_bytes_text(n->in.weight_bytes, a));
    for (int p = 0; p < QN_N_PART; p++)
        if (n->tally.part[p].bytes)
            printf("  %-13s%14" PRIu64 "\n", qn_part_name((enum qn_part)p), n->tally.part[p].bytes);
    printf("scratch        %14" PRIu64 "  %s\n", n->in.workspace_bytes,
           qn_bytes_text(n->in.workspace_bytes, a));
    printf("requests       %14" PRIu64 "  %s\n", n->in.request_bytes, qn_bytes_text(n->in.request_bytes, a));
    printf("page           %14zu  %d tokens, %zu bytes a token (%s)\n", n->in.page_bytes, n->in.page_tok,
           n->in.page_bytes / (size_t)n->in.page_tok, n->kv);
    printf("state slot     %14zu  a sequence or a snapshot; as much as %.0f tokens of KV\n", n->in.slot_bytes,
           (double)n->in.slot_bytes / ((double)n->in.page_bytes / n->in.page_tok));
    printf("lane           %14zu  a running sequence\n\n", n->in.lane_bytes);
    if (n->plan_rc) {
        printf("does not fit: %s\n", n->why);
    } else {
        printf("plan: %d sequences of %d tokens\n", n->plan.users, n->plan.context);
        printf("  pages  %8d  %14" PRIu64 "  %s (%d tokens)\n", n->plan.n_page, n->plan.page_bytes,
               qn_bytes_text(n->plan.page_bytes, a), n->plan.n_page * n->in.page_tok);
        printf("  slots  %8d  %14" PRIu64 "  %s\n", n->plan.n_slot, n->plan.slot_bytes,
               qn_bytes_text(n->plan.slot_bytes, b));
        printf("  lanes  %8d  %14" PRIu64 "  %s\n", n->plan.n_lane, n->plan.lane_bytes,
               qn_bytes_text(n->plan.lane_bytes, c));
        printf("  total            %14" PRIu64 "  %s\n", n->plan.total_bytes,
               qn_bytes_text(n->plan.total_bytes, a));
    }
    printf("\nsequences that fit, by context\n");
    for (size_t i = 0; i < QN_COUNT(contexts); i++)
        if (contexts[i] <= cfg->max_context)
            printf("  %8d tokens  %5d  (%s each)\n", contexts[i], qn_plan_users(&n->in, contexts[i]),
                   qn_bytes_text(qn_plan_user_bytes(&n->in, contexts[i]), a));
}

static void print_json(const struct qn_model *m, const struct numbers *n)
{
    struct qn_buf b = QN_BUF_INIT(1 << 20);
    qn_buf_puts(&b, "{\"model\":");
    qn_json_write_str(&b, qn_model_name(m), strlen(qn_model_name(m)), false);
    qn_buf_printf(&b, ",\"memory_bytes\":%" PRIu64 ",\"weights\":{\"bytes\":%" PRIu64 ",\"parts\":{",
                  n->in.memory, n->in.weight_bytes);
    bool first = true;
    for (int p = 0; p < QN_N_PART; p++) {
        if (!n->tally.part[p].bytes) continue;
        qn_buf_printf(&b, "%s\"%s\":%" PRIu64, first ? "" : ",", qn_part_name((enum qn_part)p),
                      n->tally.part[p].bytes);
        first = false;
    }
    qn_buf_printf(&b,
                  "}},\"workspace_bytes\":%" PRIu64 ",\"request_bytes\":%" PRIu64
                  ",\"kv\":\"%s\",\"page_bytes\":%zu,\"page_tokens\":%d,"
                  "\"slot_bytes\":%zu,\"lane_bytes\":%zu,\"fits\":%s",
                  n->in.workspace_bytes, n->in.request_bytes, n->kv, n->in.page_bytes, n->in.page_tok,
                  n->in.slot_bytes, n->in.lane_bytes, n->plan_rc ? "false" : "true");
    if (n->plan_rc) {
        qn_buf_puts(&b, ",\"reason\":");
        qn_json_write_str(&b, n->why, strlen(n->why), false);
    } else {
        qn_buf_printf(
            &b,
            ",\"users\":%d,\"context\":%d,\"pages\":%d,\"slots\":%d,\"lanes\":%d,\"pages_bytes\":%" PRIu64
            ",\"slots_bytes\":%" PRIu64 ",\"lanes_bytes\":%" PRIu64 ",\"total_bytes\":%" PRIu64,
            n->plan.users, n->plan.context, n->plan.n_page, n->plan.n_slot, n->plan.n_lane,
            n->plan.page_bytes, n->plan.slot_bytes, n->plan.lane_bytes, n->plan.total_bytes);
    }
    qn_buf_puts(&b, ",\"fit\":[");
    first = true;
    for (size_t i = 0; i < QN_COUNT(contexts); i++) {
        if (contexts[i] > qn_model_config(m)->max_context) continue;
        qn_buf_printf(&b, "%s{\"context\":%d,\"users\":%d,\"user_bytes\":%" PRIu64 "}", first ? "" : ",",
                      contexts[i], qn_plan_users(&n->in, contexts[i]),
                      qn_plan_user_bytes(&n->in, contexts[i]));
        first = false;
    }
    qn_buf_puts(&b, "]}");
    puts(qn_buf_str(&b));
    qn_buf_free(&b);
}

/* What was asked for. */
struct wish {
    int64_t memory, request_memory, context, users, rows;
    bool json, mtp;
    const char *kv, *activations, *machine, *folder;
    int act;
    struct qn_model_wish over;
};

static int read_wish(struct wish *w, int argc, char **argv, struct qn_err *e)
{
    const struct qn_opt table[] = {
        QN_MODEL_OPTS(&w->over),
        {"json", 0, QN_OPT_FLAG, &w->json, NULL, "one JSON object", NULL, NULL, 0, 0},
        {"memory", 'm', QN_OPT_BYTES, &w->memory, "BYTES", "the budget (four fifths of what can be had)",
         NULL, NULL, 0, 0},
        {"machine", 0, QN_OPT_STR, &w->machine, "SPEC",
         "another machine: 4x96G:pcie5, h200, or a file; memory, speed and what limits it", NULL, NULL, 0, 0},
        {"request-memory", 0, QN_OPT_BYTES, &w->request_memory, "BYTES",
         "of it for requests (a sixteenth, 32M to 1G)", NULL, NULL, 0, 0},
        {"context", 'c', QN_OPT_INT, &w->context, "N", "tokens of a sequence (the most that fit)", NULL,
         "max-model-len,context-length", 1, 1 << 24},
        {"users", 'u', QN_OPT_INT, &w->users, "N", "sequences at once (8, or fewer where 8 do not fit)", NULL,
         "max-num-seqs", 1, 4096},
        {"kv", 0, QN_OPT_STR, &w->kv, "TYPE", "of the KV cache: " QN_KV_NAMES " (bf16)", NULL,
         "kv-cache-dtype", 0, 0},
        {"activations", 0, QN_OPT_STR, &w->activations, "TYPE", QN_ACT_NAMES " (bf16): their room", NULL,
         NULL, 0, 0},
        {"rows", 0, QN_OPT_INT, &w->rows, "N", "rows of a step (512)", NULL, NULL, 1, 65536},
        {"mtp", 0, QN_OPT_FLAG, &w->mtp, NULL, "with the MTP block (yes, when the files have it)", NULL, NULL,
         0, 0},
    };
    static const struct qn_opt_usage usage = {
        "quern plan MODEL [options]",
        "Sums the bytes of weights, state and KV cache, and says how many sequences of which length fit.",
        "quern plan models/Qwen3.5-27B --memory 32G --context 65536\n"
        "  quern plan models/Qwen3.5-397B-A17B-NVFP4 --machine 4x96G:pcie5"};
    const char *args[1];
    int n_arg, rc = qn_opt_parse(table, QN_COUNT(table), &usage, argc, argv, args, 1, &n_arg, e);
    if (rc) return rc;
    QN_FAIL_IF(n_arg != 1, e, QN_INVAL, "MODEL is needed: a checkpoint folder or a .gguf file");
    QN_FAIL_IF(qn_kv_find(w->kv, false) < 0, e, QN_INVAL, "--kv %.40s: must be " QN_KV_NAMES, w->kv);
    w->act = qn_act_find(w->activations);
    QN_FAIL_IF(w->act < 0, e, QN_INVAL, "--activations %.40s: must be " QN_ACT_NAMES, w->activations);
    w->folder = args[0];
out:
    return rc;
}

static int plan_elsewhere(const struct wish *w, const struct qn_model *m, struct qn_err *e)
{
    const struct qn_plan_machine p = {.spec = w->machine,
                                      .context = (int)w->context,
                                      .users = (int)w->users,
                                      .rows = (int)w->rows,
                                      .kv = (enum qn_kv)qn_kv_find(w->kv, qn_model_has_kv_scales(m)),
                                      .has_mtp = w->mtp && qn_model_has_mtp(m),
                                      .json = w->json};
    int rc = qn_plan_on_machine(m, &p, e);
    if (rc == QN_NOMEM && w->json) return 1;
    return rc ? qn_cli_failed("plan", e) : 0;
}

/* The engine's own reckoning, so that a server allocates these. */
static void plan_here(struct wish *w, const struct qn_model *m, struct numbers *n, struct qn_err *e)
{
    struct qn_device_options o = {0};
    qn_tally_model(m, &n->tally);
    o.kv = (enum qn_kv)qn_kv_find(w->kv, qn_model_has_kv_scales(m));
    o.config = qn_model_config(m);
    o.has_mtp = w->mtp && qn_model_has_mtp(m);
    o.act = (enum qn_act)w->act;
    qn_backend_get("cpu")->sizes(&o, &n->sizes);
    if (!w->memory) w->memory = (int64_t)(qn_mem_available() / 5 * 4);
    if (!w->request_memory) w->request_memory = (int64_t)qn_plan_request_bytes((uint64_t)w->memory);
    struct qn_engine_options wish = {.model = m,
                                     .backend = qn_backend_get("cpu"),
                                     .act = o.act,
                                     .kv = (int)o.kv,
                                     .max_context = (int)w->context,
                                     .max_seqs = (int)w->users,
                                     .step_tokens = (int)w->rows,
                                     .memory_bytes = w->memory,
                                     .request_bytes = w->request_memory,
                                     .mtp = o.has_mtp ? -1 : 0};
    struct qn_engine_info info = {0};
    n->plan_rc = qn_engine_plan(&info, &wish, e);
    if (n->plan_rc) snprintf(n->why, sizeof n->why, "%s", e->text);
    n->plan = (struct qn_plan){.users = info.max_seqs,
                               .context = info.max_context,
                               .n_page = info.n_page,
                               .n_slot = info.n_slot,
                               .n_lane = info.max_seqs,
                               .weight_bytes = info.weight_bytes,
                               .workspace_bytes = info.workspace_bytes,
                               .request_bytes = (uint64_t)w->request_memory,
                               .page_bytes = info.kv_bytes,
                               .slot_bytes = (uint64_t)info.n_slot * n->sizes.slot_bytes,
                               .lane_bytes = (uint64_t)info.max_seqs * n->sizes.lane_bytes};
    n->plan.total_bytes = (uint64_t)w->request_memory + info.weight_bytes + info.workspace_bytes +
                          info.kv_bytes + n->plan.slot_bytes + n->plan.lane_bytes;
    n->kv = qn_kv_name(o.kv);
    if (!o.has_mtp) n->tally.part[QN_PART_MTP].bytes = 0;
    n->in = (struct qn_plan_in){.memory = (uint64_t)w->memory,
                                .weight_bytes = n->tally.text_bytes + (o.has_mtp ? n->tally.mtp_bytes : 0),
                                .workspace_bytes = info.workspace_bytes,
                                .request_bytes = (uint64_t)w->request_memory,
                                .page_bytes = n->sizes.page_bytes,
                                .slot_bytes = n->sizes.slot_bytes,
                                .lane_bytes = n->sizes.lane_bytes,
                                .page_tok = QN_PAGE,
                                .max_context = o.config->max_context,
                                .context = (int)w->context,
                                .users = (int)w->users};
}

static int run(int argc, char **argv)
{
    struct wish w = {.rows = ROWS_DEFAULT, .mtp = true, .kv = "bf16", .activations = "bf16"};
    struct qn_err e = {0};
    struct qn_model *m;
    struct numbers n = {0};
    int rc = read_wish(&w, argc, argv, &e);
    if (rc) return qn_cli_usage_failed("plan", rc, &e);
    rc = qn_model_opts_open(&m, w.folder, &w.over, &e);
    if (rc) return qn_cli_failed("plan", &e);
    if (w.machine) {
        rc = plan_elsewhere(&w, m, &e);
        qn_model_close(m);
        return rc;
    }
    plan_here(&w, m, &n, &e);
    if (w.json)
        print_json(m, &n);
    else
        print_text(m, &n);
    qn_model_close(m);
    return n.plan_rc ? 1 : 0;
}

const struct qn_cmd qn_cmd_plan = {"plan", "sum the memory a model needs and what fits beside it", run};
