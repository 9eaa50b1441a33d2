/* Random operations on pages, slots, the prefix tree and the tiers behind it: nothing leaks, nothing is lost,
 * and what a match promises is there, to the byte. The device is one of hashes: an entry of a page is the
 * hash of all tokens up to its own, a state the hash of those folded in.
 *
 * QUERN_OPERATIONS: how many (default 1,000,000; with files a fortieth).
 * QUERN_SEED: where the random numbers start.
 * SPDX-License-Identifier: Apache-2.0 */
#include "support/test.h"

#include <dirent.h>
#include <fcntl.h>
#include <unistd.h>

#include "base/log.h"
#include "base/mem.h"
#include "base/rng.h"
#include "engine/sched.h"
#include "engine/tier.h"

#define N_PAGE  96
#define N_SLOT  20
#define N_LANE  8
#define MAX_TOK 700
#define N_OLD   16
#define N_MEDIA 4 /* in a prompt */

#define SLOT_BYTES 2048 /* more than are looked at: a state is larger than a page */

static uint64_t draw, seed;

static int roll(int sides)
{
    return (int)(qn_rng64(seed, draw++, 3) % (uint64_t)sides);
}

/* What a sequence begins with. */
struct text {
    int32_t tok[MAX_TOK];
    int n;
    struct qn_media_span span[N_MEDIA];
    int n_span;
};

struct live {
    struct qn_seq *seq;
    struct qn_request_params params;
    struct text text;
    bool keeps_mtp;             /* the draft layer's KV, in this admission */
    bool has_carry;             /* the hidden row before the next one, which its first entry needs */
    uint64_t hash[MAX_TOK + 1]; /* of the first i tokens */
    int n_hash;
};

struct bench {
    struct qn_cache *cache;
    struct qn_chores chores, flying; /* for the next work, of that in flight */
    struct qn_tier *tier;            /* or NULL */
    struct qn_mail *home;
    int save_every; /* operations */
    struct live live[N_LANE];
    struct text old[N_OLD]; /* sequences that were there before */
    bool is_in_flight;
    /* the device's bytes */
    struct page {
        uint64_t kv[QN_PAGE], mtp[QN_PAGE]; /* of the layers, of the draft layer */
    } page[N_PAGE];
    uint64_t state[N_SLOT], pending[N_LANE][QN_MAX_DRAFT + 2];
    long n_suspended, n_promoted, n_waited, n_damaged;
};

/* What a place of a text shows, by itself; 0: only its token. */
static uint64_t shown_at(const struct text *t, int at)
{
    uint64_t x = 1;
    for (int i = 0; i < t->n_span; i++) {
        const struct qn_media_span *s = &t->span[i];
        if (at < s->first || at >= s->first + s->n_tok) continue;
        for (int k = 0; k < 4; k++) x = qn_mix64(x ^ s->hash[k]);
        return qn_mix64(x ^ (uint64_t)(at - s->first) ^ (uint64_t)s->grid_w << 32);
    }
    return 0;
}

static uint64_t hash_to(struct live *l, int n)
{
    if (!l->n_hash) l->hash[l->n_hash++] = l->seq->root;
    for (; l->n_hash <= n; l->n_hash++) {
        int at = l->n_hash - 1;
        l->hash[l->n_hash] = qn_mix64(l->hash[at] ^ (uint64_t)l->seq->tok[at] ^ shown_at(&l->text, at));
    }
    return l->hash[n];
}

/* --- the device --- */

static void run_chore(struct bench *b, const struct qn_chore *k)
{
    switch (k->kind) {
    case QN_CHORE_KV_COPY:
        memcpy(b->page[k->to].kv, b->page[k->from].kv, (size_t)k->n * sizeof(uint64_t));
        memcpy(b->page[k->to].mtp, b->page[k->from].mtp, (size_t)k->n * sizeof(uint64_t));
        break;
    case QN_CHORE_KV_READ:
        memcpy(k->host, &b->page[k->from], sizeof b->page[0]);
        break;
    case QN_CHORE_KV_WRITE:
        memcpy(&b->page[k->to], k->host, sizeof b->page[0]);
        break;
    case QN_CHORE_STATE_COPY:
        b->state[k->to] = b->state[k->from];
        break;
    case QN_CHORE_STATE_FLUSH:
        b->state[k->to] = b->pending[k->from][k->n];
        break;
    case QN_CHORE_STATE_READ:
        memcpy(k->host, &b->state[k->from], sizeof b->state[0]);
        break;
    case QN_CHORE_STATE_WRITE:
        memcpy(&b->state[k->to], k->host, sizeof b->state[0]);
        break;
    }
}

