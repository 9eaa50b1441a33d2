/* Formats of strings as terms.
 * SPDX-License-Identifier: Apache-2.0 */
#include "text/format.h"

#include "text/regex.h"

struct maker {
    struct qn_terms *t;
    bool is_json;
    struct qn_err *e;
};

static int pattern(qn_term *out, const struct maker *m, const char *text)
{
    return qn_regex_term(out, m->t, text, strlen(text), true, m->is_json, "format", m->e);
}

/* Any characters, so many. */
static qn_term of_length(const struct maker *m, uint32_t min, uint32_t max)
{
    struct qn_charset all = {.n = 0};
    qn_charset_invert(&all);
    return qn_term_repeat(m->t, qn_charset_term(m->t, &all, m->is_json), min, max);
}

/* --- dates and times (RFC 3339) --- */

/* Python, and who follows it, knows no year 0. */
#define YEAR "(000[1-9]|00[1-9]\\d|0[1-9]\\d\\d|[1-9]\\d{3})"
#define LEAP                                                                                                 \
    "(\\d\\d(0[48]|[2468][048]|[13579][26])|(0[48]|[2468][048]|[13579][26])00)" /* divided by 4, not by 100; \
                                                                                    by 400 */
#define DATE                                                                                                 \
    "(" YEAR "-((0[13578]|1[02])-(0[1-9]|[12]\\d|3[01])|(0[469]|11)-(0[1-9]|[12]\\d|30)"                     \
    "|02-(0[1-9]|1\\d|2[0-8]))|" LEAP "-02-29)"
#define FRACTION "(\\.\\d{1,32})?"
#define HOUR     "([01]\\d|2[0-3])"
#define OFFSET   "([Zz]|[+-]" HOUR ":[0-5]\\d)"
/* A leap second ends a day of UTC. With other offsets it is left out: next to no reader takes it. */
#define TIME "(" HOUR ":[0-5]\\d:[0-5]\\d" FRACTION OFFSET "|23:59:60" FRACTION "([Zz]|[+-]00:00))"

/* --- addresses --- */

#define OCTET "(25[0-5]|2[0-4]\\d|1\\d\\d|[1-9]?\\d)"
#define IPV4  "(" OCTET "\\.){3}" OCTET
#define LABEL "[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
#define HOST  LABEL "(\\." LABEL ")*"

/* RFC 4291 2.2: eight groups, or fewer around one "::"; the last two may be an IPv4 address. No zones. */
static int ipv6(qn_term *out, const struct maker *m)
{
    int rc = QN_OK;
    struct qn_terms *t = m->t;
    qn_term group, v4, colon = qn_term_str(t, ":"), left[8], right[8], each[9];
    QN_TRY(pattern(&group, m, "[0-9A-Fa-f]{1,4}"));
    QN_TRY(pattern(&v4, m, IPV4));
    /* left[k]: k groups. right[k]: at most k, of which an IPv4 address counts two. */
    left[0] = right[0] = QN_TERM_EPS;
    qn_term of = QN_TERM_EPS; /* groups before the last, each with its colon */
    for (int k = 1; k < 8; k++) {
        left[k] = qn_term_seq(t, k > 1 ? qn_term_seq(t, left[k - 1], colon) : QN_TERM_EPS, group);
        right[k] = qn_term_alt(t, right[k - 1], left[k]);
        if (k < 2) continue;
        right[k] = qn_term_alt(t, right[k], qn_term_seq(t, of, v4));
        of = qn_term_seq3(t, group, colon, of);
    }
    for (int k = 0; k < 8; k++) each[k] = qn_term_seq3(t, left[k], qn_term_str(t, "::"), right[7 - k]);
    qn_term last = qn_term_alt(t, qn_term_seq3(t, group, colon, group), v4);
    each[8] = qn_term_seq3(t, left[6], colon, last);
    *out = qn_term_alts(t, each, 9);
out:
    return rc;
}

static int interface_of(qn_term *out, const struct maker *m, bool is_v6)
{
    int rc = QN_OK;
    qn_term bits;
    if (is_v6)
        QN_TRY(ipv6(out, m));
    else
        QN_TRY(pattern(out, m, IPV4));
    QN_TRY(pattern(&bits, m, is_v6 ? "(/(12[0-8]|1[01]\\d|[1-9]?\\d))?" : "(/(3[0-2]|[12]?\\d))?"));
    *out = qn_term_seq(m->t, *out, bits);
out:
    return rc;
}

