/* quern serve: options (ours, and those of other servers), the start-up table, the server's life.
 * SPDX-License-Identifier: Apache-2.0 */
#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include "backend/backend.h"
#include "base/clock.h"
#include "base/log.h"
#include "cli/access.h"
#include "cli/cli.h"
#include "cli/serve.h"
#include "model/checkpoint.h"
#include "model/plan.h"
#include "server/server.h"
#include "text/chat.h"
#include "text/mask.h"
#include "text/tokenizer.h"

#define MAX_NAMES 16

/* What the options say, as text and numbers. */
struct wish {
    const char *model, *host, *device, *mtp, *kv, *names, *keys, *key_file, *origins, *hosts, *template,
        *kwargs, *generation, *trace, *activations, *disk_tier, *level, *spec_json, *spec_algo;
    int64_t port, threads, context, max_seqs, max_queue, step_tokens, memory, max_body, max_requests,
        body_timeout, drain, ranks, ram_tier, disk_bytes, disk_writes, spec_steps, max_tokens, stuck;
    double memory_part, itl_ms, request_timeout, temperature, top_p, min_p, presence, frequency, repetition;
    int64_t top_k;
    bool no_prefix_cache, mirror_reasoning, stream_usage, request_template, strict_model, isolate_keys;
};

static const char parsers_note[] = "not needed: the model's own call and reasoning format is always parsed";
static const char prefix_note[] =
    "not needed: the prefix cache is always on (--no-prefix-cache turns it off)";
static const char code_note[] = "not needed: no code of a checkpoint is ever run";
static const char media_note[] = "noted: this build serves text only";
static const char auto_note[] = "not needed: decided from the checkpoint and the machine";
static const char process_note[] = "not needed: one process serves";
static const char log_note[] = "noted: one line a request is logged (--log-level)";
static const char format_note[] = "not needed: each tensor's format is read from the file";
static const char grammar_note[] = "not needed: one grammar engine does all forms";
static const char graph_note[] = "not needed: nothing is compiled at start";

