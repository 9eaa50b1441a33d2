/* OpenAI completions: text as it is, batches of prompts, echo, fill in the middle.
 * SPDX-License-Identifier: Apache-2.0 */
#include <math.h>

#include "server/api.h"
#include "server/form.h"
#include "server/openai.h"
#include "server/trace.h"
#include "text/tokenizer.h"

static size_t n_chars(const char *s, size_t n)
{
    size_t count = 0;
    for (size_t i = 0; i < n; i++) count += ((unsigned char)s[i] & 0xc0) != 0x80;
    return count;
}

struct lp_list {
    const struct qn_step_token *lps;
    size_t from, to;
};

/* tokens, token_logprobs, top_logprobs, text_offset over one or two lists (prompt and output) */
static void write_old_logprobs(struct qn_output *c, struct qn_buf *out, const struct lp_list *lists,
                               int n_list)
{
    const struct qn_stream *s = c->stream;
    const struct qn_tokenizer *t = s->server->text->tokenizer;
    size_t start = c->n_sent_chars, n;
    int written;
    for (int part = 0; part < 4; part++) {
        static const char *const names[] = {"{\"tokens\":[", "],\"token_logprobs\":[", "],\"top_logprobs\":[",
                                            "],\"text_offset\":["};
        qn_buf_puts(out, names[part]);
        written = 0;
        size_t at = start;
        for (int l = 0; l < n_list; l++)
            for (size_t i = lists[l].from; i < lists[l].to; i++) {
                const struct qn_step_token *p = &lists[l].lps[i];
                if (written++) qn_buf_putc(out, ',');
                if (part == 0)
                    qn_stream_write_token(s, out, p->tok);
                else if (part == 1)
                    qn_stream_write_number(out, p->logprob);
                else if (part == 2 && isnan(p->logprob))
                    qn_buf_puts(out, "null");
                else if (part == 2) {
                    bool has_own = false;
                    qn_buf_putc(out, '{');
                    for (int k = 0; k < p->n_top; k++) {
                        size_t m;
                        const uint8_t *mine = qn_tokenizer_bytes(t, p->top_tok[k], &m);
                        bool is_double = false; /* of equal texts the likelier stays */
                        for (int j = 0; j < k && !s->ask.tokens_as_ids; j++) {
                            const uint8_t *other = qn_tokenizer_bytes(t, p->top_tok[j], &n);
                            is_double |= n == m && !memcmp(mine, other, n);
                        }
                        has_own |= p->top_tok[k] == p->tok;
                        if (is_double) continue;
                        if (k) qn_buf_putc(out, ',');
                        qn_stream_write_token(s, out, p->top_tok[k]);
                        qn_buf_putc(out, ':');
                        qn_stream_write_number(out, p->top_logprob[k]);
                    }
                    if (!has_own) {
                        if (p->n_top) qn_buf_putc(out, ',');
                        qn_stream_write_token(s, out, p->tok);
                        qn_buf_putc(out, ':');
                        qn_stream_write_number(out, p->logprob);
                    }
                    qn_buf_putc(out, '}');
                } else {
                    const uint8_t *bytes = qn_tokenizer_bytes(t, p->tok, &n);
                    qn_buf_printf(out, "%zu", at);
                    at += n_chars((const char *)bytes, n);
                }
            }
        if (part == 3) c->n_sent_chars = at;
    }
    qn_buf_puts(out, "]}");
}

/* The text of the prompt, for echo. */
static void echo_prompt(const struct qn_output *c, struct qn_buf *text)
{
    qn_detok_all(c->stream->server->text->tokenizer, c->prompt->tok, (size_t)c->prompt->n_tok, QN_DETOK_KEEP,
                 text);
}

static void complete_begin(struct qn_stream *s)
{
    qn_openai_write_head(s, &s->head, "text_completion");
}

