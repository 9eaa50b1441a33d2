/* HTTP over libmicrohttpd: one thread a connection.
 * SPDX-License-Identifier: Apache-2.0 */
#include "server/http.h"

#include <errno.h>
#include <microhttpd.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdarg.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/hash.h"
#include "base/log.h"
#include "server/conns.h"

/* What is read of a refused body, so that the peer, still sending, sees the answer. */
#define DRAIN_BYTES ((size_t)1 << 20)
/* Connections beside those with a request that was let in, and those that are about to end. */
#define MAX_NEW     128
#define MAX_REFUSED 64
#define MAX_OPEN    64
#define MAX_IDLE    256
#define MAX_ENDING  256
#define OTHER_FILES 256

struct qn_http {
    struct qn_server *server;
    struct qn_http_options o;
    struct MHD_Daemon *daemon;
    int listen_fd, port;
    struct qn_conns *conns;
    struct qn_gate gate;
};

static const char *status_type(const struct qn_exchange *x, int status)
{
    bool a = x->is_anthropic;
    switch (status) {
    case 401:
        return "authentication_error";
    case 404:
        return "not_found_error";
    case 413:
        return a ? "request_too_large" : "invalid_request_error";
    case 429:
        return "rate_limit_error";
    case 500:
        return a ? "api_error" : "server_error";
    case 501:
        return a ? "invalid_request_error" : "not_supported_error";
    case 503:
        return a ? "overloaded_error" : "unavailable_error";
    case 504:
        return a ? "timeout_error" : "server_error";
    default:
        return "invalid_request_error";
    }
}

int qn_http_status(int code)
{
    switch (code) {
    case QN_INVAL:
    case QN_FORMAT:
    case QN_TOOBIG:
        return 400;
    case QN_UNSUPPORTED:
        return 501;
    case QN_NOTFOUND:
        return 404;
    case QN_BUSY:
        return 429;
    case QN_NOMEM:
        return 503;
    case QN_TIMEOUT:
        return 504;
    default:
        return 500;
    }
}

void qn_http_make_id(char *out, size_t out_bytes, const char *prefix, int n)
{
    static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    unsigned char bits[64];
    size_t at = (size_t)snprintf(out, out_bytes, "%s", prefix);
    n = QN_MIN(n, (int)sizeof bits);
    if (getrandom(bits, (size_t)n, 0) != n) {
        uint64_t x = (uint64_t)qn_now_us() ^ (uint64_t)(uintptr_t)out;
        for (int i = 0; i < n; i++) bits[i] = (unsigned char)(qn_rng64(x, (uint64_t)i, 0) >> 32);
    }
    for (int i = 0; i < n && at + 1 < out_bytes; i++) out[at++] = letters[bits[i] % (sizeof letters - 1)];
    out[at] = 0;
}

const char *qn_http_header(const struct qn_exchange *x, const char *name)
{
    return MHD_lookup_connection_value(x->connection, MHD_HEADER_KIND, name);
}

enum qn_peer qn_http_peer(const struct qn_exchange *x)
{
    char c;
    ssize_t n = recv(x->fd, &c, 1, MSG_PEEK | MSG_DONTWAIT);
    if (n == 0) { /* and stays so when a reset follows, which only poll shows */
        struct pollfd p = {.fd = x->fd};
        return poll(&p, 1, 0) > 0 && p.revents & (POLLERR | POLLHUP) ? QN_PEER_GONE : QN_PEER_HALF;
    }
    if (n > 0 || errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR) return QN_PEER_OPEN;
    return QN_PEER_GONE;
}

bool qn_http_half_is_alive(struct qn_exchange *x)
{
    static const char interim[] = "HTTP/1.1 100 Continue\r\n\r\n";
    if (x->was_probed) return true;
    if (!x->is_http11) return false;
    x->was_probed = true;
    return send(x->fd, interim, sizeof interim - 1, MSG_NOSIGNAL | MSG_DONTWAIT) == sizeof interim - 1;
}

/* ------------------------------------------------------------------ replies */

/* r may be NULL: the library had no memory for it. */
static void add_header(struct MHD_Response *r, const char *name, const char *value)
{
    if (r) MHD_add_response_header(r, name, value);
}

