/* config.json: spellings that mean the same, defaults, and limits named in errors.
 * SPDX-License-Identifier: Apache-2.0 */
#include "support/test.h"

#include <math.h>

#include "model/config.h"

static int parse_over(const char *text, const char *generation, const char *overrides, struct qn_config *c,
                      struct qn_err *e)
{
    const struct qn_config_text t = {text,      strlen(text), generation, generation ? strlen(generation) : 0,
                                     overrides, "config.json"};
    return qn_config_parse(c, &t, e);
}

static int parse(const char *text, const char *generation, struct qn_config *c, struct qn_err *e)
{
    return parse_over(text, generation, NULL, c, e);
}

static struct qn_config good(const char *text)
{
    struct qn_config c;
    struct qn_err e = {0};
    if (parse(text, NULL, &c, &e)) fail_msg("%s: %s", text, e.text);
    return c;
}

#define BARE  "\"model_type\":\"qwen3_5_text\""
#define DENSE BARE ",\"rope_theta\":10000000"

static void test_defaults(void **state)
{
    (void)state;
    struct qn_config c = good("{" BARE "}");
    assert_int_equal(c.hidden, 4096);
    assert_int_equal(c.n_layer, 32);
    assert_int_equal(c.n_full, 8);
    assert_true(c.is_full[3] && !c.is_full[2]);
    assert_int_equal(c.ffn, 12288);
    assert_int_equal(c.rotary_dim, 64);
    assert_true(c.rope_theta == 1e4); /* the reference's default, and a line that says so */
    assert_int_equal(c.mrope_section[2], 10);
    assert_int_equal(c.n_v_head, 32);
    assert_int_equal(c.gate_act, QN_GATE_SILU);
    assert_true(!c.is_tied && !c.is_moe && !c.has_vision);
    assert_true(c.n_note == 1 && strstr(c.note[0], "rope_theta"));
    assert_true(isnan(c.temperature) && c.gen_top_k == -1);
    c = good("{\"architectures\":[\"Qwen3_5MoeForConditionalGeneration\"]}");
    assert_true(c.is_moe);
    assert_int_equal(c.n_layer, 40);
    assert_int_equal(c.hidden, 2048);
    assert_int_equal(c.n_expert, 256);
    assert_int_equal(c.top_k, 8);
}

/* Nested or flat, rope in three places, the tie flag on two levels. */
static void test_spellings(void **state)
{
    (void)state;
    static const char *const same[] = {
        "{" DENSE
        ",\"hidden_size\":64,\"rope_parameters\":{\"rope_theta\":5000,\"partial_rotary_factor\":0.5,"
        "\"rope_type\":\"default\"},\"tie_word_embeddings\":true}",
        "{" DENSE ",\"hidden_size\":64.0,\"rope_theta\":5000,\"partial_rotary_factor\":0.5,\"tie_word_"
        "embeddings\":true}",
        "{" DENSE ",\"hidden_size\":64,\"rope_scaling\":{\"type\":\"mrope\",\"rope_theta\":5000,"
        "\"partial_rotary_factor\":0.5},\"tie_word_embeddings\":true}",
        "{\"model_type\":\"qwen3_5\",\"tie_word_embeddings\":true,\"text_config\":{\"hidden_size\":64,"
        "\"rope_parameters\":{\"full_attention\":{\"rope_theta\":5000,\"partial_rotary_factor\":0.5}}}}",
        "{\"model_type\":\"qwen3_5\",\"text_config\":{" DENSE ",\"hidden_size\":64,\"rope_theta\":5000,"
        "\"partial_rotary_factor\":0.5,\"tie_word_embeddings\":true}}",
    };
    for (size_t i = 0; i < QN_COUNT(same); i++) {
        struct qn_config c = good(same[i]);
        if (c.hidden != 64 || c.rope_theta != 5000 || c.rotary_dim != 128 || !c.is_tied)
            fail_msg("%s", same[i]);
        assert_int_equal(c.n_note, 0);
    }
    struct qn_config c = good("{\"model_type\":\"qwen3_5\",\"tie_word_embeddings\":false,\"text_config\":{"
                              "\"rope_theta\":10000000,\"tie_word_embeddings\":true}}");
    assert_true(!c.is_tied && c.n_note == 1);
    c = good("{\"architectures\":[\"SomebodyElse\"]," DENSE ",\"mamba_ssm_dtype\":\"bfloat16\"}");
    assert_int_equal(c.n_note, 2);
    c = good("{" DENSE ",\"num_hidden_layers\":3,\"layer_types\":[\"full_attention\",\"linear_attention\","
             "\"full_attention\"],"
             "\"output_gate_type\":\"swish\"}");
    assert_true(c.n_full == 2 && c.n_gdn == 1 && c.is_full[0] && c.is_full[2]);
    c = good("{" DENSE
             ",\"output_gate_type\":\"sigmoid\",\"quantization_config\":{\"quant_method\":\"fp8\"}}");
    assert_int_equal(c.gate_act, QN_GATE_SIGMOID);
    assert_string_equal(c.quant_method, "fp8");
}