static void complete_chunk(struct qn_stream *s, struct qn_output *c, const char *text, size_t n,
                           enum qn_reason reason)
{
    struct qn_buf *out = &s->out;
    struct lp_list lists[2];
    int n_list = 0;
    struct qn_buf echoed = QN_BUF_INIT((size_t)256 << 20);
    if (s->ask.echo && !c->prompt_sent) {
        echo_prompt(c, &echoed);
        lists[n_list++] = (struct lp_list){c->prompt_lps, 0, c->n_prompt_lp};
        c->prompt_sent = true;
    }
    qn_buf_append(&echoed, text, n);
    if (c->lp_sent < c->n_lp) lists[n_list++] = (struct lp_list){c->lps, c->lp_sent, c->n_lp};
    qn_openai_open_chunk(s);
    qn_buf_printf(out, ",\"choices\":[{\"index\":%d,\"text\":", c->index);
    qn_json_write_str(out, qn_buf_str(&echoed), echoed.n_byte, false);
    qn_buf_puts(out, ",\"logprobs\":");
    if (s->ask.wants_logprobs && n_list)
        write_old_logprobs(c, out, lists, n_list);
    else
        qn_buf_puts(out, "null");
    c->lp_sent = c->n_lp;
    if (reason) {
        qn_buf_printf(out, ",\"finish_reason\":\"%s\",\"stop_reason\":", qn_reason_name(reason));
        qn_openai_write_stop_reason(c, out);
        qn_buf_puts(out, "}]");
    } else
        qn_buf_puts(out, ",\"finish_reason\":null}]");
    qn_openai_close_chunk(s, false);
    qn_buf_free(&echoed);
}

static void complete_event(struct qn_stream *s, struct qn_output *c, const struct qn_parse_event *event)
{
    complete_chunk(s, c, event->text, event->n, QN_REASON_NONE);
}

static void complete_finish(struct qn_stream *s, struct qn_output *c)
{
    complete_chunk(s, c, "", 0, c->reason);
}

static void complete_whole(struct qn_stream *s, struct qn_buf *out)
{
    qn_openai_write_head(s, out, "text_completion");
    qn_buf_puts(out, ",\"choices\":[");
    for (int i = 0; i < s->n_choice; i++) {
        struct qn_output *c = &s->choices[i];
        struct qn_buf text = QN_BUF_INIT((size_t)512 << 20);
        struct lp_list lists[2];
        int n_list = 0;
        if (s->ask.echo) {
            echo_prompt(c, &text);
            lists[n_list++] = (struct lp_list){c->prompt_lps, 0, c->n_prompt_lp};
        }
        lists[n_list++] = (struct lp_list){c->lps, 0, c->n_lp};
        qn_buf_append(&text, qn_buf_str(&c->parsed.content), c->parsed.content.n_byte);
        qn_buf_printf(out, "%s{\"index\":%d,\"text\":", i ? "," : "", i);
        qn_json_write_str(out, qn_buf_str(&text), text.n_byte, false);
        qn_buf_puts(out, ",\"logprobs\":");
        if (s->ask.wants_logprobs)
            write_old_logprobs(c, out, lists, n_list);
        else
            qn_buf_puts(out, "null");
        qn_buf_printf(out, ",\"finish_reason\":\"%s\",\"stop_reason\":", qn_reason_name(c->reason));
        qn_openai_write_stop_reason(c, out);
        if (s->ask.return_token_ids) {
            qn_buf_puts(out, ",\"token_ids\":");
            qn_openai_write_ids(c, out);
        }
        if (s->ask.prompt_top >= 0) {
            qn_buf_puts(out, ",\"prompt_logprobs\":");
            qn_openai_write_prompt_logprobs(c, out);
        }
        qn_buf_putc(out, '}');
        qn_buf_free(&text);
    }
    qn_buf_puts(out, "],\"usage\":");
    qn_openai_write_usage(s, out);
    if (s->ask.wants_timings) {
        qn_buf_puts(out, ",\"timings\":");
        qn_openai_write_timings(s, out);
    }
    qn_buf_putc(out, '}');
}

static const struct qn_dialect complete_dialect = {
    .is_raw = true,
    .id_prefix = "cmpl-",
    .call_prefix = "call_",
    .begin = complete_begin,
    .event = complete_event,
    .finish = complete_finish,
    .end = qn_openai_end,
    .fail = qn_openai_fail,
    .ping = qn_openai_ping,
    .whole = complete_whole,
};

/* Ids of the fill-in-the-middle tokens; false: the model has none. */
static bool find_middle(const struct qn_tokenizer *t, int32_t ids[3])
{
    static const char *const names[] = {"<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"};
    for (size_t i = 0; i < QN_COUNT(names); i++) {
        ids[i] = qn_tokenizer_id(t, names[i]);
        if (ids[i] < 0) return false;
    }
    return true;
}

