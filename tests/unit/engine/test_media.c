/* Pictures in prompts, with embeddings by hand: rope positions are the reference's, and what the cache keeps
 * of one picture is never used for another. SPDX-License-Identifier: Apache-2.0 */
#include "support/test.h"

#include <dirent.h>
#include <unistd.h>

#include "base/json.h"
#include "base/mem.h"
#include "base/rng.h"
#include "support/ask.h"
#include "support/backend_fake.h"

#define N_TEXT  70 /* before the picture */
#define N_AFTER 90
#define PAD     7
#define HIDDEN  8 /* of the scripted model */

static struct qn_fake fake;

/* A picture of a seed: its embeddings and the hash that stands for them. */
static struct qn_media_span picture(uint64_t seed, int grid_h, int grid_w)
{
    struct qn_media_span s = {.grid_h = grid_h, .grid_w = grid_w, .n_tok = grid_h * grid_w};
    s.embeds = qn_embeds_create(s.n_tok, HIDDEN);
    for (int i = 0; i < s.n_tok * HIDDEN; i++)
        s.embeds->rows[i] = qn_rng_unit(qn_rng64(seed, (uint64_t)i, 0));
    for (int i = 0; i < 4; i++) s.hash[i] = qn_rng64(seed, (uint64_t)i, 1);
    return s;
}

static struct qn_engine *open_fake(const char *folder)
{
    struct qn_engine_options o;
    struct qn_engine *g;
    struct qn_err e = {0};
    qn_fake_init(&fake, NULL);
    qn_fake_engine_options(&fake, &o);
    o.step_tokens = 48;
    o.mtp = 2;
    o.disk_tier = folder;
    if (qn_engine_open(&g, &o, &e)) fail_msg("open: %s", e.text);
    return g;
}

static void close_fake(struct qn_engine *g)
{
    qn_engine_close(g);
    assert_int_equal(atomic_load(&fake.n_violation), 0);
}

/* Text, a picture, the token that ends it, a question. */
static void ask_about(struct qn_engine *g, struct qn_media_span shown, uint64_t question,
                      struct ask_answer *out)
{
    int n = N_TEXT + shown.n_tok + N_AFTER;
    int32_t *tok = ask_prompt(1, n, 200), *after = ask_prompt(question, N_AFTER, 200);
    for (int i = 0; i < shown.n_tok; i++) tok[N_TEXT + i] = PAD;
    memcpy(tok + N_TEXT + shown.n_tok + 1, after + 1, (N_AFTER - 1) * sizeof *tok);
    struct qn_request_params p = ask_params(tok, n);
    shown.first = N_TEXT;
    p.span = &shown;
    p.n_span = 1;
    p.mtp = 2;
    ask(g, &p, out);
    if (out->finish == QN_FINISH_ERROR) fail_msg("%s", out->error.text);
    free(tok);
    free(after);
}

static bool is_same(const struct ask_answer *a, const struct ask_answer *b)
{
    return a->n == b->n && !memcmp(a->tok, b->tok, (size_t)a->n * sizeof *a->tok);
}

/* runs: ["text", n], ["image", h, w], ["video", steps, text of a step, h, w]. */
static int read_runs(const struct qn_json *runs, struct qn_media_span *out)
{
    int at = 0, n = 0;
    for (size_t i = 0; i < runs->n; i++) {
        struct qn_json **r = runs->items[i]->items;
        int x[4] = {0};
        for (size_t k = 1; k < runs->items[i]->n; k++) x[k - 1] = (int)qn_json_num(r[k]);
        if (qn_json_is_str(r[0], "text")) {
            at += x[0];
            continue;
        }
        bool is_video = qn_json_is_str(r[0], "video");
        for (int step = 0; step < (is_video ? x[0] : 1); step++) {
            if (is_video) at += x[1];
            out[n] = picture((uint64_t)n, is_video ? x[2] : x[0], is_video ? x[3] : x[1]);
            out[n].first = at;
            at += out[n++].n_tok;
        }
    }
    return n;
}

