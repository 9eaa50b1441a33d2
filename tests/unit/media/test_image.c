/* Pictures that lie, and what their errors say. SPDX-License-Identifier: Apache-2.0 */
#include "support/test.h"

#include "base/base64.h"
#include "media/exif.h"
#include "media/item.h"

static int decode(const void *data, size_t n, struct qn_err *e)
{
    struct qn_raster r = {0};
    int rc = qn_image_decode(&r, data, n, NULL, e);
    qn_raster_free(&r);
    return rc;
}

/* Sizes are refused from the header: none of these could be allocated. */
static void test_sizes_that_lie(void **state)
{
    (void)state;
    struct qn_err e;
    static const uint8_t gif[] = "GIF89a\xff\xff\xff\xff\0\0\0,\0\0\0\0\xff\xff\xff\xff\0\2\1\0\0;";
    static const uint8_t png[] =
        "\x89PNG\r\n\x1a\n\0\0\0\rIHDR\x40\0\0\0\x40\0\0\0\x8\2\0\0\0\xe7\x26\x1d\xee";
    static const uint8_t jpeg[] = "\xff\xd8\xff\xc0\0\x11\x8\xff\xdc\xff\xdc\3\1\x11\0\2\x11\1\3\x11\1\xff"
                                  "\xda\0\xc\3\1\0\2\x11\3\x11\0\x3f\0";
    uint8_t bmp[60] = "BM";
    bmp[10] = 54;
    bmp[14] = 40;
    memcpy(bmp + 18, "\xff\xff\xff\x7f\xff\xff\xff\x7f", 8);
    bmp[28] = 24;
    assert_int_equal(decode(gif, sizeof gif, &e), QN_TOOBIG);
    assert_int_equal(decode(jpeg, sizeof jpeg, &e), QN_TOOBIG);
    assert_int_equal(decode(bmp, sizeof bmp, &e), QN_TOOBIG);
    assert_true(decode(png, sizeof png, &e) != 0);
    memcpy(bmp + 22, "\0\0\0\x80", 4);
    assert_int_equal(decode(bmp, sizeof bmp, &e), QN_FORMAT);
    memset(bmp + 18, 0, 8);
    assert_int_equal(decode(bmp, sizeof bmp, &e), QN_FORMAT);
}

static void test_errors_name_what_came(void **state)
{
    (void)state;
    struct qn_err e;
    static const struct {
        const char *data, *word;
    } rows[] = {{"%PDF-1.7", "PDF"},       {"II*\0....", "TIFF"},
                {"<svg xmlns=", "SVG"},    {"<!DOCTYPE html>", "web"},
                {"....ftypisom", "video"}, {"{\"error\":1}", "JSON"},
                {"hello", "not known"},    {"", "empty"}};
    for (size_t i = 0; i < QN_COUNT(rows); i++) {
        size_t n = rows[i].data[0] == 'I' ? 8 : strlen(rows[i].data);
        assert_int_equal(decode(rows[i].data, n, &e), QN_UNSUPPORTED);
        assert_non_null(strstr(e.text, rows[i].word));
        assert_non_null(strstr(e.text, "JPEG, PNG, WebP, GIF, BMP"));
    }
}

static void test_exif(void **state)
{
    (void)state;
    static const uint8_t little[] = "Exif\0\0II*\0\x8\0\0\0\1\0\x12\1\3\0\1\0\0\0\6\0\0\0";
    static const uint8_t big[] = "MM\0*\0\0\0\x8\0\1\1\x12\0\3\0\0\0\1\0\x8\0\0";
    assert_int_equal(qn_exif_orientation(little, sizeof little - 1), 6);
    assert_int_equal(qn_exif_orientation(big, sizeof big - 1), 8);
    for (size_t n = 0; n < sizeof little - 5; n++) assert_int_equal(qn_exif_orientation(little, n), 1);
    assert_int_equal(qn_exif_orientation((const uint8_t *)"MM\0*\xff\xff\xff\xff", 8), 1);
}

