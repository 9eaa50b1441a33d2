/* What the three dialects share: reading a request, rendering it, handing it over.
 * SPDX-License-Identifier: Apache-2.0 */
#include "server/api.h"

#include <math.h>
#include <sys/random.h>

#include "base/clock.h"
#include "base/hash.h"
#include "base/log.h"
#include "engine/ban.h"
#include "engine/engine.h"
#include "server/calls.h"
#include "server/stream.h"
#include "text/constrain.h"
#include "text/tokenizer.h"

/* value of the request, else the server's (unless NaN), else the model's, else the default */
static double pick(double server, bool has_model, double model, double dflt)
{
    return !isnan(server) ? server : has_model ? model : dflt;
}

void qn_ask_init(struct qn_ask *a, struct qn_exchange *x)
{
    const struct qn_server *s = x->server;
    const struct qn_sampling_defaults *o = &s->o.sampling;
    const struct qn_text_defaults *d = &s->text->defaults;
    memset(a, 0, sizeof *a);
    a->arena = x->arena;
    a->model = s->o.n_name ? s->o.names[0] : "";
    qn_chat_init(&a->chat, x->arena);
    a->n = 1;
    a->prompt_top = -1;
    a->mtp = -1;
    bool is_greedy = d->has_do_sample && !d->do_sample;
    a->sample = (struct qn_sample){
        .temperature =
            (float)pick(o->temperature, d->has_temperature || is_greedy, is_greedy ? 0 : d->temperature, 1),
        .top_p = (float)pick(o->top_p, d->has_top_p, d->top_p, 1),
        .min_p = (float)pick(o->min_p, d->has_min_p, d->min_p, 0),
        .top_k = o->top_k >= 0  ? (int)o->top_k
                 : d->has_top_k ? (int)QN_CLAMP(d->top_k, 0, INT32_MAX)
                                : 0,
        .presence = (float)pick(o->presence, d->has_presence_penalty, d->presence_penalty, 0),
        .frequency = (float)pick(o->frequency, d->has_frequency_penalty, d->frequency_penalty, 0),
        .repetition = (float)pick(o->repetition, d->has_repetition_penalty, d->repetition_penalty, 1),
        .n_top = -1,
    };
    if (o->max_tokens > 0) a->max_new = o->max_tokens;
    a->timeout_s = s->o.request_timeout_s;
    if (s->o.isolate_keys) a->salt = qn_mix64(x->client) | 1;
    if (getrandom(&a->sample.seed, sizeof a->sample.seed, 0) != sizeof a->sample.seed)
        a->sample.seed = qn_mix64((uint64_t)qn_now_us());
}

bool qn_ask_presence_is_models(const struct qn_server *s)
{
    return isnan(s->o.sampling.presence) && s->text->defaults.has_presence_penalty;
}

/* ------------------------------------------------------------------ members */

int qn_ask_read_model(struct qn_ask *a, struct qn_exchange *x, const struct qn_json *body, struct qn_err *e)
{
    int rc = QN_OK;
    const struct qn_server_options *o = &x->server->o;
    const char *name;
    x->param = "model";
    QN_TRY(qn_json_get_str(body, "model", NULL, &name, e));
    if (name && *name) {
        bool is_known = !o->strict_model;
        for (int i = 0; i < o->n_name; i++) is_known |= !strcmp(name, o->names[i]);
        if (!is_known) x->code = "model_not_found";
        QN_FAIL_IF(!is_known, e, QN_NOTFOUND, "the model '%.100s' does not exist; this server has '%.80s'",
                   name, o->n_name ? o->names[0] : "");
        a->model = name;
    }
    x->param = NULL;
out:
    return rc;
}

struct range {
    const char *key;
    double low, high;
    float *out;
};

static int read_float(struct qn_exchange *x, const struct qn_json *body, const struct range *r,
                      struct qn_err *e)
{
    int rc = QN_OK;
    double v;
    const struct qn_json *given = qn_json_get(body, r->key);
    if (qn_json_is_null(given)) return QN_OK;
    x->param = r->key;
    QN_TRY(qn_json_get_num(body, r->key, 0, &v, e));
    QN_FAIL_IF(!(v >= r->low && v <= r->high), e, QN_INVAL, "%s is %g; it must be between %g and %g", r->key,
               v, r->low, r->high);
    *r->out = (float)v;
    x->param = NULL;
out:
    return rc;
}

int qn_ask_read_int(struct qn_exchange *x, const struct qn_json *body, const char *key, int64_t low,
                    int64_t high, int64_t *out, struct qn_err *e)
{
    int rc = QN_OK;
    int64_t v;
    if (qn_json_is_null(qn_json_get(body, key))) return QN_OK;
    x->param = key;
    QN_TRY(qn_json_get_int(body, key, 0, &v, e));
    QN_FAIL_IF(v < low || v > high, e, QN_INVAL,
               "%s is %" PRId64 "; it must be between %" PRId64 " and %" PRId64, key, v, low, high);
    *out = v;
    x->param = NULL;
out:
    return rc;
}

