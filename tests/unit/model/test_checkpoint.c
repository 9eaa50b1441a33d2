/* Checkpoint folders: prefixes, stale and missing tensors, shards, lists that lie; and each refusal's
 * message. SPDX-License-Identifier: Apache-2.0 */
#include "folder.h"

#include <math.h>

#include "model/hint.h"
#include "model/roles.h"
#include "model/synth.h"
#include "model/writer.h"

/* What a rewrite does to one tensor: renames it (into out) or drops it (false). */
typedef bool (*change_fn)(const char *name, char *out, size_t n);

static char *base;

static void synth(const char *name, const char *shape_text, const char *format)
{
    struct qn_err e = {0};
    struct qn_shape shape;
    char *path = xasprintf("%s/%s", base, name);
    assert_int_equal(qn_shape_find(&shape, shape_text, &e), 0);
    struct qn_synth s = {.shape = &shape, .store = qn_store_find(format), .seed = 3, .is_quiet = true};
    if (qn_synth_write(&s, path, &e)) fail_msg("%s", e.text);
    free(path);
}

static int open_model(const char *name, struct qn_model **m, struct qn_err *e)
{
    char *path = xasprintf("%s/%s", base, name);
    *m = NULL;
    memset(e, 0, sizeof *e);
    int rc = qn_model_open(m, path, e);
    free(path);
    return rc;
}

static struct qn_model *must_open(const char *name)
{
    struct qn_model *m;
    struct qn_err e;
    if (open_model(name, &m, &e)) fail_msg("%s: %s", name, e.text);
    return m;
}

static char *read_text(const char *folder, const char *name)
{
    struct qn_buf b = QN_BUF_INIT(1 << 20);
    char *path = xasprintf("%s/%s/%s", base, folder, name);
    assert_int_equal(qn_buf_read_file(&b, path, NULL), 0);
    free(path);
    return qn_buf_take(&b);
}

/* Copies a checkpoint with changed names, extra tensors and one text replacement in config.json. */
static void rewrite(const char *from, const char *to, change_fn change, const struct qn_tensor *extra,
                    int n_extra, const char *find, const char *replace)
{
    struct qn_err e = {0};
    struct qn_model *m = must_open(from);
    struct qn_writer *w;
    struct qn_tensor list[1024];
    int source[1024], n = 0;
    char *path = xasprintf("%s/%s", base, to);
    for (int i = 0; i < qn_model_n_tensors(m); i++) {
        char name[512];
        snprintf(name, sizeof name, "%s", qn_model_tensor(m, i)->name);
        if (change && !change(qn_model_tensor(m, i)->name, name, sizeof name)) continue;
        source[n] = i;
        list[n] = *qn_model_tensor(m, i);
        list[n++].name = xstrdup(name);
    }
    int n_old = n;
    for (int i = 0; i < n_extra; i++) {
        list[n] = extra[i];
        list[n++].name = xstrdup(extra[i].name);
    }
    if (qn_writer_open(&w, path, NULL, &e) || qn_writer_declare(w, list, n, QN_SHARD_BYTES, &e))
        fail_msg("%s", e.text);
    for (int i = 0; i < n; i++) {
        const void *data = i < n_old ? qn_model_tensor(m, source[i])->data : extra[i - n_old].data;
        assert_int_equal(qn_writer_put(w, i, 0, data, list[i].n_byte, &e), 0);
        free((void *)(uintptr_t)list[i].name);
    }
    char *config = read_text(from, "config.json");
    if (find) {
        char *at = strstr(config, find);
        if (!at) fail_msg("no '%s' in config.json", find);
        char *changed = xasprintf("%.*s%s%s", (int)(at - config), config, replace, at + strlen(find));
        free(config);
        config = changed;
    }
    assert_int_equal(qn_writer_file(w, "config.json", config, strlen(config), &e), 0);
    assert_int_equal(qn_writer_commit(w, &e), 0);
    qn_writer_close(w);
    qn_model_close(m);
    free(config);
    free(path);
}

