/* quern bench: speed of a model on this machine, next to what the memory allows.
 *
 * Everything runs through the engine, as a request would: random prompts (so that nothing is cached unless
 * a mode wants it), sampling at temperature 0, stop tokens ignored. Each figure is the median of its runs
 * with the smallest and largest beside it. One JSON line a result with --json; options that change a
 * result are in the line, so that only equal runs are compared.
 * SPDX-License-Identifier: Apache-2.0 */
#include "cli/cli.h"

#include <math.h>
#include <pthread.h>
#include <unistd.h>

#include "backend/backend.h"
#include "base/buf.h"
#include "base/clock.h"
#include "base/json.h"
#include "base/mem.h"
#include "base/rng.h"
#include "cli/bandwidth.h"
#include "engine/engine.h"
#include "model/checkpoint.h"

#define MAX_LIST    16
#define MAX_STREAMS 256
#define MAX_RUNS    64

struct bench {
    const struct qn_model *model;
    struct qn_engine *engine;
    bool json;
    int n_run;
    int n_gen;
    uint64_t seed;   /* of prompts; counts up so that no two prompts share a prefix */
    double read_gbs; /* measured read bandwidth, 1e9 bytes a second */
};

/* One request of a run and what was seen of it. */
struct stream {
    struct bench *bench;
    int32_t *tok;
    int n_tok, n_new, mtp;
    int64_t delay_us; /* submit that long after the run's start */
    /* seen */
    int64_t submit_us, first_us, last_us;
    int64_t *at_us; /* [n_new] arrival of each token */
    int n_got;
    struct qn_request_stats stats;
    struct qn_err error;
    int rc;
};

static int parse_list(const char *text, int *out, const char *name, struct qn_err *e)
{
    int n = 0;
    for (const char *p = text; *p;) {
        int64_t x;
        char word[32];
        size_t len = strcspn(p, ",");
        if (len >= sizeof word) return -1;
        memcpy(word, p, len);
        word[len] = 0;
        if (qn_opt_bytes(word, &x) || x > 100000000 || n == MAX_LIST) {
            qn_err_set(e, QN_INVAL, __FILE__, __LINE__,
                       "--%s: '%s' is not a list of at most %d counts like 0,4k,32k", name, text, MAX_LIST);
            return -1;
        }
        out[n++] = (int)x;
        p += len + (p[len] == ',');
    }
    return n;
}

/* Random ids below the first control token; the same seed gives the same prompt. */
static int32_t *random_prompt(const struct bench *b, uint64_t seed, int n)
{
    int vocab = qn_model_config(b->model)->vocab;
    int usable = QN_MAX(1, QN_MIN(vocab, 200000) - 64);
    int32_t *tok = xreallocarray(NULL, (size_t)QN_MAX(n, 1), sizeof *tok);
    for (int i = 0; i < n; i++) tok[i] = (int32_t)(qn_rng64(seed, (uint64_t)i, 77) % (uint64_t)usable);
    return tok;
}

static void *run_stream(void *user)
{
    struct stream *s = user;
    struct qn_request_params p = {.tok = s->tok,
                                  .n_tok = s->n_tok,
                                  .max_new = s->n_new,
                                  .ignore_eos = true,
                                  .mtp = s->mtp,
                                  .prompt_top = -1};
    p.sample = (struct qn_sample){.top_p = 1, .repetition = 1, .n_top = -1};
    if (s->delay_us) usleep((useconds_t)s->delay_us);
    struct qn_request *r;
    s->submit_us = qn_now_us();
    s->rc = qn_engine_submit(s->bench->engine, &p, &r, &s->error);
    if (s->rc) return NULL;
    for (;;) {
        struct qn_event event;
        int rc = qn_request_next(r, &event, 1000000);
        if (rc == QN_TIMEOUT) continue;
        if (rc) break;
        if (event.kind == QN_EVENT_TOKEN) {
            s->last_us = qn_now_us();
            if (!s->n_got) s->first_us = s->last_us;
            if (s->n_got < s->n_new) s->at_us[s->n_got++] = s->last_us;
        } else if (event.kind == QN_EVENT_END) {
            if (event.finish == QN_FINISH_ERROR) {
                s->rc = event.error.code;
                s->error = event.error;
            }
            break;
        }
    }
    qn_request_stats(r, &s->stats);
    qn_request_release(r);
    return NULL;
}

