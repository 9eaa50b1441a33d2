/* A server without a model, exchanges without a socket.
 * SPDX-License-Identifier: Apache-2.0 */
#include "fuzz/api.h"

#include <microhttpd.h>
#include <stdarg.h>
#include <strings.h>

#include "base/log.h"
#include "engine/engine.h"
#include "server/calls.h"
#include "text/constrain.h"
#include "text/jinja.h"
#include "text/tokenizer.h"

/* --- in place of the library's --- */

struct MHD_Response {
    char *data; /* NULL: without a body */
    size_t n;
};

struct MHD_Connection {
    const struct fuzz_request *request;
};

struct MHD_Daemon {
    MHD_AccessHandlerCallback request;
    MHD_RequestCompletedCallback completed;
    void *user;
};

static struct MHD_Daemon daemon_;
static struct {
    int n, status;
    struct MHD_Response *response;
} sent;

struct MHD_Daemon *MHD_start_daemon(unsigned flags, uint16_t port, MHD_AcceptPolicyCallback accept,
                                    void *accept_user, MHD_AccessHandlerCallback request, void *user, ...)
{
    (void)flags, (void)port, (void)accept, (void)accept_user;
    daemon_ = (struct MHD_Daemon){.request = request, .user = user};
    va_list args;
    va_start(args, user);
    for (int option; (option = va_arg(args, int)) != MHD_OPTION_END;) {
        switch (option) {
        case MHD_OPTION_CONNECTION_MEMORY_LIMIT:
        case MHD_OPTION_THREAD_STACK_SIZE:
            (void)va_arg(args, size_t);
            break;
        case MHD_OPTION_NOTIFY_COMPLETED:
            daemon_.completed = va_arg(args, MHD_RequestCompletedCallback);
            (void)va_arg(args, void *);
            break;
        case MHD_OPTION_NOTIFY_CONNECTION:
            (void)va_arg(args, MHD_NotifyConnectionCallback);
            (void)va_arg(args, void *);
            break;
        default:
            (void)va_arg(args, int);
        }
    }
    va_end(args);
    return &daemon_;
}

const char *MHD_lookup_connection_value(struct MHD_Connection *c, enum MHD_ValueKind kind, const char *name)
{
    (void)kind;
    for (int i = 0; c && i < c->request->n_header; i++)
        if (!strcasecmp(c->request->names[i], name)) return c->request->values[i];
    return NULL;
}

int MHD_get_connection_values_n(struct MHD_Connection *c, enum MHD_ValueKind kind, MHD_KeyValueIteratorN look,
                                void *user)
{
    const struct fuzz_request *r = c->request;
    for (int i = 0; i < r->n_header; i++)
        look(user, kind, r->names[i], strlen(r->names[i]), r->values[i], strlen(r->values[i]));
    return r->n_header;
}

const union MHD_ConnectionInfo *MHD_get_connection_info(struct MHD_Connection *c,
                                                        enum MHD_ConnectionInfoType type, ...)
{
    static const union MHD_ConnectionInfo no_socket = {.connect_fd = -1};
    (void)c;
    return type == MHD_CONNECTION_INFO_CONNECTION_FD ? &no_socket : NULL;
}

enum MHD_Result MHD_set_connection_option(struct MHD_Connection *c, enum MHD_CONNECTION_OPTION option, ...)
{
    (void)c, (void)option;
    return MHD_YES;
}

struct MHD_Response *MHD_create_response_from_buffer(size_t n, void *data, enum MHD_ResponseMemoryMode mode)
{
    struct MHD_Response *r = xcalloc(1, sizeof *r);
    QN_CHECK(n ? mode == MHD_RESPMEM_MUST_FREE : !data); /* fixed pages are not fuzzed */
    r->data = data;
    r->n = n;
    return r;
}

enum MHD_Result MHD_add_response_header(struct MHD_Response *r, const char *name, const char *value)
{
    QN_CHECK(r && name[0] && !strpbrk(value, "\r\n"));
    return MHD_YES;
}

enum MHD_Result MHD_queue_response(struct MHD_Connection *c, unsigned status, struct MHD_Response *r)
{
    (void)c;
    sent.n++;
    sent.status = (int)status;
    sent.response = r;
    return MHD_YES;
}

void MHD_destroy_response(struct MHD_Response *r)
{
    (void)r; /* check_reply looks at it first */
}

/* --- in place of the engine's (the linker wraps it, cmake/tests.cmake) --- */

