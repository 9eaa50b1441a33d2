/* Several ranks give the answers of one: logits within rounding, the same greedy tokens; and for a layout one
 * answer, whatever depth, chunk, cache and batch. QUERN_COMBINATIONS: requests of a layout (default 40).
 * SPDX-License-Identifier: Apache-2.0 */
#include <math.h>

#include "backend/backend.h"
#include "base/mem.h"
#include "base/rng.h"
#include "engine/engine.h"
#include "model/encode.h"
#include "model/recipe.h"
#include "model/shard.h"
#include "model/synth.h"
#include "support/ask.h"
#include "support/test.h"

enum { N_TOK = 150, N_NEW = 64 };

struct kept {
    float *rows;
    size_t vocab;
};

static int keep(void *user, int first, int n_row, const float *logits)
{
    struct kept *k = user;
    memcpy(k->rows + (size_t)first * k->vocab, logits, (size_t)n_row * k->vocab * sizeof *logits);
    return QN_OK;
}

struct layout {
    const char *backend;
    enum qn_act act;
    int n_rank, mtp, step_tokens, max_seqs;
    bool no_cache;
};

static struct qn_engine *open_engine(const struct qn_model *m, const struct layout *y)
{
    struct qn_engine *g;
    struct qn_err e = {0};
    struct qn_engine_options o = {.model = m,
                                  .backend = qn_backend_get(y->backend),
                                  .act = y->act,
                                  .kv = -1,
                                  .n_rank = y->n_rank,
                                  .n_thread = y->n_rank,
                                  .max_seqs = y->max_seqs,
                                  .max_context = 1024,
                                  .step_tokens = y->step_tokens,
                                  .mtp = y->mtp,
                                  .no_prefix_cache = y->no_cache,
                                  .ram_tier_bytes = -1,
                                  .memory_bytes = (int64_t)1 << 30};
    if (qn_engine_open(&g, &o, &e)) fail_msg("%d ranks: %s", y->n_rank, e.text);
    return g;
}

static float *logits_of(const struct qn_model *m, const struct layout *y, const int32_t *tok)
{
    struct qn_err e = {0};
    struct kept k = {.vocab = (size_t)qn_model_config(m)->vocab};
    k.rows = xmalloc(N_TOK * k.vocab * sizeof *k.rows);
    struct qn_engine *g = open_engine(m, y);
    if (qn_engine_logits(g, tok, N_TOK, false, keep, &k, &e)) fail_msg("%s", e.text);
    qn_engine_close(g);
    return k.rows;
}

static double distance(const float *a, const float *b, size_t n)
{
    double worst = 0, largest = 0;
    for (size_t i = 0; i < n; i++) {
        worst = fmax(worst, fabs((double)a[i] - b[i]));
        largest = fmax(largest, fabs((double)a[i]));
    }
    return worst / largest;
}

static struct qn_model *open_model(const char *name)
{
    struct qn_model *m;
    struct qn_err e = {0};
    char *path = xasprintf("%s/%s", QN_SOURCE_DIR, name);
    if (qn_model_open(&m, path, &e)) fail_msg("%s", e.text);
    free(path);
    return m;
}

static const char *const models[] = {"tests/golden/model/dense-untied-mtp",
                                     "tests/golden/model/moe-expert-mtp", "tests/golden/model/moe-fused",
                                     "models/mini"};
static const int degrees[] = {2, 4};

/* Float activations: nothing but the order of sums differs. */
static void test_logits(void **state)
{
    (void)state;
    for (size_t i = 0; i < QN_COUNT(models); i++) {
        struct qn_model *m = open_model(models[i]);
        size_t n = N_TOK * (size_t)qn_model_config(m)->vocab;
        int32_t *tok = ask_prompt(5, N_TOK, 200);
        bool is_large = !strcmp(models[i], "models/mini");
        for (int b = is_large; b < 2; b++) { /* ref is slow */
            struct layout y = {.backend = b ? "cpu" : "ref", .act = QN_ACT_F32, .n_rank = 1, .max_seqs = 2};
            float *one = logits_of(m, &y, tok);
            for (size_t k = 0; k < QN_COUNT(degrees); k++) {
                y.n_rank = degrees[k];
                assert_true(qn_shard_fits(qn_model_config(m), y.n_rank));
                float *more = logits_of(m, &y, tok);
                double d = distance(one, more, n);
                printf("%-34s %s, %d ranks: %.1e of the largest\n", models[i], y.backend, y.n_rank, d);
                if (!(d < 1e-5))
                    fail_msg("%s on %s: %d ranks differ by %g", models[i], y.backend, y.n_rank, d);
                free(more);
            }
            free(one);
        }
        free(tok);
        qn_model_close(m);
    }
}

