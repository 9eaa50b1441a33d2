/* One answer, at the level of logits: whatever the chunks, the other sequences of a step, the threads, the
 * drafts that were rejected or the history of a slot, a position's logits have the same bits.
 * Seed: QN_SEED in the environment, else fixed. SPDX-License-Identifier: Apache-2.0 */
#include "base/cpu.h"
#include "base/rng.h"
#include "support/rig.h"
#include "support/test.h"

#define N_TOK 150

#ifdef QN_TEST_CUDA /* on the emulator */
static const char *const fast = "cuda", *const slow = "cuda";
#else
static const char *const fast = "cpu", *const slow = "ref";
#endif

static uint64_t seed = 7, n_draw;

static int below(int n)
{
    return (int)(qn_rng64(seed, 0, n_draw++) % (uint64_t)n);
}

static void same_rows(const char *what, const float *want, const float *got, int first, int n, size_t v)
{
    for (int i = 0; i < n; i++)
        if (memcmp(want + (size_t)(first + i) * v, got + (size_t)i * v, v * sizeof *got))
            fail_msg("%s: logits of position %d differ (seed %llu)", what, first + i,
                     (unsigned long long)seed);
}

/* Random chunks, then decode rounds of right and wrong drafts, next to a second sequence that does its own.
 */
static void walk(struct rig *r, const int32_t *tok, const float *want, int slot, int other)
{
    size_t v = (size_t)r->c->vocab;
    float *logits = malloc(256 * v * sizeof *logits);
    int32_t rows[1 + QN_MAX_DRAFT];
    int at = 0, n_commit = 0, other_at = 0;
    while (at < N_TOK) {
        bool is_decode = at > 0 && below(3) > 0;
        int n = is_decode ? 1 + below(1 + QN_MAX_DRAFT) : 1 + below(40), n_right = n;
        n_right = n = QN_MIN(n, N_TOK - at);
        struct rig_seq q[2] = {{.tok = tok + at,
                                .n_row = n,
                                .pos0 = at,
                                .slot = slot,
                                .is_decode = is_decode,
                                .is_fresh = at == 0,
                                .n_commit = n_commit,
                                .wants_mtp = true}};
        if (is_decode) {
            memcpy(rows, tok + at, (size_t)n * sizeof *rows);
            n_right = 1 + below(n);
            for (int i = n_right; i < n; i++) rows[i] = (rows[i] + 1) % r->c->vocab;
            q[0].tok = rows;
        }
        int n_other = below(2) ? 1 + below(30) : 0;
        n_other = QN_MIN(n_other, N_TOK - other_at);
        q[1] = (struct rig_seq){.tok = tok + other_at,
                                .n_row = n_other,
                                .pos0 = other_at,
                                .slot = other,
                                .is_fresh = other_at == 0};
        rig_step(r, q, n_other ? 2 : 1, logits);
        same_rows(is_decode ? "decode" : "prefill", want, logits, at, n_right, v);
        if (n_other) same_rows("beside", want, logits + (size_t)n * v, other_at, n_other, v);
        at += n_right;
        other_at += n_other;
        n_commit = is_decode ? n_right : 0;
        if (n_commit && !below(3)) { /* flush, and go on from a copy in another slot */
            const struct qn_backend *b = qn_forward_backend(r->f);
            struct qn_device *d = qn_forward_device(r->f);
            b->state_flush(d, slot, slot, n_commit);
            struct qn_copy out = {slot, 5, 0}, back = {5, slot, 0};
            b->state_copy(d, &out, 1);
            b->state_zero(d, slot);
            b->state_copy(d, &back, 1);
            n_commit = 0;
        }
    }
    free(logits);
}

static void check_case(const char *backend, const char *name, enum qn_act act, enum qn_kv kv)
{
    struct rig_golden g;
    rig_golden_read(&g, name, 0);
    float *want = NULL;
    size_t v = 0;
    for (int n_thread = 1; n_thread <= 2; n_thread++) {
        struct rig r;
        rig_open(&r, g.folder, &(struct rig_options){backend, act, kv, n_thread, 0, true});
        v = (size_t)r.c->vocab;
        if (!want) {
            want = malloc(N_TOK * v * sizeof *want);
            rig_logits(&r, 0, g.prompt, N_TOK, N_TOK, want);
        }
        for (int i = 0; i < 4; i++) walk(&r, g.prompt, want, i % 3, 3 + i % 2);
        rig_close(&r);
    }
    free(want);
}

#ifndef QN_TEST_CUDA
static void test_ref(void **state)
{
    (void)state;
    check_case("ref", "dense-untied-mtp", QN_ACT_F32, QN_KV_F32);
    check_case("ref", "moe-expert-mtp", QN_ACT_BF16, QN_KV_E5M2);
    check_case("ref", "dense-ratio4-odd", QN_ACT_BF16, QN_KV_E4M3D);
}

