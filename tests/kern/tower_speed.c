/* Speed of the vision tower with random weights: build/tests/tower_speed [THREADS [SIDE [DEPTH]]], SIDE in
 * patches (64: 1,024 pixels). Sizes of the 0.8B. Prints wall and processor time and products a second of
 * processor time. SPDX-License-Identifier: Apache-2.0 */
#include <time.h>

#include "backend/tower.h"
#include "base/clock.h"
#include "base/mem.h"
#include "base/rng.h"

enum { H = 768, I = 3072, O = 1024, HEADS = 12, SIDE = 48 };

static double cpu_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static struct qn_tensor tensor(int n, bool is_norm)
{
    uint16_t *data = xmalloc((size_t)n * sizeof *data);
    for (int i = 0; i < n; i++) {
        float u = (float)(qn_rng64((uint64_t)n, (uint64_t)i, 3) >> 40) / (1 << 24) - 0.5f;
        data[i] = qn_f32_to_bf16(is_norm ? 1 + 0.1f * u : 0.06f * u);
    }
    return (struct qn_tensor){
        .name = "random", .dtype = QN_BF16, .n_dim = 1, .shape = {n}, .data = data, .n_byte = (size_t)n * 2};
}

static struct qn_vision_linear linear(int n_out, int n_in)
{
    struct qn_vision_linear l = {.l = {.format = QN_FMT_BF16, .n_out = n_out, .n_in = n_in, .scale2 = 1}};
    l.l.weight = tensor(n_out * n_in, false);
    l.l.weight.n_dim = 2;
    l.l.weight.shape[0] = n_out;
    l.l.weight.shape[1] = n_in;
    l.bias = tensor(n_out, false);
    return l;
}

static struct qn_vision_norm norm(int n)
{
    return (struct qn_vision_norm){tensor(n, true), tensor(n, false)};
}

static void patches(void *user, int first, int n, float *to)
{
    (void)user;
    for (int i = 0; i < n * 1536; i++)
        to[i] = ((float)(((uint32_t)(first * 1536 + i) * 2654435761u) >> 24) - 127.5f) / 127.5f;
}

int main(int argc, char **argv)
{
    int n_thread = argc > 1 ? atoi(argv[1]) : 2, side = argc > 2 ? atoi(argv[2]) : 64,
        depth = argc > 3 ? atoi(argv[3]) : 12;
    struct qn_vision v = {.depth = depth,
                          .hidden = H,
                          .n_head = HEADS,
                          .ffn = I,
                          .out = O,
                          .patch = 16,
                          .temporal = 2,
                          .merge = 2,
                          .patch_in = 1536,
                          .side = SIDE,
                          .theta = 10000,
                          .eps = 1e-6f};
    v.blocks = xcalloc((size_t)depth, sizeof *v.blocks);
    v.patch_embed = linear(H, 1536);
    v.pos = tensor(SIDE * SIDE * H, false);
    for (int i = 0; i < depth; i++)
        v.blocks[i] = (struct qn_vision_block){norm(H),      norm(H),      linear(3 * H, H),
                                               linear(H, H), linear(I, H), linear(H, I)};
    v.merger_norm = norm(H);
    v.merger_fc1 = linear(4 * H, 4 * H);
    v.merger_fc2 = linear(O, 4 * H);
    struct qn_tower *t;
    struct qn_err e;
    if (qn_tower_open(&t, &v, &(const struct qn_tower_options){.n_thread = n_thread}, &e)) {
        fprintf(stderr, "%s\n", e.text);
        return 1;
    }
    struct qn_tower_input in = {{1, side, side}, patches, NULL};
    double s = (double)side * side, per = 2.0 * (4.0 * H * H + 2.0 * H * I) + 4.0 * s * H;
    double flop = s * depth * per + 2.0 * 1536 * H * s + 2.0 * (16.0 * H * H + 4.0 * H * O) * s / 4;
    float *out = xmalloc((size_t)(side * side / 4) * O * sizeof *out);
    for (int i = 0; i < 3; i++) {
        double begin = cpu_s();
        int64_t wall = qn_now_us();
        if (qn_tower_run(t, &in, out, NULL, &e)) return 1;
        double used = cpu_s() - begin;
        printf("wall %.2f s, processor %.2f s, %.1f GFLOP/s of processor time\n",
               (double)(qn_now_us() - wall) * 1e-6, used, flop / used * 1e-9);
    }
    free(out);
    qn_tower_close(t);
    return 0; /* the random weights go with the process */
}