const struct qn_engine_info *__wrap_qn_engine_info(const struct qn_engine *g);
const struct qn_engine_info *__wrap_qn_engine_info(const struct qn_engine *g)
{
    static const struct qn_engine_info info = {.can_constrain = true, .max_context = 4096};
    (void)g;
    return &info;
}

/* --- the server --- */

/* A token a byte, and the six words of the format. */
static void open_tokenizer(struct qn_text *text)
{
    static const struct {
        const char *word;
        size_t id_at;
    } added[] = {{"<|im_start|>", offsetof(struct qn_text, im_start_id)},
                 {"<|im_end|>", offsetof(struct qn_text, im_end_id)},
                 {"<think>", offsetof(struct qn_text, think_open_id)},
                 {"</think>", offsetof(struct qn_text, think_close_id)},
                 {"<tool_call>", offsetof(struct qn_text, call_open_id)},
                 {"</tool_call>", offsetof(struct qn_text, call_close_id)}};
    struct qn_buf json = QN_BUF_INIT(1 << 20);
    struct qn_err e = {0};
    qn_buf_puts(&json, "{\"model\":{\"type\":\"BPE\",\"vocab\":{");
    for (int b = 0, extra = 0; b < 256; b++) {
        bool keeps = (b >= 33 && b < 127) || (b >= 161 && b < 173) || b >= 174;
        qn_buf_printf(&json, "%s\"\\u%04x\":%d", b ? "," : "", keeps ? b : 256 + extra++, b);
    }
    qn_buf_puts(&json,
                "},\"merges\":[]},\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,"
                "\"use_regex\":false},\"decoder\":{\"type\":\"ByteLevel\"},\"added_tokens\":[");
    text->endoftext_id = text->response_open_id = text->response_close_id = -1;
    for (size_t i = 0; i < QN_COUNT(added); i++) {
        int32_t id = 256 + (int32_t)i;
        memcpy((char *)text + added[i].id_at, &id, sizeof id);
        qn_buf_printf(&json, "%s{\"id\":%d,\"content\":\"%s\",\"special\":%s}", i ? "," : "", id,
                      added[i].word, i < 2 ? "true" : "false");
    }
    qn_buf_puts(&json, "]}");
    if (qn_tokenizer_open_text(&text->tokenizer, json.data, json.n_byte, NULL, 0, "fuzz", &e)) {
        fprintf(stderr, "%s\n", e.text);
        abort();
    }
    qn_buf_free(&json);
}

struct qn_server *fuzz_server(void)
{
    static struct qn_server s;
    static struct qn_text text;
    static const char *const names[] = {"fuzz"};
    if (s.text) return &s;
    qn_log_set_level(QN_LOG_ERROR);
    open_tokenizer(&text);
    struct qn_buf source = QN_BUF_INIT(1 << 20);
    struct qn_err e = {0};
    QN_CHECK(!qn_buf_read_file(&source, QN_TEST_DIR "/golden/templates/family.jinja", &e));
    QN_CHECK(!qn_jinja_compile(&text.template, source.data, source.n_byte, "family.jinja", &e));
    qn_buf_free(&source);
    s.o.names = names;
    s.o.n_name = 1;
    s.o.sampling.top_k = -1;
    s.stored = qn_stored_create(0);
    s.calls = qn_calls_create(0);
    s.text = &text;
    static const struct qn_route routes[] = {
        {"/v1/tokenize", QN_POST, 0, qn_api_tokenize},
        {"/v1/messages/count_tokens", QN_POST, QN_ROUTE_ANTHROPIC, qn_api_count_tokens},
        {"/v1/messages", QN_POST, QN_ROUTE_ENGINE | QN_ROUTE_ANTHROPIC, qn_api_count_tokens},
        {"/v1/models", QN_GET, 0, qn_api_models},
        {"/v1/models/", QN_GET, QN_ROUTE_TAIL, qn_api_model},
        {"/v1/responses/", QN_GET | QN_DELETE, QN_ROUTE_TAIL, qn_api_responses_get},
        {"/version", QN_GET, QN_ROUTE_OPEN, qn_api_version},
    };
    static const char *const keys[] = {"k1", "second"}, *const origins[] = {"*"};
    const struct qn_http_options o = {.host = "127.0.0.1",
                                      .routes = routes,
                                      .n_route = QN_COUNT(routes),
                                      .gate = {.keys = keys, .n_key = 2, .origins = origins, .n_origin = 1},
                                      .max_body_bytes = 1 << 12};
    QN_CHECK(!qn_http_open(&s.http, &s, &o, &e));
    return &s;
}

/* --- replies --- */

