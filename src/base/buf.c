/* Growable bytes.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/buf.h"

#include <errno.h>
#include <stdarg.h>

#include "base/file.h"
#include "base/mem.h"

#define LARGE_BYTES ((size_t)1 << 20) /* from here on by half */

void qn_buf_init(struct qn_buf *b, size_t max_bytes)
{
    *b = (struct qn_buf){.max_bytes = max_bytes};
}

void qn_buf_free(struct qn_buf *b)
{
    free(b->data);
    qn_share_give(b->share, b->capacity);
    qn_buf_init(b, b->max_bytes);
}

void qn_buf_clear(struct qn_buf *b)
{
    b->n_byte = 0;
    b->failed = QN_OK;
    if (b->data) b->data[0] = 0;
}

int qn_buf_reserve(struct qn_buf *b, size_t n_more)
{
    if (b->failed) return b->failed;
    if (n_more > b->max_bytes - b->n_byte) return b->failed = QN_TOOBIG;
    size_t need = b->n_byte + n_more + 1;
    if (need <= b->capacity) return QN_OK;
    size_t capacity = b->capacity ? b->capacity : 64;
    while (capacity < need && capacity < LARGE_BYTES) capacity *= 2;
    if (capacity < need) capacity = QN_MAX(need, b->capacity + b->capacity / 2);
    if (!b->data) b->share = qn_share_mine();
    if (!qn_share_take(b->share, capacity - b->capacity)) return b->failed = QN_NOMEM;
    char *data = try_realloc(b->data, capacity, 1);
    if (!data) {
        qn_share_give(b->share, capacity - b->capacity);
        qn_share_failed(b->share, capacity);
        return b->failed = QN_NOMEM;
    }
    b->data = data;
    b->capacity = capacity;
    return QN_OK;
}

int qn_buf_append(struct qn_buf *b, const void *data, size_t n_byte)
{
    int rc = qn_buf_reserve(b, n_byte);
    if (rc) return rc;
    if (n_byte) memcpy(b->data + b->n_byte, data, n_byte);
    b->n_byte += n_byte;
    b->data[b->n_byte] = 0;
    return QN_OK;
}

int qn_buf_puts(struct qn_buf *b, const char *s)
{
    return qn_buf_append(b, s, strlen(s));
}

int qn_buf_putc(struct qn_buf *b, char c)
{
    return qn_buf_append(b, &c, 1);
}

int qn_buf_printf(struct qn_buf *b, const char *fmt, ...)
{
    if (b->failed) return b->failed;
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    if (n < 0) return b->failed = QN_INVAL;
    int rc = qn_buf_reserve(b, (size_t)n);
    if (rc) return rc;
    va_start(ap, fmt);
    vsnprintf(b->data + b->n_byte, (size_t)n + 1, fmt, ap);
    va_end(ap);
    b->n_byte += (size_t)n;
    return QN_OK;
}

void qn_buf_drop(struct qn_buf *b, size_t n)
{
    if (!n) return;
    QN_CHECK(n <= b->n_byte);
    b->n_byte -= n;
    memmove(b->data, b->data + n, b->n_byte + 1);
}

char *qn_buf_take(struct qn_buf *b)
{
    char *data = b->data ? b->data : xstrdup("");
    /* still the request's, until its share is closed */
    b->data = NULL;
    qn_buf_init(b, b->max_bytes);
    return data;
}

const char *qn_buf_str(const struct qn_buf *b)
{
    return b->data ? b->data : "";
}

int qn_buf_read_stream(struct qn_buf *b, FILE *in, const char *name, struct qn_err *e)
{
    int rc = QN_OK;
    for (;;) {
        char chunk[65536];
        size_t n = fread(chunk, 1, sizeof chunk, in);
        rc = qn_buf_append(b, chunk, n);
        QN_FAIL_IF(rc == QN_TOOBIG, e, rc, "%s: larger than the limit of %zu bytes", name, b->max_bytes);
        QN_FAIL_IF(rc, e, rc, "%s: out of memory while reading", name);
        if (n < sizeof chunk) break;
    }
    QN_FAIL_IF(ferror(in), e, QN_IO, "%s: %s", name, strerror(errno));
out:
    return rc;
}

int qn_buf_read_file(struct qn_buf *b, const char *path, struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_err why = {0};
    FILE *in = qn_file_read(path, &why);
    QN_FAIL_IF(!in, e, why.code, "%s", why.text);
    QN_TRY(qn_buf_read_stream(b, in, path, e));
out:
    if (in) fclose(in);
    return rc;
}