static void queue(struct qn_exchange *x, int status, struct MHD_Response *response)
{
    struct qn_http *h = x->http;
    add_header(response, x->is_anthropic ? "request-id" : "x-request-id", x->id);
    const char *origin = qn_gate_origin(&h->gate, x->connection);
    if (h->gate.n_origin) add_header(response, "Vary", "Origin");
    if (origin) {
        add_header(response, "Access-Control-Allow-Origin", origin);
        add_header(response, "Access-Control-Allow-Methods", "GET, POST, DELETE, OPTIONS");
        add_header(response, "Access-Control-Allow-Headers", "*, Authorization");
        add_header(response, "Access-Control-Expose-Headers", "x-request-id, request-id");
    }
    if (status == 429 || status == 503) add_header(response, "Retry-After", "2");
    /* the SDKs ask this header first; without it they, or the agents on them, try errors again that will not
     * pass */
    if (status >= 400) {
        bool may_pass = status == 408 || status == 429 || status == 503 || status == 529;
        bool is_ours = status >= 500 && status != 501;
        if (may_pass || !is_ours) add_header(response, "x-should-retry", may_pass ? "true" : "false");
    }
    if (x->must_close) add_header(response, "Connection", "close");
    if (status == 401) add_header(response, "WWW-Authenticate", "Bearer");
    QN_CHECK(!x->is_answered);
    x->is_answered = true;
    x->status = status;
    /* without memory for it the connection ends */
    x->is_broken = !response || MHD_queue_response(x->connection, (unsigned)status, response) != MHD_YES;
    if (response) MHD_destroy_response(response);
}

void qn_http_reply(struct qn_exchange *x, int status, const char *type, struct qn_buf *body)
{
    size_t n = body->n_byte;
    qn_share_use(0);
    char *data = qn_buf_take(body);
    struct MHD_Response *r = MHD_create_response_from_buffer(n, data, MHD_RESPMEM_MUST_FREE);
    if (!r) free(data);
    add_header(r, "Content-Type", type);
    queue(x, status, r);
}

void qn_http_reply_json(struct qn_exchange *x, int status, struct qn_buf *body)
{
    char text[200];
    if (x->share && qn_http_short(x, text, sizeof text)) {
        qn_buf_free(body);
        qn_http_fail_with(x, 503, NULL, "%s", text);
        return;
    }
    if (body->failed) {
        qn_buf_free(body);
        qn_http_fail_with(x, 500, NULL, "the answer is too large to be sent whole; ask for a stream");
        return;
    }
    qn_http_reply(x, status, "application/json", body);
}

void qn_http_reply_static(struct qn_exchange *x, const char *type, const void *data, size_t n)
{
    struct MHD_Response *r =
        MHD_create_response_from_buffer(n, (void *)(uintptr_t)data, MHD_RESPMEM_PERSISTENT);
    add_header(r, "Content-Type", type);
    queue(x, 200, r);
}

struct reader {
    struct qn_exchange *x;
    ssize_t (*read)(void *owned, char *data, size_t max);
};

static ssize_t read_stream(void *cls, uint64_t pos, char *data, size_t max)
{
    struct reader *r = cls;
    (void)pos;
    qn_share_use(r->x->share);
    ssize_t n = r->read(r->x->owned, data, max);
    qn_share_use(0);
    if (n == 0) return MHD_CONTENT_READER_END_OF_STREAM;
    return n < 0 ? MHD_CONTENT_READER_END_WITH_ERROR : n;
}

void qn_http_reply_stream(struct qn_exchange *x, const char *type,
                          ssize_t (*read)(void *owned, char *data, size_t max))
{
    struct reader *r = xmalloc(sizeof *r);
    *r = (struct reader){x, read};
    struct MHD_Response *response =
        MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, 16 << 10, read_stream, r, free);
    if (!response) free(r);
    add_header(response, "Content-Type", type);
    add_header(response, "Cache-Control", "no-cache");
    add_header(response, "X-Accel-Buffering", "no");
    queue(x, 200, response);
}