static int read_options(struct wish *w, int argc, char **argv, struct qn_err *e)
{
    const char *args[2];
    int n_arg = 0;
#define STR(n, field, a, h, ...)                                                                             \
    {                                                                                                        \
        .name = n, .type = QN_OPT_STR, .out = &w->field, .arg = a, .help = h, __VA_ARGS__                    \
    }
#define INT(n, field, a, h, ...)                                                                             \
    {                                                                                                        \
        .name = n, .type = QN_OPT_INT, .out = &w->field, .arg = a, .help = h, __VA_ARGS__                    \
    }
#define NUM(n, field, a, h, ...)                                                                             \
    {                                                                                                        \
        .name = n, .type = QN_OPT_NUM, .out = &w->field, .arg = a, .help = h, __VA_ARGS__                    \
    }
#define BYTES(n, field, h, ...)                                                                              \
    {                                                                                                        \
        .name = n, .type = QN_OPT_BYTES, .out = &w->field, .arg = "SIZE", .help = h, __VA_ARGS__             \
    }
#define FLAG(n, field, h, ...)                                                                               \
    {                                                                                                        \
        .name = n, .type = QN_OPT_FLAG, .out = &w->field, .help = h, __VA_ARGS__                             \
    }
#define NOTE(n, a, h, ...)                                                                                   \
    {                                                                                                        \
        .name = n, .type = QN_OPT_NOTE, .arg = a, .help = h, __VA_ARGS__                                     \
    }
    const struct qn_opt table[] = {
        INT("port", port, "PORT", "port; 0: a free one", .env = "QUERN_PORT", .letter = 'p', .min = 0,
            .max = 65535),
        STR("host", host, "HOST", "address to listen on", .env = "QUERN_HOST"),
        STR("device", device, "NAME", "cpu, ref or cuda; the fastest of this build by default",
            .env = "QUERN_DEVICE"),
        STR("mtp", mtp, "DEPTH", "draft depth: auto, off, 1 to 8", .env = "QUERN_MTP"),
        INT("threads", threads, "N", "CPU workers; 0: one a physical core", .env = "QUERN_THREADS",
            .letter = 't', .min = 0, .max = 1024),
        STR("activations", activations, "TYPE", QN_ACT_NAMES ", into dot products"),
        INT("context", context, "TOKENS", "longest context", .env = "QUERN_CONTEXT",
            .alias = "max-model-len,context-length,ctx-size,max-context", .min = -1, .max = INT32_MAX),
        INT("max-seqs", max_seqs, "N", "requests running at once", .env = "QUERN_MAX_SEQS",
            .alias = "max-num-seqs,max-running-requests,parallel", .min = 0, .max = 4096),
        INT("max-queue", max_queue, "N", "requests waiting; 429 beyond", .env = "QUERN_MAX_QUEUE",
            .alias = "max-queued-requests", .min = 0, .max = 1 << 20),
        INT("step-tokens", step_tokens, "N", "prefill tokens in a step",
            .alias = "max-num-batched-tokens,chunked-prefill-size,max-prefill-tokens", .min = -1,
            .max = 1 << 20),
        STR("kv", kv, "TYPE", "type of the KV cache: auto, " QN_KV_NAMES, .alias = "kv-cache-dtype",
            .env = "QUERN_KV"),
        BYTES("memory", memory, "for weights, caches and workspace", .env = "QUERN_MEMORY"),
        NUM("memory-part", memory_part, "PART", "the same as a part of the machine's, 0 to 1",
            .alias = "gpu-memory-utilization,mem-fraction-static"),
        FLAG("no-prefix-cache", no_prefix_cache, "forget prompts at once",
             .alias = "no-enable-prefix-caching,disable-radix-cache"),
        BYTES("ram-tier", ram_tier, "host memory for prefixes that left the cache"),
        STR("disk-tier", disk_tier, "DIR", "folder for prefixes that left memory"),
        BYTES("disk-tier-size", disk_bytes, "its limit (8G)"),
        BYTES("disk-tier-writes", disk_writes, "bytes that may be written there a day (16 times the limit)"),
        FLAG("isolate-keys", isolate_keys, "API keys share no cached prefixes"),
        NUM("request-timeout", request_timeout, "S", "time a request may take; it may ask for less (off)"),
        NUM("itl-target", itl_ms, "MS", "inter-token latency that prefill may not exceed"),
        INT("stuck", stuck, "S", "a step longer than this ends the process", .min = 0, .max = 86400),
        STR("served-model-name", names, "NAMES", "model names, separated by commas",
            .env = "QUERN_MODEL_NAME", .alias = "alias"),
        FLAG("strict-model", strict_model, "unknown model names are 404"),
        STR("api-key", keys, "KEYS", "accepted keys, separated by commas", .env = "QUERN_API_KEY"),
        STR("api-key-file", key_file, "FILE", "accepted keys, one a line", .env = "QUERN_API_KEY_FILE"),
        STR("allowed-origins", origins, "ORIGINS",
            "pages that may use the server and read its answers (CORS), separated by commas, or *",
            .alias = "cors", .env = "QUERN_CORS"),
        STR("allowed-hosts", hosts, "NAMES",
            "names that a keyless server on a loopback address answers to besides localhost, or *",
            .env = "QUERN_ALLOWED_HOSTS"),
        BYTES("max-body", max_body, "largest request body"),
        INT("max-requests", max_requests, "N", "HTTP requests at once; 429 beyond", .min = 0, .max = 65536),
        INT("body-timeout", body_timeout, "S", "time a client has for its body", .min = 0, .max = 86400),
        INT("drain", drain, "S", "time running requests get after SIGTERM", .env = "QUERN_DRAIN", .min = 0,
            .max = 86400),
        STR("template", template, "FILE", "chat template instead of the model's", .alias = "chat-template"),
        STR("template-kwargs", kwargs, "JSON", "template variables, e.g. {\"enable_thinking\": false}",
            .alias = "default-chat-template-kwargs,chat-template-kwargs", .env = "QUERN_TEMPLATE_KWARGS"),
        FLAG("allow-request-template", request_template, "requests may bring a template",
             .alias = "trust-request-chat-template"),
        FLAG("mirror-reasoning", mirror_reasoning, "send reasoning_content as reasoning, too"),
        FLAG("stream-usage", stream_usage, "streams end with usage where the request does not say",
             .alias = "enable-force-include-usage,stream-response-default-include-usage"),
        NUM("temperature", temperature, "T", "default where a request does not say"),
        NUM("top-p", top_p, "P", "likewise"),
        INT("top-k", top_k, "K", "likewise; 0: off", .min = -1, .max = INT32_MAX),
        NUM("min-p", min_p, "P", "likewise"),
        NUM("presence-penalty", presence, "X", "likewise"),
        NUM("frequency-penalty", frequency, "X", "likewise"),
        NUM("repetition-penalty", repetition, "X", "likewise"),
        INT("max-tokens", max_tokens, "N", "likewise", .min = 0, .max = INT32_MAX),
        STR("override-generation-config", generation, "JSON", "these defaults as one object",
            .alias = "sampling-defaults-json"),
        STR("trace", trace, "DIR", "leave a JSON file a request there", .env = "QUERN_TRACE"),
        STR("log-level", level, "LEVEL", "error, warn, info or debug", .env = "QUERN_LOG_LEVEL",
            .alias = "uvicorn-log-level"),

        /* of other servers */
        STR("model", model, "MODEL", "the model, as an option", .alias = "model-path", .letter = 'm'),
        INT("tensor-parallel-size", ranks, "N", "this build has one rank", .alias = "tp,tp-size", .min = 1,
            .max = 1024),
        STR("speculative-config", spec_json, "JSON", "method mtp and num_speculative_tokens are read"),
        STR("speculative-algo", spec_algo, "NAME", "NEXTN is the model's own head",
            .alias = "speculative-algorithm"),
        INT("speculative-num-steps", spec_steps, "N", "as --mtp N", .min = 0, .max = 64),
        NOTE("speculative-eagle-topk", "N", "not needed: drafts are a chain"),
        NOTE("speculative-num-draft-tokens", "N", "not needed: follows from the depth"),
        NOTE("enable-prefix-caching", NULL, prefix_note),
        NOTE("enable-chunked-prefill", NULL, auto_note),
        NOTE("tool-call-parser", "NAME", parsers_note),
        NOTE("reasoning-parser", "NAME", parsers_note),
        NOTE("enable-auto-tool-choice", NULL, parsers_note),
        NOTE("enable-reasoning", NULL, parsers_note),
        NOTE("jinja", NULL, "not needed: templates are always rendered"),
        NOTE("trust-remote-code", NULL, code_note),
        NOTE("quantization", "NAME", format_note, .letter = 'q'),
        NOTE("dtype", "NAME", format_note),
        NOTE("load-format", "NAME", format_note,
             .alias = "safetensors-load-strategy,model-loader-extra-config"),
        NOTE("mamba-ssm-dtype", "NAME", "not needed: the recurrent state is float32"),
        NOTE("mamba-ssm-cache-dtype", "NAME", "not needed: the recurrent state is float32"),
        NOTE("mamba-scheduler-strategy", "NAME", auto_note),
        NOTE("mamba-cache-mode", "NAME", auto_note, .alias = "mamba-radix-cache-strategy"),
        NOTE("max-mamba-cache-size", "N", auto_note,
             .alias = "mamba-full-memory-ratio,mamba-track-interval,max-total-tokens"),
        NOTE("attention-backend", "NAME", auto_note,
             .alias = "linear-attn-backend,linear-attn-prefill-backend,linear-attn-decode-backend,"
                      "linear-attn-verify-backend,gdn-prefill-backend,attention-config"),
        NOTE("moe-backend", "NAME", auto_note,
             .alias = "moe-runner-backend,moe-a2a-backend,all2all-backend,fp8-gemm-backend,fp4-gemm-backend,"
                      "kernel-config"),
        NOTE("schedule-policy", "NAME", auto_note,
             .alias = "schedule-conservativeness,scheduler-recv-interval,performance-mode"),
        NOTE("max-prefill-tokens", "N", auto_note, .alias = "max-num-partial-prefills"),
        NOTE("structured-outputs-config", "JSON", grammar_note,
             .alias = "guided-decoding-backend,grammar-backend"),
        NOTE("block-size", "N", "not needed: pages have 64 tokens", .alias = "page-size"),
        NOTE("media-io-kwargs", "JSON", media_note),
        NOTE("limit-mm-per-prompt", "JSON", media_note),
        NOTE("mm-processor-kwargs", "JSON", media_note),
        NOTE("mm-processor-cache-type", "NAME", media_note),
        NOTE("mm-encoder-tp-mode", "NAME", media_note),
        NOTE("language-model-only", NULL, media_note, .alias = "skip-mm-profiling,mm-enable-dp-encoder"),
        NOTE("mm-attention-backend", "NAME", media_note),
        NOTE("enable-multimodal", NULL, media_note),
        NOTE("decode-context-parallel-size", "N", "noted: this build has one rank", .alias = "dcp,dcp-size"),
        NOTE("pipeline-parallel-size", "N", "noted: this build has one rank", .alias = "pp,pp-size"),
        NOTE("data-parallel-size", "N", process_note, .alias = "dp,dp-size"),
        NOTE("expert-parallel-size", "N", "noted: this build has one rank", .alias = "ep,ep-size"),
        NOTE("enable-expert-parallel", NULL, "noted: this build has one rank"),
        NOTE("distributed-executor-backend", "NAME", process_note),
        NOTE("disable-custom-all-reduce", NULL, process_note,
             .alias = "enable-flashinfer-allreduce-fusion,enable-pcie-oneshot-allreduce,enable-dp-attention,"
                      "enable-dp-lm-head"),
        NOTE("api-server-count", "N", process_note, .alias = "tokenizer-worker-num"),
        NOTE("async-scheduling", NULL, auto_note,
             .alias = "no-async-scheduling,disable-overlap-schedule,disable-hybrid-kv-cache-manager"),
        NOTE("enforce-eager", NULL, graph_note),
        NOTE("compilation-config", "JSON", graph_note, .letter = 'O'),
        NOTE("cuda-graph-max-bs", "N", graph_note,
             .alias = "cuda-graph-max-bs-decode,max-cudagraph-capture-size"),
        NOTE("disable-cuda-graph", NULL, graph_note, .alias = "enable-torch-compile"),
        NOTE("swap-space", "SIZE", "not needed: --ram-tier has that role"),
        NOTE("cpu-offload-gb", "N", "not needed: weights stay where they are mapped"),
        NOTE("max-logprobs", "N", "not needed: requests may ask for up to 20"),
        NOTE("generation-config", "NAME",
             "not needed: the model's own is read; the options above override it"),
        NOTE("tokenizer", "NAME", "not needed: the model's own is used"),
        NOTE("tokenizer-path", "NAME", "not needed: the model's own is used"),
        NOTE("tokenizer-mode", "NAME", "not needed: there is one"),
        NOTE("seed", "N", "not needed: requests bring their seed"),
        NOTE("random-seed", "N", "not needed: requests bring their seed"),
        NOTE("disable-log-requests", NULL, log_note),
        NOTE("disable-log-stats", NULL, log_note),
        NOTE("disable-access-log-for-endpoints", "PATHS",
             "not needed: polled endpoints are logged at level debug"),
        NOTE("no-use-tqdm-on-load", NULL, log_note),
        NOTE("enable-request-id-headers", NULL, "not needed: answers always carry x-request-id"),
        NOTE("enable-cache-report", NULL, "not needed: usage always has the cached tokens",
             .alias = "enable-prompt-tokens-details"),
        NOTE("stream-interval", "N", "not needed: tokens are sent as they come"),
        NOTE("revision", "NAME", "noted: a folder is served as it is; quern pull fetches a revision",
             .alias = "tokenizer-revision,download-dir"),
        NOTE("enable-metrics", NULL, "not needed: /metrics is always there"),
        NOTE("warmups", "NAME", "not needed: nothing is compiled at the first request"),
        NOTE("skip-server-warmup", NULL, "not needed: nothing is compiled at the first request"),
        NOTE("watchdog-timeout", "S", "not needed: --stuck has that role"),
    };
#undef STR
#undef INT
#undef NUM
#undef BYTES
#undef FLAG
#undef NOTE
    static const struct qn_opt_usage usage = {
        "quern serve MODEL [options]",
        "Serves a checkpoint folder over HTTP: OpenAI, Anthropic and Responses dialects, a chat page at /.\n"
        "No option is needed. Flags of other servers are mapped, or accepted with a line that says why.",
        "quern serve models/mini --port 8080"};
    int rc = qn_opt_parse(table, QN_COUNT(table), &usage, argc, argv, args, 1, &n_arg, e);
    if (rc) return rc;
    if (n_arg) w->model = args[0];
    QN_FAIL_IF(!w->model, e, QN_INVAL, "which model? quern serve MODEL, a checkpoint folder");
out:
    return rc;
}

