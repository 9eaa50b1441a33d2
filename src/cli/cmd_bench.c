/* quern bench: speed of a model on this machine.
 *
 * Everything runs through the engine, as a request would; each part is a file, bench_<noun>.c. Figures of a
 * part are rows of one table on the terminal, JSON lines with --json, and a CSV with --csv.
 * SPDX-License-Identifier: Apache-2.0 */
#include <strings.h>

#include "backend/backend.h"
#include "base/cpu.h"
#include "base/log.h"
#include "cli/bench_stream.h"
#include "cli/cli.h"
#include "cli/model_opts.h"
#include "model/checkpoint.h"
#include "text/text.h"

static const struct part {
    const char *name;
    int (*run)(struct qn_bench *b, struct qn_err *e);
    const char *streams; /* the default list */
    int n_gen, n_run, seconds;
} parts[] = {
    {"speed", qn_bench_speed, "1", 64, 3, 0},
    {"concurrency", qn_bench_concurrency, "1,2,4,8,16,32,64,128", 64, 1, 0},
    {"agent", qn_bench_agent, "1", 64, 1, 0},
    {"mixed", qn_bench_mixed, "4", 64, 1, 10},
    {"speculation", qn_bench_speculation, "1,4,16", 256, 3, 0},
    {"scenarios", qn_bench_scenarios, "1", 64, 1, 0},
    {"matrix", qn_bench_matrix, "1,2,4,8,16,32,64,128", 4096, 1, 30},
};

static int parse_list(const char *text, struct qn_bench_list *out, const char *name, int least, int most,
                      struct qn_err *e)
{
    *out = (struct qn_bench_list){0};
    for (const char *p = text; *p;) {
        int64_t x;
        char word[32];
        size_t len = strcspn(p, ",");
        bool is_long = len >= sizeof word;
        memcpy(word, p, is_long ? 0 : len);
        word[is_long ? 0 : len] = 0;
        if (is_long || qn_opt_bytes(word, &x) || x < least || x > most || out->n == QN_BENCH_LIST)
            return qn_err_set(e, QN_INVAL, __FILE__, __LINE__,
                              "--%s: '%s' is no list of at most %d numbers from %d to %d, like 1,4,16", name,
                              text, QN_BENCH_LIST, least, most);
        out->at[out->n++] = (int)x;
        p += len + (p[len] == ',');
    }
    if (!out->n) return qn_err_set(e, QN_INVAL, __FILE__, __LINE__, "--%s: an empty list", name);
    return QN_OK;
}

int qn_bench_fit(const struct qn_bench *b, int n_tok, int n_new)
{
    return QN_MIN(n_tok, qn_model_config(b->model)->max_context - n_new - QN_MAX_DRAFT - 1);
}

int qn_bench_open(struct qn_bench *b, int n_stream, int n_tok, int mtp, struct qn_err *e)
{
    qn_bench_close(b);
    struct qn_engine_options o = b->base;
    o.max_seqs = n_stream;
    o.max_queue = 2 * QN_BENCH_STREAMS;
    o.mtp = mtp;
    o.max_context = qn_bench_fit(b, n_tok, 0) + QN_MAX_DRAFT + 1;
    return qn_engine_open(&b->engine, &o, e);
}

void qn_bench_close(struct qn_bench *b)
{
    if (b->engine) qn_engine_close(b->engine);
    b->engine = NULL;
}

bool qn_bench_has_room(const struct qn_bench *b, int n_stream, int n_tok)
{
    const struct qn_engine_info *info = qn_engine_info(b->engine);
    int64_t pages = (int64_t)n_stream * (QN_CEIL_DIV(QN_MIN(n_tok, info->max_context), QN_PAGE) + 1);
    return n_stream <= info->max_seqs && pages <= info->n_page && n_stream <= QN_BENCH_STREAMS;
}

struct wish {
    const char *device, *prompt, *context, *streams, *depths, *activations, *mtp, *kv, *disk_tier, *csv;
    int64_t n_thread, n_rank, n_run, n_gen, seed, turns, step_tokens, long_prompt, long_known, n_prompt,
        n_first, n_more, seconds, memory;
    double temperature;
    bool json, speculate, shared;
    struct qn_model_wish over;
    const char *folder;
    int n_part, wanted[QN_COUNT(parts)];
};

