/* Normalising conversations: what clients do differently becomes what templates expect.
 *
 * Roles are mapped; content becomes one text; system messages in the middle are folded into a neighbour
 * without opening a turn; results stand in the order of their calls; arguments are objects; only the fields
 * that a prompt may depend on stay.
 * SPDX-License-Identifier: Apache-2.0 */
#include "text/chat_impl.h"

#include "base/hash.h"
#include "text/chat_block.h"

enum role { ROLE_SYSTEM, ROLE_USER, ROLE_ASSISTANT, ROLE_TOOL };

static const char *const role_names[] = {"system", "user", "assistant", "tool"};

static enum role role_of(const char *name)
{
    static const struct {
        const char *name;
        enum role role;
    } known[] = {{"system", ROLE_SYSTEM}, {"developer", ROLE_SYSTEM}, {"ctx", ROLE_SYSTEM},
                 {"msg", ROLE_SYSTEM},    {"user", ROLE_USER},        {"assistant", ROLE_ASSISTANT},
                 {"tool", ROLE_TOOL},     {"function", ROLE_TOOL}};
    for (size_t i = 0; i < QN_COUNT(known); i++)
        if (!strcmp(name, known[i].name)) return known[i].role;
    return ROLE_USER;
}

static bool is_space(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

static const struct qn_json *string_of(const struct qn_json *object, const char *key)
{
    const struct qn_json *v = qn_json_get(object, key);
    return qn_json_is(v, QN_JSON_STRING) ? v : NULL;
}

/* ---- content ---- */

bool qn_chat_is_billing_header(const char *text, size_t n)
{
    static const char header[] = "x-anthropic-billing-header";
    size_t at = 0;
    while (at < n && is_space(text[at])) at++;
    return n - at >= sizeof header - 1 && !memcmp(text + at, header, sizeof header - 1);
}

bool qn_chat_is_reminder(const char *text, size_t n)
{
    static const char open[] = "<system-reminder>", close[] = "</system-reminder>";
    const char *p = text, *end = text + n;
    bool is_any = false;
    for (;; is_any = true) {
        while (p < end && is_space(*p)) p++;
        if (p == end) return is_any;
        if ((size_t)(end - p) < sizeof open - 1 || memcmp(p, open, sizeof open - 1)) return false;
        p = memmem(p, (size_t)(end - p), close, sizeof close - 1);
        if (!p) return false;
        p += sizeof close - 1;
    }
}

/* A thought among the parts of a content: not visible text. Proxies leave other dialects' blocks there. */
static bool is_thought(const struct qn_json *part)
{
    static const char *const types[] = {"thinking", "redacted_thinking", "reasoning"};
    const struct qn_json *type = qn_json_get(part, "type");
    for (size_t i = 0; i < QN_COUNT(types); i++)
        if (qn_json_is_str(type, types[i])) return true;
    return false;
}

/* The mark of a picture or video that is known; NULL: it is not. Parts are met in the order in which they
 * were found, twice each; a lookup begins at the last one. */
static const struct qn_json *media_mark(struct qn_chat_normal *out, const struct qn_json *part)
{
    for (int n = 0; n < out->n_media; n++) {
        int i = (out->next_media + n) % out->n_media;
        if (out->media[i].part != part) continue;
        char mark[QN_CHAT_MEDIA_MARK + 1];
        out->next_media = i;
        qn_chat_media_mark(out->nonce, i, mark);
        return qn_json_new_str(out->arena, mark, QN_CHAT_MEDIA_MARK);
    }
    return NULL;
}

/* Where a part stands, in the client's own words. */
static void path_of(char *out, size_t n, const struct qn_json *part, size_t i, size_t k)
{
    const struct qn_json *path = string_of(part, QN_CHAT_PATH);
    if (path)
        snprintf(out, n, "%.120s", path->text);
    else
        snprintf(out, n, "messages[%zu].content[%zu]", i, k);
}

/* The text that stands for a part which is none. A result is not refused for what is in it: each later turn
 * of the session would be, too. */
static int other_text(struct qn_arena *arena, const struct qn_json *part, const char *path, const char *type,
                      bool is_lenient, const struct qn_json **text, struct qn_err *e)
{
    int rc = QN_OK;
    const char *medium = qn_chat_block_medium(part);
    const struct qn_json *own = string_of(part, QN_CHAT_TYPE);
    if (!type && medium && qn_json_get(part, "image_url")) type = "image_url";
    struct qn_buf b = QN_BUF_INIT((size_t)256 << 20);
    QN_FAIL_IF(
        medium && !is_lenient, e, QN_INVAL,
        "%s: a part of type '%.60s' is not supported: this model is served for text only; leave the part out",
        path,
        own    ? own->text
        : type ? type
               : medium);
    QN_FAIL_IF(!medium && !is_lenient && !qn_chat_block_is_known(part), e, QN_INVAL,
               "%s: unknown part type '%.60s'", path, type ? type : "");
    qn_chat_block_text(&b, part);
    *text = b.failed ? NULL : qn_json_new_str(arena, qn_buf_str(&b), b.n_byte);
    QN_NEED(*text, e);
out:
    qn_buf_free(&b);
    return rc;
}

/* What a part of a content list is in the prompt. */
struct piece {
    const struct qn_json *text; /* NULL: nothing */
    bool is_block; /* a document, a result or a line in place of one: it stands in lines of its own */
};

/* The text of one part of a content list. */
static int part_text(struct qn_chat_normal *out, const struct qn_json *part, size_t i, size_t k,
                     enum role role, struct piece *piece, struct qn_err *e)
{
    int rc = QN_OK;
    char path[128];
    const struct qn_json **text = &piece->text;
    *piece = (struct piece){0};
    if (qn_json_is_null(part)) goto out;
    if (part->type == QN_JSON_STRING) {
        *text = part;
        goto out;
    }
    path_of(path, sizeof path, part, i, k);
    QN_FAIL_IF(part->type != QN_JSON_OBJECT, e, QN_INVAL, "%s must be an object with a type", path);
    if (is_thought(part)) goto out;
    if (out->n_media && (*text = media_mark(out, part))) goto out;
    const struct qn_json *type = qn_json_get(part, "type");
    QN_FAIL_IF(!qn_json_is_null(type) && type->type != QN_JSON_STRING, e, QN_INVAL,
               "%s.type must be a string", path);
    const char *name = qn_json_is_null(type) || !type->text[0] ? NULL : type->text;
    bool is_text = name && (!strcmp(name, "text") || !strcmp(name, "input_text") ||
                            !strcmp(name, "output_text") || !strcmp(name, "refusal"));
    if (!is_text && (name || qn_chat_block_medium(part))) {
        bool is_lenient = role == ROLE_TOOL || role == ROLE_ASSISTANT ||
                          (string_of(part, QN_CHAT_PATH) && !qn_chat_block_medium(part));
        piece->is_block = true;
        QN_TRY(other_text(out->arena, part, path, name, is_lenient, text, e));
        goto out;
    }
    const char *key = name && !strcmp(name, "refusal") ? "refusal" : "text";
    const struct qn_json *v = qn_json_get(part, key);
    QN_FAIL_IF(!qn_json_is_null(v) && v->type != QN_JSON_STRING, e, QN_INVAL, "%s.%s must be a string", path,
               key);
    QN_FAIL_IF(qn_json_is_null(v), e, QN_INVAL, "%s has no '%s'", path, key);
    *text = v;
out:
    return rc;
}

/* A text made of two with a separator between when both are not empty. */
static struct qn_json *join(struct qn_arena *arena, const struct qn_json *a, const char *sep,
                            const struct qn_json *b)
{
    size_t n_a = a ? a->n : 0, n_b = b ? b->n : 0, n_sep = n_a && n_b ? strlen(sep) : 0;
    char *out = qn_arena_alloc(arena, n_a + n_sep + n_b + 1);
    struct qn_json *v = qn_json_new(arena, QN_JSON_STRING);
    if (!out || !v) return NULL;
    if (n_a) memcpy(out, a->text, n_a);
    memcpy(out + n_a, sep, n_sep);
    if (n_b) memcpy(out + n_a + n_sep, b->text, n_b);
    v->text = out;
    v->n = n_a + n_sep + n_b;
    return v;
}

/* The billing text a client puts before its system prompt is its first line or block. */
static struct qn_json *without_billing(struct qn_arena *arena, struct qn_json *text)
{
    if (!text || !qn_chat_is_billing_header(text->text, text->n)) return text;
    size_t at = 0;
    while (at < text->n && is_space(text->text[at])) at++;
    while (at < text->n && text->text[at] != '\n') at++;
    while (at < text->n && is_space(text->text[at])) at++;
    return qn_json_new_str(arena, text->text + at, text->n - at);
}

/* The content of message i as one text node; NULL for null or absent. */
static int content_text(struct qn_chat_normal *norm, const struct qn_json *content, size_t i, enum role role,
                        struct qn_json **out, struct qn_err *e)
{
    struct qn_arena *arena = norm->arena;
    int rc = QN_OK;
    const bool is_system = role == ROLE_SYSTEM;
    struct qn_json *text = NULL;
    if (qn_json_is_null(content)) {
        *out = NULL;
        goto out;
    }
    if (content->type == QN_JSON_STRING) {
        text = qn_json_new(arena, QN_JSON_STRING); /* its own node: marks are by address */
        QN_NEED(text, e);
        text->text = content->text;
        text->n = content->n;
    } else {
        QN_FAIL_IF(content->type != QN_JSON_ARRAY, e, QN_INVAL,
                   "messages[%zu].content must be a string, a list of parts or null", i);
        size_t n = 0;
        struct piece *pieces = qn_arena_alloc(arena, (content->n + 1) * sizeof *pieces);
        QN_NEED(pieces, e);
        for (size_t k = 0; k < content->n; k++) {
            QN_TRY(part_text(norm, content->items[k], i, k, role, &pieces[k], e));
            if (pieces[k].text) n += pieces[k].text->n + 1;
        }
        char *bytes = qn_arena_alloc(arena, n + 1);
        text = qn_json_new(arena, QN_JSON_STRING);
        QN_NEED(bytes && text, e);
        text->text = bytes;
        bool after_block = false;
        for (size_t k = 0; k < content->n; k++) {
            const struct qn_json *part = pieces[k].text;
            if (!part || (is_system && qn_chat_is_billing_header(part->text, part->n))) continue;
            bool is_apart = (after_block || pieces[k].is_block) && part->n && part->text[0] != '\n';
            if (is_apart && text->n && bytes[text->n - 1] != '\n') bytes[text->n++] = '\n';
            if (part->n) after_block = pieces[k].is_block;
            if (part->n) memcpy(bytes + text->n, part->text, part->n);
            text->n += part->n;
        }
    }
    if (is_system) {
        text = without_billing(arena, text);
        QN_NEED(text, e);
    }
    *out = text;
out:
    return rc;
}

/* ---- calls ---- */

/* Where a cut-off JSON text can be closed: scans it and parses the best prefix. */
static struct qn_json *recover(struct qn_arena *arena, const char *text, size_t n)
{
    char stack[QN_JSON_MAX_DEPTH], safe_stack[QN_JSON_MAX_DEPTH];
    size_t n_stack = 0, n_safe = 0, safe = 0;
    bool in_string = false;
    for (size_t i = 0; i < n; i++) {
        char c = text[i];
        if (in_string) {
            if (c == '\\')
                i++;
            else if (c == '"')
                in_string = false;
            continue;
        }
        if (c == '"') {
            in_string = true;
        } else if (c == '{' || c == '[') {
            if (n_stack == sizeof stack) return NULL;
            stack[n_stack++] = c == '{' ? '}' : ']';
        } else if (c == '}' || c == ']') {
            if (!n_stack) break;
            n_stack--;
        }
        if (c == ',' || c == '{' || c == '[') { /* before the comma, after the opener, all is whole */
            safe = c == ',' ? i : i + 1;
            n_safe = n_stack;
            memcpy(safe_stack, stack, n_stack);
        }
    }
    for (int attempt = 0; attempt < 2; attempt++) {
        struct qn_buf b = QN_BUF_INIT(n + 2 * sizeof stack);
        struct qn_json *v = NULL;
        const char *open = attempt ? safe_stack : stack;
        size_t n_open = attempt ? n_safe : n_stack;
        qn_buf_append(&b, text, attempt ? safe : n);
        if (!attempt && in_string) qn_buf_putc(&b, '"');
        while (n_open) qn_buf_putc(&b, open[--n_open]);
        bool ok = !b.failed && !qn_json_parse(&v, arena, qn_buf_str(&b), b.n_byte, "arguments", NULL);
        qn_buf_free(&b);
        if (ok && v->type == QN_JSON_OBJECT) return v;
    }
    return NULL;
}

struct qn_json *qn_chat_arguments(struct qn_arena *arena, const char *text, size_t n)
{
    struct qn_json *v = NULL;
    if (!qn_json_parse(&v, arena, text, n, "arguments", NULL)) {
        /* encoded twice */
        struct qn_json *inner = NULL;
        if (v->type == QN_JSON_STRING && !qn_json_parse(&inner, arena, v->text, v->n, "arguments", NULL))
            v = inner;
        if (v->type == QN_JSON_OBJECT) return v;
        return qn_json_new(arena, QN_JSON_OBJECT);
    }
    size_t at = 0;
    while (at < n && is_space(text[at])) at++;
    v = at < n && text[at] == '{' ? recover(arena, text + at, n - at) : NULL;
    return v ? v : qn_json_new(arena, QN_JSON_OBJECT);
}

static bool remember_call(struct qn_chat_normal *out, const char *id, const struct qn_json *name,
                          const struct qn_json *arguments)
{
    if (out->n_call == out->call_capacity) {
        size_t capacity = out->call_capacity ? out->call_capacity * 2 : 16;
        struct qn_chat_call *calls = qn_arena_alloc(out->arena, capacity * sizeof *calls);
        if (!calls) return false;
        if (out->n_call) memcpy(calls, out->calls, out->n_call * sizeof *calls);
        out->calls = calls;
        out->call_capacity = capacity;
    }
    out->calls[out->n_call++] = (struct qn_chat_call){id, name, arguments};
    return true;
}

/* One call in the shape {id, type, function{name, arguments}}, appended to list. */
static int add_call(struct qn_chat_normal *out, struct qn_json *list, const struct qn_json *call, size_t i,
                    size_t k, struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_arena *a = out->arena;
    QN_FAIL_IF(!qn_json_is(call, QN_JSON_OBJECT), e, QN_INVAL,
               "messages[%zu].tool_calls[%zu] must be an object", i, k);
    const struct qn_json *fn = qn_json_get(call, "function"), *id = string_of(call, "id");
    if (!qn_json_is(fn, QN_JSON_OBJECT)) fn = call;
    const struct qn_json *name = string_of(fn, "name"), *raw = qn_json_get(fn, "arguments");
    struct qn_json *arguments;
    if (qn_json_is(raw, QN_JSON_OBJECT))
        arguments = (struct qn_json *)raw;
    else if (qn_json_is(raw, QN_JSON_STRING))
        arguments = qn_chat_arguments(a, raw->text, raw->n);
    else
        arguments = qn_json_new(a, QN_JSON_OBJECT);
    struct qn_json *name_node = qn_json_new_str(a, name ? name->text : "", name ? name->n : 0);
    struct qn_json *one = qn_json_new(a, QN_JSON_OBJECT), *inner = qn_json_new(a, QN_JSON_OBJECT);
    QN_NEED(arguments && name_node && one && inner, e);
    if (id) QN_NEED(qn_json_set(a, one, "id", (struct qn_json *)id), e);
    QN_NEED(qn_json_set(a, one, "type", qn_json_new_str(a, "function", 8)), e);
    QN_NEED(qn_json_set(a, one, "function", inner), e);
    QN_NEED(qn_json_set(a, inner, "name", name_node), e);
    QN_NEED(qn_json_set(a, inner, "arguments", arguments), e);
    QN_NEED(qn_json_push(a, list, one), e);
    if (id && id->n) QN_NEED(remember_call(out, id->text, name_node, arguments), e);
out:
    return rc;
}

static int add_calls(struct qn_chat_normal *out, struct qn_json *to, const struct qn_json *from, size_t i,
                     struct qn_err *e)
{
    int rc = QN_OK;
    const struct qn_json *calls = qn_json_get(from, "tool_calls"), *old = qn_json_get(from, "function_call");
    QN_FAIL_IF(!qn_json_is_null(calls) && calls->type != QN_JSON_ARRAY, e, QN_INVAL,
               "messages[%zu].tool_calls must be a list", i);
    size_t n = qn_json_is_null(calls) ? 0 : calls->n;
    if (!n && !qn_json_is(old, QN_JSON_OBJECT)) goto out;
    struct qn_json *list = qn_json_new(out->arena, QN_JSON_ARRAY);
    QN_NEED(list, e);
    for (size_t k = 0; k < n; k++) QN_TRY(add_call(out, list, calls->items[k], i, k, e));
    if (!n) QN_TRY(add_call(out, list, old, i, 0, e));
    QN_NEED(qn_json_set(out->arena, to, "tool_calls", list), e);
out:
    return rc;
}

/* ---- messages ---- */

static enum role message_role(const struct qn_json *message)
{
    return role_of(qn_json_get(message, "role")->text);
}

static struct qn_json *new_message(struct qn_arena *a, enum role role, struct qn_json *content)
{
    struct qn_json *m = qn_json_new(a, QN_JSON_OBJECT);
    bool ok = m && content &&
              qn_json_set(a, m, "role", qn_json_new_str(a, role_names[role], strlen(role_names[role]))) &&
              qn_json_set(a, m, "content", content);
    return ok ? m : NULL;
}

/* The thoughts of a list of blocks, joined by newlines; *out stays as it is when there are none. */
static bool thoughts_of(struct qn_arena *a, const struct qn_json *blocks, struct qn_json **out)
{
    static const char *const keys[] = {"thinking", "text"};
    for (size_t i = 0; qn_json_is(blocks, QN_JSON_ARRAY) && i < blocks->n; i++)
        for (size_t k = 0; is_thought(blocks->items[i]) && k < QN_COUNT(keys); k++) {
            const struct qn_json *text = string_of(blocks->items[i], keys[k]);
            if (text && !(*out = join(a, *out, "\n", text))) return false;
        }
    return true;
}

static int assistant_fields(struct qn_chat_normal *out, struct qn_json *m, const struct qn_json *from,
                            const struct qn_json *content, size_t i, struct qn_err *e)
{
    int rc = QN_OK;
    static const char *const names[] = {"reasoning_content", "reasoning", "thinking"};
    for (size_t k = 0; k < QN_COUNT(names); k++) {
        const struct qn_json *v = string_of(from, names[k]);
        if (!v) continue;
        struct qn_json *copy = qn_json_new_str(out->arena, v->text, v->n);
        QN_NEED(copy && qn_json_set(out->arena, m, "reasoning_content", copy), e);
        break;
    }
    static const char *const lists[] = {"content", "thinking_blocks"};
    for (size_t k = 0; k < QN_COUNT(lists) && !qn_json_get(m, "reasoning_content"); k++) {
        struct qn_json *thoughts = NULL;
        QN_NEED(thoughts_of(out->arena, qn_json_get(from, lists[k]), &thoughts), e);
        if (thoughts) QN_NEED(qn_json_set(out->arena, m, "reasoning_content", thoughts), e);
    }
    struct qn_json *reasoning = qn_json_get(m, "reasoning_content"); /* templates ask by either name */
    if (reasoning) QN_NEED(qn_json_set(out->arena, m, "thinking", reasoning), e);
    QN_TRY(add_calls(out, m, from, i, e));
    /* templates ask whether a call's message has content; null stays null there */
    if (!content && qn_json_get(m, "tool_calls"))
        QN_NEED(qn_json_set(out->arena, m, "content", qn_json_new(out->arena, QN_JSON_NULL)), e);
out:
    return rc;
}

static int normal_message(struct qn_chat_normal *out, const struct qn_json *from, size_t i,
                          struct qn_json **message, struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_arena *a = out->arena;
    QN_FAIL_IF(!qn_json_is(from, QN_JSON_OBJECT), e, QN_INVAL, "messages[%zu] must be an object", i);
    const struct qn_json *role_name = qn_json_get(from, "role");
    QN_FAIL_IF(!qn_json_is_null(role_name) && role_name->type != QN_JSON_STRING, e, QN_INVAL,
               "messages[%zu].role must be a string", i);
    enum role role = qn_json_is_null(role_name) ? ROLE_USER : role_of(role_name->text);
    struct qn_json *content = NULL;
    QN_TRY(content_text(out, qn_json_get(from, "content"), i, role, &content, e));
    const struct qn_json *refusal = string_of(from, "refusal");
    if (!content && role == ROLE_ASSISTANT && refusal) {
        content = qn_json_new_str(a, refusal->text, refusal->n);
        QN_NEED(content, e);
    }
    struct qn_json *m = new_message(a, role, content ? content : qn_json_new_str(a, "", 0));
    QN_NEED(m, e);
    if (role == ROLE_ASSISTANT) QN_TRY(assistant_fields(out, m, from, content, i, e));
    static const char *const kept[] = {"tool_call_id", "name"};
    for (size_t k = role == ROLE_TOOL ? 0 : 1; k < QN_COUNT(kept); k++) {
        const struct qn_json *v = string_of(from, kept[k]);
        if (v) QN_NEED(qn_json_set(a, m, kept[k], (struct qn_json *)v), e);
    }
    *message = m;
out:
    return rc;
}

static bool append_text(struct qn_arena *a, struct qn_json *message, const struct qn_json *text, bool before)
{
    const struct qn_json *old = qn_json_get(message, "content");
    struct qn_json *both = before ? join(a, text, "\n\n", old) : join(a, old, "\n\n", text);
    return both && qn_json_set(a, message, "content", both);
}

/* Folds system messages: the leading ones into one, a later one into the user or tool message before it, else
 * into the one after it; a user message of its own only where there is neither. A user message behind a
 * result that is nothing but a reminder is one. */
static int fold_system(struct qn_chat_normal *out, struct qn_json *list, struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_arena *a = out->arena;
    struct qn_json *to = qn_json_new(a, QN_JSON_ARRAY), *pending = NULL;
    QN_NEED(to, e);
    for (size_t i = 0; i <= list->n; i++) {
        struct qn_json *m = i < list->n ? list->items[i] : NULL;
        enum role role = m ? message_role(m) : ROLE_ASSISTANT;
        struct qn_json *last = to->n ? to->items[to->n - 1] : NULL;
        struct qn_json *text = m ? qn_json_get(m, "content") : NULL;
        bool is_note = role == ROLE_USER && last && message_role(last) == ROLE_TOOL &&
                       qn_chat_is_reminder(text->text, text->n);
        if (m && (role == ROLE_SYSTEM || is_note)) {
            if (!last) {
                QN_NEED(qn_json_push(a, to, m), e);
            } else if (to->n == 1 && message_role(last) == ROLE_SYSTEM) {
                QN_NEED(append_text(a, last, text, false), e);
            } else if (!text->n) {
                continue;
            } else if (!pending && message_role(last) != ROLE_ASSISTANT) {
                QN_NEED(append_text(a, last, text, false), e);
            } else {
                pending = join(a, pending, "\n\n", text);
                QN_NEED(pending, e);
            }
            continue;
        }
        if (pending) {
            if (role == ROLE_USER || role == ROLE_TOOL) {
                QN_NEED(append_text(a, m, pending, true), e);
            } else {
                struct qn_json *own = new_message(a, ROLE_USER, pending);
                QN_NEED(own && qn_json_push(a, to, own), e);
            }
            pending = NULL;
        }
        if (m) QN_NEED(qn_json_push(a, to, m), e);
    }
    out->messages = to;
    out->n_lead = to->n && message_role(to->items[0]) == ROLE_SYSTEM;
out:
    return rc;
}

static uint64_t id_hash(const struct qn_json *id)
{
    return qn_hash_bytes(0, id->text, id->n) | 1;
}

/* Place of a result's call among the calls of the assistant message, SIZE_MAX when it answers none. */
static size_t call_place(const struct qn_map *places, const struct qn_json *calls,
                         const struct qn_json *result)
{
    const struct qn_json *id = string_of(result, "tool_call_id");
    uint64_t at;
    if (!id || !qn_map_get(places, id_hash(id), &at)) return SIZE_MAX;
    const struct qn_json *call_id = string_of(calls->items[at], "id");
    return call_id->n == id->n && !memcmp(call_id->text, id->text, id->n) ? (size_t)at : SIZE_MAX;
}

/* Tool results after an assistant message are put in the order of its calls, when each answers one of them:
 * the prompt does not show the ids. System messages between them stay where they are. */
static bool order_results(struct qn_arena *arena, struct qn_json *list)
{
    for (size_t i = 0; i < list->n; i++) {
        const struct qn_json *calls = qn_json_get(list->items[i], "tool_calls");
        if (!calls || !calls->n) continue;
        struct qn_json **places = qn_arena_alloc(arena, calls->n * sizeof(void *));
        struct qn_map by_id = {0};
        if (!places) return false;
        for (size_t k = calls->n; k-- > 0;) { /* the first of equal ids counts */
            const struct qn_json *id = string_of(calls->items[k], "id");
            if (id) qn_map_put(&by_id, id_hash(id), k);
        }
        size_t end = i + 1, n = 0;
        bool ok = true;
        for (; end < list->n && ok; end++) {
            enum role role = message_role(list->items[end]);
            if (role == ROLE_SYSTEM) continue;
            if (role != ROLE_TOOL) break;
            size_t at = call_place(&by_id, calls, list->items[end]);
            ok = at != SIZE_MAX && !places[at];
            if (ok) places[at] = list->items[end];
            n++;
        }
        qn_map_free(&by_id);
        if (!ok || n < 2) continue;
        for (size_t k = i + 1, at = 0; k < end; k++) {
            if (message_role(list->items[k]) != ROLE_TOOL) continue;
            while (!places[at]) at++;
            list->items[k] = places[at++];
        }
    }
    return true;
}

int qn_chat_normal_messages(struct qn_chat_normal *out, const struct qn_json *messages, struct qn_err *e)
{
    int rc = QN_OK;
    QN_FAIL_IF(qn_json_is_null(messages), e, QN_INVAL, "messages is missing");
    QN_FAIL_IF(messages->type != QN_JSON_ARRAY, e, QN_INVAL, "messages must be a list");
    QN_FAIL_IF(!messages->n, e, QN_INVAL, "messages is empty; send at least one message");
    QN_FAIL_IF(messages->n > QN_CHAT_MAX_MESSAGES, e, QN_TOOBIG,
               "messages holds %zu messages; the limit is %d", messages->n, QN_CHAT_MAX_MESSAGES);
    struct qn_json *list = qn_json_new(out->arena, QN_JSON_ARRAY);
    QN_NEED(list, e);
    for (size_t i = 0; i < messages->n; i++) {
        struct qn_json *m = NULL;
        QN_TRY(normal_message(out, messages->items[i], i, &m, e));
        QN_NEED(qn_json_push(out->arena, list, m), e);
    }
    QN_NEED(order_results(out->arena, list), e);
    QN_TRY(fold_system(out, list, e));
out:
    return rc;
}

bool qn_chat_has_query(const struct qn_json *messages)
{
    static const char open[] = "<tool_response>", close[] = "</tool_response>";
    for (size_t i = 0; i < messages->n; i++) {
        const struct qn_json *m = messages->items[i], *content = qn_json_get(m, "content");
        if (message_role(m) != ROLE_USER) continue;
        const char *p = content->text, *end = p + content->n;
        while (p < end && is_space(*p)) p++;
        while (end > p && is_space(end[-1])) end--;
        size_t n = (size_t)(end - p);
        if (n < sizeof close - 1 || memcmp(p, open, sizeof open - 1) ||
            memcmp(end - sizeof close + 1, close, sizeof close - 1))
            return true;
    }
    return false;
}

/* ---- tools ---- */

/* Keeps name, description and parameters in the client's order. */
static int normal_function(struct qn_json **out, struct qn_arena *a, const struct qn_json *from,
                           const char *what, size_t i, struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_json *fn = qn_json_new(a, QN_JSON_OBJECT);
    QN_NEED(fn, e);
    for (size_t k = 0; k < from->n; k++) {
        const char *key = from->keys[k].text;
        if (strcmp(key, "name") && strcmp(key, "description") && strcmp(key, "parameters")) continue;
        QN_NEED(qn_json_set(a, fn, key, from->items[k]), e);
    }
    const struct qn_json *name = string_of(fn, "name");
    QN_FAIL_IF(!name || !name->n, e, QN_INVAL, "%s[%zu]: a tool needs a name", what, i);
    *out = fn;
out:
    return rc;
}

/* What is about a tool, not of it: for whoever reads calls, never for the prompt. */
static bool keep_flags(struct qn_arena *a, struct qn_json *to, const struct qn_json *from)
{
    static const char *const flags[] = {"strict", "defer_loading"};
    for (size_t i = 0; i < QN_COUNT(flags); i++) {
        struct qn_json *v = qn_json_get(from, flags[i]);
        if (qn_json_is_null(v)) v = qn_json_get(qn_json_get(from, "function"), flags[i]);
        if (!qn_json_is_null(v) && !qn_json_set(a, to, flags[i], v)) return false;
    }
    return true;
}

bool qn_chat_flag_tool(struct qn_chat *c, const struct qn_json *from)
{
    return c->tools && c->tools->n && keep_flags(c->arena, c->tools->items[c->tools->n - 1], from);
}

int qn_chat_normal_tools(struct qn_json **out, struct qn_arena *a, const struct qn_json *tools,
                         const char *what, bool keeps_flags, int *n_skipped, struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_json *list = NULL;
    *n_skipped = 0;
    if (qn_json_is_null(tools)) goto done;
    QN_FAIL_IF(tools->type != QN_JSON_ARRAY, e, QN_INVAL, "%s must be a list", what);
    QN_FAIL_IF(tools->n > QN_CHAT_MAX_TOOLS, e, QN_TOOBIG, "%s holds %zu tools; the limit is %d", what,
               tools->n, QN_CHAT_MAX_TOOLS);
    list = qn_json_new(a, QN_JSON_ARRAY);
    QN_NEED(list, e);
    for (size_t i = 0; i < tools->n; i++) {
        const struct qn_json *from = tools->items[i];
        QN_FAIL_IF(!qn_json_is(from, QN_JSON_OBJECT), e, QN_INVAL, "%s[%zu] must be an object", what, i);
        const struct qn_json *type = qn_json_get(from, "type"), *fn = qn_json_get(from, "function");
        if (!qn_json_is_null(type) && !qn_json_is_str(type, "function")) {
            ++*n_skipped;
            continue;
        }
        struct qn_json *one = qn_json_new(a, QN_JSON_OBJECT), *kept = NULL;
        QN_NEED(one, e);
        if (qn_json_is(fn, QN_JSON_OBJECT)) {
            QN_TRY(normal_function(&kept, a, fn, what, i, e));
            for (size_t k = 0; k < from->n; k++) {
                const char *key = from->keys[k].text;
                if (!strcmp(key, "function")) QN_NEED(qn_json_set(a, one, key, kept), e);
                if (!strcmp(key, "type") && from->items[k]->type == QN_JSON_STRING)
                    QN_NEED(qn_json_set(a, one, key, from->items[k]), e);
            }
        } else { /* the function itself, without its wrapper */
            QN_TRY(normal_function(&kept, a, from, what, i, e));
            QN_NEED(qn_json_set(a, one, "type", qn_json_new_str(a, "function", 8)), e);
            QN_NEED(qn_json_set(a, one, "function", kept), e);
        }
        if (keeps_flags) QN_NEED(keep_flags(a, one, from), e);
        QN_NEED(qn_json_push(a, list, one), e);
    }
done:
    *out = list && list->n ? list : NULL;
out:
    return rc;
}