static void test_cpu(void **state)
{
    (void)state;
    static const char *const cases[] = {"dense-untied-mtp", "dense-ratio4-odd", "moe-expert-mtp"};
    static const enum qn_kv kv[] = {QN_KV_BF16, QN_KV_F32, QN_KV_E4M3};
    unsetenv("QUERN_CPU");
    for (int isa = 0, best = (int)qn_cpu_isa(); isa <= best; isa++) {
        setenv("QUERN_CPU", qn_isa_name((enum qn_isa)isa), 1);
        for (size_t i = 0; i < QN_COUNT(cases); i++) {
            check_case("cpu", cases[i], QN_ACT_BF16, kv[i]);
            check_case("cpu", cases[i], QN_ACT_F32, QN_KV_F32);
            check_case("cpu", cases[i], QN_ACT_BF16, i ? QN_KV_E4M3D : QN_KV_E5M2);
        }
    }
    unsetenv("QUERN_CPU");
}

#else
static void test_cuda(void **state)
{
    (void)state;
    check_case("cuda", "dense-untied-mtp", QN_ACT_BF16, QN_KV_BF16);
    check_case("cuda", "dense-ratio4-odd", QN_ACT_F32, QN_KV_F32);
    check_case("cuda", "moe-expert-mtp", QN_ACT_BF16, QN_KV_E4M3D);
    check_case("cuda", "dense-ratio4-odd", QN_ACT_BF16, QN_KV_E5M2);
}
#endif

/* More keys than a split: split by split in one task or in many, the same bits. */
static void test_long_context(void **state)
{
    (void)state;
    enum { N = 2300 };
    struct rig_golden g;
    struct rig r;
    rig_golden_read(&g, "dense-untied-mtp", 0);
    rig_open(&r, g.folder, &(struct rig_options){fast, QN_ACT_BF16, QN_KV_BF16, 2, 0, true});
    size_t v = (size_t)r.c->vocab;
    float *want = malloc(N * v * sizeof *want), *got = malloc(256 * v * sizeof *got);
    int32_t tok[N];
    for (int i = 0; i < N; i++) tok[i] = below(r.c->vocab);
    rig_logits(&r, 0, tok, N, 250, want);
    rig_logits(&r, 1, tok, 2000, 97, got = realloc(got, N * v * sizeof *got));
    same_rows("chunks", want, got, 0, 2000, v);
    for (int at = 2000, n_commit = 0; at < N; at += n_commit) {
        int n = 1 + below(9);
        struct rig_seq q = {.tok = tok + at,
                            .n_row = QN_MIN(n, N - at),
                            .pos0 = at,
                            .slot = 1,
                            .is_decode = true,
                            .n_commit = n_commit};
        rig_step(&r, &q, 1, got);
        same_rows("decode", want, got, at, q.n_row, v);
        n_commit = q.n_row;
    }
    free(want);
    free(got);
    rig_close(&r);
}

/* Drafts behind n tokens whose MTP rows are kept from `from` on, in one chunk or two; before, they were not
 * made (the pages hold NaN) or were, as if for another sequence. */
static void drafts_from(struct rig *r, int slot, const int32_t *tok, int n, int from, bool had_before,
                        int cut, int32_t *out)
{
    for (int at = 0; at < from - 1; at += 250) {
        struct rig_seq q = {.tok = tok + at,
                            .n_row = QN_MIN(250, from - 1 - at),
                            .pos0 = at,
                            .slot = slot,
                            .is_fresh = at == 0,
                            .wants_mtp = had_before};
        rig_step(r, &q, 1, NULL);
    }
    for (int at = from - 1; at < n;) {
        int end = at < cut ? cut : n;
        struct rig_seq q = {.tok = tok + at,
                            .n_row = end - at,
                            .pos0 = at,
                            .slot = slot,
                            .wants_mtp = true,
                            .mtp_from = from,
                            .wants_token = end == n,
                            .n_draft_next = end == n ? 4 : 0,
                            .sample = {.repetition = 1, .top_p = 1}};
        rig_step(r, &q, 1, NULL);
        if (end == n) {
            assert_int_equal(q.n_drafted, 4);
            memcpy(out, q.draft, 4 * sizeof *out);
        }
        at = end;
    }
}

