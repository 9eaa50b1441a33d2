/* Fuzz target: any JSON as structural tags: read or refused within the caps, and what the grammar allows byte
 * by byte never contradicts itself. First byte: switches; the rest JSON. SPDX-License-Identifier: Apache-2.0
 */
#include "fuzz/walk.h"
#include "text/constrain.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1) return 0;
    struct qn_arena *arena = qn_arena_create(16 << 20);
    struct qn_json *tags;
    struct qn_buf report = QN_BUF_INIT(1 << 20);
    if (!qn_json_parse(&tags, arena, (const char *)data + 1, size - 1, "tags", NULL)) {
        struct qn_grammar *g = NULL;
        struct qn_err e = {0};
        const struct qn_constrain c = {.form = QN_CONTENT_TAGS,
                                       .schema = tags,
                                       .is_strict = data[0] & 1,
                                       .starts_in_reasoning = data[0] & 2,
                                       .markers = data[0] & 8 ? (1u << QN_N_MARKER) - 1 : 0};
        int rc = qn_constrain_compile(&g, &c, &report, &e);
        QN_CHECK(!rc || (e.code == rc && e.text[0]));
        if (g) fuzz_walk(g, data[0]);
        qn_grammar_release(g);
    }
    qn_buf_free(&report);
    qn_arena_free(arena);
    qn_constrain_forget();
    return 0;
}
