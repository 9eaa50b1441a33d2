/* What flags.c (words) and flags_apply.c (what becomes of them) share. Private to them.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_FLAGS_IMPL_H
#define QN_FLAGS_IMPL_H

#include "cli/flags.h"

/* A command line being read. */
struct fl {
    const struct qn_flags *f;
    char **in; /* [n_in], at: the word being read */
    int n_in, at;
    char **out; /* [n_out] of our own options */
    int n_out, max_out;
    bool has_model;
    struct qn_json **json; /* [qn_flag_n_rule] objects put together of text and members, or NULL */
    /* speculation: of several flags */
    bool has_own_depth, has_draft, is_other;
    int64_t depth; /* -1: not said */
};

/* A flag with what followed it. */
struct fl_use {
    struct qn_flag flag;
    const char *name;  /* as it was written, dashes included */
    const char *value; /* or NULL */
    const char *path;  /* --NAME.PATH, or NULL */
    bool is_on;        /* of a switch */
};

char *fl_keep(struct fl *r, const char *text, size_t n);
void fl_push(struct fl *r, const char *word);
const struct qn_opt *fl_own(const struct fl *r, const char *key, size_t n);
void fl_emit(struct fl *r, const char *option, const char *value); /* --OPTION=VALUE */
int fl_apply(struct fl *r, const struct fl_use *u, struct qn_err *e);
/* What only shows at the end: depth, JSON objects. */
int fl_finish(struct fl *r, struct qn_err *e);
/* What becomes of the names of a rule, in a line. */
void fl_describe(const struct qn_flag_rule *rule, char *out, size_t max);

#endif
