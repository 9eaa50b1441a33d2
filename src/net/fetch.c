/* HTTP requests over libcurl.
 * SPDX-License-Identifier: Apache-2.0 */
#include "net/fetch.h"

#include <curl/curl.h>
#include <pthread.h>
#include <strings.h>

#include "base/mem.h"
#include "net/address.h"

#define CONNECT_S 30
#define STALL_S   60

struct running {
    const struct qn_fetch *f;
    struct qn_fetch_end *end;
    CURL *curl;
    bool has_head, is_stopped;
};

static void clean_up(void)
{
    curl_global_cleanup();
}

static void start_library(void)
{
    curl_global_init(CURL_GLOBAL_DEFAULT);
    atexit(clean_up);
}

static size_t take_header(char *line, size_t size, size_t n, void *user)
{
    struct running *r = user;
    static const char name[] = "content-range: bytes ";
    (void)size;
    if (n > 5 && !strncasecmp(line, "HTTP/", 5))
        r->end->head.range_at = -1; /* of the answer after a redirect */
    if (n > sizeof name && !strncasecmp(line, name, sizeof name - 1)) {
        int64_t at = 0;
        for (size_t i = sizeof name - 1; i < n && line[i] >= '0' && line[i] <= '9' && at < INT64_MAX / 16;
             i++)
            at = at * 10 + line[i] - '0';
        r->end->head.range_at = at;
    }
    return n;
}

static void read_head(struct running *r)
{
    struct qn_fetch_head *head = &r->end->head;
    const char *type = NULL;
    curl_off_t n_byte = -1;
    curl_easy_getinfo(r->curl, CURLINFO_RESPONSE_CODE, &head->status);
    curl_easy_getinfo(r->curl, CURLINFO_CONTENT_TYPE, &type);
    curl_easy_getinfo(r->curl, CURLINFO_CONTENT_LENGTH_DOWNLOAD_T, &n_byte);
    head->n_byte = n_byte;
    snprintf(head->type, sizeof head->type, "%s", type ? type : "");
    r->has_head = true;
}

static size_t take_data(char *data, size_t size, size_t n, void *user)
{
    struct running *r = user;
    (void)size;
    if (!r->has_head) read_head(r);
    if (!r->f->on_data || r->f->on_data(r->f->user, &r->end->head, data, n)) return n;
    r->is_stopped = true;
    return 0;
}

static bool is_passing(CURLcode code, long status)
{
    switch (code) {
    case CURLE_OK:
    case CURLE_HTTP_RETURNED_ERROR:
        return status == 408 || status == 429 || status >= 500;
    case CURLE_COULDNT_CONNECT:
    case CURLE_OPERATION_TIMEDOUT:
    case CURLE_RECV_ERROR:
    case CURLE_SEND_ERROR:
    case CURLE_GOT_NOTHING:
    case CURLE_PARTIAL_FILE:
    case CURLE_COULDNT_RESOLVE_HOST:
    case CURLE_HTTP2:
    case CURLE_HTTP2_STREAM:
        return true;
    default:
        return false;
    }
}

static struct curl_slist *make_headers(const struct qn_fetch *f)
{
    struct curl_slist *list = NULL;
    if (f->token) {
        char *line = xasprintf("Authorization: Bearer %s", f->token);
        list = curl_slist_append(list, line); /* libcurl keeps it from other hosts and ports */
        free(line);
    }
    for (int i = 0; i < f->n_header; i++) list = curl_slist_append(list, f->headers[i]);
    return list;
}

/* Sees the address that is about to be dialled, after every look-up and redirect. */
static curl_socket_t open_socket(void *user, curlsocktype purpose, struct curl_sockaddr *a)
{
    struct running *r = user;
    (void)purpose;
    if (!qn_address_is_public(&a->addr)) {
        r->end->is_private = true;
        return CURL_SOCKET_BAD;
    }
    return socket(a->family, a->socktype | SOCK_CLOEXEC, a->protocol);
}

