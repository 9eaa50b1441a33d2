/* Speculation pays: tokens a second with automatic depth against every fixed depth and against none, on the
 * real forward pass with drafts that are right at a set rate (support/drafter.h), and the same tokens
 * everywhere.
 *
 * By default a small model, where only the tokens and the rates are checked: times of a busy machine prove
 * nothing. QUERN_MODEL: a checkpoint to measure instead; then QUERN_BATCH (1,4,16), QUERN_ACCEPT (85,20),
 * QUERN_GEN (160 tokens a stream), QUERN_RUNS (1), and every cell has to reach 0.98 of the best fixed depth
 * and of none. SPDX-License-Identifier: Apache-2.0 */
#include "support/test.h"

#include "base/log.h"
#include "base/mem.h"
#include "model/checkpoint.h"
#include "model/synth.h"
#include "support/ask.h"
#include "support/drafter.h"

#define N_PROMPT 48
#define MAX_SEQS 64
#define N_DEPTH  7

static const int depths[N_DEPTH] = {0, 1, 2, 3, 5, 8, -1};

struct lab {
    struct qn_model *model;
    struct qn_drafter drafter;
    int n_gen, n_run;
    bool is_real;
};

static struct qn_engine *open_engine(struct lab *l, int n_seq, int mtp)
{
    struct qn_engine_options o = {.model = l->model,
                                  .backend = qn_backend_get("cpu"),
                                  .runner = &qn_runner_drafter,
                                  .runner_user = &l->drafter,
                                  .kv = -1,
                                  .max_seqs = n_seq,
                                  .max_context = N_PROMPT + 3 * l->n_gen,
                                  .mtp = mtp,
                                  .ram_tier_bytes = -1};
    struct qn_engine *g;
    struct qn_err e = {0};
    if (qn_engine_open(&g, &o, &e)) fail_msg("open: %s", e.text);
    return g;
}

static struct qn_request_params params(const int32_t *prompt, int n_new)
{
    struct qn_request_params p = ask_params(prompt, N_PROMPT);
    p.max_new = n_new;
    p.ignore_eos = true;
    p.sample.temperature = 1; /* no loops, which prompt lookup would know */
    p.sample.seed = 7;
    return p;
}

/* n streams with the same prompt and seed, so that the one known answer is everybody's. Tokens a second while
 * they decode; *accepted: of a hundred first drafts. */
