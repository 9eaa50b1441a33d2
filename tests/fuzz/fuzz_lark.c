/* Fuzz target: any bytes as a Lark grammar. SPDX-License-Identifier: Apache-2.0 */
#include "base/mem.h"
#include "fuzz/walk.h"
#include "text/constrain.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1 || memchr(data + 1, 0, size - 1)) return 0;
    char *text = xasprintf("%%llguidance {}\n%.*s", (int)(size - 1), (const char *)data + 1);
    struct qn_constrain c = {.form = QN_CONTENT_GRAMMAR, .text = text};
    struct qn_grammar *g = NULL;
    struct qn_err e = {0};
    if (!qn_constrain_compile(&g, &c, NULL, &e)) {
        fuzz_walk(g, data[0]);
        qn_grammar_release(g);
    } else {
        QN_CHECK(e.text[0]);
    }
    free(text);
    qn_constrain_forget();
    return 0;
}
