/* A conversation made short.
 * SPDX-License-Identifier: Apache-2.0 */
#include "server/compact.h"

#include "base/clock.h"
#include "base/hash.h"
#include "server/api.h"
#include "server/form.h"
#include "server/responses.h"

#define MAX_SUMMARY 4096 /* tokens */

static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
static const char mark[] = "quern-compaction-1:"; /* then a check of what follows */

static const char wish[] = "Write a summary of this conversation for yourself: you will go on from it and "
                           "see nothing else. Say what was asked, "
                           "what was decided and why, what was done and found (names of files, commands, "
                           "figures), and what is still to do. "
                           "Answer with the summary alone.";
static const char head[] = "Summary of the conversation so far, written by you:\n\n";

void qn_compaction_seal(struct qn_buf *sealed, const char *text, size_t n)
{
    struct qn_buf raw = QN_BUF_INIT((size_t)64 << 20);
    qn_buf_printf(&raw, "%s%016" PRIx64 ":", mark, qn_hash_bytes(1, text, n));
    qn_buf_append(&raw, text, n);
    const unsigned char *p = (const unsigned char *)qn_buf_str(&raw);
    for (size_t i = 0; i < raw.n_byte; i += 3) {
        size_t left = raw.n_byte - i;
        uint32_t bits =
            (uint32_t)p[i] << 16 | (uint32_t)(left > 1 ? p[i + 1] : 0) << 8 | (left > 2 ? p[i + 2] : 0);
        qn_buf_putc(sealed, digits[bits >> 18]);
        qn_buf_putc(sealed, digits[bits >> 12 & 63]);
        qn_buf_putc(sealed, left > 1 ? digits[bits >> 6 & 63] : '=');
        qn_buf_putc(sealed, left > 2 ? digits[bits & 63] : '=');
    }
    qn_buf_free(&raw);
}

bool qn_compaction_open(struct qn_buf *text, const char *sealed)
{
    struct qn_buf raw = QN_BUF_INIT((size_t)64 << 20);
    uint32_t bits = 0;
    int n_bit = 0;
    for (const char *c = sealed; *c && *c != '='; c++) {
        const char *at = strchr(digits, *c);
        if (!at) break;
        bits = bits << 6 | (uint32_t)(at - digits);
        n_bit += 6;
        if (n_bit < 8) continue;
        n_bit -= 8;
        qn_buf_putc(&raw, (char)(bits >> n_bit & 0xff));
    }
    const size_t n_head = sizeof mark - 1 + 17;
    const char *p = qn_buf_str(&raw);
    bool is_ours = raw.n_byte >= n_head && !memcmp(p, mark, sizeof mark - 1);
    if (is_ours) {
        char check[20];
        snprintf(check, sizeof check, "%016" PRIx64 ":", qn_hash_bytes(1, p + n_head, raw.n_byte - n_head));
        is_ours = !memcmp(check, p + sizeof mark - 1, 17);
    }
    if (is_ours) {
        qn_buf_puts(text, head);
        qn_buf_append(text, p + n_head, raw.n_byte - n_head);
    }
    qn_buf_free(&raw);
    return is_ours;
}

/* The user's own messages stay, then the summary. */
static void write_output(struct qn_stream *s, struct qn_buf *out)
{
    const struct qn_responses_state *t = s->state;
    const struct qn_output *c = &s->choices[0];
    struct qn_buf sealed = QN_BUF_INIT((size_t)128 << 20);
    char id[40];
    for (size_t i = 0; i + 1 < t->items->n; i++) { /* the last one is our wish */
        const struct qn_json *item = t->items->items[i];
        if (!qn_json_is_str(qn_json_get(item, "role"), "user")) continue;
        qn_json_write(out, item, QN_JSON_COMPACT);
        qn_buf_putc(out, ',');
    }
    qn_http_make_id(id, sizeof id, "cmp_", 24);
    qn_compaction_seal(&sealed, qn_buf_str(&c->parsed.content), c->parsed.content.n_byte);
    qn_buf_printf(out, "{\"id\":\"%s\",\"type\":\"compaction\",\"encrypted_content\":\"%s\"}", id,
                  qn_buf_str(&sealed));
    qn_buf_free(&sealed);
}