/* A copy that lives as long as the command. */
static char *keep(struct qn_arena *arena, const char *s, size_t n)
{
    char *copy = qn_arena_strndup(arena, s, n);
    QN_CHECK(copy);
    return copy;
}

/* Other servers take options with underscores, and several values after --served-model-name and --api-key. */
static char **normalise(int *argc, char **argv, struct qn_arena *arena)
{
    char **out = qn_arena_alloc(arena, ((size_t)*argc + 1) * sizeof *out);
    int n = 0;
    bool has_model = false;
    for (int i = 0; i < *argc; i++) {
        out[n++] = keep(arena, argv[i], strlen(argv[i]));
        if (!i) continue;
        if (strncmp(argv[i], "--", 2) != 0) {
            if (i == 1 || (argv[i - 1][0] != '-')) has_model = true;
            continue;
        }
        for (char *c = out[n - 1]; *c && *c != '='; c++)
            if (*c == '_') *c = '-';
        if (!strncmp(out[n - 1], "--model", 7)) has_model = true;
        if (strcmp(out[n - 1], "--served-model-name") != 0 && strcmp(out[n - 1], "--api-key") != 0) continue;
        struct qn_buf list = QN_BUF_INIT(1 << 20);
        for (int k = 0; i + 1 < *argc && argv[i + 1][0] != '-' && (!k || has_model); k++)
            qn_buf_printf(&list, "%s%s", k ? "," : "", argv[++i]);
        if (list.n_byte) out[n++] = keep(arena, list.data, list.n_byte);
        qn_buf_free(&list);
    }
    *argc = n;
    return out;
}

