/* The tensors of a GGUF model under the names of a published checkpoint.
 *
 * Each tensor of the file becomes the view of the checkpoint's tensor that it was made from: names
 * translated, dimensions turned, stacked experts and fused projections cut into the parts that have a name of
 * their own. Bytes are never touched. What the makers did to values stays, and readers of such a model take
 * it into account:
 *
 *   norms (but the delta net's)  hold 1 + w
 *   A_log                        is -exp(A_log)
 *   value heads of the delta net are tiled: head j of the file uses key head j mod NK (config.is_tiled); rows
 * of in_proj_qkv (v), in_proj_z, _a, _b, conv1d, dt_bias, and columns of out_proj
 *
 * Stateless; any thread. SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_MODEL_GGUF_H
#define QN_MODEL_GGUF_H

#include "base/gguf.h"
#include "base/mem.h"
#include "model/config.h"
#include "model/shards.h"

/* Reads the configuration from the metadata. Errors as of qn_config_parse. */
int qn_gguf_config(const struct qn_gguf_set *set, const char *overrides, struct qn_config *out,
                   struct qn_err *e);
/* Errors: QN_UNSUPPORTED (a type that is not read: names tensor, type, what to take instead), QN_FORMAT. */
int qn_gguf_tensors(const struct qn_gguf_set *set, const struct qn_config *c, struct qn_arena *names,
                    struct qn_tensors *out, struct qn_err *e);

/* Block type, or plain type, by the number in the file; false for one that is not read. */
bool qn_gguf_dtype(uint32_t type, enum qn_dtype *out);

#endif