static double run(struct lab *l, struct qn_engine *g, int n, int n_new, double *accepted)
{
    struct qn_request *r[MAX_SEQS];
    struct qn_err e = {0};
    struct qn_request_params p = params(l->drafter.tok, n_new);
    int64_t longest = 1, n_tok = 0, drafted = 0, right = 0;
    for (int i = 0; i < n; i++)
        if (qn_engine_submit(g, &p, &r[i], &e)) fail_msg("submit: %s", e.text);
    for (int i = 0; i < n; i++) {
        struct ask_answer a;
        ask_read(r[i], &a);
        assert_int_equal(a.n, n_new);
        assert_memory_equal(a.tok, l->drafter.tok + N_PROMPT, (size_t)n_new * sizeof *a.tok);
        longest = QN_MAX(longest, a.stats.decode_us);
        n_tok += a.n - 1;
        drafted += a.stats.drafted_at[0];
        right += a.stats.accepted_at[0];
        ask_free(&a);
    }
    *accepted = drafted ? 100.0 * (double)right / (double)drafted : -1;
    return (double)n_tok * 1e6 / (double)longest;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

/* One line of the table; false when automatic depth falls short. */
static bool compare(struct lab *l, int n, int percent)
{
    double rate[N_DEPTH], accepted[N_DEPTH], best = 0;
    int at = 0;
    l->drafter.percent = percent;
    for (int d = 0; d < N_DEPTH; d++) {
        double value[16];
        struct qn_engine *g = open_engine(l, n, depths[d]);
        /* caches, threads, and what automatic depth learns */
        for (int i = 0; i < (depths[d] < 0 ? 3 : 1); i++) run(l, g, n, l->n_gen, &accepted[d]);
        for (int i = 0; i < l->n_run; i++) value[i] = run(l, g, n, l->n_gen, &accepted[d]);
        qsort(value, (size_t)l->n_run, sizeof *value, by_value);
        rate[d] = value[l->n_run / 2];
        if (depths[d] >= 0 && rate[d] > best) best = rate[at = d];
        if (depths[d] > 0) assert_true(accepted[d] > percent - 25 && accepted[d] < percent + 25);
        qn_engine_close(g);
    }
    double got = rate[N_DEPTH - 1];
    print_message("%5d  %7d %%", n, percent);
    for (int d = 0; d < N_DEPTH; d++) print_message("  %8.2f", rate[d]);
    print_message("   best %d  %.3f of it  %.3f of off\n", depths[at], got / best, got / rate[0]);
    return got >= 0.98 * best && got >= 0.98 * rate[0];
}

static int read_list(const char *name, const char *otherwise, int *out)
{
    const char *text = getenv(name);
    int n = 0;
    for (const char *p = text ? text : otherwise; *p && n < 8; p += strcspn(p, ","), p += *p == ',')
        out[n++] = atoi(p);
    return n;
}

static void test_automatic_depth_pays(void **state)
{
    (void)state;
    const char *path = getenv("QUERN_MODEL"), *gen = getenv("QUERN_GEN"), *runs = getenv("QUERN_RUNS");
    char folder[] = "/tmp/quern-speculation-XXXXXX", line[80];
    struct qn_err e = {0};
    struct lab l = {.is_real = path != NULL,
                    .n_gen = gen    ? atoi(gen)
                             : path ? 160
                                    : 40,
                    .n_run = runs ? QN_CLAMP(atoi(runs), 1, 15) : 1};
    if (!qn_backend_get("cpu")) skip();
    if (!path) {
        struct qn_shape shape;
        assert_non_null(mkdtemp(folder));
        snprintf(line, sizeof line, "%s/m", folder);
        if (qn_shape_find(&shape, "tiny:layers=4,mtp=1", &e)) fail_msg("%s", e.text);
        struct qn_synth synth = {
            .shape = &shape, .store = qn_store_find("bf16"), .seed = 5, .n_thread = 1, .is_quiet = true};
        if (qn_synth_write(&synth, line, &e)) fail_msg("%s", e.text);
        path = line;
    }
    if (qn_model_open(&l.model, path, &e)) fail_msg("%s", e.text);
    int vocab = qn_model_config(l.model)->vocab;
    l.drafter.vocab = vocab;
    /* the answer, without drafts */
    int32_t *tok = xcalloc((size_t)(N_PROMPT + l.n_gen), sizeof *tok),
            *prompt = ask_prompt(3, N_PROMPT, vocab - 100);
    memcpy(tok, prompt, N_PROMPT * sizeof *tok);
    free(prompt);
    struct qn_engine *g = open_engine(&l, 1, 0);
    struct qn_request_params p = params(tok, l.n_gen);
    struct ask_answer a;
    ask(g, &p, &a);
    assert_int_equal(a.n, l.n_gen);
    memcpy(tok + N_PROMPT, a.tok, (size_t)a.n * sizeof *tok);
    ask_free(&a);
    qn_engine_close(g);
    l.drafter.tok = tok;
    l.drafter.n_tok = N_PROMPT + l.n_gen;
    int batch[8], percent[8], n_short = 0;
    int n_batch = read_list("QUERN_BATCH", l.is_real ? "1,4,16" : "1,4", batch),
        n_percent = read_list("QUERN_ACCEPT", "85,20", percent);
    print_message("%s, %d tokens a stream\n%5s  %9s  %8s  %8s  %8s  %8s  %8s  %8s  %8s\n",
                  qn_model_name(l.model), l.n_gen, "batch", "accepted", "off", "1", "2", "3", "5", "8",
                  "auto");
    for (int i = 0; i < n_batch; i++)
        for (int k = 0; k < n_percent; k++)
            n_short += !compare(&l, QN_CLAMP(batch[i], 1, MAX_SEQS), percent[k]);
    if (l.is_real) assert_int_equal(n_short, 0);
    free(tok);
    qn_model_close(l.model);
    if (!l.is_real) {
        snprintf(line, sizeof line, "rm -rf %s", folder);
        if (system(line)) print_message("%s is left\n", folder);
    }
}

int main(void)
{
    qn_log_set_level(QN_LOG_WARN);
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_automatic_depth_pays)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
