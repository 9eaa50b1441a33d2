/* Divergence of distributions and stored references.
 * SPDX-License-Identifier: Apache-2.0 */
#include "support/test.h"

#include <math.h>
#include <unistd.h>

#include "cli/divergence.h"
#include "cli/reference.h"

#define NEAR(a, b) assert_true(fabs((a) - (b)) < 1e-6)

/* P = (1/2, 1/4, 1/4), Q = (1/4, 1/2, 1/4): KL = 1/2 log 2 - 1/4 log 2 */
static const float p_row[3] = {0.6931472f, 0, 0}, q_row[3] = {0, 0.6931472f, 0};

static void test_known_values(void **state)
{
    (void)state;
    struct qn_divergence d = {0};
    struct qn_divergence_summary s;
    qn_divergence_add(&d, p_row, q_row, 3, 1);
    qn_divergence_add(&d, p_row, p_row, 3, -1);
    qn_divergence_summary(&d, &s);
    assert_int_equal(s.n, 2);
    NEAR(s.max, 0.25 * log(2));
    NEAR(s.mean, 0.125 * log(2));
    NEAR(s.median, 0.125 * log(2));
    NEAR(s.top1, 0.5);
    NEAR(s.ppl, 2.0);     /* Q gave the target 1/2 */
    NEAR(s.ppl_ref, 4.0); /* P gave it 1/4 */
    qn_divergence_free(&d);
}

static void test_no_positions(void **state)
{
    (void)state;
    struct qn_divergence d = {0};
    struct qn_divergence_summary s;
    qn_divergence_summary(&d, &s);
    assert_int_equal(s.n, 0);
    assert_true(isnan(s.ppl));
}

static char *write_reference(int k, int vocab, const float *logits, int n)
{
    static char path[] = "/tmp/quern-reference-XXXXXX";
    memcpy(path + sizeof path - 7, "XXXXXX", 6);
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    FILE *out = fdopen(fd, "wb");
    struct qn_reference_header h = {.magic = QN_REFERENCE_MAGIC,
                                    .model = "m",
                                    .format = "BF16",
                                    .vocab = (uint32_t)vocab,
                                    .k = (uint32_t)k,
                                    .context = 8,
                                    .n_ids = (uint32_t)n};
    int32_t ids[8] = {0};
    assert_int_equal(qn_reference_begin(out, &h, ids), QN_OK);
    for (int i = 0; i < n; i++) assert_int_equal(qn_reference_put(out, k, logits, vocab), QN_OK);
    fclose(out);
    return path;
}

/* All of the vocabulary stored: the full sum. A part of it: a lower bound with the exact tail. */
static void test_stored_reference(void **state)
{
    (void)state;
    enum { V = 50 };
    float reference[V], tested[V];
    for (int i = 0; i < V; i++) {
        reference[i] = (float)((i * 37) % 17) * 0.3f; /* with ties */
        tested[i] = reference[i] + (float)((i * 11) % 7) * 0.05f;
    }
    struct qn_divergence full = {0};
    qn_divergence_add(&full, reference, tested, V, 3);
    for (int k = 1; k <= V; k += 7) {
        char *path = write_reference(k, V, reference, 1);
        struct qn_reference *r;
        struct qn_err e = {0};
        struct qn_top_row top;
        struct qn_divergence part = {0};
        assert_true(qn_is_reference(path));
        assert_int_equal(qn_reference_open(&r, path, &e), QN_OK);
        assert_int_equal(qn_reference_next(r, &top, &e), QN_OK);
        double mass = exp(top.tail_logprob);
        for (int i = 0; i < top.k; i++) {
            mass += exp(top.logprob[i]);
            assert_true(!i || top.logprob[i - 1] >= top.logprob[i]);
        }
        assert_true(fabs(mass - 1) < 1e-5);
        qn_divergence_add_top(&part, &top, tested, V, 3);
        assert_true(part.kld[0] <= full.kld[0] + 1e-6);
        if (k == V) NEAR(part.kld[0], full.kld[0]);
        assert_int_equal(part.n_same, full.n_same);
        qn_divergence_free(&part);
        assert_int_equal(qn_reference_next(r, &top, &e), QN_IO);
        qn_reference_close(r);
        unlink(path);
    }
    qn_divergence_free(&full);
}

static void test_damaged_references(void **state)
{
    (void)state;
    struct qn_reference *r;
    struct qn_err e = {0};
    char *path = write_reference(2, 3, p_row, 1);
    assert_int_equal(truncate(path, 100), 0);
    assert_int_equal(qn_reference_open(&r, path, &e), QN_FORMAT);
    assert_non_null(strstr(e.text, path));
    FILE *out = fopen(path, "wb");
    fputs("not a reference at all", out);
    fclose(out);
    assert_false(qn_is_reference(path));
    assert_int_equal(qn_reference_open(&r, path, &e), QN_FORMAT);
    unlink(path);
    assert_int_equal(qn_reference_open(&r, path, &e), QN_NOTFOUND);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_known_values), cmocka_unit_test(test_no_positions),
        cmocka_unit_test(test_stored_reference), cmocka_unit_test(test_damaged_references)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
