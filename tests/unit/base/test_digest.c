/* Digests against the published vectors, and cut anywhere.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/digest.h"

#include "support/test.h"

static void digest(enum qn_digest_kind kind, const void *data, size_t n, size_t cut, char *out)
{
    struct qn_digest d;
    qn_digest_init(&d, kind);
    for (size_t at = 0; at < n; at += cut) qn_digest_add(&d, (const char *)data + at, QN_MIN(cut, n - at));
    qn_digest_end(&d, out);
}

static void test_vectors(void **state)
{
    (void)state;
    static const struct {
        const char *text, *sha1, *sha256;
    } cases[] = {
        {"", "da39a3ee5e6b4b0d3255bfef95601890afd80709",
         "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
        {"abc", "a9993e364706816aba3e25717850c26c9cd0d89d",
         "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
        {"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
         "84983e441c3bd26ebaae4aa1f95129e5e54670f1",
         "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"},
    };
    char out[QN_DIGEST_HEX];
    for (size_t i = 0; i < QN_COUNT(cases); i++) {
        digest(QN_SHA1, cases[i].text, strlen(cases[i].text), 64, out);
        assert_string_equal(out, cases[i].sha1);
        digest(QN_SHA256, cases[i].text, strlen(cases[i].text), 64, out);
        assert_string_equal(out, cases[i].sha256);
    }
}

static void test_million(void **state)
{
    (void)state;
    static char text[1000000];
    memset(text, 'a', sizeof text);
    char out[QN_DIGEST_HEX];
    digest(QN_SHA1, text, sizeof text, 4096, out);
    assert_string_equal(out, "34aa973cd4c4daa4f61eeb2bdbad27316534016f");
    digest(QN_SHA256, text, sizeof text, 1 << 20, out);
    assert_string_equal(out, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

/* Every length around the block size, in every cut: the same digest. */
static void test_cuts(void **state)
{
    (void)state;
    char text[200], whole[QN_DIGEST_HEX], cut[QN_DIGEST_HEX];
    for (size_t i = 0; i < sizeof text; i++) text[i] = (char)(i * 7);
    for (int kind = QN_SHA1; kind <= QN_SHA256; kind++)
        for (size_t n = 0; n <= sizeof text; n++) {
            digest((enum qn_digest_kind)kind, text, n, sizeof text, whole);
            for (size_t k = 1; k < 70; k += 3) {
                digest((enum qn_digest_kind)kind, text, n, k, cut);
                assert_string_equal(cut, whole);
            }
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_vectors), cmocka_unit_test(test_million),
                                       cmocka_unit_test(test_cuts)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
