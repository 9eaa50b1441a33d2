/* Writes a model as one GGUF file, named and laid out as llama.cpp's converter does, so that programs built
 * on it load the file: version 3, architecture qwen35 or qwen35moe, MTP layer included, value heads tiled,
 * norms + 1, tokenizer and chat template in the metadata. Layers in any stored format are dequantised and
 * stored anew. The file appears when complete (PATH.partial until then). SPDX-License-Identifier: Apache-2.0
 */
#ifndef QN_GGUF_WRITE_H
#define QN_GGUF_WRITE_H

#include "model/checkpoint.h"

/* type: QN_BF16, QN_Q8_0 or QN_Q4_0, of matrices; norms, routers and the delta net's small tensors are F32,
 * the head (of Q4_0 files) Q8_0, rows that are no multiple of 32 F16, as in files of the makers. Errors:
 * QN_INVAL (the file exists), QN_UNSUPPORTED, QN_NOTFOUND (no tokenizer), QN_IO. */
int qn_gguf_write(const struct qn_model *m, const char *path, enum qn_dtype type, struct qn_err *e);

#endif
