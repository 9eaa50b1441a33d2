/* quern tokenize: text to token ids and back.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/json.h"
#include "cli/cli.h"
#include "text/detok.h"

#define MAX_IDS ((size_t)1 << 28)

static int encode(const struct qn_tokenizer *t, const struct qn_buf *in, struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_ids ids = QN_IDS_INIT(MAX_IDS);
    QN_TRY(qn_tokenizer_encode(t, qn_buf_str(in), in->n_byte, NULL, &ids, e));
    putchar('[');
    for (size_t i = 0; i < ids.n; i++) printf(i ? ", %d" : "%d", ids.data[i]);
    puts("]");
out:
    qn_ids_free(&ids);
    return rc;
}

static int decode(const struct qn_tokenizer *t, const struct qn_buf *in, enum qn_detok_special special,
                  struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_arena *arena = qn_arena_create((size_t)4 << 30);
    struct qn_buf text = QN_BUF_INIT((size_t)1 << 30);
    struct qn_json *list;
    struct qn_detok d;
    QN_TRY(qn_json_parse(&list, arena, qn_buf_str(in), in->n_byte, "stdin", e));
    QN_FAIL_IF(!qn_json_is(list, QN_JSON_ARRAY), e, QN_INVAL,
               "stdin: --decode reads one JSON array of token ids");
    qn_detok_init(&d, t, special);
    for (size_t i = 0; i < list->n; i++) {
        int64_t id;
        QN_FAIL_IF(!qn_json_int(list->items[i], &id), e, QN_INVAL, "stdin: item %zu is not a token id", i);
        QN_FAIL_IF(id != (int32_t)id || !qn_tokenizer_has(t, (int32_t)id), e, QN_INVAL,
                   "stdin: item %zu: no token has the id %" PRId64 "; the vocabulary ends at %d", i, id,
                   qn_tokenizer_n_vocab(t) - 1);
        QN_FAIL_IF(qn_detok_push(&d, (int32_t)id, &text), e, QN_TOOBIG, "the text is larger than %zu bytes",
                   text.max_bytes);
    }
    qn_detok_end(&d, &text);
    fwrite(qn_buf_str(&text), 1, text.n_byte, stdout);
out:
    qn_buf_free(&text);
    qn_arena_free(arena);
    return rc;
}

static int run(int argc, char **argv)
{
    bool is_decode = false, skips_special = false;
    const struct qn_opt table[] = {
        {.name = "decode", .type = QN_OPT_FLAG, .out = &is_decode, .help = "JSON array of ids to text"},
        {.name = "skip-special",
         .type = QN_OPT_FLAG,
         .out = &skips_special,
         .help = "with --decode: leave special tokens out"},
    };
    static const struct qn_opt_usage usage = {
        "quern tokenize MODEL [--decode]",
        "Reads text from stdin and writes its token ids as one JSON array on one line; with --decode the "
        "other way "
        "round. MODEL is a folder with tokenizer.json, or a .gguf file; control tokens spelled in the text are recognised.",
        "echo -n 'Hello, world!' | quern tokenize models/mini"};
    const char *folder;
    struct qn_err e = {0};
    int n_arg, rc = qn_opt_parse(table, QN_COUNT(table), &usage, argc, argv, &folder, 1, &n_arg, &e);
    if (!rc && !n_arg) rc = qn_err_set(&e, QN_INVAL, __FILE__, __LINE__, "MODEL is missing; see --help");
    if (!rc && skips_special && !is_decode)
        rc = qn_err_set(&e, QN_INVAL, __FILE__, __LINE__, "--skip-special needs --decode");
    if (rc) return qn_cli_usage_failed("tokenize", rc, &e);

    struct qn_tokenizer *t = NULL;
    struct qn_buf in = QN_BUF_INIT(is_decode ? (size_t)1 << 30 : QN_TOKENIZER_MAX_TEXT_BYTES);
    QN_TRY(qn_tokenizer_open(&t, folder, &e));
    QN_TRY(qn_buf_read_stream(&in, stdin, "stdin", &e));
    rc = is_decode ? decode(t, &in, skips_special ? QN_DETOK_SKIP : QN_DETOK_KEEP, &e) : encode(t, &in, &e);
    QN_FAIL_IF(!rc && fflush(stdout), &e, QN_IO, "stdout cannot be written");
out:
    qn_buf_free(&in);
    qn_tokenizer_free(t);
    return rc ? qn_cli_failed("tokenize", &e) : 0;
}

const struct qn_cmd qn_cmd_tokenize = {"tokenize", "text to token ids and back", run};
