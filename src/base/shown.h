/* Text from outside as it may be printed: paths, names, answers of a hub. A control character in them could
 * move a terminal's cursor or begin a line of its own in a log; here it is \n, \t or \xHH.
 * Pure; any thread.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_SHOWN_H
#define QN_SHOWN_H

#include "base/base.h"

/* For printf's arguments: one of eight buffers of this thread, cut at 1 KiB. NULL is "". */
const char *qn_shown(const char *text);

/* In place, within out_bytes with the NUL; what does not fit is cut. Returns the length. */
size_t qn_show(char *text, size_t out_bytes);

#endif
