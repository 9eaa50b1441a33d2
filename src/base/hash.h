/* 64-bit hashes: bytes, and chains of token pages. Not cryptographic. Any thread.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_HASH_H
#define QN_HASH_H

#include "base/rng.h"

/* Hash of n bytes from a start value (chain by passing the previous hash as start). */
static inline uint64_t qn_hash_bytes(uint64_t start, const void *data, size_t n)
{
    const unsigned char *p = data;
    uint64_t h = qn_mix64(start ^ (uint64_t)n);
    for (; n >= 8; n -= 8, p += 8) {
        uint64_t w;
        memcpy(&w, p, 8);
        h = qn_mix64(h ^ w);
    }
    uint64_t tail = 0;
    if (n) memcpy(&tail, p, n);
    return qn_mix64(h ^ tail);
}

static inline uint64_t qn_hash_str(const char *s)
{
    return qn_hash_bytes(0, s, strlen(s));
}

/* Open-addressing map from a non-zero 64-bit key to a 64-bit value. Owned by one thread. */
struct qn_map {
    uint64_t *keys, *values; /* [capacity]; key 0 marks an empty place */
    size_t n, capacity;      /* capacity is 0 or a power of two */
};

void qn_map_free(struct qn_map *m);
void qn_map_put(struct qn_map *m, uint64_t key, uint64_t value);
bool qn_map_get(const struct qn_map *m, uint64_t key, uint64_t *value); /* value may be NULL */
bool qn_map_remove(struct qn_map *m, uint64_t key);

#endif
