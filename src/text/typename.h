/* Names of types, in the spellings that tools are published with.
 *
 * JSON Schema knows seven names. Servers meet many more: "int", "FLOAT", "TYPE_STRING", "List[str]", "dict",
 * "string[]", "integer | null", "Optional[bool]". Any thread.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_TYPENAME_H
#define QN_TYPENAME_H

#include "base/json.h"

enum {
    QN_ARG_NULL = 1,
    QN_ARG_INTEGER = 2,
    QN_ARG_NUMBER = 4,
    QN_ARG_BOOLEAN = 8,
    QN_ARG_OBJECT = 16,
    QN_ARG_ARRAY = 32,
    QN_ARG_STRING = 64,
    QN_ARG_ANY = 128, /* declared without a type: objects and arrays of JSON as such, else a string */
};

/* QN_ARG_ bits of one name; 0: no type quern knows. */
unsigned qn_typename_bits(const char *name, size_t n);
/* Of a schema's `type`: a name, or a list of names and schemas. */
unsigned qn_typename_of(const struct qn_json *type);

#endif
