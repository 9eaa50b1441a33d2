/* What every unit test includes: cmocka with its prerequisites.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_TEST_H
#define QN_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* QUERN_TEST=GLOB runs the tests of a program whose names fit. */
static inline void __attribute__((constructor)) qn_test_filter(void)
{
    if (getenv("QUERN_TEST")) cmocka_set_test_filter(getenv("QUERN_TEST"));
}

#endif
