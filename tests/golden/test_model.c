/* Logits, greedy tokens and drafts against the reference implementation (tools/make_model_golden.py).
 * SPDX-License-Identifier: Apache-2.0 */
#include <math.h>

#include <unistd.h>

#include "base/cpu.h"
#include "base/gguf.h"
#include "base/model_path.h"
#include "model/safetensors.h"
#include "support/rig.h"
#include "support/test.h"

static const char *const cases[] = {"dense-tied", "dense-untied-mtp", "dense-ratio4-odd", "moe-fused",
                                    "moe-expert-mtp"};

static void open_case(struct rig *r, struct rig_golden *g, const char *name, const struct rig_options *o)
{
    char golden[64], path[512];
    int part, count;
    snprintf(golden, sizeof golden, "%s", name);
    snprintf(path, sizeof path, "%s/golden/gguf/%s", QN_TEST_DIR, name);
    if (qn_gguf_split_name(golden, &part, &count))
        golden[strlen(golden) - strlen("-00001-of-00003.gguf")] = 0;
    bool is_gguf = qn_model_path_is_gguf(name);
    if (qn_model_path_is_gguf(golden)) golden[strlen(golden) - strlen(".gguf")] = 0;
    rig_golden_read(g, golden, 0);
    rig_open(r, is_gguf ? path : g->folder, o);
    rig_golden_read(g, golden, r->c->vocab);
}

static double worst_of(const float *a, const float *b, size_t n)
{
    double worst = 0;
    for (size_t i = 0; i < n; i++) {
        double diff = fabs((double)a[i] - b[i]);
        if (!(diff <= worst)) worst = diff; /* NaN counts */
    }
    return worst;
}

/* Every prompt length, every position, within 1e-4 of the largest |logit|; greedy tokens equal; MTP logits
 * and chained drafts equal; any depth gives the same greedy tokens. */
static void check_exact(const char *name, const struct rig_options *o)
{
    struct rig r;
    struct rig_golden g;
    open_case(&r, &g, name, o);
    size_t v = (size_t)r.c->vocab;
    float *logits = malloc((size_t)g.n_prompt * v * sizeof *logits);
    double worst = 0, worst_mtp = 0;
    for (int i = 0; i < g.n_length; i++) {
        rig_logits(&r, 1, g.prompt, g.length[i], g.length[i], logits);
        worst = fmax(worst, worst_of(logits, g.logits, (size_t)g.length[i] * v));
    }
    int32_t out[256];
    rig_greedy(&r, 2, g.prompt, g.n_prompt, 0, g.n_greedy, out);
    assert_memory_equal(out, g.greedy, (size_t)g.n_greedy * sizeof *out);
    if (g.mtp) {
        for (int chunk = 100; chunk <= 200; chunk += 100) {
            int n = 0;
            for (int at = 0; at < g.n_prompt; at += chunk) {
                int32_t pages[RIG_PAGES], row_seq[256] = {0}, pos[256];
                struct qn_step_seq q = {.n_row = chunk,
                                        .pos0 = at,
                                        .n_page = RIG_PAGES,
                                        .slot = 3,
                                        .lane = 3,
                                        .is_fresh = at == 0,
                                        .wants_mtp = true};
                for (int p = 0; p < RIG_PAGES; p++) pages[p] = p;
                for (int p = 0; p < chunk; p++) pos[p] = at + p;
                struct qn_step s = {.n_row = chunk,
                                    .n_seq = 1,
                                    .tok = g.prompt + at,
                                    .row_seq = row_seq,
                                    .pos = pos,
                                    .seq = &q,
                                    .pages = pages,
                                    .n_pages = RIG_PAGES};
                struct qn_err e;
                assert_int_equal(qn_forward_mtp_logits(r.f, &s, logits + (size_t)n * v, &e), QN_OK);
                n += chunk - (at == 0);
            }
            assert_int_equal(n, g.n_prompt - 1);
            worst_mtp = fmax(worst_mtp, worst_of(logits, g.mtp, (size_t)n * v));
        }
        struct rig_seq q = {.tok = g.prompt,
                            .n_row = g.n_prompt,
                            .slot = 4,
                            .is_fresh = true,
                            .wants_token = true,
                            .wants_mtp = true,
                            .n_draft_next = g.n_draft,
                            .sample = {.repetition = 1, .top_p = 1}};
        rig_step(&r, &q, 1, NULL);
        assert_int_equal(q.n_drafted, g.n_draft);
        assert_memory_equal(q.draft, g.draft, (size_t)g.n_draft * sizeof *q.draft);
        for (int depth = 1; depth <= QN_MAX_DRAFT; depth++) {
            rig_greedy(&r, depth % 5, g.prompt, g.n_prompt, depth, g.n_greedy, out);
            assert_memory_equal(out, g.greedy, (size_t)g.n_greedy * sizeof *out);
        }
    }
    print_message("  %-18s %s: max error %.1e, MTP %.1e of the largest |logit|\n", name, o->backend,
                  worst / g.scale, worst_mtp / g.scale);
    assert_true(worst <= 1e-4 * g.scale);
    assert_true(worst_mtp <= 1e-4 * g.scale);
    free(logits);
    rig_golden_free(&g);
    rig_close(&r);
}