static void test_rope_positions(void **state)
{
    (void)state;
    struct qn_arena *arena = qn_arena_create((size_t)256 << 20);
    struct qn_json *top;
    struct qn_err e;
    if (qn_json_read_file(&top, arena, QN_TEST_DIR "/golden/media/vision.json", 64 << 20, &e))
        fail_msg("%s", e.text);
    const struct qn_json *rows = qn_json_get(qn_json_get(top, "rope"), "rows");
    assert_true(rows->n >= 5);
    for (size_t i = 0; i < rows->n; i++) {
        const struct qn_json *row = rows->items[i];
        static const char *const axes[] = {"t", "h", "w"}, *const sums[] = {"sum_t", "sum_h", "sum_w"};
        int64_t sum[3] = {0};
        struct qn_media_span list[64];
        int n = read_runs(qn_json_get(row, "runs"), list),
            n_tok = (int)qn_json_num(qn_json_get(row, "length"));
        struct qn_media_span *own = qn_spans_copy(list, n);
        int32_t at[3];
        assert_int_equal(qn_spans_check(list, n, n_tok, HIDDEN, &e), QN_OK);
        for (int pos = 0; pos < n_tok; pos++) {
            qn_spans_rope(own, n, pos, at);
            for (int k = 0; k < 3; k++) {
                const struct qn_json *all = qn_json_get(row, axes[k]); /* of the long one only sums */
                if (all) assert_int_equal(at[k], (int)qn_json_num(all->items[pos]));
                sum[k] += at[k];
            }
        }
        for (int k = 0; k < 3; k++)
            if (qn_json_get(row, sums[k]))
                assert_int_equal(sum[k], (int)qn_json_num(qn_json_get(row, sums[k])));
        for (int pos = n_tok; pos < n_tok + 3; pos++) { /* what is generated */
            qn_spans_rope(own, n, pos, at);
            for (int k = 0; k < 3; k++)
                assert_int_equal(at[k], pos + (int)qn_json_num(qn_json_get(row, "delta")));
        }
        qn_spans_free(own, n);
        for (int k = 0; k < n; k++) qn_embeds_release(list[k].embeds);
    }
    qn_arena_free(arena);
}

/* The same placeholders, another picture: only what lies before it is shared. */
static void test_two_pictures(void **state)
{
    (void)state;
    struct qn_media_span cat = picture(1, 9, 12), dog = picture(2, 9, 12), wide = picture(1, 4, 27);
    struct ask_answer first, again, other, alone, other_form;
    struct qn_engine *g = open_fake(NULL);
    ask_about(g, dog, 5, &alone);
    close_fake(g);
    g = open_fake(NULL);
    ask_about(g, cat, 5, &first);
    ask_about(g, dog, 5, &other);
    assert_int_equal(other.stats.n_known, N_TEXT);
    assert_true(other.stats.n_cached <= N_TEXT);
    assert_true(is_same(&other, &alone));
    assert_false(is_same(&other, &first));
    ask_about(g, wide, 5, &other_form);
    assert_int_equal(other_form.stats.n_known, N_TEXT);
    ask_about(g, cat, 5, &again);
    assert_true(again.stats.n_cached > N_TEXT + cat.n_tok);
    assert_true(is_same(&again, &first));
    close_fake(g);
    assert_int_equal(atomic_load(&cat.embeds->n_ref), 1); /* requests have given theirs back */
    qn_embeds_release(cat.embeds);
    qn_embeds_release(dog.embeds);
    qn_embeds_release(wide.embeds);
    ask_free(&first);
    ask_free(&again);
    ask_free(&other);
    ask_free(&alone);
    ask_free(&other_form);
}

/* The second question about a picture resumes behind it. */
static void test_other_question(void **state)
{
    (void)state;
    struct qn_media_span cat = picture(1, 9, 12);
    struct ask_answer first, second, alone;
    struct qn_engine *g = open_fake(NULL);
    ask_about(g, cat, 6, &alone);
    close_fake(g);
    g = open_fake(NULL);
    ask_about(g, cat, 5, &first);
    ask_about(g, cat, 6, &second);
    assert_int_equal(second.stats.n_cached, N_TEXT + cat.n_tok + 1);
    assert_true(is_same(&second, &alone));
    close_fake(g);
    qn_embeds_release(cat.embeds);
    ask_free(&first);
    ask_free(&second);
    ask_free(&alone);
}