static int read_wish(const struct wish *w, struct qn_bench *b, struct qn_err *e)
{
    int rc = QN_OK, kv = -1, act = QN_ACT_BF16, most = 1 << 24;
    char *end = NULL;
    long depth = !strcmp(w->mtp, "auto") ? -1 : !strcmp(w->mtp, "off") ? 0 : strtol(w->mtp, &end, 10);
    bool is_number = end && w->mtp[0] >= '0' && w->mtp[0] <= '9' && !*end;
    QN_FAIL_IF(strcmp(w->mtp, "auto") && strcmp(w->mtp, "off") && (!is_number || depth > QN_MAX_DRAFT), e,
               QN_INVAL, "--mtp: '%.20s' is neither auto, off nor 0 to %d", w->mtp, QN_MAX_DRAFT);
    if (w->activations[0]) act = qn_act_find(w->activations);
    QN_FAIL_IF(act < 0, e, QN_INVAL, "--activations: '%.20s' is none of " QN_ACT_NAMES, w->activations);
    if (w->kv[0]) kv = qn_kv_find(w->kv, false);
    QN_FAIL_IF(w->kv[0] && kv < 0, e, QN_INVAL, "--kv: '%.40s' is none of " QN_KV_NAMES, w->kv);
    const struct qn_backend *backend = qn_backend_get(w->device);
    QN_FAIL_IF(!backend, e, QN_INVAL, "--device: no '%.20s' in this build; cpu and ref are, cuda after `make cuda`", w->device);
    QN_TRY(parse_list(w->prompt, &b->prompts, "prompt", 1, most, e));
    QN_TRY(parse_list(w->context, &b->contexts, "context", 0, most, e));
    QN_TRY(parse_list(w->depths, &b->depths, "depths", 0, QN_MAX_DRAFT, e));
    b->base = (struct qn_engine_options){.model = b->model,
                                         .backend = backend,
                                         .n_thread = (int)w->n_thread,
                                         .n_rank = (int)w->n_rank,
                                         .act = (enum qn_act)act,
                                         .kv = kv,
                                         .memory_bytes = w->memory,
                                         .step_tokens = (int)w->step_tokens,
                                         .mtp = (int)depth,
                                         .ram_tier_bytes = -1};
    b->seed = (uint64_t)w->seed << 32;
    b->n_turn = (int)w->turns;
    b->n_prompt = (int)w->n_prompt;
    b->n_first = (int)w->n_first;
    b->n_more = (int)w->n_more;
    b->n_long = (int)w->long_prompt;
    b->n_known = (int)w->long_known;
    b->temperature = (float)w->temperature;
    b->is_speculating = w->speculate;
    b->is_shared = w->shared;
    b->disk_tier = w->disk_tier;
out:
    return rc;
}

/* The part with what was asked for, or its own defaults. */
static int run_part(const struct part *part, const struct wish *w, struct qn_bench *b, struct qn_err *e)
{
    struct qn_engine_options base = b->base;
    int rc =
        parse_list(w->streams ? w->streams : part->streams, &b->streams, "streams", 1, QN_BENCH_STREAMS, e);
    b->n_gen = (int)(w->n_gen ? w->n_gen : part->n_gen);
    b->n_run = (int)(w->n_run ? w->n_run : part->n_run);
    b->seconds = (int)(w->seconds ? w->seconds : part->seconds);
    if (!strcmp(part->name, "matrix") && !strcmp(w->context, "0"))
        rc = rc ? rc : parse_list("0,16k,32k,64k,128k", &b->contexts, "context", 0, 1 << 24, e);
    if (!rc) rc = part->run(b, e);
    qn_bench_close(b);
    b->base = base;
    return rc;
}

static int find_part(const char *name)
{
    for (int i = 0; i < (int)QN_COUNT(parts); i++)
        if (!strcmp(parts[i].name, name)) return i;
    return -1;
}

