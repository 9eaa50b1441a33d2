/* Models, health, metrics, tokenize and detokenize, template and property dumps.
 * SPDX-License-Identifier: Apache-2.0 */
#include <math.h>

#include "base/clock.h"
#include "server/api.h"
#include "server/stream.h"
#include "text/jinja.h"
#include "text/tokenizer.h"

static void put_str(struct qn_buf *out, const char *s)
{
    qn_json_write_str(out, s, strlen(s), false);
}

/* ------------------------------------------------------------------ models */

static void write_model(struct qn_exchange *x, struct qn_buf *out, const char *name)
{
    const struct qn_server *s = x->server;
    const struct qn_config *c = s->o.config;
    qn_buf_puts(out, "{\"id\":");
    put_str(out, name);
    qn_buf_printf(
        out, ",\"object\":\"model\",\"created\":%" PRId64 ",\"owned_by\":\"quern\",\"root\":", s->start_s);
    put_str(out, s->o.names[0]);
    qn_buf_printf(out,
                  ",\"parent\":null,\"max_model_len\":%d,\"permission\":[],\"meta\":{\"n_ctx\":%d,"
                  "\"n_ctx_train\":%d,\"n_vocab\":%d,\"n_params\":%" PRId64 ",\"size\":%" PRId64 "}",
                  qn_server_max_context(x->server), qn_server_max_context(x->server), c ? c->max_context : 0,
                  c ? c->vocab : 0, s->o.n_param, s->o.model_bytes);
    if (qn_http_header(x, "anthropic-version")) {
        char when[40];
        time_t t = (time_t)s->start_s;
        struct tm tm;
        strftime(when, sizeof when, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&t, &tm));
        qn_buf_puts(out, ",\"type\":\"model\",\"display_name\":");
        put_str(out, name);
        qn_buf_printf(out, ",\"created_at\":\"%s\"", when);
    }
    qn_buf_putc(out, '}');
}

void qn_api_models(struct qn_exchange *x)
{
    const struct qn_server_options *o = &x->server->o;
    struct qn_buf out = QN_BUF_INIT(1 << 20);
    qn_buf_puts(&out, "{\"object\":\"list\",\"data\":[");
    for (int i = 0; i < o->n_name; i++) {
        if (i) qn_buf_putc(&out, ',');
        write_model(x, &out, o->names[i]);
    }
    qn_buf_putc(&out, ']');
    if (qn_http_header(x, "anthropic-version")) {
        qn_buf_puts(&out, ",\"has_more\":false,\"first_id\":");
        put_str(&out, o->names[0]);
        qn_buf_puts(&out, ",\"last_id\":");
        put_str(&out, o->names[o->n_name - 1]);
    }
    qn_buf_putc(&out, '}');
    qn_http_reply_json(x, 200, &out);
}

void qn_api_model(struct qn_exchange *x)
{
    const struct qn_server_options *o = &x->server->o;
    for (int i = 0; i < o->n_name; i++) {
        if (strcmp(x->tail, o->names[i])) continue;
        struct qn_buf out = QN_BUF_INIT(1 << 16);
        write_model(x, &out, o->names[i]);
        qn_http_reply_json(x, 200, &out);
        return;
    }
    x->param = "model";
    x->is_anthropic = qn_http_header(x, "anthropic-version");
    qn_http_fail_with(x, 404, "model_not_found", "the model '%.100s' does not exist; this server has '%.80s'",
                      x->tail, o->names[0]);
}

/* ------------------------------------------------------------------ state */

