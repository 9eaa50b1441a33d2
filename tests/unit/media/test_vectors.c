/* tests/golden/media/vision.json: sizes, pixels, frames and times that the reference's processors give.
 * SPDX-License-Identifier: Apache-2.0 */
#include "support/test.h"

#include <math.h>

#include "base/base64.h"
#include "base/digest.h"
#include "base/mem.h"
#include "media/item.h"

static struct qn_arena *arena;
static struct qn_json *top;
static struct qn_eyes eyes;

static int set_up(void **state)
{
    (void)state;
    struct qn_err e;
    arena = qn_arena_create((size_t)256 << 20);
    if (qn_json_read_file(&top, arena, QN_TEST_DIR "/golden/media/vision.json", 64 << 20, &e)) return 1;
    return qn_eyes_read(&eyes, "/nonexistent", &e);
}

static int tear_down(void **state)
{
    (void)state;
    qn_arena_free(arena);
    return 0;
}

static int64_t num(const struct qn_json *v)
{
    return (int64_t)qn_json_num(v);
}

static const struct qn_json *rows_of(const char *section)
{
    return qn_json_get(qn_json_get(top, section), "rows");
}

static void check_digest(const struct qn_json *row, const char *key, const void *data, size_t n)
{
    struct qn_digest d;
    char hex[QN_DIGEST_HEX];
    qn_digest_init(&d, QN_SHA256);
    qn_digest_add(&d, data, n);
    qn_digest_end(&d, hex);
    assert_string_equal(hex, qn_json_get(row, key)->text);
}

static void test_image_sizes(void **state)
{
    (void)state;
    const struct qn_json *rows = rows_of("image_resize");
    for (size_t i = 0; i < rows->n; i++) {
        struct qn_json **r = rows->items[i]->items;
        int w = 0, h = 0, rc = qn_eyes_image_size(&eyes, NULL, (int)num(r[1]), (int)num(r[0]), &w, &h, NULL);
        if (qn_json_is_str(r[2], "error")) {
            assert_int_equal(rc, QN_INVAL);
            continue;
        }
        assert_int_equal(rc, 0);
        assert_int_equal(h, num(r[2]->items[0]));
        assert_int_equal(w, num(r[2]->items[1]));
        assert_int_equal(w / 32 * (h / 32), num(r[3]));
    }
}

static void test_video_sizes(void **state)
{
    (void)state;
    const struct qn_json *rows = rows_of("video_resize");
    for (size_t i = 0; i < rows->n; i++) {
        struct qn_json **r = rows->items[i]->items;
        int64_t n = num(r[0]);
        int w = 0, h = 0,
            rc = qn_eyes_video_size(&eyes, NULL, n, (int)num(r[2]), (int)num(r[1]), &w, &h, NULL);
        if (qn_json_is_str(r[3], "error")) {
            if (n >= 2) assert_int_equal(rc, QN_INVAL); /* one frame counts twice here */
            continue;
        }
        assert_int_equal(rc, 0);
        assert_int_equal(h, num(r[3]->items[0]));
        assert_int_equal(w, num(r[3]->items[1]));
        assert_int_equal((n + 1) / 2 * (w / 32) * (h / 32), num(r[4]));
    }
}

static uint8_t *drawn(int w, int h, int t, int s)
{
    uint8_t *px = xmalloc((size_t)w * (size_t)h * 3), *p = px;
    for (int y = 0; y < h; y++)
        for (int x = 0; x < w; x++) {
            *p++ = (uint8_t)(7 * x + 3 * y + 31 * t + s);
            *p++ = (uint8_t)((5 * x) ^ (11 * y + 13 * t + s));
            *p++ = (uint8_t)(x * y + 17 * t + s);
        }
    return px;
}

