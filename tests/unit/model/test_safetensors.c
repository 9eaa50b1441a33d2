/* safetensors headers: what opens, and each kind of damage with its message.
 * SPDX-License-Identifier: Apache-2.0 */
#include "folder.h"

#include "model/safetensors.h"

/* A file of this header and n_data bytes of data. */
static int parse(const char *header, size_t n_data, struct qn_safetensors **out, struct qn_err *e,
                 unsigned char **bytes)
{
    size_t n = strlen(header);
    *bytes = xcalloc(1, 8 + n + n_data);
    for (int i = 0; i < 8; i++) (*bytes)[i] = (unsigned char)(n >> 8 * i);
    memcpy(*bytes + 8, header, n);
    for (size_t i = 0; i < n_data; i++) (*bytes)[8 + n + i] = (unsigned char)i;
    return qn_safetensors_parse(out, *bytes, 8 + n + n_data, "file", e);
}

static void test_good(void **state)
{
    (void)state;
    struct qn_safetensors *st;
    struct qn_err e = {0};
    unsigned char *bytes;
    int rc = parse(" { \"__metadata__\" : {\"format\":\"pt\",\"x\":\"a\\\"}\"} ,\n"
                   "\"b\": {\"shape\":[2,3], \"dtype\":\"BF16\", \"data_offsets\":[4,16]},"
                   "\"a\\u00e9\\n\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]},"
                   "\"empty\":{\"dtype\":\"I64\",\"shape\":[0,7],\"data_offsets\":[16,16]}}   ",
                   16, &st, &e, &bytes);
    if (rc) fail_msg("%s", e.text);
    assert_int_equal(qn_safetensors_n_tensor(st), 3);
    const struct qn_tensor *a = qn_safetensors_tensor(st, 0), *b = qn_safetensors_tensor(st, 1);
    assert_string_equal(a->name, "a\xc3\xa9\n");
    assert_int_equal(a->n_dim, 0);
    assert_int_equal(a->n_byte, 4);
    assert_string_equal(b->name, "b");
    assert_int_equal(b->dtype, QN_BF16);
    assert_int_equal(b->shape[1], 3);
    assert_int_equal(*(const unsigned char *)b->data, 4);
    qn_safetensors_close(st);
    free(bytes);
    assert_int_equal(parse("{}", 0, &st, &e, &bytes), 0);
    assert_int_equal(qn_safetensors_n_tensor(st), 0);
    qn_safetensors_close(st);
    free(bytes);
}

