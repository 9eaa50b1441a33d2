/* What the files of schemas share. Not included elsewhere.
 *
 *   schema.c           one schema: keywords, kinds of values, references and combinations
 *   schema_any.c       parts that all schemas use, enumerated values
 *   schema_merge.c     what allOf, and keywords beside anyOf or $ref, mean
 *   schema_string.c    lengths, patterns, formats
 *   schema_object.c    arrays and objects
 *   schema_check.c     does a value satisfy a schema?
 *   schema_argument.c  the raw text of a call's argument
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_SCHEMA_IMPL_H
#define QN_SCHEMA_IMPL_H

#include "base/hash.h"
#include "text/argtype.h"
#include "text/grammar.h"
#include "text/schema.h"

struct qn_schema {
    struct qn_terms *t;
    struct qn_arena *arena;
    const struct qn_json *root;
    const char *where;
    struct qn_buf *report;
    bool strict;
    int depth, n_node;
    struct qn_map rules;                              /* schema address -> rule */
    struct qn_map reported;                           /* hash of keyword */
    qn_term gap, colon, string, value, object, array; /* shared parts, EMPTY until made */
};

/* Between tokens: nothing, a space, or a new line with its indentation. Bounded: a model may like blanks. */
qn_term sc_gap(struct qn_schema *s);
qn_term sc_colon(struct qn_schema *s);
qn_term sc_any_string(struct qn_schema *s);
qn_term sc_any_number(struct qn_schema *s, bool whole);
qn_term sc_any_value(struct qn_schema *s);
/* A value in all spellings that quern writes: blanks, members in any order. is_raw: a string without quotes.
 */
qn_term sc_value_term(struct qn_schema *s, const struct qn_json *v, bool is_raw);
/* Those of the list that satisfy what stands beside it. */
qn_term sc_enum_term(struct qn_schema *s, const struct qn_json *schema, const struct qn_json *list,
                     bool is_raw);
/* Does the value satisfy the schema, as far as its keywords are understood? */
bool sc_accepts(struct qn_schema *s, const struct qn_json *schema, const struct qn_json *v);
/* The same but for enum and const; for many values the schema's strings are made once. */
struct sc_strings;
struct sc_strings *sc_strings_open(struct qn_schema *s, const struct qn_json *schema);
void sc_strings_close(struct sc_strings *strings); /* NULL is allowed */
bool sc_accepts_beside(struct qn_schema *s, const struct sc_strings *strings, const struct qn_json *schema,
                       const struct qn_json *v);
/* Does the pattern match somewhere in the text? False where it is not understood. */
bool sc_matches(const char *pattern, const char *text, size_t n);
qn_term sc_key_term(struct qn_schema *s, const char *key, size_t n);

bool sc_in_list(const char *key, const char *const *list, size_t n);
bool sc_is_annotation(const char *key);
/* A keyword, or one value of it, that is not understood: an error with strict, else a line of the report. */
int sc_refuse(struct qn_schema *s, const char *keyword, const char *value, struct qn_err *e);
int sc_check_keywords(struct qn_schema *s, const struct qn_json *schema, struct qn_err *e);
int sc_out_of_memory(struct qn_schema *s, struct qn_err *e);
/* `type` is a name, or a list with that name in it. */
bool sc_has_type(const struct qn_json *type, const char *name);
bool sc_contains(const struct qn_json *list, const struct qn_json *v);
/* additionalProperties: false */
bool sc_closes(const struct qn_json *schema);
/* A whole number that is not negative; dflt where there is none. */
int sc_count_of(const struct qn_json *schema, const char *key, uint32_t dflt, uint32_t *out,
                struct qn_schema *s, struct qn_err *e);

/* Keywords of which merging makes lists, all of whose members hold (pattern, format, multipleOf): how many,
 * and the nth. */
size_t sc_n_of(const struct qn_json *v);
const struct qn_json *sc_nth(const struct qn_json *v, size_t i);

/* A copy whose references and allOf are resolved, oneOf called anyOf and const called enum. */
int sc_normal(struct qn_json **out, struct qn_schema *s, const struct qn_json *schema, struct qn_err *e);
/* Both of two schemas; a is normal already. */
int sc_merge(struct qn_json **out, struct qn_schema *s, const struct qn_json *a, const struct qn_json *b,
             struct qn_err *e);

/* A copy without one keyword; NULL: out of room. */
struct qn_json *sc_without(struct qn_schema *s, const struct qn_json *schema, const char *key);

/* What the characters between the quotes (or, of an argument, all characters) must be. ANY: no constraint. */
int sc_string_body(qn_term *body, struct qn_schema *s, const struct qn_json *schema, bool is_json,
                   struct qn_err *e);
int sc_string_term(qn_term *out, struct qn_schema *s, const struct qn_json *schema, struct qn_err *e);
int sc_array_term(qn_term *out, struct qn_schema *s, const struct qn_json *schema, struct qn_err *e);
int sc_object_term(qn_term *out, struct qn_schema *s, const struct qn_json *schema, struct qn_err *e);
/* One schema; NULL: any value. What it points to must live as long as s. */
int sc_compile(qn_term *out, struct qn_schema *s, const struct qn_json *schema, struct qn_err *e);

#endif
