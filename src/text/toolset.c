/* The tools of one request.
 * SPDX-License-Identifier: Apache-2.0 */
#include "text/toolset.h"

/* The object that holds name and schema: the "function" member of the wrapper, or the entry itself. */
static const struct qn_json *function_of(const struct qn_json *entry)
{
    const struct qn_json *type = qn_json_get(entry, "type");
    const struct qn_json *function = qn_json_get(entry, "function");
    if (qn_json_is(function, QN_JSON_OBJECT)) return function;
    if (qn_json_is(type, QN_JSON_STRING) && !qn_json_is_str(type, "function") &&
        !qn_json_is_str(type, "custom"))
        return NULL; /* a built-in tool of somebody's service */
    return entry;
}

int qn_toolset_create(struct qn_toolset **out, const struct qn_json *tools, struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_toolset *set = xcalloc(1, sizeof *set);
    size_t n = qn_json_is_null(tools) ? 0 : tools->n;
    QN_FAIL_IF(!qn_json_is_null(tools) && tools->type != QN_JSON_ARRAY, e, QN_INVAL,
               "'tools' must be an array");
    QN_FAIL_IF(n > QN_TOOLSET_MAX, e, QN_TOOBIG, "'tools' has %zu entries; the limit is %d", n,
               QN_TOOLSET_MAX);
    set->tools = xcalloc(n ? n : 1, sizeof *set->tools);
    for (size_t i = 0; i < n; i++) {
        const struct qn_json *entry = tools->items[i];
        QN_FAIL_IF(!qn_json_is(entry, QN_JSON_OBJECT), e, QN_INVAL, "tools[%zu] must be an object", i);
        const struct qn_json *function = function_of(entry);
        if (!function) continue;
        const struct qn_json *name = qn_json_get(function, "name");
        QN_FAIL_IF(!qn_json_is(name, QN_JSON_STRING) || !name->n, e, QN_INVAL,
                   "tools[%zu]: the function has no 'name'", i);
        const struct qn_json *parameters = qn_json_get(function, "parameters");
        if (qn_json_is_null(parameters)) parameters = qn_json_get(function, "input_schema");
        if (!qn_json_is(parameters, QN_JSON_OBJECT)) parameters = NULL;
        const struct qn_json *strict = qn_json_get(function, "strict");
        if (qn_json_is_null(strict)) strict = qn_json_get(entry, "strict");
        set->tools[set->n_tool++] = (struct qn_tool){name->text, name->n, parameters,
                                                     qn_json_is(strict, QN_JSON_BOOL) && strict->truth};
    }
    *out = set;
    set = NULL;
out:
    qn_toolset_free(set);
    return rc;
}

void qn_toolset_free(struct qn_toolset *set)
{
    if (!set) return;
    free(set->tools);
    free(set);
}

int qn_toolset_find(const struct qn_toolset *set, const char *name, size_t n_name)
{
    for (int i = 0; set && i < set->n_tool; i++)
        if (set->tools[i].n_name == n_name && !memcmp(set->tools[i].name, name, n_name)) return i;
    return -1;
}
