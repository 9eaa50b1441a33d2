/* A text as the prefix cache sees it: its tokens and, where there are media, what they show.
 * Borrowed: whoever makes one keeps the arrays as long as it is used. Any thread.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_PREFIX_H
#define QN_PREFIX_H

#include "backend/page.h"
#include "engine/span.h"

struct qn_prefix {
    uint64_t root;      /* qn_cache_root: only texts of the same root share anything */
    const int32_t *tok; /* [n] */
    int n;
    const struct qn_media_span *span; /* [n_span] media among them: other content is other text */
    int n_span;
};

/* What stands at some places of a text, as the cache keeps and compares it. */
struct qn_words {
    const int32_t *tok;
    const uint64_t *media; /* of each place: qn_span_word, 0 for text; NULL: there are no media */
};

/* The key of its page i, behind that of page i - 1 (of page 0: the root). */
uint64_t qn_prefix_key(const struct qn_prefix *p, uint64_t parent_key, int i);
/* How many of the n words are the same as its own from place `at` on. */
int qn_prefix_common(const struct qn_prefix *p, int at, const struct qn_words *words, int n);
/* The words of media among the n places from `at` on: [n]. false: there are none, nothing is written. */
bool qn_prefix_media(const struct qn_prefix *p, int at, int n, uint64_t *out);
/* The hash of the n words from place `at` on, behind a seed. */
uint64_t qn_prefix_hash(const struct qn_prefix *p, uint64_t seed, int at, int n);
/* A copy of the media words, to be kept: [QN_PAGE]; NULL: there are none. */
uint64_t *qn_prefix_keep_media(const struct qn_prefix *p, int at, int n);

#endif
