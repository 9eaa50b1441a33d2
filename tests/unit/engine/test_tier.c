/* Tiers: prefixes come back from RAM and from files, after a restart and after a kill; what is damaged is not
 * used. SPDX-License-Identifier: Apache-2.0 */
#include "support/test.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/rng.h"
#include "support/ask.h"
#include "support/backend_fake.h"

#define N_PROMPT 300

static struct qn_fake fake;
static char folder[64];

static struct qn_engine *open_engine(const char *disk, int64_t ram, int n_slot, bool other_layout)
{
    struct qn_engine_options o;
    struct qn_engine *g;
    struct qn_err e = {0};
    qn_fake_init(&fake, NULL);
    qn_fake_engine_options(&fake, &o);
    o.mtp = 2;
    o.max_seqs = 2;
    o.n_slot = n_slot;
    o.disk_tier = disk;
    o.ram_tier_bytes = ram;
    o.snapshot_gap = 16;
    o.f32_activations = other_layout;
    if (qn_engine_open(&g, &o, &e)) fail_msg("open: %s", e.text);
    return g;
}

static int ask_one(struct qn_engine *g, uint64_t seed, struct ask_answer *out)
{
    int32_t *prompt = ask_prompt(seed, N_PROMPT, 200);
    struct qn_request_params p = ask_params(prompt, N_PROMPT);
    ask(g, &p, out);
    free(prompt);
    return out->stats.n_cached;
}

static void close_engine(struct qn_engine *g)
{
    qn_engine_close(g);
    assert_int_equal(atomic_load(&fake.n_violation), 0);
}

static void each_file(void (*f)(const char *path))
{
    char path[400];
    DIR *d = opendir(folder);
    assert_non_null(d);
    for (struct dirent *e; (e = readdir(d));) {
        if (e->d_name[0] == '.') continue;
        snprintf(path, sizeof path, "%s/%s", folder, e->d_name);
        f(path);
    }
    closedir(d);
}

static void remove_file(const char *path)
{
    unlink(path);
}

static void damage(const char *path)
{
    int fd = open(path, O_RDWR);
    char c;
    assert_int_equal(pread(fd, &c, 1, 600), 1);
    c ^= 1;
    assert_int_equal(pwrite(fd, &c, 1, 600), 1);
    close(fd);
}

static void cut_short(const char *path)
{
    assert_int_equal(truncate(path, 500), 0);
}

static int make_folder(void **state)
{
    (void)state;
    snprintf(folder, sizeof folder, "/tmp/quern-tier-XXXXXX");
    return mkdtemp(folder) ? 0 : -1;
}

static int drop_folder(void **state)
{
    (void)state;
    each_file(remove_file);
    return rmdir(folder);
}

static void test_ram(void **state)
{
    (void)state;
    struct qn_engine *g = open_engine(NULL, (int64_t)16 << 20, 3, false);
    struct ask_answer first[6], again;
    for (uint64_t i = 0; i < 6; i++)
        ask_one(g, i, &first[i]); /* one slot for snapshots: the others are pushed out */
    for (uint64_t i = 0; i < 6; i++) {
        assert_true(ask_one(g, i, &again) > N_PROMPT - 20);
        assert_int_equal(again.n, first[i].n);
        assert_memory_equal(again.tok, first[i].tok, (size_t)again.n * sizeof *again.tok);
        ask_free(&again);
        ask_free(&first[i]);
    }
    close_engine(g);
}

static void test_restart(void **state)
{
    (void)state;
    struct ask_answer first, again;
    struct qn_engine *g = open_engine(folder, -1, 12, false);
    assert_int_equal(ask_one(g, 1, &first), 0);
    close_engine(g);
    g = open_engine(folder, -1, 12, false);
    assert_true(ask_one(g, 1, &again) > N_PROMPT - 20);
    assert_memory_equal(again.tok, first.tok, (size_t)again.n * sizeof *again.tok);
    ask_free(&again);
    close_engine(g);
    g = open_engine(folder, -1, 12, true); /* another layout: its files are foreign */
    assert_int_equal(ask_one(g, 1, &again), 0);
    ask_free(&again);
    close_engine(g);
    ask_free(&first);
}

static void check_damaged(void (*how)(const char *path))
{
    struct ask_answer first, again;
    struct qn_engine *g = open_engine(folder, -1, 12, false);
    ask_one(g, 1, &first);
    close_engine(g);
    each_file(how);
    g = open_engine(folder, -1, 12, false);
    assert_int_equal(ask_one(g, 1, &again), 0);
    assert_memory_equal(again.tok, first.tok, (size_t)again.n * sizeof *again.tok);
    ask_free(&again);
    close_engine(g);
    /* a damaged file is found when it is wanted, and written anew: after a few restarts all are */
    int n_cached = 0;
    for (int i = 0; i < 8 && n_cached <= N_PROMPT - 20; i++) {
        g = open_engine(folder, -1, 12, false);
        n_cached = ask_one(g, 1, &again);
        assert_memory_equal(again.tok, first.tok, (size_t)again.n * sizeof *again.tok);
        ask_free(&again);
        close_engine(g);
    }
    assert_true(n_cached > N_PROMPT - 20);
    ask_free(&first);
}

static void test_damaged_files(void **state)
{
    (void)state;
    check_damaged(damage);
}

static void test_short_files(void **state)
{
    (void)state;
    check_damaged(cut_short);
}

/* Killed again and again in the middle of writing; what is there afterwards is right. */
static void test_kill(void **state)
{
    (void)state;
    struct ask_answer want[4], got;
    struct qn_engine *g = open_engine(NULL, -1, 12, false);
    for (uint64_t i = 0; i < 4; i++) ask_one(g, i, &want[i]);
    close_engine(g);
    int n_hit = 0;
    for (int round = 0; round < 25; round++) {
        pid_t child = fork();
        if (child == 0) {
            g = open_engine(folder, -1, 4, false);
            for (uint64_t i = 0;; i++) {
                ask_one(g, i % 4 + (i / 4) * 100, &got);
                ask_free(&got);
            }
        }
        usleep((unsigned)(2000 + qn_rng64(3, (uint64_t)round, 0) % 20000));
        kill(child, SIGKILL);
        waitpid(child, NULL, 0);
        g = open_engine(folder, -1, 12, false);
        for (uint64_t i = 0; i < 4; i++) {
            n_hit += ask_one(g, i, &got) > 0;
            assert_int_equal(got.n, want[i].n);
            assert_memory_equal(got.tok, want[i].tok, (size_t)got.n * sizeof *got.tok);
            ask_free(&got);
        }
        close_engine(g);
    }
    for (uint64_t i = 0; i < 4; i++) ask_free(&want[i]);
    print_message("%d of 100 prefixes were there after a kill\n", n_hit);
    assert_true(n_hit > 50);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ram),
        cmocka_unit_test_setup_teardown(test_restart, make_folder, drop_folder),
        cmocka_unit_test_setup_teardown(test_damaged_files, make_folder, drop_folder),
        cmocka_unit_test_setup_teardown(test_short_files, make_folder, drop_folder),
        cmocka_unit_test_setup_teardown(test_kill, make_folder, drop_folder),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
