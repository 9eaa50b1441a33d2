/* Tools that stay out of the prompt until a reference shows them.
 *
 * A client with hundreds of tools sends most of them with defer_loading and one that searches. What the
 * search found stands as tool_reference parts in its result: there the definition is rendered, so the prompt
 * before it stays as it was, and from there on the tool can be called. SPDX-License-Identifier: Apache-2.0 */
#include "base/hash.h"
#include "text/chat_impl.h"

struct defer {
    struct qn_chat *c;
    struct qn_map by_name; /* hash of name -> 1 + place in the tools */
    uint8_t *is_wanted;    /* [tools] referenced or called in the history */
    uint8_t *is_shown;     /* [tools] its definition stands in the history already */
    struct qn_err *e;
};

static const struct qn_json *name_of(const struct qn_json *tool)
{
    const struct qn_json *name = qn_json_get(qn_json_get(tool, "function"), "name");
    return qn_json_is(name, QN_JSON_STRING) ? name : NULL;
}

static bool is_deferred(const struct qn_json *tool)
{
    const struct qn_json *v = qn_json_get(tool, "defer_loading");
    return qn_json_is(v, QN_JSON_BOOL) && v->truth;
}

static int place_of(const struct defer *d, const struct qn_json *name)
{
    uint64_t at;
    if (!qn_json_is(name, QN_JSON_STRING) ||
        !qn_map_get(&d->by_name, qn_hash_bytes(0, name->text, name->n) | 1, &at))
        return -1;
    const struct qn_json *own = name_of(d->c->tools->items[at]);
    return own->n == name->n && !memcmp(own->text, name->text, name->n) ? (int)at : -1;
}

/* The tool as the template would list it. */
static struct qn_json *definition(struct defer *d, const struct qn_json *tool)
{
    struct qn_buf b = QN_BUF_INIT((size_t)64 << 20);
    struct qn_json *plain = qn_json_new(d->c->arena, QN_JSON_OBJECT), *out = NULL;
    bool ok = plain && qn_json_set(d->c->arena, plain, "type", qn_json_new_str(d->c->arena, "function", 8)) &&
              qn_json_set(d->c->arena, plain, "function", qn_json_get(tool, "function"));
    if (!ok) return NULL;
    qn_buf_puts(&b, "This function can be called from here on:\n<tools>\n");
    qn_json_write(&b, plain, QN_JSON_EXACT);
    qn_buf_puts(&b, "\n</tools>");
    if (!b.failed) out = qn_json_new_str(d->c->arena, qn_buf_str(&b), b.n_byte);
    qn_buf_free(&b);
    return out;
}

/* A reference gets the text that stands for it. */
static int show(struct defer *d, struct qn_json *part)
{
    int rc = QN_OK;
    const struct qn_json *name = qn_json_get(part, "tool_name");
    if (!name) name = qn_json_get(part, "name");
    int at = place_of(d, name);
    char line[256];
    struct qn_json *text;
    if (at >= 0 && is_deferred(d->c->tools->items[at]) && !d->is_shown[at]) {
        d->is_shown[at] = d->is_wanted[at] = 1;
        text = definition(d, d->c->tools->items[at]);
    } else {
        const char *shown = qn_json_is(name, QN_JSON_STRING) ? name->text : "";
        if (at >= 0)
            snprintf(line, sizeof line, "The function %.120s can be called.", shown);
        else
            snprintf(line, sizeof line, "[tool %.120s: its definition was not sent with the request]", shown);
        text = qn_json_new_str(d->c->arena, line, strlen(line));
    }
    QN_NEED(text && qn_json_set(d->c->arena, part, "text", text), d->e);
out:
    return rc;
}

static int find_references(struct defer *d, struct qn_json *content, int depth)
{
    int rc = QN_OK;
    static const char *const inner[] = {"content", "tool_references"};
    if (depth > 8) goto out;
    for (size_t i = 0; qn_json_is(content, QN_JSON_ARRAY) && i < content->n; i++)
        QN_TRY(find_references(d, content->items[i], depth + 1));
    if (!qn_json_is(content, QN_JSON_OBJECT)) goto out;
    if (qn_json_is_str(qn_json_get(content, "type"), "tool_reference")) QN_TRY(show(d, content));
    for (size_t i = 0; i < QN_COUNT(inner); i++)
        QN_TRY(find_references(d, qn_json_get(content, inner[i]), depth + 1));
out:
    return rc;
}

/* A tool that was called once can be called again, also where the reference to it has left the history. */
static void find_calls(struct defer *d, const struct qn_json *message)
{
    const struct qn_json *calls = qn_json_get(message, "tool_calls");
    for (size_t i = 0; qn_json_is(calls, QN_JSON_ARRAY) && i < calls->n; i++) {
        const struct qn_json *name = qn_json_get(qn_json_get(calls->items[i], "function"), "name");
        int at = place_of(d, name);
        if (at >= 0) d->is_wanted[at] = 1;
    }
}

int qn_chat_defer_tools(struct qn_chat *c, const struct qn_json **callable, const char *forced,
                        struct qn_err *e)
{
    int rc = QN_OK;
    struct defer d = {.c = c, .e = e};
    size_t n = c->tools ? c->tools->n : 0, n_deferred = 0;
    *callable = c->tools;
    for (size_t i = 0; i < n; i++) n_deferred += is_deferred(c->tools->items[i]);
    bool has_none = n_deferred == n || c->loads_all; /* nobody here could find them */
    d.is_wanted = xcalloc(n + 1, 1);
    d.is_shown = xcalloc(n + 1, 1);
    for (size_t i = n; i-- > 0;) { /* the first of equal names counts */
        const struct qn_json *name = name_of(c->tools->items[i]);
        if (name) qn_map_put(&d.by_name, qn_hash_bytes(0, name->text, name->n) | 1, i);
        if (has_none) d.is_shown[i] = 1;
    }
    for (size_t i = 0; qn_json_is(c->messages, QN_JSON_ARRAY) && i < c->messages->n; i++) {
        QN_TRY(find_references(&d, qn_json_get(c->messages->items[i], "content"), 0));
        find_calls(&d, c->messages->items[i]);
    }
    if (!n_deferred || has_none) goto out;
    struct qn_json *shown = qn_json_new(c->arena, QN_JSON_ARRAY), *all = qn_json_new(c->arena, QN_JSON_ARRAY);
    QN_NEED(shown && all, e);
    for (size_t i = 0; i < n; i++) {
        struct qn_json *tool = c->tools->items[i];
        const struct qn_json *name = name_of(tool);
        bool is_forced = forced && name && !strcmp(forced, name->text) && !d.is_shown[i];
        bool is_plain = !is_deferred(tool) || is_forced;
        if (is_plain) QN_NEED(qn_json_push(c->arena, shown, tool), e);
        if (is_plain || d.is_wanted[i]) QN_NEED(qn_json_push(c->arena, all, tool), e);
    }
    c->tools = shown->n ? shown : NULL;
    *callable = all->n ? all : NULL;
out:
    qn_map_free(&d.by_name);
    free(d.is_wanted);
    free(d.is_shown);
    return rc;
}
