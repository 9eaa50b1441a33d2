/* Steps and results as messages: what was written is read, nothing else is.
 *
 * QUERN_WRITE_STEPS: a folder to write some messages to, for the fuzz target's corpus.
 * SPDX-License-Identifier: Apache-2.0 */
#include "support/test.h"

#include "base/mem.h"
#include "base/rng.h"
#include "support/random_step.h"

#define N_STEP 3000

static void same_list(const void *a, const void *b, int n)
{
    if (!n) return;
    assert_int_equal(a == NULL, b == NULL);
    if (a) assert_memory_equal(a, b, (size_t)n * 4);
}

static void same_seq(const struct qn_step_seq *a, const struct qn_step_seq *b)
{
    const struct qn_sample *p = &a->sample, *q = &b->sample;
    assert_int_equal(a->first_row, b->first_row);
    assert_int_equal(a->n_row, b->n_row);
    assert_int_equal(a->pos0, b->pos0);
    assert_int_equal(a->first_page, b->first_page);
    assert_int_equal(a->n_page, b->n_page);
    assert_int_equal(a->slot, b->slot);
    assert_int_equal(a->lane, b->lane);
    assert_int_equal(a->n_commit, b->n_commit);
    assert_int_equal(a->is_fresh, b->is_fresh);
    assert_int_equal(a->wants_token, b->wants_token);
    assert_int_equal(a->wants_mtp, b->wants_mtp);
    assert_int_equal(a->mtp_from, b->mtp_from);
    assert_int_equal(a->n_draft, b->n_draft);
    assert_int_equal(a->n_draft_next, b->n_draft_next);
    assert_int_equal(a->first_logit, b->first_logit);
    same_list(a->rope_before, b->rope_before, 3);
    assert_true(p->temperature == q->temperature && p->top_p == q->top_p && p->min_p == q->min_p);
    assert_true(p->presence == q->presence && p->frequency == q->frequency && p->repetition == q->repetition);
    assert_int_equal(p->top_k, q->top_k);
    assert_true(p->seed == q->seed);
    assert_int_equal(p->n_top, q->n_top);
    assert_int_equal(p->first_bias, q->first_bias);
    assert_int_equal(p->n_bias, q->n_bias);
    assert_int_equal(p->first_seen, q->first_seen);
    assert_int_equal(p->n_seen, q->n_seen);
}

static void same_step(const struct qn_step *a, const struct qn_step *b)
{
    assert_int_equal(a->n_row, b->n_row);
    assert_int_equal(a->n_seq, b->n_seq);
    assert_int_equal(a->n_decode, b->n_decode);
    assert_int_equal(a->n_decode_row, b->n_decode_row);
    assert_int_equal(a->slice_from, b->slice_from);
    assert_int_equal(a->slice_to, b->slice_to);
    assert_int_equal(a->at_pass, b->at_pass);
    assert_int_equal(a->n_logit, b->n_logit);
    assert_int_equal(a->n_embed, b->n_embed);
    assert_int_equal(a->n_pages, b->n_pages);
    assert_int_equal(a->n_mask, b->n_mask);
    assert_int_equal(a->mask_words, b->mask_words);
    assert_int_equal(a->n_bias, b->n_bias);
    assert_int_equal(a->n_seen, b->n_seen);
    assert_int_equal(a->n_score_top, b->n_score_top);
    assert_int_equal(a->all_logits, b->all_logits);
    assert_int_equal(a->wants_raw, b->wants_raw);
    for (int i = 0; i < a->n_seq; i++) same_seq(&a->seq[i], &b->seq[i]);
    same_list(a->tok, b->tok, a->n_row);
    same_list(a->row_seq, b->row_seq, a->n_row);
    same_list(a->pos, b->pos, a->n_row);
    same_list(a->rope_pos, b->rope_pos, 3 * a->n_row);
    same_list(a->embed_row, b->embed_row, a->n_row);
    same_list(a->embed, b->embed, a->n_embed * random_limits.hidden);
    same_list(a->pages, b->pages, a->n_pages);
    same_list(a->logit_row, b->logit_row, a->n_logit);
    same_list(a->logit_seq, b->logit_seq, a->n_logit);
    same_list(a->mask_at, b->mask_at, a->n_logit);
    same_list(a->mask, b->mask, a->n_mask * a->mask_words);
    same_list(a->bias_tok, b->bias_tok, a->n_bias);
    same_list(a->bias, b->bias, a->n_bias);
    same_list(a->seen_tok, b->seen_tok, a->n_seen);
    same_list(a->seen_count, b->seen_count, a->n_seen);
    same_list(a->score_tok, b->score_tok, a->n_logit);
}

static void keep(const void *bytes, size_t n, int i)
{
    const char *folder = getenv("QUERN_WRITE_STEPS");
    char path[400];
    if (!folder || i >= 40) return;
    snprintf(path, sizeof path, "%s/step-%02d", folder, i);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fwrite(bytes, 1, n, f);
    fclose(f);
}

