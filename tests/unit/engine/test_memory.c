/* Memory: what is planned is what is taken, for every type of the KV cache, and a start that asks for too
 * much says what fits, which then does. Each in a process of its own, the second under a limit on its address
 * space. SPDX-License-Identifier: Apache-2.0 */
#include "support/test.h"

#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/log.h"
#include "base/mem.h"
#include "model/checkpoint.h"
#include "model/synth.h"
#include "backend/backend.h"
#include "support/ask.h"
#include "support/backend_fake.h"

#define MIB ((size_t)1 << 20)

static char folder[] = "/tmp/quern-memory-XXXXXX", path[64];

static int make_model(void **state)
{
    (void)state;
    struct qn_shape shape;
    struct qn_err e = {0};
    if (!mkdtemp(folder)) return -1;
    snprintf(path, sizeof path, "%s/m", folder);
    if (qn_shape_find(&shape, "tiny:layers=8,context=65536,mtp=1", &e)) return -1;
    struct qn_synth synth = {
        .shape = &shape, .store = qn_store_find("bf16"), .seed = 5, .n_thread = 1, .is_quiet = true};
    return qn_synth_write(&synth, path, &e);
}

static int drop_model(void **state)
{
    (void)state;
    char line[96];
    snprintf(line, sizeof line, "rm -rf %s", folder);
    return system(line);
}

static size_t address_space(void)
{
    size_t pages = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    if (!f || fscanf(f, "%zu", &pages) != 1) pages = 0;
    if (f) fclose(f);
    return pages * (size_t)sysconf(_SC_PAGESIZE);
}

