/* quern chat: a conversation on the terminal. The state between turns is the engine's prefix cache.
 * SPDX-License-Identifier: Apache-2.0 */
#include <unistd.h>

#include "cli/talk.h"

#define MAX_LINE_BYTES  ((size_t)4 << 20)
#define MAX_ARENA_BYTES ((size_t)1 << 30)

struct screen {
    bool has_colour, is_thinking;
    struct qn_buf line; /* tail that might be the start of a marker */
};

static const char marker[] = "</think>";

static void put(const char *s, size_t n)
{
    fwrite(s, 1, n, stdout);
    fflush(stdout);
}

/* Shows thinking dimmed; looks for its end across pieces. */
static void show(void *user, const char *s, size_t n)
{
    struct screen *v = user;
    if (!v->is_thinking) {
        put(s, n);
        return;
    }
    qn_buf_append(&v->line, s, n);
    const char *end = strstr(qn_buf_str(&v->line), marker);
    if (end) {
        size_t before = (size_t)(end - v->line.data);
        put(v->line.data, before);
        if (v->has_colour) put("\x1b[0m", 4);
        v->is_thinking = false;
        put(end + sizeof marker - 1, v->line.n_byte - before - (sizeof marker - 1));
        qn_buf_clear(&v->line);
        return;
    }
    size_t keep = QN_MIN(v->line.n_byte, sizeof marker - 2); /* may be a part of the marker */
    put(v->line.data, v->line.n_byte - keep);
    qn_buf_drop(&v->line, v->line.n_byte - keep);
}

static int answer(struct qn_talk *t, struct qn_chat *chat, bool quiet, struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_prompt prompt = {0};
    struct qn_talk_answer a = {0};
    struct screen screen = {.has_colour = isatty(STDOUT_FILENO), .line = QN_BUF_INIT(MAX_LINE_BYTES)};
    QN_TRY(qn_chat_render(&prompt, t->text, chat, NULL, e));
    screen.is_thinking = prompt.is_thinking;
    if (screen.is_thinking && screen.has_colour) put("\x1b[2m", 4);
    rc = qn_talk_answer(t, &prompt, show, &screen, &a, e);
    if (screen.line.n_byte) put(screen.line.data, screen.line.n_byte);
    if (screen.has_colour) put("\x1b[0m", 4);
    putchar('\n');
    fflush(stdout);
    if (rc) goto out;
    if (!quiet) qn_talk_print_stats(stderr, &a);
    /* what was said, as the history has it */
    const char *text = qn_buf_str(&a.text), *content = text;
    const char *end = strstr(text, marker);
    struct qn_json *message = NULL;
    if (end) content = end + sizeof marker - 1;
    if (prompt.is_thinking && !end) content = text + a.text.n_byte; /* stopped while thinking */
    while (content > text && *content == '\n') content++;
    message = qn_chat_add_message(chat, "assistant", qn_json_new_str(chat->arena, content, strlen(content)));
    size_t n_thought = end ? (size_t)(end - text) : prompt.is_thinking ? a.text.n_byte : 0;
    if (message && prompt.is_thinking)
        qn_json_set(chat->arena, message, "reasoning_content", qn_json_new_str(chat->arena, text, n_thought));
    QN_FAIL_IF(!message, e, QN_TOOBIG, "the conversation is longer than %zu bytes", MAX_ARENA_BYTES);
out:
    qn_buf_free(&screen.line);
    qn_talk_answer_free(&a);
    qn_prompt_free(&prompt);
    return rc;
}

static void start(struct qn_chat *chat, const struct qn_talk *t, const char *system)
{
    qn_chat_init(chat, qn_arena_create(MAX_ARENA_BYTES));
    if (t->options.think) chat->enable_thinking = !strcmp(t->options.think, "on");
    if (system) qn_chat_add_message(chat, "system", qn_json_new_str(chat->arena, system, strlen(system)));
}

static int converse(const char *folder, const struct qn_talk_options *o, const char *system, bool quiet,
                    struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_talk talk = {0};
    struct qn_chat chat = {0};
    char *line = NULL;
    size_t capacity = 0;
    bool is_tty = isatty(STDIN_FILENO);
    QN_TRY(qn_talk_open(&talk, folder, o, e));
    QN_FAIL_IF(!talk.text->template, e, QN_UNSUPPORTED,
               "%s has no chat template; quern run --raw continues text", folder);
    start(&chat, &talk, system);
    if (is_tty)
        fprintf(stderr, "%s; /new starts over, /quit or Ctrl-D ends, Ctrl-C stops an answer\n",
                qn_model_name(talk.model));
    for (;;) {
        if (is_tty) fprintf(stderr, "> ");
        ssize_t n = getline(&line, &capacity, stdin);
        if (n < 0) {
            if (!qn_talk_interrupted()) break;
            clearerr(stdin); /* Ctrl-C at the prompt: a fresh line */
            fputc('\n', stderr);
            continue;
        }
        while (n && (line[n - 1] == '\n' || line[n - 1] == '\r')) line[--n] = 0;
        if (!n) continue;
        if (!strcmp(line, "/quit") || !strcmp(line, "/exit")) break;
        if (!strcmp(line, "/new")) {
            qn_arena_free(chat.arena);
            start(&chat, &talk, system);
            continue;
        }
        qn_chat_add_message(&chat, "user", qn_json_new_str(chat.arena, line, (size_t)n));
        struct qn_err turn = {0};
        if (answer(&talk, &chat, quiet, &turn)) {
            fprintf(stderr, "quern chat: %s\n", turn.text);
            if (!is_tty) {
                if (e) *e = turn;
                rc = turn.code ? turn.code : QN_INTERNAL;
                break;
            }
            if (chat.messages->n) chat.messages->n--; /* the question is taken back */
        }
    }
out:
    free(line);
    if (chat.arena) qn_arena_free(chat.arena);
    qn_talk_close(&talk);
    return rc;
}

static int run(int argc, char **argv)
{
    struct qn_talk_options o;
    struct qn_opt table[QN_TALK_N_OPT + 2];
    const char *system = NULL, *folder;
    bool quiet = false;
    qn_talk_defaults(&o);
    int n_opt = qn_talk_table(&o, table);
    table[n_opt++] = (struct qn_opt){.name = "system",
                                     .type = QN_OPT_STR,
                                     .out = &system,
                                     .arg = "TEXT",
                                     .help = "the system message (none)"};
    table[n_opt++] = (struct qn_opt){
        .name = "quiet", .letter = 'q', .type = QN_OPT_FLAG, .out = &quiet, .help = "no statistics"};
    static const struct qn_opt_usage usage = {
        "quern chat MODEL [options]",
        "Talks with a model: a line is a message. Earlier turns come from the prefix cache.",
        "quern chat models/mini"};
    struct qn_err e = {0};
    int n_arg, rc = qn_opt_parse(table, (size_t)n_opt, &usage, argc, argv, &folder, 1, &n_arg, &e);
    if (!rc && !n_arg) rc = qn_err_set(&e, QN_INVAL, __FILE__, __LINE__, "MODEL is missing; see --help");
    if (rc) return qn_cli_usage_failed("chat", rc, &e);
    rc = converse(folder, &o, system, quiet, &e);
    return rc ? qn_cli_failed("chat", &e) : 0;
}

const struct qn_cmd qn_cmd_chat = {"chat", "talk with a model on the terminal", run};
