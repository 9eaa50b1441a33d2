/* Shards: the parts of all ranks are the model, every number once.
 * SPDX-License-Identifier: Apache-2.0 */
#include "support/test.h"

#include "base/mem.h"
#include "model/roles.h"
#include "model/shard.h"

static struct qn_config config(bool is_moe)
{
    struct qn_config c = {.hidden = 64,
                          .n_layer = 4,
                          .vocab = 1003,
                          .n_head = 12,
                          .n_kv_head = 2,
                          .head_dim = 16,
                          .n_k_head = 6,
                          .n_v_head = 24,
                          .k_dim = 8,
                          .v_dim = 16,
                          .conv_taps = 4,
                          .is_moe = is_moe,
                          .ffn = is_moe ? 0 : 416,
                          .n_expert = is_moe ? 8 : 0,
                          .top_k = is_moe ? 2 : 0,
                          .expert_ffn = is_moe ? 96 : 0,
                          .shared_ffn = is_moe ? 160 : 0,
                          .n_full = 1,
                          .n_gdn = 3};
    c.is_full[3] = 1;
    return c;
}

static void count(int *seen, const struct qn_range *r)
{
    for (int i = 0; i < r->n; i++) seen[r->first + i]++;
}

static void check_role(const struct qn_config *c, int n, enum qn_role role, int layer)
{
    int n_out, n_in;
    if (!qn_role_shape(c, role, layer, &n_out, &n_in)) return;
    int *out = xcalloc((size_t)n_out, sizeof *out), *in = xcalloc((size_t)n_in, sizeof *in);
    for (int rank = 0; rank < n; rank++) {
        struct qn_shard s;
        struct qn_cut cut;
        int own_out, own_in, sum = 0;
        assert_int_equal(qn_shard_init(&s, c, rank, n, NULL), QN_OK);
        qn_shard_cut(&s, role, &cut);
        for (int i = 0; i < cut.n_range; i++) count(out, &cut.out[i]), sum += cut.out[i].n;
        if (cut.in.n) count(in, &cut.in);
        /* what the shard's own configuration says of the layer's shape is what is cut out */
        assert_true(qn_role_shape(&s.config, role, layer, &own_out, &own_in));
        if (role != QN_ROLE_EMBED && role != QN_ROLE_HEAD)
            assert_int_equal(cut.n_range ? sum : n_out, own_out);
        else
            assert_int_equal(sum ? sum : n_out, s.vocab.n);
        assert_int_equal(cut.in.n ? cut.in.n : n_in, own_in);
    }
    bool is_kv = role == QN_ROLE_K || role == QN_ROLE_V;
    int key_end = role == QN_ROLE_GDN_QKV ? 2 * qn_config_key_dim(c) : 0;
    for (int i = 0; i < n_out; i++)
        if (out[i] != (!out[0]       ? 0
                       : is_kv       ? QN_MAX(n / c->n_kv_head, 1)
                       : i < key_end ? QN_MAX(n / c->n_k_head, 1)
                                     : 1))
            fail_msg("role %d, %d ranks: output %d is in %d", (int)role, n, i, out[i]);
    for (int i = 0; i < n_in; i++)
        if (in[i] != in[0] || in[i] > 1)
            fail_msg("role %d, %d ranks: input %d is in %d", (int)role, n, i, in[i]);
    free(out);
    free(in);
}

static void test_parts_are_the_whole(void **state)
{
    (void)state;
    static const int degrees[] = {1, 2, 6, 12};
    for (int moe = 0; moe < 2; moe++) {
        struct qn_config c = config(moe);
        for (size_t i = 0; i < QN_COUNT(degrees); i++)
            for (int role = 0; role < QN_N_ROLE; role++)
                for (int layer = 0; layer < 4; layer++) check_role(&c, degrees[i], (enum qn_role)role, layer);
    }
}

/* Heads of a rank meet the KV head they were trained with. */
static void test_kv_heads(void **state)
{
    (void)state;
    struct qn_config c = config(false);
    static const int degrees[] = {2, 6, 12};
    for (size_t i = 0; i < QN_COUNT(degrees); i++)
        for (int rank = 0; rank < degrees[i]; rank++) {
            struct qn_shard s;
            struct qn_cut q, k;
            assert_int_equal(qn_shard_init(&s, &c, rank, degrees[i], NULL), QN_OK);
            qn_shard_cut(&s, QN_ROLE_Q, &q);
            qn_shard_cut(&s, QN_ROLE_K, &k);
            for (int h = 0; h < s.config.n_head; h++) {
                int whole = q.out[0].first / (2 * c.head_dim) + h;
                int kv = k.out[0].first / c.head_dim + h / (s.config.n_head / s.config.n_kv_head);
                assert_int_equal(kv, whole / (c.n_head / c.n_kv_head));
            }
        }
}

static void test_degrees(void **state)
{
    (void)state;
    struct qn_config c = config(false);
    struct qn_shard s;
    struct qn_err e = {0};
    assert_int_equal(qn_shard_init(&s, &c, 0, 5, &e), QN_UNSUPPORTED);
    assert_non_null(strstr(e.text, "over 5 ranks; what fits: 1, 2, 6, 12"));
    assert_false(qn_shard_fits(&c, 3)); /* two KV heads */
    c.is_tiled = true;                  /* of a GGUF file */
    assert_false(qn_shard_fits(&c, 2));
    assert_true(qn_shard_fits(&c, 1));
    assert_int_equal(qn_shard_init(&s, &c, 0, 2, &e), QN_UNSUPPORTED);
    assert_non_null(strstr(e.text, "are tiled"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_parts_are_the_whole),
        cmocka_unit_test(test_kv_heads),
        cmocka_unit_test(test_degrees),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
