/* What a user adds to a checkpoint when it is opened: a LoRA adapter merged into its weights, or the draft
 * layer of another checkpoint.
 *
 * Both work on the list of tensors before roles are looked up, so everything after sees a checkpoint that
 * holds the result. A merged layer is BF16 in memory of its own. SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_ADAPTER_H
#define QN_ADAPTER_H

#include "base/mem.h"
#include "model/detect.h"
#include "model/shards.h"

struct qn_merged; /* memory of the merged layers and the adapter's own hash */

/* Merges the PEFT adapter of a folder (adapter_config.json, adapter_model.safetensors): W + scale B A in
 * float, rounded to BF16; quantised layers are dequantised first. Every tensor of the adapter must find its
 * layer. Errors: QN_NOTFOUND, QN_FORMAT (shapes), QN_UNSUPPORTED (DoRA, biases, parameters of fused experts,
 * ...; names the tensor). */
int qn_adapter_merge(struct qn_merged **out, const char *folder, struct qn_tensors *t,
                     const struct qn_scheme *scheme, struct qn_arena *arena, struct qn_notes *notes,
                     struct qn_err *e);
uint64_t qn_merged_hash(const struct qn_merged *m); /* of the adapter; 0 for NULL */
void qn_merged_free(struct qn_merged *m);

/* The mtp.* tensors of another checkpoint folder in place of the model's own, which are dropped. */
int qn_adapter_draft(struct qn_shards *donor, const char *folder, struct qn_tensors *t,
                     struct qn_arena *arena, struct qn_notes *notes, struct qn_err *e);

#endif
