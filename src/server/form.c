/* What an answer must obey: tool choice, response formats, grammars.
 * SPDX-License-Identifier: Apache-2.0 */
#include "server/form.h"

#include "base/log.h"
#include "engine/engine.h"
#include "text/constrain.h"

int qn_ask_add_foreign_tool(struct qn_ask *a, const char *type, const char *name, struct qn_err *e)
{
    int rc = QN_OK;
    if (2 * a->n_foreign + 2 > (int)QN_COUNT(a->foreign)) goto out;
    char *own_type = qn_arena_strndup(a->arena, type, strlen(type)),
         *own_name = qn_arena_strndup(a->arena, name, strlen(name));
    QN_FAIL_IF(!own_type || !own_name, e, QN_TOOBIG, "tools: the request is too large");
    a->foreign[2 * a->n_foreign] = own_type;
    a->foreign[2 * a->n_foreign++ + 1] = own_name;
out:
    return rc;
}

int qn_ask_find_foreign_tools(struct qn_ask *a, const struct qn_json *tools, struct qn_err *e)
{
    int rc = QN_OK;
    for (size_t i = 0; qn_json_is(tools, QN_JSON_ARRAY) && i < tools->n; i++) {
        const struct qn_json *type = qn_json_get(tools->items[i], "type"),
                             *name = qn_json_get(tools->items[i], "name");
        if (!qn_json_is(type, QN_JSON_STRING) || !strcmp(type->text, "function")) continue;
        a->chat.loads_all |= !strncmp(type->text, "tool_search", 11);
        QN_TRY(qn_ask_add_foreign_tool(a, type->text,
                                       qn_json_is(name, QN_JSON_STRING) ? name->text : type->text, e));
    }
out:
    return rc;
}

/* A choice that only a vendor's servers could follow. */
static const char *forced_foreign(const struct qn_ask *a, const struct qn_toolset *tools)
{
    bool is_any = a->tool_mode == QN_TOOL_REQUIRED && !(tools && tools->n_tool);
    for (int i = 0; i < a->n_foreign; i++) {
        bool is_named = a->tool_mode == QN_TOOL_NAMED && (!strcmp(a->tool_name, a->foreign[2 * i]) ||
                                                          !strcmp(a->tool_name, a->foreign[2 * i + 1]));
        if (is_any || is_named) return a->foreign[2 * i + 1];
    }
    return NULL;
}

int qn_ask_read_tool_choice(struct qn_ask *a, struct qn_exchange *x, const struct qn_json *v,
                            struct qn_err *e)
{
    int rc = QN_OK;
    if (qn_json_is_null(v)) return QN_OK;
    x->param = "tool_choice";
    if (qn_json_is(v, QN_JSON_STRING)) {
        if (!strcmp(v->text, "auto"))
            a->tool_mode = QN_TOOL_AUTO;
        else if (!strcmp(v->text, "none"))
            a->tool_mode = QN_TOOL_NONE;
        else if (!strcmp(v->text, "required") || !strcmp(v->text, "any"))
            a->tool_mode = QN_TOOL_REQUIRED;
        else
            QN_FAIL(e, QN_INVAL, "tool_choice '%.40s' is not one of auto, none, required", v->text);
        x->param = NULL;
        return QN_OK;
    }
    QN_FAIL_IF(!qn_json_is(v, QN_JSON_OBJECT), e, QN_INVAL, "tool_choice must be a string or an object");
    const struct qn_json *type = qn_json_get(v, "type");
    if (qn_json_is_str(type, "auto"))
        a->tool_mode = QN_TOOL_AUTO;
    else if (qn_json_is_str(type, "none"))
        a->tool_mode = QN_TOOL_NONE;
    else if (qn_json_is_str(type, "any") || qn_json_is_str(type, "required"))
        a->tool_mode = QN_TOOL_REQUIRED;
    else if (qn_json_is_str(type, "allowed_tools")) {
        const struct qn_json *in = qn_json_get(v, "allowed_tools");
        if (!qn_json_is(in, QN_JSON_OBJECT)) in = v; /* Responses has it flat */
        a->tool_mode = qn_json_is_str(qn_json_get(in, "mode"), "required") ? QN_TOOL_REQUIRED : QN_TOOL_AUTO;
        a->allowed_tools = qn_json_get(in, "tools");
        QN_FAIL_IF(!qn_json_is(a->allowed_tools, QN_JSON_ARRAY), e, QN_INVAL,
                   "tool_choice: allowed_tools needs an array of tools");
    } else { /* {"type":"function","function":{"name"}}, {"type":"function","name"}, {"type":"tool","name"} */
        const struct qn_json *name = qn_json_get(qn_json_get(v, "function"), "name");
        if (!name) name = qn_json_get(v, "name");
        if (!name) name = qn_json_get(qn_json_get(v, "custom"), "name");
        bool is_function = qn_json_is_str(type, "function") || qn_json_is_str(type, "tool") ||
                           qn_json_is_str(type, "custom");
        if (!name && !is_function) name = type; /* {"type":"web_search"} forces a tool of that type */
        QN_FAIL_IF(!qn_json_is(name, QN_JSON_STRING) || !name->n, e, QN_INVAL,
                   "tool_choice: an object must name a function");
        a->tool_mode = QN_TOOL_NAMED;
        a->tool_name = name->text;
    }
    x->param = NULL;
out:
    return rc;
}

