/* Fuzz target: any bytes as a GGUF file; every tensor that is accepted lies inside the bytes, and the
 * metadata become the JSON files they stand for, a configuration, a tokenizer and tensors of a checkpoint, or
 * errors. SPDX-License-Identifier: Apache-2.0 */
#include "base/gguf_json.h"
#include "base/mem.h"
#include "model/blocks.h"
#include "model/gguf.h"
#include "text/tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void try_tensors(struct qn_gguf *g)
{
    struct qn_gguf *files[1] = {g};
    const struct qn_gguf_set set = {files, 1};
    struct qn_config c;
    struct qn_tensors t;
    struct qn_err e;
    if (qn_gguf_config(&set, NULL, &c, &e)) return;
    struct qn_arena *names = qn_arena_create((size_t)16 << 20);
    if (!qn_gguf_tensors(&set, &c, names, &t, &e)) {
        volatile unsigned char sum = 0;
        for (int i = 0; i < t.n; i++) {
            const unsigned char *p = t.list[i].data;
            if (t.list[i].n_byte) sum = (unsigned char)(sum + p[0] + p[t.list[i].n_byte - 1]);
        }
        qn_tensors_free(&t);
    }
    qn_arena_free(names);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct qn_gguf *g;
    struct qn_err e;
    struct qn_tokenizer *tokenizer;
    if (qn_gguf_parse(&g, data, size, "input", &e)) return 0;
    for (int i = 0; i < qn_gguf_n_tensor(g); i++) {
        const struct qn_gguf_tensor *t = qn_gguf_tensor(g, i);
        enum qn_dtype type;
        QN_CHECK(t->n_byte <= size && t->data >= data && t->data + t->n_byte <= data + size);
        if (qn_gguf_dtype(t->type, &type) && qn_dtype_is_block(type) && t->n_byte) {
            float block[256];
            qn_block_row(type, t->data, qn_block_values(type), block);
        }
    }
    struct qn_buf b = QN_BUF_INIT((size_t)16 << 20);
    qn_gguf_tokenizer_config_json(g, &b, &e);
    qn_buf_clear(&b);
    qn_gguf_generation_json(g, &b, &e);
    qn_buf_free(&b);
    try_tensors(g);
    if (!qn_tokenizer_open_gguf(&tokenizer, g, &e)) qn_tokenizer_free(tokenizer);
    qn_gguf_close(g);
    return 0;
}
