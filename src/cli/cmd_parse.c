/* quern parse: a model's output, from stdin, as the message a client would get.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/rng.h"
#include "cli/cli.h"
#include "text/parse.h"

#define MAX_INPUT      (64u << 20)
#define MAX_TOOLS_FILE (16u << 20)
#define MAX_RANDOM_CUT 16 /* bytes of a piece under --chunks random:SEED */

static const char example[] =
    "printf '<tool_call>\\n<function=f>\\n</function>\\n</tool_call>' | quern parse --tools tools.json";

/* --chunks: how many bytes the next piece has. */
struct cutter {
    enum { WHOLE, CHARACTER, UNIFORM, RANDOM } how;
    uint64_t seed, count;
    size_t n;
};

static int cutter_parse(struct cutter *c, const char *text, struct qn_err *e)
{
    int rc = QN_OK;
    char *end;
    *c = (struct cutter){.how = WHOLE};
    if (!strcmp(text, "whole")) goto out;
    if (!strcmp(text, "char")) {
        c->how = CHARACTER;
        goto out;
    }
    bool is_random = !strncmp(text, "random:", 7);
    const char *digits = is_random ? text + 7 : text;
    unsigned long long number = strtoull(digits, &end, 10);
    QN_FAIL_IF(*digits < '0' || *digits > '9' || *end || (!is_random && !number), e, QN_INVAL,
               "--chunks: '%s' is not whole, char, a size in bytes or random:SEED", text);
    c->how = is_random ? RANDOM : UNIFORM;
    c->seed = number;
    c->n = (size_t)number;
out:
    return rc;
}

static size_t cutter_next(struct cutter *c, const char *s, size_t n)
{
    size_t piece = n;
    if (c->how == CHARACTER)
        for (piece = 1; piece < n && ((unsigned char)s[piece] & 0xc0) == 0x80;) piece++;
    if (c->how == UNIFORM) piece = c->n;
    if (c->how == RANDOM) piece = 1 + qn_rng64(c->seed, c->count++, 0) % MAX_RANDOM_CUT;
    return QN_MIN(piece, n);
}

/* --events: the deltas a streaming client would see, one a line. */
static void print_delta(void *ctx, const struct qn_parse_event *event)
{
    struct qn_buf line = QN_BUF_INIT(2 * (size_t)MAX_INPUT);
    (void)ctx;
    switch (event->kind) {
    case QN_PARSE_REASONING:
    case QN_PARSE_CONTENT:
        qn_buf_printf(&line, "{\"%s\": ", event->kind == QN_PARSE_CONTENT ? "content" : "reasoning_content");
        qn_json_write_str(&line, event->text, event->n, false);
        qn_buf_puts(&line, "}\n");
        break;
    case QN_PARSE_CALL_BEGIN:
        qn_buf_printf(&line,
                      "{\"tool_calls\": [{\"index\": %d, \"id\": \"call_%024d\", \"type\": \"function\", "
                      "\"function\": {\"name\": ",
                      event->index, event->index);
        qn_json_write_str(&line, event->text, event->n, false);
        qn_buf_puts(&line, ", \"arguments\": \"\"}}]}\n");
        break;
    case QN_PARSE_CALL_ARGS:
        qn_buf_printf(&line,
                      "{\"tool_calls\": [{\"index\": %d, \"function\": {\"arguments\": ", event->index);
        qn_json_write_str(&line, event->text, event->n, false);
        qn_buf_puts(&line, "}}]}\n");
        break;
    case QN_PARSE_CALL_END:
        break;
    case QN_PARSE_FINISH:
        qn_buf_printf(&line, "{\"finish_reason\": \"%s\"}\n", qn_reason_name((enum qn_reason)event->index));
        break;
    }
    fputs(qn_buf_str(&line), stdout);
    qn_buf_free(&line);
}

static void write_text(struct qn_buf *out, const struct qn_buf *text)
{
    if (text->n_byte)
        qn_json_write_str(out, text->data, text->n_byte, false);
    else
        qn_buf_puts(out, "null");
}