int qn_ask_check_choice(const struct qn_ask *a, struct qn_exchange *x, const struct qn_toolset *tools,
                        struct qn_err *e)
{
    int rc = QN_OK;
    bool has_tools = tools && tools->n_tool;
    const char *foreign = forced_foreign(a, tools);
    x->param = "tool_choice";
    QN_FAIL_IF(foreign && (a->tool_mode == QN_TOOL_REQUIRED ||
                           qn_toolset_find(tools, a->tool_name, strlen(a->tool_name)) < 0),
               e, QN_INVAL,
               "tool_choice asks for '%.60s', which runs on its vendor's servers and is not run here; leave "
               "it out, or offer a "
               "function that does it",
               foreign);
    if (a->tool_mode == QN_TOOL_REQUIRED || a->tool_mode == QN_TOOL_NAMED)
        QN_FAIL_IF(!has_tools && !a->n_foreign, e, QN_INVAL,
                   "tool_choice asks for a call, but the request has no tools");
    if (a->tool_mode == QN_TOOL_NAMED)
        QN_FAIL_IF(qn_toolset_find(tools, a->tool_name, strlen(a->tool_name)) < 0, e, QN_INVAL,
                   "tool_choice names the function '%.100s', which is not among the tools", a->tool_name);
    x->param = NULL;
out:
    return rc;
}

/* Names of an allowed_tools list. */
static int read_allowed(struct qn_constrain *c, const struct qn_ask *a, const struct qn_toolset *tools,
                        struct qn_err *e)
{
    int rc = QN_OK;
    const struct qn_json *list = a->allowed_tools;
    const char **names = qn_arena_alloc(a->arena, (list->n + 1) * sizeof *names);
    QN_FAIL_IF(!names, e, QN_TOOBIG, "tool_choice: the request is too large");
    for (size_t i = 0; i < list->n; i++) {
        const struct qn_json *name = qn_json_get(qn_json_get(list->items[i], "function"), "name");
        if (!name) name = qn_json_get(list->items[i], "name");
        QN_FAIL_IF(!qn_json_is(name, QN_JSON_STRING), e, QN_INVAL,
                   "tool_choice: allowed_tools[%zu] has no name", i);
        QN_FAIL_IF(qn_toolset_find(tools, name->text, name->n) < 0, e, QN_INVAL,
                   "tool_choice: the allowed tool '%.100s' is not among the tools", name->text);
        names[c->n_allowed++] = name->text;
    }
    c->allowed = names;
out:
    return rc;
}

static int read_form_value(struct qn_constrain *c, const struct qn_ask *a, struct qn_err *e)
{
    int rc = QN_OK;
    static const struct {
        const char *name;
        enum qn_content_form form;
        int type; /* of the value; -1: any */
    } forms[] = {
        {"json_object", QN_CONTENT_JSON_OBJECT, -1},     {"json_schema", QN_CONTENT_JSON_SCHEMA, -1},
        {"regex", QN_CONTENT_REGEX, QN_JSON_STRING},     {"choice", QN_CONTENT_CHOICE, QN_JSON_ARRAY},
        {"grammar", QN_CONTENT_GRAMMAR, QN_JSON_STRING}, {"structural_tag", QN_CONTENT_TAGS, QN_JSON_OBJECT}};
    for (size_t i = 0; a->form && i < QN_COUNT(forms); i++) {
        if (strcmp(a->form, forms[i].name) != 0) continue;
        c->form = forms[i].form;
        c->is_strict = a->form_strict;
        QN_FAIL_IF(forms[i].type >= 0 && !qn_json_is(a->form_value, (enum qn_json_type)forms[i].type), e,
                   QN_INVAL, "%s must be %s", a->form,
                   forms[i].type == QN_JSON_ARRAY    ? "an array of strings"
                   : forms[i].type == QN_JSON_STRING ? "a string"
                                                     : "an object");
        if (forms[i].type == QN_JSON_STRING)
            c->text = a->form_value->text;
        else
            c->schema = a->form_value;
    }
out:
    return rc;
}

int qn_ask_constrain(struct qn_ask *a, struct qn_exchange *x, const struct qn_toolset *tools,
                     bool is_thinking, struct qn_err *e)
{
    int rc = QN_OK;
    bool has_tools = tools && tools->n_tool;
    bool can_constrain = qn_engine_info(qn_server_engine(x->server))->can_constrain;
    bool is_forced = a->form || a->tool_mode == QN_TOOL_REQUIRED || a->tool_mode == QN_TOOL_NAMED;
    struct qn_buf report = QN_BUF_INIT(4096);
    struct qn_constrain c = {
        .starts_in_reasoning = is_thinking,
        .tools = tools,
        .choice = (enum qn_choice)a->tool_mode,
        .name = a->tool_name,
        .single_call = a->no_parallel || a->tool_mode == QN_TOOL_NAMED,
        .markers = qn_text_markers(x->server->text),
    };
    if (!is_forced && !(has_tools && can_constrain)) {
        /* calls forbidden: the opener is masked, in reasoning as well */
        int32_t opener = x->server->text->call_open_id;
        if (a->tool_mode == QN_TOOL_NONE && has_tools && opener >= 0 && a->bias_tok) {
            ((int32_t *)(uintptr_t)a->bias_tok)[a->n_bias] = opener;
            ((float *)(uintptr_t)a->bias)[a->n_bias++] = -100;
        }
        return QN_OK;
    }
    x->param = "tool_choice";
    if (a->allowed_tools) QN_TRY(read_allowed(&c, a, tools, e));
    x->param = a->form ? "response_format" : "tools";
    QN_TRY(read_form_value(&c, a, e));
    QN_TRY(qn_constrain_compile(&a->constraint, &c, &report, e));
    if (report.n_byte) qn_log(QN_LOG_DEBUG, "api", "schema: %.400s id=%s", report.data, x->id);
    QN_FAIL_IF(
        a->constraint && !can_constrain, e, QN_UNSUPPORTED,
        "this build cannot constrain the output; use tool_choice auto or none, and no response_format");
    x->param = NULL;
out:
    qn_buf_free(&report);
    return rc;
}