/* Runs in a child; returns its exit code. */
static int in_child(int (*run)(int arg), int arg)
{
    int status;
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        int code = run(arg);
        fflush(NULL);
        _exit(code);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

/* Opened with what was planned: the address space grows by the sum. */
static int grow(int kv)
{
    struct qn_model *m;
    struct qn_engine *g;
    struct qn_engine_info plan;
    struct qn_err e = {0};
    if (qn_model_open(&m, path, &e)) return 2;
    struct qn_engine_options o = {.model = m,
                                  .backend = qn_backend_get("cpu"),
                                  .kv = kv,
                                  .n_thread = 1,
                                  .max_context = 8192,
                                  .max_seqs = 12,
                                  .memory_bytes = (int64_t)(900 * MIB),
                                  .mtp = -1,
                                  .ram_tier_bytes = -1};
    if (qn_engine_plan(&plan, &o, &e)) return 3;
    xmalloc(1); /* the heap is there */
    size_t before = address_space();
    if (qn_engine_open(&g, &o, &e)) return 4;
    size_t grown = address_space() - before;
    const struct qn_engine_info *i = qn_engine_info(g);
    size_t sum = i->weight_bytes + plan.kv_bytes + plan.state_bytes + plan.workspace_bytes;
    bool is_same = i->kv_bytes == plan.kv_bytes && i->state_bytes == plan.state_bytes &&
                   i->workspace_bytes == plan.workspace_bytes && i->n_page == plan.n_page &&
                   i->n_slot == plan.n_slot && i->max_context == plan.max_context &&
                   i->max_seqs == plan.max_seqs;
    printf("%-6s planned %.1f MiB (KV %.1f, state %.1f, scratch %.1f), grown by %.1f MiB\n", i->kv,
           (double)sum / (double)MIB, (double)plan.kv_bytes / (double)MIB,
           (double)plan.state_bytes / (double)MIB, (double)plan.workspace_bytes / (double)MIB,
           (double)grown / (double)MIB);
    /* two threads' stacks and heaps, books of pages and batches: about the same for every type */
    bool is_near = grown + 16 * MIB > sum && grown < sum + 200 * MIB;
    qn_engine_close(g);
    qn_model_close(m);
    return is_same && is_near ? 0 : 5;
}

static void test_plan_is_what_is_taken(void **state)
{
    (void)state;
    for (int kv = 0; kv < QN_N_KV; kv++) assert_int_equal(in_child(grow, kv), 0);
}

/* The model, then so much address space for all that follows. */
static int open_under(struct qn_model **m, int limit_mib, struct qn_err *e)
{
    if (qn_model_open(m, path, e)) return 2;
    struct rlimit limit = {address_space() + (size_t)limit_mib * MIB, RLIM_INFINITY};
    return setrlimit(RLIMIT_AS, &limit) ? 3 : 0;
}

static int shrink(int limit_mib)
{
    struct qn_model *m;
    struct qn_engine *g;
    struct qn_err e = {0};
    int rc = open_under(&m, limit_mib, &e);
    if (rc) return rc;
    struct qn_engine_options o = {.model = m,
                                  .backend = qn_backend_get("cpu"),
                                  .kv = -1,
                                  .n_thread = 1,
                                  .max_context = 32768,
                                  .max_seqs = 200,
                                  .memory_bytes = (int64_t)(64000 * MIB),
                                  .mtp = 1,
                                  .ram_tier_bytes = -1};
    if (qn_engine_open(&g, &o, &e) != QN_NOMEM) return 4;
    printf("%d MiB: %s\n", limit_mib, e.text);
    int seqs, context, memory;
    const char *flags = strstr(e.text, "--max-seqs");
    if (!flags || sscanf(flags, "--max-seqs %d --context %d --memory %dM", &seqs, &context, &memory) != 3)
        return 5;
    if (seqs < 1 || seqs > 200 || context < 2 || context > 32768 || memory < limit_mib / 4) return 6;
    o.max_seqs = seqs;
    o.max_context = context;
    o.memory_bytes = (int64_t)memory << 20;
    if (qn_engine_open(&g, &o, &e)) {
        printf("what was named does not fit: %s\n", e.text);
        return 7;
    }
    int32_t *prompt = ask_prompt(1, 100, 200);
    struct qn_request_params p = ask_params(prompt, 100);
    struct ask_answer a;
    ask(g, &p, &a);
    int n = a.n;
    ask_free(&a);
    free(prompt);
    qn_engine_close(g);
    qn_model_close(m);
    return n == 16 ? 0 : 8;
}

static void test_nearest_fits(void **state)
{
    (void)state;
    assert_int_equal(in_child(shrink, 1000), 0);
    assert_int_equal(in_child(shrink, 300), 0);
}

static int n_sizes;

static void large_sizes(void *user, const struct qn_forward_options *o, struct qn_device_sizes *out)
{
    (void)user;
    n_sizes++;
    *out = (struct qn_device_sizes){16 * MIB, 16 * MIB, 64, 4096 * (size_t)o->device.max_rows};
}

static int refuse_open(void *user, void **out, const struct qn_model *model,
                       const struct qn_forward_options *o, struct qn_err *e)
{
    (void)user, (void)out, (void)model, (void)o;
    return qn_err_set(e, QN_NOMEM, __FILE__, __LINE__, "no room");
}

/* Of a thousand sequences, the most that fit, without trying every number. */
static int search(int limit_mib)
{
    struct qn_fake fake;
    struct qn_runner large = qn_runner_fake;
    struct qn_engine_options o;
    struct qn_engine *g;
    struct qn_engine_info info;
    struct qn_err e = {0};
    struct rlimit limit = {address_space() + (size_t)limit_mib * MIB, RLIM_INFINITY};
    if (setrlimit(RLIMIT_AS, &limit)) return 3;
    qn_fake_init(&fake, &(struct qn_fake_options){.max_context = 128});
    qn_fake_engine_options(&fake, &o);
    large.sizes = large_sizes;
    large.open = refuse_open;
    o.runner = &large;
    o.max_seqs = 1000;
    o.n_page = o.n_slot = 0;
    o.memory_bytes = (int64_t)1 << 40;
    if (qn_engine_open(&g, &o, &e) != QN_NOMEM) return 4;
    printf("%s (asked for sizes %d times)\n", e.text, n_sizes);
    if (n_sizes > 40) return 5;
    int context, memory;
    const char *flags = strstr(e.text, "--max-seqs");
    if (!flags ||
        sscanf(flags, "--max-seqs %d --context %d --memory %dM", &o.max_seqs, &context, &memory) != 3)
        return 6;
    o.memory_bytes = (int64_t)memory << 20;
    if (context != 128 || o.max_seqs < 2 || qn_engine_plan(&info, &o, &e)) return 7;
    o.max_seqs++; /* and not one more */
    return qn_engine_plan(&info, &o, &e) ? 0 : 8;
}

static void test_nearest_is_searched(void **state)
{
    (void)state;
    assert_int_equal(in_child(search, 2000), 0);
}

/* Without being told, what the limit leaves is what is planned with. */
static int fit(int limit_mib)
{
    struct qn_model *m;
    struct qn_engine *g;
    struct qn_err e = {0};
    int rc = open_under(&m, limit_mib, &e);
    if (rc) return rc;
    struct qn_engine_options o = {.model = m,
                                  .backend = qn_backend_get("cpu"),
                                  .kv = -1,
                                  .n_thread = 1,
                                  .mtp = -1,
                                  .ram_tier_bytes = -1};
    if (qn_engine_open(&g, &o, &e)) {
        printf("%s\n", e.text);
        return 4;
    }
    const struct qn_engine_info *i = qn_engine_info(g);
    size_t sum = i->weight_bytes + i->kv_bytes + i->state_bytes + i->workspace_bytes;
    printf("in %d MiB: %d sequences of %d tokens, %zu MiB\n", limit_mib, i->max_seqs, i->max_context,
           sum / MIB);
    qn_engine_close(g);
    qn_model_close(m);
    return sum <= (size_t)limit_mib * MIB ? 0 : 5;
}

static void test_limit_is_seen(void **state)
{
    (void)state;
    assert_int_equal(in_child(fit, 400), 0);
}

int main(void)
{
    qn_log_set_level(QN_LOG_ERROR);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plan_is_what_is_taken), cmocka_unit_test(test_nearest_fits),
        cmocka_unit_test(test_nearest_is_searched), cmocka_unit_test(test_limit_is_seen)};
    return cmocka_run_group_tests(tests, make_model, drop_model);
}