/* max_tok: tokens beyond which it is QN_TOOBIG, whatever follows. */
static int read_one_prompt(struct qn_stream_prompt *p, struct qn_exchange *x, const struct qn_json *v,
                           const struct qn_json *suffix, size_t max_tok, struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_ids ids = QN_IDS_INIT(max_tok);
    int32_t *copy;
    const struct qn_tokenizer *t = x->server->text->tokenizer;
    int32_t middle[3];
    if (suffix) {
        QN_FAIL_IF(!find_middle(t, middle), e, QN_INVAL,
                   "suffix: the model has no fill-in-the-middle tokens (<|fim_prefix|>, ...)");
        QN_TRY(qn_ids_push(&ids, middle[0]));
    }
    p->think_budget = QN_CHAT_NO_BUDGET;
    if (qn_json_is(v, QN_JSON_STRING)) {
        QN_TRY(qn_tokenizer_encode(t, v->text, v->n, NULL, &ids, e));
    } else {
        for (size_t i = 0; i < v->n; i++) {
            int64_t id;
            QN_FAIL_IF(!qn_json_int(v->items[i], &id) || id < 0 || id >= qn_tokenizer_n_vocab(t), e, QN_INVAL,
                       "prompt: entry %zu is not a token id of this model (0 to %d)", i,
                       qn_tokenizer_n_vocab(t) - 1);
            QN_TRY(qn_ids_push(&ids, (int32_t)id));
        }
    }
    if (suffix) {
        QN_TRY(qn_ids_push(&ids, middle[1]));
        QN_TRY(qn_tokenizer_encode(t, suffix->text, suffix->n, NULL, &ids, e));
        QN_TRY(qn_ids_push(&ids, middle[2]));
    }
    QN_FAIL_IF(!ids.n, e, QN_INVAL, "prompt: empty; send at least one token");
    copy = qn_arena_alloc(x->arena, ids.n * sizeof *copy);
    QN_FAIL_IF(!copy, e, QN_TOOBIG, "prompt: the request is too large");
    memcpy(copy, ids.data, ids.n * sizeof *copy);
    p->tok = copy;
    p->n_tok = (int)ids.n;
out:
    qn_ids_free(&ids);
    return rc;
}

/* A string, strings, ids, or lists of ids. */
static int read_prompts(struct qn_ask *a, struct qn_stream_prompt **out, int *n_out, struct qn_exchange *x,
                        const struct qn_json *v, const struct qn_json *suffix, struct qn_err *e)
{
    int rc = QN_OK;
    x->param = "prompt";
    bool is_many = qn_json_is(v, QN_JSON_ARRAY) && v->n &&
                   (qn_json_is(v->items[0], QN_JSON_STRING) || qn_json_is(v->items[0], QN_JSON_ARRAY));
    QN_FAIL_IF(qn_json_is_null(v), e, QN_INVAL, "prompt is missing");
    QN_FAIL_IF(!qn_json_is(v, QN_JSON_STRING) && !qn_json_is(v, QN_JSON_ARRAY), e, QN_INVAL,
               "prompt must be a string, an array of strings, of token ids, or of arrays of token ids");
    size_t n = is_many ? v->n : 1;
    QN_FAIL_IF(n > QN_API_MAX_PROMPTS, e, QN_TOOBIG, "prompt has %zu entries; at most %d are taken", n,
               QN_API_MAX_PROMPTS);
    struct qn_stream_prompt *list = qn_arena_alloc(x->arena, n * sizeof *list);
    QN_FAIL_IF(!list, e, QN_TOOBIG, "prompt: the request is too large");
    for (size_t i = 0; i < n; i++) {
        const struct qn_json *one = is_many ? v->items[i] : v;
        QN_FAIL_IF(is_many && one->type != v->items[0]->type, e, QN_INVAL,
                   "prompt[%zu] is of another type than prompt[0]", i);
        size_t most = qn_api_most_tokens(x, a);
        rc = read_one_prompt(&list[i], x, one, suffix, most ? most : (size_t)1 << 28, e);
        a->is_over = rc == QN_TOOBIG && most;
        if (rc) goto out;
    }
    *out = list;
    *n_out = (int)n;
    x->param = NULL;
out:
    return rc;
}

