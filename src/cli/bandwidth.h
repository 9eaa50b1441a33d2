/* Read bandwidth of the machine's memory, measured.
 *
 * Memory of a shared machine changes its speed within seconds, so what is compared with it is best measured
 * between passes of one reader. One thread at a time.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_BANDWIDTH_H
#define QN_BANDWIDTH_H

#include "base/base.h"

struct qn_reader;

/* n_thread threads that sum their own share of one block of n_byte, which should be far larger than the
 * caches. NULL when there is no memory for it. */
struct qn_reader *qn_reader_create(int n_thread, size_t n_byte);
void qn_reader_free(struct qn_reader *r);
/* One pass, all threads starting together: 1e9 bytes a second. */
double qn_reader_pass(struct qn_reader *r);

/* The best of several passes through 512 MiB, in 1e9 bytes a second. Takes about a second. 0 when there is no
 * memory for it. */
double qn_bandwidth_read(int n_thread);

#endif
