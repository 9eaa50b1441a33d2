/* JSON Schema as terms: the text of every value a schema allows.
 *
 * What is understood is listed in docs/tools.md. Where the full meaning is out of reach the term allows less,
 * never more, than the schema, except for keywords reported as ignored. References are followed inside the
 * document only.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_SCHEMA_H
#define QN_SCHEMA_H

#include "base/json.h"
#include "text/term.h"

#define QN_SCHEMA_MAX_NODES 20000 /* schemas compiled, merged ones included */
#define QN_SCHEMA_MAX_MERGE 256   /* combinations of two anyOf lists */
#define QN_SCHEMA_MAX_BYTES (16u << 20)

struct qn_schema;

/* root: the document $refs point into (may be NULL). strict: an unsupported keyword is QN_UNSUPPORTED, else
 * a line in report (may be NULL). where names the document in messages. Frees with qn_schema_free. */
struct qn_schema *qn_schema_create(struct qn_terms *t, const struct qn_json *root, bool strict,
                                   const char *where, struct qn_buf *report);
void qn_schema_free(struct qn_schema *s);

/* The JSON text of a value (no blanks around it). EMPTY when nothing is allowed. schema NULL: any value. */
int qn_schema_term(qn_term *out, struct qn_schema *s, const struct qn_json *schema, struct qn_err *e);
/* The same as the raw text of a call's argument: strings bare. *out EMPTY: free text. *is_tagged: the text
 * can hold the format's tags. *is_bare: a string's bare text, nothing of JSON. */
int qn_schema_argument(qn_term *out, bool *is_tagged, bool *is_bare, struct qn_schema *s,
                       const struct qn_json *schema, struct qn_err *e);
/* Any JSON object. */
qn_term qn_schema_any_object(struct qn_schema *s);
/* The object schemas behind references, allOf, anyOf and oneOf at the top, for their properties: one of the
 * list holds. QN_TOOBIG: more than max. */
int qn_schema_objects(const struct qn_json **list, int max, int *n, struct qn_schema *s,
                      const struct qn_json *schema, struct qn_err *e);

#endif
