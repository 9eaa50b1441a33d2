/* Read bandwidth of the machine's memory, measured.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_BANDWIDTH_H
#define QN_BANDWIDTH_H

#include "base/base.h"

/* Streams through a block far larger than the caches with n_thread threads, several times, and returns the
 * best pass in 1e9 bytes a second. Takes about a second. 0 when there is no memory for it. */
double qn_bandwidth_read(int n_thread);

#endif
