/* Speculation pays: tokens a second with automatic depth against every fixed depth and against none, on the
 * real forward pass with drafts that are right at a set rate (support/drafter.h), and the same tokens
 * everywhere.
 *
 * Three engines, without drafts, with the depth of each request, and automatic, answer in turn, so that a
 * machine whose speed drifts is fair to all; what is compared are ratios of runs next to each other, and
 * rounds in which other processes ran are repeated. Once
 * from the first token to the last, and once from submit on, prompt included.
 *
 * By default a small model, where only the tokens and the rates are checked: times of a busy machine prove
 * nothing. QUERN_MODEL: a checkpoint to measure instead; then QUERN_BATCH (1,4,16), QUERN_ACCEPT (85,20),
 * QUERN_DEPTHS (1,2,3,5,8), QUERN_PROMPT (48 tokens), QUERN_GEN (160 tokens a stream), QUERN_RUNS (3),
 * QUERN_WARM (2, of automatic depth), QUERN_TEMPERATURE (1; more: text that repeats nothing, so that lookup
 * has no part in it), and every cell has to reach 0.98 of the best fixed depth and of none.
 * SPDX-License-Identifier: Apache-2.0 */
#include "support/test.h"

#include <math.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "model/checkpoint.h"
#include "model/synth.h"
#include "support/ask.h"
#include "support/drafter.h"

#define MAX_SEQS   64
#define MAX_DEPTH  10
#define MAX_RUNS   99
#define MAX_OTHERS 0.05 /* processors that others may take in a round of runs; else it is repeated */

struct lab {
    struct qn_model *model;
    struct qn_drafter drafter;
    int n_prompt, n_gen, n_run, n_warm, temperature;
    int depth[MAX_DEPTH], n_depth; /* fixed ones, without 0 */
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
                                  .max_context = l->n_prompt + 3 * l->n_gen + QN_PAGE,
                                  .mtp = mtp,
                                  .ram_tier_bytes = -1};
    struct qn_engine *g;
    struct qn_err e = {0};
    if (qn_engine_open(&g, &o, &e)) fail_msg("open: %s", e.text);
    return g;
}

static struct qn_request_params params(const struct lab *l, const int32_t *prompt, int mtp)
{
    struct qn_request_params p = ask_params(prompt, l->n_prompt);
    p.max_new = l->n_gen;
    p.ignore_eos = true;
    p.mtp = mtp;
    p.sample.temperature = (float)l->temperature;
    p.sample.seed = 7;
    return p;
}

struct figure {
    double decode, all; /* tokens a second: of the longest decode, of all the time from submit on */
    double accepted;    /* of a hundred first drafts; -1: none */
};

static uint64_t n_ended(struct qn_engine *g)
{
    struct qn_engine_stats s;
    uint64_t n = 0;
    qn_engine_stats(g, &s);
    for (size_t i = 0; i < QN_COUNT(s.finished); i++) n += s.finished[i];
    return n;
}

/* n streams with the same prompt and seed, so that the one known answer is everybody's; each with a salt of
 * its own, so that each reads its prompt. */
static struct figure run_noted(struct lab *l, struct qn_engine *g, int n, int mtp, int who)
{
    l->drafter.who = who;
    static uint64_t salt = 1;
    struct qn_request *r[MAX_SEQS];
    struct qn_err e = {0};
    struct qn_request_params p = params(l, l->drafter.tok, mtp);
    int64_t longest = 1, n_tok = 0, drafted = 0, right = 0, from = qn_now_us(), until;
    uint64_t had = n_ended(g);
    for (int i = 0; i < n; i++) {
        p.salt = salt++;
        if (qn_engine_submit(g, &p, &r[i], &e)) fail_msg("submit: %s", e.text);
    }
    /* nobody is woken by each token: what that does to steps of a fraction of a millisecond is chance */
    while (n_ended(g) < had + (uint64_t)n) usleep(500);
    until = qn_now_us();
    for (int i = 0; i < n; i++) {
        struct ask_answer a;
        ask_read(r[i], &a);
        assert_int_equal(a.n, l->n_gen);
        assert_memory_equal(a.tok, l->drafter.tok + l->n_prompt, (size_t)l->n_gen * sizeof *a.tok);
        longest = QN_MAX(longest, a.stats.decode_us);
        n_tok += a.n - 1;
        drafted += a.stats.drafted_at[0];
        right += a.stats.accepted_at[0];
        ask_free(&a);
    }
    return (struct figure){(double)n_tok * 1e6 / (double)longest,
                           (double)(n_tok + n) * 1e6 / (double)(until - from),
                           drafted ? 100.0 * (double)right / (double)drafted : -1};
}

