/* Tiers: prefixes come back from RAM and from files, after a restart and after a kill; what is damaged is not
 * used. SPDX-License-Identifier: Apache-2.0 */
#include "support/test.h"

#include <dirent.h>
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/rng.h"
#include "engine/tier.h"
#include "support/ask.h"
#include "support/backend_fake.h"

#define N_PROMPT 300

static struct qn_fake fake;
static char folder[64];

static int64_t write_bytes; /* a day; 0: default */
static int64_t disk_bytes;  /* 0: default */
static struct qn_fake_options fake_options;

static struct qn_engine *open_engine(const char *disk, int64_t ram, int n_slot, bool other_layout)
{
    struct qn_engine_options o;
    struct qn_engine *g;
    struct qn_err e = {0};
    qn_fake_init(&fake, &fake_options);
    qn_fake_engine_options(&fake, &o);
    o.mtp = 2;
    o.step_tokens = 64;
    o.max_seqs = 2;
    o.n_slot = n_slot;
    o.disk_tier = disk;
    o.ram_tier_bytes = ram;
    o.disk_write_bytes = write_bytes;
    o.disk_tier_bytes = disk_bytes;
    o.snapshot_gap = 16;
    o.act = other_layout ? QN_ACT_F32 : QN_ACT_BF16;
    if (qn_engine_open(&g, &o, &e)) fail_msg("open: %s", e.text);
    return g;
}

