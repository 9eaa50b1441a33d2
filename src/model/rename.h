/* Tensors as other tools call them -> as a published checkpoint does, and makes that are not read at all.
 *
 * Wrappers of training code (base_model.model., _orig_mod., module.) are taken off; projections that another
 * engine has laid one after the other in one tensor are views of its rows. Nothing is copied.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_RENAME_H
#define QN_RENAME_H

#include "base/mem.h"
#include "model/config.h"
#include "model/shards.h"

/* Names live in the arena. Errors: QN_UNSUPPORTED names the make and the way out (unmerged adapters, EXL3,
 * HQQ, bitsandbytes, ...). */
int qn_tensors_rename(struct qn_tensors *t, const struct qn_config *c, struct qn_arena *arena,
                      struct qn_notes *notes, struct qn_err *e);

#endif
