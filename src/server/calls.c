/* Sampled text and ids of tool calls, by call id.
 * SPDX-License-Identifier: Apache-2.0 */
#include "server/calls.h"

#include <pthread.h>

#include "base/hash.h"
#include "text/detok.h"

/* What a message's calls share: [n_byte] of text up to the end of its last call, and its ids. */
struct message {
    int n_call; /* that use it */
    char *raw;
    size_t n_byte;
    int32_t *tok; /* [n_tok] or NULL */
    size_t n_tok;
};

struct call {
    char id[40];
    uint64_t owner;
    char *name, *arguments;
    size_t n_arguments;
    struct message *message;
    size_t from, to;         /* bytes of its text, white space before it included */
    size_t tok_from, tok_to; /* ids from its opener to its closer */
};

struct qn_calls {
    pthread_mutex_t lock;
    struct call ring[QN_CALLS_MAX];
    size_t first, n; /* the oldest; how many */
    size_t n_byte, max_bytes;
    struct qn_map map; /* hash of id -> place in the ring */
};

struct qn_calls *qn_calls_create(size_t max_bytes)
{
    struct qn_calls *c = xcalloc(1, sizeof *c);
    c->max_bytes = max_bytes && max_bytes < QN_CALLS_MAX_BYTES ? max_bytes : QN_CALLS_MAX_BYTES;
    pthread_mutex_init(&c->lock, NULL);
    return c;
}

static size_t message_bytes(const struct message *m)
{
    return m->n_byte + m->n_tok * sizeof *m->tok;
}

static void drop_message(struct qn_calls *c, struct message *m)
{
    if (--m->n_call > 0) return;
    c->n_byte -= message_bytes(m);
    free(m->raw);
    free(m->tok);
    free(m);
}