int qn_http_error_json(struct qn_buf *out, const struct qn_exchange *x, int status, const char *text)
{
    const char *type = status_type(x, status);
    if (x->is_anthropic) {
        qn_buf_printf(out, "{\"type\":\"error\",\"error\":{\"type\":\"%s\",\"message\":", type);
        qn_json_write_str(out, text, strlen(text), false);
        qn_buf_printf(out, "},\"request_id\":\"%s\"}", x->id);
        return out->failed;
    }
    qn_buf_puts(out, "{\"error\":{\"message\":");
    qn_json_write_str(out, text, strlen(text), false);
    qn_buf_printf(out, ",\"type\":\"%s\",\"param\":", type);
    if (x->param)
        qn_json_write_str(out, x->param, strlen(x->param), false);
    else
        qn_buf_puts(out, "null");
    qn_buf_puts(out, ",\"code\":");
    if (x->code)
        qn_json_write_str(out, x->code, strlen(x->code), false);
    else
        qn_buf_puts(out, "null");
    qn_buf_puts(out, "}}");
    return out->failed;
}

int qn_http_short(const struct qn_exchange *x, char *text, size_t text_bytes)
{
    size_t held = 0, asked = 0;
    struct qn_budget all;
    enum qn_short why = qn_share_short(x->share, &held, &asked);
    qn_budget_get(&all);
    switch (why) {
    case QN_SHORT_NOT:
        return 0;
    case QN_SHORT_SHARE:
        snprintf(
            text, text_bytes,
            "this request needs more than %zu bytes of memory, a request may have %zu (--request-memory)",
            held + asked, all.each);
        return 413;
    case QN_SHORT_BUDGET:
        snprintf(text, text_bytes,
                 "requests hold %zu of %zu bytes of memory, %zu more are needed; try again shortly", all.used,
                 all.total, asked);
        return 503;
    default:
        snprintf(text, text_bytes, "the system gives no memory (%zu bytes were asked for); try again shortly",
                 asked);
        return 503;
    }
}

static void fail_text(struct qn_exchange *x, int status, const char *text)
{
    struct qn_buf out = QN_BUF_INIT(1 << 16);
    char instead[200];
    int is_short = x->refuse_status ? 0 : qn_http_short(x, instead, sizeof instead);
    qn_share_use(0); /* what is said last needs no share */
    if (is_short) {
        status = is_short;
        text = instead;
        x->param = NULL;
        x->code = "out_of_memory";
    }
    if (x->http->o.done && !x->told) x->told = strdup(text);
    qn_http_error_json(&out, x, status, text);
    qn_http_reply(x, status, "application/json", &out);
}

void qn_http_fail(struct qn_exchange *x, const struct qn_err *e)
{
    fail_text(x, qn_http_status(e->code), e->text);
}

void qn_http_fail_with(struct qn_exchange *x, int status, const char *code, const char *fmt, ...)
{
    char text[1024];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    x->code = code;
    fail_text(x, status, text);
}

const struct qn_json *qn_http_body(struct qn_exchange *x)
{
    struct qn_json *body = NULL;
    struct qn_err e = {0};
    if (qn_json_parse(&body, x->arena, qn_buf_str(&x->body), x->body.n_byte, "request body", &e)) {
        qn_http_fail(x, &e);
        return NULL;
    }
    if (!qn_json_is(body, QN_JSON_OBJECT)) {
        qn_http_fail_with(x, 400, NULL, "the request body must be a JSON object");
        return NULL;
    }
    x->json = body;
    return body;
}

/* ------------------------------------------------------------------ one exchange */

static void refuse(struct qn_exchange *x, int status, const char *code, const char *fmt, ...) QN_PRINTF(4, 5);
static void refuse(struct qn_exchange *x, int status, const char *code, const char *fmt, ...)
{
    if (x->refuse_status) return;
    va_list args;
    va_start(args, fmt);
    vsnprintf(x->refuse_text, sizeof x->refuse_text, fmt, args);
    va_end(args);
    x->refuse_status = status;
    x->refuse_code = code;
}

