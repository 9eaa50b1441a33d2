/* Log lines.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/log.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/shown.h"

static atomic_int level_now = QN_LOG_INFO;

void qn_log_set_level(enum qn_level level)
{
    atomic_store(&level_now, (int)level);
}

bool qn_log_is_on(enum qn_level level)
{
    return (int)level <= atomic_load(&level_now);
}

void qn_log(enum qn_level level, const char *area, const char *fmt, ...)
{
    if (!qn_log_is_on(level)) return;
    static const char *const names[] = {"error", "warn", "info", "debug"};
    char line[2048];
    struct timespec t;
    struct tm tm;
    clock_gettime(CLOCK_REALTIME, &t);
    gmtime_r(&t.tv_sec, &tm);
    size_t n = strftime(line, sizeof line, "%Y-%m-%dT%H:%M:%S", &tm);
    n += (size_t)snprintf(line + n, sizeof line - n, ".%03dZ %-5s %s: ", (int)(t.tv_nsec / 1000000),
                          names[level], area);
    va_list ap;
    va_start(ap, fmt);
    int m = vsnprintf(line + n, sizeof line - n - 1, fmt, ap);
    va_end(ap);
    if (m > 0) n += qn_show(line + n, sizeof line - n - 1);
    line[n++] = '\n';
    if (write(STDERR_FILENO, line, n) < 0) return; /* nowhere to report it */
}

bool qn_log_allow(struct qn_log_limit *limit, int interval_s, unsigned *n_left_out)
{
    int64_t now = qn_now_us();
    if (now < limit->next_us) {
        limit->n_left_out++;
        return false;
    }
    *n_left_out = limit->n_left_out;
    limit->n_left_out = 0;
    limit->next_us = now + (int64_t)interval_s * 1000000;
    return true;
}
