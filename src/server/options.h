/* What a server is started with. Made by the command line, constant from then on; what it points to outlives
 * the server. SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_SERVER_OPTIONS_H
#define QN_SERVER_OPTIONS_H

#include "base/json.h"
#include "model/config.h"
#include "server/gate.h"

struct qn_text;
struct qn_sight;         /* engine/sight.h */
struct qn_source_policy; /* media/source.h */

/* Server-wide sampling values: between the request's and the model's own. NaN (or -1): not set. */
struct qn_sampling_defaults {
    double temperature, top_p, min_p, presence, frequency, repetition;
    int64_t top_k, max_tokens;
};

struct qn_server_options {
    const char *host;
    int port;
    struct qn_gate gate;  /* keys, origins, hosts */
    size_t request_bytes; /* memory of all requests, with what is remembered of them; 0: no bound */
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
    struct qn_sight *sight;               /* or NULL: the model is served for text only */
    const struct qn_source_policy *media; /* with sight */
    int max_image, max_video;             /* of a request; negative: no limit */
    double request_timeout_s;             /* 0: none */
    const char *trace_dir;    /* or NULL */
    const char *model_path;   /* for traces */
};

#endif
