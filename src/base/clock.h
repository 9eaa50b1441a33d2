/* Monotonic time and deadlines, in microseconds. Any thread.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_CLOCK_H
#define QN_CLOCK_H

#include <time.h>

#include "base/base.h"

static inline int64_t qn_now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

/* Seconds since the epoch, for "created" fields and logs. */
static inline int64_t qn_unix_s(void)
{
    return (int64_t)time(NULL);
}

/* A point deadline_us is over when it is not 0 and now is past it. */
static inline bool qn_is_past(int64_t deadline_us)
{
    return deadline_us && qn_now_us() >= deadline_us;
}

#endif
