/* Texts as the cache sees them.
 * SPDX-License-Identifier: Apache-2.0 */
#include "engine/prefix.h"

#include "base/hash.h"
#include "base/mem.h"

uint64_t qn_prefix_hash(const struct qn_prefix *p, uint64_t seed, int at, int n)
{
    uint64_t media[QN_PAGE];
    uint64_t key = qn_hash_bytes(seed, p->tok + at, (size_t)n * sizeof *p->tok);
    if (qn_prefix_media(p, at, n, media)) key = qn_hash_bytes(key, media, (size_t)n * sizeof *media);
    return key;
}

uint64_t qn_prefix_key(const struct qn_prefix *p, uint64_t parent_key, int i)
{
    uint64_t key = qn_prefix_hash(p, parent_key, i * QN_PAGE, QN_PAGE);
    return key ? key : 1;
}

bool qn_prefix_media(const struct qn_prefix *p, int at, int n, uint64_t *out)
{
    if (!p->n_span) return false;
    int k = qn_spans_find(p->span, p->n_span, at);
    if (n <= 0 || k == p->n_span || p->span[k].first >= at + n) return false;
    memset(out, 0, (size_t)n * sizeof *out);
    for (; k < p->n_span && p->span[k].first < at + n; k++) {
        const struct qn_media_span *s = &p->span[k];
        int end = QN_MIN(at + n, s->first + s->n_tok);
        for (int i = QN_MAX(at, s->first); i < end; i++) out[i - at] = qn_span_word(s, i - s->first);
    }
    return true;
}

int qn_prefix_common(const struct qn_prefix *p, int at, const struct qn_words *words, int n)
{
    uint64_t own[QN_PAGE];
    QN_CHECK(n <= QN_PAGE);
    int i = n; /* whole pages are mostly the same */
    if (memcmp(p->tok + at, words->tok, (size_t)n * sizeof *words->tok))
        for (i = 0; p->tok[at + i] == words->tok[i];) i++;
    bool has_media = qn_prefix_media(p, at, i, own);
    if (!has_media && !words->media) return i;
    for (int k = 0; k < i; k++)
        if ((has_media ? own[k] : 0) != (words->media ? words->media[k] : 0)) return k;
    return i;
}

uint64_t *qn_prefix_keep_media(const struct qn_prefix *p, int at, int n)
{
    uint64_t media[QN_PAGE] = {0};
    if (!qn_prefix_media(p, at, n, media)) return NULL;
    uint64_t *own = xcalloc(QN_PAGE, sizeof *own);
    memcpy(own, media, (size_t)n * sizeof *own);
    return own;
}