/* Path of the request without query (MHD has cut it), without a doubled /v1 and trailing slashes. */
static void read_path(struct qn_exchange *x, const char *url)
{
    while (!strncmp(url, "/v1/v1/", 7)) url += 3;
    size_t n = strlen(url);
    while (n > 1 && url[n - 1] == '/') n--;
    if (n >= sizeof x->path) n = sizeof x->path - 1;
    memcpy(x->path, url, n);
    x->path[n] = 0;
}

static void find_route(struct qn_exchange *x, const struct qn_http_options *o)
{
    for (size_t i = 0; i < o->n_route; i++) {
        const struct qn_route *r = &o->routes[i];
        /* the prefix /v1 may be missing */
        for (int v1 = 0; v1 < 2; v1++) {
            const char *want = r->path;
            if (v1 && strncmp(want, "/v1/", 4)) continue;
            if (v1) want += 3;
            size_t n = strlen(want);
            if (r->flags & QN_ROUTE_TAIL ? strncmp(x->path, want, n) || !x->path[n] : strcmp(x->path, want))
                continue;
            x->route = r;
            x->tail = x->path + n;
            x->is_anthropic = r->flags & QN_ROUTE_ANTHROPIC;
            return;
        }
    }
    x->is_anthropic = !strncmp(x->path, "/v1/messages", 12);
}

static void read_id(struct qn_exchange *x)
{
    const char *given = qn_http_header(x, "x-request-id");
    size_t n = given ? strlen(given) : 0;
    bool is_plain = n > 0 && n < sizeof x->id;
    for (size_t i = 0; is_plain && i < n; i++)
        is_plain = (given[i] >= '0' && given[i] <= '9') ||
                   ((given[i] | 32) >= 'a' && (given[i] | 32) <= 'z') || given[i] == '-' || given[i] == '_';
    if (is_plain)
        memcpy(x->id, given, n + 1);
    else
        qn_http_make_id(x->id, sizeof x->id, "req_", 24);
}

static unsigned method_bit(const char *method)
{
    if (!strcmp(method, "GET") || !strcmp(method, "HEAD")) return QN_GET;
    if (!strcmp(method, "POST")) return QN_POST;
    if (!strcmp(method, "DELETE")) return QN_DELETE;
    return 0;
}

static struct qn_conn *conn_of(struct MHD_Connection *connection)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    return info ? info->socket_context : NULL;
}

/* Memory for the request is set aside before its body is read: the body, its parsed form, the prompt and its
 * tokens are some times as much. What it needs on top it gets while there is some. */
static void reserve(struct qn_http *h, struct qn_exchange *x, const char *length)
{
    struct qn_budget all;
    unsigned long long n = length ? strtoull(length, NULL, 10) : 0;
    size_t need = QN_RESERVE_BYTES + QN_RESERVE_TIMES * (size_t)n;
    if (h->o.is_memory_short && h->o.is_memory_short()) {
        refuse(x, 503, "out_of_memory", "the system gives no memory at the moment; try again shortly");
        return;
    }
    x->share = qn_share_open();
    enum qn_short why = x->share ? qn_share_reserve(x->share, need) : QN_SHORT_SYSTEM;
    /* bodies that are long on their way make room for one that has come */
    for (int i = 0;
         i < 20 && why == QN_SHORT_BUDGET && qn_conns_drop_oldest(h->conns, QN_CONN_UPLOAD, 1000000); i++) {
        usleep(5000);
        why = qn_share_reserve(x->share, need);
    }
    qn_budget_get(&all);
    if (why == QN_SHORT_SHARE)
        refuse(x, 413, "request_too_large",
               "a body of %llu bytes needs %zu bytes of memory, a request may have %zu (--request-memory)", n,
               need, all.each);
    else if (why)
        refuse(x, 429, "out_of_memory",
               "requests hold %zu of %zu bytes of memory, this one needs %zu; try again shortly", all.used,
               all.total, need);
    if (!x->refuse_status) return;
    qn_share_close(x->share);
    x->share = 0;
}

