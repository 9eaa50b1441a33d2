/* Sampled text of tool calls, by call id.
 * SPDX-License-Identifier: Apache-2.0 */
#include "server/calls.h"

#include <pthread.h>

#include "base/hash.h"

struct call {
    char id[40];
    char *name, *arguments, *text;
    size_t n_arguments, n_text;
};

struct qn_calls {
    pthread_mutex_t lock;
    struct call ring[QN_CALLS_MAX];
    size_t first, n; /* the oldest; how many */
    size_t n_byte;
    struct qn_map map; /* hash of id -> place in the ring */
};

struct qn_calls *qn_calls_create(void)
{
    struct qn_calls *c = xcalloc(1, sizeof *c);
    pthread_mutex_init(&c->lock, NULL);
    return c;
}

static void drop_oldest(struct qn_calls *c)
{
    struct call *k = &c->ring[c->first];
    qn_map_remove(&c->map, qn_hash_str(k->id) | 1);
    c->n_byte -= k->n_text + k->n_arguments;
    free(k->name);
    free(k->arguments);
    free(k->text);
    memset(k, 0, sizeof *k);
    c->first = (c->first + 1) % QN_CALLS_MAX;
    c->n--;
}

void qn_calls_free(struct qn_calls *c)
{
    if (!c) return;
    while (c->n) drop_oldest(c);
    qn_map_free(&c->map);
    pthread_mutex_destroy(&c->lock);
    free(c);
}

static void add(struct qn_calls *c, const char *id, const struct qn_parsed_call *call, const char *text,
                size_t n)
{
    if (n + call->arguments.n_byte > QN_CALLS_MAX_BYTES / 16) return;
    pthread_mutex_lock(&c->lock);
    while (c->n && (c->n == QN_CALLS_MAX || c->n_byte + n + call->arguments.n_byte > QN_CALLS_MAX_BYTES))
        drop_oldest(c);
    size_t at = (c->first + c->n) % QN_CALLS_MAX;
    struct call *k = &c->ring[at];
    snprintf(k->id, sizeof k->id, "%s", id);
    k->name = xstrdup(call->name);
    k->n_arguments = call->arguments.n_byte;
    k->arguments = xstrndup(qn_buf_str(&call->arguments), k->n_arguments);
    k->n_text = n;
    k->text = xstrndup(text, n);
    c->n_byte += n + k->n_arguments;
    c->n++;
    qn_map_put(&c->map, qn_hash_str(id) | 1, at + 1);
    pthread_mutex_unlock(&c->lock);
}

static bool is_space(char c)
{
    return c == ' ' || c == '\n' || c == '\r' || c == '\t';
}

/* The segments "<tool_call>...</tool_call>" of raw, with the white space before each. -1 when their number is
 * not what was parsed, or one does not name its function: then values hold look-alikes, and guessing is worse
 * than a cache miss. */
void qn_calls_add(struct qn_calls *c, const char *raw, size_t n, const struct qn_parsed *parsed,
                  char (*ids)[40], int n_id)
{
    static const char opener[] = "<tool_call>", closer[] = "</tool_call>";
    if (!parsed->n_call || parsed->n_call != n_id) return;
    for (int pass = 0; pass < 2; pass++) { /* first only look, then remember */
        const char *p = raw, *end = raw + n;
        int at = 0;
        const char *thought = NULL;
        for (const char *t = raw; (t = memmem(t, (size_t)(end - t), "</think>", 8));) thought = t += 8;
        if (thought) p = thought;
        for (;; at++) {
            const char *from = memmem(p, (size_t)(end - p), opener, sizeof opener - 1);
            if (!from) break;
            const char *to = memmem(from, (size_t)(end - from), closer, sizeof closer - 1);
            if (!to || at >= parsed->n_call) return;
            to += sizeof closer - 1;
            const char *name = parsed->calls[at].name;
            char tag[QN_PARSE_MAX_NAME + 16];
            int n_tag = snprintf(tag, sizeof tag, "<function=%s>", name);
            const char *next = memmem(from + 1, (size_t)(end - from - 1), opener, sizeof opener - 1);
            if (n_tag >= (int)sizeof tag || (next && next < to)) return;
            if (!memmem(from, (size_t)(to - from), tag, (size_t)n_tag)) return;
            while (from > p && is_space(from[-1])) from--;
            if (pass && parsed->calls[at].is_complete)
                add(c, ids[at], &parsed->calls[at], from, (size_t)(to - from));
            p = to;
        }
        if (at != parsed->n_call) return;
    }
}

bool qn_calls_lookup(void *view, const char *id, struct qn_chat_sampled *out)
{
    struct qn_calls_view *v = view;
    struct qn_calls *c = v->calls;
    uint64_t at;
    bool found = false;
    char *arguments = NULL, *name = NULL, *text = NULL;
    size_t n_arguments = 0, n_text = 0;
    pthread_mutex_lock(&c->lock);
    if (qn_map_get(&c->map, qn_hash_str(id) | 1, &at)) {
        const struct call *k = &c->ring[at - 1];
        found = !strcmp(k->id, id);
        if (found) {
            name = qn_arena_strndup(v->arena, k->name, strlen(k->name));
            arguments = qn_arena_strndup(v->arena, k->arguments, n_arguments = k->n_arguments);
            text = qn_arena_strndup(v->arena, k->text, n_text = k->n_text);
        }
    }
    pthread_mutex_unlock(&c->lock);
    struct qn_json *parsed = NULL;
    if (!found || !name || !arguments || !text ||
        qn_json_parse(&parsed, v->arena, arguments, n_arguments, "arguments", NULL))
        return false;
    *out = (struct qn_chat_sampled){name, parsed, text, n_text};
    return true;
}
