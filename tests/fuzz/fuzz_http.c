/* Fuzz target: any bytes as a request in lines: method and path, headers, after an empty line the body.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/mem.h"
#include "fuzz/api.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char *cut(char *text, const char *at)
{
    char *end = text + strcspn(text, at), *rest = *end ? end + 1 : end;
    *end = 0;
    return rest;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *all = xstrndup((const char *)data, size), *rest = cut(all, "\n");
    struct fuzz_request r = {.method = all};
    r.url = cut(all, " ");
    while (*rest && *rest != '\n' && r.n_header < (int)QN_COUNT(r.names)) {
        char *line = rest;
        rest = cut(line, "\n");
        r.names[r.n_header] = line;
        r.values[r.n_header++] = cut(line, ":");
    }
    if (*rest == '\n') rest++;
    r.body = rest;
    r.n_body = strlen(rest);
    fuzz_request(&r);
    free(all);
    return 0;
}