static int read_bias(struct qn_ask *a, struct qn_exchange *x, const struct qn_json *body, struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_json *map;
    x->param = "logit_bias";
    QN_TRY(qn_json_get_obj(body, "logit_bias", &map, e));
    size_t n = map ? map->n : 0;
    QN_FAIL_IF(n > QN_API_MAX_BIAS, e, QN_TOOBIG, "logit_bias has %zu entries; at most %d are taken", n,
               QN_API_MAX_BIAS);
    /* one place more: tool_choice none adds its own */
    int32_t *tok = qn_arena_alloc(a->arena, (n + 1) * sizeof *tok);
    float *bias = qn_arena_alloc(a->arena, (n + 1) * sizeof *bias);
    QN_FAIL_IF(!tok || !bias, e, QN_TOOBIG, "logit_bias: the request is too large");
    int n_vocab = qn_tokenizer_n_vocab(x->server->text->tokenizer);
    for (size_t i = 0; i < n; i++) {
        char *end;
        long id = strtol(map->keys[i].text, &end, 10);
        double v = qn_json_num(map->items[i]);
        QN_FAIL_IF(*end || end == map->keys[i].text || id < 0 || id >= n_vocab, e, QN_INVAL,
                   "logit_bias: '%.40s' is not a token id of this model (0 to %d)", map->keys[i].text,
                   n_vocab - 1);
        QN_FAIL_IF(!qn_json_is_number(map->items[i]) || v < -100 || v > 100, e, QN_INVAL,
                   "logit_bias: the value of %ld must be a number from -100 to 100", id);
        tok[i] = (int32_t)id;
        bias[i] = (float)v;
    }
    a->bias_tok = tok;
    a->bias = bias;
    a->n_bias = (int)n;
    x->param = NULL;
out:
    return rc;
}

static int read_stop_ids(struct qn_ask *a, struct qn_exchange *x, const struct qn_json *body,
                         struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_json *list;
    x->param = "stop_token_ids";
    QN_TRY(qn_json_get_arr(body, "stop_token_ids", &list, e));
    size_t n = list ? list->n : 0;
    QN_FAIL_IF(n > 64, e, QN_TOOBIG, "stop_token_ids has %zu entries; at most 64 are taken", n);
    a->stop_tok = qn_arena_alloc(a->arena, (n + 1) * sizeof *a->stop_tok);
    QN_FAIL_IF(!a->stop_tok, e, QN_TOOBIG, "stop_token_ids: the request is too large");
    for (size_t i = 0; i < n; i++) {
        int64_t id;
        QN_FAIL_IF(!qn_json_int(list->items[i], &id) || id < 0 ||
                       id >= qn_tokenizer_n_vocab(x->server->text->tokenizer),
                   e, QN_INVAL, "stop_token_ids[%zu] is not a token id of this model", i);
        a->stop_tok[a->n_stop_tok++] = (int32_t)id;
    }
    x->param = NULL;
out:
    return rc;
}

int qn_ask_read_stops(struct qn_ask *a, struct qn_exchange *x, const struct qn_json *body, const char *key,
                      struct qn_err *e)
{
    int rc = QN_OK;
    const struct qn_json *v = qn_json_get(body, key);
    if (qn_json_is_null(v)) return QN_OK;
    x->param = key;
    struct qn_json *const *items = v->items;
    size_t n = v->n;
    const struct qn_json *one[1] = {v};
    if (qn_json_is(v, QN_JSON_STRING)) {
        items = (struct qn_json *const *)one;
        n = 1;
    } else
        QN_FAIL_IF(!qn_json_is(v, QN_JSON_ARRAY), e, QN_INVAL, "%s must be a string or an array of strings",
                   key);
    QN_FAIL_IF(n > QN_PARSE_MAX_STOP, e, QN_TOOBIG, "%s has %zu strings; at most %d are taken", key, n,
               QN_PARSE_MAX_STOP);
    a->stops = qn_arena_alloc(a->arena, (n + 1) * sizeof *a->stops);
    QN_FAIL_IF(!a->stops, e, QN_TOOBIG, "%s: the request is too large", key);
    for (size_t i = 0; i < n; i++) {
        QN_FAIL_IF(!qn_json_is(items[i], QN_JSON_STRING), e, QN_INVAL, "%s[%zu] is not a string", key, i);
        QN_FAIL_IF(items[i]->n > 4096, e, QN_TOOBIG, "%s[%zu] has %zu bytes; at most 4096 are taken", key, i,
                   items[i]->n);
        if (items[i]->n) a->stops[a->n_stop++] = items[i]->text;
    }
    x->param = NULL;
out:
    return rc;
}