static int split(const char *list, const char **out, int max, const char *flag, struct qn_arena *arena,
                 struct qn_err *e)
{
    int n = 0;
    while (list && *list) {
        size_t k = strcspn(list, ",");
        if (k && n == max)
            return qn_err_set(e, QN_INVAL, __FILE__, __LINE__, "--%s: more than %d", flag, max);
        if (k) out[n++] = keep(arena, list, k);
        list += k + (list[k] == ',');
    }
    return n;
}

static int read_depth(const char *text, int *out, struct qn_err *e)
{
    int rc = QN_OK;
    char *end;
    if (!strcmp(text, "auto"))
        *out = -1;
    else if (!strcmp(text, "off") || !strcmp(text, "0"))
        *out = 0;
    else {
        long depth = strtol(text, &end, 10);
        QN_FAIL_IF(*end || depth < 1 || depth > QN_MAX_DRAFT, e, QN_INVAL,
                   "--mtp %s: must be auto, off or 1 to %d", text, QN_MAX_DRAFT);
        *out = (int)depth;
    }
out:
    return rc;
}

/* Flags of other servers about speculation -> our depth. */
static int read_speculation(const struct wish *w, struct qn_arena *arena, int *depth, struct qn_err *e)
{
    int rc = QN_OK;
    int64_t n = 0;
    if (w->mtp) return read_depth(w->mtp, depth, e);
    if (w->spec_json) {
        struct qn_json *v;
        const char *method;
        QN_TRY(qn_json_parse(&v, arena, w->spec_json, strlen(w->spec_json), "--speculative-config", e));
        QN_TRY(qn_json_get_str(v, "method", "mtp", &method, e));
        QN_TRY(qn_json_get_int(v, "num_speculative_tokens", 0, &n, e));
        bool is_own = strstr(method, "mtp") != NULL;
        fprintf(stderr, "--speculative-config: %s\n",
                is_own ? "the model's own MTP head drafts"
                       : "only the model's own MTP head can draft here; its depth is automatic");
        if (!is_own) n = 0;
    } else if (w->spec_algo) {
        bool is_own = !strcasecmp(w->spec_algo, "NEXTN") || !strcasecmp(w->spec_algo, "EAGLE") ||
                      !strcasecmp(w->spec_algo, "MTP");
        fprintf(stderr, "--speculative-algo %s: %s\n", w->spec_algo,
                is_own ? "the model's own MTP head drafts" : "only the model's own MTP head can draft here");
        n = is_own ? w->spec_steps : 0;
    } else if (w->spec_steps)
        n = w->spec_steps;
    if (n > QN_MAX_DRAFT) {
        fprintf(stderr, "speculation: depth %" PRId64 " is more than %d; using %d\n", n, QN_MAX_DRAFT,
                QN_MAX_DRAFT);
        n = QN_MAX_DRAFT;
    }
    *depth = n > 0 ? (int)n : -1;
out:
    return rc;
}

