/* GGUF files made by hand, byte by byte.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_TEST_GGUF_FILE_H
#define QN_TEST_GGUF_FILE_H

#include "base/buf.h"

static inline void gg_u32(struct qn_buf *b, uint32_t x)
{
    qn_buf_append(b, &x, 4);
}
static inline void gg_u64(struct qn_buf *b, uint64_t x)
{
    qn_buf_append(b, &x, 8);
}
static inline void gg_text(struct qn_buf *b, const char *s)
{
    gg_u64(b, strlen(s));
    qn_buf_puts(b, s);
}
static inline void gg_head(struct qn_buf *b, uint32_t version, uint64_t n_tensor, uint64_t n_value)
{
    qn_buf_puts(b, "GGUF");
    gg_u32(b, version);
    gg_u64(b, n_tensor);
    gg_u64(b, n_value);
}
static inline void gg_key_u32(struct qn_buf *b, const char *key, uint32_t x)
{
    gg_text(b, key);
    gg_u32(b, 4);
    gg_u32(b, x);
}
static inline void gg_key_text(struct qn_buf *b, const char *key, const char *x)
{
    gg_text(b, key);
    gg_u32(b, 8);
    gg_text(b, x);
}
static inline void gg_tensor(struct qn_buf *b, const char *name, uint64_t n0, uint64_t n1, uint32_t type,
                             uint64_t offset)
{
    gg_text(b, name);
    gg_u32(b, 2);
    gg_u64(b, n0);
    gg_u64(b, n1);
    gg_u32(b, type);
    gg_u64(b, offset);
}
static inline void gg_pad(struct qn_buf *b, size_t to, size_t n_data)
{
    while (b->n_byte % to) qn_buf_putc(b, 0);
    for (size_t i = 0; i < n_data; i++) qn_buf_putc(b, (char)i);
}

#endif