/* allowed_token_ids: only these may come. */
static int read_allowed_ids(struct qn_ask *a, struct qn_exchange *x, const struct qn_json *body,
                            struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_json *list;
    int n_vocab = qn_tokenizer_n_vocab(x->server->text->tokenizer);
    x->param = "allowed_token_ids";
    QN_TRY(qn_json_get_arr(body, "allowed_token_ids", &list, e));
    if (!list) goto done;
    QN_FAIL_IF(!list->n, e, QN_INVAL, "allowed_token_ids is empty; leave it out to allow every token");
    a->n_allowed_word = (int)QN_CEIL_DIV(n_vocab, 32);
    uint32_t *bits = qn_arena_alloc(a->arena, (size_t)a->n_allowed_word * sizeof *bits);
    QN_FAIL_IF(!bits, e, QN_TOOBIG, "allowed_token_ids: the request is too large");
    memset(bits, 0, (size_t)a->n_allowed_word * sizeof *bits);
    for (size_t i = 0; i < list->n; i++) {
        int64_t id;
        QN_FAIL_IF(!qn_json_int(list->items[i], &id) || id < 0 || id >= n_vocab, e, QN_INVAL,
                   "allowed_token_ids[%zu] is not a token id of this model (0 to %d)", i, n_vocab - 1);
        bits[id / 32] |= 1u << id % 32;
    }
    a->allowed_bits = bits;
done:
    x->param = NULL;
out:
    return rc;
}

/* A word's tokens appended to the ban. at_start: without, else with a blank before it. */
static int add_ban(struct qn_ask *a, struct qn_ids *all, const struct qn_tokenizer *t, const char *word,
                   size_t n, bool at_start, struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_ids ids = QN_IDS_INIT(QN_BAN_MAX_TOKENS);
    struct qn_buf text = QN_BUF_INIT(1 << 20);
    if (!at_start) qn_buf_putc(&text, ' ');
    qn_buf_append(&text, word, n);
    /* plain text: a word that spells a control token bans its spelling */
    uint8_t *plain = xcalloc(text.n_byte + 1, 1);
    rc = qn_tokenizer_encode(t, qn_buf_str(&text), text.n_byte, plain, &ids, e);
    free(plain);
    if (rc) goto out;
    /* the form with a blank counts where the blank makes another first token, not one more token */
    if (!at_start) {
        int before = a->ban_len[a->n_ban - 1];
        if ((int)ids.n != before || all->data[all->n - (size_t)before] == ids.data[0]) goto out;
    }
    QN_FAIL_IF(!ids.n || all->n + ids.n > QN_BAN_MAX_TOKENS, e, QN_TOOBIG,
               "bad_words: at most %d tokens are taken in all", QN_BAN_MAX_TOKENS);
    QN_TRY(qn_ids_append(all, ids.data, ids.n));
    a->ban_len[a->n_ban++] = (int)ids.n;
out:
    qn_ids_free(&ids);
    qn_buf_free(&text);
    return rc;
}

/* bad_words: texts that may not be generated, at the start of a word or behind a blank. */
static int read_bad_words(struct qn_ask *a, struct qn_exchange *x, const struct qn_json *body,
                          struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_ids all = QN_IDS_INIT(QN_BAN_MAX_TOKENS);
    const struct qn_tokenizer *t = x->server->text->tokenizer;
    struct qn_json *list;
    x->param = "bad_words";
    QN_TRY(qn_json_get_arr(body, "bad_words", &list, e));
    size_t n = list ? list->n : 0;
    QN_FAIL_IF(n > 1024, e, QN_TOOBIG, "bad_words has %zu entries; at most 1024 are taken", n);
    a->ban_len = qn_arena_alloc(a->arena, (2 * n + 1) * sizeof *a->ban_len);
    QN_FAIL_IF(!a->ban_len, e, QN_TOOBIG, "bad_words: the request is too large");
    for (size_t i = 0; i < n; i++) {
        const struct qn_json *word = list->items[i];
        QN_FAIL_IF(!qn_json_is(word, QN_JSON_STRING), e, QN_INVAL, "bad_words[%zu] is not a string", i);
        size_t skip = 0;
        while (skip < word->n && word->text[skip] == ' ') skip++;
        QN_FAIL_IF(skip == word->n, e, QN_INVAL, "bad_words[%zu] is empty", i);
        QN_TRY(add_ban(a, &all, t, word->text + skip, word->n - skip, true, e));
        QN_TRY(add_ban(a, &all, t, word->text + skip, word->n - skip, false, e));
    }
    a->ban_tok = qn_arena_alloc(a->arena, (all.n + 1) * sizeof *a->ban_tok);
    QN_FAIL_IF(!a->ban_tok, e, QN_TOOBIG, "bad_words: the request is too large");
    if (all.n) memcpy(a->ban_tok, all.data, all.n * sizeof *a->ban_tok);
    x->param = NULL;
out:
    qn_ids_free(&all);
    return rc;
}

/* Members whose neglect would change the answer, and which this server cannot do. */
static int refuse_unsupported(struct qn_exchange *x, const struct qn_json *body, struct qn_err *e)
{
    int rc = QN_OK;
    const struct qn_json *modes = qn_json_get(body, "modalities");
    for (size_t i = 0; qn_json_is(modes, QN_JSON_ARRAY) && i < modes->n; i++)
        QN_FAIL_IF(qn_json_is_str(modes->items[i], "audio"), e, QN_INVAL,
                   "modalities: this model does not produce audio");
    x->param = "use_beam_search";
    QN_FAIL_IF(qn_json_is(qn_json_get(body, "use_beam_search"), QN_JSON_BOOL) &&
                   qn_json_get(body, "use_beam_search")->truth,
               e, QN_UNSUPPORTED, "use_beam_search is not supported");
    x->param = NULL;
out:
    return rc;
}