/* Processor seconds that others took since boot: all of the machine's less this process's. */
static double others_s(void)
{
    long long x[8] = {0};
    char line[256] = "";
    struct rusage own;
    FILE *f = fopen("/proc/stat", "r");
    if (f && !fgets(line, sizeof line, f)) line[0] = 0;
    if (f) fclose(f);
    char *p = line + QN_MIN(strlen(line), 3);
    for (int i = 0; i < 8; i++) x[i] = strtoll(p, &p, 10);
    getrusage(RUSAGE_SELF, &own);
    double ours = (double)(own.ru_utime.tv_sec + own.ru_stime.tv_sec) +
                  (double)(own.ru_utime.tv_usec + own.ru_stime.tv_usec) / 1e6;
    double all = (double)(x[0] + x[1] + x[2] + x[5] + x[6] + x[7]); /* neither idle nor waiting */
    return all / (double)sysconf(_SC_CLK_TCK) - ours;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static double median(double *x, int n)
{
    qsort(x, (size_t)n, sizeof *x, by_value);
    return n % 2 ? x[n / 2] : 0.5 * (x[n / 2 - 1] + x[n / 2]);
}

/* Automatic depth's part of another's rate, the median over the rounds. */
static double part(const double *got, const double *other, int n)
{
    double x[MAX_RUNS];
    for (int i = 0; i < n; i++) x[i] = got[i] / other[i];
    return median(x, n);
}

static struct figure run(struct lab *l, struct qn_engine *g, int n, int mtp)
{
    return run_noted(l, g, n, mtp, 0);
}

struct cell {
    double fixed[MAX_DEPTH][MAX_RUNS], off[MAX_RUNS], got[MAX_RUNS]; /* decode */
    double fixed_all[MAX_DEPTH][MAX_RUNS], off_all[MAX_RUNS], got_all[MAX_RUNS], first;
};

/* Steps of the same work, in order of their time. */
static int by_work(const void *a, const void *b)
{
    const struct qn_drafter_step *x = a, *y = b;
    if (x->n_decode != y->n_decode) return x->n_decode - y->n_decode;
    if (x->n_row != y->n_row) return x->n_row - y->n_row;
    if (x->n_made != y->n_made) return x->n_made - y->n_made;
    if (x->keeps_mtp != y->keeps_mtp) return x->keeps_mtp - y->keeps_mtp;
    return x->us - y->us;
}

static bool is_same_work(const struct qn_drafter_step *x, const struct qn_drafter_step *y)
{
    return x->n_decode == y->n_decode && x->n_row == y->n_row && x->n_made == y->n_made &&
           x->keeps_mtp == y->keeps_mtp;
}

static int by_gap(const void *a, const void *b)
{
    return ((const struct qn_drafter_step *)a)->gap_us - ((const struct qn_drafter_step *)b)->gap_us;
}

/* Tokens a second of each while all n streams run, when every step takes the median time of all steps of the
 * same work, and the mean of all but the longest between two: what the choice of depths is worth, whoever
 * else used the machine. */
static void rates_by_work(struct qn_drafter *d, int n, double *rate, int n_who)
{
    double us[2 + MAX_DEPTH] = {0}, n_tok[2 + MAX_DEPTH] = {0};
    qsort(d->step, (size_t)d->n_step, sizeof *d->step, by_gap);
    double gap_us = 0;
    int n_gap = QN_MAX(d->n_step * 19 / 20, 1);
    for (int i = 0; i < n_gap; i++) gap_us += d->step[i].gap_us / (double)n_gap;
    qsort(d->step, (size_t)d->n_step, sizeof *d->step, by_work);
    for (int i = 0, end; i < d->n_step; i = end) {
        for (end = i + 1; end < d->n_step && is_same_work(&d->step[i], &d->step[end]);) end++;
        for (int k = i; k < end && d->step[k].n_decode == n; k++) {
            us[d->step[k].who - 1] += d->step[(i + end) / 2].us + gap_us;
            n_tok[d->step[k].who - 1] += d->step[k].n_tok;
        }
    }
    for (int i = 0; i < n_who; i++) rate[i] = n_tok[i] * 1e6 / us[i];
}

/* One line of the table; false when automatic depth falls short. */
static bool compare(struct lab *l, int n, int percent)
{
    struct cell c = {0};
    int best = -1;
    double of_best = INFINITY, accepted = 0; /* the mean of the fixed depths */
    l->drafter.percent = percent;
    l->drafter.n_step = 0;
    struct qn_engine *off = open_engine(l, n, 0), *fixed = open_engine(l, n, QN_MAX_DRAFT),
                     *got = open_engine(l, n, -1);
    run(l, fixed, n, 0); /* caches, threads */
    double off_first =
        run(l, off, n, -1).decode; /* an engine's first steps touch its memory: of each, the first run */
    c.first = run(l, got, n, -1).decode / off_first;
    for (int i = 0; i < l->n_warm; i++) run(l, got, n, -1); /* what it learns */
    int n_again = 0;
    for (int i = 0; i < l->n_run; i++) {
        double others = others_s();
        int64_t start = qn_now_us();
        for (int d = 0; d < l->n_depth; d++) {
            struct figure f = run_noted(l, fixed, n, l->depth[d], 3 + d);
            c.fixed[d][i] = f.decode;
            c.fixed_all[d][i] = f.all;
            accepted += f.accepted;
        }
        struct figure a = run_noted(l, off, n, -1, 1), b = run_noted(l, got, n, -1, 2);
        c.off[i] = a.decode;
        c.off_all[i] = a.all;
        c.got[i] = b.decode;
        c.got_all[i] = b.all;
        others = (others_s() - others) * 1e6 / (double)(qn_now_us() - start);
        if (l->is_real && others > MAX_OTHERS && n_again < l->n_run &&
            qn_now_us() - start < 3000000) { /* a busy machine proves nothing */
            n_again++;
            i--;
        }
    }
    accepted /= (l->n_run + n_again) * l->n_depth;
    assert_true(!l->n_depth || (accepted > percent - 25 && accepted < percent + 25));
    struct qn_engine_stats stats;
    qn_engine_stats(got, &stats);
    qn_engine_close(off);
    qn_engine_close(fixed);
    qn_engine_close(got);
    double of_off = part(c.got, c.off, l->n_run), of_off_all = part(c.got_all, c.off_all, l->n_run);
    of_best = of_off;
    double of_best_all = of_off_all;
    for (int d = 0; d < l->n_depth; d++) {
        double x = part(c.got, c.fixed[d], l->n_run);
        of_best_all = fmin(of_best_all, part(c.got_all, c.fixed_all[d], l->n_run));
        if (x < of_best) {
            of_best = x;
            best = d;
        }
    }
    double rate[2 + MAX_DEPTH], work_of_best = INFINITY;
    rates_by_work(&l->drafter, n, rate, 2 + l->n_depth);
    for (int i = 0; i < 2 + l->n_depth; i++)
        if (i != 1) work_of_best = fmin(work_of_best, rate[1] / rate[i]);
    print_message("%5d  %7d %%  %8.2f", n, percent, median(c.off, l->n_run));
    for (int d = 0; d < l->n_depth; d++) print_message("  %8.2f", median(c.fixed[d], l->n_run));
    print_message(
        "  %8.2f   best %d  %.3f of it  %.3f of off  with the prompt %.3f of the best  %.3f of off  "
        "%.3f at first  ends at %d  rounds repeated %d  by work %.3f of the best  %.3f of off\n",
        median(c.got, l->n_run), best < 0 ? 0 : l->depth[best], of_best, of_off, of_best_all, of_off_all,
        c.first, stats.depth, n_again, work_of_best, rate[1] / rate[0]);
    return work_of_best >= 0.98 && of_off_all >= 0.98;
}

static int read_list(const char *name, const char *otherwise, int *out)
{
    const char *text = getenv(name);
    int n = 0;
    for (const char *p = text ? text : otherwise; *p && n < MAX_DEPTH; p += strcspn(p, ","), p += *p == ',')
        out[n++] = atoi(p);
    return n;
}

static int read_number(const char *name, int otherwise)
{
    const char *text = getenv(name);
    return text ? atoi(text) : otherwise;
}

static void test_automatic_depth_pays(void **state)
{
    (void)state;
    const char *path = getenv("QUERN_MODEL");
    char folder[] = "/tmp/quern-speculation-XXXXXX", line[80];
    struct qn_err e = {0};
    struct lab l = {.is_real = path != NULL,
                    .n_prompt = read_number("QUERN_PROMPT", 48),
                    .n_gen = read_number("QUERN_GEN", path ? 160 : 40),
                    .n_run = QN_CLAMP(read_number("QUERN_RUNS", path ? 3 : 1), 1, MAX_RUNS),
                    .n_warm = read_number("QUERN_WARM", path ? 2 : 1),
                    .temperature = read_number("QUERN_TEMPERATURE", 1)};
    l.n_depth = read_list("QUERN_DEPTHS", "1,2,3,5,8", l.depth);
    if (!qn_backend_get("cpu")) {
        print_message("skipped: no back end cpu in this build\n");
        skip();
    }
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
    int32_t *tok = xcalloc((size_t)(l.n_prompt + l.n_gen), sizeof *tok),
            *prompt = ask_prompt(3, l.n_prompt, vocab - 100);
    memcpy(tok, prompt, (size_t)l.n_prompt * sizeof *tok);
    free(prompt);
    struct qn_engine *g = open_engine(&l, 1, 0);
    struct qn_request_params p = params(&l, tok, -1);
    struct ask_answer a;
    ask(g, &p, &a);
    assert_int_equal(a.n, l.n_gen);
    memcpy(tok + l.n_prompt, a.tok, (size_t)a.n * sizeof *tok);
    ask_free(&a);
    qn_engine_close(g);
    l.drafter.tok = tok;
    l.drafter.n_tok = l.n_prompt + l.n_gen;
    int batch[MAX_DEPTH], percent[MAX_DEPTH], n_short = 0;
    int n_batch = read_list("QUERN_BATCH", l.is_real ? "1,4,16" : "1,4", batch),
        n_percent = read_list("QUERN_ACCEPT", "85,20", percent);
    print_message("%s, prompts of %d tokens, %d tokens a stream\n%5s  %9s  %8s", qn_model_name(l.model),
                  l.n_prompt, l.n_gen, "batch", "accepted", "off");
    for (int d = 0; d < l.n_depth; d++) print_message("  %8d", l.depth[d]);
    print_message("  %8s\n", "auto");
    for (int i = 0; i < n_batch; i++)
        for (int k = 0; k < n_percent; k++)
            n_short += !compare(&l, QN_CLAMP(batch[i], 1, MAX_SEQS), percent[k]);
    if (l.is_real) assert_int_equal(n_short, 0);
    free(tok);
    free(l.drafter.step);
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