static int name_parts(struct wish *w, const char **args, int n_arg, struct qn_err *e)
{
    int rc = QN_OK;
    for (int i = 0; i < n_arg; i++) {
        int at = find_part(args[i]);
        if (at >= 0 && w->n_part < (int)QN_COUNT(parts))
            w->wanted[w->n_part++] = at;
        else if (!w->folder)
            w->folder = args[i];
        else
            QN_FAIL(
                e, QN_INVAL,
                "no benchmark '%.40s'; there are speed, concurrency, agent, mixed, speculation, scenarios, "
                "matrix",
                args[i]);
    }
    QN_FAIL_IF(!w->folder, e, QN_INVAL, "MODEL is missing; see --help");
    if (!w->n_part) w->wanted[w->n_part++] = 0;
out:
    return rc;
}

static int read_options(struct wish *w, int argc, char **argv, struct qn_err *e)
{
    static const struct qn_opt_usage usage = {
        "quern bench MODEL [PART ...] [options]",
        "Measures the model on this machine, one table a part:\n"
        "  speed        prefill of each --prompt and decode at each --context, beside the memory's limit "
        "(default)\n"
        "  concurrency  --streams at once, with prompts of their own and with a shared prefix\n"
        "  agent        a session whose turns repeat all of it: reused tokens, time to first token, after a "
        "restart\n"
        "  mixed        gaps between tokens of running streams while a long prompt is read\n"
        "  speculation  each class of content without drafts, at fixed --depths, and automatic\n"
        "  scenarios    algorithm, debugging, system design, code review, mixed, at 1 to 8 requests\n"
        "  matrix       --context x --streams, each cell for --seconds; what does not fit is said",
        "quern bench models/mini speed --prompt 512,2048 --context 0,4k --speculate\n"
        "         quern bench models/mini concurrency --streams 1,8,64 --csv out.csv && bench/plot.py "
        "out.csv out.svg "
        "--x streams --y tok_s --by prefix\n"
        "         quern bench models/mini matrix --context 0,4k --streams 1,4,16 --seconds 5"};
    const struct qn_opt options[] = {
        {"prompt", 0, QN_OPT_STR, &w->prompt, "LIST", "speed: prompt lengths to prefill (512)", .env = NULL},
        {"context", 0, QN_OPT_STR, &w->context, "LIST",
         "speed: contexts to decode at (0); matrix (0,16k,32k,64k,128k)"},
        {"gen", 'n', QN_OPT_INT, &w->n_gen, "N",
         "tokens to generate (64; speculation 256; matrix 4096 at most)", .min = 2, .max = 1000000},
        {"streams", 0, QN_OPT_STR, &w->streams, "LIST",
         "requests at once (1,2,4 .. 128; speculation 1,4,16; mixed 4)"},
        {"prompt-tokens", 0, QN_OPT_INT, &w->n_prompt, "N", "concurrency: length of the prompts (256)",
         .min = 4, .max = 1 << 24},
        {"turns", 0, QN_OPT_INT, &w->turns, "N", "agent: turns (20)", .min = 2, .max = 1000},
        {"first", 0, QN_OPT_INT, &w->n_first, "N", "agent: tokens of the first prompt (1024)", .min = 1,
         .max = 1 << 24},
        {"more", 0, QN_OPT_INT, &w->n_more, "N", "agent: new tokens of each later turn (256)", .min = 1,
         .max = 1 << 20},
        {"disk-tier", 0, QN_OPT_STR, &w->disk_tier, "DIR",
         "agent: where prefixes outlive the restart (a new folder)"},
        {"long-prompt", 0, QN_OPT_INT, &w->long_prompt, "N",
         "mixed: prompt read beside running streams (32768)", .min = 1, .max = 1 << 24},
        {"long-known", 0, QN_OPT_INT, &w->long_known, "N",
         "mixed: of it, tokens that are read before the streams start (0)", .min = 0, .max = 1 << 24},
        {"seconds", 0, QN_OPT_INT, &w->seconds, "S",
         "matrix: of a cell (30); mixed: before the long prompt (10)", .min = 1, .max = 86400},
        {"shared", 0, QN_OPT_FLAG, &w->shared, NULL, "matrix: the streams of a cell share their context"},
        {"depths", 0, QN_OPT_STR, &w->depths, "LIST", "speculation: fixed depths, 0 is off (0,1,2,3,5,8)"},
        {"speculate", 0, QN_OPT_FLAG, &w->speculate, NULL, "speed: also decode with automatic depth"},
        {"mtp", 0, QN_OPT_STR, &w->mtp, "auto|off|N",
         "draft depth (auto; speed: off unless given or --speculate)"},
        {"temperature", 0, QN_OPT_NUM, &w->temperature, "T", "(0)"},
        {"runs", 'r', QN_OPT_INT, &w->n_run, "N", "runs of a figure: speed and speculation (3)", .min = 1,
         .max = QN_BENCH_RUNS},
        {"threads", 't', QN_OPT_INT, &w->n_thread, "N", "CPU workers (all cores)", .min = 0, .max = 4096},
        {"tp", 0, QN_OPT_INT, &w->n_rank, "N", "ranks that share the model (1)", .min = 0,
         .max = QN_MAX_RANK},
        {"device", 0, QN_OPT_STR, &w->device, "NAME", "cpu, cuda or ref"},
        {"memory", 'm', QN_OPT_BYTES, &w->memory, "BYTES", "for weights and caches (of the machine)"},
        {"kv", 0, QN_OPT_STR, &w->kv, "TYPE", "of the KV cache: " QN_KV_NAMES " (bf16)"},
        {"activations", 0, QN_OPT_STR, &w->activations, "TYPE", QN_ACT_NAMES " (bf16)"},
        {"step-tokens", 0, QN_OPT_INT, &w->step_tokens, "N", "prefill tokens in a step (decided)", .min = 0,
         .max = 65536},
        {"seed", 0, QN_OPT_INT, &w->seed, "N", "of the random prompts"},
        QN_MODEL_OPTS(&w->over),
        {"json", 0, QN_OPT_FLAG, &w->json, NULL, "one JSON line a result"},
        {"csv", 0, QN_OPT_STR, &w->csv, "FILE", "also write the results there"},
    };
    const char *args[12];
    int n_arg,
        rc = qn_opt_parse(options, QN_COUNT(options), &usage, argc, argv, args, QN_COUNT(args), &n_arg, e);
    return rc ? rc : name_parts(w, args, n_arg, e);
}