static int any_address(qn_term *out, const struct maker *m, bool with_bits)
{
    int rc = QN_OK;
    qn_term v6;
    if (with_bits) {
        QN_TRY(interface_of(out, m, false));
        QN_TRY(interface_of(&v6, m, true));
    } else {
        QN_TRY(pattern(out, m, IPV4));
        QN_TRY(ipv6(&v6, m));
    }
    *out = qn_term_alt(m->t, *out, v6);
out:
    return rc;
}

static int hostname(qn_term *out, const struct maker *m)
{
    int rc = QN_OK;
    QN_TRY(pattern(out, m, HOST));
    *out = qn_term_and(m->t, *out, of_length(m, 1, 253), true);
out:
    return rc;
}

/* RFC 5321: dotted atoms or a quoted string of up to 64 characters, a domain or an address in brackets. */
static int email(qn_term *out, const struct maker *m)
{
    int rc = QN_OK;
    struct qn_terms *t = m->t;
    qn_term local, domain, v4, v6;
#define ATOM "[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
    QN_TRY(pattern(&local, m, ATOM "(\\." ATOM ")*|\"([ !#-\\[\\]-~]|\\\\[ -~])*\""));
    local = qn_term_and(t, local, of_length(m, 1, 64), true);
    QN_TRY(hostname(&domain, m));
    QN_TRY(pattern(&v4, m, "\\[" IPV4 "\\]"));
    QN_TRY(ipv6(&v6, m));
    v6 = qn_term_seq3(t, qn_term_str(t, "[IPv6:"), v6, qn_term_str(t, "]"));
    *out = qn_term_seq3(t, local, qn_term_str(t, "@"), qn_term_alts(t, (qn_term[]){domain, v4, v6}, 3));
out:
    return rc;
}

/* --- URIs (RFC 3986) and IRIs (RFC 3987) --- */

#define UNRESERVED "A-Za-z0-9._~\\-"
#define SUB        "!$&'()*+,;="
#define PERCENT    "%[0-9A-Fa-f]{2}"
#define UCS                                                                                                  \
    "\\u{a0}-\\u{d7ff}\\u{f900}-\\u{fdcf}\\u{fdf0}-\\u{ffef}\\u{10000}-\\u{1fffd}\\u{20000}-\\u{2fffd}"      \
    "\\u{30000}-\\u{3fffd}\\u{40000}-\\u{4fffd}\\u{50000}-\\u{5fffd}\\u{60000}-\\u{6fffd}"                   \
    "\\u{70000}-\\u{7fffd}\\u{80000}-\\u{8fffd}\\u{90000}-\\u{9fffd}\\u{a0000}-\\u{afffd}"                   \
    "\\u{b0000}-\\u{bfffd}\\u{c0000}-\\u{cfffd}\\u{d0000}-\\u{dfffd}\\u{e1000}-\\u{efffd}"
#define PRIVATE "\\u{e000}-\\u{f8ff}\\u{f0000}-\\u{ffffd}\\u{100000}-\\u{10fffd}"

/* Characters of a part, as a repetition: those of `set` and percent-encoded ones. */
static int part(qn_term *out, const struct maker *m, bool is_iri, const char *set, uint32_t min)
{
    char text[1024];
    snprintf(text, sizeof text, "[%s%s%s]|%s", set, is_iri ? UCS : "", is_iri && set[0] == '?' ? PRIVATE : "",
             PERCENT);
    int rc = pattern(out, m, text);
    if (!rc) *out = qn_term_repeat(m->t, *out, min, QN_TERM_MANY);
    return rc;
}

