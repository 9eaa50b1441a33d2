/* Growable bytes with a mandatory maximum.
 * Owned by whoever holds the struct; one thread at a time. An append over the maximum (or out of
 * memory) sets `failed`, changes nothing and returns QN_TOOBIG / QN_NOMEM; later appends fail too, so
 * a writer may check once at the end. data is always NUL-terminated once non-NULL.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_BUF_H
#define QN_BUF_H

#include "base/budget.h"
#include "base/err.h"

struct qn_buf {
    char *data; /* [n_byte] plus a NUL; NULL while empty */
    size_t n_byte, capacity;
    size_t max_bytes;
    int failed;     /* first failure code, or QN_OK */
    qn_share share; /* the request whose memory it is, since its first byte */
};

#define QN_BUF_INIT(max)                                                                                     \
    {                                                                                                        \
        NULL, 0, 0, (max), QN_OK, 0                                                                          \
    }

void qn_buf_init(struct qn_buf *b, size_t max_bytes);
void qn_buf_free(struct qn_buf *b);  /* frees the bytes; the struct is empty and usable again */
void qn_buf_clear(struct qn_buf *b); /* keeps the capacity, forgets a failure */
int qn_buf_append(struct qn_buf *b, const void *data, size_t n_byte);
int qn_buf_puts(struct qn_buf *b, const char *s);
int qn_buf_putc(struct qn_buf *b, char c);
int qn_buf_printf(struct qn_buf *b, const char *fmt, ...) QN_PRINTF(2, 3);
int qn_buf_reserve(struct qn_buf *b, size_t n_more);
/* Removes n bytes from the front. */
void qn_buf_drop(struct qn_buf *b, size_t n);
/* Hands the bytes (malloc'ed, NUL-terminated, never NULL) to the caller and empties the buffer. */
char *qn_buf_take(struct qn_buf *b);
/* The text, "" while empty. */
const char *qn_buf_str(const struct qn_buf *b);

/* Reads a whole file of at most max_bytes. Errors: QN_NOTFOUND, QN_IO, QN_TOOBIG, naming the path. */
int qn_buf_read_file(struct qn_buf *b, const char *path, struct qn_err *e);
int qn_buf_read_stream(struct qn_buf *b, FILE *in, const char *name, struct qn_err *e);

#endif
