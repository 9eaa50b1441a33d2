/* Errors: one enum, one struct, three macros, single exit.
 *
 * A fallible function returns enum qn_code as int; those with something to tell take
 * `struct qn_err *e` last (NULL is allowed). Outputs are written only on success:
 *
 *     int rc = QN_OK;
 *     QN_FAIL_IF(n < 0, e, QN_INVAL, "%s: negative length", path);
 *     QN_TRY(map_file(path, &st, e));
 *     ...
 * out:
 *     release(st);
 *     return rc;
 *
 * Messages name the object and, where possible, the remedy.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_ERR_H
#define QN_ERR_H

#include "base/base.h"

enum qn_code {
    QN_OK = 0,
    QN_INVAL = -1,       /* the caller's input is wrong */
    QN_UNSUPPORTED = -2, /* understood, but not built */
    QN_NOTFOUND = -3,
    QN_TOOBIG = -4, /* over a named cap */
    QN_BUSY = -5,   /* try again later */
    QN_NOMEM = -6,
    QN_IO = -7,
    QN_FORMAT = -8, /* a file does not follow its format */
    QN_DEVICE = -9,
    QN_CANCELED = -10,
    QN_TIMEOUT = -11,
    QN_INTERNAL = -12,
};

struct qn_err {
    int code;         /* enum qn_code */
    const char *file; /* site */
    int line;
    char text[240];
};

/* Fills e (when not NULL) and returns code. Text that does not fit ends in "..."; control characters, which
 * names from outside may hold, are escaped (base/shown.h). */
int qn_err_set(struct qn_err *e, int code, const char *file, int line, const char *fmt, ...) QN_PRINTF(5, 6);

/* The code also goes around the call, so that static analysis sees that a failure is not QN_OK; it is
 * evaluated twice. */
#define qn_err_set(e, code, ...) qn_err_same((code), qn_err_set((e), (code), __VA_ARGS__))
static inline int qn_err_same(int code, int set)
{
    (void)set;
    return code;
}

/* Puts "prefix: " before the text of e, for a caller that knows the object's name. NULL is allowed. */
void qn_err_prefix(struct qn_err *e, const char *fmt, ...) QN_PRINTF(2, 3);

/* "INVAL", "FORMAT", ... */
const char *qn_code_name(int code);

#define QN_FAIL(e, code, ...)                                                                                \
    do {                                                                                                     \
        rc = qn_err_set((e), (code), __FILE__, __LINE__, __VA_ARGS__);                                       \
        goto out;                                                                                            \
    } while (0)

#define QN_FAIL_IF(cond, e, code, ...)                                                                       \
    do {                                                                                                     \
        if (cond) QN_FAIL((e), (code), __VA_ARGS__);                                                         \
    } while (0)

#define QN_TRY(call)                                                                                         \
    do {                                                                                                     \
        rc = (call);                                                                                         \
        if (rc != QN_OK) goto out;                                                                           \
    } while (0)

#endif