static int read_kv(const char *text, const struct qn_model *m, int *out, struct qn_err *e)
{
    *out = strcasecmp(text, "auto") ? qn_kv_find(text, m && qn_model_has_kv_scales(m)) : -1;
    if (*out >= 0 || !strcasecmp(text, "auto")) return QN_OK;
    return qn_err_set(e, QN_INVAL, __FILE__, __LINE__, "--kv %.40s: must be auto, " QN_KV_NAMES, text);
}

/* --override-generation-config: the same defaults, as one object; single options win. */
static int read_generation(struct wish *w, struct qn_arena *arena, struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_json *v;
    if (!w->generation) return QN_OK;
    struct {
        const char *key;
        double *out;
    } numbers[] = {{"temperature", &w->temperature},
                   {"top_p", &w->top_p},
                   {"min_p", &w->min_p},
                   {"presence_penalty", &w->presence},
                   {"frequency_penalty", &w->frequency},
                   {"repetition_penalty", &w->repetition}};
    QN_TRY(qn_json_parse(&v, arena, w->generation, strlen(w->generation), "--override-generation-config", e));
    for (size_t i = 0; i < QN_COUNT(numbers); i++)
        if (isnan(*numbers[i].out)) QN_TRY(qn_json_get_num(v, numbers[i].key, NAN, numbers[i].out, e));
    if (w->top_k < 0) QN_TRY(qn_json_get_int(v, "top_k", -1, &w->top_k, e));
    if (!w->max_tokens) QN_TRY(qn_json_get_int(v, "max_new_tokens", 0, &w->max_tokens, e));
out:
    return rc;
}

/* Loading takes a while and signals are blocked: look for them here. */
static void on_progress(void *user, size_t done_bytes, size_t total_bytes)
{
    int64_t *next_us = user;
    sigset_t pending;
    if (!sigpending(&pending) && (sigismember(&pending, SIGTERM) || sigismember(&pending, SIGINT))) {
        fprintf(stderr, "\nquern serve: interrupted while loading\n");
        _exit(130);
    }
    if (!isatty(2) || qn_now_us() < *next_us) return;
    *next_us = qn_now_us() + 100000;
    fprintf(stderr, "\rloading %3.0f %%", total_bytes ? 100.0 * (double)done_bytes / (double)total_bytes : 0);
    if (done_bytes >= total_bytes) fprintf(stderr, "\r             \r");
}

static void row(const char *name, const char *fmt, ...) QN_PRINTF(2, 3);
static void row(const char *name, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    fprintf(stderr, "  %-12s ", name);
    vfprintf(stderr, fmt, args);
    fputc('\n', stderr);
    va_end(args);
}