static void drop_oldest(struct qn_calls *c)
{
    struct call *k = &c->ring[c->first];
    qn_map_remove(&c->map, qn_hash_str(k->id) | 1);
    c->n_byte -= k->n_arguments;
    free(k->name);
    free(k->arguments);
    drop_message(c, k->message);
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

/* Takes the lock for granted. */
static void add(struct qn_calls *c, struct message *m, const struct call *place, const char *id,
                const struct qn_parsed_call *call)
{
    while (c->n && (c->n == QN_CALLS_MAX || c->n_byte + call->arguments.n_byte > c->max_bytes))
        drop_oldest(c);
    size_t at = (c->first + c->n) % QN_CALLS_MAX;
    struct call *k = &c->ring[at];
    *k = *place;
    snprintf(k->id, sizeof k->id, "%s", id);
    k->name = xstrdup(call->name);
    k->n_arguments = call->arguments.n_byte;
    k->arguments = xstrndup(qn_buf_str(&call->arguments), k->n_arguments);
    k->message = m;
    m->n_call++;
    c->n_byte += k->n_arguments;
    c->n++;
    qn_map_put(&c->map, qn_hash_str(id) | 1, at + 1);
}

static bool is_space(char c)
{
    return c == ' ' || c == '\n' || c == '\r' || c == '\t';
}

/* The segments "<tool_call>...</tool_call>" of the text, with the white space before each. false when their
 * number is not what was parsed, or one does not name its function: then values hold look-alikes, and
 * guessing is worse than a cache miss. */
static bool find_text(struct call *places, const struct qn_calls_output *o)
{
    static const char opener[] = "<tool_call>", closer[] = "</tool_call>";
    const char *p = o->raw, *end = p + o->n_byte, *thought = NULL;
    int at = 0;
    for (const char *t = p; (t = memmem(t, (size_t)(end - t), "</think>", 8));) thought = t += 8;
    if (thought) p = thought;
    for (;; at++) {
        const char *from = memmem(p, (size_t)(end - p), opener, sizeof opener - 1);
        if (!from) break;
        const char *to = memmem(from, (size_t)(end - from), closer, sizeof closer - 1);
        if (!to || at >= o->parsed->n_call) return false;
        to += sizeof closer - 1;
        const char *name = o->parsed->calls[at].name;
        char tag[QN_PARSE_MAX_NAME + 16];
        int n_tag = snprintf(tag, sizeof tag, "<function=%s>", name);
        const char *next = memmem(from + 1, (size_t)(end - from - 1), opener, sizeof opener - 1);
        if (n_tag >= (int)sizeof tag || (next && next < to)) return false;
        if (!memmem(from, (size_t)(to - from), tag, (size_t)n_tag)) return false;
        while (from > p && is_space(from[-1])) from--;
        places[at].from = (size_t)(from - o->raw);
        places[at].to = (size_t)(to - o->raw);
        p = to;
    }
    return at == o->parsed->n_call;
}

/* Their ids. false when the markers are not single tokens in the same order, or the ids do not spell the
 * text. */
static bool find_ids(struct call *places, const struct qn_text *text, const struct qn_calls_output *o)
{
    int n = o->parsed->n_call, at = 0;
    if (!text || !o->tok || text->call_open_id < 0 || text->call_close_id < 0) return false;
    size_t i = o->n_tok;
    while (i > 0 && o->tok[i - 1] != text->think_close_id) i--;
    for (bool is_open = false; i < o->n_tok; i++) {
        if (o->tok[i] == text->call_open_id) {
            if (is_open || at == n) return false;
            is_open = true;
            places[at].tok_from = i;
        } else if (o->tok[i] == text->call_close_id) {
            if (!is_open) return false;
            is_open = false;
            places[at++].tok_to = i + 1;
        }
    }
    if (at != n) return false;
    struct qn_buf spelled = QN_BUF_INIT(QN_CALLS_MAX_BYTES);
    bool is_same = true;
    size_t done = 0;
    for (int k = 0; k < n && is_same; k++) {
        qn_detok_all(text->tokenizer, o->tok + done, places[k].tok_to - done, QN_DETOK_KEEP, &spelled);
        done = places[k].tok_to;
        is_same = !spelled.failed && spelled.n_byte == places[k].to;
    }
    is_same = is_same && !memcmp(qn_buf_str(&spelled), o->raw, spelled.n_byte);
    qn_buf_free(&spelled);
    return is_same;
}

void qn_calls_add(struct qn_calls *c, const struct qn_text *text, const struct qn_calls_output *o)
{
    int n = o->parsed->n_call;
    if (!n || n != o->n_id) return;
    struct call *places = xcalloc((size_t)n, sizeof *places);
    struct message *m = xcalloc(1, sizeof *m);
    if (!find_text(places, o)) goto out;
    m->n_byte = places[n - 1].to;
    if (find_ids(places, text, o)) m->n_tok = places[n - 1].tok_to;
    if (message_bytes(m) > c->max_bytes / 16) goto out;
    m->raw = try_malloc(m->n_byte + 1, 1);
    if (m->n_tok) m->tok = try_malloc(m->n_tok, sizeof *m->tok);
    if (!m->raw || (m->n_tok && !m->tok)) { /* not remembered: a cache miss later */
        free(m->raw);
        free(m->tok);
        goto out;
    }
    memcpy(m->raw, o->raw, m->n_byte);
    m->raw[m->n_byte] = 0;
    if (m->n_tok) memcpy(m->tok, o->tok, m->n_tok * sizeof *m->tok);
    pthread_mutex_lock(&c->lock);
    m->n_call = 1; /* ours, until all are added */
    c->n_byte += message_bytes(m);
    for (int k = 0; k < n; k++) {
        const struct qn_parsed_call *call = &o->parsed->calls[k];
        places[k].owner = o->owner;
        if (call->is_complete && call->arguments.n_byte <= c->max_bytes / 16)
            add(c, m, &places[k], o->ids[k], call);
    }
    drop_message(c, m);
    while (c->n_byte > c->max_bytes && c->n) drop_oldest(c);
    pthread_mutex_unlock(&c->lock);
    m = NULL;
out:
    free(m);
    free(places);
}

/* A copy in the arena, or NULL. */
static void *copy(struct qn_arena *arena, const void *from, size_t n)
{
    void *to = qn_arena_alloc(arena, n + 1);
    if (to) memcpy(to, from, n);
    return to;
}

bool qn_calls_lookup(void *view, const char *id, struct qn_chat_sampled *out)
{
    struct qn_calls_view *v = view;
    struct qn_calls *c = v->calls;
    struct qn_chat_sampled s = {0};
    uint64_t at;
    char *arguments = NULL;
    size_t n_arguments = 0;
    pthread_mutex_lock(&c->lock);
    const struct call *k = qn_map_get(&c->map, qn_hash_str(id) | 1, &at) ? &c->ring[at - 1] : NULL;
    if (k && k->owner == v->owner && !strcmp(k->id, id)) {
        const struct message *m = k->message;
        s.name = qn_arena_strndup(v->arena, k->name, strlen(k->name));
        arguments = qn_arena_strndup(v->arena, k->arguments, n_arguments = k->n_arguments);
        s.output = copy(v->arena, m->raw, s.n_output = k->to);
        if (m->tok) s.tok = copy(v->arena, m->tok, k->tok_to * sizeof *m->tok);
        s.n_tok = s.tok ? k->tok_to : 0;
        s.call_tok = k->tok_from;
        s.text = s.output ? s.output + k->from : NULL;
        s.n_byte = k->to - k->from;
    }
    pthread_mutex_unlock(&c->lock);
    struct qn_json *parsed = NULL;
    if (!s.name || !arguments || !s.text ||
        qn_json_parse(&parsed, v->arena, arguments, n_arguments, "arguments", NULL))
        return false;
    s.arguments = parsed;
    *out = s;
    return true;
}
