/* Fuzz target: any bytes as a hub's listing; what is accepted stays below its folder.
 * SPDX-License-Identifier: Apache-2.0 */
#include "cli/hub.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct qn_hub_list list;
    struct qn_err e;
    if (qn_hub_list_parse(&list, (const char *)data, size, "input", &e)) return 0;
    for (int i = 0; i < list.n; i++) {
        const struct qn_hub_file *f = &list.files[i];
        QN_CHECK(f->path[0] && f->path[0] != '/' && strcmp(f->path, "..") && strncmp(f->path, "../", 3) &&
                 !strstr(f->path, "/../") && !strstr(f->path, "//") && f->size >= -1);
        QN_CHECK(!i || strcmp(list.files[i - 1].path, f->path));
    }
    qn_hub_list_free(&list);
    return 0;
}
