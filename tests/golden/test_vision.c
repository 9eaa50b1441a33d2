/* tests/golden/vision: towers that transformers saved, and what it sees with them.
 * SPDX-License-Identifier: Apache-2.0 */
#include "support/test.h"

#include <math.h>

#include "backend/tower.h"
#include "base/base64.h"
#include "base/mem.h"
#include "media/item.h"
#include "model/checkpoint.h"

#define FOLDER QN_TEST_DIR "/golden"

struct looking {
    const struct qn_item *item;
    const struct qn_eyes *eyes;
};

static void patches(void *user, int first, int n, float *to)
{
    const struct looking *l = user;
    qn_item_patches(l->item, l->eyes, first, n, to);
}

/* Largest distance from the golden rows over the largest value. */
static double distance(struct qn_tower *t, const struct qn_vision *v, const struct qn_eyes *eyes,
                       const struct qn_json *row)
{
    struct qn_buf in = QN_BUF_INIT((size_t)16 << 20);
    struct qn_item *item = NULL;
    struct qn_item_options o = {.eyes = eyes, .want = QN_EYES_WANT, .image = QN_IMAGE_OPTIONS};
    struct qn_err e = {0};
    const char *file = qn_json_get(row, "file")->text;
    char *path = xasprintf(FOLDER "/media/files/%s", file);
    assert_int_equal(qn_buf_read_file(&in, path, &e), 0);
    const uint8_t *data = (const uint8_t *)in.data;
    int rc = strstr(file, ".mp4") ? qn_item_video(&item, data, in.n_byte, &o, &e)
                                  : qn_item_image(&item, data, in.n_byte, &o, &e);
    if (rc) fail_msg("%s", e.text);
    struct looking l = {item, eyes};
    struct qn_tower_input input = {.patches = patches, .user = &l};
    memcpy(input.grid, item->grid, sizeof input.grid);
    size_t n = (size_t)item->n_token * (size_t)v->out, n_byte;
    float *out = xmalloc(n * sizeof *out);
    if (qn_tower_run(t, &input, out, NULL, &e)) fail_msg("%s", e.text);
    const struct qn_json *merged = qn_json_get(row, "merged");
    uint8_t *want = xmalloc(QN_BASE64_ROOM(merged->n));
    assert_true(qn_base64_decode(merged->text, merged->n, want, &n_byte));
    assert_int_equal(n_byte, n * sizeof(float));
    double worst = 0, largest = 0;
    for (size_t i = 0; i < n; i++) {
        float w;
        memcpy(&w, want + 4 * i, 4);
        largest = fmax(largest, fabs((double)w));
        worst = fmax(worst, fabs((double)w - (double)out[i]));
    }
    free(want);
    free(out);
    free(path);
    qn_item_free(item);
    qn_buf_free(&in);
    return worst / largest;
}

static void check(const char *name)
{
    struct qn_model *m;
    struct qn_vision *v;
    struct qn_eyes eyes;
    struct qn_err e = {0};
    struct qn_json *golden;
    struct qn_arena *arena = qn_arena_create((size_t)64 << 20);
    char *folder = xasprintf(FOLDER "/vision/%s", name), *path = xasprintf("%s/golden.json", folder);
    if (qn_model_open(&m, folder, &e) || qn_vision_open(&v, m, &e) || qn_eyes_read(&eyes, folder, &e))
        fail_msg("%s", e.text);
    assert_int_equal(qn_json_read_file(&golden, arena, path, 64 << 20, &e), 0);
    static const struct qn_tower_options options[] = {
        {true, QN_ACT_F32, 2}, {false, QN_ACT_F32, 2}, {false, QN_ACT_BF16, 2}};
    const struct qn_json *rows = qn_json_get(golden, "tower");
    for (size_t k = 0; k < QN_COUNT(options); k++) {
        struct qn_tower *t;
        if (qn_tower_open(&t, v, &options[k], &e)) fail_msg("%s", e.text);
        for (size_t i = 0; i < rows->n; i++) {
            double d = distance(t, v, &eyes, rows->items[i]),
                   bf16 = qn_json_num(qn_json_get(rows->items[i], "bf16"));
            print_message("%s, %s, %s %s: %.1e (transformers in bfloat16: %.1e)\n", name,
                          qn_json_get(rows->items[i], "file")->text, options[k].is_ref ? "ref" : "cpu",
                          qn_act_name(options[k].act), d, bf16);
            assert_true(d <= (options[k].act == QN_ACT_F32 ? 1e-4 : bf16));
        }
        qn_tower_close(t);
    }
    qn_vision_close(v);
    qn_model_close(m);
    qn_arena_free(arena);
    free(folder);
    free(path);
}

static void test_dense(void **state)
{
    (void)state;
    check("dense");
}

static void test_moe(void **state)
{
    (void)state;
    check("moe");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_dense), cmocka_unit_test(test_moe)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