static void test_steps(void **state)
{
    (void)state;
    struct qn_step_in in = {0};
    struct qn_err e = {0};
    for (int i = 0; i < N_STEP; i++) {
        struct random_step s;
        random_step_make(&s, (uint64_t)i);
        size_t n = qn_step_bytes(&s.step, random_limits.hidden);
        void *bytes = xmalloc(n);
        qn_step_put(&s.step, random_limits.hidden, bytes);
        if (qn_step_get(&in, bytes, n, &random_limits, &e)) fail_msg("step %d: %s", i, e.text);
        same_step(&s.step, &in.step);
        keep(bytes, n, i);
        free(bytes);
        random_step_free(&s);
    }
    qn_step_in_fini(&in);
}

/* Cut short or with a bit turned over it is refused, or is another whole step. */
static void test_damaged_steps(void **state)
{
    (void)state;
    struct qn_step_in in = {0};
    struct qn_err e;
    int n_refused = 0, n_taken = 0;
    for (int i = 0; i < 300; i++) {
        struct random_step s;
        random_step_make(&s, (uint64_t)i);
        size_t n = qn_step_bytes(&s.step, random_limits.hidden);
        unsigned char *bytes = xmalloc(n), *again = xmalloc(n);
        qn_step_put(&s.step, random_limits.hidden, bytes);
        for (size_t k = 0; k < n; k += 1 + k / 7)
            assert_int_equal(qn_step_get(&in, bytes, k, &random_limits, &e), QN_FORMAT);
        for (int k = 0; k < 200; k++) {
            size_t at = qn_rng64((uint64_t)i, (uint64_t)k, 1) % n;
            unsigned char bit = (unsigned char)(1 << qn_rng64((uint64_t)i, (uint64_t)k, 2) % 8);
            bytes[at] ^= bit;
            e.text[0] = 0;
            if (qn_step_get(&in, bytes, n, &random_limits, &e)) {
                assert_true(e.text[0]);
                n_refused++;
            } else {
                assert_int_equal(qn_step_bytes(&in.step, random_limits.hidden), n);
                qn_step_put(&in.step, random_limits.hidden, again);
                assert_memory_equal(again, bytes, n);
                n_taken++;
            }
            bytes[at] ^= bit;
        }
        free(bytes);
        free(again);
        random_step_free(&s);
    }
    assert_true(n_refused > 10000 && n_taken > 10000);
    qn_step_in_fini(&in);
}

static void same_token(const struct qn_step_token *a, const struct qn_step_token *b)
{
    assert_int_equal(a->tok, b->tok);
    assert_true(a->logprob == b->logprob);
    assert_int_equal(a->n_top, b->n_top);
    same_list(a->top_tok, b->top_tok, a->n_top);
    same_list(a->top_logprob, b->top_logprob, a->n_top);
}

static void same_result(const struct qn_step *s, const struct qn_step_result *a,
                        const struct qn_step_result *b)
{
    assert_int_equal(a->fault, b->fault);
    assert_string_equal(a->fault_text, b->fault_text);
    if (a->fault) return;
    for (int i = 0; i < s->n_seq; i++) {
        const struct qn_step_seq *q = &s->seq[i];
        assert_int_equal(a->n_accepted[i], b->n_accepted[i]);
        assert_int_equal(a->n_drafted[i], b->n_drafted[i]);
        same_list(a->draft + i * QN_MAX_DRAFT, b->draft + i * QN_MAX_DRAFT, a->n_drafted[i]);
        for (int k = 0; k < (!q->wants_token ? 0 : i < s->n_decode ? q->n_row : 1); k++)
            same_token(&a->token[q->first_logit + k], &b->token[q->first_logit + k]);
    }
    for (int i = 0; i < s->n_logit && s->score_tok; i++) same_token(&a->score[i], &b->score[i]);
    if (s->wants_raw) same_list(a->logits, b->logits, s->n_logit * random_limits.vocab);
}

static void test_results(void **state)
{
    (void)state;
    struct qn_step_result a, b;
    struct qn_err e = {0};
    random_result_init(&a);
    random_result_init(&b);
    for (int i = 0; i < N_STEP; i++) {
        struct random_step s;
        random_step_make(&s, (uint64_t)i);
        random_result_make(&a, &s.step, (uint64_t)i);
        size_t n = qn_result_bytes(&s.step, &a, random_limits.vocab);
        unsigned char *bytes = xmalloc(n);
        qn_result_put(&s.step, &a, random_limits.vocab, bytes);
        if (qn_result_get(&s.step, &b, random_limits.vocab, bytes, n, &e)) fail_msg("%d: %s", i, e.text);
        same_result(&s.step, &a, &b);
        for (size_t k = 0; k < n; k += 1 + k / 5)
            assert_int_equal(qn_result_get(&s.step, &b, random_limits.vocab, bytes, k, &e), QN_FORMAT);
        for (int k = 0; k < 50; k++) {
            size_t at = qn_rng64((uint64_t)i, (uint64_t)k, 1) % n;
            bytes[at] ^= (unsigned char)(1 << k % 8);
            qn_result_get(&s.step, &b, random_limits.vocab, bytes, n, &e);
        }
        free(bytes);
        random_step_free(&s);
    }
    random_result_fini(&a);
    random_result_fini(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_steps),
        cmocka_unit_test(test_damaged_steps),
        cmocka_unit_test(test_results),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
