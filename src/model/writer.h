/* Writes a checkpoint's safetensors files into a folder that appears only when complete.
 *
 * All tensors are declared first, so shards, headers and offsets are known and data can then come in any
 * order and from several threads (qn_writer_put is thread-safe for ranges that do not overlap). Files are
 * written into FOLDER.partial, which is renamed at the end; one in use is refused. A leftover of an
 * interrupted run is gone on with when it was begun with the same key, otherwise emptied and used again.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_WRITER_H
#define QN_WRITER_H

#include "model/format.h"

#define QN_SHARD_BYTES ((int64_t)5 * 1000 * 1000 * 1000)

struct qn_writer;

/* key: one line that says what is written, everything the bytes depend on; NULL: a leftover is never gone on
 * with. Errors: QN_INVAL (folder exists and is not empty), QN_BUSY, QN_IO. */
int qn_writer_open(struct qn_writer **out, const char *folder, const char *key, struct qn_err *e);
/* Lines noted by the run this one goes on with, each with its newline; "" when it starts afresh. */
const char *qn_writer_notes(const struct qn_writer *w);
/* Notes whole lines about what is done: they count when the run is interrupted. Thread-safe. */
int qn_writer_note(struct qn_writer *w, const char *lines, struct qn_err *e);
/* Before declare: files take no room on disk for what is not put. */
void qn_writer_be_sparse(struct qn_writer *w);
/* Lays out and creates the shard files. list: name, dtype, shape and n_byte of each; names are copied. */
int qn_writer_declare(struct qn_writer *w, const struct qn_tensor *list, int n, int64_t shard_bytes,
                      struct qn_err *e);
int qn_writer_put(struct qn_writer *w, int i, size_t offset, const void *data, size_t n_byte,
                  struct qn_err *e);
int qn_writer_get(struct qn_writer *w, int i, void *to, struct qn_err *e); /* a whole tensor, as put */
int qn_writer_shard_of(const struct qn_writer *w, int i);
int qn_writer_sync(struct qn_writer *w, int shard, struct qn_err *e);
/* FOLDER.partial/NAME, malloc'ed: a file of the caller's own while it works; "quern.*" is gone after the
 * commit. */
char *qn_writer_path(const struct qn_writer *w, const char *name);
/* A small file beside the tensors. */
int qn_writer_file(struct qn_writer *w, const char *name, const void *data, size_t n_byte, struct qn_err *e);
size_t qn_writer_bytes(const struct qn_writer *w); /* of all tensors */
int qn_writer_n_shards(const struct qn_writer *w);
/* Writes the index, renames the folder. */
int qn_writer_commit(struct qn_writer *w, struct qn_err *e);
/* Removes FOLDER.partial unless committed, or notes tell a later run what is done. NULL is allowed. */
void qn_writer_close(struct qn_writer *w);

#endif