/* The work in flight comes back. */
static void end_work(struct bench *b)
{
    if (!b->is_in_flight) return;
    b->is_in_flight = false;
    for (int i = 0; i < b->flying.n; i++) /* whoever holds these bytes has kept them until now */
        if (b->flying.list[i].host) (void)*(volatile char *)b->flying.list[i].host;
    if (b->tier) qn_tier_returned(b->tier);
}

/* The next one goes out, with all chores so far. */
static void begin_work(struct bench *b)
{
    end_work(b);
    struct qn_chores spare = b->flying;
    b->flying = b->chores;
    b->chores = spare;
    b->chores.n = 0;
    b->is_in_flight = true;
    if (b->tier) qn_tier_published(b->tier);
    for (int i = 0; i < b->flying.n; i++) run_chore(b, &b->flying.list[i]);
}

static void read_mail(struct bench *b, int64_t timeout_us)
{
    for (struct qn_letter *k = qn_mail_take(b->home, timeout_us), *next; k; k = next) {
        next = k->next;
        qn_tier_letter(b->tier, k);
    }
}

/* What the sequence holds is what its tokens make. */
static void check_bytes(struct bench *b, struct live *l)
{
    struct qn_seq *q = l->seq;
    for (int i = 0; i < q->n_done; i++) {
        const struct page *p = &b->page[q->hold.pages[i / QN_PAGE]];
        assert_int_equal(p->kv[i % QN_PAGE], hash_to(l, i + 1));
        if (i >= q->mtp_from) assert_int_equal(p->mtp[i % QN_PAGE], hash_to(l, i + 1));
    }
    if (qn_seq_n_state(q)) assert_int_equal(b->state[q->hold.slot], hash_to(l, qn_seq_n_state(q)));
}

/* A step with n rows of a sequence, whose state is folded in or stays pending. */
static void run_rows(struct bench *b, struct live *l, int n, bool is_pending)
{
    struct qn_seq *q = l->seq;
    begin_work(b);
    if (q->n_done == q->n_cached || !roll(16)) check_bytes(b, l);
    /* a decode step or two without it leave a hole on purpose: not here */
    bool keeps = l->keeps_mtp || (q->state == QN_SEQ_DECODE && q->mtp_from <= q->n_done);
    int mtp_from = qn_seq_keep_mtp(q, keeps);
    for (int at = q->n_done; at < q->n_done + n; at++) {
        struct page *p = &b->page[q->hold.pages[at / QN_PAGE]];
        p->kv[at % QN_PAGE] = hash_to(l, at + 1);
        bool is_made = keeps && at >= mtp_from && (l->has_carry || at > q->n_done);
        p->mtp[at % QN_PAGE] = is_made ? hash_to(l, at + 1) : 0;
    }
    l->has_carry = keeps;
    b->state[q->hold.slot] = hash_to(l, q->n_done + (is_pending ? 0 : n));
    for (int i = 1; i <= n && is_pending; i++) b->pending[q->hold.lane][i] = hash_to(l, q->n_done + i);
    q->n_done += n;
    q->n_commit = is_pending ? n : 0;
}

/* --- operations --- */

static void check(struct bench *b)
{
    int32_t n_used[N_PAGE] = {0};
    int n_live = 0, n_use = 0;
    for (int i = 0; i < N_LANE; i++) {
        const struct qn_seq *q = b->live[i].seq;
        if (!q) continue;
        n_live += q->hold.slot >= 0;
        n_use += q->hold.n_page;
        qn_seq_check(q);
        for (int k = 0; k < q->hold.n_page; k++) n_used[q->hold.pages[k]]++;
    }
    qn_cache_check_sums(b->cache, n_live, n_use);
    qn_cache_check(b->cache, n_used);
}

/* Pictures of a few kinds at a few places: the placeholders are the same, what they show is not. */
static void add_media(struct text *t)
{
    for (int at = roll(150); t->n_span < N_MEDIA; at += 30 + roll(150)) {
        struct qn_media_span *s = &t->span[t->n_span];
        *s = (struct qn_media_span){.first = at, .grid_h = 1 + roll(3), .grid_w = 1 + roll(40)};
        s->n_tok = s->grid_h * s->grid_w;
        for (int i = 0; i < 4; i++) s->hash[i] = (uint64_t)(roll(2) ? 1 : roll(3));
        if (at + s->n_tok > t->n) return;
        for (int i = 0; i < s->n_tok; i++) t->tok[at + i] = 9;
        at += s->n_tok;
        t->n_span++;
    }
}

