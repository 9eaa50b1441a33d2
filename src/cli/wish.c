/* What serve was asked for: its options and those of other servers.
 * SPDX-License-Identifier: Apache-2.0 */
#include "cli/wish.h"

#include <math.h>
#include <strings.h>

#include "backend/backend.h"
#include "base/opt.h"

void qn_wish_init(struct qn_wish *w)
{
    *w = (struct qn_wish){
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
}

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

int qn_wish_read(struct qn_wish *w, int argc, char **argv, struct qn_err *e)
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
        QN_MODEL_OPTS(&w->over),
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
        FLAG("isolate-keys", isolate_keys, "API keys share no cached prefixes, stored responses or calls"),
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
        INT("tensor-parallel-size", ranks, "N", "ranks that share the model (1)", .alias = "tp,tp-size",
            .min = 1, .max = 1024),
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
char **qn_wish_normalise(int *argc, char **argv, struct qn_arena *arena)
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

int qn_wish_split(const char *list, const char **out, int max, const char *flag, struct qn_arena *arena,
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
int qn_wish_depth(const struct qn_wish *w, struct qn_arena *arena, int *depth, struct qn_err *e)
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

int qn_wish_kv(const char *text, const struct qn_model *m, int *out, struct qn_err *e)
{
    *out = strcasecmp(text, "auto") ? qn_kv_find(text, m && qn_model_has_kv_scales(m)) : -1;
    if (*out >= 0 || !strcasecmp(text, "auto")) return QN_OK;
    return qn_err_set(e, QN_INVAL, __FILE__, __LINE__, "--kv %.40s: must be auto, " QN_KV_NAMES, text);
}

/* --override-generation-config: the same defaults, as one object; single options win. */
int qn_wish_generation(struct qn_wish *w, struct qn_arena *arena, struct qn_err *e)
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