static void print_formats(const struct qn_model *m)
{
    struct qn_tally t;
    char text[400], size[24];
    qn_tally_model(m, &t);
    size_t at = 0;
    for (int p = 0; p < QN_N_PART; p++) {
        if (!t.part[p].n_module || p == QN_PART_SMALL) continue;
        int most = 0;
        for (int f = 1; f < QN_N_FORMAT; f++)
            if (t.part[p].n_by_format[f] > t.part[p].n_by_format[most]) most = f;
        at += (size_t)snprintf(text + at, sizeof text - at, "%s%s %s", at ? ", " : "",
                               qn_part_name((enum qn_part)p), qn_format_name((enum qn_format)most));
        if (at >= sizeof text) break;
    }
    row("formats", "%s; files %s", text, qn_bytes_text(t.text_bytes + t.mtp_bytes, size));
}

static void print_table(const struct qn_server_options *o, const struct wish *w, const struct qn_model *model,
                        const struct qn_engine_info *i, const char *device)
{
    char a[24], b[24], c[24], d[24], line[200];
    const struct qn_config *cfg = o->config;
    const struct qn_text *t = o->text;
    fprintf(stderr, "quern %s\n", QN_VERSION);
    row("model", "%s: %s, %d layers (%d attention, %d delta net), hidden %d%s", o->names[0],
        cfg->architecture, cfg->n_layer, cfg->n_full, cfg->n_gdn, cfg->hidden,
        cfg->is_moe ? ", mixture of experts" : "");
    if (model) print_formats(model);
    row("memory", "weights %s, KV %s, state %s, workspace %s", qn_bytes_text(i->weight_bytes, a),
        qn_bytes_text(i->kv_bytes, b), qn_bytes_text(i->state_bytes, c),
        qn_bytes_text(i->workspace_bytes, d));
    row("context", "%d tokens; %d sequences at once; %d pages of %d, %d state slots", i->max_context,
        i->max_seqs, i->n_page, QN_PAGE, i->n_slot);
    char threads[24] = "one a core";
    if (i->n_thread) snprintf(threads, sizeof threads, "%d", i->n_thread);
    row("compute", "%s%s%s, activations %s, threads %s, %d prefill tokens a step", device,
        i->isa && *i->isa ? " " : "", i->isa ? i->isa : "", w->activations, threads, i->step_tokens);
    row("KV cache", "%s; prefix cache %s", i->kv ? i->kv : "none", w->no_prefix_cache ? "off" : "on");
    if (!i->has_mtp)
        row("speculation", "off: the checkpoint has no MTP head");
    else if (i->mtp < 0)
        row("speculation", "MTP, depth automatic");
    else
        row("speculation", i->mtp ? "MTP, depth %d" : "off (--mtp %d)", i->mtp);
    row("template", "%s",
        t->template_source_name ? t->template_source_name : "none: only /v1/completions can answer");
    if (t->template && !qn_chat_self_test(t, line, sizeof line)) row("", "note: %s", line);
    row("parsers", "calls <function=...>, reasoning <think>: %s",
        t->think_close_id >= 0 ? "markers are single tokens" : "markers are plain text");
    const struct qn_text_defaults *g = &t->defaults;
    row("sampling",
        "temperature %g, top_p %g, top_k %" PRId64 ", min_p %g, presence %g, repetition %g (requests win)",
        !isnan(w->temperature)              ? w->temperature
        : g->has_do_sample && !g->do_sample ? 0
        : g->has_temperature                ? g->temperature
                                            : 1,
        !isnan(w->top_p) ? w->top_p
        : g->has_top_p   ? g->top_p
                         : 1,
        w->top_k >= 0  ? w->top_k
        : g->has_top_k ? g->top_k
                       : 0,
        !isnan(w->min_p) ? w->min_p
        : g->has_min_p   ? g->min_p
                         : 0,
        !isnan(w->presence)       ? w->presence
        : g->has_presence_penalty ? g->presence_penalty
                                  : 0,
        !isnan(w->repetition)       ? w->repetition
        : g->has_repetition_penalty ? g->repetition_penalty
                                    : 1);
    const struct qn_gate *gate = &o->gate;
    row("access", "%s; pages of other origins: %s%s", gate->n_key ? "API key needed" : "no API key",
        gate->n_origin ? gate->origins[0] : "none", gate->n_origin > 1 ? ", ..." : "");
    for (int k = 0; model && k < qn_model_n_notes(model); k++) row("note", "%s", qn_model_note(model, k));
    row("loaded in", "%.2f s", i->load_s);
}

/* The folder's name, as the model's. */
static char *base_name(const char *path, struct qn_arena *arena)
{
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/') n--;
    size_t from = n;
    while (from && path[from - 1] != '/') from--;
    return keep(arena, path + from, n - from);
}