/* Runs the streams at once, each on its own thread; the first error wins. */
static int run_streams(struct stream *streams, int n, struct qn_err *e)
{
    pthread_t threads[MAX_STREAMS];
    for (int i = 0; i < n; i++) {
        streams[i].at_us = xcalloc((size_t)streams[i].n_new, sizeof(int64_t));
        QN_CHECK(!pthread_create(&threads[i], NULL, run_stream, &streams[i]));
    }
    int rc = QN_OK;
    for (int i = 0; i < n; i++) {
        pthread_join(threads[i], NULL);
        if (streams[i].rc && !rc) {
            rc = streams[i].rc;
            if (e) *e = streams[i].error;
        }
    }
    return rc;
}

static void free_streams(struct stream *streams, int n)
{
    for (int i = 0; i < n; i++) {
        free(streams[i].tok);
        free(streams[i].at_us);
    }
}

static int compare_double(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static double percentile(double *values, int n, double q)
{
    if (!n) return NAN;
    qsort(values, (size_t)n, sizeof *values, compare_double);
    return values[QN_MIN(n - 1, (int)(q * n))];
}

/* Gaps between tokens of all streams, in ms; returns how many. */
static int collect_gaps(const struct stream *streams, int n, double **out)
{
    int total = 0, k = 0;
    for (int i = 0; i < n; i++) total += QN_MAX(streams[i].n_got - 1, 0);
    *out = xcalloc((size_t)total, sizeof(double));
    for (int i = 0; i < n; i++)
        for (int j = 1; j < streams[i].n_got; j++)
            (*out)[k++] = (double)(streams[i].at_us[j] - streams[i].at_us[j - 1]) / 1000.0;
    return total;
}

struct cell {
    double median, low, high;
};

static struct cell summarise(double *values, int n)
{
    struct cell c = {.median = percentile(values, n, 0.5)};
    c.low = n ? values[0] : NAN;
    c.high = n ? values[n - 1] : NAN;
    return c;
}

/* Bytes one decoded token reads from the weights: every linear layer once, routed experts by their share,
 * the embedding one row. */
static double weight_bytes_per_token(const struct qn_model *m)
{
    const struct qn_config *c = qn_model_config(m);
    static const enum qn_role full[] = {QN_ROLE_Q, QN_ROLE_K, QN_ROLE_V, QN_ROLE_O};
    static const enum qn_role gdn[] = {QN_ROLE_GDN_QKV, QN_ROLE_GDN_Z, QN_ROLE_GDN_B, QN_ROLE_GDN_A,
                                       QN_ROLE_GDN_OUT};
    static const enum qn_role dense[] = {QN_ROLE_GATE, QN_ROLE_UP, QN_ROLE_DOWN};
    static const enum qn_role shared[] = {QN_ROLE_ROUTER, QN_ROLE_SHARED_GATE, QN_ROLE_SHARED_UP,
                                          QN_ROLE_SHARED_DOWN, QN_ROLE_SHARED_MIX};
    static const enum qn_role expert[] = {QN_ROLE_EXPERT_GATE, QN_ROLE_EXPERT_UP, QN_ROLE_EXPERT_DOWN};
    double total = 0;
    struct qn_linear l;
#define ADD(roles, layer, factor)                                                                            \
    for (size_t i = 0; i < QN_COUNT(roles); i++)                                                             \
        if (!qn_model_linear(m, (roles)[i], layer, 0, &l, NULL))                                             \
    total += (factor) * (double)qn_linear_bytes(&l)
    for (int layer = 0; layer < c->n_layer; layer++) {
        if (c->is_full[layer]) {
            ADD(full, layer, 1.0);
        } else {
            ADD(gdn, layer, 1.0);
        }
        if (c->is_moe) {
            ADD(shared, layer, 1.0);
            ADD(expert, layer, (double)c->top_k);
        } else {
            ADD(dense, layer, 1.0);
        }
    }
    static const enum qn_role head[] = {QN_ROLE_HEAD};
    ADD(head, 0, 1.0);
#undef ADD
    return total;
}

/* Bytes of caches one decoded token touches at a context: KV read once, state read and written once. */
static double cache_bytes_per_token(const struct bench *b, int context)
{
    const struct qn_config *c = qn_model_config(b->model);
    const struct qn_engine_info *info = qn_engine_info(b->engine);
    double page = info->n_page ? (double)info->kv_bytes / info->n_page : 0;
    double slots = info->n_slot ? (double)info->state_bytes / info->n_slot : 0;
    int layers = c->n_full + (info->has_mtp ? 1 : 0);
    double kv = layers ? page / QN_PAGE * c->n_full / layers : 0;
    return kv * context + 2 * slots;
}

static void print_json(struct bench *b, const char *what, const char *fields)
{
    const struct qn_engine_info *info = qn_engine_info(b->engine);
    struct qn_buf out = QN_BUF_INIT(4096);
    qn_buf_puts(&out, "{\"bench\": ");
    qn_json_write_str(&out, what, strlen(what), false);
    qn_buf_puts(&out, ", \"model\": ");
    const char *name = qn_model_name(b->model);
    qn_json_write_str(&out, name, strlen(name), false);
    qn_buf_printf(&out,
                  ", \"version\": \"%s\", \"threads\": %d, \"isa\": \"%s\", \"kv\": \"%s\", \"mtp\": %d, "
                  "\"runs\": %d, \"read_gbs\": %.2f, %s}",
                  QN_VERSION, info->n_thread, info->isa, info->kv, info->mtp, b->n_run, b->read_gbs, fields);
    puts(qn_buf_str(&out));
    fflush(stdout);
    qn_buf_free(&out);
}

static int one_prefill(struct bench *b, int n_prompt, double *tok_s, struct qn_err *e)
{
    struct stream s = {.bench = b, .n_tok = n_prompt, .n_new = 1, .mtp = 0};
    s.tok = random_prompt(b, ++b->seed, n_prompt);
    int rc = run_streams(&s, 1, e);
    if (!rc) *tok_s = n_prompt * 1e6 / (double)QN_MAX(s.stats.prefill_us, 1);
    free_streams(&s, 1);
    return rc;
}

static int one_decode(struct bench *b, int context, int mtp, double *tok_s, double *per_step,
                      struct qn_err *e)
{
    struct stream s = {.bench = b, .n_tok = QN_MAX(context, 1), .n_new = b->n_gen, .mtp = mtp};
    s.tok = random_prompt(b, ++b->seed, s.n_tok);
    int rc = run_streams(&s, 1, e);
    if (!rc) {
        *tok_s = (s.stats.n_new - 1) * 1e6 / (double)QN_MAX(s.stats.decode_us, 1);
        *per_step = (double)s.stats.n_new / QN_MAX(s.stats.n_step, 1);
    }
    free_streams(&s, 1);
    return rc;
}

/* Prefill of each length and decode at each context, against the bandwidth limit. */
static int bench_speed(struct bench *b, const int *prompts, int n_prompts, const int *contexts,
                       int n_contexts, struct qn_err *e)
{
    int rc = QN_OK;
    double values[MAX_RUNS], per_step = 0;
    char fields[512];
    double weights = weight_bytes_per_token(b->model);
    if (!b->json) printf("\n%-22s %12s %24s %10s %8s\n", "", "tok/s", "(min .. max)", "limit", "of limit");
    for (int i = 0; i < n_prompts; i++) {
        for (int k = 0; k < b->n_run; k++) QN_TRY(one_prefill(b, prompts[i], &values[k], e));
        struct cell c = summarise(values, b->n_run);
        snprintf(fields, sizeof fields, "\"prompt\": %d, \"tok_s\": %.2f, \"min\": %.2f, \"max\": %.2f",
                 prompts[i], c.median, c.low, c.high);
        if (b->json)
            print_json(b, "prefill", fields);
        else
            printf("prefill %-14d %12.1f %12.1f .. %-9.1f\n", prompts[i], c.median, c.low, c.high);
    }
    for (int i = 0; i < n_contexts; i++) {
        for (int k = 0; k < b->n_run; k++) QN_TRY(one_decode(b, contexts[i], 0, &values[k], &per_step, e));
        struct cell c = summarise(values, b->n_run);
        double bytes = weights + cache_bytes_per_token(b, contexts[i] + b->n_gen / 2);
        double limit = b->read_gbs * 1e9 / bytes;
        snprintf(fields, sizeof fields,
                 "\"context\": %d, \"generated\": %d, \"tok_s\": %.2f, \"min\": %.2f, \"max\": %.2f, "
                 "\"bytes_per_token\": %.0f, \"limit_tok_s\": %.2f, \"of_limit\": %.3f",
                 contexts[i], b->n_gen, c.median, c.low, c.high, bytes, limit, c.median / limit);
        if (b->json)
            print_json(b, "decode", fields);
        else
            printf("decode at %-12d %12.2f %12.2f .. %-9.2f %10.2f %7.0f%%\n", contexts[i], c.median, c.low,
                   c.high, limit, 100 * c.median / limit);
        if (qn_engine_info(b->engine)->has_mtp && qn_engine_info(b->engine)->mtp != 0) {
            for (int k = 0; k < b->n_run; k++)
                QN_TRY(one_decode(b, contexts[i], -1, &values[k], &per_step, e));
            c = summarise(values, b->n_run);
            snprintf(fields, sizeof fields,
                     "\"context\": %d, \"generated\": %d, \"tok_s\": %.2f, \"min\": %.2f, \"max\": %.2f, "
                     "\"tok_per_step\": %.3f",
                     contexts[i], b->n_gen, c.median, c.low, c.high, per_step);
            if (b->json)
                print_json(b, "decode_speculative", fields);
            else
                printf("  with speculation     %12.2f %12.2f .. %-9.2f   %.2f tokens a step\n", c.median,
                       c.low, c.high, per_step);
        }
    }
out:
    return rc;
}

/* n streams at once, with prompts of their own or with a common first half. */
static int bench_concurrency(struct bench *b, const int *levels, int n_levels, int n_prompt, bool is_shared,
                             struct qn_err *e)
{
    int rc = QN_OK;
    struct stream streams[MAX_STREAMS];
    int n = 0;
    if (!b->json)
        printf("\n%-22s %12s %12s %12s %12s %12s\n", is_shared ? "shared prefix" : "unique prompts", "tok/s",
               "a stream", "TTFT p50 ms", "ITL p50 ms", "ITL p99 ms");
    for (int i = 0; i < n_levels; i++) {
        n = QN_CLAMP(levels[i], 1, MAX_STREAMS);
        uint64_t common = ++b->seed;
        memset(streams, 0, sizeof streams);
        for (int k = 0; k < n; k++) {
            streams[k] = (struct stream){.bench = b, .n_tok = n_prompt, .n_new = b->n_gen, .mtp = -1};
            streams[k].tok = random_prompt(b, ++b->seed, n_prompt);
            if (is_shared) {
                int32_t *first = random_prompt(b, common, n_prompt);
                memcpy(streams[k].tok, first, (size_t)(n_prompt / 2) * sizeof *first);
                free(first);
            }
        }
        int64_t start = qn_now_us(), end = start;
        rc = run_streams(streams, n, e);
        if (rc) break;
        double ttft[MAX_STREAMS], *gaps;
        int64_t n_new = 0, n_cached = 0;
        for (int k = 0; k < n; k++) {
            ttft[k] = (double)(streams[k].first_us - streams[k].submit_us) / 1000.0;
            end = QN_MAX(end, streams[k].last_us);
            n_new += streams[k].n_got;
            n_cached += streams[k].stats.n_cached;
        }
        int n_gap = collect_gaps(streams, n, &gaps);
        double tok_s = (double)n_new * 1e6 / (double)QN_MAX(end - start, 1);
        double p50 = percentile(gaps, n_gap, 0.5), p99 = percentile(gaps, n_gap, 0.99);
        char fields[512];
        snprintf(fields, sizeof fields,
                 "\"streams\": %d, \"prompt\": %d, \"generated\": %d, \"shared\": %s, \"tok_s\": %.2f, "
                 "\"ttft_p50_ms\": %.2f, \"itl_p50_ms\": %.3f, \"itl_p99_ms\": %.3f, \"cached\": %" PRId64,
                 n, n_prompt, b->n_gen, is_shared ? "true" : "false", tok_s, percentile(ttft, n, 0.5), p50,
                 p99, n_cached);
        if (b->json)
            print_json(b, "concurrency", fields);
        else
            printf("%-22d %12.1f %12.2f %12.1f %12.2f %12.2f\n", n, tok_s, tok_s / n,
                   percentile(ttft, n, 0.5), p50, p99);
        free(gaps);
        free_streams(streams, n);
        n = 0;
    }
    free_streams(streams, n);
    return rc;
}

/* An agent's session: each turn is the whole conversation so far plus new tokens. */
static int bench_agent(struct bench *b, int n_turn, int n_first, int n_more, struct qn_err *e)
{
    int rc = QN_OK;
    int capacity = n_first + n_turn * (n_more + b->n_gen) + 1, n_tok = n_first;
    int32_t *tok = random_prompt(b, ++b->seed, capacity);
    int64_t reusable = 0, reused = 0;
    if (!b->json)
        printf("\n%-22s %12s %12s %12s %12s\n", "agent turn", "prompt", "cached", "TTFT ms", "tok/s");
    for (int turn = 0; turn < n_turn; turn++) {
        struct stream s = {.bench = b, .n_tok = n_tok, .n_new = b->n_gen, .mtp = -1};
        s.tok = xreallocarray(NULL, (size_t)n_tok, sizeof *tok);
        memcpy(s.tok, tok, (size_t)n_tok * sizeof *tok);
        rc = run_streams(&s, 1, e);
        if (rc) {
            free_streams(&s, 1);
            break;
        }
        double ttft = (double)(s.first_us - s.submit_us) / 1000.0;
        double tok_s = (s.stats.n_new - 1) * 1e6 / (double)QN_MAX(s.stats.decode_us, 1);
        if (turn) {
            reusable += n_tok - n_more - b->n_gen;
            reused += s.stats.n_cached;
        }
        char fields[256];
        snprintf(fields, sizeof fields,
                 "\"turn\": %d, \"prompt\": %d, \"cached\": %d, \"ttft_ms\": %.2f, \"tok_s\": %.2f", turn + 1,
                 n_tok, s.stats.n_cached, ttft, tok_s);
        if (b->json)
            print_json(b, "agent_turn", fields);
        else
            printf("%-22d %12d %12d %12.1f %12.2f\n", turn + 1, n_tok, s.stats.n_cached, ttft, tok_s);
        free_streams(&s, 1);
        n_tok += n_more + b->n_gen;
    }
    if (!rc && reusable && !b->json)
        printf("reused %.1f %% of the tokens of earlier prompts\n",
               100.0 * (double)reused / (double)reusable);
    free(tok);
    return rc;
}

/* Gaps of running streams, alone and while a long prompt is read. */
static int bench_mixed(struct bench *b, int n_running, int n_long, struct qn_err *e)
{
    int rc = QN_OK;
    double p50[2], p99[2];
    for (int with = 0; with < 2; with++) {
        struct stream streams[MAX_STREAMS] = {0};
        int n = n_running + with;
        for (int k = 0; k < n_running; k++) {
            streams[k] = (struct stream){.bench = b, .n_tok = 64, .n_new = b->n_gen * 4, .mtp = -1};
            streams[k].tok = random_prompt(b, ++b->seed, 64);
        }
        if (with) {
            streams[n_running] =
                (struct stream){.bench = b, .n_tok = n_long, .n_new = 1, .mtp = -1, .delay_us = 200000};
            streams[n_running].tok = random_prompt(b, ++b->seed, n_long);
        }
        rc = run_streams(streams, n, e);
        if (!rc) {
            double *gaps;
            int n_gap = collect_gaps(streams, n_running, &gaps);
            p50[with] = percentile(gaps, n_gap, 0.5);
            p99[with] = percentile(gaps, n_gap, 0.99);
            free(gaps);
        }
        free_streams(streams, n);
        if (rc) return rc;
    }
    char fields[256];
    snprintf(
        fields, sizeof fields,
        "\"streams\": %d, \"long_prompt\": %d, \"itl_p50_ms\": [%.3f, %.3f], \"itl_p99_ms\": [%.3f, %.3f]",
        n_running, n_long, p50[0], p50[1], p99[0], p99[1]);
    if (b->json)
        print_json(b, "mixed", fields);
    else
        printf("\n%d running streams        ITL p50 %.2f ms, p99 %.2f ms\n  while %d tokens prefill  ITL p50 "
               "%.2f ms, "
               "p99 %.2f ms (%.2fx)\n",
               n_running, p50[0], p99[0], n_long, p50[1], p99[1], p99[1] / p99[0]);
    return rc;
}

static int run(int argc, char **argv)
{
    static const struct qn_opt_usage usage = {
        "quern bench MODEL [WHAT ...] [options]",
        "Measures the model on this machine. WHAT: speed (prefill and decode at context frontiers, the "
        "default),\n"
        "concurrency, agent (turns of a growing conversation), mixed (running streams while a long prompt is "
        "read).",
        "quern bench models/mini speed --prompt 512,2048 --context 0,4k --runs 5"};
    const char *device = "cpu", *prompt = "512", *context = "0", *levels = "1,2,4,8", *activations = "";
    int64_t n_thread = 0, n_run = 3, n_gen = 64, mtp = 0, seed = 1, turns = 10, step_tokens = 0,
            long_prompt = 4096;
    bool json = false, speculate = false;
    const struct qn_opt options[] = {
        {"prompt", 0, QN_OPT_STR, &prompt, "LIST", "prompt lengths to prefill (512)", .env = NULL},
        {"context", 0, QN_OPT_STR, &context, "LIST", "contexts to decode at (0)"},
        {"gen", 'n', QN_OPT_INT, &n_gen, "N", "tokens to generate (64)", .min = 2, .max = 1000000},
        {"streams", 0, QN_OPT_STR, &levels, "LIST", "concurrency levels (1,2,4,8)"},
        {"turns", 0, QN_OPT_INT, &turns, "N", "turns of the agent (10)", .min = 1, .max = 1000},
        {"long-prompt", 0, QN_OPT_INT, &long_prompt, "N", "prompt read beside running streams (4096)",
         .min = 1, .max = 1 << 20},
        {"runs", 'r', QN_OPT_INT, &n_run, "N", "runs of each figure (3)", .min = 1, .max = MAX_RUNS},
        {"threads", 't', QN_OPT_INT, &n_thread, "N", "CPU workers (all cores)", .min = 0, .max = 4096},
        {"device", 0, QN_OPT_STR, &device, "NAME", "cpu or ref"},
        {"activations", 0, QN_OPT_STR, &activations, "TYPE", "f32 or bf16 (bf16)"},
        {"speculate", 0, QN_OPT_FLAG, &speculate, NULL, "also decode with automatic speculation"},
        {"mtp", 0, QN_OPT_INT, &mtp, "N", "fixed draft depth (with it, speculation is on)", .min = 0,
         .max = QN_MAX_DRAFT},
        {"step-tokens", 0, QN_OPT_INT, &step_tokens, "N", "prefill tokens in a step (decided)", .min = 0,
         .max = 65536},
        {"seed", 0, QN_OPT_INT, &seed, "N", "of the random prompts"},
        {"json", 0, QN_OPT_FLAG, &json, NULL, "one JSON line a result"},
    };
    const char *args[8];
    int n_arg, exit_code = 1;
    struct qn_err e = {0};
    struct qn_model *model = NULL;
    struct bench b = {.json = json};
    int rc = qn_opt_parse(options, QN_COUNT(options), &usage, argc, argv, args, QN_COUNT(args), &n_arg, &e);
    if (rc) return qn_cli_usage_failed("bench", rc, &e);
    if (!n_arg) {
        qn_opt_help(stderr, options, QN_COUNT(options), &usage);
        return 2;
    }
    int prompts[MAX_LIST], contexts[MAX_LIST], streams[MAX_LIST];
    int n_prompts = parse_list(prompt, prompts, "prompt", &e),
        n_contexts = parse_list(context, contexts, "context", &e);
    int n_streams = parse_list(levels, streams, "streams", &e);
    if (n_prompts < 0 || n_contexts < 0 || n_streams < 0) return qn_cli_usage_failed("bench", QN_INVAL, &e);
    if (activations[0] && strcmp(activations, "f32") && strcmp(activations, "bf16")) {
        qn_err_set(&e, QN_INVAL, __FILE__, __LINE__, "--activations: '%s' is neither f32 nor bf16",
                   activations);
        return qn_cli_usage_failed("bench", QN_INVAL, &e);
    }
    const struct qn_backend *backend = qn_backend_get(device);
    if (!backend) {
        qn_err_set(&e, QN_INVAL, __FILE__, __LINE__, "--device: no '%s' in this build; cpu and ref are",
                   device);
        return qn_cli_usage_failed("bench", QN_INVAL, &e);
    }

    bool what[4] = {n_arg == 1, false, false, false};
    static const char *const names[] = {"speed", "concurrency", "agent", "mixed"};
    for (int i = 1; i < n_arg; i++) {
        size_t k = 0;
        while (k < QN_COUNT(names) && strcmp(args[i], names[k])) k++;
        if (k == QN_COUNT(names)) {
            qn_err_set(&e, QN_INVAL, __FILE__, __LINE__,
                       "no benchmark '%s'; there are speed, concurrency, agent, mixed", args[i]);
            return qn_cli_usage_failed("bench", QN_INVAL, &e);
        }
        what[k] = true;
    }

    rc = qn_model_open(&model, args[0], &e);
    if (rc) goto done;
    int longest = 0;
    for (int i = 0; i < n_prompts; i++) longest = QN_MAX(longest, prompts[i] + 1);
    for (int i = 0; i < n_contexts; i++) longest = QN_MAX(longest, contexts[i] + (int)n_gen + 1);
    if (what[2]) longest = QN_MAX(longest, 512 + (int)turns * (128 + (int)n_gen) + 1);
    /* the long prompt of `mixed` takes what the model's context has room for */
    int limit = qn_model_config(model)->max_context - QN_MAX_DRAFT - 2,
        n_long = (int)QN_MIN(long_prompt, (int64_t)limit);
    if (what[3]) longest = QN_MAX(longest, QN_MAX(n_long + 1, 64 + 4 * (int)n_gen));
    longest = QN_MAX(longest, QN_MIN(1024 + (int)n_gen, limit)) + QN_MAX_DRAFT + 1;
    struct qn_engine_options options_of_engine = {
        .model = model,
        .backend = backend,
        .n_thread = (int)n_thread,
        .f32_activations = !strcmp(activations, "f32"),
        .kv = -1,
        .max_context = longest,
        .step_tokens = (int)step_tokens,
        .mtp = mtp         ? (int)mtp
               : speculate ? -1
                           : 0,
        .ram_tier_bytes = -1,
    };
    rc = qn_engine_open(&b.engine, &options_of_engine, &e);
    if (rc) goto done;
    const struct qn_engine_info *info = qn_engine_info(b.engine);
    b = (struct bench){.model = model,
                       .engine = b.engine,
                       .json = json,
                       .n_run = (int)n_run,
                       .n_gen = (int)n_gen,
                       .seed = (uint64_t)seed << 32};
    b.read_gbs = qn_bandwidth_read(info->n_thread);
    if (!json) {
        printf("model      %s, %.2f GB of weights, loaded in %.2f s\n", qn_model_name(model),
               (double)info->weight_bytes / 1e9, info->load_s);
        printf("device     %s, %d threads%s%s, KV %s\n", device, info->n_thread, info->isa[0] ? ", " : "",
               info->isa, info->kv);
        printf("bandwidth  %.1f GB/s measured read\n", b.read_gbs);
    }
    double warm, steps;
    rc =
        one_decode(&b, 16, 0, &warm, &steps, &e); /* pages of weights, caches and threads are warm after it */
    if (!rc && what[0]) rc = bench_speed(&b, prompts, n_prompts, contexts, n_contexts, &e);
    if (!rc && what[1]) rc = bench_concurrency(&b, streams, n_streams, 256, false, &e);
    if (!rc && what[1]) rc = bench_concurrency(&b, streams, n_streams, 256, true, &e);
    if (!rc && what[2]) rc = bench_agent(&b, (int)turns, 512, 128, &e);
    if (!rc && what[3]) rc = bench_mixed(&b, 4, n_long, &e);
    exit_code = rc ? 1 : 0;
done:
    if (rc) qn_cli_failed("bench", &e);
    if (b.engine) qn_engine_close(b.engine);
    qn_model_close(model);
    return exit_code;
}

const struct qn_cmd qn_cmd_bench = {"bench", "measure prefill, decode, concurrency, cached turns", run};
