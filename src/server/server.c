/* The server's life: start, serve, drain, stop.
 * SPDX-License-Identifier: Apache-2.0 */
#include "server/server.h"

#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include "base/budget.h"
#include "base/clock.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/notify.h"
#include "engine/engine.h"
#include "server/api.h"
#include "server/compact.h"
#include "server/calls.h"
#include "server/stored.h"
#include "server/trace.h"

static const struct qn_route routes[] = {
    {"/v1/chat/completions", QN_POST, QN_ROUTE_ENGINE, qn_api_chat_completions},
    {"/v1/completions", QN_POST, QN_ROUTE_ENGINE, qn_api_completions},
    {"/v1/messages", QN_POST, QN_ROUTE_ENGINE | QN_ROUTE_ANTHROPIC, qn_api_messages},
    {"/v1/messages/count_tokens", QN_POST, QN_ROUTE_ENGINE | QN_ROUTE_ANTHROPIC, qn_api_count_tokens},
    {"/v1/responses", QN_POST, QN_ROUTE_ENGINE, qn_api_responses},
    {"/v1/responses/input_tokens", QN_POST, QN_ROUTE_ENGINE, qn_api_count_input},
    {"/v1/responses/compact", QN_POST, QN_ROUTE_ENGINE, qn_api_compact},
    {"/v1/responses/", QN_GET | QN_DELETE, QN_ROUTE_TAIL, qn_api_responses_get},
    {"/v1/embeddings", QN_POST, 0, qn_api_embeddings},
    {"/v1/models", QN_GET, QN_ROUTE_QUIET, qn_api_models},
    {"/v1/models/", QN_GET, QN_ROUTE_TAIL | QN_ROUTE_QUIET, qn_api_model},
    {"/v1/tokenize", QN_POST, QN_ROUTE_ENGINE, qn_api_tokenize},
    {"/v1/detokenize", QN_POST, QN_ROUTE_ENGINE, qn_api_detokenize},
    {"/v1/tokenizer_info", QN_GET, 0, qn_api_tokenizer_info},
    {"/v1/apply-template", QN_POST, QN_ROUTE_ENGINE, qn_api_apply_template},
    {"/v1/health", QN_GET, QN_ROUTE_OPEN | QN_ROUTE_QUIET, qn_api_health},
    {"/ready", QN_GET, QN_ROUTE_OPEN | QN_ROUTE_QUIET, qn_api_health},
    {"/debug/cache", QN_GET, QN_ROUTE_ENGINE | QN_ROUTE_QUIET, qn_api_cache},
    {"/ping", QN_GET | QN_POST, QN_ROUTE_OPEN | QN_ROUTE_QUIET, qn_api_health},
    {"/metrics", QN_GET, QN_ROUTE_OPEN | QN_ROUTE_QUIET, qn_api_metrics},
    {"/props", QN_GET, QN_ROUTE_ENGINE | QN_ROUTE_QUIET, qn_api_props},
    {"/slots", QN_GET, QN_ROUTE_ENGINE | QN_ROUTE_QUIET, qn_api_slots},
    {"/version", QN_GET, QN_ROUTE_OPEN | QN_ROUTE_QUIET, qn_api_version},
    {"/load", QN_GET, QN_ROUTE_ENGINE | QN_ROUTE_QUIET, qn_api_load},
    {"/", QN_GET, QN_ROUTE_OPEN | QN_ROUTE_QUIET, qn_ui_page},
};

int qn_server_open(struct qn_server **out, const struct qn_server_options *o, struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_server *s = xcalloc(1, sizeof *s);
    s->o = *o;
    s->text = o->text;
    s->start_s = qn_unix_s();
    s->calls = qn_calls_create(o->request_bytes / 16);
    s->stored = qn_stored_create(o->request_bytes / 8);
    snprintf(s->fingerprint, sizeof s->fingerprint, "quern-%08x",
             (unsigned)qn_hash_str(o->n_name ? o->names[0] : "") ^ (unsigned)qn_hash_str(QN_VERSION));
    qn_budget_set(o->request_bytes - o->request_bytes / 4, o->request_bytes / 4);
    if (o->request_bytes)
        qn_mem_keep_reserve(QN_CLAMP(o->request_bytes / 16, (size_t)4 << 20, (size_t)32 << 20));
    qn_meters_open(&s->meters, o);
    struct qn_http_options h = {
        .host = o->host,
        .port = o->port,
        .routes = routes,
        .n_route = QN_COUNT(routes),
        .gate = o->gate,
        .max_body_bytes = o->max_body_bytes,
        .max_requests = o->max_requests,
        .body_timeout_s = o->body_timeout_s,
        .unready = qn_server_unready,
        .is_memory_short = qn_mem_is_short,
        .done = o->trace_dir ? qn_trace_refused : NULL,
    };
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN); /* a trace over the file size limit is a write error */
    QN_TRY(qn_http_open(&s->http, s, &h, e));
    *out = s;
    s = NULL;
out:
    if (s) qn_server_close(s);
    return rc;
}

void qn_server_set_engine(struct qn_server *s, struct qn_engine *engine)
{
    atomic_store(&s->engine, engine);
}

int qn_server_port(const struct qn_server *s)
{
    return qn_http_port(s->http);
}

static void signals(sigset_t *set)
{
    sigemptyset(set);
    sigaddset(set, SIGTERM);
    sigaddset(set, SIGINT);
}

void qn_server_block_signals(void)
{
    sigset_t set;
    signals(&set);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
}

int qn_server_run(struct qn_server *s, int drain_s)
{
    sigset_t set;
    signals(&set);
    const struct timespec second = {1, 0}, tenth = {0, 100000000};
    bool was_alive = true;
    while (sigtimedwait(&set, NULL, &second) < 0) {
        qn_http_tick(s->http);
        struct qn_engine *g = atomic_load(&s->engine);
        bool is_alive = !g || qn_engine_is_alive(g);
        if (was_alive && !is_alive)
            qn_log(QN_LOG_ERROR, "serve", "the engine makes no steps although it has work");
        was_alive = is_alive;
    }
    qn_notify("STOPPING=1");
    qn_log(QN_LOG_INFO, "serve", "shutting down: no new requests, running ones get %d s", drain_s);
    atomic_store(&s->is_draining, true);
    qn_http_quiet(s->http);
    int64_t deadline_us = qn_now_us() + drain_s * INT64_C(1000000);
    while (qn_http_n_running(s->http) && qn_now_us() < deadline_us)
        if (sigtimedwait(&set, NULL, &tenth) >= 0) {
            qn_log(QN_LOG_INFO, "serve", "second signal: ending running requests");
            break;
        }
    struct qn_engine *g = atomic_load(&s->engine);
    if (g) qn_engine_drain(g, qn_now_us());
    /* their connections write the last events */
    for (int i = 0; i < 30 && qn_http_n_running(s->http); i++) sigtimedwait(&set, NULL, &tenth);
    return g && !qn_engine_is_alive(g);
}

void qn_server_close(struct qn_server *s)
{
    if (!s) return;
    qn_http_close(s->http);
    qn_calls_free(s->calls);
    qn_stored_free(s->stored);
    qn_mem_keep_reserve(0);
    qn_metrics_free(s->meters.all);
    free(s);
}