static int run(int argc, char **argv)
{
    struct wish w = {.device = "cpu",
                     .prompt = "512",
                     .context = "0",
                     .depths = "0,1,2,3,5,8",
                     .activations = "",
                     .mtp = "auto",
                     .kv = "",
                     .seed = 1,
                     .turns = 20,
                     .long_prompt = 32768,
                     .n_prompt = 256,
                     .n_first = 1024,
                     .n_more = 256};
    struct qn_err e = {0};
    struct qn_model *model = NULL;
    struct qn_text *text = NULL;
    struct qn_bench b = {0};
    int rc = read_options(&w, argc, argv, &e);
    if (!rc) rc = read_wish(&w, &b, &e);
    if (!rc && w.streams) rc = parse_list(w.streams, &b.streams, "streams", 1, QN_BENCH_STREAMS, &e);
    if (rc) return qn_cli_usage_failed("bench", rc, &e);
    qn_log_set_level(QN_LOG_WARN);
    rc = qn_model_opts_open(&model, w.folder, &w.over, &e);
    b.model = b.base.model = model;
    if (!rc && w.kv[0]) b.base.kv = qn_kv_find(w.kv, qn_model_has_kv_scales(model));
    if (!rc && qn_text_open(&text, qn_model_folder(model), NULL, NULL)) text = NULL;
    b.text = text;
    if (!rc) rc = qn_report_open(&b.report, w.json, w.csv, &e);
    if (!rc)
        qn_report_note(b.report, "model      %s on %s, %d threads", qn_model_name(model), w.device,
                       w.n_thread ? (int)w.n_thread : qn_cpu_n_core());
    for (int i = 0; i < w.n_part && !rc; i++) rc = run_part(&parts[w.wanted[i]], &w, &b, &e);
    if (rc) qn_cli_failed("bench", &e);
    if (qn_report_close(b.report, &e) && !rc) rc = qn_cli_failed("bench", &e);
    qn_text_close(text);
    if (model) qn_model_close(model);
    return rc ? 1 : 0;
}

const struct qn_cmd qn_cmd_bench = {"bench",
                                    "measure prefill, decode, concurrency, cached turns, speculation", run};
