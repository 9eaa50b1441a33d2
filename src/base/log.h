/* Log lines: `LEVEL area message key=value ...` on stderr. Any thread; one write a line, control
 * characters escaped.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_LOG_H
#define QN_LOG_H

#include "base/base.h"

enum qn_level { QN_LOG_ERROR, QN_LOG_WARN, QN_LOG_INFO, QN_LOG_DEBUG };

void qn_log_set_level(enum qn_level level); /* default QN_LOG_INFO */
bool qn_log_is_on(enum qn_level level);
void qn_log(enum qn_level level, const char *area, const char *fmt, ...) QN_PRINTF(3, 4);

/* At most one line in interval_s from this place; the next line says how many were left out. */
struct qn_log_limit {
    int64_t next_us;
    unsigned n_left_out;
};
bool qn_log_allow(struct qn_log_limit *limit, int interval_s, unsigned *n_left_out);

#endif