static int choose_backend(const char **device, const struct qn_backend **out, struct qn_err *e)
{
    int rc = QN_OK;
    static const char *const by_speed[] = {"cuda", "cpu", "ref"};
    bool is_asked = *device;
    for (size_t i = 0; i < QN_COUNT(by_speed) && !is_asked && !*out; i++)
        *out = qn_backend_get(*device = by_speed[i]);
    if (is_asked) *out = qn_backend_get(*device);
    QN_FAIL_IF(!*out, e, QN_UNSUPPORTED, "--device %s: this build has cpu and ref only", *device);
out:
    return rc;
}

/* A token's bytes and what a grammar may do with it. */
static const char *mask_bytes(void *ctx, int id, size_t *n, int *kind)
{
    const struct qn_text *t = ctx;
    unsigned flags = qn_tokenizer_flags(t->tokenizer, id);
    *kind = flags & QN_TOKEN_UNUSED    ? QN_MASK_CONTROL
            : flags & QN_TOKEN_MARKER  ? QN_MASK_MARKER
            : flags & QN_TOKEN_SPECIAL ? QN_MASK_CONTROL
                                       : QN_MASK_TEXT;
    for (int i = 0; i < t->n_stop; i++)
        if (t->stop_ids[i] == id) *kind = QN_MASK_END;
    return (const char *)qn_tokenizer_bytes(t->tokenizer, id, n);
}