/* Seconds the client waits: `timeout` of the body, or a header for the dialects that have none. */
static int read_timeout(struct qn_ask *a, struct qn_exchange *x, const struct qn_json *body, struct qn_err *e)
{
    int rc = QN_OK;
    double wanted = 0;
    const char *header = qn_http_header(x, "x-request-timeout");
    x->param = "timeout";
    if (!qn_json_is_null(qn_json_get(body, "timeout"))) {
        QN_TRY(qn_json_get_num(body, "timeout", 0, &wanted, e));
        QN_FAIL_IF(!(wanted > 0 && wanted <= 1e6), e, QN_INVAL,
                   "timeout is %g; it must be over 0 and at most 1000000 seconds", wanted);
    } else if (header) {
        char *end;
        wanted = strtod(header, &end);
        QN_FAIL_IF(end == header || *end || !(wanted > 0 && wanted <= 1e6), e, QN_INVAL,
                   "the header x-request-timeout is '%.40s'; it must be over 0 and at most 1000000 seconds",
                   header);
    }
    if (wanted > 0 && (a->timeout_s <= 0 || wanted < a->timeout_s)) a->timeout_s = wanted;
    x->param = NULL;
out:
    return rc;
}

int qn_ask_read_sampling(struct qn_ask *a, struct qn_exchange *x, const struct qn_json *body,
                         struct qn_err *e)
{
    int rc = QN_OK;
    int64_t n = 1, top_k = -1, priority = 0, seed;
    const char *salt;
    const struct range ranges[] = {
        {"temperature", 0, 2, &a->sample.temperature},
        {"top_p", 0, 1, &a->sample.top_p},
        {"min_p", 0, 1, &a->sample.min_p},
        {"presence_penalty", -2, 2, &a->sample.presence},
        {"frequency_penalty", -2, 2, &a->sample.frequency},
        {"repetition_penalty", 1e-3, 100, &a->sample.repetition},
    };
    QN_TRY(refuse_unsupported(x, body, e));
    for (size_t i = 0; i < QN_COUNT(ranges); i++) QN_TRY(read_float(x, body, &ranges[i], e));
    if (a->sample.top_p <= 0) { /* the smallest set there is: the best token */
        a->sample.top_p = 1;
        a->sample.top_k = 1;
    }
    if (!qn_json_is_null(qn_json_get(body, "top_k"))) {
        QN_TRY(qn_ask_read_int(x, body, "top_k", -1, INT32_MAX, &top_k, e));
        a->sample.top_k = (int)QN_MAX(top_k, 0);
    }
    /* the newer name wins */
    QN_TRY(qn_ask_read_int(x, body, "max_tokens", 1, INT64_MAX, &a->max_new, e));
    QN_TRY(qn_ask_read_int(x, body, "max_completion_tokens", 1, INT64_MAX, &a->max_new, e));
    QN_TRY(qn_ask_read_int(x, body, "min_tokens", 0, INT32_MAX, &a->min_new, e));
    QN_TRY(qn_ask_read_int(x, body, "n", 1, QN_API_MAX_N, &n, e));
    a->n = (int)n;
    if (!qn_json_is_null(qn_json_get(body, "seed"))) {
        QN_TRY(qn_ask_read_int(x, body, "seed", INT64_MIN, INT64_MAX, &seed, e));
        if (seed != -1) {
            a->sample.seed = (uint64_t)seed;
            a->has_seed = true;
        }
    }
    QN_TRY(qn_ask_read_int(x, body, "priority", INT64_MIN, INT64_MAX, &priority, e));
    a->priority = priority > 0 ? QN_PRIORITY_LOW : QN_PRIORITY_NORMAL;
    x->param = "ignore_eos";
    QN_TRY(qn_json_get_bool(body, "ignore_eos", false, &a->ignore_eos, e));
    x->param = "include_stop_str_in_output";
    QN_TRY(qn_json_get_bool(body, "include_stop_str_in_output", false, &a->include_stop, e));
    bool skips_special = true;
    x->param = "skip_special_tokens";
    QN_TRY(qn_json_get_bool(body, "skip_special_tokens", true, &skips_special, e));
    a->keep_special = !skips_special;
    x->param = "return_token_ids";
    QN_TRY(qn_json_get_bool(body, "return_token_ids", false, &a->return_token_ids, e));
    x->param = "return_tokens_as_token_ids";
    QN_TRY(qn_json_get_bool(body, "return_tokens_as_token_ids", false, &a->tokens_as_ids, e));
    x->param = "return_progress";
    QN_TRY(qn_json_get_bool(body, "return_progress", false, &a->wants_progress, e));
    x->param = "timings_per_token";
    QN_TRY(qn_json_get_bool(body, "timings_per_token", false, &a->wants_timings, e));
    x->param = "cache_salt";
    QN_TRY(qn_json_get_str(body, "cache_salt", NULL, &salt, e));
    if (salt && *salt) a->salt = qn_mix64(a->salt ^ qn_hash_str(salt)) | 1;
    QN_TRY(read_timeout(a, x, body, e));
    int64_t prompt_top = -1;
    QN_TRY(qn_ask_read_int(x, body, "prompt_logprobs", 0, QN_MAX_TOP, &prompt_top, e));
    a->prompt_top = (int)prompt_top;
    QN_TRY(qn_ask_read_int(x, body, "truncate_prompt_tokens", -1, INT32_MAX, &a->truncate, e));
    QN_TRY(read_allowed_ids(a, x, body, e));
    QN_TRY(read_bad_words(a, x, body, e));
    QN_TRY(read_bias(a, x, body, e));
    QN_TRY(read_stop_ids(a, x, body, e));
    QN_TRY(qn_ask_read_stops(a, x, body, "stop", e));
    x->param = "stream";
    QN_TRY(qn_json_get_bool(body, "stream", false, &a->is_stream, e));
    x->param = "stream_options";
    struct qn_json *options;
    QN_TRY(qn_json_get_obj(body, "stream_options", &options, e));
    QN_TRY(qn_json_get_bool(options, "include_usage", x->server->o.stream_usage, &a->wants_usage, e));
    QN_TRY(qn_json_get_bool(options, "continuous_usage_stats", false, &a->continuous_usage, e));
    x->param = NULL;
out:
    return rc;
}