/* A handful of trees of prompts, and what was said before, so that prefixes meet, continue and part. */
static void make_prompt(const struct bench *b, struct text *t)
{
    int n = 1 + roll(roll(3) ? 200 : MAX_TOK - 100), family = roll(4), leaves = roll(n + 50);
    for (int i = 0; i < n; i++) t->tok[i] = i < leaves ? family * 7 + i % 11 : roll(3);
    t->n = n;
    t->n_span = 0;
    if (roll(3) == 0) add_media(t);
    int k = roll(N_OLD), n_old = QN_MIN(b->old[k].n, MAX_TOK - 100);
    if (!n_old || roll(2)) return;
    if (roll(3) == 0) n_old = 1 + roll(n_old);
    const struct text *old = &b->old[k];
    memcpy(t->tok, old->tok, (size_t)n_old * sizeof *t->tok);
    t->n = QN_MIN(n_old + roll(40), QN_MAX(n, n_old));
    t->n_span = 0; /* those that are there as a whole; of others only the placeholders */
    while (t->n_span < old->n_span && old->span[t->n_span].first + old->span[t->n_span].n_tok <= n_old) {
        t->span[t->n_span] = old->span[t->n_span];
        t->n_span++;
    }
    if (t->n_span && roll(8) == 0) t->span[roll(t->n_span)].hash[roll(4)] ^= 2;
}

static void drop(struct live *l)
{
    qn_seq_free(l->seq);
    *l = (struct live){0};
}

static void leave(struct bench *b, struct live *l, bool with_state)
{
    struct qn_seq *q = l->seq;
    struct qn_prefix done = qn_seq_prefix(q);
    int n_others = q->n_others;
    struct text *old = &b->old[roll(N_OLD)];
    done.n = q->n_done;
    *old = l->text;
    old->n = q->n_tok;
    memcpy(old->tok, q->tok, (size_t)q->n_tok * sizeof *q->tok);
    if (with_state || roll(2)) {
        qn_seq_suspend(q, b->cache, with_state);
    } else {
        qn_seq_retract(q, b->cache);
        if (b->tier) qn_tier_drop(b->tier, &done, n_others, q->since);
    }
    drop(l);
}

static void promote(struct bench *b, struct qn_seq *q)
{
    struct qn_tier_wait wait;
    enum qn_tier_promoted how = QN_TIER_WAIT;
    int n_tok = 0;
    for (int i = 0; i < 50 && how == QN_TIER_WAIT; i++) {
        int n_have = qn_seq_match(q, b->cache)->n_tok;
        struct qn_prefix p = qn_seq_prefix(q);
        how = qn_tier_promote(b->tier, &p, n_have, roll(3) ? INT64_MAX : 1 + roll(3000), &wait, &n_tok);
        while (how == QN_TIER_WAIT && !qn_tier_is_over(b->tier, &wait)) {
            begin_work(b);
            end_work(b);
            read_mail(b, 1000);
        }
        b->n_waited += how == QN_TIER_WAIT;
    }
    b->n_promoted += n_tok > 0;
}

/* It makes room for others; sometimes between two slices, when its state is neither here nor there. */
static void suspend(struct bench *b, struct live *l)
{
    struct qn_seq *q = l->seq;
    if (q->state == QN_SEQ_PREFILL && q->n_done < q->n_prompt && roll(2)) {
        begin_work(b);
        q->n_slice_row = 1;
        q->slice_part = 1;
        b->state[q->hold.slot] = 1;
    }
    qn_seq_suspend(q, b->cache, true);
    b->n_suspended++;
}

/* false: there is no room. */
static bool admit(struct bench *b, struct live *l)
{
    static const int stops[] = {5};
    struct qn_seq *q = l->seq;
    struct qn_seq_marks marks = {.stop_tok = stops, .n_stop = 1};
    if (b->tier && roll(8)) promote(b, q);
    int n_chore = b->chores.n;
    bool is_cold = roll(20) == 0;
    marks.gap = 1 + roll(64);
    if (!qn_seq_admit(q, b->cache, &marks, is_cold)) {
        if (!b->tier) assert_int_equal(b->chores.n, n_chore);
        return false;
    }
    l->keeps_mtp = roll(2);
    l->has_carry = q->n_done && q->mtp_from <= q->n_done;
    assert_true(q->n_cached < q->n_tok);
    /* what was promised: shared pages hold these tokens, the state comes from a snapshot of that length */
    struct qn_prefix p = qn_seq_prefix(q);
    for (int i = 0; i < q->n_node; i++) {
        struct qn_words words = qn_cache_words(b->cache, q->hold.pages[i]);
        assert_int_equal(qn_prefix_common(&p, i * QN_PAGE, &words, QN_PAGE), QN_PAGE);
    }
    if (q->n_cached && !b->tier) assert_int_equal(b->chores.list[n_chore].kind, QN_CHORE_STATE_COPY);
    assert_int_equal(q->is_fresh, q->n_cached == 0);
    return true;
}