#ifndef QN_TEST_CUDA
static void test_ref(void **state)
{
    (void)state;
    for (size_t i = 0; i < QN_COUNT(cases); i++)
        check_exact(cases[i], &(struct rig_options){.backend = "ref", .act = QN_ACT_F32, .poison = true});
}

/* The same models as llama.cpp's converter writes them (tools/make_gguf_golden.py). */
static const char *const gguf_cases[] = {"dense-tied-00001-of-00003.gguf", "dense-untied-mtp.gguf",
                                         "dense-ratio4-odd.gguf", "moe-expert-mtp.gguf"};

static void test_gguf(void **state)
{
    (void)state;
    for (size_t i = 0; i < QN_COUNT(gguf_cases); i++) {
        check_exact(gguf_cases[i],
                    &(struct rig_options){.backend = "ref", .act = QN_ACT_F32, .poison = true});
        check_exact(gguf_cases[i], &(struct rig_options){
                                       .backend = "cpu", .act = QN_ACT_F32, .n_thread = 2, .poison = true});
    }
}

/* Every instruction set this machine has, one after the other. */
static void each_isa(void (*check)(const char *name, const struct rig_options *o),
                     const struct rig_options *o)
{
    unsetenv("QUERN_CPU");
    for (int isa = 0, best = (int)qn_cpu_isa(); isa <= best; isa++) {
        setenv("QUERN_CPU", qn_isa_name((enum qn_isa)isa), 1);
        print_message("  %s, %s\n", qn_isa_name((enum qn_isa)isa), qn_act_name(o->act));
        for (size_t i = 0; i < QN_COUNT(cases); i++) check(cases[i], o);
    }
    unsetenv("QUERN_CPU");
}

static void test_cpu_f32(void **state)
{
    (void)state;
    each_isa(check_exact,
             &(struct rig_options){.backend = "cpu", .act = QN_ACT_F32, .n_thread = 2, .poison = true});
}

#endif

static double kl_row(const float *p, const float *q, size_t n)
{
    double sp = 0, sq = 0, mp = p[0], mq = q[0], kl = 0;
    for (size_t i = 0; i < n; i++) {
        mp = fmax(mp, p[i]);
        mq = fmax(mq, q[i]);
    }
    for (size_t i = 0; i < n; i++) {
        sp += exp(p[i] - mp);
        sq += exp(q[i] - mq);
    }
    for (size_t i = 0; i < n; i++)
        kl += exp(p[i] - mp) / sp * ((p[i] - mp - log(sp)) - (q[i] - mq - log(sq)));
    return kl;
}

/* BF16 activations: no further from the float32 run than the reference implementation's own bfloat16 run. */
static void check_bf16(const char *name, const struct rig_options *o)
{
    struct rig r;
    struct rig_golden g;
    open_case(&r, &g, name, o);
    size_t v = (size_t)r.c->vocab, n = (size_t)g.n_prompt * v;
    float *logits = malloc(n * sizeof *logits);
    rig_logits(&r, 0, g.prompt, g.n_prompt, g.n_prompt, logits);
    double max = 0, mean = 0, kl = 0;
    for (int i = 0; i < g.n_prompt; i++)
        if (g.steady[i]) max = fmax(max, worst_of(logits + (size_t)i * v, g.logits + (size_t)i * v, v));
    for (size_t i = 0; i < n; i++) mean += fabs((double)logits[i] - g.logits[i]) / (double)n;
    for (int i = 0; i < g.n_prompt; i++)
        kl += kl_row(g.logits + (size_t)i * v, logits + (size_t)i * v, v) / g.n_prompt;
    print_message("  %-18s max %.3f (%.3f)  mean %.4f (%.4f)  KL %.5f (%.5f)\n", name, max, g.bf16_max, mean,
                  g.bf16_mean, kl, g.bf16_kl);
    assert_true(max <= g.bf16_max && mean <= g.bf16_mean && kl <= g.bf16_kl);
    free(logits);
    rig_golden_free(&g);
    rig_close(&r);
}

#ifndef QN_TEST_CUDA
static void test_cpu_bf16(void **state)
{
    (void)state;
    each_isa(check_bf16,
             &(struct rig_options){
                 .backend = "cpu", .act = QN_ACT_BF16, .kv = QN_KV_BF16, .n_thread = 2, .poison = true});
}

#endif

