/* Argument typing: which JSON types a tool's schema allows for a parameter, and what raw text becomes.
 *
 * The model writes every argument as text between tags; the tool's JSON schema decides whether `12` is a
 * number or a string. A schema may be a $ref or combined of others (anyOf, oneOf, allOf, then, else), at its
 * top too. Never fails: text that fits nothing becomes a string, so that the client's own validator can
 * complain and the model can correct itself. Any thread. SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_ARGTYPE_H
#define QN_ARGTYPE_H

#include "text/typename.h"

#define QN_ARG_MAX_DEPTH   32  /* $ref and anyOf nesting followed */
#define QN_ARG_MAX_NODES   512 /* schemas looked at for one parameter */
#define QN_ARG_MAX_SCHEMAS 16  /* that describe one parameter, in members of anyOf, oneOf, allOf */

struct qn_argtype {
    unsigned set; /* QN_ARG_ bits; 0 means nothing is known: a string */
    const struct qn_json *root, *schemas[QN_ARG_MAX_SCHEMAS];
    int n_schema;
};

/* parameters: the tool's schema (root of its $refs) or NULL. Undeclared keys get additionalProperties. */
void qn_argtype_find(struct qn_argtype *type, const struct qn_json *parameters, const char *key, size_t n);
/* True when `key` is listed in the schema's properties, or in those of a schema it is combined of. */
bool qn_argtype_is_declared(const struct qn_json *parameters, const char *key, size_t n);
/* Follows $ref from `schema` inside `root`; returns schema itself when it has none, NULL when it leads
 * nowhere. */
const struct qn_json *qn_argtype_deref(const struct qn_json *root, const struct qn_json *schema);

/* Only strings can come out: the text may be streamed as it arrives. */
bool qn_argtype_is_string(const struct qn_argtype *type);
/* Could text that begins with raw[n] still become something other than a string? */
bool qn_argtype_may_change(const struct qn_argtype *type, const char *raw, size_t n);
/* Appends the JSON value of the whole raw text (one line, numbers keep their digits). */
int qn_argtype_write(struct qn_buf *out, const struct qn_argtype *type, const char *raw, size_t n);

#endif