static void whole(struct qn_stream *s, struct qn_buf *out)
{
    struct qn_usage u = qn_stream_usage(s);
    qn_buf_printf(out,
                  "{\"id\":\"%s\",\"object\":\"response.compaction\",\"created_at\":%" PRId64 ",\"output\":[",
                  s->id, s->created);
    write_output(s, out);
    qn_buf_printf(out,
                  "],\"usage\":{\"input_tokens\":%d,\"input_tokens_details\":{\"cached_tokens\":%d},\"output_"
                  "tokens\":%d,"
                  "\"output_tokens_details\":{\"reasoning_tokens\":%d},\"total_tokens\":%d}}",
                  u.prompt, u.cached, u.completion, u.reasoning, u.prompt + u.completion);
}

static void nothing(struct qn_stream *s)
{
    (void)s;
}

static void no_event(struct qn_stream *s, struct qn_output *c, const struct qn_parse_event *ev)
{
    (void)s, (void)c, (void)ev;
}

static void no_finish(struct qn_stream *s, struct qn_output *c)
{
    (void)s, (void)c;
}

static void no_fail(struct qn_stream *s, int status, const char *text)
{
    (void)s, (void)status, (void)text;
}

static const struct qn_dialect compact_dialect = {
    .id_prefix = "resp_",
    .call_prefix = "call_",
    .begin = nothing,
    .event = no_event,
    .finish = no_finish,
    .end = nothing,
    .fail = no_fail,
    .ping = nothing,
    .whole = whole,
};

/* The request with our wish as its last message: an answer of text alone, never a call. */
static const struct qn_json *with_wish(struct qn_exchange *x, const struct qn_json *body)
{
    struct qn_arena *a = x->arena;
    struct qn_json *all = qn_json_new(a, QN_JSON_OBJECT), *items = qn_json_new(a, QN_JSON_ARRAY),
                   *item = qn_json_new(a, QN_JSON_OBJECT);
    static const char *const dropped[] = {
        "input", "stream", "tool_choice", "text", "store", "max_output_tokens", "truncation"};
    bool ok = all && items && item;
    for (size_t i = 0; ok && i < body->n; i++) {
        bool is_dropped = false;
        for (size_t k = 0; k < QN_COUNT(dropped); k++) is_dropped |= !strcmp(dropped[k], body->keys[i].text);
        if (!is_dropped) ok = qn_json_set(a, all, body->keys[i].text, body->items[i]);
    }
    struct qn_json *input = qn_json_get(body, "input");
    if (ok && qn_json_is(input, QN_JSON_STRING)) {
        struct qn_json *said = qn_json_new(a, QN_JSON_OBJECT);
        ok = said && qn_json_set(a, said, "role", qn_json_new_str(a, "user", 4)) &&
             qn_json_set(a, said, "content", input) && qn_json_push(a, items, said);
    }
    for (size_t i = 0; ok && qn_json_is(input, QN_JSON_ARRAY) && i < input->n; i++)
        ok = qn_json_push(a, items, input->items[i]);
    ok = ok && qn_json_set(a, item, "role", qn_json_new_str(a, "user", 4)) &&
         qn_json_set(a, item, "content", qn_json_new_str(a, wish, sizeof wish - 1)) &&
         qn_json_push(a, items, item) && qn_json_set(a, all, "input", items) &&
         qn_json_set(a, all, "tool_choice", qn_json_new_str(a, "none", 4)) &&
         qn_json_set(a, all, "max_output_tokens", qn_json_new_int(a, MAX_SUMMARY)) &&
         qn_json_set(a, all, "truncation", qn_json_new_str(a, "auto", 4)) &&
         qn_json_set(a, all, "store", qn_json_new_bool(a, false));
    return ok ? all : body;
}

void qn_api_compact(struct qn_exchange *x)
{
    struct qn_err e = {0};
    struct qn_ask a;
    struct qn_responses_state *state;
    const struct qn_json *body = qn_http_body(x);
    if (!body) return;
    qn_ask_init(&a, x);
    if (qn_json_is_null(qn_json_get(body, "input")) &&
        qn_json_is_null(qn_json_get(body, "previous_response_id"))) {
        x->param = "input";
        qn_http_fail_with(x, 400, NULL, "input is missing");
        return;
    }
    if (qn_api_read_responses(&a, x, with_wish(x, body), &state, &e)) {
        qn_http_fail(x, &e);
        return;
    }
    a.chat.enable_thinking = 0;
    qn_api_chat(x, &a, &compact_dialect, state);
}
