/* Fuzz target: any bytes as JSON; what parses is written and parsed again to the same text.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/json.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct qn_arena *arena = qn_arena_create(16 << 20);
    struct qn_json *v, *w;
    struct qn_buf one = QN_BUF_INIT(16 << 20), two = QN_BUF_INIT(16 << 20);
    if (!qn_json_parse(&v, arena, (const char *)data, size, "input", NULL) &&
        !qn_json_write(&one, v, QN_JSON_PYTHON)) {
        int rc = qn_json_parse(&w, arena, one.data, one.n_byte, "output", NULL);
        /* Infinity is written as Python does and is not JSON */
        if (!rc) {
            qn_json_write(&two, w, QN_JSON_PYTHON);
            QN_CHECK(two.failed || !strcmp(qn_buf_str(&one), qn_buf_str(&two)));
        }
    }
    qn_buf_free(&one);
    qn_buf_free(&two);
    qn_arena_free(arena);
    return 0;
}
