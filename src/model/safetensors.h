/* One safetensors file: a mapped file and views of its tensors.
 *
 * Layout: 8 bytes little-endian header length, a JSON object name -> {dtype, shape, data_offsets}, the data.
 * As in the reference library the entries must cover the data exactly: no overlap, no hole, nothing left
 * over. Every number is checked before it is used. Owned by the opener; immutable; any thread.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_SAFETENSORS_H
#define QN_SAFETENSORS_H

#include "model/format.h"

#define QN_SAFETENSORS_MAX_HEADER  ((size_t)100 * 1000 * 1000) /* bytes */
#define QN_SAFETENSORS_MAX_TENSORS 1000000
#define QN_SAFETENSORS_MAX_NAME    512 /* bytes of a tensor name */

struct qn_safetensors;

/* Errors: QN_NOTFOUND, QN_IO, QN_FORMAT (names file and entry), QN_UNSUPPORTED (a dtype of less than a byte).
 */
int qn_safetensors_open(struct qn_safetensors **out, const char *path, struct qn_err *e);
/* Over bytes the caller keeps alive. `name` is used in errors. */
int qn_safetensors_parse(struct qn_safetensors **out, const void *data, size_t n_byte, const char *name,
                         struct qn_err *e);
void qn_safetensors_close(struct qn_safetensors *st);

int qn_safetensors_n_tensor(const struct qn_safetensors *st);
const struct qn_tensor *qn_safetensors_tensor(const struct qn_safetensors *st, int i); /* in file order */
size_t qn_safetensors_file_bytes(const struct qn_safetensors *st);
void qn_safetensors_advise(const struct qn_safetensors *st, int advice); /* madvise over the file */
const void *qn_safetensors_header(const struct qn_safetensors *st, size_t *n_byte);

#endif
