/* Requests of the responses dialect: items to a conversation, tools to functions.
 * SPDX-License-Identifier: Apache-2.0 */
#include <strings.h>

#include "server/api.h"
#include "server/compact.h"
#include "server/form.h"
#include "server/responses.h"
#include "server/stored.h"
#include "text/chat_block.h"

static const char *str_of(const struct qn_json *v, const char *key)
{
    const struct qn_json *text = qn_json_get(v, key);
    return qn_json_is(text, QN_JSON_STRING) ? text->text : NULL;
}

static const char *type_of(const struct qn_json *v)
{
    const char *type = str_of(v, "type");
    return type ? type : "";
}

static struct qn_json *new_text(struct qn_arena *arena, const char *text)
{
    return qn_json_new_str(arena, text, strlen(text));
}

/* Is an input_file a picture, by its data address or its name? */
static bool is_picture(const struct qn_json *file)
{
    static const char *const tails[] = {".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".avif", ".heic"};
    const struct qn_json *data = qn_json_get(file, "file_data"), *url = qn_json_get(file, "file_url");
    const struct qn_json *name = qn_json_get(file, "filename");
    if (!qn_json_is(data, QN_JSON_STRING) && !qn_json_is(url, QN_JSON_STRING)) return false;
    if (qn_json_is(data, QN_JSON_STRING) && !strncmp(data->text, "data:image/", 11)) return true;
    if (!qn_json_is(name, QN_JSON_STRING)) name = url;
    for (size_t i = 0; qn_json_is(name, QN_JSON_STRING) && i < QN_COUNT(tails); i++) {
        size_t n = strlen(tails[i]);
        if (name->n >= n && !strcasecmp(name->text + name->n - n, tails[i])) return true;
    }
    return false;
}

/* A copy of a part that says where the client put it, and what the client called it. */
static struct qn_json *with_path(struct qn_arena *arena, const struct qn_json *from, const char *path)
{
    struct qn_json *part = qn_json_new(arena, QN_JSON_OBJECT);
    for (size_t i = 0; part && i < from->n; i++)
        if (!qn_json_set(arena, part, from->keys[i].text, from->items[i])) return NULL;
    bool ok = part && qn_json_set(arena, part, QN_CHAT_PATH, new_text(arena, path)) &&
              (!*type_of(from) || qn_json_set(arena, part, QN_CHAT_TYPE, new_text(arena, type_of(from))));
    return ok ? part : NULL;
}

/* input_text, output_text, input_image -> the parts of a chat message; others as they are, with their path */
static struct qn_json *convert_parts(struct qn_arena *arena, struct qn_json *content, const char *path)
{
    if (!qn_json_is(content, QN_JSON_ARRAY)) return content;
    struct qn_json *parts = qn_json_new(arena, QN_JSON_ARRAY);
    for (size_t i = 0; parts && i < content->n; i++) {
        struct qn_json *from = content->items[i], *part;
        const char *type = type_of(from);
        char own[96];
        snprintf(own, sizeof own, "%.64s[%zu]", path, i);
        if (!qn_json_is(from, QN_JSON_OBJECT)) {
            if (!qn_json_push(arena, parts, from)) return NULL;
            continue;
        }
        bool is_file = !strcmp(type, "input_file") && is_picture(from);
        if (!strcmp(type, "input_image") || is_file) {
            struct qn_json *inner = qn_json_new(arena, QN_JSON_OBJECT), *url = qn_json_get(from, "image_url");
            struct qn_json *detail = qn_json_get(from, "detail");
            if (is_file) url = qn_json_get(from, "file_data");
            if (is_file && !url) url = qn_json_get(from, "file_url");
            part = with_path(arena, from, own);
            if (!inner || !part) return NULL;
            if (qn_json_is(url, QN_JSON_OBJECT))
                inner = url;
            else if (url)
                qn_json_set(arena, inner, "url", url);
            if (!qn_json_is_null(detail)) qn_json_set(arena, inner, "detail", detail);
            qn_json_set(arena, part, "type", new_text(arena, "image_url"));
            qn_json_set(arena, part, "image_url", inner);
        } else {
            struct qn_json *text = qn_json_get(from, "text");
            bool is_text = !strcmp(type, "input_text") || !strcmp(type, "output_text") ||
                           !strcmp(type, "text") || !*type;
            if (!text) text = qn_json_get(from, "refusal");
            if (is_text && !qn_json_is(text, QN_JSON_STRING)) continue;
            if (is_text || !strcmp(type, "refusal") || !strcmp(type, "summary_text") ||
                !strcmp(type, "reasoning_text")) {
                part = qn_json_new(arena, QN_JSON_OBJECT);
                if (!part) return NULL;
                qn_json_set(arena, part, "type", new_text(arena, "text"));
                qn_json_set(arena, part, "text", text ? text : new_text(arena, ""));
            } else {
                part = with_path(arena, from, own); /* the conversation's reader knows what to say about it */
            }
        }
        if (!part || !qn_json_push(arena, parts, part)) return NULL;
    }
    return parts;
}

/* Text of a reasoning item: its content, else its summary. */
static struct qn_json *reasoning_text(struct qn_arena *arena, const struct qn_json *item)
{
    struct qn_buf text = QN_BUF_INIT((size_t)256 << 20);
    static const char *const keys[] = {"content", "summary"};
    for (size_t k = 0; k < QN_COUNT(keys) && !text.n_byte; k++) {
        const struct qn_json *list = qn_json_get(item, keys[k]);
        for (size_t i = 0; qn_json_is(list, QN_JSON_ARRAY) && i < list->n; i++) {
            const struct qn_json *part = qn_json_get(list->items[i], "text");
            if (!qn_json_is(part, QN_JSON_STRING)) continue;
            if (text.n_byte) qn_buf_putc(&text, '\n');
            qn_buf_append(&text, part->text, part->n);
        }
    }
    struct qn_json *out = qn_json_new_str(arena, qn_buf_str(&text), text.n_byte);
    qn_buf_free(&text);
    return out;
}

struct reader {
    struct qn_ask *a;
    struct qn_responses_state *t;
    struct qn_json *assistant; /* the assistant message that items are added to, or NULL */
    bool has_text, has_call;   /* of that message */
};

static int read_tool(struct qn_ask *a, struct qn_responses_state *t, const struct qn_json *tool,
                     const char *path, const struct qn_json *space, bool is_found, struct qn_err *e);

const struct qn_responses_tool *qn_responses_tool_of(const struct qn_responses_state *t, const char *full)
{
    for (int i = 0; i < t->n_tool; i++)
        if (!strcmp(t->tools[i].full, full)) return &t->tools[i];
    return NULL;
}

/* The name under which a tool is in the prompt, from the name and namespace of a client's item. */
static const char *full_name(const struct reader *r, const char *name, const char *space)
{
    const struct qn_responses_tool *only = NULL;
    int n = 0;
    for (int i = 0; i < r->t->n_tool; i++) {
        const struct qn_responses_tool *tool = &r->t->tools[i];
        if (strcmp(tool->name, name) != 0) continue;
        if (space ? tool->name_space && !strcmp(tool->name_space, space) : !tool->name_space)
            return tool->full;
        if (!space) only = tool, n++;
    }
    for (size_t i = 0; r->a->chat.tools && i < r->a->chat.tools->n; i++)
        if (!space &&
            qn_json_is_str(qn_json_get(qn_json_get(r->a->chat.tools->items[i], "function"), "name"), name))
            return name;
    if (n == 1) return only->full;
    if (!space) return name;
    char *full = qn_arena_alloc(r->a->arena, strlen(space) + strlen(name) + 3);
    if (full) sprintf(full, "%s__%s", space, name);
    return full ? full : name;
}

static struct qn_json *assistant_message(struct reader *r)
{
    if (!r->assistant) {
        r->assistant = qn_chat_add_message(&r->a->chat, "assistant", NULL);
        r->has_text = r->has_call = false;
    }
    return r->assistant;
}

static bool add_parts(struct qn_arena *arena, struct qn_json *parts, struct qn_json *content)
{
    if (qn_json_is(content, QN_JSON_ARRAY)) {
        for (size_t i = 0; i < content->n; i++)
            if (!qn_json_push(arena, parts, content->items[i])) return false;
        return true;
    }
    struct qn_json *part = qn_json_new(arena, QN_JSON_OBJECT);
    return part && qn_json_set(arena, part, "type", new_text(arena, "text")) &&
           qn_json_set(arena, part, "text", content) && qn_json_push(arena, parts, part);
}

/* Text of an assistant. Beside calls whose results are still to come it belongs to the same turn, before or
 * behind them (there are clients and proxies that send it last): a turn of its own would come between calls
 * and results. */
static bool add_text(struct reader *r, struct qn_json *content)
{
    struct qn_arena *arena = r->a->arena;
    if (r->has_text && !r->has_call) r->assistant = NULL;
    struct qn_json *message = assistant_message(r);
    if (!message) return false;
    if (!qn_json_is(content, QN_JSON_STRING) && !qn_json_is(content, QN_JSON_ARRAY)) {
        if (content && !r->has_text) qn_json_set(arena, message, "content", content);
        return true;
    }
    if (r->has_text) {
        struct qn_json *parts = qn_json_new(arena, QN_JSON_ARRAY);
        if (!parts || !add_parts(arena, parts, qn_json_get(message, "content")) ||
            !add_parts(arena, parts, new_text(arena, "\n")) || !add_parts(arena, parts, content))
            return false;
        content = parts;
    }
    r->has_text = true;
    return qn_json_set(arena, message, "content", content);
}

static int too_large(struct qn_err *e)
{
    return qn_err_set(e, QN_TOOBIG, __FILE__, __LINE__, "input: the request is too large");
}

static bool ends_in(const char *s, const char *end)
{
    size_t n = strlen(s), k = strlen(end);
    return n >= k && !strcmp(s + n - k, end);
}

/* A call of a function, a custom tool or the client's search. */
static int read_call(struct reader *r, const struct qn_json *item, size_t at, struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_arena *arena = r->a->arena;
    const char *type = type_of(item), *name = str_of(item, "name"), *id = str_of(item, "call_id");
    struct qn_json *arguments = qn_json_get(item, "arguments"), *message;
    if (!strcmp(type, "tool_search_call")) name = "tool_search";
    if (!strcmp(type, "custom_tool_call")) {
        arguments = qn_json_new(arena, QN_JSON_OBJECT);
        struct qn_json *input = qn_json_get(item, "input");
        if (arguments && input) qn_json_set(arena, arguments, "input", input);
    }
    if (!arguments) arguments = qn_json_new(arena, QN_JSON_OBJECT);
    QN_FAIL_IF(!name, e, QN_INVAL, "input[%zu]: a call needs a name", at);
    name = full_name(r, name, str_of(item, "namespace"));
    message = assistant_message(r);
    if (!message || !qn_chat_add_call(&r->a->chat, message, id ? id : "", name, arguments)) rc = too_large(e);
    r->has_call = true;
out:
    return rc;
}

/* What a search of the client's found: tools, shown here and callable from here on. */
static struct qn_json *found_tools(struct reader *r, const struct qn_json *item, size_t at, struct qn_err *e)
{
    struct qn_arena *arena = r->a->arena;
    const struct qn_json *tools = qn_json_get(item, "tools");
    struct qn_json *parts = qn_json_new(arena, QN_JSON_ARRAY);
    for (size_t i = 0; parts && qn_json_is(tools, QN_JSON_ARRAY) && i < tools->n; i++) {
        char path[64];
        size_t before = r->a->chat.tools ? r->a->chat.tools->n : 0;
        snprintf(path, sizeof path, "input[%zu].tools[%zu]", at, i);
        if (read_tool(r->a, r->t, tools->items[i], path, NULL, true, e)) return NULL;
        for (size_t k = before; r->a->chat.tools && k < r->a->chat.tools->n; k++) {
            struct qn_json *part = qn_json_new(arena, QN_JSON_OBJECT);
            struct qn_json *name = qn_json_get(qn_json_get(r->a->chat.tools->items[k], "function"), "name");
            if (parts->n) add_parts(arena, parts, new_text(arena, "\n"));
            if (!part || !qn_json_set(arena, part, "type", new_text(arena, "tool_reference")) ||
                !qn_json_set(arena, part, "tool_name", name) || !qn_json_push(arena, parts, part))
                return NULL;
        }
    }
    if (parts && !parts->n) add_parts(arena, parts, new_text(arena, "No tools were found."));
    return parts;
}

/* A result, of whatever kind of call. */
static int read_output(struct reader *r, struct qn_json *item, size_t at, struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_arena *arena = r->a->arena;
    const char *type = type_of(item);
    struct qn_json *output = qn_json_get(item, "output"), *id = qn_json_get(item, "call_id");
    char path[64];
    r->assistant = NULL;
    snprintf(path, sizeof path, "input[%zu].output", at);
    if (!strcmp(type, "tool_search_output")) {
        output = found_tools(r, item, at, e);
        if (!output) return e && e->code ? e->code : too_large(e);
    } else if (!output || qn_json_is(output, QN_JSON_OBJECT) || strcmp(type, "function_call_output") != 0) {
        /* of a shell, a patch, a screen: one block */
        if (!qn_json_is(output, QN_JSON_STRING)) {
            struct qn_json *part = with_path(arena, item, path), *parts = qn_json_new(arena, QN_JSON_ARRAY);
            if (!part || !parts || !qn_json_push(arena, parts, part)) return too_large(e);
            if (!strcmp(type, "custom_tool_call_output") && qn_json_is(output, QN_JSON_ARRAY))
                parts = convert_parts(arena, output, path);
            output = parts;
        }
    } else {
        output = convert_parts(arena, output, path);
    }
    struct qn_json *message = output ? qn_chat_add_message(&r->a->chat, "tool", output) : NULL;
    if (!message) rc = too_large(e);
    if (message && id) qn_json_set(arena, message, "tool_call_id", id);
    return rc;
}

static int read_message(struct reader *r, const struct qn_json *item, size_t at, struct qn_err *e)
{
    int rc = QN_OK;
    const char *role = str_of(item, "role");
    char path[64];
    QN_FAIL_IF(!role, e, QN_INVAL, "input[%zu]: a message needs a role", at);
    struct qn_json *content = qn_json_get(item, "content");
    QN_FAIL_IF(!qn_json_is_null(content) && !qn_json_is(content, QN_JSON_STRING) &&
                   !qn_json_is(content, QN_JSON_ARRAY),
               e, QN_INVAL, "input[%zu].content must be a string or an array of parts", at);
    snprintf(path, sizeof path, "input[%zu].content", at);
    content = convert_parts(r->a->arena, content, path);
    if (!strcmp(role, "assistant")) {
        if (!add_text(r, content)) rc = too_large(e);
    } else {
        r->assistant = NULL;
        if (!qn_chat_add_message(&r->a->chat, role, content)) rc = too_large(e);
    }
out:
    return rc;
}

/* What a vendor's tool did, as text of the assistant. */
static int read_foreign(struct reader *r, const struct qn_json *item, size_t at, struct qn_err *e)
{
    struct qn_arena *arena = r->a->arena;
    char path[32];
    snprintf(path, sizeof path, "input[%zu]", at);
    struct qn_json *part = with_path(arena, item, path), *parts = qn_json_new(arena, QN_JSON_ARRAY);
    if (!part || !parts || !qn_json_push(arena, parts, part) || !add_text(r, parts)) return too_large(e);
    return QN_OK;
}

/* What qn_api_compact made of a conversation. */
static int read_compaction(struct reader *r, const struct qn_json *item, size_t at, struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_buf text = QN_BUF_INIT((size_t)64 << 20);
    const char *sealed = str_of(item, "encrypted_content");
    r->assistant = NULL;
    QN_FAIL_IF(!sealed || !qn_compaction_open(&text, sealed), e, QN_INVAL,
               "input[%zu]: this compaction was not made here; send the conversation, or have it compacted "
               "by this server",
               at);
    if (!qn_chat_add_message(&r->a->chat, "user",
                             qn_json_new_str(r->a->arena, qn_buf_str(&text), text.n_byte)))
        rc = too_large(e);
out:
    qn_buf_free(&text);
    return rc;
}

static int read_item(struct reader *r, struct qn_json *item, size_t at, struct qn_err *e)
{
    int rc = QN_OK;
    const char *type = type_of(item), *role = str_of(item, "role");
    QN_FAIL_IF(!qn_json_is(item, QN_JSON_OBJECT), e, QN_INVAL, "input[%zu] is not an object", at);
    QN_FAIL_IF(!strcmp(type, "item_reference"), e, QN_INVAL,
               "input[%zu]: item_reference is not supported; send the item itself", at);
    if (!strcmp(type, "function_call") || !strcmp(type, "custom_tool_call") ||
        !strcmp(type, "tool_search_call")) {
        QN_TRY(read_call(r, item, at, e));
    } else if (ends_in(type, "_output")) {
        QN_TRY(read_output(r, item, at, e));
    } else if (!strcmp(type, "reasoning")) {
        if (r->has_text || r->has_call) r->assistant = NULL;
        struct qn_json *message = assistant_message(r);
        if (!message) return too_large(e);
        qn_json_set(r->a->arena, message, "reasoning_content", reasoning_text(r->a->arena, item));
    } else if (!strcmp(type, "message") || (!*type && role)) {
        QN_TRY(read_message(r, item, at, e));
    } else if (!strcmp(type, "compaction") || !strcmp(type, "compaction_summary")) {
        QN_TRY(read_compaction(r, item, at, e));
    } else {
        QN_TRY(read_foreign(r, item, at, e));
    }
out:
    return rc;
}

/* A tool whose calls the client wants back under another name or type than the model writes. */
static int keep_tool(struct qn_ask *a, struct qn_responses_state *t, struct qn_responses_tool tool,
                     struct qn_err *e)
{
    int rc = QN_OK;
    if (t->n_tool == t->cap_tool) {
        int cap = t->cap_tool ? 2 * t->cap_tool : 16;
        struct qn_responses_tool *more = qn_arena_alloc(a->arena, (size_t)cap * sizeof *more);
        QN_FAIL_IF(!more, e, QN_TOOBIG, "tools: the request is too large");
        if (t->n_tool) memcpy(more, t->tools, (size_t)t->n_tool * sizeof *more);
        t->tools = more;
        t->cap_tool = cap;
    }
    t->tools[t->n_tool++] = tool;
out:
    return rc;
}

static bool is_there(const struct qn_ask *a, const char *name)
{
    for (size_t i = 0; a->chat.tools && i < a->chat.tools->n; i++)
        if (qn_json_is_str(qn_json_get(qn_json_get(a->chat.tools->items[i], "function"), "name"), name))
            return true;
    return false;
}

/* The schema of what is called by no arguments of its own: free text as one string. */
static int parameters_of(struct qn_json **out, struct qn_ask *a, const struct qn_json *tool,
                         enum item_kind kind, struct qn_err *e)
{
    static const char text[] = "{\"type\":\"object\",\"properties\":{\"input\":{\"type\":\"string\"}},"
                               "\"required\":[\"input\"]}",
                      search[] = "{\"type\":\"object\",\"properties\":{\"query\":{\"type\":\"string\"}},"
                                 "\"required\":[\"query\"]}";
    *out = qn_json_get(tool, "parameters");
    if (kind == ITEM_CUSTOM) return qn_json_parse(out, a->arena, text, sizeof text - 1, "schema", e);
    if (kind == ITEM_SEARCH && qn_json_is_null(*out))
        return qn_json_parse(out, a->arena, search, sizeof search - 1, "schema", e);
    return QN_OK;
}

/* One tool; space: the namespace around it. is_found: by a search, so it is shown where it was found. */
static int read_tool(struct qn_ask *a, struct qn_responses_state *t, const struct qn_json *tool,
                     const char *path, const struct qn_json *space, bool is_found, struct qn_err *e)
{
    int rc = QN_OK;
    const char *type = type_of(tool), *name = str_of(tool, "name"), *space_name = str_of(space, "name");
    const struct qn_json *inner = qn_json_get(tool, "function");
    struct qn_json *tools, *parameters;
    char inner_path[96];
    if (!strcmp(type, "namespace") && !space) {
        QN_FAIL_IF(!name, e, QN_INVAL, "%s: a namespace needs a name", path);
        QN_TRY(qn_json_get_arr(tool, "tools", &tools, e));
        for (size_t i = 0; tools && i < tools->n; i++) {
            snprintf(inner_path, sizeof inner_path, "%.64s.tools[%zu]", path, i);
            QN_TRY(read_tool(a, t, tools->items[i], inner_path, tool, is_found, e));
        }
        return QN_OK;
    }
    if (qn_json_is(inner, QN_JSON_OBJECT)) { /* the chat spelling */
        tool = inner;
        name = str_of(tool, "name");
    }
    bool is_search = !strcmp(type, "tool_search") && qn_json_is_str(qn_json_get(tool, "execution"), "client");
    if (is_search && !name) name = "tool_search";
    enum item_kind kind = is_search ? ITEM_SEARCH : !strcmp(type, "custom") ? ITEM_CUSTOM : ITEM_CALL;
    if (kind == ITEM_CALL && strcmp(type, "function") != 0) { /* the vendor's own */
        a->chat.n_tools_skipped++;
        a->chat.loads_all |= !strcmp(type, "tool_search");
        return qn_ask_add_foreign_tool(a, type, name ? name : type, e);
    }
    QN_FAIL_IF(!name, e, QN_INVAL, "%s: a %s tool needs a name", path, type);
    size_t n_full = strlen(name) + (space_name ? strlen(space_name) + 2 : 0) + 1;
    char *full = qn_arena_alloc(a->arena, n_full);
    QN_FAIL_IF(!full, e, QN_TOOBIG, "tools: the request is too large");
    snprintf(full, n_full, "%s%s%s", space_name ? space_name : "", space_name ? "__" : "", name);
    if (is_found && is_there(a, full)) return QN_OK;
    QN_TRY(parameters_of(&parameters, a, tool, kind, e));
    QN_FAIL_IF(!qn_chat_add_tool(&a->chat, full, qn_json_get(tool, "description"), parameters) ||
                   !qn_chat_flag_tool(&a->chat, space ? space : tool) || !qn_chat_flag_tool(&a->chat, tool),
               e, QN_TOOBIG, "tools: the request is too large");
    if (is_found)
        qn_json_set(a->arena, a->chat.tools->items[a->chat.tools->n - 1], "defer_loading",
                    qn_json_new_bool(a->arena, true));
    if (space || kind != ITEM_CALL)
        QN_TRY(keep_tool(a, t, (struct qn_responses_tool){full, space_name, name, kind}, e));
out:
    return rc;
}

/* tool_choice with names as the prompt has them: {"name", "namespace"} is one name there. */
static const struct qn_json *full_choice(const struct reader *r, const struct qn_json *choice, int depth)
{
    struct qn_arena *arena = r->a->arena;
    if (depth > 3 || !choice) return choice;
    if (choice->type == QN_JSON_ARRAY) {
        struct qn_json *list = qn_json_new(arena, QN_JSON_ARRAY);
        for (size_t i = 0; list && i < choice->n; i++)
            qn_json_push(arena, list,
                         (struct qn_json *)(uintptr_t)full_choice(r, choice->items[i], depth + 1));
        return list ? list : choice;
    }
    if (choice->type != QN_JSON_OBJECT) return choice;
    struct qn_json *out = qn_json_new(arena, QN_JSON_OBJECT);
    const char *name = str_of(choice, "name"), *space = str_of(choice, "namespace");
    for (size_t i = 0; out && i < choice->n; i++) {
        bool is_list =
            !strcmp(choice->keys[i].text, "tools") || !strcmp(choice->keys[i].text, "allowed_tools");
        const struct qn_json *v = is_list ? full_choice(r, choice->items[i], depth + 1) : choice->items[i];
        qn_json_set(arena, out, choice->keys[i].text, (struct qn_json *)(uintptr_t)v);
    }
    if (out && name) qn_json_set(arena, out, "name", new_text(arena, full_name(r, name, space)));
    return out ? out : choice;
}

/* previous_response_id: the items of the conversation so far. */
static int read_previous(struct qn_responses_state *t, struct qn_exchange *x, struct qn_arena *arena,
                         struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_buf text = QN_BUF_INIT(QN_STORED_MAX_BYTES);
    if (!t->previous) return QN_OK;
    x->param = "previous_response_id";
    QN_FAIL_IF(
        !qn_stored_get(x->server->stored, t->previous, qn_server_owner(x->server, x), NULL, &text), e,
        QN_NOTFOUND,
        "previous_response_id '%.80s' is not known: it was not stored, or has been forgotten; send the whole "
        "conversation",
        t->previous);
    struct qn_json *items;
    QN_TRY(qn_json_parse(&items, arena, qn_buf_str(&text), text.n_byte, "the stored response", e));
    for (size_t i = 0; i < items->n; i++)
        QN_FAIL_IF(!qn_json_push(arena, t->items, items->items[i]), e, QN_TOOBIG,
                   "the conversation is too large");
    x->param = NULL;
out:
    qn_buf_free(&text);
    return rc;
}

static int read_form(struct qn_ask *a, struct qn_exchange *x, const struct qn_json *body, struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_json *text;
    x->param = "text";
    QN_TRY(qn_json_get_obj(body, "text", &text, e));
    const struct qn_json *format = qn_json_get(text, "format");
    if (!qn_json_is_null(format)) QN_TRY(qn_ask_add_format(a, x, format, "text.format", e));
    QN_TRY(qn_ask_read_form(a, x, body, e));
out:
    return rc;
}

/* include: ["message.output_text.logprobs"], and top_logprobs, which asks for them as well. */
static int read_logprobs(struct qn_ask *a, struct qn_exchange *x, const struct qn_json *body,
                         struct qn_err *e)
{
    int rc = QN_OK;
    int64_t top = 0;
    struct qn_json *include;
    x->param = "include";
    QN_TRY(qn_json_get_arr(body, "include", &include, e));
    for (size_t i = 0; include && i < include->n; i++)
        a->wants_logprobs |= qn_json_is_str(include->items[i], "message.output_text.logprobs");
    QN_TRY(qn_ask_read_int(x, body, "top_logprobs", 0, QN_MAX_TOP, &top, e));
    a->wants_logprobs |= top > 0;
    a->sample.n_top = a->wants_logprobs ? (int)top : -1;
    x->param = NULL;
out:
    return rc;
}

int qn_api_read_responses(struct qn_ask *a, struct qn_exchange *x, const struct qn_json *body,
                          struct qn_responses_state **state, struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_arena *arena = a->arena;
    struct qn_responses_state *t = qn_arena_alloc(arena, sizeof *t);
    struct qn_json *tools;
    const struct qn_json *input;
    bool parallel = true, is_background = false;
    const char *instructions;
    QN_TRY(qn_ask_read_head(a, x, &body, e));
    QN_FAIL_IF(!t || !(t->items = qn_json_new(arena, QN_JSON_ARRAY)), e, QN_TOOBIG,
               "the request is too large");
    t->body = body;
    input = qn_json_get(body, "input");
    QN_TRY(qn_ask_read_sampling(a, x, body, e));
    a->n = 1;
    a->prompt_top = -1;
    QN_TRY(qn_ask_read_int(x, body, "max_output_tokens", 1, INT64_MAX, &a->max_new, e));
    t->max_output = qn_json_is_null(qn_json_get(body, "max_output_tokens")) ? 0 : a->max_new;
    x->param = "background";
    QN_TRY(qn_json_get_bool(body, "background", false, &is_background, e));
    QN_FAIL_IF(is_background, e, QN_INVAL, "background: true is not supported; stream the response instead");
    x->param = "conversation";
    QN_FAIL_IF(!qn_json_is_null(qn_json_get(body, "conversation")), e, QN_INVAL,
               "conversation is not supported; use previous_response_id or send the whole conversation");
    x->param = "truncation";
    const char *truncation;
    QN_TRY(qn_json_get_str(body, "truncation", "disabled", &truncation, e));
    QN_FAIL_IF(strcmp(truncation, "auto") != 0 && strcmp(truncation, "disabled") != 0, e, QN_INVAL,
               "truncation must be auto or disabled");
    a->drops_oldest = !strcmp(truncation, "auto");
    x->param = "store";
    QN_TRY(qn_json_get_bool(body, "store", true, &t->wants_store, e));
    x->param = "previous_response_id";
    QN_TRY(qn_json_get_str(body, "previous_response_id", NULL, &t->previous, e));
    QN_TRY(read_logprobs(a, x, body, e));
    x->param = "reasoning";
    QN_TRY(qn_chat_read_thinking(&a->chat, body, e));
    x->param = "chat_template_kwargs";
    QN_TRY(qn_json_get_obj(body, "chat_template_kwargs", &a->chat.kwargs, e));
    QN_TRY(read_form(a, x, body, e));
    x->param = "tools";
    QN_TRY(qn_json_get_arr(body, "tools", &tools, e));
    struct reader r = {.a = a, .t = t};
    for (size_t i = 0; tools && i < tools->n; i++) {
        char path[32];
        snprintf(path, sizeof path, "tools[%zu]", i);
        QN_TRY(read_tool(a, t, tools->items[i], path, NULL, false, e));
    }
    QN_TRY(qn_ask_read_tool_choice(a, x, full_choice(&r, qn_json_get(body, "tool_choice"), 0), e));
    x->param = "parallel_tool_calls";
    QN_TRY(qn_json_get_bool(body, "parallel_tool_calls", true, &parallel, e));
    a->no_parallel = !parallel;

    QN_TRY(read_previous(t, x, arena, e));
    x->param = "input";
    if (qn_json_is(input, QN_JSON_STRING)) {
        struct qn_json *item = qn_json_new(arena, QN_JSON_OBJECT);
        QN_FAIL_IF(!item, e, QN_TOOBIG, "input: the request is too large");
        qn_json_set(arena, item, "type", new_text(arena, "message"));
        qn_json_set(arena, item, "role", new_text(arena, "user"));
        qn_json_set(arena, item, "content", (struct qn_json *)(uintptr_t)input);
        QN_FAIL_IF(!qn_json_push(arena, t->items, item), e, QN_TOOBIG, "input: the request is too large");
    } else if (!qn_json_is_null(input)) {
        QN_FAIL_IF(!qn_json_is(input, QN_JSON_ARRAY), e, QN_INVAL,
                   "input must be a string or an array of items");
        for (size_t i = 0; i < input->n; i++)
            QN_FAIL_IF(!qn_json_push(arena, t->items, input->items[i]), e, QN_TOOBIG,
                       "input: the request is too large");
    }
    QN_FAIL_IF(!t->items->n, e, QN_INVAL, "input is missing");
    x->param = "instructions";
    QN_TRY(qn_json_get_str(body, "instructions", NULL, &instructions, e));
    if (instructions && *instructions)
        QN_FAIL_IF(!qn_chat_add_message(&a->chat, "system", new_text(arena, instructions)), e, QN_TOOBIG,
                   "instructions: the request is too large");
    x->param = "input";
    for (size_t i = 0; i < t->items->n; i++) QN_TRY(read_item(&r, t->items->items[i], i, e));
    QN_TRY(qn_chat_defer_tools(&a->chat, &a->tools, a->tool_name, e));
    x->param = NULL;
    *state = t;
out:
    return rc;
}
