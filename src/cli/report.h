/* Results of a benchmark: a table on the terminal, one JSON line each, a CSV file, all from the same rows.
 * Owned by the command; one thread. SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_REPORT_H
#define QN_REPORT_H

#include "base/err.h"

#define QN_ROW_FIELDS 40

struct qn_field {
    const char *name; /* a constant */
    char value[48];   /* as it is written; "" when there is none */
    bool is_text;
};

struct qn_row {
    const char *bench;                    /* which table: "prefill", "matrix", ... */
    int n_common;                         /* fields that say how it was measured: not on the terminal */
    struct qn_field field[QN_ROW_FIELDS]; /* [n] */
    int n;
};

void qn_row_str(struct qn_row *r, const char *name, const char *value);
void qn_row_int(struct qn_row *r, const char *name, int64_t value);
void qn_row_num(struct qn_row *r, const char *name, double value, int decimals); /* NaN: none */

struct qn_report;
/* json: lines instead of tables. csv: a file for all rows at close, or NULL. */
int qn_report_open(struct qn_report **out, bool json, const char *csv, struct qn_err *e);
void qn_report_add(struct qn_report *p, const struct qn_row *r);
/* A line for people: printed under tables, left out of JSON and CSV. */
void qn_report_note(struct qn_report *p, const char *fmt, ...) QN_PRINTF(2, 3);
/* Writes the CSV: the union of all columns in the order in which they came. */
int qn_report_close(struct qn_report *p, struct qn_err *e);

#endif
