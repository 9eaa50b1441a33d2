/* Reading what the dialects have in common.
 * SPDX-License-Identifier: Apache-2.0 */
#include "server/ask.h"

#include <math.h>
#include <sys/random.h>

#include "base/clock.h"
#include "base/hash.h"
#include "engine/ban.h"
#include "server/defaults.h"
#include "text/grammar.h"
#include "text/tokenizer.h"

void qn_ask_init(struct qn_ask *a, struct qn_exchange *x)
{
    const struct qn_server *s = x->server;
    memset(a, 0, sizeof *a);
    a->arena = x->arena;
    a->model = s->o.n_name ? s->o.names[0] : "";
    qn_chat_init(&a->chat, x->arena);
    a->n = 1;
    a->prompt_top = -1;
    a->mtp = -1;
    struct qn_sampling_defaults v;
    qn_sampling_merge(&v, &s->o.sampling, &s->text->defaults);
    a->sample = (struct qn_sample){
        .temperature = (float)v.temperature,
        .top_p = (float)v.top_p,
        .min_p = (float)v.min_p,
        .top_k = (int)v.top_k,
        .presence = (float)v.presence,
        .frequency = (float)v.frequency,
        .repetition = (float)v.repetition,
        .n_top = -1,
    };
    a->max_new = v.max_tokens;
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

static int read_model(struct qn_ask *a, struct qn_exchange *x, const struct qn_json *body, struct qn_err *e)
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

int qn_ask_read_head(struct qn_ask *a, struct qn_exchange *x, const struct qn_json **body, struct qn_err *e)
{
    int rc = QN_OK;
    const struct qn_json *lifted = qn_chat_lift_extra_body(a->arena, *body);
    QN_FAIL_IF(!lifted, e, QN_TOOBIG, "the request is too large");
    *body = lifted;
    a->mm_kwargs = qn_json_get(lifted, "mm_processor_kwargs");
    a->io_kwargs = qn_json_get(lifted, "media_io_kwargs");
    rc = read_model(a, x, lifted, e);
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

struct word {
    const char *text; /* [n] */
    size_t n;
};

/* A word's tokens appended to the ban. at_start: without, else with a blank before it. */
static int add_ban(struct qn_ask *a, struct qn_ids *all, const struct qn_tokenizer *t, const struct word *w,
                   bool at_start, struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_ids ids = QN_IDS_INIT(QN_BAN_MAX_TOKENS);
    struct qn_buf text = QN_BUF_INIT(1 << 20);
    if (!at_start) qn_buf_putc(&text, ' ');
    qn_buf_append(&text, w->text, w->n);
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
        const struct word w = {word->text + skip, word->n - skip};
        QN_TRY(add_ban(a, &all, t, &w, true, e));
        QN_TRY(add_ban(a, &all, t, &w, false, e));
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

static int read_choice_values(struct qn_ask *a, struct qn_exchange *x, const struct qn_json *body,
                              struct qn_err *e)
{
    int rc = QN_OK;
    int64_t top_k = -1, seed;
    const struct range ranges[] = {
        {"temperature", 0, 2, &a->sample.temperature},
        {"top_p", 0, 1, &a->sample.top_p},
        {"min_p", 0, 1, &a->sample.min_p},
        {"presence_penalty", -2, 2, &a->sample.presence},
        {"frequency_penalty", -2, 2, &a->sample.frequency},
        {"repetition_penalty", 1e-3, 100, &a->sample.repetition},
    };
    for (size_t i = 0; i < QN_COUNT(ranges); i++) QN_TRY(read_float(x, body, &ranges[i], e));
    if (a->sample.top_p <= 0) { /* the smallest set there is: the best token */
        a->sample.top_p = 1;
        a->sample.top_k = 1;
    }
    if (!qn_json_is_null(qn_json_get(body, "top_k"))) {
        QN_TRY(qn_ask_read_int(x, body, "top_k", -1, INT32_MAX, &top_k, e));
        a->sample.top_k = (int)QN_MAX(top_k, 0);
    }
    if (!qn_json_is_null(qn_json_get(body, "seed"))) {
        QN_TRY(qn_ask_read_int(x, body, "seed", INT64_MIN, INT64_MAX, &seed, e));
        if (seed != -1) {
            a->sample.seed = (uint64_t)seed;
            a->has_seed = true;
        }
    }
out:
    return rc;
}

static int read_lengths(struct qn_ask *a, struct qn_exchange *x, const struct qn_json *body, struct qn_err *e)
{
    int rc = QN_OK;
    int64_t n = 1, priority = 0;
    /* the newer name wins */
    QN_TRY(qn_ask_read_int(x, body, "max_tokens", 1, INT64_MAX, &a->max_new, e));
    QN_TRY(qn_ask_read_int(x, body, "max_completion_tokens", 1, INT64_MAX, &a->max_new, e));
    QN_TRY(qn_ask_read_int(x, body, "min_tokens", 0, INT32_MAX, &a->min_new, e));
    QN_TRY(qn_ask_read_int(x, body, "n", 1, QN_API_MAX_N, &n, e));
    a->n = (int)n;
    QN_TRY(qn_ask_read_int(x, body, "priority", INT64_MIN, INT64_MAX, &priority, e));
    a->priority = priority > 0 ? QN_PRIORITY_LOW : QN_PRIORITY_NORMAL;
    QN_TRY(qn_ask_read_int(x, body, "truncate_prompt_tokens", -1, INT32_MAX, &a->truncate, e));
    QN_TRY(read_timeout(a, x, body, e));
out:
    return rc;
}

static int read_answer(struct qn_ask *a, struct qn_exchange *x, const struct qn_json *body, struct qn_err *e)
{
    int rc = QN_OK;
    bool skips_special = true;
    const struct {
        const char *key;
        bool is_on, *out;
    } flags[] = {
        {"ignore_eos", false, &a->ignore_eos},
        {"include_stop_str_in_output", false, &a->include_stop},
        {"skip_special_tokens", true, &skips_special},
        {"return_token_ids", false, &a->return_token_ids},
        {"return_tokens_as_token_ids", false, &a->tokens_as_ids},
        {"return_progress", false, &a->wants_progress},
        {"timings_per_token", false, &a->wants_timings},
        {"stream", false, &a->is_stream},
    };
    for (size_t i = 0; i < QN_COUNT(flags); i++) {
        x->param = flags[i].key;
        QN_TRY(qn_json_get_bool(body, flags[i].key, flags[i].is_on, flags[i].out, e));
    }
    a->keep_special = !skips_special;
    x->param = "stream_options";
    struct qn_json *options;
    QN_TRY(qn_json_get_obj(body, "stream_options", &options, e));
    QN_TRY(qn_json_get_bool(options, "include_usage", x->server->o.stream_usage, &a->wants_usage, e));
    QN_TRY(qn_json_get_bool(options, "continuous_usage_stats", false, &a->continuous_usage, e));
    x->param = NULL;
out:
    return rc;
}

int qn_ask_read_sampling(struct qn_ask *a, struct qn_exchange *x, const struct qn_json *body,
                         struct qn_err *e)
{
    int rc = QN_OK;
    int64_t prompt_top = -1;
    const char *salt;
    QN_TRY(refuse_unsupported(x, body, e));
    QN_TRY(read_choice_values(a, x, body, e));
    QN_TRY(read_lengths(a, x, body, e));
    QN_TRY(read_answer(a, x, body, e));
    x->param = "cache_salt";
    QN_TRY(qn_json_get_str(body, "cache_salt", NULL, &salt, e));
    if (salt && *salt) a->salt = qn_mix64(a->salt ^ qn_hash_str(salt)) | 1;
    QN_TRY(qn_ask_read_int(x, body, "prompt_logprobs", 0, QN_MAX_TOP, &prompt_top, e));
    a->prompt_top = (int)prompt_top;
    QN_TRY(read_allowed_ids(a, x, body, e));
    QN_TRY(read_bad_words(a, x, body, e));
    QN_TRY(read_bias(a, x, body, e));
    QN_TRY(read_stop_ids(a, x, body, e));
    QN_TRY(qn_ask_read_stops(a, x, body, "stop", e));
out:
    return rc;
}

void qn_ask_free(struct qn_ask *a)
{
    qn_grammar_release(a->constraint);
    a->constraint = NULL;
    qn_look_free(&a->look);
}
