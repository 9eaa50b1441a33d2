/* Flags of other servers: every recorded name is known, and what becomes of command lines.
 * SPDX-License-Identifier: Apache-2.0 */
#include "support/test.h"

#include <dirent.h>

#include "cli/flags.h"

#define FOLDER QN_TEST_DIR "/golden/flags"

/* A recorded flag is known under its name, as the negative of a switch, or as a member of an object. */
static bool is_known(const char *name, char arity, struct qn_flag *f)
{
    char key[128];
    size_t n = 0;
    bool is_long = name[1] == '-';
    for (const char *p = name + (is_long ? 2 : 0); *p && n < sizeof key; p++)
        key[n++] = is_long && *p == '_' ? '-' : *p;
    if (qn_flag_find(key, n, f)) return true;
    if (n > 3 && !memcmp(key, "no-", 3) && qn_flag_find(key + 3, n - 3, f))
        return f->arity == 'b' && arity == '0';
    const char *dot = memchr(key, '.', n);
    return dot && qn_flag_find(key, (size_t)(dot - key), f);
}

static void check_list(const char *path)
{
    struct qn_buf text = QN_BUF_INIT(1 << 20);
    char *save = NULL;
    int n = 0;
    assert_int_equal(qn_buf_read_file(&text, path, NULL), QN_OK);
    for (char *line = strtok_r(text.data, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        char name[128], what[16];
        struct qn_flag f = {0};
        if (*line == '#' || sscanf(line, "%127s %15s", name, what) != 2) continue;
        if (!strcmp(name, "--help") || !strcmp(name, "-h") || !strcmp(name, "--usage") ||
            !strcmp(name, "--version"))
            continue;
        char arity = !strcmp(what, "bool") ? 'b' : !strcmp(what, "json") ? 'j' : *what;
        if (!is_known(name, arity, &f)) fail_msg("%s of %s is not in flags_table.c", name, path);
        bool takes = arity != '0' && arity != 'b', ours = f.arity != '0' && f.arity != 'b';
        if (takes != ours && f.arity != '?')
            fail_msg("%s of %s: %c, the table says %c", name, path, arity, f.arity);
        n++;
    }
    assert_true(n > 5);
    qn_buf_free(&text);
}

static void test_recorded_names_are_known(void **state)
{
    (void)state;
    DIR *dir = opendir(FOLDER);
    int n = 0;
    assert_non_null(dir);
    for (struct dirent *d; (d = readdir(dir));) {
        char path[4096];
        snprintf(path, sizeof path, "%s/%s", FOLDER, d->d_name);
        if (d->d_name[0] != '.') check_list(path), n++;
    }
    closedir(dir);
    assert_true(n >= 12);
}

static void test_table_is_sound(void **state)
{
    (void)state;
    int n = 0;
    for (struct qn_flag f = {0}, g; qn_flag_next(&f); n++) {
        assert_true(f.n_name > 0 && f.n_maker > 0 && strchr("012?+bj", f.arity));
        if (!qn_flag_find(f.name, (size_t)f.n_name, &g) || g.name != f.name)
            fail_msg("%.*s stands twice", f.n_name, f.name);
        bool has_text = f.rule->text != NULL;
        assert_true(has_text == (f.rule->does != QN_FLAG_OWN));
    }
    assert_true(n > 1500);
}

static const struct qn_opt own[] = {
    {.name = "context", .type = QN_OPT_COUNT, .arg = "N", .alias = "max-context"},
    {.name = "max-seqs", .type = QN_OPT_COUNT, .arg = "N"},
    {.name = "threads", .letter = 't', .type = QN_OPT_INT, .arg = "N"},
    {.name = "mtp", .type = QN_OPT_STR, .arg = "DEPTH"},
    {.name = "isolate-keys", .type = QN_OPT_FLAG},
    {.name = "trace", .type = QN_OPT_STR, .arg = "DIR"},
};

/* Words separated by | -> our words, joined the same way; an error as "! text". */
static char *translate(const char *line)
{
    struct qn_arena *arena = qn_arena_create(1 << 20);
    char *copy = xstrdup(line), *words[64], **argv = words, *save = NULL;
    int argc = 0;
    words[argc++] = "serve";
    for (char *w = strtok_r(copy, "|", &save); w; w = strtok_r(NULL, "|", &save)) words[argc++] = w;
    const struct qn_flags f = {.own = own, .n_own = QN_COUNT(own), .arena = arena};
    struct qn_err e = {0};
    struct qn_buf out = QN_BUF_INIT(1 << 16);
    int rc = qn_flags_read(&f, &argc, &argv, &e);
    if (rc) qn_buf_printf(&out, "! %s", e.text);
    for (int i = 1; !rc && i < argc; i++) qn_buf_printf(&out, "%s%s", i > 1 ? "|" : "", argv[i]);
    qn_buf_putc(&out, 0);
    free(copy);
    qn_arena_free(arena);
    return qn_buf_take(&out);
}

static const struct {
    const char *line, *want; /* want: "! " and a part of the error */
} cases[] = {
    /* values in all their spellings */
    {"M|--max-model-len|128k", "M|--context=128000"},
    {"M|--max-model-len=128K", "M|--context=131072"},
    {"M|--max_model_len|4096", "M|--context=4096"},
    {"M|--max-model-len|auto", "M"},
    {"M|--max-model-len|-1", "M"},
    {"M|-c|0", "M"},
    {"M|--context|1.5k|--trace|x", "M|--context=1.5k|--trace=x"},
    {"M|--max-model-len|many", "! not a whole number"},
    {"M|-np|4|--threads|-1", "M|--max-seqs=4"},
    {"M|-t8", "M|--threads=8"},
    {"M|--gpu-memory-utilization|0.9", "M|--memory-part=0.9"},
    {"M|--cache-ram|-1|--kv-offloading-size|2", "M|--ram-tier=2147483648"},
    {"M|--cram|64", "! unknown"},
    {"M|-cram|64", "M|--ram-tier=67108864"},
    {"M|--kv-cache-dtype|fp8_e4m3", "M|--kv=fp8_e4m3"},
    {"M|--kv-cache-dtype|float16", "M|--kv=auto"},
    {"M|--kv-cache-dtype|turbo3", "M"},
    {"M|--log-level|WARNING", "M|--log-level=warn"},
    {"M|--device|CUDA0,CUDA1", "M|--device=cuda"},
    {"M|--device|auto", "M"},
    {"M|--n-predict|-1|--temp|0.6", "M|--temperature=0.6"},
    {"M|--served-model-name|a|b|--api-key|k", "M|--served-model-name=a,b|--api-key=k"},
    {"--served-model-name|a|M", "--served-model-name=a|M"},
    {"M|--allowed-origins|[\"http://a\",\"http://b\"]", "M|--allowed-origins=http://a,http://b"},
    {"M|--cuda-graph-bs|1|2|4|--max-num-seqs|2", "M|--max-seqs=2"},
    /* switches */
    {"M|--enable-prefix-caching|--isolate-keys", "M|--isolate-keys"},
    {"M|--no-enable-prefix-caching", "M|--no-prefix-cache"},
    {"M|--enable-prefix-caching=False", "M|--no-prefix-cache"},
    {"M|--enable-chunked-prefill|false|--trust-remote-code", "M"},
    {"M|-fa|on|-fa|--flash-attn|auto|--jinja", "M"},
    {"M|--no-async-scheduling|--enforce-eager", "M"},
    /* beginnings, as argparse takes them */
    {"M|--trust-remote|--speculative-algo|NEXTN|--tensor-parallel|2", "M|--tp=2"},
    {"M|--tp|4|--dp|1|--pp|1", "M|--tp=4"},
    {"M|--max-num|4", "! short for several"},
    /* objects and their members */
    {"M|--compilation-config.level|3|-cc.mode=3|-O3|-O|2|-O.level=1", "M"},
    {"M|--default-chat-template-kwargs.enable_thinking|false",
     "M|--template-kwargs={\"enable_thinking\":false}"},
    {"M|--hf-overrides.rope_parameters.factor|4|--hf-overrides|{\"a\":1}",
     "M|--hf-overrides={\"rope_parameters\":{\"factor\":4},\"a\":1}"},
    {"M|--override-generation-config|{\"top_k\":20}", "M|--override-generation-config={\"top_k\":20}"},
    {"M|--override-generation-config|[1]", "! must be a JSON object"},
    /* speculation: depth 0 is off in every spelling */
    {"M|--speculative-config|{\"method\":\"mtp\",\"num_speculative_tokens\":2}", "M|--mtp=2"},
    {"M|--speculative-config.method|qwen3_next_mtp|--speculative-config.num_speculative_tokens|5",
     "M|--mtp=5"},
    {"M|-sc|{\"method\":\"mtp\",\"num_speculative_tokens\":0}", "M|--mtp=off"},
    {"M|--speculative-config|null", "M"},
    {"M|--speculative-num-steps|0", "M|--mtp=off"},
    {"M|--speculative-algorithm|EAGLE|--speculative-num-steps|3", "M|--mtp=3"},
    {"M|--speculative-algorithm|none", "M|--mtp=off"},
    {"M|--speculative-algorithm|EAGLE3|--speculative-num-steps|3", "M"},
    {"M|--spec-tokens|0", "M|--mtp=off"},
    {"M|--draft-max|0", "M|--mtp=off"},
    {"M|--spec-type|draft-mtp|--spec-draft-n-max|2", "M|--mtp=2"},
    {"M|--spec-type|none", "M|--mtp=off"},
    {"M|--mtp|0", "M|--mtp=off"},
    {"M|--mtp=auto|--speculative-num-steps|3", "M|--mtp=auto"},
    {"M|-mtp|--draft-max|12", "M|--mtp=8"},
    {"M|-no-mtp", "M|--mtp=off"},
    {"M|--speculative-config|{\"model\":\"d\",\"num_speculative_tokens\":3}", "M"},
    /* thinking */
    {"M|--reasoning-budget|0", "M|--think=off"},
    {"M|--reasoning-budget|-1|--reasoning|on|-rea|auto", "M"},
    {"M|--reasoning-budget|512", "! thinking_budget"},
    /* refused, and what asks for nothing */
    {"M|--lora|a.gguf", "! adapters are not supported"},
    {"M|--no-enable-lora|--max-loras|4", "M"},
    {"M|--enable-lora", "! adapters are not supported"},
    {"M|--mirostat|0|--xtc-probability|0.0|--typical|1|--top-nsigma|-1.0", "M"},
    {"M|--mirostat|2", "! sampler"},
    {"M|--load-format|dummy", "! random weights"},
    {"M|--load-format|fastsafetensors", "M"},
    {"M|--pooling|none|--runner|generate|--disaggregation-mode|null|--node-rank|0", "M"},
    {"M|--embedding", "! text generation"},
    {"M|--ssl-keyfile|k.pem", "! plain HTTP"},
    {"M|--context-shift|off|--no-context-shift", "M"},
    {"M|--context-shift", "! not shifted"},
    /* unknown: the nearest, through the names of others as well */
    {"M|--max-model-length|5", "! did you mean --max-model-len?"},
    {"M|--max-contex|5", "! did you mean --max-context?"},
    {"M|--tool-call-parse", "! needs a value"},
    {"M|--reasoning-parse|qwen3", "! short for several"},
    {"M|--qqqqqqqqqqqqqqqqqqqqqq", "! --help-foreign"},
    {"M|--max-num-seqs", "! needs a value"},
    {"M|-Z", "! unknown option -Z"},
    /* whole commands of others */
    {"vllm|serve|M|--max-num-seqs|4", "M|--max-seqs=4"},
    {"VLLM_USE_V1=1|OMP_NUM_THREADS=8|vllm|serve|M|--seed|0", "M"},
    {"python3|-m|sglang.launch_server|--model-path|M|--tp|2", "--model=M|--tp=2"},
    {"env|A=1|/opt/venv/bin/python|-m|vllm.entrypoints.openai.api_server|--model|M", "--model=M"},
    {"numactl|--interleave=all|./build/bin/llama-server|-m|M.gguf|-ngl|99", "--model=M.gguf"},
    {"docker|run|--gpus|all|-p|8000:8000|vllm/vllm-openai:latest|--model|M", "--model=M"},
    {"sglang|serve|--model-path|M|\\", "--model=M"},
    {"M|--|--not-an-option", "M|--|--not-an-option"},
};

static void test_command_lines(void **state)
{
    (void)state;
    int n_wrong = 0;
    for (size_t i = 0; i < QN_COUNT(cases); i++) {
        char *got = translate(cases[i].line);
        bool is_error = cases[i].want[0] == '!';
        bool fits = is_error ? got[0] == '!' && strstr(got, cases[i].want + 2) : !strcmp(got, cases[i].want);
        if (!fits) print_error("%s\n gives %s\n not   %s\n", cases[i].line, got, cases[i].want);
        n_wrong += !fits;
        free(got);
    }
    assert_int_equal(n_wrong, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_recorded_names_are_known),
        cmocka_unit_test(test_table_is_sound),
        cmocka_unit_test(test_command_lines),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