/* [userinfo@]host[:port] */
static int authority(qn_term *out, const struct maker *m, bool is_iri)
{
    int rc = QN_OK;
    struct qn_terms *t = m->t;
    qn_term user, name, v6, future, port;
    QN_TRY(part(&user, m, is_iri, UNRESERVED SUB ":", 0));
    QN_TRY(part(&name, m, is_iri, UNRESERVED SUB, 0));
    QN_TRY(ipv6(&v6, m));
    QN_TRY(pattern(&future, m, "[Vv][0-9A-Fa-f]+\\.[" UNRESERVED SUB ":]+"));
    QN_TRY(pattern(&port, m, "(:\\d*)?"));
    user = qn_term_alt(t, QN_TERM_EPS, qn_term_seq(t, user, qn_term_str(t, "@")));
    qn_term literal = qn_term_seq3(t, qn_term_str(t, "["), qn_term_alt(t, v6, future), qn_term_str(t, "]"));
    *out = qn_term_seq3(t, user, qn_term_alt(t, name, literal), port);
out:
    return rc;
}

static int uri(qn_term *out, const struct maker *m, bool is_iri, bool is_reference)
{
    int rc = QN_OK;
    struct qn_terms *t = m->t;
    qn_term scheme, host, segment, full, plain, query, fragment, slash = qn_term_str(t, "/");
    QN_TRY(pattern(&scheme, m, "[A-Za-z][A-Za-z0-9+.-]*:"));
    QN_TRY(authority(&host, m, is_iri));
    QN_TRY(part(&segment, m, is_iri, UNRESERVED SUB ":@", 0));
    QN_TRY(part(&full, m, is_iri, UNRESERVED SUB ":@", 1));
    QN_TRY(part(&plain, m, is_iri, UNRESERVED SUB "@", 1)); /* no colon: it would be a scheme */
    QN_TRY(part(&query, m, is_iri, "?/" UNRESERVED SUB ":@", 0));
    QN_TRY(part(&fragment, m, is_iri, "/?" UNRESERVED SUB ":@", 0));
    qn_term more = qn_term_repeat(t, qn_term_seq(t, slash, segment), 0, QN_TERM_MANY);
    qn_term rootless = qn_term_seq(t, full, more);
    qn_term absolute = qn_term_seq(t, slash, qn_term_alt(t, QN_TERM_EPS, rootless));
    qn_term with_host = qn_term_seq3(t, qn_term_str(t, "//"), host, more);
    qn_term tail = qn_term_seq(t, qn_term_alt(t, QN_TERM_EPS, qn_term_seq(t, qn_term_str(t, "?"), query)),
                               qn_term_alt(t, QN_TERM_EPS, qn_term_seq(t, qn_term_str(t, "#"), fragment)));
    qn_term list[] = {with_host, absolute, rootless, QN_TERM_EPS};
    *out = qn_term_seq3(t, scheme, qn_term_alts(t, list, QN_COUNT(list)), tail);
    if (!is_reference) goto out;
    list[2] = qn_term_seq(t, plain, more);
    *out = qn_term_alt(t, *out, qn_term_seq(t, qn_term_alts(t, list, QN_COUNT(list)), tail));
out:
    return rc;
}

/* RFC 6570 */
static int uri_template(qn_term *out, const struct maker *m)
{
#define NAME "([A-Za-z0-9_]|" PERCENT ")(\\.?([A-Za-z0-9_]|" PERCENT "))*"
#define SPEC NAME "(\\*|:[1-9]\\d{0,3})?"
    return pattern(out, m,
                   "([!#$&(-;=?@A-Z\\[\\]_a-z~" UCS PRIVATE "]|" PERCENT "|\\{[+#./;?&=,!@|]?" SPEC "(," SPEC
                   ")*\\})*");
}

/* --- by name --- */