static void test_stop(void **state)
{
    (void)state;
    struct qn_config c;
    struct qn_err e = {0};
    assert_int_equal(
        parse("{\"model_type\":\"qwen3_5\",\"eos_token_id\":5,\"text_config\":{\"eos_token_id\":[6,5]}}",
              "{\"eos_token_id\":[7,6],\"temperature\":0.6,\"top_p\":0.95,\"top_k\":20,\"pad_token_id\":1}",
              &c, &e),
        0);
    assert_int_equal(c.n_stop, 3);
    assert_true(c.stop_tok[0] == 7 && c.stop_tok[1] == 6 && c.stop_tok[2] == 5);
    assert_true(c.temperature == 0.6f && c.top_p == 0.95f && c.gen_top_k == 20 && isnan(c.min_p));
    assert_int_equal(parse("{" DENSE "}", "{\"eos_token_id\":\"x\"}", &c, &e), QN_INVAL);
    assert_non_null(strstr(e.text, "generation_config.json"));
    assert_int_equal(parse("{" DENSE "}", "[]", &c, &e), QN_FORMAT);
    assert_int_equal(parse("{" DENSE "}", "{\"top_p\":7}", &c, &e), QN_INVAL);
    assert_int_equal(parse("{" DENSE ",\"eos_token_id\":-1}", NULL, &c, &e), QN_INVAL);
    /* a cut vocabulary under the configuration of the whole one */
    assert_int_equal(parse("{" DENSE ",\"vocab_size\":64,\"eos_token_id\":[248044,7]}", NULL, &c, &e), 0);
    assert_true(c.n_stop == 1 && c.stop_tok[0] == 7 && c.n_note == 1);
    assert_non_null(strstr(c.note[0], "248044"));
    assert_int_equal(parse("{" DENSE ",\"eos_token_id\":[0,1,2,3,4,5,6,7,8]}", NULL, &c, &e), QN_TOOBIG);
}

/* Sections for another head size are what a configuration class writes by default; text does not use them. */
static void test_sections(void **state)
{
    (void)state;
    struct qn_config c;
    struct qn_err e = {0};
    assert_int_equal(parse("{" DENSE ",\"mrope_section\":[1,2,3]}", NULL, &c, &e), 0);
    assert_true(c.n_note == 1 && c.mrope_section[2] == 3);
    assert_non_null(strstr(c.note[0], "mrope_section sums to 6"));
    assert_int_equal(parse("{" DENSE ",\"mrope_section\":[11,11,10]}", NULL, &c, &e), 0);
    assert_int_equal(c.n_note, 0);
}