/* A copy of a golden checkpoint in which one tensor is NaN throughout. */
static void spoil_copy(const char *folder, const char *tensor, const char *to)
{
    static const char *const files[] = {"config.json", "model.safetensors"};
    char from[700], path[700];
    struct qn_err e = {0};
    struct qn_safetensors *st;
    for (size_t i = 0; i < QN_COUNT(files); i++) {
        snprintf(from, sizeof from, "%s/%s", folder, files[i]);
        snprintf(path, sizeof path, "%s/%s", to, files[i]);
        FILE *in = fopen(from, "rb"), *out = fopen(path, "wb");
        assert_true(in && out);
        char block[4096];
        for (size_t n; (n = fread(block, 1, sizeof block, in)) > 0;)
            assert_int_equal(fwrite(block, 1, n, out), n);
        fclose(in);
        fclose(out);
    }
    if (qn_safetensors_open(&st, from, &e)) fail_msg("%s", e.text);
    size_t n_header;
    const unsigned char *data = (const unsigned char *)qn_safetensors_header(st, &n_header) + n_header;
    const struct qn_tensor *t = NULL;
    for (int i = 0; i < qn_safetensors_n_tensor(st); i++)
        if (!strcmp(qn_safetensors_tensor(st, i)->name, tensor)) t = qn_safetensors_tensor(st, i);
    assert_non_null(t);
    FILE *f = fopen(path, "r+b");
    fseek(f, (long)(8 + n_header + (size_t)((const unsigned char *)t->data - data)), SEEK_SET);
    for (size_t i = 0; i < t->n_byte; i++) fputc(i % 2 ? 0x7f : 0xc0, f); /* as BF16 or F32 */
    fclose(f);
    qn_safetensors_close(st);
}

/* No finite logits: the row has no token, and its MTP rows and drafts are left out. */
static void check_nan(const char *backend, const char *folder, const int32_t *prompt, int n_prompt,
                      const int32_t *greedy)
{
    struct rig r;
    struct rig_options o = {.backend = backend, .n_thread = 2};
    int32_t out[16];
    char to[] = "/tmp/quern-nan-XXXXXX", path[64];
    assert_non_null(mkdtemp(to));
    spoil_copy(folder, "mtp.norm.weight", to);
    rig_open(&r, to, &o);
    for (int depth = 0; depth <= 3; depth++) {
        assert_int_equal(rig_greedy(&r, 2, prompt, n_prompt, depth, 16, out), 16); /* no draft, no gain */
        assert_memory_equal(out, greedy, sizeof out);
    }
    rig_close(&r);
    spoil_copy(folder, "model.language_model.norm.weight", to);
    rig_open(&r, to, &o);
    for (int is_decode = 0; is_decode < 2; is_decode++) {
        struct rig_seq q = {.tok = prompt,
                            .n_row = is_decode ? 1 : n_prompt,
                            .pos0 = is_decode ? n_prompt : 0,
                            .is_decode = is_decode,
                            .is_fresh = !is_decode,
                            .wants_token = true,
                            .wants_mtp = true,
                            .n_draft_next = 4,
                            .sample = {.repetition = 1, .top_p = 1, .temperature = 1, .top_k = 20}};
        rig_step(&r, &q, 1, NULL);
        assert_int_equal(q.picked[0], -1);
        assert_int_equal(q.n_drafted, 0);
    }
    rig_close(&r);
    snprintf(path, sizeof path, "%s/config.json", to);
    unlink(path);
    snprintf(path, sizeof path, "%s/model.safetensors", to);
    unlink(path);
    rmdir(to);
}

#ifndef QN_TEST_CUDA
static void test_nan(void **state)
{
    (void)state;
    struct rig_golden g;
    rig_golden_read(&g, "dense-untied-mtp", 0);
    check_nan("ref", g.folder, g.prompt, g.n_prompt, g.greedy);
    check_nan("cpu", g.folder, g.prompt, g.n_prompt, g.greedy);
    rig_golden_free(&g);
}

#else /* on the emulator */
static void test_cuda_f32(void **state)
{
    (void)state;
    for (size_t i = 0; i < QN_COUNT(cases); i++)
        check_exact(cases[i], &(struct rig_options){.backend = "cuda", .act = QN_ACT_F32, .poison = true});
}

static void test_cuda_bf16(void **state)
{
    (void)state;
    for (size_t i = 0; i < QN_COUNT(cases); i++)
        check_bf16(cases[i], &(struct rig_options){
                                 .backend = "cuda", .act = QN_ACT_BF16, .kv = QN_KV_BF16, .poison = true});
}

static void test_cuda_nan(void **state)
{
    (void)state;
    struct rig_golden g;
    rig_golden_read(&g, "dense-untied-mtp", 0);
    check_nan("cuda", g.folder, g.prompt, g.n_prompt, g.greedy);
    rig_golden_free(&g);
}
#endif

int main(void)
{
    const struct CMUnitTest tests[] = {
#ifdef QN_TEST_CUDA
        cmocka_unit_test(test_cuda_f32),
        cmocka_unit_test(test_cuda_bf16),
        cmocka_unit_test(test_cuda_nan),
#else
        cmocka_unit_test(test_ref),      cmocka_unit_test(test_gguf), cmocka_unit_test(test_cpu_f32),
        cmocka_unit_test(test_cpu_bf16), cmocka_unit_test(test_nan),
#endif
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