/* /health, /ping: is it alive? /ready: should it get another request? */
void qn_api_health(struct qn_exchange *x)
{
    struct qn_server *s = x->server;
    struct qn_engine *g = atomic_load(&s->engine);
    struct qn_buf out = QN_BUF_INIT(4096);
    struct qn_engine_stats t = {0};
    int max_queue = 0;
    if (g) {
        qn_engine_stats(g, &t);
        max_queue = qn_engine_info(g)->max_queue;
    }
    const char *state = !g                             ? "loading"
                        : atomic_load(&s->is_draining) ? "draining"
                        : !qn_engine_is_alive(g)       ? "stuck"
                        : t.n_waiting >= max_queue     ? "overloaded"
                                                       : "ok";
    bool is_good = !strcmp(state, "ok") || (!strcmp(state, "overloaded") && strcmp(x->path, "/ready") != 0);
    qn_buf_printf(&out, "{\"status\":\"%s\"", state);
    if (g)
        qn_buf_printf(&out,
                      ",\"running\":%d,\"waiting\":%d,\"queue\":%d,\"steps\":%" PRIu64
                      ",\"last_step_age_ms\":%" PRId64,
                      t.n_running, t.n_waiting, max_queue, t.n_step, t.last_step_age_us / 1000);
    qn_buf_putc(&out, '}');
    qn_http_reply_json(x, is_good ? 200 : 503, &out);
}

/* What the prefix cache has, and what it did for the last requests: newest first. */
void qn_api_cache(struct qn_exchange *x)
{
    struct qn_engine *g = qn_server_engine(x->server);
    struct qn_engine_stats t;
    struct qn_admission list[QN_N_ADMISSION];
    struct qn_buf out = QN_BUF_INIT(1 << 20);
    int n = qn_engine_admissions(g, list);
    int64_t now = qn_now_us();
    qn_engine_stats(g, &t);
    qn_buf_printf(
        &out,
        "{\"page_tokens\":%d,\"pages\":%d,\"pages_used\":%d,\"pages_cached\":%d,\"slots\":%d,"
        "\"slots_live\":%d,\"snapshots\":%d,\"snapshots_made\":%" PRIu64 ",\"snapshots_evicted\":%" PRIu64
        ",\"pages_evicted\":%" PRIu64 ",\"query_tokens\":%" PRIu64 ",\"hit_tokens\":%" PRIu64,
        QN_PAGE, t.n_page, t.n_page_used, t.n_page_cached, t.n_slot, t.n_slot_live, t.n_slot_snapshot,
        t.n_snap_made, t.n_snap_evicted, t.n_node_evicted, t.prefix_queries, t.prefix_hits);
    qn_buf_printf(&out,
                  ",\"tiers\":{\"ram_bytes\":%" PRId64 ",\"ram_budget\":%" PRId64 ",\"ram_blobs\":%d,"
                  "\"disk_bytes\":%" PRId64 ",\"disk_budget\":%" PRId64 ",\"files\":%d,\"hits\":%" PRIu64
                  ",\"hit_tokens\":%" PRIu64 ",\"waiting_for_disk\":%d}",
                  t.tier.ram_bytes, t.tier.ram_budget, t.tier.n_ram, t.tier.disk_bytes, t.tier.disk_budget,
                  t.tier.n_file, t.tier.n_hit, t.tier.n_hit_tok, t.n_fetching);
    qn_buf_puts(&out, ",\"admissions\":[");
    for (int i = 0; i < n; i++) {
        const struct qn_admission *a = &list[i];
        qn_buf_printf(&out, "%s{\"id\":", i ? "," : "");
        put_str(&out, a->id);
        qn_buf_printf(&out,
                      ",\"age_ms\":%" PRId64 ",\"queue_ms\":%.1f,\"prompt\":%d,\"known\":%d,\"cached\":%d,"
                      "\"from_tiers\":%d,\"miss\":",
                      (now - a->at_us) / 1000, (double)a->queue_us / 1e3, a->n_prompt, a->n_known,
                      a->n_cached, a->n_tier_tok);
        if (a->miss)
            put_str(&out, a->miss);
        else
            qn_buf_puts(&out, "null");
        qn_buf_putc(&out, '}');
    }
    qn_buf_puts(&out, "]}");
    qn_http_reply_json(x, 200, &out);
}