int qn_ask_read_tool_choice(struct qn_ask *a, struct qn_exchange *x, const struct qn_json *v,
                            struct qn_err *e)
{
    int rc = QN_OK;
    if (qn_json_is_null(v)) return QN_OK;
    x->param = "tool_choice";
    if (qn_json_is(v, QN_JSON_STRING)) {
        if (!strcmp(v->text, "auto"))
            a->tool_mode = QN_TOOL_AUTO;
        else if (!strcmp(v->text, "none"))
            a->tool_mode = QN_TOOL_NONE;
        else if (!strcmp(v->text, "required") || !strcmp(v->text, "any"))
            a->tool_mode = QN_TOOL_REQUIRED;
        else
            QN_FAIL(e, QN_INVAL, "tool_choice '%.40s' is not one of auto, none, required", v->text);
        x->param = NULL;
        return QN_OK;
    }
    QN_FAIL_IF(!qn_json_is(v, QN_JSON_OBJECT), e, QN_INVAL, "tool_choice must be a string or an object");
    const struct qn_json *type = qn_json_get(v, "type");
    if (qn_json_is_str(type, "auto"))
        a->tool_mode = QN_TOOL_AUTO;
    else if (qn_json_is_str(type, "none"))
        a->tool_mode = QN_TOOL_NONE;
    else if (qn_json_is_str(type, "any") || qn_json_is_str(type, "required"))
        a->tool_mode = QN_TOOL_REQUIRED;
    else if (qn_json_is_str(type, "allowed_tools")) {
        const struct qn_json *in = qn_json_get(v, "allowed_tools");
        if (!qn_json_is(in, QN_JSON_OBJECT)) in = v; /* Responses has it flat */
        a->tool_mode = qn_json_is_str(qn_json_get(in, "mode"), "required") ? QN_TOOL_REQUIRED : QN_TOOL_AUTO;
        a->allowed_tools = qn_json_get(in, "tools");
        QN_FAIL_IF(!qn_json_is(a->allowed_tools, QN_JSON_ARRAY), e, QN_INVAL,
                   "tool_choice: allowed_tools needs an array of tools");
    } else { /* {"type":"function","function":{"name"}}, {"type":"function","name"}, {"type":"tool","name"} */
        const struct qn_json *name = qn_json_get(qn_json_get(v, "function"), "name");
        if (!name) name = qn_json_get(v, "name");
        QN_FAIL_IF(!qn_json_is(name, QN_JSON_STRING) || !name->n, e, QN_INVAL,
                   "tool_choice: an object must name a function");
        a->tool_mode = QN_TOOL_NAMED;
        a->tool_name = name->text;
    }
    x->param = NULL;
out:
    return rc;
}

