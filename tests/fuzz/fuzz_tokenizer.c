/* Fuzz target: any bytes as tokenizer.json. What opens encodes a text, and the ids are all tokens.
 * A NUL byte starts tokenizer_config.json.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/log.h"
#include "text/detok.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char text[] =
        "Hello, <think>it's</think> 123  \n\n\t caf\xc3\xa9 e\xcc\x81 \xe4\xbd\xa0 <|im_end|>";
    const char *json = (const char *)data, *config = memchr(data, 0, size);
    size_t n_json = config ? (size_t)(config - json) : size;
    struct qn_tokenizer *t;
    struct qn_ids ids = QN_IDS_INIT(1 << 16);
    struct qn_buf back = QN_BUF_INIT(1 << 20);
    qn_log_set_level(QN_LOG_ERROR);
    if (qn_tokenizer_open_text(&t, json, n_json, config ? config + 1 : NULL, config ? size - n_json - 1 : 0,
                               "fuzz", NULL))
        return 0;
    if (!qn_tokenizer_encode(t, text, sizeof text - 1, NULL, &ids, NULL)) {
        for (size_t i = 0; i < ids.n; i++) QN_CHECK(qn_tokenizer_has(t, ids.data[i]));
        qn_detok_all(t, ids.data, ids.n, QN_DETOK_SKIP, &back);
    }
    qn_ids_free(&ids);
    qn_buf_free(&back);
    qn_tokenizer_free(t);
    return 0;
}
