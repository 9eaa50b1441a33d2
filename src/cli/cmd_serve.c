/* quern serve: the server's life.
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
#include "base/notify.h"
#include "base/shown.h"
#include "cli/access.h"
#include "cli/cli.h"
#include "cli/loading.h"
#include "cli/model_opts.h"
#include "cli/serve.h"
#include "cli/startup.h"
#include "cli/wish.h"
#include "model/checkpoint.h"
#include "model/plan.h"
#include "model/shard.h"
#include "server/server.h"
#include "server/trace.h"
#include "text/chat.h"
#include "text/mask.h"
#include "text/tokenizer.h"

#define MAX_NAMES 16

static void on_progress(void *user, size_t done_bytes, size_t total_bytes)
{
    int64_t *next_us = user;
    if (!isatty(2) || qn_now_us() < *next_us) return;
    *next_us = qn_now_us() + 100000;
    fprintf(stderr, "\rloading %3.0f %%", total_bytes ? 100.0 * (double)done_bytes / (double)total_bytes : 0);
    if (done_bytes >= total_bytes) fprintf(stderr, "\r             \r");
}

/* The folder's name, as the model's. */
static char *base_name(const char *path, struct qn_arena *arena)
{
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/') n--;
    size_t from = n;
    while (from && path[from - 1] != '/') from--;
    char *name = qn_arena_strndup(arena, path + from, n - from);
    QN_CHECK(name);
    name = qn_arena_strndup(arena, qn_shown(name), strlen(qn_shown(name)));
    QN_CHECK(name);
    return name;
}

/* A GPU that can be used, with room for the weights and some more. Says which it is, or why not. */
static bool gpu_has_room(const struct qn_backend *b, const struct qn_model *m)
{
    struct qn_err e = {0};
    struct qn_tally t;
    uint64_t free_bytes = 0, total = 0;
    char need[24], have[24];
    if (b->memory(0, &free_bytes, &total, &e)) {
        fprintf(stderr, "device     cpu: %s\n", e.text);
        return false;
    }
    qn_tally_model(m, &t);
    uint64_t weights = t.text_bytes + t.mtp_bytes;
    bool has_room = weights + weights / 10 < free_bytes / 10 * 9;
    fprintf(stderr, "device     %s: the weights take %s, GPU 0 has %s free\n", has_room ? b->name : "cpu",
            qn_bytes_text(weights, need), qn_bytes_text(free_bytes, have));
    return has_room;
}

static int choose_backend(const char **device, const struct qn_model *m, const struct qn_backend **out,
                          struct qn_err *e)
{
    int rc = QN_OK;
    static const char *const by_speed[] = {"cuda", "cpu", "ref"};
    bool is_asked = *device;
    for (size_t i = 0; i < QN_COUNT(by_speed) && !is_asked && !*out; i++) {
        const struct qn_backend *b = qn_backend_get(by_speed[i]);
        if (!b || (b->memory && !gpu_has_room(b, m))) continue;
        *device = by_speed[i];
        *out = b;
    }
    if (is_asked) *out = qn_backend_get(*device);
    uint64_t free_bytes, total;
    if (is_asked && *out && (*out)->memory) QN_TRY((*out)->memory(0, &free_bytes, &total, e));
    QN_FAIL_IF(!*out && !strcmp(*device, "cuda"), e, QN_UNSUPPORTED,
               "--device cuda: this build has no CUDA; `make cuda` builds it, or use --device cpu");
    QN_FAIL_IF(!*out, e, QN_UNSUPPORTED, "--device %s: there are cuda, cpu and ref", *device);
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

/* All that one run of the command holds. */
struct job {
    struct qn_wish wish;
    struct qn_arena *arena;
    const struct qn_engine_options *fake; /* or NULL */
    int depth, act;
    struct qn_json *kwargs;
    struct qn_gate gate;
    const char *names[MAX_NAMES];
    int n_name;