static void set_options(struct running *r, const struct curl_slist *headers)
{
    const struct qn_fetch *f = r->f;
    CURL *c = r->curl;
    curl_easy_setopt(c, CURLOPT_URL, f->url);
    curl_easy_setopt(c, CURLOPT_HTTPHEADER, headers);
    curl_easy_setopt(c, CURLOPT_USERAGENT, "quern/" QN_VERSION);
    curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(c, CURLOPT_FAILONERROR, f->keeps_failures ? 0L : 1L);
    curl_easy_setopt(c, CURLOPT_FOLLOWLOCATION, f->max_redirect > 0 ? 1L : 0L);
    curl_easy_setopt(c, CURLOPT_MAXREDIRS, (long)f->max_redirect);
    curl_easy_setopt(c, CURLOPT_PROTOCOLS_STR, "http,https");
    /* a server that is reached by https does not send us to plain http */
    curl_easy_setopt(c, CURLOPT_REDIR_PROTOCOLS_STR,
                     strncasecmp(f->url, "https:", 6) ? "http,https" : "https");
    curl_easy_setopt(c, CURLOPT_CONNECTTIMEOUT, f->connect_s ? (long)f->connect_s : (long)CONNECT_S);
    if (f->stall_s >= 0) {
        curl_easy_setopt(c, CURLOPT_LOW_SPEED_LIMIT, 1L);
        curl_easy_setopt(c, CURLOPT_LOW_SPEED_TIME, f->stall_s ? (long)f->stall_s : (long)STALL_S);
    }
    if (f->total_s) curl_easy_setopt(c, CURLOPT_TIMEOUT, (long)f->total_s);
    if (f->is_local) curl_easy_setopt(c, CURLOPT_NOPROXY, "*");
    if (f->public_only) {
        curl_easy_setopt(c, CURLOPT_NOPROXY, "*"); /* a proxy would dial for us */
        curl_easy_setopt(c, CURLOPT_OPENSOCKETFUNCTION, open_socket);
        curl_easy_setopt(c, CURLOPT_OPENSOCKETDATA, r);
    }
    if (f->body) {
        curl_easy_setopt(c, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)f->n_body);
        curl_easy_setopt(c, CURLOPT_POSTFIELDS, f->body);
    }
    curl_easy_setopt(c, CURLOPT_HEADERFUNCTION, take_header);
    curl_easy_setopt(c, CURLOPT_HEADERDATA, r);
    curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, take_data);
    curl_easy_setopt(c, CURLOPT_WRITEDATA, r);
}

int qn_fetch(const struct qn_fetch *f, struct qn_fetch_end *end, struct qn_err *e)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, start_library);
    *end = (struct qn_fetch_end){.head = {.n_byte = -1, .range_at = -1}};
    struct running r = {.f = f, .end = end, .curl = curl_easy_init()};
    QN_CHECK(r.curl);
    struct curl_slist *headers = make_headers(f);
    char range[32];
    set_options(&r, headers);
    snprintf(range, sizeof range, "%" PRId64 "-", f->from);
    if (f->from > 0) curl_easy_setopt(r.curl, CURLOPT_RANGE, range);

    CURLcode code = curl_easy_perform(r.curl);
    read_head(&r);
    curl_off_t again = 0;
    const char *redirect = NULL;
    curl_easy_getinfo(r.curl, CURLINFO_REDIRECT_URL, &redirect);
    snprintf(end->redirect, sizeof end->redirect, "%s",
             redirect && strlen(redirect) < sizeof end->redirect ? redirect : "");
    curl_easy_getinfo(r.curl, CURLINFO_RETRY_AFTER, &again);
    end->retry_after_s = (int)QN_CLAMP(again, 0, 86400);
    end->is_passing = !r.is_stopped && !end->is_private && (code || end->head.status >= 400) &&
                      is_passing(code, end->head.status);
    curl_slist_free_all(headers);
    curl_easy_cleanup(r.curl);
    if (code == CURLE_HTTP_RETURNED_ERROR || (!code && end->head.status >= 400))
        snprintf(end->why, sizeof end->why, "the server answers %ld", end->head.status);
    else if (code && end->is_private)
        snprintf(end->why, sizeof end->why, "the address is private or special");
    else if (code)
        snprintf(end->why, sizeof end->why, "%s", curl_easy_strerror(code));
    if (r.is_stopped) return qn_err_set(e, QN_CANCELED, __FILE__, __LINE__, "%.180s: stopped", f->url);
    if (!end->why[0]) return QN_OK;
    return qn_err_set(e, QN_IO, __FILE__, __LINE__, "%.120s: %.100s", f->url, end->why);
}
