/* The server: start, serve while the model loads (503), drain, stop.
 *
 * Opened and driven by main. The text side, the config and the engine are main's and outlive the server.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_SERVER_H
#define QN_SERVER_H

#include "base/json.h"
#include "model/config.h"

struct qn_server;
struct qn_engine;
struct qn_text;

/* Server-wide sampling values: between the request's and the model's own. NaN (or -1): not set. */
struct qn_sampling_defaults {
    double temperature, top_p, min_p, presence, frequency, repetition;
    int64_t top_k, max_tokens;
};

struct qn_server_options {
    const char *host;
    int port;
    const char *const *keys; /* [n_key] */
    int n_key;
    const char *cors; /* allowed origin or NULL */
    size_t max_body_bytes;
    int max_requests, body_timeout_s; /* 0: default */

    const struct qn_text *text;
    const struct qn_config *config;
    const char *const *names; /* [n_name] served model names; the first is the default */
    int n_name;
    bool strict_model; /* unknown names are 404 */
    int64_t n_param, model_bytes;

    struct qn_sampling_defaults sampling;
    const struct qn_json *template_kwargs; /* object or NULL */
    bool allow_request_template;
    bool mirror_reasoning;    /* also as "reasoning" */
    bool stream_usage;        /* include_usage where a request does not say */
    bool isolate_keys;        /* requests of different keys share no cached prefixes */
    double request_timeout_s; /* 0: none */
    const char *trace_dir;    /* or NULL */
    const char *model_path;   /* for traces */
};

/* Binds and answers; /health says "loading" until qn_server_set_engine. */
int qn_server_open(struct qn_server **out, const struct qn_server_options *o, struct qn_err *e);
void qn_server_set_engine(struct qn_server *s, struct qn_engine *engine);
int qn_server_port(const struct qn_server *s);
/* Blocks SIGTERM and SIGINT in this thread and all it starts later. To be called before anything starts. */
void qn_server_block_signals(void);
/* Waits for SIGTERM or SIGINT, then drains: no new requests, running ones get drain_s seconds (a second
 * signal ends them at once). Returns 0, or 1 when the engine died. */
int qn_server_run(struct qn_server *s, int drain_s);
void qn_server_close(struct qn_server *s);

#endif