/* quern-mini, 64 greedy tokens, at every degree. */
static void test_tokens(void **state)
{
    (void)state;
    struct qn_model *m = open_model("models/mini");
    for (uint64_t seed = 1; seed <= 3; seed++) {
        int32_t *tok = ask_prompt(seed, 60, 3000), want[N_NEW];
        for (int n = 1; n <= 4; n *= 2) {
            struct layout y = {.backend = "cpu", .act = QN_ACT_F32, .n_rank = n, .max_seqs = 2, .mtp = 2};
            struct qn_engine *g = open_engine(m, &y);
            struct qn_request_params p = ask_params(tok, 60);
            struct ask_answer a;
            p.max_new = N_NEW;
            ask(g, &p, &a);
            if (n == 1) memcpy(want, a.tok, sizeof want);
            assert_int_equal(a.n, N_NEW);
            assert_memory_equal(want, a.tok, sizeof want);
            ask_free(&a);
            qn_engine_close(g);
        }
        free(tok);
    }
    qn_model_close(m);
}

/* One answer: sampled, with drafts, several at once, with shared prefixes; the same as alone without any. */
static void test_one_answer(void **state)
{
    (void)state;
    enum { BATCH = 4 };
    const char *wanted = getenv("QUERN_COMBINATIONS");
    int n_round = (wanted ? atoi(wanted) : 40) / BATCH, n_asked = 0;
    for (size_t i = 0; i < QN_COUNT(models); i++) {
        struct qn_model *m = open_model(models[i]);
        int limit = QN_MIN(200, qn_model_config(m)->vocab);
        struct layout plain = {.backend = "cpu", .n_rank = 2, .max_seqs = 1, .no_cache = true, .mtp = 0};
        struct qn_engine *alone = open_engine(m, &plain);
        static const int depths[] = {-1, 0, 1, 3, 8};
        for (size_t d = 0; d < QN_COUNT(depths); d++) {
            struct layout y = {.backend = "cpu",
                               .n_rank = 2,
                               .max_seqs = BATCH,
                               .mtp = depths[d],
                               .step_tokens = 16 + 40 * (int)d};
            struct qn_engine *g = open_engine(m, &y);
            int32_t *prompt = ask_prompt(40 + d, 400, limit);
            for (int round = 0; round < QN_MAX(n_round / (int)QN_COUNT(depths), 1); round++) {
                struct qn_request *r[BATCH];
                struct qn_request_params p[BATCH];
                struct qn_err e = {0};
                for (int k = 0; k < BATCH; k++) {
                    uint64_t draw = qn_rng64(d, (uint64_t)round, (uint64_t)k);
                    p[k] = ask_params(prompt, 20 + (int)(draw % 300));
                    p[k].max_new = 12;
                    p[k].sample.temperature = draw % 3 ? 0.8f : 0;
                    p[k].sample.seed = draw;
                    p[k].sample.frequency = draw % 5 ? 0 : 0.3f;
                    if (qn_engine_submit(g, &p[k], &r[k], &e)) fail_msg("%s", e.text);
                }
                for (int k = 0; k < BATCH; k++, n_asked++) {
                    struct ask_answer got, want;
                    ask_read(r[k], &got);
                    ask(alone, &p[k], &want);
                    assert_int_equal(got.finish, want.finish);
                    assert_int_equal(got.n, want.n);
                    assert_memory_equal(got.tok, want.tok, (size_t)want.n * sizeof *want.tok);
                    ask_free(&got);
                    ask_free(&want);
                }
            }
            free(prompt);
            qn_engine_close(g);
        }
        qn_engine_close(alone);
        qn_model_close(m);
    }
    printf("%d requests on two ranks, none differs\n", n_asked);
}

