/* The vision tower against tests/golden/media/vision.json: towers with weights from a formula, outputs of a
 * float64 model. SPDX-License-Identifier: Apache-2.0 */
#include "support/test.h"

#include <math.h>

#include "backend/tower.h"
#include "base/json.h"
#include "base/mem.h"

static struct qn_arena *arena;
static struct qn_json *top;

static int set_up(void **state)
{
    (void)state;
    arena = qn_arena_create((size_t)64 << 20);
    return qn_json_read_file(&top, arena, QN_TEST_DIR "/golden/media/vision.json", 64 << 20, NULL);
}

static int tear_down(void **state)
{
    (void)state;
    qn_arena_free(arena);
    return 0;
}

static int num(const struct qn_json *o, const char *key)
{
    return (int)qn_json_num(qn_json_get(o, key));
}

static int formula(uint32_t i, uint32_t k)
{
    return (int)((i * 2654435761u + k * 2654404608u + 12345u) >> 16 & 255);
}

/* n values of a tensor of the row, BF16 (exact) or float. */
static struct qn_tensor tensor(const struct qn_json *row, const char *name, size_t n, enum qn_dtype type)
{
    const struct qn_json *how = qn_json_get(qn_json_get(row, "tensors"), name);
    assert_non_null(how);
    uint32_t k = (uint32_t)qn_json_num(how->items[0]);
    bool is_norm = how->items[1]->type == QN_JSON_STRING;
    double scale = is_norm ? 0 : qn_json_num(how->items[1]);
    size_t size = type == QN_F32 ? 4 : 2;
    char *data = qn_arena_alloc(arena, n * size);
    for (size_t i = 0; i < n; i++) {
        int m = formula((uint32_t)i, k);
        float v = is_norm ? 1.0f + (float)((m >> 4) - 8) / 64 : (float)((m - 128) * scale);
        uint16_t b = qn_f32_to_bf16(v);
        if (type == QN_F32) memcpy(data + 4 * i, &v, 4);
        if (type == QN_BF16) memcpy(data + 2 * i, &b, 2);
    }
    return (struct qn_tensor){
        .name = name, .dtype = type, .n_dim = 1, .shape = {(int64_t)n}, .data = data, .n_byte = n * size};
}

static struct qn_vision_linear linear(const struct qn_json *row, const char *stem, int n_out, int n_in,
                                      enum qn_dtype type)
{
    char *w = xasprintf("%s.weight", stem), *b = xasprintf("%s.bias", stem);
    struct qn_vision_linear l = {
        .l = {
            .format = type == QN_F32 ? QN_FMT_F32 : QN_FMT_BF16, .n_out = n_out, .n_in = n_in, .scale2 = 1}};
    l.l.weight = tensor(row, w, (size_t)n_out * (size_t)n_in, type);
    l.l.weight.n_dim = 2;
    l.l.weight.shape[0] = n_out;
    l.l.weight.shape[1] = n_in;
    l.l.weight.name = "weight";
    l.bias = tensor(row, b, (size_t)n_out, QN_BF16);
    free(w);
    free(b);
    return l;
}

static struct qn_vision_norm norm(const struct qn_json *row, const char *stem, int n)
{
    char *w = xasprintf("%s.weight", stem), *b = xasprintf("%s.bias", stem);
    struct qn_vision_norm out = {tensor(row, w, (size_t)n, QN_BF16), tensor(row, b, (size_t)n, QN_BF16)};
    free(w);
    free(b);
    return out;
}

