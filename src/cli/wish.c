/* What serve was asked for: its options and those of other servers.
 * SPDX-License-Identifier: Apache-2.0 */
#include "cli/wish.h"

#include <math.h>
#include <strings.h>

#include "backend/backend.h"
#include "cli/flags.h"

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

int qn_wish_read(struct qn_wish *w, int argc, char **argv, struct qn_arena *arena, struct qn_err *e)
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
#define COUNT(n, field, a, h, ...)                                                                           \
    {                                                                                                        \
        .name = n, .type = QN_OPT_COUNT, .out = &w->field, .arg = a, .help = h, __VA_ARGS__                  \
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
    const struct qn_opt table[] = {
        QN_MODEL_OPTS(&w->over),
        INT("port", port, "PORT", "port; 0: a free one", .env = "QUERN_PORT", .letter = 'p', .min = 0,
            .max = 65535),
        STR("host", host, "HOST", "address to listen on", .env = "QUERN_HOST"),
        STR("device", device, "NAME", "cpu, ref or cuda; the fastest of this build by default",
            .env = "QUERN_DEVICE"),
        INT("tp", ranks, "N", "ranks that share the model (1)", .min = 1, .max = 1024),
        STR("mtp", mtp, "DEPTH", "draft depth: auto, off, 1 to 8", .env = "QUERN_MTP"),
        INT("threads", threads, "N", "CPU workers; 0: one a physical core", .env = "QUERN_THREADS",
            .letter = 't', .min = 0, .max = 1024),
        STR("activations", activations, "TYPE", QN_ACT_NAMES ", into dot products"),
        COUNT("context", context, "TOKENS", "longest context", .env = "QUERN_CONTEXT", .alias = "max-context",
              .min = -1, .max = INT32_MAX),
        COUNT("max-seqs", max_seqs, "N", "requests running at once", .env = "QUERN_MAX_SEQS", .min = 0,
              .max = 4096),
        COUNT("max-queue", max_queue, "N", "requests waiting; 429 beyond", .env = "QUERN_MAX_QUEUE", .min = 0,
              .max = 1 << 20),
        COUNT("step-tokens", step_tokens, "N", "prefill tokens in a step", .min = -1, .max = 1 << 20),
        STR("kv", kv, "TYPE", "type of the KV cache: auto, " QN_KV_NAMES, .env = "QUERN_KV"),
        BYTES("memory", memory, "for weights, caches and workspace", .env = "QUERN_MEMORY"),
        BYTES("request-memory", request_memory,
              "of it for requests: bodies, prompts, tokens, answers (a sixteenth, 32M to 1G)"),
        NUM("memory-part", memory_part, "PART", "the same as a part of the machine's, 0 to 1"),
        FLAG("no-prefix-cache", no_prefix_cache, "forget prompts at once"),
        BYTES("ram-tier", ram_tier, "host memory for prefixes that left the cache"),
        STR("disk-tier", disk_tier, "DIR", "folder for prefixes that left memory"),
        BYTES("disk-tier-size", disk_bytes, "its limit (8G)"),
        BYTES("disk-tier-writes", disk_writes, "bytes that may be written there a day (16 times the limit)"),
        FLAG("isolate-keys", isolate_keys, "API keys share no cached prefixes, stored responses or calls"),
        NUM("request-timeout", request_timeout, "S", "time a request may take; it may ask for less (off)"),
        NUM("itl-target", itl_ms, "MS", "inter-token latency that prefill may not exceed"),
        INT("stuck", stuck, "S", "a step longer than this ends the process", .min = 0, .max = 86400),
        STR("served-model-name", names, "NAMES", "model names, separated by commas",
            .env = "QUERN_MODEL_NAME"),
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
        STR("template", template, "FILE", "chat template instead of the model's"),
        STR("template-kwargs", kwargs, "JSON", "template variables, e.g. {\"enable_thinking\": false}",
            .env = "QUERN_TEMPLATE_KWARGS"),
        STR("think", think, "on|off", "thinking, where a request does not say"),
        FLAG("allow-request-template", request_template, "requests may bring a template"),
        FLAG("mirror-reasoning", mirror_reasoning, "send reasoning_content as reasoning, too"),
        FLAG("stream-usage", stream_usage, "streams end with usage where the request does not say"),
        NUM("temperature", temperature, "T", "default where a request does not say"),
        NUM("top-p", top_p, "P", "likewise"),
        INT("top-k", top_k, "K", "likewise; 0: off", .min = -1, .max = INT32_MAX),
        NUM("min-p", min_p, "P", "likewise"),
        NUM("presence-penalty", presence, "X", "likewise"),
        NUM("frequency-penalty", frequency, "X", "likewise"),
        NUM("repetition-penalty", repetition, "X", "likewise"),
        INT("max-tokens", max_tokens, "N", "likewise", .min = 0, .max = INT32_MAX),
        STR("override-generation-config", generation, "JSON", "these defaults as one object"),
        STR("mm-processor-kwargs", media.mm_kwargs, "JSON",
            "of pictures and video, where a request does not say: fps, num_frames, do_sample_frames, "
            "min_pixels, max_pixels, "
            "size"),
        STR("media-io-kwargs", media.io_kwargs, "JSON",
            "likewise, as vLLM has them: {\"video\": {\"num_frames\", \"fps\"}, \"image\": "
            "{\"rgba_background_color\"}}"),
        STR("limit-mm-per-prompt", media.limit, "JSON", "most of a request: {\"image\": 4, \"video\": 1}"),
        STR("allowed-media-domains", media.hosts, "LIST",
            "hosts that pictures are fetched from; default all at public addresses"),
        STR("allowed-local-media-path", media.folder, "DIR",
            "file: addresses below it are read; default none"),
        STR("mmproj", media.mmproj, "FILE", "not needed: the vision tower is read from the model's folder"),
        STR("eyes", media.eyes, "MODEL|URL",
            "a model that looks at pictures for one that cannot: not built yet"),
        STR("upstream", media.upstream, "URL", "with --eyes, a server that gets sight: not built yet"),
        FLAG("language-model-only", media.is_blind, "text only, though the model sees"),
        BYTES("media-cache", media.cache_bytes, "embeddings of pictures kept in RAM; default 512M"),
        STR("trace", trace, "DIR", "leave a JSON file a request there", .env = "QUERN_TRACE"),
        STR("log-level", level, "LEVEL", "error, warn, info or debug", .env = "QUERN_LOG_LEVEL"),
        STR("model", model, "MODEL", "the model, as an option"),
        FLAG("help-foreign", help_foreign, "lists the flags of other servers and what becomes of each"),
    };
#undef STR
#undef INT
#undef COUNT
#undef NUM
#undef BYTES
#undef FLAG
    static const struct qn_opt_usage usage = {
        "quern serve MODEL [options]",
        "Serves a checkpoint folder over HTTP: OpenAI, Anthropic and Responses dialects, a chat page at /.\n"
        "No option is needed. Flags of other servers are mapped, accepted with a line that says why, or "
        "refused:\n"
        "--help-foreign lists them.",
        "quern serve models/mini --port 8080"};
    const struct qn_flags flags = {.own = table, .n_own = QN_COUNT(table), .arena = arena};
    int rc = qn_flags_read(&flags, &argc, &argv, e);
    if (rc) return rc;
    rc = qn_opt_parse(table, QN_COUNT(table), &usage, argc, argv, args, 1, &n_arg, e);
    if (rc) return rc;
    if (n_arg) w->model = args[0];
    QN_FAIL_IF(!w->model, e, QN_INVAL, "which model? quern serve MODEL, a checkpoint folder or a .gguf file");
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

int qn_wish_depth(const char *text, int *out, struct qn_err *e)
{
    int rc = QN_OK;
    char *end;
    *out = -1;
    if (!text || !strcasecmp(text, "auto")) return QN_OK;
    if (!strcasecmp(text, "off") || !strcasecmp(text, "none") || !strcasecmp(text, "false")) text = "0";
    long depth = strtol(text, &end, 10);
    QN_FAIL_IF(end == text || *end || depth < 0 || depth > QN_MAX_DRAFT, e, QN_INVAL,
               "--mtp %.40s: must be auto, off or 1 to %d", text, QN_MAX_DRAFT);
    *out = (int)depth;
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
    if (!w->max_tokens) QN_TRY(qn_json_get_int(v, "max_tokens", 0, &w->max_tokens, e));
    for (size_t i = 0; i < v->n; i++) {
        const char *key = v->keys[i].text;
        bool is_read = !strcmp(key, "top_k") || !strcmp(key, "max_new_tokens") || !strcmp(key, "max_tokens");
        for (size_t k = 0; k < QN_COUNT(numbers); k++) is_read |= !strcmp(key, numbers[k].key);
        QN_FAIL_IF(
            !is_read, e, QN_UNSUPPORTED,
            "--override-generation-config: '%.60s' is no default of this server; send it with requests", key);
    }
out:
    return rc;
}
