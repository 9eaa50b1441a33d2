/* Addresses that are nobody's to fetch from. SPDX-License-Identifier: Apache-2.0 */
#include "support/test.h"

#include <arpa/inet.h>
#include <netinet/in.h>

#include "net/address.h"

static bool is_public(const char *text)
{
    struct sockaddr_in a4 = {.sin_family = AF_INET};
    struct sockaddr_in6 a6 = {.sin6_family = AF_INET6};
    if (inet_pton(AF_INET, text, &a4.sin_addr) == 1) return qn_address_is_public((struct sockaddr *)&a4);
    assert_int_equal(inet_pton(AF_INET6, text, &a6.sin6_addr), 1);
    return qn_address_is_public((struct sockaddr *)&a6);
}

static void test_public(void **state)
{
    (void)state;
    static const char *const yes[] = {"1.1.1.1",    "8.8.8.8",         "93.184.216.34",   "172.15.255.255",
                                      "172.32.0.1", "100.63.0.1",      "100.128.0.1",     "192.167.0.1",
                                      "198.17.0.1", "223.255.255.255", "2606:4700::1111", "2a00::1"};
    static const char *const no[] = {"0.0.0.0",
                                     "0.1.2.3",
                                     "10.0.0.1",
                                     "10.255.255.255",
                                     "100.64.0.1",
                                     "100.127.255.255",
                                     "127.0.0.1",
                                     "127.255.0.1",
                                     "169.254.169.254",
                                     "172.16.0.1",
                                     "172.31.255.255",
                                     "192.0.0.1",
                                     "192.0.2.1",
                                     "192.88.99.1",
                                     "192.168.1.1",
                                     "198.18.0.1",
                                     "198.19.255.255",
                                     "198.51.100.1",
                                     "203.0.113.9",
                                     "224.0.0.1",
                                     "239.255.255.255",
                                     "240.0.0.1",
                                     "255.255.255.255",
                                     "::",
                                     "::1",
                                     "::127.0.0.1",
                                     "::ffff:127.0.0.1",
                                     "::ffff:8.8.8.8",
                                     "64:ff9b::8.8.8.8",
                                     "64:ff9b:1::1",
                                     "100::1",
                                     "2001::1",
                                     "2001:db8::1",
                                     "2002:7f00:1::",
                                     "2002:808:808::",
                                     "3fff::1",
                                     "fc00::1",
                                     "fdff::1",
                                     "fe80::1",
                                     "fec0::1",
                                     "ff02::1",
                                     "5f00::1"};
    for (size_t i = 0; i < QN_COUNT(yes); i++)
        if (!is_public(yes[i])) fail_msg("%s is public", yes[i]);
    for (size_t i = 0; i < QN_COUNT(no); i++)
        if (is_public(no[i])) fail_msg("%s is not public", no[i]);
    struct sockaddr other = {.sa_family = AF_UNIX};
    assert_false(qn_address_is_public(&other));
}

static void test_host(void **state)
{
    (void)state;
    char host[64];
    struct qn_err e;
    static const char *const good[][2] = {{"http://Example.COM/x", "example.com"},
                                          {"https://a.b:8443/?q", "a.b"},
                                          {"http://127.0.0.1:80/", "127.0.0.1"},
                                          {"http://[::1]:80/", "[::1]"}};
    for (size_t i = 0; i < QN_COUNT(good); i++) {
        assert_int_equal(qn_address_host(good[i][0], host, sizeof host, &e), 0);
        assert_string_equal(host, good[i][1]);
    }
    static const char *const bad[] = {"",
                                      "x",
                                      "ftp://a/",
                                      "file:///etc/passwd",
                                      "http://",
                                      "http://u@a/",
                                      "http://u:p@a/",
                                      "http://a\\@b/",
                                      "http://a b/",
                                      "http://a\n/",
                                      "http://a/\x01",
                                      "http://\xc3\xa9/",
                                      "//a/"};
    for (size_t i = 0; i < QN_COUNT(bad); i++)
        if (!qn_address_host(bad[i], host, sizeof host, &e)) fail_msg("%s gave %s", bad[i], host);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_public), cmocka_unit_test(test_host)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
