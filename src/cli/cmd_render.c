/* quern render: a chat request -> the prompt the server would run for it.
 * SPDX-License-Identifier: Apache-2.0 */
#include <math.h>

#include "cli/cli.h"
#include "model/config.h"
#include "server/look.h"
#include "text/chat.h"

#define MAX_BODY_BYTES ((size_t)256 << 20)

static void print_ids(const struct qn_prompt *p)
{
    putchar('[');
    for (int i = 0; i < p->n_tok; i++) printf(i ? ", %d" : "%d", p->ids[i]);
    puts("]");
}

static int render(const char *folder, const char *template_path, bool tokens, struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_text *text = NULL;
    struct qn_arena *arena = qn_arena_create(MAX_BODY_BYTES * 16);
    struct qn_buf in = QN_BUF_INIT(MAX_BODY_BYTES);
    struct qn_prompt prompt = {0};
    struct qn_json *body;
    struct qn_chat chat;
    struct qn_eyes eyes;
    struct qn_config config;
    struct qn_look look = {0};
    const struct qn_source_policy policy = {.eyes = &eyes,
                                            .folder = "/",
                                            .want = QN_EYES_WANT,
                                            .background = {255, 255, 255},
                                            .video_fps = NAN,
                                            .video_frames = -1};
    const struct qn_look_rules rules = {&policy, -1, -1};
    const struct qn_text_opt text_opt = {.template_path = template_path, .no_tokenizer = !tokens};
    const struct qn_chat_opt opt = {.no_ids = !tokens, .allow_request_template = true};
    QN_TRY(qn_text_open(&text, folder, &text_opt, e));
    QN_TRY(qn_buf_read_stream(&in, stdin, "stdin", e));
    QN_TRY(qn_json_parse(&body, arena, qn_buf_str(&in), in.n_byte, "stdin", e));
    qn_chat_init(&chat, arena);
    QN_TRY(qn_chat_read(&chat, body, e));
    QN_TRY(qn_eyes_read(&eyes, folder, e));
    if (eyes.has_file || (!qn_config_read(&config, folder, NULL, NULL) && config.has_vision))
        QN_TRY(qn_look_read(&look, &chat, &rules, qn_json_get(body, "mm_processor_kwargs"),
                            qn_json_get(body, "media_io_kwargs"), true, e));
    QN_TRY(qn_chat_render(&prompt, text, &chat, &opt, e));
    if (chat.n_tools_skipped)
        fprintf(stderr, "quern render: left out %d tools that are no functions\n", chat.n_tools_skipped);
    if (prompt.used_empty_user)
        fprintf(stderr, "quern render: the conversation has no user message; an empty one was added\n");
    if (tokens)
        print_ids(&prompt);
    else
        fwrite(prompt.text, 1, prompt.n_byte, stdout);
    QN_FAIL_IF(fflush(stdout), e, QN_IO, "stdout cannot be written");
out:
    qn_look_free(&look);
    qn_prompt_free(&prompt);
    qn_buf_free(&in);
    qn_arena_free(arena);
    qn_text_close(text);
    return rc;
}

static int run(int argc, char **argv)
{
    bool tokens = false;
    const char *template_path = NULL, *folder;
    const struct qn_opt table[] = {
        {.name = "tokens", .type = QN_OPT_FLAG, .out = &tokens, .help = "the token ids as one JSON array"},
        {.name = "chat-template",
         .type = QN_OPT_STR,
         .out = &template_path,
         .arg = "FILE",
         .help = "a template instead of the folder's"},
    };
    static const struct qn_opt_usage usage = {
        "quern render MODEL [--tokens] < chat-request.json",
        "Writes the exact prompt that the server would run for an OpenAI chat request. MODEL is a folder "
        "with the "
        "tokenizer and template files; weights are not read.",
        "echo '{\"messages\":[{\"role\":\"user\",\"content\":\"Hi\"}]}' | quern render models/mini"};
    struct qn_err e = {0};
    int n_arg, rc = qn_opt_parse(table, QN_COUNT(table), &usage, argc, argv, &folder, 1, &n_arg, &e);
    if (!rc && !n_arg) rc = qn_err_set(&e, QN_INVAL, __FILE__, __LINE__, "MODEL is missing; see --help");
    if (rc) return qn_cli_usage_failed("render", rc, &e);
    rc = render(folder, template_path, tokens, &e);
    return rc ? qn_cli_failed("render", &e) : 0;
}

const struct qn_cmd qn_cmd_render = {"render", "a chat request to the prompt text or ids", run};
