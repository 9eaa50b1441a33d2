/* The gate: what the headers of a request must be before its body counts.
 * SPDX-License-Identifier: Apache-2.0 */
#include "server/gate.h"

#include <arpa/inet.h>
#include <microhttpd.h>
#include <stdarg.h>
#include <strings.h>

#include "base/hash.h"

static void refuse(struct qn_gate_refusal *out, int status, const char *code, const char *fmt, ...)
    QN_PRINTF(4, 5);
static void refuse(struct qn_gate_refusal *out, int status, const char *code, const char *fmt, ...)
{
    if (out->status) return;
    va_list args;
    va_start(args, fmt);
    vsnprintf(out->text, sizeof out->text, fmt, args);
    va_end(args);
    out->status = status;
    out->code = code;
}

static const char *header(struct MHD_Connection *c, const char *name)
{
    return MHD_lookup_connection_value(c, MHD_HEADER_KIND, name);
}

/* ------------------------------------------------------------------ framing */

struct framing {
    struct qn_gate_refusal *out;
    const char *length; /* the first Content-Length */
    int n_coding, n_host;
};

/* RFC 9110 5.6.2 */
static bool is_token(const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)s[i];
        bool is_plain = (c >= '0' && c <= '9') || ((c | 32) >= 'a' && (c | 32) <= 'z');
        if (!is_plain && (!c || !strchr("!#$%&'*+-.^_`|~", c))) return false;
    }
    return n > 0;
}

static bool is_digits(const char *s)
{
    size_t n = strspn(s, "0123456789");
    return n > 0 && !s[n];
}

static enum MHD_Result look(void *user, enum MHD_ValueKind kind, const char *name, size_t n_name,
                            const char *value, size_t n_value)
{
    struct framing *f = user;
    (void)kind;
    if (!value) value = "";
    if (!is_token(name, n_name))
        refuse(f->out, 400, NULL, "a header's name holds a blank or a character that names do not have");
    for (size_t i = 0; i < n_value; i++)
        if (((unsigned char)value[i] < 0x20 && value[i] != '\t') || value[i] == 0x7f)
            refuse(f->out, 400, NULL, "the header %.40s holds a control character", name);
    if (!strcasecmp(name, "Content-Length")) {
        if (!is_digits(value)) refuse(f->out, 400, NULL, "Content-Length is '%.40s', not a number", value);
        if (f->length && strcmp(f->length, value) != 0)
            refuse(f->out, 400, NULL, "Content-Length is given twice: %.40s and %.40s", f->length, value);
        f->length = value;
    } else if (!strcasecmp(name, "Transfer-Encoding")) {
        if (f->n_coding++) refuse(f->out, 400, NULL, "Transfer-Encoding is given twice");
        if (strcasecmp(value, "chunked") != 0)
            refuse(f->out, 400, NULL, "Transfer-Encoding is '%.40s'; only chunked is read", value);
    } else if (!strcasecmp(name, "Host") && f->n_host++)
        refuse(f->out, 400, NULL, "Host is given twice");
    else if (!strncasecmp(name, "Content-Length", 14) || !strncasecmp(name, "Transfer-Encoding", 17))
        /* libmicrohttpd 0.9.75 joins the second line of a folded header to its name */
        refuse(f->out, 400, NULL, "a header goes on in a second line; send it in one");
    return MHD_YES;
}

void qn_gate_framing(struct MHD_Connection *c, const char *version, struct qn_gate_refusal *out)
{
    struct framing f = {.out = out};
    MHD_get_connection_values_n(c, MHD_HEADER_KIND, look, &f);
    if (f.length && f.n_coding)
        refuse(out, 400, NULL, "Content-Length and Transfer-Encoding are given together; send one of them");
    if (f.n_coding && strcmp(version, "HTTP/1.1") != 0)
        refuse(out, 400, NULL, "%.20s has no Transfer-Encoding", version);
    out->must_close |= out->status != 0;
    const char *coding = header(c, "Content-Encoding");
    if (coding && *coding && strcasecmp(coding, "identity") != 0)
        refuse(out, 415, "unsupported_content_encoding",
               "Content-Encoding is '%.40s'; send the body as it is, without a coding", coding);
}

/* ------------------------------------------------------------------ pages */

/* Bytes of the name in "name", "name:port", "[v6]:port"; 0: none of these. */
static size_t name_length(const char *host)
{
    const char *end = host[0] == '[' ? strchr(host, ']') : host + strcspn(host, ":");
    if (!end) return 0;
    if (host[0] == '[') end++;
    bool ends = !*end || (*end == ':' && (!end[1] || is_digits(end + 1)));
    return ends ? (size_t)(end - host) : 0;
}

