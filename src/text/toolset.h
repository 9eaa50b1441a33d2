/* The tools of one request, as the parser and the call grammar see them.
 *
 * Built from the client's array of tools; accepts the OpenAI wrapper {"type":"function","function":{...}},
 * the flat form {"name","parameters"} and {"name","input_schema"}. Entries that are no functions are
 * skipped. Everything points into the JSON given, which must outlive the set. Immutable after create: any
 * thread may read.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_TOOLSET_H
#define QN_TOOLSET_H

#include "base/json.h"

#define QN_TOOLSET_MAX 1024 /* tools of one request */

struct qn_tool {
    const char *name; /* [n_name], NUL-terminated */
    size_t n_name;
    const struct qn_json *parameters; /* JSON schema object, or NULL: no parameters known */
    bool is_strict;
};

struct qn_toolset {
    int n_tool;
    struct qn_tool *tools; /* [n_tool] in the client's order; of equal names the first counts */
};

/* tools: a JSON array, null or NULL (an empty set). Errors: QN_INVAL naming the entry, QN_TOOBIG. */
int qn_toolset_create(struct qn_toolset **out, const struct qn_json *tools, struct qn_err *e);
void qn_toolset_free(struct qn_toolset *set);
/* Index of the tool of that name, or -1. set may be NULL. */
int qn_toolset_find(const struct qn_toolset *set, const char *name, size_t n_name);

#endif