/* The MTP layer sees nothing before mtp_from, on either side of a split, whatever the pages hold. */
static void test_mtp_from(void **state)
{
    (void)state;
    static const int froms[] = {2, 101, 1020, 1025, 2070};
    struct rig_golden g;
    int32_t tok[2300], want[4], got[4];
    rig_golden_read(&g, "dense-untied-mtp", 0);
    for (size_t i = 0; i < QN_COUNT(froms); i++)
        for (int b = 0; b < 2; b++) {
            const char *backend = b ? fast : "ref";
            int from = froms[i], n = from + 59;
            struct rig r;
            rig_open(&r, g.folder, &(struct rig_options){backend, QN_ACT_F32, QN_KV_F32, 2, 0, true});
            if (!b)
                for (int k = 0; k < n; k++) tok[k] = below(r.c->vocab);
            drafts_from(&r, 0, tok, n, from, false, 0, got);
            if (b) assert_memory_equal(got, want, sizeof got); /* as ref */
            memcpy(want, got, sizeof want);
            drafts_from(&r, 1, tok, n, from, true, 0, got);
            assert_memory_equal(got, want, sizeof got);
            drafts_from(&r, 2, tok, n, from, false, from + 17, got);
            assert_memory_equal(got, want, sizeof got);
            rig_close(&r);
        }
}

/* A prompt in chunks and slices of them, beside a stream or not, now and then with rows of a third sequence
 * that go through the whole model: its token, log-probability and drafts, and the stream's tokens. */
static void walk_slices(struct rig *r, const int32_t *tok, const struct rig_seq *want, const int32_t *stream)
{
    struct rig_seq q[3], last = {0};
    struct qn_sample greedy = {.repetition = 1, .top_p = 1};
    int n_part = r->c->n_layer + 1, n_said = 1, other_at = 0;
    rig_greedy(r, 3, tok, 20, 0, 1, &(int32_t){0});
    for (int at = 0; at < N_TOK; at += last.n_row) {
        int n = 1 + below(QN_MIN(70, N_TOK - at));
        last = (struct rig_seq){.tok = tok + at,
                                .n_row = n,
                                .pos0 = at,
                                .slot = 2,
                                .is_fresh = at == 0,
                                .wants_mtp = true,
                                .sample = greedy};
        while (last.slice_to < n_part) {
            int n_seq = 0;
            last.slice_from = last.slice_to;
            last.slice_to += 1 + below(QN_MIN(3, n_part - last.slice_from));
            last.wants_token = at + n == N_TOK && last.slice_to == n_part;
            last.n_draft_next = last.wants_token ? 4 : 0;
            bool is_beside = below(4) && n_said < 40;
            if (is_beside)
                q[n_seq++] = (struct rig_seq){.tok = stream + n_said - 1,
                                              .n_row = 1,
                                              .pos0 = 20 + n_said - 1,
                                              .slot = 3,
                                              .is_decode = true,
                                              .wants_token = true,
                                              .n_commit = n_said > 1,
                                              .sample = greedy};
            int n_other = other_at < N_TOK && !below(3) ? 1 + below(QN_MIN(9, N_TOK - other_at)) : 0;
            if (n_other)
                q[n_seq++] = (struct rig_seq){.tok = tok + other_at,
                                              .n_row = n_other,
                                              .pos0 = other_at,
                                              .slot = 4,
                                              .is_fresh = !other_at};
            other_at += n_other;
            q[n_seq] = last;
            rig_step(r, q, n_seq + 1, NULL);
            if (is_beside) assert_int_equal(q[0].picked[0], stream[n_said++]);
            last = q[n_seq];
        }
    }
    assert_int_equal(last.picked[0], want->picked[0]);
    assert_true(last.logprob[0] == want->logprob[0]);
    assert_int_equal(last.n_drafted, want->n_drafted);
    assert_memory_equal(last.draft, want->draft, sizeof(int32_t) * (size_t)want->n_drafted);
}

static void test_slices(void **state)
{
    (void)state;
    static const char *const cases[] = {"dense-untied-mtp", "moe-expert-mtp"};
    for (int i = 0; i < 4; i++) {
        struct rig_golden g;
        struct rig r;
        int32_t stream[40];
        rig_golden_read(&g, cases[i / 2], 0);
        rig_open(&r, g.folder,
                 &(struct rig_options){i % 2 ? fast : slow, QN_ACT_BF16, QN_KV_BF16, 2, 0, true});
        struct rig_seq want = {.tok = g.prompt,
                               .n_row = N_TOK,
                               .is_fresh = true,
                               .wants_token = true,
                               .wants_mtp = true,
                               .n_draft_next = 4,
                               .sample = {.repetition = 1, .top_p = 1}};
        rig_step(&r, &want, 1, NULL);
        assert_int_equal(want.n_drafted, 4);
        rig_greedy(&r, 1, g.prompt, 20, 0, 40, stream);
        for (int k = 0; k < 6; k++) walk_slices(&r, g.prompt, &want, stream);
        rig_close(&r);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#ifdef QN_TEST_CUDA
        cmocka_unit_test(test_cuda),
#else
        cmocka_unit_test(test_ref),    cmocka_unit_test(test_cpu),
#endif
        cmocka_unit_test(test_slices),
        cmocka_unit_test(test_long_context),
        cmocka_unit_test(test_mtp_from),
    };
    if (getenv("QN_SEED")) seed = strtoull(getenv("QN_SEED"), NULL, 10);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