/* What the headers alone decide. A request that is let in counts from here on. */
static void admit(struct qn_http *h, struct qn_exchange *x, const char *version)
{
    struct qn_gate_refusal no = {0};
    bool is_options = !strcmp(x->method, "OPTIONS"), is_open = x->route && x->route->flags & QN_ROUTE_OPEN;
    const char *length = qn_http_header(x, "Content-Length");
    qn_gate_framing(x->connection, version, &no);
    qn_gate_page(&h->gate, x->connection, !strcmp(x->method, "POST"), &no);
    if (!is_options && !is_open) qn_gate_key(&h->gate, x->connection, &x->client, &no);
    bool is_stranger = no.status;
    if (no.status) refuse(x, no.status, no.code, "%s", no.text);
    if (!x->route && !is_options)
        refuse(x, 404, "not_found", "%s %s: there is no such path; docs/api.md lists all", x->method,
               x->path);
    else if (!is_options && !(x->route->methods & method_bit(x->method)))
        refuse(x, 405, "method_not_allowed", "%s is not allowed for %s; use %s", x->method, x->path,
               x->route->methods & QN_POST ? "POST" : "GET");
    if (length && strtoull(length, NULL, 10) > h->o.max_body_bytes)
        refuse(x, 413, "request_too_large", "the body has %.40s bytes; this server takes %zu (--max-body)",
               length, h->o.max_body_bytes);
    int n_running = is_open ? 0 : qn_conns_count(h->conns, QN_CONN_RUNNING);
    if (n_running >= h->o.max_requests)
        refuse(x, 429, "too_many_requests", "%d requests are running; try again shortly", n_running);
    if (!x->refuse_status && !is_open && !is_options && x->route) reserve(h, x, length);
    x->must_close = no.must_close;
    x->is_keyed = !is_stranger;
    x->is_let_in = !x->refuse_status && !is_open && !is_options;
    if (x->conn)
        qn_conns_move(h->conns, x->conn,
                      x->is_let_in       ? QN_CONN_UPLOAD
                      : x->refuse_status ? QN_CONN_REFUSED
                                         : QN_CONN_OPEN);
    /* a refused body is not read where it is long, of unknown length, or has not been sent yet */
    size_t most = is_stranger ? DRAIN_BYTES : QN_MAX(2 * h->o.max_body_bytes, DRAIN_BYTES);
    x->is_early = x->refuse_status && (x->must_close || qn_http_header(x, "Expect") ||
                                       (length ? strtoull(length, NULL, 10) > most
                                               : is_stranger && qn_http_header(x, "Transfer-Encoding")));
    x->must_close |= x->is_early;
}

static struct qn_exchange *begin(struct qn_http *h, struct MHD_Connection *connection, const char *url,
                                 const char *method, const char *version)
{
    struct qn_exchange *x = try_calloc(1, sizeof *x);
    if (!x) return NULL;
    x->http = h;
    x->server = h->server;
    x->connection = connection;
    x->conn = conn_of(connection);
    x->start_us = qn_now_us();
    x->fd = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD)->connect_fd;
    x->is_http11 = !strcmp(version, "HTTP/1.1");
    snprintf(x->method, sizeof x->method, "%s", method);
    read_path(x, url);
    read_id(x);
    find_route(x, &h->o);
    qn_buf_init(&x->body, h->o.max_body_bytes);
    admit(h, x, version);
    return x;
}

static void answer(struct qn_http *h, struct qn_exchange *x)
{
    /* the idle timeout is for waiting connections; a long computation is none */
    MHD_set_connection_option(x->connection, MHD_CONNECTION_OPTION_TIMEOUT, 0u);
    x->ready_us = qn_now_us();
    if (x->is_let_in && x->conn && !qn_conns_move(h->conns, x->conn, QN_CONN_RUNNING))
        refuse(x, 429, "too_many_requests", "%d requests are running; try again shortly",
               qn_conns_count(h->conns, QN_CONN_RUNNING));
    if (x->refuse_status) {
        qn_http_fail_with(x, x->refuse_status, x->refuse_code, "%s", x->refuse_text);
        return;
    }
    if (!strcmp(x->method, "OPTIONS")) {
        struct MHD_Response *r = MHD_create_response_from_buffer(0, NULL, MHD_RESPMEM_PERSISTENT);
        add_header(r, "Allow", "GET, POST, OPTIONS");
        queue(x, 204, r);
        return;
    }
    const char *unready = x->route->flags & QN_ROUTE_ENGINE ? h->o.unready(h->server) : NULL;
    if (unready) {
        qn_http_fail_with(x, 503, "unavailable", "%s", unready);
        return;
    }
    /* the share bounds it before this does */
    x->arena = qn_arena_create(QN_MIN((size_t)64 << 20, h->o.max_body_bytes) + 48 * x->body.n_byte);
    x->route->handle(x);
    QN_CHECK(x->is_answered);
}