void qn_api_metrics(struct qn_exchange *x)
{
    struct qn_buf out = QN_BUF_INIT(1 << 20);
    qn_meters_refresh(x->server);
    qn_metrics_write(x->server->meters.all, &out);
    const struct qn_server_options *o = &x->server->o;
    struct qn_engine *g = atomic_load(&x->server->engine);
    const struct qn_engine_info *info = g ? qn_engine_info(g) : NULL;
    if (info) {
        qn_buf_puts(&out,
                    "# HELP vllm:cache_config_info KV cache layout.\n# TYPE vllm:cache_config_info gauge\n"
                    "vllm:cache_config_info{model_name=\"");
        qn_metric_escape(&out, o->names[0]);
        qn_buf_printf(&out,
                      "\",engine=\"0\",block_size=\"%d\",num_gpu_blocks=\"%d\",cache_dtype=\"%s\","
                      "enable_prefix_caching=\"True\"} 1\n",
                      QN_PAGE, info->n_page, info->kv ? info->kv : "");
    }
    qn_http_reply(x, 200, "text/plain; version=0.0.4; charset=utf-8", &out);
}

void qn_api_version(struct qn_exchange *x)
{
    struct qn_buf out = QN_BUF_INIT(256);
    qn_buf_printf(&out, "{\"version\":\"%s\",\"name\":\"quern\"}", QN_VERSION);
    qn_http_reply_json(x, 200, &out);
}

void qn_api_load(struct qn_exchange *x)
{
    struct qn_engine_stats t = {0};
    struct qn_buf out = QN_BUF_INIT(256);
    qn_engine_stats(qn_server_engine(x->server), &t);
    qn_buf_printf(&out, "{\"server_load\":%d,\"running\":%d,\"waiting\":%d}", t.n_running + t.n_waiting,
                  t.n_running, t.n_waiting);
    qn_http_reply_json(x, 200, &out);
}

void qn_api_slots(struct qn_exchange *x)
{
    struct qn_engine_stats t = {0};
    struct qn_buf out = QN_BUF_INIT(1 << 20);
    const struct qn_engine_info *info = qn_engine_info(qn_server_engine(x->server));
    qn_engine_stats(qn_server_engine(x->server), &t);
    qn_buf_putc(&out, '[');
    for (int i = 0; i < info->max_seqs; i++)
        qn_buf_printf(&out, "%s{\"id\":%d,\"n_ctx\":%d,\"is_processing\":%s}", i ? "," : "", i,
                      info->max_context, i < t.n_running ? "true" : "false");
    qn_buf_putc(&out, ']');
    qn_http_reply_json(x, 200, &out);
}

static void write_defaults(struct qn_buf *out, const struct qn_sample *p, int64_t max_tokens)
{
    qn_buf_printf(
        out,
        "{\"temperature\":%.6g,\"top_p\":%.6g,\"top_k\":%d,\"min_p\":%.6g,\"presence_penalty\":%.6g,"
        "\"frequency_penalty\":%.6g,\"repetition_penalty\":%.6g,\"max_tokens\":%" PRId64 "}",
        (double)p->temperature, (double)p->top_p, p->top_k, (double)p->min_p, (double)p->presence,
        (double)p->frequency, (double)p->repetition, max_tokens);
}

/* What a short chat with this switch and effort begins with: {"on", "budget"}; null where the template fails.
 */
