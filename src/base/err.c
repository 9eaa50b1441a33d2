/* Error texts and the report of a failed check.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/err.h"

#include <stdarg.h>

#include "base/shown.h"

int(qn_err_set)(struct qn_err *e, int code, const char *file, int line, const char *fmt, ...)
{
    if (!e) return code;
    e->code = code;
    e->file = file;
    e->line = line;
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(e->text, sizeof e->text, fmt, ap);
    va_end(ap);
    if (n >= (int)sizeof e->text) memcpy(e->text + sizeof e->text - 4, "...", 4);
    qn_show(e->text, sizeof e->text);
    return code;
}

void qn_err_prefix(struct qn_err *e, const char *fmt, ...)
{
    if (!e) return;
    char old[sizeof e->text];
    memcpy(old, e->text, sizeof old);
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(e->text, sizeof e->text, fmt, ap);
    va_end(ap);
    if (n < 0) n = 0;
    if (n < (int)sizeof e->text - 1) snprintf(e->text + n, sizeof e->text - (size_t)n, ": %s", old);
    qn_show(e->text, sizeof e->text);
}

const char *qn_code_name(int code)
{
    static const char *const names[] = {"OK",       "INVAL",   "UNSUPPORTED", "NOTFOUND", "TOOBIG",
                                        "BUSY",     "NOMEM",   "IO",          "FORMAT",   "DEVICE",
                                        "CANCELED", "TIMEOUT", "INTERNAL"};
    int i = -code;
    return i >= 0 && i < (int)QN_COUNT(names) ? names[i] : "UNKNOWN";
}

static void (*check_hook)(FILE *out);

void qn_check_set_hook(void (*hook)(FILE *out))
{
    check_hook = hook;
}

void qn_check_failed(const char *expr, const char *file, int line)
{
    fprintf(stderr, "quern %s: broken invariant at %s:%d: %s\n", QN_VERSION, file, line, expr);
    if (check_hook) {
        void (*hook)(FILE *) = check_hook;
        check_hook = NULL; /* a check that fails inside the hook must not come back here */
        hook(stderr);
    }
    fflush(stderr);
    abort();
}