/* All layers and vectors of b equal those of a. */
static void same_model(const struct qn_model *a, const struct qn_model *b)
{
    const struct qn_config *c = qn_model_config(a);
    for (int r = 0; r < QN_N_ROLE; r++)
        for (int layer = QN_LAYER_MTP; layer < c->n_layer; layer++)
            for (int x = 0; x < (qn_role_is_expert((enum qn_role)r) ? c->n_expert : 1); x++) {
                struct qn_linear la, lb;
                int ra = qn_model_linear(a, (enum qn_role)r, layer, x, &la, NULL);
                int rb = qn_model_linear(b, (enum qn_role)r, layer, x, &lb, NULL);
                if (ra != rb) fail_msg("role %d layer %d: %d and %d", r, layer, ra, rb);
                if (ra) continue;
                assert_int_equal(la.format, lb.format);
                assert_int_equal(la.weight.n_byte, lb.weight.n_byte);
                assert_memory_equal(la.weight.data, lb.weight.data, la.weight.n_byte);
                assert_true(la.scale2 == lb.scale2);
            }
    for (int v = 0; v < QN_N_VEC; v++)
        for (int layer = QN_LAYER_MTP; layer < c->n_layer; layer++) {
            size_t n = qn_vec_count(c, (enum qn_vec)v, layer);
            if (!n) continue;
            float *x = xmalloc(n * 4), *y = xmalloc(n * 4);
            assert_int_equal(qn_model_vec(a, (enum qn_vec)v, layer, x, n, NULL), 0);
            assert_int_equal(qn_model_vec(b, (enum qn_vec)v, layer, y, n, NULL), 0);
            assert_memory_equal(x, y, n * 4);
            free(x);
            free(y);
        }
}

static bool to_converter(const char *name, char *out, size_t n)
{
    if (!strncmp(name, "model.language_model.", 21))
        snprintf(out, n, "language_model.model.%s", name + 21);
    else if (!strncmp(name, "lm_head", 7))
        snprintf(out, n, "language_model.%s", name);
    return true;
}

static bool to_text_only(const char *name, char *out, size_t n)
{
    if (!strncmp(name, "model.language_model.", 21)) snprintf(out, n, "model.%s", name + 21);
    if (!strncmp(name, "mtp.", 4)) snprintf(out, n, "model.%s", name);
    return true;
}

static bool to_weight_suffix(const char *name, char *out, size_t n)
{
    if (strstr(name, "experts.gate_up_proj") || strstr(name, "experts.down_proj"))
        snprintf(out, n, "%s.weight", name);
    return true;
}

static void test_prefixes(void **state)
{
    (void)state;
    struct qn_model *a = must_open("moe"), *b;
    static const change_fn changes[] = {to_converter, to_text_only, to_weight_suffix};
    for (size_t i = 0; i < QN_COUNT(changes); i++) {
        char name[32];
        snprintf(name, sizeof name, "prefix%zu", i);
        rewrite("moe", name, changes[i], NULL, 0, NULL, NULL);
        b = must_open(name);
        same_model(a, b);
        assert_int_equal(qn_model_n_notes(b), 0);
        assert_true(qn_model_has_mtp(b));
        qn_model_close(b);
    }
    qn_model_close(a);
}

static bool has_note(const struct qn_model *m, const char *word)
{
    for (int i = 0; i < qn_model_n_notes(m); i++)
        if (strstr(qn_model_note(m, i), word)) return true;
    return false;
}

static bool drop_mtp(const char *name, char *out, size_t n)
{
    (void)out;
    (void)n;
    return strncmp(name, "mtp.", 4) != 0;
}

static bool drop_mtp_fc(const char *name, char *out, size_t n)
{
    (void)out;
    (void)n;
    return strcmp(name, "mtp.fc.weight") != 0;
}

static bool drop_up(const char *name, char *out, size_t n)
{
    (void)out;
    (void)n;
    return !strstr(name, "layers.1.mlp.up_proj");
}

static bool drop_head(const char *name, char *out, size_t n)
{
    (void)out;
    (void)n;
    return strncmp(name, "lm_head", 7) != 0;
}

static void test_mtp(void **state)
{
    (void)state;
    struct qn_model *m;
    rewrite("dense", "no-mtp", drop_mtp, NULL, 0, NULL, NULL);
    m = must_open("no-mtp");
    assert_true(!qn_model_has_mtp(m) && has_note(m, "promises 1 MTP"));
    struct qn_linear l;
    assert_int_equal(qn_model_linear(m, QN_ROLE_MTP_FC, 0, 0, &l, NULL), QN_NOTFOUND);
    assert_int_equal(qn_model_linear(m, QN_ROLE_Q, QN_LAYER_MTP, 0, &l, NULL), QN_NOTFOUND);
    qn_model_close(m);
    rewrite("dense", "half-mtp", drop_mtp_fc, NULL, 0, NULL, NULL);
    m = must_open("half-mtp");
    assert_true(!qn_model_has_mtp(m) && has_note(m, "mtp.fc.weight"));
    qn_model_close(m);
    rewrite("dense", "unpromised", NULL, NULL, 0, "\"mtp_num_hidden_layers\": 1",
            "\"mtp_num_hidden_layers\": 0");
    m = must_open("unpromised");
    assert_true(qn_model_has_mtp(m) && has_note(m, "promises no MTP"));
    qn_model_close(m);
}