int qn_api_read_completion(struct qn_ask *a, struct qn_exchange *x, const struct qn_json *body,
                           struct qn_stream_prompt **prompts, int *n_prompt, struct qn_err *e)
{
    int rc = QN_OK;
    int64_t top = -1, best_of = 1, max_tokens = -1;
    QN_TRY(qn_ask_read_head(a, x, &body, e));
    x->param = "echo";
    QN_TRY(qn_json_get_bool(body, "echo", false, &a->echo, e));
    /* max_tokens 0 is pure scoring; the shared reader refuses it */
    const struct qn_json *given = qn_json_get(body, "max_tokens");
    a->is_scoring = a->echo && qn_json_int(given, &max_tokens) && max_tokens == 0;
    if (a->is_scoring) {
        struct qn_json *copy = qn_json_new(a->arena, QN_JSON_OBJECT);
        for (size_t i = 0; copy && i < body->n; i++)
            if (strcmp(body->keys[i].text, "max_tokens"))
                qn_json_set(a->arena, copy, body->keys[i].text, body->items[i]);
        QN_FAIL_IF(!copy, e, QN_TOOBIG, "the request is too large");
        body = copy;
    }
    a->max_new = QN_API_COMPLETION_TOKENS;
    QN_TRY(qn_ask_read_sampling(a, x, body, e));
    x->param = "suffix";
    const struct qn_json *suffix = qn_json_get(body, "suffix");
    QN_FAIL_IF(!qn_json_is_null(suffix) && !qn_json_is(suffix, QN_JSON_STRING), e, QN_INVAL,
               "suffix must be a string");
    bool has_suffix = !qn_json_is_null(suffix) && suffix->n;
    QN_FAIL_IF(has_suffix && a->echo, e, QN_INVAL, "suffix: echo cannot be given together with it");
    x->param = "best_of";
    QN_TRY(qn_json_get_int(body, "best_of", 1, &best_of, e));
    QN_FAIL_IF(best_of > a->n, e, QN_INVAL, "best_of over n is not supported; use n");
    x->param = "logprobs";
    const struct qn_json *lp = qn_json_get(body, "logprobs");
    if (qn_json_is(lp, QN_JSON_BOOL))
        top = lp->truth ? 1 : -1;
    else
        QN_TRY(qn_json_get_int(body, "logprobs", -1, &top, e));
    QN_FAIL_IF(top > QN_MAX_TOP, e, QN_INVAL, "logprobs is %" PRId64 "; it must be between 0 and %d", top,
               QN_MAX_TOP);
    a->wants_logprobs = top >= 0;
    a->sample.n_top = (int)QN_MAX(top, -1);
    if (a->echo && a->wants_logprobs && a->prompt_top < 0) a->prompt_top = (int)top;
    QN_TRY(qn_ask_read_form(a, x, body, e));
    QN_TRY(read_prompts(a, prompts, n_prompt, x, qn_json_get(body, "prompt"), has_suffix ? suffix : NULL, e));
    for (int i = 0; i < *n_prompt; i++) {
        int n_cut = qn_api_truncated(x, a, (*prompts)[i].n_tok);
        (*prompts)[i].tok += n_cut;
        (*prompts)[i].n_tok -= n_cut;
    }
out:
    return rc;
}

void qn_api_completions(struct qn_exchange *x)
{
    struct qn_err e = {0};
    struct qn_ask a;
    struct qn_stream_prompt *prompts;
    int n_prompt;
    const struct qn_json *body = qn_http_body(x);
    if (!body) return;
    qn_ask_init(&a, x);
    if (qn_api_read_completion(&a, x, body, &prompts, &n_prompt, &e)) {
        if (a.is_over && qn_api_refuse_length(x, &a, (int)qn_api_most_tokens(x, &a))) return;
        qn_http_fail(x, &e);
        return;
    }
    if (qn_ask_constrain(&a, x, NULL, false, &e)) {
        qn_http_fail(x, &e);
        return;
    }
    for (int i = 0; i < n_prompt; i++)
        if (qn_api_refuse_length(x, &a, prompts[i].n_tok)) {
            qn_ask_free(&a);
            return;
        }
    struct qn_stream *s = qn_stream_create(x, &a, &complete_dialect, n_prompt);
    s->on_end = qn_trace_write;
    memcpy(s->prompts, prompts, (size_t)n_prompt * sizeof *prompts);
    qn_stream_answer(s);
}
