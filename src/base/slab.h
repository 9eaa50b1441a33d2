/* Slabs: many large blocks of one lifetime, side by side in regions with huge pages.
 *
 * A block of less than a huge page that has pages of its own is read at three quarters of the memory's rate,
 * and so is the end of a larger one: each 4 KiB costs a walk of the page tables. Blocks that share huge pages
 * are not. Freed at once, by the owner. Thread: one at a time. SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_SLAB_H
#define QN_SLAB_H

#include "base/base.h"

struct qn_slab;

struct qn_slab *qn_slab_create(void); /* holds nothing yet */
void qn_slab_free(struct qn_slab *s); /* NULL is allowed */

/* n_byte zeroed bytes, 64-byte aligned, or NULL. What was handed out and is not wanted after all stays until
 * the slab is freed. */
void *qn_slab_alloc(struct qn_slab *s, size_t n_byte);

#endif