static const unsigned char zeros[1 << 20];

static void test_extras(void **state)
{
    (void)state;
    struct qn_model *a = must_open("dense"), *m;
    struct qn_err e;
    /* a head that is the tied one, vision tensors, side tensors */
    struct qn_tensor extra[] = {
        *qn_model_find(a, "model.language_model.embed_tokens.weight"),
        {"model.visual.patch_embed.proj.weight", QN_BF16, 5, {4, 3, 2, 2, 2}, zeros, 192},
        {"model.language_model.layers.0.mlp.up_proj.input_scale", QN_F32, 0, {0}, zeros, 4},
    };
    extra[0].name = "lm_head.weight";
    rewrite("dense", "extras", NULL, extra, 3, NULL, NULL);
    m = must_open("extras");
    assert_true(has_note(m, "lm_head.weight is ignored") && has_note(m, "1 vision tensors"));
    same_model(a, m);
    assert_true(qn_model_config(m)->is_tied);
    qn_model_close(m);
    qn_model_close(a);
    /* one of its own: it counts, as in transformers */
    const struct qn_tensor own = {"lm_head.weight", QN_BF16, 2, {320, 64}, zeros, 320 * 64 * 2};
    struct qn_linear head;
    rewrite("dense", "own-head", NULL, &own, 1, NULL, NULL);
    m = must_open("own-head");
    assert_true(has_note(m, "the files hold another lm_head.weight") && !qn_model_config(m)->is_tied);
    assert_int_equal(qn_model_linear(m, QN_ROLE_HEAD, 0, 0, &head, NULL), 0);
    assert_string_equal(head.weight.name, "lm_head.weight");
    qn_model_close(m);
    const struct qn_tensor bias = {
        "model.language_model.layers.0.mlp.up_proj.bias", QN_BF16, 1, {128}, zeros, 256};
    rewrite("dense", "leftover", NULL, &bias, 1, NULL, NULL);
    assert_int_equal(open_model("leftover", &m, &e), QN_FORMAT);
    assert_non_null(strstr(e.text, "layers.0.mlp.up_proj.bias"));
}

static void test_refused(void **state)
{
    (void)state;
    struct qn_model *m;
    struct qn_err e;
    rewrite("dense", "no-up", drop_up, NULL, 0, NULL, NULL);
    assert_int_equal(open_model("no-up", &m, &e), QN_NOTFOUND);
    assert_non_null(strstr(e.text, "layers.1.mlp.up_proj.weight [128, 64] is missing"));
    rewrite("untied", "no-head", drop_head, NULL, 0, NULL, NULL);
    assert_int_equal(open_model("no-head", &m, &e), QN_NOTFOUND);
    assert_non_null(strstr(e.text, "tie_word_embeddings"));
    rewrite("dense", "other-width", NULL, NULL, 0, "\"intermediate_size\": 128", "\"intermediate_size\": 96");
    assert_int_equal(open_model("other-width", &m, &e), QN_FORMAT);
    assert_non_null(strstr(e.text, "expected [96, 64], found BF16 [128, 64]"));
    rewrite("moe", "other-experts", NULL, NULL, 0, "\"num_experts\": 8", "\"num_experts\": 4");
    assert_int_equal(open_model("other-experts", &m, &e), QN_FORMAT);
    rewrite("dense", "fewer-layers", NULL, NULL, 0, "\"num_hidden_layers\": 4", "\"num_hidden_layers\": 5");
    assert_int_equal(open_model("fewer-layers", &m, &e), QN_INVAL); /* layer_types disagrees */
    assert_int_equal(open_model("nowhere", &m, &e), QN_NOTFOUND);
    /* weights stored twice */
    const struct qn_tensor twice = {
        "model.language_model.layers.0.mlp.experts.0.gate_proj.weight", QN_BF16, 2, {32, 64}, zeros, 4096};
    rewrite("moe", "twice", NULL, &twice, 1, NULL, NULL);
    assert_int_equal(open_model("twice", &m, &e), QN_FORMAT);
    assert_non_null(strstr(e.text, "twice"));
}