static void write_thinking(struct qn_buf *out, struct qn_exchange *x, int enable, const char *effort)
{
    struct qn_ask a;
    struct qn_prompt prompt = {0};
    struct qn_err e = {0};
    qn_ask_init(&a, x);
    struct qn_json *hello = qn_json_new_str(x->arena, "Hello", 5);
    a.chat.enable_thinking = enable;
    a.chat.effort = effort;
    if (!hello || !qn_chat_add_message(&a.chat, "user", hello) || qn_api_render(&prompt, x, &a, &e)) {
        qn_buf_puts(out, "null");
        return;
    }
    qn_buf_printf(out, "{\"on\":%s,\"budget\":", prompt.is_thinking ? "true" : "false");
    if (prompt.is_thinking && prompt.thinking_budget > 0)
        qn_buf_printf(out, "%" PRId64 "}", prompt.thinking_budget);
    else
        qn_buf_puts(out, "null}");
    qn_prompt_free(&prompt);
}

void qn_api_props(struct qn_exchange *x)
{
    static const char *const efforts[] = {"none", "minimal", "low", "medium", "high", "xhigh"};
    struct qn_server *s = x->server;
    const struct qn_engine_info *info = qn_engine_info(qn_server_engine(s));
    struct qn_ask a;
    struct qn_buf out = QN_BUF_INIT(8 << 20);
    qn_ask_init(&a, x);
    qn_buf_printf(&out, "{\"default_generation_settings\":{\"n_ctx\":%d,\"params\":", info->max_context);
    write_defaults(&out, &a.sample, a.max_new);
    qn_buf_puts(&out, "},\"defaults\":{\"chat\":");
    write_defaults(&out, &a.sample, a.max_new);
    qn_buf_puts(&out, ",\"completions\":");
    write_defaults(&out, &a.sample, QN_API_COMPLETION_TOKENS);
    qn_buf_puts(&out, ",\"chat_with_tools\":");
    if (qn_ask_presence_is_models(s)) a.sample.presence = 0;
    write_defaults(&out, &a.sample, a.max_new);
    qn_buf_puts(&out, ",\"thinking\":{\"silent\":");
    write_thinking(&out, x, -1, NULL);
    qn_buf_puts(&out, ",\"enabled\":");
    write_thinking(&out, x, 1, NULL);
    qn_buf_puts(&out, ",\"disabled\":");
    write_thinking(&out, x, 0, NULL);
    qn_buf_puts(&out, ",\"efforts\":{");
    for (size_t i = 0; i < QN_COUNT(efforts); i++) {
        qn_buf_printf(&out, "%s\"%s\":", i ? "," : "", efforts[i]);
        write_thinking(&out, x, -1, efforts[i]);
    }
    qn_buf_printf(&out, "}}},\"total_slots\":%d,\"model_path\":", info->max_seqs);
    put_str(&out, s->o.names[0]);
    qn_buf_printf(&out, ",\"chat_template_source\":");
    put_str(&out, s->text->template_source_name ? s->text->template_source_name : "");
    qn_buf_printf(
        &out,
        ",\"modalities\":{\"vision\":%s,\"audio\":false},\"kv\":\"%s\",\"isa\":\"%s\",\"threads\":%d,"
        "\"pages\":%d,\"slots\":%d,\"mtp\":%d,\"has_mtp\":%s,\"weight_bytes\":%zu,\"kv_bytes\":%zu,"
        "\"state_bytes\":%zu,\"load_seconds\":%.3f,\"build_info\":\"quern %s\"}",
        s->o.sight ? "true" : "false", info->kv ? info->kv : "", info->isa ? info->isa : "", info->n_thread,
        info->n_page, info->n_slot, info->mtp, info->has_mtp ? "true" : "false", info->weight_bytes,
        info->kv_bytes, info->state_bytes, info->load_s, QN_VERSION);
    qn_http_reply_json(x, 200, &out);
}

/* ------------------------------------------------------------------ text */