int qn_ask_read_form(struct qn_ask *a, struct qn_exchange *x, const struct qn_json *body, struct qn_err *e)
{
    int rc = QN_OK, n = 0;
    static const struct {
        const char *key, *form;
    } flat[] = {{"guided_json", "json_schema"}, {"guided_regex", "regex"},      {"guided_choice", "choice"},
                {"guided_grammar", "grammar"},  {"json_schema", "json_schema"}, {"grammar", "grammar"}};
    struct qn_json *format, *structured;
    x->param = "response_format";
    QN_TRY(qn_json_get_obj(body, "response_format", &format, e));
    const struct qn_json *type = qn_json_get(format, "type");
    if (format && !qn_json_is_str(type, "text")) {
        n++;
        if (qn_json_is_str(type, "json_object"))
            a->form = "json_object";
        else if (qn_json_is_str(type, "json_schema")) {
            const struct qn_json *in = qn_json_get(format, "json_schema");
            if (!qn_json_is(in, QN_JSON_OBJECT)) in = format; /* the flat form */
            a->form = "json_schema";
            a->form_value = qn_json_get(in, "schema");
            QN_FAIL_IF(!a->form_value, e, QN_INVAL, "response_format: json_schema needs a schema");
            QN_TRY(qn_json_get_bool(in, "strict", false, &a->form_strict, e));
        } else if (qn_json_is_str(type, "grammar")) {
            a->form = "grammar";
            a->form_value = qn_json_get(format, "grammar");
        } else if (qn_json_is_str(type, "structural_tag")) {
            a->form = "structural_tag";
            a->form_value = format;
        } else
            QN_FAIL(
                e, QN_INVAL,
                "response_format: type must be text, json_object, json_schema, structural_tag or grammar");
    }
    x->param = "structured_outputs";
    QN_TRY(qn_json_get_obj(body, "structured_outputs", &structured, e));
    static const char *const forms[] = {"json", "regex", "choice", "grammar", "structural_tag"};
    for (size_t i = 0; i < QN_COUNT(forms); i++) {
        const struct qn_json *v = qn_json_get(structured, forms[i]);
        if (qn_json_is_null(v)) continue;
        n++;
        a->form = i ? forms[i] : "json_schema";
        a->form_value = v;
    }
    bool json_object = false;
    QN_TRY(qn_json_get_bool(structured, "json_object", false, &json_object, e));
    if (json_object) {
        n++;
        a->form = "json_object";
    }
    for (size_t i = 0; i < QN_COUNT(flat); i++) {
        const struct qn_json *v = qn_json_get(body, flat[i].key);
        if (qn_json_is_null(v) || qn_json_is_str(v, "")) continue; /* llama.cpp's clients send all members */
        n++;
        a->form = flat[i].form;
        a->form_value = v;
    }
    x->param = "response_format";
    QN_FAIL_IF(
        n > 1, e, QN_INVAL,
        "more than one of response_format, structured_outputs, guided_*, grammar, json_schema is given");
    /* a schema, or tags, may come as JSON text */
    if (a->form && (!strcmp(a->form, "json_schema") || !strcmp(a->form, "structural_tag")) &&
        qn_json_is(a->form_value, QN_JSON_STRING)) {
        struct qn_json *parsed;
        QN_TRY(qn_json_parse(&parsed, a->arena, a->form_value->text, a->form_value->n, a->form, e));
        a->form_value = parsed;
    }
    x->param = NULL;
out:
    return rc;
}

/* ------------------------------------------------------------------ to the engine */

void qn_ask_free(struct qn_ask *a)
{
    qn_grammar_release(a->constraint);
    a->constraint = NULL;
}

/* What of tool_choice can be wrong before anything is rendered. */
static int check_choice(const struct qn_ask *a, struct qn_exchange *x, const struct qn_toolset *tools,
                        struct qn_err *e)
{
    int rc = QN_OK;
    bool has_tools = tools && tools->n_tool;
    x->param = "tool_choice";
    if (a->tool_mode == QN_TOOL_REQUIRED || a->tool_mode == QN_TOOL_NAMED)
        QN_FAIL_IF(!has_tools, e, QN_INVAL, "tool_choice asks for a call, but the request has no tools");
    if (a->tool_mode == QN_TOOL_NAMED)
        QN_FAIL_IF(qn_toolset_find(tools, a->tool_name, strlen(a->tool_name)) < 0, e, QN_INVAL,
                   "tool_choice names the function '%.100s', which is not among the tools", a->tool_name);
    x->param = NULL;
out:
    return rc;
}

/* Names of an allowed_tools list. */
static int read_allowed(struct qn_constrain *c, const struct qn_ask *a, const struct qn_toolset *tools,
                        struct qn_err *e)
{
    int rc = QN_OK;
    const struct qn_json *list = a->allowed_tools;
    const char **names = qn_arena_alloc(a->arena, (list->n + 1) * sizeof *names);
    QN_FAIL_IF(!names, e, QN_TOOBIG, "tool_choice: the request is too large");
    for (size_t i = 0; i < list->n; i++) {
        const struct qn_json *name = qn_json_get(qn_json_get(list->items[i], "function"), "name");
        if (!name) name = qn_json_get(list->items[i], "name");
        QN_FAIL_IF(!qn_json_is(name, QN_JSON_STRING), e, QN_INVAL,
                   "tool_choice: allowed_tools[%zu] has no name", i);
        QN_FAIL_IF(qn_toolset_find(tools, name->text, name->n) < 0, e, QN_INVAL,
                   "tool_choice: the allowed tool '%.100s' is not among the tools", name->text);
        names[c->n_allowed++] = name->text;
    }
    c->allowed = names;
out:
    return rc;
}