static void test_shards(void **state)
{
    (void)state;
    struct qn_err e = {0};
    struct qn_shape shape;
    struct qn_model *a = must_open("dense"), *m;
    char *path = xasprintf("%s/sharded", base);
    assert_int_equal(qn_shape_find(&shape, "tiny", &e), 0);
    struct qn_synth s = {
        .shape = &shape, .store = qn_store_find("bf16"), .seed = 3, .shard_bytes = 200000, .is_quiet = true};
    assert_int_equal(qn_synth_write(&s, path, &e), 0);
    m = must_open("sharded");
    same_model(a, m);
    assert_int_equal(qn_model_n_notes(m), 0);
    qn_model_close(m);
    /* without its index: all files are read, and said so */
    char *index = xasprintf("%s/model.safetensors.index.json", path);
    char *text = read_text("sharded", "model.safetensors.index.json");
    unlink(index);
    m = must_open("sharded");
    same_model(a, m);
    assert_true(has_note(m, "no model.safetensors.index.json"));
    qn_model_close(m);
    /* bad indexes */
    static const struct {
        const char *text;
        int code;
        const char *word;
    } bad[] = {{"{", QN_FORMAT, "JSON"},
               {"{\"weight_map\":{}}", QN_FORMAT, "weight_map"},
               {"{\"weight_map\":{\"a\":5}}", QN_FORMAT, "not a file name"},
               {"{\"weight_map\":{\"a\":\"../x.safetensors\"}}", QN_FORMAT, "../x"},
               {"{\"weight_map\":{\"a\":\"x.safetensors\"}}", QN_NOTFOUND, "x.safetensors"},
               {"{\"weight_map\":{\"a\":\"model-00001-of-00003.safetensors\"}}", QN_FORMAT,
                "tensor a of the index"}};
    for (size_t i = 0; i < QN_COUNT(bad); i++) {
        folder_write(path, "model.safetensors.index.json", bad[i].text, strlen(bad[i].text));
        int rc = open_model("sharded", &m, &e);
        if (rc != bad[i].code || !strstr(e.text, bad[i].word))
            fail_msg("%s: %s: %s", bad[i].text, qn_code_name(rc), e.text);
    }
    folder_write(path, "model.safetensors.index.json", text, strlen(text));
    char *shard = xasprintf("%s/model-00002-of-00003.safetensors", path);
    assert_int_equal(truncate(shard, 5000), 0);
    assert_int_equal(open_model("sharded", &m, &e), QN_FORMAT);
    unlink(shard);
    assert_int_equal(open_model("sharded", &m, &e), QN_NOTFOUND);
    assert_non_null(strstr(e.text, "model-00002-of-00003"));
    qn_model_close(a);
    free(index);
    free(text);
    free(shard);
    free(path);
}

/* A list that is wrong, empty or gone changes a note, not the model. */
static void test_hints(void **state)
{
    (void)state;
    synth("nvfp4", "tiny-moe", "nvfp4");
    struct qn_model *a = must_open("nvfp4"), *m;
    assert_int_equal(qn_model_n_notes(a), 0);
    rewrite("nvfp4", "hint-gone", NULL, NULL, 0, "\"quantization_config\"", "\"unrelated\"");
    m = must_open("hint-gone");
    same_model(a, m);
    assert_true(has_note(m, "no quantization_config"));
    qn_model_close(m);
    rewrite("nvfp4", "hint-empty", NULL, NULL, 0, "\"ignore\"", "\"other\"");
    m = must_open("hint-empty");
    same_model(a, m);
    assert_true(has_note(m, "does not exclude mlp.gate ") && has_note(m, "config.json"));
    qn_model_close(m);
    rewrite("nvfp4", "hint-wrong", NULL, NULL, 0, "\"ignore\": [", "\"ignore\": [ \"*experts.*\", ");
    m = must_open("hint-wrong");
    same_model(a, m);
    assert_true(has_note(m, "excludes mlp.experts.*.up_proj"));
    qn_model_close(m);
    rewrite("nvfp4", "hint-method", NULL, NULL, 0, "\"quant_algo\": \"NVFP4\"", "\"quant_algo\": \"FP8\"");
    m = must_open("hint-method");
    same_model(a, m);
    assert_true(has_note(m, "config.json says FP8, the files hold layers as NVFP4"));
    qn_model_close(m);
    rewrite("nvfp4", "hint-layers", NULL, NULL, 0, "\"quant_algo\": \"NVFP4\"",
            "\"quant_algo\": \"MIXED_PRECISION\", \"quantized_layers\": "
            "{\"model.language_model.layers.1.mlp.experts.0.up_proj\": {\"quant_algo\": \"FP8\"}}");
    m = must_open("hint-layers");
    same_model(a, m);
    assert_true(has_note(m, "lists mlp.experts.*.up_proj as FP8, the files hold it as NVFP4 (1)"));
    qn_model_close(m);
    rewrite("dense", "hint-false", NULL, NULL, 0, "{\n",
            "{ \"quantization_config\": {\"quant_method\": \"fp8\"},\n");
    m = must_open("hint-false");
    assert_true(has_note(m, "hold no quantised layer"));
    qn_model_close(m);
    qn_model_close(a);
    assert_true(qn_hint_matches("model.layers.1.mlp", "model.language_model.layers.1.mlp.gate"));
    assert_false(qn_hint_matches("model.layers.1", "model.language_model.layers.10.mlp.gate"));
    assert_true(qn_hint_matches("mtp.layers.0*", "mtp.layers.0.mlp.gate"));
    assert_true(qn_hint_matches("re:.*mlp\\.gate$", "model.layers.0.mlp.gate"));
    assert_false(qn_hint_matches("re:.*mlp\\.gate$", "model.layers.0.mlp.gate_proj"));
    assert_true(qn_hint_matches("lm_head", "lm_head"));
    assert_false(qn_hint_matches("re:((((", "lm_head"));
    assert_false(qn_hint_matches("re:(a{1,9}){1,9}", "lm_head"));
}

