/* Fuzz target: any JSON as a schema and as a tool's parameters: compiles or refuses, stays inside its caps,
 * and what it allows byte by byte never contradicts itself. First byte: switches; the rest JSON.
 * SPDX-License-Identifier: Apache-2.0 */
#include "fuzz/walk.h"
#include "text/constrain.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1) return 0;
    struct qn_arena *arena = qn_arena_create(16 << 20);
    struct qn_json *schema, *tools;
    struct qn_buf text = QN_BUF_INIT(1 << 20), report = QN_BUF_INIT(1 << 20);
    if (!qn_json_parse(&schema, arena, (const char *)data + 1, size - 1, "schema", NULL)) {
        struct qn_grammar *g = NULL;
        struct qn_err e = {0};
        struct qn_constrain c = {.form = QN_CONTENT_JSON_SCHEMA,
                                 .schema = schema,
                                 .is_strict = data[0] & 1,
                                 .starts_in_reasoning = data[0] & 2};
        if (!qn_constrain_compile(&g, &c, &report, &e))
            fuzz_walk(g, data[0]);
        else
            QN_CHECK(e.text[0]);
        qn_grammar_release(g);
        /* the same as a tool */
        g = NULL;
        qn_buf_printf(&text, "[{\"function\":{\"name\":\"f\",\"strict\":%s,\"parameters\":",
                      data[0] & 1 ? "true" : "false");
        qn_json_write(&text, schema, QN_JSON_EXACT);
        qn_buf_puts(&text, "}}]");
        struct qn_toolset *set = NULL;
        if (!qn_json_parse(&tools, arena, qn_buf_str(&text), text.n_byte, "tools", NULL) &&
            !qn_toolset_create(&set, tools, NULL)) {
            c = (struct qn_constrain){.tools = set,
                                      .choice = data[0] & 4 ? QN_CHOICE_REQUIRED : QN_CHOICE_AUTO,
                                      .markers = data[0] & 8 ? (1u << QN_N_MARKER) - 1 : 0};
            if (!qn_constrain_compile(&g, &c, &report, &e)) fuzz_walk(g, data[0] + 1u);
            qn_grammar_release(g);
        }
        qn_toolset_free(set);
    }
    qn_buf_free(&text);
    qn_buf_free(&report);
    qn_arena_free(arena);
    qn_constrain_forget();
    return 0;
}
