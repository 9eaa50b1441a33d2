/* What the handlers share: rendering a request, handing it over.
 * SPDX-License-Identifier: Apache-2.0 */
#include "server/api.h"

#include "base/clock.h"
#include "base/log.h"
#include "server/calls.h"
#include "server/form.h"
#include "server/stream.h"
#include "server/trace.h"
#include "text/constrain.h"
#include "text/jinja.h"

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

int qn_api_look(struct qn_exchange *x, struct qn_ask *a, bool looks, struct qn_err *e)
{
    const struct qn_server_options *o = &x->server->o;
    const struct qn_look_rules rules = {o->media, o->max_image, o->max_video};
    if (!o->sight || a->look.n) return QN_OK;
    x->param = "messages";
    int rc = qn_look_read(&a->look, &a->chat, &rules, a->mm_kwargs, a->io_kwargs, !looks, e);
    if (!rc) x->param = NULL;
    return rc;
}

/* A template that fails because a variable of the request hides a function is no fault of ours. */
static int blame_variable(const struct qn_ask *a, struct qn_err *e)
{
    for (size_t i = 0; a->chat.kwargs && i < a->chat.kwargs->n; i++)
        if (qn_jinja_is_global(a->chat.kwargs->keys[i].text)) {
            qn_err_prefix(e, "chat_template_kwargs: '%.40s' hides a function of the template language",
                          a->chat.kwargs->keys[i].text);
            return e->code = QN_INVAL;
        }
    return QN_INTERNAL;
}

size_t qn_api_most_tokens(const struct qn_exchange *x, const struct qn_ask *a)
{
    /* some times the context, so that the usual overrun is told to the token */
    return a->truncate || a->drops_oldest ? 0 : (size_t)qn_server_max_context(x->server) * 3;
}

/* Its time was up before it reached the engine. */
static bool is_late(struct qn_exchange *x, const struct qn_ask *a)
{
    if (a->timeout_s <= 0 || qn_now_us() < x->start_us + (int64_t)(a->timeout_s * 1e6)) return false;
    qn_http_fail_with(x, 504, NULL, "the request's deadline of %g s has passed before it could run",
                      a->timeout_s);
    return true;
}