static void test_kv_scales(void **state)
{
    (void)state;
    static const float k = 0.5f, v = 0.25f, bad = -1;
    static const uint16_t one = 0x3f80;
    float a, b;
    const struct qn_tensor modelopt[] = {
        {"model.language_model.layers.3.self_attn.k_proj.k_scale", QN_F32, 0, {0}, &k, 4},
        {"model.language_model.layers.3.self_attn.v_proj.v_scale", QN_F32, 0, {0}, &v, 4}};
    rewrite("dense", "kv1", NULL, modelopt, 2, NULL, NULL);
    struct qn_model *m = must_open("kv1");
    assert_true(qn_model_kv_scale(m, 3, &a, &b) && a == 0.5f && b == 0.25f);
    assert_false(qn_model_kv_scale(m, QN_LAYER_MTP, &a, &b));
    assert_true(a == 1 && b == 1);
    qn_model_close(m);
    const struct qn_tensor ct[] = {
        {"model.language_model.layers.3.self_attn.k_scale", QN_BF16, 1, {1}, &one, 2},
        {"model.language_model.layers.3.self_attn.v_scale", QN_F32, 1, {1}, &v, 4}};
    rewrite("dense", "kv2", NULL, ct, 2, NULL, NULL);
    m = must_open("kv2");
    assert_true(qn_model_kv_scale(m, 3, &a, &b) && a == 1 && b == 0.25f);
    qn_model_close(m);
    const struct qn_tensor wrong[] = {
        {"model.language_model.layers.3.self_attn.k_scale", QN_F32, 1, {1}, &bad, 4},
        {"model.language_model.layers.3.self_attn.v_scale", QN_F32, 1, {1}, &v, 4}};
    rewrite("dense", "kv3", NULL, wrong, 2, NULL, NULL);
    m = must_open("kv3");
    assert_false(qn_model_kv_scale(m, 3, &a, &b));
    assert_true(has_note(m, "KV-cache scale") && has_note(m, "layers.3.self_attn.k_scale"));
    qn_model_close(m);
    rewrite("dense", "kv4", NULL, modelopt + 1, 1, NULL, NULL); /* v alone */
    m = must_open("kv4");
    assert_false(qn_model_kv_scale(m, 3, &a, &b));
    assert_true(has_note(m, "v_proj.v_scale"));
    qn_model_close(m);
}

static int set_up(void **state)
{
    (void)state;
    base = folder_make();
    synth("dense", "tiny", "bf16");
    synth("untied", "tiny:tied=0", "bf16");
    synth("moe", "tiny-moe:layout=mixed", "bf16");
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    folder_remove(base);
    free(base);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_prefixes),  cmocka_unit_test(test_mtp),    cmocka_unit_test(test_extras),
        cmocka_unit_test(test_refused),   cmocka_unit_test(test_shards), cmocka_unit_test(test_hints),
        cmocka_unit_test(test_kv_scales),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
