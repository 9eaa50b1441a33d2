/* Byte-level BPE: the tokens' bytes, the merge ranks, and the merging of one piece of text.
 *
 * Owned by a tokenizer. Filled by one thread (add tokens, index, add merges, seal); afterwards immutable, any
 * thread. Scratch for merging is the caller's.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_BPE_H
#define QN_BPE_H

#include "text/tokenizer.h"

/* The code points that stand for bytes in tokenizer.json are below this. */
#define QN_BPE_ALPHABET_SIZE 324

struct qn_bpe_span {
    uint32_t start, length;
};

struct qn_bpe_place {
    uint32_t tag; /* of the bytes' hash */
    int32_t id;
};

struct qn_bpe_pair {
    uint32_t rank;
    int32_t id; /* of the merged token */
};

struct qn_bpe {
    /* tokens */
    uint8_t *blob; /* all tokens' bytes */
    size_t n_blob, blob_capacity;
    struct qn_bpe_span *span; /* [n_id] into blob */
    uint8_t *flags;           /* [n_id] enum qn_token_flag */
    int n_id, id_capacity;
    size_t max_bytes; /* of the longest token */

    /* bytes -> id of the tokens spelled in the byte alphabet; open addressing, id -1 is an empty place */
    struct qn_bpe_place *place; /* [place_mask + 1] */
    size_t place_mask;
    int32_t byte_id[256];

    /* (left id, right id) -> merge; open addressing, key 0 is an empty place, else left << 32 | right, plus 1
     */
    uint64_t *pair_key; /* [pair_mask + 1] */
    struct qn_bpe_pair *pair;
    size_t pair_mask, n_merge;
    struct qn_bpe_pair *byte_pair; /* [256 * 256] merges of two single bytes; id -1: none */

    bool takes_whole; /* "ignore_merges": a piece that is a token is not merged up */
};

void qn_bpe_free(struct qn_bpe *b);

/* Token `id` spelled in the byte alphabet of tokenizer.json. A spelling outside it is kept as text that no
 * merge can reach. Errors: QN_INVAL (bad id, taken id), QN_TOOBIG, QN_NOMEM. */
int qn_bpe_add_token(struct qn_bpe *b, int64_t id, const char *spelling, size_t n, struct qn_err *e);
/* Token `id` with these very bytes and flags (an added token); replaces what was there. */
int qn_bpe_set_token(struct qn_bpe *b, int64_t id, const char *bytes, size_t n, unsigned flags,
                     struct qn_err *e);

/* After the last qn_bpe_add_token: builds the bytes -> id table; checks that every byte of UTF-8 has a token.
 */
int qn_bpe_index(struct qn_bpe *b, struct qn_err *e);

/* Makes room for n merges, then adds them in rank order. */
int qn_bpe_reserve_merges(struct qn_bpe *b, size_t n, struct qn_err *e);
int qn_bpe_add_merge(struct qn_bpe *b, const char *left, size_t n_left, const char *right, size_t n_right,
                     struct qn_err *e);
void qn_bpe_seal(struct qn_bpe *b);

/* The id of the token with these bytes, or -1. */
int32_t qn_bpe_find(const struct qn_bpe *b, const void *bytes, size_t n);

/* Appends the ids of one piece, n < 2^31. O(n log n). Errors: QN_NOMEM, QN_TOOBIG (out). */
int qn_bpe_encode(const struct qn_bpe *b, const uint8_t *piece, size_t n, struct qn_ids *out);

/* A 64-bit hash for short strings; the upper half is the better one. */
static inline uint64_t qn_bpe_hash(const uint8_t *s, size_t n)
{
    uint64_t h = n * 0x9e3779b97f4a7c15u, w;
    for (; n > 8; n -= 8, s += 8) {
        memcpy(&w, s, 8);
        h = (h ^ w) * 0xd6e8feb86659fd93u;
        h ^= h >> 32;
    }
    /* 0 to 8 bytes are left: two overlapping reads, or three bytes that hold all there is */
    if (n >= 4) {
        uint32_t first, last;
        memcpy(&first, s, 4);
        memcpy(&last, s + n - 4, 4);
        w = (uint64_t)last << 32 | first;
    } else {
        w = n ? s[0] | (uint64_t)s[n / 2] << 8 | (uint64_t)s[n - 1] << 16 : 0;
    }
    h = (h ^ w) * 0xd6e8feb86659fd93u;
    h ^= h >> 32;
    return h * 0xd6e8feb86659fd93u;
}

#endif