int qn_api_render(struct qn_prompt *out, struct qn_exchange *x, struct qn_ask *a, struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_calls_view view = {x->server->calls, a->arena, qn_server_owner(x->server, x)};
    struct qn_chat_opt o = {
        .max_tok = a->is_counting ? 0 : qn_api_most_tokens(x, a),
        .is_over = &a->is_over,
        .lookup = qn_calls_lookup,
        .user = &view,
        .allow_request_template = x->server->o.allow_request_template,
    };
    QN_TRY(merge_kwargs(a, x, e));
    rc = qn_chat_render(out, x->server->text, &a->chat, &o, e);
    if (rc == QN_INTERNAL) rc = blame_variable(a, e);
    if (rc) goto out;
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

/* A conversation without its oldest turn: up to the next message of the user's, so that no result loses its
 * call. False: nothing more can go. */
static bool drop_oldest(struct qn_ask *a)
{
    struct qn_json *old = a->chat.messages, *kept = qn_json_new(a->arena, QN_JSON_ARRAY);
    size_t from = 0, to;
    while (from < old->n && (qn_json_is_str(qn_json_get(old->items[from], "role"), "system") ||
                             qn_json_is_str(qn_json_get(old->items[from], "role"), "developer")))
        from++;
    for (to = from + 1; to < old->n && !qn_json_is_str(qn_json_get(old->items[to], "role"), "user");) to++;
    if (to >= old->n || !kept) return false;
    for (size_t i = 0; i < old->n; i++)
        if ((i < from || i >= to) && !qn_json_push(a->arena, kept, old->items[i])) return false;
    a->chat.messages = kept;
    return true;
}

/* Renders; while the prompt is too long, without the oldest turns, where the client allows it. */
static int render_to_fit(struct qn_prompt *out, struct qn_exchange *x, struct qn_ask *a, struct qn_err *e)
{
    int rc = qn_api_render(out, x, a, e), max_context = qn_server_max_context(x->server), n_turn = 1;
    int64_t room = QN_CLAMP(a->max_new, 1, max_context / 2);
    while (!rc && a->drops_oldest && out->n_tok > max_context - room) {
        int n = 0;
        while (n < n_turn && drop_oldest(a)) n++;
        if (!n) break;
        n_turn *= 2; /* few renders for a long conversation */
        qn_prompt_free(out);
        rc = qn_api_render(out, x, a, e);
    }
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
    if (qn_api_look(x, a, false, &e)) {
        qn_http_fail(x, &e);
        qn_ask_free(a);
        return;
    }
    a->is_counting = true;
    if (qn_api_render(&prompt, x, a, &e)) {
        qn_api_fail_render(x, &e);
        qn_ask_free(a);
        return;
    }
    qn_ask_free(a);
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
    const char *least = a->is_over ? "at least " : ""; /* tokenising stopped there */
    if (x->is_anthropic) {
        qn_http_fail_with(x, 400, NULL, "prompt is too long: %s%d tokens > %d maximum", least, n_prompt,
                          max_context);
        return true;
    }
    int64_t completion = QN_MAX(a->max_new, 1);
    x->param = qn_json_is_null(qn_json_get(x->json, "input")) ? "messages" : "input";
    qn_http_fail_with(x, 400, "context_length_exceeded",
                      "This model's maximum context length is %d tokens. However, you requested %s%" PRId64
                      " tokens (%s%d in the messages, %" PRId64
                      " in the completion). Please reduce the length of the messages or completion.",
                      max_context, least, n_prompt + QN_MIN(completion, INT64_MAX - n_prompt), least,
                      n_prompt, completion);
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
    if (qn_ask_check_choice(a, x, tools, &e)) {
        qn_http_fail(x, &e);
        goto out;
    }
    if (qn_api_look(x, a, true, &e)) {
        qn_http_fail(x, &e);
        goto out;
    }
    if (is_late(x, a)) goto out;
    if (render_to_fit(&prompt, x, a, &e)) {
        if (a->is_over && qn_api_refuse_length(x, a, (int)qn_api_most_tokens(x, a))) goto out;
        qn_api_fail_render(x, &e);
        goto out;
    }
    int n_cut = qn_api_truncated(x, a, prompt.n_tok);
    if (n_cut && a->look.n) {
        x->param = "truncate_prompt_tokens";
        qn_http_fail_with(
            x, 400, NULL,
            "a prompt with pictures is not cut: leave truncate_prompt_tokens out, or a picture");
        goto out;
    }
    if (qn_api_refuse_length(x, a, prompt.n_tok - n_cut)) goto out;
    if (qn_look_spans(&a->look, &prompt, x->server->o.sight, &e)) {
        qn_http_fail(x, &e);
        goto out;
    }
    if (is_late(x, a)) goto out;
    if (qn_ask_constrain(a, x, tools, prompt.is_thinking, &e)) {
        qn_http_fail(x, &e);
        goto out;
    }
    if (is_late(x, a)) goto out;
    struct qn_stream *s = qn_stream_create(x, a, dialect, 1);
    s->rendered = prompt;
    s->state = state;
    s->tools = tools;
    s->on_end = qn_trace_write;
    s->prompts[0] = (struct qn_stream_prompt){.tok = prompt.ids + n_cut,
                                              .n_tok = prompt.n_tok - n_cut,
                                              .spans = a->look.spans,
                                              .n_span = a->look.n_span,
                                              .is_thinking = prompt.is_thinking,
                                              .think_budget = prompt.thinking_budget};
    qn_stream_answer(s);
    return;
out:
    qn_prompt_free(&prompt);
    qn_toolset_free(tools);
    qn_ask_free(a);
}