static void enter(struct bench *b, struct live *l)
{
    make_prompt(b, &l->text);
    l->params = (struct qn_request_params){.tok = l->text.tok,
                                           .n_tok = l->text.n,
                                           .span = l->text.span,
                                           .n_span = l->text.n_span,
                                           .salt = (uint64_t)(roll(10) == 0),
                                           .prompt_top = -1};
    l->params.sample = (struct qn_sample){.top_p = 1, .repetition = 1};
    l->seq = qn_seq_create_job(NULL, &l->params);
    if (!admit(b, l)) drop(l);
}

static void advance(struct bench *b, struct live *l)
{
    struct qn_seq *q = l->seq;
    struct qn_cache *c = b->cache;
    if (q->hold.slot < 0 && !admit(b, l)) return;
    q->is_fresh = false;
    if (q->n_tok - q->n_done > 1 ||
        q->n_tok == q->n_prompt) { /* a chunk of the prompt, or of what is read again */
        int n = 1 + roll(100);
        n = QN_MIN(n, q->n_tok - q->n_done);
        if (q->n_mark && q->mark[0] > q->n_done) n = QN_MIN(n, q->mark[0] - q->n_done);
        run_rows(b, l, n, false);
        if (q->n_mark && q->mark[0] <= q->n_done)
            qn_seq_snapshot(q, c);
        else
            qn_seq_publish(q, c);
        if (q->n_done < q->n_tok) return;
        q->is_proved = true;
        qn_seq_push(q, roll(3));
        return;
    }
    q->state = QN_SEQ_DECODE; /* a step with some drafts accepted */
    int n = 1 + roll(QN_MAX_DRAFT + 1);
    if (q->n_tok + n > MAX_TOK || !qn_seq_reserve(q, c, q->n_tok + n + 1)) {
        leave(b, l, true);
        return;
    }
    for (int i = 0; i < n; i++) qn_seq_push(q, roll(3));
    run_rows(b, l, n, true);
    qn_seq_publish(q, c);
}

/* A snapshot that has no copy yet gets one, or a part of it. */
static void save(struct bench *b)
{
    int slot = roll(N_SLOT);
    const struct qn_snap *s = qn_cache_snap(b->cache, slot);
    if (!s->is_used || s->is_stored) return;
    if (qn_tier_save(b->tier, slot, roll(2) ? INT64_MAX : 1 + roll(2000)) != QN_TIER_MORE)
        qn_cache_set_stored(b->cache, slot);
}

static void save_evicted(void *user, int slot)
{
    struct bench *b = user;
    qn_tier_save(b->tier, slot, INT64_MAX);
}

/* --- tiers --- */

static void close_tier(struct bench *b)
{
    if (!b->tier) return;
    if (roll(2)) qn_cache_clear(b->cache); /* what comes back comes from files */
    begin_work(b);
    end_work(b);
    while (qn_tier_is_copying(b->tier)) read_mail(b, 1000);
    struct qn_tier_stats stats;
    qn_tier_stats(b->tier, &stats);
    b->n_damaged += (long)stats.n_damaged;
    qn_tier_close(b->tier);
    b->tier = NULL;
    qn_cache_on_evict(b->cache, NULL, NULL);
}

/* From a few pages to more than all that there are. */
static void open_tier(struct bench *b, const char *folder)
{
    struct qn_tier_options o = {.page_bytes = sizeof b->page[0],
                                .slot_bytes = SLOT_BYTES,
                                .ram_bytes = 3200 + roll(roll(3) ? 5000 : 150000),
                                .folder = folder,
                                .disk_bytes = 20000 + roll(200000),
                                .write_bytes = -1,
                                .fingerprint = 1,
                                .home = b->home};
    struct qn_err e = {0};
    if (qn_tier_open(&b->tier, b->cache, &o, &e)) fail_msg("tier: %s", e.text);
    b->save_every = 1 << roll(8);
    qn_cache_on_evict(b->cache, save_evicted, b);
}