static int ask_one(struct qn_engine *g, uint64_t seed, struct ask_answer *out)
{
    int32_t *prompt = ask_prompt(seed, N_PROMPT, 200);
    struct qn_request_params p = ask_params(prompt, N_PROMPT);
    const float never = -1e6f;
    const int32_t bad_tok = fake_options.bad_tok;
    if (bad_tok) {
        p.bias_tok = &bad_tok;
        p.bias = &never;
        p.n_bias = 1;
    }
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

/* One that runs until it is cancelled, so that the engine has no time to save. */
static struct qn_request *begin_stream(struct qn_engine *g)
{
    int32_t *prompt = ask_prompt(77, 20, 200);
    struct qn_request_params p = ask_params(prompt, 20);
    struct qn_request *r;
    struct qn_err e = {0};
    p.max_new = 4000;
    p.ignore_eos = true;
    if (qn_engine_submit(g, &p, &r, &e)) fail_msg("submit: %s", e.text);
    free(prompt);
    return r;
}

static void end_stream(struct qn_request *r)
{
    struct ask_answer a;
    qn_request_cancel(r);
    ask_read(r, &a);
    assert_int_equal(a.finish, QN_FINISH_CANCEL); /* it ran all the time */
    ask_free(&a);
}

/* What is pushed out beside a running stream, before its turn to be saved has come, comes back as well. */
static void test_pushed_out_beside_a_stream(void **state)
{
    (void)state;
    fake_options = (struct qn_fake_options){.step_us = 200};
    struct qn_engine *g = open_engine(NULL, (int64_t)16 << 20, 3, false);
    struct ask_answer a;
    struct qn_request *stream = begin_stream(g);
    for (int round = 0; round < 2; round++)
        for (uint64_t i = 0; i < 6; i++) {
            int n_cached = ask_one(g, i, &a);
            ask_free(&a);
            if (round) assert_true(n_cached > N_PROMPT - 20);
        }
    end_stream(stream);
    close_engine(g);
    fake_options = (struct qn_fake_options){0};
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

static char snapshot_path[400];

static void note_snapshot(const char *path)
{
    if (strstr(path, "-s")) snprintf(snapshot_path, sizeof snapshot_path, "%s", path);
}

/* A prefix is read from a disk that does not answer: its request waits, others run; it can be cancelled, and
 * gets its prefix when the disk comes back. */
static void test_slow_disk(void **state)
{
    (void)state;
    struct ask_answer first, again, other;
    struct qn_engine_stats s;
    struct qn_request *r[2];
    struct qn_err e = {0};
    static char bytes[1 << 20];
    struct qn_engine *g = open_engine(folder, -1, 12, false);
    ask_one(g, 1, &first);
    close_engine(g);
    g = open_engine(folder, -1, 12, false);
    each_file(note_snapshot);
    int fd = open(snapshot_path, O_RDONLY);
    ssize_t n = read(fd, bytes, sizeof bytes);
    close(fd);
    assert_true(n > 0 && n < (ssize_t)sizeof bytes);
    unlink(snapshot_path);
    assert_int_equal(mkfifo(snapshot_path, 0600), 0); /* whoever reads it waits */
    int32_t *prompt = ask_prompt(1, N_PROMPT, 200);
    struct qn_request_params p = ask_params(prompt, N_PROMPT);
    for (int i = 0; i < 2; i++) assert_int_equal(qn_engine_submit(g, &p, &r[i], &e), QN_OK);
    for (uint64_t i = 10; i < 14; i++) {
        ask_one(g, i, &other);
        assert_true(other.n > 0);
        ask_free(&other);
    }
    qn_engine_stats(g, &s);
    assert_int_equal(s.n_waiting, 2);
    assert_int_equal(s.n_fetching, 2);
    assert_true(qn_engine_is_alive(g));
    qn_request_cancel(r[0]);
    ask_read(r[0], &again);
    assert_int_equal(again.finish, QN_FINISH_CANCEL);
    ask_free(&again);
    fd = open(snapshot_path, O_WRONLY);
    assert_int_equal(write(fd, bytes, (size_t)n), n);
    close(fd);
    ask_read(r[1], &again);
    assert_true(again.stats.n_cached > N_PROMPT - 20);
    assert_int_equal(again.n, first.n);
    assert_memory_equal(again.tok, first.tok, (size_t)again.n * sizeof *again.tok);
    struct qn_admission a[QN_N_ADMISSION];
    int n_admission = qn_engine_admissions(g, a);
    assert_int_equal(n_admission, 5);
    assert_int_equal(a[0].n_cached, again.stats.n_cached);
    assert_int_equal(a[0].n_tier_tok, again.stats.n_cached);
    qn_engine_stats(g, &s);
    assert_int_equal(s.tier.n_hit, 1);
    assert_true(s.tier.n_read >= 5 && s.tier.read_bytes > 0);
    ask_free(&again);
    ask_free(&first);
    free(prompt);
    close_engine(g);
}

/* A prefix that does not fit into the RAM tier comes back piece by piece. */
static void test_small_ram(void **state)
{
    (void)state;
    struct ask_answer first, again;
    struct qn_engine_stats s;
    struct qn_engine *g = open_engine(folder, (int64_t)1 << 20, 12, false);
    ask_one(g, 1, &first);
    close_engine(g);
    g = open_engine(folder, 14000, 12, false); /* seven pages; half of it is read at a time */
    assert_true(ask_one(g, 1, &again) > N_PROMPT - 20);
    assert_memory_equal(again.tok, first.tok, (size_t)again.n * sizeof *again.tok);
    qn_engine_stats(g, &s);
    assert_true(s.tier.ram_bytes <= 14000);
    ask_free(&again);
    ask_free(&first);
    close_engine(g);
}

static int64_t n_file_byte;
static void add_size(const char *path)
{
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    n_file_byte += st.st_size;
}

static void test_budgets(void **state)
{
    (void)state;
    struct ask_answer a;
    struct qn_engine_stats s;
    write_bytes = 50000;
    struct qn_engine *g = open_engine(folder, (int64_t)16 << 20, 12, false);
    for (uint64_t i = 0; i < 6; i++) {
        ask_one(g, i, &a);
        ask_free(&a);
    }
    for (int i = 0; i < 500; i++) { /* saved when nothing else is to do */
        usleep(2000);
        qn_engine_stats(g, &s);
        if (s.tier.n_over_budget && s.tier.ram_bytes > write_bytes) break;
    }
    close_engine(g);
    write_bytes = 0;
    n_file_byte = 0;
    each_file(add_size);
    print_message("%lld bytes written of a budget of 50000\n", (long long)n_file_byte);
    assert_true(s.tier.n_over_budget > 0);
    assert_true(n_file_byte > 0 && n_file_byte <= 50000);
    assert_int_equal(s.tier.disk_budget, (int64_t)8 << 30);
    assert_true(s.tier.ram_bytes > n_file_byte); /* the rest is in RAM */
}

/* The folder stays within its size: the files unused for longest go, also when all are saved at once. */
static void test_size_of_folder(void **state)
{
    (void)state;
    enum { MOST = 60000 };
    struct ask_answer a;
    struct qn_engine_stats s;
    disk_bytes = MOST;
    fake_options = (struct qn_fake_options){.step_us = 500};
    struct qn_engine *g = open_engine(folder, (int64_t)16 << 20, 40, false);
    struct qn_request *stream = begin_stream(g);
    for (uint64_t i = 0; i < 12; i++) {
        ask_one(g, i, &a);
        ask_free(&a);
    }
    end_stream(stream);
    for (int i = 0; i < 1000; i++) { /* saved when nothing else is to do */
        usleep(2000);
        qn_engine_stats(g, &s);
        if (s.tier.n_file_drop && s.tier.n_saved >= 12) break;
    }
    close_engine(g);
    n_file_byte = 0;
    each_file(add_size);
    print_message("%lld bytes in files of %d, %llu files were dropped\n", (long long)n_file_byte, MOST,
                  (unsigned long long)s.tier.n_file_drop);
    assert_true(s.tier.n_file_drop > 0);
    assert_true(n_file_byte > MOST / 2 && n_file_byte <= MOST);
    g = open_engine(folder, -1, 12, false);
    assert_true(ask_one(g, 11, &a) > N_PROMPT - 20); /* the newest is there */
    ask_free(&a);
    close_engine(g);
    disk_bytes = 0;
    fake_options = (struct qn_fake_options){0};
}

static struct qn_tier_stats tier_stats(struct qn_engine *g)
{
    struct qn_engine_stats s;
    qn_engine_stats(g, &s);
    return s.tier;
}

/* A prompt that ends in no finite logits, long after its first pages and a snapshot were copied: none of it
 * stays in RAM or in files; what was there before does. */
static void bad_prompt(const char *disk)
{
    const int n_tok = 1500, bad_tok = 240, end_of_turn = 255;
    struct ask_answer good, bad, again;
    struct qn_tier_stats before, after;
    fake_options = (struct qn_fake_options){.bad_tok = bad_tok, .bad_logit = NAN};
    struct qn_engine *g = open_engine(disk, (int64_t)16 << 20, 12, false);
    ask_one(g, 1, &good);
    assert_int_equal(good.finish, QN_FINISH_LENGTH);
    if (disk) { /* all of it in files */
        close_engine(g);
        g = open_engine(disk, (int64_t)16 << 20, 12, false);
    } else {
        usleep(1100000); /* until another is saved beside a running one */
    }
    before = tier_stats(g);
    assert_true(before.n_ram + before.n_file > 4);
    int32_t *prompt = ask_prompt(1, n_tok, 200), *head = ask_prompt(1, N_PROMPT, 200);
    memcpy(prompt, head, N_PROMPT * sizeof *prompt);
    prompt[600] = end_of_turn;
    prompt[n_tok - 1] = bad_tok;
    struct qn_request_params p = ask_params(prompt, n_tok);
    ask(g, &p, &bad);
    assert_int_equal(bad.finish, QN_FINISH_ERROR);
    assert_true(bad.stats.n_cached > 200);
    for (int i = 0; i < 1000; i++) { /* what is being copied goes when that is over */
        after = tier_stats(g);
        if (after.n_file == before.n_file && (disk || after.n_ram == before.n_ram)) break;
        usleep(2000);
    }
    assert_true(after.n_saved > before.n_saved); /* else it proves nothing */
    assert_int_equal(after.n_file, before.n_file);
    if (!disk) assert_int_equal(after.n_ram, before.n_ram);
    if (disk) {
        close_engine(g);
        g = open_engine(disk, (int64_t)16 << 20, 12, false);
        assert_int_equal(tier_stats(g).n_file, before.n_file);
    }
    assert_true(ask_one(g, 1, &again) > N_PROMPT - 20);
    assert_memory_equal(again.tok, good.tok, (size_t)good.n * sizeof *good.tok);
    close_engine(g);
    fake_options = (struct qn_fake_options){0};
    ask_free(&good);
    ask_free(&bad);
    ask_free(&again);
    free(prompt);
    free(head);
}

static void test_bad_prompt(void **state)
{
    (void)state;
    bad_prompt(NULL);
    bad_prompt(folder);
}

static void save_evicted(void *user, int slot)
{
    qn_tier_save(user, slot, INT64_MAX);
}

static void run_work(struct qn_tier *t, struct qn_chores *chores)
{
    chores->n = 0;
    qn_tier_published(t);
    qn_tier_returned(t);
}

/* Page and state of a prefix of a full page and n_tail tokens, as a sequence leaves them. */
static int leave_prefix(struct qn_cache *c, const struct qn_prefix *p, int n_tail)
{
    int page = qn_cache_take_page(c), slot;
    struct qn_spot at = {
        .of = p, .n_tok = QN_PAGE + n_tail, .parent = page, .tail_page = n_tail ? qn_cache_take_page(c) : -1};
    slot = qn_cache_take_slot(c);
    assert_true(page >= 0 && slot >= 0);
    assert_int_equal(qn_cache_insert(c, p, -1, page, 0), page);
    qn_cache_give_snap(c, &at, slot);
    if (n_tail) qn_cache_drop_page(c, at.tail_page);
    qn_cache_drop_page(c, page);
    return slot;
}

/* The page that a prefix comes back to pushes out another, which is saved, and RAM has no room for both. */
static void test_pushed_out_by_promotion(void **state)
{
    (void)state;
    enum { PAGE = 1000, SLOT = 3000 };
    struct qn_chores chores = {0};
    struct qn_cache_options pools = {.n_page = 2, .n_slot = 2, .n_lane = 1, .chores = &chores};
    struct qn_cache *c = qn_cache_create(&pools);
    struct qn_cache_stats stats;
    struct qn_tier *t;
    struct qn_tier_options o = {
        .page_bytes = PAGE, .slot_bytes = SLOT, .ram_bytes = 3 * PAGE + 2 * SLOT - 1, .fingerprint = 1};
    struct qn_tier_wait wait;
    struct qn_err e = {0};
    struct qn_prefix first = {.tok = ask_prompt(1, QN_PAGE + 1, 200), .n = QN_PAGE + 1},
                     second = {.tok = ask_prompt(2, QN_PAGE + 11, 200), .n = QN_PAGE + 11};
    int n_tok = 0;
    if (qn_tier_open(&t, c, &o, &e)) fail_msg("tier: %s", e.text);
    first.root = second.root = qn_cache_root(c, 0);
    assert_int_equal(qn_tier_save(t, leave_prefix(c, &first, 0), INT64_MAX), QN_TIER_SAVED);
    run_work(t, &chores);
    qn_cache_clear(c);
    qn_cache_on_evict(c, save_evicted, t);
    leave_prefix(c, &second, 10);
    qn_cache_stats(c, &stats);
    assert_int_equal(stats.n_page_free, 0);
    assert_int_equal(qn_tier_promote(t, &first, 0, INT64_MAX, &wait, &n_tok), QN_TIER_TRIED);
    assert_int_equal(n_tok, QN_PAGE);
    qn_cache_stats(c, &stats);
    assert_int_equal(stats.n_snap_evicted, 2);
    struct qn_match m;
    qn_cache_match(c, &first, &m);
    assert_int_equal(m.n_tok, QN_PAGE);
    qn_cache_check(c, NULL);
    run_work(t, &chores);
    qn_tier_close(t);
    qn_cache_free(c);
    qn_chores_fini(&chores);
    free((void *)(uintptr_t)first.tok);
    free((void *)(uintptr_t)second.tok);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pushed_out_by_promotion),
        cmocka_unit_test(test_ram),
        cmocka_unit_test(test_pushed_out_beside_a_stream),
        cmocka_unit_test_setup_teardown(test_restart, make_folder, drop_folder),
        cmocka_unit_test_setup_teardown(test_damaged_files, make_folder, drop_folder),
        cmocka_unit_test_setup_teardown(test_short_files, make_folder, drop_folder),
        cmocka_unit_test_setup_teardown(test_slow_disk, make_folder, drop_folder),
        cmocka_unit_test_setup_teardown(test_small_ram, make_folder, drop_folder),
        cmocka_unit_test_setup_teardown(test_budgets, make_folder, drop_folder),
        cmocka_unit_test_setup_teardown(test_size_of_folder, make_folder, drop_folder),
        cmocka_unit_test_setup_teardown(test_bad_prompt, make_folder, drop_folder),
        cmocka_unit_test_setup_teardown(test_kill, make_folder, drop_folder),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