static void remove_folder(const char *folder)
{
    DIR *d = opendir(folder);
    for (struct dirent *e; d && (e = readdir(d));) {
        char path[400];
        snprintf(path, sizeof path, "%s/%s", folder, e->d_name);
        if (e->d_name[0] != '.') unlink(path);
    }
    if (d) closedir(d);
    assert_int_equal(rmdir(folder), 0);
}

/* Files tell pictures apart too. */
static void test_restart(void **state)
{
    (void)state;
    char folder[] = "/tmp/quern-media-XXXXXX";
    assert_non_null(mkdtemp(folder));
    struct qn_media_span cat = picture(1, 9, 12), dog = picture(2, 9, 12);
    struct ask_answer first, again, other;
    struct qn_engine *g = open_fake(folder);
    ask_about(g, cat, 5, &first);
    close_fake(g); /* once all is saved */
    g = open_fake(folder);
    ask_about(g, dog, 5, &other);
    assert_true(other.stats.n_cached <= N_TEXT);
    ask_about(g, cat, 5, &again);
    assert_true(again.stats.n_cached > N_TEXT + cat.n_tok);
    assert_true(is_same(&again, &first));
    assert_false(is_same(&other, &first));
    close_fake(g);
    remove_folder(folder);
    qn_embeds_release(cat.embeds);
    qn_embeds_release(dog.embeds);
    ask_free(&first);
    ask_free(&again);
    ask_free(&other);
}

static void refuse(struct qn_engine *g, const struct qn_media_span *list, int n, const char *text)
{
    int32_t *tok = ask_prompt(1, 100, 200);
    struct qn_request_params p = ask_params(tok, 100);
    struct qn_request *r;
    struct qn_err e = {0};
    p.span = list;
    p.n_span = n;
    assert_int_equal(qn_engine_submit(g, &p, &r, &e), QN_INVAL);
    if (!strstr(e.text, text)) fail_msg("%s", e.text);
    free(tok);
}

static void test_refusals(void **state)
{
    (void)state;
    struct qn_engine *g = open_fake(NULL);
    struct qn_media_span good = picture(1, 3, 4), bad[2] = {good, good};
    bad[0].first = 95;
    refuse(g, bad, 1, "medium 0 has tokens 95 to 106 of a prompt of 100");
    bad[0].first = 10;
    bad[1].first = 20;
    refuse(g, bad, 2, "medium 1 has tokens 20");
    bad[0].grid_w = 5;
    refuse(g, bad, 1, "12 tokens for a grid of 3 x 5");
    bad[0] = good;
    bad[0].first_embed = 1;
    refuse(g, bad, 1, "embeddings 1 to 12 of 12");
    bad[0] = good;
    bad[0].embeds = NULL;
    refuse(g, bad, 1, "width 0; the model has 8");
    qn_embeds_release(good.embeds);
    close_fake(g);
}

/* Embeddings are part of what their request may have. */
static void test_budget(void **state)
{
    (void)state;
    qn_budget_set(1 << 20, 40 << 10);
    qn_share share = qn_share_open(), before = qn_share_use(share);
    struct qn_embeds *m = qn_embeds_create(1000, HIDDEN);
    assert_non_null(m);
    assert_true(qn_share_used(share) >= 1000 * HIDDEN * sizeof(float));
    assert_null(qn_embeds_create(1000, HIDDEN));
    qn_share_use(before);
    qn_embeds_release(qn_embeds_acquire(m));
    assert_true(qn_share_used(share) > 0);
    qn_embeds_release(m);
    assert_int_equal(qn_share_used(share), 0);
    qn_share_close(share);
    qn_budget_set(0, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rope_positions), cmocka_unit_test(test_two_pictures),
        cmocka_unit_test(test_other_question), cmocka_unit_test(test_restart),
        cmocka_unit_test(test_refusals),       cmocka_unit_test(test_budget),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
