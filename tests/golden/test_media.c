/* tests/golden/media/media.json: pictures and clips of all kinds as transformers' processors see them.
 * SPDX-License-Identifier: Apache-2.0 */
#include "support/test.h"

#include <math.h>

#include "base/digest.h"
#include "base/mem.h"
#include "media/item.h"

#define FOLDER QN_TEST_DIR "/golden/media"

static struct qn_arena *arena;
static struct qn_json *top;
static int n_wrong;

static int set_up(void **state)
{
    (void)state;
    arena = qn_arena_create((size_t)64 << 20);
    return qn_json_read_file(&top, arena, FOLDER "/media.json", 64 << 20, NULL);
}

static int tear_down(void **state)
{
    (void)state;
    qn_arena_free(arena);
    return 0;
}

static void wrong(const struct qn_json *row, const char *what)
{
    print_message("%s: %s\n", qn_json_get(row, "file")->text, what);
    n_wrong++;
}

static void compare(const struct qn_json *row, const struct qn_item *item, const struct qn_eyes *eyes,
                    const char *key)
{
    const struct qn_json *grid = qn_json_get(row, "grid");
    if (item->w != (int)qn_json_num(qn_json_get(row, "w")) ||
        item->h != (int)qn_json_num(qn_json_get(row, "h")))
        wrong(row, "another size");
    for (int i = 0; i < 3; i++)
        if (item->grid[i] != (int)qn_json_num(grid->items[i])) {
            wrong(row, "another grid");
            return;
        }
    int n = item->grid[0] * item->grid[1] * item->grid[2];
    uint8_t *patches = xmalloc((size_t)n * 1536);
    struct qn_digest d;
    char hex[QN_DIGEST_HEX];
    qn_item_patch_bytes(item, eyes, 0, n, patches);
    qn_digest_init(&d, QN_SHA256);
    qn_digest_add(&d, patches, (size_t)n * 1536);
    qn_digest_end(&d, hex);
    if (strcmp(hex, qn_json_get(row, key)->text)) wrong(row, key);
    free(patches);
}

static struct qn_buf read_row(const struct qn_json *row)
{
    char path[600];
    struct qn_buf in = QN_BUF_INIT((size_t)64 << 20);
    snprintf(path, sizeof path, FOLDER "/files/%s", qn_json_get(row, "file")->text);
    assert_int_equal(qn_buf_read_file(&in, path, NULL), 0);
    return in;
}

static void test_pictures(void **state)
{
    (void)state;
    const struct qn_json *rows = qn_json_get(top, "pictures");
    struct qn_eyes eyes;
    assert_int_equal(qn_eyes_read(&eyes, "/nonexistent", NULL), 0);
    n_wrong = 0;
    for (size_t i = 0; i < rows->n; i++) {
        const struct qn_json *row = rows->items[i];
        struct qn_buf in = read_row(row);
        struct qn_item_options o = {.eyes = &eyes, .want = QN_EYES_WANT, .image = QN_IMAGE_OPTIONS};
        for (int kind = 0; kind < 2; kind++) {
            struct qn_item *item = NULL;
            struct qn_err e = {0};
            eyes.image.resample = kind ? QN_RESAMPLE_PILLOW : QN_RESAMPLE_TORCH;
            if (qn_item_image(&item, (const uint8_t *)in.data, in.n_byte, &o, &e))
                wrong(row, e.text);
            else
                compare(row, item, &eyes, kind ? "pillow" : "torch");
            qn_item_free(item);
        }
        qn_buf_free(&in);
    }
    assert_true(rows->n >= 60);
    assert_int_equal(n_wrong, 0);
}

static void check_frames(const struct qn_json *row, const struct qn_item *item)
{
    const struct qn_json *index = qn_json_get(row, "index"), *times = qn_json_get(row, "times");
    char text[300];
    if (item->n_source != (int64_t)qn_json_num(qn_json_get(row, "total")))
        wrong(row, "another number of frames");
    if (fabs(item->fps - qn_json_num(qn_json_get(row, "fps"))) > 1e-9 * item->fps) {
        snprintf(text, sizeof text, "another rate: %.9g", item->fps);
        wrong(row, text);
    }
    if ((size_t)item->n_frame != index->n) {
        wrong(row, "another number of indices");
        return;
    }
    for (size_t k = 0; k < index->n; k++)
        if (item->index[k] != (int64_t)qn_json_num(index->items[k])) wrong(row, "another frame");
    for (size_t k = 0; k < times->n; k++) {
        snprintf(text, sizeof text, "<%.1f seconds>", item->times[k]);
        if (strcmp(text, times->items[k]->text)) wrong(row, text);
    }
}

static void test_clips(void **state)
{
    (void)state;
    const struct qn_json *rows = qn_json_get(top, "clips");
    struct qn_eyes eyes;
    assert_int_equal(qn_eyes_read(&eyes, "/nonexistent", NULL), 0);
    n_wrong = 0;
    for (size_t i = 0; i < rows->n; i++) {
        const struct qn_json *row = rows->items[i];
        struct qn_buf in = read_row(row);
        struct qn_item_options o = {.eyes = &eyes, .want = QN_EYES_WANT, .image = QN_IMAGE_OPTIONS};
        struct qn_item *item = NULL;
        struct qn_err e = {0};
        if (qn_item_video(&item, (const uint8_t *)in.data, in.n_byte, &o, &e)) {
            wrong(row, e.text);
        } else if (!qn_json_get(row, "error")) {
            check_frames(row, item);
#if defined(__x86_64__) /* swscale's arithmetic differs by up to two levels elsewhere */
            compare(row, item, &eyes, "torch");
#endif
        } else { /* one frame: an error there, twice the frame here */
            assert_int_equal(item->n_frame, 1);
            assert_int_equal(item->grid[0], 1);
        }
        qn_item_free(item);
        qn_buf_free(&in);
    }
    assert_true(rows->n >= 20);
    assert_int_equal(n_wrong, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_pictures), cmocka_unit_test(test_clips)};
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
