/* Fuzz target: any bytes as a template, rendered with fixed values. It compiles or not, renders or not; every
 * output byte has an origin.
 * SPDX-License-Identifier: Apache-2.0 */
#include "text/jinja.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char values[] =
    "{\"messages\":[{\"role\":\"system\",\"content\":\"S\"},{\"role\":\"user\",\"content\":\"q "
    "\\u00e9\"},{\"role\":"
    "\"assistant\",\"content\":null,\"tool_calls\":[{\"function\":{\"name\":\"f\",\"arguments\":{\"a\":[1,2."
    "5,true,null,"
    "\"x\"],\"b\":{\"c\":12345678901234567890123}}}}]}],\"tools\":[{\"type\":\"function\",\"function\":{"
    "\"name\":\"f\"}}],"
    "\"n\":3,\"s\":\"Hello "
    "World\",\"l\":[3,1,2],\"d\":{\"b\":1,\"a\":2},\"t\":true,\"f\":-2.5,\"none\":null}";

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct qn_arena *arena;
    static struct qn_json *vars;
    if (!arena) {
        arena = qn_arena_create(1 << 20);
        QN_CHECK(!qn_json_parse(&vars, arena, values, sizeof values - 1, "values", NULL));
    }
    struct qn_jinja *t;
    struct qn_jinja_out o;
    struct qn_err e = {0};
    const struct qn_jinja_opt opt = {
        .now_s = 1735732800, .max_steps = 200000, .max_output_bytes = 1 << 20, .max_memory_bytes = 32 << 20};
    if (qn_jinja_compile(&t, (const char *)data, size, "template", &e)) return 0;
    if (!qn_jinja_render(&o, t, vars, &opt, &e))
        for (size_t i = 0; i < o.n_byte; i++) QN_CHECK(o.origin[i] <= QN_JINJA_LITERAL);
    qn_jinja_out_free(&o);
    qn_jinja_free(t);
    return 0;
}