static void check_reply(void)
{
    QN_CHECK(sent.n == 1);
    struct qn_arena *arena = qn_arena_create((size_t)64 << 20);
    struct qn_json *reply;
    struct qn_err e = {0};
    if (sent.response->data) {
        QN_CHECK(!qn_json_parse(&reply, arena, sent.response->data, sent.response->n, "reply", &e));
        const struct qn_json *error = qn_json_get(reply, "error"), *text = qn_json_get(error, "message");
        QN_CHECK((sent.status == 200) == !error);
        QN_CHECK(!error || (qn_json_is(text, QN_JSON_STRING) && text->n));
        QN_CHECK(sent.status >= 200 && sent.status != 500); /* whatever comes is the client's fault */
    }
    qn_arena_free(arena);
    free(sent.response->data);
    free(sent.response);
    sent.n = 0;
}

void fuzz_request(const struct fuzz_request *r)
{
    fuzz_server();
    struct MHD_Connection c = {r};
    void *state = NULL;
    size_t n = 0, half = r->n_body / 2;
    QN_CHECK(daemon_.request(daemon_.user, &c, r->url, r->method, "HTTP/1.1", NULL, &n, &state) == MHD_YES);
    QN_CHECK(state);
    bool is_whole = true;
    for (int part = 0; part < 2 && is_whole; part++) {
        n = part ? r->n_body - half : half;
        if (n) {
            const char *data = r->body + (part ? half : 0);
            is_whole =
                daemon_.request(daemon_.user, &c, r->url, r->method, "HTTP/1.1", data, &n, &state) == MHD_YES;
            QN_CHECK(!is_whole || !n);
        }
    }
    n = 0;
    if (is_whole) {
        QN_CHECK(daemon_.request(daemon_.user, &c, r->url, r->method, "HTTP/1.1", NULL, &n, &state) ==
                 MHD_YES);
        check_reply();
    } else if (sent.n)
        check_reply();
    daemon_.completed(daemon_.user, &c, &state, MHD_REQUEST_TERMINATED_COMPLETED_OK);
    QN_CHECK(!state);
}

static void open_exchange(struct qn_exchange *x)
{
    *x = (struct qn_exchange){.server = fuzz_server(), .arena = qn_arena_create(16 << 20), .fd = -1};
    x->http = x->server->http;
    strcpy(x->id, "req_fuzz");
}

void fuzz_handle(void (*handle)(struct qn_exchange *x), const uint8_t *data, size_t size)
{
    if (size > FUZZ_BODY_BYTES) return;
    struct qn_exchange x;
    open_exchange(&x);
    qn_buf_init(&x.body, FUZZ_BODY_BYTES);
    qn_buf_append(&x.body, data, size);
    handle(&x);
    QN_CHECK(x.is_answered && x.status == sent.status);
    check_reply();
    qn_buf_free(&x.body);
    qn_arena_free(x.arena);
}

/* --- readers --- */

bool fuzz_body_open(struct fuzz_body *b, const uint8_t *data, size_t size)
{
    if (size > FUZZ_BODY_BYTES) return false;
    *b = (struct fuzz_body){0};
    open_exchange(&b->x);
    if (qn_json_parse(&b->json, b->x.arena, (const char *)data, size, "body", &b->e) ||
        !qn_json_is(b->json, QN_JSON_OBJECT)) {
        qn_arena_free(b->x.arena);
        return false;
    }
    b->x.json = b->json;
    qn_ask_init(&b->ask, &b->x);
    return true;
}

static void constrain(struct fuzz_body *b)
{
    struct qn_toolset *tools = NULL;
    struct qn_err e = {0};
    int rc = b->ask.tools ? qn_toolset_create(&tools, b->ask.tools, &e) : QN_OK;
    if (!rc) rc = qn_ask_constrain(&b->ask, &b->x, tools, b->ask.n & 1, &e);
    QN_CHECK(!rc || (e.code == rc && e.text[0]));
    qn_toolset_free(tools);
    qn_constrain_forget();
}

void fuzz_body_close(struct fuzz_body *b, int rc, bool is_chat)
{
    struct qn_json *messages;
    struct qn_err e = {0};
    QN_CHECK(!rc || (b->e.code == rc && b->e.text[0]));
    if (!rc && is_chat) QN_CHECK(!qn_chat_normalise(&messages, &b->ask.chat, b->x.arena, &e) || e.text[0]);
    if (!rc && (b->ask.tools || b->ask.form)) constrain(b);
    qn_ask_free(&b->ask);
    qn_arena_free(b->x.arena);
}
