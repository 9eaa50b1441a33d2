/* Files that this process has mapped to read, so that who has read a stretch of one can give its pages back.
 *
 * Pages of a private, read-only mapping can be dropped at any time: what is read again comes from the page
 * cache. The list tells such memory from any other, of which dropping pages would lose what they hold. Any
 * thread. SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_MAPPED_H
#define QN_MAPPED_H

#include "base/base.h"

/* From the mapping of a file, read only and private, until just before it is unmapped. */
void qn_mapped_add(const void *data, size_t n_byte);
void qn_mapped_remove(const void *data); /* NULL is allowed */

/* Gives back the whole pages among n_byte from `from` if a listed file holds them all; else does nothing. */
void qn_mapped_release(const void *from, size_t n_byte);

#endif
