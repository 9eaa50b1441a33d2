/* A model in a GGUF file as a checkpoint folder in BF16: layers dequantised, value heads in the order of a
 * checkpoint, norms and A_log as published, config.json and tokenizer files from the metadata. The folder
 * appears when complete. SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_PLAIN_H
#define QN_PLAIN_H

#include "model/checkpoint.h"

/* shard_bytes 0: as published. Errors: as of qn_writer_open and qn_linear_rows. */
int qn_plain_write(const struct qn_model *m, const char *folder, int64_t shard_bytes, struct qn_err *e);

#endif