/* Every stored format is shared out: dense and MoE, one to four value heads a key head, KV heads shared. */
static void check_stored(const char *shape_text, int n_rank, const struct qn_store *store)
{
    struct qn_shape shape;
    struct qn_err e = {0};
    struct qn_model *m;
    char folder[] = "/tmp/quern-ranks-XXXXXX", command[80];
    assert_non_null(mkdtemp(folder));
    if (qn_shape_find(&shape, shape_text, &e)) fail_msg("%s", e.text);
    struct qn_synth s = {.shape = &shape,
                         .store = store,
                         .recipe = strcmp(store->name, "bf16") ? qn_recipe_find("linear-mtp") : NULL,
                         .seed = 5,
                         .n_thread = 1,
                         .is_quiet = true};
    if (qn_synth_write(&s, folder, &e)) fail_msg("%s: %s", store->name, e.text);
    if (qn_model_open(&m, folder, &e)) fail_msg("%s: %s", store->name, e.text);
    int32_t *tok = ask_prompt(7, N_TOK, 280);
    for (int b = 0; b < 2; b++) {
        struct layout y = {.backend = b ? "cpu" : "ref", .act = QN_ACT_F32, .n_rank = 1, .max_seqs = 2};
        float *one = logits_of(m, &y, tok);
        y.n_rank = n_rank;
        float *more = logits_of(m, &y, tok);
        double d = distance(one, more, N_TOK * (size_t)qn_model_config(m)->vocab);
        if (!(d < 1e-5))
            fail_msg("%s, %s, %s: %d ranks differ by %g", shape_text, store->name, y.backend, n_rank, d);
        free(one);
        free(more);
    }
    free(tok);
    qn_model_close(m);
    snprintf(command, sizeof command, "rm -r %s", folder);
    assert_int_equal(system(command), 0);
}

static void test_formats(void **state)
{
    (void)state;
    static const struct {
        const char *shape;
        int n_rank;
        bool has_blocks; /* parts are whole blocks of 128 x 128 */
    } cases[] = {
        {"tiny:heads=8,kv_heads=4,head_dim=64,k_heads=8,v_heads=8,k_dim=32,v_dim=32,ffn=512", 2, true},
        {"tiny:hidden=96,heads=12,kv_heads=6,head_dim=32,k_heads=6,v_heads=12,k_dim=16,v_dim=16,ffn=384,tied="
         "0",
         3, false},
        {"tiny-moe:heads=8,kv_heads=2,head_dim=32,k_heads=8,v_heads=32,k_dim=16,v_dim=16,expert_ffn=256,"
         "shared_ffn=256",
         8, false},
    };
    for (size_t i = 0; i < QN_COUNT(cases); i++)
        for (int k = 0; qn_store_at(k); k++) {
            if (qn_store_at(k)->format == QN_FMT_FP8_BLOCK && !cases[i].has_blocks) continue;
            check_stored(cases[i].shape, cases[i].n_rank, qn_store_at(k));
        }
}

/* A degree that the heads do not allow is refused with those that fit. */
static void test_refused(void **state)
{
    (void)state;
    struct qn_model *m = open_model("models/mini");
    struct qn_engine *g;
    struct qn_err e = {0};
    struct qn_engine_options o = {
        .model = m, .backend = qn_backend_get("cpu"), .kv = -1, .n_rank = 3, .max_seqs = 1, .mtp = 0};
    assert_int_equal(qn_engine_open(&g, &o, &e), QN_UNSUPPORTED);
    assert_non_null(strstr(e.text, "over 3 ranks; what fits: 1, 2, 4"));
    qn_model_close(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_logits),  cmocka_unit_test(test_tokens),  cmocka_unit_test(test_one_answer),
        cmocka_unit_test(test_formats), cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