bool qn_gate_is_loopback_name(const char *host)
{
    char name[80];
    struct in_addr v4;
    struct in6_addr v6;
    size_t n = name_length(host);
    if (!n || n >= sizeof name) return false;
    memcpy(name, host, n);
    name[n] = 0;
    if (n > 1 && name[n - 1] == '.') name[--n] = 0;
    if (!strcasecmp(name, "localhost")) return true;
    if (n > 10 && !strcasecmp(name + n - 10, ".localhost")) return true; /* RFC 6761 */
    if (inet_pton(AF_INET, name, &v4) == 1) return ntohl(v4.s_addr) >> 24 == 127;
    if (name[0] != '[') return false;
    name[n - 1] = 0;
    return inet_pton(AF_INET6, name + 1, &v6) == 1 && IN6_IS_ADDR_LOOPBACK(&v6);
}

static bool is_listed(const char *const *list, int n, const char *what, size_t n_what)
{
    for (int i = 0; i < n; i++) {
        if (!strcmp(list[i], "*")) return true;
        if (strlen(list[i]) == n_what && !strncasecmp(list[i], what, n_what)) return true;
    }
    return false;
}

/* A page of this server itself: scheme://HOST with the request's own Host. */
static bool is_own_origin(const char *origin, const char *host)
{
    const char *at = strstr(origin, "://");
    return at && host && *host && !strcasecmp(at + 3, host);
}

static bool is_json(const char *type)
{
    size_t n = strcspn(type, ";");
    while (n && (type[n - 1] == ' ' || type[n - 1] == '\t')) n--;
    if (n == 16 && !strncasecmp(type, "application/json", 16)) return true;
    return n > 17 && !strncasecmp(type, "application/", 12) && !strncasecmp(type + n - 5, "+json", 5);
}

void qn_gate_page(const struct qn_gate *g, struct MHD_Connection *c, bool has_body,
                  struct qn_gate_refusal *out)
{
    if (g->n_key) return;
    const char *host = header(c, "Host"), *origin = header(c, "Origin"), *type = header(c, "Content-Type"),
               *site = header(c, "Sec-Fetch-Site");
    if (g->is_loopback && host && !qn_gate_is_loopback_name(host) &&
        !is_listed(g->hosts, g->n_host, host, strlen(host)) &&
        !is_listed(g->hosts, g->n_host, host, name_length(host)))
        refuse(out, 403, "host_not_allowed",
               "this server has no key and answers as localhost only, not as '%.60s'; start it with "
               "--allowed-hosts NAME or with --api-key",
               host);
    bool is_own = origin && is_own_origin(origin, host);
    bool is_cross = origin ? !is_own : site && has_body && !strcasecmp(site, "cross-site");
    if (is_cross && !(origin && is_listed(g->origins, g->n_origin, origin, strlen(origin))))
        refuse(out, 403, "origin_not_allowed",
               "pages of '%.60s' may not use this server, which has no key; start it with --allowed-origins "
               "ORIGIN or with --api-key",
               origin ? origin : "another site");
    if (has_body && (origin || site) && !(type && is_json(type)))
        refuse(out, 415, "unsupported_media_type",
               "a page's request needs Content-Type: application/json, not '%.60s'", type ? type : "");
}

const char *qn_gate_origin(const struct qn_gate *g, struct MHD_Connection *c)
{
    if (!g->n_origin) return NULL;
    for (int i = 0; i < g->n_origin; i++)
        if (!strcmp(g->origins[i], "*")) return "*";
    const char *origin = header(c, "Origin");
    return origin && is_listed(g->origins, g->n_origin, origin, strlen(origin)) ? origin : NULL;
}

/* ------------------------------------------------------------------ keys */

static bool key_matches(const char *a, const char *b)
{
    size_t n = strlen(a), m = strlen(b);
    unsigned char differs = n != m;
    for (size_t i = 0; i < m; i++) differs |= (unsigned char)(b[i] ^ (i < n ? a[i] : 0));
    return !differs;
}

void qn_gate_key(const struct qn_gate *g, struct MHD_Connection *c, uint64_t *client,
                 struct qn_gate_refusal *out)
{
    if (!g->n_key) return;
    const char *key = header(c, "Authorization");
    if (key && !strncasecmp(key, "Bearer ", 7))
        for (key += 7; *key == ' ';) key++;
    if (!key || !*key) key = header(c, "x-api-key");
    if (!key || !*key) key = header(c, "api-key");
    bool is_known = false;
    for (int i = 0; i < g->n_key && key; i++) is_known |= key_matches(key, g->keys[i]);
    if (is_known)
        *client = qn_hash_str(key);
    else
        refuse(out, 401, "invalid_api_key",
               key ? "the API key is not known to this server"
                   : "this server needs an API key: send Authorization: Bearer KEY, or x-api-key");
}
