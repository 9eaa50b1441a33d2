/* What an answer must obey, read into a struct qn_ask and compiled to its constraint. Connection thread.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_FORM_H
#define QN_FORM_H

#include "server/ask.h"
#include "text/toolset.h"

/* A tool of a type that is not run here: a choice that forces it is refused by its name. */
int qn_ask_add_foreign_tool(struct qn_ask *a, const char *type, const char *name, struct qn_err *e);
int qn_ask_find_foreign_tools(struct qn_ask *a, const struct qn_json *tools, struct qn_err *e);
/* Before or after the tools are read: the names are compared in qn_ask_check_choice. */
int qn_ask_read_tool_choice(struct qn_ask *a, struct qn_exchange *x, const struct qn_json *choice,
                            struct qn_err *e);
/* --- form_read.c --- */
/* response_format, structured_outputs, guided_*, grammar, regex, ebnf, json_schema, ... of an OpenAI body.
 * The same thing twice is one; two different ones are QN_INVAL naming both. */
int qn_ask_read_form(struct qn_ask *a, struct qn_exchange *x, const struct qn_json *body, struct qn_err *e);
/* One object {"type": ...} of a dialect's own member, called `where` in errors. */
int qn_ask_add_format(struct qn_ask *a, struct qn_exchange *x, const struct qn_json *format,
                      const char *where, struct qn_err *e);
/* --- form.c --- */
/* What of tool_choice can be wrong before anything is rendered. tools may be NULL. */
int qn_ask_check_choice(const struct qn_ask *a, struct qn_exchange *x, const struct qn_toolset *tools,
                        struct qn_err *e);
/* Compiles what the output must obey: tool choice and form. tools may be NULL. */
int qn_ask_constrain(struct qn_ask *a, struct qn_exchange *x, const struct qn_toolset *tools,
                     bool is_thinking, struct qn_err *e);

#endif