static int print_message(const struct qn_parsed *m, struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_arena *arena = qn_arena_create((size_t)1 << 30);
    struct qn_buf out = QN_BUF_INIT((size_t)1 << 30);
    bool any = false;
    qn_buf_puts(&out, "{\"reasoning\": ");
    write_text(&out, &m->reasoning);
    qn_buf_puts(&out, ", \"content\": ");
    write_text(&out, &m->content);
    qn_buf_puts(&out, ", \"tool_calls\": [");
    for (int i = 0; i < m->n_call; i++) {
        struct qn_json *arguments;
        if (!m->calls[i].is_complete) continue;
        qn_buf_puts(&out, any ? ", {\"name\": " : "{\"name\": ");
        any = true;
        qn_json_write_str(&out, m->calls[i].name, strlen(m->calls[i].name), false);
        qn_buf_puts(&out, ", \"arguments\": ");
        /* read back, so that of a repeated key the last value stands */
        QN_TRY(qn_json_parse(&arguments, arena, m->calls[i].arguments.data, m->calls[i].arguments.n_byte,
                             "arguments", e));
        qn_json_write(&out, arguments, QN_JSON_EXACT);
        qn_buf_puts(&out, "}");
    }
    qn_buf_printf(&out, "], \"finish_reason\": \"%s\"}\n", qn_reason_name(m->reason));
    QN_FAIL_IF(out.failed, e, QN_TOOBIG, "the message is too large to print");
    fwrite(out.data, 1, out.n_byte, stdout);
out:
    qn_buf_free(&out);
    qn_arena_free(arena);
    return rc;
}

static int parse_stream(const char *tools_path, struct cutter cutter, bool think, enum qn_parse_end end,
                        bool events, struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_arena *arena = qn_arena_create((size_t)1 << 30);
    struct qn_toolset *tools = NULL;
    struct qn_parse *p = NULL;
    struct qn_parsed message;
    struct qn_buf in = QN_BUF_INIT(MAX_INPUT);
    struct qn_json *list = NULL;
    qn_parsed_init(&message);
    if (tools_path) QN_TRY(qn_json_read_file(&list, arena, tools_path, MAX_TOOLS_FILE, e));
    QN_TRY(qn_toolset_create(&tools, list, e));
    QN_TRY(qn_buf_read_stream(&in, stdin, "standard input", e));
    struct qn_parse_options options = {
        .tools = tools,
        .starts_in_reasoning = think,
        .on_event = events ? print_delta : qn_parsed_add,
        .ctx = &message,
    };
    QN_TRY(qn_parse_create(&p, &options, e));
    for (size_t at = 0; at < in.n_byte;) {
        size_t n = cutter_next(&cutter, in.data + at, in.n_byte - at);
        qn_parse_feed(p, in.data + at, n);
        at += n;
    }
    qn_parse_finish(p, end);
    if (!events) QN_TRY(print_message(&message, e));
out:
    qn_parse_free(p);
    qn_parsed_free(&message);
    qn_toolset_free(tools);
    qn_buf_free(&in);
    qn_arena_free(arena);
    return rc;
}

static int run(int argc, char **argv)
{
    const char *tools = NULL, *think = "off", *chunks = "whole", *finish = "stop";
    bool events = false;
    const struct qn_opt table[] = {
        {"tools", 0, QN_OPT_STR, &tools, "FILE", "a JSON array of OpenAI tools", NULL, NULL, 0, 0},
        {"think", 0, QN_OPT_STR, &think, "on|off", "the prompt ends in an open think block [off]", NULL, NULL,
         0, 0},
        {"chunks", 0, QN_OPT_STR, &chunks, "HOW", "pieces fed: whole, char, bytes N, random:SEED [whole]",
         NULL, NULL, 0, 0},
        {"finish", 0, QN_OPT_STR, &finish, "stop|length", "how generation ended [stop]", NULL, NULL, 0, 0},
        {"events", 0, QN_OPT_FLAG, &events, NULL, "print the streamed deltas, one a line", NULL, NULL, 0, 0},
    };
    static const struct qn_opt_usage usage = {
        "quern parse [options] < model-output",
        "Reads a model's output and prints the message: reasoning, content, tool calls, finish reason.",
        example};
    struct qn_err e = {0};
    int n_arg, rc = qn_opt_parse(table, QN_COUNT(table), &usage, argc, argv, NULL, 0, &n_arg, &e);
    if (!rc && strcmp(think, "on") && strcmp(think, "off"))
        rc = qn_err_set(&e, QN_INVAL, __FILE__, __LINE__, "--think: '%s' is not on or off", think);
    if (!rc && strcmp(finish, "stop") && strcmp(finish, "length"))
        rc = qn_err_set(&e, QN_INVAL, __FILE__, __LINE__, "--finish: '%s' is not stop or length", finish);
    struct cutter cutter;
    if (!rc) rc = cutter_parse(&cutter, chunks, &e);
    if (rc) return qn_cli_usage_failed("parse", rc, &e);
    enum qn_parse_end end = strcmp(finish, "length") ? QN_PARSE_STOP : QN_PARSE_LENGTH;
    if (parse_stream(tools, cutter, !strcmp(think, "on"), end, events, &e)) return qn_cli_failed("parse", &e);
    return 0;
}

const struct qn_cmd qn_cmd_parse = {"parse", "a model's output as reasoning, content and tool calls", run};