static void test_bad(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int code;
        const char *word;
    } cases[] = {
        {"", QN_FORMAT, "JSON"},
        {"[]", QN_FORMAT, "not a JSON object"},
        {"{}", QN_UNSUPPORTED, "Qwen3.5"},
        {"{\"architectures\":[\"Qwen4ExpForCausalLM\"],\"model_type\":\"qwen4_exp\"}", QN_UNSUPPORTED,
         "Qwen4Exp"},
        {"{\"architectures\":[\"Qwen3NextForCausalLM\"],\"model_type\":\"qwen3_next\"}", QN_UNSUPPORTED,
         "Qwen3Next"},
        {"{\"architectures\":[5]," DENSE "}", QN_INVAL, "architectures"},
        {"{" DENSE ",\"hidden_size\":-1}", QN_INVAL, "hidden_size is -1, allowed are 1 to 65536"},
        {"{" DENSE ",\"hidden_size\":1e30}", QN_INVAL, "hidden_size"},
        {"{" DENSE ",\"hidden_size\":\"64\"}", QN_INVAL, "hidden_size"},
        {"{" DENSE ",\"hidden_size\":64.5}", QN_INVAL, "hidden_size"},
        {"{" DENSE ",\"hidden_size\":99999999999999999999}", QN_INVAL, "hidden_size"},
        {"{" DENSE ",\"num_hidden_layers\":0}", QN_INVAL, "num_hidden_layers"},
        {"{" DENSE ",\"num_hidden_layers\":257}", QN_INVAL, "num_hidden_layers"},
        {"{" DENSE ",\"vocab_size\":0}", QN_INVAL, "vocab_size"},
        {"{" DENSE ",\"num_attention_heads\":10}", QN_INVAL, "multiple"},
        {"{" DENSE ",\"linear_num_value_heads\":24}", QN_INVAL, "multiple"},
        {"{" DENSE ",\"rms_norm_eps\":-1}", QN_INVAL, "rms_norm_eps"},
        {"{" DENSE ",\"rope_theta\":0}", QN_INVAL, "rope_theta"},
        {"{" DENSE ",\"partial_rotary_factor\":1.5}", QN_INVAL, "partial_rotary_factor"},
        {"{" DENSE ",\"head_dim\":100}", QN_INVAL, "odd"},
        {"{" DENSE ",\"mrope_section\":[1,2]}", QN_INVAL, "mrope_section"},
        {"{" DENSE ",\"rope_parameters\":{\"rope_type\":\"longrope\"}}", QN_UNSUPPORTED, "longrope"},
        {"{" DENSE ",\"layer_types\":[\"full_attention\"]}", QN_INVAL, "layer_types has 1"},
        {"{" DENSE ",\"num_hidden_layers\":1,\"layer_types\":[\"sliding_attention\"]}", QN_UNSUPPORTED,
         "sliding"},
        {"{" DENSE ",\"num_hidden_layers\":1,\"layer_types\":[3]}", QN_UNSUPPORTED, "layer_types[0]"},
        {"{" DENSE ",\"attention_bias\":true}", QN_UNSUPPORTED, "attention_bias"},
        {"{" DENSE ",\"attn_output_gate\":false}", QN_UNSUPPORTED, "attn_output_gate"},
        {"{" DENSE ",\"hidden_act\":\"gelu\"}", QN_UNSUPPORTED, "gelu"},
        {"{" DENSE ",\"output_gate_type\":\"tanh\"}", QN_UNSUPPORTED, "tanh"},
        {"{" DENSE ",\"tie_word_embeddings\":\"yes\"}", QN_INVAL, "tie_word_embeddings"},
        {"{\"model_type\":\"qwen3_5_moe_text\",\"num_experts\":4,\"num_experts_per_tok\":8}", QN_INVAL,
         "num_experts_per_tok"},
        {"{\"model_type\":\"qwen3_5_moe_text\",\"mlp_only_layers\":[0]}", QN_UNSUPPORTED, "mlp_only_layers"},
        {"{\"model_type\":\"qwen3_5_moe_text\",\"decoder_sparse_step\":2}", QN_UNSUPPORTED,
         "decoder_sparse_step"},
    };
    for (size_t i = 0; i < QN_COUNT(cases); i++) {
        struct qn_config c;
        struct qn_err e = {0};
        int rc = parse(cases[i].text, NULL, &c, &e);
        if (rc != cases[i].code || !strstr(e.text, cases[i].word))
            fail_msg("%s: expected %s with '%s', got %s: %s", cases[i].text, qn_code_name(cases[i].code),
                     cases[i].word, qn_code_name(rc), e.text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_defaults), cmocka_unit_test(test_spellings),
                                       cmocka_unit_test(test_stop), cmocka_unit_test(test_sections),
                                       cmocka_unit_test(test_bad)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