/* An item of drawn frames, as the decoders would have made it. */
static struct qn_item make(const struct qn_json *row, bool is_video)
{
    struct qn_item item = {.is_video = is_video};
    struct qn_eyes y = eyes;
    int w = (int)num(qn_json_get(row, "w")), h = (int)num(qn_json_get(row, "h"));
    int seed = (int)num(qn_json_get(row, "seed"));
    const struct qn_json *grid = qn_json_get(row, "grid_thw");
    y.image.max_pixels = y.video.max_pixels = num(qn_json_get(row, "longest_edge"));
    item.n_frame = is_video ? (int)num(qn_json_get(row, "frames")) : 1;
    int rc = is_video ? qn_eyes_video_size(&y, NULL, item.n_frame, w, h, &item.to_w, &item.to_h, NULL)
                      : qn_eyes_image_size(&y, NULL, w, h, &item.to_w, &item.to_h, NULL);
    assert_int_equal(rc, 0);
    item.grid[0] = (item.n_frame + 1) / 2;
    item.grid[1] = item.to_h / 16;
    item.grid[2] = item.to_w / 16;
    for (int i = 0; i < 3; i++) assert_int_equal(item.grid[i], num(grid->items[i]));
    size_t frame = (size_t)item.to_w * (size_t)item.to_h * 3;
    item.px = xmalloc(frame * (size_t)item.n_frame);
    for (int t = 0; t < item.n_frame; t++) {
        struct qn_raster from = {w, h, 3, drawn(w, h, t, seed)}, to = {0};
        assert_int_equal(qn_resample(&to, &from, item.to_w, item.to_h, QN_RESAMPLE_TORCH, NULL), 0);
        memcpy(item.px + (size_t)t * frame, to.px, frame);
        qn_raster_free(&to);
        if (!is_video) {
            assert_int_equal(qn_resample(&to, &from, item.to_w, item.to_h, QN_RESAMPLE_PILLOW, NULL), 0);
            check_digest(row, "sha256_resized_pillow13", to.px, frame);
            qn_raster_free(&to);
        }
        qn_raster_free(&from);
    }
    return item;
}

static void check_patches(const struct qn_json *row, const struct qn_item *item)
{
    int n = item->grid[0] * item->grid[1] * item->grid[2];
    uint8_t *patches = xmalloc((size_t)n * 1536);
    qn_item_patch_bytes(item, &eyes, 0, n, patches);
    check_digest(row, "sha256_patches_u8", patches, (size_t)n * 1536);
    free(patches);
}

static void test_images(void **state)
{
    (void)state;
    const struct qn_json *rows = rows_of("images");
    for (size_t i = 0; i < rows->n; i++) {
        const struct qn_json *row = rows->items[i], *values = qn_json_get(row, "pixel_values");
        struct qn_item item = make(row, false);
        check_digest(row, "sha256_resized_rgb", item.px, (size_t)item.to_w * (size_t)item.to_h * 3);
        check_patches(row, &item);
        float patch[1536];
        for (size_t k = 0; k < values->n; k++) {
            struct qn_json **v = values->items[k]->items;
            qn_item_patches(&item, &eyes, (int)num(v[0]), 1, patch);
            float want = (float)qn_json_num(v[2]);
            assert_memory_equal(&patch[num(v[1])], &want, sizeof want);
        }
        free(item.px);
    }
}

static void test_videos(void **state)
{
    (void)state;
    const struct qn_json *rows = rows_of("videos");
    for (size_t i = 0; i < rows->n; i++) {
        struct qn_item item = make(rows->items[i], true);
        check_patches(rows->items[i], &item);
        free(item.px);
    }
}

static void check_times(const struct qn_json *times, const char *key, const double *t, int64_t n)
{
    const struct qn_json *want = qn_json_get(times, key);
    for (size_t k = 0; want && k < want->n && (int64_t)k < n; k++) {
        char text[40];
        snprintf(text, sizeof text, "<%.1f seconds>", t[k]);
        assert_string_equal(text, want->items[k]->text);
    }
}

static void test_sampling(void **state)
{
    (void)state;
    const struct qn_json *rows = rows_of("sampling");
    for (size_t i = 0; i < rows->n; i++) {
        const struct qn_json *row = rows->items[i], *count = qn_json_get(row, "num_frames");
        struct qn_eyes_want want = QN_EYES_WANT;
        if (qn_json_is_number(count))
            want.num_frames = num(count);
        else
            want.fps = qn_json_num(qn_json_get(row, "fps"));
        int64_t *index, n, sum = 0;
        double fps = qn_json_num(qn_json_get(row, "video_fps"));
        assert_int_equal(qn_eyes_sample(&eyes, &want, num(qn_json_get(row, "total")), fps, &index, &n, NULL),
                         0);
        assert_int_equal(n, num(qn_json_get(row, "n")));
        const struct qn_json *all = qn_json_get(row, "idx"), *first = qn_json_get(row, "idx_first");
        const struct qn_json *last = qn_json_get(row, "idx_last");
        for (size_t k = 0; all && k < all->n; k++) assert_int_equal(index[k], num(all->items[k]));
        for (size_t k = 0; first && k < first->n; k++) assert_int_equal(index[k], num(first->items[k]));
        for (size_t k = 0; last && k < last->n; k++)
            assert_int_equal(index[n - (int64_t)last->n + (int64_t)k], num(last->items[k]));
        for (int64_t k = 0; k < n; k++) sum += index[k];
        if (!all) assert_int_equal(sum, num(qn_json_get(row, "idx_sum")));
        double *t = xcalloc((size_t)n, sizeof *t);
        qn_eyes_times(index, n, fps, t);
        assert_int_equal((n + 1) / 2, num(qn_json_get(row, "steps")));
        check_times(row, "times", t, (n + 1) / 2);
        check_times(row, "times_first", t, (n + 1) / 2);
        free(t);
        free(index);
    }
}