static const struct {
    const char *name, *pattern;
} patterns[] = {
    {"date", DATE},
    {"time", TIME},
    {"date-time", DATE "[Tt]" TIME},
    {"duration", /* RFC 3339 appendix A: no unit left out between two others */
     "P(\\d{1,20}W|(\\d{1,20}Y(\\d{1,20}M(\\d{1,20}D)?)?|\\d{1,20}M(\\d{1,20}D)?|\\d{1,20}D)"
     "(T(\\d{1,20}H(\\d{1,20}M(\\d{1,20}S)?)?|\\d{1,20}M(\\d{1,20}S)?|\\d{1,20}S))?"
     "|T(\\d{1,20}H(\\d{1,20}M(\\d{1,20}S)?)?|\\d{1,20}M(\\d{1,20}S)?|\\d{1,20}S))"},
    {"uuid", "[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}"},
    {"uuid1", "[0-9A-Fa-f]{8}-[0-9A-Fa-f]{4}-1[0-9A-Fa-f]{3}-[89ABab][0-9A-Fa-f]{3}-[0-9A-Fa-f]{12}"},
    {"uuid3", "[0-9A-Fa-f]{8}-[0-9A-Fa-f]{4}-3[0-9A-Fa-f]{3}-[89ABab][0-9A-Fa-f]{3}-[0-9A-Fa-f]{12}"},
    {"uuid4", "[0-9A-Fa-f]{8}-[0-9A-Fa-f]{4}-4[0-9A-Fa-f]{3}-[89ABab][0-9A-Fa-f]{3}-[0-9A-Fa-f]{12}"},
    {"uuid5", "[0-9A-Fa-f]{8}-[0-9A-Fa-f]{4}-5[0-9A-Fa-f]{3}-[89ABab][0-9A-Fa-f]{3}-[0-9A-Fa-f]{12}"},
    {"uuid6", "[0-9A-Fa-f]{8}-[0-9A-Fa-f]{4}-6[0-9A-Fa-f]{3}-[89ABab][0-9A-Fa-f]{3}-[0-9A-Fa-f]{12}"},
    {"uuid7", "[0-9A-Fa-f]{8}-[0-9A-Fa-f]{4}-7[0-9A-Fa-f]{3}-[89ABab][0-9A-Fa-f]{3}-[0-9A-Fa-f]{12}"},
    {"uuid8", "[0-9A-Fa-f]{8}-[0-9A-Fa-f]{4}-8[0-9A-Fa-f]{3}-[89ABab][0-9A-Fa-f]{3}-[0-9A-Fa-f]{12}"},
    {"ipv4", IPV4},
    {"json-pointer", "(/([^/~]|~[01])*)*"},
    {"relative-json-pointer", "(0|[1-9]\\d*)(#|(/([^/~]|~[01])*)*)"},
    {"byte", "([A-Za-z0-9+/]{4})*([A-Za-z0-9+/][AQgw]==|[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=)?"},
    {"base64", "([A-Za-z0-9+/]{4})*([A-Za-z0-9+/][AQgw]==|[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=)?"},
    {"base64url", "([A-Za-z0-9_-]{4})*([A-Za-z0-9_-][AQgw]==|[A-Za-z0-9_-]{2}[AEIMQUYcgkosw048]=)?"},
};

/* Say what a string is for, not how it is spelled. */
static const char *const notes[] = {"password", "path", "file-path", "directory-path", "binary", "textarea",
                                    "markdown", "html", "multiline", "text",           "string"};

int qn_format_term(enum qn_format_kind *kind, qn_term *out, struct qn_terms *t, const char *name,
                   bool is_json, struct qn_err *e)
{
    const struct maker m = {t, is_json, e};
    *kind = QN_FORMAT_TERM;
    for (size_t i = 0; i < QN_COUNT(patterns); i++)
        if (!strcmp(patterns[i].name, name)) return pattern(out, &m, patterns[i].pattern);
    if (!strcmp(name, "email")) return email(out, &m);
    if (!strcmp(name, "hostname")) return hostname(out, &m);
    if (!strcmp(name, "ipv6")) return ipv6(out, &m);
    if (!strcmp(name, "uri") || !strcmp(name, "url")) return uri(out, &m, false, false);
    if (!strcmp(name, "uri-reference")) return uri(out, &m, false, true);
    if (!strcmp(name, "iri")) return uri(out, &m, true, false);
    if (!strcmp(name, "iri-reference")) return uri(out, &m, true, true);
    if (!strcmp(name, "uri-template")) return uri_template(out, &m);
    if (!strcmp(name, "ipv4interface")) return interface_of(out, &m, false);
    if (!strcmp(name, "ipv6interface")) return interface_of(out, &m, true);
    if (!strcmp(name, "ipvanyaddress")) return any_address(out, &m, false);
    if (!strcmp(name, "ipvanyinterface")) return any_address(out, &m, true);
    *kind = QN_FORMAT_UNKNOWN;
    for (size_t i = 0; i < QN_COUNT(notes); i++)
        if (!strcmp(notes[i], name)) *kind = QN_FORMAT_ANY;
    return QN_OK;
}
