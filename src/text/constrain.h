/* From a request's constraints to a grammar: tools and tool_choice, response_format, structured outputs.
 * Called by the thread of the request. See docs/tools.md for what of JSON Schema is understood.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_CONSTRAIN_H
#define QN_CONSTRAIN_H

#include "text/grammar.h"
#include "text/toolset.h"

enum qn_choice { QN_CHOICE_AUTO, QN_CHOICE_NONE, QN_CHOICE_REQUIRED, QN_CHOICE_NAMED };

enum qn_content_form {
    QN_CONTENT_FREE,
    QN_CONTENT_JSON_OBJECT, /* any JSON object */
    QN_CONTENT_JSON_SCHEMA, /* schema */
    QN_CONTENT_REGEX,       /* text */
    QN_CONTENT_CHOICE,      /* schema: an array of strings */
    QN_CONTENT_GRAMMAR,     /* text: GBNF-like rules, see docs/tools.md */
    QN_CONTENT_TAGS,        /* schema: structural tags, see tags.h */
};

struct qn_constrain {
    bool starts_in_reasoning;       /* the rendered prompt ends in an open think block */
    const struct qn_toolset *tools; /* NULL or empty: no calls */
    enum qn_choice choice;
    const char *name;           /* NAMED */
    const char *const *allowed; /* allowed_tools: only these names [n_allowed], 0: all */
    int n_allowed;
    bool single_call; /* parallel_tool_calls: false */
    /* Markers that the vocabulary has as one token (qn_text_markers): a bit each. Where nothing but the
     * marker may come, only that token does; the others are spelled. */
    unsigned markers;

    enum qn_content_form form;
    const struct qn_json *schema;
    const char *text;
    bool is_strict; /* an unsupported keyword is an error that names it; else ignored and reported */
};

#define QN_CONSTRAIN_KEPT 16 /* grammars kept for requests with equal constraints, with their states */

/* *out is NULL when nothing constrains the output (no tools, free content). `report` (may be NULL) gets one
 * line for each schema keyword that was ignored. The JSON given may be freed afterwards.
 * Errors name the keyword, the rule or the position: QN_INVAL, QN_TOOBIG.
 * Requests with equal constraints share one grammar, so an agent's next turn finds its masks ready: all
 * grammars of a process must be used by the same thread. */
int qn_constrain_compile(struct qn_grammar **out, const struct qn_constrain *c, struct qn_buf *report,
                         struct qn_err *e);

/* Lets go of all kept grammars (tests, end of the process). */
void qn_constrain_forget(void);

#endif