/* Ids of a body of /tokenize: llama.cpp's {content}, or {prompt}, or a conversation. */
static int read_text(struct qn_ids *ids, struct qn_exchange *x, const struct qn_json *body, struct qn_err *e)
{
    int rc = QN_OK;
    const struct qn_tokenizer *t = x->server->text->tokenizer;
    const struct qn_json *text = qn_json_get(body, "content");
    if (!text) text = qn_json_get(body, "prompt");
    if (!text && qn_json_get(body, "messages")) {
        struct qn_ask a;
        struct qn_prompt prompt = {0};
        qn_ask_init(&a, x);
        rc = qn_chat_read(&a.chat, body, e);
        if (!rc) rc = qn_api_look(x, &a, false, e);
        if (!rc) rc = qn_api_render(&prompt, x, &a, e);
        if (!rc) rc = qn_ids_append(ids, prompt.ids, (size_t)prompt.n_tok);
        qn_prompt_free(&prompt);
        qn_ask_free(&a);
        return rc;
    }
    x->param = "prompt";
    QN_FAIL_IF(!qn_json_is(text, QN_JSON_STRING), e, QN_INVAL,
               "send a string as prompt (or content), or messages");
    bool parses_special = true;
    QN_TRY(qn_json_get_bool(body, "parse_special", true, &parses_special, e));
    uint8_t *literal = NULL;
    if (!parses_special) {
        literal = qn_arena_alloc(x->arena, text->n + 1); /* all zero: no control tokens */
        QN_FAIL_IF(!literal, e, QN_TOOBIG, "the text is too large");
    }
    QN_TRY(qn_tokenizer_encode(t, text->text, text->n, literal, ids, e));
    x->param = NULL;
out:
    return rc;
}

void qn_api_tokenize(struct qn_exchange *x)
{
    struct qn_err e = {0};
    struct qn_ids ids = QN_IDS_INIT((size_t)1 << 28);
    const struct qn_tokenizer *t = x->server->text->tokenizer;
    const struct qn_json *body = qn_http_body(x);
    if (!body) return;
    bool has_pieces = false, has_strings = false;
    if (qn_json_get_bool(body, "with_pieces", false, &has_pieces, &e) ||
        qn_json_get_bool(body, "return_token_strs", false, &has_strings, &e) ||
        read_text(&ids, x, body, &e)) {
        qn_api_fail_render(x, &e);
        qn_ids_free(&ids);
        return;
    }
    struct qn_buf out = QN_BUF_INIT((size_t)1 << 30);
    qn_buf_printf(&out, "{\"count\":%zu,\"max_model_len\":%d,\"tokens\":[", ids.n,
                  qn_server_max_context(x->server));
    for (size_t i = 0; i < ids.n; i++) {
        if (!has_pieces) {
            qn_buf_printf(&out, "%s%d", i ? "," : "", ids.data[i]);
            continue;
        }
        size_t n;
        const uint8_t *bytes = qn_tokenizer_bytes(t, ids.data[i], &n);
        qn_buf_printf(&out, "%s{\"id\":%d,\"piece\":", i ? "," : "", ids.data[i]);
        qn_json_write_str(&out, (const char *)bytes, n, false);
        qn_buf_putc(&out, '}');
    }
    qn_buf_puts(&out, "],\"token_strs\":");
    if (has_strings) {
        for (size_t i = 0; i < ids.n; i++) {
            size_t n;
            const uint8_t *bytes = qn_tokenizer_bytes(t, ids.data[i], &n);
            qn_buf_puts(&out, i ? "," : "[");
            qn_json_write_str(&out, (const char *)bytes, n, false);
        }
        qn_buf_puts(&out, ids.n ? "]" : "[]");
    } else
        qn_buf_puts(&out, "null");
    qn_buf_putc(&out, '}');
    qn_ids_free(&ids);
    qn_http_reply_json(x, 200, &out);
}