int qn_serve(int argc, char **argv, const struct qn_engine_options *fake)
{
    int rc = QN_OK, status = 1, depth = -1, kv = -1;
    struct qn_err e = {0};
    struct wish w = {
        .host = "127.0.0.1",
        .port = 8080,
        .drain = 30,
        .kv = "auto",
        .activations = "bf16",
        .level = "info",
        .ranks = 1,
        .top_k = -1,
        .temperature = NAN,
        .top_p = NAN,
        .min_p = NAN,
        .presence = NAN,
        .frequency = NAN,
        .repetition = NAN,
        .memory_part = NAN,
    };
    struct qn_text *text = NULL;
    struct qn_model *model = NULL;
    struct qn_server *server = NULL;
    struct qn_engine *engine = NULL;
    struct qn_mask *mask = NULL;
    struct qn_json *kwargs = NULL;
    const char *names[MAX_NAMES];
    struct qn_gate gate = {0};
    int n_name = 0;
    int64_t next_us = 0;
    struct qn_arena *arena = qn_arena_create(16 << 20);
    struct stat st;

    char **given = argv;
    int n_given = argc;
    argv = normalise(&argc, argv, arena);
    qn_access_hide(n_given, given);
    qn_server_block_signals();
    rc = read_options(&w, argc, argv, &e);
    if (rc) {
        status = qn_cli_usage_failed("serve", rc, &e);
        qn_arena_free(arena);
        return status;
    }
    static const char *const levels[] = {"error", "warn", "info", "debug"};
    int level = -1;
    for (size_t i = 0; i < QN_COUNT(levels); i++)
        if (!strncmp(w.level, levels[i], 4)) level = (int)i;
    status = 2;
    QN_FAIL_IF(level < 0, &e, QN_INVAL, "--log-level %s: must be error, warn, info or debug", w.level);
    qn_log_set_level((enum qn_level)level);
    QN_TRY(read_speculation(&w, arena, &depth, &e));
    QN_TRY(read_kv(w.kv, NULL, &kv, &e));
    QN_TRY(read_generation(&w, arena, &e));
    if (w.kwargs) {
        QN_TRY(qn_json_parse(&kwargs, arena, w.kwargs, strlen(w.kwargs), "--template-kwargs", &e));
        QN_FAIL_IF(!qn_json_is(kwargs, QN_JSON_OBJECT), &e, QN_INVAL,
                   "--template-kwargs must be a JSON object");
    }
    int act = qn_act_find(w.activations);
    QN_FAIL_IF(act < 0, &e, QN_INVAL, "--activations %.40s: must be " QN_ACT_NAMES, w.activations);
    QN_FAIL_IF(!isnan(w.memory_part) && !(w.memory_part > 0 && w.memory_part <= 1), &e, QN_INVAL,
               "--memory-part %g: must be over 0 and at most 1", w.memory_part);
    QN_FAIL_IF(!(w.request_timeout >= 0 && w.request_timeout <= 1e6), &e, QN_INVAL,
               "--request-timeout %g: 0 (off) to 1000000 seconds", w.request_timeout);
    QN_FAIL_IF((w.disk_bytes || w.disk_writes) && !w.disk_tier, &e, QN_INVAL,
               "--disk-tier-size and --disk-tier-writes are limits of --disk-tier DIR, which is not given");
    if (w.ranks > 1)
        fprintf(stderr,
                "--tensor-parallel-size %" PRId64 ": this build has one rank; the model runs on it whole\n",
                w.ranks);
    QN_TRY(
        qn_access_read(&gate, &(struct qn_access_wish){w.keys, w.key_file, w.origins, w.hosts}, arena, &e));
    if ((n_name = split(w.names, names, MAX_NAMES, "served-model-name", arena, &e)) < 0) QN_TRY(n_name);
    QN_FAIL_IF(w.trace && (stat(w.trace, &st) || !S_ISDIR(st.st_mode)), &e, QN_INVAL,
               "--trace %s is no folder", w.trace);

    status = 1;
    const struct qn_backend *backend = NULL;
    if (!fake) {
        QN_TRY(choose_backend(&w.device, &backend, &e));
        QN_TRY(qn_model_open(&model, w.model, &e));
    }
    QN_TRY(qn_text_open(&text, w.model, &(struct qn_text_opt){.template_path = w.template}, &e));
    if (!n_name) names[n_name++] = model ? qn_model_name(model) : base_name(w.model, arena);

    struct qn_engine_options g = {.model = model, .backend = backend, .kv = -1, .mtp = depth};
    if (fake) g = *fake;
    const struct qn_config *config = model ? qn_model_config(model) : g.config;
    struct qn_tally tally = {0};
    int64_t n_param = 0;
    if (model) {
        qn_tally_model(model, &tally);
        for (int p = 0; p < QN_N_PART; p++) n_param += tally.part[p].n_param;
    }
    struct qn_server_options o = {
        .host = w.host,
        .port = (int)w.port,
        .gate = gate,
        .max_body_bytes = (size_t)w.max_body,
        .max_requests = (int)w.max_requests,
        .body_timeout_s = (int)w.body_timeout,
        .text = text,
        .config = config,
        .names = names,
        .n_name = n_name,
        .strict_model = w.strict_model,
        .n_param = n_param,
        .model_bytes = (int64_t)(tally.text_bytes + tally.mtp_bytes),
        .sampling = {w.temperature, w.top_p, w.min_p, w.presence, w.frequency, w.repetition, w.top_k,
                     w.max_tokens},
        .template_kwargs = kwargs,
        .allow_request_template = w.request_template,
        .mirror_reasoning = w.mirror_reasoning,
        .stream_usage = w.stream_usage,
        .trace_dir = w.trace,
        .isolate_keys = w.isolate_keys,
        .request_timeout_s = w.request_timeout,
        .model_path = w.model,
    };
    QN_TRY(qn_server_open(&server, &o, &e));

    g.n_thread = (int)w.threads;
    g.act = (enum qn_act)act;
    QN_TRY(read_kv(w.kv, model, &kv, &e)); /* what fp8 is depends on the checkpoint */
    if (kv >= 0) g.kv = kv;
    if (w.context > 0) g.max_context = (int)w.context;
    if (w.max_seqs) g.max_seqs = (int)w.max_seqs;
    g.max_queue = (int)w.max_queue;
    if (w.step_tokens > 0) g.step_tokens = (int)w.step_tokens;
    g.n_tok = qn_tokenizer_n_vocab(text->tokenizer);
    g.memory_bytes = w.memory;
    if (!w.memory && !isnan(w.memory_part))
        g.memory_bytes =
            (int64_t)(w.memory_part * (double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGESIZE));
    g.mtp = depth;
    g.no_prefix_cache = w.no_prefix_cache;
    if (w.ram_tier) g.ram_tier_bytes = w.ram_tier;
    g.disk_tier = w.disk_tier;
    g.disk_tier_bytes = w.disk_bytes;
    g.disk_write_bytes = w.disk_writes;
    g.itl_target_ms = (float)w.itl_ms;
    g.stuck_s = (int)w.stuck;
    g.progress = on_progress;
    g.progress_user = &next_us;
    struct qn_mask_vocab vocab = {.n_vocab = config->vocab, .bytes = mask_bytes, .ctx = text};
    QN_TRY(qn_mask_create(&mask, &vocab, &e));
    g.mask = mask;
    QN_TRY(qn_engine_open(&engine, &g, &e));
    print_table(&o, &w, model, qn_engine_info(engine), fake ? "scripted" : w.device);
    qn_server_set_engine(server, engine);
    bool is_v6 = strchr(w.host, ':') != NULL;
    printf("ready http://%s%s%s:%d\n", is_v6 ? "[" : "", w.host, is_v6 ? "]" : "", qn_server_port(server));
    fflush(stdout);
    status = qn_server_run(server, (int)w.drain);
out:
    qn_server_close(server);
    qn_engine_close(engine);
    qn_mask_free(mask);
    if (rc) {
        qn_cli_failed("serve", &e);
        if (!status) status = 1;
    }
    qn_text_close(text);
    qn_model_close(model);
    qn_arena_free(arena);
    return status;
}

static int run(int argc, char **argv)
{
    return qn_serve(argc, argv, NULL);
}

const struct qn_cmd qn_cmd_serve = {"serve", "serve a model over HTTP", run};
