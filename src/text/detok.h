/* Incremental detokeniser: ids -> UTF-8 text.
 *
 * Tokens are byte strings and may end within a character. The concatenation of everything push and end
 * append is what the reference library's decode gives for all the ids at once: the tokens' bytes joined, with
 * every maximal ill-formed subsequence replaced by U+FFFD. Each push appends as much of it as is certain:
 * a started character (at most 3 bytes) is held back until it is complete, broken, or the end.
 *
 * Owned by one thread (a stream); holds no memory. The tokenizer must outlive it.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_DETOK_H
#define QN_DETOK_H

#include "base/buf.h"
#include "text/tokenizer.h"

enum qn_detok_special {
    QN_DETOK_KEEP, /* every token is written */
    QN_DETOK_SKIP, /* special tokens write nothing, except the six visible markers (QN_TOKEN_MARKER);
                      tokens added without "special" are text and stay, as in the reference library */
};

struct qn_detok {
    const struct qn_tokenizer *tokenizer;
    enum qn_detok_special special;
    unsigned char held[4]; /* [n_held] the start of a character */
    int n_held;
};

void qn_detok_init(struct qn_detok *d, const struct qn_tokenizer *t, enum qn_detok_special special);

/* Appends the text that has become certain with this id; an unused id writes nothing. Only well-formed UTF-8
 * is ever appended. Returns out->failed. */
int qn_detok_push(struct qn_detok *d, int32_t id, struct qn_buf *out);

/* The end: a character still incomplete becomes U+FFFD. Ready for another text afterwards. */
int qn_detok_end(struct qn_detok *d, struct qn_buf *out);

/* All at once. */
int qn_detok_all(const struct qn_tokenizer *t, const int32_t *ids, size_t n, enum qn_detok_special special,
                 struct qn_buf *out);

#endif