    const struct qn_backend *backend;
    struct qn_model *model;
    struct qn_text *text;
    struct qn_mask *mask;
    struct qn_server *server;
    struct qn_engine *engine;
    struct qn_server_options options;
    int64_t next_us; /* of the progress line */
    struct qn_loading *loading;
    struct qn_media_job media;
};

/* What of the options can be wrong before a file is read. */
static int check_wish(struct job *j, struct qn_err *e)
{
    int rc = QN_OK, kv, level = -1;
    struct qn_wish *w = &j->wish;
    static const char *const levels[] = {"error", "warn", "info", "debug"};
    for (size_t i = 0; i < QN_COUNT(levels); i++)
        if (!strncmp(w->level, levels[i], 4)) level = (int)i;
    QN_FAIL_IF(level < 0, e, QN_INVAL, "--log-level %s: must be error, warn, info or debug", w->level);
    qn_log_set_level((enum qn_level)level);
    QN_TRY(qn_wish_depth(w->mtp, &j->depth, e));
    QN_TRY(qn_wish_kv(w->kv, NULL, &kv, e));
    QN_TRY(qn_wish_generation(w, j->arena, e));
    if (w->kwargs) {
        QN_TRY(qn_json_parse(&j->kwargs, j->arena, w->kwargs, strlen(w->kwargs), "--template-kwargs", e));
        QN_FAIL_IF(!qn_json_is(j->kwargs, QN_JSON_OBJECT), e, QN_INVAL,
                   "--template-kwargs must be a JSON object");
    }
    if (w->think) {
        bool is_on = !strcasecmp(w->think, "on");
        QN_FAIL_IF(!is_on && strcasecmp(w->think, "off"), e, QN_INVAL, "--think %.40s: must be on or off",
                   w->think);
        if (!j->kwargs) j->kwargs = qn_json_new(j->arena, QN_JSON_OBJECT);
        if (!qn_json_get(j->kwargs, "enable_thinking"))
            qn_json_set(j->arena, j->kwargs, "enable_thinking", qn_json_new_bool(j->arena, is_on));
    }
    j->act = qn_act_find(w->activations);
    QN_FAIL_IF(j->act < 0, e, QN_INVAL, "--activations %.40s: must be " QN_ACT_NAMES, w->activations);
    QN_FAIL_IF(!isnan(w->memory_part) && !(w->memory_part > 0 && w->memory_part <= 1), e, QN_INVAL,
               "--memory-part %g: must be over 0 and at most 1", w->memory_part);
    QN_FAIL_IF(!(w->request_timeout >= 0 && w->request_timeout <= 1e6), e, QN_INVAL,
               "--request-timeout %g: 0 (off) to 1000000 seconds", w->request_timeout);
    QN_FAIL_IF((w->disk_bytes || w->disk_writes) && !w->disk_tier, e, QN_INVAL,
               "--disk-tier-size and --disk-tier-writes are limits of --disk-tier DIR, which is not given");
    QN_TRY(qn_access_read(&j->gate, &(struct qn_access_wish){w->keys, w->key_file, w->origins, w->hosts},
                          j->arena, e));
    j->n_name = qn_wish_split(w->names, j->names, MAX_NAMES, "served-model-name", j->arena, e);
    if (j->n_name < 0) QN_TRY(j->n_name);
    QN_TRY(qn_media_check(&j->media, &w->media, j->arena, e));
    if (w->trace) QN_TRY(qn_trace_open(w->trace, e));
out:
    return rc;
}

static int open_model(struct job *j, struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_wish *w = &j->wish;
    j->loading = qn_loading_begin("serve");
    if (!j->fake) {
        QN_TRY(qn_model_opts_open(&j->model, w->model, &w->over, e));
        QN_TRY(choose_backend(&w->device, j->model, &j->backend, e));
    }
    if (j->model) {
        const struct qn_sight_options sight = {w->device, (enum qn_act)j->act, (int)w->threads, 0};
        qn_media_open(&j->media, &w->media, j->model, &sight);
    }
    const struct qn_text_opt text_opt = {.template_path = w->template};
    QN_TRY(qn_text_open(&j->text, j->model ? qn_model_folder(j->model) : w->model, &text_opt, e));
    if (!j->n_name)
        j->names[j->n_name++] = j->model ? qn_model_name(j->model) : base_name(w->model, j->arena);
out:
    return rc;
}

/* A part of the memory of the machine or GPU, but not more than can be had: others may use the rest. */
static int64_t part_of_memory(const struct qn_backend *gpu, double part)
{
    double asked = part * (double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGESIZE);
    double most = (double)qn_mem_available() * 0.95;
    uint64_t free_bytes, total;
    if (gpu && gpu->memory && !gpu->memory(0, &free_bytes, &total, NULL)) {
        asked = part * (double)total;
        most = (double)free_bytes * 0.98;
    }
    char a[24], b[24];
    if (asked > most)
        fprintf(stderr, "--memory-part %g: %s of it; %s can be had and are used\n", part,
                qn_bytes_text((uint64_t)asked, a), qn_bytes_text((uint64_t)most, b));
    return (int64_t)QN_MIN(asked, most);
}

/* 0: what the machine has */
static int64_t memory_bytes(const struct qn_wish *w, const struct qn_backend *b)
{
    if (w->memory || isnan(w->memory_part)) return w->memory;
    return part_of_memory(b, w->memory_part);
}

static size_t request_bytes(const struct qn_wish *w)
{
    if (w->request_memory) return (size_t)QN_MAX(w->request_memory, 4 << 20);
    int64_t memory = memory_bytes(w, NULL);
    return (size_t)qn_plan_request_bytes(memory ? (uint64_t)memory : qn_mem_available() / 5 * 4);
}

static void set_server(struct job *j)
{
    const struct qn_wish *w = &j->wish;
    struct qn_tally tally = {0};
    int64_t n_param = 0;
    if (j->model) {
        qn_tally_model(j->model, &tally);
        for (int p = 0; p < QN_N_PART; p++) n_param += tally.part[p].n_param;
    }
    j->options = (struct qn_server_options){
        .host = w->host,
        .port = (int)w->port,
        .gate = j->gate,
        .request_bytes = request_bytes(w),
        .max_body_bytes = (size_t)w->max_body,
        .max_requests = (int)w->max_requests,
        .body_timeout_s = (int)w->body_timeout,
        .text = j->text,
        .config = j->model ? qn_model_config(j->model) : j->fake->config,
        .names = j->names,
        .n_name = j->n_name,
        .strict_model = w->strict_model,
        .n_param = n_param,
        .model_bytes = (int64_t)(tally.text_bytes + tally.mtp_bytes),
        .sampling = {w->temperature, w->top_p, w->min_p, w->presence, w->frequency, w->repetition, w->top_k,
                     w->max_tokens},
        .template_kwargs = j->kwargs,
        .allow_request_template = w->request_template,
        .mirror_reasoning = w->mirror_reasoning,
        .stream_usage = w->stream_usage,
        .trace_dir = w->trace,
        .isolate_keys = w->isolate_keys,
        .sight = j->media.sight,
        .media = &j->media.policy,
        .max_image = j->media.max_image,
        .max_video = j->media.max_video,
        .request_timeout_s = w->request_timeout,
        .model_path = w->model,
    };
}

/* A recipe for other cards starts too: with the most ranks, up to those asked for, that the heads allow. */
static int fit_ranks(const struct qn_model *m, int wanted)
{
    int n = QN_MIN(wanted, QN_MAX_RANK);
    while (n > 1 && !qn_shard_fits(qn_model_config(m), n)) n--;
    if (n != wanted)
        fprintf(stderr, "--tp %d: the heads of this model cannot be shared out so; %d rank%s\n", wanted, n,
                n == 1 ? " runs it" : "s run it");
    return n;
}

static int set_engine(struct job *j, struct qn_engine_options *out, struct qn_err *e)
{
    int rc = QN_OK, kv = -1;
    const struct qn_wish *w = &j->wish;
    struct qn_engine_options g = {.model = j->model, .backend = j->backend, .kv = -1};
    if (j->fake) g = *j->fake;
    g.n_thread = (int)w->threads;
    if (w->ranks > 1 && j->model) g.n_rank = fit_ranks(j->model, (int)w->ranks);
    g.act = (enum qn_act)j->act;
    QN_TRY(qn_wish_kv(w->kv, j->model, &kv, e)); /* what fp8 is depends on the checkpoint */
    if (kv >= 0) g.kv = kv;
    if (w->context > 0) g.max_context = (int)w->context;
    if (w->max_seqs) g.max_seqs = (int)w->max_seqs;
    g.is_bound = true; /* who finds no page waits */
    g.max_queue = (int)w->max_queue;
    if (w->step_tokens > 0) g.step_tokens = (int)w->step_tokens;
    g.n_tok = qn_tokenizer_n_vocab(j->text->tokenizer);
    g.memory_bytes = memory_bytes(w, j->backend);
    g.request_bytes = (int64_t)(request_bytes(w) + qn_media_bytes(&j->media));
    g.mtp = j->depth;
    g.no_prefix_cache = w->no_prefix_cache;
    if (w->ram_tier) g.ram_tier_bytes = w->ram_tier;
    g.disk_tier = w->disk_tier;
    g.disk_tier_bytes = w->disk_bytes;
    g.disk_write_bytes = w->disk_writes;
    g.itl_target_ms = (float)w->itl_ms;
    g.stuck_s = (int)w->stuck;
    g.progress = on_progress;
    g.progress_user = &j->next_us;
    struct qn_mask_vocab vocab = {.n_vocab = j->options.config->vocab, .bytes = mask_bytes, .ctx = j->text};
    QN_TRY(qn_mask_create(&j->mask, &vocab, e));
    g.mask = j->mask;
    *out = g;
out:
    return rc;
}

/* Binds, loads, serves until a signal. */
static int serve(struct job *j, int *status, struct qn_err *e)
{
    int rc = QN_OK;
    const struct qn_wish *w = &j->wish;
    struct qn_engine_options g;
    set_server(j);
    QN_TRY(qn_server_open(&j->server, &j->options, e));
    QN_TRY(set_engine(j, &g, e));
    QN_TRY(qn_engine_open(&j->engine, &g, e));
    qn_startup_print(&(struct qn_startup){.options = &j->options,
                                          .wish = w,
                                          .model = j->model,
                                          .info = qn_engine_info(j->engine),
                                          .media = &j->media,
                                          .device = j->fake ? "scripted" : w->device});
    qn_loading_end(j->loading);
    j->loading = NULL;
    qn_server_set_engine(j->server, j->engine);
    qn_media_warm(&j->media, j->engine);
    bool is_v6 = strchr(w->host, ':') != NULL;
    printf("ready http://%s%s%s:%d\n", is_v6 ? "[" : "", w->host, is_v6 ? "]" : "",
           qn_server_port(j->server));
    fflush(stdout);
    qn_notify("READY=1\nSTATUS=serving");
    *status = qn_server_run(j->server, (int)w->drain);
out:
    return rc;
}

static void close_job(struct job *j)
{
    qn_loading_end(j->loading);
    qn_server_close(j->server);
    qn_media_close(&j->media);
    qn_engine_close(j->engine);
    qn_mask_free(j->mask);
}

int qn_serve(int argc, char **argv, const struct qn_engine_options *fake)
{
    int status = 1;
    struct qn_err e = {0};
    struct job j = {.arena = qn_arena_create(16 << 20), .fake = fake, .depth = -1};
    qn_wish_init(&j.wish);
    char **given = argv;
    int n_given = argc;
    qn_server_block_signals();
    int rc = qn_wish_read(&j.wish, argc, argv, j.arena, &e);
    qn_access_hide(n_given, given); /* the words were copied */
    if (rc) {
        status = qn_cli_usage_failed("serve", rc, &e);
        qn_arena_free(j.arena);
        return status;
    }
    if ((rc = check_wish(&j, &e)))
        status = 2;
    else if (!(rc = open_model(&j, &e)))
        rc = serve(&j, &status, &e);
    close_job(&j);
    if (rc) qn_cli_failed("serve", &e);
    qn_text_close(j.text);
    qn_model_close(j.model);
    qn_arena_free(j.arena);
    return status;
}

static int run(int argc, char **argv)
{
    return qn_serve(argc, argv, NULL);
}

const struct qn_cmd qn_cmd_serve = {"serve", "serve a model over HTTP", run};
