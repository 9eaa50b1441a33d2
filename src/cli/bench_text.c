/* Content for benchmarks.
 * SPDX-License-Identifier: Apache-2.0 */
#include "cli/bench_text.h"

#include "base/buf.h"
#include "base/mem.h"
#include "cli/bench_stream.h"
#include "text/chat.h"
#include "text/tokenizer.h"

#define MAX_TEXT ((size_t)1 << 20)

static const char *const names[QN_CLASS_N] = {"tool calls", "repetition", "code", "prose", "random, T 1"};

static const char tools[] =
    "[{\"type\": \"function\", \"function\": {\"name\": \"read_file\", \"description\": \"Reads a file.\", "
    "\"parameters\": {\"type\": \"object\", \"properties\": {\"path\": {\"type\": \"string\"}, \"lines\": "
    "{\"type\": \"integer\"}}, \"required\": [\"path\"]}}}, {\"type\": \"function\", \"function\": "
    "{\"name\": "
    "\"write_file\", \"description\": \"Writes a file.\", \"parameters\": {\"type\": \"object\", "
    "\"properties\": "
    "{\"path\": {\"type\": \"string\"}, \"content\": {\"type\": \"string\"}}, \"required\": [\"path\", "
    "\"content\"]}}}]";

static const char *const topics[] = {"millstones", "the tides",   "a walk in the hills", "bread",
                                     "clocks",     "small boats", "winter gardens",      "letters"};
static const char *const files[] = {"notes/plan.txt", "src/main.c", "README.md",    "data/list.csv",
                                    "docs/api.md",    "todo.txt",   "tests/run.py", "config.json"};

const char *qn_class_name(enum qn_class c)
{
    return names[c];
}

static int random_ids(const struct qn_bench *b, int number, int n_tok, int32_t **out, int *n)
{
    *n = n_tok;
    *out = qn_bench_random(b, 0x5eed + (uint64_t)number, n_tok);
    return QN_OK;
}

static int render(const struct qn_bench *b, const char *text, bool has_tools, int32_t **out, int *n,
                  struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_arena *arena = qn_arena_create(16 * MAX_TEXT);
    struct qn_chat chat;
    struct qn_prompt prompt = {0};
    qn_chat_init(&chat, arena);
    if (has_tools) QN_TRY(qn_json_parse(&chat.tools, arena, tools, strlen(tools), "tools", e));
    qn_chat_add_message(&chat, "user", qn_json_new_str(arena, text, strlen(text)));
    QN_TRY(qn_chat_render(&prompt, b->text, &chat, NULL, e));
    *out = prompt.ids;
    *n = prompt.n_tok;
    prompt.ids = NULL;
out:
    qn_prompt_free(&prompt);
    qn_arena_free(arena);
    return rc;
}

static int encode(const struct qn_bench *b, const char *text, int32_t **out, int *n, struct qn_err *e)
{
    struct qn_ids ids = QN_IDS_INIT(MAX_TEXT);
    int rc = qn_tokenizer_encode(b->text->tokenizer, text, strlen(text), NULL, &ids, e);
    if (!rc) {
        *out = ids.data;
        *n = (int)ids.n;
    }
    return rc;
}

int qn_bench_message(const struct qn_bench *b, const char *text, int32_t **out, int *n, struct qn_err *e)
{
    if (!b->text) return random_ids(b, (int)strlen(text), (int)strlen(text) / 4 + 16, out, n);
    return b->text->template ? render(b, text, false, out, n, e) : encode(b, text, out, n, e);
}

/* A list or a function, said twice and begun a third time: what comes next stands in the prompt. */
static void write_repeated(struct qn_buf *text, int number, bool is_code)
{
    for (int round = 0; round < 3; round++) {
        if (is_code)
            qn_buf_printf(
                text,
                "int count_%s_%d(const int *list, int n)\n{\n    int sum = 0;\n    for (int i = 0; i < n; "
                "i++)\n        if (list[i] > %d) sum += list[i];\n    return sum;\n}\n\n",
                topics[number % 8], number, number * 3);
        for (int i = 0; i < 8 && !is_code && (round < 2 || i < 2); i++)
            qn_buf_printf(text, "%d. %s and %s, kept in %s\n", i + 1, topics[(i + number) % 8],
                          topics[(i * 3 + 1) % 8], files[(i * 5 + number) % 8]);
    }
}

int qn_bench_content(const struct qn_bench *b, enum qn_class c, int number, int32_t **out, int *n,
                     struct qn_err *e)
{
    if (!b->text || c == QN_CLASS_RANDOM) return random_ids(b, number, 200, out, n);
    int rc = QN_OK;
    struct qn_buf text = QN_BUF_INIT(MAX_TEXT);
    bool has_template = b->text->template != NULL;
    switch (c) {
    case QN_CLASS_TOOLS:
        qn_buf_printf(&text, "Read the file %s and then write %s with the same content.", files[number % 8],
                      files[(number + 3) % 8]);
        rc = has_template ? render(b, qn_buf_str(&text), true, out, n, e)
                          : encode(b, qn_buf_str(&text), out, n, e);
        break;
    case QN_CLASS_REPEAT:
    case QN_CLASS_CODE:
        write_repeated(&text, number, c == QN_CLASS_CODE);
        rc = encode(b, qn_buf_str(&text), out, n, e);
        break;
    default:
        qn_buf_printf(&text, "Tell me something about %s and about %s.", topics[number % 8],
                      topics[(number + 3) % 8]);
        rc = qn_bench_message(b, qn_buf_str(&text), out, n, e);
    }
    qn_buf_free(&text);
    return rc;
}
