/* Fuzz target: any bytes as model output; the message must not depend on how they are cut, and no proper
 * prefix of streamed arguments may be JSON (checked by parse_run). First byte: switches; second: the cuts.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/rng.h"
#include "support/parse_run.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char tools_json[] =
    "[{\"name\":\"f\",\"parameters\":{\"properties\":{\"s\":{\"type\":\"string\"},\"n\":{\"type\":"
    "\"integer\"},"
    "\"u\":{\"type\":[\"string\",\"null\",\"object\",\"number\"]},\"o\":{\"type\":\"object\"},\"a\":{"
    "\"type\":\"array\"},"
    "\"b\":{\"type\":\"boolean\"},\"e\":{\"enum\":[\"x\",1,null]}}}},{\"name\":\"get.x\"}]";

static size_t random_cut(void *ctx, size_t i, size_t left)
{
    size_t n = 1 + qn_rng64(*(uint8_t *)ctx, i, 0) % 9;
    return QN_MIN(n, left);
}

static size_t one(void *ctx, size_t i, size_t left)
{
    (void)ctx, (void)i, (void)left;
    return 1;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct qn_toolset *tools;
    if (!tools) {
        struct qn_json *list;
        static struct qn_arena
            *volatile arena; /* lives as long as the process; volatile so that the leak check sees it */
        arena = qn_arena_create(1 << 20);
        QN_CHECK(qn_json_parse(&list, arena, tools_json, strlen(tools_json), "tools", NULL) == QN_OK);
        QN_CHECK(qn_toolset_create(&tools, list, NULL) == QN_OK);
    }
    if (size < 2) return 0;
    static const char *const stops[] = {"\n\n", "END", "ab"};
    struct parse_run run = {.tools = data[0] & 1 ? NULL : tools,
                            .forbidden = data[0] & 2,
                            .think = data[0] & 4,
                            .stops = stops,
                            .n_stop = data[0] & 8 ? 3 : 0,
                            .end = data[0] & 16 ? QN_PARSE_LENGTH : QN_PARSE_STOP};
    const char *text = (const char *)data + 2;
    uint8_t seed = data[1];
    char *whole = parse_run(&run, text, size - 2, NULL, NULL);
    char *bytes = parse_run(&run, text, size - 2, one, NULL);
    char *cut = parse_run(&run, text, size - 2, random_cut, &seed);
    QN_CHECK(!strcmp(whole, bytes) && !strcmp(whole, cut));
    free(whole);
    free(bytes);
    free(cut);
    return 0;
}