static int read_form_value(struct qn_constrain *c, const struct qn_ask *a, struct qn_err *e)
{
    int rc = QN_OK;
    static const struct {
        const char *name;
        enum qn_content_form form;
        int type; /* of the value; -1: any */
    } forms[] = {
        {"json_object", QN_CONTENT_JSON_OBJECT, -1},     {"json_schema", QN_CONTENT_JSON_SCHEMA, -1},
        {"regex", QN_CONTENT_REGEX, QN_JSON_STRING},     {"choice", QN_CONTENT_CHOICE, QN_JSON_ARRAY},
        {"grammar", QN_CONTENT_GRAMMAR, QN_JSON_STRING}, {"structural_tag", QN_CONTENT_TAGS, QN_JSON_OBJECT}};
    for (size_t i = 0; a->form && i < QN_COUNT(forms); i++) {
        if (strcmp(a->form, forms[i].name) != 0) continue;
        c->form = forms[i].form;
        c->is_strict = a->form_strict;
        QN_FAIL_IF(forms[i].type >= 0 && !qn_json_is(a->form_value, (enum qn_json_type)forms[i].type), e,
                   QN_INVAL, "%s must be %s", a->form,
                   forms[i].type == QN_JSON_ARRAY    ? "an array of strings"
                   : forms[i].type == QN_JSON_STRING ? "a string"
                                                     : "an object");
        if (forms[i].type == QN_JSON_STRING)
            c->text = a->form_value->text;
        else
            c->schema = a->form_value;
    }
out:
    return rc;
}

int qn_ask_constrain(struct qn_ask *a, struct qn_exchange *x, const struct qn_toolset *tools,
                     bool is_thinking, struct qn_err *e)
{
    int rc = QN_OK;
    bool has_tools = tools && tools->n_tool;
    bool can_constrain = qn_engine_info(qn_server_engine(x->server))->can_constrain;
    bool is_forced = a->form || a->tool_mode == QN_TOOL_REQUIRED || a->tool_mode == QN_TOOL_NAMED;
    struct qn_buf report = QN_BUF_INIT(4096);
    struct qn_constrain c = {
        .starts_in_reasoning = is_thinking,
        .tools = tools,
        .choice = (enum qn_choice)a->tool_mode,
        .name = a->tool_name,
        .single_call = a->no_parallel || a->tool_mode == QN_TOOL_NAMED,
        .markers = qn_text_markers(x->server->text),
    };
    if (!is_forced && !(has_tools && can_constrain)) {
        /* calls forbidden: the opener is masked, in reasoning as well */
        int32_t opener = x->server->text->call_open_id;
        if (a->tool_mode == QN_TOOL_NONE && has_tools && opener >= 0 && a->bias_tok) {
            ((int32_t *)(uintptr_t)a->bias_tok)[a->n_bias] = opener;
            ((float *)(uintptr_t)a->bias)[a->n_bias++] = -100;
        }
        return QN_OK;
    }
    x->param = "tool_choice";
    if (a->allowed_tools) QN_TRY(read_allowed(&c, a, tools, e));
    x->param = a->form ? "response_format" : "tools";
    QN_TRY(read_form_value(&c, a, e));
    QN_TRY(qn_constrain_compile(&a->constraint, &c, &report, e));
    if (report.n_byte) qn_log(QN_LOG_DEBUG, "api", "schema: %.400s id=%s", report.data, x->id);
    QN_FAIL_IF(
        a->constraint && !can_constrain, e, QN_UNSUPPORTED,
        "this build cannot constrain the output; use tool_choice auto or none, and no response_format");
    x->param = NULL;
out:
    qn_buf_free(&report);
    return rc;
}

/* Server-wide template variables, where the request does not say otherwise. */
static int merge_kwargs(struct qn_ask *a, struct qn_exchange *x, struct qn_err *e)
{
    int rc = QN_OK;
    const struct qn_json *more = x->server->o.template_kwargs;
    if (!more || !more->n) return QN_OK;
    struct qn_json *all = qn_json_new(a->arena, QN_JSON_OBJECT);
    QN_FAIL_IF(!all, e, QN_TOOBIG, "the request is too large");
    for (size_t i = 0; a->chat.kwargs && i < a->chat.kwargs->n; i++)
        qn_json_set(a->arena, all, a->chat.kwargs->keys[i].text, a->chat.kwargs->items[i]);
    for (size_t i = 0; i < more->n; i++) {
        const char *key = more->keys[i].text;
        bool is_said =
            (!strcmp(key, "enable_thinking") && (a->chat.enable_thinking >= 0 || a->chat.effort)) ||
            (!strcmp(key, "preserve_thinking") && a->chat.preserve_thinking >= 0);
        if (!is_said && !qn_json_get(all, key)) qn_json_set(a->arena, all, key, more->items[i]);
    }
    a->chat.kwargs = all;
out:
    return rc;
}

