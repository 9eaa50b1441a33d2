/* Incremental JSON check: tells, byte by byte, whether what has been read can still become one JSON value.
 * A value type; copy to save a position. Bytes above 0x7f are taken as text (check UTF-8 elsewhere).
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_JSONSCAN_H
#define QN_JSONSCAN_H

#include "base/base.h"

#define QN_JSONSCAN_MAX_DEPTH 256

struct qn_jsonscan {
    uint8_t state;
    uint8_t word; /* which of true, false, null; digits of a \u escape */
    uint8_t at;   /* bytes of it read */
    bool is_key;  /* the string being read is a key */
    int depth;
    uint8_t is_object[QN_JSONSCAN_MAX_DEPTH / 8];
};

enum qn_jsonscan_result {
    QN_JSONSCAN_BAD = -1,  /* no JSON value starts so */
    QN_JSONSCAN_OPEN = 0,  /* more is needed */
    QN_JSONSCAN_WHOLE = 1, /* a value is complete (a number may grow; blanks may follow) */
};

/* All zero is the start. After BAD the struct must not be fed again. */
enum qn_jsonscan_result qn_jsonscan_byte(struct qn_jsonscan *s, unsigned char c);

#endif