static struct qn_vision make(const struct qn_json *row, struct qn_vision_block *blocks, enum qn_dtype type)
{
    int H = num(row, "H"), I = num(row, "I"), O = num(row, "O");
    struct qn_vision v = {.depth = num(row, "depth"),
                          .hidden = H,
                          .n_head = num(row, "heads"),
                          .ffn = I,
                          .out = O,
                          .patch = 16,
                          .temporal = 2,
                          .merge = 2,
                          .patch_in = 1536,
                          .side = num(row, "table_side"),
                          .theta = 10000,
                          .eps = 1e-6f,
                          .blocks = blocks};
    v.patch_embed = linear(row, "patch_embed.proj", H, 1536, type);
    v.pos = tensor(row, "pos_embed.weight", (size_t)v.side * (size_t)v.side * (size_t)H, QN_BF16);
    for (int i = 0; i < v.depth; i++) {
        char s[64];
#define STEM(what) (snprintf(s, sizeof s, "blocks.%d." what, i), s)
        blocks[i].norm1 = norm(row, STEM("norm1"), H);
        blocks[i].norm2 = norm(row, STEM("norm2"), H);
        blocks[i].qkv = linear(row, STEM("attn.qkv"), 3 * H, H, type);
        blocks[i].proj = linear(row, STEM("attn.proj"), H, H, type);
        blocks[i].fc1 = linear(row, STEM("mlp.linear_fc1"), I, H, type);
        blocks[i].fc2 = linear(row, STEM("mlp.linear_fc2"), H, I, type);
    }
    v.merger_norm = norm(row, "merger.norm", H);
    v.merger_fc1 = linear(row, "merger.linear_fc1", 4 * H, 4 * H, type);
    v.merger_fc2 = linear(row, "merger.linear_fc2", O, 4 * H, type);
    return v;
}

struct input {
    uint32_t k, first;
};

static void patches(void *user, int first, int n, float *to)
{
    const struct input *in = user;
    for (uint32_t i = 0; i < (uint32_t)n * 1536; i++)
        to[i] = ((float)formula((in->first + (uint32_t)first) * 1536 + i, in->k) - 127.5f) / 127.5f;
}

/* All items of the row; largest distance over the largest value. */
static double distance(const struct qn_json *row, const struct qn_tower_options *o, enum qn_dtype type,
                       float *keep)
{
    struct qn_vision_block blocks[8];
    struct qn_vision v = make(row, blocks, type);
    struct qn_tower *t;
    struct qn_err e = {0};
    if (qn_tower_open(&t, &v, o, &e)) fail_msg("%s", e.text);
    struct input in = {(uint32_t)num(row, "pixel_k"), 0};
    const struct qn_json *grids = qn_json_get(row, "grids"), *merged = qn_json_get(row, "merged");
    double worst = 0, largest = 0;
    size_t at = 0;
    for (size_t g = 0; g < grids->n; g++) {
        struct qn_tower_input item = {.patches = patches, .user = &in};
        for (int i = 0; i < 3; i++) item.grid[i] = (int)qn_json_num(grids->items[g]->items[i]);
        int n = item.grid[0] * item.grid[1] * item.grid[2];
        float *out = xmalloc((size_t)(n / 4 * v.out) * sizeof *out);
        if (qn_tower_run(t, &item, out, NULL, &e)) fail_msg("%s", e.text);
        for (int r = 0; r < n / 4; r++, at++)
            for (int k = 0; k < v.out; k++) {
                double want = qn_json_num(merged->items[at]->items[k]), got = (double)out[r * v.out + k];
                largest = fmax(largest, fabs(want));
                worst = fmax(worst, fabs(want - got));
                if (keep) *keep++ = out[r * v.out + k];
            }
        free(out);
        in.first += (uint32_t)n;
    }
    assert_int_equal(at, merged->n);
    qn_tower_close(t);
    return worst / largest;
}

static const struct qn_json *rows(void)
{
    return qn_json_get(qn_json_get(top, "tower"), "rows");
}

static void test_float(void **state)
{
    (void)state;
    int bad = 0;
    for (size_t i = 0; i < rows()->n; i++)
        for (int is_ref = 0; is_ref < 2; is_ref++) {
            struct qn_tower_options o = {.is_ref = is_ref, .act = QN_ACT_F32, .n_thread = 2};
            double d = distance(rows()->items[i], &o, QN_F32, NULL);
            print_message("tower %zu, %s: %.1e\n", i, is_ref ? "ref" : "cpu", d);
            bad += d >= 1e-4;
        }
    assert_int_equal(bad, 0);
}

/* BF16 inputs of products: near, and the same bits for any number of threads. */
static void test_bf16(void **state)
{
    (void)state;
    static float a[4096], b[4096];
    for (size_t i = 0; i < rows()->n; i++) {
        struct qn_tower_options o = {.act = QN_ACT_BF16, .n_thread = 1};
        double d = distance(rows()->items[i], &o, QN_BF16, a);
        print_message("tower %zu, cpu in bf16: %.1e\n", i, d);
        assert_true(d < 2e-2);
        o.n_thread = 3;
        distance(rows()->items[i], &o, QN_BF16, b);
        assert_memory_equal(a, b, sizeof a);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_float), cmocka_unit_test(test_bf16)};
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