static void test_base64(void **state)
{
    (void)state;
    uint8_t to[32];
    size_t n;
    static const char *const texts[] = {"", "TQ==", "TWE=", "TWFu", "TQ", "TWE"};
    static const size_t lengths[] = {0, 1, 2, 3, 1, 2};
    for (size_t i = 0; i < QN_COUNT(texts); i++) {
        assert_true(qn_base64_decode(texts[i], strlen(texts[i]), to, &n));
        assert_int_equal(n, lengths[i]);
        assert_memory_equal(to, "Man", n);
    }
    static const char *const bad[] = {
        "T", "T===", "TQ=", "T=Q=", "TWFu=", "TW Fu", "TW\nFu", "-_-_", "TWFu===="};
    for (size_t i = 0; i < QN_COUNT(bad); i++) assert_false(qn_base64_decode(bad[i], strlen(bad[i]), to, &n));
}

static int kwargs(const char *text, struct qn_eyes_want *want, struct qn_err *e)
{
    struct qn_arena *arena = qn_arena_create(1 << 20);
    struct qn_json *json;
    *want = QN_EYES_WANT;
    int rc = qn_json_parse(&json, arena, text, strlen(text), "kwargs", e);
    if (!rc) rc = qn_eyes_want_read(want, json, e);
    qn_arena_free(arena);
    return rc;
}

static void test_kwargs(void **state)
{
    (void)state;
    struct qn_eyes_want want;
    struct qn_eyes eyes;
    struct qn_err e;
    int w, h;
    static const char *const bad[] = {"{\"fps\":0}",
                                      "{\"fps\":2,\"num_frames\":4}",
                                      "{\"num_frames\":0}",
                                      "{\"max_pixels\":0}",
                                      "{\"size\":4}",
                                      "{\"size\":{\"height\":4}}",
                                      "{\"resample\":3}",
                                      "{\"videos_kwargs\":{\"resample\":3}}",
                                      "{\"images_kwargs\":7}",
                                      "[]",
                                      "{\"min_pixels\":9,\"max_pixels\":8}"};
    for (size_t i = 0; i < QN_COUNT(bad); i++) assert_int_equal(kwargs(bad[i], &want, &e), QN_INVAL);
    assert_int_equal(qn_eyes_read(&eyes, "/nonexistent", &e), 0);
    assert_int_equal(kwargs("{\"max_pixels\":65536}", &want, &e), 0);
    assert_int_equal(qn_eyes_image_size(&eyes, &want, 480, 640, &w, &h, &e), 0);
    assert_int_equal(w * h, 192 * 288);
    /* of one kind alone */
    int vw, vh;
    assert_int_equal(kwargs("{\"videos_kwargs\":{\"size\":{\"longest_edge\":262144}}}", &want, &e), 0);
    assert_int_equal(qn_eyes_image_size(&eyes, &want, 480, 640, &w, &h, &e), 0);
    assert_int_equal(w * h, 480 * 640);
    assert_int_equal(qn_eyes_video_size(&eyes, &want, 4, 480, 640, &vw, &vh, &e), 0);
    assert_true(4 * vw * vh <= 262144);
    assert_int_equal(kwargs("{\"images_kwargs\":{\"max_pixels\":65536},\"fps\":1}", &want, &e), 0);
    assert_int_equal(qn_eyes_image_size(&eyes, &want, 480, 640, &w, &h, &e), 0);
    assert_int_equal(w * h, 192 * 288);
    assert_int_equal(qn_eyes_video_size(&eyes, &want, 4, 480, 640, &vw, &vh, &e), 0);
    assert_int_equal(vw * vh, 480 * 640);
    /* never above the model's own */
    assert_int_equal(kwargs("{\"size\":{\"shortest_edge\":100000000,\"longest_edge\":200000000}}", &want, &e),
                     0);
    assert_int_equal(qn_eyes_image_size(&eyes, &want, 4112, 4112, &w, &h, &e), 0);
    assert_int_equal(w * h, 4096 * 4096);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sizes_that_lie), cmocka_unit_test(test_errors_name_what_came),
        cmocka_unit_test(test_exif),           cmocka_unit_test(test_base64),
        cmocka_unit_test(test_kwargs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
