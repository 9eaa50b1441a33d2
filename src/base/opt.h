/* One option table gives the flags, the environment variables and the --help text of a command.
 *
 * `--name VALUE`, `--name=VALUE`, `-x VALUE`; `--` ends the options. A flag that is not in the table is
 * an error that names the nearest known one. Precedence: flag, then environment, then the value
 * already in *out.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_OPT_H
#define QN_OPT_H

#include "base/err.h"

enum qn_opt_type {
    QN_OPT_FLAG,  /* bool *; no value ("--name=false" is accepted) */
    QN_OPT_STR,   /* const char ** */
    QN_OPT_INT,   /* int64_t * ; min..max when min < max */
    QN_OPT_COUNT, /* int64_t *: as INT, or with k m g (powers of 1000), K M G (of 1024), or auto (0) */
    QN_OPT_NUM,   /* double * */
    QN_OPT_BYTES, /* int64_t *: plain, or with K M G T (powers of 1024) */
    QN_OPT_NOTE,  /* accepted with one printed line, `help`; takes a value when arg is set */
};

struct qn_opt {
    const char *name; /* long name without dashes */
    char letter;      /* or 0 */
    enum qn_opt_type type;
    void *out;
    const char *arg; /* shown in --help: PORT, TEXT, ... */
    const char *help;
    const char *env;   /* or NULL */
    const char *alias; /* other long names, "tp,tp-size", or NULL */
    int64_t min, max;  /* INT only, when min < max */
};

struct qn_opt_usage {
    const char *synopsis; /* "quern serve MODEL [options]" */
    const char *about;    /* a sentence or two */
    const char *example;
};

/* Parses argv[1..]. Positional arguments go to args[0..max_args), their number to *n_arg.
 * Returns QN_OK; QN_CANCELED after printing --help (exit 0); QN_INVAL (exit 2). */
int qn_opt_parse(const struct qn_opt *table, size_t n_opt, const struct qn_opt_usage *usage, int argc,
                 char **argv, const char **args, int max_args, int *n_arg, struct qn_err *e);

void qn_opt_help(FILE *out, const struct qn_opt *table, size_t n_opt, const struct qn_opt_usage *usage);

/* "64", "1.5G". QN_INVAL when it is not a size. */
int qn_opt_bytes(const char *text, int64_t *out);
/* "4096", "128k" (128000), "128K" (131072), "1.5m". QN_INVAL when it is no whole number. */
int qn_opt_count(const char *text, int64_t *out);
/* How many letters differ (insertions, deletions, changes) between a [n] and b; 99 when b is long. */
int qn_opt_distance(const char *a, size_t n, const char *b);

#endif
