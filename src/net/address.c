/* See address.h. SPDX-License-Identifier: Apache-2.0 */
#include "net/address.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <netinet/in.h>

#include <curl/curl.h>

struct net4 {
    uint32_t base;
    int bits;
};

static bool is_public4(uint32_t a)
{
    static const struct net4 nets[] = {
        {0x00000000, 8},  {0x0a000000, 8},  {0x64400000, 10}, {0x7f000000, 8},  {0xa9fe0000, 16},
        {0xac100000, 12}, {0xc0000000, 24}, {0xc0000200, 24}, {0xc0586300, 24}, {0xc0a80000, 16},
        {0xc6120000, 15}, {0xc6336400, 24}, {0xcb007100, 24}, {0xe0000000, 4},  {0xf0000000, 4},
    };
    for (size_t i = 0; i < QN_COUNT(nets); i++)
        if (!((a ^ nets[i].base) >> (32 - nets[i].bits))) return false;
    return true;
}

static uint32_t get32(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

/* Only what is given out (2000::/3), less its special parts; what carries an IPv4 address counts as that. */
static bool is_public6(const uint8_t *a)
{
    static const uint8_t zero[12];
    static const uint8_t mapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
    static const uint8_t nat64[12] = {0, 0x64, 0xff, 0x9b};
    if (!memcmp(a, mapped, 12) || !memcmp(a, nat64, 12) || !memcmp(a, zero, 12)) return false;
    if (a[0] >> 5 != 1) return false;                              /* not 2000::/3 */
    if (a[0] == 0x20 && a[1] == 0x02) return false;                /* 6to4 */
    if (a[0] == 0x20 && a[1] == 0x01 && a[2] < 0x02) return false; /* 2001::/23: Teredo and others */
    if (get32(a) == 0x20010db8) return false;                      /* documentation */
    if (a[0] == 0x3f && a[1] == 0xff && a[2] < 0x10) return false; /* documentation */
    return true;
}

bool qn_address_is_public(const struct sockaddr *a)
{
    if (a->sa_family == AF_INET) {
        struct sockaddr_in in;
        memcpy(&in, a, sizeof in);
        return is_public4(ntohl(in.sin_addr.s_addr));
    }
    if (a->sa_family == AF_INET6) {
        struct sockaddr_in6 in;
        memcpy(&in, a, sizeof in);
        return is_public6(in.sin6_addr.s6_addr);
    }
    return false;
}

int qn_address_host(const char *url, char *host, size_t n_host, struct qn_err *e)
{
    int rc = QN_OK;
    CURLU *u = curl_url();
    char *scheme = NULL, *name = NULL, *user = NULL;
    QN_FAIL_IF(!u, e, QN_NOMEM, "no memory for an address");
    for (const unsigned char *p = (const unsigned char *)url; *p; p++)
        QN_FAIL_IF(*p <= ' ' || *p == '\\' || *p >= 127, e, QN_INVAL,
                   "the address holds a character that has to be escaped");
    QN_FAIL_IF(curl_url_set(u, CURLUPART_URL, url, 0) || curl_url_get(u, CURLUPART_SCHEME, &scheme, 0) ||
                   curl_url_get(u, CURLUPART_HOST, &name, 0),
               e, QN_INVAL, "the address cannot be read");
    QN_FAIL_IF(strcmp(scheme, "http") && strcmp(scheme, "https"), e, QN_INVAL,
               "only http and https addresses are fetched");
    QN_FAIL_IF(!curl_url_get(u, CURLUPART_USER, &user, 0), e, QN_INVAL, "the address holds a user name");
    QN_FAIL_IF(!name[0] || strlen(name) >= n_host, e, QN_INVAL, "the address has no usable host");
    for (size_t i = 0; i <= strlen(name); i++) host[i] = (char)tolower((unsigned char)name[i]);
out:
    curl_free(scheme);
    curl_free(name);
    curl_free(user);
    curl_url_cleanup(u);
    return rc;
}
