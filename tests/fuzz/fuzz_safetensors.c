/* Fuzz target: any bytes as a safetensors file; every tensor that is accepted lies inside the bytes and can
 * be read, and a layer found among them dequantises. SPDX-License-Identifier: Apache-2.0 */
#include "base/mem.h"
#include "model/detect.h"
#include "model/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const struct qn_tensor *find(void *ctx, const char *name)
{
    struct qn_safetensors *st = ctx;
    for (int i = 0; i < qn_safetensors_n_tensor(st); i++)
        if (!strcmp(qn_safetensors_tensor(st, i)->name, name)) return qn_safetensors_tensor(st, i);
    return NULL;
}

static void try_layer(struct qn_safetensors *st, int n_out, int n_in)
{
    static const struct qn_scheme scheme = {
        .group = {128, 96}, .block = {{96, 32}}, .n_group = 2, .n_block = 1};
    struct qn_detect d = {find, st, n_out % 2 ? &scheme : NULL};
    struct qn_linear l;
    struct qn_err e;
    if (qn_detect_linear(&d, "x", n_out, n_in, true, &l, &e)) return;
    qn_linear_check(&l, &e);
    float *row = xmalloc((size_t)n_in * sizeof *row);
    for (int i = 0; i < n_out; i++) qn_linear_rows(&l, i, 1, row, &e);
    if (n_out > 1 && !qn_linear_take_rows(&l, n_out / 2, n_out - n_out / 2, &e))
        for (int i = 0; i < l.n_out; i++) qn_linear_rows(&l, i, 1, row, &e);
    free(row);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct qn_safetensors *st;
    if (qn_safetensors_parse(&st, data, size, "input", NULL)) return 0;
    volatile unsigned char sum = 0;
    for (int i = 0; i < qn_safetensors_n_tensor(st); i++) {
        const struct qn_tensor *t = qn_safetensors_tensor(st, i);
        const uint8_t *p = t->data;
        QN_CHECK(t->n_byte <= size && p >= data && p + t->n_byte <= data + size);
        if (t->n_byte) sum = (unsigned char)(sum + p[0] + p[t->n_byte - 1]);
        if (t->n_dim == 2 && t->shape[0] > 0 && t->shape[0] <= 512 && t->shape[1] > 0 && t->shape[1] <= 512 &&
            i < 8) {
            try_layer(st, (int)t->shape[0], (int)t->shape[1]);
            try_layer(st, (int)t->shape[0], (int)t->shape[1] * 2);
            try_layer(st, (int)t->shape[0], (int)t->shape[1] * 8);
            try_layer(st, (int)t->shape[0], (int)t->shape[1] * 4);
            try_layer(st, (int)t->shape[1], (int)t->shape[0] * 32 / 3);
            try_layer(st, (int)t->shape[1], (int)t->shape[0] * 8);
            try_layer(st, (int)t->shape[1] * 8, (int)t->shape[0]);
        }
    }
    qn_safetensors_close(st);
    return 0;
}