static void test_bad(void **state)
{
    (void)state;
#define T(name, dtype, shape, offsets)                                                                       \
    "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" offsets "}"
    static const struct {
        const char *header;
        size_t n_data;
        int code;
        const char *word;
    } cases[] = {
        {"", 0, QN_FORMAT, "expected '{'"},
        {"[]", 0, QN_FORMAT, "expected '{'"},
        {"{", 0, QN_FORMAT, "quoted string"},
        {"{\"a\"", 0, QN_FORMAT, "':'"},
        {"{\"a", 0, QN_FORMAT, "closing quote"},
        {"{\"a\\", 0, QN_FORMAT, "closing quote"},
        {"{\"a\":1}", 0, QN_FORMAT, "an object"},
        {"{" T("a", "F32", "[1]", "[0,4]") "} x", 4, QN_FORMAT, "only blanks"},
        {"{" T("a", "F32", "[1]", "[0,4]") " " T("b", "F32", "[1]", "[4,8]") "}", 8, QN_FORMAT, "','"},
        {"{" T("a", "F32", "[2]", "[0,8]") "}", 4, QN_FORMAT, "truncated"},
        {"{" T("a", "F32", "[1]", "[0,4]") "}", 8, QN_FORMAT, "4 bytes at the end"},
        {"{" T("a", "F32", "[1]", "[4,8]") "}", 8, QN_FORMAT, "4 bytes before tensor a"},
        {"{" T("a", "F32", "[1]", "[0,4]") "," T("b", "F32", "[1]", "[2,6]") "}", 6, QN_FORMAT,
         "a and b overlap"},
        {"{" T("a", "F32", "[1]", "[0,4]") "," T("b", "F32", "[1]", "[0,4]") "}", 4, QN_FORMAT, "overlap"},
        {"{" T("a", "F32", "[1]", "[0,4]") "," T("a", "F32", "[1]", "[4,8]") "}", 8, QN_FORMAT,
         "a is listed twice"},
        {"{" T("a", "F32", "[1]", "[0,-4]") "}", 4, QN_FORMAT, "negative"},
        {"{" T("a", "F32", "[-1]", "[0,4]") "}", 4, QN_FORMAT, "negative"},
        {"{" T("a", "F32", "[1]", "[4,0]") "}", 4, QN_FORMAT, "ends before it begins"},
        {"{" T("a", "F32", "[1.0]", "[0,4]") "}", 4, QN_FORMAT, "whole numbers"},
        {"{" T("a", "F32", "[1e3]", "[0,4]") "}", 4, QN_FORMAT, "whole numbers"},
        {"{" T("a", "F32", "[3]", "[0,4]") "}", 4, QN_FORMAT, "need 12"},
        {"{" T("a", "F32", "[99999999999999999999]", "[0,4]") "}", 4, QN_FORMAT, "64 bits"},
        {"{" T("a", "F32", "[18446744073709551615]", "[0,4]") "}", 4, QN_FORMAT, "absurd"},
        {"{" T("a", "F32", "[4294967296,4294967296]", "[0,4]") "}", 4, QN_FORMAT, "overflows"},
        {"{" T("a", "F32", "[1]", "[0,18446744073709551615]") "}", 4, QN_FORMAT, "truncated"},
        {"{" T("a", "F32", "[1,1,1,1,1,1,1]", "[0,4]") "}", 4, QN_FORMAT, "more than"},
        {"{" T("a", "F32", "[1]", "[0]") "}", 4, QN_FORMAT, "two numbers"},
        {"{" T("a", "F4", "[1]", "[0,4]") "}", 4, QN_UNSUPPORTED, "F4"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4, QN_FORMAT, "missing"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4],\"extra\":1}}", 4, QN_FORMAT,
         "unknown or repeated"},
        {"{" T("", "F32", "[1]", "[0,4]") "}", 4, QN_FORMAT, "name of 0 bytes"},
        {"{" T("a\\u0000b", "F32", "[1]", "[0,4]") "}", 4, QN_FORMAT, "NUL"},
        {"{" T("a\\x", "F32", "[1]", "[0,4]") "}", 4, QN_FORMAT, "escape"},
        {"{\"__metadata__\":[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[", 0, QN_FORMAT, "nesting"},
    };
    for (size_t i = 0; i < QN_COUNT(cases); i++) {
        struct qn_safetensors *st = NULL;
        struct qn_err e = {0};
        unsigned char *bytes;
        int rc = parse(cases[i].header, cases[i].n_data, &st, &e, &bytes);
        if (rc != cases[i].code || !strstr(e.text, cases[i].word))
            fail_msg("%s: expected '%s', got %s: %s", cases[i].header, cases[i].word, qn_code_name(rc),
                     e.text);
        free(bytes);
    }
}

static void test_files(void **state)
{
    (void)state;
    struct qn_safetensors *st = NULL;
    struct qn_err e = {0};
    char *folder = folder_make(), *path = xasprintf("%s/f", folder);
    assert_int_equal(qn_safetensors_open(&st, path, &e), QN_NOTFOUND);
    assert_int_equal(qn_safetensors_open(&st, folder, &e), QN_FORMAT);
    folder_write(folder, "f", "abc", 3);
    assert_int_equal(qn_safetensors_open(&st, path, &e), QN_FORMAT);
    folder_write(folder, "f", "\xff\xff\xff\xff\xff\xff\xff\xff{}", 10);
    assert_int_equal(qn_safetensors_open(&st, path, &e), QN_FORMAT);
    assert_non_null(strstr(e.text, "over the limit"));
    folder_write(folder, "f", "\x09\0\0\0\0\0\0\0{}", 10);
    assert_int_equal(qn_safetensors_open(&st, path, &e), QN_FORMAT);
    assert_non_null(strstr(e.text, "larger than the file"));
    static const char pointer[] = "version https://git-lfs.github.com/spec/v1\noid sha256:0000\nsize 1\n";
    folder_write(folder, "f", pointer, sizeof pointer - 1);
    assert_int_equal(qn_safetensors_open(&st, path, &e), QN_FORMAT);
    assert_non_null(strstr(e.text, "git lfs pull"));
    folder_remove(folder);
    free(folder);
    free(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_good), cmocka_unit_test(test_bad),
                                       cmocka_unit_test(test_files)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
