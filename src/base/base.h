/* Fixed-width types, checks and array helpers. Included by everything.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_BASE_H
#define QN_BASE_H

#include <inttypes.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define QN_COUNT(array)     (sizeof(array) / sizeof((array)[0]))
#define QN_MIN(a, b)        ((a) < (b) ? (a) : (b))
#define QN_MAX(a, b)        ((a) > (b) ? (a) : (b))
#define QN_CLAMP(x, lo, hi) ((x) < (lo) ? (lo) : (x) > (hi) ? (hi) : (x))
#define QN_ROUND_UP(x, to)  (((x) + (to)-1) / (to) * (to))
#define QN_CEIL_DIV(x, by)  (((x) + (by)-1) / (by))

#if defined(__GNUC__)
#define QN_PRINTF(fmt_at, args_at) __attribute__((format(printf, fmt_at, args_at)))
#define QN_UNUSED                  __attribute__((unused))
#define QN_NORETURN                __attribute__((noreturn))
#else
#define QN_PRINTF(fmt_at, args_at)
#define QN_UNUSED
#define QN_NORETURN
#endif

/* Writes a report (build, expression, site, hook output) to stderr and aborts. */
QN_NORETURN void qn_check_failed(const char *expr, const char *file, int line);

/* A hook that adds state to the report of a failed check (the engine installs one). May be NULL. */
void qn_check_set_hook(void (*hook)(FILE *out));

/* A broken invariant of ours stops the process, in release too: a wrong answer to the wrong user is
 * worse than a restart. Never use it for outside input. */
#define QN_CHECK(cond) ((cond) ? (void)0 : qn_check_failed(#cond, __FILE__, __LINE__))

/* Debug builds only. */
#ifdef NDEBUG
#define QN_ASSERT(cond) ((void)0)
#else
#define QN_ASSERT(cond) QN_CHECK(cond)
#endif

#endif
