/* Text or ids from a file.
 * SPDX-License-Identifier: Apache-2.0 */
#include "cli/ids.h"

#include "base/buf.h"
#include "base/json.h"

#define MAX_TEXT_BYTES ((size_t)1 << 30)

int qn_cli_read_ids(struct qn_ids *ids, const char *folder, const char *path, int64_t max_tokens,
                    struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_buf text = QN_BUF_INIT(MAX_TEXT_BYTES);
    struct qn_tokenizer *tokenizer = NULL;
    struct qn_arena *arena = qn_arena_create((size_t)8 << 30);
    struct qn_json *array;
    QN_TRY(strcmp(path, "-") ? qn_buf_read_file(&text, path, e)
                             : qn_buf_read_stream(&text, stdin, "stdin", e));
    if (text.n_byte && text.data[0] == '[' &&
        !qn_json_parse(&array, arena, text.data, text.n_byte, path, NULL)) {
        for (size_t i = 0; i < array->n; i++) {
            int64_t id;
            QN_FAIL_IF(!qn_json_int(array->items[i], &id) || id < 0 || id > INT32_MAX, e, QN_INVAL,
                       "%s: item %zu is not a token id", path, i);
            QN_TRY(qn_ids_push(ids, (int32_t)id));
        }
    } else {
        QN_TRY(qn_tokenizer_open(&tokenizer, folder, e));
        QN_TRY(qn_tokenizer_encode(tokenizer, qn_buf_str(&text), text.n_byte, NULL, ids, e));
    }
    if (max_tokens && ids->n > (size_t)max_tokens) ids->n = (size_t)max_tokens;
    QN_FAIL_IF(ids->n < 2, e, QN_INVAL, "%s: %zu tokens are too few", path, ids->n);
out:
    qn_tokenizer_free(tokenizer);
    qn_arena_free(arena);
    qn_buf_free(&text);
    return rc;
}