static uint8_t *bytes_of(const struct qn_json *row, size_t *n)
{
    const struct qn_json *text = qn_json_get(row, "b64");
    uint8_t *data = xmalloc(QN_BASE64_ROOM(text->n));
    assert_true(qn_base64_decode(text->text, text->n, data, n));
    return data;
}

static void test_decode(void **state)
{
    (void)state;
    const struct qn_json *rows = rows_of("decode");
    for (size_t i = 0; i < rows->n; i++) {
        const struct qn_json *row = rows->items[i];
        size_t n;
        uint8_t *data = bytes_of(row, &n);
        struct qn_raster r = {0}, size = {0};
        struct qn_err e = {0};
        if (qn_image_decode(&r, data, n, NULL, &e))
            fail_msg("%s: %s", qn_json_get(row, "name")->text, e.text);
        assert_int_equal(qn_image_measure(&size, data, n, NULL, &e), 0);
        assert_int_equal(r.w, num(qn_json_get(row, "w")));
        assert_int_equal(r.h, num(qn_json_get(row, "h")));
        assert_int_equal(size.w, r.w);
        assert_int_equal(size.h, r.h);
        assert_null(size.px);
        print_message("%s\n", qn_json_get(row, "name")->text);
        check_digest(row, "sha256_rgb", r.px, (size_t)r.w * (size_t)r.h * 3);
        /* cut anywhere: an error or a picture, never more */
        for (size_t cut = 0; cut < n; cut += n / 37 + 1) {
            struct qn_raster part = {0};
            uint8_t *copy = xmalloc(cut);
            memcpy(copy, data, cut);
            qn_image_decode(&part, copy, cut, NULL, NULL);
            qn_raster_free(&part);
            free(copy);
        }
        qn_raster_free(&r);
        free(data);
    }
}

struct sampled {
    struct qn_digest d;
    int64_t n;
};

static int on_frame(void *user, int64_t k, struct qn_raster *r, struct qn_err *e)
{
    (void)e;
    struct sampled *s = user;
    assert_int_equal(k, s->n++);
    qn_digest_add(&s->d, r->px, (size_t)r->w * (size_t)r->h * 3);
    return QN_OK;
}

static void test_clips(void **state)
{
    (void)state;
    const struct qn_json *rows = rows_of("video_files");
    for (size_t i = 0; i < rows->n; i++) {
        const struct qn_json *row = rows->items[i], *index = qn_json_get(row, "idx");
        size_t n;
        uint8_t *data = bytes_of(row, &n);
        struct qn_video *v;
        struct qn_err e = {0};
        if (qn_video_open(&v, data, n, NULL, &e)) fail_msg("%s: %s", qn_json_get(row, "name")->text, e.text);
        const struct qn_video_info *info = qn_video_info(v);
        assert_int_equal(info->n_frame, num(qn_json_get(row, "total")));
        assert_int_equal(info->w, num(qn_json_get(row, "w")));
        assert_int_equal(info->h, num(qn_json_get(row, "h")));
        double fps = qn_json_num(qn_json_get(qn_json_get(row, "fps"), "torchcodec"));
        assert_true(fabs(info->fps - fps) < 1e-9);
        int64_t *list, n_frame, n_done;
        assert_int_equal(qn_eyes_sample(&eyes, NULL, info->n_frame, info->fps, &list, &n_frame, NULL), 0);
        assert_int_equal(n_frame, index->n);
        for (int64_t k = 0; k < n_frame; k++) assert_int_equal(list[k], num(index->items[k]));
        double t[8];
        qn_eyes_times(list, n_frame, info->fps, t);
        check_times(row, "times", t, (n_frame + 1) / 2);
        struct sampled s = {.n = 0};
        qn_digest_init(&s.d, QN_SHA256);
        assert_int_equal(qn_video_frames(v, list, n_frame, on_frame, &s, &n_done, &e), 0);
        assert_int_equal(n_done, n_frame);
        char hex[QN_DIGEST_HEX];
        qn_digest_end(&s.d, hex);
        print_message("%s\n", qn_json_get(row, "name")->text);
#if defined(__x86_64__) /* swscale's arithmetic differs by up to two levels elsewhere */
        assert_string_equal(hex, qn_json_get(row, "sha256_sampled_rgb")->text);
#endif
        free(list);
        qn_video_close(v);
        free(data);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_image_sizes), cmocka_unit_test(test_video_sizes), cmocka_unit_test(test_images),
        cmocka_unit_test(test_videos),      cmocka_unit_test(test_sampling),    cmocka_unit_test(test_decode),
        cmocka_unit_test(test_clips),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