/* Bytes of the body. */
static bool take_bytes(struct qn_http *h, struct qn_exchange *x, const char *data, size_t n_data)
{
    const char *length = x->n_received ? NULL : qn_http_header(x, "Content-Length");
    char text[200];
    x->n_received += n_data;
    if (x->conn) qn_conns_received(h->conns, x->conn, n_data);
    if (x->n_received > h->o.max_body_bytes)
        refuse(x, 413, "request_too_large", "the body is over %zu bytes (--max-body)", h->o.max_body_bytes);
    /* refused bodies are read to their end, so that the peer reads the answer; within reason */
    if (x->n_received > QN_MAX(2 * h->o.max_body_bytes, DRAIN_BYTES)) return false;
    if (!x->refuse_status && length) /* in one piece, as announced */
        qn_buf_reserve(&x->body, (size_t)QN_MIN(strtoull(length, NULL, 10), h->o.max_body_bytes));
    if (!x->refuse_status && qn_buf_append(&x->body, data, n_data)) {
        int status = qn_http_short(x, text, sizeof text);
        refuse(x, status ? status : 503, "out_of_memory", "%s",
               status ? text : "there is no memory for the body");
    }
    if (x->refuse_status) qn_buf_free(&x->body);
    return true;
}

static enum MHD_Result on_request(void *cls, struct MHD_Connection *connection, const char *url,
                                  const char *method, const char *version, const char *data, size_t *n_data,
                                  void **state)
{
    struct qn_http *h = cls;
    struct qn_exchange *x = *state;
    bool goes_on = true;
    qn_share_use(x ? x->share : 0);
    if (!x) {
        x = *state = begin(h, connection, url, method, version);
        if (x && x->is_early) answer(h, x);
        goes_on = x;
    } else if (*n_data) {
        goes_on = take_bytes(h, x, data, *n_data);
        *n_data = 0;
    } else if (!x->is_answered)
        answer(h, x);
    qn_share_use(0);
    return goes_on && !x->is_broken ? MHD_YES : MHD_NO;
}

static void write_log(const struct qn_exchange *x)
{
    const struct qn_http_facts *f = &x->facts;
    enum qn_level level = x->route && x->route->flags & QN_ROUTE_QUIET ? QN_LOG_DEBUG : QN_LOG_INFO;
    if (!qn_log_is_on(level)) return;
    char more[400] = "";
    if (f->finish)
        snprintf(more, sizeof more,
                 " model=%.60s stream=%d finish=%s prompt=%d cached=%d new=%d drafted=%d accepted=%d "
                 "queue_ms=%.1f prefill_ms=%.1f decode_ms=%.1f%s%.60s",
                 f->model ? f->model : "-", f->is_stream, f->finish, f->n_prompt, f->n_cached, f->n_new,
                 f->n_drafted, f->n_accepted, (double)f->queue_us / 1e3, (double)f->prefill_us / 1e3,
                 (double)f->decode_us / 1e3, f->miss ? " miss=" : "", f->miss ? f->miss : "");
    qn_log(level, "http", "%s %s status=%d ms=%.1f id=%s%s", x->method, x->path, x->status,
           (double)(qn_now_us() - x->start_us) / 1e3, x->id, more);
}