void qn_api_detokenize(struct qn_exchange *x)
{
    struct qn_err e = {0};
    const struct qn_json *body = qn_http_body(x);
    struct qn_json *list;
    if (!body) return;
    x->param = "tokens";
    if (qn_json_get_arr(body, "tokens", &list, &e)) {
        qn_http_fail(x, &e);
        return;
    }
    size_t n = list ? list->n : 0;
    int32_t *ids = qn_arena_alloc(x->arena, (n + 1) * sizeof *ids);
    for (size_t i = 0; i < n; i++) {
        int64_t id;
        if (!ids || !qn_json_int(list->items[i], &id) || id < 0 || id > INT32_MAX) {
            qn_http_fail_with(x, 400, NULL, "tokens[%zu] is not a token id", i);
            return;
        }
        if (!qn_tokenizer_has(x->server->text->tokenizer, (int32_t)id)) {
            qn_http_fail_with(x, 400, NULL,
                              "tokens[%zu] is %" PRId64 ", which this model's tokenizer does not use", i, id);
            return;
        }
        ids[i] = (int32_t)id;
    }
    struct qn_buf text = QN_BUF_INIT((size_t)256 << 20), out = QN_BUF_INIT((size_t)1 << 30);
    qn_detok_all(x->server->text->tokenizer, ids, n, QN_DETOK_KEEP, &text);
    qn_buf_puts(&out, "{\"prompt\":");
    qn_json_write_str(&out, qn_buf_str(&text), text.n_byte, false);
    qn_buf_puts(&out, ",\"content\":");
    qn_json_write_str(&out, qn_buf_str(&text), text.n_byte, false);
    qn_buf_putc(&out, '}');
    qn_buf_free(&text);
    qn_http_reply_json(x, 200, &out);
}

void qn_api_tokenizer_info(struct qn_exchange *x)
{
    static const char *const names[] = {"eos_token", "bos_token", "pad_token"};
    struct qn_buf out = QN_BUF_INIT((size_t)64 << 20);
    const struct qn_text *t = x->server->text;
    qn_buf_putc(&out, '{');
    for (size_t i = 0; i < QN_COUNT(names); i++) {
        const struct qn_json *v = qn_json_get(t->special_tokens, names[i]);
        qn_buf_printf(&out, "%s\"%s\":", i ? "," : "", names[i]);
        if (qn_json_is(v, QN_JSON_STRING))
            qn_json_write_str(&out, v->text, v->n, false);
        else
            qn_buf_puts(&out, "null");
    }
    qn_buf_puts(&out, ",\"chat_template\":");
    if (t->template) {
        size_t n;
        const char *source = qn_jinja_source(t->template, &n);
        qn_json_write_str(&out, source, n, false);
    } else
        qn_buf_puts(&out, "null");
    qn_buf_putc(&out, '}');
    qn_http_reply_json(x, 200, &out);
}

void qn_api_apply_template(struct qn_exchange *x)
{
    struct qn_err e = {0};
    struct qn_ask a;
    struct qn_prompt prompt = {0};
    const struct qn_json *body = qn_http_body(x);
    if (!body) return;
    qn_ask_init(&a, x);
    a.mm_kwargs = qn_json_get(body, "mm_processor_kwargs");
    a.io_kwargs = qn_json_get(body, "media_io_kwargs");
    if (qn_chat_read(&a.chat, body, &e) || qn_api_look(x, &a, false, &e) ||
        qn_api_render(&prompt, x, &a, &e)) {
        qn_api_fail_render(x, &e);
        qn_ask_free(&a);
        return;
    }
    qn_ask_free(&a);
    struct qn_buf out = QN_BUF_INIT((size_t)1 << 30);
    qn_buf_puts(&out, "{\"prompt\":");
    qn_json_write_str(&out, prompt.text, prompt.n_byte, false);
    qn_buf_printf(&out, ",\"n_tokens\":%d,\"is_thinking\":%s}", prompt.n_tok,
                  prompt.is_thinking ? "true" : "false");
    qn_prompt_free(&prompt);
    qn_http_reply_json(x, 200, &out);
}

void qn_api_embeddings(struct qn_exchange *x)
{
    qn_http_fail_with(
        x, 501, "not_supported",
        "embeddings are not supported: this is a generative model; serve an embedding model for that");
}
