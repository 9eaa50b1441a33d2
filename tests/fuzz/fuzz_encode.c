/* Fuzz target: any bytes as text for the small vocabulary, half of it literal. Decoding gives the normalised,
 * repaired text again, whatever was literal. SPDX-License-Identifier: Apache-2.0 */
#include "base/mem.h"
#include "text/detok.h"
#include "text/utf8.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct qn_tokenizer *t;
    struct qn_err e = {0};
    if (!t && qn_tokenizer_open(&t, QN_TEST_DIR "/golden/tokenizer/small", &e)) {
        fprintf(stderr, "%s\n", e.text);
        abort();
    }
    struct qn_ids ids = QN_IDS_INIT(1 << 24);
    struct qn_buf repaired = QN_BUF_INIT(1 << 28), want = QN_BUF_INIT(1 << 28), back = QN_BUF_INIT(1 << 28);
    uint8_t *literal = xmalloc(size);
    for (size_t i = 0; i < size; i++) literal[i] = i < size / 2;
    for (int has_mask = 0; has_mask < 2; has_mask++) {
        ids.n = 0;
        qn_buf_clear(&back);
        QN_CHECK(!qn_tokenizer_encode(t, (const char *)data, size, has_mask ? literal : NULL, &ids, &e));
        QN_CHECK(!qn_detok_all(t, ids.data, ids.n, QN_DETOK_KEEP, &back));
        /* the text between two added tokens is normalised alone; without them, as a whole */
        bool has_added = false;
        for (size_t i = 0; i < ids.n; i++)
            has_added |= (qn_tokenizer_flags(t, ids.data[i]) & QN_TOKEN_ADDED) != 0;
        if (has_added) continue;
        qn_buf_clear(&repaired);
        qn_buf_clear(&want);
        qn_utf8_repair(data, size, NULL, &repaired, NULL);
        qn_utf8_nfc(qn_buf_str(&repaired), repaired.n_byte, NULL, &want, NULL);
        QN_CHECK(back.n_byte == want.n_byte && !memcmp(qn_buf_str(&back), qn_buf_str(&want), want.n_byte));
    }
    free(literal);
    qn_ids_free(&ids);
    qn_buf_free(&repaired);
    qn_buf_free(&want);
    qn_buf_free(&back);
    return 0;
}