static void on_completed(void *cls, struct MHD_Connection *connection, void **state,
                         enum MHD_RequestTerminationCode why)
{
    struct qn_http *h = cls;
    struct qn_exchange *x = *state;
    (void)why;
    if (!x) return;
    *state = NULL;
    qn_share_use(x->share);
    if (x->owned_free) x->owned_free(x->owned);
    qn_share_use(0);
    write_log(x);
    if (h->o.done) h->o.done(x);
    MHD_set_connection_option(connection, MHD_CONNECTION_OPTION_TIMEOUT, (unsigned)QN_HTTP_IDLE_S);
    if (x->conn) qn_conns_move(h->conns, x->conn, x->conn->was_let_in ? QN_CONN_IDLE : QN_CONN_NEW);
    qn_buf_free(&x->body);
    qn_arena_free(x->arena);
    qn_share_close(x->share);
    free(x->told);
    free(x);
}

static void on_connection(void *cls, struct MHD_Connection *connection, void **context,
                          enum MHD_ConnectionNotificationCode what)
{
    struct qn_http *h = cls;
    if (what == MHD_CONNECTION_NOTIFY_STARTED) {
        int fd = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD)->connect_fd;
        /* a peer that is there but reads nothing, or is gone without a word, does not hold its thread for
         * ever */
        unsigned stall_ms = QN_HTTP_STALL_S * 1000;
        int on = 1;
        setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &stall_ms, sizeof stall_ms);
        setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
        *context = qn_conns_add(h->conns, fd);
        if (!*context) shutdown(fd, SHUT_RDWR);
    } else if (*context) {
        qn_conns_remove(h->conns, *context);
        *context = NULL;
    }
}

/* ------------------------------------------------------------------ the daemon */

static int bind_socket(struct qn_http *h, struct qn_err *e)
{
    int rc = QN_OK, fd = -1, on = 1, why = 0;
    char port[12];
    struct addrinfo hint = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV},
                    *list = NULL;
    snprintf(port, sizeof port, "%d", h->o.port);
    int failed = getaddrinfo(h->o.host, port, &hint, &list);
    QN_FAIL_IF(failed, e, QN_IO, "--host %s: %s", h->o.host, gai_strerror(failed));
    for (struct addrinfo *a = list; a && fd < 0; a = a->ai_next) {
        fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (fd < 0) {
            why = errno;
            continue;
        }
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
        if (bind(fd, a->ai_addr, a->ai_addrlen) || listen(fd, 1024)) {
            why = errno;
            close(fd);
            fd = -1;
        }
    }
    QN_FAIL_IF(fd < 0, e, QN_IO, "cannot listen on %s:%d: %s%s", h->o.host, h->o.port, strerror(why),
               why == EADDRINUSE ? "; choose another --port, or 0 for a free one" : "");
    struct sockaddr_storage bound;
    socklen_t n = sizeof bound;
    getsockname(fd, (struct sockaddr *)&bound, &n);
    char name[12];
    getnameinfo((struct sockaddr *)&bound, n, NULL, 0, name, sizeof name, NI_NUMERICSERV);
    h->port = atoi(name);
    h->listen_fd = fd;
    struct sockaddr_in *v4 = (struct sockaddr_in *)&bound;
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)&bound;
    h->gate.is_loopback = bound.ss_family == AF_INET ? ntohl(v4->sin_addr.s_addr) >> 24 == 127
                                                     : IN6_IS_ADDR_LOOPBACK(&v6->sin6_addr);
out:
    if (list) freeaddrinfo(list);
    return rc;
}

/* Connections that may be there at once, for so many requests. */
static int n_connection(int max_requests)
{
    return max_requests + QN_MAX(max_requests / 2, 16) + MAX_NEW + MAX_REFUSED + MAX_OPEN + MAX_IDLE +
           MAX_ENDING;
}

/* Every connection is an open file; where the system gives too few, fewer requests run at once. */
static void fit_files(struct qn_http *h)
{
    struct rlimit r;
    if (getrlimit(RLIMIT_NOFILE, &r)) return;
    rlim_t need = (rlim_t)n_connection(h->o.max_requests) + OTHER_FILES;
    if (r.rlim_cur < need) {
        r.rlim_cur = QN_MIN(need, r.rlim_max);
        setrlimit(RLIMIT_NOFILE, &r);
        getrlimit(RLIMIT_NOFILE, &r);
    }
    int wanted = h->o.max_requests;
    while (h->o.max_requests > 8 && (rlim_t)n_connection(h->o.max_requests) + OTHER_FILES > r.rlim_cur)
        h->o.max_requests -= h->o.max_requests / 8 + 1;
    if (wanted != h->o.max_requests)
        qn_log(QN_LOG_WARN, "http",
               "%d requests at once instead of %d: the process may open %llu files only (ulimit -n)",
               h->o.max_requests, wanted, (unsigned long long)r.rlim_cur);
}

