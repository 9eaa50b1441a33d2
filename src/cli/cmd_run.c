/* quern run: one prompt, one answer.
 * SPDX-License-Identifier: Apache-2.0 */
#include "cli/talk.h"
#include "text/tokenizer.h"

#define MAX_PROMPT_BYTES ((size_t)64 << 20)

static void show(void *user, const char *s, size_t n)
{
    (void)user;
    fwrite(s, 1, n, stdout);
    fflush(stdout);
}

static void print_json(const struct qn_talk_answer *a, const struct qn_prompt *prompt)
{
    const struct qn_request_stats *s = &a->stats;
    struct qn_buf b = QN_BUF_INIT((size_t)1 << 30);
    qn_buf_puts(&b, "{\"text\":");
    qn_json_write_str(&b, qn_buf_str(&a->text), a->text.n_byte, false);
    qn_buf_puts(&b, ",\"tokens\":[");
    for (int i = 0; i < a->n_tok; i++) qn_buf_printf(&b, i ? ",%d" : "%d", a->tok[i]);
    qn_buf_printf(&b, "],\"starts_in_thinking\":%s,\"finish_reason\":\"%s\"",
                  prompt->is_thinking ? "true" : "false", qn_talk_finish_name(a->finish));
    qn_buf_printf(
        &b,
        ",\"usage\":{\"prompt_tokens\":%d,\"cached_tokens\":%d,\"completion_tokens\":%d,\"drafted\":%d,"
        "\"accepted\":%d,\"steps\":%d}",
        s->n_prompt, s->n_cached, s->n_new, s->n_drafted, s->n_accepted, s->n_step);
    qn_buf_printf(&b, ",\"load_s\":%.3f,\"prefill_s\":%.4f,\"decode_s\":%.4f}", a->load_s,
                  (double)s->prefill_us / 1e6, (double)s->decode_us / 1e6);
    puts(qn_buf_str(&b));
    qn_buf_free(&b);
}

/* The prompt as a user's message through the template, or as it is (raw, or a model without a template). */
static int make_prompt(struct qn_prompt *out, const struct qn_talk *t, const char *text, bool raw,
                       struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_arena *arena = qn_arena_create(MAX_PROMPT_BYTES * 4);
    struct qn_chat chat;
    *out = (struct qn_prompt){0};
    if (raw || !t->text->template) {
        struct qn_ids ids = QN_IDS_INIT(MAX_PROMPT_BYTES);
        rc = qn_tokenizer_encode(t->text->tokenizer, text, strlen(text), NULL, &ids, e);
        out->ids = ids.data;
        out->n_tok = (int)ids.n;
        goto out;
    }
    qn_chat_init(&chat, arena);
    qn_chat_add_message(&chat, "user", qn_json_new_str(arena, text, strlen(text)));
    if (t->options.think) chat.enable_thinking = !strcmp(t->options.think, "on");
    QN_TRY(qn_chat_render(out, t->text, &chat, NULL, e));
out:
    qn_arena_free(arena);
    return rc;
}

static int run_prompt(const char *folder, const char *text, const struct qn_talk_options *o, bool raw,
                      bool json, struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_talk talk = {0};
    struct qn_prompt prompt = {0};
    struct qn_talk_answer answer = {0};
    QN_TRY(qn_talk_open(&talk, folder, o, e));
    QN_TRY(make_prompt(&prompt, &talk, text, raw, e));
    QN_TRY(qn_talk_answer(&talk, &prompt, json ? NULL : show, NULL, &answer, e));
    if (json)
        print_json(&answer, &prompt);
    else
        putchar('\n');
    fflush(stdout);
    qn_talk_print_stats(stderr, &answer);
out:
    qn_talk_answer_free(&answer);
    qn_prompt_free(&prompt);
    qn_talk_close(&talk);
    return rc;
}

static int run(int argc, char **argv)
{
    struct qn_talk_options o;
    struct qn_opt table[QN_TALK_N_OPT + 3];
    const char *text = NULL, *folder;
    bool json = false, raw = false;
    qn_talk_defaults(&o);
    int n_opt = qn_talk_table(&o, table);
    table[n_opt++] = (struct qn_opt){.name = "prompt",
                                     .letter = 'p',
                                     .type = QN_OPT_STR,
                                     .out = &text,
                                     .arg = "TEXT",
                                     .help = "(standard input)"};
    table[n_opt++] = (struct qn_opt){
        .name = "raw", .type = QN_OPT_FLAG, .out = &raw, .help = "continue the text, no template"};
    table[n_opt++] = (struct qn_opt){
        .name = "json", .type = QN_OPT_FLAG, .out = &json, .help = "one JSON object at the end"};
    static const struct qn_opt_usage usage = {
        "quern run MODEL -p TEXT [options]",
        "Answers one prompt: streams to standard output, statistics to standard error.",
        "quern run models/mini -p 'What is a quern?' --seed 1"};
    struct qn_err e = {0};
    struct qn_buf in = QN_BUF_INIT(MAX_PROMPT_BYTES);
    int n_arg, rc = qn_opt_parse(table, (size_t)n_opt, &usage, argc, argv, &folder, 1, &n_arg, &e);
    if (!rc && !n_arg) rc = qn_err_set(&e, QN_INVAL, __FILE__, __LINE__, "MODEL is missing; see --help");
    if (rc) return qn_cli_usage_failed("run", rc, &e);
    if (!text) {
        rc = qn_buf_read_stream(&in, stdin, "stdin", &e);
        text = qn_buf_str(&in);
    }
    if (!rc) rc = run_prompt(folder, text, &o, raw, json, &e);
    qn_buf_free(&in);
    return rc ? qn_cli_failed("run", &e) : 0;
}

const struct qn_cmd qn_cmd_run = {"run", "answer one prompt", run};