/* One byte of some file turns over. */
static void damage(const char *folder)
{
    char path[400];
    DIR *d = opendir(folder);
    int n = 0, fd;
    path[0] = 0;
    for (struct dirent *e; d && (e = readdir(d));)
        if (e->d_name[0] != '.' && roll(++n) == 0) snprintf(path, sizeof path, "%s/%s", folder, e->d_name);
    if (d) closedir(d);
    if (!path[0] || (fd = open(path, O_RDWR)) < 0) return; /* gone meanwhile */
    off_t at = roll(800);
    char c;
    if (pread(fd, &c, 1, at) == 1) {
        c ^= 1;
        assert_int_equal(pwrite(fd, &c, 1, at), 1);
    }
    close(fd);
}

/* every: operations from one tier to the next; 0: none. */
static void run(long n, int every, const char *folder)
{
    const char *seed_text = getenv("QUERN_SEED");
    seed = seed_text ? strtoull(seed_text, NULL, 10) : 42;
    draw = 0;
    static struct bench b;
    b = (struct bench){.home = qn_mail_create()};
    print_message("seed %llu\n", (unsigned long long)seed);
    b.cache = qn_cache_create(&(struct qn_cache_options){
        .n_page = N_PAGE, .n_slot = N_SLOT, .n_lane = N_LANE, .chores = &b.chores});
    for (long i = 0; i < n; i++) {
        if (every && i % every == 0) {
            close_tier(&b);
            open_tier(&b, folder);
        }
        struct live *l = &b.live[roll(N_LANE)];
        if (!l->seq)
            enter(&b, l);
        else if (roll(every ? 12 : 40) == 0)
            leave(&b, l, roll(10) != 0);
        else if (l->seq->hold.slot >= 0 && roll(20) == 0)
            suspend(&b, l);
        else
            advance(&b, l);
        if (roll(5000) == 0) qn_cache_clear(b.cache);
        if (roll(64) == 0) check(&b);
        if (b.tier && roll(b.save_every) == 0) save(&b);
        if (b.tier) read_mail(&b, 0);
        if (folder && roll(200) == 0) damage(folder);
    }
    check(&b);
    for (int i = 0; i < N_LANE; i++)
        if (b.live[i].seq) leave(&b, &b.live[i], true);
    check(&b);
    struct qn_cache *c = b.cache;
    struct qn_cache_stats stats;
    qn_cache_stats(c, &stats);
    print_message(
        "%ld operations: %llu snapshots made, %llu evicted, %llu pages evicted, %llu of %llu tokens hit, %ld "
        "suspended\n",
        n, (unsigned long long)stats.n_snap_made, (unsigned long long)stats.n_snap_evicted,
        (unsigned long long)stats.n_node_evicted, (unsigned long long)stats.n_hit_tok,
        (unsigned long long)stats.n_query_tok, b.n_suspended);
    assert_true(stats.n_hit_tok > 0 && stats.n_node_evicted > 0);
    close_tier(&b);
    if (every) {
        print_message("%ld prefixes brought back, %ld waits, %ld damaged files\n", b.n_promoted, b.n_waited,
                      b.n_damaged);
        assert_true(b.n_promoted > 0 && b.n_waited > 0 && (b.n_damaged > 0) == (folder != NULL));
    }
    qn_cache_clear(c);
    qn_cache_stats(c, &stats);
    assert_int_equal(stats.n_page_free, N_PAGE);
    assert_int_equal(stats.n_slot_live + stats.n_slot_snapshot, 0);
    qn_cache_free(c);
    qn_chores_fini(&b.chores);
    qn_chores_fini(&b.flying);
    qn_mail_free(b.home);
}

static long wanted(void)
{
    const char *text = getenv("QUERN_OPERATIONS");
    return text ? atol(text) : 1000000;
}

static void test_random_operations(void **state)
{
    (void)state;
    run(wanted(), 0, NULL);
}

static void test_ram_tier(void **state)
{
    (void)state;
    run(wanted(), 1000, NULL);
}

static void test_disk_tier(void **state)
{
    (void)state;
    char folder[] = "/tmp/quern-cache-XXXXXX", line[80];
    assert_non_null(mkdtemp(folder));
    run(wanted() / 40, 500, folder);
    snprintf(line, sizeof line, "rm -rf %s", folder);
    if (system(line)) print_message("%s is left\n", folder);
}

int main(void)
{
    qn_log_set_level(QN_LOG_ERROR);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random_operations),
        cmocka_unit_test(test_ram_tier),
        cmocka_unit_test(test_disk_tier),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