static struct qn_conns *open_conns(const struct qn_http_options *o)
{
    const int64_t second = 1000000;
    struct qn_conns_limits limits = {
        .most = {[QN_CONN_NEW] = MAX_NEW,
                 [QN_CONN_REFUSED] = MAX_REFUSED,
                 [QN_CONN_OPEN] = MAX_OPEN,
                 [QN_CONN_IDLE] = MAX_IDLE,
                 [QN_CONN_UPLOAD] = QN_MAX(o->max_requests / 2, 16),
                 [QN_CONN_RUNNING] = o->max_requests},
        .head_us = (QN_HTTP_IDLE_S + 45) * second,
        .idle_us = (QN_HTTP_IDLE_S + 45) * second,
        .body_us = o->body_timeout_s * second,
        .rate_us = QN_HTTP_RATE_S * second,
        .rate_bytes = QN_HTTP_RATE_BYTES * QN_HTTP_RATE_S,
    };
    return qn_conns_create(&limits);
}

int qn_http_open(struct qn_http **out, struct qn_server *server, const struct qn_http_options *o,
                 struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_http *h = xcalloc(1, sizeof *h);
    h->server = server;
    h->o = *o;
    h->gate = o->gate;
    if (!h->o.max_body_bytes) h->o.max_body_bytes = QN_HTTP_MAX_BODY_BYTES;
    if (!h->o.max_requests) h->o.max_requests = QN_HTTP_MAX_REQUESTS;
    if (!h->o.body_timeout_s) h->o.body_timeout_s = QN_HTTP_BODY_TIMEOUT_S;
    h->listen_fd = -1;
    fit_files(h);
    h->conns = open_conns(&h->o);
    QN_TRY(bind_socket(h, e));
    *out = h; /* handlers may run from here on */
    h->daemon = MHD_start_daemon(
        MHD_USE_THREAD_PER_CONNECTION | MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_POLL | MHD_USE_ITC, 0, NULL,
        NULL, on_request, h, MHD_OPTION_LISTEN_SOCKET, h->listen_fd, MHD_OPTION_CONNECTION_LIMIT,
        (unsigned)n_connection(h->o.max_requests), MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)64 << 10,
        MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)QN_HTTP_IDLE_S, MHD_OPTION_THREAD_STACK_SIZE,
        (size_t)2 << 20, MHD_OPTION_NOTIFY_COMPLETED, on_completed, h, MHD_OPTION_NOTIFY_CONNECTION,
        on_connection, h, MHD_OPTION_END);
    if (!h->daemon) {
        *out = NULL;
        QN_FAIL(e, QN_IO, "cannot start the HTTP daemon on %s:%d: %s", o->host, h->port, strerror(errno));
    }
    h = NULL;
out:
    if (h) {
        if (h->listen_fd >= 0) close(h->listen_fd);
        qn_conns_free(h->conns);
        free(h);
    }
    return rc;
}

int qn_http_port(const struct qn_http *h)
{
    return h->port;
}

int qn_http_n_running(struct qn_http *h)
{
    return qn_conns_count(h->conns, QN_CONN_UPLOAD) + qn_conns_count(h->conns, QN_CONN_RUNNING);
}

void qn_http_tick(struct qn_http *h)
{
    qn_conns_tick(h->conns);
}

void qn_http_quiet(struct qn_http *h)
{
    if (h->listen_fd < 0) return;
    MHD_socket fd = MHD_quiesce_daemon(h->daemon);
    if (fd != MHD_INVALID_SOCKET) close(fd);
    h->listen_fd = -1;
}

void qn_http_close(struct qn_http *h)
{
    if (!h) return;
    qn_http_quiet(h);
    MHD_stop_daemon(h->daemon);
    qn_conns_free(h->conns);
    free(h);
}