int qn_api_render(struct qn_prompt *out, struct qn_exchange *x, struct qn_ask *a, struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_calls_view view = {x->server->calls, a->arena};
    struct qn_chat_opt o = {
        .lookup = qn_calls_lookup,
        .user = &view,
        .allow_request_template = x->server->o.allow_request_template,
    };
    QN_TRY(merge_kwargs(a, x, e));
    QN_TRY(qn_chat_render(out, x->server->text, &a->chat, &o, e));
    if (out->is_thinking && out->thinking_budget == 0) { /* no budget at all: the closed block */
        qn_prompt_free(out);
        struct qn_chat closed = a->chat;
        closed.enable_thinking = 0;
        closed.effort = NULL;
        if (closed.kwargs && qn_json_get(closed.kwargs, "enable_thinking")) {
            struct qn_json *all = qn_json_new(a->arena, QN_JSON_OBJECT);
            for (size_t i = 0; i < closed.kwargs->n; i++)
                qn_json_set(a->arena, all, closed.kwargs->keys[i].text, closed.kwargs->items[i]);
            qn_json_set(a->arena, all, "enable_thinking", qn_json_new_bool(a->arena, false));
            closed.kwargs = all;
        }
        QN_TRY(qn_chat_render(out, x->server->text, &closed, &o, e));
    }
    if (a->chat.n_tools_skipped)
        qn_log(QN_LOG_DEBUG, "api", "%d tools that are no functions are skipped id=%s",
               a->chat.n_tools_skipped, x->id);
out:
    return rc;
}

void qn_api_fail_render(struct qn_exchange *x, const struct qn_err *e)
{
    /* a model without a template cannot chat: the client's choice of endpoint, not a missing feature */
    qn_http_fail_with(x, e->code == QN_UNSUPPORTED ? 400 : qn_http_status(e->code), x->code, "%s", e->text);
}

void qn_api_reply_count(struct qn_exchange *x, struct qn_ask *a, const char *head)
{
    struct qn_err e = {0};
    struct qn_prompt prompt = {0};
    if (qn_api_render(&prompt, x, a, &e)) {
        qn_api_fail_render(x, &e);
        return;
    }
    struct qn_buf out = QN_BUF_INIT(256);
    qn_buf_printf(&out, "{%s\"input_tokens\":%d}", head, prompt.n_tok);
    qn_prompt_free(&prompt);
    qn_http_reply_json(x, 200, &out);
}

int qn_api_truncated(const struct qn_exchange *x, const struct qn_ask *a, int n_prompt)
{
    int max_context = qn_server_max_context(x->server);
    int64_t keep = a->truncate > 0   ? a->truncate
                   : a->truncate < 0 ? max_context - QN_CLAMP(a->max_new, 1, max_context / 2)
                                     : n_prompt;
    return n_prompt > keep ? n_prompt - (int)QN_MAX(keep, 1) : 0;
}

bool qn_api_refuse_length(struct qn_exchange *x, const struct qn_ask *a, int n_prompt)
{
    int max_context = qn_server_max_context(x->server);
    if (n_prompt < max_context) return false;
    if (x->is_anthropic) {
        qn_http_fail_with(x, 400, NULL, "prompt is too long: %d tokens > %d maximum", n_prompt, max_context);
        return true;
    }
    int64_t completion = QN_MAX(a->max_new, 1);
    x->param = "messages";
    qn_http_fail_with(x, 400, "context_length_exceeded",
                      "This model's maximum context length is %d tokens. However, you requested %" PRId64
                      " tokens (%d in the messages, %" PRId64
                      " in the completion). Please reduce the length of the messages or completion.",
                      max_context, n_prompt + QN_MIN(completion, INT64_MAX - n_prompt), n_prompt, completion);
    return true;
}

void qn_api_chat(struct qn_exchange *x, struct qn_ask *a, const struct qn_dialect *dialect, void *state)
{
    struct qn_err e = {0};
    struct qn_prompt prompt = {0};
    struct qn_toolset *tools = NULL;
    if (qn_toolset_create(&tools, a->tools, &e)) {
        x->param = "tools";
        qn_http_fail(x, &e);
        return;
    }
    if (tools->n_tool && qn_ask_presence_is_models(x->server) &&
        a->sample.presence == (float)x->server->text->defaults.presence_penalty &&
        qn_json_is_null(qn_json_get(x->json, "presence_penalty")))
        a->sample.presence = 0;
    if (check_choice(a, x, tools, &e)) {
        qn_http_fail(x, &e);
        goto out;
    }
    if (qn_api_render(&prompt, x, a, &e)) {
        qn_api_fail_render(x, &e);
        goto out;
    }
    int n_cut = qn_api_truncated(x, a, prompt.n_tok);
    if (qn_api_refuse_length(x, a, prompt.n_tok - n_cut)) goto out;
    if (qn_ask_constrain(a, x, tools, prompt.is_thinking, &e)) {
        qn_http_fail(x, &e);
        goto out;
    }
    struct qn_stream *s = qn_stream_create(x, a, dialect, 1);
    s->rendered = prompt;
    s->state = state;
    s->tools = tools;
    s->prompts[0] = (struct qn_stream_prompt){prompt.ids + n_cut, prompt.n_tok - n_cut, prompt.is_thinking,
                                              prompt.thinking_budget};
    qn_stream_answer(s);
    return;
out:
    qn_prompt_free(&prompt);
    qn_toolset_free(tools);
    qn_ask_free(a);
}
